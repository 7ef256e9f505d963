"""The game between generator and discriminator, step by step.

What a step computes stands in ``steps``, what it minimises in ``objectives``; which cases it looks at in ``sampling``
and ``view``, how they are changed in ``augmentation``; files and schedules of a whole run stand in ``run``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..networks.build import build_generator
from ..networks.discriminator import Critic
from ..planning.plan import Plan
from ..volumes.pipeline import WorkingCase, seen_voxels
from .adam import BoundedAdam
from .anatomy import Anatomy, matched
from .augmentation import STEERED_EVERY, Drawn, Strength
from .conjugate import ConjugateGradient
from .figures import StepFigures
from .loading import Batch, Loader
from .objectives import Inputs
from .precision import half_precision
from .recording import Reading, Recorder, Tensors
from .sampling import Draws, Sampler, case_weights, split_held_out
from .statistics import DataStatistics
from .steps import CHANGE, GRADIENT, MADE, Aside, Steps
from .team import Team
from .view import seen_alike, view_of

FINAL_RATE = 0.1
"""Learning rate at the end of the run as a share of that at its start."""
WARM_UP = {True: 200, False: 1000}
"""Steps in which the rate of a refiner rises, that paints in units of what cases lack or without bounds: it begins with
cases that are nearly right, its judges with no idea, and Adam walks as far by what they say at first as by what they
have learned."""
CASES_FOR_TAU = 16
HELD_OUT = "held-out cases"
USUAL, LEAST_UNIT = 0.01, 1e-3
"""Mean square, a voxel, that cases are taken to differ by from their statistical ones where it was not measured; and
over all voxels at least."""


class Trainer:
    """Both networks, their optimisers, the averaged generator and the state of the game.

    :param cases: on the plan's grid; read where they are needed, so they may be views of files.
    :param device: ``cuda``, ``mps`` or ``cpu``.
    :param seed: of weights, latents, order of cases, changes and held-out cases.
    :param team: the processes that share the work.
    :param workers: threads that read cases ahead; what they read does not depend on how many there are.
    :param anatomy: of the cases, where the plan repaints it; nothing is known of it where that is not given.

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
        anatomy: Anatomy | None = None,
    ) -> None:
        self.plan, self.seed = plan, seed
        self.device = torch.device(device)
        half, self.notes = half_precision(plan.training.precision, self.device.type)
        self.team = team or Team()
        self.step_count = 0
        self.rate_factor = 1.0
        torch.manual_seed(seed)
        self.draws = Draws(seed)
        self.part = self.team.part(plan.training.batch)
        if anatomy is None:
            training, held_out = split_held_out(cases, plan.training.held_out, self.draws)
        else:
            held_out = [index for index, case in enumerate(cases) if case.name in set(anatomy.held_out)]
            training = [index for index in range(len(cases)) if index not in set(held_out)]
        self.cases, self.held_out = [cases[i] for i in training], [cases[i] for i in held_out]
        self.labelled = torch.tensor([case.labels is not None for case in self.cases])
        all_labelled = bool(self.labelled.all()) and all(case.labels is not None for case in self.held_out)
        self.sampler = Sampler(
            self.draws, case_weights(self.cases, plan.training.balance), self.labelled, plan.training.labelled_share
        )
        self.view = view_of(plan, self.cases[:CASES_FOR_TAU], self.device)
        about = (self.view.part, self._starts, len(plan.labels), self.device.type == "cuda", plan.repaints)
        self.loader = Loader(self.cases, self._choose, plan.classes, workers, *about)
        self._held_out_loader = Loader(self.held_out, self._choose, plan.classes, 0, *about)
        self.strength = Strength(plan.augmentation.largest, plan.augmentation.target, plan.augmentation.ramp_cases)

        self.generator = build_generator(plan).to(self.device)
        self.discriminator = self.view.discriminator().to(self.device)
        self.statistics: DataStatistics | None = None
        if not plan.repaints:
            with torch.no_grad():
                self.statistics = DataStatistics.of(self._statistics_data(), len(plan.channels))
            if plan.method != "article":
                self.generator.start_from(self.statistics.means[0])
        elif anatomy is not None:
            self.generator.take(copy.deepcopy(anatomy.statistical), anatomy.seen, anatomy.residuals)
            self.generator.to(self.device)
        has_own = anatomy is not None and plan.training.matched
        self._own_latents = anatomy.latents_of(self.cases, plan.classes) if has_own else None
        self._freeze()
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        if plan.repaints:
            self.average.share(self.generator)
        self.generator_optimizer = self._optimizer(self.generator)
        self.discriminator_optimizer = self._optimizer(self.discriminator)
        # Where parts are cut is known to this process alone, dropout draws, a team talks going backward, and how
        # often a velocity is composed with itself depends on how large it is.
        plain = plan.method == "ged" and not plan.repaints
        recordable = plain and self.view.part is None and self.team.size == 1
        self.recorder = Recorder(self.device, recordable and half is not torch.float16)
        self.forget_readings()
        self.steps = Steps(
            plan, self.view, self.team, half, self.generator, self.discriminator, self.statistics, all_labelled,
            self._penalty_units(anatomy),
        )  # fmt: skip

    def forget_readings(self) -> None:
        """Forget what was measured and not yet told or acted on: before a first step, and when going back to an earlier
        one, after which it may be no number."""
        self._penalty = torch.zeros((), device=self.device)
        self._steered: Reading | None = None
        self._class_gaps = torch.zeros(2, len(self.plan.classes), device=self.device)

    def _penalty_units(self, anatomy: Anatomy | None) -> Tensor | None:
        """What the penalty of each judge is relative to, where the plan has it so."""
        if not self.plan.statistical.relative:
            return None
        known = None if anatomy is None or anatomy.residuals is None else anatomy.residuals.judged
        if known is None:  # as where a few steps are timed
            known = torch.full((1 if self.view.field is None else 2,), USUAL * math.prod(self.plan.grid.shape))
        return known.clamp_min(LEAST_UNIT).to(self.device)

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

    def _latents(self, player: str = "generator") -> Tensor:
        shape = (self.plan.training.batch, self.plan.networks.latent_size)
        random = self.draws.of(f"latents of the {player}", self.step_count)
        latents = torch.randn(shape, generator=random)
        if self._own_latents is None or player == HELD_OUT:
            return latents[self.part]
        own = self._own_latents[self.sampler.choose(self.step_count, len(latents))]
        return matched(latents, own, self.plan.training.matched)[self.part]

    def _changes(self, player: str) -> Drawn | None:
        """How the batch is changed before this player's discriminator sees it; None for not at all."""
        settings = self.plan.augmentation
        if self.strength.value == 0 or not (settings.kinds or settings.flips):
            return None
        random = self.draws.of(f"changes for the {player}", self.step_count)
        return self.view.augmentation.draw(
            self.plan.training.batch, len(self.plan.channels), self.strength.value, random
        ).part(self.part)

    # ---- precision and rates

    def set_progress(self, progress: float) -> None:
        """Set the learning rates for ``progress`` in [0, 1] of the run: half a cosine down to :data:`FINAL_RATE`.

        The article's baseline keeps its rate, as the article has it; a refiner's begins low, see :data:`WARM_UP`.
        """
        if not self.held_out:
            self.strength.follow(progress)
        share = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
        if self.plan.method == "article":
            share = 1.0
        slow = WARM_UP[self.plan.statistical.relative]
        begun = min((self.step_count + 1) / slow, 1.0) if self.plan.repaints else 1.0
        for optimizer, own in ((self.generator_optimizer, begun), (self.discriminator_optimizer, 1.0)):
            for group in optimizer.param_groups:
                group["lr"] = own * share * self.rate_factor * self.plan.training.learning_rate

    # ---- a step

    def step(self) -> StepFigures:
        """One update of each player."""
        settings = self.plan.training
        batch = self.loader.batch(self.step_count)
        steered = bool(self.held_out) and self.step_count % STEERED_EVERY == 0
        held_out_gap = self._held_out_gap() if steered else None
        penalised = settings.penalty_weight > 0 and self.step_count % settings.penalty_interval == 0
        share = torch.rand(settings.batch, generator=self.draws.of("points between", self.step_count))[self.part]
        # A refiner costs more than its judges: these look at the cases that it has just learned with.
        made = self._play("generator", self.steps.of_generator, batch) if self.plan.repaints else {}
        cases = {name: value for name, value in made.items() if name.startswith(MADE)}
        judged = self._play("discriminator", self.steps.of_discriminator, batch, penalised, share=share, **cases)
        self._descend(self.discriminator_optimizer, self.steps.judge_weights(), judged)
        gaps = judged["real"] - judged["generated"]
        # Copies: what a recorded step leaves is gone with the next one.
        pairing, gaps = judged["pairing"].clone(), gaps.reshape(len(gaps), -1)
        if penalised:
            self._penalty = judged["penalty"].clone()
        if steered:
            self._steer(gaps[:, 0].mean(), held_out_gap)  # of the image's head
        made = made or self._play("generator", self.steps.of_generator, batch)
        norm = self._descend(self.generator_optimizer, self.steps.generator_weights(), made, self.steps.scaler)
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
        return self.recorder.run(key, partial(function, Aside(drawn, starts), *settings), inputs)

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
        random = self.draws.of(HELD_OUT, self.step_count)
        chosen = torch.randint(len(self.held_out), (self.plan.training.batch,), generator=random)[self.part]
        batch = self._held_out_loader.read(chosen, self._starts(self.step_count))
        return self._play(HELD_OUT, self.steps.of_held_out, batch)["gap"].clone()

    @torch.no_grad()
    def _note_classes(self, batch: Batch, gaps: Tensor) -> None:
        if not self.plan.classes:
            return
        members = self.steps.class_weights(batch)
        own = torch.where(members > 0, gaps.float()[:, None], 0.0)  # a gap that is no number spoils its class alone
        self._class_gaps += self.team.sum(torch.stack([own.sum(0), members.sum(0)]))

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
        average, generator = self.learning(self.average), self.learning(self.generator)
        torch._foreach_lerp_(list(average.parameters()), list(generator.parameters()), 1 - keep)
        for averaged, current in zip(average.buffers(), generator.buffers()):
            averaged.copy_(current)

    def as_seen(self, cases: Tensor) -> Tensor:
        """Made cases as if scans had seen of them what they saw of training cases, where these are compared.

        :param cases: (N, C + labels, *grid), on the CPU.
        """
        if not self.plan.repaints:
            return cases
        views = [seen_voxels(self.cases[index % len(self.cases)]) for index in range(len(cases))]
        return seen_alike(cases, torch.from_numpy(np.stack(views)), len(self.plan.channels))

    def learning(self, network: nn.Module) -> nn.Module:
        """What learns of a generator of the plan: all of it, or the refiner."""
        return network.refiner if self.plan.repaints else network

    @torch.no_grad()
    def critic(self) -> Critic | None:
        """The discriminator with what it makes of the real cases' images, for the model file; not the article's."""
        if self.plan.method == "article":
            return None
        return self.view.critic(self.discriminator, self._whole_data())
