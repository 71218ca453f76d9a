"""Several processes do what one does: same parameters, same schedule, every image counted once."""

import subprocess
import sys
from pathlib import Path

import in_processes
import pytest
import torch

from fasttricks import BASELINE, SEVEN, Data, Distributed, train
from fasttricks.launch import command_line, environment
from fasttricks.loop import World
from fasttricks.models import begin
from fasttricks.study.limits import measure

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def alone():
    return in_processes.observe(World())


def start(processes: int, out: Path, *words: str) -> dict:
    """What in_processes.py saw under torchrun."""
    command = command_line(processes, out.parent)[:-1]  # a file instead of a module
    done = subprocess.run(
        [*command, str(HERE / "in_processes.py"), str(out), *words],
        encoding="utf-8",
        timeout=300,
        env=environment(processes, 0.0),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert out.exists(), done.stdout
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("processes", [2, 3, 5, 6, 7])  # a batch of 32 is divided by two alone
def test_shares_of_a_batch_train_as_the_whole(processes, alone, tmp_path):
    words = ["subsets"] if processes == 2 else []
    together = start(processes, tmp_path / "seen.pt", *words)
    for name, tensor in alone["net"].items():
        assert torch.allclose(together["net"][name], tensor, atol=1e-6), name
        assert torch.allclose(together["tricked"][name], alone["tricked"][name], atol=1e-6), name
    assert together["rates"] == alone["rates"], "one schedule for any number of processes"
    assert together["accuracy"] == alone["accuracy"]
    assert together["own"] == [True] * processes, "batch-norm statistics are each process's own"
    for means in together["averaged"]:
        assert list(means) == pytest.approx([(processes + 1) / 2] * len(means))
    assert together["travelled"] == {"fp32": False, "bf16": True, "fp16": False}
    drawn = [tuple(shares) for shares in together["chances"]]
    assert len(set(drawn)) == processes, "each process blends by chance of its own"
    assert together.get("subsets", 64) == 64


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_one_device_takes_a_clusters_shards_in_turns(shards, alone):
    seen = in_processes.observe(World(accumulate=shards))
    for net in ("net", "tricked"):
        for name, tensor in alone[net].items():
            assert torch.allclose(seen[net][name], tensor, atol=1e-6), name
    assert seen["accuracy"] == alone["accuracy"]


def test_all_seven_launched(data):
    """As a notebook does it: torchrun as a subprocess, the result from its file."""
    whole = sum(SEVEN, start=BASELINE) - "distributed" + Distributed(2, share_devices=True)
    few = data.subset(2000)
    run = train(whole, few, images=2 * whole.global_batch)
    assert (run.processes, run.images_seen, run.steps) == (2, 2 * whole.global_batch, 2)
    assert run.wall_seconds > run.train_seconds > 0
    assert (run.labels, run.precision) == (2000, whole.precision.choose(torch.device("cpu")))
    fresh = train(whole - "distributed", few, images=2 * whole.global_batch, fresh=True)
    assert run.net.state_dict().keys() == fresh.net.state_dict().keys()
    begun = begin(whole, "test_resnet", 1, 10, 28).state_dict()
    assert all((run.net.state_dict()[name] != begun[name]).any() for name in begun), "all came back"
    here = train(whole - "distributed", few, images=2 * whole.global_batch)
    assert fresh.val_accuracy == here.val_accuracy, "a fresh process does what this one does"


def test_a_failure_is_told_with_its_last_words(small, monkeypatch):
    words = [sys.executable, "-c", "1/0"]
    monkeypatch.setattr("fasttricks.launch.command_line", lambda *_: words)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        train(BASELINE, small, images=128, fresh=True)


def test_hand_made_data_cannot_be_launched(small):
    with pytest.raises(ValueError, match="by name"):
        train(BASELINE, Data("mine", small.classes, small.train, small.val, small.test), fresh=True)


def test_data_that_were_changed_by_hand_are_refused(data):
    changed = data.subset(2000)
    changed.train.x[7, 0, 3, 3] ^= 1
    try:
        with pytest.raises(ValueError, match="changed by hand are trained on in one process"):
            train(BASELINE, changed, images=128, fresh=True)
    finally:
        changed.train.x[7, 0, 3, 3] ^= 1
    assert train(BASELINE, changed, images=128, fresh=True).labels == 2000


def test_steps_and_all_reduces_are_measured_in_real_processes():
    found = measure(2, [8, 32], [4096, 65536], rounds=2)
    assert list(found.alone) == list(found.together) == [8, 32]
    assert list(found.all_reduce) == [4096, 65536]
    rows = [*found.alone.values(), *found.together.values(), *found.all_reduce.values()]
    assert all(len(row) == 2 for row in rows), "a number a round, without the one that warms up"
    assert all(0 < seconds < 60 for row in rows for seconds in row)
    single = measure(1, [8], shares=2, rounds=1)
    assert list(single.alone) == [8]
    assert not single.all_reduce
