"""NIfTI files -> voxels, where ITK, and so Slicer, has them.

A header may hold two placements, sform and qform, that disagree. Readers choose differently; a volume must not lie
elsewhere here than in Slicer. ITK takes the sform where its code is 1 (scanner) or there is no qform, if its axes are
at right angles; else the qform; else the voxel sizes alone, with axes to left, posterior and superior. Voxel sizes are
always those of the header's ``pixdim``; units of metres and micrometres become mm. ITK itself is not asked: it does
not read all kinds, and an environment variable changes what it says.
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
from .geometry import corners_apart
from .volume import LPS_TO_RAS, Volume

GZIP = b"\x1f\x8b"
ORTHOGONAL = 1e-4
"""By which products of axes may miss those of right angles where ITK takes them."""
SHEARED = 0.5
"""Voxels by which the corners of a volume may lie elsewhere with axes at right angles, so that these are taken."""
IN_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Of the units of a header (``xyzt_units``), 0 for none."""


def read_nifti(path: Path) -> Volume:
    """Read a ``.nii`` or ``.nii.gz``, whether it is compressed as its name says or not, or the ``.hdr`` of a pair.

    :raises InputError: its axes are not at right angles.
    :raises Exception: whatever the readers raise for what is no such file.
    """
    import nibabel

    with _named_by_content(path) as readable:
        image = nibabel.load(readable, mmap=readable == path)
        array = np.asanyarray(image.dataobj)
        return Volume(array, _affine(path, image.header, image.shape))


def _affine(path: Path, header, shape: tuple[int, ...]) -> np.ndarray:
    fields = header.structarr.dtype.names
    spacing = np.abs(np.array(header.get_zooms()[:3], float))
    spacing = np.concatenate([spacing, np.ones(3 - len(spacing))])
    if "sform_code" not in fields:  # Analyze: voxel sizes alone
        return LPS_TO_RAS @ np.diag([*spacing, 1.0])
    codes = int(header["sform_code"]), int(header["qform_code"])
    scale = IN_MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    sform = np.asarray(header.get_sform(), float)
    if (codes[0] == 1 or (codes[0] > 0 and codes[1] == 0)) and _deviation(sform) <= ORTHOGONAL:
        affine = np.array(sform)
        affine[:3, :3] = sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0) * spacing
    elif codes[1] > 0:
        affine = np.asarray(header.get_qform(), float)
    elif codes[0] > 0:
        affine = _at_right_angles(path, sform, spacing, shape)
    else:
        affine = LPS_TO_RAS @ np.diag([*spacing, 1.0])
    affine[:3] *= scale
    return affine


def _deviation(affine: np.ndarray) -> float:
    """By how much the products of the axes of an affine miss those of right angles; infinite where it has none."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.all(np.isfinite(affine)) or lengths.min() <= 0:
        return np.inf
    axes = affine[:3, :3] / lengths
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def _at_right_angles(path: Path, sform: np.ndarray, spacing: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The nearest affine with axes at right angles about the middle of the volume.

    :raises InputError: it moves voxels by so much that somebody would see it.
    """
    if not np.isfinite(deviation := _deviation(sform)):
        raise InputError(
            f"{path} says that its placement is known (sform), and holds none.",
            "Write its header anew with the program that made it, or load it in Slicer from another format.",
        )
    left, _, right = np.linalg.svd(sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0))
    affine = np.eye(4)
    affine[:3, :3] = left @ right @ np.diag(spacing)
    middle = (np.array(shape[:3]) - 1) / 2
    affine[:3, 3] = (sform @ [*middle, 1])[:3] - affine[:3, :3] @ middle
    if corners_apart(sform, shape[:3], affine) > SHEARED:
        raise InputError(
            f"{path} has axes that are not at right angles (by {np.degrees(np.arcsin(min(deviation, 1))):.2g} degrees);"
            " Slicer does not read such a file either.",
            "Resample it to a grid of right angles with the program that made it, and give that file.",
        )
    return affine


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
