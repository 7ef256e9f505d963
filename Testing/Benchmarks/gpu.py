"""Time and memory of training steps on a GPU, beside HA-GAN, and where the time goes; under four minutes.

    python Testing/Benchmarks/gpu.py [--hagan FOLDER] [--profile SIDE BATCH] [--rows SIDE:BATCH:PRECISION ...]

Needs PyTorch, NumPy and safetensors, nothing else, so that a copy of the repository runs on a machine that has only
these. Each row is a process of its own on noise with two labels, augmentation at half strength; the clock stops when
the device has finished. ``peak`` is what PyTorch held at most, ``driver`` what the driver says the process took beyond
what it takes for any process (some 0.5 GB), ``told`` what the plan says, that included. The rate is that of the
convolutions counted, over that of a large bfloat16 matrix product in the same run. FOLDER is a copy of the public
repository of HA-GAN, see ``training.py``. With GEDGAN_CUDA_GRAPHS=0 no step is recorded, so that the profile knows the
shapes. What was measured so far: ``results/gpu.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # where it is not installed

from common import machine, table
from training import measure_hagan, noise_cases, plan_for

from GEDGANLib.device import choose_device, memory_in_use, synchronize

DEVICE = choose_device()

STEPS = 12
"""Counted; a multiple of every penalty interval that is tried."""
ROWS = ("64:16:bfloat16", "64:16:float32", "128:2:bfloat16", "128:8:bfloat16")
SECONDS = 100
"""After which a row is given up."""


def driver_gb() -> float:
    """What the driver says is taken of the card, GB; whoever else is on it included."""
    return memory_in_use() / 1e9 if DEVICE == "cuda" else float("nan")


def trainer_for(side: int, batch: int, precision: str):
    """A trainer of the default plan for cubes, the plan, and what it tells: GB and seconds a step."""
    from GEDGANLib.networks.cost import predict
    from GEDGANLib.training.trainer import Trainer

    plan, device, _ = plan_for(side, "whole", batch)
    plan = replace(plan, training=replace(plan.training, precision=precision))
    memory, minutes = predict(plan, device)
    trainer = Trainer(plan, noise_cases(plan, 8), device, 0, workers=1)
    trainer.strength.value = 0.5
    return trainer, plan, memory, minutes * 60 / 1000


def measure(side: int, batch: int, precision: str) -> dict:
    from GEDGANLib.networks.cost import step_costs

    before = driver_gb()
    trainer, plan, told_memory, told_seconds = trainer_for(side, batch, precision)
    synchronize(DEVICE)
    start = time.perf_counter()
    trainer.step()
    synchronize(DEVICE)
    first = time.perf_counter() - start
    for _ in range(STEPS - 1):
        trainer.step()
    synchronize(DEVICE)
    start = time.perf_counter()
    for _ in range(STEPS):
        trainer.step()
    synchronize(DEVICE)
    step = (time.perf_counter() - start) / STEPS
    return {
        "step": step,
        "first": first,
        "peak": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan"),
        "driver": driver_gb() - before,
        "told_memory": told_memory,
        "told_seconds": told_seconds,
        "operations": step_costs(plan).operations,
        "refusal": trainer.recorder.refusal,
    }


def matrix_rate() -> float:
    """Operations a second of a bfloat16 matrix product of 8192."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    synchronize(DEVICE)
    start = time.perf_counter()
    for _ in range(20):
        a @ b
    synchronize(DEVICE)
    return 20 * 2 * 8192**3 / (time.perf_counter() - start)


