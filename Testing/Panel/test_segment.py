"""The section Segment, and scans deformed to an edit: carried, shown, accepted, undone; which scan comes next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer
from acting import bump, idle, put_brains, tick_all
from desktop import pump
from starting import popen

from GEDGANLib.errors import InputError
from GEDGANLib.scene.read import case_from_scene


@pytest.fixture
def with_brains(panel, aligned_run):
    """A panel with an alignment, and three ticked brains of the scene of which the first alone is segmented."""
    panel.parameters["alignRun"] = str(aligned_run)
    panel.align_section.entered()
    panel.brains = put_brains(3)
    panel.truth = [case_from_scene(nodes.volumes, nodes.segmentation).labels for nodes in panel.brains]
    for nodes in panel.brains[1:]:
        slicer.mrmlScene.RemoveNode(nodes.segmentation)
    tick_all(panel)
    panel.ui.segmentSection.collapsed = False
    panel.paint()
    return panel


@pytest.fixture
def no_pytorch(panel, monkeypatch):
    """PyTorch does not start in Slicer."""
    from GEDGANPanel.engine import Engine, EngineUnavailable

    def refuse(self, *_unused):
        raise EngineUnavailable("PyTorch does not start in Slicer (damaged).")
        yield

    monkeypatch.setattr(Engine, "loading", refuse)
    monkeypatch.setattr(Engine, "starting", refuse)


def labels_of(volume, segmentation) -> np.ndarray:
    return case_from_scene([volume], segmentation).labels


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * ((one > 0) & (other > 0)).sum() / ((one > 0).sum() + (other > 0).sum())


def segmentations() -> int:
    return slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")


def test_nothing_can_be_carried_before_scans_are_aligned_and_ticked(panel, aligned_run):
    ui = panel.ui
    put_brains(1)
    assert not ui.carryButton.isEnabled() and "First align scans" in ui.carryButton.toolTip
    assert not ui.nextButton.isEnabled() and not ui.acceptButton.isEnabled() and not ui.carryUndoButton.isEnabled()
    panel.parameters["alignRun"] = str(aligned_run)
    panel.align_section.entered()
    ui.sceneRadio.checked = True
    panel.paint()
    assert not ui.carryButton.isEnabled() and "has one" in ui.carryButton.toolTip


def test_a_segmentation_is_carried_to_all_ticked_scans_that_have_none(with_brains):
    panel, ui = with_brains, with_brains.ui
    drawn = labels_of(panel.brains[0].volumes[0], panel.brains[0].segmentation)
    ui.carryButton.click()
    idle(panel)
    assert "2 segmentation(s) were carried" in ui.messageLabel.text, ui.messageLabel.text
    section = panel.segment_section
    assert [row.trust for row in section.rows] == sorted(row.trust for row in section.rows)
    assert ui.carriedTable.rowCount == 2 and not ui.carriedTable.isHidden()
    for row in section.rows:
        number = [nodes.volumes[0].GetID() for nodes in panel.brains].index(row.volume.GetID())
        assert number and overlap(labels_of(row.volume, row.segmentation), panel.truth[number]) > 0.75
        assert "carried from" in row.segmentation.GetName() and 0 < row.trust <= 1
        assert row.segmentation.GetAttribute("GEDGAN.segmentation_carried_from")
    assert np.array_equal(labels_of(panel.brains[0].volumes[0], panel.brains[0].segmentation), drawn)
    # Nobody learns from what nobody drew, nor carries it on, until it is accepted.
    panel.data_section.refresh()
    assert [row.segmentation is not None for row in panel.data_section.rows] == [True, False, False]
    shown = section.chosen()
    assert shown.segmentation.GetDisplayNode().GetVisibility()
    ui.acceptButton.click()
    assert "as if it had been drawn" in ui.messageLabel.text and not ui.acceptButton.isEnabled()
    panel.data_section.refresh()
    assert sum(row.segmentation is not None for row in panel.data_section.rows) == 2
    there = segmentations()
    ui.carryUndoButton.click()
    assert segmentations() == there - 1 and slicer.mrmlScene.IsNodePresent(shown.segmentation)
    assert [row.name for row in section.rows] == [shown.name] and not ui.carryUndoButton.isEnabled()


def test_one_segmentation_is_carried_to_one_chosen_scan(with_brains):
    panel, ui = with_brains, with_brains.ui
    ui.carrySegmentation.setCurrentNode(panel.brains[0].segmentation)
    ui.carryTo.setCurrentNode(panel.brains[2].volumes[0])
    ui.carryButton.click()
    idle(panel)
    assert [row.volume.GetID() for row in panel.segment_section.rows] == [panel.brains[2].volumes[0].GetID()]
    slicer.mrmlScene.Clear(0)
    assert not panel.segment_section.rows and not panel.segment_section.carried_last()


def test_where_pytorch_does_not_run_in_slicer_a_process_does_it(with_brains, no_pytorch):
    from GEDGANPanel import places

    panel, ui = with_brains, with_brains.ui
    ui.carryTo.setCurrentNode(panel.brains[1].volumes[0])
    ui.carryButton.click()
    idle(panel, 180)
    (row,) = panel.segment_section.rows
    assert overlap(labels_of(row.volume, row.segmentation), panel.truth[1]) > 0.75, ui.messageLabel.text
    names = [row.segmentation.GetSegmentation().GetNthSegment(index).GetName() for index in range(2)]
    assert names == [panel.brains[0].segmentation.GetSegmentation().GetNthSegment(i).GetName() for i in range(2)]
    assert row.segmentation.GetAttribute("GEDGAN.trust")
    choose_edit(panel)
    ui.simulateButton.click()
    idle(panel, 180)
    assert "deformed to an edit is in the scene" in ui.messageLabel.text, ui.messageLabel.text
    assert "Dice" in ui.messageLabel.text
    made = next(node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if "deformed" in node.GetName())
    assert made.GetAttribute("GEDGAN.simulated_from") == panel.brains[0].volumes[0].GetName()
    for kind in ("data", "carried", "simulated"):  # no copies of a patient's scan are left about
        assert not list((places.base_folder() / kind).glob("*"))


def test_what_came_before_a_stop_is_in_the_table(with_brains):
    panel, ui = with_brains, with_brains.ui
    ui.carryButton.click()
    pump(lambda: panel.segment_section.rows, 60)
    ui.carryButton.click()
    idle(panel)
    assert ui.messageLabel.text == "Stopped." and len(panel.segment_section.rows) == 1
    assert ui.carryUndoButton.isEnabled()


def test_a_volume_that_is_taken_out_meanwhile_is_passed_over(with_brains):
    panel, ui = with_brains, with_brains.ui
    ui.carryButton.click()
    pump(lambda: panel.segment_section.rows, 60)
    slicer.mrmlScene.RemoveNode(panel.brains[2].volumes[0])
    idle(panel)
    assert "1 segmentation(s) were carried" in ui.messageLabel.text, ui.messageLabel.text


def test_a_process_that_fails_or_is_stopped_leaves_no_copies(with_brains, no_pytorch):
    from GEDGANPanel import places

    panel, ui = with_brains, with_brains.ui
    ui.carryButton.click()
    pump(lambda: panel.tasks.job is not None, 60)
    pump(lambda: list((places.base_folder() / "carried").glob("*/images/*")), 120)  # the first case is written
    ui.carryButton.click()
    idle(panel, 120)
    assert ui.messageLabel.text == "Stopped."
    choose_edit(panel)
    copy = ui.simulateEdited.currentNode().GetSegmentation()
    copy.RemoveSegment(copy.GetNthSegmentID(0))
    ui.simulateButton.click()
    idle(panel, 120)
    assert "no deformation can do that" in ui.messageLabel.text, ui.messageLabel.text
    for kind in ("data", "carried", "simulated"):
        assert not list((places.base_folder() / kind).glob("*"))


def test_nothing_is_carried_from_what_is_empty_or_to_itself(with_brains):
    panel, ui = with_brains, with_brains.ui
    ui.carrySegmentation.setCurrentNode(panel.brains[0].segmentation)
    ui.carryTo.setCurrentNode(panel.brains[0].volumes[0])
    assert not ui.carryButton.isEnabled() and "Choose a volume" in ui.carryButton.toolTip
    with pytest.raises(InputError, match="would be carried from"):
        model = panel.parameters["alignRun"]
        panel.logic.carrySegmentation(panel.brains[0].segmentation, [panel.brains[0].volumes[0]], model)
    ui.carryTo.setCurrentNode(panel.brains[1].volumes[0])
    assert ui.carryButton.isEnabled()
    panel.brains[0].segmentation.GetSegmentation().RemoveAllSegments()
    panel.paint()
    assert not ui.carryButton.isEnabled()


def test_a_folder_is_carried_in_files_and_its_cases_are_shown(panel, aligned_run, monkeypatch, tmp_path):
    """The aligned scans, of which some lost their segmentations."""
    import json
    import shutil

    ui = panel.ui
    run = tmp_path / "run"
    shutil.copytree(aligned_run, run)
    asked = json.loads((run / "align.json").read_text())
    data = tmp_path / "data"
    shutil.copytree(asked["data"], data)
    asked["data"] = str(data)
    (run / "align.json").write_text(json.dumps(asked))
    for path in sorted((data / "labelsTr").iterdir())[2:]:
        path.unlink()
    panel.parameters["alignRun"] = str(run)
    panel.align_section.entered()
    panel.paint()
    ui.carryButton.click()
    idle(panel, 180)
    assert "Show brings one here" in ui.messageLabel.text, ui.messageLabel.text
    row = panel.segment_section.rows[0]
    assert row.volume is None and Path(row.folder).is_dir()
    ui.carriedShowButton.click()
    assert row.volume is not None and row.segmentation.GetAttribute("GEDGAN.segmentation_carried_from")
    assert row.volume.GetAttribute("GEDGAN.segmentation_carried_from") is None
    ui.nextButton.click()
    idle(panel, 60)
    assert ui.messageLabel.text.startswith("1. "), ui.messageLabel.text


QUICKLY = """
import sys
from GEDGANLib.segmentation import job, plan
job.CHECKPOINT_SECONDS = 0.0
plan.MEANS["cpu"] = plan.Means(60_000, 600_000, (8, 8, 8), 2, {updates}, 0.12)
plan.VARIATIONS = 4
from GEDGANLib.commands.main import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture
def few_updates(panel, monkeypatch):
    """The process learns in a few updates; returns how many, which may be changed."""
    from GEDGANLib.jobs.worker import Worker

    wanted = {"updates": 20}
    start = Worker.start.__func__

    def started(cls, arguments, folder, python, *more, launch=popen, **options):
        def go(command, **about):
            at = command.index("segment") if "segment" in command else None
            if at is not None:
                text = QUICKLY.format(updates=wanted["updates"])
                command = [command[0], "-c", text, *command[at:]]
            return launch(command, **about)

        return start(cls, arguments, folder, python, *more, launch=go, **options)

    monkeypatch.setattr(Worker, "start", classmethod(started))
    return wanted


