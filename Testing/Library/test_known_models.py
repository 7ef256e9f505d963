"""Models by their names: the user's own, and those that an index offers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from serving import passed_on, served

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.exchange import model_index
from GEDGANLib.exchange.model_index import Entry, fetch, read_index, write_index
from GEDGANLib.synthesis import known_models, model_file
from GEDGANLib.synthesis.known_models import FOLDER, claim_name, keep_model, model_named
from GEDGANLib.synthesis.known_models import known_models as all_known


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "own"
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


def test_a_model_in_the_own_folder_is_called_by_its_name(
    own, aligned_run, aligned_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["models"]) == 0 and "No model has a name yet" in capsys.readouterr().out
    assert main(["models", "heads", "--add", str(aligned_run / "model.safetensors")]) == 0
    assert main(["models", "heads"]) == 0
    said = capsys.readouterr().out
    assert "9 x 9 x 9 mm" in said and "Structures: " in said and "Not judged yet" in said
    assert main(["models"]) == 0 and "heads: " in capsys.readouterr().out
    assert main(["synthesize", "heads", "-n", "1", "-o", "out"]) == 0 and (tmp_path / "out").is_dir()
    case = next((aligned_folder / "imagesTr").glob("*.nii.gz"))
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(case, scans)
    assert main(["augment", "heads", str(scans), "-n", "1", "-o", "varied", "--format", "folder"]) == 0
    # What lies there is meant, where something does.
    shutil.copy(aligned_run / "model.safetensors", tmp_path / "heads")
    assert main(["synthesize", "heads", "-n", "1", "-o", "other"]) == 0
    for text in ("nobody", "knees"):
        with pytest.raises(SystemExit) as ended:
            main(["synthesize", text, "-o", "none"])
        assert (
            ended.value.code == 2 and "neither there nor the name of a known model (heads)" in capsys.readouterr().err
        )
    with pytest.raises(SystemExit):
        (tmp_path / "heads").unlink()
        main(["segment", "heads", str(scans), "-o", "segmented"])
    assert "has no network that segments" in capsys.readouterr().err


def test_a_name_is_taken_once_and_what_is_no_model_gets_none(own, aligned_run, tmp_path, monkeypatch):
    source = aligned_run / "model.safetensors"
    assert keep_model(source, "heads").path == own / "heads.safetensors"
    for name in ("heads", "HEADS"):
        with pytest.raises(InputError, match="A model heads is in"):
            keep_model(source, name)
    for name in ("", "a/b", "..", "a.segmentation", "x" * 65, "-n"):
        with pytest.raises(InputError, match="no name for a model"):
            claim_name(name)
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, other)
    with pytest.raises(InputError, match="is not a model"):
        keep_model(other, "other")
    with pytest.raises(InputError, match="not"):
        keep_model(source, "both", network=other)
    assert model_named("other") is None and model_named("both") is None
    shutil.copy(source, own / "alone.segmentation.safetensors")  # a network has the name of its model
    assert [(each.name, each.path is None, each.comes_along) for each in all_known()] == [
        ("alone", True, False), ("heads", False, False),
    ]  # fmt: skip
    monkeypatch.setattr(known_models, "SHIPPED", own)
    assert [each.comes_along for each in all_known(tmp_path)] == [True, True, False]
    with pytest.raises(InputError, match="comes with GED-GAN"):
        claim_name("heads", tmp_path / "mine")


def test_a_model_that_comes_along_stays_as_it_is(trained_model, tmp_path, monkeypatch):
    path = tmp_path / "heads.safetensors"
    passed_on(trained_model, path)
    content = path.read_bytes()
    monkeypatch.setattr(model_file, "SHIPPED", tmp_path)
    with pytest.raises(InputError, match="comes with GED-GAN"):
        model_file.keep_report(path, {"summary": []}, model_file.digest_of(path))
    assert path.read_bytes() == content


@pytest.fixture
def shelf(trained_model, tmp_path) -> Path:
    """A folder with a model and its index, as a group would put it somewhere."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    passed_on(trained_model, folder / "heads.safetensors")
    assert main(["models", "--make-index", str(folder)]) == 0
    return folder


