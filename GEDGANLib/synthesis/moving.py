"""A scan that follows sliders: coarsely while they move, on its own voxels when they rest."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import torch

from ..alignment.sampling import LabelImage, shape_of_at_most, shrink
from ..alignment.variations import NODES_IN_A_HURRY, ORDER_IN_A_HURRY, Scan
from ..volumes.case import Case, description_of_variation
from ..volumes.geometry import spacing_of
from .directions import Direction
from .variations import Place, Variations, changing, key_of, origin_of, told_of
from .wish import Wish

QUICK = 64**3
"""Voxels that follow a slider at most."""
KINDS = ("modes", "column")
"""Of directions, those that move the anatomy by modes."""


class MovingScan:
    """See the module's text.

    :param place: where it lies on the template.
    :param directions: of the model; the others than :data:`KINDS` are left aside.
    :param digest: of the scan's image, for what variations say of themselves.
    """

    def __init__(
        self, variations: Variations, case: Case, place: Place, directions: list[Direction], digest: str
    ) -> None:
        self.variations, self.case, self.place, self.digest = variations, case, place, digest
        self.directions = [direction for direction in directions if direction.kind in KINDS]
        small = coarser(case, QUICK)
        self._small = small
        self._quick = variations.scan(place, small, order=ORDER_IN_A_HURRY, spacing=NODES_IN_A_HURRY)
        self._whole: Scan | None = None
        self._modes = self._quick.subject.population.modes.count

    def coarse(self, wish: Wish, index: int = 0) -> Case:
        """The variation while sliders move: at once, on voxels that may be larger."""
        request = wish.request(self.directions, self._modes)
        variation = self._quick.subject.varied(request, key_of(wish.seed, self.case.name, index))
        image, labels = self._quick.varied(variation)
        about = description_of_variation(self.case.name)
        return replace(self._small, image=image, labels=labels, description=about)

    def fine(self, wish: Wish, index: int = 0, name: str = "") -> Generator[float, None, Case]:
        """The variation on the scan's own voxels, in steps: yields the share that is done."""
        if self._whole is None:
            self._whole = self.variations.scan(self.place, self.case)
        request = wish.request(self.directions, self._modes)
        variation = self._whole.subject.varied(request, key_of(wish.seed, self.case.name, index))
        yield 0.0
        made = yield from changing(self.case, self._whole, variation, name or self.case.name)
        model = self.variations.model
        scan = (self.case.name, self.digest, self.place)
        origin = origin_of(model, *scan, wish.seed, index, request, frozenset())
        values = {"sliders": dict(wish.values)} if wish.values else {}
        return replace(made, provenance=origin | values | told_of(variation))


def coarser(case: Case, voxels: int) -> Case:
    """A case on voxels so much larger that it has no more than so many; itself where it has not."""
    shape = case.image.shape[1:]
    extent = tuple(float(side * step) for side, step in zip(shape, spacing_of(case.affine)))
    small = shape_of_at_most(voxels, shape, extent)
    if small == tuple(shape):
        return case
    factors = np.array(shape) / np.array(small)
    scaled = np.diag([*factors, 1.0])
    scaled[:3, 3] = (factors - 1) / 2
    image = shrink(torch.from_numpy(np.array(case.image, np.float32))[None], small)[0].numpy()
    labels = None
    if case.labels is not None:
        axes = [(torch.arange(side) + 0.5) * factor - 0.5 for side, factor in zip(small, factors.tolist())]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij")).float()
        labels = LabelImage(torch.from_numpy(np.array(case.labels))).at(index).numpy()
    return replace(case, image=image, labels=labels, affine=case.affine @ scaled)
