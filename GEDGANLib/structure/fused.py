r"""The eigen-directional field of structure tensors in one CUDA kernel, forward and backward.

Value by value the field of ``field.EigenDirectionalField`` takes some 200 operations, and its derivative 500: on a GPU
each of them is a kernel that waits longer than it works. Here one kernel reads a tensor, diagonalises it by Jacobi
rotations (Golub and Van Loan, *Matrix Computations*, section 8.5: cyclic, four sweeps, after which a 3x3 matrix is
diagonal to rounding) and writes its 13 values; another one its derivative, by the formula of
``eigen.gap_weighted_dyads``. The plain path is the reference, and what is used where Triton is not: on other devices,
and mostly on Windows.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .eigen import gap_weighted_dyads
from .tensor import COMPONENTS, trace_of

CHANNELS = 13
"""Of the field: six entries of the dyad of surfaces, six of that of tubes, the logarithm of the trace."""


CLOSE = 1e-4
"""Relative difference from the plain path that rounding explains, many times over."""


@cache
def works(device: str) -> bool:
    """Whether the kernels run on ``device`` and agree with the plain path: Triton may be missing, or a compiler."""
    with torch.inference_mode(False):  # whoever asks first
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(3, 3, 64, generator=generator).to(device)
        matrices = torch.einsum("abn,cbn->acn", vectors, vectors)
        tensor = torch.stack([matrices[i, j] for i, j in COMPONENTS[3]])[None]
        upstream = torch.randn(1, CHANNELS, 64, generator=generator).to(device)
        try:
            found = _with_gradient(eigen_directional_field, tensor, upstream)
        except Exception:  # of Triton, its driver, or the compiler that it calls
            return False
        expected = _with_gradient(plain_field, tensor, upstream)
        return all(bool((a - b).norm() <= CLOSE * b.norm()) for a, b in zip(found, expected))


def _with_gradient(function, tensor: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = tensor.clone().requires_grad_()
        field = function(leaf, 1.0)
        return field.detach(), torch.autograd.grad(field, leaf, upstream)[0]


def pays(tensor: Tensor) -> bool:
    """Whether :func:`eigen_directional_field` is to be used for structure tensors (N, 6, X, Y, Z)."""
    return tensor.is_cuda and tensor.dtype == torch.float32 and tensor.shape[1] == 6 and works(str(tensor.device))


def plain_field(tensor: Tensor, tau: float) -> Tensor:
    """What :func:`eigen_directional_field` gives, operation by operation; 2D, any device and precision too."""
    trace = trace_of(tensor)
    return torch.cat([gap_weighted_dyads(tensor) / (trace + tau), torch.log1p(trace / tau)], 1)


def eigen_directional_field(tensor: Tensor, tau: float) -> Tensor:
    """The field of structure tensors, see ``field``.

    :param tensor: (N, 6, X, Y, Z) float32, entries in the order of ``tensor.COMPONENTS``.
    :param tau: structure that counts as much as noise, above 0.
    :returns: (N, 13, X, Y, Z).
    """
    return _Field.apply(tensor, tau)


class _Field(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, tau: float) -> Tensor:
        from .kernels import field_forward

        tensor = tensor.contiguous()
        ctx.save_for_backward(tensor)
        ctx.tau = tau
        field = tensor.new_empty(len(tensor), CHANNELS, *tensor.shape[2:])
        field_forward(tensor, field, tau)
        return field

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        from .kernels import field_backward

        (tensor,) = ctx.saved_tensors
        of_tensor = torch.empty_like(tensor)
        field_backward(tensor, gradient.contiguous().float(), of_tensor, ctx.tau)
        return of_tensor, None
