"""Chance in a training: the same for a step whoever asks, balanced where groups are rare, held-out cases held out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from GEDGANLib.training.loading import Loader
from GEDGANLib.training.sampling import Draws, Sampler, case_weights, split_held_out
from GEDGANLib.volumes.pipeline import WorkingCase


def cases(count=100, labelled=100, rare=5, rare_label=None):
    """Cases of the classes common and rare, whose voxels are their number."""
    made = []
    for index in range(count):
        labels = np.zeros((8, 8, 8), np.uint8)
        labels[0] = 1
        if rare_label is not None and index < rare_label:
            labels[1] = 2
        made.append(
            WorkingCase(
                f"case{index}",
                np.full((1, 8, 8, 8), float(index), np.float32),
                labels if index < labelled else None,
                np.eye(4),
                np.eye(4),
                (8, 8, 8),
                "rare" if index < rare else "common",
            )
        )
    return made


def test_a_step_draws_the_same_whenever_it_is_asked():
    draws = Draws(3)
    first = torch.randn(5, generator=draws.of("latents", 7))
    draws.of("latents", 8), draws.of("cases", 7)
    assert torch.equal(first, torch.randn(5, generator=Draws(3).of("latents", 7)))
    for other in (draws.of("latents", 8), draws.of("cases", 7), Draws(4).of("latents", 7)):
        assert not torch.equal(first, torch.randn(5, generator=other))


def test_draws_of_successive_steps_are_normal_and_independent():
    numbers = torch.stack([torch.randn(8, generator=Draws(0).of("latents", step)) for step in range(2000)])
    assert abs(float(numbers.mean())) < 0.03 and abs(float(numbers.std()) - 1) < 0.03
    correlation = torch.corrcoef(torch.stack([numbers[:-1].flatten(), numbers[1:].flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.03


@pytest.mark.parametrize(("balance", "low", "high"), [(0.0, 0.03, 0.07), (0.5, 0.15, 0.23), (1.0, 0.45, 0.55)])
def test_a_class_of_five_in_a_hundred_is_seen(balance, low, high):
    made = cases()
    sampler = Sampler(Draws(0), case_weights(made, balance), torch.ones(100, dtype=torch.bool))
    drawn = torch.cat([sampler.choose(step, 4) for step in range(1000)])
    assert low < float((drawn < 5).float().mean()) < high


def test_a_rare_label_is_seen_as_often():
    made = [replace(case, class_name=None) for case in cases(rare_label=5)]
    weights = case_weights(made, 1.0)
    assert float(weights[:5].sum()) == pytest.approx(0.5, abs=0.02)


def test_held_out_cases_come_from_all_groups_and_from_the_seed():
    made = cases(labelled=8, rare=20)
    training, held_out = split_held_out(made, 10, Draws(0))
    assert len(held_out) == 10 and sorted(training + held_out) == list(range(100))
    groups = Counter((made[i].labels is not None, made[i].class_name) for i in held_out)
    assert groups[(True, "rare")] == 1 and groups[(False, "rare")] == 1 and groups[(False, "common")] == 8
    assert split_held_out(made, 10, Draws(0)) == (training, held_out)
    assert split_held_out(made, 10, Draws(1)) != (training, held_out)
    assert split_held_out(made, 0, Draws(0)) == (list(range(100)), [])


def test_labelled_cases_fill_their_share():
    made = cases(labelled=2)
    labelled = torch.tensor([case.labels is not None for case in made])
    sampler = Sampler(Draws(0), case_weights(made, 0.0), labelled, labelled_share=0.5)
    assert all(int((sampler.choose(step, 4) < 2).sum()) >= 2 for step in range(20))


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_ahead_changes_nothing(workers):
    made = cases(labelled=50)
    sampler = Sampler(Draws(0), case_weights(made, 0.5), torch.ones(100, dtype=torch.bool))
    loaders = [Loader(made, lambda step: sampler.choose(step, 4), ("common", "rare"), n) for n in (0, workers)]
    for step in [*range(6), 40, 41, 5]:  # as after going back to a checkpoint, too
        plain, ahead = (loader.batch(step) for loader in loaders)
        for name, value in vars(plain).items():
            other = getattr(ahead, name)
            assert value is other is None or torch.equal(value, other), name
        assert torch.equal(plain.images[:, 0, 0, 0, 0].long(), sampler.choose(step, 4))
    assert plain.classes.tolist() == [1 if i < 5 else 0 for i in sampler.choose(5, 4)]
    assert plain.labelled.tolist() == [int(i) < 50 for i in sampler.choose(5, 4)]
    loaders[1].close()
