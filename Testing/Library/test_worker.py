"""Commands as processes of their own: followed, stopped, killed, found again; nothing they write upsets the reader."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from GEDGANLib.cli import main
from GEDGANLib.errors import InputError
from GEDGANLib.worker import DONE, EVENTS, FAILED, JOB, LOST, RUNNING, STOPPED_ON_REQUEST, Worker


def until(condition, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def script(code: str):
    """A launch that runs ``code`` instead of the library."""

    def launch(command, **options):
        return subprocess.Popen([sys.executable, "-c", code], **options)

    return launch


def finish(worker: Worker) -> list[dict]:
    events = []

    def over() -> bool:
        running = worker.alive()
        events.extend(worker.poll())
        return not running

    until(over)
    events.extend(worker.poll())
    return events


@pytest.fixture
def started(tmp_path):
    """Starts workers and makes sure that none outlives the test."""
    workers = []

    def start(arguments, **options) -> Worker:
        workers.append(Worker.start(arguments, tmp_path / "job", **options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def test_a_real_command_tells_of_itself_and_ends(started, tmp_path):
    out = tmp_path / "cohort"
    worker = started(["cohort", "-n", "3", "-o", out, "--shape", "16", "24", "16", "--spacing", "9"])
    events = finish(worker)
    assert worker.state() == DONE and not worker.noise
    assert [event["step"] for event in events if event["event"] == "progress"] == [1, 2, 3]
    assert any("variations of one average brain" in event["message"] for event in events if event["event"] == "said")
    assert events[-1] == {"event": "finished", "output": str(out)}
    assert len(list((out / "imagesTr").iterdir())) == 3


def test_bad_input_is_explained_in_its_own_words(started, tmp_path):
    worker = started(["check", tmp_path / "nowhere"])
    finish(worker)
    assert worker.state() == FAILED
    assert "There is no folder" in worker.explanation() and "Check the path" in worker.explanation()


def test_a_training_is_stopped_by_its_file_and_found_again(started, data, tmp_path):
    run = tmp_path / "run"
    worker = started(["train", data, "-o", run, "--minutes", "30", "--device", "cpu"], stop_file=run / "STOP")
    until(lambda: any(event["event"] == "progress" and "losses" in event for event in worker.poll()), 120)
    assert worker.state() == RUNNING
    again = Worker.find(tmp_path / "job")  # as a panel that was closed and opened
    assert again.process is None and again.alive() and again.state() == RUNNING
    assert any(event["event"] == "started" for event in again.poll())
    again.ask_to_stop()
    finish(worker)
    again.poll()
    assert worker.state() == again.state() == STOPPED_ON_REQUEST
    assert (run / "model.safetensors").exists()
    assert Worker.find(tmp_path / "elsewhere") is None


def test_whoever_got_the_number_of_a_worker_that_is_gone_is_left_alone(started, tmp_path):
    worker = started(["train"], launch=script("pass"))
    finish(worker)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as stranger:
        about = json.loads((tmp_path / "job" / JOB).read_text())
        (tmp_path / "job" / JOB).write_text(json.dumps({**about, "pid": stranger.pid}))
        found = Worker.find(tmp_path / "job")
        assert not found.alive() and found.state() == LOST
        found.kill()
        assert stranger.poll() is None
        stranger.kill()


def test_a_found_worker_that_died_is_not_taken_for_running(started, tmp_path):
    """Its starter, this process, has not waited for it: it is a zombie."""
    started(["train"], launch=script("import time; time.sleep(600)"), notes={"page": "report.html"})
    found = Worker.find(tmp_path / "job")
    assert found.alive() and found.about["notes"] == {"page": "report.html"}
    found.kill()
    until(lambda: not found.alive(), 5)
    assert found.state() == LOST


def test_a_worker_that_could_not_be_found_again_is_not_left_running(tmp_path):
    (tmp_path / JOB).mkdir()  # cannot be written
    processes = []

    def launch(command, **options):
        processes.append(script("import time; time.sleep(600)")(command, **options))
        return processes[-1]

    with pytest.raises(InputError, match="could not be started"):
        Worker.start(["train"], tmp_path, launch=launch)
    assert processes[0].wait(5) != 0


SAYING_ONE_THING = """
import sys, time
print('{"event": "started"}', flush=True)
print("oh", file=sys.stderr, flush=True)
time.sleep(60)
"""


def test_a_killed_worker_is_lost_and_says_its_last_words(started):
    worker = started(["train"], launch=script(SAYING_ONE_THING))
    until(worker.poll)
    worker.kill()
    assert not worker.alive() and worker.state() == LOST
    assert "may have been killed" in worker.explanation() and worker.explanation().endswith("oh")


def test_it_takes_its_own_children_along(started, tmp_path):
    """As the launcher of a desktop application's interpreter has one."""
    marker = tmp_path / "alive"
    child = f"import time, pathlib\nwhile True: pathlib.Path({str(marker)!r}).touch(); time.sleep(0.1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    worker = started(["train"], launch=script(code))
    until(marker.exists)
    worker.kill()
    time.sleep(0.3)
    marker.unlink()
    time.sleep(0.5)
    assert not marker.exists()


GARBAGE = """
import sys
lines = [b'{"event": "progress", "step": 1}', b"Traceback, oh", b"[1, 2]", b'{"event": 5}', bytes([255, 254]),
         b'{"half": 1}', b'{"event": "progress", "step": 2}', b"x" * 3000000, b'{"event": "finished"}', b"rest"]
sys.stdout.buffer.write(bytes([10]).join(lines))
"""


def test_garbage_is_kept_apart(started):
    worker = started(["train"], launch=script(GARBAGE))
    events = finish(worker)
    for _ in range(5):  # it takes a million bytes at a time
        events += worker.poll()
    assert [event.get("step") for event in events if event["event"] == "progress"] == [1, 2]
    assert events[-1]["event"] == "finished" and worker.state() == DONE
    assert "Traceback, oh" in worker.noise and len(worker.noise) <= 20


def test_a_silent_worker_is_seen_to_be_silent(started):
    worker = started(["train"], launch=script("import time; time.sleep(30)"))
    time.sleep(0.3)
    assert worker.poll() == [] and worker.state() == RUNNING and worker.silent_seconds() >= 0.3
    worker.ask_to_stop()  # it knows no STOP file
    assert worker.state() == LOST


def test_what_cannot_be_started_or_written_is_said(tmp_path):
    with pytest.raises(InputError, match="could not be started"):
        Worker.start(["check", "x"], tmp_path / "job", python=str(tmp_path / "no-python"))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="could not be started"):
        Worker.start(["check", "x"], file)
    (tmp_path / JOB).write_text("{")
    assert Worker.find(tmp_path) is None


def test_the_worker_tells_what_can_compute(capfd):
    assert main(["devices", "--events", "-"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    found = next(event for event in events if event["event"] == "devices")
    assert found["devices"][-1]["kind"] == "cpu" and found["torch"]
    assert main(["devices"]) == 0 and "cpu:" in capfd.readouterr().out


def test_every_command_speaks_the_protocol(trained_model, tmp_path, capfd):
    out = tmp_path / "out"
    assert main(["synthesize", str(trained_model), "-n", "2", "-o", str(out), "--events", "-"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [event["event"] for event in events][-1] == "finished" and events[-1]["output"] == str(out)
    assert {event["event"] for event in events} == {"progress", "said", "finished"}
    assert (tmp_path / "job").exists() is False and EVENTS == "events.jsonl"
