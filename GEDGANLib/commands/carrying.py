"""What the commands ``carry`` and ``next`` do, from parsed arguments to files and words.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events
from .options import ALIGNED, DATA, DEVICE, a_model, a_path, a_shard, above_zero
from .scans import find_for, names_in, refuse_labels, tell_left_out, warn_of_other_kind
from .trusted import Shown, tell_made, write_shares, write_trust
from .wanted import label_table, scan_of, values_fit, with_own_values

TABLE, SHEET = "carried.csv", "carried.png"
TITLE = "Carried segmentations and their trust, the least first; made by GED-GAN, nobody drew them."
SUGGESTED = 3


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    carry = kinds.add_parser("carry", help="carry segmentations of some scans to others, and say how far to trust each")
    carry.add_argument("model", type=a_model, metavar="MODEL", help=ALIGNED)
    carry.add_argument("labelled", type=a_path, metavar="LABELLED", help="folder with the scans that are segmented")
    carry.add_argument("data", type=a_path, metavar="DATA", help=f"scans to carry to; {DATA}")
    carry.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder")
    carry.add_argument(
        "--source", nargs="+", metavar="NAME", help="carry from these scans alone (default: all segmented)"
    )
    carry.add_argument("--case", nargs="+", metavar="NAME", help="carry to these alone (default: all not segmented)")
    carry.add_argument(
        "--format", choices=("nnunet", "folder"), default="folder", help="plain files (default), or nnU-Net's"
    )
    carry.add_argument(
        "--soft", action="store_true", help="write the share of votes that each label has, too, a volume each"
    )
    carry.add_argument(
        "--shard", type=a_shard, metavar="I/N", help="the I-th of N parts; all parts are one data set in the end"
    )
    carry.add_argument("--device", **DEVICE)
    carry.set_defaults(run=run_carry)

    following = kinds.add_parser("next", help="say which scan to segment next, and why")
    following.add_argument("model", type=a_model, metavar="MODEL", help="run of gedgan align")
    following.add_argument(
        "data", type=a_path, metavar="DATA", help="the scans that were aligned, some of them segmented"
    )
    following.add_argument(
        "--segmented", nargs="+", metavar="NAME", help="scans that are segmented by now, besides those that have files"
    )
    following.add_argument("-n", "--number", type=above_zero(int), default=SUGGESTED, help=f"default: {SUGGESTED}")
    following.set_defaults(run=run_next)


def run_carry(arguments: argparse.Namespace, events: Events) -> None:
    from ..exchange.shards import Description, GrowingDataset, Shard, shard_folder
    from ..synthesis.carried import FEWEST_TO_LEARN_FROM, Carrier
    from ..synthesis.variations import Variations
    from ..volumes.files import NRRD, suffix_of

    variations = Variations.open(arguments.model, arguments.device)
    model = variations.model
    labelled, dataset = find_for(model, arguments.labelled), find_for(model, arguments.data)
    sources = _sources(arguments, labelled)
    targets = _targets(arguments, labelled, dataset, sources, events)
    table = label_table(labelled, sources, events)
    carrier = Carrier(variations, table.labels())
    shard = Shard(*(arguments.shard or (1, 1)))
    asked = {
        "model": model.digest, "labelled": str(arguments.labelled.resolve()), "data": str(arguments.data.resolve()),
        "sources": [files.name for files in sources], "cases": [files.name for files in targets],
        "format": arguments.format, "soft": arguments.soft, "shards": shard.count,
    }  # fmt: skip
    names = ", ".join(files.name for files in sources[:3]) + (" and others" if len(sources) > 3 else "")
    words = f"segmentations carried from {names} by GED-GAN, not drawn by anybody"
    own_numbers = arguments.format == "folder" and values_fit(table.labels())
    form = with_own_values if own_numbers else lambda case: case
    labels = {label.name: label.value if own_numbers else label.index for label in table.labels()}
    described = Description(words, labels, tuple(dataset.channel_names))
    shown = Shown()
    with shard_folder(arguments.output, arguments.format, shard, asked) as is_written:
        growing = GrowingDataset(arguments.output, arguments.format, described)

        def finish(provenance: dict[str, dict]) -> None:
            column, of = "carried from", lambda origin: " ".join(origin["segmentation_carried_from"])
            write_trust(arguments.output / TABLE, provenance, table.labels(), column, of)

        own = [] if is_written else shard.of(targets)
        if own:
            with events.bar("bringing the segmented scans onto the template") as show:
                laid = []
                for number, files in enumerate(sources):
                    show(number, len(sources), files.name)
                    case = scan_of(files, labelled, table)
                    refuse_labels(files.images[0], case.image, case.kind)
                    laid.append(carrier.laid(case))
                show(len(sources), len(sources), "")
            if len(laid) < FEWEST_TO_LEARN_FROM:
                carrier.take(laid)
            else:
                with events.bar("learning how to weigh them") as show:
                    carrier.take(laid, show)
        try:
            with events.bar("carrying") as show:
                for number, files in enumerate(own):
                    show(number, len(own), files.name)
                    try:
                        case = scan_of(replace(files, label=None), dataset, table)
                        refuse_labels(files.images[0], case.image, case.kind)
                        place = carrier.laid(case)
                        warn_of_other_kind(files.name, case.image.shape[1:], case.affine, model.plan, events)
                        made = carrier.carried(case, place)
                    except InputError as error:
                        tell_left_out(files.name, error, events)
                        continue
                    growing.add(form(made.case), ".nrrd" if suffix_of(files.images[0]) in NRRD else ".nii.gz")
                    if arguments.soft:
                        write_shares(arguments.output, made)
                    shown.add(made.case)
                show(len(own), len(own), "")
        except KeyboardInterrupt as interrupt:
            if shard.count == 1:
                growing.close(shard, finish)
            raise StoppedOnRequest(f"Stopped; what is complete is in {arguments.output}.") from interrupt
        whole = growing.close(shard, finish)
    made_words = f"Segmentations were carried to {len(growing.provenance)} scan(s); they are in {arguments.output}."
    out = arguments.output
    tell_made(made_words, shown, is_written, whole, shard, out / TABLE, out / SHEET, TITLE)


def _sources(arguments: argparse.Namespace, labelled: Any) -> list[Any]:
    asked = set(names_in(labelled, arguments.source)) if arguments.source else None
    found = [files for files in labelled.cases if files.label is not None and (asked is None or files.name in asked)]
    if not found:
        words = f"{', '.join(sorted(asked))} of {labelled.folder} is" if asked else f"No scan of {labelled.folder} is"
        raise InputError(f"{words} {'not ' if asked else ''}segmented.", "Name scans that are, or segment one of them.")
    return found


def _targets(
    arguments: argparse.Namespace, labelled: Any, dataset: Any, sources: Sequence[Any], events: Events
) -> list[Any]:
    """Scans that nobody has segmented; and those that were asked for by name, whose drawn segmentation stays where it
    is, and which are not carried to from themselves."""
    same = labelled.folder.resolve() == dataset.folder.resolve()
    if arguments.case:
        wanted = set(names_in(dataset, arguments.case))
        return [files for files in dataset.cases if files.name in wanted]
    chosen = [files for files in dataset.cases if files.label is None]
    drawn = len(dataset.cases) - len(chosen) - (len(sources) if same else 0)
    if drawn > 0:
        words = f"{drawn} scan(s) of {dataset.folder} are segmented, and nothing is carried to them."
        events.emit("warning", message=f"{words} Ask for them by --case; what was drawn stays where it is.")
    if not chosen:
        raise InputError(
            f"{dataset.folder} has no scan that is not segmented.",
            "Give scans that are not, or name those by --case to which it shall be carried all the same.",
        )
    return chosen


def run_next(arguments: argparse.Namespace, events: Events) -> None:
    from ..alignment.modes import components_of
    from ..alignment.runs import model_and_run
    from ..synthesis.carried import next_to_segment
    from ..synthesis.model_file import load_model
    from ..synthesis.statistical import Population

    path, _ = model_and_run(arguments.model)
    model = load_model(path, "cpu", with_population=True)
    if model.population is None:
        raise InputError(
            f"{path} does not keep how its scans lie to each other.", "Take the run of gedgan align of your scans."
        )
    population = Population.of(model.population, model.about["population"])
    dataset = find_for(model, arguments.data)
    segmented = _segmented(dataset, events)
    segmented |= set(names_in(dataset, arguments.segmented or []))
    there = {files.name for files in dataset.cases}
    unknown = sorted(there - set(population.names))
    if unknown:
        message = f"{len(unknown)} scan(s) are not in the alignment and are not looked at, {unknown[0]} for example."
        events.emit("warning", message=message)
    components = components_of(population.products, range(population.members))
    rows = [index for index, name in enumerate(population.names) if name in there]
    if not rows:
        raise InputError(f"None of the scans in {arguments.data} is in the alignment.", "Give those that were aligned.")
    names = [population.names[index] for index in rows]
    found = next_to_segment(names, components.coefficients[rows], segmented, arguments.number)
    if not found:
        print("All of them are segmented.")
    for number, each in enumerate(found, 1):
        print(f"{number}. {each.name}: {each.reason}.")


def _segmented(dataset: Any, events: Events) -> set[str]:
    """Names of the scans whose segmentations can be read and are not empty."""
    from ..volumes.reading import holds_labels

    found: set[str] = set()
    given = [files for files in dataset.cases if files.label is not None]
    with events.bar("reading segmentations") as show:
        for number, files in enumerate(given):
            show(number, len(given), files.name)
            try:
                if not holds_labels(files, dataset):
                    raise InputError(f"{files.label} is empty.", "Segment the scan, or remove the file.")
                found.add(files.name)
            except InputError as error:
                events.emit("warning", message=f"{files.name} counts as not segmented: {error.message}")
        show(len(given), len(given), "")
    return found
