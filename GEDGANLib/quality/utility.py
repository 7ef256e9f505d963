"""What synthesized pairs are worth for a segmentation: the Dice of a U-Net on real cases that nobody learned from.

Three arms with the same network, number of updates and classical augmentation: real pairs, synthesized pairs, and both,
a synthesized pair drawn as often as a real one. Only the pairs differ. What synthesis adds is the last arm less the
first.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..segmentation.pairs import case_dice, coarsened_pairs, join, train_segmenter
from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase

ARMS = ("real", "synthesized", "real and synthesized")


BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Utility:
    """What the arms reached on real unseen cases.

    :param dice: arm -> (cases, labels), NaN where a case does not have the label.
    :param trained_on: pairs of each arm.
    :param tested_on: real cases.
    :param steps: updates of each network.
    :param block: voxels of the grid, along each axis, to one that the networks saw.
    """

    dice: dict[str, np.ndarray]
    trained_on: dict[str, int]
    tested_on: int
    steps: int
    block: tuple[int, ...]

    def by_label(self, arm: str) -> list[float]:
        """Mean Dice of each label over the cases that have it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a label that no case has
            return np.nanmean(self.dice[arm], axis=0).tolist()

    def mean(self, arm: str) -> float:
        """Mean Dice over the labels."""
        return float(np.nanmean(self.by_label(arm)))

    def interval(self, arm: str) -> tuple[float, float]:
        """95 % over test cases, by bootstrap."""
        return self._bootstrapped(self.dice[arm])

    def gain(self) -> tuple[float, tuple[float, float]]:
        """Both kinds of pairs less real ones alone, and its 95 % over test cases."""
        difference = self.dice[ARMS[2]] - self.dice[ARMS[0]]
        return float(np.nanmean(difference)), self._bootstrapped(difference)

    @staticmethod
    def _bootstrapped(values: np.ndarray) -> tuple[float, float]:
        random = np.random.default_rng(0)
        cases = np.nanmean(values[~np.isnan(values).all(1)], axis=1)
        means = random.choice(cases, (BOOTSTRAPS, len(cases))).mean(1)
        return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def measure_utility(
    real: Sequence[WorkingCase],
    made: Sequence[WorkingCase],
    unseen: Sequence[WorkingCase],
    label_count: int,
    steps: int,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = quiet,
) -> Utility:
    """Train and test the three arms.

    :param real: what the generator learned from, labelled.
    :param made: synthesized cases.
    :param unseen: labelled real cases that neither the generator nor a U-Net has learned from.
    """
    (known, block), (new, _), (tested, _) = (
        coarsened_pairs(cases, label_count, device) for cases in (real, made, unseen)
    )
    sets = dict(zip(ARMS, (known, new, join(known, new))))
    scores = {}
    for index, (name, pairs) in enumerate(sets.items()):

        def show(step: int, total: int, _: str, index: int = index, name: str = name) -> None:
            progress(index * total + step, len(sets) * total, f"on {name}")

        shares = None
        if name == ARMS[2]:
            shares = torch.cat([torch.full((len(group),), 1 / len(group)) for group in (known, new)])
        network = train_segmenter(pairs, label_count, steps, seed, device, shares=shares, progress=show)
        scores[name] = case_dice(network, tested, label_count)
    progress(len(sets), len(sets), "")
    return Utility(scores, {name: len(pairs) for name, pairs in sets.items()}, len(tested), steps, block)
