r"""What the structure tensor says to people: which way a volume's structure runs, and of what shape it is.

With eigenvalues :math:`\lambda_1\ge\lambda_2\ge\lambda_3\ge 0` of the structure tensor and its eigenvectors, per voxel
(Westin et al., *Processing and visualization for diffusion tensor MRI*, Medical Image Analysis 6(2), 2002, section 3,
applied to gradients):

- linear :math:`(\lambda_1-\lambda_2)/\lambda_1`: all gradients along one line, so there is a surface, across
  :math:`e_1`;
- planar :math:`(\lambda_2-\lambda_3)/\lambda_1`: gradients in a plane, so there is a tube or an edge, along
  :math:`e_3`;
- spherical :math:`\lambda_3/\lambda_1`: gradients every way, a blob, a corner, or noise;
- energy :math:`\lambda_1+\lambda_2+\lambda_3`: how much structure there is at all.

The three weights sum to 1. Eigenvectors have no sign; they are shown by the size of their components.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .eigen import symmetric_eigen
from .field import StructureField
from .tensor import trace_of


class ShapeField(StructureField):
    """Callable image -> the weights, the energy and both directions, for one look rather than for learning.

    Channels in 3D: linear, planar, spherical, energy, e1 (3), e3 (3); in 2D: linear, spherical, energy, e1 (2).
    The vectors have unit length and run along the grid's axes, in mm; their sign means nothing.
    """

    CHANNELS: ClassVar[dict[int, int]] = {2: 5, 3: 10}

    def from_tensor(self, tensor: Tensor) -> Tensor:
        values, vectors = symmetric_eigen(tensor)
        largest = values[:, :1]
        # Where there is no gradient at all every way is alike: spherical.
        empty = largest <= 0
        next_values = torch.cat([values[:, 1:], torch.zeros_like(largest)], 1)
        weights = (values - next_values) / torch.where(empty, torch.ones_like(largest), largest)
        weights = torch.cat([weights[:, :-1], torch.where(empty, torch.ones_like(largest), weights[:, -1:])], 1)
        directions = [vectors[:, 0]] if len(self.spacing) == 2 else [vectors[:, 0], vectors[:, 2]]
        return torch.cat([weights, trace_of(tensor), *directions], 1)
