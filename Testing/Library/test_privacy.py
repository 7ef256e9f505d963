"""Copies are found, honest cases are not accused: the privacy figures on sets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from GEDGANLib.quality.alignment import aligned_distance, nearest, small_picture, unaligned_distances
from GEDGANLib.quality.orientation import orientation_statistics
from GEDGANLib.quality.privacy import CLEAR, FLAGGED, TOO_FEW, examine
from GEDGANLib.quality.similarity import levels_of, pairwise_similarity

SHAPE = (16, 18, 16)


def person(seed: int) -> np.ndarray:
    """A picture of one person: anatomy that all share, and details of one's own."""
    details = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 2.0)
    anatomy = ndimage.gaussian_filter(np.random.default_rng(10_000).standard_normal(SHAPE), 3.0)
    return (anatomy / anatomy.std() + details / details.std()).astype(np.float32)


@pytest.fixture(scope="module")
def people() -> list[np.ndarray]:
    return [person(seed) for seed in range(50)]


def moved(picture: np.ndarray, angle: float, shift: tuple[float, ...]) -> np.ndarray:
    turned = ndimage.rotate(picture, angle, (0, 1), reshape=False, order=1, mode="nearest")
    return ndimage.shift(turned, shift, order=1, mode="nearest").astype(np.float32)


def test_alignment_finds_a_person_who_moved_and_got_another_contrast(people):
    copy = 3 * moved(people[0], 8, (1.5, -1, 0.5)) + 20
    assert aligned_distance(people[0], copy) < 0.45
    assert aligned_distance(people[0], copy) < 0.6 * aligned_distance(people[0], people[1])
    assert unaligned_distances([people[0]], [people[0]])[0, 0] == pytest.approx(0, abs=1e-6)
    found = nearest([copy], people[:10])[0]
    assert found.index == 0
    assert nearest(people[:4], people[:4], skip_same=True)[1].index != 1


def test_a_flat_picture_has_nothing_in_common_with_anything(people):
    assert np.isfinite(aligned_distance(people[0], np.zeros(SHAPE, np.float32)))


def test_small_pictures_keep_small_cases_and_shrink_large_ones():
    assert small_picture(np.zeros((2, 10, 12, 9))).shape == (10, 12, 9)
    assert max(small_picture(np.zeros((1, 80, 64, 40))).shape) == 28


def test_a_generator_that_memorised_is_flagged(people):
    noise = np.random.default_rng(0)
    made = [
        moved(people[i % 16], 3, (0.5, 0, -0.5)) + 0.2 * noise.standard_normal(SHAPE).astype(np.float32)
        for i in range(16)
    ]
    found = examine(made, people[:16], people[16:32])
    assert found.verdict == FLAGGED and "reproduces its training cases" in found.words
    assert found.copies[0] > 0.9 and found.copies[2] < 1e-6
    assert found.near_training[0] > 0.9 and found.near_training[2] < 0.01
    assert found.authenticity < 0.2 < found.held_out_authenticity
    first = found.closest[0]
    assert first[1] == first[0] % 16  # the pair that is shown is the copy and its original


def test_people_whom_nobody_learned_from_are_not_flagged(people):
    found = examine(people[32:50], people[:16], people[16:32])
    assert found.verdict == CLEAR and "no proof" in found.words
    assert found.near_training[2] > 0.05 and found.copies[2] > 0.05


def test_blur_alone_is_no_memory(people):
    """Averages are near to everybody, to those that were trained on no more than to others."""
    random = np.random.default_rng(1)
    made = [np.mean([person(int(i)) for i in random.integers(1000, 9000, 8)], axis=0) for _ in range(16)]
    found = examine(made, people[:16], people[16:32])
    assert found.distance < found.held_out_distance
    assert found.near_training[2] > 0.05


def test_too_few_cases_are_said_to_be_too_few(people):
    found = examine(people[:12], people[12:16], people[16:19])
    assert found.verdict == TOO_FEW and "at least 10, 5 and 8" in found.words
    without = examine(people[:12], people[12:30], [])
    assert without.verdict == TOO_FEW and without.near_training is without.copies is without.held_out_distance is None
    with pytest.raises(ValueError, match="at least two"):
        examine([], people[:3], [])


def test_pairwise_similarity_is_one_for_copies_and_small_for_strangers(people):
    same = np.repeat(people[0][None, None], 4, axis=0)
    np.testing.assert_allclose(pairwise_similarity(same), 1, atol=1e-4)
    others = np.stack([picture[None] for picture in people[:6]])
    assert len(pairwise_similarity(others)) == 15
    assert pairwise_similarity(others).mean() < 0.8
    assert levels_of((64, 64, 64)) == 4 and levels_of((6, 40, 40)) == 0
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
