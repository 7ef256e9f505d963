"""What of Slicer's desktop application the panel touches, for tests where Slicer does not run.

The scene, its nodes and logics and ``slicer.util`` are the real ones of slicer-core. Stand-ins are: the Qt binding
(see ``pythonqt``), the widgets of CTK and qMRML (see ``widgets``), ``slicer.app`` without views, the base classes of
scripted modules, translation (which returns the text), the package installer and the extension manager (which note what
they are asked for). Where ``SLICER_SOURCE_DIR`` names a checkout of Slicer's sources, its own base classes and its own
translation are used instead of the stand-ins.

What this cannot show: how it looks in Slicer, layouts and views, real installations, restarts, reloading by Slicer's
module manager, Windows and macOS.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pythonqt
import widgets
from PySide6 import QtCore, QtUiTools

from GEDGANLib.scene.headless import _Module, headless_application

MODULE = Path(__file__).resolve().parents[2] / "GEDGAN" / "GEDGAN.py"
qt = pythonqt.install()


class UiLoader(QtUiTools.QUiLoader):
    """Loads the real ``.ui`` file; a class that is neither Qt's nor one of the stand-ins is an error."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        kind = {**widgets.CTK, **widgets.QMRML}.get(class_name)
        if kind is None:
            if class_name not in self.availableWidgets():
                raise ValueError(f"no stand-in for {class_name}")
            made = super().createWidget(class_name, parent, name)
        else:
            made = kind(parent)
        made.setProperty("objectName", name)
        self._kept.append(made)
        return made

    def load(self, file: Any, parent: Any = None) -> Any:
        root = ElementTree.fromstring(bytes(file.readAll().data()))
        file.close()
        wires = []
        for parent_element in root.iter("connections"):
            for wire in list(parent_element):
                if "vtkMRML" in wire.findtext("signal", ""):  # carries Python objects here, so uic cannot connect it
                    wires.append({part: wire.findtext(part) for part in ("sender", "signal", "receiver", "slot")})
                    parent_element.remove(wire)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        made = super().load(buffer, parent)
        made._loader = self  # what it made lives as long as the panel
        for section in made.findChildren(widgets.CollapsibleButton):
            section.fold()
        for wire in wires:
            sender = made if made.name == wire["sender"] else made.findChild(QtCore.QObject, wire["sender"])
            receiver = made.findChild(QtCore.QObject, wire["receiver"])
            sender.connect(wire["signal"], getattr(receiver, wire["slot"].split("(")[0]))
        return made


class FileDialog:
    """PythonQt returns the path alone; a test says which."""

    answer = ""

    @staticmethod
    def getOpenFileName(parent: Any, title: str, folder: str, kinds: str) -> str:
        return FileDialog.answer


class DesktopServices:
    """Notes what would have been opened."""

    opened: ClassVar[list[str]] = []
    works = True

    @staticmethod
    def openUrl(url: Any) -> bool:
        DesktopServices.opened.append(url.toLocalFile())
        return DesktopServices.works


class Manager:
    """``slicer.app.moduleManager()``; nothing is ever unloaded."""

    def connect(self, signal: str, function: Any) -> None:
        pass

    disconnect = connect


class ExtensionsModel:
    """``slicer.app.extensionsManagerModel()``."""

    interactive = True

    def __init__(self, works: bool = True) -> None:
        self.works, self.asked = works, []

    def isExtensionInstalled(self, name: str) -> bool:
        return name in self.asked

    def installExtensionFromServer(self, name: str, restart: bool = True) -> bool:
        assert not self.interactive and not restart
        self.asked.append(name)
        return self.works


