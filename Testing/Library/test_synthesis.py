"""Model file and synthesizer: the same seed gives the same bytes, and the file says what it holds."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from safetensors import safe_open

from GEDGANLib.commands.main import main
from GEDGANLib.networks.build import build_generator
from GEDGANLib.synthesis.model_file import load_model, save_model
from GEDGANLib.synthesis.synthesizer import Synthesizer


@pytest.fixture
def model_path(tmp_path, small_plan):
    import torch

    torch.manual_seed(0)
    generator = build_generator(small_plan)
    for weight in generator.parameters():  # an untrained one has empty residual branches
        torch.nn.init.normal_(weight, std=0.2)
    path = tmp_path / "model.safetensors"
    save_model(path, generator, small_plan, {"description": small_plan.description, "steps": 0})
    return path


def test_the_header_is_readable_by_any_program(model_path, small_plan):
    with safe_open(model_path, framework="np") as file:
        header = file.metadata()
    assert header["format"] == "GED-GAN model"
    assert json.loads(header["plan"])["labels"][0]["name"] == "grey matter"
    assert json.loads(header["about"])["library_version"]


def test_loading_gives_back_plan_and_weights(model_path, small_plan):
    model = load_model(model_path)
    assert model.plan == small_plan


def test_case_does_not_depend_on_how_many_are_made(model_path):
    synthesizer = Synthesizer(load_model(model_path))
    many = list(synthesizer.cases(4, seed=3))
    alone = next(synthesizer.cases(1, seed=3, first=2))
    np.testing.assert_array_equal(many[2].image, alone.image)
    assert many[2].name == alone.name
    assert len({case.image.tobytes() for case in many}) == 4


def test_a_case_is_in_the_units_and_place_of_the_data(model_path, small_plan):
    case = next(Synthesizer(load_model(model_path)).cases(1))
    low, high = small_plan.channels[0].typical
    assert low - 1e-3 <= case.image.min() < case.image.max() <= high * (1 + 1e-6) + 1e-3
    assert set(np.unique(case.labels)) <= {0, 1, 2}
    np.testing.assert_array_equal(case.affine, small_plan.grid.affine)
    assert "Synthetic" in case.description and "not a patient" in case.description
    assert case.provenance["seed"] == 0 and case.provenance["index"] == 0 and case.provenance["synthetic"] is True


def test_same_seed_same_files(model_path, tmp_path):
    for name, seed in (("a", "4"), ("b", "4"), ("c", "5")):
        assert main(["synthesize", str(model_path), "-n", "2", "-o", str(tmp_path / name), "--seed", seed]) == 0
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.nii.gz"))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    other = next((tmp_path / "c").rglob("imagesTr/*.nii.gz"))
    assert other.read_bytes() != (tmp_path / "a" / files[0]).read_bytes()


def test_what_is_written_is_a_data_set(model_path, tmp_path, capsys):
    """An nnU-Net data set that the library itself, and so training, accepts; each file says that it is synthetic."""
    out = tmp_path / "out"
    assert main(["synthesize", str(model_path), "-n", "3", "-o", str(out)]) == 0
    described = json.loads((out / "dataset.json").read_text())
    assert described["numTraining"] == 3 and described["file_ending"] == ".nii.gz"
    assert described["labels"] == {"background": 0, "grey matter": 1, "white matter": 2}
    image = nibabel.load(out / "imagesTr" / "synthetic_0_0000_0000.nii.gz")
    label = nibabel.load(out / "labelsTr" / "synthetic_0_0000.nii.gz")
    np.testing.assert_array_equal(image.affine, label.affine)
    assert b"Synthetic" in image.header["descrip"].tobytes()
    assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8
    assert set(json.loads((out / "provenance.json").read_text())) == {f"synthetic_0_{i:04d}" for i in range(3)}
    assert (out / "contact-sheet.png").stat().st_size > 1000
    assert main(["check", str(out)]) == 0
    assert "3 cases, 3 with segmentation" in " ".join(capsys.readouterr().out.split())
