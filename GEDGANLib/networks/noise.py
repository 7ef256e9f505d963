r"""Noise a voxel that is told by a few numbers, so that a case is told by its latent alone.

A generator that draws noise a voxel (Karras et al., *A style-based generator architecture for generative adversarial
networks*, CVPR 2019, section 2) makes another case of the same latent each time. Here the rest w of the latent, W
numbers, mixes W fixed patterns instead:

.. math:: \varepsilon(x)=\frac{1}{\sqrt W}\sum_{j=1}^{W} s_{bj}\,w_{(j+b)\bmod W}\,B_j(x)

with patterns B of white noise on one tile, and for each tile b of the grid an order and signs s of its own, so that
tiles differ. It is standard normal at every voxel, moves smoothly with w, and a part of the grid equals the whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .blocks import upsample

SIDE = 16
"""Voxels of a tile along each axis."""


def to_full_resolution(noise: Tensor, strides: Sequence[Sequence[int]]) -> Tensor:
    """Noise (N, C, *grid) of a level, whose grid these strides have led to, brought back to the full grid."""
    for stride in reversed(strides):
        noise = upsample(noise, stride)
    return noise


class Residuals(NamedTuple):
    """Noise that makes up for what statistical cases lack of real ones, see ``synthesis.residuals``; and what is left
    to a refiner.

    :param amplitudes: its standard deviation at each place of the template, (C, levels, *coarse), finest level first.
    :param taps: share of each neighbour along an axis that is mixed into a voxel of the finest level, (D,), in
        [0, 0.25]; 0 for white noise.
    :param coarse: κ, share of what is as coarse as its coarsest level that a refiner changes too; a number.
    :param scale: root of the mean square by which cases differ from their statistical ones at each place of the
        template, (C, *coarse): in these units a refiner paints, and nothing in the air of all of them.
    :param judged: mean square by which cases differ from their statistical ones as the judges see them, summed over
        voxels and channels, (judges,): of the image, and of the field where that is judged; None where that was not
        measured.
    """

    amplitudes: Tensor
    taps: Tensor
    coarse: Tensor
    scale: Tensor
    judged: Tensor | None = None


def smoothed(noise: Tensor, taps: Tensor) -> Tensor:
    """Noise (N, C, *grid) with ``taps`` of both neighbours in each voxel; the grid goes on at its other end."""
    for axis, tap in enumerate(taps, 2):
        noise = (1 - 2 * tap) * noise + tap * (noise.roll(1, axis) + noise.roll(-1, axis))
    return noise


class NoisePatterns(nn.Module):
    """See the module's text. It learns nothing, and is the same on every machine.

    :param size: W.
    :param shape: voxels of the grid.
    :param seed: of the patterns.
    """

    def __init__(self, size: int, shape: Sequence[int], seed: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.tile = tuple(min(SIDE, side) for side in shape)
        self.tiles = tuple(math.ceil(side / tile) for side, tile in zip(shape, self.tile))
        random = np.random.default_rng(seed)
        patterns = random.standard_normal((size, math.prod(self.tile)), np.float32) / math.sqrt(size)
        count = math.prod(self.tiles)
        order = (np.arange(size) + np.arange(count)[:, None]) % size
        signs = random.integers(0, 2, (count, size)) * 2.0 - 1
        # Not in the state: they follow from the sizes, and the patterns would be most of a model file.
        self.register_buffer("patterns", torch.from_numpy(patterns), persistent=False)
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        self.register_buffer("signs", torch.from_numpy(signs.astype(np.float32)), persistent=False)

    def forward(self, rest: Tensor) -> Tensor:
        """Noise (N, 1, *shape) of w (N, W)."""
        dims = len(self.shape)
        mixed = (rest[:, self.order] * self.signs) @ self.patterns
        tiled = mixed.reshape(len(rest), *self.tiles, *self.tile)
        together = [0, *itertools.chain.from_iterable((1 + axis, 1 + dims + axis) for axis in range(dims))]
        whole = tiled.permute(together).reshape(
            len(rest), 1, *(count * side for count, side in zip(self.tiles, self.tile))
        )
        return whole[(..., *(slice(side) for side in self.shape))]
