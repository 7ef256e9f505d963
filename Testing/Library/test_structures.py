"""Which segmented structures are learned: those that are asked for, or as many as fit; all others are background."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from alignment_sets import SPACING, cohort

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.planning.plan import Plan
from GEDGANLib.planning.words import MOST_LABELS
from GEDGANLib.segmentation.network_file import load_network
from GEDGANLib.volumes.dataset import as_planned, find_dataset
from GEDGANLib.volumes.fingerprint import check_dataset, look_like_instances
from GEDGANLib.volumes.pipeline import load_working_cases

COUNT = 40
RARE = {3, 7, 11, 15, 19, 23, 27}
SMALL = 31


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Three scans with 40 structures each, seven of which one scan does not have, and one of which is small."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "images").mkdir(), (folder / "labels").mkdir()
    random = np.random.default_rng(0)
    names = {f"structure {value:02}": value for value in range(1, COUNT + 1)}
    (folder / "names.txt").write_text("\n".join(names))
    for number in range(3):
        labels = np.zeros((20, 20, 20), np.uint8)
        for value in range(1, COUNT + 1):
            if number or value not in RARE:
                labels.reshape(-1)[200 * (value - 1) : 200 * value - (150 if value == SMALL else 0)] = value
        image = (labels * 20 + random.normal(0, 5, labels.shape) + 100).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "images" / f"p{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / "labels" / f"p{number}.nii.gz")
    return folder


def test_of_more_structures_than_can_be_learned_those_are_that_most_scans_have(many: Path) -> None:
    dataset = find_dataset(many)
    fingerprint = check_dataset(dataset)
    assert len(fingerprint.labels) == COUNT
    plan = make_plan(fingerprint)
    expected = set(range(1, COUNT + 1)) - RARE - {SMALL}
    assert {label.value for label in plan.labels} == expected and len(expected) == MOST_LABELS
    assert [label.index for label in plan.labels] == list(range(1, MOST_LABELS + 1))
    words = next(reason for reason in plan.reasons if "structures" in reason)
    assert f"Of {COUNT} structures the {MOST_LABELS} are learned that most scans have" in words
    assert "label 31" in words and "and 3 more" in words and "--structures" in words
    cases = list(load_working_cases(as_planned(dataset, plan), plan))
    assert all(set(np.unique(case.labels)) <= set(range(MOST_LABELS + 1)) for case in cases)
    assert len(np.unique(cases[0].labels)) == MOST_LABELS + 1
    # What is in no plan and was not left out by it is still an error.
    with pytest.raises(InputError, match="labels that the plan does not know, label 31"):
        list(load_working_cases(dataset, plan))


def test_structures_are_learned_that_are_asked_for(many: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "plan.json"
    wanted = ("--structures", "label 5", "label 7")
    assert main(["plan", str(many), "-o", str(out), "--alignment", "none", "--device", "cpu", *wanted]) == 0
    said = capsys.readouterr().out
    assert "2 structures are learned, as asked for, and 38 others are background" in said
    plan = Plan.load(out)
    assert [(label.name, label.index) for label in plan.labels] == [("label 5", 1), ("label 7", 2)]
    cases = list(load_working_cases(as_planned(find_dataset(many), plan), plan))
    for case in cases:
        assert np.count_nonzero(case.labels == 1) > 100 and set(np.unique(case.labels)) <= {0, 1, 2}


def test_a_structure_that_no_scan_has_is_named_with_those_there_are(many: Path, tmp_path: Path, capsys) -> None:
    asked = ("--structures", "label 5", "liver")
    assert main(["plan", str(many), "-o", str(tmp_path / "plan.json"), "--device", "cpu", *asked]) == 2
    told = capsys.readouterr().err
    assert "has no structure called liver" in told and "label 40" in told
    assert not (tmp_path / "plan.json").exists()


def cells(folder: Path, of_all: bool) -> Path:
    """Cells with a number each, from 1 in each case or, ``of_all``, from 1 in all together."""
    (folder / "images").mkdir(parents=True), (folder / "labels").mkdir()
    first = 0
    for case in range(6):
        random = np.random.default_rng(case)
        places = np.indices((20, 20, 20))
        labels = np.zeros((20, 20, 20), np.uint16)
        count = 5 + 2 * case
        for number in range(1, count + 1):
            centre = np.reshape([2 + 3 * (number % 6), 2 + 3 * (number // 6), random.integers(3, 16)], (3, 1, 1, 1))
            labels[((places - centre) ** 2).sum(0) <= 1] = first + number
        first += count if of_all else 0
        image = (labels > 0) * 100.0 + random.normal(50, 5, labels.shape)
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / "images" / f"c{case}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / "labels" / f"c{case}.nii.gz")
    return folder


@pytest.mark.parametrize("of_all", [False, True])
def test_pieces_are_told_from_structures_and_made_one(tmp_path: Path, of_all: bool, capsys) -> None:
    folder = cells(tmp_path / "cells", of_all)
    code = main(["check", str(folder)])
    assert code == (2 if of_all else 0)  # where no two cases have one number there is nothing to learn
    assert "each number were a piece" in capsys.readouterr().err
    out = tmp_path / "plan.json"
    asked = ("--one-structure", "cell", "--alignment", "none", "--device", "cpu")
    assert main(["plan", str(folder), "-o", str(out), *asked]) == 0
    plan = Plan.load(out)
    assert [label.name for label in plan.labels] == ["cell"]
    dataset = as_planned(find_dataset(folder), plan)
    for number, case in enumerate(load_working_cases(dataset, plan)):
        given = np.asarray(nibabel.load(folder / "labels" / f"c{number}.nii.gz").dataobj)
        assert set(np.unique(case.labels)) == {0, 1} and np.count_nonzero(case.labels) > 0.5 * np.count_nonzero(given)


def test_pieces_are_measured_as_the_one_that_they_are_of(tmp_path: Path) -> None:
    """One that is a bright voxel does not speak for all of them."""
    folder = cells(tmp_path / "cells", False)
    path = folder / "images" / "c0.nii.gz"
    image = np.asarray(nibabel.load(path).dataobj).copy()
    labels = np.asarray(nibabel.load(folder / "labels" / "c0.nii.gz").dataobj).copy()
    labels[19, 19, 19], image[19, 19, 19] = 6, 2000
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), path)
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / "labels" / "c0.nii.gz")
    facts = check_dataset(replace(find_dataset(folder), one_label="cell")).cases[0]
    assert facts.label_voxels == {"cell": np.count_nonzero(labels)}
    assert facts.label_highs["cell"] == pytest.approx((np.percentile(image[labels > 0], 99.5),))
    assert facts.label_highs["cell"][0] < 1900


def test_one_case_of_another_scheme_is_named_and_not_taken_for_pieces(many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(many, folder)
    for number in (0, 1):
        path = folder / "labels" / f"p{number}.nii.gz"
        labels = np.asarray(nibabel.load(path).dataobj) % 6
        nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), np.eye(4)), path)
    path = folder / "labels" / "p2.nii.gz"
    labels = np.asarray(nibabel.load(path).dataobj)
    nibabel.save(nibabel.Nifti1Image(np.where(labels % 6, labels % 6 + 100, 0).astype(np.uint8), np.eye(4)), path)
    with pytest.raises(InputError, match=r"p2\.nii\.gz has the labels label 101.*of which no other case has any"):
        check_dataset(find_dataset(folder))


def test_what_was_chosen_stays_chosen_where_a_later_case_has_more(many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    shutil.copytree(many, folder)
    for number in range(3):
        path = folder / "labels" / f"p{number}.nii.gz"
        labels = np.asarray(nibabel.load(path).dataobj) == 5
        nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8) * 5, np.eye(4)), path)
    plan = make_plan(check_dataset(replace(find_dataset(folder), wanted_labels=frozenset({"label 5"}))))
    for case in load_working_cases(as_planned(find_dataset(many), plan), plan):
        assert set(np.unique(case.labels)) == {0, 1}
    everything = frozenset(f"label {number}" for number in range(1, COUNT + 1))
    with pytest.raises(InputError, match="40 structures are asked for, and 32 can be learned"):
        make_plan(check_dataset(replace(find_dataset(many), wanted_labels=everything)))


@pytest.mark.parametrize(
    ("counts", "pieces"),
    [((3, 3, 3, 3), False), ((13, 13, 12, 11), False), ((6, 9, 12), True), ((5, 7, 8, 40), True), ((2, 3, 4), False)],
)
def test_structures_that_some_scans_lack_are_no_pieces(counts, pieces: bool) -> None:
    sets = [frozenset(f"label {number}" for number in range(1, count + 1)) for count in counts]
    assert look_like_instances(sets) == pieces
    assert not look_like_instances([found | {"liver"} for found in sets])
    assert not look_like_instances([found - {"label 2"} for found in sets])


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """Six heads in a plain folder, two of which are segmented."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "images").mkdir(), (folder / "labels").mkdir()
    images, labels = cohort(6)
    affine = np.diag([SPACING, SPACING, SPACING, 1])
    for number, (image, label) in enumerate(zip(images, labels)):
        voxels = np.round(500 * image[0] + 500).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / "images" / f"h{number}.nii.gz")
        if number < 2:
            nibabel.save(nibabel.Nifti1Image(label.astype(np.uint8), affine), folder / "labels" / f"h{number}.nii.gz")
    return folder


