"""What the parts of the method are worth, measured: same networks, same steps, several seeds.

    .venv/bin/python Testing/Benchmarks/ablation.py run --data HIPPOCAMPUS [--brains BRAINS] [--stages search field ...]
    .venv/bin/python Testing/Benchmarks/ablation.py table

Every trial writes ``results/ablation/NAME.json`` when it is done; one that is there is not run again, so ``run`` goes
on where it was interrupted, and several of them share the work (one thread each: start as many as there are cores).
The stages are run in the order given; later ones read what earlier ones found best:

search     each variant with several penalty weights and learning rates, one seed, 800 steps
field      what the discriminator sees: each variant at its best weight and rate, three seeds, 3000 steps
optimizer  Adam against the conjugate-direction updates, on the best variant
article    the article's baseline, for the processor time of the best variant
brain      the image alone against the best variant, on the brain data set
few        eight labelled cases and the rest without labels: what a head of its own for the pair should see (H1)
terms      the best variant without the term of the data's statistics (H4)

A generator learns from the training cases alone; 200 cases of it are compared with held-out cases: kernel distance
(KID) with interval, precision and recall in the features of an encoder that was trained on the training cases, the
diversity relative to real cases, the power near Nyquist's frequency, and the Dice of a small U-Net that was trained on
the synthesized pairs alone and tested on held-out real ones.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import machine, table

from GEDGANLib.plan import Plan
from GEDGANLib.planning import make_plan
from GEDGANLib.quality.distances import coverage, kernel_distance, relative_diversity
from GEDGANLib.quality.features import Encoder
from GEDGANLib.quality.segmentation import Pairs, dice, train_segmenter
from GEDGANLib.quality.spectrum import fine_power_ratio
from GEDGANLib.synthesis.synthesizer import latent_of
from GEDGANLib.training.trainer import Trainer
from GEDGANLib.volumes.case import Case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.pictures import contact_sheet
from GEDGANLib.volumes.pipeline import WorkingCase, check_dataset, load_working_cases

RESULTS = Path(__file__).parent / "results" / "ablation"
PICTURES = Path(__file__).parents[2] / "build" / "ablation"
HELD_OUT_SHARE = 0.25
MADE = 200
SEGMENTER_STEPS = 500
COLLAPSE = 0.1
"""Diversity relative to real below which a generator counts as collapsed."""

VARIANTS = {
    "image": {"kind": "none"},
    "gradient": {"kind": "gradient"},
    "tensor": {"kind": "tensor"},
    "field": {"kind": "eigen-directional"},
    "field deeper": {"kind": "eigen-directional", "stage": 1},
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
SETTINGS = (
    *((1.0, 5e-4), (0.3, 5e-4), (3.0, 5e-4), (1.0, 2e-4)),
    *((0.1, 5e-4), (0.03, 5e-4), (0.1, 1e-3), (0.03, 1e-3), (0.1, 2e-3)),
)
"""Penalty weights, in units of :data:`UNIT`, and learning rates that are tried."""
UNIT = 100 / (32 * 40 * 32)
"""γ a voxel of the grid."""
SEARCH_STEPS, STEPS = 800, 3000
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Trial:
    """One training and its measurement.

    :param weight: of the penalty, in units of :data:`UNIT`.
    :param seconds: of processor time, instead of ``steps``.
    :param labelled: training cases that keep their labels; all of them when not given.
    :param heads: one of :data:`PAIR_HEADS`.
    :param statistics: weight of the term of the data's statistics; the plan's when not given.
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

    @property
    def name(self) -> str:
        parts = [self.data, self.method, self.variant, self.optimizer, f"w{self.weight:g}", f"lr{self.rate:g}"]
        if self.labelled is not None:
            parts += [f"labelled{self.labelled}", self.heads]
        if self.statistics is not None:
            parts.append(f"statistics{self.statistics:g}")
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
        )
        field = replace(plan.field, **VARIANTS[self.variant])
        networks = replace(plan.networks, **PAIR_HEADS[self.heads])
        few = len(data.training) if self.labelled is None else self.labelled
        cases = [case if i < few else replace(case, labels=None) for i, case in enumerate(data.training)]
        return replace(plan, field=field, networks=networks, training=training), cases


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
    network = train_segmenter(pairs, label_count, 0, 0, normalisation="batch")
    network.load_state_dict(load_file(file))
    return Encoder(network.eval(), pairs.images)


