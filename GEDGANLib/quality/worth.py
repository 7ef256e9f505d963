r"""Whether variations are worth it for these data: told by the user's own labelled cases, before anything is trusted.

The labelled cases are divided into folds. On the others of each fold U-Nets learn, some seeds each: from the labelled
cases with classical augmentation, in two strengths, of which the stronger on average is what is compared with; and from
these and as many variations, by modes that were made without the images of the fold. All have the same number of
updates. With d the J means of a fold's differences in Dice (over its cases, labels and the seeds), n₁ cases learned
from and n₂ tested, the interval is that of the corrected resampled t-test,

.. math:: \bar d\pm t_{J-1}\sqrt{\Big(\frac1J+\frac{n_2}{n_1}\Big)s_d^2}

(Nadeau and Bengio, *Inference for the generalization error*, Machine Learning 52, 2003, section 3): folds that learn
from the same cases do not differ as independent ones do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..segmentation.applying import overlaps, probabilities
from ..segmentation.changes import STRONG, Changes
from ..segmentation.examples import Example, Group
from ..segmentation.learner import Learner, Recipe
from ..volumes.fingerprint import Progress, quiet
from .words import WORTH

FEWEST, FOLDS, SEEDS = 3, 5, 3
"""Labelled cases from which on they can tell; folds at most; seeds of each network."""
BASELINES = {"classical augmentation": Changes(), "strong augmentation": STRONG}
VARIATIONS = "with variations"
FEWEST_UPDATES = 150
"""Below which a network has learned too little to tell anything."""
HELPS, NOTHING, HARMS = "helps", "no difference that can be told", "harms: do not use"


@dataclass(frozen=True)
class Effort:
    """How thoroughly to look.

    :param updates: of each network.
    """

    folds: int = FOLDS
    seeds: int = SEEDS
    updates: int = FEWEST_UPDATES

    @property
    def networks(self) -> int:
        """That are trained."""
        return self.folds * self.seeds * (len(BASELINES) + 1)

    @classmethod
    def within(cls, minutes: float, cases: int, seconds: float, most: int) -> Effort:
        """What takes about so many minutes; fewer seeds and folds where updates would be too few, and the least that
        tells anything where that takes longer.

        :param seconds: an update, about.
        :param most: updates; more are not needed.
        """
        for folds, seeds in ((FOLDS, SEEDS), (FOLDS, 2), (3, 2), (3, 1)):
            effort = cls(min(cases, folds), seeds)
            updates = int(min(60 * minutes / (effort.networks * seconds), most))
            if updates >= FEWEST_UPDATES:
                break
        return replace(effort, updates=min(max(updates, FEWEST_UPDATES), most))


@dataclass(frozen=True)
class Worth:
    """What was found.

    :param dice: mean Dice coefficient of each arm, over folds.
    :param baseline: what is compared with.
    :param difference, low, high: Dice with variations less that, and its 95 %.
    :param cases: labelled.
    """

    dice: dict[str, float]
    baseline: str
    difference: float
    low: float
    high: float
    cases: int
    effort: Effort

    @property
    def verdict(self) -> str:
        """:data:`HELPS`, :data:`NOTHING` or :data:`HARMS`."""
        if self.low > 0:
            return HELPS
        return HARMS if self.high < 0 else NOTHING

    @property
    def words(self) -> str:
        """A sentence or two for people."""
        low, high = (f"{100 * value:+.1f}" for value in (self.low, self.high))
        reach = f" ({low} to {high})" if math.isfinite(self.low) else ""
        both = f"{self.dice[VARIATIONS]:.3f} with variations and {self.dice[self.baseline]:.3f} with {self.baseline}"
        return (
            f"{WORTH} {self.verdict}: {100 * self.difference:+.1f} points of Dice{reach}, {both} alone. Measured on "
            f"your {self.cases} labelled cases in {self.effort.folds} folds, {self.effort.seeds} seed(s), "
            f"{self.effort.updates} updates each."
        )

    def figures(self) -> dict[str, Any]:
        """For a report; plain JSON types."""
        return {
            "verdict": self.verdict, "difference": round(self.difference, 4), "baseline": self.baseline,
            "interval": [round(self.low, 4), round(self.high, 4)], "cases": self.cases, "folds": self.effort.folds,
            "seeds": self.effort.seeds, "updates": self.effort.updates,
            "dice": {name: round(value, 4) for name, value in self.dice.items()},
        }  # fmt: skip


def measure_worth(
    examples: Sequence[Example],
    vary: Callable[[int, frozenset[int]], Sequence[Example]],
    label_count: int,
    recipe: Recipe,
    effort: Effort | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = quiet,
) -> Worth:
    """Train and test all networks.

    :param examples: labelled cases.
    :param vary: variations of one of them, by modes that were made without the images of others; of an index, and the
        indices of these.
    :param recipe: of all networks alike, apart from how cases are changed and how many updates there are.
    :raises ValueError: fewer than :data:`FEWEST` cases.
    """
    if len(examples) < FEWEST:
        raise ValueError("too few labelled cases")
    effort = effort or Effort(min(len(examples), FOLDS), SEEDS, recipe.updates)
    order = np.random.default_rng(seed).permutation(len(examples))
    folds = [sorted(map(int, part)) for part in np.array_split(order, effort.folds)]
    arms = [*BASELINES, VARIATIONS]
    found = np.full((len(arms), len(folds)), np.nan)
    done, total = 0, effort.networks
    for number, fold in enumerate(folds):
        rest = [index for index in range(len(examples)) if index not in fold]
        real = [examples[index] for index in rest]
        made = [each for index in rest for each in vary(index, frozenset(fold))]
        for position, arm in enumerate(arms):
            groups = [Group(real, 0.5), Group(made, 0.5)] if arm == VARIATIONS else [Group(real)]
            how = replace(recipe, updates=effort.updates, changes=BASELINES.get(arm, STRONG))
            scores = []
            for each in range(effort.seeds):

                def tell(step: float, steps: int, _name: str, done: int = done, arm: str = arm) -> None:
                    progress(done + step / steps, total, arm)

                network = Learner(groups, label_count, how, seed + each, device).learn(tell)
                scores += [_dice(network, examples[index], how.patch, label_count) for index in fold]
                done += 1
            found[position, number] = np.nanmean(scores) if np.isfinite(scores).any() else np.nan
    progress(total, total, "")
    means = {arm: float(np.nanmean(row)) for arm, row in zip(arms, found)}
    baseline = max(BASELINES, key=lambda name: means[name])
    differences = found[arms.index(VARIATIONS)] - found[arms.index(baseline)]
    low, high = interval(differences[np.isfinite(differences)], len(folds[0]) / (len(examples) - len(folds[0])))
    mean = float(np.nanmean(differences))
    return Worth(means, baseline, mean, low, high, len(examples), effort)


def _dice(network: torch.nn.Module, example: Example, patch: Sequence[int], label_count: int) -> float:
    predicted = probabilities(network, example.image, patch).argmax(0)
    values = overlaps(predicted.numpy(), example.labels.numpy(), label_count)
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def interval(differences: np.ndarray, ratio: float) -> tuple[float, float]:
    """The interval of the module's text.

    :param differences: d, (J,).
    :param ratio: n₂ / n₁.
    :returns: infinite ends where there are fewer than two.
    """
    from scipy import stats

    count = len(differences)
    if count < 2:
        return -math.inf, math.inf
    error = math.sqrt((1 / count + ratio) * float(np.var(differences, ddof=1)))
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return float(differences.mean()) - reach, float(differences.mean()) + reach
