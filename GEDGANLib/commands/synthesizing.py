"""The commands ``synthesize`` and ``cohort``: from parsed arguments to files and words.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections import Counter
from pathlib import Path

from ..errors import InputError
from ..jobs.events import Events, with_progress
from .making import cases_folder, check_class, claim_scene, form_of, say_rejected, say_variety, screened
from .options import DEVICE, MODEL, a_model, a_path, a_seed, above_zero, add_form
from .scans import find_for


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    synthesize = kinds.add_parser("synthesize", help="make new cases with a model")
    synthesize.add_argument("model", type=a_model, metavar="MODEL", help=MODEL)
    synthesize.add_argument("-n", "--number", type=above_zero(int), default=8, help="cases to make (default: 8)")
    synthesize.add_argument(
        "-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder for the cases"
    )
    synthesize.add_argument("--seed", type=a_seed, default=0, help="same seed, same cases (default: 0)")
    synthesize.add_argument("--class", dest="class_name", metavar="NAME", help="make cases of one class only")
    add_form(synthesize)
    synthesize.add_argument(
        "--screen",
        type=a_path,
        metavar="DATA",
        help="draw cases again that are implausible beside DATA, the training cases, or too near to one of them",
    )
    synthesize.add_argument("--scene", type=a_path, help="write the cases as a Slicer scene too (.mrb)")
    synthesize.add_argument(
        "--beside", type=a_path, metavar="DATA", help="show real cases, those of DATA, above in the contact sheet"
    )
    synthesize.add_argument("--device", **DEVICE)
    synthesize.set_defaults(run=run_synthesize)

    cohort = kinds.add_parser("cohort", help="write the embedded cohort: variations of one average brain")
    cohort.add_argument("-n", "--number", type=above_zero(int), default=40, help="cases (default: 40)")
    cohort.add_argument("-o", "--output", type=a_path, required=True, metavar="FOLDER", help="new folder")
    cohort.add_argument("--seed", type=a_seed, default=0, help="same seed, same cohort (default: 0)")
    cohort.add_argument("--shape", type=above_zero(int), nargs=3, default=(40, 48, 40), metavar="N", help="voxels")
    cohort.add_argument("--spacing", type=above_zero(float), default=4.0, help="voxel size in mm (default: 4)")
    cohort.set_defaults(run=run_cohort)


def run_synthesize(arguments: argparse.Namespace, events: Events) -> None:
    from ..exchange.nnunet import write_dataset
    from ..synthesis.model_file import load_model
    from ..synthesis.synthesizer import Synthesizer, describe_origin

    model = load_model(arguments.model, arguments.device)
    synthesizer = Synthesizer(model, form_of(arguments, model, events))
    beside = None if arguments.beside is None else find_for(model, arguments.beside)
    check_class(arguments, model)
    whole_numbers = "" if arguments.float else model.plan.kinds
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


def _write_contact_sheet(path: Path, made: list, model, dataset, events: Events) -> None:
    from ..volumes.pictures import contact_sheet

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

    from ..volumes.case import Case
    from ..volumes.pipeline import load_working_cases

    first = replace(dataset, cases=dataset.cases[:count])
    return [
        Case(case.name, case.image, case.labels, case.affine, tuple(plan.labels))
        for case in load_working_cases(first, plan)
    ]


def _write_scene(path: Path, cases: list, model) -> None:
    from ..scene.headless import headless_application, save_scene
    from ..scene.nodes import add_cases

    with headless_application() as application:
        add_cases(cases, f"Synthesized by {model.path.parent.name or model.path.stem}")
        save_scene(application, path)


def run_cohort(arguments: argparse.Namespace, events: Events) -> None:
    from ..exchange.nnunet import write_dataset
    from ..volumes.cohort import DATASET_DESCRIPTION, make_case

    cases = (make_case(i, arguments.seed, arguments.shape, arguments.spacing) for i in range(arguments.number))
    with cases_folder(arguments.output, arguments.number) as count, events.bar("making variations") as show:
        counted = count(with_progress(cases, arguments.number, show))
        write_dataset(arguments.output, counted, DATASET_DESCRIPTION, "int16")
    print(f"{arguments.number} variations of one average brain are in {arguments.output}.")
