"""Voxels of a scan, in whatever orientation, size and place, in the box of an alignment; and coarse nodes over them.

A deformation is smooth: it is computed at nodes some voxels apart, a ring of them around the scan, and read off at its
voxels by the cubic B-spline through them, which is a matrix along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..structure.tensor import apply_along
from .sampling import spline_at


@dataclass(frozen=True)
class Lattice:
    """Voxels of a scan.

    :param shape: along its own axes.
    :param matrix: (D, D + 1) float64, from the index of a voxel to mm in the box, whose centre is 0.
    """

    shape: tuple[int, ...]
    matrix: np.ndarray

    @classmethod
    def of(cls, affine: np.ndarray, shape: Sequence[int], box: np.ndarray, box_shape: Sequence[int]) -> Lattice:
        """Voxels of a scan with an affine, in a box that is a grid of the same patient.

        :param affine: of the scan, voxel to mm in RAS, (D + 1, D + 1).
        :param box, box_shape: affine and voxels of the grid that the box is.
        """
        dims = len(box_shape)
        spacing = np.linalg.norm(box[:dims, :dims], axis=0)
        matrix = (np.linalg.inv(box) @ affine)[:dims] * spacing[:, None]
        matrix[:, dims] -= (np.asarray(box_shape) - 1) / 2 * spacing
        return cls(tuple(int(side) for side in shape), matrix)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Of the voxels, mm."""
        return tuple(float(size) for size in np.linalg.norm(self.matrix[:, :-1], axis=0))

    def nodes(self, step: float) -> Nodes:
        """Nodes about ``step`` mm apart, and no finer than its voxels."""
        sides = zip(self.shape, self.spacing)
        counts = [min(math.ceil(count * size / step - 1e-6), count) for count, size in sides]
        return Nodes(self, tuple(counts))


@dataclass(frozen=True)
class Nodes:
    """Evenly over a lattice from edge to edge, and one more beyond at each end.

    :param counts: along each axis, those beyond left out.
    """

    lattice: Lattice
    counts: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(count + 2 for count in self.counts)

    def positions(self, like: Tensor) -> Tensor:
        """Where they lie, mm in the box, (1, D, *shape), on the device and of the type of ``like``."""
        axes = [
            (torch.arange(-1, count + 1, dtype=torch.float64) + 0.5) * side / count - 0.5
            for count, side in zip(self.counts, self.lattice.shape)
        ]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
        matrix = torch.from_numpy(self.lattice.matrix)
        found = matrix[:, :-1] @ index + matrix[:, -1:]
        return found.reshape(1, -1, *self.shape).to(like)

    @cached_property
    def _rows(self) -> list[Tensor]:
        rows = []
        for count, side in zip(self.counts, self.lattice.shape):
            position = (torch.arange(side, dtype=torch.float64) + 0.5) / side * count + 0.5
            rows.append(spline_at(position, count + 2))
        return rows

    def refined(self, field: Tensor, slab: slice | None = None, box: Sequence[slice] | None = None) -> Tensor:
        """A field at the nodes, (N, C, *shape), at the voxels of the lattice.

        :param slab: of these, along the first axis, this part alone.
        :param box: of these, this part alone.
        """
        for axis, rows in enumerate(self._rows):
            part = slice(None) if box is None else box[axis]
            part = slab if axis == 0 and slab is not None else part
            field = apply_along(field, rows[part].to(field), axis)
        return field

    def smallest_jacobian(self, displacement: Tensor) -> float:
        """The smallest determinant of where points come to lie; at 0 they fold.

        :param displacement: of the nodes, in voxels of the lattice, (1, D, *shape).
        """
        dims = displacement.shape[1]
        steps = [side / count for side, count in zip(self.lattice.shape, self.counts)]
        columns = torch.gradient(displacement, spacing=steps, dim=list(range(2, 2 + dims)))
        matrix = torch.stack(columns, dim=-1).movedim(1, -2) + torch.eye(dims).to(displacement)
        return float(torch.linalg.det(matrix).min())
