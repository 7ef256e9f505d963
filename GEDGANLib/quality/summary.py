"""What the figures of an evaluation say, in sentences."""

from __future__ import annotations

from ..volumes.measures import COLLAPSED
from .result import Evaluation

PATTERNED = 2.0
"""Power at Nyquist's frequency, relative to that of training cases, from which on it is said."""
WHOLE = 0.9
"""Share of cases whose label hangs together, relative to that of real ones, below which it is said."""
BLURRED = 0.7
"""Power of the finest details, relative to that of training cases, below which cases count as blurred."""


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
    pieces = "pieces of "
    odd = [
        f"{name.removeprefix(pieces)} in {1 - each['made']:.0%}"
        for name, each in result.figures.get("volumes and intensities", {}).items()
        if name.startswith(pieces) and each["made"] < WHOLE * each.get("new", 1)
    ]
    if odd:
        found.append(
            "Shape: a label is missing or in pieces in more of the synthesized cases than of the real ones: "
            f"{', '.join(odd)} of them."
        )
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
