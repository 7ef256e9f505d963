"""Measures of synthesized cases: they tell alike from different, on sets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from GEDGANLib.quality.distances import coverage, kernel_distance, relative_diversity
from GEDGANLib.quality.features import Encoder
from GEDGANLib.segmentation.pairs import Pairs, dice, mean_dice, train_segmenter
from GEDGANLib.structure.spectrum import fine_power_ratio, nyquist_excess, radial_power


def test_kernel_distance_is_unbiased_and_its_interval_honest(random):
    estimates = [
        kernel_distance(random.standard_normal((40, 6)), random.standard_normal((60, 6)), seed=i) for i in range(60)
    ]
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    covered = np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates])
    assert covered > 0.8


def test_kernel_distance_sees_a_shift_and_a_collapse(random):
    real = random.standard_normal((50, 6))
    shifted = kernel_distance(real, random.standard_normal((50, 6)) + 0.7)
    collapsed = kernel_distance(real, np.repeat(random.standard_normal((1, 6)), 50, axis=0))
    assert shifted.low > 0
    assert collapsed.low > 0
    with pytest.raises(ValueError, match="at least 4"):
        kernel_distance(real, real[:3])


def test_coverage_of_the_same_of_one_half_and_of_a_collapse(random):
    real, same = random.standard_normal((200, 4)), random.standard_normal((200, 4))
    alike = coverage(real, same)
    assert min(alike.precision, alike.recall, alike.coverage) > 0.85
    assert 0.8 < alike.density < 1.2
    half = coverage(real, same[same[:, 0] > 0.3])
    assert half.precision > 0.85
    assert half.recall < 0.75
    far = coverage(real, same + 20)
    assert (far.precision, far.recall, far.coverage, far.density) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="more than 5"):
        coverage(real, same[:5])


def test_relative_diversity(random):
    real = random.standard_normal((30, 8, 8, 8))
    assert relative_diversity(real, random.standard_normal((40, 8, 8, 8))) == pytest.approx(1, abs=0.05)
    assert relative_diversity(real, 0.5 * real) == pytest.approx(0.25)
    assert relative_diversity(real, np.repeat(real[:1], 5, axis=0)) == pytest.approx(0, abs=1e-12)


def test_blur_lacks_fine_power_and_a_checkerboard_has_too_much(random):
    real = ndimage.gaussian_filter(random.standard_normal((6, 24, 24, 24)), (0, 0.7, 0.7, 0.7))
    blurred = ndimage.gaussian_filter(real, (0, 1, 1, 1))
    board = real + 0.3 * (-1.0) ** np.indices((24, 24, 24))[0]
    assert fine_power_ratio(real, real[::-1]) == pytest.approx(1)
    assert fine_power_ratio(real, blurred) < 0.2
    assert fine_power_ratio(real, board) > 3
    assert nyquist_excess(real) < 1 and nyquist_excess(blurred) < 1
    for axis in range(3):  # along one axis, and fainter than it can be seen
        assert nyquist_excess(real + 0.03 * (-1.0) ** np.indices((24, 24, 24))[axis]) > 2 * nyquist_excess(real)
    powers = radial_power(np.sin(2 * np.pi * 0.25 * np.arange(32))[None, :, None] * np.ones((1, 32, 32)))
    assert powers.argmax() in (7, 8)  # a quarter of a cycle a voxel lies in the middle of 16 shells up to a half


def balls(count: int, seed: int) -> Pairs:
    """Bright balls in noise with their masks, on 16³."""
    random = np.random.default_rng(seed)
    axes = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1)
    inside = np.stack(
        [np.linalg.norm(axes - random.uniform(5, 10, 3), axis=-1) < random.uniform(3, 5) for _ in range(count)]
    )
    images = np.where(inside, 0.6, -0.6) + 0.3 * random.standard_normal(inside.shape)
    return Pairs(torch.from_numpy(images[:, None]).float(), torch.from_numpy(inside.astype(np.uint8)))


def test_the_segmenter_learns_what_the_pairs_teach():
    held_out = balls(10, 1)
    network = train_segmenter(balls(20, 0), 1, 60, seed=0)
    assert mean_dice(network, held_out, 1) > 0.9
    wrong = Pairs(balls(20, 0).images, torch.zeros(20, 16, 16, 16, dtype=torch.uint8))
    assert mean_dice(train_segmenter(wrong, 1, 10, seed=0), held_out, 1) < 0.5
    assert np.isnan(dice(network, Pairs(held_out.images, torch.zeros_like(held_out.labels)), 1)[0])
    with pytest.raises(ValueError, match="no pairs"):
        train_segmenter(balls(20, 0)[:0], 1, 1, seed=0)


def test_an_encoder_tells_real_cases_from_others():
    training = balls(24, 0)
    encoder = Encoder.train(training, 1, steps=30)
    reference, alike = encoder(training.images), encoder(balls(20, 3).images)
    assert reference.var(0).mean() == pytest.approx(1, rel=1e-3)
    empty = encoder(torch.randn(20, 1, 16, 16, 16) * 0.3 - 0.6)
    near, far = kernel_distance(reference, alike), kernel_distance(reference, empty)
    assert near.value < far.value
    assert far.low > 0


@pytest.mark.parametrize("side", [8, 12, 16])
def test_spectra_of_small_grids_are_numbers(random, side):
    images = random.standard_normal((4, side, side, side))
    assert np.isfinite(radial_power(images)).all()
    assert fine_power_ratio(images, 2 * images) == pytest.approx(4)
