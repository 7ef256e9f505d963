"""Every file of a data set read once -> its fingerprint: what a plan is made from, and what is wrong with the files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from ..jobs.events import Progress, quiet
from .case import Label
from .dataset import CaseFiles, Dataset
from .geometry import centre_of, directions_of, spacing_of, to_closest_ras
from .labels import LabelTable
from .reading import RawCase, looks_like_labels, read_case

FAULTS_SHOWN = 10
PERCENTILES = (0.5, 99.5)
"""Of the intensities of a scan, between which its range lies."""
LOOKED_AT = 200_000
"""Voxels of a label whose intensities are looked at, about."""
SMALLEST_SIDE = 8
"""Voxels below which a scan is smaller than what the coarsest stage of the networks looks at."""


@dataclass(frozen=True)
class CaseFacts:
    """What planning needs to know of one case; no voxels.

    :param shape: voxels, in the order closest to RAS.
    :param spacing: mm, same order.
    :param directions: direction cosines, 3x3, one axis a column, RAS.
    :param centre: of the field of view, mm in RAS.
    :param percentiles: per channel the 0.5th and the 99.5th percentile of the intensities; the ends where those are
        one, as in an image that is almost all air.
    :param minima, maxima: smallest and largest intensity of each channel.
    :param foreground: the same without air, see :func:`foreground_range`; () where it was not looked at.
    :param body: per channel the 0.5th percentile without padding and the 99.5th without what is as dark as air, see
        :func:`body_range`; () where it was not looked at.
    :param kinds: type of each channel in its file.
    :param label_highs: of each label, by its name, the 99.5th percentile of its voxels in each channel.
    :param label_above: the share of these voxels above ``foreground``.
    :param kind: type of the voxels in the files, as numpy names it.
    :param label_voxels: voxels of each label, by its name; empty without segmentation.
    :param label_reach: per axis, how far from the centre of the view labels reach, mm, their voxels included; zeros
        without.
    :param content_reach: per axis, how far from the centre of the view there is more than padding or air, mm; () where
        it was not looked at.
    :param like_labels: its channels hold so few whole numbers that they may be segmentations.
    """

    name: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    directions: tuple[tuple[float, ...], ...]
    centre: tuple[float, ...]
    percentiles: tuple[tuple[float, float], ...]
    minima: tuple[float, ...]
    kind: str
    labelled: bool
    label_voxels: dict[str, int] = field(default_factory=dict)
    label_reach: tuple[float, ...] = (0.0, 0.0, 0.0)
    class_name: str | None = None
    like_labels: bool = False
    maxima: tuple[float, ...] = ()
    body: tuple[tuple[float, float], ...] = ()
    foreground: tuple[tuple[float, float], ...] = ()
    kinds: tuple[str, ...] = ()
    label_highs: dict[str, tuple[float, ...]] = field(default_factory=dict)
    label_above: dict[str, tuple[float, ...]] = field(default_factory=dict)
    content_reach: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fingerprint:
    """Facts of a data set after every file was read and found good.

    :param other_labels: names of labels that are not wanted, see ``Dataset.wanted_labels``.
    :param wanted_labels, one_label: see ``Dataset``.
    """

    cases: tuple[CaseFacts, ...]
    labels: tuple[Label, ...]
    channel_names: tuple[str, ...]
    description: str
    warnings: tuple[str, ...]
    other_labels: tuple[str, ...] = ()
    one_label: str = ""
    wanted_labels: frozenset[str] | None = None

    @property
    def filled(self) -> np.ndarray | None:
        """How far each case holds more than padding or air about the middle of its view, (cases, 3) mm; None where that
        was not looked at."""
        if not all(case.content_reach for case in self.cases):
            return None
        return 2 * np.array([case.content_reach for case in self.cases])


def check_dataset(
    dataset: Dataset, progress: Progress = quiet, left_out: dict[str, InputError] | None = None
) -> Fingerprint:
    """Read every file once, check it, and return what planning needs.

    :param left_out: gets the names of the cases that cannot be used, and why; without it they are an error.
    :raises InputError: files cannot be used; names the first, and how many others there are and which.
    """
    table = LabelTable(dataset)
    facts: list[CaseFacts] = []
    value_sets: dict[str, frozenset] = {}
    faults: list[InputError] = []
    for position, files in enumerate(dataset.cases):
        progress(position, len(dataset.cases), files.name)
        try:
            case = read_case(files, dataset)
            check_size(case, files)
            table.add(case, files.label)
        except InputError as error:
            faults.append(error)
            if left_out is not None:
                left_out[files.name] = error
            continue
        facts.append(_facts(case, table, files.class_name))
        if case.label_values is not None:
            value_sets[files.name] = frozenset(facts[-1].label_voxels)
    progress(len(dataset.cases), len(dataset.cases), "")
    if faults and (left_out is None or len(facts) < 2):
        raise _all_in_one(faults)
    if len(dataset.cases) < 2:
        raise InputError(
            f"{dataset.folder} holds one single case; learning needs at least 2, and 20 to be of use.",
            "Add more scans of the same kind.",
        )
    _check_label_sets(dataset, value_sets)
    labels = table.labels() if any(case.label_voxels for case in facts) else ()  # names alone teach nothing
    warnings = (*dataset.warnings, *_warnings(facts, labels, value_sets))
    if not dataset.names_are_complete and look_like_instances(value_sets.values()):
        warnings += (INSTANCES,)
    found, others = tuple(facts), tuple(sorted(table.others))
    about = dataset.channel_names, dataset.description
    return Fingerprint(found, labels, *about, warnings, others, dataset.one_label, dataset.wanted_labels)


def check_size(case: RawCase, files: CaseFiles) -> None:
    if min(case.image.shape[1:]) < SMALLEST_SIDE:
        raise InputError(
            f"{files.images[0]} has only {' x '.join(map(str, case.image.shape[1:]))} voxels; the networks need "
            f"{SMALLEST_SIDE} along every axis.",
            "Leave it out, or resample it to smaller voxels.",
        )


def _all_in_one(faults: list[InputError]) -> InputError:
    """One error for several: the first in full, the others by what is wrong."""
    if len(faults) == 1:
        return faults[0]
    others = [f"  {fault.message}" for fault in faults[1:FAULTS_SHOWN]]
    more = len(faults) - FAULTS_SHOWN
    return InputError(
        faults[0].message,
        "\n".join(
            [faults[0].hint, f"And {len(faults) - 1} more:", *others, *([f"  ... and {more} more."] * (more > 0))]
        ),
    )


def _facts(case: RawCase, table: LabelTable, class_name: str | None) -> CaseFacts:
    image, affine = to_closest_ras(case.image, case.affine)
    spacing = spacing_of(affine)
    reach, voxels = np.zeros(3), {}
    percentiles = tuple(percentile_range(channel) for channel in image)
    foreground = tuple(foreground_range(channel) for channel in image)
    highs: dict[str, tuple[float, ...]] = {}
    above: dict[str, tuple[float, ...]] = {}
    if case.label_values is not None and case.label_values.any():
        named = table.by_name(case)
        filled = named.numbers > 0
        where = np.argwhere(to_closest_ras(filled, case.affine)[0])
        where = where if len(where) else (np.array(image.shape[1:]) // 2)[None]
        middle = (np.array(image.shape[1:]) - 1) / 2
        reach = (np.abs(np.stack([where.min(0) - middle, where.max(0) - middle])).max(0) + 0.5) * spacing
        for number, name in enumerate(named.names, 1):
            inside = case.image[:, named.numbers == number]
            voxels[name] = inside.shape[1]
            inside = inside[:, :: max(inside.shape[1] // LOOKED_AT, 1)]  # every so many of a large one
            highs[name] = tuple(float(high) for high in np.percentile(inside, PERCENTILES[1], axis=1))
            above[name] = tuple(float((part > high).mean()) for part, (_, high) in zip(inside, foreground))
    return CaseFacts(
        name=case.name,
        shape=tuple(int(side) for side in image.shape[1:]),
        spacing=tuple(float(side) for side in spacing),
        directions=tuple(tuple(float(x) for x in row) for row in directions_of(affine)),
        centre=tuple(float(x) for x in centre_of(affine, image.shape[1:])),
        percentiles=percentiles,
        minima=tuple(float(channel.min()) for channel in image),
        kind=case.kind,
        labelled=case.label_values is not None,
        like_labels=all(looks_like_labels(channel, case.kind) for channel in case.image),
        label_voxels=voxels,
        label_reach=tuple(float(x) for x in reach),
        class_name=class_name,
        maxima=tuple(float(channel.max()) for channel in image),
        body=tuple(body_range(channel) if channel.min() < BODY else ends for channel, ends in zip(image, percentiles)),
        foreground=foreground,
        kinds=case.kinds,
        label_highs=highs,
        label_above=above,
        content_reach=tuple(float(x) for x in content_reach(image, percentiles) * spacing),
    )


def _check_label_sets(dataset: Dataset, value_sets: dict[str, frozenset]) -> None:
    """A case none of whose labels any other case has was labelled by another scheme."""
    filled = {name: values for name, values in value_sets.items() if values}
    if len(filled) < 2 or dataset.names_are_complete:
        return
    alone = {}
    for name, values in filled.items():
        others = frozenset().union(*(other for other_name, other in filled.items() if other_name != name))
        if not values & others:
            alone[name] = others
    if 2 * len(alone) > len(filled) and min(len(filled[name]) for name in alone) >= FEW_PIECES:
        raise InputError(INSTANCES, "If they are structures, name them all in dataset.json.")
    for name, others in alone.items():
        path = next(case.label for case in dataset.cases if case.name == name)
        raise InputError(
            f"{path} has the labels {', '.join(sorted(filled[name]))}, of which no other case has any "
            f"(they have {', '.join(sorted(others))}).",
            "All cases need one labelling: renumber this one, leave it out, or name all labels in dataset.json.",
        )


FAINT, SPECKLE = 0.05, 0.002
"""Share of a scan's range of intensities up to which a block is empty, and of a plane's blocks up to which it is."""
BLOCKS, BLOCK = 24, 4
"""Blocks along an axis at least, if there are so many voxels, and voxels of one at most: in the mean of a block a
scanner's noise is nothing."""


