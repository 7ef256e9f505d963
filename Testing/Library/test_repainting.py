"""The second generator: aligned anatomy, repainted, and judged by its image and by the field of that."""

import copy
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from starting import finish, popen, team

from GEDGANLib.alignment.runs import MODEL, RESULT, STATISTICAL
from GEDGANLib.commands.main import main
from GEDGANLib.commands.repainting import _basis, _plan_of_alignment, _with_gains, anatomy_of
from GEDGANLib.errors import InputError
from GEDGANLib.jobs.checkpoint import load_checkpoint
from GEDGANLib.networks.build import build_discriminator, build_generator, seen_alone
from GEDGANLib.networks.discriminator import Discriminator
from GEDGANLib.networks.judges import Judges
from GEDGANLib.networks.noise import NoisePatterns, Residuals, smoothed, to_full_resolution
from GEDGANLib.networks.refiner import Refiner
from GEDGANLib.networks.repainting import within_range
from GEDGANLib.networks.statistical import StatisticalGenerator, class_statistics
from GEDGANLib.planning.aligning import as_asked
from GEDGANLib.planning.choosing import steps_in
from GEDGANLib.planning.fitting import with_fitting_batch
from GEDGANLib.planning.plan import Plan
from GEDGANLib.planning.repainting import FEW_STEPS, REST, for_steps, modes_for
from GEDGANLib.structure.whitening import Whitening
from GEDGANLib.synthesis.directions import find_directions
from GEDGANLib.synthesis.explorer import Explorer
from GEDGANLib.synthesis.model_file import digest_of, load_model
from GEDGANLib.synthesis.repainted import projector_of
from GEDGANLib.synthesis.residuals import measure_residuals
from GEDGANLib.synthesis.synthesizer import Form, Synthesizer, latent_of
from GEDGANLib.training.anatomy import matched
from GEDGANLib.training.objectives import gradient_penalty
from GEDGANLib.training.trainer import HELD_OUT, Trainer
from GEDGANLib.training.view import seen_alike
from GEDGANLib.volumes.case import Case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.pipeline import WorkingCase, load_working_cases, seen_as, seen_voxels, to_working
from GEDGANLib.volumes.prepared import PreparedCases

STEPS = 3


@pytest.fixture(scope="module")
def trained(aligned_folder, aligned_run, tmp_path_factory) -> Path:
    """A training of some steps that went on in the folder of an alignment."""
    run = tmp_path_factory.mktemp("repainting") / "run"
    shutil.copytree(aligned_run, run)
    assert main(["train", str(aligned_folder), "-o", str(run), "--steps", str(STEPS), "--device", "cpu"]) == 0
    return run


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained / MODEL, "cpu", with_critic=True)


@pytest.mark.parametrize("shape", [(24, 20, 17), (40, 18)])
def test_noise_is_white_and_follows_from_the_latent(shape):
    patterns = NoisePatterns(64, shape, 0)
    latents = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    noise = patterns(latents)
    assert noise.shape == (200, 1, *shape)
    assert float(noise.mean().abs()) < 0.01 and float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float((noise.std(0) - 1).abs().max()) < 0.5  # at every voxel
    flat = noise[0, 0].flatten()
    for shift in (1, shape[-1], 16, 16 * shape[-1]):  # neither with neighbours nor from tile to tile
        assert abs(float(torch.corrcoef(torch.stack([flat[:-shift], flat[shift:]]))[0, 1])) < 0.2
    assert torch.equal(NoisePatterns(64, shape, 0)(latents), noise)
    assert not torch.allclose(NoisePatterns(64, shape, 1)(latents), noise, atol=0.1)
    between = patterns((latents[:1] + latents[1:2]) / 2)
    torch.testing.assert_close(between, (noise[:1] + noise[1:2]) / 2)  # it moves as the latent does


