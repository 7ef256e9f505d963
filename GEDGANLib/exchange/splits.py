"""nnU-Net's ``splits_final.json``: what is trained on and what is validated on, without a leak through a generator.

A synthetic case carries what its generator learned. A real case that the generator learned from must therefore not be
validated on, once synthetic cases are trained on: it would be found a little too easy. So validation cases are real
ones that the generator has not seen; they are divided among the folds, and each fold trains on everything else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..jobs.writing import write_bytes

FEWEST = 2
"""Unseen real cases below which there is nothing to validate on."""


def make_splits(real: Sequence[tuple[str, bool]], folds: int, seed: int = 0) -> list[dict[str, list[str]]]:
    """Folds of the real cases; synthetic ones are added to every training part by :func:`write_splits`.

    :param real: name of each labelled real case and whether the generator learned from it.
    :param folds: as many as asked for; fewer where there are fewer unseen cases.
    :raises InputError: too few cases that the generator has not seen.
    """
    unseen = [name for name, trained_on in real if not trained_on]
    if len(unseen) < FEWEST:
        raise InputError(
            f"The model learned from {len(real) - len(unseen)} of the {len(real)} labelled real cases: {len(unseen)} "
            "are left to validate on. Validating on the others would make synthetic cases look better than they are.",
            "Give --with-real a folder that also holds cases the model was not trained on, or train with more cases "
            "held out (training.held_out in the plan).",
        )
    return [
        {"train": [name for name, _ in real if name not in validation], "val": sorted(validation)}
        for validation in folds_of(unseen, max(folds, 1), seed)
    ]


def folds_of(names: Sequence[str], folds: int, seed: int = 0) -> list[set[str]]:
    """Which labelled real cases each fold validates on; fewer folds where there are fewer cases.

    :raises InputError: one case alone.
    """
    if len(names) < FEWEST:
        raise InputError(
            f"One segmented case alone ({', '.join(names)}) cannot be both trained and validated on.",
            "Segment another one, or leave --with-real out.",
        )
    order = np.random.default_rng(seed).permutation(len(names))
    parts = np.array_split(order, min(folds, len(names)))
    if folds == 1:
        parts = [order[: max(len(order) // 5, 1)]]
    return [{names[index] for index in part} for part in parts]


def write_splits(folder: Path, splits: Sequence[dict[str, list[str]]], synthetic: Sequence[str]) -> Path:
    """Write ``splits_final.json``, the synthetic cases in every training part, and return its path.

    :raises InputError: it cannot be written.
    """
    return write_folds(folder, [{"train": [*split["train"], *synthetic], "val": split["val"]} for split in splits])


def write_folds(folder: Path, content: Sequence[dict[str, list[str]]]) -> Path:
    """Write ``splits_final.json`` and return its path.

    :raises InputError: it cannot be written.
    """
    path = folder / "splits_final.json"
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode("utf-8"))
    return path
