"""Every combination of what the buttons depend on has a sensible look, and says what is missing."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest


@pytest.fixture
def states(slicer_desktop):
    from GEDGANPanel import states

    return states


def test_what_cannot_be_pressed_says_why(states):
    flags = [each.name for each in fields(states.Facts) if each.type == "bool"]
    for values in itertools.product((False, True), repeat=2):
        for one, two in itertools.combinations(flags, 2):
            for task, training in itertools.product(("", "plan", "synthesize"), ("", "running", "stopping")):
                facts = replace(states.Facts(ready=True), **dict(zip((one, two), values)), task=task, training=training)
                for name, look in states.looks(facts).items():
                    if name.endswith("Button") and look.visible and name not in ("tickAllButton", "tickNoneButton"):
                        assert look.tip, (name, facts)


def test_nothing_that_needs_packages_can_be_pressed_before_they_are_there(states):
    everything = {each.name: True for each in fields(states.Facts) if each.type == "bool"}
    looks = states.looks(states.Facts(**{**everything, "ready": False}))
    for name in ("checkButton", "trainButton", "synthesizeButton", "exploreButton", "reportButton", "exportButton"):
        assert not looks[name].enabled and "Set up" in looks[name].tip
    assert looks["setUpButton"].enabled and looks["setUpButton"].visible and looks["tryButton"].enabled


def test_a_button_turns_into_stop_while_its_task_runs_and_the_others_wait(states):
    busy = states.Facts(ready=True, model=True, data=True, task="synthesize")
    looks = states.looks(busy)
    assert looks["synthesizeButton"].text == "Stop" and looks["synthesizeButton"].enabled
    assert not looks["exploreButton"].enabled and "wait" in looks["exploreButton"].tip
    assert states.looks(replace(busy, task=""))["synthesizeButton"].text == "Synthesize"


def test_train_becomes_stop_becomes_end_now(states):
    facts = states.Facts(ready=True, data=True, checked=True)
    words = [
        states.looks(replace(facts, training=training, can_end=can_end))["trainButton"]
        for training, can_end in (("", False), ("running", False), ("stopping", False), ("stopping", True))
    ]
    assert [(look.text, look.enabled) for look in words] == [
        ("Train", True), ("Stop", True), ("Stopping…", False), ("End now", True),
    ]  # fmt: skip
    assert "Check and plan" in states.looks(replace(facts, checked=False))["trainButton"].tip


def test_an_export_for_nnunet_needs_segmentations(states):
    facts = states.Facts(ready=True, model=True)
    assert "segmentations" in states.looks(facts)["exportButton"].tip
    assert states.looks(replace(facts, export_kind=1))["exportButton"].enabled
