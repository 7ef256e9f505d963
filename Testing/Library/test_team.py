"""Several processes that train one model: the steps of one process, one writer, and an end when one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from starting import FIRST, finish, free_port, team

from GEDGANLib.errors import InputError
from GEDGANLib.jobs.checkpoint import checkpoints, load_checkpoint
from GEDGANLib.training.team import Team


@pytest.mark.parametrize("options", [(), ("--class-column", "sex")])
def test_two_processes_make_the_steps_of_one(cohort_folder, tmp_path, options):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(cohort_folder, data)
    names = [path.name.removesuffix("_0000.nii.gz") for path in sorted((data / "imagesTr").iterdir())]
    rows = ["participant_id\tsex", *(f"{name}\t{'FM'[index % 2]}" for index, name in enumerate(names))]
    (data / "participants.tsv").write_text("\n".join(rows) + "\n")
    for count in (1, 2):
        ended = finish(team(data, tmp_path / f"run{count}", count, "--steps", "4", "--events", "-", *options))
        assert [status for status, _, _ in ended] == [0] * count, ended
        if count == 2:
            events = [json.loads(line) for line in ended[0][1].splitlines()]
            assert events[-1]["event"] == "finished" and ended[1][1] == ""
            started = next(event for event in events if event["event"] == "started")
            assert started["processes"] == 2
    one, two = (load_file(tmp_path / f"run{count}" / "model.safetensors") for count in (1, 2))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=2e-3, rtol=1e-3, msg=name)
    logs = [
        [json.loads(line) for line in (tmp_path / f"run{count}" / "log.jsonl").read_text().splitlines()]
        for count in (1, 2)
    ]
    assert logs[0][-1]["step"] == logs[1][-1]["step"] == 4
    assert logs[0][0]["losses"] == pytest.approx(logs[1][0]["losses"], rel=2e-2, abs=1e-3)


def test_a_killed_process_ends_the_run_with_a_message_and_a_checkpoint(cohort_folder, tmp_path):
    run = tmp_path / "run"
    code = "import GEDGANLib.training.run as run; run.CHECKPOINT_SECONDS = 0.2"
    processes = team(cohort_folder, run, 2, "--minutes", "5", code=code)
    deadline = time.monotonic() + 100
    while len(checkpoints(run)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(processes[1].pid, signal.SIGKILL)
    (status, _, said), _ = finish(processes)
    assert status == 2 and "Another process of this training is gone" in said and "--resume" in said
    assert "Traceback" not in said
    assert load_checkpoint(run)[1]["step"] > 0
    steps = str(load_checkpoint(run)[1]["step"] + 5)
    again = finish(team(cohort_folder, run, 2, "--resume", "--steps", steps, code=code))
    assert [status for status, _, _ in again] == [0, 0], again


def test_a_stop_reaches_all(cohort_folder, tmp_path):
    run = tmp_path / "run"
    processes = team(cohort_folder, run, 2, "--minutes", "5")
    deadline = time.monotonic() + 100
    while not (run / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    (run / "STOP").touch()
    ended = finish(processes)
    assert [status for status, _, _ in ended] == [3, 3], ended
    assert (run / "model.safetensors").exists()


def test_torchrun_starts_it(cohort_folder, tmp_path):
    """The README's command."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    command += ["-m", "GEDGANLib", *FIRST, str(cohort_folder), "-o", str(tmp_path / "run"), "--steps", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("The model is") == 1 and (tmp_path / "run" / "model.safetensors").exists()


def test_parts_are_even_and_cover_all():
    parts = [list(range(12))[Team(rank, 3).part(12)] for rank in range(3)]
    assert [number for part in parts for number in part] == list(range(12)) and {len(part) for part in parts} == {4}
    with pytest.raises(InputError, match="among 3 processes"):
        Team(0, 3).part(4)
