r"""The eigen-directional field: what the discriminator sees of an image's structure.

For every image channel, with :math:`t = \mathrm{tr}\,S` and :math:`\tau` the data set's median of :math:`t`,

- :math:`(\lambda_1-\lambda_2)\,e_1e_1^T/(t+\tau)`: which way a surface faces, as strongly as it is one;
- :math:`(\lambda_2-\lambda_3)\,e_3e_3^T/(t+\tau)` (3D): which way a tube runs, as strongly as it is one;
- :math:`\log(1+t/\tau)`: how much structure there is.

The eigen-directions of S are conjugate with respect to it, :math:`e_i^TSe_j=0`: these are the gradient's conjugate
directions. The field never holds a raw eigenvector, which has no sign and no bounded derivative in flat regions.

Two plainer fields stand beside it, to measure it against: :math:`S/(t+\tau)` and :math:`\sqrt{t/\tau}`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .fused import eigen_directional_field, pays, plain_field
from .tensor import COMPONENTS, axis_filters, check_image, filtered_structure_tensor, structure_tensor, trace_of

BLOCK_SIDE = 64
"""Voxels along each axis of the blocks that a large volume is cut into."""


@dataclass(frozen=True)
class StructureField(ABC):
    """Callable image -> field with fixed scales; the kinds differ in what they make of the structure tensor.

    :param spacing: voxel size in mm, one entry a spatial axis.
    :param sigma: scale of the gradient, mm.
    :param rho: scale of the average, mm.
    :param tau: structure that counts as much as noise, (intensity/mm)²; a scalar for all channels.
    :param stride: one field value for so many voxels along each axis; one number for all.
    """

    spacing: tuple[float, ...]
    sigma: float
    rho: float
    tau: float
    stride: int | tuple[int, ...] = 1

    CHANNELS: ClassVar[dict[int, int]]
    """Channels of the field of one image channel, for 2 and 3 spatial dimensions."""

    @abstractmethod
    def from_tensor(self, tensor: Tensor) -> Tensor:
        """Field (N, CHANNELS, *spatial) of structure tensors (N, 3 or 6, *spatial)."""

    def __call__(self, image: Tensor) -> Tensor:
        """Return the field of ``image`` (N, C, *spatial), shape (N, C * CHANNELS, *ceil(spatial/stride)).

        :raises ValueError: the image does not have as many spatial axes as ``spacing`` entries.
        """
        return self._of(structure_tensor(image, self.sigma, self.rho, self.spacing, self.stride))

    def _of(self, tensor: Tensor) -> Tensor:
        batch, image_channels = tensor.shape[:2]
        return self.from_tensor(tensor.flatten(0, 1)).unflatten(0, (batch, image_channels)).flatten(1, 2)

    @torch.no_grad()
    def by_blocks(self, image: Tensor, side: int = BLOCK_SIDE) -> Tensor:
        """The same field of a large volume, computed block by block with as wide a halo as the filters reach.

        Memory beside the result is that of a block, and time grows with the voxels alone. Not differentiable.

        :param side: voxels of a block of the result along each axis.
        """
        check_image(image, self.spacing)
        image = image if image.dtype in (torch.float32, torch.float64) else image.float()
        filters = axis_filters(image, self.sigma, self.rho, self.spacing, self.stride)
        shape = [axis_filter.average.shape[0] for axis_filter in filters]
        field = image.new_empty(len(image), image.shape[1] * self.CHANNELS[len(shape)], *shape)
        cuts = [[slice(start, min(start + side, size)) for start in range(0, size, side)] for size in shape]
        with torch.autocast(image.device.type, enabled=False):
            for block in itertools.product(*cuts):
                block_filters, seen = zip(*(f.only(cut) for f, cut in zip(filters, block)))
                tensor = filtered_structure_tensor(image[(..., *seen)].contiguous(), block_filters)
                field[(..., *block)] = self._of(tensor)
        return field


class EigenDirectionalField(StructureField):
    """See the module's text. The default."""

    CHANNELS: ClassVar[dict[int, int]] = {2: 4, 3: 13}

    def from_tensor(self, tensor: Tensor) -> Tensor:
        return (eigen_directional_field if pays(tensor) else plain_field)(tensor, self.tau)


class RelativeTensorField(StructureField):
    """S / (t + τ): the same directions, not told apart into surfaces and tubes."""

    CHANNELS: ClassVar[dict[int, int]] = {dims: len(parts) for dims, parts in COMPONENTS.items()}

    def from_tensor(self, tensor: Tensor) -> Tensor:
        return tensor / (trace_of(tensor) + self.tau)


class GradientMagnitudeField(StructureField):
    """√(t/τ): how steep the image is, no directions."""

    CHANNELS: ClassVar[dict[int, int]] = {2: 1, 3: 1}

    def from_tensor(self, tensor: Tensor) -> Tensor:
        # √(x + ε) - √ε has a bounded derivative where the image is flat.
        return (trace_of(tensor) / self.tau + 1e-2).sqrt() - 1e-1


FIELDS: dict[str, type[StructureField]] = {
    "eigen-directional": EigenDirectionalField,
    "tensor": RelativeTensorField,
    "gradient": GradientMagnitudeField,
}
"""Fields by the names that a plan has for them."""


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
