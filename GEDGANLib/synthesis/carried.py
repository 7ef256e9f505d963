"""Segmentations of some scans carried to others, on these scans' own voxels, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..alignment.carrying import SOFTNESSES, Carried, Laid, bringing, carrying, dice, electing
from ..alignment.job import fields_of_view, registration_shape, shrunk
from ..alignment.lattice import Lattice
from ..alignment.registration import Settings
from ..alignment.voting import SOFTNESS, mean_trust, told_trust
from ..errors import InputError
from ..jobs.events import Progress, quiet
from ..jobs.steps import part_of, through
from ..volumes.case import Case, Label, description_of_carried, numbered_by
from .variations import Variations

FEWEST_TO_LEARN_FROM = 3
"""Sources from which is learned how much the likest voxels are to count for more; of fewer it is not known."""


@dataclass(frozen=True)
class CarriedCase:
    """A scan with the segmentation that was carried to it.

    :param case: on its own voxels.
    :param votes: of all labels, where there are any.
    :param trust: Dice coefficient that these promise, in [0, 1], as a mean over labels, 0 where nothing came.
    """

    case: Case
    votes: Carried
    trust: float

    def share_of(self, label: int) -> np.ndarray:
        """Share of the votes for a label, 0 being the background, (*own voxels) float32."""
        share = np.full(self.votes.labels.shape, float(label == 0), np.float32)  # nobody votes far from all labels
        share[self.votes.box] = self.votes.share[label]
        return share


class Carrier:
    """Carries the segmentations of sources to targets.

    :param variations: knows the model, and where scans lie on its template.
    :param labels: of all sources.
    """

    def __init__(self, variations: Variations, labels: Sequence[Any]) -> None:
        self.variations, self.plan, self.labels = variations, variations.plan, tuple(labels)
        self.settings = Settings.of(self.plan.alignment)
        self.device = variations.model.generator.template.device
        self.shape = registration_shape(self.plan.grid.shape, self.plan.extent, self.device.type)
        self.sources: list[Laid] = []
        self.softness = SOFTNESS

    def laid(self, case: Case, progress: Progress = quiet) -> Laid:
        """A scan where it lies on the template; it is aligned where that is not known.

        :raises InputError: other channels than the model's.
        """
        return through(self.laying(case), lambda said: progress(*said, case.name))

    def laying(self, case: Case) -> Generator[tuple[int, int], None, Laid]:
        """As :meth:`laid`, in steps: yields iterations done and in all."""
        working = self.variations.working(case)
        place, digest = yield from self.variations.placing(case, working)
        lattice = Lattice.of(case.affine, case.image.shape[1:], place.box, self.plan.grid.shape)
        box = fields_of_view([working], self.plan.extent).to(self.device)
        image = shrunk([working], self.shape, self.device.type)
        return Laid(case.name, place.moved.to(self.device), lattice, image, box, case.image, case.labels, digest)

    def take(self, sources: Sequence[Laid], progress: Progress = quiet) -> None:
        """Take sources; of three and more, each is carried to from the others to learn how to weigh votes.

        :raises InputError: none of them is segmented.
        """
        through(self.taking(sources), lambda said: progress(*said))

    def taking(self, sources: Sequence[Laid]) -> Generator[tuple[float, int, str], None, None]:
        """As :meth:`take`, in steps: yields how many are done, of how many, and which one is next."""
        self.sources = [source for source in sources if source.labels is not None and source.labels.any()]
        if not self.sources:
            raise InputError("No scan to carry a segmentation from is segmented.", "Segment one of them.")
        self.softness = SOFTNESS
        if len(self.sources) < FEWEST_TO_LEARN_FROM:
            return
        found = []
        for number, target in enumerate(self.sources):
            others = [source for source in self.sources if source is not target]
            steps = self._trying(target, others)
            while True:
                try:
                    yield number + next(steps), len(self.sources), target.name
                except StopIteration as stop:
                    found.append([self._dice(made.labels, target.labels) for made in stop.value])
                    break
        self.softness = SOFTNESSES[int(np.nanmean(found, 0).argmax())]

    def _trying(self, target: Laid, sources: Sequence[Laid]) -> Generator[float, None, list[Carried]]:
        """Carry to a target with each softness, in steps: yields the share that is done."""
        brought = yield from part_of(bringing(target, sources, self.settings), 0.0, 0.5)
        steps = electing(brought, target.lattice.spacing, len(self.labels), SOFTNESSES)
        return (yield from part_of(steps, 0.5, 0.5))

    def _dice(self, made: np.ndarray, truth: np.ndarray) -> float:
        return _mean(np.array([dice(made, truth, label.index) for label in self.labels]))

    def carried(self, case: Case, laid: Laid) -> CarriedCase:
        """The segmentation of a target.

        :param laid: the same case.
        """
        return through(self.carrying(case, laid))

    def carrying(self, case: Case, laid: Laid) -> Generator[float, None, CarriedCase]:
        """As :meth:`carried`, in steps: yields the share that is done.

        :raises InputError: it is the only source itself.
        """
        others = [source for source in self.sources if source.digest != laid.digest]
        if not others:
            raise InputError(f"{case.name} is the scan that would be carried from.", "Carry to another one.")
        made = yield from carrying(laid, others, self.settings, len(self.labels), self.softness)
        sources = [source.name for source in others]
        told = {
            "segmentation_carried_from": sources, "model_digest": self.variations.model.digest,
            "library_version": __version__,
        }  # fmt: skip
        told |= told_trust([label.name for label in self.labels], made.trust)
        about = description_of_carried(case.name, sources)
        made_case = replace(case, labels=made.labels, label_table=self.labels, provenance=told, description=about)
        return CarriedCase(made_case, made, mean_trust(made.trust))


def numbered_alike(cases: Sequence[Case]) -> tuple[list[Case], tuple[Label, ...]]:
    """Cases whose labels have one table, by their names, in the order they are met.

    :raises InputError: more than 255 names.
    """
    table: dict[str, Label] = {}
    for case in cases:
        for label in case.label_table:
            table.setdefault(label.name, replace(label, index=len(table) + 1, value=len(table) + 1))
    labels = tuple(table.values())
    if len(labels) > 255:
        raise InputError(
            f"The segmentations have {len(labels)} different segment names, more than 255.",
            "Give the same structure the same name in every segmentation.",
        )
    index_of = {label.name: label.index for label in labels}
    found = [None if case.labels is None else numbered_by(case, index_of) for case in cases]
    return [replace(case, labels=each, label_table=labels) for case, each in zip(cases, found)], labels


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


@dataclass(frozen=True)
class Suggestion:
    """A scan to segment next.

    :param reason: for people.
    """

    name: str
    reason: str


def next_to_segment(
    names: Sequence[str], coefficients: np.ndarray, segmented: set[str], count: int
) -> list[Suggestion]:
    """Which scans to segment next: ever the one with which all scans are nearest to one that is segmented, as a sum of
    their distances. The first one is the medoid (Kaufman and Rousseeuw, *Finding groups in data*, 1990, chapter 2: what
    is built there is this). The scan farthest from all that are segmented would be one that is like no other, and was
    measured to be worse than chance.

    :param names: of all scans.
    :param coefficients: of each along the components of the alignment, (N, K), see
        :class:`GEDGANLib.alignment.modes.Components`.
    :param segmented: names of those that are.
    :param count: suggestions at most.
    """
    apart = torch.cdist(torch.from_numpy(coefficients), torch.from_numpy(coefficients)).numpy()
    known = [index for index, name in enumerate(names) if name in segmented]
    found: list[Suggestion] = []
    while len(found) < min(count, len(names) - len(segmented & set(names))):
        left = [index for index in range(len(names)) if index not in known]
        near = apart[:, known].min(1) if known else np.full(len(names), np.inf)
        sums = [np.minimum(near, apart[:, index]).sum() for index in left]
        chosen = left[int(np.argmin(sums))]
        if known:
            nearer = 1 - min(sums) / near.sum()
            reason = (
                f"with it, the {len(names)} scans are {100 * nearer:.0f} % nearer to one that is segmented than "
                f"{'with those above' if found else 'they are now'}, more than with any other"
            )
        else:
            reason = f"it lies in the middle of all {len(names)} scans"
        found.append(Suggestion(names[chosen], reason))
        known.append(chosen)
    return found
