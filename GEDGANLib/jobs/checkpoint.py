"""The state of a long job on disk: folders of safetensors and JSON, written beside and renamed.

A kill at any instant leaves the last complete checkpoint; the last two are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .writing import PARTIAL as PARTIAL_FILE
from .writing import explain_unwritable, write_bytes

if TYPE_CHECKING:
    import torch

KEPT = 2
PARTIAL = ".partial-checkpoint-"


def save_checkpoint(run: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> Path:
    """Write ``run/checkpoint-STEP`` and remove all but the last :data:`KEPT`.

    :raises InputError: the disk is full or write-protected; the last checkpoint is still there then.
    """
    from safetensors.torch import save

    final = run / f"checkpoint-{step:08d}"
    if final.exists():  # a step's state is one and the same; what is there is never put at risk
        return final
    partial = run / f"{PARTIAL}{os.getpid()}"
    try:
        for left_by_a_kill in run.glob(f"{PARTIAL}*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        partial.mkdir()
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        write_bytes(partial / "state.safetensors", content)
        write_bytes(partial / "state.json", json.dumps({"step": step, **state}).encode("utf-8"))
        os.replace(partial, final)
        for old in checkpoints(run)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except InputError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise explain_unwritable(final, error) from error
    return final


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoint-????????"))


def remove_after(run: Path, step: int) -> None:
    """Remove checkpoints that are newer than ``step``: they could not be read, or are about to be trained again."""
    for folder in checkpoints(run):
        if folder.name > f"checkpoint-{step:08d}":
            shutil.rmtree(folder, ignore_errors=True)


def forget_all(run: Path) -> None:
    """Remove all that a job keeps to go on from: its checkpoints, finished stages in hidden files, halves of both."""
    for path in [*run.glob(".*.safetensors"), *run.glob(f"{PARTIAL_FILE}*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    remove_after(run, -1)


def load_checkpoint(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the newest checkpoint.

    :raises InputError: there is none, or none can be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    for folder in reversed(checkpoints(run)):
        try:
            # Read, not mapped into memory: a mapped file cannot be removed on Windows, nor its folder on NFS.
            tensors = load((folder / "state.safetensors").read_bytes())
            return tensors, json.loads((folder / "state.json").read_text("utf-8"))
        except (OSError, ValueError, SafetensorError):
            continue
    raise InputError(f"{run} holds no checkpoint to resume from.", "Start anew in another folder.")
