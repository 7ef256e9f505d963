"""A network that learns to segment: what it is shown, how it is changed, trained, kept, applied and trusted."""

from __future__ import annotations

import csv
import json
import math
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from alignment_sets import OFTEN
from starting import GO, popen

from GEDGANLib.alignment.carrying import dice
from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError, StoppedOnRequest
from GEDGANLib.planning.plan import Plan
from GEDGANLib.segmentation.applying import overlaps, probabilities
from GEDGANLib.segmentation.changes import STRONG, Changes, changed, region_of
from GEDGANLib.segmentation.examples import Batch, Example, Group, draw
from GEDGANLib.segmentation.job import Job, Material, with_shares
from GEDGANLib.segmentation.learner import Learner, Recipe
from GEDGANLib.segmentation.network_file import is_network, load_network, save_network
from GEDGANLib.segmentation.plan import NetworkPlan, patch_of, plan_network
from GEDGANLib.segmentation.scans import on_own_voxels, placed
from GEDGANLib.segmentation.segmenting import segmented
from GEDGANLib.segmentation.unet import strides_of, weights_of
from GEDGANLib.volumes.case import Case, Label
from GEDGANLib.volumes.dataset import find_dataset

PATCH = (16, 16, 16)
STILL = Changes(0, 0, 0, 0, 0, 0, 0, 0, 0)


def ball(seed: int, shape: tuple[int, ...] = PATCH) -> Example:
    """A bright ball in noise with its mask."""
    random = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij"), -1)
    centre = np.array([random.uniform(5, max(side - 6, 6)) for side in shape])
    inside = np.linalg.norm(index - centre, axis=-1) < random.uniform(3, 5)
    image = np.where(inside, 0.6, -0.6) + 0.3 * random.standard_normal(shape)
    return Example(torch.from_numpy(image[None]).float(), torch.from_numpy(inside.astype(np.uint8)))


def ball_dice(network: torch.nn.Module, examples: list[Example]) -> float:
    found = [probabilities(network, each.image, PATCH).argmax(0).numpy() for each in examples]
    return float(np.mean([overlaps(one, each.labels.numpy(), 1)[0] for one, each in zip(found, examples)]))


def test_a_network_learns_from_scans_larger_and_smaller_than_what_it_sees() -> None:
    shapes = ((16, 16, 16), (12, 20, 16), (24, 15, 30))
    examples = [ball(number, shapes[number % 3]) for number in range(12)]
    learner = Learner([Group(examples)], 1, Recipe(PATCH, 80))
    network = learner.learn()
    assert ball_dice(network, [ball(100 + number, shapes[number % 3]) for number in range(6)]) > 0.85
    assert not learner.step()


def test_training_goes_on_bit_for_bit() -> None:
    examples = [Group([ball(number) for number in range(3)])]
    whole = weights_of(Learner(examples, 1, Recipe(PATCH, 6), 5).learn())
    first, second = (Learner(examples, 1, Recipe(PATCH, 6), 5) for _ in range(2))
    for _update in range(3):
        first.step()
    tensors, state = first.kept()
    second.load({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(state)))
    for name, tensor in weights_of(second.learn()).items():
        assert torch.equal(tensor, whole[name]), name
    other = weights_of(Learner(examples, 1, Recipe(PATCH, 6), 6).learn())
    assert not torch.equal(other["output_block.conv.conv.weight"], whole["output_block.conv.conv.weight"])


def test_learning_leaves_the_random_numbers_of_the_program_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Learner([Group([ball(0)])], 1, Recipe(PATCH, 1)).learn()
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("changes", [Changes(), STRONG, Changes(turn=0, scale=0, bend=3.0)])
def test_images_and_labels_are_changed_alike(changes: Changes) -> None:
    masks = torch.stack([ball(number).labels for number in range(8)]).float()[:, None]
    targets = torch.cat([1 - masks, masks], 1)
    made = changed(
        Batch(masks * 2 - 1, targets, torch.ones_like(masks)), PATCH, changes, torch.Generator().manual_seed(0)
    )
    assert made.images.shape == (8, 1, *PATCH) and made.targets.shape == (8, 2, *PATCH)
    torch.testing.assert_close(made.targets.sum(1), torch.ones(8, *PATCH), atol=1e-4, rtol=0)
    moved = made.targets[:, 1] > 0.5
    if not changes.bias:
        middle = (made.images.amax((1, 2, 3, 4), True) + made.images.amin((1, 2, 3, 4), True)) / 2
        assert float(((made.images > middle)[:, 0] == moved).float().mean()) > 0.98
    assert float((moved == (masks[:, 0] > 0.5)).float().mean()) < 0.99
    again = changed(
        Batch(masks * 2 - 1, targets, torch.ones_like(masks)), PATCH, changes, torch.Generator().manual_seed(0)
    )
    assert torch.equal(again.images, made.images)


