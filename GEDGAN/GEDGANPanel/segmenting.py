"""Segmentations that are carried, and scans that are deformed to an edit, in steps: for scripts and for the panel.

Each is a generator of (share done or None, words). Where PyTorch does not run in Slicer, a command of the library does
the same, with files of what the scene holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from .batches import in_scene
from .engine import explained
from .scene_cases import CARRIED, EDIT, SEGMENTED

Scan = tuple[Sequence[Any], "Any | None"]
"""Volume nodes, one a channel, and the segmentation node, of a scan."""
TRUST = "GEDGAN.trust"


def told(steps: Iterator[Any], words: str, begin: float = 0.0, part: float = 1.0) -> Iterator[tuple[float | None, str]]:
    """Go through steps of (done, total), or of the share that is done, as a part of steps of (share done, words);
    returns what they return."""
    while True:
        try:
            with explained():
                said = next(steps)
        except StopIteration as stop:
            return stop.value
        share = said[0] / max(said[1], 1) if isinstance(said, tuple) else said
        yield begin + part * share, words


def opening(engine: Any, model: Path, device: str) -> Iterator[tuple[float | None, str]]:
    """Load the model of an alignment; returns a ``GEDGANLib.synthesis.variations.Variations``.

    :param model: folder of an alignment, or a model of one.
    :raises EngineUnavailable: not in this process.
    """
    from GEDGANLib.alignment.runs import model_and_run

    path, run = model_and_run(Path(model))
    for words in engine.loading(path, device):
        yield None, words
    from GEDGANLib.synthesis.variations import Places, Variations

    with explained():
        return Variations(engine.model, None if run is None else Places.of(run))


def carrying(
    engine: Any, sources: Sequence[Scan], targets: Sequence[Sequence[Any]], model: Path, device: str, added: Any
) -> Iterator[tuple[float | None, str]]:
    """Carry segmentations of the scene; returns the new segmentation nodes, one a target.

    :param sources: scans that are segmented.
    :param targets: volume nodes of each scan to carry to.
    :param model: folder of an alignment, or a model of one.
    :param added: called with each new node and the volume that it is of.
    :raises EngineUnavailable: not in this process.
    """
    variations = yield from opening(engine, model, device)
    from GEDGANLib.scene.read import case_from_scene
    from GEDGANLib.synthesis.carried import Carrier, numbered_alike

    with explained():
        given, labels = numbered_alike([case_from_scene(volumes, segmentation) for volumes, segmentation in sources])
        carrier = Carrier(variations, labels)
    laid, total = [], len(given) + len(targets)
    for number, case in enumerate(given):
        words = _("Bringing {name} onto the template").format(name=case.name)
        laid.append((yield from told(carrier.laying(case), words, number / total, 1 / total)))
    yield from told(carrier.taking(laid), _("Learning how to weigh the scans"), len(given) / total, 0.0)
    nodes = []
    for number, volumes in enumerate(targets, len(given)):
        if not all(map(in_scene, volumes)):  # it was taken out meanwhile
            continue
        with explained():
            case = case_from_scene(volumes)
        words = _("Carrying to {name}").format(name=case.name)
        place = yield from told(carrier.laying(case), words, number / total, 0.5 / total)
        made = yield from told(carrier.carrying(case, place), words, (number + 0.5) / total, 0.5 / total)
        if in_scene(volumes[0]):
            nodes.append(add_carried(made.case, volumes[0]))
            added(nodes[-1], volumes[0])
    return nodes


def add_carried(case: Any, volume: Any) -> Any:
    """Put a segmentation that was carried to a volume, or made for it by a network, beside that, hidden."""
    from GEDGANLib.scene.nodes import add_segmentation

    sources = case.provenance.get("segmentation_carried_from")
    if sources is None:
        name = _("{name}, segmented by a network").format(name=volume.GetName())
    elif len(sources) == 1:
        name = _("{name}, carried from {source}").format(name=volume.GetName(), source=sources[0])
    else:
        name = _("{name}, carried from {source} and others").format(name=volume.GetName(), source=sources[0])
    node = add_segmentation(case, volume, name)
    node.GetDisplayNode().SetVisibility(False)
    return node


def carry_command(
    sources: Sequence[Scan], targets: Sequence[Sequence[Any]], model: Path, device: str, data: Path, folder: Path
) -> tuple[list[Any], dict[str, Any]]:
    """Write scans of the scene into ``data``; returns the command that carries into ``folder``, and the first volume of
    each target by the name that it has there.

    :raises InputError: one of them cannot be used.
    """
    names, wanted = _written(sources, targets, data)
    arguments = ["carry", model, data, data, "-o", folder, "--device", device, "--source", *names[: len(sources)]]
    return [*arguments, "--case", *wanted], wanted


def _written(sources: Sequence[Scan], targets: Sequence[Sequence[Any]], data: Path) -> tuple[list[str], dict[str, Any]]:
    """Write scans of the scene; returns the names that they have there, sources first, and the first volume of each
    target by that name."""
    from GEDGANLib.scene.gather import Ticked, write_scene_cases

    scans = [*sources, *((volumes, None) for volumes in targets)]
    ticked = [Ticked(volumes[0], labels, None, tuple(volumes[1:])) for volumes, labels in scans]
    names = write_scene_cases(ticked, data)
    return names, dict(zip(names[len(sources) :], (volumes[0] for volumes in targets)))


def segment_command(
    sources: Sequence[Scan], targets: Sequence[Sequence[Any]], run: Path | None, device: str, data: Path, folder: Path
) -> tuple[list[Any], dict[str, Any]]:
    """Write scans of the scene into ``data``; returns the command that segments the rest of them into ``folder``, and
    the first volume of each target by the name that it has there.

    :param run: of the alignment of such scans; they are aligned on the way when not given.
    :raises InputError: one of them cannot be used.
    """
    _names, wanted = _written(sources, targets, data)
    return segment_arguments(data, run, device, folder), wanted


def segment_arguments(data: Path, run: Path | None, device: str, folder: Path, labels: Path | None = None) -> list[Any]:
    """The command that segments the rest of a folder of scans.

    :param labels: folder of more segmentations of these scans.
    """
    arguments = ["segment", data, "-o", folder, "--device", device]
    arguments += [] if run is None else ["--run", run]
    return arguments if labels is None else [*arguments, "--labels", labels]


def write_accepted(rows: dict[str, Any], folder: Path) -> Path | None:
    """Write segmentations of the scene that were accepted for scans that are files, as they are now; None where none
    is there any more.

    :param rows: with their nodes, by the names of the scans.
    :raises InputError: one of them cannot be written.
    """
    from GEDGANLib.scene.gather import write_segmentation_of

    there = {name: row for name, row in rows.items() if in_scene(row.volume) and in_scene(row.segmentation)}
    for name, row in there.items():
        write_segmentation_of(row.volume, row.segmentation, name, folder)
    return folder if there else None


def loading_carried(
    folder: Path, volumes: dict[str, Any], segmentations: Sequence[Any], added: Any
) -> Iterator[tuple[float | None, str]]:
    """Put what ``gedgan carry`` or ``gedgan segment`` wrote into the scene; returns the new segmentation nodes.

    :param volumes: by the names of the cases.
    :param segmentations: that were carried, for the colours of labels.
    """
    from GEDGANLib.scene.worker_output import made_of_scene

    nodes = []
    for case in made_of_scene(folder, segmentations):
        volume = volumes.get(case.name)
        if in_scene(volume):
            nodes.append(add_carried(case, volume))
            added(nodes[-1], volume)
        yield len(nodes) / len(volumes), case.name
    return nodes


def accept(segmentation: Any) -> None:
    """Take a carried segmentation as one that somebody drew: what is learned from."""
    for name in list(segmentation.GetAttributeNames() or ()):
        if name.startswith("GEDGAN."):
            segmentation.RemoveAttribute(name)
    segmentation.SetDescription("")


def trust_of(segmentation: Any) -> float:
    """How far a carried segmentation can be trusted, in [0, 1]; 1 where it does not say."""
    with suppress(TypeError, ValueError):
        return float(segmentation.GetAttribute(TRUST))
    return 1.0


def is_carried(segmentation: Any) -> bool:
    """Whether nobody drew it."""
    return bool(segmentation.GetAttribute(CARRIED) or segmentation.GetAttribute(SEGMENTED))


def edit_copy(segmentation: Any, volume: Any) -> Any:
    """A copy of a segmentation, to be edited, in the geometry of its volume."""
    name = _("{name}, edited").format(name=segmentation.GetName())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.GetSegmentation().DeepCopy(segmentation.GetSegmentation())
    if segmentation.GetParentTransformNode() is not None:
        node.SetAndObserveTransformNodeID(segmentation.GetParentTransformNode().GetID())
    node.SetAttribute(EDIT, "yes")  # nobody learns from a wish
    if volume is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node


def simulating(
    engine: Any, volumes: Sequence[Any], segmentation: Any, edited: Any, free: Sequence[str] | None,
    reach: float | None, device: str,
) -> Iterator[tuple[float | None, str]]:  # fmt: skip
    """Deform a scan of the scene to an edit; returns a ``GEDGANLib.synthesis.simulated.Simulation``.

    :raises EngineUnavailable: not in this process.
    """
    for words in engine.starting():
        yield None, words
    from GEDGANLib.scene.read import case_from_scene
    from GEDGANLib.synthesis import simulated

    with explained():
        before, after = (case_from_scene(volumes, node) for node in (segmentation, edited))
        steps = simulated.simulating(before, after, free, reach, device)
    return (yield from told(steps, _("Deforming {name}").format(name=before.name)))


def simulate_command(
    volumes: Sequence[Any], segmentation: Any, edited: Any, free: Sequence[str] | None, reach: float | None,
    device: str, data: Path, folder: Path,
) -> list[Any]:  # fmt: skip
    """Write a scan of the scene and its two segmentations into ``data``; returns the command that deforms it into
    ``folder``.

    :raises InputError: one of them cannot be used.
    """
    from GEDGANLib.scene.gather import Ticked, write_scene_cases

    places = [data / part for part in ("before", "after")]
    for place, node in zip(places, (segmentation, edited)):
        (name,) = write_scene_cases([Ticked(volumes[0], node, None, tuple(volumes[1:]))], place)
    images = sorted((places[0] / "imagesTr").iterdir())
    labels = [place / "labelsTr" / f"{name}.nii.gz" for place in places]
    arguments = ["simulate", images[0], *labels, "-o", folder, "--device", device]
    arguments += ["--channel", *images[1:]] if images[1:] else []
    arguments += ["--reach", reach] if reach is not None else []
    return [*arguments, *(["--free", *(free or ())] if free is None or free else [])]


def add_simulated(case: Any, volume: Any) -> Any:
    """Put a deformed scan and its segmentation into the scene; returns its nodes."""
    from GEDGANLib.scene.nodes import add_case
    from GEDGANLib.scene.worker_output import simulated_of

    name = volume.GetName()
    return add_case(simulated_of(case, name, _("{name} deformed to an edit").format(name=name)))


def load_simulated(folder: Path, edited: Any) -> Any:
    """What ``gedgan simulate`` wrote, as a case.

    :param edited: segmentation node, for the colours of labels.
    """
    from GEDGANLib.scene.worker_output import made_of_scene

    (case,) = made_of_scene(folder, [edited])
    return case
