"""Section 4, its second half: a network learns from the few segmented scans and segments the rest, in a process of its
own. What comes of it stands in the table of :mod:`.segment_section`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from GEDGANLib.jobs.worker import DONE, STOPPED_ON_REQUEST

from . import places, segmenting
from .data_section import DEVICES
from .following import words_of
from .sections import JobSection

REQUEST, NETWORK, TABLE, MADE = "segment.json", "network.safetensors", "segmented.csv", "segmented"
"""Files of a run, and the folder of what it made."""


class RestSection(JobSection):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel, places.SEGMENTATIONS, panel.ui.segmentBar, panel.ui.segmentLabel)
        self._volumes: dict[str, Any] = {}
        """Volumes of the scene, by the names of their cases in the run; none of scans that are files."""
        self._segmentations: list[Any] = []
        """Of the scans that it learned from, for the colours of labels."""
        self.ui.segmentRestButton.connect("clicked()", self.onSegment)
        self.ui.segmentResumeButton.connect("clicked()", self.onResume)

    # What the panel asks

    def resumable(self) -> bool:
        """Whether a run was begun, and not ended."""
        about = self._about() if self.job is None else None
        return about is not None and not about.get("done")

    def _about(self) -> dict[str, Any] | None:
        """What the run was asked for."""
        if self.run is None:
            return None
        try:
            about = json.loads((self.run / REQUEST).read_text(encoding="utf-8"))
            return about if isinstance(about["data"], str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def scene_closed(self) -> None:
        self._volumes, self._segmentations = {}, []

    # Segmenting

    def onSegment(self) -> None:
        if self.job is not None:
            self.job.stop()
            self.label.text = _("Stopping: keeping how far it came…")
            self.panel.paint()
            return
        segment, device = self.panel.segment_section, DEVICES[self.panel.parameters["device"]]
        folder = places.new_folder("segmented")
        run = self.panel.align_section.run if self.panel.align_section.aligned() else None
        if segment.in_folder():
            self._volumes, self._segmentations = {}, []
            try:
                labels = segmenting.write_accepted(segment.accepted, _beside(folder, "accepted"))
            except Exception as error:
                self.panel.say(words_of(error), True)
                return
            self._begin(segmenting.segment_arguments(segment.data(), run, device, folder, labels), folder)
            return
        sources, targets = segment.sources(), segment.targets()
        data = _beside(folder, "scans")
        try:
            arguments, volumes = segmenting.segment_command(sources, targets, run, device, data, folder)
        except Exception as error:
            shutil.rmtree(data, ignore_errors=True)
            self.panel.say(words_of(error), True)
            return
        if self._begin(arguments, folder):
            self._volumes, self._segmentations = volumes, [segmentation for _scan, segmentation in sources]
        else:
            shutil.rmtree(data, ignore_errors=True)

    def _begin(self, arguments: list[Any], folder: Path) -> bool:
        """Start it, and keep with the scene where; whether it could be started."""
        # Where the scans are aligned, the structures are those of the alignment.
        structures = [] if "--run" in arguments else self.panel.data_section.structures()
        started = self.launch([*arguments, *structures], folder)
        if started:
            self.panel.parameters["segmentRun"] = str(folder)
        return started

    def opened(self) -> None:
        self._take_run_of_scene()

    def entered(self) -> None:
        self._take_run_of_scene()

    def _take_run_of_scene(self) -> None:
        """The run that the scene was saved with, where it can be gone on with."""
        run = self.panel.parameters["segmentRun"]
        if run and self.job is None and self.run is None and Path(run).is_dir():
            self.run = Path(run)
            if self.resumable():
                self.label.text = _("Stopped; Resume goes on from there.")

    def onResume(self) -> None:
        about = self._about()
        if about is None:
            self.panel.say(_("{run} is not the folder of such a work.").format(run=self.run), True)
            return
        self.launch(["segment", about["data"], "-o", self.run, "--resume"], self.run)

    def begun(self) -> None:
        self.panel.segment_section.forget()
        self.label.toolTip = ""

    def heard(self, event: dict) -> None:
        super().heard(event)
        if event["event"] == "said" and self.job is not None:
            self.label.toolTip = f"{self.label.toolTip}\n{event.get('message', '')}".strip()

    def ended(self, state: str, explanation: str, asked: bool) -> None:
        resumable = state != DONE and self.resumable()
        if state != DONE and not resumable:
            self._forget_copies()
        if state == DONE:
            self._show()
        elif state == STOPPED_ON_REQUEST or asked:
            self.label.text = (
                _("Stopped; Resume goes on from there.")
                if resumable
                else _("Stopped before anything was learned; there is nothing to go on with.")
            )
        else:
            self.label.text = _("It has failed.")
            hint = _(" Resume goes on from where it was.") if resumable else ""
            self.panel.say(explanation + hint, True)
        self.panel.paint()

    # What came of it

    def _show(self) -> None:
        """The table; of scans of the scene, their new segmentations beside them."""
        segment, run = self.panel.segment_section, self.run
        self._forget_copies()
        self.label.text = _("The network is {path}; it segments other scans like these, too.").format(
            path=run / NETWORK
        )
        if not (run / MADE).is_dir():
            self.panel.say(_("All scans were segmented already; only the network was made."))
            return
        if not self._volumes:
            segment.show_files(run / MADE, run / TABLE)
            return
        if self.panel.tasks.name:  # something else is being done: each comes when it is asked for
            segment.show_files(run / MADE, run / TABLE, self._volumes)
            return
        volumes, segmentations = self._volumes, self._segmentations

        def loading() -> Any:
            nodes = yield from segmenting.loading_carried(run / MADE, volumes, segmentations, segment.came)
            shutil.rmtree(run / MADE, ignore_errors=True)
            return nodes

        self.panel.tasks.run_steps("segment", loading(), self._loaded)

    def _forget_copies(self) -> None:
        """What was written for the run: copies of patients' scans are not left about."""
        for what in ("scans", "accepted"):
            shutil.rmtree(_beside(self.run, what), ignore_errors=True)

    def _loaded(self, nodes: list[Any]) -> None:
        self.panel.say(
            _(
                "{count} scan(s) were segmented by a network, which nobody checked. Look at the least to be trusted "
                "first; correct it, Accept it, and segment the rest again."
            ).format(count=len(nodes))
        )
        self.panel.segment_section.onShow()


def _beside(run: Path, what: str) -> Path:
    """A folder beside a run: of scans of the scene that it learns from, or of segmentations that were accepted."""
    return run.with_name(f"{run.name}-{what}")
