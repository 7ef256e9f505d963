"""Data sets that say what they are: a ``dataset.json`` as nnU-Net, the Medical Decathlon and MONAI have it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import stem_of
from .found import CaseFiles, Dataset, add_channel, image_files, label_files, unmatched_labels
from .left_out import words_of_left_out
from .naming import CHANNEL, pair_labels
from .volume import in_one_line

FORM = "It needs channel_names or modality, and labels, as nnU-Net or the Medical Decathlon write them."


def find_described(folder: Path) -> Dataset:
    """nnU-Net v2 (``channel_names``, labels name -> value; also its ``dataset``) and Medical Decathlon (``modality``,
    value -> name; also MONAI's lists of pairs)."""
    path = folder / "dataset.json"
    described = _read(path)
    channel_names, label_names = _channel_names(path, described), _label_names(path, described.get("labels") or {})
    listed = _listed(path, described)
    image_folder, label_folder = folder / "imagesTr", folder / "labelsTr"
    if image_folder.is_dir():
        cases, warnings = _of_folders(image_folder, label_folder, described, channel_names, listed)
    elif listed:
        cases, warnings = _of_list(path, channel_names, listed)
    else:
        raise InputError(f"{folder} has a dataset.json but no folder imagesTr.", "Put the training images there.")
    told = described.get("numTraining")
    if isinstance(told, int) and told != len(cases):
        warnings.append(f"{path} says that there are {told} cases (numTraining), and {len(cases)} are found.")
    if label_names and not any(case.label for case in cases):
        warnings.append(f"{path} names labels, and no case has a segmentation.")
    description = in_one_line(described.get("description") or "")
    return Dataset(folder, tuple(cases), channel_names, label_names, bool(label_names), description, tuple(warnings))


def _read(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not written in UTF-8.", "Save it as UTF-8 text.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not a data set description this program can read: something is wrong in line {error.lineno}, "
            f"at character {error.colno}.",
            "Correct it there; a comma or a quotation mark is missing, or one is too many.",
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if not isinstance(described, dict):
        raise InputError(f"{path} does not describe a data set.", FORM)
    return described


def _channel_names(path: Path, described: dict[str, Any]) -> tuple[str, ...]:
    channels = described.get("channel_names", described.get("modality", {"0": "image"}))
    if isinstance(channels, list):
        return tuple(map(in_one_line, channels))
    if isinstance(channels, str):
        return (in_one_line(channels),)
    if isinstance(channels, dict) and all(str(key).isdecimal() for key in channels):
        return tuple(in_one_line(channels[key]) for key in sorted(channels, key=int))
    raise InputError(f"{path} does not say what its channels are.", FORM)


def _whole(value: Any) -> int | None:
    """A value of a label, however it is written: 1, 1.0, "1"; None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() and number >= 0 and not isinstance(value, bool) else None


def _label_names(path: Path, described: Any) -> dict[int, str]:
    """Value -> name. Of nnU-Net's regions, which overlap, a value gets the name of its smallest."""
    if isinstance(described, list):
        described = {str(name): value for value, name in enumerate(described)}
    names: dict[int, str] = {}
    regions: dict[int, tuple[int, str]] = {}
    for key, value in described.items() if isinstance(described, dict) else [(None, None)]:
        parts = [_whole(part) for part in value] if isinstance(value, list) else [_whole(value)]
        if None not in parts:  # nnU-Net: name -> value, or values
            for part in parts:
                if isinstance(value, list):
                    regions[part] = min(regions.get(part, (len(parts), key)), (len(parts), key))
                else:
                    names[part] = str(key)
        elif _whole(key) is not None and isinstance(value, str):  # Medical Decathlon: value -> name
            names[_whole(key)] = value
        else:
            raise InputError(f"{path} names labels in a way that says no value for {key}: {value}.", FORM)
    taken: dict[str, int] = {}
    for value, (_, name) in sorted(regions.items()):
        if value not in names:
            # Values that no region tells apart share its name; a number keeps them apart.
            taken[name] = taken.get(name, 0) + 1
            names[value] = name if taken[name] == 1 else f"{name} (value {value})"
    return {value: in_one_line(name) for value, name in names.items() if value != 0}


def _listed(path: Path, described: dict[str, Any]) -> dict[str, tuple[list[Path], Path | None]]:
    """Cases that are listed, by name: files of images and of the segmentation, there or not."""
    entries: dict[str, Any] = {}
    if isinstance(described.get("dataset"), dict):  # nnU-Net v2
        entries = {str(name): entry for name, entry in described["dataset"].items() if isinstance(entry, dict)}
    elif isinstance(described.get("training"), list):
        for entry in described["training"]:
            if isinstance(entry, dict) and "image" in entry:
                images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
                if images:
                    entries[str(images[0])] = entry
    found = {}
    for name, entry in entries.items():
        images = entry.get("images", entry.get("image", []))
        images = [path.parent / str(image) for image in (images if isinstance(images, list) else [images])]
        label = entry.get("label")
        label = label[0] if isinstance(label, list) and len(label) == 1 else label
        if images:
            found[name] = images, path.parent / label if isinstance(label, str) else None
    return found


def _of_folders(
    image_folder: Path,
    label_folder: Path,
    described: dict[str, Any],
    channel_names: tuple[str, ...],
    listed: dict[str, tuple[list[Path], Path | None]],
) -> tuple[list[CaseFiles], list[str]]:
    """Cases of ``imagesTr`` and ``labelsTr``, by their names; by the list where that pairs what names do not."""
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    # Where a segmentation has the very name of an image, endings like _0003 are the numbers of cases.
    stems = {stem_of(path) for path in label_files(label_folder)}
    all_files = image_files(image_folder, stems or {""})
    numbered = "channel_names" not in described and any(stem_of(path) in stems for path in all_files)
    listed_label = {image.name: label for images, label in listed.values() for image in images}
    if "channel_names" not in described and any(path.name in listed_label for path in all_files):
        # The list has single files, or one of each case's channels.
        there = {stem_of(path) for path in all_files}
        numbered = not any(
            (match := CHANNEL.match(stem_of(path))) and f"{match.group(1)}_0001" in there and path.name in listed_label
            for path in all_files
        )
    for path in all_files:
        stem = stem_of(path)
        match = None if numbered else CHANNEL.match(stem)
        name, channel = (match.group(1), int(match.group(2))) if match else (stem, 0)
        add_channel(groups[name], channel, path)
    cases, told = [], {}
    for name, files in groups.items():
        _check_channels(image_folder, name, files, channel_names)
        label = listed_label.get(files[min(files)].name)
        if label is not None and label.exists():
            told[name] = label
    labels, unclear = pair_labels(sorted(groups), label_files(label_folder), told)
    for name, files in sorted(groups.items()):
        cases.append(CaseFiles(name, tuple(files[key] for key in sorted(files)), labels.get(name)))
    if not cases:
        raise InputError(f"{image_folder} holds no image that can be read.", "Put the training images there.")
    there = {path.name for files in groups.values() for path in files.values()}
    missing = [
        images[0]
        for images, _ in listed.values()
        if images[0].name not in there and stem_of(images[0]) not in groups and not images[0].exists()
    ]
    warnings = unclear + unmatched_labels([label_folder], cases)
    if missing:
        warnings.append(f"{len(missing)} image(s) that dataset.json lists are not there, {missing[0]} for example.")
    used = [path for case in cases for path in case.paths]
    places = [image_folder, label_folder] if label_folder.is_dir() else [image_folder]
    return cases, warnings + words_of_left_out(places, used, label_files(label_folder))


def _check_channels(folder: Path, name: str, files: dict[int, Path], channel_names: tuple[str, ...]) -> None:
    """:raises InputError: a case has other channels than ``dataset.json`` names."""
    wrong_channels = len(files) > 1 and sorted(files) != list(range(len(channel_names)))
    if len(files) in (1, len(channel_names)) and not wrong_channels:
        return
    there = ", ".join(f"{channel:04d}" for channel in sorted(files))
    raise InputError(
        f"{folder} has {len(files)} channels of {name} ({there}), but dataset.json names {len(channel_names)}.",
        f"Every case needs {name}_0000 to {name}_{len(channel_names) - 1:04d}; add the missing files or leave the case "
        "out.",
    )


def _of_list(
    path: Path, channel_names: tuple[str, ...], listed: dict[str, tuple[list[Path], Path | None]]
) -> tuple[list[CaseFiles], list[str]]:
    """Cases that are listed alone, wherever they lie."""
    there = {name: pair for name, pair in listed.items() if all(image.exists() for image in pair[0])}
    missing = [name for name in listed if name not in there]
    if not there:
        raise InputError(
            f"None of the {len(listed)} images that {path} lists is there, {listed[missing[0]][0][0]} for example.",
            "Put them where it says, or correct it.",
        )
    stems = [stem_of(images[0]) for images, _ in there.values()]
    cases, warnings = [], []
    for (name, (images, label)), stem in zip(there.items(), stems):
        given = stem if name in (str(images[0]), images[0].name) or "/" in name or "\\" in name else name
        if stems.count(stem) > 1 and given == stem:  # a folder a patient, and the same name in each
            given = f"{images[0].parent.name}_{stem}"
        lost = label is not None and not label.exists()
        if lost:
            warnings.append(f"The segmentation {label} that {path} lists is not there.")
        cases.append(CaseFiles(given, tuple(images), None if lost else label))
    if missing:
        warnings.append(f"{len(missing)} image(s) that dataset.json lists are not there, {missing[0]} for example.")
    if len({case.name for case in cases}) < len(cases):
        cases = [CaseFiles(f"{case.name}_{number}", case.images, case.label) for number, case in enumerate(cases)]
    return sorted(cases, key=lambda case: case.name), warnings
