"""Data set and device -> plan: what is decided, and in words why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..device import DEVICE_WORDS, trouble_here
from ..errors import InputError
from ..volumes.case import Label
from ..volumes.fingerprint import CaseFacts, Fingerprint
from ..volumes.naming import some_of, words_of
from .grids import WHOLE_VOLUME_VOXELS, choose_grid
from .plan import Augmentation, Channel, Field, Networks, Plan, Prediction, Training
from .words import AUGMENTATIONS, MOST_LABELS, NOTE

PART_SIDE = 64
"""Voxels of a part along each axis, where the volume is as long."""
TOLERANCE = 1.6
"""How far beyond its voxels a grid may come to lie when its sides are rounded up for the networks."""


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
    :raises InputError: hardly any of the grid that is asked for would hold anything.
    """
    reasons = [NOTE + words for words in trouble_here(device)]
    grid, strides = choose_grid(fingerprint, device, grid_shape, spacing, 3 if method == "article" else None, reasons)
    labels = choose_labels(fingerprint, reasons)
    is_choice = fingerprint.wanted_labels is not None or len(labels) < len(fingerprint.labels)
    chosen = tuple(label.name for label in labels) if is_choice else ()
    fingerprint = replace(fingerprint, labels=labels)
    channels = tuple(choose_mapping(fingerprint, index, reasons) for index in range(len(fingerprint.channel_names)))
    step = float(min(grid.spacing))
    # A gradient over about a voxel, averaged over about two: finer is noise, coarser blurs neighbouring surfaces.
    scales = Field(sigma=step, rho=2 * step)
    if method == "article":
        reasons.append("Networks, objective and optimiser are the article's, as a baseline to compare with.")
        networks, training = Networks((), (), 1, 100), ARTICLE_TRAINING
        classes, augmentation = (), Augmentation()
    else:
        base = {"cpu": 16, "mps": 24, "cuda": 32}[device]
        stages = len(strides)
        widths = tuple(min(base * 2**stage, 8 * base) for stage in range(stages))
        alike = all(set(stride) == {2} for stride in strides)
        networks = Networks(widths[::-1], widths, 1, 128, strides=() if alike else strides)
        classes, balance = choose_balance(fingerprint, reasons)
        training = replace(
            _choose_training(device, grid.shape, alike and stages >= 3, reasons),
            balance=balance,
            held_out=choose_held_out(fingerprint, reasons),
            labelled_share=choose_labelled_share(fingerprint, reasons),
        )
        augmentation = choose_augmentation(training.held_out, reasons)
        reasons.append(
            f"Networks of {widths[0]} to {widths[-1]} channels, {training.batch} cases a step: what "
            f"{DEVICE_WORDS[device]} trains in reasonable time."
        )
    plan = Plan(
        grid=grid,
        channels=channels,
        labels=labels,
        networks=networks,
        field=scales,
        training=training,
        prediction=Prediction(device, 0.0, 0.0),
        description=fingerprint.description,
        classes=classes,
        augmentation=augmentation,
        data=data_of(fingerprint)
        | {"classes": {name: sum(case.class_name == name for case in fingerprint.cases) for name in classes}}
        | {"structures": chosen},
        reasons=tuple(reasons),
        method=method,
    )
    return predicted(plan, device)


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


def _choose_training(device: str, shape: Sequence[int], may_part: bool, reasons: list[str]) -> Training:
    parts = may_part and math.prod(shape) > TOLERANCE * WHOLE_VOLUME_VOXELS[device]
    batch = ({"cpu": 2, "mps": 2, "cuda": 4} if parts else {"cpu": 4, "mps": 8, "cuda": 16})[device]
    part = tuple(min(side, PART_SIDE) for side in shape) if parts else ()
    if parts:
        reasons.append(
            f"Trained on parts: all of a case at a quarter of its resolution, and {' x '.join(map(str, part))} voxels "
            f"of it in full, since {DEVICE_WORDS[device]} cannot train so large a volume as a whole."
        )
    return Training(
        batch=batch,
        learning_rate=1e-3,
        beta2=0.9,
        penalty_weight=_penalty_weight(part or shape, batch),
        penalty_interval=PENALTY_INTERVAL.get(device, 1),
        statistics_weight=1.0,
        ema_share=0.05,
        precision=PRECISION.get(device, "float32"),
        volume="parts" if parts else "whole",
        part=part,
    )


