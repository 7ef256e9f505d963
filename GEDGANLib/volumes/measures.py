"""What can be measured on a case: volumes of its labels, intensities, how its labels hang together.

Latent directions are found by these, the quality report shows them, and ``synthesize --screen`` goes by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .case import Case
from .geometry import spacing_of

COLLAPSED = 0.1
"""Variance between cases, relative to that between real ones, below which they count as all alike."""
PIECE_SHARE = 0.02
"""Of a label's voxels: connected pieces that are smaller are speckle and not counted as pieces."""


@dataclass(frozen=True)
class Measures:
    """Measures of one case.

    :param volumes: of each label, by name, ml.
    :param intensities: mean of each channel, by name, inside all labels; over the whole volume without labels.
    :param pieces: connected pieces of each label (26 neighbours), by name; 0 where the label is not there.
    :param speckle: share of the labelled voxels that lie in pieces too small to count, [0, 1].
    """

    volumes: dict[str, float]
    intensities: dict[str, float]
    pieces: dict[str, int]
    speckle: float

    def named(self) -> dict[str, float]:
        """Volumes and intensities under names that people understand."""
        return {f"volume of {name}": value for name, value in self.volumes.items()} | {
            f"brightness of {name}": value for name, value in self.intensities.items()
        }


def measure(case: Case, with_pieces: bool = True) -> Measures:
    """Measure a case.

    :param with_pieces: count connected pieces too, which takes most of the time.
    """
    voxel = float(np.prod(spacing_of(case.affine))) / 1000
    inside = np.ones(case.image.shape[1:], bool) if case.labels is None else case.labels > 0
    if not inside.any():
        inside = np.ones_like(inside)
    volumes: dict[str, float] = {}
    pieces: dict[str, int] = {}
    speckle = labelled = 0
    if case.labels is not None:
        counts = np.bincount(case.labels.ravel(), minlength=len(case.label_table) + 1)
        for label in case.label_table:
            volumes[label.name] = float(counts[label.index]) * voxel
            if with_pieces:
                sizes = piece_sizes(case.labels == label.index)
                large = sizes >= PIECE_SHARE * max(sizes.sum(), 1)
                pieces[label.name] = int(large.sum())
                speckle += int(sizes[~large].sum())
                labelled += int(sizes.sum())
    names = case.channel_names if len(case.channel_names) == len(case.image) else range(len(case.image))
    return Measures(
        volumes,
        {str(name): float(channel[inside].mean()) for name, channel in zip(names, case.image)},
        pieces,
        speckle / max(labelled, 1),
    )


USUAL = 0.025, 0.975
"""Quantiles of real cases between which a count is usual."""


def usual_pieces(counts: Sequence[int]) -> tuple[int, int]:
    """Fewest and most pieces that a label usually hangs together in where it is there at all; (0, 0) if it never is."""
    there = [count for count in counts if count]
    if not there:
        return 0, 0
    low, high = (np.quantile(there, q, method=method) for q, method in zip(USUAL, ("lower", "higher")))
    return int(low), int(high)


def piece_sizes(mask: np.ndarray) -> np.ndarray:
    """Voxels of each connected piece (26 neighbours in 3D) of a mask, largest first."""
    from scipy import ndimage

    numbered, _ = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return np.sort(np.bincount(numbered.ravel())[1:])[::-1]
