"""Is a segmentation better for synthesized pairs beside few real ones? The study, resumable, with a committed table.

    python Testing/Benchmarks/augmentation.py run --data HIPPOCAMPUS
    python Testing/Benchmarks/augmentation.py table

MSD Task04 Hippocampus at 2 mm, a quarter of it held out of everything and tested on (the split of ``trial``). Of the
rest n = 8 or 32 cases keep their labels. A generator learns from these and, without their labels, from the others; for
n = 8 a second one learns from the eight alone. Then U-Nets learn from

real            the n labelled pairs,
1:1, 2:1        these and 200 synthesized pairs, one or two synthesized ones drawn for each real one,
synthesized     the synthesized pairs alone,

with the same number of updates and the same strong classical augmentation in every arm (turned by up to 15 degrees
about each axis, scaled by 15 %, moved by 8 %, contrast, brightness, noise), three seeds of the U-Net each. Pairs are
drawn as they come from the generator, unscreened. Nothing of the tested cases was seen by any network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ablation import best_setting, write_result
from common import machine, run_or_table, table
from trial import LABELLED_SHARE, Data, Trial, load, pairs_of, synthesize

from GEDGANLib.segmentation.pairs import Pairs, dice, join, train_segmenter
from GEDGANLib.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "augmentation"
MADE = Path(__file__).parents[2] / "build" / "augmentation"
STEPS, UPDATES = 3000, 500
SEEDS = (0, 1, 2)
GENERATORS = {"8 labelled": (8, True), "8 alone": (8, False), "32 labelled": (32, True)}
"""Name -> labelled cases, and whether the others are learned from without their labels."""
ARMS = {"real": None, "1:1": 1.0, "2:1": 2.0, "synthesized": np.inf}
"""Name -> synthesized pairs drawn for each real one."""


def made_by(name: str, data: Data) -> Pairs:
    """Synthesized pairs of a generator, trained on first need and kept."""
    file = MADE / f"{name.replace(' ', '-')}.npz"
    if not file.exists():
        labelled, others = GENERATORS[name]
        weight, rate = best_setting("field")
        trial = Trial("hippocampus", "field", weight, rate, 0, STEPS, labelled=labelled)
        plan, cases = trial.plan_and_cases(data)
        cases = cases if others else cases[:labelled]
        share = LABELLED_SHARE if others else 0.0
        plan = replace(plan, training=replace(plan.training, labelled_share=share), augmentation=data.plan.augmentation)
        trainer = Trainer(plan, cases, "cpu", 0)
        start = time.process_time()
        for step in range(STEPS):
            trainer.set_progress(step / STEPS)
            if not trainer.step().sound():
                raise SystemExit(f"The generator {name} left the numbers at step {step}.")
            if step % 100 == 0:
                print(f"{time.strftime('%H:%M:%S')} {name}: step {step}", flush=True)
        pairs = synthesize(trainer, plan, 0)
        MADE.mkdir(parents=True, exist_ok=True)
        seconds = round(time.process_time() - start)
        np.savez(file, images=pairs.images.numpy(), labels=pairs.labels.numpy(), cpu_seconds=seconds)
    stored = np.load(file)
    return Pairs(torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"]))


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    data = load("hippocampus", arguments.data, 2.0)
    test, label_count = data.real, len(data.plan.labels)
    for seed in SEEDS:
        for generator, (labelled, _) in GENERATORS.items():
            real = pairs_of(data.training[:labelled])
            for arm, ratio in ARMS.items():
                # The same real pairs, whatever generator stands beside them.
                name = f"{labelled}-real" if ratio is None else f"{generator}-{arm}"
                file = RESULTS / f"{name.replace(' ', '-').replace(':', 'to')}-seed{seed}.json"
                if file.exists():
                    continue
                pairs, shares = real, None
                if ratio is not None:
                    made = made_by(generator, data)
                    pairs = made if np.isinf(ratio) else join(real, made)
                    if not np.isinf(ratio):
                        shares = torch.cat(
                            [torch.ones(len(real)) / len(real), ratio * torch.ones(len(made)) / len(made)]
                        )
                start = time.process_time()
                network = train_segmenter(pairs, label_count, UPDATES, seed, shares=shares)
                scores = dice(network, test, label_count)
                write_result(
                    file,
                    {
                        "labelled": labelled, "generator": None if ratio is None else generator, "arm": arm,
                        "seed": seed, "dice": scores, "mean_dice": float(np.nanmean(scores)), "updates": UPDATES,
                        "steps": STEPS, "cpu_seconds": round(time.process_time() - start), "machine": machine(),
                    },
                )  # fmt: skip
                print(f"{time.strftime('%H:%M:%S')} {name}, seed {seed}: {np.nanmean(scores):.3f}", flush=True)


def write_table() -> None:
    """One line an arm; Dice of each seed, mean, and the difference from the real pairs alone."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    groups: dict[tuple, list[float]] = {}
    for result in sorted(found, key=lambda r: r["seed"]):
        groups.setdefault((result["labelled"], result["generator"] or "", result["arm"]), []).append(
            result["mean_dice"]
        )
    rows = []
    for (labelled, generator, arm), scores in sorted(groups.items()):
        base = groups.get((labelled, "", "real"))
        words = arm if not generator else f"{arm}, generator: {generator}"
        gain = ""
        if base and generator and len(base) == len(scores):
            gains = [score - other for score, other in zip(scores, base)]
            gain = f"{100 * statistics.mean(gains):+.1f} ({', '.join(f'{100 * each:+.1f}' for each in gains)})"
        each = " / ".join(f"{score:.3f}" for score in scores)
        rows.append([str(labelled), words, each, f"{statistics.mean(scores):.3f}", gain])
    heading = ["real labelled pairs", "trained on", "Dice by seed", "mean", "points over real alone (by seed)"]
    hours = sum(result["cpu_seconds"] for result in found) / 3600
    text = "\n".join(
        [
            "# Synthesized pairs beside few real ones", "",
            "Made by `Testing/Benchmarks/augmentation.py`, whose text says how.", "", table(heading, rows), "",
            f"{UPDATES} updates of a U-Net in every arm, {STEPS} steps of a generator; {hours:.1f} hours of one core "
            f"for the U-Nets. {found[0]['machine'] if found else ''}", "",
        ]
    )  # fmt: skip
    (RESULTS.parent / "augmentation.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    run_or_table(__doc__, lambda parser: None, run, write_table)
