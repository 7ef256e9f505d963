"""What the commands of ``gedgan`` do that learn from data: check, plan, train.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..alignment.runs import REQUEST, read_request
from ..errors import InputError, StoppedOnRequest
from ..jobs.events import Events, JsonEvents
from .options import (
    DATA,
    a_model,
    a_path,
    a_seed,
    a_whole_number,
    above_zero,
    add_class_column,
    add_plan_options,
    three_of,
)  # fmt: skip
from .repainting import aligned_plan, anatomy_of, claim_alignment, holds_alignment, plan_and_data_of_alignment
from .scans import as_wished, print_fingerprint, refuse_unknown_structures, without_cases


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    check = kinds.add_parser("check", help="read every file of a data set once and say what is wrong")
    check.add_argument("data", type=a_path, metavar="DATA", help=DATA)
    add_class_column(check)
    check.set_defaults(run=run_check)

    plan = kinds.add_parser("plan", help="decide grid, intensities and networks; write a file to read and edit")
    plan.add_argument("data", type=a_path, metavar="DATA", help=DATA)
    plan.add_argument("-o", "--output", type=a_path, default=Path("plan.json"), help="default: plan.json")
    add_plan_options(plan)
    plan.set_defaults(run=run_plan)

    train = kinds.add_parser("train", help="train a model on a data set")
    train.add_argument("data", type=a_path, metavar="DATA", help=DATA)
    train.add_argument("-o", "--output", type=a_path, required=True, metavar="RUN", help="new folder for the run")
    train.add_argument("--plan", type=a_path, help="plan.json; made from the data when not given")
    add_plan_options(train)
    limit = train.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=above_zero(float), help="train so long (default: 60)")
    limit.add_argument("--steps", type=above_zero(int), help="train so many steps")
    train.add_argument("--seed", type=a_seed, help="of weights, latents and the order of cases (default: 0)")
    train.add_argument(
        "--resume", action="store_true", help="continue the run in RUN, to its own limit unless another is given"
    )
    train.add_argument(
        "--accept-changed-data", action="store_true", help="resume though cases were added, removed or changed"
    )
    train.add_argument(
        "--from", dest="start_from", type=a_model, metavar="MODEL", help="start from a model, as for few new scans"
    )
    train.add_argument(
        "--freeze",
        type=a_whole_number,
        default=0,
        metavar="N",
        help="with --from: keep the first N stages of the discriminator (default: 0)",
    )
    train.add_argument(
        "--workers",
        type=a_whole_number,
        default=1,
        metavar="N",
        help="threads that read cases ahead (default: 1; 0 for none)",
    )
    train.add_argument("--tensorboard", action="store_true", help="write RUN/tensorboard too")
    train.set_defaults(run=run_train)


def run_check(arguments: argparse.Namespace, events: Events) -> None:
    from ..volumes.dataset import find_dataset
    from ..volumes.fingerprint import check_dataset

    dataset = find_dataset(arguments.data, arguments.class_column)
    with events.bar("reading") as show:
        fingerprint = check_dataset(dataset, show)
    print_fingerprint(fingerprint, arguments.data)
    for warning in fingerprint.warnings:
        events.emit("warning", message=warning)


def _make_plan(arguments: argparse.Namespace, dataset, device: str, events: Events, processes: int = 1):
    """The plan for a data set as the options ask for it.

    :raises InputError: it cannot fit the memory of the device.
    """
    from ..planning.aligning import as_asked, with_alignment
    from ..planning.choosing import make_plan
    from ..planning.fitting import check_memory, fitted, with_fitting_batch
    from ..planning.repainting import for_sharing
    from ..volumes.dataset import as_planned

    spacing = three_of(arguments.spacing)
    fingerprint = _fingerprint(dataset, events)
    refuse_unknown_structures(dataset, fingerprint)
    plan = make_plan(fingerprint, device, arguments.grid, spacing, arguments.method or "ged")
    plan = _with_class_column(plan, arguments.class_column)
    dataset = as_planned(dataset, plan)
    if plan.method == "ged" and arguments.alignment == "template":
        plan = as_asked(plan)
    elif plan.method == "ged" and arguments.alignment != "none":
        with events.bar("seeing whether the scans can be aligned") as show:
            plan = with_alignment(plan, dataset, show)
    if arguments.for_sharing:
        plan = for_sharing(plan)
    if not plan.repaints:
        return fitted(plan, fingerprint, device, processes)
    plan = with_fitting_batch(plan, device, processes)
    if words := check_memory(plan, device, processes):
        events.emit("warning", message=words)
    return plan


def _fingerprint(dataset, events: Events):
    from ..volumes.fingerprint import check_dataset

    with events.bar("reading") as show:
        fingerprint = check_dataset(dataset, show)
    for warning in fingerprint.warnings:
        events.emit("warning", message=warning)
    return fingerprint


def _with_class_column(plan, column: str | None):
    """The plan with the column its classes came from, so that a training with it finds them again."""
    return replace(plan, data={**plan.data, "class_column": column}) if column is not None else plan


def run_plan(arguments: argparse.Namespace, events: Events) -> None:
    from ..device import choose_device
    from ..jobs.writing import claim_new_file
    from ..planning.fitting import worth_measuring
    from ..planning.words import NOTE
    from ..training.measuring import measured
    from ..volumes.dataset import find_dataset
    from ..volumes.prepared import prepared_bytes

    claim_new_file(arguments.output, ".json")
    device = choose_device(arguments.device)
    dataset = as_wished(find_dataset(arguments.data, arguments.class_column), arguments)
    plan = _make_plan(arguments, dataset, device, events)
    how = "as predicted, since a step takes so long"
    if worth_measuring(plan):
        with events.bar("measuring a few steps") as show:
            plan = measured(plan, device, show)
        how = "as a few steps took here"
    plan.save(arguments.output)
    print(f"{arguments.output} is written. What it decides:")
    for reason in plan.reasons:
        if not reason.startswith(NOTE):
            print(f"  - {reason}")
    for reason in plan.reasons:
        if reason.startswith(NOTE):
            events.emit("warning", message=reason.removeprefix(NOTE))
    print(
        f"  - Expected on {device}: {plan.prediction.memory_gb:g} GB of memory and "
        f"{plan.prediction.minutes_per_1000_steps:g} minutes for 1000 steps, {how}; and "
        f"{prepared_bytes(plan, plan.data['cases']) / 1e9:.2g} GB on the disk of the run."
    )


def run_train(arguments: argparse.Namespace, events: Events) -> None:
    from ..device import choose_device
    from ..training.team import Team

    _refuse_contradictions(arguments)
    team = Team.join(choose_device(arguments.device))
    try:
        with team.contact(arguments.output):
            _train(arguments, events, team)
    finally:
        team.leave()


def _train(arguments: argparse.Namespace, events: Events, team) -> None:
    from contextlib import ExitStack

    from ..device import choose_device
    from ..jobs.writing import sole_owner
    from ..planning.plan import Plan
    from ..synthesis.model_file import save_model
    from ..training.request import PREPARED, Limit
    from ..training.run import Options, train
    from ..volumes.prepared import PreparedCases

    run, device = arguments.output, choose_device(arguments.device)
    with ExitStack() as held, _telling_how_to_go_on(arguments, events):
        if team.leads:
            # Held before anything in it is touched: another training may be at work there.
            plan, cases, basis = _prepare(arguments, device, events, team, lambda: held.enter_context(sole_owner(run)))
        # The others wait for the plan and the prepared cases, which the first process has written.
        team.wait()
        if not team.leads:
            plan, cases, basis = Plan.load(run / "plan.json"), PreparedCases(run / PREPARED), None
        limit, seed = Limit(arguments.steps, arguments.minutes), arguments.seed
        if limit == Limit():
            limit = None if arguments.resume else Limit(minutes=60.0)
        if seed is None and not arguments.resume:
            seed = 0
        weights, taught = _what_to_start_from(plan, run)
        anatomy, save = anatomy_of(run, plan, basis) if plan.repaints else (None, save_model)
        options = Options(
            team=team,
            workers=arguments.workers,
            changes_accepted=arguments.accept_changed_data,
            tensorboard=arguments.tensorboard,
            start_from=weights,
            taught=taught,
            anatomy=anatomy,
            owns_folder=team.leads,
            begun=arguments.begun,
        )
        data = str(arguments.data.resolve())
        if limit is not None and limit.minutes is not None and not arguments.resume:
            _tell_few_steps(plan, limit.minutes, device, events)
        model = train(plan, cases, run, limit, device, seed, events.emit, save, data, arguments.resume, options)
    if team.leads and not isinstance(events, JsonEvents):
        print(f"The model is {model}. Training and synthesized cases: {run / 'preview.png'}")
        print(f"Try: gedgan synthesize {shlex.quote(str(model))} -n 8 -o OUT --scene OUT/scene.mrb")


@contextmanager
def _telling_how_to_go_on(arguments: argparse.Namespace, events: Events) -> Iterator[None]:
    """Add to the words of a stop the command that goes on, in a terminal."""
    try:
        yield
    except (StoppedOnRequest, KeyboardInterrupt) as stop:
        if isinstance(events, JsonEvents) or not (arguments.output / "run.json").exists():
            raise
        again = f"gedgan train {shlex.quote(str(arguments.data))} -o {shlex.quote(str(arguments.output))} --resume"
        raise StoppedOnRequest(f"{str(stop) or 'Stopped.'} Go on: {again}") from stop


def _tell_few_steps(plan, minutes: float, device: str, events: Events) -> None:
    """Warn before hours are spent on fewer steps than teach anything."""
    from ..planning.choosing import steps_in
    from ..training.monitor import FROM_STEP

    steps = steps_in(plan, minutes, device)
    started = plan.data.get("started_from") is not None  # from a model whose cases differ already
    if steps < FROM_STEP and not started and not plan.repaints:
        words = f"{minutes:g} minutes are about {steps:.0f} steps; cases begin to differ after some hundreds."
        events.emit("warning", message=f"{words} Train longer, or with larger voxels.")


def _prepare(arguments: argparse.Namespace, device: str, events: Events, team, hold: Callable[[], Any]) -> tuple:
    """Plan, cases on its grid, and modes to repaint; the run folder is claimed and held, and has the plan in it.

    :raises InputError: whatever is wrong with data, plan, model or folder; a folder that was made for it is gone again.
    """
    import shutil

    from ..planning.checking import refuse_untrainable
    from ..planning.choosing import steps_in
    from ..planning.fitting import check_memory, with_fitting_batch
    from ..planning.plan import Plan
    from ..planning.repainting import for_steps
    from ..training.request import PREPARED, Request, claim_run_folder
    from ..volumes.dataset import as_planned, find_dataset
    from ..volumes.prepared import prepare_cases

    run = arguments.output
    goes_on = not arguments.resume and holds_alignment(run)
    if arguments.resume:
        claim_run_folder(run, resume=True)
        hold()
    elif not goes_on:
        _refuse_taken(run)
    plan_path = run / "plan.json" if arguments.resume else arguments.plan
    if goes_on:
        plan, dataset = plan_and_data_of_alignment(arguments, device)
        plan = with_fitting_batch(plan, device, team.size)
    elif plan_path is not None:
        plan = Plan.load(plan_path)
        refuse_untrainable(plan, str(plan_path))
        column = arguments.class_column or plan.data.get("class_column")
        dataset = find_dataset(arguments.data, column)
        if arguments.resume and (run / REQUEST).exists():  # as its alignment left them out
            dataset = without_cases(dataset, read_request(run / REQUEST)["left_out"])
        if plan.classes and not any(case.class_name in plan.classes for case in dataset.cases):
            raise InputError(
                f"The plan has the classes {', '.join(plan.classes)}, and no case of {arguments.data} is of one.",
                "Give the folder that the plan was made for, or name the column that tells them with --class-column.",
            )
    else:
        dataset = as_wished(find_dataset(arguments.data, arguments.class_column), arguments)
        if arguments.start_from is not None:
            plan, dataset = _plan_from_model(arguments, dataset, device, events, team.size)
        else:
            plan = _make_plan(arguments, dataset, device, events, team.size)
    if not arguments.resume:
        plan = for_steps(plan, arguments.steps or steps_in(plan, arguments.minutes or 60.0, device))
    dataset = as_planned(dataset, plan)
    team.part(plan.training.batch)
    # What runs on this kind of device already need not be asked whether it fits.
    asked = (plan_path is not None or goes_on) and not (arguments.resume and Request.load(run).device == device)
    if asked and (words := check_memory(plan, device, team.size)):
        events.emit("warning", message=words)
    if len(dataset.cases) - plan.training.held_out < 2:
        raise InputError(
            f"{arguments.data} holds {len(dataset.cases)} case(s), of which {plan.training.held_out} are to be held "
            "out; learning needs at least 2.",
            "Add more scans.",
        )
    existed, basis = run.exists(), None
    if not (arguments.resume or goes_on):
        claim_run_folder(run, resume=False)
    if not arguments.resume:
        hold()
    try:
        with events.bar("bringing the cases to one grid") as show:
            cases = prepare_cases(dataset, plan, run / PREPARED, show)
        if goes_on:
            claim_alignment(run, cases)
        if not arguments.resume:
            plan.save(run / "plan.json")
        if plan.repaints:
            plan, basis = aligned_plan(run, plan, cases, arguments, device, events)
    except (InputError, KeyboardInterrupt):
        if not arguments.resume and not existed and not (run / "run.json").exists():
            shutil.rmtree(run, ignore_errors=True)
        raise
    return plan, cases, basis


def _what_to_start_from(plan, run: Path) -> tuple[dict[str, dict], Sequence[str] | None]:
    """Weights of the model that a run starts from, and who taught it, see ``Request.taught``; nothing where there is
    none, or a checkpoint to go on from."""
    from ..jobs.checkpoint import checkpoints
    from ..synthesis.model_file import load_model

    source = plan.data.get("started_from")
    if source is None or checkpoints(run):
        return {}, ()
    model = load_model(Path(source), "cpu", with_critic=True)
    learns = model.generator.refiner if model.plan.repaints else model.generator
    weights = {"generator": learns.state_dict()}
    if model.critic is None and plan.training.frozen_stages:
        raise InputError(f"{source} was passed on without a discriminator to freeze stages of.", "Leave --freeze out.")
    if model.critic is not None:
        weights["discriminator"] = model.critic.discriminator.state_dict()
    return weights, model.about.get("trained_images")


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    from importlib.util import find_spec

    if arguments.tensorboard and find_spec("tensorboard") is None:
        from ..training.log import no_tensorboard

        raise no_tensorboard()
    if arguments.resume and arguments.plan is not None:
        raise InputError("--resume goes on with the plan of its run.", "Leave --plan out, or train in a new folder.")
    if arguments.start_from is not None and (arguments.resume or arguments.plan is not None):
        raise InputError(
            "--from starts a new run with the plan of its model.", "Leave --resume and --plan out, or leave --from out."
        )
    if arguments.freeze and arguments.start_from is None:
        raise InputError("--freeze keeps weights of a model, and none is given.", "Add --from MODEL.")
    given = arguments.plan is not None or arguments.resume or arguments.start_from is not None
    asked = arguments.grid or arguments.spacing or arguments.method or arguments.alignment
    asked = asked or arguments.channels or arguments.structures or arguments.one_structure or arguments.for_sharing
    if given and asked:
        words = "--grid, --spacing, --channels, --method, --for-sharing and the like make a plan, but one is given."
        raise InputError(words, "Edit the plan instead.")


def _plan_from_model(arguments: argparse.Namespace, dataset, device: str, events: Events, processes: int):
    from ..planning.fine_tuning import plan_from_model
    from ..planning.fitting import fitted
    from ..synthesis.model_file import load_model
    from ..volumes.dataset import as_planned

    source = arguments.start_from.resolve()
    model = load_model(source)
    dataset = as_planned(dataset, model.plan)
    fingerprint = _fingerprint(dataset, events)
    plan = plan_from_model(model.plan, fingerprint, device, arguments.freeze, str(source))
    return _with_class_column(fitted(plan, fingerprint, device, processes), arguments.class_column), dataset


def _refuse_taken(run: Path) -> None:
    """Say at once that the folder is taken, before minutes of reading."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        from ..training.request import claim_run_folder

        claim_run_folder(run, resume=False)