@pytest.mark.parametrize(
    ("shape", "strides"), [((16, 24, 16), ()), ((16, 24, 8), ((2, 2, 1), (2, 2, 2))), ((16, 24), ())]
)
def test_a_refiner_starts_at_nothing_and_learns(shape, strides):
    torch.manual_seed(0)
    dims, extent = len(shape), tuple(3.0 * side for side in shape)
    refiner = Refiner(dims, shape, extent, 2, 3, (8, 16, 24), 6, 2, strides)
    case, positions = torch.rand(2, 6, *shape), 10 * torch.randn(2, dims, *shape)
    rest, classes = torch.randn(2, 6), torch.eye(2)
    some = Residuals(torch.rand(2, 2, 3, *shape), 0.1 * torch.rand(dims), torch.zeros(()), torch.ones(2, 2, *shape))
    none = some._replace(amplitudes=torch.zeros(2, 2, 3, *shape))
    whole = none._replace(coarse=torch.ones(()))
    painted = refiner(case, positions, rest, none, classes)
    assert painted.shape == (2, 2, *shape) and not painted.any()
    noise = [to_full_resolution(refiner.noise[level](rest), refiner.strides[:level]) for level in range(3)]
    noise[0] = smoothed(noise[0], some.taps)
    told = sum(some.amplitudes[:, :, level] * noise[level] for level in range(3))
    torch.testing.assert_close(refiner(case, positions, rest, some, classes), told)
    with torch.no_grad():
        for weight in refiner.parameters():
            if not weight.any():  # as all branches start
                weight.normal_(std=0.1)
    painted = refiner(case, positions, rest, some, classes)
    for changed in (
        (case.flip(2), positions, rest, some, classes),
        (case, positions + 9, rest, some, classes),
        (case, positions, -rest, some, classes),
        (case, positions, rest, none, classes),
    ):
        assert not torch.allclose(refiner(*changed), painted, atol=1e-4)
    fine = refiner(case, positions, rest, none, classes)
    blocks = [math.prod(along) for along in zip(*refiner.strides)]
    pool = torch.nn.functional.avg_pool3d if dims == 3 else torch.nn.functional.avg_pool2d
    both = [float(pool(each, blocks).detach().std()) for each in (fine, refiner(case, positions, rest, whole, classes))]
    assert both[0] < 0.45 * both[1]  # means over blocks are not its business
    painted.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in refiner.parameters())
    with torch.no_grad():
        _paints_within_what_cases_differ_by(refiner, case, positions, rest, whole, classes)


def _paints_within_what_cases_differ_by(refiner, case, positions, rest, residuals, classes):
    """Of weights as large as may be it paints three times as much at most, and nothing where cases do not differ."""
    scale = torch.rand_like(residuals.scale) * (torch.rand_like(residuals.scale) > 0.3)
    residuals = residuals._replace(scale=scale)
    fine = refiner(case, positions, rest, residuals, classes)
    assert not fine[scale == 0].any() and fine[scale > 0].all()
    refiner.output.weight.mul_(1e4)
    painted = refiner(case, positions, rest, residuals, classes)
    assert bool((painted.abs() <= 3 * scale).all()) and float((painted.abs() / scale)[scale > 0].median()) > 2.9
    refiner.relative = False  # as models of before, which know no bounds
    assert float(refiner(case, positions, rest, residuals, classes).abs().max()) > 30


