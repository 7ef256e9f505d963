"""The sections of the panel: what it calls on each of them, and which there are.

A new section is a module with a class of :class:`Section`, a line in :func:`sections_of`, and its widgets in
``Resources/UI/GEDGAN.ui``; what its buttons look like in which state stands in ``states``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from GEDGANLib.jobs.worker import Worker

from . import places
from .following import FollowedJob, find_job, stage_words


class Section:
    """One section; here is what the panel calls on all of them, for those that it concerns.

    :param panel: the widget of the module.
    """

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui

    def find_again(self) -> None:
        """The panel is complete: follow what an earlier Slicer has left running."""

    def opened(self) -> None:
        """The panel is complete, and what was running is followed."""

    def entered(self) -> None:
        """The panel is shown again, after another module."""

    def leave(self) -> None:
        """The module is unloaded or reloaded: hear no more of anything."""

    def scene_changed(self) -> None:
        """Nodes were added or removed."""

    def scene_closed(self) -> None:
        """All nodes are gone."""

    def parameter_changed(self, name: str) -> None:
        """A value of the parameter node is another one."""

    def tell_silence(self) -> None:
        """Called every second while something runs: say when nothing was heard of it for long."""

    def busy(self) -> bool:
        """Whether something of this section runs."""
        return False


class JobSection(Section):
    """A section whose work is done by a process that outlives the panel, and is found again by the next one.

    :param kind: of the job, as ``places`` keeps it.
    :param bar, label: widgets that say how far it is.
    """

    def __init__(self, panel: Any, kind: str, bar: Any, label: Any) -> None:
        super().__init__(panel)
        self.kind, self.bar, self.label = kind, bar, label
        self.job: FollowedJob | None = None
        self.run: Path | None = None

    @property
    def state(self) -> str:
        """Nothing, ``running`` or ``stopping``, for ``states.Facts``."""
        if self.job is None:
            return ""
        return "stopping" if self.job.stopping else "running"

    def busy(self) -> bool:
        return self.job is not None

    def tell_silence(self) -> None:
        if self.job is not None and self.job.quiet():
            self.label.text = _("Nothing was heard of it for minutes. It may be stuck; Stop ends it.")

    def leave(self) -> None:
        """Follow no longer. The process goes on; it is found again."""
        if self.job is not None:
            self.job.leave()
            self.job = None

    def begins(self, stopping: str) -> bool:
        """Whether a press of the button is to begin something: it stops what runs, and does nothing with data that were
        not checked.

        :param stopping: what to say while it stops.
        """
        if self.job is not None:
            self.job.stop()
            self.label.text = stopping
            self.panel.paint()
            return False
        if self.panel.data_section.checked():
            return True
        self.panel.data_section.forget_plan()
        self.panel.say(_("Data or settings were changed since they were checked; press Check and plan again."), True)
        return False

    def launch(self, arguments: list[Any], run: Path) -> bool:
        """Start a command of the library; returns whether it could be started."""
        worker = self.panel.tasks.start(arguments, self.kind, run / "STOP")
        if worker is None:
            return False
        self.begun()
        self._follow(worker, run)
        self.label.text = _("Starting…")
        self.panel.paint()
        return True

    def find_again(self) -> None:
        """A process that was started before, by this panel or by an earlier Slicer."""
        worker = None if self.job is not None else find_job(self.kind)
        if worker is None:
            return
        self.begun()
        self._follow(worker, Path(worker.about.get("stop_file") or "").parent)
        if worker.alive():
            self.panel.say(_("What was begun in {run} is still running.").format(run=self.run))
        self.panel.paint()

    def _follow(self, worker: Worker, run: Path) -> None:
        self.run, self.bar.value = run, 0
        self.job = FollowedJob(worker, self.heard, lambda state, why: self._ended(worker.folder, state, why))

    def _ended(self, folder: Path, state: str, explanation: str) -> None:
        asked, self.job = self.job.asked_to_stop, None
        places.forget_job(self.kind, folder)
        self.ended(state, explanation, asked)

    def begun(self) -> None:
        """A process was started or found again: forget what was shown of another."""

    def heard(self, event: dict) -> None:
        """An event of the process: how far it is, or what it warns of."""
        if event["event"] == "progress":
            self.bar.value = int(1000 * float(event.get("progress", 0)))
            self.label.text = f"{stage_words(event)} {event.get('name', '')}".strip()
        elif event["event"] == "warning":
            self.panel.say(event.get("message", ""), True)

    def ended(self, state: str, explanation: str, asked: bool) -> None:
        """It has ended.

        :param asked: it was asked to stop.
        """


def sections_of(panel: Any) -> dict[str, Section]:
    """All sections, newly made, by the names that they have in the panel, in the order in which they stand there."""
    from .align_section import AlignSection
    from .augment_section import AugmentSection
    from .data_section import DataSection
    from .explore_section import ExploreSection
    from .index_section import IndexSection
    from .judge_section import JudgeSection
    from .rest_section import RestSection
    from .segment_section import SegmentSection
    from .set_up_section import SetUpSection
    from .simulate_section import SimulateSection
    from .synthesize_section import SynthesizeSection
    from .train_section import TrainSection

    kinds = {
        "set_up": SetUpSection,
        "data_section": DataSection,
        "align_section": AlignSection,
        "augment_section": AugmentSection,
        "simulate_section": SimulateSection,
        "segment_section": SegmentSection,
        "rest_section": RestSection,
        "train_section": TrainSection,
        "synthesize_section": SynthesizeSection,
        "index_section": IndexSection,
        "explore_section": ExploreSection,
        "judge_section": JudgeSection,
    }
    return {name: kind(panel) for name, kind in kinds.items()}
