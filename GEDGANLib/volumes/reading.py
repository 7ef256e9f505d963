"""The files of one case -> its voxels, checked: numbers, one grid for all channels and labels, whole labels.

What cannot be right ends in an :class:`~GEDGANLib.errors.InputError` that names the file and what to do.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .case import default_color
from .dicom_segmentations import read_dicom_segmentation
from .files import Segment, Volume, read_volume, stem_of, suffix_of
from .found import CaseFiles, Dataset, label_files
from .geometry import SAME_VOXELS, corners_apart, directions_of, same_grid, spacing_of
from .volume import times


@dataclass(frozen=True)
class RawCase:
    """A case as the files have it, in their own order of axes, its labels not yet renumbered.

    :param label_values: (I, J, K) non-negative integers, or None.
    :param kind: type that holds the voxels of all channels, as numpy names it.
    :param kinds: type of each channel in its file, as numpy names it.
    :param segment_names: value -> (name, colour, terminology), where the segmentation file itself names them.
    """

    name: str
    image: np.ndarray
    label_values: np.ndarray | None
    segment_names: dict[int, tuple[str, tuple[float, float, float], str]]
    affine: np.ndarray
    kind: str
    kinds: tuple[str, ...] = ()


def read_case(files: CaseFiles, dataset: Dataset) -> RawCase:
    """Read and check the files of one case.

    :raises InputError: see the module's text; the message names the file.
    """
    channels = len(dataset.channel_names)
    volumes = [read_volume(path, channels if len(files.images) == 1 else 1) for path in files.images]
    first = volumes[0]
    image = (
        first.array
        if first.array.ndim == 4
        else np.stack([_same_grid_or_fail(first, files, v, i) for i, v in enumerate(volumes)])
    )
    if image.shape[0] != channels:
        raise InputError(
            f"Case {files.name} has {image.shape[0]} channel(s), others of {dataset.folder} have {channels}.",
            "All cases of a data set need the same channels: complete this one or leave it out.",
        )
    for channel, voxels in enumerate(image):
        check_voxels(files.images[min(channel, len(files.images) - 1)], voxels)
    labels, segment_names = None, {}
    if files.label is not None:
        labels, segment_names = _read_labels(files, first, dataset.wanted_labels)
    kinds = tuple(volume.array.dtype.name for volume in volumes)
    kinds = kinds if len(kinds) == channels else kinds[:1] * channels
    return RawCase(files.name, image.astype(np.float32), labels, segment_names, first.affine, image.dtype.name, kinds)


def _same_grid_or_fail(first: Volume, files: CaseFiles, other: Volume, index: int) -> np.ndarray:
    if not same_grid(first.affine, first.array.shape, other.affine, other.array.shape):
        raise InputError(
            f"{files.images[index]} and {files.images[0]} have different grids, though they are channels of one scan: "
            f"{_how_they_differ(other.affine, other.array.shape, first.affine, first.array.shape)}.",
            "Resample one onto the other (in Slicer: Resample Image (BRAINS)) and save it again.",
        )
    return other.array


MAXIMUM_LABELS = 255
"""Of a data set: a voxel's is kept in a byte."""
ROUNDING = 1e-3
"""By which labels may miss whole numbers: a scale in the header, applied with few digits, moves them."""
FEW_VALUES = 16
"""Whole numbers up to which an image may be a segmentation."""


def looks_like_labels(voxels: np.ndarray, kind: str) -> bool:
    """Whether an image may be a segmentation, and no scan.

    :param kind: type of the voxels in the file, as numpy names it.
    """
    if not np.issubdtype(np.dtype(kind), np.integer) or float(voxels.max()) - float(voxels.min()) > 256:
        return False
    return len(np.unique(voxels)) <= FEW_VALUES


