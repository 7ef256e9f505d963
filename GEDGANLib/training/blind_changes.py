"""The changes of ``augmentation`` as tensors alone, for steps that are recorded and cannot ask what was drawn.

Every change is made of every case; where it was not drawn it has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .augmentation import Drawn, curved, outside_boxes, sampling_matrices

Changes = dict[str, Tensor]


def as_tensors(drawn: Drawn, shape: Sequence[int], spacing: Sequence[float], device: torch.device) -> Changes:
    """What :func:`apply` needs, on any devices; the noise itself is drawn here, on ``device``.

    :param shape: voxels of the grid.
    :param spacing: of the grid, mm.
    """
    random = torch.Generator(device).manual_seed(int(drawn.noise_seeds[0]))
    count, channels = drawn.contrast.shape
    noise = torch.randn(count, channels, *shape, generator=random, device=device)
    return {
        "moved": drawn.moved,
        "matrices": sampling_matrices(drawn, shape, spacing),
        "mirrored": drawn.mirrored,
        "contrast": drawn.contrast,
        "brightness": drawn.brightness,
        "gamma": drawn.gamma,
        "noise": noise.mul_(_column(drawn.noise[:, None], noise.ndim).to(device, non_blocking=True)),
        "cut_start": drawn.cut_start,
        "cut_end": drawn.cut_end,
    }


def apply(case: Tensor, changes: Changes, image_channels: int, flips: Sequence[int]) -> Tensor:
    """As ``augmentation.apply``, but for the noise, which is another draw; differentiable.

    :param changes: of :func:`as_tensors`, on the device of ``case``.
    :param flips: axes along which cases may be mirrored.
    """
    dims = case.ndim
    for axis in flips:
        case = torch.where(_column(changes["mirrored"][:, axis, None], dims), case.flip(axis + 2), case)
    grid = functional.affine_grid(changes["matrices"].to(case.dtype), list(case.shape), align_corners=False)
    moved = functional.grid_sample(case, grid, padding_mode="border", align_corners=False)
    case = torch.where(_column(changes["moved"][:, None], dims), moved, case)
    image, gamma = case[:, :image_channels], _column(changes["gamma"], dims)
    image = torch.where(gamma == 1, image, curved(image, gamma))
    image = image * _column(changes["contrast"], dims) + _column(changes["brightness"], dims) + changes["noise"]
    case = torch.cat([image, case[:, image_channels:]], 1)
    return case * outside_boxes(changes["cut_start"], changes["cut_end"], case.shape[2:])


def _column(values: Tensor, dims: int) -> Tensor:
    """(N, C) as a tensor of so many axes."""
    return values.reshape(*values.shape, *[1] * (dims - 2))
