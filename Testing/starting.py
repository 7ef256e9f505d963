"""Processes of the library for tests, started in milliseconds.

A process that imports PyTorch takes some seconds until it does anything, and the tests start a hundred. So one process
for each that runs tests (the nursery, this file run as a script) imports everything once and forks; what it forks is a
process as real as any other: it is told its arguments, environment and files, has a number of its own, and can be
stopped, killed and waited for. Where the system cannot do that, and for commands that are not the library's, processes
are started as usual. Tests of starting itself use :mod:`subprocess`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

FIRST = ("train", "--alignment=none")
"""Trains the first generator: without the seconds that an alignment takes, where a test is of something else."""
GO = "from GEDGANLib.commands.main import main\nraise SystemExit(main())"
HURRY = (
    f"import sys\nsys.path.append({os.path.dirname(os.path.abspath(__file__))!r})\nfrom hurried import hurry\nhurry()\n"
)
"""Code of processes that are not forked."""
CAN_FORK = hasattr(os, "fork") and hasattr(os, "pidfd_open")
_nursery: tuple[subprocess.Popen, str] | None = None


def _address() -> str:
    """Of the nursery of this process, which is started when it is first asked for."""
    global _nursery
    if _nursery is None:
        address = os.path.join(tempfile.mkdtemp(prefix="gedgan-"), "nursery")
        parent = str(os.getpid())
        command = [sys.executable, __file__, address, parent]
        # Pipes, as most of what is forked has: a stream that was a file once would look for its place in one.
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, env={**os.environ, "PYTHONIOENCODING": "utf-8"}, **silent)
        deadline = time.monotonic() + 120
        while not os.path.exists(address):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(process.communicate()[1].decode())
            time.sleep(0.02)
        _nursery = process, address
    return _nursery[1]


class Started:
    """As far as tests need it, what :class:`subprocess.Popen` is, of a process that the nursery forked."""

    def __init__(self, what: dict[str, Any], files: Sequence[int]) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_address())
        socket.send_fds(self._connection, [json.dumps(what).encode() + b"\n"], files)
        self._answers = self._connection.makefile("r")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None
        self.stdin = self.stdout = self.stderr = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if timeout is not None and not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            answer = self._answers.readline()
            assert answer, "the nursery of processes is gone"
            self.returncode = int(answer)
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        said: dict[str, Any] = {"stdout": None, "stderr": None}

        def read(name: str) -> None:
            said[name] = getattr(self, name).read()

        readers = [
            threading.Thread(target=read, args=(name,), daemon=True) for name in said if getattr(self, name) is not None
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return said["stdout"], said["stderr"]

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        self.wait()


def popen(command: Sequence[str], **options: Any) -> Any:
    """As :class:`subprocess.Popen`; forked where ``command`` is the library or code that imports it."""
    asked = [str(part) for part in command]
    is_library = asked[1:3] == ["-m", "GEDGANLib"]
    is_code = asked[1:2] == ["-c"] and "GEDGANLib" in asked[2]
    if asked[0] != sys.executable or not (is_library or is_code):
        return subprocess.Popen(command, **options)
    if not CAN_FORK:
        code = asked[2] if is_code else GO
        return subprocess.Popen([asked[0], "-c", HURRY + code, *asked[3:]], **options)
    known = {"stdin", "stdout", "stderr", "env", "cwd", "text", "start_new_session"}
    assert options.keys() <= known, options.keys() - known
    ends: dict[str, Any] = {}
    files, opened = [], []
    for name in ("stdout", "stderr"):
        wanted = options.get(name)
        if wanted == subprocess.PIPE:
            reading, writing = os.pipe()
            # Bars are drawn in characters that no old-fashioned locale has, where a step takes long enough for one.
            form = {"mode": "r", "encoding": "utf-8", "errors": "replace"} if options.get("text") else {"mode": "rb"}
            ends[name] = open(reading, **form)  # noqa: SIM115
            files.append(writing)
            opened.append(writing)
        elif wanted == subprocess.DEVNULL:
            files.append(os.open(os.devnull, os.O_WRONLY))
            opened.append(files[-1])
        elif wanted is None:
            files.append({"stdout": 1, "stderr": 2}[name])
        else:
            files.append(wanted if isinstance(wanted, int) else wanted.fileno())
    what = {
        "code": asked[2] if is_code else None,
        "arguments": asked[3:],
        "env": dict(options.get("env") or os.environ),
        "cwd": str(options.get("cwd") or os.getcwd()),
        "apart": bool(options.get("start_new_session")),
    }
    try:
        process = Started(what, files)
    finally:
        for file in opened:
            os.close(file)
    for name, end in ends.items():
        setattr(process, name, end)
    return process


def run(command: Sequence[str], timeout: float | None = None, **options: Any) -> subprocess.CompletedProcess:
    """As :func:`subprocess.run` with its output kept as text."""
    process = popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    said = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(command, process.returncode, *said)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def team(
    data: Path, run: Path, processes: int, *options: str, code: str = "", training: Sequence[str] = FIRST
) -> list[Any]:
    """Processes that train together, as torchrun starts them, without its own in between, so that one can be killed.

    :param training: the command that begins one; one that is resumed goes on with its plan.
    """
    training = training[:1] if "--resume" in options else training
    body = f"import torch; torch.set_num_threads(1)\n{code}\n{GO}"
    port, started = free_port(), []
    for rank in range(processes):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, "-c", body, *training, str(data), "-o", str(run), *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(popen(command, env=environment, **pipes))
    return started


def finish(processes: Sequence[Any]) -> list[tuple[int, str, str]]:
    """Status, output and errors of each, once all have ended."""
    said = [process.communicate(timeout=150) for process in processes]
    return [(process.returncode, *words) for process, words in zip(processes, said)]


EVERYTHING = [
    "SimpleITK",
    "monai.losses",
    "monai.networks.nets",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "nibabel",
    "numpy.testing",
    "rich.progress",
    "safetensors.torch",
    "scipy.ndimage",
    "torch._dynamo",
    "torch.distributed.fsdp",
]


def _import_everything() -> None:
    import GEDGANLib

    ours = [module.name for module in pkgutil.walk_packages(GEDGANLib.__path__, "GEDGANLib.")]
    for name in (*EVERYTHING, *ours):
        if not name.endswith("__main__"):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:  # what is for other programs imports these
                if error.name not in ("torchio", "nnunetv2"):
                    raise
    from hurried import hurry

    hurry()
    gc.collect()
    gc.freeze()  # and is shared with what is forked


def _nurse(address: str, parent: int) -> dict[str, Any]:
    """Fork whatever is asked for, and tell how it ended; returns in what was forked."""
    _import_everything()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen(64)
    os.rename(address + ".new", address)
    ends: dict[int, tuple[int, socket.socket]] = {}
    watched = os.pidfd_open(parent)
    while True:
        ready, _, _ = select.select([listener, watched, *ends], [], [])
        if watched in ready:
            shutil.rmtree(os.path.dirname(address), ignore_errors=True)
            os._exit(0)
        for descriptor in [each for each in ready if each in ends]:
            pid, connection = ends.pop(descriptor)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.close(descriptor)
            with suppress(OSError):  # whoever asked may be gone
                connection.sendall(f"{status}\n".encode())
            connection.close()
        if listener not in ready:
            continue
        connection, _ = listener.accept()
        text, files = b"", []
        while not text.endswith(b"\n"):
            part, more, _, _ = socket.recv_fds(connection, 1 << 20, 4)
            text, files = text + part, files + list(more)
        pid = os.fork()
        if pid == 0:
            for descriptor in ends:
                os.close(descriptor)
            for _pid, other in ends.values():
                other.close()
            os.close(watched)
            listener.close()
            connection.close()
            return {**json.loads(text), "files": files}
        for file in files:
            os.close(file)
        ends[os.pidfd_open(pid)] = pid, connection
        connection.sendall(f"{pid}\n".encode())


def _become(asked: dict[str, Any]) -> None:
    """Be the process that was asked for, from its first line to its end."""
    if asked["apart"]:
        os.setsid()
    for number, file in enumerate(asked["files"], 1):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=bool(asked["env"].get("PYTHONUNBUFFERED")))
    sys.path[:0] = [part for part in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if part]
    if asked["code"] is not None:
        sys.argv = ["-c", *asked["arguments"]]
        exec(compile(asked["code"], "<string>", "exec"), {"__name__": "__main__"})
    else:
        from GEDGANLib.commands.main import main

        sys.argv = ["gedgan", *asked["arguments"]]
        raise SystemExit(main())


if __name__ == "__main__":
    # Interrupts of whoever runs the tests are theirs; what is forked hears of its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wanted = _nurse(sys.argv[1], int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _become(wanted)
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
