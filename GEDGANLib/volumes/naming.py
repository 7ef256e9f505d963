"""Which file is the segmentation of which image, by their names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .files import SEGMENTATION_SUFFIX, stem_of, suffix_of

CHANNEL = re.compile(r"(.+)_(\d{4})$")
MOST_CHANNELS = 16
"""Numbers at the end of a name from which they are no channels: years, visits, cases."""
LABEL_WORDS = frozenset(
    (
        "seg", "segm", "segmentation", "segmentations", "label", "labels", "labelmap", "mask", "masks", "gt",
        "groundtruth", "dseg", "annotation", "annotations", "manual", "delineation",
    )
)  # fmt: skip
"""Parts of a name, between its ``_``, ``-``, ``.`` and blanks, that say it is a segmentation."""
SEQUENCE_WORDS = frozenset(
    (
        "t1", "t2", "t1w", "t2w", "t1c", "t1ce", "t1gd", "t1n", "t2f", "t2star", "flair", "pd", "pdw", "adc", "dwi",
        "swi", "b0", "fa", "md", "water", "fat", "inphase", "outphase", "ip", "op", "ct", "cbct", "mr", "mri", "pet",
        "suv", "dose",
    )
)  # fmt: skip
"""Words of names by which files of one scan are told apart as its channels."""
IMAGE_WORDS = SEQUENCE_WORDS | {"image", "images", "img", "volume", "volumes", "vol", "scan", "scans", "orig"}
"""Those that say it is a scan, and that its segmentation may lack."""


def words_of(stem: str) -> tuple[str, ...]:
    """Parts of a name, in small letters."""
    return tuple(part for part in re.split(r"[_\-. ]+", stem.lower()) if part)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def is_named_as_label(path: Path) -> bool:
    """Whether a file says by its name that it is a segmentation."""
    return suffix_of(path) == SEGMENTATION_SUFFIX or bool(LABEL_WORDS & set(words_of(stem_of(path))))


def core_of(stem: str, without: frozenset[str] = LABEL_WORDS) -> tuple[str, ...]:
    """Parts of a name that are not among these words."""
    return tuple(word for word in words_of(stem) if word not in without)


def pair_labels(
    names: Sequence[str], candidates: Iterable[Path], listed: Mapping[str, Path] | None = None
) -> tuple[dict[str, Path], list[str]]:
    """The segmentation of each case that has one, and what to say of those whose names leave it open.

    Its name is that of the case, or that with ``_0000`` behind it; else it is the one that is listed; else its name
    differs by words that say what the files are: ``p1`` and ``p1_gt``, ``volume-3`` and ``segmentation-3``,
    ``sub-01_T1w`` and ``sub-01_dseg``. No file is the segmentation of two cases.

    :param candidates: files of segmentations, those that go before others first.
    :param listed: file of a case, where a list says so.
    """
    candidates = list(candidates)
    by_stem: dict[str, Path] = {}
    for path in candidates:
        by_stem.setdefault(stem_of(path), path)
    found: dict[str, Path] = {}
    for name in names:
        for exact in (name, f"{name}_0000"):
            if exact in by_stem:
                found[name] = by_stem[exact]
                break
        else:
            if listed and name in listed:
                found[name] = listed[name]
    warnings: list[str] = []
    for loosely in (False, True):
        _pair_by_words(names, candidates, found, loosely, warnings)
    return found, warnings


def _pair_by_words(
    names: Sequence[str], candidates: Sequence[Path], found: dict[str, Path], loosely: bool, warnings: list[str]
) -> None:
    """Pair what is left by names without the words that say what files are.

    :param loosely: without those of images too, which must not be others in the two names.
    """
    without = LABEL_WORDS | IMAGE_WORDS if loosely else LABEL_WORDS
    taken, by_core = set(found.values()), defaultdict(list)
    for path in candidates:
        if path not in taken:
            by_core[core_of(stem_of(path), without)].append(path)
    fits: dict[str, list[Path]] = {}
    for name in names:
        core = core_of(name, IMAGE_WORDS if loosely else frozenset())
        if name in found or not core:
            continue
        own = IMAGE_WORDS & set(words_of(name))
        fits[name] = [path for path in by_core[core] if IMAGE_WORDS & set(words_of(stem_of(path))) <= own]
    claims = Counter(path for paths in fits.values() for path in paths)
    for name, paths in fits.items():
        free = [path for path in paths if claims[path] == 1]
        if len(paths) == 1 and free:
            found[name] = paths[0]
        elif len(paths) > 1:
            warnings.append(f"{len(paths)} segmentations fit {name}, {paths[0]} and {paths[1]}: none is used.")
        elif paths:
            warnings.append(f"The segmentation {paths[0]} fits {claims[paths[0]]} images: it is used for none of them.")
    warnings[:] = list(dict.fromkeys(warnings))
