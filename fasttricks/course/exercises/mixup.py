"""Exercises of chapter 4."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Tries = Iterator[tuple[str, bool]]


def near(given: float | Tensor, wanted: float | Tensor) -> bool:
    """Whether two numbers are the same but for rounding; a NaN is not."""
    return abs(float(given) - float(wanted)) < 1e-5


def exercise_1(mixed_loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Tries:
    """The loss of a blended batch from class numbers alone."""
    logits = torch.tensor([[2.0, 0, 1], [0, 1, 0], [0, 0, 3], [1, 1, 0]])
    y, other = torch.tensor([0, 1, 2, 1]), torch.tensor([1, 2, 3, 0])
    own, partners = F.cross_entropy(logits, y), F.cross_entropy(logits, y[other])
    yield "with lam = 1 it is the plain loss", near(mixed_loss(logits, y, other, 1.0), own)
    yield (
        "with lam = 0 only the partners' labels count; the logits stay where they are",
        near(mixed_loss(logits, y, other, 0.0), partners),
    )
    yield (
        "both labels count, one by lam, the other by 1 - lam",
        near(mixed_loss(logits, y, other, 0.3), 0.3 * own + 0.7 * partners),
    )


def exercise_2(best_loss: Callable[[Tensor], float]) -> Tries:
    """The lowest mean cross-entropy that any network can reach on targets q."""
    yield (
        "a one-hot target can be met exactly: 0 times log 0 counts as 0",
        near(best_loss(torch.eye(4)), 0),
    )
    half = torch.tensor([[0.5, 0.5, 0, 0]])
    yield "half and half costs log 2", near(best_loss(half), math.log(2))
    yield "take the mean over the rows", near(best_loss(half.repeat(6, 1)), math.log(2))
    yield (
        "every class with a share adds its own term -q log q",
        near(best_loss(torch.tensor([[0.7, 0.3]])), 0.6108643),
    )


def exercise_3(
    cutmix: Callable[[Tensor, Tensor, Tensor, int, int, int], tuple[Tensor, Tensor]],
) -> Tries:
    """CutMix: a square of the partner instead of a veil of it."""
    x = torch.arange(3.0).view(3, 1, 1, 1).repeat(1, 1, 8, 8)
    q, other, before = torch.eye(3), torch.tensor([1, 2, 0]), x.clone()
    new_x, new_q = cutmix(x, q, other, 2, 3, 4)
    yield "the batch that came in must stay as it was", torch.equal(x, before)
    yield "return images of the same shape", new_x.shape == before.shape
    inside = new_x[:, :, 2:6, 3:7]
    yield (
        "rows top to top + side, columns left to left + side come from the partner",
        torch.equal(inside, before[other][:, :, 2:6, 3:7]),
    )
    yield "all other pixels stay", near(new_x[0].sum(), 16) and near(new_x[2].sum(), 96)
    yield (
        "the partner's share of the label is its share of the area",
        new_q.shape == q.shape and torch.allclose(new_q, 0.75 * q + 0.25 * q[other]),
    )
