"""Chapter 0: two plausible wrong answers a question, and a loop broken so that a claim fails."""

import math
import statistics

WRONG = {
    1: [
        lambda curve, target: next((s for _, s, a in curve if a >= target), math.inf),
        lambda curve, target: curve[-1][1] if curve[-1][2] > target else math.inf,
    ],
    2: [
        lambda slow, fast: statistics.mean(slow) / statistics.mean(fast),
        lambda slow, fast: statistics.median(fast) / statistics.median(slow),
    ],
    3: [
        lambda right, batch: statistics.mean(
            sum(right[i : i + batch]) / len(right[i : i + batch])
            for i in range(0, len(right), batch)
        ),
        lambda right, batch: (
            sum(right[: len(right) // batch * batch]) / (len(right) // batch * batch)
        ),
    ],
}

SABOTAGE = """
from fasttricks import loop
honest = loop.set_rates
loop.set_rates = lambda optimizer, lr, momentum: honest(optimizer, 2 * lr, momentum)
"""
