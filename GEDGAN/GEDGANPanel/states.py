"""The one place that decides how buttons look: facts in, looks out. No Qt here, so every state can be tried in a test.

A look says whether a widget can be used, whether it is there at all, what is written on it, and its tooltip, which on a
widget that cannot be used says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from slicer.i18n import tr as _

IDLE = ""


@dataclass(frozen=True)
class Facts:
    """What the looks depend on.

    :param task: what is being done besides training, :data:`IDLE` for nothing.
    :param data: a folder is given, or a volume ticked.
    :param checked: these very data were checked and planned.
    :param planned: there are words of a plan to show.
    :param training, aligning, segmenting: "", ``running`` or ``stopping``.
    :param can_end: the training was asked to stop long ago.
    :param can_end_aligning, can_end_segmenting: the alignment, and the segmenting of the rest, alike.
    :param align_resumable, segment_resumable: an alignment, or the other, was begun, and not ended.
    :param aligned: there is one that is done.
    :param aligned_case: one of its cases is selected.
    :param varies: there is a model of an alignment.
    :param scan: a volume to vary is chosen.
    :param scans: there is something to make variations of.
    :param varying: a scan follows the sliders.
    :param augmented: variations made by this panel are in the scene.
    :param segmentation: the segmentation of that volume is chosen.
    :param edited: an edit of it is chosen.
    :param carry_from, carry_to: there are scans to carry segmentations from, and to.
    :param carried: segmentations that were carried last are in the scene.
    :param carried_case: one of the carried segmentations is selected.
    :param carried_shown: and it is in the scene, not accepted.
    :param carried_rows: there is something in the table of carried ones.
    :param resumable: the run folder holds a run to go on with.
    :param index: an address of an index of models is written.
    :param offered: a model that it offers is chosen.
    :param makes_labels: the model makes segmentations.
    :param reporting: a report is being made.
    :param measured: real cases are known that the model can be compared with.
    :param batch: something synthesized by this panel is in the scene.
    :param exploring: a case answers the sliders.
    :param worth: what variations are worth for a segmentation of the user's data, as the report says it.
    """

    ready: bool = False
    task: str = IDLE
    data: bool = False
    from_scene: bool = False
    checked: bool = False
    training: str = ""
    aligning: str = ""
    segmenting: str = ""
    can_end: bool = False
    can_end_aligning: bool = False
    can_end_segmenting: bool = False
    align_resumable: bool = False
    segment_resumable: bool = False
    aligned: bool = False
    aligned_case: bool = False
    varies: bool = False
    scan: bool = False
    scans: bool = False
    varying: bool = False
    augmented: bool = False
    segmentation: bool = False
    edited: bool = False
    carry_from: bool = False
    carry_to: bool = False
    carried: bool = False
    carried_case: bool = False
    carried_shown: bool = False
    carried_rows: bool = False
    resumable: bool = False
    preview: bool = False
    model: bool = False
    index: bool = False
    offered: bool = False
    makes_labels: bool = False
    classes: bool = False
    measured: bool = False
    batch: bool = False
    exploring: bool = False
    volume: bool = False
    report: bool = False
    reporting: bool = False
    loaded: bool = False
    planned: bool = False
    export_kind: int = 0
    worth: str = ""


@dataclass(frozen=True)
class Look:
    enabled: bool
    tip: str
    text: str | None = None
    visible: bool = True


def _first(*conditions: tuple[bool, str]) -> str:
    """The words of the first condition that does not hold; "" when all do."""
    return next((words for holds, words in conditions if not holds), "")


def _button(facts: Facts, task: str, text: str | None, tip: str, *conditions: tuple[bool, str]) -> Look:
    """A button, which stops its task while that is being done.

    :param conditions: without which it cannot be pressed, and what to say then.
    """
    if task and facts.task == task:
        return Look(True, _("Stop what is being done."), _("Stop"))
    why = _first(*conditions)
    return Look(not why, why or tip, text)


def looks(facts: Facts) -> dict[str, Look]:
    """How every widget with a state looks, by its name in the ``.ui`` file."""
    set_up = (facts.ready, _("First press Set up at the top: packages are missing."))
    free = (not facts.task, _("Something else is being done; wait for it or stop it."))
    model = (facts.model, _("First choose a model, or train one."))
    running = bool(facts.training or facts.aligning or facts.segmenting) or facts.reporting
    model_in_use = facts.task in ("synthesize", "explore", "series", "project")
    in_use = _("The model is in use; wait for it or stop it.")

    def button(tip: str, *conditions: tuple[bool, str], task: str = "", text: str | None = None) -> Look:
        return _button(facts, task, text, tip, *conditions)

    found = {
        "setUpButton": replace(
            button(_("Install what is missing, after asking."), free, (not running, _("Wait for what is running."))),
            visible=not facts.ready,
        ),
        "tryButton": button(
            _("Put variations of one average brain into the scene, learn from them for three minutes, make four new."),
            free,
            (not facts.training, _("A training is running.")),
            task="sample",
            text=_("Try it with sample data"),
        ),
        "checkButton": button(
            _("Read every scan once, say what is wrong, and plan the training for this computer."),
            set_up,
            (facts.data, _("Tick a volume.") if facts.from_scene else _("First choose a folder of scans.")),
            free,
            task="gather" if facts.task == "gather" else "plan",
            text=_("Check and plan"),
        ),
        **_align(facts, set_up, free),
        **_augment(facts, set_up, free),
        **_simulate(facts, set_up, free),
        **_segment(facts, set_up, free),
        "trainButton": _train(facts, set_up, free),
        "resumeButton": button(
            _("Go on with the run in the run folder, to the time or steps given above."),
            set_up,
            (not facts.training, _("A training is running.")),
            (facts.resumable, _("Choose the folder of an earlier run under Advanced.")),
        ),
        "previewButton": button(
            _("Show the newest synthesized case in the red view and a real one in the yellow view."),
            (facts.preview, _("There is no preview yet; the first comes after a minute of training.")),
        ),
        "synthesizeButton": button(
            _("Make the cases and put them into the scene, under one folder."),
            set_up,
            model,
            free,
            task="synthesize",
            text=_("Synthesize"),
        ),
        "undoButton": button(
            _("Take the cases made last out of the scene again."),
            free,
            (facts.batch, _("Nothing synthesized here is in the scene.")),
        ),
        "releaseButton": button(
            _("Forget the model that is loaded in Slicer, and give back what it takes of the memory and the GPU."),
            free,
            (facts.loaded, _("No model is loaded in Slicer.")),
        ),
        "exploreButton": button(
            _("Make a case that follows the sliders, and find what they can do; the first time takes some seconds."),
            set_up,
            model,
            free,
            task="explore",
            text=_("Start exploring"),
        ),
    }
    exploring = (facts.exploring, _("First press Start exploring."))
    found |= {
        "centreButton": button(_("Set all sliders to zero."), exploring),
        "keepButton": button(_("Put a copy of this case into the scene."), exploring, free),
        "moreButton": button(_("Make cases that differ a little from this one."), exploring, free),
        "seriesButton": button(
            _("Make a series that the toolbar Sequences plays."),
            exploring,
            free,
            task="series",
            text=_("Make a series"),
        ),
        "projectButton": button(
            _("Find the case of the model that is nearest to the volume; a minute or two."),
            set_up,
            model,
            (facts.volume, _("First choose a volume of the scene.")),
            free,
            task="project",
            text=_("Project"),
        ),
        "reportButton": Look(True, _("Stop making the report."), _("Stop"))
        if facts.reporting
        else button(
            _("Compare the model with real cases: quality, privacy, use. Slicer stays usable, and may be closed."),
            set_up,
            model,
            (facts.measured, _("Choose the folder with the real scans; that of the training is not known or gone.")),
            text=_("Make report"),
        ),
        "openReportButton": button(
            _("Open the page in the web browser."), (facts.report, _("There is no report of this model yet."))
        ),
        "exportButton": button(
            _("Write a data set that other programs train on at once."),
            set_up,
            model,
            (
                facts.makes_labels or facts.export_kind != 0,
                _("nnU-Net needs segmentations, which this model does not make."),
            ),
            free,
            task="export",
            text=_("Export"),
        ),
        "saveBatchButton": button(
            _("Write the cases made last to files, as they are in the scene now."),
            (facts.batch, _("Nothing synthesized here is in the scene.")),
            set_up,
            free,
            task="save",
            text=_("Write last batch to disk"),
        ),
        "modelCombo": Look(not model_in_use, in_use if model_in_use else _("Which model to use.")),
        "browseModelButton": Look(not model_in_use, in_use if model_in_use else _("Choose a model file.")),
        "indexButton": button(
            _("Ask the index at this address which models it offers."),
            set_up,
            (facts.index, _("First write the address of an index of models.")),
            free,
            task="index",
            text=_("Look"),
        ),
        "offeredCombo": Look(facts.offered, "", visible=facts.offered),
        "fetchButton": replace(
            button(
                _("Fetch the chosen model into your own folder of models, and choose it here."),
                set_up,
                (facts.offered, _("First look at an index, and choose a model that it offers.")),
                free,
                task="fetch",
                text=_("Fetch"),
            ),
            visible=facts.offered,
        ),
        "classCombo": Look(facts.classes, _("Make cases of one class only."), visible=facts.classes),
        "planText": Look(True, "", visible=facts.planned),
        "modelCard": Look(True, "", visible=facts.model),
        "classLabel": Look(True, "", visible=facts.classes),
        "withRealCheck": Look(
            facts.export_kind == 0,
            _("With folds that validate on real cases alone, such that the model has not learned from."),
            visible=facts.export_kind == 0,
        ),
        "exportCountSpin": Look(facts.export_kind != 3, _("Synthesized cases to write; a bundle holds none.")),
        "dataPath": Look(True, _("Folder with the scans to learn from."), visible=not facts.from_scene),
        "slidersLabel": Look(True, "", visible=facts.exploring),
        "taskBar": Look(True, "", visible=bool(facts.task)),
        "reportBar": Look(True, "", visible=facts.reporting),
        "trainBar": Look(True, "", visible=bool(facts.training)),
        "alignBar": Look(True, "", visible=bool(facts.aligning)),
        "worthLabel": Look(True, _("What the last report says of this model."), facts.worth, bool(facts.worth)),
        "segmentBar": Look(True, "", visible=bool(facts.segmenting)),
        "alignTable": Look(not facts.aligning, "", visible=facts.aligned),
    }
    for name in ("casesTable", "tickAllButton", "tickNoneButton", "casesLabel"):
        tips = {"casesTable": _("Tick what to learn from. Cases without segmentation teach the image alone.")}
        found[name] = Look(not facts.task, tips.get(name, ""), visible=facts.from_scene)
    return found


def _align(facts: Facts, set_up: tuple[bool, str], free: tuple[bool, str]) -> dict[str, Look]:
    """How the buttons of the section Align look."""
    aligned = (facts.aligned, _("First align the scans."))
    idle = (not facts.aligning, _("The scans are being aligned."))
    align = _job_that_goes_on(facts.aligning, facts.can_end_aligning)
    if align is None:
        why = _checked(facts, set_up, free)
        words = _("Bring all scans to a common template, in a process of its own; minutes, on any computer.")
        align = Look(not why, why or words, _("Align"))

    def button(tip: str, *conditions: tuple[bool, str]) -> Look:
        why = _first(*conditions)
        return Look(not why, why or tip)

    task = Look(True, _("Stop what is being done."), _("Stop")) if facts.task == "template" else None
    template = button(
        _("Put the mean of the aligned scans and its segmentation into the scene."), set_up, aligned, idle, free
    )
    on_template = button(
        _("Put a transform above the selected case that brings it onto the template."),
        set_up,
        aligned,
        (facts.aligned_case, _("Select a case in the table.")),
        idle,
        free,
    )
    return {
        "alignButton": align,
        "alignResumeButton": button(
            _("Go on with the alignment that was stopped."),
            set_up,
            idle,
            (facts.align_resumable, _("No alignment was stopped here.")),
        ),
        "sheetButton": button(
            _("Open the picture of all cases on the template, the least alike first."), aligned, idle
        ),
        "modesButton": button(
            _("Take the model of the alignment, and move a case along the directions in which the scans differ."),
            set_up,
            aligned,
            idle,
            free,
        ),
        "templateButton": task or replace(template, text=_("Template into scene")),
        "onTemplateButton": on_template,
    }


def _augment(facts: Facts, set_up: tuple[bool, str], free: tuple[bool, str]) -> dict[str, Look]:
    """How the widgets of the section Augment look."""
    model = (facts.varies, _("First align scans like this one, or choose the model of an alignment."))

    button = partial(_button, facts)
    vary = button(
        "vary",
        _("Back to the scan") if facts.varying else _("Move this scan"),
        _("Take the variation that follows the sliders out of the scene.")
        if facts.varying
        else _("Show a variation of the scan that follows the sliders; aligning it takes some seconds."),
        set_up,
        *(() if facts.varying else (model, (facts.scan, _("First choose a volume above.")))),
        free,
    )
    return {
        "varyButton": vary,
        "augmentSlidersLabel": Look(True, "", visible=facts.varying),
        "augmentButton": button(
            "augment",
            _("Make variations"),
            _("Put variations, each with its segmentation, into one folder of the Data module."),
            set_up,
            model,
            (facts.scans, _("First choose a volume above, or tick scans under Data.")),
            free,
        ),
        "augmentUndoButton": button(
            "",
            _("Undo"),
            _("Take the variations made last out of the scene again."),
            free,
            (facts.augmented, _("No variations made here are in the scene.")),
        ),
        "augmentExportButton": button(
            "exportVariations",
            _("Export with the real ones"),
            _("Write the aligned scans that are segmented, and variations of each, as a data set of nnU-Net."),
            set_up,
            (facts.aligned, _("First align the scans.")),
            (not facts.aligning, _("The scans are being aligned.")),
            free,
        ),
    }


def _simulate(facts: Facts, set_up: tuple[bool, str], free: tuple[bool, str]) -> dict[str, Look]:
    """How the widgets that deform a scan to an edit look."""
    scan = (facts.scan, _("First choose a volume above."))
    segmentation = (facts.segmentation, _("First choose its segmentation above."))
    edited = (facts.edited, _("First edit a copy, and choose it."))
    button = partial(_button, facts)
    return {
        "editCopyButton": button(
            "",
            _("Edit a copy"),
            _("Copy the segmentation, and open the copy in the Segment Editor."),
            scan,
            segmentation,
            free,
        ),
        "simulateButton": button(
            "simulate",
            _("Deform to my edit"),
            _("Make the scan as it would look if the edited segmentation were its anatomy. The scan itself stays."),
            set_up,
            scan,
            segmentation,
            edited,
            free,
        ),
    }


def _segment(facts: Facts, set_up: tuple[bool, str], free: tuple[bool, str]) -> dict[str, Look]:
    """How the widgets of the section Segment look."""
    model = (facts.varies, _("First align scans like these, or choose the model of an alignment."))

    button = partial(_button, facts)
    rest = _job_that_goes_on(facts.segmenting, facts.can_end_segmenting)
    if rest is None:
        rest = button(
            "",
            _("Segment the rest"),
            _("Learn from the segmented scans, in a process of its own, and segment all others; one is enough."),
            set_up,
            (facts.carry_from, _("Choose a segmentation, or tick a scan under Data that has one.")),
            (facts.carry_to, _("Choose a volume, or tick scans under Data that have no segmentation.")),
            free,
        )
    return {
        "segmentRestButton": rest,
        "segmentResumeButton": button(
            "",
            None,
            _("Go on with what was stopped."),
            set_up,
            (not facts.segmenting, _("The rest is being segmented.")),
            (facts.segment_resumable, _("Nothing was stopped here.")),
        ),
        "carryButton": button(
            "carry",
            _("Carry segmentation to…"),
            _("Give scans a segmentation of their own, carried from those that have one, and a figure of trust each."),
            set_up,
            model,
            (facts.carry_from, _("Choose a segmentation, or tick a scan under Data that has one.")),
            (facts.carry_to, _("Choose a volume, or tick scans under Data that have no segmentation.")),
            free,
        ),
        "nextButton": button(
            "next",
            _("Which scan next?"),
            _("Say which scan to segment next so that all others gain most, and why."),
            set_up,
            (facts.aligned, _("First align the scans.")),
            free,
        ),
        "carriedShowButton": button(
            "",
            _("Show"),
            _("Show the selected case with what was carried to it."),
            (facts.carried_case, _("Select a case in the table.")),
            free,
        ),
        "acceptButton": button(
            "",
            _("Accept"),
            _("Take the selected segmentation as one that you drew: what is learned from."),
            (facts.carried_shown, _("Select and show a case that was carried.")),
            free,
        ),
        "carryUndoButton": button(
            "",
            _("Undo"),
            _("Take what was carried last out of the scene again; what was accepted stays."),
            free,
            (facts.carried, _("Nothing that was carried is in the scene.")),
        ),
        "carriedTable": Look(not facts.task, "", visible=facts.carried_rows),
    }


def _job(state: str, can_end: bool, stopping: str, stop: str) -> Look | None:
    """How the button of a job looks while that runs; None where it does not.

    :param state: "", ``running`` or ``stopping``.
    :param stopping, stop: what to say while it stops, and of stopping it.
    """
    if state == "stopping":
        if can_end:
            return Look(
                True, _("It has not stopped. End it now: what came after the last checkpoint is lost."), _("End now")
            )
        return Look(False, stopping, _("Stopping…"))
    return Look(True, stop, _("Stop")) if state else None


def _job_that_goes_on(state: str, can_end: bool) -> Look | None:
    """The same of a job that keeps how far it came."""
    return _job(
        state,
        can_end,
        _("It keeps how far it came and stops; this takes some seconds."),
        _("Stop after keeping how far it came; Resume goes on from there."),
    )


def _checked(facts: Facts, set_up: tuple[bool, str], free: tuple[bool, str]) -> str:
    """Why nothing can be begun with the data; "" where it can."""
    return _first(
        set_up,
        (facts.data, _("Tick a volume.") if facts.from_scene else _("First choose a folder of scans.")),
        (facts.checked, _("First press Check and plan.")),
        free,
    )


def _train(facts: Facts, set_up: tuple[bool, str], free: tuple[bool, str]) -> Look:
    running = _job(
        facts.training,
        facts.can_end,
        _("It saves its state and stops; this takes some seconds."),
        _("Stop after saving; Resume goes on from there."),
    )
    if running is not None:
        return running
    why = _checked(facts, set_up, free)
    return Look(
        not why, why or _("Learn in a process of its own; Slicer stays usable, and may even be closed."), _("Train")
    )
