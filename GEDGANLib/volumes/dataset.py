"""A folder of the user's -> cases: which files belong together, what channels and labels mean.

Accepted are nnU-Net and Medical Decathlon folders (``dataset.json``, ``imagesTr``, ``labelsTr``), plain folders of
images with or without labels, a folder a patient, and folders of DICOM series. Nothing is decided silently: what cannot
be right ends in an :class:`~GEDGANLib.errors.InputError` that names the file and what to do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from .classes import read_classes
from .described import find_described
from .dicom_sets import find_dicom
from .files import stem_of
from .found import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    CaseFiles,
    Dataset,
    add_channel,
    folders_named,
    image_files,
    label_files,
    unmatched_labels,
)  # fmt: skip
from .left_out import words_of_left_out
from .naming import CHANNEL, MOST_CHANNELS, SEQUENCE_WORDS, pair_labels
from .patients import find_patients

__all__ = ["CaseFiles", "Dataset", "as_planned", "find_dataset", "with_structures"]


def with_structures(dataset: Dataset, names: Sequence[str] | None, one: str | None) -> Dataset:
    """A data set of which structures of these names are wanted, or whose segmentations are pieces of one; nothing is
    changed by what is not given."""
    if one:
        dataset = replace(dataset, one_label=one)
    return replace(dataset, wanted_labels=frozenset(names)) if names else dataset


def as_planned(dataset: Dataset, plan) -> Dataset:
    """A data set as a plan was made of one: its files hold as many channels, where they were said to be channels, and
    structures are background of which the plan wants none, or pieces of one, where they were said to be.

    :param plan: a :class:`GEDGANLib.planning.plan.Plan`.
    """
    one_file = len(dataset.channel_names) == 1 and all(len(case.images) == 1 for case in dataset.cases)
    if len(plan.channels) > 1 and one_file:
        dataset = replace(dataset, channel_names=tuple(channel.name for channel in plan.channels))
    return with_structures(dataset, plan.data.get("structures"), plan.data.get("one_structure"))


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
            dataset = find_described(folder)
        else:
            dataset = _find_plain(folder) or find_patients(folder) or find_dicom(folder)
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
    below = [path for part in sorted(folder.iterdir()) if part.is_dir() for path in image_files(part)]
    if below:
        raise InputError(
            f"{folder} itself holds no image; the first one below it is {below[0]}.",
            f"Give that folder ({below[0].parent}), or, if every patient has a folder, put the images of all of them "
            f"into {folder / 'images'} and the segmentations, under the same names, into {folder / 'labels'}.",
        )
    places = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    raise InputError(
        " ".join([f"{folder} holds no image that can be read.", *words_of_left_out(places, (), places)]),
        "Put NIfTI, NRRD or MetaImage files, DICOM folders, or a data set with dataset.json in it.",
    )


def _find_plain(folder: Path) -> Dataset | None:
    image_folder = next(iter(folders_named(folder, IMAGE_FOLDERS)), folder)
    places = (folder, image_folder) if image_folder != folder else (folder, folder.resolve().parent)
    label_folders = [label_folder for place in places for label_folder in folders_named(place, LABEL_FOLDERS)]
    in_folders = [path for label_folder in label_folders for path in label_files(label_folder)]
    files = image_files(image_folder, {stem_of(path) for path in in_folders})
    if not files:
        return None
    groups, channel_words = _group_channels(files)
    beside = [path for path in label_files(image_folder) if path not in set(files)]
    labels, unclear = pair_labels(sorted(groups), [*in_folders, *beside])
    cases = [CaseFiles(name, paths, labels.get(name)) for name, paths in sorted(groups.items())]
    channels = max(len(case.images) for case in cases)
    names = tuple(f"channel {index}" for index in range(channels)) if channels > 1 else ("image",)
    names = channel_words or names
    inside = [label_folder for label_folder in label_folders if label_folder.parent in (folder, image_folder)]
    warnings = unclear + unmatched_labels(inside, cases, beside)
    looked_at = [path for case in cases for path in case.paths] + beside
    places = dict.fromkeys([folder, image_folder, *inside])
    warnings += words_of_left_out(places, looked_at, [image_folder, *label_folders])
    return Dataset(folder, tuple(cases), names, {}, False, warnings=tuple(warnings))


def _group_channels(files: list[Path]) -> tuple[dict[str, tuple[Path, ...]], tuple[str, ...]]:
    """Files of each case, and names of channels where files are named by them.

    :raises InputError: a case lacks a channel that others have, or one file is named as no channel.
    """
    numbered = {path: match for path in files if (match := CHANNEL.match(stem_of(path)))}
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for path, match in numbered.items():
        _add_numbered(groups, path, match, len(numbered) == len(files))
    begin = sum(0 in channels for channels in groups.values())
    few = all(max(channels) < MOST_CHANNELS for channels in groups.values())
    several = 2 * sum(len(found) > 1 for found in groups.values()) > len(groups)
    all_begin = begin == len(groups) and len(numbered) == len(files)
    if len(groups) > 1 and few and (all_begin or (several and 2 * begin > len(groups))):
        if odd := [path for path in files if path not in numbered]:
            raise InputError(
                f"{odd[0]} is named as no channel, while {len(numbered)} others end in _0000, _0001 and so on.",
                "Name it like the others, or leave it out.",
            )
        for name, channels in groups.items():
            if sorted(channels) != list(range(len(channels))):
                there = ", ".join(f"{channel:04d}" for channel in sorted(channels))
                raise InputError(
                    f"{name} has the channels {there}; one is missing between or before them.",
                    "Add it, or renumber them.",
                )
        return {name: tuple(paths[key] for key in sorted(paths)) for name, paths in groups.items()}, ()
    if found := _channels_by_words(files):
        return found
    by_stem: dict[str, tuple[Path, ...]] = {}
    for path in files:
        if stem_of(path) in by_stem:
            raise InputError(
                f"{by_stem[stem_of(path)][0].name} and {path.name} have the same name apart from their ending.",
                f"Keep one of them in {path.parent}.",
            )
        by_stem[stem_of(path)] = (path,)
    return by_stem, ()


def _add_numbered(groups: dict[str, dict[int, Path]], path: Path, match, strictly: bool) -> None:
    """:raises InputError: where all files are numbered, the case has that channel already."""
    channels = groups[match.group(1)]
    if strictly or int(match.group(2)) not in channels:
        add_channel(channels, int(match.group(2)), path)


def _channels_by_words(files: list[Path]) -> tuple[dict[str, tuple[Path, ...]], tuple[str, ...]] | None:
    """Files ``p1_t1``, ``p1_flair``, ``p2_t1`` ... as channels; None where they are not named so.

    :raises InputError: a case lacks one.
    """
    groups: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in files:
        match = re.fullmatch(r"(.+)[_-]([^_-]+)", stem_of(path))
        name, word = match.groups() if match else ("", "")
        if not name or word.lower() not in SEQUENCE_WORDS or word.lower() in groups[name]:
            return None
        groups[name][word.lower()] = path
    if len(groups) < 2 or all(len(found) == 1 for found in groups.values()):
        return None
    words = tuple(dict.fromkeys(word for found in groups.values() for word in found))
    for name, found in groups.items():
        if missing := [word for word in words if word not in found]:
            raise InputError(
                f"{name} has no {' and no '.join(missing)}, which other cases have; their files are taken as channels "
                f"of one scan ({', '.join(words)}).",
                "Complete the case or leave it out; images that are no channels of one scan belong in folders of their "
                "own.",
            )
    return {name: tuple(found[word] for word in words) for name, found in groups.items()}, words
