"""Cases on the working grid in a folder: as they would be without it, and made anew when files or plan change."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from starting import FIRST

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.volumes import prepared
from GEDGANLib.volumes.classes import read_classes
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.prepared import prepare_cases


def test_they_are_the_cases(data, small_plan, small_cases, tmp_path):
    made = prepare_cases(find_dataset(data), small_plan, tmp_path / "prepared")
    assert len(made) == len(small_cases)
    for one, other in zip(made, small_cases):
        assert one.name == other.name and one.source_shape == other.source_shape
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.affine, other.affine)


def test_they_are_made_once_and_anew_when_anything_changes(data, small_plan, tmp_path):
    folder = tmp_path / "prepared"
    read = []
    for expected, change in (
        (6, lambda: None),
        (0, lambda: None),
        (6, lambda: os.utime(next((data / "imagesTr").iterdir()), (1, 1))),
        (5, lambda: next((data / "imagesTr").iterdir()).unlink()),
        (5, lambda: (folder / "labels.npy").unlink()),
        (5, lambda: (folder / "cases.json").write_text("{")),
    ):
        change()
        read.clear()
        cases = prepare_cases(find_dataset(data), small_plan, folder, lambda done, total, name: read.append(name))
        assert len([name for name in read if name]) == expected
    moved = replace(small_plan, grid=replace(small_plan.grid, spacing=(11.0, 11.0, 11.0)))
    assert prepare_cases(find_dataset(data), moved, folder).key != cases.key
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".partial")] == []


def test_a_disk_without_room_is_told_before_the_work(data, small_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(InputError, match="GB are left in"):
        prepare_cases(find_dataset(data), small_plan, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_data_that_fail_leave_no_run_behind(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["plan", str(data), "-o", str(tmp_path / "plan.json")]) == 0
    (data / "dataset.json").write_text(
        (data / "dataset.json").read_text().replace('"channel_names": {', '"channel_names": {"1": "T2", ')
    )
    for path in list((data / "imagesTr").iterdir()):
        shutil.copy(path, path.with_name(path.name.replace("_0000", "_0001")))
    assert main(["train", str(data), "-o", str(run), "--plan", str(tmp_path / "plan.json"), "--steps", "1"]) == 2
    assert "2 channel(s), the plan 1" in capsys.readouterr().err
    assert not run.exists()


def write_participants(folder, rows):
    (folder / "participants.tsv").write_text("\n".join("\t".join(row) for row in rows) + "\n")


def test_classes_are_read_and_what_is_wrong_is_said(data):
    names = [case.name for case in find_dataset(data).cases]
    assert read_classes(data, names) == {}
    with pytest.raises(InputError, match=r"no participants.tsv"):
        read_classes(data, names, "sex")
    write_participants(data, [("participant_id", "age", "sex"), *((f"sub-{name}", "70", "F") for name in names)])
    assert read_classes(data, names) == {}
    assert read_classes(data, names, "sex") == dict.fromkeys(names, "F")
    with pytest.raises(InputError, match="no column called group; it has participant_id, age, sex"):
        read_classes(data, names, "group")
    write_participants(data, [("participant_id", "class"), ("strange", "a")])
    with pytest.raises(InputError, match="need the same names"):
        read_classes(data, names)
    many = [f"case{index}" for index in range(20)]
    write_participants(data, [("participant_id", "class"), *((name, name) for name in many)])
    with pytest.raises(InputError, match="20 different values"):
        read_classes(data, many)


def test_classes_from_the_table_to_synthesized_cases(data, tmp_path, capsys):
    import json

    import torch

    from GEDGANLib.synthesis.model_file import load_model
    from GEDGANLib.synthesis.synthesizer import Synthesizer

    names = [case.name for case in find_dataset(data).cases]
    kinds = ["young", "old", "old", "old", "n/a", "old"]
    write_participants(data, [("participant_id", "class"), *zip(names, kinds)])
    run = tmp_path / "run"
    assert main(["check", str(data)]) == 0
    assert "not known 1, old 4, young 1" in capsys.readouterr().out
    assert main([*FIRST, str(data), "-o", str(run), "--steps", "3"]) == 0
    plan = json.loads((run / "plan.json").read_text())
    assert plan["classes"] == ["old", "young"] and plan["training"]["balance"] == 0.5
    assert plan["data"]["classes"] == {"old": 4, "young": 1}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert sum(line["classes"][name]["cases"] for line in lines for name in ("old", "young")) > 0
    model = load_model(run / "model.safetensors", with_critic=True)
    # Far enough from the start that classes differ.
    model.generator.latent_to_basis.weight.data[:, -2:] += 3.0 * torch.tensor([[1.0, -1.0]])
    model.generator.output.weight.data *= 30
    made = {kind: Synthesizer(model).case(np.zeros(128, np.float32), "case", None, kind) for kind in ("young", "old")}
    assert np.abs(made["young"].image - made["old"].image).max() > 0 and made["old"].provenance["class"] == "old"
    drawn = [case.class_name for case in Synthesizer(model).cases(40)]
    assert 22 <= drawn.count("old") <= 39 and drawn.count("young") >= 1
    out = ["synthesize", str(run / "model.safetensors"), "-n", "1", "-o", str(tmp_path / "out")]
    assert main([*out, "--class", "middle"]) == 2
    assert "it knows old, young" in capsys.readouterr().err
    assert main([*out, "--class", "young"]) == 0
