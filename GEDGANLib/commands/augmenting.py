"""What the command ``augment`` does, from parsed arguments to files and words.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events
from .making import claim_scene
from .options import ALIGNED, DATA, DEVICE, a_model, a_path, a_seed, a_shard, a_share, a_truncation, above_zero
from .scans import find_for, tell_left_out, warn_of_other_kind
from .wanted import (
    NUMBER,
    Wanted,
    chosen_scans,
    format_of,
    label_table,
    readable,
    scan_of,
    values_fit,
    wanted_variations,
    with_own_values,
)

SHOWN_CASES, SHOWN_VARIATIONS = 3, 6
TRIES = 10
"""Draws of a variation until it passes the gate."""


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    augment = kinds.add_parser("augment", help="make variations of segmented scans, on their own voxels")
    augment.add_argument("model", type=a_model, metavar="MODEL", help=ALIGNED)
    augment.add_argument("data", type=a_path, metavar="DATA", help=DATA)
    augment.add_argument(
        "-n",
        "--number",
        type=above_zero(int),
        help=f"variations of each scan; with a split, for each fold that it teaches (default: {NUMBER})",
    )
    augment.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder")
    augment.add_argument(
        "--strength",
        type=a_truncation,
        metavar="S",
        help="0 for the scan's own anatomy, 1 for other anatomy with its texture (default), up to 2 for more extreme",
    )
    augment.add_argument(
        "--look", type=a_share, metavar="L", help="how much brightness varies, 0 for not at all (default: 1)"
    )
    augment.add_argument("--seed", type=a_seed, help="same seed, same variations (default: 0)")
    augment.add_argument(
        "--case",
        nargs="+",
        metavar="NAME",
        help="vary these scans alone, by name or by how it ends (default: all segmented)",
    )
    augment.add_argument(
        "--format", choices=("nnunet", "folder"), help="data set of nnU-Net (default), or plain files like the scans'"
    )
    augment.add_argument(
        "--with-real", action="store_true", help="put the real scans beside them; nnunet: with a split into folds"
    )
    augment.add_argument("--folds", type=above_zero(int), default=5, help="of that split (default: 5)")
    augment.add_argument(
        "--screen", action="store_true", help="draw variations again that are implausible beside the scans of DATA"
    )
    augment.add_argument("--scene", type=a_path, help="write the variations as a Slicer scene too (.mrb)")
    augment.add_argument(
        "--shard", type=a_shard, metavar="I/N", help="make the I-th of N parts; all parts are one data set in the end"
    )
    augment.add_argument(
        "--again", type=a_path, metavar="OUT", help="make variations again that stand in OUT/provenance.json"
    )
    augment.add_argument("--only", nargs="+", metavar="NAME", help="of these, make those of these names alone")
    augment.add_argument("--device", **DEVICE)
    augment.set_defaults(run=run_augment)


def run_augment(arguments: argparse.Namespace, events: Events) -> None:
    from ..alignment.runs import model_and_run
    from ..exchange.shards import GrowingDataset, Shard, shard_folder
    from ..synthesis.variations import Variations

    _refuse_what_does_not_fit(arguments)
    arguments.format = format_of(arguments)
    _path, run = model_and_run(arguments.model)
    variations = Variations.open(arguments.model, arguments.device, with_population=True)
    model = variations.model
    dataset = find_for(model, arguments.data)
    scans = chosen_scans(arguments, dataset, run, events)
    table = label_table(dataset, scans, events)
    split = arguments.with_real and arguments.format == "nnunet" and arguments.again is None
    digests = readable(scans, dataset, table, model.plan, events) if split else None
    if split and not variations.members:
        print("The model does not say whom it was made of. If that were these scans, validation will look too good.")
    validated, wanted = wanted_variations(arguments, variations, scans, digests)
    scans = [files for files in scans if files.name in wanted]
    shard = Shard(*(arguments.shard or (1, 1)))
    names = {files.name: [each.name for each in wanted[files.name]] for files in scans}
    options = ("format", "strength", "look", "seed", "with_real", "screen", "folds")
    asked = {"model": model.digest, "data": str(arguments.data.resolve()), "shards": shard.count, "variations": names}
    asked |= {name.replace("_", " "): getattr(arguments, name) for name in options}
    with shard_folder(arguments.output, arguments.format, shard, asked) as is_written:
        claim_scene(arguments.scene)
        described = _described(dataset, table, arguments)
        growing = GrowingDataset(arguments.output, arguments.format, described)
        maker = _Maker(arguments, variations, dataset, table, events)
        maker.folds = any(len({each.left_out for each in group}) > 1 for group in wanted.values())

        def finish(provenance: dict[str, dict]) -> None:
            _write_split(arguments, validated, wanted, provenance)

        own = [] if is_written else shard.of(scans)
        if own:
            maker.screen = _screen(arguments, model, dataset, events)
        _make(maker, own, wanted, growing, shard, finish)
        if own and not growing.provenance:
            raise InputError("None of the scans that were asked for could be read.", "The warnings say why.")
        whole = growing.close(shard, finish)
    _tell(arguments, shard, whole, own, maker, events)
    if maker.shown and shard.count == 1:
        _write_sheet(arguments.output / "contact-sheet.png", maker.shown, len(own))
        print(f"Contact sheet: {arguments.output / 'contact-sheet.png'}")
    if arguments.scene is not None:
        _write_scene(arguments.scene, maker.kept)
        print(f"Scene: {arguments.scene} (open it in 3D Slicer)")


def _make(
    maker: _Maker, own: Sequence[Any], wanted: dict[str, list[Wanted]], growing: Any, shard: Any, finish: Any
) -> None:
    """Make all variations of some scans; what is there when somebody interrupts, or the disk is full, is a data set."""
    total = sum(len(wanted[files.name]) for files in own)
    try:
        with maker.events.bar("varying") as show:
            for files in own:
                for case, ending, is_real in maker.made(files, wanted[files.name], show, total):
                    growing.add(case, ending)
                    maker.done += not is_real
            show(total, total, "")
    except (KeyboardInterrupt, InputError) as error:
        if shard.count == 1:
            with suppress(InputError):
                growing.close(shard, finish)
        if isinstance(error, InputError):
            raise
        done, folder = maker.done, maker.arguments.output
        left = f"; the first {done} of {total} are complete in {folder} and can be used" if done else ""
        raise StoppedOnRequest(f"Stopped{left}.") from error


def _refuse_what_does_not_fit(arguments: argparse.Namespace) -> None:
    given = [
        name
        for name, value in (
            ("-n", arguments.number), ("--strength", arguments.strength), ("--look", arguments.look),
            ("--seed", arguments.seed), ("--with-real", arguments.with_real), ("--screen", arguments.screen),
        )
        if value not in (None, False)
    ]  # fmt: skip
    if arguments.again is not None and given:
        raise InputError(f"--again makes variations as they were made, and takes no {given[0]}.", "Leave it out.")
    if arguments.only and arguments.again is None:
        raise InputError("--only chooses among the variations of --again.", "Give --again, or choose scans by --case.")
    if arguments.shard and arguments.scene is not None:
        raise InputError("A shard makes no scene.", "Leave --scene out, or make all variations at once.")


def _described(dataset: Any, table: Any, arguments: argparse.Namespace) -> Any:
    from ..exchange.shards import Description

    source = f"{dataset.folder.resolve().name}{f' ({dataset.description})' if dataset.description else ''}"
    words = f"variations of the scans in {source}, made by GED-GAN; each stems from a patient, as their scan does"
    if arguments.with_real:
        words = f"Scans, and {words}"
    own = arguments.format == "folder" and values_fit(table.labels())
    labels = {label.name: label.value if own else label.index for label in table.labels()}
    return Description(words, labels, tuple(dataset.channel_names))


def _screen(arguments: argparse.Namespace, model: Any, dataset: Any, events: Events) -> Any:
    """The gate, made of the scans; None where none is wanted."""
    if not arguments.screen:
        return None
    from ..quality.screening import Screen
    from ..volumes.pipeline import load_working_cases

    with events.bar("reading real cases") as show:
        cases = list(load_working_cases(dataset, model.plan, show))
    with events.bar("measuring real cases") as show:
        return Screen(cases, model.plan, show, with_copies=False)


class _Maker:
    """Makes the variations of one scan after the other."""

    def __init__(
        self, arguments: argparse.Namespace, variations: Any, dataset: Any, table: Any, events: Events
    ) -> None:
        self.arguments, self.variations, self.dataset, self.table = arguments, variations, dataset, table
        self.events, self.done, self.folds = events, 0, False
        self.screen: Any = None
        self.rejected: Counter[str] = Counter()
        self.shrunk: list[str] = []
        self.implausible: list[str] = []
        self.shown: list[tuple[str, list[Any]]] = []
        self.kept: list[Any] = []

    def made(
        self, files: Any, wanted: Sequence[Wanted], show: Callable[[float, int, str], None], total: int
    ) -> Iterator[tuple[Any, str, bool]]:
        """The scan, where it is wanted beside them, and its variations; with the ending of their files, and whether it
        is the scan."""
        from ..synthesis.variations import origin_of
        from ..volumes.files import NRRD, suffix_of

        done = self.done
        show(done, total, files.name)
        try:
            case = scan_of(files, self.dataset, self.table)
        except InputError as error:
            tell_left_out(files.name, error, self.events)
            return

        def aligning(iteration: float, iterations: int, name: str) -> None:
            show(done + 0.5 * iteration / iterations, total, f"{files.name}: bringing it onto the template")

        place, digest = self.variations.place(case, aligning)
        if digest not in self.variations.known.places:
            warn_of_other_kind(files.name, case.image.shape[1:], case.affine, self.variations.plan, self.events)
        changed = [each.name for each in wanted if each.scan_digest not in (None, digest)]
        if changed:
            raise InputError(
                f"The scan {case.name} is not the one any more that {changed[0]} was made of.", "Bring it back."
            )
        elsewhere = [each.name for each in wanted if each.alignment_digest not in (None, place.digest)]
        if elsewhere:
            raise InputError(
                f"{elsewhere[0]} was made by another alignment of {case.name}.",
                "Give the run that it was made by, on the same kind of device.",
            )
        ending = ".nrrd" if suffix_of(files.images[0]) in NRRD else ".nii.gz"
        form = with_own_values if self.arguments.format == "folder" else lambda each: each
        if self.arguments.with_real:
            yield form(case), ending, True
        scans, shown = {}, [case]
        for number, each in enumerate(wanted):
            if each.left_out not in scans:
                scans = {each.left_out: self.variations.scan(place, case, each.left_out)}
            made, told = self._one(case, scans[each.left_out], each)
            scan = (case.name, digest, place)
            origin = origin_of(self.variations.model, *scan, each.seed, each.index, each.request, each.left_out)
            made = replace(made, provenance=origin | told)
            if len(shown) <= SHOWN_VARIATIONS and each.left_out == wanted[0].left_out:
                shown.append(made)
            if self.arguments.scene is not None:
                self.kept.append(made)
            yield form(made), ending, False
            show(done + number + 1, total, files.name)
        if len(self.shown) < SHOWN_CASES:
            self.shown.append((case.name, shown))

    def _one(self, case: Any, scan: Any, wanted: Wanted) -> tuple[Any, dict[str, Any]]:
        """A variation, drawn until it passes the gate where there is one, and what is told of it."""
        from ..synthesis.variations import changed, key_of, told_of

        attempts = range(TRIES if self.screen is not None else 1) if wanted.attempt is None else [wanted.attempt]
        for attempt in attempts:
            key = (*key_of(wanted.seed, case.name, wanted.index), *([attempt] if attempt else []))
            variation = scan.subject.varied(wanted.request, key)
            made = changed(case, scan, variation, wanted.name)
            fault = None if self.screen is None else self._fault(made)
            if fault is None:
                break
            self.rejected[fault] += 1
        else:
            self.implausible.append(wanted.name)
        told = told_of(variation) | ({"attempt": attempt} if attempt else {})
        if variation.kept < 1:
            self.shrunk.append(wanted.name)
        return made, told

    def _fault(self, case: Any) -> str | None:
        from ..volumes.case import numbered_by
        from ..volumes.pipeline import to_working

        plan = self.variations.plan
        if case.labels is not None:
            known = {label.name: label.index for label in plan.labels}
            case = replace(case, labels=numbered_by(case, known))
        working = to_working(case, plan)
        return self.screen.fault(working.image, working.labels, working.affine)


def _write_split(
    arguments: argparse.Namespace,
    validated: list[set[str]],
    wanted: dict[str, list[Wanted]],
    provenance: dict[str, dict],
) -> None:
    """``splits_final.json``: a variation teaches the folds that its scan teaches. Of what is there.

    :param provenance: of all cases that are there, by name.
    """
    from ..exchange.splits import write_folds

    content = []
    for fold, validation in enumerate(validated):
        real = [name for name in wanted if name not in validation and name in provenance]
        made = [each.name for name in real for each in wanted[name] if fold in each.folds and each.name in provenance]
        there = sorted(name for name in validation if name in provenance)
        if there and made:
            content.append({"train": real + made, "val": there})
    if not content:
        return
    path = write_folds(arguments.output, content)
    folds = f"{len(content)} folds" if len(content) != 1 else "1 fold"
    print(
        f"{path} has {folds}. Each validates on real scans of which no variation is trained on, and whose images are "
        "in no direction that its variations were made by, as far as the model tells. Copy it into "
        "nnUNet_preprocessed/DATASET before nnUNetv2_train."
    )


def _tell(
    arguments: argparse.Namespace, shard: Any, whole: bool, own: Sequence[Any], maker: _Maker, events: Events
) -> None:
    if not own:
        print(f"Shard {shard.number} of {shard.count} was there already.")
        return
    words = f"{maker.done} variation(s) of {len(own)} scan(s) are in {arguments.output}"
    if maker.folds:
        words += ", as many as were asked for of each scan and fold that it teaches"
    print(f"{words}, each treated as the scan of a patient that it stems from.")
    if not whole:
        print(f"That was shard {shard.number} of {shard.count}; the data set is whole when all of them are done.")
    if maker.rejected:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in maker.rejected.most_common())
        print(f"Drawn again: {sum(maker.rejected.values())} variation(s): {reasons}.")
    if maker.implausible:
        few = ", ".join(maker.implausible[:3])
        message = f"{len(maker.implausible)} variation(s) stayed implausible in {TRIES} draws, {few} for example."
        events.emit("warning", message=message)
    if maker.shrunk:
        few = ", ".join(maker.shrunk[:3])
        message = (
            f"{len(maker.shrunk)} variation(s) would have folded whatever was drawn, and are varied less ({few} for "
            "example); provenance.json says by how much."
        )
        events.emit("warning", message=message)
    if not whole:
        return
    again = f"gedgan augment {shlex.quote(str(arguments.model))} {shlex.quote(str(arguments.data))}"
    print(f"Any of them again: {again} --again {shlex.quote(str(arguments.output))} --only NAME -o NEW")


def _write_sheet(path: Path, shown: list[tuple[str, list[Any]]], scans: int) -> None:
    from ..volumes.pictures import contact_sheet

    count = max(len(cases) for _, cases in shown) - 1
    headings = [["scan", *(f"variation {number + 1}" for number in range(count))]]
    few = "Scans" if len(shown) == scans else f"The first {len(shown)} of {scans} scans"
    contact_sheet(path, shown, f"{few}, and the first variations of each, made by GED-GAN.", headings)


def _write_scene(path: Path, cases: list[Any]) -> None:
    from ..scene.headless import headless_application, save_scene
    from ..scene.nodes import add_cases

    with headless_application() as application:
        add_cases(cases, "Variations, made by GED-GAN")
        save_scene(application, path)
