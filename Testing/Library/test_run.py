"""Trainings as whole: the same seed gives the same weights, stopping and killing lose nothing, events tell all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from starting import FIRST, popen
from starting import run as started

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError, StoppedOnRequest
from GEDGANLib.jobs.checkpoint import KEPT, checkpoints, load_checkpoint, save_checkpoint
from GEDGANLib.synthesis.model_file import load_model, save_model
from GEDGANLib.training.request import Limit, claim_run_folder
from GEDGANLib.training.run import Options, train


def quiet(event, **fields):
    pass


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def train_steps(plan, cases, run, steps, seed=0, **options):
    claim_run_folder(run, options.get("resume", False))
    return train(plan, cases, run, Limit(steps=steps), "cpu", seed, quiet, save_model, **options)


@pytest.fixture
def same_clock(monkeypatch):
    """Seconds of training stand in the model file; hold them still where files are compared byte for byte."""
    monkeypatch.setattr("GEDGANLib.training.run.time.monotonic", lambda: 0.0)


def test_same_seed_same_model_file(small_plan, small_cases, tmp_path, same_clock):
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        train_steps(small_plan, small_cases, tmp_path / name, 3, seed)
    assert weights(tmp_path / "first") == weights(tmp_path / "again")
    assert weights(tmp_path / "first") != weights(tmp_path / "other")


def test_stopping_keeps_everything_and_resuming_goes_on_bit_for_bit(small_plan, small_cases, tmp_path, same_clock):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_steps(small_plan, small_cases, whole, 5)

    def stop_at_two(event, **fields):
        if event == "progress" and fields["step"] == 2:
            (parts / "STOP").touch()

    claim_run_folder(parts, False)
    with pytest.raises(StoppedOnRequest, match="step 2"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("GEDGANLib.training.run.PROGRESS_SECONDS", -1.0)
        train(small_plan, small_cases, parts, Limit(steps=5), "cpu", 0, stop_at_two, save_model)
    assert (parts / "model.safetensors").exists() and not (parts / "STOP").exists()
    train_steps(small_plan, small_cases, parts, 5, resume=True)
    assert weights(parts) == weights(whole)


def test_resuming_with_another_plan_is_refused(small_plan, small_cases, tmp_path):
    train_steps(small_plan, small_cases, tmp_path / "run", 1)
    wider = replace(small_plan, networks=replace(small_plan.networks, latent_size=32))
    with pytest.raises(InputError, match="another plan"):
        train_steps(wider, small_cases, tmp_path / "run", 2, resume=True)


def test_a_run_folder_holds_what_people_look_for(small_plan, small_cases, tmp_path):
    run = tmp_path / "run"
    train_steps(small_plan, small_cases, run, 2)
    for name in ("plan.json", "run.json", "log.jsonl", "losses.png", "preview.png", "model.safetensors"):
        assert (run / name).stat().st_size > 0, name
    model = load_model(run / "model.safetensors")
    assert model.plan == small_plan
    assert model.about["cases"] == 6 and model.about["steps"] == 2 and model.about["description"] == "test cohort"


def test_only_the_last_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    for step in range(4):
        save_checkpoint(tmp_path, step, {"weight": torch.full((2,), float(step))}, {"seconds": 1.0})
    assert len(checkpoints(tmp_path)) == KEPT
    newest = checkpoints(tmp_path)[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:20])
    tensors, state = load_checkpoint(tmp_path)
    assert state["step"] == 2 and tensors["weight"].tolist() == [2.0, 2.0]


def start_worker(cohort: Path, run: Path, *options: str) -> Any:
    command = [sys.executable, "-m", "GEDGANLib", *FIRST, str(cohort), "-o", str(run), "--events", "-", *options]
    return popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events_of(worker: Any) -> list[dict]:
    output, errors = worker.communicate(timeout=120)
    assert "Traceback" not in errors
    return [json.loads(line) for line in output.splitlines()]


def test_a_worker_tells_its_events(cohort_folder, tmp_path):
    worker = start_worker(cohort_folder, tmp_path / "run", "--steps", "4")
    events = events_of(worker)
    assert worker.returncode == 0
    kinds = [event["event"] for event in events]
    for kind in ("started", "progress", "checkpoint", "finished"):
        assert kind in kinds
    last = [event for event in events if event["event"] == "progress" and "losses" in event][-1]
    assert last["step"] == last["total"] == 4 and last["progress"] == 1.0 and last["seconds_left"] == 0.0
    assert set(last["losses"]) == {"discriminator_loss", "generator_loss", "penalty", "gap", "distance", "gradient"}
    assert Path(events[-1]["model"]).exists()
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert logged[-1] == {key: value for key, value in last.items() if key != "event"}


def test_a_worker_that_fails_says_why(cohort_folder, tmp_path):
    worker = start_worker(tmp_path / "nowhere", tmp_path / "run", "--steps", "1")
    events = events_of(worker)
    assert worker.returncode == 2
    assert events[-1]["event"] == "failed"
    assert "nowhere" in events[-1]["message"] and events[-1]["hint"]


def test_a_stop_file_ends_a_worker_with_status_three(cohort_folder, tmp_path):
    run = tmp_path / "run"
    worker = start_worker(cohort_folder, run, "--minutes", "5")
    for line in worker.stdout:
        if json.loads(line)["event"] == "progress" and "losses" in line:
            (run / "STOP").touch()
            break
    events = events_of(worker)
    assert worker.returncode == 3
    assert events[-1]["event"] == "stopped"
    assert (run / "model.safetensors").exists()


def exact(first: Path, second: Path) -> bool:
    one, other = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


WHOLE_STEPS = 16


@pytest.fixture(scope="module")
def whole(cohort_folder, tmp_path_factory) -> Path:
    """A training of :data:`WHOLE_STEPS` steps that nobody touched."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main([*FIRST, str(cohort_folder), "-o", str(run), "--steps", str(WHOLE_STEPS)]) == 0
    return run


