"""Workers that die, hang or talk nonsense, and what becomes of what they did."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import slicer
from acting import put_brains, start_training, training_well_under_way
from desktop import pump


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


def test_a_training_that_hangs_is_told_of_and_can_be_ended(trainable, monkeypatch):
    import GEDGANPanel.following as following

    training_well_under_way(trainable)
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(following, "QUIET_SECONDS", 2.0)
    job = trainable.train_section.job
    os.kill(job.worker.process.pid, signal.SIGSTOP)
    pump(lambda: "stuck" in trainable.ui.trainLabel.text, 20)
    trainable.ui.trainButton.click()
    pump(lambda: trainable.ui.trainButton.text == "End now", 20)
    trainable.ui.trainButton.click()
    pump(lambda: not trainable.train_section.state)
    assert not job.worker.alive() and "Ended" in trainable.ui.trainLabel.text


def test_a_training_that_is_stopped_before_it_began_says_so(trainable):
    start_training(trainable)
    trainable.ui.trainButton.click()
    pump(lambda: not trainable.train_section.state)
    assert "before the training had begun" in trainable.ui.trainLabel.text
    assert not trainable.ui.resumeButton.isEnabled()


@pytest.mark.parametrize("begun", [False, True])
def test_a_worker_that_somebody_else_ended_is_told_by_its_own_run(trainable, instead, tmp_path, begun):
    """By the system, at its shutdown, say: nobody pressed Stop here. Another run folder has been chosen meanwhile."""
    instead('import time; time.sleep(0.5); print(\'{"event": "stopped", "message": "Stopped."}\'); raise SystemExit(3)')
    start_training(trainable)
    other, own = tmp_path / "other", trainable.train_section.run
    for folder in (own,) if begun else (other,):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text("{}")
    trainable.ui.runPath.currentPath = str(other)
    pump(lambda: not trainable.train_section.state)
    assert ("everything is saved" in trainable.ui.trainLabel.text) == begun
    assert ("before the training had begun" in trainable.ui.trainLabel.text) != begun


def test_a_report_that_somebody_else_ended_is_not_passed_over(panel, instead, model):
    instead('print(\'{"event": "stopped", "message": "Stopped."}\'); raise SystemExit(3)')
    panel.ui.reportDataPath.currentPath = str(model.parent)
    panel.ui.reportButton.click()
    pump(lambda: panel.judge_section.job is None)
    assert "The report was stopped" in panel.ui.messageLabel.text


def test_trainings_of_two_slicers_are_kept_apart(trainable, opened, instead):
    from GEDGANPanel import places

    instead("import time; time.sleep(600)")
    start_training(trainable)
    job = trainable.train_section.job
    start = type(trainable.logic).startWorker
    other = start(trainable.logic, [], places.new_folder("jobs"))  # of another Slicer
    places.remember_job(places.TRAININGS, other.folder)
    job.worker.kill()
    pump(lambda: not trainable.train_section.state)
    assert places.jobs(places.TRAININGS) == [other.folder] and other.alive()
    assert opened().train_section.job.worker.folder == other.folder
    other.kill()


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


def test_a_task_that_is_stopped_ends_its_worker(panel, instead, model):
    instead("import time\ntime.sleep(600)")
    panel.ui.exportButton.click()
    worker = panel.tasks.job.worker
    panel.ui.exportButton.click()
    pump(lambda: not panel.tasks.name)
    assert panel.ui.messageLabel.text == "Stopped." and not worker.alive()


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


def test_a_projection_that_the_panel_leaves_takes_the_copy_of_the_scan_along(panel, instead, model):
    from GEDGANPanel import places

    instead("import time; time.sleep(600)")
    panel.ui.projectVolume.setCurrentNode(put_brains(1)[0].volumes[0])
    panel.ui.projectButton.click()
    assert len(list((places.base_folder() / "projections").glob("*"))) == 1
    panel.cleanup()
    assert not list((places.base_folder() / "projections").glob("*"))


def test_what_a_slicer_that_crashed_left_behind_is_removed(panel, opened):
    from GEDGANPanel import places

    folder = places.base_folder() / "projections"
    folder.mkdir(parents=True)
    for name, age in (("old-scan.nrrd", 2 * 86400), ("new-scan.nrrd", 60)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    opened()
    assert [path.name for path in folder.iterdir()] == ["new-scan.nrrd"]


def test_a_stop_that_comes_when_the_worker_has_ended_counts(panel, instead, model):
    instead('print(\'{"event": "finished"}\')')
    panel.ui.placeCombo.setCurrentIndex(1)
    panel.ui.synthesizeButton.click()
    panel.tasks.job.worker.process.wait(20)
    panel.ui.synthesizeButton.click()
    pump(lambda: not panel.tasks.name)
    assert panel.ui.messageLabel.text == "Stopped."


def test_what_goes_wrong_after_a_worker_is_told(panel, instead, model):
    instead('print(\'{"event": "finished"}\')')  # and no maps are there
    panel.ui.projectVolume.setCurrentNode(put_brains(1)[0].volumes[0])
    panel.ui.projectButton.click()
    pump(lambda: not panel.tasks.name)
    assert "projection.json" in panel.ui.messageLabel.text


def test_the_model_stays_chosen_while_it_is_in_use(panel, instead, model):
    instead("import time; time.sleep(600)")
    panel.ui.projectVolume.setCurrentNode(put_brains(1)[0].volumes[0])
    panel.ui.projectButton.click()
    assert not panel.ui.modelCombo.isEnabled() and not panel.ui.browseModelButton.isEnabled()
    panel.ui.projectButton.click()
    pump(lambda: not panel.tasks.name)
    assert panel.ui.modelCombo.isEnabled()


def test_a_report_that_was_killed_leaves_nothing(panel, instead, model):
    from GEDGANPanel import places

    instead("import time; time.sleep(600)")
    panel.ui.reportDataPath.currentPath = str(model.parent)
    panel.ui.reportButton.click()
    folder = Path(panel.judge_section.job.worker.about["notes"]["page"]).parent
    cases = folder / ".partial-1-x" / "real-0"
    cases.mkdir(parents=True)
    (cases / "images.npy").write_bytes(b"0" * 1000)
    panel.judge_section.job.worker.kill()
    pump(lambda: panel.judge_section.job is None)
    assert not folder.exists() and folder.parent == places.base_folder() / "reports"


def test_a_job_without_a_stop_file_that_does_not_listen_is_ended(panel, instead, model, monkeypatch):
    from GEDGANPanel import following

    monkeypatch.setattr(following, "CLEARING_SECONDS", 0.5)
    instead("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)")
    panel.ui.reportDataPath.currentPath = str(model.parent)
    panel.ui.reportButton.click()
    worker = panel.judge_section.job.worker
    pump(lambda: (worker.folder / "events.jsonl").stat().st_size)
    panel.ui.reportButton.click()
    pump(lambda: panel.judge_section.job is None)
    assert not worker.alive() and "The report was stopped" in panel.ui.messageLabel.text


def test_the_report_in_the_model_is_shown_until_it_has_learned_on(panel, model):
    from GEDGANLib.synthesis.model_file import digest_of, keep_report

    without = model.read_bytes()
    keep_report(model, {"summary": ["Fidelity: good."]}, digest_of(model))
    panel.synthesize_section.refresh()
    assert "Fidelity: good." in panel.ui.modelCard.toPlainText()
    model.write_bytes(without)  # as a training that is resumed writes it
    panel.synthesize_section.refresh()
    assert "Fidelity: good." not in panel.ui.modelCard.toPlainText()
