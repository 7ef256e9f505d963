"""Time and memory of a training step and of synthesis, from 32 to 256 voxels a side, beside the rivals.

    .venv/bin/python Testing/Benchmarks/training.py [--sides 32 64 128 256] [--hagan FOLDER]

Every measurement runs in a process of its own, so that peak memory is its own: all of the process, the libraries
included. Cases are noise with two labels, augmentation at half strength. ``predicted`` is what `gedgan plan` says: the
time of three steps of its own, and memory by counting. A growth
exponent of 1 means that the figure grows with the voxels. FOLDER is a copy of the public repository of HA-GAN, whose
128-voxel networks (generator with both heads, discriminator, encoder, sub-encoder, batch 2) then make the same kind of
step: one update of each. It has no labels and no penalty.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from common import machine, table

from GEDGANLib.device import memory_in_use, synchronize

LABELS = 2
STEPS = {32: 8, 64: 3, 128: 2, 256: 2}
LATENT_OF_HAGAN = 1024


def peak_gb() -> float:
    """Of the GPU where there is one, else of this process, libraries included."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def plan_for(side: int, kind: str, batch: int | None):
    """The default plan of this device for cubes of ``side`` voxels, or one that is trained whole, or the article's."""
    from GEDGANLib.device import choose_device
    from GEDGANLib.networks.cost import predict
    from GEDGANLib.planning.choosing import make_plan
    from GEDGANLib.volumes.case import Label
    from GEDGANLib.volumes.fingerprint import CaseFacts, Fingerprint

    device = choose_device()
    directions = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    labels = tuple(Label(index, index, f"label {index}", (1.0, 0.0, 0.0)) for index in range(1, LABELS + 1))
    facts = CaseFacts(
        "case",
        (side,) * 3,
        (1.0,) * 3,
        directions,
        (0.0,) * 3,
        ((0.0, 1.0),),
        (0.0,),
        "float32",
        True,
        {label.name: 5 for label in labels},
    )
    method = "article" if kind == "article" else "ged"
    fingerprint = Fingerprint((facts,) * 4, labels, ("image",), "noise", ())
    plan = make_plan(fingerprint, device, (side,) * 3, (1.0,) * 3, method)
    training = plan.training if batch is None else replace(plan.training, batch=batch)
    if kind == "whole":
        training = replace(training, volume="whole", part=())
    plan = replace(plan, training=training)
    return plan, device, predict(plan, device)


def noise_cases(plan, count: int = 4) -> list:
    """Cases of noise on the grid of a plan."""
    import numpy as np

    from GEDGANLib.volumes.pipeline import WorkingCase

    random, affine, shape = np.random.default_rng(0), np.eye(4), plan.grid.shape
    return [
        WorkingCase(
            f"case{index}",
            random.uniform(-1, 1, (1, *shape)).astype(np.float32),
            random.integers(0, LABELS + 1, shape).astype(np.uint8),
            affine,
            affine,
            shape,
        )
        for index in range(count)
    ]


