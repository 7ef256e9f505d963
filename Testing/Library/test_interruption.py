"""Who interrupts a command, or lets it fail, finds nothing half done: real signals, sent at a chosen moment."""

from __future__ import annotations

import signal

import pytest
from starting import FIRST

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.jobs.writing import growing_folder, new_folder


@pytest.fixture
def signal_at(monkeypatch):
    """Have a signal sent to this process when a function is called for the n-th time."""
    # Programs that a shell starts in the background are deaf to Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def arrange(number, module, name, call):
        real, calls = getattr(module, name), []

        def interrupted(*arguments, **keywords):
            calls.append(1)
            if len(calls) == call:
                signal.raise_signal(number)
            return real(*arguments, **keywords)

        monkeypatch.setattr(module, name, interrupted)

    yield arrange
    signal.signal(signal.SIGINT, before)


def test_synthesis_keeps_the_cases_that_are_complete(trained_model, tmp_path, capsys, signal_at):
    from GEDGANLib.exchange import nnunet

    signal_at(signal.SIGINT, nnunet, "write_case", 3)
    out = tmp_path / "out"
    assert main(["synthesize", str(trained_model), "-n", "4", "-o", str(out)]) == 3
    assert f"the first 2 of 4 cases are complete in {out} and can be used" in capsys.readouterr().err
    assert len(list((out / "imagesTr").iterdir())) == len(list((out / "labelsTr").iterdir())) == 2
    assert main(["check", str(out)]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_ended_while_it_prepares_leaves_nothing(data, tmp_path, capsys, signal_at, number):
    from GEDGANLib.volumes import pipeline

    before = signal.getsignal(signal.SIGTERM)
    signal_at(number, pipeline, "to_working", 3)
    run = tmp_path / "run"
    assert main([*FIRST, str(data), "-o", str(run), "--steps", "2", "--device", "cpu"]) == 3
    assert "Stopped." in capsys.readouterr().err
    assert not run.exists() and not list(tmp_path.glob(".partial*"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_projection_that_is_ended_may_begin_anew_in_its_folder(trained_model, cohort_folder, tmp_path, signal_at):
    from GEDGANLib.commands import steering

    scan, out = next((cohort_folder / "imagesTr").iterdir()), tmp_path / "out"
    command = ["project", str(trained_model), str(scan), "-o", str(out), "--steps", "2"]
    signal_at(signal.SIGTERM, steering, "_draw", 1)
    assert main(command) == 3
    assert not out.exists()
    assert main(command) == 0 and (out / "projection.png").exists()  # the signal comes once


def test_what_is_finished_stays_when_what_comes_after_it_is_ended(trained_model, cohort_folder, tmp_path, signal_at):
    from GEDGANLib.commands import steering

    scan, out = next((cohort_folder / "imagesTr").iterdir()), tmp_path / "out"
    signal_at(signal.SIGTERM, steering, "_make_more", 1)
    command = ["project", str(trained_model), str(scan), "-o", str(out), "--steps", "2", "--more", "2"]
    assert main([*command, "--healthy", str(cohort_folder)]) == 3
    assert {"projection.png", "anomaly.nrrd", "healthy.safetensors"} <= {path.name for path in out.iterdir()}
    assert not list(out.glob(".partial*"))


def test_nothing_of_somebody_else_is_removed(tmp_path):
    """Whoever writes into the same folder meanwhile: what is there stays, and what was made does too."""
    folder = tmp_path / "a" / "b"
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as partial:
        (partial / "mine.txt").write_text("half")
        (folder / "run").mkdir()
        (folder / "run" / "model.safetensors").write_text("theirs")
        raise KeyboardInterrupt
    assert (folder / "run" / "model.safetensors").read_text() == "theirs" and len(list(folder.iterdir())) == 1
    other = tmp_path / "c"
    with pytest.raises(InputError, match="something else was written there") as told, new_folder(other) as partial:
        (partial / "report.html").write_text("mine")
        (other / "report.html").write_text("theirs")
    assert (other / "report.html").read_text() == "theirs"
    kept = next(path for path in other.iterdir() if path.is_dir())
    assert (kept / "report.html").read_text() == "mine" and str(kept) in told.value.hint
    with new_folder(tmp_path / "d") as partial:  # what file managers leave everywhere is in nobody's way
        (partial / "report.html").write_text("mine")
        (tmp_path / "d" / ".DS_Store").touch()
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"report.html", ".DS_Store"}
    own = tmp_path / "own"
    (own / "imagesTr").mkdir(parents=True)
    for claim in (new_folder(own), growing_folder(own, ["imagesTr"])):
        with pytest.raises(InputError, match="already holds files"), claim:
            pass
    assert (own / "imagesTr").is_dir()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "x" / "y" / "z"):
        raise KeyboardInterrupt
    assert not (tmp_path / "x").exists()


def test_a_folder_without_a_single_case_does_not_stand_in_the_way(tmp_path, signal_at):
    from GEDGANLib.exchange import nnunet

    signal_at(signal.SIGINT, nnunet, "write_case", 1)
    command = ["cohort", "-n", "2", "-o", str(tmp_path / "a"), "--shape", "12", "12", "12", "--spacing", "12"]
    assert main(command) == 3 and not (tmp_path / "a").exists()
    assert main(command) == 0


@pytest.mark.parametrize("command", ["explain SCAN", "project MODEL SCAN --steps 1", "vary MODEL --frames 2"])
def test_the_scene_may_lie_in_the_folder_of_the_output(trained_model, cohort_folder, tmp_path, command):
    names = {"MODEL": str(trained_model), "SCAN": str(next((cohort_folder / "imagesTr").iterdir()))}
    words = [names.get(word, word) for word in command.split()]
    words += ["--direction", "volume of white"] if words[0] == "vary" else []
    out = tmp_path / "out"
    assert main([*words, "-o", str(out), "--scene", str(out / "scene.mrb")]) == 0
    assert (out / "scene.mrb").exists() and len(list(out.iterdir())) > 2 and not list(out.glob(".*"))


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "MODEL", "--data", "OTHER", "-o", "OUT"],
        ["synthesize", "MODEL", "--screen", "NOWHERE", "-o", "OUT"],
        ["export", "MODEL", "--to", "folder", "--screen", "NOWHERE", "-o", "OUT"],
        ["project", "MODEL", "NOWHERE", "-o", "OUT"],
        ["explain", "NOWHERE", "-o", "OUT"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_that_fails_leaves_no_folder(trained_model, cohort_folder, tmp_path, command):
    names = {
        "MODEL": trained_model,
        "OTHER": cohort_folder,
        "NOWHERE": tmp_path / "nowhere.nii.gz",
        "OUT": tmp_path / "new" / "out",
    }
    assert main([str(names.get(word, word)) for word in command]) == 2
    assert not (tmp_path / "new").exists()
    own = tmp_path / "own"
    own.mkdir()
    assert main([str({**names, "OUT": own}.get(word, word)) for word in command]) == 2
    assert own.is_dir() and not list(own.iterdir())
