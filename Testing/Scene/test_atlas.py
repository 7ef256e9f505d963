"""An atlas on disk: other programs put the scans where the template is, and points there and back."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from GEDGANLib.commands.main import main
from GEDGANLib.exchange.nnunet import write_dataset
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.files import read_volume

NAMES = ("variation_0000", "variation_0003")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Six aligned cases of the cohort, one of them without segmentation."""
    folder = tmp_path_factory.mktemp("for-atlas")
    cases = [make_case(index, 0, (16, 24, 16), 9.0) for index in range(6)]
    write_dataset(folder / "data", iter(cases), "cohort", whole_numbers="int16")
    sorted((folder / "data" / "labelsTr").iterdir())[-1].unlink()
    rows = ["participant_id\tage", *(f"{case.name}\t{30 + index}" for index, case in enumerate(cases[:-1]))]
    (folder / "data" / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert main(["align", str(folder / "data"), "-o", str(folder / "run"), "--device", "cpu"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def atlas(run) -> Path:
    out = run.parent / "atlas"
    assert main(["atlas", str(run), "-o", str(out)]) == 0
    return out


def field(path: Path) -> SimpleITK.Transform:
    return SimpleITK.DisplacementFieldTransform(SimpleITK.ReadImage(str(path), SimpleITK.sitkVectorFloat64))


def scan_of(run: Path, name: str) -> SimpleITK.Image:
    path = next((run.parent / "data" / "imagesTr").glob(f"{name}*"))
    return SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat32)


def points_in(image: SimpleITK.Image, count: int) -> list[tuple[float, ...]]:
    random = np.random.default_rng(0)
    indices = random.uniform(0.2, 0.8, (count, 3)) * (np.array(image.GetSize()) - 1)
    return [image.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices]


def test_everything_is_there_and_has_the_names_of_labels_and_cases(atlas):
    there = {path.name for path in atlas.iterdir()}
    assert {"template.nii.gz", "template-segmentation.seg.nrrd", "scores.csv", "volumes.csv"} <= there
    shares = [read_volume(path).array for path in sorted(atlas.glob("probability_*.nii.gz"))]
    assert len(shares) == 2 and min(share.min() for share in shares) >= 0
    assert max(share.max() for share in shares) == pytest.approx(1, abs=1e-3)
    assert len(list((atlas / "transforms").iterdir())) == 12 and len(list((atlas / "jacobians").iterdir())) == 6


def test_scans_lie_on_the_template_when_itk_resamples_them(run, atlas):
    template = SimpleITK.ReadImage(str(atlas / "template.nii.gz"), SimpleITK.sitkFloat32)
    wanted = SimpleITK.GetArrayFromImage(template)
    inside = wanted > wanted.mean()
    for name in NAMES:
        scan = scan_of(run, name)
        alike = []
        for transform in (SimpleITK.Transform(), field(atlas / "transforms" / f"{name}_to-template.nii.gz")):
            moved = SimpleITK.Resample(scan, template, transform, SimpleITK.sitkLinear, 0.0)
            alike.append(np.corrcoef(SimpleITK.GetArrayFromImage(moved)[inside], wanted[inside])[0, 1])
        assert alike[1] > 0.85 and alike[1] > alike[0] + 0.05, (name, alike)


def test_points_go_there_and_back(run, atlas):
    for name in NAMES:
        there, back = (field(atlas / "transforms" / f"{name}_{way}-template.nii.gz") for way in ("from", "to"))
        missed = [
            np.linalg.norm(np.subtract(back.TransformPoint(there.TransformPoint(point)), point))
            for point in points_in(scan_of(run, name), 100)
        ]
        assert (
            max(missed)
            < 0.1
            < max(
                np.linalg.norm(np.subtract(there.TransformPoint(point), point))
                for point in points_in(scan_of(run, name), 9)
            )
        )


def test_jacobians_say_how_much_larger_a_case_is(run, atlas):
    """Where the log-Jacobian is summed up over the template, the volume of the case comes out."""
    name = NAMES[0]
    determinants = np.exp(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(atlas / "jacobians" / f"{name}.nii.gz"))))
    assert determinants.min() > 0
    transform = field(atlas / "transforms" / f"{name}_to-template.nii.gz")
    image = SimpleITK.ReadImage(str(atlas / "jacobians" / f"{name}.nii.gz"))
    index = np.array(image.GetSize()) // 2
    edges = [
        np.array(transform.TransformPoint(image.TransformContinuousIndexToPhysicalPoint((index + step).tolist())))
        - np.array(transform.TransformPoint(image.TransformContinuousIndexToPhysicalPoint((index - step).tolist())))
        for step in 0.5 * np.eye(3)
    ]
    expected = abs(np.linalg.det(edges)) / np.prod(image.GetSpacing())
    assert determinants[tuple(index[::-1])] == pytest.approx(expected, rel=0.05)


def test_tables_join_what_is_known_with_what_was_measured(atlas):
    with open(atlas / "scores.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [f"variation_{index:04d}" for index in range(6)]
    assert rows[1]["age"] == "31" and rows[5]["age"] == "" and {"z1", "z4", "similarity", "held out"} <= rows[0].keys()
    scores = np.array([[float(row[f"z{number}"]) for number in (1, 2, 3)] for row in rows if row["held out"] == "no"])
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(scores.std(0, ddof=1), 1, atol=1e-3)
    with open(atlas / "volumes.csv", encoding="utf-8", newline="") as file:
        volumes = list(csv.DictReader(file))
    assert [row["segmentation"] for row in volumes] == ["own"] * 5 + ["carried from the template"]
    grey = [float(row["grey matter (ml)"]) for row in volumes]
    assert 0.7 * np.mean(grey) < grey[5] < 1.3 * np.mean(grey)


def test_slicers_scene_carries_a_point_there_and_back(run, atlas, application):
    """The real MRML: transforms read by their storage node, a point harder than identity under them."""
    import slicer

    def node_of(way: str):
        path = str(atlas / "transforms" / f"{NAMES[0]}_{way}-template.nii.gz")
        storage = slicer.vtkMRMLTransformStorageNode()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
        storage.SetFileName(path)
        assert storage.ReadData(node)
        return node

    # ITK's transforms lead from where one resamples to; Slicer's "to parent" is the other way round.
    onto, off = node_of("to"), node_of("from")
    lps = field(atlas / "transforms" / f"{NAMES[0]}_from-template.nii.gz")
    for point in points_in(scan_of(run, NAMES[0]), 20):
        ras = np.array(point) * (-1, -1, 1)
        on_template = np.array(onto.GetTransformToParent().TransformPoint(ras))
        expected = np.array(lps.TransformPoint(point)) * (-1, -1, 1)
        assert np.linalg.norm(on_template - expected) < 0.1
        assert np.linalg.norm(np.array(off.GetTransformToParent().TransformPoint(on_template)) - ras) < 0.1


def test_a_folder_that_is_not_aligned_is_told(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert main(["atlas", str(tmp_path / "run"), "-o", str(tmp_path / "out")]) == 2
    assert "not aligned yet" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_scans_that_were_brought_onto_a_template_have_an_atlas_too(run, tmp_path):
    new, later = tmp_path / "new", tmp_path / "later"
    write_dataset(new, (make_case(index, 0, (16, 24, 16), 9.0) for index in (30, 31)), "more", whole_numbers="int16")
    assert main(["align", str(new), "--onto", str(run), "-o", str(later), "--device", "cpu"]) == 0
    assert main(["atlas", str(later), "-o", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "scores.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(abs(float(row["z1"])) < 8 for row in rows)
