"""Exercises of chapter 0."""

import math
from collections.abc import Callable, Iterator

Tries = Iterator[tuple[str, bool]]
CURVE = [(100, 1.0, 0.80), (200, 2.0, 0.91), (300, 3.0, 0.89)]


def exercise_1(seconds: Callable[[list, float], float]) -> Tries:
    """Seconds at the end of a run that is at the target, else infinity."""
    yield "a run that ends at the target took all its seconds", seconds(CURVE, 0.85) == 3.0
    yield "exactly at the target is at the target", seconds(CURVE, 0.89) == 3.0
    yield (
        "a run that was over the line and fell back has missed it",
        math.isinf(seconds(CURVE, 0.9)),
    )
    yield "a missed target is infinity", math.isinf(seconds(CURVE, 0.99))


def exercise_2(speed_up: Callable[[list, list], float]) -> Tries:
    """The ratio of two medians."""
    yield "twice as fast is 2", speed_up([2.0, 2.0, 2.0], [1.0, 1.0, 1.0]) == 2
    yield "take the median: one slow run must not move it", speed_up([2, 2, 90], [1, 1, 1]) == 2
    yield (
        "of an even number, the median is the mean of the middle two",
        (speed_up([1.0, 3.0], [1.0, 1.0]) == 2),
    )
    yield "a ratio of medians, slow over fast", speed_up([1, 2, 9], [4, 1, 2]) == 1
    yield (
        "most runs that never arrive are 0 times as fast",
        speed_up([2, 2, 2], [1, math.inf, math.inf]) == 0,
    )


def exercise_3(accuracy: Callable[[list, int], float]) -> Tries:
    """Every image counted once, whatever the batch."""
    yield "right answers over images", accuracy([True, False, True, True], 2) == 0.75
    odd = [True] * 4 + [False]
    yield "a smaller last batch must not weigh as much as a full one", accuracy(odd, 4) == 0.8
    yield "nor be left out", accuracy([True, True, False], 2) == 2 / 3
