"""The game between generator and discriminator, step by step.

What a step minimises stands in ``objectives``; files and schedules of a whole run stand in ``run``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..networks.blocks import channels_last
from ..networks.build import build_agreement, build_discriminator, build_field, build_generator, field_channels, seen
from ..networks.discriminator import Critic
from ..plan import Plan
from ..structure.field import median_trace
from ..volumes.pipeline import WorkingCase
from .conjugate import ConjugateGradient
from .objectives import Inputs, Judge, discriminator_loss, generator_loss
from .statistics import DataStatistics

FINAL_RATE = 0.1
"""Learning rate at the end of the run as a share of that at its start."""
CASES_FOR_TAU = 16
RUNNING = {"steps", "squared_norm", "restarts"}
"""Entries of an optimiser's group that change while it runs, so that resuming needs them."""


@dataclass(frozen=True)
class StepFigures:
    """What one step says about the game; plain numbers.

    :param gap: mean of D(real) - D(generated); near 0 the players are even.
    :param penalty: R1 + R2, before its weight.
    :param distance: of the generated batch from the data's mean case and field; wavers around its expectation.
    """

    discriminator_loss: float
    generator_loss: float
    penalty: float
    gap: float
    distance: float

    def finite(self) -> bool:
        return all(math.isfinite(value) for value in vars(self).values())