def check_voxels(path: Path, voxels: np.ndarray) -> None:
    """:raises InputError: voxels that are not numbers, not finite, or all the same."""
    if not np.issubdtype(voxels.dtype, np.number) or np.iscomplexobj(voxels):
        raise InputError(f"{path} does not hold numbers that can be intensities ({voxels.dtype}).", "Leave it out.")
    bad = int(voxels.size - np.isfinite(voxels).sum())
    if bad:
        raise InputError(
            f"{path} has {bad} voxel(s) that are not a number or infinite.",
            "Replace them (in Slicer: Simple Filters, or numpy.nan_to_num) and save it again.",
        )
    if voxels.min() == voxels.max():
        raise InputError(
            f"{path} is constant: every voxel is {voxels.flat[0]:g}.", "Nothing can be learned from it; leave it out."
        )


def holds_labels(files: CaseFiles, dataset: Dataset) -> bool:
    """Whether anything is segmented in a case that has a segmentation.

    :raises InputError: it cannot be read.
    """
    if files.label.is_dir() or not suffix_of(files.label):  # which lie on their scan's voxels
        return bool(read_case(files, dataset).label_values.any())
    return bool(read_volume(files.label, None).array.any())


def _read_labels(files: CaseFiles, image: Volume, wanted: Collection[str] | None) -> tuple[np.ndarray, dict]:
    path = files.label
    if path.is_dir():
        volume = _merged(path, image)
    else:
        volume = read_volume(path, None) if suffix_of(path) else read_dicom_segmentation(path, image, wanted)
    volume.array = array = _flat(path, volume.array)
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"{path} holds no numbers that can be labels ({array.dtype}).", "Save it as a label map.")
    segment_names = {
        position + 1: (segment.name, segment.color, segment.terminology)
        for position, segment in enumerate(volume.segments)
    }
    if volume.segments and not same_grid(image.affine, image.array.shape[-3:], volume.affine, array.shape):
        # Slicer crops a segmentation to its segments: the same lattice, another extent.
        array = _place_on_lattice(array, volume.affine, image)
    elif not same_grid(image.affine, image.array.shape[-3:], volume.affine, array.shape):
        array = None
    if array is None:
        raise InputError(
            f"{path} and {files.images[0]} have different grids: "
            f"{_how_they_differ(volume.affine, volume.array.shape, image.affine, image.array.shape[-3:])}.",
            "Resample the segmentation to the voxels of its image, by nearest neighbours, and save it again; in "
            "Slicer: Segmentations module, Export, with the image as reference volume.",
        )
    if not np.all(np.isfinite(array)) or np.abs(array - np.round(array)).max() > ROUNDING:
        raise InputError(
            f"{path} has labels with fractions; a segmentation must be whole numbers.",
            "It may be a probability map or interpolated linearly: threshold it or resample it as a label map.",
        )
    if array.min() < 0:
        raise InputError(
            f"{path} has negative labels (down to {array.min():g}).", "Set them to 0 (background) and save it again."
        )
    if array.max() > 65535:
        raise InputError(
            f"{path} has labels up to {array.max():g}; it looks like an image, not a segmentation.",
            "Check that the label folder holds segmentations.",
        )
    return np.round(array).astype(np.uint16), segment_names


def _merged(folder: Path, image: Volume) -> Volume:
    """One segmentation of a folder of masks, one a structure, whose names are the labels'; where they overlap the
    smaller is on top."""
    masks, sizes, segments, paths = [], [], [], label_files(folder)
    if len(paths) > MAXIMUM_LABELS:
        raise InputError(
            f"{folder} holds {len(paths)} masks, more than the {MAXIMUM_LABELS} that can be told apart.",
            "Leave those in it that you need, or merge some.",
        )
    for number, path in enumerate(paths, 1):
        mask = read_volume(path)
        if not same_grid(image.affine, image.array.shape[-3:], mask.affine, mask.array.shape):
            raise InputError(
                f"{path} and its image have different grids: "
                f"{_how_they_differ(mask.affine, mask.array.shape, image.affine, image.array.shape[-3:])}.",
                "Resample the mask to the voxels of its image, by nearest neighbours, and save it again.",
            )
        filled = mask.array > 0
        masks.append(np.packbits(filled))  # an eighth of the memory
        sizes.append(np.count_nonzero(filled))
        segments.append(Segment(number, stem_of(path), default_color(number)))
    flat = np.zeros(image.array.shape[-3:], np.uint16)
    for position in sorted(range(len(masks)), key=lambda position: -sizes[position]):
        flat[np.unpackbits(masks[position], count=flat.size).reshape(flat.shape).astype(bool)] = position + 1
    return Volume(flat, image.affine, tuple(segments))


