"""Eigen-directions of the anatomy: what they are of, what they tell and give away, and a case from its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from GEDGANLib.alignment import blocks as of_blocks
from GEDGANLib.alignment.blocks import Blocks, blocks_of, label_differences, look_of, smoothing_width, with_look
from GEDGANLib.alignment.label_modes import label_modes
from GEDGANLib.alignment.modes import WEIGHTS, Modes, components_of, modes_of, products_of
from GEDGANLib.alignment.sampling import shrink
from GEDGANLib.alignment.sharing import (
    LARGEST_AUC,
    LARGEST_LEVERAGE,
    area_under_curve,
    exposures,
    for_sharing,
)
from GEDGANLib.alignment.template import judge, make_template
from GEDGANLib.alignment.transformations import Transformations
from GEDGANLib.alignment.velocity import smooth
from GEDGANLib.networks.statistical import StatisticalGenerator, class_statistics

EXTENT = (24.0, 32.0, 24.0)
CONTROL, GRID = (4, 5, 4), (8, 10, 8)


def population(count: int, kinds: int, noise: float = 0.1, seed: int = 0) -> Blocks:
    """Cases that differ along ``kinds`` smooth directions, and a little each for itself."""
    random = torch.Generator().manual_seed(seed)

    def fields(*shape: int) -> torch.Tensor:
        strength = 1.0 / torch.arange(1, kinds + 1)
        directions = torch.randn(kinds, *shape, generator=random)
        if len(shape) > 2:
            directions = smooth(directions, smoothing_width(EXTENT, GRID), EXTENT)
        own = torch.randn(count, *shape, generator=random)
        return torch.tensordot(scores * strength, directions / directions.std(), 1) + noise * own

    scores = torch.randn(count, kinds, generator=random)
    looks = fields(1, *GRID)
    return Blocks(fields(3, 4), fields(3, *CONTROL), looks - looks.mean(0), torch.zeros(1, *GRID))


@pytest.fixture
def cases() -> Blocks:
    return population(12, 3)


def test_scores_are_of_mean_0_and_variance_1_and_all_of_them_give_the_cases_back(cases):
    components = components_of(products_of(cases, range(12), EXTENT), range(12))
    scores, modes = components.scores(), modes_of(cases, components, EXTENT)
    assert components.count == 11 and components.values.sum() == pytest.approx(sum(WEIGHTS))
    assert np.all(np.diff(components.values) <= 0)
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scores.T @ scores / 11, np.eye(11), atol=1e-5)
    told = torch.from_numpy(scores).float()
    for mean, mode, block in (
        (modes.generator, modes.generators, cases.generators),
        (modes.velocity, modes.velocities, cases.velocities),
        (cases.looks.mean(0), modes.looks, cases.looks),
    ):
        torch.testing.assert_close(mean + torch.tensordot(told, mode, 1), block, atol=2e-4, rtol=1e-3)


def test_the_strongest_direction_comes_first_and_new_cases_have_scores_too():
    everyone = population(60, 2, noise=0.05)
    members, new = range(40), list(range(40, 60))
    components = components_of(products_of(everyone, members, EXTENT), members)
    explained = components.explained()
    assert np.median(explained[new, 1]) > 0.8 and np.median(explained[new, 0]) > 0.3
    np.testing.assert_allclose(explained[:40, -1], 1, atol=1e-4)
    spread = components.scores()[new, 0].std()
    assert 0.6 < spread < 1.6


def test_rows_that_are_left_out_are_as_if_they_had_never_been_there(cases):
    rest = [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    from_all = components_of(products_of(cases, range(12), EXTENT), rest)
    fewer = Blocks(cases.generators[rest], cases.velocities[rest], cases.looks[rest], cases.look)
    anew = components_of(products_of(fewer, range(10), EXTENT), range(10))
    np.testing.assert_allclose(from_all.values, anew.values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.abs(from_all.scores()[rest][:, :3]), np.abs(anew.scores()[:, :3]), atol=1e-3)


def test_modes_of_some_cases_are_mixed_of_those_of_all(cases):
    rest = list(range(2, 12))
    products = products_of(cases, range(12), EXTENT)
    whole, few = components_of(products, range(12)), components_of(products, rest).first(4)
    units = few.coefficients[rest] / np.sqrt(few.values)
    old = whole.scores()[rest]
    mixed = modes_of(cases, whole, EXTENT).recombined(units.T @ old / np.sqrt(9), old.mean(0))
    straight = modes_of(cases, few, EXTENT)
    torch.testing.assert_close(mixed.velocities, straight.velocities, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(mixed.velocity, straight.velocity, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(mixed.generators, straight.generators, atol=1e-4, rtol=1e-3)
    assert mixed.count == 4


def test_one_case_or_cases_that_are_all_the_same_have_no_directions(cases):
    same = Blocks(*(block[:1].expand(4, *block.shape[1:]) for block in cases.all()), cases.look)
    with pytest.raises(ValueError, match="same"):
        components_of(products_of(same, range(4), EXTENT), range(4))
    with pytest.raises(ValueError, match="one case"):
        components_of(products_of(cases, range(12), EXTENT), [3])


def test_a_block_without_any_difference_counts_nothing(cases):
    still = replace(cases, generators=torch.zeros_like(cases.generators))
    components = components_of(products_of(still, range(12), EXTENT), range(12))
    assert components.weights[0] == 0 and components.values.sum() == pytest.approx(sum(WEIGHTS[1:]))


# What modes give away


def test_with_all_modes_every_case_can_be_read_back_and_told():
    everyone = population(40, 20, noise=1.0)
    found = exposures(products_of(everyone, range(34), EXTENT), range(34), range(34, 40))
    last = found[-1]
    assert last.modes == 33 and last.read_back == pytest.approx(1) and last.auc > 0.97 and not last.bounded
    np.testing.assert_allclose(last.leverage, 33 / 34, atol=1e-3)  # its mean is what is left of it
    assert [each.read_back for each in found] == sorted(each.read_back for each in found)


def test_what_is_shared_keeps_to_its_bounds_and_is_as_much_as_they_allow():
    everyone = population(70, 4, noise=0.3)
    products, members, new = products_of(everyone, range(60), EXTENT), range(60), range(60, 70)
    components, exposure = for_sharing(products, members, new)
    assert exposure.bounded and exposure.auc <= LARGEST_AUC and exposure.leverage <= LARGEST_LEVERAGE
    assert components.count == exposure.modes >= 4
    assert not exposures(products, components.members, new)[exposure.modes].bounded
    assert f"{exposure.modes} modes of" in exposure.words() and "cannot" not in exposure.words()
    assert for_sharing(products, members, new, most=2)[0].count == 2


def test_a_case_that_stands_alone_is_left_out_of_what_is_shared():
    everyone = population(50, 4, noise=0.3)
    for block in everyone.all():
        block[7] += 25 * block[7]
    products = products_of(everyone, range(50), EXTENT)
    assert exposures(products, range(50))[0].leverage > 0.9
    components, exposure = for_sharing(products, range(50))
    assert 7 not in components.members and exposure.members == len(components.members) >= 45 and exposure.bounded


def test_a_handful_of_cases_is_not_shared():
    everyone = population(8, 3)
    assert for_sharing(products_of(everyone, range(8), EXTENT), range(8)) is None


def test_the_area_under_the_curve_is_a_half_by_chance_and_1_where_all_are_told():
    assert area_under_curve(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert area_under_curve(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5


# Looks and labels


def test_looks_and_air_are_what_they_were():
    image = torch.tensor([-1.0, -0.99, 0.0, 1.0]).reshape(1, 1, 4)
    torch.testing.assert_close(with_look(image, torch.zeros(1, 1, 4)), image, atol=1e-6, rtol=0)
    brighter = with_look(image, torch.full((1, 1, 4), 0.3))
    assert float(brighter[0, 0, 0]) == -1 and float(brighter[0, 0, 3]) == 1 and float(brighter[0, 0, 2]) > 0
    other = torch.tensor([-0.5, 0.4]).reshape(1, 1, 2)
    target = torch.tensor([0.1, -0.3]).reshape(1, 1, 2)
    torch.testing.assert_close(with_look(other, look_of(target) - look_of(other)), target, atol=1e-5, rtol=0)


class Scan:
    """A case of these tests."""

    def __init__(self, name: str, image: np.ndarray, labels: np.ndarray | None = None) -> None:
        self.name, self.image, self.labels = name, image, labels

    @property
    def field_of_view(self) -> np.ndarray:
        return np.array([(-0.5, side - 0.5) for side in self.image.shape[1:]])


def lying(count: int) -> Transformations:
    """As they lie."""
    return Transformations(torch.zeros(count, 3, 4), torch.zeros(count, 3, *CONTROL), EXTENT)


def ends(count: int) -> torch.Tensor:
    return torch.tensor([(-side / 2, side / 2) for side in EXTENT]).expand(count, 3, 2)


def test_what_a_scan_did_not_see_has_no_look():
    random = np.random.default_rng(0)
    scans = [Scan(str(i), random.uniform(-1, 1, (1, *GRID)).astype(np.float32)) for i in range(5)]
    boxes = ends(5).clone()
    boxes[2, 0, 1] = 0.0  # its right half was cut off
    blocks = blocks_of(scans, lying(5), boxes, range(5), GRID)
    assert float(blocks.looks[0, 0, 6:].abs().min()) > 0
    assert float(blocks.looks[2, 0, 6:].abs().max()) == 0 < float(blocks.looks[2, 0, :3].abs().min())
    assert float(blocks.looks[:, 0, 6:].mean(0).abs().max()) < 1e-5


def test_labels_follow_what_goes_with_them_and_nothing_else():
    """The upper edge of a block moves with the first score, by half a voxel for each."""
    random = np.random.default_rng(0)
    scores = random.standard_normal((30, 5))
    height = np.arange(GRID[0])[:, None, None]
    scans = []
    for row in scores:
        edge = np.clip(4 + 0.5 * row[0] - height, 0, 1) * np.ones(GRID)
        labels = (edge > random.uniform(0, 1, GRID)).astype(np.uint8)
        scans.append(Scan("", labels[None] * 2.0 - 1, labels))
    differences = label_differences(scans, lying(30), ends(30), range(30), 1, GRID)
    assert differences.shape == (30, 2, *GRID) and float(differences.float().mean(0).abs().max()) < 0.02
    modes = label_modes(scores, differences, np.ones(5))
    where = modes[:, 1].abs().mean((2, 3))
    assert int(where[0].argmax()) in (4, 5) and float(modes[0, 1, 4].mean()) > 0.2
    assert float(where[0].max()) > 4 * float(where[1:].max())


def test_labels_are_compared_on_a_grid_that_many_of_them_fit():
    assert of_blocks.label_shape((40, 40, 40), (40.0,) * 3, 2) == (40, 40, 40)
    coarse = of_blocks.label_shape((128, 128, 128), (128.0,) * 3, 31)
    assert 32 * np.prod(coarse) <= of_blocks.LABEL_VALUES


# A case from its scores

SHAPE = (16, 20, 16)


def made_of(modes: Modes, class_count: int = 0, dims: int = 3) -> StatisticalGenerator:
    """A generator whose template is a bright block, labelled, in air."""
    shape, extent = SHAPE[:dims], EXTENT[:dims]
    template = torch.full((1, *shape), -1.0)
    inside = tuple(slice(side // 4, 3 * side // 4) for side in shape)
    template[(0, *inside)] = 0.5
    shares = torch.zeros(3, *shape)
    shares[(1, *inside)] = 1
    shares[0] = 1 - shares[1]
    grids = [tuple(each.shape[2:]) for each in (modes.velocities, modes.looks)]
    labels = () if modes.labels is None else tuple(modes.labels.shape[2:])
    generator = StatisticalGenerator(shape, extent, 1, 2, modes.count, shape, *grids, labels, class_count)
    generator.take(template, shares, modes)
    return generator.eval()


def no_modes(count: int = 2, dims: int = 3) -> Modes:
    control, grid = CONTROL[:dims], GRID[:dims]
    return Modes(
        torch.zeros(dims, dims + 1), torch.zeros(dims, *control), torch.zeros(1, *grid), torch.ones(3),
        torch.zeros(count, dims, dims + 1), torch.zeros(count, dims, *control), torch.zeros(count, 1, *grid),
    )  # fmt: skip


def centre(image: torch.Tensor) -> np.ndarray:
    mass = (image + 1).double().numpy()
    grids = np.meshgrid(*[np.arange(side) for side in mass.shape], indexing="ij")
    return np.array([(mass * grid).sum() / mass.sum() for grid in grids])


@pytest.mark.parametrize("dims", [2, 3])
def test_without_scores_it_is_the_template(dims):
    generator = made_of(no_modes(dims=dims), dims=dims)
    case = generator(torch.zeros(2, 2))
    assert case.shape == (2, 4, *SHAPE[:dims])
    torch.testing.assert_close(case[0, :1], generator.template, atol=1e-4, rtol=0)
    torch.testing.assert_close(case[:, 1:].sum(1), torch.ones(2, *SHAPE[:dims]))
    assert (case[0, 1:].argmax(0) == generator.shares.argmax(0)).all()


def test_a_mode_moves_the_anatomy_the_way_it_says():
    """φ maps the template to the case, so what lies at x on the template lies at φ(x) in the case."""
    modes = no_modes()
    modes.generators[0, 0, 3] = 3.0  # mm along the first axis, two voxels
    modes.velocities[1, 1] = -1.6  # mm along the second, everywhere: one voxel
    generator = made_of(modes)
    still = centre(generator(torch.zeros(1, 2))[0, 0])
    np.testing.assert_allclose(centre(generator(torch.tensor([[1.0, 0.0]]))[0, 0]) - still, (2, 0, 0), atol=0.05)
    np.testing.assert_allclose(centre(generator(torch.tensor([[0.0, 2.0]]))[0, 0]) - still, (0, -2, 0), atol=0.1)
    labels = generator(torch.tensor([[1.0, 0.0]]))[0, 1:].argmax(0)
    np.testing.assert_allclose(centre(labels * 2.0 - 1) - centre(generator.shares.argmax(0) * 2.0 - 1), (2, 0, 0))


def test_looks_change_tissue_and_never_air():
    modes = no_modes()
    modes.looks[0] = -0.3
    case = made_of(modes)(torch.tensor([[1.0, 0.0]]))[0, 0]
    assert float(case[0, 0, 0]) == -1 and float(case[8, 10, 8]) < 0.2


def test_labels_grow_with_their_modes_and_stay_probabilities():
    modes = replace(no_modes(), labels=torch.zeros(2, 3, *GRID))
    modes.labels[0, 2] = 5.0
    case = made_of(modes)(torch.tensor([[1.0, 0.0]]))[0]
    assert float(case[3].mean()) > 0.1 and float(case[1:].min()) >= 0
    torch.testing.assert_close(case[1:].sum(0), torch.ones(SHAPE))


def test_half_precision_in_the_file_is_what_is_in_memory():
    modes = no_modes()
    modes.velocities.normal_(generator=torch.Generator().manual_seed(0))
    generator = made_of(modes)
    kept = generator.kept()
    assert kept["velocities"].dtype == torch.float16 and kept["generators"].dtype == torch.float32
    other = made_of(no_modes())
    other.load_state_dict(kept)
    latent = torch.randn(1, 2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(other(latent), generator(latent))


def test_a_class_shifts_and_shapes_the_scores():
    random = np.random.default_rng(0)
    wide, narrow = random.normal((2, 0), (1.5, 0.3), (400, 2)), random.normal((-2, 0), (0.2, 1.0), (400, 2))
    scores, numbers = np.concatenate([wide, narrow, [(9, 9)]]), [0] * 400 + [1] * 400 + [None]
    means, roots = class_statistics(scores, numbers, 3)
    np.testing.assert_allclose(means, [(2, 0), (-2, 0), (0, 0)], atol=0.2)
    np.testing.assert_allclose(roots[2], np.eye(2))
    np.testing.assert_allclose(torch.stack([root @ root for root in roots[:2]]).diagonal(dim1=1, dim2=2),
                               [(2.25, 0.09), (0.04, 1.0)], atol=0.25)  # fmt: skip
    modes = no_modes()
    generator = made_of(modes, class_count=3)
    generator.take(generator.template, generator.shares, modes, (means, roots))
    latent = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    weights = torch.eye(3)[[0] * 500]
    drawn = generator.scores(latent, weights)
    np.testing.assert_allclose(drawn.mean(0), (2, 0), atol=0.2)
    assert float(drawn[:, 0].std()) > 3 * float(drawn[:, 1].std())
    assert torch.equal(generator.scores(latent, torch.zeros(500, 3)), latent)


def test_few_cases_of_a_class_shape_little():
    means, roots = class_statistics(np.array([(3.0, 1.0, 0.0), (2.9, 1.0, 0.1)]), [0, 0], 1)
    np.testing.assert_allclose(means[0], (2.95, 1.0, 0.05), atol=1e-6)
    assert 0.3 < float(roots[0].diagonal().min()) <= float(roots[0].diagonal().max()) < 1.1
    alone = class_statistics(np.array([(3.0, 1.0, 0.0)]), [0], 1)[1]
    assert np.isfinite(alone.numpy()).all() and float(alone[0].diagonal().min()) > 0.3


def test_a_coarser_form_makes_the_same_cases():
    modes = replace(no_modes(), labels=torch.zeros(2, 3, *GRID))
    modes.generators[0, 0, 3] = 3.0
    modes.looks[1] = 0.2
    generator = made_of(modes)
    coarse = generator.coarser((8, 10, 8))
    latent = torch.tensor([[0.7, -1.0]])
    fine, small = generator(latent)[0], coarse(latent)[0]
    assert small.shape == (4, 8, 10, 8) and coarse.velocities is generator.velocities
    torch.testing.assert_close(shrink(fine[None], (8, 10, 8))[0], small, atol=0.3, rtol=0)
    assert float((shrink(fine[None], (8, 10, 8))[0] - small).abs().mean()) < 0.02


def test_a_fine_case_is_judged_on_a_coarser_template_alike():
    random = np.random.default_rng(0)
    shape = (16, 20, 16)
    base = ndimage.gaussian_filter(random.standard_normal(shape), 2.0)
    images = [np.clip(3 * base + 0.1 * random.standard_normal(shape), -1, 1)[None].astype(np.float32) for _ in range(4)]
    scans = [Scan(str(index), image, (image[0] > 0.1).astype(np.uint8)) for index, image in enumerate(images)]
    moved = lying(4)
    template = make_template(scans, moved, ends(4), 1)
    fine, coarse = (judge(scans[0], moved, 0, ends(4)[0], template.at(grid), 3, True) for grid in (shape, (8, 10, 8)))
    assert template.at(shape) is template and template.at((8, 10, 8)).labels.shape == (2, 8, 10, 8)
    assert coarse.dice > max(fine.dice - 0.02, 0.8)  # noise at the edges of voxels is gone
    assert coarse.similarity > fine.similarity - 0.1 and coarse.smallest_jacobian == pytest.approx(1, abs=1e-3)
