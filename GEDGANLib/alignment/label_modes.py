r"""What alignment leaves of the labels' differences, told from the scores: ridge regression of log-odds.

With scores Z (n, K) of the segmented cases and their labels' differences Y (n, voxels, see
:func:`.blocks.label_differences`) a label's change for one standard deviation of a score is a row of

.. math:: W=(Z^TZ+\alpha I)^{-1}Z^TY,

with the :math:`\alpha` that generalised cross-validation finds best for all voxels together (Golub, Heath and Wahba,
Technometrics 21(2), 1979, equation 1.4), which asks of Y for the n × n matrix :math:`YY^T` alone. Z is not of
variance 1 here but as wide as its components are: of the last of many scores, all noise, little is believed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FEWEST_LABELLED = 20
"""Segmented cases below which labels are only deformed."""
RIDGES = 10.0 ** np.arange(-4, 3.01, 0.5)
"""α that are tried, in units of the mean square of the first score over the cases."""
CHUNK = 1_000_000


def best_ridge(scores: np.ndarray, products: np.ndarray) -> float:
    """α with the smallest error of generalised cross-validation.

    :param scores: (n, K), centred.
    :param products: inner products of what is told from them, (n, n).
    """
    left, singular, _ = np.linalg.svd(scores, full_matrices=False)
    count = len(scores)
    within = np.einsum("ik,ij,jk->k", left, products, left)
    rest = float(np.trace(products)) - float(within.sum())
    errors = []
    for ridge in RIDGES * count:
        kept = singular**2 / (singular**2 + ridge)
        error = float(((1 - kept) ** 2 * within).sum()) + rest
        errors.append(error / max(1 - (kept.sum() + 1) / count, 1e-6) ** 2)
    return float(RIDGES[int(np.argmin(errors))] * count)


def _hat(scores: np.ndarray, strengths: np.ndarray, products: np.ndarray) -> np.ndarray:
    """What turns values into W, for scores of variance 1, (K, n)."""
    scores = (scores - scores.mean(0)) * strengths
    ridge = best_ridge(scores, products)
    return strengths[:, None] * np.linalg.solve(scores.T @ scores + ridge * np.eye(scores.shape[1]), scores.T)


def ridge_weights(scores: np.ndarray, values: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """W of the module's text for a number of each case, (K,).

    :param scores: (n, K).
    :param values: (n,); their mean is taken off.
    :param strengths: how wide each component is beside the widest, (K,) in [0, 1].
    """
    values = values - values.mean()
    return _hat(scores, strengths, np.outer(values, values)) @ values


def label_modes(scores: np.ndarray, differences: Tensor, strengths: np.ndarray) -> Tensor:
    """W of the module's text, (K, L + 1, *grid) float32.

    :param scores: of the segmented cases, (n, K).
    :param differences: (n, L + 1, *grid).
    :param strengths: how wide each component is beside the widest, (K,) in [0, 1].
    """
    flat = differences.flatten(1)
    products = np.zeros((len(scores), len(scores)))
    for start in range(0, flat.shape[1], CHUNK):
        part = flat[:, start : start + CHUNK].float()
        products += (part @ part.T).double().numpy()
    weights = torch.from_numpy(_hat(scores, strengths, products)).float()
    modes = torch.zeros(scores.shape[1], *differences.shape[1:])
    into = modes.flatten(1)
    for start in range(0, flat.shape[1], CHUNK):
        into[:, start : start + CHUNK] = weights @ flat[:, start : start + CHUNK].float()
    return modes
