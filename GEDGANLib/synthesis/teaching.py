"""What a segmentation network learns from, made of an alignment: labelled scans and their variations, and the rest with
the labels that were carried there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..alignment.variations import ORDER_IN_A_HURRY, Request
from ..segmentation.examples import Example
from ..segmentation.job import with_shares
from ..segmentation.plan import NetworkPlan
from ..segmentation.scans import placed, share_on
from ..volumes.case import Case
from .carried import CarriedCase
from .variations import Variations, changed, key_of


class Varied:
    """Variations of a labelled scan, on the network's grid, each by its number.

    They are read off the scan on that grid: what is finer teaches nothing there, and would take many times as long.

    :param seed: the same seed, the same variations.
    """

    def __init__(self, variations: Variations, case: Case, plan: NetworkPlan, seed: int) -> None:
        self.variations, self.name, self.seed = variations, case.name, seed
        self.place, _digest = variations.place(case)
        self.there = placed(case, plan)

    def by_modes(self, left_out: frozenset[str] = frozenset()) -> Callable[[int], Example]:
        """Makes the variation of a number.

        :param left_out: cases whose images the modes are made without.
        """
        scan = self.variations.scan(self.place, self.there.case, left_out, order=ORDER_IN_A_HURRY)

        def make(index: int) -> Example:
            variation = scan.subject.varied(Request(), key_of(self.seed, self.name, index))
            return self.there.of(changed(self.there.case, scan, variation, f"{self.name}_{index}")).example()

        return make


def with_carried(made: CarriedCase, plan: NetworkPlan) -> Example:
    """A scan with the labels that were carried to it, and their shares of the votes, on the network's grid."""
    there = placed(made.case, plan)
    shares = np.stack(
        [share_on(made.share_of(label), made.case.affine, there.case) for label in range(len(plan.labels) + 1)]
    )
    total = np.maximum(shares.sum(0), 1e-6)
    return with_shares(there.example(), torch.from_numpy(shares / total))
