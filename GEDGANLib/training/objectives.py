r"""The objectives of the two players.

With :math:`\tilde x = G(z)`, inputs :math:`u=[x,\mathcal E(x)]`, :math:`\tilde u=[\tilde x,\mathcal E(\tilde x)]`,
logits :math:`D(u)` and :math:`\Delta = D(u) - D(\tilde u)`, both players minimise

============  =================================================================  =======================================
objective     :math:`L_D`, expectation over the batch                            :math:`L_G`
============  =================================================================  =======================================
relativistic  :math:`\mathrm{softplus}(-\Delta)`                                 :math:`\mathrm{softplus}(\Delta)`
bce           :math:`\mathrm{softplus}(-D(u)) + \mathrm{softplus}(D(\tilde u))`  :math:`\mathrm{softplus}(-D(\tilde u))`
hinge         :math:`\max(0, 1 - D(u)) + \max(0, 1 + D(\tilde u))`               :math:`-D(\tilde u)`
wasserstein   :math:`-\Delta`                                                    :math:`-D(\tilde u)`
article       :math:`p(u) + 1 - p(\tilde u)`                                     :math:`p(\tilde u) - 1`
============  =================================================================  =======================================

and the discriminator also a penalty on its gradient: R1 and R2,
:math:`\tfrac{\gamma}{2}(\|\nabla_u D(u)\|^2 + \|\nabla_{\tilde u} D(\tilde u)\|^2)`, or, with ``wasserstein``,
:math:`\gamma(\|\nabla_{\hat u}D(\hat u)\|-1)^2` at a random point :math:`\hat u` between a real and a generated case.

Relativistic pairing: Jolicoeur-Martineau, ICLR 2019, and Sun et al., ICML 2020. R1 and R2: Mescheder et al., ICML
2018. Both together: Huang et al., NeurIPS 2024. bce: Goodfellow et al., NeurIPS 2014, with the generator's loss that
does not saturate. hinge: Lim and Ye 2017. wasserstein: Gulrajani et al., NeurIPS 2017. article: the objective of the
article that names the method, as printed, :math:`\max_G\min_D E[D(x)] + E[1-D(G(z))]`: it is consistent when D is the
probability that its input is *generated*, so here :math:`p = 1 - \mathrm{sigmoid}(D)`, with logits that are high for
real cases as everywhere else.

The penalties take case and field as independent inputs (leaves), which is a metric on the joint input and spares a
third derivative of the field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..networks.twice import gradients_of_inputs_alone

Inputs = tuple[Tensor, ...]
"""What the discriminator sees of a batch: the case (N, C, *spatial) and, unless it has none, its field."""

Judge = Callable[[Inputs], Tensor]
"""Discriminator, inputs -> logits (N,), or (N, heads) of several heads, higher for cases it takes for real."""


@dataclass(frozen=True)
class Objective:
    """Losses of both players from logits of real and of generated cases, element by element.

    :param interpolated: penalise between real and generated cases instead of at both.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    interpolated: bool = False


OBJECTIVES = {
    "relativistic": Objective(
        lambda real, generated: functional.softplus(generated - real),
        lambda real, generated: functional.softplus(real - generated),
    ),
    "bce": Objective(
        lambda real, generated: functional.softplus(-real) + functional.softplus(generated),
        lambda real, generated: functional.softplus(-generated),
    ),
    "hinge": Objective(
        lambda real, generated: functional.relu(1 - real) + functional.relu(1 + generated),
        lambda real, generated: -generated,
    ),
    "wasserstein": Objective(
        lambda real, generated: generated - real,
        lambda real, generated: -generated,
        interpolated=True,
    ),
    "article": Objective(
        lambda real, generated: torch.sigmoid(-real) + 1 - torch.sigmoid(-generated),
        lambda real, generated: torch.sigmoid(-generated) - 1,
    ),
}


