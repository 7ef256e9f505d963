"""The article's baseline: its networks as printed, and a whole training with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from GEDGANLib.commands.main import main
from GEDGANLib.networks.article import ArticleDiscriminator, ArticleGenerator
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.planning.plan import Plan
from GEDGANLib.training.state import load_state, state_of
from GEDGANLib.training.trainer import Trainer
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.files import read_volume
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.pipeline import load_working_cases


def test_sizes_are_those_printed():
    """64x64x3 from a latent of 100 by way of 8x8x256; all stages but the added one have the printed weights."""
    generator = ArticleGenerator(2, (64, 64), 3, 0)
    assert generator(torch.randn(2, 100)).shape == (2, 3, 64, 64)
    assert generator.dense.weight.shape == (8 * 8 * 256, 100)
    assert [tuple(stage.weight.shape[2:]) for stage in generator.stages] == [(5, 5)] * 4
    assert [stage.stride[0] for stage in generator.stages] == [1, 2, 2, 2]
    discriminator = ArticleDiscriminator(2, (64, 64), 3, 0)
    assert discriminator(torch.randn(2, 3, 64, 64)).shape == (2,)
    assert discriminator.logit.weight.shape == (1, 16 * 16 * 128)


@pytest.mark.parametrize("shape", [(16, 24), (8, 16, 24)])
def test_any_grid_and_labels(shape):
    generator, discriminator = ArticleGenerator(len(shape), shape, 2, 3), ArticleDiscriminator(len(shape), shape, 2, 3)
    case = generator(torch.randn(2, 100))
    assert case.shape == (2, 6, *shape)
    torch.testing.assert_close(case[:, 2:].sum(1), torch.ones(2, *shape))
    assert discriminator(case).shape == (2,)
    with pytest.raises(ValueError, match="multiple of 8"):
        ArticleGenerator(2, (20, 16), 1, 0)


@pytest.fixture
def article_plan(cohort_folder) -> Plan:
    return make_plan(check_dataset(find_dataset(cohort_folder)), "cpu", method="article")


def test_resuming_it_repeats_dropout(article_plan, cohort_folder):
    cases = list(load_working_cases(find_dataset(cohort_folder), article_plan))
    trainer = Trainer(article_plan, cases, "cpu", 0)
    trainer.step()
    state, count = state_of(trainer), trainer.step_count
    first = trainer.step()
    resumed = Trainer(article_plan, cases, "cpu", 0)
    load_state(resumed, state, count)
    assert resumed.step() == first


def test_the_averaged_generator_is_the_generator(article_plan, cohort_folder):
    """The article has no average: weights and running statistics are those of the last step."""
    cases = list(load_working_cases(find_dataset(cohort_folder), article_plan))
    trainer = Trainer(article_plan, cases, "cpu", 0)
    trainer.step()
    ours, last = trainer.average.state_dict(), trainer.generator.state_dict()
    assert all(torch.equal(ours[name], last[name]) for name in last)


def test_from_data_to_cases(cohort_folder, tmp_path):
    run = tmp_path / "run"
    assert main(["train", str(cohort_folder), "-o", str(run), "--method", "article", "--steps", "2"]) == 0
    plan = json.loads((run / "plan.json").read_text())
    assert plan["method"] == "article" and plan["training"]["objective"] == "bce"
    assert plan["training"]["learning_rate"] == 1e-4 and plan["networks"]["latent_size"] == 100
    assert main(["synthesize", str(run / "model.safetensors"), "-n", "2", "-o", str(tmp_path / "out")]) == 0
    made = read_volume(next((tmp_path / "out" / "imagesTr").iterdir()))
    assert made.array.shape == tuple(plan["grid"]["shape"]) and np.isfinite(made.array).all()


def test_its_rate_stays_and_its_cost_is_counted(article_plan, cohort_folder):
    from GEDGANLib.networks.build import build_generator
    from GEDGANLib.networks.cost import count
    from GEDGANLib.volumes.dataset import find_dataset
    from GEDGANLib.volumes.pipeline import load_working_cases

    trainer = Trainer(article_plan, list(load_working_cases(find_dataset(cohort_folder), article_plan)), "cpu", 0)
    trainer.set_progress(1.0)
    assert {group["lr"] for group in trainer.generator_optimizer.param_groups} == {1e-4}
    with torch.device("meta"):
        generator = build_generator(article_plan)
        operations, _ = count(generator, torch.empty(2, article_plan.networks.latent_size))
    coarse = [side // 8 for side in article_plan.grid.shape]
    first = 2.0 * 2 * coarse[0] * coarse[1] * coarse[2] * 256 * 128 * 5**3
    assert operations > first
