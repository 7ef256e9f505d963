"""The demo's script, with a command in the place of gedgan's that fails or is killed: earlier results survive."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "Tools" / "demo.sh"


@pytest.fixture
def demo(tmp_path):
    """A finished demo, and a command that hangs in its place."""
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "scene.mrb").write_text("mine")
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\ntouch "$0.runs"\nexec sleep 30\n')
    slow.chmod(0o755)
    return folder, slow


def heed_signals() -> None:
    """A shell cannot catch what was ignored when it began, as in tests that run in the background."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(folder: Path, command: Path) -> subprocess.Popen:
    """Run the script until its first command runs."""
    runs = Path(f"{command}.runs")
    runs.unlink(missing_ok=True)
    process = subprocess.Popen(
        ["sh", str(SCRIPT), str(command), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_signals,
    )
    deadline = time.monotonic() + 20
    while not runs.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_brings_the_earlier_one_back(demo, number):
    folder, slow = demo
    process = start(folder, slow)
    os.killpg(process.pid, number)
    assert "is back" in process.communicate(timeout=20)[0]
    assert (folder / "scene.mrb").read_text() == "mine"


def test_a_killed_demo_does_not_cost_the_earlier_one(demo):
    folder, slow = demo
    process = start(folder, slow)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "scene.mrb").exists()
    process = start(folder, slow)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=20)
    assert (folder / "scene.mrb").read_text() == "mine"


def test_a_demo_that_fails_brings_the_earlier_one_back(demo):
    folder, _ = demo
    process = subprocess.run(["sh", str(SCRIPT), "false", str(folder)], capture_output=True, text=True, timeout=20)
    assert process.returncode != 0
    assert (folder / "scene.mrb").read_text() == "mine"
