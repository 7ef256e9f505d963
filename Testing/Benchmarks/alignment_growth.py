"""How long an alignment takes and how much memory, from small volumes to large ones: the command itself, on made cases.

    .venv/bin/python Testing/Benchmarks/alignment_growth.py [--sides 32 64 128 256] [--cases 10]

Cases of the embedded cohort of so many voxels a side are written, and ``gedgan align`` brings them to a template in a
process of its own, whose peak memory the system tells. What is measured is kept in ``results/alignment_growth.json`` as
it comes, and the table in ``results/alignment_growth.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from common import machine, table

from GEDGANLib.exchange.nnunet import write_dataset
from GEDGANLib.volumes.cohort import make_case

RESULTS = Path(__file__).parent / "results"
HEAD_MM = 192.0


def measured(side: int, count: int) -> dict[str, float]:
    """Seconds and GB of an alignment of ``count`` cases of ``side`` voxels cubed."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        cases = (make_case(index, 0, (side,) * 3, HEAD_MM / side) for index in range(count))
        write_dataset(data, cases, "cohort", whole_numbers="int16")
        command = [sys.executable, "-m", "GEDGANLib", "align", str(data), "-o", str(run), "--device", "cpu"]
        command += ["--spacing", str(HEAD_MM / side)]
        begun = time.monotonic()
        process = os.spawnv(os.P_NOWAIT, sys.executable, command)
        _, status, usage = os.wait4(process, 0)
        seconds = time.monotonic() - begun
        if status:
            raise SystemExit(f"the alignment of {side} cubed failed")
        disk = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
        shutil.rmtree(run)
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "gb": usage.ru_maxrss / 1e6,
            "disk_gb": disk / 1e9}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--cases", type=int, default=10)
    arguments = parser.parse_args()
    path = RESULTS / "alignment_growth.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for side in arguments.sides:
        if str(side) not in found:
            found[str(side)] = measured(side, arguments.cases) | {"cases": arguments.cases}
            path.write_text(json.dumps(found, indent=1) + "\n")
    rows = [
        [f"{side}³", str(each["cases"]), f"{each['seconds']:.0f}", f"{each['seconds'] / each['cases']:.1f}",
         f"{each['cpu_seconds'] / each['cases']:.1f}", f"{each['gb']:.2f}", f"{each['disk_gb']:.2f}"]
        for side, each in sorted(found.items(), key=lambda pair: int(pair[0]))
    ]  # fmt: skip
    heading = ["voxels", "cases", "s in all", "s a case", "CPU s a case", "GB at the peak", "GB on disk"]
    text = f"# Alignment, from small volumes to large ones\n\n{machine()}\n\n{table(heading, rows)}\n"
    (RESULTS / "alignment_growth.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