WAITS_AT = WHOLE_STEPS // 2
WAITING = """
import os, time
from GEDGANLib.training.trainer import Trainer
original = Trainer.step
def step(trainer):
    while trainer.step_count >= {step} and not os.path.exists({go!r}):
        time.sleep(0.02)
    return original(trainer)
Trainer.step = step
import GEDGANLib.training.run as run
run.PROGRESS_SECONDS = 0.0
run.CHECKPOINT_SECONDS = {checkpoint_seconds}
from GEDGANLib.commands.main import main
raise SystemExit(main())
"""
"""A training that does not end before it is seen to, however slow whoever looks at it is."""


def start_waiting(cohort: Path, run: Path, go: Path, checkpoint_seconds: float = 100.0) -> Any:
    code = WAITING.format(step=WAITS_AT, go=str(go), checkpoint_seconds=checkpoint_seconds)
    command = [sys.executable, "-c", code, *FIRST, str(cohort), "-o", str(run), "--events", "-"]
    command += ["--steps", str(WHOLE_STEPS)]
    return popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_worker_is_resumed_from_its_last_checkpoint(cohort_folder, whole, tmp_path):
    """SIGKILL while it trains and saves as often as it can; what is on the disk then resumes to the same weights."""
    run = tmp_path / "run"
    worker = start_waiting(cohort_folder, run, tmp_path / "never", checkpoint_seconds=0.0)
    while len(checkpoints(run)) < 2:
        assert worker.poll() is None, worker.stderr.read()
        time.sleep(0.02)
    worker.kill()
    worker.communicate()
    _, state = load_checkpoint(run)
    assert 0 < state["step"] < WHOLE_STEPS
    assert main(["train", str(cohort_folder), "-o", str(run), "--resume"]) == 0
    assert exact(run, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_between_two_steps_and_resuming_is_exact(cohort_folder, whole, tmp_path, number):
    run = tmp_path / "run"
    worker = start_waiting(cohort_folder, run, tmp_path / "go")
    for line in worker.stdout:
        if json.loads(line)["event"] == "progress" and "losses" in line:
            worker.send_signal(number)
            (tmp_path / "go").touch()
            break
    events = events_of(worker)
    assert worker.returncode == 3
    assert events[-1]["event"] == "stopped"
    _, state = load_checkpoint(run)
    assert 0 < state["step"] < WHOLE_STEPS
    # Neither seed nor limit is said again: they are the run's own.
    assert main(["train", str(cohort_folder), "-o", str(run), "--resume"]) == 0
    assert exact(run, whole)
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == WHOLE_STEPS


def test_a_second_training_in_the_same_folder_is_refused(cohort_folder, tmp_path, capsys):
    run = tmp_path / "run"
    worker = start_worker(cohort_folder, run, "--minutes", "5")
    for line in worker.stdout:
        if json.loads(line)["event"] == "progress" and "losses" in line:
            break
    assert main(["train", str(cohort_folder), "-o", str(run), "--resume"]) == 2
    assert "Another process is working in" in capsys.readouterr().err
    worker.kill()
    worker.communicate()


def test_resuming_keeps_seed_and_limit_and_refuses_others(small_plan, small_cases, tmp_path):
    run = tmp_path / "run"
    train_steps(small_plan, small_cases, run, 2, seed=5)

    def resume(limit, seed=None, cases=small_cases):
        return train(small_plan, cases, run, limit, "cpu", seed, quiet, save_model, resume=True)

    with pytest.raises(InputError, match="at step 2 already"):
        resume(None)
    with pytest.raises(InputError, match="started with seed 5, not 6"):
        resume(Limit(steps=3), seed=6)
    names = [case.name for case in small_cases]
    with pytest.raises(InputError, match=rf"2 gone \({names[4]}, {names[5]}\)"):
        resume(Limit(steps=3), cases=small_cases[:4])
    changed = [replace(case, image=case.image * 0.5) if index == 1 else case for index, case in enumerate(small_cases)]
    with pytest.raises(InputError, match=rf"1 changed \({names[1]}\).*--accept-changed-data"):
        resume(Limit(steps=3), cases=changed)
    with pytest.raises(InputError, match="another order"):
        resume(Limit(steps=3), cases=small_cases[::-1])
    resume(Limit(steps=3))
    assert load_model(run / "model.safetensors").about["seed"] == 5
    assert json.loads((run / "run.json").read_text())["limit"]["steps"] == 3


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(small_plan, small_cases, tmp_path, same_clock):
    run, whole = tmp_path / "run", tmp_path / "whole"
    for folder in (run, whole):
        train_steps(small_plan, small_cases, folder, 2)
    for path in (*checkpoints(run), run / "model.safetensors"):
        subprocess.run(["rm", "-r", str(path)], check=True)
    train(small_plan, small_cases, run, None, "cpu", None, quiet, save_model, resume=True)
    assert weights(run) == weights(whole)


def test_a_torn_log_line_does_not_spoil_the_next(small_plan, small_cases, tmp_path):
    run = tmp_path / "run"
    train_steps(small_plan, small_cases, run, 2)
    with open(run / "log.jsonl", "a") as log:
        log.write('{"step": 3, "tot')
    train_steps(small_plan, small_cases, run, 4, seed=None, resume=True)
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()][-1] == 4


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on file sizes")
def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path):
    """A real refusal of the system to write on: a limit on the size of files."""
    import resource

    save_checkpoint(tmp_path, 1, {"weight": torch.zeros(10)}, {"seconds": 1.0})
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match="could not be written"):
            save_checkpoint(tmp_path, 2, {"weight": torch.zeros(100_000)}, {"seconds": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001"]
    assert load_checkpoint(tmp_path)[1]["step"] == 1


def test_a_step_that_is_saved_already_is_not_put_at_risk(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"weight": torch.zeros(2)}, {"seconds": 1.0})
    monkeypatch.setattr("GEDGANLib.jobs.checkpoint.os.replace", lambda *paths: 1 / 0)
    save_checkpoint(tmp_path, 1, {"weight": torch.zeros(2)}, {"seconds": 2.0})
    assert load_checkpoint(tmp_path)[1]["seconds"] == 1.0


def test_a_reader_that_is_gone_does_not_end_the_job(cohort_folder, tmp_path):
    run = tmp_path / "run"
    worker = start_worker(cohort_folder, run, "--steps", "5")
    worker.stdout.readline()
    worker.stdout.close()
    assert worker.wait(timeout=120) == 0
    assert "Traceback" not in worker.stderr.read()
    assert (run / "model.safetensors").exists()


def test_progress_in_a_file_is_lines(cohort_folder, tmp_path):
    code = (
        "from GEDGANLib.jobs import events; import GEDGANLib.training.run as run\n"
        "events.PLAIN_SECONDS = run.PROGRESS_SECONDS = 0.0\n"
        "from GEDGANLib.commands.main import main; raise SystemExit(main())"
    )
    command = [sys.executable, "-c", code, *FIRST, str(cohort_folder), "-o", str(tmp_path / "run"), "--steps", "3"]
    said = started(command, timeout=120).stderr
    assert all(f"step {step} " in said for step in (1, 2, 3))


def test_a_stop_while_it_gets_ready_counts(small_plan, small_cases, tmp_path):
    run = tmp_path / "run"

    def stop_at_once(event, **fields):
        if event == "started":
            (run / "STOP").touch()

    claim_run_folder(run, False)
    with pytest.raises(StoppedOnRequest, match="step 0"):
        train(small_plan, small_cases, run, Limit(minutes=10), "cpu", 0, stop_at_once, save_model)


def test_a_stop_of_before_is_not_meant_for_a_training_that_is_resumed(small_plan, small_cases, tmp_path):
    run = tmp_path / "run"
    train_steps(small_plan, small_cases, run, 1)
    (run / "STOP").touch()
    asked = {"resume": True, "options": Options(begun=time.time() + 1)}
    train(small_plan, small_cases, run, Limit(steps=2), "cpu", None, quiet, save_model, **asked)
    assert not (run / "STOP").exists()
    begun = time.time() - 1
    (run / "STOP").touch()  # pressed after the resumed training was asked for, before it looked
    with pytest.raises(StoppedOnRequest, match="step 2"):
        train(
            small_plan, small_cases, run, Limit(steps=3), "cpu", None, quiet, save_model, "", True, Options(begun=begun)
        )


def test_a_damaged_checkpoint_makes_way_for_a_good_one(small_plan, small_cases, tmp_path):
    run = tmp_path / "run"
    train_steps(small_plan, small_cases, run, 2)
    train_steps(small_plan, small_cases, run, 4, seed=None, resume=True)
    damaged = checkpoints(run)[-1] / "state.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    train_steps(small_plan, small_cases, run, 5, seed=None, resume=True)
    assert [load_checkpoint(run)[1]["step"], len(checkpoints(run))] == [5, 2]
    (run / "checkpoint-00000005" / "state.json").unlink()
    assert load_checkpoint(run)[1]["step"] == 2


def test_a_run_without_its_model_is_finished(small_plan, small_cases, tmp_path, same_clock):
    run = tmp_path / "run"
    train_steps(small_plan, small_cases, run, 2)
    model = weights(run)
    (run / "model.safetensors").unlink()
    train(small_plan, small_cases, run, None, "cpu", None, quiet, save_model, resume=True)
    assert weights(run) == model


def test_a_folder_with_the_lock_alone_is_free(small_plan, small_cases, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    train_steps(small_plan, small_cases, run, 1)
