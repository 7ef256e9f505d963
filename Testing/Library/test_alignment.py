"""Alignment: splines, velocities and affine parts by their formulas; known deformations are found back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from GEDGANLib.alignment import affine
from GEDGANLib.alignment.registration import Level, Registration, Settings, seen_weight
from GEDGANLib.alignment.sampling import (
    identity,
    sample_image,
    sample_linear,
    sample_spline,
    shrink,
    spacing_of,
    spline_coefficients,
)
from GEDGANLib.alignment.similarity import LocalCorrelation, correlation
from GEDGANLib.alignment.transformations import Transformations
from GEDGANLib.alignment.velocity import (
    compose,
    exponential,
    jacobian_determinant,
    refine,
    roughness,
    smooth,
    steps_for,
)

EXTENT = {2: (40.0, 60.0), 3: (40.0, 60.0, 48.0)}  # mm
SHAPE = {2: (20, 24), 3: (20, 24, 16)}


def blobs(dims: int, count: int = 1, seed: int = 0, channels: int = 1, width: float = 2.0) -> torch.Tensor:
    """Smooth random images, (count, channels, *SHAPE)."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((count, channels, *SHAPE[dims]))
    images = ndimage.gaussian_filter(noise, (0, 0, *[width] * dims))
    return torch.from_numpy(images / np.abs(images).max()).float()


