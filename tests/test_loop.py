"""The loop: any subset trains, a seed repeats, a skipped step advances nothing."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from fasttricks import BASELINE, SEVEN, Distributed, MixedPrecision, OneCycle, loop, train
from fasttricks.loop import World, accuracy, fit
from fasttricks.models import begin, create

PLAIN = replace(BASELINE, batch=64)
ALONE = tuple(trick for trick in SEVEN if "world" not in trick.slots)


@pytest.mark.parametrize("size", range(len(ALONE) + 1))
def test_every_subset_trains(size, small):
    """The other half of the 2^7, with processes, is in test_processes.py."""
    for chosen in combinations(ALONE, size):
        recipe = sum(chosen, start=BASELINE)
        net = begin(recipe, "test_resnet", 1, 10, 28)
        done = fit(recipe, net, small, 2 * recipe.global_batch, 0, 1)
        assert done.steps == 2
        assert all(tensor.isfinite().all() for tensor in net.state_dict().values()), recipe.names


@pytest.mark.parametrize("recipe", [BASELINE, sum(ALONE, start=BASELINE)], ids=["plain", "six"])
def test_a_seed_repeats(recipe, small):
    runs = [train(recipe, small, images=640, seed=seed) for seed in (3, 3, 4)]
    states = [run.net.state_dict() for run in runs]
    same = [all(torch.equal(states[0][n], state[n]) for n in state) for state in states]
    assert same == [True, True, False]
    assert [c[2] for c in runs[0].curve] == [c[2] for c in runs[1].curve]


def test_callers_randomness_is_left_alone(small):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    train(PLAIN, small, images=64)
    assert torch.equal(torch.rand(1), expected)


def test_a_skipped_step_advances_nothing(small, monkeypatch):
    """fp16 with a scale so large that the first steps overflow."""
    rates, recipe = [], replace(PLAIN, clip=1.0) + OneCycle(2.0) + MixedPrecision("fp16")
    real = loop.set_rates
    monkeypatch.setattr(loop, "set_rates", lambda o, lr, m: (rates.append((lr, m)), real(o, lr, m)))
    monkeypatch.setattr(
        MixedPrecision,
        "scaler",
        lambda self, device: torch.amp.GradScaler("cpu", init_scale=2.0**40),
    )
    done = fit(recipe, create("test_resnet", 1, 10), small, 10 * 64, 0, 1)
    skipped = done.skipped_steps
    assert (done.steps, done.images_seen) == (10, 640), (
        "a skipped step's images are not among those seen"
    )
    assert skipped > 0
    assert rates[: skipped + 1] == rates[:1] * (skipped + 1)
    curve = [(recipe.lr_at(step, 10), recipe.momentum_at(step, 10)) for step in range(10)]
    assert list(dict.fromkeys(rates)) == curve


def test_endless_overflow_is_given_up(small):
    net = create("test_resnet", 1, 10)
    torch.nn.init.constant_(net.fc.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="in the loss itself, in the forward pass"):
        fit(PLAIN + MixedPrecision("fp16"), net, small, 640, 0, 1)


def test_overflowing_gradients_are_told_from_an_overflowing_loss(small, monkeypatch):
    net = create("test_resnet", 1, 10)
    net.fc.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(FloatingPointError, match="overflowed in the gradients"):
        fit(PLAIN + MixedPrecision("fp16"), net, small, 640, 0, 1)


def test_clipping_sees_unscaled_gradients(small, monkeypatch):
    norms = []
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda p, c: norms.append(real(p, c).item())
    )
    for dtype in ("fp32", "fp16"):
        torch.manual_seed(0)
        recipe = replace(PLAIN, clip=0.5) + MixedPrecision(dtype)
        fit(recipe, create("test_resnet", 1, 10), small, 64, 0, 1)
    assert norms[1] == pytest.approx(norms[0], rel=0.05), "not 65,536 times larger"


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_evaluation_counts_every_image_once(processes, small, monkeypatch):
    net, hits, seen = create("test_resnet", 1, 10), [], []
    whole = small.normalise(small.test.x)
    net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    monkeypatch.setattr(World, "reduce", lambda self, value: hits.append(value) or value)
    for rank in range(processes):
        accuracy(net, small, small.test, BASELINE, World(rank, processes), batch=64)
    counted, wanted = (images.flatten(1).tolist() for images in (torch.cat(seen), whole))
    assert sorted(counted) == sorted(wanted)
    monkeypatch.undo()
    assert accuracy(net, small, small.test, BASELINE) == sum(hits).item() / 501


def test_the_slowest_process_counts(small, monkeypatch):
    """Another process, that took a thousand seconds longer for everything."""

    class Beside(World):
        def everyones(self, value):
            clocks = isinstance(value, tuple)
            return [value, tuple(1000 + one for one in value) if clocks else value]

    monkeypatch.setattr(Distributed, "join", contextmanager(lambda self: (yield Beside())))
    run = train(PLAIN, small, images=128)
    assert min(run.train_seconds, run.eval_seconds, run.wall_seconds, run.peak_memory) > 1000


def test_the_target_is_reached_at_it_and_not_a_hair_below(small):
    run = train(PLAIN, small, images=64, target=0.5)
    at, below = (replace(run, val_accuracy=accuracy) for accuracy in (0.5, 0.4999))
    assert (at.reached, below.reached) == (True, False)


def test_half_as_many_images_are_half_as_many_steps(small):
    run = train(PLAIN, small, images=700, evaluations=2)
    assert run.steps == 10
    assert run.images_seen == 640
    assert [point[0] for point in run.curve] == [320, 640]
    assert run.curve[-1][1] == run.train_seconds
