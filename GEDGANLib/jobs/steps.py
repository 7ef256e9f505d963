"""Long work in steps, as generators that yield how far they are and return what they made."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

Said, Made = TypeVar("Said"), TypeVar("Made")
TELLING_SECONDS = 0.05
"""Between two tellings: a bar that is drawn again after each of many short steps costs as much as these."""


def part_of(steps: Generator[float, None, Made], begin: float, part: float) -> Generator[float, None, Made]:
    """Steps that yield the share that is done, as a part of more of them.

    :param begin: share that is done before them.
    :param part: share of all that they are.
    """
    while True:
        try:
            yield begin + part * next(steps)
        except StopIteration as stop:
            return stop.value


def through(steps: Generator[Said, None, Made], tell: Callable[[Said], Any] = lambda said: None) -> Made:
    """Go through all steps and return what they return; what they yield is told every :data:`TELLING_SECONDS`, the
    first and the last one always."""
    told, untold, last = -math.inf, False, None
    while True:
        try:
            last = next(steps)
        except StopIteration as stop:
            if untold:
                tell(last)
            return stop.value
        now = time.monotonic()
        if untold := now - told < TELLING_SECONDS:
            continue
        told = now
        tell(last)
