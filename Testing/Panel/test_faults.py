"""Bad input is told in sentences."""

from __future__ import annotations

import pytest
from desktop import DesktopServices, pump


def test_bad_input_is_told_in_sentences(panel, tmp_path):
    wrong = tmp_path / "model.safetensors"
    wrong.write_bytes(b"no model")
    panel.synthesize_section.take_model(wrong)
    assert "is not a model of GED-GAN" in panel.ui.messageLabel.text and not panel.ui.synthesizeButton.isEnabled()
    panel.ui.dataPath.currentPath = str(tmp_path / "nowhere")
    panel.ui.checkButton.click()
    pump(lambda: not panel.tasks.name)
    assert "There is no folder" in panel.ui.messageLabel.text
    panel.ui.spacingEdit.text = "thin"
    panel.ui.checkButton.click()
    assert '"thin" is not a voxel size' in panel.ui.messageLabel.text and not panel.tasks.name


def test_a_busy_folder_or_no_browser_is_told(panel, model, tmp_path):
    from GEDGANPanel import places

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    panel.ui.exportPath.currentPath = str(tmp_path / "full")
    panel.ui.exportCountSpin.value = 1
    panel.ui.exportButton.click()
    pump(lambda: not panel.tasks.name)
    assert (
        "already holds files" in panel.ui.messageLabel.text and (tmp_path / "full" / "mine.txt").read_text() == "mine"
    )
    places.remember_report(model, tmp_path / "full" / "mine.txt")
    panel.paint()
    DesktopServices.works = False
    try:
        panel.ui.openReportButton.click()
    finally:
        DesktopServices.works = True
    assert "No web browser" in panel.ui.messageLabel.text


def test_an_emptied_path_is_noticed(panel, tmp_path):
    panel.ui.runPath.currentPath = str(tmp_path)
    assert panel.parameters["run"] == str(tmp_path)
    panel.ui.runPath.currentPath = ""
    assert panel.parameters["run"] == ""


def test_voxel_sizes_are_understood_as_people_write_them(slicer_desktop):
    from GEDGANPanel.data_section import spacing_of

    from GEDGANLib.errors import InputError

    sizes = {
        "": [],
        " 1.5 ": [1.5],
        "1,5": [1.5],
        "1 1 3": [1, 1, 3],
        "1, 1, 3": [1, 1, 3],
        "0,9 × 0,9 × 2,5": [0.9, 0.9, 2.5],
    }
    assert {text: spacing_of(text) for text in sizes} == sizes
    for text in ("thin", "1 1", "0", "-1", "1,1,3", "nan", "1 1 1 1"):
        with pytest.raises(InputError, match="is not a voxel size"):
            spacing_of(text)
