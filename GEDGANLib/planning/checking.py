"""What a plan cannot be, though its entries have the right types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError
from .words import (
    ALIGNMENTS,
    AUGMENTATIONS,
    FIELD_KINDS,
    GENERATORS,
    HEADS,
    MAPPINGS,
    METHODS,
    OBJECTIVES,
    OPTIMIZERS,
    PAIR_SEES,
    PRECISIONS,
    TRAINED_METHODS,
    VOLUMES,
)


def refuse_untrainable(plan: Any, source: str) -> None:
    """:raises InputError: the plan is of a statistical model, which learns nothing.

    :param source: of the plan, named in the error.
    """
    if plan.method not in TRAINED_METHODS:
        raise InputError(
            f"{source} is of a statistical model, which is aligned and not trained.",
            "Train on the scans themselves with `gedgan train DATA -o RUN`.",
        )


def _check_repainting(plan: Any, refuse: Callable[..., None]) -> None:
    """Refuse what the second generator cannot be."""
    networks = plan.networks
    if plan.method != "ged" or plan.alignment.kind != "template":
        refuse("networks.generator is refiner, which takes the method ged and the alignment template")
    if plan.training.volume != "whole":
        refuse("a refiner looks at whole volumes", "Set training.volume to whole.")
    if networks.heads != "shared" or plan.field.agreement or plan.training.statistics_weight:
        refuse(
            "a refiner takes neither separate heads, nor the agreement of labels, nor a term on the data's statistics",
            "Set networks.heads to shared, field.agreement to false and training.statistics_weight to 0.",
        )
    if plan.field.stage:
        refuse("the second judge of a refiner sees the field from its first stage on", "Set field.stage to 0.")
    if not 0 < len(networks.generator_widths) <= len(networks.discriminator_widths) + 1:
        refuse("a refiner has at most one level more than its judges have stages")
    gains = plan.statistical.gains
    if gains and (len(gains) != len(plan.channels) or not all(each and min(each) > 0 for each in gains)):
        refuse("statistical.gains must be numbers above 0, a list of them for each channel")
    for name in ("relative", "shared", "whitened"):
        if not isinstance(getattr(plan.statistical, name), bool):
            refuse(f"statistical.{name} must be true or false")
    if not 0 < plan.statistical.modes < networks.latent_size:
        refuse("statistical.modes must be above 0 and below networks.latent_size, whose rest is the refiner's")


def check(plan: Any, source: str) -> None:
    """Refuse what cannot be.

    :param plan: a ``Plan`` whose entries have the right types.
    :param source: named in errors, a file for example.
    :raises InputError: values that have the right type and cannot be all the same.
    """
    grid, networks, training = plan.grid, plan.networks, plan.training
    dims = len(grid.shape)

    def refuse(words: str, hint: str = "Edit it, or make a new plan with `gedgan plan`.") -> None:
        raise InputError(f"{source}: {words}.", hint)

    if dims not in (2, 3) or not len(grid.spacing) == len(grid.origin) == len(grid.directions) == dims:
        refuse("grid needs shape, spacing, origin and directions for each of 2 or 3 axes")
    if any(len(row) != dims for row in grid.directions) or abs(np.linalg.det(grid.directions)) < 1e-6:
        refuse("grid.directions is not a matrix of direction cosines")
    if not plan.channels or any(len(channel.typical) != 2 for channel in plan.channels):
        refuse("every channel needs two typical intensities")
    if sorted(label.index for label in plan.labels) != list(range(1, len(plan.labels) + 1)):
        refuse("the indices of the labels must run from 1 on without a gap")
    if plan.repaints:
        _check_repainting(plan, refuse)
    elif len(networks.discriminator_widths) != len(networks.generator_widths):
        refuse("the generator and the discriminator need equally many widths")
    if networks.strides and (
        len(networks.strides) != len(networks.discriminator_widths)
        or any(len(each) != dims or set(each) - {1, 2} or set(each) == {1} for each in networks.strides)
    ):
        refuse("networks.strides needs one entry a stage, each with 1 or 2 for every axis and not 1 alone")
    stride = plan.stride
    if any(side % each or side < each for side, each in zip(grid.shape, stride)):
        refuse(
            f"the grid {' x '.join(map(str, grid.shape))} does not fit its networks",
            f"Its sides must be a multiple of {' x '.join(map(str, stride))}.",
        )
    choices = [
        ("method", plan.method, METHODS),
        ("networks.generator", networks.generator, GENERATORS),
        ("networks.heads", networks.heads, HEADS),
        ("networks.pair_sees", networks.pair_sees, PAIR_SEES),
        ("alignment.kind", plan.alignment.kind, ALIGNMENTS),
        ("field.kind", plan.field.kind, FIELD_KINDS),
        ("training.objective", training.objective, OBJECTIVES),
        ("training.optimizer", training.optimizer, OPTIMIZERS),
        ("training.precision", training.precision, PRECISIONS),
        ("training.volume", training.volume, VOLUMES),
        *(("channels.mapping", channel.mapping, MAPPINGS) for channel in plan.channels),
        *(("augmentation.kinds", kind, AUGMENTATIONS) for kind in plan.augmentation.kinds),
        *(("augmentation.flips", axis, tuple(range(dims))) for axis in plan.augmentation.flips),
    ]
    for name, value, known in choices:
        if value not in known:
            refuse(f"{name} is {value!r}", f"Choose {', '.join(map(str, known))}.")
    if plan.alignment.window < 3 or plan.alignment.window % 2 == 0:
        refuse(f"alignment.window is {plan.alignment.window} and must be an odd number from 3 on")
    if plan.method == "ged" and not 0 <= plan.field.stage < len(networks.discriminator_widths):
        refuse(f"field.stage is {plan.field.stage}, but there are {len(networks.discriminator_widths)} stages")
    if plan.method == "modes" or (plan.repaints and plan.statistical.template):
        grids = plan.statistical.template, plan.statistical.velocity, plan.statistical.look
        optional = [plan.statistical.labels] if plan.statistical.labels else []
        if any(len(each) != dims or min(each) < 1 for each in (*grids, *optional)):
            refuse("the grids of the statistical model need a side above 0 for each axis")
    if training.volume == "parts":
        if plan.method != "ged" or len(networks.generator_widths) < 3:
            refuse("training on parts needs the method ged and at least 3 stages", "Set training.volume to whole.")
        if plan.field.stage or plan.augmentation.flips or networks.strides:
            refuse("on parts field.stage must be 0, and augmentation.flips and networks.strides empty")
        fits = len(training.part) == dims and all(
            side > 0 and side % 4 == 0 and side <= whole for side, whole in zip(training.part, grid.shape)
        )
        if not fits:
            refuse(f"training.part {training.part} does not fit", "Its sides must be multiples of 4 in the grid.")
    if networks.heads == "separate" and not plan.labels:
        refuse("separate heads need labels, and there are none", "Set networks.heads to shared.")
    if networks.heads == "separate" and networks.pair_sees != "image" and plan.field.kind == "none":
        refuse("the pair head is to see a field, and there is none", "Set networks.pair_sees to image.")
    if plan.field.agreement and not plan.labels:
        refuse("field.agreement needs labels, and there are none", "Set it to false.")
    if plan.method == "article" and (plan.classes or plan.augmentation.kinds):
        refuse("the article's baseline knows neither classes nor augmentation")
    shares = {
        "training.labelled_share": training.labelled_share,
        "training.balance": training.balance,
        "training.matched": training.matched,
        "augmentation.largest": plan.augmentation.largest,
        "augmentation.target": plan.augmentation.target,
    }
    for name, number in shares.items():
        if not 0 <= number <= 1:
            refuse(f"{name} is {number} and must be from 0 to 1")
    above_zero = {
        "grid.spacing": min(grid.spacing),
        "networks widths": min((*networks.generator_widths, *networks.discriminator_widths), default=1),
        "networks.latent_size": networks.latent_size,
        "networks.blocks": networks.blocks,
        "field.sigma": plan.field.sigma,
        "field.rho": plan.field.rho,
        "training.batch": training.batch,
        "training.penalty_interval": training.penalty_interval,
        "training.learning_rate": training.learning_rate,
        "augmentation.ramp_cases": plan.augmentation.ramp_cases,
        "alignment.control": plan.alignment.control,
        "alignment.smoothing": plan.alignment.smoothing,
    }
    from_zero = {
        "training.penalty_weight": training.penalty_weight,
        "training.statistics_weight": training.statistics_weight,
        "training.ema_share": training.ema_share,
        "training.held_out": training.held_out,
        "training.frozen_stages": training.frozen_stages,
        "alignment.squared": plan.alignment.squared,
        "alignment.stiffness": plan.alignment.stiffness,
    }
    for name, number in above_zero.items():
        if not number > 0:
            refuse(f"{name} is {number} and must be above 0")
    for name, number in from_zero.items():
        if not number >= 0:
            refuse(f"{name} is {number} and must not be below 0")
    for name, number in (("beta1", training.beta1), ("beta2", training.beta2)):
        if not 0 <= number < 1:
            refuse(f"training.{name} is {number} and must be from 0 to below 1")