def test_structures_are_those_of_the_alignment_where_there_is_one(panel, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(panel.rest_section, "launch", lambda arguments, folder: started.append(arguments))
    panel.ui.structuresEdit.text = "white matter"
    panel.rest_section._begin(["segment", "DATA", "-o", "OUT"], tmp_path)
    panel.rest_section._begin(["segment", "DATA", "-o", "OUT", "--run", "RUN"], tmp_path)
    assert started[0][-2:] == ["--structures", "white matter"] and "--structures" not in started[1]


def test_the_rest_is_segmented_corrected_accepted_and_segmented_again(with_brains, few_updates):
    from GEDGANPanel import places

    panel, ui = with_brains, with_brains.ui
    assert ui.segmentRestButton.isEnabled(), ui.segmentRestButton.toolTip
    assert not ui.segmentResumeButton.isEnabled() and ui.segmentBar.isHidden()
    drawn = labels_of(panel.brains[0].volumes[0], panel.brains[0].segmentation)
    ui.segmentRestButton.click()
    assert ui.segmentRestButton.text == "Stop" and not ui.segmentBar.isHidden()
    pump(lambda: panel.rest_section.job is None and not panel.tasks.name, 240)
    assert "2 scan(s) were segmented by a network" in ui.messageLabel.text, ui.messageLabel.text
    section = panel.segment_section
    assert [row.trust for row in section.rows] == sorted(row.trust for row in section.rows)
    for row in section.rows:
        number = [nodes.volumes[0].GetID() for nodes in panel.brains].index(row.volume.GetID())
        assert number and overlap(labels_of(row.volume, row.segmentation), panel.truth[number]) > 0.5
        assert "segmented by a network" in row.segmentation.GetName()
        assert row.segmentation.GetAttribute("GEDGAN.segmented_by") == "network.safetensors"
    assert np.array_equal(labels_of(panel.brains[0].volumes[0], panel.brains[0].segmentation), drawn)
    run = panel.rest_section.run
    assert (run / "network.safetensors").is_file() and str(run) in ui.segmentLabel.text
    assert not (run / "segmented").exists() and not run.with_name(f"{run.name}-scans").exists()
    # Nobody learns from it before it is accepted; then it is learned from.
    panel.data_section.refresh()
    assert sum(row.segmentation is not None for row in panel.data_section.rows) == 1
    ui.acceptButton.click()
    tick_all(panel)
    panel.paint()
    ui.segmentRestButton.click()
    pump(lambda: panel.rest_section.job is None and not panel.tasks.name, 240)
    assert "1 scan(s) were segmented" in ui.messageLabel.text, ui.messageLabel.text
    assert len(panel.segment_section.rows) == 1 and panel.rest_section.run != run
    assert not list((places.base_folder() / "data").glob("*"))


def test_segmenting_the_rest_is_stopped_and_gone_on_with(with_brains, few_updates):
    panel, ui = with_brains, with_brains.ui
    few_updates["updates"] = 2000
    ui.segmentRestButton.click()
    pump(lambda: ui.segmentLabel.text.startswith("learning to segment"), 120)
    ui.segmentRestButton.click()
    assert "Stopping" in ui.segmentLabel.text
    pump(lambda: panel.rest_section.job is None, 60)
    assert "Resume goes on" in ui.segmentLabel.text and ui.segmentResumeButton.isEnabled()
    assert ui.segmentRestButton.isEnabled() and not panel.segment_section.rows
    run = panel.rest_section.run
    few_updates["updates"] = 20
    for path in run.glob("checkpoint-*"):  # of another number of updates
        import shutil

        shutil.rmtree(path)
    ui.segmentResumeButton.click()
    pump(lambda: panel.rest_section.job is None and not panel.tasks.name, 240)
    assert "2 scan(s) were segmented by a network" in ui.messageLabel.text, ui.messageLabel.text
    assert not ui.segmentResumeButton.isEnabled()


def test_the_rest_of_a_folder_is_segmented_in_files(panel, aligned_folder, aligned_run, few_updates):
    ui = panel.ui
    panel.parameters["alignRun"] = str(aligned_run)
    panel.align_section.entered()
    panel.paint()
    ui.segmentRestButton.click()
    pump(lambda: panel.rest_section.job is None, 240)
    assert "Show brings one here" in ui.messageLabel.text, ui.messageLabel.text
    (row,) = panel.segment_section.rows  # the only scan that nobody has segmented
    ui.carriedShowButton.click()
    assert row.segmentation.GetAttribute("GEDGAN.segmented_by") and row.volume.GetAttribute("GEDGAN.trust")
    assert row.volume.GetAttribute("GEDGAN.segmented_by") is None
    panel.data_section.refresh()
    assert panel.data_section.rows[0].segmentation is None
    # What is accepted there is learned from the next time.
    ui.acceptButton.click()
    assert "learns from this one" in ui.messageLabel.text
    run = panel.rest_section.run
    ui.segmentRestButton.click()
    pump(lambda: panel.rest_section.job is None, 240)
    assert "All scans were segmented already" in ui.messageLabel.text, ui.messageLabel.text
    from GEDGANLib.segmentation.network_file import read_plan

    labelled = [read_plan(each / "network.safetensors")[1]["labelled"] for each in (run, panel.rest_section.run)]
    assert labelled == [8, 9] and not list(run.parent.glob("*-accepted"))


def test_what_fails_is_said_and_leaves_the_scene_as_it_is(with_brains, few_updates):
    panel, ui = with_brains, with_brains.ui
    panel.brains[0].segmentation.GetSegmentation().RemoveAllSegments()
    panel.paint()
    assert not ui.segmentRestButton.isEnabled()
    there = segmentations()
    with pytest.raises(InputError, match="segmented"):
        panel.logic.segmentRest([nodes.volumes[0] for nodes in panel.brains])
    with pytest.raises(InputError, match="segmented"):
        panel.logic.segmentRest([])
    assert segmentations() == there


def test_scripts_segment_the_rest(with_brains, few_updates, aligned_run, aligned_folder, tmp_path):
    panel = with_brains
    heard = []
    volumes = [nodes.volumes[0] for nodes in panel.brains]
    nodes = panel.logic.segmentRest(volumes, tmp_path / "out", aligned_run, "cpu", heard.append)
    assert len(nodes) == 2 and all(0 < float(node.GetAttribute("GEDGAN.trust")) <= 1 for node in nodes)
    assert (tmp_path / "out" / "network.safetensors").is_file() and any(e["event"] == "progress" for e in heard)
    assert panel.logic.segmentRest(aligned_folder, tmp_path / "two", aligned_run) == tmp_path / "two"
    assert len(list((tmp_path / "two" / "segmented" / "labels").iterdir())) == 1


def test_scripts_carry_without_a_panel(panel, aligned_run):
    first, second = put_brains(2)
    truth = labels_of(second.volumes[0], second.segmentation)
    with pytest.raises(InputError, match="No scans were aligned"):
        panel.logic.carrySegmentation(first.segmentation, [second.volumes[0]])
    (node,) = panel.logic.carrySegmentation(first.segmentation, [second.volumes[0]], aligned_run, "cpu")
    assert overlap(labels_of(second.volumes[0], node), truth) > 0.75
    assert labels_of(second.volumes[0], second.segmentation).any()  # what was there stays


def choose_edit(panel):
    """An edited copy of the first brain's segmentation."""
    ui, brain = panel.ui, panel.brains[0]
    ui.augmentVolume.setCurrentNode(brain.volumes[0])
    ui.augmentSegmentation.setCurrentNode(brain.segmentation)
    ui.editCopyButton.click()
    copy = ui.simulateEdited.currentNode()
    bump(copy)
    return copy


def test_a_scan_is_deformed_to_an_edit_of_a_copy(with_brains):
    panel, ui = with_brains, with_brains.ui
    brain = panel.brains[0]
    before = slicer.util.arrayFromVolume(brain.volumes[0]).copy()
    assert not ui.simulateButton.isEnabled()
    copy = choose_edit(panel)
    panel.data_section.refresh()  # a wish is no segmentation to learn from
    assert panel.data_section.rows[0].segmentation is brain.segmentation
    assert copy.GetName().endswith(", edited") and "Deform to my edit" in ui.messageLabel.text
    drawn = labels_of(brain.volumes[0], brain.segmentation)
    wished = labels_of(brain.volumes[0], copy)
    assert not np.array_equal(wished, drawn)
    assert ui.simulateButton.isEnabled(), ui.simulateButton.toolTip
    ui.simulateReachSpin.value, ui.simulateFreeCheck.checked = 40, True
    ui.simulateButton.click()
    idle(panel)
    assert "Dice" in ui.messageLabel.text, ui.messageLabel.text
    made = next(node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if "deformed" in node.GetName())
    assert made.GetAttribute("GEDGAN.simulated_from") == brain.volumes[0].GetName()
    assert made.GetAttribute("GEDGAN.reach_mm") == "40.0"
    assert not np.array_equal(slicer.util.arrayFromVolume(made), before)
    assert np.array_equal(slicer.util.arrayFromVolume(brain.volumes[0]), before)  # the scan itself stays
    panel.data_section.refresh()
    assert len(panel.data_section.rows) == 3  # nobody learns from it by mistake


def test_an_edit_that_no_deformation_can_follow_is_said(with_brains):
    panel, ui = with_brains, with_brains.ui
    brain = panel.brains[0]
    with pytest.raises(InputError, match="the same as before"):
        panel.logic.simulate(brain.volumes[0], brain.segmentation, brain.segmentation)
    ui.augmentVolume.setCurrentNode(brain.volumes[0])
    ui.augmentSegmentation.setCurrentNode(brain.segmentation)
    ui.editCopyButton.click()
    segmentation = ui.simulateEdited.currentNode().GetSegmentation()
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))
    ui.simulateButton.click()
    idle(panel)
    assert "no deformation can do that" in ui.messageLabel.text, ui.messageLabel.text
