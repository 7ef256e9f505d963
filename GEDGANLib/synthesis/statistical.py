"""From an alignment to a model: the template and the eigen-directions of its cases, for whatever takes a model.

A *local* model has all N - 1 directions of N cases and, beside them, the cases' scores and inner products, from which
one for sharing is made at any time. A model *for sharing* has as few directions as :mod:`GEDGANLib.alignment.sharing`
asks for, says what it gives away, and is small: its template and modes are kept on coarser grids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..alignment.blocks import blocks_of, label_differences, label_shape
from ..alignment.job import Aligned, fields_of_view
from ..alignment.label_modes import FEWEST_LABELLED, label_modes
from ..alignment.modes import Modes, components_of, modes_of, products_of
from ..alignment.sampling import shape_of_at_most, shrink
from ..alignment.sharing import FEWEST_CASES, Exposure, for_sharing
from ..alignment.velocity import smooth
from ..errors import InputError
from ..jobs.events import Progress, quiet
from ..networks.build import build_generator
from ..networks.statistical import StatisticalGenerator, class_statistics
from ..planning.plan import Networks, Plan, Statistical
from ..volumes.pipeline import WorkingCase
from .directions import of_columns
from .label_sizes import fit_label_sizes, label_sizes
from .model_file import Model, save_model

LOCAL, SHARED = "local", "shared"
LARGEST_LOOK, LOCAL_BYTES = 64**3, 150_000_000
"""Of a local model: voxels of its looks, and bytes of all its looks, and of all its velocities, two a number."""
TEMPLATE_BYTES, VELOCITY_BYTES, LOOK_BYTES, SHARED_LOOK = 8_000_000, 8_000_000, 3_000_000, 32**3
"""Of a model for sharing: 19 MB in all whatever the grid, and voxels of its looks."""
MOST_SHARED = 100
"""Modes of one at most."""


@dataclass(frozen=True)
class Population:
    """What a local model keeps of its cases beside the modes, so that rows can be left out again.

    :param names: of the cases, members first and then those that were held out.
    :param members: how many of them the modes are of.
    :param labelled: how many of these are segmented.
    :param scores: (N, K).
    :param products: see :func:`GEDGANLib.alignment.modes.products_of`.
    :param classes: of each case, None where it is not known.
    :param columns: numbers that are known of the cases, by name, None where one is not.
    """

    names: tuple[str, ...]
    members: int
    labelled: int
    scores: np.ndarray
    products: np.ndarray
    classes: tuple[str | None, ...]
    columns: dict[str, list[float | None]]

    def to_tensors(self) -> dict[str, Tensor]:
        return {"scores": torch.from_numpy(self.scores).float(), "products": torch.from_numpy(self.products)}

    def about(self) -> dict[str, Any]:
        return {
            "names": self.names, "members": self.members, "labelled": self.labelled, "classes": self.classes,
            "columns": self.columns,
        }  # fmt: skip

    @classmethod
    def of(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Population:
        """From what :meth:`to_tensors` and :meth:`about` gave."""
        return cls(
            tuple(about["names"]),
            int(about["members"]),
            int(about["labelled"]),
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
    :param scores: of all cases along the modes of one that is shared, (N, K): for who trains with it here, and in no
        file.
    """

    generator: StatisticalGenerator
    plan: Plan
    about: dict[str, Any]
    population: Population | None = None
    scores: np.ndarray | None = None


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
    values = LOCAL_BYTES // (2 * len(cases) * len(plan.channels))
    shape = shape_of_at_most(max(min(LARGEST_LOOK, values), 8), plan.grid.shape, extent)
    blocks = blocks_of(cases, moved, boxes, members, shape, show("comparing the cases"))
    coarse = shape_of_at_most(max(LOCAL_BYTES // (6 * len(cases)), 64), blocks.velocities.shape[2:], extent)
    blocks = replace(blocks, velocities=shrink(blocks.velocities, coarse))
    products = products_of(blocks, members, extent)
    components = components_of(products, members)
    modes = modes_of(blocks, components, extent)
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
    names = tuple(case.name for case in cases)
    population = Population(names, count, len(labelled), scores, products, kinds, known)
    classes = of_classes(plan, scores[:count], kinds[:count])
    template = aligned.template.to("cpu")
    plan = statistical_plan(plan, modes, template.image.shape[1:])
    about = {**about, "kind": LOCAL, "cases": count, "held_out": len(held_out)}
    about |= {"columns": columns_along(scores[:count], components.strengths, known, members)}
    if label_count:
        about["label_sizes"] = label_sizes(cases[:count], label_count)
    generator = _generator(plan, template.image, template.labels, modes, classes)
    fit_label_sizes(generator, about.get("label_sizes", ()))
    return Statistics(generator, plan, about, population)


def model_for_sharing(
    generator: StatisticalGenerator,
    plan: Plan,
    about: dict[str, Any],
    population: Population,
    progress: Progress = quiet,
) -> Statistics:
    """A model of an alignment that gives away little of single cases, from a local one.

    The means of few are of single cases too: a class of few cases is as all cases are in it, and labels of few
    segmented cases are left out. Labels are deformed only.

    :param generator: of the local model, on the CPU.
    :raises InputError: too few cases, or such that even one direction would give away too much.
    """
    members, held_out = range(population.members), range(population.members, len(population.names))
    found = for_sharing(population.products, members, held_out, MOST_SHARED, progress)
    if found is None:
        raise InputError(
            f"A model of {population.members} cases cannot be shared: whatever were left of it would be of single "
            "cases to a large part.",
            f"At least {FEWEST_CASES} cases are needed, and as a rule some dozen.",
        )
    components, exposure = found
    modes = _coarser(modes_held_by(generator).of_components(components, population.scores), plan.extent)
    of_all = components.scores()
    scores = of_all[list(components.members)]
    kinds = [population.classes[index] for index in components.members]
    classes = of_classes(plan, scores, kinds, FEWEST_CASES)
    few = [name for name in plan.classes if kinds.count(name) < FEWEST_CASES]
    unlabelled = bool(plan.labels) and population.labelled < FEWEST_CASES
    if unlabelled:
        plan = replace(plan, labels=())
    label_values = len(plan.labels) + 1 if plan.labels else 0
    voxels = TEMPLATE_BYTES // (2 * (len(plan.channels) + label_values))
    shape = shape_of_at_most(voxels, plan.statistical.template, plan.extent)
    image = shrink(generator.template[None], shape)[0]
    shares = shrink(generator.shares[None], shape)[0] if plan.labels else None
    plan = replace(statistical_plan(plan, modes, shape), reasons=())  # reasons name cases here and there
    kept = {name: value for name, value in about.items() if name not in ("population", "trained_images", "data")}
    if unlabelled:  # sizes of few are those of single cases
        kept.pop("label_sizes", None)
    told = {**kept, "kind": SHARED, "cases": len(components.members), "exposure": asdict(exposure)}
    told |= {"columns": columns_along(scores, components.strengths, population.columns, components.members)}
    told |= {"card": card_of(exposure, population, few, unlabelled)}
    found = _generator(plan, image, shares, modes, classes)
    fit_label_sizes(found, told.get("label_sizes", ()))
    return Statistics(found, plan, told, scores=of_all)


def card_of(exposure: Exposure, population: Population, few: Sequence[str], unlabelled: bool) -> str:
    """What a model that is shared says of its cases.

    :param few: classes of too few cases.
    :param unlabelled: labels were left out, as too few cases are segmented.
    """
    words = [exposure.words(), f"Its template is the mean of {population.members} cases."]
    dropped = population.members - exposure.members
    if dropped:
        words.append(f"{dropped} of these that stand out are in no mode.")
    if few:
        words.append(f"Too few cases are known to be {', '.join(few)}: asked for these, it makes any case.")
    if unlabelled:
        words.append(f"Only {population.labelled} cases are segmented: it has no labels, which would be theirs.")
    return " ".join(words)


def modes_held_by(generator: StatisticalGenerator) -> Modes:
    """The modes of a model."""
    names = ("generator", "velocity", "look", "weights", "generators", "velocities", "looks")
    labels = None if generator.labels is None else generator.labels.detach()
    width, is_smooth = generator.metric.tolist()
    return Modes(*(getattr(generator, name).detach() for name in names), labels, width, bool(is_smooth))


def _coarser(modes: Modes, extent: Sequence[float]) -> Modes:
    """Modes and their means as cases are compared by them, so that nothing finer than that of a single case is in
    them; on grids that keep to the bytes of a model for sharing, two a number, with the metric that they had."""

    def on(fields: Tensor, mean: Tensor, total: int, most: int) -> tuple[Tensor, Tensor, float]:
        voxels = max(min(total // (2 * fields.shape[0] * fields.shape[1]), most), 8)
        shape = shape_of_at_most(voxels, fields.shape[2:], extent)
        smooth_fields, smooth_mean = (smooth(each, modes.width, extent) for each in (fields, mean[None]))
        # A sum over fewer voxels is as much smaller.
        ratio = math.prod(fields.shape[2:]) / math.prod(shape)
        return shrink(smooth_fields, shape), shrink(smooth_mean, shape)[0], ratio

    velocities, velocity, of_velocities = on(modes.velocities, modes.velocity, VELOCITY_BYTES, 64**3)
    looks, look, of_looks = on(modes.looks, modes.look, LOOK_BYTES, SHARED_LOOK)
    return replace(
        modes,
        velocity=velocity,
        velocities=velocities,
        look=look,
        looks=looks,
        weights=modes.weights * torch.tensor([1.0, of_velocities, of_looks]),
        is_smooth=True,
    )


def of_classes(
    plan: Plan, scores: np.ndarray, kinds: Sequence[str | None], fewest: int = 1
) -> tuple[Tensor, Tensor] | None:
    """Means and roots of the covariances of a plan's classes, see ``networks.statistical``; None without classes.

    :param scores: (N, K).
    :param kinds: class of each case, None where it is not known.
    :param fewest: cases below which a class is as all cases are.
    """
    if not plan.classes:
        return None
    numbers = [plan.classes.index(kind) if kind in plan.classes else None for kind in kinds]
    return class_statistics(scores, numbers, len(plan.classes), fewest)


def columns_along(
    scores: np.ndarray,
    strengths: np.ndarray,
    columns: Mapping[str, Sequence[float | None]],
    rows: Sequence[int],
) -> list[dict[str, Any]]:
    """Directions of columns, as the model file has them."""
    found = of_columns(scores, strengths, {name: [values[row] for row in rows] for name, values in columns.items()})
    return [asdict(direction) for direction in found]


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


def shared_form(model: Model, progress: Progress = quiet) -> Statistics:
    """A model for sharing, from a local one.

    :param model: on the CPU, loaded with its population.
    :raises InputError: it is no local statistical model, or its cases are too few.
    """
    if not is_local(model.about) or model.population is None:
        raise InputError(
            f"{model.path} is not the model of an alignment on this computer.",
            "Take the model.safetensors in the folder of a run of `gedgan align`, or of `gedgan train --for-sharing`. "
            "Models that are shared already, and such of scans that were not aligned, have no other form for sharing.",
        )
    try:
        population = Population.of(model.population, model.about["population"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{model.path} is damaged.", "Copy it again, or align the scans anew.") from error
    return model_for_sharing(model.generator, model.plan, model.about, population, progress)
