"""One volume from or to one file: NIfTI, NRRD (and Slicer's segmentations in it), MetaImage, DICOM series.

Arrays are indexed (I, J, K) and affines map that index to mm in RAS, whatever the file's own convention is. Whatever
is wrong with a file ends in an :class:`~GEDGANLib.errors.InputError` that names it.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..jobs.writing import beside
from .dicom import read_dicom_series
from .nifti import read_nifti
from .nrrd_files import nrrd_header, read_nrrd
from .volume import LPS_TO_RAS, Segment, Volume, from_itk, header_alone, times

__all__ = ["LPS_TO_RAS", "Segment", "Volume", "read_volume", "stem_of", "suffix_of", "write_colours", "write_volume"]

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")
METAIMAGE = (".mha", ".mhd")
PAIR = (".hdr",)
"""NIfTI and Analyze in two files: the header is the one that is named."""
FREESURFER = (".mgz", ".mgh")
BY_ITK = (".gipl", ".gipl.gz", ".vtk")
SUFFIXES = (*NIFTI, *NRRD, *METAIMAGE, *PAIR, *FREESURFER, *BY_ITK)
SEGMENTATION_SUFFIX = ".seg.nrrd"
POINTERS = (b"version https://git-lfs", b"/annex/objects/")
"""How files begin that stand for content which was not fetched."""


def suffix_of(path: Path) -> str:
    """The file's ending as this library counts it, lower case: ``.nii.gz`` is one; "" when it reads no such file."""
    name = path.name.lower()
    return max((suffix for suffix in (SEGMENTATION_SUFFIX, *SUFFIXES) if name.endswith(suffix)), key=len, default="")


def stem_of(path: Path) -> str:
    """File name without its ending: ``case.seg.nrrd`` -> ``case``."""
    suffix = suffix_of(path)
    return path.name[: len(path.name) - len(suffix)] if suffix else path.name


def read_volume(path: Path, channels: int | None = 1) -> Volume:
    """Read a volume, or a folder of DICOM slices.

    :param channels: a fourth axis of exactly this size is taken as image channels when above 1; None for any.
    :raises InputError: missing, unreadable, truncated, not such a file at all, a series over time, not 3D.
    """
    check_there(path)
    suffix = suffix_of(path)
    try:
        if path.is_dir():
            volume = read_dicom_series(path)
        elif suffix in NIFTI:
            volume = read_nifti(path)
        elif suffix == SEGMENTATION_SUFFIX or suffix in NRRD:
            volume = read_nrrd(path)
        elif suffix in METAIMAGE:
            volume = _read_metaimage(path)
        elif suffix in PAIR:
            volume = read_nifti(_with_its_voxels(path))
        elif suffix in FREESURFER:
            volume = _read_freesurfer(path)
        elif suffix in BY_ITK:
            volume = _read_by_itk(path)
        else:
            raise InputError(f"{path} is not an image file of a known kind.", f"Known are {', '.join(SUFFIXES)}.")
    except (InputError, MemoryError):
        raise
    except Exception as error:  # the readers raise dozens of kinds: zlib, EOF, struct, ITK, nibabel's, pynrrd's own
        raise InputError(*_explain_unreadable(path, error)) from error
    volume.array = _check_axes(path, volume.array, channels)
    axes = volume.affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    # Of microscopes' voxels of a micrometre the determinant is as small as of none: lengths are set aside.
    if not np.all(np.isfinite(volume.affine)) or lengths.min() <= 0 or abs(np.linalg.det(axes / lengths)) < 1e-3:
        raise InputError(
            f"{path} does not say how large its voxels are or how they are oriented.",
            "Open it in Slicer, set spacing and orientation in the Volumes module, and save it again.",
        )
    return volume


def check_there(path: Path) -> None:
    """:raises InputError: there is no such file, or its content was not fetched."""
    if path.exists():
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(POINTERS):
            raise InputError(
                f"{path} holds a note of where its content lies (Git LFS or git-annex), and not the content.",
                "Fetch it (git lfs pull, or datalad get), or leave it out.",
            )
        return
    if path.is_symlink():
        raise InputError(
            f"{path} is a link to content that is not there ({path.readlink()}).",
            "Fetch it (datalad get, or git annex get), or leave it out.",
        )
    raise InputError(f"{path} does not exist.", "Check the path for typing errors.")


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


def _check_axes(path: Path, array: np.ndarray, channels: int | None) -> np.ndarray:
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 4 and (channels is None or 1 < channels == array.shape[3]):
        return np.moveaxis(array, 3, 0)
    if array.ndim == 4:
        raise InputError(
            f"{path} is a series of {array.shape[3]} volumes, not one volume.",
            "Save one volume of it as a file of its own, or, if they are channels of one scan, name the channels in "
            "dataset.json.",
        )
    if array.ndim != 3 or min(array.shape) < 2:
        raise InputError(f"{path} is not a volume: its size is {times(array.shape)}.", "Only 3D volumes can be used.")
    return array


def _with_its_voxels(path: Path) -> Path:
    """:raises InputError: the file of voxels beside a header is not there."""
    if not any(path.with_suffix(ending).exists() for ending in (".img", ".IMG")):
        raise header_alone(path, path.with_suffix(".img"))
    return path


def _read_freesurfer(path: Path) -> Volume:
    import nibabel

    image = nibabel.load(path)
    return Volume(np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=float))


def _read_by_itk(path: Path) -> Volume:
    import SimpleITK

    return from_itk(SimpleITK.ReadImage(str(path)))


def _read_metaimage(path: Path) -> Volume:
    _check_data_file(path)
    return _read_by_itk(path)


def _check_data_file(path: Path) -> None:
    """:raises InputError: the header of a MetaImage names a file of voxels that is not there."""
    with open(path, "rb") as file:
        header = file.read(1 << 14)
    found = re.search(rb"^ElementDataFile\s*=\s*(\S.*?)\s*$", header, re.MULTILINE)
    name = found.group(1).decode("utf-8", "replace") if found else "LOCAL"
    if name.upper() == "LOCAL" or name.upper().startswith("LIST") or "%" in name:
        return
    if not (data := path.parent / name).exists():
        raise header_alone(path, data)


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