class Application:
    """``slicer.app``."""

    applicationName = "Slicer"

    def __init__(self, core: Any) -> None:
        self._core, self.startup, self.extensions = core, [], ExtensionsModel()
        self.temporaryPath = tempfile.gettempdir()

    def applicationLogic(self) -> Any:
        return self._core.app_logic

    def mrmlScene(self) -> Any:
        return self._core.scene

    def testingEnabled(self) -> bool:
        return True

    def processEvents(self, *arguments: Any) -> None:
        qt.QApplication.processEvents()

    def pauseRender(self) -> None:
        pass

    resumeRender = pauseRender

    def layoutManager(self) -> None:
        return None

    def topLevelWidgets(self) -> list[Any]:
        return list(qt.QApplication.topLevelWidgets())

    def moduleManager(self) -> Manager:
        return Manager()

    def extensionsManagerModel(self) -> ExtensionsModel:
        return self.extensions

    def translate(self, context: str, text: str) -> str:
        return text

    def connect(self, signal: str, function: Any) -> None:
        assert signal == "startupCompleted()"
        self.startup.append(function)


def _base_classes() -> types.ModuleType:
    """``slicer.ScriptedLoadableModule``, as far as the panel leans on it."""
    import unittest

    import slicer

    class ScriptedLoadableModule:
        def __init__(self, parent: Any) -> None:
            self.parent = parent

        def resourcePath(self, name: str) -> str:
            return str(MODULE.parent / "Resources" / name)

    class ScriptedLoadableModuleWidget:
        def __init__(self, parent: Any = None) -> None:
            self.parent = parent if parent is not None else widgets.MRMLWidget()
            if self.parent.layout() is None:
                self.parent.setLayout(qt.QVBoxLayout())
            self.layout = self.parent.layout()

        def setup(self) -> None:
            pass

        def resourcePath(self, name: str) -> str:
            return str(MODULE.parent / "Resources" / name)

        def onReload(self) -> None:
            self.reloaded = True

    class ScriptedLoadableModuleLogic:
        def __init__(self, parent: Any = None) -> None:
            self.moduleName = type(self).__name__.removesuffix("Logic")

        def getParameterNode(self) -> Any:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is None:
                node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
                node.UnRegister(None)
                node.SetSingletonTag(self.moduleName)
                node.SetAttribute("ModuleName", self.moduleName)
                node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
                node = slicer.mrmlScene.AddNode(node)
            elif node.GetAttribute("ModuleName") != self.moduleName:  # closing a scene keeps singletons, emptied
                node.SetAttribute("ModuleName", self.moduleName)
            return node

    class ScriptedLoadableModuleTest(unittest.TestCase):
        def delayDisplay(self, message: str, requestedDelay: Any = None) -> None:
            pass

    module = types.ModuleType("slicer.ScriptedLoadableModule")
    for kind in (
        ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic, ScriptedLoadableModuleTest,
    ):  # fmt: skip
        setattr(module, kind.__name__, kind)
    return module


def _of_slicers_sources(name: str, otherwise: Any) -> types.ModuleType:
    """The module of Slicer's own sources where those are at hand, else the stand-in."""
    sources = os.environ.get("SLICER_SOURCE_DIR")
    if not sources:
        return otherwise()
    path = Path(sources) / "Base" / "Python" / "slicer" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"slicer.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _translation() -> types.ModuleType:
    module = types.ModuleType("slicer.i18n")

    def tr(text: str) -> str:
        assert isinstance(text, str) and text
        return text

    module.tr, module.translate = tr, lambda context, text: text
    return module


class Packaging(types.ModuleType):
    """``slicer.packaging``: notes what it is asked to install."""

    def __init__(self) -> None:
        super().__init__("slicer.packaging")
        self.__spec__ = types.SimpleNamespace(name="slicer.packaging")
        self.asked: list[dict] = []
        self.fault: Exception | None = None

    def pip_ensure(self, requirements: Any, constraints: Any = None, requester: Any = None) -> None:
        held = Path(constraints).read_text().split()
        self.asked.append({"requirements": requirements, "constraints": held, "requester": requester})
        if self.fault is not None:
            raise self.fault


class SampleData(types.ModuleType):
    """``SampleData``: keeps what is registered."""

    def __init__(self) -> None:
        super().__init__("SampleData")
        self.sources: list[dict] = []
        self.categories: dict[str, str] = {}
        module = self

        class SampleDataLogic:
            @staticmethod
            def registerCustomSampleDataCategory(category: str, title: str) -> None:
                module.categories[category] = title

            @staticmethod
            def registerCustomSampleDataSource(
                category: str = "Custom", sampleName: Any = None, uris: Any = None, fileNames: Any = None,
                nodeNames: Any = None, customDownloader: Any = None, thumbnailFileName: Any = None,
            ) -> None:  # fmt: skip
                assert len(uris) and len(fileNames)  # Slicer counts them, whatever downloads
                module.sources.append(
                    {"name": sampleName, "download": customDownloader, "thumbnail": thumbnailFileName}
                )

        self.SampleDataLogic = SampleDataLogic


