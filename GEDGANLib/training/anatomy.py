"""What an alignment knows of the cases that a generator repaints.

Half of the made cases have the anatomy of the real ones that they are paired with: their scores are drawn, theirs are
known. What two patients differ by is more than what repainting is about; where it is on both sides, a judge of a few
cases at a time sees what is left, and so does the generator by its gradient. The others are drawn, so that anatomy
which nobody has is judged too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..networks.noise import Residuals
from ..networks.statistical import StatisticalGenerator
from ..volumes.pipeline import WorkingCase


@dataclass(frozen=True)
class Anatomy:
    """What an alignment knows of the cases, where a plan repaints it.

    :param statistical: of as many modes as the plan says.
    :param seen: share of the cases that saw each place of the template, (*grid).
    :param held_out: names of the cases that it was made without.
    :param residuals: the noise that statistical cases lack, see ``synthesis.residuals``; None for none.
    :param scores: (K,) of each case that the modes are of, by its name.
    """

    statistical: StatisticalGenerator
    seen: Tensor
    held_out: Sequence[str] = ()
    residuals: Residuals | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    def latents_of(self, cases: Sequence[WorkingCase], classes: Sequence[str]) -> Tensor:
        """Latents of which the anatomy of cases is made, as of their classes, (N, K); no numbers (NaN) where that is
        not known."""
        unknown = torch.full((len(self.statistical.generators),), math.nan)
        scores = torch.stack([self.scores.get(case.name, unknown) for case in cases])
        weights = torch.tensor([[float(case.class_name == name) for name in classes] for case in cases])
        return self.statistical.latents(scores, weights if classes else None)


def matched(latents: Tensor, own: Tensor, share: float) -> Tensor:
    """Latents (N, at least K) with those of the cases that they are paired with, (N, K), in a share of the rows, spread
    evenly; where these are not known (NaN) they stay."""
    numbers = torch.arange(len(latents) + 1, dtype=torch.float64) * share
    chosen = (numbers[1:].floor() > numbers[:-1].floor())[:, None].to(latents.device)
    first = latents[:, : own.shape[1]]
    own = own.to(latents)
    return torch.cat([torch.where(chosen & ~own.isnan(), own, first), latents[:, own.shape[1] :]], 1)
