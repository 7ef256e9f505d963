"""Cases as an nnU-Net data set, version 2.

``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz`` and ``dataset.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..jobs.writing import explain_unwritable, write_bytes
from ..volumes.case import Case
from ..volumes.files import write_volume


def write_dataset(
    folder: Path,
    cases: Iterable[Case],
    description: str,
    whole_numbers: str | Sequence[str],
    with_labels_alone: bool = False,
    channel_names: Sequence[str] | None = None,
) -> list[Path]:
    """Write cases one by one, so that memory does not grow with their number.

    :param folder: claimed by :func:`GEDGANLib.jobs.writing.claim_empty_folder`.
    :param whole_numbers: intensities as whole numbers of this type (``uint8``, ``int16`` ...), or a larger one where it
        is too small; as 32-bit floats when it is "". One for all channels, or one a channel. Cases that have types of
        their own keep these.
    :param with_labels_alone: cases without a segmentation are left out, as nnU-Net takes none.
    :param channel_names: of the data set; those of the last case when not given.
    :returns: the image files, one a case (the first channel).
    :raises InputError: the disk is full.
    """
    writer = DatasetWriter(folder, description, whole_numbers, channel_names)
    try:
        for case in cases:
            if case.labels is not None or not with_labels_alone:
                writer.add(case)
    finally:
        # Also when somebody interrupts: what is there so far is then a whole data set.
        writer.close()
    return writer.written


class DatasetWriter:
    """A data set that grows case by case, for who has something else to do between two of them.

    Parameters as for :func:`write_dataset`.
    """

    def __init__(
        self,
        folder: Path,
        description: str,
        whole_numbers: str | Sequence[str],
        channel_names: Sequence[str] | None = None,
    ) -> None:
        self.folder, self.description = folder, description
        self.whole_numbers, self.channel_names = whole_numbers, channel_names
        self.written: list[Path] = []
        self._provenance: dict[str, dict] = {}
        self._last: Case | None = None

    def add(self, case: Case) -> None:
        """Write all files of a case, or none of them.

        :raises InputError: the disk is full.
        """
        try:
            for part in ("imagesTr", "labelsTr"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            self.written.append(write_case(self.folder, case, self.whole_numbers))
        except OSError as error:
            raise explain_unwritable(self.folder, error) from error
        self._provenance[case.name] = case.provenance
        self._last = case

    def close(self) -> None:
        """Describe what was written, which makes a data set of it; nothing where nothing was.

        :raises InputError: the disk is full.
        """
        if self._last is None:
            return
        try:
            labels = {label.name: label.index for label in self._last.label_table}
            names, count = self.channel_names or self._last.channel_names, len(self.written)
            describe(self.folder, labels, names, count, self.description, self._provenance)
        except OSError as error:
            raise explain_unwritable(self.folder, error) from error


def write_case(folder: Path, case: Case, whole_numbers: str | Sequence[str]) -> Path:
    """Write all files of a case, or none of them; returns the first channel's.

    :param folder: has ``imagesTr`` and ``labelsTr``.
    :raises OSError: the disk is full.
    """
    paths = [folder / "imagesTr" / f"{case.name}_{index:04d}.nii.gz" for index in range(len(case.image))]
    arrays = channels_to_write(case, whole_numbers, bool(case.provenance))
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


def describe(
    folder: Path,
    labels: dict[str, int],
    channel_names: Sequence[str],
    count: int,
    description: str,
    provenance: dict[str, dict],
) -> None:
    """Write what makes a data set of files: ``dataset.json`` and, of cases that came from somewhere,
    ``provenance.json``.

    :param labels: name and number of each.
    :param count: of the cases.
    :param provenance: of each, by its name.
    """
    if not any((folder / "labelsTr").iterdir()):
        (folder / "labelsTr").rmdir()
    dataset = {
        "channel_names": {str(index): name for index, name in enumerate(channel_names)},
        "labels": {"background": 0, **labels},
        "numTraining": count,
        "file_ending": ".nii.gz",
        "description": description,
    }
    if any(provenance.values()):
        write_bytes(folder / "provenance.json", json.dumps(provenance, indent=1).encode("utf-8"))
    # Last: it is what makes a data set of them.
    write_bytes(folder / "dataset.json", json.dumps(dataset, indent=1).encode("utf-8"))


LARGER_WHOLE_NUMBERS = ("int16", "uint16", "int32")
WRITTEN = ("uint8", "int8", *LARGER_WHOLE_NUMBERS, "uint32")
"""Types of whole numbers that all formats and their readers have."""


def channels_to_write(case: Case, whole_numbers: str | Sequence[str], rounded: bool = True) -> list[np.ndarray]:
    """The channels of a case, each in its own type or in that which is wanted; see :func:`voxels_to_write`."""
    wanted = [whole_numbers] * len(case.image) if isinstance(whole_numbers, str) else whole_numbers
    return [
        voxels_to_write(channel, case.kind_of(index) or wanted[index], rounded)
        for index, channel in enumerate(case.image)
    ]


def voxels_to_write(channel: np.ndarray, whole_numbers: str, rounded: bool = True) -> np.ndarray:
    """The channel in the type that is wanted, or the first larger one that holds it.

    :param whole_numbers: as for :func:`write_dataset`; another type than :data:`WRITTEN` is written as 32-bit floats.
    :param rounded: fractions may be rounded; else a channel that has some keeps them.
    """
    if whole_numbers not in WRITTEN:
        return channel.astype(np.float32)
    # Real scans beside synthesized ones may have fractions: those are never rounded away.
    synthesized_or_whole = rounded or np.abs(channel - np.round(channel)).max() < 1e-6
    for kind in (whole_numbers, *LARGER_WHOLE_NUMBERS) if synthesized_or_whole else ():
        limits = np.iinfo(kind)
        if limits.min <= channel.min() and channel.max() <= limits.max:
            return np.round(channel).astype(kind)
    return channel.astype(np.float32)
