"""Networks for volumes that are too large to be trained whole: all of it coarsely, and a part of it finely.

The coarse stages always make the whole volume, at a quarter of the resolution; a head reads a coarse case from
them. The fine stages run on a part of the coarse maps, with as wide a halo as they reach, and add detail to the coarse
case. Nothing in them looks farther than the halo, normalisation least of all, so a volume that is made part by part is
the volume that is made at once. Two discriminators judge: one the coarse whole, one the fine part, which is told where
it lies. (Sun et al., *Hierarchical amortized GAN for 3D high resolution medical image synthesis*, IEEE JBHI 2022,
section III, trains on slabs beside a coarse whole; there is no halo there, and no detail on top of the coarse case.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import convolution, full_precision, leaky, upsample
from .discriminator import Discriminator, SeparateHeads
from .generator import Generator, start_of_mean_case

FACTOR = 4
"""Voxels of the volume to one of the coarse whole, along each axis."""
FINE_STAGES = 1
"""Stages of the generator between the coarse maps and full resolution; the last step to it is an interpolation."""


class PartsGenerator(nn.Module):
    """Latent -> coarse case and parts of the fine one; parameters as for ``Generator``.

    :param part: voxels of a part, every side a multiple of 4.
    :raises ValueError: a side that does not fit, or fewer than two stages.
    """

    def __init__(
        self,
        spatial_dims: int,
        shape: Sequence[int],
        image_channels: int,
        label_count: int,
        widths: Sequence[int],
        latent_size: int,
        part: Sequence[int],
        class_count: int = 0,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        if len(widths) <= FINE_STAGES:
            raise ValueError("a generator of parts needs a coarse stage and a fine one")
        if any(side % FACTOR or side > whole for side, whole in zip(part, shape)):
            raise ValueError(f"every side of a part {tuple(part)} must be a multiple of {FACTOR} and within {shape}")
        self.shape, self.part_shape = tuple(shape), tuple(part)
        self.image_channels, self.latent_size, self.class_count = image_channels, latent_size, class_count
        self.blocks = blocks
        # The generator of the whole volume, its mean case left to the coarse head.
        self.stem = Generator(
            spatial_dims, shape, image_channels, label_count, widths, latent_size, class_count, blocks, mean_shape=()
        )
        channels = image_channels + (label_count + 1 if label_count else 0)
        coarse_width = widths[-1 - FINE_STAGES]
        self.coarse_output = convolution(spatial_dims, coarse_width, channels, 3, padding=1)
        # Not learned, see ``Generator``.
        self.mean_case = nn.Parameter(torch.zeros(1, channels, *(side // FACTOR for side in shape)), False)
        with torch.no_grad():
            self.coarse_output.weight.mul_(0.03)

    def start_from(self, mean_case: Tensor) -> None:
        """Let every case start as the data's coarse mean, (C + labels, *shape / 4)."""
        with torch.no_grad():
            self.mean_case.copy_(start_of_mean_case(mean_case, self.image_channels)[None])

    @property
    def halo(self) -> int:
        """Coarse voxels beyond a part that its fine stages look at."""
        half = 1 + 1 + 2 * self.blocks  # at half resolution: the last convolution, the interpolation, the blocks
        return math.ceil(half / 2) + 1

    def coarse(self, latent: Tensor, class_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The coarse maps (N, width, *shape / 4) and the coarse case before tanh and softmax."""
        maps = self.stem.stages_to(len(self.stem.stages) - FINE_STAGES, latent, class_weights)
        with full_precision(maps.device):
            logits = self.mean_case + self.coarse_output(leaky(maps.float()))
        return maps, logits

    def fine(self, maps: Tensor, logits: Tensor, start: Sequence[int], shape: Sequence[int]) -> Tensor:
        """A part of the case, (N, channels, *shape).

        :param maps, logits: from :meth:`coarse`.
        :param start: first voxel, multiples of 4.
        :param shape: voxels of the part, multiples of 4.
        """
        wide, inner = [], []
        for first, side, whole in zip(start, shape, maps.shape[2:]):
            low = max(first // FACTOR - self.halo, 0)
            high = min((first + side) // FACTOR + self.halo, whole)
            wide.append(slice(low, high))
            inner.append(slice(first - low * FACTOR, first - low * FACTOR + side))
        detail = self.stem.from_stage(len(self.stem.stages) - FINE_STAGES, maps[(..., *wide)])
        with full_precision(maps.device):
            coarse = upsample(upsample(logits[(..., *wide)]))
            return self.stem.read_out((coarse + detail)[(..., *inner)])

    def forward(self, latent: Tensor, class_weights: Tensor | None = None, starts: Tensor | None = None):
        """The whole case for each latent, made part by part; or, with ``starts``, what is trained.

        :param starts: (N, D) first voxels of a part of each case, multiples of 4.
        :returns: (N, channels, *shape); with ``starts`` the coarse case (N, channels, *shape / 4) and the parts
            (N, channels, *part).
        """
        maps, logits = self.coarse(latent, class_weights)
        if starts is not None:
            parts = [
                self.fine(maps[i : i + 1], logits[i : i + 1], starts[i].tolist(), self.part_shape)
                for i in range(len(maps))
            ]
            with full_precision(maps.device):
                return self.stem.read_out(logits), torch.cat(parts)
        case = logits.new_empty(len(maps), logits.shape[1], *self.shape)
        cuts = [range(0, whole, side) for whole, side in zip(self.shape, self.part_shape)]
        for start in itertools.product(*cuts):
            shape = [min(side, whole - first) for side, whole, first in zip(self.part_shape, self.shape, start)]
            place = tuple(slice(first, first + side) for first, side in zip(start, shape))
            case[(..., *place)] = self.fine(maps, logits, start, shape)
        return case


class PartsDiscriminator(nn.Module):
    """Two judges: of the coarse whole, and of a fine part that is told where it lies.

    :param whole: of cases of the coarse grid.
    :param part: of parts; its image channels are followed by :func:`position` channels.
    :param shape: voxels of the fine volume.
    """

    def __init__(self, whole: Discriminator | SeparateHeads, part: Discriminator, shape: Sequence[int]) -> None:
        super().__init__()
        self.whole, self.part, self.shape = whole, part, tuple(shape)
        self.whole_channels = part.image_channels - len(self.shape)

    def forward(
        self,
        whole: Tensor,
        part: Tensor,
        whole_field: Tensor | None = None,
        part_field: Tensor | None = None,
        labelled: Tensor | None = None,
        class_weights: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Return how real whole and part are, (N, heads).

        :param starts: (N, D) first voxels of the parts.
        """
        channels = self.whole_channels
        where = position(starts, part.shape[2:], self.shape).to(part)
        part = torch.cat([part[:, :channels], where, part[:, channels:]], 1)
        judged = [
            self.whole(whole, whole_field, labelled, class_weights),
            self.part(part, part_field, labelled, class_weights),
        ]
        return torch.cat([logits if logits.ndim == 2 else logits[:, None] for logits in judged], 1)

    def first_parts(self, stages: int) -> list[nn.Module]:
        """Those of the judge of the whole: a model file holds that one alone."""
        return self.whole.first_parts(stages)


def start_of_part(drawn: Tensor, shape: Sequence[int], part: Sequence[int]) -> Tensor:
    """First voxels of parts, (..., D) whole multiples of 4, borders as often as they would be were there more behind.

    :param drawn: (..., D) in [0, 1): from half a part before the volume to half a part behind it, moved inside.
    """
    sides, sides_of_part = torch.tensor(shape), torch.tensor(part)
    start = (drawn * sides - sides_of_part / 2).div(FACTOR).round().long() * FACTOR
    return start.clamp_min(0).minimum(sides - sides_of_part)


def position(starts: Tensor, part: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Where each voxel of the parts lies in the volume: (N, D, *part), from -1 to 1 along each axis."""
    dims = len(shape)
    channels = []
    for axis, (side, whole) in enumerate(zip(part, shape)):
        along = (starts[:, axis, None] + torch.arange(side, device=starts.device) + 0.5) / whole * 2 - 1
        along = along.reshape(len(starts), *[side if other == axis else 1 for other in range(dims)])
        channels.append(along.expand(len(starts), *part))
    return torch.stack(channels, 1).float()
