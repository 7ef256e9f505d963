"""What the players look at of a case: the whole, or the whole coarsely and a part finely.

A view turns batches into tensors, lets the generator make the same of latents, changes both alike and gives the
discriminator's inputs. ``Trainer`` plays the same game on either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..networks.blocks import channels_last
from ..networks.build import (
    build_agreement,
    build_discriminator,
    build_field,
    build_whitening,
    coarse_plan,
    field_channels,
    part_plan,
    seen,
)
from ..networks.discriminator import Critic
from ..networks.parts import start_of_part
from ..planning.plan import Plan
from ..planning.words import AUGMENTATIONS
from ..structure.field import median_trace
from ..volumes.case import Case
from ..volumes.pipeline import WorkingCase, coarse_of
from . import blind_changes
from .augmentation import Augmentation, Drawn, apply
from .blind_changes import Changes
from .loading import Batch
from .objectives import Inputs
from .sampling import Draws

Cases = tuple[Tensor, ...]
"""A batch: the case (N, C + labels, *grid); or the coarse case and a part of the fine one."""

STILL = tuple(kind for kind in AUGMENTATIONS if kind not in ("shift", "scale", "rotation"))
"""Changes that leave everything in its place: a part that moved would no longer be where it says."""


class WholeView:
    """All of a case at once.

    :param cases: some of the training cases, from which the scale of the field's structure is taken.
    """

    part: tuple[int, ...] | None = None

    def __init__(self, plan: Plan, cases: Sequence[WorkingCase], device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.channels = len(plan.channels)
        images = [torch.from_numpy(np.array(image)) for image in self._whole_images(cases)]
        self.tau = median_trace(images, plan.field.sigma, plan.field.rho, plan.grid.spacing)
        self.field, self.agreement = build_field(plan, self.tau), build_agreement(plan, self.tau)
        self.whitening = build_whitening(plan)
        self.augmentation = Augmentation(plan.augmentation.kinds, plan.augmentation.flips, plan.grid.shape)

    def _whole_images(self, cases: Sequence[WorkingCase]) -> Iterator[np.ndarray]:
        return (case.image for case in cases)

    def starts(self, draws: Draws, step: int) -> Tensor | None:
        """Where the parts of a step's batch begin, (batch, D); None where there are no parts."""
        return None

    def discriminator(self) -> nn.Module:
        return build_discriminator(self.plan)

    def real(self, batch: Batch) -> Cases:
        """The cases of a batch, labels as probabilities, on the device."""
        return (self._case(batch.images, self._one_hot(batch.labels)),)

    def generated(self, network: nn.Module, latents: Tensor, classes: tuple[Tensor, ...], batch: Batch) -> Cases:
        """Cases from latents; where batches tell what scans saw, each sees as much as the one it is paired with."""
        cases = network(latents, *classes).float()
        if batch.fields is not None:
            cases = seen_alike(cases, batch.fields.to(self.device), self.channels)
        return (cases,)

    def as_tensors(self, drawn: Drawn) -> Changes:
        """The changes for a step that is recorded."""
        return blind_changes.as_tensors(drawn, self.plan.grid.shape, self.plan.grid.spacing, self.device)

    def changed(self, cases: Cases, drawn: Drawn | Changes) -> Cases:
        """The cases changed as drawn."""
        if isinstance(drawn, Drawn):
            changed = apply(cases[0], drawn, self.channels, self.plan.grid.spacing)
        else:
            changed = blind_changes.apply(cases[0], drawn, self.channels, self.plan.augmentation.flips)
        return (changed.to(memory_format=channels_last(self.plan.spatial_dims)),)

    def seen(self, cases: Cases) -> Inputs:
        """What the discriminator sees of the cases."""
        return seen(cases[0], self.field, self.agreement, self.channels, self.whitening)

    def also_shown(self, batch: Batch) -> dict[str, Tensor]:
        """What the discriminator is told besides."""
        return {}

    def with_a_mean(self, inputs: Inputs) -> Inputs:
        """What has a mean over all cases, with labels or without: the case and its field."""
        if self.agreement is None:
            return inputs
        count = field_channels(self.plan)
        return (inputs[0], inputs[1][:, :count]) if count else inputs[:1]

    def critic(self, discriminator: nn.Module, batches) -> Critic:
        """The judge of whole cases, with what it makes of the real ones' images."""
        judge = self.of_whole(discriminator)
        maps = []
        for batch in batches:
            nothing = torch.zeros(len(batch.labelled), device=self.device)
            maps.append(judge.realness(*self.seen(self.real(batch)), labelled=nothing))
        realness = torch.cat(maps)
        # A floor for places where all cases are alike, air for example.
        deviation = realness.std(0, correction=0)
        floor = 0.05 * float(deviation.max())
        return Critic(judge, self.tau, realness.mean(0), deviation.clamp_min(floor))

    def of_whole(self, discriminator: nn.Module) -> nn.Module:
        """The part of the discriminator that judges whole cases, and can be asked where it doubts them."""
        return discriminator

    def sketch(self, network: nn.Module, latents: Tensor, classes: tuple[Tensor, ...]) -> Tensor:
        """Cases from latents on the grid of :attr:`plan`, to look at during a training."""
        return network(latents, *classes).float()

    def real_sketch(self, case: WorkingCase) -> Case:
        """A training case on the same grid."""
        return Case(case.name, case.image, case.labels, case.affine, tuple(self.plan.labels))

    def _one_hot(self, labels: Tensor) -> Tensor | None:
        if not self.plan.labels:
            return None
        index = labels.to(self.device).long()[:, None]
        empty = torch.zeros(len(labels), len(self.plan.labels) + 1, *labels.shape[1:], device=self.device)
        return empty.scatter_(1, index, 1.0)

    def _case(self, image: Tensor, labels: Tensor | None) -> Tensor:
        image = image.to(self.device, non_blocking=self.device.type == "cuda")
        case = image if labels is None else torch.cat([image, labels], 1)
        return case.to(memory_format=channels_last(self.plan.spatial_dims))


