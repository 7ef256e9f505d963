"""The stand-ins of CTK's and qMRML's widgets behave as the panel may rely on, with a real scene."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6")

import pythonqt
import widgets

from GEDGANLib.scene.headless import headless_application

qt = pythonqt.install()


@pytest.fixture(autouse=True)
def application():
    yield qt.QApplication.instance() or qt.QApplication([])
    assert not pythonqt.EXCEPTIONS
    pythonqt.EXCEPTIONS.clear()


@pytest.fixture
def scene():
    with headless_application() as application:
        yield application.scene


def test_a_selector_without_a_scene_is_empty_and_says_nothing(scene):
    box = widgets.NodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    assert box.currentNode() is None and box.count <= 1


def test_a_selector_follows_the_scene(scene):
    box, seen = widgets.NodeComboBox(), []
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    box.showChildNodeTypes = False
    box.setMRMLScene(scene)
    box.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    scan = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
    assert [box.itemText(index) for index in range(box.count)] == ["None", "scan"]
    box.setCurrentNode(scan)
    assert box.currentNode() is scan and box.currentNodeID == scan.GetID() and seen[-1] is scan
    scene.RemoveNode(scan)
    assert box.currentNode() is None and seen[-1] is None
    box.setMRMLScene(None)
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "another")
    assert box.count == 1


def test_a_slider_has_a_value_within_its_bounds_and_tells_of_moves():
    slider, seen = widgets.SliderWidget(), []
    slider.minimum, slider.maximum = -3.0, 3.0
    slider.connect("valueChanged(double)", seen.append)
    slider.value = 2.0
    slider.setValue(9.0)
    assert slider.value == 3.0 and seen == [2.0, 3.0]


def test_a_section_folds_what_is_in_it_and_shows_what_was_shown():
    section, seen = widgets.CollapsibleButton(), []
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QPushButton("a"), qt.QPushButton("b")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.setVisible(False)
    section.connect("contentsCollapsed(bool)", seen.append)
    section.text = "Data"
    section.collapsed = True
    assert section.collapsed is True and shown.isHidden() and seen == [True]
    section.collapsed = False
    assert not shown.isHidden() and hidden.isHidden() and section.text == "Data"


def test_a_path_line_holds_a_path_and_a_widget_knows_its_scene(scene):
    line, seen = widgets.PathLineEdit(), []
    line.connect("currentPathChanged(QString)", seen.append)
    line.currentPath = "/data"
    assert line.currentPath == "/data" and seen == ["/data"]
    widget, scenes = widgets.MRMLWidget(), []
    widget.connect("mrmlSceneChanged(vtkMRMLScene*)", scenes.append)
    widget.setMRMLScene(scene)
    widget.setMRMLScene(scene)
    assert scenes == [scene] and widget.mrmlScene() is scene
