"""The game itself, step by step: what moves, what is seen, what resumes bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from GEDGANLib.planning.words import FIELD_KINDS, OBJECTIVES, OPTIMIZERS
from GEDGANLib.synthesis.model_file import load_model, save_model
from GEDGANLib.training import objectives
from GEDGANLib.training.conjugate import VARIANTS
from GEDGANLib.training.state import load_state, state_of
from GEDGANLib.training.trainer import Trainer


def test_weights_move_and_losses_stay_numbers(small_plan, small_cases):
    trainer = Trainer(small_plan, small_cases, "cpu", 0)
    learned = [weight for weight in trainer.generator.parameters() if weight.requires_grad]
    before = [weight.clone() for weight in learned]
    figures = [trainer.step() for _ in range(3)]
    assert all(figure.sound() for figure in figures)
    assert all(bool((now != then).any()) for now, then in zip(learned, before))


def test_the_discriminator_learns_to_tell_when_the_generator_stands_still(small_plan, small_cases):
    trainer = Trainer(small_plan, small_cases, "cpu", 0)
    trainer.generator_optimizer.step = lambda: None
    gaps = [trainer.step().gap for _ in range(30)]
    assert sum(gaps[-5:]) / 5 > max(sum(gaps[:3]) / 3, 0.0) + 0.05


def test_the_field_reaches_the_generator(small_plan, small_cases):
    """With the discriminator blind to the case itself, gradients still come to G through its eigen-directions."""
    trainer = Trainer(small_plan, small_cases, "cpu", 0)
    with torch.no_grad():
        trainer.discriminator.pack.weight.zero_()
    generated = trainer.generator(trainer._latents())
    trainer.discriminator(*trainer.view.seen((generated,))).sum().backward()
    assert trainer.generator.output.weight.grad[:1].abs().sum() > 0


def test_cases_without_labels_teach_the_image_alone(small_plan, small_cases):
    cases = [replace(case, labels=None) if index % 2 else case for index, case in enumerate(small_cases)]
    trainer = Trainer(small_plan, cases, "cpu", 0)
    assert trainer.labelled.tolist() == [True, False] * 3
    assert trainer.step().sound()


@pytest.mark.parametrize(("objective", "optimizer"), [*((name, "adam") for name in OBJECTIVES), ("relativistic", "FR")])
def test_any_objective_and_optimizer_resumes_bit_for_bit(small_plan, small_cases, objective, optimizer):
    plan = replace(small_plan, training=replace(small_plan.training, objective=objective, optimizer=optimizer))
    whole = Trainer(plan, small_cases, "cpu", 0)
    for _ in range(2):
        whole.step()
    state = state_of(whole)
    resumed = Trainer(plan, small_cases, "cpu", 0)
    load_state(resumed, state, whole.step_count)
    for trainer in (whole, resumed):
        assert trainer.step().sound()
    assert all(torch.equal(a, b) for a, b in zip(whole.generator.parameters(), resumed.generator.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(whole.discriminator.parameters(), resumed.discriminator.parameters()))


def test_the_plan_knows_what_training_offers():
    assert set(OBJECTIVES) == set(objectives.OBJECTIVES)
    assert set(OPTIMIZERS) == {"adam", *VARIANTS}


@pytest.mark.parametrize("pair_sees", ["image", "field", "both"])
def test_separate_heads_train_on_few_labels(small_plan, small_cases, pair_sees, tmp_path):
    cases = [replace(case, labels=case.labels if index == 0 else None) for index, case in enumerate(small_cases)]
    networks = replace(small_plan.networks, heads="separate", pair_sees=pair_sees)
    plan = replace(small_plan, networks=networks, training=replace(small_plan.training, labelled_share=0.5))
    trainer = Trainer(plan, cases, "cpu", 0)
    for _ in range(5):
        assert trainer.loader.batch(trainer.step_count).labelled.sum() >= plan.training.batch / 2
        trainer.step_count += 1
    trainer.step_count = 0
    heads = trainer.discriminator.image, trainer.discriminator.pair
    before = [head.pack.weight.detach().clone() for head in heads]
    assert all(trainer.step().sound() for _ in range(2))
    assert all(bool((head.pack.weight != then).any()) for head, then in zip(heads, before))
    save_model(tmp_path / "model.safetensors", trainer.average, plan, {}, trainer.critic())
    assert load_model(tmp_path / "model.safetensors", with_critic=True).critic is not None


@pytest.mark.parametrize("kind", FIELD_KINDS)
@pytest.mark.parametrize("stage", [0, 1])
def test_any_field_at_any_stage_trains(small_plan, small_cases, kind, stage):
    plan = replace(small_plan, field=replace(small_plan.field, kind=kind, stage=stage))
    trainer = Trainer(plan, small_cases, "cpu", 0)
    assert trainer.step().sound()
    assert (trainer.view.field is None) == (kind == "none")


def test_the_state_of_another_optimizer_is_refused(small_plan, small_cases):
    plans = [replace(small_plan, training=replace(small_plan.training, optimizer=name)) for name in ("adam", "PRP+")]
    trainers = [Trainer(plan, small_cases, "cpu", 0) for plan in plans]
    for trainer in trainers:
        trainer.step()
    for one, other in (trainers, trainers[::-1]):
        with pytest.raises(KeyError):
            load_state(one, state_of(other), 1)
