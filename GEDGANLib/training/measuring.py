"""How long the steps of a plan take here."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from ..planning.plan import Plan
from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase
from .recording import steps_to_warm_up
from .trainer import Trainer

MEASURED_STEPS, MEASURED_CASES, MEASURED_STRENGTH = 3, 4, 0.3
"""Steps of the measurement, and as many a penalty; its cases, and strength of augmentation in it."""


def measured(plan: Plan, device: str, progress: Progress = quiet) -> Plan:
    """The plan with the time of its steps as they take on this machine, with noise for cases."""
    random, shape, affine = np.random.default_rng(0), tuple(plan.grid.shape), np.eye(4)

    def noise(index: int) -> WorkingCase:
        image = random.uniform(-1, 1, (len(plan.channels), *shape)).astype(np.float32)
        labels = random.integers(0, len(plan.labels) + 1, shape).astype(np.uint8) if plan.labels else None
        return WorkingCase(f"{index}", image, labels, affine, affine, shape)

    state = torch.get_rng_state()
    trial = replace(plan, training=replace(plan.training, held_out=0, balance=0.0))
    if plan.repaints and not plan.statistical.template:  # before the cases are aligned: grids as they are going to be
        coarse = tuple(max(side // 2, 1) for side in shape)
        trial = replace(trial, statistical=replace(plan.statistical, template=shape, velocity=coarse, look=shape))
    trainer = Trainer(trial, [noise(index) for index in range(MEASURED_CASES)], device, 0)
    trainer.strength.value = MEASURED_STRENGTH if plan.augmentation.kinds else 0.0
    interval = plan.training.penalty_interval
    warm_up = steps_to_warm_up(device, interval)
    count = interval * MEASURED_STEPS  # whole rounds of penalties
    start = 0.0
    for step in range(warm_up + count):
        progress(step, warm_up + count, "")
        if step == warm_up:
            start = time.perf_counter()
        figures = trainer.step()
        if step == warm_up - 1:
            figures.sound()  # waits until it is done
    figures.sound()
    minutes = (time.perf_counter() - start) / count * 1000 / 60
    trainer.loader.close()
    progress(warm_up + count, warm_up + count, "")
    torch.set_rng_state(state)
    return replace(plan, prediction=replace(plan.prediction, minutes_per_1000_steps=round(minutes, 1)))
