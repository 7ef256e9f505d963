"""One case: image channels, their segmentation and where both lie in the patient."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import __version__

# Distinct on a grey image and from each other, in the order they are handed out to labels without a colour.
PALETTE = (
    (0.90, 0.30, 0.24),
    (0.20, 0.60, 0.86),
    (0.95, 0.77, 0.06),
    (0.18, 0.80, 0.44),
    (0.61, 0.35, 0.71),
    (0.90, 0.49, 0.13),
    (0.10, 0.74, 0.61),
    (0.93, 0.53, 0.70),
    (0.55, 0.43, 0.39),
    (0.65, 0.78, 0.27),
)


def default_color(index: int) -> tuple[float, float, float]:
    """Colour, RGB in [0, 1], of the label with consecutive index ``index`` (1 based)."""
    return PALETTE[(index - 1) % len(PALETTE)]


@dataclass(frozen=True)
class Label:
    """A structure that is segmented.

    :param index: consecutive from 1; what training and arrays of a :class:`Case` use.
    :param value: the number in the user's files.
    :param color: RGB, each in [0, 1].
    :param terminology: Slicer's serialised terminology entry, "" where unknown.
    """

    index: int
    value: int
    name: str
    color: tuple[float, float, float]
    terminology: str = ""


@dataclass
class Case:
    """A volume with its segmentation.

    :param image: (C, I, J, K) float32, in the units of the file (HU for CT) unless said otherwise.
    :param labels: (I, J, K) unsigned integers, 0 background and else ``Label.index``; None without segmentation.
    :param affine: 4x4, voxel index to mm in RAS, as NIfTI and Slicer have it.
    :param kind: numpy's name of the type that the voxels have in their file, and keep where they are written again;
        "" where the data set has one.
    :param kinds: the same of each channel, where they are not of one type; () where they are.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray | None
    affine: np.ndarray
    label_table: tuple[Label, ...] = ()
    channel_names: tuple[str, ...] = ("image",)
    description: str = ""
    provenance: dict = field(default_factory=dict)
    class_name: str | None = None
    kind: str = ""
    kinds: tuple[str, ...] = ()

    def kind_of(self, channel: int) -> str:
        """Type that the voxels of a channel have in their file, "" where that is the data set's."""
        return self.kinds[channel] if self.kinds else self.kind

    def in_its_kinds(self, image: np.ndarray) -> np.ndarray:
        """An image like that of the case with the numbers that its file can hold, as float32."""
        kinds = [self.kind_of(index) for index in range(len(image))]
        return np.stack(
            [as_kind(channel, kind).astype(np.float32) if kind else channel for channel, kind in zip(image, kinds)]
        )


def numbered_by(case: Case, index_of: Mapping[str, int]) -> np.ndarray:
    """The labels of a case with the numbers that their names have elsewhere, (I, J, K) uint8; what has none there is
    background."""
    numbers = np.zeros(256, np.uint8)
    for label in case.label_table:
        numbers[label.index] = index_of.get(label.name, 0)
    return numbers[case.labels]


def labels_digest(labels: np.ndarray) -> str:
    """A short text that changes with any voxel of a segmentation, (I, J, K) of whole numbers below 256."""
    voxels = np.ascontiguousarray(labels, np.uint8)
    return hashlib.sha256(repr(voxels.shape).encode() + voxels.tobytes()).hexdigest()[:16]


def description_of_variation(name: str) -> str:
    """One sentence for people who find a variation of a scan later: it stems from a patient."""
    # NIfTI has room for 79 letters, and who made it must be among them
    return f"variation of {_short(name, LONGEST_NAME)}, made by GED-GAN {__version__}"


def description_of_simulation(name: str) -> str:
    """The same of a scan that was deformed to an edit of its segmentation."""
    return f"{_short(name, LONGEST_NAME - 11)} deformed to an edit, made by GED-GAN {__version__}"


def description_of_carried(name: str, sources: Sequence[str]) -> str:
    """The same of a scan whose segmentation nobody drew."""
    more = "" if len(sources) == 1 else f" and {len(sources) - 1} more"
    return f"{_short(name, 14)}, carried from {_short(sources[0], 14)}{more} by GED-GAN {__version__}"


def description_of_segmented(name: str) -> str:
    """The same of a scan that a network segmented."""
    return f"{_short(name, LONGEST_NAME - 3)}, segmented by GED-GAN {__version__}"


def _short(name: str, most: int) -> str:
    return name if len(name) <= most + 3 else f"{name[:most]}..."


LONGEST_NAME = 36


def as_kind(values: np.ndarray, kind: str | np.dtype) -> np.ndarray:
    """Values in a type of numbers: rounded and cut to what it holds, where it is of whole ones."""
    kind = np.dtype(kind)
    if not np.issubdtype(kind, np.integer):
        return values.astype(kind)
    limits = np.iinfo(kind)
    return np.round(values).clip(limits.min, limits.max).astype(kind)
