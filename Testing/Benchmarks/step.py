"""Where the time of a training step goes, and how near its convolutions are to the best this machine does.

    .venv/bin/python Testing/Benchmarks/step.py [DATA] [--steps 8]

Without DATA, on the embedded cohort at the size of the demo. Prints the groups of operations of a step with their
share of its time, the rate of its convolutions beside the best rate of a plain ``conv3d``, the share of the
eigen-directional field (forward and backward), and what the plan predicted beside what was measured.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import defaultdict
from pathlib import Path

import torch
from common import best_convolution_rate, machine, seconds, table
from torch.profiler import ProfilerActivity, profile

from GEDGANLib.device import choose_device, synchronize
from GEDGANLib.networks.cost import step_costs
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.training.recording import steps_to_warm_up
from GEDGANLib.training.trainer import Trainer
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.pipeline import load_working_cases

GROUPS = {
    "convolution": ("convolution", "conv3d"),
    "upsampling and pooling": ("upsample", "avg_pool"),
    "products (filters of the field, linear layers)": ("mm", "matmul"),
    "layout and copies": ("copy_", "cat", "clone", "contiguous", "fill_", "zero_"),
    "activation": ("leaky_relu", "softmax", "tanh", "softplus"),
    "optimiser": ("_foreach", "lerp", "addcdiv"),
}


def group_of(name: str) -> str:
    for group, parts in GROUPS.items():
        if any(part in name for part in parts):
            return group
    return "everything else (eigenvalues, sums, products voxel by voxel)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, help="folder of scans; the embedded cohort when not given")
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    device = choose_device("auto")
    if arguments.data is None:
        import tempfile

        from GEDGANLib.exchange.nnunet import write_dataset

        arguments.data = Path(tempfile.mkdtemp()) / "cohort"
        write_dataset(
            arguments.data, (make_case(i, 0, (24, 32, 24), 6.5) for i in range(16)), "cohort", whole_numbers="int16"
        )
    dataset = find_dataset(arguments.data)
    plan = make_plan(check_dataset(dataset), device)
    trainer = Trainer(plan, list(load_working_cases(dataset, plan)), device, 0)
    for _ in range(steps_to_warm_up(device, plan.training.penalty_interval)):
        trainer.step()
    synchronize(device)

    start = time.perf_counter()
    for _ in range(arguments.steps):
        trainer.step()
    synchronize(device)
    step_seconds = (time.perf_counter() - start) / arguments.steps

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities) as profiler:
        for _ in range(2):
            trainer.step()
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        time_spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        spent[group_of(event.key)] += time_spent
    total = sum(spent.values())

    image = torch.rand(plan.training.batch, len(plan.channels), *plan.grid.shape, device=device).requires_grad_()

    def field() -> None:
        trainer.view.field(image).square().sum().backward()
        synchronize(device)

    field_seconds = seconds(field)
    rate = step_costs(plan).operations / (step_seconds * spent["convolution"] / total)
    best = best_convolution_rate() if device == "cpu" else float("nan")

    print(f"{machine()}\n{arguments.data.name}, grid {plan.grid.shape}, batch {plan.training.batch}\n")
    rows = [[name, f"{100 * part / total:.0f} %"] for name, part in sorted(spent.items(), key=lambda item: -item[1])]
    print(table(["part of a step", "share of its time"], rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    figures = [
        ["steps a second", f"{1 / step_seconds:.2f}"],
        ["convolutions, GFLOP/s", f"{rate / 1e9:.0f}"],
        ["best conv3d, GFLOP/s", f"{best / 1e9:.0f}"],
        ["ratio of the two", f"{rate / best:.2f}"],
        ["field, forward and backward, share of a step", f"{100 * field_seconds / step_seconds:.0f} %"],
        ["minutes per 1000 steps, measured", f"{step_seconds * 1000 / 60:.1f}"],
        ["minutes per 1000 steps, predicted", f"{plan.prediction.minutes_per_1000_steps:.1f}"],
        ["peak memory, GB, measured (the whole process)", f"{peak:.2f}"],
        ["peak memory, GB, predicted", f"{plan.prediction.memory_gb:.2f}"],
    ]
    print("\n" + table(["figure", "value"], figures))


if __name__ == "__main__":
    main()
