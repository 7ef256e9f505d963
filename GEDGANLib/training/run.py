"""One training from its data to its model file: the run folder, the clock, previews, checkpoints, stopping.

A run folder holds ``plan.json``, ``run.json`` (what was asked for, and of which data), ``log.jsonl``, ``losses.png``,
``preview.png``, the last two ``checkpoint-*`` folders and, at the end, ``model.safetensors``. A file ``STOP`` in it
ends the run at the next step, with everything saved.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError, StoppedOnRequest
from ..jobs import stop_on_signals
from ..plan import Plan
from ..volumes.case import Case
from ..volumes.pictures import contact_sheet, save_figure
from ..volumes.pipeline import WorkingCase
from ..volumes.writing import claim_empty_folder, explain_unwritable, probe, sole_owner, write_bytes

Emit = Callable[..., None]
"""Called with the kind of an event and its fields, see ``jobs``."""

MODEL = "model.safetensors"
LOG = "log.jsonl"
CHECKPOINT_SECONDS = 120.0
PREVIEW_SECONDS = 60.0
PROGRESS_SECONDS = 1.0
PREVIEW_CASES = 4


@dataclass(frozen=True)
class Limit:
    """When a training ends: after so many steps or so many minutes, whichever is given."""

    steps: int | None = None
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is done, in [0, 1]."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        return min(seconds / (60 * self.minutes), 1.0)

    def seconds_left(self, step: int, seconds: float) -> float | None:
        """Expected seconds to the end; None before the first step."""
        if self.steps is None:
            return max(60 * self.minutes - seconds, 0.0)
        return (self.steps - step) * seconds / step if step else None


def claim_run_folder(run: Path, resume: bool) -> None:
    """Make sure that a training may write into ``run``, and create it.

    :raises InputError: it holds another run or other files, or cannot be written.
    """
    if not resume:
        if (run / "run.json").exists():
            raise InputError(f"{run} already holds another run.", "Give a new folder, or continue it with --resume.")
        claim_empty_folder(run)
        return
    if not (run / "run.json").exists():
        raise InputError(f"{run} holds no run that could be resumed.", "Train without --resume.")
    try:
        probe(run)
    except OSError as error:
        raise explain_unwritable(run, error) from error


@dataclass(frozen=True)
class Request:
    """What a training was asked for, as ``run.json`` keeps it.

    :param data: where the cases came from.
    :param cases: how many they are.
    :param fingerprint: of all their voxels on the working grid, see :func:`fingerprint_of`.
    """

    data: str
    cases: int
    fingerprint: str
    seed: int
    limit: Limit
    device: str
    version: str = __version__

    def save(self, run: Path) -> None:
        write_bytes(run / "run.json", json.dumps(asdict(self), indent=1).encode("utf-8"))

    @classmethod
    def load(cls, run: Path) -> Request:
        """Read ``run.json``.

        :raises InputError: it is damaged.
        """
        try:
            values = json.loads((run / "run.json").read_text(encoding="utf-8"))
            return cls(**{**values, "limit": Limit(**values["limit"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{run / 'run.json'} cannot be read.", "Train in a new folder.") from error


def fingerprint_of(cases: Sequence[WorkingCase]) -> str:
    """A short text that changes with any voxel of any case, and with their order."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(case.name.encode("utf-8"))
        digest.update(np.ascontiguousarray(case.image))
        digest.update(b"" if case.labels is None else np.ascontiguousarray(case.labels))
    return digest.hexdigest()[:16]


def train(
    plan: Plan,
    cases: Sequence[WorkingCase],
    run: Path,
    limit: Limit | None,
    device: str,
    seed: int | None,
    emit: Emit,
    data: str = "",
    resume: bool = False,
) -> Path:
    """Train ``plan`` on ``cases`` and return the model file.

    :param run: claimed by :func:`claim_run_folder`.
    :param limit: None to resume with that of before.
    :param seed: None to resume; a run has one for all its life.
    :param data: where the cases came from, for ``run.json``.
    :raises InputError: the disk is full, the losses are no longer numbers, another process works in ``run``, or what
        is to be resumed had other cases or another seed.
    :raises StoppedOnRequest: STOP file, keyboard or SIGTERM; model and checkpoint are saved.
    """
    fingerprint = fingerprint_of(cases)
    with sole_owner(run):
        if resume:
            before = Request.load(run)
            _refuse_other(before, run, len(cases), fingerprint, seed)
            request = replace(before, limit=limit or before.limit, device=device, data=data or before.data)
        else:
            request = Request(data, len(cases), fingerprint, seed, limit, device)
            plan.save(run / "plan.json")
        return _Run(plan, cases, run, request, emit).train(resume)


