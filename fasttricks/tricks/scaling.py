"""Train with a larger batch: scale the learning rate with it, and warm up to that rate.

| card       |                                                                                    |
|------------|------------------------------------------------------------------------------------|
| formula    | lr = lr_ref * k (linear) or lr_ref * sqrt(k), k = batch / reference; a ramp to it  |
| slots      | batch (single), lr_factors (product)                                               |
| cost       | none in time; a larger batch needs more memory                                     |
| pays when  | the device is not yet full at the small batch                                      |
| fails when | so few steps are left that the net cannot settle; the ramp is missing at a large k |
| meets      | multi-GPU (the global batch counts), one-cycle (the factors multiply)              |
| papers     | Goyal et al. 2017, arXiv 1706.02677; Adam's root: Malladi 2022, arXiv 2205.10287   |
"""

from dataclasses import dataclass
from typing import ClassVar

POWER = {"linear": 1.0, "sqrt": 0.5}  # linear for SGD, square root for Adam and its relatives


def scale(
    batch: int,  # images in one global batch
    reference: int,  # the batch at which the learning rate was tuned
    rule: str,  # "linear" or "sqrt"
) -> float:
    """By how much to multiply a learning rate that was tuned at the reference batch."""
    return (batch / reference) ** POWER[rule]


def warm_up(
    step: int,  # optimiser steps already taken
    ramp: float,  # steps until the full rate
    start: float,  # share of the full rate at step 0, in (0, 1]
) -> float:
    """A straight ramp from `start` to 1; the same as torch's `LinearLR`."""
    return start + (1 - start) * min(step / ramp, 1.0) if ramp else 1.0


@dataclass(frozen=True)
class LRScaling:
    """A global batch of `batch`, its rate scaled from `reference`, reached over `warmup`."""

    batch: int = 256
    reference: int = 128
    rule: str = "linear"
    warmup: float = 0.05  # below 1: share of the run; from 1 on: optimiser steps
    start: float = 0.1

    chapter: ClassVar[int] = 2
    slots: ClassVar[tuple[str, ...]] = ("batch", "lr_factors")

    def __post_init__(self) -> None:
        if not (self.batch >= 1 and self.reference >= 1):
            raise ValueError(
                f"LRScaling needs batch and reference of 1 or more, not {self!r:.250}."
            )
        if self.rule not in POWER:
            raise ValueError(f"LRScaling knows {', '.join(POWER)} as rules, not {self.rule!r:.60}.")
        if not (0 <= self.warmup < float("inf") and 0 < self.start <= 1):
            raise ValueError(
                f"LRScaling needs a finite warmup >= 0 and start in (0, 1], not {self!r:.250}."
            )

    def lr_factor(self, step: int, steps: int, batch: int) -> float:
        """The learning rate's factor before optimiser step `step` of `steps`."""
        ramp = self.warmup * steps if self.warmup < 1 else self.warmup
        return scale(batch, self.reference, self.rule) * warm_up(step, ramp, self.start)
