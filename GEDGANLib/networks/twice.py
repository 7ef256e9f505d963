r"""A 3D convolution whose second derivative is as fast as its first.

A gradient penalty differentiates :math:`g_x = W^T g`, the gradient of a convolution's input, with respect to the
weights. PyTorch computes that as a convolution whose kernel is as large as the volume; on CUDA no fast routine takes
such a kernel, and three of them took two thirds of a training step. But it is what the gradient of weights always is:
with the upstream gradient :math:`h` of :math:`g_x`,

.. math:: \frac{\partial \langle h, W^T g\rangle}{\partial W} = \frac{\partial \langle g, W h\rangle}{\partial W},

the gradient of the weights of a convolution of h (as Karras et al. have it for images: *Analyzing and improving the
image quality of StyleGAN*, CVPR 2020, in their published code).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_of_inputs_alone = False


@contextmanager
def gradients_of_inputs_alone() -> Iterator[None]:
    """Within this context gradients of weights and biases are not computed, since nobody asks for them: they would be
    computed all the same. Only of :func:`convolution`; not for several threads at once."""
    global _of_inputs_alone
    before, _of_inputs_alone = _of_inputs_alone, True
    try:
        yield
    finally:
        _of_inputs_alone = before


class _How(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[int, ...]


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, how: _How, wanted: tuple[bool, bool]) -> tuple:
    """Gradients of input and weight, as far as wanted."""
    dims = len(how.stride)
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, how.stride, how.padding, [1] * dims, False, [0] * dims, 1, (*wanted, False)
    )[:2]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return functional.conv3d(x, weight, bias, how.stride, how.padding)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        if _of_inputs_alone:
            of_weight = of_bias = False
        again = torch.is_grad_enabled()
        gradients: list[Tensor | None] = [None, None]
        if again:
            gradients[0] = _InputGradient.apply(gradient, x, weight, ctx.how) if of_x else None
            gradients[1] = _WeightGradient.apply(gradient, x, weight, ctx.how) if of_weight else None
        elif of_x or of_weight:
            gradients = _backward(gradient, x, weight, ctx.how, (of_x, of_weight))
        return *gradients, gradient.sum((0, 2, 3, 4)) if of_bias else None, None


class _InputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient: Tensor, x: Tensor, weight: Tensor, how: _How) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.how = how
        return _backward(gradient, x, weight, how, (True, False))[0]

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple:
        gradient, weight = ctx.saved_tensors
        of_gradient, _, of_weight, _ = ctx.needs_input_grad
        return (
            functional.conv3d(upstream, weight, None, *ctx.how) if of_gradient else None,
            None,
            _backward(gradient, upstream, weight, ctx.how, (False, True))[1] if of_weight else None,
            None,
        )


class _WeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient: Tensor, x: Tensor, weight: Tensor, how: _How) -> Tensor:
        ctx.save_for_backward(gradient, x)
        ctx.how = how
        return _backward(gradient, x, weight, how, (False, True))[1]

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple:
        gradient, x = ctx.saved_tensors
        of_gradient, of_x, _, _ = ctx.needs_input_grad
        return (
            functional.conv3d(x, upstream, None, *ctx.how) if of_gradient else None,
            _backward(gradient, x, upstream, ctx.how, (True, False))[0] if of_x else None,
            None,
            None,
        )


def as_autocast(tensor: Tensor) -> Tensor:
    """``tensor`` in the precision that autocast gives a convolution; itself where there is no autocast."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, ...] = (1, 1, 1),
    padding: tuple[int, ...] = (0, 0, 0),
) -> Tensor:
    """``conv3d``, twice differentiable; autocast as there.

    :param x: (N, C, X, Y, Z).
    :param weight: (O, C, ...).
    """
    x, weight = as_autocast(x), as_autocast(weight)
    bias = None if bias is None else as_autocast(bias)
    with torch.autocast(x.device.type, enabled=False):
        return _Convolution.apply(x, weight, bias, _How(tuple(stride), tuple(padding)))
