"""What the figures of an evaluation say, in sentences."""

from __future__ import annotations

from typing import Any

from ..volumes.measures import COLLAPSED
from .result import Evaluation

PATTERNED = 2.0
"""Power at Nyquist's frequency, relative to that of training cases, from which on it is said."""
WHOLE = 0.9
"""Share of cases whose label hangs together, relative to that of real ones, below which it is said."""
APART, FARTHER, MEASURES_TOLD = 0.5, 0.2, 3
"""Kolmogorov-Smirnov distance of a measure from training cases' from which it is said, if it is by so much larger than
that of new real cases; and how many are told."""
BY_CHANCE = 0.01
"""Probability (Fisher's exact test, one-sided) below which a label that is missing more often is no chance."""
BLURRED = 0.7
"""Power of the finest details, relative to that of training cases, below which cases count as blurred."""


def _of_labels(section: dict[str, Any]) -> list[str]:
    """What is to be said of labels that are missing, too large or small, or in pieces."""
    found = []
    missing, pieces = "missing ", "pieces of "
    lost = {
        name.removeprefix(missing): each
        for name, each in section.items()
        if name.startswith(missing) and _more_often(each)
    }
    if lost:
        words = [
            f"{name} in {each['made']:.0%} (of those trained on {each['real']:.0%})" for name, each in lost.items()
        ]
        found.append(f"Labels: missing in more of the synthesized cases than of the real ones: {', '.join(words)}.")
    other = [
        (each["apart"], f"{name} {each['made'][1]:.3g} in place of {each['real'][1]:.3g}")
        for name, each in section.items()
        if "apart" in each and each["apart"] > APART and each["apart"] > each.get("new apart", 0) + FARTHER
    ]
    if other:
        worst = "; ".join(words for _, words in sorted(other, reverse=True)[:MEASURES_TOLD])
        found.append(
            f"Measures: {len(other)} of volumes and brightness are others than in real cases. Medians (volumes in ml): "
            f"{worst}."
        )
    odd = [
        f"{name.removeprefix(pieces)} in {1 - each['made']:.0%}"
        for name, each in section.items()
        if name.startswith(pieces) and each["made"] < WHOLE * each.get("new", each.get("real", 1))
        if name.removeprefix(pieces) not in lost
    ]
    if odd:
        found.append(
            "Shape: a label is missing or in pieces in more of the synthesized cases than of the real ones: "
            f"{', '.join(odd)} of them."
        )
    return found


def _more_often(each: dict[str, Any]) -> bool:
    """Whether a label is missing in synthesized cases more often than in real ones, by more than chance."""
    from scipy import stats

    lost = {key: round(each[key] * each["cases"][key]) for key in ("made", "real")}
    table = [[lost[key], each["cases"][key] - lost[key]] for key in ("made", "real")]
    return each["made"] > each["real"] and stats.fisher_exact(table, "greater").pvalue < BY_CHANCE


def summary_of(result: Evaluation) -> list[str]:
    """What a reader of the figures should know first, a sentence a subject."""
    found: list[str] = []
    section = result.figures["fidelity and diversity"]
    distance = section.get("kernel distance")
    if distance is not None:
        made, real = distance["made"], distance["real"]
        words = "are as near as training cases are, as far as so few cases can tell"
        if made["low"] > real["high"]:
            words = "are farther off than training cases are: they can be told from real ones"
        elif made["value"] > real["high"]:
            words = "seem farther off than training cases are, though so few cases cannot tell for sure"
        found.append(
            f"Fidelity: compared with {result.reference}, the synthesized cases {words}. Their kernel distance is "
            f"{made['value']:.2g} ({made['low']:.2g} to {made['high']:.2g}), that of training cases "
            f"{real['value']:.2g} ({real['low']:.2g} to {real['high']:.2g})."
        )
    structure = result.figures.get("structure", {})
    pattern, power = structure.get("checkerboard"), structure.get("fine power")
    if pattern is not None and pattern["made"] > PATTERNED * pattern["real"]:
        found.append(
            "Pattern: what repeats every second voxel, a checkerboard, is stronger in synthesized cases than in real "
            f"ones ({pattern['made']:.2g} times the power of a little coarser details; training cases "
            f"{pattern['real']:.2g})."
        )
    if power is not None and power["made"] < BLURRED * power["real"]:
        found.append(
            f"Sharpness: fine details are weaker than in real cases ({power['made']:.0%} of their power; training "
            f"cases {power['real']:.0%})."
        )
    found += _of_labels(result.figures.get("volumes and intensities", {}))
    if "diversity" in section:
        diversity = section["diversity"]["made"]
        words = "vary about as much as real cases"
        if diversity < 0.7:
            words = "vary less than real cases"
        if diversity < COLLAPSED:
            words = "are nearly all alike: the generator has collapsed"
        recall = ""
        if "recall" in section:
            recall = f", and they reach {section['recall']['made']:.0%} of the kinds of real cases"
        found.append(f"Diversity: the synthesized cases {words} ({diversity:.0%} of their variance){recall}.")
    if result.privacy is not None:
        found.append(f"Privacy: {result.privacy.words}")
    utility = result.figures.get("utility")
    if utility is not None:
        gain, (low, high) = utility["gain"]["mean"], utility["gain"]["interval"]
        found.append(
            f"Utility: a small U-Net reaches a Dice of {utility['real']['mean dice']:.3f} trained on real pairs, "
            f"{utility['synthesized']['mean dice']:.3f} on synthesized ones alone and "
            f"{utility['real and synthesized']['mean dice']:.3f} on both, half and half: {gain:+.3f} ({low:+.3f} to "
            f"{high:+.3f} over {utility['tested on']} test cases; another seed of the U-Net may move it as much again)."
        )
    return found
