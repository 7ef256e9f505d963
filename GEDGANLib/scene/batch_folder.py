"""What a worker synthesized, from its folder on disk -> cases for the scene."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..plan import Plan
from ..volumes.case import Case
from ..volumes.dataset import find_dataset
from ..volumes.labels import LabelTable
from ..volumes.pipeline import load_case


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
