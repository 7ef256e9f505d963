"""Where voxels lie: orientation, the working grid of a case and resampling between grids.

The working grid keeps the scan's own axes, reordered and flipped to the order closest to right, anterior, superior:
an oblique scan stays oblique, its voxels are not mixed for the sake of a straight frame. The grid is centred on the
field of view, so that padding and cropping are even; where the spacing already fits it is moved onto the voxels, and
nothing is interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ON_GRID = 1e-3
"""Grids whose voxels lie within this share of a voxel of each other are one grid."""
SAME_VOXELS = 0.05
"""Of a voxel: what programs round off headers by, and less than anybody could draw."""


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Voxel size of each index axis, mm, shape (3,)."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def directions_of(affine: np.ndarray) -> np.ndarray:
    """Direction cosines, one index axis a column, shape (3, 3)."""
    return affine[:3, :3] / spacing_of(affine)


def compose(directions: np.ndarray, spacing: Sequence[float], origin: Sequence[float]) -> np.ndarray:
    """Affine (4, 4) from direction cosines, spacing (mm) and origin (mm, RAS)."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions) * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def centre_of(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Centre of the field of view, mm in RAS, shape (3,)."""
    return (affine @ [*((np.asarray(shape) - 1) / 2), 1.0])[:3]


def to_closest_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reorder and flip the last three axes of ``array`` so that they run closest to right, anterior, superior.

    Every voxel keeps its place in the patient; the affine follows. No voxel is interpolated.
    """
    import nibabel.orientations as orientations

    transform = orientations.io_orientation(affine)
    leading = array.ndim - 3
    moved = orientations.apply_orientation(np.moveaxis(array, range(leading), range(3, 3 + leading)), transform)
    moved = np.moveaxis(moved, range(3, 3 + leading), range(leading))
    return moved, affine @ orientations.inv_ornt_aff(transform, array.shape[-3:])


def working_affine(
    affine: np.ndarray, shape: Sequence[int], grid_shape: Sequence[int], grid_spacing: Sequence[float]
) -> np.ndarray:
    """Affine of the working grid of a case that already runs closest to RAS.

    :param affine: of the case, (4, 4).
    :param shape: of the case, voxels.
    :param grid_shape: of the working grid, voxels.
    :param grid_spacing: of the working grid, mm.
    """
    directions = directions_of(affine)
    half = directions @ ((np.asarray(grid_shape) - 1) / 2 * np.asarray(grid_spacing))
    result = compose(directions, grid_spacing, centre_of(affine, shape) - half)
    offset = (np.linalg.inv(affine) @ [*result[:3, 3], 1.0])[:3]
    fits = np.abs(spacing_of(affine) / np.asarray(grid_spacing) - 1) < ON_GRID
    offset = np.where(fits, np.round(offset), offset)
    result[:3, 3] = (affine @ [*offset, 1.0])[:3]
    return result


def same_grid(affine: np.ndarray, shape: Sequence[int], other_affine: np.ndarray, other_shape: Sequence[int]) -> bool:
    """True where two volumes have the same voxels, at every corner within :data:`SAME_VOXELS`."""
    return tuple(shape) == tuple(other_shape) and corners_apart(affine, shape, other_affine) <= SAME_VOXELS


def corners_apart(affine: np.ndarray, shape: Sequence[int], other_affine: np.ndarray) -> float:
    """How far the same corner of two grids of one shape is apart, at most, in voxels of the first."""
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    distance = np.linalg.norm((affine - other_affine)[:3] @ corners, axis=0)
    return float(distance.max() / spacing_of(affine).min())


def resample(
    array: np.ndarray, affine: np.ndarray, new_affine: np.ndarray, new_shape: Sequence[int], outside: str = "border"
) -> np.ndarray:
    """Linear interpolation of (C, I, J, K) onto another grid; low-passed first where the new grid is coarser.

    :param outside: what lies beyond the field of view: ``border`` repeats its edge, ``zeros`` is 0.
    :returns: float32, (C, *new_shape). Where the grids share their voxels they are copied, not interpolated.
    """
    to_old = np.linalg.inv(affine) @ new_affine
    offset = np.round(to_old[:3, 3]).astype(int)
    if np.abs(to_old[:3, :3] - np.eye(3)).max() < ON_GRID / max(new_shape) and (
        np.abs(to_old[:3, 3] - offset).max() < ON_GRID * 10
    ):
        return _shift(array, offset, new_shape, outside).astype(np.float32)

    from scipy import ndimage

    array = np.asarray(array, dtype=np.float32)
    # A voxel of the new grid covers `factor` old ones along each old axis.
    factor = np.abs(to_old[:3, :3]).max(axis=1)
    sigma = 0.5 * np.sqrt(np.clip(factor**2 - 1, 0, None))
    if sigma.max() > 0.1:
        array = np.stack([ndimage.gaussian_filter(channel, sigma, mode="nearest") for channel in array])
    mode = {"border": "nearest", "zeros": "grid-constant"}[outside]
    moved = np.empty((len(array), *(int(side) for side in new_shape)), dtype=np.float32)
    for channel, result in zip(array, moved):
        # SciPy rather than MONAI's SpatialResample, which before version 1.6 put the voxels elsewhere.
        ndimage.affine_transform(channel, to_old[:3, :3], to_old[:3, 3], result.shape, result, order=1, mode=mode)
    return moved


def _shift(array: np.ndarray, offset: np.ndarray, new_shape: Sequence[int], outside: str) -> np.ndarray:
    """Voxels ``offset`` .. ``offset + new_shape`` of the last three axes, padded where there are none."""
    for axis in range(3):
        index = np.arange(new_shape[axis]) + offset[axis]
        size = array.shape[axis + 1]
        array = np.take(array, np.clip(index, 0, size - 1), axis=axis + 1)
        if outside == "zeros":
            outer = ((index < 0) | (index >= size)).reshape([-1 if other == axis else 1 for other in range(3)])
            array = np.where(outer, np.zeros((), array.dtype), array)
    return array


def field_of_view(affine: np.ndarray, source_affine: np.ndarray, source_shape: Sequence[int]) -> np.ndarray:
    """Where a scan begins and ends along each axis of a grid that runs along its axes, in voxels of the grid, (3, 2).

    The outer edges of the scan's outer voxels: -0.5 and its side less 0.5 where the grid is the scan's own.
    """
    ends = np.array(np.meshgrid(*[(-0.5, side - 0.5) for side in source_shape])).reshape(3, -1)
    corners = (np.linalg.inv(affine) @ source_affine @ np.vstack([ends, np.ones(ends.shape[1])]))[:3]
    return np.stack([corners.min(1), corners.max(1)], axis=1)
