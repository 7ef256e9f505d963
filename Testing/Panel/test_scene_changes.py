"""Scenes that close, nodes that vanish, many volumes, transforms: what a user does meanwhile."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from acting import SMALL, idle, put_brains, tick_all
from desktop import pump

from GEDGANLib.volumes.cohort import make_case


def test_closing_the_scene_in_mid_synthesis_stops_it(panel, model):
    panel.ui.countSpin.value = 50
    panel.ui.synthesizeButton.click()
    pump(lambda: slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") > 1)
    slicer.mrmlScene.Clear(0)
    assert not panel.tasks.name
    for _ in range(20):
        slicer.app.processEvents()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert panel.ui.synthesizeButton.text == "Synthesize"


def test_synthesis_can_be_stopped_and_what_is_there_stays(panel, model):
    panel.ui.countSpin.value = 50
    panel.ui.synthesizeButton.click()
    pump(lambda: slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") > 1)
    panel.ui.synthesizeButton.click()
    made = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    assert not panel.tasks.name and made >= 2 and panel.ui.messageLabel.text == "Stopped."
    panel.ui.countSpin.value = 50
    panel.ui.synthesizeButton.click()
    pump(lambda: slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") > made)
    panel.ui.synthesizeButton.click()
    panel.ui.undoButton.click()  # the last batch, stopped as it was, and then the one before
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == made
    panel.ui.undoButton.click()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert not panel.ui.undoButton.isEnabled()


def test_nodes_deleted_by_hand_are_no_trouble(panel, model):
    panel.ui.countSpin.value = 2
    panel.ui.synthesizeButton.click()
    pump(lambda: not panel.tasks.name)
    for case in list(panel.synthesize_section.batches.last.cases):
        slicer.mrmlScene.RemoveNode(case.volumes[0])
    panel.ui.undoButton.click()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    panel.ui.exploreButton.click()
    pump(lambda: not panel.tasks.name)
    slicer.mrmlScene.RemoveNode(panel.explore_section.nodes.volumes[0])
    next(iter(panel.explore_section.sliders.values())).value = 1.0
    pump(lambda: not panel.ui.moreButton.isEnabled())
    panel.ui.exploreButton.click()
    pump(lambda: not panel.tasks.name)
    assert panel.explore_section.exploring


def test_ticked_nodes_that_vanish_and_bending_transforms_are_told(panel):

    nodes = put_brains(4)
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "moved")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 25.0)
    moved.SetMatrixTransformToParent(matrix)
    for node in (nodes[1].volumes[0], nodes[1].segmentation):
        node.SetAndObserveTransformNodeID(moved.GetID())
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bent")
    nodes[3].volumes[0].SetAndObserveTransformNodeID(bent.GetID())
    panel.ui.sceneRadio.checked = True
    panel.data_section.refresh()
    rows = panel.data_section.rows
    assert [row.usable for row in rows] == [True, True, True, False] and "moved by its transform" in rows[1].status
    panel.ui.tickAllButton.click()
    slicer.mrmlScene.RemoveNode(nodes[0].volumes[0])
    pump(lambda: panel.ui.casesTable.rowCount == 3)
    panel.ui.checkButton.click()
    pump(lambda: not panel.tasks.name)
    import nibabel

    written = nibabel.load(min(Path(slicer_folder()).glob("data/*/imagesTr/*")))
    assert written.affine[0, 3] == pytest.approx(make_case(1, 0, SMALL, 9.0).affine[0, 3] + 25.0)


def slicer_folder() -> str:
    from GEDGANPanel import places

    return str(places.base_folder())


def test_a_scene_with_a_hundred_volumes_is_listed_quickly(panel):
    panel.ui.sceneRadio.checked = True
    voxels = np.zeros((8, 8, 8), np.int16)
    for index in range(100):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"scan {index}")
        slicer.util.updateVolumeFromArray(node, voxels)
    pump(lambda: panel.ui.casesTable.rowCount == 100)
    begun = time.monotonic()
    panel.data_section.refresh()
    assert time.monotonic() - begun < 2.0
    panel.ui.tickAllButton.click()
    pump(lambda: panel.ui.casesLabel.text.startswith("100 of 100"))


def test_stopping_the_gathering_plans_nothing(panel):

    put_brains(4)
    tick_all(panel)
    panel.ui.checkButton.click()
    assert panel.tasks.name == "gather"
    panel.ui.checkButton.click()
    assert not panel.tasks.name and panel.tasks.job is None and panel.ui.messageLabel.text == "Stopped."


def test_adding_data_to_the_scene_forgets_nothing(panel, model, slicer_desktop, tmp_path):
    from GEDGANLib.scene.headless import load_scene, save_scene

    panel.ui.countSpin.value = 1
    panel.ui.synthesizeButton.click()
    pump(lambda: not panel.tasks.name)
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.EndImportEvent)
    assert panel.synthesize_section.batches.last is not None and panel.ui.undoButton.isEnabled()
    save_scene(slicer_desktop.core, tmp_path / "scene.mrb")
    load_scene(slicer_desktop.core, tmp_path / "scene.mrb")


def test_what_a_script_adds_in_one_go_is_listed(panel):
    panel.ui.sceneRadio.checked = True
    panel.logic.loadSample(3)
    pump(lambda: panel.ui.casesTable.rowCount == 3)


def test_a_case_that_is_changed_after_the_check_must_be_checked_again(panel):
    nodes = put_brains(4)
    tick_all(panel)
    panel.ui.checkButton.click()
    idle(panel)
    assert panel.ui.trainButton.isEnabled()
    slicer.util.setSliceViewerLayers(background=nodes[0].volumes[0])
    nodes[0].volumes[0].GetDisplayNode().SetWindowLevelMinMax(0, 50)
    nodes[1].segmentation.GetDisplayNode().SetVisibility(False)
    panel.data_section.refresh()
    assert panel.ui.trainButton.isEnabled()  # looking at them is no change
    segment = nodes[2].segmentation.GetSegmentation().GetNthSegmentID(0)
    cleared = np.zeros_like(slicer.util.arrayFromVolume(nodes[2].volumes[0]), np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(cleared, nodes[2].segmentation, segment, nodes[2].volumes[0])
    panel.ui.trainButton.click()
    assert not panel.train_section.state and "Check and plan" in panel.ui.messageLabel.text
    assert not panel.ui.trainButton.isEnabled() and "Changed" in panel.ui.planText.toPlainText()
    panel.ui.checkButton.click()
    idle(panel)
    assert panel.ui.trainButton.isEnabled()
    slicer.mrmlScene.RemoveNode(nodes[3].volumes[0])
    pump(lambda: panel.ui.casesTable.rowCount == 3)
    assert not panel.ui.trainButton.isEnabled()


def test_what_is_changed_while_the_data_are_checked_is_noticed(panel):
    put_brains(4)
    tick_all(panel)
    panel.ui.checkButton.click()
    pump(lambda: panel.tasks.name == "plan")
    panel.ui.spacingEdit.text = "12"
    idle(panel)
    assert "changed meanwhile" in panel.ui.messageLabel.text and not panel.ui.trainButton.isEnabled()
    assert not list((Path(slicer_folder()) / "data").iterdir())  # the copies of the scans are gone


def test_a_case_goes_on_growing_after_its_segmentation_was_renamed(panel, model):
    panel.ui.exploreButton.click()
    idle(panel)
    nodes = panel.explore_section.nodes
    nodes.segmentation.SetName("of mine")
    nodes.segmentation.GetSegmentation().GetNthSegment(0).SetName("my grey matter")
    before = np.array(slicer.util.arrayFromVolume(nodes.volumes[0]))
    panel.explore_section.sliders["volume of white matter"].value = 2.0
    pump(lambda: not np.array_equal(before, slicer.util.arrayFromVolume(nodes.volumes[0])))
    assert nodes.segmentation.GetName() == "of mine"
    assert nodes.segmentation.GetSegmentation().GetNthSegment(0).GetName() == "my grey matter"


def test_an_empty_segmentation_is_not_preferred_and_teaches_nothing(panel):
    first, second = put_brains(2)
    for nodes in (first, second):  # as the Segment Editor makes one when it is opened
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
        empty.SetReferenceImageGeometryParameterFromVolumeNode(nodes.volumes[0])
    slicer.mrmlScene.RemoveNode(second.segmentation)
    tick_all(panel)
    rows = panel.data_section.rows
    assert rows[0].segmentation is first.segmentation and "empty" in rows[1].status
    assert panel.ui.casesLabel.text.endswith("2 case(s), 1 with segmentation")


def test_another_module_is_shown_while_the_scene_is_closed(panel, trained_model):
    panel.ui.countSpin.value = 5
    panel.parent.isEntered = False
    slicer.mrmlScene.Clear(0)
    assert panel.parameters.node is None  # the scene gets one when it is needed
    panel.synthesize_section.take_model(trained_model)  # as a training does that ends now
    assert panel.synthesize_section.card.path == trained_model
    panel.parent.isEntered = True
    panel.enter()
    assert panel.parameters.node is not None and panel.ui.countSpin.value == 8
    assert panel.synthesize_section.card.path == trained_model


def test_a_model_that_gives_up_in_mid_batch_leaves_no_doubles(panel, model, monkeypatch):
    from GEDGANLib.synthesis.synthesizer import Synthesizer

    original = Synthesizer.cases

    def cases(self, count, seed=0, first=0, class_name=None):
        if first == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, count, seed, first, class_name)

    monkeypatch.setattr(Synthesizer, "cases", cases)
    panel.ui.countSpin.value = 2
    panel.ui.synthesizeButton.click()
    pump(lambda: panel.tasks.job is not None)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    idle(panel)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2
    assert len(panel.logic.synthesize(model, 2).cases) == 2  # scripts too
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 4


def test_memory_that_is_not_enough_under_a_slider_is_told(panel, model, monkeypatch):
    panel.ui.exploreButton.click()
    idle(panel)

    def case(values, name):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(panel.explore_section.explorer, "case", case)
    next(iter(panel.explore_section.sliders.values())).value = 1.0
    pump(lambda: "does not run in Slicer (CUDA out of memory" in panel.ui.messageLabel.text)
    for button in (panel.ui.keepButton, panel.ui.seriesButton):
        panel.say("")
        button.click()
        idle(panel)
        assert "does not run in Slicer" in panel.ui.messageLabel.text


def test_a_second_segmentation_of_one_case_is_said_to_be_unused(panel):
    nodes = put_brains(2)
    for number, each in enumerate(nodes):
        each.volumes[0].SetName(f"anna T{number + 1}")
    tick_all(panel)
    for row in range(2):
        panel.ui.casesTable.item(row, 0).setText("anna")
    pump(lambda: "1 case(s), 1 with" in panel.ui.casesLabel.text)
    assert "is not used, that of anna T1 is" in panel.ui.casesTable.item(1, 4).text()


def test_a_segmentation_that_has_surfaces_alone_can_be_checked_at_once(panel):
    for nodes in put_brains(4):
        nodes.segmentation.CreateClosedSurfaceRepresentation()
        nodes.segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
        nodes.segmentation.RemoveBinaryLabelmapRepresentation()
    tick_all(panel)
    panel.ui.checkButton.click()
    idle(panel)
    assert panel.ui.trainButton.isEnabled(), panel.ui.messageLabel.text


def test_what_is_typed_into_the_table_stays_while_nodes_come(panel):
    put_brains(2)
    tick_all(panel)
    item = panel.ui.casesTable.item(0, 0)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "another")
    panel.data_section.refresh()
    assert panel.ui.casesTable.item(0, 0) is item
