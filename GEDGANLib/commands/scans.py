"""Scans that commands are given: found, read, and warned of where they are of another kind."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..jobs.events import Events


def find_for(model: Any, folder: Path) -> Any:
    """The data set in a folder, its classes read from the column that told them when the model was trained, if that
    is there."""
    from ..volumes.dataset import as_planned, find_dataset

    column = model.plan.data.get("class_column")
    try:
        return as_planned(find_dataset(folder, column), model.plan)
    except InputError:
        if column is None:
            raise
        return as_planned(find_dataset(folder), model.plan)


def as_wished(dataset: Any, arguments: argparse.Namespace) -> Any:
    """A data set as the options say: its channels have the names that are given (of single files with a fourth axis
    there are so many channels), of its segmentations the structures that are given are wanted, or all are one.

    :raises InputError: it has other channels.
    """
    from ..volumes.dataset import with_structures

    dataset = with_structures(dataset, arguments.structures, arguments.one_structure)
    names = arguments.channels
    if names is None:
        return dataset
    if len(names) != len(dataset.channel_names) and any(len(case.images) > 1 for case in dataset.cases):
        raise InputError(
            f"{dataset.folder} has {len(dataset.channel_names)} channel(s), and {len(names)} names are given for them.",
            "Give a name for each, in their order.",
        )
    return replace(dataset, channel_names=tuple(names))


def refuse_unknown_structures(dataset: Any, fingerprint: Any) -> None:
    """:raises InputError: a structure is wanted that no segmentation has."""
    names = [label.name for label in fingerprint.labels]
    if dataset.wanted_labels is None or not (missing := sorted(dataset.wanted_labels - set(names))):
        return
    raise InputError(
        f"{dataset.folder} has no structure called {', '.join(missing)}.",
        f"Its segmentations hold {', '.join(sorted({*names, *fingerprint.other_labels})) or 'nothing'}.",
    )


def without_cases(dataset: Any, names: list[str]) -> Any:
    """A data set without the cases of these names."""
    return replace(dataset, cases=tuple(case for case in dataset.cases if case.name not in set(names)))


def names_in(dataset: Any, asked: Sequence[str]) -> list[str]:
    """Names of cases of a data set in full.

    :param asked: names, or ends of names that no other case has.
    :raises InputError: one of them is not there.
    """
    names = []
    for word in asked:
        found = [case.name for case in dataset.cases if case.name == word]
        found = found or [case.name for case in dataset.cases if case.name.endswith(word)]
        if len(found) != 1:
            many = f"more than one case whose name ends in {word}: {', '.join(found)}" if found else f"no case {word}"
            raise InputError(
                f"{dataset.folder} has {many}.", "Name cases as their files are named, without the ending."
            )
        names += found
    return names


def labels_for(dataset: Any, folder: Path, events: Events) -> dict[str, str]:
    """Files with more segmentations of the scans of a data set, by their names. Such as carry or segment made, and
    nobody has changed since, are left out: nobody drew them.

    :param folder: of files that are named as the scans are; or with a folder ``labels`` or ``labelsTr`` of such files.
    :raises InputError: it holds none.
    """
    from ..volumes.files import stem_of

    places = [place for place in (folder, folder / "labels", folder / "labelsTr") if place.is_dir()]
    found = {stem_of(path): path for place in places for path in sorted(place.iterdir()) if path.is_file()}
    names = {files.name for files in dataset.cases} & found.keys()
    told = {parent: _digests_as_made(parent) for parent in {found[name].parent for name in names}}
    made = {name for name in names if _as_made(found[name], told[found[name].parent].get(name))}
    if made:
        message = f"{len(made)} segmentation(s) in {folder} are as they were made, and are not learned from."
        events.emit("warning", message=message)
    if not names - made:
        raise InputError(
            f"{folder} has no segmentation of a scan of {dataset.folder} that somebody has drawn or corrected.",
            "Correct one of them first." if made else "Name them as the scans are named, scan.nii.gz for example.",
        )
    return {name: str(found[name].resolve()) for name in sorted(names - made)}


def with_labels(dataset: Any, labels: Mapping[str, str]) -> Any:
    """A data set with other segmentations, by the names of its scans, in place of those that these have."""
    return replace(
        dataset,
        cases=tuple(
            replace(files, label=Path(labels[files.name])) if files.name in labels else files for files in dataset.cases
        ),
    )


def _digests_as_made(folder: Path) -> dict[str, str]:
    """Of the segmentations in a folder that a command made, as they were then, by their names."""
    for place in (folder, folder.parent):
        with suppress(OSError, ValueError, AttributeError, TypeError):
            told = json.loads((place / "provenance.json").read_text("utf-8"))
            told = told.get("cases", told)
            return {name: origin["labels_digest"] for name, origin in told.items() if "labels_digest" in origin}
    return {}


def _as_made(path: Path, digest: str | None) -> bool:
    """Whether a segmentation is what it was when it was made, with this digest; None where nobody made it."""
    from ..volumes.case import labels_digest
    from ..volumes.files import read_volume

    if digest is None:
        return False
    try:
        return digest == labels_digest(read_volume(path).array)
    except InputError:
        return False


def tell_left_out(name: str, error: InputError, events: Events) -> None:
    """Warn of a case that a command goes on without."""
    events.emit("warning", message=f"{name} is left out: {error.message} {error.hint}")


def read_scan(path: Path, channel_names: Sequence[str], events: Events):
    """A volume, or a folder of DICOM slices, as a case of these channels without labels.

    :raises InputError: it cannot be used.
    """
    import numpy as np

    from ..volumes.case import Case
    from ..volumes.files import read_volume, stem_of
    from ..volumes.reading import check_voxels, looks_like_labels

    volume = read_volume(path, len(channel_names))
    image = volume.array if volume.array.ndim == 4 else volume.array[None]
    for voxels in image:
        check_voxels(path, voxels)
    if volume.segments or looks_like_labels(volume.array, volume.array.dtype.name):
        events.emit("warning", message=f"{path} looks like a segmentation, and not like a scan.")
    return Case(stem_of(path), image.astype(np.float32), None, volume.affine, channel_names=tuple(channel_names))


def refuse_labels(path: Path, image: Any, kind: str) -> None:
    """Refuse a segmentation that was given as a scan.

    :param kind: type of the voxels in the file, as numpy names it.
    :raises InputError: it is one.
    """
    from ..volumes.reading import looks_like_labels

    if looks_like_labels(image, kind):
        raise InputError(
            f"{path} looks like a segmentation, and not like a scan.",
            "Give the folder that holds the scans with their segmentations (imagesTr and labelsTr, say).",
        )


OTHER_SIZE = 2.0
"""How many times larger or smaller than a model's scans one is, along an axis, that is probably of another kind."""


