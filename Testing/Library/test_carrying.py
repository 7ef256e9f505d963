"""Segmentations carried from some scans to others, how far to trust them, and which scan to segment next."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hurried import in_earnest

from GEDGANLib.alignment.carrying import Laid, Way, bringing, carrying, dice, electing, way
from GEDGANLib.alignment.lattice import Lattice
from GEDGANLib.alignment.registration import Level, Settings
from GEDGANLib.alignment.sampling import identity, sample_image
from GEDGANLib.alignment.transformations import Transformations
from GEDGANLib.alignment.velocity import smooth
from GEDGANLib.alignment.voting import box_around, normalized, promised_dice, radii, voting
from GEDGANLib.commands.main import main
from GEDGANLib.jobs.steps import through
from GEDGANLib.synthesis.carried import next_to_segment
from GEDGANLib.volumes.dataset import find_dataset

GRID, EXTENT = (20, 24, 20), (80.0, 96.0, 80.0)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
QUICK = Settings(levels=(Level(4, 15, 0.25, False), Level(2, 15, 0.25), Level(1, 15, 0.25)))


def transformations(seed: int, size: float = 6.0) -> Transformations:
    random = torch.Generator().manual_seed(seed)
    velocities = smooth(torch.randn(1, 3, 10, 12, 10, generator=random), 16.0, EXTENT)
    generators = torch.randn(1, 3, 4, generator=random)
    return Transformations(generators, velocities * size / velocities.abs().max(), EXTENT)


def anatomy() -> tuple[torch.Tensor, torch.Tensor]:
    """A template of blobs, some of them labelled."""
    random = torch.Generator().manual_seed(3)
    image = smooth(torch.randn(1, 1, *GRID, generator=random), 6.0, EXTENT)
    image = (image / image.abs().max() * 1.5).clamp(-1, 1)
    return image, (image > 0.3).float() + (image < -0.5).float() * 2


def laid(moved: Transformations, name: str) -> Laid:
    """The anatomy as a case of such a transformation has it."""
    image, labels = anatomy()
    back = moved.positions(GRID, inverse=True)
    image = sample_image(image, back, EXTENT)
    nearest = torch.nn.functional.grid_sample(
        labels, (back.flip(1).movedim(1, -1) * torch.tensor([2 / side for side in EXTENT]).flip(0)), mode="nearest",
        align_corners=False,
    )  # fmt: skip
    boxes = torch.tensor([[[-side / 2, side / 2] for side in EXTENT]])
    lattice = Lattice.of(AFFINE, GRID, AFFINE, GRID)
    return Laid(name, moved, lattice, image, boxes, image[0].numpy(), nearest[0, 0].numpy().astype(np.uint8))


def mean_dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean([dice(one, other, label) for label in (1, 2)]))


def test_the_way_leads_where_the_same_anatomy_is():
    first, second = transformations(1), transformations(2)
    template = identity((6, 6, 6), tuple(0.6 * side for side in EXTENT), torch.zeros(1))
    there = way(first, second)(first.at(template))
    assert float((there - second.at(template)).norm(dim=1).max()) < 0.4  # mm
    target, source = laid(first, "one"), laid(second, "two")
    index = Way(target, source, None).indices()
    middle = (np.array(GRID) - 1) / 2
    here = torch.from_numpy(target.lattice.matrix[:, :3] @ middle + target.lattice.matrix[:, 3]).float()
    expected = way(first, second)(here.reshape(1, 3, 1, 1, 1)).reshape(3)
    voxel = np.linalg.inv(source.lattice.matrix[:, :3]) @ (expected.numpy() - source.lattice.matrix[:, 3])
    part = (slice(3, 9), slice(0, 5), slice(19, 20))
    torch.testing.assert_close(Way(target, source, None).indices(part), index[(slice(None), *part)], atol=1e-4, rtol=0)
    between = index[:, 9:11, 11:13, 9:11].flatten(1).mean(1).numpy()
    np.testing.assert_allclose(between, voxel, atol=0.1)


def test_what_the_template_leaves_undone_is_made_up_for_by_registering_directly():
    """The target is said to lie a little beside where it lies."""
    target, source = laid(transformations(1), "one"), laid(transformations(2), "two")
    wrong = Transformations(target.moved.generators, target.moved.velocities + 3.0, EXTENT)
    beside = replace(target, moved=wrong)
    plain, refined = (through(bringing(beside, [source], QUICK, refine)).labels[0] for refine in (False, True))
    exact = through(bringing(target, [source], QUICK, False)).labels[0]
    assert mean_dice(exact, target.labels) > 0.75  # of blobs some voxels large, read off twice
    assert mean_dice(refined, target.labels) > mean_dice(plain, target.labels) + 0.05
    voted = through(carrying(beside, [source], QUICK, 2))
    assert mean_dice(voted.labels, target.labels) > mean_dice(plain, target.labels) + 0.05


def blob(shift: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright ball in noise, and its label, moved by some voxels."""
    index = torch.stack(torch.meshgrid(*[torch.arange(20.0) for _ in range(3)], indexing="ij"))
    label = (((index[0] - 9 - shift) ** 2 + (index[1] - 10) ** 2 + (index[2] - 9) ** 2) < 30).long()
    noise = torch.randn(label.shape, generator=torch.Generator().manual_seed(shift))
    return (label + 0.1 * noise)[None, None], label


