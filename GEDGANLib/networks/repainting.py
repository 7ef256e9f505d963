r"""The second generator, latent -> case: deform, then repaint.

.. math:: G(z,w)=m(z)+\big(s\circ\varphi(z)^{-1}\big)\,R\big(m(z),\varepsilon(w),a\circ\varphi(z)^{-1},w\big)

with the statistical case m of :mod:`.statistical`, whose anatomy is that of the population from the first step on, and
the refiner R of :mod:`.refiner`; a is how strong its noise is at each place of the template. The labels are those of
m: they are deformed and never repainted. s is 0 at places of the template that no scan saw and 1 where :data:`OFTEN`
of them did: where nothing is judged, what is painted would be anything. Nor is anything painted where the statistical
case is at an end of the range of intensities, as in the air beside a head: others are brighter there, so that σ is not
0, but noise about an end is cut on one side, and would be a haze.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..alignment.sampling import identity, sample_linear, shape_of_at_most
from .blocks import full_precision
from .noise import Residuals
from .refiner import Refiner
from .statistical import StatisticalGenerator

OFTEN = 0.5
"""Share of the scans that have to see a place so that it is painted wholly."""
LARGEST = 24**3
"""Places of the template at which noise is told apart."""
VARIES = (0.005, 0.02)
"""Root of the mean square difference of cases from their statistical ones up to which a refiner of before paints
nothing, and from which it paints wholly: a four hundredth and a hundredth of the range of intensities."""
AT_AN_END = 0.02
"""How near an end of the range of intensities, a hundredth of its length, less and less is painted."""
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


def amplitude_shape(shape: Sequence[int], extent: Sequence[float]) -> tuple[int, ...]:
    """Grid over the box on which amplitudes of noise are kept, at most half as fine as the working grid."""
    return shape_of_at_most(min(LARGEST, max(math.prod(shape) >> len(shape), 1)), shape, extent)


class RepaintingGenerator(nn.Module):
    """See the module's text; the latent is the scores of the modes and, behind them, the refiner's share.

    :param statistical: filled by its ``take``; nothing in it learns.
    """

    def __init__(self, statistical: StatisticalGenerator, refiner: Refiner) -> None:
        super().__init__()
        self.statistical, self.refiner = statistical, refiner
        # Given by take, as all that the statistical part holds.
        self.painted = nn.Parameter(torch.ones(1, *statistical.template.shape[1:]), requires_grad=False)
        levels, shape = len(refiner.noise), amplitude_shape(statistical.shape, statistical.extent)
        channels = len(statistical.template)
        self.amplitudes = nn.Parameter(torch.zeros(channels, levels, *shape), requires_grad=False)
        self.scale = nn.Parameter(torch.zeros(channels, *shape), requires_grad=False)
        self.taps = nn.Parameter(torch.zeros(len(shape)), requires_grad=False)
        self.coarse = nn.Parameter(torch.zeros(()), requires_grad=False)

    @torch.no_grad()
    def take(self, statistical: StatisticalGenerator, seen: Tensor, residuals: Residuals | None = None) -> None:
        """Fill it.

        :param seen: share of the scans that saw each place of the template, (*any grid).
        :param residuals: on a grid of :func:`amplitude_shape`; where they are not known, no noise is added and nothing
            is painted.
        """
        self.statistical = statistical
        here = identity(self.painted.shape[1:], statistical.extent, seen)
        seen = sample_linear(seen[None, None], here, statistical.extent)
        self.painted.copy_((seen[0] / OFTEN).clamp(0, 1).half())  # as it is kept
        if residuals is not None:
            self.amplitudes.copy_(residuals.amplitudes.half()), self.scale.copy_(residuals.scale.half())
            self.taps.copy_(residuals.taps), self.coarse.copy_(residuals.coarse)
            if not self.refiner.relative:  # which has no other way to leave the air alone
                least, most = VARIES
                varies = ((residuals.scale.amax(0) - least) / (most - least)).clamp(0, 1)
                varies = sample_linear(varies[None, None].to(here), here, statistical.extent)[0]
                self.painted.copy_((self.painted * varies.to(self.painted)).half())

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
        with full_precision(latent.device):
            known = self._at(positions, torch.cat([self.amplitudes.flatten(0, 1), self.scale]))
        amplitudes, scale = known[:, :-channels].unflatten(1, self.amplitudes.shape[:2]), known[:, -channels:]
        residuals = Residuals(amplitudes, self.taps, self.coarse, scale)
        paint = self.refiner(case, positions, latent[:, count:], residuals, class_weights)
        with full_precision(latent.device):
            paint = paint * self._at(positions, self.painted)
            if self.refiner.relative:
                paint = paint * ((1 - case[:, :channels].abs()) / AT_AN_END).clamp(0, 1)
            return torch.cat([within_range(case[:, :channels] + paint), case[:, channels:]], 1)

    def share(self, other: RepaintingGenerator) -> None:
        """Hold what another was given, which does not learn, and no copy of it."""
        self.statistical = other.statistical
        for name, _ in list(self.named_parameters(recurse=False)):
            setattr(self, name, getattr(other, name))

    def _at(self, positions: Tensor, on_template: Tensor) -> Tensor:
        """What lies on the template, (C, *grid), where the voxels of cases lie, (N, C, *shape)."""
        return sample_linear(on_template[None].expand(len(positions), *on_template.shape), positions, self.extent)

    @property
    def extent(self) -> tuple[float, ...]:
        return self.statistical.extent

    def brought_up_to_date(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file, with what models were written without at first, when the refiner added no such noise,
        and changed what is coarse too, and had no units: what it makes is the same."""
        tensors = {"scale": torch.zeros_like(self.scale), **tensors}
        if "amplitudes" in tensors:
            return tensors
        found = {**tensors, "amplitudes": torch.zeros_like(self.amplitudes), "taps": torch.zeros_like(self.taps)}
        found["coarse"] = torch.ones_like(self.coarse)
        for name in ("refiner.output.weight", "refiner.output.bias"):
            whole = torch.zeros_like(self.get_parameter(name))
            if name in found and found[name].shape[1:] == whole.shape[1:] and len(found[name]) < len(whole):
                whole[: len(found[name])] = found[name]
                found[name] = whole
        return found

    def kept(self) -> dict[str, Tensor]:
        """The state as it is written to a file."""
        statistical = {f"statistical.{name}": value for name, value in self.statistical.kept().items()}
        statistical |= {"painted": self.painted.half(), "amplitudes": self.amplitudes.half()}
        statistical |= {"scale": self.scale.half()}
        statistical |= {"taps": self.taps, "coarse": self.coarse}
        return statistical | {f"refiner.{name}": value for name, value in self.refiner.state_dict().items()}
