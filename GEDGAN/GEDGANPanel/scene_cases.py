"""The scene's volumes as a table: what is ticked, with which segmentation, of which class, whether it can be used.

What the user decides is kept on the volume's node, so that it is saved with the scene and survives renaming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

USE, CLASS, SEGMENTATION = "GEDGAN.use", "GEDGAN.class", "GEDGAN.segmentation"
OURS = ("GEDGAN.synthetic", "GEDGAN.preview", "GEDGAN.map")
"""Attributes of volumes that the panel made; learning from these is not offered."""


@dataclass(frozen=True)
class Row:
    """A volume that might be learned from.

    :param status: in words.
    :param usable: it can be ticked.
    """

    volume: Any
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
    every = segmentations()
    by_volume = {}
    for node in every:
        reference = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if reference is not None:
            by_volume.setdefault(reference.GetID(), node)
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
                segmentation,
                volume.GetAttribute(CLASS) or "",
                not fault and volume.GetAttribute(USE) == "yes",
                not fault,
                fault or _status(volume, segmentation),
            )
        )
    return found


def tick(volume: Any, ticked: bool) -> None:
    volume.SetAttribute(USE, "yes" if ticked else None)


def choose_segmentation(volume: Any, segmentation: Any | None) -> None:
    volume.SetNodeReferenceID(SEGMENTATION, None if segmentation is None else segmentation.GetID())
    volume.SetAttribute(SEGMENTATION, "none" if segmentation is None else None)


def set_class(volume: Any, name: str) -> None:
    volume.SetAttribute(CLASS, name.strip() or None)


def _ours(node: Any) -> bool:
    return any(node.GetAttribute(name) for name in OURS)


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


def _status(volume: Any, segmentation: Any | None) -> str:
    shape = "×".join(str(side) for side in volume.GetImageData().GetDimensions())
    moved = _(", moved by its transform") if volume.GetParentTransformNode() is not None else ""
    if segmentation is None:
        return _("teaches the image alone{moved}; {shape}").format(shape=shape, moved=moved)
    count = segmentation.GetSegmentation().GetNumberOfSegments()
    if count == 0:
        return _("its segmentation is empty{moved}; {shape}").format(shape=shape, moved=moved)
    return _("{count} segment(s){moved}; {shape}").format(shape=shape, count=count, moved=moved)
