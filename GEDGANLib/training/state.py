"""All that a training needs to go on exactly where it was, as named tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .conjugate import ConjugateGradient
from .trainer import Trainer

RUNNING = {"steps", "squared_norm", "restarts"}
"""Entries of an optimiser's group that change while it runs, so that resuming needs them."""


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    """Weights, averaged weights, optimisers, augmentation and the random state of layers; copies."""
    tensors = {"global_random": torch.get_rng_state(), "strength": trainer.strength.state()}
    tensors["rate_factor"] = torch.tensor(trainer.rate_factor, dtype=torch.float64)
    for name, network in _networks(trainer).items():
        tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    for name, optimizer in _optimizers(trainer).items():
        values = optimizer.state_dict()
        for index, moments in values["state"].items():
            tensors |= {f"{name}.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        for key in RUNNING & values["param_groups"][0].keys():
            tensors[f"{name}.group.{key}"] = torch.tensor(values["param_groups"][0][key], dtype=torch.float64)
    for key, value in trainer.steps.scaler.state_dict().items():
        tensors[f"scaler.{key}"] = torch.as_tensor(value)
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def load_state(trainer: Trainer, tensors: dict[str, Tensor], step_count: int) -> None:
    """Continue from what :func:`state_of` returned.

    :raises KeyError, RuntimeError: it belongs to another plan.
    """
    trainer.step_count = step_count
    trainer.forget_readings()
    trainer.strength.load_state(tensors["strength"])
    trainer.rate_factor = float(tensors["rate_factor"])
    torch.set_rng_state(tensors["global_random"].cpu())  # of dropout, in the article's discriminator
    for name, network in _networks(trainer).items():
        network.load_state_dict(_below(name, tensors))
    for name, optimizer in _optimizers(trainer).items():
        values = optimizer.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(name, tensors).items():
            place, entry = key.split(".")
            if place == "group":
                values["param_groups"][0][entry] = value.item()
            else:
                state.setdefault(int(place), {})[entry] = value
        _check_moments(optimizer, state)
        optimizer.load_state_dict({**values, "state": state})
    scaler: dict[str, Any] = {key: value.item() for key, value in _below("scaler", tensors).items()}
    if scaler and trainer.steps.scaler.is_enabled():
        trainer.steps.scaler.load_state_dict(scaler)


def finite(tensors: dict[str, Tensor]) -> bool:
    """Whether all are numbers."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values() if tensor.is_floating_point())


def _below(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = name + "."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _check_moments(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    """:raises KeyError: the state is another optimiser's, or that of other weights."""
    wanted = "direction" if isinstance(optimizer, ConjugateGradient) else "exp_avg_sq"
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, moments in state.items():
        if wanted not in moments or index >= len(weights) or moments[wanted].shape != weights[index].shape:
            raise KeyError(wanted)


def _networks(trainer: Trainer) -> dict[str, torch.nn.Module]:
    generator, average = trainer.learning(trainer.generator), trainer.learning(trainer.average)
    return {"generator": generator, "discriminator": trainer.discriminator, "average": average}


def _optimizers(trainer: Trainer) -> dict[str, torch.optim.Optimizer]:
    return {
        "generator_optimizer": trainer.generator_optimizer,
        "discriminator_optimizer": trainer.discriminator_optimizer,
    }
