"""A few iterations, samples and channels in place of those that people get: in all tests and the processes they start.

What a test shows of files, kills, panels or words it shows after ten iterations of registration as after a hundred.
Tests of what the iterations bring ask for :func:`in_earnest`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from GEDGANLib.alignment.registration import Level, Settings
from GEDGANLib.alignment.verdict import TRIAL

LEVELS = (Level(4, 12, 0.25, False), Level(2, 12, 0.25), Level(1, 8, 0.25))
"""Of registration."""
SMALLER: dict[str, Any] = {
    "alignment.verdict.TRIAL": replace(TRIAL, levels=tuple(replace(level, iterations=2) for level in TRIAL.levels)),
    "alignment.carrying.REFINING": (Level(2, 6, 0.25), Level(1, 6, 0.25)),
    "alignment.voting.RADIUS": 1,
    "synthesis.directions.SAMPLES": 96,
    "synthesis.label_sizes.CASES": 16,
    "planning.repainting.LEVELS": (16, 12, 8),
    "planning.repainting.WIDEST": 16,
    "planning.repainting.BATCH": {"cpu": 4, "mps": 4, "cuda": 4},
    "quality.alignment.ITERATIONS": 8,
    "training.measuring.MEASURED_STEPS": 1,
}
"""Of other modules of the library."""


def _place(path: str) -> tuple[Any, str]:
    module, name = path.rsplit(".", 1)
    return importlib.import_module(f"GEDGANLib.{module}"), name


_IN_EARNEST = {path: getattr(*_place(path)) for path in SMALLER}
_LEVELS_IN_EARNEST = Settings().levels


def _replace(chosen: dict[str, Any], levels: tuple[Level, ...]) -> None:
    for path, value in chosen.items():
        setattr(*_place(path), value)
    start = Settings.__init__
    start.__defaults__ = (*start.__defaults__[:-1], levels)


def hurry() -> None:
    """From now on, in this process."""
    _replace(SMALLER, LEVELS)


@contextmanager
def in_earnest() -> Iterator[None]:
    """What people get."""
    _replace(_IN_EARNEST, _LEVELS_IN_EARNEST)
    try:
        yield
    finally:
        hurry()
