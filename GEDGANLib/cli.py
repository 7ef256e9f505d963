"""The command line: ``gedgan check | plan | train | synthesize | explain | cohort | render``.

Every command ends with status 0, with 2 after bad input (one sentence says which file, what is wrong and what to do)
or with 3 when it was stopped on request. Heavy packages are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .errors import InputError, StoppedOnRequest
from .jobs import BAD_INPUT, DONE, STOPPED, Events, JsonEvents, TerminalEvents, with_progress

METHODS = ("ged", "article")  # as in ``plan``, whose numpy would make every answer of this module wait


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="gedgan", description="Learn from scans and synthesize new ones with their segmentations."
    )
    parser.add_argument("--version", action="version", version=f"gedgan {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data_help = "folder of scans: nnU-Net or Medical Decathlon, plain images with or without labels, or DICOM series"
    device = {
        "default": "auto",
        "choices": ("auto", "cuda", "mps", "cpu"),
        "help": "where to compute (default: the best)",
    }

    check = commands.add_parser("check", help="read every file of a data set once and say what is wrong")
    check.add_argument("data", type=Path, metavar="DATA", help=data_help)
    check.set_defaults(run=run_check)

    plan = commands.add_parser("plan", help="decide grid, intensities and networks; write a file to read and edit")
    plan.add_argument("data", type=Path, metavar="DATA", help=data_help)
    plan.add_argument("-o", "--output", type=Path, default=Path("plan.json"), help="default: plan.json")
    _add_plan_options(plan, device)
    plan.set_defaults(run=run_plan)

    train = commands.add_parser("train", help="train a model on a data set")
    train.add_argument("data", type=Path, metavar="DATA", help=data_help)
    train.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="new folder for the run")
    train.add_argument("--plan", type=Path, help="plan.json; made from the data when not given")
    _add_plan_options(train, device)
    limit = train.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=_positive(float), help="train so long (default: 60)")
    limit.add_argument("--steps", type=_positive(int), help="train so many steps")
    train.add_argument("--seed", type=_seed, default=0)
    train.add_argument("--resume", action="store_true", help="continue the run in RUN from its last checkpoint")
    train.add_argument("--events", choices=("-",), help="print one JSON object a line instead of a progress bar")
    train.set_defaults(run=run_train)

    synthesize = commands.add_parser("synthesize", help="make new cases with a model")
    synthesize.add_argument("model", type=Path, metavar="MODEL", help="model.safetensors of a run")
    synthesize.add_argument("-n", "--number", type=_positive(int), default=8, help="cases to make (default: 8)")
    synthesize.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="new folder for the cases")
    synthesize.add_argument("--seed", type=_seed, default=0, help="same seed, same cases (default: 0)")
    synthesize.add_argument("--scene", type=Path, help="write the cases as a Slicer scene too (.mrb)")
    synthesize.add_argument("--beside", type=Path, metavar="DATA", help="show cases of DATA above in the contact sheet")
    synthesize.add_argument("--device", **device)
    synthesize.set_defaults(run=run_synthesize)

    explain = commands.add_parser("explain", help="show which way a volume's structure runs, and what a model doubts")
    explain.add_argument("volume", type=Path, metavar="VOLUME", help="an image file, or a folder with a DICOM series")
    explain.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="new folder for the maps")
    explain.add_argument(
        "--model", type=Path, help="show too where its discriminator finds the volume unlike real ones"
    )
    explain.add_argument("--sigma", type=_positive(float), metavar="MM", help="scale of edges (default: a voxel)")
    explain.add_argument("--rho", type=_positive(float), metavar="MM", help="scale of averages (default: two voxels)")
    explain.add_argument("--scene", type=Path, help="write all maps as a Slicer scene too (.mrb)")
    explain.add_argument("--device", **device)
    explain.set_defaults(run=run_explain)

    cohort = commands.add_parser("cohort", help="write the embedded cohort: variations of one average brain")
    cohort.add_argument("-n", "--number", type=_positive(int), default=40, help="cases (default: 40)")
    cohort.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="new folder")
    cohort.add_argument("--seed", type=_seed, default=0)
    cohort.add_argument("--shape", type=_positive(int), nargs=3, default=(40, 48, 40), metavar="N", help="voxels")
    cohort.add_argument("--spacing", type=_positive(float), default=4.0, help="voxel size in mm (default: 4)")
    cohort.set_defaults(run=run_cohort)

    render = commands.add_parser("render", help="draw a scene as Slicer shows it: three slices and a volume rendering")
    render.add_argument("scene", type=Path, metavar="SCENE", help=".mrb or .mrml")
    render.add_argument("-o", "--output", type=Path, required=True, metavar="PNG")
    render.add_argument("--case", type=_positive(int), default=1, help="which case of the scene (default: 1)")
    render.set_defaults(run=run_render)
    return parser


def _add_plan_options(parser: argparse.ArgumentParser, device: dict) -> None:
    parser.add_argument("--device", **device)
    parser.add_argument("--grid", type=_positive(int), nargs=3, metavar="N", help="voxels of the working grid")
    parser.add_argument(
        "--spacing", type=_positive(float), nargs="+", metavar="MM", help="voxel size: one number or three"
    )
    parser.add_argument("--method", choices=METHODS, help="ged (default), or the article's baseline to compare with")


def _positive(kind: type):
    def convert(text: str):
        value = kind(text)
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"{text} must be above 0")
        return value

    convert.__name__ = "number"
    return convert


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 on")
    return value


def _spacing(values: Sequence[float] | None) -> list[float] | None:
    if values is None:
        return None
    if len(values) not in (1, 3):
        raise InputError(f"--spacing was given {len(values)} numbers.", "Give one for all axes, or three.")
    return list(values) * (3 if len(values) == 1 else 1)


def run_check(arguments: argparse.Namespace, events: Events) -> None:
    from .volumes.dataset import find_dataset
    from .volumes.pipeline import check_dataset

    dataset = find_dataset(arguments.data)
    with events.bar("reading") as show:
        fingerprint = check_dataset(dataset, show)
    _print_fingerprint(fingerprint, arguments.data)


def _print_fingerprint(fingerprint, folder: Path) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    cases = fingerprint.cases
    shapes, spacings = np.array([case.shape for case in cases]), np.array([case.spacing for case in cases])
    labelled = sum(case.labelled for case in cases)
    table = Table(title=f"{folder}: {len(cases)} cases, {labelled} with segmentation, all good", title_justify="left")
    for heading in ("", "smallest", "median", "largest"):
        table.add_column(heading)
    for words, values in (("voxels", shapes), ("spacing, mm", spacings)):
        numbers = (values.min(0), np.median(values, axis=0), values.max(0))
        table.add_row(words, *(" x ".join(f"{x:.4g}" for x in row) for row in numbers))
    for index, name in enumerate(fingerprint.channel_names):
        _lows, highs = np.array([case.percentiles[index] for case in cases]).T
        table.add_row(f"{name}, 99.5th percentile", *(f"{x:.4g}" for x in (highs.min(), np.median(highs), highs.max())))
    for label in fingerprint.labels:
        voxels = np.array([case.label_voxels.get(label.name, 0) for case in cases if case.labelled])
        row = (voxels.min(), np.median(voxels), voxels.max())
        table.add_row(f"label {label.value} {label.name}, voxels", *(f"{x:.0f}" for x in row))
    console.print(table)
    for warning in fingerprint.warnings:
        console.print(f"[yellow]Note:[/yellow] {warning}")


def _make_plan(arguments: argparse.Namespace, dataset, events: Events):
    from .plan import choose_device
    from .planning import make_plan
    from .volumes.pipeline import check_dataset

    device = choose_device(arguments.device)
    spacing = _spacing(arguments.spacing)
    with events.bar("reading") as show:
        fingerprint = check_dataset(dataset, show)
    for warning in fingerprint.warnings:
        events.emit("warning", message=warning)
    return make_plan(fingerprint, device, arguments.grid, spacing, arguments.method or METHODS[0]), device


def run_plan(arguments: argparse.Namespace, events: Events) -> None:
    from .volumes.dataset import find_dataset

    plan, device = _make_plan(arguments, find_dataset(arguments.data), events)
    plan.save(arguments.output)
    print(f"{arguments.output} is written. What it decides:")
    for reason in plan.reasons:
        print(f"  - {reason}")
    print(
        f"  - Expected on {device}: {plan.prediction.memory_gb:g} GB of memory and "
        f"{plan.prediction.minutes_per_1000_steps:g} minutes for 1000 steps (rough figures)."
    )


def run_train(arguments: argparse.Namespace, events: Events) -> None:
    from .plan import Plan, choose_device
    from .training.run import Limit, claim_run_folder, train
    from .volumes.dataset import find_dataset
    from .volumes.pipeline import load_working_cases

    dataset = find_dataset(arguments.data)
    plan_path = arguments.output / "plan.json" if arguments.resume else arguments.plan
    if plan_path is not None:
        plan, device = Plan.load(plan_path), choose_device(arguments.device)
        if arguments.grid or arguments.spacing or arguments.method:
            raise InputError("--grid, --spacing and --method make a plan, but one is given.", "Edit the plan instead.")
    else:
        _refuse_taken(arguments.output)
        plan, device = _make_plan(arguments, dataset, events)
    with events.bar("bringing the cases to one grid") as show:
        cases = list(load_working_cases(dataset, plan, show))
    if len(cases) < 2:
        raise InputError(f"{arguments.data} holds one single case; learning needs at least 2.", "Add more scans.")
    claim_run_folder(arguments.output, arguments.resume)
    limit = Limit(arguments.steps, None if arguments.steps else arguments.minutes or 60.0)
    data = str(arguments.data.resolve())
    model = train(plan, cases, arguments.output, limit, device, arguments.seed, events.emit, data, arguments.resume)
    if not isinstance(events, JsonEvents):
        print(f"The model is {model}. Real and synthesized cases side by side: {arguments.output / 'preview.png'}")
        print(f"Try: gedgan synthesize {model} -n 8 -o OUT --scene OUT/scene.mrb")


def _refuse_taken(run: Path) -> None:
    """Say at once that the folder is taken, before minutes of reading."""
    if run.is_dir() and any(run.iterdir()):
        from .training.run import claim_run_folder

        claim_run_folder(run, resume=False)


def run_synthesize(arguments: argparse.Namespace, events: Events) -> None:
    from .exchange.nnunet import write_dataset
    from .plan import choose_device
    from .synthesis.model_file import load_model
    from .synthesis.synthesizer import Synthesizer, describe_origin
    from .volumes.writing import claim_empty_folder

    model = load_model(arguments.model, choose_device(arguments.device))
    _check_scene_name(arguments.scene)
    claim_empty_folder(arguments.output)
    synthesizer = Synthesizer(model)
    integer = all(channel.integer for channel in model.plan.channels)
    # A scene holds all cases at once anyway; without one they go to disk one by one.
    kept: list = []

    def made():
        for case in synthesizer.cases(arguments.number, arguments.seed):
            if arguments.scene is not None or len(kept) < CONTACT_SHEET_CASES:
                kept.append(case)
            yield case

    with events.bar("synthesizing") as show:
        cases = with_progress(made(), arguments.number, show)
        write_dataset(arguments.output, cases, describe_origin(model), integer)
    sheet = arguments.output / "contact-sheet.png"
    _write_contact_sheet(sheet, kept[:CONTACT_SHEET_CASES], model, arguments.beside)
    print(f"{arguments.number} case(s), each with its segmentation, are in {arguments.output} (an nnU-Net data set)."
          if model.plan.labels else f"{arguments.number} case(s) are in {arguments.output}.")  # fmt: skip
    print(f"Contact sheet: {sheet}")
    if arguments.scene is not None:
        _write_scene(arguments.scene, kept, model)
        print(
            f"Scene: {arguments.scene} (open it in 3D Slicer, or draw it: gedgan render {arguments.scene} -o scene.png)"
        )


CONTACT_SHEET_CASES = 8


def _write_contact_sheet(path: Path, made: list, model, beside: Path | None) -> None:
    import json

    from .volumes.dataset import find_dataset
    from .volumes.pictures import contact_sheet

    if beside is None:
        # A model that still lies in its run folder knows where the scans are that it learned from.
        try:
            beside = Path(json.loads((model.path.parent / "run.json").read_text(encoding="utf-8"))["data"])
        except (OSError, ValueError, KeyError):
            beside = None
        if beside is not None and not beside.is_dir():
            beside = None
    rows = [("synthesized", made)]
    if beside is not None:
        dataset = find_dataset(beside)
        rows.insert(0, ("real", _real_cases(dataset, model.plan, len(made))))
    contact_sheet(path, rows, textwrap.shorten(model.plan.description, 100, placeholder=" …"))


def _real_cases(dataset, plan, count: int) -> list:
    """The first cases of a data set on the plan's grid, in the units of the data, so that both rows compare."""
    from dataclasses import replace

    from .volumes.case import Case
    from .volumes.pipeline import load_working_cases

    first = replace(dataset, cases=dataset.cases[:count])
    return [
        Case(case.name, case.image, case.labels, case.affine, tuple(plan.labels))
        for case in load_working_cases(first, plan)
    ]


