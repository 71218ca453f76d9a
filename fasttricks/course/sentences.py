"""Sentences that say what a run has shown: their numbers and their verdict come from it."""

import math
from collections.abc import Sequence

CLEAR = 0.3  # points of accuracy; less is called level, however often it is seen
ONE = 1.0  # points that a single pair of runs must differ by
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
    """By how many points the one accuracy is above the other, or that nothing can be told."""
    if not own or len(own) != len(other) or not all(map(math.isfinite, (*own, *other))):
        return MISSING
    if chance is not None and max(*own, *other) < 2 * chance:
        return f"not to be compared, because both have hardly learned ({max(*own, *other):.2f})"
    points = [100 * (a - b) for a, b in zip(own, other, strict=True)]
    mean, count = sum(points) / len(points), len(points)
    word = "higher" if mean > 0 else "lower"
    if count == 1:
        if abs(mean) < ONE:
            return f"level, as far as one seed can tell ({mean:+.1f} points)"
        return f"{abs(mean):.1f} points {word} (one seed)"
    if abs(mean) < CLEAR or min(points) * max(points) <= 0:
        return f"level, as far as {count} seeds can tell ({min(points):+.1f} to {max(points):+.1f})"
    return f"{abs(mean):.1f} points {word} ({count} of {count} seeds)"


def faster(
    own: Sequence[float],  # seconds, one per turn
    other: Sequence[float],  # of the same turns
) -> str:
    """How many times as fast the one is as the other; above 1 is faster."""
    if not own or len(own) != len(other) or not all(0 < s < math.inf for s in (*own, *other)):
        return MISSING
    ratios = sorted(b / a for a, b in zip(own, other, strict=True))
    middle = math.exp(sum(map(math.log, ratios)) / len(ratios))
    if 0.95 < middle < 1.05 or ratios[0] < 1 < ratios[-1]:
        how = "one run" if len(ratios) == 1 else f"{len(ratios)} runs"
        return f"as fast, within what {how} can tell ({middle:.2f} times)"
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
