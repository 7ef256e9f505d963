r"""Cases brought onto a template, or all at once onto the mean of them all.

Case i has the transformation :math:`\varphi_i=a_i\circ\exp(v_i)`, an affine one after a deformation, which moves points
of the template to where the same anatomy is in the case: :math:`x_i\circ\varphi_i\approx T`. Both are found together by
Adam, coarse to fine, for the objective of each case

.. math:: 1-\langle c\rangle+\mu\langle(x_i\circ\varphi_i-T)^2\rangle+\lambda\langle|\nabla v_i|^2\rangle

with local correlations c (``similarity``) where the scan saw something. The template is the mean of the aligned cases
(Joshi et al., *Unbiased diffeomorphic atlas construction for computational anatomy*, NeuroImage 23, 2004), anew at
every iteration, and lies in the middle of them: the mean of their transformations is taken off by composition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import affine
from .sampling import coarser_shape, identity, sample_linear, shrink, spacing_of
from .similarity import LocalCorrelation, correlation, weighted_mean
from .transformations import Transformations
from .velocity import exponential, refine, roughness, smooth, without_affine

CHUNK_VOXELS = 2_000_000
"""Voxels of the cases that are looked at at a time."""


BETAS = (0.9, 0.99)
"""Of Adam."""


@dataclass(frozen=True)
class Level:
    """A stage of registration.

    :param coarseness: how many times larger its voxels are than those of the finest level.
    :param iterations: of Adam.
    :param rate: how far an iteration moves a point at most, in voxels of the level; it falls to a tenth along a cosine.
    :param deforms: whether velocities are found, too, by local correlations; or affine transformations alone, by the
        correlation of whole images, which is blind to brightness and reaches far.
    """

    coarseness: float
    iterations: int
    rate: float
    deforms: bool = True


@dataclass(frozen=True)
class Settings:
    """What registration does. The defaults were chosen on cases that ``Testing/Benchmarks/alignment.py`` leaves out of
    its table.

    :param window: of local correlations, voxels.
    :param squared: μ, weight of the squared difference.
    :param stiffness: λ, weight of the roughness.
    :param control: voxels of the finest level between two velocities.
    :param smoothing: of velocities, Gaussian, in the longest side of their own voxels.
    """

    window: int = 3
    squared: float = 0.3
    stiffness: float = 0.15
    control: float = 2.0
    smoothing: float = 1.0
    levels: tuple[Level, ...] = field(
        default=(
            Level(4, 50, 0.25, False),
            Level(4, 30, 0.25),
            Level(2, 40, 0.25),
            Level(1, 40, 0.25),
            Level(1, 8, 0.1),
        )
    )

    @classmethod
    def of(cls, chosen: Any) -> Settings:
        """Those of a plan.

        :param chosen: its ``alignment``.
        """
        return cls(chosen.window, chosen.squared, chosen.stiffness, chosen.control, chosen.smoothing)


def seen_weight(positions: Tensor, boxes: Tensor, spacing: Sequence[float]) -> Tensor:
    """How much a scan saw of where it is looked at: 1 in its field of view, 0 beyond, half at its edge; (N, 1, *grid).

    :param positions: (N, D, *grid), mm.
    :param boxes: first and last mm of each field of view along each axis, (N, D, 2).
    :param spacing: over how much the weight falls, mm.
    """
    ends = boxes.reshape(*boxes.shape, *[1] * (positions.ndim - 2))
    width = positions.new_tensor(list(spacing)).reshape(1, -1, *[1] * (positions.ndim - 2))
    inside = torch.minimum(positions - ends[:, :, 0], ends[:, :, 1] - positions) / width + 0.5
    return inside.clamp(0, 1).prod(1, keepdim=True)


@dataclass
class State:
    """Where a registration is; all of it is kept in a checkpoint, and going on from it changes nothing.

    :param template: (1, C, *grid of the level).
    :param moments: first and second of Adam, for generators and velocities.
    """

    level: int
    iteration: int
    moved: Transformations
    template: Tensor
    moments: list[Tensor]


class Registration:
    """Brings cases onto a template, or onto their mean where none is given.

    :param images: (N, C, *grid) in [-1, 1], over the box.
    :param boxes: fields of view, see :func:`seen_weight`.
    :param extent: of the box, mm.
    :param template: (1, C, *grid); the mean of the cases when not given.
    """

    def __init__(
        self, images: Tensor, boxes: Tensor, extent: Sequence[float], settings: Settings, template: Tensor | None = None
    ) -> None:
        self.images, self.boxes, self.extent, self.settings = images, boxes.to(images), tuple(extent), settings
        self.given = template
        self.device = images.device
        self._shrunk: dict[tuple[int, ...], Tensor] = {images.shape[2:]: images}
        self.state = self._start()

    @property
    def control_shape(self) -> tuple[int, ...]:
        """Velocities along each axis."""
        return coarser_shape(self.images.shape[2:], self.extent, self.settings.control, fewest=3)

    def shape_of(self, level: Level) -> tuple[int, ...]:
        """Voxels of a level's grid: equally large along all axes as far as the scans have them."""
        return coarser_shape(self.images.shape[2:], self.extent, level.coarseness)

    def _at(self, shape: tuple[int, ...]) -> Tensor:
        if shape not in self._shrunk:
            shrunk = shrink(self.images, shape)
            self._shrunk = {tuple(self.images.shape[2:]): self.images, shape: shrunk}
        return self._shrunk[shape]

    def _start(self) -> State:
        count, dims = len(self.images), self.images.ndim - 2
        generators = self.images.new_zeros(count, dims, dims + 1)
        velocities = self.images.new_zeros(count, dims, *self.control_shape)
        moved = Transformations(generators, velocities, self.extent)
        moved.generators[:, :, -1] = self._offsets()
        state = State(0, 0, moved, self.images[:0], [])
        self.state = state
        self._enter(state)
        return state

    def _offsets(self) -> Tensor:
        """Where the centre of what is brighter than air lies in each case, from where it lies in the template, mm."""

        def centre(images: Tensor) -> Tensor:
            here = identity(images.shape[2:], self.extent, images)
            mass = images[:, :1] - images[:, :1].flatten(1).amin(1).reshape(-1, 1, *[1] * (images.ndim - 2))
            return (mass * here).flatten(2).sum(2) / mass.flatten(2).sum(2).clamp_min(1e-6)

        coarse = self._at(self.shape_of(self.settings.levels[0]))
        centres = centre(coarse)
        if self.given is not None:
            return centres - centre(shrink(self.given, coarse.shape[2:]))
        return centres - centres.mean(0, keepdim=True)

    def _chunks(self, shape: Sequence[int]) -> Iterator[slice]:
        size = max(CHUNK_VOXELS // (math.prod(shape) * self.images.shape[1]), 1)
        for start in range(0, len(self.images), size):
            yield slice(start, start + size)

    def _enter(self, state: State) -> None:
        """Start a level: its template, and Adam anew."""
        shape = self.shape_of(self.settings.levels[state.level])
        state.moments = [
            torch.zeros_like(tensor) for tensor in (state.moved.generators, state.moved.velocities) for _ in range(2)
        ]
        if self.given is not None:
            state.template = shrink(self.given, shape)
            return
        state.template = self.mean_case(shape)

    @torch.no_grad()
    def mean_case(self, shape: tuple[int, ...]) -> Tensor:
        """Mean of the cases as they are aligned now, each where it saw something, (1, C, *shape)."""
        images, sums = self._at(shape), None
        for chunk in self._chunks(shape):
            positions = self.state.moved.of(chunk).positions(shape)
            sums = _add(sums, sample_linear(images[chunk], positions, self.extent), self._weight(positions, chunk))
        return mean_seen(*sums, len(self.images))

    def _weight(self, positions: Tensor, chunk: slice) -> Tensor:
        return seen_weight(positions.detach(), self.boxes[chunk], spacing_of(positions.shape[2:], self.extent))

    def step(self) -> bool:
        """One iteration of Adam for all cases, and the template anew; False once all levels are done."""
        state, settings = self.state, self.settings
        if state.level == len(settings.levels):
            return False
        level = settings.levels[state.level]
        shape = self.shape_of(level)
        images, here = self._at(shape), identity(shape, self.extent, self.images)
        compare = LocalCorrelation(state.template, settings.window) if level.deforms else None
        rate = level.rate * min(spacing_of(shape, self.extent))
        rate *= 0.55 + 0.45 * math.cos(math.pi * state.iteration / level.iterations)
        sums = None
        means = [each.mean(0, keepdim=True) for each in (state.moved.generators, state.moved.velocities)]
        for chunk in self._chunks(shape):
            generators = state.moved.generators[chunk].detach().requires_grad_()
            velocities = state.moved.velocities[chunk].detach().requires_grad_(level.deforms)
            displacement = refine(exponential(velocities, self.extent), shape)
            positions = affine.apply(affine.matrix_of(generators, self.extent), here + displacement)
            moving = sample_linear(images[chunk], positions, self.extent)
            weight = self._weight(positions, chunk)
            if compare is None:
                similarity = correlation(moving, state.template.expand_as(moving), weight)
                loss = 1 - similarity
            else:
                similarity = weighted_mean(compare(moving), weight)
                difference = weighted_mean((moving - state.template) ** 2, weight)
                loss = 1 - similarity + settings.squared * difference
                loss = loss + settings.stiffness * roughness(velocities, self.extent)
            loss.sum().backward()
            self._move(chunk, generators.grad, velocities.grad, rate)
            sums = _add(sums, moving.detach(), weight)
        if self.given is None:
            state.template = mean_seen(*sums, len(self.images))
            # The cases move against each other, and not all of them one way: a template that may grow does.
            for each, mean in zip((state.moved.generators, state.moved.velocities), means):
                each -= each.mean(0, keepdim=True) - mean
        state.iteration += 1
        if state.iteration == level.iterations:
            state.level, state.iteration = state.level + 1, 0
            if state.level < len(settings.levels):
                if self.given is None:  # not after the last one, which mends what this leaves
                    state.moved.centre()
                self._enter(state)
        return True

    def _move(self, chunk: slice, generators: Tensor, velocities: Tensor | None, rate: float) -> None:
        """A step of Adam; a velocity's gradient and its step are smoothed, as if it were the Gaussian of a field that
        Adam moves, and have no affine part, which the generators have."""
        state, width = self.state, self.settings.smoothing
        state.moved.generators[chunk] -= rate * self._direction(0, chunk, generators)
        if velocities is not None:
            mm = width * max(spacing_of(velocities.shape[2:], self.extent))
            step = self._direction(2, chunk, without_affine(smooth(velocities, mm, self.extent)))
            state.moved.velocities[chunk] -= rate * without_affine(smooth(step, mm, self.extent))

    def _direction(self, which: int, chunk: slice, gradient: Tensor) -> Tensor:
        """Adam's (Kingma and Ba, 2015, algorithm 1), of length about 1 an entry."""
        first, second = BETAS
        mean, square = (self.state.moments[which + offset][chunk] for offset in (0, 1))
        mean.lerp_(gradient, 1 - first)
        square.lerp_(gradient * gradient, 1 - second)
        count = self.state.iteration + 1
        return mean / (1 - first**count) / ((square / (1 - second**count)).sqrt() + 1e-12)

    @property
    def total(self) -> int:
        """Iterations of all levels."""
        return sum(level.iterations for level in self.settings.levels)

    @property
    def done(self) -> int:
        """Iterations so far."""
        return sum(level.iterations for level in self.settings.levels[: self.state.level]) + self.state.iteration

    def run(self) -> Transformations:
        """All iterations that are left."""
        while self.step():
            pass
        return self.state.moved

    def kept(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """All that :meth:`load` needs to go on as if nothing had happened: tensors, and where it is."""
        state = self.state
        tensors = {
            "generators": state.moved.generators,
            "velocities": state.moved.velocities,
            "template": state.template,
        }
        tensors |= {f"moment{index}": moment for index, moment in enumerate(state.moments)}
        return tensors, {"level": state.level, "iteration": state.iteration}

    def load(self, tensors: dict[str, Tensor], where: dict[str, int]) -> None:
        """Go on from what :meth:`kept` gave."""
        there = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        moved = Transformations(there["generators"], there["velocities"], self.extent)
        moments = [there[f"moment{index}"] for index in range(4)]
        state = (where["level"], where["iteration"], moved, there["template"], moments)
        self.state = State(*state)


FEWEST_SEEN = 1e-3
"""Cases that must have seen a place for their mean there to count what was not seen as nothing."""


def _add(sums: tuple[Tensor, Tensor, Tensor] | None, images: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over cases: of what was seen, of how many saw it, and of all with what was not seen."""
    parts = ((images * weight).sum(0, keepdim=True), weight.sum(0, keepdim=True), images.sum(0, keepdim=True))
    return parts if sums is None else tuple(one + other for one, other in zip(sums, parts))


def mean_seen(total: Tensor, weight: Tensor, everything: Tensor, count: int) -> Tensor:
    """Mean of what was seen; of all, repeated edges, where hardly any of ``count`` cases saw anything."""
    return torch.where(weight < FEWEST_SEEN, everything / count, total / weight.clamp_min(FEWEST_SEEN))
