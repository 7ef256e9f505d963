"""How long synthesis takes, as a ratio to the best conv3d rate of the machine, and that memory does not grow.

    python Testing/Benchmarks/synthesis.py

Models with fresh weights of the widths that the plan gives a CPU, at 64 and 128 voxels a side: the time of a case does
not depend on what was learned. Beside the seconds stands the time that the convolutions of a case would take at the
best rate found here, and the ratio of both. Cold is the command ``gedgan synthesize -n 1`` from a fresh process, import
of PyTorch, writing and contact sheet included. Memory is the peak of that command for 10 and for many cases.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import best_convolution_rate, machine, seconds, table

from GEDGANLib.exchange.nnunet import write_dataset
from GEDGANLib.networks.build import build_generator
from GEDGANLib.networks.cost import count
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.planning.plan import Grid, Plan
from GEDGANLib.synthesis.directions import Direction
from GEDGANLib.synthesis.explorer import Explorer
from GEDGANLib.synthesis.model_file import load_model, save_model
from GEDGANLib.synthesis.synthesizer import Synthesizer
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.fingerprint import check_dataset

ASKED = {64: 0.2, 128: 2.0}
ASKED_COLD, ASKED_SLIDER = 6.0, 0.1
SIDES = (64, 128)


def plan_of(side: int, folder: Path) -> Plan:
    """A plan of ``side`` voxels along each axis, two labels, whole volumes."""
    data = folder / "data"
    if not data.exists():
        write_dataset(data, (make_case(i, 0, (40, 48, 40), 4.0) for i in range(3)), "cohort", whole_numbers="int16")
    plan = make_plan(check_dataset(find_dataset(data)), "cpu", spacing=[4.0] * 3)
    grid = Grid((side,) * 3, (2.0,) * 3, plan.grid.directions, plan.grid.origin)
    return replace(plan, grid=grid, training=replace(plan.training, volume="whole", part=()))


def model_of(plan: Plan, folder: Path) -> Path:
    torch.manual_seed(0)
    generator = build_generator(plan)
    for weight in generator.parameters():  # fresh ones have empty branches
        torch.nn.init.normal_(weight, std=0.1)
    path = folder / f"model-{plan.grid.shape[0]}.safetensors"
    save_model(path, generator, plan, {"description": "fresh weights"})
    return path


def peak_gb(model: Path, number: int, folder: Path) -> tuple[float, float]:
    """Peak memory (GB) and seconds of the command."""
    out = folder / f"out-{number}-{time.monotonic_ns()}"
    code = (
        "import resource, sys; from GEDGANLib.commands.main import main; "
        f"status = main(['synthesize', {str(model)!r}, '-n', '{number}', '-o', {str(out)!r}, '--device', 'cpu']); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1]) * 1024 / 1e9, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--many", type=int, default=200, help="cases of the memory test (default: 200)")
    arguments = parser.parse_args()
    rate = best_convolution_rate()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {}
        for side in SIDES:
            plan = plan_of(side, folder)
            models[side] = model_of(plan, folder)
            synthesizer = Synthesizer(load_model(models[side]))
            with torch.device("meta"):
                operations, _ = count(build_generator(plan), torch.empty(1, plan.networks.latent_size))
            latent = np.zeros(plan.networks.latent_size, np.float32)
            spent = seconds(lambda s=synthesizer, z=latent: s.case(z, "case"), 5)
            ideal = operations / rate
            rows.append(
                [f"{side}³, a case", f"{spent:.3f} s", f"{ASKED[side]:g} s", f"{ideal:.3f} s", f"{spent / ideal:.1f}"]
            )
            if side == SIDES[0]:
                along = tuple((np.eye(1, plan.networks.latent_size)[0]).tolist())
                explorer = Explorer(synthesizer, [Direction("slider", "maps", along)])
                values = iter(np.linspace(-3, 3, 50))
                moved = seconds(lambda e=explorer, v=values: e.case({"slider": next(v)}), 12)
                rows.append(["64³, a slider moved", f"{moved:.3f} s", f"{ASKED_SLIDER:g} s", f"{ideal:.3f} s",
                             f"{moved / ideal:.1f}"])  # fmt: skip
        cold = min(peak_gb(models[64], 1, folder)[1] for _ in range(2))
        rows.append(["64³, first case of a cold command", f"{cold:.1f} s", f"{ASKED_COLD:g} s", "", ""])
        few, many = (peak_gb(models[64], number, folder) for number in (10, arguments.many))
        rows.append([f"64³, memory of {arguments.many} cases over that of 10", f"{many[0] / few[0]:.3f}", "1",
                     "", f"{many[0]:.2f} GB"])  # fmt: skip
    print(table(["what", "measured", "asked", "convolutions at the best rate", "ratio"], rows))
    print(f"\nBest conv3d rate {rate / 1e9:.0f} GFLOP/s; {machine()}")


if __name__ == "__main__":
    main()
