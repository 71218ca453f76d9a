"""The larger batch's rate is the rule's; the ramp is torch's LinearLR."""

import pytest
import torch

from fasttricks import LRScaling
from fasttricks.tricks.scaling import scale, warm_up


def test_rules():
    assert scale(256, 64, "linear") == 4
    assert scale(256, 64, "sqrt") == 2
    assert scale(64, 64, "linear") == scale(64, 64, "sqrt") == 1


@pytest.mark.parametrize(("ramp", "start"), [(5, 0.1), (40, 0.01), (1, 1.0)])
def test_ramp_is_torchs(ramp, start):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start, 1.0, total_iters=ramp)
    for step in range(60):
        assert warm_up(step, ramp, start) * 0.3 == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_warm_up_in_steps_or_as_a_share():
    share, steps = (
        LRScaling(512, 64, warmup=0.1, start=0.2),
        LRScaling(512, 64, warmup=10, start=0.2),
    )
    for step in range(100):
        assert share.lr_factor(step, 100, 512) == pytest.approx(steps.lr_factor(step, 100, 512))
    assert share.lr_factor(0, 100, 512) == pytest.approx(8 * 0.2)
    assert share.lr_factor(10, 100, 512) == share.lr_factor(99, 100, 512) == 8


def test_no_warm_up_starts_at_the_peak():
    assert LRScaling(128, 64, warmup=0).lr_factor(0, 100, 128) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"reference": 0},
        {"rule": "cube"},
        {"warmup": -1},
        {"start": 0},
        {"start": 1.5},
    ],
)
def test_refuses(wrong):
    with pytest.raises(ValueError, match="LRScaling"):
        LRScaling(**wrong)
