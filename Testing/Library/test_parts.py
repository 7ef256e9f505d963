"""Training on parts: blocks equal the whole, the halo is wide enough, places fit, a training from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.networks.build import build_discriminator, build_generator, coarse_plan, part_plan, plan_of_critic
from GEDGANLib.networks.discriminator import Critic
from GEDGANLib.networks.parts import FACTOR, PartsGenerator, position
from GEDGANLib.planning.plan import Plan
from GEDGANLib.synthesis.explain import unlikeness_map
from GEDGANLib.synthesis.model_file import Model, load_model
from GEDGANLib.synthesis.projection import Projector
from GEDGANLib.synthesis.synthesizer import Synthesizer
from GEDGANLib.training.trainer import Trainer
from GEDGANLib.volumes.pipeline import coarse_of


def lowered(case):
    """The coarse whole by PyTorch's own pooling, to compare with."""
    return torch.nn.functional.avg_pool3d(case, FACTOR)


def shaken(generator):
    """Weights far from their start, so that nothing is small by initialisation."""
    torch.manual_seed(0)
    for weight in generator.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return generator.eval()


@pytest.mark.parametrize(
    ("shape", "part", "blocks"),
    [((32, 48, 32), (16, 16, 16), 1), ((48, 32, 64), (48, 16, 24), 2), ((64, 96), (16, 32), 1)],
)
@torch.inference_mode()
def test_a_volume_made_in_blocks_is_the_volume(shape, part, blocks):
    generator = shaken(PartsGenerator(len(shape), shape, 1, 2, (12, 8, 8), 16, part, blocks=blocks))
    latent = torch.randn(2, 16)
    whole = generator.fine(*generator.coarse(latent), [0] * len(shape), shape)
    torch.testing.assert_close(generator(latent), whole, atol=2e-6, rtol=1e-5)
    assert float(whole[:, 0].std()) > 0.05


@torch.inference_mode()
def test_the_halo_is_needed_and_enough(monkeypatch):
    generator = shaken(PartsGenerator(3, (48, 48, 48), 1, 0, (8, 8, 8), 8, (16, 16, 16)))
    maps, logits = generator.coarse(torch.randn(1, 8))
    whole = generator.fine(maps, logits, (0, 0, 0), (48, 48, 48))[..., 16:32, 16:32, 16:32]
    halo = generator.halo
    for width, fits in ((halo, True), (halo - 2, False)):
        monkeypatch.setattr(PartsGenerator, "halo", width)
        part = generator.fine(maps, logits, (16, 16, 16), (16, 16, 16))
        assert (float((part - whole).abs().max()) < 1e-5) == fits


def test_positions_run_from_one_end_to_the_other():
    where = position(torch.tensor([[0, 16], [16, 0]]), (16, 16), (32, 32))
    assert where.shape == (2, 2, 16, 16)
    assert where[0, 0, 0, 0] == pytest.approx(-1 + 1 / 32) and where[0, 1, 0, -1] == pytest.approx(1 - 1 / 32)
    torch.testing.assert_close(where[0, 1], where[1, 0].T)


@pytest.fixture(scope="module")
def parts_plan(small_plan_of_32) -> Plan:
    plan = small_plan_of_32
    networks = replace(plan.networks, generator_widths=(32, 16, 16), discriminator_widths=(16, 16, 32))
    training = replace(plan.training, volume="parts", part=(16, 16, 16), held_out=0)
    return Plan.from_dict(replace(plan, networks=networks, training=training).to_dict(), "test")


@pytest.fixture(scope="module")
def data_of_32(tmp_path_factory):
    from GEDGANLib.exchange.nnunet import write_dataset
    from GEDGANLib.volumes.cohort import make_case

    folder = tmp_path_factory.mktemp("parts") / "data"
    write_dataset(folder, (make_case(i, 0, (32, 40, 32), 5.0) for i in range(5)), "cohort of 32", whole_numbers="int16")
    return folder


@pytest.fixture(scope="module")
def small_plan_of_32(data_of_32) -> Plan:
    from GEDGANLib.planning.choosing import make_plan
    from GEDGANLib.volumes.dataset import find_dataset
    from GEDGANLib.volumes.fingerprint import check_dataset

    return make_plan(check_dataset(find_dataset(data_of_32)), "cpu", spacing=(5.0,) * 3)


@pytest.fixture(scope="module")
def cases_of_32(data_of_32, parts_plan):
    from GEDGANLib.volumes.dataset import find_dataset
    from GEDGANLib.volumes.pipeline import load_working_cases

    return list(load_working_cases(find_dataset(data_of_32), parts_plan))


def test_coarse_cases_are_block_means(cases_of_32, parts_plan):
    image, shares = coarse_of(cases_of_32[0], len(parts_plan.labels))
    expected = lowered(torch.from_numpy(cases_of_32[0].image)[None])[0]
    torch.testing.assert_close(torch.from_numpy(image), expected)
    np.testing.assert_allclose(shares.astype(np.float32).sum(0), 1, atol=2e-3)


def test_the_coarse_grid_lies_on_the_fine_one(parts_plan):
    fine, coarse = parts_plan.grid, coarse_plan(parts_plan).grid
    first = fine.affine @ (1.5, 1.5, 1.5, 1)
    np.testing.assert_allclose(coarse.affine @ (0, 0, 0, 1), first)
    np.testing.assert_allclose(coarse.affine @ (2, 1, 3, 1), fine.affine @ (1.5 + 8, 1.5 + 4, 1.5 + 12, 1))
    assert part_plan(parts_plan).grid.shape == (16, 16, 16)


