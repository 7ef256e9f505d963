"""What a user does with the panel, for tests: each function goes on until the panel has come to rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from desktop import pump

from GEDGANLib.volumes.cohort import make_case

SMALL = (16, 24, 16)
"""Voxels of 9 mm of the brains that tests put into the scene."""


def put_brains(count: int) -> list[Any]:
    """Small variations of the average brain in the scene; the nodes of each."""
    from GEDGANLib.scene.nodes import add_case

    return [add_case(make_case(index, 0, SMALL, 9.0)) for index in range(count)]


def tick_all(panel: Any) -> None:
    """Choose the scene, and tick every volume in it."""
    panel.ui.sceneRadio.checked = True
    panel.data_section.refresh()
    panel.ui.tickAllButton.click()
    pump(lambda: panel.ui.checkButton.isEnabled())


def idle(panel: Any, seconds: float = 120.0) -> None:
    """Until no task is being done."""
    pump(lambda: not panel.tasks.name, seconds)


def start_training(panel: Any) -> None:
    panel.ui.minutesSpin.value = 10
    panel.ui.trainButton.click()
    assert panel.train_section.state == "running", panel.ui.messageLabel.text


def training_well_under_way(panel: Any) -> None:
    start_training(panel)
    pump(lambda: panel.ui.trainLabel.text.startswith("Step"), 120)


def script(code: str) -> Any:
    """A launch that runs ``code`` instead of the library."""

    def launch(command, **options):
        return subprocess.Popen([sys.executable, "-c", code], **options)

    return launch


def check_folder(panel: Any, data: Path, plan: Path) -> None:
    """Leave the panel as a check of a folder leaves it, by a plan that is made here.

    :param plan: file of the plan to be.
    """
    from GEDGANLib.planning.choosing import make_plan
    from GEDGANLib.volumes.dataset import find_dataset
    from GEDGANLib.volumes.fingerprint import check_dataset

    make_plan(check_dataset(find_dataset(data)), "cpu").save(plan)
    panel.ui.dataPath.currentPath = str(data)
    panel.parameters["plan"], panel.parameters["checkedData"] = str(plan), str(data)
    panel.parameters["checkedAs"] = panel.data_section._lasting()
    panel.data_section.take_parameters()


def bump(segmentation: Any) -> None:
    """Edit a segmentation as with a brush: its last segment gets a bump, where a deformation can follow."""
    from vtk.util.numpy_support import vtk_to_numpy

    from GEDGANLib.alignment.editing import edited_labels, topology_changed

    labelmap = segmentation.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    values = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(labelmap.GetDimensions(), order="F")
    before = values.copy()
    for middle in np.argwhere(before == before.max()):
        wished = before.copy()
        wished[tuple(slice(index - 1, index + 2) for index in middle)] = before.max()
        changed = edited_labels(before, wished)
        if changed and all(topology_changed(before == label, wished == label) is None for label in changed):
            break
    values[:] = wished
    labelmap.Modified()
    segmentation.Modified()
