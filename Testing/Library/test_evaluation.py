"""The report of a model: complete, honest about what it cannot say, readable without a network."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from conftest import TRAINED_CASES

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.networks.build import build_generator
from GEDGANLib.quality.features import INTENSITY_CLASSES, encoder_for
from GEDGANLib.quality.result import Evaluation
from GEDGANLib.quality.screening import Screen
from GEDGANLib.quality.summary import summary_of
from GEDGANLib.segmentation.pairs import Pairs, case_dice, coarsened, train_segmenter
from GEDGANLib.synthesis.membership import membership
from GEDGANLib.synthesis.model_file import digest_of, keep_report, load_model, read_report, save_model
from GEDGANLib.synthesis.synthesizer import Synthesizer
from GEDGANLib.training.request import image_digest
from GEDGANLib.volumes import prepared
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.pipeline import WorkingCase, load_working_cases


@pytest.fixture(scope="module")
def model(trained_model):
    return load_model(trained_model)


@pytest.fixture(scope="module")
def cases(model, trained_folder):
    return list(load_working_cases(find_dataset(trained_folder), model.plan))


def test_the_model_knows_which_cases_it_was_trained_on(model, cases):
    found = membership(model.about, cases)
    held_out = model.about["held_out"]
    segmented_anew = [replace(case, labels=None, class_name="other") for case in cases]
    assert membership(model.about, segmented_anew) == found
    assert found.known and len(found.trained) == TRAINED_CASES - held_out and len(found.unseen) == 10 + held_out
    assert set(range(TRAINED_CASES, TRAINED_CASES + 10)) <= set(found.unseen)
    old = membership({}, cases)
    assert not old.known and len(old.trained) == len(cases)


def test_the_report_has_every_part_beside_real_cases(trained_model, trained_folder, tmp_path, capsys):
    out = tmp_path / "report"
    command = ["evaluate", str(trained_model), "--data", str(trained_folder), "-o", str(out)]
    digest = digest_of(trained_model)
    assert main([*command, "-n", "14", "--updates", "6"]) == 0
    said = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    figures = report["figures"]
    for name in ("kernel distance", "precision", "recall", "density", "coverage", "diversity", "pairwise MS-SSIM"):
        assert set(figures["fidelity and diversity"][name]) == {"made", "real"}, name
    assert set(figures["fidelity and diversity"]["kernel distance"]["made"]) == {"value", "low", "high"}
    measures = figures["volumes and intensities"]
    assert {"volume of grey matter", "brightness of T1", "pieces of white matter"} <= set(measures)
    assert 0 <= measures["volume of grey matter"]["apart"] <= 1 and "new apart" in measures["volume of grey matter"]
    assert {"fine power", "elevation apart", "linear apart"} <= set(figures["structure"])
    # A mean case that is learned voxel by voxel holds one.
    assert figures["structure"]["checkerboard"]["made"] < 1.5 * figures["structure"]["checkerboard"]["real"]
    assert figures["privacy"]["verdict"] in ("memorised", "no sign of copies")
    assert set(figures["utility"]) >= {"real", "synthesized", "real and synthesized"}
    assert figures["utility"]["real and synthesized"]["pairs"] == figures["utility"]["real"]["pairs"] + 14
    assert report["about"]["unseen_cases"] >= 10 and "segment" in report["about"]["features"]
    for word in ("Fidelity", "Diversity", "Privacy", "Utility"):
        assert any(line.startswith(word) for line in report["summary"]) and word in said
    page = (out / "report.html").read_text()
    first = figures["privacy"]["closest"][0]
    shown = re.search(rf"and {first['training']} \(([0-9.]+)\)", page)
    assert first["synthesized"] in page and abs(float(shown[1]) - first["distance"]) < 0.011
    assert not re.search(r"(src|href)=.?https?:", page)
    assert page.count("data:image/png;base64") == 4
    low, high = figures["utility"]["real"]["interval"]
    assert f"({low:.3f} to {high:.3f})" in page
    assert digest_of(trained_model) == digest
    kept = read_report(trained_model)
    assert kept["figures"]["privacy"]["closest"] == []  # it may go where the names of patients must not
    kept["figures"]["privacy"]["closest"] = figures["privacy"]["closest"]
    assert kept == report


@pytest.mark.parametrize(
    ("made", "low", "words"),
    [(0.8, -1.0, "as near as"), (4.8, 2.4, "seem farther off"), (4.8, 3.0, "can be told from real ones")],
)
def test_the_words_on_fidelity_go_with_the_figures(made, low, words):
    real = {"value": 0.7, "low": -1.3, "high": 2.7}
    figures = {
        "fidelity and diversity": {"kernel distance": {"made": {"value": made, "low": low, "high": 7.2}, "real": real}},
        "structure": {
            "fine power": {"made": 0.28 if made > 1 else 0.9, "real": 0.91},
            "checkerboard": {"made": 2.2 if made > 1 else 0.5, "real": 0.4},
        },
    }
    figures["volumes and intensities"] = {"pieces of Anterior": {"made": 0.73, "new": 0.8 if made < 1 else 1.0}}
    said = " ".join(summary_of(Evaluation({}, figures)))
    assert words in said and ("fine details are weaker" in said) == (made > 1)
    assert ("Anterior in 27% of them" in said) == (made > 1)
    assert ("a checkerboard, is stronger" in said) == (made > 1)


def test_labels_that_are_missing_more_often_are_named_first():
    """One of 24 real cases has no cord, and none of 20 synthesized ones has; a rare one is missing by chance."""
    counts = {"made": 20, "real": 24, "new": 6}
    figures = {
        "fidelity and diversity": {},
        "volumes and intensities": {
            "volume of cord": {"made": [0, 0, 0], "real": [9, 12, 14], "apart": 0.96, "new apart": 0.2},
            "volume of body": {"made": [80, 90, 95], "real": [80, 88, 94], "apart": 0.2, "new apart": 0.2},
            "missing cord": {"made": 1.0, "real": 0.0417, "new": 0.0, "cases": counts},
            "pieces of cord": {"made": 0.0, "real": 0.9583, "new": 1.0, "usual": [1, 1]},
            "missing lesion": {"made": 0.4, "real": 0.25, "new": 0.5, "cases": counts},
            "pieces of lesion": {"made": 0.6, "real": 0.75, "new": 0.5, "usual": [1, 9]},
            "missing body": {"made": 0.0, "real": 0.0, "new": 0.0, "cases": counts},
            "pieces of body": {"made": 0.5, "real": 1.0, "new": 1.0, "usual": [1, 1]},
        },
    }
    first, second, third = summary_of(Evaluation({}, figures))
    assert first.endswith("than of the real ones: cord in 100% (of those trained on 4%).")
    assert "volume of cord 0 in place of 12" in second and "1 of volumes" in second
    assert third.endswith("body in 50% of them.")


def test_few_cases_and_none_new_are_said(trained_model, trained_folder, tmp_path, capsys):
    few = trained_folder.parent / "data"
    out = tmp_path / "report"
    # Twice the same folder is the folder once.
    command = ["evaluate", str(trained_model), "--data", str(few), "--new", str(few), "-o", str(out), "--updates", "5"]
    assert main([*command, "-n", "6", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "real cases are new to the model, fewer than 10" in said and "flatters" in said
    assert "need more than 10 cases in every set" in said
    assert "too few to tell copies" in said and "Kernel distance and diversity need 8 cases" in said
    assert "compared with half of the training cases" in (out / "report.html").read_text()
    figures = json.loads((out / "report.json").read_text())["figures"]
    assert not {"precision", "diversity"} & set(figures["fidelity and diversity"]) and "utility" not in figures


def test_data_that_are_not_the_models_are_refused(trained_model, cohort_folder, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["evaluate", str(trained_model), "--data", str(cohort_folder), "-o", str(out), "--quick"]) == 2
    assert "hold 0 of the cases that the model was trained on" in capsys.readouterr().err


def test_without_labels_an_encoder_is_trained_all_the_same_and_says_so(cases):
    unlabelled = [replace(case, labels=None) for case in cases[:6]]
    encode, kind = encoder_for(unlabelled, 2, 5, 0, "cpu")
    assert f"{INTENSITY_CLASSES} ranges" in kind and "weaker" in kind
    features = encode(np.stack([case.image for case in unlabelled]))
    assert len(features) == 6 and np.isfinite(features).all()


LEARNED_BY_HEART = 8


@pytest.fixture(scope="module")
def by_heart(model, cases, tmp_path_factory):
    """A model file whose generator was over-fitted on purpose: every latent gives one of eight cases."""
    plan = replace(model.plan, training=replace(model.plan.training, held_out=0))
    known = cases[:LEARNED_BY_HEART]
    torch.manual_seed(0)
    generator = build_generator(plan)
    images = torch.stack([torch.from_numpy(np.array(case.image)) for case in known])
    generator.start_from(torch.cat([images.mean(0), torch.full((3, *images.shape[2:]), 1 / 3)]))
    targets = torch.stack([torch.from_numpy(np.array(case.labels)).long() for case in known])
    optimizer = torch.optim.Adam(generator.parameters(), 3e-3)
    random = torch.Generator().manual_seed(0)
    for _ in range(400):
        latents = torch.randn(8, plan.networks.latent_size, generator=random)
        chosen = ((latents[:, :3] > 0) * torch.tensor([1, 2, 4])).sum(1)  # each octant is one of them
        made = generator(latents)
        loss = (made[:, :1] - images[chosen]).abs().mean()
        loss = loss + torch.nn.functional.nll_loss((made[:, 1:] + 1e-4).log(), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("by-heart") / "model.safetensors"
    save_model(path, generator, plan, {"trained_images": sorted(map(image_digest, known)), "steps": 400})
    return path


def test_a_generator_that_learned_eight_cases_by_heart_is_flagged(by_heart, trained_folder, tmp_path, capsys):
    out = tmp_path / "report"
    command = ["evaluate", str(by_heart), "--data", str(trained_folder), "-o", str(out), "--quick", "--updates", "5"]
    assert main([*command, "-n", "16"]) == 0
    assert "reproduces its training cases" in capsys.readouterr().out
    privacy = json.loads((out / "report.json").read_text())["figures"]["privacy"]
    assert privacy["verdict"] == "memorised"
    assert privacy["near_training"][0] > 0.8 and privacy["near_training"][2] < 0.01
    assert privacy["distance"] < 0.8 * privacy["held_out_distance"]
    assert "class=flag" in (out / "report.html").read_text()


def test_large_cases_are_judged_in_blocks():
    labels = torch.zeros(1, 48, 48, 48, dtype=torch.uint8)
    labels[:, :20, :20, :20] = 2
    labels[:, 20:24] = 1
    pairs = Pairs(torch.arange(48.0).expand(1, 1, 48, 48, 48).contiguous(), labels)
    small, block = coarsened(pairs, 2, "cpu")
    assert block == (2, 2, 2) and small.images.shape == (1, 1, 24, 24, 24) and small.labels.shape == (1, 24, 24, 24)
    np.testing.assert_allclose(small.images[0, 0, 0, 0], np.arange(24) * 2 + 0.5)
    np.testing.assert_array_equal(small.labels[0], labels[0, ::2, ::2, ::2])
    assert coarsened(pairs, 2, "cuda")[1] == (1, 1, 1)


@pytest.mark.parametrize(
    "shape, block", [((40, 48, 10), (1, 1, 1)), ((256, 256, 8), (4, 4, 1)), ((18, 20, 22), (1, 1, 1))]
)
def test_sides_are_filled_up_to_what_the_network_takes(shape, block):
    pairs = Pairs(torch.rand(1, 1, *shape), torch.ones(1, *shape, dtype=torch.uint8))
    small, found = coarsened(pairs, 1, "cpu")
    assert found == block and all(side % 4 == 0 for side in small.labels.shape[1:])
    network = train_segmenter(small, 1, 1, 0)
    assert case_dice(network, small, 2).shape == (1, 2)


def test_the_gate_lets_real_cases_through_and_stops_what_is_wrong(model, cases):
    members = membership(model.about, cases)
    trained = [cases[index] for index in members.trained]
    screen = Screen(trained, model.plan)
    unseen = [cases[index] for index in members.unseen]
    faults = [screen.fault(case.image, case.labels, case.affine) for case in unseen]
    assert faults.count(None) >= len(unseen) // 2
    good = unseen[faults.index(None)]
    copies = [screen.fault(case.image, case.labels, case.affine) for case in trained]
    assert copies.count("too near to a training case") > len(trained) // 2 and None not in copies
    shrunk = np.where(np.random.default_rng(0).random(good.labels.shape) < 0.4, 0, good.labels)
    assert "out of range" in screen.fault(good.image, shrunk, good.affine)
    missing = np.where(good.labels == 2, 1, good.labels)
    assert screen.fault(good.image, missing, good.affine) is not None
    noise = np.random.default_rng(0).uniform(-1, 1, good.image.shape).astype(np.float32)
    assert screen.fault(noise, good.labels, good.affine) is not None


def test_the_gate_draws_again_counts_why_and_gives_up_with_reasons(model, cases):
    members = membership(model.about, cases)
    screen = Screen([cases[index] for index in members.trained], model.plan)
    unseen = [cases[index] for index in members.unseen]
    good = next(case for case in unseen if screen.fault(case.image, case.labels, case.affine) is None)
    empty = np.zeros_like(good.labels)

    def draw(index: int):
        labels = good.labels if index % 3 == 2 else empty
        return f"case {index}", np.concatenate([good.image, labels[None]])

    rejected: Counter[str] = Counter()
    assert list(screen.passing(draw, 3, rejected)) == ["case 2", "case 5", "case 8"]
    assert sum(rejected.values()) == 6 and all("out of range" in reason for reason in rejected)
    with pytest.raises(InputError, match=r"Of 100 cases only 0 were plausible; most often: volume of"):
        list(screen.passing(lambda index: draw(0), 1, Counter()))
    with pytest.raises(InputError, match="too few to tell what is plausible"):
        Screen(unseen[:4], model.plan)
    _is_without_a_label_no_more_often_than_real_cases(screen, good, model.plan.labels[0])


def test_the_gate_asks_of_a_class_what_real_cases_of_it_have(model, cases):
    label = model.plan.labels[0]
    sorted_cases = [
        replace(case, class_name="with")
        if index % 2
        else replace(case, class_name="without", labels=np.where(case.labels == label.index, 0, case.labels))
        for index, case in enumerate(cases)
    ]
    found = {name: Screen(sorted_cases, model.plan, class_name=name).missing for name in ("with", "without", None)}
    assert found["with"][label.name] == 0 and found["without"][label.name] == 1
    assert found[None][label.name] == pytest.approx(0.5, abs=0.1)
    assert all(missing[model.plan.labels[1].name] == 0 for missing in found.values())


def _is_without_a_label_no_more_often_than_real_cases(screen: Screen, good: WorkingCase, label) -> None:
    screen.ranges, screen.speckle = {}, 1.0
    without = np.where(good.labels == label.index, 0, good.labels)

    def draw(index: int):
        return f"{index}", np.concatenate([good.image, (without if index % 2 == 0 else good.labels)[None]])

    for share, expected in ((0.0, 0), (0.2, 2), (1.0, 5)):
        screen.missing, rejected = {label.name: share}, Counter()
        passed = [int(name) for name in screen.passing(draw, 10, rejected)]
        assert sum(index % 2 == 0 for index in passed) == expected
        assert set(rejected) <= {f"no {label.name}"} and bool(rejected) == (share < 1)


def test_screened_cases_all_pass_and_the_others_are_counted(by_heart, model, cases, trained_folder, tmp_path, capsys):
    """A model trained for seconds makes hardly anything plausible; one that learned by heart does, near copies though
    they are where all real cases are variations of one brain."""
    out = tmp_path / "out"
    command = ["synthesize", str(by_heart), "-n", "2", "-o", str(out), "--screen", str(trained_folder)]
    assert main(command) == 0
    assert "Drawn again: " in capsys.readouterr().out and len(list((out / "imagesTr").iterdir())) == 2
    members = membership(model.about, cases)
    screen = Screen([cases[index] for index in members.trained], model.plan)
    screen.ranges, screen.pieces, screen.speckle = {}, {}, 1.0
    synthesizer, rejected = Synthesizer(model), Counter()
    passed = list(screen.passing(lambda index: synthesizer.draw(0, index), 3, rejected))
    assert len(passed) == 3
    for case in passed:
        index = case.provenance["index"]
        _, working = synthesizer.draw(0, index)
        assert screen.fault(working[:1], working[1].astype(np.uint8), model.plan.grid.affine) is None


def test_a_report_is_kept_in_the_model_that_it_is_about_and_in_no_other(trained_model, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(trained_model, path)
    digest = digest_of(path)
    weights = load_model(path).generator.state_dict()
    keep_report(path, {"summary": ["Fidelity: good."]}, digest)
    keep_report(path, {"summary": ["Fidelity: fair."]}, digest)
    assert read_report(path) == {"summary": ["Fidelity: fair."]} and digest_of(path) == digest
    again = load_model(path)
    assert all(bool((again.generator.state_dict()[name] == weight).all()) for name, weight in weights.items())
    assert again.about == load_model(trained_model).about and again.digest == digest
    content = path.read_bytes()
    with pytest.raises(InputError, match="is not the model any more"):
        keep_report(path, {}, "of another")
    assert path.read_bytes() == content
    path.chmod(0o600)
    before, link = path.stat(), tmp_path / "link.safetensors"
    link.symlink_to(path)
    keep_report(link, {"summary": []}, digest)
    assert read_report(path) == {"summary": []} and link.is_symlink()
    assert (path.stat().st_mode, path.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    save_model(path, again.generator, again.plan, {**again.about, "steps": 7})  # as a training that goes on does
    assert not read_report(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read any more"):
        keep_report(path, {}, "unknown")


def test_a_report_that_fails_says_why_and_holds_no_file(trained_model, trained_folder, tmp_path, monkeypatch, capsys):
    from GEDGANLib.quality import evaluation

    out, mapped = tmp_path / "report", []

    def fail(result, *_):
        raise InputError(f"{len(result.made)} cases are the wrong ones.", "Take others.")

    def clean(directory, cleanup=TemporaryDirectory.cleanup):
        mapped.append(str(out) in Path("/proc/self/maps").read_text())
        cleanup(directory)

    monkeypatch.setattr(evaluation, "_structure", fail)
    monkeypatch.setattr(TemporaryDirectory, "cleanup", clean)
    command = ["evaluate", str(trained_model), "--data", str(trained_folder), "-o", str(out), "--updates", "5"]
    assert main([*command, "-n", "3", "--quick"]) == 2
    assert "3 cases are the wrong ones" in capsys.readouterr().err
    assert mapped[:1] == [False] and not out.exists()


def test_a_report_without_room_for_its_cases_is_refused_at_once(
    trained_model, trained_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    command = ["evaluate", str(trained_model), "--data", str(trained_folder), "-o", str(tmp_path / "report")]
    assert main(command) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"GB are left in {tmp_path / 'report'}" in said and "output folder on another disk" in said


def test_a_model_that_is_write_protected_stays_as_it_is(trained_model, trained_folder, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    path.write_bytes(trained_model.read_bytes())
    path.chmod(0o444)
    content = path.read_bytes()
    command = ["evaluate", str(path), "--data", str(trained_folder), "-o", str(tmp_path / "report")]
    assert main([*command, "-n", "3", "--updates", "5", "--quick"]) == 0
    printed, said = (" ".join(text.split()) for text in capsys.readouterr())
    assert "The report will not be kept in the model file" in said and "Its figures are in" not in printed
    assert path.read_bytes() == content
    assert "as was asked for (--quick)" in printed
