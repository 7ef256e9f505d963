r"""The objectives of the two players.

With :math:`\tilde x = G(z)`, inputs :math:`u=[x,\mathcal E(x)]`, :math:`\tilde u=[\tilde x,\mathcal E(\tilde x)]` and
:math:`\Delta = D(u) - D(\tilde u)`,

.. math::
   L_D = \mathbb E\,\mathrm{softplus}(-\Delta)
         + \tfrac{\gamma}{2}\,\mathbb E\left(\|\nabla_u D(u)\|^2 + \|\nabla_{\tilde u} D(\tilde u)\|^2\right), \qquad
   L_G = \mathbb E\,\mathrm{softplus}(\Delta).

Relativistic pairing: Jolicoeur-Martineau, ICLR 2019, and Sun et al., ICML 2020. Zero-centred penalties R1 and R2:
Mescheder et al., ICML 2018. Both together: Huang et al., NeurIPS 2024. The penalties take case and field as
independent inputs (leaves), which is a metric on the joint input and spares a third derivative of the field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Inputs = tuple[Tensor, ...]
"""What the discriminator sees of a batch: the case (N, C, *spatial) and, unless it has none, its field."""


@dataclass(frozen=True)
class DiscriminatorLoss:
    """Terms of L_D, each a scalar tensor; ``real`` and ``generated`` are the logits (N,), detached."""

    total: Tensor
    pairing: Tensor
    penalty: Tensor
    real: Tensor
    generated: Tensor


def gradient_penalty(logits: Tensor, inputs: Inputs) -> Tensor:
    """Mean over the batch of the squared gradient norm of ``logits`` (N,), summed over all voxels and inputs."""
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return sum(gradient.square().flatten(1).sum(1) for gradient in gradients).mean()


def discriminator_loss(
    judge: Callable[[Inputs], Tensor], real: Inputs, generated: Inputs, penalty_weight: float
) -> DiscriminatorLoss:
    """Relativistic loss of the discriminator with R1 and R2.

    :param judge: discriminator, inputs -> logits (N,).
    :param real: inputs of real cases; pair i is compared with generated case i.
    :param generated: inputs of generated cases.
    :param penalty_weight: γ; 0 leaves both penalties out.
    """
    real = tuple(part.detach().requires_grad_(penalty_weight > 0) for part in real)
    generated = tuple(part.detach().requires_grad_(penalty_weight > 0) for part in generated)
    real_logits, generated_logits = judge(real), judge(generated)
    pairing = functional.softplus(generated_logits - real_logits).mean()
    penalty = pairing.new_zeros(())
    if penalty_weight > 0:
        penalty = gradient_penalty(real_logits, real) + gradient_penalty(generated_logits, generated)
    total = pairing + 0.5 * penalty_weight * penalty
    return DiscriminatorLoss(total, pairing.detach(), penalty.detach(), real_logits.detach(), generated_logits.detach())


def generator_loss(judge: Callable[[Inputs], Tensor], real: Inputs, generated: Inputs) -> Tensor:
    """Relativistic loss of the generator, a scalar; gradients reach it through ``generated``, field included."""
    with torch.no_grad():
        real_logits = judge(real)
    return functional.softplus(real_logits - judge(generated)).mean()
