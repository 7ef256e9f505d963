"""The networks of the article that names the method, as its baseline: measured in every comparison.

Printed for 64x64 images: a dense layer to 8x8x256, transposed convolutions 5x5 with strides 1, 2, 2, batch
normalisation and leaky ReLU between them, tanh at the end; a discriminator of two strided convolutions 5x5 with
dropout. With those strides the generator ends at 32x32, half of what the discriminator takes: one more stage of
stride 2 is added. The same networks are carried to 3D, and to label channels beside the image's. Weights are drawn
uniformly with Glorot's variance and biases start at 0, as in the framework that the article used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (256, 128, 64, 32)
"""Channels of the generator's maps, coarsest first; the last is the stage that the printed sizes miss."""
STRIDE = 8
SLOPE = 0.3
DROPOUT = 0.3


def _initialise(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _check_shape(shape: Sequence[int]) -> list[int]:
    if any(side % STRIDE for side in shape):
        raise ValueError(f"every side of {tuple(shape)} must be a multiple of {STRIDE}")
    return [side // STRIDE for side in shape]


class ArticleGenerator(nn.Module):
    """Latent -> case, as :class:`GEDGANLib.networks.generator.Generator` returns it.

    :param shape: voxels of the output, every side a multiple of 8.
    :raises ValueError: a side of ``shape`` is not such a multiple.
    """

    def __init__(
        self, spatial_dims: int, shape: Sequence[int], image_channels: int, label_count: int, latent_size: int = 100
    ) -> None:
        super().__init__()
        transposed = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[spatial_dims]
        normalisation = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[spatial_dims]
        self.image_channels = image_channels
        self.latent_size = latent_size
        self.coarse_shape = _check_shape(shape)
        self.dense = nn.Linear(latent_size, WIDTHS[0] * math.prod(self.coarse_shape), bias=False)
        channels = [*WIDTHS, image_channels + (label_count + 1 if label_count else 0)]
        strides = (1, 2, 2, 2)
        self.normalisations = nn.ModuleList(normalisation(width, momentum=0.01, eps=1e-3) for width in WIDTHS)
        self.stages = nn.ModuleList(
            transposed(before, after, 5, stride, padding=2, output_padding=stride - 1, bias=False)
            for before, after, stride in zip(channels, channels[1:], strides)
        )
        _initialise(self)

    def forward(self, latent: Tensor, class_weights: None = None) -> Tensor:
        """Return a case for each latent, (N, latent_size) -> (N, image_channels + label_count + 1, *shape).

        ``class_weights`` is taken for the sake of one signature, here and in the discriminator.
        """
        x = self.dense(latent).unflatten(1, (WIDTHS[0], *self.coarse_shape))
        for normalisation, stage in zip(self.normalisations, self.stages):
            x = stage(functional.leaky_relu(normalisation(x), SLOPE))
        image, labels = x[:, : self.image_channels], x[:, self.image_channels :]
        image = torch.tanh(image)
        return torch.cat([image, labels.softmax(1)], 1) if labels.shape[1] else image


class ArticleDiscriminator(nn.Module):
    """Case -> logit; it has no eigen-directional field and no way to judge an image without its labels.

    :param shape: voxels of the input, every side a multiple of 8.
    :raises ValueError: a side of ``shape`` is not such a multiple.
    """

    def __init__(self, spatial_dims: int, shape: Sequence[int], image_channels: int, label_count: int) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        coarse_shape = _check_shape(shape)
        channels = image_channels + (label_count + 1 if label_count else 0)
        self.stages = nn.ModuleList(
            convolution(before, after, 5, 2, padding=2) for before, after in ((channels, 64), (64, 128))
        )
        self.logit = nn.Linear(128 * math.prod(2 * side for side in coarse_shape), 1)
        _initialise(self)

    def first_parts(self, stages: int) -> list[nn.Module]:
        """The first ``stages`` convolutions."""
        return list(self.stages[:stages])

    def forward(
        self,
        case: Tensor,
        field: Tensor | None = None,
        labelled: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Return how real each case is, (N,). All but ``case`` is taken for the sake of one signature."""
        x = case
        for stage in self.stages:
            x = functional.dropout(functional.leaky_relu(stage(x), SLOPE), DROPOUT, self.training)
        return self.logit(x.flatten(1)).squeeze(1)
