"""The top of the panel: what is missing in Slicer, and the button that sets it up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from GEDGANLib.errors import InputError

from . import environment, places
from .following import words_of
from .sections import Section


class SetUpSection(Section):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._requirements = Path(panel.resourcePath("requirements.txt"))  # of the packages beside PyTorch
        self.ui.setUpButton.connect("clicked()", self.onSetUp)
        self.look()

    @property
    def ready(self) -> bool:
        """Whether everything is there."""
        return self.state.ready

    def look(self) -> None:
        """Say in one line what is missing."""
        self.state = environment.look(self._requirements)
        version, found, words = places.setting(places.DEVICES).partition(": ")
        self._devices = words if found and version == self.state.torch else ""  # another PyTorch may see another GPU
        self.ui.setUpLabel.text = self.state.words(self._devices)

    def opened(self) -> None:
        self.ask_for_devices()
        self.go_on()

    def entered(self) -> None:
        self.look()
        self.ask_for_devices()

    def go_on(self) -> None:
        """After the restart that installing the extension needed: say what is next."""
        if places.setting(environment.PENDING) == "true":
            places.keep_setting(environment.PENDING, "false")
            if self.state.extension and not self.state.ready:
                self.panel.say(_("The extension PyTorch is there now. Press Set up once more for the rest."))

    def ask_for_devices(self) -> None:
        """Of a worker, so that Slicer need not start PyTorch; once, the answer is kept."""
        tasks = self.panel.tasks
        if self.ready and not self._devices and not tasks.name:
            tasks.run_job("devices", ["devices"], self._found, _("Looking for a GPU"), heard=self._heard)

    def _heard(self, event: dict) -> None:
        if event["event"] == "devices":
            self._devices = device_words(event)

    def _found(self) -> None:
        places.keep_setting(places.DEVICES, f"{self.state.torch}: {self._devices}")
        self.ui.setUpLabel.text = self.state.words(self._devices)
        self.panel.say("")

    def onSetUp(self) -> None:
        try:
            words, fault = environment.set_up(self._requirements), False
        except InputError as error:
            words, fault = words_of(error), True
        self.look()
        self.panel.say(words, fault)
        self.panel.paint()
        self.ask_for_devices()


def device_words(event: dict) -> str:
    """What can compute, in words, of a ``devices`` event."""
    best = (event.get("devices") or [{}])[0]
    if best.get("kind") in ("cuda", "mps"):
        memory = f", {best['memory_gb']:g} GB" if best.get("memory_gb") else ""
        return _("GPU: {name}{memory}.").format(name=best.get("name", ""), memory=memory)
    return _("No GPU that PyTorch can use: training on the processor takes an hour or more.")
