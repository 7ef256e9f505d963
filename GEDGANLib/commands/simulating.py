"""What the command ``simulate`` does, from parsed arguments to files and words.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..jobs.events import Events
from .options import DEVICE, a_path, above_zero
from .wanted import with_own_values

SHEET = "simulated.png"


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    simulate = kinds.add_parser("simulate", help="deform a scan to an edit of its segmentation; needs no model")
    simulate.add_argument("scan", type=a_path, metavar="SCAN", help="volume, or a folder of DICOM slices")
    simulate.add_argument("segmentation", type=a_path, metavar="SEGMENTATION", help="of the scan, before the edit")
    simulate.add_argument("edited", type=a_path, metavar="EDITED", help="the same, edited")
    simulate.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder")
    simulate.add_argument(
        "--channel", type=a_path, nargs="+", default=[], metavar="FILE", help="further channels of the scan"
    )
    simulate.add_argument(
        "--reach",
        type=above_zero(float),
        metavar="MM",
        help="nothing farther from the edit moves (default: 15, or 8 voxels)",
    )
    simulate.add_argument(
        "--free",
        nargs="*",
        metavar="NAME",
        help="segments that were not edited and may move along; all without a name (default: none of them moves)",
    )
    simulate.add_argument("--device", **DEVICE)
    simulate.set_defaults(run=run_simulate)


def run_simulate(arguments: argparse.Namespace, events: Events) -> None:
    from ..exchange.shards import Description, GrowingDataset, Shard, shard_folder
    from ..jobs.steps import through
    from ..synthesis.simulated import simulating
    from ..volumes.files import NRRD, suffix_of

    case, edited = _cases(arguments)
    steps = simulating(case, edited, _free(arguments, case), arguments.reach, arguments.device)
    next(steps)  # what is refused is so before anything is begun
    with shard_folder(arguments.output, "folder", Shard(), {}):
        with events.bar("deforming") as show:
            found = through(steps, lambda said: show(*said, case.name))
        made = with_own_values(found.case)
        labels = {label.name: label.index for label in made.label_table}
        words = f"{case.name}, deformed to an edit of its segmentation by GED-GAN; it stems from a patient"
        growing = GrowingDataset(arguments.output, "folder", Description(words, labels, case.channel_names))
        growing.add(made, ".nrrd" if suffix_of(arguments.segmentation) in (*NRRD, ".seg.nrrd") else ".nii.gz")
        growing.close(Shard(), lambda provenance: None)
    _write_sheet(arguments.output / SHEET, case, found.case)
    told, deformation = found.case.provenance, found.deformation
    for line in told["figures"]:
        print(line)
    if told["missed"]:
        events.emit("warning", message=missed_words(told["missed"]))
    print(
        f"Nothing moved by more than {deformation.farthest:.1f} mm, and nothing {found.reach:g} mm from the edit; the "
        f"smallest Jacobian determinant is {deformation.smallest_jacobian:.2f}. Scan and segmentation are in "
        f"{arguments.output}; {arguments.output / SHEET} shows them."
    )


def missed_words(names: Sequence[str]) -> str:
    """What to say where the image did not come to what was drawn.

    :param names: of the segments.
    """
    return (
        f"The image does not come to what was drawn of {', '.join(names)} (a Dice of 0.98, 2 % of the volume and 80 % "
        "of the edit are asked for): there the segmentation says what the image does not show. Edit less, or give it "
        "more reach."
    )


def _cases(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The scan with its segmentation before and after the edit.

    :raises InputError: a file cannot be used, or lies on another grid.
    """
    from ..volumes.case import Case
    from ..volumes.dataset import CaseFiles, Dataset
    from ..volumes.files import stem_of
    from ..volumes.labels import LabelTable
    from ..volumes.reading import read_case

    images = (arguments.scan, *arguments.channel)
    channels = tuple(stem_of(path) for path in images) if len(images) > 1 else ("image",)
    found = []
    for path in (arguments.segmentation, arguments.edited):
        files = CaseFiles(stem_of(arguments.scan), images, path)
        names = _label_names(path) or _label_names(arguments.segmentation)
        dataset = Dataset(arguments.scan.parent, (files,), channels, names, False)
        table, raw = LabelTable(dataset), read_case(files, dataset)
        table.add(raw, path)
        labels = table.labels()
        numbered = table.renumber(raw, labels)
        found.append(Case(files.name, raw.image, numbered, raw.affine, labels, channels, kind=raw.kind))
    before, after = found
    known = {label.name for label in before.label_table}
    if not known & {label.name for label in after.label_table}:
        # One of them names its segments and the other does not: they are the same by their numbers.
        by_number = {label.value: label.name for label in before.label_table}
        named = [replace(label, name=by_number.get(label.value, label.name)) for label in after.label_table]
        after = replace(after, label_table=tuple(named))
    return before, after


def _label_names(segmentation: Path) -> dict[int, str]:
    """What the numbers of a label map mean, where it lies in a data set that says so."""
    from ..volumes.dataset import find_dataset

    folder = segmentation.resolve().parent.parent
    with suppress(InputError):
        return find_dataset(folder).label_names if (folder / "dataset.json").is_file() else {}
    return {}


def _free(arguments: argparse.Namespace, case: Any) -> list[str] | None:
    """Names of the segments that may move; of a label map, their numbers will do. None for all."""
    if arguments.free == []:
        return None
    by_number = {str(label.value): label.name for label in case.label_table}
    return [by_number.get(word, word) for word in arguments.free or ()]


def _write_sheet(path: Path, before: Any, after: Any) -> None:
    """The scan before and after, through the middle of what was edited, and by how much it differs."""
    from ..volumes.pictures import contact_sheet

    difference = replace(after, image=after.image - before.image)
    drawn = replace(before, labels=after.labels)
    headings = [["scan", "scan and edit", "deformed", "difference"]]
    title = "Through the middle of the edit. Deformed by GED-GAN; it stems from a patient."
    edit = before.labels != after.labels
    contact_sheet(path, [("", [before, drawn, after, difference])], title, headings, edit)
