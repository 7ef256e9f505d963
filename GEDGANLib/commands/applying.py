"""A segmentation network applied to scans, into a data set; what the command ``segment`` ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events
from .scans import refuse_labels, tell_left_out
from .trusted import Shown, tell_made, write_shares, write_trust
from .wanted import values_fit, with_own_values

TABLE, SHEET = "segmented.csv", "segmented.png"
TITLE = "Segmentations and their trust, the least first; made by GED-GAN, nobody drew them."


class Form:
    """In what form segmentations are written.

    :param kind: ``nnunet`` or ``folder``.
    :param soft: probabilities, too.
    :param drawn: scans that somebody segmented, to be in the data set as well.
    :param beside: folder of table and sheet.
    :param votes: files of examples whose shares are of labels that were carried, by the names of scans; see
        :func:`GEDGANLib.segmentation.segmenting.segmented`.
    """

    def __init__(
        self, kind: str, soft: bool, drawn: Sequence[Any], beside: Path, votes: Mapping[str, Path] | None = None
    ) -> None:
        self.kind, self.soft, self.drawn, self.beside, self.votes = kind, soft, drawn, beside, votes or {}


def apply(
    network: Any, dataset: Any, targets: Sequence[Any], folder: Path, shard: Any, form: Form,
    stop: Callable[[], bool], events: Events,
) -> None:  # fmt: skip
    """Segment scans into a data set."""
    from ..exchange.shards import Description, GrowingDataset, shard_folder
    from ..segmentation.segmenting import segmented
    from ..volumes.files import NRRD, suffix_of
    from ..volumes.labels import LabelTable
    from ..volumes.pipeline import load_case

    plan = network.plan
    own_numbers = form.kind == "folder" and values_fit(plan.labels)
    written_as = with_own_values if own_numbers else lambda case: case
    labels = {label.name: label.value if own_numbers else label.index for label in plan.labels}
    words = f"segmentations made by {network.path.name} with GED-GAN, not drawn by anybody"
    if form.drawn:
        words += f", but for {len(form.drawn)} that were drawn: provenance.json tells them apart"
    asked = {
        "network": network.digest, "data": str(dataset.folder.resolve()), "cases": [each.name for each in targets],
        "format": form.kind, "soft": form.soft, "shards": shard.count,
    }  # fmt: skip
    table, known = LabelTable(dataset), {label.name for label in plan.labels}
    shown, count = Shown(), 0
    with shard_folder(folder, form.kind, shard, asked) as is_written:
        growing = GrowingDataset(folder, form.kind, Description(words, labels, tuple(dataset.channel_names)))

        def finish(provenance: dict[str, dict]) -> None:
            of = lambda origin: origin["segmented_by"]  # noqa: E731
            write_trust(form.beside / TABLE, provenance, plan.labels, "segmented by", of)

        own = [] if is_written else shard.of(targets)
        try:
            with events.bar("segmenting") as show:
                for number, files in enumerate(own):
                    show(number, len(own), files.name)
                    if stop():
                        raise StoppedOnRequest(f"Stopped after {number} of {len(own)} scans.")
                    try:
                        case = load_case(replace(files, label=None), dataset, plan.labels, table, set())
                        refuse_labels(files.images[0], case.image, case.kind)
                        made = segmented(case, network, _shares(form.votes.get(files.name)))
                    except InputError as error:
                        tell_left_out(files.name, error, events)
                        continue
                    growing.add(written_as(made.case), ".nrrd" if suffix_of(files.images[0]) in NRRD else ".nii.gz")
                    if form.soft:
                        write_shares(folder, made)
                    shown.add(made.case)
                    count += 1
                show(len(own), len(own), "")
            for files in form.drawn:  # that could be read when they were learned from
                growing.add(load_case(files, dataset, plan.labels, table, known))
        except KeyboardInterrupt as interrupt:
            if folder != form.beside:  # a part of a job, which is begun anew
                raise StoppedOnRequest("Stopped while segmenting.") from interrupt
            if shard.count == 1:
                growing.close(shard, finish)
            raise StoppedOnRequest(f"Stopped; what is complete is in {folder}.") from interrupt
        whole = growing.close(shard, finish)
    words = f"{count} scan(s) were segmented{f'; they are in {folder}' if folder == form.beside else ''}."
    tell_made(words, shown, is_written, whole, shard, form.beside / TABLE, form.beside / SHEET, TITLE)


def _shares(path: Path | None) -> Any:
    """Of an example that is kept; None where it is not, or cannot be read."""
    from ..segmentation.examples import Example

    try:
        return None if path is None else Example.load(path).shares
    except (OSError, ValueError):
        return None
