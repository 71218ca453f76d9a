"""The loop's limits and stages are what they are said to be; no speed is asserted."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

from fasttricks import BASELINE, SEVEN
from fasttricks.__main__ import main
from fasttricks.course import shares
from fasttricks.models import begin
from fasttricks.study import limits as module
from fasttricks.study.limits import (
    Probe,
    flops,
    limits,
    matmul_peak,
    measure_here,
    stage_shares,
    stages,
    timed,
)

SIX = sum(SEVEN, start=BASELINE) - "distributed"


def test_operations_are_counted(small):
    net = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10, bias=False))
    forward = 2 * 28 * 28 * 10
    assert flops(BASELINE, net, small) == 2 * forward, "forward, and the weights' gradient"
    assert all(p.grad is None for p in net.parameters())
    model = begin(BASELINE, "test_resnet", 1, 10, 28)
    assert flops(BASELINE, model, small) > 1e6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_peak_is_a_speed(dtype):
    assert 1e8 < matmul_peak(torch.device("cpu"), dtype) < 1e17


def test_only_steps_that_count_are_timed(monkeypatch):
    taken, x = [], torch.zeros(1)
    monkeypatch.setattr(module, "now", lambda device: float(len(taken)))
    assert timed(lambda *batch: taken.append(batch), x, x, steps=5, before=3) == 1
    assert len(taken) == 8


def test_every_size_is_timed_once_in_each_round(monkeypatch):
    """So that a slow moment of the machine spoils a round of all sizes, and not all of one."""
    seen = []

    def fake(step, x, q, steps, before):
        seen.append(len(x))
        return float(len(seen))

    monkeypatch.setattr(module, "timed", fake)
    found = measure_here(Probe(1, "smoke", [2, 4], [], 2))
    assert seen == [2, 2, 4, 4] * 3
    assert found.alone == {2: [5, 9], 4: [7, 11]}
    assert found.together == {2: [6, 10], 4: [8, 12]}
    assert found.all_reduce == {}


def test_limits_bound_the_loop(small):
    found = limits(SIX, small, "test_resnet", 28, images=640, rounds=1)
    assert found.share == found.loop / found.resident
    assert 0 < found.utilisation < 1
    assert found.utilisation == pytest.approx(found.loop * found.image / found.peak)


@pytest.mark.parametrize("recipe", [BASELINE, SIX], ids=["plain", "six"])
def test_stages_are_parts_of_one_whole(small, recipe):
    found = stages(recipe, small, "test_resnet", 28, images=1280)
    assert list(found) == ["batch", "forward", "backward", "step", "the rest"]
    assert sum(found.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in found.values()), found
    assert found["backward"] > found["batch"]


def test_shares_draw_every_part():
    parts = {"slow": {"a": 6.0, "b": 2.0}, "fast": {"a": 1.0, "b": 1.0}}
    (axes,) = shares(parts, "test").axes
    assert [bar.get_width() for bar in axes.patches] == [75, 25, 50, 50]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["slow\n8.0 s", "fast\n2.0 s"]
    assert {text.get_text() for text in axes.texts} == {"6.0", "2.0", "1.0"}


def test_the_command_tells_all(capsys, monkeypatch):
    monkeypatch.setenv("FASTTRICKS_BUDGET", "smoke")
    assert main(["speed", "--turns", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("utilisation") == 2


def test_a_gpus_own_event_of_a_stage_is_not_counted_again():
    """As torch's profiler tells of a GPU: the host's event carries the time of its kernels."""
    forward = {"name": "forward", "cpu_parent": None, "device_time_total": 2e5}
    events = [
        SimpleNamespace(**forward, device_type=DeviceType.CPU),
        SimpleNamespace(**forward, device_type=DeviceType.CUDA),
        SimpleNamespace(**{**forward, "cpu_parent": "a stage"}, device_type=DeviceType.CPU),
    ]
    found = stage_shares(events, "device_time_total", seconds=1.0)
    assert found == {"batch": 0, "forward": 0.2, "backward": 0, "step": 0, "the rest": 0.8}
