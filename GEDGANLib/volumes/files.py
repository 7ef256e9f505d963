"""One volume from or to one file: NIfTI, NRRD (and Slicer's segmentations in it), MetaImage, DICOM series.

Arrays are indexed (I, J, K) and affines map that index to mm in RAS, whatever the file's own convention is. Whatever
is wrong with a file ends in an :class:`~GEDGANLib.errors.InputError` that names it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..jobs.writing import beside

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")
METAIMAGE = (".mha", ".mhd")
SUFFIXES = (*NIFTI, *NRRD, *METAIMAGE)
SEGMENTATION_SUFFIX = ".seg.nrrd"
POSITION, ORIENTATION = "0020|0032", "0020|0037"  # DICOM: image position and orientation (patient)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Segment:
    """One segment of a Slicer segmentation file."""

    value: int
    name: str
    color: tuple[float, float, float]
    terminology: str = ""
    layer: int = 0


@dataclass
class Volume:
    """What a file holds.

    :param array: (I, J, K) in the file's type (scaled, if it says so), or (C, I, J, K) where ``channels`` was allowed.
    :param affine: 4x4, index to mm in RAS.
    :param segments: filled for Slicer's ``.seg.nrrd`` alone.
    """

    array: np.ndarray
    affine: np.ndarray
    segments: tuple[Segment, ...] = field(default=())


def suffix_of(path: Path) -> str:
    """The file's ending as this library counts it, lower case: ``.nii.gz`` is one; "" when it reads no such file."""
    name = path.name.lower()
    return max((suffix for suffix in (SEGMENTATION_SUFFIX, *SUFFIXES) if name.endswith(suffix)), key=len, default="")


def stem_of(path: Path) -> str:
    """File name without its ending: ``case.seg.nrrd`` -> ``case``."""
    suffix = suffix_of(path)
    return path.name[: len(path.name) - len(suffix)] if suffix else path.name


