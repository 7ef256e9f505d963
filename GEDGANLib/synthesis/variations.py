"""Variations of scans with a model that knows their population: which alignment, which modes, in the scan's own form.

A scan lies on the template where the alignment of its run says so, or is brought onto it first (see
:mod:`.onto_template`). What is done to it is :mod:`GEDGANLib.alignment.variations`. A variation stems from a patient
and says so: it is treated like their scan.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..alignment.job import Aligned
from ..alignment.lattice import Lattice
from ..alignment.modes import components_of
from ..alignment.runs import RESULT, model_and_run
from ..alignment.transformations import Transformations
from ..alignment.variations import ORDER, Population, Request, Scan, Subject, Variation, background_of
from ..errors import InputError
from ..jobs.events import Progress, quiet
from ..jobs.steps import through
from ..training.request import image_digest
from ..volumes.case import Case, description_of_variation
from ..volumes.pipeline import to_working
from .model_file import Model, load_model, statistical_part
from .onto_template import TemplateProjector
from .statistical import Population as Cases
from .statistical import modes_held_by


@dataclass(frozen=True)
class Place:
    """Where a scan lies on the template.

    :param moved: its transformation alone.
    :param box: affine of the box in its patient, (4, 4), voxel to mm in RAS.
    """

    moved: Transformations
    box: np.ndarray

    @property
    def digest(self) -> str:
        """A short text that changes with the transformation: the same scan lies elsewhere by another alignment."""
        found = hashlib.sha256()
        for tensor in (self.moved.generators, self.moved.velocities):
            found.update(np.ascontiguousarray(tensor.detach().cpu().numpy()))
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Places:
    """Of the cases of an alignment.

    :param places: by the digest of their image on the working grid: a scan is known whatever it is called.
    :param digests: by the names that they have there.
    """

    places: dict[str, Place]
    digests: dict[str, str]

    @classmethod
    def of(cls, run: Path) -> Places:
        """Of a run of ``gedgan align``; none where it was made before alignments said where they lie.

        :raises InputError: it cannot be read.
        """
        aligned = Aligned.load(run / RESULT)
        places = {
            digest: Place(aligned.moved.of([index]), box)
            for index, (digest, box) in enumerate(zip(aligned.images, aligned.boxes))
        }
        return cls(places, dict(zip(aligned.names, aligned.images)))


class Variations:
    """Draws variations of scans.

    :param model: whose plan's method is ``modes``; with its population, where modes are to be made without some cases.
    :param known: where scans lie that are aligned already.
    :raises InputError: a model that was trained and not aligned.
    """

    def __init__(self, model: Model, known: Places | None = None) -> None:
        if model.plan.method != "modes":
            raise InputError(
                f"{model.path} was trained, and knows no alignment that scans could be varied by.",
                "Align your scans (gedgan align DATA -o RUN) and take the model of that run.",
            )
        self.model, self.plan = model, model.plan
        self.known = known or Places({}, {})
        self._projector: TemplateProjector | None = None
        self._populations: dict[frozenset[str], Population] = {}

    @classmethod
    def open(cls, path: Path, device: str = "auto", with_population: bool = False) -> Variations:
        """With the model that a path means, and with where the scans of its run lie.

        :param path: of a run of ``gedgan align``, or of a model of one.
        :param device, with_population: as for :func:`.model_file.load_model`.
        :raises InputError: there is no such model, or it was trained and not aligned.
        """
        found, run = model_and_run(path)
        model = load_model(found, device, with_population=with_population)
        if model.plan.repaints:  # of one that was passed on there is nothing beside it
            model = statistical_part(model)
        return cls(model, None if run is None else Places.of(run))

    @property
    def members(self) -> dict[str, str]:
        """Names of the cases that the modes are of, by the digests of their images; none where the model does not keep
        them, as one for sharing."""
        about = self.model.about.get("population")
        names = about["names"][: about["members"]] if about else []
        return dict(zip(self.model.about.get("trained_images", ()), names))

    def among_modes(self, digests: Iterable[str]) -> frozenset[str]:
        """Which cases of the modes have these images, by their names in the model.

        :raises InputError: the model does not keep its cases, and was made of these scans.
        """
        digests = set(digests)
        members = self.members
        if not members and digests & set(self.known.places):
            raise InputError(
                f"{self.model.path} is for sharing and does not know which of its directions are of which scan: it can "
                "leave none of them out.",
                "Take the model.safetensors of the alignment, or leave --with-real out.",
            )
        return frozenset(members[digest] for digest in digests if digest in members)

    def population(self, left_out: frozenset[str] = frozenset()) -> Population:
        """Its modes, made without the images of some cases.

        :raises InputError: hardly any case is left.
        """
        left_out = left_out & frozenset(self.members.values())
        if left_out not in self._populations:
            generator = self.model.generator
            modes = modes_held_by(generator)
            if left_out:
                modes = self._modes_without(modes, left_out)
            self._populations[left_out] = Population.of(modes, generator.template, self.plan.extent)
        return self._populations[left_out]

    def _modes_without(self, modes: Any, left_out: frozenset[str]) -> Any:
        if self.model.population is None:
            raise ValueError("the model was loaded without its population")
        cases = Cases.of(self.model.population, self.model.about["population"])
        rest = [index for index in range(cases.members) if cases.names[index] not in left_out]
        if len(rest) < 2:
            raise InputError(
                f"Without {len(left_out)} case(s) to validate on, {len(rest)} are left in {self.model.path}, of which "
                "no directions can be made.",
                "Align more scans, segmented or not, or leave --with-real out.",
            )
        return modes.of_components(components_of(cases.products, rest), cases.scores)

    def working(self, case: Case) -> Case:
        """A scan on the model's working grid.

        :raises InputError: other channels than the model's.
        """
        if len(case.image) != len(self.plan.channels):
            raise InputError(
                f"{case.name} has {len(case.image)} channel(s), the model takes {len(self.plan.channels)}.",
                "Choose scans like those that were aligned.",
            )
        return to_working(case, self.plan)

    def place(self, case: Case, progress: Progress = quiet, working: Case | None = None) -> tuple[Place, str]:
        """Where a scan lies on the template, and the digest of its image; it is aligned where that is not known.

        :param working: see :meth:`working`; made where it is not given.
        :raises InputError: other channels than the model's.
        """
        return through(self.placing(case, working), lambda said: progress(*said, case.name))

    def placing(self, case: Case, working: Case | None = None) -> Generator[tuple[int, int], None, tuple[Place, str]]:
        """As :meth:`place`, in steps: yields iterations done and in all."""
        if working is None:
            working = self.working(case)
        digest = image_digest(working)  # as the alignment has it
        if digest in self.known.places:
            return self.known.places[digest], digest
        if self._projector is None:
            self._projector = TemplateProjector(self.model)
        moved, *_ = yield from self._projector.aligning(working)
        return Place(moved, working.affine), digest

    def subject(
        self, place: Place, affine: np.ndarray, shape: Sequence[int], left_out: frozenset[str] = frozenset(), **hurry
    ) -> Subject:
        """A scan on some grid of its patient, to be varied.

        :param affine, shape: of the grid: (4, 4), voxel to mm in RAS, and voxels.
        :param left_out: cases whose images the modes are made without.
        :param hurry: of :class:`GEDGANLib.alignment.variations.Subject`.
        """
        population = self.population(left_out)
        device = self.model.generator.template.device
        lattice = Lattice.of(affine, shape, place.box, self.plan.grid.shape)
        return Subject(population, place.moved.to(device), lattice, **hurry)

    def scan(
        self, place: Place, case: Case, left_out: frozenset[str] = frozenset(), order: int = ORDER, **hurry
    ) -> Scan:
        """A scan that variations are read off, see :meth:`subject`."""
        subject = self.subject(place, case.affine, case.image.shape[1:], left_out, **hurry)
        return Scan(subject, case.image, case.labels, self.air(case), order)

    def air(self, case: Case) -> list[float | None]:
        """Intensity of air in each channel; None where it is on an absolute scale."""
        found: list[float | None] = []
        for channel, voxels in zip(self.plan.channels, case.image):
            flat = background_of(voxels)
            darkest = float(channel.range_of(voxels)[0]) if flat is None else flat
            found.append(None if channel.mapping == "window" else darkest)
        return found


def key_of(seed: int, name: str, index: int) -> tuple[int, int, int]:
    """What the random numbers of a variation begin with: they depend on no other case."""
    return seed, zlib.crc32(name.encode("utf-8")), index


def changed(case: Case, scan: Scan, variation: Variation, name: str) -> Case:
    """A variation as a case, on the scan's grid, of its type, with its channels and labels."""
    return through(changing(case, scan, variation, name))