def test_scans_are_aligned_on_the_way_and_segmented(heads: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quickly = ("--updates", "4", "--variations", "2", "--device", "cpu")
    assert main(["segment", str(heads), "-o", str(out), *quickly, "--structures", "label 1"]) == 0
    assert [label.name for label in load_network(out / "network.safetensors", "cpu").plan.labels] == ["label 1"]
    made = sorted(path.name for path in (out / "segmented" / "labels").iterdir())
    assert made == [f"h{number}.nii.gz" for number in range(2, 6)]
    assert json.loads((out / "segment.json").read_text("utf-8"))["structures"] == ["label 1"]


def test_pieces_that_a_dataset_json_names_are_one_structure_too(heads: Path, tmp_path: Path) -> None:
    """Aligned by a run that was told so."""
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "out"
    data.mkdir()
    for source, target in (("images", "imagesTr"), ("labels", "labelsTr")):
        (data / target).mkdir()
        for path in (heads / source).iterdir():
            name = path.name if source == "labels" else path.name.replace(".nii", "_0000.nii")
            shutil.copy(path, data / target / name)
    numbers = np.unique(np.asarray(nibabel.load(heads / "labels" / "h0.nii.gz").dataobj))[1:]
    told = {"channel_names": {"0": "T1"}, "labels": {"background": 0, **{f"part {n}": int(n) for n in numbers}}}
    (data / "dataset.json").write_text(json.dumps({**told, "numTraining": 6, "file_ending": ".nii.gz"}))
    assert main(["align", str(data), "-o", str(run), "--device", "cpu", "--one-structure", "head"]) == 0
    quickly = ("--updates", "2", "--variations", "0", "--device", "cpu", "--run", str(run))
    assert main(["segment", str(data), "-o", str(out), *quickly, "--structures", "head"]) == 2
    assert main(["segment", str(data), "-o", str(out), *quickly]) == 0
    assert [label.name for label in load_network(out / "network.safetensors", "cpu").plan.labels] == ["head"]


def test_a_training_holds_what_was_asked_for(heads: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--steps", "1", "--device", "cpu", "--alignment", "template", "--structures", "label 2")
    assert main(["train", str(heads), "-o", str(run), *options]) == 0
    assert [label.name for label in Plan.load(run / "plan.json").labels] == ["label 2"]
