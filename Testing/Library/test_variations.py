"""Variations of a scan: on its own voxels, in its place, nothing folded, and none of a case that is validated on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from starting import GO, popen

from GEDGANLib.alignment.blocks import Blocks
from GEDGANLib.alignment.job import Aligned
from GEDGANLib.alignment.lattice import Lattice
from GEDGANLib.alignment.modes import Modes, components_of, modes_of, products_of
from GEDGANLib.alignment.sampling import (
    LabelImage,
    SmoothImage,
    identity,
    sample_linear,
    sample_spline,
    spline_coefficients,
)
from GEDGANLib.alignment.transformations import Transformations
from GEDGANLib.alignment.variations import SMALLEST_JACOBIAN, Population, Request, Scan, Subject, background_of
from GEDGANLib.alignment.velocity import smooth
from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.synthesis.model_file import load_model
from GEDGANLib.synthesis.moving import coarser
from GEDGANLib.synthesis.variations import Places, Variations
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.dataset import find_dataset

CASES, SHAPE, BOX = 9, (16, 24, 16), 9.0
GRID, EXTENT = (12, 16, 12), (48.0, 64.0, 48.0)


@pytest.fixture(scope="module")
def data(aligned_folder) -> Path:
    return aligned_folder


@pytest.fixture(scope="module")
def run(aligned_run) -> Path:
    return aligned_run


@pytest.fixture(scope="module")
def made(run, data, tmp_path_factory) -> Path:
    """Three variations of each of two scans."""
    out = tmp_path_factory.mktemp("made") / "out"
    assert augment(run, data, out, "-n", "3", "--case", *names_of(data)[:2]) == 0
    return out


def augment(run: Path, data: Path, out: Path, *options: object) -> int:
    return main(["augment", str(run), str(data), "-o", str(out), "--device", "cpu", *map(str, options)])


def names_of(data: Path) -> list[str]:
    return [case.name for case in find_dataset(data).cases]


def files_in(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and ".shards" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.suffix != ".png"}


def population(modes: int = 3, seed: int = 0, size: float = 1.0, control=(6, 8, 6)) -> Population:
    """Smooth modes of no population."""
    random = torch.Generator().manual_seed(seed)
    velocities = smooth(torch.randn(modes, 3, *control, generator=random), 10.0, EXTENT)
    velocities *= size / velocities.std()
    looks = 0.2 * torch.randn(modes, 1, *control, generator=random)
    made = Modes(
        torch.zeros(3, 4), torch.randn(3, *control, generator=random), torch.zeros(1, *control), torch.ones(3),
        torch.zeros(modes, 3, 4), velocities, looks, width=10.0,
    )  # fmt: skip
    return Population.of(made, torch.zeros(1, *GRID), EXTENT)


def moved_by(velocity: torch.Tensor) -> Transformations:
    return Transformations(torch.zeros(1, 3, 4), velocity, EXTENT)


BOX_AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])


def test_splines_of_the_fifth_order_pass_through_the_voxels_and_are_the_same_on_every_device(random):
    volume = torch.from_numpy(random.standard_normal((2, 1, 7, 9, 2))).float()
    extent = (14.0, 9.0, 5.0)
    here = identity(volume.shape[2:], extent, volume)
    found = SmoothImage(volume, extent, 5).at(here.expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(found, volume, atol=1e-4, rtol=1e-4)
    positions = here + torch.from_numpy(random.standard_normal((2, 3, 7, 9, 2))).float()
    coefficients = spline_coefficients(volume, 5)
    with_gradient = sample_spline(coefficients, positions, extent, 5)
    with torch.no_grad():
        without = sample_spline(coefficients, positions, extent, 5)
    torch.testing.assert_close(with_gradient, without, atol=1e-4, rtol=1e-4)


def test_a_label_between_voxels_is_the_one_with_the_largest_share(random):
    labels = torch.from_numpy(random.integers(0, 4, (6, 7, 5))).to(torch.uint8)
    index = torch.from_numpy(random.uniform(-1, 7, (3, 8, 9, 10))).float()
    found = LabelImage(labels).at(index)
    positions = index - torch.tensor([5, 6, 4.0]).reshape(3, 1, 1, 1) / 2
    shares = [
        sample_linear((labels == label).float()[None, None], positions[None], tuple(labels.shape))[0, 0]
        for label in range(4)
    ]
    shares = torch.stack(shares)
    chosen = shares.gather(0, found.long()[None])[0]
    assert float((shares.amax(0) - chosen).max()) < 1e-4 and found.dtype == torch.uint8
    here = torch.stack(torch.meshgrid(*map(torch.arange, (6, 7, 5)), indexing="ij")).float()
    assert LabelImage(labels).at(here).equal(labels)


def test_velocities_are_what_the_formula_says():
    there, velocity = population(), torch.randn(1, 3, 6, 8, 6, generator=torch.Generator().manual_seed(5))
    subject = Subject(there, moved_by(velocity), Lattice.of(BOX_AFFINE, GRID, BOX_AFFINE, GRID))
    scores, sliders = np.array([0.5, -1.0, 2.0]), np.array([0.0, 0.3, 0.0])
    mixed = torch.tensordot(torch.from_numpy(scores).float(), there.modes.velocities, 1)
    slid = 0.3 * there.modes.velocities[1]
    mean, own = there.modes.velocity, velocity[0]
    for strength, expected in (
        (0.0, own + slid),
        (0.4, 0.6 * own + 0.4 * mean + 0.8 * mixed + slid),
        (1.0, mean + mixed + slid),
        (2.0, mean + 2 * mixed + slid),
    ):
        found = subject.velocity_of(Request(strength, 1.0, sliders), scores)[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("axes, flips", [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))])
def test_a_shift_is_a_shift_in_whatever_order_and_direction_the_voxels_run(axes, flips):
    """A velocity of 6 mm to the box's second axis moves what is seen there, on voxels of other size and order."""
    shift = torch.zeros(3, 6, 8, 6)
    shift[1] = 6.0
    there = population(1)
    there = replace(there, modes=replace(there.modes, velocity=torch.zeros(3, 6, 8, 6), velocities=shift[None]))
    spacing, shape = (2.0, 4.0, 3.0), (24, 16, 16)
    directions = np.zeros((3, 3))
    for column, (axis, flip) in enumerate(zip(axes, flips)):
        directions[axis, column] = flip
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    middle = BOX_AFFINE @ [*(np.array(GRID) - 1) / 2, 1]
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    lattice = Lattice.of(affine, shape, BOX_AFFINE, GRID)
    subject = Subject(there, moved_by(torch.zeros(1, 3, 6, 8, 6)), lattice)
    variation = subject.varied(Request(0, 0, np.array([1.0])), (0,))
    moved = subject.nodes.refined(variation.displacement)[0].numpy()
    expected = np.linalg.inv(affine[:3, :3]) @ [0, -6.0, 0]
    np.testing.assert_allclose(moved, np.broadcast_to(expected.reshape(3, 1, 1, 1), moved.shape), atol=1e-4)
    assert abs(variation.smallest_jacobian - 1) < 1e-4


