"""A case that answers sliders: a latent to start from, and how far along each direction it is moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..errors import InputError
from ..volumes.case import Case
from .directions import Direction, choose
from .synthesizer import Synthesizer, typical_latent


class Explorer:
    """Moves one case along directions.

    :param synthesizer: says in what form cases come; without another grid it is fastest.
    :param latent: (latent_size,) to start from; that of the most typical case when not given.
    :param class_name: class to start from.
    :raises InputError: a class that the model does not know.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        directions: Sequence[Direction],
        latent: np.ndarray | None = None,
        class_name: str | None = None,
    ) -> None:
        plan = synthesizer.model.plan
        if class_name is not None and class_name not in plan.classes:
            raise InputError(f"The model knows no class {class_name}.", f"There are: {', '.join(plan.classes)}.")
        self.synthesizer, self.directions = synthesizer, list(directions)
        self.latent = typical_latent(plan) if latent is None else np.asarray(latent)
        self.class_name = class_name

    def latent_at(self, values: Mapping[str, float]) -> np.ndarray:
        """The latent moved by ``values``: name of a direction -> standard deviations (share, for a class).

        :raises InputError: no such direction.
        """
        latent = np.array(self.latent, np.float32)
        for name, value in values.items():
            latent += np.float32(value) * np.array(choose(self.directions, name).latent, np.float32)
        return latent

    def class_weights_at(self, values: Mapping[str, float]) -> np.ndarray | None:
        """Shares of the classes moved by ``values``; None without classes. They keep their sum where one is 1."""
        weights = self.synthesizer.class_weights(self.class_name)
        if weights is None:
            return None
        for name, value in values.items():
            direction = choose(self.directions, name)
            if direction.class_name is not None and value:
                weights *= 1 - min(float(value), 1.0)
                weights[self.synthesizer.model.plan.classes.index(direction.class_name)] += float(value)
        return weights

    def case(self, values: Mapping[str, float], name: str = "explored") -> Case:
        """The case at ``values``; values left out are 0."""
        moved = {key: float(value) for key, value in values.items() if value}
        origin = {"directions": moved} if moved else {}
        latent, weights = self.latent_at(moved), self.class_weights_at(moved)
        return self.synthesizer.case(latent, name, origin, self.class_name, class_weights=weights)

    def series(self, direction: Direction, start: float, end: float, frames: int) -> Iterator[Case]:
        """Cases from ``start`` to ``end`` along one direction, evenly.

        :param frames: at least 1; one alone is at ``start``.
        """
        for index, value in enumerate(np.linspace(start, end, frames)):
            yield self.case({direction.name: value}, f"{index:03d}")


def interpolate(synthesizer: Synthesizer, first: np.ndarray, last: np.ndarray, frames: int) -> Iterator[Case]:
    """Cases from one latent to another, on the arc between them.

    A straight line would pass through cases that are more typical than both: normal latents of n entries lie close to a
    sphere of radius √n. (White, *Sampling generative networks*, 2016, section 2.1.)

    :param first, last: (latent_size,).
    :param frames: at least 1.
    """
    for index, share in enumerate(np.linspace(0.0, 1.0, frames)):
        yield synthesizer.case(on_arc(first, last, float(share)), f"{index:03d}", {"interpolated": round(share, 4)})


def on_arc(first: np.ndarray, last: np.ndarray, share: float) -> np.ndarray:
    """The latent that ``share`` in [0, 1] of the arc lies behind ``first``; on a line where there is no arc."""
    lengths = np.linalg.norm(first), np.linalg.norm(last)
    cosine = float(np.dot(first, last) / max(lengths[0] * lengths[1], 1e-12))
    angle = float(np.arccos(np.clip(cosine, -1, 1)))
    if angle < 1e-4 or np.pi - angle < 1e-4 or min(lengths) < 1e-6:
        return ((1 - share) * first + share * last).astype(np.float32)
    weights = np.sin((1 - share) * angle) / np.sin(angle), np.sin(share * angle) / np.sin(angle)
    return (weights[0] * first + weights[1] * last).astype(np.float32)


def near(latent: np.ndarray, difference: float, seed: int, index: int) -> np.ndarray:
    """A latent that differs from another by a share of what two latents usually differ by.

    :param latent: (latent_size,).
    :param difference: 0 for the same, 1 for one that has nothing to do with it.
    """
    other = np.random.default_rng([seed, index, 2]).standard_normal(len(latent)).astype(np.float32)
    return (np.sqrt(1 - difference**2) * latent + difference * other).astype(np.float32)
