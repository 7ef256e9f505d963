"""The button "Try it": sample data, and then, one after the other, what a user would press.

A step of it begins the next when it has ended well; whatever else is done meanwhile does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from . import scene_cases

MINUTES, CASES = 3, 4
"""Of training, and to synthesize."""


class Tour:
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        self.panel = panel
        panel.ui.tryButton.connect("clicked()", panel.tasks.stop_or(self.begin))

    def begin(self) -> None:
        self.panel.tasks.run_steps("sample", self.panel.logic.loadingSample(), self._loaded)

    def _loaded(self, nodes: list[Any]) -> None:
        panel = self.panel
        for row in scene_cases.rows():  # the sample alone, whatever was ticked before
            scene_cases.tick(row.volume, row.volume in nodes)
        panel.parameters["fromScene"] = True
        panel.parameters.show()
        panel.data_section.refresh()
        if not panel.set_up.ready:
            text = _("The sample is in the scene. Press Set up, then Check and plan, Train and Synthesize.")
            panel.say(text, True)
            return
        panel.data_section.onCheck(then=self._train)

    def _train(self) -> None:
        if not self.panel.train_section.state:
            self.panel.train_section.start(minutes=MINUTES, then=self._synthesize)

    def _synthesize(self, model: Path) -> None:
        panel = self.panel
        card = panel.synthesize_section.card
        if panel.tasks.name or card is None or card.path != model:
            panel.say(_("The sample's model is trained and stands in the list of models. Choose it and Synthesize."))
            return
        panel.synthesize_section.in_slicer(CASES, then=self._done)

    def _done(self) -> None:
        self.panel.say(_("That was all of it: sample, plan, training, synthesis. Now take your own scans."))
