"""The state of a training on disk: folders of safetensors and JSON, written beside and renamed.

A kill at any instant leaves the last complete checkpoint; the last two are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..volumes.writing import explain_unwritable

KEPT = 2


def save_checkpoint(run: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> Path:
    """Write ``run/checkpoint-STEP`` and remove all but the last :data:`KEPT`.

    :raises InputError: the disk is full or write-protected; the last checkpoint is still there then.
    """
    from safetensors.torch import save_file

    final = run / f"checkpoint-{step:08d}"
    partial = run / f".partial-checkpoint-{os.getpid()}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            partial / "state.safetensors",
        )
        (partial / "state.json").write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        for old in checkpoints(run)[:-KEPT]:
            shutil.rmtree(old)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise explain_unwritable(final, error) from error
    return final


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoint-????????"))


def load_checkpoint(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the newest checkpoint.

    :raises InputError: there is none, or none can be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for folder in reversed(checkpoints(run)):
        try:
            return load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text("utf-8"))
        except (OSError, ValueError, SafetensorError):
            continue
    raise InputError(f"{run} holds no checkpoint to resume from.", "Start the training anew in another folder.")
