"""What the commands ``evaluate`` and ``export`` do, from parsed arguments to files and words.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
import re
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import InputError
from ..jobs.events import Events, with_progress
from .making import cases_folder, check_class, form_of, say_rejected, say_variety, screened
from .options import DEVICE, MODEL, a_model, a_path, a_seed, above_zero, add_form
from .scans import find_for

NNUNET_NAME = re.compile(r"Dataset\d{3}_.")


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    evaluate = kinds.add_parser("evaluate", help="report quality, privacy and use of a model, beside real cases")
    evaluate.add_argument("model", type=a_model, metavar="MODEL", help=MODEL)
    evaluate.add_argument(
        "--data",
        type=a_path,
        required=True,
        metavar="DATA",
        help="what it was trained on, best with cases that it was not",
    )
    evaluate.add_argument("--new", type=a_path, metavar="DATA", help="more real cases, that it was not trained on")
    evaluate.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder for the report")
    evaluate.add_argument("-n", "--number", type=above_zero(int), default=100, help="cases to make (default: 100)")
    evaluate.add_argument("--updates", type=above_zero(int), default=500, help="of each U-Net (default: 500)")
    evaluate.add_argument(
        "--minutes",
        type=above_zero(float),
        help="of an alignment: for measuring what its variations are worth for a segmentation (default: 15)",
    )
    evaluate.add_argument("--quick", action="store_true", help="leave out what pairs are worth for a segmentation")
    evaluate.add_argument("--seed", type=a_seed, default=0, help="of the cases and the U-Nets (default: 0)")
    evaluate.add_argument("--device", **DEVICE)
    evaluate.set_defaults(run=run_evaluate)

    export = kinds.add_parser("export", help="write a data set or a bundle for other programs")
    export.add_argument("model", type=a_model, metavar="MODEL", help=f"{MODEL}; or a segmentation network")
    export.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder")
    export.add_argument("--to", choices=("nnunet", "monai-bundle", "folder"), required=True, help="for which program")
    export.add_argument("-n", "--number", type=above_zero(int), default=200, help="cases to make (default: 200)")
    export.add_argument("--seed", type=a_seed, default=0, help="same seed, same cases (default: 0)")
    export.add_argument("--class", dest="class_name", metavar="NAME", help="make cases of one class only")
    export.add_argument(
        "--with-real", type=a_path, metavar="DATA", help="nnunet: put the real cases of DATA beside them"
    )
    export.add_argument("--folds", type=above_zero(int), default=5, help="nnunet: folds of the split (default: 5)")
    export.add_argument(
        "--format", choices=(".nii.gz", ".nrrd"), default=".nii.gz", help="folder: file format (default: .nii.gz)"
    )
    add_form(export)
    export.add_argument("--screen", type=a_path, metavar="DATA", help="as for synthesize")
    export.add_argument("--device", **DEVICE)
    export.set_defaults(run=run_export)


def run_evaluate(arguments: argparse.Namespace, events: Events) -> None:
    from ..device import choose_device
    from ..jobs.writing import new_folder
    from ..quality.report import HTML
    from ..synthesis.model_file import keep_report, load_model, refuse_unwritable

    device = choose_device(arguments.device)
    model = load_model(arguments.model, device, with_population=True)
    digest = model.digest  # of what is judged, before a training that goes on can write another one
    try:
        refuse_unwritable(arguments.model)
    except InputError as error:
        events.emit("warning", message=f"The report will not be kept in the model file: {error}")
    with new_folder(arguments.output) as folder, TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as cases:
        try:
            said, figures = _judge(arguments, model, device, folder, Path(cases), events)
        except BaseException as error:
            # Not all systems remove files that are mapped, and the frames of an error hold the maps.
            traceback.clear_frames(error.__traceback__)
            raise
    for words in said:
        print(f"- {words}")
    print(f"The report is {arguments.output / HTML}.")
    try:  # where the panel, and whoever is given the model, find what is known of it
        keep_report(arguments.model, figures, digest)
        print(f"Its figures are in {arguments.model} too.")
    except InputError as error:
        events.emit("warning", message=f"The report is not kept in the model file: {error}")


def _judge(
    arguments: argparse.Namespace, model: Any, device: str, folder: Path, in_files: Path, events: Events
) -> tuple[list[str], dict[str, Any]]:
    """Write the report and return what it says, in sentences and in figures.

    :param in_files: an empty folder for the cases; nothing refers to them any more when this returns.
    """
    from ..quality.evaluation import Settings, evaluate
    from ..quality.report import figures_of, write_report
    from ..volumes.pipeline import load_working_cases
    from ..volumes.prepared import keep_cases, prepared_bytes, refuse_without_room

    datasets = [find_for(model, data) for data in (arguments.data, arguments.new) if data]
    count = sum(len(dataset.cases) for dataset in datasets) + arguments.number
    refuse_without_room(prepared_bytes(model.plan, count, False), arguments.output, "an output folder on another disk")
    cases: list[Any] = []
    for number, dataset in enumerate(datasets):
        with events.bar("reading") as show:
            read = load_working_cases(dataset, model.plan, show)
            cases += keep_cases(read, len(dataset.cases), model.plan, in_files / f"real-{number}")
    settings = Settings(arguments.number, arguments.updates, not arguments.quick, arguments.seed, device)
    worth = None
    if model.plan.method == "modes" and not arguments.quick:
        from .worth import tell_worth

        worth = tell_worth(arguments, model, datasets, device, events)
    result = evaluate(model, _each_once(cases), settings, events.bar, in_files / "synthesized")
    if worth is not None:
        words, figures = worth
        result.summary.insert(0, words)
        result.figures = {"worth": figures, **result.figures}
    write_report(folder, result, model.plan)
    return [*result.summary, *result.notes], figures_of(result, with_names=False)


def _each_once(cases: list[Any]) -> list[Any]:
    """The cases without those whose image was there before, as where two folders overlap."""
    from ..training.request import image_digest

    return list({image_digest(case): case for case in reversed(cases)}.values())[::-1]


def run_export(arguments: argparse.Namespace, events: Events) -> None:
    from ..jobs.writing import new_folder
    from ..segmentation.network_file import is_network
    from ..synthesis.model_file import load_model

    if is_network(arguments.model):
        _export_network(arguments)
        return
    if arguments.to != "nnunet" and arguments.with_real is not None:
        raise InputError("--with-real is for --to nnunet alone.", "Leave it out.")
    if arguments.to == "monai-bundle":
        forms = {
            "--labels": arguments.labels, "--spacing": arguments.spacing, "--screen": arguments.screen,
            "--original": arguments.original, "--float": arguments.float, "--class": arguments.class_name,
        }  # fmt: skip
        given = [name for name, value in forms.items() if value]
        if given or arguments.truncation != 1:
            raise InputError(
                f"{given[0] if given else '--truncation'} cannot be built into a bundle, which holds the generator.",
                "Leave it out; or use --to folder.",
            )
        from ..exchange.monai_bundle import write_bundle
        from ..synthesis.model_file import what_it_holds
        from ..synthesis.statistical import is_local, shared_form

        model = load_model(arguments.model, "cpu", with_population=True)
        say_variety(model, events)
        if is_local(model.about):
            made = shared_form(model)
            model = replace(model, generator=made.generator, plan=made.plan, about=made.about)
            message = f"The bundle holds the form of the model that is for sharing: {made.about['card']}"
            events.emit("warning", message=message)
        if words := what_it_holds(model.plan, model.about):
            events.emit("warning", message=words)
        with new_folder(arguments.output) as folder:
            write_bundle(folder, model)
        print(f"The bundle is {arguments.output}; its docs/README.md says how to run it.")
        return
    model = load_model(arguments.model, arguments.device)
    say_variety(model, events)
    if arguments.to == "nnunet":
        _export_nnunet(arguments, model, events)
    else:
        from ..exchange.folder import write_folder
        from ..synthesis.synthesizer import describe_origin

        with cases_folder(arguments.output, arguments.number) as count:
            cases, rejected, whole_numbers = _made(arguments, model, events)
            with events.bar("synthesizing") as show:
                shown = count(with_progress(cases, arguments.number, show))
                write_folder(arguments.output, shown, describe_origin(model), whole_numbers, arguments.format)
        if rejected:
            say_rejected(rejected)
        print(f"{arguments.number} case(s) are in {arguments.output}.")


def _export_network(arguments: argparse.Namespace) -> None:
    """A segmentation network as a bundle."""
    from ..exchange.segmentation_bundle import write_segmentation_bundle
    from ..jobs.writing import new_folder
    from ..segmentation.network_file import load_network

    if arguments.to != "monai-bundle":
        raise InputError(
            f"{arguments.model} is a segmentation network, and makes no cases.",
            "Use --to monai-bundle; or segment scans with it (gedgan segment NETWORK DATA -o OUT).",
        )
    network = load_network(arguments.model, "cpu")
    with new_folder(arguments.output) as folder:
        write_segmentation_bundle(folder, network)
    print(f"The bundle is {arguments.output}; its docs/README.md says how to run it.")


def _made(arguments: argparse.Namespace, model: Any, events: Events) -> tuple[Any, Counter[str], str]:
    """The synthesized cases one after the other, why others were drawn again, and their type if whole numbers."""
    from ..synthesis.synthesizer import Synthesizer

    synthesizer = Synthesizer(model, form_of(arguments, model, events))
    check_class(arguments, model)
    rejected: Counter[str] = Counter()
    cases = screened(arguments, synthesizer, rejected, events)
    if cases is None:
        cases = synthesizer.cases(arguments.number, arguments.seed, class_name=arguments.class_name)
    whole_numbers = "" if arguments.float else model.plan.kinds
    return cases, rejected, whole_numbers


def _export_nnunet(arguments: argparse.Namespace, model: Any, events: Events) -> None:
    from dataclasses import replace
    from itertools import chain

    from ..exchange.nnunet import write_dataset
    from ..exchange.splits import make_splits, write_splits
    from ..synthesis.output import LabelSubset
    from ..synthesis.synthesizer import describe_origin

    if not model.plan.labels:
        raise InputError(f"{arguments.model} makes no segmentations, which nnU-Net needs.", "Use --to folder.")
    subset = LabelSubset.of(model.plan.labels, arguments.labels)
    dataset, splits, real = None, None, []
    if arguments.with_real is not None:
        dataset = find_for(model, arguments.with_real)
        real = _who_taught(arguments, model, dataset, events)
        splits = make_splits(real, arguments.folds)
        if arguments.spacing is None and not arguments.original:
            # nnU-Net takes the median of all cases: it must not be that of the working grid.
            arguments.original = True
    taken, names = {name for name, _ in real}, []

    def named(cases: Iterable[Any]) -> Iterator[Any]:
        for case in cases:
            if case.name in taken:
                case = replace(case, name=f"{case.name}_made")
            names.append(case.name)
            yield case

    total = arguments.number + len(real)
    description = describe_origin(model)
    if dataset is not None:
        description = f"Real cases, and such named synthetic_...: {description}"
    channels = [channel.name for channel in model.plan.channels]
    with cases_folder(arguments.output, total) as count:
        cases, rejected, whole_numbers = _made(arguments, model, events)
        parts = chain(named(cases), [] if dataset is None else _real_cases(dataset, model.plan, subset))
        with events.bar("writing") as show:
            shown = count(with_progress(parts, total, show))
            write_dataset(
                arguments.output, shown, description, whole_numbers, with_labels_alone=True, channel_names=channels
            )
    if rejected:
        say_rejected(rejected)
    print(f"{total} case(s), {arguments.number} of them synthetic, are in {arguments.output}.")
    if splits is not None:
        path = write_splits(arguments.output, splits, names)
        folds = f"{len(splits)} folds" if len(splits) != 1 else "1 fold"
        fewer = (
            f", and not {arguments.folds}, since only {len(splits)} labelled real cases are new to the model"
            if len(splits) < arguments.folds
            else ""
        )
        print(
            f"{path} has {folds}{fewer}. Each validates on real cases that the model has not learned from, and trains "
            "on all others and the synthetic ones. Copy it into nnUNet_preprocessed/DATASET before nnUNetv2_train."
        )
    if not NNUNET_NAME.match(arguments.output.resolve().name):
        words = (
            "nnU-Net wants its folders named DatasetNNN_NAME, as Dataset501_Mine: rename this one before you use it."
        )
        events.emit("warning", message=words)


def _who_taught(arguments: argparse.Namespace, model: Any, dataset: Any, events: Events) -> list[tuple[str, bool]]:
    """Name of each labelled real case and whether the model has learned from its image.

    :raises InputError: the model does not say what it learned from, or none of these cases taught it.
    """
    from ..synthesis.membership import membership
    from ..volumes.pipeline import load_working_cases

    found = []
    with events.bar("reading real cases") as show:
        for case in load_working_cases(dataset, model.plan, show):  # one by one: a large data set would not fit
            members = membership(model.about, [case])
            if not members.known:
                raise InputError(
                    f"{arguments.model} does not say which cases it was trained on, so none can be validated on.",
                    "Train the model with this version, or leave --with-real out.",
                )
            found.append((case.name, bool(members.trained), case.labels is not None))
    if not any(trained for _, trained, _ in found):
        print(
            f"Note: none of the {len(found)} cases in {arguments.with_real} taught the model. If they are scans of its "
            "training patients that were processed otherwise, the validation will look too good."
        )
    return [(name, trained) for name, trained, labelled in found if labelled]


def _real_cases(dataset: Any, plan: Any, subset: Any):
    """Labelled real cases as they are in their files, with the labels numbered as in the export."""
    from dataclasses import replace

    from ..volumes.labels import LabelTable
    from ..volumes.pipeline import load_case

    table = LabelTable(dataset)
    known = {label.name for label in plan.labels}
    for files in dataset.cases:
        if files.label is None:
            continue
        case = load_case(files, dataset, tuple(plan.labels), table, known)
        if case.labels is not None:
            yield replace(case, labels=subset.numbers[case.labels], label_table=subset.table)
