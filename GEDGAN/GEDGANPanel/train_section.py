"""Section 2: a training in a process of its own, followed, stopped, continued, found again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from GEDGANLib.jobs.worker import DONE, STOPPED_ON_REQUEST

from . import places
from .curves import Curves
from .data_section import DEVICES
from .following import stage_words, words_of
from .scene_cases import PREVIEW
from .sections import JobSection
from .views import show_side_by_side

DRAW_SECONDS = 1.0


class TrainSection(JobSection):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel, places.TRAININGS, panel.ui.trainBar, panel.ui.trainLabel)
        self.curves, self._drawn = Curves(), 0.0
        self._then: Callable[[Path], Any] | None = None
        self.ui.trainButton.connect("clicked()", self.onTrain)
        self.ui.resumeButton.connect("clicked()", self.onResume)
        self.ui.previewButton.connect("clicked()", self.onPreview)
        self.ui.runPath.toolTip = _(
            "Folder of the run: model, checkpoints, log. When this is empty, a new one is made in {folder}. "
            "To continue an earlier run, choose its folder and press Resume."
        ).format(folder=places.base_folder() / "runs")

    def resumable(self) -> bool:
        """Whether the run folder that is chosen, or was trained in last, can be gone on with."""
        run = self._run_to_resume()
        return run is not None and (run / "run.json").is_file()

    def _run_to_resume(self) -> Path | None:
        return self.panel.parameters.path("run") or self.run

    def preview_there(self) -> bool:
        return self.run is not None and (self.run / "preview" / "synthesized.nrrd").is_file()

    def onTrain(self) -> None:
        if not self.begins(_("Stopping: saving what was learned…")):
            return
        parameters = self.panel.parameters
        minutes = None if parameters["steps"] else parameters["minutes"]
        self.start(parameters.path("run"), parameters.path("startFrom"), minutes)

    def start(
        self,
        run: Path | None = None,
        start_from: Path | None = None,
        minutes: int | None = None,
        then: Callable[[Path], Any] | None = None,
    ) -> None:
        """Train on the checked data.

        :param run: folder of the run; a new one when not given.
        :param start_from: a model to start from; the plan is its own then.
        :param minutes: to train; the steps of the panel when not given.
        :param then: called with the model when it is trained.
        """
        parameters, run = self.panel.parameters, run or places.new_folder("runs")
        arguments: list[Any] = ["train", parameters["checkedData"], "-o", run, "--seed", parameters["trainSeed"]]
        arguments += ["--device", DEVICES[parameters["device"]]]
        if start_from is not None:
            if parameters["forSharing"]:
                text = _("A model that starts from another one cannot be passed on. Take the tick under Advanced away.")
                self.panel.say(text, True)
                return
            arguments += ["--from", start_from]
        elif not (run / "alignment.safetensors").is_file():
            arguments += ["--plan", parameters["plan"]]
        elif parameters["forSharing"]:  # a training in the folder of an alignment has its plan
            arguments += ["--for-sharing"]
        arguments += ["--steps", parameters["steps"]] if minutes is None else ["--minutes", minutes]
        self._launch(arguments, run, then)

    def onResume(self) -> None:
        run, parameters = self._run_to_resume(), self.panel.parameters
        try:
            about = json.loads((run / "run.json").read_text(encoding="utf-8"))
            data = about["data"]
        except (OSError, ValueError, KeyError, TypeError):
            self.panel.say(_("{run} is not the folder of a run.").format(run=run), True)
            return
        arguments: list[Any] = ["train", data, "-o", run, "--resume", "--device", DEVICES[parameters["device"]]]
        # A limit in steps is kept unless another is asked for: only then it ends in the very same weights.
        if parameters["steps"]:
            arguments += ["--steps", parameters["steps"]]
        elif not about.get("limit", {}).get("steps"):
            arguments += ["--minutes", parameters["minutes"]]
        self._launch(arguments, run)

    def _launch(self, arguments: list[Any], run: Path, then: Callable[[Path], Any] | None = None) -> None:
        if self.launch(arguments, run):
            self._then = then
            self.panel.say(_("The training has a process of its own; go on with your work."))

    def begun(self) -> None:
        self._then = None
        self.curves.clear()

    def heard(self, event: dict) -> None:
        kind = event["event"]
        if kind == "started":
            device = {"cuda": _("the NVIDIA GPU"), "mps": _("the Apple GPU")}.get(
                event.get("device"), _("the processor, no GPU")
            )
            self.ui.trainLabel.text = _("Training on {device} with {cases} cases").format(
                device=device, cases=int(event.get("cases", 0)) - int(event.get("held_out", 0))
            )
        elif kind == "progress" and "losses" in event:
            self.ui.trainBar.value = int(1000 * float(event.get("progress", 0)))
            self.ui.trainLabel.text = _progress_words(event)
            self.curves.add(event)
            if time.monotonic() - self._drawn > DRAW_SECONDS:
                self._drawn = time.monotonic()
                if self.panel.parameters["plot"]:
                    self.curves.draw(show=not self.curves.present())
                self.panel.paint()
        elif kind == "progress":
            self.ui.trainBar.value = int(1000 * float(event.get("progress", 0)))
            self.ui.trainLabel.text = f"{stage_words(event)}: {event.get('step')} / {event.get('total')}"
        elif kind == "preview":
            self.panel.paint()
        elif kind == "warning":
            self.panel.say(event.get("message", ""), True)

    def ended(self, state: str, explanation: str, asked: bool) -> None:
        then, self._then = self._then, None
        if self.panel.parameters["plot"]:
            self.curves.draw(show=False)
        model = None if self.run is None else self.run / "model.safetensors"
        taken = model is not None and model.is_file() and self._take(model)
        begun = self.run is not None and (self.run / "run.json").is_file()
        if state == DONE:
            self.ui.trainBar.value = 1000
            self.ui.trainLabel.text = _("Trained: {model}").format(model=model)
            where = _("its model is chosen below") if taken else _("its model stands in the list of models")
            self.panel.say(_("The training has ended; {where}.").format(where=where))
        elif (asked or state == STOPPED_ON_REQUEST) and not begun:
            self.ui.trainLabel.text = _("Stopped before the training had begun; there is nothing to go on with.")
        elif state == STOPPED_ON_REQUEST:
            self.ui.trainLabel.text = _("Stopped; everything is saved in {run}. Resume goes on.").format(run=self.run)
        elif asked:
            self.ui.trainLabel.text = _(
                "Ended; what came after the last checkpoint is lost. Resume goes on from there."
            )
        else:
            self.ui.trainLabel.text = _("The training has failed.")
            hint = _(" Resume goes on from the last checkpoint.") if begun else ""
            self.panel.say(explanation + hint, True)
        self.panel.paint()
        if state == DONE and then is not None:
            then(model)

    def _take(self, model: Path) -> bool:
        """Choose the model that was trained, unless another is in use; returns whether it was chosen."""
        panel = self.panel
        if panel.explore_section.exploring or panel.tasks.name:
            places.remember_model(model)
            panel.synthesize_section.refresh()
            return False
        panel.synthesize_section.take_model(model)
        return True

    def onPreview(self) -> None:
        """The newest preview and a real case, side by side; brought up to date at every press."""
        from GEDGANLib.scene.nodes import add_case, update_case
        from GEDGANLib.scene.worker_output import preview_cases

        volumes = []
        try:
            for case in preview_cases(self.run):
                kind = case.name
                nodes = _nodes_with(PREVIEW, kind)
                if nodes is not None and (nodes.segmentation is None) == (case.labels is None):
                    update_case(nodes, case)
                else:
                    nodes = add_case(case)
                    for node in nodes.every():
                        node.SetAttribute(PREVIEW, kind)
                        node.SetSaveWithScene(False)
                        node.GetDisplayNode().SetSaveWithScene(False)
                volumes.append(nodes.volumes[0])
        except Exception as error:
            self.panel.say(words_of(error), True)
            return
        show_side_by_side(*volumes)
        self.panel.say(_("Red: synthesized. Yellow: real. Press again for a newer one."))


def _nodes_with(attribute: str, value: str) -> Any | None:
    """The case whose nodes carry this attribute; None when the volume is not in the scene."""
    from GEDGANLib.scene.nodes import CaseNodes

    def first(kind: str) -> Any | None:
        nodes = slicer.util.getNodesByClass(kind)
        return next((node for node in nodes if node.GetAttribute(attribute) == value), None)

    volume = first("vtkMRMLScalarVolumeNode")
    if volume is None:
        return None
    return CaseNodes(volume.GetName(), [volume], first("vtkMRMLSegmentationNode"))


def _progress_words(event: dict) -> str:
    total = f" / {event['total']}" if event.get("total") else ""
    memory = f", {event['memory_gb']:.1f} GB" if event.get("memory_gb") is not None else ""
    return _("Step {step}{total}, {cases} cases seen, on {device}{memory}. {left}").format(
        step=event.get("step"),
        total=total,
        cases=event.get("cases_seen"),
        device=str(event.get("device", "")).upper(),
        memory=memory,
        left=time_left(event.get("seconds_left")),
    )


def time_left(seconds: float | None) -> str:
    """In words."""
    if seconds is None:
        return ""
    if seconds < 1:
        return _("Saving what was learned…")
    minutes = round(seconds / 60)
    if seconds < 90:
        return _("{seconds} s left").format(seconds=round(seconds))
    if minutes < 90:
        return _("{minutes} min left").format(minutes=minutes)
    return _("{hours} h {minutes} min left").format(hours=minutes // 60, minutes=minutes % 60)
