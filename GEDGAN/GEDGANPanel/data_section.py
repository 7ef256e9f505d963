"""Section 1: what to learn from, whether it can be used, and what is planned for it."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from GEDGANLib.scene.gather import Ticked, writing_scene_cases

from . import places, scene_cases

DEVICES = ("auto", "cuda", "mps", "cpu")
"""As the choices of the combo box."""
COLUMNS = 4
COLUMN_WIDTHS = (110, 105, 50)
"""Pixels, of all but the last."""
REFRESH_MILLISECONDS = 150
PLAN_DEPENDS_ON = ("fromScene", "data", "device", "spacing", "classColumn")


class DataSection:
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui
        self.rows: list[scene_cases.Row] = []
        self._filling = False
        table = self.ui.casesTable
        table.setColumnCount(COLUMNS)
        table.setHorizontalHeaderLabels([_("Volume"), _("Segmentation"), _("Class"), _("Status")])
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().setVisible(False)
        table.setWordWrap(False)
        for column, width in enumerate(COLUMN_WIDTHS):  # so that the status is seen in a panel as narrow as Slicer's
            table.setColumnWidth(column, width)
        table.connect("itemChanged(QTableWidgetItem*)", self._changed)
        self.ui.tickAllButton.connect("clicked()", lambda: self.tick_all(True))
        self.ui.tickNoneButton.connect("clicked()", lambda: self.tick_all(False))
        self.ui.checkButton.connect("clicked()", panel.stop_or(self.onCheck))
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(REFRESH_MILLISECONDS)
        self._timer.connect("timeout()", self.refresh)

    def refresh_soon(self) -> None:
        """After the scene has come to rest: loading a hundred volumes is one change."""
        self._timer.start()

    def leave(self) -> None:
        """The panel goes away."""
        self._timer.stop()

    def refresh(self) -> None:
        """Bring the table up to the scene."""
        self._timer.stop()
        self.rows = scene_cases.rows()
        table = self.ui.casesTable
        self._filling = True
        try:
            table.setRowCount(len(self.rows))
            for number, row in enumerate(self.rows):
                self._fill(number, row)
        finally:
            self._filling = False
        self._count()
        self.panel.paint()

    def _fill(self, number: int, row: scene_cases.Row) -> None:
        table = self.ui.casesTable
        name = qt.QTableWidgetItem(row.volume.GetName())
        flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        name.setFlags(flags | qt.Qt.ItemIsUserCheckable if row.usable else flags)
        name.setCheckState(qt.Qt.Checked if row.ticked else qt.Qt.Unchecked)
        table.setItem(number, 0, name)
        table.setCellWidget(number, 1, self._segmentation_box(row))
        kind = qt.QTableWidgetItem(row.class_name)
        kind.setToolTip(_("Optional: the kind of case, patient or control for example. The model can be asked for it."))
        table.setItem(number, 2, kind)
        status = qt.QTableWidgetItem(row.status)
        status.setFlags(flags)
        status.setToolTip(row.status)
        table.setItem(number, 3, status)

    def _segmentation_box(self, row: scene_cases.Row) -> Any:
        box = qt.QComboBox()
        choices = [None, *scene_cases.segmentations()]
        for node in choices:
            box.addItem(_("none") if node is None else node.GetName())
        identifier = None if row.segmentation is None else row.segmentation.GetID()
        identifiers = [None if node is None else node.GetID() for node in choices]
        box.setCurrentIndex(identifiers.index(identifier) if identifier in identifiers else 0)
        volume = row.volume.GetID()
        box.connect("currentIndexChanged(int)", lambda index: self._choose(volume, identifiers[index]))
        return box

    def _choose(self, volume: str, identifier: str | None) -> None:
        node = slicer.mrmlScene.GetNodeByID(volume)
        if node is not None and not self._filling:
            chosen = slicer.mrmlScene.GetNodeByID(identifier) if identifier else None
            scene_cases.choose_segmentation(node, chosen)
            self._data_changed()

    def _changed(self, item: Any) -> None:
        if self._filling or item.row() >= len(self.rows):
            return
        volume = self.rows[item.row()].volume
        if item.column() == 0:
            scene_cases.tick(volume, item.checkState() == qt.Qt.Checked)
        elif item.column() == 2:
            scene_cases.set_class(volume, item.text())
        self._data_changed()

    def tick_all(self, ticked: bool) -> None:
        for row in self.rows:
            scene_cases.tick(row.volume, ticked and row.usable)
        self._data_changed()

    def _data_changed(self) -> None:
        self.forget_plan()
        self.refresh_soon()

    def _count(self) -> None:
        ticked = [row for row in self.rows if row.ticked]
        labelled = sum(row.segmentation is not None for row in ticked)
        self.ui.casesLabel.text = _("{ticked} of {all} ticked, {labelled} with segmentation").format(
            ticked=len(ticked), all=len(self.rows), labelled=labelled
        )

    def given(self) -> bool:
        """Whether there is anything to check."""
        if self.panel.parameters["fromScene"]:
            return any(row.ticked for row in self.rows)
        return self.panel.parameters.path("data") is not None

    def checked(self) -> bool:
        """Whether the data were checked as they are, and the plan is there."""
        plan, data = self.panel.parameters["plan"], self.panel.parameters["checkedData"]
        return bool(plan) and Path(plan).is_file() and Path(data).is_dir()

    def forget_plan(self) -> None:
        """The data or what was asked for are others now."""
        if self.panel.parameters["plan"]:
            self.panel.parameters["plan"] = ""
            self.ui.planText.setHtml("<i>" + html.escape(_("Changed since it was checked.")) + "</i>")
        self.panel.paint()

    def onCheck(self) -> None:
        panel = self.panel
        if not panel.parameters["fromScene"]:
            self._plan(panel.parameters.path("data"))
            return
        self.refresh()
        ticked = [Ticked(row.volume, row.segmentation, row.class_name or None) for row in self.rows if row.ticked]
        folder = places.new_folder("data")
        written = writing_scene_cases(ticked, folder)

        def gather():
            for number, name in enumerate(written, 1):
                yield number / len(ticked), _("Writing {name} for the worker").format(name=name)
            return folder

        panel.run_steps("gather", gather(), lambda result: result and self._plan(result))

    def _plan(self, folder: Path) -> None:
        parameters = self.panel.parameters
        output = places.new_folder("plans").with_suffix(".json")
        arguments = ["plan", folder, "-o", output, "--device", DEVICES[parameters["device"]]]
        if parameters["spacing"].strip():
            arguments += ["--spacing", *parameters["spacing"].replace(",", " ").replace("×", " ").split()]
        if parameters["classColumn"].strip() and not parameters["fromScene"]:
            arguments += ["--class-column", parameters["classColumn"].strip()]
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.panel.say(
                _("{folder} cannot be made: {reason}.").format(folder=output.parent, reason=error.strerror), True
            )
            return
        self.panel.run_job("plan", arguments, lambda: self._planned(folder, output), _("Reading the scans"))

    def _planned(self, folder: Path, output: Path) -> None:
        parameters = self.panel.parameters
        parameters["checkedData"], parameters["plan"] = str(folder), str(output)
        self.show_plan()
        self.panel.say(_("The data can be used. Press Train when the plan suits you."))
        self.panel.continue_tour()

    def show_plan(self) -> None:
        """The plan in plain words."""
        path = self.panel.parameters["plan"]
        if not path:
            self.ui.planText.setHtml("")
            return
        try:
            plan = json.loads(Path(path).read_text(encoding="utf-8"))
            lines = [str(line) for line in plan["reasons"]]
            expected = plan["prediction"]
            lines.append(
                _("Expected: {memory:.1f} GB of memory, {minutes:.1f} minutes for 1000 steps.").format(
                    memory=float(expected["memory_gb"]), minutes=float(expected["minutes_per_1000_steps"])
                )
            )
            lines.append(_("All of it stands in {path}; what you change there is what is trained.").format(path=path))
        except (OSError, ValueError, KeyError, TypeError):
            self.panel.say(_("The plan {path} cannot be read; press Check and plan again.").format(path=path), True)
            return
        self.ui.planText.setHtml("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>")
        self.panel.paint()
