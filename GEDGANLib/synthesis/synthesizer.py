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


def class_of(plan, seed: int, index: int) -> str | None:
    """Class of case ``index`` of ``seed``: as often as among the training cases; None where there are no classes."""
    if not plan.classes:
        return None
    counts = np.array([dict(plan.data.get("classes", {})).get(name, 0) for name in plan.classes], dtype=float)
    shares = counts / counts.sum() if counts.sum() else np.full(len(plan.classes), 1 / len(plan.classes))
    return str(np.random.default_rng([seed, index, 1]).choice(plan.classes, p=shares))


class Synthesizer:
    """Makes cases from a model; case i of a seed is the same alone or among many, bit for bit on the CPU."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def case(
        self, latent: np.ndarray, name: str, provenance: dict | None = None, class_name: str | None = None
    ) -> Case:
        """Return the case of one latent vector.

        :param latent: (latent_size,), standard normal.
        :param class_name: one of the plan's classes; when not given, of none in particular, as cases of unknown
            class are.
        :returns: the case on the plan's grid, in the units of the training data.
        """
        import torch

        plan = self.model.plan
        device = next(self.model.generator.parameters()).device
        inputs = [torch.from_numpy(np.asarray(latent, np.float32))[None].to(device)]
        if plan.classes:
            one_hot = torch.zeros(1, len(plan.classes), device=device)
            if class_name is not None:
                one_hot[0, plan.classes.index(class_name)] = 1.0
            inputs.append(one_hot)
        with torch.inference_mode():
            output = self.model.generator(*inputs)[0].cpu()
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
                **({} if class_name is None else {"class": class_name}),
                **(provenance or {}),
            },
            class_name=class_name,
        )

    def cases(self, count: int, seed: int = 0, first: int = 0, class_name: str | None = None) -> Iterator[Case]:
        """Yield cases ``first`` to ``first + count`` of ``seed``, one at a time, so that memory does not grow.

        :param class_name: of all cases; drawn as often as among the training cases when not given.
        """
        plan = self.model.plan
        for index in range(first, first + count):
            latent = latent_of(seed, index, plan.networks.latent_size)
            kind = class_name or class_of(plan, seed, index)
            yield self.case(latent, f"synthetic_{seed}_{index:04d}", {"seed": seed, "index": index}, kind)
