r"""An image deformed to a segmentation that somebody edited: what would the scan look like if this were its anatomy?

Of each edited segment k the signed distance from its border, negative inside, is :math:`d_k` before the edit and
:math:`d'_k` after it. Sought is the deformation :math:`\psi=\exp(wv)` that leads from a point of the edited anatomy to
where it was before,

.. math:: \min_v\;\frac{1}{\tau^2|B|}\sum_k\int\big(c_\tau(d_k\circ\psi)-c_\tau(d'_k)\big)^2
   +\lambda\,\langle|\Delta v|^2\rangle+\mu\,\langle\max(0,\,J_\text{low}-J_\psi)^2\rangle

with distances clamped, :math:`c_\tau(d)=\max(-\tau,\min(d,\tau))`, so that only borders count, the volume B of the band
in which they are not, and the Jacobian determinant J. The second term is what interpolation by thin plates leaves
smallest (Bookstein, *Principal warps*, IEEE Transactions on Pattern Analysis and Machine Intelligence 11(6), 1989), and
spreads a deformation evenly over what nobody drew. w is 1 near the edit, falls to 0 at the *reach*, and is 0 in
segments that are held: there v vanishes, and not a voxel moves. It is found by Adam, coarse to fine, with a Gaussian
over its steps, and gone on with, ever less stiffly, until every edited segment is where it was drawn.

A deformation can neither tear nor glue. A segment that appears, vanishes, or has another number of pieces, of holes
through it (by Euler's number; Kong and Rosenfeld, *Digital topology*, Computer Vision, Graphics, and Image Processing
48, 1989) or of cavities in it, is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .carrying import dice
from .registration import BETAS
from .sampling import LabelImage, coarser_shape, identity, sample_linear, shape_of_at_most, shrink, spacing_of
from .velocity import exponential, jacobian_determinant, refine, smooth

REACHED_DICE, REACHED_VOLUME, FOLLOWED = 0.98, 0.02, 0.8
"""When a segment is where it was drawn: its Dice coefficient, by how much its volume may be off, as a share, and how
much of what was drawn or erased must be so in the image. The last is what tells of a small edit of a large segment."""
SMALLEST_JACOBIAN, KEPT_ABOVE = 0.2, 0.3
"""The smallest determinant that is let through, and J_low of the module's text."""
REACH, REACH_VOXELS = 15.0, 8
"""From the edit, beyond which nothing moves, unless another reach is chosen: mm, or voxels where that is more."""


@dataclass(frozen=True)
class Stage:
    """A part of the search.

    :param coarseness: how many times larger its voxels are than the scan's.
    :param softness: how many times softer the deformation is than in the first stage.
    """

    coarseness: float
    iterations: int
    softness: float = 1.0


STAGES = (
    Stage(4, 40), Stage(2, 40), Stage(2, 30, 4), Stage(1, 30, 4), Stage(1, 30, 16), Stage(1, 40, 64), Stage(1, 60, 256),
)  # fmt: skip
"""Gone through until every segment is where it was drawn: the stiffest deformation that will do is the best one."""
CLAMP = 4.0
"""τ, in voxels of a stage."""
STIFFNESS, UNFOLDING = 0.3, 20.0
"""λ, for lengths in voxels of a stage, and μ."""
RATE = 0.25
"""Voxels of a stage that an iteration moves a point at most; it falls to a tenth along a cosine."""
MOST_VOXELS = 500_000
"""Of the finest stage."""


