"""How alike two cases are once one lies on the other: what would be the same patient, turned and shifted, is near.

Cases are compared in small pictures of at most :data:`SIDE` voxels a side. The distance is :math:`\\sqrt{2(1-r)}` with
the correlation r of their intensities, channel by channel, so that brightness and contrast do not hide a copy: 0 for
the same picture, 1.4 for two that have nothing in common. The rigid alignment is SimpleITK's, in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase

SIDE = 28
"""Most voxels along an axis of a small picture."""
CANDIDATES = 5
"""Nearest cases before alignment that are then aligned."""
ITERATIONS = 40
OVERLAP = 0.6
"""Share of a picture that must still be covered after alignment: a sliver may agree by chance."""


@dataclass(frozen=True)
class Picture:
    """A case made small.

    :param voxels: (C, *small grid) float32.
    :param spacing: mm.
    """

    voxels: np.ndarray
    spacing: tuple[float, ...]


def small_picture(image: np.ndarray, spacing: Sequence[float]) -> Picture:
    """An image (C, *grid), low-passed, in at most :data:`SIDE` voxels along each axis.

    :param spacing: of the grid, mm.
    """
    from scipy import ndimage

    image = np.asarray(image, np.float32)
    factors = np.array([min(SIDE / side, 1.0) for side in image.shape[1:]])
    blur = [0.0, *(0.5 / factor if factor < 1 else 0.0 for factor in factors)]
    if max(blur):
        image = ndimage.gaussian_filter(image, blur, mode="nearest")
    voxels = ndimage.zoom(image, [1.0, *factors], order=1, mode="nearest", grid_mode=True).astype(np.float32)
    extent = np.array(image.shape[1:]) * np.asarray(spacing, float)
    return Picture(voxels, tuple((extent / voxels.shape[1:]).tolist()))


def pictures_of(cases: Sequence[WorkingCase], spacing: Sequence[float]) -> list[Picture]:
    """Small pictures of working cases, whose grid has this ``spacing``."""
    return [small_picture(case.image, spacing) for case in cases]


def _distance(correlation: np.ndarray | float) -> np.ndarray:
    return np.sqrt(np.clip(2 * (1 - np.nan_to_num(np.asarray(correlation, float))), 0, None))


def _standard(voxels: np.ndarray) -> np.ndarray:
    """Each channel with mean 0 and length 1, all of them as one vector of length 1; zeros for a flat channel."""
    flat = voxels.reshape(len(voxels), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    return (flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)).ravel() / np.sqrt(len(voxels))


def unaligned_distances(first: Sequence[Picture], second: Sequence[Picture]) -> np.ndarray:
    """Distances as they lie, (first, second)."""
    vectors = [np.stack([_standard(picture.voxels) for picture in group]) for group in (first, second)]
    return _distance(vectors[0] @ vectors[1].T)


def aligned_distance(fixed: Picture, moving: Picture) -> float:
    """Distance after the best rigid alignment found; never above that of the pictures as they lie."""
    import SimpleITK

    before = float(_standard(fixed.voxels) @ _standard(moving.voxels))
    if fixed.voxels[0].std() == 0 or moving.voxels[0].std() == 0:  # nothing to align
        return float(_distance(before))

    def image_of(array: np.ndarray) -> object:
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing(fixed.spacing)
        return image

    images = [image_of(picture.voxels[0]) for picture in (fixed, moving)]
    dims = fixed.voxels.ndim - 1
    transform = SimpleITK.CenteredTransformInitializer(
        *images,
        SimpleITK.Euler3DTransform() if dims == 3 else SimpleITK.Euler2DTransform(),
        SimpleITK.CenteredTransformInitializerFilter.GEOMETRY,
    )
    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # pictures this small take longer in pieces
    method.SetMetricAsCorrelation()
    method.SetInitialTransform(transform, inPlace=True)
    finest = min(fixed.spacing)
    method.SetOptimizerAsRegularStepGradientDescent(0.5 * finest, 0.01 * finest, ITERATIONS)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInterpolator(SimpleITK.sitkLinear)
    try:
        method.Execute(*images)
    except RuntimeError:  # the pictures left each other
        return float(_distance(before))
    inside = SimpleITK.Resample(images[1] * 0 + 1, images[0], transform, SimpleITK.sitkNearestNeighbor, 0.0)
    mask = SimpleITK.GetArrayFromImage(inside).T > 0
    after = before
    if mask.mean() > OVERLAP:
        moved = [
            SimpleITK.GetArrayFromImage(
                SimpleITK.Resample(image_of(channel), images[0], transform, SimpleITK.sitkLinear, 0.0)
            ).T[mask]
            for channel in moving.voxels
        ]
        after = float(_standard(fixed.voxels[:, mask]) @ _standard(np.stack(moved)))
    return float(_distance(max(before, after)))


@dataclass(frozen=True)
class Neighbours:
    """The cases of another set that are nearest to one, after alignment, nearest first.

    :param indices: in that set.
    :param distances: after alignment.
    :param mirrored: the same of the case mirrored, where it may be; none of these is nearer.
    """

    indices: tuple[int, ...]
    distances: tuple[float, ...]
    mirrored: tuple[Neighbours, ...] = ()

    @property
    def distance(self) -> float:
        """To the nearest."""
        return self.distances[0]

    def ratio(self) -> float:
        """Distance to the nearest over the median of those to the others: near 0 for a copy, near 1 for a case that is
        as near to one as to others, however blurred or typical it is. 1 where there are no others."""
        return min(each._ratio() for each in (self, *self.mirrored))

    def of_copy(self) -> Neighbours:
        """Those of the case as it lies or mirrored, whichever is the nearest to one case, beside others."""
        return min((self, *self.mirrored), key=Neighbours._ratio)

    def _ratio(self) -> float:
        others = self.distances[1:]
        return self.distances[0] / max(float(np.median(others)), 1e-12) if others else 1.0


def neighbours(
    queries: Sequence[Picture],
    references: Sequence[Picture],
    skip_same: bool = False,
    progress: Progress = quiet,
    mirrored: Sequence[int] = (),
) -> list[Neighbours]:
    """For each small picture its nearest ones among others.

    :param skip_same: both are one set; a case is not compared with itself.
    :param mirrored: axes along which a picture may be mirrored, each alone and all together, to lie nearer.
    """
    ways = [axes for count in range(1, len(mirrored) + 1) for axes in combinations(mirrored, count)]
    forms = [queries, *([_mirror(picture, axes) for picture in queries] for axes in ways)]
    before = [unaligned_distances(form, references) for form in forms]
    if skip_same:
        for distances in before:
            np.fill_diagonal(distances, np.inf)
    found = []
    for index in range(len(queries)):
        each = [_nearest(form[index], references, distances[index]) for form, distances in zip(forms, before)]
        nearest = min(each, key=lambda form: form.distance)
        found.append(replace(nearest, mirrored=tuple(form for form in each if form is not nearest)))
        progress(index + 1, len(queries), "")
    return found


def _mirror(picture: Picture, axes: Sequence[int]) -> Picture:
    return Picture(np.flip(picture.voxels, [1 + axis for axis in axes]).copy(), picture.spacing)


def _nearest(query: Picture, references: Sequence[Picture], before: np.ndarray) -> Neighbours:
    """:param before: distances as they lie, (references,)."""
    order = [int(i) for i in before.argsort()[:CANDIDATES] if np.isfinite(before[i])]
    distances = np.array([aligned_distance(query, references[i]) for i in order])
    best = distances.argsort()
    return Neighbours(tuple(order[i] for i in best), tuple(distances[best].tolist()))
