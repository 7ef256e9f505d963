"""A folder of the user's -> cases: which files belong together, what channels and labels mean.

Accepted are nnU-Net and Medical Decathlon folders (``dataset.json``, ``imagesTr``, ``labelsTr``), plain folders of
images with or without labels, and folders of DICOM series. Nothing is decided silently: what cannot be right ends in
an :class:`~GEDGANLib.errors.InputError` that names the file and what to do.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .files import SEGMENTATION_SUFFIX, Volume, dicom_series, read_volume, stem_of, suffix_of
from .geometry import same_grid

IMAGE_FOLDERS = ("imagesTr", "images", "image", "volumes", "scans")
LABEL_FOLDERS = ("labelsTr", "labels", "label", "segmentations", "segmentation", "masks", "mask")
LABEL_ENDINGS = ("_seg", "_label", "_labels", "_mask", "-label", "-seg")
CHANNEL = re.compile(r"(.+)_(\d{4})$")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    :param images: one file a channel, one file of several channels, or one folder of a DICOM series.
    :param label: segmentation, or None.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """Cases of one kind.

    :param label_names: value in the files -> name, as far as the user gave names; background left out.
    :param names_are_complete: a value without a name is an error (there is a ``dataset.json``).
    """

    folder: Path
    cases: tuple[CaseFiles, ...]
    channel_names: tuple[str, ...]
    label_names: dict[int, str]
    names_are_complete: bool
    description: str = ""


def find_dataset(folder: Path) -> Dataset:
    """Find the cases of ``folder``; reads names and ``dataset.json``, no voxels.

    :raises InputError: no such folder, nothing in it that can be read, a ``dataset.json`` that does not fit.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"There is no folder {folder}.", "Check the path for typing errors.")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder of scans.", "Give the folder that holds it.")
    if (folder / "dataset.json").exists():
        return _find_described(folder)
    dataset = _find_plain(folder) or _find_dicom(folder)
    if dataset is None:
        empty = not any(folder.iterdir())
        raise InputError(
            f"{folder} is empty." if empty else f"{folder} holds no image that can be read.",
            "Put NIfTI, NRRD or MetaImage files, DICOM folders, or a data set with dataset.json in it.",
        )
    return dataset


def _find_described(folder: Path) -> Dataset:
    """nnU-Net v2 (``channel_names``, labels name -> value) and Medical Decathlon (``modality``, value -> name)."""
    path = folder / "dataset.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        channels = described.get("channel_names", described.get("modality", {"0": "image"}))
        channel_names = tuple(str(channels[key]) for key in sorted(channels, key=int))
        label_names: dict[int, str] = {}
        for key, value in described.get("labels", {}).items():
            if isinstance(value, list):  # nnU-Net's regions: the files hold the single values, named by their regions
                for part in value:
                    label_names.setdefault(int(part), key)
            elif str(key).lstrip("-").isdigit():
                label_names[int(key)] = str(value)
            else:
                label_names[int(value)] = str(key)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise InputError(
            f"{path} is not a data set description this program can read ({error}).",
            "It needs channel_names or modality, and labels, as nnU-Net or the Medical Decathlon write them.",
        ) from error
    label_names = {value: name for value, name in label_names.items() if value != 0 and name != "ignore"}
    image_folder, label_folder = folder / "imagesTr", folder / "labelsTr"
    if not image_folder.is_dir():
        raise InputError(f"{folder} has a dataset.json but no folder imagesTr.", "Put the training images there.")
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in _image_files(image_folder):
        stem = stem_of(path)
        match = CHANNEL.match(stem)
        if match and (len(channel_names) > 1 or "channel_names" in described or int(match.group(2)) == 0):
            groups[match.group(1)][int(match.group(2))] = path
        else:
            groups[stem][0] = path
    cases = []
    for name, files in sorted(groups.items()):
        if len(files) not in (1, len(channel_names)):
            raise InputError(
                f"{image_folder} has {len(files)} channels of {name}, but dataset.json names {len(channel_names)}.",
                f"Every case needs {name}_0000 to {name}_{len(channel_names) - 1:04d}; add the missing files or leave "
                "the case out.",
            )
        cases.append(CaseFiles(name, tuple(files[key] for key in sorted(files)), _label_of(label_folder, name)))
    if not cases:
        raise InputError(f"{image_folder} holds no image that can be read.", "Put the training images there.")
    return Dataset(
        folder, tuple(cases), channel_names, label_names, bool(label_names), described.get("description", "")
    )


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and suffix_of(path)
        and suffix_of(path) != SEGMENTATION_SUFFIX
        and not stem_of(path).lower().endswith(LABEL_ENDINGS)
    )


def _label_of(folder: Path, name: str, images: Sequence[Path] = ()) -> Path | None:
    """The segmentation of case ``name`` in ``folder``, which may hold the ``images`` too."""
    if not folder.is_dir():
        return None
    for path in sorted(folder.iterdir()):
        if suffix_of(path) and not path.name.startswith(".") and path not in images:
            stem = stem_of(path)
            if stem == name or any(stem.lower() == (name + ending).lower() for ending in LABEL_ENDINGS):
                return path
    return None


