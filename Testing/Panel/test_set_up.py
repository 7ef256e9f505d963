"""Getting everything installed, reloading the module."""

from __future__ import annotations

import subprocess
import sys

import pytest
import slicer
from desktop import pump


def test_set_up_asks_installs_what_is_missing_and_holds_the_rest(opened, slicer_desktop, monkeypatch, tmp_path):
    from GEDGANPanel import environment

    lacking = environment.SetUp(False, "", ("monai>=1.5",))
    states = [lacking, environment.SetUp(True, "2.9.0", ("monai>=1.5",)), environment.SetUp(True, "2.9.0", ())]
    monkeypatch.setattr(environment, "look", lambda path: states[0])
    panel = opened()
    words = panel.ui.setUpLabel.text
    assert "extension PyTorch" in words and "monai" in words and panel.ui.setUpButton.isEnabled()
    assert "Set up" in panel.ui.synthesizeButton.toolTip
    panel.ui.setUpButton.click()  # in testing mode every question is answered by no
    assert "not installed" in panel.ui.messageLabel.text and slicer_desktop.application.extensions.asked == []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *arguments, **options: True)
    panel.ui.setUpButton.click()
    assert slicer_desktop.application.extensions.asked == ["PyTorch"] and "restart" in panel.ui.messageLabel.text
    panel.ui.setUpButton.click()  # once more, before the restart
    assert slicer_desktop.application.extensions.asked == ["PyTorch"]
    states.pop(0)
    monkeypatch.setattr(environment, "look", lambda path: states.pop(0) if len(states) > 1 else states[0])
    panel.ui.setUpButton.click()
    asked = slicer_desktop.packaging.asked[0]
    assert asked["requirements"] == ["monai>=1.5"] and asked["requester"] == "GEDGAN"
    assert any(line.startswith("numpy==") for line in asked["constraints"])
    assert any(line.startswith("torch==") and "+" not in line for line in asked["constraints"])
    assert panel.ui.setUpLabel.text.startswith("Ready")


def test_after_the_restart_it_is_said_what_is_next(opened, monkeypatch):
    import qt
    from GEDGANPanel import environment

    qt.QSettings().setValue("GEDGAN/setUpPending", "true")
    monkeypatch.setattr(environment, "look", lambda path: environment.SetUp(True, "", ("monai>=1.5",)))
    assert "once more" in opened().ui.messageLabel.text
    assert "once more" not in opened().ui.messageLabel.text


def test_pytorch_comes_through_its_extension(opened, slicer_desktop, monkeypatch):
    import types

    import qt
    from GEDGANPanel import environment

    asked, answers = [], [object(), None, RuntimeError("no such wheel")]

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation=False, torchVersionRequirement=None):
            asked.append(torchVersionRequirement)
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *arguments, **options: True)
    qt.QSettings().setValue("GEDGAN/devices", "2.9.0: known")
    ready, lacking = environment.SetUp(True, "2.9.0", ()), environment.SetUp(True, "", ())
    states = [lacking, lacking, lacking, ready, ready]  # made, shown, asked for, looked at twice
    monkeypatch.setattr(environment, "look", lambda path: states.pop(0) if len(states) > 1 else states[0])
    panel = opened()
    panel.ui.setUpButton.click()
    assert asked == [">=2.4,<2.13"] and panel.ui.messageLabel.text == "Everything is there."
    states[:] = [lacking]
    for expected in ("was not installed", "no such wheel"):
        panel.set_up.look()
        panel.paint()
        panel.ui.setUpButton.click()
        assert expected in panel.ui.messageLabel.text
    assert slicer_desktop.packaging.asked == []


def test_a_failed_installation_is_explained(opened, slicer_desktop, monkeypatch):
    from GEDGANPanel import environment

    monkeypatch.setattr(environment, "look", lambda path: environment.SetUp(True, "2.9.0", ("monai>=1.5",)))
    slicer_desktop.packaging.fault = subprocess.CalledProcessError(1, "pip")
    panel = opened()
    panel.ui.setUpButton.click()
    assert "were not installed" in panel.ui.messageLabel.text and panel.ui.setUpButton.isEnabled()


def test_the_sample_works_before_anything_is_installed(opened, monkeypatch):
    from GEDGANPanel import environment

    monkeypatch.setattr(environment, "look", lambda path: environment.SetUp(True, "", ("monai>=1.5",)))
    panel = opened()
    panel.ui.tryButton.click()
    pump(lambda: not panel.tasks.name)
    assert "Press Set up" in panel.ui.messageLabel.text
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 16
    assert all(row.ticked for row in panel.data_section.rows)


@pytest.fixture
def library_as_before():
    """A reload makes new classes of the library; what other tests have imported must stay theirs."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "GEDGANLib"}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "GEDGANLib"]:
        del sys.modules[name]
    sys.modules.update(before)


def test_reloading_takes_the_library_along(library_as_before, panel):
    import GEDGANPanel.places as before

    panel.onReload()
    assert panel.reloaded
    import GEDGANPanel.places as after

    assert after is not before