@contextmanager
def desktop(folder: Path) -> Iterator[Any]:
    """Slicer as the panel sees it.

    :param folder: for settings and for what the panel writes.
    :returns: an object with ``application``, ``packaging``, ``samples``, ``scene`` and ``core`` (trame-slicer's).
    """
    import slicer

    qt.QApplication.instance() or qt.QApplication([])
    qt.QCoreApplication.setOrganizationName("GEDGAN tests")
    qt.QCoreApplication.setApplicationName("panel")
    qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
    qt.QSettings.setPath(qt.QSettings.IniFormat, qt.QSettings.UserScope, str(folder / "settings"))
    qt.QUiLoader, qt.QFileDialog, qt.QDesktopServices = UiLoader, FileDialog, DesktopServices
    ctk = types.ModuleType("ctk")
    for name, kind in widgets.CTK.items():
        setattr(ctk, name, kind)
    packaging, samples = Packaging(), SampleData()
    with headless_application() as core:
        application = Application(core)
        slicer.app = application
        plots = core.register_module_logic(slicer.vtkSlicerPlotsLogic())
        slicer.modules.plots = _Module(plots)
        slicer.modules.volumerendering = _Module(core.volume_rendering)
        slicer.modules.gedgan = types.SimpleNamespace(path=str(MODULE))
        given = {"qt": qt, "ctk": ctk, "SampleData": samples, "slicer.packaging": packaging}
        before = {name: sys.modules.get(name) for name in (*given, "slicer.i18n", "slicer.ScriptedLoadableModule")}
        sys.modules.update(given)
        sys.modules["slicer.i18n"] = _of_slicers_sources("i18n", _translation)
        sys.modules["slicer.ScriptedLoadableModule"] = _of_slicers_sources("ScriptedLoadableModule", _base_classes)
        slicer.packaging, slicer.i18n = packaging, sys.modules["slicer.i18n"]
        sys.path.insert(0, str(MODULE.parent))
        settings = qt.QSettings()
        settings.clear()
        settings.setValue("GEDGAN/folder", str(folder / "GEDGAN"))
        try:
            yield types.SimpleNamespace(
                application=application, packaging=packaging, samples=samples, scene=core.scene, core=core
            )
        finally:
            sys.path.remove(str(MODULE.parent))
            for name, module in before.items():
                if module is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = module
            for name in [name for name in sys.modules if name.split(".")[0] in ("GEDGAN", "GEDGANPanel")]:
                del sys.modules[name]
            del slicer.packaging, slicer.i18n


def new_parent() -> Any:
    """What Slicer gives a module's widget to live in."""
    parent = widgets.MRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    parent.isEntered = False
    return parent


def open_module(widget_class: Any) -> Any:
    """A module's widget as Slicer makes it when its module is shown for the first time."""
    panel = widget_class(new_parent())
    panel.setup()
    panel.parent.isEntered = True
    panel.enter()
    return panel


def pump(condition: Any, seconds: float = 60.0) -> Any:
    """Let Qt work until a condition holds.

    :raises AssertionError: it did not in time.
    """
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        qt.QApplication.processEvents()
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


def picture(panel: Any, path: Path, width: int = 460) -> None:
    """The whole panel as a PNG, as high as it needs to be."""
    widget = panel.parent
    widget.show()  # off screen; only what is shown is laid out
    for _ in range(3):  # a text that wraps needs its width before its height is known
        widget.resize(width, max(widget.layout().totalSizeHint().height(), widget.layout().heightForWidth(width)))
        qt.QApplication.processEvents()
    path.parent.mkdir(parents=True, exist_ok=True)
    assert widget.grab().save(os.fspath(path))
