r"""Whether synthesized cases are copies of training cases.

Three questions, each beside what real cases would answer:

*Copies.* A copy is far nearer to one training case than to any other; a blurred or typical case is near to all of them
alike. So the distance to the nearest training case is divided by the median of those to the next few, after rigid
alignment (the nearest-neighbour distance ratio). Below :data:`COPY_RATIO` a case counts as a copy. As many among
synthesized cases are compared with as many among real ones, each against the training cases other than itself
(Fisher's exact test). A patient who was scanned twice is such a case too, and counts on the real side. Where a
training mirrored its cases, a case counts as it lies or mirrored, whichever is nearer to one case; real ones too.

*Whose neighbours are they?* For each synthesized case the nearest of all real cases is looked for, training and
held-out ones together. A generator that has learned the anatomy and not the patients makes cases whose neighbour is a
training case as often as training cases are among the real ones; the p-value is that of a permutation of who was
trained on. Where held-out cases are of another kind, real cases too have neighbours of their own set: then this says
nothing, and is not used.

*Authenticity* (Alaa et al., *How faithful is your synthetic data?*, ICML 2022, section 4.3): the share of synthesized
cases that are farther from their nearest training case than that one is from its own nearest neighbour. Blur lowers
it, so it is told, and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..volumes.fingerprint import Progress, quiet
from .alignment import CANDIDATES, Neighbours, Picture, neighbours, unaligned_distances

FEWEST_TRAINING, FEWEST_REAL, FEWEST_HELD_OUT, FEWEST_MADE = CANDIDATES + 1, 8, 8, 10
"""Cases below which nothing is concluded: of copies at all, and of whose neighbours they are."""
SIGNIFICANT = 0.01
PERMUTATIONS, KIND_PERMUTATIONS = 20_000, 2000
COPY_RATIO = 0.6
FLAGGED, CLEAR, TOO_FEW = "memorised", "no sign of copies", "too few cases to tell"


@dataclass(frozen=True)
class Privacy:
    """See the module's text.

    :param verdict: :data:`FLAGGED`, :data:`CLEAR` or :data:`TOO_FEW`.
    :param words: the verdict in a sentence, with its reason.
    :param copies: share of copies among synthesized cases, among real ones, and the p-value.
    :param near_training: share of synthesized cases whose nearest real case was trained on, the share expected and the
        p-value; None without held-out cases.
    :param alike: whether held-out cases are of the kind of training cases, so that ``near_training`` means something.
    :param distance: median distance of synthesized cases to the nearest training case.
    :param held_out_distance: the same of held-out cases.
    :param authenticity: of synthesized cases; and of held-out ones.
    :param closest: (synthesized case, training case, distance), by their distance ratio, most suspicious first.
    """

    verdict: str
    words: str
    copies: tuple[float, float, float]
    near_training: tuple[float, float, float] | None
    alike: bool | None
    distance: float
    held_out_distance: float | None
    authenticity: float
    held_out_authenticity: float | None
    closest: tuple[tuple[int, int, float], ...]


def examine(
    made: Sequence[Picture],
    training: Sequence[Picture],
    held_out: Sequence[Picture],
    progress: Progress = quiet,
    seed: int = 0,
    mirrored: Sequence[int] = (),
) -> Privacy:
    """Compare synthesized cases with training and held-out ones, all as small pictures.

    :param made, training, held_out: see :func:`GEDGANLib.quality.alignment.small_picture`.
    :param mirrored: axes along which training cases were mirrored, so that copies may be too.
    :raises ValueError: no synthesized case, or fewer than two training cases.
    """
    if not made or len(training) < 2:
        raise ValueError("privacy needs synthesized cases and at least two training cases")
    total = len(made) + len(training) + len(held_out) + (len(made) if held_out else 0)
    done = 0

    def step(count: int, of: int, name: str) -> None:
        progress(done + count, total, "")

    to_training = neighbours(made, training, progress=step, mirrored=mirrored)
    done += len(made)
    among_training = neighbours(training, training, True, step, mirrored)
    done += len(training)
    held_to_training = neighbours(held_out, training, progress=step, mirrored=mirrored) if held_out else []
    done += len(held_out)
    to_held_out = neighbours(made, held_out, progress=step, mirrored=mirrored) if held_out else []
    progress(total, total, "")

    copies = _copies(to_training, [*among_training, *held_to_training])
    near, alike = None, None
    if held_out:
        near = _near_training(to_training, to_held_out, len(training), len(held_out), seed)
        alike = _of_one_kind(training, held_out)
    verdict, words = _judge(len(made), len(training), len(held_out), copies, near, alike)
    order = np.array([each.ratio() for each in to_training]).argsort()
    return Privacy(
        verdict,
        words,
        copies,
        near,
        alike,
        float(np.median([each.distance for each in to_training])),
        float(np.median([each.distance for each in held_to_training])) if held_out else None,
        _authenticity(to_training, among_training),
        _authenticity(held_to_training, among_training) if held_out else None,
        tuple((int(i), copy.indices[0], float(copy.distance)) for i in order for copy in [to_training[i].of_copy()]),
    )


def _authenticity(found: Sequence[Neighbours], among_training: Sequence[Neighbours]) -> float:
    return float(np.mean([each.distance > among_training[each.indices[0]].distance for each in found]))


def _copies(made: Sequence[Neighbours], real: Sequence[Neighbours]) -> tuple[float, float, float]:
    """Shares of copies among synthesized and real cases, and the probability of so many more by chance."""
    from scipy import stats

    counts = [sum(each.ratio() < COPY_RATIO for each in group) for group in (made, real)]
    table = [[counts[0], len(made) - counts[0]], [counts[1], len(real) - counts[1]]]
    p = float(stats.fisher_exact(table, alternative="greater").pvalue)
    return counts[0] / len(made), counts[1] / len(real), p


def _near_training(
    to_training: Sequence[Neighbours], to_held_out: Sequence[Neighbours], trained: int, held_out: int, seed: int
) -> tuple[float, float, float]:
    # Of all real cases, training ones first, the nearest of each synthesized one.
    neighbour = np.array(
        [
            near.indices[0] if near.distance <= far.distance else trained + far.indices[0]
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


def _of_one_kind(training: Sequence[Picture], held_out: Sequence[Picture], seed: int = 0) -> bool:
    """Whether who is whose neighbour among real cases does not depend on who was trained on.

    It would if the nearest real case of real ones were of their own set more often than chance has it, two sites for
    example; or of one of the sets, whose cases have less noise for example and are nearer to everybody.
    """
    every = [*training, *held_out]
    apart = unaligned_distances(every, every)
    np.fill_diagonal(apart, np.inf)
    neighbour = apart.argmin(1)
    known = np.arange(len(every)) < len(training)

    def figures(who: np.ndarray) -> np.ndarray:
        near = who[neighbour]
        return np.array([(who == near).mean(), near.mean(), (~near).mean()])

    observed, random = figures(known), np.random.default_rng(seed)
    at_least = np.ones(3)
    for _ in range(KIND_PERMUTATIONS):
        at_least += figures(random.permutation(known)) >= observed
    return bool((at_least / (KIND_PERMUTATIONS + 1)).min() >= SIGNIFICANT)


def _judge(
    made: int,
    training: int,
    held_out: int,
    copies: tuple[float, float, float],
    near: tuple[float, float, float] | None,
    alike: bool | None,
) -> tuple[str, str]:
    if training < FEWEST_TRAINING or training + held_out < FEWEST_REAL or made < FEWEST_MADE:
        return TOO_FEW, (
            f"{made} synthesized, {training} training and {held_out} held-out cases are too few to tell copies from "
            f"chance; at least {FEWEST_MADE} synthesized and {FEWEST_TRAINING} training cases, {FEWEST_REAL} real ones "
            f"in all, are needed. {copies[0]:.0%} of the synthesized cases are far nearer to one training case than to "
            "others."
        )
    reasons, usable = [], near is not None and held_out >= FEWEST_HELD_OUT and alike
    if copies[2] < SIGNIFICANT:
        reasons.append(
            f"{copies[0]:.0%} of them are far nearer to one training case than to all others, as {copies[1]:.0%} of "
            f"real cases are (p {_small(copies[2])})"
        )
    if usable and near[2] < SIGNIFICANT:
        reasons.append(
            f"the nearest real case of {near[0]:.0%} of them was trained on, where {near[1]:.0%} would be expected "
            f"(p {_small(near[2])})"
        )
    if reasons:
        return FLAGGED, f"The model reproduces its training cases: {' and '.join(reasons)}. Do not share its cases."
    words = (
        f"No sign that training cases are reproduced: {copies[0]:.0%} of the synthesized cases are far nearer to one "
    )
    words += f"training case than to others ({copies[1]:.0%} of real cases are)"
    if usable:
        words += f", and the nearest real case of {near[0]:.0%} was trained on ({near[1]:.0%} expected)"
    elif alike is False:
        words += "; the real cases that are new to the model are of another kind, so who is near whom says nothing"
    elif held_out:
        words += f"; {held_out} held-out cases are too few to tell whose neighbours they are"
    return CLEAR, words + ". That is no proof that nothing of a patient can be found in them."


def _small(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else f"< 1e-{min(math.floor(-math.log10(max(p, 1e-12))), 12)}"