def warn_of_other_kind(name: object, shape: Sequence[int], affine: Any, plan: Any, events: Events) -> None:
    """Warn of a scan whose size is not that of the scans a model learned from.

    :param name: of the scan, or its path.
    :param shape, affine: of its grid, voxels along its own axes.
    """
    import numpy as np

    from ..volumes.geometry import spacing_of, to_closest_ras

    nothing, affine = to_closest_ras(np.broadcast_to(np.float32(0), (1, *shape)), affine)
    own = np.array(nothing.shape[1:]) * spacing_of(affine)
    # The grid may be of what is in the scans alone.
    usual = np.array(plan.grid.shape) * plan.grid.spacing
    if plan.data.get("median_shape") and plan.data.get("median_spacing"):
        usual = np.maximum(usual, np.array(plan.data["median_shape"]) * plan.data["median_spacing"])
    if (own > OTHER_SIZE * usual).any() or (usual > OTHER_SIZE * own).any():
        sizes = [" x ".join(f"{side:.0f}" for side in sides) for sides in (own, usual)]
        message = f"{name} reaches {sizes[0]} mm, the model's scans about {sizes[1]} mm: is it a scan of their kind?"
        events.emit("warning", message=message)


def print_fingerprint(fingerprint: Any, folder: Path) -> None:
    """A table of what a data set holds."""
    from collections import Counter

    import numpy as np
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    cases = fingerprint.cases
    shapes, spacings = np.array([case.shape for case in cases]), np.array([case.spacing for case in cases])
    labelled = sum(case.labelled for case in cases)
    verdict = "all can be used, with warnings" if fingerprint.warnings else "all good"
    table = Table(title=f"{folder}: {len(cases)} cases, {labelled} with segmentation, {verdict}", title_justify="left")
    for heading in ("", "smallest", "median", "largest"):
        table.add_column(heading)
    for words, values in (("voxels", shapes), ("spacing, mm", spacings)):
        numbers = (values.min(0), np.median(values, axis=0), values.max(0))
        table.add_row(words, *(" x ".join(f"{x:.4g}" for x in row) for row in numbers))
    for index, name in enumerate(fingerprint.channel_names):
        _lows, highs = np.array([case.percentiles[index] for case in cases]).T
        table.add_row(f"{name}, 99.5th percentile", *(f"{x:.4g}" for x in (highs.min(), np.median(highs), highs.max())))
    for label in fingerprint.labels:
        voxels = np.array([case.label_voxels.get(label.name, 0) for case in cases if case.labelled])
        row = (voxels.min(), np.median(voxels), voxels.max())
        unnamed = label.name == f"label {label.value}"
        name = label.name if unnamed else f"label {label.value} {label.name}"
        table.add_row(f"{name}, voxels", *(f"{x:.0f}" for x in row))
    console.print(table)
    classes = Counter(case.class_name or "not known" for case in cases)
    if set(classes) != {"not known"}:
        console.print("Classes: " + ", ".join(f"{name} {count}" for name, count in sorted(classes.items())))
