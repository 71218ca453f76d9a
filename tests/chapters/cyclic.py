"""Chapter 3: two plausible wrong answers a question, and a trick broken so that a claim fails."""

from itertools import pairwise


def against_the_lowest_of_all(losses, factor):
    return next((i for i, loss in enumerate(losses) if loss > factor * min(losses)), len(losses))


def against_the_one_before(losses, factor):
    pairs = pairwise(losses)
    return next((i + 1 for i, (a, b) in enumerate(pairs) if b > factor * a), len(losses))


WRONG = {
    1: [
        lambda lr, effective: 1 - lr / effective,
        lambda lr, effective: max(0.0, 1 - effective / lr),
    ],
    2: [
        lambda step, up, down: 1 - abs(step / up % 2 - 1),
        lambda step, up, down: step / up if step <= up else (up + down - step) / down,
    ],
    3: [against_the_lowest_of_all, against_the_one_before],
}

SABOTAGE = """
from fasttricks.tricks import cyclic
cyclic.height = lambda step, half, mode, gamma=1.0: min(step / half, 1.0)  # never falls again
"""
