"""Longer ways through the panel: the sample's tour, cases of several channels and classes, one model after another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import slicer
from acting import SMALL, idle, tick_all
from desktop import pump

from GEDGANLib.volumes.cohort import make_case


def put_patients(count: int) -> None:
    """Patients and controls in the scene, each with a T1 and a T2 and one segmentation."""
    from GEDGANLib.scene.nodes import add_case

    for index in range(count):
        nodes = add_case(make_case(index, 0, SMALL, 9.0))
        nodes.volumes[0].SetName(f"person{index} T1")
        second = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"person{index}_T2")
        inverted = 200 - np.array(slicer.util.arrayFromVolume(nodes.volumes[0]))
        slicer.util.updateVolumeFromArray(second, inverted)
        second.CopyOrientation(nodes.volumes[0])


def test_channels_and_classes_go_from_the_scene_to_the_model_and_back(panel, model, tmp_path):
    ui = panel.ui
    ui.exploreButton.click()  # a model of one channel first
    idle(panel)
    of_first = panel.explore_section.nodes
    assert len(of_first.volumes) == 1
    put_patients(6)
    tick_all(panel)
    assert ui.casesLabel.text.startswith("12 of 12 ticked: 12 case(s), 6 with")
    for row in range(12):
        ui.casesTable.item(row, 0).setText(f"person{row // 2}")
        ui.casesTable.item(row, 3).setText("patient" if row < 6 else "control")
    pump(lambda: ui.casesLabel.text.startswith("12 of 12 ticked: 6 case(s), 6 with"))
    assert ui.casesTable.item(1, 4).text().startswith("channel 2 of 2 of person0")
    ui.checkButton.click()
    idle(panel)
    described = json.loads((Path(panel.parameters["checkedData"]) / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "T1", "1": "T2"} and described["numTraining"] == 6
    ui.stepsSpin.value = 3
    ui.trainButton.click()
    pump(lambda: not panel.train_section.state, 120)
    # The sliders of the first model are in use: its model is not taken away from the user.
    assert panel.synthesize_section.card.path == model and "list of models" in ui.messageLabel.text
    trained = panel.train_section.run / "model.safetensors"
    ui.modelCombo.setCurrentIndex(panel.synthesize_section._paths.index(trained) + 1)
    assert "2 channel(s)" in ui.modelCard.toPlainText() and "control" in ui.modelCard.toPlainText()
    assert not ui.classCombo.isHidden()
    ui.classCombo.setCurrentIndex(1)
    ui.countSpin.value = 2
    ui.synthesizeButton.click()
    idle(panel)
    batch = panel.synthesize_section.batches.last
    batch.cases[0].volumes[0].SetName("renamed by the user")
    kinds = panel.synthesize_section.card.plan.classes
    assert [len(case.volumes) for case in batch.cases] == [2, 2]
    assert {case.volumes[0].GetAttribute("GEDGAN.class") for case in batch.cases} == {kinds[0]}
    ui.exportPath.currentPath = str(tmp_path / "batch")
    ui.saveBatchButton.click()
    idle(panel)
    described = json.loads((tmp_path / "batch" / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "T1", "1": "T2"}
    assert (tmp_path / "batch" / "participants.tsv").read_text().count(kinds[0]) == 2
    assert len(list((tmp_path / "batch" / "imagesTr").iterdir())) == 4
    ui.exploreButton.click()
    idle(panel)
    of_second = panel.explore_section.nodes
    assert len(of_second.volumes) == 2 and not slicer.mrmlScene.IsNodePresent(of_first.volumes[0])
    assert panel.explore_section.exploring


def test_try_it_goes_all_the_way_whatever_else_is_done_meanwhile(panel, model, small_sample, monkeypatch):
    from GEDGANPanel import tour

    monkeypatch.setattr(tour, "MINUTES", 0.1)
    heard = []
    monkeypatch.setattr(panel, "say", lambda words, warning=False: heard.append(words))
    panel.ui.tryButton.click()
    pump(lambda: panel.train_section.state == "running", 120)
    panel.ui.countSpin.value = 2
    panel.ui.synthesizeButton.click()  # of another model, while the sample is learned
    idle(panel)
    assert not any("That was all" in words for words in heard)
    pump(lambda: any("That was all" in words for words in heard), 120)
    assert panel.synthesize_section.card.path == panel.train_section.run / "model.safetensors"
    assert len(panel.synthesize_section.batches.last.cases) == tour.CASES


def test_a_tour_that_is_stopped_goes_no_further(panel, small_sample):
    panel.ui.tryButton.click()
    pump(lambda: panel.tasks.name == "plan")
    panel.ui.checkButton.click()
    idle(panel)
    for _ in range(50):
        slicer.app.processEvents()
    assert not panel.train_section.state and not panel.tasks.name
