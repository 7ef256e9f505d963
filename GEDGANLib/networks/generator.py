"""Latent vector -> image channels and label probabilities, from one network so that they agree by construction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import phases
from .blocks import ResidualBlock, check_shape, convolution, full_precision, leaky, strides_of, upsample


class Generator(nn.Module):
    """Norm-free residual generator for 2D and 3D.

    A learned coarse pattern, one a channel, is weighted by a linear map of the latent; every stage doubles the grid by
    linear interpolation and refines it with residual blocks. At full resolution there is one narrow convolution,
    because wide ones there would cost more than all others together. (Moving channels into space instead is cheaper
    still, but left a checkerboard in every short training, equal initial weights or not.) What comes out is added to
    the mean case of the data, which is given and not learned: as weights its voxels, each its own, learned a
    checkerboard.

    :param spatial_dims: 2 or 3.
    :param shape: voxels of the output grid, every side a multiple of the product of its strides.
    :param image_channels: image channels of the output, each within [-1, 1].
    :param label_count: labels without background; 0 for none.
    :param widths: channels a stage, coarsest first; the last stage has half the resolution of the output.
    :param latent_size: length of the latent vector, standard normal.
    :param class_count: classes to condition on; 0 for none.
    :param blocks: residual blocks a stage.
    :param strides: how each stage divides the grid, finest first, see ``blocks.strides_of``; 2 along every axis when
        not given.
    :param mean_shape: voxels of the mean case; ``shape`` when not given, () for none.
    :raises ValueError: a side of ``shape`` is not such a multiple.
    """

    def __init__(
        self,
        spatial_dims: int,
        shape: Sequence[int],
        image_channels: int,
        label_count: int,
        widths: Sequence[int],
        latent_size: int,
        class_count: int = 0,
        blocks: int = 1,
        mean_shape: Sequence[int] | None = None,
        strides: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        # Coarsest first here, as the generator goes.
        self.strides = strides_of(len(widths), spatial_dims, strides)[::-1]
        coarse_shape = check_shape(shape, self.strides)
        self.image_channels = image_channels
        self.latent_size = latent_size
        self.class_count = class_count
        total_blocks = blocks * len(widths)

        self.basis = nn.Parameter(torch.randn(1, widths[0], *coarse_shape))
        self.latent_to_basis = nn.Linear(latent_size + class_count, widths[0])
        nn.init.normal_(self.latent_to_basis.weight, std=0.5 / math.sqrt(latent_size + class_count))
        nn.init.ones_(self.latent_to_basis.bias)
        self.transitions = nn.ModuleList(
            convolution(spatial_dims, before, after, 1) for before, after in zip([widths[0], *widths], widths)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(spatial_dims, width, total_blocks) for _ in range(blocks)))
            for width in widths
        )
        label_channels = label_count + 1 if label_count else 0
        narrow = max(widths[-1] // 2, 2 * (image_channels + label_channels))
        self.narrow = convolution(spatial_dims, widths[-1], narrow, 1)
        self.output = convolution(spatial_dims, narrow, image_channels + label_channels, 3, padding=1)
        # What the output is without any latent, before tanh and softmax; see start_from. It has no gradient.
        self.mean_case = (
            None
            if mean_shape == ()
            else nn.Parameter(torch.zeros(1, image_channels + label_channels, *(mean_shape or shape)), False)
        )
        with torch.no_grad():
            # Small, so that a training starts close to the mean case.
            self.output.weight.mul_(0.03)

    @torch.no_grad()
    def start_from(self, mean_case: Tensor) -> None:
        """Let every case start as the data's mean, from which the training moves on.

        :param mean_case: (image_channels + label_count + 1, *shape), images in [-1, 1], then shares of the labels.
        """
        self.mean_case.copy_(start_of_mean_case(mean_case, self.image_channels)[None])

    def features(self, latent: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return all maps by name, coarsest first: ``stage0`` ... and ``full``, each (N, width, *spatial).

        The last stage has half the resolution of the output, ``full`` all of it: one vector a voxel, of which image and
        labels are read out.
        """
        maps = {}
        x = self.pattern(latent, class_weights)
        for index in range(len(self.stages)):
            x = self._stage(index, x)
            maps[f"stage{index}"] = x
        maps["full"] = self._full(x)
        return maps

    def pattern(self, latent: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The weighted coarse pattern that the first stage starts from, (N, widths[0], *coarse)."""
        if self.class_count:
            if class_weights is None:
                raise ValueError("this generator is conditioned on a class: give class_weights, (N, class_count)")
            latent = torch.cat([latent, class_weights], 1)
        weights = self.latent_to_basis(latent)
        return self.basis * weights.reshape(*weights.shape, *[1] * (self.basis.ndim - 2))

    def _stage(self, index: int, x: Tensor) -> Tensor:
        x = self.transitions[index](x)
        return self.stages[index](upsample(x, self.strides[index - 1]) if index else x)

    def _full(self, x: Tensor) -> Tensor:
        return upsample(self.narrow(leaky(x)), self.strides[-1])

    def stages_to(self, count: int, latent: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The maps after the first ``count`` stages."""
        x = self.pattern(latent, class_weights)
        for index in range(count):
            x = self._stage(index, x)
        return x

    def from_stage(self, first: int, x: Tensor) -> Tensor:
        """What the stages from ``first`` on make of the maps before them, or of a part of these.

        :returns: (N, channels, *full), before anything is added and before tanh and softmax.
        """
        for index in range(first, len(self.stages)):
            x = self._stage(index, x)
        if phases.pays(x, self.strides[-1]):
            return self._output_by_phases(x)
        full = self._full(x)
        # In half precision an intensity would be one of a few hundred.
        with full_precision(full.device):
            return self.output(leaky(full.float()))

    def _output_by_phases(self, x: Tensor) -> Tensor:
        """The same in half precision, see ``phases``: what is added to the mean case is rounded, their sum is not."""
        full = phases.upsample_to_phases(self.narrow(leaky(x)))
        output = phases.convolution_of_phases(leaky(full), self.output.weight, self.output.bias)
        return phases.from_phases(output).float()

    def read_out(self, output: Tensor) -> Tensor:
        """Images within [-1, 1] and label probabilities of what the last convolution gives, mean case included."""
        image, labels = output[:, : self.image_channels], output[:, self.image_channels :]
        image = torch.tanh(image)
        return torch.cat([image, labels.softmax(1)], 1) if labels.shape[1] else image

    def forward(self, latent: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return a case for each latent.

        :param latent: (N, latent_size).
        :param class_weights: (N, class_count), one-hot or a mixture; only with ``class_count``.
        :returns: (N, image_channels + label_count + 1, *shape): images within [-1, 1], then label probabilities,
            background first, that sum to 1.
        """
        output = self.from_stage(0, self.pattern(latent, class_weights))
        with full_precision(output.device):
            return self.read_out(self.mean_case + output)


def start_of_mean_case(mean_case: Tensor, image_channels: int) -> Tensor:
    """What tanh and softmax turn into ``mean_case`` (C + labels, *shape)."""
    image, labels = mean_case[:image_channels], mean_case[image_channels:]
    # Short of their ends, where gradients vanish.
    return torch.cat([image.clamp(-0.97, 0.97).atanh(), (labels + 0.01).log()])