def run(trial: Trial, data: Data) -> dict:
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
        finite = trainer.step().finite()
        step += 1
    result = {"trial": asdict(trial), "machine": machine(), "steps": step, "finite": finite}
    result["training_cpu_seconds"] = round(time.process_time() - start_cpu)
    if finite:
        made = cropped(synthesize(trainer, plan, trial.seed), data.plan.grid.shape)
        result |= measure(made, data, trial.seed, with_dice=trial.steps != SEARCH_STEPS)
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


def results() -> dict[str, dict]:
    """What is done, by the trial's name."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*_*.json"))}


def collapsed(result: dict) -> bool:
    return not result["finite"] or result["diversity"] < COLLAPSE


def best_setting(variant: str, data: str = "hippocampus") -> tuple[float, float]:
    """Penalty weight and rate with the smallest kernel distance among those of the search that did not collapse."""
    found = [
        result
        for result in results().values()
        if result["trial"]["variant"] == variant
        and result["trial"]["data"] == data
        and result["trial"]["steps"] == SEARCH_STEPS
        and not collapsed(result)
    ]
    if not found:
        raise SystemExit(f"Nothing is known of {variant} yet: run the stage search first.")
    chosen = min(found, key=lambda result: result["kid"]["value"])["trial"]
    return chosen["weight"], chosen["rate"]


def best_variant() -> str:
    """The variant with the smallest median kernel distance over the seeds of the stage field."""
    distances: dict[str, list[float]] = {}
    for result in results().values():
        trial = result["trial"]
        compared = result["stage"] == "field" and trial["data"] == "hippocampus"
        if compared and result["finite"]:
            distances.setdefault(trial["variant"], []).append(result["kid"]["value"])
    if not distances:
        raise SystemExit("Nothing is known of the variants yet: run the stage field first.")
    return min(distances, key=lambda name: statistics.median(distances[name]))


def trials_of(stage: str) -> Iterator[Trial]:
    """The trials of a stage; later ones depend on what is done."""
    if stage == "search":
        for weight, rate in SETTINGS:
            for variant in VARIANTS:
                yield Trial("hippocampus", variant, weight, rate, 0, SEARCH_STEPS)
    elif stage == "field":
        for seed in SEEDS:
            for variant in VARIANTS:
                yield Trial("hippocampus", variant, *best_setting(variant), seed, STEPS)
    elif stage == "optimizer":
        variant = best_variant()
        for seed in SEEDS:
            for optimizer in ("PRP+", "HZ"):
                yield Trial("hippocampus", variant, *best_setting(variant), seed, STEPS, optimizer)
    elif stage == "article":
        variant = best_variant()
        spent = [
            result["training_cpu_seconds"]
            for result in results().values()
            if result["trial"]["variant"] == variant and result["trial"]["steps"] == STEPS
        ]
        for seed in SEEDS:
            limit = statistics.median(spent)
            yield Trial("hippocampus", "article", 1.0, 1e-4, seed, 10**6, method="article", seconds=limit)
    elif stage == "brain":
        for seed in SEEDS[:2]:
            for variant in ("image", best_variant()):
                yield Trial("brain", variant, *best_setting(variant), seed, STEPS)

    elif stage == "few":
        for seed in SEEDS:
            for heads in PAIR_HEADS:
                setting = best_setting("field")
                yield Trial("hippocampus", "field", *setting, seed, STEPS, labelled=LABELLED, heads=heads)
    elif stage == "terms":
        variant = best_variant()
        for seed in SEEDS:
            yield Trial("hippocampus", variant, *best_setting(variant), seed, STEPS, statistics=0.0)


STAGES = ("search", "field", "optimizer", "article", "brain", "few", "terms")


def wait_for(stages: list[str]) -> None:
    """Until the other processes have finished their trials of earlier stages, on which the next depends."""
    while any(not trial.file.exists() for stage in stages for trial in trials_of(stage)):
        time.sleep(5)


def claim(trial: Trial) -> bool:
    """Take a trial, unless it is done or another living process has it."""
    if trial.file.exists():
        return False
    PICTURES.mkdir(parents=True, exist_ok=True)
    lock = PICTURES / f"{trial.name}.claim"
    try:
        owner = int(lock.read_text())
        os.kill(owner, 0)
        return False
    except FileNotFoundError:
        pass
    except (ValueError, ProcessLookupError):
        lock.unlink(missing_ok=True)
    try:
        with open(lock, "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def write_result(file: Path, result: dict) -> None:
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, file)


def write_reference(data: Data) -> None:
    """The same figures for real training cases, what a perfect generator would reach, and for the few labelled ones."""
    for name, cases in (("real", data.training), (f"real{LABELLED}", data.training[:LABELLED])):
        file = RESULTS / f"{data.name}-{name}.json"
        if not file.exists():
            write_result(file, {"machine": machine(), **measure(pairs_of(cases), data, 0)})


def run_stages(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    sources = {"hippocampus": (arguments.data, 2.0), "brain": (arguments.brains, None)}
    loaded: dict[str, Data] = {}
    for stage in arguments.stages:
        wait_for(arguments.stages[: arguments.stages.index(stage)])
        for trial in trials_of(stage):
            if not claim(trial):
                continue
            if trial.data not in loaded:
                folder, spacing = sources[trial.data]
                if folder is None:
                    raise SystemExit(f"The stage {stage} needs the {trial.data} data.")
                loaded[trial.data] = load(trial.data, folder, spacing)
                write_reference(loaded[trial.data])
            print(f"{time.strftime('%H:%M:%S')} {stage}: {trial.name}", flush=True)
            result = run(trial, loaded[trial.data])
            write_result(trial.file, {"stage": stage, **result})
            if result["finite"]:
                print(f"  KID {result['kid']['value']:.3f}, Dice {result.get('mean_dice', 0):.3f}", flush=True)


def row(name: str, found: list[dict]) -> list[str]:
    def each(figure, digits: int = 2) -> str:
        return " / ".join(f"{figure(result):.{digits}f}" if result.get("finite", True) else "-" for result in found)

    interval = " / ".join(
        f"{r['kid']['value']:.3f} ({r['kid']['low']:.2f} to {r['kid']['high']:.2f})" if r.get("finite", True) else "-"
        for r in found
    )
    lost = sum(collapsed(result) for result in found) if "finite" in found[0] else 0
    return [
        name,
        interval,
        each(lambda r: r["precision"]),
        each(lambda r: r["recall"]),
        each(lambda r: r["diversity"]),
        each(lambda r: r["fine_power"]),
        each(lambda r: r.get("mean_dice", float("nan")), 3),
        f"{lost} of {len(found)}",
        f"{sum(r.get('cpu_seconds', 0) for r in found) / 3600:.2f}",
    ]


HEADING = ["trial", "KID", "precision", "recall", "diversity", "fine power", "Dice", "collapsed", "CPU hours"]


def write_table() -> None:
    """All results as Markdown, a table a stage; one line a setting, the seeds beside each other."""
    done = results()
    lines = ["# What the parts are worth", "", "Made by `Testing/Benchmarks/ablation.py`, whose text says how.", ""]
    for stage in STAGES:
        of_stage = [result for result in done.values() if result["stage"] == stage]
        if not of_stage:
            continue
        groups: dict[str, list[dict]] = {}
        for result in sorted(of_stage, key=lambda r: r["trial"]["seed"]):
            trial = result["trial"]
            setting = f"{trial['variant']}, {trial['optimizer']}, weight {trial['weight']:g}, rate {trial['rate']:g}"
            if trial.get("labelled") is not None:
                setting += f", {trial['labelled']} labelled, {trial['heads']}"
            if trial.get("statistics") is not None:
                setting += f", statistics x {trial['statistics']:g}"
            groups.setdefault(setting if trial["method"] == "ged" else "the article's baseline", []).append(result)
        data = of_stage[0]["trial"]["data"]
        rows = [row(name, found) for name, found in sorted(groups.items())]
        for name, words in (("real", "real training cases"), (f"real{LABELLED}", f"{LABELLED} real training cases")):
            reference = RESULTS / f"{data}-{name}.json"
            if reference.exists() and (name == "real" or stage == "few"):
                rows.append(row(words, [json.loads(reference.read_text(encoding="utf-8"))]))
        steps, seeds = of_stage[0]["trial"]["steps"], sorted({r["trial"]["seed"] for r in of_stage})
        words = f"{steps} steps" if steps < 10**6 else "the same processor time"
        lines += [f"## {stage}: {data}, {words}, seeds {', '.join(map(str, seeds))}", "", table(HEADING, rows), ""]
    total = sum(result["cpu_seconds"] for result in done.values()) / 3600
    lines += [f"{total:.1f} hours of one core in all. {next(iter(done.values()))['machine'] if done else ''}", ""]
    text = "\n".join(lines)
    (RESULTS.parent / "ablation.md").write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run what is not done yet")
    runner.add_argument("--data", type=Path, required=True, help="MSD Task04 Hippocampus")
    runner.add_argument("--brains", type=Path, help="a brain data set with labels")
    runner.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    commands.add_parser("table", help="write results/ablation.md")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run_stages(arguments)
    write_table()


if __name__ == "__main__":
    main()
