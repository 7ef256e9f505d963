r"""The same layers in the form that a GPU's matrix units are fast at.

A convolution of few channels at full resolution wastes a GPU: its matrix units multiply tiles of 32 to 128 channels,
and 4 or 16 of them cost as much. So a volume of C channels is taken as one of half the resolution with 8 C channels,
the *phases* of each block of 2x2x2 voxels (Shi et al., *Real-time single image super-resolution using an efficient
sub-pixel convolutional neural network*, CVPR 2016, section 2.2, who learn such a convolution; here the layer is what
it was, and only its weights are laid out anew). On an H100, bfloat16, 128 voxels a side: the packing convolution of a
discriminator takes a fifth of its time, the last convolution of a generator less than half, a linear interpolation a
tenth. Phase p = (p_x, p_y, p_z) of channel c is channel (4 p_x + 2 p_y + p_z) C + c.

All functions are differentiable as often as their plain counterparts, whose results they give up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from .twice import as_autocast, convolution

PHASES = 8
"""Voxels of a block."""
MOST_CHANNELS = 128
"""Channels up to which an interpolation is faster as a convolution."""


def pays(x: Tensor, factors: Sequence[int]) -> bool:
    """Whether a layer is faster in this form: of volumes, in half precision on CUDA.

    :param x: (N, C, *spatial) that the layer is given.
    :param factors: that it multiplies or divides the spatial axes by; 2 along each is what blocks are made for.
    """
    return x.ndim == 5 and set(factors) == {2} and _in_half_precision(x)


def _in_half_precision(x: Tensor) -> bool:
    return x.is_cuda and torch.is_autocast_enabled("cuda")


def to_phases(x: Tensor) -> Tensor:
    """(N, C, 2X, 2Y, 2Z) -> (N, 8 C, X, Y, Z), channels last in memory."""
    blocks = x.movedim(1, -1).unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    return blocks.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4).movedim(-1, 1)


def from_phases(x: Tensor) -> Tensor:
    """(N, 8 C, X, Y, Z) -> (N, C, 2X, 2Y, 2Z), channels last in memory."""
    phases = x.movedim(1, -1).unflatten(-1, (2, 2, 2, -1)).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return phases.flatten(5, 6).flatten(3, 4).flatten(1, 2).movedim(-1, 1)


def packing_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv3d`` with kernel 4, stride 2 and padding 1.

    :param x: (N, C, 2X, 2Y, 2Z).
    :param weight: (O, C, 4, 4, 4).
    :returns: (N, O, X, Y, Z).
    """
    outputs, channels = weight.shape[:2]
    # Tap 2 t + q is phase q of block t, blocks beginning one voxel before the volume.
    taps = weight.reshape(outputs, channels, 2, 2, 2, 2, 2, 2).permute(0, 3, 5, 7, 1, 2, 4, 6)
    taps = taps.reshape(outputs, PHASES * channels, 2, 2, 2)
    # As small as it is multiplied, before it is copied.
    return convolution(to_phases(functional.pad(as_autocast(x), (1,) * 6)), taps, bias)


def pooling_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv3d`` with kernel 1 of what ``avg_pool3d`` by 2 leaves; one pass over ``x`` instead of three.

    :param x: (N, C, 2X, 2Y, 2Z).
    :param weight: (O, C, 1, 1, 1).
    """
    return convolution(x, (weight / PHASES).expand(-1, -1, 2, 2, 2), bias, (2, 2, 2))


@lru_cache(maxsize=64)
def _interpolation(channels: int, device: str, dtype: torch.dtype) -> Tensor:
    """Weights (8 C, C, 3, 3, 3) of the linear interpolation to phases, each channel for itself."""
    with torch.inference_mode(False):
        along = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
        each = torch.eye(channels)
        weights = torch.einsum("pa,qb,rc,oi->pqroiabc", along, along, along, each).flatten(0, 3)
        return weights.to(device, dtype).contiguous(memory_format=torch.channels_last_3d)


def upsample_to_phases(x: Tensor) -> Tensor:
    """Phases of ``x`` (N, C, X, Y, Z) at twice the resolution, by linear interpolation: (N, 8 C, X, Y, Z)."""
    x = as_autocast(x)
    for axis in (2, 3, 4):  # beyond the border, its value
        x = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, x.shape[axis] - 1, 1)], axis)
    return convolution(x, _interpolation(x.shape[1], str(x.device), x.dtype))


def upsample(x: Tensor) -> Tensor:
    """``interpolate`` by 2, linear: (N, C, X, Y, Z) -> (N, C, 2X, 2Y, 2Z)."""
    return from_phases(upsample_to_phases(x))


@lru_cache(maxsize=8)
def _which_tap(device: str) -> Tensor:
    """[p, q, t, k] is 1 where neighbour k of phase p is phase q of block t, both k and t counted from one before."""
    with torch.inference_mode(False):
        p, q, t, k = torch.meshgrid(torch.arange(2), torch.arange(2), torch.arange(3), torch.arange(3), indexing="ij")
        return (p + k - 1 == 2 * (t - 1) + q).float().to(device)


def convolution_of_phases(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv3d`` with kernel 3 and padding 1 from phases to phases.

    :param x: (N, 8 C, X, Y, Z).
    :param weight: (O, C, 3, 3, 3).
    :returns: (N, 8 O, X, Y, Z).
    """
    with torch.autocast(x.device.type, enabled=False):
        which = _which_tap(str(weight.device)).to(weight.dtype)
        taps = torch.einsum("oiabc,pqta,uvwb,xyzc->puxoqvyitwz", weight, which, which, which)
        taps = taps.flatten(4, 7).flatten(0, 3)
        bias = None if bias is None else bias.repeat(PHASES)
    return convolution(x, taps, bias, padding=(1, 1, 1))
