"""What a player minimises in a step, and the gradients: from tensors to tensors, so that it can be recorded.

What is minimised stands in ``objectives``, what the players look at in ``view``; the steps themselves in ``trainer``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..planning.plan import Plan
from .augmentation import Drawn
from .loading import Batch
from .objectives import Inputs, Judge, discriminator_loss, generator_loss
from .recording import Tensors
from .statistics import DataStatistics
from .team import Team
from .view import Cases, WholeView


class Aside(NamedTuple):
    """What a step goes by beside its tensors, where it is not recorded; see ``Batch.starts``."""

    drawn: Drawn | None
    starts: Tensor | None


GRADIENT, CHANGE, MADE = "gradient ", "change ", "made "
"""How the names of gradients, by the number of their weight, of changes and of made cases begin among a step's
tensors."""


class _DiscriminatorStep(nn.Module):
    """The discriminator with its loss as one forward pass, since gradients are averaged per pass of a module."""

    def __init__(self, discriminator: nn.Module, units: Tensor | None) -> None:
        super().__init__()
        self.discriminator, self.units = discriminator, units

    def forward(self, real: Inputs, generated: Inputs, shown: dict, weight: float, objective: str, share: Tensor):
        loss = discriminator_loss(
            lambda inputs: self.discriminator(*inputs, **shown), real, generated, weight, objective, share, self.units
        )
        return loss.total, loss.pairing, loss.penalty, loss.real, loss.generated


def first_head(gaps: Tensor) -> Tensor:
    """Of several heads the first, the image's: the labels of a few cases are known by heart soonest."""
    return gaps.reshape(len(gaps), -1)[:, 0]


