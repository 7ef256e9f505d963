"""The command line: ``gedgan check | plan | train | synthesize | directions | vary | project | explain | ...``.

Every command ends with status 0, with 2 after bad input (one sentence says which file, what is wrong and what to do)
or with 3 when it was stopped on request; status 1 is a fault of the program.
The options stand in ``parser`` and the modules of the groups, which also do what the commands are for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from .. import __version__
from ..errors import InputError, StoppedOnRequest
from ..jobs.events import (
    BAD_INPUT,
    DONE,
    FAULT,
    STOPPED,
    Events,
    JsonEvents,
    SaidAsEvents,
    SilentEvents,
    TerminalEvents,
    end_on_termination,
)
from ..jobs.worker import FOLLOWED
from .parser import build_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    begun = 0.0 if FOLLOWED in os.environ else time.time()
    # How long OpenMP's threads spin when they wait (300000 rounds if left alone): measured on two cores, a training
    # loses an eighth of its steps by this when it has the machine to itself, and doubles them when it has not.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # What Apple's GPUs cannot do in an older PyTorch is done on the CPU.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    parsed = build_parser().parse_args(arguments)
    parsed.begun = begun
    # Of several processes that train together the first one speaks.
    if os.environ.get("RANK", "0") != "0":
        events: Events = SilentEvents()
    else:
        events = JsonEvents() if getattr(parsed, "events", None) else TerminalEvents()
    try:
        # What a command says to people becomes an event too, or it would stand between the lines of the protocol.
        said = redirect_stdout(SaidAsEvents(events)) if isinstance(events, JsonEvents) else nullcontext()
        with said, end_on_termination() if "RANK" not in os.environ else nullcontext():
            parsed.run(parsed, events)
        if parsed.command != "train":  # a training says what it finished itself
            output = getattr(parsed, "output", None)
            events.emit("finished", **({} if output is None else {"output": str(output)}))
        return DONE
    except StoppedOnRequest as stop:
        return _end(events, "stopped", STOPPED, str(stop))
    except KeyboardInterrupt:
        return _end(events, "stopped", STOPPED, "Stopped.")
    except InputError as error:
        return _end(events, "failed", BAD_INPUT, error.message, error.hint)
    except Exception as error:
        if _is_out_of_memory(error):
            hint = "Use larger voxels (--spacing) or a smaller batch in the plan, or close other programs."
            return _end(events, "failed", BAD_INPUT, "The memory of this machine is not enough.", hint)
        details = _keep_details()
        words = str(error).strip().splitlines() or [""]
        message = f"A fault of GED-GAN, not of your data: {type(error).__name__}: {words[0]}"
        return _end(events, "failed", FAULT, message, f"Please report it with the file {details}.")


def _end(events: Events, event: str, status: int, message: str, hint: str = "") -> int:
    events.emit(event, message=message, **({} if event == "stopped" else {"hint": hint}))
    if event != "stopped" or not isinstance(events, SilentEvents):
        print(f"gedgan: {message} {hint}".rstrip(), file=sys.stderr)
    return status


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch raises a plain RuntimeError on the CPU, and a kind of its own on GPUs.
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def _keep_details() -> str:
    """Write the traceback of the exception at hand to a file and return its path."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="gedgan-fault-", suffix=".txt", delete=False) as file:
        file.write(f"gedgan {__version__}, Python {sys.version}\n{traceback.format_exc()}")
    return file.name


if __name__ == "__main__":
    raise SystemExit(main())
