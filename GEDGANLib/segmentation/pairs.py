"""Pairs of image and segmentation on one small grid, and a U-Net that learns from them: what they teach is their worth.

Pairs are changed at random the same way whatever they are, and training is counted in steps, so that more pairs do not
mean more training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase
from .applying import overlaps
from .examples import Example, Group
from .learner import Learner, Recipe

BATCH = 8
"""Pairs that are looked at at once."""


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

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.labels))

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


def train_segmenter(
    pairs: Pairs,
    label_count: int,
    steps: int,
    seed: int,
    device: str = "cpu",
    recipe: Recipe | None = None,
    shares: Tensor | None = None,
    progress: Progress = quiet,
) -> nn.Module:
    """Train a U-Net on ``pairs``, whole.

    :param recipe: how, apart from the number of steps and what it sees; that of :mod:`.learner` when not given.
    :param shares: how often each pair is drawn, (pairs,) of any sum; equally often when not given.
    :raises ValueError: there are no pairs.
    """
    if not len(pairs):
        raise ValueError("there are no pairs to learn from")
    weights = [1.0] * len(pairs) if shares is None else shares.tolist()
    examples = [Example(image, labels, weight=weight) for image, labels, weight in zip(*pairs, weights)]
    patch = tuple(pairs.images.shape[2:])
    recipe = replace(recipe or Recipe(patch, steps), patch=patch, updates=steps)
    return Learner([Group(examples)], label_count, recipe, seed, device).learn(progress)


@torch.inference_mode()
def case_dice(network: nn.Module, pairs: Pairs, label_count: int) -> np.ndarray:
    """Dice coefficient of each label in each case, (cases, label_count); NaN where a case does not have the label."""
    device = next(network.parameters()).device
    predictions = (network(images.float().to(device)).max(1).indices.cpu() for images in pairs.images.split(BATCH))
    each = zip(itertools.chain.from_iterable(predictions), pairs.labels)
    return np.array([overlaps(found.numpy(), truth.numpy(), label_count) for found, truth in each])


def dice(network: nn.Module, pairs: Pairs, label_count: int) -> list[float]:
    """Mean Dice coefficient of each label, 1 to ``label_count``, over the cases that have it; NaN if none has."""
    overlaps = case_dice(network, pairs, label_count)
    return [float(column[~np.isnan(column)].mean()) if (~np.isnan(column)).any() else math.nan for column in overlaps.T]


def mean_dice(network: nn.Module, pairs: Pairs, label_count: int) -> float:
    """Mean of :func:`dice` over the labels that occur."""
    values: Sequence[float] = [value for value in dice(network, pairs, label_count) if not math.isnan(value)]
    return sum(values) / max(len(values), 1)
