"""The model of an alignment: it takes part everywhere that models do, and one that is shared gives little away."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from GEDGANLib.alignment import sharing
from GEDGANLib.alignment import velocity as of_velocity
from GEDGANLib.alignment.job import Aligned, fields_of_view
from GEDGANLib.alignment.modes import Modes, components_of
from GEDGANLib.alignment.runs import RESULT, STATISTICAL
from GEDGANLib.alignment.template import Quality, Template
from GEDGANLib.alignment.transformations import Transformations
from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.exchange.nnunet import write_dataset
from GEDGANLib.networks.statistical import StatisticalGenerator
from GEDGANLib.planning.aligning import as_asked
from GEDGANLib.planning.plan import Plan
from GEDGANLib.planning.repainting import REST
from GEDGANLib.planning.repainting import for_sharing as sharing_plan
from GEDGANLib.quality.privacy import CLEAR, FLAGGED
from GEDGANLib.synthesis import statistical
from GEDGANLib.synthesis.basis import basis_of
from GEDGANLib.synthesis.directions import _kept_columns, directions_path, of_columns
from GEDGANLib.synthesis.label_sizes import fit_label_sizes, label_sizes
from GEDGANLib.synthesis.model_file import (
    digest_of,
    keep_report,
    load_model,
    read_header,
    read_report,
    save_model,
    what_it_holds,
)  # fmt: skip
from GEDGANLib.synthesis.onto_template import TemplateProjector
from GEDGANLib.synthesis.passing_on import MEMORISED
from GEDGANLib.synthesis.repainted import projector_of
from GEDGANLib.synthesis.statistical import is_local, local_model, save_statistics
from GEDGANLib.synthesis.synthesizer import Synthesizer
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.measures import measure
from GEDGANLib.volumes.pipeline import WorkingCase, load_working_cases
from GEDGANLib.volumes.prepared import PreparedCases

CASES, GREW = 26, 1.2


def some_case(index: int):
    """A case of the cohort; every second one is of a class with voxels a fifth larger."""
    case = make_case(index, 0, (16, 24, 16), 9.0)
    if index % 2:
        inner = np.diag([GREW, GREW, GREW, 1.0])
        grown = _zoomed(case, np.linalg.inv(inner))
        return grown
    return case


def _zoomed(case, matrix):
    from scipy import ndimage

    middle = (np.array(case.image.shape[1:]) - 1) / 2
    offset = middle - matrix[:3, :3] @ middle
    image = np.stack([ndimage.affine_transform(each, matrix[:3, :3], offset, order=1) for each in case.image])
    labels = ndimage.affine_transform(case.labels, matrix[:3, :3], offset, order=0)
    return replace(case, image=image.astype(np.float32), labels=labels)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("population") / "data"
    cases = [some_case(index) for index in range(CASES)]
    write_dataset(folder, iter(cases), "cohort", whole_numbers="int16")
    rows = ["participant_id\tclass\theight\tcolour"]
    for index, case in enumerate(cases):
        volume = sum(measure(case, False).volumes.values())
        rows.append(f"{case.name}\t{'large' if index % 2 else 'small'}\t{volume:.1f}\t{'red' if index % 3 else 'blue'}")
    rows[5] = rows[5].rsplit("\t", 2)[0] + "\tn/a\tred"
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """Their alignment."""
    folder = tmp_path_factory.mktemp("statistical") / "run"
    assert main(["align", str(data), "-o", str(folder), "--device", "cpu"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(run):
    return load_model(run / "model.safetensors")


def test_the_model_has_all_directions_and_is_never_trained(model, data, tmp_path, capsys):
    held_out = model.about["held_out"]
    assert isinstance(model.generator, StatisticalGenerator) and model.plan.method == "modes"
    assert model.plan.networks.latent_size == CASES - held_out - 1 and model.about["cases"] == CASES - held_out
    assert is_local(model.about) and len(model.about["trained_images"]) == CASES - held_out
    assert model.generator.labels is not None and model.plan.classes == ("large", "small")
    assert main(["train", str(data), "-o", str(tmp_path / "one"), "--from", str(model.path), "--steps", "1"]) == 2
    model.plan.save(tmp_path / "plan.json")
    command = ["train", str(data), "-o", str(tmp_path / "two"), "--plan", str(tmp_path / "plan.json"), "--steps", "1"]
    assert main(command) == 2
    assert capsys.readouterr().err.count("is aligned and not trained") == 2
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


def test_scores_of_a_case_give_the_case_back(run, data, model):
    """Every training case is nearer to what its own scores make than the mean case is."""
    whole = load_model(run / "model.safetensors", with_population=True)
    scores = whole.population["scores"].float()
    cases = {case.name: case for case in load_working_cases(find_dataset(data), model.plan)}
    names = whole.about["population"]["names"]
    better = []
    for row in range(0, model.about["cases"], 4):
        with torch.inference_mode():
            own, mean = (model.generator.eval()(z, torch.zeros(1, 2))[0, 0].numpy() for z in
                         (scores[row : row + 1], torch.zeros(1, scores.shape[1])))  # fmt: skip
        image = cases[names[row]].image[0]
        better.append(np.abs(own - image).mean() / np.abs(mean - image).mean())
    assert max(better) < 0.8 and np.mean(better) < 0.6


def test_cases_are_synthesized_typical_at_0_and_the_same_again(run, tmp_path, model):
    out = tmp_path / "out"
    command = ["synthesize", str(run / "model.safetensors"), "-n", "3", "--seed", "4", "--device", "cpu"]
    assert main([*command, "-o", str(out)]) == 0
    assert len(list((out / "imagesTr").iterdir())) == len(list((out / "labelsTr").iterdir())) == 3
    first, again = (next(iter(Synthesizer(model).cases(1, 4))) for _ in range(2))
    assert np.array_equal(first.image, again.image) and set(np.unique(first.labels)) == {0, 1, 2}
    typical = Synthesizer(model).case(np.zeros(model.plan.networks.latent_size), "typical")
    drawn = [measure(case, False).volumes["grey matter"] for case in Synthesizer(model).cases(12, 0)]
    assert min(drawn) < measure(typical, False).volumes["grey matter"] < max(drawn)


def test_classes_differ_as_their_cases_do(model, data):
    synthesizer = Synthesizer(model)
    made = {
        name: np.mean([sum(measure(case, False).volumes.values()) for case in synthesizer.cases(10, 1, 0, name)])
        for name in ("large", "small")
    }
    assert 1.35 < made["large"] / made["small"] < 2.2  # 1.2 cubed is 1.73


def test_directions_are_the_modes_what_is_measured_columns_and_classes(run, model, capsys):
    assert directions_path(run / "model.safetensors").exists()
    assert main(["directions", str(run / "model.safetensors")]) == 0
    said = capsys.readouterr().out
    assert said.index("mode 1, ") < said.index("mode 8") < said.index("volume of grey matter") < said.index("class l")
    assert "height" in said and "colour" not in said
    height = next(each for each in model.about["columns"] if each["name"] == "height")
    assert np.linalg.norm(height["latent"]) == pytest.approx(1) and "each when it was left out" in height["meaning"]
    synthesizer, step = Synthesizer(model), 2 * np.array(height["latent"])
    ends = [sum(measure(synthesizer.case(side * step, ""), False).volumes.values()) for side in (-1, 1)]
    assert ends[1] > 1.2 * ends[0]


def test_a_series_along_a_mode(run, tmp_path):
    command = ["vary", str(run / "model.safetensors"), "--direction", "mode 1", "--frames", "3"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "contact-sheet.png").exists()


def test_columns_that_are_not_numbers_or_known_of_few_have_no_direction():
    scores = np.random.default_rng(0).standard_normal((60, 4))
    known = list(scores[:, 1] * 3 + 70)
    found = of_columns(scores, np.ones(4), {"age": known, "noise": list(np.random.default_rng(1).standard_normal(60)),
                                "few": [*known[:10], *[None] * 50], "same": [1.0] * 60})  # fmt: skip
    assert [each.name for each in found] == ["age"] and found[0].latent[1] > 0.95


def test_a_new_scan_is_projected_and_its_labels_lie_on_it(model, tmp_path, run, capsys):
    case = some_case(40)
    projector = projector_of(model)
    assert isinstance(projector, TemplateProjector)
    found = projector.project(case)
    assert found.explained > 0.8 and found.latent.shape == (model.plan.networks.latent_size,)
    truth = found.working.labels
    overlap = [2 * np.sum((found.labels == k) & (truth == k)) / np.sum((found.labels == k) + 1 * (truth == k))
               for k in (1, 2)]  # fmt: skip
    assert min(overlap) > 0.75
    write_dataset(tmp_path / "new", iter([case]), "one", whole_numbers="int16")
    image = next((tmp_path / "new" / "imagesTr").iterdir())
    out = tmp_path / "out"
    assert main(["project", str(run / "model.safetensors"), str(image), "-o", str(out), "--more", "1"]) == 0
    assert {"nearest.nrrd", "residual.nrrd", "projection.png", "more"} <= {path.name for path in out.iterdir()}
    with pytest.raises(Exception, match="2 channel"):
        projector.project(replace(case, image=np.concatenate([case.image] * 2)))


def test_scores_of_a_case_that_was_aligned_are_found_again(run, model):
    """The metric of the projection is that of the modes: where a case lies as it did, it has its own scores."""
    whole, aligned = load_model(run / "model.safetensors", with_population=True), Aligned.load(run / RESULT)
    projector, names = projector_of(model), whole.about["population"]["names"]
    cases = {case.name: case for case in PreparedCases(run / "prepared")}
    for row in (0, 9):
        image = torch.from_numpy(np.array(cases[names[row]].image))[None]
        box = fields_of_view([cases[names[row]]], model.plan.extent)
        moved = aligned.moved.of([aligned.names.index(names[row])])
        found = projector.scores(moved, image, box)[0, :5].numpy()
        np.testing.assert_allclose(found, whole.population["scores"][row, :5], atol=0.25)


LARGE = 60


@pytest.fixture(scope="module")
def large(small_plan, small_cases, tmp_path_factory) -> Path:
    """The local model of many cases that differ along four directions, and a little each for itself: one scan, deformed
    in its numbers alone."""
    random = torch.Generator().manual_seed(0)
    strengths = torch.randn(LARGE, 4, generator=random) * torch.tensor([1.0, 0.7, 0.5, 0.4])
    extent, control = small_plan.extent, (5, 6, 5)

    def smooth(count: int) -> torch.Tensor:
        return of_velocity.smooth(torch.randn(count, 3, *control, generator=random), 60.0, extent)

    directions, own = smooth(4), smooth(LARGE)
    velocities = 6 * torch.tensordot(strengths, directions / directions.std(), 1) + own / own.std()
    moved = Transformations(torch.randn(LARGE, 3, 4, generator=random), velocities, extent)
    names = tuple(f"patient_{index:03d}" for index in range(LARGE))
    scan = small_cases[0]
    cases = [replace(scan, name=name, class_name=None) for name in names]
    image, labels = torch.from_numpy(np.array(scan.image)), torch.from_numpy(np.array(scan.labels)).long()
    shares = torch.nn.functional.one_hot(labels, len(small_plan.labels) + 1).movedim(-1, 0).float()
    template = Template(image, torch.ones(labels.shape), shares, torch.ones(labels.shape))
    qualities = tuple(Quality(0.9, 0.5, 0.9) for _ in names)
    aligned = Aligned(names, names[:6], moved, template, qualities)
    about = {"description": "one scan", "trained_images": ["0123456789abcdef"], "data": "/somewhere"}
    columns = {"strength": [float(each) for each in strengths[:, 0]]}
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    save_statistics(path, local_model(aligned, cases, small_plan, about, columns))
    return path


@pytest.fixture(scope="module")
def shared(large) -> Path:
    path = large.with_name("shared.safetensors")
    assert main(["share", str(large), "-o", str(path)]) == 0
    return path


def test_what_is_shared_holds_no_case_and_says_what_it_gives_away(large, shared, tmp_path, capsys):
    model, local = load_model(shared, with_population=True), load_model(large)
    about = model.about
    assert is_local(local.about) and model.population is None and not is_local(about) and "population" not in about
    assert "trained_images" not in about and "data" not in about and "told from new cases" in about["card"]
    assert about["exposure"]["leverage"] <= 0.5 and about["exposure"]["auc"] <= 0.75
    assert 3 <= model.plan.networks.latent_size == about["exposure"]["modes"] < LARGE / 4
    assert b"patient_0" in large.read_bytes() and b"patient_0" not in shared.read_bytes()
    assert shared.stat().st_size < min(large.stat().st_size, 20e6)
    assert [each["name"] for each in about["columns"]] == ["strength"]
    assert main(["share", str(shared), "-o", str(tmp_path / "twice.safetensors")]) == 2
    assert "shared already" in capsys.readouterr().err
    assert main(["share", str(large), "-o", str(shared)]) == 2 and "exists already" in capsys.readouterr().err


def test_a_shared_model_makes_cases_as_varied_as_a_local_one(large, shared):
    """Of what is large-scale, as nothing else is shared."""
    spread = []
    for path in (large, shared):
        made = np.stack([case.image for case in Synthesizer(load_model(path)).cases(24)])
        spread.append(np.sqrt(made.var(0).mean()))
    assert 0.7 < spread[1] / spread[0] < 1.2


@pytest.mark.parametrize("count", [3, 30, 100])
def test_a_shared_model_keeps_to_its_bytes_and_its_metric_at_any_grid(count):
    random = torch.Generator().manual_seed(0)
    extent = (160.0,) * 3
    modes = Modes(
        torch.zeros(3, 4), torch.zeros(3, 40, 40, 40), torch.zeros(1, 48, 48, 48), torch.ones(3),
        torch.zeros(count, 3, 4), torch.randn(count, 3, 40, 40, 40, generator=random),
        torch.randn(count, 1, 48, 48, 48, generator=random), width=16.0,
    )  # fmt: skip
    coarse = statistical._coarser(modes, extent)
    assert 2 * coarse.velocities.numel() <= statistical.VELOCITY_BYTES
    assert 2 * coarse.looks.numel() <= statistical.LOOK_BYTES and np.prod(coarse.looks.shape[2:]) <= 32**3
    assert coarse.look.shape[1:] == coarse.looks.shape[2:] and coarse.velocity.shape[1:] == coarse.velocities.shape[2:]
    for block, fields, less in ((1, modes.velocities, coarse.velocities), (2, modes.looks, coarse.looks)):
        before = of_velocity.smooth(fields[:2], 16.0, extent).square().sum() * modes.weights[block]
        after = less[:2].square().sum() * coarse.weights[block]
        assert float(after / before) == pytest.approx(1, abs=0.25)


def test_scores_by_a_shared_model_are_those_by_a_local_one_of_as_few_modes(large, shared, small_cases):
    """On other grids and smoothed, and in the same metric."""
    local, few = load_model(large, with_population=True), load_model(shared)
    image = torch.from_numpy(np.array(small_cases[0].image))[None]
    box = fields_of_view(small_cases[:1], few.plan.extent)
    members, rows = range(local.about["population"]["members"]), [0, 7, 20]
    found = [
        projector_of(few).scores(local.generator.transformations(scores[None].float()), image, box)[0, :2].numpy()
        for scores in local.population["scores"][rows]
    ]
    expected = components_of(local.population["products"].numpy(), members).scores()[rows, :2]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=0.4)


def test_few_of_a_class_and_few_labels_are_not_shared(large):
    local = load_model(large, with_population=True)
    kept = statistical.Population.of(local.population, local.about["population"])
    kinds = tuple("rare" if index == 3 else "common" for index in range(LARGE))
    plan = replace(local.plan, classes=("common", "rare"))
    population = replace(kept, classes=kinds, labelled=1)
    made = statistical.model_for_sharing(local.generator, plan, local.about, population)
    assert made.plan.labels == () and made.generator.shares is None and "Only 1 cases" in made.about["card"]
    assert not made.generator.class_means[1].any() and "known to be rare" in made.about["card"]
    np.testing.assert_allclose(made.generator.class_roots[1], np.eye(made.generator.class_roots.shape[1]))
    assert made.generator.class_means[0].any() and "Its template is the mean of" in made.about["card"]


def test_columns_that_a_file_makes_up_are_left_out():
    good = {"name": "age", "latent": [1.0, 0.0], "meaning": "x", "kind": "column"}
    kept = [good, {"name": "b", "latent": [1.0]}, {"latent": "no"}, 5, {**good, "latent": [float("nan"), 0.0]}]
    assert [each.name for each in _kept_columns(kept, 2)] == ["age"] and _kept_columns("nonsense", 2) == []


def test_a_plan_with_grids_that_its_file_does_not_have_makes_no_room_for_them(large, tmp_path):
    content, path = large.read_bytes(), tmp_path / "model.safetensors"
    there = f'\\"velocity\\": {list(load_model(large).plan.statistical.velocity)}'
    other = there.replace("[5", "[9")  # as long, so that the file is whole
    assert content.count(there.encode()) == 1 and other != there
    path.write_bytes(content.replace(there.encode(), other.encode()))
    with pytest.raises(InputError, match="do not fit"):
        load_model(path)


def test_a_bundle_holds_the_form_for_sharing(large, shared, tmp_path, capsys):
    out = tmp_path / "bundle"
    assert main(["export", str(large), "--to", "monai-bundle", "-o", str(out)]) == 0
    assert "form of the model that is for sharing" in capsys.readouterr().err
    modes = read_header(shared)[0].networks.latent_size
    config = json.loads((out / "configs" / "inference.json").read_text())
    assert config["latent_size"] == modes and config["device"] == "$torch.device('cpu')"
    card = read_header(shared)[1]["card"]
    assert card in (out / "docs" / "README.md").read_text()
    assert card in json.loads((out / "configs" / "metadata.json").read_text())["description"]
    network, straight = torch.jit.load(str(out / "models" / "model.ts")), load_model(shared).generator
    latent = torch.randn(1, modes, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert float((network(latent) - straight(latent)).abs().mean()) < 5e-3


def test_a_model_with_grids_that_cannot_be_is_refused(model, tmp_path, capsys):
    values = model.plan.to_dict()
    values["statistical"]["velocity"] = [4, 0, 4]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(values))
    with pytest.raises(Exception, match="side above 0"):
        Plan.load(path)


def test_five_scans_have_four_directions_and_are_not_shared(data, tmp_path, capsys):
    few = tmp_path / "few"
    shutil.copytree(data, few)
    (few / "participants.tsv").unlink()
    for folder in ("imagesTr", "labelsTr"):
        for path in sorted((few / folder).iterdir())[5:]:
            path.unlink()
    out = tmp_path / "run"
    assert main(["align", str(few), "-o", str(out), "--for-sharing", "--device", "cpu"]) == 0
    assert "shared.safetensors is not written" in " ".join(capsys.readouterr().err.split())
    assert read_header(out / "model.safetensors")[0].networks.latent_size == 4
    assert not (out / "shared.safetensors").exists()


def test_segmentations_of_made_cases_are_as_large_as_real_ones(model, run):
    """The likeliest label of a mean is smaller than the mean of labels."""
    plan, label_count = model.plan, len(model.plan.labels)
    cases = PreparedCases(run / "prepared")
    real = np.array(label_sizes([case for case in cases if case.labels is not None], label_count))
    made = [WorkingCase(case.name, case.image, case.labels, case.affine, case.affine, plan.grid.shape)
            for case in Synthesizer(model).cases(60, seed=3)]  # fmt: skip
    sizes = np.array(label_sizes(made, label_count))
    assert np.all(np.abs(np.log(sizes / real)) < 0.15), (sizes, real)
    before = model.generator.shares.clone()
    fit_label_sizes(model.generator, (1.3 * real).tolist())
    larger = np.array(label_sizes([replace(each, labels=case.labels) for each, case in
                                   zip(made, Synthesizer(model).cases(60, seed=3))], label_count))  # fmt: skip
    with torch.no_grad():
        model.generator.shares.copy_(before)
    assert np.all(larger > 1.15 * sizes), (larger, sizes)
    fit_label_sizes(model.generator, ())  # of cases without a segmentation nothing is known
    assert torch.equal(model.generator.shares, before)


@pytest.fixture
def _wide_bounds():
    """Of what a model may give away: so few random variations keep to no narrower ones."""
    with _wider_bounds():
        yield


@contextmanager
def _wider_bounds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "LARGEST_LEVERAGE", 0.8)
        patch.setattr(sharing, "LARGEST_AUC", 1.0)
        patch.setattr(sharing, "LARGEST_EXCESS", 1.0)
        yield


@pytest.fixture(scope="module")
def for_sharing(data, run, tmp_path_factory) -> Path:
    """A training in the folder of the alignment, of a generator that is to be passed on."""
    folder = tmp_path_factory.mktemp("sharing") / "run"
    shutil.copytree(run, folder)
    with _wider_bounds():
        assert main(["train", str(data), "-o", str(folder), "--for-sharing", "--steps", "3", "--device", "cpu"]) == 0
    return folder


@pytest.mark.usefixtures("_wide_bounds")
def test_a_generator_that_is_to_be_passed_on_moves_along_few_directions(for_sharing, model, data, capsys):
    trained = load_model(for_sharing / "model.safetensors", with_critic=True)
    plan, about = trained.plan, trained.about
    exposure = about["exposure"]
    assert plan.statistical.shared and plan.repaints and trained.critic is not None and about["trained_images"]
    assert 1 <= plan.statistical.modes == exposure["modes"] < model.plan.networks.latent_size
    assert plan.networks.latent_size == plan.statistical.modes + REST
    assert exposure["leverage"] <= 0.8
    assert any("for sharing" in reason for reason in plan.reasons)
    assert "gedgan share" in what_it_holds(plan, about) and not what_it_holds(plan, {})
    assert "single scans" in what_it_holds(replace(plan, statistical=replace(plan.statistical, shared=False)), {})
    # The anatomy of a real case is its scores along these few.
    local = load_model(for_sharing / STATISTICAL, with_population=True)
    basis = basis_of(local, plan)
    assert list(basis.scores) == local.about["population"]["names"][: local.about["population"]["members"]]
    scores = torch.stack(list(basis.scores.values()))
    assert scores.shape[1] == plan.statistical.modes and float(scores.std(0).mean()) == pytest.approx(1, abs=0.15)
    for name, tensor in basis.generator.state_dict().items():
        torch.testing.assert_close(
            trained.generator.statistical.state_dict()[name], tensor.to(tensor.dtype), atol=2e-3, rtol=2e-3
        )
    again = ["train", str(data), "-o", str(for_sharing), "--resume", "--for-sharing"]
    assert main(again) == 2 and "--for-sharing" in capsys.readouterr().err


def test_what_is_passed_on_of_a_training_makes_the_same_cases_and_names_no_scan(for_sharing, tmp_path, capsys):
    source, path = tmp_path / "model.safetensors", tmp_path / "passed-on.safetensors"
    shutil.copy(for_sharing / "model.safetensors", source)
    keep_report(source, {"figures": {"privacy": {"verdict": CLEAR}}, "summary": ["good"]}, digest_of(source))
    (tmp_path / "card.txt").write_text("From volunteers; CC BY 4.0; not for diagnosis.\n", encoding="utf-8")
    assert main(["share", str(source), "-o", str(path), "--card", str(tmp_path / "card.txt")]) == 0
    assert "modes of" in capsys.readouterr().out
    before, after = load_model(source, with_critic=True), load_model(path, with_critic=True)
    assert after.critic is None and "trained_images" not in after.about and CLEAR in after.about["card"]
    assert after.about["words"] == "From volunteers; CC BY 4.0; not for diagnosis."
    assert read_report(path)["summary"] == ["good"] and path.stat().st_size < source.stat().st_size
    cases = [list(Synthesizer(each).cases(2, 0)) for each in (before, after)]
    for one, other in zip(*cases):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.labels, other.labels)
    assert projector_of(after) is not None
    keep_report(source, {"figures": {"privacy": {"verdict": FLAGGED}}}, digest_of(source))
    assert main(["share", str(source), "-o", str(tmp_path / "no.safetensors")]) == 2
    assert "found copies" in capsys.readouterr().err and MEMORISED == FLAGGED


def test_reasons_that_name_cases_are_not_passed_on(for_sharing, large, tmp_path):
    source = load_model(for_sharing / "model.safetensors", with_critic=True)
    named = replace(source.plan, reasons=(*source.plan.reasons, "Note: patient_0007 has nothing below 0."))
    save_model(tmp_path / "model.safetensors", source.generator, named, source.about)
    local = load_model(large, with_population=True)
    kept = statistical.Population.of(local.population, local.about["population"])
    assert main(["share", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "out.safetensors")]) == 0
    assert b"patient_0007" not in (tmp_path / "out.safetensors").read_bytes()
    assert not statistical.model_for_sharing(
        local.generator, replace(local.plan, reasons=("patient_0007",)), local.about, kept
    ).plan.reasons
    names = local.about["population"]["names"]
    assert names and not any(name.encode() in (tmp_path / "out.safetensors").read_bytes() for name in names)


def test_segmentations_of_few_are_not_learned_for_sharing(small_plan):
    enough = as_asked(replace(small_plan, data={**small_plan.data, "cases": 40, "labelled": 40}))
    assert sharing_plan(enough).labels and sharing_plan(enough).statistical.shared
    few = sharing_plan(replace(enough, data={**enough.data, "labelled": 9 + enough.training.held_out}))
    assert few.labels == () and any("images alone" in reason for reason in few.reasons)


def test_a_generator_that_holds_single_scans_is_not_passed_on(for_sharing, tmp_path, capsys):
    source = load_model(for_sharing / "model.safetensors")
    plan = replace(source.plan, statistical=replace(source.plan.statistical, shared=False))
    save_model(tmp_path / "model.safetensors", source.generator, plan, source.about)
    assert main(["share", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "no.safetensors")]) == 2
    assert "--for-sharing" in capsys.readouterr().err and not (tmp_path / "no.safetensors").exists()


def test_few_or_unaligned_scans_are_not_trained_on_for_sharing(small_plan, cohort_folder, tmp_path, capsys):
    with pytest.raises(InputError, match="aligns none"):
        sharing_plan(small_plan)
    few = as_asked(replace(small_plan, data={**small_plan.data, "cases": 9}))
    with pytest.raises(InputError, match="cannot be shared"):
        sharing_plan(few)
    command = ["train", str(cohort_folder), "-o", str(tmp_path / "run"), "--for-sharing", "--alignment", "none"]
    assert main([*command, "--steps", "1"]) == 2 and not (tmp_path / "run").exists()
    assert "aligns none" in capsys.readouterr().err
