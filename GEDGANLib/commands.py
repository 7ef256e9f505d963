"""What the commands of ``gedgan`` do that need a model or a scene, from parsed arguments to files and words.

Those that need data to learn from stand in ``learning``.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import __version__
from .errors import InputError, StoppedOnRequest
from .jobs import Events, with_progress


def run_synthesize(arguments: argparse.Namespace, events: Events) -> None:
    from .exchange.nnunet import write_dataset
    from .judging import find_for
    from .synthesis.model_file import load_model
    from .synthesis.synthesizer import Synthesizer, describe_origin

    model = load_model(arguments.model, arguments.device)
    synthesizer = Synthesizer(model, form_of(arguments, model))
    beside = None if arguments.beside is None else find_for(model, arguments.beside)
    check_class(arguments, model)
    whole_numbers = "" if arguments.float else model.plan.whole_numbers
    # A scene holds all cases at once anyway; without one they go to disk one by one.
    kept: list = []
    rejected: Counter[str] = Counter()
    say_variety(model, events)
    with cases_folder(arguments.output, arguments.number) as count:
        claim_scene(arguments.scene)
        passing = screened(arguments, synthesizer, rejected, events)

        def made():
            cases = passing or synthesizer.cases(arguments.number, arguments.seed, class_name=arguments.class_name)
            for case in cases:
                if arguments.scene is not None or len(kept) < CONTACT_SHEET_CASES:
                    kept.append(case)
                yield case

        with events.bar("synthesizing") as show:
            cases = count(with_progress(made(), arguments.number, show))
            write_dataset(arguments.output, cases, describe_origin(model), whole_numbers)
    sheet = arguments.output / "contact-sheet.png"
    _write_contact_sheet(sheet, kept[:CONTACT_SHEET_CASES], model, beside, events)
    print(f"{arguments.number} case(s), each with its segmentation, are in {arguments.output} (an nnU-Net data set)."
          if model.plan.labels else f"{arguments.number} case(s) are in {arguments.output}.")  # fmt: skip
    if passing is not None:
        say_rejected(rejected)
    print(f"Contact sheet: {sheet}")
    if arguments.scene is not None:
        _write_scene(arguments.scene, kept, model)
        print(
            f"Scene: {arguments.scene} (open it in 3D Slicer, or draw it: "
            f"gedgan render {shlex.quote(str(arguments.scene))} -o scene.png)"
        )


CONTACT_SHEET_CASES = 8


@contextmanager
def cases_folder(folder: Path, total: int) -> Iterator[Callable[[Iterable], Iterator]]:
    """A new folder for cases that are written one by one; who interrupts that is told how many are complete.

    :returns: a function that counts the cases of an iterable as they are taken from it and written.
    """
    from .volumes.writing import growing_folder

    done = 0

    def counted(cases: Iterable) -> Iterator:
        nonlocal done
        for case in cases:
            yield case
            done += 1

    with growing_folder(folder, ("imagesTr", "labelsTr", "images", "labels")):
        try:
            yield counted
        except KeyboardInterrupt as interrupt:
            left = f"; the first {done} of {total} cases are complete in {folder} and can be used" if done else ""
            raise StoppedOnRequest(f"Stopped{left}.") from interrupt


def say_variety(model, events: Events) -> None:
    """Tell that the cases of a model hardly differ, if its training ended so."""
    from .synthesis.model_file import variety_if_alike

    variety = variety_if_alike(model.about)
    if variety is not None:
        events.emit(
            "warning",
            message=f"Cases of this model hardly differ from each other ({variety:.0%} of the variety of its training "
            f"cases). It was trained for {model.about.get('steps', '?')} steps; train it longer, or anew.",
        )


def check_class(arguments: argparse.Namespace, model) -> None:
    """:raises InputError: a class is asked for that the model does not know."""
    classes = model.plan.classes
    if arguments.class_name is not None and arguments.class_name not in classes:
        there = f"it knows {', '.join(classes)}" if classes else "it was trained without classes"
        raise InputError(f"{arguments.model} knows no class {arguments.class_name}; {there}.", "Leave --class out.")


def screened(arguments: argparse.Namespace, synthesizer, rejected: Counter[str], events: Events):
    """The cases that pass the gate, one after the other; None where there is no gate."""
    if arguments.screen is None:
        return None
    from .judging import find_for
    from .quality.screening import Screen
    from .synthesis.membership import membership
    from .volumes.pipeline import load_working_cases

    plan = synthesizer.model.plan
    with events.bar("reading real cases") as show:
        cases = list(load_working_cases(find_for(synthesizer.model, arguments.screen), plan, show))
    trained = [cases[index] for index in membership(synthesizer.model.about, cases).trained]
    if not trained:
        print(
            f"Note: none of the cases in {arguments.screen} taught the model; copies of those that did are not found."
        )
    with events.bar("measuring real cases") as show:
        # Without any that it was trained on, plausible is what these are like; nothing of them can have been copied.
        screen = Screen(trained or cases, plan, show)

    def draw(index: int):
        return synthesizer.draw(arguments.seed, index, arguments.class_name)

    return screen.passing(draw, arguments.number, rejected)


def form_of(arguments: argparse.Namespace, model):
    """The form of the cases that the options ask for.

    :raises InputError: options that exclude each other, or do not fit the model.
    """
    from .synthesis.output import grid_of_spacing, original_grid, refuse_huge
    from .synthesis.synthesizer import Form

    grid = None
    if arguments.original and arguments.spacing is not None:
        raise InputError("--original and --spacing exclude each other.", "Leave one of them out.")
    if arguments.original:
        grid = original_grid(model.plan)
    elif arguments.spacing is not None:
        grid = grid_of_spacing(model.plan, arguments.spacing)
    if grid is not None:
        refuse_huge(grid, model.plan)
    return Form(grid, arguments.labels, arguments.truncation)


def _write_contact_sheet(path: Path, made: list, model, dataset, events: Events) -> None:
    from .volumes.pictures import contact_sheet

    rows = [("synthesized", made)]
    if dataset is not None:
        try:
            rows.insert(0, ("data", _real_cases(dataset, model.plan, len(made))))
        except InputError as error:
            events.emit("warning", message=f"The contact sheet shows no real cases: {error}")
    source = textwrap.shorten(model.plan.description or "unnamed scans", 200, placeholder=" …")
    words = f"synthesized, not patients; learned from: {source}"
    if len(rows) > 1:
        words = f"Above: data of {dataset.folder.resolve().name}. Below: {words}"
    contact_sheet(path, rows, words)


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


UNLIKE = 2.0
"""Standard deviations, on average over a volume, from which it is probably of another kind than a model's scans."""


