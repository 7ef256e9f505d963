r"""The second generator, latent -> case: deform, then repaint.

.. math:: G(z,w)=m(z)+\big(s\circ\varphi(z)^{-1}\big)\,R\big(m(z),\varepsilon(w),w\big)

with the statistical case m of :mod:`.statistical`, whose anatomy is that of the population from the first step on, and
the refiner R of :mod:`.refiner`. The labels are those of m: they are deformed and never repainted. s is 0 at places of
the template that no scan saw and 1 where :data:`OFTEN` of them did: where nothing is judged, what is painted would be
anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..alignment.sampling import identity, sample_linear
from .blocks import full_precision
from .refiner import Refiner
from .statistical import StatisticalGenerator

OFTEN = 0.5
"""Share of the scans that have to see a place so that it is painted wholly."""
BEYOND = 0.1
"""Slope, for the gradient alone, of an intensity beyond the ends of [-1, 1]."""


def within_range(image: Tensor) -> Tensor:
    """The image cut to [-1, 1] exactly, as real ones are; what lies beyond still learns.

    A tanh stays short of the ends, by which a judge tells what was made.
    """
    cut = image.clamp(-1, 1)
    if not image.requires_grad:
        return cut
    beyond = BEYOND * (image - cut)
    return cut + (beyond - beyond.detach())


class RepaintingGenerator(nn.Module):
    """See the module's text; the latent is the scores of the modes and, behind them, the refiner's share.

    :param statistical: filled by its ``take``; nothing in it learns.
    """

    def __init__(self, statistical: StatisticalGenerator, refiner: Refiner) -> None:
        super().__init__()
        self.statistical, self.refiner = statistical, refiner
        # Given by take, as all that the statistical part holds.
        self.painted = nn.Parameter(torch.ones(1, *statistical.template.shape[1:]), requires_grad=False)

    @torch.no_grad()
    def take(self, statistical: StatisticalGenerator, seen: Tensor) -> None:
        """Fill it.

        :param seen: share of the scans that saw each place of the template, (*any grid).
        """
        self.statistical = statistical
        here = identity(self.painted.shape[1:], statistical.extent, seen)
        seen = sample_linear(seen[None, None], here, statistical.extent)
        self.painted.copy_((seen[0] / OFTEN).clamp(0, 1).half())  # as it is kept

    @property
    def class_count(self) -> int:
        return self.statistical.class_count

    def deformed(self, latent: Tensor, class_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The statistical case (N, C + L + 1, *shape) of scores (N, K), and where its voxels lie on the template, mm.

        Nothing in it learns: gradients are kept where the latent itself asks for them.
        """
        statistical = self.statistical
        with torch.set_grad_enabled(torch.is_grad_enabled() and latent.requires_grad), full_precision(latent.device):
            scores = statistical.scores(latent.float(), class_weights)
            positions = statistical.transformations(scores).positions(statistical.shape, inverse=True)
            return statistical.deformed(*statistical.on_template(scores), positions), positions

    def forward(self, latent: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return a case for each latent.

        :param latent: (N, K + W), standard normal.
        :param class_weights: (N, class_count), one-hot or a mixture; zeros for none in particular.
        :returns: (N, image_channels + label_count + 1, *shape): images within [-1, 1], then label probabilities.
        """
        count, channels = len(self.statistical.generators), len(self.statistical.template)
        case, positions = self.deformed(latent[:, :count], class_weights)
        paint = self.refiner(case, positions, latent[:, count:], class_weights)
        with full_precision(latent.device):
            where = self.painted[None].expand(len(case), *self.painted.shape)
            paint = paint * sample_linear(where, positions, self.statistical.extent)
            return torch.cat([within_range(case[:, :channels] + paint), case[:, channels:]], 1)

    def kept(self) -> dict[str, Tensor]:
        """The state as it is written to a file."""
        statistical = {f"statistical.{name}": value for name, value in self.statistical.kept().items()}
        statistical["painted"] = self.painted.half()
        return statistical | {f"refiner.{name}": value for name, value in self.refiner.state_dict().items()}