class Steps:
    """Losses and gradients of both players.

    :param view: what they look at.
    :param team: the processes that share the work.
    :param half: precision of the networks, None for float32.
    :param statistics: of the data; None where there is no term of them.
    :param all_labelled: whether every case has labels.
    :param units: of the penalty of each judge, see ``objectives.gradient_penalty``; None for 1.
    """

    def __init__(
        self,
        plan: Plan,
        view: WholeView,
        team: Team,
        half: torch.dtype | None,
        generator: nn.Module,
        discriminator: nn.Module,
        statistics: DataStatistics | None,
        all_labelled: bool,
        units: Tensor | None = None,
    ) -> None:
        self.plan, self.view, self.team, self.half = plan, view, team, half
        self.device = view.device
        self.generator, self.discriminator = generator, discriminator
        self.statistics, self.all_labelled = statistics, all_labelled
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half is torch.float16)
        self._shared_generator = team.wrap(generator)
        self._discriminator_step = team.wrap(_DiscriminatorStep(discriminator, units))

    def of_discriminator(self, aside: Aside, penalised: bool, tensors: Tensors) -> Tensors:
        """The discriminator's: ``pairing`` and ``penalty`` of L_D, its logits ``real`` and ``generated``, gradients.

        :param penalised: whether this step takes the penalty.
        :param tensors: a batch, ``latents``, ``share`` (see ``interpolated_penalty``), changes; the generated
            cases, too, where the generator's step has made them.
        """
        settings = self.plan.training
        batch, changes = self._batch_and_changes(tensors, aside)
        with torch.no_grad():
            real = self.view.real(batch)
            made = tuple(tensors[name] for name in sorted(tensors) if name.startswith(MADE))
            generated = made or self._generate(self.generator, tensors["latents"], batch)
            seen_real = self._see(self._change(real, changes))
            seen_generated = self._see(self._change(generated, changes))
        weight = settings.penalty_weight * settings.penalty_interval if penalised else 0.0
        # float16's small gradients would need scaling.
        with nullcontext() if self.half is torch.float16 else self._mixed():
            total, pairing, penalty, of_real, of_generated = self._discriminator_step(
                seen_real, seen_generated, self._shown(batch), weight, settings.objective, tensors["share"]
            )
        terms = {"pairing": pairing, "penalty": penalty, "real": of_real, "generated": of_generated}
        # The inputs are leaves too, for the penalty: nobody needs their gradient here.
        return {**terms, **self._gradients(total, self.judge_weights())}

    def of_generator(self, aside: Aside, tensors: Tensors) -> Tensors:
        """The generator's: ``pairing`` of L_G, ``distance`` from the data's statistics, gradients; and the cases that
        it made, where they are repainted.

        :param tensors: a batch, ``latents``, changes.
        """
        batch, changes = self._batch_and_changes(tensors, aside)
        judge_weights = self.judge_weights()
        for weight in judge_weights:
            weight.requires_grad_(False)
        try:
            return self._generator_terms(batch, changes, tensors["latents"])
        finally:  # also where the step cannot be recorded, and runs once more
            for weight in judge_weights:
                weight.requires_grad_(True)

    def _generator_terms(self, batch: Batch, changes: Drawn | Tensors | None, latents: Tensor) -> Tensors:
        settings = self.plan.training
        generated = self._generate(self._shared_generator, latents, batch)
        seen_generated = self._see(self._change(generated, changes))
        with torch.no_grad():
            seen_real = self._see(self._change(self.view.real(batch), changes))
        with self._mixed():
            pairing = generator_loss(self._judge(batch), seen_real, seen_generated, settings.objective)
        distance = pairing.new_zeros(())
        if self.statistics is not None:
            # The mean is that of unchanged cases.
            unchanged = seen_generated if changes is None or not settings.statistics_weight else self._see(generated)
            distance = self.statistics.distance(self.view.with_a_mean(unchanged), self.team)
        total = self.scaler.scale(pairing.float() + settings.statistics_weight * distance)
        gradients = self._gradients(total, self.generator_weights())
        made = {f"{MADE}{index}": case.detach() for index, case in enumerate(generated) if self.plan.repaints}
        return {"pairing": pairing.detach(), "distance": distance.detach(), **made, **gradients}

    @torch.no_grad()
    def of_held_out(self, aside: Aside, tensors: Tensors) -> Tensors:
        """Mean ``gap`` of a batch of held-out cases from synthesized ones, by the image's head; parameters as above."""
        batch, changes = self._batch_and_changes(tensors, aside)
        judge = self._judge(batch)
        generated = self._generate(self.generator, tensors["latents"], batch)
        with self._mixed():
            logits = [judge(self._see(self._change(cases, changes))) for cases in (self.view.real(batch), generated)]
        return {"gap": first_head(logits[0] - logits[1]).mean()}

    def _shown(self, batch: Batch) -> dict[str, Tensor | None]:
        """What else the discriminator is told of a batch."""
        # Shutting labels costs copies of the whole batch, forth and back and back again: not where there is no need.
        shown = {"labelled": None if self.all_labelled else batch.labelled.to(self.device)}
        shown |= {"class_weights": self.class_weights(batch)} if self.plan.classes else {}
        return shown | self.view.also_shown(batch)

    def class_weights(self, batch: Batch) -> Tensor:
        """One-hot classes, (N, classes); all zero where a class is not known."""
        classes = batch.classes.to(self.device)
        known = functional.one_hot(classes.clamp_min(0), len(self.plan.classes)).float()
        return known * (classes >= 0)[:, None]

    def _judge(self, batch: Batch) -> Judge:
        shown = self._shown(batch)
        return lambda inputs: self.discriminator(*inputs, **shown)

    def _generate(self, network: nn.Module, latents: Tensor, batch: Batch) -> Cases:
        """Cases from latents, of the classes of ``batch``, so that each is paired with a real one of its class."""
        classes = (self.class_weights(batch),) if self.plan.classes else ()
        with self._mixed():
            return self.view.generated(network, latents, classes, batch)

    def _see(self, cases: Cases) -> Inputs:
        with torch.autocast(self.device.type, enabled=False):
            return self.view.seen(cases)

    def _change(self, cases: Cases, drawn: Drawn | Tensors | None) -> Cases:
        if drawn is None:
            return cases
        with torch.autocast(self.device.type, enabled=False):
            return self.view.changed(cases, drawn)

    def _mixed(self) -> AbstractContextManager:
        return nullcontext() if self.half is None else torch.autocast(self.device.type, self.half)

    @staticmethod
    def _batch_and_changes(tensors: Tensors, aside: Aside) -> tuple[Batch, Drawn | Tensors | None]:
        parts = {name: tensors[name] for name in Batch.__dataclass_fields__ if name in tensors}
        changes = {name.removeprefix(CHANGE): tensors[name] for name in tensors if name.startswith(CHANGE)}
        return Batch(**parts, starts=aside.starts), changes or aside.drawn

    def judge_weights(self) -> list[nn.Parameter]:
        """What the discriminator learns, in the order of its gradients."""
        return [weight for weight in self.discriminator.parameters() if weight.requires_grad]

    def generator_weights(self) -> list[nn.Parameter]:
        """What the generator learns, in the order of its gradients."""
        return [weight for weight in self.generator.parameters() if weight.requires_grad]

    def _gradients(self, loss: Tensor, weights: Sequence[nn.Parameter]) -> Tensors:
        """Gradients by the numbers of their weights; a team's are averaged on the way."""
        if self.team.size == 1:
            found = torch.autograd.grad(loss, weights, allow_unused=True)
            # As they lie in memory, or optimisers go through them one by one.
            found = [
                g if g is None or g.stride() == w.stride() else torch.empty_like(w).copy_(g)
                for g, w in zip(found, weights)
            ]
        else:
            for weight in weights:
                weight.grad = None
            loss.backward(inputs=weights)
            found = [weight.grad for weight in weights]
        return {f"{GRADIENT}{index}": gradient for index, gradient in enumerate(found) if gradient is not None}
