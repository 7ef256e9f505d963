r"""Non-linear conjugate-gradient updates for the players of a game.

With gradient :math:`g_n`, a diagonal preconditioner :math:`P_n` (the identity, or Adam's
:math:`1/(\sqrt{\hat v}+\varepsilon)`) and :math:`y_n = g_n - g_{n-1}`,

.. math:: d_n = -P_n g_n + \beta_n d_{n-1}, \qquad \theta_{n+1} = \theta_n + \alpha_n d_n,

=======  =====================================================================================================
variant  :math:`\beta_n` before it is bounded
=======  =====================================================================================================
FR       :math:`g_n^TP_ng_n\,/\,g_{n-1}^TP_{n-1}g_{n-1}` (Fletcher and Reeves, Computer Journal 7, 1964)
PRP+     :math:`\max(0,\ g_n^TP_ny_n\,/\,g_{n-1}^TP_{n-1}g_{n-1})` (Polak and Ribière 1969; Powell 1984: the max)
HS       :math:`g_n^TP_ny_n\,/\,d_{n-1}^Ty_n` (Hestenes and Stiefel, J. Res. NBS 49, 1952)
DY       :math:`g_n^TP_ng_n\,/\,d_{n-1}^Ty_n` (Dai and Yuan, SIAM J. Optim. 10, 1999), at most HS (the hybrid of
         Dai and Yuan, Ann. Oper. Res. 103, 2001: DY alone never restarts, and drove a bilinear game apart)
HZ       :math:`\big(g_n^TP_ny_n - 2\,y_n^TP_ny_n\,d_{n-1}^Tg_n / d_{n-1}^Ty_n\big)/d_{n-1}^Ty_n`
         (Hager and Zhang, SIAM J. Optim. 16, 2005)
=======  =====================================================================================================

Products run over all parameters of a group at once, a player that is, in double precision. For two players with
stochastic gradients β is bounded (Naganuma and Iiduka, AISTATS 2023, need it for their proof), and a direction that
does not descend is dropped for :math:`-P_ng_n`. The first direction always is :math:`-P_0g_0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

VARIANTS = ("PRP+", "FR", "HS", "DY", "HZ")
SUFFICIENT_DESCENT = 0.1
"""A direction must descend at least this share as steeply as the preconditioned gradient."""


def _dot(first: list[Tensor], second: list[Tensor]) -> float:
    # Sums of many small products want float64; Apple's GPUs have none.
    kinds = [torch.float32 if a.device.type == "mps" else torch.float64 for a in first]
    return float(sum((a.to(kind) * b.to(kind)).sum() for a, b, kind in zip(first, second, kinds)))


class ConjugateGradient(torch.optim.Optimizer):
    """Preconditioned non-linear conjugate gradient, one direction a parameter group.

    :param lr: step length α; with ``secant`` the longest step, in units of the direction, and the first trial.
    :param variant: one of :data:`VARIANTS`.
    :param preconditioned: scale every entry by Adam's second moment, else by nothing.
    :param beta2: decay of the second moment, in [0, 1).
    :param largest_beta: bound of β; ``math.inf`` for none, as for deterministic functions.
    :param secant: find α by one more gradient along the direction, exact for quadratics. ``step`` then needs a closure
        that computes loss and gradients anew.
    :raises ValueError: an unknown variant, or a number out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        variant: str = "PRP+",
        preconditioned: bool = True,
        beta2: float = 0.99,
        epsilon: float = 1e-8,
        largest_beta: float = 0.5,
        secant: bool = False,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant}")
        if not lr > 0 or not 0 <= beta2 < 1 or not epsilon > 0 or not largest_beta >= 0:
            raise ValueError("lr and epsilon must be above 0, beta2 in [0, 1), largest_beta from 0 on")
        defaults = {
            "lr": lr,
            "variant": variant,
            "preconditioned": preconditioned,
            "beta2": beta2,
            "epsilon": epsilon,
            "largest_beta": largest_beta,
            "secant": secant,
            "steps": 0,
            "squared_norm": 0.0,
            "restarts": 0,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every group.

        :param closure: computes loss and gradients anew; needed with ``secant``.
        :returns: what the closure returned at first.
        :raises ValueError: ``secant`` without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        elif any(group["secant"] for group in self.param_groups):
            raise ValueError("secant needs a closure that computes loss and gradients anew")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step_group(group, parameters, closure)
        return loss

    def _step_group(self, group: dict, parameters: list[Tensor], closure: Callable[[], Tensor] | None) -> None:
        # A copy: the gradient's own memory is overwritten by the next backward pass.
        gradient = [parameter.grad.detach().clone() for parameter in parameters]
        group["steps"] += 1
        scales = self._scales(group, parameters, gradient)
        scaled = [g if p is None else g * p for g, p in zip(gradient, scales)]
        squared_norm = _dot(gradient, scaled)
        direction = [-s for s in scaled]
        previous = [self.state[parameter] for parameter in parameters]
        # A parameter that gets its first gradient later than others starts the group anew: it has no direction yet.
        if group["steps"] > 1 and all("direction" in state for state in previous):
            beta = self._beta(group, gradient, scaled, scales, previous, squared_norm)
            candidate = [d.add(state["direction"], alpha=beta) for d, state in zip(direction, previous)]
            if _dot(candidate, gradient) <= -SUFFICIENT_DESCENT * squared_norm:
                direction = candidate
            else:
                group["restarts"] += 1
        length = group["lr"]
        if group["secant"]:
            gradients_of_all = self._gradients()
            length = self._secant(group, parameters, gradient, direction, closure)
            for parameter, kept in gradients_of_all:  # the next group steps from the same point as this one
                parameter.grad = kept
        for parameter, d, g in zip(parameters, direction, gradient):
            parameter.add_(d, alpha=length)
            self.state[parameter]["direction"] = d
            self.state[parameter]["gradient"] = g
        group["squared_norm"] = squared_norm

    def _gradients(self) -> list[tuple[Tensor, Tensor | None]]:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        return [(p, None if p.grad is None else p.grad.detach().clone()) for p in parameters]

    def _scales(self, group: dict, parameters: list[Tensor], gradient: list[Tensor]) -> list[Tensor | None]:
        """Diagonal of P, one tensor a parameter; None stands for the identity."""
        if not group["preconditioned"]:
            return [None] * len(parameters)
        correction = 1 - group["beta2"] ** group["steps"]
        scales = []
        for parameter, g in zip(parameters, gradient):
            state = self.state[parameter]
            if "second_moment" not in state:
                state["second_moment"] = torch.zeros_like(parameter)
            moment = state["second_moment"].mul_(group["beta2"]).addcmul_(g, g, value=1 - group["beta2"])
            scales.append((moment / correction).sqrt_().add_(group["epsilon"]).reciprocal_())
        return scales

    @staticmethod
    def _beta(
        group: dict,
        gradient: list[Tensor],
        scaled: list[Tensor],
        scales: list[Tensor | None],
        previous: list[dict],
        squared_norm: float,
    ) -> float:
        variant = group["variant"]
        change = [g - state["gradient"] for g, state in zip(gradient, previous)]
        direction = [state["direction"] for state in previous]
        if variant in ("FR", "PRP+"):
            denominator = group["squared_norm"]
        else:
            denominator = _dot(direction, change)
        if variant == "FR":
            numerator = squared_norm
        else:
            numerator = _dot(scaled, change)
        if denominator == 0 or not math.isfinite(numerator) or not math.isfinite(denominator):
            return 0.0
        if variant == "HZ":
            scaled_change = [y if p is None else y * p for y, p in zip(change, scales)]
            numerator -= 2 * _dot(change, scaled_change) * _dot(direction, gradient) / denominator
        beta = numerator / denominator
        if variant == "DY":
            beta = min(beta, squared_norm / denominator)
        return min(max(beta, 0.0), group["largest_beta"])

    @staticmethod
    def _secant(
        group: dict,
        parameters: list[Tensor],
        gradient: list[Tensor],
        direction: list[Tensor],
        closure: Callable[[], Tensor],
    ) -> float:
        """Length at which the slope along the direction would be 0, were the function quadratic."""
        trial = group["lr"]
        before = [parameter.clone() for parameter in parameters]
        for parameter, d in zip(parameters, direction):
            parameter.add_(d, alpha=trial)
        with torch.enable_grad():
            closure()
        slope = _dot(gradient, direction)
        trial_slope = _dot([parameter.grad for parameter in parameters], direction)
        for parameter, old in zip(parameters, before):
            parameter.copy_(old)
        curvature = (trial_slope - slope) / trial
        return min(-slope / curvature, trial) if curvature > 0 else trial