def read_volume(path: Path, channels: int = 1) -> Volume:
    """Read a volume, or a folder of DICOM slices.

    :param channels: a fourth axis of exactly this size is taken as image channels when above 1.
    :raises InputError: missing, unreadable, truncated, not such a file at all, a series over time, not 3D.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Check the path for typing errors.")
    suffix = suffix_of(path)
    try:
        if path.is_dir():
            volume = _read_dicom_series(path)
        elif suffix in NIFTI:
            volume = _read_nifti(path)
        elif suffix == SEGMENTATION_SUFFIX or suffix in NRRD:
            volume = _read_nrrd(path)
        elif suffix in METAIMAGE:
            volume = _read_with_itk(path)
        else:
            raise InputError(f"{path} is not an image file of a known kind.", f"Known are {', '.join(SUFFIXES)}.")
    except (InputError, MemoryError):
        raise
    except Exception as error:  # the readers raise dozens of kinds: zlib, EOF, struct, ITK, nibabel's, pynrrd's own
        raise InputError(*_explain_unreadable(path, error)) from error
    volume.array = _check_axes(path, volume.array, channels)
    if not np.all(np.isfinite(volume.affine)) or abs(np.linalg.det(volume.affine[:3, :3])) < 1e-9:
        raise InputError(
            f"{path} does not say how large its voxels are or how they are oriented.",
            "Open it in Slicer, set spacing and orientation in the Volumes module, and save it again.",
        )
    return volume


def _explain_unreadable(path: Path, error: Exception) -> tuple[str, str]:
    if isinstance(error, PermissionError):
        return f"{path} may not be read by you.", "Change its permissions, or leave it out of the folder."
    if path.is_file() and path.stat().st_size == 0:
        return f"{path} is empty.", "Copy it again from where it came from."
    text = str(error).lower()
    if isinstance(error, EOFError) or any(word in text for word in ("end-of-stream", "expected", "truncated", "eof")):
        return f"{path} is cut off: it ends before its last voxel.", "Copy it again from where it came from."
    return (
        f"{path} is not a readable image, although it is named like one.",
        "Open it in Slicer to see whether it is what its name says, or leave it out of the folder.",
    )


def _check_axes(path: Path, array: np.ndarray, channels: int) -> np.ndarray:
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 4 and channels > 1 and array.shape[3] == channels:
        return np.moveaxis(array, 3, 0)
    if array.ndim == 4:
        raise InputError(
            f"{path} is a series of {array.shape[3]} volumes, not one volume.",
            "Save one volume of it as a file of its own, or, if they are channels of one scan, name the channels in "
            "dataset.json.",
        )
    if array.ndim != 3 or min(array.shape) < 2:
        raise InputError(f"{path} is not a volume: its size is {_times(array.shape)}.", "Only 3D volumes can be used.")
    return array


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


def _read_nifti(path: Path) -> Volume:
    import nibabel

    image = nibabel.load(path)
    array = np.asanyarray(image.dataobj)
    if image.header.get("sform_code", 0) == 0 and image.header.get("qform_code", 0) == 0:
        # Neither is set: the file knows its voxel sizes alone. Slicer, reading through ITK, then takes the axes as
        # left, posterior, superior; a volume must not lie elsewhere here than there.
        affine = LPS_TO_RAS @ np.diag([*image.header.get_zooms()[:3], 1.0]).astype(float)
    else:
        affine = np.asarray(image.affine, dtype=float)
    return Volume(array, affine)


def _read_nrrd(path: Path) -> Volume:
    import nrrd

    array, header = nrrd.read(str(path), index_order="F")
    directions = header.get("space directions")
    kinds = list(header.get("kinds", []))
    spatial = [axis for axis in range(array.ndim) if directions is None or np.all(np.isfinite(directions[axis]))]
    if "list" in kinds or "vector" in kinds or len(spatial) < array.ndim:
        spatial = [a for a in spatial if not (a < len(kinds) and kinds[a] in ("list", "vector", "RGB-color"))]
    others = [axis for axis in range(array.ndim) if axis not in spatial]
    array = np.moveaxis(array, others, range(len(spatial), array.ndim))
    affine = np.eye(4)
    if directions is not None and len(spatial) >= 3:
        affine[:3, :3] = np.stack([np.asarray(directions[axis], float) for axis in spatial[:3]], axis=1)
        affine[:3, 3] = header.get("space origin", np.zeros(3))
    elif "spacings" in header and len(spatial) >= 3:
        affine[[0, 1, 2], [0, 1, 2]] = np.asarray(header["spacings"], float)[spatial[:3]]
    affine = _from_nrrd_space(str(header.get("space", "")).lower(), affine)
    segments = _segments(header)
    if segments:
        array = _flatten_layers(array, segments)
    return Volume(array, affine, segments)


def _from_nrrd_space(space: str, affine: np.ndarray) -> np.ndarray:
    """To RAS from what the header calls its space; where it says nothing, left-posterior-superior, as Slicer does."""
    words = {"las": "left-anterior-superior", "ras": "right-anterior-superior"}
    parts = words.get(space, space).split("-")
    parts = parts if {"left", "right"} & set(parts) else ["left", "posterior"]
    signs = [-1.0 if "left" in parts else 1.0, -1.0 if "posterior" in parts else 1.0, 1.0]
    return np.diag([*signs, 1.0]) @ affine


def _segments(header: dict) -> tuple[Segment, ...]:
    segments = []
    for key in header:
        match = re.fullmatch(r"Segment(\d+)_ID", key)
        if match:
            prefix = f"Segment{match.group(1)}_"
            color = tuple(float(part) for part in str(header.get(prefix + "Color", "0.5 0.5 0.5")).split())[:3]
            terminology = re.search(r"TerminologyEntry:([^|]*)", str(header.get(prefix + "Tags", "")))
            segments.append(
                Segment(
                    value=int(header.get(prefix + "LabelValue", len(segments) + 1)),
                    name=str(header.get(prefix + "Name", header[key])),
                    color=color,
                    terminology=terminology.group(1) if terminology else "",
                    layer=int(header.get(prefix + "Layer", 0)),
                )
            )
    return tuple(segments)


def _flatten_layers(array: np.ndarray, segments: tuple[Segment, ...]) -> np.ndarray:
    """One label map, with value 1 + position in ``segments``; where segments overlap the later one is on top."""
    layers = array[..., None] if array.ndim == 3 else array
    flat = np.zeros(layers.shape[:3], dtype=np.uint16)
    for position, segment in enumerate(segments):
        flat[layers[..., segment.layer] == segment.value] = position + 1
    return flat


def _read_with_itk(path: Path) -> Volume:
    import SimpleITK

    return _from_itk(SimpleITK.ReadImage(str(path)))


def _from_itk(image) -> Volume:
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    array = array.T
    dimension = image.GetDimension()
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(dimension, dimension) @ np.diag(image.GetSpacing())
    affine[:3, :3] = directions[:3, :3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return Volume(array, LPS_TO_RAS @ affine)


def dicom_series(folder: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Series directly in ``folder``: (series instance UID, files in slice order), sorted by UID."""
    import SimpleITK

    # ITK writes to the terminal of each folder without slices; what is wrong is said in a sentence of ours.
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    reader = SimpleITK.ImageSeriesReader
    return [
        (uid, reader.GetGDCMSeriesFileNames(str(folder), uid)) for uid in sorted(reader.GetGDCMSeriesIDs(str(folder)))
    ]


