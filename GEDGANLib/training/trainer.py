"""The game between generator and discriminator, step by step.

What a step minimises stands in ``objectives``; which cases it looks at in ``sampling`` and ``view``, how they are
changed in ``augmentation``; files and schedules of a whole run stand in ``run``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks.build import build_generator
from ..networks.discriminator import Critic
from ..plan import Plan
from ..volumes.pipeline import WorkingCase
from .adam import BoundedAdam
from .augmentation import STEERED_EVERY, Drawn, Strength
from .conjugate import ConjugateGradient
from .loading import Batch, Loader
from .objectives import DiscriminatorLoss, Inputs, Judge, discriminator_loss, generator_loss
from .sampling import Draws, Sampler, case_weights, split_held_out
from .statistics import DataStatistics
from .team import Team
from .view import Cases, view_of

FINAL_RATE = 0.1
"""Learning rate at the end of the run as a share of that at its start."""
CASES_FOR_TAU = 16
STUCK = 1e-12
"""Norm of the generator's gradient below which it learns nothing any more."""
HALF_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class StepFigures:
    """What one step says about the game; plain numbers.

    :param gap: mean of D(real) - D(generated); near 0 the players are even.
    :param penalty: R1 + R2, before its weight.
    :param distance: of the generated batch from the data's mean case and field; wavers around its expectation.
    :param gradient: norm of the generator's. Too large a step can drive all its outputs to the ends of tanh and
        softmax, where there is none; it never comes back from there by itself.
    """

    discriminator_loss: float
    generator_loss: float
    penalty: float
    gap: float
    distance: float
    gradient: float

    def sound(self) -> bool:
        """Whether the game goes on: all are numbers, and the generator still learns."""
        return all(math.isfinite(value) for value in vars(self).values()) and self.gradient > STUCK


def _first_head(gaps: Tensor) -> Tensor:
    """Of several heads the first, the image's: the labels of a few cases are known by heart soonest."""
    return gaps.reshape(len(gaps), -1)[:, 0]


