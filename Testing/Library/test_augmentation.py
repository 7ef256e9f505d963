"""Augmentation: image and labels move together, in mm, the field turns with them, gradients come through, r steers."""

from __future__ import annotations

import math

import pytest
import torch

from GEDGANLib.planning.words import AUGMENTATIONS
from GEDGANLib.structure.field import RelativeTensorField
from GEDGANLib.training.augmentation import Augmentation, Drawn, Strength, apply

SHAPE = (24, 20, 16)


def still(count=1, channels=1, dims=3) -> Drawn:
    """Draws that change nothing."""
    return Augmentation((), (), SHAPE[:dims]).draw(count, channels, 1.0, torch.Generator().manual_seed(0))


def replaced(drawn: Drawn, **values) -> Drawn:
    return Drawn(**{**vars(drawn), **values})


def blob(centre, shape=SHAPE, spacing=(1.0, 1.0, 1.0)):
    axes = [(torch.arange(side) - c) * s for side, c, s in zip(shape, centre, spacing)]
    grid = torch.meshgrid(*axes, indexing="ij")
    inside = torch.exp(-sum(axis**2 for axis in grid) / 8)
    return torch.stack([inside * 2 - 1, 1 - inside, inside])[None]


def centre_of(picture):
    weights = picture / picture.sum()
    axes = torch.meshgrid(*[torch.arange(side, dtype=torch.float32) for side in picture.shape], indexing="ij")
    return [float((weights * axis).sum()) for axis in axes]


def test_without_changes_a_case_stays_as_it_is():
    case = blob((12, 10, 8))
    torch.testing.assert_close(apply(case, still(), 1, (1.0,) * 3), case)


def test_image_and_labels_move_together_by_whole_voxels():
    case = blob((12, 10, 8))
    placement = still().placement.clone()
    placement[0, :, 3] = torch.tensor([3.0, -2.0, 1.0])  # a voxel takes what lies so far from it
    moved = apply(case, replaced(still(), moved=torch.tensor([True]), placement=placement), 1, (1.0,) * 3)
    assert centre_of(moved[0, 2]) == pytest.approx([9, 12, 7], abs=0.05)
    torch.testing.assert_close(moved[0, 0], moved[0, 2] * 2 - 1, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[0, 2, 4:14, 6:18, 2:12], case[0, 2, 7:17, 4:16, 3:13], atol=1e-4, rtol=0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0)])
