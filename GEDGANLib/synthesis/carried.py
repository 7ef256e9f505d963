"""Segmentations of some scans carried to others, on these scans' own voxels, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..alignment.carrying import SOFTNESSES, Laid, bringing, carrying, dice, electing
from ..alignment.job import fields_of_view, registration_shape, shrunk
from ..alignment.lattice import Lattice
from ..alignment.registration import Settings
from ..alignment.voting import SOFTNESS
from ..errors import InputError
from ..jobs.events import Progress, quiet
from ..jobs.steps import through
from ..volumes.case import Case, Label, description_of_carried
from .variations import Variations

FEWEST_TO_LEARN_FROM = 3
"""Sources from which is learned how much the likest voxels are to count for more; of fewer it is not known."""


@dataclass(frozen=True)
class CarriedCase:
    """A scan with the segmentation that was carried to it.

    :param case: on its own voxels.
    :param share: of the votes that its label has at each voxel, (*own voxels), in [0, 1].
    :param trust: Dice coefficient that these promise, in [0, 1], as a mean over labels, nan where there are none.
    :param by_label: the same of each label, (label_count,).
    """

    case: Case
    share: np.ndarray
    trust: float
    by_label: np.ndarray


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
        place, _ = yield from self.variations.placing(case, working)
        lattice = Lattice.of(case.affine, case.image.shape[1:], place.box, self.plan.grid.shape)
        box = fields_of_view([working], self.plan.extent).to(self.device)
        image = shrunk([working], self.shape, self.device.type)
        return Laid(case.name, place.moved.to(self.device), lattice, image, box, case.image, case.labels)

    def take(self, sources: Sequence[Laid], progress: Progress = quiet) -> None:
        """Take sources; of three and more, each is carried to from the others to learn how to weigh votes.

        :raises InputError: none of them is segmented.
        """
        through(self.taking(sources), lambda said: progress(*said))

    def taking(self, sources: Sequence[Laid]) -> Generator[tuple[float, int, str], None, None]:
        """As :meth:`take`, in steps: yields how many are done, of how many, and which one is next."""
        self.sources = [source for source in sources if source.labels is not None]
        if not self.sources:
            raise InputError("No scan to carry a segmentation from is segmented.", "Segment one of them.")
        self.softness, count = SOFTNESS, len(self.labels)
        if len(self.sources) < FEWEST_TO_LEARN_FROM:
            return
        found = np.zeros(len(SOFTNESSES))
        for number, target in enumerate(self.sources):
            others = [source for source in self.sources if source is not target]
            steps = bringing(target, others, self.settings)
            while True:
                try:
                    share = next(steps)
                except StopIteration as stop:
                    brought = stop.value
                    break
                yield number + share, len(self.sources), target.name
            for index, softness in enumerate(SOFTNESSES):
                made = through(electing(brought, target.lattice.spacing, count, softness))
                found[index] += _mean(
                    np.array([dice(made.labels, target.labels, label.index) for label in self.labels])
                )
                yield number + 1, len(self.sources), target.name
        self.softness = SOFTNESSES[int(found.argmax())]

    def carried(self, case: Case, laid: Laid) -> CarriedCase:
        """The segmentation of a target.

        :param laid: the same case.
        """
        return through(self.carrying(case, laid))

    def carrying(self, case: Case, laid: Laid) -> Generator[float, None, CarriedCase]:
        """As :meth:`carried`, in steps: yields the share that is done."""
        made = yield from carrying(laid, self.sources, self.settings, len(self.labels), self.softness)
        sources = [source.name for source in self.sources]
        trust = _mean(made.trust)
        told = {
            "segmentation_carried_from": sources, "model_digest": self.variations.model.digest,
            "trust": round(trust, 4), "library_version": __version__,
        }  # fmt: skip
        told |= {f"trust of {label.name}": round(float(value), 4) for label, value in zip(self.labels, made.trust)}
        about = description_of_carried(case.name, sources)
        made_case = replace(case, labels=made.labels, label_table=self.labels, provenance=told, description=about)
        share = np.ones(made.labels.shape, np.float32)  # nobody votes for anything else far from all labels
        share[made.box] = made.share.max(0, initial=0)
        return CarriedCase(made_case, share, trust, made.trust)


def numbered_alike(cases: Sequence[Case]) -> tuple[list[Case], tuple[Label, ...]]:
    """Cases whose labels have one table, by their names, in the order they are met."""
    table: dict[str, Label] = {}
    found = []
    for case in cases:
        numbers = np.zeros(256, np.uint8)
        for label in case.label_table:
            table.setdefault(label.name, replace(label, index=len(table) + 1, value=len(table) + 1))
            numbers[label.index] = table[label.name].index
        found.append(case if case.labels is None else replace(case, labels=numbers[case.labels]))
    labels = tuple(table.values())
    return [replace(case, label_table=labels) for case in found], labels


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
                f"with it, the {len(names)} scans are {100 * nearer:.0f} % nearer to one that is segmented than they "
                "are now, more than with any other"
            )
        else:
            reason = f"it lies in the middle of all {len(names)} scans"
        found.append(Suggestion(names[chosen], reason))
        known.append(chosen)
    return found
