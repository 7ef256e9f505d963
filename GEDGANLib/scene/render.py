"""A picture of a scene: Slicer's own slice views and its volume rendering, drawn off screen."""

from __future__ import annotations

import ctypes.util
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .read import case_from_scene

SIZE, GAP = 420, 4  # pixels of a view, and between two
LETTERS = 140
"""Of a line of the title."""
VIEWS = ("Red", "Green", "Yellow", "3D")


def check_rendering() -> None:
    """Make sure that off-screen rendering cannot crash for want of a library.

    :raises InputError: Mesa's EGL is missing.
    """
    if not sys.platform.startswith("linux"):
        return  # macOS and Windows draw off screen by themselves
    if ctypes.util.find_library("EGL") is None and ctypes.util.find_library("OSMesa") is None:
        raise InputError(
            "Drawing a scene without a screen needs Mesa's EGL library, which is missing.",
            "On Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri libegl-mesa0",
        )


def render_scene(application: Any, volume: Any, segmentation: Any | None, path: Path, title: str = "") -> None:
    """Draw three slice views through the middle of the segmentation and a volume rendering, as one PNG.

    :param application: from :func:`GEDGANLib.scene.headless.headless_application`.
    :param volume: scalar volume node to show.
    :param segmentation: segmentation node to outline, or None.
    :raises InputError: no off-screen rendering here, or the picture cannot be written.
    """
    check_rendering()
    from trame_slicer.views import DirectViewFactory, ViewLayoutDefinition

    manager = application.view_manager
    manager.register_factory(DirectViewFactory(do_render_offscreen=True))
    definitions = (
        ViewLayoutDefinition.axial_view(),
        ViewLayoutDefinition.coronal_view(),
        ViewLayoutDefinition.sagittal_view(),
        ViewLayoutDefinition.threed_view(),
    )
    views = [manager.create_view(definition) for definition in definitions]
    for view in views:
        view.set_render_blocked(True)  # else every change of a node draws all views
        view.render_window().SetSize(SIZE, SIZE)
    if segmentation is not None:
        segmentation.GetDisplayNode().SetVisibility(True)
        segmentation.GetDisplayNode().SetVisibility3D(False)
        segmentation.GetDisplayNode().SetVisibility2DFill(False)  # outlines alone, so that the image is seen inside
    _show_volume_rendering(application, volume)
    position = _middle(volume, segmentation)
    widest = _widest(volume)
    for view in views[:3]:
        node = view.get_view_node()
        node.SetFieldOfView(widest, widest, node.GetFieldOfView()[2])  # one scale for all three
        # Not by slice offsets: they count along the view's normal, which may point against R, A or S.
        node.JumpSlice(*position)
    pictures = [_grab(view) for view in views]
    _compose(pictures, path, title, widest, _names(segmentation))


def _show_volume_rendering(application: Any, volume: Any) -> None:
    """Show the volume in all views, in 3D opaque from a third of its window on, whatever its units are."""
    import vtk

    application.display_manager.show_volume(volume, vr_preset="MR-Default", do_reset_views=True)
    display = volume.GetDisplayNode()
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    rendering = application.volume_rendering.get_vr_display_node(volume)
    properties = rendering.GetVolumePropertyNode().GetVolumeProperty()
    opacity, color = vtk.vtkPiecewiseFunction(), vtk.vtkColorTransferFunction()
    for share, value in ((0.0, 0.0), (0.2, 0.0), (0.4, 0.3), (1.0, 0.9)):
        opacity.AddPoint(low + share * (high - low), value)
    for share, rgb in ((0.0, (0.1, 0.1, 0.12)), (0.4, (0.62, 0.5, 0.45)), (1.0, (1.0, 0.96, 0.9))):
        color.AddRGBPoint(low + share * (high - low), *rgb)
    properties.SetScalarOpacity(opacity)
    properties.SetColor(color)
    properties.DisableGradientOpacityOn()
    properties.ShadeOn()


