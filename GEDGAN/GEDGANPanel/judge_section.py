"""Section 8: the report of a model, and data sets for other programs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from GEDGANLib.jobs.worker import DONE, STOPPED_ON_REQUEST, Worker

from . import places
from .batches import in_scene
from .following import FollowedJob, find_job, stage_words
from .sections import Section

KINDS = (("nnunet", ()), ("folder", ("--format", ".nii.gz")), ("folder", ("--format", ".nrrd")), ("monai-bundle", ()))
"""As the choices of the combo box: what ``--to`` gets, and what else."""
NNUNET_NAME = "Dataset501_Synthesized"
"""As nnU-Net wants the folders of its data sets named."""
PAGE = "report.html"
REPORT_CASES, REPORT_UPDATES = 100, 500
"""Cases that are made for a report, and updates of each of its U-Nets."""


class JudgeSection(Section):
    """:param panel: the module's widget."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.job: FollowedJob | None = None
        self.ui.reportButton.connect("clicked()", self.onReport)
        self.ui.openReportButton.connect("clicked()", self.onOpen)
        self.ui.exportButton.connect("clicked()", panel.tasks.stop_or(self.onExport))
        self.ui.saveBatchButton.connect("clicked()", panel.tasks.stop_or(self.onSaveBatch))
        self.ui.exportCombo.connect("currentIndexChanged(int)", lambda: self.panel.paint())
        words = _("New folder for the export. When this is empty, one is made in {folder}.")
        self.ui.exportPath.toolTip = words.format(folder=places.base_folder() / "exports")

    def real_cases(self) -> Path | None:
        """The folder that is given, else that of the model's training."""
        card = self.panel.synthesize_section.card
        return self.panel.parameters.path("reportData") or (None if card is None else card.training_data())

    @property
    def page(self) -> Path | None:
        """The page of the last report on the model that is chosen, if it is there."""
        card = self.panel.synthesize_section.card
        page = None if card is None else places.report_page(card.path)
        return page if page is not None and page.is_file() else None

    def onReport(self) -> None:
        """Make one in a process of its own, as a training: the panel, and even Slicer, need not wait for it."""
        panel = self.panel
        if self.job is not None:
            self.job.stop()
            panel.say(_("Stopping the report…"))
            return
        section, folder = panel.synthesize_section, places.new_folder("reports")
        arguments: list[Any] = ["evaluate", section.card.path, "--data", self.real_cases(), "-o", folder]
        arguments += ["-n", REPORT_CASES, "--updates", REPORT_UPDATES]
        arguments += ["--device", section.device, *(["--quick"] if panel.parameters["quick"] else [])]
        notes = {"page": str(folder / PAGE), "model": str(section.card.path)}
        worker = panel.tasks.start(arguments, places.REPORTS, notes=notes)
        if worker is None:
            return
        self._follow(worker)
        panel.say(_("Judging the model; everything else can be used meanwhile."))
        panel.paint()

    def _follow(self, worker: Worker) -> None:
        self.ui.reportBar.value = 0
        self.warnings: list[str] = []
        self.job = FollowedJob(worker, self._heard, lambda state, why: self._ended(worker, state, why))

    def find_again(self) -> None:
        """A report that was begun before, by this panel or by an earlier Slicer."""
        worker = None if self.job is not None else find_job(places.REPORTS)
        if worker is not None:
            self._follow(worker)

    def busy(self) -> bool:
        return self.job is not None

    def tell_silence(self) -> None:
        if self.job is not None and self.job.quiet():
            self.ui.reportBar.format = _("nothing heard for minutes; it may be stuck")

    def leave(self) -> None:
        """Follow no longer. The report goes on; it is found again."""
        if self.job is not None:
            self.job.leave()
            self.job = None

    def _heard(self, event: dict) -> None:
        if event["event"] == "progress":
            self.ui.reportBar.value = int(1000 * float(event.get("progress", 0)))
            self.ui.reportBar.format = f"{stage_words(event)} %p%"
        elif event["event"] == "warning":
            self.warnings.append(event.get("message", ""))
            self.panel.say(self.warnings[-1], True)

    def _ended(self, worker: Worker, state: str, explanation: str) -> None:
        asked, self.job = self.job.asked_to_stop, None
        places.forget_job(places.REPORTS, worker.folder)
        if state == DONE:
            notes = worker.about.get("notes", {})
            places.remember_report(Path(notes.get("model", "")), Path(notes.get("page", "")))
            self.panel.synthesize_section.refresh()
            text = _("The report on {model} is there: press Open report. Read it before you trust what was made.")
            words = [text.format(model=notes.get("model", "")), *self.warnings]
            self.panel.say(" ".join(words), bool(self.warnings))
        else:
            self._clear_away(Path(worker.about.get("notes", {}).get("page", "")).parent)
            stopped = asked or state == STOPPED_ON_REQUEST
            self.panel.say(_("The report was stopped.") if stopped else explanation, not stopped)
        self.panel.paint()

    @staticmethod
    def _clear_away(folder: Path) -> None:
        """Remove what a report that was killed left in the folder made for it: its cases, in hidden files."""
        made_for_it = folder.parent == places.base_folder() / "reports" and folder.is_dir()
        if made_for_it and all(path.name.startswith(".") for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)

    def onOpen(self) -> None:
        if not qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.page))):
            self.panel.say(_("No web browser could be started; the report is {page}.").format(page=self.page), True)

    def onExport(self) -> None:
        panel = self.panel
        parameters, section = panel.parameters, panel.synthesize_section
        kind, more = KINDS[parameters["exportKind"]]
        folder = parameters.path("export") or places.new_folder("exports")
        if kind == "nnunet" and not parameters.path("export"):
            folder /= NNUNET_NAME
        arguments: list[Any] = ["export", section.card.path, "--to", kind, "-o", folder, *more]
        if kind != "monai-bundle":
            arguments += section.request(parameters["exportCount"]).options()
        if kind == "nnunet" and parameters["withReal"]:
            real = self.real_cases()
            if real is None:
                panel.say(_("Choose the folder with the real scans above; that of the training is not known."), True)
                return
            arguments += ["--with-real", real]
        panel.tasks.run_job("export", arguments, lambda: self._exported(folder), _("Exporting"), lasting=True)

    def _exported(self, folder: Path) -> None:
        self.panel.say(_("Exported to {folder}.").format(folder=folder))

    def onSaveBatch(self) -> None:
        """As the cases are in the scene now: corrected segmentations are written corrected."""
        panel = self.panel
        from GEDGANLib.scene.gather import Ticked, writing_scene_cases

        folder = panel.parameters.path("export") or places.new_folder("exports")
        cases = panel.synthesize_section.batches.last.cases
        there = [
            Ticked(
                case.volumes[0],
                case.segmentation if in_scene(case.segmentation) else None,
                case.class_name,
                tuple(case.volumes[1:]),
                case.name,
                case.channels,
            )
            for case in cases
            if all(map(in_scene, case.volumes))
        ]
        if not there:
            panel.say(_("The volumes of the last batch are no longer in the scene."), True)
            return
        about = _("Synthesized cases from a scene of 3D Slicer; not patients")
        written = writing_scene_cases(there, folder, description=about)

        def saving():
            for number, name in enumerate(written, 1):
                yield number / len(there), name
            return folder

        panel.tasks.run_steps("save", saving(), lambda folder: self._saved(folder, len(there), len(cases)))

    def _saved(self, folder: Path, written: int, made: int) -> None:
        text = _("{written} of {made} case(s) were written to {folder}.")
        self.panel.say(text.format(written=written, made=made, folder=folder))
