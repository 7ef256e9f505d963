r"""Volumes and fields read off between their voxels.

All grids of an alignment, coarse or fine, cover the same box, whose centre is 0 and whose sides are ``extent`` mm.
Positions are in mm from that centre, one component an array axis, so that no grid needs to know of another's voxels.
The box of a grid ends at the outer edges of its voxels (``align_corners=False``); beyond it the edge is repeated.

Linear interpolation is a low-pass filter: of the power near Nyquist's frequency it leaves half. What leaves the program
is therefore interpolated by cubic B-splines (Unser et al., *B-spline signal processing*, IEEE Transactions on Signal
Processing 41(2), 1993): :math:`x(p)=\sum_k c_k\,\beta^3(p-k)`, with coefficients c of which the spline passes through
the voxels. Along one axis the four weights are two linear interpolations (Sigg and Hadwiger, *Fast third-order texture
filtering*, GPU Gems 2, 2005), so in 3D eight calls of PyTorch's linear sampler are one cubic one, on any device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..structure.tensor import apply_along


def spacing_of(shape: Sequence[int], extent: Sequence[float]) -> tuple[float, ...]:
    """Voxel size of a grid over the box, mm."""
    return tuple(side / count for side, count in zip(extent, shape))


def coarser_shape(shape: Sequence[int], extent: Sequence[float], coarseness: float, fewest: int = 4) -> tuple[int, ...]:
    """A grid over the box whose voxels are ``coarseness`` times as large as the shortest side of those of ``shape``:
    equally large along all axes, as far as ``shape`` has them.

    :param fewest: voxels along an axis, where ``shape`` has as many.
    """
    spacing = min(spacing_of(shape, extent)) * coarseness
    return tuple(min(max(round(side / spacing), fewest), count) for side, count in zip(extent, shape))


def shape_of_at_most(voxels: int, shape: Sequence[int], extent: Sequence[float]) -> tuple[int, ...]:
    """The finest :func:`coarser_shape` of at most so many voxels; ``shape`` where that has no more, and equal sides."""
    coarseness = 1.0
    while math.prod(fitting := coarser_shape(shape, extent, coarseness)) > voxels:
        coarseness *= 1.02
    return fitting


def identity(shape: Sequence[int], extent: Sequence[float], like: Tensor) -> Tensor:
    """Positions of the voxels of a grid over the box, mm, (1, D, *shape), on the device and of the type of ``like``."""
    # In double precision on the CPU first: Apple's GPUs have none.
    axes = [
        (((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5) * side).to(like)
        for count, side in zip(shape, extent)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _as_grid(positions: Tensor, extent: Sequence[float]) -> Tensor:
    """Positions as PyTorch's sampler wants them: last axis first, in the last dimension, the box from -1 to 1."""
    scale = positions.new_tensor([2 / side for side in extent]).flip(0)
    return positions.flip(1).movedim(1, -1) * scale


def sample_linear(volume: Tensor, positions: Tensor, extent: Sequence[float], outside: str = "border") -> Tensor:
    """Linear interpolation.

    :param volume: (N, C, *grid) over the box.
    :param positions: (N, D, *spatial), mm.
    :param outside: what lies beyond the box: ``border`` repeats its edge, ``zeros`` is 0.
    :returns: (N, C, *spatial).
    """
    grid = _as_grid(positions, extent)
    return functional.grid_sample(volume, grid, mode="bilinear", padding_mode=outside, align_corners=False)


@lru_cache(maxsize=64)
def _shares_matrix(count: int, coarse: int) -> Tensor:
    """Share of each of ``count`` voxels in each of ``coarse`` larger ones over the same box, rows of sum 1; float64."""
    edges = torch.arange(coarse + 1, dtype=torch.float64) * count / coarse
    index = torch.arange(count, dtype=torch.float64)
    ends = torch.minimum(edges[1:, None], index + 1) - torch.maximum(edges[:-1, None], index)
    return ends.clamp_min(0) * coarse / count


