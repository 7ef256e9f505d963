"""The field's kernels beside the plain path; Triton's interpreter runs them here without a GPU."""

from __future__ import annotations

import os

import pytest
import torch

from GEDGANLib.structure.tensor import COMPONENTS

pytest.importorskip("triton")
os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are read

from GEDGANLib.structure.fused import eigen_directional_field, pays, plain_field


def structure_tensors(seed: int, rank: int = 3, scale: float = 1.0) -> torch.Tensor:
    """(2, 6, 3, 5, 7): matrices of a rank, all entries of a size."""
    vectors = torch.randn(2, 3, rank, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    matrices = scale * torch.einsum("nabxyz,ncbxyz->nacxyz", vectors, vectors)
    return torch.stack([matrices[:, i, j] for i, j in COMPONENTS[3]], 1)


def with_gradient(function, tensor: torch.Tensor, tau: float) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = tensor.clone().requires_grad_()
    field = function(leaf, tau)
    upstream = torch.randn(field.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float32)
    return field.detach(), torch.autograd.grad(field, leaf, upstream.to(field.dtype))[0]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(("scale", "tau"), [(1.0, 0.5), (1e-8, 1e-8), (1e5, 3.0)])
def test_field_and_gradient_are_those_of_the_plain_path_in_double_precision(rank, scale, tau) -> None:
    tensor = structure_tensors(1, rank, scale)
    found = with_gradient(eigen_directional_field, tensor, tau)
    expected = with_gradient(plain_field, tensor.double(), tau)
    for one, other in zip(found, expected):
        assert (one - other).abs().max() <= 5e-6 * other.abs().max()


def test_matrices_without_directions_are_finite() -> None:
    tensor = torch.zeros(1, 6, 1, 1, 3)
    tensor[0, :3, 0, 0, 1] = 2.0  # isotropic
    tensor[0, 0, 0, 0, 2] = 1e-20  # one direction, nearly nothing
    field, gradient = with_gradient(eigen_directional_field, tensor, 0.1)
    assert torch.isfinite(field).all() and torch.isfinite(gradient).all()
    assert torch.allclose(field, plain_field(tensor, 0.1), atol=1e-6)


def test_they_are_for_cuda_alone() -> None:
    assert not pays(structure_tensors(2))
