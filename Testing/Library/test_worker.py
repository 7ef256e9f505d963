"""Commands as processes of their own: followed, stopped, killed, found again; nothing they write upsets the reader."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.jobs import worker
from GEDGANLib.jobs.events import stop_on_signals
from GEDGANLib.jobs.worker import DONE, EVENTS, FAILED, JOB, LOST, RUNNING, STOPPED_ON_REQUEST, Worker


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


def finish(job: Worker) -> list[dict]:
    events = []

    def over() -> bool:
        running = job.alive()
        events.extend(job.poll())
        return not running

    until(over)
    events.extend(job.poll())
    return events


@pytest.fixture
def started(tmp_path):
    """Starts workers and makes sure that none outlives the test."""
    workers = []

    def start(arguments, **options) -> Worker:
        workers.append(Worker.start(arguments, tmp_path / "job", **options))
        return workers[-1]

    yield start
    for job in workers:
        job.kill()


def found_elsewhere(folder) -> Worker:
    """As a process finds a worker that did not start it."""
    mine, worker._started = worker._started, {}
    try:
        return Worker.find(folder)
    finally:
        worker._started = mine


def test_who_finds_a_worker_where_it_was_started_takes_nothing_from_its_starter(started, tmp_path):
    mine = started(["train"], launch=script("import time; time.sleep(600)"))
    found = Worker.find(tmp_path / "job")
    found.kill()
    until(lambda: not found.alive(), 5)
    assert mine.state() == found.state() == LOST and mine.process.returncode == -9


def test_a_stop_file_of_before_is_gone_when_a_command_is_started(started, tmp_path):
    stop = tmp_path / "STOP"
    stop.touch()
    started(["train"], launch=script("import time; time.sleep(600)"), stop_file=stop)
    assert not stop.exists()


def test_a_real_command_tells_of_itself_and_ends(started, tmp_path):
    out = tmp_path / "cohort"
    job = started(["cohort", "-n", "3", "-o", out, "--shape", "16", "24", "16", "--spacing", "9"])
    events = finish(job)
    assert job.state() == DONE and not job.noise
    assert [event["step"] for event in events if event["event"] == "progress"] == [1, 2, 3]
    assert any("variations of one average brain" in event["message"] for event in events if event["event"] == "said")
    assert events[-1] == {"event": "finished", "output": str(out)}
    assert len(list((out / "imagesTr").iterdir())) == 3


def test_bad_input_is_explained_in_its_own_words(started, tmp_path):
    job = started(["check", tmp_path / "nowhere"])
    finish(job)
    assert job.state() == FAILED
    assert "There is no folder" in job.explanation() and "Check the path" in job.explanation()


def test_a_training_is_stopped_by_its_file_and_found_again(started, data, tmp_path):
    run = tmp_path / "run"
    job = started(["train", data, "-o", run, "--minutes", "30", "--device", "cpu"], stop_file=run / "STOP")
    until(lambda: any(event["event"] == "progress" and "losses" in event for event in job.poll()), 120)
    assert job.state() == RUNNING
    again = found_elsewhere(tmp_path / "job")  # as a panel that was closed and opened
    assert again.process is None and again.alive() and again.state() == RUNNING
    assert any(event["event"] == "started" for event in again.poll())
    again.ask_to_stop()
    finish(job)
    again.poll()
    assert job.state() == again.state() == STOPPED_ON_REQUEST
    assert (run / "model.safetensors").exists()
    assert Worker.find(tmp_path / "elsewhere") is None


def test_whoever_got_the_number_of_a_worker_that_is_gone_is_left_alone(started, tmp_path):
    job = started(["train"], launch=script("pass"))
    finish(job)
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
    found = found_elsewhere(tmp_path / "job")
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
    job = started(["train"], launch=script(SAYING_ONE_THING))
    until(job.poll)
    job.kill()
    assert not job.alive() and job.state() == LOST
    assert "may have been killed" in job.explanation() and job.explanation().endswith("oh")


def test_it_takes_its_own_children_along(started, tmp_path):
    """As the launcher of a desktop application's interpreter has one."""
    marker = tmp_path / "alive"
    child = f"import time, pathlib\nwhile True: pathlib.Path({str(marker)!r}).touch(); time.sleep(0.1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    job = started(["train"], launch=script(code))
    until(marker.exists)
    job.kill()
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
    job = started(["train"], launch=script(GARBAGE))
    events = finish(job)
    for _ in range(5):  # it takes a million bytes at a time
        events += job.poll()
    assert [event.get("step") for event in events if event["event"] == "progress"] == [1, 2]
    assert events[-1]["event"] == "finished" and job.state() == DONE
    assert "Traceback, oh" in job.noise and len(job.noise) <= 20


def test_a_silent_worker_is_seen_to_be_silent(started):
    job = started(["train"], launch=script("import time; time.sleep(30)"))
    time.sleep(0.3)
    assert job.poll() == [] and job.state() == RUNNING and job.silent_seconds() >= 0.3
    job.ask_to_stop()  # it knows no STOP file
    assert job.state() == LOST


CLEARING = """
import signal, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from GEDGANLib.jobs.events import end_on_termination
file = Path({file!r})
with end_on_termination():
    try:
        file.touch()
        time.sleep(30)
    finally:
        file.unlink()
"""


def test_a_worker_without_a_stop_file_clears_away_what_is_half_done(started, tmp_path):
    file = tmp_path / "half"
    job = started(["train"], launch=script(CLEARING.format(root=str(Path(worker.__file__).parents[1]), file=str(file))))
    until(file.exists)
    job.ask_to_stop()
    assert not job.alive() and not file.exists()


def test_a_worker_that_does_not_listen_is_killed(started, tmp_path):
    file = tmp_path / "deaf"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    job = started(["train"], launch=script(deaf + f"open({str(file)!r}, 'w').close(); time.sleep(30)"))
    until(file.exists)
    job.ask_to_stop(wait_seconds=0)
    assert job.alive()
    job.ask_to_stop(wait_seconds=0.3)
    assert not job.alive()


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


def test_a_signal_in_the_middle_of_a_line_is_announced_after_it():
    """A handler that writes while its stream is being written breaks into it, which Python refuses."""
    said = []

    def announce():
        if not said:
            said.append("refused")
            raise RuntimeError("reentrant call inside a buffered writer")
        said.append("announced")

    with stop_on_signals(announce) as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked() and asked()
    assert said == ["refused", "announced"]