def shrink(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Means over the larger voxels of a coarser grid over the same box, (N, C, *shape); exact where sides do not divide
    each other, where PyTorch's own takes whole voxels and moves them by up to half of one."""
    for axis, (count, coarse) in enumerate(zip(volume.shape[2:], shape)):
        if count != coarse:
            volume = apply_along(volume, _shares_matrix(count, coarse).to(volume), axis)
    return volume


@lru_cache(maxsize=64)
def _coefficients_matrix(count: int) -> Tensor:
    """Values at ``count`` voxels -> coefficients of the cubic B-spline through them, mirrored at the outer voxels'
    centres; (count, count) float64."""
    if count == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    spline = torch.zeros(count, count, dtype=torch.float64)
    index = torch.arange(count)
    spline[index, index] = 4 / 6
    spline[index[1:], index[:-1]] = 1 / 6
    spline[index[:-1], index[1:]] = 1 / 6
    spline[0, 1] = spline[-1, -2] = 2 / 6
    return torch.linalg.inv(spline)


@lru_cache(maxsize=64)
def spline_matrix(count: int, fine: int) -> Tensor:
    """Values at ``count`` voxels -> the cubic B-spline through them at ``fine`` voxels over the same box, its edges
    repeated; (fine, count) float64."""
    position = ((torch.arange(fine, dtype=torch.float64) + 0.5) / fine * count - 0.5).clamp(0, count - 1)
    low = position.floor()
    share = position - low
    weights = [(1 - share) ** 3 / 6, 2 / 3 - share**2 * (2 - share) / 2]
    weights += [2 / 3 - (1 - share) ** 2 * (1 + share) / 2, share**3 / 6]
    rows = torch.zeros(fine, count, dtype=torch.float64)
    for offset, weight in enumerate(weights, -1):
        index = (low + offset).long().abs()
        index = torch.where(index > count - 1, 2 * (count - 1) - index, index).clamp(0, count - 1)
        rows.scatter_add_(1, index[:, None], weight[:, None])
    return rows @ _coefficients_matrix(count)


def spline_coefficients(volume: Tensor) -> Tensor:
    """Coefficients of the cubic B-spline through the voxels of ``volume``, (N, C, *grid)."""
    for axis, count in enumerate(volume.shape[2:]):
        volume = apply_along(volume, _coefficients_matrix(count).to(volume), axis)
    return volume


def _indices(positions: Tensor, shape: Sequence[int], extent: Sequence[float]) -> list[Tensor]:
    """Positions (N, D, *spatial), mm, as voxels of a grid over the box, (N, *spatial) an axis; of its edge beyond."""
    return [
        ((positions[:, axis] / side + 0.5) * count - 0.5).clamp(0, count - 1)
        for axis, (count, side) in enumerate(zip(shape, extent))
    ]


def sample_spline(coefficients: Tensor, positions: Tensor, extent: Sequence[float]) -> Tensor:
    """Cubic B-spline interpolation.

    :param coefficients: :func:`spline_coefficients` of a volume over the box.
    :param positions: (N, D, *spatial), mm.
    :returns: (N, C, *spatial). It may overshoot the values of the volume, see :func:`sample_cubic`.
    """
    if coefficients.device.type == "cpu" and not torch.is_grad_enabled() and not torch.jit.is_tracing():
        return _sample_spline_by_scipy(coefficients, positions, extent)
    shape = coefficients.shape[2:]
    offsets: list[tuple[Tensor, Tensor]] = []
    weights: list[tuple[Tensor, Tensor]] = []
    for index in _indices(positions, shape, extent):
        low = index.floor()
        share = index - low
        # β³ at share + 1, share, 1 - share, 2 - share: the weights of the four coefficients around.
        first = (1 - share) ** 3 / 6
        last = share**3 / 6
        second = 2 / 3 - share**2 * (2 - share) / 2
        left = first + second
        right = 1 - left
        offsets.append((low - 1 + second / left, low + 1 + last / right))
        weights.append((left, right))
    total = None
    for corner in itertools.product((0, 1), repeat=len(shape)):
        # The centres of the outer voxels lie at -1 and 1 here, and what is beyond them is mirrored there.
        parts = [2 * offsets[axis][bit] / max(shape[axis] - 1, 1) - 1 for axis, bit in enumerate(corner)]
        grid = torch.stack(parts[::-1], -1)
        value = functional.grid_sample(coefficients, grid, "bilinear", "reflection", align_corners=True)
        weight = math.prod(weights[axis][bit] for axis, bit in enumerate(corner))
        value = value * weight[:, None]
        total = value if total is None else total + value
    return total


def _sample_spline_by_scipy(coefficients: Tensor, positions: Tensor, extent: Sequence[float]) -> Tensor:
    """The same without gradients on a CPU, in a quarter of the time: slabs of the first axis side by side."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from scipy import ndimage

    count = max(len(coefficients), len(positions))
    indices = torch.stack(_indices(positions, coefficients.shape[2:], extent)).numpy()
    values = coefficients.numpy()
    found = np.empty((count, coefficients.shape[1], *positions.shape[2:]), np.float32)
    slabs = np.array_split(np.arange(positions.shape[2]), min(4 * torch.get_num_threads(), positions.shape[2]))

    def fill(work: tuple[int, int, np.ndarray]) -> None:
        case, channel, slab = work
        where = indices[:, min(case, len(positions) - 1), slab[0] : slab[-1] + 1]
        volume = values[min(case, len(values) - 1), channel]
        into = found[case, channel, slab[0] : slab[-1] + 1]
        ndimage.map_coordinates(volume, where, into, order=3, mode="mirror", prefilter=False)

    works = [(case, channel, slab) for case in range(count) for channel in range(found.shape[1]) for slab in slabs]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, works))
    return torch.from_numpy(found)


def sample_cubic(volume: Tensor, positions: Tensor, extent: Sequence[float]) -> Tensor:
    """An image as it leaves the program: by cubic B-splines, clipped to each channel's own range, and exactly air (the
    smallest value of a channel) where all voxels around are air, so that no ripple of an edge runs through it.

    :param volume: (N, C, *grid) over the box.
    :param positions: (N, D, *spatial), mm.
    :returns: (N, C, *spatial).
    """
    flat = volume.flatten(2)
    shape = (*flat.shape[:2], *[1] * (volume.ndim - 2))
    low, high = flat.amin(2).reshape(shape), flat.amax(2).reshape(shape)
    value = sample_spline(spline_coefficients(volume), positions, extent)
    value = torch.minimum(torch.maximum(value, low), high)
    tissue = sample_linear((volume > low).to(volume.dtype), positions, extent)
    return torch.where(tissue > 0, value, low)
