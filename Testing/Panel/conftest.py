"""The panel for every test, in a scene of its own, and its worker processes ended afterwards."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("PySide6")

import pythonqt
from acting import SMALL, check_folder, script
from desktop import desktop, open_module
from once import made_once
from starting import popen


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
        from GEDGANLib.jobs.worker import Worker

        if not started:
            original = Worker.start.__func__

            def start(cls, *arguments, **options):
                options.setdefault("launch", popen)
                worker = original(cls, *arguments, **options)
                started.append(worker)
                return worker

            Worker.start = classmethod(start)
            started.append((Worker, original))
        panel = open_module(GEDGANWidget)
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

    words = "No GPU that PyTorch can use: training on the processor takes an hour or more."
    qt.QSettings().setValue("GEDGAN/devices", f"{version('torch')}: {words}")
    return opened()


@pytest.fixture(scope="session")
def steerable_model(trained_model) -> Path:
    """A trained model with its run, and with its directions beside it, as where it was explored before."""
    from GEDGANLib.synthesis.directions import directions_of
    from GEDGANLib.synthesis.model_file import load_model

    folder = trained_model.parents[1] / "steerable"
    with made_once(folder) as there:
        if not there:
            shutil.copytree(trained_model.parent, folder)
            directions_of(load_model(folder / trained_model.name))
    return folder / trained_model.name


@pytest.fixture
def model(panel, steerable_model, tmp_path) -> Path:
    """A trained model in the panel's list, with the folder it learned from beside it."""
    path = tmp_path / "runs" / "brains" / "model.safetensors"
    shutil.copytree(steerable_model.parent, path.parent)
    panel.synthesize_section.take_model(path)
    return path


@pytest.fixture
def instead(panel, monkeypatch):
    """Lets the panel start a script where it would start the library."""

    original = type(panel.logic).startWorker

    def use(code: str) -> None:
        def start(self, arguments, folder, stopFile=None, launch=None, notes=None):
            return original(self, arguments, folder, stopFile, script(code), notes)

        monkeypatch.setattr(type(panel.logic), "startWorker", start)

    return use


@pytest.fixture
def hasty(panel, monkeypatch):
    """Adds options to what the panel starts, so that a worker does a small part of its real work."""

    original = type(panel.logic).startWorker

    def add(*options: str) -> None:
        def start(self, arguments, *more, **named):
            return original(self, [*arguments, *options], *more, **named)

        monkeypatch.setattr(type(panel.logic), "startWorker", start)

    return add


@pytest.fixture
def trainable(panel, cohort_folder, tmp_path):
    """A panel whose data are checked, by a plan that was made already."""
    check_folder(panel, cohort_folder, tmp_path / "plan.json")
    return panel


@pytest.fixture
def small_sample(monkeypatch):
    """The sample of "Try it" as small as the other brains of these tests."""
    from GEDGANLib.scene import sample

    monkeypatch.setattr(sample, "COUNT", 6)
    monkeypatch.setattr(sample, "SHAPE", SMALL)
    monkeypatch.setattr(sample, "SPACING", 9.0)
