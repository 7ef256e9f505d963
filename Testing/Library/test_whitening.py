"""What a judge sees of an image, filtered so that all frequencies of what is to be learned differ alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from GEDGANLib.structure.spectrum import radial_power
from GEDGANLib.structure.whitening import STRONGEST, Whitening, gains_of


def coarse_noise(shape: tuple[int, ...], count: int = 12) -> list[np.ndarray]:
    """Noise whose power falls with the square of the frequency and more."""
    random = np.random.default_rng(0)
    axes = np.meshgrid(*(np.fft.fftfreq(side) for side in shape), indexing="ij")
    fall = 1 / (0.05 + sum(axis**2 for axis in axes) ** 0.5)
    return [np.fft.ifftn(np.fft.fftn(random.standard_normal(shape)) * fall).real for _ in range(count)]


@pytest.mark.parametrize("shape", [(32, 28, 36), (40, 48), (16, 24, 16)])
def test_what_differed_at_low_frequencies_differs_alike_at_all_and_keeps_its_energy(shape):
    differences = coarse_noise(shape)
    gains = gains_of(differences)
    assert len(gains) == min(12, min(shape) // 2) and np.all(np.diff(gains[1:]) > 0)
    filtered = Whitening([gains], shape)(torch.from_numpy(np.stack(differences)).float()[:, None])[:, 0].numpy()
    before, after = (radial_power(list(each), len(gains))[1:] for each in (differences, filtered))
    assert after.max() / after.min() < 2 < before.max() / before.min()
    assert np.square(filtered).sum() == pytest.approx(np.square(differences).sum(), rel=0.2)


def test_no_frequency_is_raised_without_end_and_nothing_stays_nothing():
    smooth = [np.outer(np.hanning(32), np.hanning(32)) * scale for scale in (1.0, 2.0)]
    gains = gains_of(smooth)
    assert max(gains) / min(gains) == pytest.approx(STRONGEST)
    assert gains_of([np.zeros((16, 16))]) == (1.0,) * 8
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(Whitening([(1.0,) * 8] * 3, (16, 16))(image), image, atol=1e-5, rtol=1e-5)


def test_channels_are_filtered_apart_and_learn_through_it():
    shape = (12, 10, 16)
    image = torch.rand(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    found = Whitening([(1.0, 1.0), (0.5, 0.5)], shape)(image)
    torch.testing.assert_close(found[:, 0], image[:, 0].float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 1], 0.5 * image[:, 1].float(), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(found.square().sum(), image, create_graph=True)
    (again,) = torch.autograd.grad(gradient.square().sum(), image)  # as a penalty asks for
    torch.testing.assert_close(again[:, 0], 8 * image[:, 0], atol=1e-4, rtol=1e-4)
