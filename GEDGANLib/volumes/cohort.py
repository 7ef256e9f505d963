"""The embedded cohort: variations of one average brain.

For a first try, for tests and for machines without data. Each case is the ICBM152 average (T1, grey and white matter)
after an affine and a smooth deformation, with tissue contrast, bias field and noise of its own. All cases descend from
the same average: they vary, but they are not a population, and nothing learned from them says anything about people.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from .case import Case, Label

DESCRIPTION = "Variation of one average brain (ICBM152), made by GED-GAN; not a person."
DATASET_DESCRIPTION = "variations of one average brain (ICBM152), made by GED-GAN; not people"
TEMPLATE = Path(__file__).parent / "resources" / "icbm152_2mm.nii.gz"
LABELS = (
    Label(1, 1, "grey matter", (0.53, 0.62, 0.70)),
    Label(2, 2, "white matter", (0.94, 0.90, 0.76)),
)

ROTATION = 6.0  # standard deviation, degrees
SCALING = 0.045  # standard deviation of the logarithm, per axis
SHIFT = 3.0  # standard deviation, mm
WARP = 3.0  # standard deviation of the smooth displacement, mm
WARP_SCALE = 36.0  # distance of its control points, mm
MAXIMUM_INTENSITY = 1000.0


@lru_cache(maxsize=4)
def _template(smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Template channels (3, I, J, K) float32 in [0, 1], smoothed by ``smoothing`` mm, and its affine."""
    from scipy import ndimage

    voxels, affine = _read_template()
    channels = voxels.astype(np.float32) / 255
    if smoothing > 0:
        width = smoothing / affine[0, 0]
        channels = np.stack([ndimage.gaussian_filter(channel, width) for channel in channels])
    return channels, affine


def _read_template() -> tuple[np.ndarray, np.ndarray]:
    """Voxels (3, I, J, K) and affine of the template's file."""
    try:
        import nibabel

        image = nibabel.load(TEMPLATE)
        return np.moveaxis(np.asarray(image.dataobj), -1, 0), image.affine
    except ImportError:
        # 3D Slicer brings SimpleITK along: its sample data need nothing that is to be installed first.
        import SimpleITK

        image = SimpleITK.ReadImage(str(TEMPLATE))
        affine = np.diag([*image.GetSpacing()[:3], 1.0])
        directions = np.array(image.GetDirection()).reshape(4, 4)[:3, :3]
        to_ras = np.diag([-1.0, -1.0, 1.0])
        affine[:3, :3] = to_ras @ directions @ affine[:3, :3]
        affine[:3, 3] = to_ras @ np.array(image.GetOrigin()[:3])
        return SimpleITK.GetArrayFromImage(image).transpose(0, 3, 2, 1), affine


def _smooth_noise(generator: np.random.Generator, shape: Sequence[int], spacing: float, scale: float) -> np.ndarray:
    """Random field, of unit variance at its control points ``scale`` mm apart, interpolated by cubic splines."""
    from scipy import ndimage

    control = [max(int(np.ceil(side * spacing / scale)), 1) + 3 for side in shape]
    points = generator.standard_normal(control)
    positions = [(np.arange(side) * spacing / scale + 1.0) for side in shape]
    for axis, position in enumerate(positions):
        weights = ndimage.map_coordinates(
            np.eye(points.shape[axis]), np.meshgrid(np.arange(points.shape[axis]), position, indexing="ij"), order=3
        )
        points = np.moveaxis(np.tensordot(points, weights, axes=(axis, 0)), -1, axis)
    return points


def _rotation(degrees: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def make_case(index: int, seed: int = 0, shape: Sequence[int] = (40, 48, 40), spacing: float = 4.0) -> Case:
    """Return case ``index`` of the cohort ``seed``; the same arguments give the same case, bit for bit.

    :param shape: voxels; the grid is centred on the brain.
    :param spacing: isotropic voxel size in mm.
    :returns: a case with one T1-like channel (0 to about 1000) and the labels grey matter and white matter.
    """
    from scipy import ndimage

    generator = np.random.default_rng([seed, index])
    channels, template_affine = _template(0.4 * spacing if spacing > 2.5 else 0.0)
    template_shape = np.array(channels.shape[1:])
    centre = (template_affine @ [*(template_shape - 1) / 2, 1.0])[:3]
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = centre - spacing * (np.array(shape) - 1) / 2

    # Where in the template each voxel of the new case looks.
    grid = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij")).reshape(3, -1)
    position = grid * spacing + (affine[:3, 3] - centre)[:, None]
    linear = _rotation(generator.normal(0, ROTATION, 3)) @ np.diag(np.exp(generator.normal(0, SCALING, 3)))
    shear = np.eye(3) + np.triu(generator.normal(0, 0.03, (3, 3)), 1)
    position = linear @ shear @ position + generator.normal(0, SHIFT, 3)[:, None]
    for axis in range(3):
        position[axis] += WARP * _smooth_noise(generator, shape, spacing, WARP_SCALE).reshape(-1)
        position[axis] += 0.4 * WARP * _smooth_noise(generator, shape, spacing, WARP_SCALE / 2).reshape(-1)
    voxel = np.linalg.inv(template_affine) @ np.vstack([position + centre[:, None], np.ones(position.shape[1])])
    t1, grey, white = (
        ndimage.map_coordinates(channel, voxel[:3], order=1, mode="constant").reshape(shape) for channel in channels
    )

    # Contrast a tissue, then a bias field and noise, as a scanner would differ from day to day.
    brain = np.clip(t1 * 5, 0, 1)
    contrast = generator.normal(0, 0.05, 3)
    image = t1 * (1 + contrast[0] * grey + contrast[1] * white + contrast[2] * (1 - grey - white))
    image = np.clip(image, 0, None) ** np.exp(generator.normal(0, 0.08))
    image *= np.exp(0.045 * _smooth_noise(generator, shape, spacing, 70.0))
    image = image + generator.normal(0, 0.012, shape) * (0.2 + brain)
    image = np.clip(image, 0, 1.3) * MAXIMUM_INTENSITY
    labels = np.where(np.maximum(grey, white) > 0.4, np.where(white > grey, 2, 1), 0)
    return Case(
        name=f"variation_{index:04d}",
        image=np.round(image)[None].astype(np.float32),
        labels=labels.astype(np.uint8),
        affine=affine,
        label_table=LABELS,
        channel_names=("T1",),
        description=DESCRIPTION,
    )
