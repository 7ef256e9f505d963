"""Which file is the segmentation of which image, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .files import SEGMENTATION_SUFFIX, stem_of, suffix_of

CHANNEL = re.compile(r"(.+)_(\d{4})$")
LABEL_WORDS = frozenset(
    (
        "seg", "segm", "segmentation", "segmentations", "label", "labels", "labelmap", "mask", "masks", "gt",
        "groundtruth", "dseg", "annotation", "annotations", "manual", "delineation",
    )
)  # fmt: skip
"""Parts of a name, between its ``_``, ``-``, ``.`` and blanks, that say it is a segmentation."""
IMAGE_WORDS = frozenset(
    (
        "image", "images", "img", "volume", "volumes", "vol", "scan", "scans", "orig", "t1w", "t2w", "t1", "t2",
        "flair", "pd", "ct", "mr", "mri", "pet",
    )
)  # fmt: skip
"""Those that say it is a scan, and that its segmentation may lack."""

SEQUENCE_WORDS = frozenset(
    (
        "t1", "t2", "t1w", "t2w", "t1c", "t1ce", "t1gd", "t1n", "t2f", "t2star", "flair", "pd", "pdw", "adc", "dwi",
        "swi", "b0", "fa", "md", "water", "fat", "inphase", "outphase", "ip", "op", "ct", "cbct", "mr", "pet", "suv",
        "dose",
    )
)  # fmt: skip
"""Last words of names by which files of one scan are told apart as its channels."""


def words_of(stem: str) -> tuple[str, ...]:
    """Parts of a name, in small letters."""
    return tuple(part for part in re.split(r"[_\-. ]+", stem.lower()) if part)


def is_named_as_label(path: Path) -> bool:
    """Whether a file says by its name that it is a segmentation."""
    return suffix_of(path) == SEGMENTATION_SUFFIX or bool(LABEL_WORDS & set(words_of(stem_of(path))))


def _core(stem: str, without: frozenset[str]) -> tuple[str, ...]:
    return tuple(word for word in words_of(stem) if word not in without)


def label_among(candidates: Sequence[Path], name: str) -> Path | None:
    """The segmentation of case ``name`` among files of segmentations; None if there is none, or no single one.

    Its name is that of the case, or that with ``_0000`` behind it, or one that differs by words that say what it is:
    ``volume-3`` and ``segmentation-3``, ``sub-01_T1w`` and ``sub-01_dseg``.
    """
    for wanted in (name, f"{name}_0000"):
        for path in candidates:
            if stem_of(path) == wanted:
                return path
    for without in (LABEL_WORDS, LABEL_WORDS | IMAGE_WORDS):
        core = _core(name, without - LABEL_WORDS)
        if not core:
            continue
        found = [path for path in candidates if _core(stem_of(path), without) == core]
        if len(found) == 1:
            return found[0]
    return None
