"""From a plan of the first generator to one of the second: cases are aligned, and what alignment makes is repainted."""

from __future__ import annotations

import math
from dataclasses import replace

from ..alignment.sharing import FEWEST_CASES
from ..errors import InputError
from .plan import Augmentation, Plan, Statistical

SHARE, MOST = 1 / 3, 200
"""Modes for so many cases, and at most."""
REST = 64
"""Numbers of the latent that are the refiner's."""
LEVELS = (64, 32, 16)
"""Channels of the refiner, coarsest first, the full resolution last."""
WIDEST = 64
"""Channels of a judge's last stages."""
PENALTY = 0.002
"""γ, relative to how much cases differ from their statistical ones in all that a judge sees: what it may know is the
same for small grids and large, and for brains, whose air is most of the grid, as for crops of the hippocampus, which
differ twice as much at each voxel."""
PENALTY_INTERVAL = 4
LEARNING_RATE, BETA2 = 4e-4, 0.9
"""Of both players. With 0.001 what is finest swings from step to step, by half of its power, and ends too weak."""
FEW_STEPS, QUICK_RATE, QUICK_BETA2 = 500, 1e-3, 0.99
"""Steps below which these players hardly begin: what is left then is the noise that they start from. Quicker ones get
there, with a longer memory of how large gradients are, or they run away."""
MATCHED = 0.5
"""Share of the made cases that have the anatomy of the real ones beside them."""
KINDS = ("shift", "intensity")
"""Changes of what the judges see. None of them interpolates, which takes the finest from real and made cases alike: a
judge that sees them without it does not ask for it."""
BATCH, SMALLER_BATCH = {"cpu": 8, "mps": 8, "cuda": 16}, {"cpu": 4, "mps": 4, "cuda": 12}
LARGE = 48_000
"""Voxels of the grid above which batches are the smaller ones."""


def modes_for(cases: int) -> int:
    """How many modes a generator takes of an alignment of so many cases."""
    return max(min(round(SHARE * cases), cases - 1, MOST), 1)


def can_repaint(plan: Plan) -> bool:
    """Whether a plan of the first generator can become one of the second: of aligned cases, looked at as a whole."""
    return plan.method == "ged" and plan.alignment.kind == "template" and plan.training.volume == "whole"


def repainted(plan: Plan, device: str) -> Plan:
    """The plan of a training that repaints aligned cases.

    :param plan: for which :func:`can_repaint`.
    """
    from .choosing import predicted

    stages = len(plan.networks.discriminator_widths)
    widths = tuple(max(WIDEST >> (stages - 1 - stage), 16) for stage in range(stages))
    levels = LEVELS[-(stages + 1) :]
    modes = modes_for(plan.data["cases"] - plan.training.held_out)
    networks = replace(
        plan.networks,
        generator="refiner",
        generator_widths=levels,
        discriminator_widths=widths,
        latent_size=modes + REST,
        heads="shared",
    )
    training = replace(
        plan.training,
        batch=_batch(plan, device),
        statistics_weight=0.0,
        labelled_share=0.0,
        learning_rate=LEARNING_RATE,
        beta2=BETA2,
        penalty_weight=PENALTY,
        penalty_interval=PENALTY_INTERVAL,
        matched=MATCHED,
    )
    reasons = [reason for reason in plan.reasons if not reason.startswith(REPLACED)]
    if plan.augmentation.kinds:
        how = "as strongly as held-out cases ask for" if plan.training.held_out else "a little more as it goes on"
        reasons.append(
            f"Cases are shifted by whole voxels and re-contrasted (augmentation) {how}; they are mirrored only along "
            "axes that you put into augmentation.flips (0 is right to left)."
        )
    reasons.append(
        f"The scans are aligned first: a case is the template moved along {modes} eigen-directions of their anatomy, "
        f"and a network of {levels[-1]} to {levels[0]} channels repaints it. One judge sees its image, one the "
        f"eigen-directional field of the image; {training.batch} cases a step."
    )
    found = replace(
        plan,
        networks=networks,
        training=training,
        field=replace(plan.field, agreement=False, stage=0),
        augmentation=replace(plan.augmentation, kinds=KINDS) if plan.augmentation.kinds else Augmentation(),
        statistical=Statistical(modes=modes, relative=True),
        reasons=tuple(reasons),
    )
    return predicted(found, device)


def for_sharing(plan: Plan) -> Plan:
    """A plan whose model is to be passed on; without labels where too few scans are segmented to share them.

    :raises InputError: the scans are not aligned, or too few.
    """
    if not plan.repaints:
        raise InputError(
            "A model for sharing moves along the directions in which aligned scans differ, and this plan aligns none.",
            "Leave --for-sharing out, or see with --alignment template what comes of them.",
        )
    cases = plan.data["cases"] - plan.training.held_out
    if cases < FEWEST_CASES:
        raise InputError(
            f"A model of {cases} scans cannot be shared: each of them would be a large part of it.",
            f"At least {FEWEST_CASES} are needed beside those held out, and as a rule some dozen.",
        )
    reasons = ["It is for sharing: of these directions it takes as few as give little of single scans away."]
    labels, labelled = plan.labels, plan.data["labelled"]
    if labels and labelled - plan.training.held_out < FEWEST_CASES:
        labels = ()
        reasons.append(f"It makes images alone: {labelled} scans are segmented, too few to share what they look like.")
    shared = replace(plan.statistical, shared=True)
    return replace(plan, statistical=shared, labels=labels, reasons=(*plan.reasons, *reasons))


def for_steps(plan: Plan, steps: float) -> Plan:
    """The plan of a training of so many steps: with quicker players where these are few, unless somebody chose some."""
    training = plan.training
    chosen = (training.learning_rate, training.beta2, training.optimizer) != (LEARNING_RATE, BETA2, "adam")
    if not plan.repaints or steps >= FEW_STEPS or chosen:
        return plan
    reason = f"About {steps:.0f} steps are few: both players walk more than twice as fast as in a longer training."
    training = replace(training, learning_rate=QUICK_RATE, beta2=QUICK_BETA2)
    return replace(plan, training=training, reasons=(*plan.reasons, reason))


def for_device(plan: Plan, device: str) -> Plan:
    """A plan that repaints, made for another device, with what this one is fast at."""
    from .choosing import PRECISION, predicted

    if plan.prediction.device == device:
        return plan
    training = replace(plan.training, batch=_batch(plan, device), precision=PRECISION.get(device, "float32"))
    return predicted(replace(plan, training=training), device)


def _batch(plan: Plan, device: str) -> int:
    return (SMALLER_BATCH if math.prod(plan.grid.shape) > LARGE else BATCH)[device]


REPLACED = ("Networks of", "Half of each batch", "Cases are shifted, turned", "Batches of")
"""How reasons begin that are of the first generator."""
