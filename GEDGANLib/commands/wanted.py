"""Which variations the command ``augment`` is asked for: of which scans, by which model, and what of before."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..jobs.events import Events
from .scans import names_in, tell_left_out

NUMBER, STRENGTH, LOOK, SEED = 8, 1.0, 1.0, 0
"""Of each scan, where nothing else is asked for."""


@dataclass(frozen=True)
class Wanted:
    """A variation that is to be made.

    :param left_out: cases whose images the modes are made without.
    :param folds: numbers of the folds that it teaches; none where there is no split.
    :param attempt: how often it was drawn again before; None where that is to be found out.
    :param scan_digest, alignment_digest: of the scan that it was made of before, and of how that was aligned; None
        where it was not made before, or does not say.
    """

    name: str
    request: Any
    seed: int
    index: int
    left_out: frozenset[str] = frozenset()
    folds: tuple[int, ...] = ()
    attempt: int | None = None
    scan_digest: str | None = None
    alignment_digest: str | None = None


def chosen_scans(arguments: argparse.Namespace, dataset: Any, run: Path | None, events: Events) -> list[Any]:
    """The scans that are varied: those asked for; or those that are segmented, all where none is, without those that
    the alignment left out.

    :param run: of the alignment, where there is one.
    """
    known = {files.name: files for files in dataset.cases}
    if arguments.case:
        chosen = [known[name] for name in dict.fromkeys(names_in(dataset, arguments.case))]
    else:
        left_out = _left_out_of(run, dataset.folder)
        chosen = [files for files in dataset.cases if files.name not in left_out]
        if len(chosen) < len(dataset.cases):
            words = ", ".join(sorted(left_out & known.keys()))
            events.emit("warning", message=f"Left out, as in the alignment: {words}. Ask for them by --case.")
    segmented = [files for files in chosen if files.label is not None]
    if arguments.format == "nnunet" and not segmented:
        raise InputError(
            f"None of these cases of {dataset.folder} is segmented, which nnU-Net needs.",
            "Segment one, or use --format folder.",
        )
    if arguments.case and arguments.format == "folder":
        return chosen
    if arguments.case and len(segmented) < len(chosen):
        words = ", ".join(files.name for files in chosen if files.label is None)
        events.emit("warning", message=f"Left out, as they are not segmented: {words}.")
    return segmented or chosen


def _left_out_of(run: Path | None, data: Path) -> set[str]:
    """Names of the cases of a folder that an alignment of it was made without."""
    from ..alignment.runs import REQUEST, read_request

    if run is None:
        return set()
    asked = read_request(run / REQUEST)
    return set(asked["left_out"]) if Path(asked["data"]) == data.resolve() else set()


def label_table(dataset: Any, scans: Sequence[Any], events: Events) -> Any:
    """Labels of all cases, numbered consecutively; read where no ``dataset.json`` names them. Of a scan that cannot be
    read it is told when its turn comes."""
    from ..planning.words import MOST_LABELS
    from ..volumes.labels import LabelTable
    from ..volumes.reading import read_case

    table = LabelTable(dataset)
    segmented = [files for files in scans if files.label is not None]
    if segmented and (dataset.one_label or not dataset.names_are_complete):
        with events.bar("reading segmentations") as show:
            for number, files in enumerate(segmented):
                show(number, len(segmented), files.name)
                with suppress(InputError):
                    table.add(read_case(files, dataset), files.label)
            show(len(segmented), len(segmented), "")
    if (count := len(table.labels())) > MOST_LABELS:
        raise InputError(
            f"{dataset.folder} has {count} structures, and {MOST_LABELS} can be learned or carried at once.",
            "Align the scans with the segmentations among them, and say which are wanted (gedgan align --structures).",
        )
    return table


def scan_of(files: Any, dataset: Any, table: Any) -> Any:
    """Read one of them.

    :raises InputError: it cannot be used.
    """
    from ..volumes.pipeline import load_case

    labels = table.labels()
    return load_case(files, dataset, labels, table, {label.name for label in labels})


def readable(scans: Sequence[Any], dataset: Any, table: Any, plan: Any, events: Events) -> dict[str, str]:
    """Digest of the image of each scan on the working grid, by its name; of those that can be used, others are told."""
    from ..training.request import image_digest
    from ..volumes.pipeline import to_working

    found = {}
    with events.bar("reading real cases") as show:
        for number, files in enumerate(scans):
            show(number, len(scans), files.name)
            try:
                found[files.name] = image_digest(to_working(scan_of(files, dataset, table), plan))
            except InputError as error:
                tell_left_out(files.name, error, events)
        show(len(scans), len(scans), "")
    return found


def wanted_variations(
    arguments: argparse.Namespace, variations: Any, scans: Sequence[Any], digests: Mapping[str, str] | None
) -> tuple[list[set[str]], dict[str, list[Wanted]]]:
    """What each fold validates on, and the variations that are to be made of each scan, by its name.

    :param digests: of the scans' images, where there is to be a split, see :func:`readable`.
    """
    from ..alignment.variations import Request
    from ..exchange.splits import folds_of

    if arguments.again is not None:
        return [], _made_before(arguments, variations, scans)
    number, seed = arguments.number or NUMBER, SEED if arguments.seed is None else arguments.seed
    strength = STRENGTH if arguments.strength is None else arguments.strength
    request = Request(strength, LOOK if arguments.look is None else arguments.look)
    names = [files.name for files in scans if digests is None or files.name in digests]
    validated = [] if digests is None else folds_of(names, arguments.folds)
    # Known by their images: the same scan may have another name in the alignment.
    apart = [variations.among_modes(digests[name] for name in validation) for validation in validated]
    found: dict[str, list[Wanted]] = {}
    for name in names:
        # Folds that leave the same images out of the modes share their variations.
        groups: dict[frozenset[str], list[int]] = {}
        for fold, validation in enumerate(validated):
            if name not in validation:
                groups.setdefault(apart[fold], []).append(fold)
        if not validated:
            groups[frozenset()] = []
        found[name] = [
            Wanted(
                f"{name}{f'_fold{folds[0]}' if len(groups) > 1 else ''}_variation_{seed}-{index:04d}",
                request, seed, index, left_out, tuple(folds),
            )
            for left_out, folds in groups.items()
            for index in range(number)
        ]  # fmt: skip
    return validated, found


def _made_before(arguments: argparse.Namespace, variations: Any, scans: Sequence[Any]) -> dict[str, list[Wanted]]:
    """Variations that were made before."""
    from ..synthesis.variations import request_of

    manifest = manifest_of(arguments)
    try:
        told = json.loads(manifest.read_text("utf-8"))
        told = told.get("cases", told)
        told = {name: origin for name, origin in told.items() if "variation_of" in origin}
        if arguments.only:
            missing = [name for name in arguments.only if name not in told]
            if missing:
                raise InputError(f"{manifest} knows no variation {missing[0]}.", "Correct --only.")
            told = {name: told[name] for name in arguments.only}
        found: dict[str, list[Wanted]] = {}
        for name, origin in told.items():
            if origin["model_digest"] != variations.model.digest:
                raise InputError(f"{name} was made with another model than {variations.model.path}.", "Give that one.")
            wanted = Wanted(
                name, request_of(origin), int(origin["seed"]), int(origin["index"]),
                frozenset(origin.get("modes_without", ())), (), int(origin.get("attempt", 0)),
                str(origin["scan_digest"]), origin.get("alignment_digest"),
            )  # fmt: skip
            found.setdefault(origin["variation_of"], []).append(wanted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{manifest} cannot be read as variations that were made.", "Give their folder.") from error
    there = {files.name for files in scans}
    if arguments.case:
        found = {name: wanted for name, wanted in found.items() if name in there}
    gone = [name for name in found if name not in there]
    if gone or not found:
        words = f"{arguments.data} has no case {gone[0]}" if gone else f"{manifest} knows no variations"
        raise InputError(f"{words}.", "Give the data that they were made of.")
    return found


def manifest_of(arguments: argparse.Namespace) -> Path:
    """The file that says what was made before."""
    return arguments.again / "provenance.json" if arguments.again.is_dir() else arguments.again


def format_of(arguments: argparse.Namespace) -> str:
    """The form that is asked for; that of before where variations are made again and nothing is asked for."""
    if arguments.format is not None or arguments.again is None:
        return arguments.format or "nnunet"
    with suppress(OSError, ValueError, AttributeError):
        return "folder" if "cases" in json.loads(manifest_of(arguments).read_text("utf-8")) else "nnunet"
    return "nnunet"


def with_own_values(case: Any) -> Any:
    """A case whose labels have the numbers that they have in its files, as far as these are below 256."""
    import numpy as np

    if case.labels is None or not values_fit(case.label_table):
        return case
    numbers = np.zeros(256, np.uint8)
    for label in case.label_table:
        numbers[label.index] = label.value
    table = tuple(replace(label, index=label.value) for label in case.label_table)
    return replace(case, labels=numbers[case.labels], label_table=table)


def values_fit(labels: Sequence[Any]) -> bool:
    """Whether a segmentation of bytes can hold the numbers that labels have in their files."""
    values = [label.value for label in labels]
    return max(values, default=0) < 256 and len(set(values)) == len(values)
