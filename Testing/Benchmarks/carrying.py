"""Carried segmentations: how good, how well that is known beforehand, and which scans to segment first.

    .venv/bin/python Testing/Benchmarks/carrying.py run RUN DATA [--targets 20] [--choices 10] [--counts 1 3]
    .venv/bin/python Testing/Benchmarks/carrying.py table

RUN is of ``gedgan align DATA``, all of whose cases are segmented here; what is carried to a case is compared with its
own segmentation, on its own voxels. From n labelled cases, those that ``gedgan next`` would have chosen and ten random
choices. Each choice is kept in ``results/carrying/`` when it is done, and not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from common import machine, table
from scipy.stats import spearmanr

from GEDGANLib.alignment.carrying import POWERS, carry, dice, fused
from GEDGANLib.alignment.modes import components_of
from GEDGANLib.alignment.runs import model_and_run
from GEDGANLib.synthesis.carried import Carrier, next_to_segment
from GEDGANLib.synthesis.model_file import load_model
from GEDGANLib.synthesis.statistical import Population
from GEDGANLib.synthesis.variations import Places, Variations
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.labels import LabelTable
from GEDGANLib.volumes.pipeline import load_case

RESULTS = Path(__file__).parent / "results"
SEED = 0


def run(arguments: argparse.Namespace) -> None:
    path, folder = model_and_run(arguments.run)
    model = load_model(path, "cpu", with_population=True)
    variations, dataset = Variations(model, Places.of(folder)), find_dataset(arguments.data)
    labels, files = tuple(model.plan.labels), {files.name: files for files in dataset.cases}
    population = Population.of(model.population, model.about["population"])
    names = [name for name in population.names if files[name].label is not None]
    rows = [population.names.index(name) for name in names]
    coefficients = components_of(population.products, range(population.members)).coefficients[rows]
    known, cases = {}, {}

    def laid(name: str):
        if name not in known:
            table_of = LabelTable(dataset)
            cases[name] = load_case(files[name], dataset, labels, table_of, {label.name for label in labels})
            known[name] = Carrier(variations, labels).laid(cases[name])
        return known[name]

    random = np.random.default_rng(SEED)
    targets = list(random.permutation(names)[: arguments.targets])
    others = [name for name in names if name not in targets]
    rows = [names.index(name) for name in others]
    (RESULTS / "carrying").mkdir(exist_ok=True)
    for count in arguments.counts:
        suggested = [each.name for each in next_to_segment(others, coefficients[rows], set(), count)]
        choices = [("next", suggested)]
        choices += [(f"random {index}", list(random.permutation(others)[:count])) for index in range(arguments.choices)]
        for words, chosen in choices:
            kept = RESULTS / "carrying" / f"{arguments.data.name}-{count}-{words.replace(' ', '-')}.json"
            if kept.exists():
                continue
            carrier, found = Carrier(variations, labels), []
            carrier.take([laid(name) for name in chosen])
            begun = time.monotonic()
            for name in targets:
                target = laid(name)
                truth = target.labels

                def mean(made: np.ndarray, truth: np.ndarray = truth) -> float:
                    return float(np.nanmean([dice(made, truth, label.index) for label in labels]))

                plain = carry(target, carrier.sources, carrier.settings, refine=False)
                refined = carry(target, carrier.sources, carrier.settings)
                made = carrier.carried(cases[name], target)
                found.append(
                    {
                        "case": name, "unrefined": mean(fused(plain, 0.0, len(labels))[0]),
                        "dice": mean(made.case.labels), "trust": made.trust,
                        "powers": [mean(fused(refined, power, len(labels))[0]) for power in POWERS],
                    }
                )  # fmt: skip
            seconds = (time.monotonic() - begun) / len(targets)
            kept.write_text(json.dumps({"chosen": chosen, "power": carrier.power, "seconds": seconds, "found": found}))
            print(kept.name, f"{np.mean([each['dice'] for each in found]):.4f}", flush=True)


def worst_found(rows: list[dict]) -> float:
    """Share of the truly worst tenth that is in the least trusted tenth."""
    count = max(len(rows) // 10, 1)
    worst = {each["case"] for each in sorted(rows, key=lambda each: each["dice"])[:count]}
    least = {each["case"] for each in sorted(rows, key=lambda each: each["trust"])[:count]}
    return len(worst & least) / count


def write_table() -> None:
    heading = ["data", "n", "choices", "through the template", "refined", "weighted", "`next`", "Spearman of trust",
               "worst tenth found", "s a target"]  # fmt: skip
    rows, groups = [], {}
    for path in sorted((RESULTS / "carrying").glob("*.json")):
        data, count, words = path.stem.split("-", 2)
        groups.setdefault((data, int(count)), {})[words] = json.loads(path.read_text())
    for (data, count), found in sorted(groups.items()):
        random = [each for words, each in found.items() if words != "next"]

        def mean(name: str, random=random) -> str:
            values = [np.mean([row[name] for row in each["found"]]) for each in random]
            return f"{np.mean(values):.3f} ({np.std(values):.3f})"

        plain = [np.mean([row["powers"][0] for row in each["found"]]) for each in random]
        told = [spearmanr(*zip(*[(row["trust"], row["dice"]) for row in each["found"]]))[0] for each in found.values()]
        next_to = np.mean([row["dice"] for row in found["next"]["found"]]) if "next" in found else np.nan
        better = np.mean([next_to > np.mean([row["dice"] for row in each["found"]]) for each in random])
        rows.append(
            [data, str(count), str(len(random)), mean("unrefined"), f"{np.mean(plain):.3f} ({np.std(plain):.3f})",
             mean("dice"), f"{next_to:.3f}, better than {better:.0%} of the choices",
             f"{np.mean(told):.2f} ({np.min(told):.2f} to {np.max(told):.2f})",
             f"{np.mean([worst_found(each['found']) for each in found.values()]):.0%}",
             f"{np.mean([each['seconds'] for each in found.values()]):.1f}"]
        )  # fmt: skip
    words = (
        "Mean Dice on the targets' own voxels, as a mean over random choices of the segmented scans (deviation over "
        "these). Refined: registered directly, too; weighted: as the command does it; `next`: from the scans that "
        "`gedgan next` names. Trust: as a mean over choices (smallest to largest). hippocampus60: 60 hippocampi of "
        "1 mm, aligned at 2 mm, 20 targets."
    )
    text = f"# Carried segmentations\n\n{machine()}\n\n{words}\n\n{table(heading, rows)}\n"
    (RESULTS / "carrying.md").write_text(text)
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="what", required=True)
    runner = kinds.add_parser("run")
    runner.add_argument("run", type=Path)
    runner.add_argument("data", type=Path)
    runner.add_argument("--targets", type=int, default=20)
    runner.add_argument("--choices", type=int, default=10)
    runner.add_argument("--counts", type=int, nargs="+", default=[1, 3])
    kinds.add_parser("table")
    given = parser.parse_args()
    if given.what == "run":
        run(given)
    write_table()
