r"""What a set of modes gives away of the cases that it was made of, and how few modes give away little.

Three figures, all from the cases' inner products: the *leverage* of a case, how much of the modes is of it alone; its
*read-back*, the share of its difference from the mean that the modes tell; and how well members are told from cases
that are new by their read-back, as the area under the ROC curve. New are the cases that were held out and, since these
are few, each member in turn for modes made without it and some others. They took part in the template, so that this
says how much the *modes* remember, not the mean.

An attack that knows more than this one may tell more: bounds that hold here are no proof that nothing can be read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..jobs.events import Progress, quiet
from .modes import Components, components_of

LARGEST_LEVERAGE, LARGEST_AUC, LARGEST_EXCESS = 0.5, 0.75, 0.05
"""Of any case; of telling members; of the read-back of a member over that of any new case."""
FOLDS = 10
FEWEST_CASES = 10
"""Members below which nothing is shared: each of them would be a large part of whatever is left."""
FEW_MODES = 12
"""With fewer modes than a twelfth of the cases a single unusual one is left out instead."""
MOST_DROPPED = 0.2
"""Share of the cases that may be left out."""


@dataclass(frozen=True)
class Exposure:
    """What the first modes give away.

    :param modes: how many.
    :param members: cases that they are of.
    :param leverage: the largest of a member.
    :param read_back: the largest share of a member that they tell.
    :param read_back_new: the largest of a case that is new.
    :param typical: median of members and of new cases.
    :param auc: of telling members from new cases; a half is chance.
    """

    modes: int
    members: int
    leverage: float
    read_back: float
    read_back_new: float
    typical: tuple[float, float]
    auc: float

    @property
    def bounded(self) -> bool:
        """Whether it is little enough for sharing."""
        return (
            self.leverage <= LARGEST_LEVERAGE
            and self.auc <= LARGEST_AUC
            and self.read_back <= self.read_back_new + LARGEST_EXCESS
        )

    def words(self) -> str:
        """For people; in the words of what was measured, and no promise."""
        return (
            f"{self.modes} modes of {self.members} cases. The largest share of a mode set that is one case's own "
            f"(leverage) is {self.leverage:.2f}. Of a case that the modes are of they tell up to {self.read_back:.0%} "
            f"of its difference from the mean ({self.typical[0]:.0%} in the middle), of a new one up to "
            f"{self.read_back_new:.0%} ({self.typical[1]:.0%}). By that share members are told from new cases with an "
            f"area under the ROC curve of {self.auc:.2f} (0.50 is chance). Other ways of asking may tell more."
        )


def area_under_curve(members: np.ndarray, new: np.ndarray) -> float:
    """How often a member has the larger value of the two, ties half."""
    larger = (members[:, None] > new[None]).mean() + 0.5 * (members[:, None] == new[None]).mean()
    return float(larger)


def exposures(products: np.ndarray, members: Sequence[int], held_out: Sequence[int] = ()) -> list[Exposure]:
    """What the first 1, 2, ... modes of some cases give away.

    :param products: see :func:`.modes.products_of`.
    :param held_out: cases that took no part in the template either.
    """
    members = list(members)
    whole = components_of(products, members)
    shares, leverages = whole.explained(), whole.leverages()
    new = [shares[list(held_out)]] if held_out else []
    folds = min(FOLDS, len(members))
    for fold in range(folds):
        apart = members[fold::folds]
        rest = [index for index in members if index not in set(apart)]
        if len(rest) < 2:
            continue
        without = components_of(products, rest).explained()[apart]
        # Beyond the last mode that is left they tell no more.
        missing = max(whole.count - without.shape[1], 0)
        new.append(np.pad(without, ((0, 0), (0, missing)), mode="edge")[:, : whole.count])
    fresh = np.concatenate(new) if new else np.zeros((1, whole.count))
    found = []
    for count in range(1, whole.count + 1):
        known, unknown = shares[members, count - 1], fresh[:, count - 1]
        found.append(
            Exposure(
                count,
                len(members),
                float(leverages[:, count - 1].max()),
                float(known.max()),
                float(unknown.max()),
                (float(np.median(known)), float(np.median(unknown))),
                area_under_curve(known, unknown),
            )
        )
    return found


def for_sharing(
    products: np.ndarray,
    members: Sequence[int],
    held_out: Sequence[int] = (),
    most: int | None = None,
    progress: Progress = quiet,
) -> tuple[Components, Exposure] | None:
    """The most modes that give away little: the last ones are left out and, where hardly any were left, single cases
    that stand alone.

    :param most: modes at most.
    :returns: None where even one mode would give away too much, or the cases are too few.
    """
    members = list(members)
    droppable = int(MOST_DROPPED * len(members))
    best: tuple[list[int], Exposure] | None = None
    for dropped in range(droppable + 1):
        progress(dropped, droppable + 1, "")
        if len(members) < FEWEST_CASES:
            break
        fitting = [each for each in exposures(products, members, held_out) if each.bounded]
        fitting = [each for each in fitting if most is None or each.modes <= most]
        if fitting and (best is None or fitting[-1].modes > best[1].modes):
            best = list(members), fitting[-1]
        if best is not None and best[1].modes * FEW_MODES >= len(best[0]):
            break
        count = max(len(members) // FEW_MODES, 1)
        components = components_of(products, members)
        count = min(count, components.count)
        leverages, shares = components.leverages()[:, count - 1], components.explained()[members, count - 1]
        members.pop(int((leverages if leverages.max() > LARGEST_LEVERAGE else shares).argmax()))
    progress(droppable + 1, droppable + 1, "")
    if best is None:
        return None
    return components_of(products, best[0]).first(best[1].modes), best[1]
