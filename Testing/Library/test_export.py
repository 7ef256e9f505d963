"""Data sets and bundles for other programs: what they hold, and that no validation case leaks through a generator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.exchange.folder import write_folder
from GEDGANLib.exchange.splits import make_splits
from GEDGANLib.synthesis.membership import membership
from GEDGANLib.synthesis.model_file import load_model
from GEDGANLib.synthesis.synthesizer import Synthesizer
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.files import read_volume
from GEDGANLib.volumes.pipeline import load_working_cases


def test_only_cases_that_the_generator_has_not_seen_are_validated_on(trained_model, trained_folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["export", str(trained_model), "--to", "nnunet", "-n", "5", "-o", str(out)]
    assert main([*command, "--with-real", str(trained_folder), "--folds", "3"]) == 0
    assert "5 of them synthetic" in capsys.readouterr().out
    splits = json.loads((out / "splits_final.json").read_text())
    model = load_model(trained_model)
    cases = list(load_working_cases(find_dataset(trained_folder), model.plan))
    members = membership(model.about, cases)
    unseen = {cases[index].name for index in members.unseen}
    synthetic = {f"synthetic_0_{index:04d}" for index in range(5)}
    everything = {case.name for case in cases} | synthetic
    assert len(splits) == 3 and set().union(*(split["val"] for split in splits)) == unseen
    for split in splits:
        train, validation = set(split["train"]), set(split["val"])
        assert validation <= unseen and synthetic <= train
        assert not train & validation and train | validation == everything
        assert len(split["train"]) == len(train)
    described = json.loads((out / "dataset.json").read_text())
    assert described["numTraining"] == len(everything)
    for name in everything:
        image = nibabel.load(out / "imagesTr" / f"{name}_0000.nii.gz")
        label = nibabel.load(out / "labelsTr" / f"{name}.nii.gz")
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        assert set(np.unique(np.asarray(label.dataobj))) <= {0, 1, 2}
    # Real cases are written as they were.
    name = min(unseen)
    before, after = (nibabel.load(folder / "imagesTr" / f"{name}_0000.nii.gz") for folder in (trained_folder, out))
    np.testing.assert_array_equal(np.asarray(before.dataobj), np.asarray(after.dataobj))
    np.testing.assert_allclose(before.affine, after.affine, atol=1e-5)


def test_a_kept_label_is_renumbered_in_real_cases_too(trained_model, trained_folder, tmp_path):
    out = tmp_path / "out"
    command = ["export", str(trained_model), "--to", "nnunet", "-n", "1", "-o", str(out), "--labels", "white matter"]
    assert main([*command, "--with-real", str(trained_folder)]) == 0
    name = sorted((trained_folder / "labelsTr").iterdir())[0].name
    before, after = (nibabel.load(folder / "labelsTr" / name) for folder in (trained_folder, out))
    np.testing.assert_array_equal(np.asarray(before.dataobj) == 2, np.asarray(after.dataobj) == 1)


def test_a_split_needs_cases_that_the_generator_has_not_seen(trained_model, trained_folder, tmp_path, capsys):
    with pytest.raises(InputError, match=r"learned from 5 of the 6 labelled real cases: 1 are left"):
        make_splits([(f"{index}", index > 0) for index in range(6)], 5)
    one = make_splits([(f"{index}", index < 10) for index in range(20)], 1)
    assert len(one) == 1 and len(one[0]["val"]) == 2
    assert len(make_splits([("a", False), ("b", False), ("c", True)], 5)) == 2
    out = tmp_path / "out"
    command = ["export", str(trained_model), "--to", "folder", "-o", str(out), "--with-real", str(trained_folder)]
    assert main(command) == 2 and "for --to nnunet alone" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_plain_folder_holds_the_same_cases_in_either_format(trained_model, tmp_path, ending):
    out = tmp_path / "out"
    assert main(["export", str(trained_model), "--to", "folder", "-n", "2", "--format", ending, "-o", str(out)]) == 0
    case, _ = Synthesizer(load_model(trained_model)).draw(0, 1)
    image = read_volume(out / "images" / f"synthetic_0_0001{ending}")
    np.testing.assert_array_equal(image.array, np.round(case.image[0]))
    np.testing.assert_allclose(image.affine, case.affine, atol=1e-5)
    suffix = ".seg.nrrd" if ending == ".nrrd" else ending
    label = read_volume(out / "labels" / f"synthetic_0_0001{suffix}")
    np.testing.assert_array_equal(label.array, case.labels)
    if ending == ".nrrd":
        assert [(s.name, s.value) for s in label.segments] == [("grey matter", 1), ("white matter", 2)]
        np.testing.assert_allclose(label.segments[0].color, case.label_table[0].color, atol=1e-5)
    about = json.loads((out / "provenance.json").read_text())
    assert about["cases"]["synthetic_0_0001"]["synthetic"] is True
    # The library reads its own folder as a data set.
    assert main(["check", str(out)]) == 0


def test_what_a_bundle_cannot_hold_is_refused(trained_model, tmp_path, capsys):
    command = ["export", str(trained_model), "--to", "monai-bundle", "-o", str(tmp_path / "out")]
    assert main([*command, "--labels", "grey matter"]) == 2
    assert "--labels cannot be built into a bundle" in capsys.readouterr().err
    assert main([*command, "--truncation", "0.5"]) == 2 and not (tmp_path / "out").exists()


def test_real_cases_keep_their_fractions_and_the_set_says_that_it_holds_them(trained_model, trained_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(trained_folder, data)
    path = sorted((data / "imagesTr").iterdir())[-1]
    image = nibabel.load(path)
    fractions = np.asarray(image.dataobj, np.float32) / 7
    nibabel.save(nibabel.Nifti1Image(fractions, image.affine), path)
    out = tmp_path / "out"
    command = ["export", str(trained_model), "--to", "nnunet", "-n", "1", "-o", str(out), "--with-real", str(data)]
    assert main(command) == 0
    written = nibabel.load(out / "imagesTr" / path.name)
    np.testing.assert_allclose(np.asarray(written.dataobj), fractions, rtol=1e-6)
    described = json.loads((out / "dataset.json").read_text())
    assert described["description"].startswith("Real cases, and such named synthetic_")
    # Synthetic cases have the voxels of the scans, which nnU-Net takes the median of.
    made = nibabel.load(out / "imagesTr" / "synthetic_0_0000_0000.nii.gz")
    assert made.shape == image.shape


def test_an_interrupted_folder_says_where_its_cases_came_from(trained_model, tmp_path):
    cases = Synthesizer(load_model(trained_model)).cases(3)

    def interrupted():
        yield next(cases)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path, interrupted(), "made", "int16", ".nii.gz")
    assert list(json.loads((tmp_path / "provenance.json").read_text())["cases"]) == ["synthetic_0_0000"]


def test_the_bundle_runs_by_monai_alone_and_makes_what_the_generator_makes(trained_model, tmp_path):
    bundle = tmp_path / "bundle"
    assert main(["export", str(trained_model), "--to", "monai-bundle", "-o", str(bundle)]) == 0
    code = (
        "import sys; sys.modules['GEDGANLib'] = None\n"  # whoever runs a bundle need not have the library
        "from monai.bundle import run\n"
        "run(config_file='configs/inference.json', number=2, seed=3)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=bundle, check=True, capture_output=True, text=True)
    files = sorted(path.name for path in (bundle / "synthetic").iterdir())
    assert files == [f"synthetic_3_{i:04d}_{kind}.nii.gz" for i in range(2) for kind in ("image", "label")]
    import torch

    model = load_model(trained_model)
    latent = torch.randn(model.plan.networks.latent_size, generator=torch.Generator().manual_seed(3 * 1000003 + 1))
    case = Synthesizer(model).case(latent.numpy(), "again")
    image = nibabel.load(bundle / "synthetic" / "synthetic_3_0001_image.nii.gz")
    label = nibabel.load(bundle / "synthetic" / "synthetic_3_0001_label.nii.gz")
    np.testing.assert_allclose(image.affine, case.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.round(case.image[0]))
    assert (np.asarray(label.dataobj) == case.labels).mean() > 0.999


def test_the_bundles_metadata_name_what_monai_asks_for(trained_model, tmp_path):
    """The entries that MONAI's schema of 2024-07-25 requires, of their types."""
    bundle = tmp_path / "bundle"
    assert main(["export", str(trained_model), "--to", "monai-bundle", "-o", str(bundle)]) == 0
    described = json.loads((bundle / "configs" / "metadata.json").read_text())
    words = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description",
             "authors", "copyright")  # fmt: skip
    assert all(isinstance(described[word], str) and described[word] for word in words)
    assert isinstance(described["required_packages_version"], dict)
    for tensor in (
        described["network_data_format"]["inputs"]["latent"],
        described["network_data_format"]["outputs"]["pred"],
    ):
        assert isinstance(tensor["num_channels"], int) and isinstance(tensor["spatial_shape"], list)
        assert all(isinstance(number, (int, float)) for number in tensor["value_range"])
        assert isinstance(tensor["type"], str) and isinstance(tensor["format"], str) and tensor["dtype"] == "float32"
    assert "not patients" in described["intended_use"]
