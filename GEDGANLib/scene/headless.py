"""A scene without the desktop application, on slicer-core: for the shell, for servers and for tests.

Inside Slicer none of this is needed; there ``slicer.mrmlScene`` exists already.
"""

from __future__ import annotations

import os
import shutil
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..jobs.writing import PARTIAL, explain_unwritable

HINT = "Install it with `pip install 'gedgan[scene]'`, or load the NIfTI files into Slicer."


class _Module:
    """What ``slicer.modules.<name>`` looks like from Python."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def logic(self) -> Any:
        return self._logic


def check_installed() -> None:
    """:raises InputError: slicer-core or trame-slicer is not installed; tells without importing them."""
    import importlib.util

    if importlib.util.find_spec("slicer") is None or importlib.util.find_spec("trame_slicer") is None:
        raise InputError("Slicer scenes need the package trame-slicer, which is missing.", HINT)


def _capture_messages() -> Any:
    """Keep VTK's messages (each file of a scene, each closing of a view) out of the terminal, but where errors can
    quote them: ``GetOutput()`` of the returned window."""
    import vtk

    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    messages = vtk.vtkStringOutputWindow()
    vtk.vtkOutputWindow.SetInstance(messages)
    return messages


@contextmanager
def headless_application() -> Iterator[Any]:
    """Make the parts of Slicer's application that the library uses, and take them away again.

    VTK stays quiet afterwards, and without a screen keeps drawing through EGL.

    :returns: trame-slicer's application; ``slicer.mrmlScene``, ``slicer.app`` and ``slicer.modules`` are set.
    :raises InputError: slicer-core or trame-slicer is not installed.
    """
    # Mesa's software rendering without an X server; without this VTK tries X first and says so at length.
    without_screen = sys.platform.startswith("linux") and not os.environ.get("DISPLAY")
    if without_screen and not os.environ.get("VTK_DEFAULT_OPENGL_WINDOW"):
        os.environ["VTK_DEFAULT_OPENGL_WINDOW"] = "vtkEGLRenderWindow"
    try:
        import slicer
        import slicer.util
        from trame_slicer.core import SlicerApp
    except ImportError as error:
        raise InputError(f"Slicer scenes need the package trame-slicer, which is missing ({error}).", HINT) from error
    application = SlicerApp()
    messages = _capture_messages()
    before = {name: getattr(slicer, name, None) for name in ("mrmlScene", "app", "modules")}
    slicer.mrmlScene = application.scene
    sequences = application.register_module_logic(slicer.vtkSlicerSequencesLogic())
    slicer.modules = types.SimpleNamespace(
        segmentations=_Module(application.segmentations_logic),
        volumes=_Module(application.volumes_logic),
        sequences=_Module(sequences),
    )
    slicer.app = types.SimpleNamespace(
        applicationLogic=lambda: application.app_logic,
        pauseRender=lambda: None,
        resumeRender=lambda: None,
        processEvents=lambda *arguments: None,
    )
    application.messages = messages
    try:
        yield application
    finally:
        application.scene.Clear(True)
        for name, value in before.items():
            if value is None:
                delattr(slicer, name)
            else:
                setattr(slicer, name, value)


def save_scene(application: Any, path: Path) -> None:
    """Write the scene as ``.mrb``, beside first and renamed.

    :raises InputError: it cannot be written.
    """
    path = Path(path).resolve()
    # WriteToMRB names the folder inside the archive after the file, so the partial file gets a folder of its own.
    partial = path.parent / f"{PARTIAL}{os.getpid()}" / path.name
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        application.scene.SetRootDirectory(str(partial.parent))
        if not application.scene.WriteToMRB(str(partial)):
            raise InputError(f"{path} could not be written.", "Check that the disk has room and the folder is yours.")
        os.replace(partial, path)
    except OSError as error:
        raise explain_unwritable(path, error) from error
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)


def load_scene(application: Any, path: Path) -> None:
    """Read a ``.mrb`` or ``.mrml`` into the scene.

    :raises InputError: missing or not a scene.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no scene {path}.", "Check the path.")
    try:
        loaded = application.io_manager.load_scene(str(path))
    except Exception as error:  # zipfile's own kinds
        raise InputError(f"{path} is not a scene that Slicer can read.", "Make it anew with --scene.") from error
    if not loaded:
        raise InputError(f"{path} is not a scene that Slicer can read.", "Make it anew with --scene.")
