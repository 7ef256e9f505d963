"""Data set and device -> plan: what is decided, and in words why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .plan import Channel, Field, Grid, Networks, Plan, Prediction, Training
from .volumes.pipeline import Fingerprint

WHOLE_VOLUME_VOXELS = {"cpu": 64**3, "mps": 96**3, "cuda": 128**3}
"""Voxels up to which whole volumes are trained on each kind of device; above, the plan takes larger voxels."""


DEVICE_WORDS = {"cpu": "a CPU", "mps": "an Apple GPU", "cuda": "a CUDA GPU"}


def make_plan(
    fingerprint: Fingerprint,
    device: str = "cpu",
    grid_shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    method: str = "ged",
) -> Plan:
    """Decide everything that training needs.

    :param device: ``cuda``, ``mps`` or ``cpu``.
    :param grid_shape: voxels of the working grid, instead of a choice; rounded up to what the networks take.
    :param spacing: voxel size in mm, instead of a choice.
    :param method: ``ged``, or ``article`` for the baseline.
    """
    reasons: list[str] = []
    grid, stages = _choose_grid(fingerprint, device, grid_shape, spacing, 3 if method == "article" else None, reasons)
    channels = tuple(_choose_mapping(fingerprint, index, reasons) for index in range(len(fingerprint.channel_names)))
    step = float(min(grid.spacing))
    # A gradient over about a voxel, averaged over about two: finer is noise, coarser blurs neighbouring surfaces.
    scales = Field(sigma=step, rho=2 * step)
    if method == "article":
        reasons.append("Networks, objective and optimiser are the article's, as a baseline to compare with.")
        networks, training = Networks((), (), 1, 100), ARTICLE_TRAINING
    else:
        base = {"cpu": 16, "mps": 24, "cuda": 32}[device]
        widths = tuple(min(base * 2**stage, 8 * base) for stage in range(stages))
        networks = Networks(widths[::-1], widths, 1, 128)
        training = _choose_training(device, grid.shape)
        reasons.append(
            f"Widths from {widths[0]} to {widths[-1]} and batches of {training.batch}: what {DEVICE_WORDS[device]} "
            "trains in reasonable time."
        )
    plan = Plan(
        grid=grid,
        channels=channels,
        labels=fingerprint.labels,
        networks=networks,
        field=scales,
        training=training,
        prediction=Prediction(device, 0.0, 0.0),
        description=fingerprint.description,
        data={
            "cases": len(fingerprint.cases),
            "labelled": sum(case.labelled for case in fingerprint.cases),
            "median_shape": tuple(int(x) for x in np.median([case.shape for case in fingerprint.cases], axis=0)),
            "median_spacing": tuple(
                round(float(x), 4) for x in np.median([case.spacing for case in fingerprint.cases], axis=0)
            ),
        },
        reasons=tuple(reasons),
        method=method,
    )
    from .networks.cost import predict

    memory_gb, minutes = predict(plan, device)
    return replace(plan, prediction=Prediction(device, round(memory_gb, 2), round(minutes, 1)))


ARTICLE_TRAINING = Training(
    batch=16,
    learning_rate=1e-4,
    beta2=0.999,
    penalty_weight=0.0,
    statistics_weight=0.0,
    ema_share=0.0,
    precision="float32",
    volume="whole",
    objective="bce",
    beta1=0.9,
)
"""What the article trains with; its code minimises the binary cross-entropy."""


def _choose_training(device: str, shape: Sequence[int]) -> Training:
    batch = {"cpu": 4, "mps": 8, "cuda": 16}[device]
    return Training(
        batch=batch,
        learning_rate=1e-3,
        beta2=0.9,
        penalty_weight=_penalty_weight(shape, batch),
        statistics_weight=1.0,
        ema_share=0.05,
        precision="float32",
        volume="whole",
    )


def _penalty_weight(shape: Sequence[int], batch: int) -> float:
    """γ for a grid and a batch: 10 at 32x40x32 with 4 cases, in proportion to the voxels and against the batch.

    The size was found by ``Testing/Benchmarks/ablation.py``: with ten times as much, cases stay close to the mean of
    the data. The rule is that of StyleGAN2-ADA (Karras et al., NeurIPS 2020, appendix C), for volumes; larger batches
    than 4 were not tried.
    """
    return float(f"{10 * math.prod(shape) / (32 * 40 * 32) * 4 / batch:.2g}")


def _choose_grid(
    fingerprint: Fingerprint,
    device: str,
    grid_shape: Sequence[int] | None,
    wanted_spacing: Sequence[float] | None,
    fixed_stages: int | None,
    reasons: list[str],
) -> tuple[Grid, int]:
    cases = fingerprint.cases
    extents = np.array([np.array(case.shape) * np.array(case.spacing) for case in cases])
    # All of the labels, and the field of view of the median case.
    extent = np.maximum(np.median(extents, axis=0), 2 * np.max([case.label_reach for case in cases], axis=0))
    spacing = np.median([case.spacing for case in cases], axis=0)
    if wanted_spacing is not None:
        spacing = np.array(wanted_spacing, dtype=float)
        reasons.append(f"Spacing {_words(spacing)} mm, as asked for.")
    else:
        budget = WHOLE_VOLUME_VOXELS[device]
        if np.prod(extent / spacing) > budget * 1.05:
            finest = spacing.copy()
            # Larger voxels along the finest axes first, so that thick slices keep their in-plane resolution longest.
            low, high = spacing.min(), (np.prod(extent) / budget) ** (1 / 3) * 4
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if np.prod(extent / np.maximum(spacing, middle)) > budget else (low, middle)
            spacing = np.maximum(spacing, math.ceil(high * 100) / 100)
            reasons.append(
                f"Spacing {_words(spacing)} mm instead of the data's {_words(finest)} mm, so that a whole volume fits "
                f"what {DEVICE_WORDS[device]} trains."
            )
        else:
            reasons.append(f"Spacing {_words(spacing)} mm: that of the median case.")
    voxels = np.array(grid_shape) if grid_shape is not None else np.ceil(extent / spacing - 0.05)
    stages = fixed_stages or int(np.clip(math.floor(math.log2(max(voxels.min(), 8) / 4)), 1, 5))
    if grid_shape is None and fixed_stages is None:
        # A coarser stride would pad the volume by half: take fewer stages then.
        while stages > 2 and np.prod(_round_up(voxels, 2**stages) / voxels) > 1.5:
            stages -= 1
    shape = _round_up(voxels, 2**stages)
    reach = 2 * np.max([case.label_reach for case in cases], axis=0)
    if (shape * spacing < reach - 1e-3 * spacing).any():
        reasons.append(
            f"Note: labels reach {_words(reach)} mm and the grid only {_words(shape * spacing)} mm; what lies beyond "
            "is cut off. Larger voxels (--spacing) would hold them."
        )
    reasons.append(
        f"Grid {' x '.join(map(str, shape))}: "
        + ("as asked for" if grid_shape is not None else "holds the median field of view and every label")
        + f", rounded up to multiples of {2**stages} for networks of {stages} stage(s)."
    )
    directions = np.array(cases[_medoid([np.array(case.directions) for case in cases])].directions)
    centre = np.median([case.centre for case in cases], axis=0)
    origin = centre - directions @ ((np.array(shape) - 1) / 2 * spacing)
    grid = Grid(
        shape=tuple(int(side) for side in shape),
        spacing=tuple(float(side) for side in spacing),
        directions=tuple(tuple(float(x) for x in row) for row in directions),
        origin=tuple(float(x) for x in origin),
    )
    return grid, stages


def _round_up(voxels: np.ndarray, stride: int) -> np.ndarray:
    return (np.ceil(np.asarray(voxels) / stride) * stride).astype(int)


def _words(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _medoid(matrices: list[np.ndarray]) -> int:
    """Index of the matrix nearest to all others (an existing case's directions, so always a rotation)."""
    stack = np.stack(matrices).reshape(len(matrices), -1)
    return int(np.abs(stack[:, None] - stack[None]).sum((1, 2)).argmin())


def _choose_mapping(fingerprint: Fingerprint, index: int, reasons: list[str]) -> Channel:
    name = fingerprint.channel_names[index]
    lows, highs = zip(*(case.percentiles[index] for case in fingerprint.cases))
    integer = all(case.integer for case in fingerprint.cases)
    is_ct = name.strip().lower() in ("ct", "computed tomography") or (
        integer and np.median([case.minima[index] for case in fingerprint.cases]) <= -900
    )
    if is_ct:
        window = (math.floor(np.median(lows) / 10) * 10.0, math.ceil(np.median(highs) / 10) * 10.0)
        reasons.append(
            f"Channel {name}: one window for all, {window[0]:g} to {window[1]:g}, since CT numbers are absolute."
        )
        # nnU-Net treats a channel of this name as absolute numbers too.
        return Channel("CT", "window", window, integer)
    reasons.append(f"Channel {name}: each case by its own 0.5th and 99.5th percentile, since its scale is arbitrary.")
    return Channel(name, "percentiles", (float(np.median(lows)), float(np.median(highs))), integer)