def _write_scene(path: Path, cases: list, model) -> None:
    from .scene.headless import headless_application, save_scene
    from .scene.nodes import add_cases

    path.parent.mkdir(parents=True, exist_ok=True)
    with headless_application() as application:
        add_cases(cases, f"Synthesized by {model.path.parent.name or model.path.stem}")
        save_scene(application, path)


def run_explain(arguments: argparse.Namespace, events: Events) -> None:
    import numpy as np

    from .plan import choose_device
    from .synthesis.explain import colour_maps, draw_explanation, scalar_maps, structure_maps, unlikeness_map
    from .synthesis.model_file import load_model
    from .volumes.case import Case
    from .volumes.dataset import check_voxels
    from .volumes.files import read_volume, stem_of, write_colours, write_volume
    from .volumes.writing import claim_empty_folder

    _check_scene_name(arguments.scene)
    model = None
    if arguments.model is not None:
        model = load_model(arguments.model, choose_device(arguments.device), with_critic=True)
    volume = read_volume(arguments.volume, 1 if model is None else len(model.plan.channels))
    image = np.asarray(volume.array, dtype=np.float32)
    image = image if image.ndim == 4 else image[None]
    check_voxels(arguments.volume, image)
    case = Case(stem_of(arguments.volume), image, None, volume.affine)
    with events.bar("explaining") as show:
        show(0, 2, "structure")
        maps = structure_maps(case.image[0], case.affine, arguments.sigma, arguments.rho)
        show(1, 2, "discriminator")
        unlikeness = None if model is None else unlikeness_map(model, case)
        show(2, 2, "")
    claim_empty_folder(arguments.output)
    about = f"GED-GAN {__version__}, explanation of {case.name}"
    for name, array in scalar_maps(maps, unlikeness):
        write_volume(arguments.output / f"{name}.nrrd", array, case.affine, f"{name}; {about}")
    for name, array in colour_maps(maps):
        write_colours(arguments.output / f"{name}.nrrd", array, case.affine, f"{name}; {about}")
    picture = arguments.output / "explanation.png"
    draw_explanation(picture, case, maps, unlikeness)
    print(f"The maps are in {arguments.output}, to be loaded into Slicer; {picture} shows them side by side.")
    if arguments.scene is not None:
        from .scene.headless import headless_application, save_scene
        from .scene.nodes import add_maps

        arguments.scene.parent.mkdir(parents=True, exist_ok=True)
        with headless_application() as application:
            add_maps(case, scalar_maps(maps, unlikeness), colour_maps(maps), f"Explanation of {case.name}")
            save_scene(application, arguments.scene)
        print(f"Scene: {arguments.scene}")