def _find_plain(folder: Path) -> Dataset | None:
    image_folder = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), folder)
    files = _image_files(image_folder)
    if not files:
        return None
    places = (image_folder.parent, image_folder)
    label_folders = [place / name for place in places for name in LABEL_FOLDERS] + [image_folder]
    groups = _group_channels(files)
    cases = []
    for name, paths in sorted(groups.items()):
        candidates = (_label_of(label_folder, name, paths) for label_folder in label_folders)
        label = next((path for path in candidates if path is not None), None)
        cases.append(CaseFiles(name, paths, label))
    channels = max(len(case.images) for case in cases)
    names = tuple(f"channel {index}" for index in range(channels)) if channels > 1 else ("image",)
    return Dataset(folder, tuple(cases), names, {}, False)


def _group_channels(files: list[Path]) -> dict[str, tuple[Path, ...]]:
    """Group ``_0000``, ``_0001`` ... of a case, unless that ending can only be a case number."""
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in files:
        match = CHANNEL.match(stem_of(path))
        if not match:
            break
        groups[match.group(1)][int(match.group(2))] = path
    else:
        if len(groups) > 1 and all(min(channels) == 0 for channels in groups.values()):
            return {name: tuple(paths[key] for key in sorted(paths)) for name, paths in groups.items()}
    by_stem: dict[str, tuple[Path, ...]] = {}
    for path in files:
        if stem_of(path) in by_stem:
            raise InputError(
                f"{by_stem[stem_of(path)][0].name} and {path.name} have the same name apart from their ending.",
                f"Keep one of them in {path.parent}.",
            )
        by_stem[stem_of(path)] = (path,)
    return by_stem


def _find_dicom(folder: Path) -> Dataset | None:
    cases = []
    for directory in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())]):
        if not any(path.is_file() for path in directory.iterdir()):
            continue
        series = dicom_series(directory)
        if len(series) > 1:
            raise InputError(
                f"{directory} holds {len(series)} DICOM series in one folder.", "Give every series a folder of its own."
            )
        if series:
            name = "_".join(directory.relative_to(folder).parts) or folder.name
            cases.append(CaseFiles(name, (directory,)))
    return Dataset(folder, tuple(cases), ("image",), {}, False) if cases else None


@dataclass(frozen=True)
class RawCase:
    """A case as the files have it, in their own order of axes, its labels not yet renumbered.

    :param label_values: (I, J, K) non-negative integers, or None.
    :param segment_names: value -> (name, colour, terminology), where the segmentation file itself names them.
    """

    name: str
    image: np.ndarray
    label_values: np.ndarray | None
    segment_names: dict[int, tuple[str, tuple[float, float, float], str]]
    affine: np.ndarray
    integer: bool


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
        labels, segment_names = _read_labels(files, first)
    integer = bool(np.issubdtype(image.dtype, np.integer))
    return RawCase(files.name, image.astype(np.float32), labels, segment_names, first.affine, integer)


def _same_grid_or_fail(first: Volume, files: CaseFiles, other: Volume, index: int) -> np.ndarray:
    if not same_grid(first.affine, first.array.shape, other.affine, other.array.shape):
        raise InputError(
            f"{files.images[index]} and {files.images[0]} have different grids, though they are channels of one scan.",
            "Resample one onto the other (in Slicer: Resample Image (BRAINS)) and save it again.",
        )
    return other.array


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


def _read_labels(files: CaseFiles, image: Volume) -> tuple[np.ndarray, dict]:
    path = files.label
    volume = read_volume(path)
    array = volume.array
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
            f"{path} and {files.images[0]} have different grids "
            f"({_grid_words(volume.affine, volume.array.shape)} against "
            f"{_grid_words(image.affine, image.array.shape[-3:])}).",
            "Export the segmentation in the geometry of its image (in Slicer: Segmentations module, Export, Reference "
            "volume) and save it again.",
        )
    if not np.all(np.isfinite(array)) or np.any(array != np.round(array)):
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
    return array.astype(np.uint16), segment_names


def _place_on_lattice(array: np.ndarray, affine: np.ndarray, image: Volume) -> np.ndarray | None:
    to_image = np.linalg.inv(image.affine) @ affine
    start = np.round(to_image[:3, 3]).astype(int)
    shape = image.array.shape[-3:]
    if np.abs(to_image[:3, :3] - np.eye(3)).max() > 1e-3 or np.abs(to_image[:3, 3] - start).max() > 0.05:
        return None
    placed = np.zeros(shape, dtype=array.dtype)
    target = tuple(slice(max(s, 0), max(min(s + n, m), 0)) for s, n, m in zip(start, array.shape, shape))
    source = tuple(slice(t.start - s, t.stop - s) for t, s in zip(target, start))
    placed[target] = array[source]
    return placed


def _grid_words(affine: np.ndarray, shape: tuple[int, ...]) -> str:
    spacing = " x ".join(f"{side:.3g}" for side in np.linalg.norm(affine[:3, :3], axis=0))
    return f"{' x '.join(map(str, shape))} voxels of {spacing} mm at {np.round(affine[:3, 3], 1).tolist()}"