def test_a_scan_that_lies_elsewhere_gives_the_variation_that_lies_elsewhere():
    there, velocity = population(size=3.0), torch.randn(1, 3, 6, 8, 6, generator=torch.Generator().manual_seed(5))
    image = np.random.default_rng(0).random((1, *GRID), np.float32)
    angle = np.radians(20)
    rigid = np.eye(4)
    rigid[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    rigid[:3, 3] = 20, -7, 3
    found = []
    own = BOX_AFFINE[:, [1, 2, 0, 3]] @ np.diag([-1.0, 1, 1, 1])  # its voxels run another way than those of the box
    own[:3, 3] = (3, -2, 5)
    for where in (np.eye(4), rigid):
        lattice = Lattice.of(where @ own, GRID, where @ BOX_AFFINE, GRID)
        subject = Subject(there, moved_by(velocity), lattice)
        found.append(Scan(subject, image, None, [0.0]).varied(subject.varied(Request(), (1,)))[0])
    np.testing.assert_allclose(*found, atol=1e-4)
    assert np.abs(found[0] - image).mean() > 0.05


def test_nodes_far_apart_are_read_off_between_them_as_if_they_were_near():
    there, sliders = population(size=2.0, control=(4, 5, 4)), np.array([1.0, -1.0, 0.5])
    lattice = Lattice.of(np.diag([2.0, 2.0, 2.0, 1.0]), (24, 32, 24), BOX_AFFINE, GRID)
    found = []
    for spacing in (0.5, 0.1):
        subject = Subject(there, moved_by(torch.zeros(1, 3, 4, 5, 4)), lattice, spacing)
        found.append(subject.nodes.refined(subject.varied(Request(0, 0, sliders), (2,)).displacement))
    assert float(found[0].abs().max()) > 1.5 and float((found[0] - found[1]).abs().max()) < 0.2


def test_what_would_fold_is_drawn_again_and_then_varied_less():
    gentle, wild = population(size=1.0), population(size=40.0)
    lattice = Lattice.of(BOX_AFFINE, GRID, BOX_AFFINE, GRID)
    still = moved_by(torch.zeros(1, 3, 6, 8, 6))
    found = Subject(gentle, still, lattice).varied(Request(), (0,))
    assert found.draws == 1 and found.kept == 1 and found.smallest_jacobian > SMALLEST_JACOBIAN
    found = Subject(wild, still, lattice).varied(Request(), (0,))
    assert found.draws == 10 and found.kept < 1 and found.smallest_jacobian >= SMALLEST_JACOBIAN


def test_brightness_varies_in_tissue_alone_and_air_stays_air_bit_for_bit():
    there = population()
    template = torch.full((1, *GRID), -1.0)
    template[:, 3:9, 4:12, 3:9] = 0.5
    there = Population.of(there.modes, template, EXTENT)
    subject = Subject(there, moved_by(torch.zeros(1, 3, 6, 8, 6)), Lattice.of(BOX_AFFINE, GRID, BOX_AFFINE, GRID))
    image = np.full((2, *GRID), 7.0, np.float32)
    image[:, 2:10, 3:13, 2:10] = 100.0
    variation = subject.varied(Request(0, 1), (3,))
    found, _ = Scan(subject, image, None, [7.0, None]).varied(variation)
    assert (found[0][image[0] == 7] == 7).all() and np.array_equal(found[1], image[1])
    assert found[0][4:8, 6:10, 4:8].std() > 0.1 and 60 < found[0][5, 8, 5] < 160
    outside = found[0].copy()
    outside[1:11, 2:14, 1:11] = image[0][1:11, 2:14, 1:11]
    assert np.array_equal(outside, image[0])


def test_strength_0_is_the_scan_itself_with_its_type_names_and_colours(run, data, tmp_path):
    assert augment(run, data, tmp_path / "out", "-n", "1", "--strength", "0", "--look", "0") == 0
    for name in names_of(data)[:-1]:
        for before, after in ((f"imagesTr/{name}_0000", f"imagesTr/{name}_variation_0-0000_0000"),
                              (f"labelsTr/{name}", f"labelsTr/{name}_variation_0-0000")):  # fmt: skip
            first, second = (nibabel.load(folder / f"{stem}.nii.gz") for folder, stem in
                             ((data, before), (tmp_path / "out", after)))  # fmt: skip
            assert np.array_equal(first.dataobj, second.dataobj) and np.array_equal(first.affine, second.affine)
            assert first.get_data_dtype() == second.get_data_dtype()
            assert second.header["descrip"].item().decode().startswith(f"variation of {name}, made by GED-GAN")
    described = [json.loads((folder / "dataset.json").read_text()) for folder in (data, tmp_path / "out")]
    assert described[0]["labels"] == described[1]["labels"] and described[1]["numTraining"] == CASES - 1


def test_variations_differ_keep_grid_and_air_and_say_what_they_are(made, data):
    name = names_of(data)[0]
    scan = nibabel.load(data / "imagesTr" / f"{name}_0000.nii.gz")
    images = [nibabel.load(made / "imagesTr" / f"{name}_variation_0-{index:04d}_0000.nii.gz") for index in range(3)]
    assert all(np.array_equal(image.affine, scan.affine) and image.shape == scan.shape for image in images)
    voxels = [np.asarray(image.dataobj) for image in (scan, *images)]
    assert len({each.tobytes() for each in voxels}) == 4
    labels = [nibabel.load(made / "labelsTr" / f"{name}_variation_0-{index:04d}.nii.gz") for index in range(3)]
    for image, segmented in zip(voxels[1:], labels):  # what is labelled is tissue
        assert (image[np.asarray(segmented.dataobj) > 0] > 0).mean() > 0.97
    told = json.loads((made / "provenance.json").read_text())
    assert len(told) == 6 and {each["variation_of"] for each in told.values()} == set(names_of(data)[:2])
    assert not any("synthetic" in each for each in told.values())
    assert "synthetic" not in (made / "dataset.json").read_text().lower()
    assert (made / "contact-sheet.png").stat().st_size > 10_000


def test_a_variation_is_made_again_from_the_manifest(made, run, data, tmp_path, capsys):
    wanted = f"{names_of(data)[1]}_variation_0-0002"
    assert augment(run, data, tmp_path / "out", "--again", made, "--only", wanted) == 0
    again = files_in(tmp_path / "out")
    assert again[f"imagesTr/{wanted}_0000.nii.gz"] == files_in(made)[f"imagesTr/{wanted}_0000.nii.gz"]
    assert again[f"labelsTr/{wanted}.nii.gz"] == files_in(made)[f"labelsTr/{wanted}.nii.gz"]
    assert len(again) == 4
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run, elsewhere)
    aligned = Aligned.load(run / "alignment.safetensors")
    aligned.moved.velocities.mul_(0.9)
    aligned.save(elsewhere / "alignment.safetensors")
    assert augment(elsewhere, data, tmp_path / "five", "--again", made, "--only", wanted) == 2
    assert "was made by another alignment of" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(data, other)
    path = other / "imagesTr" / f"{names_of(data)[1]}_0000.nii.gz"
    image = nibabel.load(path)
    with_noise = np.asarray(image.dataobj).copy()
    with_noise[::2] += 3
    nibabel.save(nibabel.Nifti1Image(with_noise, image.affine), path)
    assert augment(run, other, tmp_path / "two", "--again", made, "--only", wanted) == 2
    assert augment(run, data, tmp_path / "three", "--again", made, "--seed", "1") == 2
    assert augment(run, data, tmp_path / "four", "--again", made, "--only", "nobody") == 2
    said = capsys.readouterr().err
    assert "is not the one any more that" in said and "takes no --seed" in said and "knows no variation nobody" in said


