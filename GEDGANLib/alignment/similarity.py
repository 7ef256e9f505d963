r"""How alike a case and the template are: local normalised cross-correlation.

In a window around each voxel, with means taken over it,

.. math:: c=\frac{\langle(I-\bar I)(J-\bar J)\rangle^2}
   {(\langle(I-\bar I)^2\rangle+\epsilon)(\langle(J-\bar J)^2\rangle+\epsilon)}

(Avants et al., *Symmetric diffeomorphic image registration with cross-correlation*, Medical Image Analysis 12(1),
2008, section 2.2): 1 where one image is the other but for brightness and contrast, 0 where they have nothing in
common. ε is the variance of what counts as noise, so that flat regions, as air, neither attract nor repel.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..structure.tensor import apply_along

NOISE = 1e-3
"""ε for intensities in [-1, 1]."""


@lru_cache(maxsize=64)
def _window_matrix(count: int, window: int) -> Tensor:
    """Mean over ``window`` voxels, fewer at the ends, (count, count)."""
    index = torch.arange(count)
    inside = ((index[:, None] - index).abs() <= window // 2).double()
    return inside / inside.sum(1, keepdim=True)


def window_mean(image: Tensor, window: int) -> Tensor:
    """Mean of ``image`` (N, C, *spatial) over cubes of ``window`` voxels, an odd number."""
    for axis, count in enumerate(image.shape[2:]):
        image = apply_along(image, _window_matrix(count, window).to(image), axis)
    return image


class LocalCorrelation:
    """The template's side of it, computed once for all cases that are compared with it.

    :param fixed: (1 or N, C, *spatial).
    :param window: voxels along each axis, odd.
    """

    def __init__(self, fixed: Tensor, window: int, noise: float = NOISE) -> None:
        self.fixed, self.window, self.noise = fixed, window, noise
        self.mean = window_mean(fixed, window)
        self.variance = (window_mean(fixed * fixed, window) - self.mean**2).clamp_min(0) + noise

    def __call__(self, moving: Tensor) -> Tensor:
        """c of the module's text at every voxel, (N, C, *spatial), of ``moving`` of that shape."""
        mean = window_mean(moving, self.window)
        variance = (window_mean(moving * moving, self.window) - mean**2).clamp_min(0) + self.noise
        covariance = window_mean(moving * self.fixed, self.window) - mean * self.mean
        return covariance * covariance / (variance * self.variance)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``values`` (N, C, *spatial) over channels and voxels as heavy as ``weight`` (N, 1, *spatial); (N,)."""
    total = (values * weight).flatten(1).sum(1)
    return total / (weight.flatten(1).sum(1) * values.shape[1]).clamp_min(1e-6)


def correlation(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Correlation of whole images, channel by channel, (N,) in [-1, 1]; shapes as for :func:`weighted_mean`."""
    total = weight.flatten(2).sum(2).clamp_min(1e-6)

    def mean(values: Tensor) -> Tensor:
        return (values * weight).flatten(2).sum(2) / total

    def centred(values: Tensor) -> Tensor:
        return values - mean(values).reshape(*values.shape[:2], *[1] * (values.ndim - 2))

    one, other = centred(first), centred(second)
    return (mean(one * other) / (mean(one * one) * mean(other * other) + 1e-8).sqrt()).mean(1)
