"""Variations for somebody's own training loop: of scans of an aligned run, whatever became of their voxels on the way.

A case is known by its name, and where its voxels lie by the affine that comes with them: it may have been cropped,
turned, resampled or normalised, and it may be drawn anew at every step. Where nothing else interpolates afterwards, an
affine augmentation is composed into the same displacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..alignment.variations import ORDER_IN_A_HURRY, Request, Scan, Subject, background_of
from ..errors import InputError
from ..volumes.dataset import CHANNEL
from ..volumes.files import stem_of
from .model_file import load_model
from .variations import Places, Variations

KEPT = 32
"""Scans whose deformations are kept prepared, each some megabytes."""


class OnTheFly:
    """Draws variations of the scans of an aligned run.

    :param run: folder of ``gedgan align``; or a model file beside such a run.
    :param strength: of the variations, from 0 (the scan itself) to 2; a pair for one drawn evenly between them.
    :param look: how much brightness varies, in [0, 1].
    :param left_out: names, in the run, of cases that are validated on: the modes are made without their images.
    :param turn: degrees that a scan is turned by about each axis at most, beside.
    :param scale: share that it is made larger or smaller by at most.
    :param order: of the splines that images are interpolated by: 3, or 5 for sharper ones in three times the time.
    :raises InputError: the run is not done, or was made before alignments said where their cases lie; or its model is
        for sharing and cannot leave anything out.
    """

    def __init__(
        self,
        run: str | Path,
        strength: float | tuple[float, float] = 1.0,
        look: float = 1.0,
        left_out: Sequence[str] = (),
        turn: float = 0.0,
        scale: float = 0.0,
        order: int = ORDER_IN_A_HURRY,
    ) -> None:
        from ..alignment.runs import model_and_run

        path, folder = model_and_run(Path(run))
        if folder is None:
            raise InputError(f"{run} does not say where scans lie.", "Give the folder of a run of gedgan align.")
        places = Places.of(folder)
        if not places.places:
            raise InputError(f"The run {folder} was made by an older GED-GAN.", "Align the scans again.")
        self.variations = Variations(load_model(path, "cpu", with_population=True), places)
        low, high = (strength, strength) if isinstance(strength, (int, float)) else strength
        self.strength = float(low), float(high)
        self.look, self.turn, self.scale, self.order = look, turn, scale, order
        digests = places.digests
        self.left_out = self.variations.among_modes(digests[name] for name in left_out if name in digests)
        self._subjects: dict[tuple, Subject] = {}

    @property
    def names(self) -> frozenset[str]:
        """Of the cases that can be varied."""
        return frozenset(self.variations.known.digests)

    def case_of(self, path: str | Path) -> str:
        """The name of a case in the run, from the path of its image."""
        stem = stem_of(Path(path))
        match = CHANNEL.match(stem)
        return stem if stem in self.names or match is None else match.group(1)

    def __call__(
        self,
        name: str,
        image: np.ndarray,
        labels: np.ndarray | None,
        affine: np.ndarray,
        random: np.random.Generator | np.random.RandomState,
        air: Sequence[float | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A variation of a scan.

        :param name: of the case in the run.
        :param image: (C, I, J, K).
        :param labels: (I, J, K), whole numbers.
        :param affine: of these voxels, (4, 4), to mm in RAS.
        :param air: intensity of air in each channel, None for no change of brightness; when not given, what lies flat
            around the anatomy, or the smallest value, and None where the scale is absolute, as of CT.
        :raises InputError: no such case in the run, or other channels.
        """
        known = self.variations.known
        place = known.places.get(known.digests.get(name, ""))
        if place is None:
            raise InputError(
                f"The run knows no case {name}.", f"It knows {', '.join(sorted(self.names)[:3])} and others like these."
            )
        channels = self.variations.plan.channels
        if len(image) != len(channels):
            raise InputError(
                f"{name} has {len(image)} channel(s), the model takes {len(channels)}.", "Give all of them at once."
            )
        key = (name, tuple(image.shape[1:]), np.asarray(affine, np.float64).tobytes())
        if key not in self._subjects:
            while len(self._subjects) >= KEPT:
                del self._subjects[next(iter(self._subjects))]
            self._subjects[key] = self.variations.subject(place, affine, image.shape[1:], self.left_out)
        subject = self._subjects[key]
        drawn = random.uniform(size=8)
        strength = self.strength[0] + drawn[0] * (self.strength[1] - self.strength[0])
        variation = subject.varied(Request(strength, self.look), [int(share * 2**31) for share in drawn[1:3]])
        if air is None:
            air = [
                None if channel.mapping == "window" else darkest_of(voxels) for channel, voxels in zip(channels, image)
            ]
        then = None
        if self.turn or self.scale:
            then = affine_change(subject.lattice.shape, affine, self.turn, self.scale, 2 * drawn[3:7] - 1)
        return Scan(subject, image, labels, air, self.order).varied(variation, then=then)


def darkest_of(voxels: np.ndarray) -> float:
    """Intensity of air."""
    flat = background_of(voxels)
    return float(voxels.min()) if flat is None else flat


def affine_change(
    shape: Sequence[int], affine: np.ndarray, turn: float, scale: float, shares: np.ndarray
) -> np.ndarray:
    """A turn and a change of size about the middle, in mm, as (D, D + 1) from voxels to voxels.

    :param turn: degrees about each axis at most.
    :param scale: share at most.
    :param shares: of these, in [-1, 1]: one an axis, and of the size.
    """
    from scipy.spatial.transform import Rotation

    matrix = Rotation.from_euler("xyz", turn * shares[:3], degrees=True).as_matrix() * np.exp(scale * shares[3])
    linear = np.asarray(affine, np.float64)[:3, :3]
    matrix = np.linalg.inv(linear) @ matrix @ linear
    middle = (np.asarray(shape) - 1) / 2
    return np.column_stack([matrix, middle - matrix @ middle])