def test_shards_are_one_run_also_where_one_was_killed(run, data, tmp_path, capsys):
    options = ["-n", 2, "--with-real", "--folds", 2, "--case", *names_of(data)[:3]]
    assert augment(run, data, tmp_path / "whole", *options) == 0
    out = tmp_path / "shards"
    command = [sys.executable, "-c", GO, "augment", run, data, "-o", out, "--device", "cpu", *options]
    killed = popen([*map(str, command), "--shard", "1/2"])
    while not list((out / "imagesTr").glob("*")) and killed.poll() is None:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert augment(run, data, out, *options, "--shard", "2/2") == 0
    assert not (out / "dataset.json").exists()
    assert augment(run, data, out, "-n", 3, *options[2:], "--shard", "1/2") == 2
    assert augment(run, data, out, *options, "--shard", "1/2") == 0
    assert files_in(out) == files_in(tmp_path / "whole")
    assert augment(run, data, out, *options, "--shard", "1/2") == 2
    said = capsys.readouterr().err
    assert "asked for something else: variations" in said and "Shard 1 of 2 is in" in said


def test_no_variation_of_a_validation_case_teaches_its_fold_and_no_mode_knows_its_image(run, data, tmp_path):
    out = tmp_path / "out"
    assert augment(run, data, out, "-n", 2, "--with-real", "--folds", 3) == 0
    splits, told = (
        json.loads((out / "splits_final.json").read_text()),
        json.loads((out / "provenance.json").read_text()),
    )
    members = Variations(load_model(run / "model.safetensors")).members
    assert len(splits) == 3 and sorted(name for split in splits for name in split["val"]) == names_of(data)[:-1]
    for split in splits:
        assert not set(split["val"]) & set(split["train"])
        made = [told[name] for name in split["train"] if told[name]]
        assert len(made) == 2 * sum(not told[name] for name in split["train"])
        for origin in made:
            assert origin["variation_of"] not in split["val"]
            assert set(split["val"]) & set(members.values()) <= set(origin.get("modes_without", ()))
    assert (
        len(list((out / "labelsTr").iterdir()))
        == len(told)
        == json.loads((out / "dataset.json").read_text())["numTraining"]
    )


