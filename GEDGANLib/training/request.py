"""What a training was asked for, and whether a run folder may be used for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import InputError
from ..jobs.writing import claim_empty_folder, explain_unwritable, probe, write_bytes
from ..volumes.pipeline import WorkingCase

NAMES_SHOWN = 5
PREPARING = ".preparing"
"""A file in a run folder from when it is claimed until it holds a run: one that was killed before may begin anew."""
STOP = "STOP"
"""A file in a run folder that ends its training after the step it is in."""
PREPARED = "prepared"
"""Folder of a run with its cases on the working grid; it can be deleted, and is made anew where it is missing."""


@dataclass(frozen=True)
class Limit:
    """When a training ends: after so many steps or so many minutes, whichever is given."""

    steps: int | None = None
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is done, in [0, 1]."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        return min(seconds / (60 * self.minutes), 1.0)

    def seconds_left(self, step: int, seconds: float) -> float | None:
        """Expected seconds to the end; None before the first step."""
        if self.steps is None:
            return max(60 * self.minutes - seconds, 0.0)
        return (self.steps - step) * seconds / step if step else None


def claim_run_folder(run: Path, resume: bool, request: str = "run.json") -> None:
    """Make sure that a training, or another long job, may write into ``run``, and create it.

    :param request: name of the file that says what the job was asked for.
    :raises InputError: it holds another run or other files, or cannot be written.
    """
    if not resume:
        if (run / request).exists():
            raise InputError(f"{run} already holds another run.", "Give a new folder, or continue it with --resume.")
        claim_empty_folder(run, lambda path: (run / PREPARING).exists() and _is_left_of_preparing(path))
        try:
            (run / PREPARING).touch()
        except OSError as error:
            raise explain_unwritable(run, error) from error
        return
    if not (run / request).exists():
        raise InputError(f"{run} holds no run that could be resumed.", "Begin one without --resume.")
    try:
        probe(run)
    except OSError as error:
        raise explain_unwritable(run, error) from error


def _is_left_of_preparing(path: Path) -> bool:
    return path.name in (PREPARING, PREPARED, "plan.json", STOP)


def forget_old_stop(run: Path, begun: float) -> None:
    """Remove a STOP file that is meant for an earlier training in this folder.

    :param begun: when this training was asked for, in seconds of the epoch; a younger file stays, and every one at 0.
    """
    stop = run / STOP
    with suppress(OSError):
        if stop.stat().st_mtime < begun:
            stop.unlink()


@dataclass(frozen=True)
class Request:
    """What a training was asked for, as ``run.json`` keeps it.

    :param data: where the cases came from.
    :param model_step: of the model that the folder holds; None before there is one.
    :param cases: name of each case, in order, and a digest of it on the working grid, see :func:`digests_of`.
    :param taught: :func:`image_digest` of every case that the networks have ever learned from, those of a model that
        they started from and of data that were changed meanwhile included; None where that is not known.
    """

    data: str
    cases: dict[str, str]
    seed: int
    limit: Limit
    device: str
    model_step: int | None = None
    version: str = __version__
    taught: Sequence[str] | None = ()

    def save(self, run: Path) -> None:
        """Write ``run.json``, from which on the folder holds a run."""
        write_bytes(run / "run.json", json.dumps(asdict(self), indent=1).encode("utf-8"))
        (run / PREPARING).unlink(missing_ok=True)

    @classmethod
    def load(cls, run: Path) -> Request:
        """Read ``run.json``.

        :raises InputError: it is damaged.
        """
        try:
            values = json.loads((run / "run.json").read_text(encoding="utf-8"))
            request = cls(**{**values, "limit": Limit(**values["limit"])})
            if not isinstance(request.cases, dict):
                raise TypeError("cases")
            return request
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{run / 'run.json'} cannot be read.", "Train in a new folder.") from error


def digests_of(cases: Sequence[WorkingCase]) -> dict[str, str]:
    """Name of each case -> a short text that changes with any of its voxels and with its class."""
    digests = {}
    for case in cases:
        digest = hashlib.sha256((case.class_name or "").encode("utf-8"))
        digest.update(np.ascontiguousarray(case.image))
        digest.update(b"" if case.labels is None else np.ascontiguousarray(case.labels))
        digests[case.name] = digest.hexdigest()[:16]
    return digests


def image_digest(case: WorkingCase) -> str:
    """A short text that changes with any voxel of the image of a case, and with nothing else: a scan that was segmented
    anew, or whose class is written elsewhere, is the scan it was."""
    return hashlib.sha256(np.ascontiguousarray(case.image)).hexdigest()[:16]


def what_changed(before: dict[str, str], now: dict[str, str]) -> str:
    """How the data differ from those a run was started with, in words; "" where they do not."""
    kinds = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "changed": [name for name in now if name in before and now[name] != before[name]],
    }
    parts = []
    for word, names in kinds.items():
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            parts.append(f"{len(names)} {word} ({', '.join(names[:NAMES_SHOWN])}{more})")
    if not parts and list(before) != list(now):
        parts.append("the cases come in another order")
    return ", ".join(parts)


def refuse_other(before: Request, run: Path, now: dict[str, str], seed: int | None, changes_accepted: bool) -> None:
    """:raises InputError: the data or the seed are not those that ``run`` was started with."""
    changes = what_changed(before.cases, now)
    if changes and not changes_accepted:
        raise InputError(
            f"The data are not those that {run} was started with ({before.data or 'unnamed'}): {changes}.",
            "Give the same data to resume, add --accept-changed-data to go on with these, or train in a new folder.",
        )
    if seed is not None and seed != before.seed:
        raise InputError(f"{run} was started with seed {before.seed}, not {seed}.", "Resume without --seed.")
