"""The objectives against what they are defined to be."""

from __future__ import annotations

import math

import pytest
import torch

from GEDGANLib.training.objectives import OBJECTIVES, discriminator_loss, generator_loss, gradient_penalty


def linear_judge(weights):
    return lambda inputs: sum((part * weight).flatten(1).sum(1) for part, weight in zip(inputs, weights))


def test_penalty_of_a_linear_judge_is_its_squared_weights():
    weights = (torch.randn(1, 2, 3, 3, 3, dtype=torch.float64), torch.randn(1, 4, 2, 2, 2, dtype=torch.float64))
    real = tuple(torch.randn(5, *weight.shape[1:], dtype=torch.float64) for weight in weights)
    fake = tuple(torch.randn(5, *weight.shape[1:], dtype=torch.float64) for weight in weights)
    loss = discriminator_loss(linear_judge(weights), real, fake, penalty_weight=3.0)
    squared = sum(weight.square().sum() for weight in weights)
    torch.testing.assert_close(loss.penalty, 2 * squared)
    torch.testing.assert_close(loss.total, loss.pairing + 1.5 * 2 * squared)


def test_players_are_even_at_log_two():
    same = (torch.randn(4, 1, 2, 2, 2),)
    judge = linear_judge((torch.randn(1, 1, 2, 2, 2),))
    assert math.isclose(float(discriminator_loss(judge, same, same, 0).pairing), math.log(2), rel_tol=1e-6)
    assert math.isclose(float(generator_loss(judge, same, same)), math.log(2), rel_tol=1e-6)


def test_generator_learns_through_the_field():
    case = torch.randn(2, 1, 4, 4, 4, requires_grad=True)
    judge = linear_judge((torch.zeros(1, 1, 4, 4, 4), torch.randn(1, 1, 4, 4, 4)))
    generator_loss(judge, (case.detach(), case.detach() ** 2), (case, case**2)).backward()
    assert case.grad.abs().sum() > 0


def test_a_better_generator_has_the_smaller_loss():
    judge = linear_judge((torch.ones(1, 1, 2, 2, 2),))
    real = (torch.ones(2, 1, 2, 2, 2),)
    near, far = (torch.full((2, 1, 2, 2, 2), 0.9),), (torch.zeros(2, 1, 2, 2, 2),)
    assert generator_loss(judge, real, near) < generator_loss(judge, real, far)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_pulls_the_logits_its_way(objective):
    """D raises the logits of real cases against those of generated ones; G raises those of its own."""
    real = torch.zeros(3, requires_grad=True)
    generated = torch.zeros(3, requires_grad=True)
    OBJECTIVES[objective].discriminator(real, generated).sum().backward()
    assert (real.grad < 0).all() and (generated.grad > 0).all()
    generated.grad = None
    OBJECTIVES[objective].generator(real.detach(), generated).sum().backward()
    assert (generated.grad < 0).all()


def test_objectives_at_chosen_logits():
    real, generated = torch.tensor([0.5]), torch.tensor([-2.0])
    sigmoid = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(2.0))  # probabilities of being real

    def loss(name):
        return float(OBJECTIVES[name].discriminator(real, generated)), float(
            OBJECTIVES[name].generator(real, generated)
        )

    assert loss("bce") == pytest.approx((-math.log(sigmoid[0]) - math.log(1 - sigmoid[1]), -math.log(sigmoid[1])))
    assert loss("hinge") == pytest.approx((0.5 + 0.0, 2.0))
    assert loss("wasserstein") == pytest.approx((-2.5, 2.0))
    # D of the article is the probability of being generated.
    assert loss("article") == pytest.approx(((1 - sigmoid[0]) + 1 - (1 - sigmoid[1]), (1 - sigmoid[1]) - 1))


def test_the_wasserstein_penalty_is_zero_at_slope_one():
    weight = torch.randn(1, 2, 3, 3, 3, dtype=torch.float64)
    weight /= weight.square().sum().sqrt()
    real, fake = (torch.randn(5, 2, 3, 3, 3, dtype=torch.float64),), (torch.randn(5, 2, 3, 3, 3, dtype=torch.float64),)
    assert float(discriminator_loss(linear_judge((weight,)), real, fake, 10.0, "wasserstein").penalty) < 1e-12
    steep = discriminator_loss(linear_judge((3 * weight,)), real, fake, 10.0, "wasserstein")
    assert float(steep.penalty) == pytest.approx(4.0)
    torch.testing.assert_close(steep.total, steep.pairing + 10 * steep.penalty)


def test_the_penalty_of_two_heads_is_the_sum_of_theirs():
    torch.manual_seed(0)
    x = torch.randn(4, 3, requires_grad=True)
    first, second = torch.randn(3), torch.randn(3)
    both = torch.stack([x @ first, (x @ second) ** 2], 1)
    expected = gradient_penalty(x @ first, (x,)) + gradient_penalty((x @ second) ** 2, (x,))
    torch.testing.assert_close(gradient_penalty(both, (x,)), expected)
