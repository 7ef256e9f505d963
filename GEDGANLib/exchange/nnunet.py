"""Cases as an nnU-Net data set, version 2.

``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz`` and ``dataset.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..volumes.case import Case
from ..volumes.files import explain_unwritable, write_volume


def claim_output_folder(folder: Path) -> None:
    """Make sure that a data set may be written to ``folder``; creates it.

    :raises InputError: it is a file, holds something already, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", "Give the name of a new folder.")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder} already holds files.", "Give a new folder, so that nothing of yours is overwritten."
            )
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".partial-{os.getpid()}"
        probe.write_bytes(b"\0" * 100_000)
        probe.unlink()
    except OSError as error:
        raise InputError(*explain_unwritable(folder, error)) from error


def write_dataset(folder: Path, cases: Iterable[Case], description: str, integer: bool) -> list[Path]:
    """Write cases one by one, so that memory does not grow with their number.

    :param folder: claimed by :func:`claim_output_folder`.
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
        for case in cases:
            for index, channel in enumerate(case.image):
                path = folder / "imagesTr" / f"{case.name}_{index:04d}.nii.gz"
                write_volume(path, _voxels(channel, integer), case.affine, case.description)
                if index == 0:
                    written.append(path)
            if case.labels is not None:
                path = folder / "labelsTr" / f"{case.name}.nii.gz"
                write_volume(path, case.labels.astype(np.uint8), case.affine, case.description)
            provenance[case.name] = case.provenance
        if case is None:
            return []
        if case.labels is None:
            (folder / "labelsTr").rmdir()
        dataset = {
            "channel_names": {str(index): name for index, name in enumerate(case.channel_names)},
            "labels": {"background": 0, **{label.name: label.index for label in case.label_table}},
            "numTraining": len(written),
            "file_ending": ".nii.gz",
            "description": description,
        }
        (folder / "dataset.json").write_text(json.dumps(dataset, indent=1) + "\n", encoding="utf-8")
        if any(provenance.values()):
            (folder / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
        return written
    except OSError as error:
        raise InputError(*explain_unwritable(folder, error)) from error


def _voxels(channel: np.ndarray, integer: bool) -> np.ndarray:
    if integer and channel.min() >= -32768 and channel.max() <= 32767:
        return np.round(channel).astype(np.int16)
    return channel.astype(np.float32)
