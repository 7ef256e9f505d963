"""Affine parts and velocities of many cases: where their points come to lie, there and back, and their middle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import affine
from .sampling import identity, sample_linear, sample_spline, spline_coefficients
from .velocity import exponential, refine


@dataclass
class Transformations:
    """Of N cases; see the module's text.

    :param generators: (N, D, D+1) of the affine parts, mm.
    :param velocities: (N, D, *control grid), mm.
    """

    generators: Tensor
    velocities: Tensor
    extent: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.generators)

    def of(self, chosen: slice | Sequence[int]) -> Transformations:
        return Transformations(self.generators[chosen], self.velocities[chosen], self.extent)

    def to(self, device: torch.device) -> Transformations:
        """The same on a device."""
        return Transformations(self.generators.to(device), self.velocities.to(device), self.extent)

    def positions(self, shape: Sequence[int], inverse: bool = False) -> Tensor:
        """Where the voxels of a grid over the box come to lie, mm, (N, D, *shape).

        :param inverse: :math:`\\exp(-v_i)\\circ a_i^{-1}`, from the case to the template, instead of
            :math:`a_i\\circ\\exp(v_i)`.
        """
        here = identity(shape, self.extent, self.velocities)
        if not inverse:
            displacement = refine(exponential(self.velocities, self.extent), shape)
            return affine.apply(affine.matrix_of(self.generators, self.extent), here + displacement)
        moved = affine.apply(affine.matrix_of(-self.generators, self.extent), here)
        back = exponential(-self.velocities, self.extent)
        return moved + sample_linear(back, moved, self.extent)

    @torch.no_grad()
    def at(self, points: Tensor) -> Tensor:
        """Where points of the template come to lie in the cases, mm; (N or 1, D, *spatial) -> (N, D, *spatial). Beyond
        the box the deformation of its edge goes on."""
        return self._forward()(points.expand(len(self), *points.shape[1:]))

    def _forward(self) -> Callable[[Tensor], Tensor]:
        coefficients = spline_coefficients(exponential(self.velocities, self.extent))
        matrix = affine.matrix_of(self.generators, self.extent)
        return lambda points: affine.apply(matrix, points + sample_spline(coefficients, points, self.extent))

    @torch.no_grad()
    def back(self, points: Tensor, rounds: int = 60, exact: float = 2e-3) -> Tensor:
        """Where points of one case lie on the template, mm: the inverse of :meth:`at`, found by going on from that of
        the transformation, point by point as long as it leaves more than ``exact`` mm.

        :param points: (1, D, *spatial), mm.
        """
        forward, inverse = self._forward(), affine.matrix_of(-self.generators, self.extent)
        dims, wanted = points.shape[1], points.flatten(2)
        start = affine.apply(inverse, wanted)
        shape = (1, dims, -1, *[1] * (dims - 1))  # a line of points, as samplers want them
        found = start + sample_linear(
            exponential(-self.velocities, self.extent), start.reshape(shape), self.extent
        ).reshape(1, dims, -1)
        left = torch.arange(found.shape[2], device=found.device)
        for _ in range(rounds):
            missed = wanted[..., left] - forward(found[..., left].reshape(shape)).reshape(1, dims, -1)
            found[..., left] += inverse[:, :dims, :dims] @ missed
            left = left[missed[0].abs().amax(0) > exact]
            if not len(left):
                break
        return found.unflatten(2, points.shape[2:])

    @torch.no_grad()
    def centre(self, rounds: int = 3) -> None:
        """Take the mean of the transformations off all of them, so that the template lies in the middle of the cases.

        Of affine parts by composition, :math:`a_i\\leftarrow a_i\\circ s` with :math:`s=\\expm(-\\bar L)`, as their
        generators do not add up; the velocity is carried along, :math:`v_i\\leftarrow (Ds)^{-1}\\,v_i\\circ s`, so that
        :math:`\\varphi_i` becomes :math:`\\varphi_i\\circ s` and nothing else.
        """
        here = identity(self.velocities.shape[2:], self.extent, self.velocities)
        dims = here.shape[1]
        for _ in range(rounds):
            generators = self.generators.cpu().double()
            mean = generators.mean(0, keepdim=True)
            shift = affine.matrix_of(-mean, self.extent)
            try:
                generators = affine.generator_of(affine.matrix_of(generators, self.extent) @ shift, self.extent)
            except ValueError:  # one of them turned half around: it is left as it is
                break
            self.generators = generators.to(self.generators)
            moved = affine.apply(shift.to(here), here)
            back = affine.matrix_of(mean, self.extent)[:, :dims, :dims].to(here)
            for one in range(len(self)):
                carried = sample_linear(self.velocities[one : one + 1], moved, self.extent)
                self.velocities[one] = (back @ carried.flatten(2)).unflatten(2, carried.shape[2:])[0]
        self.velocities -= self.velocities.mean(0, keepdim=True)
