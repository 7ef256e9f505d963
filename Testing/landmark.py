"""A case with one bright ball off-centre, in any orientation, and where in the patient the ball is."""

from __future__ import annotations

import numpy as np

from GEDGANLib.volumes.case import Case, Label

LANDMARK = np.array([21.0, -13.0, 34.0])  # mm, RAS
CENTRE = np.array([9.0, -22.0, 25.0])  # mm, RAS, of the field of view


def _rotation(angle: float, axis: tuple[float, float, float]) -> np.ndarray:
    unit = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -unit[2], unit[1]], [unit[2], 0, -unit[0]], [-unit[1], unit[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


ORIENTATIONS = {
    "RAS": np.eye(3),
    "LAS": np.diag([-1.0, 1, 1]),
    "LPS": np.diag([-1.0, -1, 1]),
    "PIR": np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]),
    "oblique": _rotation(0.4, (1, 2, 3)),
    "oblique LPS": _rotation(-0.3, (3, 1, 1)) @ np.diag([-1.0, -1, 1]),
}


def asymmetric_case(orientation: str, spacing: tuple[float, float, float] = (1.2, 1.5, 2.6)) -> tuple[Case, np.ndarray]:
    """A case of 44x40x26 voxels along its own axes and the landmark in mm RAS.

    A ramp that differs along every axis lies under the ball, so that a swapped or flipped axis changes every voxel.
    """
    shape = (44, 40, 26)
    affine = np.eye(4)
    affine[:3, :3] = ORIENTATIONS[orientation] * spacing
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    distance = np.linalg.norm(world - LANDMARK, axis=-1)
    ramp = (world - CENTRE) @ [0.3, 0.7, 1.1]
    image = (100 + ramp + 400 * np.exp(-0.5 * (distance / 4.0) ** 2)).astype(np.float32)
    labels = np.where(distance < 8.0, 1, 0).astype(np.uint8)
    case = Case("scan", image[None], labels, affine, (Label(1, 1, "ball", (1.0, 0.0, 0.0)),))
    return case, LANDMARK


def landmark_of(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Where the ball is: centre of the labels, or of the brightest part of an image, mm RAS."""
    if array.dtype == np.uint8:
        weight = (array > 0).astype(float)
    else:
        weight = np.clip(array - (array.min() + 0.6 * (array.max() - array.min())), 0, None).astype(float)
    index = np.argwhere(weight > 0)
    centre = np.average(index, axis=0, weights=weight[weight > 0])
    return (affine @ [*centre, 1.0])[:3]
