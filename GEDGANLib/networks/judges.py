"""Two judges for the second generator: one of the image, one of the eigen-directional field of the image alone.

Each has its own pairing and its own penalty, for which the field is a leaf. As further channels of one judge the field
slowed the image down; as a judge of its own it sharpens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .discriminator import Discriminator


class Judges(nn.Module):
    """See the module's text.

    :param image: takes neither labels nor field.
    :param field: takes the field alone; None for the judge of the image alone.
    """

    def __init__(self, image: Discriminator, field: Discriminator | None) -> None:
        super().__init__()
        self.image, self.field = image, field

    def forward(
        self,
        case: Tensor,
        field: Tensor | None = None,
        labelled: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Return how real image and field of each case are, shape (N, 2), or (N, 1) without a judge of the field.

        Parameters as for :class:`.discriminator.Discriminator`; labels are not looked at.
        """
        judged = [self.image(self._image_of(case), class_weights=class_weights)]
        if self.field is not None:
            judged.append(self.field(None, field, class_weights=class_weights))
        return torch.stack(judged, 1)

    def first_parts(self, stages: int) -> list[nn.Module]:
        """Those of both, see :meth:`.discriminator.Discriminator.first_parts`."""
        return [part for judge in self.children() for part in judge.first_parts(stages)]

    def realness(self, case: Tensor, field: Tensor | None = None, labelled: Tensor | None = None) -> Tensor:
        """What each place adds to the judgement of the image, see :meth:`.discriminator.Discriminator.realness`."""
        return self.image.realness(self._image_of(case))

    def _image_of(self, case: Tensor) -> Tensor:
        return case[:, : self.image.image_channels]
