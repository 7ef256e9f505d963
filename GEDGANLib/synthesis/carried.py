"""Segmentations of some scans carried to others, on these scans' own voxels, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..alignment.carrying import POWERS, Laid, agreement, carried_back, carry, dice, fused
from ..alignment.job import fields_of_view, registration_shape, shrunk
from ..alignment.lattice import Lattice
from ..alignment.registration import Settings
from ..errors import InputError
from ..jobs.events import Progress, quiet
from ..volumes.case import Case
from .variations import Variations

FEWEST_FOR_POWER = 3
"""Sources from which is learned how much the likest ones are to count for more; fewer have equal votes."""


@dataclass(frozen=True)
class CarriedCase:
    """A scan with the segmentation that was carried to it.

    :param case: on its own voxels.
    :param share: of the votes that its label has at each voxel, (*own voxels), in [0, 1].
    :param trust: in [0, 1]: of several sources their agreement, of one what is left of its own segmentation when it is
        carried there and back; as a mean over labels, nan where there are none.
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
        self.power = 0.0

    def laid(self, case: Case, progress: Progress = quiet) -> Laid:
        """A scan where it lies on the template; it is aligned where that is not known.

        :raises InputError: other channels than the model's.
        """
        working = self.variations.working(case)
        place, _ = self.variations.place(case, progress, working)
        lattice = Lattice.of(case.affine, case.image.shape[1:], place.box, self.plan.grid.shape)
        box = fields_of_view([working], self.plan.extent).to(self.device)
        image = shrunk([working], self.shape, self.device.type)
        return Laid(case.name, place.moved.to(self.device), lattice, image, box, case.labels)

    def take(self, sources: Sequence[Laid], progress: Progress = quiet) -> None:
        """Take sources; of three and more, each is carried to from the others to learn how to weigh them.

        :raises InputError: none of them is segmented.
        """
        self.sources = [source for source in sources if source.labels is not None]
        if not self.sources:
            raise InputError("No scan to carry a segmentation from is segmented.", "Segment one of them.")
        self.power = 0.0
        if len(self.sources) < FEWEST_FOR_POWER:
            return
        found = np.zeros(len(POWERS))
        for number, target in enumerate(self.sources):
            progress(number, len(self.sources), target.name)
            others = [source for source in self.sources if source is not target]
            made = carry(target, others, self.settings)
            for index, power in enumerate(POWERS):
                labels, _ = fused(made, power, len(self.labels))
                found[index] += self._mean(
                    np.array([dice(labels, target.labels, label.index) for label in self.labels])
                )
        progress(len(self.sources), len(self.sources), "")
        self.power = POWERS[int(found.argmax())]

    def carried(self, case: Case, laid: Laid) -> CarriedCase:
        """The segmentation of a target.

        :param laid: the same case.
        """
        made, count = carry(laid, self.sources, self.settings), len(self.labels)
        labels, share = fused(made, self.power, count)
        if len(self.sources) > 1:
            by_label = agreement(made, count)
        else:
            by_label = carried_back(laid, labels, self.sources[0], self.settings, count)
        sources = [source.name for source in self.sources]
        trust = self._mean(by_label)
        told = {
            "segmentation_carried_from": sources, "model_digest": self.variations.model.digest,
            "trust": round(trust, 4), "library_version": __version__,
        }  # fmt: skip
        told |= {f"trust of {label.name}": round(float(value), 4) for label, value in zip(self.labels, by_label)}
        about = f"{case.name}, its segmentation carried from {_few(sources)} by GED-GAN {__version__}"
        made_case = replace(case, labels=labels, label_table=self.labels, provenance=told, description=about)
        return CarriedCase(made_case, share, trust, by_label)

    @staticmethod
    def _mean(values: np.ndarray) -> float:
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


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
    """Which scans to segment next: first the one in the middle, then ever the one least like any that is segmented.

    :param names: of all scans.
    :param coefficients: of each along the components of the alignment, (N, K), see
        :class:`GEDGANLib.alignment.modes.Components`.
    :param segmented: names of those that are.
    :param count: suggestions at most.
    """
    apart = torch.cdist(torch.from_numpy(coefficients), torch.from_numpy(coefficients)).numpy()
    usual = float(np.median(apart[np.triu_indices(len(names), 1)]))
    known = [index for index, name in enumerate(names) if name in segmented]
    found: list[Suggestion] = []
    while len(found) < min(count, len(names) - len(segmented & set(names))):
        left = [index for index in range(len(names)) if index not in known]
        if not known:
            chosen = min(left, key=lambda index: apart[index].mean())
            reason = f"it lies in the middle of all {len(names)} scans"
        else:
            near = {index: apart[index, known].min() for index in left}
            chosen = max(left, key=lambda index: near[index])
            reason = (
                f"of all scans it is the least like any that is segmented, {near[chosen] / usual:.1f} times as far "
                "from the nearest of them as two scans usually are from each other"
            )
        found.append(Suggestion(names[chosen], reason))
        known.append(chosen)
    return found
