"""A small U-Net that learns from pairs of image and segmentation: what the pairs teach is what they are worth.

The network is MONAI's ``DynUNet``, the U-Net of nnU-Net. Pairs are turned, scaled, moved and re-contrasted at random,
the same way whatever they are, and training is counted in steps, so that more pairs do not mean more training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase

WIDTHS = (8, 16, 32)
BATCH = 8
LEARNING_RATE = 5e-3
TELLING = 10
"""Steps between two reports of a training."""


@dataclass(frozen=True)
class Pairs:
    """Images with their segmentations.

    :param images: (N, C, *grid) float32 in [-1, 1].
    :param labels: (N, *grid) uint8, 0 background.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen) -> Pairs:
        return Pairs(self.images[chosen], self.labels[chosen])


def pairs_of(cases: Sequence[WorkingCase]) -> Pairs:
    """Labelled working cases as pairs."""
    return Pairs(
        torch.stack([torch.from_numpy(np.array(case.image)) for case in cases]),
        torch.stack([torch.from_numpy(np.array(case.labels)) for case in cases]),
    )


MOST_VOXELS = {"cuda": 300_000, "mps": 100_000, "cpu": 40_000}
"""Of a case, for which a U-Net is trained in minutes on the device."""


SHORT = 8
"""Voxels along an axis that are never joined to fewer."""


