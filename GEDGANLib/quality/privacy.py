r"""Whether synthesized cases are copies of training cases.

Three questions, each beside what real cases that were not trained on would answer:

*Whose neighbours are they?* For each synthesized case the nearest of all real cases is looked for, training and
held-out ones together. A generator that has learned the anatomy and not the patients makes cases whose neighbour is a
training case as often as training cases are among the real ones; the p-value is that of a permutation of who was
trained on. Blur and typicality, which bring a case nearer to everybody, cannot be mistaken for memory here.

*Copies.* Nearer to a training case than all but one in a hundred held-out cases are, after rigid alignment: the share
of such cases, and the probability of so many by chance.

*Authenticity* (Alaa et al., *How faithful is your synthetic data?*, ICML 2022, section 4.3): the share of synthesized
cases that are farther from their nearest training case than that one is from its own nearest neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..volumes.pipeline import Progress, _quiet
from .alignment import Nearest, nearest

FEWEST_TRAINING, FEWEST_HELD_OUT, FEWEST_MADE = 5, 8, 10
"""Cases below which nothing is concluded."""
SIGNIFICANT = 0.01
PERMUTATIONS = 20_000
COPY_QUANTILE = 0.01
FLAGGED, CLEAR, TOO_FEW = "memorised", "no sign of copies", "too few cases to tell"


@dataclass(frozen=True)
class Privacy:
    """See the module's text.

    :param verdict: :data:`FLAGGED`, :data:`CLEAR` or :data:`TOO_FEW`.
    :param words: the verdict in a sentence, with its reason.
    :param near_training: share of synthesized cases whose nearest real case was trained on; with the share expected
        and the p-value of as many or more. None without held-out cases.
    :param copies: share of synthesized cases within ``copy_distance`` of a training case; expected and p-value alike.
    :param copy_distance: None without held-out cases.
    :param distance: median distance of synthesized cases to the nearest training case.
    :param held_out_distance: the same of held-out cases.
    :param authenticity: of synthesized cases; and of held-out ones.
    :param closest: (synthesized case, training case, distance), nearest first.
    """

    verdict: str
    words: str
    near_training: tuple[float, float, float] | None
    copies: tuple[float, float, float] | None
    copy_distance: float | None
    distance: float
    held_out_distance: float | None
    authenticity: float
    held_out_authenticity: float | None
    closest: tuple[tuple[int, int, float], ...]


def examine(
    made: Sequence[np.ndarray],
    training: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    progress: Progress = _quiet,
    seed: int = 0,
) -> Privacy:
    """Compare synthesized cases with training and held-out ones, all as small pictures.

    :param made, training, held_out: see :func:`GEDGANLib.quality.alignment.small_picture`.
    :raises ValueError: no synthesized case, or fewer than two training cases.
    """
    if not made or len(training) < 2:
        raise ValueError("privacy needs synthesized cases and at least two training cases")
    total = 2 * len(made) + len(training) + len(held_out)
    done = 0

    def step(count: int, of: int, name: str) -> None:
        progress(done + count, total, "")

    to_training = nearest(made, training, progress=step)
    done += len(made)
    among_training = nearest(training, training, skip_same=True, progress=step)
    done += len(training)
    held_to_training = nearest(held_out, training, progress=step) if held_out else []
    done += len(held_out)
    to_held_out = nearest(made, held_out, progress=step) if held_out else []
    progress(total, total, "")

    distances = np.array([each.distance for each in to_training])
    near = _near_training(to_training, to_held_out, len(training), len(held_out), seed)
    copy_distance, copies = None, None
    if len(held_out) >= FEWEST_HELD_OUT:
        held_distances = np.sort([each.distance for each in held_to_training])
        rank = max(int(COPY_QUANTILE * len(held_out)), 1)
        copy_distance = float(held_distances[rank - 1])
        count = int((distances < copy_distance).sum())
        copies = (count / len(made), rank / (len(held_out) + 1), _so_many_nearer(count, len(made), rank, len(held_out)))
    verdict, words = _judge(len(made), len(training), len(held_out), near, copies)
    order = distances.argsort()
    return Privacy(
        verdict,
        words,
        near,
        copies,
        copy_distance,
        float(np.median(distances)),
        float(np.median([each.distance for each in held_to_training])) if held_out else None,
        _authenticity(to_training, among_training),
        _authenticity(held_to_training, among_training) if held_out else None,
        tuple((int(i), to_training[i].index, float(distances[i])) for i in order),
    )


def _authenticity(found: Sequence[Nearest], among_training: Sequence[Nearest]) -> float:
    return float(np.mean([each.distance > among_training[each.index].distance for each in found]))


def _near_training(
    to_training: Sequence[Nearest], to_held_out: Sequence[Nearest], trained: int, held_out: int, seed: int
) -> tuple[float, float, float] | None:
    if not to_held_out:
        return None
    # Of all real cases, training ones first, the nearest of each synthesized one.
    neighbour = np.array(
        [
            near.index if near.distance <= far.distance else trained + far.index
            for near, far in zip(to_training, to_held_out)
        ]
    )
    share, expected = float((neighbour < trained).mean()), trained / (trained + held_out)
    random = np.random.default_rng(seed)
    known = np.arange(trained + held_out) < trained
    at_least = 1
    for _ in range(PERMUTATIONS):
        at_least += int(random.permutation(known)[neighbour].mean() >= share)
    return share, expected, at_least / (PERMUTATIONS + 1)


def _so_many_nearer(count: int, made: int, rank: int, held_out: int) -> float:
    """Probability that at least ``count`` synthesized cases lie nearer than the ``rank``-th nearest held-out case.

    If synthesized and held-out cases are alike, every order of their distances is as probable as any other: then the
    first ``count + rank - 1`` of them hold fewer than ``rank`` held-out ones.
    """
    from scipy import stats

    if not count:
        return 1.0
    return float(stats.hypergeom.cdf(rank - 1, made + held_out, held_out, count + rank - 1))


def _judge(
    made: int,
    training: int,
    held_out: int,
    near: tuple[float, float, float] | None,
    copies: tuple[float, float, float] | None,
) -> tuple[str, str]:
    if training < FEWEST_TRAINING or held_out < FEWEST_HELD_OUT or made < FEWEST_MADE:
        return TOO_FEW, (
            f"{made} synthesized, {training} training and {held_out} held-out cases are too few to tell copies from "
            f"chance; at least {FEWEST_MADE}, {FEWEST_TRAINING} and {FEWEST_HELD_OUT} are needed."
        )
    reasons = []
    if near is not None and near[2] < SIGNIFICANT:
        reasons.append(
            f"the nearest real case of {near[0]:.0%} of them was trained on, where {near[1]:.0%} would be expected "
            f"(p {_small(near[2])})"
        )
    if copies is not None and copies[2] < SIGNIFICANT:
        reasons.append(
            f"{copies[0]:.0%} of them lie nearer to a training case than hardly any held-out case does "
            f"(p {_small(copies[2])})"
        )
    if reasons:
        return FLAGGED, f"The model reproduces its training cases: {' and '.join(reasons)}. Do not share its cases."
    share = f"{copies[0]:.0%}" if copies is not None else "none"
    return CLEAR, (
        f"No sign that training cases are reproduced: {near[0]:.0%} of the synthesized cases have a training case as "
        f"their nearest real one ({near[1]:.0%} expected), and {share} are nearer to one than held-out cases are. "
        "That is no proof that nothing of a patient can be found in them."
    )


def _small(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else f"< 1e-{min(math.floor(-math.log10(max(p, 1e-12))), 12)}"