def _middle(volume: Any, segmentation: Any | None) -> np.ndarray:
    """Centre of all labelled voxels in mm RAS, else of the volume."""
    case = case_from_scene([volume], segmentation)
    labelled = np.argwhere(case.labels) if case.labels is not None else np.empty((0, 3))
    index = labelled.mean(0) if len(labelled) else (np.array(case.image.shape[1:]) - 1) / 2
    return (case.affine @ [*index, 1.0])[:3]


def _widest(volume: Any) -> float:
    """Side of a square, mm, that holds the volume in each plane."""
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    return 1.04 * max(bounds[2 * axis + 1] - bounds[2 * axis] for axis in range(3))


def _names(segmentation: Any | None) -> list[tuple[str, tuple[float, ...]]]:
    """Name and colour of each segment."""
    if segmentation is None:
        return []
    content = segmentation.GetSegmentation()
    segments = [content.GetNthSegment(index) for index in range(content.GetNumberOfSegments())]
    return [(segment.GetName(), tuple(segment.GetColor())) for segment in segments]


def _grab(view: Any) -> np.ndarray:
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    view.set_render_blocked(False)
    view.render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(view.render_window())
    grabber.SetInputBufferTypeToRGB()
    grabber.ReadFrontBufferOff()
    grabber.ShouldRerenderOff()
    grabber.Update()
    image = grabber.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1]


SCALES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""mm of the bar, the longest that is not too long."""
BOX = {"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0}
"""Behind letters, so that they can be read on bright tissue."""


def _draw_scale(axis: Any, widest: float) -> None:
    """A bar of so many mm at the foot of a slice view."""
    scale = max((scale for scale in SCALES if scale <= widest / 3), default=SCALES[0])
    length = scale / widest * SIZE
    right, foot = SIZE - 10, SIZE - 12
    axis.autoscale(False)
    axis.plot([right - length, right], [foot, foot], color="black", linewidth=3)
    axis.plot([right - length, right], [foot, foot], color="white", linewidth=1.5)
    words, look = f"{scale:g} mm", {"color": "white", "fontsize": 7, "ha": "center", "va": "bottom"}
    axis.text(right - length / 2, foot - 5, words, bbox=BOX, **look)


def _compose(
    pictures: list[np.ndarray], path: Path, title: str, widest: float, names: list[tuple[str, tuple[float, ...]]]
) -> None:
    """Axial and 3D above, coronal and sagittal below, as Slicer's four-up layout has it.

    :param widest: mm across each slice view.
    :param names: and colours of what is outlined.
    """
    from matplotlib.figure import Figure

    from ..volumes.pictures import DPI, SIDES, draw_legend, legend_lines, save_figure

    axial, coronal, sagittal, three_d = pictures
    lines = textwrap.wrap(title, LETTERS, break_on_hyphens=False)
    # A pixel of a view is a pixel of the picture: resampled, it would lose whole rows, and lines with them.
    width = 2 * SIZE + GAP
    legend = legend_lines(names, width / DPI)
    below = 16 * len(legend)
    height = 2 * SIZE + GAP + 12 + 14 * max(len(lines), 1) + below
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="black")
    upper, right = SIZE + GAP, SIZE + GAP
    for picture, name, left, bottom in (
        (axial, "axial", 0, upper),
        (three_d, "3D", right, upper),
        (coronal, "coronal", 0, 0),
        (sagittal, "sagittal", right, 0),
    ):
        axis = figure.add_axes((left / width, (below + bottom) / height, SIZE / width, SIZE / height))
        axis.imshow(picture, interpolation="nearest", aspect="auto")
        axis.set_axis_off()
        axis.text(8, 22, name, color="white", fontsize=9)
        for side, anchor, letter in zip((8, SIZE - 8), ("left", "right"), SIDES.get(name, "")):
            axis.text(side, SIZE / 2, letter, color="white", fontsize=9, va="center", ha=anchor, bbox=BOX)
        if name == "axial":
            _draw_scale(axis, widest)
    draw_legend(figure, legend)
    figure.suptitle("\n".join(lines), color="white", fontsize=7, y=1 - 6 / height)
    save_figure(figure, path)
