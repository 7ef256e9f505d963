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
    order = np.random.default_rng(seed).permutation(len(unseen))
    parts = np.array_split(order, min(max(folds, 1), len(unseen)))
    if folds == 1:
        parts = [order[: max(len(order) // 5, 1)]]
    result = []
    for part in parts:
        validation = {unseen[index] for index in part}
        result.append({"train": [name for name, _ in real if name not in validation], "val": sorted(validation)})
    return result


def write_splits(folder: Path, splits: Sequence[dict[str, list[str]]], synthetic: Sequence[str]) -> Path:
    """Write ``splits_final.json``, the synthetic cases in every training part, and return its path.

    :raises InputError: it cannot be written.
    """
    content = [{"train": [*split["train"], *synthetic], "val": split["val"]} for split in splits]
    path = folder / "splits_final.json"
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode("utf-8"))
    return path
