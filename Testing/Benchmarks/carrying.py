"""Carried segmentations: how good, how well that is known beforehand, and which scans to segment first.

    .venv/bin/python Testing/Benchmarks/carrying.py run RUN DATA --name NAME [--targets 20] [--choices 10]
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

from GEDGANLib.alignment.carrying import Brought, bringing, dice, electing
from GEDGANLib.alignment.modes import components_of
from GEDGANLib.alignment.runs import model_and_run
from GEDGANLib.alignment.similarity import LocalCorrelation
from GEDGANLib.jobs.steps import through
from GEDGANLib.synthesis.carried import Carrier, next_to_segment
from GEDGANLib.synthesis.model_file import load_model
from GEDGANLib.synthesis.statistical import Population
from GEDGANLib.synthesis.variations import Places, Variations
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.labels import LabelTable
from GEDGANLib.volumes.pipeline import load_case

RESULTS = Path(__file__).parent / "results"
SEED = 0
WINDOW, POWER = 5, 4.0
"""Voxels of local correlation, and the power that weights are of it, for comparison."""


def majority(brought: Brought, power: float, label_count: int) -> np.ndarray:
    """Labels by votes of the sources, weighted by the power of the local correlation of their images with the target
    (Artaechevarria et al., *Combination strategies in multi-atlas image segmentation*, IEEE Transactions on Medical
    Imaging 28(8), 2009, section II); 0: plain."""
    labels = np.zeros(brought.labels[0].shape, np.uint8)
    if brought.box is None:
        return labels
    compare = LocalCorrelation(brought.target, WINDOW)
    weights = [compare(image).mean(1)[0].clamp_min(1e-3).numpy() ** power for image in brought.images]
    given = [each[brought.box] for each in brought.labels]
    votes = [sum(weight * (each == label) for weight, each in zip(weights, given)) for label in range(label_count + 1)]
    labels[brought.box] = np.argmax(votes, 0)
    return labels


def farthest(names: list[str], coefficients: np.ndarray, count: int) -> list[str]:
    """The medoid, and then ever the scan farthest from all that are chosen."""
    apart = np.linalg.norm(coefficients[:, None] - coefficients[None], axis=2)
    chosen = [int(apart.mean(1).argmin())]
    while len(chosen) < count:
        chosen.append(int(apart[:, chosen].min(1).argmax()))
    return [names[index] for index in chosen]


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
        if count > 1:
            choices.append(("farthest", farthest(others, coefficients[rows], count)))
        while len(choices) < arguments.choices + (2 if count > 1 else 1):
            drawn = sorted(random.permutation(others)[:count])
            if drawn not in [sorted(chosen) for _words, chosen in choices]:
                choices.append((f"random {len(choices)}", drawn))
        for words, chosen in choices:
            kept = RESULTS / "carrying" / f"{arguments.name}-{count}-{words.replace(' ', '-')}.json"
            if kept.exists():
                continue
            carrier, found = Carrier(variations, labels), []
            carrier.take([laid(name) for name in chosen])
            seconds = 0.0
            for name in targets:
                target = laid(name)
                truth = target.labels

                def mean(made: np.ndarray, truth: np.ndarray = truth) -> float:
                    return float(np.nanmean([dice(made, truth, label.index) for label in labels]))

                plain = through(bringing(target, carrier.sources, carrier.settings, refine=False))
                begun = time.monotonic()
                refined = through(bringing(target, carrier.sources, carrier.settings))
                (made,) = through(electing(refined, target.lattice.spacing, len(labels), (carrier.softness,)))
                seconds += (time.monotonic() - begun) / len(targets)
                found.append(
                    {
                        "case": name, "template": mean(majority(plain, 0.0, len(labels))),
                        "refined": mean(majority(refined, 0.0, len(labels))),
                        "correlation": mean(majority(refined, POWER, len(labels))),
                        "dice": mean(made.labels), "trust": float(np.nanmean(made.trust)),
                    }
                )  # fmt: skip
            about = {"chosen": chosen, "softness": carrier.softness, "seconds": seconds, "found": found}
            kept.write_text(json.dumps(about))
            print(kept.name, f"{np.mean([each['dice'] for each in found]):.4f}", flush=True)


def worst_found(rows: list[dict]) -> float:
    """Share of the truly worst tenth that is in the least trusted tenth."""
    count = max(len(rows) // 10, 1)
    worst = {each["case"] for each in sorted(rows, key=lambda each: each["dice"])[:count]}
    least = {each["case"] for each in sorted(rows, key=lambda each: each["trust"])[:count]}
    return len(worst & least) / count


def write_table() -> None:
    heading = ["data", "n", "choices", "through the template", "registered, too", "weighted by correlation",
               "**as `carry` does it**", "`next`", "the farthest", "Spearman of trust", "worst tenth found",
               "s a target"]  # fmt: skip
    rows, groups = [], {}
    for path in sorted((RESULTS / "carrying").glob("*.json")):
        data, count, words = path.stem.split("-", 2)
        groups.setdefault((data, int(count)), {})[words] = json.loads(path.read_text())
    for (data, count), found in sorted(groups.items()):
        random = [each for words, each in found.items() if words.startswith("random")]

        def mean(name: str, random=random) -> str:
            values = [np.mean([row[name] for row in each["found"]]) for each in random]
            return f"{np.mean(values):.3f} ({np.std(values):.3f})"

        def beside(words: str, found=found, random=random) -> str:
            if words not in found:
                return "–"
            own = np.mean([row["dice"] for row in found[words]["found"]])
            better = np.mean([own > np.mean([row["dice"] for row in each["found"]]) for each in random])
            return f"{own:.3f}, better than {better:.0%}"

        told = [spearmanr(*zip(*[(row["trust"], row["dice"]) for row in each["found"]]))[0] for each in random]
        rows.append(
            [data, str(count), str(len(random)), mean("template"), mean("refined"), mean("correlation"), mean("dice"),
             beside("next"), beside("farthest"),
             f"{np.mean(told):.2f} ({np.min(told):.2f} to {np.max(told):.2f})",
             f"{np.mean([worst_found(each['found']) for each in random]):.0%}",
             f"{np.mean([each['seconds'] for each in random]):.1f}"]
        )  # fmt: skip
    words = (
        "Mean Dice on the targets' own voxels, as a mean over random choices of the segmented scans (deviation over "
        f"these). Correlation: votes weighted by its power {POWER:g} in windows of {WINDOW} voxels, after the direct "
        "registration. `next`: from the scans that `gedgan next` names; the farthest: the medoid, then ever the scan "
        "farthest from those. Trust as a mean over choices (smallest to largest). hippocampi: 60 of 1 mm, aligned at "
        "2 mm; brains: 145 of 3 mm, six labels, aligned at 4 mm. The settings of voting were chosen on other "
        "hippocampi, and on two sources among these brains."
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
    runner.add_argument("--name", required=True, help="of the data, in the table")
    runner.add_argument("--targets", type=int, default=20)
    runner.add_argument("--choices", type=int, default=10)
    runner.add_argument("--counts", type=int, nargs="+", default=[1, 3])
    kinds.add_parser("table")
    given = parser.parse_args()
    if given.what == "run":
        run(given)
    write_table()
