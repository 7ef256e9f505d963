"""What is compared of two cases: their images, their eigen-directional fields, and what the discriminator sees in them.

A model of whole volumes is compared as a whole. One that was trained on parts is compared as it was trained, by all of
a case coarsely and one part of it finely, so that finding the nearest case takes no more memory than the training did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..networks.build import build_field, field_channels, part_plan, plan_of_critic, seen_alone
from ..networks.parts import start_of_part
from ..structure.field import StructureField, median_trace
from .model_file import Model

Place = tuple[int, ...]
"""First voxel of a part; () where there are no parts."""
Images = tuple[Tensor, ...]
"""Of a batch: (N, C, *grid); or the coarse images and a part of the fine ones."""


class WholeLikeness:
    """All of a case at once.

    :param model: loaded with its critic, if it has one.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.channels = model, len(model.plan.channels)
        self.plan = plan_of_critic(model.plan)
        """Of what is compared as a whole: coarser than the model's own where that makes parts."""
        self.field: StructureField | None = None

    def learn_scales(self, images: Images) -> None:
        """Take the scale of the field's structure from some images that the model made."""
        self.field = _field_of(self.plan, images[0])

    def place(self, drawn: Sequence[float]) -> Place:
        """Where a part lies.

        :param drawn: a number in [0, 1) an axis; 0.5 along each is the middle.
        """
        return ()

    def made(self, latents: Tensor, weights: Tensor | None, place: Place) -> Images:
        """What the model makes of latents (N, latent_size) and class weights (N, classes), as images."""
        return (self.model.generator(latents, *(() if weights is None else (weights,)))[:, : self.channels],)

    def target(self, image: Tensor) -> Callable[[Place], list[Tensor]]:
        """Views of a real image (1, C, *grid) on the grid of the model, by the place of the part."""
        views = self.whole_views(image)
        return lambda place: views

    def views(self, images: Images) -> list[Tensor]:
        """All that is compared, those of the whole first."""
        return self.whole_views(images[0])

    def whole_views(self, image: Tensor) -> list[Tensor]:
        """Image, field and maps of the discriminator's stages."""
        views = [image] if self.field is None else [image, self.field(image)]
        return views if self.model.critic is None else views + self._maps(image)

    @property
    def of_part(self) -> int:
        """How many of the views, the last ones, are of the part."""
        return 0

    def shares(self, count: int) -> list[float]:
        """How much each of ``count`` distances counts: 1 for image and for field, 1 for all maps together."""
        plain = 1 + (self.field is not None)
        maps = count - plain - self.of_part
        return [1.0] * plain + [1 / max(maps, 1)] * maps + [1.0] * self.of_part

    def _maps(self, image: Tensor) -> list[Tensor]:
        critic = self.model.critic
        inputs = seen_alone(self.model.plan, image, critic.tau)
        maps: list[Tensor] = []
        judge = getattr(critic.discriminator, "image", critic.discriminator)
        handles = [stage.register_forward_hook(lambda m, i, output: maps.append(output)) for stage in judge.stages]
        try:
            critic.discriminator.realness(*inputs, labelled=torch.zeros(len(image), device=image.device))
        finally:
            for handle in handles:
                handle.remove()
        return maps


class PartsLikeness(WholeLikeness):
    """The coarse whole and a fine part, see :mod:`GEDGANLib.networks.parts`."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.shape, self.part = tuple(model.plan.grid.shape), tuple(model.plan.training.part)
        self.part_field: StructureField | None = None

    def learn_scales(self, images: Images) -> None:
        super().learn_scales(images)
        self.part_field = _field_of(part_plan(self.model.plan), images[1])

    def place(self, drawn: Sequence[float]) -> Place:
        return tuple(start_of_part(torch.tensor(drawn), self.shape, self.part).tolist())

    def made(self, latents: Tensor, weights: Tensor | None, place: Place) -> Images:
        starts = torch.tensor([place] * len(latents))
        return tuple(case[:, : self.channels] for case in self.model.generator(latents, weights, starts))

    def target(self, image: Tensor) -> Callable[[Place], list[Tensor]]:
        views = self.whole_views(functional.adaptive_avg_pool3d(image, tuple(self.plan.grid.shape)))

        def at(place: Place) -> list[Tensor]:
            part = tuple(slice(start, start + side) for start, side in zip(place, self.part))
            return views + self._part_views(image[(..., *part)])

        return at

    def views(self, images: Images) -> list[Tensor]:
        return self.whole_views(images[0]) + self._part_views(images[1])

    def _part_views(self, part: Tensor) -> list[Tensor]:
        return [part] if self.part_field is None else [part, self.part_field(part)]

    @property
    def of_part(self) -> int:
        return 1 + (self.part_field is not None)


def likeness_of(model: Model) -> WholeLikeness:
    """The comparison that fits how a model was trained."""
    return (PartsLikeness if model.plan.training.volume == "parts" else WholeLikeness)(model)


def distances(views: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Mean absolute differences, (N, views)."""
    return torch.stack([(view - other).abs().flatten(1).mean(1) for view, other in zip(views, wanted)], 1)


def _field_of(plan, images: Tensor) -> StructureField | None:
    if not field_channels(plan):
        return None
    return build_field(plan, median_trace(list(images), plan.field.sigma, plan.field.rho, plan.grid.spacing))
