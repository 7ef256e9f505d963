"""Changes as tensors alone do what the drawn ones do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from GEDGANLib.training import augmentation, blind_changes
from GEDGANLib.training.augmentation import Augmentation

KINDS = ("shift", "scale", "rotation", "intensity", "noise", "cut-out")


def cases(shape: tuple[int, ...]) -> torch.Tensor:
    """(6, 1 + 2, *shape): an image within [-1, 1], and label probabilities."""
    random = torch.Generator().manual_seed(0)
    image = torch.rand(6, 1, *shape, generator=random) * 2 - 1
    labels = torch.rand(6, 2, *shape, generator=random).softmax(1)
    return torch.cat([image, labels], 1)


@pytest.mark.parametrize("shape", [(8, 10, 6), (12, 8)])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_they_are_the_drawn_ones_but_for_the_noise(shape: tuple[int, ...], strength: float) -> None:
    flips, spacing = (0,), tuple(1.0 + axis for axis in range(len(shape)))
    drawn = Augmentation(KINDS, flips, shape).draw(6, 1, strength, torch.Generator().manual_seed(1))
    drawn = replace(drawn, noise=torch.zeros_like(drawn.noise))
    one, other = cases(shape).requires_grad_(), cases(shape).requires_grad_()
    expected = augmentation.apply(one, drawn, 1, spacing)
    changes = blind_changes.as_tensors(drawn, shape, spacing, torch.device("cpu"))
    found = blind_changes.apply(other, changes, 1, flips)
    assert torch.allclose(found, expected, atol=1e-5)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    slopes = [torch.autograd.grad(y, x, upstream)[0] for y, x in ((expected, one), (found, other))]
    assert torch.allclose(*slopes, atol=1e-4)


def test_noise_is_as_strong_as_drawn_and_the_same_again() -> None:
    shape = (16, 16, 16)
    drawn = Augmentation(("noise",), (), shape).draw(6, 1, 1.0, torch.Generator().manual_seed(1))
    noise = [blind_changes.as_tensors(drawn, shape, (1.0,) * 3, torch.device("cpu"))["noise"] for _ in range(2)]
    assert torch.equal(*noise)
    assert torch.allclose(noise[0].flatten(1).std(1), drawn.noise, rtol=0.05)
