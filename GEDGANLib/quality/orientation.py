"""Statistics of the eigen-directional field: which ways surfaces and tubes run, and how much is which.

Real and synthesized cases that look alike may still differ in how their structure runs; a blurred generator has fewer
surfaces, a noisy one more blobs. Histograms count voxels with structure alone, each by its energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..structure.shape import ShapeField

BINS = 12
LARGEST_SHARE = 0.25
"""Voxels that are counted: those with the most structure."""


@dataclass(frozen=True)
class OrientationStatistics:
    """Histograms over cases, each summing to 1.

    :param elevation: of the direction across surfaces above the axial plane, 0 to 90 degrees, as shares of the sphere.
    :param azimuth: of the same within the axial plane, 0 (left to right) to 180 degrees.
    :param linear, planar, spherical: of the three weights, 0 to 1.
    """

    elevation: np.ndarray
    azimuth: np.ndarray
    linear: np.ndarray
    planar: np.ndarray
    spherical: np.ndarray

    def distances(self, other: OrientationStatistics) -> dict[str, float]:
        """Total variation distance of each histogram from another's: 0 the same, 1 nothing in common."""
        return {
            name: 0.5 * float(np.abs(getattr(self, name) - getattr(other, name)).sum())
            for name in ("elevation", "azimuth", "linear", "planar", "spherical")
        }


def orientation_statistics(
    images: Sequence[np.ndarray], spacing: tuple[float, ...], sigma: float, rho: float
) -> OrientationStatistics:
    """Statistics of the first channel of cases.

    :param images: N of (C, *grid), three spatial axes along right, anterior, superior.
    :param spacing: mm.
    :param sigma, rho: scales of the structure tensor, mm.
    """
    import torch

    field = ShapeField(spacing=spacing, sigma=sigma, rho=rho, tau=1.0)
    counts = {name: np.zeros(BINS) for name in ("elevation", "azimuth", "linear", "planar", "spherical")}
    for image in images:
        maps = field.by_blocks(torch.from_numpy(np.array(image[:1], np.float32))[None])[0].flatten(1).numpy()
        energy = maps[3]
        kept = energy >= np.quantile(energy, 1 - LARGEST_SHARE)
        kept &= energy > 0
        weight, direction = energy[kept], maps[4:7, kept]
        height = np.abs(direction[2])  # uniform over a sphere, so bins are equal shares of it
        azimuth = np.mod(np.arctan2(direction[1], direction[0]), np.pi) / np.pi
        lying = weight * np.sqrt(np.clip(1 - height**2, 0, 1))  # upright ones have no azimuth
        for name, values, weights in (
            ("elevation", height, weight),
            ("azimuth", azimuth, lying),
            ("linear", maps[0, kept], weight),
            ("planar", maps[1, kept], weight),
            ("spherical", maps[2, kept], weight),
        ):
            histogram, _ = np.histogram(values, BINS, (0, 1), weights=weights)
            counts[name] += histogram / max(histogram.sum(), 1e-30)
    return OrientationStatistics(**{name: values / max(values.sum(), 1e-30) for name, values in counts.items()})
