"""Events of a long job: one JSON object a line for other programs, a live progress line for people.

Kinds and their fields:

- ``started``: run, device, seed, step, total (steps, null when the limit is in minutes), cases, held_out (of these),
  processes
- ``progress``: step, total, progress (0 to 1), and of a training seconds, seconds_left, cases_seen, losses,
  augmentation (its strength, 0 to 1), overfitting (0 to 1, null without held-out cases), waiting (share of the time
  spent waiting for cases), device, memory_gb and, where there are classes, classes (cases drawn and gap of each);
  of shorter work, such as reading the cases before a training starts, stage (what is done) and name
- ``preview``: path (PNG), step
- ``checkpoint``: path, step
- ``warning``: message
- ``devices``: devices (kind, name, memory_gb), torch
- ``said``: message, a line for people
- ``finished``: of a training model, step, seconds; of other work output, where it wrote to
- ``failed``: message, hint
- ``stopped``: message

Exit status of a job: 0 done, 1 a fault of the program, 2 bad input, 3 stopped on request.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

DONE, FAULT, BAD_INPUT, STOPPED = 0, 1, 2, 3
PLAIN_SECONDS = 10.0
"""Seconds between two lines of progress where the output is a file."""


Progress = Callable[[float, int, str], None]
"""Called with how many are done, a fraction where one takes long, how many there are, and the name of the next."""


def quiet(done: float, total: int, name: str) -> None:
    """Progress that nobody watches."""


class Events(Protocol):
    """Where the events of a job go."""

    def emit(self, event: str, **fields: Any) -> None:
        """Take one event."""

    def bar(self, words: str) -> Any:
        """Context with a function (done, total, name) that shows progress of a short piece of work.

        ``done`` may be a fraction where one of ``total`` takes long.
        """


class JsonEvents:
    """One JSON object a line on a stream, flushed, so that the reader sees it at once.

    A reader that is gone does not end the job: the work goes on, its files say how.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._heard = True

    def emit(self, event: str, **fields: Any) -> None:
        if not self._heard:
            return
        try:
            self._stream.write(json.dumps({"event": event, **fields}) + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            self._heard = False
            if self._stream is sys.stdout:  # or Python would stumble over the unwritten rest when it ends
                sys.stdout = None

    @contextmanager
    def bar(self, words: str) -> Iterator[Any]:
        def show(done: float, total: int, name: str) -> None:
            self.emit("progress", stage=words, step=done, total=total, progress=done / max(total, 1), name=name)

        yield show


class SaidAsEvents(io.TextIOBase):
    """A text stream whose lines become ``said`` events; empty ones are left out."""

    def __init__(self, events: Events) -> None:
        self._events, self._rest = events, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._events.emit("said", message=line.rstrip())
        return len(text)


class SilentEvents:
    """Says nothing: for processes that help another one."""

    def emit(self, event: str, **fields: Any) -> None:
        pass

    @contextmanager
    def bar(self, words: str) -> Iterator[Any]:
        yield lambda done, total, name: None


class TerminalEvents:
    """A live progress line in a terminal, a line every :data:`PLAIN_SECONDS` where the output is a file."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = None
        self._task = None
        self._last_line = 0.0

    def emit(self, event: str, **fields: Any) -> None:
        if event == "started":
            held_out = fields.get("held_out", 0)
            more = f", and {held_out} more held out" if held_out else ""
            cases = f"{fields['cases'] - held_out} cases{more}"
            self.console.print(f"Training on {_device_words(fields['device'])} with {cases}.")
            self._start("looking at all cases once")
        elif event == "progress" and self._progress is not None:
            losses = fields["losses"]
            of_total = f" of {fields['total']}" if fields["total"] else ""
            memory = f", {fields['memory_gb']:.1f} GB" if fields["memory_gb"] is not None else ""
            words = (
                f"step {fields['step']}{of_total}  D {losses['discriminator_loss']:.3f}  "
                f"G {losses['generator_loss']:.3f}  {fields['cases_seen']} cases seen, {fields['device']}{memory}"
            )
            left = _time_words(fields["seconds_left"])
            self._progress.update(self._task, completed=fields["progress"], description=words, left=left)
            if not self.console.is_terminal and time.monotonic() - self._last_line >= PLAIN_SECONDS:
                self._last_line = time.monotonic()
                self.console.print(f"{words}  {left}")
        elif event == "warning":
            self.console.print(f"[yellow]Warning:[/yellow] {fields['message']}")
        if event in ("finished", "failed", "stopped"):
            self.close()

    def _start(self, words: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[left]}"))
        self._progress = Progress(*columns, console=self.console, transient=False)
        self._task = self._progress.add_task(words, total=1.0, left="")
        self._last_line = time.monotonic()
        self._progress.start()

    @contextmanager
    def bar(self, words: str) -> Iterator[Any]:
        self._start(words)

        def show(done: float, total: int, name: str) -> None:
            left = f"{int(done)} of {total}"
            self._progress.update(self._task, completed=done / max(total, 1), left=left)
            if not self.console.is_terminal and time.monotonic() - self._last_line >= PLAIN_SECONDS:
                self._last_line = time.monotonic()
                self.console.print(f"{words}: {left}")

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


@contextmanager
def end_on_termination() -> Iterator[None]:
    """While the block runs, SIGTERM breaks into it as Ctrl-C does, so that what is half done is cleared away.

    Not for processes that wait for each other: Python hears signals between its own instructions alone.
    """

    def end(number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    with _handled((signal.SIGTERM,), end):
        yield


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle signals while the block runs; they reach the main thread alone, elsewhere nothing is changed."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in (numbers if in_main_thread else ())}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def stop_on_signals(announce: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """While the block runs, Ctrl-C and a batch system's SIGTERM ask the work to stop instead of breaking into it.

    :param announce: called when that happens, so that the person sees that it was heard. A second Ctrl-C interrupts.
    :returns: a function that says whether to stop.
    """
    asked = announced = False

    def ask(number: int, _frame: Any) -> None:
        nonlocal asked, announced
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        with suppress(RuntimeError):  # the signal came in the middle of a line, which cannot be broken into
            announce()
            announced = True

    def is_asked() -> bool:
        nonlocal announced
        if asked and not announced:
            announced = True
            announce()
        return asked

    # In another thread than the main one, whoever started it stops it by the STOP file.
    with _handled((signal.SIGINT, signal.SIGTERM), ask):
        yield is_asked


def with_progress(items: Iterable, total: int, show) -> Iterator:
    """Yield ``items`` while ``show`` counts them."""
    for done, item in enumerate(items):
        yield item
        show(done + 1, total, "")
