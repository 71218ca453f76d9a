"""Exercises of chapter 5."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Tries = Iterator[tuple[str, bool]]
ROWS = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0]])


def exercise_1(gap: Callable[[float, int], float]) -> Tries:
    """The gap in logits between the right class and the others at the optimum."""
    yield "with eps = 0.9 of two classes: log(0.55 / 0.45)", abs(gap(0.9, 2) - 0.20067) < 1e-4
    yield "the right class also gets its share eps / K", abs(gap(0.1, 10) - 4.51086) < 1e-4
    yield "more classes, smaller shares, a wider gap", gap(0.1, 100) > gap(0.1, 10)


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


def exercise_3(ece: Callable[[Tensor, Tensor], float]) -> Tries:
    """Expected calibration error in ten equal bins of confidence."""
    sure = torch.tensor([[0.95, 0.05]]).repeat(20, 1)
    right, half = torch.zeros(20, dtype=torch.long), torch.arange(20) % 2
    yield "always right at 0.95 is off by 0.05", abs(ece(sure, right) - 0.05) < 1e-5
    yield "half right at 0.95 is off by 0.45", abs(ece(sure, half) - 0.45) < 1e-5
    both = torch.cat([sure, torch.tensor([[0.65, 0.35]]).repeat(60, 1)])
    y = torch.cat([right, torch.zeros(60, dtype=torch.long)])
    expected = 0.25 * 0.05 + 0.75 * 0.35
    yield "weight each bin by its share of the images", abs(ece(both, y) - expected) < 1e-5
    modest = (torch.arange(60) >= 42).long()  # 42 of 60 are right, at a confidence of 0.65
    both_off = ece(both, torch.cat([half, modest]))
    expected = 0.25 * 0.45 + 0.75 * abs(0.7 - 0.65)
    yield "take the absolute gap of each bin before averaging", abs(both_off - expected) < 1e-5
