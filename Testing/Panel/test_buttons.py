"""Every button is pressed in every state: nothing is raised, nobody is left without a word."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import slicer
from acting import check_folder, idle, put_brains, start_training, tick_all
from desktop import FileDialog, pump, qt

QUICK = """
import json
print(json.dumps({"event": "progress", "stage": "reading", "progress": 0.5, "name": "one"}))
print(json.dumps({"event": "failed", "message": "A worker of this test.", "hint": ""}))
"""
WAITING = "import time; time.sleep(600)"
SILENT = ("tickAllButton", "tickNoneButton", "browseModelButton", "undoButton", "centreButton", "openReportButton")
"""What these do is seen where they do it."""


class World:
    """Brings a panel into a state, as often as wanted."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.request = request
        self.panel = request.getfixturevalue("panel")
        self.use_script = request.getfixturevalue("instead")

    def opened_only(self) -> None:
        pass

    def scene_ticked(self) -> None:
        put_brains(3)
        tick_all(self.panel)

    def folder_checked(self) -> None:
        data = self.request.getfixturevalue("cohort_folder")
        check_folder(self.panel, data, self.request.getfixturevalue("tmp_path") / "plan.json")

    def in_training(self) -> None:
        self.folder_checked()
        self.use_script(WAITING)
        start_training(self.panel)

    def stopping(self) -> None:
        self.in_training()
        self.panel.train_section.run.mkdir(parents=True)
        self.panel.ui.trainButton.click()
        assert self.panel.ui.trainButton.text == "Stopping…"

    def with_model(self) -> None:
        source = self.request.getfixturevalue("steerable_model")
        folder = self.request.getfixturevalue("tmp_path") / "model"
        shutil.copytree(source.parent, folder, dirs_exist_ok=True)
        self.panel.synthesize_section.take_model(folder / source.name)
        self.panel.ui.countSpin.value = 2

    def exploring(self) -> None:
        self.with_model()
        self.panel.ui.synthesizeButton.click()
        idle(self.panel)
        self.panel.ui.exploreButton.click()
        idle(self.panel)
        self.panel.ui.projectVolume.setCurrentNode(self.panel.explore_section.nodes.volumes[0])

    def exporting(self) -> None:
        self.with_model()
        self.use_script(WAITING)
        self.panel.ui.exportButton.click()
        assert self.panel.tasks.name == "export"

    def reporting(self) -> None:
        self.with_model()
        self.use_script(WAITING)
        self.panel.ui.reportButton.click()
        assert self.panel.judge_section.job is not None

    def anew(self, reach: str) -> None:
        """The state, from a new scene on."""
        panel = self.panel
        for job in (panel.train_section.job, panel.judge_section.job):
            if job is not None:
                job.worker.kill()
        panel.tasks.stop()
        pump(lambda: not (panel.tasks.name or panel.train_section.state or panel.judge_section.job))
        panel.train_section.run = None
        panel.logic.engine.release()
        slicer.mrmlScene.Clear(0)
        getattr(self, reach)()

    def seen(self) -> tuple:
        """What a user sees of it, and how much there is in the scene."""
        ui = self.panel.ui
        words = ui.messageLabel.text, ui.trainLabel.text, ui.setUpLabel.text
        return *words, replace(self.panel.facts(), can_end=False), slicer.mrmlScene.GetNumberOfNodes()


STATES = [name for name in vars(World) if not name.startswith("_") and name not in ("anew", "seen")]


@pytest.mark.parametrize("reach", STATES)
def test_every_button_in_this_state(request, reach, small_sample):
    FileDialog.answer = ""
    world = World(request)
    world.anew(reach)
    ui = world.panel.ui
    buttons = [name for name, widget in vars(ui).items() if isinstance(widget, qt.QPushButton)]
    assert len(buttons) >= 20
    able = [name for name in buttons if getattr(ui, name).isEnabled()]
    assert able
    for number, name in enumerate(able):
        if number:
            world.anew(reach)
        assert getattr(ui, name).isEnabled(), f"{name} cannot be pressed, though the state is the same"
        world.use_script(QUICK)  # what a worker would do has tests of its own
        world.panel.say("")
        before, task = world.seen(), world.panel.tasks.name
        getattr(ui, name).click()
        at_once = world.seen()
        pump(lambda task=task: world.panel.tasks.name in ("", task), 60)
        assert name in SILENT or at_once != before or world.seen() != before, f"{name} did nothing that can be seen"
