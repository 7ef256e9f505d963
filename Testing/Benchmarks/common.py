"""What all benchmarks share: the machine in words, the clock, the best rate of a 3D convolution here."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch


def machine() -> str:
    """Processor, threads and versions, one line."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    versions = f"PyTorch {torch.__version__}, Python {platform.python_version()}"
    return f"{name}, {torch.get_num_threads()} threads{gpu}; {versions}"


def seconds(work: Callable[[], object], repeats: int = 7, warm_up: int = 1) -> float:
    """Shortest of ``repeats`` runs: what the work costs when nothing else disturbs it."""
    for _ in range(warm_up):
        work()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def interleaved(works: dict[str, Callable[[], object]], repeats: int = 7) -> dict[str, float]:
    """Shortest seconds of each work, taken in turns, so that a noisy minute disturbs all alike."""
    best = {name: float("inf") for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def best_convolution_rate() -> float:
    """Operations a second of the best 3D convolution found here, forward and backward (kernel 3, several sizes)."""
    best = 0.0
    for channels, side, batch in ((16, 24, 4), (32, 24, 4), (64, 16, 4), (32, 32, 2)):
        x = torch.randn(batch, channels, side, side, side).contiguous(memory_format=torch.channels_last_3d)
        x.requires_grad_()
        weight = torch.randn(channels, channels, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d)
        weight.requires_grad_()

        def work(x=x, weight=weight) -> None:
            torch.nn.functional.conv3d(x, weight, padding=1).sum().backward()

        best = max(best, 3 * 2.0 * x.numel() * channels * 27 / seconds(work, 4))
    return best


def run_or_table(
    text: str, add_options: Callable[[argparse.ArgumentParser], None], run: Callable, write_table: Callable
) -> None:
    """The command line of a study: ``run`` what is not done yet and write the table, or ``table`` alone."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run what is not done yet")
    runner.add_argument("--data", type=Path, required=True, help="MSD Task04 Hippocampus")
    add_options(runner)
    commands.add_parser("table", help="write the table of what is done")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments)
    write_table()


def table(heading: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