def signed_distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance from the border of a segment, mm, negative inside; 0 lies midway between voxels in and out of it."""
    from scipy import ndimage

    if mask.all() or not mask.any():
        return np.full(mask.shape, -np.inf if mask.all() else np.inf, np.float32)
    inside, outside = (ndimage.distance_transform_edt(part, sampling=spacing) for part in (mask, ~mask))
    return (outside - inside).astype(np.float32)


def pieces_holes_and_cavities(mask: np.ndarray) -> tuple[int, int, int]:
    """Betti numbers of a segment as a union of closed voxels: pieces (voxels that share a corner hang together), holes
    through it, and cavities that it encloses."""
    from scipy import ndimage

    dims = mask.ndim
    pieces = int(ndimage.label(mask, np.ones((3,) * dims))[1])
    outside = int(ndimage.label(np.pad(~mask, 1, constant_values=True))[1])
    if dims == 2:
        return pieces, outside - 1, 0
    return pieces, pieces + outside - 1 - _euler(mask), outside - 1


def _euler(mask: np.ndarray) -> int:
    """Euler's number: corners less edges plus faces less voxels."""
    padded, number, dims = np.pad(mask, 1), 0, mask.ndim
    for count in range(dims + 1):
        for flat in itertools.combinations(range(dims), count):  # axes along which a cell has no length
            cells = padded
            for axis in flat:
                before, after = ([slice(None)] * dims for _ in range(2))
                before[axis], after[axis] = slice(None, -1), slice(1, None)
                cells = cells[tuple(before)] | cells[tuple(after)]
            number += (-1) ** (dims - count) * int(cells.sum())
    return number


@dataclass(frozen=True)
class Change:
    """What an edit did to the topology of a segment.

    :param what: ``appears``, ``vanishes``, ``pieces``, ``holes`` or ``cavities``.
    :param before, after: numbers of these.
    """

    what: str
    before: int
    after: int


def topology_changed(before: np.ndarray, after: np.ndarray) -> Change | None:
    """What no deformation can do, of what an edit did to a segment; None where one may.

    Voxels that share no more than a corner hang together or not, as one likes. What changes only as one of the two is
    the roughness of a border, and does not count.
    """
    if not after.any() or not before.any():
        return Change("appears" if after.any() else "vanishes", int(before.any()), int(after.any()))
    hanging = [pieces_holes_and_cavities(mask) for mask in (before, after)]
    loose = [_where_corners_part(mask) for mask in (before, after)]
    for index, what in enumerate(("pieces", "holes", "cavities")):
        first, second = (numbers[1][index] - numbers[0][index] for numbers in (hanging, loose))
        if first * second > 0:
            return Change(what, hanging[0][index], hanging[1][index])
    return None


def _where_corners_part(mask: np.ndarray) -> tuple[int, int, int]:
    """:func:`pieces_holes_and_cavities` where only voxels that share a face hang together. What is around a segment has
    the same holes, a piece for each of its cavities and one more, and a cavity for each of its pieces (Alexander's
    duality)."""
    outside, holes, pieces = pieces_holes_and_cavities(np.pad(~mask, 1, constant_values=True))
    return (pieces, holes, outside - 1) if mask.ndim == 3 else (holes, outside - 1, 0)


def edited_labels(before: np.ndarray, after: np.ndarray) -> list[int]:
    """Labels of segments that have other voxels after an edit."""
    changed = before != after
    there = np.union1d(np.unique(before[changed]), np.unique(after[changed]))
    return [int(label) for label in there if label]


@dataclass(frozen=True)
class Reached:
    """How near the image came to an edited segment.

    :param dice: of the deformed segment with the drawn one.
    :param volume: by how much the deformed one is larger, as a share of the drawn one.
    :param followed: share of the voxels that the edit gave to the segment or took from it, in which the image follows.
    """

    label: int
    dice: float
    volume: float
    followed: float

    @property
    def enough(self) -> bool:
        return self.worth >= 0

    @property
    def worth(self) -> float:
        """How far it is from being where it was drawn, below 0 as long as it is not there."""
        return min(self.dice - REACHED_DICE, REACHED_VOLUME - abs(self.volume), self.followed - FOLLOWED)


@dataclass(frozen=True)
class Deformation:
    """How an image is deformed to an edit.

    :param window: the part of the scan in which anything moves.
    :param displacement: from each of its voxels to where it is read off, in voxels, (D, *window).
    :param smallest_jacobian: of ψ.
    :param farthest: that anything moves, mm.
    """

    window: tuple[slice, ...]
    displacement: Tensor
    reached: tuple[Reached, ...]
    smallest_jacobian: float
    farthest: float

    @property
    def enough(self) -> bool:
        """Whether every edited segment is where it was drawn."""
        return all(each.enough for each in self.reached)

    @property
    def worth(self) -> float:
        """That of the segment that is worst off."""
        return min(each.worth for each in self.reached)

    def indices(self) -> Tensor:
        """Where the voxels of the window are read off, in voxels of it, (D, *window)."""
        axes = [torch.arange(side).to(self.displacement) for side in self.displacement.shape[1:]]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")) + self.displacement


