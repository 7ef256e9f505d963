"""Where the voxels of a case lie that nnU-Net has preprocessed: transposed, cropped, resampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..volumes.files import LPS_TO_RAS

MOST_LOCATIONS = 10_000


def affine_of(properties: dict[str, Any], transposed: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Affine of preprocessed voxels, (4, 4), to mm in RAS.

    :param properties: of the case, as nnU-Net keeps them beside it.
    :param transposed: ``transpose_forward`` of the plans.
    :param shape: of the preprocessed voxels.
    :raises ValueError: it was read by a reader that keeps no place.
    """
    found = np.eye(4)
    if "sitk_stuff" in properties:
        place = properties["sitk_stuff"]
        found[:3, :3] = np.reshape(place["direction"], (3, 3)) * np.array(place["spacing"])
        found[:3, 3] = place["origin"]
        found = LPS_TO_RAS @ found
    elif "nibabel_stuff" in properties:
        place = properties["nibabel_stuff"]
        found = np.array(place.get("reoriented_affine", place["original_affine"]), dtype=float)
    else:
        raise ValueError("this case does not say where it lies")
    # Voxels are z, y, x there, then transposed, then cropped, then of another size from edge to edge.
    to_array = np.zeros((4, 4))
    to_array[3, 3] = 1
    for axis, before in enumerate(transposed):
        to_array[2 - before, axis] = 1
    found = found @ to_array
    lows = [ends[0] for ends in properties["bbox_used_for_cropping"]]
    factors = np.array(properties["shape_after_cropping_and_before_resampling"]) / np.array(shape)
    resampled = np.diag([*factors, 1.0])
    resampled[:3, 3] = np.array(lows) + (factors - 1) / 2
    return found @ resampled


def class_locations(labels: np.ndarray, before: dict[Any, Any], random: np.random.Generator) -> dict[Any, np.ndarray]:
    """Some voxels of each label, as nnU-Net keeps them to find patches with: (n, 4), the first column 0.

    :param before: those of the case, whose labels, or sets of them, are looked for.
    """
    found = {}
    for label in before:
        where = np.argwhere(np.isin(labels, label if isinstance(label, (tuple, list)) else [label]))
        if len(where) > MOST_LOCATIONS:
            where = where[random.choice(len(where), MOST_LOCATIONS, replace=False)]
        found[label] = np.column_stack([np.zeros(len(where), where.dtype), where])
    return found
