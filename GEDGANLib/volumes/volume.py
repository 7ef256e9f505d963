"""What a reader makes of a file: voxels, their place, and segments where the file names them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

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
