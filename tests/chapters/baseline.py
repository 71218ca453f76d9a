"""Chapter 0: two plausible wrong answers a question, and a loop broken so that a claim fails."""

import math
import statistics

WRONG = {
    1: [
        lambda accuracies, seconds, target: (
            statistics.median(seconds) if statistics.median(accuracies) >= target else math.inf
        ),
        lambda accuracies, seconds, target: statistics.median(
            second if accuracy >= target else math.inf
            for accuracy, second in zip(accuracies, seconds, strict=True)
        ),
        lambda accuracies, seconds, target: (
            statistics.mean(seconds) if statistics.mean(accuracies) >= target else math.inf
        ),
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