def _check_scene_name(path: Path | None) -> None:
    if path is not None and path.suffix != ".mrb":
        raise InputError(f"{path} has no ending of a Slicer scene.", "Name it with .mrb at the end.")


def run_cohort(arguments: argparse.Namespace, events: Events) -> None:
    from .exchange.nnunet import write_dataset
    from .volumes.cohort import DATASET_DESCRIPTION, make_case
    from .volumes.writing import claim_empty_folder

    claim_empty_folder(arguments.output)
    cases = (make_case(i, arguments.seed, arguments.shape, arguments.spacing) for i in range(arguments.number))
    with events.bar("making variations") as show:
        write_dataset(arguments.output, with_progress(cases, arguments.number, show), DATASET_DESCRIPTION, integer=True)
    print(f"{arguments.number} variations of one average brain are in {arguments.output}.")


def run_render(arguments: argparse.Namespace, events: Events) -> None:
    from .scene.headless import headless_application, load_scene
    from .scene.render import check_rendering, render_scene

    check_rendering()
    with headless_application() as application:
        load_scene(application, arguments.scene)
        volumes = _nodes(application.scene, "vtkMRMLScalarVolumeNode")
        segmentations = _nodes(application.scene, "vtkMRMLSegmentationNode")
        if not volumes:
            raise InputError(f"{arguments.scene} holds no volume.", "Choose another scene.")
        if arguments.case > len(volumes):
            raise InputError(f"{arguments.scene} has {len(volumes)} volumes.", f"Choose --case 1 to {len(volumes)}.")
        volume = volumes[arguments.case - 1]
        segmentation = next((node for node in segmentations if node.GetName().startswith(volume.GetName())), None)
        for node in segmentations:
            node.GetDisplayNode().SetVisibility(node is segmentation)
        title = textwrap.shorten(f"{volume.GetName()} · {volume.GetDescription() or ''}", 110, placeholder=" …")
        render_scene(application, volume, segmentation, arguments.output, title)
    print(f"{arguments.output} shows case {arguments.case} of {arguments.scene}.")


def _nodes(scene, class_name: str) -> list:
    collection = scene.GetNodesByClass(class_name)
    return [collection.GetItemAsObject(i) for i in range(collection.GetNumberOfItems())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    parsed = build_parser().parse_args(arguments)
    events: Events = JsonEvents() if getattr(parsed, "events", None) else TerminalEvents()
    try:
        parsed.run(parsed, events)
        return DONE
    except InputError as error:
        events.emit("failed", message=error.message, hint=error.hint)
        print(f"gedgan: {error}", file=sys.stderr)
        return BAD_INPUT
    except StoppedOnRequest as stop:
        events.emit("stopped", message=str(stop))
        print(f"gedgan: {stop}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        events.emit("stopped", message="Stopped.")
        print("gedgan: stopped.", file=sys.stderr)
        return STOPPED
    except MemoryError:
        hint = "Use larger voxels (--spacing), or close other programs."
        events.emit("failed", message="The memory of this machine is not enough.", hint=hint)
        print(f"gedgan: The memory of this machine is not enough. {hint}", file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    raise SystemExit(main())
