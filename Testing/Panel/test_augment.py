"""The section Augment: a scan that follows sliders, variations by the dozen, undone and exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import slicer
from acting import SMALL, idle, put_brains, tick_all
from desktop import pump

from GEDGANLib.errors import InputError
from GEDGANLib.scene.read import case_from_scene


@pytest.fixture
def with_scan(panel, aligned_run):
    """A panel with an alignment, and two brains of the scene, the first of them chosen."""
    panel.parameters["alignRun"] = str(aligned_run)
    panel.align_section.entered()
    panel.brains = put_brains(2)
    panel.ui.augmentSection.collapsed = False
    panel.ui.augmentVolume.setCurrentNode(panel.brains[0].volumes[0])
    panel.paint()
    return panel


def voxels(node) -> np.ndarray:
    return slicer.util.arrayFromVolume(node).copy()


def labels_of(nodes) -> np.ndarray:
    return case_from_scene(nodes.volumes[:1], nodes.segmentation).labels


def rested(panel) -> None:
    """Until the fine variation is shown."""
    section = panel.augment_section
    pump(lambda: not section._rest.isActive() and not section._timer.isActive() and section._fine is None, 30)


def test_nothing_can_be_varied_before_scans_are_aligned(panel):
    ui = panel.ui
    put_brains(1)
    for button in (ui.varyButton, ui.augmentButton):
        assert not button.isEnabled() and "First align scans" in button.toolTip
    assert not ui.augmentExportButton.isEnabled() and not ui.augmentUndoButton.isEnabled()


def test_a_scan_follows_the_sliders_and_comes_back(with_scan):
    panel, ui = with_scan, with_scan.ui
    section, brain = panel.augment_section, panel.brains[0]
    assert ui.augmentSegmentation.currentNode() is brain.segmentation
    before = voxels(brain.volumes[0])
    ui.strengthSlider.value = ui.lookSlider.value = 0.0
    ui.varyButton.click()
    idle(panel)
    assert section.varying and ui.varyButton.text == "Back to the scan", ui.messageLabel.text
    assert not ui.augmentSlidersLabel.isHidden() and next(iter(section.sliders)).startswith("mode 1")
    moving = section.nodes.volumes[0]
    rested(panel)
    assert np.array_equal(voxels(moving), before) and voxels(moving).dtype == before.dtype
    assert "variation of" in moving.GetDescription() and "patient" not in moving.GetName()
    next(iter(section.sliders.values())).value = 2.0
    pump(lambda: not np.array_equal(voxels(moving), before))
    rested(panel)
    slid = voxels(moving)
    ui.strengthSlider.value = 1.0
    pump(lambda: not np.array_equal(voxels(moving), slid))
    rested(panel)
    whole = labels_of(section.nodes)
    assert not np.array_equal(whole, labels_of(brain)) and (voxels(moving).T[whole > 0] > 0).mean() > 0.97
    assert np.array_equal(voxels(brain.volumes[0]), before)  # the scan itself stays as it is
    ui.varyButton.click()
    assert not section.varying and ui.varyButton.text == "Move this scan" and not section.sliders
    assert not slicer.mrmlScene.IsNodePresent(moving)


def test_large_scans_follow_on_larger_voxels_and_rest_on_their_own(with_scan, monkeypatch):
    from GEDGANLib.synthesis import moving

    monkeypatch.setattr(moving, "QUICK", 1000)
    panel, ui = with_scan, with_scan.ui
    section = panel.augment_section
    shown = []
    original = section._show
    monkeypatch.setattr(section, "_show", lambda case: (shown.append(case.image.shape[1:]), original(case)))
    ui.varyButton.click()
    idle(panel)
    rested(panel)
    assert np.prod(shown[0]) <= 1000 and shown[-1] == SMALL
    segmentation = section.nodes.segmentation
    assert labels_of(section.nodes).shape == SMALL
    reference = segmentation.GetSegmentation().GetConversionParameter("Reference image geometry")
    assert "0;15;0;23;0;15" in reference.replace(" ", ""), reference


def test_a_scan_without_a_segmentation_is_not_varied_with_that_of_another(with_scan):
    panel, ui = with_scan, with_scan.ui
    assert ui.augmentSegmentation.currentNode() is panel.brains[0].segmentation
    slicer.mrmlScene.RemoveNode(panel.brains[1].segmentation)
    ui.augmentVolume.setCurrentNode(panel.brains[1].volumes[0])
    assert ui.augmentSegmentation.currentNode() is None


def test_variations_come_into_one_folder_and_are_undone(with_scan):
    panel, ui = with_scan, with_scan.ui
    nodes = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    ui.augmentCountSpin.value = 3
    ui.augmentSeedSpin.value = 5
    ui.augmentButton.click()
    idle(panel)
    assert "3 variation(s) are in the scene" in ui.messageLabel.text and "patient" in ui.messageLabel.text
    batch = panel.augment_section.batches.last
    name = panel.brains[0].volumes[0].GetName()
    assert [case.name for case in batch.cases] == [f"{name} variation 5-{index:04d}" for index in range(3)]
    for case in batch.cases:
        for node in case.every():
            assert node.GetDescription().startswith(f"variation of {name}, made by GED-GAN")
        assert case.volumes[0].GetAttribute("GEDGAN.variation_of") == name
        assert case.volumes[0].GetAttribute("GEDGAN.synthetic") is None
    names = [panel.brains[0].segmentation.GetSegmentation().GetNthSegment(index).GetName() for index in range(2)]
    made = batch.cases[0].segmentation.GetSegmentation()
    assert [made.GetNthSegment(index).GetName() for index in range(2)] == names
    panel.data_section.refresh()  # nobody learns from them by mistake
    assert len(panel.data_section.rows) == 2
    ui.augmentUndoButton.click()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == nodes
    assert not ui.augmentUndoButton.isEnabled()


def test_all_ticked_scans_are_varied(with_scan):
    panel, ui = with_scan, with_scan.ui
    tick_all(panel)
    ui.augmentTickedCheck.checked = True
    ui.augmentCountSpin.value = 2
    ui.augmentButton.click()
    idle(panel)
    batch = panel.augment_section.batches.last
    found = [case.volumes[0].GetAttribute("GEDGAN.variation_of") for case in batch.cases]
    assert found == [nodes.volumes[0].GetName() for nodes in panel.brains for _repeat in range(2)]


def test_where_pytorch_does_not_run_in_slicer_a_process_does_it(with_scan, monkeypatch):
    from GEDGANPanel.engine import Engine, EngineUnavailable

    panel, ui = with_scan, with_scan.ui

    def refuse(self, path, device="auto"):
        raise EngineUnavailable("PyTorch does not start in Slicer (damaged).")
        yield

    monkeypatch.setattr(Engine, "loading", refuse)
    ui.augmentCountSpin.value = 1
    ui.augmentButton.click()
    idle(panel, 180)
    batch = panel.augment_section.batches.last
    assert batch is not None and len(batch.cases) == 1, ui.messageLabel.text
    case = batch.cases[0]
    assert case.volumes[0].GetDescription().startswith("variation of")
    from GEDGANPanel import places

    for kind in ("data", "variations"):  # no copies of a patient's scan are left about
        assert not list((places.base_folder() / kind).glob("*"))
    first = case.segmentation.GetSegmentation().GetNthSegment(0)
    own = (
        panel.brains[0]
        .segmentation.GetSegmentation()
        .GetSegment(panel.brains[0].segmentation.GetSegmentation().GetSegmentIdBySegmentName(first.GetName()))
    )
    np.testing.assert_allclose(first.GetColor(), own.GetColor(), atol=0.01)
    ui.varyButton.click()
    idle(panel)
    assert "Make variations does without" in ui.messageLabel.text


def test_variations_are_exported_with_the_real_scans(with_scan):
    panel, ui = with_scan, with_scan.ui
    ui.augmentCountSpin.value = 1
    ui.augmentExportButton.click()
    assert ui.augmentExportButton.text == "Stop"
    idle(panel, 180)
    assert "a split into folds are in" in ui.messageLabel.text, ui.messageLabel.text
    folder = Path(ui.messageLabel.text.rsplit(" in ", 1)[1].rstrip("."))
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len(splits) == 5 and folder.name == "Dataset501_Variations"
    assert (folder / "dataset.json").exists()


def test_scripts_vary_without_a_panel(panel, aligned_run):
    brain = put_brains(1)[0]
    with pytest.raises(InputError, match="No scans were aligned"):
        panel.logic.augment(brain.volumes[0], brain.segmentation)
    batch = panel.logic.augment(
        brain.volumes[0], brain.segmentation, count=2, strength=0, look=0, seed=3, model=aligned_run, device="cpu"
    )
    assert len(batch.cases) == 2
    assert np.array_equal(voxels(batch.cases[1].volumes[0]), voxels(brain.volumes[0]))
    assert np.array_equal(labels_of(batch.cases[1]), labels_of(brain))
    assert tuple(voxels(batch.cases[0].volumes[0]).T.shape) == SMALL


def test_a_scene_that_closes_takes_the_moving_scan_along(with_scan):
    panel, ui = with_scan, with_scan.ui
    ui.varyButton.click()
    idle(panel)
    assert panel.augment_section.varying
    slicer.mrmlScene.Clear(0)
    assert not panel.augment_section.varying and not panel.augment_section.sliders