def test_what_tells_of_single_scans_is_in_no_index(aligned_run, trained_model, tmp_path, capsys):
    for source in (aligned_run / "model.safetensors", trained_model):
        shutil.copy(source, tmp_path / "heads.safetensors")
        assert main(["models", "--make-index", str(tmp_path)]) == 2 and not (tmp_path / "index.json").exists()
        assert "tells which scans it is of" in capsys.readouterr().err


def test_a_model_is_fetched_from_an_index_that_a_group_keeps(own, shelf, tmp_path, capsys):
    with served(shelf) as address:
        index = f"{address}/index.json"
        assert main(["models", "--index", index]) == 0 and "heads: From test cohort" in capsys.readouterr().out
        assert not own.exists()  # nothing is fetched before it is asked for
        assert main(["models", "heads", "--index", index]) == 0 and "MB, at http" in capsys.readouterr().out
        assert main(["models", "heads", "--get", "--index", index]) == 0
        assert main(["models", "heads", "--get", "--index", index]) == 2
        assert main(["models", "knees", "--get", "--index", index]) == 2
    said = capsys.readouterr()
    assert "A model heads is in" in said.err and "has no model knees. It has: heads." in said.err
    assert (own / "heads.safetensors").read_bytes() == (shelf / "heads.safetensors").read_bytes()
    assert main(["models", "heads", "--get"]) == 2 and "GEDGAN_INDEX" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["digest", "longer", "shorter", "no model"])
def test_what_is_not_as_the_index_says_is_not_kept(own, shelf, changed):
    path = shelf / "heads.safetensors"
    content = path.read_bytes()
    other = {
        "digest": content[:-1] + bytes([content[-1] ^ 1]),
        "longer": content + b"0",
        "shorter": content[:-1],
        "no model": b"\x80\x04" + content[2:],
    }[changed]
    path.write_bytes(other)
    with served(shelf) as address:
        (entry,) = read_index(f"{address}/index.json")
        if changed == "no model":
            entry = Entry(entry.name, "", entry.file, len(other), hashlib.sha256(other).hexdigest())
        with pytest.raises(InputError, match=r"Nothing of it was kept|SHA-256 is another"):
            fetch(entry)
    assert not list(own.iterdir())


def test_addresses_that_anybody_could_change_are_refused(own, shelf):
    (shelf / "text.json").write_text("[1, 2]")
    with served(shelf, "http://example.org/index.json") as address:
        for at, words in (
            ("http://example.org/index.json", "no https address"),
            (f"{address}/moved", "no https address"),
            ("file:///etc/passwd", "no https address"),
            (f"{address}/nothing.json", "answers 404"),
            (f"{address}/text.json", "no index of models"),
            ("http://127.0.0.1:1/index.json", "cannot be reached"),
            ("https://[bad", "cannot be reached"),
        ):
            with pytest.raises(InputError, match=words):
                read_index(at)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../heads"},
        {"size": 0},
        {"size": 10**12},
        {"size": "5"},
        {"sha256": "abc"},
        {"file": None, "name": 5},
        {"sha256": [[]] * 3},
    ],
)
def test_an_index_that_cannot_be_is_refused(shelf, change):
    path = shelf / "index.json"
    values = json.loads(path.read_text())
    values["models"][0] |= change
    path.write_text(json.dumps(values))
    with served(shelf) as address, pytest.raises(InputError, match="no index of models"):
        read_index(f"{address}/index.json")


def test_an_index_is_bounded_and_its_version_known(shelf, monkeypatch):
    path = shelf / "index.json"
    values = json.loads(path.read_text())
    with served(shelf) as address:
        path.write_text(json.dumps(values | {"format_version": 99}))
        with pytest.raises(InputError, match="newer GED-GAN"):
            read_index(f"{address}/index.json")
        path.write_text(json.dumps(values | {"models": values["models"] * 2}))
        with pytest.raises(InputError, match="no index of models"):
            read_index(f"{address}/index.json")
        monkeypatch.setattr(model_index, "LARGEST_INDEX", 10)
        with pytest.raises(InputError, match="too large"):
            read_index(f"{address}/index.json")
    empty = shelf / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no model"):
        write_index(empty)
