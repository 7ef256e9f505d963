"""Explanations of one volume: which way its structure runs, and where a discriminator finds it unlike real ones.

Every map lies on the volume's own grid. Colours follow the convention for directions in the patient: red runs between
left and right, green between back and front, blue between feet and head, whatever the orientation of the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..volumes.case import Case
from ..volumes.geometry import directions_of, resample, spacing_of
from ..volumes.pipeline import to_working
from .model_file import Model

BRIGHT_PERCENTILE = 90.0
"""Of the structure energy: directions where it is so large are drawn in full brightness."""


@dataclass(frozen=True)
class StructureMaps:
    """Maps of a volume (I, J, K), on its grid.

    :param surface_direction: (I, J, K, 3) uint8, RGB of the direction across surfaces, as bright as there is one.
    :param tube_direction: (I, J, K, 3) uint8, RGB of the direction along tubes and edges, alike.
    :param linear, planar, spherical: (I, J, K) float32 in [0, 1]; they sum to 1.
    :param energy: (I, J, K) float32, trace of the structure tensor, (intensity/mm)².
    """

    surface_direction: np.ndarray
    tube_direction: np.ndarray
    linear: np.ndarray
    planar: np.ndarray
    spherical: np.ndarray
    energy: np.ndarray


def structure_maps(
    image: np.ndarray, affine: np.ndarray, sigma: float | None = None, rho: float | None = None
) -> StructureMaps:
    """Shape and direction of the structure in ``image``.

    :param image: (I, J, K), any unit.
    :param affine: (4, 4), voxel to mm in RAS; oblique ones too.
    :param sigma: scale of the gradient in mm; the smallest voxel side when not given.
    :param rho: scale of the average in mm; twice that when not given.
    """
    import torch

    from ..structure.shape import ShapeField

    spacing = tuple(float(side) for side in spacing_of(affine))
    field = ShapeField(spacing=spacing, sigma=sigma or min(spacing), rho=rho or 2 * min(spacing), tau=1.0)
    maps = field.by_blocks(torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None])[0].numpy()
    linear, planar, spherical, energy = maps[:4]
    full = max(float(np.percentile(energy[energy > 0], BRIGHT_PERCENTILE)) if (energy > 0).any() else 0.0, 1e-30)
    brightness = np.sqrt(np.clip(energy / full, 0, 1))
    directions = directions_of(affine)
    return StructureMaps(
        _colours(maps[4:7], directions, brightness * linear),
        _colours(maps[7:10], directions, brightness * planar),
        linear,
        planar,
        spherical,
        energy,
    )


def _colours(vectors: np.ndarray, directions: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """Unit vectors (3, I, J, K) along the grid's axes -> RGB (I, J, K, 3) by their direction in the patient."""
    in_patient = np.abs(np.einsum("pa,aijk->ijkp", directions, vectors))
    return np.round(255 * np.clip(in_patient * brightness[..., None], 0, 1)).astype(np.uint8)


def unlikeness_map(model: Model, case: Case) -> np.ndarray:
    """Where the discriminator finds a volume unlike the real ones it has seen.

    Each place of the volume adds to the discriminator's judgement. The map counts, in standard deviations over the
    training cases, how much less it adds than it does for them: 0 is like a typical training case, 3 and more is
    suspicious. It is judged by the image alone, on the model's grid, and is as coarse as the discriminator's last maps.

    :param model: loaded with its critic.
    :param case: in any orientation, in the units of the training data.
    :returns: (I, J, K) float32 on the grid of the case.
    :raises InputError: the model has no discriminator, or takes other channels.
    """
    import torch
    from torch.nn import functional

    from ..networks.build import seen_alone

    plan, critic = model.plan, model.critic
    if critic is None:
        raise InputError(
            f"{model.path} holds no discriminator to ask.", "Use a model that was trained with --method ged."
        )
    if len(case.image) != len(plan.channels):
        raise InputError(
            f"{case.name} has {len(case.image)} channel(s), the model takes {len(plan.channels)}.",
            "Choose a volume like those the model was trained on.",
        )
    working = to_working(case, plan)
    device = next(critic.discriminator.parameters()).device
    image = torch.from_numpy(working.image)[None].to(device)
    with torch.inference_mode():
        inputs = seen_alone(plan, image, critic.tau)
        realness = critic.discriminator.realness(*inputs, labelled=torch.zeros(1, device=device))
        unlike = ((critic.mean - realness) / critic.deviation)[None]
        full = functional.interpolate(unlike, size=tuple(plan.grid.shape), mode="trilinear", align_corners=False)
    return resample(full[0].cpu().numpy(), working.affine, case.affine, case.image.shape[1:], outside="border")[0]


def draw_explanation(path, case: Case, maps: StructureMaps, unlikeness: np.ndarray | None) -> None:
    """Draw the middle slices of a volume and its maps as a PNG: a plane a row, a map a column.

    :raises InputError: the picture cannot be written.
    """
    from ..volumes.pictures import draw_maps

    energy = np.log10(maps.energy + 1e-6 * max(float(maps.energy.max()), 1e-30))
    share = {"cmap": "gray", "vmin": 0, "vmax": 1}
    columns: list[tuple[str, np.ndarray, dict, bool]] = [
        ("volume", case.image[0], {"cmap": "gray"}, False),
        ("across surfaces", maps.surface_direction, {}, False),
        ("along tubes", maps.tube_direction, {}, False),
        ("surface: linear, 0 to 1", maps.linear, share, False),
        ("tube: planar, 0 to 1", maps.planar, share, False),
        ("neither: spherical, 0 to 1", maps.spherical, share, False),
        ("energy (log10)", energy, {"cmap": "gray"}, True),
    ]
    if unlikeness is not None:
        columns.append(("unlike real, SD", unlikeness, {"cmap": "coolwarm", "vmin": -4, "vmax": 4}, True))
    foot = f"{case.name}    red: left to right    green: back to front    blue: feet to head"
    draw_maps(path, columns, case.affine, foot)


def scalar_maps(maps: StructureMaps, unlikeness: np.ndarray | None) -> Sequence[tuple[str, np.ndarray]]:
    """Names and arrays (I, J, K) float32 of the maps that are one number a voxel."""
    found = [(name, getattr(maps, name)) for name in ("linear", "planar", "spherical", "energy")]
    return found if unlikeness is None else [*found, ("unlike-real", unlikeness)]


def colour_maps(maps: StructureMaps) -> Sequence[tuple[str, np.ndarray]]:
    """Names and arrays (I, J, K, 3) uint8 of the maps that are colours."""
    return [("surface-direction", maps.surface_direction), ("tube-direction", maps.tube_direction)]
