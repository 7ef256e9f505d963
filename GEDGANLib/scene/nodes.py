"""Cases -> MRML: a volume node a channel and a segmentation node, under one folder of the subject hierarchy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..volumes.case import Case, as_kind

WINDOW_PERCENTILES = (1.0, 99.5)
ATTRIBUTE = "GEDGAN."


@dataclass
class CaseNodes:
    """The nodes of one case in the scene; ``segmentation`` is None where the case has no labels.

    :param channels: what the channels are called.
    :param class_name: kind of case; None where there is none.
    """

    name: str
    volumes: list[Any]
    segmentation: Any | None
    channels: tuple[str, ...] = ()
    class_name: str | None = None

    def every(self) -> list[Any]:
        """Volumes and, where there is one, the segmentation."""
        return [*self.volumes, *([] if self.segmentation is None else [self.segmentation])]


@dataclass
class BatchNodes:
    """The nodes of a batch and the subject-hierarchy folder that holds them all."""

    folder_item: int
    cases: list[CaseNodes] = field(default_factory=list)

    def remove(self) -> None:
        """Take the batch out of the scene again; its folder too, unless something else was put into it."""
        import slicer

        scene = slicer.mrmlScene
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        nodes = [node for case in self.cases for node in case.every()]
        own = {hierarchy.GetItemByDataNode(node) for node in nodes}
        with batch(scene):
            for node in filter(scene.IsNodePresent, nodes):
                scene.RemoveNode(node)
        if self.folder_item:
            children: list[int] = []
            hierarchy.GetItemChildren(self.folder_item, children)
            for item in own.intersection(children):  # the desktop application has removed them already
                hierarchy.RemoveItem(item)
            if own.issuperset(children):
                hierarchy.RemoveItem(self.folder_item)
        self.cases.clear()


@contextmanager
def batch(scene: Any) -> Iterator[None]:
    """Change many nodes with one redraw at the end, whatever happens in between."""
    import slicer

    application = getattr(slicer, "app", None)
    if application is not None:
        application.pauseRender()
    scene.StartState(scene.BatchProcessState)
    try:
        yield
    finally:
        scene.EndState(scene.BatchProcessState)
        if application is not None:
            application.resumeRender()


def add_cases(cases: Iterable[Case], folder_name: str) -> BatchNodes:
    """Add cases to ``slicer.mrmlScene`` under a new subject-hierarchy folder.

    The first case is shown; the segmentations of the others are there but hidden, as they lie in the same place.

    :returns: the nodes, in the order of the cases.
    """
    import slicer

    with batch(slicer.mrmlScene):
        growing = GrowingBatch(folder_name)
        for case in cases:
            growing.add(case)
    return growing.batch


class GrowingBatch:
    """A batch that grows case by case, for who has something else to do between two of them.

    :param folder_name: of the subject-hierarchy folder; it is made with the first case.
    """

    def __init__(self, folder_name: str) -> None:
        self.folder_name = folder_name
        self.batch = BatchNodes(0)

    def add(self, case: Case) -> CaseNodes:
        """Add a case to ``slicer.mrmlScene``; its segmentation is shown if it is the first."""
        import slicer

        scene = slicer.mrmlScene
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        with batch(scene):
            if not self.batch.cases:
                self.batch.folder_item = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), self.folder_name)
            nodes = add_case(case)
            for node in nodes.every():
                _put_into_folder(hierarchy, self.batch.folder_item, node)
            if nodes.segmentation is not None:
                nodes.segmentation.GetDisplayNode().SetVisibility(not self.batch.cases)
        self.batch.cases.append(nodes)
        return nodes


def add_case(case: Case) -> CaseNodes:
    """Add one case to ``slicer.mrmlScene`` where its affine says, in the units of its image."""
    names = [case.name] if len(case.image) == 1 else [f"{case.name} {channel}" for channel in case.channel_names]
    volumes = [
        _add_volume(case, name, channel, case.kind_of(index))
        for index, (name, channel) in enumerate(zip(names, case.image))
    ]
    segmentation = None
    if case.labels is not None:
        segmentation = add_segmentation(case, volumes[0], f"{case.name} segmentation")
    return CaseNodes(case.name, volumes, segmentation, tuple(case.channel_names), case.class_name)


def add_segmentation(case: Case, reference: Any, name: str) -> Any:
    """Add the segmentation of a case alone to ``slicer.mrmlScene``; returns its node.

    :param reference: the volume node that it is of, already there.
    """
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    _describe(case, node)

    labelmap = _labelmap(case)
    segmentation = node.GetSegmentation()
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation.SetSourceRepresentationName(representation)
    for label in case.label_table:
        segment = slicer.vtkSegment()
        segment.SetName(label.name)
        segment.SetColor(*label.color)
        segment.SetLabelValue(label.index)
        if label.terminology:
            segment.SetTag(segment.GetTerminologyEntryTagName(), label.terminology)
        # One array for all segments: Slicer's shared label map, as its own segment editor makes it.
        segment.AddRepresentation(representation, labelmap)
        segmentation.AddSegment(segment, segmentation.GenerateUniqueSegmentID(label.name.replace(" ", "_")))
    return node


def _put_into_folder(hierarchy: Any, folder: int, node: Any) -> None:
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, folder)
    else:  # in the desktop application a plugin has made the item already
        hierarchy.CreateItem(folder, node)


def _vtk_matrix(affine: np.ndarray) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(affine, dtype=float).flatten().tolist())
    return matrix


def _describe(case: Case, node: Any) -> None:
    if case.description:
        node.SetDescription(case.description)
    for key, value in case.provenance.items():
        node.SetAttribute(ATTRIBUTE + key, str(value))


def _describe_anew(case: Case, node: Any) -> None:
    """As :func:`_describe`, and nothing is left of what it said before."""
    for name in list(node.GetAttributeNames() or ()):
        if name.startswith(ATTRIBUTE) and name[len(ATTRIBUTE) :] not in case.provenance:
            node.RemoveAttribute(name)
    _describe(case, node)


def _voxels(channel: np.ndarray, kind: str) -> np.ndarray:
    """As Slicer has them: its arrays run K, J, I; of whole numbers where the case's file has such."""
    if kind and np.issubdtype(np.dtype(kind), np.integer):
        channel = as_kind(channel, kind)
    return np.ascontiguousarray(channel.T)


