"""The game between generator and discriminator, step by step.

What a step minimises stands in ``objectives``; which cases it looks at in ``sampling`` and ``view``, how they are
changed in ``augmentation``; files and schedules of a whole run stand in ``run``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..device import half_precision_is_right, trouble_here
from ..networks.build import build_generator
from ..networks.discriminator import Critic
from ..plan import Plan
from ..volumes.pipeline import WorkingCase
from .adam import BoundedAdam
from .augmentation import STEERED_EVERY, Drawn, Strength
from .conjugate import ConjugateGradient
from .loading import Batch, Loader
from .objectives import Inputs, Judge, discriminator_loss, generator_loss
from .recording import Reading, Recorder, Tensors
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


class StepFigures:
    """What one step says about the game; read from the device when they are asked for.

    :param numbers: (6,), in the order of :attr:`NAMES`: the losses of both players; the penalty R1 + R2, before its
        weight, when it was taken last; the gap, mean of D(real) - D(generated), near 0 where the players are even; the
        distance of the generated batch from the data's mean case and field, which wavers around its expectation; the
        norm of the generator's gradient. Too large a step can drive all its outputs to the ends of tanh and softmax,
        where there is none; it never comes back from there by itself.
    """

    NAMES = ("discriminator_loss", "generator_loss", "penalty", "gap", "distance", "gradient")

    def __init__(self, numbers: Tensor) -> None:
        self._reading = Reading(numbers)

    @cached_property
    def named(self) -> dict[str, float]:
        """The figures by name; waits until the step is done."""
        return dict(zip(self.NAMES, self._reading.take()))

    def __getattr__(self, name: str) -> float:
        if name not in self.NAMES:
            raise AttributeError(name)
        return self.named[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepFigures) and self.named == other.named

    __hash__ = None

    def sound(self) -> bool:
        """Whether the game goes on: all are numbers, and the generator still learns."""
        return all(math.isfinite(value) for value in self.named.values()) and self.gradient > STUCK


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


class _Aside(NamedTuple):
    """What a step goes by beside its tensors, where it is not recorded; see ``Batch.starts``."""

    drawn: Drawn | None
    starts: Tensor | None


GRADIENT = "gradient "
CHANGE = "change "
"""How the names of gradients, by the number of their weight, and of changes begin among a step's tensors."""


