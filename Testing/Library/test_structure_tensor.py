"""The structure tensor: exact at borders, in millimetres, equal to what theory and a plain implementation say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from GEDGANLib.structure.tensor import COMPONENTS, gaussian_gradient, structure_tensor


def ramp(shape, spacing, slope):
    """Image that rises by ``slope`` (per mm) along each axis."""
    axes = [torch.arange(n, dtype=torch.float64) * s * g for n, s, g in zip(shape, spacing, slope)]
    return sum(torch.meshgrid(*axes, indexing="ij"))[None, None]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0)])
@pytest.mark.parametrize("sigma", [0.2, 1.0, 3.0])
def test_gradient_of_a_ramp_is_its_slope_up_to_the_border(spacing, sigma):
    slope = (2.0, -1.0, 0.5)
    gradient = gaussian_gradient(ramp((9, 11, 8), spacing, slope), sigma, spacing)
    for axis in range(3):
        torch.testing.assert_close(gradient[0, 0, axis], torch.full((9, 11, 8), slope[axis], dtype=torch.float64))


def test_tensor_of_a_ramp_is_constant_up_to_the_border():
    spacing, slope = (1.0, 2.0, 3.0), (2.0, -1.0, 0.5)
    tensor = structure_tensor(ramp((9, 7, 8), spacing, slope), 1.5, 3.0, spacing)
    for channel, (i, j) in enumerate(COMPONENTS[3]):
        expected = torch.full((9, 7, 8), slope[i] * slope[j], dtype=torch.float64)
        torch.testing.assert_close(tensor[0, 0, channel], expected)


def test_agrees_with_scipy_away_from_the_border(random):
    image = random.standard_normal((42, 44, 46))
    # Smooth enough that sampling the Gaussian's derivative and regressing with its weights are the same thing.
    smooth = ndimage.gaussian_filter(image, 2.0)
    sigma, rho = 1.5, 2.5
    gradients = [
        ndimage.gaussian_filter(smooth, sigma, order=[int(axis == other) for other in range(3)], truncate=4)
        for axis in range(3)
    ]
    tensor = structure_tensor(torch.from_numpy(smooth)[None, None], sigma, rho, (1.0, 1.0, 1.0))[0, 0]
    inner = (slice(18, -18),) * 3
    for channel, (i, j) in enumerate(COMPONENTS[3]):
        expected = ndimage.gaussian_filter(gradients[i] * gradients[j], rho, truncate=4)[inner]
        difference = np.abs(tensor[channel].numpy()[inner] - expected).max()
        assert difference < 0.02 * np.abs(expected).max()


def test_millimetres_not_voxels():
    """The same object sampled at another spacing has the same tensor."""

    def blob(step):
        axis = torch.arange(0, 24 + 1e-6, step, dtype=torch.float64) - 12
        x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
        return torch.exp(-(x**2 + y**2 / 2 + z**2 / 3) / 18)[None, None]

    fine = structure_tensor(blob(0.5), 1.5, 2.0, (0.5,) * 3)[..., ::2, ::2, ::2]
    coarse = structure_tensor(blob(1.0), 1.5, 2.0, (1.0,) * 3)
    inner = (..., *[slice(4, -4)] * 3)  # a border voxel has other neighbours at another spacing
    assert (fine - coarse)[inner].abs().max() < 0.005 * coarse.abs().max()


def test_stride_keeps_the_tensor_of_block_centres(random):
    image = torch.from_numpy(ndimage.gaussian_filter(random.standard_normal((16, 16, 16)), 1.0))[None, None]
    full = structure_tensor(image, 1.0, 2.0, (1.0,) * 3)
    half = structure_tensor(image, 1.0, 2.0, (1.0,) * 3, stride=2)
    pooled = torch.nn.functional.avg_pool3d(full[:, 0], 2)
    assert half.shape == (1, 1, 6, 8, 8, 8)
    # The centre of a block is not the mean of its voxels, but near it.
    assert (half[:, 0] - pooled).abs().max() < 0.03 * pooled.abs().max()


def test_two_dimensions():
    spacing, slope = (1.0, 2.0), (3.0, -1.0)
    tensor = structure_tensor(ramp((9, 8), spacing, slope), 1.0, 2.0, spacing)
    assert tensor.shape == (1, 1, 3, 9, 8)
    torch.testing.assert_close(tensor[0, 0, 2], torch.full((9, 8), -3.0, dtype=torch.float64))


def test_derivatives_twice(random):
    image = torch.from_numpy(random.standard_normal((1, 1, 4, 4, 4))).requires_grad_()

    def function(x):
        return structure_tensor(x, 0.8, 1.0, (1.0, 1.0, 1.0))

    assert torch.autograd.gradcheck(function, (image,))
    assert torch.autograd.gradgradcheck(function, (image,))


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="shape"):
        structure_tensor(torch.zeros(1, 1, 4), 1.0, 1.0, (1.0,))
    with pytest.raises(ValueError, match="spacing"):
        structure_tensor(torch.zeros(1, 1, 4, 4, 4), 1.0, 1.0, (1.0, 1.0))


def test_a_look_without_gradients_does_not_spoil_a_training_after_it():
    image = torch.rand(1, 1, 13, 11, 9)
    with torch.inference_mode():
        structure_tensor(image, 0.9, 1.7, (1.0, 1.0, 1.0))
    image.requires_grad_()
    structure_tensor(image, 0.9, 1.7, (1.0, 1.0, 1.0)).sum().backward()
    assert torch.isfinite(image.grad).all()
