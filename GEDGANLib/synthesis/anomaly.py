r"""Anomaly map: where a volume holds what neither its place nor the nearest case of a model explains.

What a model makes misses much of any scan, and always the same at some places. So of held-out healthy scans x with
their nearest cases g (:mod:`.projection`) the best linear guess of a voxel is taken, with means over healthy cases,

.. math::
   u = (x-\bar x) - \beta\,(g-\bar g),\qquad
   \beta = \frac{\langle\mathrm{cov}(x,g)\rangle}{\langle\mathrm{var}(g)\rangle} \in [0,1],

and the map counts, in root mean squares of the same in healthy cases, how large the averaged u is,
:math:`|\langle u\rangle|/\sqrt{\langle u^2\rangle}`. Where the model tells nothing :math:`\beta` is 0 and this is the
plain intensity z-score, where it tells all it is the residual. Averages :math:`\langle\cdot\rangle` are over Gaussians,
since a dozen cases tell little of each voxel alone. (Residuals of a projection as a map of what is unusual: Schlegl et
al., *f-AnoGAN*, Medical Image Analysis 54, 2019, with the plain residual.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..jobs.writing import write_bytes

SMOOTHED, POOLED = 0.7, 2.0
"""Voxels of the Gaussians over what is unexplained, and over statistics of healthy cases."""
MAPS = ("scan_mean", "made_mean", "slope", "deviation")
"""Of what is usual, as a file keeps them."""
FEWEST = 5
"""Healthy cases below which a deviation says nothing."""
FLOOR = 0.25
"""Of the median deviation; where healthy cases never differ (air) a voxel must not look infinitely unusual."""


@dataclass(frozen=True)
class Healthy:
    """What healthy scans are like beside their nearest cases, voxel by voxel of the working grid.

    :param scan_mean, made_mean: of scans and of nearest cases, (C, *grid) float32.
    :param slope: of a scan's difference from the mean for one of its nearest case, (C, *grid) float32 in [0, 1].
    :param deviation: root mean square of what is unexplained, averaged, (C, *grid) float32.
    :param cases: how many there were.
    :param digests: of their images, see :func:`GEDGANLib.training.request.image_digest`; empty where not known.
    """

    scan_mean: np.ndarray
    made_mean: np.ndarray
    slope: np.ndarray
    deviation: np.ndarray
    cases: int
    digests: tuple[str, ...] = ()

    @classmethod
    def of(cls, scans: Sequence[np.ndarray], made: Sequence[np.ndarray], digests: Sequence[str] = ()) -> Healthy:
        """From healthy scans.

        :param scans: (C, *grid) in [-1, 1], on the working grid.
        :param made: the nearest case of each, alike.
        :param digests: of the images of the scans.
        :raises InputError: fewer than :data:`FEWEST`.
        """
        count = len(scans)
        if count < FEWEST:
            raise InputError(
                f"{count} healthy cases are too few to know what is usual; {FEWEST} are needed.",
                "Give a folder with more of them, best such that the model was not trained on.",
            )
        scan_mean, made_mean = (np.mean(group, 0, dtype=np.float32) for group in (scans, made))
        apart = [(scan - scan_mean, case - made_mean) for scan, case in zip(scans, made)]
        together = averaged(sum(of_scan * of_made for of_scan, of_made in apart), POOLED)
        variance = averaged(sum(of_made**2 for _, of_made in apart), POOLED)
        slope = np.clip(together / np.maximum(variance, 1e-12), 0, 1)
        # Each case is part of its own mean; this is how far it is from that of the others.
        unexplained = [(of_scan - slope * of_made) * count / (count - 1) for of_scan, of_made in apart]
        square = sum(averaged(each, SMOOTHED) ** 2 for each in unexplained) / count
        deviation = np.sqrt(averaged(square, POOLED))
        typical = np.median(deviation, axis=tuple(range(1, deviation.ndim)), keepdims=True)
        deviation = np.maximum(deviation, FLOOR * np.maximum(typical, 1e-6))
        return cls(scan_mean, made_mean, slope, deviation.astype(np.float32), count, tuple(digests))

    def anomaly(self, scan: np.ndarray, made: np.ndarray) -> np.ndarray:
        """How unusual a scan (C, *grid) beside its nearest case is, (*grid) float32; in healthy ones it is about 1."""
        unexplained = scan - self.scan_mean - self.slope * (made - self.made_mean)
        size = averaged(unexplained, SMOOTHED) / self.deviation
        return np.sqrt(np.mean(size**2, 0)).astype(np.float32)

    def save(self, path: Path, model_digest: str) -> None:
        """Write as safetensors.

        :raises InputError: the file cannot be written.
        """
        from safetensors.numpy import save

        about = {
            "format": "GED-GAN healthy scans", "model_digest": model_digest, "cases": str(self.cases),
            "digests": " ".join(self.digests),
        }  # fmt: skip
        write_bytes(path, save({name: getattr(self, name) for name in MAPS}, about))

    @classmethod
    def load(cls, path: Path, model_digest: str) -> Healthy:
        """Read what :meth:`save` wrote.

        :raises InputError: it cannot be read, or belongs to another model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:
                about = file.metadata() or {}
                values = {name: file.get_tensor(name) for name in MAPS}
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path} does not say what healthy scans are like.", "Give a folder of healthy cases."
            ) from error
        if about.get("model_digest") != model_digest:
            raise InputError(f"{path} was made with another model.", "Give the folder of healthy cases anew.")
        digests = tuple(about.get("digests", "").split())
        return cls(**values, cases=int(about.get("cases", 0)), digests=digests)


def averaged(values: np.ndarray, sigma: float) -> np.ndarray:
    """Values (C, *grid) averaged over a Gaussian of ``sigma`` voxels, each channel for itself."""
    from scipy import ndimage

    return ndimage.gaussian_filter(values, (0, *[sigma] * (values.ndim - 1)), mode="nearest")