class Edit:
    """An edit, and the deformation to it.

    :param before, after: labels, (*voxels), whole numbers; the same segments in both.
    :param spacing: of the voxels, mm.
    :param held: labels of segments that were not edited and do not move.
    :param reach: mm, above 0; see :data:`REACH`.
    :param device: where it is computed.
    :raises ValueError: nothing was edited, or a held segment was.
    """

    def __init__(
        self, before: np.ndarray, after: np.ndarray, spacing: Sequence[float], held: Sequence[int] = (),
        reach: float | None = None, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.labels = edited_labels(before, after)
        if not self.labels or set(held) & set(self.labels):
            raise ValueError("nothing was edited, or a held segment was")
        self.spacing = tuple(float(side) for side in spacing)
        self.reach = max(REACH, REACH_VOXELS * max(self.spacing)) if reach is None else float(reach)
        self.device = torch.device(device)
        self.window = self._window(before != after)
        self.before, self.after = before[self.window], after[self.window]
        self.extent = tuple(side * step for side, step in zip(self.before.shape, self.spacing))
        self.free = self._free(held)

    def _window(self, changed: np.ndarray) -> tuple[slice, ...]:
        """The voxels within reach, and one more at each side."""
        found = []
        for axis, (count, step) in enumerate(zip(changed.shape, self.spacing)):
            there = np.flatnonzero(changed.any(tuple(other for other in range(changed.ndim) if other != axis)))
            margin = math.ceil(self.reach / step) + 1
            found.append(slice(max(int(there[0]) - margin, 0), min(int(there[-1]) + margin + 1, count)))
        return tuple(found)

    def _free(self, held: Sequence[int]) -> Tensor:
        """w of the module's text, (1, 1, *window)."""
        from scipy import ndimage

        away = ndimage.distance_transform_edt(self.before == self.after, sampling=self.spacing)
        weight = np.clip(1 - (away / self.reach) ** 2, 0, 1) ** 2
        fixed = np.isin(self.before, list(held)) if len(held) else np.zeros(self.before.shape, bool)
        if fixed.any():
            near = ndimage.distance_transform_edt(~fixed, sampling=self.spacing)
            weight *= np.clip(near / (2 * max(self.spacing)), 0, 1)
        return torch.from_numpy(weight.astype(np.float32))[None, None].to(self.device)

    def _distances(self, labels: np.ndarray) -> Tensor:
        """Signed distances of the edited segments, clamped for the coarsest stage, (1, K, *window), mm."""
        most = CLAMP * STAGES[0].coarseness * max(self.spacing)
        found = [signed_distance(labels == label, self.spacing).clip(-most, most) for label in self.labels]
        return torch.from_numpy(np.stack(found))[None].to(self.device)

    def shape_of(self, stage: Stage) -> tuple[int, ...]:
        """Voxels of its grid."""
        finest = shape_of_at_most(MOST_VOXELS, self.before.shape, self.extent)
        return finest if stage.coarseness == 1 else coarser_shape(finest, self.extent, stage.coarseness)

    def solving(self) -> Generator[tuple[int, int], None, Deformation]:
        """Find the deformation, in steps: yields iterations done and in all; of these there may be fewer."""
        distances = self._distances(self.before), self._distances(self.after)
        total, done = sum(stage.iterations for stage in STAGES), 0
        velocity = torch.zeros(1, self.before.ndim, *self.shape_of(STAGES[0]), device=self.device)
        best: Deformation | None = None
        for stage in STAGES:
            velocity = refine(velocity, self.shape_of(stage))
            for moved in self._descend(velocity, distances, stage):
                velocity, done = moved, done + 1
                yield done, total
            if stage.coarseness == STAGES[0].coarseness:
                continue
            yield done, total
            found = self._deformation(velocity)
            if best is None or found.worth > best.worth:
                best = found
            if best.enough:
                break
        yield total, total
        return best

    def _descend(
        self, velocity: Tensor, distances: tuple[Tensor, Tensor], stage: Stage
    ) -> Generator[Tensor, None, None]:
        """Iterations of Adam at a stage; yields the velocity after each."""
        shape, extent = velocity.shape[2:], self.extent
        sizes = spacing_of(shape, extent)
        size, clamp = min(sizes), CLAMP * max(sizes)
        before, after = (shrink(distance, shape).clamp(-clamp, clamp) for distance in distances)
        band = ((before.abs() < clamp) | (after.abs() < clamp)).float().sum().clamp_min(1)
        free, here = shrink(self.free, shape), identity(shape, extent, before)
        moments = [torch.zeros_like(velocity) for _ in range(2)]
        for iteration in range(stage.iterations):
            with torch.enable_grad():
                velocity = velocity.detach().requires_grad_()
                moving = free * velocity
                positions = here + exponential(moving, extent)
                difference = sample_linear(before, positions, extent) - after
                loss = (difference / clamp).square().sum() / band
                loss = loss + STIFFNESS / stage.softness * _bending(moving, sizes).mean()
                jacobian = jacobian_determinant(positions, extent)
                loss = loss + UNFOLDING * (KEPT_ABOVE - jacobian).clamp_min(0).square().sum() / band
                (gradient,) = torch.autograd.grad(loss, velocity)
            with torch.no_grad():
                gradient = smooth(gradient, 1.0, shape)  # in voxels
                for moment, value, beta in zip(moments, (gradient, gradient**2), BETAS):
                    moment.lerp_(value, 1 - beta)
                count = iteration + 1
                step = moments[0] / (1 - BETAS[0] ** count)
                step = step / ((moments[1] / (1 - BETAS[1] ** count)).sqrt() + 1e-12)
                rate = RATE * size * (0.55 + 0.45 * math.cos(math.pi * iteration / stage.iterations))
                velocity = velocity - rate * smooth(step, 1.0, shape)
            yield velocity

    @torch.no_grad()
    def _deformation(self, velocity: Tensor) -> Deformation:
        """The deformation of a velocity, shrunk until nothing folds."""
        shape, kept = self.before.shape, 1.0
        velocity = self.free * refine(velocity, shape)
        while True:
            # What does not move does not, not even by what rounding leaves beside what does.
            displacement = exponential(kept * velocity, self.extent) * (self.free > 0)
            positions = identity(shape, self.extent, displacement) + displacement
            jacobian = float(jacobian_determinant(positions, self.extent).min())
            if jacobian >= SMALLEST_JACOBIAN:
                break
            kept *= 0.9
        scale = displacement.new_tensor(self.spacing).reshape(-1, *[1] * len(shape))
        found = Deformation(self.window, displacement[0] / scale, (), jacobian, float(displacement.norm(dim=1).max()))
        carried = LabelImage(torch.from_numpy(np.array(self.before)).to(self.device)).at(found.indices()).cpu().numpy()
        reached = []
        for label in self.labels:
            was, is_now, made = (labels == label for labels in (self.before, self.after, carried))
            volume = int(made.sum()) / max(int(is_now.sum()), 1) - 1
            followed = float((made == is_now)[was != is_now].mean())
            reached.append(Reached(label, dice(carried, self.after, label), volume, followed))
        return replace(found, reached=tuple(reached))


def _bending(velocity: Tensor, spacing: Sequence[float]) -> Tensor:
    """|Δv|² at each voxel but the outer ones, for lengths in voxels, (N, *inner)."""
    inner = tuple(slice(1, -1) for _ in spacing)
    total = torch.zeros_like(velocity[(slice(None), slice(None), *inner)])
    for axis in range(len(spacing)):
        shifted = []
        for offset in (slice(None, -2), slice(1, -1), slice(2, None)):
            where = list(inner)
            where[axis] = offset
            shifted.append(velocity[(slice(None), slice(None), *where)])
        ratio = (min(spacing) / spacing[axis]) ** 2
        total = total + (shifted[0] - 2 * shifted[1] + shifted[2]) * ratio
    return (total / min(spacing)).square().sum(1)
