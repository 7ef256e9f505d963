"""Adam with bounded steps: Adam's own steps where they are usual, the learning rate where they would be larger."""

from __future__ import annotations

import torch

from GEDGANLib.training.adam import BoundedAdam

RATE, BETAS = 0.01, (0.0, 0.99)


def after(optimizer_class, gradients) -> list[torch.Tensor]:
    """The weights after each gradient."""
    weights = [torch.zeros(50, requires_grad=True), torch.zeros(3, requires_grad=True)]
    optimizer = optimizer_class(weights, RATE, betas=BETAS)
    states = []
    for gradient in gradients:
        for weight in weights:
            weight.grad = gradient[: len(weight)].clone()
        optimizer.step()
        states.append(torch.cat([weight.detach() for weight in weights]))
    return states


def test_usual_steps_are_adams():
    # Falling gradients never make a step larger than the rate.
    gradients = [torch.randn(50, generator=torch.Generator().manual_seed(0)).sign() * 0.97**i for i in range(20)]
    for bounded, plain in zip(after(BoundedAdam, gradients), after(torch.optim.Adam, gradients)):
        torch.testing.assert_close(bounded, plain)


def test_a_sudden_gradient_moves_weights_by_the_rate_and_not_ten_times_as_far():
    small = [torch.full((50,), 1e-3)] * 300
    sudden = torch.linspace(0.5, 2.0, 50)
    plain = after(torch.optim.Adam, [*small, sudden])
    bounded = after(BoundedAdam, [*small, sudden])
    jumps = [float((states[-1] - states[-2])[:50].square().mean().sqrt()) / RATE for states in (plain, bounded)]
    assert jumps[0] > 9 and abs(jumps[1] - 1) < 1e-3
    way, plain_way = (bounded[-1] - bounded[-2])[:50], (plain[-1] - plain[-2])[:50]
    torch.testing.assert_close(way / way.norm(), plain_way / plain_way.norm())  # the same way, less far


def test_a_rate_of_zero_and_a_weight_without_gradient_are_left_alone():
    weights = [torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)]
    weights[0].grad = torch.ones(4)
    optimizer = BoundedAdam(weights, RATE, betas=BETAS)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert all(bool((weight == 1).all()) for weight in weights)
