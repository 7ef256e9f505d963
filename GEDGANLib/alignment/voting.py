r"""Labels that registered images vote for, each voxel by how like its surroundings are.

Sources s were brought onto a target t, and are still off by a voxel or two. A voxel p of the target therefore hears all
voxels q of the sources within some voxels of it, each with the weight

.. math:: w_s(p,q)=\exp\Big(-\frac{D_s(p,q)}{k\,h(p)}\Big),\qquad
   D_s(p,q)=\sum_o g(o)\,\big(x_t(p+o)-x_s(q+o)\big)^2,\qquad h(p)=\min_{s,q}D_s(p,q)+\epsilon

by the squared difference of the patches around the two, g a Gaussian (Coupé et al., *Patch-based segmentation using
expert priors: application to hippocampus and ventricle segmentation*, NeuroImage 54(2), 2011, section 2.3), of
intensities less their local mean and over their local deviation, so that brightness and contrast do not count. The
label with the largest share π of the votes is taken. How far the result L can be trusted is the Dice coefficient that
the shares promise it,

.. math:: \frac{2\sum_{p\in L}\pi(p)}{|L|+\sum_p\pi(p)}.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence

import numpy as np
import torch
from torch import Tensor

from .velocity import smooth

RADIUS = 2
"""Voxels around p that are heard, of the shortest side of a voxel; one at least along each axis."""
PATCH = 0.7
"""Deviation of g, voxels."""
LOCAL, FLAT = 4.0, 0.05
"""Deviation of the Gaussian of local means, voxels, and the share of the whole variance that is added to a local one,
so that what is flat stays flat."""
NOISE = 0.02
"""ε, for intensities of deviation 1."""
SOFTNESS = 1.0
"""k, where it is not chosen."""
MANY = 4_000_000
"""Voxels of all sources from which on those of one voxel around are heard, which takes a fifth of the time and costs a
fifth of a point of Dice in brains."""
AROUND = 8
"""Voxels around the labels that are looked at."""
AT_A_TIME = 50_000_000
"""Differences that are held at a time: 200 MB."""


def normalized(image: Tensor) -> Tensor:
    """Intensities less their local mean and over their local deviation, (1, C, *grid)."""
    shape = image.shape[2:]
    variance = image.flatten(2).var(2).reshape(*image.shape[:2], *[1] * len(shape)).clamp_min(1e-12)
    mean = smooth(image, LOCAL, shape)  # in voxels
    local = (smooth(image * image, LOCAL, shape) - mean * mean).clamp_min(0)
    return (image - mean) / (local + FLAT * variance).sqrt()


def box_around(labels: Sequence[np.ndarray]) -> tuple[slice, ...] | None:
    """The part of the voxels that any label is near to; None where there are no labels."""
    found = np.logical_or.reduce([each > 0 for each in labels])
    if not found.any():
        return None
    around = []
    for axis, count in enumerate(found.shape):
        there = np.flatnonzero(found.any(tuple(other for other in range(found.ndim) if other != axis)))
        around.append(slice(max(int(there[0]) - AROUND, 0), min(int(there[-1]) + AROUND + 1, count)))
    return tuple(around)


def radii(spacing: Sequence[float], voxels: int = 0) -> list[int]:
    """Voxels along each axis that are heard, as far in mm along all of them as there are voxels for.

    :param voxels: of all sources together; of more than :data:`MANY` only the nearest are heard.
    """
    radius = RADIUS if voxels <= MANY else 1
    return [max(round(radius * min(spacing) / step), 1) for step in spacing]


def voting(
    target: Tensor, images: Sequence[Tensor], labels: Sequence[Tensor], label_count: int, reach: Sequence[int],
    softnesses: Sequence[float] = (SOFTNESS,),
) -> Generator[float, None, list[Tensor]]:  # fmt: skip
    """Shares of the votes of each label, background first, (label_count + 1, *grid), in [0, 1], for each softness; in
    steps: yields the share that is done.

    :param target: :func:`normalized`, (1, C, *grid).
    :param images: of the sources, brought there, each the same.
    :param labels: of these, (*grid), whole numbers.
    :param reach: see :func:`radii`.
    :param softnesses: k of the module's text, one or several.
    """
    shape = target.shape[2:]
    padding = [side for radius in reversed(reach) for side in (radius, radius)]
    images = [torch.nn.functional.pad(image, padding, mode="replicate") for image in images]
    padded = [
        torch.nn.functional.pad(each[None, None].float(), padding, mode="replicate")[0, 0].long() for each in labels
    ]
    shifts = list(itertools.product(*[range(2 * radius + 1) for radius in reach]))
    pairs = [(source, shift) for source in range(len(images)) for shift in shifts]
    halo, first = math.ceil(4 * PATCH), (0,) * (len(shape) - 1)
    thick = min(max(AT_A_TIME // (len(pairs) * math.prod(shape[1:])), 1), shape[0])
    shares = [torch.empty(label_count + 1, *shape, device=target.device) for _softness in softnesses]
    for start in range(0, shape[0], thick):
        end = min(start + thick, shape[0])
        low, high = max(start - halo, 0), min(end + halo, shape[0])
        here, kept = target[:, :, low:high], slice(start - low, end - low)
        differences = torch.empty(len(pairs), end - start, *shape[1:], device=target.device)
        for number, (source, shift) in enumerate(pairs):
            there = images[source][(slice(None), slice(None), *_part(shift, (low, *first), here.shape[2:]))]
            square = (here - there).square().mean(1, keepdim=True)
            differences[number] = smooth(square, PATCH, square.shape[2:])[0, 0, kept]
            yield (start + (end - start) * 0.7 * (number + 1) / len(pairs)) / shape[0]
        nearest = differences.amin(0).clamp_min(0) + NOISE
        votes = [torch.zeros(label_count + 1, end - start, *shape[1:], device=target.device) for _share in shares]
        for number, (source, shift) in enumerate(pairs):
            label = padded[source][_part(shift, (start, *first), nearest.shape)][None]
            ratio = differences[number] / nearest
            for each, softness in zip(votes, softnesses):
                each.scatter_add_(0, label, torch.exp(-ratio / softness)[None])
            yield (start + (end - start) * (0.7 + 0.3 * (number + 1) / len(pairs))) / shape[0]
        for share, each in zip(shares, votes):
            share[:, start:end] = each / each.sum(0)
    return shares


def _part(shift: Sequence[int], start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """The part of a padded grid that a shift leads to."""
    return tuple(slice(offset + first, offset + first + side) for offset, first, side in zip(shift, start, shape))


def mean_trust(by_label: np.ndarray) -> float:
    """Of all labels that are there; 0 where none is, the first to look at."""
    known = by_label[~np.isnan(by_label)]
    return float(known.mean()) if len(known) else 0.0


def told_trust(names: Sequence[str], by_label: np.ndarray) -> dict[str, float | None]:
    """What a case tells of how far its segmentation can be trusted: as a whole, and of each label by its name."""
    found: dict[str, float | None] = {"trust": round(mean_trust(by_label), 4)}
    for name, value in zip(names, by_label):
        found[f"trust of {name}"] = None if np.isnan(value) else round(float(value), 4)
    return found


def promised_dice(shares: Tensor, labels: Tensor) -> np.ndarray:
    """Dice coefficient that shares of votes promise each label, (label_count,), in [0, 1]; nan where it has no votes.

    :param shares: (label_count + 1, *grid), background first.
    :param labels: what was taken, (*grid).
    """
    found = []
    for label in range(1, len(shares)):
        taken, share = (labels == label).cpu(), shares[label].cpu().double()
        total = float(taken.sum()) + float(share.sum())
        found.append(2 * float(share[taken].sum()) / total if total > 0.5 else math.nan)
    return np.array(found)
