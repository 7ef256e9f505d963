"""The working grid of a plan: its voxels, where it lies, and how the stages of the networks divide it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..device import DEVICE_WORDS
from ..errors import InputError
from ..volumes.fingerprint import Fingerprint
from .plan import Grid
from .words import NOTE

WHOLE_VOLUME_VOXELS = {"cpu": 64**3, "mps": 96**3, "cuda": 128**3}
"""Voxels up to which whole volumes are trained on each kind of device."""
LARGEST_VOXELS = {"cpu": 64**3, "mps": 160**3, "cuda": 256**3}
"""Voxels up to which a plan keeps the voxels of the data: above what is trained whole, it trains on parts."""


def choose_grid(
    fingerprint: Fingerprint,
    device: str,
    grid_shape: Sequence[int] | None,
    wanted_spacing: Sequence[float] | None,
    fixed_stages: int | None,
    reasons: list[str],
) -> tuple[Grid, tuple[tuple[int, ...], ...]]:
    """Grid of a plan, and how each stage of its networks divides it.

    :param fixed_stages: of networks whose stages are given; the parameters besides as for ``make_plan``.
    :param reasons: gets a sentence for each choice.
    :raises InputError: hardly any of the grid that is asked for would hold anything.
    """
    cases = fingerprint.cases
    extents = np.array([np.array(case.shape) * np.array(case.spacing) for case in cases])
    # All of the labels, and the field of view of the median case, or what is in it.
    view, held = np.median(extents, axis=0), "the median field of view"
    if grid_shape is None and (filled := _filled(fingerprint, view)) is not None:
        reasons.append(
            f"{1 - np.prod(filled) / np.prod(view):.0%} of the median field of view, {_words(view)} mm, is empty in "
            f"every scan: the grid holds the {_words(filled)} mm about its middle where there is anything."
        )
        view, held = filled, "what is in the median field of view"
    extent = np.maximum(view, 2 * np.max([case.label_reach for case in cases], axis=0))
    spacing = np.median([case.spacing for case in cases], axis=0)
    if wanted_spacing is not None:
        spacing = np.array(wanted_spacing, dtype=float)
        reasons.append(f"Spacing {_words(spacing)} mm, as asked for.")
    else:
        # The article's networks, which have their stages fixed, know no parts.
        budget = (WHOLE_VOLUME_VOXELS if fixed_stages else LARGEST_VOXELS)[device]
        if np.prod(extent / spacing) > budget * 1.05:
            finest = spacing.copy()
            # Larger voxels along the finest axes first: thick slices are kept, and made up for within the slice.
            low, high = spacing.min(), (np.prod(extent) / budget) ** (1 / 3) * 4
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if np.prod(extent / np.maximum(spacing, middle)) > budget else (low, middle)
            spacing = np.maximum(spacing, _rounded_up(high))
            reasons.append(
                f"Spacing {_words(spacing)} mm instead of the data's {_words(finest)} mm, so that a volume fits what "
                f"{DEVICE_WORDS[device]} trains."
            )
        else:
            reasons.append(f"Spacing {_words(spacing)} mm: that of the median case.")
    voxels = np.array(grid_shape) if grid_shape is not None else np.ceil(extent / spacing - 0.05)
    if fixed_stages:
        strides = ((2,) * len(voxels),) * fixed_stages
    elif spacing.max() >= THICK * spacing.min():
        strides = _thick_strides(voxels, spacing)
    else:
        stages = int(np.clip(math.floor(math.log2(max(voxels.min(), 8) / 4)), 1, MOST_STAGES))
        # A coarser stride would pad the volume by half: take fewer stages then.
        while grid_shape is None and stages > 2 and np.prod(_round_up(voxels, 2**stages) / voxels) > 1.5:
            stages -= 1
        strides = ((2,) * len(voxels),) * stages
    stride = np.prod(strides, axis=0)
    shape = _round_up(voxels, stride)
    if grid_shape is not None:
        _refuse_empty_grid(shape, spacing, np.max(extents, axis=0))
    reach = 2 * np.max([case.label_reach for case in cases], axis=0)
    if grid_shape is not None and fingerprint.filled is not None:
        usual = np.minimum(np.median(fingerprint.filled, axis=0), view)
        if (shape * spacing < (1 - CUT_OFF) * usual).any():
            reasons.append(
                f"{NOTE}the scans are filled over {_words(usual)} mm, and the grid reaches "
                f"{_words(shape * spacing)} mm about their middle: what lies beyond is not learned."
            )
    if (shape * spacing < reach - 1e-3 * spacing).any():
        reasons.append(
            f"{NOTE}labels reach {_words(reach)} mm and the grid only {_words(shape * spacing)} mm; what lies beyond "
            "is cut off. Larger voxels (--spacing) would hold them."
        )
    if any(case.labelled for case in cases):
        held += " and every label"
    reasons.append(
        f"Grid {' x '.join(map(str, shape))}: {f'holds {held}' if grid_shape is None else 'as asked for'}, rounded up "
        f"to multiples of {_words(stride)}, which the networks need."
    )
    return placed_grid(fingerprint, shape, spacing), strides


WORTH_CROPPING, MARGIN = 0.8, 1.05
"""Share of the field of view up to which a grid of what is in it is taken, and how much larger that is: made cases are
other than all that were seen."""


def _filled(fingerprint: Fingerprint, view: np.ndarray) -> np.ndarray | None:
    """What of the field of view, mm, holds more than air or padding in some case; None for nearly all of it."""
    if fingerprint.filled is None:
        return None
    filled = np.minimum(view, MARGIN * np.max(fingerprint.filled, axis=0))
    return filled if np.prod(filled) < WORTH_CROPPING * np.prod(view) else None


CUT_OFF = 0.05
"""Share of what is in a scan, along an axis, from which it is told that a grid does not hold it."""
MOSTLY_EMPTY = 8.0
"""How many times the room of the largest scan a grid may take."""


def _refuse_empty_grid(shape: np.ndarray, spacing: np.ndarray, largest: np.ndarray) -> None:
    """:raises InputError: hardly any of the grid would hold anything of the scans, whose largest sides are in mm."""
    if np.prod(shape * spacing) <= MOSTLY_EMPTY * np.prod(largest):
        return
    raise InputError(
        f"A grid of {' x '.join(map(str, shape))} voxels of {_words(spacing)} mm (rounded up for the networks) reaches "
        f"{_words(shape * spacing)} mm, and the largest scans {_words(largest)} mm: it would be nearly empty.",
        f"For finer voxels give --spacing, with such a grid {max(largest / shape):.2g} mm for example; or leave --grid "
        "out.",
    )


THICK = 2.0
"""Ratio of the longest side of a voxel to its shortest from which slices count as thick."""
MOST_STAGES, SMALLEST_MAP = 5, 4


def _thick_strides(voxels: np.ndarray, spacing: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """How each stage divides a grid of thick slices: an axis is left alone until the others are as coarse as it.

    So what a stage looks at is as deep as it is wide, in mm (the rule of nnU-Net: Isensee et al., Nature Methods 2021).
    """
    voxels, spacing = np.array(voxels, dtype=float), np.array(spacing, dtype=float)
    strides: list[tuple[int, ...]] = []
    while len(strides) < MOST_STAGES:
        halved = (voxels / 2 >= SMALLEST_MAP) & (
            spacing < THICK * spacing[voxels / 2 >= SMALLEST_MAP].min(initial=np.inf)
        )
        if not halved.any():
            break
        strides.append(tuple(int(factor) for factor in np.where(halved, 2, 1)))
        voxels, spacing = np.where(halved, voxels / 2, voxels), np.where(halved, spacing * 2, spacing)
    return tuple(strides) or ((2,) * len(voxels),)


def placed_grid(fingerprint: Fingerprint, shape: Sequence[int], spacing: Sequence[float]) -> Grid:
    """A grid with the directions of a typical case, in the middle of where cases lie."""
    cases = fingerprint.cases
    directions = np.array(cases[_medoid([np.array(case.directions) for case in cases])].directions)
    centre = np.median([case.centre for case in cases], axis=0)
    origin = centre - directions @ ((np.array(shape) - 1) / 2 * np.array(spacing))
    return Grid(
        shape=tuple(int(side) for side in shape),
        spacing=tuple(float(side) for side in spacing),
        directions=tuple(tuple(float(x) for x in row) for row in directions),
        origin=tuple(float(x) for x in origin),
    )


def _rounded_up(value: float, digits: int = 3) -> float:
    """To so many significant digits, as voxels may be of millimetres and of micrometres."""
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(round(value / step, 3)) * step:.{digits}g}")


def _round_up(voxels: np.ndarray, stride: int | np.ndarray) -> np.ndarray:
    return (np.ceil(np.asarray(voxels) / stride) * stride).astype(int)


def _words(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _medoid(matrices: list[np.ndarray]) -> int:
    """Index of the matrix nearest to all others (an existing case's directions, so always a rotation)."""
    stack = np.stack(matrices).reshape(len(matrices), -1)
    return int(np.abs(stack[:, None] - stack[None]).sum((1, 2)).argmin())
