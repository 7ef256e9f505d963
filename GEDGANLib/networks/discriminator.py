"""Case and eigen-directional field of its image -> how real: one number, or one for the image and one for the pair."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import phases
from .blocks import ResidualBlock, check_shape, convolution, downsample, full_precision, leaky, strides_of


class Critic(NamedTuple):
    """A trained discriminator and what it makes of real cases.

    :param tau: of its field, (intensity/mm)².
    :param mean: of its ``realness`` over the training cases, without their labels, (*coarse).
    :param deviation: standard deviation of the same, (*coarse), above 0.
    """

    discriminator: Discriminator | SeparateHeads
    tau: float
    mean: Tensor
    deviation: Tensor


class Discriminator(nn.Module):
    """Norm-free residual discriminator for 2D and 3D.

    Image and label channels are packed to half resolution by one overlapping strided convolution: more than one at
    full resolution would cost more than all others together. The field arrives at the resolution of the stage that it
    enters (its averaging makes it band-limited). Labels can be shut for a case, which then is judged by its image
    alone, through the same network: an all-zero label vector, not even background, says so.

    :param spatial_dims: 2 or 3.
    :param shape: voxels of the input grid, every side a multiple of the product of its strides.
    :param image_channels: image channels of the input; 0, and no labels, where it judges a field alone.
    :param label_count: labels without background; 0 for none.
    :param field_channels: channels of the field; 0 for none.
    :param agreement_channels: channels behind those of the field that say how image and labels agree, and are shut
        together with the labels; 0 for none.
    :param field_stage: which stage the field enters.
    :param widths: channels a stage, finest first; the first stage has half the resolution of the input.
    :param class_count: classes to condition on (projection, Miyato and Koyama, ICLR 2018); 0 for none.
    :param blocks: residual blocks a stage.
    :param strides: how each stage divides the grid, finest first, see ``blocks.strides_of``; 2 along every axis when
        not given.
    :raises ValueError: a side of ``shape`` is not such a multiple.
    """

    def __init__(
        self,
        spatial_dims: int,
        shape: Sequence[int],
        image_channels: int,
        label_count: int,
        field_channels: int,
        widths: Sequence[int],
        class_count: int = 0,
        agreement_channels: int = 0,
        field_stage: int = 0,
        blocks: int = 1,
        strides: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        self.strides = strides_of(len(widths), spatial_dims, strides)
        coarse_shape = check_shape(shape, self.strides)
        self.image_channels = image_channels
        total_blocks = blocks * len(widths)
        case_channels = image_channels + (label_count + 1 if label_count else 0)
        # Overlapping where it packs, plain along axes that are left as they are.
        kernel = tuple(stride + 2 for stride in self.strides[0])
        packing = {"stride": self.strides[0], "padding": 1}
        self.pack = convolution(spatial_dims, case_channels, widths[0], kernel, **packing) if case_channels else None
        self.field_stage = field_stage
        self.field_channels, self.agreement_channels = field_channels, agreement_channels
        entering = field_channels + agreement_channels
        self.enter_field = convolution(spatial_dims, entering, widths[field_stage], 1, bias=False) if entering else None
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(spatial_dims, width, total_blocks) for _ in range(blocks)))
            for width in widths
        )
        self.transitions = nn.ModuleList(
            convolution(spatial_dims, before, after, 1) for before, after in itertools.pairwise(widths)
        )
        # One learned pattern a channel instead of a dense layer over all voxels: as many weights, far fewer products.
        self.basis = nn.Parameter(torch.randn(1, widths[-1], *coarse_shape) / torch.tensor(coarse_shape).prod().sqrt())
        self.logit = nn.Linear(widths[-1], 1)
        self.class_embedding = nn.Linear(class_count, widths[-1], bias=False) if class_count else None

    def forward(
        self,
        case: Tensor | None,
        field: Tensor | None = None,
        labelled: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Return how real each case is, shape (N,); only differences mean something in the relativistic objective.

        :param case: (N, image_channels + label_count + 1, *shape), as the generator returns it; None where the field
            alone is judged.
        :param field: (N, field_channels + agreement_channels, *shape / 2 ** (field_stage + 1)).
        :param labelled: (N,), 1 where the labels count and 0 where the image alone is judged; all 1 when not given.
        :param class_weights: (N, class_count), one-hot.
        """
        contributions = self._contributions(case, field, labelled)
        pooled = contributions.flatten(2).sum(2)
        with full_precision(pooled.device):  # differences of logits are what counts, and they get small
            logit = self.logit(pooled).squeeze(1)
            if self.class_embedding is not None:
                logit = logit + (pooled * self.class_embedding(class_weights)).sum(1)
        return logit

    def first_parts(self, stages: int) -> list[nn.Module]:
        """All that a case passes before it leaves the first ``stages`` stages; nothing for 0."""
        entry = [self.enter_field] if self.enter_field is not None and self.field_stage < stages else []
        entry = entry if self.pack is None else [self.pack, *entry]
        return [*entry, *self.stages[:stages], *self.transitions[: stages - 1]] if stages else []

    def realness(self, case: Tensor, field: Tensor | None = None, labelled: Tensor | None = None) -> Tensor:
        """What each place adds to the judgement, (N, *coarse): summed over all places, plus the bias, it is the logit.

        The last maps are pooled and weighted linearly, so that the logit falls apart into places exactly, as in the
        class activation maps of Zhou et al. (CVPR 2016). A place is ``2 ** len(widths)`` voxels along each axis and
        has seen its surroundings. Parameters as for the call; a class, if the network has one, is left out.
        """
        weights = self.logit.weight.reshape(1, -1, *[1] * (case.ndim - 2))
        return (self._contributions(case, field, labelled) * weights).sum(1)

    def _contributions(self, case: Tensor | None, field: Tensor | None, labelled: Tensor | None) -> Tensor:
        """The last maps times the learned patterns, (N, widths[-1], *coarse)."""
        if labelled is not None and case is not None and case.shape[1] > self.image_channels:
            shown = labelled.reshape(-1, *[1] * (case.ndim - 1)).to(case.dtype)
            case = torch.cat([case[:, : self.image_channels], case[:, self.image_channels :] * shown], 1)
            if self.agreement_channels:
                field = torch.cat([field[:, : self.field_channels], field[:, self.field_channels :] * shown], 1)
        x = 0.0 if self.pack is None else self._packed(case)
        for index, stage in enumerate(self.stages):
            if index:
                x = self._transition(index, x)
            if self.enter_field is not None and index == self.field_stage:
                x = x + self.enter_field(field)
            x = stage(x)
        return leaky(x) * self.basis

    def _packed(self, case: Tensor) -> Tensor:
        if phases.pays(case, self.strides[0]):
            return phases.packing_convolution(case, self.pack.weight, self.pack.bias)
        return self.pack(case)

    def _transition(self, index: int, x: Tensor) -> Tensor:
        """From one stage to stage ``index``."""
        layer = self.transitions[index - 1]
        if phases.pays(x, self.strides[index]):
            return phases.pooling_convolution(x, layer.weight, layer.bias)
        return layer(downsample(x, self.strides[index]))


