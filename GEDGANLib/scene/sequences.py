"""A series of cases as a sequence that Slicer plays: one volume and one segmentation that change with a slider."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..volumes.case import Case
from .nodes import add_case, batch


@dataclass
class SequenceNodes:
    """The nodes of a series in the scene.

    :param browser: what the Sequences toolbar plays.
    :param sequences: one a volume channel and, last, one of the segmentation, if there is one.
    """

    browser: Any
    sequences: list[Any]

    def proxies(self) -> list[Any]:
        """The nodes that show the item the browser is at; volumes first."""
        return [self.browser.GetProxyNode(sequence) for sequence in self.sequences]


def shown_item(volume: Any) -> str:
    """Which item of a series a volume shows, "volume of Anterior 1.5 SD"; "" where it belongs to none."""
    import slicer

    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForProxyNode(volume)
    if browser is None:
        return ""
    master = browser.GetMasterSequenceNode()
    value = master.GetNthIndexValue(browser.GetSelectedItemNumber())
    return " ".join(part for part in (master.GetIndexName(), value, master.GetIndexUnit()) if part)


def add_sequence(cases: Iterable[tuple[float, Case]], name: str, index_name: str, unit: str = "") -> SequenceNodes:
    """Add a series to ``slicer.mrmlScene``, at its middle item.

    :param cases: what each case is indexed by, rising, and the case; all of one form.
    :param index_name: what the index is, "volume of Anterior" for example.
    :param unit: of the index.
    """
    import slicer

    scene = slicer.mrmlScene
    with batch(scene):
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", name)
        sequences: list[Any] = []
        windows: list[tuple[float, float]] = []
        count = 0
        for value, case in cases:
            nodes = add_case(case)
            parts = [*nodes.volumes, *([nodes.segmentation] if nodes.segmentation is not None else [])]
            if not sequences:
                displays = [volume.GetDisplayNode() for volume in nodes.volumes]
                windows = [(display.GetWindowLevelMin(), display.GetWindowLevelMax()) for display in displays]
                words = [*(f"{name} {channel}" for channel in case.channel_names), f"{name} segmentation"]
                for part, its_name in zip(parts, words):
                    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", its_name)
                    sequence.SetIndexName(index_name)
                    sequence.SetIndexUnit(unit)
                    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
                    sequence.SetDescription(part.GetDescription() or "")
                    browser.AddSynchronizedSequenceNodeID(sequence.GetID())
                    browser.SetOverwriteProxyName(sequence, False)
                    sequences.append(sequence)
            for part, sequence in zip(parts, sequences):
                sequence.SetDataNodeAtValue(part, f"{value:g}")
                # The sequence keeps a copy; the scene would be full of single items.
                display = part.GetDisplayNode()
                scene.RemoveNode(part)
                if display is not None:
                    scene.RemoveNode(display)
            count += 1
        browser.SetSelectedItemNumber(count // 2)
    # Makes the proxies and brings them to the chosen item.
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    result = SequenceNodes(browser, sequences)
    proxies = result.proxies()
    for proxy in proxies:
        proxy.CreateDefaultDisplayNodes()
    if proxies and proxies[-1].IsA("vtkMRMLSegmentationNode"):  # so that others find both together, as any case
        proxies[-1].SetReferenceImageGeometryParameterFromVolumeNode(proxies[0])
    # One window for all items, or brightness would not tell anything.
    for proxy, (low, high) in zip(result.proxies(), windows):
        proxy.GetDisplayNode().SetAutoWindowLevel(False)
        proxy.GetDisplayNode().SetWindowLevelMinMax(low, high)
    return result