def test_without_changes_nothing_moves() -> None:
    drawn = draw([Group([ball(0)])], 2, region_of(PATCH), 1, torch.Generator().manual_seed(0))
    made = changed(drawn, PATCH, STILL, torch.Generator().manual_seed(0))
    image, labels = ball(0).image, ball(0).labels
    torch.testing.assert_close(made.images[0], image, atol=1e-4, rtol=0)
    assert torch.equal(made.targets[0].argmax(0).to(torch.uint8), labels)


def test_a_turn_is_a_turn_in_mm_of_cubic_voxels_whatever_the_shape() -> None:
    """A ball stays one on a long grid."""
    index = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(64.0), torch.arange(16.0), indexing="ij"))
    inside = ((index - torch.tensor([7.5, 31.5, 7.5]).reshape(3, 1, 1, 1)).norm(dim=0) < 5).float()[None, None]
    batch = Batch(inside.repeat(6, 1, 1, 1, 1), inside.repeat(6, 2, 1, 1, 1), torch.ones(6, 1, 16, 64, 16))
    made = changed(batch, (16, 64, 16), replace(STILL, turn=40.0), torch.Generator().manual_seed(1))
    overlap = ((made.images > 0.5) & (inside > 0.5)).float().sum() / (6 * inside.sum())
    assert float(overlap) > 0.93


def test_thick_slices_are_not_turned_into_each_other() -> None:
    """Slices of 6 mm, 0.5 mm in plane: what lies in a slice stays within about one of it, and turns in plane."""
    slices = torch.arange(20.0).reshape(1, 1, 1, 1, 20).expand(4, 1, 96, 96, 20).clone()
    batch = Batch(slices, torch.ones(4, 2, 96, 96, 20), torch.ones(4, 1, 96, 96, 20))
    patch = (80, 80, 16)
    made = changed(batch, patch, replace(STILL, turn=15.0), torch.Generator().manual_seed(0), (0.5, 0.5, 6.0))
    whole = changed(batch, patch, STILL, torch.Generator().manual_seed(0), (0.5, 0.5, 6.0))
    assert float((made.images - whole.images).abs().max()) < 1.0
    rows = torch.arange(96.0).reshape(1, 1, 96, 1, 1).expand(4, 1, 96, 96, 20).clone()
    batch = replace(batch, images=rows)
    made = changed(batch, patch, replace(STILL, turn=15.0), torch.Generator().manual_seed(0), (0.5, 0.5, 6.0))
    assert float((made.images - changed(batch, patch, STILL, torch.Generator(), None).images).abs().max()) > 4


def test_beyond_the_field_of_view_nothing_is_learned() -> None:
    example = ball(0, (8, 16, 16))
    drawn = draw([Group([example])], 1, PATCH, 1, torch.Generator().manual_seed(0))
    assert float(drawn.seen.mean()) == 0.5 and not drawn.seen[0, 0, 0].any()
    learner = Learner([Group([example])], 1, Recipe(PATCH, 1))
    logits = torch.randn(1, 2, *PATCH, requires_grad=True)
    learner._loss(logits, drawn).backward()
    beyond = logits.grad.abs() * (1 - drawn.seen)
    assert float(beyond.max()) == 0 < float(logits.grad.abs().max())


def test_rare_labels_are_drawn_as_often_as_others() -> None:
    labels = torch.zeros(40, 40, 40, dtype=torch.uint8)
    labels[:, :, :20] = 1
    labels[35, 35, 35] = 2
    group = [Group([Example(torch.zeros(1, 40, 40, 40), labels)])]
    drawn = draw(group, 120, (8, 8, 8), 2, torch.Generator().manual_seed(0))
    assert 0.2 < float(drawn.targets[:, 2].flatten(1).any(1).float().mean()) < 0.5
    shares = [Group([replace(ball(0), weight=0.0), ball(1)], 0.5), Group([ball(2)], 0.0)]
    drawn = draw(shares, 5, PATCH, 1, torch.Generator().manual_seed(0))
    assert all(torch.equal(image, ball(1).image) for image in drawn.images)


