r"""Distances between two sets of cases, each given by feature vectors.

Kernel distance (KID: Binkowski et al., *Demystifying MMD GANs*, ICLR 2018): the squared maximum mean discrepancy with
the kernel :math:`k(x,y)=(x^Ty/d+1)^3`, in its unbiased estimate, which may be below 0 when the sets are alike. Unlike
the Fréchet distance it does not depend on how many cases there are, only its scatter does.

Precision and recall (Kynkäänniemi et al., NeurIPS 2019), density and coverage (Naeem et al., ICML 2020): with the ball
around each case that reaches to its k-th nearest neighbour of the same set, *precision* is the share of synthesized
cases inside any real ball, *recall* the share of real cases inside any synthesized ball, *density* counts in how many
real balls a synthesized case lies, over k, and *coverage* is the share of real balls with a synthesized case inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 5
SUBSETS = 200


@dataclass(frozen=True)
class Estimate:
    """A figure with an interval of at least 95 % confidence; wider than need be where two sets are alike."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Coverage:
    """Precision, recall, coverage in [0, 1]; density from 0, about 1 for cases like the real ones."""

    precision: float
    recall: float
    density: float
    coverage: float


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _unbiased(real: np.ndarray, between: np.ndarray, made: np.ndarray) -> float:
    def mean_off_diagonal(kernel: np.ndarray) -> float:
        count = len(kernel)
        return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))

    return mean_off_diagonal(real) + mean_off_diagonal(made) - 2 * float(between.mean())


def kernel_distance(real: np.ndarray, made: np.ndarray, seed: int = 0) -> Estimate:
    """Unbiased squared kernel distance of two sets of features, with its interval.

    The interval comes from random halves of both sets, their scatter scaled to the whole (Politis and Romano, Annals of
    Statistics 22(4), 1994); drawing with replacement would count a case against itself.

    :param real: (N, d), N at least 4.
    :param made: (M, d), M at least 4.
    :raises ValueError: fewer than 4 cases in a set.
    """
    if min(len(real), len(made)) < 4:
        raise ValueError("the kernel distance needs at least 4 cases in each set")
    real, made = real.astype(np.float64), made.astype(np.float64)
    kernels = _kernel(real, real), _kernel(real, made), _kernel(made, made)
    value = _unbiased(*kernels)
    random = np.random.default_rng(seed)
    halves = []
    for _ in range(SUBSETS):
        rows = random.choice(len(real), len(real) // 2, replace=False)
        columns = random.choice(len(made), len(made) // 2, replace=False)
        halves.append(
            _unbiased(
                kernels[0][np.ix_(rows, rows)], kernels[1][np.ix_(rows, columns)], kernels[2][np.ix_(columns, columns)]
            )
        )
    # Halves of a finite set scatter as much around the whole as the whole around the truth (1/m - 1/n = 1/n), as far
    # as the statistic is linear in the cases; the rest, which is all there is for equal sets, scatters more in halves.
    spread = 1.96 * float(np.std(halves))
    return Estimate(value, value - spread, value + spread)


def _squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
    return np.maximum(squares, 0)


def coverage(real: np.ndarray, made: np.ndarray, neighbours: int = NEIGHBOURS) -> Coverage:
    """Precision, recall, density and coverage.

    :param real: (N, d), N above ``neighbours``.
    :param made: (M, d), M above ``neighbours``.
    :raises ValueError: a set has too few cases for its k-th neighbours.
    """
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(f"precision and recall need more than {neighbours} cases in each set")

    def radii(features: np.ndarray) -> np.ndarray:
        distances = _squared_distances(features, features)
        np.fill_diagonal(distances, 0)
        return np.sort(distances, axis=1)[:, neighbours]  # column 0 is the case itself

    real, made = real.astype(np.float64), made.astype(np.float64)
    between = _squared_distances(real, made)
    in_real_balls = between <= radii(real)[:, None]
    in_made_balls = between <= radii(made)[None]
    return Coverage(
        precision=float(in_real_balls.any(0).mean()),
        recall=float(in_made_balls.any(1).mean()),
        density=float(in_real_balls.sum(0).mean() / neighbours),
        coverage=float(in_real_balls.any(1).mean()),
    )


def relative_diversity(real: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> float:
    """Mean squared distance between two synthesized cases over that between two real ones; 0 is collapse, 1 as real.

    :param real: N arrays of one shape, images or features.
    :param made: M arrays, alike.
    """

    def mean_pairwise(cases: Sequence[np.ndarray]) -> float:
        # Twice the variance, summed over the voxels: no need of all pairs, nor of all cases at once (Welford, 1962).
        mean, squares = np.zeros(np.shape(cases[0])), 0.0
        for count, case in enumerate(cases, 1):
            apart = case - mean
            mean += apart / count
            squares += float((apart * (case - mean)).sum())
        return 2 * squares / (len(cases) - 1)

    return mean_pairwise(made) / max(mean_pairwise(real), 1e-12)
