"""What aligned cases have in common: the mean image, where it was seen, and how probable each label is where.

The cases are read one after the other and sampled once, by cubic B-splines, at the full resolution of the working grid,
whatever the grid was on which they were aligned. Labels are carried as probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..jobs.events import Progress, quiet
from .registration import FEWEST_SEEN, mean_seen, seen_weight
from .sampling import sample_image, sample_linear, shrink, spacing_of
from .similarity import LocalCorrelation, weighted_mean
from .transformations import Transformations
from .velocity import jacobian_determinant

JUDGED = 128**3
"""Voxels of the grid on which it is looked how well a case lies at most: no grid that it was aligned on is finer."""


class Scan(Protocol):
    """What alignment needs of a case on the working grid.

    :param image: (C, *grid) float32 in [-1, 1].
    :param labels: (*grid) uint8, 0 background; None without segmentation.
    :param field_of_view: where the scan begins and ends along each axis of the grid, in voxels, (D, 2).
    """

    name: str
    image: np.ndarray
    labels: np.ndarray | None

    @property
    def field_of_view(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Template:
    """Over the box of an alignment.

    :param image: mean of the aligned cases, (C, *grid), in [-1, 1].
    :param seen: share of the cases that saw each place, (*grid).
    :param labels: probabilities of background and each label, (L + 1, *grid); None where no case is segmented.
    :param labelled: how many segmented cases saw each place, (*grid): what the probabilities are shares of; None
        without labels.
    """

    image: Tensor
    seen: Tensor
    labels: Tensor | None
    labelled: Tensor | None

    def to(self, device: str | torch.device) -> Template:
        """The same on another device."""
        there = [
            each if each is None else each.to(device) for each in (self.image, self.seen, self.labels, self.labelled)
        ]
        return Template(*there)

    def at(self, shape: Sequence[int]) -> Template:
        """The same on a coarser grid over the box; itself where it is on that grid."""
        if tuple(self.image.shape[1:]) == tuple(shape):
            return self
        fields = [
            each if each is None else shrink(each.reshape(1, -1, *each.shape[-len(shape) :]), shape)[0]
            for each in (self.image, self.seen, self.labels, self.labelled)
        ]
        image, seen, labels, labelled = fields
        return Template(image, seen[0], labels, None if labelled is None else labelled[0])


@dataclass(frozen=True)
class Quality:
    """How well one case lies on the template.

    :param similarity: mean local correlation with the template where the scan saw something, in [0, 1].
    :param smallest_jacobian: of its transformation, without unit: at 0 it would fold.
    :param dice: mean over its labels of the Dice coefficient of the labels that the other cases carry to it; None where
        it is not segmented, or no other case is.
    """

    similarity: float
    smallest_jacobian: float
    dice: float | None


def image_of(case: Scan, device: str | torch.device = "cpu") -> Tensor:
    """Its image, (1, C, *grid)."""
    return torch.from_numpy(np.array(case.image, np.float32))[None].to(device)


def one_hot(labels: np.ndarray, index: int, device: str | torch.device = "cpu") -> Tensor:
    """Where a label is, (1, 1, *grid)."""
    return torch.from_numpy((labels == index).astype(np.float32))[None, None].to(device)


@torch.no_grad()
def make_template(
    cases: Sequence[Scan],
    moved: Transformations,
    boxes: Tensor,
    label_count: int,
    device: str = "cpu",
    progress: Progress = quiet,
) -> Template:
    """The template of aligned cases.

    :param boxes: fields of view, see :func:`.registration.seen_weight`.
    :param label_count: labels there are, the background left out.
    """
    shape = tuple(cases[0].image.shape[1:])
    spacing = spacing_of(shape, moved.extent)
    total = seen = plain = labels = None
    labelled = None
    for number, case in enumerate(cases):
        progress(number, len(cases), case.name)
        positions = moved.of([number]).positions(shape)
        weight = seen_weight(positions, boxes[number : number + 1].to(positions), spacing)[0]
        image = sample_image(image_of(case, device), positions, moved.extent)[0]
        total = image * weight if total is None else total + image * weight
        seen = weight if seen is None else seen + weight
        plain = image if plain is None else plain + image
        if case.labels is not None and label_count:
            if labels is None:
                labels, labelled = image.new_zeros(label_count + 1, *shape), image.new_zeros(shape)
            labelled += weight[0]
            for index in range(label_count + 1):
                share = sample_linear(one_hot(case.labels, index, device), positions, moved.extent)[0, 0]
                labels[index] += share * weight[0]
    progress(len(cases), len(cases), "")
    image = mean_seen(total, seen, plain, len(cases))
    if labels is not None:
        labels /= labelled.clamp_min(FEWEST_SEEN)
        labels[0] += 1 - labels.sum(0)  # what no labelled case saw is background
    return Template(image, seen[0] / len(cases), labels, labelled)


@torch.inference_mode()
def carried_labels(shares: Iterable[Tensor], moved: Transformations, index: int) -> np.ndarray:
    """The most probable label at each voxel of a case, (*grid) uint8, carried from the template.

    :param shares: probability of the background and of each label on it, (*grid) each. They are taken one after the
        other: all of a large volume's would take gigabytes.
    """
    best = found = back = None
    for label, share in enumerate(shares):
        if back is None:
            back = moved.of([index]).positions(tuple(share.shape), inverse=True)
        here = sample_linear(share[None, None], back, moved.extent)[0, 0]
        if best is None:
            best, found = here, torch.zeros(share.shape, dtype=torch.uint8, device=share.device)
            continue
        found[here > best] = label
        best = torch.maximum(best, here)
    return found.cpu().numpy()


def shares_of_others(
    template: Template, case: Scan, moved: Transformations, index: int, weight: Tensor
) -> Iterator[Tensor]:
    """Probability of the background and of each label on the template, (*grid) each, as it is without one of the cases
    that it was made of; background where no other saw anything.

    :param weight: how much this case saw of each place of the template, (*grid).
    """
    shape = tuple(template.image.shape[1:])
    positions = moved.of([index]).positions(shape)
    others = template.labelled - weight
    unseen = others < FEWEST_SEEN
    for label, share in enumerate(template.labels):
        own = shrink(one_hot(case.labels, label, share.device), shape)
        own = sample_linear(own, positions, moved.extent)[0, 0]
        rest = (share * template.labelled - own * weight) / others.clamp_min(FEWEST_SEEN)
        yield torch.where(unseen, torch.full_like(rest, float(label == 0)), rest)


@torch.inference_mode()
def judge(
    case: Scan, moved: Transformations, index: int, box: Tensor, template: Template, window: int, is_part: bool
) -> Quality:
    """How well a case lies on the template.

    :param index: of the case in ``moved``.
    :param template: on the grid that is looked at, see :data:`JUDGED`; the case may be on a finer one.
    :param is_part: the template was made of this case, too; its labels are then left out of what is carried to it.
    """
    shape = tuple(template.image.shape[1:])
    positions = moved.of([index]).positions(shape)
    weight = seen_weight(positions, box[None].to(positions), spacing_of(shape, moved.extent))
    image = sample_image(shrink(image_of(case, positions.device), shape), positions, moved.extent)
    similarity = float(weighted_mean(LocalCorrelation(template.image[None], window)(image), weight))
    jacobian = float(jacobian_determinant(positions, moved.extent).min())
    dice = None
    if case.labels is not None and template.labels is not None:
        shares: Iterable[Tensor] = template.labels
        others = template.labelled
        if is_part:
            shares, others = shares_of_others(template, case, moved, index, weight[0, 0]), others - weight[0, 0]
        if float(others.max()) > FEWEST_SEEN:
            dice = mean_dice(
                carried_labels(shares, moved, index), _coarse_labels(case.labels, len(template.labels), shape)
            )
    return Quality(similarity, jacobian, dice)


def _coarse_labels(labels: np.ndarray, count: int, shape: Sequence[int]) -> np.ndarray:
    """The label with the largest share of each voxel of a coarser grid, (*shape) uint8."""
    labels = np.asarray(labels)
    if labels.shape == tuple(shape):
        return labels
    best, found = torch.zeros(*shape), np.zeros(shape, np.uint8)
    for label in range(count):
        share = shrink(one_hot(labels, label), shape)[0, 0]
        found[(share > best).numpy()] = label
        best = torch.maximum(best, share)
    return found


def mean_dice(found: np.ndarray, truth: np.ndarray) -> float | None:
    """Mean over the labels in ``truth`` of the Dice coefficient; None where there are none."""
    values = [
        2 * np.sum((found == label) & (truth == label)) / (np.sum(found == label) + np.sum(truth == label))
        for label in np.unique(truth)
        if label
    ]
    return float(np.mean(values)) if values else None
