"""Chapter 7: two plausible wrong answers a question, and a trick broken so that a claim fails."""

import math

import torch


def never_counts_anew(finite, first=65536.0, interval=2000):
    used, scale, good = [], first, 0
    for fine in finite:
        used.append(scale)
        good += fine
        if not fine:
            scale /= 2
        elif good % interval == 0:
            scale *= 2
    return used


def after_the_step(finite, first=65536.0, interval=2000):
    used, scale, good = [], first, 0
    for fine in finite:
        good = good + 1 if fine else 0
        if not fine:
            scale /= 2
        elif good == interval:
            scale, good = scale * 2, 0
        used.append(scale)
    return used


WRONG = {
    1: [
        lambda weight, update, dtype: abs(update) < torch.finfo(dtype).eps,
        lambda weight, update, dtype: abs(update) < torch.finfo(dtype).tiny,
    ],
    2: [
        lambda grads: 65504 / grads.abs().max().item(),
        lambda grads: 2.0 ** math.floor(math.log2(65504 / grads.max().item())),
    ],
    3: [never_counts_anew, after_the_step],
}

SABOTAGE = """
from fasttricks.tricks import precision
precision.LossScale.unscale = lambda self, grads: all(  # forgets to divide
    bool(grad.isfinite().all()) for grad in grads
)
"""
