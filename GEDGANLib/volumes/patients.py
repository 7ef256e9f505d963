"""A folder a patient: images of the same names are cases, what is called alike in all of them is a channel, and a
folder of masks is a segmentation whose labels have the names of its files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..errors import InputError
from .files import stem_of
from .found import LABEL_FOLDERS, CaseFiles, Dataset, folders_named, image_files, label_files
from .naming import is_named_as_label


def find_patients(folder: Path) -> Dataset | None:
    """The data set of ``folder``, if it holds at least two folders with images; else None.

    :raises InputError: a patient lacks an image that most others have, or has several segmentations.
    """
    images = {
        patient: {_own_part(path, patient): path for path in image_files(patient)}
        for patient in sorted(folder.iterdir())
        if patient.is_dir() and not patient.name.startswith(".")
    }
    images = {patient: found for patient, found in images.items() if found}
    if len(images) < 2:
        return None
    if all(len(found) == 1 for found in images.values()):
        channels: tuple[str, ...] = ()
    else:
        counts = Counter(part for found in images.values() for part in found)
        channels = tuple(sorted(part for part, count in counts.items() if 2 * count > len(images)))
        if not channels:
            return None
    cases, others = [], []
    for patient, found in images.items():
        if missing := [part for part in channels if part not in found]:
            raise InputError(
                f"{patient} has no image {missing[0]}, which most of the other folders have.",
                "Complete it, or leave the folder out.",
            )
        files = tuple(found[part] for part in channels) or tuple(found.values())
        others += [path for part, path in found.items() if channels and part not in channels]
        cases.append(CaseFiles(patient.name, files, _label_of_patient(patient)))
    warnings = (
        [f"{len(others)} image(s) that few folders have are left out, {others[0]} for example."] if others else []
    )
    names = channels if len(channels) > 1 else ("image",)
    return Dataset(folder, tuple(cases), names, {}, False, warnings=tuple(warnings))


def _own_part(path: Path, patient: Path) -> str:
    """What an image is called beside its patient: ``t1`` of ``P01/P01_t1.nii.gz``."""
    return stem_of(path).removeprefix(patient.name).strip("_-. ") or stem_of(path)


def _label_of_patient(patient: Path) -> Path | None:
    """The segmentation of a patient, or the folder of its masks."""
    single = [path for path in label_files(patient) if is_named_as_label(path)]
    if len(single) > 1:
        raise InputError(
            f"{patient} has {len(single)} segmentations, {single[0].name} and {single[1].name} among them.",
            f"Keep one, or, if each is one structure, put them into {patient / 'segmentations'}.",
        )
    if single:
        return single[0]
    for below in folders_named(patient, LABEL_FOLDERS):
        masks = label_files(below)
        if masks:
            return masks[0] if len(masks) == 1 else below
    return None
