"""The eigen-directional field: what it says of simple shapes, how it turns with a volume, by blocks as a whole."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from GEDGANLib.structure.field import FIELDS, EigenDirectionalField, StructureField
from GEDGANLib.structure.tensor import COMPONENTS


def shape_image(kind: str) -> torch.Tensor:
    """A sheet across x, a tube along z or a ball, soft-edged, 33 voxels a side."""
    axis = torch.arange(33, dtype=torch.float32) - 16
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = {"sheet": x.abs(), "tube": (x**2 + y**2).sqrt(), "ball": (x**2 + y**2 + z**2).sqrt()}[kind]
    return torch.sigmoid(4 - radius)[None, None]


def test_sheet_tube_and_ball_look_like_what_they_are():
    field = EigenDirectionalField(spacing=(1.0,) * 3, sigma=1.0, rho=4.0, tau=1e-9)
    share = {}
    for kind in ("sheet", "tube", "ball"):
        centre = field(shape_image(kind))[0, :, 16, 16, 16]
        share[kind] = (centre[:6], centre[6:12])
    surface, tube = share["sheet"]
    torch.testing.assert_close(surface, torch.tensor([1.0, 0, 0, 0, 0, 0]), atol=1e-3, rtol=0)
    assert tube.abs().max() < 1e-3
    surface, tube = share["tube"]  # gradients point every way across z: two equal values, direction z stands out
    torch.testing.assert_close(tube, torch.tensor([0, 0, 0.5, 0, 0, 0]), atol=1e-3, rtol=0)
    assert surface.abs().max() < 1e-3
    assert max(part.abs().max() for part in share["ball"]) < 1e-3


def matrices_of(channels: np.ndarray) -> np.ndarray:
    """Six channels (6, *grid) -> symmetric matrices (*grid, 3, 3)."""
    matrices = np.empty((*channels.shape[1:], 3, 3))
    for channel, (i, j) in enumerate(COMPONENTS[3]):
        matrices[..., i, j] = matrices[..., j, i] = channels[channel]
    return matrices


def axis_rotations() -> list[np.ndarray]:
    """The 24 rotations that map the axes onto themselves."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            rotation = np.zeros((3, 3), dtype=int)
            rotation[range(3), order] = signs
            if round(np.linalg.det(rotation)) == 1:
                found.append(rotation)
    return found


def turned(array: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """``array`` (X, Y, Z, ...) turned: what was along axis j is along axis i where ``rotation[i, j]`` is not 0."""
    order = np.abs(rotation).argmax(1)
    array = array.transpose(*order, *range(3, array.ndim))
    return np.flip(array, [axis for axis in range(3) if rotation[axis].sum() < 0])


def test_there_are_24_axis_rotations():
    assert len({rotation.tobytes() for rotation in axis_rotations()}) == 24


@pytest.mark.parametrize("rotation", axis_rotations(), ids=lambda rotation: "".join(map(str, rotation.ravel())))
def test_axis_rotations_rotate_the_field_exactly(random, rotation):
    image = random.standard_normal((10, 9, 8))
    field = EigenDirectionalField(spacing=(1.0,) * 3, sigma=1.0, rho=2.0, tau=0.1)
    plain = field(torch.from_numpy(image)[None, None])[0].numpy()
    result = field(torch.from_numpy(turned(image, rotation).copy())[None, None])[0].numpy()
    for start in (0, 6):
        expected = rotation @ turned(matrices_of(plain[start : start + 6]), rotation) @ rotation.T
        np.testing.assert_allclose(matrices_of(result[start : start + 6]), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result[12], turned(plain[12], rotation), rtol=1e-9)


def test_a_rotation_by_30_degrees_rotates_the_field():
    """Compared at the centre, which stays where it is: nothing has to be interpolated."""
    random = np.random.default_rng(5)
    axis = np.array([1.0, 2.0, 3.0]) / math.sqrt(14)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = math.radians(30)
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    side = 25
    points = np.stack(np.meshgrid(*[np.arange(side) - side // 2] * 3, indexing="ij"), -1).astype(float)

    images, turned_images = [], []
    for _ in range(30):
        waves, phases = random.standard_normal((12, 3)) * 0.5, random.uniform(0, 2 * math.pi, 12)
        images.append(np.sin(points @ waves.T + phases).sum(-1))
        turned_images.append(np.sin(points @ rotation @ waves.T + phases).sum(-1))
    field = EigenDirectionalField(spacing=(1.0,) * 3, sigma=1.0, rho=2.0, tau=0.5)
    centre = (slice(None), slice(None), *[slice(side // 2, side // 2 + 1)] * 3)
    plain, result = (
        field(torch.from_numpy(np.stack(stack))[:, None])[centre].flatten(1).T.numpy()
        for stack in (images, turned_images)
    )
    for start in (0, 6):
        expected = rotation @ matrices_of(plain[start : start + 6]) @ rotation.T
        difference = np.abs(matrices_of(result[start : start + 6]) - expected).max()
        assert difference < 0.02 * np.abs(expected).max()
    assert np.abs(result[12] - plain[12]).max() < 0.02 * plain[12].max()


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize(("shape", "spacing"), [((37, 41, 22), (1.0, 0.8, 3.0)), ((50, 33), (1.0, 2.0))])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_blocks_with_a_halo_equal_the_whole(random, kind, shape, spacing, stride):
    image = torch.from_numpy(random.standard_normal((2, 2, *shape))).float()
    field = FIELDS[kind](spacing=spacing, sigma=1.0, rho=2.0, tau=0.1, stride=stride)
    whole, blocks = field(image), field.by_blocks(image, side=7)
    assert whole.shape == (2, 2 * field.CHANNELS[len(shape)], *(-(-side // stride) for side in shape))
    torch.testing.assert_close(blocks, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_have_finite_derivatives_twice_where_an_image_is_flat(kind):
    image = torch.zeros(1, 1, 8, 8, 8)
    image[..., 4:, :, :] = 1e-4
    image.requires_grad_()
    field: StructureField = FIELDS[kind](spacing=(1.0,) * 3, sigma=0.5, rho=0.5, tau=1e-3)
    (gradient,) = torch.autograd.grad(field(image).square().sum(), image, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), image)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(second).all()


def test_a_field_says_which_images_it_takes():
    field = EigenDirectionalField(spacing=(1.0,) * 3, sigma=1.0, rho=2.0, tau=0.1)
    for compute in (field, field.by_blocks):
        with pytest.raises(ValueError, match="spacing"):
            compute(torch.zeros(1, 1, 8, 8))
