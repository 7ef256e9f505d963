"""Start a command of ``gedgan`` as a process of its own, follow its events, stop it, and find it again later.

The worker writes its events into a file of its job folder instead of a pipe. So it goes on when whoever started it is
gone, a panel that was closed finds it again, and nobody needs a thread to read: :meth:`Worker.poll` looks at what is
new, quickly, as often as one likes. A job folder holds ``job.json`` (what was started), ``events.jsonl`` and
``errors.txt``. Numbers of processes are given anew, after a restart of the computer from the first on, so a process
that is found again is known by its number and the moment it was born.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from .events import STOPPED

JOB, EVENTS, ERRORS = "job.json", "events.jsonl", "errors.txt"
RUNNING, DONE, FAILED, STOPPED_ON_REQUEST, LOST = "running", "done", "failed", "stopped", "lost"
LAST = {"finished": DONE, "failed": FAILED, "stopped": STOPPED_ON_REQUEST}
"""Events after which nothing follows, and what they mean."""
NOISE_LINES = 20
MOST_AT_ONCE = 1_000_000
"""Bytes that one look takes at most, so that it is quick whatever was written meanwhile."""
TAIL_BYTES = 2000

FOLLOWED = "GEDGAN_FOLLOWED"
"""Set in the environment of a worker: an old STOP file was removed before it was started."""
LOOK_SECONDS = 5.0
"""How long it is believed that the number of a process that was found still belongs to it."""
_started: dict[tuple[int, str], Any] = {}
"""Processes that were started here, by number and birth: who finds one again here asks them."""

Launch = Callable[..., Any]
"""As :class:`subprocess.Popen`: arguments, and the keywords ``stdout``, ``stderr``, ``env`` and so on."""


class Worker:
    """One command that runs, or ran; made by :meth:`start` or :meth:`find`.

    :param folder: of the job.
    :param process: as ``subprocess.Popen`` returns it; None where it was started by somebody else.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], process: Any | None) -> None:
        self.folder, self.about, self.process = Path(folder), dict(about), process
        self.noise: deque[str] = deque(maxlen=NOISE_LINES)
        self.last_event: dict[str, Any] | None = None
        self._position, self._heard = 0, time.monotonic()
        self._known_until = -float("inf")
        """When it has to be looked at again whether the number still belongs to this process."""

    @classmethod
    def start(
        cls,
        arguments: Sequence[str],
        folder: Path,
        python: str | None = None,
        environment: Mapping[str, str] | None = None,
        base_environment: Mapping[str, str] | None = None,
        launch: Launch = subprocess.Popen,
        stop_file: Path | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> Worker:
        """Start ``gedgan ARGUMENTS --events -``.

        :param folder: of the job; what an earlier job left there is replaced.
        :param python: interpreter; this one when not given.
        :param environment: changes of the environment.
        :param base_environment: the environment before these changes; this process's when not given.
        :param launch: makes the process.
        :param stop_file: a file whose existence asks the command to stop, as a training's STOP.
        :param notes: kept with the job for who finds it again, in ``about["notes"]``.
        :raises InputError: the folder cannot be written, or the interpreter not started.
        """
        folder = Path(folder)
        library = str(Path(__file__).resolve().parents[1])
        base = os.environ if base_environment is None else base_environment
        path = os.pathsep.join(part for part in (library, base.get("PYTHONPATH", "")) if part)
        variables = {**base, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", FOLLOWED: "1"}
        command = [python or sys.executable, "-m", "GEDGANLib", *map(str, arguments), "--events", "-"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if stop_file is not None:
                Path(stop_file).unlink(missing_ok=True)  # of before: one that comes from now on is meant
            with open(folder / EVENTS, "wb") as events, open(folder / ERRORS, "wb") as errors:
                process = launch(
                    command, stdin=subprocess.DEVNULL, stdout=events, stderr=errors,
                    env={**variables, **(environment or {})}, **_apart(),
                )  # fmt: skip
            about = {
                "pid": process.pid, "born": _birth(process.pid), "command": command, "started": time.time(),
                "stop_file": str(stop_file or ""), "notes": dict(notes or {}),
            }  # fmt: skip
            try:
                (folder / JOB).write_text(json.dumps(about), encoding="utf-8")
            except OSError:
                cls(folder, about, process).kill()  # nobody could find it again
                raise
            _started[process.pid, about["born"]] = process
        except OSError as error:
            raise InputError(
                f"{command[0]} could not be started in {folder}: {error.strerror or error}.",
                "Check that the folder is yours and the disk has room.",
            ) from error
        return cls(folder, about, process)

    @classmethod
    def find(cls, folder: Path) -> Worker | None:
        """The worker of a job folder, running or not; None when there is none."""
        try:
            about = json.loads((Path(folder) / JOB).read_text(encoding="utf-8"))
            pid = int(about["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(folder, about, _started.get((pid, about.get("born"))))

    def poll(self) -> list[dict[str, Any]]:
        """The events since the last look; lines that are none go to :attr:`noise`. Never waits, never raises."""
        found: list[dict[str, Any]] = []
        try:
            with open(self.folder / EVENTS, "rb") as file:
                file.seek(self._position)
                content = file.read(MOST_AT_ONCE)
        except OSError:
            return found
        whole, line_end, _ = content.rpartition(b"\n")
        if not line_end and len(content) == MOST_AT_ONCE:  # an endless line is no event
            self._position += len(content)
            return found
        self._position += len(whole) + len(line_end)
        for line in whole.split(b"\n") if line_end else ():
            try:
                event = json.loads(line)
                if not isinstance(event, dict) or not isinstance(event.get("event"), str):
                    raise ValueError("no event")
            except ValueError:
                if line.strip():
                    self.noise.append(line[:500].decode("utf-8", "replace"))
                continue
            found.append(event)
            self.last_event = event
        if found:
            self._heard = time.monotonic()
        return found

    def alive(self) -> bool:
        """Whether the process runs."""
        if self.process is not None:
            return self.process.poll() is None
        if (self.last_event or {}).get("event") in LAST:
            return False
        pid = int(self.about["pid"])
        if time.monotonic() > self._known_until:
            if _birth(pid) != self.about.get("born"):
                return False
            self._known_until = time.monotonic() + LOOK_SECONDS
        return _process_runs(pid)

    def state(self) -> str:
        """:data:`RUNNING`, :data:`DONE`, :data:`FAILED`, :data:`STOPPED_ON_REQUEST`, or :data:`LOST`: it ended without
        a word, killed for example. What was polled so far decides, so poll first."""
        said = LAST.get((self.last_event or {}).get("event", ""))
        if self.alive():
            return RUNNING
        if said is not None:
            return said
        status = None if self.process is None else self.process.poll()
        return STOPPED_ON_REQUEST if status == STOPPED else LOST

    def silent_seconds(self) -> float:
        """Since the last event."""
        return time.monotonic() - self._heard

    def explanation(self) -> str:
        """What to tell a person about a job that failed or was lost."""
        event = self.last_event or {}
        if event.get("event") == "failed":
            return f"{event.get('message', '')} {event.get('hint', '')}".strip()
        try:
            tail = (self.folder / ERRORS).read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
        except OSError:
            tail = []
        last = f" Its last words: {tail[-1]}" if tail else ""
        return f"The worker ended without saying why; it may have been killed, for want of memory for example.{last}"

    def ask_to_stop(self, wait_seconds: float = 5.0) -> None:
        """Ask it to end with everything saved; a command that knows no STOP file is ended.

        :param wait_seconds: for such a command, to clear away what is half done; it is killed after that. With 0 it is
            only asked. On Windows, where no process can be asked, it is killed at once.
        """
        stop_file = self.about.get("stop_file")
        if stop_file and Path(stop_file).parent.is_dir():
            with suppress(OSError):
                Path(stop_file).touch()
                return
        if sys.platform == "win32":
            self.kill(wait_seconds)
            return
        self._known_until = -float("inf")
        if self.alive():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(self.about["pid"]), signal.SIGTERM)
        end = time.monotonic() + wait_seconds
        while self.alive() and time.monotonic() < end:
            time.sleep(0.02)
        if wait_seconds:
            self.kill(wait_seconds)

    def kill(self, wait_seconds: float = 5.0) -> None:
        """End it and what it started, at once.

        :param wait_seconds: for its end, at most.
        """
        pid, self._known_until = int(self.about["pid"]), -float("inf")
        if not self.alive():
            return
        if sys.platform == "win32":
            # The interpreter of a desktop application may be a launcher of the real one: its children too.
            silently = {"creationflags": subprocess.CREATE_NO_WINDOW}
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(pid)], capture_output=True, check=False, **silently)
        else:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # it leads a group of its own
        if self.process is not None:
            with suppress(Exception):
                self.process.wait(wait_seconds)


def _apart() -> dict[str, Any]:
    """A group of its own, so that it neither dies with its starter nor takes anybody along."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _process_runs(pid: int) -> bool:
    if sys.platform == "win32":
        return _of_windows(pid)[0]
    with suppress(ChildProcessError):  # a child that ended looks alive until somebody waits for it
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # somebody else's: the number was given anew
        return False
    try:  # its parent may be another Slicer
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def _birth(pid: int) -> str:
    """A text that no other process of this number has or had; "" where there is none of it."""
    if sys.platform == "win32":
        return _of_windows(pid)[1]
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {ticks}"
    except (OSError, IndexError):
        pass
    command = ["ps", "-o", "lstart=", "-p", str(pid)]  # macOS
    fixed = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, env=fixed)
    except OSError:
        return ""
    return " ".join(said.stdout.split())


def _of_windows(pid: int) -> tuple[bool, str]:
    """Whether a process runs, and when it was made."""
    import ctypes

    kernel = ctypes.WinDLL("kernel32")
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel.OpenProcess(0x1000, False, pid))  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return False, ""
    code, times = ctypes.c_ulong(), [ctypes.c_ulonglong() for _ in range(4)]
    kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.GetProcessTimes(handle, *map(ctypes.byref, times))
    kernel.CloseHandle(handle)
    return code.value == 259, str(times[0].value)  # STILL_ACTIVE
