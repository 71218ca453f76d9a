"""Exercises of chapter 1."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Tries = Iterator[tuple[str, bool]]


def exercise_1(sent: Callable[[int, int], float]) -> Tries:
    """Bytes that each process sends in one ring all-reduce of a net's fp32 gradient."""
    yield "alone there is nobody to send to", sent(1000, 1) == 0
    yield "an fp32 number has 4 bytes", sent(1000, 2) == 4000
    yield (
        "each of the 2 (N - 1) messages is one N-th of the gradient",
        abs(sent(1000, 4) - 6000) < 1e-6,
    )
    yield "with many processes it nears twice the gradient", 7900 < sent(1000, 1000) < 8000


def exercise_2(block: Callable[[Tensor, int, int], Tensor]) -> Tries:
    """Exact shards that are contiguous blocks."""
    values = torch.arange(10)
    shards = [block(values, rank, 3) for rank in range(3)]
    yield "return the rows of one process, in their order", shards[0].tolist()[:3] == [0, 1, 2]
    yield "every row must be in some shard, the last ones too", sum(map(len, shards)) >= 10
    yield "no row may be in two shards", sorted(torch.cat(shards).tolist()) == list(range(10))
    yield "sizes may differ by 1 at most: here 4, 3, 3", max(map(len, shards)) == 4
    small = [len(block(values[:2], rank, 3)) for rank in range(3)]
    yield "with fewer rows than processes a shard may be empty", sorted(small) == [0, 1, 1]


def exercise_3(combine: Callable[[Tensor, Tensor], Tensor]) -> Tries:
    """The whole batch's mean gradient from the mean gradients of unequal shards."""
    means = torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # of two shards
    even = combine(means, torch.tensor([4, 4]))
    yield "equal shards: the mean of the two", torch.allclose(even, torch.tensor([2.0, 4.0]))
    odd = combine(means, torch.tensor([3, 1]))
    yield (
        "a shard of three images weighs three times as much as a shard of one",
        torch.allclose(odd, torch.tensor([1.5, 3.0])),
    )
    none = combine(means, torch.tensor([5, 0]))
    yield "an empty shard weighs nothing", torch.allclose(none, means[0])
