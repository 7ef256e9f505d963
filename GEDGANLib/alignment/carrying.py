r"""Segmentations of some cases carried to another one, through the template and refined directly.

Cases s and t lie on the template by :math:`\varphi_s,\varphi_t`, so that :math:`\varphi_s\circ\varphi_t^{-1}` leads
from points of t to where the same anatomy is in s. What two alignments to a mean leave undone is made up for by
registering :math:`x_s\circ\varphi_s\circ\varphi_t^{-1}` to :math:`x_t` itself, in a few iterations, which gives δ; the
label of a voxel p of t is that of s at :math:`\varphi_s\circ\varphi_t^{-1}\circ\delta(p)`.

Labels from several sources are voted for, with weights :math:`c_s(p)^k` by the local correlation of the two images
there (local weighting: Artaechevarria et al., *Combination strategies in multi-atlas image segmentation*, IEEE
Transactions on Medical Imaging 28(8), 2009, section II). How far a carried segmentation can be trusted is told, of
several sources, by how far they agree; of one, by carrying it back by a registration of its own and comparing with
where it came from (Valindria et al., *Reverse classification accuracy*, IEEE Transactions on Medical Imaging 36(8),
2017, with registration in place of a classifier). There and back through the same map would be perfect, and say
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import affine
from .lattice import Lattice
from .registration import Level, Registration, Settings
from .sampling import LabelImage, identity, sample_image, sample_linear
from .similarity import LocalCorrelation
from .transformations import Transformations
from .velocity import finer_exponential

REFINING = (Level(2, 15, 0.25), Level(1, 15, 0.25))
"""Stages of the direct registration."""
NODES = 0.5
"""Between the nodes that a map is computed at, in those of the velocities."""
WINDOW = 5
"""Voxels of the windows of local correlation by which sources are weighted."""
POWERS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""k of the module's text, among which is chosen."""


@dataclass(frozen=True)
class Laid:
    """A case that lies on the template.

    :param moved: its transformation alone; says on which device it is done.
    :param lattice: its own voxels in its box.
    :param image: (1, C, *grid) in [-1, 1], on the grid of registrations over the box.
    :param box: its field of view there, (1, D, 2), mm.
    :param labels: (*own voxels), whole numbers; None without segmentation.
    """

    name: str
    moved: Transformations
    lattice: Lattice
    image: Tensor
    box: Tensor
    labels: np.ndarray | None = None


def way(target: Transformations, source: Transformations) -> Callable[[Tensor], Tensor]:
    r""":math:`\varphi_s\circ\varphi_t^{-1}`: points of the target's box, mm, (1, D, *spatial), to the source's."""
    extent = target.extent
    with torch.no_grad():
        back, forward = finer_exponential(-target.velocities, extent), finer_exponential(source.velocities, extent)
        inverse = affine.matrix_of(-target.generators, extent)
        matrix = affine.matrix_of(source.generators, extent)

    def lead(points: Tensor) -> Tensor:
        there = affine.apply(inverse, points)
        there = there + sample_linear(back, there, extent)
        return affine.apply(matrix, there + sample_linear(forward, there, extent))

    return lead


def refined(target: Laid, sources: Sequence[Laid], settings: Settings) -> tuple[Transformations, Tensor]:
    """δ of each source, and local correlations of the images it brings together, (N, C, *grid), in [0, 1]."""
    extent, shape = target.moved.extent, tuple(target.image.shape[2:])
    with torch.no_grad():
        here = identity(shape, extent, target.image)
        brought = [sample_image(source.image, way(target.moved, source.moved)(here), extent) for source in sources]
    images = torch.cat(brought)
    boxes = target.box.expand(len(sources), *target.box.shape[1:])
    registration = Registration(images, boxes, extent, replace(settings, levels=REFINING), target.image)
    registration.state.moved.generators.zero_()  # they lie on each other already
    with torch.enable_grad():
        moved = registration.run()
    with torch.no_grad():
        ends = moved.positions(shape)
        compared = LocalCorrelation(target.image, WINDOW)(sample_linear(images, ends, extent))
    return moved, compared


