"""Section 1: what to learn from, whether it can be used, and what is planned for it."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from GEDGANLib.errors import InputError
from GEDGANLib.scene.gather import writing_scene_cases

from . import places, scene_cases
from .following import words_of
from .sections import Section

DEVICES = ("auto", "cuda", "mps", "cpu")
"""As the choices of the combo box."""
CASE, VOLUME, SEGMENTATION, CLASS, STATUS = range(5)
"""Columns of the table."""
COLUMN_WIDTHS = (112, 70, 80, 40)
"""Pixels, of all but the last."""
REFRESH_MILLISECONDS = 150
PLAN_DEPENDS_ON = ("fromScene", "device", "spacing", "structures", "forSharing", "data", "classColumn")
OF_FOLDERS = ("data", "classColumn")
"""What of these matters for a folder alone."""


class DataSection(Section):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.rows: list[scene_cases.Row] = []
        self._filling = False
        self._filled: tuple = ()
        """What the table shows: rows, and the names of the segmentations to choose from."""
        self._seen: tuple | None = None
        """What was checked, see :meth:`_asked`."""
        table = self.ui.casesTable
        table.setColumnCount(len(COLUMN_WIDTHS) + 1)
        table.setHorizontalHeaderLabels([_("Case"), _("Volume"), _("Segmentation"), _("Class"), _("Status")])
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().setVisible(False)
        table.setWordWrap(False)
        table.setTextElideMode(qt.Qt.ElideMiddle)  # cases often differ in the number at their end alone
        for column, width in enumerate(COLUMN_WIDTHS):  # so that the status is seen in a panel as narrow as Slicer's
            table.setColumnWidth(column, width)
        table.connect("itemChanged(QTableWidgetItem*)", self._changed)
        self.ui.tickAllButton.connect("clicked()", lambda: self.tick_all(True))
        self.ui.tickNoneButton.connect("clicked()", lambda: self.tick_all(False))
        self.ui.checkButton.connect("clicked()", panel.tasks.stop_or(self.onCheck))
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(REFRESH_MILLISECONDS)
        self._timer.connect("timeout()", self.refresh)

    def refresh_soon(self) -> None:
        """After the scene has come to rest: loading a hundred volumes is one change."""
        if self.panel.parameters["fromScene"]:
            self._timer.start()

    def scene_changed(self) -> None:
        self.refresh_soon()

    def parameter_changed(self, name: str) -> None:
        if name == "fromScene":
            self.refresh_soon()
        if name in PLAN_DEPENDS_ON:
            self.forget_plan()

    def leave(self) -> None:
        """The panel goes away."""
        self._timer.stop()

    def refresh(self) -> None:
        """Bring the table up to the scene."""
        self._timer.stop()
        self.rows, choices = scene_cases.rows(), scene_cases.segmentations()
        shown = self.rows, [node.GetName() for node in choices]
        if shown != self._filled:  # what somebody is typing is not taken away without need
            self._fill_all(choices)
            self._filled = shown
        self._count()
        if self.panel.parameters["plan"] and not self._up_to_date():
            self.forget_plan()
        self.panel.paint()

    def _fill_all(self, segmentations: list[Any]) -> None:
        self._filling = True
        try:
            self.ui.casesTable.setRowCount(len(self.rows))
            for number, row in enumerate(self.rows):
                self._fill(number, row, segmentations)
            # Until volumes are given one name of a case, as channels of it, the column would say everything twice.
            self.ui.casesTable.setColumnHidden(VOLUME, all(row.case == row.volume.GetName() for row in self.rows))
        finally:
            self._filling = False

    def _fill(self, number: int, row: scene_cases.Row, segmentations: list[Any]) -> None:
        table = self.ui.casesTable
        flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        case = qt.QTableWidgetItem(row.case)
        case.setFlags(flags | qt.Qt.ItemIsEditable | qt.Qt.ItemIsUserCheckable if row.usable else flags)
        case.setCheckState(qt.Qt.Checked if row.ticked else qt.Qt.Unchecked)
        case.setToolTip(_("Tick to learn from it. Volumes of one patient (T1, T2 …): write one name for all of them."))
        table.setItem(number, CASE, case)
        volume = qt.QTableWidgetItem(row.volume.GetName())
        volume.setFlags(flags)
        volume.setToolTip(row.volume.GetName())
        table.setItem(number, VOLUME, volume)
        table.setCellWidget(number, SEGMENTATION, self._segmentation_box(row, segmentations))
        kind = qt.QTableWidgetItem(row.class_name)
        kind.setToolTip(_("Optional: the kind of case, patient or control for example. The model can be asked for it."))
        table.setItem(number, CLASS, kind)
        status = qt.QTableWidgetItem(row.status)
        status.setFlags(flags)
        status.setToolTip(row.status)
        table.setItem(number, STATUS, status)

    def _segmentation_box(self, row: scene_cases.Row, segmentations: list[Any]) -> Any:
        box = qt.QComboBox()
        choices = [None, *segmentations]
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
        if item.column() == CASE:
            scene_cases.tick(volume, item.checkState() == qt.Qt.Checked)
            scene_cases.set_case(volume, item.text())
        elif item.column() == CLASS:
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
        cases = scene_cases.ticked_cases(self.rows)
        self.ui.casesLabel.text = _("{ticked} of {all} ticked: {cases} case(s), {labelled} with segmentation").format(
            ticked=sum(row.ticked for row in self.rows),
            all=len(self.rows),
            cases=len(cases),
            labelled=sum(case.segmentation is not None for case in cases),
        )

    def given(self) -> bool:
        """Whether there is anything to check."""
        if self.panel.parameters["fromScene"]:
            return any(row.ticked for row in self.rows)
        return self.panel.parameters.path("data") is not None

    def checked(self) -> bool:
        """Whether the data were checked as they are, and the plan is there."""
        plan, data = self.panel.parameters["plan"], self.panel.parameters["checkedData"]
        return bool(plan) and Path(plan).is_file() and Path(data).is_dir() and self._up_to_date()

    def _asked(self, of_data: Callable[[Any | None], Any] | None = None) -> tuple:
        """All that a plan depends on, as it is now.

        :param of_data: as for ``scene_cases.fingerprint``.
        """
        parameters = self.panel.parameters
        from_scene = parameters["fromScene"]
        cases = scene_cases.fingerprint(scene_cases.ticked_cases(self.rows), of_data) if from_scene else None
        return cases, *(parameters[name] for name in PLAN_DEPENDS_ON if not from_scene or name not in OF_FOLDERS)

    def _lasting(self) -> str:
        """The same as a text that can be kept with the scene."""
        return hashlib.sha256(repr(self._asked(scene_cases.checksum)).encode("utf-8")).hexdigest()[:16]

    def _up_to_date(self) -> bool:
        return self._seen is None or self._seen == self._asked()

    def take_parameters(self) -> None:
        """Of a scene that was loaded, or of a new one. A plan in it is good for the data it was made of."""
        self._seen = None
        self.refresh()
        if self.panel.parameters["plan"]:
            if self.panel.parameters["checkedAs"] == self._lasting():
                self._seen = self._asked()
            else:
                self.forget_plan()
                return
        self.show_plan()

    def forget_plan(self) -> None:
        """The data or what was asked for are others now."""
        if self.panel.parameters["plan"]:
            self.panel.parameters["plan"] = ""
            self.ui.planText.setHtml("<i>" + html.escape(_("Changed since it was checked.")) + "</i>")
        self.panel.paint()

    def onCheck(self, then: Callable[[], Any] = lambda: None) -> None:
        """Check the data and plan a training.

        :param then: called when the plan is there.
        """
        panel = self.panel
        if not panel.parameters["fromScene"]:
            self._plan(panel.parameters.path("data"), self._asked(), then)
            return
        self.refresh()
        ticked, asked = scene_cases.ticked_cases(self.rows), self._asked()
        folder = places.new_folder("data")
        written = writing_scene_cases(ticked, folder)

        def gather():
            complete = False
            try:
                for number, name in enumerate(written, 1):
                    yield number / len(ticked), _("Writing {name} for the worker").format(name=name)
                complete = True
            finally:
                written.close()
                if not complete:
                    _remove_copy(folder)
            return folder

        panel.tasks.run_steps("gather", gather(), lambda folder: self._plan(folder, asked, then))

    def _plan(self, folder: Path, asked: tuple, then: Callable[[], Any]) -> None:
        parameters = self.panel.parameters
        output = places.new_folder("plans").with_suffix(".json")
        arguments = ["plan", folder, "-o", output, "--device", DEVICES[parameters["device"]]]
        try:
            arguments += self.options() + (["--for-sharing"] if parameters["forSharing"] else [])
        except InputError as error:
            self.panel.say(words_of(error), True)
            return
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.panel.say(
                _("{folder} cannot be made: {reason}.").format(folder=output.parent, reason=error.strerror), True
            )
            return
        from_scene, words = parameters["fromScene"], _("Reading the scans")

        def ended() -> None:
            if from_scene and (not output.is_file() or asked != self._asked()):
                _remove_copy(folder)

        self.panel.tasks.run_job(
            "plan", arguments, lambda: self._planned(folder, output, asked, then), words, ended=ended
        )

    def options(self) -> list[Any]:
        """What is asked for of the data, as options of a command.

        :raises InputError: no voxel size.
        """
        parameters = self.panel.parameters
        spacing, column = spacing_of(parameters["spacing"]), parameters["classColumn"].strip()
        found: list[Any] = ["--spacing", *spacing] if spacing else []
        found += self.structures()
        return found + (["--class-column", column] if column and not parameters["fromScene"] else [])

    def structures(self) -> list[str]:
        """Which structures are learned, as options of a command; nothing for all."""
        names = [name.strip() for name in re.split(r"[,;]", self.panel.parameters["structures"]) if name.strip()]
        return ["--structures", *names] if names else []

    def _planned(self, folder: Path, output: Path, asked: tuple, then: Callable[[], Any]) -> None:
        parameters = self.panel.parameters
        if asked != self._asked():
            self.panel.say(_("Data or settings were changed meanwhile; press Check and plan again."), True)
            return
        self._seen = asked
        parameters["checkedData"], parameters["plan"] = str(folder), str(output)
        parameters["checkedAs"] = self._lasting()
        self.show_plan()
        self.panel.say(_("The data can be used. Press Train when the plan suits you."))
        then()

    def show_plan(self) -> None:
        """The plan in plain words."""
        path = self.panel.parameters["plan"]
        if not path:
            self.ui.planText.setHtml("")
            return
        try:
            plan = json.loads(Path(path).read_text(encoding="utf-8"))
            expected = plan["prediction"]
            lines = [
                _("Expected: {memory:.1f} GB of memory, {minutes:.1f} minutes for 1000 steps.").format(
                    memory=float(expected["memory_gb"]), minutes=float(expected["minutes_per_1000_steps"])
                ),
                *(str(line) for line in plan["reasons"]),
            ]
            lines.append(_("All of it stands in {path}; what you change there is what is trained.").format(path=path))
        except (OSError, ValueError, KeyError, TypeError):
            self.ui.planText.setHtml("")
            self.panel.say(_("The plan {path} cannot be read; press Check and plan again.").format(path=path), True)
            return
        self.ui.planText.setHtml("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>")
        self.ui.planText.moveCursor(qt.QTextCursor.Start)
        self.panel.paint()


def _remove_copy(folder: Path) -> None:
    """Of scans that were written for a worker, and that nobody will learn from."""
    shutil.rmtree(folder, ignore_errors=True)


def spacing_of(text: str) -> list[float]:
    """Voxel sizes in mm that a user wrote: nothing, one, or three, with a decimal point or comma.

    :raises InputError: something else is written there.
    """
    words = [word.rstrip(",") for word in re.split(r"[\s×x*;]+|,\s+", text.strip()) if word.rstrip(",")]
    try:
        sizes = [float(word.replace(",", ".")) for word in words]
    except ValueError:
        sizes = [0.0]
    if len(sizes) not in (0, 1, 3) or not all(0.01 <= size <= 100 for size in sizes):
        raise InputError(
            _('"{text}" is not a voxel size.').format(text=text.strip()),
            _("Write one size in mm for all axes, or three with spaces between, as 1 1 2.5; or nothing."),
        )
    return sizes
