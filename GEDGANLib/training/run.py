"""One training from its data to its model file: the run folder, the clock, previews, checkpoints, stopping.

A run folder holds ``plan.json``, ``run.json`` (what was asked for), ``log.jsonl``, ``losses.png``, ``preview.png``,
the last two ``checkpoint-*`` folders and, at the end, ``model.safetensors``. A file ``STOP`` in it ends the run at the
next step, with everything saved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError, StoppedOnRequest
from ..plan import Plan
from ..volumes.case import Case
from ..volumes.pictures import contact_sheet, save_figure
from ..volumes.pipeline import WorkingCase
from ..volumes.writing import claim_empty_folder, explain_unwritable, probe, write_bytes

Emit = Callable[..., None]
"""Called with the kind of an event and its fields, see ``jobs``."""

MODEL = "model.safetensors"
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


def train(
    plan: Plan,
    cases: Sequence[WorkingCase],
    run: Path,
    limit: Limit,
    device: str,
    seed: int,
    emit: Emit,
    data: str = "",
    resume: bool = False,
) -> Path:
    """Train ``plan`` on ``cases`` and return the model file.

    :param run: claimed by :func:`claim_run_folder`.
    :param data: where the cases came from, for ``run.json``.
    :raises InputError: the disk is full, or the losses are no longer numbers.
    :raises StoppedOnRequest: STOP file or keyboard; model and checkpoint are saved.
    """
    from .checkpoint import load_checkpoint, save_checkpoint
    from .trainer import Trainer

    trainer = Trainer(plan, cases, device, seed)
    seconds_before = 0.0
    if resume:
        tensors, state = load_checkpoint(run)
        try:
            trainer.load_state(tensors, state["step"])
        except (KeyError, RuntimeError) as error:
            raise InputError(f"The checkpoint in {run} belongs to another plan.", "Train in a new folder.") from error
        seconds_before = state["seconds"]
    else:
        plan.save(run / "plan.json")
        described = {"data": data, "seed": seed, "device": device, "limit": asdict(limit), "version": __version__}
        write_bytes(run / "run.json", json.dumps(described, indent=1).encode("utf-8"))
    stop = run / "STOP"
    stop.unlink(missing_ok=True)
    emit(
        "started", run=str(run), device=device, seed=seed, step=trainer.step_count, total=limit.steps, cases=len(cases)
    )

    start = time.monotonic()
    last = {"checkpoint": start, "preview": start, "progress": 0.0}
    history = _read_history(run) if resume else []
    stopped = False

    def seconds() -> float:
        return seconds_before + time.monotonic() - start

    def write_checkpoint() -> None:
        folder = save_checkpoint(run, trainer.step_count, trainer.state(), {"seconds": seconds(), "seed": seed})
        emit("checkpoint", path=str(folder), step=trainer.step_count)

    with open(run / "log.jsonl", "a", encoding="utf-8") as log:
        try:
            while limit.progress(trainer.step_count, seconds()) < 1:
                trainer.set_progress(limit.progress(trainer.step_count, seconds()))
                figures = trainer.step()
                if not figures.finite():
                    raise InputError(
                        f"The training left the numbers at step {trainer.step_count}: a loss is not finite.",
                        f"The last good state is in {run}. Halve learning_rate in plan.json and train again.",
                    )
                now = time.monotonic()
                if now - last["progress"] >= PROGRESS_SECONDS or limit.progress(trainer.step_count, seconds()) >= 1:
                    last["progress"] = now
                    line = _progress(trainer.step_count, limit, seconds(), figures, plan.training.batch)
                    history.append(line)
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                    emit("progress", **line)
                if now - last["preview"] >= PREVIEW_SECONDS:
                    _write_preview(trainer, plan, cases, run, history)
                    emit("preview", path=str(run / "preview.png"), step=trainer.step_count)
                    last["preview"] = time.monotonic()
                if now - last["checkpoint"] >= CHECKPOINT_SECONDS:
                    write_checkpoint()
                    last["checkpoint"] = time.monotonic()
                if stop.exists():
                    stopped = True
                    break
        except KeyboardInterrupt:
            stopped = True
        except OSError as error:
            raise explain_unwritable(run / "log.jsonl", error) from error
    stop.unlink(missing_ok=True)
    write_checkpoint()
    model = _finish(trainer, plan, cases, run, history, device, seconds())
    if stopped:
        raise StoppedOnRequest(f"Stopped at step {trainer.step_count}; the model so far is {model}.")
    emit("finished", model=str(model), step=trainer.step_count, seconds=round(seconds(), 1))
    return model


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


def _finish(trainer, plan, cases, run: Path, history: list, device: str, seconds: float) -> Path:
    from ..synthesis.model_file import save_model

    _write_preview(trainer, plan, cases, run, history)
    about = {
        "description": plan.description,
        "cases": len(cases),
        "steps": trainer.step_count,
        "seconds": round(seconds),
        "seed": trainer.seed,
        "device": device,
    }
    save_model(run / MODEL, trainer.average, plan, about, trainer.critic())
    return run / MODEL


def _write_preview(trainer, plan: Plan, cases: Sequence[WorkingCase], run: Path, history: list) -> None:
    import torch

    latents = np.random.default_rng(0).standard_normal((PREVIEW_CASES, plan.networks.latent_size), dtype=np.float32)
    with torch.inference_mode():
        outputs = trainer.average(torch.from_numpy(latents).to(trainer.device)).cpu().numpy()
    count = len(plan.channels)
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
    real = [Case(case.name, case.image, case.labels, case.affine, tuple(plan.labels)) for case in cases[:PREVIEW_CASES]]
    contact_sheet(run / "preview.png", [("real", real), ("synthesized", made)], f"step {trainer.step_count}")
    plot_losses(run / "losses.png", history)


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


def _read_history(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    history = []
    for line in lines:
        try:
            history.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed
            continue
    return history
