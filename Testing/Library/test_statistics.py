"""The data's averages, and a distance from them that is unbiased."""

from __future__ import annotations

import pytest
import torch

from GEDGANLib.training.statistics import DataStatistics


def data(cases=12, channels=3, side=4):
    torch.manual_seed(0)
    case = torch.randn(cases, channels, side, side, side) + torch.linspace(-1, 1, side)
    field = 3 * torch.randn(cases, 5, side // 2, side // 2, side // 2) + 7
    return case, field


def statistics_of(case, field, labelled=None):
    labelled = torch.ones(len(case), dtype=torch.bool) if labelled is None else labelled
    ones = torch.ones(len(case))
    parts = [slice(i, i + 5) for i in range(0, len(case), 5)]
    batches = [((case[part], field[part]), labelled[part], ones[part]) for part in parts]
    return DataStatistics.of(batches, image_channels=1)


def test_means_and_variances_are_those_of_the_data():
    case, field = data()
    statistics = statistics_of(case, field)
    torch.testing.assert_close(statistics.means[0], case.mean(0))
    torch.testing.assert_close(statistics.means[1], field.mean(0))
    assert statistics.variances[1] == pytest.approx(float(field.var(0, correction=0).mean()), rel=1e-4)


def test_labels_of_unlabelled_cases_do_not_count():
    case, field = data()
    labelled = torch.arange(12) % 3 == 0
    statistics = statistics_of(case, field, labelled)
    torch.testing.assert_close(statistics.means[0][:1], case[:, :1].mean(0))
    torch.testing.assert_close(statistics.means[0][1:], case[labelled, 1:].mean(0))


def test_distance_is_an_unbiased_square():
    """Over many batches it comes to |shift|² / variance, also where a single batch is below 0."""
    case, field = data()
    statistics = statistics_of(case, field)
    spread = case.std(0)
    for shift in (0.0, 0.8):
        draws = []
        for _ in range(1500):
            generated = statistics.means[0] + shift + spread * torch.randn(4, *case.shape[1:])
            draws.append(float(statistics.distance((generated, field.mean(0).expand(4, -1, -1, -1, -1)))))
        expected = shift**2 / statistics.variances[0]
        error = torch.tensor(draws).std() / len(draws) ** 0.5
        assert abs(sum(draws) / len(draws) - expected) < 4 * float(error)
        assert min(draws) < expected < max(draws)


def test_a_batch_of_one_has_no_distance():
    case, field = data()
    assert statistics_of(case, field).distance((case[:1], field[:1])) == 0


def test_a_training_starts_at_the_mean_case(small_plan, small_cases):
    from GEDGANLib.training.trainer import Trainer

    trainer = Trainer(small_plan, small_cases, "cpu", 0)
    with torch.no_grad():
        generated = trainer.generator(trainer._latents()).mean(0)
    mean = trainer.statistics.means[0]
    assert (generated - mean).abs().mean() < 0.1 * (mean - mean.mean((1, 2, 3), keepdim=True)).abs().mean()
    for _ in range(2):
        assert trainer.step().sound()
    with torch.no_grad():  # and keeps it, where nothing is added to it
        kept = trainer.generator.read_out(trainer.generator.mean_case)[0]
    assert (kept - mean).abs().max() < 0.05


def test_the_state_of_other_weights_is_not_taken(small_plan, small_cases):
    from GEDGANLib.training.state import load_state, state_of
    from GEDGANLib.training.trainer import Trainer

    trainer = Trainer(small_plan, small_cases, "cpu", 0)
    assert trainer.step().sound()
    state = state_of(trainer)
    load_state(trainer, state, 1)
    state["generator_optimizer.0.exp_avg_sq"] = state["generator_optimizer.1.exp_avg_sq"].clone()
    with pytest.raises(KeyError):
        load_state(trainer, state, 1)
