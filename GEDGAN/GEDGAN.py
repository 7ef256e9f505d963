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
SAMPLE_CASES, SAMPLE_SHAPE, SAMPLE_SPACING = 16, (40, 48, 40), 4.0
TOUR_MINUTES, TOUR_CASES = 3, 4


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
    """The panel. Sections do the work; here are what they share: one task at a time, one message, one painter."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.task = ""
        self._job = self._steps = None
        self._tour = []
        self._devices = ""
        self._visible = {}
        self._complete = False

    def setup(self):
        """Called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        from GEDGANPanel.data_section import DataSection
        from GEDGANPanel.explore_section import ExploreSection
        from GEDGANPanel.judge_section import JudgeSection
        from GEDGANPanel.parameters import Parameters
        from GEDGANPanel.synthesize_section import SynthesizeSection
        from GEDGANPanel.train_section import TrainSection

        self._requirements = Path(self.resourcePath("requirements.txt"))
        widget = slicer.util.loadUI(self.resourcePath("UI/GEDGAN.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        self.logic = GEDGANLogic()
        self._clock = qt.QTimer()
        self._clock.setInterval(1000)
        self._clock.connect("timeout()", self.onClock)
        self._makePathsBrowse()
        self.lookForSetUp()
        self.parameters = Parameters(self.ui, self.onParameterChanged)
        self.data_section = DataSection(self)
        self.train_section = TrainSection(self)
        self.synthesize_section = SynthesizeSection(self)
        self.explore_section = ExploreSection(self)
        self.judge_section = JudgeSection(self)
        self._complete = True
        widget.setMRMLScene(slicer.mrmlScene)

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            self.addObserver(scene, event, self.onSceneChanged)
        self.ui.setUpButton.connect("clicked()", self.onSetUp)
        self.ui.tryButton.connect("clicked()", self.stop_or(self.onTry))
        self.initializeParameterNode()
        self.train_section.find_again()
        self.askForDevices()
        self.goOnWithSetUp()

    def _makePathsBrowse(self):
        import ctk

        folders = ("dataPath", "runPath", "healthyPath", "reportDataPath", "exportPath")
        for name in folders:
            getattr(self.ui, name).filters = ctk.ctkPathLineEdit.Dirs
        self.ui.startFromPath.filters = ctk.ctkPathLineEdit.Files

    # Slicer's calls

    def cleanup(self):
        """The module is unloaded or reloaded, or Slicer ends. A training goes on, and is found again."""
        self.removeObservers()
        if not self._complete:
            return
        self.train_section.leave()
        self.stop_task()
        if self._job is not None:
            self._job.leave()
            self._job = None
        self._complete = False
        self.data_section.leave()
        self.explore_section.leave()
        self._clock.stop()
        self.parameters.use(None)

    def enter(self):
        self.initializeParameterNode()
        self.lookForSetUp()

    def exit(self):
        pass

    def onReload(self):
        """Reload the library with the module."""
        self.logic.engine.release()
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event):
        self.parameters.use(None)
        if self.task in ("gather", "synthesize", "series", "save", "sample", "explore", "project", "plan"):
            self.stop_task()  # what it would write into is going away

    def onSceneEndClose(self, caller, event):
        self.synthesize_section.forget_batch()
        self.explore_section.scene_closed()
        self.initializeParameterNode()

    def onSceneEndImport(self, caller, event):
        """What was added may bring parameters along; what was there is there still."""
        self.initializeParameterNode()

    def onSceneChanged(self, caller, event):
        if not slicer.mrmlScene.IsBatchProcessing():
            self.data_section.refresh_soon()

    def initializeParameterNode(self):
        """Use the scene's parameter node; a new one where there is none."""
        if slicer.mrmlScene.IsClosing():
            return
        self.parameters.use(self.logic.getParameterNode())
        self.synthesize_section.refresh()
        self.data_section.refresh()
        self.data_section.show_plan()
        self.paint()

    def onParameterChanged(self, name):
        from GEDGANPanel.data_section import PLAN_DEPENDS_ON

        if name in PLAN_DEPENDS_ON:
            self.data_section.forget_plan()
        self.paint()

    def onClock(self):
        """While something runs: has it fallen silent, may it be ended by now?"""
        if self._job is not None and self._job.quiet():
            self.say(_("Nothing was heard from the worker for minutes. It may be stuck; Stop ends it."), True)
        training = self.train_section.job
        if training is not None and training.quiet():
            self.ui.trainLabel.text = _(
                "Nothing was heard from the training for minutes. It may be stuck; Stop ends it."
            )
        self.paint()

    # What sections share

    def facts(self):
        """What the looks of all buttons depend on."""
        from GEDGANPanel.states import Facts

        card, train = self.synthesize_section.card, self.train_section
        return Facts(
            ready=self._setUp.ready,
            task=self.task,
            data=self.data_section.given(),
            from_scene=self.parameters["fromScene"],
            checked=self.data_section.checked(),
            training=train.state,
            can_end=train.job is not None and train.job.can_be_ended(),
            resumable=train.resumable(),
            preview=train.preview_there(),
            model=card is not None,
            makes_labels=card is not None and bool(card.plan.labels),
            classes=card is not None and bool(card.plan.classes),
            measured=self.judge_section.real_cases() is not None,
            batch=self.synthesize_section.has_batch(),
            exploring=self.explore_section.exploring,
            volume=self.ui.projectVolume.currentNode() is not None,
            report=self.judge_section.has_report(),
            loaded=self.logic.engine.loaded,
            planned=bool(self.ui.planText.toPlainText()),
            export_kind=self.parameters["exportKind"],
        )

    def paint(self):
        """Bring every widget with a state to what the facts say; nobody else does."""
        from GEDGANPanel.states import looks

        if not self._complete:  # selectors tell of themselves while the panel is still being made
            return
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
        if self.task or self.train_section.job is not None:
            self._clock.start()
        else:
            self._clock.stop()

    def say(self, words, warning=False):
        """The one line of the panel that tells what happened."""
        self.ui.messageLabel.text = words
        self.ui.messageLabel.setStyleSheet("color: #b00020;" if warning else "")
        slicer.util.showStatusMessage(words, 10000)

    def run_job(self, task, arguments, done, words):
        """Run a command of the library as the panel's task.

        :param task: as ``states.Facts.task`` names it.
        :param done: called when it has ended well.
        """
        from GEDGANPanel import places
        from GEDGANPanel.following import FollowedJob, words_of

        from GEDGANLib.errors import InputError

        try:
            worker = self.logic.startWorker(arguments, places.new_folder("jobs"))
        except InputError as error:
            self.say(words_of(error), True)
            self._tour = []
            return
        self._begin(task, words)
        self._job = FollowedJob(worker, self._heard, lambda state, why: self._jobEnded(state, why, done))
        self.paint()

    def _heard(self, event):
        kind = event["event"]
        if kind == "progress":
            self.ui.taskBar.value = int(1000 * float(event.get("progress", 0)))
            self.ui.messageLabel.text = f"{event.get('stage', '')} {event.get('name', '')}".strip()
        elif kind == "warning":
            self.say(event.get("message", ""), True)
        elif kind == "devices":
            self._devices = self.logic.deviceWords(event)

    def _jobEnded(self, state, explanation, done):
        from GEDGANLib.worker import DONE, STOPPED_ON_REQUEST

        stopped = state == STOPPED_ON_REQUEST or (self._job is not None and self._job.asked_to_stop)
        self.task, self._job = "", None
        if state == DONE:
            done()
        else:
            self._tour = []
            self.say(_("Stopped.") if stopped else explanation, not stopped)
        self.paint()

    def run_steps(self, task, steps, done, otherwise=None):
        """Go through a generator of (share done or None, words) as the panel's task, Slicer staying usable.

        :param done: called with what the generator returns, None when it was stopped.
        :param otherwise: called with an error; whether it found another way.
        """
        from GEDGANPanel.following import Steps

        self._begin(task, "")
        self._steps = Steps(
            steps, self._stepped, lambda error, result: self._stepsEnded(error, result, done, otherwise)
        )
        self.paint()

    def _begin(self, task, words):
        self.task = task
        self.ui.taskBar.value = 0
        if words:
            self.say(words)

    def _stepped(self, said):
        share, words = said
        if share is not None:
            self.ui.taskBar.value = int(1000 * share)
        self.ui.messageLabel.text = words

    def _stepsEnded(self, error, result, done, otherwise):
        from GEDGANPanel.following import words_of

        self.task, self._steps = "", None
        if error is None:
            if result is None:
                self.say(_("Stopped."))
            done(result)
        elif otherwise is None or not otherwise(error):
            self._tour = []
            self.say(words_of(error), True)
        self.paint()

    def stop_or(self, begin):
        """What a button calls that begins a task and, while one is being done, stops it."""
        return lambda: self.stop_task() if self.task else begin()

    def stop_task(self):
        """End what the panel does besides training; what is there already stays."""
        self._tour = []
        if self._job is not None:
            self._job.stop()
        if self._steps is not None:
            self._steps.stop()

    # Getting started

    def lookForSetUp(self):
        """Say in one line what is missing."""
        from GEDGANPanel import environment, places

        self._setUp = environment.look(self._requirements)
        self._devices = self._devices or places.setting(places.DEVICES)
        self.ui.setUpLabel.text = self._setUp.words(self._devices)

    def goOnWithSetUp(self):
        """After the restart that installing the extension needed: say what is next."""
        from GEDGANPanel import environment, places

        if places.setting(environment.PENDING) == "true":
            places.keep_setting(environment.PENDING, "false")
            if self._setUp.extension and not self._setUp.ready:
                self.say(_("The extension PyTorch is there now. Press Set up once more for the rest."))

    def askForDevices(self):
        """Of a worker, so that Slicer need not start PyTorch; once, the answer is kept."""
        if self._setUp.ready and not self._devices and not self.task:
            self.run_job("devices", ["devices"], self._devicesFound, _("Looking for a GPU"))

    def _devicesFound(self):
        from GEDGANPanel import places

        places.keep_setting(places.DEVICES, self._devices)
        self.ui.setUpLabel.text = self._setUp.words(self._devices)
        self.say("")

    def onSetUp(self):
        from GEDGANPanel import environment
        from GEDGANPanel.following import words_of

        from GEDGANLib.errors import InputError

        try:
            words, fault = environment.set_up(self._requirements), False
        except InputError as error:
            words, fault = words_of(error), True
        self.lookForSetUp()
        self.say(words, fault)
        self.paint()
        self.askForDevices()

    def onTry(self):
        """Sample data, and then, one after the other, what a user would press."""
        from GEDGANPanel import scene_cases

        def loaded(nodes):
            if nodes is None:
                return
            for node in nodes:
                scene_cases.tick(node, True)
            self.parameters["fromScene"] = True
            self.parameters.show()
            self.data_section.refresh()
            if not self._setUp.ready:
                self.say(
                    _("The sample is in the scene. Press Set up, then Check and plan, Train and Synthesize."), True
                )
                return
            self._tour = [
                lambda: self.train_section.start(TOUR_MINUTES),
                lambda: self.synthesize_section.in_slicer(TOUR_CASES),
                lambda: self.say(_("That was all of it: sample, plan, training, synthesis. Now take your own scans.")),
            ]
            self.data_section.onCheck()

        self.run_steps("sample", self.logic.loadingSample(), loaded)

    def continue_tour(self, well=True):
        """After a step of "Try it": the next one."""
        if not well:
            self._tour = []
        if self._tour:
            self._tour.pop(0)()


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

    def startWorker(self, arguments, folder, stopFile=None, launch=None):
        """Start a command of the library in a process of its own; returns a ``GEDGANLib.worker.Worker``.

        :param arguments: of ``gedgan``, as a list.
        :param folder: of the job; not there yet.
        :param stopFile: whose existence asks the command to stop.
        :param launch: makes the process; ``subprocess.Popen`` when not given.
        :raises InputError: it could not be started.
        """
        from GEDGANLib.worker import Worker

        python = shutil.which("PythonSlicer") or sys.executable
        environment = {"PYTORCH_ENABLE_MPS_FALLBACK": "1", "MPLBACKEND": "Agg"}
        more = {} if launch is None else {"launch": launch}
        # PythonSlicer is a launcher that wants the environment that Slicer was started in.
        base = slicer.util.startupEnvironment() if "PythonSlicer" in os.path.basename(python) else None
        return Worker.start(
            arguments, folder, python=python, environment=environment, base_environment=base, stop_file=stopFile, **more
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
        :param onEvent: called with each event, a dictionary as ``GEDGANLib.jobs`` describes.
        :raises InputError: it could not be started or, when it is waited for, it failed or was stopped.
        """
        from GEDGANPanel import places
        from GEDGANPanel.following import FollowedJob

        from GEDGANLib.errors import InputError
        from GEDGANLib.worker import DONE

        run = Path(run) if run is not None else places.new_folder("runs")
        arguments = ["train", data, "-o", run, "--device", device]
        arguments += ["--resume"] if resume else ["--seed", seed]
        arguments += ["--steps", steps] if steps is not None else ["--minutes", minutes]
        ends = []
        worker = self.startWorker(arguments, places.new_folder("jobs"), run / "STOP")
        job = FollowedJob(worker, onEvent or (lambda event: None), lambda state, why: ends.append((state, why)))
        if not waitForCompletion:
            return job
        job.wait()
        state, why = ends[0]
        if state != DONE:
            raise InputError(why or "The training was stopped.", f"The run is {run}.")
        return run / "model.safetensors"

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

        from GEDGANLib.errors import InputError

        form = {"truncation": float(truncation), "original": bool(original)}
        plan = ModelCard.read(model).plan
        if className is not None and className not in plan.classes:
            raise InputError(f"{model} knows no class {className}.", f"There are: {', '.join(plan.classes) or 'none'}.")
        try:
            return _result(self.synthesizing(model, count, seed, form, className, device))
        except EngineUnavailable:
            folder = places.new_folder("synthesized")
            arguments = ["synthesize", model, "-n", count, "--seed", seed, "-o", folder, "--truncation", truncation]
            arguments += ["--class", className] if className else []
            arguments += ["--original"] if original else []
            self.runWorker([*arguments, "--device", device])
            return _result(self.loading(folder, plan))

    def runWorker(self, arguments, onEvent=None):
        """Run a command of the library in a process of its own, and wait.

        :raises InputError: it failed.
        """
        from GEDGANPanel import places
        from GEDGANPanel.following import FollowedJob

        from GEDGANLib.errors import InputError
        from GEDGANLib.worker import DONE

        ends = []
        worker = self.startWorker(arguments, places.new_folder("jobs"))
        job = FollowedJob(worker, onEvent or (lambda event: None), lambda state, why: ends.append((state, why)))
        job.wait()
        if ends[0][0] != DONE:
            raise InputError(ends[0][1] or "It was stopped.")

    # The same in steps: generators of (share done or None, words), for a panel that stays usable

    def synthesizing(self, model, count, seed, form, className, device):
        """As :meth:`synthesize`, in steps; returns the batch."""
        from GEDGANPanel.synthesize_section import growing_batch

        for words in self.engine.loading(model, device):
            yield None, words
        title = _("Synthesized by {name}, seed {seed}").format(name=Path(model).parent.name, seed=seed)
        return (yield from growing_batch(self.engine.making(form, seed, count, className), count, title))

    def loading(self, folder, plan):
        """Put what a worker synthesized into the scene, in steps; returns the batch."""
        from GEDGANPanel.synthesize_section import growing_batch

        from GEDGANLib.scene.worker_output import cases_in_folder

        return (yield from growing_batch(cases_in_folder(Path(folder), plan), None, _("Synthesized")))

    def exploring(self, model, latent, className, device):
        """Load a model and find what can be steered, in steps; returns a ``GEDGANLib.synthesis.explorer.Explorer``."""
        for words in self.engine.loading(model, device):
            yield None, words
        from GEDGANLib.synthesis.directions import finding_directions
        from GEDGANLib.synthesis.explorer import Explorer
        from GEDGANLib.synthesis.synthesizer import Synthesizer

        search = finding_directions(self.engine.model)
        while True:
            try:
                done, total = next(search)
            except StopIteration as stop:
                directions = stop.value
                break
            yield done / total, _("Finding what the sliders can do")
        return Explorer(Synthesizer(self.engine.model), directions, latent, className)

    def loadSample(self, count=SAMPLE_CASES):
        """Put variations of one average brain into the scene; returns the volume nodes."""
        return _result(self.loadingSample(count))

    def loadingSample(self, count=SAMPLE_CASES):
        """As :meth:`loadSample`, in steps; returns the volume nodes."""
        from GEDGANLib.scene.nodes import GrowingBatch
        from GEDGANLib.volumes.cohort import make_case

        growing = GrowingBatch(_("Variations of one average brain"))
        for index in range(count):
            growing.add(make_case(index, 0, SAMPLE_SHAPE, SAMPLE_SPACING))
            yield (index + 1) / count, _("Making variation {number} of {count}").format(number=index + 1, count=count)
        return [case.volumes[0] for case in growing.batch.cases]

    @staticmethod
    def deviceWords(event):
        """What can compute, in words, of a ``devices`` event."""
        best = (event.get("devices") or [{}])[0]
        if best.get("kind") in ("cuda", "mps"):
            memory = f", {best['memory_gb']:g} GB" if best.get("memory_gb") else ""
            return _("GPU: {name}{memory}.").format(name=best.get("name", ""), memory=memory)
        return _("No GPU that PyTorch can use: training takes hours on the processor.")


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
        nodes = GEDGANLogic().loadSample(2)
        self.assertEqual(len(nodes), 2)
        spacing = [round(value, 3) for value in nodes[0].GetSpacing()]
        self.assertEqual(spacing, [SAMPLE_SPACING] * 3)
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
