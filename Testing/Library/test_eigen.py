"""Closed-form eigen-system against float64 ``eigh``, and derivatives that stay finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from GEDGANLib.structure.eigen import gap_weighted_dyads, symmetric_eigen
from GEDGANLib.structure.tensor import COMPONENTS

SPECTRA = {
    "generic": None,
    "planar": (1.0, 1e-3, 1e-4),
    "sheet": (1.0, 1e-6, 1e-6),
    "line": (1.0, 1.0, 1e-3),
    "near isotropic": (1.0001, 1.0, 0.9999),
    "isotropic": (1.0, 1.0, 1.0),
    "zero": (0.0, 0.0, 0.0),
}
SCALES = (1e-12, 1e-6, 1.0, 1e6)


def matrices(kind: str, size: int = 3, count: int = 4000) -> torch.Tensor:
    """Symmetric matrices, float64, shape (count, size, size)."""
    generator = np.random.default_rng(1)
    random = generator.standard_normal((count, size, size))
    if kind == "diagonal":
        return torch.from_numpy(np.stack([np.diag(row) for row in np.abs(random[:, 0])]))
    if SPECTRA[kind] is None:
        return torch.from_numpy(random @ random.transpose(0, 2, 1))
    rotation = np.linalg.qr(random)[0]
    return torch.from_numpy(rotation @ np.diag(SPECTRA[kind][:size]) @ rotation.transpose(0, 2, 1))


def entries_of(matrix: torch.Tensor) -> torch.Tensor:
    return torch.stack([matrix[:, i, j] for i, j in COMPONENTS[matrix.shape[-1]]], 1)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", [*SPECTRA, "diagonal"])
def test_float32_agrees_with_float64_eigh(kind, scale, size):
    # Both get the very same matrices: rounded to float32 first.
    matrix = (matrices(kind, size) * scale).float().double()
    values, vectors = symmetric_eigen(entries_of(matrix).float())
    expected = torch.linalg.eigvalsh(matrix).flip(-1)
    largest = expected.abs().amax(1, keepdim=True).clamp_min(1e-300)
    assert ((values.double() - expected).abs() / largest).max() <= 1e-6
    # V is orthonormal and solves S v = λ v, whatever the directions where values meet.
    basis = vectors.double()
    product = basis @ basis.transpose(1, 2) - torch.eye(size, dtype=torch.float64)
    assert product.abs().max() < 2e-6
    residual = (basis @ matrix - values.double()[..., None] * basis).abs().amax((1, 2)) / largest[:, 0]
    assert residual.max() < 2e-6


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", [*SPECTRA, "diagonal"])
def test_dyads_and_their_derivatives_are_finite(kind, scale):
    entries = (entries_of(matrices(kind, count=200)) * scale).float().requires_grad_()
    dyads = gap_weighted_dyads(entries)
    (gradient,) = torch.autograd.grad(dyads.square().sum() / scale, entries, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), entries)
    for tensor in (dyads, gradient, second):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("gap", [1.0, 1e-2, 1e-4, 1e-6, 0.0])
def test_gradient_of_dyads_is_bounded_at_every_gap(gap):
    spectrum = torch.diag(torch.tensor([1.0 + gap, 1.0, 1.0 - gap], dtype=torch.float64))
    rotation = torch.linalg.qr(torch.from_numpy(np.random.default_rng(2).standard_normal((500, 3, 3))))[0]
    entries = entries_of(rotation @ spectrum @ rotation.transpose(1, 2)).requires_grad_()
    weights = torch.from_numpy(np.random.default_rng(3).standard_normal((500, 12)))
    (gradient,) = torch.autograd.grad((weights * gap_weighted_dyads(entries)).sum(), entries)
    # Per matrix the derivative has norm at most 1 in every pair of directions: the bound is one of the weights alone.
    assert gradient.norm(dim=1).max() < 4 * weights.norm(dim=1).max()


@pytest.mark.parametrize("channels", [3, 6])
def test_gradcheck_where_smooth(channels):
    entries = torch.from_numpy(np.random.default_rng(4).standard_normal((5, channels, 2))).requires_grad_()
    assert torch.autograd.gradcheck(gap_weighted_dyads, (entries,))
    assert torch.autograd.gradcheck(lambda e: symmetric_eigen(e)[0], (entries,))


def test_dyads_are_what_eigenvectors_say():
    matrix = matrices("generic")
    values, vectors = torch.linalg.eigh(matrix)
    first, third = vectors[..., 2], vectors[..., 0]
    surface = (values[:, 2] - values[:, 1])[:, None, None] * first[:, :, None] * first[:, None, :]
    tube = (values[:, 1] - values[:, 0])[:, None, None] * third[:, :, None] * third[:, None, :]
    expected = torch.cat([entries_of(surface), entries_of(tube)], 1)
    torch.testing.assert_close(gap_weighted_dyads(entries_of(matrix)), expected, rtol=1e-6, atol=1e-8)


def test_float32_inside_autocast():
    entries = entries_of(matrices("generic", count=10)).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gap_weighted_dyads(entries).dtype == torch.float32
