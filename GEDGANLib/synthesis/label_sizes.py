"""Segmentations of made cases as large as those of real ones.

A label is where it is likelier than all others. Averaged over cases its probability is low at its border and in what is
thin, so that the likeliest label of a mean is too small: hippocampi by a sixth. The logarithm of each label's
probability is therefore raised by what makes the mean size of random cases that of the segmented ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..alignment.blocks import RAREST
from ..alignment.sampling import shape_of_at_most
from ..networks.statistical import StatisticalGenerator
from ..volumes.pipeline import WorkingCase

CASES, LARGEST, BATCH = 48, 40**3, 8
"""Random cases that are measured, voxels that each has at most, and how many are made at once."""
ROUNDS, STEP, CLOSE = 40, 0.5, 0.01
"""Of the search: how often it is corrected at most, by what share of what is missing, and what counts as reached."""
MOST = 3.0
"""That a logarithm is raised or lowered by, at most."""


def label_sizes(cases: Sequence[WorkingCase], label_count: int) -> list[float]:
    """Mean share of the grid that each label fills, (label_count,), over the segmented ones among cases."""
    shares = [
        np.bincount(np.asarray(case.labels).ravel(), minlength=label_count + 1)[1 : label_count + 1] / case.labels.size
        for case in cases
        if case.labels is not None
    ]
    return np.mean(shares, axis=0).tolist() if shares else []


@torch.no_grad()
def fit_label_sizes(generator: StatisticalGenerator, wanted: Sequence[float]) -> None:
    """Change the probabilities on a generator's template so that its labels are as large as wanted.

    :param generator: on the CPU; one without labels, and labels that no case has, stay as they are.
    :param wanted: from :func:`label_sizes`; nothing is changed where that is empty.
    """
    if generator.shares is None or len(wanted) != len(generator.shares) - 1:
        return
    shape = shape_of_at_most(LARGEST, generator.shape, generator.extent)
    coarse = generator if shape == generator.shape else generator.coarser(shape)
    logarithms = _of_random_cases(coarse)
    goal = torch.tensor(wanted, dtype=torch.float64)
    offsets = torch.zeros(len(generator.shares))
    for _ in range(ROUNDS):
        # argmax across a dimension that is not the last one takes ten times as long.
        likeliest = (logarithms + offsets.reshape(1, -1, 1)).max(1).indices
        sizes = torch.bincount(likeliest.flatten(), minlength=len(offsets))[1:].double() / likeliest.numel()
        missing = torch.where(goal > 0, goal / sizes.clamp_min(0.1 * goal.clamp_min(1e-12)), 1.0).log()
        if float(missing.abs().max()) < CLOSE:
            break
        offsets[1:] = (offsets[1:] + STEP * missing.float()).clamp(-MOST, MOST)
    raised = (generator.shares + RAREST).log() + offsets.reshape(-1, *[1] * len(generator.shape))
    generator.shares.copy_(raised.softmax(0).half())  # as it is kept


def _of_random_cases(generator: StatisticalGenerator) -> Tensor:
    """Logarithms of label probabilities of random cases, (CASES, L + 1, voxels)."""
    latents = np.random.default_rng(0).standard_normal((CASES, len(generator.generators)), np.float32)
    found, channels = [], len(generator.template)
    for latent in torch.from_numpy(latents).split(BATCH):
        found.append(generator(latent)[:, channels:].flatten(2).clamp_min(1e-12).log())
    return torch.cat(found)