class PartsView(WholeView):
    """The coarse whole and a fine part, see ``networks.parts``."""

    def __init__(self, plan: Plan, cases: Sequence[WorkingCase], device: torch.device) -> None:
        self.fine_plan, self.full_shape = part_plan(plan), plan.grid.shape
        super().__init__(coarse_plan(plan), cases, device)
        self.part = tuple(plan.training.part)
        # The middle of a volume holds what it is about; tau is a median, not a bound.
        place = _middle(self.full_shape, self.part)
        middles = [torch.from_numpy(np.array(case.image[(slice(None), *place)])) for case in cases]
        self.part_tau = median_trace(middles, plan.field.sigma, plan.field.rho, plan.grid.spacing)
        self.part_field = build_field(self.fine_plan, self.part_tau)
        self.part_agreement = build_agreement(self.fine_plan, self.part_tau)
        kinds = tuple(kind for kind in plan.augmentation.kinds if kind in STILL)
        self.augmentation = Augmentation(kinds, (), self.part)
        self._full_plan = plan

    def _whole_images(self, cases: Sequence[WorkingCase]) -> Iterator[np.ndarray]:
        return ((case.coarse or coarse_of(case, len(self.plan.labels)))[0] for case in cases)

    def starts(self, draws: Draws, step: int) -> Tensor | None:
        """Where the parts begin, (batch, D), see ``parts.start_of_part``."""
        random = draws.of("places", step)
        drawn = torch.rand(self._full_plan.training.batch, len(self.part), generator=random)
        return start_of_part(drawn, self.full_shape, self.part)

    def discriminator(self) -> nn.Module:
        return build_discriminator(self._full_plan)

    def real(self, batch: Batch) -> Cases:
        labels = batch.labels.to(self.device).float() if self.plan.labels else None
        whole = self._case(batch.images, labels)
        if batch.part_images is None:
            return (whole,)
        return whole, self._case(batch.part_images, self._one_hot(batch.part_labels))

    def generated(self, network: nn.Module, latents: Tensor, classes: tuple[Tensor, ...], batch: Batch) -> Cases:
        whole, part = network(latents, *(classes or (None,)), batch.starts)
        return whole.float(), part.float()

    def changed(self, cases: Cases, drawn: Drawn) -> Cases:
        # The coarse whole gets the same intensities; noise averages out in it, and it keeps what is cut from the part.
        coarse = replace(drawn, noise=torch.zeros_like(drawn.noise), cut_end=drawn.cut_start)
        pairs = zip(cases, (coarse, drawn), (self.plan.grid.spacing, self.fine_plan.grid.spacing))
        layout = channels_last(self.plan.spatial_dims)
        return tuple(
            apply(case, each, self.channels, spacing).to(memory_format=layout) for case, each, spacing in pairs
        )

    def seen(self, cases: Cases) -> Inputs:
        whole = seen(cases[0], self.field, self.agreement, self.channels)
        if len(cases) == 1:
            return whole
        part = seen(cases[1], self.part_field, self.part_agreement, self.channels)
        return (whole[0], part[0], *whole[1:], *part[1:])

    def also_shown(self, batch: Batch) -> dict[str, Tensor]:
        return {"starts": batch.starts.to(self.device)}

    def with_a_mean(self, inputs: Inputs) -> Inputs:
        """Of the coarse whole."""
        if len(inputs) <= 2:  # without a part: the case and its field
            return super().with_a_mean(inputs)
        return super().with_a_mean((inputs[0], inputs[2]))

    def of_whole(self, discriminator: nn.Module) -> nn.Module:
        return discriminator.whole

    def sketch(self, network: nn.Module, latents: Tensor, classes: tuple[Tensor, ...]) -> Tensor:
        return network.stem.read_out(network.coarse(latents, *classes)[1]).float()

    def real_sketch(self, case: WorkingCase) -> Case:
        image, shares = case.coarse or coarse_of(case, len(self.plan.labels))
        labels = None if case.labels is None else shares.argmax(0).astype(np.uint8)
        return Case(case.name, image, labels, self.plan.grid.affine, tuple(self.plan.labels))


