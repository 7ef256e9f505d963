"""From an alignment to a model: the template and the eigen-directions of its cases, for whatever takes a model.

A *local* model has all N - 1 directions of N cases and, beside them, the cases' scores and inner products, from which
one for sharing is made at any time. A model *for sharing* has as few directions as :mod:`GEDGANLib.alignment.sharing`
asks for, says what it gives away, and is small: its template and modes are kept on coarser grids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..alignment.blocks import blocks_of, label_differences, label_shape, smoothed
from ..alignment.job import Aligned, fields_of_view
from ..alignment.label_modes import FEWEST_LABELLED, label_modes
from ..alignment.modes import Modes, components_of, modes_of, products_of
from ..alignment.sampling import shape_of_at_most, shrink
from ..alignment.sharing import FEWEST_CASES, Exposure, for_sharing
from ..errors import InputError
from ..jobs.events import Progress, quiet
from ..networks.build import build_generator
from ..networks.statistical import StatisticalGenerator, class_statistics
from ..planning.plan import Networks, Plan, Statistical
from ..volumes.pipeline import WorkingCase
from .directions import of_columns
from .model_file import Model, save_model

LOCAL, SHARED = "local", "shared"
LARGEST_LOOK, LOCAL_LOOK_BYTES = 64**3, 150_000_000
"""Of a local model: voxels of its looks, and what all of them take, two bytes a number."""
TEMPLATE_BYTES, VELOCITY_BYTES, LOOK_BYTES, LABEL_BYTES = 6_000_000, 6_000_000, 2_000_000, 5_000_000
"""Of a model for sharing: 19 MB in all, whatever the grid."""
MOST_SHARED = 100
"""Modes of one at most."""


@dataclass(frozen=True)
class Population:
    """What a local model keeps of its cases beside the modes, so that rows can be left out again.

    :param names: of the cases, members first and then those that were held out.
    :param members: how many of them the modes are of.
    :param scores: (N, K).
    :param products: see :func:`GEDGANLib.alignment.modes.products_of`.
    :param classes: of each case, None where it is not known.
    :param columns: numbers that are known of the cases, by name, None where one is not.
    """

    names: tuple[str, ...]
    members: int
    scores: np.ndarray
    products: np.ndarray
    classes: tuple[str | None, ...]
    columns: dict[str, list[float | None]]

    def to_tensors(self) -> dict[str, Tensor]:
        return {"scores": torch.from_numpy(self.scores).float(), "products": torch.from_numpy(self.products)}

    def about(self) -> dict[str, Any]:
        return {"names": self.names, "members": self.members, "classes": self.classes, "columns": self.columns}

    @classmethod
    def of(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Population:
        """From what :meth:`to_tensors` and :meth:`about` gave."""
        return cls(
            tuple(about["names"]),
            int(about["members"]),
            tensors["scores"].double().numpy(),
            tensors["products"].double().numpy(),
            tuple(about["classes"]),
            dict(about["columns"]),
        )


@dataclass(frozen=True)
class Statistics:
    """A statistical model in the making.

    :param about: for the model file.
    :param population: None for one that is shared.
    """

    generator: StatisticalGenerator
    plan: Plan
    about: dict[str, Any]
    population: Population | None = None


def statistical_plan(plan: Plan, modes: Modes, template: Sequence[int]) -> Plan:
    """The plan of a model that holds such modes, from the plan of the alignment."""
    grids = Statistical(
        tuple(template),
        tuple(modes.velocities.shape[2:]),
        tuple(modes.looks.shape[2:]),
        () if modes.labels is None else tuple(modes.labels.shape[2:]),
    )
    networks = Networks((), (), 1, modes.count)
    training = replace(plan.training, volume="whole", part=())
    field = replace(plan.field, agreement=False, stage=0)
    # Nothing is trained; and what a training would take was measured by the clock, which no model depends on.
    prediction = replace(plan.prediction, memory_gb=0.0, minutes_per_1000_steps=0.0)
    return replace(
        plan,
        method="modes",
        networks=networks,
        training=training,
        field=field,
        statistical=grids,
        prediction=prediction,
    )


def local_model(
    aligned: Aligned,
    cases: Sequence[WorkingCase],
    plan: Plan,
    about: dict[str, Any],
    columns: Mapping[str, Sequence[float | None]] | None = None,
    show: Callable[[str], Progress] = lambda words: quiet,
) -> Statistics:
    """The model of an alignment, with all directions of its cases.

    :param cases: that were aligned, in the order of ``aligned``.
    :param about: for the model file.
    :param columns: numbers that are known of the cases, by name, in their order; None where one is not.
    :param show: gives the progress of a stage that it is told the name of.
    :raises ValueError: the template was made of other cases, or all cases are the same.
    """
    held_out = set(aligned.held_out)
    order = sorted(range(len(cases)), key=lambda index: (cases[index].name in held_out, index))
    count = len(cases) - len(held_out)
    cases, moved = [cases[index] for index in order], aligned.moved.of(order)
    boxes, extent = fields_of_view(cases, plan.extent), plan.extent
    members = range(count)
    values = LOCAL_LOOK_BYTES // (2 * len(cases) * len(plan.channels))
    shape = shape_of_at_most(max(min(LARGEST_LOOK, values), 8), plan.grid.shape, extent)
    blocks = blocks_of(cases, moved, boxes, members, shape, show("comparing the cases"))
    products = products_of(blocks, members, extent)
    components = components_of(products, members)
    modes = modes_of(blocks, components)
    scores = components.scores()
    labelled = [index for index in members if cases[index].labels is not None]
    if not labelled:
        plan = replace(plan, labels=())
    label_count = len(plan.labels)
    if label_count and len(labelled) >= FEWEST_LABELLED:
        grid = label_shape(plan.grid.shape, extent, label_count)
        differences = label_differences(
            cases, moved, boxes, labelled, label_count, grid, show("comparing their segmentations")
        )
        modes = replace(modes, labels=label_modes(scores[labelled], differences, components.strengths))
    kinds = tuple(case.class_name for case in cases)
    known = {name: [values[index] for index in order] for name, values in (columns or {}).items()}
    population = Population(tuple(case.name for case in cases), count, scores, products, kinds, known)
    classes = _class_statistics(plan, scores[:count], kinds[:count])
    template = aligned.template.to("cpu")
    plan = statistical_plan(plan, modes, template.image.shape[1:])
    about = {**about, "kind": LOCAL, "cases": count, "held_out": len(held_out)}
    about |= {"columns": _columns(scores[:count], components.strengths, known, members)}
    return Statistics(_generator(plan, template.image, template.labels, modes, classes), plan, about, population)


def model_for_sharing(
    generator: StatisticalGenerator, plan: Plan, about: dict[str, Any], population: Population
) -> Statistics:
    """A model of an alignment that gives away little of single cases, from a local one.

    :param generator: of the local model, on the CPU.
    :raises InputError: too few cases, or such that even one direction would give away too much.
    """
    members, held_out = range(population.members), range(population.members, len(population.names))
    found = for_sharing(population.products, members, held_out, MOST_SHARED)
    if found is None:
        raise InputError(
            f"A model of {population.members} cases cannot be shared: whatever were left of it would be of single "
            "cases to a large part.",
            f"At least {FEWEST_CASES} cases are needed, and as a rule some dozen.",
        )
    components, exposure = found
    old = population.scores[list(components.members)]
    units = components.coefficients[list(components.members)] / np.sqrt(components.values)
    modes = _held_by(generator).recombined(units.T @ old / np.sqrt(len(old) - 1), old.mean(0))
    modes = replace(modes, weights=torch.from_numpy(components.weights).float())
    scores = components.scores()[list(components.members)]
    kinds = [population.classes[index] for index in components.members]
    classes = _class_statistics(plan, scores, kinds)
    extent, label_values = plan.extent, len(plan.labels) + 1 if plan.labels else 0
    template_voxels = TEMPLATE_BYTES // (2 * (len(plan.channels) + label_values))
    template_shape = shape_of_at_most(template_voxels, plan.statistical.template, extent)
    modes = _coarser(modes, extent)
    image = shrink(generator.template[None], template_shape)[0]
    shares = None if generator.shares is None else shrink(generator.shares[None], template_shape)[0]
    plan = statistical_plan(plan, modes, template_shape)
    kept = {name: value for name, value in about.items() if name not in ("population", "trained_images", "data")}
    told = {**kept, "kind": SHARED, "cases": len(components.members), "exposure": asdict(exposure)}
    told |= {"columns": _columns(scores, components.strengths, population.columns, components.members)}
    return Statistics(_generator(plan, image, shares, modes, classes), plan, {**told, "card": card_of(exposure)})


def card_of(exposure: Exposure) -> str:
    """What a model that is shared says of its cases."""
    return exposure.words()


def _held_by(generator: StatisticalGenerator) -> Modes:
    names = ("generator", "velocity", "look", "weights", "generators", "velocities", "looks")
    labels = None if generator.labels is None else generator.labels.detach()
    return Modes(*(getattr(generator, name).detach() for name in names), labels)


def _coarser(modes: Modes, extent: Sequence[float]) -> Modes:
    """Modes as cases are compared by them, so that nothing finer than that of a single case is in a model for sharing;
    on grids that keep to its bytes, two a number."""
    shape = modes.looks.shape[2:]
    velocity = smoothed(modes.velocity[None], extent, shape)[0]
    velocities, looks = (smoothed(each, extent, shape) for each in (modes.velocities, modes.looks))
    labels = None if modes.labels is None else smoothed(modes.labels, extent, shape)
    modes = replace(modes, velocity=velocity, velocities=velocities, looks=looks, labels=labels)

    def on(fields: Tensor, total: int) -> Tensor:
        voxels = max(total // (2 * fields.shape[0] * fields.shape[1]), 8)
        return shrink(fields, shape_of_at_most(voxels, fields.shape[2:], extent))

    velocities = on(modes.velocities, VELOCITY_BYTES)
    looks = on(modes.looks, LOOK_BYTES)
    return replace(
        modes,
        velocity=shrink(modes.velocity[None], velocities.shape[2:])[0],
        velocities=velocities,
        look=shrink(modes.look[None], looks.shape[2:])[0],
        looks=looks,
        labels=None if modes.labels is None else on(modes.labels, LABEL_BYTES),
    )


def _columns(
    scores: np.ndarray,
    strengths: np.ndarray,
    columns: Mapping[str, Sequence[float | None]],
    rows: Sequence[int],
) -> list[dict[str, Any]]:
    """Directions of columns, as the model file has them."""
    found = of_columns(scores, strengths, {name: [values[row] for row in rows] for name, values in columns.items()})
    return [asdict(direction) for direction in found]


def _class_statistics(plan: Plan, scores: np.ndarray, kinds: Sequence[str | None]) -> tuple[Tensor, Tensor] | None:
    if not plan.classes:
        return None
    numbers = [plan.classes.index(kind) if kind in plan.classes else None for kind in kinds]
    return class_statistics(scores, numbers, len(plan.classes))


def _generator(
    plan: Plan, image: Tensor, shares: Tensor | None, modes: Modes, classes: tuple[Tensor, Tensor] | None
) -> StatisticalGenerator:
    generator = build_generator(plan)
    generator.take(image, shares, modes, classes)
    return generator.eval()


def save_statistics(path: Path, made: Statistics) -> None:
    """Write a model file.

    :raises InputError: it cannot be written.
    """
    about, tensors = made.about, None
    if made.population is not None:
        about, tensors = {**about, "population": made.population.about()}, made.population.to_tensors()
    save_model(path, made.generator, made.plan, about, population=tensors)


def is_local(about: dict[str, Any]) -> bool:
    """Whether a model holds single cases of the scans that it was made of.

    :param about: of a :class:`.model_file.Model`.
    """
    return about.get("kind") == LOCAL


def shared_form(model: Model) -> Statistics:
    """A model for sharing, from a local one.

    :param model: on the CPU, loaded with its population.
    :raises InputError: it is no local statistical model, or its cases are too few.
    """
    if not is_local(model.about) or model.population is None:
        raise InputError(
            f"{model.path} is not the model of an alignment on this computer.",
            "Take the model.safetensors in the folder of a run of `gedgan align`. Models that were trained, and such "
            "that are shared already, have no other form for sharing.",
        )
    try:
        population = Population.of(model.population, model.about["population"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{model.path} is damaged.", "Copy it again, or align the scans anew.") from error
    return model_for_sharing(model.generator, model.plan, model.about, population)