@in_earnest()
def test_voxels_around_make_up_for_what_registration_leaves():
    (image, truth), (moved, label) = blob(), blob(2)
    reach = radii((1.0, 1.0, 1.0))
    (share,) = through(voting(normalized(image), [normalized(moved)], [label], 1, reach))
    taken = share.argmax(0)
    before, after = (dice(each.numpy(), truth.numpy(), 1) for each in (label, taken))
    assert after > 0.97 > before + 0.15
    torch.testing.assert_close(share.sum(0), torch.ones_like(share[0]))
    assert 0.8 < promised_dice(share, taken)[0] <= 1
    assert np.isnan(promised_dice(torch.stack([torch.ones(2, 2), torch.zeros(2, 2)]), torch.zeros(2, 2))[0])


def test_the_likest_source_counts_most_and_trust_tells():
    image, truth = blob()
    good, bad = (image, truth), (torch.flip(image, (2,)), torch.roll(truth, 6, 0))
    reach, given = (1, 1, 1), normalized(image)
    (both,) = through(
        voting(given, [normalized(each[0]) for each in (good, bad, bad)], [truth, bad[1], bad[1]], 1, reach)
    )
    assert dice(both.argmax(0).numpy(), truth.numpy(), 1) > 0.97  # one against two
    alone = [through(voting(given, [normalized(each[0])], [each[1]], 1, reach))[0] for each in (good, bad)]
    trust = [promised_dice(share, share.argmax(0))[0] for share in alone]
    assert trust[0] > trust[1] + 0.05


def test_votes_in_slabs_are_those_of_the_whole(monkeypatch):
    from GEDGANLib.alignment import voting as module

    (image, _truth), (moved, label) = blob(), blob(1)
    given = (normalized(image), [normalized(moved)], [label], 1, (2, 2, 1))
    whole = through(voting(*given, (0.5, 1.0)))
    torch.testing.assert_close(whole[1:], through(voting(*given)))
    monkeypatch.setattr(module, "AT_A_TIME", 75 * 20 * 20 * 3)
    torch.testing.assert_close(through(voting(*given, (0.5, 1.0))), whole)


@in_earnest()
def test_thick_slices_are_heard_as_far_as_thin_ones():
    assert radii((1.0, 1.0, 1.0)) == [2, 2, 2] and radii((1.0, 1.0, 5.0)) == [2, 2, 1]
    assert radii((1.0, 1.0, 1.0), 200**3) == [1, 1, 1]  # of many voxels only the nearest are heard
    labels = np.zeros((40, 40, 40), np.uint8)
    assert box_around([labels]) is None
    labels[20, 3, 20] = 1
    assert box_around([labels, labels]) == (slice(12, 29), slice(0, 12), slice(12, 29))


