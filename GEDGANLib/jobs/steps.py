"""Long work in steps, as generators that yield how far they are and return what they made."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

Said, Made = TypeVar("Said"), TypeVar("Made")


def through(steps: Generator[Said, None, Made], tell: Callable[[Said], Any] = lambda said: None) -> Made:
    """Go through all steps, telling what they yield, and return what they return."""
    while True:
        try:
            tell(next(steps))
        except StopIteration as stop:
            return stop.value
