"""Folders of DICOM series, with or without segmentations beside them, as a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Sequence
from pathlib import Path

from ..errors import InputError
from .dicom import Series, dicom_series, other_files
from .found import IMAGE_FOLDERS, LABEL_FOLDERS, CaseFiles, Dataset, folders_named, label_of, unmatched_labels


def find_dicom(folder: Path) -> Dataset | None:
    label_folders = folders_named(folder, LABEL_FOLDERS)
    image_folder = next(iter(folders_named(folder, IMAGE_FOLDERS)), folder)
    found: dict[str, Path] = {}
    others = []
    for directory in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())]):
        if any(part in label_folders for part in (directory, *directory.parents)):
            continue
        if not any(path.is_file() for path in directory.iterdir()):
            continue
        series = dicom_series(directory)
        scans = [one for one in series if not one.other]
        others += [one for one in (*series, *other_files(directory, series)) if one.other]
        if len(scans) > 1:
            raise InputError(
                f"{directory} holds {len(scans)} DICOM series in one folder.", "Give every series a folder of its own."
            )
        if scans:
            inside = image_folder if image_folder in (directory, *directory.parents) else folder
            name = "_".join(directory.relative_to(inside).parts) or folder.name
            found[_not_taken(name, found)] = directory
    if not found:
        return None
    cases = [
        CaseFiles(name, (directory,), _label_of_patient(label_folders, name, directory, found.values()))
        for name, directory in found.items()
    ]
    warnings = [*_words_of_others(others), *unmatched_labels(label_folders, cases)]
    return Dataset(folder, tuple(cases), ("image",), {}, False, warnings=tuple(warnings))


def _not_taken(name: str, taken: Container[str]) -> str:
    """The name, with a number where a folder a/b_c comes after a_b/c."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _label_of_patient(
    label_folders: Sequence[Path], name: str, directory: Path, scans: Collection[Path]
) -> Path | None:
    """The segmentation of a DICOM scan, by its name or, where a folder above it holds no other scan, by that one's."""
    names = [name]
    for above in directory.parents:
        if sum(above in scan.parents for scan in scans) > 1:
            break
        names.append(above.name)
    candidates = (label_of(label_folder, each) for label_folder in label_folders for each in names)
    return next((path for path in candidates if path is not None), None)


def _words_of_others(others: Sequence[Series]) -> list[str]:
    """A sentence for each kind of series that is no scan."""
    kinds: dict[str, list[Series]] = defaultdict(list)
    for one in others:
        kinds[one.other].append(one)
    return [
        f"{len(found)} DICOM series of the kind {words} are left out, {found[0].files[0]} for example."
        for words, found in sorted(kinds.items())
    ]
