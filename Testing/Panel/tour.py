"""A whole session through the panel's own buttons, with the real worker: sample, plan, alignment, variations, a carried
segmentation, a scan deformed to an edit, training, synthesis, exploring, report, export, the rest of the scans
segmented; with a picture of each state and of the views, and how long the panel did not answer.

    .venv/bin/python Testing/Panel/tour.py OUT [--minutes 3] [--quick]

The scene is Slicer's real one, the panel stands on a stand-in of Slicer's Qt (``desktop``), the views are Slicer's own
slice and 3D views, drawn off screen. What Slicer's main window would look like around them, this does not show.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from desktop import desktop, open_module, picture, qt

TICK = 0.01
"""Seconds between two looks at whether the panel answers."""


class Stopwatch:
    """How long Qt was kept from its events, in each part of the session."""

    def __init__(self) -> None:
        self.part, self.longest, self.begun = "opening", {}, {}
        self._last = time.monotonic()

    def enter(self, part: str) -> None:
        self.part = part
        self.begun[part] = self._last = time.monotonic()

    def pump(self, condition, seconds: float = 900.0) -> None:
        """Let Qt work until a condition holds.

        :raises TimeoutError: it did not in time.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.part} took more than {seconds:.0f} s")
            begun = time.monotonic()
            qt.QApplication.processEvents()
            self.longest[self.part] = max(self.longest.get(self.part, 0.0), time.monotonic() - begun)
            time.sleep(TICK)

    def press(self, button) -> None:
        """A click, timed like everything else that keeps the panel busy."""
        begun = time.monotonic()
        button.click()
        self.longest[self.part] = max(self.longest.get(self.part, 0.0), time.monotonic() - begun)


def draw_views(core, volume, segmentation, path: Path) -> None:
    from GEDGANLib.scene.render import render_scene

    render_scene(core, volume, segmentation, path, volume.GetName())


def align(panel, watch: Stopwatch, out: Path) -> None:
    """The section Align, beside the training that runs: stopped at half, gone on with, and its sliders."""
    ui = panel.ui
    watch.enter("alignment")
    watch.press(ui.alignButton)
    watch.pump(lambda: ui.alignLabel.text.startswith("aligning the scans") and ui.alignBar.value > 400)
    picture(panel, out / "2-aligning.png")
    watch.press(ui.alignButton)
    watch.pump(lambda: not panel.align_section.state)
    watch.press(ui.alignResumeButton)
    watch.pump(lambda: not panel.align_section.state)
    watch.enter("template")
    watch.press(ui.templateButton)
    watch.pump(lambda: not panel.tasks.name)
    watch.enter("directions of the alignment")
    watch.press(ui.modesButton)
    watch.pump(lambda: not panel.tasks.name)
    for value in (-2.0, 2.0):
        next(iter(panel.explore_section.sliders.values())).value = value
        end = time.monotonic() + 0.5
        watch.pump(lambda end=end: time.monotonic() > end)
    picture(panel, out / "2-aligned.png")


def augment(panel, watch: Stopwatch, out: Path) -> None:
    """The section Augment: a scan of the scene under sliders, four variations of it, and these undone."""
    ui, section = panel.ui, panel.augment_section
    ui.augmentSection.collapsed = False
    ui.augmentVolume.setCurrentNode(panel.data_section.rows[0].volume)
    watch.enter("bringing a scan onto the template")
    watch.press(ui.varyButton)
    watch.pump(lambda: not panel.tasks.name)
    watch.enter("sliders of the scan")
    for slider, values in ((next(iter(section.sliders.values())), (-2.0, 2.0)), (ui.strengthSlider, (0.3, 1.0))):
        for value in values:
            slider.value = value
            end = time.monotonic() + 1.0
            watch.pump(lambda end=end: time.monotonic() > end)
    picture(panel, out / "3-varying.png")
    watch.enter("four variations")
    ui.augmentCountSpin.value = 4
    watch.press(ui.augmentButton)
    watch.pump(lambda: not panel.tasks.name)
    watch.press(ui.augmentUndoButton)
    watch.press(ui.varyButton)


def segment(panel, watch: Stopwatch, out: Path) -> None:
    """The section Segment: one scan's segmentation carried to another, accepted; and a scan deformed to an edit."""
    from acting import bump

    ui, rows = panel.ui, panel.data_section.rows
    ui.segmentSection.collapsed = False
    ui.carrySegmentation.setCurrentNode(rows[0].segmentation)
    ui.carryTo.setCurrentNode(rows[1].volume)
    watch.enter("carrying a segmentation")
    watch.press(ui.carryButton)
    watch.pump(lambda: not panel.tasks.name)
    picture(panel, out / "4-carried.png")
    watch.press(ui.nextButton)
    watch.pump(lambda: not panel.tasks.name)
    watch.press(ui.carryUndoButton)
    watch.enter("deforming to an edit")
    watch.press(ui.editCopyButton)
    bump(ui.simulateEdited.currentNode())
    watch.press(ui.simulateButton)
    watch.pump(lambda: not panel.tasks.name)
    print(ui.messageLabel.text)


