r"""Volumes and fields read off between their voxels.

All grids of an alignment, coarse or fine, cover the same box, whose centre is 0 and whose sides are ``extent`` mm.
Positions are in mm from that centre, one component an array axis, so that no grid needs to know of another's voxels.
The box of a grid ends at the outer edges of its voxels (``align_corners=False``); beyond it the edge is repeated.

Linear interpolation is a low-pass filter: of the power near Nyquist's frequency it leaves half. What leaves the program
is therefore interpolated by cubic B-splines (Unser et al., *B-spline signal processing*, IEEE Transactions on Signal
Processing 41(2), 1993): :math:`x(p)=\sum_k c_k\,\beta^3(p-k)`, with coefficients c of which the spline passes through
the voxels. Along one axis the four weights are two linear interpolations (Sigg and Hadwiger, *Fast third-order texture
filtering*, GPU Gems 2, 2005), so in 3D eight calls of PyTorch's linear sampler are one cubic one, on any device; and 27
one of the fifth order, which keeps a tenth more of the power near Nyquist's frequency.
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

RAREST_AIR = 1e-3
"""Share of voxels as dark as the darkest below which they are no air: a scan with noise everywhere has one of them."""


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
    # On the CPU also where networks without data are counted, or what is kept would have none either.
    edges = torch.arange(coarse + 1, dtype=torch.float64, device="cpu") * count / coarse
    index = torch.arange(count, dtype=torch.float64, device="cpu")
    ends = torch.minimum(edges[1:, None], index + 1) - torch.maximum(edges[:-1, None], index)
    return ends.clamp_min(0) * coarse / count


def shrink(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Means over the larger voxels of a coarser grid over the same box, (N, C, *shape); exact where sides do not divide
    each other, where PyTorch's own takes whole voxels and moves them by up to half of one."""
    for axis, (count, coarse) in enumerate(zip(volume.shape[2:], shape)):
        if count != coarse:
            volume = apply_along(volume, _shares_matrix(count, coarse).to(volume), axis)
    return volume


def _weights(share: Tensor, order: int) -> list[Tensor]:
    """β of the voxels around a position, order + 1 of them, which lies by ``share`` of one beyond the middle ones'
    first; they are positive and have the sum 1.

    :param order: 3 or 5.
    """

    def half(t: Tensor) -> list[Tensor]:
        if order == 3:
            return [(1 - t) ** 3 / 6, 2 / 3 - t**2 * (2 - t) / 2]
        inner = (66 - t**2 * (60 - t**2 * (30 - 10 * t))) / 120
        return [(1 - t) ** 5 / 120, (26 - t * (50 - t * (20 + t * (20 - t * (20 - 5 * t))))) / 120, inner]

    return [*half(share), *half(1 - share)[::-1]]


@lru_cache(maxsize=64)
def _coefficients_matrix(count: int, order: int = 3) -> Tensor:
    """Values at ``count`` voxels -> coefficients of the B-spline through them, mirrored at the outer voxels' centres;
    (count, count) float64."""
    if count == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    spline, index = torch.zeros(count, count, dtype=torch.float64), torch.arange(count)
    period, reach = 2 * (count - 1), (order - 1) // 2
    for offset, weight in enumerate(_weights(torch.zeros(1, dtype=torch.float64), order)[:-1], -reach):
        column = (index + offset) % period
        column = torch.where(column > count - 1, period - column, column)
        spline[index, column] += weight
    inverse = torch.linalg.inv(spline)
    # Far voxels count for nothing; as numbers too small for single precision they make the product six times slower.
    return torch.where(inverse.abs() < 1e-20, torch.zeros_like(inverse), inverse)


@lru_cache(maxsize=64)
def spline_matrix(count: int, fine: int) -> Tensor:
    """Values at ``count`` voxels -> the cubic B-spline through them at ``fine`` voxels over the same box, its edges
    repeated; (fine, count) float64."""
    return spline_at((torch.arange(fine, dtype=torch.float64) + 0.5) / fine * count - 0.5, count)