def _refuse_other(before: Request, run: Path, cases: int, fingerprint: str, seed: int | None) -> None:
    if before.fingerprint != fingerprint:
        what = f"{cases} cases instead of {before.cases}" if cases != before.cases else "other voxels or another order"
        raise InputError(
            f"The data are not those that {run} was started with ({before.data or 'unnamed'}): {what}.",
            "Give the same data to resume, or train in a new folder.",
        )
    if seed is not None and seed != before.seed:
        raise InputError(f"{run} was started with seed {before.seed}, not {seed}.", "Resume without --seed.")


class _Run:
    """A training in its folder: the clock, the log, previews and checkpoints around :class:`Trainer`."""

    def __init__(self, plan: Plan, cases: Sequence[WorkingCase], run: Path, request: Request, emit: Emit) -> None:
        self.plan, self.cases, self.run, self.request, self.emit = plan, cases, run, request, emit
        self.history: list[dict[str, Any]] = []
        self.seconds_before = 0.0
        self.start = time.monotonic()

    def seconds(self) -> float:
        """Seconds of training so far, those before a resumption included."""
        return self.seconds_before + time.monotonic() - self.start

    def progress(self) -> float:
        return self.request.limit.progress(self.trainer.step_count, self.seconds())

    def train(self, resume: bool) -> Path:
        from .checkpoint import checkpoints, load_checkpoint, remove_after
        from .trainer import Trainer

        # A run that was killed before its first checkpoint begins anew, as the same seed makes it.
        resume = resume and bool(checkpoints(self.run))
        tensors, state = load_checkpoint(self.run) if resume else ({}, {"step": 0, "seconds": 0.0})
        remove_after(self.run, state["step"])
        self.seconds_before = state["seconds"]
        limit, device, seed = self.request.limit, self.request.device, self.request.seed
        # A run without its model was interrupted while it was being written: then only that is left to do.
        if limit.progress(state["step"], self.seconds_before) >= 1 and (self.run / MODEL).exists():
            raise InputError(
                f"{self.run} is at step {state['step']} already, after {self.seconds_before / 60:.1f} minutes.",
                "Give more --steps or --minutes than that to go on.",
            )
        self.request.save(self.run)
        stop = self.run / "STOP"
        stop.unlink(missing_ok=True)
        about = {"device": device, "seed": seed, "step": state["step"], "total": limit.steps}
        self.emit("started", run=str(self.run), cases=len(self.cases), **about)
        self.trainer = Trainer(self.plan, self.cases, device, seed)
        if resume:
            try:
                self.trainer.load_state(tensors, state["step"])
            except (KeyError, RuntimeError) as error:
                text = f"The checkpoint in {self.run} belongs to another plan."
                raise InputError(text, "Train in a new folder.") from error
        self.start = time.monotonic()
        try:
            self.history = _read_history(self.run, state["step"])
            lines = "".join(json.dumps(line) + "\n" for line in self.history)
            write_bytes(self.run / LOG, lines.encode("utf-8"))
            # Saving at the end is guarded too: a signal that comes then must not tear it.
            with stop_on_signals(lambda: self.emit("warning", message="Stopping after this step.")) as signalled:
                stopped = self._steps(lambda: signalled() or stop.exists())
                stop.unlink(missing_ok=True)
                self._write_checkpoint()
                model = self._finish()
        except OSError as error:
            raise explain_unwritable(self.run / LOG, error) from error
        if stopped:
            raise StoppedOnRequest(f"Stopped at step {self.trainer.step_count}; the model so far is {model}.")
        self.emit("finished", model=str(model), step=self.trainer.step_count, seconds=round(self.seconds(), 1))
        return model

    def _steps(self, asked_to_stop: Callable[[], bool]) -> bool:
        """Train to the limit, or until asked to stop; returns whether that happened."""
        last = {"checkpoint": self.start, "preview": self.start, "progress": 0.0}
        while self.progress() < 1:
            if asked_to_stop():
                return True
            self.trainer.set_progress(self.progress())
            figures = self.trainer.step()
            if not figures.finite():
                raise InputError(
                    f"The training left the numbers at step {self.trainer.step_count}: a loss is not finite.",
                    f"Halve learning_rate in {self.run / 'plan.json'} and train with it in a new folder, or resume "
                    "from the last checkpoint with it.",
                )
            now = time.monotonic()
            if now - last["progress"] >= PROGRESS_SECONDS or self.progress() >= 1:
                last["progress"] = now
                self._log(figures)
            if now - last["preview"] >= PREVIEW_SECONDS:
                self._write_preview()
                self.emit("preview", path=str(self.run / "preview.png"), step=self.trainer.step_count)
                last["preview"] = time.monotonic()
            if now - last["checkpoint"] >= CHECKPOINT_SECONDS:
                self._write_checkpoint()
                last["checkpoint"] = time.monotonic()
        return False

    def _log(self, figures: Any) -> None:
        step, limit = self.trainer.step_count, self.request.limit
        line = _progress(step, limit, self.seconds(), figures, self.plan.training.batch)
        self.history.append(line)
        with open(self.run / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self.emit("progress", **line)

    def _write_checkpoint(self) -> None:
        from .checkpoint import save_checkpoint

        state = {"seconds": self.seconds(), "seed": self.request.seed}
        folder = save_checkpoint(self.run, self.trainer.step_count, self.trainer.state(), state)
        self.emit("checkpoint", path=str(folder), step=self.trainer.step_count)

    def _finish(self) -> Path:
        from ..synthesis.model_file import save_model

        self._write_preview()
        about = {
            "description": self.plan.description,
            "cases": len(self.cases),
            "steps": self.trainer.step_count,
            "seconds": round(self.seconds()),
            "seed": self.request.seed,
            "device": self.request.device,
        }
        save_model(self.run / MODEL, self.trainer.average, self.plan, about, self.trainer.critic())
        return self.run / MODEL

    def _write_preview(self) -> None:
        import torch

        plan, count = self.plan, len(self.plan.channels)
        shape = (PREVIEW_CASES, plan.networks.latent_size)
        latents = torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
        with torch.inference_mode():
            outputs = self.trainer.average(latents.to(self.trainer.device)).cpu().numpy()
        made = [
            Case(
                f"preview_{index}",
                output[:count],
                output[count:].argmax(0).astype(np.uint8) if plan.labels else None,
                plan.grid.affine,
                tuple(plan.labels),
            )
            for index, output in enumerate(outputs)
        ]
        first = self.cases[:PREVIEW_CASES]
        real = [Case(case.name, case.image, case.labels, case.affine, tuple(plan.labels)) for case in first]
        title = f"training cases and synthesized ones after {self.trainer.step_count} steps"
        contact_sheet(self.run / "preview.png", [("training", real), ("synthesized", made)], title)
        plot_losses(self.run / "losses.png", self.history)


def _progress(step: int, limit: Limit, seconds: float, figures, batch: int) -> dict[str, Any]:
    left = limit.seconds_left(step, seconds)
    return {
        "step": step,
        "total": limit.steps,
        "progress": round(limit.progress(step, seconds), 4),
        "seconds": round(seconds, 1),
        "seconds_left": None if left is None else round(left, 1),
        "cases_seen": step * batch,
        "losses": {name: float(f"{value:.4g}") for name, value in vars(figures).items()},
        "memory_gb": _memory_gb(),
    }


def _memory_gb() -> float | None:
    """Peak memory of this process so far, GB; None where the system does not tell."""
    try:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)
    except ImportError:
        return None


