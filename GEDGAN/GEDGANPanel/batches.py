"""Batches of cases in the scene: they grow case by case, and the last one can be taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import slicer
from slicer.i18n import tr as _


class Batches:
    """The batches that are in the scene, in the order they were begun."""

    def __init__(self) -> None:
        self._known: list[Any] = []

    def begun(self, batch: Any) -> None:
        """A batch has its first case; it may grow on."""
        self._known.append(batch)

    @property
    def last(self) -> Any | None:
        """The last batch of which something is in the scene."""
        while self._known and not any(in_scene(node) for case in self._known[-1].cases for node in case.every()):
            self._known.pop()
        return self._known[-1] if self._known else None

    def remove_last(self) -> None:
        """Take it out of the scene; the one before is the last then."""
        if self.last is not None:
            self._known.pop().remove()

    def forget(self) -> None:
        """The scene was closed."""
        self._known.clear()


def in_scene(node: Any | None) -> bool:
    """Whether a node is there still."""
    return node is not None and bool(slicer.mrmlScene.IsNodePresent(node))


def growing_batch(
    cases: Iterator[Any], count: int | None, title: str, begun: Callable[[Any], Any] = lambda batch: None
) -> Iterator[tuple[float | None, str]]:
    """Put cases into the scene as they come; yields (share done, words), returns the batch. What is there when it is
    stopped, or cannot go on, stays.

    :param count: of the cases; None where it is not known.
    :param begun: called with the batch when its first case is in the scene.
    """
    from GEDGANLib.scene.nodes import GrowingBatch

    growing = GrowingBatch(title)
    for number, case in enumerate(cases, 1):
        growing.add(case)
        if number == 1:
            begun(growing.batch)
        yield (number / count if count else None), _("Case {number}").format(number=number)
    return growing.batch
