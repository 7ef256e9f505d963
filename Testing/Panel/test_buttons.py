"""Every button is pressed in every state: nothing is raised, nobody is left without a word."""

from __future__ import annotations

import pytest
from acting import idle, put_brains, start_training, tick_all
from desktop import FileDialog, pump, qt

QUICK = """
import json, sys
print(json.dumps({"event": "progress", "stage": "reading", "progress": 0.5, "name": "one"}))
print(json.dumps({"event": "failed", "message": "A worker of this test.", "hint": ""}))
"""
WAITING = "import time; time.sleep(600)"
SILENT = ("tickAllButton", "tickNoneButton", "browseModelButton", "undoButton", "centreButton")
"""What these do is seen where they do it."""


def opened_only(panel, request):
    pass


def scene_ticked(panel, request):
    put_brains(3)
    tick_all(panel)


def folder_checked(panel, request):
    request.getfixturevalue("trainable")


def in_training(panel, request):
    request.getfixturevalue("trainable")
    request.getfixturevalue("instead")(WAITING)
    start_training(panel)


def stopping(panel, request):
    in_training(panel, request)
    panel.train_section.run.mkdir(parents=True)
    panel.ui.trainButton.click()
    assert panel.ui.trainButton.text == "Stopping…"


def with_model(panel, request):
    request.getfixturevalue("model")


def with_batch_exploring(panel, request):
    with_model(panel, request)
    panel.ui.countSpin.value = 2
    panel.ui.synthesizeButton.click()
    idle(panel)
    panel.ui.exploreButton.click()
    idle(panel)
    panel.ui.projectVolume.setCurrentNode(panel.synthesize_section.batches.last.cases[0].volumes[0])


def exporting(panel, request):
    with_model(panel, request)
    request.getfixturevalue("instead")(WAITING)
    panel.ui.exportButton.click()
    assert panel.tasks.name == "export"


def reporting(panel, request):
    with_model(panel, request)
    request.getfixturevalue("instead")(WAITING)
    panel.ui.reportButton.click()
    assert panel.judge_section.job is not None


def stay(panel) -> None:
    """Let whatever was begun come to its end, or to a training or report that goes on."""
    pump(lambda: not panel.tasks.name, 60)


STATES = (
    *(opened_only, scene_ticked, folder_checked, in_training, stopping),
    *(with_model, with_batch_exploring, exporting, reporting),
)


@pytest.mark.parametrize("reach", STATES, ids=lambda reach: reach.__name__)
def test_every_button_in_this_state(panel, request, reach, small_sample):
    FileDialog.answer = ""
    reach(panel, request)
    state = panel.facts()
    buttons = [name for name, widget in vars(panel.ui).items() if isinstance(widget, qt.QPushButton)]
    assert len(buttons) >= 20
    # What is pressed here starts workers that fail at once: what they would do has tests of its own.
    request.getfixturevalue("instead")(QUICK)
    able = [name for name in buttons if getattr(panel.ui, name).isEnabled()]
    for name in buttons:
        button = getattr(panel.ui, name)
        if name not in able:
            assert panel.facts() == state
            button.click()
            assert panel.facts() == state, f"{name} did something, though it cannot be pressed"
    for name in able:
        button = getattr(panel.ui, name)
        panel.say("")
        button.click()
        if name not in SILENT:
            heard = panel.ui.messageLabel.text, panel.ui.trainLabel.text, panel.tasks.name, panel.train_section.state
            assert any(heard), f"{name} said nothing"
        stay(panel)
