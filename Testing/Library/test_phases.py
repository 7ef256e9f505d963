"""Layers in the form that matrix units are fast at, beside their plain counterparts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from GEDGANLib.networks import phases
from GEDGANLib.networks.discriminator import Discriminator
from GEDGANLib.networks.generator import Generator


def normal(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_phases_and_back() -> None:
    x = normal(2, 3, 8, 6, 10)
    blocks = phases.to_phases(x)
    assert blocks.shape == (2, 24, 4, 3, 5) and torch.equal(phases.from_phases(blocks), x)
    # Phase (0, 1, 0) of channel 2.
    assert torch.equal(blocks[:, 2 * 3 + 2], x[:, 2, ::2, 1::2, ::2])


def test_packing_convolution() -> None:
    x, weight, bias = normal(2, 4, 8, 6, 10), normal(5, 4, 4, 4, 4), normal(5)
    expected = functional.conv3d(x, weight, bias, 2, 1)
    assert torch.allclose(phases.packing_convolution(x, weight, bias), expected)


def test_pooling_convolution() -> None:
    x, weight, bias = normal(2, 4, 8, 6, 10), normal(5, 4, 1, 1, 1), normal(5)
    expected = functional.conv3d(functional.avg_pool3d(x, 2), weight, bias)
    assert torch.allclose(phases.pooling_convolution(x, weight, bias), expected)


def test_interpolation_borders_included() -> None:
    x = normal(2, 3, 4, 2, 5)
    expected = functional.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
    assert torch.allclose(phases.upsample(x), expected)


def test_convolution_of_phases() -> None:
    x, weight, bias = normal(2, 3, 8, 6, 10), normal(4, 3, 3, 3, 3), normal(4)
    made = phases.from_phases(phases.convolution_of_phases(phases.to_phases(x), weight, bias))
    assert torch.allclose(made, functional.conv3d(x, weight, bias, 1, 1))


@pytest.fixture
def everywhere(monkeypatch):
    """Switches the form on and off on any device."""

    def switch(on: bool) -> None:
        monkeypatch.setattr(phases, "_in_half_precision", lambda x: on)

    return switch


def test_a_generator_is_the_same_either_way(everywhere) -> None:
    torch.manual_seed(0)
    generator = Generator(3, (16, 16, 8), 1, 2, (8, 6, 4), 5)
    latent = torch.randn(2, 5)
    made, slopes = [], []
    for on in (False, True):
        everywhere(on)
        case = generator(latent)
        made.append(case.detach())
        slopes.append(torch.autograd.grad(case.square().sum(), [w for w in generator.parameters() if w.requires_grad]))
    assert torch.allclose(*made, atol=1e-5)
    for one, other in zip(*slopes):
        assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()) + 1e-6)


def test_a_discriminator_and_its_penalty_are_the_same_either_way(everywhere) -> None:
    torch.manual_seed(0)
    judge = Discriminator(3, (16, 16, 8), 1, 2, 0, (4, 6, 8)).double()
    for weight in judge.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    case = normal(2, 4, 16, 16, 8).requires_grad_()
    logits, slopes = [], []
    for on in (False, True):
        everywhere(on)
        logit = judge(case)
        (gradient,) = torch.autograd.grad(logit.sum(), case, create_graph=True)
        logits.append(logit.detach())
        slopes.append(torch.autograd.grad(gradient.square().sum(), list(judge.parameters()), allow_unused=True))
    assert torch.allclose(*logits)
    for one, other in zip(*slopes):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other)


def test_thick_slices_keep_the_plain_layers(everywhere) -> None:
    everywhere(True)
    torch.manual_seed(0)
    strides = ((1, 2, 2), (2, 2, 2))
    generator = Generator(3, (4, 8, 8), 1, 0, (6, 4), 5, strides=strides)
    judge = Discriminator(3, (4, 8, 8), 1, 0, 0, (4, 6), strides=strides)
    assert judge(generator(torch.randn(2, 5))).shape == (2,)


def test_they_are_for_half_precision_on_cuda_alone() -> None:
    assert not phases.pays(normal(1, 1, 2, 2, 2), (2, 2, 2))
    assert not phases.pays(torch.zeros(1, 1, 2, 2, device="meta"), (2, 2))
