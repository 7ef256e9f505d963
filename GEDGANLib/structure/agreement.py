r"""Whether label boundaries lie along image surfaces: the trace of the cross tensor of their gradients.

For an image channel x and a soft label y, with the gradients, averages and traces of the structure tensor,

.. math:: a(x, y) = \frac{\mathrm{tr}\; G_\rho * (\nabla_\sigma x\, \nabla_\sigma y^T)}
                         {\sqrt{(t_x + \tau)(t_y + \tau_y)}} \in [-1, 1]

is 1 where the image rises exactly where and as the label does, -1 where it falls, and 0 where a boundary has no surface
or a surface no boundary; the sign is the label's contrast. (It is the normalised gradient field of Haber and
Modersitzki, MICCAI 2006, averaged before it is normalised.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .tensor import average, axis_filters, gradient_components

BOUNDARY_SHARE = 0.01
"""τ_y in units of 1/σ²: a tenth of the slope of a label that goes from 0 to 1 within σ."""


@dataclass(frozen=True)
class AgreementField:
    """Callable case -> agreement of each image channel with each label, background left out.

    :param spacing: voxel size in mm, one entry a spatial axis.
    :param sigma: scale of the gradients, mm.
    :param rho: scale of the average, mm.
    :param tau: structure of the image that counts as much as noise, (intensity/mm)².
    :param image_channels: of the case; the labels follow, background first.
    :param stride: one value for so many voxels along each axis; one number for all.
    """

    spacing: Sequence[float]
    sigma: float
    rho: float
    tau: float
    image_channels: int
    stride: int | tuple[int, ...] = 1

    def channels(self, label_count: int) -> int:
        """Channels for ``label_count`` labels without background."""
        return self.image_channels * label_count

    def __call__(self, case: Tensor) -> Tensor:
        """Return the agreement in ``case`` (N, image_channels + label_count + 1, *spatial).

        :returns: (N, image_channels * label_count, *ceil(spatial / stride)), the labels of a channel together.
        """
        with torch.autocast(case.device.type, enabled=False):
            case = case if case.dtype in (torch.float32, torch.float64) else case.float()
            filters = axis_filters(case, self.sigma, self.rho, self.spacing, self.stride)
            components = torch.stack(gradient_components(case, filters), 2)
            images, labels = components[:, : self.image_channels], components[:, self.image_channels + 1 :]
            across = average(torch.einsum("ncd...,nld...->ncl...", images, labels).flatten(1, 2), filters)
            image_trace = average(images.square().sum(2), filters) + self.tau
            label_trace = average(labels.square().sum(2), filters) + BOUNDARY_SHARE / self.sigma**2
            scale = (image_trace[:, :, None] * label_trace[:, None]).flatten(1, 2)
            return across * scale.rsqrt()