def _read_dicom_series(folder: Path) -> Volume:
    import SimpleITK

    series = dicom_series(folder)
    if not series:
        raise InputError(
            f"{folder} is a folder, and holds no DICOM series.",
            "Give one scan: an image file, or a folder with the slices of one series.",
        )
    if len(series) > 1:
        raise InputError(
            f"{folder} holds {len(series)} DICOM series, not one.", "Give every series a folder of its own."
        )
    _check_slices(folder, series[0][1])
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(series[0][1])
    return _from_itk(reader.Execute())


def _check_slices(folder: Path, files: tuple[str, ...]) -> None:
    """:raises InputError: slices are missing or unevenly spaced, which would put all others in a wrong place."""
    import SimpleITK

    positions, normal = [], None
    for file in files:
        header = SimpleITK.ImageFileReader()
        header.SetFileName(file)
        header.ReadImageInformation()
        if not header.HasMetaDataKey(POSITION) or not header.HasMetaDataKey(ORIENTATION):
            return  # one file that holds all slices, for example
        if normal is None:
            rows = np.array(header.GetMetaData(ORIENTATION).split("\\"), dtype=float).reshape(2, 3)
            normal = np.cross(*rows)
        positions.append(float(np.array(header.GetMetaData(POSITION).split("\\"), dtype=float) @ normal))
    steps = np.abs(np.diff(positions))
    if not len(steps):
        return
    usual = float(np.median(steps))
    if steps.min() < 1e-3:
        raise InputError(
            f"{folder} has several images of one slice; it may be a series over time, or two series in one.",
            "Give every volume a folder of its own.",
        )
    worst = int(np.abs(steps - usual).argmax())
    if abs(steps[worst] - usual) > 0.05 * usual:
        raise InputError(
            f"{folder}: the slices are {usual:.3g} mm apart, but {steps[worst]:.3g} mm between slice {worst + 1} and "
            f"{worst + 2} of {len(files)}.",
            "Copy the missing slices, or leave the series out.",
        )


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray, description: str = "") -> None:
    """Write (I, J, K) voxels to NIfTI, NRRD or MetaImage, by the ending; beside first and renamed, so never half.

    :raises InputError: the disk is full, the folder is write-protected, or the ending is not known.
    """
    suffix = suffix_of(path)
    writer = {
        **dict.fromkeys(NIFTI, _write_nifti),
        ".nrrd": _write_nrrd,
        ".mha": _write_with_itk,
    }.get(suffix)
    if writer is None:
        raise InputError(f"{path} has no ending to write.", "Use .nii.gz, .nrrd or .mha.")
    with beside(path) as partial:
        writer(partial, array, affine, description)


def write_colours(path: Path, array: np.ndarray, affine: np.ndarray, description: str = "") -> None:
    """Write (I, J, K, 3) bytes to NRRD as an RGB volume, which Slicer shows in its colours; beside first and renamed.

    :raises InputError: the disk is full, the folder is write-protected, or the ending is not ``.nrrd``.
    """
    import nrrd

    if suffix_of(path) != ".nrrd":
        raise InputError(f"{path} has no ending to write colours in.", "Use .nrrd.")
    header = nrrd_header(affine, description)
    header["space directions"] = np.vstack([np.full(3, np.nan), header["space directions"]])
    header["kinds"] = ["RGB-color", *header["kinds"]]
    with beside(path) as partial:
        nrrd.write(str(partial), np.moveaxis(array, -1, 0), header, index_order="F")


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, description: str) -> None:
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.set_sform(affine, 1)
    # A qform holds rotations alone; where the affine is more than that, readers must take the sform.
    image.set_qform(affine, 1, strip_shears=True)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def nrrd_header(affine: np.ndarray, description: str) -> dict:
    """Header of a volume's NRRD file, in LPS as Slicer writes it."""
    lps = LPS_TO_RAS @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
    }
    if description:
        header["content"] = description
    return header


def _write_nrrd(path: Path, array: np.ndarray, affine: np.ndarray, description: str) -> None:
    import nrrd

    nrrd.write(str(path), array, nrrd_header(affine, description), index_order="F")


def _write_with_itk(path: Path, array: np.ndarray, affine: np.ndarray, description: str) -> None:
    import SimpleITK

    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).flatten().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    if description:
        image.SetMetaData("Comment", description)
    SimpleITK.WriteImage(image, str(path), useCompression=True)
