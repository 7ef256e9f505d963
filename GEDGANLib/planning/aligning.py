"""Whether the cases of a plan are aligned to a common template: measured on some of them, see ``alignment.verdict``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..alignment.job import fields_of_view, registration_shape, shrunk
from ..alignment.sampling import shrink
from ..alignment.verdict import Verdict, chosen_cases, measure, trial_shape
from ..volumes.dataset import Dataset
from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase, load_working_cases
from .plan import Alignment, Plan
from .repainting import can_repaint, repainted
from .words import NOTE


def with_alignment(plan: Plan, dataset: Dataset, progress: Progress = quiet) -> Plan:
    """The plan with its decision on alignment, and in its reasons the numbers that it is from.

    :param dataset: that the plan was made for.
    :raises InputError: a file that cannot be used.
    """
    extent = plan.extent
    # Read onto the grid of an alignment at once: that of the plan may be a hundred times as fine.
    finer = registration_shape(plan.grid.shape, extent, "cpu")
    coarser = replace(plan, grid=plan.grid.at(finer))
    shape = trial_shape(finer, extent)
    chosen = [dataset.cases[index] for index in chosen_cases(len(dataset.cases))]
    images, boxes, labels = [], [], []
    for case in load_working_cases(replace(dataset, cases=tuple(chosen)), coarser, progress):
        images.append(shrunk([case], shape, "cpu"))
        boxes.append(fields_of_view([case], extent))
        labels.append(_shares(case, len(plan.labels), finer))
    labelled = plan.labels and all(label is not None for label in labels)
    verdict = measure(torch.cat(images), torch.cat(boxes), extent, torch.cat(labels) if labelled else None)
    return decided(plan, verdict)


def as_asked(plan: Plan) -> Plan:
    """The plan with an alignment that a person asked for, whatever it may be worth."""
    words = "The scans are brought to a common template first, as was asked for."
    plan = replace(plan, alignment=replace(Alignment(), kind="template"), reasons=(*plan.reasons, words))
    return repainted(plan, plan.prediction.device) if can_repaint(plan) else plan


def decided(plan: Plan, verdict: Verdict) -> Plan:
    """The plan with what was found."""
    words = verdict.words() if verdict.kind == "template" else NOTE + verdict.words()
    alignment = replace(Alignment(), kind=verdict.kind)
    plan = replace(plan, alignment=alignment, reasons=(*plan.reasons, words))
    return repainted(plan, plan.prediction.device) if can_repaint(plan) else plan


def _shares(case: WorkingCase, count: int, shape: tuple[int, ...]) -> torch.Tensor | None:
    if case.labels is None or not count:
        return None
    parts = []
    for label in range(count + 1):
        one = torch.from_numpy((np.asarray(case.labels) == label).astype(np.float32))[None, None]
        parts.append(shrink(one, shape))
    return torch.cat(parts, 1)