def test_scans_are_known_by_their_images_whatever_they_are_called(run, data, tmp_path, capsys):
    renamed, out, names = tmp_path / "renamed", tmp_path / "out", names_of(data)[:3]
    for part in ("imagesTr", "labelsTr"):
        (renamed / part).mkdir(parents=True)
    shutil.copy(data / "dataset.json", renamed)
    for number, name in enumerate(names):
        shutil.copy(data / "imagesTr" / f"{name}_0000.nii.gz", renamed / "imagesTr" / f"patient{number}_0000.nii.gz")
        shutil.copy(data / "labelsTr" / f"{name}.nii.gz", renamed / "labelsTr" / f"patient{number}.nii.gz")
    assert augment(run, renamed, out, "-n", 1, "--with-real", "--folds", 3) == 0
    assert "bringing it onto the template" not in capsys.readouterr().err
    told, splits = (json.loads((out / name).read_text()) for name in ("provenance.json", "splits_final.json"))
    members = set(Variations(load_model(run / "model.safetensors")).members.values())
    for split in splits:
        apart = {names[int(name[-1])] for name in split["val"]} & members
        assert all(apart <= set(told[name].get("modes_without", ())) for name in split["train"] if told[name])
    assert members & set(names)


def test_a_model_for_sharing_cannot_leave_its_own_scans_out(run, data):
    model = load_model(run / "model.safetensors")
    about = {name: value for name, value in model.about.items() if name not in ("population", "trained_images")}
    shared, digests = Variations(replace(model, about=about), Places.of(run)), Places.of(run).digests
    with pytest.raises(InputError, match="for sharing"):
        shared.among_modes([digests[names_of(data)[0]]])
    assert shared.among_modes(["of somebody else"]) == frozenset()


