"""Cases become nodes a Slicer user would have made by hand: window, segments, colours, geometry, folder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import slicer
from landmark import ORIENTATIONS, asymmetric_case, landmark_of

from GEDGANLib.scene.nodes import add_case, add_cases, add_maps, show_surfaces, update_case
from GEDGANLib.scene.read import case_from_scene, cases_in_scene
from GEDGANLib.volumes.case import Case, Label
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.files import write_colours
from GEDGANLib.volumes.terminology import terminology_of


@pytest.fixture
def brain() -> Case:
    case = make_case(0, shape=(24, 28, 24), spacing=7.0)
    table = tuple(
        Label(label.index, label.value, label.name, label.color, terminology_of(label.name))
        for label in case.label_table
    )
    case.label_table = table
    case.provenance = {"seed": 4, "synthetic": True}
    return case


def node_affine(node) -> np.ndarray:
    return slicer.util.arrayFromVTKMatrix(matrix_of(node))


def matrix_of(node):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def test_volume_has_voxels_place_and_a_sensible_window(application, brain):
    node = add_case(brain).volumes[0]
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), brain.image[0].T)
    np.testing.assert_allclose(node_affine(node), brain.affine)
    display = node.GetDisplayNode()
    low, high = np.percentile(brain.image[0], (1, 99.5))
    assert display.GetWindowLevelMin() == pytest.approx(low)
    assert display.GetWindowLevelMax() == pytest.approx(high)
    assert not display.GetAutoWindowLevel()
    assert display.GetColorNode().GetName() == "Grey"


def test_nodes_say_what_they_are(application, brain):
    nodes = add_case(brain)
    for node in (*nodes.volumes, nodes.segmentation):
        assert "one average brain" in node.GetDescription()
        assert node.GetAttribute("GEDGAN.seed") == "4"
        assert node.GetAttribute("GEDGAN.synthetic") == "True"


def test_one_segment_a_label_with_name_colour_and_terminology(application, brain):
    node = add_case(brain).segmentation
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 2
    assert segmentation.GetSourceRepresentationName() == "Binary labelmap"
    for position, label in enumerate(brain.label_table):
        segment = segmentation.GetNthSegment(position)
        assert segment.GetName() == label.name
        np.testing.assert_allclose(segment.GetColor(), label.color)
        found = read_tag(segment, slicer.vtkSegment.GetTerminologyEntryTagName())
        assert found == label.terminology and "SCT^" in found
        identifier = segmentation.GetNthSegmentID(position)
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, reference_of(node))
        np.testing.assert_array_equal(array.T > 0, brain.labels == label.index)


def read_tag(segment, name: str) -> str:
    import vtk

    value = vtk.reference("")
    segment.GetTag(name, value)
    return str(value)


def reference_of(node):
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())


def test_segmentation_has_the_geometry_of_its_volume(application, brain):
    nodes = add_case(brain)
    assert reference_of(nodes.segmentation) is nodes.volumes[0]


def test_segmentation_without_any_voxel_of_a_label(application, brain):
    brain.labels[brain.labels == 2] = 0
    segmentation = add_case(brain).segmentation.GetSegmentation()
    assert [segmentation.GetNthSegment(i).GetName() for i in range(2)] == ["grey matter", "white matter"]


def test_closed_surfaces_on_demand(application, brain):
    nodes = add_case(brain)
    segmentation = nodes.segmentation.GetSegmentation()
    assert not segmentation.ContainsRepresentation("Closed surface")
    show_surfaces(nodes)
    assert segmentation.ContainsRepresentation("Closed surface")
    surface = segmentation.GetNthSegment(0).GetRepresentation("Closed surface")
    assert surface.GetNumberOfPoints() > 100
    low, high = brain.affine[:3, 3], (brain.affine @ [*brain.labels.shape, 1])[:3]
    bounds = np.array(surface.GetBounds()).reshape(3, 2)
    assert np.all(bounds[:, 0] > low - 8) and np.all(bounds[:, 1] < high + 8)


def test_a_batch_lies_in_one_folder_and_goes_away_as_one(application, brain):
    before = application.scene.GetNumberOfNodes()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(application.scene)
    batch = add_cases([make_case(i, shape=(16, 16, 16), spacing=9.0) for i in range(3)], "three brains")
    children = []
    hierarchy.GetItemChildren(batch.folder_item, children)
    assert hierarchy.GetItemName(batch.folder_item) == "three brains"
    assert len(children) == 6
    shown = [case.segmentation.GetDisplayNode().GetVisibility() for case in batch.cases]
    assert shown == [1, 0, 0]
    folder = batch.folder_item
    batch.remove()
    assert application.scene.GetNumberOfNodes() == before
    assert not hierarchy.GetItemName(folder)


def test_what_the_user_put_into_the_folder_of_a_batch_stays(application):
    batch = add_cases([make_case(0, 0, (16, 24, 16), 9.0)], "one brain")
    own = application.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "of the user")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(application.scene)
    hierarchy.CreateItem(batch.folder_item, own)
    batch.remove()
    assert application.scene.IsNodePresent(own) and hierarchy.GetItemName(batch.folder_item) == "one brain"
    assert application.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_a_batch_is_one_change_of_the_scene(application):
    """Views redraw when the batch ends, not for every node: the scene is in its batch state all the time."""
    states = []
    application.scene.AddObserver(
        application.scene.NodeAddedEvent, lambda *arguments: states.append(application.scene.IsBatchProcessing())
    )
    add_cases([make_case(i, shape=(16, 16, 16), spacing=9.0) for i in range(2)], "two brains")
    assert states and all(states)
    assert not application.scene.IsBatchProcessing()


def test_a_failing_batch_leaves_the_scene_responsive(application, brain):
    brain.image = None
    with pytest.raises(TypeError):
        add_cases([brain], "broken")
    assert not application.scene.IsBatchProcessing()


def test_channels_become_volumes_of_their_own(application, brain):
    brain.image = np.concatenate([brain.image, 2 * brain.image])
    brain.channel_names = ("T1", "T2")
    nodes = add_case(brain)
    assert [node.GetName() for node in nodes.volumes] == ["variation_0000 T1", "variation_0000 T2"]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_landmark_is_where_it_belongs(application, orientation):
    case, landmark = asymmetric_case(orientation)
    nodes = add_case(case)
    volume = nodes.volumes[0]
    half_voxel = 0.5 * np.linalg.norm([1.2, 1.5, 2.6])
    found = landmark_of(slicer.util.arrayFromVolume(volume).T, node_affine(volume))
    assert np.linalg.norm(found - landmark) < half_voxel
    identifier = nodes.segmentation.GetSegmentation().GetNthSegmentID(0)
    segment = slicer.util.arrayFromSegmentBinaryLabelmap(nodes.segmentation, identifier, volume)
    assert np.linalg.norm(landmark_of(segment.T.astype(np.uint8), node_affine(volume)) - landmark) < half_voxel
    show_surfaces(nodes)  # a surface has its own coordinates, so it shows whether the labels' matrix is right
    surface = nodes.segmentation.GetSegmentation().GetNthSegment(0).GetRepresentation("Closed surface")
    points = np.array([surface.GetPoint(index) for index in range(surface.GetNumberOfPoints())])
    assert np.linalg.norm(points.mean(0) - landmark) < half_voxel


def test_maps_become_volumes_and_colours_vector_volumes(application, tmp_path):
    """In memory, and as files that Slicer's own reader opens."""
    case, _ = asymmetric_case("oblique LPS")
    colours = np.random.default_rng(0).integers(0, 255, (*case.image.shape[1:], 3)).astype(np.uint8)
    nodes = add_maps(case, [("energy", case.image[0])], [("direction", colours)], "Explanation")
    assert [node.GetClassName() for node in nodes] == ["vtkMRMLScalarVolumeNode"] * 2 + ["vtkMRMLVectorVolumeNode"]
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(nodes[2]).transpose(2, 1, 0, 3), colours)
    write_colours(tmp_path / "direction.nrrd", colours, case.affine)
    (loaded,) = application.io_manager.load_volumes(str(tmp_path / "direction.nrrd"))
    assert loaded.GetClassName() == "vtkMRMLVectorVolumeNode"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded).transpose(2, 1, 0, 3), colours)
    np.testing.assert_allclose(node_affine(nodes[2]), node_affine(loaded), atol=1e-4)


