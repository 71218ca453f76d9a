"""Exercises of chapter 3."""

import math
from collections.abc import Callable, Iterator, Sequence

Tries = Iterator[tuple[str, bool]]


def exercise_1(momentum_for: Callable[[float, float], float]) -> Tries:
    """The momentum that gives a wanted effective step lr / (1 - momentum)."""
    yield "solve lr / (1 - m) = effective for m", math.isclose(momentum_for(0.1, 1.0), 0.9)
    yield "rate 0.1 and effective step 2: 0.95", math.isclose(momentum_for(0.1, 2.0), 0.95)
    yield "no momentum is needed where the two are equal", abs(momentum_for(0.5, 0.5)) < 1e-9
    yield "a rate above the wanted step: stay at 0", momentum_for(2.0, 1.0) == 0


def exercise_2(sawtooth: Callable[[int, int, int], float]) -> Tries:
    """A triangle with a rise and a fall of different lengths."""

    def near(steps: Sequence[int], up: int, down: int, wanted: Sequence[float]) -> bool:
        found = [sawtooth(step, up, down) for step in steps]
        return all(abs(a - b) < 1e-9 for a, b in zip(found, wanted, strict=True))

    yield "0 at step 0, 1 after `up` steps", near((0, 1, 2), 2, 4, (0, 0.5, 1))
    yield "the fall takes `down` steps, not `up`", near((3, 4, 5), 2, 4, (0.75, 0.5, 0.25))
    yield "after up + down steps it begins again", near((6, 7, 8, 9), 2, 4, (0, 0.5, 1, 0.75))
    yield "a slow rise and a quick fall work too", near((2, 4, 5, 9), 4, 1, (0.5, 1, 0, 1))


def exercise_3(stop_at: Callable[[Sequence[float], float], int]) -> Tries:
    """The first step at which a range test has come apart."""
    yield "4.5 is the first above 2 times 2.0", stop_at([3.0, 2.0, 3.0, 4.5, 9.0], 2.0) == 3
    yield "never above: return the number of losses", stop_at([3.0, 2.0, 1.0], 2.0) == 3
    yield (
        "compare with the lowest loss so far, not with the lowest of all",
        stop_at([3.0, 2.0, 1.0, 0.5, 1.5], 2.0) == 4,
    )
    yield (
        "compare with the lowest loss so far, not with the one before",
        stop_at([2.0, 3.0, 4.5, 6.0], 2.0) == 2,
    )
    yield "more than, not as much as", stop_at([2.0, 4.0, 4.1], 2.0) == 2
