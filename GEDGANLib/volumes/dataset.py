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
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError
from .classes import read_classes
from .files import SEGMENTATION_SUFFIX, dicom_series, stem_of, suffix_of

IMAGE_FOLDERS = ("imagesTr", "images", "image", "volumes", "scans")
LABEL_FOLDERS = ("labelsTr", "labels", "label", "segmentations", "segmentation", "masks", "mask")
LABEL_ENDINGS = ("_seg", "_label", "_labels", "_mask", "-label", "-seg")
CHANNEL = re.compile(r"(.+)_(\d{4})$")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    :param images: one file a channel, one file of several channels, or one folder of a DICOM series.
    :param label: segmentation, or None.
    :param class_name: kind of case, see ``classes``; None where it is not known.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    class_name: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Cases of one kind.

    :param label_names: value in the files -> name, as far as the user gave names; background left out.
    :param names_are_complete: a value without a name is an error (there is a ``dataset.json``).
    :param warnings: what a person should know of the files that were found, and of those that were not.
    """

    folder: Path
    cases: tuple[CaseFiles, ...]
    channel_names: tuple[str, ...]
    label_names: dict[int, str]
    names_are_complete: bool
    description: str = ""
    warnings: tuple[str, ...] = ()


def find_dataset(folder: Path, class_column: str | None = None) -> Dataset:
    """Find the cases of ``folder``; reads names, ``dataset.json`` and ``participants.tsv``, no voxels.

    :param class_column: of ``participants.tsv``, see :func:`GEDGANLib.volumes.classes.read_classes`.
    :raises InputError: no such folder, nothing in it that can be read, a ``dataset.json`` that does not fit.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"There is no folder {folder}.", "Check the path for typing errors.")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder of scans.", "Give the folder that holds it.")
    try:
        if (folder / "dataset.json").exists():
            dataset = _find_described(folder)
        else:
            dataset = _find_plain(folder) or _find_dicom(folder)
        if dataset is None:
            _explain_nothing(folder)
        classes = read_classes(folder, [case.name for case in dataset.cases], class_column)
        return replace(dataset, cases=tuple(replace(case, class_name=classes.get(case.name)) for case in dataset.cases))
    except PermissionError as error:
        raise InputError(f"{error.filename or folder} may not be read by you.", "Change its permissions.") from error


def _explain_nothing(folder: Path) -> None:
    """:raises InputError: always; says what ``folder`` has instead of images."""
    if not any(folder.iterdir()):
        raise InputError(f"{folder} is empty.", "Put scans in it, or give another folder.")
    below = [path for part in sorted(folder.iterdir()) if part.is_dir() for path in _image_files(part)]
    if below:
        raise InputError(
            f"{folder} itself holds no image; the first one below it is {below[0]}.",
            f"Give that folder ({below[0].parent}), or, if every patient has a folder, put the images of all of them "
            f"into {folder / 'images'} and the segmentations, under the same names, into {folder / 'labels'}.",
        )
    raise InputError(
        f"{folder} holds no image that can be read.",
        "Put NIfTI, NRRD or MetaImage files, DICOM folders, or a data set with dataset.json in it.",
    )


def _find_described(folder: Path) -> Dataset:
    """nnU-Net v2 (``channel_names``, labels name -> value) and Medical Decathlon (``modality``, value -> name)."""
    path = folder / "dataset.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        channels = described.get("channel_names", described.get("modality", {"0": "image"}))
        channel_names = tuple(str(channels[key]) for key in sorted(channels, key=int))
        label_names = _label_names(described.get("labels", {}))
        listed = [
            str(entry["image"])
            for entry in described.get("training", [])
            if isinstance(entry, dict) and "image" in entry
        ]
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise InputError(
            f"{path} is not a data set description this program can read ({error}).",
            "It needs channel_names or modality, and labels, as nnU-Net or the Medical Decathlon write them.",
        ) from error
    image_folder, label_folder = folder / "imagesTr", folder / "labelsTr"
    if not image_folder.is_dir():
        raise InputError(f"{folder} has a dataset.json but no folder imagesTr.", "Put the training images there.")
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    files = _image_files(image_folder)
    # Where a segmentation has the very name of an image, endings like _0003 are the numbers of cases.
    stems = {stem_of(path) for path in _label_files(label_folder)}
    numbered = "channel_names" not in described and any(stem_of(path) in stems for path in files)
    for path in files:
        stem = stem_of(path)
        match = None if numbered else CHANNEL.match(stem)
        name, channel = (match.group(1), int(match.group(2))) if match else (stem, 0)
        _add_channel(groups[name], channel, path)
    cases = []
    for name, files in sorted(groups.items()):
        wrong_channels = len(files) > 1 and sorted(files) != list(range(len(channel_names)))
        if len(files) not in (1, len(channel_names)) or wrong_channels:
            there = ", ".join(f"{channel:04d}" for channel in sorted(files))
            raise InputError(
                f"{image_folder} has {len(files)} channels of {name} ({there}), but dataset.json names "
                f"{len(channel_names)}.",
                f"Every case needs {name}_0000 to {name}_{len(channel_names) - 1:04d}; add the missing files or leave "
                "the case out.",
            )
        cases.append(CaseFiles(name, tuple(files[key] for key in sorted(files)), _label_of(label_folder, name)))
    if not cases:
        raise InputError(f"{image_folder} holds no image that can be read.", "Put the training images there.")
    there = {path.name for files in groups.values() for path in files.values()}
    missing = [name for name in listed if Path(name).name not in there and stem_of(Path(name)) not in groups]
    warnings = _unmatched_labels([label_folder], cases)
    if missing:
        warnings.append(f"{len(missing)} image(s) that dataset.json lists are not there, {missing[0]} for example.")
    description = str(described.get("description") or "")
    return Dataset(folder, tuple(cases), channel_names, label_names, bool(label_names), description, tuple(warnings))


