"""Exercises of the capstone."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ...budget import BASELINE, SEVEN
from ...recipe import Recipe, Trick

Tries = Iterator[tuple[str, bool]]


def exercise_1(leave_one_out: Callable[[Recipe], dict[str, Recipe]]) -> Tries:
    """A recipe without each of its tricks, by the name of what is missing."""
    whole = sum(SEVEN, start=BASELINE)
    found = leave_one_out(whole)
    yield "return a dictionary with one recipe for each trick", set(found) == set(whole.names)
    yield (
        "every recipe lacks one trick only: begin anew from the whole each time",
        all(len(recipe.tricks) == 6 for recipe in found.values()),
    )
    yield (
        "the key is the name of the trick that is missing",
        all(name not in recipe.names for name, recipe in found.items()),
    )
    two = leave_one_out(sum(SEVEN[3:5], start=BASELINE))
    yield "it must work for a recipe of two tricks too", list(two) == ["mixup", "smoothing"]


def exercise_2(drawn: Callable[[Sequence[float], Sequence[float], Sequence[int]], float]) -> Tries:
    """The speed-up of the seeds that one draw of the bootstrap has picked."""
    yield "half the seconds at every seed is 2", drawn([2, 4, 6], [1, 2, 3], [0, 1, 2]) == 2
    yield "slow seconds over fast seconds, not the other way round", drawn([9], [3], [0]) == 3
    yield (
        "a seed that is drawn twice counts twice, one that is not drawn counts nothing",
        drawn([10, 20, 60], [1, 1, 1], [2, 2, 0]) == 60,
    )
    yield (
        "draw the same seeds from both arms: their runs are pairs",
        drawn([10, 20, 60], [10, 5, 20], [0, 1, 1]) == 4,
    )
    yield (
        "divide the median of the slow by the median of the fast, not run by run",
        drawn([10, 20, 60], [10, 1, 20], [0, 1, 2]) == 2,
    )


def exercise_3(cutout: Callable[[int], Trick]) -> Tries:
    """A trick of the reader's own: a square of each batch of images turned grey."""
    trick = cutout(3)
    filled = trick.slots == ("batch_maps",)
    yield "it needs `slots`, a tuple that names what it fills: batch_maps", filled
    x, q = torch.ones(4, 1, 8, 8), torch.eye(4)
    before = x.clone()
    new_x, new_q = trick.batch_map(x, q, np.random.default_rng(0))
    yield "the batch that came in must stay as it was", torch.equal(x, before)
    yield "the targets stay as they are", torch.equal(new_q, q)
    holes = (new_x == 0).sum((1, 2, 3))
    yield "a square of side 3, whole inside the image, is set to 0", holes.tolist() == [9] * 4
    places = {
        tuple((trick.batch_map(x, q, np.random.default_rng(seed))[0] == 0).nonzero()[0].tolist())
        for seed in range(20)
    }
    yield "draw the place from `rng`, anew for each batch", len(places) > 5
    yield "the sum with a recipe must hold it", trick in (BASELINE + trick).fills("batch_maps")
