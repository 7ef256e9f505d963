"""From few labelled scans: what a segmentation network learns, by what it is shown. Resumable, with a committed table.

    .venv/bin/python Testing/Benchmarks/augmentation.py run RUN DATA --name NAME --spacing 2 --counts 1 3 8
    .venv/bin/python Testing/Benchmarks/augmentation.py table

RUN is of ``gedgan align DATA --spacing 2 --exclude ...``, where every fourth case by name is left out: ``exclude``
prints these names. They are tested on, and no network, template or vote has seen them. Of the others n keep their
labels (choices at random), and the rest are scans that nobody has segmented; 40 of them, at fixed places, never keep
theirs, and everything was chosen on these. Arms, all with the same number of updates:

classical          the n labelled scans; turned, scaled, moved, re-contrasted
strong             the same, and bent, with gamma and a bias field; so are all arms below
variations         200 variations of them by the modes of the alignment
1:1                variations and labelled scans, as often
carried            the labelled scans, and the rest with the labels that alignment carried there (votes)
carried, varied    the same, and variations, one in four
taught             a teacher (variations) labels the rest, averaged with the votes; the student learns as before
carried twice      as carried, the votes of nine scans of the rest, which have theirs by votes, counted too
synthetic          images made of the labelled label maps, each label and part of the background of a brightness drawn
                   at random (Billot et al., SynthSeg, Medical Image Analysis 86, 2023), bent and turned
all                all scans of the alignment with their own labels: what more drawing would bring
all, twice         the same with twice the updates: whether these are enough

Two rows train nothing: the votes themselves, and the mean of their shares with the probabilities of ``carried,
varied``, which is what ``gedgan segment`` writes for the scans that it learned from.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import machine, table
from scipy import ndimage
from scipy.stats import spearmanr

from GEDGANLib.alignment.voting import promised_dice
from GEDGANLib.segmentation.applying import overlaps, probabilities
from GEDGANLib.segmentation.changes import STRONG, Changes
from GEDGANLib.segmentation.examples import Example, Group
from GEDGANLib.segmentation.job import VARIATIONS_SHARE, with_shares
from GEDGANLib.segmentation.learner import Learner
from GEDGANLib.segmentation.plan import plan_network
from GEDGANLib.segmentation.scans import placed
from GEDGANLib.synthesis.carried import Carrier
from GEDGANLib.synthesis.teaching import Varied, with_carried
from GEDGANLib.synthesis.variations import Variations
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.labels import LabelTable
from GEDGANLib.volumes.pipeline import load_case

RESULTS = Path(__file__).parent / "results"
MADE = Path(__file__).parents[2] / "build" / "augmentation"
EVERY, TUNED = 4, 40
TEMPLATES = 9
"""Scans of the rest whose votes are heard, too, by ``carried twice``."""
SYNTHETIC, PARTS = 200, 3
"""Images that are made of label maps, and parts that their background is divided into by its brightness."""
ARMS = (
    "classical", "strong", "variations", "1:1", "carried", "carried, varied", "taught", "carried twice", "synthetic",
    "all", "all, twice",
)  # fmt: skip
FEW = {"all", "all, twice"}
"""Arms that do not depend on the choice of labelled scans."""


class World:
    """Scans on the network's grid, with what their alignment knows."""

    def __init__(self, run: Path, data: Path, spacing: float, updates: int) -> None:
        self.variations = Variations.open(run, "cpu")
        aligned, dataset = self.variations.plan, find_dataset(data)
        self.labels, table_of = tuple(aligned.labels), LabelTable(dataset)
        known = {label.name for label in self.labels}
        self.plan = plan_network(aligned, self.labels, "cpu", (spacing,) * 3, updates)
        self.cases = {f.name: load_case(f, dataset, self.labels, table_of, known) for f in dataset.cases}
        self.placed = {name: placed(case, self.plan) for name, case in self.cases.items()}
        self.examples = {name: each.example() for name, each in self.placed.items()}
        names = sorted(self.cases)
        self.tested = names[EVERY - 1 :: EVERY]
        self.pool = [name for name in names if name not in self.tested]
        self.tuned = self.pool[:: max(len(self.pool) // TUNED, 1)][:TUNED]
        self.candidates = [name for name in self.pool if name not in self.tuned]
        self._carrier, self._laid = Carrier(self.variations, self.labels), {}

    def laid(self, name: str):
        if name not in self._laid:
            self._laid[name] = self._carrier.laid(self.cases[name])
        return self._laid[name]

    def carried(self, chosen: Sequence[str], targets: Sequence[str], templates: int = 0) -> dict[str, Example]:
        """Scans with labels that the chosen ones voted for."""
        carrier = Carrier(self.variations, self.labels)
        carrier.take([self.laid(name) for name in chosen])

        def made(name: str):
            return carrier.carried(replace(self.cases[name], labels=None), replace(self.laid(name), labels=None))

        if templates:
            others = [name for name in self.candidates if name not in chosen]
            drawn = np.random.default_rng(0).choice(others, templates, replace=False)
            more = [replace(self.laid(name), labels=made(name).case.labels) for name in drawn]
            carrier.sources = [*carrier.sources, *more]
        return {name: with_carried(made(name), self.plan) for name in targets}

    def dice(self, found: dict[str, torch.Tensor]) -> dict[str, float]:
        """Mean over labels for each scan.

        :param found: probabilities, (label_count + 1, *grid).
        """
        count = len(self.labels)
        return {
            name: float(np.nanmean(overlaps(share.argmax(0).numpy(), self.examples[name].labels.numpy(), count)))
            for name, share in found.items()
        }


def synthetic(examples: Sequence[Example], label_count: int, random: np.random.Generator) -> list[Example]:
    """Images of label maps: each label, and each part of the background, of a brightness of its own."""
    made = []
    for number in range(SYNTHETIC):
        example = examples[number % len(examples)]
        labels, image = example.labels.numpy().astype(int), example.image.float().numpy()
        smooth = ndimage.gaussian_filter(image[0], 1.0)
        borders = np.quantile(smooth[labels == 0], np.arange(1, PARTS) / PARTS)
        kinds = np.where(labels == 0, label_count + 1 + np.digitize(smooth, borders), labels)
        count = label_count + 1 + PARTS
        means, deviations = random.uniform(-1, 1, count), random.uniform(0.02, 0.2, count)
        drawn = means[kinds] + deviations[kinds] * random.standard_normal(kinds.shape)
        drawn = ndimage.gaussian_filter(drawn, random.uniform(0.3, 0.8))
        made.append(
            Example(torch.from_numpy(np.repeat(drawn[None], len(image), 0)).float().clip(-1, 1), example.labels)
        )
    return made


def learned(world: World, groups: list[Group], changes: Changes = STRONG, times: int = 1, seed: int = 0):
    recipe = replace(world.plan.recipe, updates=times * world.plan.updates, changes=changes)
    return Learner(groups, len(world.labels), recipe, seed).learn()


def said(world: World, network, names: Sequence[str]) -> dict[str, torch.Tensor]:
    return {name: probabilities(network, world.examples[name].image, world.plan.patch) for name in names}


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    world = World(arguments.run, arguments.data, arguments.spacing, arguments.updates)
    folder, count = RESULTS / "augmentation", len(world.labels)
    folder.mkdir(parents=True, exist_ok=True)
    looked_at = [*world.tuned, *world.tested]

    def keep(name: str, **told: object) -> None:
        (folder / f"{name}.json").write_text(json.dumps({**told, "machine": machine()}))

    def result(network) -> dict[str, object]:
        found = said(world, network, looked_at)
        trust = {name: float(np.nanmean(promised_dice(share, share.argmax(0)))) for name, share in found.items()}
        return {"dice": world.dice(found), "trust": trust}

    for times, arm in ((1, "all"), (2, "all, twice")):
        name = f"{arguments.name}-{arm.replace(', ', '-')}"
        if arm in arguments.arms and not (folder / f"{name}.json").exists():
            begun = time.process_time()
            examples = [world.examples[each] for each in world.pool if each not in world.tuned]
            network = learned(world, [Group(examples)], STRONG, times)
            keep(name, arm=arm, data=arguments.name, n=len(examples), choice=0, **result(network),
                 tuned=world.tuned, tested=world.tested, seconds=time.process_time() - begun)  # fmt: skip
            print(time.strftime("%H:%M:%S"), name, flush=True)
    for n in arguments.counts:
        for choice in arguments.choices:
            chosen = sorted(np.random.default_rng([n, choice]).choice(world.candidates, n, replace=False))
            _choice(world, arguments, n, choice, [str(each) for each in chosen], keep, result, folder, count)


def _choice(
    world: World, arguments: argparse.Namespace, n: int, choice: int, chosen: list[str], keep: Callable,
    result: Callable, folder: Path, count: int,
) -> None:  # fmt: skip
    """All arms of one choice of labelled scans."""
    real, looked_at = [world.examples[name] for name in chosen], [*world.tuned, *world.tested]
    rest = [name for name in world.pool if name not in chosen]
    made: dict[str, object] = {}

    def variations() -> list[Example]:
        if "variations" not in made:
            each = world.plan.variations // n
            makers = [Varied(world.variations, world.cases[name], world.plan, 0).by_modes() for name in chosen]
            made["variations"] = [make(index) for make in makers for index in range(each)]
        return made["variations"]

    def votes(templates: int = 0) -> dict[str, Example]:
        file = MADE / f"{arguments.name}-{n}-{choice}-{templates}.pt"
        if file.exists() and templates not in made:
            made[templates] = torch.load(file, weights_only=False)
        if templates not in made:
            made[templates] = world.carried(chosen, [*rest, *world.tested], templates)
            MADE.mkdir(parents=True, exist_ok=True)
            torch.save(made[templates], file)
        return made[templates]

    def hard(examples: dict[str, Example]) -> list[Example]:
        return [*real, *(replace(examples[name], shares=None) for name in rest)]

    def with_variations(others: list[Example], share: float = VARIATIONS_SHARE) -> list[Group]:
        return [Group(variations(), share), Group(others, 1 - share)]

    def taught():
        teacher = learned(world, with_variations(real, 0.5))
        found = votes()
        shares = {
            name: (probabilities(teacher, found[name].image, world.plan.patch) + found[name].shares.float()) / 2
            for name in rest
        }
        return learned(world, with_variations(hard({name: with_shares(found[name], shares[name]) for name in rest})))

    work: dict[str, Callable] = {
        "classical": lambda: learned(world, [Group(real)], Changes()),
        "strong": lambda: learned(world, [Group(real)]),
        "variations": lambda: learned(world, [Group(variations())]),
        "1:1": lambda: learned(world, with_variations(real, 0.5)),
        "carried": lambda: learned(world, [Group(hard(votes()))]),
        "carried, varied": lambda: learned(world, with_variations(hard(votes()))),
        "taught": taught,
        "carried twice": lambda: learned(world, [Group(hard(votes(TEMPLATES)))]),
        "synthetic": lambda: learned(world, [Group(synthetic(real, count, np.random.default_rng(choice)))]),
    }
    for arm in [arm for arm in ARMS if arm in work and arm in arguments.arms]:
        name = f"{arguments.name}-{n}-{choice}-{arm.replace(', ', '-').replace(' ', '-').replace(':', 'to')}"
        if (folder / f"{name}.json").exists():
            continue
        begun = time.process_time()
        network = work[arm]()
        about = {"arm": arm, "data": arguments.name, "n": n, "choice": choice, "chosen": chosen, **result(network),
                 "tuned": world.tuned, "tested": world.tested, "seconds": time.process_time() - begun}  # fmt: skip
        keep(name, **about)
        if arm == "carried, varied":
            found = said(world, network, looked_at)
            shares = {each: votes()[each].shares.float() for each in looked_at}
            both = {each: (found[each] + shares[each]) / 2 for each in looked_at}
            for words, share in (("votes", shares), ("carried, varied, and votes", both)):
                trust = {each: float(np.nanmean(promised_dice(one, one.argmax(0)))) for each, one in share.items()}
                own = {**about, "arm": words, "dice": world.dice(share), "trust": trust, "seconds": 0.0}
                if words != "votes":
                    own["agreement"] = {
                        each: float(np.nanmean(overlaps(found[each].argmax(0).numpy(), one.argmax(0).numpy(), count)))
                        for each, one in shares.items()
                    }
                keep(f"{arguments.name}-{n}-{choice}-{words.replace(', ', '-').replace(' ', '-')}", **own)
        score = statistics.mean(about["dice"][each] for each in world.tested)
        print(time.strftime("%H:%M:%S"), name, f"{score:.4f}", flush=True)


def _mean(result: dict, which: str) -> float:
    return statistics.mean(result["dice"][name] for name in result[which] if not math.isnan(result["dice"][name]))


def write_table() -> None:
    """A row an arm, a block a number of labelled scans; the share of the gap from classical to all that is closed."""
    found = [json.loads(path.read_text()) for path in sorted((RESULTS / "augmentation").glob("*.json"))]
    parts = []
    for data in sorted({each["data"] for each in found}):
        own = [each for each in found if each["data"] == data]
        whole = {each["arm"]: each for each in own if each["arm"] in FEW}
        parts += [f"## {data}", ""]
        for arm, each in whole.items():
            parts.append(
                f"- {arm}: {_mean(each, 'tested'):.4f} on the {len(each['tested'])} held out, "
                f"{_mean(each, 'tuned'):.4f} on the {len(each['tuned'])} that all was chosen on ({each['n']} labelled)."
            )
        heading = ["labelled", "arm", "choices", "Dice, held out", "by choice", "gap closed, %", "by choice ",
                   "on those it was chosen on", "Spearman of trust"]  # fmt: skip
        rows = []
        for n in sorted({each["n"] for each in own if each["arm"] not in FEW}):
            by_arm: dict[str, dict[int, dict]] = {}
            for each in own:
                if each["n"] == n and each["arm"] not in FEW:
                    by_arm.setdefault(each["arm"], {})[each["choice"]] = each
            base = by_arm.get("classical", {})
            order = [*ARMS, "votes", "carried, varied, and votes"]
            for arm in sorted(by_arm, key=order.index):
                results = [by_arm[arm][choice] for choice in sorted(by_arm[arm])]
                scores = [_mean(each, "tested") for each in results]
                closed = []
                if "all" in whole:
                    top = _mean(whole["all"], "tested")
                    starts = [_mean(base[each["choice"]], "tested") for each in results if each["choice"] in base]
                    closed = [100 * (score - start) / (top - start) for score, start in zip(scores, starts)]
                told = [
                    spearmanr([each["trust"][name] for name in each["tested"]],
                              [each["dice"][name] for name in each["tested"]])[0]
                    for each in results
                ]  # fmt: skip
                rows.append(
                    [str(n), arm, str(len(results)), f"{statistics.mean(scores):.4f}",
                     " / ".join(f"{score:.3f}" for score in scores),
                     f"{statistics.mean(closed):.0f}" if closed and arm != "classical" else "–",
                     " / ".join(f"{each:.0f}" for each in closed) if arm != "classical" else "–",
                     f"{statistics.mean(_mean(each, 'tuned') for each in results):.4f}",
                     f"{np.nanmean(told):.2f}"]
                )  # fmt: skip
        hours = sum(each["seconds"] for each in own) / 3600
        parts += ["", table(heading, rows), "", f"{hours:.1f} hours of one core. {own[0]['machine']}", ""]
    text = "\n".join(
        ["# From few labelled scans", "",
         "Made by `Testing/Benchmarks/augmentation.py`, whose text says what the arms are.", "", *parts,
         "Synthesized pairs of the first generator, 500 updates, classical augmentation, three seeds: with 8 labelled "
         "hippocampi between 0.3 and 2.0 points worse than the real pairs alone, with 32 between 1.0 and 3.8."]
    )  # fmt: skip
    (RESULTS / "augmentation.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def print_excluded(arguments: argparse.Namespace) -> None:
    names = sorted(files.name for files in find_dataset(arguments.data).cases)
    print(" ".join(names[EVERY - 1 :: EVERY]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="what", required=True)
    runner = kinds.add_parser("run")
    runner.add_argument("run", type=Path)
    runner.add_argument("data", type=Path)
    runner.add_argument("--name", required=True, help="of the data, in the table")
    runner.add_argument("--spacing", type=float, required=True, help="of the network's voxels, mm")
    runner.add_argument("--updates", type=int, default=2000)
    runner.add_argument("--counts", type=int, nargs="+", default=[1, 3, 8])
    runner.add_argument("--choices", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    runner.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    excluded = kinds.add_parser("exclude")
    excluded.add_argument("data", type=Path)
    kinds.add_parser("table")
    given = parser.parse_args()
    if given.what == "exclude":
        print_excluded(given)
        raise SystemExit
    if given.what == "run":
        run(given)
    write_table()
