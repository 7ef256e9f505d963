r"""What aligned cases are apart, in blocks: how they lie, how they are deformed, how bright they are where.

Of case i these are the generator :math:`L_i` of its affine part, its velocity :math:`v_i`, and its look, the logarithm
of the intensity of :math:`x_i\circ\varphi_i`, where a scan that is brighter by a factor differs by a constant. Nothing
at full resolution is kept: a case is read, measured and forgotten, so that hundreds of large ones fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..jobs.events import Progress, quiet
from .registration import FEWEST_SEEN, seen_weight
from .sampling import sample_image, sample_linear, shape_of_at_most, shrink, spacing_of
from .template import Scan, image_of, one_hot
from .transformations import Transformations
from .velocity import smooth

SMOOTHED = 4.0
"""Voxels of the grid that looks are on: Gaussian over the fields by which cases are compared. What is finer differs
from case to case and has no direction: of held-out hippocampi ten directions tell 18 %, smoothed 57 %."""
SOFTEST = 0.1
"""Added to intensities in [0, 1] before the logarithm, below which noise in air would outweigh tissue."""
RAREST = 0.01
"""Added to probabilities of labels before the logarithm."""
LABEL_VALUES = 8 * 32**3
"""Values of all labels of a case at most, on the grid on which labels are compared."""


def look_of(image: Tensor) -> Tensor:
    """Logarithm of the intensity of an image in [-1, 1]."""
    return ((image + 1) / 2 + SOFTEST).log()


def with_look(image: Tensor, look: Tensor) -> Tensor:
    """An image in [-1, 1] brightened by ``look``; what is exactly air stays so."""
    brightened = (((image + 1) / 2 + SOFTEST) * look.exp() - SOFTEST) * 2 - 1
    return torch.where(image > -1, brightened.clamp(-1, 1), image)


@dataclass(frozen=True)
class Blocks:
    """Of N cases over the box of an alignment.

    :param generators: (N, D, D+1), mm.
    :param velocities: (N, D, *control grid), mm.
    :param looks: (N, C, *grid), less their mean; the mean case's where a scan saw nothing.
    :param look: that mean, (C, *grid).
    """

    generators: Tensor
    velocities: Tensor
    looks: Tensor
    look: Tensor

    def __len__(self) -> int:
        return len(self.generators)

    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.generators, self.velocities, self.looks


@torch.inference_mode()
def blocks_of(
    cases: Sequence[Scan],
    moved: Transformations,
    boxes: Tensor,
    members: Sequence[int],
    shape: Sequence[int],
    progress: Progress = quiet,
) -> Blocks:
    """Measure cases.

    :param moved: transformations of all of them; says on which device it is done.
    :param boxes: fields of view, see :func:`.registration.seen_weight`.
    :param members: those whose mean is taken off.
    :param shape: voxels of the grid that looks are kept on.
    """
    shape, spacing = tuple(shape), spacing_of(shape, moved.extent)
    looks = torch.zeros(len(cases), len(cases[0].image), *shape)
    weights = torch.zeros(len(cases), 1, *shape)
    for number, case in enumerate(cases):
        progress(number, len(cases), case.name)
        positions = moved.of([number]).positions(shape)
        image = shrink(image_of(case, positions.device), shape)
        weights[number] = seen_weight(positions, boxes[number : number + 1].to(positions), spacing)[0].cpu()
        looks[number] = look_of(sample_image(image, positions, moved.extent))[0].cpu()
    progress(len(cases), len(cases), "")
    chosen, seen = looks[list(members)], weights[list(members)]
    mean = (chosen * seen).sum(0) / seen.sum(0).clamp_min(FEWEST_SEEN)
    looks.sub_(mean).mul_(weights)
    return Blocks(moved.generators.detach().cpu().float(), moved.velocities.detach().cpu().float(), looks, mean)


def smoothing_width(extent: Sequence[float], shape: Sequence[int]) -> float:
    """Of the Gaussian over fields by which cases are compared, mm.

    :param shape: of the grid that looks are on.
    """
    return SMOOTHED * max(spacing_of(shape, extent))


def label_shape(shape: Sequence[int], extent: Sequence[float], label_count: int) -> tuple[int, ...]:
    """The grid on which labels of cases are compared."""
    return shape_of_at_most(LABEL_VALUES // (label_count + 1), shape, extent)


@torch.inference_mode()
def label_differences(
    cases: Sequence[Scan],
    moved: Transformations,
    boxes: Tensor,
    chosen: Sequence[int],
    label_count: int,
    shape: Sequence[int],
    progress: Progress = quiet,
) -> Tensor:
    r"""How much more probable each label is in a case than on the template, :math:`\log\frac{p_i+c}{p_0+c}`, with
    probabilities smoothed by one voxel; less the mean over cases, and 0 where a scan saw nothing.

    :param chosen: segmented cases.
    :param shape: see :func:`label_shape`.
    :returns: (len(chosen), L + 1, *shape) float16.
    """
    shape, spacing = tuple(shape), spacing_of(shape, moved.extent)
    found = torch.zeros(len(chosen), label_count + 1, *shape, dtype=torch.float16)
    weights = torch.zeros(len(chosen), 1, *shape)
    mean, total = torch.zeros(label_count + 1, *shape), torch.zeros(1, *shape)
    for row, index in enumerate(chosen):
        case = cases[index]
        progress(row, len(chosen), case.name)
        positions = moved.of([index]).positions(shape)
        weight = seen_weight(positions, boxes[index : index + 1].to(positions), spacing)[0].cpu()
        labels = np.asarray(case.labels)
        for label in range(label_count + 1):
            share = shrink(one_hot(labels, label, positions.device), shape)
            share = smooth(sample_linear(share, positions, moved.extent), min(spacing), moved.extent)
            found[row, label] = share[0, 0].cpu().half()
        weights[row] = weight
        mean += found[row].float() * weight
        total += weight
    progress(len(chosen), len(chosen), "")
    mean = (mean / total.clamp_min(FEWEST_SEEN) + RAREST).log()
    middle = torch.zeros_like(mean)
    for row in range(len(chosen)):
        difference = ((found[row].float() + RAREST).log() - mean) * weights[row]
        found[row] = difference.half()
        middle += difference / len(chosen)
    for row in range(len(chosen)):
        found[row] = (found[row].float() - middle).half()
    return found
