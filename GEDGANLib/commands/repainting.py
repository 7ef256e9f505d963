"""What `train` does before its first step where a plan repaints aligned cases: it aligns them, or goes on in the folder
of an alignment, and gives the training what that knows of their anatomy."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..alignment.runs import MODEL, REQUEST, RESULT, STATISTICAL, read_request
from ..errors import InputError
from ..jobs.checkpoint import checkpoints
from ..jobs.events import Events, Progress, quiet
from ..jobs.writing import write_bytes
from .aligned_cases import Wanted, align_in
from .scans import without_cases


def holds_alignment(run: Path) -> bool:
    """Whether a folder is that of an alignment alone, in which a training can go on."""
    trained = (run / "run.json").exists() or all((run / name).exists() for name in (MODEL, STATISTICAL))
    return (run / RESULT).exists() and not trained and not checkpoints(run)


def plan_and_data_of_alignment(arguments: argparse.Namespace, device: str) -> tuple[Any, Any]:
    """Plan and scans of a training that goes on in the folder of an alignment.

    :raises InputError: something was asked for that the alignment has decided; its scans lie on the template of others,
        or it is of volumes that are trained on in parts.
    """
    from ..volumes.dataset import find_dataset

    run = arguments.output
    asked = read_request(run / REQUEST)
    given = arguments.plan or arguments.grid or arguments.spacing or arguments.method or arguments.start_from
    given = given or arguments.channels or arguments.structures or arguments.one_structure
    if given or arguments.alignment == "none" or arguments.class_column not in (None, asked["class_column"]):
        raise InputError(
            f"{run} holds an alignment, and a training there goes on with the plan of it.",
            "Leave the other options out, or train in a new folder.",
        )
    if not ((run / MODEL).exists() or (run / STATISTICAL).exists()):
        raise InputError(
            f"The alignment in {run} has no model (its scans may be too few, or the same).",
            "Train in a new folder with --alignment none.",
        )
    plan = _plan_of_alignment(run, asked["onto"], device, arguments.alignment == "template")
    if arguments.for_sharing:
        from ..planning.repainting import for_sharing

        labelled, plan = bool(plan.labels), for_sharing(plan)
        if labelled and not plan.labels:
            raise InputError(
                f"Too few scans of {run} are segmented to share what segmentations look like.",
                "Train in a new folder; the model then makes images alone.",
            )
    dataset = find_dataset(arguments.data, asked["class_column"])
    return plan, without_cases(dataset, asked["left_out"])


def _plan_of_alignment(run: Path, onto: str | None, device: str, whatever_it_is_worth: bool) -> Any:
    from ..planning.aligning import as_asked
    from ..planning.plan import Plan
    from ..planning.repainting import for_device, repainted

    if onto is not None:
        raise InputError(
            f"The scans of {run} were brought onto the template of {onto}, and have no eigen-directions of their own.",
            "Train in a new folder: the scans are aligned to a template of their own first.",
        )
    plan = Plan.load(run / "plan.json")
    if plan.training.volume == "parts":
        raise InputError(
            f"A training cannot go on in {run}: its volumes are so large that a generator learns them in parts.",
            "Train in a new folder, or align with larger voxels (--spacing).",
        )
    if not plan.repaints and plan.alignment.kind == "none" and not whatever_it_is_worth:
        raise InputError(
            f"The alignment in {run} was found to mean little: the same place is not the same anatomy in its scans.",
            "Train in a new folder with --alignment none, or in this one with --alignment template all the same.",
        )
    if plan.repaints and not plan.statistical.relative:  # of an earlier GED-GAN, and nothing was trained by it
        plan = repainted(plan, device)
    return for_device(plan if plan.repaints else as_asked(plan), device)


def claim_alignment(run: Path, cases: Sequence[Any]) -> None:
    """Let the statistical model of a folder make room for the one that is going to be trained there.

    :raises InputError: the data are not those that were aligned there.
    """
    from ..training.request import digests_of, what_changed

    if changes := what_changed(read_request(run / REQUEST)["cases"], digests_of(cases)):
        raise InputError(
            f"The data are not those that were aligned in {run}: {changes}.",
            "Give the same data, or train in a new folder.",
        )
    for name in (MODEL, DIRECTIONS):
        here, there = run / name, run / name.replace("model", "modes", 1)
        if here.exists() and not there.exists():
            os.replace(here, there)


RESIDUALS = "residuals.safetensors"
"""Noise that the statistical cases of a run lack, see ``synthesis.residuals``."""
DIRECTIONS = MODEL.replace(".safetensors", ".directions.json")


def aligned_plan(
    run: Path, plan: Any, cases: Sequence[Any], arguments: argparse.Namespace, device: str, events: Events
) -> tuple[Any, Any]:
    """Align the cases of a training, unless that is done, and return its plan with the grids of what was found, and the
    modes that it repaints.

    The folder holds a run before that begins, so that a training that is killed meanwhile can be gone on with.

    :param run: held by this process.
    :raises StoppedOnRequest: all is kept, and it goes on from there.
    """
    from ..alignment.job import device_that_aligns, registration_shape
    from ..training.request import Limit, Request, digests_of, forget_old_stop, what_changed

    data, digests = str(arguments.data.resolve()), digests_of(cases)
    begun = read_request(run / REQUEST) if (run / REQUEST).exists() else None
    if begun is not None and not (run / RESULT).exists() and (changes := what_changed(begun["cases"], digests)):
        raise InputError(
            f"The data are not those whose alignment was begun in {run}: {changes}.",
            "Give the same data to resume, or train in a new folder.",
        )
    if arguments.resume:
        forget_old_stop(run, arguments.begun)
    else:
        limit = Limit(arguments.steps, arguments.minutes)
        limit = Limit(minutes=60.0) if limit == Limit() else limit
        Request(data, digests, arguments.seed or 0, limit, device).save(run)
    if not (run / RESULT).exists():
        device = device_that_aligns(device)
        asked = begun
        if asked is None:
            shape = registration_shape(plan.grid.shape, plan.extent, device)
            asked = {
                "data": data, "onto": None, "left_out": [], "class_column": plan.data.get("class_column"),
                "device": device, "shape": shape, "cases": digests, "for_sharing": False,
            }  # fmt: skip
            write_bytes(run / REQUEST, json.dumps(asked, indent=1).encode("utf-8"))
        align_in(run, cases, plan, Wanted(arguments.data, asked, device, model=STATISTICAL), events)
    with events.bar("finding the directions of anatomy") as show:
        basis = _basis(run, plan, show)
    found = _with_gains(_with_grids(plan, basis), basis, cases)
    if plan.labels and not found.labels:
        if plan.statistical.shared:  # in a plan that somebody edited
            raise InputError(
                f"Too few scans are segmented for {run / 'plan.json'} to be of labels and for sharing.",
                "Train in a new folder with --for-sharing.",
            )
        events.emit("warning", message="No scan that is learned from is segmented: the model makes images alone.")
    found.save(run / "plan.json")
    if arguments.resume and checkpoints(run) and "judged" not in _kept_residuals(run):
        raise InputError(
            f"{run} was begun by an earlier GED-GAN, whose refiner was another.",
            "Train in a new folder, or in one with a copy of the alignment.",
        )
    _write_residuals(run, found, basis, cases, events)
    return found, basis


def _basis(run: Path, plan: Any, show: Progress = quiet) -> Any:
    """The modes that a plan repaints, of the alignment in a run.

    :raises InputError: it has no model, or too few cases for one that is to be shared.
    """
    from ..synthesis.basis import basis_of
    from ..synthesis.model_file import load_model

    if not (run / STATISTICAL).exists():
        raise InputError(
            f"{run / STATISTICAL} is not there, without which a training cannot go on.",
            "Train in a new folder; with --alignment none where the scans are too few to be aligned.",
        )
    try:
        return basis_of(load_model(run / STATISTICAL, "cpu", with_population=True), plan, show)
    except InputError as error:
        if not plan.statistical.shared:
            raise
        hint = f"{error.hint} To train one that stays here: statistical.shared false in {run / 'plan.json'}, --resume."
        raise InputError(error.message, hint) from error


def _write_residuals(run: Path, plan: Any, basis: Any, cases: Sequence[Any], events: Events) -> None:
    """Measure what the modes of a run lack of its cases, unless that is known for such a plan.

    :raises InputError: a case that the model was made of is not there.
    """
    import torch
    from safetensors.torch import save

    levels, modes = len(plan.networks.generator_widths), plan.statistical.modes
    known = _kept_residuals(run)
    if "judged" in known and (known["amplitudes"].shape[1], int(known["modes"])) == (levels, modes):
        return
    from ..synthesis.residuals import residuals_of

    with events.bar("measuring what the modes leave over") as show:
        found = residuals_of(basis, plan, cases, show)
    write_bytes(run / RESIDUALS, save({**found._asdict(), "modes": torch.tensor(modes)}))


def _kept_residuals(run: Path) -> dict[str, Any]:
    """What was measured before, as tensors by their names; nothing where that was not done."""
    from safetensors.torch import load_file

    return load_file(run / RESIDUALS) if (run / RESIDUALS).exists() else {}


def _with_grids(plan: Any, basis: Any) -> Any:
    """The plan with the grids of the modes that it repaints, and their number."""
    from ..planning.choosing import predicted

    modes = len(basis.generator.generators)
    rest = plan.networks.latent_size - plan.statistical.modes
    plan = replace(
        plan,
        labels=basis.plan.labels,
        statistical=plan.statistical.on_grids_of(basis.plan.statistical, modes),
        networks=replace(plan.networks, latent_size=modes + rest),
    )
    return predicted(plan, plan.prediction.device)


def _with_gains(plan: Any, basis: Any, cases: Sequence[Any]) -> Any:
    """The plan with the filter of what its judge sees, measured unless it is there."""
    if not plan.statistical.whitened or plan.statistical.gains:
        return plan
    from ..synthesis.residuals import measure_gains

    return replace(plan, statistical=replace(plan.statistical, gains=measure_gains(basis, cases)))


def anatomy_of(run: Path, plan: Any, basis: Any = None) -> tuple[Any, Callable[..., None]]:
    """What the alignment of a run knows, with as many modes as the plan says (see ``training.trainer.Anatomy``); and
    what writes a model that was trained with it, columns of its cases included.

    :param basis: of :func:`aligned_plan`; made anew where this process did not align.
    """
    from ..alignment.job import Aligned
    from ..synthesis.model_file import save_model
    from ..synthesis.residuals import Residuals
    from ..training.anatomy import Anatomy

    basis = basis or _basis(run, plan)

    def save(path: Path, generator: Any, plan: Any, about: dict[str, Any], critic: Any = None) -> None:
        save_model(path, generator, plan, {**about, **basis.about}, critic)

    aligned = Aligned.load(run / RESULT)
    kept = _kept_residuals(run)
    residuals = Residuals(*(kept[name] for name in Residuals._fields))
    return Anatomy(basis.generator, aligned.template.seen, aligned.held_out, residuals, basis.scores), save
