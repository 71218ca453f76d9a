"""Exercises of chapter 0."""

import math
from collections.abc import Callable, Iterator, Sequence

Tries = Iterator[tuple[str, bool]]
Numbers = Sequence[float]


def exercise_1(seconds: Callable[[Numbers, Numbers, float], float]) -> Tries:
    """An arm's median seconds where its mean accuracy is at the target, else infinity."""
    yield (
        "three runs at the target: the median of their seconds",
        (seconds([0.90, 0.91, 0.92], [3.0, 2.0, 9.0], 0.89) == 3.0),
    )
    yield "exactly at the target is at the target", seconds([0.875], [2.0], 0.875) == 2.0
    yield (
        "an arm whose mean is below the target never arrives",
        math.isinf(seconds([0.90, 0.90, 0.60], [1.0, 1.0, 1.0], 0.89)),
    )
    yield (
        "an arm whose mean is at the target arrives, even where most of its runs are below",
        seconds([0.75, 0.75, 1.0], [2.0, 4.0, 6.0], 0.8) == 4.0,
    )
    yield (
        "of an even number, the median is the mean of the middle two",
        (seconds([0.9, 0.9], [1.0, 3.0], 0.5) == 2.0),
    )


def exercise_2(speed_up: Callable[[Numbers, Numbers], float]) -> Tries:
    """The ratio of two medians."""
    yield "twice as fast is 2", speed_up([2.0, 2.0, 2.0], [1.0, 1.0, 1.0]) == 2
    yield "take the median: one slow run must not move it", speed_up([2, 2, 90], [1, 1, 1]) == 2
    yield (
        "of an even number, the median is the mean of the middle two",
        speed_up([1.0, 3.0], [1.0, 1.0]) == 2,
    )
    yield "a ratio of medians, slow over fast", speed_up([1, 2, 9], [4, 1, 2]) == 1


def exercise_3(accuracy: Callable[[list, int], float]) -> Tries:
    """Every image counted once, whatever the batch."""
    yield "right answers over images", accuracy([True, False, True, True], 2) == 0.75
    odd = [True] * 4 + [False]
    yield "a smaller last batch must not weigh as much as a full one", accuracy(odd, 4) == 0.8
    yield "nor be left out", accuracy([True, True, False], 2) == 2 / 3