def changing(case: Case, scan: Scan, variation: Variation, name: str) -> Generator[float, None, Case]:
    """As :func:`changed`, in steps: yields the share that is done."""
    image = np.empty(case.image.shape, np.float32)
    labels = None if case.labels is None else np.empty_like(case.labels)
    slabs = scan.slabs()
    for number, slab in enumerate(slabs):
        image[:, slab], part = scan.varied(variation, slab)
        if labels is not None:
            labels[slab] = part
        yield (number + 1) / len(slabs)
    image = case.in_its_kinds(image)
    return replace(case, name=name, image=image, labels=labels, description=description_of_variation(case.name))


def origin_of(
    model: Model, name: str, digest: str, place: Place, seed: int, index: int, request: Request,
    left_out: frozenset[str],
) -> dict[str, Any]:  # fmt: skip
    """What it takes to make a variation again, for a manifest.

    :param name, digest: of the scan.
    """
    told = {
        "variation_of": name, "scan_digest": digest, "alignment_digest": place.digest, "seed": seed, "index": index,
        "strength": request.strength, "look": request.look, "model": model.path.name, "model_digest": model.digest,
        "device": model.generator.template.device.type, "library_version": __version__,
    }  # fmt: skip
    if request.sliders is not None:
        told["along_modes"] = [round(float(value), 5) for value in request.sliders]
    return told | ({"modes_without": sorted(left_out)} if left_out else {})


def told_of(variation: Variation) -> dict[str, Any]:
    """What came of a draw, for a manifest."""
    found: dict[str, Any] = {"smallest_jacobian": round(variation.smallest_jacobian, 4), "draws": variation.draws}
    return found | ({"kept": round(variation.kept, 4)} if variation.kept < 1 else {})


def request_of(origin: Mapping[str, Any]) -> Request:
    """The request that :func:`origin_of` told of."""
    along = origin.get("along_modes")
    return Request(float(origin["strength"]), float(origin["look"]), None if along is None else np.array(along))
