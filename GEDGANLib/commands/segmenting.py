"""What the command ``segment`` does: learn from few segmented scans and segment the rest, or apply what was learned.

The folder of a learning job holds ``segment.json`` (what was asked for), ``alignment`` where the scans were aligned on
the way, ``network.safetensors``, ``segmented.csv`` and ``segmented.png``, and the segmentations as a data set. Until it
is done there are ``.material`` and what :mod:`GEDGANLib.segmentation.job` keeps. A file ``STOP`` in it ends
the work.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events, JsonEvents, stop_on_signals
from ..jobs.writing import write_bytes
from .aligned_cases import Bars
from .aligning import run_align
from .applying import Form, apply
from .options import (
    DATA,
    DEVICE,
    a_path,
    a_seed,
    a_shard,
    a_source_of_segmentations,
    above_zero,
    add_structures,
    three_of,
)
from .scans import labels_for, names_in, with_labels
from .teaching import Teaching, labelled_of, votes_of
from .wanted import label_table

REQUEST, NETWORK, STOP, ALIGNMENT = "segment.json", "network.safetensors", "STOP", "alignment"
KEPT = frozenset(
    "data labels sources targets run spacing updates variations teacher seed device format soft".split()  # noqa: SIM905
)
LEARNING = (
    "run_folder", "labels", "sources", "spacing", "updates", "variations", "teacher", "structures", "one_structure",
)  # fmt: skip
"""Options that say what is learned from, and how."""
MATERIAL = ".material"
FOLDER, DATASET = "segmented", "Dataset501_"


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    segment = kinds.add_parser(
        "segment", help="segment all scans of a folder from the few that are segmented, or by a network that did"
    )
    segment.add_argument(
        "source",
        type=a_source_of_segmentations,
        metavar="DATA|NETWORK",
        help=f"scans of which one is segmented at least ({DATA}); or a network.safetensors to apply, or the name of a "
        "known model that has one (gedgan models)",
    )
    segment.add_argument("data", type=a_path, nargs="?", metavar="DATA", help="scans that a NETWORK is applied to")
    segment.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder")
    segment.add_argument("--run", type=a_path, dest="run_folder", metavar="RUN", help="run of gedgan align of DATA")
    segment.add_argument(
        "--labels",
        type=a_path,
        metavar="FOLDER",
        help="more segmentations of these scans, named as they are, as those of before that somebody has corrected",
    )
    segment.add_argument("--source", nargs="+", dest="sources", metavar="NAME", help="learn from these alone")
    add_structures(segment)
    segment.add_argument("--case", nargs="+", metavar="NAME", help="segment these alone (default: all not segmented)")
    segment.add_argument(
        "--format",
        choices=("nnunet", "folder"),
        help="plain files (default), or a data set for nnU-Net with the scans that somebody segmented in it",
    )
    segment.add_argument(
        "--spacing", type=above_zero(float), nargs="+", metavar="MM", help="voxels of the network: one number or three"
    )
    segment.add_argument("--updates", type=above_zero(int), help="of its training (default: by device)")
    segment.add_argument("--variations", type=a_seed, metavar="N", help="of all segmented scans (default: 200)")
    segment.add_argument(
        "--teacher", action="store_true", help="a network labels the rest first, a second one learns from that"
    )
    segment.add_argument("--seed", type=a_seed, help="of the network (default: 0)")
    segment.add_argument("--soft", action="store_true", help="write the probability of each label, too, a volume each")
    segment.add_argument("--shard", type=a_shard, metavar="I/N", help="NETWORK: segment the I-th of N parts")
    segment.add_argument("--resume", action="store_true", help="go on with the work in OUT")
    segment.add_argument("--device", **DEVICE)
    segment.set_defaults(run=run_segment)


def run_segment(arguments: argparse.Namespace, events: Events) -> None:
    if not arguments.source.exists():
        raise InputError(f"{arguments.source} is not there.", "Check the path.")
    if arguments.source.is_file():
        _refuse(arguments, (*LEARNING, "resume"), "applying a network")
        if arguments.data is None:
            raise InputError("Scans to segment are missing.", "gedgan segment NETWORK DATA -o OUT")
        _apply_to_folder(arguments, events)
        return
    _refuse(arguments, ("shard",), "learning")
    if arguments.data is not None:
        inside = arguments.source / NETWORK
        hint = (
            f"To learn from it and segment the rest of it: gedgan segment {shlex.quote(str(arguments.source))} -o OUT"
        )
        raise InputError(
            f"{arguments.source} is a folder, and no network.", f"Did you mean {inside}?" if inside.is_file() else hint
        )
    _learn(arguments, events)


def _refuse(arguments: argparse.Namespace, names: Sequence[str], doing: str) -> None:
    given = [name for name in names if getattr(arguments, name) not in (None, False)]
    if given:
        option = {"run_folder": "run", "sources": "source"}.get(given[0], given[0]).replace("_", "-")
        raise InputError(f"--{option} means nothing when {doing}.", "Leave it out.")


def _learn(arguments: argparse.Namespace, events: Events) -> None:
    from ..jobs.writing import sole_owner
    from ..training.request import PREPARING, claim_run_folder, forget_old_stop

    out = arguments.output
    asked = _asked(arguments, events)
    claim_run_folder(out, arguments.resume, REQUEST)
    with sole_owner(out):
        write_bytes(out / REQUEST, json.dumps(asked, indent=1).encode("utf-8"))
        (out / PREPARING).unlink(missing_ok=True)
        forget_old_stop(out, arguments.begun if arguments.resume else 0)
        again = ["gedgan", "segment", str(arguments.source), "-o", str(out), "--resume"]
        try:
            _learn_and_apply(arguments, asked, events)
        except (StoppedOnRequest, KeyboardInterrupt) as stop:
            if isinstance(events, JsonEvents):
                raise
            raise StoppedOnRequest(f"{str(stop) or 'Stopped.'} Go on: {shlex.join(again)}") from stop
        finally:
            (out / STOP).unlink(missing_ok=True)


def _asked(arguments: argparse.Namespace, events: Events) -> dict[str, Any]:
    """What the job is asked for; of one that goes on, what it was begun with.

    :raises InputError: no scan is segmented, or a job that goes on is asked for something else.
    """
    out = arguments.output
    if arguments.resume:
        others = ("case", "format", "soft", "seed")
        if any(getattr(arguments, name) not in (None, False) for name in (*LEARNING, *others)):
            raise InputError("--resume goes on with what it was begun with.", "Leave the other options out.")
        try:
            asked = json.loads((out / REQUEST).read_text("utf-8"))
            if KEPT - asked.keys():
                raise ValueError("parts are missing")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{out / REQUEST} cannot be read.", "Begin in a new folder.") from error
        if asked.get("done"):
            raise InputError(f"{out} is done already.", "Use it, or begin in a new folder.")
        if Path(asked["data"]) != arguments.source.resolve():
            raise InputError(
                f"{out} was begun with the scans in {asked['data']}, and not with {arguments.source}.",
                "Give that folder, or begin in a new one.",
            )
        return asked
    if arguments.run_folder is not None and (arguments.structures or arguments.one_structure):
        raise InputError(
            "--run takes the structures of its alignment.", "Leave --structures and --one-structure out, or --run."
        )
    from ..device import choose_device
    from ..volumes.dataset import find_dataset

    dataset = find_dataset(arguments.source)
    labels = {} if arguments.labels is None else labels_for(dataset, arguments.labels, events)
    dataset = with_labels(dataset, labels)
    named = set(names_in(dataset, arguments.sources)) if arguments.sources else None
    sources = [
        files.name for files in dataset.cases if files.label is not None and (named is None or files.name in named)
    ]
    if not sources:
        raise InputError(
            f"No scan of {arguments.source} is segmented{'' if named is None else ' among those'}.",
            "Segment one of them: one is enough.",
        )
    if arguments.case:
        targets = names_in(dataset, arguments.case)
    else:
        targets = [files.name for files in dataset.cases if files.label is None]
    return {
        "data": str(arguments.source.resolve()), "sources": sources, "targets": targets,
        "run": _run_of(arguments.run_folder),
        "spacing": three_of(arguments.spacing),
        "updates": arguments.updates, "variations": arguments.variations, "teacher": arguments.teacher,
        "seed": arguments.seed or 0, "device": choose_device(arguments.device), "format": arguments.format or "folder",
        "soft": arguments.soft, "labels": labels, "structures": arguments.structures,
        "one_structure": arguments.one_structure,
    }  # fmt: skip


def _run_of(folder: Path | None) -> str | None:
    """The alignment that is meant, also by the folder of a job that made one on the way."""
    from ..alignment.runs import RESULT

    if folder is None:
        return None
    inside = folder / ALIGNMENT
    return str((inside if (inside / RESULT).exists() and not (folder / RESULT).exists() else folder).resolve())


def _learn_and_apply(arguments: argparse.Namespace, asked: dict[str, Any], events: Events) -> None:
    from ..segmentation.job import Job
    from ..segmentation.network_file import load_network
    from ..volumes.dataset import find_dataset

    out, stop = arguments.output, arguments.output / STOP
    run = out / ALIGNMENT if asked["run"] is None else Path(asked["run"])
    if asked["run"] is None:
        _aligned(arguments, asked, run, events)
    dataset = _as_chosen(with_labels(find_dataset(arguments.source), asked["labels"]), run, asked)
    bars = Bars(events)
    try:
        with stop_on_signals(lambda: events.emit("warning", message="Stopping as soon as it can.")) as signalled:

            def is_asked() -> bool:
                return signalled() or stop.exists()

            if not (out / NETWORK).exists():
                _learned(arguments, asked, run, dataset, is_asked, bars, events)
            bars.close()
            network = load_network(out / NETWORK, asked["device"])
            _segment_rest(arguments, asked, network, dataset, is_asked, events)
            Job(out, network.plan).forget()
            shutil.rmtree(out / MATERIAL, ignore_errors=True)
            write_bytes(out / REQUEST, json.dumps({**asked, "done": True}, indent=1).encode("utf-8"))
    finally:
        bars.close()


def _as_chosen(dataset: Any, run: Path, asked: dict[str, Any]) -> Any:
    """The data set with the structures that are asked for, or that the alignment was made with."""
    from ..alignment.runs import model_and_run
    from ..synthesis.model_file import read_header
    from ..volumes.dataset import as_planned, with_structures

    with suppress(InputError, OSError):  # it may be gone when the network is there; else who needs it says so
        dataset = as_planned(dataset, read_header(model_and_run(run)[0])[0])
    return with_structures(dataset, asked.get("structures"), asked.get("one_structure"))


def _aligned(arguments: argparse.Namespace, asked: dict[str, Any], run: Path, events: Events) -> None:
    """Align the scans on the way."""
    from ..alignment.runs import REQUEST as ALIGNED_REQUEST
    from ..alignment.runs import RESULT

    if (run / RESULT).exists():
        return
    given = {
        "data": arguments.source, "output": run, "onto": None, "exclude": [], "class_column": None,
        "device": asked["device"], "grid": None, "spacing": None, "resume": (run / ALIGNED_REQUEST).exists(),
        "for_sharing": False, "shard": None, "begun": arguments.begun, "stop": arguments.output / STOP,
        "channels": None, "one_structure": asked.get("one_structure"),
        # Those of a folder of their own are not among what is aligned.
        "structures": None if asked["labels"] else asked.get("structures"),
    }  # fmt: skip
    try:
        run_align(argparse.Namespace(**given), events)
    except (StoppedOnRequest, KeyboardInterrupt) as stop:
        raise StoppedOnRequest("Stopped while aligning the scans.") from stop


def _learned(
    arguments: argparse.Namespace, asked: dict[str, Any], run: Path, dataset: Any, stop: Callable[[], bool], bars: Any,
    events: Events,
) -> None:  # fmt: skip
    """Learn, and write the network."""
    from ..segmentation.job import Job, Material
    from ..segmentation.network_file import save_network
    from ..segmentation.plan import plan_network
    from ..synthesis.variations import Variations

    out, device = arguments.output, asked["device"]
    variations = Variations.open(run, device, with_population=True)
    by_name = {files.name: files for files in dataset.cases}
    sources = [by_name[name] for name in asked["sources"] if name in by_name]
    table = label_table(dataset, sources, events)
    found = {label.name for label in table.labels()}
    if missing := sorted(set(asked.get("structures") or ()) - found):
        there = ", ".join(sorted(found | table.others)) or "nothing"
        raise InputError(f"No scan has a structure called {', '.join(missing)}.", f"They hold {there}.")
    if not found:
        raise InputError("The segmentations are empty.", "Segment a scan of them.")
    plan = plan_network(
        variations.plan, table.labels(), device, asked["spacing"], asked["updates"], asked["variations"],
        asked["teacher"],
    )  # fmt: skip
    print("\n".join(plan.reasons))
    minutes = "a minute" if plan.minutes < 1.5 else f"{plan.minutes:.0f} minutes"
    print(f"Learning itself takes about {minutes} here; before, labels are carried to {len(dataset.cases)} scans.")
    job = Job(out, plan, asked["seed"], device, stop, bars.show)
    teaching = Teaching(variations, plan, dataset, table, sources, asked["seed"], stop, bars, events)
    material: Material = teaching.material(out / MATERIAL)
    network = job.learn(material)
    about = {
        "description": variations.plan.description, "labelled": len(material.labelled), "rest": len(material.rest),
        "variations": len(material.variations), "trained_images": teaching.digests, "seed": asked["seed"],
        "device": device, "alignment_digest": variations.model.digest,
    }  # fmt: skip
    save_network(out / NETWORK, network, plan, about)


def _segment_rest(
    arguments: argparse.Namespace, asked: dict[str, Any], network: Any, dataset: Any, stop: Callable[[], bool],
    events: Events,
) -> None:  # fmt: skip
    """Segment the scans that a learning job is for, into a data set in its folder."""
    from ..exchange.shards import Shard

    out = arguments.output
    name = FOLDER if asked["format"] == "folder" else DATASET + (re.sub(r"\W+", "", out.name) or "Segmented")
    by_name = {files.name: files for files in dataset.cases}
    used = labelled_of(out / MATERIAL) or asked["sources"]
    unused = [each for each in asked["sources"] if each not in used]  # their segmentations are empty, or damaged
    targets = [by_name[each] for each in dict.fromkeys([*asked["targets"], *unused]) if each in by_name]
    drawn = [by_name[each] for each in used if each in by_name and by_name[each] not in targets]
    if (out / name).exists():  # a kill came between this and the end
        return
    if not targets:
        print(f"All scans are segmented. The network is {out / NETWORK}; to apply it: gedgan segment NETWORK DATA -o …")
        return
    drawn = drawn if asked["format"] == "nnunet" else []
    form = Form(asked["format"], asked["soft"], drawn, out, votes_of(out / MATERIAL))
    # Under its name when it is whole: nobody corrects what is begun anew after a stop.
    partial = out / f".{name}"
    shutil.rmtree(partial, ignore_errors=True)
    apply(network, dataset, targets, partial, Shard(), form, stop, events)
    os.replace(partial, out / name)
    print(f"They are in {out / name}.")


def _apply_to_folder(arguments: argparse.Namespace, events: Events) -> None:
    """Apply a network to a folder of scans."""
    from ..exchange.shards import Shard
    from ..segmentation.network_file import load_network
    from ..volumes.dataset import find_dataset

    network = load_network(arguments.source, arguments.device)
    dataset = find_dataset(arguments.data)
    if arguments.case:
        wanted = set(names_in(dataset, arguments.case))
        targets = [files for files in dataset.cases if files.name in wanted]
    else:
        targets = [files for files in dataset.cases if files.label is None]
        drawn = len(dataset.cases) - len(targets)
        if drawn:
            words = f"{drawn} scan(s) of {dataset.folder} are segmented, and are left alone."
            events.emit("warning", message=f"{words} Ask for them by --case; what was drawn stays where it is.")
    if not targets:
        raise InputError(f"All scans of {dataset.folder} are segmented.", "Name those to segment by --case.")
    form = Form(arguments.format or "folder", arguments.soft, [], arguments.output)
    apply(network, dataset, targets, arguments.output, Shard(*(arguments.shard or (1, 1))), form, lambda: False, events)
