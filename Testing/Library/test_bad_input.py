"""Bad input: one sentence that names file, fault and remedy, status 2, nothing written or lost, no traceback."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil

import nibabel
import numpy as np
import pytest
from starting import FIRST

from GEDGANLib.commands.main import main
from GEDGANLib.synthesis.model_file import save_model


def image(shape=(20, 20, 20), seed=0, dtype=np.int16, affine=None):
    voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    return nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine)


def labels(values=(0, 1, 2), shape=(20, 20, 20), dtype=np.uint8, affine=None):
    voxels = np.random.default_rng(1).choice(np.array(values, dtype=dtype), shape)
    return nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine)


@pytest.fixture
def data(tmp_path):
    """Three good cases with labels; tests then spoil one."""
    folder = tmp_path / "data"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(3):
        nibabel.save(image(seed=index), folder / "images" / f"case{index}.nii.gz")
        nibabel.save(labels(), folder / "labels" / f"case{index}.nii.gz")
    return folder


def spoil(data, kind):
    """Spoil ``data``; returns words that the message must have."""
    bad_image, bad_label = data / "images" / "case1.nii.gz", data / "labels" / "case1.nii.gz"
    if kind == "missing folder":
        shutil.rmtree(data)
        return ["no folder", "data"]
    if kind == "empty folder":
        shutil.rmtree(data)
        data.mkdir()
        return ["is empty"]
    if kind == "no readable image":
        shutil.rmtree(data)
        data.mkdir()
        (data / "notes.txt").write_text("hello")
        return ["no image that can be read"]
    if kind == "a file instead of a folder":
        shutil.rmtree(data)
        data.write_text("hello")
        return ["is a file"]
    if kind == "truncated gzip":
        bad_image.write_bytes(bad_image.read_bytes()[:3000])
        return ["case1.nii.gz", "cut off", "Copy it again"]
    if kind == "truncated inside a whole gzip":
        bad_image.write_bytes(gzip.compress(gzip.decompress(bad_image.read_bytes())[:5000]))
        return ["case1.nii.gz", "cut off"]
    if kind == "text file":
        bad_image.write_text("this is not an image")
        return ["case1.nii.gz", "not a readable image"]
    if kind == "empty file":
        bad_image.write_bytes(b"")
        return ["case1.nii.gz", "is empty"]
    if kind == "label on another grid":
        nibabel.save(labels(shape=(18, 20, 20)), bad_label)
        return ["labels", "case1.nii.gz", "different grids"]
    if kind == "label shifted":
        shifted = np.eye(4)
        shifted[0, 3] = 5
        nibabel.save(labels(affine=shifted), bad_label)
        return ["case1.nii.gz", "different grids"]
    if kind == "label with fractions":
        nibabel.save(labels((0, 0.5, 1), dtype=np.float32), bad_label)
        return ["case1.nii.gz", "fractions"]
    if kind == "negative label":
        nibabel.save(labels((0, -1, 1), dtype=np.int16), bad_label)
        return ["case1.nii.gz", "negative"]
    if kind == "4D series":
        nibabel.save(image((20, 20, 20, 5)), bad_image)
        return ["case1.nii.gz", "series of 5 volumes"]
    if kind == "NaN voxels":
        nibabel.save(with_value(np.nan), bad_image)
        return ["case1.nii.gz", "not a number or infinite"]
    if kind == "infinite voxels":
        nibabel.save(with_value(np.inf), bad_image)
        return ["case1.nii.gz", "not a number or infinite"]
    if kind == "constant image":
        nibabel.save(nibabel.Nifti1Image(np.full((20, 20, 20), 7, np.int16), np.eye(4)), bad_image)
        return ["case1.nii.gz", "constant"]
    if kind == "too small":
        nibabel.save(image((20, 20, 4)), bad_image)
        nibabel.save(labels(shape=(20, 20, 4)), bad_label)
        return ["case1.nii.gz", "20 x 20 x 4"]
    if kind == "one single case":
        for index in (0, 1):
            (data / "images" / f"case{index}.nii.gz").unlink()
        return ["one single case"]
    if kind == "mixed channel counts":
        (data / "images").rename(data / "imagesTr")
        (data / "labels").rename(data / "labelsTr")
        channels = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1, "b": 2}}
        (data / "dataset.json").write_text(json.dumps(channels))
        for index in range(3):
            old = data / "imagesTr" / f"case{index}.nii.gz"
            if index != 1:
                shutil.copy(old, old.with_name(f"case{index}_0001.nii.gz"))
            old.rename(old.with_name(f"case{index}_0000.nii.gz"))
        return ["case1", "1 channel", "2"]
    if kind == "mixed label sets":
        nibabel.save(labels((0, 7, 8)), bad_label)
        return ["case1.nii.gz", "label 7", "no other case"]
    if kind == "label without a name":
        (data / "images").rename(data / "imagesTr")
        (data / "labels").rename(data / "labelsTr")
        names = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "liver": 1}}
        (data / "dataset.json").write_text(json.dumps(names))
        return ["label 2", "dataset.json", "liver"]
    if kind == "damaged dataset.json":
        (data / "dataset.json").write_text("{")
        return ["dataset.json", "not a data set description"]
    raise AssertionError(kind)


def with_value(value):
    voxels = np.random.default_rng(0).standard_normal((20, 20, 20)).astype(np.float32)
    voxels[3, 4, 5] = value
    return nibabel.Nifti1Image(voxels, np.eye(4))


DATA_FAULTS = [
    "missing folder", "empty folder", "no readable image", "a file instead of a folder", "truncated gzip",
    "truncated inside a whole gzip", "text file", "empty file", "label on another grid", "label shifted",
    "label with fractions", "negative label", "4D series", "NaN voxels", "infinite voxels", "constant image",
    "too small", "one single case", "mixed channel counts", "mixed label sets", "label without a name",
    "damaged dataset.json",
]  # fmt: skip


def run(capsys, *arguments) -> str:
    """Run a command that must end with status 2; returns what it said."""
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    sentence = [line for line in said.splitlines() if line.startswith("gedgan: ")]
    assert len(sentence) == 1 and sentence[0].count(".") >= 2, said
    return sentence[0]


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize("kind", DATA_FAULTS)
def test_faulty_data(data, tmp_path, capsys, kind, command):
    words = spoil(data, kind)
    arguments = ["check", data] if command == "check" else [*FIRST, data, "-o", tmp_path / "run", "--steps", "1"]
    said = run(capsys, *arguments)
    for word in words:
        assert word in said, said
    assert not (tmp_path / "run").exists()


def test_good_data_passes(data, capsys):
    assert main(["check", str(data)]) == 0
    assert "look like segmentations" not in capsys.readouterr().err
    assert main(["check", str(data / "labels")]) == 0
    said = capsys.readouterr()
    assert "look like segmentations" in " ".join(said.err.split()) and "all good" not in said.out


def test_run_folder_is_taken(data, tmp_path, capsys):
    taken = tmp_path / "run"
    taken.mkdir()
    (taken / "run.json").write_text("{}")
    said = run(capsys, *FIRST, data, "-o", taken, "--steps", "1")
    assert "already holds another run" in said
    (taken / "run.json").rename(taken / "thesis.docx")
    assert "already holds files" in run(capsys, *FIRST, data, "-o", taken, "--steps", "1")
    assert [path.name for path in taken.iterdir()] == ["thesis.docx"]


@pytest.fixture
def model(tmp_path, small_plan):
    from GEDGANLib.networks.build import build_generator

    path = tmp_path / "model.safetensors"
    save_model(path, build_generator(small_plan), small_plan, {})
    return path


def test_output_folder_is_taken(model, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "already holds files" in run(capsys, "synthesize", model, "-o", out)
    assert (out / "mine.txt").read_text() == "mine"


def test_write_protected_output(tmp_path, model, capsys, monkeypatch):
    protected = tmp_path / "protected"
    protected.mkdir()
    if os.getuid() != 0:
        protected.chmod(0o555)
        assert "write-protected" in run(capsys, "synthesize", model, "-o", protected / "out")
    else:  # nothing is protected from root: let the system say so in its stead
        import pathlib

        def refuse(self, *arguments, **keywords):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
        assert "write-protected" in run(capsys, "synthesize", model, "-o", protected / "out")
    assert not list(protected.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
def test_full_disk_leaves_what_was_there(tmp_path):
    """A real write that the system refuses for want of room: the old file stays."""
    from GEDGANLib.errors import InputError
    from GEDGANLib.jobs.writing import beside

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(InputError, match="the disk is full"), beside(path) as partial:
        os.symlink("/dev/full", partial)
        with open(partial, "wb", buffering=0) as file:
            file.write(b"new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


MODEL_FAULTS = {
    "missing": ("cannot be read", "Check the path"),
    "a folder": ("is a folder", "model.safetensors"),
    "truncated": ("is cut off", "Copy it again"),
    "truncated to a few bytes": ("is cut off", "Copy it again"),
    "a pickle": ("is a pickle", "not opened"),
    "a torch file": ("is a pickle", "not opened"),
    "from a newer version": ("newer GED-GAN", "Update GED-GAN"),
    "a newer plan inside": ("newer GED-GAN", "Update GED-GAN"),
    "another safetensors file": ("not a model of GED-GAN", "Choose the model"),
    "weights of another plan": ("do not fit its own plan", "Copy the file again"),
    "text": ("is not a model of GED-GAN", "copy it again"),
}


@pytest.mark.parametrize("kind", MODEL_FAULTS)
def test_faulty_model(model, tmp_path, capsys, kind):
    import torch
    from safetensors.torch import load_file, save_file

    with open(model, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))["__metadata__"]
    tensors = load_file(model)
    if kind == "missing":
        model.unlink()
    elif kind == "a folder":
        model = model.parent
    elif kind == "truncated":
        model.write_bytes(model.read_bytes()[:-5000])
    elif kind == "truncated to a few bytes":
        model.write_bytes(model.read_bytes()[:10])
    elif kind == "a pickle":
        model.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    elif kind == "a torch file":
        torch.save({"weights": torch.zeros(3)}, model)
    elif kind == "from a newer version":
        save_file(tensors, model, {**header, "format_version": "99"})
    elif kind == "a newer plan inside":
        plan = {**json.loads(header["plan"]), "format_version": 99}
        save_file(tensors, model, {**header, "plan": json.dumps(plan)})
    elif kind == "another safetensors file":
        save_file(tensors, model)
    elif kind == "weights of another plan":
        save_file({name: tensor[..., :1].contiguous() for name, tensor in tensors.items()}, model, header)
    elif kind == "text":
        model.write_text("I am not a model, I am a text of some length.")
    said = run(capsys, "synthesize", model, "-o", tmp_path / "out")
    for words in MODEL_FAULTS[kind]:
        assert words in said, said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "not JSON"), ("[]", "not a plan"), ("{}", "not a plan"), ('{"format_version": 1}', "not a complete plan")],
)
def test_faulty_plan(data, tmp_path, capsys, content, words):
    plan = tmp_path / "plan.json"
    plan.write_text(content)
    assert words in run(capsys, "train", data, "--plan", plan, "-o", tmp_path / "run", "--steps", "1")


def test_device_that_is_not_there(data, tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    said = run(capsys, *FIRST, data, "-o", tmp_path / "run", "--steps", "1", "--device", "cuda")
    assert "cuda" in said and "auto" in said


def test_all_faults_are_named_at_once(data, capsys):
    spoil(data, "empty file")
    nibabel.save(nibabel.Nifti1Image(np.full((20, 20, 20), 7, np.int16), np.eye(4)), data / "images" / "case2.nii.gz")
    assert main(["check", str(data)]) == 2
    said = capsys.readouterr().err
    assert "case1.nii.gz is empty" in said and "case2.nii.gz is constant" in said and "1 more" in said


def test_files_that_exist_are_not_overwritten(data, model, tmp_path, capsys):
    mine = {name: tmp_path / name for name in ("plan.json", "study.mrb", "picture.png")}
    for path in mine.values():
        path.write_text("mine")
    commands = (
        ["plan", data, "-o", mine["plan.json"]],
        ["synthesize", model, "-o", tmp_path / "out", "--scene", mine["study.mrb"]],
        ["render", mine["study.mrb"], "-o", mine["picture.png"]],
    )
    for command in commands:
        assert "exists already" in run(capsys, *command)
    assert all(path.read_text() == "mine" for path in mine.values())


@pytest.mark.parametrize(
    "options", [("--beside", "nowhere"), ("--scene", "scene.zip"), ("--scene", "/proc/none/a.mrb")]
)
def test_synthesize_checks_everything_before_it_writes(model, tmp_path, capsys, options):
    run(capsys, "synthesize", model, "-n", "1", "-o", tmp_path / "out", *options)
    assert not list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else True


def test_synthesis_does_without_training_data_that_are_gone(model, tmp_path, capsys):
    """They may have been spoiled meanwhile."""
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "scan.nii.gz").write_text("no longer a scan")
    command = ["synthesize", str(model), "-n", "1", "-o", str(tmp_path / "second"), "--beside", str(tmp_path / "gone")]
    assert main(command) == 0
    assert "shows no real cases" in capsys.readouterr().err
    assert (tmp_path / "second" / "contact-sheet.png").exists()


def test_too_little_memory_is_said_in_words(data, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    assert main(["plan", str(data), "-o", str(plan)]) == 0
    values = json.loads(plan.read_text())
    values["training"]["batch"] = 10**8
    plan.write_text(json.dumps(values))
    said = run(capsys, "train", data, "--plan", plan, "-o", tmp_path / "run", "--steps", "1")
    assert "The plan needs about" in said and "smaller" in said
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_is_said_in_words(data, tmp_path, capsys, monkeypatch):
    from GEDGANLib.training.trainer import Trainer

    def allocate(*arguments):
        return bytearray(2**62)

    monkeypatch.setattr(Trainer, "step", allocate)
    said = run(capsys, *FIRST, data, "-o", tmp_path / "run", "--steps", "1")
    assert "memory of this machine is not enough" in said


def test_a_fault_of_the_program_is_said_in_words_too(data, capsys, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("GEDGANLib.volumes.dataset.find_dataset", fail)
    assert main(["check", str(data)]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and "fault of GED-GAN" in said and "ZeroDivisionError" in said
    details = said.split("with the file ")[1].split()[0].rstrip(".")
    with open(details) as file:
        assert "division by zero" in file.read()
    os.unlink(details)
