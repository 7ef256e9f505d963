"""The widgets of CTK and qMRML that the panel uses, as far as it uses them.

Their properties are Qt properties, so that values in the ``.ui`` file land in them; what the panel does not use is not
there, so that a mistyped name fails. How they look, and what else the real ones do, this does not show.
"""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal


def _plain(kind: type, name: str) -> Any:
    """A Qt property that is a plain attribute."""
    return Property(kind, lambda self: getattr(self, name), lambda self, value: setattr(self, name, value))


class CollapsibleButton(QtWidgets.QFrame):
    """ctkCollapsibleButton: a heading that folds what is below it."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self.setFrameShape(QtWidgets.QFrame.StyledPanel)
        # Room for the heading, which the real one draws itself.
        self.setContentsMargins(0, 22, 0, 0)

    def paintEvent(self, event: Any) -> None:
        from PySide6 import QtGui

        super().paintEvent(event)
        painter = QtGui.QPainter(self)
        # Properties are attributes here as they are under PythonQt.
        colour = self.property("palette").color(QtGui.QPalette.Button).darker(106)
        painter.fillRect(0, 0, self.property("width"), 20, colour)
        arrow = "▸" if self._collapsed else "▾"
        painter.drawText(8, 15, f"{arrow} {self._text}")
        painter.end()

    def mousePressEvent(self, event: Any) -> None:
        if event.position().y() <= 20:
            self.setCollapsed(not self._collapsed)

    def _get_text(self) -> str:
        return self._text

    def setText(self, text: str) -> None:
        self._text = text
        self.update()

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:
        changed, self._collapsed = self._collapsed != collapsed, bool(collapsed)
        self.fold()
        if changed:
            self.contentsCollapsed.emit(self._collapsed)

    def eventFilter(self, child: Any, event: Any) -> bool:
        """What is shown while the section is folded appears when it is unfolded."""
        if self._collapsed and event.type() == QtCore.QEvent.ShowToParent:
            child.setVisible(False)
            child.setProperty("_shown", True)
        return False

    def fold(self) -> None:
        """Bring what is inside to the section's state; the loader does so when all of it is there."""
        collapsed = self._collapsed
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly):
            child.removeEventFilter(self)
            was = child.property("_shown")
            if collapsed:
                child.setProperty("_shown", not child.isHidden() or bool(was))
                child.setVisible(False)
                child.installEventFilter(self)
            elif was is None or was:
                child.setVisible(True)
            if not collapsed:
                child.setProperty("_shown", None)

    text = Property(str, _get_text, setText)
    collapsed = Property(bool, _get_collapsed, setCollapsed)


class SliderWidget(QtWidgets.QWidget):
    """ctkSliderWidget: a slider with a spin box beside it."""

    valueChanged = Signal(float)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal, self)
        self._box = QtWidgets.QDoubleSpinBox(self)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(self._moved)
        self._slider.setRange(0, 1000)
        self._slider.sliderMoved.connect(self._slid)

    def _slid(self, place: int) -> None:
        low, high = self._box.property("minimum"), self._box.property("maximum")
        self._box.setValue(low + place / 1000 * (high - low))

    def _moved(self, value: float) -> None:
        self._place_handle()
        self.valueChanged.emit(value)

    def _place_handle(self) -> None:
        low, high, value = (self._box.property(name) for name in ("minimum", "maximum", "value"))
        self._slider.setValue(round(1000 * (value - low) / max(high - low, 1e-9)))

    def _box_property(name: str) -> Any:
        def get(self: Any) -> float:
            return self._box.property(name)

        def put(self: Any, value: float) -> None:
            self._box.setProperty(name, value)
            self._place_handle()

        return Property(float, get, put)

    value = _box_property("value")
    minimum = _box_property("minimum")
    maximum = _box_property("maximum")
    singleStep = _box_property("singleStep")
    suffix = Property(str, lambda self: self._box.property("suffix"), lambda self, text: self._box.setSuffix(text))

    def setValue(self, value: float) -> None:
        self._box.setValue(value)


