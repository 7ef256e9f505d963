"""What the commands of ``gedgan`` do that bring scans to a common template: align."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..alignment.runs import REQUEST, RESULT, SHARED, read_request
from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events, JsonEvents
from ..jobs.writing import write_bytes
from .aligned_cases import Wanted, align_in
from .aligned_output import SHEET, join_shards
from .options import DATA, DEVICE, a_path, a_shard, above_zero, add_class_column, add_contents, three_of
from .scans import as_wished, names_in, refuse_unknown_structures, tell_left_out, without_cases

WORST_TOLD, FEW = 5, 4


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    align = kinds.add_parser("align", help="bring scans to a common template, and say how well each lies on it")
    align.add_argument("data", type=a_path, metavar="DATA", help=DATA)
    align.add_argument("-o", "--output", type=a_path, required=True, metavar="RUN", help="new folder for the run")
    align.add_argument("--onto", type=a_path, metavar="RUN", help="bring them onto the template of an aligned run")
    align.add_argument(
        "--exclude", nargs="+", default=[], metavar="NAME", help="cases to leave out, by name or by how it ends"
    )
    add_class_column(align)
    align.add_argument("--device", **DEVICE)
    align.add_argument("--grid", type=above_zero(int), nargs=3, metavar="N", help="voxels of the working grid")
    align.add_argument(
        "--spacing", type=above_zero(float), nargs="+", metavar="MM", help="voxel size: one number or three"
    )
    add_contents(align)
    align.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    align.add_argument(
        "--for-sharing", action="store_true", help=f"write {SHARED} too, a model that gives little of single cases away"
    )
    align.add_argument(
        "--shard",
        type=a_shard,
        metavar="I/N",
        help="--onto: bring the I-th of N parts there; all are one run then",
    )
    align.set_defaults(run=run_align)


def run_align(arguments: argparse.Namespace, events: Events) -> None:
    from ..jobs.writing import sole_owner
    from ..training.request import claim_run_folder

    structures = arguments.structures or arguments.one_structure
    begun_with = arguments.grid or arguments.spacing or arguments.exclude or arguments.onto or arguments.for_sharing
    begun_with = begun_with or structures or arguments.channels
    if arguments.resume and begun_with:
        raise InputError("--resume goes on with what the run was begun with.", "Leave the other options out.")
    if arguments.for_sharing and arguments.onto is not None:
        raise InputError("--onto makes no model.", "Leave --for-sharing out.")
    if arguments.onto is not None and (arguments.grid or arguments.spacing):
        raise InputError("--onto takes the grid of its template.", "Leave --grid and --spacing out.")
    if arguments.onto is not None and structures:
        raise InputError("--onto takes the structures of its template.", "Leave --structures and --one-structure out.")
    again = ["gedgan", "align", str(arguments.data), "-o", str(arguments.output), "--resume"]
    whole = arguments.output
    if arguments.shard is not None:
        again += ["--shard", "/".join(map(str, arguments.shard))]
        arguments.output = _shard_folder(arguments)
        if (arguments.output / RESULT).exists():  # it was killed before all of them were one run
            join_shards(whole, arguments.shard[1], events)
            return
    run, existed = arguments.output, arguments.output.exists()
    claim_run_folder(run, arguments.resume, REQUEST)
    with sole_owner(run):
        try:
            _align(arguments, events)
        except (StoppedOnRequest, KeyboardInterrupt) as stop:
            if isinstance(events, JsonEvents) or not (run / REQUEST).exists():
                raise
            raise StoppedOnRequest(f"{str(stop) or 'Stopped.'} Go on: {shlex.join(again)}") from stop
        except InputError:
            if not existed and not (run / REQUEST).exists():
                shutil.rmtree(run, ignore_errors=True)
            raise
    if arguments.shard is not None:
        join_shards(whole, arguments.shard[1], events)


def _shard_folder(arguments: argparse.Namespace) -> Path:
    """The folder of a shard, in that of the whole run.

    :raises InputError: scans that make a template cannot be divided, or the run is whole already.
    """
    if arguments.onto is None and not arguments.resume:
        raise InputError("Only scans that are brought onto a template can be divided.", "Give --onto, or no --shard.")
    if (arguments.output / RESULT).exists():
        raise InputError(f"{arguments.output} is aligned already.", "Use it, or align in a new folder.")
    number, count = arguments.shard
    return arguments.output / f"shard-{number}-of-{count}"


def _align(arguments: argparse.Namespace, events: Events) -> None:
    from ..alignment.job import Aligned, Job, lacks_an_operation, registration_shape
    from ..device import choose_device
    from ..planning.plan import Plan
    from ..training.request import PREPARED, PREPARING, digests_of, forget_old_stop, what_changed
    from ..volumes.dataset import as_planned, find_dataset
    from ..volumes.prepared import prepare_cases

    run, before = arguments.output, read_request(arguments.output / REQUEST) if arguments.resume else {}
    if (run / RESULT).exists():
        Job(run).forget()  # where a kill came between the two
        raise InputError(f"{run} is aligned already.", "Use it, or align in a new folder.")
    wanted = arguments.device
    if wanted == "auto" and before.get("device") == "cpu":
        wanted = "cpu"  # a run goes on where it was: what is rounded otherwise is another result
    device = choose_device(wanted)
    if device != "cpu" and lacks_an_operation(device):
        events.emit("warning", message=f"PyTorch lacks an operation on {device}: the scans are aligned on the CPU.")
        device = "cpu"
    onto = before["onto"] if arguments.resume else arguments.onto and str(arguments.onto.resolve())
    template = None if onto is None else Aligned.load(Path(onto) / RESULT).template
    column = before["class_column"] if arguments.resume else arguments.class_column
    if arguments.resume:
        plan = Plan.load(run / "plan.json")
        left_out = before["left_out"]
        dataset = without_cases(as_planned(find_dataset(arguments.data, column), plan), left_out)
    else:
        dataset = as_wished(find_dataset(arguments.data, column), arguments)
        dataset, excluded = _excluded(dataset, arguments.exclude, onto is None)
        others: list[str] = []
        if arguments.shard is not None:
            dataset, others = _part_of(dataset, *arguments.shard)
        dataset, plan, broken = _planned(arguments, dataset, onto, device, events)
        left_out = [*excluded, *others, *broken]
    with events.bar("bringing the cases to one grid") as show:
        cases = prepare_cases(dataset, plan, run / PREPARED, show)
    digests = digests_of(cases)
    extent = plan.extent
    shape = registration_shape(plan.grid.shape, extent, device)
    if arguments.resume:
        if changes := what_changed(before["cases"], digests):
            raise InputError(
                f"The data are not those that {run} was begun with: {changes}.",
                "Give the same data to resume, or align them in a new folder.",
            )
        shape, asked = tuple(before["shape"]), before
        asked["data"] = str(arguments.data.resolve())  # where it was moved to
        write_bytes(run / REQUEST, json.dumps(asked, indent=1).encode("utf-8"))
        forget_old_stop(run, arguments.begun)
    else:
        plan.save(run / "plan.json")
        asked = {
            "data": str(arguments.data.resolve()), "onto": onto, "left_out": left_out, "class_column": column,
            "device": device, "shape": shape, "cases": digests, "for_sharing": arguments.for_sharing,
        }  # fmt: skip
        write_bytes(run / REQUEST, json.dumps(asked, indent=1).encode("utf-8"))
    (run / PREPARING).unlink(missing_ok=True)
    wanted = Wanted(arguments.data, asked, device, template, getattr(arguments, "stop", None))
    aligned = align_in(run, cases, plan, wanted, events)
    _tell(aligned, arguments, onto is not None, events)


def _excluded(dataset: Any, asked: list[str], is_template: bool) -> tuple[Any, list[str]]:
    """The data set without some of its cases, and their names in full.

    :param asked: names, or ends of names that no other case has.
    :param is_template: a template is made of what is left, which takes two cases.
    :raises InputError: one of them is not there, or too few are left.
    """
    names = names_in(dataset, asked)
    rest = without_cases(dataset, names)
    if len(rest.cases) < 1 + is_template and names:
        raise InputError(f"Hardly any case of {dataset.folder} is left.", "Exclude fewer of them.")
    return rest, names


def _part_of(dataset: Any, number: int, count: int) -> tuple[Any, list[str]]:
    """The part of a data set that a shard is, and the names of all other cases.

    :raises InputError: nothing is left for it.
    """
    from ..exchange.shards import Shard

    names = [case.name for case in dataset.cases]
    own = set(Shard(number, count).of(names))
    if not own:
        raise InputError(f"{dataset.folder} has {len(names)} case(s), fewer than shards.", "Make fewer of them.")
    others = [name for name in names if name not in own]
    return without_cases(dataset, others), others


def _planned(
    arguments: argparse.Namespace, dataset: Any, onto: str | None, device: str, events: Events
) -> tuple[Any, Any, list[str]]:
    """The data set without the cases that cannot be used, its plan, and their names; they are told."""
    from ..planning.aligning import with_alignment
    from ..planning.choosing import make_plan
    from ..planning.plan import Plan
    from ..planning.words import NOTE
    from ..volumes.dataset import as_planned
    from ..volumes.fingerprint import check_dataset

    if onto is not None:  # one scan may be brought onto a template; it is read when it is prepared
        plan = Plan.load(Path(onto) / "plan.json")
        return as_planned(dataset, plan), plan, []
    left_out: dict[str, InputError] = {}
    with events.bar("reading") as show:
        fingerprint = check_dataset(dataset, show, left_out)
    refuse_unknown_structures(dataset, fingerprint)
    for name, error in left_out.items():
        tell_left_out(name, error, events)
    for warning in fingerprint.warnings:
        events.emit("warning", message=warning)
    dataset = without_cases(dataset, list(left_out))
    plan = make_plan(fingerprint, device, arguments.grid, three_of(arguments.spacing))
    dataset = as_planned(dataset, plan)
    if arguments.class_column is not None:
        plan = replace(plan, data={**plan.data, "class_column": arguments.class_column})
    with events.bar("seeing whether the scans can be aligned") as show:
        plan = with_alignment(plan, dataset, show)
    if plan.reasons[-1].startswith(NOTE):
        events.emit("warning", message=plan.reasons[-1].removeprefix(NOTE))
    return dataset, plan, list(left_out)


def _tell(aligned: Any, arguments: argparse.Namespace, onto: bool, events: Events) -> None:
    """What came of it, in words.

    :param onto: they were brought onto a template of before.
    """
    import numpy as np

    by_likeness = sorted(zip(aligned.names, aligned.qualities), key=lambda pair: pair[1].similarity)
    worst = [f"{name} ({quality.similarity:.2f})" for name, quality in by_likeness[:WORST_TOLD]]
    mean = np.mean([quality.similarity for quality in aligned.qualities])
    dice = [quality.dice for quality in aligned.qualities if quality.dice is not None]
    who = "the template carries" if onto else "the others carry"
    carried = f" Segmentations that {who} to them have a Dice of {np.mean(dice):.3f}." if dice else ""
    count = len(aligned.names)
    cases = "1 case lies" if count == 1 else f"{count} cases lie"
    print(f"{cases} on the template, as like it as {mean:.2f} (1: the same but for brightness).{carried}")
    print(f"The least alike: {', '.join(worst)}. All of them: {arguments.output / SHEET}")
    if aligned.unfolded:
        words = (
            f"{', '.join(aligned.unfolded)} could be brought there by folding alone, and lie less well. Look at them."
        )
        events.emit("warning", message=words)
    if count > FEW:
        data, names = shlex.quote(str(arguments.data)), [*arguments.exclude, by_likeness[0][0]]
        print(f"To leave some out: gedgan align {data} -o NEW --exclude {' '.join(map(shlex.quote, names))}")