def _flat(path: Path, array: np.ndarray) -> np.ndarray:
    """One label map of a mask a label, (C, I, J, K), where each voxel is in one of them at most.

    :raises InputError: they are no such masks.
    """
    if array.ndim == 3:
        return array
    masks = array != 0
    if not np.all((array == 0) | (array == 1)) or masks.sum(0).max() > 1:
        raise InputError(
            f"{path} holds {len(array)} volumes, which are no masks of one label each.",
            "Save one label map, with a number for each label.",
        )
    all_covered = bool(masks.any(0).all())  # the first is background then
    flat = np.zeros(array.shape[1:], np.uint16)
    for number, mask in enumerate(masks, 0 if all_covered else 1):
        flat[mask] = number
    return flat


def _place_on_lattice(array: np.ndarray, affine: np.ndarray, image: Volume) -> np.ndarray | None:
    to_image = np.linalg.inv(image.affine) @ affine
    start = np.round(to_image[:3, 3]).astype(int)
    shape = image.array.shape[-3:]
    if np.abs(to_image[:3, :3] - np.eye(3)).max() > 1e-3 or np.abs(to_image[:3, 3] - start).max() > SAME_VOXELS:
        return None
    placed = np.zeros(shape, dtype=array.dtype)
    target = tuple(slice(min(max(s, 0), m), min(max(s + n, 0), m)) for s, n, m in zip(start, array.shape, shape))
    if any(t.stop <= t.start for t in target):
        return None if array.any() else placed
    source = tuple(slice(t.start - s, t.stop - s) for t, s in zip(target, start))
    placed[target] = array[source]
    return placed


def _how_they_differ(
    affine: np.ndarray, shape: tuple[int, ...], other_affine: np.ndarray, other_shape: tuple[int, ...]
) -> str:
    """What is different between two grids, in numbers that differ."""
    parts = []
    if tuple(shape) != tuple(other_shape):
        parts.append(f"{times(shape)} against {times(other_shape)} voxels")
    spacings = spacing_of(affine), spacing_of(other_affine)
    if np.abs(spacings[0] / spacings[1] - 1).max() > 1e-4:
        digits = _digits_that_tell(*spacings)
        words = (" x ".join(f"{side:.{digits}g}" for side in each) for each in spacings)
        parts.append("{} against {} mm a voxel".format(*words))
    cosines = np.clip((directions_of(affine) * directions_of(other_affine)).sum(0), -1, 1)
    if (turned := np.degrees(np.arccos(cosines)).max()) > 0.01:
        parts.append(f"axes turned by {turned:.3g} degrees")
    moved = np.linalg.norm(affine[:3, 3] - other_affine[:3, 3])
    if moved > SAME_VOXELS * spacings[1].min():
        parts.append(f"first voxels {moved:.3g} mm apart")
    if not parts:
        apart = corners_apart(other_affine, other_shape, affine)
        parts.append(f"corners up to {apart:.2g} voxels apart")
    return ", ".join(parts)


def _digits_that_tell(first: np.ndarray, second: np.ndarray) -> int:
    """Significant digits, 3 at least, in which two arrays are written differently."""
    for digits in range(3, 8):
        if any(f"{a:.{digits}g}" != f"{b:.{digits}g}" for a, b in zip(first, second)):
            return digits
    return 8
