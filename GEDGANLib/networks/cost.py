"""What a training step costs: products and memory counted on networks without data, then scaled to the device."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from ..device import half_type, synchronize
from .build import (
    agreement_channels,
    build_discriminator,
    build_generator,
    build_refiner,
    coarse_plan,
    field_channels,
    part_plan,
)
from .noise import Residuals

# Products of one step in units of one forward pass of one case. A backward pass costs two forward ones, a second
# backward through it two more. D's step: fakes, then real and fake; the penalties; G's: fakes, D on real and fake.
GENERATOR_PASSES = 1 + 3
DISCRIMINATOR_PASSES = 2 * (1 + 2) + 1 + 3
PENALTY_PASSES = 2 * 4
# Share of a plain convolution's rate that a whole step reaches: 0.35 to 0.6 on two CPU cores, 32 to 256 voxels a side;
# 0.38 to 0.45 on an H100, 64 and 128 voxels (Testing/Benchmarks/gpu.py).
EFFICIENCY = {"cpu": 0.48, "mps": 0.48, "cuda": 0.42}
# Rates of devices that are not at hand to be measured; of CUDA a card of the middle.
RATES = {"cuda": 4e13, "mps": 1.2e12}
# Bytes that a process takes before it trains: libraries; on CUDA what the driver takes for a process, what cuDNN needs,
# and what a recorded step and PyTorch's allocator keep.
PROCESS_MEMORY = {"cpu": 0.42e9, "mps": 0.0, "cuda": 1.55e9}
# Bytes that stay allocated for one activation between forward and second backward, copies and gradients included
# (measured on the CPU, 32 to 256 voxels a side, see Testing/Benchmarks/training.py; on an H100 by the driver, 64 and
# 128 voxels, batches of 2 to 16, bfloat16, and in float32 by counting; on Apple's GPU, which was not at hand, more is
# left for what its allocator keeps).
ACTIVATION_COPIES = {"cpu": 6.3, "mps": 8.3, "cuda": 3.0}
HALF_PRECISION_COPIES = 2.25


def count(network: nn.Module, *inputs: torch.Tensor | None) -> tuple[float, float]:
    """Floating-point operations of the convolutions and values kept, for one forward pass of a network on meta."""
    operations = kept = 0.0

    def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal operations, kept
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            # A transposed convolution multiplies each of its inputs, a plain one gathers for each of its outputs.
            applied = inputs[0] if module.transposed else output
            operations += 2.0 * applied.numel() * module.weight[0].numel()
            kept += 2.0 * output.numel()  # the output and its activation

    handles = [module.register_forward_hook(hook) for module in network.modules()]
    network(*inputs)
    for handle in handles:
        handle.remove()
    return operations, kept


@cache
def convolution_rate(device: str = "cpu", half: bool = False) -> float:
    """Operations a second of a plain 3D convolution on a device at hand, forward and backward; measured once a process.

    :param half: in half precision, bfloat16 where the device has it.
    """
    batch, channels, side = (4, 16, 24) if device == "cpu" else (4, 32, 64)
    options = {"device": device, "dtype": half_type() if half else torch.float32}
    x = torch.randn(batch, channels, side, side, side, **options).contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(channels, channels, 3, 3, 3, **options).contiguous(memory_format=torch.channels_last_3d)
    x.requires_grad_(), weight.requires_grad_()
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        nn.functional.conv3d(x, weight, padding=1).sum().backward()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    operations = 3 * 2.0 * x.numel() * channels * 27
    if device == "cuda":  # what is free is asked for next
        del x, weight
        torch.cuda.empty_cache()
    return operations / best


class StepCosts(NamedTuple):
    """What :func:`step_costs` counts.

    :param operations: floating-point operations of the convolutions of a step, on average.
    :param kept: values that stay allocated at the fullest moment of a step.
    :param weights: parameters of both networks.
    """

    operations: float
    kept: float
    weights: int


def _over(shape: Sequence[int], stride: Sequence[int]) -> list[int]:
    return [side // each for side, each in zip(shape, stride)]


def step_costs(plan) -> StepCosts:
    """Count one training step of ``plan`` on networks without data."""
    counted = (plan.spatial_dims, plan.grid, plan.channels, plan.labels, plan.classes, plan.networks, plan.field)
    counted += (plan.statistical.modes,)
    key = repr((*counted, plan.training))
    if key not in _COUNTED:
        _COUNTED[key] = _count_step(plan)
    return _COUNTED[key]


_COUNTED: dict[str, StepCosts] = {}
"""What was counted already: a plan that is made, fitted and told is asked for three times."""


def _count_step(plan) -> StepCosts:
    batch, parts = plan.training.batch, plan.training.volume == "parts"
    looked_at = (coarse_plan(plan), part_plan(plan)) if parts else (plan,)
    starts = (torch.zeros(batch, plan.spatial_dims, dtype=torch.long),) if parts else ()
    case_channels = len(plan.channels) + (len(plan.labels) + 1 if plan.labels else 0)
    beside = field_channels(plan) + agreement_channels(plan)
    with torch.device("meta"):
        # Of the second generator what learns: the rest is small beside it.
        generator = build_refiner(plan).to("meta") if plan.repaints else build_generator(plan)
        discriminator = build_discriminator(plan)
        cases = [torch.empty(batch, case_channels, *each.grid.shape) for each in looked_at]
        fields = [
            torch.empty(batch, beside, *_over(each.grid.shape, plan.field_stride)) if beside else None
            for each in looked_at
        ]
        classes = torch.empty(batch, len(plan.classes)) if plan.classes else None
        latents = torch.empty(batch, plan.networks.latent_size)
        if plan.repaints:
            positions = torch.empty(batch, plan.spatial_dims, *plan.grid.shape)
            levels = len(plan.networks.generator_widths)
            amplitudes = torch.empty(batch, len(plan.channels), levels, *plan.grid.shape)
            residuals = Residuals(amplitudes, torch.zeros(plan.spatial_dims), torch.zeros(()), amplitudes[:, :, 0])
            given = cases[0], positions, latents[:, plan.statistical.modes :], residuals, classes
        else:
            given = latents, classes, *starts
        generator_operations, generator_kept = count(generator, *given)
        discriminator_operations, discriminator_kept = count(discriminator, *cases, *fields, None, classes, *starts)
    voxels = sum(math.prod(each.grid.shape) for each in looked_at)
    penalties = PENALTY_PASSES / plan.training.penalty_interval if plan.training.penalty_weight else 0
    kept = max(4 * discriminator_kept, generator_kept + discriminator_kept)
    kept += 4 * batch * voxels * (case_channels + beside / math.prod(plan.field_stride))
    return StepCosts(
        GENERATOR_PASSES * generator_operations + (DISCRIMINATOR_PASSES + penalties) * discriminator_operations,
        kept,
        sum(weight.numel() for network in (generator, discriminator) for weight in network.parameters()),
    )


def predict(plan, device: str) -> tuple[float, float]:
    """Peak memory in GB (1e9 bytes) and minutes per 1000 steps of training ``plan`` on ``device``.

    On a GPU it is the GPU's memory, as its driver counts it for the process. The prepared cases are left out: the
    system keeps as much of them in memory as it has room for.
    """
    costs = step_costs(plan)
    half = device == "cuda" and plan.training.precision != "float32"
    at_hand = device == "cpu" or (device == "cuda" and torch.cuda.is_available())
    rate = convolution_rate(device, half) if at_hand else RATES[device]
    seconds = costs.operations / (rate * EFFICIENCY[device])
    copies = HALF_PRECISION_COPIES if half else ACTIVATION_COPIES[device]
    memory = costs.kept * copies + costs.weights * 4 * 6 + PROCESS_MEMORY[device]
    return memory / 1e9, seconds * 1000 / 60
