"""What saves a training: going back when losses leave the numbers, warnings, memory that is asked for first, kills."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from starting import FIRST, popen

from GEDGANLib.commands import learning
from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.jobs.checkpoint import checkpoints, load_checkpoint
from GEDGANLib.jobs.events import SilentEvents
from GEDGANLib.planning import fitting
from GEDGANLib.planning.choosing import make_plan, with_batch
from GEDGANLib.planning.plan import Plan
from GEDGANLib.synthesis.model_file import save_model
from GEDGANLib.training import measuring
from GEDGANLib.training.augmentation import Strength
from GEDGANLib.training.figures import StepFigures
from GEDGANLib.training.log import Board
from GEDGANLib.training.monitor import Monitor
from GEDGANLib.training.request import Limit, claim_run_folder
from GEDGANLib.training.run import Options, train
from GEDGANLib.training.trainer import Trainer
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.pipeline import WorkingCase


def quiet(event, **fields):
    pass


def rescues(said) -> list[str]:
    """Warnings but the one that some steps are not enough, of which all of these trainings are told."""
    words = [fields["message"] for event, fields in said if event == "warning"]
    assert "too short" in words[-1]
    return words[:-1]


class Spoiled:
    """A trainer whose steps leave the numbers as often as asked for, once the count of steps is reached."""

    def __init__(self, monkeypatch, times: int, at: int = 3) -> None:
        self.left = times
        original = Trainer.step

        def step(trainer):
            figures = original(trainer)
            if self.left and trainer.step_count >= at:
                self.left -= 1
                with torch.no_grad():
                    next(trainer.generator.parameters()).fill_(float("nan"))
                return StepFigures(torch.full((len(figures.named),), float("nan")))
            return figures

        monkeypatch.setattr(Trainer, "step", step)


def test_losses_that_leave_the_numbers_send_it_back_with_a_smaller_step(small_plan, small_cases, tmp_path, monkeypatch):
    Spoiled(monkeypatch, 2)
    run, said = tmp_path / "run", []
    claim_run_folder(run, False)
    train(
        small_plan, small_cases, run, Limit(steps=5), "cpu", 0, lambda event, **f: said.append((event, f)), save_model
    )
    warnings = rescues(said)
    assert [f"({count} of 3 times)" in words for count, words in enumerate(warnings, 1)] == [True, True]
    assert (
        "left the numbers, or its generator stopped learning, at step 3: it goes on from step 0 with 0.25"
        in warnings[1]
    )
    tensors, state = load_checkpoint(run)
    assert state["rollbacks"] == 2 and float(tensors["rate_factor"]) == 0.25
    assert all(torch.isfinite(tensor).all() for tensor in load_file(run / "model.safetensors").values())
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 5


def test_a_generator_whose_outputs_are_all_at_their_ends_is_sent_back(small_plan, small_cases, tmp_path, monkeypatch):
    """As a learning rate that is too large leaves it: every gradient is 0, all losses are numbers."""
    original, left = Trainer.step, [1]

    def step(trainer):
        if left and trainer.step_count == 2:
            left.clear()
            with torch.no_grad():
                trainer.generator.mean_case += 200 * trainer.generator.mean_case.sign()
                trainer.generator.mean_case[:, 1] += 1000
        return original(trainer)

    monkeypatch.setattr(Trainer, "step", step)
    run, said = tmp_path / "run", []
    claim_run_folder(run, False)
    train(
        small_plan, small_cases, run, Limit(steps=4), "cpu", 0, lambda event, **f: said.append((event, f)), save_model
    )
    warnings = rescues(said)
    assert len(warnings) == 1 and "stopped learning, at step 3: it goes on from step 0" in warnings[0]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(line["losses"]["gradient"] > 1e-6 for line in lines)


def test_it_gives_up_with_an_explanation_and_a_checkpoint_that_is_good(small_plan, small_cases, tmp_path, monkeypatch):
    Spoiled(monkeypatch, 100)
    run = tmp_path / "run"
    claim_run_folder(run, False)
    with pytest.raises(InputError, match=r"for the 4th time.*Halve learning_rate or double penalty_weight"):
        train(small_plan, small_cases, run, Limit(steps=5), "cpu", 0, quiet, save_model)
    tensors, state = load_checkpoint(run)
    assert state["step"] == 0 and all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())


def working(images) -> list[WorkingCase]:
    return [WorkingCase(f"{i}", image, None, np.eye(4), np.eye(4), image.shape[1:]) for i, image in enumerate(images)]


def test_collapse_overfitting_and_copies_are_told_once_with_advice():
    draw = np.random.default_rng(0)
    training, held_out = (draw.standard_normal((n, 1, 12, 12, 12)).astype(np.float32) for n in (30, 6))
    monitor = Monitor(working(training), working(held_out))
    calm, wild = Strength(0.8, 0.5, 1000), Strength(0.8, 0.5, 10)
    for _ in range(3):
        wild.measure(2.0, 0.1, 16)
    fresh = torch.from_numpy(draw.standard_normal((16, 1, 12, 12, 12)).astype(np.float32))
    alike = torch.from_numpy(training[:1]).repeat(16, 1, 1, 1, 1)
    copies = torch.from_numpy(training[:16]) + 0.02 * fresh
    assert monitor.warnings(alike, wild, 0.1, 5000) == monitor.warnings(alike, wild, 0.9, 200) == []  # too early
    assert monitor.warnings(fresh, calm, 0.5, 1000) == []
    assert ["collapsed" in words for words in monitor.warnings(alike, calm, 0.5, 1000)] == [True]
    assert ["by heart" in words for words in monitor.warnings(fresh, wild, 0.5, 1000)] == [True]
    assert ["copies of patients" in words for words in monitor.warnings(copies, calm, 0.5, 1000)] == [True]
    assert monitor.warnings(copies, wild, 0.9, 1000) == []
    # What ended before that is told at its end, where it made the mean of its cases alone.
    assert "too short" in monitor.untrained(monitor.variety(alike), 60)[0]
    assert monitor.untrained(monitor.variety(fresh), 60) == monitor.untrained(monitor.variety(alike), 1000) == []


def test_a_grid_that_would_be_empty_is_refused_before_anything_is_prepared(cohort_folder, tmp_path, capsys):
    for command in (["plan", "-o", str(tmp_path / "plan.json")], [*FIRST, "-o", str(tmp_path / "run")]):
        asked = [command[0], str(cohort_folder), *command[1:], "--device", "cpu", "--grid", "500", "500", "500"]
        assert main(asked) == 2
        said = capsys.readouterr().err
        assert "it would be nearly empty" in said and "--spacing" in said
    assert not list(tmp_path.iterdir())


def test_steps_that_take_long_are_predicted_and_too_few_of_them_are_told(cohort_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measuring, "measured", None)
    monkeypatch.setattr(fitting, "LONGEST_MEASURED", -1.0)
    path = tmp_path / "plan.json"
    command = ["plan", str(cohort_folder), "-o", str(path), "--device", "cpu", "--alignment", "none"]
    assert main(command) == 0
    assert "as predicted, since a step takes so long" in capsys.readouterr().out
    plan = Plan.load(path)
    plan = replace(plan, prediction=replace(plan.prediction, minutes_per_1000_steps=400.0))
    events = Heard()
    learning._tell_few_steps(plan, 60.0, "cpu", events)
    assert ["some hundreds" in words for words in events.warnings] == [True]
    learning._tell_few_steps(plan, 1e6, "cpu", events)
    assert len(events.warnings) == 1


class Heard(SilentEvents):
    def __init__(self):
        self.warnings = []

    def emit(self, event, **fields):
        assert event == "warning"
        self.warnings.append(fields["message"])


def test_a_plan_that_cannot_fit_is_refused_with_one_that_does(cohort_folder, tmp_path, monkeypatch, capsys):
    fingerprint = check_dataset(find_dataset(cohort_folder))
    plan = make_plan(fingerprint, "cpu", spacing=(2.0,) * 3)
    assert fitting.fitted(plan, fingerprint, "cpu", available=1e12) == plan
    available = 0.85e9 * with_batch(plan, 2, "cpu", "").prediction.memory_gb
    with pytest.raises(InputError, match="GB free") as caught:
        fitting.fitted(plan, fingerprint, "cpu", available=available)
    spacing = [float(word) for word in caught.value.hint.split("--spacing ")[1].split(",")[0].split()]
    smaller = fitting.fitted(make_plan(fingerprint, "cpu", spacing=spacing), fingerprint, "cpu", available=available)
    assert smaller.prediction.memory_gb * 1e9 <= available and 2.0 < max(spacing) < 4.0
    with pytest.raises(InputError, match="more memory"):
        fitting.fitted(plan, fingerprint, "cpu", available=1e6)
    monkeypatch.setattr(fitting, "available_memory", lambda device: 0.6e9)
    options = [str(cohort_folder), "-o"]
    assert main(["plan", *options, str(tmp_path / "plan.json"), "--spacing", "2"]) == 2
    assert main([*FIRST, *options, str(tmp_path / "run"), "--spacing", "2", "--steps", "1"]) == 2
    assert "The nearest plan that fits: --spacing" in capsys.readouterr().err
    assert not (tmp_path / "plan.json").exists() and not (tmp_path / "run").exists()


def test_a_plan_tells_the_time_that_steps_take_here(small_plan):
    state = torch.get_rng_state()
    plan = measuring.measured(replace(small_plan, training=replace(small_plan.training, held_out=2)), "cpu")
    assert 0 < plan.prediction.minutes_per_1000_steps < 1000
    assert plan.training.held_out == 2 and replace(plan, prediction=small_plan.prediction).grid == small_plan.grid
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.long)])
def test_kills_at_random_instants_change_nothing(cohort_folder, tmp_path, count):
    """SIGKILL, resume, over and over; the weights at the end are those of a training that nobody touched."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "import GEDGANLib.training.run as run; run.CHECKPOINT_SECONDS = 0.15\n"
        "from GEDGANLib.commands.main import main; raise SystemExit(main())"
    )
    options = ["--steps", str(10 + 4 * count), "--workers"]

    def start(folder, *more):
        training = FIRST[: 1 if "--resume" in more else None]
        command = [sys.executable, "-c", code, *training, str(cohort_folder), "-o", str(folder), *options, *more]
        return popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    straight = start(whole, "0")
    assert straight.wait(timeout=200) == 0, straight.stderr.read()
    chance, kills, begun = random.Random(0), 0, False
    while kills < count:
        # Another number of workers each time; until there is a run, the start is repeated.
        begun = begun or (run / "run.json").exists()
        worker = start(run, str(kills % 3), *(["--resume"] if begun else []))
        deadline = time.monotonic() + 60
        before = [path.name for path in checkpoints(run)]
        # Every other kill comes once it has saved something, the others wherever they find it.
        while kills % 2 and worker.poll() is None and time.monotonic() < deadline:
            if [path.name for path in checkpoints(run)] != before:
                break
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4) if kills % 2 else chance.uniform(0.1, 1.5))
        if worker.poll() is not None:
            break
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
        kills += 1
    assert kills >= 0.75 * count
    worker = start(run, "1", "--resume")
    _, errors = worker.communicate(timeout=200)
    assert worker.returncode in (0, 2) and "Traceback" not in errors
    ours, theirs = load_file(run / "model.safetensors"), load_file(whole / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_options_do_not_change_what_is_learned(small_plan, small_cases, tmp_path):
    models = []
    for workers in (0, 2):
        run = tmp_path / f"run{workers}"
        claim_run_folder(run, False)
        options = Options(workers=workers)
        path = train(small_plan, small_cases, run, Limit(steps=3), "cpu", 0, quiet, save_model, options=options)
        models.append(load_file(path))
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_full_disk_loses_nothing_once_it_is_freed(small_plan, small_cases, tmp_path, monkeypatch):
    """The checkpoint in the middle finds no room; resumed, the run ends as one that had room all the time."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    for folder in (run, whole):
        claim_run_folder(folder, False)
    train(small_plan, small_cases, whole, Limit(steps=6), "cpu", 0, quiet, save_model)
    from GEDGANLib.jobs import checkpoint

    original, states = checkpoint.write_bytes, []

    def no_room(path, content):
        states.extend([path] if path.name == "state.safetensors" else [])
        if len(states) == 5:  # those of the steps 0 to 3 are written
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", no_room)
    monkeypatch.setattr("GEDGANLib.training.run.CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(InputError, match="the disk is full"):
        train(small_plan, small_cases, run, Limit(steps=6), "cpu", 0, quiet, save_model)
    assert load_checkpoint(run)[1]["step"] == 3
    monkeypatch.undo()
    train(small_plan, small_cases, run, None, "cpu", None, quiet, save_model, resume=True)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_tensorboard_gets_the_figures_of_the_log(small_plan, small_cases, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    claim_run_folder(run, False)
    train(small_plan, small_cases, run, Limit(steps=3), "cpu", 0, quiet, save_model, options=Options(tensorboard=True))
    written = EventAccumulator(str(run / "tensorboard")).Reload()
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    for name, value in last["losses"].items():
        shown = written.Scalars(f"losses/{name}")[-1]
        assert shown.step == 3 and shown.value == pytest.approx(value, rel=1e-4)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        Board(tmp_path)