@torch.no_grad()
def source_indices(target: Laid, source: Laid, delta: Transformations | None) -> Tensor:
    """Where the voxels of the target come to lie in the source, in voxels of it, (D, *own voxels of the target).

    :param delta: of this source alone; none for the way through the template alone.
    """
    control = max(side / count for side, count in zip(target.moved.extent, target.moved.velocities.shape[2:]))
    nodes = target.lattice.nodes(NODES * control)
    points = nodes.positions(target.image)
    ends = way(target.moved, source.moved)(points if delta is None else delta.at(points))
    dims = points.shape[1]
    to_source = np.linalg.inv(source.lattice.matrix[:, :dims])
    linear = to_source @ target.lattice.matrix[:, :dims]
    shift = to_source @ (target.lattice.matrix[:, dims] - source.lattice.matrix[:, dims])
    # What is left of an affine map is small and smooth, and is what splines between nodes are good at.
    moved = torch.from_numpy(to_source).to(ends) @ (ends - points).flatten(2)
    rest = nodes.refined(moved.reshape(ends.shape))[0]
    axes = [torch.arange(side, device=rest.device).to(rest) for side in target.lattice.shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    straight = torch.from_numpy(linear).to(rest) @ index.flatten(1) + torch.from_numpy(shift).to(rest)[:, None]
    return straight.reshape(index.shape) + rest


@dataclass(frozen=True)
class Carried:
    """Segmentations of the sources on the voxels of a target.

    :param labels: (N, *own voxels) uint8, one of each source.
    :param likeness: local correlation of target and source there, (N, *own voxels), in [0, 1].
    """

    labels: np.ndarray
    likeness: np.ndarray


@torch.no_grad()
def carry(target: Laid, sources: Sequence[Laid], settings: Settings, refine: bool = True) -> Carried:
    """Carry the segmentation of each source to a target.

    :param refine: register them directly, too.
    """
    moved, compared = refined(target, sources, settings)
    positions = _positions(target)
    labels, likeness = [], []
    for number, source in enumerate(sources):
        delta = moved.of([number]) if refine else None
        index = source_indices(target, source, delta)
        given = torch.from_numpy(np.array(source.labels)).to(index.device)
        labels.append(LabelImage(given).at(index).cpu().numpy().astype(np.uint8))
        near = sample_linear(compared[number : number + 1].mean(1, keepdim=True), positions, target.moved.extent)
        likeness.append(near[0, 0].clamp(0, 1).cpu().numpy())
    return Carried(np.stack(labels), np.stack(likeness))


def _positions(target: Laid) -> Tensor:
    """Of the target's voxels in its box, mm, (1, D, *own voxels)."""
    matrix = torch.from_numpy(target.lattice.matrix).to(target.image)
    axes = [torch.arange(side, device=matrix.device).to(matrix) for side in target.lattice.shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return (matrix[:, :-1] @ index.flatten(1) + matrix[:, -1:]).reshape(1, *index.shape)


def fused(carried: Carried, power: float, label_count: int) -> tuple[np.ndarray, np.ndarray]:
    """The label with the most votes at each voxel, (*own voxels) uint8, and its share of them, float32.

    :param power: k of the module's text.
    """
    weights = carried.likeness.clip(1e-3) ** power
    total, best = weights.sum(0), np.full(weights.shape[1:], -1.0, np.float32)
    found = np.zeros(weights.shape[1:], np.uint8)
    for label in range(label_count + 1):
        votes = (weights * (carried.labels == label)).sum(0) / total
        found[votes > best] = label
        best = np.maximum(best, votes)
    return found, best.astype(np.float32)


def agreement(carried: Carried, label_count: int) -> np.ndarray:
    """How far the sources agree: mean Dice coefficient over pairs of them, of each label, (label_count,), nan where no
    source has it."""
    pairs = [(one, other) for one in range(len(carried.labels)) for other in range(one)]
    return np.array(
        [
            _mean([dice(carried.labels[one], carried.labels[other], label) for one, other in pairs])
            for label in range(1, label_count + 1)
        ]
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def dice(one: np.ndarray, other: np.ndarray, label: int) -> float:
    """Dice coefficient of a label in two segmentations; nan where neither has it."""
    first, second = one == label, other == label
    total = int(first.sum()) + int(second.sum())
    return 2 * float((first & second).sum()) / total if total else float("nan")


def carried_back(target: Laid, labels: np.ndarray, source: Laid, settings: Settings, label_count: int) -> np.ndarray:
    """Dice coefficient of each label, (label_count,), of a segmentation that was carried to a target and is carried
    back to where it came from, by a registration of the target to the source that knows nothing of the way there."""
    extent = source.moved.extent
    registration = Registration(target.image, target.box, extent, settings, source.image)
    with torch.enable_grad():
        back = registration.run()
    with torch.no_grad():
        still = Transformations(torch.zeros_like(back.generators), torch.zeros_like(back.velocities), back.extent)
        # From the source's voxels to the target's: the source lies in its box as it is, the target is brought there.
        here = replace(source, moved=still)
        index = source_indices(here, replace(target, moved=back), None)
        found = LabelImage(torch.from_numpy(np.array(labels)).to(index.device)).at(index).cpu().numpy()
    return np.array([dice(found, source.labels, label) for label in range(1, label_count + 1)])