def test_nothing_to_carry_is_background():
    source = replace(laid(transformations(2), "two"), labels=np.zeros(GRID, np.uint8))
    target = laid(transformations(1), "one")
    (made,) = through(electing(through(bringing(target, [source], QUICK)), (4.0, 4.0, 4.0), 2))
    assert not made.labels.any() and np.isnan(made.trust).all()


def test_the_middle_comes_first_and_then_what_covers_most():
    places = np.array([[0.0, 0], [1, 0], [-1, 0], [0, 5], [0.1, 0.1]])
    names = [f"scan{number}" for number in range(5)]
    found = next_to_segment(names, places, set(), 3)
    assert found[0].name in ("scan0", "scan4") and found[1].name == "scan3"
    assert "middle of all 5" in found[0].reason and "nearer to one that is segmented" in found[1].reason
    assert next_to_segment(names, places, {"scan3"}, 9)[0].name in ("scan0", "scan4")
    assert next_to_segment(names, places, set(names), 3) == []


@pytest.fixture
def apart(aligned_folder, tmp_path) -> tuple[Path, Path]:
    """Three segmented cases of the aligned ones, and three without their segmentations."""
    folders = tmp_path / "labelled", tmp_path / "others"
    names = [case.name for case in find_dataset(aligned_folder).cases]
    for folder, chosen in zip(folders, (names[:3], names[3:6])):
        (folder / "imagesTr").mkdir(parents=True)
        shutil.copy(aligned_folder / "dataset.json", folder)
        for name in chosen:
            shutil.copy(aligned_folder / "imagesTr" / f"{name}_0000.nii.gz", folder / "imagesTr")
    (folders[0] / "labelsTr").mkdir()
    for name in names[:3]:
        shutil.copy(aligned_folder / "labelsTr" / f"{name}.nii.gz", folders[0] / "labelsTr")
    return folders


def carried(run: Path, *arguments: object) -> int:
    return main(["carry", str(run), *map(str, arguments), "--device", "cpu"])