PRECISION = {"cuda": "bfloat16"}
"""Of the networks, where it is another one than float32."""
PENALTY_INTERVAL = {"cuda": 4}
"""Steps from one gradient penalty to the next (lazy regularisation: Karras et al., *Analyzing and improving the image
quality of StyleGAN*, CVPR 2020, section 3.1)."""


def _penalty_weight(shape: Sequence[int], batch: int) -> float:
    """γ for a grid and a batch: 10 at 32x40x32 with 4 cases, in proportion to the voxels and against the batch.

    The size was found by ``Testing/Benchmarks/ablation.py``: with ten times as much, cases stay close to the mean of
    the data. The rule is that of StyleGAN2-ADA (Karras et al., NeurIPS 2020, appendix C), for volumes; larger batches
    than 4 were not tried.
    """
    return float(f"{10 * math.prod(shape) / (32 * 40 * 32) * 4 / batch:.2g}")


def choose_labels(fingerprint: Fingerprint, reasons: list[str]) -> tuple[Label, ...]:
    """All labels, or of too many those that most cases have and, of as many, the largest; numbered from 1.

    :raises InputError: too many were asked for.
    """
    found = fingerprint.labels
    if fingerprint.other_labels:
        reasons.append(
            f"{len(found)} structures are learned, as asked for, and {len(fingerprint.other_labels)} others are "
            f"background: {some_of(fingerprint.other_labels)}."
        )
    if len(found) <= MOST_LABELS:
        return found
    if fingerprint.wanted_labels is not None:
        raise InputError(
            f"{len(found)} structures are asked for, and {MOST_LABELS} can be learned at once.",
            f"Name {MOST_LABELS} at most by --structures.",
        )
    sizes = {label.name: [case.label_voxels.get(label.name, 0) for case in fingerprint.cases] for label in found}
    ordered = sorted(found, key=lambda label: (np.count_nonzero(sizes[label.name]), sum(sizes[label.name])))
    left_out, chosen = ordered[:-MOST_LABELS], {label.name for label in ordered[-MOST_LABELS:]}
    reasons.append(
        f"{NOTE}Of {len(found)} structures the {MOST_LABELS} are learned that most scans have; {len(left_out)} others "
        f"are background, {some_of([label.name for label in left_out[::-1]])}. To choose, name those wanted by "
        "--structures."
    )
    return tuple(
        replace(label, index=index)
        for index, label in enumerate((label for label in found if label.name in chosen), start=1)
    )


LABELLED_SHARE = 0.5


def choose_labelled_share(fingerprint: Fingerprint, reasons: list[str]) -> float:
    """Half of each batch where labels are fewer than that: 8 of 150 taught nearly as much as all (ablation, few)."""
    labelled = sum(case.labelled for case in fingerprint.cases)
    if not 0 < labelled < LABELLED_SHARE * len(fingerprint.cases):
        return 0.0
    reasons.append(f"Half of each batch is drawn from the {labelled} labelled cases, since they are few.")
    return LABELLED_SHARE


FEWEST_TO_HOLD_OUT = 10
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 20


def choose_held_out(fingerprint: Fingerprint, reasons: list[str]) -> int:
    cases = len(fingerprint.cases)
    if cases < FEWEST_TO_HOLD_OUT:
        reasons.append(f"No case is held out of {cases}: all are needed to learn from.")
        return 0
    count = int(np.clip(round(HELD_OUT_SHARE * cases), 2, MOST_HELD_OUT))
    reasons.append(f"{count} of {cases} cases are held out: they teach nothing, and show what is known by heart.")
    return count


