"""A series of cases as a sequence that Slicer plays, also after it was saved and read again."""

from __future__ import annotations

import numpy as np

from GEDGANLib.scene.headless import headless_application, load_scene, save_scene
from GEDGANLib.scene.read import cases_in_scene
from GEDGANLib.scene.sequences import add_sequence, shown_item
from GEDGANLib.volumes.cohort import make_case

VALUES = (-2.0, 0.0, 2.0)


def series():
    return [(value, make_case(index, 0, (16, 24, 16), 9.0)) for index, value in enumerate(VALUES)]


def at(slicer, browser, item):
    browser.SetSelectedItemNumber(item)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)


def test_a_browser_shows_each_case_in_its_place(application):
    import slicer

    cases = series()
    nodes = add_sequence(cases, "growth", "volume of grey matter", "SD")
    volume, segmentation = nodes.proxies()
    assert nodes.browser.GetNumberOfItems() == 3
    for item, (value, case) in enumerate(cases):
        at(slicer, nodes.browser, item)
        np.testing.assert_allclose(slicer.util.arrayFromVolume(volume), case.image[0].T, atol=1e-3)
        np.testing.assert_allclose(slicer.util.arrayFromVolume(volume).shape[::-1], case.labels.shape)
        assert float(nodes.sequences[0].GetNthIndexValue(item)) == value
        identifier = segmentation.GetSegmentation().GetSegmentIdBySegmentName("grey matter")
        mask = slicer.util.arrayFromSegmentInternalBinaryLabelmap(segmentation, identifier)
        assert mask is not None and mask.any()
    # Others find the segmentation with its volume, as of any case, and which item they show.
    assert cases_in_scene(slicer.mrmlScene) == [(volume, segmentation)]
    assert shown_item(volume) == "volume of grey matter 2 SD"
    # The series is two nodes to look at, not three times two.
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert not volume.GetDisplayNode().GetAutoWindowLevel()


def test_the_series_is_in_the_file(application, tmp_path):
    add_sequence(series(), "growth", "volume of grey matter", "SD")
    path = tmp_path / "series.mrb"
    save_scene(application, path)
    with headless_application() as other:
        import slicer

        load_scene(other, path)
        browser = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode")
        assert browser.GetNumberOfItems() == 3
        sequence = browser.GetMasterSequenceNode()
        assert [float(sequence.GetNthIndexValue(i)) for i in range(3)] == list(VALUES)
        assert sequence.GetIndexName() == "volume of grey matter" and sequence.GetIndexUnit() == "SD"