def profile_steps(side: int, batch: int, count: int = 4) -> None:
    """Print the operations, by the shapes of what goes into them, that take the device's time in ``count`` steps."""
    from torch.profiler import ProfilerActivity, profile

    trainer, *_ = trainer_for(side, batch, "bfloat16")
    for _ in range(3 * count):  # until all is recorded
        trainer.step()
    synchronize(DEVICE)
    start = time.perf_counter()
    for _ in range(count):
        trainer.step()
    begun = (time.perf_counter() - start) / count
    synchronize(DEVICE)
    wall = (time.perf_counter() - start) / count
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], record_shapes=True) as profiler:
        for _ in range(count):
            trainer.step()
        synchronize(DEVICE)
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.self_device_time_total > 0 and event.key.startswith("aten::"):
            shapes = [list(shape) for shape in event.input_shapes if shape][:3]
            entry = spent[f"{event.key.removeprefix('aten::')} {shapes}"]
            entry[0] += event.self_device_time_total / count / 1000
            entry[1] += event.count // count
    kernels: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in profiler.key_averages():
        if event.self_device_time_total > 0 and not event.key.startswith(("aten::", "cuda")):
            kernels[event.key[:110]][0] += event.self_device_time_total / count / 1000
            kernels[event.key[:110]][1] += event.count // count
    total = sum(milliseconds for milliseconds, _ in kernels.values())
    launches = sum(number for _, number in kernels.values())
    print(
        f"\n{side} cubed, batch {batch}: {1000 * wall:.1f} ms a step, {1000 * begun:.1f} ms until it has begun, "
        f"{total:.1f} ms of {launches} kernels"
    )
    for heading, found, most in (("operation, shapes", spent, 40), ("kernel", kernels, 25)):
        rows = [
            [name, f"{milliseconds:.2f}", str(number)]
            for name, (milliseconds, number) in sorted(found.items(), key=lambda item: -item[1][0])[:most]
        ]
        print(table([heading, "ms a step", "times"], rows), flush=True)


def in_own_process(*arguments: object) -> dict:
    command = [sys.executable, __file__, "one", *map(str, arguments)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {SECONDS} s"}
    if ended.returncode:
        return {"failed": " ".join(ended.stderr.strip().splitlines()[-1:])}
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        kind, *rest = sys.argv[2:]
        if kind == "hagan":
            before = driver_gb()
            print(json.dumps(measure_hagan(Path(rest[0]), 128, 2) | {"driver": driver_gb() - before}))
        else:
            print(json.dumps(measure(int(rest[0]), int(rest[1]), rest[2])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hagan", type=Path, help="a copy of HA-GAN's public repository")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help="SIDE:BATCH:PRECISION")
    parser.add_argument("--profile", type=int, nargs=2, metavar=("SIDE", "BATCH"))
    arguments = parser.parse_args()
    print(machine(), flush=True)
    best = matrix_rate() if torch.cuda.is_available() else float("nan")
    print(f"bfloat16 matrix product: {best / 1e12:.0f} TFLOP/s; cuDNN {torch.backends.cudnn.version()}\n", flush=True)
    rows = []
    for name in arguments.rows:
        side, batch, precision = name.split(":")
        found = in_own_process("ours", side, batch, precision)
        label = f"{side} cubed, batch {batch}, {precision}"
        if found.get("refusal"):
            label += f" (not recorded: {found['refusal']})"
        if "failed" in found:
            rows.append([label, found["failed"]])
            continue
        rate = found["operations"] / found["step"]
        rows.append(
            [
                label,
                f"{found['step']:.4f}",
                f"{found['first']:.1f}",
                f"{found['peak']:.2f}",
                f"{found['driver']:.2f}",
                f"{found['told_seconds']:.3f} s, {found['told_memory']:.2f} GB",
                f"{rate / 1e12:.1f} TFLOP/s, {100 * rate / best:.1f} %",
            ]
        )
        print(rows[-1], flush=True)
    if arguments.hagan is not None:
        found = in_own_process("hagan", arguments.hagan)
        row = ["HA-GAN, 128 cubed, batch 2, all four networks"]
        row += [found["failed"]] if "failed" in found else [
            f"{found['step']:.4f}", f"{found['first']:.1f}", f"{found['peak']:.2f}", f"{found['driver']:.2f}", "", ""
        ]  # fmt: skip
        rows.append(row)
    heading = ["", "s a step", "first step, s", "peak, GB", "driver, GB", "told", "convolutions' rate, of the matrix's"]
    rows = [row + [""] * (len(heading) - len(row)) for row in rows]
    print(table(heading, rows), flush=True)
    if arguments.profile:
        profile_steps(*arguments.profile)


if __name__ == "__main__":
    main()
