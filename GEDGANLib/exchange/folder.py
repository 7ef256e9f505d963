"""Cases as plain files: ``images/CASE.ENDING`` and ``labels/CASE.ENDING``, with their origin beside them.

Segmentations in NRRD are Slicer's ``.seg.nrrd``, which keep names and colours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..jobs.writing import explain_unwritable, write_bytes
from ..volumes.case import Case
from ..volumes.files import write_volume
from ..volumes.segmentation_file import write_segmentation
from .nnunet import channels_to_write


def write_folder(
    folder: Path, cases: Iterable[Case], description: str, whole_numbers: str | Sequence[str], ending: str
) -> list[Path]:
    """Write cases one by one and return the image files, one a channel.

    :param folder: claimed by :func:`GEDGANLib.jobs.writing.claim_empty_folder`.
    :param whole_numbers: as for :func:`GEDGANLib.exchange.nnunet.write_dataset`.
    :param ending: ``.nii.gz`` or ``.nrrd``.
    :raises InputError: the disk is full.
    """
    written: list[Path] = []
    origins: dict[str, dict] = {}
    label_names: dict[str, int] = {}
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        try:
            for case in cases:
                written += write_case(folder, case, whole_numbers, ending)
                label_names = {label.name: label.index for label in case.label_table}
                if case.provenance:
                    origins[case.name] = case.provenance
        finally:
            # Also when somebody interrupts: no synthesized case may lie there without its origin.
            if written:
                describe(folder, label_names, description, origins)
    except OSError as error:
        raise explain_unwritable(folder, error) from error
    return written


def describe(folder: Path, labels: dict[str, int], description: str, origins: dict[str, dict]) -> None:
    """Write where the cases came from, ``provenance.json``.

    :param labels: name and number of each.
    :param origins: of each case that came from somewhere, by its name.
    """
    about = {"description": description, "labels": labels, "cases": origins}
    write_bytes(folder / "provenance.json", json.dumps(about, indent=1).encode("utf-8"))


def write_case(folder: Path, case: Case, whole_numbers: str | Sequence[str], ending: str) -> list[Path]:
    """Write all files of a case, or none of them; returns those of its image.

    :param folder: has ``images``.
    :raises OSError: the disk is full.
    """
    many = len(case.image) > 1
    paths = [
        folder / "images" / f"{case.name}{f'_{index:04d}' if many else ''}{ending}" for index in range(len(case.image))
    ]
    try:
        for path, voxels in zip(paths, channels_to_write(case, whole_numbers)):
            write_volume(path, voxels, case.affine, case.description)
        if case.labels is not None:
            (folder / "labels").mkdir(exist_ok=True)
            write_segmentation(folder / "labels", case, ending)
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return paths