def test_what_the_alignment_left_out_and_what_cannot_be_read_is_left_out(run, data, tmp_path, capsys):
    copied, names = tmp_path / "data", names_of(data)
    shutil.copytree(data, copied)
    aligned = tmp_path / "run"
    shutil.copytree(run, aligned)
    asked = json.loads((aligned / "align.json").read_text())
    (aligned / "align.json").write_text(json.dumps(asked | {"data": str(copied.resolve()), "left_out": names[:1]}))
    broken = copied / "imagesTr" / f"{names[1]}_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    for options in (("-n", 1), ("-n", 1, "--with-real", "--folds", 2)):
        out = tmp_path / f"out{len(options)}"
        assert augment(aligned, copied, out, *options) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert f"Left out, as in the alignment: {names[0]}" in said and f"{names[1]} is left out" in said
        made = [each["variation_of"] for each in json.loads((out / "provenance.json").read_text()).values() if each]
        assert set(made) == set(names[2:8])
    for split in json.loads((out / "splits_final.json").read_text()):
        assert not {names[0], names[1]} & {*split["train"], *split["val"]}
    assert augment(aligned, copied, tmp_path / "asked", "-n", 1, "--case", names[0]) == 0


def test_brightness_of_an_absolute_scale_stays(run):
    model = load_model(run / "model.safetensors")
    absolute = replace(model.plan.channels[0], mapping="window", typical=(-1000.0, 1000.0))
    case = make_case(0, 0, SHAPE, BOX)
    assert Variations(model).air(case)[0] == 0.0  # what lies flat around the brain
    assert Variations(replace(model, plan=replace(model.plan, channels=(absolute,)))).air(case) == [None]
    ringing = case.image[0].copy()
    ringing[4:8, 4:8, 4:8] -= 300.0
    assert background_of(ringing) == 0.0
    assert background_of(np.random.default_rng(0).random((8, 8, 8))) is None


def test_a_coarser_scan_lies_where_the_scan_lies():
    case = make_case(0, 0, (32, 48, 32), 4.5)
    small = coarser(case, 5000)
    assert np.prod(small.image.shape[1:]) <= 5000 and coarser(case, 10**6) is case
    for mask, other in ((case.image[0] > 200, small.image[0] > 200), (case.labels == 1, small.labels == 1)):
        where = [
            (affine @ [*np.argwhere(each).mean(0), 1])[:3]
            for affine, each in ((case.affine, mask), (small.affine, other))
        ]
        assert np.linalg.norm(where[0] - where[1]) < 2.0  # mm


def test_modes_without_some_cases_are_those_of_the_others():
    random = torch.Generator().manual_seed(0)
    count, extent = 8, (40.0, 40.0, 40.0)
    blocks = Blocks(
        torch.randn(count, 3, 4, generator=random), torch.randn(count, 3, 4, 4, 4, generator=random),
        torch.randn(count, 1, 6, 6, 6, generator=random), torch.zeros(1, 6, 6, 6),
    )  # fmt: skip
    products = products_of(blocks, range(count), extent)
    whole = components_of(products, range(count))
    rest = [0, 1, 3, 4, 6, 7]
    components = components_of(products, rest)
    old = whole.scores()[rest]
    found = modes_of(blocks, whole, extent).recombined(components.units().T @ old / np.sqrt(len(old) - 1), old.mean(0))
    expected = modes_of(blocks, components, extent)
    torch.testing.assert_close(found.velocities, expected.velocities, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.velocity, blocks.velocities[rest].mean(0), atol=1e-4, rtol=1e-3)