class Trainer:
    """Both networks, their optimisers, the averaged generator and the random state of a training.

    :param cases: on the plan's grid; all are held in memory.
    :param device: ``cuda``, ``mps`` or ``cpu``.
    :param seed: of weights, latents and order of cases.
    """

    def __init__(self, plan: Plan, cases: Sequence[WorkingCase], device: str, seed: int) -> None:
        self.plan = plan
        self.device = torch.device(device)
        self.seed = seed
        self.step_count = 0
        torch.manual_seed(seed)
        self.random = torch.Generator().manual_seed(seed)
        self.images = torch.stack([torch.from_numpy(case.image) for case in cases])
        grid = tuple(plan.grid.shape)
        blank = torch.zeros(grid, dtype=torch.uint8)
        self.labels = torch.stack([blank if case.labels is None else torch.from_numpy(case.labels) for case in cases])
        self.labelled = torch.tensor([case.labels is not None for case in cases])
        self.all_labelled = bool(self.labelled.all())
        first = list(self.images[:CASES_FOR_TAU])
        self.tau = median_trace(first, plan.field.sigma, plan.field.rho, plan.grid.spacing)
        self.field = build_field(plan, self.tau)
        self.agreement = build_agreement(plan, self.tau)

        self.generator = build_generator(plan).to(self.device)
        self.discriminator = build_discriminator(plan).to(self.device)
        with torch.no_grad():
            batches = ((self._without_agreement(inputs), labelled) for inputs, labelled in self._whole_data())
            self.statistics = DataStatistics.of(batches, len(plan.channels))
        if plan.method != "article":
            self.generator.start_from(self.statistics.means[0])
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()

        self.generator_optimizer = self._optimizer(self.generator)
        self.discriminator_optimizer = self._optimizer(self.discriminator)

    def _optimizer(self, network: torch.nn.Module) -> torch.optim.Optimizer:
        settings = self.plan.training
        if settings.optimizer == "adam":
            return torch.optim.Adam(
                network.parameters(), settings.learning_rate, betas=(settings.beta1, settings.beta2)
            )
        return ConjugateGradient(network.parameters(), settings.learning_rate, settings.optimizer, beta2=settings.beta2)

    def _whole_data(self) -> Iterator[tuple[Inputs, Tensor]]:
        """All cases once, in batches, as the discriminator sees them."""
        for chosen in torch.arange(len(self.images)).split(self.plan.training.batch):
            case, labelled = self._cases(chosen)
            yield self._see(case), labelled

    def _real(self) -> tuple[Tensor, Tensor]:
        """A batch of real cases (N, C + labels, *grid) and which of them are labelled (N,)."""
        batch = self.plan.training.batch
        chosen = torch.randint(len(self.images), (batch,), generator=self.random)
        from_labelled = math.ceil(self.plan.training.labelled_share * batch)
        if from_labelled and bool(self.labelled.any()):
            few = self.labelled.nonzero()[:, 0]
            chosen[:from_labelled] = few[torch.randint(len(few), (from_labelled,), generator=self.random)]
        return self._cases(chosen)

    def _cases(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        case = self.images[chosen].to(self.device)
        if self.plan.labels:
            classes = functional.one_hot(self.labels[chosen].to(self.device).long(), len(self.plan.labels) + 1)
            case = torch.cat([case, classes.movedim(-1, 1).to(case.dtype)], 1)
        case = case.to(memory_format=channels_last(self.plan.spatial_dims))
        return case, self.labelled[chosen].to(self.device)

    def _judge(self, labelled: Tensor) -> Judge:
        """The discriminator for a batch of which those cases are labelled."""
        # Shutting labels costs copies of the whole batch, forth and back and back again: not where there is no need.
        shown = None if self.all_labelled else labelled
        return lambda inputs: self.discriminator(*inputs, labelled=shown)

    def _latents(self) -> Tensor:
        shape = (self.plan.training.batch, self.plan.networks.latent_size)
        return torch.randn(shape, generator=self.random).to(self.device)

    def _see(self, case: Tensor) -> Inputs:
        return seen(case, self.field, self.agreement, len(self.plan.channels))

    def _without_agreement(self, inputs: Inputs) -> Inputs:
        """What has a mean over all cases, with labels or without: the case and its field."""
        if self.agreement is None:
            return inputs
        count = field_channels(self.plan)
        return (inputs[0], inputs[1][:, :count]) if count else inputs[:1]

    @torch.no_grad()
    def critic(self) -> Critic | None:
        """The discriminator with what it makes of the real cases' images, for the model file; not the article's."""
        if self.plan.method == "article":
            return None
        maps = []
        for inputs, _ in self._whole_data():
            maps.append(self.discriminator.realness(*inputs, labelled=torch.zeros(len(inputs[0]), device=self.device)))
        realness = torch.cat(maps)
        # A floor for places where all cases are alike, air for example.
        deviation = realness.std(0, correction=0)
        return Critic(
            self.discriminator, self.tau, realness.mean(0), deviation.clamp_min(0.05 * float(deviation.max()))
        )

    def set_progress(self, progress: float) -> None:
        """Set the learning rates for ``progress`` in [0, 1] of the run: half a cosine down to :data:`FINAL_RATE`.

        The article's baseline keeps its rate, as the article has it.
        """
        if self.plan.method == "article":
            return
        share = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = share * self.plan.training.learning_rate

    def step(self) -> StepFigures:
        """One update of each player."""
        real, labelled = self._real()
        judge = self._judge(labelled)
        with torch.no_grad():
            generated = self.generator(self._latents())
            seen_real = self._see(real)
            seen_generated = self._see(generated)
        settings = self.plan.training
        penalised = self.step_count % settings.penalty_interval == 0
        weight = settings.penalty_weight * settings.penalty_interval if penalised else 0.0
        loss = discriminator_loss(judge, seen_real, seen_generated, weight, settings.objective, self.random)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        self.discriminator_optimizer.step()

        self.discriminator.requires_grad_(False)
        generated = self._see(self.generator(self._latents()))
        pairing = generator_loss(judge, seen_real, generated, settings.objective)
        distance = self.statistics.distance(self._without_agreement(generated))
        self.generator_optimizer.zero_grad(set_to_none=True)
        (pairing + settings.statistics_weight * distance).backward()
        self.generator_optimizer.step()
        self.discriminator.requires_grad_(True)

        self.step_count += 1
        self._update_average()
        return StepFigures(
            discriminator_loss=float(loss.pairing),
            generator_loss=float(pairing.detach()),
            penalty=float(loss.penalty),
            gap=float((loss.real - loss.generated).mean()),
            distance=float(distance.detach()),
        )

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential average of the generator's weights, its half-life a share of the steps taken so far."""
        share = self.plan.training.ema_share
        keep = 0.5 ** (1 / max(share * self.step_count, 1.0)) if share else 0.0
        for averaged, current in zip(self.average.parameters(), self.generator.parameters()):
            averaged.lerp_(current, 1 - keep)
        for averaged, current in zip(self.average.buffers(), self.generator.buffers()):
            averaged.copy_(current)

    def state(self) -> dict[str, Tensor]:
        """All tensors that resuming needs: weights, average, optimisers, random state."""
        tensors = {"random": self.random.get_state(), "global_random": torch.get_rng_state()}
        for name, network in self._networks().items():
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for name, optimizer in self._optimizers().items():
            values = optimizer.state_dict()
            for index, moments in values["state"].items():
                tensors |= {f"{name}.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
            for key in RUNNING & values["param_groups"][0].keys():
                tensors[f"{name}.group.{key}"] = torch.tensor(values["param_groups"][0][key], dtype=torch.float64)
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def load_state(self, tensors: dict[str, Tensor], step_count: int) -> None:
        """Continue from what :meth:`state` returned.

        :raises KeyError, RuntimeError: it belongs to another plan.
        """
        self.step_count = step_count
        self.random.set_state(tensors["random"])
        torch.set_rng_state(tensors["global_random"])  # of dropout, in the article's discriminator
        for name, network in self._networks().items():
            prefix = name + "."
            network.load_state_dict(
                {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            )
        for name, optimizer in self._optimizers().items():
            values = optimizer.state_dict()
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{name}.group."):
                    values["param_groups"][0][key.split(".")[2]] = value.item()
                elif key.startswith(name + "."):
                    _, index, moment = key.split(".")
                    state.setdefault(int(index), {})[moment] = value
            self._check_moments(optimizer, state)
            optimizer.load_state_dict({**values, "state": state})

    @staticmethod
    def _check_moments(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
        """:raises KeyError: the state is another optimiser's."""
        wanted = "direction" if isinstance(optimizer, ConjugateGradient) else "exp_avg_sq"
        if any(wanted not in moments for moments in state.values()):
            raise KeyError(wanted)

    def _networks(self) -> dict[str, torch.nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
