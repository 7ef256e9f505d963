"""Section 4: segmentations that nobody drew, the least to be trusted first; which scan to segment next."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from . import places, scene_cases, segmenting
from .batches import in_scene
from .data_section import DEVICES
from .engine import EngineUnavailable
from .sections import Section
from .views import show_case

TABLE = "carried.csv"
"""Of a folder of carried segmentations."""
NAME, TRUST = range(2)
"""Columns of the table."""
NAME_WIDTH = 240
"""Pixels."""


@dataclass
class Carried:
    """A row of the table.

    :param volume, segmentation: nodes; None as long as they are not in the scene.
    :param folder: with the files of a case that is not in the scene.
    """

    name: str
    trust: float
    volume: Any | None = None
    segmentation: Any | None = None
    folder: Path | None = None


class SegmentSection(Section):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.rows: list[Carried] = []
        self.accepted: dict[str, Carried] = {}
        """Scans of the folder whose segmentations were accepted, by their names."""
        self._last: list[Any] = []
        """Segmentation nodes that were carried last."""
        table = self.ui.carriedTable
        table.setColumnCount(2)
        table.setHorizontalHeaderLabels([_("Case, the least to be trusted first"), _("Trust")])
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().setVisible(False)
        table.setColumnWidth(NAME, NAME_WIDTH)
        table.connect("itemSelectionChanged()", panel.paint)
        self.ui.carryButton.connect("clicked()", panel.tasks.stop_or(self.onCarry))
        self.ui.nextButton.connect("clicked()", panel.tasks.stop_or(self.onNext))
        self.ui.carriedShowButton.connect("clicked()", self.onShow)
        self.ui.acceptButton.connect("clicked()", self.onAccept)
        self.ui.carryUndoButton.connect("clicked()", self.onUndo)
        for selector in (self.ui.carrySegmentation, self.ui.carryTo):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda *_: self.panel.paint())

    # What the panel asks

    def in_folder(self) -> bool:
        """Whether all is done with the files of a folder that was aligned."""
        chosen = (self.ui.carrySegmentation, self.ui.carryTo)
        if self.panel.parameters["fromScene"] or any(each.currentNode() is not None for each in chosen):
            return False
        return self.data() is not None

    def data(self) -> Path | None:
        """The folder of the scans that were aligned."""
        run = self.panel.align_section.run
        try:
            data = Path(json.loads((run / "align.json").read_text(encoding="utf-8"))["data"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return data if data.is_dir() else None

    def sources(self) -> list[tuple[list[Any], Any]]:
        """Volumes, one a channel, and segmentation of each scan that is carried from."""
        chosen = self.ui.carrySegmentation.currentNode()
        if chosen is None:
            return [([case.volume, *case.more], case.segmentation) for case in self._ticked() if case.segmentation]
        rows = [row for row in scene_cases.rows() if row.segmentation is chosen]
        volume = rows[0].volume if rows else chosen.GetNodeReference(chosen.GetReferenceImageGeometryReferenceRole())
        if volume is None or not scene_cases.has_segments(chosen):
            return []
        return [(scene_cases.channels_of(volume), chosen)]

    def targets(self) -> list[list[Any]]:
        """Volumes of each scan that is carried to: that was chosen, or all ticked ones that nobody has segmented."""
        chosen = self.ui.carryTo.currentNode()
        if chosen is not None:
            found = [scene_cases.channels_of(chosen)]
        else:
            found = [[case.volume, *case.more] for case in self._ticked() if not case.segmentation]
        of_sources = {volumes[0].GetID() for volumes, _segmentation in self.sources()}
        return [volumes for volumes in found if volumes[0].GetID() not in of_sources]

    @staticmethod
    def _ticked() -> list[Any]:
        return scene_cases.ticked_cases(scene_cases.rows())

    def chosen(self) -> Carried | None:
        """The row that is selected."""
        number = self.ui.carriedTable.currentRow()
        return self.rows[number] if 0 <= number < len(self.rows) else None

    def chosen_node(self) -> Any | None:
        """The carried segmentation of that row, if it is in the scene and was not accepted."""
        row = self.chosen()
        if row is None or not in_scene(row.segmentation) or not segmenting.is_carried(row.segmentation):
            return None
        return row.segmentation

    def carried_last(self) -> list[Any]:
        """Segmentations that were carried last, are still there and were not accepted."""
        return [node for node in self._last if in_scene(node) and segmenting.is_carried(node)]

    def scene_closed(self) -> None:
        self._last = []
        self._show([row for row in self.rows if row.folder is not None])

    # Carrying

    def _device(self) -> str:
        return DEVICES[self.panel.parameters["device"]]

    def onCarry(self) -> None:
        if self.in_folder():
            self._carry_files()
            return
        sources, targets, model = self.sources(), self.targets(), self.panel.augment_section.model()
        self.forget()
        steps = self.panel.logic.carrying(sources, targets, model, self._device(), self.came)
        self.panel.tasks.run_steps(
            "carry", steps, self._carried, lambda error: self._instead(error, sources, targets, model)
        )

    def forget(self) -> None:
        """Forget what the table shows of before."""
        self._last = []
        self._show([])

    def came(self, node: Any, volume: Any) -> None:
        """A segmentation was carried; more may come, or somebody stops it."""
        self._last.append(node)
        self._show([*self.rows, Carried(volume.GetName(), segmenting.trust_of(node), volume, node)])

    def _carried(self, nodes: list[Any]) -> None:
        self.panel.say(
            _(
                "{count} segmentation(s) were carried, which nobody drew. Look at the least to be trusted first; "
                "Accept takes one as drawn."
            ).format(count=len(nodes))
        )
        self.onShow()

    def _instead(self, error: Exception, sources: list[Any], targets: list[Any], model: Path) -> bool:
        """Where PyTorch does not run in Slicer, a process does the same; whether that could be begun."""
        if not isinstance(error, EngineUnavailable):
            return False
        for node in self.carried_last():
            slicer.mrmlScene.RemoveNode(node)
        self.forget()
        data, folder = places.new_folder("data"), places.new_folder("carried")

        def forget(*which: Path) -> None:
            for each in which:  # copies of patients' scans are not left about
                shutil.rmtree(each, ignore_errors=True)

        try:
            arguments, volumes = segmenting.carry_command(sources, targets, model, self._device(), data, folder)
        except Exception:
            forget(data)
            raise
        segmentations = [segmentation for _volumes, segmentation in sources]

        def loading() -> Any:
            try:
                return (yield from segmenting.loading_carried(folder, volumes, segmentations, self.came))
            finally:
                forget(folder)

        words = _("{reason} A separate process does it.").format(reason=error)
        self.panel.tasks.run_job(
            "carry",
            arguments,
            lambda: self.panel.tasks.run_steps("carry", loading(), self._carried),
            words,
            lambda: forget(data),
            failed=lambda: forget(folder),
        )
        return True

    def _carry_files(self) -> None:
        """From all segmented scans of the folder that was aligned to all others, into a folder of its own."""
        run, data, folder = self.panel.align_section.run, self.data(), places.new_folder("carried")
        arguments = ["carry", run, data, data, "-o", folder, "--device", self._device()]
        self.panel.tasks.run_job(
            "carry",
            arguments,
            lambda: self.show_files(folder, folder / TABLE),
            _("Carrying segmentations"),
            lasting=True,
        )

    def show_files(self, folder: Path, table: Path, volumes: dict[str, Any] | None = None) -> None:
        """Scans with the segmentations that were made for them, as files.

        :param table: of how far each is to be trusted.
        :param volumes: of the scene, by the names of the cases, where they are scans of the scene.
        """
        with open(table, encoding="utf-8", newline="") as file:
            rows = [
                Carried(row["case"], float(row["trust"]), (volumes or {}).get(row["case"]), folder=folder)
                for row in csv.DictReader(file)
            ]
        self._show(rows)
        text = _("{count} scans with the segmentations that were made for them are in {folder}. Show brings one here.")
        self.panel.say(text.format(count=len(rows), folder=folder))

    # The table

    def _show(self, rows: list[Carried]) -> None:
        self.rows = sorted(rows, key=lambda row: row.trust)
        table = self.ui.carriedTable
        table.blockSignals(True)
        table.setRowCount(len(self.rows))
        for number, row in enumerate(self.rows):
            for column, text in ((NAME, row.name), (TRUST, f"{row.trust:.2f}")):
                item = qt.QTableWidgetItem(text)
                item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
                table.setItem(number, column, item)
        if self.rows:
            table.selectRow(0)
        table.blockSignals(False)
        self.panel.paint()

    def onShow(self) -> None:
        """The selected case in all views, with what was carried to it."""
        row = self.chosen()
        if row is None:
            return
        if row.folder is not None and not (in_scene(row.volume) and in_scene(row.segmentation)):
            self._bring(row)
        if in_scene(row.volume):
            show_case(row.volume, row.segmentation if in_scene(row.segmentation) else None)
        self.panel.paint()

    def _bring(self, row: Carried) -> None:
        """A case of files into the scene."""
        from GEDGANLib.errors import InputError
        from GEDGANLib.scene.nodes import add_case
        from GEDGANLib.scene.worker_output import made_of_scene

        try:
            case = next((case for case in made_of_scene(row.folder, [], row.name)), None)
        except (InputError, OSError, ValueError) as error:
            self.panel.say(str(error), True)
            return
        if case is None:
            self.panel.say(_("{name} is not in {folder} any more.").format(name=row.name, folder=row.folder), True)
            return
        if in_scene(row.volume):
            row.segmentation = segmenting.add_carried(case, row.volume)
            return
        nodes = add_case(case)
        row.volume, row.segmentation = nodes.volumes[0], nodes.segmentation
        for volume in nodes.volumes:  # a scan as it is: only its segmentation was made
            for name in (scene_cases.CARRIED, scene_cases.SEGMENTED):
                volume.RemoveAttribute(name)

    def onAccept(self) -> None:
        """The selected segmentation becomes one that somebody drew: the scan's own, for learning."""
        row = self.chosen()
        segmenting.accept(row.segmentation)
        scene_cases.choose_segmentation(row.volume, row.segmentation)
        self.panel.data_section.refresh()
        words = _("{name} is the segmentation of {volume} now, as if it had been drawn.").format(
            name=row.segmentation.GetName(), volume=row.volume.GetName()
        )
        if row.folder is not None:
            self.accepted[row.name] = row
            words += " " + _("The files of the folder stay as they are; Segment the rest learns from this one, too.")
        self.panel.say(words)
        self.panel.paint()

    def onUndo(self) -> None:
        """Take what was carried last out of the scene, but for what was accepted."""
        gone = self.carried_last()
        for node in gone:
            slicer.mrmlScene.RemoveNode(node)
        self._last = []
        self._show([row for row in self.rows if row.segmentation not in gone])

    # Which scan next

    def onNext(self) -> None:
        """Say which scan to segment next, and why; what is segmented in the scene counts."""
        run, data = self.panel.align_section.run, self.data()
        if data is None:
            self.panel.say(_("The scans that were aligned are not there any more."), True)
            return
        arguments: list[Any] = ["next", run, data, "-n", 1]
        segmented = self._segmented_here()
        arguments += ["--segmented", *segmented] if segmented else []
        said: list[str] = []

        def heard(event: dict) -> None:
            if event["event"] == "said":
                said.append(event.get("message", ""))

        words = _("Looking for the scan that helps most")
        self.panel.tasks.run_job("next", arguments, lambda: self.panel.say(" ".join(said)), words, heard=heard)

    def _segmented_here(self) -> list[str]:
        """Names, in the alignment, of ticked scans of the scene that are segmented."""
        if not self.panel.parameters["fromScene"]:
            return sorted(self.accepted)
        from GEDGANLib.scene.gather import file_name_of

        taken: set[str] = set()
        named = [
            (file_name_of(case.name or case.volume.GetName(), taken), case.segmentation) for case in self._ticked()
        ]
        aligned = {row["case"] for row in self.panel.align_section.found}
        return [name for name, segmentation in named if segmentation and name in aligned]