class Trainer:
    """Both networks, their optimisers, the averaged generator and the state of the game.

    :param cases: on the plan's grid; read where they are needed, so they may be views of files.
    :param device: ``cuda``, ``mps`` or ``cpu``.
    :param seed: of weights, latents, order of cases, changes and held-out cases.
    :param team: the processes that share the work.
    :param workers: threads that read cases ahead; what they read does not depend on how many there are.

    :attr:`notes` says in sentences what a person should know of this device.
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
        self.notes = trouble_here(self.device.type)
        self._half = self._half_precision()
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
        about = (self.view.part, self._starts, len(plan.labels), self.device.type == "cuda")
        self.loader = Loader(self.cases, self._choose, plan.classes, workers, *about)
        self._held_out_loader = Loader(self.held_out, self._choose, plan.classes, 0, *about)
        self._class_gaps = torch.zeros(2, len(plan.classes), device=self.device)
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
        # Where parts are cut is known to this process alone, dropout draws, and a team talks while it goes backward.
        recordable = plan.method != "article" and self.view.part is None and self.team.size == 1
        self.recorder = Recorder(self.device, recordable and self._half is not torch.float16)
        self._penalty = torch.zeros((), device=self.device)
        self._steered: Reading | None = None
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
        classes = batch.classes.to(self.device)
        known = functional.one_hot(classes.clamp_min(0), len(self.plan.classes)).float()
        return known * (classes >= 0)[:, None]

    def _judge(self, batch: Batch) -> Judge:
        shown = self._shown(batch)
        return lambda inputs: self.discriminator(*inputs, **shown)

    def _latents(self, player: str = "generator") -> Tensor:
        shape = (self.plan.training.batch, self.plan.networks.latent_size)
        random = self.draws.of(f"latents of the {player}", self.step_count)
        return torch.randn(shape, generator=random)[self.part]

    def _generate(self, network: nn.Module, latents: Tensor, batch: Batch) -> Cases:
        """Cases from latents, of the classes of ``batch``, so that each is paired with a real one of its class."""
        classes = (self._class_weights(batch),) if self.plan.classes else ()
        with self._mixed():
            return self.view.generated(network, latents, classes, batch)

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

    def _change(self, cases: Cases, drawn: Drawn | Tensors | None) -> Cases:
        if drawn is None:
            return cases
        with torch.autocast(self.device.type, enabled=False):
            return self.view.changed(cases, drawn)

    # ---- precision and rates

    def _half_precision(self) -> torch.dtype | None:
        """Half precision, where the plan and the device have it and it computes what it should."""
        if self.device.type != "cuda" or self.plan.training.precision not in HALF_PRECISIONS:
            return None
        wanted = HALF_PRECISIONS[self.plan.training.precision]
        half = wanted if wanted is torch.float16 or torch.cuda.is_bf16_supported(False) else torch.float16
        if half_precision_is_right(self.device.type, half):
            return half
        self.notes.append(
            f"This GPU computes convolutions in {str(half).removeprefix('torch.')} wrongly with what is installed, so "
            "the training goes on in float32, slower. Install another version of PyTorch."
        )
        return None

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
        settings = self.plan.training
        batch = self.loader.batch(self.step_count)
        steered = bool(self.held_out) and self.step_count % STEERED_EVERY == 0
        held_out_gap = self._held_out_gap() if steered else None
        penalised = settings.penalty_weight > 0 and self.step_count % settings.penalty_interval == 0
        share = torch.rand(settings.batch, generator=self.draws.of("points between", self.step_count))[self.part]
        judged = self._play("discriminator", self._discriminator_step_of, batch, penalised, share=share)
        self._descend(self.discriminator_optimizer, self._trained_judge(), judged)
        gaps = judged["real"] - judged["generated"]
        # Copies: what a recorded step leaves is gone with the next one.
        pairing, gaps = judged["pairing"].clone(), gaps.reshape(len(gaps), -1)
        if penalised:
            self._penalty = judged["penalty"].clone()
        if steered:
            self._steer(gaps[:, 0].mean(), held_out_gap)
        made = self._play("generator", self._generator_step_of, batch)
        norm = self._descend(self.generator_optimizer, self._trained_generator(), made, self.scaler)
        self.step_count += 1
        self._update_average()
        self._note_classes(batch, gaps.mean(1))
        figures = (pairing, made["pairing"], self._penalty, gaps.mean(), made["distance"], norm)
        return StepFigures(self.team.average(torch.stack([figure.float() for figure in figures])))

    def _play(self, player: str, function, batch: Batch, *settings: bool, **also: Tensor) -> Tensors:
        """What ``function`` makes of a batch, latents and changes of this step; recorded where that pays."""
        drawn = self._changes(player)
        inputs = {**batch.tensors(), "latents": self._latents(player), **also}
        starts = inputs.pop("starts", None)
        if drawn is not None and self.recorder.enabled:
            inputs |= {CHANGE + name: value for name, value in self.view.as_tensors(drawn).items()}
            drawn = None
        key = (player, *settings, any(name.startswith(CHANGE) for name in inputs))
        return self.recorder.run(key, partial(function, _Aside(drawn, starts), *settings), inputs)

    @staticmethod
    def _batch_and_changes(tensors: Tensors, aside: _Aside) -> tuple[Batch, Drawn | Tensors | None]:
        parts = {name: tensors[name] for name in Batch.__dataclass_fields__ if name in tensors}
        changes = {name.removeprefix(CHANGE): tensors[name] for name in tensors if name.startswith(CHANGE)}
        return Batch(**parts, starts=aside.starts), changes or aside.drawn

    def _trained_judge(self) -> list[nn.Parameter]:
        return [weight for weight in self.discriminator.parameters() if weight.requires_grad]

    def _trained_generator(self) -> list[nn.Parameter]:
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

    @staticmethod
    def _descend(optimizer, weights: Sequence[nn.Parameter], tensors: Tensors, scaler=None) -> Tensor:
        """One step of an optimiser; returns the norm of the gradient."""
        for index, weight in enumerate(weights):
            weight.grad = tensors.get(f"{GRADIENT}{index}")
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        norm = torch.stack(torch._foreach_norm([weight.grad for weight in weights if weight.grad is not None])).norm()
        if scaler is not None and scaler.is_enabled():
            # float16's scaling overflowed, and the scaler left the step out: no fault, and no figure.
            norm = torch.where(torch.isfinite(norm), norm, 1.0)
        return norm

    def _discriminator_step_of(self, aside: _Aside, penalised: bool, tensors: Tensors) -> Tensors:
        settings = self.plan.training
        batch, changes = self._batch_and_changes(tensors, aside)
        with torch.no_grad():
            real = self.view.real(batch)
            generated = self._generate(self.generator, tensors["latents"], batch)
            seen_real = self._see(self._change(real, changes))
            seen_generated = self._see(self._change(generated, changes))
        weight = settings.penalty_weight * settings.penalty_interval if penalised else 0.0
        # float16's small gradients would need scaling.
        with nullcontext() if self._half is torch.float16 else self._mixed():
            total, pairing, penalty, of_real, of_generated = self._discriminator_step(
                seen_real, seen_generated, self._shown(batch), weight, settings.objective, tensors["share"]
            )
        terms = {"pairing": pairing, "penalty": penalty, "real": of_real, "generated": of_generated}
        # The inputs are leaves too, for the penalty: nobody needs their gradient here.
        return {**terms, **self._gradients(total, self._trained_judge())}

    def _generator_step_of(self, aside: _Aside, tensors: Tensors) -> Tensors:
        settings = self.plan.training
        batch, changes = self._batch_and_changes(tensors, aside)
        judge_weights = self._trained_judge()
        for weight in judge_weights:
            weight.requires_grad_(False)
        generated = self._generate(self._shared_generator, tensors["latents"], batch)
        seen_generated = self._see(self._change(generated, changes))
        with torch.no_grad():
            seen_real = self._see(self._change(self.view.real(batch), changes))
        with self._mixed():
            pairing = generator_loss(self._judge(batch), seen_real, seen_generated, settings.objective)
        # The mean is that of unchanged cases.
        unchanged = seen_generated if changes is None or not settings.statistics_weight else self._see(generated)
        distance = self.statistics.distance(self.view.with_a_mean(unchanged), self.team)
        total = self.scaler.scale(pairing.float() + settings.statistics_weight * distance)
        gradients = self._gradients(total, self._trained_generator())
        for weight in judge_weights:
            weight.requires_grad_(True)
        return {"pairing": pairing.detach(), "distance": distance.detach(), **gradients}

    def _steer(self, training_gap: Tensor, held_out_gap: Tensor) -> None:
        """Adapt the changes to what the gaps of training and held-out cases say; on a GPU to those of last time,
        which are here without a wait."""
        reading = Reading(self.team.average(torch.stack([training_gap.float(), held_out_gap.float()])))
        if self.device.type == "cuda":
            reading, self._steered = self._steered, reading
        if reading is not None:
            self.strength.measure(*reading.take(), STEERED_EVERY * self.plan.training.batch)

    def _held_out_gap(self) -> Tensor:
        """Mean gap of held-out cases from synthesized ones of their classes, by the discriminator as it is."""
        random = self.draws.of("held-out cases", self.step_count)
        chosen = torch.randint(len(self.held_out), (self.plan.training.batch,), generator=random)[self.part]
        batch = self._held_out_loader.read(chosen, self._starts(self.step_count))
        return self._play("held-out cases", self._gap_of, batch)["gap"].clone()

    @torch.no_grad()
    def _gap_of(self, aside: _Aside, tensors: Tensors) -> Tensors:
        batch, changes = self._batch_and_changes(tensors, aside)
        judge = self._judge(batch)
        generated = self._generate(self.generator, tensors["latents"], batch)
        with self._mixed():
            logits = [judge(self._see(self._change(cases, changes))) for cases in (self.view.real(batch), generated)]
        return {"gap": _first_head(logits[0] - logits[1]).mean()}

    @torch.no_grad()
    def _note_classes(self, batch: Batch, gaps: Tensor) -> None:
        if not self.plan.classes:
            return
        members = self._class_weights(batch)
        self._class_gaps += self.team.sum(torch.stack([gaps.float() @ members, members.sum(0)]))

    def take_class_gaps(self) -> dict[str, dict[str, float | int | None]]:
        """Per class the cases drawn and their mean gap since this was asked last."""
        totals, counts = self._class_gaps.tolist()
        self._class_gaps.zero_()
        return {
            name: {"cases": round(count), "gap": round(total / count, 4) if count else None}
            for name, total, count in zip(self.plan.classes, totals, counts)
        }

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential average of the generator's weights, its half-life a share of the steps taken so far."""
        share = self.plan.training.ema_share
        keep = 0.5 ** (1 / max(share * self.step_count, 1.0)) if share else 0.0
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - keep)
        for averaged, current in zip(self.average.buffers(), self.generator.buffers()):
            averaged.copy_(current)

    @torch.no_grad()
    def critic(self) -> Critic | None:
        """The discriminator with what it makes of the real cases' images, for the model file; not the article's."""
        if self.plan.method == "article":
            return None
        return self.view.critic(self.discriminator, self._whole_data())
