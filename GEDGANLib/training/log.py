"""What a run tells of itself: a line a second, the curves, TensorBoard where it is wanted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..device import memory_in_use
from ..errors import InputError
from ..volumes.pictures import save_figure
from .request import Limit

LOG = "log.jsonl"
FINEST = 4
"""Significant digits of a figure in the log."""


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{FINEST}g}")


def progress_line(trainer: Any, figures: Any, limit: Limit, seconds: float, before: float) -> dict[str, Any]:
    """One line of the log, which is a ``progress`` event too.

    :param trainer: a :class:`GEDGANLib.training.trainer.Trainer`.
    :param figures: of its last step.
    :param seconds: of training, ``before`` a resumption and since.
    """
    step = trainer.step_count
    left = limit.seconds_left(step, seconds)
    line = {
        "step": step,
        "total": limit.steps,
        "progress": round(limit.progress(step, seconds), 4),
        "seconds": round(seconds, 1),
        "seconds_left": None if left is None else round(left, 1),
        "cases_seen": step * trainer.plan.training.batch,
        "losses": {name: rounded(value) for name, value in figures.named.items()},
        "augmentation": rounded(trainer.strength.value),
        "overfitting": rounded(trainer.strength.overfitting),
        "waiting": rounded(trainer.loader.waited / max(seconds - before, 1e-9)),
        "device": trainer.device.type,
        "memory_gb": memory_gb(trainer.device.type),
    }
    return line | ({"classes": trainer.take_class_gaps()} if trainer.plan.classes else {})


def memory_gb(device: str) -> float | None:
    """On CUDA the GPU's memory in use, by its driver, other programs included; else this process's peak, GB; None where
    the system does not tell."""
    if device == "cuda":
        return round(memory_in_use() / 1e9, 2)
    try:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)
    except ImportError:
        return None


def read_history(run: Path, last_step: int) -> list[dict[str, Any]]:
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


def plot_losses(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Plot the losses of both players, the gap between them, the penalty and the augmentation over the steps, as a PNG.

    :raises InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    augmented = any(line.get("augmentation") for line in history)
    height = 7 if augmented else 5
    figure = Figure(figsize=(7, height), facecolor="white")
    # Margins in inches: where they are left to a layout, it draws everything several times, for a second.
    inside = {"left": 0.8 / 7, "right": 1 - 0.8 / 7, "bottom": 0.5 / height, "top": 1 - 0.35 / height, "hspace": 0.25}
    axes = figure.subplots(3 if augmented else 2, 1, sharex=True, gridspec_kw=inside)
    upper, lower = axes[:2]
    steps = [line["step"] for line in history]
    for name, words in (("discriminator_loss", "discriminator"), ("generator_loss", "generator")):
        upper.plot(steps, [line["losses"][name] for line in history], label=words, linewidth=1)
    upper.axhline(np.log(2), color="grey", linewidth=0.6, linestyle=":", label="both even (log 2)")
    upper.set_ylabel("loss")
    above = {"fontsize": 7, "loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3, "frameon": False}
    upper.legend(**above)
    lower.plot(steps, [line["losses"]["gap"] for line in history], linewidth=1, label="D(real) - D(synthesized)")
    lower.set_ylabel("gap")
    twin = lower.twinx()
    twin.plot(steps, [line["losses"]["penalty"] for line in history], color="tab:green", linewidth=0.8)
    twin.set_ylabel("gradient penalties (R1 + R2)", color="tab:green")
    lower.legend(**above)
    if augmented:
        axes[2].plot(steps, [line.get("augmentation", 0) for line in history], label="strength of augmentation")
        over = [np.nan if line.get("overfitting") is None else line["overfitting"] for line in history]
        axes[2].plot(steps, np.clip(over, -0.1, 1.2), label="over-fitting, by held-out cases", linewidth=0.8)
        axes[2].set_ylim(-0.15, 1.25)
        axes[2].legend(**above)
    axes[-1].set_xlabel("step")
    save_figure(figure, path)


def no_tensorboard() -> InputError:
    """What to tell a person who asks for TensorBoard where it is not installed."""
    return InputError(
        "The package tensorboard is not installed.", "Install it (pip install tensorboard), or leave it out."
    )


class Board:
    """The figures of the log for TensorBoard, in ``RUN/tensorboard``.

    :param step: that the training goes on from; what was written of later ones is not shown.
    :raises InputError: the package tensorboard is not installed.
    """

    def __init__(self, run: Path, step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise no_tensorboard() from error
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def add(self, line: dict[str, Any]) -> None:
        """Take a line of the log."""
        figures = {f"losses/{name}": value for name, value in line["losses"].items()}
        figures |= {name: line[name] for name in ("augmentation", "overfitting", "waiting", "memory_gb")}
        for name, of_class in line.get("classes", {}).items():
            figures[f"gap by class/{name}"] = of_class["gap"]
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self._writer.close()
