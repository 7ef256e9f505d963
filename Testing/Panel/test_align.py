"""The section Align: a real alignment stopped, gone on with and looked at, cases left out, template and transforms."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
from acting import idle, put_brains, tick_all
from alignment_sets import OFTEN
from desktop import DesktopServices, pump, qt
from starting import GO, popen

WAITING = "import time; time.sleep(600)"


def aligning(panel, seconds: float = 120.0) -> None:
    """Until no alignment runs."""
    pump(lambda: not panel.align_section.state, seconds)


@pytest.fixture(scope="module")
def aligned_run(cohort_folder, tmp_path_factory) -> Path:
    """The cohort, aligned."""
    from GEDGANLib.commands.main import main

    run = tmp_path_factory.mktemp("aligned-in-panel") / "run"
    assert main(["align", str(cohort_folder), "-o", str(run), "--device", "cpu"]) == 0
    return run


@pytest.fixture(autouse=True)
def careful_workers(panel, monkeypatch):
    """The panel's own alignments are kept often."""
    original = type(panel.logic).startWorker

    def launch(command, **options):
        return popen([sys.executable, "-c", OFTEN + GO, *command[command.index("align") :]], **options)

    def start(self, arguments, folder, stopFile=None, launch=launch, notes=None):
        return original(self, arguments, folder, stopFile, launch if arguments[0] == "align" else None, notes)

    monkeypatch.setattr(type(panel.logic), "startWorker", start)


@pytest.fixture
def with_run(trainable, aligned_run):
    """A panel that has aligned the checked data."""
    trainable.parameters["alignRun"] = str(aligned_run)
    trainable.align_section.entered()
    trainable.paint()
    return trainable


def test_scans_are_aligned_stopped_and_gone_on_with(trainable):
    panel, ui = trainable, trainable.ui
    assert ui.alignButton.text == "Align" and ui.alignButton.isEnabled() and not ui.sheetButton.isEnabled()
    assert not ui.alignResumeButton.isEnabled() and ui.alignTable.isHidden()
    ui.alignButton.click()
    assert panel.align_section.state == "running" and ui.alignButton.text == "Stop"
    assert not ui.alignBar.isHidden() and ui.trainButton.isEnabled()  # a training may run beside it
    pump(lambda: ui.alignLabel.text.startswith("aligning the scans"), 60)
    ui.alignButton.click()
    aligning(panel)
    run = panel.align_section.run
    assert "Resume goes on" in ui.alignLabel.text and not (run / "alignment.safetensors").exists()
    assert not list(run.glob("STOP")) and ui.alignResumeButton.isEnabled()
    ui.alignResumeButton.click()
    aligning(panel)
    assert "6 cases are aligned" in ui.alignLabel.text and "Dice" in ui.alignLabel.text, ui.messageLabel.text
    assert ui.alignTable.rowCount == 6 and not ui.alignTable.isHidden() and not ui.alignResumeButton.isEnabled()
    likeness = [float(ui.alignTable.item(row, 1).text()) for row in range(6)]
    assert likeness == sorted(likeness)


def test_cases_are_left_out_by_their_ticks(with_run, instead):
    panel, table = with_run, with_run.ui.alignTable
    assert table.rowCount == 6
    names = [table.item(row, 0).text() for row in range(6)]
    table.item(1, 0).setCheckState(qt.Qt.Unchecked)
    assert panel.align_section.left_out() == [names[1]]
    instead(WAITING)
    panel.ui.alignButton.click()
    command = panel.align_section.job.worker.about["command"]
    assert command[command.index("--exclude") + 1] == names[1]
    panel.align_section.job.worker.kill()
    aligning(panel)