def measure_ours(side: int, kind: str, batch: int | None) -> dict:
    import torch

    from GEDGANLib.training.measuring import measured
    from GEDGANLib.training.recording import steps_to_warm_up
    from GEDGANLib.training.trainer import Trainer

    plan, device, (memory, _) = plan_for(side, kind, batch)
    cases = noise_cases(plan)
    trainer = Trainer(plan, cases, device, 0)
    trainer.strength.value = 0.5 if plan.augmentation.kinds else 0.0
    interval = plan.training.penalty_interval
    for _ in range(steps_to_warm_up(device, interval)):
        trainer.step()
    synchronize(device)
    start = time.perf_counter()
    count = -(-STEPS.get(side, 2) // interval) * interval  # whole rounds of penalties
    for _ in range(count):
        trainer.step()
    synchronize(device)
    step = (time.perf_counter() - start) / count
    training_peak = memory_in_use() / 1e9 if device == "cuda" else peak_gb()  # as it is predicted
    minutes = measured(plan, device).prediction.minutes_per_1000_steps
    latent = torch.zeros(1, plan.networks.latent_size, device=device)
    best = math.inf
    with torch.inference_mode():
        for _ in range(3):
            start = time.perf_counter()
            trainer.average(latent)
            synchronize(device)
            best = min(best, time.perf_counter() - start)
    return {
        "volume": plan.training.volume if plan.method == "ged" else "whole",
        "batch": plan.training.batch,
        "step": step,
        "peak": training_peak,
        "predicted_step": minutes * 60 / 1000,
        "predicted_peak": memory,
        "synthesis": best,
    }


def measure_synthesis_peak(side: int, kind: str, batch: int | None) -> dict:
    import torch

    from GEDGANLib.networks.build import build_generator

    plan, device, _ = plan_for(side, kind, batch)
    generator = build_generator(plan).to(device).eval()
    with torch.inference_mode():
        generator(torch.zeros(1, plan.networks.latent_size, device=device))
    return {"synthesis_peak": peak_gb()}


def measure_hagan(folder: Path, side: int, batch: int) -> dict:
    """One update of each network of HA-GAN on noise, as its paper describes a step; BCE and L1 as there."""
    import torch
    from torch.nn import functional

    sys.path.insert(0, str(folder))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # its discriminator moves a constant to the GPU
    networks = __import__(f"models.Model_HA_GAN_{side}", fromlist=["Generator"])
    players = {
        "generator": networks.Generator(mode="train", latent_dim=LATENT_OF_HAGAN, num_class=0),
        "discriminator": networks.Discriminator(num_class=0),
        "encoder": networks.Encoder(),
        "sub_encoder": networks.Sub_Encoder(latent_dim=LATENT_OF_HAGAN),
    }
    rates = {"generator": 1e-4, "discriminator": 4e-4, "encoder": 1e-4, "sub_encoder": 1e-4}
    optimizers = {}
    for name, player in players.items():
        player.to(device).train().requires_grad_(False)
        optimizers[name] = torch.optim.Adam(player.parameters(), rates[name], betas=(0.0, 0.999))
    volume = torch.rand(batch, 1, side, side, side, device=device) * 2 - 1
    slab = side // 8
    make, judge, encode, gather = players.values()

    def update(name: str, loss_of) -> None:
        players[name].requires_grad_(True)
        optimizers[name].zero_grad()
        loss_of().backward()
        optimizers[name].step()
        players[name].requires_grad_(False)

    def real_or_not(logit, wanted: float):
        return functional.binary_cross_entropy_with_logits(logit, torch.full_like(logit, wanted))

    def latent():
        return torch.randn(batch, LATENT_OF_HAGAN, device=device)

    def step(first: int = 0) -> None:
        small, crop = functional.interpolate(volume, scale_factor=0.25), volume[:, :, first : first + slab]

        def of_discriminator():
            fake, fake_small = make(latent(), crop_idx=first, class_label=None)
            return real_or_not(judge(crop, small, first), 1.0) + real_or_not(judge(fake, fake_small, first), 0.0)

        def of_sub_encoder():
            with torch.no_grad():
                slabs = [encode(volume[:, :, start : start + slab]) for start in range(0, side, slab)]
            again, again_small = make(gather(torch.cat(slabs, 2)), crop_idx=first)
            return (functional.l1_loss(again, crop) + functional.l1_loss(again_small, small)) / 2

        update("discriminator", of_discriminator)
        update("generator", lambda: real_or_not(judge(*make(latent(), crop_idx=first, class_label=None), first), 1.0))
        update("encoder", lambda: functional.l1_loss(make(encode(crop), crop_idx=None), crop))
        update("sub_encoder", of_sub_encoder)

    start = time.perf_counter()
    step()
    synchronize(device)
    first = time.perf_counter() - start
    repeats = 12 if device == "cuda" else 1
    step(slab)
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step(slab)
    synchronize(device)
    seconds = (time.perf_counter() - start) / repeats
    return {"volume": "slabs", "batch": batch, "step": seconds, "first": first, "peak": peak_gb()}


def in_own_process(*arguments: object) -> dict:
    command = [sys.executable, __file__, "one", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        return {"failed": ended.stderr.strip().splitlines()[-1:]}
    return json.loads(ended.stdout.splitlines()[-1])


def exponent(smaller: tuple[int, float], larger: tuple[int, float]) -> str:
    """Growth of a figure with the voxels, as a power of their number."""
    return f"{math.log(larger[1] / smaller[1]) / (3 * math.log(larger[0] / smaller[0])):.2f}"


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        kind, side, batch, *folder = sys.argv[2:]
        size = int(batch) or None
        if kind == "hagan":
            print(json.dumps(measure_hagan(Path(folder[0]), int(side), int(batch))))
        elif kind == "synthesis":
            print(json.dumps(measure_synthesis_peak(int(side), "ged", size)))
        else:
            print(json.dumps(measure_ours(int(side), kind, size)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--hagan", type=Path, help="a copy of HA-GAN's public repository")
    arguments = parser.parse_args()
    print(machine(), flush=True)

    wanted = [("ged", side, 0) for side in arguments.sides]
    wanted += [("whole", 128, 0), ("article", 64, 4), ("ged", 64, 4), ("ged", 128, 2)]
    results = {key: in_own_process(*key) for key in dict.fromkeys(wanted)}
    rows = []
    for (kind, side, _), found in results.items():
        if "failed" in found:
            rows.append([kind, str(side), *["-"] * 7, str(found["failed"])])
            continue
        making = in_own_process("synthesis", side, 0) if kind == "ged" else {}
        rows.append(
            [
                kind,
                str(side),
                found["volume"],
                str(found["batch"]),
                f"{found['step']:.2f}",
                f"{found['predicted_step'] / found['step']:.2f}",
                f"{found['peak']:.2f}",
                f"{found['predicted_peak'] / found['peak']:.2f}",
                f"{found['synthesis']:.3f}",
                f"{making['synthesis_peak']:.2f}" if making else "-",
            ]
        )
    heading = ["plan", "side", "volume", "batch", "step, s", "predicted / step", "peak, GB", "predicted / peak"]
    print(table([*heading, "synthesis, s a case", "its peak, GB"], rows), flush=True)

    rows = []
    for smaller, larger in zip(arguments.sides, arguments.sides[1:]):
        one, other = results["ged", smaller, 0], results["ged", larger, 0]
        if "failed" not in one and "failed" not in other:
            per_case = [(side, found["step"] / found["batch"]) for side, found in ((smaller, one), (larger, other))]
            made = [(side, found["synthesis"]) for side, found in ((smaller, one), (larger, other))]
            rows.append([f"{smaller} to {larger}", exponent(*per_case), exponent(*made)])
    print("\n" + table(["growth with the voxels", "step, a case", "synthesis"], rows), flush=True)

    def ratio(words: str, one: dict, other: dict, figure: str) -> list[str]:
        if figure not in one or figure not in other:
            return [words, "-", "-", "-"]
        return [words, f"{one[figure]:.2f}", f"{other[figure]:.2f}", f"{one[figure] / other[figure]:.2f}"]

    rows = []
    if 256 in arguments.sides:
        large, whole = results["ged", 256, 0], results["whole", 128, 0]
        rows.append(ratio("256 on parts / 128 whole, peak GB", large, whole, "peak"))
    rows.append(ratio("ours / article, 64, batch 4, s", results["ged", 64, 4], results["article", 64, 4], "step"))
    if arguments.hagan is not None:
        rival = in_own_process("hagan", 128, 2, arguments.hagan)
        for figure, unit in (("step", "s"), ("peak", "GB")):
            rows.append(ratio(f"ours / HA-GAN, 128, batch 2, {unit}", results["ged", 128, 2], rival, figure))
    print("\n" + table(["ratio", "first", "second", "first / second"], rows))


if __name__ == "__main__":
    main()
