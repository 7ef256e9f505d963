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
from typing import NamedTuple

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
    with torch.inference_mode(False):  # a matrix made in inference mode could not serve a training later
        return _new_filter_matrix(size, spacing, scale, derivative, stride).to(device=device, dtype=dtype)


def _new_filter_matrix(size: int, spacing: float, scale: float, derivative: bool, stride: int) -> Tensor:
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
    return weight


def apply_along(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply ``matrix`` onto spatial axis ``axis`` (0 based) of ``image``, shape (N, C, *spatial)."""
    shape = list(image.shape)
    before = math.prod(shape[: axis + 2])
    after = math.prod(shape[axis + 3 :])
    shape[axis + 2] = matrix.shape[0]
    if after == 1:
        return (image.reshape(before, -1) @ matrix.T).reshape(shape)
    return torch.matmul(matrix, image.reshape(before, matrix.shape[1], after)).reshape(shape)


class AxisFilters(NamedTuple):
    """The three filters along one axis, as matrices: smoothing and derivative at scale σ, average at scale ρ."""

    smoothing: Tensor
    derivative: Tensor
    average: Tensor

    def only(self, outputs: slice) -> tuple[AxisFilters, slice]:
        """What is needed for some rows of the average: the filters cut to it, and the voxels that they look at."""
        inner = _columns_used(self.average[outputs])
        outer = _columns_used(self.smoothing[inner])
        return (
            AxisFilters(
                self.smoothing[inner, outer], self.derivative[inner, outer], self.average[outputs, inner].contiguous()
            ),
            outer,
        )


def _columns_used(rows: Tensor) -> slice:
    used = rows.abs().sum(0).nonzero()
    return slice(int(used.min()), int(used.max()) + 1)


def axis_filters(
    image: Tensor, sigma: float, rho: float, spacing: Sequence[float], stride: int | Sequence[int] = 1
) -> list[AxisFilters]:
    """The filters of :func:`structure_tensor` for each spatial axis of ``image``; parameters as there."""

    def matrix(axis: int, scale: float, derivative: bool, stride: int) -> Tensor:
        size, device = image.shape[axis + 2], str(image.device)
        return _filter_matrix(size, float(spacing[axis]), float(scale), derivative, stride, device, image.dtype)

    dims = image.ndim - 2
    strides = [stride] * dims if isinstance(stride, int) else stride
    return [
        AxisFilters(
            matrix(axis, sigma, False, 1), matrix(axis, sigma, True, 1), matrix(axis, rho, False, strides[axis])
        )
        for axis in range(dims)
    ]


def gradient_components(image: Tensor, filters: Sequence[AxisFilters]) -> list[Tensor]:
    """Components of the gradient, each (N, C, *spatial)."""
    # Smooth along each axis but the one that is derived, sharing the products: 8 instead of 9 in 3D.
    components: list[Tensor] = []
    smoothed = image
    for axis, axis_filter in enumerate(filters):
        components = [apply_along(component, axis_filter.smoothing, axis) for component in components]
        components.append(apply_along(smoothed, axis_filter.derivative, axis))
        if axis + 1 < len(filters):
            smoothed = apply_along(smoothed, axis_filter.smoothing, axis)
    return components


def gaussian_gradient(image: Tensor, sigma: float, spacing: Sequence[float]) -> Tensor:
    """Gradient of ``image`` at scale ``sigma``.

    :param image: shape (N, C, X, Y) or (N, C, X, Y, Z).
    :param sigma: standard deviation of the Gaussian in mm.
    :param spacing: voxel size of each spatial axis in mm.
    :returns: shape (N, C, D, *spatial), intensity per mm, D the number of spatial axes.
    """
    return torch.stack(gradient_components(image, axis_filters(image, sigma, sigma, spacing)), dim=2)


def structure_tensor(
    image: Tensor, sigma: float, rho: float, spacing: Sequence[float], stride: int | Sequence[int] = 1
) -> Tensor:
    """Structure tensor of every channel of ``image``.

    :param image: shape (N, C, X, Y) or (N, C, X, Y, Z); computed in float32 at least, inside autocast too.
    :param sigma: scale of the gradient in mm.
    :param rho: scale of the average in mm.
    :param spacing: voxel size of each spatial axis in mm.
    :param stride: keep one tensor for so many voxels along each axis, at the centre of them; one number for all.
    :returns: shape (N, C, 3, ...) in 2D and (N, C, 6, ...) in 3D, in the order of :data:`COMPONENTS`, (intensity/mm)².
    :raises ValueError: the image is not 2D or 3D, or ``spacing`` does not fit it.
    """
    check_image(image, spacing)
    with torch.autocast(image.device.type, enabled=False):
        image = image if image.dtype in (torch.float32, torch.float64) else image.float()
        return filtered_structure_tensor(image, axis_filters(image, sigma, rho, spacing, stride))


def check_image(image: Tensor, spacing: Sequence[float]) -> None:
    """:raises ValueError: ``image`` is not (N, C, X, Y) or (N, C, X, Y, Z), or ``spacing`` does not fit it."""
    spatial_dims = image.ndim - 2
    if spatial_dims not in COMPONENTS:
        raise ValueError(f"image must have shape (N, C, X, Y) or (N, C, X, Y, Z), got {tuple(image.shape)}")
    if len(spacing) != spatial_dims:
        raise ValueError(f"spacing must have {spatial_dims} entries, got {len(spacing)}")


def filtered_structure_tensor(image: Tensor, filters: Sequence[AxisFilters]) -> Tensor:
    """Structure tensor of ``image``, float32 or float64, with ready filters; shapes as :func:`structure_tensor`."""
    gradient = gradient_components(image, filters)
    averages = []
    for i, j in COMPONENTS[len(filters)]:
        # One component after the other: a large volume's then stays in the cache from product to average.
        averages.append(average(gradient[i] * gradient[j], filters))
    return torch.stack(averages, dim=2)


def trace_of(tensor: Tensor) -> Tensor:
    """Trace of structure tensors (N, 3 or 6, *spatial), (N, 1, *spatial)."""
    return tensor[:, : 2 if tensor.shape[1] == 3 else 3].sum(1, keepdim=True)


def average(image: Tensor, filters: Sequence[AxisFilters]) -> Tensor:
    """Average of ``image`` (N, C, *spatial) at scale ρ."""
    for axis, axis_filter in enumerate(filters):
        image = apply_along(image, axis_filter.average, axis)
    return image
