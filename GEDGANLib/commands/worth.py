"""What the command ``evaluate`` begins with for a model of an alignment: are variations worth it for these data?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..jobs.events import Events
from .scans import tell_left_out

MOST = 60
"""Labelled cases that are looked at."""
MOST_VOXELS = {"cpu": 20_000, "mps": 100_000, "cuda": 500_000}
"""Of a case for these trainings, of which there are many."""
MINUTES = 15.0
"""That it takes about, unless something else is asked for."""
PUBLISHED = (
    "On public scans (hippocampi, voxels of 2 mm, one labelled, Testing/Benchmarks/results/augmentation.md) a U-Net "
    "gained 4 points of Dice over strong augmentation by variations, and 8 where scans that nobody has labelled took "
    "part (gedgan segment), over five choices of the labelled one."
)
"""What was measured with one labelled case: the arms `1:1`, `strong` and `carried, varied` of the table."""


def tell_worth(
    arguments: argparse.Namespace, model: Any, datasets: Sequence[Any], device: str, events: Events
) -> tuple[str, dict[str, Any]] | None:
    """A sentence for the report's beginning, and its figures; None where the model makes no segmentations."""
    from ..alignment.runs import model_and_run
    from ..quality.words import WORTH
    from ..quality.worth import FEWEST, Effort, measure_worth
    from ..segmentation.plan import plan_network
    from ..synthesis.teaching import Varied
    from ..synthesis.variations import Places, Variations
    from ..training.request import image_digest
    from ..volumes.labels import LabelTable
    from ..volumes.pipeline import load_case

    if not model.plan.labels:
        return None
    cases: list[Any] = []
    for dataset in datasets:
        labelled = [files for files in dataset.cases if files.label is not None][: MOST - len(cases)]
        table, known = LabelTable(dataset), {label.name for label in model.plan.labels}
        with events.bar("reading the labelled cases") as show:
            for number, files in enumerate(labelled):
                show(number, len(labelled), files.name)
                try:
                    case = load_case(files, dataset, tuple(model.plan.labels), table, known)
                except InputError as error:
                    tell_left_out(files.name, error, events)
                    continue
                if case.labels is not None and case.labels.any():
                    cases.append(case)
            show(len(labelled), len(labelled), "")
    run = model_and_run(model.path)[1]
    variations = Variations(model, None if run is None else Places.of(run))
    # The same scan in two folders would be learned from and tested on.
    by_digest = {image_digest(variations.working(case)): case for case in cases}
    digests, cases = list(by_digest), list(by_digest.values())
    if len(cases) < FEWEST:
        words = f"{WORTH} {len(cases)} labelled case(s) cannot tell; from {FEWEST} on they can. {PUBLISHED}"
        return words, {"verdict": "too few labelled cases", "cases": len(cases)}
    try:
        variations.among_modes(digests)
    except InputError as error:
        figures = {"verdict": "it cannot be told with this model", "cases": len(cases)}
        return f"{WORTH} it cannot be told with this model. {error.message}", figures
    plan = plan_network(model.plan, tuple(model.plan.labels), device, most=MOST_VOXELS[device])
    seconds = plan.seconds(device)
    effort = Effort.within(arguments.minutes or MINUTES, len(cases), seconds, plan.updates)
    spacing = " x ".join(f"{step:g}" for step in plan.spacing)
    print(
        f"What variations are worth: {effort.networks} small trainings of {effort.updates} updates at voxels of "
        f"{spacing} mm, about {max(effort.networks * effort.updates * seconds / 60, 1):.0f} minutes here; --minutes "
        "gives them more or less, --quick leaves them out."
    )
    if arguments.minutes and effort.networks * effort.updates * seconds > 90 * arguments.minutes:
        print(f"{arguments.minutes:g} minute(s) are too few: fewer or shorter trainings would tell nothing.")
    each = max(plan.variations // len(cases), 1)
    varied = [Varied(variations, case, plan, arguments.seed) for case in cases]

    def vary(index: int, without: frozenset[int]) -> list[Any]:
        left_out = variations.among_modes(digests[other] for other in without)
        make = varied[index].by_modes(left_out)
        return [make(number) for number in range(each)]

    examples = [scan.there.example() for scan in varied]
    with events.bar("measuring what variations are worth") as show:
        found = measure_worth(examples, vary, len(plan.labels), plan.recipe, effort, arguments.seed, device, show)
    return found.words, found.figures()
