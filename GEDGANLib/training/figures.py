"""What one step says about the game."""

from __future__ import annotations

import math
from functools import cached_property

from torch import Tensor

from .recording import Reading

STUCK = 1e-12
"""Norm of the generator's gradient below which it learns nothing any more."""


class StepFigures:
    """What one step says about the game; read from the device when they are asked for.

    :param numbers: (6,), in the order of :attr:`NAMES`: the losses of both players; the penalty R1 + R2, before its
        weight, when it was taken last; the gap, mean of D(real) - D(generated), near 0 where the players are even; the
        distance of the generated batch from the data's mean case and field, which wavers around its expectation; the
        norm of the generator's gradient. Too large a step can drive all its outputs to the ends of tanh and softmax,
        where there is none; it never comes back from there by itself.
    """

    NAMES = ("discriminator_loss", "generator_loss", "penalty", "gap", "distance", "gradient")

    def __init__(self, numbers: Tensor) -> None:
        self._reading = Reading(numbers)

    @cached_property
    def named(self) -> dict[str, float]:
        """The figures by name; waits until the step is done."""
        return dict(zip(self.NAMES, self._reading.take()))

    def __getattr__(self, name: str) -> float:
        if name not in self.NAMES:
            raise AttributeError(name)
        return self.named[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepFigures) and self.named == other.named

    __hash__ = None

    def sound(self) -> bool:
        """Whether the game goes on: all are numbers, and the generator still learns."""
        return all(math.isfinite(value) for value in self.named.values()) and self.gradient > STUCK
