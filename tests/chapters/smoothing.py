"""Chapter 5: two plausible wrong answers a question, and a trick broken so that a claim fails."""

import math

import torch

WRONG = {
    1: [
        lambda eps, classes: math.log((1 - eps) / eps),
        lambda eps, classes: math.log((1 - eps) / (eps / classes)),
    ],
    2: [
        lambda q, eps: (1 - eps) * q + eps / q.shape[1],
        lambda q, eps: torch.where(q > 0, q * (1 - eps), eps / (q.shape[1] - 1)),
    ],
    3: [
        lambda chances, y: abs(
            float(chances.max(1).values.mean() - (chances.argmax(1) == y).float().mean())
        ),
        lambda chances, y: float((chances.max(1).values - (chances.argmax(1) == y).float()).mean()),
    ],
}

SABOTAGE = """
from fasttricks.tricks import smoothing
smoothing.smooth = lambda q, eps: (1 - eps) * q  # forgets to give the share away
"""
