"""Section 2: scans brought to a common template, in a process of its own; what came of it, case by case."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from GEDGANLib.errors import InputError
from GEDGANLib.jobs.worker import DONE, STOPPED_ON_REQUEST

from . import places
from .data_section import DEVICES
from .following import words_of
from .scene_cases import MAP
from .sections import JobSection
from .views import show_case

TABLE, SHEET, REQUEST = "aligned.csv", "aligned.png", "align.json"
"""Files of a run."""
CASE, LIKENESS, DICE = range(3)
"""Columns of the table."""
COLUMN_WIDTHS = (180, 70)
"""Pixels, of all but the last."""


class AlignSection(JobSection):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel, places.ALIGNMENTS, panel.ui.alignBar, panel.ui.alignLabel)
        self.found: list[dict[str, str]] = []
        """A row of the table of a run each, the worst first."""
        table = self.ui.alignTable
        table.setColumnCount(len(COLUMN_WIDTHS) + 1)
        table.setHorizontalHeaderLabels([_("Case, the least alike first"), _("Likeness"), _("Dice")])
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().setVisible(False)
        for column, width in enumerate(COLUMN_WIDTHS):
            table.setColumnWidth(column, width)
        table.connect("itemSelectionChanged()", panel.paint)
        table.connect("itemChanged(QTableWidgetItem*)", lambda item: panel.paint())
        self.ui.alignButton.connect("clicked()", self.onAlign)
        self.ui.alignResumeButton.connect("clicked()", self.onResume)
        self.ui.sheetButton.connect("clicked()", self.onSheet)
        self.ui.templateButton.connect("clicked()", panel.tasks.stop_or(self.onTemplate))
        self.ui.onTemplateButton.connect("clicked()", panel.tasks.stop_or(self.onCase))
        self.ui.modesButton.connect("clicked()", self.onModes)

    # What the panel asks

    def aligned(self) -> bool:
        """Whether there is a run that is done."""
        return self.run is not None and bool(self.found)

    def resumable(self) -> bool:
        """Whether a run was begun, and not ended."""
        run = self.run
        return run is not None and (run / REQUEST).is_file() and not (run / "alignment.safetensors").is_file()

    def chosen(self) -> str:
        """Name of the case that is selected in the table; "" for none."""
        row = self.ui.alignTable.currentRow()
        return self.found[row]["case"] if 0 <= row < len(self.found) else ""

    def left_out(self) -> list[str]:
        """Cases without a tick: such as it was taken from, and such as were left out before and not ticked again."""
        table = self.ui.alignTable
        items = [table.item(number, CASE) for number in range(table.rowCount)]
        return [item.text() for item in items if item is not None and item.checkState() != qt.Qt.Checked]

    def opened(self) -> None:
        self.take_run_of_scene()

    def entered(self) -> None:
        self.take_run_of_scene()

    def scene_closed(self) -> None:
        if self.job is None:
            self.run = None
            self._forget()
            self.label.text = ""

    def take_run_of_scene(self) -> None:
        """The run that the scene was saved with, where it is still there."""
        run = self.panel.parameters["alignRun"]
        if run and self.job is None and (self.run is None or self.run != Path(run)) and Path(run).is_dir():
            self.run = Path(run)
            self._show()
            if self.resumable():
                self.label.text = _("Stopped; Resume goes on from there.")

    # Aligning

    def onAlign(self) -> None:
        if not self.begins(_("Stopping: keeping how far it came…")):
            return
        parameters, run = self.panel.parameters, places.new_folder("alignments")
        arguments: list[Any] = ["align", parameters["checkedData"], "-o", run]
        arguments += ["--device", DEVICES[parameters["device"]]]
        try:
            arguments += self.panel.data_section.options()
        except InputError as error:
            self.panel.say(words_of(error), True)
            return
        excluded = self.left_out() if self._same_data() else []
        arguments += ["--exclude", *excluded] if excluded else []
        self._launch(arguments, run)

    def _same_data(self) -> bool:
        """Whether the run that is shown is of the data that are checked."""
        about = self._about()
        return about is not None and Path(about["data"]) == Path(self.panel.parameters["checkedData"]).resolve()

    def _about(self) -> dict[str, Any] | None:
        """What the run was asked for."""
        if self.run is None:
            return None
        try:
            about = json.loads((self.run / REQUEST).read_text(encoding="utf-8"))
            return about if isinstance(about["data"], str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def onResume(self) -> None:
        about = self._about()
        if about is None:
            self.panel.say(_("{run} is not the folder of an alignment.").format(run=self.run), True)
            return
        device = DEVICES[self.panel.parameters["device"]]
        self._launch(["align", about["data"], "-o", self.run, "--resume", "--device", device], self.run)

    def _launch(self, arguments: list[Any], run: Path) -> None:
        if self.launch(arguments, run):
            self.panel.parameters["alignRun"] = str(run)
            self.panel.say(_("The alignment has a process of its own; go on with your work."))

    def begun(self) -> None:
        self._forget()

    def heard(self, event: dict) -> None:
        super().heard(event)
        if event["event"] == "said" and self.job is not None:
            self.ui.alignLabel.toolTip = event.get("message", "")

    def ended(self, state: str, explanation: str, asked: bool) -> None:
        if state == DONE:
            self._show()
            self.panel.say(_("The scans are aligned. Look at the least alike ones first."))
        elif state == STOPPED_ON_REQUEST or asked:
            self.ui.alignLabel.text = (
                _("Stopped; Resume goes on from there.")
                if self.resumable()
                else _("Stopped before anything was aligned; there is nothing to go on with.")
            )
        else:
            self.ui.alignLabel.text = _("The alignment has failed.")
            hint = _(" Resume goes on from where it was.") if self.resumable() else ""
            self.panel.say(explanation + hint, True)
        self.panel.paint()

    # What came of it

    def _forget(self) -> None:
        self.found = []
        self.ui.alignTable.setRowCount(0)

    def _show(self) -> None:
        """The table of the run, and its figures in words."""
        self._forget()
        try:
            with open(self.run / TABLE, encoding="utf-8", newline="") as file:
                found = list(csv.DictReader(file))
            likeness = [float(row["likeness"]) for row in found]
            dice = [float(row["dice"]) for row in found if row["dice"]]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if not found:
            return
        about = self._about() or {}
        left_out = [{"case": str(name), "likeness": "", "dice": ""} for name in about.get("left_out", [])]
        table = self.ui.alignTable
        table.blockSignals(True)
        table.setRowCount(len(found) + len(left_out))
        for number, row in enumerate([*found, *left_out]):
            for column, text in ((CASE, row["case"]), (LIKENESS, row["likeness"][:4]), (DICE, row["dice"][:4])):
                item = qt.QTableWidgetItem(text)
                flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
                item.setFlags(flags | qt.Qt.ItemIsUserCheckable if column == CASE else flags)
                if column == CASE:
                    item.setCheckState(qt.Qt.Checked if row["likeness"] else qt.Qt.Unchecked)
                    item.setToolTip(_("Cases without a tick are left out when Align is pressed again."))
                table.setItem(number, column, item)
        table.blockSignals(False)
        self.found = found
        words = _("{count} cases are aligned, as like the template as {likeness:.2f} (1: the same).").format(
            count=len(found), likeness=sum(likeness) / len(likeness)
        )
        if dice:
            words += " " + _("Segmentations that the others carry to them have a Dice of {dice:.2f}.").format(
                dice=sum(dice) / len(dice)
            )
        self.ui.alignLabel.text = words

    def onSheet(self) -> None:
        """The picture of all cases, in the program that the computer has for pictures."""
        path = self.run / SHEET
        if not path.is_file():
            self.panel.say(_("{path} is gone.").format(path=path), True)
            return
        if not qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path))):
            self.panel.say(_("No program opens pictures here; the picture is {path}.").format(path=path), True)
            return
        self.panel.say(_("The picture of all cases is {path}.").format(path=path))

    def onModes(self) -> None:
        """Take the model of the alignment, and begin to move along its directions."""
        from GEDGANLib.alignment.runs import statistical_model

        model = statistical_model(self.run)
        if not model.is_file():
            self.panel.say(_("{path} is gone.").format(path=model), True)
            return
        self.panel.synthesize_section.take_model(model)
        self.ui.exploreSection.collapsed = False
        self.panel.explore_section.begin(None)

    def onTemplate(self) -> None:
        self._atlas("template", [], self._add_template)

    def onCase(self) -> None:
        name = self.chosen()
        self._atlas("template", [name], lambda folder: self._add_case(folder, name))

    def _atlas(self, task: str, names: list[str], done: Any) -> None:
        folder = places.new_folder("atlases")
        arguments = ["atlas", self.run, "-o", folder, "--cases", *names]

        def load() -> None:
            try:
                done(folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        self.panel.tasks.run_job(task, arguments, load, _("Writing the template"))

    def _plan(self) -> Any:
        from GEDGANLib.planning.plan import Plan

        return Plan.load(self.run / "plan.json")

    def _add_template(self, folder: Path) -> None:
        from GEDGANLib.scene.nodes import add_case
        from GEDGANLib.scene.worker_output import template_case

        nodes = add_case(template_case(folder, self._plan()))
        _mark(nodes, "template")
        show_case(nodes.volumes[0], nodes.segmentation)
        self.panel.say(_("The template is in the scene."))

    def _add_case(self, folder: Path, name: str) -> None:
        """A copy of a case with the transform above it that brings it onto the template. The scan that may be in the
        scene stays where it is: under a transform that bends it could not be learned from."""
        from GEDGANLib.scene.nodes import add_case
        from GEDGANLib.scene.worker_output import add_transform, scan_of_run

        case = scan_of_run(self.run, name, self._plan())
        transform = add_transform(folder, name)
        nodes = add_case(replace(case, name=_("{name} on template").format(name=name)))
        _mark(nodes, "on template")
        for node in nodes.every():
            node.SetAndObserveTransformNodeID(transform.GetID())
        show_case(nodes.volumes[0], nodes.segmentation)
        self.panel.say(
            _(
                "{name} lies on the template now. Put markups or models of it under the transform {transform}, and "
                "they follow."
            ).format(name=name, transform=transform.GetName())
        )


def _mark(nodes: Any, kind: str) -> None:
    """As something of the panel's own, which nothing is learned from."""
    for node in nodes.every():
        node.SetAttribute(MAP, kind)