def test_examples_are_kept_as_they_are(tmp_path) -> None:
    soft = torch.rand(2, *PATCH).half()
    example = replace(ball(3), shares=soft, weight=0.25)
    path = tmp_path / "kept.safetensors"
    example.save(path)
    found = Example.load(path)
    assert torch.equal(found.image, ball(3).image) and torch.equal(found.labels, ball(3).labels)
    assert torch.equal(found.shares, soft) and found.weight == 0.25
    ball(4).save(path)
    assert Example.load(path).shares is None
    path.write_bytes(b"hallo")
    with pytest.raises(ValueError, match="damaged"):
        Example.load(path)


def test_middles_are_voxels_of_the_label_that_are_spread_over_it() -> None:
    labels = torch.zeros(60, 60, 60, dtype=torch.uint8)
    labels[10:50, 10:50, 10:50] = 1
    labels[0, 0, 0] = 2
    one, two = Example(torch.zeros(1, 60, 60, 60), labels).places
    assert 1000 <= len(one) <= 1100 and bool((labels[tuple(one.T)] == 1).all()) and two.tolist() == [[0, 0, 0]]
    assert one.min() == 10 and one.max() == 49


def test_what_is_seen_in_windows_is_what_is_seen_at_once() -> None:
    examples = [ball(number, (24, 24, 30)) for number in range(8)]
    network = Learner([Group(examples)], 1, Recipe(PATCH, 100)).learn()
    large = ball(7, (40, 20, 33))
    parts = probabilities(network, large.image, PATCH)
    assert parts.shape == (2, 40, 20, 33)
    torch.testing.assert_close(parts.sum(0), torch.ones(40, 20, 33), atol=1e-3, rtol=0)
    assert overlaps(parts.argmax(0).numpy(), large.labels.numpy(), 1)[0] > 0.8
    tiny = probabilities(network, ball(8, (9, 16, 5)).image, PATCH)
    assert tiny.shape == (2, 9, 16, 5) and bool(torch.isfinite(tiny).all())


# -- the plan

LABELS = (Label(1, 3, "ball", (1.0, 0.0, 0.0)), Label(2, 7, "rim", (0.0, 1.0, 0.0)))


@pytest.fixture
def aligned_plan(aligned_run) -> Plan:
    return Plan.load(aligned_run / "plan.json")


def test_voxels_and_patch_go_by_data_and_device(aligned_plan) -> None:
    data = {**aligned_plan.data, "median_shape": (256, 256, 180), "median_spacing": (1.0, 1.0, 1.0)}
    brain = replace(aligned_plan, data=data)
    laptop, server = (plan_network(brain, LABELS, device) for device in ("cpu", "cuda"))
    assert 2 < min(laptop.spacing) == max(laptop.spacing) < 3.5 and server.spacing == (1.0, 1.0, 1.0)
    assert math.prod(laptop.patch) <= 80_000 and math.prod(server.patch) > 1_000_000
    assert "larger than those of the scans" in laptop.reasons[0] and laptop.minutes > 1
    long = {**data, "median_shape": (30, 30, 2000)}
    assert max(plan_network(replace(aligned_plan, data=long), LABELS, "cuda").patch) <= 512
    thick = replace(aligned_plan, data={**data, "median_shape": (512, 512, 20), "median_spacing": (0.5, 0.5, 6.0)})
    plan = plan_network(thick, LABELS, "cpu")
    assert plan.spacing[2] == 6.0 and plan.spacing[0] < 6.0 and plan.patch[2] >= 4
    asked = plan_network(brain, LABELS, "cpu", (1.0, 1.0, 1.0), 7, 0)
    assert asked.spacing == (1.0, 1.0, 1.0) and asked.updates == 7 and asked.variations == 0
    for each in (laptop, server, plan, asked):
        assert NetworkPlan.from_dict(json.loads(json.dumps(each.to_dict())), "it") == each


