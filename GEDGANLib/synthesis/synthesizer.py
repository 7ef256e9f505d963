"""New cases from a model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import __version__
from ..volumes.case import Case
from ..volumes.pipeline import unmap_intensities
from .model_file import Model


def latent_of(seed: int, index: int, size: int) -> np.ndarray:
    """Latent vector of case ``index`` of ``seed``, (size,) float32; the same on every machine."""
    return np.random.default_rng([seed, index]).standard_normal(size, dtype=np.float32)


def describe_origin(model: Model) -> str:
    """One sentence for people who find the case later."""
    source = model.plan.description or "unnamed scans"
    return f"Synthetic, made by GED-GAN {__version__}; not a patient. Learned from: {source}"


class Synthesizer:
    """Makes cases from a model; case i of a seed is the same alone or among many, bit for bit on the CPU."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def case(self, latent: np.ndarray, name: str, provenance: dict | None = None) -> Case:
        """Return the case of one latent vector.

        :param latent: (latent_size,), standard normal.
        :returns: the case on the plan's grid, in the units of the training data.
        """
        import torch

        plan = self.model.plan
        device = next(self.model.generator.parameters()).device
        with torch.inference_mode():
            output = self.model.generator(torch.from_numpy(np.asarray(latent, np.float32))[None].to(device))[0].cpu()
        channels = len(plan.channels)
        image = unmap_intensities(output[:channels].numpy(), [channel.typical for channel in plan.channels])
        labels = output[channels:].argmax(0).numpy().astype(np.uint8) if plan.labels else None
        return Case(
            name=name,
            image=image,
            labels=labels,
            affine=plan.grid.affine,
            label_table=tuple(plan.labels),
            channel_names=tuple(channel.name for channel in plan.channels),
            description=describe_origin(self.model),
            provenance={
                "synthetic": True,
                "model": self.model.path.name,
                "library_version": __version__,
                **(provenance or {}),
            },
        )

    def cases(self, count: int, seed: int = 0, first: int = 0) -> Iterator[Case]:
        """Yield cases ``first`` to ``first + count`` of ``seed``, one at a time, so that memory does not grow."""
        for index in range(first, first + count):
            latent = latent_of(seed, index, self.model.plan.networks.latent_size)
            yield self.case(latent, f"synthetic_{seed}_{index:04d}", {"seed": seed, "index": index})
