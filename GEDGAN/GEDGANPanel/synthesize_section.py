"""Section 6: which model, and new cases from it in the scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from GEDGANLib.errors import InputError

from . import places
from .batches import Batches
from .data_section import DEVICES
from .engine import EngineUnavailable
from .following import words_of
from .model_card import ModelCard
from .sections import Section
from .synthesis_request import SynthesisRequest
from .views import render_volume, show_case


class SynthesizeSection(Section):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.card: ModelCard | None = None
        self.batches = Batches()
        self._paths: list[Path] = []
        self._filling = False
        self.ui.modelCombo.connect("currentIndexChanged(int)", self._chosen)
        self.ui.browseModelButton.connect("clicked()", self.onBrowse)
        self.ui.synthesizeButton.connect("clicked()", panel.tasks.stop_or(self.onSynthesize))
        self.ui.undoButton.connect("clicked()", self.onUndo)
        self.ui.releaseButton.connect("clicked()", self.onRelease)

    def scene_closed(self) -> None:
        self.batches.forget()

    # The model

    def refresh(self) -> None:
        """Fill the list of models, those that have a name first; the one of the scene's parameters is chosen, if it is
        there."""
        wanted = self.panel.parameters["model"]
        named = places.named_models()
        self._paths = [*named, *(path for path in places.recent_models() if path not in named)]
        if wanted and Path(wanted).is_file() and Path(wanted) not in self._paths:
            self._paths.insert(len(named), Path(wanted))
        self._filling = True
        try:
            self.ui.modelCombo.clear()
            self.ui.modelCombo.addItem(_("choose a model"))
            for path in self._paths:
                self.ui.modelCombo.addItem(path.parent.name if path.stem == "model" else path.stem)
            index = self._paths.index(Path(wanted)) + 1 if wanted and Path(wanted) in self._paths else 0
            self.ui.modelCombo.setCurrentIndex(index)
        finally:
            self._filling = False
        self._show(self._paths[index - 1] if index else None)

    def take_model(self, path: Path) -> None:
        """Choose a model file, and remember it."""
        places.remember_model(Path(path))
        if self.panel.parameters.node is None:  # a training ended while another module is shown, in a new scene
            self.panel.initializeParameterNode()
        self.panel.parameters["model"] = str(path)
        self.refresh()

    def _chosen(self, index: int) -> None:
        if self._filling:
            return
        path = self._paths[index - 1] if 0 < index <= len(self._paths) else None
        self.panel.parameters["model"] = "" if path is None else str(path)
        self._show(path)

    def _show(self, path: Path | None) -> None:
        before = None if self.card is None else self.card.path
        self.card = None
        if path is None:
            self.ui.modelCard.setHtml("")
        else:
            try:
                self.card = ModelCard.read(path)
                self.ui.modelCard.setHtml(self.card.as_html())
                self.ui.modelCard.moveCursor(qt.QTextCursor.Start)
            except InputError as error:
                self.ui.modelCard.setHtml("")
                self.panel.say(words_of(error), True)
        if before != (None if self.card is None else self.card.path) or self.ui.classCombo.count == 0:
            classes = () if self.card is None else self.card.plan.classes
            self.ui.classCombo.clear()
            for name in (_("as in the training"), *classes):
                self.ui.classCombo.addItem(name)
            self.panel.explore_section.model_changed()
        self.panel.paint()

    def onBrowse(self) -> None:
        start = str(self._paths[0].parent if self._paths else places.base_folder())
        title, kinds = _("Choose a model"), _("Models of GED-GAN (*.safetensors)")
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, start, kinds)
        if path:
            self.take_model(Path(path))

    @property
    def device(self) -> str:
        return DEVICES[self.panel.parameters["device"]]

    def class_name(self) -> str | None:
        index = self.ui.classCombo.currentIndex
        return self.card.plan.classes[index - 1] if index > 0 else None

    # New cases

    def request(self, count: int | None = None) -> SynthesisRequest:
        """What the panel asks for.

        :param count: instead of what the panel says.
        """
        parameters = self.panel.parameters
        return SynthesisRequest(
            self.card.path,
            count or parameters["count"],
            parameters["seed"],
            parameters["truncation"],
            parameters["original"],
            self.class_name(),
            self.device,
        )

    def onSynthesize(self) -> None:
        panel = self.panel
        if panel.parameters["screen"] and self.card.training_data() is None:
            text = _("The folder of the training cases is not known or gone; nothing can be compared with them.")
            panel.say(text, True)
        elif panel.parameters["place"] == 1 or panel.parameters["screen"]:
            self._by_worker(self.request(), self.card)
        else:
            self.in_slicer()

    def in_slicer(self, count: int | None = None, then: Callable[[], Any] = lambda: None) -> None:
        """Make cases in this process; where that is impossible, in a worker.

        :param count: instead of what the panel says.
        :param then: called when they are in the scene.
        """
        request, card = self.request(count), self.card
        steps = self.panel.logic.synthesizing(request, self.batches.begun)
        self.panel.tasks.run_steps(
            "synthesize",
            steps,
            lambda batch: self._made(batch, then),
            lambda error: self._instead(error, request, card, then),
        )

    def _instead(self, error: Exception, request: SynthesisRequest, card: ModelCard, then: Callable[[], Any]) -> bool:
        """Whether another way was found."""
        if not isinstance(error, EngineUnavailable):
            return False
        self._by_worker(request, card, then, _("{reason} A separate process does it.").format(reason=error))
        return True

    def _by_worker(
        self, request: SynthesisRequest, card: ModelCard, then: Callable[[], Any] = lambda: None, words: str = ""
    ) -> None:
        folder = places.new_folder("synthesized")
        screen = card.training_data() if self.panel.parameters["screen"] else None
        self.panel.tasks.run_job(
            "synthesize",
            request.command(folder, screen),
            lambda: self._load(folder, card.plan, then),
            words or _("Synthesizing"),
        )

    def _load(self, folder: Path, plan: Any, then: Callable[[], Any]) -> None:
        steps = self.panel.logic.loading(folder, plan, self.batches.begun)
        self.panel.tasks.run_steps("synthesize", steps, lambda batch: self._made(batch, then))

    def _made(self, batch: Any, then: Callable[[], Any]) -> None:
        """Show what was made, the first case in the views."""
        first = batch.cases[0]
        show_case(first.volumes[0], first.segmentation)
        if self.panel.parameters["surfaces"]:
            from GEDGANLib.scene.nodes import show_surfaces

            show_surfaces(first)
        if self.panel.parameters["rendering"]:
            render_volume(first.volumes[0])
        self.panel.say(
            _(
                "{count} case(s) are in the scene, in one folder of the Data module. They are synthetic, not patients."
            ).format(count=len(batch.cases))
        )
        self.panel.paint()
        then()

    def onUndo(self) -> None:
        self.batches.remove_last()
        self.panel.paint()

    def onRelease(self) -> None:
        self.panel.explore_section.model_changed()
        self.panel.logic.engine.release()
        self.panel.say(_("The memory is given back."))
        self.panel.paint()
