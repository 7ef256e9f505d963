"""The folder of an alignment, for who uses it later: what it was begun with, and which model belongs to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError

REQUEST, RESULT, STOP = "align.json", "alignment.safetensors", "STOP"
MODEL, SHARED = "model.safetensors", "shared.safetensors"
STATISTICAL = "modes.safetensors"
"""The statistical model of a run in which a generator is trained, whose own model takes the usual name."""
KEPT = frozenset({"data", "onto", "left_out", "class_column", "device", "shape", "cases", "for_sharing"})


def read_request(path: Path) -> dict[str, Any]:
    """What a run was begun with.

    :param path: its ``align.json``.
    :raises InputError: it is damaged.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        if KEPT - values.keys():
            raise ValueError("parts are missing")
        return values
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read.", "Align in a new folder.") from error


def statistical_model(run: Path) -> Path:
    """The statistical model of a run, whether a generator was trained there or not; it need not be there."""
    return run / (STATISTICAL if (run / STATISTICAL).exists() else MODEL)


def model_and_run(path: Path) -> tuple[Path, Path | None]:
    """The statistical model that a path means, and the run that knows where its cases lie, if there is one.

    :param path: of a model file, or of a run, also of one that was brought onto the template of another.
    :raises InputError: neither.
    """
    if not path.is_dir():
        found = statistical_model(path.parent) if path.name == MODEL else path
        return found, path.parent if (path.parent / RESULT).exists() else None
    if (model := statistical_model(path)).exists():
        return model, path if (path / RESULT).exists() else None
    if not (path / RESULT).exists():
        raise InputError(f"{path} holds no alignment.", "Give a run of gedgan align that is done, or a model file.")
    onto = read_request(path / REQUEST)["onto"]
    if onto is None or not (model := statistical_model(Path(onto))).exists():
        where = "" if onto is None else f" (it was in {onto})"
        raise InputError(
            f"The model that the scans of {path} were brought onto is gone{where}.",
            "Bring that run back to where it was, or bring the scans onto it again (gedgan align --onto).",
        )
    return model, path
