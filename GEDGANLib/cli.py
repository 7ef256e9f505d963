"""The command line: ``gedgan check | plan | train | synthesize | directions | vary | project | explain | ...``.

Every command ends with status 0, with 2 after bad input (one sentence says which file, what is wrong and what to do)
or with 3 when it was stopped on request; status 1 is a fault of the program.
What the commands do stands in ``learning``, ``commands``, ``steering`` and ``judging``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from . import __version__, commands, judging, learning, steering
from .errors import InputError, StoppedOnRequest
from .jobs import (
    BAD_INPUT,
    DONE,
    FAULT,
    STOPPED,
    Events,
    JsonEvents,
    SaidAsEvents,
    SilentEvents,
    TerminalEvents,
    end_on_termination,
)
from .worker import FOLLOWED

METHODS = ("ged", "article")  # as in ``plan``, whose numpy would make every answer of this module wait


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="gedgan", description="Learn from scans and synthesize new ones with their segmentations."
    )
    parser.add_argument("--version", action="version", version=f"gedgan {__version__}")
    kinds = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data_help = "folder of scans: nnU-Net or Medical Decathlon, plain images with or without labels, or DICOM series"
    device = {
        "default": "auto",
        "choices": ("auto", "cuda", "mps", "cpu"),
        "help": "where to compute (default: the best)",
    }

    check = kinds.add_parser("check", help="read every file of a data set once and say what is wrong")
    check.add_argument("data", type=_path, metavar="DATA", help=data_help)
    _add_class_column(check)
    check.set_defaults(run=learning.run_check)

    plan = kinds.add_parser("plan", help="decide grid, intensities and networks; write a file to read and edit")
    plan.add_argument("data", type=_path, metavar="DATA", help=data_help)
    plan.add_argument("-o", "--output", type=_path, default=Path("plan.json"), help="default: plan.json")
    _add_plan_options(plan, device)
    plan.set_defaults(run=learning.run_plan)

    train = kinds.add_parser("train", help="train a model on a data set")
    train.add_argument("data", type=_path, metavar="DATA", help=data_help)
    train.add_argument("-o", "--output", type=_path, required=True, metavar="RUN", help="new folder for the run")
    train.add_argument("--plan", type=_path, help="plan.json; made from the data when not given")
    _add_plan_options(train, device)
    limit = train.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=_positive(float), help="train so long (default: 60)")
    limit.add_argument("--steps", type=_positive(int), help="train so many steps")
    train.add_argument("--seed", type=_seed, help="of weights, latents and the order of cases (default: 0)")
    train.add_argument(
        "--resume", action="store_true", help="continue the run in RUN, to its own limit unless another is given"
    )
    train.add_argument(
        "--accept-changed-data", action="store_true", help="resume though cases were added, removed or changed"
    )
    train.add_argument(
        "--from", dest="start_from", type=_path, metavar="MODEL", help="start from a model, as for few new scans"
    )
    train.add_argument(
        "--freeze",
        type=_whole,
        default=0,
        metavar="N",
        help="with --from: keep the first N stages of the discriminator (default: 0)",
    )
    train.add_argument(
        "--workers", type=_whole, default=1, metavar="N", help="threads that read cases ahead (default: 1; 0 for none)"
    )
    train.add_argument("--tensorboard", action="store_true", help="write RUN/tensorboard too")
    train.set_defaults(run=learning.run_train)

    synthesize = kinds.add_parser("synthesize", help="make new cases with a model")
    synthesize.add_argument("model", type=_path, metavar="MODEL", help="model.safetensors of a run")
    synthesize.add_argument("-n", "--number", type=_positive(int), default=8, help="cases to make (default: 8)")
    synthesize.add_argument("-o", "--output", type=_path, required=True, metavar="OUT", help="new folder for the cases")
    synthesize.add_argument("--seed", type=_seed, default=0, help="same seed, same cases (default: 0)")
    synthesize.add_argument("--class", dest="class_name", metavar="NAME", help="make cases of one class only")
    _add_form(synthesize)
    synthesize.add_argument(
        "--screen",
        type=_path,
        metavar="DATA",
        help="draw cases again that are implausible beside DATA, the training cases, or too near to one of them",
    )
    synthesize.add_argument("--scene", type=_path, help="write the cases as a Slicer scene too (.mrb)")
    synthesize.add_argument(
        "--beside", type=_path, metavar="DATA", help="show real cases, those of DATA, above in the contact sheet"
    )
    synthesize.add_argument("--device", **device)
    synthesize.set_defaults(run=commands.run_synthesize)

    directions = kinds.add_parser("directions", help="find what can be steered in a model, and name it")
    directions.add_argument("model", type=_path, metavar="MODEL", help="model.safetensors of a run")
    directions.add_argument("--device", **device)
    directions.set_defaults(run=steering.run_directions)

    vary = kinds.add_parser("vary", help="make a series of cases along one direction")
    vary.add_argument("model", type=_path, metavar="MODEL", help="model.safetensors of a run")
    vary.add_argument("--direction", required=True, metavar="NAME", help="as `gedgan directions` names it")
    vary.add_argument("--from", dest="start", type=float, metavar="SD", help="default: the direction's own")
    vary.add_argument("--to", dest="end", type=float, metavar="SD", help="default: the direction's own")
    vary.add_argument("--frames", type=_positive(int), default=9, metavar="N", help="cases (default: 9)")
    vary.add_argument("--seed", type=_seed, help="vary a case of this seed (default: the most typical case)")
    vary.add_argument("--index", type=_whole, default=0, metavar="N", help="which case of the seed (default: 0)")
    vary.add_argument("--class", dest="class_name", metavar="NAME", help="class to start from")
    vary.add_argument("-o", "--output", type=_path, required=True, metavar="OUT", help="new folder for the cases")
    vary.add_argument("--scene", type=_path, help="write the series as a sequence in a Slicer scene too (.mrb)")
    vary.add_argument("--device", **device)
    vary.set_defaults(run=steering.run_vary)

    project = kinds.add_parser("project", help="find the case of a model that is nearest to a real volume")
    project.add_argument("model", type=_path, metavar="MODEL", help="model.safetensors of a run")
    project.add_argument("volume", type=_path, metavar="VOLUME", help="an image file, or a folder with a DICOM series")
    project.add_argument("-o", "--output", type=_path, required=True, metavar="OUT", help="new folder for the maps")
    project.add_argument(
        "--healthy",
        type=_path,
        metavar="DATA",
        help="write an anomaly map: folder of at least five healthy cases, or the file that was made of them before",
    )
    project.add_argument("--more", type=_whole, default=0, metavar="N", help="make N more like it (default: 0)")
    project.add_argument(
        "--difference", type=_share, default=0.3, metavar="SHARE", help="of those, from 0 to 1 (default: 0.3)"
    )
    project.add_argument("--seed", type=_seed, default=0, help="of those (default: 0)")
    project.add_argument("--steps", type=_positive(int), default=120, metavar="N", help="of the search (default: 120)")
    project.add_argument("--scene", type=_path, help="write volume and maps as a Slicer scene too (.mrb)")
    project.add_argument("--device", **device)
    project.set_defaults(run=steering.run_project)

    evaluate = kinds.add_parser("evaluate", help="report quality, privacy and use of a model, beside real cases")
    evaluate.add_argument("model", type=_path, metavar="MODEL", help="model.safetensors of a run")
    evaluate.add_argument(
        "--data",
        type=_path,
        required=True,
        metavar="DATA",
        help="what it was trained on, best with cases that it was not",
    )
    evaluate.add_argument("--new", type=_path, metavar="DATA", help="more real cases, that it was not trained on")
    evaluate.add_argument("-o", "--output", type=_path, required=True, metavar="OUT", help="new folder for the report")
    evaluate.add_argument("-n", "--number", type=_positive(int), default=100, help="cases to make (default: 100)")
    evaluate.add_argument("--updates", type=_positive(int), default=500, help="of each U-Net (default: 500)")
    evaluate.add_argument("--quick", action="store_true", help="leave out what pairs are worth for a segmentation")
    evaluate.add_argument("--seed", type=_seed, default=0, help="of the cases and the U-Nets (default: 0)")
    evaluate.add_argument("--device", **device)
    evaluate.set_defaults(run=judging.run_evaluate)

    export = kinds.add_parser("export", help="write a data set or a bundle for other programs")
    export.add_argument("model", type=_path, metavar="MODEL", help="model.safetensors of a run")
    export.add_argument("-o", "--output", type=_path, required=True, metavar="OUT", help="new folder")
    export.add_argument("--to", choices=("nnunet", "monai-bundle", "folder"), required=True, help="for which program")
    export.add_argument("-n", "--number", type=_positive(int), default=200, help="cases to make (default: 200)")
    export.add_argument("--seed", type=_seed, default=0, help="same seed, same cases (default: 0)")
    export.add_argument("--class", dest="class_name", metavar="NAME", help="make cases of one class only")
    export.add_argument(
        "--with-real", type=_path, metavar="DATA", help="nnunet: put the real cases of DATA beside them"
    )
    export.add_argument("--folds", type=_positive(int), default=5, help="nnunet: folds of the split (default: 5)")
    export.add_argument(
        "--format", choices=(".nii.gz", ".nrrd"), default=".nii.gz", help="folder: file format (default: .nii.gz)"
    )
    _add_form(export)
    export.add_argument("--screen", type=_path, metavar="DATA", help="as for synthesize")
    export.add_argument("--device", **device)
    export.set_defaults(run=judging.run_export)

    explain = kinds.add_parser("explain", help="show which way a volume's structure runs, and what a model doubts")
    explain.add_argument("volume", type=_path, metavar="VOLUME", help="an image file, or a folder with a DICOM series")
    explain.add_argument("-o", "--output", type=_path, required=True, metavar="OUT", help="new folder for the maps")
    explain.add_argument(
        "--model", type=_path, help="show too where its discriminator finds the volume unlike real ones"
    )
    explain.add_argument("--sigma", type=_positive(float), metavar="MM", help="scale of edges (default: a voxel)")
    explain.add_argument("--rho", type=_positive(float), metavar="MM", help="scale of averages (default: two voxels)")
    explain.add_argument("--scene", type=_path, help="write all maps as a Slicer scene too (.mrb)")
    explain.add_argument("--device", **device)
    explain.set_defaults(run=commands.run_explain)

    cohort = kinds.add_parser("cohort", help="write the embedded cohort: variations of one average brain")
    cohort.add_argument("-n", "--number", type=_positive(int), default=40, help="cases (default: 40)")
    cohort.add_argument("-o", "--output", type=_path, required=True, metavar="FOLDER", help="new folder")
    cohort.add_argument("--seed", type=_seed, default=0, help="same seed, same cohort (default: 0)")
    cohort.add_argument("--shape", type=_positive(int), nargs=3, default=(40, 48, 40), metavar="N", help="voxels")
    cohort.add_argument("--spacing", type=_positive(float), default=4.0, help="voxel size in mm (default: 4)")
    cohort.set_defaults(run=commands.run_cohort)

    devices = kinds.add_parser("devices", help="list what can compute here, the best first")
    devices.set_defaults(run=commands.run_devices)

    render = kinds.add_parser("render", help="draw a scene as Slicer shows it: three slices and a volume rendering")
    render.add_argument("scene", type=_path, metavar="SCENE", help=".mrb or .mrml")
    render.add_argument("-o", "--output", type=_path, required=True, metavar="PNG")
    render.add_argument("--case", type=_positive(int), default=1, help="which case of the scene (default: 1)")
    render.set_defaults(run=commands.run_render)
    for command in kinds.choices.values():
        command.add_argument("--events", choices=("-",), help="print one JSON object a line instead of a progress bar")
    return parser


def _add_class_column(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--class-column",
        metavar="NAME",
        help="column of DATA/participants.tsv that tells the class of a case (default: class, if there is one)",
    )


def _add_plan_options(parser: argparse.ArgumentParser, device: dict) -> None:
    _add_class_column(parser)
    parser.add_argument("--device", **device)
    parser.add_argument("--grid", type=_positive(int), nargs=3, metavar="N", help="voxels of the working grid")
    parser.add_argument(
        "--spacing", type=_positive(float), nargs="+", metavar="MM", help="voxel size: one number or three"
    )
    parser.add_argument("--method", choices=METHODS, help="ged (default), or the article's baseline to compare with")


def _add_form(parser: argparse.ArgumentParser) -> None:
    """In what form synthesized cases are wanted."""
    parser.add_argument(
        "--truncation",
        type=_truncation,
        default=1.0,
        metavar="T",
        help="0 for the most typical case, 1 as varied as was learned (default), above 1 more extreme",
    )
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="keep these labels alone (default: all)")
    parser.add_argument("--spacing", type=_positive(float), nargs="+", metavar="MM", help="voxels of this size")
    parser.add_argument("--original", action="store_true", help="voxels and size like the scans learned from")
    parser.add_argument(
        "--float", action="store_true", help="fractions where the scans learned from have whole numbers"
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 1")
    return value


def _truncation(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 2")
    return value


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _positive(kind: type):
    def convert(text: str):
        value = kind(text)
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"{text} must be above 0")
        return value

    convert.__name__ = "number"
    return convert


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) > 1000:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 on")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 on")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    begun = 0.0 if FOLLOWED in os.environ else time.time()
    # How long OpenMP's threads spin when they wait (300000 rounds if left alone): measured on two cores, a training
    # loses an eighth of its steps by this when it has the machine to itself, and doubles them when it has not.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # What Apple's GPUs cannot do in an older PyTorch is done on the CPU.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    parsed = build_parser().parse_args(arguments)
    parsed.begun = begun
    # Of several processes that train together the first one speaks.
    if os.environ.get("RANK", "0") != "0":
        events: Events = SilentEvents()
    else:
        events = JsonEvents() if getattr(parsed, "events", None) else TerminalEvents()
    try:
        # What a command says to people becomes an event too, or it would stand between the lines of the protocol.
        said = redirect_stdout(SaidAsEvents(events)) if isinstance(events, JsonEvents) else nullcontext()
        with said, end_on_termination() if "RANK" not in os.environ else nullcontext():
            parsed.run(parsed, events)
        if parsed.command != "train":  # a training says what it finished itself
            output = getattr(parsed, "output", None)
            events.emit("finished", **({} if output is None else {"output": str(output)}))
        return DONE
    except StoppedOnRequest as stop:
        return _end(events, "stopped", STOPPED, str(stop))
    except KeyboardInterrupt:
        return _end(events, "stopped", STOPPED, "Stopped.")
    except InputError as error:
        return _end(events, "failed", BAD_INPUT, error.message, error.hint)
    except Exception as error:
        if _is_out_of_memory(error):
            hint = "Use larger voxels (--spacing) or a smaller batch in the plan, or close other programs."
            return _end(events, "failed", BAD_INPUT, "The memory of this machine is not enough.", hint)
        details = _keep_details()
        words = str(error).strip().splitlines() or [""]
        message = f"A fault of GED-GAN, not of your data: {type(error).__name__}: {words[0]}"
        return _end(events, "failed", FAULT, message, f"Please report it with the file {details}.")


def _end(events: Events, event: str, status: int, message: str, hint: str = "") -> int:
    events.emit(event, message=message, **({} if event == "stopped" else {"hint": hint}))
    if event != "stopped" or not isinstance(events, SilentEvents):
        print(f"gedgan: {message} {hint}".rstrip(), file=sys.stderr)
    return status


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch raises a plain RuntimeError on the CPU, and a kind of its own on GPUs.
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def _keep_details() -> str:
    """Write the traceback of the exception at hand to a file and return its path."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="gedgan-fault-", suffix=".txt", delete=False) as file:
        file.write(f"gedgan {__version__}, Python {sys.version}\n{traceback.format_exc()}")
    return file.name


if __name__ == "__main__":
    raise SystemExit(main())
