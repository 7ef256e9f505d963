"""Section 5: the report of a model, and data sets for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from . import places

KINDS = (("nnunet", ()), ("folder", ("--format", ".nii.gz")), ("folder", ("--format", ".nrrd")), ("monai-bundle", ()))
"""As the choices of the combo box: what ``--to`` gets, and what else."""
PAGE = "report.html"
REPORT_CASES, REPORT_UPDATES = 100, 500
"""Cases that are made for a report, and updates of each of its U-Nets."""


class JudgeSection:
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui
        self.page: Path | None = None
        self._page_model: Path | None = None
        self.ui.reportButton.connect("clicked()", panel.stop_or(self.onReport))
        self.ui.openReportButton.connect("clicked()", self.onOpen)
        self.ui.exportButton.connect("clicked()", panel.stop_or(self.onExport))
        self.ui.saveBatchButton.connect("clicked()", panel.stop_or(self.onSaveBatch))
        self.ui.exportCombo.connect("currentIndexChanged(int)", lambda: self.panel.paint())

    def real_cases(self) -> Path | None:
        """The folder that is given, else that of the model's training."""
        card = self.panel.synthesize_section.card
        return self.panel.parameters.path("reportData") or (None if card is None else card.training_data())

    def has_report(self) -> bool:
        card = self.panel.synthesize_section.card
        return self.page is not None and card is not None and card.path == self._page_model and self.page.is_file()

    def onReport(self) -> None:
        panel = self.panel
        section, folder = panel.synthesize_section, places.new_folder("reports")
        arguments: list[Any] = ["evaluate", section.card.path, "--data", self.real_cases(), "-o", folder]
        arguments += ["-n", REPORT_CASES, "--updates", REPORT_UPDATES]
        arguments += ["--device", section.device, *(["--quick"] if panel.parameters["quick"] else [])]
        model = section.card.path
        panel.run_job("report", arguments, lambda: self._reported(folder / PAGE, model), _("Judging the model"))

    def _reported(self, page: Path, model: Path) -> None:
        self.page, self._page_model = page, model
        self.panel.synthesize_section.refresh()
        self.panel.say(_("The report is there: press Open report. Read it before you trust what was made."))

    def onOpen(self) -> None:
        if not qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.page))):
            self.panel.say(_("No web browser could be started; the report is {page}.").format(page=self.page), True)

    def onExport(self) -> None:
        panel = self.panel
        parameters, section = panel.parameters, panel.synthesize_section
        kind, more = KINDS[parameters["exportKind"]]
        folder = parameters.path("export") or places.new_folder("exports")
        arguments: list[Any] = ["export", section.card.path, "--to", kind, "-o", folder, *more]
        if kind != "monai-bundle":
            arguments += ["-n", parameters["exportCount"], "--seed", parameters["seed"], "--device", section.device]
            arguments += ["--truncation", parameters["truncation"]]
            arguments += ["--class", section.class_name()] if section.class_name() else []
            arguments += ["--original"] if parameters["original"] else []
        if kind == "nnunet" and parameters["withReal"]:
            real = self.real_cases()
            if real is None:
                panel.say(_("Choose the folder with the real scans above; that of the training is not known."), True)
                return
            arguments += ["--with-real", real]
        panel.run_job("export", arguments, lambda: self._exported(folder), _("Exporting"))

    def _exported(self, folder: Path) -> None:
        self.panel.say(_("Exported to {folder}.").format(folder=folder))
        self.panel.continue_tour()

    def onSaveBatch(self) -> None:
        """As the cases are in the scene now: corrected segmentations are written corrected."""
        panel = self.panel
        from GEDGANLib.scene.gather import Ticked, writing_scene_cases

        folder = panel.parameters.path("export") or places.new_folder("exports")
        there = [
            Ticked(
                case.volumes[0],
                case.segmentation if _in_scene(case.segmentation) else None,
                None,
                tuple(case.volumes[1:]),
            )
            for case in panel.synthesize_section.batch.cases
            if _in_scene(case.volumes[0])
        ]
        about = _("Synthesized cases from a scene of 3D Slicer; not patients")
        written = writing_scene_cases(there, folder, description=about)

        def saving():
            for number, name in enumerate(written, 1):
                yield number / len(there), name
            return folder

        panel.run_steps("save", saving(), lambda result: result and self._exported(result))


def _in_scene(node: Any | None) -> bool:
    return node is not None and bool(slicer.mrmlScene.IsNodePresent(node))
