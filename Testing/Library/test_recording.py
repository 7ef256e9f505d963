"""Steps recorded as CUDA graphs, and what stands in for them where they cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from GEDGANLib.training import recording
from GEDGANLib.training.recording import Reading, Recorder
from GEDGANLib.training.state import load_state, state_of
from GEDGANLib.training.trainer import Trainer


def test_elsewhere_functions_run_as_they_are() -> None:
    recorder, calls = Recorder(torch.device("cpu")), []
    for number in range(5):
        result = recorder.run("doubled", lambda t: calls.append(1) or {"y": 2 * t["x"]}, {"x": torch.tensor([number])})
        assert result["y"].item() == 2 * number
    assert len(calls) == 5 and not recorder.enabled and recorder.refusal is None


def test_what_cannot_be_recorded_runs_as_it_is_and_is_told(monkeypatch) -> None:
    recorder = Recorder(torch.device("cpu"))
    recorder.enabled = True

    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(recorder, "_record", refuse)
    results = [recorder.run("key", lambda t: {"y": t["x"] + 1}, {"x": torch.tensor([1.0])}) for _ in range(5)]
    assert all(result["y"].item() == 2 for result in results)
    assert recorder.refusal == "operation not permitted when stream is capturing" and not recorder.enabled


def test_the_switch_turns_recording_off(monkeypatch) -> None:
    monkeypatch.setenv(recording.SWITCH, "0")
    assert not Recorder(torch.device("cuda")).enabled
    monkeypatch.setenv(recording.SWITCH, "1")
    assert Recorder(torch.device("cuda")).enabled and not Recorder(torch.device("cuda"), enabled=False).enabled


def test_a_reading_holds_what_the_numbers_were() -> None:
    numbers = torch.tensor([1.0, 2.0])
    reading = Reading(numbers)
    numbers.zero_()
    assert reading.take() == [1.0, 2.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_recorded_runs_give_what_others_do() -> None:
    device = torch.device("cuda")
    weight = torch.randn(4, 4, device=device, requires_grad=True)

    def function(tensors):
        loss = (tensors["x"] @ weight).tanh().sum()
        return {"loss": loss.detach(), "slope": torch.autograd.grad(loss, weight)[0]}

    recorder = Recorder(device)
    for seed in range(6):
        inputs = {"x": torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))}
        found = {name: value.clone() for name, value in recorder.run("key", function, inputs).items()}
        expected = function({"x": inputs["x"].to(device)})
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert recorder.refusal is None and list(recorder._recordings) == ["key"]


def test_a_training_with_its_changes_as_tensors_goes_on(small_plan, small_cases, monkeypatch) -> None:
    """As a recorded one does; nothing is recorded here."""
    monkeypatch.setattr(recording, "WARM_UP", 1000)
    trainer = Trainer(small_plan, small_cases, "cpu", 0)
    trainer.recorder.enabled = True
    trainer.strength.value = 1.0
    assert all(trainer.step().sound() for _ in range(2))
    players = {key[0] for key, changed in ((key, key[-1]) for key in trainer.recorder._calls) if changed}
    assert players >= {"generator", "discriminator"}


def test_lazy_penalties_keep_their_last_figure(small_plan, small_cases) -> None:
    plan = replace(small_plan, training=replace(small_plan.training, penalty_interval=3))
    trainer = Trainer(plan, small_cases, "cpu", 0)
    penalties = [trainer.step().penalty for _ in range(4)]
    assert penalties[0] == penalties[1] == penalties[2] != penalties[3]


def test_a_step_that_cannot_be_recorded_leaves_the_training_as_it_was(small_plan, small_cases, monkeypatch) -> None:
    plain = Trainer(small_plan, small_cases, "cpu", 0)
    expected = [plain.step().named for _ in range(5)]
    trainer = Trainer(small_plan, small_cases, "cpu", 0)
    trainer.recorder.enabled = True

    def break_off(key, function, inputs):
        monkeypatch.setattr("GEDGANLib.training.steps.generator_loss", fail)
        monkeypatch.setattr("GEDGANLib.training.steps.discriminator_loss", fail)
        try:
            function(inputs)
        finally:
            monkeypatch.undo()

    def fail(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(trainer.recorder, "_record", break_off)
    assert [trainer.step().named for _ in range(5)] == expected
    assert trainer.recorder.refusal and not trainer.recorder.enabled


def test_going_back_forgets_figures_that_are_no_numbers(small_plan, small_cases) -> None:
    plan = replace(small_plan, training=replace(small_plan.training, penalty_interval=4))
    trainer = Trainer(plan, small_cases, "cpu", 0)
    trainer.step()
    kept, step = state_of(trainer), trainer.step_count
    trainer._penalty.fill_(float("nan"))
    trainer._class_gaps.fill_(float("nan"))
    load_state(trainer, kept, step)
    assert trainer.step().sound()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_refuses_a_function_that_waits_and_goes_on() -> None:
    device = torch.device("cuda")
    recorder, stream = Recorder(device), torch.cuda.current_stream()
    for number in range(5):
        result = recorder.run("key", lambda t: {"y": t["x"] * t["x"].item()}, {"x": torch.tensor(float(number))})
        assert result["y"].item() == number**2
    assert recorder.refusal and not recorder.enabled and torch.cuda.current_stream() == stream
