"""How good the cases of a model are, and how safe: everything the report shows, as plain numbers.

Each figure of synthesized cases stands beside the same figure of real training cases, both compared with real cases
that the model has not learned from: what "as good as real" would be. Where cases are too few for a figure, it is left
out and a sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..jobs.events import with_progress
from ..structure.spectrum import fine_power_ratio, nyquist_excess, radial_power
from ..synthesis.membership import membership
from ..synthesis.model_file import Model
from ..synthesis.synthesizer import Synthesizer
from ..volumes.case import Case
from ..volumes.fingerprint import Progress
from ..volumes.measures import measure, usual_pieces
from ..volumes.pipeline import WorkingCase, map_intensities, seen_as, seen_voxels, unmap_intensities
from ..volumes.prepared import keep_cases
from .alignment import pictures_of
from .distances import NEIGHBOURS, coverage, kernel_distance, relative_diversity
from .features import FEWEST_PAIRS, encoder_for
from .orientation import orientation_statistics
from .privacy import examine
from .result import Evaluation
from .similarity import levels_of, pairwise_similarity
from .summary import summary_of
from .utility import measure_utility

FEWEST_UNSEEN = 10
"""Real cases that the model has not seen, below which they cannot stand for the population."""
FEWEST_TO_COMPARE = 8
"""Cases of a set below which neither distance nor diversity means anything."""
DRAWS = 10
"""Subsets of equal size over which figures that depend on the number of cases are averaged."""


@dataclass(frozen=True)
class Settings:
    """How thoroughly to look.

    :param number: cases to synthesize.
    :param steps: updates of each U-Net.
    :param utility: train the U-Nets of :mod:`.utility` too.
    :param seed: of the synthesized cases and of the networks.
    """

    number: int = 100
    steps: int = 500
    utility: bool = True
    seed: int = 0
    device: str = "cpu"


Bar = Callable[[str], Any]
"""Context that gives a function (done, total, name) for a piece of work named in words, see ``Events.bar`` of
``jobs.events``."""


def evaluate(model: Model, cases: Sequence[WorkingCase], settings: Settings, bar: Bar, made: Path) -> Evaluation:
    """Judge a model by the data it was trained on and, better, data it was not.

    :param cases: real cases on the grid of the model's plan; which of them were trained on is found out.
    :param made: a folder that is not there, for the synthesized cases, which the result refers to.
    :raises InputError: fewer than 4 cases, or none of the model's training cases among them.
    :raises OSError: the synthesized cases cannot be written.
    """
    plan = model.plan
    members = membership(model.about, cases)
    training, unseen = [cases[i] for i in members.trained], [cases[i] for i in members.unseen]
    if len(training) < FEWEST_PAIRS:
        raise InputError(
            f"{len(cases)} cases are too few to judge a model by."
            if len(cases) < FEWEST_PAIRS
            else f"The data hold {len(training)} of the cases that the model was trained on; {FEWEST_PAIRS} "
            "are needed.",
            "Give the folder that it was trained on, best with more cases of the same kind in it.",
        )
    result = Evaluation(_about(model, settings, len(training), len(unseen)), training=training, unseen=unseen)
    if not members.known:
        result.notes.append(
            "The model does not say which cases it was trained on; all of these are taken to be training cases."
        )
    drawn = Synthesizer(model).cases(settings.number, settings.seed)
    with bar("synthesizing") as show:
        # Each sees as much as some training case: stripes of repeated edges would tell the two kinds apart.
        views = np.random.default_rng(settings.seed).integers(len(training), size=settings.number)
        drawn = (seen_as(_as_working(case, plan), seen_voxels(training[view])) for case, view in zip(drawn, views))
        drawn = with_progress(drawn, settings.number, show)
        result.made = list(keep_cases(drawn, settings.number, plan, made))
    reference, compared = unseen, training
    if len(unseen) < FEWEST_UNSEEN:
        half = np.random.default_rng(settings.seed).permutation(len(training))
        reference, compared = (
            [training[i] for i in half[: len(half) // 2]],
            [training[i] for i in half[len(half) // 2 :]],
        )
        result.reference = "half of the training cases"
        result.notes.append(
            f"Only {len(unseen)} real cases are new to the model, fewer than {FEWEST_UNSEEN}: its cases are compared "
            "with half of those it was trained on, which flatters a model that knows them by heart."
        )
    images = {name: _images(group) for name, group in
              (("made", result.made), ("reference", reference), ("compared", compared))}  # fmt: skip
    with bar("comparing") as show:
        _fidelity(result, images, training, plan, settings, show)
    _labels(result, result.made, training, unseen, plan)
    _structure(result, images, plan)
    with bar("looking for copies") as show:
        _privacy(result, plan, show)
    if settings.utility:
        with bar("training U-Nets") as show:
            _utility(result, plan, settings, show)
    else:
        result.notes.append("What the pairs are worth for a segmentation was not measured, as was asked for (--quick).")
    result.summary += summary_of(result)
    return result


def _about(model: Model, settings: Settings, training: int, unseen: int) -> dict[str, Any]:
    return {
        "model": model.path.name,
        "model_digest": model.digest,
        "description": model.plan.description,
        "trained": {key: model.about.get(key) for key in ("steps", "seconds", "seed", "cases", "held_out")},
        "library_version": __version__,
        "synthesized_cases": settings.number,
        "training_cases": training,
        "unseen_cases": unseen,
        "seed": settings.seed,
    }


def _as_working(case: Case, plan) -> WorkingCase:
    """A synthesized case in the intensities that the networks see."""
    image = map_intensities(case.image, [channel.typical for channel in plan.channels])
    return WorkingCase(case.name, image, case.labels, case.affine, case.affine, tuple(image.shape[1:]))


def _images(cases: Sequence[WorkingCase]) -> list[np.ndarray]:
    return [case.image for case in cases]


def _first_channel(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [image[0] for image in images]


def _fidelity(
    result: Evaluation,
    images: dict[str, list[np.ndarray]],
    training: list[WorkingCase],
    plan,
    settings: Settings,
    show: Progress,
) -> None:

    def learning(step: int, steps: int, _: str) -> None:
        show(step, 3 * steps, "features")

    learning(0, 1, "")
    encoder, kind = encoder_for(training, len(plan.labels), settings.steps, settings.seed, settings.device, learning)
    result.about["features"] = kind
    features = {name: encoder(group) for name, group in images.items()}
    show(1, 3, "distances")
    section: dict[str, Any] = {}
    counts = {name: len(array) for name, array in images.items()}
    told = f"there are {counts['made']} synthesized, {counts['reference']} and {counts['compared']} real ones."
    if min(counts.values()) >= FEWEST_TO_COMPARE:
        section["kernel distance"] = {
            name: asdict(kernel_distance(features["reference"], features[group]))
            for name, group in (("made", "made"), ("real", "compared"))
        }
        section["diversity"] = {
            "made": round(relative_diversity(images["reference"], images["made"]), 4),
            "real": round(relative_diversity(images["reference"], images["compared"]), 4),
        }
    else:
        result.notes.append(f"Kernel distance and diversity need {FEWEST_TO_COMPARE} cases in every set; {told}")
    if min(counts.values()) > 2 * NEIGHBOURS:
        covers = _covers(features, settings.seed)
        for figure in ("precision", "recall", "density", "coverage"):
            section[figure] = {name: round(cover[figure], 4) for name, cover in covers.items()}
    else:
        result.notes.append(
            f"Precision, recall, density and coverage need more than {2 * NEIGHBOURS} cases in every set; {told}"
        )
    show(2, 3, "similarity")
    if levels_of(tuple(plan.grid.shape)) and min(counts.values()) >= 2:
        alike = {name: pairwise_similarity(images[name], settings.seed) for name in ("made", "compared")}
        section["pairwise MS-SSIM"] = {
            "made": round(float(np.mean(alike["made"])), 4),
            "real": round(float(np.mean(alike["compared"])), 4),
        }
        result.curves["similarity"] = alike
    else:
        result.notes.append("The grid is too thin, or cases are too few, for the likeness of pairs (MS-SSIM).")
    result.figures["fidelity and diversity"] = section
    show(3, 3, "")


def _covers(features: dict[str, np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    """Precision, recall, density and coverage of as many synthesized as real cases: they depend on the number."""
    random = np.random.default_rng(seed)
    count = min(len(features["made"]), len(features["compared"]))
    found: dict[str, dict[str, float]] = {}
    for name, group in (("made", "made"), ("real", "compared")):
        draws = DRAWS if len(features[group]) > count else 1
        each = []
        for _ in range(draws):
            chosen = random.choice(len(features[group]), count, replace=False)
            each.append(asdict(coverage(features["reference"], features[group][chosen])))
        found[name] = {figure: float(np.mean([one[figure] for one in each])) for figure in each[0]}
    return found


def _labels(
    result: Evaluation,
    made: Sequence[WorkingCase],
    training: Sequence[WorkingCase],
    unseen: Sequence[WorkingCase],
    plan,
) -> None:
    """Volumes and intensities: medians, and how far the distributions of synthesized and of new real cases are from
    that of training cases (two-sample Kolmogorov-Smirnov). Intensities as if every case had the typical range."""
    from scipy import stats

    typical = [channel.typical for channel in plan.channels]

    def measured(cases: Sequence[WorkingCase]) -> tuple[list[dict[str, float]], list[dict[str, int]]]:
        rows, pieces = [], []
        for case in cases:
            image = unmap_intensities(case.image, typical)
            names = tuple(channel.name for channel in plan.channels)
            found = measure(Case(case.name, image, case.labels, case.affine, tuple(plan.labels), names))
            rows.append(found.named())
            if found.pieces:
                pieces.append(found.pieces)
        return rows, pieces

    def usable(cases: Sequence[WorkingCase]) -> list[WorkingCase]:
        return [case for case in cases if case.labels is not None] if plan.labels else list(cases)

    groups = {"made": list(made), "real": usable(training), "new": usable(unseen)}
    if not groups["real"]:
        result.notes.append("No training case has a segmentation: volumes of labels could not be compared.")
        return
    measured_groups = {name: measured(cases) for name, cases in groups.items() if cases}
    section, curves = {}, {}
    for name in measured_groups["made"][0][0]:
        if name not in measured_groups["real"][0][0]:
            continue
        values = {key: np.array([row[name] for row in rows]) for key, (rows, _) in measured_groups.items()}
        section[name] = {
            key: [round(float(q), 4) for q in np.quantile(each, (0.25, 0.5, 0.75))] for key, each in values.items()
        }
        for key, apart in (("made", "apart"), ("new", "new apart")):
            if key in values:
                section[name][apart] = round(float(stats.ks_2samp(values[key], values["real"]).statistic), 4)
        curves[name] = {key: values[key] for key in ("made", "real")}
    for label in plan.labels:
        counts = {key: np.array([each[label.name] for each in pieces]) for key, (_, pieces) in measured_groups.items()}
        # Shares of cases without the label, and of those whose label hangs together as that of training cases does.
        section[f"missing {label.name}"] = {
            **{key: round(float(np.mean(found == 0)), 4) for key, found in counts.items()},
            "cases": {key: len(found) for key, found in counts.items()},
        }
        low, high = usual_pieces(counts["real"])
        section[f"pieces of {label.name}"] = {
            key: round(float(np.mean((found >= low) & (found <= high))), 4) for key, found in counts.items()
        } | {"usual": [low, high]}
    result.figures["volumes and intensities"] = section
    result.curves["measures"] = curves


def _structure(result: Evaluation, images: dict[str, list[np.ndarray]], plan) -> None:
    first = {name: _first_channel(group) for name, group in images.items()}
    section: dict[str, Any] = {
        "fine power": {
            "made": round(fine_power_ratio(first["reference"], first["made"]), 4),
            "real": round(fine_power_ratio(first["reference"], first["compared"]), 4),
        },
        "checkerboard": {
            "made": round(nyquist_excess(first["made"]), 4),
            "real": round(nyquist_excess(first["compared"]), 4),
        },
    }
    result.curves["spectrum"] = {name: radial_power(group) for name, group in first.items()}
    if plan.spatial_dims == 3:
        scales = plan.field.sigma, plan.field.rho
        count = min(len(images["made"]), len(images["compared"]))  # histograms of fewer cases are farther apart
        statistics = {
            name: orientation_statistics(
                group if name == "reference" else group[:count], tuple(plan.grid.spacing), *scales
            )
            for name, group in images.items()
        }
        far = {key: statistics["reference"].distances(statistics[key]) for key in ("made", "compared")}
        for name, value in far["made"].items():
            section[f"{name} apart"] = {"made": round(value, 4), "real": round(far["compared"][name], 4)}
        result.curves["orientation"] = statistics
    result.figures["structure"] = section


def _privacy(result: Evaluation, plan, show: Progress) -> None:
    pictures = [pictures_of(cases, plan.grid.spacing) for cases in (result.made, result.training, result.unseen)]
    found = examine(*pictures, progress=show, mirrored=plan.augmentation.flips)
    result.privacy = found
    result.figures["privacy"] = {
        key: value for key, value in asdict(found).items() if key not in ("closest", "words")
    } | {
        "words": found.words,
        "closest": [
            {"synthesized": result.made[i].name, "training": result.training[j].name, "distance": round(distance, 4)}
            for i, j, distance in found.closest
        ],
    }


def _utility(result: Evaluation, plan, settings: Settings, show: Progress) -> None:
    training = [case for case in result.training if case.labels is not None]
    unseen = [case for case in result.unseen if case.labels is not None]
    labels = len(plan.labels)
    if not labels or len(training) < FEWEST_PAIRS or len(unseen) < FEWEST_PAIRS:
        result.notes.append(
            "What the pairs are worth for a segmentation was not measured: that needs "
            f"{FEWEST_PAIRS} labelled training cases and as many new to the model; there are {len(training)} "
            f"and {len(unseen)}."
        )
        return
    found = measure_utility(training, result.made, unseen, labels, settings.steps, settings.seed, settings.device, show)
    result.figures["utility"] = {
        arm: {
            "mean dice": round(found.mean(arm), 4),
            "interval": [round(value, 4) for value in found.interval(arm)],
            "dice": [None if math.isnan(value) else round(value, 4) for value in found.by_label(arm)],
            "pairs": found.trained_on[arm],
        }
        for arm in found.dice
    } | {
        "gain": {"mean": round(found.gain()[0], 4), "interval": [round(value, 4) for value in found.gain()[1]]},
        "tested on": found.tested_on,
        "updates": found.steps,
        "block": found.block,
    }
