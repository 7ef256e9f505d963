"""Which cases of a data set a model was trained on.

The model file holds a digest of the image of each case that it has ever learned from. Who has the data can compare;
from the digests alone nothing of a case can be found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..training.request import image_digest
from ..volumes.pipeline import WorkingCase


@dataclass(frozen=True)
class Membership:
    """Indices of cases.

    :param trained: the model learned from them.
    :param unseen: it did not: held out, or not among its data.
    :param known: the model says which ones it learned from; else all are taken to be trained on.
    """

    trained: tuple[int, ...]
    unseen: tuple[int, ...]
    known: bool


def membership(about: dict[str, Any], cases: Sequence[WorkingCase]) -> Membership:
    """Tell training cases from others.

    :param about: of a :class:`GEDGANLib.synthesis.model_file.Model`.
    :param cases: on the grid of the model's plan.
    """
    trained_on = set(about.get("trained_images", ()))
    if not trained_on:
        return Membership(tuple(range(len(cases))), (), False)
    known = [image_digest(case) in trained_on for case in cases]
    return Membership(
        tuple(index for index, trained in enumerate(known) if trained),
        tuple(index for index, trained in enumerate(known) if not trained),
        True,
    )
