"""A folder a patient: images of the same names are cases, what is called alike in all of them is a channel, and a
folder of masks is a segmentation whose labels have the names of its files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..errors import InputError
from .dicom_sets import holds_dicom
from .files import stem_of
from .found import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    CaseFiles,
    Dataset,
    folders_named,
    image_files,
    label_files,
    unmatched_labels,
)  # fmt: skip
from .naming import IMAGE_WORDS, is_named_as_label, pair_labels, words_of


def find_patients(folder: Path) -> Dataset | None:
    """The data set of ``folder``, if it holds at least two folders of one scan each; else None.

    What is called alike in most of them is a channel, if it is called as sequences are. Folders of classes or of parts
    of a data set, of many scans each, are not taken for patients; nor folders that hold DICOM.

    :raises InputError: a patient lacks an image that most others have, or has several segmentations.
    """
    named = folders_named(folder, (*IMAGE_FOLDERS, *LABEL_FOLDERS))
    places = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    places = [path for path in places if path not in named]
    images = {patient: found for patient in places if (found := _images_of(patient))}
    if len(images) < 2 or any(holds_dicom(patient) for patient in places):
        return None
    channels: tuple[str, ...] = ()
    if any(len(found) > 1 for found in images.values()):
        counts = Counter(part for found in images.values() for part in found)
        channels = tuple(sorted(part for part, count in counts.items() if 2 * count > len(images)))
        if not channels or not all(IMAGE_WORDS & set(words_of(part)) for part in channels):
            return None
    others = []
    for patient, found in images.items():
        if missing := [part for part in channels if part not in found]:
            raise InputError(
                f"{patient} has no image {missing[0]}, which most of the other folders have.",
                "Complete it, or leave the folder out.",
            )
        others += [path for part, path in found.items() if channels and part not in channels]
    in_folders = [path for label_folder in named for path in label_files(label_folder)]
    labels, unclear = pair_labels([patient.name for patient in images], in_folders)
    own = _labels_of_patients(list(images))
    cases = []
    for patient, found in images.items():
        files = tuple(found[part] for part in channels) or tuple(found.values())
        cases.append(CaseFiles(patient.name, files, own.get(patient, labels.get(patient.name))))
    warnings = unclear + unmatched_labels(named, cases)
    if others:
        warnings.append(f"{len(others)} image(s) that few folders have are left out, {others[0]} for example.")
    if empty := [path for path in places if path not in images and any(path.iterdir())]:
        warnings.append(f"{len(empty)} folder(s) hold no image themselves and are left out, {empty[0]} for example.")
    channel_names = channels if len(channels) > 1 else ("image",)
    return Dataset(folder, tuple(cases), channel_names, {}, False, warnings=tuple(warnings))


def _images_of(patient: Path) -> dict[str, Path]:
    """Images of a folder by what each is called beside its patient: ``t1`` of ``P01/P01_t1.nii.gz``.

    :raises InputError: two are called the same.
    """
    found: dict[str, Path] = {}
    for path in image_files(patient):
        part = stem_of(path).removeprefix(patient.name).strip("_-. ") or stem_of(path)
        if part in found:
            raise InputError(f"{found[part]} and {path.name} have the same name.", "Keep one of them.")
        found[part] = path
    return found


def _labels_of_patients(patients: list[Path]) -> dict[Path, Path]:
    """The segmentation of each patient, or the folder of its masks: of all of them the folder, where one has several or
    they say by their names what they are.

    :raises InputError: a patient has several beside its images.
    """
    found: dict[Path, Path] = {}
    masks: dict[Path, list[Path]] = {}
    for patient in patients:
        beside = [path for path in label_files(patient) if is_named_as_label(path)]
        if len(beside) > 1:
            raise InputError(
                f"{patient} has {len(beside)} segmentations, {beside[0].name} and {beside[1].name} among them.",
                f"Keep one, or, if each is one structure, put them into {patient / 'segmentations'}.",
            )
        below = [folder for folder in folders_named(patient, LABEL_FOLDERS) if label_files(folder)]
        if beside:
            found[patient] = beside[0]
        elif below:
            masks[patient] = label_files(below[0])
    single = all(len(paths) == 1 and is_named_as_label(paths[0]) for paths in masks.values())
    return found | {patient: paths[0] if single else paths[0].parent for patient, paths in masks.items()}
