"""A gate for synthesized cases: what is implausible or too near to a training case is drawn again.

A case passes when, measured as the quality report measures it,

- each label's volume and each channel's brightness lie within the range of the real cases, a little widened;
- each label hangs together in as many pieces as those of real cases do, and no more of it is speckle; it is missing
  no more often than in real cases;
- it lies where real cases do: within the ball around some real case that reaches to its fifth neighbour, in the
  principal components of small pictures (the realism of Kynkäänniemi et al., NeurIPS 2019, section 4);
- after rigid alignment it is not far nearer to one training case than to all others, as copies are (see ``privacy``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..volumes.case import Case
from ..volumes.fingerprint import Progress, quiet
from ..volumes.measures import Measures, measure, usual_pieces
from ..volumes.pipeline import WorkingCase, seen_as, seen_voxels, unmap_intensities
from .alignment import neighbours, pictures_of, small_picture
from .distances import NEIGHBOURS
from .privacy import COPY_RATIO

WIDENED = 0.1
"""Of the range of real cases, added at both ends: few cases do not reach its ends."""
COMPONENTS = 16
BALL_QUANTILE, BALL_WIDENED = 0.9, 1.2
"""Balls larger than most are outliers' and count for nothing; the others are a little wider, real cases being few."""
TRIES = 20
"""Draws for each case wanted, on average, before the gate gives up."""


class Screen:
    """The gate, made of the real cases that the model was trained on.

    :param cases: on the grid of the model's plan, at least :data:`NEIGHBOURS` + 3 of them.
    :param class_name: of the cases that are drawn; labels may be missing as often as in real ones of it. None for all.
    :param with_copies: whether what is far nearer to one of them than to all others does not pass.
    :raises InputError: fewer than that.
    """

    def __init__(
        self,
        cases: Sequence[WorkingCase],
        plan: Any,
        progress: Progress = quiet,
        with_copies: bool = True,
        class_name: str | None = None,
    ) -> None:
        if len(cases) < NEIGHBOURS + 3:
            raise InputError(
                f"{len(cases)} real cases are too few to tell what is plausible; {NEIGHBOURS + 3} are needed.",
                "Leave --screen out.",
            )
        self.plan, self.with_copies = plan, with_copies
        self.views = [seen_voxels(case) for case in cases]
        self.pictures = pictures_of(cases, plan.grid.spacing)
        measured = []
        for index, case in enumerate(cases):
            measured.append(self._measure(case.image, case.labels, case.affine))
            progress(index + 1, len(cases), case.name)
        labelled = [each for each, case in zip(measured, cases) if case.labels is not None]
        # Brightness is that inside labels, where there are any: comparable among labelled cases alone.
        ranged = labelled if plan.labels and labelled else measured if not plan.labels else []
        self.ranges = self._ranges([each.named() for each in ranged])
        counts = {label.name: [each.pieces[label.name] for each in labelled] for label in plan.labels if labelled}
        self.pieces = {name: usual_pieces(found) for name, found in counts.items()}
        of_kind = [
            each
            for each, case in zip(measured, cases)
            if case.labels is not None and class_name in (None, case.class_name)
        ] or labelled
        self.missing = {name: sum(not each.pieces[name] for each in of_kind) / len(of_kind) for name in counts}
        self.speckle = max((each.speckle for each in labelled), default=1.0)
        flat = np.stack([picture.voxels.ravel() for picture in self.pictures]).astype(np.float64)
        self.middle = flat.mean(0)
        _, _, components = np.linalg.svd(flat - self.middle, full_matrices=False)
        self.components = components[: min(COMPONENTS, len(flat) // 2)].T
        self.features = (flat - self.middle) @ self.components
        apart = np.linalg.norm(self.features[:, None] - self.features[None], axis=2)
        radii = np.sort(apart, axis=1)[:, NEIGHBOURS]
        self.radii = np.where(radii <= np.quantile(radii, BALL_QUANTILE), BALL_WIDENED * radii, 0.0)

    def _measure(self, image: np.ndarray, labels: np.ndarray | None, affine: np.ndarray) -> Measures:
        names = tuple(channel.name for channel in self.plan.channels)
        in_units = unmap_intensities(image, [channel.typical for channel in self.plan.channels])
        return measure(Case("", in_units, labels, affine, tuple(self.plan.labels), names))

    @staticmethod
    def _ranges(rows: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
        found = {}
        for name in rows[0] if rows else ():
            values = [row[name] for row in rows]
            wider = WIDENED * (max(values) - min(values))
            found[name] = (min(values) - wider, max(values) + wider)
        return found

    def fault(self, image: np.ndarray, labels: np.ndarray | None, affine: np.ndarray) -> str | None:
        """Why a case does not pass, in a word or two; None if it does.

        :param image: (C, *grid) in [-1, 1], on the plan's grid.
        """
        found = self._measure(image, labels, affine)
        for name, value in found.named().items():
            low, high = self.ranges.get(name, (-np.inf, np.inf))
            if not low <= value <= high:
                return f"{name} out of range"
        for name, count in found.pieces.items():
            if name not in self.pieces:
                continue
            if not count and not self.missing[name]:
                return f"no {name}"
            if count and not self.pieces[name][0] <= count <= self.pieces[name][1]:
                return f"{name} in pieces"
        if found.speckle > self.speckle + 0.01:
            return "speckle"
        picture = small_picture(image, self.plan.grid.spacing)
        feature = (picture.voxels.ravel() - self.middle) @ self.components
        if not (np.linalg.norm(self.features - feature, axis=1) <= self.radii).any():
            return "unlike real cases"
        if self.with_copies and neighbours([picture], self.pictures)[0].ratio() < COPY_RATIO:
            return "too near to a training case"
        return None

    def _lost(self, labels: np.ndarray) -> list[str]:
        """Names of the labels that a case is without, among those that real cases have."""
        there = set(np.unique(labels).tolist())
        return [label.name for label in self.plan.labels if label.name in self.missing and label.index not in there]

    def passing(
        self, draw: Callable[[int], tuple[Case, np.ndarray]], count: int, rejected: Counter[str]
    ) -> Iterator[Case]:
        """Draw cases until ``count`` have passed.

        :param draw: index -> a case as it is wanted, and its image in [-1, 1] on the plan's grid with, in a last
            channel, its labels.
        :param rejected: counts why cases did not pass.
        :raises InputError: hardly any passes.
        """
        passed, index = 0, 0
        without: Counter[str] = Counter()
        while passed < count:
            if index >= TRIES * (passed + 5):
                worst = ", ".join(f"{reason} ({number})" for reason, number in rejected.most_common(3))
                raise InputError(
                    f"Of {index} cases only {passed} were plausible; most often: {worst}.",
                    "Train longer, lower --truncation, or leave --screen out.",
                )
            case, working = draw(index)
            channels, affine = len(self.plan.channels), self.plan.grid.affine
            labels = working[channels].astype(np.uint8) if self.plan.labels else None
            whole = WorkingCase("", working[:channels], labels, affine, affine, working.shape[1:])
            # Compared as if a scan had seen as much of it as of some real case.
            seen = seen_as(whole, self.views[index % len(self.views)])
            index += 1
            reason = self.fault(seen.image, seen.labels, affine)
            lost = [] if reason or labels is None else self._lost(seen.labels)
            for name in lost:  # no more often than in real cases
                if without[name] + 1 > self.missing[name] * (passed + 1) + 0.5:
                    reason = f"no {name}"
            if reason is None:
                passed += 1
                without.update(lost)
                yield case
            else:
                rejected[reason] += 1
