"""Volumes and segmentations that a user ticked in the scene -> a data set on disk, for the worker that learns from it.

The data set is one of nnU-Net's: what is trained from the scene can be trained again without it. The scene stays as it
is; linear transforms above a volume are applied to what is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..exchange.nnunet import DatasetWriter
from ..jobs.writing import claim_empty_folder, explain_unwritable, write_bytes
from ..volumes.case import Case, Label, default_color, numbered_by
from ..volumes.files import write_volume
from ..volumes.fingerprint import Progress, quiet
from .read import case_from_scene

MOST_LABELS = 255


@dataclass(frozen=True)
class Ticked:
    """A case of the scene.

    :param volume: a scalar volume node.
    :param segmentation: a segmentation node, or None; one without any segment says nothing, and is taken for none.
    :param class_name: kind of case; None where it does not matter.
    :param more: volume nodes of further channels.
    :param name: of the case; that of the volume when empty.
    :param channels: what the channels are called; found out from the names of the volumes when not given.
    """

    volume: Any
    segmentation: Any | None = None
    class_name: str | None = None
    more: tuple[Any, ...] = ()
    name: str = ""
    channels: tuple[str, ...] = ()

    def segmentation_with_segments(self) -> Any | None:
        """The segmentation, if there is anything in it."""
        if self.segmentation is None or not self.segmentation.GetSegmentation().GetNumberOfSegments():
            return None
        return self.segmentation


def file_name_of(name: str, taken: set[str]) -> str:
    """A name for the files of a node, of letters every system takes, that is not among ``taken``; it is added there."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "case"
    # nnU-Net takes four digits at the end for the number of a channel.
    plain = re.sub(r"_(\d{4})$", r"-\1", plain)[:80]
    unique, number = plain, 2
    while unique.lower() in taken:
        unique, number = f"{plain}-{number}", number + 1
    taken.add(unique.lower())
    return unique


def labels_of(ticked: Sequence[Ticked]) -> tuple[Label, ...]:
    """One table of all segments, by their names, in the order they are met; colours are those of the first met.

    :raises InputError: more than 255 names.
    """
    table: dict[str, Label] = {}
    for node in filter(None, (case.segmentation_with_segments() for case in ticked)):
        segmentation = node.GetSegmentation()
        for position in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(position)
            name = segment.GetName()
            if name not in table:
                index = len(table) + 1
                color = tuple(float(part) for part in segment.GetColor()) or default_color(index)
                table[name] = Label(index, index, name, color)
    if len(table) > MOST_LABELS:
        raise InputError(
            f"The segmentations have {len(table)} different segment names, more than {MOST_LABELS}.",
            "Give the same structure the same name in every segmentation.",
        )
    return tuple(table.values())


def channels_of(ticked: Sequence[Ticked]) -> tuple[str, ...]:
    """What the channels are called: the names of a case's volumes without the words that all of them begin or end with.

    :raises InputError: the cases differ in it.
    """
    hint = 'Give each case the same, and name the volumes alike, as "anna T1", "anna T2", "bert T1", "bert T2".'
    found = [
        case.channels or _parts_that_differ([node.GetName() for node in (case.volume, *case.more)]) for case in ticked
    ]
    names = found[0] if len(found[0]) > 1 else ("image",)
    for case, own in zip(ticked, found):
        called = case.name or case.volume.GetName()
        if len(set(own)) < len(own):
            raise InputError(f"{called} has several volumes of one name, {own[0]}: which is which?", hint)
        if len(own) != len(names) or (len(own) > 1 and own != names):
            first = ticked[0].name or ticked[0].volume.GetName()
            raise InputError(
                f"The cases have different channels: {first} has {', '.join(names)}, {called} has {', '.join(own)}.",
                hint,
            )
    return names


def _parts_that_differ(names: Sequence[str]) -> tuple[str, ...]:
    """Names without the words at either end that all share; one alone stays as it is."""
    if len(names) == 1:
        return tuple(names)
    words = [re.findall(r"[^\W_]+", name) for name in names]
    for end in (0, -1):
        while all(len(each) > 1 for each in words) and len({each[end] for each in words}) == 1:
            for each in words:
                del each[end]
    return tuple(" ".join(each) for each in words)


