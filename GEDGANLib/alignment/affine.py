r"""Affine transformations by their generators: what a velocity is to a deformation.

With a matrix M and a shift t, the transformation :math:`a=\expm\begin{pmatrix}M&t\\0&0\end{pmatrix}` is where a point
gets that moves at the speed :math:`Mx+t` for one unit of time, so that −M, −t is its inverse and half of both is half
of it. A generator is kept as (D, D+1), :math:`L=(rM\,|\,t)` in mm, with half the box's longest side as r: then a change
of any entry by one millimetre moves the far ends of the box by about that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def radius_of(extent: Sequence[float]) -> float:
    """r of the module's text, mm."""
    return max(extent) / 2


def _square(generator: Tensor, extent: Sequence[float]) -> Tensor:
    """(N, D+1, D+1) of generators (N, D, D+1), with a last row of zeros."""
    scaled = torch.cat([generator[..., :-1] / radius_of(extent), generator[..., -1:]], -1)
    return torch.nn.functional.pad(scaled, (0, 0, 0, 1))


def matrix_of(generator: Tensor, extent: Sequence[float]) -> Tensor:
    """Affine matrices (N, D+1, D+1) in mm about the box's centre, of generators (N, D, D+1)."""
    return torch.matrix_exp(_square(generator, extent))


def apply(matrix: Tensor, positions: Tensor) -> Tensor:
    """Positions (N or 1, D, *spatial), mm, moved by matrices (N, D+1, D+1)."""
    dims = positions.shape[1]
    flat = positions.flatten(2)
    moved = matrix[:, :dims, :dims] @ flat + matrix[:, :dims, dims:]
    return moved.unflatten(2, positions.shape[2:])


def generator_of(matrix: Tensor, extent: Sequence[float]) -> Tensor:
    """The inverse of :func:`matrix_of`, (N, D, D+1).

    :raises ValueError: a matrix that no generator has, as one that mirrors.
    """
    from scipy.linalg import logm

    rows = []
    for each in matrix.detach().cpu().double().numpy():
        logarithm = logm(each)
        if not np.isfinite(logarithm).all() or np.abs(np.imag(logarithm)).max() > 1e-9:
            raise ValueError("a transformation that mirrors has no generator")
        rows.append(np.real(logarithm)[:-1])
    result = torch.from_numpy(np.stack(rows))
    result = torch.cat([result[..., :-1] * radius_of(extent), result[..., -1:]], -1)
    return result.to(matrix)
