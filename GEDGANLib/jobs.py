"""Events of a long job: one JSON object a line for other programs, a live progress line for people.

Kinds and their fields:

- ``started``: run, device, seed, step, total (steps, null when the limit is in minutes), cases
- ``progress``: step, total, progress (0 to 1), seconds, seconds_left, cases_seen, losses, memory_gb
- ``preview``: path (PNG), step
- ``checkpoint``: path, step
- ``warning``: message
- ``finished``: model, step, seconds
- ``failed``: message, hint
- ``stopped``: message

Exit status of a job: 0 done, 2 bad input, 3 stopped on request.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

DONE, BAD_INPUT, STOPPED = 0, 2, 3


class Events(Protocol):
    """Where the events of a job go."""

    def emit(self, event: str, **fields: Any) -> None:
        """Take one event."""

    def bar(self, words: str) -> Any:
        """Context with a function (done, total, name) that shows progress of a short piece of work."""


class JsonEvents:
    """One JSON object a line on a stream, flushed, so that the reader sees it at once."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def emit(self, event: str, **fields: Any) -> None:
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()

    @contextmanager
    def bar(self, words: str) -> Iterator[Any]:
        def show(done: int, total: int, name: str) -> None:
            self.emit("progress", stage=words, step=done, total=total, progress=done / max(total, 1), name=name)

        yield show


class TerminalEvents:
    """A live progress line in a terminal, one line in ten seconds where the output is a file."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = None
        self._task = None

    def emit(self, event: str, **fields: Any) -> None:
        if event == "started":
            self.console.print(f"Training on {_device_words(fields['device'])} with {fields['cases']} cases.")
            self._start("training")
        elif event == "progress" and self._progress is not None:
            losses = fields["losses"]
            words = (
                f"step {fields['step']}  D {losses['discriminator_loss']:.3f}  G {losses['generator_loss']:.3f}  "
                f"{fields['cases_seen']} cases seen"
            )
            self._progress.update(
                self._task, completed=fields["progress"], description=words, left=_time_words(fields["seconds_left"])
            )
        elif event == "warning":
            self.console.print(f"[yellow]Warning:[/yellow] {fields['message']}")
        if event in ("finished", "failed", "stopped"):
            self.close()

    def _start(self, words: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[left]}"))
        self._progress = Progress(*columns, console=self.console, transient=False)
        self._task = self._progress.add_task(words, total=1.0, left="")
        self._progress.start()

    @contextmanager
    def bar(self, words: str) -> Iterator[Any]:
        self._start(words)

        def show(done: int, total: int, name: str) -> None:
            self._progress.update(self._task, completed=done / max(total, 1), left=f"{done} of {total}")

        try:
            yield show
        finally:
            self.close()

    def close(self) -> None:
        """End the live line; what it showed last stays."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _device_words(device: str) -> str:
    if device == "cuda":
        import torch

        return f"the GPU ({torch.cuda.get_device_name(0)})"
    if device == "mps":
        return "the Apple GPU"
    import torch

    return f"the CPU ({torch.get_num_threads()} threads; no GPU is used)"


def _time_words(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min left" if minutes >= 60 else f"{minutes}:{rest:02d} left"


def with_progress(items: Iterable, total: int, show) -> Iterator:
    """Yield ``items`` while ``show`` counts them."""
    for done, item in enumerate(items):
        yield item
        show(done + 1, total, "")
