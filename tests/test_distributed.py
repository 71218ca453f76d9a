"""Shards are disjoint and complete; averaged gradients of shards are the whole batch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasttricks import Distributed
from fasttricks.tricks.distributed import World, shard


@given(count=st.integers(0, 50), processes=st.integers(1, 9))
def test_shards_are_a_partition(count, processes):
    parts = [shard(torch.arange(count), rank, processes) for rank in range(processes)]
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("processes", [2, 4])
def test_two_halves_average_to_the_whole(processes):
    torch.manual_seed(0)
    net = torch.nn.Linear(5, 3)
    x, y = torch.randn(8, 5), torch.arange(8) % 3

    def gradient(rows):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        return net.weight.grad.clone()

    parts = [gradient(shard(torch.arange(8), rank, processes)) for rank in range(processes)]
    assert torch.allclose(sum(parts) / processes, gradient(torch.arange(8)), atol=1e-7)


def test_a_world_of_one_does_nothing():
    world, net, value = World(), torch.nn.Linear(2, 2), torch.ones(2)
    assert world.wrap(net) is net
    assert world.reduce(value) is value
    assert world.everyones(7) == [7]
    assert torch.equal(world.shard(value), value)
    with Distributed(processes=1).join() as alone:
        assert alone == world


def test_more_processes_than_devices_must_be_said():
    with pytest.raises(ValueError, match="say that they may share"):
        Distributed(processes=10_000).count()
    assert Distributed(processes=10_000, share_devices=True).count() == 10_000


def test_torchrun_decides(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Distributed().count() == 4
    with pytest.raises(ValueError, match="torchrun started 4 processes, but the recipe says 2"):
        Distributed(processes=2).count()


def test_refuses():
    with pytest.raises(ValueError, match="Distributed needs counts"):
        Distributed(processes=-1)
