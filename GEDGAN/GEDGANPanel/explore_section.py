"""Section 7: a case that follows sliders, more like it, series, the model's nearest case to a real scan."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ctk
import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from GEDGANLib.errors import InputError

from . import places
from .batches import growing_batch, in_scene
from .engine import EngineUnavailable, explained, explained_cases
from .following import words_of
from .scene_cases import MAP, SYNTHETIC
from .sections import Section
from .views import colour_as_heat, show_case, show_over

COPY, COPY_SECONDS = "-scan.nrrd", 86400.0
"""How the name of a scan's copy ends that is written for a worker, and after what time nobody needs it any more."""
MOVE_MILLISECONDS = 1
"""Between a slider's move and the new case; moves in between are taken together."""
DIFFERENCE = 0.3
"""Of "more like this", as a share of what two cases usually differ by."""


class ExploreSection(Section):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.explorer: Any | None = None
        self.nodes: Any | None = None
        self._model_of_nodes: Path | None = None
        self.sliders: dict[str, Any] = {}
        self.slowest = 0.0
        self._setting = False
        qt.QFormLayout(self.ui.slidersFrame)
        self.ui.exploreButton.connect("clicked()", panel.tasks.stop_or(self.onExplore))
        self.ui.centreButton.connect("clicked()", self.onCentre)
        self.ui.keepButton.connect("clicked()", self.onKeep)
        self.ui.moreButton.connect("clicked()", self.onMore)
        self.ui.seriesButton.connect("clicked()", panel.tasks.stop_or(self.onSeries))
        self.ui.projectButton.connect("clicked()", panel.tasks.stop_or(self.onProject))
        self.ui.projectVolume.connect("currentNodeChanged(vtkMRMLNode*)", lambda: self.panel.paint())
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(MOVE_MILLISECONDS)
        self._timer.connect("timeout()", self._move)

    @property
    def exploring(self) -> bool:
        return self.explorer is not None and self.nodes is not None and in_scene(self.nodes.volumes[0])

    def model_changed(self) -> None:
        """Sliders of another model mean nothing."""
        self.explorer = None
        layout = self.ui.slidersFrame.layout()
        for slider in self.sliders.values():
            layout.removeRow(slider)
        self.sliders = {}
        self.ui.seriesCombo.clear()

    def leave(self) -> None:
        """The panel goes away."""
        self._timer.stop()

    def scene_closed(self) -> None:
        self.nodes = None

    # Sliders

    def onExplore(self) -> None:
        self.begin(None)

    def begin(self, latent: np.ndarray | None) -> None:
        """Make the case that follows the sliders.

        :param latent: where to start from; the most typical case when not given.
        """
        section = self.panel.synthesize_section
        model = section.card.path
        steps = self.panel.logic.exploring(model, latent, section.class_name(), section.device)
        self.panel.tasks.run_steps("explore", steps, lambda explorer: self._begun(explorer, model), self._unavailable)

    def _unavailable(self, error: Exception) -> bool:
        if isinstance(error, EngineUnavailable):
            self.panel.say(_("{reason} Exploring needs it; Synthesize does without.").format(reason=error), True)
            return True
        return False

    def _begun(self, explorer: Any, model: Path) -> None:
        if not self._chosen(model):
            return
        self.model_changed()
        try:
            with explained():
                case = explorer.case({}, _("Explored case"))
        except InputError as error:
            self._unavailable(error)
            return
        self.explorer = explorer
        self._show(case, model)
        layout = self.ui.slidersFrame.layout()
        for direction in explorer.directions:
            slider = ctk.ctkSliderWidget()
            slider.minimum, slider.maximum, slider.singleStep = direction.low, direction.high, 0.1
            slider.value = 0.0
            slider.suffix = "" if direction.class_name else " SD"
            slider.toolTip = direction.meaning
            slider.connect("valueChanged(double)", self._moved)
            layout.addRow(direction.name, slider)
            self.sliders[direction.name] = slider
            self.ui.seriesCombo.addItem(direction.name)
        self.ui.seriesCombo.addItem(_("to the case of the random seed"))
        show_case(self.nodes.volumes[0], self.nodes.segmentation)
        self.panel.say(_("Move the sliders; the case follows."))
        self.panel.paint()

    def _show(self, case: Any, model: Path) -> None:
        """Put the case into the scene; into the nodes of before where they are of this model.

        Those of another model may have other channels and segments.
        """
        from GEDGANLib.scene.nodes import add_case, update_case

        nodes = [] if self.nodes is None else self.nodes.every()
        there = list(filter(in_scene, nodes))
        if nodes and there == nodes and model == self._model_of_nodes:
            update_case(self.nodes, case)
            return
        for node in there:
            slicer.mrmlScene.RemoveNode(node)
        self.nodes, self._model_of_nodes = add_case(case), model
        for node in self.nodes.every():
            node.SetAttribute(SYNTHETIC, "True")

    def _chosen(self, model: Path) -> bool:
        """Whether the model is still the one that is chosen; what another made means nothing beside it."""
        card = self.panel.synthesize_section.card
        return card is not None and card.path == model

    def values(self) -> dict[str, float]:
        return {name: float(slider.value) for name, slider in self.sliders.items()}

    def _moved(self, value: float) -> None:
        if not self._setting:
            self._timer.start()

    def _move(self) -> None:
        """Bring the case to where the sliders are."""
        from GEDGANLib.scene.nodes import update_case

        if not self.exploring:
            self.panel.paint()
            return
        begun = time.monotonic()
        try:
            with explained():
                case = self.explorer.case(self.values(), _("Explored case"))
            update_case(self.nodes, case)
        except Exception as error:
            self.panel.say(words_of(error), True)
        self.slowest = max(self.slowest, time.monotonic() - begun)

    def onCentre(self) -> None:
        self._setting = True
        for slider in self.sliders.values():
            slider.value = 0.0
        self._setting = False
        self._move()

    # From the case as it is

    def onKeep(self) -> None:
        explorer, values = self.explorer, self.values()
        self._grow((explorer.case(values, name) for name in [_("Kept case")]), 1, _("Kept cases"))

    def onMore(self) -> None:
        from GEDGANLib.synthesis.explorer import near

        explorer, count = self.explorer, self.panel.parameters["more"]
        latent, seed = explorer.latent_at(self.values()), self.panel.parameters["seed"]
        weights = explorer.class_weights_at(self.values())

        def cases():
            for index in range(count):
                origin = {"like": "an explored case", "difference": DIFFERENCE, "seed": seed, "index": index}
                name = f"alike_{seed}_{index:04d}"
                moved = near(latent, DIFFERENCE, seed, index)
                yield explorer.synthesizer.case(moved, name, origin, explorer.class_name, class_weights=weights)

        self._grow(cases(), count, _("More like the explored case"))

    def _grow(self, cases: Iterator[Any], count: int, title: str) -> None:
        begun = self.panel.synthesize_section.batches.begun
        steps = growing_batch(explained_cases(cases), count, title, begun)
        self.panel.tasks.run_steps("synthesize", steps, self._grown)

    def _grown(self, batch: Any) -> None:
        self.panel.say(_("{count} case(s) were added.").format(count=len(batch.cases)))

    def onSeries(self) -> None:
        panel = self.panel
        from GEDGANLib.synthesis.explorer import interpolate
        from GEDGANLib.synthesis.synthesizer import latent_of

        explorer, frames, seed = self.explorer, panel.parameters["frames"], panel.parameters["seed"]
        index = self.ui.seriesCombo.currentIndex
        if 0 <= index < len(explorer.directions):
            direction = explorer.directions[index]
            places_on = np.linspace(direction.low, direction.high, frames).tolist()
            others = {name: value for name, value in self.values().items() if name != direction.name}
            cases = (explorer.case({**others, direction.name: value}, f"{value:+.2f}") for value in places_on)
            name, index_name, unit = direction.name, direction.name, "SD"
        else:
            places_on = np.linspace(0, 1, frames).tolist()
            end = latent_of(seed, 0, len(explorer.latent))
            cases = interpolate(explorer.synthesizer, explorer.latent_at(self.values()), end, frames)
            name, index_name, unit = _("To the case of seed {seed}").format(seed=seed), _("share of the way"), ""

        def made():
            kept = []
            for number, case in enumerate(explained_cases(cases), 1):
                kept.append(case)
                yield number / frames, _("Frame {number} of {frames}").format(number=number, frames=frames)
            return zip(places_on, kept)

        panel.tasks.run_steps("series", made(), lambda series: self._series_made(series, name, index_name, unit))

    def _series_made(self, series: Any, name: str, index_name: str, unit: str) -> None:
        from GEDGANLib.scene.sequences import add_sequence

        nodes = add_sequence(series, name, index_name, unit)
        proxies = nodes.proxies()
        for node in (*nodes.sequences, *proxies):
            node.SetAttribute(SYNTHETIC, "True")
        if slicer.util.mainWindow() is not None:  # the toolbar takes a browser of a script only when it is told to
            slicer.modules.sequences.showSequenceBrowser(nodes.browser)
        segmented = proxies[-1].IsA("vtkMRMLSegmentationNode")
        show_case(proxies[0], proxies[-1] if segmented else None)
        self.panel.say(_("The series {name} is in the scene; the toolbar Sequences plays it.").format(name=name))

    # A real scan

    def onProject(self) -> None:
        panel = self.panel
        from GEDGANLib.scene.gather import write_scene_volume

        volume, folder = self.ui.projectVolume.currentNode(), places.new_folder("projections")
        scan = folder.with_name(f"{folder.name}{COPY}")
        try:
            write_scene_volume(volume, scan)
        except Exception as error:
            _remove(scan)
            panel.say(words_of(error), True)
            return
        section = panel.synthesize_section
        model = section.card.path
        arguments: list[Any] = ["project", model, scan, "-o", folder, "--device", section.device]
        if panel.parameters.path("healthy"):
            arguments += ["--healthy", panel.parameters.path("healthy")]
        identifier = volume.GetID()
        panel.tasks.run_job(
            "project",
            arguments,
            lambda: self._projected(folder, identifier, model),
            _("Projecting"),
            ended=lambda: _remove(scan),
        )

    def _projected(self, folder: Path, identifier: str, model: Path) -> None:
        """Put the maps beside the volume; they lie where it lay when the projection began."""
        from GEDGANLib.scene.worker_output import add_projection

        volume = slicer.mrmlScene.GetNodeByID(identifier)
        name = volume.GetName() if volume is not None else _("projected scan")
        maps, about = add_projection(folder, name)
        for kind, node in maps.items():
            node.SetAttribute(MAP, kind)
        if "anomaly" in maps:
            colour_as_heat(maps["anomaly"])
        shown = maps.get("anomaly") or next(iter(maps.values()), None)
        if volume is not None and shown is not None:
            show_over(volume, shown)
        self.panel.say(
            _("The nearest case explains {share:.0%} of {name}. More like it: move on from here.").format(
                share=about["explained"], name=name
            )
        )
        if self._chosen(model):
            self.begin(np.array(about["latent"], np.float32))

    def opened(self) -> None:
        """Remove copies of scans that a Slicer left behind that did not end by itself."""
        for copy in (places.base_folder() / "projections").glob(f"*{COPY}"):
            with suppress(OSError):
                if time.time() - copy.stat().st_mtime > COPY_SECONDS:
                    _remove(copy)


def _remove(copy: Path) -> None:
    """A copy of a patient's scan is not left about; where the system still holds it, it is removed another time."""
    with suppress(OSError):
        copy.unlink(missing_ok=True)
