"""The anatomy that a generator repaints: modes of an alignment, and where its cases lie along them.

A generator that stays on this computer takes the first modes of the local model. One that is to be passed on takes
those of the model for sharing: as few as give little of single cases away, on a template as coarse and as smooth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..alignment.modes import components_of
from ..jobs.events import Progress, quiet
from ..networks.statistical import StatisticalGenerator
from ..planning.plan import Plan
from .label_sizes import fit_label_sizes
from .model_file import Model
from .statistical import Population, columns_along, of_classes, shared_form


@dataclass(frozen=True)
class Basis:
    """Modes, and the cases along them.

    :param plan: of the statistical model that has these modes alone.
    :param scores: (K,) of each case of the alignment's modes, by its name.
    :param about: what a model that repaints them says of them: directions of columns and, where it is for sharing, what
        it gives away of the cases.
    """

    generator: StatisticalGenerator
    plan: Plan
    scores: dict[str, Tensor]
    about: dict[str, Any]


def basis_of(model: Model, plan: Plan, progress: Progress = quiet) -> Basis:
    """The modes that a plan repaints.

    :param model: the local one of the alignment, on the CPU, loaded with its population.
    :param plan: that says whether the model is for sharing and, where it is not, how many modes at most.
    :raises InputError: the cases are too few for one that is.
    """
    population = Population.of(model.population, model.about["population"])
    if not plan.statistical.shared:
        count = min(plan.statistical.modes, len(model.generator.generators))
        about = {"columns": _columns(population, count)}
        return Basis(
            _first(model, population, count), model.plan, _by_name(population, population.scores, count), about
        )
    made = shared_form(model, progress)
    told = {name: made.about[name] for name in ("columns", "kind", "exposure", "card")}
    return Basis(made.generator, made.plan, _by_name(population, made.scores, made.scores.shape[1]), told)


def _by_name(population: Population, scores: np.ndarray, count: int) -> dict[str, Tensor]:
    names = population.names[: population.members]
    return {name: torch.from_numpy(np.array(row[:count], np.float32)) for name, row in zip(names, scores)}


def _first(model: Model, population: Population, count: int) -> StatisticalGenerator:
    """The generator of a local model with its first modes alone, and what classes are along these."""
    found = model.generator.first(count)
    if found.class_means is not None:
        members = range(population.members)
        kinds = [population.classes[index] for index in members]
        means, roots = of_classes(model.plan, population.scores[list(members), :count], kinds)
        with torch.no_grad():
            found.class_means.copy_(means), found.class_roots.copy_(roots)
    fit_label_sizes(found, model.about.get("label_sizes", ()))
    return found


def _columns(population: Population, count: int) -> list[dict[str, Any]]:
    """Directions of columns along the first modes."""
    members = range(population.members)
    strengths = components_of(population.products, members).strengths
    return columns_along(population.scores[: len(members), :count], strengths[:count], population.columns, members)
