"""What a training shows of itself on the way: the same synthesized cases every time, beside real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..volumes.case import Case
from ..volumes.pictures import contact_sheet
from ..volumes.segmentation_file import write_volumes
from .trainer import Trainer

SHEET, VOLUMES = "preview.png", "preview"
"""In the run folder: the picture, and the folder of the volumes that a viewer shows during a training."""
CASES = 4


@torch.inference_mode()
def sketches(trainer: Trainer, number: int) -> Tensor:
    """The same cases every time, (number, channels, *grid), on the CPU; of the classes in turn."""
    plan = trainer.plan
    latents = np.random.default_rng(0).standard_normal((number, plan.networks.latent_size), dtype=np.float32)
    outputs = []
    for index, latent in enumerate(latents):
        classes = ()
        if plan.classes:
            one_hot = torch.eye(len(plan.classes))[index % len(plan.classes)][None]
            classes = (one_hot.to(trainer.device),)
        latent = torch.from_numpy(latent)[None].to(trainer.device)
        outputs.append(trainer.view.sketch(trainer.average, latent, classes).cpu())
    return torch.cat(outputs)


def write_preview(run: Path, trainer: Trainer, outputs: Tensor) -> None:
    """Draw the first of ``outputs`` (from :func:`sketches`) below training cases, and write one of each as volumes.

    :raises InputError: a file cannot be written.
    """
    plan, count = trainer.view.plan, len(trainer.plan.channels)
    made = [
        Case(
            f"preview_{index}",
            output[:count],
            output[count:].argmax(0).astype(np.uint8) if plan.labels else None,
            plan.grid.affine,
            tuple(plan.labels),
        )
        for index, output in enumerate(outputs[:CASES].numpy())
    ]
    real = [trainer.view.real_sketch(case) for case in trainer.cases[:CASES]]
    title = f"training cases and synthesized ones after {trainer.step_count} steps"
    contact_sheet(run / SHEET, [("training", real), ("synthesized", made)], title)
    write_volumes(run / VOLUMES, replace(real[0], name="real"), replace(made[0], name="synthesized"))
