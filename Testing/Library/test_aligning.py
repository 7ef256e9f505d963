"""``gedgan align`` from files to a run folder: stopped, killed, gone on with, cases left out, scans that come later."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from alignment_sets import MEANINGFUL, MEANINGLESS, OFTEN, SPACING
from hurried import in_earnest
from starting import GO, popen

from GEDGANLib.alignment import job
from GEDGANLib.alignment.job import Aligned
from GEDGANLib.alignment.runs import RESULT, STOP
from GEDGANLib.alignment.verdict import measure
from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError, StoppedOnRequest
from GEDGANLib.exchange.nnunet import write_dataset
from GEDGANLib.jobs.checkpoint import checkpoints
from GEDGANLib.planning.plan import Plan
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.geometry import field_of_view


def start(data: Path, run: Path, *options: str, code: str = "") -> Any:
    command = [sys.executable, "-c", OFTEN + code + GO, "align", str(data), "-o", str(run), "--events", "-", *options]
    return popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(worker: Any) -> tuple[int, list[dict]]:
    said, errors = worker.communicate(timeout=200)
    assert "Traceback" not in errors, errors
    return worker.returncode, [json.loads(line) for line in said.splitlines()]


def digest(run: Path) -> str:
    parts = ((run / name).read_bytes() for name in (RESULT, "model.safetensors"))
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven cases of the cohort, two of them without segmentation."""
    folder = tmp_path_factory.mktemp("to-align") / "data"
    write_dataset(folder, (make_case(i, 0, (16, 24, 16), 9.0) for i in range(7)), "cohort", whole_numbers="int16")
    for path in sorted((folder / "labelsTr").iterdir())[-2:]:
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def aligned(data, tmp_path_factory) -> Path:
    """Their run."""
    run = tmp_path_factory.mktemp("aligned") / "run"
    status, _ = finish(start(data, run))
    assert status == 0
    return run


def test_a_run_holds_the_template_the_transformations_and_the_sheet(aligned):
    found = Aligned.load(aligned / RESULT)
    plan = Plan.load(aligned / "plan.json")
    assert plan.alignment.kind == "template" and "correlation" in " ".join(plan.reasons)
    assert len(found.names) == 7 and len(found.moved) == 7 and float(found.template.labelled.max()) == 5
    assert found.template.image.shape == (1, *plan.grid.shape)
    labels = found.template.labels
    assert labels.shape == (3, *plan.grid.shape)
    torch.testing.assert_close(labels.sum(0), torch.ones(plan.grid.shape), atol=2e-3, rtol=0)
    dice = [quality.dice for quality in found.qualities]
    assert dice[-2:] == [None, None] and min(dice[:5]) > 0.7
    assert min(quality.smallest_jacobian for quality in found.qualities) > 0
    assert (aligned / "aligned.png").stat().st_size > 10_000
    assert sorted(path.name for path in aligned.iterdir()) == [
        ".lock", "align.json", "aligned.csv", "aligned.png", "alignment.safetensors", "model.directions.json",
        "model.safetensors", "plan.json", "prepared",
    ]  # fmt: skip


def test_events_tell_of_every_stage(data, aligned, tmp_path):
    status, events = finish(start(data, tmp_path / "run"))
    assert status == 0 and events[-1]["event"] == "finished"
    stages = {event.get("stage") for event in events if event["event"] == "progress"}
    assert {"reading the scans", "aligning the scans", "making the template", "judging how each lies on it"} <= stages
    assert digest(tmp_path / "run") == digest(aligned)  # the same bits again
    said = " ".join(event["message"] for event in events if event["event"] == "said")
    assert "cases lie on the template" in said and "The least alike:" in said and "--exclude" in said


def test_a_stop_keeps_all_and_it_goes_on_to_the_same_bits(data, aligned, tmp_path):
    run = tmp_path / "run"
    worker = start(data, run)
    for line in worker.stdout:
        if '"aligning the scans"' in line:
            (run / STOP).touch()
            break
    status, events = finish(worker)
    assert status == 3 and events[-1]["event"] == "stopped" and checkpoints(run)
    assert main(["align", str(data), "-o", str(run)]) == 2  # without --resume
    status, events = finish(start(data, run, "--resume"))
    assert status == 0, events
    assert digest(run) == digest(aligned)


