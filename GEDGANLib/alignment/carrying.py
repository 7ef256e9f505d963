r"""Segmentations of some cases carried to another one, through the template and refined directly.

Cases s and t lie on the template by :math:`\varphi_s,\varphi_t`, so that :math:`\varphi_s\circ\varphi_t^{-1}` leads
from points of t to where the same anatomy is in s. What two alignments to a mean leave undone is made up for by
registering :math:`x_s\circ\varphi_s\circ\varphi_t^{-1}` to :math:`x_t` itself, in a few iterations, which gives δ;
image and label of a voxel p of t are those of s at :math:`\varphi_s\circ\varphi_t^{-1}\circ\delta(p)`. What that is
off by still, the voxels around p make up for, and of several sources the likest: :mod:`.voting`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..jobs.steps import part_of
from . import affine
from .lattice import Lattice
from .registration import Level, Registration, Settings
from .sampling import LabelImage, identity, sample_image, sample_linear
from .transformations import Transformations
from .velocity import finer_exponential
from .voting import SOFTNESS, box_around, normalized, promised_dice, radii, voting

REFINING = (Level(2, 15, 0.25), Level(1, 15, 0.25))
"""Stages of the direct registration."""
NODES = 0.5
"""Between the nodes that a map is computed at, in those of the velocities."""
SLAB = 1_000_000
"""Voxels that labels are brought to at a time."""
SOFTNESSES = (0.5, 1.0, 2.0, 4.0)
"""Of :mod:`.voting`, among which is chosen."""


@dataclass(frozen=True)
class Laid:
    """A case that lies on the template.

    :param moved: its transformation alone; says on which device it is done.
    :param lattice: its own voxels in its box.
    :param image: (1, C, *grid) in [-1, 1], on the grid of registrations over the box.
    :param box: its field of view there, (1, D, 2), mm.
    :param voxels: its own, (C, *own voxels).
    :param digest: of its image: nothing is carried from a scan to itself.
    :param labels: (*own voxels), whole numbers; None without segmentation.
    """

    name: str
    moved: Transformations
    lattice: Lattice
    image: Tensor
    box: Tensor
    voxels: np.ndarray
    labels: np.ndarray | None = None
    digest: str = ""


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


def refining(target: Laid, sources: Sequence[Laid], settings: Settings) -> Generator[float, None, Transformations]:
    """δ of each source, in steps: yields the share that is done."""
    extent, shape = target.moved.extent, tuple(target.image.shape[2:])
    with torch.no_grad():
        here = identity(shape, extent, target.image)
        brought = [sample_image(source.image, way(target.moved, source.moved)(here), extent) for source in sources]
    boxes = target.box.expand(len(sources), *target.box.shape[1:])
    registration = Registration(torch.cat(brought), boxes, extent, replace(settings, levels=REFINING), target.image)
    registration.state.moved.generators.zero_()  # they lie on each other already
    going_on = True
    while going_on:
        with torch.enable_grad():
            going_on = registration.step()
        yield registration.done / registration.total
    return registration.state.moved


class Way:
    """Where the voxels of a target come to lie in a source; kept at nodes, read off in parts.

    :param delta: of this source alone; none for the way through the template alone.
    """

    @torch.no_grad()
    def __init__(self, target: Laid, source: Laid, delta: Transformations | None) -> None:
        control = max(side / count for side, count in zip(target.moved.extent, target.moved.velocities.shape[2:]))
        self.nodes = target.lattice.nodes(NODES * control)
        points = self.nodes.positions(target.image)
        ends = way(target.moved, source.moved)(points if delta is None else delta.at(points))
        dims = points.shape[1]
        to_source = np.linalg.inv(source.lattice.matrix[:, :dims])
        self._linear = to_source @ target.lattice.matrix[:, :dims]
        self._shift = to_source @ (target.lattice.matrix[:, dims] - source.lattice.matrix[:, dims])
        # What is left of an affine map is small and smooth, and is what splines between nodes are good at.
        moved = torch.from_numpy(to_source).to(ends) @ (ends - points).flatten(2)
        self._moved = moved.reshape(ends.shape)

    @torch.no_grad()
    def indices(self, box: Sequence[slice] | None = None) -> Tensor:
        """In voxels of the source, (D, *box).

        :param box: part of the target's voxels; all when not given.
        """
        shape = self.nodes.lattice.shape
        box = tuple(box) if box is not None else tuple(slice(0, side) for side in shape)
        rest = self.nodes.refined(self._moved, box=box)[0]
        axes = [torch.arange(part.start, part.stop, device=rest.device).to(rest) for part in box]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        linear, shift = (torch.from_numpy(each).to(rest) for each in (self._linear, self._shift))
        return (linear @ index.flatten(1) + shift[:, None]).reshape(index.shape) + rest


@dataclass(frozen=True)
class Brought:
    """Sources on the voxels of a target.

    :param labels: of each source, (*own voxels) uint8.
    :param box: the part of them that any label is near to; None where there are no labels.
    :param target: image in the box, (1, C, *box), see :func:`.voting.normalized`.
    :param images: of each source, the same.
    """

    labels: list[np.ndarray]
    box: tuple[slice, ...] | None
    target: Tensor | None = None
    images: tuple[Tensor, ...] = ()


def bringing(
    target: Laid, sources: Sequence[Laid], settings: Settings, refine: bool = True
) -> Generator[float, None, Brought]:
    """Bring sources to the voxels of a target, in steps: yields the share that is done.

    :param refine: register them directly, too.
    """
    moved = None
    if refine:
        moved = yield from part_of(refining(target, sources, settings), 0.0, 0.6)
    ways, labels = [], []
    for number, source in enumerate(sources):
        ways.append(Way(target, source, None if moved is None else moved.of([number])))
        labels.append(np.zeros(target.lattice.shape, np.uint8))
        given = LabelImage(torch.from_numpy(np.array(source.labels)).to(target.image.device))
        for box in _slabs(target.lattice.shape):  # a volume of indices would take three times that of a volume
            labels[-1][box] = given.at(ways[-1].indices(box)).cpu().numpy().astype(np.uint8)
            yield 0.6 + 0.2 * (number + box[0].stop / target.lattice.shape[0]) / len(sources)
    box = box_around(labels)
    if box is None:
        return Brought(labels, None)
    images = []
    for source, way_there in zip(sources, ways):
        images.append(normalized(_read_off(source.voxels, way_there.indices(box))))
        yield 0.8 + 0.2 * len(images) / len(sources)
    own = torch.from_numpy(np.array(target.voxels[(slice(None), *box)], np.float32))[None].to(images[0])
    return Brought(labels, box, normalized(own), tuple(images))


def _slabs(shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """Parts along the first axis of some :data:`SLAB` voxels."""
    thick = max(SLAB // math.prod(shape[1:]), 1)
    rest = tuple(slice(0, side) for side in shape[1:])
    return [(slice(start, min(start + thick, shape[0])), *rest) for start in range(0, shape[0], thick)]


@torch.no_grad()
def _read_off(voxels: np.ndarray, indices: Tensor) -> Tensor:
    """An image (C, *own voxels) at indices (D, *box), (1, C, *box)."""
    volume = torch.from_numpy(np.array(voxels, np.float32))[None].to(indices)
    shape = volume.shape[2:]
    middle = indices.new_tensor([(side - 1) / 2 for side in shape]).reshape(-1, *[1] * len(shape))
    return sample_linear(volume, (indices - middle)[None], shape)  # in a box of which every voxel is 1 mm


@dataclass(frozen=True)
class Carried:
    """A segmentation that was carried to a target.

    :param labels: (*own voxels) uint8.
    :param share: of the votes that each label has, background first, (label_count + 1, *box).
    :param box: the part of the voxels that has votes; all others are background.
    :param trust: Dice coefficient that these promise each label, (label_count,), nan where it is not there.
    """

    labels: np.ndarray
    share: np.ndarray
    box: tuple[slice, ...]
    trust: np.ndarray


def electing(
    brought: Brought, spacing: Sequence[float], label_count: int, softnesses: Sequence[float] = (SOFTNESS,)
) -> Generator[float, None, list[Carried]]:
    """Let the voxels of the sources vote, once for each softness, in steps: yields the share that is done.

    :param spacing: of the target's voxels, mm.
    :param softnesses: see :mod:`.voting`.
    """
    shape = brought.labels[0].shape
    if brought.box is None:
        nothing = np.zeros((label_count + 1, *[0] * len(shape)), np.float32)
        none = Carried(np.zeros(shape, np.uint8), nothing, (slice(0, 0),) * len(shape), np.full(label_count, np.nan))
        return [none for _softness in softnesses]
    given = [torch.from_numpy(each[brought.box].astype(np.int64)).to(brought.target.device) for each in brought.labels]
    reach = radii(spacing, math.prod(given[0].shape) * len(given))
    shares = yield from voting(brought.target, brought.images, given, label_count, reach, softnesses)
    found = []
    for share in shares:
        labels, taken = np.zeros(shape, np.uint8), share.max(0).indices
        labels[brought.box] = taken.cpu().numpy().astype(np.uint8)
        found.append(Carried(labels, share.cpu().numpy(), brought.box, promised_dice(share, taken)))
    return found


def carrying(
    target: Laid, sources: Sequence[Laid], settings: Settings, label_count: int, softness: float = SOFTNESS
) -> Generator[float, None, Carried]:
    """Carry the segmentations of sources to a target, in steps: yields the share that is done."""
    brought = yield from part_of(bringing(target, sources, settings), 0.0, 0.6)
    steps = electing(brought, target.lattice.spacing, label_count, (softness,))
    (carried,) = yield from part_of(steps, 0.6, 0.4)
    return carried


def dice(one: np.ndarray, other: np.ndarray, label: int) -> float:
    """Dice coefficient of a label in two segmentations; nan where neither has it."""
    first, second = one == label, other == label
    total = int(first.sum()) + int(second.sum())
    return 2 * float((first & second).sum()) / total if total else float("nan")
