"""Folders of DICOM series, with or without segmentations beside them, as a data set."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from pathlib import Path

from ..errors import InputError
from .dicom import NO_SCANS, Series, dicom_series, other_files
from .dicom_segmentations import RTSTRUCT, SEG, Reference, owners_of, reference_of
from .files import suffix_of
from .found import LABEL_FOLDERS, CaseFiles, Dataset, folders_named, label_files, unmatched_labels
from .naming import pair_labels

MAGIC = 128, b"DICM"
"""Where it is written in a file that it is DICOM."""


def holds_dicom(folder: Path, most: int = 5) -> bool:
    """Whether files in a folder, or below it, say that they are DICOM; of each folder a few are looked at."""
    for directory in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        unknown = [path for path in sorted(directory.iterdir()) if path.is_file() and not suffix_of(path)]
        for path in unknown[:most]:
            with open(path, "rb") as file:
                file.seek(MAGIC[0])
                if file.read(len(MAGIC[1])) == MAGIC[1]:
                    return True
    return False


def find_dicom(folder: Path) -> Dataset | None:
    """The data set of a tree of DICOM series; None where there is none.

    Segmentations are those in a folder called labels, by their names; or else SEG and RTSTRUCT files that name a scan.

    :raises InputError: a folder holds more than one scan, or what is there is no scan.
    """
    label_folders = folders_named(folder, LABEL_FOLDERS)
    found: dict[str, Path] = {}
    series_of: dict[str, tuple[str, str]] = {}
    others: list[Series] = []
    beside: list[Path] = []
    for directory in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())]):
        if any(part in label_folders for part in (directory, *directory.parents)):
            continue
        if not any(path.is_file() for path in directory.iterdir()):
            continue
        beside += label_files(directory)
        series = dicom_series(directory)
        scans = [one for one in series if not one.other]
        others += [one for one in (*series, *other_files(directory, series)) if one.other]
        if len(scans) > 1:
            raise InputError(
                f"{directory} holds {len(scans)} DICOM series in one folder.", "Give every series a folder of its own."
            )
        if scans:
            name = _not_taken("_".join(directory.relative_to(folder).parts) or folder.name, found)
            found[name], series_of[name] = directory, (scans[0].uid, scans[0].files[0])
    if not found:
        if others:
            raise InputError(
                " ".join([f"{folder} holds no DICOM scan.", *_words_of_others(others)]),
                "Give the folder of the scans. Where each slice has a series number of its own, export them anew, each "
                "scan as one series.",
            )
        return None
    in_folders = [path for label_folder in label_folders for path in label_files(label_folder)]
    labels, unclear = _labels_of(found, in_folders)
    drawn = owners_of(_segmentations(others, label_folders), series_of)
    chosen = {name: of_one[0].path for name, of_one in drawn.items() if name not in labels}
    used = {str(path) for path in chosen.values()}
    cases = [CaseFiles(name, (directory,), labels.get(name) or chosen.get(name)) for name, directory in found.items()]
    others = [one._replace(files=left) for one in others if (left := tuple(f for f in one.files if f not in used))]
    warnings = [*_words_of_others(others), *unclear, *_words_of_choice(drawn, chosen)]
    warnings += unmatched_labels(label_folders, cases)
    if beside:
        warnings.append(
            f"{len(beside)} file(s) beside DICOM series are left out, {beside[0]} for example. Segmentations belong in "
            "a folder called labels, under the names of the patients."
        )
    return Dataset(folder, tuple(cases), ("image",), {}, False, warnings=tuple(warnings))


def _segmentations(others: Sequence[Series], label_folders: Sequence[Path]) -> list[Reference]:
    """Files that segment a scan, among what is no scan and below folders of segmentations."""
    drawn = {NO_SCANS[SEG], NO_SCANS[RTSTRUCT]}
    files = [Path(file) for one in others if one.other in drawn for file in one.files]
    below = [path for folder in label_folders for path in sorted(folder.rglob("*")) if path.is_file()]
    files += [path for path in below if not suffix_of(path)]
    return [one for one in map(reference_of, files) if one is not None]


def _words_of_choice(drawn: dict[str, list[Reference]], chosen: dict[str, Path]) -> list[str]:
    several = [name for name in chosen if len(drawn[name]) > 1]
    if not several:
        return []
    one = several[0]
    return [
        f"{len(several)} scan(s) have more than one segmentation: of the {len(drawn[one])} of {one} {chosen[one]} is "
        "used (SEG before RTSTRUCT, the latest first). To use another, leave that alone in the folder."
    ]


def _labels_of(found: dict[str, Path], candidates: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """Segmentations of scans by their names or, where a folder above one holds no other scan, by that folder's."""
    if not candidates:
        return {}, []
    labels, unclear = pair_labels(list(found), candidates)
    below = Counter(above for directory in found.values() for above in directory.parents)
    free = [path for path in candidates if path not in set(labels.values())]
    owners: dict[str, set[str]] = defaultdict(set)
    for name, directory in found.items():
        for above in (directory, *directory.parents):
            if name in labels or below[above] > 1:
                break
            owners[above.name].add(name)
    own = {alias: next(iter(names)) for alias, names in owners.items() if len(names) == 1}
    matched, _ = pair_labels(list(own), free)
    for alias, name in own.items():  # the nearest folder first
        if alias in matched:
            labels.setdefault(name, matched[alias])
    return labels, unclear


def _not_taken(name: str, taken: Container[str]) -> str:
    """The name, with a number where a folder a/b_c comes after a_b/c."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _words_of_others(others: Sequence[Series]) -> list[str]:
    """A sentence for each kind of series that is no scan."""
    kinds: dict[str, list[Series]] = defaultdict(list)
    for one in others:
        kinds[one.other].append(one)
    return [
        f"{len(found)} DICOM series of the kind {words} are left out, {found[0].files[0]} for example."
        for words, found in sorted(kinds.items())
    ]