def segment_rest(panel, watch: Stopwatch, out: Path) -> None:
    """Two scans that nobody has segmented: both are segmented from all others, the least to be trusted is accepted."""
    import slicer

    ui, rows = panel.ui, panel.data_section.rows
    for row in rows[-2:]:
        slicer.mrmlScene.RemoveNode(row.segmentation)
    ui.carrySegmentation.setCurrentNode(None)
    ui.carryTo.setCurrentNode(None)
    panel.data_section.refresh()
    watch.enter("segmenting the rest")
    watch.press(ui.segmentRestButton)
    watch.pump(lambda: panel.rest_section.job is None and not panel.tasks.name, 3600)
    assert len(panel.segment_section.rows) == 2, ui.messageLabel.text
    print(ui.messageLabel.text)
    picture(panel, out / "7-segmented.png")
    watch.press(ui.acceptButton)
    print(ui.messageLabel.text)


def session(out: Path, minutes: int, quick: bool) -> dict[str, float]:
    """Returns the longest time without an answer, in seconds, of each part."""
    watch = Stopwatch()
    with desktop(out / "home") as slicer_desktop:
        from GEDGANPanel import tour

        import GEDGAN

        panel = open_module(GEDGAN.GEDGANWidget)
        ui = panel.ui
        watch.pump(lambda: not panel.tasks.name)
        picture(panel, out / "1-opened.png")

        tour.MINUTES = minutes
        watch.enter("sample and check")
        watch.press(ui.tryButton)
        watch.pump(lambda: panel.train_section.state == "running")
        align(panel, watch, out)
        augment(panel, watch, out)
        segment(panel, watch, out)
        watch.enter("training")
        watch.pump(lambda: panel.train_section.preview_there() and panel.train_section.curves.present())
        picture(panel, out / "2-training.png")
        watch.press(ui.previewButton)
        watch.pump(lambda: not panel.train_section.state, 60.0 * minutes + 600)
        watch.enter("synthesis, PyTorch started")
        trained = panel.train_section.run / "model.safetensors"
        if panel.synthesize_section.card.path != trained:  # a case of the alignment follows the sliders still
            panel.synthesize_section.take_model(trained)
            watch.press(ui.synthesizeButton)
        watch.pump(lambda: panel.synthesize_section.batches.last is not None and not panel.tasks.name)
        watch.enter("synthesis of 8 cases")
        watch.press(ui.undoButton)
        ui.countSpin.value = 8
        watch.press(ui.synthesizeButton)
        watch.pump(lambda: not panel.tasks.name)
        picture(panel, out / "4-synthesized.png")
        first = panel.synthesize_section.batches.last.cases[0]

        watch.enter("finding directions")
        ui.exploreSection.collapsed = False
        watch.press(ui.exploreButton)
        watch.pump(lambda: not panel.tasks.name)
        watch.enter("slider moves")
        for name in list(panel.explore_section.sliders)[:3]:
            for value in (-3.0, -1.5, 1.5, 3.0):
                panel.explore_section.sliders[name].value = value
                end = time.monotonic() + 0.3
                watch.pump(lambda end=end: time.monotonic() > end)
        picture(panel, out / "5-exploring.png")
        watch.enter("series of 9 frames")
        watch.press(ui.seriesButton)
        watch.pump(lambda: not panel.tasks.name)

        ui.judgeSection.collapsed = False
        watch.enter("report")
        ui.quickCheck.checked = quick
        watch.press(ui.reportButton)
        watch.pump(lambda: panel.judge_section.job is None, 1800)
        assert panel.judge_section.page is not None, ui.messageLabel.text
        watch.enter("export")
        ui.exportCountSpin.value = 20
        watch.press(ui.exportButton)
        watch.pump(lambda: not panel.tasks.name)
        picture(panel, out / "6-judged.png")
        print(ui.messageLabel.text)
        segment_rest(panel, watch, out)
        # Last, as views that are there are drawn anew at every change.
        from GEDGANPanel.views import show_case

        show_case(first.volumes[0], first.segmentation)
        draw_views(slicer_desktop.core, first.volumes[0], first.segmentation, out / "views.png")
        panel.cleanup()
    return watch.longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=int, default=3, help="of training")
    parser.add_argument("--quick", action="store_true", help="a report without its U-Nets")
    arguments = parser.parse_args()
    begun = time.monotonic()
    longest = session(arguments.out.resolve(), arguments.minutes, arguments.quick)
    print(f"\nlongest time without an answer ({(time.monotonic() - begun) / 60:.1f} minutes in all)")
    for part, seconds in longest.items():
        print(f"  {part.strip():<28} {1000 * seconds:6.0f} ms")


if __name__ == "__main__":
    main()