def _noisy_cases(count: int, shape: tuple[int, ...], coarse: bool) -> list[WorkingCase]:
    """Cases of noise of the finest or the next level, three times as strong behind the middle of the first axis, of
    which the first six voxels were not seen."""
    random = torch.Generator().manual_seed(0)
    side = tuple(each // 2 for each in shape) if coarse else shape
    noise = torch.randn((count, 1, *side), generator=random)
    noise = to_full_resolution(noise, [(2,) * len(shape)] if coarse else []).numpy()
    strength = np.full(shape, 0.05, np.float32)
    strength[shape[0] // 2 :] = 0.15
    images = noise * strength
    images[:, :, :6] = images[:, :, 6:7]
    of_scan = np.eye(4)
    of_scan[0, 3] = 6
    seen = (shape[0] - 6, *shape[1:], *[1] * (3 - len(shape)))
    return [WorkingCase(str(number), image, None, np.eye(4), of_scan, seen) for number, image in enumerate(images)]


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("shape", [(32, 24, 16), (64, 48)])
def test_noise_makes_up_for_what_modes_leave_over(shape, coarse):
    """The right level, as strong as it is at each place, and nothing where the statistical case has it all."""
    extent, count = tuple(float(side) for side in shape), 40 if len(shape) == 3 else 200
    generator = StatisticalGenerator(shape, extent, 1, 0, 2, shape, (4,) * len(shape), (4,) * len(shape))
    cases = _noisy_cases(count, shape, coarse)
    strides = [(2,) * len(shape)] * 2
    found, taps, _, scale, _ = measure_residuals(generator, cases, np.zeros((count, 2)), strides)
    assert float(taps.min()) > 0.1 if coarse else float(taps.max()) < 0.1
    found = found[0]
    found[0] *= float(((1 - 2 * taps) ** 2 + 2 * taps**2).prod().sqrt())  # what is left of it where it is smoothed
    half = found.shape[1] // 2
    weak, strong = found[:, half // 2 + 1 : half - 1].flatten(1), found[:, half + 1 :].flatten(1)
    right, wrong = (1, (0, 2)) if coarse else (0, (1, 2))
    assert float(weak[right].mean()) == pytest.approx(0.05, rel=0.1)
    assert float(strong[right].mean()) == pytest.approx(0.15, rel=0.1)
    assert all(float(strong[level].mean()) < 0.05 for level in wrong)
    still = [replace(case, image=np.zeros_like(case.image)) for case in cases[:3]]
    nothing = measure_residuals(generator, still, np.zeros((3, 2)), strides)
    assert not nothing.amplitudes.any() and not nothing.scale.any()
    coarse_noise = torch.randn(200, 1, *(side // 2 for side in shape))
    power = float(to_full_resolution(coarse_noise, [(2,) * len(shape)]).square().mean()) if coarse else 1.0
    assert float(scale[0, half + 1 :].mean()) == pytest.approx(0.15 * power**0.5, rel=0.1)
    assert float(scale[0, half // 2 + 1 : half - 1].mean()) == pytest.approx(0.05 * power**0.5, rel=0.1)


def test_intensities_are_exact_and_learn_beyond_their_range():
    image = torch.tensor([-1.5, -1.0, 0.2, 1.7], requires_grad=True)
    cut = within_range(image)
    assert cut.tolist() == [-1.0, -1.0, pytest.approx(0.2), 1.0]
    cut.sum().backward()
    assert image.grad.tolist() == pytest.approx([0.1, 1, 1, 0.1])


def test_each_judge_sees_its_own_and_is_penalised_for_it():
    options = {"spatial_dims": 3, "shape": (16, 16, 16), "label_count": 0, "widths": (8, 16)}
    judges = Judges(
        Discriminator(image_channels=1, field_channels=0, **options),
        Discriminator(image_channels=0, field_channels=13, **options),
    )
    case, field = torch.randn(2, 4, 16, 16, 16), torch.randn(2, 13, 8, 8, 8)
    logits = judges(case, field)
    other_labels = torch.cat([case[:, :1], -case[:, 1:]], 1)
    assert logits.shape == (2, 2) and torch.equal(judges(other_labels, field), logits)
    assert torch.equal(judges(-case, field)[:, 1], logits[:, 1]) and torch.equal(
        judges(case, -field)[:, 0], logits[:, 0]
    )
    leaves = case.requires_grad_(), field.requires_grad_()
    both = gradient_penalty(judges(*leaves), leaves)
    alone = [gradient_penalty(judges(*leaves)[:, head], leaves) for head in (0, 1)]
    torch.testing.assert_close(both, sum(alone))
    relative = gradient_penalty(judges(*leaves), leaves, torch.tensor([2.0, 30.0]))
    torch.testing.assert_close(relative, 2 * alone[0] + 30 * alone[1])
    assert len(judges.first_parts(1)) == 4 and all(each > 0 for each in alone)


def test_a_made_case_sees_as_much_as_the_scan_it_is_paired_with(small_plan, random):
    """As if a scanner had seen so little of it: beyond that the edge is repeated, and nothing is labelled."""
    shape, spacing = small_plan.grid.shape, small_plan.grid.spacing
    channel = replace(small_plan.channels[0], mapping="window", typical=(-1.0, 1.0))
    plan = replace(small_plan, channels=(channel,))
    image = random.uniform(-1, 1, (1, *shape)).astype(np.float32)
    labels = random.integers(0, len(plan.labels) + 1, shape).astype(np.uint8)
    whole = to_working(Case("whole", image, labels, np.diag([*spacing, 1.0]), tuple(plan.labels)), plan)
    np.testing.assert_allclose(whole.image, image, atol=1e-6)
    # An even number of voxels less, so that the middle of the crop is the middle of a voxel's edge still.
    place = (slice(2, shape[0] - 2), slice(0, shape[1]), slice(1, shape[2] - 1))
    crop = Case("crop", image[(slice(None), *place)], labels[place], np.diag([*spacing, 1.0]), tuple(plan.labels))
    seen = to_working(crop, plan)
    fields = seen_voxels(seen)
    assert fields.tolist() == [[each.start, each.stop - 1] for each in place]
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), len(plan.labels) + 1).movedim(-1, 0)
    made = torch.cat([torch.from_numpy(image), one_hot.float()])[None].repeat(2, *[1] * 4)
    everything = torch.tensor([[0, side - 1] for side in shape])
    alike = seen_alike(made, torch.stack([torch.from_numpy(fields), everything]), 1)
    np.testing.assert_allclose(alike[0, :1].numpy(), seen.image, atol=1e-5)
    assert np.array_equal(alike[0, 1:].argmax(0).numpy(), seen.labels)
    assert torch.equal(alike[1], made[1])
    again = seen_as(whole, fields)
    np.testing.assert_allclose(again.image, seen.image, atol=1e-5)
    assert np.array_equal(again.labels, seen.labels)


@pytest.mark.parametrize("spacing", [1.0, 1.5, 2.0, 0.7])
def test_stripes_of_made_cases_are_as_long_as_those_of_scans_of_other_spacing(small_plan, random, spacing):
    """One voxel more or less would tell the two kinds apart."""
    grid = replace(small_plan.grid, shape=(32, 32, 32), spacing=(spacing,) * 3)
    plan = replace(small_plan, grid=grid, labels=())
    for side in range(20, 32):
        image = random.uniform(-1, 1, (1, side, side + 1, side + 2)).astype(np.float32)
        seen = to_working(Case("scan", image, None, np.eye(4)), plan)
        for axis, (first, last) in enumerate(seen_voxels(seen).tolist()):
            planes = np.moveaxis(seen.image[0], axis, 0)
            alike = [bool(np.allclose(one, other, atol=1e-6)) for one, other in itertools.pairwise(planes)]
            assert alike == [place < first or place >= last for place in range(31)], (side, axis)


def test_a_training_goes_on_where_an_alignment_ended(trained, aligned_folder, aligned_run, capsys):
    plan = Plan.load(trained / "plan.json")
    assert plan.repaints and plan.alignment.kind == "template"
    before = load_model(aligned_run / MODEL, "cpu")
    assert plan.statistical.modes == 3 and plan.statistical.template == before.plan.statistical.template
    assert digest_of(trained / STATISTICAL) == digest_of(aligned_run / MODEL)
    assert (trained / "modes.directions.json").exists() and (trained / RESULT).exists()
    again = main(["train", str(aligned_folder), "-o", str(trained), "--steps", str(STEPS)])
    assert again == 2 and "already holds" in capsys.readouterr().err


def test_cases_that_an_alignment_left_out_stay_out(aligned_folder, tmp_path):
    run, left_out = tmp_path / "run", "variation_0004"
    command = ["align", str(aligned_folder), "-o", str(run), "--exclude", left_out, "--device", "cpu"]
    assert main(command) == 0
    assert main(["train", str(aligned_folder), "-o", str(run), "--steps", "1"]) == 0
    assert main(["train", str(aligned_folder), "-o", str(run), "--resume", "--steps", "2"]) == 0
    assert left_out not in json.loads((run / "run.json").read_text())["cases"]


def test_an_alignment_that_means_little_is_trained_on_when_asked_for(aligned_folder, aligned_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(aligned_run, run)
    plan = Plan.load(run / "plan.json")
    trunk = replace(plan.networks, generator="trunk", generator_widths=plan.networks.discriminator_widths[::-1])
    without = replace(plan, networks=trunk, alignment=replace(plan.alignment, kind="none"))
    replace(without, statistical=replace(plan.statistical, modes=0)).save(run / "plan.json")
    command = ["train", str(aligned_folder), "-o", str(run), "--steps", "1", "--device", "cpu"]
    assert main(command) == 2 and "mean little" in capsys.readouterr().err
    assert (run / MODEL).exists() and not (run / "run.json").exists()
    assert main([*command, "--alignment", "template"]) == 0 and Plan.load(run / "plan.json").repaints


def test_classes_are_as_wide_along_few_modes_as_their_cases_are():
    random = np.random.default_rng(0)
    scores = random.standard_normal((90, 40))
    scores[:45, 0] += 2.0
    scores[:, 0] = (scores[:, 0] - scores[:, 0].mean()) / scores[:, 0].std()
    numbers = [int(index >= 45) for index in range(90)]
    means, roots = class_statistics(scores[:, :4], numbers, 2)
    spread = float((roots[0] @ roots[0])[0, 0])
    assert abs(float(means[0, 0]) - scores[:45, 0].mean()) < 1e-6
    assert spread == pytest.approx(scores[:45, 0].var(), abs=0.1)


def test_cases_are_varied_from_the_first_step_on(model, trained):
    assert model.about["variety"] > 0.3 and not model.about["warnings"]
    images = [case.image for case in Synthesizer(model).cases(3, seed=1)]
    assert all(np.abs(one - other).max() > 0.1 * images[0].max() for one, other in itertools.pairwise(images))
    again = next(Synthesizer(model).cases(1, seed=1, first=2))
    assert np.array_equal(again.image, images[2]) and set(np.unique(again.labels)) <= {0, 1, 2, 3, 4}


def test_a_case_is_the_statistical_one_repainted(model):
    generator, latent = model.generator, torch.randn(2, model.plan.networks.latent_size)
    channels = len(model.plan.channels)
    with torch.no_grad():
        made = generator(latent)
        deformed, _ = generator.deformed(latent[:, : model.plan.statistical.modes])
        statistical = generator.statistical(latent[:, : model.plan.statistical.modes])
    torch.testing.assert_close(deformed, statistical)
    assert torch.equal(made[:, channels:], deformed[:, channels:])  # labels are deformed alone
    assert not torch.equal(made[:, :channels], deformed[:, :channels])
    assert float(made[:, :channels].min()) >= -1 and float(made[:, :channels].max()) <= 1
    latent.requires_grad_()
    generator(latent)[:, :channels].square().sum().backward()  # what a projection asks for
    assert bool((latent.grad.abs().sum(0) > 0).all())


def test_an_alignment_of_before_is_gone_on_with_as_one_of_today(aligned_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(aligned_run, run)
    path = run / "plan.json"
    plan = Plan.load(path)
    assert plan.repaints and plan.statistical.relative
    old = replace(
        plan,
        statistical=replace(plan.statistical, relative=False),
        training=replace(plan.training, penalty_weight=8.1),
    )
    old.save(path)
    found = _plan_of_alignment(run, None, "cpu", False)
    assert found.statistical.relative and found.training.penalty_weight == plan.training.penalty_weight


def test_a_refiner_of_before_leaves_the_air_alone_by_a_mask(model, aligned_run):
    plan = replace(model.plan, statistical=replace(model.plan.statistical, relative=False))
    scale = torch.zeros_like(model.generator.scale)
    half = scale.shape[1] // 2
    scale[:, half:] = 0.1
    given = Residuals(model.generator.amplitudes, model.generator.taps, torch.zeros(()), scale)
    seen = torch.ones(model.generator.painted.shape[1:])
    for relative in (True, False):
        generator = build_generator(replace(plan, statistical=replace(plan.statistical, relative=relative)))
        generator.take(model.generator.statistical, seen, given)
        first, last = generator.painted[0, 0], generator.painted[0, -1]
        assert bool((last == 1).all()) and bool((first == (1 if relative else 0)).all())


def test_nothing_is_painted_where_the_statistical_case_is_at_an_end(model):
    """As in air, though cases differ there: their noise would be cut on one side."""
    generator, latent = copy.deepcopy(model.generator), torch.randn(2, model.plan.networks.latent_size)
    channels, modes = len(model.plan.channels), model.plan.statistical.modes
    with torch.no_grad():
        generator.scale.fill_(0.2), generator.amplitudes.fill_(0.1)
        made, (statistical, _) = generator(latent)[:, :channels], generator.deformed(latent[:, :modes])
    statistical = statistical[:, :channels]
    at_an_end, within = statistical.abs() == 1, statistical.abs() < 0.9
    assert at_an_end.any() and torch.equal(made[at_an_end], statistical[at_an_end])
    assert float((made - statistical)[within].abs().mean()) > 0.02


def test_a_model_file_holds_judges_and_is_half_as_large_as_its_numbers(model, trained):
    tensors = load_file(trained / MODEL)
    assert {name.split(".")[0] for name in tensors} == {
        "statistical",
        "painted",
        "amplitudes",
        "taps",
        "coarse",
        "scale",
        "refiner",
        "discriminator",
        "realness",
    }
    assert tensors["statistical.velocities"].dtype == torch.float16
    assert isinstance(model.critic.discriminator, Judges)


def test_what_follows_an_alignment_follows_a_training_too(trained, aligned_folder, tmp_path):
    for number, known in enumerate((trained, trained / MODEL)):
        assert main(["augment", str(known), str(aligned_folder), "-n", "1", "-o", str(tmp_path / f"{number}")]) == 0
    for name in ("synthesize", "export"):
        more = ["--to", "monai-bundle"] if name == "export" else ["-n", "2"]
        assert main([name, str(trained / MODEL), "-o", str(tmp_path / name), *more]) == 0
    traced = torch.jit.load(tmp_path / "export" / "models" / "model.ts")
    found = load_model(trained / MODEL, "cpu")
    latent = torch.randn(1, found.plan.networks.latent_size)
    with torch.no_grad():
        torch.testing.assert_close(traced(latent), found.generator(latent), atol=2e-3, rtol=1e-3)


WAITING = """
import os, sys, time
from GEDGANLib.alignment.registration import Registration
original = Registration.step
def step(registration):
    while registration.done >= 9 and not os.path.exists({go!r}):
        open({here!r}, "w").close()
        time.sleep(0.01)
    return original(registration)
Registration.step = step
import GEDGANLib.alignment.job as job
job.CHECKPOINT_SECONDS = 0.0
from GEDGANLib.commands.main import main
sys.exit(main())
"""


DYING = """
import os, signal, sys
import GEDGANLib.training.run as run
from GEDGANLib.training.trainer import Trainer
run.CHECKPOINT_SECONDS = 0.0
original = Trainer.step
def step(trainer):
    if trainer.step_count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(trainer)
Trainer.step = step
from GEDGANLib.commands.main import main
sys.exit(main())
"""


def test_made_cases_have_the_anatomy_of_the_real_ones_beside_them_in_a_share_of_the_pairs(trained):
    plan = Plan.load(trained / "plan.json")
    assert plan.training.matched == 0.5
    anatomy, _ = anatomy_of(trained, plan)
    cases, modes = PreparedCases(trained / "prepared"), plan.statistical.modes
    assert set(anatomy.scores) == {case.name for case in cases}
    trainer = Trainer(plan, cases, "cpu", 0, anatomy=anatomy)
    chosen = [trainer.cases[index].name for index in trainer._choose(0)]
    latents, drawn = trainer._latents("generator"), replace(plan, training=replace(plan.training, matched=0.0))
    free = Trainer(drawn, cases, "cpu", 0, anatomy=anatomy)._latents("generator")
    for row, name in enumerate(chosen):
        assert torch.equal(latents[row, :modes], anatomy.scores[name]) == bool(row % 2)
    assert torch.equal(latents[::2], free[::2]) and torch.equal(latents[:, modes:], free[:, modes:])
    assert not any(torch.equal(trainer._latents(HELD_OUT)[row, :modes], anatomy.scores[chosen[row]]) for row in (1, 3))


def test_of_classes_the_latent_is_found_whose_scores_a_case_has():
    random = torch.Generator().manual_seed(0)
    generator = StatisticalGenerator((8, 8), (8.0, 8.0), 1, 0, 3, (8, 8), (4, 4), (4, 4), (), 2)
    scores = torch.randn(12, 3, generator=random)
    means, roots = class_statistics(scores.numpy(), [0, 1] * 6, 2)
    with torch.no_grad():
        generator.class_means.copy_(means), generator.class_roots.copy_(roots)
    weights = torch.eye(2).repeat(6, 1)
    weights[3] = 0  # of no class
    torch.testing.assert_close(generator.scores(generator.latents(scores, weights), weights), scores, atol=1e-4, rtol=0)
    assert torch.equal(generator.latents(scores), scores)


def test_where_no_anatomy_is_known_it_is_drawn():
    latents, own = torch.zeros(8, 5), torch.ones(8, 3)
    own[2] = float("nan")
    for share in (0.0, 0.25, 0.5, 1.0):
        found = matched(latents, own, share)
        assert not found[:, 3:].any() and not found[2].any()
        assert int(found[:, 0].sum()) == round(8 * share) - (share == 1.0)


def test_killed_while_it_aligns_and_while_it_trains_it_ends_in_the_same_bits(aligned_folder, tmp_path, capsys):
    options = [str(aligned_folder), "--steps", "4", "--device", "cpu", "--seed", "3"]
    assert main(["train", *options, "-o", str(tmp_path / "whole"), "--alignment", "template"]) == 0
    run, go, here = tmp_path / "run", tmp_path / "go", tmp_path / "here"
    code = WAITING.format(go=str(go), here=str(here))
    worker = popen([sys.executable, "-c", code, "train", *options, "-o", str(run), "--alignment", "template"])
    while not here.exists():
        assert worker.poll() is None
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert (run / "run.json").exists() and not (run / RESULT).exists()
    fewer = tmp_path / "fewer"
    shutil.copytree(aligned_folder, fewer)
    next((fewer / "imagesTr").iterdir()).unlink()
    assert main(["train", str(fewer), "-o", str(run), "--resume", "--accept-changed-data"]) == 2
    assert "whose alignment was begun" in capsys.readouterr().err
    (run / "prepared").rename(tmp_path / "of fewer")  # as it is made anew
    resumed = ["train", str(aligned_folder), "-o", str(run), "--resume"]
    here.unlink()
    worker = popen([sys.executable, "-c", code, *resumed], stderr=subprocess.PIPE, text=True)
    while not here.exists():
        assert worker.poll() is None
    (run / "STOP").touch()
    go.touch()
    said = worker.communicate()[1]
    assert worker.returncode == 3 and "Go on: gedgan train" in said and not (run / RESULT).exists()
    worker = popen([sys.executable, "-c", DYING, *resumed])
    worker.wait()
    assert worker.returncode == -signal.SIGKILL and (run / RESULT).exists() and not (run / MODEL).exists()
    assert load_checkpoint(run)[1]["step"] == 2
    assert main(resumed) == 0
    assert json.loads((run / "run.json").read_text())["seed"] == 3
    assert digest_of(run / STATISTICAL) == digest_of(tmp_path / "whole" / STATISTICAL)
    ours, theirs = (load_checkpoint(folder)[0] for folder in (run, tmp_path / "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_training_starts_from_a_model_with_the_anatomy_of_new_scans(trained, cohort_folder, tmp_path):
    run = tmp_path / "run"
    command = ["train", str(cohort_folder), "-o", str(run), "--from", str(trained / MODEL), "--steps", "1"]
    assert main([*command, "--device", "cpu"]) == 0
    old, new = Plan.load(trained / "plan.json"), Plan.load(run / "plan.json")
    assert new.repaints and new.grid.shape == old.grid.shape
    assert new.networks.latent_size - new.statistical.modes == old.networks.latent_size - old.statistical.modes
    before, after = (load_file(folder / MODEL)["refiner.enter.weight"] for folder in (trained, run))
    assert 0 < float((after - before).abs().max()) < 0.01


def test_two_processes_repaint_as_one(aligned_folder, aligned_run, tmp_path):
    for count in (1, 2):
        run = tmp_path / f"run{count}"
        shutil.copytree(aligned_run, run)
        ended = finish(team(aligned_folder, run, count, "--steps", "2", training=["train"]))
        assert [status for status, _, _ in ended] == [0] * count, ended
    one, two = (load_file(tmp_path / f"run{count}" / MODEL) for count in (1, 2))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=2e-3, rtol=1e-2, msg=name)


def test_what_a_refiner_cannot_be_is_refused(trained, tmp_path, capsys):
    plan = Plan.load(trained / "plan.json")
    wrong = {
        "takes the method ged": replace(plan, alignment=replace(plan.alignment, kind="none")),
        "whole volumes": replace(plan, training=replace(plan.training, volume="parts", part=(8, 8, 8))),
        "separate heads": replace(plan, networks=replace(plan.networks, heads="separate")),
        "statistical.modes": replace(plan, statistical=replace(plan.statistical, modes=0)),
        "networks.generator is": replace(
            plan, networks=replace(plan.networks, generator="diffusion", generator_widths=(32, 16))
        ),
    }
    for words, each in wrong.items():
        each.save(tmp_path / "plan.json")
        assert main(["train", str(tmp_path), "-o", str(tmp_path / "run"), "--plan", str(tmp_path / "plan.json")]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("dims", [2, 3])
def test_networks_of_any_plan_fit_each_other(trained, dims):
    """Two channels, classes and, as far as the networks go, 2D."""
    plan = Plan.load(trained / "plan.json")

    def cut(sides):
        return tuple(sides[:dims])

    grid = replace(plan.grid, shape=cut(plan.grid.shape), spacing=cut(plan.grid.spacing))
    grid = replace(
        grid, origin=cut(plan.grid.origin), directions=tuple(cut(row) for row in plan.grid.directions[:dims])
    )
    grids = plan.statistical
    statistical = replace(grids, template=cut(grids.template), velocity=cut(grids.velocity), look=cut(grids.look))
    statistical = replace(statistical, labels=cut(grids.labels))
    networks = replace(plan.networks, strides=tuple(cut(each) for each in plan.networks.strides))
    plan = replace(
        plan, grid=grid, statistical=statistical, networks=networks, channels=plan.channels * 2, classes=("f", "m")
    )
    generator, judges = build_generator(plan), build_discriminator(plan)
    case = generator(torch.randn(2, plan.networks.latent_size), torch.eye(2))
    assert case.shape == (2, 2 + len(plan.labels) + 1, *plan.grid.shape)
    torch.testing.assert_close(case[:, 2:].sum(1), torch.ones(2, *plan.grid.shape))
    field = torch.randn(2, 2 * {2: 4, 3: 13}[dims], *(s // each for s, each in zip(plan.grid.shape, plan.field_stride)))
    assert judges(case, field, class_weights=torch.eye(2)).shape == (2, 2)


def test_anatomy_is_steered_and_projected_and_texture_stays(model, aligned_folder):
    plan = model.plan
    modes, size = plan.statistical.modes, plan.networks.latent_size
    directions = find_directions(model, 20)
    assert [each.kind for each in directions[:modes]] == ["modes"] * modes
    assert all(len(each.latent) == size and not any(each.latent[modes:]) for each in directions)
    explorer = Explorer(Synthesizer(model), directions)
    first, moved = explorer.latent_at({}), explorer.latent_at({directions[0].name: 2.0})
    assert not first[:modes].any() and first[modes:].any() and np.array_equal(first[modes:], moved[modes:])
    assert np.abs(explorer.case({directions[0].name: 2.0}).image - explorer.case({}).image).max() > 0
    truncated = Synthesizer(model, Form(truncation=0.0)).latent(5, 3)
    assert not truncated[:modes].any() and np.array_equal(truncated[modes:], latent_of(5, 3, size)[modes:])
    working = next(load_working_cases(find_dataset(aligned_folder), plan))
    found = projector_of(model).project_working(working)
    assert found.latent.shape == (size,) and found.latent[:modes].any() and found.explained > 0.3


def test_a_plan_says_what_repaints_and_large_volumes_are_left_to_the_first_generator(small_plan, tmp_path):
    plan = as_asked(small_plan)
    assert plan.repaints and plan.statistical.modes == modes_for(plan.data["cases"] - plan.training.held_out)
    assert plan.networks.latent_size == plan.statistical.modes + REST and plan.prediction.minutes_per_1000_steps > 0
    assert plan.training.statistics_weight == 0 and plan.training.penalty_interval == 4
    said = " ".join(plan.reasons)
    assert "as was asked for" in said and "eigen-directions of their anatomy" in said and "Networks of" not in said
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    parts = replace(small_plan, training=replace(small_plan.training, volume="parts", part=(8, 8, 8)))
    assert not as_asked(parts).repaints and as_asked(parts).alignment.kind == "template"
    assert [modes_for(cases) for cases in (2, 3, 9, 135, 1000)] == [1, 1, 3, 45, 200]
    several = with_fitting_batch(plan, "cpu", 3, 1e12)
    assert several.training.batch % 3 == 0 and several.training.penalty_weight == plan.training.penalty_weight
    tight = with_fitting_batch(plan, "cpu", 1, plan.prediction.memory_gb * 1e9)
    assert tight.training.batch < plan.training.batch


def test_a_judge_may_see_images_in_which_all_frequencies_differ_alike(trained, model):
    """In a training, and where it is asked of scans later."""
    cases = PreparedCases(trained / "prepared")
    plan = Plan.load(trained / "plan.json")
    basis = _basis(trained, plan)
    assert _with_gains(plan, basis, cases) is plan
    asked = replace(plan, statistical=replace(plan.statistical, whitened=True))
    measured = _with_gains(asked, basis, cases)
    (gains,) = measured.statistical.gains
    assert gains[-1] > 2 * gains[0] > 0 and _with_gains(measured, basis, cases) is measured
    with pytest.raises(InputError, match="not among the cases any more"):
        _with_gains(asked, basis, list(cases)[2:])
    view = Trainer(measured, cases, "cpu", 0, anatomy=anatomy_of(trained, plan)[0]).view
    image = torch.from_numpy(np.array(cases[0].image))[None]
    case = torch.cat([image, torch.zeros(1, len(plan.labels) + 1, *plan.grid.shape)], 1)
    filtered = Whitening([gains], plan.grid.shape)(image)
    torch.testing.assert_close(view.seen((case,))[0][:, :1], filtered)
    torch.testing.assert_close(view.seen((case,))[1], view.field(image))
    torch.testing.assert_close(seen_alone(measured, image, view.tau)[0][:, :1], filtered)
    for wrong in (((1.0,), (1.0,)), ((0.0, 1.0),)):
        faulty = replace(measured, statistical=replace(measured.statistical, gains=wrong))
        with pytest.raises(InputError, match=r"statistical\.gains"):
            Plan.from_dict(faulty.to_dict(), "plan.json")


def test_players_walk_faster_where_steps_are_few(aligned_run, aligned_folder, tmp_path):
    plan = Plan.load(aligned_run / "plan.json")
    plan = plan if plan.repaints else as_asked(plan)
    few, many = for_steps(plan, FEW_STEPS - 1), for_steps(plan, FEW_STEPS)
    assert many is plan and few.training.learning_rate > 2 * plan.training.learning_rate
    assert few.training.beta2 > plan.training.beta2 and "are few" in few.reasons[-1]
    chosen = replace(plan, training=replace(plan.training, learning_rate=2e-4))
    assert for_steps(chosen, 10) is chosen and for_steps(few, 10) is few
    assert steps_in(plan, 3, "cpu") == pytest.approx(3000 / plan.prediction.minutes_per_1000_steps)
    run = tmp_path / "run"
    shutil.copytree(aligned_run, run)
    assert main(["train", str(aligned_folder), "-o", str(run), "--steps", "1", "--device", "cpu"]) == 0
    assert Plan.load(run / "plan.json").training.learning_rate == few.training.learning_rate
