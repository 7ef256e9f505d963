"""Volumes and segmentations of a scene become cases as the user sees them."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from landmark import ORIENTATIONS, asymmetric_case, landmark_of

from GEDGANLib.errors import InputError
from GEDGANLib.scene.nodes import add_case
from GEDGANLib.scene.read import case_from_scene
from GEDGANLib.volumes.cohort import make_case

HALF_VOXEL = 0.5 * np.linalg.norm([1.2, 1.5, 2.6])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_what_was_added_comes_back(application, orientation):
    case, _ = asymmetric_case(orientation)
    nodes = add_case(case)
    back = case_from_scene(nodes.volumes, nodes.segmentation)
    np.testing.assert_array_equal(back.image, case.image)
    np.testing.assert_array_equal(back.labels, case.labels)
    np.testing.assert_allclose(back.affine, case.affine)
    assert [(label.name, label.color) for label in back.label_table] == [("ball", (1.0, 0.0, 0.0))]


def transform(*, rotate: float, shift: tuple[float, float, float]):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    linear = vtk.vtkTransform()
    linear.Translate(shift)
    linear.RotateZ(rotate)
    node.SetMatrixTransformToParent(linear.GetMatrix())
    return node, np.array([linear.TransformPoint(point) for point in np.eye(3)])


@pytest.mark.parametrize("harden", [True, False])
def test_linear_transforms_move_the_case(application, harden):
    case, landmark = asymmetric_case("oblique")
    nodes = add_case(case)
    node, _ = transform(rotate=25, shift=(10, -20, 5))
    outer, _ = transform(rotate=-10, shift=(3, 0, 7))
    node.SetAndObserveTransformNodeID(outer.GetID())
    moved = vtk.vtkMatrix4x4()
    node.GetMatrixTransformToWorld(moved)
    expected = np.array(moved.MultiplyPoint([*landmark, 1.0])[:3])
    for part in (*nodes.volumes, nodes.segmentation):
        part.SetAndObserveTransformNodeID(node.GetID())
        if harden:
            part.HardenTransform()
    back = case_from_scene(nodes.volumes, nodes.segmentation)
    assert np.linalg.norm(landmark_of(back.image[0], back.affine) - expected) < HALF_VOXEL
    assert np.linalg.norm(landmark_of(back.labels, back.affine) - expected) < HALF_VOXEL
    assert nodes.volumes[0].GetParentTransformNode() is (None if harden else node)


def test_a_bending_transform_is_refused_in_words(application):
    case, _ = asymmetric_case("RAS")
    nodes = add_case(case)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    spline = slicer.vtkOrientedBSplineTransform()
    coefficients = vtk.vtkImageData()
    coefficients.SetDimensions(4, 4, 4)
    coefficients.AllocateScalars(vtk.VTK_DOUBLE, 3)
    spline.SetCoefficientData(coefficients)
    node.SetAndObserveTransformToParent(spline)
    nodes.volumes[0].SetAndObserveTransformNodeID(node.GetID())
    with pytest.raises(InputError, match="bends"):
        case_from_scene(nodes.volumes)


def test_segments_are_sampled_on_the_volume(application):
    """A segmentation drawn on another, finer volume lands on this one's grid."""
    coarse, fine = make_case(0, shape=(20, 24, 20), spacing=8.0), make_case(0, shape=(40, 48, 40), spacing=4.0)
    volume, drawn = add_case(coarse).volumes, add_case(fine).segmentation
    back = case_from_scene(volume, drawn)
    assert back.labels.shape == (20, 24, 20)
    ours, theirs = back.labels > 0, coarse.labels > 0
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.9


def test_overlapping_segments_the_later_wins(application):
    case, _ = asymmetric_case("RAS")
    nodes = add_case(case)
    segmentation = nodes.segmentation.GetSegmentation()
    identifier = segmentation.AddEmptySegment("all", "everything")
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        np.ones(case.labels.T.shape, np.uint8), nodes.segmentation, identifier, nodes.volumes[0]
    )
    back = case_from_scene(nodes.volumes, nodes.segmentation)
    assert [label.name for label in back.label_table] == ["ball", "everything"]
    assert (back.labels == 2).all()


def test_channels_of_different_size_are_refused(application):
    one = add_case(make_case(0, shape=(16, 16, 16), spacing=9.0)).volumes
    other = add_case(make_case(1, shape=(18, 16, 16), spacing=9.0)).volumes
    with pytest.raises(InputError, match="different grids"):
        case_from_scene([*one, *other])


def test_a_volume_without_voxels_is_refused(application):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")
    with pytest.raises(InputError, match="hollow has no voxels"):
        case_from_scene([node])


def test_a_nrrd_file_without_a_space_lies_where_slicer_puts_it(application, tmp_path):
    import nrrd

    from GEDGANLib.volumes.files import read_volume

    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nrrd.write(str(tmp_path / "bare.nrrd"), array, {"spacings": [2.0, 3.0, 4.0]}, index_order="F")
    (node,) = application.io_manager.load_volumes(str(tmp_path / "bare.nrrd"))
    ours = read_volume(tmp_path / "bare.nrrd")
    np.testing.assert_allclose(case_from_scene([node]).affine, ours.affine)
