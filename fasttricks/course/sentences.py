"""Sentences that say what a run has shown: their numbers and their verdict come from it."""

import math
from collections.abc import Sequence
from statistics import median

CLEAR = 1.0  # points of accuracy that one pair of runs must differ by; n pairs, by 1 / sqrt(n)
MISSING = "not known, because a run is missing"


def say(sentence: str) -> None:
    """Show a sentence as the text around a cell is shown."""
    from IPython.display import Markdown, display

    display(Markdown(sentence))


def gained(
    own: Sequence[float],  # accuracy, one per seed
    other: Sequence[float],  # of the same seeds
    chance: float | None = None,  # the accuracy of guessing, where nets may not have learned
) -> str:
    """By how many points the one accuracy is above the other, or that nothing can be told.

    The one is called higher where it is so with every seed, and by enough for so few of them.
    """
    if not own or len(own) != len(other) or not all(map(math.isfinite, (*own, *other))):
        return MISSING
    if chance is not None and max(*own, *other) < 2 * chance:
        return f"not to be compared, because both have hardly learned ({max(*own, *other):.2f})"
    points = [100 * (a - b) for a, b in zip(own, other, strict=True)]
    mean, count = sum(points) / len(points), len(points)
    if min(points) * max(points) > 0 and abs(mean) >= clear(count):
        whose = {1: "one seed", 2: "both seeds"}.get(count, f"all {count} seeds")
        return f"{abs(mean):.1f} points {'higher' if mean > 0 else 'lower'} ({whose})"
    spread = f"{min(points):+.1f} to {max(points):+.1f}"
    seen = f"one seed: {mean:+.1f}" if count == 1 else f"{count} seeds: {spread}"
    return f"no clear difference ({seen} points)"


def clear(seeds: int) -> float:
    """The points by which means of so many paired runs must differ before a word is said."""
    return CLEAR / math.sqrt(seeds)


def faster(
    own: Sequence[float],  # seconds, one per turn
    other: Sequence[float],  # of the same turns
) -> str:
    """How many times as fast the one is as the other (median of the turns); above 1 is faster."""
    if not own or len(own) != len(other) or not all(0 < s < math.inf for s in (*own, *other)):
        return MISSING
    ratios = sorted(b / a for a, b in zip(own, other, strict=True))
    middle = median(ratios)
    if 0.95 < middle < 1.05 or ratios[0] < 1 < ratios[-1]:
        seen = f"{ratios[0]:.2f} to {ratios[-1]:.2f} times as fast, {len(ratios)} runs"
        one = f"{middle:.2f} times as fast, one run"
        return f"not clearly faster or slower ({seen if len(ratios) > 1 else one})"
    return f"{middle:.2f} times as fast"


def changed(
    before: float,  # of an error, which is better when lower
    after: float,
) -> str:
    """Whether an error became better or worse, and how many times as small or as large it is."""
    if not (before > 0 and after > 0 and max(before, after) < math.inf):
        return MISSING
    shown = f"{before:.3f} → {after:.3f}"
    first, last = (round(value, 3) or value for value in (before, after))  # as they are shown
    if abs(math.log(last / first)) < math.log(1.25):
        return f"about the same ({shown})"
    if last > first:
        return f"worse ({shown}, {last / first:.1f} times as large)"
    return f"better ({shown}, {first / last:.1f} times smaller)"


def sureness(
    confidence: float,  # mean of the largest probability
    accuracy: float,  # of the same images
    level: float = 0.01,  # a difference that is not worth a word
) -> str:
    """Whether a network is surer than it is right."""
    if not (math.isfinite(confidence) and math.isfinite(accuracy)):
        return MISSING
    gap = confidence - accuracy
    if abs(gap) < level:
        return "well calibrated on average"
    points = round(100 * abs(gap))
    word = "overconfident" if gap > 0 else "underconfident"
    return f"{word} by {points} point{'' if points == 1 else 's'}"