def content_reach(image: np.ndarray, percentiles: Sequence[tuple[float, float]]) -> np.ndarray:
    """How far from the middle of (C, I, J, K) there is more than padding or air, along each axis in voxels, (3,)."""
    sides = image.shape[1:]
    begins = [np.arange(0, side, min(max(side // BLOCKS, 1), BLOCK)) for side in sides]
    filled = np.zeros([len(begin) for begin in begins], bool)
    for channel, (low, high) in zip(image, percentiles):
        means = channel
        for axis, begin in enumerate(begins):
            count = np.diff([*begin, sides[axis]]).reshape([-1 if other == axis else 1 for other in range(3)])
            means = np.add.reduceat(means, begin, axis, dtype=np.float32) / count
        filled |= means > low + FAINT * (high - low)
    reach = []
    for axis, (side, begin) in enumerate(zip(sides, begins)):
        others = tuple(other for other in range(3) if other != axis)
        planes = np.flatnonzero(filled.mean(others) > SPECKLE)
        ends = (begin[planes[0]], [*begin, side][planes[-1] + 1]) if len(planes) else (0, side)
        reach.append(max(side / 2 - ends[0], ends[1] - side / 2))
    return np.array(reach)


INSTANCES = (
    "The segmentations look as if each number were a piece (a cell, a lesion), another one in each case: each would be "
    "learned as a structure of its own. If they are pieces of one structure, give it a name by --one-structure NAME."
)
FEW_PIECES = 5
"""Numbers from which a case may hold pieces."""


def look_like_instances(names: Iterable[frozenset]) -> bool:
    """Whether labels without names are numbered from 1 in each case, up to very different numbers."""
    sets = [found for found in names if found]
    if any(found != {f"label {number}" for number in range(1, len(found) + 1)} for found in sets):
        return False
    counts = {len(found) for found in sets}
    return len(counts) >= 3 and max(counts) >= FEW_PIECES and max(counts) - min(counts) >= max(3, max(counts) / 4)


def percentile_range(voxels: np.ndarray) -> tuple[float, float]:
    """0.5th and 99.5th percentile, or smallest and largest value where those are one."""
    low, high = (float(value) for value in np.percentile(voxels, PERCENTILES))
    return (low, high) if high > low else (float(voxels.min()), float(voxels.max()))


def foreground_range(voxels: np.ndarray) -> tuple[float, float]:
    """0.5th percentile of all voxels, and 99.5th of what is no air: brighter than :data:`FAINT` of the range of all.

    How much air a scan has is a matter of its field of view. With three quarters of it, the 99.5th percentile of all
    voxels is the 98th of a head: its brightest tissue, and all that differs within, would be cut to one value.
    """
    low, high = percentile_range(voxels)
    inside = voxels[voxels > low + FAINT * (high - low)]
    return low, max(high, float(np.percentile(inside, PERCENTILES[1]))) if inside.size else high


PADDING, BODY = -1100.0, -500.0
"""CT numbers below which lies padding, and above which the body, lungs left out (HU)."""


def body_range(voxels: np.ndarray) -> tuple[float, float]:
    """0.5th percentile of what is no padding, 99.5th of what is no air, as CT numbers have it; those of all voxels
    where hardly anything is either."""
    ends = []
    for percentile, least in zip(PERCENTILES, (PADDING, BODY)):
        inside = voxels[voxels > least]
        ends.append(float(np.percentile(inside if inside.size > 100 else voxels, percentile)))
    return ends[0], ends[1]


def _warnings(facts: list[CaseFacts], labels: tuple[Label, ...], value_sets: dict[str, frozenset]) -> tuple[str, ...]:
    warnings = []
    if all(case.like_labels for case in facts):
        warnings.append("The images hold a few whole numbers each: they look like segmentations, and not like scans.")
    if len(facts) < 20:
        warnings.append(f"{len(facts)} cases are few: expect synthesized cases that resemble them closely.")
    unlabelled = sum(not case.labelled for case in facts)
    if not labels and unlabelled < len(facts):
        warnings.append("The segmentations are empty; images without segmentations will be learned.")
    spread = np.array([case.spacing for case in facts])
    if (spread.max(0) > 3 * spread.min(0)).any():
        warnings.append(
            f"Voxel sizes differ up to {float((spread.max(0) / spread.min(0)).max()):.0f} times between cases; "
            "`gedgan check` shows how. Are they scans of one kind?"
        )
    extent = spread * np.array([case.shape for case in facts])
    if (extent.max(0) > 2.5 * extent.min(0)).any():
        warnings.append("Fields of view differ more than twofold between cases. Are they scans of one kind?")
    if labels and unlabelled:
        warnings.append(f"{unlabelled} of {len(facts)} cases have no segmentation; they teach the image alone.")
    for label in labels:
        count = sum(label.name in values for values in value_sets.values())
        if count < len(value_sets):
            warnings.append(f"{label.name} is in {count} of {len(value_sets)} segmentations.")
    return tuple(warnings)
