"""What the parts of the method are worth, measured: same networks, same steps, several seeds.

    .venv/bin/python Testing/Benchmarks/ablation.py run --data HIPPOCAMPUS [--brains BRAINS] [--stages search field ...]
    .venv/bin/python Testing/Benchmarks/ablation.py table

Every trial writes ``results/ablation/NAME.json`` when it is done; one that is there is not run again, so ``run`` goes
on where it was interrupted, and several of them share the work (one thread each: start as many as there are cores).
The stages are run in the order given; later ones read what earlier ones found best:

search     each variant with several penalty weights and learning rates, one seed, 800 steps
field      what the discriminator sees: each variant at its best weight and rate, three seeds, 3000 steps
optimizer  Adam against the conjugate-direction updates, on the best variant, two seeds
article    the article's baseline, for the processor time of the best variant, two seeds
brain      the image alone against the best variant, on the brain data set at 4 mm, two seeds, 1500 steps
calm       there too the best variant at the learning rate of the image alone, half its own, one seed
few        eight labelled cases and the rest without labels: what a head of its own for the pair should see, three seeds
           (one seed for one head that judges both) (H1)
terms      the best variant without the term of the data's statistics, two seeds (H4)
scale      the field at half and at twice its scales, two seeds (H3)
augmented  the field with held-out cases and augmentation as a plan has them, with all labels (two seeds) and with eight
agreement  image and field, each with the agreement of label boundaries and image surfaces beside it, two seeds (H2)

A generator learns from the training cases alone; 200 cases of it are compared with held-out cases: kernel distance
(KID) with interval, precision and recall in the features of an encoder that was trained on the training cases, the
diversity relative to real cases, the power near Nyquist's frequency, and the Dice of a small U-Net that was trained on
the synthesized pairs alone and tested on held-out real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from common import machine, run_or_table, table
from trial import LABELLED, PAIR_HEADS, PICTURES, RESULTS, Data, Trial, load, measure, pairs_of, run

COLLAPSE = 0.1
"""Diversity relative to real below which a generator counts as collapsed."""
SETTINGS = (
    *((1.0, 5e-4), (0.3, 5e-4), (3.0, 5e-4), (1.0, 2e-4)),
    *((0.1, 5e-4), (0.03, 5e-4), (0.1, 1e-3), (0.03, 1e-3), (0.1, 2e-3)),
)
"""Penalty weights, in units of :data:`UNIT`, and learning rates that are tried."""
COMPARED = ("image", "gradient", "tensor", "field", "field deeper")
SEARCH_STEPS, STEPS, BRAIN_STEPS = 800, 3000, 1500
SEEDS = (0, 1, 2)
TWO_SEEDS = SEEDS[:2]
BRAIN_SPACING = 4.0
"""mm; at the 3 mm of the files a trial would take an hour of one core."""


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
    """The variant with the largest median Dice over the seeds of the stage field.

    The kernel distance cannot rank them: that of every variant is below that of real training cases.
    """
    scores: dict[str, list[float]] = {}
    for result in results().values():
        trial = result["trial"]
        compared = result["stage"] == "field" and trial["data"] == "hippocampus"
        if compared and result["finite"]:
            scores.setdefault(trial["variant"], []).append(result["mean_dice"])
    if not scores:
        raise SystemExit("Nothing is known of the variants yet: run the stage field first.")
    return max(scores, key=lambda name: statistics.median(scores[name]))


def trials_of(stage: str) -> Iterator[Trial]:
    """The trials of a stage; later ones depend on what is done."""
    if stage == "search":
        for weight, rate in SETTINGS:
            for variant in COMPARED:
                yield Trial("hippocampus", variant, weight, rate, 0, SEARCH_STEPS)
    elif stage == "field":
        for seed in SEEDS:
            for variant in COMPARED:
                yield Trial("hippocampus", variant, *best_setting(variant), seed, STEPS)
    elif stage == "optimizer":
        variant = best_variant()
        for seed in TWO_SEEDS:
            for optimizer in ("PRP+", "HZ"):
                yield Trial("hippocampus", variant, *best_setting(variant), seed, STEPS, optimizer)
    elif stage == "article":
        variant = best_variant()
        spent = [
            result["training_cpu_seconds"]
            for result in results().values()
            if result["stage"] == "field" and result["trial"]["variant"] == variant
        ]
        for seed in TWO_SEEDS:
            limit = statistics.median(spent)
            yield Trial("hippocampus", "article", 1.0, 1e-4, seed, 10**6, method="article", seconds=limit)
    elif stage == "brain":
        for seed in TWO_SEEDS:
            for variant in ("image", best_variant()):
                yield Trial("brain", variant, *best_setting(variant), seed, BRAIN_STEPS)

    elif stage == "calm":
        weight, _ = best_setting(best_variant())
        yield Trial("brain", best_variant(), weight, best_setting("image")[1], SEEDS[0], BRAIN_STEPS)

    elif stage == "few":
        for seed in SEEDS:
            # One head for both is the baseline of the baseline: one seed.
            for heads in list(PAIR_HEADS)[0 if seed == SEEDS[0] else 1 :]:
                setting = best_setting("field")
                yield Trial("hippocampus", "field", *setting, seed, STEPS, labelled=LABELLED, heads=heads)
    elif stage == "terms":
        variant = best_variant()
        for seed in TWO_SEEDS:
            yield Trial("hippocampus", variant, *best_setting(variant), seed, STEPS, statistics=0.0)

    elif stage == "scale":
        for seed in TWO_SEEDS:
            for scale in (0.5, 2.0):
                yield Trial("hippocampus", "field", *best_setting("field"), seed, STEPS, scale=scale)

    elif stage == "augmented":
        setting = best_setting("field")
        for seed in TWO_SEEDS:
            yield Trial("hippocampus", "field", *setting, seed, STEPS, augmented=True)
        yield Trial("hippocampus", "field", *setting, SEEDS[0], STEPS, labelled=LABELLED, augmented=True)

    elif stage == "agreement":
        for seed in TWO_SEEDS:
            for variant in ("image", "field"):
                yield Trial("hippocampus", f"{variant} and agreement", *best_setting(variant), seed, STEPS)


DEPENDED_ON = ("search", "field")
STAGES = ("search", "field", "optimizer", "article", "brain", "calm", "few", "terms", "scale", "augmented", "agreement")


def wait_for(stages: list[str]) -> None:
    """Until the other processes have finished their trials of those earlier stages on which others depend."""
    needed = [stage for stage in stages if stage in DEPENDED_ON]
    while any(not trial.file.exists() for stage in needed for trial in trials_of(stage)):
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
    sources = {"hippocampus": (arguments.data, 2.0), "brain": (arguments.brains, BRAIN_SPACING)}
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
            result = run(trial, loaded[trial.data], with_dice=stage != "search")
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
        each(lambda r: r["mean_dice"], 3) if "mean_dice" in found[0] else "-",
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
            if trial.get("scale", 1.0) != 1:
                setting += f", scales x {trial['scale']:g}"
            if trial.get("augmented"):
                setting += ", augmented"
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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--brains", type=Path, help="a brain data set with labels")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))


if __name__ == "__main__":
    run_or_table(__doc__, add_options, run_stages, write_table)
