"""Options and kinds of values that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError

MOST_LABELS = 32  # as in ``planning.words``; a test compares
METHODS = ("ged", "article")  # as those that are trained in ``planning.words``; a test compares
DATA = "folder of scans: nnU-Net or Medical Decathlon, plain images with or without labels, or DICOM series"
"""Help of what a data set is."""
DEVICE = {
    "default": "auto",
    "choices": ("auto", "cuda", "mps", "cpu"),
    "help": "where to compute (default: the best)",
}
"""Of ``add_argument("--device", ...)``."""


MODEL = "model.safetensors of a run, or the name of a known model (gedgan models)"
ALIGNED = "run of gedgan align, or a model of one; or the name of a known model (gedgan models)"
"""Of an argument of the kind :func:`a_model`."""


def add_class_column(parser: argparse.ArgumentParser) -> None:
    """The column that tells classes."""
    parser.add_argument(
        "--class-column",
        metavar="NAME",
        help="column of DATA/participants.tsv that tells the class of a case (default: class, if there is one)",
    )


def add_contents(parser: argparse.ArgumentParser) -> None:
    """What the channels of scans are, and which structures are learned."""
    parser.add_argument(
        "--channels",
        nargs="+",
        metavar="NAME",
        help="what the channels are, in their order: CT and dose have absolute intensities",
    )
    add_structures(parser)


def add_structures(parser: argparse.ArgumentParser) -> None:
    """Which structures are learned."""
    parser.add_argument(
        "--structures",
        nargs="+",
        metavar="NAME",
        help=f"which segmented structures are learned (default: all; of more than {MOST_LABELS} those that most scans "
        "have); others are background",
    )
    parser.add_argument(
        "--one-structure",
        metavar="NAME",
        help="all numbers in the segmentations are pieces of one structure (cells, lesions), which gets this name",
    )


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """What a plan is made from, besides the data."""
    add_class_column(parser)
    parser.add_argument("--device", **DEVICE)
    parser.add_argument("--grid", type=above_zero(int), nargs=3, metavar="N", help="voxels of the working grid")
    parser.add_argument(
        "--spacing", type=above_zero(float), nargs="+", metavar="MM", help="voxel size: one number or three"
    )
    add_contents(parser)
    parser.add_argument("--method", choices=METHODS, help="ged (default), or the article's baseline to compare with")
    parser.add_argument(
        "--alignment",
        choices=("auto", "template", "none"),
        help="bring the scans to a template first: if that helps them (default), always, or never",
    )
    parser.add_argument(
        "--for-sharing",
        action="store_true",
        help="a model to be passed on (gedgan share): of the directions in which the scans differ it takes as few as "
        "give little of single scans away",
    )


def add_form(parser: argparse.ArgumentParser) -> None:
    """In what form synthesized cases are wanted."""
    parser.add_argument(
        "--truncation",
        type=a_truncation,
        default=1.0,
        metavar="T",
        help="0 for the most typical case, 1 as varied as was learned (default), above 1 more extreme",
    )
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="keep these labels alone (default: all)")
    parser.add_argument("--spacing", type=above_zero(float), nargs="+", metavar="MM", help="voxels of this size")
    parser.add_argument("--original", action="store_true", help="voxels and size like the scans learned from")
    parser.add_argument(
        "--float", action="store_true", help="fractions where the scans learned from have whole numbers"
    )


def a_share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 1")
    return value


def a_truncation(text: str) -> float:
    """A number from 0 to 2."""
    value = float(text)
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 2")
    return value


def a_path(text: str) -> Path:
    """A path, a leading ~ being the home folder."""
    return Path(text).expanduser()


def a_model(text: str) -> Path:
    """Path of a model: a file or the folder of a run, or the name of a known one; a file of that name comes first."""
    return _known(text, "path")


def a_source_of_segmentations(text: str) -> Path:
    """Path of scans or of a segmentation network, or the name of a known model that has one."""
    return _known(text, "network")


def _known(text: str, part: str) -> Path:
    path = a_path(text)
    if path.exists() or path.suffix or path.name != text:
        return path
    from ..synthesis.known_models import known_models, model_named

    model = model_named(text)
    if model is None:
        names = ", ".join(each.name for each in known_models()) or "none yet"
        raise argparse.ArgumentTypeError(f"{text} is neither there nor the name of a known model ({names})")
    if (found := getattr(model, part)) is None:
        what = "network that segments" if part == "network" else "generator"
        raise argparse.ArgumentTypeError(f"the model {text} has no {what}")
    return found


def above_zero(kind: type):
    """Numbers of a type above 0."""

    def convert(text: str):
        value = kind(text)
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"{text} must be above 0")
        return value

    convert.__name__ = "number"
    return convert


def a_whole_number(text: str) -> int:
    """A whole number from 0 to 1000."""
    if not text.isdecimal() or int(text) > 1000:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 on")
    return int(text)


def a_shard(text: str) -> tuple[int, int]:
    """The i-th of n parts, as ``i/n``."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text} must be like 2/8, the second of eight")
    return int(number), int(count)


def a_seed(text: str) -> int:
    """A whole number that starts random numbers."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 on")
    return int(text)


def three_of(spacing: Sequence[float] | None) -> list[float] | None:
    """Voxel sizes of three axes, mm, of what --spacing was given; None where it was not.

    :raises InputError: it was given two, or more than three.
    """
    if spacing is None:
        return None
    if len(spacing) not in (1, 3):
        raise InputError(
            f"--spacing was given {len(spacing)} numbers.", "Give one number or three: one is for all axes."
        )
    return list(spacing) * (3 if len(spacing) == 1 else 1)
