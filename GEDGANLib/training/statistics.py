r"""What real cases are like on average, voxel by voxel, and how far generated ones are from it.

With a statistic :math:`T` of a case, its mean :math:`\mu=\mathbb E\,T(x)` and variance over the real cases, the
generator's objective gets the term

.. math::
   L_S = \sum_T \frac{1}{v_T}\,\big\langle \bar T_a-\mu,\ \bar T_b-\mu \big\rangle, \qquad
   v_T = \mathrm{mean}\ \mathrm{Var}\,T(x),

where :math:`\bar T_a, \bar T_b` are the means over two independent halves of the generated batch: the product of two
halves is an unbiased estimate of :math:`\|\mathbb E\,T(G(z))-\mu\|^2`, whereas the square of one mean would also
punish variety. Matching moments of the data: Li, Swersky and Zemel, ICML 2015; of what a discriminator sees: Salimans
et al., NeurIPS 2016, section 3.1. Here T is the case itself and its eigen-directional field, so anatomy cannot wander
away from where the data have it before the discriminator has learned where that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .objectives import Inputs
from .team import Team


@dataclass(frozen=True)
class DataStatistics:
    """Mean of each of the inputs (case, field) over the data, and its variance as one number an input."""

    means: tuple[Tensor, ...]
    variances: tuple[float, ...]

    @classmethod
    def of(cls, batches: Iterable[tuple[Inputs, Tensor, Tensor]], image_channels: int) -> DataStatistics:
        """Go once through the data.

        :param batches: case (N, C + labels, *grid) and its field; which cases are labelled, (N,) bool, the label
            channels of the others being left out; and how often each is drawn, (N,) of any sum.
        """
        sums: list[Tensor] = []
        squares: list[Tensor] = []
        cases = labelled_cases = 0.0
        for inputs, labelled, weights in batches:
            case = inputs[0].clone()
            case[~labelled, image_channels:] = 0
            parts = (case, *inputs[1:])
            cases, labelled_cases = cases + float(weights.sum()), labelled_cases + float(weights[labelled].sum())
            if not sums:
                sums = [torch.zeros_like(part[0]) for part in parts]
                squares = [torch.zeros_like(part[0]) for part in parts]
            for total, square, part in zip(sums, squares, parts):
                weight = weights.to(part).reshape(-1, *[1] * (part.ndim - 1))
                total += (weight * part).sum(0)
                square += (weight * part.square()).sum(0)
        for totals in (sums, squares):
            totals[0][:image_channels] /= cases
            totals[0][image_channels:] /= max(labelled_cases, 1e-12)
            for field in totals[1:]:
                field /= cases
        variances = tuple(
            max(float((square - mean.square()).mean()), 1e-8) for mean, square in zip(sums, squares)
        )  # above 0 also for two equal cases
        return cls(tuple(sums), variances)

    def distance(self, generated: Inputs, team: Team | None = None) -> Tensor:
        """L_S of a generated batch, a scalar; it may be below 0, its expectation is not. 0 for a batch of one case.

        :param team: the processes whose parts make the batch.
        """
        team = team or Team()
        count = len(generated[0]) * team.size
        half = count // 2
        if not half:
            return generated[0].new_zeros(())
        # Cases of the batch's first half among this process's.
        border = min(max(half - team.part(count).start, 0), len(generated[0]))
        terms = []
        for part, mean, variance in zip(generated, self.means, self.variances):
            first = team.sum(part[:border].sum(0)) / half - mean
            second = team.sum(part[border:].sum(0)) / (count - half) - mean
            terms.append((first * second).mean() / variance)
        return torch.stack(terms).sum()
