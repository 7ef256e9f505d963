"""What ``gedgan align`` shows of its cases: the sheet, the table; and one run of all shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..alignment.runs import REQUEST, RESULT, read_request
from ..errors import InputError
from ..jobs.events import Events
from ..jobs.writing import write_bytes

SHEET, TABLE, COLUMNS, MOST_SHOWN = "aligned.png", "aligned.csv", 8, 200
LETTERS_SHOWN = 18


def write_sheet(path: Path, cases: Any, aligned: Any, plan: Any, progress: Callable[..., Any]) -> None:
    """All cases on the template, the worst first, each with its figure; coarsely where they are large, as all of them
    are in memory here."""
    import numpy as np
    import torch
    from torch.nn import functional

    from ..alignment.job import registration_shape, shrunk
    from ..alignment.sampling import sample_image
    from ..volumes.case import Case
    from ..volumes.pictures import contact_sheet

    template, extent = aligned.template, aligned.moved.extent
    shape = registration_shape(plan.grid.shape, extent, "cpu")
    affine = plan.grid.at(shape).affine
    labels = None
    if template.labels is not None:
        labels = functional.interpolate(template.labels[None], shape, mode="area")[0].argmax(0).cpu().numpy()
        labels = labels.astype(np.uint8)

    def case_of(name: str, image: torch.Tensor) -> Case:
        return Case(name, image.cpu().numpy()[:1], labels, affine, tuple(plan.labels))

    order = sorted(range(len(cases)), key=lambda index: aligned.qualities[index].similarity)[:MOST_SHOWN]
    coarse = functional.interpolate(template.image[None], shape, mode="area")[0]
    shown, headings = [case_of("template", coarse)], ["template"]
    for number, index in enumerate(order):
        progress(number, len(order), cases[index].name)
        positions = aligned.moved.of([index]).positions(shape)
        image = sample_image(shrunk([cases[index]], shape, str(positions.device)), positions, extent)[0]
        shown.append(case_of(cases[index].name, image))
        name = cases[index].name
        name = name if len(name) <= LETTERS_SHOWN else f"…{name[-LETTERS_SHOWN:]}"
        headings.append(f"{name} {aligned.qualities[index].similarity:.2f}")
    progress(len(order), len(order), "")
    groups = [
        ("", shown[start : start + COLUMNS], headings[start : start + COLUMNS])
        for start in range(0, len(shown), COLUMNS)
    ]
    title = "On the template, the worst first: mean local correlation with it. Outlines: the template's labels."
    contact_sheet(path, [(name, group) for name, group, _ in groups], title, [words for *_, words in groups])


def write_table(path: Path, aligned: Any) -> None:
    """How well each case lies on the template, the worst first."""
    import csv
    import io

    held_out, unfolded = set(aligned.held_out), set(aligned.unfolded)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["case", "likeness", "dice", "smallest jacobian", "held out", "smoothed"])
    for name, quality in sorted(zip(aligned.names, aligned.qualities), key=lambda pair: pair[1].similarity):
        dice = "" if quality.dice is None else f"{quality.dice:.4f}"
        told = (f"{quality.similarity:.4f}", dice, f"{quality.smallest_jacobian:.4f}")
        writer.writerow([name, *told, *("yes" if name in group else "no" for group in (held_out, unfolded))])
    write_bytes(path, text.getvalue().encode("utf-8"))


def join_shards(whole: Path, count: int, events: Events) -> None:
    """Make one run of the shards in its folder, once all of them are done."""
    from ..alignment.job import Aligned
    from ..jobs.writing import sole_owner
    from ..planning.plan import Plan
    from ..training.request import PREPARED
    from ..volumes.prepared import PreparedCases

    shards = [whole / f"shard-{number + 1}-of-{count}" for number in range(count)]
    missing = [shard.name for shard in shards if not (shard / RESULT).exists()]
    if missing:
        print(f"The run is whole when the other shards are done: {', '.join(missing)}.")
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(sole_owner(whole))
        except InputError:
            print(f"Another shard makes one run of all of them in {whole}.")
            return
        aligned = Aligned.joined([Aligned.load(shard / RESULT) for shard in shards])
        asked = [read_request(shard / REQUEST) for shard in shards]
        other = [
            name for name in ("data", "onto", "class_column") if any(each[name] != asked[0][name] for each in asked)
        ]
        if other:
            raise InputError(
                f"The shards in {whole} were asked for something else: {', '.join(other)}.",
                "Give all shards the same options, in a new folder.",
            )
        left_out = set.intersection(*(set(each["left_out"]) for each in asked))
        digests = {name: digest for each in asked for name, digest in each["cases"].items()}
        told = {**asked[0], "left_out": sorted(left_out), "cases": {name: digests[name] for name in aligned.names}}
        plan = Plan.load(shards[0] / "plan.json")
        plan.save(whole / "plan.json")
        by_name = {case.name: case for shard in shards for case in PreparedCases(shard / PREPARED)}
        with events.bar("drawing") as show:
            write_sheet(whole / SHEET, [by_name[name] for name in aligned.names], aligned, plan, show)
        write_table(whole / TABLE, aligned)
        write_bytes(whole / REQUEST, json.dumps(told, indent=1).encode("utf-8"))
        aligned.save(whole / RESULT)  # last: from then on it is one run
    print(f"All shards are done: {whole} is one run of {len(aligned.names)} cases.")
