"""Model and new data -> the plan of a training that starts from the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..errors import InputError
from ..volumes.fingerprint import Fingerprint
from .checking import refuse_untrainable
from .choosing import (
    PENALTY_INTERVAL,
    PRECISION,
    choose_augmentation,
    choose_balance,
    choose_held_out,
    choose_labelled_share,
    choose_mapping,
    data_of,
    predicted,
    typical_range,
)
from .grids import placed_grid
from .plan import Plan, Statistical
from .repainting import KINDS, modes_for
from .repainting import PENALTY_INTERVAL as REPAINTED_INTERVAL

FINE_TUNING_RATE = 0.5
"""Learning rate of a training that starts from a model, as a share of that from nothing."""


def plan_from_model(model_plan: Plan, fingerprint: Fingerprint, device: str, frozen_stages: int, source: str) -> Plan:
    """The plan of a training that starts from a model: its grid, networks and labels, the place of the new data.

    :param frozen_stages: of the discriminator (Mo et al., *Freeze the Discriminator*, 2020).
    :param source: the model, named in errors.
    :raises InputError: the data have other channels or labels than the model; a model that is not trained.
    """
    refuse_untrainable(model_plan, source)
    if len(fingerprint.channel_names) != len(model_plan.channels):
        raise InputError(
            f"The data have {len(fingerprint.channel_names)} channel(s), {source} was trained on "
            f"{len(model_plan.channels)}.",
            "Start from a model of the same kind of scans, or train without --from.",
        )
    strange = sorted({label.name for label in fingerprint.labels} - {label.name for label in model_plan.labels})
    if strange:
        raise InputError(
            f"The data have labels that {source} does not know: {', '.join(strange)}.",
            "Start from a model with the same labels, or train without --from.",
        )
    if frozen_stages > len(model_plan.networks.discriminator_widths):
        raise InputError(
            f"The discriminator of {source} has {len(model_plan.networks.discriminator_widths)} stages; "
            f"{frozen_stages} cannot be frozen.",
            "Give a smaller number to --freeze.",
        )
    known = {case.class_name for case in fingerprint.cases} - {None}
    if strange_classes := sorted(known - set(model_plan.classes)):
        raise InputError(
            f"The data have classes that {source} does not know: {', '.join(strange_classes)}.",
            "Rename them in participants.tsv, name another column with --class-column, or train without --from.",
        )
    reasons = [f"Starts from {source}: its grid, networks, labels and classes; half the learning rate."]
    if frozen_stages:
        reasons.append(f"The first {frozen_stages} stage(s) of the discriminator keep their weights.")
    training = replace(
        model_plan.training,
        learning_rate=FINE_TUNING_RATE * model_plan.training.learning_rate,
        frozen_stages=frozen_stages,
    )
    augmentation = model_plan.augmentation
    if model_plan.method == "ged":
        counts = Counter(case.class_name for case in fingerprint.cases if case.class_name is not None)
        held_out = choose_held_out(fingerprint, reasons)
        training = replace(
            training,
            held_out=held_out,
            # What a device is fast at is this one's, whatever the model was made on.
            precision=PRECISION.get(device, "float32"),
            penalty_interval=PENALTY_INTERVAL.get(device, 1),
            balance=choose_balance(fingerprint, reasons)[1],
            labelled_share=choose_labelled_share(fingerprint, reasons),
        )
        augmentation = replace(choose_augmentation(held_out, reasons), flips=augmentation.flips)
        data_classes = {name: counts[name] for name in model_plan.classes}
    else:
        data_classes = {}
    channels = []
    for index, old in enumerate(model_plan.channels):
        new = choose_mapping(fingerprint, index, reasons)
        if old.mapping != "window":
            typical = typical_range(fingerprint.cases, index, old.mapping)
            old = replace(old, typical=typical, integer=new.integer, kind=new.kind)
        channels.append(old)
    if model_plan.repaints:
        if model_plan.labels and not fingerprint.labels:
            raise InputError(
                f"{source} makes segmentations, and no scan of the data has one.",
                "Segment one of them, or start from a model without labels.",
            )
        # Aligned anew: the template and the directions are those of the new scans.
        modes = modes_for(len(fingerprint.cases) - training.held_out)
        rest = model_plan.networks.latent_size - model_plan.statistical.modes
        model_plan = replace(
            model_plan,
            networks=replace(model_plan.networks, latent_size=modes + rest),
            statistical=Statistical(
                modes=modes, relative=model_plan.statistical.relative, whitened=model_plan.statistical.whitened
            ),
        )
        training = replace(training, labelled_share=0.0, penalty_interval=REPAINTED_INTERVAL)
        augmentation = replace(augmentation, kinds=KINDS)
    plan = replace(
        model_plan,
        grid=placed_grid(fingerprint, model_plan.grid.shape, model_plan.grid.spacing),
        channels=tuple(channels),
        training=training,
        augmentation=augmentation,
        description=fingerprint.description,
        data=data_of(fingerprint)
        | {"classes": data_classes, "started_from": source}
        | {"structures": model_plan.data.get("structures", ())},
        reasons=tuple(reasons),
    )
    return predicted(plan, device)
