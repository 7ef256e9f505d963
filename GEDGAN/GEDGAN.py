"""The module GEDGAN of 3D Slicer: learns from scans, and synthesizes new ones with their segmentations into the scene.

Here are the classes that Slicer looks for; what they do stands in ``GEDGANPanel`` and in the library ``GEDGANLib``.
"""

import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

PACKAGES = ("GEDGANPanel", "GEDGANLib")


def _findLibrary():
    """From a source checkout the library lies beside this folder, which is not on the path."""
    if importlib.util.find_spec("GEDGANLib") is None:
        sys.path.append(str(Path(__file__).resolve().parents[1]))


class GEDGAN(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        _findLibrary()
        self.parent.title = _("GED-GAN")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["GED-GAN developers"]
        self.parent.helpText = _(
            "Learns from a few scans and makes new ones with their segmentations. Everything happens on this computer. "
            "Synthesized cases are not patients; read the report of a model before you trust what it makes. "
            '<a href="https://github.com/GEDGAN/SlicerGEDGAN">Documentation</a>'
        )
        self.parent.acknowledgementText = _(
            "The sample data are variations of the ICBM152 average brain, copyright McConnell Brain Imaging Centre, "
            "Montreal Neurological Institute."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the embedded cohort in the module Sample Data; it is made on this computer, nothing is downloaded."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # 5.12 and later
        logic.registerCustomSampleDataCategory("GEDGAN", title=_("GED-GAN"))
    logic.registerCustomSampleDataSource(
        category="GEDGAN",
        sampleName="GEDGANCohort",
        uris="made-on-this-computer",  # Slicer wants one, though nothing is fetched
        fileNames="cohort",
        thumbnailFileName=str(Path(__file__).parent / "Resources" / "Icons" / "GEDGANCohort.png"),
        nodeNames=_("Variations of one average brain"),
        customDownloader=lambda source: GEDGANLogic().loadSample(),
    )


class GEDGANWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. Its sections do the work; here is what ties them to Slicer: scene, parameters, painting."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._visible = {}
        self.sections = {}
        self._complete = False

    def setup(self):
        """Called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        from GEDGANPanel.parameters import Parameters
        from GEDGANPanel.sections import sections_of
        from GEDGANPanel.tasks import Tasks
        from GEDGANPanel.tour import Tour

        widget = slicer.util.loadUI(self.resourcePath("UI/GEDGAN.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        self.logic = GEDGANLogic()
        self._clock = qt.QTimer()
        self._clock.setInterval(1000)
        self._clock.connect("timeout()", self.onClock)
        self._makePathsBrowse()
        for name, section in vars(self.ui).items():
            if name.endswith("Section"):
                section.connect("contentsCollapsed(bool)", self.onFolded)
        self.parameters = Parameters(self.ui, self.onParameterChanged)
        self.tasks = Tasks(self)
        self.sections = sections_of(self)
        vars(self).update(self.sections)  # each under its name: self.set_up, self.data_section, ...
        self.tour = Tour(self)
        self._complete = True
        widget.setMRMLScene(slicer.mrmlScene)

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            self.addObserver(scene, event, self.onSceneChanged)
        self.initializeParameterNode()
        for section in self.sections.values():
            section.find_again()
        for section in self.sections.values():
            section.opened()

    def _makePathsBrowse(self):
        import ctk

        folders = ("dataPath", "runPath", "healthyPath", "reportDataPath", "exportPath")
        for name in folders:
            getattr(self.ui, name).filters = ctk.ctkPathLineEdit.Dirs
        self.ui.startFromPath.filters = ctk.ctkPathLineEdit.Files

    # Slicer's calls

    def cleanup(self):
        """The module is unloaded or reloaded, or Slicer ends. Training and report go on, and are found again."""
        self.removeObservers()
        if not self._complete:
            return
        self.tasks.leave()
        self._complete = False
        for section in self.sections.values():
            section.leave()
        self._clock.stop()
        self.parameters.use(None)

    def enter(self):
        for section in self.sections.values():
            section.entered()
        self.initializeParameterNode()

    def exit(self):
        pass

    def onReload(self):
        """Reload the library with the module."""
        if self.logic is not None:
            self.logic.engine.release()
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event):
        self.parameters.use(None)
        if self.tasks.name not in ("export", "devices"):
            self.tasks.stop()  # what it would write into is going away

    def onSceneEndClose(self, caller, event):
        for section in self.sections.values():
            section.scene_closed()
        self._takeParameterNode()

    def onSceneEndImport(self, caller, event):
        """What was added may bring parameters along, which come into the node that is there already."""
        self.parameters.use(None)
        self._takeParameterNode()

    def _takeParameterNode(self):
        """While another module is shown, the scene gets no node of ours; it does when the panel is shown again."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneChanged(self, caller, event):
        if not slicer.mrmlScene.IsBatchProcessing():
            for section in self.sections.values():
                section.scene_changed()

    def initializeParameterNode(self):
        """Use the scene's parameter node; a new one where there is none."""
        if slicer.mrmlScene.IsClosing():
            return
        node = self.logic.getParameterNode()
        another = node is not self.parameters.node
        self.parameters.use(node)
        self.synthesize_section.refresh()
        if another:
            self.align_section.take_run_of_scene()
            self.data_section.take_parameters()
        else:
            self.data_section.refresh()
        self.paint()

    def onParameterChanged(self, name):
        for section in self.sections.values():
            section.parameter_changed(name)
        self.paint()

    def onClock(self):
        """While something runs: has it fallen silent, may it be ended by now?"""
        if self.tasks.quiet():
            self.say(_("Nothing was heard from the worker for minutes. It may be stuck; Stop ends it."), True)
        for section in self.sections.values():
            section.tell_silence()
        self.paint()

    # What sections share

    def facts(self):
        """What the looks of all buttons depend on."""
        from GEDGANPanel.states import Facts

        card, train, align = self.synthesize_section.card, self.train_section, self.align_section
        augment, segment, rest = self.augment_section, self.segment_section, self.rest_section
        return Facts(
            ready=self.set_up.ready,
            task=self.tasks.name,
            data=self.data_section.given(),
            from_scene=self.parameters["fromScene"],
            checked=self.data_section.checked(),
            training=train.state,
            aligning=align.state,
            segmenting=rest.state,
            can_end=train.job is not None and train.job.can_be_ended(),
            can_end_aligning=align.job is not None and align.job.can_be_ended(),
            can_end_segmenting=rest.job is not None and rest.job.can_be_ended(),
            align_resumable=align.resumable(),
            segment_resumable=rest.resumable(),
            aligned=align.aligned(),
            aligned_case=bool(align.chosen()),
            varies=augment.model() is not None,
            scan=self.ui.augmentVolume.currentNode() is not None,
            scans=bool(augment.scans()),
            varying=augment.varying,
            augmented=augment.batches.last is not None,
            segmentation=self.ui.augmentSegmentation.currentNode() is not None,
            edited=self.ui.simulateEdited.currentNode() is not None,
            carry_from=segment.in_folder() or bool(segment.sources()),
            carry_to=segment.in_folder() or bool(segment.targets()),
            carried=bool(segment.carried_last()),
            carried_case=segment.chosen() is not None,
            carried_shown=segment.chosen_node() is not None,
            carried_rows=bool(segment.rows),
            resumable=train.resumable(),
            preview=train.preview_there(),
            model=card is not None,
            index=bool(self.index_section.address()),
            offered=self.index_section.chosen() is not None,
            makes_labels=card is not None and bool(card.plan.labels),
            classes=card is not None and bool(card.plan.classes),
            measured=self.judge_section.real_cases() is not None,
            batch=self.synthesize_section.batches.last is not None,
            exploring=self.explore_section.exploring,
            volume=self.ui.projectVolume.currentNode() is not None,
            report=self.judge_section.page is not None,
            reporting=self.judge_section.job is not None,
            loaded=self.logic.engine.loaded,
            planned=bool(self.ui.planText.toPlainText()),
            worth="" if card is None else card.worth,
            export_kind=self.parameters["exportKind"],
        )

    def paint(self):
        """Bring every widget with a state to what the facts say; nobody else does."""
        if not self._complete:  # selectors tell of themselves while the panel is still being made, and after its end
            return
        from GEDGANPanel.states import looks

        for name, look in looks(self.facts()).items():
            widget = getattr(self.ui, name)
            widget.enabled = look.enabled
            if look.tip:
                widget.toolTip = look.tip
            if look.text is not None:
                widget.text = look.text
            if self._visible.get(name) != look.visible:  # a section that is folded keeps what is in it hidden
                self._visible[name] = look.visible
                widget.setVisible(look.visible)
        if self.tasks.name or any(section.busy() for section in self.sections.values()):
            self._clock.start()
        else:
            self._clock.stop()

    def onFolded(self, folded):
        """A section that is unfolded may show what was hidden before it was ever seen."""
        self._visible.clear()
        self.paint()

    def say(self, words, warning=False):
        """The one line of the panel that tells what happened."""
        self.ui.messageLabel.text = words
        self.ui.messageLabel.setStyleSheet("color: #b00020;" if warning else "")
        slicer.util.showStatusMessage(words, 10000)


class GEDGANLogic(ScriptedLoadableModuleLogic):
    """Everything the panel does, for scripts; works without a main window too."""

    _engine = None

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        _findLibrary()

    @property
    def engine(self):
        """The model that is loaded in this process, shared by all logics."""
        from GEDGANPanel.engine import Engine

        if GEDGANLogic._engine is None:
            GEDGANLogic._engine = Engine()
        return GEDGANLogic._engine

    def startWorker(self, arguments, folder, stopFile=None, launch=None, notes=None):
        """Start a command of the library in a process of its own; returns a ``GEDGANLib.jobs.worker.Worker``.

        :param arguments: of ``gedgan``, as a list.
        :param folder: of the job; not there yet.
        :param stopFile: whose existence asks the command to stop.
        :param launch: makes the process; ``subprocess.Popen`` when not given.
        :param notes: names and texts for who finds the job again.
        :raises InputError: it could not be started.
        """
        from GEDGANLib.jobs.worker import Worker

        python = shutil.which("PythonSlicer") or sys.executable
        environment = {"PYTORCH_ENABLE_MPS_FALLBACK": "1", "MPLBACKEND": "Agg"}
        more = {} if launch is None else {"launch": launch}
        # PythonSlicer is a launcher that wants the environment that Slicer was started in.
        base = slicer.util.startupEnvironment() if "PythonSlicer" in os.path.basename(python) else None
        return Worker.start(
            arguments, folder, python, environment, base_environment=base, stop_file=stopFile, notes=notes, **more
        )

    def train(
        self, data, run=None, minutes=60, steps=None, seed=0, device="auto", resume=False, waitForCompletion=False,
        onEvent=None,
    ):  # fmt: skip
        """Train a model in a process of its own.

        :param data: folder of scans, see the documentation.
        :param run: new folder for the run; one in the user's documents when not given. To resume, that of the run.
        :param minutes: to train; ``steps`` instead when given.
        :param waitForCompletion: return the path of the model when it is trained; else return at once a
            ``GEDGANPanel.following.FollowedJob``, which can be stopped and waited for.
        :param onEvent: called with each event, a dictionary as ``GEDGANLib.jobs.events`` describes.
        :raises InputError: it could not be started or, when it is waited for, it failed or was stopped.
        """
        from GEDGANPanel import places

        run = Path(run) if run is not None else places.new_folder("runs")
        arguments = ["train", data, "-o", run, "--device", device]
        arguments += ["--resume"] if resume else ["--seed", seed]
        arguments += ["--steps", steps] if steps is not None else ["--minutes", minutes]
        job, ends = self._follow(arguments, onEvent, run / "STOP")
        if not waitForCompletion:
            return job
        _wait(job, ends, _("The run is {run}.").format(run=run))
        return run / "model.safetensors"

    def align(
        self, data, run=None, exclude=(), onto=None, device="auto", resume=False, waitForCompletion=False,
        onEvent=None,
    ):  # fmt: skip
        """Bring scans to a common template, in a process of its own.

        :param data: folder of scans, see the documentation.
        :param run: new folder for the run; one in the user's documents when not given. To resume, that of the run.
        :param exclude: names of cases to leave out.
        :param onto: folder of another run whose template they are brought onto.
        :param waitForCompletion: return the folder of the run when it is done; else return at once a
            ``GEDGANPanel.following.FollowedJob``, which can be stopped and waited for.
        :param onEvent: called with each event, a dictionary as ``GEDGANLib.jobs.events`` describes.
        :raises InputError: it could not be started or, when it is waited for, it failed or was stopped.
        """
        from GEDGANPanel import places

        run = Path(run) if run is not None else places.new_folder("alignments")
        arguments = ["align", data, "-o", run, "--device", device]
        arguments += ["--resume"] if resume else []
        arguments += ["--exclude", *exclude] if exclude else []
        arguments += ["--onto", onto] if onto is not None else []
        job, ends = self._follow(arguments, onEvent, run / "STOP")
        if not waitForCompletion:
            return job
        _wait(job, ends, _("The run is {run}.").format(run=run))
        return run

    def runWorker(self, arguments, onEvent=None):
        """Run a command of the library in a process of its own, and wait.

        :raises InputError: it failed.
        """
        _wait(*self._follow(arguments, onEvent))

    def _follow(self, arguments, onEvent=None, stopFile=None):
        """A command that runs: the followed job, and a list that gets its state and explanation when it has ended."""
        from GEDGANPanel import places
        from GEDGANPanel.following import FollowedJob

        ends = []
        worker = self.startWorker(arguments, places.new_folder("jobs"), stopFile)
        job = FollowedJob(worker, onEvent or (lambda event: None), lambda state, why: ends.append((state, why)))
        return job, ends

    def synthesize(self, model, count=8, seed=0, truncation=1.0, className=None, original=False, device="auto"):
        """Make cases and put them into the scene, under one folder; returns a ``GEDGANLib.scene.nodes.BatchNodes``.

        :param model: path of a model file.
        :param truncation: 0 for the most typical case, 1 as varied as was learned, 2 at most.
        :param original: voxels and size like the scans learned from.
        :raises InputError: not a model, no such class.
        """
        from GEDGANPanel import places
        from GEDGANPanel.engine import EngineUnavailable
        from GEDGANPanel.model_card import ModelCard
        from GEDGANPanel.synthesis_request import SynthesisRequest

        from GEDGANLib.errors import InputError

        plan = ModelCard.read(model).plan
        if className is not None and className not in plan.classes:
            there = ", ".join(plan.classes) or _("none")
            text = _("{model} knows no class {name}.").format(model=model, name=className)
            raise InputError(text, _("There are: {classes}.").format(classes=there))
        request = SynthesisRequest(
            Path(model), int(count), int(seed), float(truncation), bool(original), className, device
        )
        try:
            return _result(self.synthesizing(request))
        except EngineUnavailable:
            folder = places.new_folder("synthesized")
            self.runWorker(request.command(folder))
            return _result(self.loading(folder, plan))

    def augment(self, volume, segmentation=None, count=8, strength=1.0, seed=0, look=1.0, model=None, device="auto"):
        """Put variations of a scan of the scene into it, under one folder; returns a
        ``GEDGANLib.scene.nodes.BatchNodes``.

        :param volume: its volume node; a list of them, one a channel, where it has several.
        :param segmentation: its segmentation node, which is varied with it.
        :param strength: 0 is the scan itself, 1 other anatomy with its texture, 2 at most.
        :param look: how much brightness varies, from 0 to 1.
        :param model: folder of an alignment, or a model of one; the alignment of the scene when not given.
        :raises InputError: there is no such model, or the volume cannot be used.
        """
        from GEDGANPanel import places
        from GEDGANPanel.engine import EngineUnavailable

        from GEDGANLib.errors import InputError
        from GEDGANLib.synthesis.wish import Wish

        model = model or self.getParameterNode().GetParameter("alignRun")
        if int(count) < 1:
            raise InputError(_("No variations were asked for."), _("Ask for one or more."))
        if not model:
            raise InputError(_("No scans were aligned in this scene."), _("Give the folder of an alignment as model."))
        volumes = list(volume) if isinstance(volume, (list, tuple)) else [volume]
        wish = Wish(float(strength), float(look), int(seed))
        scans = [(volumes, segmentation)]
        try:
            return _result(self.augmenting(scans, int(count), wish, Path(model), device))
        except EngineUnavailable:
            data, folder = places.new_folder("data"), places.new_folder("variations")
            try:
                self.runWorker(self.augmentCommand(scans, int(count), wish, Path(model), device, data, folder))
                return _result(self.loadingVariations(folder, scans))
            finally:  # copies of patients' scans are not left about
                shutil.rmtree(data, ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)

    def augmentCommand(self, scans, count, wish, model, device, data, folder):
        """Write scans of the scene into ``data``; returns the command of the library that varies them into ``folder``.

        :raises InputError: one of them cannot be used.
        """
        from GEDGANLib.scene.gather import Ticked, write_scene_cases

        write_scene_cases([Ticked(volumes[0], labels, None, tuple(volumes[1:])) for volumes, labels in scans], data)
        form = "nnunet" if all(labels is not None for _volumes, labels in scans) else "folder"
        names = [path.name for path in sorted((data / "imagesTr").iterdir())]
        cases = sorted({name.rsplit("_", 1)[0] for name in names})
        arguments = ["augment", model, data, "-o", folder, "-n", count, "--format", form, "--device", device]
        arguments += ["--strength", wish.strength, "--look", wish.look, "--seed", wish.seed]
        return [*arguments, "--case", *cases]

    def carrySegmentation(self, sources, targets, model=None, device="auto"):
        """Carry segmentations of scans of the scene to others; returns the new segmentation nodes, one a target. What
        somebody drew stays as it is; how far each can be trusted is its attribute ``GEDGAN.trust``, from 0 to 1.

        :param sources: a segmentation node, or several; each is of the volume that it has as its reference.
        :param targets: volume nodes; a list of them, one a channel, for a scan that has several.
        :param model: folder of an alignment, or a model of one; the alignment of the scene when not given.
        :raises InputError: there is no such model, or a scan cannot be used.
        """
        from GEDGANPanel import places, scene_cases, segmenting
        from GEDGANPanel.engine import EngineUnavailable

        from GEDGANLib.errors import InputError

        model = model or self.getParameterNode().GetParameter("alignRun")
        if not model:
            raise InputError(_("No scans were aligned in this scene."), _("Give the folder of an alignment as model."))
        scans = []
        for node in sources if isinstance(sources, (list, tuple)) else [sources]:
            volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
            if volume is None:
                text = _("{name} does not say of which volume it is.").format(name=node.GetName())
                raise InputError(text, _("Choose the volume as its source geometry in the Segment Editor."))
            scans.append((scene_cases.channels_of(volume), node))
        wanted = [list(target) if isinstance(target, (list, tuple)) else [target] for target in targets]
        given = {volumes[0].GetID() for volumes, _node in scans}
        for volumes in wanted:
            if volumes[0].GetID() in given:
                text = _("{name} is a scan that would be carried from.").format(name=volumes[0].GetName())
                raise InputError(text, _("Carry to others."))
        try:
            return _result(self.carrying(scans, wanted, Path(model), device))
        except EngineUnavailable:
            data, folder = places.new_folder("data"), places.new_folder("carried")
            try:
                command, volumes = segmenting.carry_command(scans, wanted, Path(model), device, data, folder)
                self.runWorker(command)
                nodes = [node for _volumes, node in scans]
                return _result(segmenting.loading_carried(folder, volumes, nodes, lambda node, volume: None))
            finally:  # copies of patients' scans are not left about
                shutil.rmtree(data, ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)

    def segmentRest(self, scans, out=None, run=None, device="auto", onEvent=None):
        """From the scans that are segmented learn, in a process of its own, to segment the rest of them; waits for it,
        Slicer staying usable.

        :param scans: folder of scans, see the documentation; or volume nodes of the scene, of which one at least has a
            segmentation (a list of them, one a channel, for a scan that has several).
        :param out: new folder for the network and, of a folder of scans, their segmentations; one in the user's
            documents when not given.
        :param run: of an alignment of such scans; they are aligned on the way when not given.
        :param onEvent: called with each event, a dictionary as ``GEDGANLib.jobs.events`` describes.
        :returns: ``out`` of a folder of scans; of nodes, the new segmentation nodes, which tell how far each can be
            trusted by their attribute ``GEDGAN.trust``, from 0 to 1. What somebody drew stays as it is.
        :raises InputError: no scan is segmented, one cannot be used, or it was stopped.
        """
        from GEDGANPanel import places, scene_cases, segmenting

        from GEDGANLib.errors import InputError

        folder = Path(out) if out is not None else places.new_folder("segmented")
        if isinstance(scans, (str, Path)):
            _wait(*self._follow(segmenting.segment_arguments(scans, run, device, folder), onEvent, folder / "STOP"))
            return folder
        drawn = {row.volume.GetID(): row.segmentation for row in scene_cases.rows() if row.segmentation is not None}
        wanted = [list(scan) if isinstance(scan, (list, tuple)) else [scan] for scan in scans]
        sources = [(volumes, drawn[volumes[0].GetID()]) for volumes in wanted if volumes[0].GetID() in drawn]
        targets = [volumes for volumes in wanted if volumes[0].GetID() not in drawn]
        if not sources or not targets:
            what = _("None of these scans is segmented.") if not sources else _("All of these scans are segmented.")
            raise InputError(what, _("Give some that are, and some that are not."))
        data = places.new_folder("data")
        try:
            command, volumes = segmenting.segment_command(sources, targets, run, device, data, folder)
            _wait(*self._follow(command, onEvent, folder / "STOP"))
            nodes = [node for _volumes, node in sources]
            return _result(segmenting.loading_carried(folder / "segmented", volumes, nodes, lambda node, volume: None))
        finally:  # copies of patients' scans are not left about
            shutil.rmtree(data, ignore_errors=True)
            shutil.rmtree(folder / "segmented", ignore_errors=True)

    def simulate(self, volume, segmentation, edited, free=(), reach=None, device="auto"):
        """Deform a scan of the scene to an edit of its segmentation; returns its ``GEDGANLib.scene.nodes.CaseNodes``.
        How near it came is in their attributes.

        :param volume: its volume node; a list of them, one a channel, where it has several.
        :param segmentation, edited: segmentation nodes, before and after the edit.
        :param free: names of segments that were not edited and may move along; None for all of them.
        :param reach: mm from the edit, beyond which nothing moves; 15 or 8 voxels when not given.
        :raises InputError: nothing was edited, or no deformation can follow.
        """
        from GEDGANPanel import places, segmenting
        from GEDGANPanel.engine import EngineUnavailable

        volumes = list(volume) if isinstance(volume, (list, tuple)) else [volume]
        try:
            found = _result(self.simulating(volumes, segmentation, edited, free, reach, device))
            return segmenting.add_simulated(found.case, volumes[0])
        except EngineUnavailable:
            data, folder = places.new_folder("data"), places.new_folder("simulated")
            try:
                scan = (volumes, segmentation, edited)
                self.runWorker(segmenting.simulate_command(*scan, free, reach, device, data, folder))
                return segmenting.add_simulated(segmenting.load_simulated(folder, edited), volumes[0])
            finally:
                shutil.rmtree(data, ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)

    # The same in steps: generators of (share done or None, words), for a panel that stays usable

    def synthesizing(self, request, begun=lambda batch: None):
        """As :meth:`synthesize`, in steps; returns the batch.

        :param request: a ``GEDGANPanel.synthesis_request.SynthesisRequest``.
        :param begun: called with the batch when its first case is in the scene.
        :raises EngineUnavailable: not in this process; nothing of the batch is in the scene.
        """
        from GEDGANPanel.batches import growing_batch
        from GEDGANPanel.engine import EngineUnavailable

        for words in self.engine.loading(request.model, request.device):
            yield None, words
        name, seed = Path(request.model).parent.name, request.seed
        title = _("Synthesized by {name}, seed {seed}").format(name=name, seed=seed)
        made = []

        def note(batch):
            made.append(batch)
            begun(batch)

        try:
            return (yield from growing_batch(self.engine.making(request), request.count, title, note))
        except EngineUnavailable:
            for batch in made:  # a worker makes all of it anew
                batch.remove()
            raise

    def loading(self, folder, plan, begun=lambda batch: None):
        """Put what a worker synthesized into the scene, in steps; returns the batch.

        :param plan: of the model that made it.
        :param begun: as for :meth:`synthesizing`.
        """
        from GEDGANPanel.batches import growing_batch

        from GEDGANLib.scene.worker_output import cases_in_folder

        return (yield from growing_batch(cases_in_folder(Path(folder), plan), None, _("Synthesized"), begun))

    def exploring(self, model, latent, className, device):
        """Load a model and find what can be steered, in steps; returns a ``GEDGANLib.synthesis.explorer.Explorer``."""
        from GEDGANPanel.segmenting import told

        for words in self.engine.loading(model, device):
            yield None, words
        from GEDGANLib.synthesis.directions import finding_directions
        from GEDGANLib.synthesis.explorer import Explorer
        from GEDGANLib.synthesis.synthesizer import Synthesizer

        steps = finding_directions(self.engine.model)
        directions = yield from told(steps, _("Finding what the sliders can do"))
        return Explorer(Synthesizer(self.engine.model), directions, latent, className)

    def varying(self, volumes, segmentation, model, device="auto", withSliders=True):
        """Load a model and find where a scan lies on its template, in steps; returns a
        ``GEDGANLib.synthesis.moving.MovingScan``.

        :param model: folder of an alignment, or a model of one.
        :param withSliders: find what sliders can do, too.
        """
        from GEDGANPanel.engine import explained
        from GEDGANPanel.segmenting import opening, told

        variations = yield from opening(self.engine, model, device)
        from GEDGANLib.scene.read import case_from_scene
        from GEDGANLib.synthesis.directions import finding_directions
        from GEDGANLib.synthesis.moving import MovingScan

        case = case_from_scene(volumes, segmentation)
        directions = []
        if withSliders:
            steps = finding_directions(self.engine.model)
            directions = yield from told(steps, _("Finding what the sliders can do"))
        words = _("Bringing {name} onto the template").format(name=case.name)
        place, digest = yield from told(variations.placing(case), words)
        yield None, words
        with explained():
            return MovingScan(variations, case, place, directions, digest)

    def augmenting(self, scans, count, wish, model, device="auto", begun=lambda batch: None):
        """As :meth:`augment`, in steps; returns the batch.

        :param scans: volumes and segmentation of each.
        :param wish: a ``GEDGANLib.synthesis.wish.Wish``.
        :param begun: called with the batch when its first case is in the scene.
        :raises EngineUnavailable: not in this process; nothing of the batch is in the scene.
        """
        from GEDGANPanel.engine import EngineUnavailable, explained

        from GEDGANLib.scene.nodes import GrowingBatch

        growing = None
        try:
            for number, (volumes, segmentation) in enumerate(scans):
                moving = yield from self.varying(volumes, segmentation, model, device, bool(wish.values))
                for index in range(count):
                    name = _("{name} variation {seed}-{index:04d}").format(
                        name=moving.case.name, seed=wish.seed, index=index
                    )
                    steps = moving.fine(wish, index, name)
                    while True:
                        try:
                            with explained():
                                share = next(steps)
                        except StopIteration as stop:
                            case = stop.value
                            break
                        yield (number + (index + share) / count) / len(scans), name
                    first = growing is None
                    if first:
                        growing = GrowingBatch(_("Variations, made by GED-GAN"))
                    growing.add(case)
                    if first:
                        begun(growing.batch)
        except EngineUnavailable:
            if growing is not None:  # a worker makes all of it anew
                growing.batch.remove()
            raise
        return growing.batch

    def loadingVariations(self, folder, scans, begun=lambda batch: None):
        """Put what ``gedgan augment`` wrote into the scene, in steps; returns the batch.

        :param scans: volumes and segmentation of each scan that was varied.
        """
        from GEDGANPanel.batches import growing_batch

        from GEDGANLib.scene.worker_output import made_of_scene

        segmentations = [segmentation for _volumes, segmentation in scans if segmentation is not None]
        cases = made_of_scene(Path(folder), segmentations)
        return (yield from growing_batch(cases, None, _("Variations, made by GED-GAN"), begun))

    def carrying(self, sources, targets, model, device="auto", added=lambda node, volume: None):
        """As :meth:`carrySegmentation`, in steps; parameters and result as of ``GEDGANPanel.segmenting.carrying``."""
        from GEDGANPanel import segmenting

        return (yield from segmenting.carrying(self.engine, sources, targets, model, device, added))

    def simulating(self, volumes, segmentation, edited, free=(), reach=None, device="auto"):
        """As :meth:`simulate`, in steps; returns a ``GEDGANLib.synthesis.simulated.Simulation``."""
        from GEDGANPanel import segmenting

        return (yield from segmenting.simulating(self.engine, volumes, segmentation, edited, free, reach, device))

    def loadSample(self, count=None):
        """Put variations of one average brain into the scene; returns the volume nodes."""
        return _result(self.loadingSample(count))

    def loadingSample(self, count=None):
        """As :meth:`loadSample`, in steps; returns the volume nodes."""
        from GEDGANLib.scene import sample
        from GEDGANLib.scene.nodes import GrowingBatch

        growing, count = GrowingBatch(_("Variations of one average brain")), count or sample.COUNT
        for number, case in enumerate(sample.sample_cases(count), 1):
            growing.add(case)
            yield number / count, _("Making variation {number} of {count}").format(number=number, count=count)
        return [case.volumes[0] for case in growing.batch.cases]


def _wait(job, ends, hint=""):
    """Until a command has ended.

    :raises InputError: it failed or was stopped.
    """
    from GEDGANLib.errors import InputError
    from GEDGANLib.jobs.worker import DONE

    job.wait()
    state, explanation = ends[0]
    if state != DONE:
        raise InputError(explanation or _("It was stopped."), hint)


def _result(steps):
    """Run a generator of steps to its end, and return what it returns; Slicer's events are served in between."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
        slicer.app.processEvents()


class GEDGANTest(ScriptedLoadableModuleTest):
    """What can be tested inside Slicer without PyTorch; with it, a short training too."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        for test in (self.test_Sample, self.test_ParameterNode, self.test_TrainAndSynthesize):
            self.setUp()
            test()

    def test_Sample(self):
        from GEDGANLib.scene.sample import SPACING

        nodes = GEDGANLogic().loadSample(2)
        self.assertEqual(len(nodes), 2)
        self.assertEqual([round(value, 3) for value in nodes[0].GetSpacing()], [SPACING] * 3)
        bounds = [0.0] * 6
        nodes[0].GetRASBounds(bounds)
        self.assertLess(max(abs(bounds[2 * axis] + bounds[2 * axis + 1]) for axis in (0,)), 20)

    def test_ParameterNode(self):
        logic = GEDGANLogic()
        logic.getParameterNode().SetParameter("count", "3")
        self.assertIs(logic.getParameterNode(), GEDGANLogic().getParameterNode())

    def test_TrainAndSynthesize(self):
        import tempfile

        from GEDGANPanel import environment

        requirements = Path(__file__).parent / "Resources" / "requirements.txt"
        if not environment.look(requirements).ready:
            self.delayDisplay("Skipped: PyTorch or other packages are not installed.")
            return
        logic = GEDGANLogic()
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            logic.runWorker(["cohort", "-n", 6, "-o", data, "--shape", 16, 24, 16, "--spacing", 9])
            model = logic.train(data, Path(folder) / "run", steps=5, device="cpu", waitForCompletion=True)
            begun = time.monotonic()
            batch = logic.synthesize(model, count=2)
            self.delayDisplay(f"Two cases in {time.monotonic() - begun:.1f} s")
        self.assertEqual(len(batch.cases), 2)
        batch.remove()
