"""One trial of the ablation: a data set split once and for all, a training, its measurement; see ``ablation``."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import machine

from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.planning.plan import Augmentation, Plan
from GEDGANLib.quality.distances import coverage, kernel_distance, relative_diversity
from GEDGANLib.quality.features import RECIPE, Encoder
from GEDGANLib.segmentation.pairs import Pairs, dice, train_segmenter
from GEDGANLib.structure.spectrum import fine_power_ratio
from GEDGANLib.synthesis.synthesizer import latent_of
from GEDGANLib.training.trainer import Trainer
from GEDGANLib.volumes.case import Case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.pictures import contact_sheet
from GEDGANLib.volumes.pipeline import WorkingCase, load_working_cases

RESULTS = Path(__file__).parent / "results" / "ablation"
PICTURES = Path(__file__).parents[2] / "build" / "ablation"
HELD_OUT_SHARE = 0.25
MADE = 200
SEGMENTER_STEPS = 500

VARIANTS = {
    "image": {"kind": "none"},
    "gradient": {"kind": "gradient"},
    "tensor": {"kind": "tensor"},
    "field": {"kind": "eigen-directional"},
    "field deeper": {"kind": "eigen-directional", "stage": 1},
    "image and agreement": {"kind": "none", "agreement": True},
    "field and agreement": {"kind": "eigen-directional", "agreement": True},
}
"""What the discriminator sees: changes of the plan's field."""
PAIR_HEADS = {
    "one head": {"heads": "shared"},
    "pair head on image": {"heads": "separate", "pair_sees": "image"},
    "pair head on field": {"heads": "separate", "pair_sees": "field"},
    "pair head on both": {"heads": "separate", "pair_sees": "both"},
}
"""What judges the few labelled cases: changes of the plan's networks, with the field for the image."""
LABELLED, LABELLED_SHARE = 8, 0.5
UNIT = 100 / (32 * 40 * 32)
"""γ a voxel of the grid."""


