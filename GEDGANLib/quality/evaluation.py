"""How good the cases of a model are, and how safe: everything the report shows, as plain numbers.

Each figure of synthesized cases stands beside the same figure of real training cases, both compared with real cases
that the model has not learned from: what "as good as real" would be. Where cases are too few for a figure, it is left
out and a sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import InputError
from ..synthesis.membership import membership
from ..synthesis.model_file import Model
from ..synthesis.synthesizer import Synthesizer
from ..volumes.case import Case
from ..volumes.measures import measure
from ..volumes.pipeline import Progress, WorkingCase
from .alignment import pictures_of
from .distances import NEIGHBOURS, coverage, kernel_distance, relative_diversity
from .features import Encoder
from .orientation import orientation_statistics
from .privacy import Privacy, examine
from .segmentation import Pairs, coarsened
from .similarity import levels_of, pairwise_similarity
from .spectrum import fine_power_ratio, radial_power
from .utility import measure_utility, pairs_of

FEWEST_UNSEEN = 10
"""Real cases that the model has not seen, below which they cannot stand for the population."""
FEWEST_TRAINING_PAIRS = 4
INTENSITY_CLASSES = 4
"""Of the pseudo-segmentation that an encoder learns where there are no labels."""


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


@dataclass
class Evaluation:
    """What was found.

    :param figures: section -> figure -> ``{"made": ..., "real": ..., ...}``; plain JSON types.
    :param notes: what could not be said, and why, in sentences.
    :param summary: what a reader should know first, in sentences.
    :param curves: arrays for plots.
    :param made, training, unseen: the cases themselves, to show.
    """

    about: dict[str, Any]
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    made: list[WorkingCase] = field(default_factory=list)
    training: list[WorkingCase] = field(default_factory=list)
    unseen: list[WorkingCase] = field(default_factory=list)
    privacy: Privacy | None = None

    def to_dict(self) -> dict[str, Any]:
        """For ``report.json``: figures, notes and summary; no arrays, no cases."""
        return {
            "about": self.about,
            "summary": self.summary,
            "notes": self.notes,
            "figures": self.figures,
        }


Bar = Callable[[str], Any]
"""Context that gives a function (done, total, name) for a piece of work named in words, see ``jobs.Events.bar``."""


def evaluate(model: Model, cases: Sequence[WorkingCase], settings: Settings, bar: Bar) -> Evaluation:
    """Judge a model by the data it was trained on and, better, data it was not.

    :param cases: real cases on the grid of the model's plan; which of them were trained on is found out.
    :raises InputError: fewer than 4 cases, or none of the model's training cases among them.
    """
    plan = model.plan
    members = membership(model.about, cases)
    training, unseen = [cases[i] for i in members.trained], [cases[i] for i in members.unseen]
    if len(cases) < 4 or not training:
        raise InputError(
            "The data hold none of the cases that the model was trained on."
            if len(cases) >= 4
            else f"{len(cases)} cases are too few to judge a model by.",
            "Give the folder that it was trained on, best with more cases of the same kind in it.",
        )
    result = Evaluation(_about(model, settings, len(training), len(unseen)), training=training, unseen=unseen)
    if not members.known:
        result.notes.append(
            "The model does not say which cases it was trained on; all of these are taken to be training cases."
        )
    synthesizer = Synthesizer(model)
    with bar("synthesizing") as show:
        for index, case in enumerate(synthesizer.cases(settings.number, settings.seed)):
            result.made.append(_as_working(case, plan))
            show(index + 1, settings.number, "")
    reference, compared = unseen, training
    if len(unseen) < FEWEST_UNSEEN:
        half = np.random.default_rng(settings.seed).permutation(len(training))
        reference, compared = (
            [training[i] for i in half[: len(half) // 2]],
            [training[i] for i in half[len(half) // 2 :]],
        )
        result.notes.append(
            f"Only {len(unseen)} real cases are new to the model, fewer than {FEWEST_UNSEEN}: its cases are compared "
            "with half of those it was trained on, which flatters a model that knows them by heart."
        )
    images = {name: _images(group) for name, group in
              (("made", result.made), ("reference", reference), ("compared", compared))}  # fmt: skip
    with bar("comparing") as show:
        _fidelity(result, images, training, plan, settings, show)
    _labels(result, result.made, [*training, *unseen], plan)
    _structure(result, images, plan)
    with bar("looking for copies") as show:
        _privacy(result, show)
    if settings.utility:
        with bar("training U-Nets") as show:
            _utility(result, settings, show)
    _summarise(result)
    return result


def _about(model: Model, settings: Settings, training: int, unseen: int) -> dict[str, Any]:
    return {
        "model": model.path.name,
        "model_digest": Synthesizer(model).model_digest,
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
    ranges = np.array([channel.typical for channel in plan.channels], np.float32)
    low, high = (ranges[:, side].reshape(-1, 1, 1, 1) for side in (0, 1))
    image = (case.image - low) / np.where(high > low, high - low, 1) * 2 - 1
    shape = tuple(case.image.shape[1:])
    return WorkingCase(
        case.name, np.clip(image, -1, 1).astype(np.float32), case.labels, case.affine, case.affine, shape
    )


def _images(cases: Sequence[WorkingCase]) -> np.ndarray:
    return np.stack([case.image for case in cases])


Encode = Callable[[np.ndarray], np.ndarray]
"""Images (N, C, *grid) -> features (N, d)."""


def encoder_for(training: Sequence[WorkingCase], label_count: int, settings: Settings) -> tuple[Encode, str]:
    """An encoder that was trained on the training cases, and its kind in words."""
    labelled = [case for case in training if case.labels is not None and label_count]
    if len(labelled) >= FEWEST_TRAINING_PAIRS:
        pairs, classes = pairs_of(labelled), label_count
        kind = f"the encoder of a U-Net that learned to segment the {len(labelled)} labelled training cases"
    else:
        classes = INTENSITY_CLASSES - 1
        pairs = Pairs(
            torch.from_numpy(_images(training)), torch.stack([torch.from_numpy(_classes(case)) for case in training])
        )
        kind = (
            f"the encoder of a U-Net that learned to tell {INTENSITY_CLASSES} ranges of smoothed intensity apart in "
            "the training cases, which have no segmentations: weaker than one of anatomy"
        )
    pairs, block = coarsened(pairs, classes, settings.device)
    encoder = Encoder.train(pairs, classes, settings.steps, settings.seed, settings.device)

    def encode(images: np.ndarray) -> np.ndarray:
        group = torch.from_numpy(images)
        return encoder(coarsened(Pairs(group, torch.zeros(len(group), *group.shape[2:])), 0, settings.device)[0].images)

    return encode, kind + (f", in blocks of {block} voxels a side" if block > 1 else "")


def _classes(case: WorkingCase) -> np.ndarray:
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(np.asarray(case.image[0]), 1.0)
    borders = np.quantile(smooth, np.arange(1, INTENSITY_CLASSES) / INTENSITY_CLASSES)
    return np.digitize(smooth, borders).astype(np.uint8)


def _fidelity(
    result: Evaluation,
    images: dict[str, np.ndarray],
    training: list[WorkingCase],
    plan,
    settings: Settings,
    show: Progress,
) -> None:
    show(0, 3, "features")
    encoder, kind = encoder_for(training, len(plan.labels), settings)
    result.about["features"] = kind
    features = {name: encoder(array) for name, array in images.items()}
    show(1, 3, "distances")
    section: dict[str, Any] = {}
    counts = {name: len(array) for name, array in images.items()}
    if min(counts.values()) >= 4:
        pairs = {"made": features["made"], "real": features["compared"]}
        section["kernel distance"] = {
            name: asdict(kernel_distance(features["reference"], each)) for name, each in pairs.items()
        }
    if min(counts.values()) > 2 * NEIGHBOURS:
        covers = {
            "made": coverage(features["reference"], features["made"]),
            "real": coverage(features["reference"], features["compared"]),
        }
        for figure in ("precision", "recall", "density", "coverage"):
            section[figure] = {name: round(getattr(cover, figure), 4) for name, cover in covers.items()}
    else:
        result.notes.append(
            f"Precision, recall, density and coverage need more than {2 * NEIGHBOURS} cases in every set; there are "
            f"{counts['made']} synthesized, {counts['reference']} and {counts['compared']} real ones."
        )
    section["diversity"] = {
        "made": round(relative_diversity(images["reference"], images["made"]), 4),
        "real": round(relative_diversity(images["reference"], images["compared"]), 4),
    }
    show(2, 3, "similarity")
    if levels_of(tuple(plan.grid.shape)) and min(counts.values()) >= 2:
        alike = {name: pairwise_similarity(images[name], settings.seed) for name in ("made", "compared")}
        section["pairwise MS-SSIM"] = {
            "made": round(float(np.mean(alike["made"])), 4),
            "real": round(float(np.mean(alike["compared"])), 4),
        }
        result.curves["similarity"] = alike
    result.figures["fidelity and diversity"] = section
    show(3, 3, "")


def _labels(result: Evaluation, made: Sequence[WorkingCase], real: Sequence[WorkingCase], plan) -> None:
    """Volumes and intensities: medians, and how far the distributions are apart (two-sample Kolmogorov-Smirnov)."""
    from scipy import stats

    from ..volumes.pipeline import unmap_intensities

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

    labelled = [case for case in real if case.labels is not None] if plan.labels else list(real)
    if not labelled:
        return
    (made_rows, made_pieces), (real_rows, real_pieces) = measured(made), measured(labelled)
    section, curves = {}, {}
    for name in made_rows[0]:
        if name not in real_rows[0]:
            continue
        values = {
            "made": np.array([row[name] for row in made_rows]),
            "real": np.array([row[name] for row in real_rows]),
        }
        section[name] = {
            key: [round(float(q), 4) for q in np.quantile(each, (0.25, 0.5, 0.75))] for key, each in values.items()
        }
        section[name]["apart"] = round(float(stats.ks_2samp(values["made"], values["real"]).statistic), 4)
        curves[name] = values
    for label in plan.labels:
        # Shares of cases whose label hangs together as that of real ones does.
        usual = {pieces[label.name] for pieces in real_pieces}
        section[f"pieces of {label.name}"] = {
            "made": round(float(np.mean([pieces[label.name] in usual for pieces in made_pieces])), 4),
            "real": 1.0,
            "of real": sorted(usual),
        }
    result.figures["volumes and intensities"] = section
    result.curves["measures"] = curves


def _structure(result: Evaluation, images: dict[str, np.ndarray], plan) -> None:
    section: dict[str, Any] = {
        "fine power": {
            "made": round(fine_power_ratio(images["reference"][:, 0], images["made"][:, 0]), 4),
            "real": round(fine_power_ratio(images["reference"][:, 0], images["compared"][:, 0]), 4),
        }
    }
    result.curves["spectrum"] = {name: radial_power(array[:, 0]) for name, array in images.items()}
    if plan.spatial_dims == 3:
        scales = plan.field.sigma, plan.field.rho
        statistics = {
            name: orientation_statistics(array, tuple(plan.grid.spacing), *scales) for name, array in images.items()
        }
        far = {key: statistics["reference"].distances(statistics[key]) for key in ("made", "compared")}
        for name, value in far["made"].items():
            section[f"{name} apart"] = {"made": round(value, 4), "real": round(far["compared"][name], 4)}
        result.curves["orientation"] = statistics
    result.figures["structure"] = section


def _privacy(result: Evaluation, show: Progress) -> None:
    if len(result.training) < 2:
        result.notes.append("One training case is too few to look for copies.")
        return
    found = examine(pictures_of(result.made), pictures_of(result.training), pictures_of(result.unseen), progress=show)
    result.privacy = found
    result.figures["privacy"] = {
        key: value for key, value in asdict(found).items() if key not in ("closest", "words")
    } | {"words": found.words}


def _utility(result: Evaluation, settings: Settings, show: Progress) -> None:
    training = [case for case in result.training if case.labels is not None]
    unseen = [case for case in result.unseen if case.labels is not None]
    labels = max((int(case.labels.max()) for case in [*training, *unseen]), default=0)
    if not labels or len(training) < FEWEST_TRAINING_PAIRS or len(unseen) < FEWEST_TRAINING_PAIRS:
        result.notes.append(
            "What the pairs are worth for a segmentation was not measured: that needs "
            f"{FEWEST_TRAINING_PAIRS} labelled training cases and as many new to the model; there are {len(training)} "
            f"and {len(unseen)}."
        )
        return
    found = measure_utility(
        pairs_of(training), pairs_of(result.made), pairs_of(unseen), labels, settings.steps, settings.seed,
        settings.device, show,
    )  # fmt: skip
    result.figures["utility"] = {
        arm: {
            "mean dice": round(found.mean(arm), 4),
            "dice": [None if math.isnan(value) else round(value, 4) for value in scores],
            "pairs": found.trained_on[arm],
        }
        for arm, scores in found.dice.items()
    } | {"tested on": found.tested_on, "updates": found.steps, "block": found.block}


def _summarise(result: Evaluation) -> None:
    section = result.figures["fidelity and diversity"]
    distance = section.get("kernel distance")
    if distance is not None:
        made, real = distance["made"], distance["real"]
        words = "as near to new real cases as training cases are, as far as so few cases can tell"
        if made["low"] > real["high"]:
            words = "farther from new real cases than training cases are: they can be told from real ones"
        result.summary.append(
            f"Fidelity: the synthesized cases are {words} (kernel distance {made['value']:.2g}, {made['low']:.2g} to "
            f"{made['high']:.2g}; training cases {real['value']:.2g}, {real['low']:.2g} to {real['high']:.2g})."
        )
    diversity = section["diversity"]["made"]
    lacking = "nearly all cases are alike: the generator has collapsed" if diversity < 0.1 else (
        "they vary less than real cases" if diversity < 0.7 else "they vary about as much as real cases"
    )  # fmt: skip
    recall = (
        f", and they reach {section['recall']['made']:.0%} of the kinds of real cases" if "recall" in section else ""
    )
    result.summary.append(f"Diversity: {lacking} ({diversity:.0%} of their variance){recall}.")
    if result.privacy is not None:
        result.summary.append(f"Privacy: {result.privacy.words}")
    utility = result.figures.get("utility")
    if utility is not None:
        gain = utility["real and synthesized"]["mean dice"] - utility["real"]["mean dice"]
        result.summary.append(
            f"Utility: a small U-Net reaches a Dice of {utility['real']['mean dice']:.3f} trained on real pairs, "
            f"{utility['synthesized']['mean dice']:.3f} on synthesized ones alone and "
            f"{utility['real and synthesized']['mean dice']:.3f} on both ({gain:+.3f}); one seed, so differences below "
            "0.01 mean nothing."
        )
