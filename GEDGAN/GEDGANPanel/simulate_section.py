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

    def onSimulate(self) -> None:
        volumes = scene_cases.channels_of(self.ui.augmentVolume.currentNode())
        scan = (volumes, self.ui.augmentSegmentation.currentNode(), self.ui.simulateEdited.currentNode())
        reach, device = self.ui.simulateReachSpin.value, DEVICES[self.panel.parameters["device"]]
        wish = (None if self.ui.simulateFreeCheck.checked else (), float(reach) if reach else None, device)
        steps = self.panel.logic.simulating(*scan, *wish)
        self.panel.tasks.run_steps(
            "simulate",
            steps,
            lambda found: self._shown(found.case, volumes[0]),
            lambda error: self._instead(error, scan, wish),
        )

    def _shown(self, case: Any, volume: Any) -> None:
        """Put the deformed scan into the scene, and say how near it came."""
        nodes = segmenting.add_simulated(case, volume)
        show_case(nodes.volumes[0], nodes.segmentation)
        figures, missed = ("; ".join(case.provenance["figures"]), ", ".join(case.provenance["missed"]))
        words = _("{name} is in the scene. {figures}.").format(name=nodes.volumes[0].GetName(), figures=figures)
        if missed:
            text = _(
                "The image does not come to {names}: there it and its segmentation differ. Edit less, or reach farther."
            )
            words += " " + text.format(names=missed)
        self.panel.say(words, bool(missed))
        self.panel.paint()

    def _instead(self, error: Exception, scan: tuple, wish: tuple) -> bool:
        """Where PyTorch does not run in Slicer, a process does the same; whether that could be begun."""
        if not isinstance(error, EngineUnavailable):
            return False
        data, folder = places.new_folder("data"), places.new_folder("simulated")

        def forget(*which: Path) -> None:
            for each in which:  # copies of patients' scans are not left about
                shutil.rmtree(each, ignore_errors=True)

        try:
            arguments = segmenting.simulate_command(*scan, *wish, data, folder)
        except Exception:
            forget(data)
            raise

        def load() -> None:
            try:
                case = segmenting.load_simulated(folder, scan[2])
            finally:
                forget(folder)
            self._shown(case, scan[0][0])

        words = _("{reason} A separate process does it.").format(reason=error)
        self.panel.tasks.run_job(
            "simulate", arguments, load, words, lambda: forget(data), failed=lambda: forget(folder)
        )
        return True
