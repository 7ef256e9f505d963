"""Cases as files: what a folder is found to hold, and how its files are looked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .files import SEGMENTATION_SUFFIX, stem_of, suffix_of
from .naming import CHANNEL, core_of, is_named_as_label

IMAGE_FOLDERS = ("imagesTr", "images", "image", "volumes", "scans")
LABEL_FOLDERS = (
    "labelsTr", "labels", "label", "segmentations", "segmentation", "segs", "seg", "masks", "mask", "annotations",
    "annotation", "groundtruth", "ground_truth", "gt", "manual",
)  # fmt: skip


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    :param images: one file a channel, one file of several channels, or one folder of a DICOM series.
    :param label: segmentation, or None.
    :param class_name: kind of case, see ``classes``; None where it is not known.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    class_name: str | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return self.images if self.label is None else (*self.images, self.label)


@dataclass(frozen=True)
class Dataset:
    """Cases of one kind.

    :param label_names: value in the files -> name, as far as the user gave names; background left out.
    :param names_are_complete: a value without a name is an error (there is a ``dataset.json``).
    :param warnings: what a person should know of the files that were found, and of those that were not.
    :param wanted_labels: names of the structures that are learned; others are background. None for all.
    :param one_label: name of the one structure that all numbers in segmentations are pieces of; "" where each is its
        own.
    """

    folder: Path
    cases: tuple[CaseFiles, ...]
    channel_names: tuple[str, ...]
    label_names: dict[int, str]
    names_are_complete: bool
    description: str = ""
    warnings: tuple[str, ...] = ()
    wanted_labels: frozenset[str] | None = None
    one_label: str = ""


def label_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and _is_volume(path)]


def image_files(folder: Path, labels: Collection[str] = ()) -> list[Path]:
    """Files that are named as images are; links to nowhere among them, of which whoever reads them tells.

    Among images such as are named as segmentations are these, unless all are. Where segmentations have a folder of
    their own only those are that go with an image here.

    :param labels: names of the segmentations in such a folder, without their endings.
    """
    found = [path for path in label_files(folder) if not path.is_dir()]
    named = [path for path in found if is_named_as_label(path)]
    if labels:
        cores = {core_of(stem_of(path), frozenset()) for path in found}
        named = [
            path
            for path in named
            if suffix_of(path) == SEGMENTATION_SUFFIX
            or (core_of(stem_of(path)) in cores and not {stem_of(path), _without_channel(path)} & set(labels))
        ]
    of_images = [path for path in found if path not in set(named)]
    if of_images or any(suffix_of(path) == SEGMENTATION_SUFFIX for path in named):
        return of_images
    return named


def _without_channel(path: Path) -> str:
    match = CHANNEL.match(stem_of(path))
    return match.group(1) if match else stem_of(path)


def _is_volume(path: Path) -> bool:
    """Whether a file is named as a volume; of ``.vtk``, which is a mesh as often, whether it says so too."""
    if suffix_of(path) != ".vtk" or not path.is_file():
        return bool(suffix_of(path))
    with open(path, "rb") as file:
        return b"STRUCTURED_POINTS" in file.read(1024)


def unmatched_labels(folders: Sequence[Path], cases: Sequence[CaseFiles], beside: Sequence[Path] = ()) -> list[str]:
    """What to say of segmentations in ``folders``, or ``beside`` the images, that belong to no image.

    :raises InputError: not one belongs to an image, though there are some.
    """
    used = {case.label for case in cases if case.label is not None}
    left = [path for folder in folders for path in label_files(folder) if path not in used] + [
        path for path in beside if path not in used
    ]
    if not left:
        return []
    if not used:
        raise InputError(
            f"None of the {len(left)} segmentations in {left[0].parent} has the name of an image: there is "
            f"{left[0].name}, and the images are called {cases[0].images[0].name} and the like.",
            "Give each segmentation the name of its image.",
        )
    return [f"{len(left)} segmentation(s) belong to no image, {left[0]} for example; they are left out."]


def folders_named(folder: Path, names: Sequence[str]) -> list[Path]:
    """Folders in ``folder`` with one of ``names``, in any case of letters, in the order of the names."""
    lower = [name.lower() for name in names]
    try:
        found = [path for path in folder.iterdir() if path.is_dir() and path.name.lower() in lower]
    except PermissionError:  # a parent that may be entered and not listed, as on many clusters
        found = [folder / name for name in names if (folder / name).is_dir()]
    return sorted(found, key=lambda path: lower.index(path.name.lower()))


def add_channel(channels: dict[int, Path], channel: int, path: Path) -> None:
    """:raises InputError: the case has that channel already."""
    if channel in channels:
        raise InputError(f"{channels[channel]} and {path.name} are the same channel of one case.", "Keep one.")
    channels[channel] = path
