"""What a segmentation network learns from, made of an alignment: labelled scans and their variations, and the rest with
the labels that were carried there."""

from __future__ import annotations

from collections.abc import Generator

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


def varied(
    variations: Variations, case: Case, plan: NetworkPlan, count: int, seed: int,
    left_out: frozenset[str] = frozenset(),
) -> Generator[Example, None, None]:  # fmt: skip
    """Variations of a labelled scan, on the network's grid, one after the other.

    They are read off the scan on that grid: what is finer teaches nothing there, and would take many times as long.

    :param seed: the same seed, the same variations.
    :param left_out: cases whose images the modes are made without.
    """
    place, _digest = variations.place(case)
    there = placed(case, plan)
    scan = variations.scan(place, there.case, left_out, order=ORDER_IN_A_HURRY)
    for index in range(count):
        variation = scan.subject.varied(Request(), key_of(seed, case.name, index))
        made = changed(there.case, scan, variation, f"{case.name}_{index}")
        yield there.of(made).example()


def with_carried(made: CarriedCase, plan: NetworkPlan) -> Example:
    """A scan with the labels that were carried to it, and their shares of the votes, on the network's grid."""
    there = placed(made.case, plan)
    shares = np.stack(
        [share_on(made.share_of(label), made.case.affine, there.case) for label in range(len(plan.labels) + 1)]
    )
    total = np.maximum(shares.sum(0), 1e-6)
    return with_shares(there.example(), torch.from_numpy(shares / total))
