"""The stand-in has PythonQt's manners, also the unpleasant ones: else it would hide the faults it is there to find."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6")

import pythonqt

qt = pythonqt.install()


@pytest.fixture(autouse=True)
def application():
    yield qt.QApplication.instance() or qt.QApplication([])
    pythonqt.EXCEPTIONS.clear()


def test_properties_are_attributes_and_calling_them_fails():
    spin, button, line = qt.QSpinBox(), qt.QPushButton("go"), qt.QLineEdit()
    spin.maximum = 500
    spin.value = 300
    assert spin.value == 300
    button.enabled = False
    assert button.enabled is False and button.text == "go"
    line.text = "hello"
    for called in (lambda: spin.value(), lambda: line.text(), lambda: button.text()):
        with pytest.raises(TypeError, match="not callable"):
            called()


def test_setters_and_questions_are_methods():
    spin, button = qt.QSpinBox(), qt.QPushButton("go")
    spin.setValue(7)
    button.setEnabled(False)
    assert spin.value == 7 and button.isEnabled() is False
    button.setText("stop")
    assert button.text == "stop"
    combo = qt.QComboBox()
    combo.addItem("one")
    assert combo.count == 1 and combo.currentText == "one" and combo.itemText(0) == "one"


def test_signatures_connect_and_wrong_ones_are_refused():
    button, calls = qt.QPushButton(), []
    button.connect("clicked(bool)", lambda: calls.append("none"))
    button.connect("clicked(bool)", lambda checked: calls.append(checked))
    button.clicked.connect(lambda: calls.append("attribute"))
    button.click()
    assert calls == ["none", False, "attribute"]
    with pytest.raises(ValueError, match="no signal pressed"):
        button.connect("pressed(int)", print)
    spin = qt.QSpinBox()
    with pytest.raises(ValueError, match="no signal valueChanged"):
        spin.connect("valueChanged(double)", print)


def test_what_was_connected_can_be_disconnected():
    button, calls = qt.QPushButton(), []

    def slot():
        calls.append(1)

    button.connect("clicked(bool)", slot)
    button.click()
    assert button.disconnect("clicked(bool)", slot) and not button.disconnect("clicked(bool)", slot)
    button.click()
    assert calls == [1]


def test_an_exception_in_a_slot_is_printed_and_survived(capsys):
    button, calls = qt.QPushButton(), []
    button.connect("clicked(bool)", lambda: 1 / 0)
    button.connect("clicked(bool)", lambda: calls.append(1))
    button.click()
    assert calls == [1] and "ZeroDivisionError" in pythonqt.EXCEPTIONS[0]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_settings_come_back_as_text(tmp_path):
    settings = qt.QSettings(str(tmp_path / "settings.ini"), qt.QSettings.IniFormat)
    settings.setValue("number", 3)
    settings.setValue("yes", True)
    assert settings.value("number") == "3" and settings.value("yes") == "true"
    assert settings.value("nothing", "default") == "default"


def test_objects_have_names_and_kinds():
    button = qt.QPushButton()
    button.name = "train"
    assert button.objectName == "train" and button.className() == "QPushButton"
