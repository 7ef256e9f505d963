"""Long work in steps, as generators that yield how far they are and return what they made."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

Said, Made = TypeVar("Said"), TypeVar("Made")


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
    """Go through all steps, telling what they yield, and return what they return."""
    while True:
        try:
            tell(next(steps))
        except StopIteration as stop:
            return stop.value
