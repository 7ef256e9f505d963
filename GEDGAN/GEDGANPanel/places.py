"""Where the panel keeps what outlives Slicer: folders of runs, recent models, trainings and reports that go on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import qt
import slicer

FOLDER, MODELS, PAGES, DEVICES = "GEDGAN/folder", "GEDGAN/models", "GEDGAN/reportPages", "GEDGAN/devices"
TRAININGS, REPORTS, ALIGNMENTS = "GEDGAN/trainingJobs", "GEDGAN/reportJobs", "GEDGAN/alignmentJobs"
SEGMENTATIONS = "GEDGAN/segmentationJobs"
"""Lists of jobs; several, as several Slicers may run at once."""
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


def models_folder() -> Path:
    """The user's own folder of models: where the shell has it too, if the environment says where."""
    from GEDGANLib.synthesis.known_models import own_folder

    return own_folder(base_folder() / "models")


def named_models() -> list[Path]:
    """Models that come with GED-GAN, and those in :func:`models_folder`."""
    from GEDGANLib.synthesis.known_models import known_models

    return [model.path for model in known_models(models_folder()) if model.path is not None]


def recent_models() -> list[Path]:
    """Models used before that are still there, the latest first."""
    return [path for path in map(Path, _kept(MODELS, list)) if path.is_file()]


def remember_model(path: Path) -> None:
    """Put a model in front of the recent ones."""
    others = [known for known in recent_models() if known != Path(path)]
    keep_setting(MODELS, json.dumps([str(path), *map(str, others)][:MOST_MODELS]))


def _kept(key: str, kind: type) -> Any:
    """A list or dictionary that was kept as JSON; an empty one where there is none, or nonsense."""
    try:
        return kind(json.loads(setting(key)))
    except (ValueError, TypeError):
        return kind()


def report_page(model: Path) -> Path | None:
    """The page of the last report on a model."""
    page = _kept(PAGES, dict).get(str(model))
    return Path(page) if page else None


def remember_report(model: Path, page: Path) -> None:
    others = [each for each in _kept(PAGES, dict).items() if each[0] != str(model)]
    keep_setting(PAGES, json.dumps(dict([(str(model), str(page)), *others][:MOST_MODELS])))


def jobs(kind: str) -> list[Path]:
    """Folders of the jobs that were not seen ending, the latest first.

    :param kind: :data:`TRAININGS`, :data:`REPORTS`, :data:`ALIGNMENTS` or :data:`SEGMENTATIONS`.
    """
    return [path for path in map(Path, _kept(kind, list)) if path.is_dir()]


def remember_job(kind: str, folder: Path) -> None:
    keep_setting(kind, json.dumps([str(folder), *(str(known) for known in jobs(kind) if known != folder)]))


def forget_job(kind: str, folder: Path) -> None:
    keep_setting(kind, json.dumps([str(known) for known in jobs(kind) if known != folder]))
