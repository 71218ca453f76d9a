"""Let the learning rate rise and fall during training, and the momentum fall and rise.

| card       |                                                                                   |
|------------|-----------------------------------------------------------------------------------|
| formula    | triangular: low + (high - low) * height(step); one-cycle: up once, down to almost 0 |
| slots      | lr_factors (product), momentum (single)                                           |
| cost       | none                                                                              |
| pays when  | the length of the run is known beforehand (one-cycle ends low exactly there)      |
| fails when | the peak is too high; the run is stopped before its end (refresh batch norm then) |
| meets      | scaling and warm-up (factors multiply); skipped steps (it must not advance then)  |
| papers     | Smith 2015, arXiv 1506.01186; Smith & Topin 2017, arXiv 1708.07120                |
"""

import math
from dataclasses import dataclass
from typing import ClassVar

MODES = ("triangular", "triangular2", "exp_range")  # fixed, halved, decaying upper bound


def height(
    step: int,  # optimiser steps already taken
    half: float,  # steps from a low point to the next high point
    mode: str,  # one of MODES
    gamma: float = 1.0,  # decay of the upper bound a step, for "exp_range"
) -> float:
    """Where a triangular cycle stands: 0 at the lower bound, 1 at the first upper bound."""
    cycle, position = divmod(step / half, 2)
    shrink = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": gamma**step}[mode]
    return (1 - abs(position - 1)) * shrink


def one_cycle(
    step: int,  # optimiser steps already taken, below `steps`
    steps: int,  # optimiser steps in the run
    first: float,  # value at the first step
    middle: float,  # value at the turning point
    last: float,  # value at the last step
    rise: float,  # share of the run before the turning point, in (0, 1)
    anneal: str,  # "cos" or "linear"
) -> float:
    """From `first` to `middle` to `last`; as torch's `OneCycleLR` with two phases."""
    turn, end = rise * steps - 1, steps - 1
    if step <= turn:
        begin, goal, share = first, middle, step / turn if turn > 0 else 1.0
    else:
        begin, goal, share = middle, last, (step - turn) / (end - turn)
    if anneal == "cos":
        share = (1 - math.cos(math.pi * share)) / 2
    return begin + (goal - begin) * share


@dataclass(frozen=True)
class Cyclic:
    """A triangular cycle between `low` and `high` times the rate; momentum in reverse."""

    low: float = 0.1
    high: float = 1.0
    half: int = 100  # optimiser steps from low to high
    mode: str = "triangular"
    gamma: float = 0.999
    momentum_low: float = 0.85
    momentum_high: float = 0.95

    chapter: ClassVar[int] = 3
    slots: ClassVar[tuple[str, ...]] = ("lr_factors", "momentum")

    def __post_init__(self) -> None:
        if self.mode not in MODES or not (self.half >= 1 and 0 < self.gamma <= 1):
            raise ValueError(
                f"Cyclic needs half >= 1, gamma in (0, 1] and a mode of {', '.join(MODES)}, "
                f"not {self!r:.250}."
            )
        check_bounds(self, self.low, self.high)

    def lr_factor(self, step: int, steps: int, batch: int) -> float:
        """The learning rate's factor before optimiser step `step`."""
        return self.low + (self.high - self.low) * height(step, self.half, self.mode, self.gamma)

    def momentum(self, step: int, steps: int) -> float:
        """The momentum (Adam: beta1) before optimiser step `step`."""
        span = self.momentum_high - self.momentum_low
        return self.momentum_high - span * height(step, self.half, self.mode, self.gamma)


@dataclass(frozen=True)
class OneCycle:
    """One rise to `peak` times the rate and one long fall; momentum in reverse."""

    peak: float = 10.0
    rise: float = 0.25  # share of the run before the peak
    div: float = 25.0  # peak / first rate
    final_div: float = 1e4  # first rate / last rate
    anneal: str = "cos"
    momentum_low: float = 0.85
    momentum_high: float = 0.95

    chapter: ClassVar[int] = 3
    slots: ClassVar[tuple[str, ...]] = ("lr_factors", "momentum")

    def __post_init__(self) -> None:
        if self.anneal not in ("cos", "linear") or not 0 < self.rise < 1:
            raise ValueError(
                f"OneCycle needs rise in (0, 1) and anneal cos or linear, not {self!r:.250}."
            )
        if not (1 <= self.div < math.inf and 1 <= self.final_div < math.inf):
            raise ValueError(
                f"OneCycle needs div and final_div of 1 or more, and finite, not {self!r:.250}."
            )
        check_bounds(self, 0.0, self.peak)

    def lr_factor(self, step: int, steps: int, batch: int) -> float:
        """The learning rate's factor before optimiser step `step` of `steps`."""
        first = self.peak / self.div
        last = first / self.final_div
        return one_cycle(step, steps, first, self.peak, last, self.rise, self.anneal)

    def momentum(self, step: int, steps: int) -> float:
        """The momentum (Adam: beta1) before optimiser step `step` of `steps`."""
        high, low = self.momentum_high, self.momentum_low
        return one_cycle(step, steps, high, low, high, self.rise, self.anneal)


def check_bounds(trick: Cyclic | OneCycle, low: float, high: float) -> None:
    """Refuse bounds in the wrong order or not finite, and momentum outside [0, 1)."""
    if not 0 <= low < high < math.inf:
        raise ValueError(f"{trick!r:.250} needs a finite rate that rises: 0 <= low < high.")
    if not 0 <= trick.momentum_low <= trick.momentum_high < 1:
        raise ValueError(f"{trick!r:.250} needs 0 <= momentum_low <= momentum_high < 1.")
