"""Which kind of 3D convolution is fast here: what the networks were built from.

    .venv/bin/python Testing/Benchmarks/convolution.py

Forward and backward of residual blocks: dense against grouped (as wide as dense ones, and wider for the same number of
operations), memory with channels first against channels last, and the whole discriminator and generator with their
packed full resolution against a stage of blocks at full resolution. Rates are operations a second in GFLOP/s, a
multiplication and an addition counted each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import best_convolution_rate, interleaved, machine, table
from torch import nn
from torch.nn import functional

from GEDGANLib.networks.blocks import SLOPE, ResidualBlock, convolution, downsample
from GEDGANLib.networks.cost import count
from GEDGANLib.networks.discriminator import Discriminator

BATCH = 4


def backward(network: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    def work() -> None:
        x.grad = None
        network(x).square().mean().backward()

    return work


class GroupedBlock(nn.Module):
    """1x1 to ``width``, 3x3x3 in groups of ``size`` channels, 1x1 back; residual."""

    def __init__(self, channels: int, width: int, size: int) -> None:
        super().__init__()
        self.expand = convolution(3, channels, width, 1)
        self.spatial = convolution(3, width, width, 3, padding=1, groups=width // size)
        self.reduce = convolution(3, width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.leaky_relu(self.expand(functional.leaky_relu(x, SLOPE)), SLOPE)
        return x + self.reduce(functional.leaky_relu(self.spatial(y), SLOPE))


def operations_of(network: nn.Module, x: torch.Tensor) -> float:
    """Of forward and backward, which costs two forward passes."""
    return 3 * count(network, x.detach())[0]


def blocks() -> list[list[str]]:
    rows = []
    for channels, side in ((16, 24), (32, 16), (64, 12)):
        networks = {
            "dense, channels last": ResidualBlock(3, channels, 1),
            "dense, channels first": ResidualBlock(3, channels, 1),
            "groups of 8, as wide, channels last": GroupedBlock(channels, channels, 8),
            "groups of 8, four times as wide, channels last": GroupedBlock(channels, 4 * channels, 8),
        }
        works, operations = {}, {}
        for name, network in networks.items():
            last = name.endswith("last")
            layout = torch.channels_last_3d if last else torch.contiguous_format
            x = torch.randn(BATCH, channels, side, side, side).contiguous(memory_format=layout).requires_grad_()
            network = network.to(memory_format=layout)
            operations[name] = operations_of(network, x)
            works[name] = backward(network, x)
        spent = interleaved(works)
        for name, seconds in spent.items():
            rows.append(
                [
                    f"{channels} at {side}³",
                    name,
                    f"{1000 * seconds:.1f}",
                    f"{operations[name] / seconds / 1e9:.0f}",
                    f"{seconds / spent['dense, channels last']:.2f}",
                ]
            )
    return rows


class FullResolution(nn.Module):
    """The discriminator's first stage without packing: a block at full resolution, then the rest as it is."""

    def __init__(self, shape: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.enter = convolution(3, 4, widths[0], 3, padding=1)
        self.block = ResidualBlock(3, widths[0], 1)
        self.rest = Discriminator(3, shape, widths[0], 0, 0, widths)
        self.rest.pack = convolution(3, widths[0], widths[0], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(downsample(self.block(self.enter(x))))


def inputs() -> list[list[str]]:
    shape, widths = (32, 40, 32), (16, 32, 64)
    x = torch.randn(BATCH, 4, *shape).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    networks = {
        "packed by a strided convolution": Discriminator(3, shape, 1, 2, 0, widths),
        "a block at full resolution": FullResolution(shape, widths),
    }
    works = {name: backward(network.to(memory_format=torch.channels_last_3d), x) for name, network in networks.items()}
    spent = interleaved(works)
    first = spent["packed by a strided convolution"]
    return [[name, f"{1000 * seconds:.0f}", f"{seconds / first:.2f}"] for name, seconds in spent.items()]


def main() -> None:
    torch.manual_seed(0)
    print(f"{machine()}\nbest rate of a plain conv3d: {best_convolution_rate() / 1e9:.0f} GFLOP/s\n")
    print(table(["channels", "residual block, forward and backward", "ms", "GFLOP/s", "time, dense = 1"], blocks()))
    print("\n" + table(["discriminator's input, 32x40x32, batch 4", "ms", "ratio"], inputs()))


if __name__ == "__main__":
    main()