def wobble(dims: int, size: float, count: int = 1, seed: int = 1) -> torch.Tensor:
    """Smooth random velocities of ``size`` mm at most on half of SHAPE, at rest at the ends."""
    shape = tuple(side // 2 for side in SHAPE[dims])
    random = torch.Generator().manual_seed(seed)
    field = smooth(torch.randn(count, dims, *shape, generator=random), 9.0, EXTENT[dims])
    for axis, side in enumerate(shape):
        rest = torch.sin(math.pi * (torch.arange(side) + 0.5) / side).reshape(
            [-1 if i == axis else 1 for i in range(dims)]
        )
        field = field * rest
    return size * field / field.abs().amax()


@pytest.mark.parametrize("dims", [2, 3])
def test_cubic_sampling_is_that_of_scipy(dims):
    image = blobs(dims, width=0.7)
    random = torch.Generator().manual_seed(0)
    extent, shape = EXTENT[dims], SHAPE[dims]
    positions = (torch.rand(1, dims, 500, *[1] * (dims - 1), generator=random) - 0.5) * 1.1
    positions = positions * torch.tensor(extent).reshape(1, -1, *[1] * dims)
    found = sample_spline(spline_coefficients(image), positions, extent)[0, 0].flatten()
    index = [
        np.clip((positions[0, axis].flatten().numpy() / extent[axis] + 0.5) * shape[axis] - 0.5, 0, shape[axis] - 1)
        for axis in range(dims)
    ]
    expected = ndimage.map_coordinates(image[0, 0].double().numpy(), index, order=3, mode="mirror")
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_sampling_at_the_voxels_gives_the_voxels(dims):
    image = blobs(dims, channels=2)
    here = identity(SHAPE[dims], EXTENT[dims], image)
    torch.testing.assert_close(sample_linear(image, here, EXTENT[dims]), image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sample_image(image, here, EXTENT[dims]), image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(refine(image, SHAPE[dims]), image)


def test_cubic_sampling_keeps_air_and_range_and_more_of_the_details_than_linear():
    random = np.random.default_rng(0)
    image = torch.full((1, 1, *SHAPE[3]), -1.0)
    image[0, 0, 6:14, 6:18, 4:12] = torch.from_numpy(random.uniform(-0.5, 1, (8, 12, 8))).float()
    positions = identity(SHAPE[3], EXTENT[3], image) + torch.tensor([1.0, 1.2, 1.4]).reshape(1, 3, 1, 1, 1)
    cubic, linear = sample_image(image, positions, EXTENT[3]), sample_linear(image, positions, EXTENT[3])
    assert cubic.min() == -1 and cubic.max() <= image.max()
    tissue = sample_linear((image > -1).float(), positions, EXTENT[3]) > 0
    assert (cubic[~tissue] == -1).all()  # air is air to the bit
    assert cubic[tissue].std() > 1.1 * linear[tissue].std()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_constant_velocity_is_a_shift_and_its_negative_the_way_back(dims):
    shift = torch.tensor([3.0, -2.0, 1.0][:dims]).reshape(1, dims, *[1] * dims)
    velocity = shift.expand(1, dims, *[side // 2 for side in SHAPE[dims]]).contiguous()
    torch.testing.assert_close(exponential(velocity, EXTENT[dims]), velocity)
    velocity = wobble(dims, 6.0)
    there, back = exponential(velocity, EXTENT[dims]), exponential(-velocity, EXTENT[dims])
    rest = compose(there, back, EXTENT[dims])
    assert rest.abs().max() < 0.12 * there.abs().max() and rest.abs().mean() < 0.02 * there.abs().max()


def test_half_of_it_twice_is_the_whole():
    velocity = wobble(3, 6.0)
    half = exponential(velocity / 2, EXTENT[3], steps=6)
    torch.testing.assert_close(compose(half, half, EXTENT[3]), exponential(velocity, EXTENT[3], steps=7))


def test_as_many_steps_as_the_longest_velocity_asks_for():
    spacing = spacing_of((10, 12, 8), EXTENT[3])
    velocity = torch.zeros(1, 3, 10, 12, 8)
    assert steps_for(velocity, EXTENT[3]) == 6  # as beside others that need them
    velocity[0, 1, 3, 3, 3] = 8 * spacing[1]
    assert steps_for(velocity, EXTENT[3]) == 6  # an eighth of a voxel in the shortest
    velocity[0, 1, 3, 3, 3] *= 4
    assert steps_for(velocity, EXTENT[3]) == 8


def test_jacobian_and_roughness_know_the_voxels_sizes():
    here = identity(SHAPE[3], EXTENT[3], torch.zeros(1))
    stretched = here * torch.tensor([1.2, 0.9, 1.1]).reshape(1, 3, 1, 1, 1)
    torch.testing.assert_close(jacobian_determinant(stretched, EXTENT[3]), torch.full((1, *SHAPE[3]), 1.2 * 0.9 * 1.1))
    folded = here * torch.tensor([-1.0, 1, 1]).reshape(1, 3, 1, 1, 1)
    assert jacobian_determinant(folded, EXTENT[3]).max() < 0
    assert float(roughness(0.3 * here, EXTENT[3])) == pytest.approx(3 * 0.09, rel=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_generators_are_logarithms_and_their_negatives_inverses(dims):
    random = torch.Generator().manual_seed(0)
    generators = 8 * torch.randn(4, dims, dims + 1, generator=random)
    matrices = affine.matrix_of(generators, EXTENT[dims])
    torch.testing.assert_close(affine.generator_of(matrices, EXTENT[dims]), generators, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        affine.matrix_of(-generators, EXTENT[dims]) @ matrices, torch.eye(dims + 1).expand(4, -1, -1), atol=1e-4, rtol=0
    )
    mirror = torch.diag(torch.tensor([-1.0, *[1.0] * dims]))
    with pytest.raises(ValueError, match="mirrors"):
        affine.generator_of(mirror[None], EXTENT[dims])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_transformation_and_its_inverse_lead_back(dims):
    random = torch.Generator().manual_seed(0)
    moved = Transformations(4 * torch.randn(1, dims, dims + 1, generator=random), wobble(dims, 4.0), EXTENT[dims])
    shape = SHAPE[dims]
    there, back = moved.positions(shape), moved.positions(shape, inverse=True)
    again = sample_linear(there - identity(shape, EXTENT[dims], there), back, EXTENT[dims]) + back
    away = (again - identity(shape, EXTENT[dims], there)).norm(dim=1)
    inside = (back.abs() < 0.5 * torch.tensor(EXTENT[dims]).reshape(1, -1, *[1] * dims) - 2).all(1)
    assert inside.float().mean() > 0.5 and float(away[inside].median()) < 0.25  # mm, of voxels of 2 to 3 mm


def test_centring_changes_all_transformations_by_one_and_the_same():
    random = torch.Generator().manual_seed(0)
    generators = 3 * torch.randn(5, 3, 4, generator=random) + 5
    moved = Transformations(generators, torch.cat([wobble(3, 4.0, seed=seed) for seed in range(5)]), EXTENT[3])
    moved.velocities -= moved.velocities.mean(0, keepdim=True)
    before = moved.positions(SHAPE[3])
    shift = affine.matrix_of(-generators.mean(0, keepdim=True), EXTENT[3])
    moved = Transformations(generators.clone(), moved.velocities.clone(), EXTENT[3])
    moved.centre()
    assert moved.generators.mean(0).abs().max() < 1e-3 and moved.velocities.mean(0).abs().max() < 1e-4
    after = moved.positions(SHAPE[3])
    looked_up = affine.apply(shift, identity(SHAPE[3], EXTENT[3], before))
    expected = sample_linear(
        before - identity(SHAPE[3], EXTENT[3], before), looked_up.expand(5, -1, -1, -1, -1), EXTENT[3]
    )
    expected = expected + looked_up
    inside = (looked_up.abs() < 0.4 * torch.tensor(EXTENT[3]).reshape(1, 3, 1, 1, 1)).all(1)[0]
    away = (after - expected).norm(dim=1)[:, inside]
    assert float(away.median()) < 0.3  # mm; the mean is taken off to first order alone


def test_local_correlation_is_one_for_another_brightness_and_small_for_strangers():
    first, second = blobs(3), blobs(3, seed=5)
    compare = LocalCorrelation(first, 5, noise=1e-6)
    assert float(compare(0.3 * first - 0.2).mean()) > 0.95
    assert float(compare(-first).mean()) > 0.95  # of another modality
    assert float(compare(second).mean()) < 0.4
    everywhere = torch.ones(1, 1, *SHAPE[3])
    assert float(correlation(first, 2 * first + 1, everywhere)) == pytest.approx(1, abs=1e-3)
    flat = LocalCorrelation(torch.zeros(1, 1, *SHAPE[3]), 5)(second)
    assert float(flat.abs().max()) < 1e-3  # air neither attracts nor repels


def test_what_a_scan_did_not_see_has_no_weight():
    here = identity((10, 10), (20.0, 20.0), torch.zeros(1))
    weight = seen_weight(here, torch.tensor([[[-6.0, 6.0], [-10.0, 10.0]]]), (2.0, 2.0))[0, 0]
    assert weight[:2].max() == 0 and weight[2:8].min() == 1 and weight[8:].max() == 0


QUICK = Settings(levels=(Level(4, 30, 0.25, False), Level(4, 20, 0.25), Level(2, 30, 0.25), Level(1, 30, 0.25)))
KINDS = {
    "2D": {"dims": 2},
    "3D": {"dims": 3},
    "two channels": {"dims": 3, "channels": 2},
    "thick slices": {"dims": 3, "thick": 4},
    "cropped": {"dims": 3, "cropped": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_known_deformations_are_found(kind):
    """The median distance from where a point should be is less than half a voxel, where there is something to see."""
    asked = {"dims": 2, "channels": 1, "thick": 1, "cropped": False, **KINDS[kind]}
    dims, extent = asked["dims"], (48.0, 56.0, 48.0)[: asked["dims"]]
    shape = [24, 28, 24][:dims]
    random = np.random.default_rng(0)
    noise = random.standard_normal((1, asked["channels"], *shape))
    template = torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, *[1.5] * dims))).float()
    template = template / template.abs().amax()
    generators = torch.from_numpy(random.normal(0, 2.0, (1, dims, dims + 1))).float()
    half = [side // 2 for side in shape]
    velocity = smooth(torch.from_numpy(random.standard_normal((1, dims, *half))).float(), 8.0, extent)
    true = Transformations(generators, 4.0 * velocity / velocity.abs().amax(), extent)
    case = sample_image(template, true.positions(shape, inverse=True), extent)
    box = torch.tensor([[-side / 2, side / 2] for side in extent])[None]
    if asked["cropped"]:  # a quarter of the head was not seen; its edge is repeated there
        cut = 3 * shape[0] // 4
        case[:, :, cut:] = case[:, :, cut - 1 : cut]
        box[0, 0, 1] = (cut / shape[0] - 0.5) * extent[0]
    if asked["thick"] > 1:
        thin = [1, 1, asked["thick"]]
        case, template = (torch.nn.functional.avg_pool3d(image, thin) for image in (case, template))
    registration = Registration(case, box, extent, QUICK, template)
    found = registration.run().positions(shape)
    away = (found - true.positions(shape)).norm(dim=1)
    seen = seen_weight(true.positions(shape), box, spacing_of(shape, extent))[:, 0] > 0.5
    assert float(away[seen].median()) < 0.5 * 2.0 * asked["thick"] ** (1 / 3)
    start = (identity(shape, extent, case) - true.positions(shape)).norm(dim=1)
    assert float(start[seen].median()) > 2.0


def brains(count: int) -> tuple[torch.Tensor, torch.Tensor, tuple[float, ...]]:
    """Images and fields of view of the cohort."""
    from GEDGANLib.volumes.cohort import make_case

    images = np.stack([make_case(index, 0, (20, 24, 20), 8.0).image for index in range(count)])
    images = torch.from_numpy(images / images.max() * 2 - 1).float()
    extent = (160.0, 192.0, 160.0)
    return images, torch.tensor([[-side / 2, side / 2] for side in extent]).expand(count, 3, 2), extent


def test_a_scan_comes_to_lie_where_it_does_whatever_is_registered_beside_it():
    """Beside a second one that has farther to go, its deformation is composed as often as alone."""
    images, boxes, extent = brains(3)
    template, quick = images[2:], replace(QUICK, levels=(Level(4, 15, 0.25, False), Level(2, 20, 0.5)))
    bent = torch.roll(images[1:2], (3, -3), (2, 3))
    alone = Registration(images[:1], boxes[:1], extent, quick, template).run().positions(images.shape[2:])
    beside = Registration(torch.cat([images[:1], bent]), boxes[:2], extent, quick, template).run()
    apart = (beside.of([0]).positions(images.shape[2:]) - alone).norm(dim=1)
    assert float(apart.mean()) < 0.005 * 8.0  # mm, voxels of 8


def test_all_cases_are_brought_to_their_mean_which_lies_in_their_middle():
    images, boxes, extent = brains(6)
    registration = Registration(images, boxes, extent, QUICK)
    before = float((images - images.mean(0)).square().mean())
    moved = registration.run()
    aligned = sample_linear(images, moved.positions(images.shape[2:]), extent)
    assert float((aligned - aligned.mean(0)).square().mean()) < 0.5 * before
    assert moved.generators.mean(0).abs().max() < 2.0  # mm
    assert jacobian_determinant(moved.positions(images.shape[2:]), extent).min() > 0


def test_centring_takes_off_what_the_start_left(monkeypatch):
    images, boxes, extent = brains(5)
    registration = Registration(images, boxes, extent, replace(QUICK, levels=(Level(4, 2, 0.1), Level(4, 2, 0.1))))
    registration.state.moved.generators += torch.tensor([3.0, -6.0, 2.0]).reshape(1, 3, 1)
    registration.state.moved.velocities += 1.0
    moved = registration.run()
    assert moved.generators.mean(0).abs().max() < 0.5 and moved.velocities.mean(0).abs().max() < 0.5  # mm


@pytest.mark.parametrize(("count", "coarse"), [(12, 4), (10, 7), (100, 64)])
def test_shrinking_moves_nothing(count, coarse):
    """What lies in a voxel stays where it is, exactly where sides divide each other, else by a tenth of a voxel."""
    ramp = identity((count, 3), (10.0, 3.0), torch.zeros(1))[:, :1]
    found = shrink(ramp, (coarse, 3))
    torch.testing.assert_close(
        found,
        identity((coarse, 3), (10.0, 3.0), torch.zeros(1))[:, :1],
        atol=1e-5 if count % coarse == 0 else 0.15 * 10 / count,
        rtol=0,
    )


def test_it_goes_on_bit_for_bit_from_what_is_kept():
    images, boxes, extent = brains(4)
    quick = replace(QUICK, levels=(Level(4, 6, 0.25, False), Level(2, 6, 0.25), Level(1, 3, 0.25)))
    whole = Registration(images, boxes, extent, quick)
    whole.run()
    for kept_at in (3, 6, 8, 13):
        first = Registration(images, boxes, extent, quick)
        while first.done < kept_at:
            first.step()
        tensors, where = first.kept()
        second = Registration(images, boxes, extent, quick)
        second.load({name: tensor.clone() for name, tensor in tensors.items()}, dict(where))
        moved = second.run()
        assert torch.equal(moved.velocities, whole.state.moved.velocities)
        assert torch.equal(moved.generators, whole.state.moved.generators)
