"""Who interrupts a command, or lets it fail, finds nothing half done: real signals, sent at a chosen moment."""

from __future__ import annotations

import signal

import pytest

from GEDGANLib.cli import main


@pytest.fixture
def signal_at(monkeypatch):
    """Have a signal sent to this process when a function is called for the n-th time."""

    def arrange(number, module, name, call):
        real, calls = getattr(module, name), []

        def interrupted(*arguments, **keywords):
            calls.append(1)
            if len(calls) == call:
                signal.raise_signal(number)
            return real(*arguments, **keywords)

        monkeypatch.setattr(module, name, interrupted)

    return arrange


def test_synthesis_keeps_the_cases_that_are_complete(trained_model, tmp_path, capsys, signal_at):
    from GEDGANLib.exchange import nnunet

    signal_at(signal.SIGINT, nnunet, "_write_case", 3)
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
    assert main(["train", str(data), "-o", str(run), "--steps", "2", "--device", "cpu"]) == 3
    assert "Stopped." in capsys.readouterr().err
    assert not run.exists() and not list(tmp_path.glob(".partial*"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_projection_that_is_ended_may_begin_anew_in_its_folder(trained_model, cohort_folder, tmp_path, signal_at):
    from GEDGANLib import steering

    scan, out = next((cohort_folder / "imagesTr").iterdir()), tmp_path / "out"
    command = ["project", str(trained_model), str(scan), "-o", str(out), "--steps", "2"]
    with pytest.MonkeyPatch.context():
        signal_at(signal.SIGTERM, steering, "_draw", 1)
        assert main(command) == 3
    assert not out.exists()
    assert main(command) == 0 and (out / "projection.png").exists()


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
    assert not (tmp_path / "new" / "out").exists()
    own = tmp_path / "own"
    own.mkdir()
    assert main([str({**names, "OUT": own}.get(word, word)) for word in command]) == 2
    assert own.is_dir() and not list(own.iterdir())