def test_a_run_knows_where_its_cases_lie_and_other_scans_are_brought_there(run, data):
    aligned, model = Aligned.load(run / "alignment.safetensors"), load_model(run / "model.safetensors")
    assert len(aligned.boxes) == len(aligned.images) == CASES
    case = make_case(0, 0, SHAPE, BOX)
    known, fresh = Variations(model, Places.of(run)), Variations(model)
    place, digest = known.place(case)
    assert digest == aligned.images[0] and torch.equal(place.moved.velocities[0], aligned.moved.velocities[0])
    other, _ = fresh.place(case)
    np.testing.assert_allclose(other.box, place.box)
    first, second = (each.moved.positions(SHAPE) for each in (place, other))
    assert float((first - second).norm(dim=1).mean()) < 0.7 * BOX  # few iterations


def test_plain_folders_keep_label_values_and_scenes_are_written(run, data, tmp_path):
    plain = tmp_path / "plain"
    name = names_of(data)[0]
    (plain / "images").mkdir(parents=True)
    (plain / "labels").mkdir()
    shutil.copy(data / "imagesTr" / f"{name}_0000.nii.gz", plain / "images" / "scan.nii.gz")
    labels = nibabel.load(data / "labelsTr" / f"{name}.nii.gz")
    values = np.asarray(labels.dataobj).astype(np.uint8) * 20
    nibabel.save(nibabel.Nifti1Image(values, labels.affine), plain / "labels" / "scan.nii.gz")
    out = tmp_path / "out"
    assert (
        augment(run / "model.safetensors", plain, out, "-n", 1, "--format", "folder", "--scene", tmp_path / "a.mrb")
        == 0
    )
    made = nibabel.load(out / "labels" / "scan_variation_0-0000.nii.gz")
    assert set(np.unique(made.dataobj)) <= set(np.unique(values)) and len(np.unique(made.dataobj)) > 2
    assert augment(run / "model.safetensors", plain, tmp_path / "again", "--again", out) == 0
    assert files_in(tmp_path / "again") == files_in(out)  # plain files again, and aligned on the way again
    assert [case.name for case in find_dataset(out).cases] == ["scan_variation_0-0000"]
    assert (tmp_path / "a.mrb").exists()


def test_what_is_there_when_somebody_interrupts_is_a_data_set(run, data, tmp_path, monkeypatch, capsys):
    original, seen = Variations.scan, []

    def interrupted(self, *arguments, **options):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(Variations, "scan", interrupted)
    out = tmp_path / "out"
    assert augment(run, data, out, "-n", 2) == 3
    assert "the first 4 of 16 are complete" in capsys.readouterr().err
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 4
    assert len(find_dataset(out).cases) == len(json.loads((out / "provenance.json").read_text())) == 4


def test_the_gate_draws_again_what_is_implausible(run, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert augment(run, data, out, "-n", 2, "--strength", 2, "--screen", "--case", names_of(data)[0]) == 0
    told = json.loads((out / "provenance.json").read_text())
    assert "Drawn again" in capsys.readouterr().out
    assert any(origin.get("attempt") for origin in told.values())
    assert augment(run, data, tmp_path / "again", "--again", out) == 0
    assert files_in(tmp_path / "again") == files_in(out)


def test_what_cannot_be_varied_is_said(run, data, trained_model, tmp_path, capsys):
    for command, words in (
        ((trained_model, data), "was trained, and knows no alignment"),
        ((tmp_path, data), "holds no alignment"),
        ((run, data, "--case", "nobody"), "has no case nobody"),
        ((run, data, "--case", names_of(data)[-1]), "is segmented, which nnU-Net needs"),
        ((run, data, "--with-real", "--case", names_of(data)[0]), "cannot be both trained and validated on"),
        ((run, data, "--only", "one"), "--only chooses among"),
    ):
        assert augment(command[0], command[1], tmp_path / "out", *command[2:]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        augment(run, data, tmp_path / "out", "--shard", "3/2")
    with pytest.raises(InputError, match="channel"):
        Variations(load_model(run / "model.safetensors")).place(
            replace(make_case(0, 0, SHAPE, BOX), image=np.zeros((2, *SHAPE), np.float32))
        )
