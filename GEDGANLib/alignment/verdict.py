"""Is alignment meaningful for these scans? Measured on some of them, with cases that the template was made without.

Any two images can be bent until they are more alike, so a better correlation alone says little. Where anatomy
corresponds, though, little bending is enough, and two cases that never met, each brought onto a template, are then
alike themselves, and labels lie on each other. Where it does not correspond (lesions anywhere, textures, other parts of
the body), each of the two was bent, or carried far, towards a blur. So the trial bends stiffly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .registration import Level, Registration, Settings, seen_weight
from .sampling import identity, sample_linear, shape_of_at_most, shrink, spacing_of
from .similarity import correlation
from .transformations import Transformations

FEWEST = 5
"""Cases without which nothing can be said."""
MOST, LEFT_OUT = 24, 1 / 3
"""Cases that are looked at, and the share of them that the template is made without."""
VOXELS = 32**3
TRIAL = Settings(
    stiffness=1.0, levels=(Level(4, 40, 0.25, False), Level(4, 20, 0.25), Level(2, 25, 0.25), Level(1, 15, 0.25))
)
LEAST_ALIKE, FARTHEST, LEAST_DICE_GAIN, ALIGNED_ALREADY = 0.74, 0.2, 0.05, 0.85
"""Correlation after it, distance that a point is carried on average as a share of the box's longest side, gain in Dice,
and the Dice from which on none is asked for. Measured (``Testing/Library/test_aligning.py`` tries the sets that are
made): hippocampi, brains and the embedded cohort 0.80 to 0.96 at 0.03 to 0.08 of the box; shuffled orientations 0.68 at
0.08, balls 0.51, slabs 0.33, textures 0.06, all at 0.4."""


@dataclass(frozen=True)
class Verdict:
    """What was measured; see the module's text.

    :param kind: ``template`` where alignment is meaningful, else ``none``.
    :param cases: looked at.
    :param before, after: mean correlation of two cases that the template was made without, as they lie and brought onto
        it, in [-1, 1].
    :param carried: mean distance that a point of these cases is carried, as a share of the box's longest side.
    :param dice_before, dice_after: mean Dice of the template's labels on these cases; None without labels.
    """

    kind: str
    cases: int
    before: float = 0.0
    after: float = 0.0
    carried: float = 0.0
    dice_before: float | None = None
    dice_after: float | None = None

    def words(self) -> str:
        """A sentence with its numbers."""
        if self.cases < FEWEST:
            return (
                f"{self.cases} cases are too few to say whether the same place means the same anatomy in all of them."
            )
        dice = ""
        if self.dice_before is not None and self.dice_after is not None:
            dice = f", and labels carried to them from Dice {self.dice_before:.2f} to {self.dice_after:.2f}"
        figures = f"two scans that it was made without went from a correlation of {self.before:.2f} to {self.after:.2f}"
        if self.kind == "template":
            return f"The scans can be aligned to a common template: {figures}{dice}, measured on {self.cases} cases."
        return (
            "The same place does not seem to mean the same anatomy in these scans, so alignment may mean nothing: on a "
            f"template {figures}{dice}, measured on {self.cases} cases."
        )


def chosen_cases(count: int) -> list[int]:
    """Which of ``count`` cases are looked at, evenly spaced."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, MOST))})


def trial_shape(shape: Sequence[int], extent: Sequence[float]) -> tuple[int, ...]:
    """The grid that a trial is made on."""
    return shape_of_at_most(VOXELS, shape, extent)


@torch.no_grad()
def _pairwise(images: Tensor, weights: Tensor) -> float:
    """Mean correlation of all pairs of images (N, C, *grid), each where both were seen."""
    found = []
    for one in range(len(images)):
        for other in range(one):
            weight = weights[one : one + 1] * weights[other : other + 1]
            found.append(float(correlation(images[one : one + 1], images[other : other + 1], weight)))
    return float(np.mean(found))


def _detailed(images: Tensor) -> Tensor:
    """What is finer than an eighth of the box: that two heads lie in the same place is not yet anatomy."""
    shape = images.shape[2:]
    coarse = shrink(images, [max(side // 4, 2) for side in shape])
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    return images - functional.interpolate(coarse, shape, mode=mode, align_corners=False)


def _dice(probabilities: Tensor, labels: Tensor, weight: Tensor) -> float | None:
    """Mean over cases and labels, (N, L + 1, *grid) each, where ``weight`` (N, 1, *grid) is above a half;
    None where there are none."""
    guess = functional.one_hot(probabilities.argmax(1), probabilities.shape[1]).movedim(-1, 1)
    truth = functional.one_hot(labels.argmax(1), labels.shape[1]).movedim(-1, 1)
    inside = weight > 0.5
    both, sizes = ((each * inside).flatten(2).sum(2)[:, 1:].double() for each in (guess * truth, guess + truth))
    there = (truth * inside).flatten(2).sum(2)[:, 1:] > 0
    return float((2 * both / sizes.clamp_min(1))[there].mean()) if bool(there.any()) else None


def measure(
    images: Tensor,
    boxes: Tensor,
    extent: Sequence[float],
    labels: Tensor | None = None,
) -> Verdict:
    """Whether alignment is meaningful for some cases.

    :param images: (N, C, *grid) in [-1, 1].
    :param boxes: fields of view, see :func:`.registration.seen_weight`.
    :param labels: probabilities of background and labels, (N, L + 1, *grid, which may be finer), where all have them.
    """
    count = len(images)
    if count < FEWEST:
        return Verdict("none", count)
    extent, shape = tuple(extent), trial_shape(images.shape[2:], extent)
    images = shrink(images, shape)
    apart = list(range(1, count, round(1 / LEFT_OUT)))
    together = [index for index in range(count) if index not in apart]
    registration = Registration(images[together], boxes[together], extent, TRIAL)
    registration.run()
    template, moved = registration.mean_case(shape), registration.state.moved
    onto = Registration(images[apart], boxes[apart], extent, TRIAL, template)
    onto.run()
    spacing, here = spacing_of(shape, extent), identity(shape, extent, images).expand(len(apart), -1, *shape)
    positions = onto.state.moved.positions(shape)
    weights = [seen_weight(places, boxes[apart], spacing) for places in (here, positions)]
    before = _pairwise(_detailed(images[apart]), weights[0])
    after = _pairwise(_detailed(sample_linear(images[apart], positions, extent)), weights[1])
    dice_before = dice_after = None
    if labels is not None:
        fine = tuple(labels.shape[2:])
        places = identity(fine, extent, images).expand(len(apart), -1, *fine)
        seen = seen_weight(places, boxes[apart], spacing_of(fine, extent))
        each = (len(apart), -1, *fine)
        dice_before = _dice(labels[together].mean(0, keepdim=True).expand(each), labels[apart], seen)
        back = onto.state.moved.positions(fine, inverse=True)
        on_template = _mean_labels(labels[together], moved).expand(each)
        dice_after = _dice(sample_linear(on_template, back, extent), labels[apart], seen)
    carried = float((positions - here).norm(dim=1).mean()) / max(extent)
    good = after >= max(LEAST_ALIKE, before) and carried <= FARTHEST
    if dice_before is not None and dice_after is not None:
        good = good and dice_after >= min(dice_before + LEAST_DICE_GAIN, max(dice_before, ALIGNED_ALREADY))
    return Verdict("template" if good else "none", count, before, after, carried, dice_before, dice_after)


def _mean_labels(labels: Tensor, moved: Transformations) -> Tensor:
    return sample_linear(labels, moved.positions(labels.shape[2:]), moved.extent).mean(0, keepdim=True)