def _label_names(described: dict) -> dict[int, str]:
    """Value -> name. Of nnU-Net's regions, which overlap, a value gets the name of its smallest."""
    names: dict[int, str] = {}
    regions: dict[int, tuple[int, str]] = {}
    for key, value in described.items():
        if isinstance(value, list):
            for part in value:
                regions[int(part)] = min(regions.get(int(part), (len(value), key)), (len(value), key))
        elif isinstance(value, int):  # nnU-Net: name -> value
            names[value] = str(key)
        else:  # Medical Decathlon: value -> name
            names[int(key)] = str(value)
    taken: dict[str, int] = {}
    for value, (_, name) in sorted(regions.items()):
        if value not in names:
            # Values that no region tells apart share its name; a number keeps them apart.
            taken[name] = taken.get(name, 0) + 1
            names[value] = name if taken[name] == 1 else f"{name} (value {value})"
    return {value: name for value, name in names.items() if value != 0}


def _label_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if suffix_of(path) and not path.name.startswith(".")]


def _unmatched_labels(folders: Sequence[Path], cases: Sequence[CaseFiles], beside: Sequence[Path] = ()) -> list[str]:
    """What to say of segmentations in ``folders``, or ``beside`` the images, that belong to no image.

    :raises InputError: not one belongs to an image, though there are some.
    """
    used = {case.label for case in cases if case.label is not None}
    left = [path for folder in folders for path in _label_files(folder) if path not in used] + [
        path for path in beside if path not in used
    ]
    if not left:
        return []
    if not used:
        raise InputError(
            f"None of the {len(left)} segmentations in {left[0].parent} has the name of an image: there is "
            f"{left[0].name}, and the images are called {cases[0].images[0].name} and the like.",
            "Give each segmentation the name of its image.",
        )
    return [f"{len(left)} segmentation(s) belong to no image, {left[0]} for example; they are left out."]


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
    """The segmentation of case ``name`` in ``folder``, which may hold the ``images`` too; None if there is none."""
    for path in _label_files(folder):
        stem = stem_of(path)
        own = stem == name or any(stem.lower() == (name + ending).lower() for ending in LABEL_ENDINGS)
        if own and path not in images:
            return path
    return None


def _find_plain(folder: Path) -> Dataset | None:
    image_folder = next(iter(_folders_named(folder, IMAGE_FOLDERS)), folder)
    files = _image_files(image_folder)
    if not files:
        return None
    places = (folder, image_folder) if image_folder != folder else (folder, folder.resolve().parent)
    label_folders = [label_folder for place in places for label_folder in _folders_named(place, LABEL_FOLDERS)]
    groups = _group_channels(files)
    cases = []
    for name, paths in sorted(groups.items()):
        candidates = (_label_of(label_folder, name, paths) for label_folder in [*label_folders, image_folder])
        label = next((path for path in candidates if path is not None), None)
        cases.append(CaseFiles(name, paths, label))
    channels = max(len(case.images) for case in cases)
    names = tuple(f"channel {index}" for index in range(channels)) if channels > 1 else ("image",)
    inside = [label_folder for label_folder in label_folders if label_folder.parent in (folder, image_folder)]
    beside = [path for path in _label_files(image_folder) if path not in files]
    return Dataset(folder, tuple(cases), names, {}, False, warnings=tuple(_unmatched_labels(inside, cases, beside)))


def _folders_named(folder: Path, names: Sequence[str]) -> list[Path]:
    """Folders in ``folder`` with one of ``names``, in any case of letters, in the order of the names."""
    lower = [name.lower() for name in names]
    try:
        found = [path for path in folder.iterdir() if path.is_dir() and path.name.lower() in lower]
    except PermissionError:  # a parent that may be entered and not listed, as on many clusters
        found = [folder / name for name in names if (folder / name).is_dir()]
    return sorted(found, key=lambda path: lower.index(path.name.lower()))


def _add_channel(channels: dict[int, Path], channel: int, path: Path) -> None:
    """:raises InputError: the case has that channel already."""
    if channel in channels:
        raise InputError(f"{channels[channel]} and {path.name} are the same channel of one case.", "Keep one.")
    channels[channel] = path


def _group_channels(files: list[Path]) -> dict[str, tuple[Path, ...]]:
    """Group ``_0000``, ``_0001`` ... of a case, unless that ending can only be a case number."""
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in files:
        match = CHANNEL.match(stem_of(path))
        if not match:
            break
        _add_channel(groups[match.group(1)], int(match.group(2)), path)
    else:
        if len(groups) > 1 and all(min(channels) == 0 for channels in groups.values()):
            for name, channels in groups.items():
                if sorted(channels) != list(range(len(channels))):
                    there = ", ".join(f"{channel:04d}" for channel in sorted(channels))
                    raise InputError(
                        f"{name} has the channels {there}; one is missing between them.", "Add it, or renumber them."
                    )
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
