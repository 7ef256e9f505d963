"""Training further from a model, half precision where it belongs, and what a small data set changes in a plan."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from starting import FIRST

from GEDGANLib.commands.main import main
from GEDGANLib.exchange.nnunet import write_dataset
from GEDGANLib.structure import tensor as structure_tensor_module
from GEDGANLib.synthesis.model_file import load_model
from GEDGANLib.training.state import load_state, state_of
from GEDGANLib.training.steps import Steps
from GEDGANLib.training.trainer import Trainer
from GEDGANLib.volumes.cohort import make_case


@pytest.fixture(scope="module")
def model(cohort_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("from") / "run"
    assert main([*FIRST, str(cohort_folder), "-o", str(run), "--steps", "3"]) == 0
    return run / "model.safetensors"


@pytest.fixture(scope="module")
def other_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "data"
    write_dataset(folder, (make_case(i, 9, (20, 24, 18), 8.0) for i in range(4)), "four others", whole_numbers="int16")
    return folder


def test_it_starts_from_the_weights_and_keeps_the_frozen_ones(model, other_data, tmp_path):
    run = tmp_path / "run"
    options = ["train", str(other_data), "-o", str(run), "--from", str(model), "--freeze", "1", "--steps", "2"]
    assert main(options) == 0
    before, after = load_file(model), load_file(run / "model.safetensors")
    frozen = ("discriminator.pack", "discriminator.enter_field", "discriminator.stages.0")
    for name in before:
        same = torch.equal(before[name], after[name])
        if name.startswith(frozen):
            assert same, name
        elif name.startswith("discriminator.stages.1") and name.endswith("second.weight"):
            assert not same, name
    # Two steps with half the rate: near the model, far from a fresh start.
    moved = max(float((after[name] - before[name]).abs().max()) for name in before if name.startswith("stages"))
    assert 0 < moved < 0.02
    plan = json.loads((run / "plan.json").read_text())
    old = json.loads((model.parent / "plan.json").read_text())
    assert plan["networks"] == old["networks"] and plan["grid"]["shape"] == old["grid"]["shape"]
    assert plan["training"]["learning_rate"] == old["training"]["learning_rate"] / 2
    assert plan["description"] == "four others" and plan["data"]["started_from"] == str(model)
    assert main(["train", str(other_data), "-o", str(run), "--resume", "--steps", "3"]) == 0
    assert torch.equal(load_file(run / "model.safetensors")["discriminator.pack.weight"], before[frozen[0] + ".weight"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--freeze", "1"], "Add --from MODEL"),
        (["--from", "MODEL", "--spacing", "2"], "Edit the plan"),
        (["--from", "MODEL", "--resume"], "Leave --resume"),
        (["--from", "MODEL", "--freeze", "9"], "9 cannot be frozen"),
        (["--from", "nowhere.safetensors"], "cannot be read"),
    ],
)
def test_what_cannot_be_asked_for_together(model, other_data, tmp_path, capsys, options, words):
    given = [str(model) if option == "MODEL" else option for option in options]
    assert main(["train", str(other_data), "-o", str(tmp_path / "run"), "--steps", "1", *given]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_labels_are_refused(model, other_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(other_data, data)
    described = json.loads((data / "dataset.json").read_text())
    described["labels"] = {f"new {name}" if value else name: value for name, value in described["labels"].items()}
    (data / "dataset.json").write_text(json.dumps(described))
    assert main(["train", str(data), "-o", str(tmp_path / "run"), "--from", str(model), "--steps", "1"]) == 2
    assert "labels that" in capsys.readouterr().err


@pytest.mark.parametrize("interval", [1, 2])
def test_half_precision_never_reaches_the_field_or_a_loss(small_plan, small_cases, monkeypatch, interval):
    """The path of CUDA, run here with the CPU's autocast: what runs in which precision, not how fast."""
    training = replace(small_plan.training, penalty_interval=interval)
    trainer = Trainer(replace(small_plan, training=training), small_cases, "cpu", 0)
    monkeypatch.setattr(Steps, "_mixed", lambda self: torch.autocast("cpu", torch.bfloat16))
    seen: dict[str, set] = {"field": set(), "differentiated": set(), "generator": set(), "image": set()}
    original = structure_tensor_module.filtered_structure_tensor

    def filtered(image, filters):
        seen["field"] |= {image.dtype, original(image, filters).dtype}
        return original(image, filters)

    monkeypatch.setattr(structure_tensor_module, "filtered_structure_tensor", filtered)
    for name, module in (("generator", trainer.generator.stages[0]), ("image", trainer.generator)):
        module.register_forward_hook(lambda module, inputs, output, name=name: seen[name].add(output.dtype))
    original_gradient = torch.autograd.grad

    def gradient(outputs, inputs, **options):
        """Of a logit with respect to what the discriminator sees, or of a loss with respect to weights."""
        gradients = original_gradient(outputs, inputs, **options)
        seen["differentiated"] |= {outputs.dtype, *(each.dtype for each in gradients if each is not None)}
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", gradient)
    assert all(trainer.step().sound() for _ in range(2))
    assert seen == {
        "field": {torch.float32},
        "differentiated": {torch.float32},
        "generator": {torch.bfloat16},
        "image": {torch.float32},
    }


def test_held_out_cases_steer_and_teach_nothing(small_plan, small_cases):
    """Held-out cases of pure noise change the measure of over-fitting, and no weight where nothing is augmented."""
    training = replace(small_plan.training, held_out=2)
    plan = replace(small_plan, training=training, augmentation=replace(small_plan.augmentation, kinds=()))
    held_out = {case.name for case in Trainer(plan, small_cases, "cpu", 0).held_out}
    assert len(held_out) == 2
    noise = np.random.default_rng(0)
    spoiled = [
        replace(case, image=noise.uniform(-1, 1, case.image.shape).astype(np.float32))
        if case.name in held_out
        else case
        for case in small_cases
    ]
    trainers = [Trainer(plan, cases, "cpu", 0) for cases in (small_cases, spoiled)]
    for trainer in trainers:
        assert not {case.name for case in trainer.cases} & held_out
        for _ in range(9):
            assert trainer.step().sound()
    one, other = (state_of(trainer) for trainer in trainers)
    assert all(torch.equal(one[name], other[name]) for name in one if name != "strength")
    assert not torch.equal(one["strength"], other["strength"])


def test_a_strongly_augmented_training_resumes_bit_for_bit(small_plan, small_cases):
    plan = replace(small_plan, training=replace(small_plan.training, held_out=2))
    whole, resumed = (Trainer(plan, small_cases, "cpu", 0) for _ in range(2))
    whole.strength.value = 0.7
    for _ in range(3):
        whole.step()
    load_state(resumed, state_of(whole), whole.step_count)
    for trainer in (whole, resumed):
        trainer.step()
        trainer.step()
    ours, theirs = state_of(whole), state_of(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_model_knows_how_many_cases_it_was_held_from(model):
    about = load_model(model).about
    assert about["held_out"] == 0 and about["cases"] == 6 and about["variety"] < 1
    assert ["too short" in words for words in about["warnings"]] == [True]  # 3 steps