def test_cases_that_were_left_out_can_come_back(with_run, aligned_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(aligned_run, run)
    about = json.loads((run / "align.json").read_text())
    (run / "align.json").write_text(json.dumps({**about, "left_out": ["variation_0099"]}))
    with_run.parameters["alignRun"] = str(run)
    with_run.align_section.entered()
    table = with_run.ui.alignTable
    assert table.rowCount == 7 and with_run.align_section.left_out() == ["variation_0099"]
    table.item(6, 0).setCheckState(qt.Qt.Checked)
    assert with_run.align_section.left_out() == []
    table.setCurrentCell(6, 0)
    assert with_run.align_section.chosen() == "" and not with_run.ui.onTemplateButton.isEnabled()


def test_the_sheet_is_opened_and_its_loss_is_told(with_run, tmp_path, aligned_run):
    with_run.ui.sheetButton.click()
    assert DesktopServices.opened[-1] == str(aligned_run / "aligned.png")
    with_run.align_section.run = tmp_path
    with_run.ui.sheetButton.click()
    assert "is gone" in with_run.ui.messageLabel.text
    with_run.ui.modesButton.click()
    assert "model.safetensors is gone" in with_run.ui.messageLabel.text


def test_the_template_comes_into_the_scene_with_its_segmentation(with_run):
    with_run.ui.templateButton.click()
    idle(with_run)
    assert "The template is in the scene" in with_run.ui.messageLabel.text
    volume = slicer.util.getNode("template")
    plan = json.loads((with_run.align_section.run / "plan.json").read_text())
    assert list(volume.GetImageData().GetDimensions()) == plan["grid"]["shape"]
    assert not list((with_run.align_section.run.parent).glob("atlas*"))
    segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert len(segmentations) == 1 and segmentations[0].GetSegmentation().GetNumberOfSegments() == 2


def test_a_case_is_shown_on_the_template_and_points_follow(with_run, aligned_run):
    panel, ui = with_run, with_run.ui
    assert not ui.onTemplateButton.isEnabled() and "Select a case" in ui.onTemplateButton.toolTip
    ui.alignTable.setCurrentCell(2, 0)
    name = panel.align_section.chosen()
    ui.onTemplateButton.click()
    idle(panel)
    assert f"{name} lies on the template now" in ui.messageLabel.text
    volume = slicer.util.getNode(f"{name} on template")
    transform = volume.GetParentTransformNode()
    assert transform is not None and transform.GetName() == f"{name} to template"
    segmentation = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
    assert segmentation.GetParentTransformNode() is transform
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    points.AddControlPoint(10.0, -5.0, 20.0)
    points.SetAndObserveTransformNodeID(transform.GetID())
    world = np.zeros(3)
    points.GetNthControlPointPositionWorld(0, world)
    expected = np.array(transform.GetTransformToParent().TransformPoint((10.0, -5.0, 20.0)))
    np.testing.assert_allclose(world, expected, atol=1e-3)
    assert 0.1 < np.linalg.norm(expected - (10.0, -5.0, 20.0)) < 60
    back = np.array(transform.GetTransformFromParent().TransformPoint(expected))
    np.testing.assert_allclose(back, (10.0, -5.0, 20.0), atol=0.1)


def test_scans_of_the_scene_stay_where_they_are_and_can_be_learned_from(panel, aligned_run):
    brains = put_brains(6)
    tick_all(panel)
    panel.parameters["alignRun"] = str(aligned_run)
    panel.align_section.entered()
    panel.paint()
    panel.ui.alignTable.setCurrentCell(0, 0)
    panel.ui.onTemplateButton.click()
    idle(panel)
    assert "lies on the template now" in panel.ui.messageLabel.text
    assert all(nodes.volumes[0].GetParentTransformNode() is None for nodes in brains)
    panel.data_section.refresh()
    assert len(panel.data_section.rows) == 6 and all(row.usable for row in panel.data_section.rows)


def test_a_scene_brings_its_own_alignment(with_run, aligned_run, tmp_path):
    section = with_run.align_section
    assert section.run == aligned_run and section.aligned()
    slicer.mrmlScene.Clear(0)
    assert section.run is None and with_run.ui.alignTable.isHidden() and not with_run.ui.sheetButton.isEnabled()


def test_sliders_of_the_directions_are_there_at_once(with_run, aligned_run):
    with_run.ui.modesButton.click()
    idle(with_run)
    explore = with_run.explore_section
    assert explore.exploring and next(iter(explore.sliders)).startswith("mode 1"), with_run.ui.messageLabel.text
    before = slicer.util.arrayFromVolume(explore.nodes.volumes[0]).copy()
    next(iter(explore.sliders.values())).value = 2.0
    pump(lambda: not np.array_equal(before, slicer.util.arrayFromVolume(explore.nodes.volumes[0])))
    card = with_run.ui.modelCard.toPlainText()
    assert "5 directions" in card and "keep it on this computer" in card


def test_an_alignment_outlives_the_panel_and_is_found_again(trainable, opened):
    trainable.ui.alignButton.click()
    run = trainable.align_section.run
    trainable.cleanup()
    again = opened()
    assert again.align_section.state == "running" and again.align_section.run == run
    again.ui.alignButton.click()
    aligning(again)


def test_a_failure_is_told_in_a_sentence(trainable, instead):
    instead('print(\'{"event": "failed", "message": "No scan can be read.", "hint": "Look at them."}\'); exit(2)')
    trainable.ui.alignButton.click()
    aligning(trainable)
    assert "No scan can be read" in trainable.ui.messageLabel.text
    assert trainable.ui.alignLabel.text == "The alignment has failed."


def test_data_that_were_changed_must_be_checked_first(trainable, tmp_path):
    trainable.ui.spacingEdit.text = "8"
    assert not trainable.ui.alignButton.isEnabled() and "Check and plan" in trainable.ui.alignButton.toolTip


def test_scripts_align_without_a_panel(panel, cohort_folder, tmp_path):
    heard = []
    run = panel.logic.align(
        cohort_folder, tmp_path / "run", exclude=["variation_0002"], device="cpu", waitForCompletion=True,
        onEvent=heard.append,
    )  # fmt: skip
    assert json.loads((run / "align.json").read_text())["left_out"] == ["variation_0002"]
    assert (run / "model.safetensors").exists() and any(event["event"] == "progress" for event in heard)
