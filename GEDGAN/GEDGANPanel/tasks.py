"""What the panel does besides trainings and reports: one task at a time, with the bar at the bottom of the panel.

A task is a command of the library in a process of its own, or a generator that goes on step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from GEDGANLib.errors import InputError
from GEDGANLib.jobs.worker import DONE, STOPPED_ON_REQUEST, Worker

from . import places
from .following import FollowedJob, Steps, stage_words, words_of


def _nothing(*_: Any) -> None:
    pass


class Tasks:
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui
        self.name = ""
        """Of what is being done, as ``states.Facts.task`` has it."""
        self.job: FollowedJob | None = None
        self._ended: Callable[[], Any] = _nothing
        self._steps: Steps | None = None
        self._stopping = False

    def start(
        self, arguments: list[Any], kind: str = "", stop_file: Path | None = None, notes: dict[str, str] | None = None
    ) -> Worker | None:
        """Start a command of the library; where that fails say so, and return None.

        :param kind: ``places.TRAININGS`` or ``places.REPORTS`` of one that outlives the panel and is found again.
        :param stop_file, notes: as for ``GEDGANLib.jobs.worker.Worker.start``.
        """
        folder = places.new_folder("jobs")
        try:
            worker = self.panel.logic.startWorker(arguments, folder, stop_file, notes=notes)
        except InputError as error:
            self.panel.say(words_of(error), True)
            return None
        if kind:
            places.remember_job(kind, folder)
        return worker

    def run_job(
        self,
        name: str,
        arguments: list[Any],
        done: Callable[[], Any],
        words: str,
        ended: Callable[[], Any] = _nothing,
        heard: Callable[[dict], Any] = _nothing,
        lasting: bool = False,
        failed: Callable[[], Any] = _nothing,
    ) -> None:
        """Run a command of the library as the panel's task.

        :param name: as ``states.Facts.task`` has it.
        :param done: called when it has ended well.
        :param ended: called when it has ended, well or not, before ``done``, or when the panel goes away.
        :param heard: called with each event.
        :param failed: called after ``ended`` where ``done`` is not.
        :param lasting: what it makes is there though a stop was asked for too late: ``done`` is called then as well.
        """
        worker = self.start(arguments)
        if worker is None:
            ended()
            failed()
            return
        self._begin(name, words)

        def hear(event: dict) -> None:
            self._show(event)
            heard(event)

        def end(state: str, explanation: str) -> None:
            asked = self.job is not None and self.job.asked_to_stop
            self.name, self.job, self._ended = "", None, _nothing
            ended()
            well = state == DONE and (lasting or not asked)
            if not well:
                failed()
            if well:
                self._finish(done)
            elif asked or state == STOPPED_ON_REQUEST:
                self.panel.say(_("Stopped."))
            else:
                self.panel.say(explanation, True)
            self.panel.paint()

        def left() -> None:
            ended()
            failed()

        self._ended = left
        self.job = FollowedJob(worker, hear, end)
        self.panel.paint()

    def _finish(self, done: Callable[..., Any], *results: Any) -> None:
        """What comes after a task; what goes wrong there is told too."""
        try:
            done(*results)
        except Exception as error:
            self.panel.say(words_of(error), True)

    def _show(self, event: dict) -> None:
        if event["event"] == "progress":
            self.ui.taskBar.value = int(1000 * float(event.get("progress", 0)))
            self.ui.messageLabel.text = f"{stage_words(event)} {event.get('name', '')}".strip()
        elif event["event"] == "warning":
            self.panel.say(event.get("message", ""), True)

    def run_steps(
        self,
        name: str,
        steps: Iterator[tuple[float | None, str]],
        done: Callable[[Any], Any],
        otherwise: Callable[[Exception], bool] = lambda error: False,
    ) -> None:
        """Go through a generator of (share done or None, words) as the panel's task, Slicer staying usable.

        :param done: called with what the generator returns, unless it was stopped.
        :param otherwise: called with an error; returns whether it found another way.
        """
        self._begin(name, "")

        def end(error: Exception | None, result: Any) -> None:
            stopped = error is None and self._stopping
            self.name, self._steps = "", None
            if stopped:
                self.panel.say(_("Stopped."))
            elif error is None:
                self._finish(done, result)
            else:
                self._finish(lambda: otherwise(error) or self.panel.say(words_of(error), True))
            self.panel.paint()

        self._steps = Steps(steps, self._stepped, end)
        self.panel.paint()

    def _begin(self, name: str, words: str) -> None:
        self.name, self._stopping = name, False
        self.ui.taskBar.value = 0
        if words:
            self.panel.say(words)

    def _stepped(self, said: tuple[float | None, str]) -> None:
        share, words = said
        if share is not None:
            self.ui.taskBar.value = int(1000 * share)
        self.ui.messageLabel.text = words

    def stop_or(self, begin: Callable[[], Any]) -> Callable[[], Any]:
        """What a button calls that begins a task and, while one is being done, stops it."""
        return lambda: self.stop() if self.name else begin()

    def stop(self) -> None:
        """End it; what is there already stays."""
        self._stopping = True
        if self.job is not None:
            self.panel.say(_("Stopping…"))
            self.job.stop()
        if self._steps is not None:
            self._steps.stop()

    def quiet(self) -> bool:
        """Whether nothing was heard of a command for long."""
        return self.job is not None and self.job.quiet()

    def leave(self) -> None:
        """The panel goes away, and takes its task along."""
        self.stop()
        if self.job is not None:
            self.job.leave()
            self.job, ended = None, self._ended
            ended()
