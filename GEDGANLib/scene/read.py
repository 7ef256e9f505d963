"""MRML -> cases: volumes and segmentations that a user ticked in the scene."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..volumes.case import Case, Label
from .nodes import ATTRIBUTE


def cases_in_scene(scene: Any) -> list[tuple[Any, Any | None]]:
    """Volumes of a scene with their segmentations: a pair a segmentation, or all volumes where there is none.

    Of a case of several channels the volume is the first, in whose geometry it was segmented.
    """

    def nodes(class_name: str) -> list[Any]:
        collection = scene.GetNodesByClass(class_name)
        return [collection.GetItemAsObject(index) for index in range(collection.GetNumberOfItems())]

    pairs = []
    for segmentation in nodes("vtkMRMLSegmentationNode"):
        volume = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
        if volume is not None:
            pairs.append((volume, segmentation))
    scalar = [node for node in nodes("vtkMRMLScalarVolumeNode") if not node.IsA("vtkMRMLVectorVolumeNode")]
    return pairs or [(volume, None) for volume in scalar]


def origin_of(node: Any) -> dict[str, Any]:
    """What a synthesized case's node says of where it came from, as ``Case.provenance``; empty for other nodes."""
    found: dict[str, Any] = {}
    for name in node.GetAttributeNames() or ():
        if name.startswith(ATTRIBUTE):
            text = node.GetAttribute(name)
            try:
                found[name[len(ATTRIBUTE) :]] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                found[name[len(ATTRIBUTE) :]] = text
    return found


def _world_affine(node: Any) -> np.ndarray:
    """Index to RAS of a volume as it is shown: its own matrix and all linear transforms above it.

    :raises InputError: a transform above it is not linear.
    """
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    parent = node.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise InputError(
                f"The volume {node.GetName()} is under a transform that bends it.",
                "Harden the transform (right-click on it in the Data module) and try again.",
            )
        to_world = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(to_world)
        vtk.vtkMatrix4x4.Multiply4x4(to_world, matrix, matrix)
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def case_from_scene(volumes: Sequence[Any], segmentation: Any | None = None, class_name: str | None = None) -> Case:
    """Return volumes (one a channel) and a segmentation of the scene as a case. The scene stays as it is.

    Segments are sampled on the grid of the first volume; where they overlap the later one wins. Segment names,
    colours and terminology are kept. Linear transforms are applied, whether hardened or not.

    :raises InputError: no voxels, channels of different size or place, a bending transform.
    """
    import slicer

    first = volumes[0]
    channels = []
    affine = _world_affine(first)
    for node in volumes:
        if node.GetImageData() is None:
            raise InputError(f"The volume {node.GetName()} has no voxels.", "Load it again, or take another.")
        array = slicer.util.arrayFromVolume(node)
        if array.ndim != 3:
            raise InputError(f"{node.GetName()} is a colour or vector volume.", "Take a scalar volume.")
        if channels and (array.T.shape != channels[0].shape or not np.allclose(_world_affine(node), affine, atol=1e-3)):
            raise InputError(
                f"{node.GetName()} and {first.GetName()} have different grids, though they are channels of one case.",
                "Resample one onto the other with Resample Image (BRAINS).",
            )
        channels.append(array.T.astype(np.float32))
    labels, table = (None, ()) if segmentation is None else _read_segments(segmentation, first)
    kinds = {slicer.util.arrayFromVolume(node).dtype for node in volumes}
    kind = kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
    return Case(
        name=first.GetName(),
        image=np.stack(channels),
        labels=labels,
        affine=affine,
        label_table=table,
        channel_names=tuple(node.GetName() for node in volumes) if len(volumes) > 1 else ("image",),
        description=first.GetDescription() or "",
        class_name=class_name,
        kind=kind.name if np.issubdtype(kind, np.integer) and kind.itemsize <= 4 else "",
        provenance=origin_of(first),
    )


def _read_segments(node: Any, reference: Any) -> tuple[np.ndarray, tuple[Label, ...]]:
    import slicer

    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() > 255:
        raise InputError(f"{node.GetName()} has more than 255 segments.", "Merge or remove some.")
    labels = np.zeros(slicer.util.arrayFromVolume(reference).T.shape, dtype=np.uint8)
    table = []
    for position in range(segmentation.GetNumberOfSegments()):
        identifier = segmentation.GetNthSegmentID(position)
        segment = segmentation.GetSegment(identifier)
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, reference)
        labels[array.T > 0] = position + 1
        tag, terminology = slicer.vtkSegment.GetTerminologyEntryTagName(), _Reference()
        found = segment.GetTag(tag, terminology.value)
        table.append(
            Label(
                index=position + 1,
                value=segment.GetLabelValue(),
                name=segment.GetName(),
                color=tuple(float(part) for part in segment.GetColor()),
                terminology=str(terminology.value) if found else "",
            )
        )
    return labels, tuple(table)


class _Reference:
    """A string that VTK fills in."""

    def __init__(self) -> None:
        import vtk

        self.value = vtk.reference("")
