"""The losses of a training in a plot chart of Slicer, brought up to date in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

COLUMNS = ("step", "discriminator", "generator", "gap")
COLOURS = ((0.12, 0.47, 0.71), (1.0, 0.5, 0.05), (0.45, 0.45, 0.45))
MOST_POINTS = 1000
"""Of a curve; beyond that every other point is left out."""


class Curves:
    """One chart; its nodes may vanish at any time, and are made anew."""

    def __init__(self) -> None:
        self._points: list[tuple[float, ...]] = []
        self._nodes: dict[str, Any] = {}
        self._every = 1
        self._count = 0

    def clear(self) -> None:
        """For another training."""
        self._points, self._every, self._count = [], 1, 0

    def add(self, event: dict) -> None:
        """Take a ``progress`` event of a training."""
        losses = event.get("losses") or {}
        values = (event.get("step"), losses.get("discriminator_loss"), losses.get("generator_loss"), losses.get("gap"))
        self._count += 1
        if self._count % self._every or any(value is None for value in values):
            return
        self._points.append(tuple(float(value) for value in values))
        if len(self._points) > MOST_POINTS:
            self._points, self._every = self._points[::2], 2 * self._every

    def draw(self, show: bool) -> None:
        """Bring the chart up to date; made where it is missing.

        :param show: bring it into the layout, which may change the layout.
        """
        if len(self._points) < 2:
            return
        values = np.array(self._points)
        table = self._nodes.get("table")
        if table is None or not slicer.mrmlScene.IsNodePresent(table):
            self._make(values)
            if show and slicer.app.layoutManager() is not None:
                slicer.modules.plots.logic().ShowChartInLayout(self._nodes["chart"])
            return
        slicer.util.updateTableFromArray(table, list(values.T), list(COLUMNS))
        self._nodes["chart"].Modified()

    def present(self) -> bool:
        table = self._nodes.get("table")
        return table is not None and bool(slicer.mrmlScene.IsNodePresent(table))

    def _make(self, values: np.ndarray) -> None:
        scene = slicer.mrmlScene
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", _("GED-GAN losses table"))
        chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", _("GED-GAN losses"))
        slicer.util.updateTableFromArray(table, list(values.T), list(COLUMNS))
        for column, colour in zip(COLUMNS[1:], COLOURS):
            series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", column)
            series.SetAndObserveTableNodeID(table.GetID())
            series.SetXColumnName(COLUMNS[0])
            series.SetYColumnName(column)
            # Scatter draws lines at their x; the type called line ignores it.
            series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
            series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleSolid)
            series.SetColor(*colour)
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
        chart.SetTitle(_("GED-GAN training"))
        chart.SetXAxisTitle(_("step"))
        chart.SetYAxisTitle(_("loss"))
        # Not kept with the scene: the run folder has all of it.
        for node in (table, chart, *(chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes()))):
            node.SetSaveWithScene(False)
        self._nodes = {"table": table, "chart": chart}
