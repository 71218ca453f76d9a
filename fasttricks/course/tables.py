"""Tables of runs, as text."""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
import pandas as pd

from ..machine import name_of_machine
from ..recipe import Recipe, name_of
from ..record import Run
from ..study.statistics import gains, mean_accuracy, seconds_to_target, speed_up, speed_up_interval

pd.set_option("display.max_colwidth", None, "display.width", 110)  # tables are shown whole

Arms = Mapping[str, Sequence[Run]]  # runs that differ in their seed alone, by the arm's name


def table(arms: Arms) -> pd.DataFrame:
    """A column an arm, as text; the first arm is what the others are compared with."""
    first = next(iter(arms.values()))
    return pd.DataFrame({name: column(runs, first) for name, runs in arms.items()})


def column(runs: Sequence[Run], reference: Sequence[Run]) -> dict[str, str]:
    """What the table says of one arm."""
    found = sorted(run.val_accuracy for run in runs)
    return {
        "seconds, train clock": written(seconds_to_target(runs), "never"),
        "seconds, total time": written(seconds_to_target(runs, "wall_seconds"), "never"),
        "images seen": f"{runs[0].images_seen:,}",
        "images a second": f"{median([run.images_per_second for run in runs]):,.0f}",
        "validation accuracy, mean": f"{mean_accuracy(runs):.4f}",
        "lowest and highest": f"{found[0]:.4f} {found[-1]:.4f}",
        "speed-up, train clock": written(speed_up(runs, reference), "-"),
        "95% interval of that": "-" if runs is reference else speed_up_interval(runs, reference),
        "speed-up, total time": written(speed_up(runs, reference, "wall_seconds"), "-"),
        "processes, precision": f"{runs[0].processes}, {runs[0].precision}",
        "runs": str(len(runs)),
    }


def written(value: float, never: str) -> str:
    """One decimal, or a word where there is no finite number above 0."""
    return f"{value:.1f}" if 0 < value < float("inf") else never


def recipe_table(recipe: Recipe) -> pd.DataFrame:
    """A recipe's tricks, a row each: chapter, name, slots, settings."""
    rows = [
        {"chapter": t.chapter, "trick": name_of(t), "fills": ", ".join(t.slots), "as": repr(t)}
        for t in recipe.tricks
    ]
    return pd.DataFrame(rows).set_index("chapter")


def caption(run: Run) -> str:
    """The hardware of a run, in one line."""
    return (
        f"{run.model}, {run.image_size}x{run.image_size} pixels, on {name_of_machine(run.hardware)}"
    )


def accuracy_table(arms: Arms) -> pd.DataFrame:
    """A column for each arm, at a fixed number of images; gains are of runs that share a seed."""
    start, first = next(iter(arms.items()))
    rows = {}
    for name, runs in arms.items():
        found = pd.Series([run.val_accuracy for run in runs])
        won = gains(runs, first)
        rows[name] = {
            "validation accuracy, mean": f"{found.mean():.4f}",
            "lowest and highest": f"{found.min():.4f} {found.max():.4f}",
            f"gain over {start}, points": f"{np.mean(won):+.2f}",
            "lowest and highest gain": f"{min(won):+.2f} {max(won):+.2f}",
            "seconds, median": f"{median([run.train_seconds for run in runs]):.1f}",
            "images": f"{runs[0].images_seen:,}",
            "runs": str(len(runs)),
        }
    return pd.DataFrame(rows)
