"""Several recipes side by side, their progress in one line, and the machine that they run on."""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .. import machine, progress
from ..budget import choose_budget
from ..data import Data
from ..progress import NotebookLine
from ..recipe import Recipe
from ..record import Run
from ..train import train


def about() -> str:
    """This machine, and what the budget gives to it, in one line."""
    size = choose_budget()
    apple = torch.backends.mps.is_available()
    return (
        f"{machine.name_of_machine(machine.hardware())}. Budget {size.name}: {size.model} on "
        f"{size.image_size}x{size.image_size} pixels, {size.images:,} images a run."
        + (" The GPU of this Mac is not used: nothing here was tried on it." if apple else "")
    )


@contextmanager
def one_line() -> Iterator[Callable[[str], None]]:
    """Inside, a notebook shows every bar in the place of the one before, and last what it is given.

    In a terminal each run leaves its own line, and nothing is added.
    """
    shown = progress.in_notebook() and progress.QUIET not in os.environ
    before, line = NotebookLine.shared, NotebookLine() if shown else None
    NotebookLine.shared = line
    try:
        yield line.write if line else lambda text: None
    finally:
        NotebookLine.shared = before


def train_arms(
    recipes: dict[str, Recipe],  # by the arm's name
    data: Data,
    *,
    images: int | None = None,  # images to see; the budget's unless given
    seeds: int | None = None,  # runs an arm; the budget's unless given
    evaluations: int = 4,  # of each run
    folder: str | Path | None = None,  # keeps the runs: the same call goes on where it was cut off
) -> dict[str, list[Run]]:
    """Train every recipe with the same seeds, the arms taking turns; the runs by arm."""
    arms: dict[str, list[Run]] = {name: [] for name in recipes}
    with one_line() as tell:
        for seed in range(seeds or choose_budget().seeds):
            for name, recipe in recipes.items():
                asked = {"images": images, "seed": seed, "evaluations": evaluations}
                key = zlib.crc32(f"{recipe} {asked}".encode())
                which = re.sub(r"\W+", "-", f"{name} {seed} {key:08x}")
                kept = Path(folder, which) if folder else None
                run = train(recipe, data, label=f"{name}, seed {seed}", folder=kept, **asked)
                arms[name].append(run)
        made = [run for runs in arms.values() for run in runs]
        seconds = sum(run.train_seconds for run in made)
        turns = f", {len(arms)} settings taking turns" if len(arms) > 1 else ""
        count = "1 run" if len(made) == 1 else f"{len(made)} runs"
        tell(f"{count}{turns}: {seconds:.0f} s of training")
    return arms
