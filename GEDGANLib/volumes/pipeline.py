"""Cases -> tensors on the working grid, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from .case import Case, Label
from .dataset import CaseFiles, Dataset
from .fingerprint import Progress, check_size, quiet
from .geometry import field_of_view, resample, to_closest_ras, working_affine
from .labels import LabelTable
from .reading import read_case


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

    @property
    def field_of_view(self) -> np.ndarray:
        """Where the scan begins and ends on the grid, in voxels, (3, 2); its edge is repeated beyond, and seen there
        was nothing. See :func:`.geometry.field_of_view`."""
        return field_of_view(self.affine, self.source_affine, self.source_shape)


def seen_voxels(case: WorkingCase) -> np.ndarray:
    """First and last voxel of the grid that the scan saw along each axis, (D, 2) int64: those beyond are as these are,
    since a scan is repeated from the centres of its outer voxels on."""
    sides = np.array(case.image.shape[1:])
    half = 0.5 * np.abs(np.linalg.inv(case.affine) @ case.source_affine)[:3, :3].sum(1)[: len(sides)]
    begin, end = case.field_of_view[: len(sides)].T
    first = np.clip(np.floor(begin + half + 1e-6), 0, sides - 1)
    last = np.clip(np.ceil(end - half - 1e-6), first, sides - 1)
    return np.stack([first, last], 1).astype(np.int64)


def seen_as(case: WorkingCase, seen: np.ndarray) -> WorkingCase:
    """A case as a scan of less is brought to the grid: beyond what that saw its edge is repeated, without labels.

    :param seen: first and last voxel along each axis, see :func:`seen_voxels`.
    """
    places = [np.clip(np.arange(side), *ends) for side, ends in zip(case.image.shape[1:], seen)]
    labels = None
    if case.labels is not None:
        labels = np.zeros_like(case.labels)
        inside = tuple(slice(first, last + 1) for first, last in seen)
        labels[inside] = case.labels[inside]
    return replace(case, image=case.image[(slice(None), *np.ix_(*places))], labels=labels)


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


def load_working_cases(dataset: Dataset, plan, progress: Progress = quiet) -> Iterator[WorkingCase]:
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
    raw = read_case(files if known else replace(files, label=None), dataset)
    check_size(raw, files)
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
        kind=raw.kind,
        kinds=raw.kinds if len(set(raw.kinds)) > 1 else (),
    )
