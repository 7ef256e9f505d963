"""Models that a group offers: an address, what its index offers, and a button that fetches one of them.

Nothing is asked of any address before a button is pressed.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from . import places
from .sections import Section

ADDRESS = "GEDGAN/index"
"""Setting: of the index that was looked at last."""


class IndexSection(Section):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.offered: list[dict[str, Any]] = []
        self._address = ""
        self.ui.indexEdit.text = places.setting(ADDRESS)
        self.ui.indexEdit.connect("textChanged(QString)", lambda *_: self._changed())
        self.ui.offeredCombo.connect("currentIndexChanged(int)", lambda *_: self._tell())
        self.ui.indexButton.connect("clicked()", panel.tasks.stop_or(self.onLook))
        self.ui.fetchButton.connect("clicked()", panel.tasks.stop_or(self.onFetch))

    def address(self) -> str:
        """What is written there."""
        return self.ui.indexEdit.text.strip()

    def chosen(self) -> dict[str, Any] | None:
        """The model of the index that is chosen."""
        index = self.ui.offeredCombo.currentIndex
        return self.offered[index] if 0 <= index < len(self.offered) else None

    def _changed(self) -> None:
        if self.address() != self._address:
            self._fill([])
        self.panel.paint()

    def _fill(self, offered: list[dict[str, Any]]) -> None:
        self.offered = []  # while the list is filled nothing is chosen
        self.ui.offeredCombo.clear()
        for model in offered:
            self.ui.offeredCombo.addItem(f"{model['name']} ({model['size'] / 1e6:.1f} MB)")
        self.offered = offered
        self.ui.offeredCombo.setCurrentIndex(0 if offered else -1)
        self._tell()

    def _tell(self) -> None:
        model = self.chosen()
        card = html.escape(model["card"]) if model else ""  # Qt takes what looks like HTML for that
        self.ui.offeredCombo.toolTip = card or _("What the index offers.")
        self.panel.paint()

    def onLook(self) -> None:
        """Ask the index what it offers."""
        address, found = self.address(), []

        def heard(event: dict) -> None:
            if event["event"] == "offered":
                found.extend(event["models"])

        def done() -> None:
            self._address = address
            places.keep_setting(ADDRESS, address)
            if self.address() == address:
                self._fill(found)
            self.panel.say(_("The index offers {count} model(s).").format(count=len(found)))

        self.panel.tasks.run_job("index", ["models", "--index", address], done, _("Asking the index"), heard=heard)

    def onFetch(self) -> None:
        """Fetch the chosen model, and choose it for everything else."""
        model, folder = self.chosen(), places.models_folder()
        arguments = ["models", model["name"], "--get", "--index", self._address, "--folder", folder]
        path = folder / f"{model['name']}.safetensors"
        self.panel.tasks.run_job("fetch", arguments, lambda: self._fetched(path), _("Fetching"), lasting=True)

    def _fetched(self, path: Path) -> None:
        self.panel.synthesize_section.take_model(path)
        self.panel.say(_("{path} is there, and chosen.").format(path=path))
