"""Last part of section 3: a scan that is deformed to an edit of its segmentation, because somebody asks for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from . import places, scene_cases, segmenting
from .data_section import DEVICES
from .engine import EngineUnavailable
from .sections import Section
from .views import show_case


class SimulateSection(Section):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.ui.editCopyButton.connect("clicked()", self.onEditCopy)
        self.ui.simulateButton.connect("clicked()", panel.tasks.stop_or(self.onSimulate))
        for selector in (self.ui.simulateEdited, self.ui.augmentSegmentation):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda *_: self.panel.paint())

    def onEditCopy(self) -> None:
        """A copy of the chosen segmentation, opened in the Segment Editor."""
        volume, segmentation = self.ui.augmentVolume.currentNode(), self.ui.augmentSegmentation.currentNode()
        copy = segmenting.edit_copy(segmentation, volume)
        self.ui.simulateEdited.setCurrentNode(copy)
        if volume is not None:
            show_case(volume, copy)
        self.panel.say(
            _("Edit {name} in the Segment Editor, come back and press Deform to my edit.").format(name=copy.GetName())
        )
        if slicer.app.layoutManager() is not None:  # there is a main window
            slicer.util.selectModule("SegmentEditor")
            editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
            editor.setSegmentationNode(copy)
            editor.setSourceVolumeNode(volume)
        self.panel.paint()

    def _scan(self) -> tuple[list[Any], Any, Any]:
        """Volumes, and segmentation before and after."""
        volumes = scene_cases.channels_of(self.ui.augmentVolume.currentNode())
        return volumes, self.ui.augmentSegmentation.currentNode(), self.ui.simulateEdited.currentNode()

    def onSimulate(self) -> None:
        volumes, segmentation, edited = self._scan()
        device = DEVICES[self.panel.parameters["device"]]
        steps = self.panel.logic.simulating(volumes, segmentation, edited, device=device)

        def made(found: Any) -> None:
            self._shown(segmenting.add_simulated(found.case, volumes[0]), found.figures, found.missed)

        self.panel.tasks.run_steps("simulate", steps, made, lambda error: self._instead(error, device))

    def _shown(self, nodes: Any, figures: list[str], missed: list[str]) -> None:
        show_case(nodes.volumes[0], nodes.segmentation)
        words = _("{name} is in the scene. {figures}.").format(
            name=nodes.volumes[0].GetName(), figures="; ".join(figures)
        )
        if missed:
            words += " " + _(
                "The image does not come to {names}: edit less, there it and its segmentation differ."
            ).format(names=", ".join(missed))
        self.panel.say(words, bool(missed))
        self.panel.paint()

    def _instead(self, error: Exception, device: str) -> bool:
        """Where PyTorch does not run in Slicer, a process does the same; whether that could be begun."""
        if not isinstance(error, EngineUnavailable):
            return False
        (volumes, segmentation, edited), data, folder = (
            self._scan(),
            places.new_folder("data"),
            places.new_folder("simulated"),
        )
        arguments = segmenting.simulate_command(volumes, segmentation, edited, (), None, device, data, folder)
        words = _("{reason} A separate process does it.").format(reason=error)

        def ended() -> None:
            shutil.rmtree(data, ignore_errors=True)  # copies of patients' scans are not left about

        self.panel.tasks.run_job("simulate", arguments, lambda: self._load(folder, volumes[0], edited), words, ended)
        return True

    def _load(self, folder: Path, volume: Any, edited: Any) -> None:
        try:
            self._shown(segmenting.load_simulated(folder, volume, edited), [], [])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
