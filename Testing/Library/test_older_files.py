"""Models and run folders that earlier versions wrote can still be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from GEDGANLib.commands.main import main
from GEDGANLib.synthesis.model_file import load_model

OLDER = sorted((Path(__file__).parent / "resources").glob("run-of-*"))
"""Folders with the ``data`` and the ``run`` of a training of the commit in their name, two steps long."""


@pytest.fixture(params=OLDER, ids=lambda folder: folder.name)
def older(request, tmp_path) -> Path:
    folder = tmp_path / "older"
    shutil.copytree(request.param, folder)
    return folder


def test_there_are_some() -> None:
    assert OLDER
    assert sum(path.stat().st_size for folder in OLDER for path in folder.rglob("*") if path.is_file()) < 200_000


def test_a_model_makes_cases(older, tmp_path) -> None:
    model = older / "run" / "model.safetensors"
    assert load_model(model).about["steps"] == 2
    assert main(["synthesize", str(model), "-n", "2", "-o", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert len(list((tmp_path / "out" / "imagesTr").iterdir())) == 2


def test_a_run_goes_on_from_its_checkpoint(older) -> None:
    arguments = ["train", str(older / "data"), "-o", str(older / "run"), "--resume", "--steps", "4", "--device", "cpu"]
    # Rounding differs from one processor to another, and so do the digests of the cases.
    assert main([*arguments, "--accept-changed-data"]) == 0
    steps = [json.loads(line)["step"] for line in (older / "run" / "log.jsonl").read_text().splitlines()]
    assert steps[0] <= 2 and steps[-1] == 4
    assert load_model(older / "run" / "model.safetensors").about["steps"] == 4