def seen_alike(cases: Tensor, fields: Tensor, image_channels: int) -> Tensor:
    """The cases as scans of such fields of view are brought to the grid: beyond them the image's edge is repeated, and
    all is background.

    Crops differ in size, and stripes of repeated edges are no anatomy: a judge takes them for a mark of real cases.

    :param cases: (N, image_channels + labels, *grid).
    :param fields: (N, D, 2), first and last voxel along each axis.
    """
    dims = cases.ndim - 2
    outside = torch.zeros(len(cases), 1, *cases.shape[2:], dtype=torch.bool, device=cases.device)
    for axis in range(dims):
        side = cases.shape[axis + 2]
        along = torch.arange(side, device=cases.device)
        index = along.clamp(fields[:, axis, :1], fields[:, axis, 1:])
        spread = [len(cases), 1, *[side if other == axis else 1 for other in range(dims)]]
        outside = outside | (index != along).reshape(spread)
        cases = cases.gather(axis + 2, index.reshape(spread).expand(-1, *cases.shape[1:]))
    if cases.shape[1] == image_channels:
        return cases
    background = torch.zeros_like(cases[:1, image_channels:])
    background[:, 0] = 1
    labels = torch.where(outside, background, cases[:, image_channels:])
    return torch.cat([cases[:, :image_channels], labels], 1)


def _middle(shape, part) -> tuple[slice, ...]:
    starts = [(whole - side) // 2 for whole, side in zip(shape, part)]
    return tuple(slice(start, start + side) for start, side in zip(starts, part))


def view_of(plan: Plan, cases: Sequence[WorkingCase], device: torch.device) -> WholeView:
    """The view that a plan asks for; parameters as for :class:`WholeView`."""
    return (PartsView if plan.training.volume == "parts" else WholeView)(plan, cases, device)
