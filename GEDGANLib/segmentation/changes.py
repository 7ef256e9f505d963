"""How parts of scans are changed at random while a segmentation network learns: what is called augmentation.

Turned, scaled, moved and bent as one sampling; then contrast, brightness, gamma, a bias field and noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .examples import Batch


@dataclass(frozen=True)
class Changes:
    """How much is changed at most, or as a standard deviation where it says so; 0 leaves it alone.

    :param turn: degrees about each axis.
    :param scale: as a share of the size.
    :param shift: as a share of each side.
    :param bend: deviation of the displacement at nodes :data:`NODES` voxels apart, in the shortest side of a voxel.
    :param contrast, brightness: factor less 1, and summand, for intensities in [-1, 1].
    :param gamma: logarithm of the exponent.
    :param bias: deviation of the logarithm of a smooth factor, for intensities in [0, 2].
    :param noise: deviation of the noise.
    """

    turn: float = 15.0
    scale: float = 0.15
    shift: float = 0.08
    bend: float = 0.0
    contrast: float = 0.2
    brightness: float = 0.1
    gamma: float = 0.0
    bias: float = 0.0
    noise: float = 0.1


NODES = 8
"""Voxels between the nodes of a bent grid."""
STRONG = Changes(bend=1.0, gamma=0.3, bias=0.2)
"""Elastic deformation, gamma and bias field, too."""
REACH = 1.2
"""Sides of what is drawn to those of what is left of it when it is turned."""


def region_of(patch: Sequence[int]) -> tuple[int, ...]:
    """Voxels of what must be drawn for a patch."""
    return tuple(math.ceil(side * REACH) for side in patch)


def changed(
    batch: Batch, patch: Sequence[int], changes: Changes, random: torch.Generator,
    spacing: Sequence[float] | None = None,
) -> Batch:  # fmt: skip
    """Change each part of a batch at random.

    Turns are turns in mm; about an axis along which a turn would lead from one thick slice into others it is less, as
    much as the slices are thicker than their voxels.

    :param patch: voxels of what is left.
    :param random: on the CPU: the same changes on every device.
    :param spacing: of the voxels, mm; cubic ones when not given.
    """
    images, count, dims = batch.images, len(batch.images), len(patch)
    region = images.shape[2:]

    def draw(*shape: int, reach: float = 1.0) -> Tensor:
        return ((2 * torch.rand(count, *shape, generator=random) - 1) * reach).to(images.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=random).to(images.device)

    steps = images.new_tensor(spacing or [1.0] * dims)
    steps = steps / steps.min()
    turn = draw(dims, dims, reach=math.radians(changes.turn)) / torch.maximum(steps[:, None], steps[None])
    linear = torch.matrix_exp((turn - turn.mT) / 2) * torch.exp(draw(1, 1, reach=changes.scale))
    linear = linear * steps / steps[:, None]  # of mm -> of voxels
    axes = [torch.arange(side, device=images.device) - (side - 1) / 2 for side in patch]
    here = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(images)  # voxels from the middle
    sides = images.new_tensor(patch).reshape(dims, *[1] * dims)
    there = torch.einsum("nij,j...->ni...", linear, here)
    there = there + draw(dims, *[1] * dims, reach=changes.shift) * sides
    if changes.bend:
        nodes = [max(round(side / NODES), 2) for side in patch]
        bent = normal(dims, *nodes) * changes.bend / steps.reshape(dims, *[1] * dims)
        there = there + functional.interpolate(bent, tuple(patch), mode=_LINEAR[dims], align_corners=True)
    halves = images.new_tensor(region).reshape(dims, *[1] * dims) / 2
    grid = (there / halves).flip(1).movedim(1, -1)  # grid_sample counts in halves of each side, last axis first
    together = torch.cat([images, batch.targets, batch.seen], 1)
    moved = functional.grid_sample(together, grid, padding_mode="border", align_corners=False)
    images, targets, seen = moved.split([images.shape[1], batch.targets.shape[1], 1], 1)
    return Batch(_recoloured(images, changes, draw, normal), targets, (seen > 0.5).to(seen))


_LINEAR = {2: "bilinear", 3: "trilinear"}


def _recoloured(images: Tensor, changes: Changes, draw, normal) -> Tensor:
    channels, shape = images.shape[1], images.shape[2:]
    ones = [1] * len(shape)
    if changes.bias or changes.gamma:
        light = (images + 1).clamp_min(0)
        if changes.gamma:
            light = 2 * (light / 2) ** torch.exp(draw(channels, *ones, reach=changes.gamma))
        if changes.bias:
            nodes = normal(channels, *[4] * len(shape)) * changes.bias
            light = light * functional.interpolate(nodes, shape, mode=_LINEAR[len(shape)], align_corners=True).exp()
        images = light - 1
    images = images * (1 + draw(channels, *ones, reach=changes.contrast))
    images = images + draw(channels, *ones, reach=changes.brightness)
    return images + normal(channels, *shape) * draw(1, *ones).abs() * changes.noise