def test_cases_of_a_scene_go_by_their_segmentation(application):
    """A case of two channels is one case, drawn with its segmentation."""
    case, _ = asymmetric_case("LPS")
    two = replace(case, name="pair", image=np.concatenate([case.image, case.image]), channel_names=("T1", "T2"))
    batch = add_cases([two, replace(case, name="single")], "batch")
    found = cases_in_scene(application.scene)
    assert [(v.GetName(), s.GetName()) for v, s in found] == [
        ("pair T1", "pair segmentation"), ("single", "single segmentation")
    ]  # fmt: skip
    batch.remove()
    unlabelled = add_cases([replace(case, labels=None)], "batch")
    assert cases_in_scene(application.scene) == [(unlabelled.cases[0].volumes[0], None)]


def test_a_case_is_replaced_in_place_and_the_user_keeps_what_was_changed(application):
    before, after = make_case(0, 0, (16, 24, 16), 9.0), make_case(1, 0, (16, 24, 16), 9.0)
    nodes = add_case(before)
    segmentation = nodes.segmentation.GetSegmentation()
    segmentation.GetNthSegment(0).SetName("mine")
    nodes.volumes[0].GetDisplayNode().SetWindowLevelMinMax(1, 2)
    show_surfaces(nodes)
    count = application.scene.GetNumberOfNodes()
    update_case(nodes, after)
    assert application.scene.GetNumberOfNodes() == count and segmentation.GetNthSegment(0).GetName() == "mine"
    assert nodes.volumes[0].GetDisplayNode().GetWindowLevelMax() == 2
    read = case_from_scene(nodes.volumes, nodes.segmentation)
    np.testing.assert_array_equal(read.image, after.image)
    np.testing.assert_array_equal(read.labels, after.labels)
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    assert segmentation.ContainsRepresentation(surface)  # made anew
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))
    update_case(nodes, before)
    assert segmentation.GetNumberOfSegments() == 1
    kept = case_from_scene(nodes.volumes, nodes.segmentation)
    np.testing.assert_array_equal(kept.labels > 0, before.labels == 2)
