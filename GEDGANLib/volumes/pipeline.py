"""Cases -> fingerprint, cases -> tensors on the working grid, and both ways back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from .case import Case, Label
from .dataset import CaseFiles, Dataset
from .geometry import centre_of, directions_of, resample, spacing_of, to_closest_ras, working_affine
from .labels import LabelTable
from .reading import RawCase, looks_like_labels, read_case

Progress = Callable[[int, int, str], None]
"""Called with cases done, cases in all, name of the next."""

FAULTS_SHOWN = 10
SMALLEST_SIDE = 8
"""Voxels below which a scan is smaller than what the coarsest stage of the networks looks at."""


def _quiet(done: int, total: int, name: str) -> None:
    pass


@dataclass(frozen=True)
class CaseFacts:
    """What planning needs to know of one case; no voxels.

    :param shape: voxels, in the order closest to RAS.
    :param spacing: mm, same order.
    :param directions: direction cosines, 3x3, one axis a column, RAS.
    :param centre: of the field of view, mm in RAS.
    :param percentiles: per channel the 0.5th and the 99.5th percentile of the intensities; the ends where those are
        one, as in an image that is almost all air.
    :param minima: smallest intensity of each channel.
    :param kind: type of the voxels in the files, as numpy names it.
    :param label_voxels: voxels of each label, by its name; empty without segmentation.
    :param label_reach: per axis, how far from the centre of the view labels reach, mm, their voxels included; zeros
        without.
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


@dataclass(frozen=True)
class Fingerprint:
    """Facts of a data set after every file was read and found good."""

    cases: tuple[CaseFacts, ...]
    labels: tuple[Label, ...]
    channel_names: tuple[str, ...]
    description: str
    warnings: tuple[str, ...]


def check_dataset(dataset: Dataset, progress: Progress = _quiet) -> Fingerprint:
    """Read every file once, check it, and return what planning needs.

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
            table.add(case, files.label)
            _check_size(case, files)
        except InputError as error:
            faults.append(error)
            continue
        facts.append(_facts(case, table, files.class_name))
        if case.label_values is not None:
            names = {table.name_of(int(v), case)[0] for v in np.unique(case.label_values) if v}
            value_sets[files.name] = frozenset(names)
    progress(len(dataset.cases), len(dataset.cases), "")
    if faults:
        raise _all_in_one(faults)
    if len(dataset.cases) < 2:
        raise InputError(
            f"{dataset.folder} holds one single case; learning needs at least 2, and 20 to be of use.",
            "Add more scans of the same kind.",
        )
    _check_label_sets(dataset, value_sets)
    labels = table.labels() if any(case.label_voxels for case in facts) else ()  # names alone teach nothing
    warnings = (*dataset.warnings, *_warnings(facts, labels, value_sets))
    return Fingerprint(tuple(facts), labels, dataset.channel_names, dataset.description, warnings)


def _check_size(case: RawCase, files: CaseFiles) -> None:
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
    if case.label_values is not None and case.label_values.any():
        where = np.argwhere(to_closest_ras(case.label_values, case.affine)[0])
        middle = (np.array(image.shape[1:]) - 1) / 2
        reach = (np.abs(np.stack([where.min(0) - middle, where.max(0) - middle])).max(0) + 0.5) * spacing
        values, counts = np.unique(case.label_values[case.label_values > 0], return_counts=True)
        for value, count in zip(values, counts):  # several segments may have one name
            name = str(table.name_of(int(value), case)[0])
            voxels[name] = voxels.get(name, 0) + int(count)
    return CaseFacts(
        name=case.name,
        shape=tuple(int(side) for side in image.shape[1:]),
        spacing=tuple(float(side) for side in spacing),
        directions=tuple(tuple(float(x) for x in row) for row in directions_of(affine)),
        centre=tuple(float(x) for x in centre_of(affine, image.shape[1:])),
        percentiles=tuple(percentile_range(channel) for channel in image),
        minima=tuple(float(channel.min()) for channel in image),
        kind=case.kind,
        labelled=case.label_values is not None,
        like_labels=all(looks_like_labels(channel, case.kind) for channel in case.image),
        label_voxels=voxels,
        label_reach=tuple(float(x) for x in reach),
        class_name=class_name,
    )


def _check_label_sets(dataset: Dataset, value_sets: dict[str, frozenset]) -> None:
    """A case none of whose labels any other case has was labelled by another scheme."""
    filled = {name: values for name, values in value_sets.items() if values}
    for name, values in filled.items():
        others = frozenset().union(*(other for other_name, other in filled.items() if other_name != name))
        if len(filled) > 1 and not values & others and not dataset.names_are_complete:
            path = next(case.label for case in dataset.cases if case.name == name)
            raise InputError(
                f"{path} has the labels {', '.join(sorted(values))}, of which no other case has any "
                f"(they have {', '.join(sorted(others))}).",
                "All cases need one labelling: renumber this one, leave it out, or name all labels in dataset.json.",
            )


def percentile_range(voxels: np.ndarray) -> tuple[float, float]:
    """0.5th and 99.5th percentile, or smallest and largest value where those are one."""
    low, high = (float(value) for value in np.percentile(voxels, (0.5, 99.5)))
    return (low, high) if high > low else (float(voxels.min()), float(voxels.max()))


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


@dataclass(frozen=True)
class WorkingCase:
    """A case on the working grid, as training sees it.

    :param image: (C, *grid) float32 in [-1, 1].
    :param labels: (*grid) uint8, 0 background; None without segmentation.
    :param affine: of the grid in this patient, (4, 4).
    :param source_affine: of the case before; with ``source_shape`` the grid that :func:`from_working` returns to.
    :param class_name: kind of case; None where it is not known.
    :param coarse: where it is trained on in parts, means over blocks of 4 x 4 x 4 voxels: of the image, float32, and
        of the labels, one share a label and background first, float16; see :func:`coarse_of`.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray | None
    affine: np.ndarray
    source_affine: np.ndarray
    source_shape: tuple[int, ...]
    class_name: str | None = None
    coarse: tuple[np.ndarray, np.ndarray] | None = None


