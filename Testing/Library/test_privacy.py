"""Copies are found, honest cases are not accused: the privacy figures on sets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from GEDGANLib.quality.alignment import Picture, aligned_distance, neighbours, small_picture, unaligned_distances
from GEDGANLib.quality.orientation import orientation_statistics
from GEDGANLib.quality.privacy import CLEAR, FLAGGED, TOO_FEW, examine
from GEDGANLib.quality.similarity import levels_of, pairwise_similarity

SHAPE = (13, 16, 13)


SPACING = (1.0, 1.0, 1.0)


def voxels_of(seed: int) -> np.ndarray:
    """A picture of one person: anatomy that all share, and details of one's own."""
    details = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 2.0)
    anatomy = ndimage.gaussian_filter(np.random.default_rng(10_000).standard_normal(SHAPE), 3.0)
    return (anatomy / anatomy.std() + details / details.std()).astype(np.float32)


def picture(voxels: np.ndarray, spacing=SPACING) -> Picture:
    return Picture(voxels[None].astype(np.float32), spacing)


@pytest.fixture(scope="module")
def people() -> list[Picture]:
    return [picture(voxels_of(seed)) for seed in range(50)]


def moved(voxels: np.ndarray, angle: float, shift: tuple[float, ...]) -> np.ndarray:
    turned = ndimage.rotate(voxels, angle, (0, 1), reshape=False, order=1, mode="nearest")
    return ndimage.shift(turned, shift, order=1, mode="nearest").astype(np.float32)


def scanned_again(person: Picture, seed: int) -> Picture:
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    return picture(moved(person.voxels[0], 3, (0.5, 0, -0.5)) + 0.2 * noise)


def blurred(count: int, of: int = 8) -> list[Picture]:
    """Averages of strangers: near to everybody."""
    random = np.random.default_rng(1)
    return [
        picture(np.mean([voxels_of(int(i)) for i in random.integers(1000, 9000, of)], axis=0)) for _ in range(count)
    ]


def test_alignment_finds_a_person_who_moved_and_got_another_contrast(people):
    copy = picture(3 * moved(people[0].voxels[0], 8, (1.5, -1, 0.5)) + 20)
    assert aligned_distance(people[0], copy) < 0.45
    assert aligned_distance(people[0], copy) < 0.6 * aligned_distance(people[0], people[1])
    assert unaligned_distances([people[0]], [people[0]])[0, 0] == pytest.approx(0, abs=1e-6)
    found = neighbours([copy], people[:10])[0]
    assert found.indices[0] == 0 and found.ratio() < 0.6
    assert neighbours(people[:4], people[:4], skip_same=True)[1].indices[0] != 1


def test_alignment_is_rigid_in_mm_where_slices_are_thick():
    fine = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((28, 24, 28)), 3.0)
    turned = ndimage.rotate(fine, 12, (0, 2), reshape=False, order=1, mode="nearest")
    thick = [picture(array.reshape(28, 24, 7, 4).mean(3), (1.0, 1.0, 4.0)) for array in (fine, turned)]
    wrong = [Picture(each.voxels, SPACING) for each in thick]
    assert aligned_distance(*thick) < 0.6 * aligned_distance(*wrong)


def test_every_channel_is_compared(people):
    first, second = people[0].voxels[0], people[1].voxels[0]
    both = Picture(np.stack([first, second]), SPACING)
    half = Picture(np.stack([first, people[2].voxels[0]]), SPACING)
    assert unaligned_distances([both], [both])[0, 0] == pytest.approx(0, abs=1e-6)
    assert unaligned_distances([both], [half])[0, 0] > 0.3


def test_a_flat_picture_has_nothing_in_common_with_anything(people):
    assert aligned_distance(people[0], picture(np.zeros(SHAPE))) == pytest.approx(np.sqrt(2))


def test_small_pictures_keep_small_cases_and_shrink_large_ones():
    small = small_picture(np.zeros((2, 10, 12, 9)), (1, 1, 3))
    assert small.voxels.shape == (2, 10, 12, 9) and small.spacing == (1, 1, 3)
    large = small_picture(np.zeros((1, 80, 64, 10)), (1, 1, 3))
    assert large.voxels.shape == (1, 28, 28, 10)
    np.testing.assert_allclose(large.spacing, (80 / 28, 64 / 28, 3))


def test_a_generator_that_memorised_is_flagged(people):
    made = [scanned_again(people[i % 10], i) for i in range(12)]
    found = examine(made, people[:10], people[16:28])
    assert found.verdict == FLAGGED and "reproduces its training cases" in found.words
    assert found.copies[0] > 0.9 and found.copies[1] < 0.1 and found.copies[2] < 1e-6
    assert found.near_training[0] > 0.9 and found.near_training[2] < 0.01
    assert found.authenticity < 0.2 < found.held_out_authenticity
    first = found.closest[0]
    assert first[1] == first[0] % 10  # the pair that is shown is the copy and its original


