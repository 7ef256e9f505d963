"""Ticked volumes of a scene become a data set that a training reads, each voxel where the scene shows it."""

from __future__ import annotations

import json
import time

import nibabel
import numpy as np
import pytest
import slicer
import vtk
from landmark import asymmetric_case, landmark_of

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.scene.gather import Ticked, file_name_of, labels_of, write_scene_cases
from GEDGANLib.scene.nodes import add_case
from GEDGANLib.volumes.case import Case
from GEDGANLib.volumes.cohort import make_case


def ticked(case: Case, class_name: str | None = None) -> Ticked:
    nodes = add_case(case)
    return Ticked(nodes.volumes[0], nodes.segmentation, class_name)


def brains(count: int) -> list[Ticked]:
    return [ticked(make_case(index, 0, (16, 24, 16), 9.0)) for index in range(count)]


def test_what_is_written_is_a_data_set_that_can_be_checked_and_trained(application, tmp_path):
    cases = brains(3)
    names = write_scene_cases(cases, tmp_path / "data")
    assert len(names) == 3
    described = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "grey matter": 1, "white matter": 2}
    assert main(["check", str(tmp_path / "data")]) == 0
    label = nibabel.load(tmp_path / "data" / "labelsTr" / f"{names[1]}.nii.gz")
    np.testing.assert_array_equal(np.asarray(label.dataobj), make_case(1, 0, (16, 24, 16), 9.0).labels)


def test_a_transform_above_a_volume_is_applied_and_a_bending_one_refused(application, tmp_path):
    case, before = asymmetric_case("oblique LPS")
    shown = ticked(case)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "moved")
    matrix = vtk.vtkTransform()
    matrix.Translate(5, -7, 11)
    matrix.RotateZ(30)
    transform.SetMatrixTransformToParent(matrix.GetMatrix())
    for node in (shown.volume, shown.segmentation):
        node.SetAndObserveTransformNodeID(transform.GetID())
    names = write_scene_cases([shown], tmp_path / "data")
    image = nibabel.load(tmp_path / "data" / "imagesTr" / f"{names[0]}_0000.nii.gz")
    expected = np.array(matrix.TransformPoint(*before))
    np.testing.assert_allclose(landmark_of(np.asarray(image.dataobj), image.affine), expected, atol=0.5)
    label = nibabel.load(tmp_path / "data" / "labelsTr" / f"{names[0]}.nii.gz")
    np.testing.assert_array_equal(np.asarray(label.dataobj) > 0, case.labels > 0)
    bending = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bending")
    shown.volume.SetAndObserveTransformNodeID(bending.GetID())
    with pytest.raises(InputError, match="under a transform that bends it"):
        write_scene_cases([shown], tmp_path / "other")


def test_segments_are_one_by_their_names_in_whatever_order_they_come(application, tmp_path):
    first, second = brains(2)
    segmentation = second.segmentation.GetSegmentation()
    segmentation.ReorderSegments([segmentation.GetNthSegmentID(1), segmentation.GetNthSegmentID(0)])
    assert [label.name for label in labels_of([first, second])] == ["grey matter", "white matter"]
    names = write_scene_cases([first, second], tmp_path / "data")
    label = nibabel.load(tmp_path / "data" / "labelsTr" / f"{names[1]}.nii.gz")
    np.testing.assert_array_equal(np.asarray(label.dataobj), make_case(1, 0, (16, 24, 16), 9.0).labels)
    segmentation.GetSegment(segmentation.GetNthSegmentID(0)).SetName("lesion")
    assert [label.name for label in labels_of([first, second])] == ["grey matter", "white matter", "lesion"]


def test_cases_without_segmentation_and_classes_are_written_too(application, tmp_path):
    cases = brains(3)
    cases = [Ticked(cases[0].volume, cases[0].segmentation, "young"), Ticked(cases[1].volume, None, "old"),
             Ticked(cases[2].volume, cases[2].segmentation)]  # fmt: skip
    names = write_scene_cases(cases, tmp_path / "data")
    assert len(list((tmp_path / "data" / "labelsTr").iterdir())) == 2
    lines = (tmp_path / "data" / "participants.tsv").read_text().splitlines()
    assert lines == ["participant_id\tclass", f"{names[0]}\tyoung", f"{names[1]}\told", f"{names[2]}\tn/a"]


def test_a_segmentation_without_segments_is_none(application, tmp_path):
    """It says nothing of the scan: it must not teach that all of it is background."""
    cases = brains(2)
    cases[1].segmentation.GetSegmentation().RemoveAllSegments()
    names = write_scene_cases(cases, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data" / "labelsTr").iterdir()] == [f"{names[0]}.nii.gz"]


def with_channels(names: list[str], case_name: str) -> Ticked:
    case = make_case(0, 0, (16, 24, 16), 9.0)
    nodes = [add_case(case).volumes[0] for _ in names]
    for node, name in zip(nodes, names):
        node.SetName(name)
    return Ticked(nodes[0], None, None, tuple(nodes[1:]), case_name)


def test_several_volumes_of_one_case_are_its_channels(application, tmp_path):
    cases = [
        with_channels(["anna T1", "anna T2 fat-sat"], "anna"),
        with_channels(["bert_T1", "bert_T2_fat_sat"], "bert"),
    ]
    assert write_scene_cases(cases, tmp_path / "data") == ["anna", "bert"]
    described = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "T1", "1": "T2 fat sat"}
    assert len(list((tmp_path / "data" / "imagesTr").iterdir())) == 4
    assert main(["check", str(tmp_path / "data")]) == 0
    for other in (["carl T2", "carl T1"], ["carl T1"], ["carl", "carl"]):
        with pytest.raises(InputError, match=r"different channels|which is which"):
            write_scene_cases([cases[0], with_channels(other, "carl")], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_names_are_safe_and_unique(application, tmp_path):
    taken: set[str] = set()
    names = [file_name_of(name, taken) for name in ("T1 (left)", "t1 LEFT", "T1/left", "", "Größe", "scan_0001")]
    assert names == ["T1_left", "t1_LEFT-2", "T1_left-3", "case", "Gr_e", "scan-0001"]
    cases = brains(2)
    for case in cases:
        case.volume.SetName("brain")
    assert write_scene_cases(cases, tmp_path / "data") == ["brain", "brain-2"]


def test_what_cannot_be_written_is_said_before_anything_is(application, tmp_path):
    case = brains(1)[0]
    with pytest.raises(InputError, match="No volume is ticked"):
        write_scene_cases([], tmp_path / "data")
    with pytest.raises(InputError, match="is there twice"):
        write_scene_cases([case, Ticked(case.volume)], tmp_path / "data")
    assert not (tmp_path / "data").exists()
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    with pytest.raises(InputError, match="empty has no voxels"):
        write_scene_cases([Ticked(empty)], tmp_path / "data")


def test_a_hundred_volumes_take_seconds(application, tmp_path):
    cases = brains(100)
    start, seen = time.monotonic(), []
    write_scene_cases(cases, tmp_path / "data", lambda done, total, name: seen.append(done))
    assert seen == list(range(1, 101))
    assert time.monotonic() - start < 30
