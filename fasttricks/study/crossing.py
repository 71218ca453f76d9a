"""Images and seconds until a target, read off a monotone curve; their interval by the jackknife.

Mean accuracies at several lengths are noisy, and lengths come in steps. So a curve is fitted to
them, a parabola in log(images) that does not fall, and the images at which it is at the target are
a number without steps. Seconds are these images at the pace of the last round.

The jackknife (Tukey 1958) does all of it again without each seed in turn, and the scatter of what
comes out gives the interval, by Student's t. Seeds are paired: without a seed means without it in
both arms of a ratio. `analysis.coverage` tells how often such an interval holds.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from scipy.stats import t

from .findings import Estimate

LEVEL = 0.95
STEP = 0.0005  # between two targets that are considered


@dataclass(frozen=True)
class Curve:
    """Accuracy as a parabola in log(images) that does not fall between the shortest and longest."""

    low: float  # log of the fewest images
    high: float  # of the most
    begin: float  # accuracy at the fewest
    first: float  # slope there, for the whole distance; at least 0
    last: float  # slope at the most

    def at(self, images: NDArray) -> NDArray:
        """Accuracy; beyond the ends it goes on straight."""
        u = (np.log(images) - self.low) / (self.high - self.low)
        inside = u.clip(0, 1)
        bend = (self.last - self.first) / 2
        value = self.begin + self.first * inside + bend * inside**2
        return value + np.where(u < 0, self.first * u, 0) + np.where(u > 1, self.last * (u - 1), 0)

    def images(self, target: float) -> float:
        """Where the curve first is at the target; infinite where it ends below.

        Straight on beyond the ends, for a quarter of its length at most.
        """
        gap, bend = target - self.begin, self.last - self.first
        if gap < 0:
            u = gap / self.first if self.first else -math.inf
        elif self.at(np.exp(self.high)) < target:
            u = 1 + (target - self.at(np.exp(self.high))) / self.last if self.last else math.inf
        elif gap == 0:
            u = 0.0
        else:
            u = 2 * gap / (self.first + math.sqrt(max(0.0, self.first**2 + 2 * bend * gap)))
        if not -0.25 <= u <= 1.25:
            return math.inf if u > 0 else math.nan
        return math.exp(self.low + u * (self.high - self.low))


def fit(
    images: NDArray,  # (R,)
    accuracy: NDArray,  # (R,)
) -> Curve:
    """The curve through accuracies, by least squares with both slopes at least 0."""
    low, high = np.log(images[[0, -1]])
    u = (np.log(images) - low) / (high - low) if high > low else np.zeros(len(images))
    parts = np.stack([np.ones_like(u), u - u**2 / 2, u**2 / 2], 1)
    found = lsq_linear(parts, accuracy, ([-np.inf, 0, 0], np.inf), method="bvls").x
    return Curve(low, high, *found)


@dataclass(frozen=True)
class Arm:
    """An arm's complete lengths, from few images to many; a column a seed."""

    images: NDArray  # (R,)
    accuracy: NDArray  # (R, S) final validation accuracy
    pace: NDArray  # (S,) seconds an image
    rest: NDArray  # (S,) seconds of the cold wall beside training; not numbers where it is unknown

    def first(self, seeds: int) -> "Arm":
        """The same arm with its first seeds alone."""
        few = self.accuracy[:, :seeds], self.pace[:seeds], self.rest[:seeds]
        return self if seeds == len(self.pace) else Arm(self.images, *few)

    @cached_property
    def curve(self) -> Curve:
        """That of all seeds."""
        return fit(self.images, self.accuracy.mean(1))

    @cached_property
    def without(self) -> list[Curve]:
        """That of all seeds but one, for each seed."""
        seeds = self.accuracy.shape[1]
        return [
            fit(self.images, np.delete(self.accuracy, seed, 1).mean(1)) for seed in range(seeds)
        ]

    def costs(
        self,
        target: float,
        clock: str = "train",  # "wall", or "images" for their number
    ) -> NDArray:
        """(1 + S,) logarithms of what it takes to be at the target: by all seeds, without each."""
        seeds = np.arange(self.accuracy.shape[1])
        chosen = [seeds >= 0, *(seeds != seed for seed in seeds)]
        curves = [self.curve, *self.without]
        pairs = zip(curves, chosen, strict=True)
        return np.array([self.log_cost(curve, target, clock, kept) for curve, kept in pairs])

    def log_cost(self, curve: Curve, target: float, clock: str, seeds: NDArray) -> float:
        """The logarithm of images, train clock or cold wall until the target."""
        images = math.log(curve.images(target)) if curve.images(target) > 0 else math.nan
        if clock == "images":
            return images
        train = images + np.log(self.pace[seeds]).mean()
        return train if clock == "train" else math.log(math.exp(train) + self.rest[seeds].mean())


