"""What each command of ``gedgan`` does, from its parsed arguments to files and words.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .errors import InputError
from .jobs import Events, JsonEvents, with_progress


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
    return make_plan(fingerprint, device, arguments.grid, spacing, arguments.method or "ged"), device


def run_plan(arguments: argparse.Namespace, events: Events) -> None:
    from .volumes.dataset import find_dataset
    from .volumes.writing import claim_new_file

    claim_new_file(arguments.output, ".json")
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
    if arguments.resume and arguments.plan is not None:
        raise InputError("--resume goes on with the plan of its run.", "Leave --plan out, or train in a new folder.")
    if arguments.resume:
        claim_run_folder(arguments.output, resume=True)
    else:
        _refuse_taken(arguments.output)
    plan_path = arguments.output / "plan.json" if arguments.resume else arguments.plan
    if plan_path is not None:
        plan, device = Plan.load(plan_path), choose_device(arguments.device)
        if arguments.grid or arguments.spacing or arguments.method:
            raise InputError("--grid, --spacing and --method make a plan, but one is given.", "Edit the plan instead.")
    else:
        plan, device = _make_plan(arguments, dataset, events)
    with events.bar("bringing the cases to one grid") as show:
        cases = list(load_working_cases(dataset, plan, show))
    if len(cases) < 2:
        raise InputError(f"{arguments.data} holds one single case; learning needs at least 2.", "Add more scans.")
    claim_run_folder(arguments.output, arguments.resume)
    limit, seed = Limit(arguments.steps, arguments.minutes), arguments.seed
    if limit == Limit():
        limit = None if arguments.resume else Limit(minutes=60.0)
    if seed is None and not arguments.resume:
        seed = 0
    data = str(arguments.data.resolve())
    model = train(plan, cases, arguments.output, limit, device, seed, events.emit, data, arguments.resume)
    if not isinstance(events, JsonEvents):
        print(f"The model is {model}. Training and synthesized cases: {arguments.output / 'preview.png'}")
        print(f"Try: gedgan synthesize {shlex.quote(str(model))} -n 8 -o OUT --scene OUT/scene.mrb")


def _refuse_taken(run: Path) -> None:
    """Say at once that the folder is taken, before minutes of reading."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        from .training.run import claim_run_folder

        claim_run_folder(run, resume=False)


def run_synthesize(arguments: argparse.Namespace, events: Events) -> None:
    from .exchange.nnunet import write_dataset
    from .plan import choose_device
    from .synthesis.model_file import load_model
    from .synthesis.synthesizer import Synthesizer, describe_origin
    from .volumes.writing import claim_empty_folder

    model = load_model(arguments.model, choose_device(arguments.device))
    beside = _dataset_beside(arguments.beside, model)
    _claim_scene(arguments.scene)
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
    _write_contact_sheet(sheet, kept[:CONTACT_SHEET_CASES], model, beside, events)
    print(f"{arguments.number} case(s), each with its segmentation, are in {arguments.output} (an nnU-Net data set)."
          if model.plan.labels else f"{arguments.number} case(s) are in {arguments.output}.")  # fmt: skip
    print(f"Contact sheet: {sheet}")
    if arguments.scene is not None:
        _write_scene(arguments.scene, kept, model)
        print(
            f"Scene: {arguments.scene} (open it in 3D Slicer, or draw it: "
            f"gedgan render {shlex.quote(str(arguments.scene))} -o scene.png)"
        )


CONTACT_SHEET_CASES = 8


def _dataset_beside(folder: Path | None, model):
    """The data set to show beside what is made: the one asked for, else that of the run the model still lies in."""
    import json

    from .volumes.dataset import find_dataset

    if folder is not None:
        return find_dataset(folder)
    try:
        source = json.loads((model.path.parent / "run.json").read_text(encoding="utf-8"))["data"]
        return find_dataset(Path(source))
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None


def _write_contact_sheet(path: Path, made: list, model, dataset, events: Events) -> None:
    from .volumes.pictures import contact_sheet

    rows = [("synthesized", made)]
    if dataset is not None:
        try:
            rows.insert(0, ("training", _real_cases(dataset, model.plan, len(made))))
        except InputError as error:
            events.emit("warning", message=f"The contact sheet shows no training cases: {error}")
    source = textwrap.shorten(model.plan.description or "unnamed scans", 70, placeholder=" …")
    contact_sheet(path, rows, f"synthesized, not patients; learned from: {source}")


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

    with headless_application() as application:
        add_cases(cases, f"Synthesized by {model.path.parent.name or model.path.stem}")
        save_scene(application, path)


def run_explain(arguments: argparse.Namespace, events: Events) -> None:
    import numpy as np

    from .plan import choose_device
    from .synthesis.explain import colour_maps, draw_explanation, scalar_maps, structure_maps, unlikeness_map
    from .synthesis.model_file import load_model
    from .volumes.case import Case
    from .volumes.files import read_volume, stem_of, write_colours, write_volume
    from .volumes.reading import check_voxels
    from .volumes.writing import claim_empty_folder

    model = None
    if arguments.model is not None:
        model = load_model(arguments.model, choose_device(arguments.device), with_critic=True)
    volume = read_volume(arguments.volume, 1 if model is None else len(model.plan.channels))
    image = volume.array if volume.array.ndim == 4 else volume.array[None]
    for voxels in image:
        check_voxels(arguments.volume, voxels)
    names = ("image",) if model is None else tuple(channel.name for channel in model.plan.channels)
    image = image.astype(np.float32)
    case = Case(stem_of(arguments.volume), image, None, volume.affine, channel_names=names)
    with events.bar("explaining") as show:
        show(0, 2, "structure")
        maps = structure_maps(case.image[0], case.affine, arguments.sigma, arguments.rho)
        show(1, 2, "discriminator")
        unlikeness = None if model is None else unlikeness_map(model, case)
        show(2, 2, "")
    _claim_scene(arguments.scene)
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

        with headless_application() as application:
            add_maps(case, scalar_maps(maps, unlikeness), colour_maps(maps), f"Explanation of {case.name}")
            save_scene(application, arguments.scene)
        print(f"Scene: {arguments.scene}")


def _claim_scene(path: Path | None) -> None:
    """Make sure, before anything is written, that a scene can be made at ``path``."""
    from .volumes.writing import claim_new_file

    if path is not None:
        from .scene.headless import check_installed

        check_installed()
        claim_new_file(path, ".mrb")


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
    from .scene.read import cases_in_scene
    from .scene.render import check_rendering, render_scene
    from .volumes.writing import claim_new_file

    check_rendering()
    claim_new_file(arguments.output, ".png")
    with events.bar("drawing") as show, headless_application() as application:
        show(0, 1, "")
        load_scene(application, arguments.scene)
        cases = cases_in_scene(application.scene)
        if not cases:
            raise InputError(f"{arguments.scene} holds no volume.", "Choose another scene.")
        if arguments.case > len(cases):
            raise InputError(f"{arguments.scene} has {len(cases)} case(s).", f"Choose --case 1 to {len(cases)}.")
        volume, segmentation = cases[arguments.case - 1]
        for _, other in cases:
            if other is not None:
                other.GetDisplayNode().SetVisibility(other is segmentation)
        title = textwrap.shorten(f"{volume.GetName()} · {volume.GetDescription() or ''}", 150, placeholder=" …")
        render_scene(application, volume, segmentation, arguments.output, title)
        show(1, 1, "")
    print(f"{arguments.output} shows case {arguments.case} of {arguments.scene}.")
