r"""What interpolation and averaging took from a case, painted back: m(z) -> what is added to its image.

.. math::

    R=r-(1-\kappa)\,Ur+\sum_l a_l\,(1+c_l)\,\varepsilon_l,\qquad r=b\,\sigma\tanh(h/b)

with noise ε of each level's grid (:mod:`.noise`), as strong as the statistical cases lack it there
(``synthesis.residuals``), and h and c from a small U-Net. What it paints is in units of σ, by which cases differ from
their statistical ones at that place, and within b of them: nothing in the air about a head, and nothing that no scan
has while its judges know little. U takes means over blocks of the coarsest level, whose c is 0, and κ = 0: what is
coarse stays as modes and noise made it. A refiner that may change it makes cases alike there,
which a judge of a few cases at a time hardly sees: of the standard deviation of hippocampi's mean intensity it left
half.

The U-Net sees the deformed statistical case m (image and label probabilities), the noise and, by feature-wise scale and
shift (Perez et al., *FiLM: Visual reasoning with a general conditioning layer*, AAAI 2018), the rest of the latent.
Where it is it knows, at its coarsest level, by the coordinates of the template, warped along with the case, and their
sines and cosines. h and c start at 0: the first case it makes is the statistical one with noise of the right
spectrum. Without that noise it hardly learns any: noise and its opposite are as likely, so that the gradient of how
strong it is is 0 where there is none.

Norm-free, as all networks here: see :mod:`.blocks`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..alignment.sampling import shrink
from .blocks import ResidualBlock, convolution, downsample, full_precision, leaky, strides_of, upsample
from .noise import NoisePatterns, Residuals, smoothed, to_full_resolution

WAVES = (1, 2)
"""Periods, over the box, of the sines and cosines that tell where a voxel lies on the template."""
GAIN = 0.1
"""Of c. Adam moves each weight of the last layer as far as any other, and a voxel is a sum over hundreds: without it
the first steps change everything. Of h it is 1, since σ is about a tenth of the range of intensities."""
BOUND = 3.0
"""b."""


class Refiner(nn.Module):
    """See the module's text.

    :param spatial_dims: 2 or 3.
    :param shape: voxels of the grid, every side a multiple of the product of its strides.
    :param extent: of the box, mm.
    :param image_channels: of the image.
    :param label_count: labels without background; 0 for none.
    :param widths: channels a level, the full resolution first.
    :param rest: W, numbers of the latent that the statistical case does not use.
    :param class_count: classes to condition on; 0 for none.
    :param strides: how each level divides the grid of the one before, see ``blocks.strides_of``.
    :param relative: False for models of before, whose r is :data:`GAIN` times h, whatever σ is.
    """

    def __init__(
        self,
        spatial_dims: int,
        shape: Sequence[int],
        extent: Sequence[float],
        image_channels: int,
        label_count: int,
        widths: Sequence[int],
        rest: int,
        class_count: int = 0,
        strides: Sequence[Sequence[int]] = (),
        relative: bool = True,
    ) -> None:
        super().__init__()
        self.extent, self.class_count, self.relative = tuple(extent), class_count, relative
        self.strides = strides_of(len(widths) - 1, spatial_dims, strides)
        shapes = [tuple(shape)]
        for stride in self.strides:
            shapes.append(tuple(side // each for side, each in zip(shapes[-1], stride)))
        self.coarsest = shapes[-1]
        case_channels = image_channels + (label_count + 1 if label_count else 0)
        blocks = 2 * len(widths) - 2
        self.noise = nn.ModuleList(NoisePatterns(rest, each, level) for level, each in enumerate(shapes))
        self.enter = convolution(spatial_dims, case_channels + 1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            convolution(spatial_dims, before + 1, after, 1) for before, after in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            convolution(spatial_dims, after, before, 1) for before, after in itertools.pairwise(widths)
        )
        # At full resolution a block costs more than all below: there is one, behind what these tell.
        self.going_down = nn.ModuleList(ResidualBlock(spatial_dims, width, blocks) for width in widths[1:])
        self.going_up = nn.ModuleList(ResidualBlock(spatial_dims, width, blocks) for width in widths[:-1])
        self.modulation = nn.ModuleList(nn.Linear(rest + class_count, 2 * width) for width in widths)
        for layer in self.modulation:
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
        self.where = convolution(spatial_dims, spatial_dims * (1 + 2 * len(WAVES)), widths[-1], 1)
        self.output = convolution(spatial_dims, widths[0], image_channels * len(widths), 3, padding=1)
        nn.init.zeros_(self.output.weight)

    def forward(
        self,
        case: Tensor,
        positions: Tensor,
        rest: Tensor,
        residuals: Residuals,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """What is added to the images, (N, C, *shape).

        :param case: (N, C + L + 1, *shape), as :class:`.statistical.StatisticalGenerator` makes it.
        :param positions: where each voxel lies on the template, (N, D, *shape), mm.
        :param rest: w, (N, W).
        :param residuals: with a, (N, C, levels, *shape), and σ, (N, C, *shape), at each voxel.
        :param class_weights: (N, class_count); only with ``class_count``.
        """
        condition = torch.cat([rest, class_weights], 1) if self.class_count else rest
        noise = [patterns(rest) for patterns in self.noise]
        noise[0] = smoothed(noise[0], residuals.taps)
        x = self.enter(torch.cat([case, noise[0]], 1))
        kept = []
        for level in range(len(self.modulation)):
            if level:
                x = torch.cat([downsample(x, self.strides[level - 1]), noise[level].to(x.dtype)], 1)
                x = self.down[level - 1](x)
            if level == len(self.down):
                x = x + self._where(positions)
            x = self._modulated(level, x, condition)
            if level:
                x = self.going_down[level - 1](x)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = kept[level] + upsample(self.up[level](x), self.strides[level])
            x = self.going_up[level](x)
        with full_precision(x.device):  # in half precision an intensity would be one of a few hundred
            painted, *changes = self.output(leaky(x.float())).chunk(len(noise), 1)
            painted = residuals.scale * BOUND * torch.tanh(painted / BOUND) if self.relative else GAIN * painted
            painted = painted - (1 - residuals.coarse) * self._coarse(painted)
            for level, fine in enumerate(noise):
                fine = residuals.amplitudes[:, :, level] * to_full_resolution(fine.float(), self.strides[:level])
                painted = painted + (fine * (1 + GAIN * changes[level]) if level < len(changes) else fine)
            return painted

    def _coarse(self, painted: Tensor) -> Tensor:
        """What of it is as coarse as the coarsest level."""
        for stride in self.strides:
            painted = downsample(painted, stride)
        return to_full_resolution(painted, self.strides)

    def _where(self, positions: Tensor) -> Tensor:
        """What the network makes of where the voxels of the coarsest grid lie on the template."""
        with full_precision(positions.device):
            sides = positions.new_tensor(self.extent).reshape(1, -1, *[1] * (positions.ndim - 2))
            share = 2 * shrink(positions, self.coarsest) / sides
            waves = [wave(count * torch.pi * share) for count in WAVES for wave in (torch.sin, torch.cos)]
            return self.where(torch.cat([share, *waves], 1))

    def _modulated(self, level: int, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation[level](condition).reshape(len(x), 2, -1, *[1] * (x.ndim - 2)).unbind(1)
        return x * (1 + scale) + shift
