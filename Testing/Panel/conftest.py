"""The panel for every test, in a scene of its own, and its worker processes ended afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("PySide6")

import pythonqt
from desktop import desktop, new_parent


@pytest.fixture
def slicer_desktop(tmp_path):
    """Slicer as the panel sees it, see ``desktop.desktop``."""
    with desktop(tmp_path) as found:
        pythonqt.EXCEPTIONS.clear()
        yield found


@pytest.fixture
def opened(slicer_desktop):
    """Opens panels; a second one is a second instance of the module's widget. Checks that nothing was raised."""
    panels, started = [], []

    def open_panel():
        from GEDGAN import GEDGANWidget
        from GEDGANLib.worker import Worker

        if not started:
            original = Worker.start.__func__

            def start(cls, *arguments, **options):
                worker = original(cls, *arguments, **options)
                started.append(worker)
                return worker

            Worker.start = classmethod(start)
            started.append((Worker, original))
        panel = GEDGANWidget(new_parent())
        panel.setup()
        panels.append(panel)
        return panel

    yield open_panel
    for panel in panels:
        panel.cleanup()
    if started:
        kind, original = started[0]
        kind.start = classmethod(original)
    for worker in started[1:]:
        worker.kill()
    assert not pythonqt.EXCEPTIONS, pythonqt.EXCEPTIONS[0]


@pytest.fixture
def panel(opened):
    """An open panel for which everything is installed and the devices are known."""
    import qt

    qt.QSettings().setValue("GEDGAN/devices", "No GPU that PyTorch can use: training takes hours on the processor.")
    return opened()


@pytest.fixture
def model(panel, trained_model, tmp_path) -> Path:
    """A trained model in the panel's list, with the folder it learned from beside it."""
    path = tmp_path / "runs" / "brains" / "model.safetensors"
    shutil.copytree(trained_model.parent, path.parent)
    panel.synthesize_section.take_model(path)
    return path