def test_rotations_are_rotations_in_mm(spacing):
    """A quarter turn about the first axis puts a blob 4 mm along the second axis 4 mm along the third."""
    middle = [(side - 1) / 2 for side in (24, 24, 24)]
    case = blob((middle[0], middle[1] + 4 / spacing[1], middle[2]), (24, 24, 24), spacing)
    angle = math.pi / 2
    matrix = torch.tensor([[1.0, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    placement = torch.cat([matrix.T, torch.zeros(3, 1)], 1)[None]  # where a moved voxel comes from: the inverse
    turned = apply(case, replaced(still(), moved=torch.tensor([True]), placement=placement), 1, spacing)
    expected = [middle[0], middle[1], middle[2] + 4 / spacing[2]]
    assert centre_of((turned[0, 2] - 0.02).clamp_min(0)) == pytest.approx(expected, abs=0.1)


def test_the_field_of_a_turned_case_is_the_turned_field():
    """S' = R S R^T: small turns of a smooth picture, in its middle."""
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.interpolate(
        torch.randn(1, 1, 6, 6, 6, generator=generator), size=(32, 32, 32), mode="trilinear", align_corners=True
    )
    angle = math.radians(8)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    drawn = Augmentation((), (), (32, 32, 32)).draw(1, 1, 1.0, generator)
    placement = torch.cat([rotation.T, torch.zeros(3, 1)], 1)[None]
    drawn = replaced(drawn, moved=torch.tensor([True]), placement=placement)
    field = RelativeTensorField((1.0,) * 3, 2.0, 2.0, 1e-3)
    turned = field(apply(image, drawn, 1, (1.0,) * 3))[0]
    moved = apply(field(image), drawn, 6, (1.0,) * 3)[0]
    order = [[0, 3, 4], [3, 1, 5], [4, 5, 2]]
    matrices = moved[torch.tensor(order).flatten()].unflatten(0, (3, 3))
    expected = torch.einsum("ai,ijxyz,bj->abxyz", rotation, matrices, rotation)
    ours = turned[torch.tensor(order).flatten()].unflatten(0, (3, 3))
    inside = (..., slice(8, 24), slice(8, 24), slice(8, 24))
    error = (ours - expected)[inside].square().mean().sqrt() / expected[inside].square().mean().sqrt()
    assert error < 0.05


def test_mirrored_only_along_legal_axes():
    random = torch.Generator().manual_seed(0)
    drawn = Augmentation((), (1,), SHAPE).draw(200, 1, 1.0, random)
    assert drawn.mirrored[:, [0, 2]].sum() == 0 and 70 < drawn.mirrored[:, 1].sum() < 130
    case = blob((12, 4, 8))
    one = replaced(still(), mirrored=torch.tensor([[False, True, False]]))
    torch.testing.assert_close(apply(case, one, 1, (1.0,) * 3), case.flip(3))


def test_a_cut_shuts_labels_and_greys_the_image():
    drawn = replaced(still(), cut_start=torch.tensor([[2, 2, 2]]), cut_end=torch.tensor([[6, 7, 8]]))
    cut = apply(blob((12, 10, 8)) + 3, drawn, 1, (1.0,) * 3)
    assert (cut[0, :, 2:6, 2:7, 2:8] == 0).all() and int((cut[0, 0] == 0).sum()) == 4 * 5 * 6


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("dims", [2, 3])
def test_each_kind_changes_something_and_lets_gradients_through(kind, dims):
    random = torch.Generator().manual_seed(1)
    shape = SHAPE[:dims]
    drawn = Augmentation((kind,), (), shape).draw(4, 2, 1.0, random)
    case = torch.rand(4, 5, *shape, generator=random).mul(2).sub(1).requires_grad_()
    changed = apply(case, drawn, 2, (1.0, 1.5, 2.0)[:dims])
    assert changed.shape == case.shape and torch.isfinite(changed).all()
    assert (changed[:, :2] != case[:, :2]).any()
    changed.square().sum().backward()
    assert torch.isfinite(case.grad).all() and case.grad.abs().sum() > 0
    nothing = Augmentation((kind,), (), shape).draw(4, 2, 0.0, random)
    torch.testing.assert_close(apply(case, nothing, 2, (1.0, 1.5, 2.0)[:dims]), case)


def test_parts_of_a_batch_are_changed_as_in_the_whole():
    random = torch.Generator().manual_seed(2)
    drawn = Augmentation(AUGMENTATIONS, (0,), SHAPE).draw(4, 1, 0.8, random)
    case = torch.rand(4, 3, *SHAPE, generator=random)
    whole = apply(case, drawn, 1, (1.0,) * 3)
    for part in (slice(0, 2), slice(2, 4)):
        torch.testing.assert_close(apply(case[part], drawn.part(part), 1, (1.0,) * 3), whole[part])


def test_strength_rises_with_overfitting_and_falls_without():
    strength = Strength(0.8, 0.5, 1000)
    assert strength.overfitting is None
    for _ in range(30):
        strength.measure(2.0, 0.4, 16)  # held-out cases look nearly as synthetic: r = 0.8
    assert strength.overfitting == pytest.approx(0.8) and strength.value == pytest.approx(0.48)
    for _ in range(100):
        strength.measure(2.0, 0.4, 16)
    assert strength.value == 0.8
    for _ in range(200):
        strength.measure(2.0, 2.0, 16)
    assert strength.value == 0.0
    other = Strength(0.8, 0.5, 1000)
    other.load_state(strength.state())
    assert other.state().tolist() == strength.state().tolist()


def test_a_discriminator_that_tells_nothing_apart_knows_nothing_by_heart():
    strength = Strength(0.8, 0.5, 1000)
    strength.measure(0.0, -0.5, 16)
    assert strength.overfitting == 0.0 and strength.value == 0.0
