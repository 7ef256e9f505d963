"""What goes wrong around a panel: workers that die, hang or talk nonsense, scenes that close, nodes that vanish."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from desktop import DesktopServices, pump

from GEDGANLib.volumes.cohort import make_case

SMALL = (16, 24, 16)


def script(code: str):
    """A launch that runs ``code`` instead of the library."""

    def launch(command, **options):
        return subprocess.Popen([sys.executable, "-c", code], **options)

    return launch


@pytest.fixture
def instead(panel, monkeypatch):
    """Lets the panel start a script where it would start the library."""

    def use(code: str) -> None:
        original = type(panel.logic).startWorker

        def start(self, arguments, folder, stopFile=None, launch=None):
            return original(self, arguments, folder, stopFile, script(code))

        monkeypatch.setattr(type(panel.logic), "startWorker", start)

    return use


@pytest.fixture
def trainable(panel, cohort_folder, tmp_path):
    """A panel whose data are checked, by a plan that was made already."""
    plan = tmp_path / "plan.json"
    from GEDGANLib.planning import make_plan
    from GEDGANLib.volumes.dataset import find_dataset
    from GEDGANLib.volumes.pipeline import check_dataset

    make_plan(check_dataset(find_dataset(cohort_folder)), "cpu").save(plan)
    panel.ui.dataPath.currentPath = str(cohort_folder)
    panel.parameters["plan"], panel.parameters["checkedData"] = str(plan), str(cohort_folder)
    panel.paint()
    return panel


def start_training(panel) -> None:
    panel.ui.minutesSpin.value = 10
    panel.ui.trainButton.click()
    assert panel.train_section.state == "running", panel.ui.messageLabel.text


def training_well_under_way(panel) -> None:
    start_training(panel)
    pump(lambda: panel.ui.trainLabel.text.startswith("Step"), 120)


def test_a_killed_training_is_told_and_can_be_resumed(trainable):
    training_well_under_way(trainable)
    trainable.train_section.job.worker.kill()
    pump(lambda: not trainable.train_section.state)
    words = trainable.ui.messageLabel.text
    assert "killed" in words and "Traceback" not in words
    assert trainable.ui.trainLabel.text == "The training has failed."
    assert trainable.ui.trainButton.text == "Train" and trainable.ui.trainButton.isEnabled()
    assert trainable.ui.resumeButton.isEnabled()


def test_a_failure_is_explained_in_the_workers_words(trainable, instead):
    instead('print(\'{"event": "failed", "message": "The disk is full.", "hint": "Make room."}\'); raise SystemExit(2)')
    start_training(trainable)
    pump(lambda: not trainable.train_section.state)
    assert "The disk is full. Make room." in trainable.ui.messageLabel.text


def test_nonsense_from_a_worker_does_no_harm(trainable, instead):
    instead(
        "import sys\n"
        'sys.stdout.buffer.write(b\'\\xff\\xfe garbage\\n{"event": 3}\\n[1, 2]\\n{"event": "progress"}\\n\')\n'
        'print(\'{"event": "progress", "losses": {"gap": "x"}, "progress": 0.5, "step": 1}\')\n'
        'print(\'{"event": "progress", "losses": null}\')\n'
        'print(\'{"event": "started"}\')\n'
        'print(\'{"event": "unheard of"}\')\n'
    )
    start_training(trainable)
    pump(lambda: not trainable.train_section.state)
    assert trainable.ui.trainButton.text == "Train"


def test_a_worker_that_hangs_is_told_of_and_can_be_ended(trainable, instead, monkeypatch):
    import GEDGANPanel.following as following

    instead('import time\nprint(\'{"event": "started"}\', flush=True)\ntime.sleep(600)')
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(following, "QUIET_SECONDS", 0.5)
    start_training(trainable)
    pump(lambda: "stuck" in trainable.ui.trainLabel.text, 20)
    job = trainable.train_section.job
    (job.worker.folder / "run").mkdir()
    job.worker.about["stop_file"] = str(job.worker.folder / "run" / "STOP")  # there, but nobody looks
    trainable.ui.trainButton.click()
    pump(lambda: trainable.ui.trainButton.text == "End now", 20)
    trainable.ui.trainButton.click()
    pump(lambda: not trainable.train_section.state)
    assert not job.worker.alive() and "Ended" in trainable.ui.trainLabel.text


def test_closing_the_scene_in_mid_training_leaves_it_running(trainable):
    training_well_under_way(trainable)
    pump(trainable.train_section.curves.present)
    slicer.mrmlScene.Clear(0)
    assert trainable.train_section.state == "running"
    pump(trainable.train_section.curves.present)  # the chart comes back
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 1


def test_a_training_outlives_the_panel_and_is_found_again(trainable, opened):
    training_well_under_way(trainable)
    worker, run = trainable.train_section.job.worker, trainable.train_section.run
    trainable.cleanup()
    assert worker.alive()
    again = opened()
    assert again.train_section.state == "running" and again.train_section.run == run
    assert "still running" in again.ui.messageLabel.text
    pump(lambda: again.ui.trainLabel.text.startswith("Step"))
    again.ui.trainButton.click()
    pump(lambda: not again.train_section.state)
    assert "Stopped" in again.ui.trainLabel.text and again.synthesize_section.card is not None
    third = opened()  # what has ended was told once
    assert third.train_section.state == ""


def test_closing_the_scene_in_mid_synthesis_stops_it(panel, model):
    panel.ui.countSpin.value = 50
    panel.ui.synthesizeButton.click()
    pump(lambda: slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") > 1)
    slicer.mrmlScene.Clear(0)
    assert not panel.task
    for _ in range(20):
        slicer.app.processEvents()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert panel.ui.synthesizeButton.text == "Synthesize"


def test_synthesis_can_be_stopped_and_what_is_there_stays(panel, model):
    panel.ui.countSpin.value = 50
    panel.ui.synthesizeButton.click()
    pump(lambda: slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") > 1)
    panel.ui.synthesizeButton.click()
    assert not panel.task and slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") >= 2
    assert panel.ui.messageLabel.text == "Stopped."


def test_nodes_deleted_by_hand_are_no_trouble(panel, model):
    panel.ui.countSpin.value = 2
    panel.ui.synthesizeButton.click()
    pump(lambda: not panel.task)
    for case in list(panel.synthesize_section.batch.cases):
        slicer.mrmlScene.RemoveNode(case.volumes[0])
    panel.ui.undoButton.click()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    panel.ui.exploreButton.click()
    pump(lambda: not panel.task)
    slicer.mrmlScene.RemoveNode(panel.explore_section.nodes.volumes[0])
    next(iter(panel.explore_section.sliders.values())).value = 1.0
    pump(lambda: not panel.ui.moreButton.isEnabled())
    panel.ui.exploreButton.click()
    pump(lambda: not panel.task)
    assert panel.explore_section.exploring


def test_ticked_nodes_that_vanish_and_bending_transforms_are_told(panel):
    from GEDGANLib.scene.nodes import add_case

    nodes = [add_case(make_case(index, 0, SMALL, 9.0)) for index in range(3)]
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "moved")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 25.0)
    moved.SetMatrixTransformToParent(matrix)
    for node in (nodes[1].volumes[0], nodes[1].segmentation):
        node.SetAndObserveTransformNodeID(moved.GetID())
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bent")
    nodes[2].volumes[0].SetAndObserveTransformNodeID(bent.GetID())
    panel.ui.sceneRadio.checked = True
    panel.data_section.refresh()
    rows = panel.data_section.rows
    assert [row.usable for row in rows] == [True, True, False] and "moved by its transform" in rows[1].status
    panel.ui.tickAllButton.click()
    slicer.mrmlScene.RemoveNode(nodes[0].volumes[0])
    pump(lambda: panel.ui.casesTable.rowCount == 2)
    panel.ui.checkButton.click()
    pump(lambda: not panel.task)
    import nibabel

    written = nibabel.load(next(Path(slicer_folder()).glob("data/*/imagesTr/*")))
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


def test_bad_input_is_told_in_sentences(panel, tmp_path):
    wrong = tmp_path / "model.safetensors"
    wrong.write_bytes(b"no model")
    panel.synthesize_section.take_model(wrong)
    assert "is not a model of GED-GAN" in panel.ui.messageLabel.text and not panel.ui.synthesizeButton.isEnabled()
    panel.ui.dataPath.currentPath = str(tmp_path / "nowhere")
    panel.ui.checkButton.click()
    pump(lambda: not panel.task)
    assert "There is no folder" in panel.ui.messageLabel.text
    panel.ui.spacingEdit.text = "thin"
    panel.ui.checkButton.click()
    pump(lambda: not panel.task)
    assert "Traceback" not in panel.ui.messageLabel.text and panel.ui.messageLabel.text


def test_a_busy_folder_or_no_browser_is_told(panel, model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    panel.ui.exportPath.currentPath = str(tmp_path / "full")
    panel.ui.exportCountSpin.value = 1
    panel.ui.exportButton.click()
    pump(lambda: not panel.task)
    assert (
        "already holds files" in panel.ui.messageLabel.text and (tmp_path / "full" / "mine.txt").read_text() == "mine"
    )
    panel.judge_section.page, panel.judge_section._page_model = tmp_path / "full" / "mine.txt", model
    panel.paint()
    DesktopServices.works = False
    try:
        panel.ui.openReportButton.click()
    finally:
        DesktopServices.works = True
    assert "No web browser" in panel.ui.messageLabel.text


def test_a_task_that_is_stopped_ends_its_worker(panel, instead, model):
    instead("import time\ntime.sleep(600)")
    panel.ui.exportButton.click()
    worker = panel._job.worker
    panel.ui.exportButton.click()
    pump(lambda: not panel.task)
    assert panel.ui.messageLabel.text == "Stopped." and not worker.alive()


def test_set_up_asks_installs_what_is_missing_and_holds_the_rest(opened, slicer_desktop, monkeypatch, tmp_path):
    from GEDGANPanel import environment

    lacking = environment.SetUp(False, "", ("monai>=1.5",))
    states = [lacking, environment.SetUp(True, "2.9.0", ("monai>=1.5",)), environment.SetUp(True, "2.9.0", ())]
    monkeypatch.setattr(environment, "look", lambda path: states[0])
    panel = opened()
    words = panel.ui.setUpLabel.text
    assert "extension PyTorch" in words and "monai" in words and panel.ui.setUpButton.isEnabled()
    assert "Set up" in panel.ui.synthesizeButton.toolTip
    panel.ui.setUpButton.click()  # in testing mode every question is answered by no
    assert "not installed" in panel.ui.messageLabel.text and slicer_desktop.application.extensions.asked == []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *arguments, **options: True)
    panel.ui.setUpButton.click()
    assert slicer_desktop.application.extensions.asked == ["PyTorch"] and "restart" in panel.ui.messageLabel.text
    panel.ui.setUpButton.click()  # once more, before the restart
    assert slicer_desktop.application.extensions.asked == ["PyTorch"]
    states.pop(0)
    monkeypatch.setattr(environment, "look", lambda path: states.pop(0) if len(states) > 1 else states[0])
    panel.ui.setUpButton.click()
    asked = slicer_desktop.packaging.asked[0]
    assert asked["requirements"] == ["monai>=1.5"] and asked["requester"] == "GEDGAN"
    assert any(line.startswith("numpy==") for line in asked["constraints"])
    assert any(line.startswith("torch==") and "+" not in line for line in asked["constraints"])
    assert panel.ui.setUpLabel.text.startswith("Ready")


def test_after_the_restart_it_is_said_what_is_next(opened, monkeypatch):
    import qt
    from GEDGANPanel import environment

    qt.QSettings().setValue("GEDGAN/setUpPending", "true")
    monkeypatch.setattr(environment, "look", lambda path: environment.SetUp(True, "", ("monai>=1.5",)))
    assert "once more" in opened().ui.messageLabel.text
    assert "once more" not in opened().ui.messageLabel.text


def test_pytorch_comes_through_its_extension(opened, slicer_desktop, monkeypatch):
    import types

    import qt
    from GEDGANPanel import environment

    asked, answers = [], [object(), None, RuntimeError("no such wheel")]

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation=False, torchVersionRequirement=None):
            asked.append(torchVersionRequirement)
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *arguments, **options: True)
    qt.QSettings().setValue("GEDGAN/devices", "known")
    ready, lacking = environment.SetUp(True, "2.9.0", ()), environment.SetUp(True, "", ())
    states = [lacking, lacking, ready, ready]
    monkeypatch.setattr(environment, "look", lambda path: states.pop(0) if len(states) > 1 else states[0])
    panel = opened()
    panel.ui.setUpButton.click()
    assert asked == [">=2.4,<2.13"] and panel.ui.messageLabel.text == "Everything is there."
    states[:] = [lacking]
    for expected in ("was not installed", "no such wheel"):
        panel.lookForSetUp()
        panel.paint()
        panel.ui.setUpButton.click()
        assert expected in panel.ui.messageLabel.text
    assert slicer_desktop.packaging.asked == []


def test_stopping_the_gathering_plans_nothing(panel):
    from GEDGANLib.scene.nodes import add_case

    for index in range(4):
        add_case(make_case(index, 0, SMALL, 9.0))
    panel.ui.sceneRadio.checked = True
    panel.data_section.refresh()
    panel.ui.tickAllButton.click()
    pump(lambda: panel.ui.checkButton.isEnabled())
    panel.ui.checkButton.click()
    assert panel.task == "gather"
    panel.ui.checkButton.click()
    assert not panel.task and panel._job is None and panel.ui.messageLabel.text == "Stopped."


def test_an_emptied_path_is_noticed(panel, tmp_path):
    panel.ui.runPath.currentPath = str(tmp_path)
    assert panel.parameters["run"] == str(tmp_path)
    panel.ui.runPath.currentPath = ""
    assert panel.parameters["run"] == ""


def test_adding_data_to_the_scene_forgets_nothing(panel, model, slicer_desktop, tmp_path):
    from GEDGANLib.scene.headless import load_scene, save_scene

    panel.ui.countSpin.value = 1
    panel.ui.synthesizeButton.click()
    pump(lambda: not panel.task)
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.EndImportEvent)
    assert panel.synthesize_section.has_batch() and panel.ui.undoButton.isEnabled()
    save_scene(slicer_desktop.core, tmp_path / "scene.mrb")
    load_scene(slicer_desktop.core, tmp_path / "scene.mrb")


def test_what_a_script_adds_in_one_go_is_listed(panel):
    panel.ui.sceneRadio.checked = True
    panel.logic.loadSample(3)
    pump(lambda: panel.ui.casesTable.rowCount == 3)


def test_a_failed_installation_is_explained(opened, slicer_desktop, monkeypatch):
    from GEDGANPanel import environment

    monkeypatch.setattr(environment, "look", lambda path: environment.SetUp(True, "2.9.0", ("monai>=1.5",)))
    slicer_desktop.packaging.fault = subprocess.CalledProcessError(1, "pip")
    panel = opened()
    panel.ui.setUpButton.click()
    assert "were not installed" in panel.ui.messageLabel.text and panel.ui.setUpButton.isEnabled()


def test_the_sample_works_before_anything_is_installed(opened, monkeypatch):
    from GEDGANPanel import environment

    monkeypatch.setattr(environment, "look", lambda path: environment.SetUp(True, "", ("monai>=1.5",)))
    panel = opened()
    panel.ui.tryButton.click()
    pump(lambda: not panel.task)
    assert "Press Set up" in panel.ui.messageLabel.text
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 16
    assert all(row.ticked for row in panel.data_section.rows)


@pytest.fixture
def library_as_before():
    """A reload makes new classes of the library; what other tests have imported must stay theirs."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "GEDGANLib"}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "GEDGANLib"]:
        del sys.modules[name]
    sys.modules.update(before)


def test_reloading_takes_the_library_along(library_as_before, panel):
    import GEDGANPanel.places as before

    panel.onReload()
    assert panel.reloaded
    import GEDGANPanel.places as after

    assert after is not before


def test_a_resume_keeps_a_limit_in_steps(panel, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    asked = []
    monkeypatch.setattr(panel.train_section, "_launch", lambda arguments, folder: asked.append(arguments))
    panel.ui.runPath.currentPath = str(run)
    for limit in ({"steps": 100, "minutes": None}, {"steps": None, "minutes": 5}):
        (run / "run.json").write_text(json.dumps({"data": "/data", "limit": limit}))
        panel.onClock()
        panel.ui.resumeButton.click()
    assert "--minutes" not in asked[0] and "--steps" not in asked[0] and "--minutes" in asked[1]
    (run / "run.json").write_text("nonsense")
    panel.ui.resumeButton.click()
    assert "is not the folder of a run" in panel.ui.messageLabel.text