def plot_losses(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Plot the losses of both players, the gap between them and the penalty over the steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), facecolor="white", layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    steps = [line["step"] for line in history]
    for name, words in (("discriminator_loss", "discriminator"), ("generator_loss", "generator")):
        upper.plot(steps, [line["losses"][name] for line in history], label=words, linewidth=1)
    upper.axhline(np.log(2), color="grey", linewidth=0.6, linestyle=":", label="both even (log 2)")
    upper.set_ylabel("loss")
    upper.legend(fontsize=7)
    lower.plot(steps, [line["losses"]["gap"] for line in history], linewidth=1, label="D(real) - D(synthesized)")
    lower.set_ylabel("gap")
    twin = lower.twinx()
    twin.plot(steps, [line["losses"]["penalty"] for line in history], color="tab:green", linewidth=0.8)
    twin.set_ylabel("R1 + R2", color="tab:green")
    lower.set_xlabel("step")
    lower.legend(fontsize=7, loc="upper right")
    save_figure(figure, path)


def _read_history(run: Path, last_step: int) -> list[dict[str, Any]]:
    """The lines of the log up to ``last_step``; what came after the checkpoint is going to be trained again."""
    try:
        lines = (run / LOG).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    history = []
    for line in lines:
        try:
            history.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed
            continue
    return [line for line in history if line["step"] <= last_step]
