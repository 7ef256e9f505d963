"""Whether a plan fits the memory of its device, and which would."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace
from functools import cache

from ..device import DEVICE_WORDS, available_memory
from ..errors import InputError
from ..volumes.fingerprint import Fingerprint
from .choosing import make_plan, predicted, with_batch
from .plan import Plan

USABLE = 0.95
"""Share of the free memory that a training may be predicted to take."""
CERTAINLY_TOO_MUCH = 1.3
"""Ratio of predicted to free memory from which a plan of the user's own is refused too."""
LARGER = 1.1
"""Ratio of voxel sizes from one try to the next, in search of a plan that fits."""


SMALLEST_BATCH = 2
"""Cases of a batch below which a plan is not made smaller: the generator's statistics are taken of pairs."""
LONGEST_MEASURED = 15.0
"""Seconds of a step, as predicted, up to which some are measured."""


def worth_measuring(plan: Plan) -> bool:
    """Whether a few steps of a plan take so little time that they need not be predicted."""
    return plan.prediction.minutes_per_1000_steps * 60 / 1000 <= LONGEST_MEASURED


def _memory_of_one(plan: Plan, device: str, processes: int) -> float:
    """GB that one of the processes which share a batch is predicted to take."""
    own = replace(plan.training, batch=max(plan.training.batch // processes, 1))
    return predicted(replace(plan, training=own), device).prediction.memory_gb


def check_memory(plan: Plan, device: str, processes: int = 1, available: float | None = None) -> str | None:
    """What to warn of before a given plan is trained; None where there is nothing to say.

    :param available: bytes; asked of the system when not given.
    :raises InputError: it takes far more memory than there is, so that the prediction need not be exact to know.
    """
    available = available_memory(device) if available is None else available
    need = _memory_of_one(plan, device, processes)
    if available is None or need * 1e9 <= USABLE * available:
        return None
    words = (
        f"The plan needs about {need:.3g} GB with batches of {plan.training.batch}, and {DEVICE_WORDS[device]} here "
        f"has {available / 1e9:.1f} GB free."
    )
    if need * 1e9 > CERTAINLY_TOO_MUCH * available:
        raise InputError(
            words, "Make training.batch in the plan smaller, or make a plan with larger voxels (--spacing)."
        )
    return words + " It may end for want of memory."


def with_fitting_batch(plan: Plan, device: str, processes: int = 1, available: float | None = None) -> Plan:
    """The plan with a batch that the processes can share, and as small as it may be where a larger one would not fit.

    :param available: bytes; asked of the system when not given.
    """
    available = available_memory(device) if available is None else available
    if plan.training.batch % processes:
        batch = processes * math.ceil(plan.training.batch / processes)
        plan = with_batch(plan, batch, device, f"Batches of {batch}, so that {processes} processes can share them.")
    if available is None:
        return plan
    smaller = plan
    while (
        _memory_of_one(smaller, device, processes) * 1e9 > USABLE * available
        and smaller.training.batch >= 2 * SMALLEST_BATCH * processes
    ):
        batch = smaller.training.batch // (2 * processes) * processes
        smaller = with_batch(plan, batch, device, f"Batches of {batch}: larger ones would not fit the memory here.")
    return smaller


def fitted(
    plan: Plan, fingerprint: Fingerprint, device: str, processes: int = 1, available: float | None = None
) -> Plan:
    """The plan, with a smaller batch where it would not fit the memory of the device otherwise.

    :param processes: that share a batch, each with a GPU of its own.
    :param available: bytes; asked of the system when not given.
    :raises InputError: it does not fit at all; names the nearest spacing that does.
    """
    available = available_memory(device) if available is None else available
    smaller = with_fitting_batch(plan, device, processes, available)
    if available is None:
        return smaller

    def need(whole: Plan) -> float:
        return _memory_of_one(whole, device, processes)

    def fits(whole: Plan) -> bool:
        return need(whole) * 1e9 <= USABLE * available

    if fits(smaller):
        return smaller
    message = (
        f"This plan needs about {need(smaller):.1f} GB for a grid of "
        f"{' x '.join(map(str, plan.grid.shape))} voxels with batches of {smaller.training.batch}, and "
        f"{DEVICE_WORDS[device]} here has {available / 1e9:.1f} GB free."
    )

    @cache
    def coarser(attempt: int) -> Plan:
        spacing = [float(f"{side * LARGER**attempt:.2g}") for side in plan.grid.spacing]
        larger = make_plan(fingerprint, device, spacing=spacing, method=plan.method)
        return with_batch(larger, min(larger.training.batch, SMALLEST_BATCH * processes), device, "")

    def too_coarse(whole: Plan) -> bool:
        return math.prod(whole.grid.shape) < 8 ** len(plan.grid.shape)

    attempts = range(1, 41)
    first = bisect_left(attempts, True, key=lambda attempt: fits(coarser(attempt)) or too_coarse(coarser(attempt)))
    nearest = coarser(attempts[min(first, len(attempts) - 1)])
    if too_coarse(nearest) or not fits(nearest):
        raise InputError(message, "Close other programs, or use a machine with more memory.")
    hint = (
        f"The nearest plan that fits: --spacing {' '.join(f'{side:g}' for side in nearest.grid.spacing)}, a grid of "
        f"{' x '.join(map(str, nearest.grid.shape))} voxels, {need(nearest):.1f} GB."
    )
    raise InputError(message, hint)
