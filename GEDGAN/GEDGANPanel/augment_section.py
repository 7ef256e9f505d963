"""Section 3: variations of segmented scans, live under sliders, in the scene by the dozen, or as a data set."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from . import places, scene_cases
from .batches import Batches, in_scene
from .data_section import DEVICES
from .engine import EngineUnavailable, explained
from .following import words_of
from .scene_cases import MAP
from .sections import Section
from .views import show_case

MOVE_MILLISECONDS, REST_MILLISECONDS = 1, 400
"""Between a slider's move and the coarse variation, and from when it rests to the fine one."""
FIRST_NUMBER = 501
"""Of a data set, as nnU-Net wants its folders named."""
FOLLOWED = ("strength", "look", "augmentSeed")
"""Parameters that the scan follows."""


class AugmentSection(Section):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.moving: Any | None = None
        """The scan that follows the sliders, a ``GEDGANLib.synthesis.moving.MovingScan``."""
        self.nodes: Any | None = None
        self.sliders: dict[str, Any] = {}
        self.batches = Batches()
        self.slowest = 0.0
        self._source, self._of = "", 0
        self._fine: Iterator[float] | None = None
        qt.QFormLayout(self.ui.augmentSlidersFrame)
        self.ui.varyButton.connect("clicked()", panel.tasks.stop_or(self.onVary))
        self.ui.augmentButton.connect("clicked()", panel.tasks.stop_or(self.onAugment))
        self.ui.augmentUndoButton.connect("clicked()", self.onUndo)
        self.ui.augmentExportButton.connect("clicked()", panel.tasks.stop_or(self.onExport))
        self.ui.augmentVolume.connect("currentNodeChanged(vtkMRMLNode*)", self._volume_chosen)
        self.ui.augmentTickedCheck.connect("toggled(bool)", lambda *_: self.panel.paint())
        self._timer, self._rest, self._tick = (qt.QTimer() for _unused in range(3))
        for timer, milliseconds, called in (
            (self._timer, MOVE_MILLISECONDS, self._move),
            (self._rest, REST_MILLISECONDS, self._refine),
            (self._tick, MOVE_MILLISECONDS, self._go_on),
        ):
            timer.setSingleShot(True)
            timer.setInterval(milliseconds)
            timer.connect("timeout()", called)

    # What the panel asks

    def model(self) -> Path | None:
        """The run of the alignment, or the model that is chosen where that is one of an alignment; None for neither."""
        align, card = self.panel.align_section, self.panel.synthesize_section.card
        if align.aligned():
            return align.run
        if card is not None and card.plan.repaints:
            from GEDGANLib.alignment.runs import STATISTICAL

            found = card.path.with_name(STATISTICAL)  # that of the alignment that it goes on from
            return found if found.exists() else None
        return card.path if card is not None and card.plan.method == "modes" else None

    def scans(self) -> list[tuple[list[Any], Any | None]]:
        """Volumes, one a channel, and segmentation of each scan that is to be varied."""
        if self.ui.augmentTickedCheck.checked:
            return [([case.volume, *case.more], case.segmentation) for case in self._ticked()]
        chosen = self.ui.augmentVolume.currentNode()
        return [] if chosen is None else [(scene_cases.channels_of(chosen), self.ui.augmentSegmentation.currentNode())]

    def _ticked(self) -> list[Any]:
        return scene_cases.ticked_cases(scene_cases.rows())

    @property
    def varying(self) -> bool:
        """Whether a scan follows the sliders."""
        return self.moving is not None and self.nodes is not None and in_scene(self.nodes.volumes[0])

    def parameter_changed(self, name: str) -> None:
        if name in FOLLOWED:
            self._moved()

    def leave(self) -> None:
        for timer in (self._timer, self._rest, self._tick):
            timer.stop()

    def scene_closed(self) -> None:
        self._forget()
        self.nodes = None
        self.batches.forget()

    def _forget(self) -> None:
        self.moving = self._fine = None
        for timer in (self._timer, self._rest, self._tick):
            timer.stop()
        layout = self.ui.augmentSlidersFrame.layout()
        for slider in self.sliders.values():
            layout.removeRow(slider)
        self.sliders = {}

    def _volume_chosen(self, *_unused: Any) -> None:
        """The segmentation that is of the volume is chosen with it."""
        volume = self.ui.augmentVolume.currentNode()
        row = next((row for row in scene_cases.rows() if row.volume is volume), None) if volume is not None else None
        # None, too, or a scan would be varied with the segmentation of another.
        self.ui.augmentSegmentation.setCurrentNode(None if row is None else row.segmentation)
        self.panel.paint()

    # The scan that follows the sliders

    def wish(self) -> Any:
        from GEDGANLib.synthesis.wish import Wish

        parameters = self.panel.parameters
        values = {name: float(slider.value) for name, slider in self.sliders.items() if slider.value}
        return Wish(parameters["strength"], parameters["look"], parameters["augmentSeed"], values)

    def onVary(self) -> None:
        """Begin, or end where it is done already."""
        if self.varying:
            self.end()
            return
        volumes, segmentation = self.scans_chosen()
        self._source = volumes[0].GetID()
        steps = self.panel.logic.varying(volumes, segmentation, self.model(), self._device())
        self.panel.tasks.run_steps("vary", steps, self._begun, self._unavailable)

    def scans_chosen(self) -> tuple[list[Any], Any | None]:
        """Volumes and segmentation that are chosen, whatever is ticked."""
        return scene_cases.channels_of(self.ui.augmentVolume.currentNode()), self.ui.augmentSegmentation.currentNode()

    def _device(self) -> str:
        return DEVICES[self.panel.parameters["device"]]

    def _unavailable(self, error: Exception) -> bool:
        if isinstance(error, EngineUnavailable):
            self.panel.say(_("{reason} Make variations does without.").format(reason=error), True)
            return True
        return False

    def _begun(self, moving: Any) -> None:
        self._forget()
        self.moving = moving
        layout = self.ui.augmentSlidersFrame.layout()
        for direction in moving.directions:
            slider = ctk.ctkSliderWidget()
            slider.minimum, slider.maximum, slider.singleStep = direction.low, direction.high, 0.1
            slider.value = 0.0
            slider.suffix = " SD"
            slider.toolTip = direction.meaning
            slider.connect("valueChanged(double)", self._moved)
            layout.addRow(direction.name, slider)
            self.sliders[direction.name] = slider
        with explained():
            self._show(moving.coarse(self.wish()))
        show_case(self.nodes.volumes[0], self.nodes.segmentation)
        self._rest.start()
        self.panel.say(_("Move the sliders; a variation of {name} follows.").format(name=moving.case.name))
        self.panel.paint()

    def _show(self, case: Any) -> None:
        """Put the variation into its nodes, new ones where those of before are gone."""
        from dataclasses import replace

        from GEDGANLib.scene.nodes import add_case, update_case

        if self.nodes is not None and all(map(in_scene, self.nodes.every())) and self._of == id(self.moving):
            update_case(self.nodes, case)
            return
        for node in filter(in_scene, [] if self.nodes is None else self.nodes.every()):
            slicer.mrmlScene.RemoveNode(node)
        name = _("variation of {name}").format(name=self.moving.case.name)
        self.nodes, self._of = add_case(replace(case, name=name)), id(self.moving)
        for node in self.nodes.every():
            node.SetAttribute(MAP, "moved by sliders")

    def _moved(self, *_unused: Any) -> None:
        if self.moving is not None:
            self._fine = None
            self._rest.stop()
            self._timer.start()

    def _move(self) -> None:
        """Bring the scan to where the sliders are, coarsely, and finely when they rest."""
        if not self.varying:
            self.panel.paint()
            return
        begun = time.monotonic()
        try:
            with explained():
                self._show(self.moving.coarse(self.wish()))
        except Exception as error:
            self.panel.say(words_of(error), True)
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self._rest.start()

    def _refine(self) -> None:
        if self.varying:
            self._fine = self.moving.fine(self.wish())
            self._tick.start()

    def _go_on(self) -> None:
        """A slab of the fine variation, unless the sliders were moved meanwhile."""
        if self._fine is None or not self.varying:
            return
        try:
            with explained():
                next(self._fine)
        except StopIteration as stop:
            self._fine = None
            self._keep_showing(stop.value)
            return
        except Exception as error:
            self._fine = None
            self.panel.say(words_of(error), True)
            return
        self._tick.start()

    def _keep_showing(self, case: Any) -> None:
        try:
            self._show(case)
        except Exception as error:
            self.panel.say(words_of(error), True)

    def end(self) -> None:
        """Take the moving scan out of the scene; the real one is shown again."""
        volume, segmentation = self.ui.augmentVolume.currentNode(), self.ui.augmentSegmentation.currentNode()
        nodes, self.nodes = self.nodes, None
        self._forget()
        for node in filter(in_scene, nodes.every()):
            slicer.mrmlScene.RemoveNode(node)
        if in_scene(volume):
            show_case(volume, segmentation if in_scene(segmentation) else None)
        self.panel.paint()

    # Variations for keeps

    def onAugment(self) -> None:
        parameters, scans = self.panel.parameters, self.scans()
        count, wish = parameters["augmentCount"], self.wish()
        chosen = self.ui.augmentVolume.currentNode()
        moved = self.varying and chosen is not None and scene_cases.channels_of(chosen)[0].GetID() == self._source
        if not moved or self.ui.augmentTickedCheck.checked:
            wish = type(wish)(wish.strength, wish.look, wish.seed)  # sliders are of the scan that follows them
        steps = self.panel.logic.augmenting(scans, count, wish, self.model(), self._device(), self.batches.begun)
        self.panel.tasks.run_steps("augment", steps, self._made, lambda error: self._instead(error, scans, count, wish))

    def _made(self, batch: Any) -> None:
        first = batch.cases[0]
        show_case(first.volumes[0], first.segmentation)
        self.panel.say(
            _(
                "{count} variation(s) are in the scene, in one folder of the Data module. Each stems from a patient, "
                "and is treated as their scan."
            ).format(count=len(batch.cases))
        )
        self.panel.paint()

    def _instead(self, error: Exception, scans: list[Any], count: int, wish: Any) -> bool:
        """Where PyTorch does not run in Slicer, a process does the same; whether that could be begun."""
        if not isinstance(error, EngineUnavailable):
            return False
        data, folder = places.new_folder("data"), places.new_folder("variations")
        arguments = self.panel.logic.augmentCommand(scans, count, wish, self.model(), self._device(), data, folder)
        words = _("{reason} A separate process does it.").format(reason=error)

        def ended() -> None:
            shutil.rmtree(data, ignore_errors=True)  # copies of patients' scans are not left about

        self.panel.tasks.run_job("augment", arguments, lambda: self._load(folder, scans), words, ended)
        return True

    def _load(self, folder: Path, scans: list[Any]) -> None:
        def loaded(batch: Any) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            self._made(batch)

        steps = self.panel.logic.loadingVariations(folder, scans, self.batches.begun)
        self.panel.tasks.run_steps("augment", steps, loaded)

    def onUndo(self) -> None:
        self.batches.remove_last()
        self.panel.paint()

    def onExport(self) -> None:
        """Variations of all segmented scans that were aligned, with these, as a data set of nnU-Net."""
        run, parameters = self.panel.align_section.run, self.panel.parameters
        try:
            data = json.loads((run / "align.json").read_text(encoding="utf-8"))["data"]
        except (OSError, ValueError, KeyError, TypeError):
            self.panel.say(_("{run} does not say which scans were aligned.").format(run=run), True)
            return
        parent = parameters.path("export") or places.new_folder("exports")
        folder = next(
            parent / f"Dataset{number}_Variations"
            for number in range(FIRST_NUMBER, 1000)
            if not (parent / f"Dataset{number}_Variations").exists()
        )
        arguments = ["augment", run, data, "-o", folder, "-n", parameters["augmentCount"], "--with-real"]
        wish = self.wish()
        arguments += ["--strength", wish.strength, "--look", wish.look, "--seed", wish.seed]
        arguments += ["--device", self._device()]
        self.panel.tasks.run_job(
            "exportVariations", arguments, lambda: self._exported(folder), _("Making variations"), lasting=True
        )

    def _exported(self, folder: Path) -> None:
        text = _("Variations, the real scans and a split into folds are in {folder}.")
        self.panel.say(text.format(folder=folder))
