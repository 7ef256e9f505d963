"""Every combination of what the buttons depend on has a sensible look, and says what is missing."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest


@pytest.fixture
def states(slicer_desktop):
    from GEDGANPanel import states

    return states


def every_state(states):
    """Facts with each two of the flags in each way, in each state of task and training."""
    flags = [each.name for each in fields(states.Facts) if each.type == "bool"]
    for (one, two), values in itertools.product(
        itertools.combinations(flags, 2), itertools.product((False, True), repeat=2)
    ):
        for task, training in itertools.product(("", "plan", "synthesize"), ("", "running", "stopping")):
            for ready in (False, True):
                named = {"ready": ready, **dict(zip((one, two), values))}
                yield replace(states.Facts(**named), task=task, training=training)


def test_what_cannot_be_pressed_says_why(states):
    """And not what it would do."""
    promises, excuses = {}, {}
    for facts in every_state(states):
        for name, look in states.looks(facts).items():
            if name.endswith("Button") and look.visible and name not in ("tickAllButton", "tickNoneButton"):
                assert look.tip, (name, facts)
                (promises if look.enabled else excuses).setdefault(name, set()).add(look.tip)
    able = states.Facts(
        **{each.name: True for each in fields(states.Facts) if each.type == "bool" and each.name != "reporting"}
    )
    for name, look in states.looks(able).items():
        if name.endswith("Button") and look.enabled:
            promises.setdefault(name, set()).add(look.tip)
    assert len(excuses) >= 14 and len(promises) >= 14
    for name, tips in excuses.items():
        assert not tips & promises.get(name, set()), name


def test_nothing_that_needs_packages_can_be_pressed_before_they_are_there(states):
    everything = {each.name: True for each in fields(states.Facts) if each.type == "bool"}
    looks = states.looks(states.Facts(**{**everything, "ready": False, "reporting": False}))
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
