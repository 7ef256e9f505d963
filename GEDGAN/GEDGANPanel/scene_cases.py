"""The scene's volumes as a table: what is ticked, of which case, with which segmentation, whether it can be used.

What the user decides is kept on the volume's node, so that it is saved with the scene and survives renaming.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from GEDGANLib.scene.gather import Ticked

USE, CASE, CLASS, SEGMENTATION = (f"GEDGANPanel.{name}" for name in ("use", "case", "class", "segmentation"))
"""Attributes of volumes; those that begin with ``GEDGAN.`` say where a synthesized case came from."""
SYNTHETIC, PREVIEW, MAP = "GEDGAN.synthetic", "GEDGANPanel.preview", "GEDGANPanel.map"
EDIT = "GEDGANPanel.edit"
VARIATION, SIMULATED, CARRIED = "GEDGAN.variation_of", "GEDGAN.simulated_from", "GEDGAN.segmentation_carried_from"
SEGMENTED = "GEDGAN.segmented_by"
"""Attributes of volumes and segmentations that the panel made; learning from these is not offered."""
MOST_BYTES = 2_000_000
"""Of an array that are looked at to tell it from another; of a larger one every third, fifth ... byte."""


@dataclass(frozen=True)
class Row:
    """A volume that might be learned from.

    :param case: name of the case that it is a channel of; volumes of one name are one case.
    :param status: in words.
    :param usable: it can be ticked.
    """

    volume: Any
    case: str
    segmentation: Any | None
    class_name: str
    ticked: bool
    usable: bool
    status: str


def segmentations() -> list[Any]:
    """All segmentation nodes that are not the panel's own."""
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if not _ours(node)]


