"""What a reader makes of a file: voxels, their place, and segments where the file names them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError

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


def header_alone(path: Path, data: Path) -> InputError:
    """What to say of a header whose file of voxels is not there."""
    return InputError(
        f"{path} is a header alone: the file with its voxels, {data}, is missing.",
        "Copy that file beside it, too, or leave the header out.",
    )


def in_one_line(text: object) -> str:
    """A name or a sentence of a file without line breaks and control characters, which no table or path holds."""
    plain = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in str(text))
    return " ".join(plain.split())


def times(shape: Sequence[int]) -> str:
    """A size in words: 4 x 5 x 6."""
    return " x ".join(map(str, shape))


def from_itk(image) -> Volume:
    """An image of SimpleITK as a volume; its components become the last axis."""
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
