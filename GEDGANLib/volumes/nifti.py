"""NIfTI files -> voxels, where ITK, and so Slicer, has them.

A header may hold two placements, sform and qform, that disagree. Readers choose differently; a volume must not lie
elsewhere here than in Slicer, so ITK itself is asked: it takes the sform where its code is 1 (scanner) or there is no
qform, and it is usable; else the qform; else the voxel sizes alone, with axes to left, posterior and superior. Units of
metres and micrometres become mm.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import InputError
from .volume import LPS_TO_RAS, Volume

GZIP = b"\x1f\x8b"


def read_nifti(path: Path) -> Volume:
    """Read a ``.nii`` or ``.nii.gz``, whether it is compressed as its name says or not, or the ``.hdr`` of a pair.

    :raises InputError: its axes are not at right angles.
    :raises Exception: whatever the readers raise for what is no such file.
    """
    import nibabel

    with _named_by_content(path) as readable:
        image = nibabel.load(readable)
        array = np.asanyarray(image.dataobj)
        return Volume(array, _affine(readable, path, image.header))


def _affine(readable: Path, path: Path, header) -> np.ndarray:
    import SimpleITK

    SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # of what is old-fashioned
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(readable))
    reader.SetImageIO("NiftiImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise _skewed(path, header) from error
        raise
    dimension = reader.GetDimension()
    affine = np.eye(4)
    size = min(dimension, 3)
    directions = np.array(reader.GetDirection()).reshape(dimension, dimension)
    affine[:size, :size] = (directions @ np.diag(reader.GetSpacing()))[:size, :size]
    affine[:size, 3] = reader.GetOrigin()[:size]
    return LPS_TO_RAS @ affine


def _skewed(path: Path, header) -> InputError:
    """What to say of a file whose sform Slicer does not take, and that has no qform."""
    axes = np.asarray(header.get_sform(), float)[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.all(np.isfinite(axes)) or lengths.min() <= 0:
        return InputError(
            f"{path} says that its placement is known (sform), and holds none.",
            "Write its header anew with the program that made it, or load it in Slicer from another format.",
        )
    cosines = np.abs((axes / lengths).T @ (axes / lengths) - np.eye(3)).max()
    return InputError(
        f"{path} has axes that are not at right angles (by {np.degrees(np.arcsin(min(cosines, 1))):.2g} degrees); "
        "Slicer does not read such a file either.",
        "Resample it to a grid of right angles with the program that made it, and give that file.",
    )


@contextmanager
def _named_by_content(path: Path) -> Iterator[Path]:
    """A file whose ending says whether it is compressed: the file itself, or a copy that is gone afterwards."""
    if path.name.lower().endswith(".hdr"):
        yield path
        return
    with open(path, "rb") as file:
        compressed = file.read(2) == GZIP
    if compressed == path.name.lower().endswith(".gz"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "volume.nii"
        with gzip.open(path) if compressed else open(path, "rb") as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target)
        yield copy
