"""Watches a training for what goes wrong with few cases, and says what can be done about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..volumes.case import Case
from ..volumes.measures import COLLAPSED

WATCHED = 16
"""Synthesized cases that are looked at each time."""
SIDE = 16
"""Blocks along each axis of the small pictures in which cases are compared."""
FROM_PROGRESS, FROM_STEP = 0.3, 300
"""Share of the run and step before which nothing is said: a training starts from the mean of its cases, all alike."""
KNOWN_BY_HEART, COPIED = 0.9, 0.5
"""Bounds: of over-fitting, and of the distance to the nearest training case
relative to that of held-out cases."""
FEWEST_HELD_OUT = 5
"""Held-out cases below which nothing is said of copies."""

COLLAPSE_ADVICE = (
    "The synthesized cases hardly differ from each other ({figure:.0%} of the variety of the training cases): the "
    "generator has collapsed. Stop, double training.penalty_weight or halve training.learning_rate in the plan, and "
    "train anew."
)
OVERFITTING_ADVICE = (
    "The discriminator knows its {cases} training cases by heart ({figure:.0%} of what tells real from synthesized "
    "cases does not hold for held-out ones), though augmentation is as strong as it may be. More cases help most; "
    "unlabelled ones do too. Longer training will not."
)
COPY_ADVICE = (
    "Synthesized cases lie closer to training cases than held-out real ones do ({figure:.0%} of their distance): some "
    "may be copies of patients. Do not share them before `preview.png` was looked at; more cases, or an earlier stop, "
    "make copies less likely."
)


UNTRAINED_ADVICE = (
    "After {steps} steps the synthesized cases hardly differ from each other ({figure:.0%} of the variety of the "
    "training cases): this training was too short to get beyond what it starts from. Resume it, with more time."
)


def small_pictures(images: Tensor) -> Tensor:
    """Images (N, C, *spatial) as vectors of block means, (N, C * blocks)."""
    sides = [min(SIDE, side) for side in images.shape[2:]]
    pool = functional.adaptive_avg_pool3d if images.ndim == 5 else functional.adaptive_avg_pool2d
    return pool(images.float(), sides).flatten(1)


class Monitor:
    """Compares synthesized cases with training and held-out ones, in small pictures that are made once.

    :param training, held_out: cases on the grid of what is going to be synthesized.
    """

    def __init__(self, training: Iterable[Case], held_out: Iterable[Case]) -> None:
        self._training = self._pictures(training)
        self._held_out = self._pictures(held_out)
        self._said: set[str] = set()

    @staticmethod
    def _pictures(cases: Iterable[Case]) -> Tensor | None:
        pictures = [small_pictures(torch.from_numpy(case.image[None].copy())) for case in cases]
        return torch.cat(pictures) if pictures else None

    def variety(self, images: Tensor) -> float:
        """How much cases differ, relative to the training cases: 0 where all are the same, about 1 where they differ as
        those do.

        :param images: synthesized, (N, C, *grid), on the CPU.
        """
        return float(small_pictures(images).var(0).sum() / self._training.var(0).sum().clamp_min(1e-12))

    def untrained(self, variety: float, step: int) -> list[str]:
        """What to say of a training that ends before anything could be said of it; nothing where it made cases that
        differ."""
        if step >= FROM_STEP or variety >= COLLAPSED:
            return []
        return [UNTRAINED_ADVICE.format(figure=variety, steps=step)]

    def warnings(self, images: Tensor, strength: Any, progress: float, step: int) -> list[str]:
        """What is wrong and was not said before.

        :param images: synthesized, (N, C, *grid), on the CPU.
        :param strength: of the augmentation, a :class:`GEDGANLib.training.augmentation.Strength`.
        :param progress: of the run, in [0, 1].
        """
        if progress < FROM_PROGRESS or step < FROM_STEP:
            return []
        made = small_pictures(images)
        found = {}
        variety = self.variety(images)
        if variety < COLLAPSED:
            found["collapse"] = COLLAPSE_ADVICE.format(figure=variety)
        known = strength.overfitting
        if known is not None and known > KNOWN_BY_HEART and strength.value >= 0.99 * strength.largest:
            found["overfitting"] = OVERFITTING_ADVICE.format(figure=min(known, 1.0), cases=len(self._training))
        if self._held_out is not None and len(self._held_out) >= FEWEST_HELD_OUT:
            nearest = [torch.cdist(pictures, self._training).min(1).values for pictures in (made, self._held_out)]
            closeness = float(nearest[0].median() / nearest[1].median().clamp_min(1e-12))
            if closeness < COPIED and "collapse" not in found:
                found["copies"] = COPY_ADVICE.format(figure=closeness)
        new = [words for kind, words in found.items() if kind not in self._said]
        self._said |= set(found)
        return new
