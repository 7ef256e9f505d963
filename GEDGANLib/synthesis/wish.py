"""What somebody asks of a variation; PyTorch is not needed to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Wish:
    """What somebody asks of a variation.

    :param values: standard deviations along directions, by their names.
    """

    strength: float = 1.0
    look: float = 1.0
    seed: int = 0
    values: Mapping[str, float] | None = None

    def request(self, directions: Sequence[Any], modes: int) -> Any:
        """For :class:`GEDGANLib.alignment.variations.Subject`.

        :param directions: of the model, :class:`.directions.Direction`.
        :param modes: how many it has.
        :raises InputError: no such direction.
        """
        from ..alignment.variations import Request
        from .directions import choose

        sliders = np.zeros(modes)
        for name, value in (self.values or {}).items():
            sliders += value * np.array(choose(directions, name).latent)
        return Request(self.strength, self.look, sliders if sliders.any() else None)