def test_a_patch_holds_a_small_scan_whole_and_can_be_halved() -> None:
    assert patch_of((18, 25, 18), (2, 2, 2), 60_000, 3) == (20, 28, 20)
    for shape, spacing in (((300, 300, 300), (1, 1, 1)), ((512, 512, 20), (0.5, 0.5, 6)), ((40, 40, 1), (1, 1, 1))):
        patch = patch_of(shape, spacing, 60_000, 3)
        by = [math.prod(along) for along in zip(*strides_of(patch, 3, spacing))]
        assert all(side % each == 0 for side, each in zip(patch, by)) and math.prod(patch) < 100_000


@pytest.mark.parametrize(
    "change",
    [
        {"patch": (10**6, 16, 16)}, {"patch": (16, 16)}, {"widths": (8, 8)},
        {"widths": (8, 10**9)}, {"updates": 0}, {"batch": 10**7}, {"spacing": (0.0, 1.0, 1.0)}, {"labels": ()},
        {"channels": ()}, {"labels": LABELS[::-1]}, {"format_version": 99}, {"patch": "none"},
    ],
)  # fmt: skip
def test_plans_that_cannot_be_are_refused_before_anything_is_built(aligned_plan, change) -> None:
    plan = plan_network(aligned_plan, LABELS, "cpu")
    values = {**json.loads(json.dumps(plan.to_dict()))}
    changed_values = json.loads(json.dumps(replace(plan, **change).to_dict()))
    values |= {name: changed_values[name] for name in change}
    with pytest.raises(InputError):
        NetworkPlan.from_dict(values, "it")


# -- the file


@pytest.fixture(scope="module")
def taught(aligned_run) -> tuple[torch.nn.Module, NetworkPlan]:
    """A network that knows balls, with a plan of 2 mm voxels."""
    aligned = Plan.load(aligned_run / "plan.json")
    aligned = replace(aligned, data={**aligned.data, "median_shape": PATCH, "median_spacing": (2.0, 2.0, 2.0)})
    plan = plan_network(aligned, LABELS[:1], "cpu", updates=80)
    return Learner([Group([ball(number) for number in range(10)])], 1, plan.recipe).learn(), plan


def test_a_network_file_is_one_and_the_same_and_holds_all(taught, tmp_path) -> None:
    network, plan = taught
    for name in ("one", "two"):
        save_network(tmp_path / f"{name}.safetensors", network, plan, {"labelled": 3})
    path = tmp_path / "one.safetensors"
    assert path.read_bytes() == (tmp_path / "two.safetensors").read_bytes() and path.stat().st_size < 1_000_000
    assert is_network(path) and not is_network(tmp_path) and not is_network(tmp_path / "nothing")
    loaded = load_network(path, "cpu")
    assert loaded.plan == plan and loaded.about["labelled"] == 3
    assert torch.equal(
        probabilities(loaded.network, ball(3).image, PATCH), probabilities(network, ball(3).image, PATCH)
    )


