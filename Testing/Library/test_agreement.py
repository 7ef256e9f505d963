"""Agreement of labels and image: what it says where both are known, and that few labels can be shut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from GEDGANLib.networks.discriminator import Discriminator
from GEDGANLib.structure.agreement import AgreementField
from GEDGANLib.training.trainer import Trainer

AXES = torch.meshgrid(*[torch.arange(25, dtype=torch.float64) - 12] * 3, indexing="ij")


def case_of(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return torch.stack([image, 1 - label, label])[None]


@pytest.mark.parametrize(
    ("image_axis", "sign", "expected"), [(0, 1.0, 1.0), (0, -1.0, -1.0), (1, 1.0, 0.0), (None, 1.0, 0.0)]
)
def test_it_is_what_the_gradients_say(image_axis, sign, expected):
    label = torch.sigmoid(3 * AXES[0])
    image = sign * torch.sigmoid(3 * AXES[image_axis]) if image_axis is not None else torch.zeros_like(label)
    field = AgreementField((1.0,) * 3, sigma=1.0, rho=1.5, tau=1e-6, image_channels=1)
    agreement = field(case_of(image, label))
    assert agreement.shape == (1, 1, 25, 25, 25)
    # Boundary noise counts a little even where boundary and surface are one.
    assert float(agreement[0, 0, 12, 12, 12]) == pytest.approx(expected, abs=0.1)
    assert agreement.abs().max() <= 1


def test_millimetres_count_not_voxels():
    """A boundary at 45° in mm is at another angle in voxels."""
    spacing = (1.0, 3.0, 1.0)
    x, y = AXES[0] * spacing[0], AXES[1] * spacing[1]
    diagonal = torch.sigmoid((x + y) / 6)
    field = AgreementField(spacing, sigma=3.0, rho=3.0, tau=1e-6, image_channels=1)
    agreement = field(case_of(torch.sigmoid(x / 6), diagonal))[0, 0, 12, 12, 12]
    assert float(agreement) == pytest.approx(2**-0.5, abs=0.15)


def test_stride_channels_and_derivatives():
    case = torch.rand(2, 2 + 4, 8, 12, 8, dtype=torch.float64, requires_grad=True)
    field = AgreementField((1.0, 1.0, 2.0), 1.0, 2.0, 0.01, image_channels=2, stride=2)
    agreement = field(case)
    assert agreement.shape == (2, field.channels(3), 4, 6, 4) == (2, 6, 4, 6, 4)
    small = torch.rand(1, 3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    one = AgreementField((1.0,) * 3, 0.8, 1.0, 0.1, image_channels=1)
    assert torch.autograd.gradcheck(one, (small,))
    assert torch.autograd.gradgradcheck(one, (small,))


def test_it_is_shut_with_the_labels():
    torch.manual_seed(0)
    discriminator = Discriminator(3, (8, 8, 8), 1, 2, 3, (8,), agreement_channels=2)
    case, field = torch.randn(2, 4, 8, 8, 8), torch.randn(2, 5, 4, 4, 4)
    other = torch.cat([field[:, :3], torch.randn(2, 2, 4, 4, 4)], 1)
    labelled = torch.tensor([True, False])
    first, second = discriminator(case, field, labelled), discriminator(case, other, labelled)
    assert first[0] != second[0]
    torch.testing.assert_close(first[1], second[1])


@pytest.mark.parametrize("heads", ["shared", "separate"])
@pytest.mark.parametrize(
    ("kind", "pair_sees"), [("eigen-directional", "both"), ("eigen-directional", "image"), ("none", "image")]
)
def test_it_trains(small_plan, small_cases, heads, kind, pair_sees):
    cases = [replace(case, labels=None) if index > 2 else case for index, case in enumerate(small_cases)]
    networks = replace(small_plan.networks, heads=heads, pair_sees=pair_sees)
    field = replace(small_plan.field, kind=kind, agreement=True)
    trainer = Trainer(replace(small_plan, networks=networks, field=field), cases, "cpu", 0)
    assert all(trainer.step().sound() for _ in range(2))
    assert trainer.critic() is not None
