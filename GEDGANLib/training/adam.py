r"""Adam whose steps are bounded: no weight tensor moves by more than the learning rate, in the mean square.

Adam divides the gradient by the root of a running mean of its square. Where a gradient is suddenly much larger than
those before, the mean has not followed yet and the step becomes up to :math:`1/\sqrt{1-\beta_2}` times as large as
usual: ten times with :math:`\beta_2=0.99`. In the game one such step can drive every output of the generator to the
ends of tanh and softmax, from where it hardly returns. So each tensor's step u is divided by
:math:`\max(1, \mathrm{RMS}(u)/\eta)` with the learning rate :math:`\eta` (Shazeer and Stern, *Adafactor*, ICML 2018,
section 6; with Adam: Wortsman et al., *Stable and low-precision training for large-scale vision-language models*,
NeurIPS 2023, section 3.5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class BoundedAdam(torch.optim.Adam):
    """:class:`torch.optim.Adam` with bounded steps; state and settings are Adam's."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` as in PyTorch."""
        groups = [
            (group["lr"], [weight for weight in group["params"] if weight.grad is not None])
            for group in self.param_groups
        ]
        before = [torch._foreach_add(weights, 0.0) if weights else [] for _, weights in groups]
        result = super().step(closure)
        for (rate, weights), old in zip(groups, before):
            if not weights or rate == 0:
                continue
            moved = torch._foreach_sub(weights, old)
            sizes = torch.stack(torch._foreach_norm(moved))
            roots = self._roots_of_counts(weights)
            shares = 1 / (sizes / roots / rate).clamp_min(1.0)
            torch._foreach_mul_(moved, list(shares.unbind()))
            torch._foreach_add_(old, moved)
            torch._foreach_copy_(weights, old)
        return result

    def _roots_of_counts(self, weights: list[torch.Tensor]) -> torch.Tensor:
        """√ of each tensor's number of entries, (tensors,); kept, since a copy to a GPU costs a wait."""
        counts = tuple(weight.numel() for weight in weights)
        if getattr(self, "_counts", None) != counts:
            self._counts, self._roots = counts, weights[0].new_tensor(counts).sqrt()
        return self._roots
