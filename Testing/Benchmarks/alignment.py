"""Labels carried by alignment, beside ANTs' SyN and FireANTs: Dice and seconds a case. Resumable, with its table.

    python3 -m venv RIVALS && RIVALS/bin/pip install torch==2.13.0 antspyx==0.6.3 fireants==1.5.0
    python Testing/Benchmarks/alignment.py run --hippocampus FOLDER --brains FOLDER --rivals RIVALS/bin/python
    python Testing/Benchmarks/alignment.py table

FOLDER: MSD Task04 Hippocampus, and skull-stripped brains with segmentations, as nnU-Net data sets. The last twenty
cases are the targets; their Dice is reported, and nothing was chosen by it. Of the others the first one, three and
eight are labelled. Everything is computed from the same images on the same grid, on the same number of threads.

ours            the template of all cases but the targets, which are then brought onto it; the labels of the labelled
                cases are averaged on the template and carried back. Seconds a case: all of it over all cases.
SyN             each labelled case onto each target (``ants.registration``, SyN, its default levels), fused by majority.
                Seconds a case: a pair's times the number of labelled cases.
SyN CC          the same with ``SyNCC``: cross-correlation, and more levels.
SyN template    ``ants.build_template`` of the eight labelled cases, these and the targets brought onto it by SyN.
FireANTs        each labelled case onto each target by its affine and greedy registration, targets in a batch.
unaligned       the labelled cases as they lie, fused by majority.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import machine, table

from GEDGANLib.alignment.job import fields_of_view
from GEDGANLib.alignment.registration import Registration, Settings
from GEDGANLib.alignment.sampling import sample_linear
from GEDGANLib.alignment.template import mean_dice
from GEDGANLib.alignment.transformations import Transformations
from GEDGANLib.alignment.velocity import jacobian_determinant
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.pipeline import load_working_cases

RESULTS = Path(__file__).parent / "results" / "alignment"
KEPT = Path(__file__).parents[2] / "build" / "alignment"
TARGETS, LABELLED = 20, (1, 3, 8)
CASES = {"hippocampus": 150, "brains": 109}
"""Cases that are aligned, the targets included."""
SETS = (("hippocampus", 2.0), ("brains", 4.0), ("hippocampus", 1.0), ("brains", 3.0))
METHODS = {"ours": 8, "unaligned": 8, "syn": 8, "syn template": 8, "fireants": 1, "syn cc": 1}
"""Name -> labelled cases that it is run with; at the finer voxels all but ours with one."""


def load(name: str, spacing: float, folder: Path) -> dict[str, np.ndarray]:
    """Cases of a data set on the working grid of ``spacing`` mm, kept after the first time."""
    file = KEPT / f"{name}-{spacing:g}.npz"
    if not file.exists():
        dataset = find_dataset(folder)
        plan = make_plan(check_dataset(dataset), "cpu", spacing=(spacing,) * 3)
        cases = list(load_working_cases(dataset, plan))[: CASES[name]]
        extent = np.array(plan.grid.shape) * plan.grid.spacing
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            file,
            images=np.stack([case.image[0] for case in cases]),
            labels=np.stack([case.labels for case in cases]),
            boxes=fields_of_view(cases, extent).numpy(),
            spacing=np.array(plan.grid.spacing),
            extent=extent,
        )
    return dict(np.load(file))


def one_hot(labels: np.ndarray, count: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), count).movedim(-1, 1).float()


@torch.inference_mode()
def carried(data: dict[str, np.ndarray], moved: Transformations, sources: Sequence[int], target: int) -> np.ndarray:
    """Labels of ``sources``, averaged on the template, on a target."""
    shape, count = data["labels"].shape[1:], int(data["labels"].max()) + 1
    shares = [
        sample_linear(one_hot(data["labels"][[source]], count), moved.of([source]).positions(shape), moved.extent)
        for source in sources
    ]
    mean = torch.cat(shares).mean(0, keepdim=True)
    back = moved.of([target]).positions(shape, inverse=True)
    return sample_linear(mean, back, moved.extent).argmax(1)[0].numpy()


def aligned(data: dict[str, np.ndarray], settings: Settings) -> tuple[Transformations, dict[str, float]]:
    """All cases but the targets onto their mean, and the targets onto that; and what it took."""
    images, boxes = torch.from_numpy(data["images"])[:, None], torch.from_numpy(data["boxes"])
    extent, rest = tuple(data["extent"].tolist()), len(images) - TARGETS
    start = time.perf_counter()
    together = Registration(images[:rest], boxes[:rest], extent, settings)
    moved = together.run()
    template = together.mean_case(tuple(images.shape[2:]))
    onto = Registration(images[rest:], boxes[rest:], extent, settings, template).run()
    seconds = time.perf_counter() - start
    both = Transformations(
        torch.cat([moved.generators, onto.generators]), torch.cat([moved.velocities, onto.velocities]), extent
    )
    smallest = [
        float(jacobian_determinant(both.of([index]).positions(images.shape[2:]), extent).min())
        for index in range(0, len(images), 5)
    ]
    return both, {"seconds": seconds / len(images), "smallest jacobian": min(smallest)}


def majority(labels: np.ndarray) -> np.ndarray:
    """The label that most of (sources, *grid) have, the smallest where several are as many."""
    votes = [(labels == label).sum(0) for label in range(int(labels.max()) + 1)]
    return np.argmax(votes, 0)


def dice_of(data: dict[str, np.ndarray], guesses: Sequence[np.ndarray]) -> list[float]:
    return [mean_dice(guess, truth) for guess, truth in zip(guesses, data["labels"][-TARGETS:])]


def run_one(name: str, spacing: float, method: str, most: int, data: dict, rivals: Path | None, threads: int) -> None:
    """Run a method on a data set, unless it was, and keep its figures."""
    file = RESULTS / f"{name}-{spacing:g}-{method.replace(' ', '-')}.json"
    if file.exists() or (rivals is None and method not in ("ours", "unaligned")):
        return
    print(f"{name}, {spacing:g} mm, {method}", flush=True)
    targets = range(len(data["images"]) - TARGETS, len(data["images"]))
    sizes = [size for size in LABELLED if size <= most]
    figures: dict[str, object] = {"machine": machine(), "threads": threads, "grid": data["images"].shape[1:]}
    if method == "ours":
        moved, told = aligned(data, Settings())
        figures |= told
        dice = {size: [carried(data, moved, range(size), target) for target in targets] for size in sizes}
    elif method == "unaligned":
        figures["seconds"] = 0.0
        dice = {size: [majority(data["labels"][:size])] * TARGETS for size in sizes}
    else:
        sources = range(max(sizes))
        asked, answer = KEPT / "asked.npz", KEPT / "answer.npz"
        np.savez(
            asked, images=data["images"], labels=data["labels"], spacing=data["spacing"],
            sources=np.array(sources), targets=np.array(targets),
        )  # fmt: skip
        script = Path(__file__).with_name("alignment_rivals.py")
        subprocess.run([str(rivals), str(script), method, str(threads), str(asked), str(answer)], check=True)
        result = np.load(answer)
        found, pairs = result["carried"], len(sources) * TARGETS
        if method == "syn template":
            figures["seconds"] = float(result["seconds"]) / (len(sources) + TARGETS)
            dice = {max(sizes): list(found[0])}
        else:
            figures["seconds a pair"] = float(result["seconds"]) / pairs
            dice = {size: [majority(found[:size, target]) for target in range(TARGETS)] for size in sizes}
    figures["dice"] = {size: dice_of(data, guesses) for size, guesses in dice.items()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(figures, indent=1) + "\n")


def write_table() -> None:
    """Write ``results/alignment.md``."""
    rows = []
    for name, spacing in SETS:
        ours = None
        for method in METHODS:
            file = RESULTS / f"{name}-{spacing:g}-{method.replace(' ', '-')}.json"
            if not file.exists():
                continue
            figures = json.loads(file.read_text())
            for size, dice in figures["dice"].items():
                seconds = figures.get("seconds", figures.get("seconds a pair", 0.0) * int(size))
                ours = figures["seconds"] if method == "ours" else ours
                ratio = f"{ours / seconds:.2f}" if ours and seconds and method != "ours" else ""
                grid = " x ".join(map(str, figures["grid"]))
                rows.append([
                    f"{name}, {spacing:g} mm, {grid}", size, method, f"{np.mean(dice):.3f}", f"{np.std(dice):.3f}",
                    f"{seconds:.2f}", ratio,
                ])  # fmt: skip
    headings = ["data", "labelled", "method", "Dice of 20 targets", "spread", "seconds a case", "ours over it"]
    text = (
        f"# Labels carried by alignment\n\n`Testing/Benchmarks/alignment.py`. {machine()}\n\n{table(headings, rows)}\n"
    )
    (RESULTS.parent / "alignment.md").write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run what is not done yet")
    runner.add_argument("--hippocampus", type=Path, required=True, help="MSD Task04 Hippocampus")
    runner.add_argument("--brains", type=Path, required=True, help="skull-stripped brains with segmentations")
    runner.add_argument("--rivals", type=Path, help="Python that has antspyx and fireants")
    runner.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    runner.add_argument("--threads", type=int, default=2)
    commands.add_parser("table", help="write the table of what is done")
    arguments = parser.parse_args()
    if arguments.command == "run":
        torch.set_num_threads(arguments.threads)
        folders = {"hippocampus": arguments.hippocampus, "brains": arguments.brains}
        for position, (name, spacing) in enumerate(SETS):
            data = load(name, spacing, folders[name])
            for method, most in METHODS.items():
                if method in arguments.only and not (position >= 2 and method in ("syn template", "syn cc")):
                    most = 1 if position >= 2 and method not in ("ours", "unaligned") else most
                    run_one(name, spacing, method, most, data, arguments.rivals, arguments.threads)
    write_table()


if __name__ == "__main__":
    main()
