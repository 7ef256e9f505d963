r"""Structure tensor of 2D and 3D images, in millimetres, exact at the borders.

For an image :math:`I` with voxel spacing :math:`s` (mm),

.. math:: S = G_\rho * (g\,g^T), \qquad g = \nabla_\sigma I

where :math:`\nabla_\sigma` is the gradient at scale :math:`\sigma` and :math:`G_\rho` a Gaussian average (Bigun and
Granlund, ICCV 1987; Weickert, *Anisotropic Diffusion in Image Processing*, 1998, section 2.2).

Every filter is separable and is applied as one small matrix product an axis: that is several times faster than
``conv3d`` with one group a channel, and the rows of the matrix next to a border can be built for that border. The
derivative row is a Gaussian-weighted regression line through the voxels that exist, and the smoothing row is
normalised over them: an image that is a ramp has the same gradient everywhere, borders included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

TRUNCATE = 4.0
"""Filters end this many standard deviations from their centre."""

COMPONENTS = {2: ((0, 0), (1, 1), (0, 1)), 3: ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))}
"""Order of the independent entries of a symmetric 2x2 or 3x3 matrix in a channel axis: diagonal, then upper part."""


@lru_cache(maxsize=256)
def _filter_matrix(
    size: int, spacing: float, scale: float, derivative: bool, stride: int, device: str, dtype: torch.dtype
) -> Tensor:
    """Return the filter along one axis as a matrix, shape (ceil(size / stride), size).

    With ``stride`` above 1 an output voxel is the centre of ``stride`` input voxels, as in average pooling.
    """
    position = torch.arange(size, dtype=torch.float64) * spacing
    output_size = -(-size // stride)
    centre = (torch.arange(output_size, dtype=torch.float64) * stride + (stride - 1) / 2) * spacing
    distance = position[None, :] - centre[:, None]
    # At least the next neighbours take part, however small the scale: the filter then is a central difference.
    reach = max(TRUNCATE * scale, spacing * (1 + (stride - 1) / 2)) + 1e-9
    weight = torch.exp(-0.5 * (distance / max(scale, 0.3 * spacing)) ** 2) * (distance.abs() <= reach)
    weight = weight / weight.sum(1, keepdim=True)
    if derivative:
        # Slope of the weighted least-squares line: kills constants, and gives exactly 1 on a ramp, at every voxel.
        deviation = distance - (weight * distance).sum(1, keepdim=True)
        weight = weight * deviation / (weight * deviation**2).sum(1, keepdim=True).clamp_min(1e-12)
    return weight.to(device=device, dtype=dtype)


def _apply_along(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply ``matrix`` onto spatial axis ``axis`` (0 based) of ``image``, shape (N, C, *spatial)."""
    shape = list(image.shape)
    before = math.prod(shape[: axis + 2])
    after = math.prod(shape[axis + 3 :])
    shape[axis + 2] = matrix.shape[0]
    if after == 1:
        return (image.reshape(before, -1) @ matrix.T).reshape(shape)
    return torch.matmul(matrix, image.reshape(before, matrix.shape[1], after)).reshape(shape)


def gaussian_gradient(image: Tensor, sigma: float, spacing: Sequence[float]) -> Tensor:
    """Gradient of ``image`` at scale ``sigma``.

    :param image: shape (N, C, X, Y) or (N, C, X, Y, Z).
    :param sigma: standard deviation of the Gaussian in mm.
    :param spacing: voxel size of each spatial axis in mm.
    :returns: shape (N, C, D, *spatial), intensity per mm, D the number of spatial axes.
    """
    spatial_dims = image.ndim - 2

    def matrix(axis: int, derivative: bool) -> Tensor:
        return _filter_matrix(
            image.shape[axis + 2], float(spacing[axis]), float(sigma), derivative, 1, str(image.device), image.dtype
        )

    # Smooth along each axis but the one that is derived, sharing the products: 8 instead of 9 in 3D.
    components: list[Tensor] = []
    smoothed = image
    for axis in range(spatial_dims):
        components = [_apply_along(component, matrix(axis, False), axis) for component in components]
        components.append(_apply_along(smoothed, matrix(axis, True), axis))
        if axis + 1 < spatial_dims:
            smoothed = _apply_along(smoothed, matrix(axis, False), axis)
    return torch.stack(components, dim=2)


def structure_tensor(image: Tensor, sigma: float, rho: float, spacing: Sequence[float], stride: int = 1) -> Tensor:
    """Structure tensor of every channel of ``image``.

    :param image: shape (N, C, X, Y) or (N, C, X, Y, Z); computed in float32 at least, inside autocast too.
    :param sigma: scale of the gradient in mm.
    :param rho: scale of the average in mm.
    :param spacing: voxel size of each spatial axis in mm.
    :param stride: keep one tensor for so many voxels along each axis, at the centre of them.
    :returns: shape (N, C, 3, ...) in 2D and (N, C, 6, ...) in 3D, in the order of :data:`COMPONENTS`, (intensity/mm)².
    :raises ValueError: the image is not 2D or 3D, or ``spacing`` does not fit it.
    """
    spatial_dims = image.ndim - 2
    if spatial_dims not in COMPONENTS:
        raise ValueError(f"image must have shape (N, C, X, Y) or (N, C, X, Y, Z), got {tuple(image.shape)}")
    if len(spacing) != spatial_dims:
        raise ValueError(f"spacing must have {spatial_dims} entries, got {len(spacing)}")
    with torch.autocast(image.device.type, enabled=False):
        image = image if image.dtype in (torch.float32, torch.float64) else image.float()
        gradient = gaussian_gradient(image, sigma, spacing)
        products = torch.stack([gradient[:, :, i] * gradient[:, :, j] for i, j in COMPONENTS[spatial_dims]], dim=2)
        products = products.flatten(1, 2)
        for axis in range(spatial_dims):
            matrix = _filter_matrix(
                image.shape[axis + 2], float(spacing[axis]), float(rho), False, stride, str(image.device), image.dtype
            )
            products = _apply_along(products, matrix, axis)
        return products.unflatten(1, (image.shape[1], len(COMPONENTS[spatial_dims])))
