"""What the views show. Without a main window there are none, and nothing happens."""

from __future__ import annotations

from typing import Any

import slicer

ANOMALY_RANGE = (0.0, 6.0)
"""Standard deviations that the colours of an anomaly map span."""


def has_views() -> bool:
    return slicer.app.layoutManager() is not None


def show_volume(volume: Any) -> None:
    """In all slice views."""
    slicer.util.setSliceViewerLayers(background=volume, foreground=None, label=None)
    if has_views():
        slicer.app.layoutManager().resetSliceViews()


def show_case(volume: Any, segmentation: Any | None) -> None:
    """A volume in all slice views, and its segmentation alone: cases lie in the same place, others would cover it."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        display = node.GetDisplayNode()
        if display is not None:
            display.SetVisibility(node is segmentation)
    show_volume(volume)


def show_over(volume: Any, over: Any, opacity: float = 0.5) -> None:
    """A map over a volume, in all slice views."""
    slicer.util.setSliceViewerLayers(background=volume, foreground=over, foregroundOpacity=opacity)
    if has_views():
        slicer.app.layoutManager().resetSliceViews()


def render_volume(volume: Any) -> None:
    """In the 3D views, with the preset for MRI, whose opacity follows the window."""
    logic = slicer.modules.volumerendering.logic()
    display = logic.CreateDefaultVolumeRenderingNodes(volume)
    preset = logic.GetPresetByName("MR-Default")
    if preset is not None:
        display.GetVolumePropertyNode().Copy(preset)
    display.SetVisibility(True)


def show_side_by_side(left: Any, right: Any) -> None:
    """Two volumes, the same plane of each, in the red and the yellow view."""
    if has_views():
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
    for name, volume in (("Red", left), ("Yellow", right)):
        composite = slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}")
        if composite is not None:
            composite.SetBackgroundVolumeID(volume.GetID())
            composite.SetForegroundVolumeID(None)
            composite.SetLabelVolumeID(None)
        slice_node = slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{name}")
        if slice_node is not None:
            slice_node.SetOrientationToAxial()
    if has_views():
        slicer.app.layoutManager().resetSliceViews()


def colour_as_heat(node: Any) -> None:
    """Look of an anomaly map: nothing below one standard deviation, then from dark to bright."""
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileInferno.txt")
    if display.GetColorNode() is None:  # of older versions
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRed")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*ANOMALY_RANGE)
    display.SetThreshold(1.0, 1e6)
    display.ApplyThresholdOn()
