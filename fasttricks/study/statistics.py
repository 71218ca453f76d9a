"""What a few runs of two arms say: means, medians, speed-ups and their bootstrap intervals."""

import math
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from ..record import Run


def mean_accuracy(runs: Sequence[Run]) -> float:
    """Mean final validation accuracy."""
    return sum(run.val_accuracy for run in runs) / len(runs)


def interval(
    values: Sequence,  # one a seed: a number, or one of each arm
    statistic: Callable = lambda drawn: drawn.mean(1),  # (D, n, ...) to (D,)
) -> tuple[float, float]:
    """The bootstrap's 95% interval; of three means it is little but their range (Efron 1979)."""
    drawn = np.random.default_rng(0).choice(list(values), (10_000, len(values)))
    low, high = np.quantile(statistic(drawn), (0.025, 0.975))
    return float(low), float(high)


def gains(runs: Sequence[Run], reference: Sequence[Run]) -> list[float]:
    """Points of validation accuracy by which each run is above the reference's of its seed."""
    pairs = zip(runs, reference, strict=True)
    return [100 * (run.val_accuracy - other.val_accuracy) for run, other in pairs]


def seconds_to_target(
    runs: Sequence[Run],
    clock: str = "train_seconds",  # or "wall_seconds"
) -> float:
    """An arm's median seconds if its mean accuracy is at the target, else infinity."""
    if mean_accuracy(runs) < runs[0].target:
        return math.inf
    return median([getattr(run, clock) for run in runs])


def speed_up(runs: Sequence[Run], reference: Sequence[Run], clock: str = "train_seconds") -> float:
    """How many times as fast as the reference an arm is to the target; 0 for never."""
    return seconds_to_target(reference, clock) / seconds_to_target(runs, clock)


def speed_up_interval(runs: Sequence[Run], reference: Sequence[Run]) -> str:
    """That of the train clock: pairs are drawn, three or more; both arms must be at the target."""
    if len(runs) < 3 or math.inf in (seconds_to_target(runs), seconds_to_target(reference)):
        return "-"
    pairs = zip(reference, runs, strict=True)
    found = [(slow.train_seconds, fast.train_seconds) for slow, fast in pairs]
    low, high = interval(found, lambda drawn: np.divide(*np.median(drawn, 1).T))
    return f"{low:.1f} {high:.1f}"