def spline_at(position: Tensor, count: int) -> Tensor:
    """Values at ``count`` voxels -> the cubic B-spline through them at positions along their axis, in voxels, the edges
    repeated; (positions, count) float64."""
    position = position.clamp(0, count - 1)
    low = position.floor()
    rows = torch.zeros(len(position), count, dtype=torch.float64)
    for offset, weight in enumerate(_weights(position - low, 3), -1):
        index = (low + offset).long().abs()
        index = torch.where(index > count - 1, 2 * (count - 1) - index, index).clamp(0, count - 1)
        rows.scatter_add_(1, index[:, None], weight[:, None])
    return rows @ _coefficients_matrix(count)


def spline_coefficients(volume: Tensor, order: int = 3) -> Tensor:
    """Coefficients of the B-spline through the voxels of ``volume``, (N, C, *grid).

    :param order: 3, cubic, or 5.
    """
    for axis, count in enumerate(volume.shape[2:]):
        volume = apply_along(volume, _coefficients_matrix(count, order).to(volume), axis)
    return volume


def _indices(positions: Tensor, shape: Sequence[int], extent: Sequence[float]) -> list[Tensor]:
    """Positions (N, D, *spatial), mm, as voxels of a grid over the box, (N, *spatial) an axis; of its edge beyond."""
    return [
        ((positions[:, axis] / side + 0.5) * count - 0.5).clamp(0, count - 1)
        for axis, (count, side) in enumerate(zip(shape, extent))
    ]


