"""DICOM: which series of a folder are scans, and the voxels of one, in their place or refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .volume import Volume, from_itk

TOLD_BY = ("Modality", "ImageType", "SOPClassUID", "ImagePositionPatient")
POSITION, ORIENTATION = "0020|0032", "0020|0037"  # image position and orientation (patient)
INTERCEPT, SLOPE = "0028|1052", "0028|1053"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NO_SCANS = {
    "SEG": "segmentation (SEG)",
    "RTSTRUCT": "contours (RTSTRUCT)",
    "RTDOSE": "dose (RTDOSE)",
    "RTPLAN": "radiotherapy plan (RTPLAN)",
    "RTIMAGE": "radiotherapy image (RTIMAGE)",
    "REG": "registration (REG)",
    "SR": "report (SR)",
    "PR": "presentation state (PR)",
    "KO": "selection of images (KO)",
    "DOC": "document (DOC)",
}
"""Modalities (DICOM PS3.3, C.7.3.1.1.1) of what is no scan, in words."""
SAME_DIRECTION, SAME_STEP, SIDEWAYS = 1e-3, 0.05, 0.05
"""Between slices of one volume: cosines of orientations may differ by so much, steps by such a share, and slices be
moved sideways by such a share of a step."""


LEAST_STEP = 1e-4
"""mm, a tenth of a micrometre."""


class Series(NamedTuple):
    """A series directly in a folder.

    :param files: in the order of slices.
    :param other: what it is where it is no scan, in words; "" for a scan.
    """

    uid: str
    files: tuple[str, ...]
    other: str


def dicom_series(folder: Path) -> list[Series]:
    """Series directly in ``folder``, sorted by their identifier (series instance UID)."""
    import SimpleITK

    # ITK writes to the terminal of each folder without slices; what is wrong is said in a sentence of ours.
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    reader = SimpleITK.ImageSeriesReader
    found = []
    for uid in sorted(reader.GetGDCMSeriesIDs(str(folder))):
        files = reader.GetGDCMSeriesFileNames(str(folder), uid)
        if files:
            found.append(Series(uid, files, _what_else(files[0]) or _single_slice(files)))
    return found


def _single_slice(files: Sequence[str]) -> str:
    """What a series is where it is one picture alone, which a scout mostly is; "" for more, and for what is damaged."""
    header = _header(files[0]) if len(files) == 1 else None
    return "single slice" if header is not None and (*header.GetSize(), 1)[2] == 1 else ""


def other_files(folder: Path, series: Sequence[Series]) -> list[Series]:
    """DICOM files directly in ``folder`` that hold no image, one by one: contours, reports."""
    listed = {Path(file).name for one in series for file in one.files}
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in listed and (other := _what_else(str(path))):
            found.append(Series(path.name, (str(path),), other))
    return found


def _header(file: str):
    """Header of one file by SimpleITK, None where it holds no image."""
    import SimpleITK

    header = SimpleITK.ImageFileReader()
    header.SetFileName(file)
    header.SetImageIO("GDCMImageIO")
    try:
        header.ReadImageInformation()
    except RuntimeError:
        return None
    return header


def _value(header, tag: str) -> str:
    return header.GetMetaData(tag).strip(" \0") if header.HasMetaDataKey(tag) else ""


def _numbers(header, tag: str) -> np.ndarray:
    return np.array(_value(header, tag).split("\\"), dtype=float)


@contextmanager
def without_warnings() -> Iterator[None]:
    """pydicom warns of values that are longer than the standard allows, when it reads them and when they are asked
    for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@without_warnings()
def _what_else(file: str) -> str:
    """What a series is where it is no scan, by its first file."""
    import pydicom

    try:
        tags = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TOLD_BY))
    except Exception:  # pydicom raises many kinds; whoever reads the slices says what is wrong with them
        return ""
    if other := NO_SCANS.get(str(tags.get("Modality", ""))):
        return other
    if "LOCALIZER" in [str(part).upper() for part in tags.get("ImageType") or ()]:
        return "scout (localizer)"
    kind = str(tags.get("SOPClassUID", ""))
    if (kind == SECONDARY_CAPTURE or kind.startswith(SECONDARY_CAPTURE + ".")) and "ImagePositionPatient" not in tags:
        return "picture of a screen (secondary capture)"
    return ""


