"""Norm-free residual blocks for 2D and 3D.

Without normalisation a voxel's value depends on its neighbourhood alone, so training and inference agree and a
volume made in blocks equals the volume made whole. What normalisation does for the start of training is done by the
initialisation: the last convolution of every residual branch starts at 0, the others are He-initialised and scaled
with depth (Zhang et al., *Fixup Initialization*, ICLR 2019, section 3; used for GANs by Huang et al., *The GAN is
dead; long live the GAN!*, NeurIPS 2024, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import phases, twice

SLOPE = 0.2
"""Negative slope of every leaky ReLU."""


LEFT_ALONE = 20_480
"""Values of one volume's largest three axes, channels first, up to which PyTorch leaves oneDNN aside."""


class Convolution3d(nn.Conv3d):
    """A 3D convolution that is as fast for one volume as for several, and on CUDA as fast to differentiate twice.

    For one small volume on a CPU PyTorch leaves oneDNN aside, for a routine of its own that takes five times as long at
    the sizes of a case's coarser stages. Here oneDNN is asked all the same. Backward there is no other way to it than
    by two volumes, one of which nobody looks at. Traced and exported networks, which have to run anywhere, are left
    alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return super().forward(x)
        if x.is_cuda and torch.is_grad_enabled():
            return twice.convolution(x, self.weight, self.bias, self.stride, self.padding)
        if (
            x.shape[0] != 1
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or not torch.backends.mkldnn.is_available()
        ):
            return super().forward(x)
        if not torch.is_grad_enabled() or not (x.requires_grad or self.weight.requires_grad):
            return torch.mkldnn_convolution(
                x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
            )
        if x.shape[1:4].numel() > LEFT_ALONE or max(self.kernel_size) == 1:  # as fast one way as the other
            return super().forward(x)
        return super().forward(x.expand(2, *x.shape[1:]))[:1]


def convolution(spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int, **options) -> nn.Module:
    """Return a 2D or 3D convolution, He-initialised for a leaky ReLU in front of it, bias 0."""
    kind = {2: nn.Conv2d, 3: Convolution3d}[spatial_dims]
    layer = kind(in_channels, out_channels, kernel_size, **options)
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class _Leaky(torch.autograd.Function):
    """Keeps what it gives, which the convolution behind it keeps too; the sign of either tells the slope."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        result = functional.leaky_relu(x, SLOPE)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.leaky_relu_backward(gradient, result, SLOPE, True)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of :data:`SLOPE`, differentiable twice, for which the input need not stay in memory: half of what a
    residual block holds."""
    if not torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return functional.leaky_relu(x, SLOPE)
    return _Leaky.apply(x)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), kernel 3, same channels, any shape (N, C, *spatial)."""

    def __init__(self, spatial_dims: int, channels: int, total_blocks: int) -> None:
        super().__init__()
        self.first = convolution(spatial_dims, channels, channels, 3, padding=1)
        self.second = convolution(spatial_dims, channels, channels, 3, padding=1)
        with torch.no_grad():
            self.first.weight.mul_(max(total_blocks, 1) ** -0.5)
            self.second.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(leaky(self.first(leaky(x))))


def strides_of(stages: int, spatial_dims: int, strides: Sequence[Sequence[int]] = ()) -> list[tuple[int, ...]]:
    """How each stage divides the grid before it, finest first: 2 along every axis unless ``strides`` says otherwise.

    :raises ValueError: not one entry a stage and axis.
    """
    if not strides:
        return [(2,) * spatial_dims] * stages
    if len(strides) != stages or any(len(stride) != spatial_dims for stride in strides):
        raise ValueError(f"strides {strides} must have {stages} entries of {spatial_dims}")
    return [tuple(stride) for stride in strides]


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Voxels of the grid, along each axis, to one of the maps behind all of these stages."""
    return tuple(math.prod(along) for along in zip(*strides))


def check_shape(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """The coarsest maps' shape for a grid.

    :raises ValueError: a side of ``shape`` is no multiple of the stages' strides.
    """
    total = total_stride(strides)
    if any(side % stride for side, stride in zip(shape, total)):
        wanted = str(total[0]) if len(set(total)) == 1 else " x ".join(map(str, total))
        raise ValueError(f"every side of {tuple(shape)} must be a multiple of {wanted}")
    return [side // stride for side, stride in zip(shape, total)]


def upsample(x: Tensor, factors: Sequence[int] | int = 2) -> Tensor:
    """Multiply every spatial side by its factor, by linear interpolation; leaves no checkerboard."""
    mode = "trilinear" if x.ndim == 5 else "bilinear"
    factors = (factors,) * (x.ndim - 2) if isinstance(factors, int) else factors
    if x.shape[1] <= phases.MOST_CHANNELS and phases.pays(x, factors):
        return phases.upsample(x)
    return functional.interpolate(x, scale_factor=tuple(map(float, factors)), mode=mode, align_corners=False)


def downsample(x: Tensor, factors: Sequence[int] | int = 2) -> Tensor:
    """Divide every spatial side by its factor, averaging blocks of voxels."""
    return (functional.avg_pool3d if x.ndim == 5 else functional.avg_pool2d)(x, factors)


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast within this context; ``meta``, where costs are counted, knows none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def channels_last(spatial_dims: int) -> torch.memory_format:
    """The memory layout in which convolutions are fastest on CPU and GPU."""
    return torch.channels_last_3d if spatial_dims == 3 else torch.channels_last
