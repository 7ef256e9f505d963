"""Conjugate-gradient updates: theory on quadratics, care in games, state that survives."""

from __future__ import annotations

import math

import pytest
import torch

from GEDGANLib.training.conjugate import VARIANTS, ConjugateGradient

SIZE = 12


def quadratic(condition: float, seed: int = 0):
    """½ xᵀAx - bᵀx in float64 with eigenvalues from 1 to ``condition``, and its minimiser."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.logspace(0, math.log10(condition), SIZE, dtype=torch.float64)) @ basis.T
    target = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    return (lambda x: 0.5 * (x - target) @ matrix @ (x - target)), target


def minimise(function, steps, make):
    x = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    optimizer = make([x])
    values = [float(function(x).detach())]
    for _ in range(steps):

        def closure():
            optimizer.zero_grad()
            loss = function(x)
            loss.backward()
            return loss

        optimizer.step(closure)
        values.append(float(function(x).detach()))
    return values, optimizer


@pytest.mark.parametrize("variant", VARIANTS)
def test_exact_in_as_many_steps_as_dimensions(variant):
    """With exact step lengths all variants are linear conjugate gradient (Hestenes and Stiefel 1952, theorem 6:1)."""
    function, _ = quadratic(50.0)
    values, _ = minimise(
        function,
        SIZE,
        lambda x: ConjugateGradient(x, 10.0, variant, preconditioned=False, largest_beta=math.inf, secant=True),
    )
    assert values[-1] < 1e-12 * values[0]
    steepest, _ = minimise(
        function, SIZE, lambda x: ConjugateGradient(x, 10.0, preconditioned=False, largest_beta=0.0, secant=True)
    )
    assert steepest[-1] > 1e-4 * steepest[0]


@pytest.mark.parametrize(
    ("variant", "share"), [("FR", 0.7), ("HZ", 0.7), ("PRP+", 1.001), ("HS", 1.001), ("DY", 1.001)]
)
def test_gradient_descent_at_the_same_short_step_is_no_better(variant, share):
    """A fixed step of 1/L, as in a game, where there is no function to search along: gradients then hardly turn, so
    the variants that measure their turn stay with gradient descent, and those that do not go faster."""
    function, _ = quadratic(200.0)
    ours, _ = minimise(function, 60, lambda x: ConjugateGradient(x, 1 / 200, variant, False, largest_beta=0.9))
    descent, _ = minimise(function, 60, lambda x: torch.optim.SGD(x, 1 / 200))
    assert ours[-1] < share * descent[-1]


@pytest.mark.parametrize("preconditioned", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_step_descends(variant, preconditioned):
    for seed in range(5):
        function, _ = quadratic(100.0, seed)
        values, _ = minimise(function, 1, lambda x: ConjugateGradient(x, 1e-3, variant, preconditioned))
        assert values[1] < values[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_direction_that_does_not_descend_is_dropped(variant):
    """A gradient that turns round at every step, as it does in a game: never uphill, and restarts are counted."""
    x = torch.ones(4, dtype=torch.float64, requires_grad=True)
    optimizer = ConjugateGradient([x], 0.1, variant, preconditioned=False, largest_beta=50.0)
    random = torch.Generator().manual_seed(0)
    for step in range(40):
        x.grad = torch.randn(4, generator=random, dtype=torch.float64) * (10 if step % 2 else 0.5)
        optimizer.step()
        direction, gradient = optimizer.state[x]["direction"], optimizer.state[x]["gradient"]
        assert float(direction @ gradient) <= -0.099 * float(gradient @ gradient)
    # HZ descends at least 7/8 as steeply by its own formula (Hager and Zhang 2005, theorem 1.1).
    assert optimizer.param_groups[0]["restarts"] > 0 or variant == "HZ"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bilinear_game_with_penalty_settles(variant):
    """min_x max_y xy + 0.1 (x² - y²): gradient play must not be driven apart by the directions."""
    x = torch.tensor([1.0], requires_grad=True)
    y = torch.tensor([1.0], requires_grad=True)
    players = [ConjugateGradient([p], 0.05, variant, preconditioned=False) for p in (x, y)]
    for _ in range(1500):
        for player, optimizer, sign in ((x, players[0], 1.0), (y, players[1], -1.0)):
            optimizer.zero_grad()
            (sign * (x * y + 0.1 * (x**2 - y**2))).sum().backward(inputs=[player])
            optimizer.step()
    assert float((x.abs() + y.abs()).detach()) < 0.2


@pytest.mark.parametrize("preconditioned", [True, False])
def test_saved_state_goes_on_as_if_nothing_had_been(preconditioned):
    function, _ = quadratic(30.0)

    def run(x, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            function(x).backward()
            optimizer.step()

    def new():
        x = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
        return x, ConjugateGradient([x], 0.01, "PRP+", preconditioned)

    whole, optimizer = new()
    run(whole, optimizer, 10)
    half, optimizer = new()
    run(half, optimizer, 5)
    saved = optimizer.state_dict()
    rest, optimizer = new()
    with torch.no_grad():
        rest.copy_(half)
    optimizer.load_state_dict(saved)
    run(rest, optimizer, 5)
    torch.testing.assert_close(rest, whole, rtol=0, atol=0)


def test_what_cannot_be_is_refused():
    x = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="one of PRP\\+, FR"):
        ConjugateGradient([x], variant="CG")
    with pytest.raises(ValueError, match="above 0"):
        ConjugateGradient([x], lr=0.0)
    with pytest.raises(ValueError, match="closure"):
        ConjugateGradient([x], secant=True).step()


def test_groups_step_from_one_point():
    """The trial step of one group must not change the gradient that the next one uses."""
    first, second = (torch.nn.Parameter(torch.tensor([value])) for value in (1.0, 2.0))
    optimizer = ConjugateGradient(
        [{"params": [first]}, {"params": [second]}], lr=0.5, variant="FR", preconditioned=False, secant=True
    )

    def closure():
        optimizer.zero_grad()
        loss = first**2 + second**2 + first * second
        loss.sum().backward()
        return loss

    closure()
    expected = second.grad.clone()
    optimizer.step(closure)
    torch.testing.assert_close(optimizer.state[second]["gradient"], expected)


def test_a_gradient_that_comes_late_starts_the_group_anew():
    early, late = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = ConjugateGradient([early, late], lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        (early.square().sum() + (late.square().sum() if step else 0.0)).backward()
        optimizer.step()
    assert float(late.detach().abs().max()) < 1
