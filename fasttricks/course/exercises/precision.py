"""Exercises of chapter 7."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Tries = Iterator[tuple[str, bool]]
FORMATS = (torch.float32, torch.float16, torch.bfloat16)


def exercise_1(is_lost: Callable[[float, float, torch.dtype], bool]) -> Tries:
    """Whether an update changes nothing in a format."""
    found = [is_lost(1.0, 1e-4, dtype) for dtype in FORMATS]
    yield "1 + 0.0001: kept in fp32, lost in both 16-bit formats", found == [False, True, True]
    fine = is_lost(2.0**-10, 1e-4, torch.bfloat16)
    yield (
        "near zero numbers lie closer together: compare with the weight, not with 1",
        fine is False,
    )
    kept = is_lost(1.0, 0.0006, torch.float16)
    yield "more than half the distance to the next number is rounded up, not lost", kept is False
    yield "an update may be negative", is_lost(1.0, -0.5, torch.bfloat16) is False


def exercise_2(largest_scale: Callable[[Tensor], float]) -> Tries:
    """The largest power of two that overflows no element in fp16."""
    found = float(largest_scale(torch.tensor([0.5, 0.25])))
    yield "fp16 ends at 65,504: with 0.5 the answer is below 131,072", 0.5 * found <= 65504
    power = found > 0 and torch.tensor(found).log2().frac().item() == 0
    yield "it must be a power of two, so that no digit changes", power
    yield "that is too small: with 0.5 twice as much is still finite", found == 65536
    signed = float(largest_scale(torch.tensor([0.5, -3.0])))
    yield "a negative element overflows too", signed == 16384
    tiny = float(largest_scale(torch.tensor([2.0**-30])))
    yield "do not stop at some largest scale: tiny gradients need more", tiny == 2.0**45


def exercise_3(scales: Callable[..., list[float]]) -> Tries:
    """The scale that each step used."""
    calm = list(scales([True] * 5, 8.0, 2))
    yield "one scale a step, the first step uses `first`", len(calm) == 5 and calm[0] == 8
    yield "double after `interval` good steps, and count anew", calm == [8, 8, 16, 16, 32]
    storm = list(scales([False, False, True], 8.0, 2000))
    yield "halve after each overflow: from the next step on", storm == [8, 4, 2]
    mixed = list(scales([True, False, True, True, True], 8.0, 2))
    yield "an overflow starts the count of good steps anew", mixed == [8, 8, 4, 4, 8]
