"""Exercises of chapter 6."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Tries = Iterator[tuple[str, bool]]
NAMES = (
    "conv1.weight",
    "bn1.weight",
    "bn1.bias",
    "layer1.0.conv1.weight",
    "layer1.1.conv1.weight",
    "out.weight",
    "out.bias",
)


def exercise_1(recolour: Callable[[Tensor, int], Tensor]) -> Tries:
    """First filters for another number of colours, with the same answer to a grey picture."""
    chance = torch.Generator().manual_seed(0)
    weight = torch.rand(4, 3, 3, 3, generator=chance) - 0.3
    grey = torch.rand(2, 1, 8, 8, generator=chance)
    before = weight.clone()
    one, five = recolour(weight, 1), recolour(weight, 5)
    shapes = [tuple(w.shape) if isinstance(w, Tensor) else None for w in (one, five)]
    yield "return (filters, colours, 3, 3) weights", shapes == [(4, 1, 3, 3), (4, 5, 3, 3)]
    yield "leave the given weights as they are", torch.equal(weight, before)
    answer = F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    yield (
        "a grey picture meets all the old filters, and their answers are added up",
        torch.allclose(F.conv2d(grey, one), answer, atol=1e-5),
    )
    yield (
        "five equal colours answer five times as loudly, unless each takes a fifth",
        torch.allclose(F.conv2d(grey.expand(-1, 5, -1, -1), five), answer, atol=1e-5),
    )


def exercise_2(paid_after: Callable[[float, float], float]) -> Tries:
    """The number of reuses after which pretraining is paid."""
    yield "three runs that save 30 s each pay for 90 s", paid_after(90, 30) == 3
    yield (
        "100 s take a fourth run: reuses are whole, and all of it is paid",
        paid_after(100, 30) == 4,
    )
    yield "what cost nothing is paid before the first run", paid_after(0, 30) == 0
    yield "a run that saves nothing never pays: math.inf", paid_after(100, 0) == math.inf
    yield "nor does one that takes longer", paid_after(100, -5) == math.inf


def exercise_3(layer_rates: Callable[[Sequence[str], str, float], dict[str, float]]) -> Tries:
    """A factor of the rate for each parameter, smaller block by block towards the input."""
    rates = layer_rates(NAMES, "out", 0.5)
    yield "return a factor for every name", isinstance(rates, dict) and set(rates) == set(NAMES)
    yield "the head learns at the full rate", rates["out.weight"] == rates["out.bias"] == 1
    yield "the block next to the head gets decay", rates["layer1.1.conv1.weight"] == 0.5
    yield (
        "tensors of one block share a rate; a block is what stands before the first dot",
        rates["layer1.0.conv1.weight"] == 0.5 and rates["bn1.weight"] == rates["bn1.bias"] == 0.25,
    )
    yield "three blocks from the head is decay times decay times decay", rates[NAMES[0]] == 0.125
