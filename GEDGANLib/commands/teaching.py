"""Brings together what the command ``segment`` learns from, and keeps it for a job that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events
from ..jobs.writing import write_bytes
from .scans import refuse_labels, tell_left_out
from .wanted import scan_of

KINDS = ("labelled", "variations", "rest")


class Teaching:
    """Brings together what a network learns from, see :mod:`GEDGANLib.synthesis.teaching`."""

    def __init__(
        self, variations: Any, plan: Any, dataset: Any, table: Any, sources: Sequence[Any], seed: int,
        stop: Callable[[], bool], bars: Any, events: Events,
    ) -> None:  # fmt: skip
        self.variations, self.plan, self.dataset, self.table = variations, plan, dataset, table
        self.sources, self.seed, self.stop, self.bars, self.events = sources, seed, stop, bars, events
        self.digests: list[str] = []
        """Of all images that are learned from."""
        self.names: list[str] = []
        """Of the rest, in order."""

    def material(self, kept: Path) -> Any:
        """Of all scans; read again where it was brought together before.

        :param kept: file for it.
        """
        from ..segmentation.examples import load_examples, save_examples
        from ..segmentation.job import Material

        about = kept.with_suffix(".json")
        if kept.exists() and about.exists():
            try:
                found, told = load_examples(kept, KINDS), json.loads(about.read_text("utf-8"))
                self.digests, self.names = told["images"], told["rest"]
                return Material(**found)
            except (OSError, ValueError, KeyError, TypeError):
                self.digests, self.names = [], []  # it is made anew
        made = self._made()
        write_bytes(about, json.dumps({"images": self.digests, "rest": self.names}).encode("utf-8"))
        save_examples(kept, {kind: getattr(made, kind) for kind in KINDS})
        return made

    def _made(self) -> Any:
        from ..segmentation.job import Material
        from ..segmentation.scans import placed
        from ..synthesis.carried import Carrier
        from ..synthesis.teaching import varied, with_carried

        carrier = Carrier(self.variations, self.plan.labels)
        labelled, laid, cases = [], [], []
        for case in self._read(self.sources, "reading the segmented scans"):
            if case.labels is None or not case.labels.any():
                self.events.emit("warning", message=f"{case.name} counts as not segmented: its segmentation is empty.")
                continue
            laid.append(carrier.laid(case))
            labelled.append(placed(case, self.plan).example())
            cases.append(case)
        if not cases:
            raise InputError("No segmentation of these scans can be used.", "Segment one of them.")
        show = self.bars.show("making variations")
        variations = []
        counts = [
            self.plan.variations * (number + 1) // len(cases) - self.plan.variations * number // len(cases)
            for number in range(len(cases))
        ]
        for case, count in zip(cases, counts):
            for made in varied(self.variations, case, self.plan, count, self.seed):
                variations.append(made)
                show(len(variations), self.plan.variations, case.name)
                self._stop_if_asked("making variations")
        show = self.bars.show("learning how to weigh the labels that are carried")
        carrier.take(laid, show)
        used = {case.name for case in cases}
        others = [replace(files, label=None) for files in self.dataset.cases if files.name not in used]
        rest = []
        for case in self._read(others, "carrying labels to the rest"):
            rest.append(with_carried(carrier.carried(case, carrier.laid(case)), self.plan))
            self.names.append(case.name)
        return Material(labelled, variations, rest)

    def _read(self, files: Sequence[Any], words: str) -> Iterator[Any]:
        """The scans that can be read and used, one after the other; the others are told."""
        from ..training.request import image_digest

        show = self.bars.show(words)
        for number, each in enumerate(files):
            show(number, len(files), each.name)
            self._stop_if_asked(words)
            try:
                case = scan_of(each, self.dataset, self.table)
                refuse_labels(each.images[0], case.image, case.kind)
                self.digests.append(image_digest(self.variations.working(case)))
            except InputError as error:
                tell_left_out(each.name, error, self.events)
                continue
            yield case
        show(len(files), len(files), "")

    def _stop_if_asked(self, words: str) -> None:
        if self.stop():
            raise StoppedOnRequest(f"Stopped while {words}.")


def votes_of(kept: Path) -> dict[str, Any]:
    """Shares of the labels that were carried to the rest, by the names of the scans; none where they are not kept.

    :param kept: file of the material.
    """
    from ..segmentation.examples import load_examples

    try:
        names = json.loads(kept.with_suffix(".json").read_text("utf-8"))["rest"]
        return {name: each.shares for name, each in zip(names, load_examples(kept, KINDS)["rest"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