def _add_volume(case: Case, name: str, channel: np.ndarray, kind: str = "") -> Any:
    """A volume node on the grid of a case.

    :param kind: type of its voxels; "" for that of the array.
    """
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, _voxels(channel, kind))
    node.SetIJKToRASMatrix(_vtk_matrix(case.affine))
    _describe(case, node)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    low, high = (float(value) for value in np.percentile(channel, WINDOW_PERCENTILES))
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, high if high > low else low + 1.0)
    return node


def _labelmap(case: Case) -> Any:
    """The labels as Slicer keeps them in a segmentation."""
    import slicer
    from vtk.util import numpy_support

    labelmap = slicer.vtkOrientedImageData()
    labelmap.SetDimensions(*case.labels.shape)
    scalars = numpy_support.numpy_to_vtk(case.labels.ravel(order="F").astype(np.uint8), deep=True)
    scalars.SetName("ImageScalars")
    labelmap.GetPointData().SetScalars(scalars)
    labelmap.SetImageToWorldMatrix(_vtk_matrix(case.affine))
    return labelmap


def update_case(nodes: CaseNodes, case: Case) -> None:
    """Put another case of the same channels and labels into nodes that are in the scene, so that views follow at once.

    Names, window, colours and what else the user may have changed stay as they are; so do segments that were removed.
    """
    import slicer

    for index, (node, channel) in enumerate(zip(nodes.volumes, case.image)):
        slicer.util.updateVolumeFromArray(node, _voxels(channel, case.kind_of(index)))
        node.SetIJKToRASMatrix(_vtk_matrix(case.affine))
        _describe_anew(case, node)
    if nodes.segmentation is None or case.labels is None:
        return
    node, labelmap = nodes.segmentation, _labelmap(case)
    segmentation = node.GetSegmentation()
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    shown_in_3d = segmentation.ContainsRepresentation(surface)
    for position in range(segmentation.GetNumberOfSegments()):
        segmentation.GetNthSegment(position).AddRepresentation(representation, labelmap)
    if shown_in_3d:
        segmentation.RemoveRepresentation(surface)
        node.CreateClosedSurfaceRepresentation()
    node.SetReferenceImageGeometryParameterFromVolumeNode(nodes.volumes[0])
    _describe_anew(case, node)
    node.Modified()


def add_maps(
    case: Case, scalars: Sequence[tuple[str, np.ndarray]], colours: Sequence[tuple[str, np.ndarray]], folder_name: str
) -> list[Any]:
    """Add a case and maps of it to ``slicer.mrmlScene`` under a new subject-hierarchy folder.

    :param scalars: name and (I, J, K) of maps that are one number a voxel, on the grid of the case.
    :param colours: name and (I, J, K, 3) uint8 of maps that are colours, which become vector volumes.
    :returns: the volume nodes: the case's channels, the scalars, the colours.
    """
    import slicer

    scene = slicer.mrmlScene
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    with batch(scene):
        folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), folder_name)
        nodes = list(add_case(case).volumes)
        nodes += [_add_volume(case, f"{case.name} {name}", array) for name, array in scalars]
        nodes += [_add_colours(case, f"{case.name} {name}", array) for name, array in colours]
        for node in nodes:
            _put_into_folder(hierarchy, folder, node)
    return nodes


def add_map(name: str, array: np.ndarray, affine: np.ndarray) -> Any:
    """Add a map of one number a voxel to ``slicer.mrmlScene`` and return its volume node.

    :param array: (I, J, K).
    """
    case = Case(name, np.asarray(array, np.float32)[None], None, affine)
    return _add_volume(case, name, case.image[0])


def _add_colours(case: Case, name: str, colours: np.ndarray) -> Any:
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(colours.transpose(2, 1, 0, 3)))
    node.SetIJKToRASMatrix(_vtk_matrix(case.affine))
    _describe(case, node)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, 255.0)
    return node


def show_surfaces(nodes: CaseNodes) -> None:
    """Make the closed surface of every segment and show it in 3D views."""
    if nodes.segmentation is not None:
        nodes.segmentation.CreateClosedSurfaceRepresentation()
        nodes.segmentation.GetDisplayNode().SetVisibility3D(True)
