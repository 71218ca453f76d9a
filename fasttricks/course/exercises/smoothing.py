"""Exercises of chapter 5."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Tries = Iterator[tuple[str, bool]]
ROWS = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0]])


def exercise_1(eps_for: Callable[[float, int], float]) -> Tries:
    """The epsilon at which the smoothed loss is lowest at the given gap in logits."""
    yield "no gap at all is epsilon 1", abs(eps_for(0.0, 10) - 1) < 1e-6
    yield (
        "two classes, gap 1: the other class gets 1 / (e + 1), which is eps / 2",
        abs(eps_for(1.0, 2) - 0.537883) < 1e-5,
    )
    yield ("the right class also gets its share eps / K", abs(eps_for(4.510860, 10) - 0.1) < 1e-5)
    yield "a wider gap needs less smoothing", eps_for(8.0, 10) < eps_for(4.0, 10)


def exercise_2(smooth: Callable[[Tensor, float], Tensor]) -> Tries:
    """Smoothing that gives nothing to the right class: eps / (K - 1) for each of the others."""
    q = F.one_hot(torch.tensor([0, 2]), 4).float()
    given = smooth(q.clone(), 0.3)
    yield "return (N, K) probabilities", isinstance(given, Tensor) and given.shape == q.shape
    yield "rows must still sum to 1", torch.allclose(given.sum(1), torch.ones(2))
    yield "the right class keeps 1 - eps, exactly", torch.allclose(given[0, 0], torch.tensor(0.7))
    yield "the others share eps alike", torch.allclose(given[1, 0], torch.tensor(0.1))
    mixed = smooth(ROWS[1:], 0.3)[0]
    yield (
        "it must work on blended rows too: a map of q, not of class numbers",
        torch.allclose(mixed, torch.tensor([0.1, 0.4, 0.4, 0.1])),
    )


def exercise_3(lowest_loss: Callable[[float, int], float]) -> Tries:
    """The loss that no network can go below: the entropy of the smoothed target."""
    yield "with eps = 0.1 and ten classes it is 0.5003", abs(lowest_loss(0.1, 10) - 0.500288) < 1e-4
    yield (
        "count all K classes: the right one, and K - 1 that get eps / K each",
        abs(lowest_loss(0.2, 4) - 0.587501) < 1e-4,
    )
    yield "all classes alike: log K", abs(lowest_loss(1.0, 10) - 2.302585) < 1e-5
    yield "without smoothing it is 0; 0 log 0 counts as 0", abs(lowest_loss(0.0, 10)) < 1e-6