def read_dicom_series(folder: Path) -> Volume:
    """Read the one scan that a folder holds.

    :raises InputError: no scan or more than one; slices are missing, of several orientations, moved sideways, or do not
        say where they lie.
    :raises RuntimeError: a slice cannot be read.
    """
    import SimpleITK

    series = dicom_series(folder)
    scans = [one for one in series if not one.other]
    if not series:
        raise InputError(
            f"{folder} is a folder, and holds no DICOM series.",
            "Give one scan: an image file, or a folder with the slices of one series.",
        )
    if not scans:
        raise InputError(f"{folder} holds no scan: {series[0].other}.", "Give the folder of the scan's slices.")
    if len(scans) > 1:
        raise InputError(
            f"{folder} holds {len(scans)} DICOM series, not one.", "Give every series a folder of its own."
        )
    files = scans[0].files
    headers = [_header(file) for file in files]
    if None in headers:
        raise InputError(
            f"{files[headers.index(None)]} cannot be read as a DICOM image.", "Copy it again from where it came from."
        )
    _check_slices(folder, files, headers)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(files)
    if len({(_value(header, SLOPE), _value(header, INTERCEPT)) for header in headers}) > 1:
        # The reader takes the type of the first slice for all, which may be too small or whole numbers alone.
        reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    return from_itk(reader.Execute())


def _check_slices(folder: Path, files: Sequence[str], headers: Sequence) -> None:
    """:raises InputError: slices do not make one volume of right angles, or do not say so, and would lie in a wrong
    place."""
    if len(files) == 1:  # one file that holds all slices
        return
    for file, header in zip(files, headers):
        if not _value(header, POSITION) or not _value(header, ORIENTATION):
            raise InputError(
                f"{file} does not say where its slice lies.",
                "Export the series anew with positions, or leave it out: the order of its slices would be a guess.",
            )
    orientations = np.array([_numbers(header, ORIENTATION) for header in headers])
    usual = np.median(orientations, axis=0)
    other = np.abs(orientations - usual).max(1)
    if other.max() > SAME_DIRECTION:
        raise InputError(
            f"{files[int(other.argmax())]} is a slice of another direction than the others of its series: a scout?",
            "Leave that file out.",
        )
    normal = np.cross(usual[:3], usual[3:])
    positions = np.array([_numbers(header, POSITION) for header in headers])
    steps = np.diff(positions, axis=0)
    along = np.abs(steps @ normal)
    step = float(np.median(along))
    if along.min() < 1e-3 * step or step < LEAST_STEP:
        raise InputError(
            f"{folder} has several images of one slice; it may be a series over time, or two series in one.",
            "Give every volume a folder of its own.",
        )
    worst = int(np.abs(along - step).argmax())
    if abs(along[worst] - step) > SAME_STEP * step:
        raise InputError(
            f"{folder}: the slices are {step:.3g} mm apart, but {along[worst]:.3g} mm between slice {worst + 1} and "
            f"{worst + 2} of {len(files)}.",
            "Copy the missing slices, or leave the series out.",
        )
    sideways = steps - (steps @ normal)[:, None] * normal
    if np.linalg.norm(np.median(sideways, axis=0)) > SIDEWAYS * step:
        angle = np.degrees(np.arctan2(np.linalg.norm(np.median(sideways, axis=0)), step))
        raise InputError(
            f"{folder} was taken with a tilted gantry: each slice is moved sideways from the one before it, by "
            f"{angle:.3g} degrees, so that its voxels are on no grid of right angles.",
            "Load it in Slicer, which straightens it (Acquisition Geometry Regularization in its DICOM settings), and "
            "save it as NRRD.",
        )
