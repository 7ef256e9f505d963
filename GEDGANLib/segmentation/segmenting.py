"""Scans segmented by a network, on their own voxels, with how far each is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..alignment.voting import mean_trust, promised_dice, told_trust
from ..volumes.case import Case, description_of_segmented
from ..volumes.geometry import resample
from .applying import probabilities
from .network_file import SegmentationNetwork
from .scans import on_own_voxels, placed

UNLIKELY = 0.05
"""Probability below which a label does not count for trust."""


@dataclass(frozen=True)
class Segmented:
    """A scan with the segmentation that a network made.

    :param case: on its own voxels.
    :param shares: probability of each label, background first, (label_count + 1, *grid of the network).
    :param affine: of that grid, (4, 4), voxel to mm in RAS.
    :param trust: Dice coefficient that these promise, as a mean over labels, in [0, 1]; 0 where nothing was found.
    """

    case: Case
    shares: np.ndarray
    affine: np.ndarray
    trust: float

    def share_of(self, label: int) -> np.ndarray:
        """Probability of a label, 0 being the background, (*own voxels) float32."""
        shape = self.case.image.shape[1:]
        return resample(self.shares[label][None], self.affine, self.case.affine, shape)[0]


def segmented(case: Case, network: SegmentationNetwork, votes: Tensor | None = None) -> Segmented:
    """Segment a scan.

    :param votes: shares that labels have there that were carried to it, (label_count + 1, *grid of the network), which
        are averaged with what the network says: they err elsewhere, and are finer where its voxels are coarse.
    :raises InputError: other channels than the network's.
    """
    plan = network.plan
    there = placed(replace(case, labels=None), plan)
    shares = probabilities(network.network, there.example().image, plan.patch)
    if votes is not None and votes.shape == shares.shape:
        shares = (shares + votes.float()) / 2
    # A network is never quite sure that nothing is there: without this, a structure that is not would count as missed.
    by_label = promised_dice(torch.where(shares < UNLIKELY, 0.0, shares), shares.argmax(0))
    told = {"segmented_by": network.path.name, "network_digest": network.digest, "library_version": __version__}
    told |= told_trust([label.name for label in plan.labels], by_label)
    labels = on_own_voxels(shares.numpy(), there.case, case)
    about = description_of_segmented(case.name)
    made = replace(case, labels=labels, label_table=plan.labels, provenance=told, description=about)
    return Segmented(made, shares.numpy(), there.case.affine, mean_trust(by_label))