@dataclass(frozen=True)
class Trial:
    """One training and its measurement.

    :param weight: of the penalty, in units of :data:`UNIT`.
    :param seconds: of processor time, instead of ``steps``.
    :param labelled: training cases that keep their labels; all of them when not given.
    :param heads: one of :data:`PAIR_HEADS`.
    :param statistics: weight of the term of the data's statistics; the plan's when not given.
    :param scale: of the field, σ and ρ, in units of the plan's.
    :param augmented: hold cases out and augment as the plan does; else all training cases are learned from as they are.
    """

    data: str
    variant: str
    weight: float
    rate: float
    seed: int
    steps: int
    optimizer: str = "adam"
    method: str = "ged"
    seconds: float | None = None
    labelled: int | None = None
    heads: str = "one head"
    statistics: float | None = None
    scale: float = 1.0
    augmented: bool = False

    @property
    def name(self) -> str:
        parts = [self.data, self.method, self.variant, self.optimizer, f"w{self.weight:g}", f"lr{self.rate:g}"]
        if self.labelled is not None:
            parts += [f"labelled{self.labelled}", self.heads]
        if self.statistics is not None:
            parts.append(f"statistics{self.statistics:g}")
        if self.scale != 1:
            parts.append(f"scale{self.scale:g}")
        if self.augmented:
            parts.append("augmented")
        return "_".join([*parts, f"steps{self.steps}", f"seed{self.seed}"]).replace(" ", "-").replace("+", "plus")

    @property
    def file(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def plan_and_cases(self, data: Data) -> tuple[Plan, list[WorkingCase]]:
        """The plan of the data, changed to what is tried, and the training cases on its grid."""
        if self.method == "article":
            return data.article_plan, data.article_training
        plan = data.plan
        training = replace(
            plan.training,
            penalty_weight=self.weight * float(f"{UNIT * math.prod(plan.grid.shape):.2g}"),
            learning_rate=self.rate,
            optimizer=self.optimizer,
            labelled_share=0.0 if self.labelled is None else LABELLED_SHARE,
            statistics_weight=plan.training.statistics_weight if self.statistics is None else self.statistics,
            # What is held out here is held out of the training altogether.
            held_out=plan.training.held_out if self.augmented else 0,
        )
        scales = {"sigma": self.scale * plan.field.sigma, "rho": self.scale * plan.field.rho}
        field = replace(plan.field, **scales, **VARIANTS[self.variant])
        networks = replace(plan.networks, **PAIR_HEADS[self.heads])
        few = len(data.training) if self.labelled is None else self.labelled
        cases = [case if i < few else replace(case, labels=None) for i, case in enumerate(data.training)]
        parts = {"field": field, "networks": networks, "training": training}
        return replace(plan, augmentation=plan.augmentation if self.augmented else Augmentation(), **parts), cases


@dataclass(frozen=True)
class Data:
    """A data set on its working grid, split once and for all.

    :param article_plan: of the article's baseline, whose networks take other grids; the same voxels and centre.
    :param article_training: the training cases on that grid.
    """

    name: str
    plan: Plan
    training: list[WorkingCase]
    held_out: list[WorkingCase]
    encoder: Encoder
    article_plan: Plan
    article_training: list[WorkingCase]

    @property
    def real(self) -> Pairs:
        return pairs_of(self.held_out)


def pairs_of(cases: list[WorkingCase]) -> Pairs:
    return Pairs(
        torch.stack([torch.from_numpy(case.image) for case in cases]),
        torch.stack([torch.from_numpy(case.labels) for case in cases]),
    )


def load(name: str, folder: Path, spacing: float | None) -> Data:
    dataset = find_dataset(folder)
    fingerprint = check_dataset(dataset)
    wanted = None if spacing is None else [spacing] * 3
    plan = make_plan(fingerprint, "cpu", spacing=wanted)
    article_plan = make_plan(fingerprint, "cpu", spacing=wanted, method="article")
    cases, article_cases = (list(load_working_cases(dataset, each)) for each in (plan, article_plan))
    order = np.random.default_rng(0).permutation(len(cases))
    held_out, training = np.split(order, [int(len(cases) * HELD_OUT_SHARE)])
    return Data(
        name,
        plan,
        [cases[i] for i in training],
        [cases[i] for i in held_out],
        encoder_of(name, pairs_of([cases[i] for i in training]), len(plan.labels)),
        article_plan,
        [article_cases[i] for i in training],
    )


def encoder_of(name: str, pairs: Pairs, label_count: int) -> Encoder:
    """The encoder of a data set: trained once and kept with the results, so that all trials are judged alike."""
    from safetensors.torch import load_file, save_file

    file = RESULTS / f"encoder-{name}.safetensors"
    if not file.exists():
        encoder = Encoder.train(pairs, label_count, SEGMENTER_STEPS)
        about = {"trained on": f"the training cases of {name}", "for": "Testing/Benchmarks/ablation.py"}
        RESULTS.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        # Cloned, since MONAI's network holds its layers under several names.
        weights = {key: value.clone().contiguous() for key, value in encoder.network.state_dict().items()}
        save_file(weights, partial, metadata=about)
        os.replace(partial, file)
    network = train_segmenter(pairs, label_count, 0, 0, recipe=RECIPE)
    network.load_state_dict(load_file(file))
    return Encoder(network.eval(), pairs.images)


def run(trial: Trial, data: Data, with_dice: bool = True) -> dict:
    """Train, synthesize, measure."""
    plan, cases = trial.plan_and_cases(data)
    start, start_cpu = time.time(), time.process_time()
    trainer = Trainer(plan, cases, "cpu", trial.seed)
    finite, step = True, 0
    while finite and step < trial.steps:
        spent = time.process_time() - start_cpu
        trainer.set_progress(step / trial.steps if trial.seconds is None else spent / trial.seconds)
        if trial.seconds is not None and spent >= trial.seconds:
            break
        finite = trainer.step().sound()
        step += 1
    result = {"trial": asdict(trial), "machine": machine(), "steps": step, "finite": finite}
    result |= {"strength": trainer.strength.value, "overfitting": trainer.strength.overfitting}
    result["training_cpu_seconds"] = round(time.process_time() - start_cpu)
    if finite:
        made = cropped(synthesize(trainer, plan, trial.seed), data.plan.grid.shape)
        result |= measure(made, data, trial.seed, with_dice=with_dice)
        draw(trial, made, data)
    return result | {"cpu_seconds": round(time.process_time() - start_cpu), "seconds": round(time.time() - start)}


@torch.inference_mode()
def synthesize(trainer: Trainer, plan: Plan, seed: int) -> Pairs:
    images, labels = [], []
    trainer.average.eval()
    for index in range(MADE):
        latent = torch.from_numpy(latent_of(seed, index, plan.networks.latent_size))[None]
        output = trainer.average(latent)
        images.append(output[:, : len(plan.channels)])
        labels.append(output[:, len(plan.channels) :].argmax(1).to(torch.uint8))
    return Pairs(torch.cat(images), torch.cat(labels))


def cropped(pairs: Pairs, shape: tuple[int, ...]) -> Pairs:
    """The middle of the cases, ``shape`` voxels."""
    starts = [(side - wanted) // 2 for side, wanted in zip(pairs.labels.shape[1:], shape)]
    middle = tuple(slice(start, start + wanted) for start, wanted in zip(starts, shape))
    return Pairs(pairs.images[(..., *middle)].contiguous(), pairs.labels[(..., *middle)].contiguous())


def measure(made: Pairs, data: Data, seed: int, with_dice: bool = True) -> dict:
    """All figures of synthesized (or, for comparison, real) pairs beside the held-out cases."""
    real = data.real
    real_features, features = data.encoder(real.images), data.encoder(made.images)
    distance, cover = kernel_distance(real_features, features), coverage(real_features, features)
    label_count = len(data.plan.labels)
    figures = {
        "kid": asdict(distance),
        **asdict(cover),
        "diversity": relative_diversity(real.images.numpy(), made.images.numpy()),
        "fine_power": fine_power_ratio(real.images[:, 0].numpy(), made.images[:, 0].numpy()),
    }
    if not with_dice:
        return figures
    scores = dice(train_segmenter(made, label_count, SEGMENTER_STEPS, seed), real, label_count)
    return figures | {"dice": scores, "mean_dice": float(np.nanmean(scores))}


def draw(trial: Trial, made: Pairs, data: Data) -> None:
    table_of_labels = tuple(data.plan.labels)
    cases = [
        Case(f"{i}", made.images[i].numpy(), made.labels[i].numpy(), data.plan.grid.affine, table_of_labels)
        for i in range(4)
    ]
    real = [Case(c.name, c.image, c.labels, c.affine, table_of_labels) for c in data.held_out[:4]]
    PICTURES.mkdir(parents=True, exist_ok=True)
    contact_sheet(PICTURES / f"{trial.name}.png", [("real", real), ("synthesized", cases)], trial.name)
