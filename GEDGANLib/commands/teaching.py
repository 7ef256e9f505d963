"""Brings together what the command ``segment`` learns from, and keeps it for a job that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events
from ..jobs.writing import explain_unwritable, write_bytes
from .scans import refuse_labels, tell_left_out, warn_of_other_kind
from .wanted import scan_of

KINDS, ABOUT = ("labelled", "variations", "rest"), "about.json"
MOST_SOURCES = 8
"""Segmented scans whose labels are carried to the rest; all of them teach the network."""


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
        self.used: list[str] = []
        """Names of the segmented scans that could be used."""
        self.names: list[str] = []
        """Of the rest."""

    def material(self, kept: Path) -> Any:
        """Of all scans; what was brought together before is read again.

        :param kept: folder for it, a file an example: more of them than fit into memory are looked at part by part.
        """
        from ..segmentation.job import Material

        self._kept, about = kept, kept / ABOUT
        try:
            kept.mkdir(exist_ok=True)
        except OSError as error:
            raise explain_unwritable(kept, error) from error
        found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        for kind, example in self._made():
            found[kind].append(example)
        told = {"images": self.digests, "labelled": self.used, "rest": self.names}
        write_bytes(about, json.dumps(told).encode("utf-8"))
        return Material(*(found[kind] for kind in KINDS))

    def _example(self, name: str, make: Callable[[], Any]) -> Any:
        """An example of before, or a new one, which is kept."""
        from ..segmentation.examples import Example

        path = self._kept / f"{name}.safetensors"
        with suppress(OSError, ValueError):
            return Example.load(path)
        make().save(path)
        return Example.load(path)

    def _made(self) -> Iterator[tuple[str, Any]]:
        """Examples one after the other, with their kinds."""
        from ..segmentation.scans import placed
        from ..synthesis.carried import Carrier
        from ..synthesis.teaching import Varied, with_carried

        carrier, laid = Carrier(self.variations, self.plan.labels), {}
        for case in self._read(self.sources, "reading the segmented scans"):
            if case.labels is None or not case.labels.any():
                self.events.emit("warning", message=f"{case.name} counts as not segmented: its segmentation is empty.")
                continue
            laid[case.name] = carrier.laid(case)
            self.used.append(case.name)
            yield "labelled", self._example(f"labelled-{case.name}", placed(case, self.plan).example)
        if not self.used:
            raise InputError("No segmentation of these scans can be used.", "Segment one of them.")
        show, done, total = self.bars.show("making variations"), 0, self.plan.variations
        by_name = {files.name: files for files in self.sources}
        for number, name in enumerate(self.used):
            count = total * (number + 1) // len(self.used) - total * number // len(self.used)
            case = scan_of(by_name[name], self.dataset, self.table)
            make = Varied(self.variations, case, self.plan, self.seed).by_modes()
            for index in range(count):
                yield "variations", self._example(f"variation-{name}-{index:04d}", partial(make, index))
                done += 1
                show(done, total, name)
                self._stop_if_asked("making variations")
        chosen = self._covering(self.used)
        show = self.bars.show("learning how to weigh the labels that are carried")

        def watch(share: float, of: int, name: str) -> None:
            show(share, of, name)
            self._stop_if_asked("learning how to weigh the labels that are carried")

        carrier.take([laid[name] for name in chosen], watch)
        others = [replace(files, label=None) for files in self.dataset.cases if files.name not in self.used]
        for case in self._read(others, "carrying labels to the rest"):
            try:
                example = self._example(
                    f"rest-{case.name}",
                    lambda case=case: with_carried(carrier.carried(case, carrier.laid(case)), self.plan),
                )
            except InputError as error:
                tell_left_out(case.name, error, self.events)
                continue
            self.names.append(case.name)
            yield "rest", example

    def _covering(self, names: list[str]) -> list[str]:
        """Those of the segmented scans that all others are nearest to, at most :data:`MOST_SOURCES`: that more of them
        vote takes longer, and hardly changes what they say."""
        from ..alignment.modes import components_of
        from ..synthesis.carried import next_to_segment
        from ..synthesis.statistical import Population

        model = self.variations.model
        if len(names) <= MOST_SOURCES or model.population is None:
            return names[:MOST_SOURCES]
        population = Population.of(model.population, model.about["population"])
        coefficients = components_of(population.products, range(population.members)).coefficients
        rows = [population.names.index(name) for name in names if name in population.names]
        known = [population.names[row] for row in rows]
        found = [each.name for each in next_to_segment(known, coefficients[rows], set(), MOST_SOURCES)]
        return found or names[:MOST_SOURCES]

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
                warn_of_other_kind(each.name, case.image.shape[1:], case.affine, self.variations.plan, self.events)
            except InputError as error:
                tell_left_out(each.name, error, self.events)
                continue
            yield case
        show(len(files), len(files), "")

    def _stop_if_asked(self, words: str) -> None:
        if self.stop():
            raise StoppedOnRequest(f"Stopped while {words}.")


def votes_of(kept: Path) -> dict[str, Path]:
    """Files of the rest, whose shares are of the labels that were carried there, by the names of the scans.

    :param kept: folder of the material.
    """
    return {path.stem.removeprefix("rest-"): path for path in kept.glob("rest-*.safetensors")}


def labelled_of(kept: Path) -> list[str] | None:
    """Names of the segmented scans that could be used; None where it is not told.

    :param kept: folder of the material.
    """
    try:
        return list(json.loads((kept / ABOUT).read_text("utf-8"))["labelled"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