def coarsened(pairs: Pairs, label_count: int, device: str) -> tuple[Pairs, tuple[int, ...]]:
    """Pairs of at most :data:`MOST_VOXELS` a case, sides multiples of 4 as the U-Net needs them.

    Blocks of voxels become one, labelled as most of them are; along an axis that is short already nothing is joined.
    Sides are filled up by repeating the edge, with background as label.

    :returns: the pairs, and the sides of the blocks in voxels; 1 along axes that were left alone.
    """
    dims = pairs.images.ndim - 2
    sides, factor = list(pairs.images.shape[2:]), 1
    factors = [1] * dims
    while math.prod(math.ceil(side / each) for side, each in zip(sides, factors)) > MOST_VOXELS[device]:
        factor += 1
        factors = [min(factor, max(side // SHORT, 1)) for side in sides]
    added = [-side % (4 * factor) for side, factor in zip(sides, factors)]
    images, labels = pairs.images, pairs.labels
    if any(added):
        beyond = [part for extra in reversed(added) for part in (0, extra)]
        images = functional.pad(images, beyond, mode="replicate")
        labels = functional.pad(labels, beyond)
    if max(factors) == 1:
        return Pairs(images, labels), tuple(factors)
    pool = functional.avg_pool3d if dims == 3 else functional.avg_pool2d
    best = torch.zeros(len(pairs), *(side // factor for side, factor in zip(labels.shape[1:], factors)))
    found = torch.zeros_like(best, dtype=torch.uint8)
    for index in range(label_count + 1):
        share = pool((labels == index).float()[:, None], factors)[:, 0]
        found[share > best] = index
        best = torch.maximum(best, share)
    return Pairs(pool(images, factors), found), tuple(factors)


def coarsened_pairs(cases: Sequence[WorkingCase], label_count: int, device: str) -> tuple[Pairs, tuple[int, ...]]:
    """Labelled working cases as :func:`coarsened` pairs, a few of them in memory in full at a time.

    :raises ValueError: there are no cases.
    """
    parts = [
        coarsened(pairs_of(cases[first : first + BATCH]), label_count, device) for first in range(0, len(cases), BATCH)
    ]
    if not parts:
        raise ValueError("there are no cases")
    return join(*(pairs for pairs, _ in parts)), parts[0][1]


def join(*sets: Pairs) -> Pairs:
    """Several sets of pairs as one."""
    return Pairs(torch.cat([each.images for each in sets]), torch.cat([each.labels for each in sets]))


def small_unet(spatial_dims: int, image_channels: int, label_count: int, normalisation: str) -> nn.Module:
    """U-Net of three levels, (N, C, *grid) -> logits (N, label_count + 1, *grid); sides must be multiples of 4.

    :param normalisation: ``instance`` for segmentation; ``batch`` keeps how bright a case is in the features.
    """
    from monai.networks.nets import DynUNet

    levels = len(WIDTHS)
    network = DynUNet(
        spatial_dims=spatial_dims,
        in_channels=image_channels,
        out_channels=label_count + 1,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=WIDTHS,
        norm_name=normalisation,
    )
    return network.to(memory_format=torch.channels_last_3d if spatial_dims == 3 else torch.channels_last)


def augment(pairs: Pairs, random: torch.Generator) -> Pairs:
    """Turn by up to 15° about each axis, scale by up to 15 %, move by up to 8 %, change contrast and brightness.

    Noise is added too. Angles are those of cubic voxels.
    """
    count, dims = len(pairs), pairs.images.ndim - 2

    def draw(*shape: int, reach: float = 1.0) -> Tensor:
        return (2 * torch.rand(count, *shape, generator=random) - 1) * reach

    turn = draw(dims, dims, reach=math.radians(15))
    matrix = torch.linalg.matrix_exp((turn - turn.mT) / 2) * torch.exp(draw(1, 1, reach=0.15))
    sides = torch.tensor(pairs.images.shape[:1:-1], dtype=torch.float32)
    # affine_grid counts in halves of each side: turn in voxels, or the grid's shape would shear the case.
    matrix = matrix * sides[None, None, :] / sides[None, :, None]
    grid = functional.affine_grid(
        torch.cat([matrix, draw(dims, 1, reach=0.16)], 2), list(pairs.images.shape), align_corners=False
    )
    images = functional.grid_sample(pairs.images, grid, padding_mode="border", align_corners=False)
    labels = functional.grid_sample(pairs.labels[:, None].float(), grid, mode="nearest", align_corners=False)
    tail = [1] * (dims + 1)
    images = images * (1 + draw(*tail, reach=0.2)) + draw(*tail, reach=0.1)
    images = images + torch.randn(images.shape, generator=random) * draw(*tail).abs() * 0.1
    return Pairs(images, labels[:, 0].to(torch.uint8))


def train_segmenter(
    pairs: Pairs,
    label_count: int,
    steps: int,
    seed: int,
    device: str = "cpu",
    normalisation: str = "instance",
    shares: Tensor | None = None,
    progress: Progress = quiet,
) -> nn.Module:
    """Train a U-Net on ``pairs`` with cross-entropy and soft Dice, its rate falling along a cosine.

    :param shares: how often each pair is drawn, (pairs,) of any sum; equally often when not given.
    :raises ValueError: there are no pairs.
    """
    from monai.losses import DiceCELoss

    if not len(pairs):
        raise ValueError("there are no pairs to learn from")
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    network = small_unet(pairs.images.ndim - 2, pairs.images.shape[1], label_count, normalisation).to(device)
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for step in range(steps):
        if step % TELLING == 0:
            progress(step, steps, "")
        if shares is None:
            chosen = torch.randint(len(pairs), (BATCH,), generator=random)
        else:
            chosen = torch.multinomial(shares.double(), BATCH, replacement=True, generator=random)
        batch = augment(pairs[chosen], random)
        optimizer.zero_grad(set_to_none=True)
        loss(network(batch.images.to(device)), batch.labels[:, None].to(device)).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def case_dice(network: nn.Module, pairs: Pairs, label_count: int) -> np.ndarray:
    """Dice coefficient of each label in each case, (cases, label_count); NaN where a case does not have the label."""
    device = next(network.parameters()).device
    found = np.full((len(pairs), label_count), np.nan)
    predictions = (network(images.to(device)).argmax(1).cpu() for images in pairs.images.split(BATCH))
    for index, predicted in enumerate(itertools.chain.from_iterable(predictions)):
        for label in range(1, label_count + 1):
            truth, guess = pairs.labels[index] == label, predicted == label
            if truth.any():
                found[index, label - 1] = 2 * float((truth & guess).sum()) / float(truth.sum() + guess.sum())
    return found


def dice(network: nn.Module, pairs: Pairs, label_count: int) -> list[float]:
    """Mean Dice coefficient of each label, 1 to ``label_count``, over the cases that have it; NaN if none has."""
    overlaps = case_dice(network, pairs, label_count)
    return [float(column[~np.isnan(column)].mean()) if (~np.isnan(column)).any() else math.nan for column in overlaps.T]


def mean_dice(network: nn.Module, pairs: Pairs, label_count: int) -> float:
    """Mean of :func:`dice` over the labels that occur."""
    values: Sequence[float] = [value for value in dice(network, pairs, label_count) if not math.isnan(value)]
    return sum(values) / max(len(values), 1)