def test_real_parts_lie_where_they_say(parts_plan, cases_of_32):
    trainer = Trainer(parts_plan, cases_of_32, "cpu", 0)
    seen = set()
    for step in range(30):
        batch = trainer.loader.batch(step)
        starts = batch.starts
        assert ((starts % 4 == 0) & (starts >= 0)).all()
        assert (starts + 16 <= torch.tensor(parts_plan.grid.shape)).all()
        index = trainer._choose(step)[0]
        place = tuple(slice(first, first + 16) for first in starts[0].tolist())
        np.testing.assert_array_equal(batch.part_images[0].numpy(), trainer.cases[index].image[(..., *place)])
        np.testing.assert_array_equal(batch.part_labels[0].numpy(), trainer.cases[index].labels[place])
        seen |= {tuple(start) for start in starts.tolist()}
    assert {start[0] for start in seen} >= {0, parts_plan.grid.shape[0] - 16}  # both borders


def test_fine_parts_reach_all_weights_and_the_coarse_case_agrees(parts_plan, cases_of_32):
    trainer = Trainer(parts_plan, cases_of_32, "cpu", 0)
    before = {name: weight.clone() for name, weight in trainer.generator.named_parameters()}
    assert all(trainer.step().sound() for _ in range(3))
    moved = {name for name, weight in trainer.generator.named_parameters() if bool((weight != before[name]).any())}
    assert moved == set(before) - {"mean_case"}
    with torch.no_grad():
        fine = trainer.generator(torch.randn(1, parts_plan.networks.latent_size))
    mean = trainer.statistics.means[0]
    assert float((lowered(fine)[0, 0] - mean[0]).abs().mean()) < 0.1  # near its start: detail adds little


@pytest.fixture(scope="module")
def parts_run(data_of_32, parts_plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run_of_parts")
    path, run = folder / "plan.json", folder / "run"
    plan = replace(parts_plan, classes=())
    plan.save(path)
    options = ["train", str(data_of_32), "-o", str(run), "--plan", str(path)]
    assert main([*options, "--steps", "2"]) == 0
    assert main(["train", str(data_of_32), "-o", str(run), "--resume", "--steps", "3"]) == 0
    return run


def test_parts_from_data_to_cases_and_explanations(parts_run, parts_plan, tmp_path):
    assert (parts_run / "prepared" / "coarse_images.npy").exists()
    model = load_model(parts_run / "model.safetensors", with_critic=True)
    case = next(iter(Synthesizer(model).cases(1)))
    assert case.image.shape[1:] == tuple(parts_plan.grid.shape)
    unlike = unlikeness_map(model, case)
    assert unlike.shape == case.labels.shape and np.isfinite(unlike).all()
    assert main(["synthesize", str(parts_run / "model.safetensors"), "-n", "1", "-o", str(tmp_path / "out")]) == 0


def test_a_projection_finds_the_nearest_case_by_parts_alone(parts_run, monkeypatch):
    model = load_model(parts_run / "model.safetensors", with_critic=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.generator.named_parameters():
            if name != "mean_case":  # after three steps all cases are alike
                weight += 0.07 * torch.randn_like(weight)
    synthesizer, learned_from = Synthesizer(model), []
    fine = type(model.generator).fine

    def watched(self, maps, logits, start, shape):
        if maps.requires_grad:
            learned_from.append((tuple(start), tuple(shape)))
        return fine(self, maps, logits, start, shape)

    monkeypatch.setattr(type(model.generator), "fine", watched)
    case = synthesizer.draw(77, 3)[0]
    found = Projector(model, candidates=24).project(replace(case, labels=None), steps=80)
    target = found.working.image[0]
    nearest_random = min(float(np.abs(synthesizer.draw(78, i)[1][0] - target).mean()) for i in range(8))
    assert float(np.abs(found.residual).mean()) < 0.6 * nearest_random
    assert found.made.shape[1:] == found.labels.shape == tuple(model.plan.grid.shape)
    assert {shape for _, shape in learned_from} == {(16, 16, 16)}
    assert len({start for start, _ in learned_from}) > 20


@pytest.mark.parametrize("kind", ["classes", "no field", "no critic", "no labels"])
def test_models_of_parts_of_every_kind_are_projected_on(parts_plan, cases_of_32, kind):
    plan = replace(parts_plan, classes=("old", "young") if kind == "classes" else ())
    if kind == "no field":
        plan = replace(plan, field=replace(plan.field, kind="none"))
    if kind == "no labels":
        plan = replace(plan, labels=())
    torch.manual_seed(0)
    critic = Critic(build_discriminator(plan_of_critic(plan)), 1.0, torch.zeros(1), torch.ones(1))
    model = Model(Path("model"), build_generator(plan), plan, {}, None if kind == "no critic" else critic)
    found = Projector(model, candidates=4).project_working(cases_of_32[0], steps=2)
    assert found.made.shape == cases_of_32[0].image.shape and np.isfinite(found.made).all()
    assert (found.labels is None) == (kind == "no labels")
    if kind == "classes":
        assert found.class_weights.sum() == pytest.approx(1)


def test_parts_that_cannot_be_are_refused(parts_plan):
    for part in ((16, 16), (18, 16, 16), (16, 16, 400)):
        values = json.loads(json.dumps(replace(parts_plan, training=replace(parts_plan.training, part=part)).to_dict()))
        with pytest.raises(InputError, match="multiples of 4"):
            Plan.from_dict(values, "plan.json")


def test_the_fine_generator_holds_no_fine_mean(parts_plan):
    names = dict(build_generator(parts_plan).named_parameters())
    assert names["mean_case"].shape[2:] == tuple(side // 4 for side in parts_plan.grid.shape)
    assert not any(name.startswith("stem.mean") for name in names)
