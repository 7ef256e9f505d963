"""The second generator, measured part by part: aligned anatomy, a refiner, and what its judges see.

    .venv/bin/gedgan align DATA -o RUN --spacing 2 \\
        --exclude $(.venv/bin/python Testing/Benchmarks/augmentation.py exclude DATA)
    .venv/bin/python Testing/Benchmarks/repainting.py run RUN DATA --name hippocampus --variants default "modes alone"
    .venv/bin/python Testing/Benchmarks/repainting.py table

Every fourth case is held out of alignment and training and judges both. What is measured is what `gedgan evaluate`
measures, of 200 cases: kernel distance (KID) in features of an encoder that was trained on the training cases,
precision, recall and coverage, power near Nyquist's frequency, the Dice of a U-Net that was trained on made pairs alone
and tested on held-out real ones (TSTR), and how near made cases come to training cases; beside each the same figure of
real training cases. Every trial writes ``results/repainting/NAME.json`` when it is done and is not run again; models
are kept in ``build/repainting``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import machine, table

from GEDGANLib.alignment.job import Aligned
from GEDGANLib.planning.plan import Plan
from GEDGANLib.planning.repainting import REST, repainted
from GEDGANLib.quality.evaluation import Settings, evaluate
from GEDGANLib.quality.report import figures_of
from GEDGANLib.synthesis.basis import Basis, basis_of
from GEDGANLib.synthesis.model_file import load_model, save_model
from GEDGANLib.synthesis.residuals import measure_gains, residuals_of
from GEDGANLib.training.anatomy import Anatomy
from GEDGANLib.training.request import image_digest
from GEDGANLib.training.trainer import Trainer
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.pipeline import load_working_cases
from GEDGANLib.volumes.prepared import PreparedCases

RESULTS = Path(__file__).parent / "results" / "repainting"
MADE = Path(__file__).parents[2] / "build" / "repainting"
NUMBER, UPDATES = 200, 2000
"""Cases that are judged, and updates of the U-Nets that judge them."""
STEPS = 1200

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "modes for sharing": {"shared": True},
    "whitened": {"whitened": True},
    "modes alone": {"steps": 0, "no noise": True},
    "modes and noise": {"steps": 0},
    "noise from nothing": {"no noise": True, "coarse": True, "rate": 2.5, "training": {"matched": 0.0}},
    "coarse repainted": {"coarse": True},
    "fast": {"rate": 2.5},
    "fast, anatomy drawn": {"rate": 2.5, "training": {"matched": 0.0}},
    "absolute": {"relative": False, "rate": 2.5, "training": {"matched": 0.0}},
    "field held tenfold": {"field units": 10.0},
    "anatomy drawn": {"training": {"matched": 0.0}},
    "anatomy given": {"training": {"matched": 1.0}},
    "image alone": {"field": {"kind": "none"}},
    "gradient as second judge": {"field": {"kind": "gradient"}},
    "tensor as second judge": {"field": {"kind": "tensor"}},
    "edges judged": {"edges": True},
    "all changes": {"kinds": ("shift", "scale", "rotation", "intensity", "noise", "cut-out")},
    "penalty a third": {"penalty": 1 / 3},
    "penalty threefold": {"penalty": 3.0},
    "half the rate": {"rate": 0.5},
    "half the modes": {"modes": 0.5},
    "all modes": {"modes": 100.0},
    "narrow": {"widths": (48, 24, 12)},
    "longer average": {"training": {"ema_share": 0.15}},
}
"""What each changes of the plan."""
ABSOLUTE_PENALTY = 3 / (32 * 40 * 32)
"""γ a voxel of the grid, where neither paint nor penalty are in units of what cases differ by."""


def plan_of(run: Path, variant: str) -> tuple[Plan, Basis]:
    """The plan of a trial, from that of the alignment, and the modes that it repaints."""
    changes = VARIANTS[variant]
    plan = repainted(Plan.load(run / "plan.json"), "cpu")  # as one that is made today
    relative, shared = changes.get("relative", True), changes.get("shared", False)
    modes = max(round(changes.get("modes", 1.0) * plan.statistical.modes), 1)
    plan = replace(plan, statistical=replace(plan.statistical, modes=modes, shared=shared))
    basis = basis_of(load_model(run / "model.safetensors", "cpu", with_population=True), plan)
    modes = len(basis.generator.generators)
    weight = plan.training.penalty_weight if relative else ABSOLUTE_PENALTY * math.prod(plan.grid.shape)
    training = replace(
        plan.training,
        penalty_weight=changes.get("penalty", 1.0) * weight,
        learning_rate=changes.get("rate", 1.0) * plan.training.learning_rate,
        **changes.get("training", {}),
    )
    networks = replace(
        plan.networks,
        latent_size=modes + REST,
        generator_widths=tuple(changes.get("widths", plan.networks.generator_widths)),
    )
    plan = replace(
        plan,
        networks=networks,
        training=training,
        field=replace(plan.field, **changes.get("field", {})),
        augmentation=replace(plan.augmentation, kinds=changes.get("kinds", plan.augmentation.kinds)),
        statistical=replace(plan.statistical.on_grids_of(basis.plan.statistical, modes), relative=relative),
    )
    return plan, basis


def train(run: Path, variant: str, seed: int, steps: int, file: Path) -> float:
    """Train and write the model; returns the seconds of processor time."""
    (plan, basis), aligned = plan_of(run, variant), Aligned.load(run / "alignment.safetensors")
    cases = PreparedCases(run / "prepared")
    if VARIANTS[variant].get("whitened"):
        plan = replace(plan, statistical=replace(plan.statistical, whitened=True, gains=measure_gains(basis, cases)))
    residuals = residuals_of(basis, plan, cases)
    if VARIANTS[variant].get("no noise"):
        residuals = residuals._replace(amplitudes=torch.zeros_like(residuals.amplitudes))
    if VARIANTS[variant].get("coarse"):
        residuals = residuals._replace(coarse=torch.ones(()))
    units = torch.tensor([1.0, VARIANTS[variant].get("field units", 1.0)])
    residuals = residuals._replace(judged=residuals.judged * units[: len(residuals.judged)])
    anatomy = Anatomy(basis.generator, aligned.template.seen, aligned.held_out, residuals, basis.scores)
    trainer = Trainer(plan, cases, "cpu", seed, anatomy=anatomy)
    if VARIANTS[variant].get("edges"):
        for loader in (trainer.loader, trainer._held_out_loader):
            loader._with_fields = False
    start, steps = time.process_time(), VARIANTS[variant].get("steps", steps)
    for step in range(steps):
        trainer.set_progress(step / steps)
        figures = trainer.step()
        if step % 100 == 0:
            named = {name: round(value, 3) for name, value in figures.named.items()}
            print(f"{variant}, seed {seed}, step {step}, {time.process_time() - start:.0f} s", named, flush=True)
    about = {
        "description": "", "cases": len(trainer.cases), "held_out": len(trainer.held_out), "steps": steps,
        "seed": seed, "device": "cpu", "trained_images": [image_digest(case) for case in trainer.cases],
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(file, trainer.average, plan, about, trainer.critic() if steps else None)
    return time.process_time() - start


def judge(file: Path, data: Path) -> dict[str, Any]:
    """Figures of a model."""
    model = load_model(file, "cpu")
    cases = list(load_working_cases(find_dataset(data), model.plan))
    settings = Settings(NUMBER, UPDATES)
    with tempfile.TemporaryDirectory() as folder:
        result = evaluate(model, cases, settings, lambda words: nullcontext(lambda *said: None), Path(folder) / "made")
        return figures_of(result, with_names=False)


def run(given: argparse.Namespace) -> None:
    for seed in given.seeds:
        for variant in given.variants:
            name = f"{given.name}_{variant.replace(' ', '-')}_steps{given.steps}_seed{seed}"
            file = RESULTS / f"{name}.json"
            if file.exists():
                continue
            model = MADE / name / "model.safetensors"
            seconds = None
            if not model.exists():
                seconds = train(given.run, variant, seed, given.steps, model)
            about = {
                "data": given.name, "variant": variant, "seed": seed, "steps": given.steps, "seconds": seconds,
                "machine": machine(),
            }  # fmt: skip
            file.parent.mkdir(parents=True, exist_ok=True)
            found = {"trial": about, "figures": judge(model, given.data)}
            file.write_text(json.dumps(found, indent=1, default=float) + "\n", encoding="utf-8")
            write_table()


def _pair(section: dict[str, Any], name: str, digits: int = 2) -> str:
    found = section.get(name)
    return "–" if found is None else f"{found['made']:.{digits}f} / {found['real']:.{digits}f}"


def row_of(result: dict[str, Any]) -> list[str]:
    trial, figures = result["trial"], result["figures"]["figures"]
    fidelity, structure = figures["fidelity and diversity"], figures["structure"]
    distance = fidelity["kernel distance"]
    low, high = distance["made"]["low"], distance["made"]["high"]
    utility = figures.get("utility")
    privacy = figures["privacy"]
    held_out = privacy["held_out_distance"]
    return [
        trial["variant"],
        str(VARIANTS[trial["variant"]].get("steps", trial["steps"])),
        str(trial["seed"]),
        f"{distance['made']['value']:.2f} ({low:.2f} to {high:.2f}) / {distance['real']['value']:.2f}",
        *(_pair(fidelity, name) for name in ("precision", "recall", "coverage")),
        _pair(structure, "fine power"),
        "–" if utility is None else f"{utility['synthesized']['mean dice']:.3f} / {utility['real']['mean dice']:.3f}",
        "–" if held_out is None else f"{privacy['distance'] / held_out:.2f}",
        "–" if trial["seconds"] is None or math.isnan(trial["seconds"]) else f"{trial['seconds'] / 60:.0f}",
    ]


def write_table() -> None:
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# Deform, then repaint",
        "",
        "Made by `Testing/Benchmarks/repainting.py`, whose text says what is measured;",
    ]
    lines += ["each figure of made cases before that of real ones.", ""]
    heads = ["variant", "steps", "seed", "KID (95 %)", "precision", "recall", "coverage", "power near Nyquist", "TSTR"]
    heads += ["nearest training case, beside held-out cases'", "core-minutes"]
    order = list(VARIANTS)
    for data in sorted({each["trial"]["data"] for each in found}):
        chosen = [each for each in found if each["trial"]["data"] == data]
        chosen.sort(
            key=lambda each: (order.index(each["trial"]["variant"]), each["trial"]["steps"], each["trial"]["seed"])
        )
        lines += [f"## {data}", "", table(heads, [row_of(each) for each in chosen]), ""]
        lines += [each["trial"]["note"] for each in chosen if "note" in each["trial"]]
        lines += [chosen[0]["trial"]["machine"], ""]
    (RESULTS.parent / "repainting.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="what", required=True)
    runner = kinds.add_parser("run")
    runner.add_argument("run", type=Path)
    runner.add_argument("data", type=Path)
    runner.add_argument("--name", required=True, help="of the data, in the table")
    runner.add_argument("--variants", nargs="+", default=["default"], choices=VARIANTS)
    runner.add_argument("--seeds", type=int, nargs="+", default=[0])
    runner.add_argument("--steps", type=int, default=STEPS)
    kinds.add_parser("table")
    options = parser.parse_args()
    if options.what == "run":
        run(options)
    write_table()