@dataclass(frozen=True)
class DiscriminatorLoss:
    """Terms of L_D, each a scalar tensor; ``real`` and ``generated`` are the logits, detached."""

    total: Tensor
    pairing: Tensor
    penalty: Tensor
    real: Tensor
    generated: Tensor


def gradient_penalty(logits: Tensor, inputs: Inputs, units: Tensor | None = None) -> Tensor:
    """Mean over the batch of the squared gradient norm of ``logits``, summed over all voxels, inputs and heads.

    :param units: (heads,), each head's is multiplied with; 1 when not given.
    """
    squares = _squared_gradient(logits, inputs).mean(0)
    return (squares if units is None else squares * units).sum()


def _squared_gradient(logits: Tensor, inputs: Inputs) -> Tensor:
    """Squared norms of the gradients of each head's logit, (N, heads)."""
    heads = logits.unbind(1) if logits.ndim == 2 else (logits,)
    squares = []
    for head in heads:
        # A head need not see every input.
        with gradients_of_inputs_alone():
            gradients = torch.autograd.grad(head.sum(), inputs, create_graph=True, allow_unused=True)
        squares.append(sum(gradient.square().flatten(1).sum(1) for gradient in gradients if gradient is not None))
    return torch.stack(squares, 1)


def interpolated_penalty(judge: Judge, real: Inputs, generated: Inputs, share: Tensor | None = None) -> Tensor:
    """Mean of (gradient norm - 1)² at one random point between each real and its generated case.

    :param share: (N,) in [0, 1], of the way from real to generated; uniform when not given.
    """
    share = (torch.rand(len(real[0])) if share is None else share).to(real[0])
    between = tuple(
        torch.lerp(a, b, share.view(-1, *[1] * (a.ndim - 1))).detach().requires_grad_() for a, b in zip(real, generated)
    )
    return ((_squared_gradient(judge(between), between) + 1e-12).sqrt() - 1).square().mean(0).sum()


def discriminator_loss(
    judge: Judge,
    real: Inputs,
    generated: Inputs,
    penalty_weight: float,
    objective: str = "relativistic",
    share: Tensor | None = None,
    units: Tensor | None = None,
) -> DiscriminatorLoss:
    """Loss of the discriminator with its gradient penalty.

    :param judge: discriminator.
    :param real: inputs of real cases; pair i is compared with generated case i.
    :param generated: inputs of generated cases.
    :param penalty_weight: γ; 0 leaves the penalty out.
    :param objective: one of :data:`OBJECTIVES`.
    :param share: see :func:`interpolated_penalty`.
    :param units: see :func:`gradient_penalty`; not for an objective whose penalty lies between.
    """
    players = OBJECTIVES[objective]
    at_both = penalty_weight > 0 and not players.interpolated
    real = tuple(part.detach().requires_grad_(at_both) for part in real)
    generated = tuple(part.detach().requires_grad_(at_both) for part in generated)
    real_logits, generated_logits = judge(real), judge(generated)
    pairing = players.discriminator(real_logits, generated_logits).mean()
    penalty = pairing.new_zeros(())
    total = pairing
    if at_both:
        penalty = gradient_penalty(real_logits, real, units) + gradient_penalty(generated_logits, generated, units)
        total = pairing + 0.5 * penalty_weight * penalty
    elif penalty_weight > 0:
        penalty = interpolated_penalty(judge, real, generated, share)
        total = pairing + penalty_weight * penalty
    return DiscriminatorLoss(total, pairing.detach(), penalty.detach(), real_logits.detach(), generated_logits.detach())


def generator_loss(judge: Judge, real: Inputs, generated: Inputs, objective: str = "relativistic") -> Tensor:
    """Loss of the generator, a scalar; gradients reach it through ``generated``, field included."""
    with torch.no_grad():
        real_logits = judge(real)
    return OBJECTIVES[objective].generator(real_logits, judge(generated)).mean()
