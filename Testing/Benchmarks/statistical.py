"""What a statistical model takes: a case under a slider, and what modes give away, beside how many there are.

    .venv/bin/python Testing/Benchmarks/statistical.py time
    .venv/bin/python Testing/Benchmarks/statistical.py exposure RUN/model.safetensors

The first times models with made modes beside the network of a plan of the same grid, as an explored case takes it, and
writes ``results/statistical.md``. The second tells, for a local model, leverage, read-back and AUC of its first 1, 2,
4, ... modes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from common import interleaved, machine, table

from GEDGANLib.alignment.modes import Modes
from GEDGANLib.alignment.sampling import coarser_shape
from GEDGANLib.alignment.sharing import exposures
from GEDGANLib.exchange.nnunet import write_dataset
from GEDGANLib.networks.build import build_generator
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.planning.plan import Plan
from GEDGANLib.synthesis.model_file import load_model
from GEDGANLib.synthesis.statistical import Population, statistical_plan
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.fingerprint import check_dataset

RESULTS = Path(__file__).parent / "results"
COUNTS = (4, 12, 100)


def plan_of(side: int, folder: Path) -> Plan:
    data = folder / str(side)
    cases = (make_case(index, 0, (side,) * 3, 192 / side) for index in range(2))
    write_dataset(data, cases, "cohort", whole_numbers="int16")
    return make_plan(check_dataset(find_dataset(data)), "cpu", (side,) * 3, (192 / side,) * 3)


def statistical(plan: Plan, count: int) -> torch.nn.Module:
    """A model of made modes: how long it takes does not depend on what they are."""
    random = torch.Generator().manual_seed(0)
    control = coarser_shape(plan.grid.shape, plan.extent, 2.0)
    look = coarser_shape(plan.grid.shape, plan.extent, max(max(plan.grid.shape) / 64, 1.0))
    modes = Modes(
        torch.zeros(3, 4), torch.zeros(3, *control), torch.zeros(1, *look), torch.ones(3),
        0.1 * torch.randn(count, 3, 4, generator=random), torch.randn(count, 3, *control, generator=random),
        0.01 * torch.randn(count, 1, *look, generator=random), width=12.0,
    )  # fmt: skip
    plan = statistical_plan(replace(plan, alignment=plan.alignment), modes, plan.grid.shape)
    generator = build_generator(plan)
    shares = torch.rand(len(plan.labels) + 1, *plan.grid.shape, generator=random).softmax(0)
    generator.take(torch.rand(1, *plan.grid.shape, generator=random) * 2 - 1, shares, modes)
    return generator.eval()


def time_table(folder: Path) -> str:
    rows = []
    for side in (32, 64, 128):
        plan = plan_of(side, folder)
        network = build_generator(plan).eval()
        works = {"the network of the plan": lambda n=network, p=plan: n(torch.zeros(1, p.networks.latent_size))}
        for count in COUNTS:
            model = statistical(plan, count)
            latent = torch.randn(1, count, generator=torch.Generator().manual_seed(1))
            works[f"{count} modes"] = lambda m=model, z=latent: m(z)
        with torch.inference_mode():
            found = interleaved(works, 5 if side < 128 else 3)
        base = found["the network of the plan"]
        rows += [
            [f"{side}³", name, f"{1000 * seconds:.0f}", f"{seconds / base:.1f}"] for name, seconds in found.items()
        ]
    return table(["voxels", "model", "ms a case", "over the network"], rows)


def exposure_table(path: Path) -> str:
    model = load_model(path, with_population=True)
    population = Population.of(model.population, model.about["population"])
    count = population.members
    found = exposures(population.products, range(count), range(count, len(population.names)))
    chosen = sorted({*(2**power for power in range(10)), len(found)} & set(range(1, len(found) + 1)))
    rows = []
    for each in (found[number - 1] for number in chosen):
        figures = each.leverage, each.read_back, each.read_back_new, *each.typical, each.auc
        rows.append([str(each.modes), *(f"{value:.2f}" for value in figures), "yes" if each.bounded else "no"])
    heading = ["modes", "leverage", "read-back of a member", "of a new case", "median", "new", "AUC", "bounded"]
    return f"{count} cases\n\n{table(heading, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    kinds.add_parser("time")
    kinds.add_parser("exposure").add_argument("model", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "exposure":
        print(exposure_table(arguments.model))
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        text = f"# A case of a statistical model\n\n{machine()}\n\n{time_table(Path(folder))}\n"
    (RESULTS / "statistical.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
