"""Scans on the grid of a segmentation network, and segmentations back on their own voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..errors import InputError
from ..volumes.case import Case
from ..volumes.geometry import resample, spacing_of, to_closest_ras, working_affine
from ..volumes.pipeline import map_intensities, resample_labels
from .examples import Example
from .plan import NetworkPlan

MOST_VOXELS = 1_000_000_000
"""Of a scan on the grid of a network."""


@dataclass(frozen=True)
class Placed:
    """A scan on the grid of a network.

    :param case: there, in its own units.
    :param ranges: of its channels, what -1 and 1 stand for.
    """

    case: Case
    ranges: list[tuple[float, float]]

    def of(self, case: Case) -> Placed:
        """Another case on the same grid, of the same intensities, as a variation."""
        return replace(self, case=case)

    def example(self, weight: float = 1.0) -> Example:
        """What a network learns from; of a scan without segmentation, background everywhere."""
        image, labels = torch.from_numpy(map_intensities(self.case.image, self.ranges)), self.case.labels
        labels = np.zeros(image.shape[1:], np.uint8) if labels is None else labels.astype(np.uint8)
        return Example(image.half(), torch.from_numpy(labels), weight=weight)


def placed(case: Case, plan: NetworkPlan) -> Placed:
    """Bring a scan to the grid of a network.

    :raises InputError: other channels than the network's, or a size that cannot be.
    """
    if len(case.image) != len(plan.channels):
        raise InputError(
            f"{case.name} has {len(case.image)} channel(s), the network takes {len(plan.channels)}.",
            "Choose scans like those that it learned from.",
        )
    image, affine = to_closest_ras(case.image, case.affine)
    sides = image.shape[1:] * spacing_of(affine) / plan.spacing
    shape = tuple(max(round(float(side)), 1) for side in sides)
    if math.prod(shape) > MOST_VOXELS:
        reach = " x ".join(f"{side:.0f}" for side in image.shape[1:] * spacing_of(affine))
        raise InputError(
            f"{case.name} would have {' x '.join(map(str, shape))} voxels for the network: it says that it reaches "
            f"{reach} mm.",
            "Correct the voxel size in its header, or leave it out.",
        )
    target = working_affine(affine, image.shape[1:], shape, plan.spacing)
    labels = None
    if case.labels is not None:
        labels = resample_labels(to_closest_ras(case.labels, case.affine)[0], affine, target, shape)
    ranges = [channel.range_of(voxels) for channel, voxels in zip(plan.channels, image)]
    return Placed(replace(case, image=resample(image, affine, target, shape), labels=labels, affine=target), ranges)


def share_on(share: np.ndarray, affine: np.ndarray, on: Case) -> np.ndarray:
    """Probabilities (*voxels) of another grid on that of a case, float32."""
    return resample(share[None], affine, on.affine, on.image.shape[1:])[0]


def on_own_voxels(shares: np.ndarray, at: Case, case: Case) -> np.ndarray:
    """The likeliest label of each voxel of a scan, (*own voxels) uint8.

    :param shares: probability of each label, background first, (label_count + 1, *grid of the network).
    :param at: the scan on the network's grid.
    """
    shape = case.image.shape[1:]
    found, best = np.zeros(shape, np.uint8), None
    for label, share in enumerate(shares):  # one after the other: all at once would not fit for large scans
        own = resample(np.asarray(share, np.float32)[None], at.affine, case.affine, shape)[0]
        if best is None:
            best = own
            continue
        found[own > best] = label
        best = np.maximum(best, own)
    return found