def sample_spline(coefficients: Tensor, positions: Tensor, extent: Sequence[float], order: int = 3) -> Tensor:
    """B-spline interpolation.

    :param coefficients: :func:`spline_coefficients` of a volume over the box, of the same order.
    :param positions: (N, D, *spatial), mm.
    :returns: (N, C, *spatial). It may overshoot the values of the volume, see :func:`sample_image`.
    """
    if coefficients.device.type == "cpu" and not torch.is_grad_enabled() and not torch.jit.is_tracing():
        return _sample_spline_by_scipy(coefficients, positions, extent, order)
    shape = coefficients.shape[2:]
    offsets: list[list[Tensor]] = []
    weights: list[list[Tensor]] = []
    for index in _indices(positions, shape, extent):
        low = index.floor()
        around, first = _weights(index - low, order), -((order - 1) // 2)
        # Two neighbours at a time, by one linear interpolation between them.
        weights.append([left + right for left, right in zip(around[::2], around[1::2])])
        between = [right / pair for right, pair in zip(around[1::2], weights[-1])]
        offsets.append([low + (first + 2 * number) + share for number, share in enumerate(between)])
    total = None
    for corner in itertools.product(range((order + 1) // 2), repeat=len(shape)):
        # The centres of the outer voxels lie at -1 and 1 here, and what is beyond them is mirrored there.
        parts = [2 * offsets[axis][pair] / max(shape[axis] - 1, 1) - 1 for axis, pair in enumerate(corner)]
        grid = torch.stack(parts[::-1], -1)
        value = functional.grid_sample(coefficients, grid, "bilinear", "reflection", align_corners=True)
        weight = math.prod(weights[axis][pair] for axis, pair in enumerate(corner))
        value = value * weight[:, None]
        total = value if total is None else total + value
    return total


def _sample_spline_by_scipy(coefficients: Tensor, positions: Tensor, extent: Sequence[float], order: int = 3) -> Tensor:
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
        ndimage.map_coordinates(volume, where, into, order=order, mode="mirror", prefilter=False)

    works = [(case, channel, slab) for case in range(count) for channel in range(found.shape[1]) for slab in slabs]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, works))
    return torch.from_numpy(found)


class LabelImage:
    """Labels, prepared to be read off between their voxels.

    :param labels: (*grid), whole numbers.
    """

    def __init__(self, labels: Tensor) -> None:
        self.shape, self.flat = labels.shape, labels.flatten()
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        steps = [stride if count > 1 else 0 for stride, count in zip(strides, self.shape)]
        self.strides, self.corners = strides, list(itertools.product((0, 1), repeat=len(self.shape)))
        self.offsets = [sum(bit * step for bit, step in zip(corner, steps)) for corner in self.corners]
        # Nearly everywhere all voxels around have one label; where they have not is known of each voxel once for all.
        self.mixed = torch.zeros(self.flat.shape, dtype=torch.bool, device=self.flat.device)
        for offset in self.offsets[1:]:
            end = len(self.flat) - offset
            self.mixed[:end] |= self.flat[offset:] != self.flat[:end]

    def at(self, indices: Tensor) -> Tensor:
        """The label with the largest share of a voxel that lies between others, by linear interpolation; of several
        equal shares the smallest label.

        :param indices: (D, *spatial), voxels of the labels; of their edge beyond.
        :returns: (*spatial), of the type of the labels.
        """
        inside = [index.clamp(0, count - 1).flatten() for index, count in zip(indices, self.shape)]
        base = torch.zeros(inside[0].shape, dtype=torch.int64, device=self.flat.device)
        for index, count, stride in zip(inside, self.shape, self.strides):
            base.add_(index.long().clamp_(max=max(count - 2, 0)), alpha=stride)
        found = self.flat[base]
        where = self.mixed[base].nonzero()[:, 0]
        if not len(where):
            return found.reshape(indices.shape[1:])
        around = torch.stack([self.flat[base[where] + offset] for offset in self.offsets])
        chosen = [index[where] for index in inside]
        shares = [index - index.floor().clamp_(max=max(count - 2, 0)) for index, count in zip(chosen, self.shape)]
        weights = torch.stack(
            [math.prod(part if bit else 1 - part for part, bit in zip(shares, corner)) for corner in self.corners]
        )
        best = torch.full_like(weights[0], -1)
        for label in torch.unique(around).tolist():
            total = (weights * (around == label)).sum(0)
            better = total > best + 1e-6
            found[where[better]] = label
            best = torch.where(better, total, best)
        return found.reshape(indices.shape[1:])


class SmoothImage:
    """An image as it leaves the program, prepared to be read off by B-splines: clipped to each channel's own range, and
    exactly air where all voxels around are air, so that no ripple of an edge runs through it.

    :param volume: (N, C, *grid) over the box.
    :param extent: of the box, mm.
    :param order: 3, cubic, or 5.
    :param air: of each channel, (C,), nan where it has none that is flat; the smallest value when not given.
    """

    def __init__(self, volume: Tensor, extent: Sequence[float], order: int = 3, air: Tensor | None = None) -> None:
        self.extent, self.order = extent, order
        flat = volume.flatten(2)
        shape = (*flat.shape[:2], *[1] * (volume.ndim - 2))
        self.low, self.high = flat.amin(2).reshape(shape), flat.amax(2).reshape(shape)
        self.coefficients = spline_coefficients(volume, order)
        self.air = self.low if air is None else air.to(volume).reshape(1, -1, *shape[2:])
        tissue = volume != self.air
        rare = not torch.jit.is_tracing() and float(tissue.float().mean()) > 1 - RAREST_AIR
        self.tissue = None if rare else tissue.to(volume.dtype)

    def at(self, positions: Tensor) -> Tensor:
        """(N, C, *spatial) at positions (N, D, *spatial), mm."""
        value = sample_spline(self.coefficients, positions, self.extent, self.order)
        value = torch.minimum(torch.maximum(value, self.low), self.high)
        if self.tissue is None:
            return value
        return torch.where(sample_linear(self.tissue, positions, self.extent) > 0, value, self.air)


def sample_image(volume: Tensor, positions: Tensor, extent: Sequence[float]) -> Tensor:
    """A :class:`SmoothImage`, by cubic splines, that is read off once."""
    return SmoothImage(volume, extent).at(positions)
