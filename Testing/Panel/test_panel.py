"""The real panel with the real worker: data from the scene, training, synthesis, exploring, report, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import slicer
from acting import idle, put_brains, tick_all
from desktop import DesktopServices, FileDialog, picture, pump

from GEDGANLib.synthesis.directions import directions_path


@pytest.fixture
def pictures(request, tmp_path):
    """Draws the panel into ``build/panel`` of the checkout, to be looked at."""
    folder = Path(__file__).resolve().parents[2] / "build" / "panel"
    return lambda panel, name: picture(panel, folder / f"{name}.png")


def test_opening_says_in_one_line_what_there_is(panel, pictures):
    assert panel.ui.setUpLabel.text.startswith("Ready: PyTorch")
    assert not panel.ui.trainButton.isEnabled() and "folder of scans" in panel.ui.trainButton.toolTip
    assert panel.ui.setUpButton.isHidden()
    pictures(panel, "1-opened")


def test_the_devices_are_asked_of_a_worker_once(opened):
    import qt

    panel = opened()
    pump(lambda: not panel.tasks.name)
    assert "No GPU" in panel.ui.setUpLabel.text or "GPU:" in panel.ui.setUpLabel.text
    kept = str(qt.QSettings().value("GEDGAN/devices"))
    assert kept.partition(": ")[2] in panel.ui.setUpLabel.text
    qt.QSettings().setValue("GEDGAN/devices", f"1.0{kept}")  # that was another PyTorch: it is asked again
    panel.enter()
    assert panel.tasks.name == "devices"
    pump(lambda: not panel.tasks.name)
    assert qt.QSettings().value("GEDGAN/devices") == kept


def test_volumes_of_the_scene_are_listed_with_their_segmentations_and_status(panel, pictures):
    nodes = put_brains(3)
    labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(labelmap, np.ones((8, 8, 8), np.int16))
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    panel.ui.sceneRadio.checked = True
    pump(lambda: panel.ui.casesTable.rowCount == 4)
    rows = panel.data_section.rows
    assert [row.usable for row in rows] == [True, True, True, False]
    assert rows[0].segmentation is nodes[0].segmentation and "2 segment(s)" in rows[0].status
    assert rows[3].volume is empty and "no voxels" in rows[3].status
    panel.ui.tickAllButton.click()
    pump(lambda: panel.ui.casesLabel.text.startswith("3 of 4 ticked: 3 case(s), 3 with"))
    panel.ui.casesTable.cellWidget(1, 2).setCurrentIndex(0)
    panel.ui.casesTable.item(2, 3).setText("patient")
    nodes[0].segmentation.SetName("renamed")
    pump(lambda: panel.ui.casesLabel.text.startswith("3 of 4 ticked: 3 case(s), 2 with"))
    rows = panel.data_section.rows
    assert rows[0].ticked and rows[1].segmentation is None and rows[2].class_name == "patient"
    assert "image alone" in panel.ui.casesTable.item(1, 4).text()
    pictures(panel, "2-scene")


def test_a_folder_is_checked_planned_trained_stopped_and_resumed(panel, cohort_folder, pictures):
    panel.ui.dataPath.currentPath = str(cohort_folder)
    panel.ui.deviceCombo.setCurrentIndex(3)
    assert panel.ui.checkButton.isEnabled()
    panel.ui.checkButton.click()
    assert panel.tasks.name == "plan" and panel.ui.checkButton.text == "Stop"
    idle(panel)
    words = panel.ui.planText.toPlainText()
    assert "GB of memory" in words and "minutes for 1000 steps" in words
    panel.ui.minutesSpin.value = 10
    panel.ui.trainButton.click()
    train = panel.train_section
    assert train.state == "running" and panel.ui.trainButton.text == "Stop"
    pump(lambda: train.curves.present(), 90)
    assert "Step" in panel.ui.trainLabel.text and "CPU" in panel.ui.trainLabel.text
    pictures(panel, "3-training")
    table = slicer.util.getNode("GED-GAN losses table")
    before = table.GetNumberOfRows()
    pump(lambda: table.GetNumberOfRows() > before)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 1
    panel.ui.trainButton.click()
    assert panel.ui.trainButton.text == "Stopping…" and not panel.ui.trainButton.isEnabled()
    pump(lambda: not train.state)
    assert "Stopped" in panel.ui.trainLabel.text
    assert panel.synthesize_section.card.path == train.run / "model.safetensors"
    # A preview is there, the model makes one before it stops.
    panel.ui.previewButton.click()
    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
    assert names == ["preview synthesized", "preview real"]
    panel.ui.previewButton.click()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2
    assert panel.ui.resumeButton.isEnabled()
    panel.ui.minutesSpin.value = 1
    step = json.loads((train.run / "run.json").read_text())["model_step"]
    panel.ui.resumeButton.click()
    pump(lambda: panel.ui.trainLabel.text.startswith("Step"), 90)
    panel.ui.trainButton.click()
    pump(lambda: not train.state)
    assert json.loads((train.run / "run.json").read_text())["model_step"] > step


def test_changed_data_must_be_checked_again(panel, cohort_folder):
    panel.ui.dataPath.currentPath = str(cohort_folder)
    panel.ui.checkButton.click()
    idle(panel)
    assert panel.ui.trainButton.isEnabled()
    panel.ui.spacingEdit.text = "20"
    assert not panel.ui.trainButton.isEnabled() and "Changed" in panel.ui.planText.toPlainText()


def test_a_plan_is_of_the_structures_that_are_named(panel, cohort_folder):
    panel.ui.dataPath.currentPath = str(cohort_folder)
    panel.ui.structuresEdit.text = " white matter; "
    panel.ui.checkButton.click()
    idle(panel)
    plan = json.loads(Path(panel.parameters["plan"]).read_text())
    assert [label["name"] for label in plan["labels"]] == ["white matter"]
    assert panel.data_section.structures() == ["--structures", "white matter"]
    panel.ui.structuresEdit.text = "white matter, liver"
    assert not panel.ui.trainButton.isEnabled()
    panel.ui.checkButton.click()
    idle(panel)
    assert "liver" in panel.ui.messageLabel.text and not panel.parameters["plan"]
    panel.ui.structuresEdit.text = ""
    panel.ui.forSharingCheck.checked = True
    panel.ui.checkButton.click()
    idle(panel)
    assert "aligns none" in panel.ui.messageLabel.text or "cannot be shared" in panel.ui.messageLabel.text


def test_ticked_volumes_become_a_data_set_and_a_plan(panel):
    put_brains(4)
    tick_all(panel)
    panel.ui.checkButton.click()
    assert panel.tasks.name == "gather"
    idle(panel)
    data = Path(panel.parameters["checkedData"])
    assert len(list((data / "imagesTr").iterdir())) == 4 and panel.ui.trainButton.isEnabled()


def test_cases_come_into_one_folder_of_the_scene_and_go_again(panel, model, pictures):
    ui = panel.ui
    assert "Learned from" in ui.modelCard.toPlainText() and "grey matter" in ui.modelCard.toPlainText()
    ui.countSpin.value, ui.seedSpin.value = 3, 7
    ui.surfacesCheck.checked = ui.renderingCheck.checked = True
    ui.synthesizeButton.click()
    assert panel.tasks.name == "synthesize" and ui.synthesizeButton.text == "Stop"
    idle(panel)
    batch = panel.synthesize_section.batches.last
    assert len(batch.cases) == 3
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    items = [hierarchy.GetItemByDataNode(node) for case in batch.cases for node in (*case.volumes, case.segmentation)]
    assert {hierarchy.GetItemParent(item) for item in items} == {batch.folder_item}
    volume = batch.cases[0].volumes[0]
    assert volume.GetAttribute("GEDGAN.seed") == "7" and "not a patient" in volume.GetDescription()
    shown = [case.segmentation.GetDisplayNode().GetVisibility() for case in batch.cases]
    assert shown == [1, 0, 0] and batch.cases[0].segmentation.GetDisplayNode().GetVisibility3D()
    assert slicer.util.getNodesByClass("vtkMRMLVolumeRenderingDisplayNode")[0].GetVisibility()
    # What was made is not offered to learn from.
    panel.data_section.refresh()
    assert panel.data_section.rows == []
    pictures(panel, "4-synthesized")
    ui.undoButton.click()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert not ui.undoButton.isEnabled()


def test_the_worker_makes_the_same_cases_as_slicer_itself(panel, model):
    panel.ui.countSpin.value = 2
    made = []
    for place in (0, 1):
        panel.ui.placeCombo.setCurrentIndex(place)
        panel.ui.synthesizeButton.click()
        idle(panel)
        batch = panel.synthesize_section.batches.last
        assert len(batch.cases) == 2
        image = np.array(slicer.util.arrayFromVolume(batch.cases[1].volumes[0]))
        segmentation = batch.cases[1].segmentation
        identifier = segmentation.GetSegmentation().GetNthSegmentID(1)
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, identifier, batch.cases[1].volumes[0])
        made.append((image, np.array(mask), batch.cases[1].volumes[0].GetAttribute("GEDGAN.latent")))
    np.testing.assert_allclose(made[0][0], made[1][0], atol=0.51)  # files hold whole numbers, as the scans do
    assert (made[0][1] != made[1][1]).mean() < 0.001 and made[0][2] == made[1][2]


def test_where_pytorch_does_not_start_in_slicer_a_worker_does_it(panel, model, monkeypatch):
    from GEDGANPanel.engine import EngineUnavailable

    def broken(path, device):
        yield "Starting PyTorch (once)…"
        raise EngineUnavailable("PyTorch does not start in Slicer (a library is missing)")

    monkeypatch.setattr(panel.logic.engine, "loading", broken)
    panel.ui.countSpin.value = 1
    panel.ui.synthesizeButton.click()
    pump(lambda: panel.tasks.name == "synthesize" and panel.tasks.job is not None)
    idle(panel)
    assert len(panel.synthesize_section.batches.last.cases) == 1
    assert len(panel.logic.synthesize(model, 1).cases) == 1  # scripts too
    panel.ui.exploreButton.click()
    idle(panel)
    assert "Synthesize does without" in panel.ui.messageLabel.text


def test_sliders_move_the_case_in_place_and_more_like_it_is_made(panel, model, pictures):
    ui, explore = panel.ui, panel.explore_section
    directions_path(model).unlink()  # it was never explored before
    ui.exploreSection.collapsed = False
    ui.exploreButton.click()
    idle(panel)
    assert explore.exploring and "volume of white matter" in explore.sliders
    volume = explore.nodes.volumes[0]
    before = np.array(slicer.util.arrayFromVolume(volume))
    count = slicer.mrmlScene.GetNumberOfNodes()
    explore.sliders["volume of white matter"].value = 2.0
    pump(lambda: not np.array_equal(before, slicer.util.arrayFromVolume(volume)))
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    pictures(panel, "5-exploring")
    segmentation = explore.nodes.segmentation
    identifier = segmentation.GetSegmentation().GetNthSegmentID(1)
    more = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, identifier, volume).sum()
    ui.centreButton.click()
    np.testing.assert_array_equal(before, slicer.util.arrayFromVolume(volume))
    assert more > slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, identifier, volume).sum()
    ui.moreSpin.value = 2
    ui.moreButton.click()
    idle(panel)
    assert len(panel.synthesize_section.batches.last.cases) == 2
    ui.keepButton.click()
    idle(panel)
    ui.framesSpin.value = 3
    for index in (0, len(explore.sliders)):  # a direction, and the way to the case of the seed
        ui.seriesCombo.setCurrentIndex(index)
        ui.seriesButton.click()
        idle(panel)
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert [browser.GetNumberOfItems() for browser in browsers] == [3, 3]
    ui.releaseButton.click()
    assert not panel.logic.engine.loaded and not explore.exploring and explore.sliders == {}


def test_a_scan_is_projected_and_its_maps_lie_on_it(panel, model, cohort_folder, hasty):
    from GEDGANPanel import places
    from GEDGANPanel.scene_cases import MAP

    scan = put_brains(1)[0].volumes[0]
    # A lesion: an anomaly map of it is made beside healthy scans.
    voxels = np.array(slicer.util.arrayFromVolume(scan))
    voxels[6:10, 10:14, 6:10] = 3 * voxels.max()
    slicer.util.updateVolumeFromArray(scan, voxels)
    panel.ui.projectVolume.setCurrentNode(scan)
    panel.ui.healthyPath.currentPath = str(cohort_folder)
    hasty("--steps", "25")
    panel.ui.projectButton.click()
    assert panel.tasks.name == "project"
    idle(panel, 240)
    maps = {node.GetAttribute(MAP): node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")}
    assert {"nearest", "residual", "anomaly"} <= set(maps)
    assert maps["residual"].GetImageData().GetDimensions() == scan.GetImageData().GetDimensions()
    np.testing.assert_allclose(maps["nearest"].GetOrigin(), scan.GetOrigin(), atol=1e-4)
    found = np.array(slicer.util.arrayFromVolume(maps["anomaly"]))
    assert found[6:10, 10:14, 6:10].mean() > 3 * np.delete(found.ravel(), np.argsort(found.ravel())[-64:]).mean()
    display = maps["anomaly"].GetDisplayNode()
    # The table Inferno is among the files of the desktop application; the fallback is always there.
    assert display.GetColorNode().GetName() in ("Inferno", "Red") and display.GetApplyThreshold()
    assert display.GetWindowLevelMax() == 6.0
    composite = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert composite is None or composite.GetForegroundVolumeID() == maps["anomaly"].GetID()
    assert panel.explore_section.exploring
    kept = [path.name for path in (places.base_folder() / "projections").iterdir()]
    assert len(kept) == 1 and "scan" not in kept[0]  # the copy of the patient's scan is gone


def test_exports_and_the_batch_on_disk(panel, model, tmp_path):
    ui = panel.ui
    ui.exportCountSpin.value = 2
    for index, expected in enumerate(("dataset.json", "images", "images", "configs")):
        ui.exportCombo.setCurrentIndex(index)
        ui.exportPath.currentPath = str(tmp_path / f"export{index}")
        ui.exportButton.click()
        idle(panel)
        assert (tmp_path / f"export{index}" / expected).exists(), ui.messageLabel.text
    ui.countSpin.value = 2
    ui.synthesizeButton.click()
    idle(panel)
    # A correction in the scene is what is written.
    case = panel.synthesize_section.batches.last.cases[0]
    segment = case.segmentation.GetSegmentation().GetNthSegmentID(0)
    cleared = np.zeros_like(slicer.util.arrayFromVolume(case.volumes[0]), np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(cleared, case.segmentation, segment, case.volumes[0])
    ui.exportPath.currentPath = str(tmp_path / "batch")
    ui.saveBatchButton.click()
    idle(panel)
    import nibabel

    labels = [np.asarray(nibabel.load(path).dataobj) for path in sorted((tmp_path / "batch" / "labelsTr").iterdir())]
    assert 1 not in labels[0] and 1 in labels[1]
    origins = json.loads((tmp_path / "batch" / "provenance.json").read_text())
    assert all(origin["synthetic"] and "latent" in origin for origin in origins.values())


def test_a_report_is_made_and_opened_and_stands_on_the_card(panel, opened, model, trained_folder, monkeypatch):
    import GEDGANPanel.judge_section as judge_section

    monkeypatch.setattr(judge_section, "REPORT_CASES", 12)
    monkeypatch.setattr(judge_section, "REPORT_UPDATES", 5)
    panel.ui.reportDataPath.currentPath = str(trained_folder)
    panel.ui.quickCheck.checked = True
    panel.ui.reportButton.click()
    # It goes on without the panel, and keeps nothing else from being done.
    assert panel.judge_section.job is not None and panel.ui.synthesizeButton.isEnabled()
    panel.cleanup()
    panel = opened()
    panel.ui.judgeSection.collapsed = False
    assert panel.ui.reportButton.text == "Stop" and not panel.ui.reportBar.isHidden()
    pump(lambda: panel.judge_section.job is None, 240)
    assert panel.synthesize_section.card.path == model
    assert panel.judge_section.page is not None, panel.ui.messageLabel.text
    panel.ui.openReportButton.click()
    assert DesktopServices.opened[-1] == str(panel.judge_section.page)
    assert opened().ui.openReportButton.isEnabled()  # in the next session too
    assert "Report:" in panel.ui.modelCard.toPlainText()


def test_a_model_is_browsed_for_and_remembered(panel, trained_model):
    FileDialog.answer = str(trained_model)
    panel.ui.browseModelButton.click()
    assert panel.synthesize_section.card.path == trained_model
    from GEDGANPanel import places

    assert places.recent_models()[0] == trained_model


def test_models_that_have_a_name_stand_first(panel, trained_model):
    from GEDGANPanel import places

    from GEDGANLib.synthesis.known_models import keep_model

    kept = keep_model(trained_model, "zebra", folder=places.base_folder() / "models").path
    panel.synthesize_section.take_model(trained_model)
    combo = panel.ui.modelCombo
    assert combo.itemText(1) == "zebra" and combo.itemText(combo.currentIndex) != "zebra"
    combo.setCurrentIndex(1)
    assert panel.synthesize_section.card.path == kept and panel.parameters["model"] == str(kept)
    panel.synthesize_section.refresh()
    assert combo.currentIndex == 1


def test_parameters_survive_saving_and_loading_of_the_scene(panel, opened, slicer_desktop, tmp_path):
    panel.ui.countSpin.value = 5
    panel.ui.truncationSlider.value = 0.7
    panel.ui.sceneRadio.checked = True
    panel.ui.plotCheck.checked = False
    put_brains(4)
    tick_all(panel)
    panel.ui.checkButton.click()
    idle(panel)
    assert panel.ui.trainButton.isEnabled()
    from GEDGANLib.scene.headless import load_scene, save_scene

    save_scene(slicer_desktop.core, tmp_path / "scene.mrb")
    slicer.mrmlScene.Clear(0)
    assert panel.ui.countSpin.value == 8 and not panel.ui.trainButton.isEnabled()
    load_scene(slicer_desktop.core, tmp_path / "scene.mrb")
    assert panel.ui.countSpin.value == 5 and panel.ui.truncationSlider.value == pytest.approx(0.7)
    assert panel.ui.sceneRadio.checked and not panel.ui.plotCheck.checked
    # The data are those that were checked, so the plan is good still; for others it would not be.
    assert panel.ui.trainButton.isEnabled() and "GB of memory" in panel.ui.planText.toPlainText()
    volume = panel.data_section.rows[0].volume
    slicer.util.updateVolumeFromArray(volume, slicer.util.arrayFromVolume(volume) + 1)
    panel.cleanup()
    assert not opened().ui.trainButton.isEnabled()


def test_two_panels_share_the_scene(panel, opened):
    other = opened()
    panel.ui.countSpin.value = 3
    other.initializeParameterNode()
    assert other.ui.countSpin.value == 3


def test_the_module_says_who_it_is_and_offers_its_sample(slicer_desktop):
    from types import SimpleNamespace

    import GEDGAN

    about = SimpleNamespace(path=GEDGAN.__file__)
    GEDGAN.GEDGAN(about)
    assert about.categories == ["Image Synthesis"] and about.contributors and about.acknowledgementText
    slicer_desktop.application.startup[-1]()
    source = slicer_desktop.samples.sources[0]
    assert slicer_desktop.samples.categories == {"GEDGAN": "GED-GAN"} and Path(source["thumbnail"]).is_file()
    logic = GEDGAN.GEDGANLogic()
    assert len(logic.loadSample(2)) == 2
    test = GEDGAN.GEDGANTest()
    test.setUp()
    test.test_Sample()


def test_what_slicers_ctest_runs_passes_here_too(slicer_desktop):
    import importlib.util
    import unittest

    path = Path(__file__).resolve().parents[1] / "Python" / "GEDGANPipelineTest.py"
    spec = importlib.util.spec_from_file_location("GEDGANPipelineTest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    assert result.testsRun == 4 and result.wasSuccessful() and not result.skipped, result.failures + result.errors


def test_a_script_is_told_of_a_failed_training(slicer_desktop, tmp_path):
    import GEDGAN
    from GEDGANLib.errors import InputError

    logic, heard = GEDGAN.GEDGANLogic(), []
    with pytest.raises(InputError, match="There is no folder"):
        logic.train(tmp_path / "nowhere", waitForCompletion=True, onEvent=heard.append)
    assert heard[-1]["event"] == "failed"
    with pytest.raises(InputError, match="cannot be read"):
        logic.synthesize(tmp_path / "nothing.safetensors")
