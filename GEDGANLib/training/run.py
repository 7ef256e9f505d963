"""One training from its data to its model file: the run folder, the clock, previews, checkpoints, stopping.

A run folder holds ``plan.json``, ``run.json`` (what was asked for, and of which data), ``log.jsonl``, ``losses.png``,
``preview.png``, the last two ``checkpoint-*`` folders and, at the end, ``model.safetensors``. A file ``STOP`` in it
ends the run at the next step, with everything saved. Losses that are no longer numbers send it back to its last
checkpoint with a smaller step, a few times.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, StoppedOnRequest
from ..jobs.events import SilentEvents, stop_on_signals
from ..jobs.writing import explain_unwritable, sole_owner, write_bytes
from ..planning.plan import Plan
from ..volumes.pipeline import WorkingCase
from .log import LOG, Board, plot_losses, progress_line, read_history
from .request import STOP, Request, digests_of, forget_old_stop, image_digest, refuse_other

if TYPE_CHECKING:
    from .figures import StepFigures
    from .request import Limit
    from .team import Team

Emit = Callable[..., None]
"""Called with the kind of an event and its fields, see ``jobs``."""
SaveModel = Callable[..., None]
"""Called with path, generator, plan, what is known of the training, and the discriminator as a critic or None."""

MODEL = "model.safetensors"
CHECKPOINT_SECONDS = 120.0
PREVIEW_SECONDS = 60.0
PROGRESS_SECONDS = 1.0
STEPS_LATE = {"cuda": 2}
"""Steps after which the figures of one are looked at, so that nobody waits for a GPU."""
ROLLBACKS, SMALLER = 3, 0.5
"""How often a training that left the numbers goes back, and what is left of its learning rate each time."""


@dataclass(frozen=True)
class Options:
    """What a training can be asked for besides its plan, data and limit; none of it changes what is learned.

    :param team: the processes that share the work; one alone when not given.
    :param workers: threads that read cases ahead.
    :param changes_accepted: resume though the data are not those of before.
    :param tensorboard: write ``RUN/tensorboard`` too.
    :param start_from: state of ``generator`` and, if the model has one, ``discriminator``, to start a new run from.
    :param taught: cases that the model to start from was taught by, see ``Request.taught``.
    :param anatomy: what an alignment knows of the cases, where the plan repaints it: a ``trainer.Anatomy``.
    :param owns_folder: the caller holds the run folder already, see ``jobs.writing.sole_owner``.
    :param begun: when the training was asked for, in seconds of the epoch: a STOP file of before is not meant for it.
    """

    team: Team | None = None
    workers: int = 1
    changes_accepted: bool = False
    tensorboard: bool = False
    start_from: dict[str, dict] = field(default_factory=dict)
    taught: Sequence[str] | None = ()
    anatomy: Any = None
    owns_folder: bool = False
    begun: float = field(default_factory=time.time)


def train(
    plan: Plan,
    cases: Sequence[WorkingCase],
    run: Path,
    limit: Limit | None,
    device: str,
    seed: int | None,
    emit: Emit,
    save_model: SaveModel,
    data: str = "",
    resume: bool = False,
    options: Options | None = None,
) -> Path:
    """Train ``plan`` on ``cases`` and return the model file.

    :param run: claimed by :func:`GEDGANLib.training.request.claim_run_folder`.
    :param limit: None to resume with that of before.
    :param seed: None to resume; a run has one for all its life.
    :param save_model: writes the model file, see ``synthesis.model_file.save_model``: what it holds is no business of a
        training.
    :param data: where the cases came from, for ``run.json``.
    :raises InputError: the disk is full, the losses are no longer numbers, another process works in ``run``, another
        process of the team is gone, or what is to be resumed had other cases or another seed.
    :raises StoppedOnRequest: STOP file, keyboard or SIGTERM; model and checkpoint are saved.
    """
    from .team import Team

    options = options or Options()
    team = options.team or Team()
    digests = digests_of(cases)
    with team.contact(run), sole_owner(run, alone=team.leads and not options.owns_folder):
        if resume:
            before = Request.load(run)
            refuse_other(before, run, digests, seed, options.changes_accepted)
            request = replace(
                before, limit=limit or before.limit, device=device, data=data or before.data, cases=digests
            )
        else:
            request = Request(data, digests, seed, limit, device)
            if team.leads:
                plan.save(run / "plan.json")
        emit = emit if team.leads else SilentEvents().emit
        return _Run(plan, cases, run, request, emit, save_model, options, team).train(resume)


class _Run:
    """A training in its folder: the clock, the log, previews and checkpoints around ``Trainer``."""

    def __init__(
        self,
        plan: Plan,
        cases: Sequence[WorkingCase],
        run: Path,
        request: Request,
        emit: Emit,
        save_model: SaveModel,
        options: Options,
        team: Team,
    ) -> None:
        self.plan, self.cases, self.run, self.request = plan, cases, run, request
        self.save_model = save_model
        self.emit, self.options, self.team = emit, options, team
        self.history: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.rollbacks = 0
        self.seconds_before = 0.0
        self.start = time.monotonic()
        self.board: Board | None = None

    def seconds(self) -> float:
        """Seconds of training so far, those before a resumption included."""
        return self.seconds_before + time.monotonic() - self.start

    def progress(self) -> float:
        return self.request.limit.progress(self.trainer.step_count, self.seconds())

    def train(self, resume: bool) -> Path:
        from ..jobs.checkpoint import checkpoints, load_checkpoint, remove_after
        from .monitor import Monitor
        from .trainer import Trainer

        again = resume
        # A run that was killed before its first checkpoint begins anew, as the same seed makes it.
        resume = resume and bool(checkpoints(self.run))
        tensors, state = load_checkpoint(self.run) if resume else ({}, {"step": 0, "seconds": 0.0})
        self.team.wait()
        self.seconds_before, self.rollbacks = state["seconds"], state.get("rollbacks", 0)
        self.warnings = list(state.get("warnings", []))
        limit, device, seed = self.request.limit, self.request.device, self.request.seed
        # A run without the model of its last step was interrupted while that was being written: only that is left.
        complete = (self.run / MODEL).exists() and self.request.model_step == state["step"]
        if limit.progress(state["step"], self.seconds_before) >= 1 and complete:
            raise InputError(
                f"{self.run} is at step {state['step']} already, after {self.seconds_before / 60:.1f} minutes.",
                "Give more --steps or --minutes than that to go on.",
            )
        stop = self.run / STOP
        if self.team.leads:
            remove_after(self.run, state["step"])
            self.request.save(self.run)
            if again:  # in a new folder every STOP is meant for this training
                forget_old_stop(self.run, self.options.begun)
            self.board = Board(self.run, state["step"]) if self.options.tensorboard else None
        about = {"device": device, "seed": seed, "step": state["step"], "total": limit.steps}
        about["held_out"] = self.plan.training.held_out
        self.emit("started", run=str(self.run), cases=len(self.cases), processes=self.team.size, **about)
        options = self.options
        self.trainer = Trainer(self.plan, self.cases, device, seed, self.team, options.workers, options.anatomy)
        for words in self.trainer.notes:
            self._warn(words)
        self._note_taught()
        view = self.trainer.view
        groups = (map(view.real_sketch, cases) for cases in (self.trainer.cases, self.trainer.held_out))
        self.monitor = Monitor(*groups) if self.team.leads else None
        if resume:
            self._restore(tensors, state["step"])
        elif self.options.start_from:
            self._start_from_model()
        self.start = time.monotonic()
        try:
            self._rewrite_log(state["step"])
            # Saving at the end is guarded too: a signal that comes then must not tear it.
            with stop_on_signals(lambda: self.emit("warning", message="Stopping after this step.")) as signalled:
                if not resume:
                    self._write_checkpoint()  # where a training that leaves the numbers soon goes back to
                stopped = self._steps(lambda: signalled() or stop.exists())
                self._write_checkpoint()
                if self.team.leads:
                    stop.unlink(missing_ok=True)
                    self._finish()
                self.team.wait()
        except OSError as error:
            raise explain_unwritable(self.run / LOG, error) from error
        finally:
            self.trainer.loader.close()
            if self.board is not None:
                self.board.close()
        model = self.run / MODEL
        if stopped:
            raise StoppedOnRequest(f"Stopped at step {self.trainer.step_count}; the model so far is {model}.")
        self.emit("finished", model=str(model), step=self.trainer.step_count, seconds=round(self.seconds(), 1))
        return model

    def _note_taught(self) -> None:
        """Keep which cases the networks learn from, beside those they have learned from before."""
        before, of_model = self.request.taught, self.options.taught
        taught = None
        if before is not None and of_model is not None:
            taught = sorted({*before, *of_model, *map(image_digest, self.trainer.cases)})
        self.request = replace(self.request, taught=taught)
        if self.team.leads:
            self.request.save(self.run)

    def _restore(self, tensors: dict, step: int) -> None:
        from .state import load_state

        try:
            load_state(self.trainer, tensors, step)
        except (KeyError, RuntimeError, ValueError) as error:
            text = f"The checkpoint in {self.run} belongs to another plan, or was written by an earlier GED-GAN."
            raise InputError(
                text, "Train in a new folder; --from MODEL starts from what a model has learned."
            ) from error

    def _start_from_model(self) -> None:
        weights = self.options.start_from
        for network in (self.trainer.generator, self.trainer.average):
            self.trainer.learning(network).load_state_dict(weights["generator"])
        if weights.get("discriminator"):
            self.trainer.view.of_whole(self.trainer.discriminator).load_state_dict(weights["discriminator"])

    def _rewrite_log(self, last_step: int) -> None:
        """Keep the log up to ``last_step``: what came after is going to be trained again."""
        self.history = read_history(self.run, last_step)
        if self.team.leads:
            lines = "".join(json.dumps(line) + "\n" for line in self.history)
            write_bytes(self.run / LOG, lines.encode("utf-8"))

    def _steps(self, asked_to_stop: Callable[[], bool]) -> bool:
        """Train to the limit, or until asked to stop; returns whether that happened."""
        from .state import finite, state_of

        unread: deque[StepFigures] = deque()
        late = STEPS_LATE.get(self.request.device, 0) if self.team.size == 1 else 0  # a team goes back together
        last = {"checkpoint": self.start, "preview": self.start, "progress": 0.0}
        while True:
            # The clock, the STOP file and signals are the first process's; all act on what it says.
            progress, stop = self.team.as_leader((self.progress(), float(asked_to_stop())), self.trainer.device)
            if progress >= 1 or stop:
                if finite(state_of(self.trainer)) and (not unread or unread[-1].sound()):
                    return progress < 1
                unread.clear()
                self._go_back()
                continue
            self.trainer.set_progress(progress)
            unread.append(self.trainer.step())
            now = time.monotonic()
            told = self.team.leads and (now - last["progress"] >= PROGRESS_SECONDS or self.progress() >= 1)
            kept = self.team.leads and now - last["checkpoint"] >= CHECKPOINT_SECONDS
            # What is told or kept is looked at first; else there is no hurry.
            figures = unread[-1] if told or kept else unread[0] if len(unread) > late else None
            if figures is not None and not figures.sound():
                unread.clear()
                self._go_back()
                continue
            if len(unread) > late:
                unread.popleft()
            if not self.team.leads:
                continue
            if told:
                last["progress"] = now
                self._log(figures)
                self._tell_refusal()
            if now - last["preview"] >= PREVIEW_SECONDS:
                self._write_preview()
                self.emit("preview", path=str(self.run / "preview.png"), step=self.trainer.step_count)
                last["preview"] = time.monotonic()
            if kept:
                self._write_checkpoint()
                last["checkpoint"] = time.monotonic()

    def _go_back(self) -> None:
        """Return to the last checkpoint with a smaller step.

        :raises InputError: that was done often enough.
        """
        from ..jobs.checkpoint import load_checkpoint

        step = self.trainer.step_count
        if self.rollbacks == ROLLBACKS:
            raise InputError(
                f"The training left the numbers, or its generator stopped learning, at step {step} for the "
                f"{ROLLBACKS + 1}th time, though the learning rate was halved each time.",
                f"Halve learning_rate or double penalty_weight in {self.run / 'plan.json'} and train with it in a new "
                "folder. If the first steps already fail, check the data with `gedgan check`.",
            )
        self.rollbacks += 1
        tensors, state = load_checkpoint(self.run)
        self._restore(tensors, state["step"])
        self.trainer.rate_factor = SMALLER**self.rollbacks
        self._rewrite_log(state["step"])
        self._warn(
            f"The training left the numbers, or its generator stopped learning, at step {step}: it goes on from step "
            f"{state['step']} with {self.trainer.rate_factor:g} of its learning rate ({self.rollbacks} of {ROLLBACKS} "
            "times)."
        )

    def _warn(self, words: str) -> None:
        if words not in self.warnings:  # a resumed run finds the same trouble again
            self.warnings.append(words)
        self.emit("warning", message=words)

    def _tell_refusal(self) -> None:
        """Say once that steps cannot be recorded, see ``recording``."""
        refusal, self.trainer.recorder.refusal = self.trainer.recorder.refusal, None
        if refusal:
            self._warn(f"Steps run one operation at a time, which is slower: CUDA would not record them ({refusal}).")

    def _log(self, figures: Any) -> None:
        line = progress_line(self.trainer, figures, self.request.limit, self.seconds(), self.seconds_before)
        self.history.append(line)
        with open(self.run / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if self.board is not None:
            self.board.add(line)
        self.emit("progress", **line)

    def _write_checkpoint(self) -> None:
        from ..jobs.checkpoint import save_checkpoint
        from .state import finite, state_of

        if not self.team.leads:
            return
        tensors = state_of(self.trainer)
        if not finite(tensors):  # weights may leave the numbers a step before a loss shows it
            return
        state = {
            "seconds": self.seconds(),
            "seed": self.request.seed,
            "rollbacks": self.rollbacks,
            "warnings": self.warnings,
        }
        folder = save_checkpoint(self.run, self.trainer.step_count, tensors, state)
        self.emit("checkpoint", path=str(folder), step=self.trainer.step_count)

    def _finish(self) -> None:
        variety = self._write_preview()
        for words in self.monitor.untrained(variety, self.trainer.step_count):
            self._warn(words)
        about = {
            "description": self.plan.description,
            "cases": len(self.trainer.cases),
            "held_out": len(self.trainer.held_out),
            "steps": self.trainer.step_count,
            "seconds": round(self.seconds()),
            "seed": self.request.seed,
            "device": self.request.device,
            "warnings": self.warnings,
            "variety": round(variety, 4),
        }
        if self.request.taught is not None:
            # Who has the data can tell by these which cases taught the model and which did not; nobody else can.
            about["trained_images"] = list(self.request.taught)
        self.save_model(self.run / MODEL, self.trainer.average, self.plan, about, self.trainer.critic())
        self.request = replace(self.request, model_step=self.trainer.step_count)
        self.request.save(self.run)

    def _write_preview(self) -> float:
        """Draw what the model makes now; returns how much that differs, see ``Monitor.variety``."""
        from .monitor import WATCHED
        from .preview import sketches, write_preview

        outputs = sketches(self.trainer, WATCHED)
        images = self.trainer.as_seen(outputs)[:, : len(self.plan.channels)]
        where = self.progress(), self.trainer.step_count
        for words in self.monitor.warnings(images, self.trainer.strength, *where):
            self._warn(words)
        write_preview(self.run, self.trainer, outputs)
        plot_losses(self.run / "losses.png", self.history)
        return self.monitor.variety(images)
