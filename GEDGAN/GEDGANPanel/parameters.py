"""The panel's parameters on a node of the scene: saved and loaded with it, and tied to widgets both ways.

Values are kept as text on a plain ``vtkMRMLScriptedModuleNode``, which every version of Slicer saves alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One value.

    :param widget: the widget's name in the ``.ui`` file.
    :param attribute: Qt property of it that is the value; for a combo box ``currentIndex``.
    :param signal: that tells of a change.
    :param default: decides the type as well: bool, int, float or str.
    """

    widget: str
    attribute: str
    signal: str
    default: Any


def _path(widget: str) -> Parameter:
    return Parameter(widget, "currentPath", "currentPathChanged(QString)", "")


def _whole(widget: str, default: int) -> Parameter:
    return Parameter(widget, "value", "valueChanged(int)", default)


def _real(widget: str) -> Parameter:
    return Parameter(widget, "value", "valueChanged(double)", 1.0)


def _choice(widget: str) -> Parameter:
    return Parameter(widget, "currentIndex", "currentIndexChanged(int)", 0)


def _yes(widget: str, default: bool = False) -> Parameter:
    return Parameter(widget, "checked", "toggled(bool)", default)


def _text(widget: str) -> Parameter:
    return Parameter(widget, "text", "textChanged(QString)", "")


PARAMETERS: dict[str, Parameter] = {
    "fromScene": _yes("sceneRadio"),
    "data": _path("dataPath"),
    "device": _choice("deviceCombo"),
    "spacing": _text("spacingEdit"),
    "classColumn": _text("classColumnEdit"),
    "structures": _text("structuresEdit"),
    "forSharing": _yes("forSharingCheck"),
    "strength": _real("strengthSlider"),
    "look": _real("lookSlider"),
    "augmentSeed": _whole("augmentSeedSpin", 0),
    "augmentCount": _whole("augmentCountSpin", 8),
    "minutes": _whole("minutesSpin", 60),
    "steps": _whole("stepsSpin", 0),
    "trainSeed": _whole("trainSeedSpin", 0),
    "startFrom": _path("startFromPath"),
    "run": _path("runPath"),
    "plot": _yes("plotCheck", True),
    "count": _whole("countSpin", 8),
    "seed": _whole("seedSpin", 0),
    "truncation": _real("truncationSlider"),
    "original": _yes("originalCheck"),
    "screen": _yes("screenCheck"),
    "surfaces": _yes("surfacesCheck"),
    "rendering": _yes("renderingCheck"),
    "place": _choice("placeCombo"),
    "more": _whole("moreSpin", 4),
    "frames": _whole("framesSpin", 9),
    "healthy": _path("healthyPath"),
    "reportData": _path("reportDataPath"),
    "quick": _yes("quickCheck"),
    "exportKind": _choice("exportCombo"),
    "exportCount": _whole("exportCountSpin", 200),
    "withReal": _yes("withRealCheck"),
    "export": _path("exportPath"),
}
WITHOUT_WIDGET = {"model": "", "checkedData": "", "plan": "", "checkedAs": "", "alignRun": "", "segmentRun": ""}
"""Values that no single widget shows, and their defaults: paths of the model, the checked data set, its plan, what
tells the data that were checked from others, and the folder of the last alignment."""


def to_text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def from_text(text: str, default: Any) -> Any:
    """The value in a text; the default where there is none, or nonsense."""
    if text == "":
        return default
    if isinstance(default, bool):
        return text == "true"
    try:
        return type(default)(text)
    except ValueError:
        return default


class Parameters:
    """Reads and writes a parameter node; without one there are the defaults.

    :param widgets: object with the widgets as attributes.
    :param changed: called after a widget changed a value.
    """

    def __init__(self, widgets: Any, changed: Any) -> None:
        self.node: Any | None = None
        self._widgets, self._changed, self._showing = widgets, changed, False
        for name, parameter in PARAMETERS.items():
            widget = getattr(widgets, parameter.widget)
            widget.connect(parameter.signal, lambda *_, name=name: self._take(name))
            if parameter.attribute == "currentPath":  # a path that was emptied is told of by this signal alone
                widget.connect("validInputChanged(bool)", lambda *_, name=name: self._take(name))

    def use(self, node: Any | None) -> None:
        """Take another node, and show its values; values that it lacks are written as they are by default."""
        self.node = node
        if node is not None:
            self.show()

    def show(self) -> None:
        """Bring the widgets to the node's values."""
        self._showing = True
        try:
            for name, parameter in PARAMETERS.items():
                widget, value = getattr(self._widgets, parameter.widget), self[name]
                if getattr(widget, parameter.attribute) != value:
                    setattr(widget, parameter.attribute, value)
            self._widgets.folderRadio.checked = not self["fromScene"]
        finally:
            self._showing = False

    def _take(self, name: str) -> None:
        if not self._showing:
            self[name] = getattr(self._widgets, PARAMETERS[name].widget).property(PARAMETERS[name].attribute)
            self._changed(name)

    def __getitem__(self, name: str) -> Any:
        default = PARAMETERS[name].default if name in PARAMETERS else WITHOUT_WIDGET[name]
        return default if self.node is None else from_text(self.node.GetParameter(name) or "", default)

    def path(self, name: str) -> Path | None:
        """A path that was given; None for an empty one."""
        text = self[name].strip()
        return Path(text).expanduser() if text else None

    def __setitem__(self, name: str, value: Any) -> None:
        if self.node is not None:
            self.node.SetParameter(name, to_text(value))