@pytest.mark.parametrize("sources", [1, 3])
def test_segmentations_are_carried_and_say_how_far_to_trust_them(
    aligned_run, aligned_folder, apart, tmp_path, capsys, sources
):
    labelled, others = apart
    first = find_dataset(labelled).cases[0].name
    options = ["--source", first] if sources == 1 else []
    out = tmp_path / "out"
    assert carried(aligned_run, labelled, others, "-o", out, "--soft", *options) == 0
    assert "The least to be trusted" in capsys.readouterr().out
    rows = list(csv.DictReader((out / "carried.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 3 and [float(row["trust"]) for row in rows] == sorted(float(row["trust"]) for row in rows)
    assert all(len(row["carried from"].split()) == sources for row in rows)
    for row in rows:
        name = row["case"]
        image, scan = (nibabel.load(path) for path in (
            out / "images" / f"{name}.nii.gz", aligned_folder / "imagesTr" / f"{name}_0000.nii.gz"))  # fmt: skip
        assert np.array_equal(image.dataobj, scan.dataobj) and np.array_equal(image.affine, scan.affine)
        made = nibabel.load(out / "labels" / f"{name}.nii.gz")
        truth = nibabel.load(aligned_folder / "labelsTr" / f"{name}.nii.gz")
        assert mean_dice(np.asarray(made.dataobj), np.asarray(truth.dataobj)) > 0.6
        assert "carried from" in made.header["descrip"].item().decode()
        assert "by GED-GAN" in made.header["descrip"].item().decode()
        shares = [np.asarray(nibabel.load(out / "shares" / f"{name}_{index:02d}.nii.gz").dataobj) for index in (1, 2)]
        assert min(share.min() for share in shares) >= 0 and sum(shares).max() <= 1.0001
        assert np.array_equal(shares[0] > 0.5, (shares[0] > 0.5) & (np.asarray(made.dataobj) == 1))
    assert (out / "carried.png").stat().st_size > 10_000


def test_what_somebody_drew_stays_and_shards_are_one_run(aligned_run, aligned_folder, apart, tmp_path, capsys):
    labelled, others = apart
    names = [case.name for case in find_dataset(aligned_folder).cases]
    before = {path: path.read_bytes() for path in (aligned_folder / "labelsTr").iterdir()}
    options = ("--source", names[0], "--format", "nnunet")
    assert carried(aligned_run, labelled, aligned_folder, "-o", tmp_path / "one", *options) == 0
    assert "8 scan(s)" in " ".join(capsys.readouterr().err.split())
    assert list(json.loads((tmp_path / "one" / "provenance.json").read_text())) == [names[8]]
    assert {path: path.read_bytes() for path in (aligned_folder / "labelsTr").iterdir()} == before
    for number in (2, 1):
        assert carried(aligned_run, labelled, others, "-o", tmp_path / "two", *options, "--shard", f"{number}/2") == 0
    assert carried(aligned_run, labelled, others, "-o", tmp_path / "whole", *options) == 0
    for part in ("imagesTr", "labelsTr", "carried.csv", "dataset.json", "provenance.json"):
        paths = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").glob(f"{part}*/*")] or [part]
        for path in paths:
            assert (tmp_path / "two" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes(), path


def test_what_cannot_be_carried_is_said(aligned_run, aligned_folder, apart, tmp_path, capsys):
    labelled, others = apart
    maps = tmp_path / "maps"  # segmentations where scans should be
    for part in ("images", "labels"):
        (maps / part).mkdir(parents=True)
        for path in (labelled / "labelsTr").iterdir():
            shutil.copy(path, maps / part)
    for arguments, words in (
        ((others, others), "is segmented"),
        ((labelled, labelled), "no scan that is not segmented"),
        ((maps, others), "looks like a segmentation"),
        ((labelled, others, "--case", "nobody"), "no case nobody"),
        ((labelled, others, "--source", "nobody"), "no case nobody"),
    ):
        assert carried(aligned_run, *arguments, "-o", tmp_path / "out") == 2
        assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_nothing_is_carried_from_a_scan_to_itself(aligned_run, aligned_folder, apart, tmp_path, capsys):
    labelled, _others = apart
    first, second, third = (case.name for case in find_dataset(labelled).cases)
    assert carried(aligned_run, labelled, aligned_folder, "-o", tmp_path / "out", "--case", first) == 0
    (row,) = csv.DictReader((tmp_path / "out" / "carried.csv").read_text("utf-8").splitlines())
    assert row["carried from"].split() == [second, third]
    assert carried(aligned_run, labelled, labelled, "-o", tmp_path / "same", "--case", first) == 0
    options = ("--source", first, "--case", first)
    assert carried(aligned_run, labelled, aligned_folder, "-o", tmp_path / "none", *options) == 0
    assert "is the scan that would be carried from" in " ".join(capsys.readouterr().err.split())


def test_the_next_scan_is_named_with_a_reason(aligned_run, aligned_folder, apart, capsys):
    labelled, others = apart
    assert main(["next", str(aligned_run), str(others), "-n", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "middle of all 3 scans" in said[0] and "nearer to one that is segmented" in said[1]
    assert main(["next", str(aligned_run), str(aligned_folder)]) == 0
    assert find_dataset(aligned_folder).cases[-1].name in capsys.readouterr().out  # the only one without
    assert main(["next", str(aligned_run), str(labelled)]) == 0
    assert "All of them are segmented" in capsys.readouterr().out
    path = next((labelled / "labelsTr").iterdir())
    path.write_text("hallo")
    assert main(["next", str(aligned_run), str(labelled)]) == 0
    said = capsys.readouterr()
    assert path.name.split(".")[0] in said.out and "counts as not segmented" in " ".join(said.err.split())