def test_copies_of_a_few_patients_are_found_though_one_of_them_was_scanned_twice(people):
    """The second scan, among the held-out cases, is as near to a training case as a copy is."""
    made = [scanned_again(people[i % 3], i) for i in range(12)]
    held_out = [*people[16:27], scanned_again(people[5], 99)]
    found = examine(made, people[:16], held_out)
    assert found.verdict == FLAGGED and found.copies[0] > 0.9


def test_copies_are_found_without_any_held_out_case(people):
    found = examine([scanned_again(people[i], i) for i in range(12)], people[:16], [])
    assert found.verdict == FLAGGED and found.near_training is found.held_out_distance is found.alike is None


def test_mirrored_copies_are_found_where_a_training_mirrored_its_cases(people):
    few = people[:8]
    copies = [Picture(scanned_again(few[i % 8], i).voxels[:, ::-1].copy(), SPACING) for i in range(10)]
    assert examine(copies, few, []).verdict == CLEAR
    found = examine(copies, few, [], mirrored=(0,))
    assert found.verdict == FLAGGED and found.closest[0][0] % 8 == found.closest[0][1]


def test_who_may_be_mirrored_is_never_farther_from_the_nearest(people):
    plain, mirrored = neighbours(people[:3], people[3:10]), neighbours(people[:3], people[3:10], mirrored=(0, 1))
    assert all(either.distance <= each.distance for each, either in zip(plain, mirrored))
    both = [Picture(people[5].voxels[:, ::-1, ::-1].copy(), SPACING)]
    assert neighbours(both, people[3:10], mirrored=(0, 1))[0].of_copy().indices[0] == 2


def test_people_whom_nobody_learned_from_are_not_flagged(people):
    found = examine(people[32:46], people[:16], people[16:32])
    assert found.verdict == CLEAR and "no proof" in found.words and found.alike
    assert found.near_training[2] > 0.05 and found.copies[2] > 0.05


def test_blur_alone_is_no_memory(people):
    """Averages are near to everybody, to those that were trained on no more than to others."""
    found = examine(blurred(12), people[:16], people[16:32])
    assert found.distance < found.held_out_distance and found.authenticity < 0.3
    assert found.verdict == CLEAR and found.copies[0] < 0.1


def test_held_out_cases_of_another_kind_prove_nothing(people):
    """From another scanner, noisier: every case is nearer to the training cases."""
    noise = np.random.default_rng(3)
    other = [picture(person.voxels[0] + 1.5 * noise.standard_normal(SHAPE)) for person in people[16:32]]
    found = examine(people[32:46], people[:16], other)
    assert found.alike is False and found.verdict == CLEAR and "another kind" in found.words


def test_too_few_cases_are_said_to_be_too_few(people):
    found = examine(people[:12], people[12:16], people[16:19])
    assert found.verdict == TOO_FEW and "at least 10 synthesized and 6 training cases" in found.words
    assert examine(people[:5], people[12:20], []).verdict == TOO_FEW
    with pytest.raises(ValueError, match="at least two"):
        examine([], people[:3], [])


def test_pairwise_similarity_is_one_for_copies_and_small_for_strangers(people):
    same = np.repeat(people[0].voxels[None], 4, axis=0)
    np.testing.assert_allclose(pairwise_similarity(same), 1, atol=1e-4)
    others = np.stack([person.voxels for person in people[:6]])
    assert len(pairwise_similarity(others)) == 15
    assert pairwise_similarity(others).mean() < 0.8
    assert levels_of((64, 64, 64)) == 4 and levels_of((6, 40, 40)) == 0


@pytest.mark.parametrize("side", [7, 13, 14, 27, 28, 55, 56, 62, 63, 64, 111, 112])
def test_as_many_scales_are_asked_for_as_the_measure_takes(side):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 1, side, side)).astype(np.float32)
    assert len(pairwise_similarity(images)) == 1


def test_similarity_needs_two_cases(people):
    others = np.stack([person.voxels for person in people[:6]])
    with pytest.raises(ValueError, match="2 cases"):
        pairwise_similarity(others[:1])


def test_orientation_statistics_tell_which_way_surfaces_face():
    wave = np.sin(np.arange(24) * 0.8)
    across, up = (np.broadcast_to(wave.reshape(shape), (24, 24, 24))[None, None] for shape in ((24, 1, 1), (1, 1, 24)))
    first, second = (orientation_statistics(np.ascontiguousarray(x), (1.0,) * 3, 1.0, 2.0) for x in (across, up))
    assert first.elevation[0] > 0.9 and second.elevation[-1] > 0.9  # level, upright
    assert first.linear[-1] > 0.9  # sheets
    assert first.distances(first) == dict.fromkeys(first.distances(first), 0.0)
    assert first.distances(second)["elevation"] > 0.9