class _DiscriminatorStep(nn.Module):
    """The discriminator with its loss as one forward pass, since gradients are averaged per pass of a module."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, real: Inputs, generated: Inputs, shown: dict, weight: float, objective: str, share: Tensor):
        loss = discriminator_loss(
            lambda inputs: self.discriminator(*inputs, **shown), real, generated, weight, objective, share
        )
        return loss.total, loss.pairing, loss.penalty, loss.real, loss.generated


class Trainer:
    """Both networks, their optimisers, the averaged generator and the state of the game.

    :param cases: on the plan's grid; read where they are needed, so they may be views of files.
    :param device: ``cuda``, ``mps`` or ``cpu``.
    :param seed: of weights, latents, order of cases, changes and held-out cases.
    :param team: the processes that share the work.
    :param workers: threads that read cases ahead; what they read does not depend on how many there are.
    """

    def __init__(
        self,
        plan: Plan,
        cases: Sequence[WorkingCase],
        device: str,
        seed: int,
        team: Team | None = None,
        workers: int = 0,
    ) -> None:
        self.plan, self.seed = plan, seed
        self.device = torch.device(device)
        if self.device.type == "cuda":  # steps repeat few shapes: worth a search for the fastest convolutions
            torch.backends.cudnn.benchmark = True
        self.team = team or Team()
        self.step_count = 0
        self.rate_factor = 1.0
        torch.manual_seed(seed)
        self.draws = Draws(seed)
        self.part = self.team.part(plan.training.batch)
        training, held_out = split_held_out(cases, plan.training.held_out, self.draws)
        self.cases, self.held_out = [cases[i] for i in training], [cases[i] for i in held_out]
        self.labelled = torch.tensor([case.labels is not None for case in self.cases])
        self.all_labelled = bool(self.labelled.all()) and all(case.labels is not None for case in self.held_out)
        self.sampler = Sampler(
            self.draws, case_weights(self.cases, plan.training.balance), self.labelled, plan.training.labelled_share
        )
        self.view = view_of(plan, self.cases[:CASES_FOR_TAU], self.device)
        self.loader = Loader(
            self.cases, self._choose, plan.classes, workers, self.view.part, self._starts, len(plan.labels)
        )
        self._held_out_loader = Loader(
            self.held_out, self._choose, plan.classes, 0, self.view.part, self._starts, len(plan.labels)
        )
        self.class_gaps = {name: [0.0, 0] for name in plan.classes}
        self.strength = Strength(plan.augmentation.largest, plan.augmentation.target, plan.augmentation.ramp_cases)

        self.generator = build_generator(plan).to(self.device)
        self.discriminator = self.view.discriminator().to(self.device)
        with torch.no_grad():
            self.statistics = DataStatistics.of(self._statistics_data(), len(plan.channels))
        if plan.method != "article":
            self.generator.start_from(self.statistics.means[0])
        self._freeze()
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.generator_optimizer = self._optimizer(self.generator)
        self.discriminator_optimizer = self._optimizer(self.discriminator)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._half is torch.float16)
        self._shared_generator = self.team.wrap(self.generator)
        self._discriminator_step = self.team.wrap(_DiscriminatorStep(self.discriminator))

    def _freeze(self) -> None:
        for part in self.discriminator.first_parts(self.plan.training.frozen_stages):
            part.requires_grad_(False)

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        settings = self.plan.training
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        if settings.optimizer == "adam":
            # The article's baseline keeps the plain Adam that the article has.
            kind = torch.optim.Adam if self.plan.method == "article" else BoundedAdam
            return kind(weights, settings.learning_rate, betas=(settings.beta1, settings.beta2))
        return ConjugateGradient(weights, settings.learning_rate, settings.optimizer, beta2=settings.beta2)

    # ---- what a step looks at

    def _choose(self, step: int) -> Tensor:
        return self.sampler.choose(step, self.plan.training.batch)[self.part]

    def _starts(self, step: int) -> Tensor | None:
        starts = self.view.starts(self.draws, step)
        return None if starts is None else starts[self.part]

    def _whole_data(self) -> Iterator[Batch]:
        """All training cases once, in batches, as they are; where they are looked at in parts, coarsely."""
        for chosen in torch.arange(len(self.cases)).split(self.plan.training.batch):
            yield self.loader.read(chosen)

    def _statistics_data(self) -> Iterator[tuple[Inputs, Tensor, Tensor]]:
        # As the cases are drawn, or the term would pull balanced batches back to the majority.
        shares = self.sampler.probabilities(self.plan.training.batch).split(self.plan.training.batch)
        for batch, share in zip(self._whole_data(), shares):
            inputs = self.view.with_a_mean(self.view.seen(self.view.real(batch)))
            yield inputs, batch.labelled.to(self.device), share.to(self.device, torch.float32)

    def _shown(self, batch: Batch) -> dict[str, Tensor | None]:
        """What else the discriminator is told of a batch."""
        # Shutting labels costs copies of the whole batch, forth and back and back again: not where there is no need.
        shown = {"labelled": None if self.all_labelled else batch.labelled.to(self.device)}
        shown |= {"class_weights": self._class_weights(batch)} if self.plan.classes else {}
        return shown | self.view.also_shown(batch)

    def _class_weights(self, batch: Batch) -> Tensor:
        """One-hot classes, (N, classes); all zero where a class is not known."""
        known = functional.one_hot(batch.classes.clamp_min(0), len(self.plan.classes)).float()
        return (known * (batch.classes >= 0)[:, None]).to(self.device)

    def _judge(self, batch: Batch) -> Judge:
        shown = self._shown(batch)
        return lambda inputs: self.discriminator(*inputs, **shown)

    def _latents(self, player: str = "generator") -> Tensor:
        shape = (self.plan.training.batch, self.plan.networks.latent_size)
        random = self.draws.of(f"latents of the {player}", self.step_count)
        return torch.randn(shape, generator=random)[self.part].to(self.device)

    def _generate(self, network: nn.Module, player: str, batch: Batch) -> Cases:
        """Cases from latents, of the classes of ``batch``, so that each is paired with a real one of its class."""
        classes = (self._class_weights(batch),) if self.plan.classes else ()
        with self._mixed():
            return self.view.generated(network, self._latents(player), classes, batch)

    def _see(self, cases: Cases) -> Inputs:
        with torch.autocast(self.device.type, enabled=False):
            return self.view.seen(cases)

    def _changes(self, player: str) -> Drawn | None:
        """How the batch is changed before this player's discriminator sees it; None for not at all."""
        settings = self.plan.augmentation
        if self.strength.value == 0 or not (settings.kinds or settings.flips):
            return None
        random = self.draws.of(f"changes for the {player}", self.step_count)
        return self.view.augmentation.draw(
            self.plan.training.batch, len(self.plan.channels), self.strength.value, random
        ).part(self.part)

    def _change(self, cases: Cases, drawn: Drawn | None) -> Cases:
        return cases if drawn is None else self.view.changed(cases, drawn)

    # ---- precision and rates

    @property
    def _half(self) -> torch.dtype | None:
        """Half precision, where the plan and the device have it."""
        if self.device.type != "cuda" or self.plan.training.precision not in HALF_PRECISIONS:
            return None
        wanted = HALF_PRECISIONS[self.plan.training.precision]
        return wanted if wanted is torch.float16 or torch.cuda.is_bf16_supported(False) else torch.float16

    def _mixed(self) -> AbstractContextManager:
        return nullcontext() if self._half is None else torch.autocast(self.device.type, self._half)

    def set_progress(self, progress: float) -> None:
        """Set the learning rates for ``progress`` in [0, 1] of the run: half a cosine down to :data:`FINAL_RATE`.

        The article's baseline keeps its rate, as the article has it.
        """
        if not self.held_out:
            self.strength.follow(progress)
        share = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
        if self.plan.method == "article":
            share = 1.0
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = share * self.rate_factor * self.plan.training.learning_rate

    # ---- a step

    def step(self) -> StepFigures:
        """One update of each player."""
        batch = self.loader.batch(self.step_count)
        real = self.view.real(batch)
        steered = bool(self.held_out) and self.step_count % STEERED_EVERY == 0
        held_out_gap = self._held_out_gap() if steered else 0.0
        loss = self._step_discriminator(batch, real)
        if steered:
            training_gap = float(_first_head(loss.real - loss.generated).mean())
            gaps = self.team.mean((training_gap, held_out_gap), self.device)
            self.strength.measure(*gaps, STEERED_EVERY * self.plan.training.batch)
        pairing, distance, gradient = self._step_generator(batch, real)
        self.step_count += 1
        self._update_average()
        gaps = (loss.real - loss.generated).reshape(len(loss.real), -1).mean(1)
        numbers = [float(value) for value in (loss.pairing, pairing, loss.penalty, gaps.mean(), distance, gradient)]
        self._note_classes(batch, gaps)
        return StepFigures(*self.team.mean(numbers, self.device))

    def _step_discriminator(self, batch: Batch, real: Cases) -> DiscriminatorLoss:
        settings = self.plan.training
        changes = self._changes("discriminator")
        with torch.no_grad():
            generated = self._generate(self.generator, "discriminator", batch)
            seen_real = self._see(self._change(real, changes))
            seen_generated = self._see(self._change(generated, changes))
        penalised = settings.penalty_weight > 0 and self.step_count % settings.penalty_interval == 0
        weight = settings.penalty_weight * settings.penalty_interval if penalised else 0.0
        share = torch.rand(settings.batch, generator=self.draws.of("points between", self.step_count))[self.part]
        # A penalty is a derivative of the whole pass: then all of it is in full precision. So it is in float16, whose
        # small gradients would need scaling.
        with nullcontext() if penalised or self._half is torch.float16 else self._mixed():
            terms = self._discriminator_step(
                seen_real, seen_generated, self._shown(batch), weight, settings.objective, share
            )
        loss = DiscriminatorLoss(*terms)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        # The inputs are leaves too, for the penalty: nobody needs their gradient here.
        loss.total.backward(inputs=[w for w in self.discriminator.parameters() if w.requires_grad])
        self.discriminator_optimizer.step()
        return replace(loss, total=loss.total.detach())

    def _step_generator(self, batch: Batch, real: Cases) -> tuple[Tensor, Tensor, Tensor]:
        settings = self.plan.training
        changes = self._changes("generator")
        trained = [weight for weight in self.discriminator.parameters() if weight.requires_grad]
        for weight in trained:
            weight.requires_grad_(False)
        generated = self._generate(self._shared_generator, "generator", batch)
        seen_generated = self._see(self._change(generated, changes))
        with torch.no_grad():
            seen_real = self._see(self._change(real, changes))
        with self._mixed():
            pairing = generator_loss(self._judge(batch), seen_real, seen_generated, settings.objective)
        # The mean is that of unchanged cases.
        unchanged = seen_generated if changes is None or not settings.statistics_weight else self._see(generated)
        distance = self.statistics.distance(self.view.with_a_mean(unchanged), self.team)
        self.generator_optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(pairing.float() + settings.statistics_weight * distance).backward()
        self.scaler.step(self.generator_optimizer)
        self.scaler.update()
        for weight in trained:
            weight.requires_grad_(True)
        gradients = [weight.grad for weight in self.generator.parameters() if weight.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        if self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
            # float16's scaling overflowed, and the scaler left the step out: no fault, and no figure.
            norm = torch.ones_like(norm)
        return pairing.detach(), distance.detach(), norm

    @torch.no_grad()
    def _held_out_gap(self) -> float:
        """Mean gap of held-out cases from synthesized ones of their classes, by the discriminator as it is."""
        random = self.draws.of("held-out cases", self.step_count)
        chosen = torch.randint(len(self.held_out), (self.plan.training.batch,), generator=random)[self.part]
        batch = self._held_out_loader.read(chosen, self._starts(self.step_count))
        changes, judge = self._changes("held-out cases"), self._judge(batch)
        generated = self._generate(self.generator, "held-out cases", batch)
        logits = [judge(self._see(self._change(cases, changes))) for cases in (self.view.real(batch), generated)]
        return float(_first_head(logits[0] - logits[1]).mean())

    def _note_classes(self, batch: Batch, gaps: Tensor) -> None:
        if not self.plan.classes:
            return
        sums = [[float(gaps[batch.classes.to(gaps.device) == index].sum()), int((batch.classes == index).sum())]
                for index in range(len(self.plan.classes))]  # fmt: skip
        flat = self.team.mean([number for pair in sums for number in pair], self.device)
        for name, total, count in zip(self.plan.classes, flat[::2], flat[1::2]):
            self.class_gaps[name][0] += total * self.team.size
            self.class_gaps[name][1] += round(count * self.team.size)

    def take_class_gaps(self) -> dict[str, dict[str, float | int | None]]:
        """Per class the cases drawn and their mean gap since this was asked last."""
        taken = {
            name: {"cases": count, "gap": round(total / count, 4) if count else None}
            for name, (total, count) in self.class_gaps.items()
        }
        self.class_gaps = {name: [0.0, 0] for name in self.plan.classes}
        return taken

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential average of the generator's weights, its half-life a share of the steps taken so far."""
        share = self.plan.training.ema_share
        keep = 0.5 ** (1 / max(share * self.step_count, 1.0)) if share else 0.0
        for averaged, current in zip(self.average.parameters(), self.generator.parameters()):
            averaged.lerp_(current, 1 - keep)
        for averaged, current in zip(self.average.buffers(), self.generator.buffers()):
            averaged.copy_(current)

    @torch.no_grad()
    def critic(self) -> Critic | None:
        """The discriminator with what it makes of the real cases' images, for the model file; not the article's."""
        if self.plan.method == "article":
            return None
        return self.view.critic(self.discriminator, self._whole_data())