def rows() -> list[Row]:
    """A row a scalar volume of the scene, in the scene's order."""
    by_volume: dict[str, Any] = {}
    for node in segmentations():
        reference = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        # One with segments is preferred: Slicer makes an empty one where the Segment Editor is opened.
        if reference is not None and not has_segments(by_volume.get(reference.GetID())):
            by_volume[reference.GetID()] = node
    found = []
    for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if volume.IsA("vtkMRMLVectorVolumeNode") or volume.IsA("vtkMRMLLabelMapVolumeNode") or _ours(volume):
            continue
        chosen = volume.GetNodeReference(SEGMENTATION)
        declined = volume.GetAttribute(SEGMENTATION) == "none"
        segmentation = None if declined else chosen or by_volume.get(volume.GetID())
        fault = _fault(volume)
        found.append(
            Row(
                volume,
                volume.GetAttribute(CASE) or volume.GetName(),
                segmentation,
                volume.GetAttribute(CLASS) or "",
                not fault and volume.GetAttribute(USE) == "yes",
                not fault,
                fault or _status(volume, segmentation),
            )
        )
    return _channels_told(found)


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each case. Volumes of one case are in the order of their names, which is alike in all cases.

    Two volumes that happen to have one name are two cases; what makes them one is that a case was written beside one.
    """
    named = {row.volume.GetAttribute(CASE) for row in rows}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.case if row.case in named else row.volume.GetID(), []).append(row)
    return [sorted(group, key=lambda row: row.volume.GetName().casefold()) for group in groups.values()]


def ticked_cases(rows: Sequence[Row]) -> list[Ticked]:
    """What is ticked, for the library; class and segmentation of a case are the first that any of its volumes has."""
    cases = []
    for group in grouped([row for row in rows if row.ticked]):
        segmentation = next((row.segmentation for row in group if has_segments(row.segmentation)), None)
        class_name = next((row.class_name for row in group if row.class_name), None)
        first, *more = (row.volume for row in group)
        cases.append(Ticked(first, segmentation, class_name, tuple(more), group[0].case))
    return cases


def channels_of(volume: Any) -> list[Any]:
    """All channels of the case that a volume is one of."""
    for group in grouped(rows()):
        if any(row.volume is volume for row in group):
            return [row.volume for row in group]
    return [volume]


def fingerprint(cases: Sequence[Ticked], of_data: Callable[[Any | None], Any] | None = None) -> tuple:
    """Changes with whatever of these cases a training would see.

    :param of_data: tells the data of volumes and segments from others; by their age when not given, which is quick but
        does not outlive the session.
    """
    of_data = of_data or _age
    return tuple(
        (
            *((_place(node), of_data(node.GetImageData())) for node in (case.volume, *case.more)),
            None if case.segmentation is None else (_place(case.segmentation), _segments(case.segmentation, of_data)),
            case.class_name,
            case.name,
        )
        for case in cases
    )


def checksum(data: Any | None) -> int:
    """Of the values of image data or a surface; the same in every session."""
    if data is None:
        return 0
    array = data.GetPointData().GetScalars() if data.IsA("vtkImageData") else None
    if array is None and data.IsA("vtkPointSet") and data.GetPoints() is not None:
        array = data.GetPoints().GetData()
    if array is None:
        return 0
    values = np.ascontiguousarray(vtk_to_numpy(array)).view(np.uint8).ravel()
    step = len(values) // MOST_BYTES | 1  # odd, or of numbers of two bytes only the low ones would be seen
    return zlib.crc32(np.ascontiguousarray(values[::step]))


def _place(node: Any) -> tuple:
    """What a volume is called, whether the node is in the scene, and where it lies there."""
    numbers: list[float] = []
    matrix, called = vtk.vtkMatrix4x4(), ""
    if node.IsA("vtkMRMLVolumeNode"):
        called = node.GetName()
        node.GetIJKToRASMatrix(matrix)
        numbers += [matrix.GetElement(row, column) for row in range(3) for column in range(4)]
    parent = node.GetParentTransformNode()
    if parent is not None and parent.IsTransformToWorldLinear():
        parent.GetMatrixTransformToWorld(matrix)
        numbers += [matrix.GetElement(row, column) for row in range(3) for column in range(4)]
    there = bool(slicer.mrmlScene.IsNodePresent(node))
    return called, there, *(round(number, 4) for number in numbers)


def _segments(node: Any, of_data: Callable[[Any | None], Any]) -> tuple:
    """Names and data of the segments of a segmentation node, in the representation that the others are made from."""
    segmentation = node.GetSegmentation()
    source = segmentation.GetSourceRepresentationName()
    found = []
    for position in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(position)
        found.append((segment.GetName(), of_data(segment.GetRepresentation(source))))
    return tuple(found)


def _age(data: Any | None) -> int:
    return 0 if data is None else data.GetMTime()


def tick(volume: Any, ticked: bool) -> None:
    volume.SetAttribute(USE, "yes" if ticked else None)


def choose_segmentation(volume: Any, segmentation: Any | None) -> None:
    volume.SetNodeReferenceID(SEGMENTATION, None if segmentation is None else segmentation.GetID())
    volume.SetAttribute(SEGMENTATION, "none" if segmentation is None else None)


def set_class(volume: Any, name: str) -> None:
    volume.SetAttribute(CLASS, name.strip() or None)


def set_case(volume: Any, name: str) -> None:
    """Make a volume a channel of a case.

    :param name: of the case; empty or the volume's own: it is a case of its own.
    """
    name = name.strip()
    volume.SetAttribute(CASE, None if name in ("", volume.GetName()) else name)


def _ours(node: Any) -> bool:
    made = (SYNTHETIC, VARIATION, SIMULATED, CARRIED, SEGMENTED, PREVIEW, MAP, EDIT)
    return any(node.GetAttribute(name) for name in made)


def _fault(volume: Any) -> str:
    """Why a volume cannot be used; "" when it can."""
    image = volume.GetImageData()
    if image is None or 0 in image.GetDimensions():
        return _("has no voxels")
    if image.GetNumberOfScalarComponents() != 1:
        return _("is a colour image")
    if min(image.GetDimensions()) < 8:
        return _("is thinner than 8 voxels")
    parent = volume.GetParentTransformNode()
    if parent is not None and not parent.IsTransformToWorldLinear():
        return _("is under a transform that bends it; harden it first")
    return ""


def _channels_told(rows: Sequence[Row]) -> list[Row]:
    """The rows, the status of each of several channels saying which one it is."""
    text = _("channel {number} of {count} of {case}; {status}")
    told = {}
    for group in grouped([row for row in rows if row.usable]):
        chosen = next((each for each in group if has_segments(each.segmentation)), None)
        for number, row in enumerate(group, 1) if len(group) > 1 else ():
            status = row.status
            if chosen is not None and row.segmentation not in (None, chosen.segmentation):
                status = _("its segmentation is not used, that of {name} is").format(name=chosen.volume.GetName())
            told[row.volume.GetID()] = text.format(number=number, count=len(group), case=row.case, status=status)
    return [replace(row, status=told.get(row.volume.GetID(), row.status)) for row in rows]


def has_segments(segmentation: Any | None) -> bool:
    """Whether there is any segment in it."""
    return segmentation is not None and segmentation.GetSegmentation().GetNumberOfSegments() > 0


def _status(volume: Any, segmentation: Any | None) -> str:
    shape = "×".join(str(side) for side in volume.GetImageData().GetDimensions())
    moved = _(", moved by its transform") if volume.GetParentTransformNode() is not None else ""
    if segmentation is None:
        return _("teaches the image alone{moved}; {shape}").format(shape=shape, moved=moved)
    count = segmentation.GetSegmentation().GetNumberOfSegments()
    if count == 0:
        return _("its segmentation is empty: teaches the image alone{moved}; {shape}").format(shape=shape, moved=moved)
    return _("{count} segment(s){moved}; {shape}").format(shape=shape, count=count, moved=moved)
