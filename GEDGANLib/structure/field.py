r"""The eigen-directional field: what the discriminator sees of an image's structure.

For every image channel, with :math:`t = \mathrm{tr}\,S` and :math:`\tau` the data set's median of :math:`t`,

- :math:`(\lambda_1-\lambda_2)\,e_1e_1^T/(t+\tau)`: which way a surface faces, as strongly as it is one;
- :math:`(\lambda_2-\lambda_3)\,e_3e_3^T/(t+\tau)` (3D): which way a tube runs, as strongly as it is one;
- :math:`\log(1+t/\tau)`: how much structure there is.

The eigen-directions of S are conjugate with respect to it, :math:`e_i^TSe_j=0`: these are the gradient's conjugate
directions. The field never holds a raw eigenvector, which has no sign and no bounded derivative in flat regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .eigen import gap_weighted_dyads
from .tensor import structure_tensor


@dataclass(frozen=True)
class EigenDirectionalField:
    """Callable image -> field with fixed scales.

    :param spacing: voxel size in mm, one entry a spatial axis.
    :param sigma: scale of the gradient, mm.
    :param rho: scale of the average, mm.
    :param tau: structure that counts as much as noise, (intensity/mm)²; a scalar for all channels.
    :param stride: one field value for so many voxels along each axis.
    """

    spacing: tuple[float, ...]
    sigma: float
    rho: float
    tau: float
    stride: int = 1

    def channels(self, image_channels: int) -> int:
        """Channels of the field of an image with ``image_channels`` channels: 13 each in 3D, 4 in 2D."""
        return image_channels * (13 if len(self.spacing) == 3 else 4)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the field of ``image`` (N, C, *spatial), shape (N, channels, *ceil(spatial/stride))."""
        tensor = structure_tensor(image, self.sigma, self.rho, self.spacing, self.stride)
        batch, image_channels = tensor.shape[:2]
        tensor = tensor.flatten(0, 1)
        trace = tensor[:, : len(self.spacing)].sum(1, keepdim=True)
        field = torch.cat([gap_weighted_dyads(tensor) / (trace + self.tau), torch.log1p(trace / self.tau)], 1)
        return field.unflatten(0, (batch, image_channels)).flatten(1, 2)


def median_trace(images: Sequence[Tensor], sigma: float, rho: float, spacing: Sequence[float]) -> float:
    """Median of tr S over the voxels of ``images``, each (C, *spatial): the τ of the field.

    Voxels without any structure (air that was cut to one value) are left out, or the median would be theirs. Never 0.
    """
    traces = []
    for image in images:
        tensor = structure_tensor(image[None], sigma, rho, spacing)
        traces.append(tensor[:, :, : len(spacing)].sum(2).flatten())
    trace = torch.cat(traces)
    largest = float(trace.max())
    trace = trace[trace > 1e-6 * largest] if largest > 0 else trace
    return max(float(trace.median()), 1e-12)