class SeparateHeads(nn.Module):
    """Two discriminators: one judges the image and learns from all cases, one the pair and learns from labelled ones.

    A pair head that sees the field alone cannot know a few labelled cases by their intensities: what is left to it is
    whether labels and structure agree.

    :param image: takes no labels.
    :param pair: takes labels; it sees the image if it has image channels, and the field if it has field channels.
    """

    def __init__(self, image: Discriminator, pair: Discriminator) -> None:
        super().__init__()
        self.image, self.pair = image, pair

    def forward(
        self,
        case: Tensor,
        field: Tensor | None = None,
        labelled: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Return how real image and pair of each case are, shape (N, 2); the latter is 0 for a case without labels.

        Parameters as for :class:`Discriminator`.
        """
        image = self.image(*self._of_image(case, field), class_weights=class_weights)
        seen = case if self.pair.image_channels else case[:, self.image.image_channels :]
        if self.pair.enter_field is None:
            field = None
        elif not self.pair.field_channels:
            field = field[:, self.image.field_channels :]
        pair = self.pair(seen, field, class_weights=class_weights)
        return torch.stack([image, pair if labelled is None else pair * labelled], 1)

    def first_parts(self, stages: int) -> list[nn.Module]:
        """Those of both, see :meth:`Discriminator.first_parts`."""
        return [*self.image.first_parts(stages), *self.pair.first_parts(stages)]

    def realness(self, case: Tensor, field: Tensor | None = None, labelled: Tensor | None = None) -> Tensor:
        """What each place adds to the judgement of the image, see :meth:`Discriminator.realness`."""
        return self.image.realness(*self._of_image(case, field))

    def _of_image(self, case: Tensor, field: Tensor | None) -> tuple[Tensor, Tensor | None]:
        fields = self.image.field_channels
        return case[:, : self.image.image_channels], field[:, :fields] if fields else None
