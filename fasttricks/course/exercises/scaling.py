"""Exercises of chapter 2."""

import math
from collections.abc import Callable, Iterator

Tries = Iterator[tuple[str, bool]]


def near(found: float, expected: float) -> bool:
    """Equal but for rounding."""
    return math.isclose(found, expected, rel_tol=1e-9)


def exercise_1(new_rate: Callable[[float, int, int, int, str], float]) -> Tries:
    """The rate for several processes, from the rate of the reference batch."""
    yield "at the reference batch the rate stays", near(new_rate(0.1, 64, 64, 1, "sgd"), 0.1)
    yield (
        "SGD: four times the batch, four times the rate",
        near(new_rate(0.1, 64, 256, 1, "sgd"), 0.4),
    )
    yield (
        "count the images of all processes: the global batch",
        near(new_rate(0.1, 64, 64, 4, "sgd"), 0.4),
    )
    yield "AdamW takes the square root of k", near(new_rate(1e-3, 64, 64, 4, "adamw"), 2e-3)
    yield "the reference need not be 64", near(new_rate(0.1, 256, 128, 8, "sgd"), 0.4)


def exercise_2(warmed: Callable[[int, int, float, float], float]) -> Tries:
    """The rate at a step, with a ramp of so many steps from a share of the full rate."""
    yield "step 0 has the share `start` of the rate", near(warmed(0, 10, 0.1, 0.8), 0.08)
    yield "half-way up the ramp: half-way between start and 1", near(warmed(5, 10, 0.1, 0.8), 0.44)
    yield "step 10 of a ramp of 10 has the full rate", near(warmed(10, 10, 0.1, 0.8), 0.8)
    yield "after the ramp the rate stays at the top", near(warmed(25, 10, 0.1, 0.8), 0.8)
    yield "a ramp of 0 steps means the full rate from the first", near(warmed(0, 0, 0.1, 0.8), 0.8)


def exercise_3(largest_k: Callable[[float, float], float]) -> Tries:
    """The k at which one step of k * lr no longer comes closer, on a valley of that curvature."""
    yield "at curvature 1 and rate 0.1 the edge is k = 20", near(largest_k(0.1, 1.0), 20)
    yield "half the rate leaves room for twice the k", near(largest_k(0.05, 1.0), 40)
    yield "a steeper valley allows a smaller k", near(largest_k(0.1, 4.0), 5)
