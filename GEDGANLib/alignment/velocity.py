r"""Stationary velocity fields: smooth deformations that can be inverted, scaled and averaged like vectors.

A velocity v (mm, on a coarse grid over the box) moves a point for one unit of time: :math:`\exp(v)` is where it is
then, and :math:`\exp(-v)` brings it back. It is computed by scaling and squaring (Arsigny et al., *A log-Euclidean
framework for statistics on diffeomorphisms*, MICCAI 2006, section 3): a step so short that it is a shift,
:math:`\exp(v/2^n)\approx\mathrm{id}+v/2^n`, n times composed with itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..structure.tensor import apply_along
from .sampling import identity, sample_linear, spacing_of, spline_matrix

SHORTEST = 0.125
"""Voxels of the velocity's grid that the first step is long at most: with half a voxel a way there and back ends twice
as far from where it began."""


FEWEST_STEPS = 6
"""Compositions for however short velocities; more are needed from 8 voxels on. Were there fewer for a case that is
registered alone than beside one of large velocities, it would come to lie elsewhere (by 0.1 to 0.5 mm in hippocampi at
2 mm; so by 0.01 to 0.02)."""
TRACED_STEPS = 8
"""Compositions in a network that is written down as TorchScript, where their number cannot depend on the velocity."""


def steps_for(velocity: Tensor, extent: Sequence[float]) -> int:
    """How often the first step is composed with itself, for all of ``velocity`` (N, D, *coarse), mm."""
    if torch.jit.is_tracing():
        return TRACED_STEPS
    spacing = velocity.new_tensor(spacing_of(velocity.shape[2:], extent))
    longest = float((velocity.detach().abs().amax(dim=(0, *range(2, velocity.ndim))) / spacing).max())
    return max(math.ceil(math.log2(max(longest, 1e-12) / SHORTEST)), FEWEST_STEPS)


def exponential(velocity: Tensor, extent: Sequence[float], steps: int | None = None) -> Tensor:
    """Displacement :math:`\\exp(v) - \\mathrm{id}`, mm, (N, D, *coarse), of ``velocity`` of the same shape, mm.

    :param steps: compositions; as many as the largest velocity asks for when not given, see :func:`steps_for`.
    """
    steps = steps_for(velocity, extent) if steps is None else steps
    displacement = velocity / 2**steps
    here = identity(velocity.shape[2:], extent, velocity)
    for _ in range(steps):
        displacement = displacement + sample_linear(displacement, here + displacement, extent)
    return displacement


def finer_exponential(velocity: Tensor, extent: Sequence[float]) -> Tensor:
    """:func:`exponential` by cubic splines on twice as many voxels along each axis: read off linearly between these it
    is as good as splines at every point, and takes a tenth of the time."""
    return refine(exponential(velocity, extent), [2 * side for side in velocity.shape[2:]])


def compose(outer: Tensor, inner: Tensor, extent: Sequence[float]) -> Tensor:
    """Displacement of the point that ``inner`` moves first and ``outer`` then; all (N, D, *grid), mm."""
    here = identity(inner.shape[2:], extent, inner)
    return inner + sample_linear(outer, here + inner, extent)


def refine(coarse: Tensor, shape: Sequence[int]) -> Tensor:
    """A field (N, C, *coarse) on a finer grid over the same box, (N, C, *shape), by the cubic B-spline through it."""
    for axis, (count, fine) in enumerate(zip(coarse.shape[2:], shape)):
        if count != fine:
            coarse = apply_along(coarse, spline_matrix(count, fine).to(coarse), axis)
    return coarse


@lru_cache(maxsize=64)
def _gaussian_matrix(count: int, width: float) -> Tensor:
    """Gaussian of ``width`` voxels along an axis, cut at the ends and of sum 1 everywhere; float64."""
    index = torch.arange(count, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((index[:, None] - index) / max(width, 1e-6)) ** 2)
    weights[weights < 1e-20] = 0  # nothing, and slow in single precision
    return weights / weights.sum(1, keepdim=True)


def smooth(field: Tensor, width: float, extent: Sequence[float]) -> Tensor:
    """Gaussian of standard deviation ``width`` mm over a field (N, C, *grid)."""
    for axis, (count, spacing) in enumerate(zip(field.shape[2:], spacing_of(field.shape[2:], extent))):
        field = apply_along(field, _gaussian_matrix(count, width / spacing).to(field), axis)
    return field


@lru_cache(maxsize=16)
def _affine_fields(shape: tuple[int, ...]) -> Tensor:
    """Orthonormal basis of what is constant or grows evenly along an axis, (voxels, D + 1) float64."""
    axes = [torch.linspace(-1, 1, count, dtype=torch.float64) if count > 1 else torch.zeros(1) for count in shape]
    grids = torch.meshgrid(*axes, indexing="ij")
    fields = [
        torch.ones(shape, dtype=torch.float64),
        *(grid.double() for grid, count in zip(grids, shape) if count > 1),
    ]
    return torch.stack([field.flatten() / field.norm() for field in fields], 1)


def without_affine(field: Tensor) -> Tensor:
    """A field (N, D, *grid) less the affine one that is nearest to it: shifts, turns and sizes belong to the affine
    part of a transformation, or the same transformation could be said in many ways."""
    basis = _affine_fields(tuple(field.shape[2:])).to(field)
    flat = field.flatten(2)
    return (flat - (flat @ basis) @ basis.T).unflatten(2, field.shape[2:])


def roughness(velocity: Tensor, extent: Sequence[float]) -> Tensor:
    r"""Mean of :math:`|\nabla v|^2` over the box, (N,); without unit, as mm are divided by mm."""
    total = velocity.new_zeros(len(velocity))
    for axis, spacing in enumerate(spacing_of(velocity.shape[2:], extent)):
        total = total + (velocity.diff(dim=axis + 2) / spacing).square().sum(1).flatten(1).mean(1)
    return total


def jacobian_determinant(positions: Tensor, extent: Sequence[float]) -> Tensor:
    """How much volume a transformation makes of one, (N, *grid): above 1 it expands, at 0 it folds.

    :param positions: where each voxel of a grid over the box is moved to, mm, (N, D, *grid); at the ends of the grid by
        differences to one side.
    """
    dims = positions.shape[1]
    spacing = spacing_of(positions.shape[2:], extent)
    columns = torch.gradient(positions, spacing=list(spacing), dim=list(range(2, 2 + dims)))
    matrix = torch.stack(columns, dim=-1).movedim(1, -2)
    return torch.linalg.det(matrix)