def run_explain(arguments: argparse.Namespace, events: Events) -> None:
    from .synthesis.explain import colour_maps, draw_explanation, scalar_maps, structure_maps, unlikeness_map
    from .synthesis.model_file import load_model
    from .volumes.files import write_colours, write_volume
    from .volumes.writing import new_folder

    with new_folder(arguments.output) as folder:
        claim_scene(arguments.scene)
        model = None
        if arguments.model is not None:
            model = load_model(arguments.model, arguments.device, with_critic=True)
        channels = ["image"] if model is None else [channel.name for channel in model.plan.channels]
        case = read_scan(arguments.volume, channels, events)
        with events.bar("explaining") as show:
            show(0, 2, "structure")
            maps = structure_maps(case.image[0], case.affine, arguments.sigma, arguments.rho)
            show(1, 2, "discriminator")
            unlikeness = None if model is None else unlikeness_map(model, case)
            show(2, 2, "")
        if model is not None:
            warn_of_other_kind(arguments.volume, case.image.shape[1:], case.affine, model.plan, events)
        if unlikeness is not None and unlikeness.mean() > UNLIKE:
            message = f"{arguments.volume} is unlike the model's scans nearly everywhere: is it a scan of their kind?"
            events.emit("warning", message=message)
        about = f"GED-GAN {__version__}, explanation of {case.name}"
        for name, array in scalar_maps(maps, unlikeness):
            write_volume(folder / f"{name}.nrrd", array, case.affine, f"{name}; {about}")
        for name, array in colour_maps(maps):
            write_colours(folder / f"{name}.nrrd", array, case.affine, f"{name}; {about}")
        draw_explanation(folder / "explanation.png", case, maps, unlikeness)
    print(f"The maps are in {arguments.output}, to be loaded into Slicer; explanation.png shows them side by side.")
    if arguments.scene is not None:
        from .scene.headless import headless_application, save_scene
        from .scene.nodes import add_maps

        with headless_application() as application:
            add_maps(case, scalar_maps(maps, unlikeness), colour_maps(maps), f"Explanation of {case.name}")
            save_scene(application, arguments.scene)
        print(f"Scene: {arguments.scene}")