def choose_augmentation(held_out: int, reasons: list[str]) -> Augmentation:
    reasons.append(
        "Cases are shifted, turned and re-contrasted (augmentation) as strongly as held-out cases ask for; they are "
        "mirrored only along axes that you put into augmentation.flips (0 is right to left)."
        if held_out
        else "Cases are shifted, turned and re-contrasted (augmentation) a little more as the training goes on, since "
        "none is held out that could say how strongly."
    )
    return Augmentation(kinds=AUGMENTATIONS)


RARE_SHARE, BALANCE = 0.25, 0.5
"""A class or label is rare below this share of the cases; how much more often such cases then are drawn."""


def choose_balance(fingerprint: Fingerprint, reasons: list[str]) -> tuple[tuple[str, ...], float]:
    """Classes, and the plan's ``training.balance``."""
    counts = Counter(case.class_name for case in fingerprint.cases if case.class_name is not None)
    classes = tuple(sorted(counts)) if len(counts) > 1 else ()
    labelled = [case for case in fingerprint.cases if case.labelled]
    rare = [
        f"{name} ({count} of {len(fingerprint.cases)} cases)"
        for name, count in sorted(counts.items())
        if classes and count < RARE_SHARE * len(fingerprint.cases)
    ]
    for label in fingerprint.labels:
        count = sum(label.name in case.label_voxels for case in labelled)
        if 0 < count < RARE_SHARE * len(labelled):
            rare.append(f"{label.name} ({count} of {len(labelled)} segmentations)")
    if classes:
        words = ", ".join(f"{name} {counts[name]}" for name in classes)
        reasons.append(f"Classes ({words} cases): synthesized cases can be asked for by class.")
    if rare:
        reasons.append(f"Cases of the rare {', '.join(rare)} are drawn more often (training.balance).")
    return classes, BALANCE if rare else 0.0


def predicted(plan: Plan, device: str) -> Plan:
    """The plan with what it is predicted to take on ``device``."""
    from ..networks.cost import predict

    memory_gb, minutes = predict(plan, device)
    return replace(plan, prediction=Prediction(device, round(memory_gb, 2), round(minutes, 1)))


def steps_in(plan: Plan, minutes: float, device: str) -> float:
    """Steps that are expected of so many minutes; infinity where a step is too short to tell."""
    prediction = plan.prediction if plan.prediction.device == device else predicted(plan, device).prediction
    return 1000 * minutes / prediction.minutes_per_1000_steps if prediction.minutes_per_1000_steps else math.inf


def with_batch(plan: Plan, batch: int, device: str, reason: str) -> Plan:
    """The plan with another batch, the first generator's penalty adapted to it and its prediction made anew.

    :param reason: why, in words.
    """
    weight = plan.training.penalty_weight
    if not plan.repaints:
        weight = float(f"{weight * plan.training.batch / batch:.2g}")
    training = replace(plan.training, batch=batch, penalty_weight=weight)
    return predicted(replace(plan, training=training, reasons=(*plan.reasons, reason)), device)


def data_of(fingerprint: Fingerprint) -> dict:
    """What a plan keeps of the data it was made for."""
    cases, filled = fingerprint.cases, fingerprint.filled
    usual = () if filled is None else tuple(float(f"{x:.5g}") for x in np.median(filled, axis=0))
    return {
        "cases": len(cases),
        "labelled": sum(case.labelled for case in cases),
        "one_structure": fingerprint.one_label,
        "median_shape": tuple(int(x) for x in np.median([case.shape for case in cases], axis=0)),
        "median_spacing": tuple(float(f"{x:.5g}") for x in np.median([case.spacing for case in cases], axis=0)),
        "median_filled": usual,
    }


CT_NAMES, DOSE = (("ct",), ("cbct",), ("computed", "tomography")), ("dose", "gy")
"""Names of channels whose intensities mean the same in all cases: of CT by all words that tell, of dose by one."""
TELLS_NOTHING = {"image", "scan", "volume", "planning", "img"}
CT_AIR, NO_AIR = -900.0, -50.0
"""HU that every CT has below, and no scan of arbitrary scale; and that a CT without air may begin at."""
TOLD_ABOVE = 0.05
"""Share of a label above the range of intensities from which it is told."""


