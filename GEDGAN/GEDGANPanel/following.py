"""What takes long: a worker process that is followed, or a generator that goes on step by step. Slicer stays usable.

Timers of Qt look after both, on the main thread; no thread is made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from GEDGANLib.errors import InputError
from GEDGANLib.jobs.worker import RUNNING, Worker

from . import places

LOOK_MILLISECONDS = 200
PATIENCE_SECONDS = 30.0
"""After a request to stop, before the user may end the process at once."""
CLEARING_SECONDS = 5.0
"""After a request to stop, for a command that saves nothing to clear away what is half done; then it is ended."""
QUIET_SECONDS = 180.0
"""Without a word from a worker, after which the user is told."""


class FollowedJob:
    """A worker whose events are handed on as they come.

    :param on_event: called with each event, a dictionary as ``GEDGANLib.jobs.events`` describes.
    :param on_end: called once, with the worker's last state and an explanation where it failed or was lost.
    """

    def __init__(self, worker: Worker, on_event: Callable[[dict], Any], on_end: Callable[[str, str], Any]) -> None:
        self.worker = worker
        self._on_event, self._on_end = on_event, on_end
        self._asked: float | None = None
        self._ended = False
        self._timer = qt.QTimer()
        self._timer.setInterval(LOOK_MILLISECONDS)
        self._timer.connect("timeout()", self.look)
        self._timer.start()

    def look(self) -> None:
        """Hand on what is new; what the timer does."""
        if self._ended:
            return
        if self.can_be_ended() and not self.worker.about.get("stop_file"):
            self.worker.kill(wait_seconds=0)
        running = self.worker.alive()  # asked first: what was written before the end is then seen below
        while True:
            events = self.worker.poll()
            for event in events:
                self._call(self._on_event, event)
            if running or not events:
                break
        if not running:
            self._ended = True
            self._timer.stop()
            state = self.worker.state()
            self._call(self._on_end, state, self.worker.explanation() if state in ("failed", "lost") else "")

    def _call(self, function: Callable, *arguments: Any) -> None:
        """One event that cannot be shown must not end the following."""
        try:
            function(*arguments)
        except Exception:
            logging.exception("GEDGAN: an event could not be shown")

    @property
    def running(self) -> bool:
        return not self._ended and self.worker.state() == RUNNING

    @property
    def asked_to_stop(self) -> bool:
        return self._asked is not None

    @property
    def stopping(self) -> bool:
        return self._asked is not None and not self._ended

    def can_be_ended(self) -> bool:
        """Whether it was asked to stop long enough ago."""
        patience = PATIENCE_SECONDS if self.worker.about.get("stop_file") else CLEARING_SECONDS
        return self._asked is not None and time.monotonic() - self._asked > patience

    def quiet(self) -> bool:
        """Whether nothing was heard for long."""
        return self.worker.silent_seconds() > QUIET_SECONDS

    def stop(self) -> None:
        """Ask it to end; where it was asked long ago, end it."""
        if self.can_be_ended():
            self.worker.kill(wait_seconds=0)  # the timer sees its end; Slicer need not stand still for it
        elif self._asked is None:
            self._asked = time.monotonic()
            self.worker.ask_to_stop(wait_seconds=0)

    def wait(self, seconds: float = float("inf")) -> None:
        """Until it has ended, for scripts; Slicer's events are served meanwhile.

        :raises InputError: it has not, in this time.
        """
        end = time.monotonic() + seconds
        while not self._ended:
            if time.monotonic() > end:
                raise InputError(_("The worker has not ended in time."), _("Wait longer, or stop it."))
            self.look()
            slicer.app.processEvents()
            time.sleep(0.05)

    def leave(self) -> None:
        """Follow no longer; the worker goes on."""
        self._ended = True
        self._timer.stop()


def find_job(kind: str) -> Worker | None:
    """A job that was started before, by this panel or another Slicer, and was not seen ending; a running one first.

    :param kind: ``places.TRAININGS``, ``places.REPORTS`` or ``places.ALIGNMENTS``.
    """
    found = []
    for folder in places.jobs(kind):
        worker = Worker.find(folder)
        if worker is None:
            places.forget_job(kind, folder)
        else:
            found.append(worker)
    return next((worker for worker in found if worker.alive()), found[0] if found else None)


def stage_words(event: dict) -> str:
    """What a worker is doing, of a ``progress`` event."""
    words = {
        "reading": _("reading"),
        "measuring a few steps": _("measuring a few steps"),
        "seeing whether the scans can be aligned": _("seeing whether the scans can be aligned"),
        "reading the scans": _("reading the scans"),
        "aligning the scans": _("aligning the scans"),
        "making the template": _("making the template"),
        "bringing scans onto the template": _("bringing scans onto the template"),
        "judging how each lies on it": _("judging how each lies on it"),
        "comparing the cases": _("comparing the cases"),
        "comparing their segmentations": _("comparing their segmentations"),
        "finding scores": _("finding scores"),
        "finding what can be shared": _("finding what can be shared"),
        "writing the atlas": _("writing the atlas"),
        "bringing the cases to one grid": _("bringing the cases to one grid"),
        "synthesizing": _("synthesizing"),
        "reading segmentations": _("reading segmentations"),
        "varying": _("varying"),
        "finding directions": _("finding directions"),
        "projecting": _("projecting"),
        "projecting healthy cases": _("projecting healthy cases"),
        "reading real cases": _("reading real cases"),
        "measuring real cases": _("measuring real cases"),
        "comparing": _("comparing"),
        "looking for copies": _("looking for copies"),
        "looking at random cases": _("looking at random cases"),
        "training U-Nets": _("training U-Nets"),
        "drawing": _("drawing"),
        "reading the segmented scans": _("reading the segmented scans"),
        "making variations": _("making variations"),
        "learning how to weigh the labels that are carried": _("learning how to weigh the labels that are carried"),
        "carrying labels to the rest": _("carrying labels to the rest"),
        "learning to segment: the teacher": _("learning to segment: the teacher"),
        "learning to segment": _("learning to segment"),
        "segmenting": _("segmenting"),
        "reading the labelled cases": _("reading the labelled cases"),
        "measuring what variations are worth": _("measuring what variations are worth"),
        "writing": _("writing"),
    }
    stage = str(event.get("stage", ""))
    return words.get(stage, stage)


class Steps:
    """A generator that is run one step at a time, with Slicer's own events between two steps.

    :param on_step: called with what the generator yields.
    :param on_end: called once: with None and the generator's return value, or with an error and None.
    """

    def __init__(
        self, generator: Iterator[Any], on_step: Callable[[Any], Any], on_end: Callable[[Exception | None, Any], Any]
    ) -> None:
        self._generator, self._on_step, self._on_end = generator, on_step, on_end
        self.longest = 0.0
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._next)
        self._timer.start(0)
        self.running = True

    def _next(self) -> None:
        if not self.running:
            return
        begun = time.monotonic()
        try:
            said = next(self._generator)
        except StopIteration as stop:
            self._end(None, stop.value)
        except Exception as error:
            self._end(error, None)
        else:
            self._on_step(said)
            self._timer.start(1)  # not 0: the views are drawn in between
        finally:
            self.longest = max(self.longest, time.monotonic() - begun)

    def _end(self, error: Exception | None, value: Any) -> None:
        self.running = False
        self._on_end(error, value)

    def stop(self) -> None:
        """End it between two steps; the generator tidies up."""
        if self.running:
            self.running = False
            self._timer.stop()
            self._generator.close()
            self._on_end(None, None)


def words_of(error: Exception) -> str:
    """What to tell a person about an error; what only a programmer understands goes to the application's log."""
    if isinstance(error, InputError):
        return str(error)
    logging.error("GEDGAN: %s", error, exc_info=error)
    words = (str(error).strip().splitlines() or [""])[0]
    text = _("A fault of GED-GAN: {kind} {words}. Nothing of yours is lost; the application log has more.")
    return text.format(kind=type(error).__name__, words=words)