def read_scan(path: Path, channel_names: Sequence[str], events: Events):
    """A volume, or a folder of DICOM slices, as a case of these channels without labels.

    :raises InputError: it cannot be used.
    """
    import numpy as np

    from .volumes.case import Case
    from .volumes.files import read_volume, stem_of
    from .volumes.reading import check_voxels, looks_like_labels

    volume = read_volume(path, len(channel_names))
    image = volume.array if volume.array.ndim == 4 else volume.array[None]
    for voxels in image:
        check_voxels(path, voxels)
    if volume.segments or looks_like_labels(volume.array, volume.array.dtype.name):
        events.emit("warning", message=f"{path} looks like a segmentation, and not like a scan.")
    return Case(stem_of(path), image.astype(np.float32), None, volume.affine, channel_names=tuple(channel_names))


OTHER_SIZE = 2.0
"""How many times larger or smaller than a model's scans one is, along an axis, that is probably of another kind."""


def warn_of_other_kind(name: object, shape: Sequence[int], affine: Any, plan: Any, events: Events) -> None:
    """Warn of a scan whose size is not that of the scans a model learned from.

    :param name: of the scan, or its path.
    :param shape, affine: of its grid, voxels along its own axes.
    """
    import numpy as np

    from .volumes.geometry import spacing_of, to_closest_ras

    nothing, affine = to_closest_ras(np.broadcast_to(np.float32(0), (1, *shape)), affine)
    own = np.array(nothing.shape[1:]) * spacing_of(affine)
    usual = np.array(plan.grid.shape) * plan.grid.spacing
    if (own > OTHER_SIZE * usual).any() or (usual > OTHER_SIZE * own).any():
        sizes = [" x ".join(f"{side:.0f}" for side in sides) for sides in (own, usual)]
        message = f"{name} reaches {sizes[0]} mm, the model's scans about {sizes[1]} mm: is it a scan of their kind?"
        events.emit("warning", message=message)


def say_rejected(rejected: Counter[str]) -> None:
    """Tell how many cases the gate drew again, and why."""
    reasons = ", ".join(f"{reason} ({count})" for reason, count in rejected.most_common())
    print(f"Drawn again: {sum(rejected.values())} case(s){': ' if reasons else ''}{reasons}.")


def claim_scene(path: Path | None) -> None:
    """Make sure, before anything is written, that a scene can be made at ``path``."""
    from .volumes.writing import claim_new_file

    if path is not None:
        from .scene.headless import check_installed

        check_installed()
        claim_new_file(path, ".mrb")


def run_devices(arguments: argparse.Namespace, events: Events) -> None:
    import torch

    from .device import devices

    found = devices()
    events.emit("devices", devices=found, torch=str(torch.__version__))
    for each in found:
        memory = f", {each['memory_gb']} GB" if "memory_gb" in each else ""
        print(f"{each['kind']}: {each['name']}{memory}")
    if found[0]["kind"] == "cpu":
        print("No GPU can be used; training on the CPU takes an hour or more, for small volumes.")


def run_cohort(arguments: argparse.Namespace, events: Events) -> None:
    from .exchange.nnunet import write_dataset
    from .volumes.cohort import DATASET_DESCRIPTION, make_case

    cases = (make_case(i, arguments.seed, arguments.shape, arguments.spacing) for i in range(arguments.number))
    with cases_folder(arguments.output, arguments.number) as count, events.bar("making variations") as show:
        counted = count(with_progress(cases, arguments.number, show))
        write_dataset(arguments.output, counted, DATASET_DESCRIPTION, "int16")
    print(f"{arguments.number} variations of one average brain are in {arguments.output}.")


def run_render(arguments: argparse.Namespace, events: Events) -> None:
    from .scene.headless import headless_application, load_scene
    from .scene.read import cases_in_scene
    from .scene.render import check_rendering, render_scene
    from .scene.sequences import shown_item
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
        words = [volume.GetName(), shown_item(volume), volume.GetDescription() or ""]
        title = textwrap.shorten(" · ".join(filter(None, words)), 400, placeholder=" …")
        render_scene(application, volume, segmentation, arguments.output, title)
        show(1, 1, "")
    print(f"{arguments.output} shows case {arguments.case} of {arguments.scene}.")
