r"""Which cases a step looks at, and all other chance in it: drawn anew for each step from seed, purpose and step.

A step's random numbers do not depend on those of the steps before, on who asks first or on how many processes share
the work. So a training that is resumed goes on as if it had never stopped, cases can be fetched ahead, and several
processes draw one batch of which each takes its part.

**Balance.** Cases with a class, and those with a label, form groups. With :math:`f_g` the share of a group among the
cases (among the labelled ones for a label), a case is drawn with a weight :math:`\max_{g} f_g^{-b}` over its groups:
at :math:`b=0` all alike, at :math:`b=1` all classes equally often.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..volumes.pipeline import WorkingCase


@dataclass(frozen=True)
class Draws:
    """Random numbers of a training with a seed."""

    seed: int

    def of(self, purpose: str, step: int) -> torch.Generator:
        """A generator on the CPU for one ``purpose`` in one ``step``; the same whenever it is asked for."""
        digest = hashlib.sha256(f"{self.seed} {purpose} {step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def split_held_out(cases: Sequence[WorkingCase], count: int, draws: Draws) -> tuple[list[int], list[int]]:
    """Indices of the cases to learn from and of ``count`` held-out ones, each in order.

    Held-out cases are taken from labelled and unlabelled cases and from each class in proportion, so that a small
    group loses few: of eight labelled cases among a hundred, one in ten held out takes one.
    """
    groups: dict[tuple, list[int]] = {}
    for index, case in enumerate(cases):
        groups.setdefault((case.labels is not None, case.class_name or ""), []).append(index)
    random = draws.of("held out", 0)
    shares = {key: count * len(members) / len(cases) for key, members in groups.items()}
    takes = {key: math.floor(share) for key, share in shares.items()}
    # Largest remainders first, until the count is reached.
    for key in sorted(groups, key=lambda key: (takes[key] - shares[key], key))[: count - sum(takes.values())]:
        takes[key] += 1
    held_out: list[int] = []
    for key in sorted(groups):
        order = torch.randperm(len(groups[key]), generator=random)
        held_out += [groups[key][int(place)] for place in order[: takes[key]]]
    chosen = set(held_out)
    return [index for index in range(len(cases)) if index not in chosen], sorted(held_out)


def case_weights(cases: Sequence[WorkingCase], balance: float) -> Tensor:
    """How often each case is drawn, (cases,), see the module's text for the formula; the sum is 1."""
    if balance == 0:
        return torch.full((len(cases),), 1 / len(cases), dtype=torch.float64)
    groups: list[list[tuple]] = []
    for case in cases:
        present = [] if case.labels is None else np.unique(case.labels).tolist()
        own = [("label", value) for value in present if value]
        groups.append(own if case.class_name is None else [*own, ("class", case.class_name)])
    totals = {
        "label": sum(case.labels is not None for case in cases),
        "class": sum(case.class_name is not None for case in cases),
    }
    counts: dict[tuple, int] = {}
    for own in groups:
        for group in own:
            counts[group] = counts.get(group, 0) + 1
    weights = [max(((counts[g] / totals[g[0]]) ** -balance for g in own), default=1.0) for own in groups]
    total = torch.tensor(weights, dtype=torch.float64)
    return total / total.sum()


@dataclass(frozen=True)
class Sampler:
    """Draws the cases of each step, with replacement.

    :param weights: of the cases, (cases,).
    :param labelled: which cases have labels, (cases,) bool.
    :param labelled_share: of each batch that is drawn from those alone.
    """

    draws: Draws
    weights: Tensor
    labelled: Tensor
    labelled_share: float = 0.0

    def probabilities(self, batch: int) -> Tensor:
        """Expected share of each case among those drawn in batches of so many, (cases,)."""
        share = math.ceil(self.labelled_share * batch) / batch
        if not share or not bool(self.labelled.any()):
            return self.weights
        few = self.weights * self.labelled
        return (1 - share) * self.weights + share * few / few.sum()

    def choose(self, step: int, batch: int, purpose: str = "cases") -> Tensor:
        """Indices of the cases of a step, (batch,)."""
        random = self.draws.of(purpose, step)
        chosen = torch.multinomial(self.weights, batch, replacement=True, generator=random)
        from_labelled = math.ceil(self.labelled_share * batch)
        if from_labelled and bool(self.labelled.any()):
            few = self.weights * self.labelled
            chosen[:from_labelled] = torch.multinomial(few, from_labelled, replacement=True, generator=random)
        return chosen