COARSE_FACTOR = 4


def coarse_of(case: WorkingCase, label_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (C, *grid / 4) and shares of the labels (label_count + 1, *grid / 4) of a case; zeros without labels."""

    def means(array: np.ndarray) -> np.ndarray:
        for axis in range(1, array.ndim):
            shape = (*array.shape[:axis], array.shape[axis] // COARSE_FACTOR, COARSE_FACTOR, *array.shape[axis + 1 :])
            array = array.reshape(shape).mean(axis + 1, dtype=np.float32)
        return array

    if case.labels is None:
        shape = tuple(side // COARSE_FACTOR for side in case.image.shape[1:])
        return means(case.image), np.zeros((label_count + 1, *shape), np.float16)
    # One label after the other: one-hot labels of a large volume would take a gigabyte.
    shares = [means((case.labels == index)[None])[0] for index in range(label_count + 1)]
    return means(case.image), np.stack(shares).astype(np.float16)


def map_intensities(image: np.ndarray, ranges: list[tuple[float, float]]) -> np.ndarray:
    """Each channel's range (low, high) to [-1, 1], clipped; float32."""
    low, high = (np.array(side, dtype=np.float32).reshape(-1, 1, 1, 1) for side in zip(*ranges))
    width = np.where(high > low, high - low, np.float32(1))
    return np.clip((image - low) / width * 2 - 1, -1, 1).astype(np.float32)


def unmap_intensities(image: np.ndarray, ranges: list[tuple[float, float]]) -> np.ndarray:
    """Inverse of :func:`map_intensities`, apart from what was clipped."""
    low, high = (np.array(side, dtype=np.float32).reshape(-1, 1, 1, 1) for side in zip(*ranges))
    return ((image + 1) / 2 * (high - low) + low).astype(np.float32)


def resample_labels(
    labels: np.ndarray, affine: np.ndarray, new_affine: np.ndarray, new_shape: tuple[int, ...]
) -> np.ndarray:
    """Label indices on another grid: the label with the largest share of each new voxel."""
    present = [int(index) for index in np.unique(labels) if index]
    result = np.zeros(new_shape, dtype=np.uint8)
    if not present:
        return result
    shares = [resample((labels == index)[None], affine, new_affine, new_shape, outside="zeros")[0] for index in present]
    # Background takes part with what the labels leave of a voxel.
    best = np.clip(1 - np.sum(shares, axis=0), 0, None)
    for index, share in zip(present, shares):
        result[share > best] = index
        best = np.maximum(best, share)
    return result


def to_working(case: Case, plan) -> WorkingCase:
    """Bring a case to the plan's grid and intensities.

    :param case: in any orientation; its affine says which.
    :param plan: a :class:`GEDGANLib.planning.plan.Plan`.
    """
    image, affine = to_closest_ras(case.image, case.affine)
    target = working_affine(affine, image.shape[1:], plan.grid.shape, plan.grid.spacing)
    ranges = [channel.range_of(voxels) for channel, voxels in zip(plan.channels, image)]
    labels = None
    if case.labels is not None:
        labels, _ = to_closest_ras(case.labels, case.affine)
        labels = resample_labels(labels, affine, target, tuple(plan.grid.shape))
    moved = resample(image, affine, target, plan.grid.shape)
    return WorkingCase(
        case.name,
        map_intensities(moved, ranges),
        labels,
        target,
        case.affine,
        tuple(case.image.shape[1:]),
        case.class_name,
    )


def from_working(working: WorkingCase, plan, ranges: list[tuple[float, float]] | None = None) -> Case:
    """Bring a case back to the grid it came from, in the units of the data.

    :param ranges: per channel, what -1 and 1 stand for; the plan's typical range when not given.
    """
    image = resample(working.image, working.affine, working.source_affine, working.source_shape)
    labels = None
    if working.labels is not None:
        labels = resample_labels(working.labels, working.affine, working.source_affine, working.source_shape)
    return Case(
        working.name,
        unmap_intensities(image, ranges or [channel.typical for channel in plan.channels]),
        labels,
        working.source_affine,
        tuple(plan.labels),
        tuple(channel.name for channel in plan.channels),
    )


def load_working_cases(dataset: Dataset, plan, progress: Progress = _quiet) -> Iterator[WorkingCase]:
    """Read the cases of ``dataset`` one by one onto the plan's grid.

    :raises InputError: a file that cannot be used, or channels or labels that the plan does not have.
    """
    if len(dataset.channel_names) != len(plan.channels):
        raise InputError(
            f"{dataset.folder} has {len(dataset.channel_names)} channel(s), the plan {len(plan.channels)}.",
            "Make a plan for this data set with `gedgan plan`.",
        )
    table = LabelTable(dataset)
    known = {label.name for label in plan.labels}
    for position, files in enumerate(dataset.cases):
        progress(position, len(dataset.cases), files.name)
        yield to_working(load_case(files, dataset, plan.labels, table, known), plan)
    progress(len(dataset.cases), len(dataset.cases), "")


def load_case(
    files: CaseFiles, dataset: Dataset, labels: tuple[Label, ...], table: LabelTable, known: set[str]
) -> Case:
    """Read one case with its labels numbered as in ``labels``.

    :raises InputError: it has a label that is not among ``known`` names.
    """
    raw = read_case(files, dataset)
    _check_size(raw, files)
    table.add(raw, files.label)
    strange = sorted({label.name for label in table.labels()} - known) if raw.label_values is not None else []
    if strange and known:
        raise InputError(
            f"{files.label} has labels that the plan does not know, {', '.join(strange)}; it knows "
            f"{', '.join(sorted(known))}.",
            "If they are these under other names, copy the dataset.json that names them into the folder. If not, "
            "correct the segmentation, or make a new plan with `gedgan plan` and train with that.",
        )
    indices = table.renumber(raw, labels) if known else None
    return Case(
        raw.name,
        raw.image,
        indices,
        raw.affine,
        labels,
        dataset.channel_names,
        dataset.description,
        class_name=files.class_name,
    )
