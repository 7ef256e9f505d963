"""What the command ``atlas`` does with scans that are aligned."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..jobs.events import Events
from .options import a_path
from .scans import without_cases


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    atlas = kinds.add_parser("atlas", help="write template, transforms, Jacobians, volumes and scores of an alignment")
    atlas.add_argument("aligned", type=a_path, metavar="RUN", help="folder of a run of gedgan align")
    atlas.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder for the atlas")
    atlas.add_argument(
        "--cases", nargs="*", metavar="NAME", help="transforms of these alone, or of none, and no tables"
    )
    atlas.set_defaults(run=run_atlas)


def run_atlas(arguments: argparse.Namespace, events: Events) -> None:
    from ..alignment.job import Aligned
    from ..alignment.runs import REQUEST, RESULT, read_request
    from ..exchange.atlas import write_atlas
    from ..jobs.writing import new_folder
    from ..planning.plan import Plan
    from ..volumes.classes import read_columns

    run = arguments.aligned
    with new_folder(arguments.output) as folder:
        aligned = Aligned.load(run / RESULT)
        plan, asked = Plan.load(run / "plan.json"), read_request(run / REQUEST)
        chosen = _chosen(arguments.cases, aligned)
        cases = _prepared(run, plan, asked, events)
        scores = _scores_of(run, cases, aligned, asked, events) if arguments.cases is None else None
        data = Path(asked["data"])
        columns = read_columns(data, list(aligned.names)) if data.is_dir() else {}
        with events.bar("writing the atlas") as show:
            write_atlas(folder, aligned, cases, plan, scores, columns, chosen, show)
    tables = ", volumes.csv and scores.csv" if arguments.cases is None else ""
    print(
        f"The atlas of {len(aligned.names)} case(s) is in {arguments.output}: template and probabilities, transforms, "
        f"jacobians{tables}."
    )


def _chosen(names: list[str] | None, aligned: Any) -> list[int] | None:
    """Indices of the cases whose transforms are asked for; None for all and everything.

    :raises InputError: there is no such case.
    """
    if names is None:
        return None
    for name in names:
        if name not in aligned.names:
            raise InputError(f"No aligned case is called {name}.", f"There are {', '.join(aligned.names[:5])} …")
    return [aligned.names.index(name) for name in names]


def _prepared(run: Path, plan: Any, asked: dict[str, Any], events: Events) -> Any:
    """The cases on the working grid; read anew where their folder was deleted.

    :raises InputError: they are not those that were aligned any more.
    """
    from ..training.request import PREPARED, digests_of, what_changed
    from ..volumes.prepared import PreparedCases, prepare_cases

    try:
        return PreparedCases(run / PREPARED)
    except (InputError, OSError, ValueError, KeyError):
        pass
    from ..volumes.dataset import as_planned, find_dataset

    dataset = as_planned(find_dataset(Path(asked["data"]), asked["class_column"]), plan)
    dataset = without_cases(dataset, asked["left_out"])
    with events.bar("bringing the cases to one grid") as show:
        cases = prepare_cases(dataset, plan, run / PREPARED, show)
    if changes := what_changed(asked["cases"], digests_of(cases)):
        raise InputError(f"The scans of {run} are not those that were aligned: {changes}.", "Align them anew.")
    return cases


def _scores_of(run: Path, cases: Any, aligned: Any, asked: dict[str, Any], events: Events) -> Any | None:
    """Scores of all cases, (N, K), by the model of the alignment or of that whose template they were brought onto; None
    where there is no such model."""
    import numpy as np
    import torch

    from ..alignment.job import fields_of_view
    from ..alignment.runs import statistical_model
    from ..synthesis.model_file import load_model
    from ..synthesis.onto_template import TemplateProjector

    path = statistical_model(run if asked["onto"] is None else Path(asked["onto"]))
    if not path.exists():
        return None
    model = load_model(path, "cpu", with_population=True)
    known = model.about.get("population", {}) if asked["onto"] is None else {}
    kept = dict(zip(known.get("names", ()), model.population["scores"].numpy())) if known else {}
    projector, rows = TemplateProjector(model), []
    with events.bar("finding scores") as show:
        for index, case in enumerate(cases):
            show(index, len(cases), case.name)
            if case.name in kept:
                rows.append(kept[case.name])
                continue
            image = torch.from_numpy(np.array(case.image, np.float32))[None]
            box = fields_of_view([case], model.plan.extent)
            rows.append(projector.scores(aligned.moved.of([index]), image, box)[0].numpy())
        show(len(cases), len(cases), "")
    return np.stack(rows)
