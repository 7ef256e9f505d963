"""What synthesized pairs are worth for a segmentation: the Dice of a U-Net on real cases that nobody learned from.

Three arms with the same network, number of updates and classical augmentation: real pairs, synthesized pairs, both.
Only the pairs differ. What synthesis adds is the last arm less the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..volumes.pipeline import Progress, WorkingCase, _quiet
from .segmentation import Pairs, coarsened, dice, train_segmenter

ARMS = ("real", "synthesized", "real and synthesized")


@dataclass(frozen=True)
class Utility:
    """Dice of each label, by arm, on real unseen cases; NaN where no case has the label.

    :param trained_on: pairs of each arm.
    :param tested_on: real cases.
    :param steps: updates of each network.
    :param block: voxels of the grid, along each axis, to one that the networks saw.
    """

    dice: dict[str, list[float]]
    trained_on: dict[str, int]
    tested_on: int
    steps: int
    block: int

    def mean(self, arm: str) -> float:
        """Mean Dice over the labels."""
        return float(np.nanmean(self.dice[arm]))


def pairs_of(cases: Sequence[WorkingCase]) -> Pairs:
    """Labelled working cases as pairs."""
    return Pairs(
        torch.stack([torch.from_numpy(np.array(case.image)) for case in cases]),
        torch.stack([torch.from_numpy(np.array(case.labels)) for case in cases]),
    )


def join(first: Pairs, second: Pairs) -> Pairs:
    """Both sets of pairs as one."""
    return Pairs(torch.cat([first.images, second.images]), torch.cat([first.labels, second.labels]))


def measure_utility(
    real: Pairs,
    made: Pairs,
    unseen: Pairs,
    label_count: int,
    steps: int,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = _quiet,
) -> Utility:
    """Train and test the three arms.

    :param real: what the generator learned from.
    :param made: synthesized pairs.
    :param unseen: real pairs that neither the generator nor a U-Net has learned from.
    """
    (real, block), (made, _), (unseen, _) = (coarsened(pairs, label_count, device) for pairs in (real, made, unseen))
    sets = dict(zip(ARMS, (real, made, join(real, made))))
    scores = {}
    for index, (name, pairs) in enumerate(sets.items()):
        progress(index, len(sets), f"U-Net on {name}")
        scores[name] = dice(train_segmenter(pairs, label_count, steps, seed, device), unseen, label_count)
    progress(len(sets), len(sets), "")
    return Utility(scores, {name: len(pairs) for name, pairs in sets.items()}, len(unseen), steps, block)
