"""Faults that a review found, each with the run that shows it: starts, stops, teams, classes, memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from starting import FIRST, finish, popen, team

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.jobs.checkpoint import checkpoints
from GEDGANLib.networks.parts import FACTOR
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.planning.fitting import fitted
from GEDGANLib.synthesis.model_file import save_model
from GEDGANLib.training.request import Limit, Request, claim_run_folder
from GEDGANLib.training.run import train
from GEDGANLib.training.sampling import Draws, Sampler
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.pipeline import COARSE_FACTOR


def quiet(event, **fields):
    pass


def rows(folder: Path, column: str, values) -> None:
    names = [case.name for case in find_dataset(folder).cases]
    lines = [f"participant_id\t{column}", *(f"{name}\t{value}" for name, value in zip(names, values))]
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")


def test_a_stale_model_is_not_taken_for_the_last_one(small_plan, small_cases, tmp_path):
    """Stopped at 2, resumed to 4, killed while the model was being written: the next resumption writes it."""
    run = tmp_path / "run"
    claim_run_folder(run, False)
    train(small_plan, small_cases, run, Limit(steps=2), "cpu", 0, quiet, save_model)
    with pytest.raises(ZeroDivisionError):
        train(small_plan, small_cases, run, Limit(steps=4), "cpu", 0, quiet, lambda *things: 1 / 0, resume=True)
    train(small_plan, small_cases, run, None, "cpu", None, quiet, save_model, resume=True)
    assert Request.load(run).model_step == 4
    with pytest.raises(InputError, match="at step 4 already"):
        train(small_plan, small_cases, run, None, "cpu", None, quiet, save_model, resume=True)


def test_a_run_killed_while_it_got_ready_begins_anew(cohort_folder, tmp_path):
    run = tmp_path / "run"
    code = (
        "import time, GEDGANLib.volumes.prepared as prepared\n"
        "original = prepared.load_working_cases\n"
        "def slowly(*arguments):\n"
        "    for case in original(*arguments):\n"
        "        yield case\n"
        "        time.sleep(30)\n"
        "prepared.load_working_cases = slowly\n"
        "from GEDGANLib.commands.main import main; raise SystemExit(main())"
    )
    command = [sys.executable, "-c", code, *FIRST, str(cohort_folder), "-o", str(run), "--steps", "1"]
    worker = popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(run.glob(".partial-*-prepared/images.npy")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert (run / ".preparing").exists() and not (run / "run.json").exists()
    assert main([*FIRST, str(cohort_folder), "-o", str(run), "--steps", "1"]) == 0
    assert not list(run.glob(".p*"))
    # Files of the user's own are still nobody's to write over.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.json").write_text("mine")
    assert main([*FIRST, str(cohort_folder), "-o", str(tmp_path / "other"), "--steps", "1"]) == 2


def test_a_second_resumption_leaves_the_prepared_cases_of_the_first_alone(data, tmp_path, capsys):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "GEDGANLib", *FIRST, str(data), "-o", str(run), "--minutes", "5"]
    worker = popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (run / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    before = (run / "prepared" / "images.npy").stat().st_ino
    next((data / "imagesTr").iterdir()).unlink()
    assert main(["train", str(data), "-o", str(run), "--resume"]) == 2
    assert "Another process is working" in capsys.readouterr().err
    assert (run / "prepared" / "images.npy").stat().st_ino == before
    worker.kill()
    worker.wait()


def test_a_plan_and_a_run_remember_their_class_column(data, tmp_path, capsys):
    rows(data, "sex", "FMFMFM")
    plan, run = tmp_path / "plan.json", tmp_path / "run"
    assert main(["plan", str(data), "-o", str(plan), "--class-column", "sex"]) == 0
    assert main(["train", str(data), "-o", str(run), "--plan", str(plan), "--steps", "1"]) == 0
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert sum(kind["cases"] for kind in line["classes"].values()) == line["cases_seen"]
    assert main(["train", str(data), "-o", str(run), "--resume", "--steps", "2"]) == 0
    (data / "participants.tsv").unlink()
    capsys.readouterr()
    assert main(["train", str(data), "-o", str(tmp_path / "other"), "--plan", str(plan), "--steps", "1"]) == 2
    assert "participants.tsv" in capsys.readouterr().err


def test_a_model_is_where_every_process_starts(cohort_folder, data, tmp_path):
    """And a run that starts from one does so too after a kill before its first checkpoint."""
    model = tmp_path / "model" / "model.safetensors"
    assert main([*FIRST, str(cohort_folder), "-o", str(model.parent), "--steps", "3"]) == 0
    made = []
    for size in (1, 2):
        run = tmp_path / f"run{size}"
        ended = finish(team(data, run, size, "--from", str(model), "--steps", "2", training=["train"]))
        assert [status for status, _, _ in ended] == [0] * size, ended
        made.append(load_file(run / "model.safetensors"))
    for name, weight in made[0].items():
        torch.testing.assert_close(made[1][name], weight, atol=2e-3, rtol=1e-3, msg=name)
    run = tmp_path / "run1"
    for path in (*checkpoints(run), run / "model.safetensors"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(["train", str(data), "-o", str(run), "--resume", "--steps", "2"]) == 0
    again = load_file(run / "model.safetensors")
    for name, weight in made[0].items():
        torch.testing.assert_close(again[name], weight, atol=1e-4, rtol=1e-4, msg=name)


def test_the_statistics_are_those_of_the_cases_as_they_are_drawn():
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    labelled = torch.tensor([True, True, False, False])
    sampler = Sampler(Draws(0), weights, labelled, labelled_share=0.5)
    drawn = torch.cat([sampler.choose(step, 4) for step in range(5000)])
    found = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(found.double(), sampler.probabilities(4), atol=0.01, rtol=0)


def test_batches_shrink_before_a_plan_is_refused_and_suit_the_processes(cohort_folder):
    fingerprint = check_dataset(find_dataset(cohort_folder))
    plan = make_plan(fingerprint, "cpu", spacing=(3.0,) * 3)
    least = replace(plan, training=replace(plan.training, batch=2))
    from GEDGANLib.planning.choosing import predicted

    room = 1.1e9 * predicted(least, "cpu").prediction.memory_gb
    smaller = fitted(plan, fingerprint, "cpu", available=room)
    assert smaller.training.batch == 2 and smaller.training.penalty_weight == 2 * plan.training.penalty_weight
    assert "would not fit the memory" in smaller.reasons[-1]
    shared = fitted(plan, fingerprint, "cpu", processes=3, available=1e12)
    assert shared.training.batch == 6 and "3 processes" in shared.reasons[-1]
    # The batch is spread over as many GPUs: what is too much for one process may do for four.
    assert fitted(plan, fingerprint, "cpu", processes=4, available=room).training.batch == 4


def test_a_checkpoint_is_not_mapped_into_memory(small_plan, small_cases, tmp_path):
    """A mapped file cannot be removed on Windows, nor its folder on NFS."""
    from GEDGANLib.jobs.checkpoint import load_checkpoint

    run = tmp_path / "run"
    claim_run_folder(run, False)
    train(small_plan, small_cases, run, Limit(steps=1), "cpu", 0, quiet, save_model)
    tensors, _ = load_checkpoint(run)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs a system that tells what is mapped")
    assert str(run) not in maps.read_text() and tensors


def test_both_factors_are_one():
    """The networks and the volumes know nothing of each other, but mean the same by coarse."""
    assert FACTOR == COARSE_FACTOR


def test_a_stop_given_while_the_cases_are_read_is_heard(cohort_folder, tmp_path, monkeypatch):
    from GEDGANLib.volumes import prepared

    run, original = tmp_path / "run", prepared.load_working_cases

    def stopping(*arguments):
        (run / "STOP").touch()
        yield from original(*arguments)

    monkeypatch.setattr(prepared, "load_working_cases", stopping)
    assert main([*FIRST, str(cohort_folder), "-o", str(run), "--minutes", "5"]) == 3
    assert (run / "model.safetensors").exists()
