r"""Anomaly map: where a volume differs from the nearest case a model can make more than healthy ones do.

The residual r of a projection, averaged over a Gaussian, is compared voxel by voxel with those of held-out healthy
cases, :math:`(|r| - \mu)/s`; mean and deviation are themselves averaged over a Gaussian, since a dozen healthy cases do
not tell them for each voxel alone. (Residuals of a projection as a map of what is unusual: Schlegl et al., *f-AnoGAN*,
Medical Image Analysis 54, 2019.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..volumes.writing import write_bytes

SMOOTHED, POOLED = 1.0, 2.0
"""Voxels of the Gaussians over the residual, and over its mean and deviation."""
FEWEST = 5
"""Healthy cases below which a deviation says nothing."""
FLOOR = 0.25
"""Of the median deviation; where healthy cases never differ (air) a voxel must not look infinitely unusual."""


@dataclass(frozen=True)
class Healthy:
    """What residuals of healthy cases are like, voxel by voxel of the working grid.

    :param mean, deviation: of the averaged size of the residual, (*grid) float32.
    :param cases: how many there were.
    :param digests: of their images, see :func:`GEDGANLib.training.request.image_digest`; empty where not known.
    """

    mean: np.ndarray
    deviation: np.ndarray
    cases: int
    digests: tuple[str, ...] = ()

    @classmethod
    def of(cls, residuals: Sequence[np.ndarray], digests: Sequence[str] = ()) -> Healthy:
        """From residuals (C, *grid) of healthy cases, and the digests of their images.

        :raises InputError: fewer than :data:`FEWEST`.
        """
        from scipy import ndimage

        if len(residuals) < FEWEST:
            raise InputError(
                f"{len(residuals)} healthy cases are too few to know what is usual; {FEWEST} are needed.",
                "Give a folder with more of them, best such that the model was not trained on.",
            )
        sizes = np.stack([residual_size(residual) for residual in residuals])
        mean = ndimage.gaussian_filter(sizes.mean(0), POOLED, mode="nearest")
        variance = ndimage.gaussian_filter(((sizes - mean) ** 2).mean(0), POOLED, mode="nearest")
        deviation = np.sqrt(variance)
        deviation = np.maximum(deviation, FLOOR * max(float(np.median(deviation)), 1e-6))
        return cls(mean.astype(np.float32), deviation.astype(np.float32), len(residuals), tuple(digests))

    def anomaly(self, residual: np.ndarray) -> np.ndarray:
        """Standard deviations by which a residual (C, *grid) is larger than usual, (*grid) float32."""
        return ((residual_size(residual) - self.mean) / self.deviation).astype(np.float32)

    def save(self, path: Path, model_digest: str) -> None:
        """Write as safetensors.

        :raises InputError: the file cannot be written.
        """
        from safetensors.numpy import save

        about = {
            "format": "GED-GAN healthy residuals", "model_digest": model_digest, "cases": str(self.cases),
            "digests": " ".join(self.digests),
        }  # fmt: skip
        write_bytes(path, save({"mean": self.mean, "deviation": self.deviation}, about))

    @classmethod
    def load(cls, path: Path, model_digest: str) -> Healthy:
        """Read what :meth:`save` wrote.

        :raises InputError: it cannot be read, or belongs to another model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:
                about = file.metadata() or {}
                values = {name: file.get_tensor(name) for name in ("mean", "deviation")}
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path} holds no residuals of healthy cases.", "Give a folder of healthy cases."
            ) from error
        if about.get("model_digest") != model_digest:
            raise InputError(f"{path} was made with another model.", "Give the folder of healthy cases anew.")
        digests = tuple(about.get("digests", "").split())
        return cls(values["mean"], values["deviation"], int(about.get("cases", 0)), digests)


def residual_size(residual: np.ndarray) -> np.ndarray:
    """Size of the averaged residual (C, *grid) over the channels, (*grid)."""
    from scipy import ndimage

    return np.sqrt(sum(ndimage.gaussian_filter(channel, SMOOTHED, mode="nearest") ** 2 for channel in residual))
