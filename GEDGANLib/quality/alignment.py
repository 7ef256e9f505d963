"""How alike two cases are once one lies on the other: what would be the same patient, turned and shifted, is near.

Cases are compared in small pictures of at most :data:`SIDE` voxels a side. The distance is :math:`\\sqrt{2(1-r)}` with
the correlation r of their intensities, so that brightness and contrast do not hide a copy: 0 for the same picture,
1.4 for two that have nothing in common. The rigid alignment is SimpleITK's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..volumes.pipeline import Progress, WorkingCase, _quiet

SIDE = 28
"""Most voxels along an axis of a small picture."""
CANDIDATES = 3
"""Nearest cases before alignment, of each set, that are then aligned."""
ITERATIONS = 40


def small_picture(image: np.ndarray) -> np.ndarray:
    """The channels' mean of (C, *grid), low-passed, in at most :data:`SIDE` voxels a side; float32."""
    from scipy import ndimage

    mean = np.asarray(image, np.float32).mean(0)
    factor = min(SIDE / max(mean.shape), 1.0)
    if factor < 1:
        mean = ndimage.gaussian_filter(mean, 0.5 / factor, mode="nearest")
    return ndimage.zoom(mean, factor, order=1, mode="nearest", grid_mode=True).astype(np.float32)


def pictures_of(cases: Sequence[WorkingCase] | Sequence[np.ndarray]) -> list[np.ndarray]:
    """Small pictures of working cases, or of images (C, *grid)."""
    return [small_picture(case if isinstance(case, np.ndarray) else case.image) for case in cases]


def _distance(correlation: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip(2 * (1 - correlation), 0, None))


def unaligned_distances(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """Distances as they lie, (first, second)."""

    def standard(pictures: Sequence[np.ndarray]) -> np.ndarray:
        flat = np.stack([picture.ravel() for picture in pictures]).astype(np.float64)
        flat = flat - flat.mean(1, keepdims=True)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)

    return _distance(standard(first) @ standard(second).T)


def aligned_distance(fixed: np.ndarray, moving: np.ndarray) -> float:
    """Distance after the best rigid alignment found; never above that of the pictures as they lie."""
    import SimpleITK

    if fixed.std() == 0 or moving.std() == 0:  # nothing to align, and nothing in common
        return float(np.sqrt(2.0))
    before = float(np.corrcoef(fixed.ravel(), moving.ravel())[0, 1])
    images = [SimpleITK.GetImageFromArray(picture) for picture in (fixed, moving)]
    dims = fixed.ndim
    transform = SimpleITK.CenteredTransformInitializer(
        *images,
        SimpleITK.Euler3DTransform() if dims == 3 else SimpleITK.Euler2DTransform(),
        SimpleITK.CenteredTransformInitializerFilter.GEOMETRY,
    )
    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # pictures this small take longer in pieces
    method.SetMetricAsCorrelation()
    method.SetInitialTransform(transform, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(0.5, 0.01, ITERATIONS)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInterpolator(SimpleITK.sitkLinear)
    try:
        method.Execute(*images)
    except RuntimeError:  # pictures without any contrast cannot be aligned
        return float(_distance(np.nan_to_num(np.array(before))))
    # Judged on the whole picture, not on what overlaps: a sliver that overlaps may agree by chance.
    resampled = SimpleITK.Resample(images[1], images[0], transform, SimpleITK.sitkLinear, float(moving.min()))
    inside = SimpleITK.Resample(images[1] * 0 + 1, images[0], transform, SimpleITK.sitkNearestNeighbor, 0.0)
    mask = SimpleITK.GetArrayFromImage(inside) > 0
    after = before
    if mask.mean() > 0.6:
        after = float(np.corrcoef(fixed[mask], SimpleITK.GetArrayFromImage(resampled)[mask])[0, 1])
    return float(_distance(np.nan_to_num(np.array(max(before, after)))))


@dataclass(frozen=True)
class Nearest:
    """The nearest case of another set after alignment.

    :param index: in that set.
    :param distance: after alignment.
    """

    index: int
    distance: float


def nearest(
    queries: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    skip_same: bool = False,
    progress: Progress = _quiet,
) -> list[Nearest]:
    """For each small picture its nearest one among others.

    :param skip_same: both are one set; a case is not compared with itself.
    """
    before = unaligned_distances(queries, references)
    if skip_same:
        np.fill_diagonal(before, np.inf)
    found = []
    for index, query in enumerate(queries):
        order = [int(i) for i in before[index].argsort()[:CANDIDATES] if np.isfinite(before[index, i])]
        distances = [aligned_distance(query, references[i]) for i in order]
        best = int(np.argmin(distances))
        found.append(Nearest(order[best], distances[best]))
        progress(index + 1, len(queries), "")
    return found
