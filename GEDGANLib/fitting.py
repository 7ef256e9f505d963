"""Whether a plan fits the memory of its device, which would, and how long its steps take here."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

from .device import DEVICE_WORDS
from .errors import InputError
from .plan import Plan
from .planning import make_plan
from .volumes.pipeline import Fingerprint

USABLE = 0.95
"""Share of the free memory that a training may be predicted to take."""
LARGER = 1.1
"""Ratio of voxel sizes from one try to the next, in search of a plan that fits."""


def available_memory(device: str) -> float | None:
    """Memory in bytes that a training could take now; None where the system does not tell."""
    if device == "cuda":
        import torch

        return float(torch.cuda.mem_get_info()[0])
    if device == "mps":
        import torch

        return float(torch.mps.recommended_max_memory())
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    try:
        import os

        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows has none of these
        return None


MEASURED_STEPS, MEASURED_CASES, MEASURED_STRENGTH = 3, 4, 0.3
"""Steps and cases of the measurement, and strength of augmentation in it."""


def measured(plan: Plan, device: str) -> Plan:
    """The plan with the time of its steps as they take on this machine, with noise for cases."""
    import numpy as np
    import torch

    from .training.trainer import Trainer
    from .volumes.pipeline import WorkingCase

    random, shape, affine = np.random.default_rng(0), tuple(plan.grid.shape), np.eye(4)

    def noise(index: int) -> WorkingCase:
        image = random.uniform(-1, 1, (len(plan.channels), *shape)).astype(np.float32)
        labels = random.integers(0, len(plan.labels) + 1, shape).astype(np.uint8) if plan.labels else None
        return WorkingCase(f"{index}", image, labels, affine, affine, shape)

    state = torch.get_rng_state()
    trial = replace(plan, training=replace(plan.training, held_out=0, balance=0.0))
    trainer = Trainer(trial, [noise(index) for index in range(MEASURED_CASES)], device, 0)
    trainer.strength.value = MEASURED_STRENGTH if plan.augmentation.kinds else 0.0
    seconds = []
    for _ in range(1 + MEASURED_STEPS):  # the first one warms up
        start = time.perf_counter()
        trainer.step()
        seconds.append(time.perf_counter() - start)
    torch.set_rng_state(state)
    minutes = sum(seconds[1:]) / MEASURED_STEPS * 1000 / 60
    return replace(plan, prediction=replace(plan.prediction, minutes_per_1000_steps=round(minutes, 1)))


def refuse_what_cannot_fit(plan: Plan, fingerprint: Fingerprint, device: str, available: float | None = None) -> None:
    """Compare what a plan is predicted to take with what there is.

    :param available: bytes; asked of the system when not given.
    :raises InputError: it does not fit; names the nearest spacing that does.
    """
    available = available_memory(device) if available is None else available
    if available is None or plan.prediction.memory_gb * 1e9 <= USABLE * available:
        return
    message = (
        f"This plan needs about {plan.prediction.memory_gb:.1f} GB for a grid of "
        f"{' x '.join(map(str, plan.grid.shape))} voxels, and {DEVICE_WORDS[device]} here has {available / 1e9:.1f} GB "
        "free."
    )
    for attempt in range(1, 41):
        spacing = [float(f"{side * LARGER**attempt:.2g}") for side in plan.grid.spacing]
        smaller = make_plan(fingerprint, device, spacing=spacing, method=plan.method)
        if math.prod(smaller.grid.shape) < 8 ** len(plan.grid.shape):
            break
        if smaller.prediction.memory_gb * 1e9 <= USABLE * available:
            hint = (
                f"The nearest plan that fits: --spacing {' '.join(f'{side:g}' for side in spacing)}, a grid of "
                f"{' x '.join(map(str, smaller.grid.shape))} voxels, {smaller.prediction.memory_gb:.1f} GB. A smaller "
                "training.batch in an edited plan is the other way."
            )
            raise InputError(message, hint)
    raise InputError(message, "Close other programs, or use a machine with more memory.")
