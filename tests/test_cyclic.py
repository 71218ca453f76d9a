"""Both schedules are torch's at every step: rate and momentum, for SGD and AdamW."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasttricks import Cyclic, OneCycle, Recipe
from fasttricks.loop import set_rates

STEPS, LR = 97, 0.02


def optimizers(kind):
    """Two equal optimisers: one for torch's schedule, one for ours."""
    make = {"sgd": lambda p: torch.optim.SGD(p, LR, momentum=0.9), "adamw": torch.optim.AdamW}[kind]
    return [make([{"params": [torch.zeros(1, requires_grad=True)], "rate": 1.0}]) for _ in range(2)]


def values(optimizer):
    group = optimizer.param_groups[0]
    return group["lr"], group["betas"][0] if "betas" in group else group["momentum"]


def assert_same(kind, recipe, steps, make_schedule):
    torchs, ours = optimizers(kind)
    schedule = make_schedule(torchs)
    for step in range(steps):
        set_rates(ours, recipe.lr_at(step, steps), recipe.momentum_at(step, steps))
        assert values(ours) == pytest.approx(values(torchs), rel=1e-9, abs=1e-15), step
        torchs.step()
        if step + 1 < steps:
            schedule.step()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize("half", [1, 7, 30])
def test_cyclic_is_torchs(kind, mode, half):
    trick = Cyclic(0.1, 2.0, half, mode, 0.99, 0.8, 0.95)
    assert_same(
        kind,
        Recipe(lr=LR, optimizer=kind) + trick,
        STEPS,
        lambda optimizer: torch.optim.lr_scheduler.CyclicLR(
            optimizer,
            LR * 0.1,
            LR * 2,
            step_size_up=half,
            mode=mode,
            gamma=0.99,
            cycle_momentum=True,
            base_momentum=0.8,
            max_momentum=0.95,
        ),
    )


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("steps", [5, 10, STEPS])
@pytest.mark.parametrize("rise", [0.15, 0.25, 0.5])
def test_one_cycle_is_torchs(kind, anneal, steps, rise):
    assert_same(
        kind,
        Recipe(lr=LR, optimizer=kind) + OneCycle(3.0, rise, 20.0, 500.0, anneal, 0.8, 0.9),
        steps,
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            LR * 3,
            total_steps=steps,
            pct_start=rise,
            anneal_strategy=anneal,
            div_factor=20.0,
            final_div_factor=500.0,
            base_momentum=0.8,
            max_momentum=0.9,
        ),
    )


@given(
    steps=st.integers(1, 300), rise=st.floats(0.01, 0.99), anneal=st.sampled_from(["cos", "linear"])
)
def test_one_cycle_stays_in_bounds_and_mirrors_momentum(steps, rise, anneal):
    trick = OneCycle(2.0, rise, anneal=anneal)
    rates = [trick.lr_factor(step, steps, 64) for step in range(steps)]
    momenta = [trick.momentum(step, steps) for step in range(steps)]
    assert min(rates) > 0
    assert max(rates) <= 2.0 + 1e-12
    assert all(0.85 - 1e-12 <= m <= 0.95 + 1e-12 for m in momenta)
    assert rates[-1] == pytest.approx(2.0 / 25 / 1e4)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (Cyclic, {"half": 0}),
        (Cyclic, {"mode": "square"}),
        (Cyclic, {"low": 2.0}),
        (Cyclic, {"momentum_high": 1.0}),
        (OneCycle, {"rise": 0.0}),
        (OneCycle, {"anneal": "step"}),
        (OneCycle, {"peak": 0.0}),
        (OneCycle, {"div": 0.5}),
        (OneCycle, {"momentum_low": 0.99}),
    ],
)
def test_refuses(make, wrong):
    with pytest.raises(ValueError, match=make.__name__):
        make(**wrong)
