"""How alike the cases of a set are to each other: multi-scale structural similarity of pairs.

Pairwise MS-SSIM says nothing alone: it is compared with that of real pairs. Far above it the cases are too much alike;
far below, they are noise. (Wang, Simoncelli and Bovik, Asilomar 2003; as a measure of diversity: Odena, Olah and
Shlens, ICML 2017, section 4.2.) The measure is MONAI's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

KERNEL = 7
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, finest first (Wang et al., section 3.2); of fewer scales the first, made to sum to 1."""
PAIRS = 100
MOST_VALUES = 8 * 64**3
"""Voxels times channels of the first cases of pairs that are compared at once, which takes some twenty times that."""


def levels_of(shape: tuple[int, ...]) -> int:
    """Scales that a grid has room for; 0 for none. MONAI asks for more room than the halvings need."""
    levels = 0
    while levels < len(WEIGHTS):
        room = min(min(shape) // 2**levels, min(shape) // max(levels, 1) ** 2)
        if room < KERNEL:
            break
        levels += 1
    return levels


def pairwise_similarity(images: Sequence[np.ndarray], seed: int = 0, pairs: int = PAIRS) -> np.ndarray:
    """MS-SSIM of random pairs of different cases.

    :param images: at least 2 of (C, *grid) in [-1, 1].
    :returns: (pairs,), 1 for equal images; fewer where there are fewer pairs.
    :raises ValueError: fewer than 2 cases, or a side of the grid below :data:`KERNEL` voxels.
    """
    import torch
    from monai.metrics import MultiScaleSSIMMetric

    grid = images[0].shape[1:] if len(images) else ()
    levels = levels_of(grid) if grid else 0
    if len(images) < 2 or not levels:
        raise ValueError(f"structural similarity needs 2 cases of at least {KERNEL} voxels a side")
    weights = np.array(WEIGHTS[:levels])
    metric = MultiScaleSSIMMetric(
        spatial_dims=len(grid), data_range=2.0, kernel_size=KERNEL, weights=tuple(weights / weights.sum())
    )
    random = np.random.default_rng(seed)
    every = [(i, j) for i in range(len(images)) for j in range(i)]
    chosen = random.permutation(len(every))[:pairs]
    values = []
    at_once = min(max(MOST_VALUES // images[0].size, 1), 8)
    for part in np.array_split(chosen, math.ceil(len(chosen) / at_once)):
        first, second = (torch.from_numpy(np.stack([images[every[k][side]] for k in part])) for side in (0, 1))
        values.append(metric(first.float(), second.float()).flatten().numpy())
    return np.nan_to_num(np.concatenate(values))