def write_segmentation_of(volume: Any, segmentation: Any, name: str, folder: Path) -> None:
    """Write a segmentation of the scene on the voxels of its volume, with the names of its segments, as
    ``folder/NAME.seg.nrrd``.

    :raises InputError: it cannot be written.
    """
    from ..volumes.segmentation_file import write_segmentation

    case = replace(case_from_scene([volume], segmentation), name=name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_segmentation(folder, case, ".nrrd")
    except OSError as error:
        raise explain_unwritable(folder, error) from error


def write_scene_cases(ticked: Sequence[Ticked], folder: Path, progress: Progress = quiet) -> list[str]:
    """Write the cases as a data set, and return their names; parameters as for :func:`writing_scene_cases`."""
    return list(writing_scene_cases(ticked, folder, progress))


def writing_scene_cases(
    ticked: Sequence[Ticked],
    folder: Path,
    progress: Progress = quiet,
    description: str = "volumes of a Slicer scene",
) -> Iterator[str]:
    """Write the cases as a data set and yield the name of each when it is written, so that whoever waits can do
    something else between two of them.

    :param folder: new or empty.
    :param description: of the data set.
    :raises InputError: no case, two cases of one volume, a volume that cannot be used, a full disk.
    """
    if not ticked:
        raise InputError("No volume is ticked.", "Tick the volumes to learn from.")
    seen: set[str] = set()
    for case in ticked:
        if case.volume.GetID() in seen:
            raise InputError(
                f"The volume {case.volume.GetName()} is there twice, with different segmentations.",
                "Tick one of its segmentations.",
            )
        seen.add(case.volume.GetID())
    table, channels = labels_of(ticked), channels_of(ticked)
    claim_empty_folder(folder)
    writer = DatasetWriter(folder, description, _whole_numbers(ticked))
    classes = ["participant_id\tclass"]
    try:
        for case, each in zip(_cases(ticked, table, channels, progress), ticked):
            writer.add(case)
            classes.append(f"{case.name}\t{each.class_name or 'n/a'}")
            yield case.name
    finally:
        # Also when it is stopped: what is there so far is a whole data set.
        if any(case.class_name for case in ticked) and writer.written:
            write_bytes(folder / "participants.tsv", ("\n".join(classes) + "\n").encode("utf-8"))
        writer.close()


def _whole_numbers(ticked: Sequence[Ticked]) -> str:
    """A type that holds the voxels of all volumes, if they are whole numbers; else ""."""
    import slicer

    nodes = [node for case in ticked for node in (case.volume, *case.more) if node.GetImageData() is not None]
    kind = np.result_type(*{slicer.util.arrayFromVolume(node).dtype for node in nodes}) if nodes else np.dtype(float)
    return kind.name if np.issubdtype(kind, np.integer) and kind.itemsize <= 4 else ""


def _cases(
    ticked: Sequence[Ticked], table: tuple[Label, ...], channels: tuple[str, ...], progress: Progress
) -> Iterator[Case]:
    index_of = {label.name: label.index for label in table}
    taken: set[str] = set()
    for position, each in enumerate(ticked):
        case = case_from_scene([each.volume, *each.more], each.segmentation_with_segments(), each.class_name)
        labels = None if case.labels is None else numbered_by(case, index_of)
        name = file_name_of(each.name or case.name, taken)
        yield replace(case, name=name, labels=labels, label_table=table, channel_names=channels)
        progress(position + 1, len(ticked), case.name)


def write_scene_volume(volume: Any, path: Path) -> None:
    """Write a volume of the scene as a file, where the scene shows it.

    :raises InputError: it has no voxels, is under a transform that bends it, or cannot be written.
    """
    case = case_from_scene([volume])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(path, case.image[0], case.affine)
    except OSError as error:
        raise explain_unwritable(path, error) from error
