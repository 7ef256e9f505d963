"""Cases as an nnU-Net data set, version 2.

``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz`` and ``dataset.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..volumes.case import Case
from ..volumes.files import write_volume
from ..volumes.writing import explain_unwritable, write_bytes


def write_dataset(folder: Path, cases: Iterable[Case], description: str, integer: bool) -> list[Path]:
    """Write cases one by one, so that memory does not grow with their number.

    :param folder: claimed by :func:`GEDGANLib.volumes.writing.claim_empty_folder`.
    :param integer: intensities as 16-bit whole numbers, where they fit, else as 32-bit floats.
    :returns: the image files, one a case (the first channel).
    :raises InputError: the disk is full.
    """
    try:
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        written: list[Path] = []
        provenance: dict[str, dict] = {}
        case = None
        try:
            for case in cases:
                written.append(_write_case(folder, case, integer))
                provenance[case.name] = case.provenance
        finally:
            # Also when somebody interrupts: what is there so far is then a whole data set.
            if written:
                _describe(folder, case, len(written), description, provenance)
        return written
    except OSError as error:
        raise explain_unwritable(folder, error) from error


def _write_case(folder: Path, case: Case, integer: bool) -> Path:
    """Write all files of a case, or none of them; returns the first channel's."""
    paths = [folder / "imagesTr" / f"{case.name}_{index:04d}.nii.gz" for index in range(len(case.image))]
    arrays = [_voxels(channel, integer) for channel in case.image]
    if case.labels is not None:
        paths.append(folder / "labelsTr" / f"{case.name}.nii.gz")
        arrays.append(case.labels.astype(np.uint8))
    try:
        for path, array in zip(paths, arrays):
            write_volume(path, array, case.affine, case.description)
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return paths[0]


def _describe(folder: Path, case: Case, count: int, description: str, provenance: dict[str, dict]) -> None:
    if case.labels is None:
        (folder / "labelsTr").rmdir()
    dataset = {
        "channel_names": {str(index): name for index, name in enumerate(case.channel_names)},
        "labels": {"background": 0, **{label.name: label.index for label in case.label_table}},
        "numTraining": count,
        "file_ending": ".nii.gz",
        "description": description,
    }
    write_bytes(folder / "dataset.json", json.dumps(dataset, indent=1).encode("utf-8"))
    if any(provenance.values()):
        write_bytes(folder / "provenance.json", json.dumps(provenance, indent=1).encode("utf-8"))


def _voxels(channel: np.ndarray, integer: bool) -> np.ndarray:
    if integer and channel.min() >= -32768 and channel.max() <= 32767:
        return np.round(channel).astype(np.int16)
    return channel.astype(np.float32)