def test_files_that_are_no_network_are_refused_in_words(taught, aligned_run, tmp_path) -> None:
    network, plan = taught
    good = tmp_path / "good.safetensors"
    save_network(good, network, plan, {})
    content = good.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    told = json.loads(header["__metadata__"]["segmentation"])

    def with_told(**changes: object) -> bytes:
        made = {**header, "__metadata__": {"segmentation": json.dumps({**told, **changes})}}
        text = json.dumps(made).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    narrow = with_told(plan={**told["plan"], "widths": [4, 8, 16]})
    faults = {
        "cut": content[: len(content) // 2], "pickle": pickle.dumps({"a": 1}), "empty": b"", "text": b"hallo" * 9,
        "newer": with_told(format_version=99), "other": with_told(format="something"), "list": with_told(plan=[]),
        "narrow": narrow, "model": (aligned_run / "model.safetensors").read_bytes(),
        "huge": with_told(plan={**told["plan"], "widths": [1024] * 8, "patch": [1024, 1024, 16]}),
    }  # fmt: skip
    for name, each in faults.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(each)
        with pytest.raises(InputError) as error:
            load_network(path, "cpu")
        assert str(path) in error.value.message and error.value.hint, name
    with pytest.raises(InputError):
        load_network(tmp_path / "gone.safetensors", "cpu")


# -- scans on their own voxels


def turned_ball(affine: np.ndarray, shape: tuple[int, ...]) -> Case:
    """A bright ball of 8 mm around the origin of the patient, on a grid of its own."""
    index = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij"), 0).reshape(3, -1)
    place = affine[:3, :3] @ index + affine[:3, 3:]
    inside = (np.linalg.norm(place, axis=0) < 8).reshape(shape)
    noise = np.random.default_rng(0).standard_normal(shape)
    image = (np.where(inside, 700.0, 100.0) + 60 * noise).astype(np.float32)
    return Case("ball", image[None], inside.astype(np.uint8), affine, LABELS[:1])


def grids() -> dict[str, tuple[np.ndarray, tuple[int, ...]]]:
    plain = np.diag([2.0, 2.0, 2.0, 1.0])
    plain[:3, 3] = -15
    flipped = np.array([[0, 0, -1.0, 16.0], [-2.0, 0, 0, 15.0], [0, 1.5, 0, -16.0], [0, 0, 0, 1]])
    angle = np.radians(20)
    oblique = np.eye(4)
    oblique[:3, :3] = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    oblique[:3, 3] = -oblique[:3, :3] @ [15.0, 16.0, 17.0]
    return {"plain": (plain, PATCH), "flipped": (flipped, (16, 22, 33)), "oblique": (oblique, (31, 33, 35))}


@pytest.mark.parametrize("name", ["plain", "flipped", "oblique"])
def test_segmentations_lie_where_the_anatomy_is_whatever_the_orientation(taught, tmp_path, name) -> None:
    network, plan = taught
    affine, shape = grids()[name]
    case = turned_ball(affine, shape)
    there = placed(case, plan)
    assert there.case.labels.any() and there.case.affine[0, 0] > 0 and there.case.affine[2, 2] > 0
    certain = torch.nn.functional.one_hot(torch.from_numpy(there.case.labels).long(), 2).movedim(-1, 0)
    assert dice(on_own_voxels(certain.numpy(), there.case, case), case.labels, 1) > 0.9
    save_network(tmp_path / "n.safetensors", network, plan, {})
    made = segmented(case, load_network(tmp_path / "n.safetensors", "cpu"))
    assert dice(made.case.labels, case.labels, 1) > 0.85 and 0.5 < made.trust <= 1
    assert made.case.provenance["trust of ball"] == made.case.provenance["trust"]
    assert "by GED-GAN" in made.case.description and made.case.labels.shape == case.labels.shape
    with pytest.raises(InputError, match="2 channel"):
        segmented(replace(case, image=np.concatenate([case.image] * 2)), load_network(tmp_path / "n.safetensors"))


# -- the job


def small_job(folder: Path, plan: NetworkPlan, **options: object) -> Job:
    folder.mkdir(exist_ok=True)
    return Job(folder, replace(plan, updates=6), **options)


def test_a_job_that_is_stopped_anywhere_goes_on_to_the_same_network(taught, tmp_path, monkeypatch) -> None:
    from GEDGANLib.segmentation import job as module

    _network, plan = taught
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    plan, votes = replace(plan, teacher=True), torch.rand(2, *PATCH).softmax(0)
    rest = [with_shares(ball(3), votes), with_shares(ball(4), votes)]
    material = Material([ball(0)], [ball(1), ball(2)], rest)
    whole = weights_of(small_job(tmp_path / "whole", plan).learn(material))
    asked, count = 0, 0
    while True:
        asked += 1
        left = asked  # a little farther each time

        def stop() -> bool:
            nonlocal left
            left -= 1
            return left == 0

        try:
            found = weights_of(small_job(tmp_path / "parts", plan, stop=stop).learn(material))
            break
        except StoppedOnRequest:
            count += 1
    assert count >= 4
    for name, tensor in found.items():
        assert torch.equal(tensor, whole[name]), name
    small_job(tmp_path / "parts", plan).forget()
    assert list((tmp_path / "parts").iterdir()) == []


def test_without_a_rest_the_labelled_ones_and_their_variations_teach(taught, tmp_path) -> None:
    _network, plan = taught
    network = small_job(tmp_path / "job", plan).learn(Material([ball(0)], [], []))
    assert weights_of(network) and not (tmp_path / "job" / ".teacher.safetensors").exists()


# -- the command


@pytest.fixture
def few(aligned_folder, tmp_path) -> Path:
    """The aligned cases, of which one is segmented."""
    folder = tmp_path / "few"
    shutil.copytree(aligned_folder / "imagesTr", folder / "imagesTr")
    shutil.copy(aligned_folder / "dataset.json", folder)
    (folder / "labelsTr").mkdir()
    name = find_dataset(aligned_folder).cases[0].name
    shutil.copy(aligned_folder / "labelsTr" / f"{name}.nii.gz", folder / "labelsTr")
    return folder


QUICKLY = ("--updates", "30", "--variations", "6", "--device", "cpu")


def segment(*arguments: object) -> int:
    return main(["segment", *map(str, arguments)])


def test_from_one_segmented_scan_the_rest_is_segmented(aligned_run, aligned_folder, few, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert segment(few, "-o", out, "--run", aligned_run, "--soft", *QUICKLY) == 0
    said = capsys.readouterr().out
    assert "8 scan(s) were segmented" in said and "least to be trusted" in said and "takes about a minute" in said
    rows = list(csv.DictReader((out / "segmented.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 8 and [float(row["trust"]) for row in rows] == sorted(float(row["trust"]) for row in rows)
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "network.safetensors", "segment.json", "segmented", "segmented.csv", "segmented.png",
    ]  # fmt: skip
    values = []
    for row in rows:
        name = row["case"]
        made = nibabel.load(out / "segmented" / "labels" / f"{name}.nii.gz")
        scan = nibabel.load(aligned_folder / "imagesTr" / f"{name}_0000.nii.gz")
        assert made.shape == scan.shape and np.array_equal(made.affine, scan.affine)
        assert "segmented by GED-GAN" in made.header["descrip"].item().decode()
        truth = aligned_folder / "labelsTr" / f"{name}.nii.gz"
        if truth.exists():
            labels = np.asarray(nibabel.load(truth).dataobj)
            values.append(np.nanmean(overlaps(np.asarray(made.dataobj), labels, int(labels.max()))))
        assert (out / "segmented" / "shares" / f"{name}_01.nii.gz").exists()
    assert len(values) == 7 and np.mean(values) > 0.5  # thirty updates
    about = load_network(out / "network.safetensors", "cpu").about
    assert about["labelled"] == 1 and about["rest"] == 8 and about["variations"] == 6
    assert len(about["trained_images"]) == 9
    assert segment(few, "-o", out, "--resume") == 2 and "is done already" in capsys.readouterr().err
    # The network by itself, to a folder, in shards, and into nnU-Net's form.
    network = out / "network.safetensors"
    assert segment(network, few, "-o", tmp_path / "whole", "--device", "cpu") == 0
    for number in (2, 1):
        assert segment(network, few, "-o", tmp_path / "two", "--shard", f"{number}/2", "--device", "cpu") == 0
    for path in [*sorted((tmp_path / "whole").rglob("*.nii.gz")), tmp_path / "whole" / "provenance.json"]:
        relative = path.relative_to(tmp_path / "whole")
        assert (tmp_path / "two" / relative).read_bytes() == path.read_bytes(), relative
        if path.parent.name == "labels":  # there, what was carried is averaged in
            one, other = (np.asarray(nibabel.load(each).dataobj) for each in (path, out / "segmented" / relative))
            assert 0.7 < np.nanmean(overlaps(one, other, int(other.max()))) < 1
    assert "are segmented, and are left alone" in " ".join(capsys.readouterr().err.split())


def test_the_whole_is_handed_over_to_nnunet(aligned_run, aligned_folder, few, tmp_path) -> None:
    out = tmp_path / "mine"
    assert segment(few, "-o", out, "--run", aligned_run, "--format", "nnunet", *QUICKLY) == 0
    folder = out / "Dataset501_mine"
    told = json.loads((folder / "dataset.json").read_text())
    assert told["numTraining"] == 9 and "drawn" in told["description"]
    assert len(list((folder / "imagesTr").iterdir())) == len(list((folder / "labelsTr").iterdir())) == 9
    drawn = find_dataset(aligned_folder).cases[0].name
    given, kept = (nibabel.load(each / "labelsTr" / f"{drawn}.nii.gz") for each in (few, folder))
    assert np.array_equal(given.dataobj, kept.dataobj)
    provenance = json.loads((folder / "provenance.json").read_text())
    made = {name for name, origin in provenance.items() if origin.get("segmented_by")}
    assert len(made) == 8 and drawn not in made
    assert len(csv_rows(out / "segmented.csv")) == 8
    found = find_dataset(folder)
    assert len(found.cases) == 9 and all(files.label is not None for files in found.cases)


def test_what_somebody_corrected_is_learned_from_next_time(aligned_run, aligned_folder, few, tmp_path, capsys) -> None:
    """And is not segmented again."""
    corrected = tmp_path / "corrected" / "labels"
    corrected.mkdir(parents=True)
    name = find_dataset(aligned_folder).cases[3].name
    shutil.copy(aligned_folder / "labelsTr" / f"{name}.nii.gz", corrected)
    options = ("--run", aligned_run, *QUICKLY, "--updates", "3")
    assert segment(few, "-o", tmp_path / "out", "--labels", corrected.parent, *options) == 0
    assert load_network(tmp_path / "out" / "network.safetensors").about["labelled"] == 2
    assert name not in {row["case"] for row in csv_rows(tmp_path / "out" / "segmented.csv")}
    assert segment(few, "-o", tmp_path / "none", "--labels", tmp_path / "out" / "segmented", *options) == 2
    said = " ".join(capsys.readouterr().err.split())  # all that are there were made, and nobody has changed them
    assert "are as they were made" in said and "Correct one of them first" in said
    made = next((tmp_path / "out" / "segmented" / "labels").iterdir())
    image = nibabel.load(made)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), made)
    assert segment(few, "-o", tmp_path / "again", "--labels", tmp_path / "out" / "segmented", *options) == 0
    assert load_network(tmp_path / "again" / "network.safetensors").about["labelled"] == 2


@pytest.mark.parametrize("mapping", ["percentiles", "foreground", "window"])
def test_monai_segments_with_the_bundle_as_we_do(taught, tmp_path, mapping) -> None:
    """On scans of other orientations and of finer voxels than the network's, too."""
    network, plan = taught
    channels = (replace(plan.channels[0], mapping=mapping, typical=(0.0, 800.0)),)
    path = tmp_path / "network.safetensors"
    save_network(path, network, replace(plan, channels=channels), {"labelled": 1, "variations": 2, "rest": 3})
    assert main(["export", str(path), "-o", str(tmp_path / "bundle"), "--to", "monai-bundle"]) == 0
    assert main(["export", str(path), "-o", str(tmp_path / "other"), "--to", "folder"]) == 2
    (tmp_path / "scans").mkdir()
    cases = {name: turned_ball(*grid) for name, grid in grids().items()}
    for name, case in cases.items():
        nibabel.save(nibabel.Nifti1Image(case.image[0], case.affine), tmp_path / "scans" / f"{name}.nii.gz")
    command = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    subprocess.run(
        [sys.executable, *command, "--images", str(tmp_path / "scans" / "*.nii.gz")],
        cwd=tmp_path / "bundle", check=True, capture_output=True,
    )  # fmt: skip
    loaded = load_network(path, "cpu")
    for name, case in cases.items():
        theirs = nibabel.load(tmp_path / "bundle" / "segmented" / f"{name}_label.nii.gz")
        assert np.allclose(theirs.affine, case.affine) and theirs.shape == case.labels.shape
        assert dice(np.asarray(theirs.dataobj), segmented(case, loaded).case.labels, 1) > 0.95, name
    told = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert told["label_classes"] == "background, ball" and "1 segmented scan" in told["description"]


def csv_rows(path: Path) -> list[dict]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def test_scans_that_cannot_be_used_do_not_end_the_work(aligned_run, aligned_folder, few, tmp_path, capsys) -> None:
    """A damaged segmentation, an empty one, and a copy of the only good one's scan under another name."""
    good, damaged, empty = (case.name for case in find_dataset(aligned_folder).cases[:3])
    content = (aligned_folder / "labelsTr" / f"{damaged}.nii.gz").read_bytes()
    (few / "labelsTr" / f"{damaged}.nii.gz").write_bytes(content[: len(content) // 2])
    scan = nibabel.load(few / "imagesTr" / f"{empty}_0000.nii.gz")
    nothing = nibabel.Nifti1Image(np.zeros(scan.shape, np.uint8), scan.affine)
    nibabel.save(nothing, few / "labelsTr" / f"{empty}.nii.gz")
    shutil.copy(few / "imagesTr" / f"{good}_0000.nii.gz", few / "imagesTr" / "zz_copy_0000.nii.gz")
    options = ("--run", aligned_run, "--format", "nnunet", *QUICKLY)
    assert segment(few, "-o", tmp_path / "mine", *options) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "counts as not segmented" in said and f"{damaged} is left out" in said and "zz_copy is left out" in said
    made = {row["case"] for row in csv_rows(tmp_path / "mine" / "segmented.csv")}
    assert {damaged, empty, "zz_copy"} <= made and good not in made
    labels = tmp_path / "mine" / "Dataset501_mine" / "labelsTr"
    assert np.asarray(nibabel.load(labels / f"{empty}.nii.gz").dataobj).any()
    other = tmp_path / "other"
    shutil.copytree(few, other)
    assert segment(other, "-o", tmp_path / "mine", "--resume") == 2
    assert "is done already" in capsys.readouterr().err
    told = tmp_path / "mine" / "segment.json"
    told.write_text(told.read_text().replace('"done": true', '"done": false'))
    assert segment(other, "-o", tmp_path / "mine", "--resume") == 2
    assert "was begun with the scans in" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_segmented_is_said(aligned_run, few, tmp_path, capsys) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(few / "imagesTr", bare / "imagesTr")
    text = tmp_path / "text.safetensors"
    text.write_text("hallo")
    for arguments, words in (
        ((bare,), "No scan of"),
        ((tmp_path / "nowhere",), "is not there"),
        ((text, few), "not a segmentation network"),
        ((aligned_run / "model.safetensors", few), "not a segmentation network"),
        ((few, bare), "and no network"),
        ((few, "--shard", "1/2"), "--shard means nothing"),
        ((few, "--source", "nobody"), "no case nobody"),
        ((few, "--case", "nobody"), "no case nobody"),
        ((few, "--spacing", "1", "2"), "one number or three"),
    ):
        assert segment(*arguments, "-o", tmp_path / "out") == 2, arguments
        said = " ".join(capsys.readouterr().err.split())
        assert words in said and "Traceback" not in said, (arguments, said)
        assert not (tmp_path / "out").exists()
    network = tmp_path / "one" / "network.safetensors"
    assert segment(few, "-o", network.parent, "--run", aligned_run, "--updates", "2", "--variations", "0") == 0
    assert segment(network, few, "-o", tmp_path / "again", "--updates", "3") == 2
    assert "--updates means nothing" in capsys.readouterr().err
    assert segment(network, "-o", tmp_path / "again") == 2 and "are missing" in capsys.readouterr().err


@pytest.mark.long
def test_a_job_that_is_killed_goes_on_and_comes_to_the_same_network(aligned_run, few, tmp_path) -> None:
    """It is aligned on the way, too; killed while it aligns, and while it learns."""
    script = OFTEN + "from GEDGANLib.segmentation import job as learning\nlearning.CHECKPOINT_SECONDS = 0.0\n" + GO
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def begin(out: Path, *options: str) -> Any:
        command = [sys.executable, "-c", script, "segment", str(few), "-o", str(out), *options]
        return popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    assert begin(whole, *QUICKLY, "--teacher").wait() == 0
    options: tuple[str, ...] = (*QUICKLY, "--teacher")
    signs = "alignment/checkpoint-*", ".material/variation-*-0002.*", "checkpoint-*", ".teacher.safetensors"
    for sign in signs:
        process = begin(parts, *options)
        while not list(parts.glob(sign)):
            assert process.poll() is None, (sign, process.stderr.read())
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (parts / "network.safetensors").exists()
        options = ("--resume",)
    assert begin(parts, "--resume").wait() == 0
    assert (parts / "network.safetensors").read_bytes() == (whole / "network.safetensors").read_bytes()
    assert csv_rows(parts / "segmented.csv") == csv_rows(whole / "segmented.csv")
    assert not [path for path in parts.iterdir() if path.name.startswith((".material", ".teacher", "checkpoint"))]