@pytest.mark.parametrize("count", [3, pytest.param(10, marks=pytest.mark.long)])
def test_kills_at_random_instants_change_nothing(data, aligned, tmp_path, count):
    """The first one where it waits for it in the middle of its work, the others wherever they find it."""
    go, chance, kills, number = tmp_path / "go", random.Random(count), 0, 0
    waiting = f"""
import os, sys, time
from GEDGANLib.alignment.registration import Registration
original = Registration.step
def step(registration):
    begun = os.path.join(sys.argv[sys.argv.index("-o") + 1], "align.json")  # the trial comes before
    while registration.done >= 9 and os.path.exists(begun) and not os.path.exists({str(go)!r}):
        time.sleep(0.01)
    return original(registration)
Registration.step = step
"""
    run = tmp_path / "run0"
    while kills < count:
        worker = start(data, run, *(["--resume"] if (run / "align.json").exists() else []), code=waiting)
        while not kills and not checkpoints(run):
            assert worker.poll() is None, worker.stderr.read()
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 2.0) if kills else 0.0)
        if worker.poll() is not None:  # it was done before: the next ones find another run
            status, events = finish(worker)
            assert status == 0 or "is aligned already" in events[-1]["message"], events
            assert digest(run) == digest(aligned)
            number += 1
            run = tmp_path / f"run{number}"
            continue
        worker.kill()
        worker.communicate()
        kills += 1
        go.touch()
    if not (run / RESULT).exists():
        status, _ = finish(start(data, run, *(["--resume"] if (run / "align.json").exists() else [])))
        assert status == 0
    assert main(["align", str(data), "-o", str(run), "--resume"]) == 2  # aligned; what a kill left is gone now
    assert digest(run) == digest(aligned)
    assert {path.name for path in run.iterdir()} == {path.name for path in aligned.iterdir()}


class Held(NamedTuple):
    """A case as alignment needs it."""

    name: str
    image: np.ndarray
    labels: np.ndarray | None
    field_of_view: np.ndarray


def brains(count: int, channels: int = 1) -> list[Held]:
    made = [make_case(index, 0, (16, 20, 16), 10.0) for index in range(count)]
    whole = np.array([[-0.5, side - 0.5] for side in (16, 20, 16)])
    images = [np.repeat(case.image / 600 - 1, channels, 0).clip(-1, 1).astype(np.float32) for case in made]
    return [Held(case.name, image, case.labels, whole) for case, image in zip(made, images)]


EXTENT = (160.0, 200.0, 160.0)


