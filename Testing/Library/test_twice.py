"""Convolutions that are fast to differentiate twice."""

from __future__ import annotations

import pytest
import torch

from GEDGANLib.networks import blocks, twice
from GEDGANLib.networks.discriminator import Discriminator
from GEDGANLib.training.objectives import discriminator_loss


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0)])
def test_first_and_second_derivatives_are_right(stride: int, padding: int) -> None:
    x, weight, bias = leaves((2, 2, 4, 3, 4), (3, 2, 3, 3, 3), (3,))

    def convolve(*tensors: torch.Tensor) -> torch.Tensor:
        return twice.convolution(*tensors, (stride,) * 3, (padding,) * 3)

    expected = torch.nn.functional.conv3d(x, weight, bias, stride, padding)
    assert torch.allclose(convolve(x, weight, bias), expected)
    assert torch.autograd.gradcheck(convolve, (x, weight, bias))
    assert torch.autograd.gradgradcheck(convolve, (x, weight, bias))


def test_gradients_of_weights_are_left_out_where_nobody_asks() -> None:
    x, weight = leaves((1, 1, 3, 3, 3), (1, 1, 3, 3, 3))
    with twice.gradients_of_inputs_alone():
        result = twice.convolution(x, weight).sum()
        (of_x,) = torch.autograd.grad(result, x, create_graph=True)
        assert torch.equal(of_x, weight)
        assert torch.autograd.grad(twice.convolution(x, weight).sum(), weight, allow_unused=True) == (None,)
    assert torch.equal(torch.autograd.grad(twice.convolution(x, weight).sum(), weight)[0], x)


def test_a_penalised_loss_has_the_gradients_of_the_plain_convolutions(monkeypatch) -> None:
    torch.manual_seed(0)
    judge = Discriminator(3, (8, 8, 8), 1, 0, 0, (4, 6)).double()
    for weight in judge.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    real, generated = (torch.randn(2, 1, 8, 8, 8, dtype=torch.float64) for _ in range(2))

    def slopes() -> tuple[torch.Tensor, ...]:
        loss = discriminator_loss(lambda inputs: judge(*inputs), (real,), (generated,), 2.0)
        return torch.autograd.grad(loss.total, list(judge.parameters()))

    plain = slopes()
    monkeypatch.setattr(
        blocks.Convolution3d,
        "forward",
        lambda self, x: twice.convolution(x, self.weight, self.bias, self.stride, self.padding),
    )
    for one, other in zip(plain, slopes()):
        assert torch.allclose(one, other)


def test_the_activation_keeps_its_result_alone() -> None:
    (x,) = leaves((2, 3, 4))
    assert torch.autograd.gradcheck(blocks.leaky, (x,)) and torch.autograd.gradgradcheck(blocks.leaky, (x,))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        result = blocks.leaky(x)
    assert len(kept) == 1 and torch.equal(kept[0], result)
    with torch.no_grad():
        assert torch.equal(blocks.leaky(x), result)
