"""The capstone: two plausible wrong answers a question, and a sum broken so that a claim fails."""

import statistics
from dataclasses import dataclass
from typing import ClassVar


def one_after_another(recipe):
    found = {}
    for name in recipe.names:
        recipe = recipe - name
        found[name] = recipe
    return found


@dataclass(frozen=True)
class InPlace:
    side: int
    chapter: ClassVar[int] = 4
    slots: ClassVar[tuple[str, ...]] = ("batch_maps",)

    def batch_map(self, x, q, rng):
        x[:, :, : self.side, : self.side] = 0
        return x, q


@dataclass(frozen=True)
class Corner:
    side: int
    chapter: ClassVar[int] = 4
    slots: ClassVar[tuple[str, ...]] = ("batch_maps",)

    def batch_map(self, x, q, rng):
        x = x.clone()
        x[:, :, : self.side, : self.side] = 0
        return x, q


WRONG = {
    1: [
        one_after_another,
        lambda recipe: {
            n: recipe - m for n, m in zip(recipe.names, recipe.names[::-1], strict=True)
        },
    ],
    2: [
        lambda slow, fast, seeds: statistics.median(slow[s] / fast[s] for s in seeds),
        lambda slow, fast, seeds: (
            statistics.median(slow[s] for s in seeds) / statistics.median(fast)
        ),
    ],
    3: [InPlace, Corner],
}

SABOTAGE = """
from fasttricks import recipe
recipe.sorted = lambda values, key: list(values)  # tricks stay in the order they came in
"""
