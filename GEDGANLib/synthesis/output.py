"""On what grid, with which labels and in what type synthesized cases are written.

The generator makes cases on the plan's working grid. Here they return to voxels like those of the scans it learned
from, the inverse of what brought these to the working grid; label probabilities are interpolated, not labels, so that
borders stay smooth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..volumes.case import Label
from ..volumes.geometry import field_of_view, resample, spacing_of, working_affine


@dataclass(frozen=True)
class OutputGrid:
    """Voxels of the cases that are written.

    :param shape: voxels along each axis.
    :param affine: (4, 4), voxel to mm in RAS.
    """

    shape: tuple[int, ...]
    affine: np.ndarray


def working_grid(plan) -> OutputGrid:
    """The grid that the generator works on."""
    return OutputGrid(tuple(plan.grid.shape), plan.grid.affine)


def original_grid(plan) -> OutputGrid:
    """A grid like that of the scans learned from: their median size and spacing, about the centre of the working grid.

    :raises InputError: the plan does not say what these were.
    """
    shape, spacing = plan.data.get("median_shape"), plan.data.get("median_spacing")
    if not shape or not spacing:
        raise InputError("The model does not say how large its training scans were.", "Give --spacing instead.")
    return _about_the_centre(plan, shape, spacing)


def grid_of_spacing(plan, spacing: Sequence[float]) -> OutputGrid:
    """The field of view of the working grid in other voxels.

    :param spacing: mm, one number for all axes or one an axis.
    :raises InputError: as many numbers as fit neither.
    """
    dims = plan.spatial_dims
    if len(spacing) not in (1, dims):
        raise InputError(f"--spacing was given {len(spacing)} numbers.", f"Give one for all axes, or {dims}.")
    spacing = list(spacing) * (dims if len(spacing) == 1 else 1)
    extent = np.array(plan.grid.shape) * plan.grid.spacing
    return _about_the_centre(plan, np.maximum(np.round(extent / spacing), 1), spacing)


TOUCHING = 1e-3
"""Of a voxel, which centres may lie beyond an edge by what is rounded off."""
ROUNDED_OFF = 1.05
"""How much longer than a grid what is in the scans may be along an axis, to count as held by it."""
USABLE = 0.8
"""Share of the free memory that a case on another grid may take."""


def refuse_huge(grid: OutputGrid, plan) -> None:
    """:raises InputError: a case on this grid does not fit the memory; names voxels that do."""
    from ..device import available_memory

    available = available_memory("cpu")
    # Channels twice, on the way and in the units of the scans; of the labels two shares, those so far and the result.
    needed = 4.0 * (2 * len(plan.channels) + 4) * math.prod(grid.shape)
    if available is None or needed <= USABLE * available:
        return
    coarser = (math.prod(spacing_of(grid.affine)) * needed / (USABLE * available)) ** (1 / 3)
    raise InputError(
        f"A case of {' x '.join(map(str, grid.shape))} voxels needs about {needed / 1e9:.3g} GB of memory, and "
        f"{available / 1e9:.3g} GB are free.",
        f"Take larger voxels: {math.ceil(coarser * 100) / 100:g} mm (--spacing), for example.",
    )


def _about_the_centre(plan, shape: Sequence[float], spacing: Sequence[float]) -> OutputGrid:
    """About the centre of the working grid, and on its voxels along axes of the same spacing: half a voxel beside them
    everything would be blurred."""
    shape = tuple(int(side) for side in shape)
    return OutputGrid(shape, working_affine(plan.grid.affine, plan.grid.shape, shape, spacing))


def to_grid(output: np.ndarray, image_channels: int, source: OutputGrid, grid: OutputGrid) -> np.ndarray:
    """What the generator made, on another grid; beyond the grid that it was made on is air, and no label.

    :param output: (image_channels + label_count + 1, *source.shape): images in [-1, 1], then label probabilities.
    :returns: the images (image_channels, *grid.shape) float32 and, in one last channel, the labels with the largest
        interpolated probability; without labels the images alone.
    """
    images = resample(output[:image_channels], source.affine, grid.affine, grid.shape)
    beyond = _beyond(source, grid)
    images[:, beyond] = -1
    if len(output) == image_channels:
        return images
    # One by one: 32 labels would take a lot of memory.
    shares = (resample(each[None], source.affine, grid.affine, grid.shape)[0] for each in output[image_channels:])
    labels = most_probable(shares)
    labels[beyond] = 0
    return np.concatenate([images, labels[None]])


def _beyond(source: OutputGrid, grid: OutputGrid) -> np.ndarray:
    """Which voxels of a grid have their centres outside of another, (*grid.shape)."""
    found = np.zeros(grid.shape, dtype=bool)
    for axis, (begin, end) in enumerate(field_of_view(grid.affine, source.affine, source.shape)[: len(grid.shape)]):
        place = np.arange(grid.shape[axis])
        outside = (place < begin - TOUCHING) | (place > end + TOUCHING)
        found |= outside.reshape([-1 if other == axis else 1 for other in range(len(grid.shape))])
    return found


def share_beyond(plan, grid: OutputGrid) -> float:
    """Share of a grid that lies beyond the one that a model works on, in [0, 1]; 0 where that holds all that is in the
    scans, and air alone lies beyond it."""
    filled = plan.data.get("median_filled")
    if filled and np.all(np.array(filled) <= ROUNDED_OFF * np.array(plan.extent)):
        return 0.0
    return float(_beyond(working_grid(plan), grid).mean())


def most_probable(probabilities: Iterable[np.ndarray]) -> np.ndarray:
    """Index of the largest of the labels' probabilities, each (*grid), uint8; the first of several that are equal."""
    # Label by label: argmax along the first axis jumps through memory and takes ten times as long.
    each = iter(probabilities)
    best = next(each).copy()
    labels = np.zeros(best.shape, np.uint8)
    for index, probability in enumerate(each, 1):
        labels[probability > best] = index
        np.maximum(best, probability, out=best)
    return labels


@dataclass(frozen=True)
class LabelSubset:
    """Which labels are kept, numbered anew without a gap; the others become background.

    :param table: the labels kept.
    :param numbers: (label_count + 1,) uint8, new index of each index.
    """

    table: tuple[Label, ...]
    numbers: np.ndarray

    @classmethod
    def of(cls, labels: Sequence[Label], names: Sequence[str] | None) -> LabelSubset:
        """Keep the labels with these names; all of them for None.

        :raises InputError: a name that there is not.
        """
        known = {label.name: label for label in labels}
        unknown = [name for name in names or () if name not in known]
        if unknown:
            there = f"it has {', '.join(known)}" if known else "it makes no labels"
            raise InputError(f"The model has no label {unknown[0]}; {there}.", "Correct --labels.")
        kept = [label for label in labels if names is None or label.name in names]
        numbers = np.zeros(len(labels) + 1, np.uint8)
        for new, label in enumerate(kept, 1):
            numbers[label.index] = new
        return cls(tuple(replace(label, index=new) for new, label in enumerate(kept, 1)), numbers)