class PathLineEdit(QtWidgets.QWidget):
    """ctkPathLineEdit: a line for a path and a button that browses."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._line = QtWidgets.QLineEdit(self)
        browse = QtWidgets.QToolButton(self)
        browse.setText("…")
        layout.addWidget(self._line)
        layout.addWidget(browse)
        self._settings = ""
        self._valid = False
        self._line.textChanged.connect(self._changed)

    def _changed(self, path: str) -> None:
        # An empty path is no valid one to the real widget, which then tells of the validity alone.
        if path:
            self.currentPathChanged.emit(path)
        if bool(path) != self._valid:
            self._valid = bool(path)
            self.validInputChanged.emit(self._valid)

    def _get_path(self) -> str:
        return self._line.property("text")

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    currentPath = Property(str, _get_path, setCurrentPath)
    Files, Dirs = 0x2, 0x1
    _filters = 0
    filters = _plain(int, "_filters")

    settingKey = _plain(str, "_settings")


class MRMLWidget(QtWidgets.QWidget):
    """qMRMLWidget: knows the scene, and tells when it is another."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


class NodeComboBox(QtWidgets.QComboBox):
    """qMRMLNodeComboBox: the nodes of a scene of some classes; empty, silently, as long as nobody gave it a scene."""

    currentNodeChanged = Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._types: list[str] = []
        self._none_enabled = self._children = True
        self._observers: list[int] = []
        self.currentIndexChanged.connect(lambda index: self.currentNodeChanged.emit(self.currentNode()))

    def setMRMLScene(self, scene: Any) -> None:
        for observer in self._observers:
            self._scene.RemoveObserver(observer)
        self._scene = scene
        events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent) if scene is not None else ()
        self._observers = [scene.AddObserver(event, lambda *_: self._fill()) for event in events]
        self._fill(told=True)  # also where nothing is chosen, as the real one does

    def _fill(self, told: bool = False) -> None:
        chosen = self.currentNodeID
        self.blockSignals(True)
        self.clear()
        if self._none_enabled:
            self.addItem("None", "")
        count = self._scene.GetNumberOfNodes() if self._scene is not None else 0
        for index in range(count):
            node = self._scene.GetNthNode(index)
            exact = node.GetClassName() in self._types
            if exact or (self._children and any(node.IsA(kind) for kind in self._types)):
                self.addItem(node.GetName(), node.GetID())
        place = self.findData(chosen)
        self.setCurrentIndex(max(place, 0))
        self.blockSignals(False)
        if self.currentNodeID != chosen or told:
            self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self.currentNodeID) if self._scene is not None and self.currentNodeID else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentIndex(max(self.findData("" if node is None else node.GetID()), 0))

    def _get_id(self) -> str:
        index = self.property("currentIndex")
        return (self.itemData(index) or "") if index >= 0 else ""

    def _set_id(self, identifier: str) -> None:
        self.setCurrentIndex(max(self.findData(identifier), 0))

    def _get_types(self) -> list:
        return list(self._types)

    def _set_types(self, kinds: Any) -> None:
        self._types = [kind for kind in kinds if kind]
        self._fill()

    currentNodeID = Property(str, _get_id, _set_id)
    nodeTypes = Property("QStringList", _get_types, _set_types)

    noneEnabled = _plain(bool, "_none_enabled")
    showChildNodeTypes = _plain(bool, "_children")
    _add = _remove = True
    addEnabled = _plain(bool, "_add")
    removeEnabled = _plain(bool, "_remove")


CTK = {"ctkCollapsibleButton": CollapsibleButton, "ctkSliderWidget": SliderWidget, "ctkPathLineEdit": PathLineEdit}
QMRML = {"qMRMLWidget": MRMLWidget, "qMRMLNodeComboBox": NodeComboBox}
