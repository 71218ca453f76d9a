"""Chapter 5: two plausible wrong answers a question, and a trick broken so that a claim fails."""

import math

import torch

WRONG = {
    1: [
        lambda gap, classes: (
            (classes - 1) / (math.exp(gap) + classes - 1)
        ),  # of the other convention
        lambda gap, classes: 1 / (math.exp(gap) + 1),
    ],
    2: [
        lambda q, eps: (1 - eps) * q + eps / q.shape[1],
        lambda q, eps: torch.where(q > 0, q * (1 - eps), eps / (q.shape[1] - 1)),
    ],
    3: [
        lambda eps, classes: -math.log(1 - eps + eps / classes),
        lambda eps, classes: -(1 - eps) * math.log(1 - eps) - eps * math.log(eps / (classes - 1)),
    ],
}

SABOTAGE = """
from fasttricks.tricks import smoothing
smoothing.smooth = lambda q, eps: (1 - eps) * q  # forgets to give the share away
"""
