"""Brings together what the command ``segment`` learns from, and keeps it for a job that goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events
from ..jobs.writing import write_bytes
from .scans import refuse_labels, tell_left_out
from .wanted import scan_of

KINDS, ABOUT = ("labelled", "variations", "rest"), "about.json"


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

        :param kept: folder for it, a file an example: more of them than fit into memory are looked at part by part.
        """
        from ..segmentation.examples import Example
        from ..segmentation.job import Material

        about = kept / ABOUT
        if about.exists():
            try:
                told = json.loads(about.read_text("utf-8"))
                self.digests, self.names = told["images"], told["rest names"]
                return Material(
                    *([Example.load(kept / _file(kind, number)) for number in range(told[kind])] for kind in KINDS)
                )
            except (OSError, ValueError, KeyError, TypeError):
                self.digests, self.names = [], []  # it is made anew
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        for kind, example in self._made():
            path = kept / _file(kind, len(found[kind]))
            example.save(path)
            found[kind].append(Example.load(path))
        counts = {kind: len(examples) for kind, examples in found.items()}
        told = {"images": self.digests, "rest names": self.names, **counts}
        write_bytes(about, json.dumps(told).encode("utf-8"))
        return Material(*(found[kind] for kind in KINDS))

    def _made(self) -> Iterator[tuple[str, Any]]:
        """Examples one after the other, with their kinds."""
        from ..segmentation.scans import placed
        from ..synthesis.carried import Carrier
        from ..synthesis.teaching import varied, with_carried

        carrier = Carrier(self.variations, self.plan.labels)
        laid, used = [], []
        for case in self._read(self.sources, "reading the segmented scans"):
            if case.labels is None or not case.labels.any():
                self.events.emit("warning", message=f"{case.name} counts as not segmented: its segmentation is empty.")
                continue
            laid.append(carrier.laid(case))
            used.append(case.name)
            yield "labelled", placed(case, self.plan).example()
        if not used:
            raise InputError("No segmentation of these scans can be used.", "Segment one of them.")
        show, done, total = self.bars.show("making variations"), 0, self.plan.variations
        by_name = {files.name: files for files in self.sources}
        for number, name in enumerate(used):
            count = total * (number + 1) // len(used) - total * number // len(used)
            case = scan_of(by_name[name], self.dataset, self.table)
            for made in varied(self.variations, case, self.plan, count, self.seed):
                yield "variations", made
                done += 1
                show(done, total, name)
                self._stop_if_asked("making variations")
        show = self.bars.show("learning how to weigh the labels that are carried")
        carrier.take(laid, show)
        others = [replace(files, label=None) for files in self.dataset.cases if files.name not in used]
        for case in self._read(others, "carrying labels to the rest"):
            self.names.append(case.name)
            yield "rest", with_carried(carrier.carried(case, carrier.laid(case)), self.plan)

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


def votes_of(kept: Path) -> dict[str, Path]:
    """Files of the rest, whose shares are of the labels that were carried there, by the names of the scans; none where
    they are not kept.

    :param kept: folder of the material.
    """
    try:
        names = json.loads((kept / ABOUT).read_text("utf-8"))["rest names"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: kept / _file("rest", number) for number, name in enumerate(names)}


def _file(kind: str, number: int) -> str:
    return f"{kind}-{number:06d}.safetensors"