def test_held_out_cases_take_no_part_in_the_template_and_a_kill_between_the_stages_changes_nothing(
    tmp_path, monkeypatch
):
    cases = brains(8)
    (tmp_path / "whole").mkdir()
    whole = job.Job(tmp_path / "whole").align(cases, EXTENT, [1, 5], 2)
    assert whole.held_out == (cases[1].name, cases[5].name)
    without = [case for index, case in enumerate(cases) if index not in (1, 5)]
    (tmp_path / "without").mkdir()
    alone = job.Job(tmp_path / "without").align(without, EXTENT, [], 2)
    torch.testing.assert_close(alone.template.image, whole.template.image)
    assert min(quality.dice for quality in whole.qualities) > 0.6
    run = tmp_path / "killed"
    run.mkdir()
    monkeypatch.setattr(job, "CHECKPOINT_SECONDS", 0.0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(job, "remove_after", lambda *arguments: 1 / 0)  # the result of the first stage is kept, no more
        job.Job(run).align(cases, EXTENT, [1, 5], 2)
    assert (run / ".template.safetensors").exists() and checkpoints(run)
    again = job.Job(run).align(cases, EXTENT, [1, 5], 2)
    assert torch.equal(again.moved.velocities, whole.moved.velocities)
    assert torch.equal(again.moved.generators, whole.moved.generators)


def test_a_stop_while_scans_are_brought_onto_the_template_goes_on_from_there(tmp_path):
    cases, told = brains(8), []
    (tmp_path / "whole").mkdir(), (tmp_path / "stopped").mkdir()
    whole = job.Job(tmp_path / "whole").align(cases, EXTENT, [1, 5], 2)

    def show(words):
        return lambda done, total, name: told.append((words, done))

    def begun() -> bool:
        return told[-1][0].startswith("bringing") and told[-1][1] >= 5

    with pytest.raises(StoppedOnRequest, match="Stopped after 5 of"):
        job.Job(tmp_path / "stopped", stop=begun, show=show).align(cases, EXTENT, [1, 5], 2)
    told.clear()
    again = job.Job(tmp_path / "stopped", show=show).align(cases, EXTENT, [1, 5], 2)
    registering = [(words, done) for words, done in told if words.startswith(("aligning", "bringing"))]
    assert registering[0] == ("bringing scans onto the template", 6)
    assert torch.equal(again.moved.velocities, whole.moved.velocities)


def test_a_stop_between_cases_is_heard(tmp_path):
    asked = []

    def show(words):
        return lambda done, total, name: asked.append(words) if "judging" in words and done == 1 else None

    work = job.Job(tmp_path, stop=lambda: bool(asked), show=show)
    with pytest.raises(StoppedOnRequest, match="judging"):
        work.align(brains(4), EXTENT, [], 2)
    asked.clear()
    assert len(job.Job(tmp_path).align(brains(4), EXTENT, [], 2).names) == 4


def test_what_no_other_case_saw_is_not_carried_by_the_case_itself(tmp_path):
    """Two channels; a label that one case alone has, in a part that it alone saw."""
    cases = brains(4, channels=2)
    lower = np.array([[-0.5, 15.5], [-0.5, 19.5], [-0.5, 8.5]])
    seen_alone = np.zeros_like(cases[0].labels)
    seen_alone[4:12, 4:16, 11:14] = 1
    empty = np.zeros_like(seen_alone)
    changed = [cases[0]._replace(labels=seen_alone)]
    changed += [case._replace(labels=empty, field_of_view=lower) for case in cases[1:]]
    found = job.Job(tmp_path).align(changed, EXTENT, [], 1)
    assert found.template.image.shape[0] == 2
    assert float(found.template.labels[1].max()) > 0.5 and found.qualities[0].dice == 0


def test_cases_are_left_out_by_name_and_where_they_cannot_be_read(data, tmp_path, capsys):
    spoiled = tmp_path / "data"
    shutil.copytree(data, spoiled)
    broken = sorted((spoiled / "imagesTr").iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:200])
    run = tmp_path / "run"
    assert main(["align", str(spoiled), "-o", str(run), "--exclude", "variation_0004", "--device", "cpu"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "Warning: variation_0001 is left out: " in said, said
    names = Aligned.load(run / RESULT).names
    assert len(names) == 5 and not {"variation_0001", "variation_0004"} & set(names)
    assert main(["align", str(data), "-o", str(tmp_path / "other"), "--exclude", "nobody"]) == 2
    assert "has no case nobody" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_other_data_cannot_be_gone_on_with(data, aligned, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(aligned, run)
    (run / RESULT).unlink()
    other = tmp_path / "data"
    shutil.copytree(data, other)
    for folder in ("imagesTr", "labelsTr"):
        sorted((other / folder).iterdir())[0].unlink()
    assert main(["align", str(other), "-o", str(run), "--resume"]) == 2
    assert "1 gone (variation_0000)" in capsys.readouterr().err
    assert main(["align", str(data), "-o", str(aligned), "--resume"]) == 2
    assert "is aligned already" in capsys.readouterr().err


def test_a_scan_that_comes_later_is_brought_onto_the_template(aligned, tmp_path):
    """Turned, shifted and of other voxels; the labels that are carried to it are its own."""
    new = tmp_path / "new"
    case = make_case(40, 0, (32, 48, 32), 4.5)
    affine = case.affine.copy()
    affine[:3, 3] += (12, -9, 6)  # mm: where a head lies in the scanner means nothing
    write_dataset(new, [replace(case, name="late", affine=affine)], "a late one", whole_numbers="int16")
    run = tmp_path / "run"
    before = digest(aligned)
    status, events = finish(start(new, run, "--onto", str(aligned)))
    assert status == 0, events
    assert digest(aligned) == before
    found = Aligned.load(run / RESULT)
    assert found.names == ("late",) and found.held_out == ()
    torch.testing.assert_close(found.template.image, Aligned.load(aligned / RESULT).template.image)
    assert found.qualities[0].dice > 0.75


def test_shards_of_scans_that_come_later_are_one_run(aligned, data, tmp_path):
    run, names = tmp_path / "run", [case.name for case in find_dataset(data).cases]
    assert finish(start(data, run, "--shard", "1/2"))[0] == 2  # a template takes all of them
    for number in (2, 1):
        status, events = finish(
            start(data, run, "--onto", str(aligned), "--exclude", *names[4:], "--shard", f"{number}/2")
        )
        assert status == 0, events
        assert (run / RESULT).exists() == (number == 1)
    found, first = Aligned.load(run / RESULT), Aligned.load(run / "shard-1-of-2" / RESULT)
    assert found.names == tuple(names[:4]) and first.names == (names[0], names[2])
    assert torch.equal(found.moved.velocities[[0, 2]], first.moved.velocities)
    assert len(found.boxes) == len(found.images) == len(found.qualities) == 4
    assert (run / "aligned.png").exists() and len((run / "aligned.csv").read_text().splitlines()) == 5
    assert main(["atlas", str(run), "-o", str(tmp_path / "atlas"), "--cases", names[3]]) == 0
    out = tmp_path / "out"
    assert main(["augment", str(run), str(data), "-n", "1", "-o", str(out), "--case", names[1], "--device", "cpu"]) == 0
    assert finish(start(data, run, "--onto", str(aligned), "--shard", "1/2"))[0] == 2


def test_a_device_that_lacks_an_operation_is_left_aside(data, tmp_path, monkeypatch, capsys):
    from GEDGANLib import device

    def refuse(*arguments, **options):
        raise NotImplementedError("aten::grid_sampler_3d_backward is not implemented there")

    assert not job.lacks_an_operation("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "grid_sample", refuse)
        assert job.lacks_an_operation("cpu")
    monkeypatch.setattr(device, "choose_device", lambda wanted: "mps")
    monkeypatch.setattr(job, "lacks_an_operation", lambda kind: kind == "mps")
    run = tmp_path / "run"
    assert main(["align", str(data), "-o", str(run)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "PyTorch lacks an operation on mps: the scans are aligned on the CPU" in said
    assert json.loads((run / "align.json").read_text())["device"] == "cpu"


def test_a_damaged_result_is_told(aligned, tmp_path):
    with pytest.raises(InputError, match="not aligned yet"):
        Aligned.load(tmp_path / RESULT)
    (tmp_path / RESULT).write_bytes((aligned / RESULT).read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read as an alignment"):
        Aligned.load(tmp_path / RESULT)


@pytest.mark.parametrize("name", [*MEANINGFUL, *MEANINGLESS])
def test_whether_alignment_means_anything_is_measured(name):
    images, labels = {**MEANINGFUL, **MEANINGLESS}[name]()
    images = torch.from_numpy(np.ascontiguousarray(images)).float()
    extent = tuple(side * SPACING for side in images.shape[2:])
    boxes = torch.tensor([[-side / 2, side / 2] for side in extent]).expand(len(images), -1, -1)
    shares = None
    if labels is not None:
        kinds = torch.from_numpy(np.ascontiguousarray(labels)).long()
        shares = torch.nn.functional.one_hot(kinds, int(kinds.max()) + 1).movedim(-1, 1).float()
    with in_earnest():
        found = measure(images, boxes, extent, shares)
    assert found.kind == ("template" if name in MEANINGFUL else "none"), found
    assert f"{found.after:.2f}" in found.words()
    assert measure(images[:4], boxes[:4], extent).kind == "none"


def test_the_field_of_view_lies_on_the_grid_where_the_scan_was():
    source = np.diag([2.0, 2.0, 4.0, 1.0])
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = (-4.0, 0.0, -1.0)  # two voxels before the scan, at it, and at the edge of its thick slices
    found = field_of_view(grid, source, (10, 12, 5))
    np.testing.assert_allclose(found, [[1.5, 11.5], [-0.5, 11.5], [-0.5, 9.5]])


def test_a_stop_while_the_model_is_made_keeps_all_and_it_goes_on_to_the_same_bits(data, aligned, tmp_path):
    run = tmp_path / "run"
    worker = start(data, run)
    heard = []
    for line in worker.stdout:
        heard.append(json.loads(line))
        if heard[-1].get("stage") == "finding directions":
            (run / STOP).touch()
            break
    status, _ = finish(worker)
    assert status == 3 and (run / "model.safetensors").exists() and not (run / RESULT).exists()
    assert finish(start(data, run, "--resume"))[0] == 0
    assert digest(run) == digest(aligned)


def test_a_run_is_gone_on_with_where_its_device_is_not(data, aligned, tmp_path):
    """And where the data were moved to."""
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(aligned, run)
    shutil.copytree(data, moved)
    (run / RESULT).unlink()
    about = json.loads((run / "align.json").read_text())
    (run / "align.json").write_text(json.dumps({**about, "device": "cuda", "data": "/gone"}))
    assert finish(start(moved, run, "--resume", "--device", "cpu"))[0] == 0
    assert json.loads((run / "align.json").read_text())["data"] == str(moved)
    assert (run / RESULT).exists() and (run / "model.safetensors").exists()


def test_copies_of_one_scan_are_aligned_without_a_model(tmp_path, capsys):
    same = tmp_path / "same"
    case = make_case(0, 0, (16, 24, 16), 9.0)
    write_dataset(same, (replace(case, name=f"copy_{index}") for index in range(4)), "copies", whole_numbers="int16")
    run = tmp_path / "run"
    assert main(["align", str(same), "-o", str(run), "--device", "cpu"]) == 0
    assert (run / RESULT).exists()