def choose_mapping(fingerprint: Fingerprint, index: int, reasons: list[str]) -> Channel:
    name, cases = fingerprint.channel_names[index], fingerprint.cases
    lows, highs = zip(*(case.percentiles[index] for case in cases))
    kind = np.result_type(*{case.kinds[index] if case.kinds else case.kind for case in cases})
    integer = np.issubdtype(kind, np.integer)
    name_of_kind = kind.name if integer and kind.itemsize <= 4 else "int32"
    words = words_of(name)
    # Whole numbers are those of a scanner; fractions are interpolated, and too low here and there.
    reasons += _words_of_offsets(cases, index, name)
    least = [case.minima[index] if integer else case.percentiles[index][0] for case in cases]
    if tuple(word for word in words if word not in TELLS_NOTHING) in CT_NAMES or np.median(least) <= CT_AIR:
        low, high = np.median(lows), np.median(highs)
        if all(case.body for case in cases):
            low, high = np.median([case.body[index] for case in cases], axis=0)
        tissue = [np.median(found) for found in _of_labels(cases, "label_highs", index).values()]
        window = (math.floor(low / 10) * 10.0, math.ceil(max([high, *tissue]) / 10) * 10.0)
        reasons.append(
            f"Channel {name}: one window for all, {window[0]:g} to {window[1]:g}, since CT numbers are absolute; it "
            "holds body and labels."
        )
        # nnU-Net treats a channel of this name as absolute numbers too.
        return Channel("CT", "window", window, integer, name_of_kind)
    if any(word in words for word in DOSE) and all(case.maxima for case in cases):
        low, high = min(case.minima[index] for case in cases), max(case.maxima[index] for case in cases)
        window = (0.0 if 0 <= low < 1e-3 * high else low, high)
        reasons.append(f"Channel {name}: one range for all, {window[0]:.4g} to {window[1]:.4g}, since it is absolute.")
        return Channel(name, "window", window, integer, name_of_kind)
    reasons.append(
        f"Channel {name}: each case from its own 0.5th percentile to the 99.5th of what is no air, since its scale is "
        "arbitrary."
    )
    for label, shares in _of_labels(cases, "label_above", index).items():
        if (share := float(np.median(shares))) > TOLD_ABOVE:
            reasons.append(
                f"{NOTE}{share:.0%} of {label} is brighter than that range of channel {name}, and is cut to its end. "
                "If its intensities are absolute, say what it is: --channels with CT or dose, a name a channel."
            )
    return Channel(name, "foreground", typical_range(cases, index, "foreground"), integer, name_of_kind)


def typical_range(cases: Sequence[CaseFacts], index: int, mapping: str) -> tuple[float, float]:
    """The median over cases of what -1 and 1 stand for in one channel, where each case has a range of its own."""
    ranges = [((mapping == "foreground" and case.foreground) or case.percentiles)[index] for case in cases]
    low, high = np.median(ranges, axis=0)
    return float(low), float(high)


def _words_of_offsets(cases: Sequence[CaseFacts], index: int, name: str) -> list[str]:
    """What to say where some cases have the air of CT, and others nothing below 0: programs store CT numbers with 1024
    added, and not all take it off again."""
    airy = [case.name for case in cases if case.minima[index] <= CT_AIR]
    positive = [case.name for case in cases if case.minima[index] >= NO_AIR]
    if not airy or not positive:
        return []
    few, others = sorted((positive, airy), key=len)
    own, usual = ("nothing below 0", f"air at {CT_AIR:g} and below") if few is positive else ("air below 0", "none")
    return [
        f"{NOTE}Channel {name}: {len(few)} case(s) have {own}, {some_of(few, 3)}, where {len(others)} have {usual}. If "
        "1024 was added to the numbers of some and not of others, they mean different things: look at them in Slicer, "
        "and take it off."
    ]


def _of_labels(cases: Sequence[CaseFacts], what: str, index: int) -> dict[str, list[float]]:
    """Of each label a number a case that has it, in one channel."""
    found: dict[str, list[float]] = {}
    for case in cases:
        for label, values in getattr(case, what).items():
            found.setdefault(label, []).append(values[index])
    return found