def estimate(costs: NDArray) -> Estimate:
    """Of (1 + S,) logarithms, by all seeds and without each; an open interval where one has none.

    The jackknife's variance is that of the mean of the pseudo-values.
    """
    value, left = costs[0], costs[1:]
    seeds = len(left)
    if not np.isfinite(costs).all() or seeds < 2:
        return Estimate(float(np.exp(value)), 0.0, math.inf)
    error = math.sqrt((seeds - 1) * left.var())
    if not error:  # an arm beside itself
        return Estimate(*3 * (float(np.exp(value)),))
    low, high = np.exp(value + np.array(t.interval(LEVEL, seeds - 1, scale=error))).tolist()
    return Estimate(float(np.exp(value)), low, high, float(2 * t.sf(abs(value) / error, seeds - 1)))


def holm(p: NDArray) -> NDArray:
    """The p-values of several questions asked at once (Holm 1979)."""
    order, count = np.argsort(p), len(p)
    raised = np.maximum.accumulate(p[order] * (count - np.arange(count)))
    found = np.empty(count)
    found[order] = raised.clip(max=1)
    return found


def simulated(
    arm: Arm,  # whose curve is the truth, and whose scatter is the noise
    images: NDArray,  # (R,) lengths of a made-up arm
    turns: NDArray,  # (S,) the round whose pace each made-up seed has
    random: np.random.Generator,
) -> Arm:
    """A made-up arm: noise is drawn from that of the lengths nearest by."""
    seeds = arm.accuracy.shape[1]
    scatter = (arm.accuracy - arm.accuracy.mean(1, keepdims=True)) * math.sqrt(seeds / (seeds - 1))
    nearest = np.abs(np.log(images)[:, None] - np.log(arm.images)).argmin(1)
    drawn = random.integers(0, seeds, (len(images), len(turns)))
    accuracy = arm.curve.at(images)[:, None] + scatter[nearest[:, None], drawn]
    widened = np.log(arm.pace)
    widened = widened.mean() + (widened - widened.mean()) * math.sqrt(seeds / (seeds - 1))
    return Arm(images, accuracy, np.exp(widened)[turns], arm.rest[turns])


def choose_target(
    pilot: Arm,
    images: NDArray,  # (R,) the lengths that the study will have
    seeds: int,  # it will have
    tolerance: float,  # half the interval of its images, as a share
    studies: int = 200,  # made up
) -> float:
    """The highest accuracy to which the images can be told as closely as the tolerance says."""
    random = np.random.default_rng(0)
    turns = np.zeros(seeds, int)
    made = [simulated(pilot, images, turns, random) for _ in range(studies)]
    ends = pilot.curve.at(pilot.images[[0, -1]])
    targets = np.arange(math.ceil(ends[0] / STEP), math.floor(ends[1] / STEP) + 1)[::-1] * STEP
    for target in targets:
        widths = [
            (found.high - found.low) / 2 / found.value
            for arm in made
            if (found := estimate(arm.costs(target, "images"))).high < math.inf
        ]
        if len(widths) > 0.975 * studies and np.mean(widths) <= tolerance:
            return round(float(target), 4)
    raise ValueError(
        f"The pilot finds no target whose images {seeds} seeds can tell within "
        f"{tolerance:.0%}; give it more seeds, or longer runs."
    )
