"""What a worker wrote into its folder -> cases and maps for the scene: synthesized cases, previews, projections,
what was aligned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..exchange.atlas import template_files
from ..planning.plan import Plan
from ..volumes.case import (
    Case,
    description_of_carried,
    description_of_segmented,
    description_of_simulation,
    description_of_variation,
)
from ..volumes.dataset import as_planned, find_dataset
from ..volumes.files import SEGMENTATION_SUFFIX, read_volume
from ..volumes.labels import LabelTable
from ..volumes.pipeline import load_case
from ..volumes.reading import read_case
from .nodes import add_map


def cases_in_folder(folder: Path, plan: Plan) -> Iterator[Case]:
    """Yield the cases that ``gedgan synthesize`` wrote, one by one, with the label colours of the model and the origin
    of each.

    :param plan: of the model that made them.
    :raises InputError: the folder was changed meanwhile.
    """
    dataset = find_dataset(folder)
    try:
        origins = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        origins = {}
    table, known = LabelTable(dataset), {label.name for label in plan.labels}
    for files in dataset.cases:
        case = load_case(files, dataset, tuple(plan.labels), table, known)
        yield replace(case, provenance={"synthetic": True, **origins.get(case.name, {})})


def made_of_scene(folder: Path, segmentations: Sequence[Any], name: str | None = None) -> Iterator[Case]:
    """Yield what ``gedgan augment``, ``carry``, ``segment`` or ``simulate`` wrote of scans of the scene, one by one.

    :param segmentations: nodes of the scans, for the colours of labels.
    :param name: of the case that alone is wanted.
    :raises InputError: the folder was changed meanwhile.
    """
    dataset = find_dataset(folder)
    told = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    origins, known = told.get("cases", told), {}
    if "cases" in told:  # plain files, whose labels are named here
        dataset = replace(dataset, label_names={int(value): name for name, value in told["labels"].items()})
    for node in segmentations:
        segmentation = node.GetSegmentation()
        for position in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(position)
            known[segment.GetName()] = tuple(float(part) for part in segment.GetColor())
    table = LabelTable(dataset)
    for files in dataset.cases:
        table.add(read_case(files, dataset), files.label)
    labels = tuple(replace(label, color=known.get(label.name, label.color)) for label in table.labels())
    for files in dataset.cases:
        if name not in (None, files.name):
            continue
        case = load_case(files, dataset, labels, table, {label.name for label in labels})
        origin = origins.get(case.name, {})
        yield replace(case, provenance=origin, description=_about(case, origin))


def simulated_of(case: Case, scan: str, name: str) -> Case:
    """A deformed scan, of a scan by the name that it has in the scene: a process knows it by that of a file.

    :param name: of the deformed one.
    """
    origin = case.provenance | {"simulated_from": scan}
    return replace(case, name=name, provenance=origin, description=description_of_simulation(scan))


def _about(case: Case, origin: dict[str, Any]) -> str:
    """What a case made of a scan says of itself."""
    if "variation_of" in origin:
        return description_of_variation(origin["variation_of"])
    if "simulated_from" in origin:
        return description_of_simulation(origin["simulated_from"])
    if "segmentation_carried_from" in origin:
        return description_of_carried(case.name, origin["segmentation_carried_from"])
    if "segmented_by" in origin:
        return description_of_segmented(case.name)
    return case.description


def preview_cases(run: Path) -> list[Case]:
    """The newest preview of a training, and a real case beside it: ``preview synthesized`` and ``preview real``.

    :param run: folder of the run.
    :raises InputError: there is no preview yet, or it cannot be read.
    """
    labels = tuple(Plan.load(run / "plan.json").labels)
    cases = []
    for kind in ("synthesized", "real"):
        image = read_volume(run / "preview" / f"{kind}.nrrd")
        segmentation = run / "preview" / f"{kind}{SEGMENTATION_SUFFIX}"
        voxels = read_volume(segmentation).array if segmentation.is_file() else None
        cases.append(Case(f"preview {kind}", image.array[None], voxels, image.affine, labels))
    return cases


def add_projection(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put the maps that ``gedgan project`` wrote into ``slicer.mrmlScene``.

    :param name: of the volume, for the names of the nodes.
    :returns: volume nodes by the name of the map (``nearest``, ``residual``, ``anomaly``), and what stands in
        ``projection.json``: ``explained`` (share, 0 to 1) and ``latent``.
    :raises InputError: a map cannot be read.
    """
    nodes = {}
    for path in sorted(folder.glob("*.nrrd")):
        if path.stem != "nearest-segmentation":
            found = read_volume(path)
            nodes[path.stem] = add_map(f"{name} {path.stem}", found.array, found.affine)
    return nodes, json.loads((folder / "projection.json").read_text(encoding="utf-8"))


def template_case(atlas: Path, plan: Plan) -> Case:
    """The template that ``gedgan atlas`` wrote, with its most probable labels.

    :raises InputError: a file cannot be read.
    """
    volumes = [read_volume(atlas / name) for name in template_files(plan)]
    segmentation = atlas / f"template-segmentation{SEGMENTATION_SUFFIX}"
    labels = read_volume(segmentation).array if segmentation.is_file() else None
    image = np.stack([volume.array for volume in volumes])
    names = tuple(channel.name for channel in plan.channels)
    about = f"Mean of aligned scans, made by GED-GAN; no patient. Of: {plan.description or 'unnamed scans'}"
    return Case("template", image, labels, volumes[0].affine, tuple(plan.labels), names, about)


def scan_of_run(run: Path, name: str, plan: Plan) -> Case:
    """One of the scans that a run of ``gedgan align`` was made of, as it is in its folder.

    :raises InputError: it is not there any more, or cannot be read.
    """
    try:
        asked = json.loads((run / "align.json").read_text(encoding="utf-8"))
        dataset = as_planned(find_dataset(Path(asked["data"]), asked["class_column"]), plan)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run} does not say which scans were aligned.", "Align them again.") from error
    files = next((files for files in dataset.cases if files.name == name), None)
    if files is None:
        raise InputError(f"{name} is not in {dataset.folder} any more.", "Bring it back, or align the others anew.")
    return load_case(files, dataset, tuple(plan.labels), LabelTable(dataset), {label.name for label in plan.labels})


def add_transform(atlas: Path, name: str) -> Any:
    """Put the displacement field that brings a case onto the template into ``slicer.mrmlScene``; returns the transform
    node, to be put above whatever lies in the case's space.

    :param atlas: folder that ``gedgan atlas`` wrote.
    :raises InputError: it cannot be read.
    """
    import slicer

    path = atlas / "transforms" / f"{name}_to-template.nii.gz"
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", f"{name} to template")
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    if not path.is_file() or not storage.ReadData(node):
        slicer.mrmlScene.RemoveNode(node)
        raise InputError(f"{path} cannot be read as a transform.", "Press the button again.")
    return node
