"""Where the panel keeps what outlives Slicer: folders of runs, recent models, the training that goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import qt
import slicer

FOLDER, MODELS, TRAINING, DEVICES = "GEDGAN/folder", "GEDGAN/models", "GEDGAN/trainingJob", "GEDGAN/devices"
MOST_MODELS = 12


def setting(key: str, default: str = "") -> str:
    """A setting as text: Qt gives back text for whatever was stored, or nothing."""
    return str(slicer.util.settingsValue(key, default) or "")


def keep_setting(key: str, value: str) -> None:
    qt.QSettings().setValue(key, value)


def base_folder() -> Path:
    """Folder ``GEDGAN`` of the user's documents, unless the settings name another."""
    chosen = setting(FOLDER)
    if chosen:
        return Path(chosen)
    return Path(qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation)) / "GEDGAN"


def new_folder(kind: str) -> Path:
    """A folder of this kind (``runs``, ``jobs``, ``data`` ...) that does not exist yet; it is not made."""
    stem = time.strftime("%Y-%m-%d_%H-%M-%S")
    parent, number = base_folder() / kind, 1
    while True:
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        if not folder.exists():
            return folder
        number += 1


def recent_models() -> list[Path]:
    """Models used before that are still there, the latest first."""
    try:
        known = [Path(path) for path in json.loads(setting(MODELS, "[]"))]
    except (ValueError, TypeError):
        known = []
    return [path for path in known if path.is_file()]


def remember_model(path: Path) -> None:
    """Put a model in front of the recent ones."""
    others = [known for known in recent_models() if known != Path(path)]
    keep_setting(MODELS, json.dumps([str(path), *map(str, others)][:MOST_MODELS]))


def training_job() -> Path | None:
    """Folder of the job of the last training that was not seen ending."""
    kept = setting(TRAINING)
    return Path(kept) if kept else None


def remember_training(folder: Path | None) -> None:
    keep_setting(TRAINING, "" if folder is None else str(folder))
