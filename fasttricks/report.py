"""Tables and figures of runs, and checked claims; all styling lives here."""

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from .recipe import Recipe, name_of
from .record import Run, machine

pd.set_option("display.max_colwidth", None, "display.width", 110)  # tables are shown whole

Arms = Mapping[str, Sequence[Run]]  # runs that differ in their seed alone, by the arm's name
STYLES = ("-", "--", ":", "-.")
MARKS = ("o", "s", "^", "D")
HATCHES = ("", "//", "..", "xx", "--", "oo", "\\\\")
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73")  # Okabe and Ito: told apart by all eyes


def holds(true: bool, claim: str) -> None:
    """Print a claim that holds; raise AssertionError where it does not."""
    if not true:
        raise AssertionError(f"does not hold: {claim}")
    print(f"holds: {claim}")


def mean_accuracy(runs: Sequence[Run]) -> float:
    """Mean final validation accuracy."""
    return sum(run.val_accuracy for run in runs) / len(runs)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return float(pd.Series(values).median())


def interval(
    values: Sequence,  # one a seed: a number, or one of each arm
    statistic: Callable = lambda drawn: drawn.mean(1),  # (D, n, ...) to (D,)
) -> tuple[float, float]:
    """The bootstrap's 95 % interval; of three means it is little but their range (Efron 1979)."""
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


def speed_up(
    runs: Sequence[Run],
    reference: Sequence[Run],
    clock: str = "train_seconds",
) -> float:
    """How many times sooner than the reference an arm is at the target; 0 for never."""
    return seconds_to_target(reference, clock) / seconds_to_target(runs, clock)


def table(arms: Arms) -> pd.DataFrame:
    """A column an arm, as text; the first arm is what the others are compared with."""
    first = next(iter(arms.values()))
    return pd.DataFrame({name: column(runs, first) for name, runs in arms.items()})


def column(runs: Sequence[Run], reference: Sequence[Run]) -> dict[str, str]:
    """What the table says of one arm."""
    found = sorted(run.val_accuracy for run in runs)
    return {
        "seconds to target, train clock": written(seconds_to_target(runs), "never"),
        "seconds to target, cold wall": written(seconds_to_target(runs, "wall_seconds"), "never"),
        "images seen": f"{runs[0].images_seen:,}",
        "images a second": f"{median([run.images_per_second for run in runs]):,.0f}",
        "validation accuracy, mean": f"{mean_accuracy(runs):.4f}",
        "lowest and highest": f"{found[0]:.4f} {found[-1]:.4f}",
        "speed-up, train clock": written(speed_up(runs, reference), "-"),
        "95 % interval of that": speed_up_interval(runs, reference),
        "speed-up, cold wall": written(speed_up(runs, reference, "wall_seconds"), "-"),
        "processes, precision": f"{runs[0].processes}, {runs[0].precision}",
        "runs": str(len(runs)),
    }


def speed_up_interval(runs: Sequence[Run], reference: Sequence[Run]) -> str:
    """That of the train clock: pairs are drawn, three or more; both arms must be at the target."""
    if len(runs) < 3 or math.inf in (seconds_to_target(runs), seconds_to_target(reference)):
        return "-"
    pairs = zip(reference, runs, strict=True)
    found = [(slow.train_seconds, fast.train_seconds) for slow, fast in pairs]
    low, high = interval(found, lambda drawn: np.divide(*np.median(drawn, 1).T))
    return f"{low:.1f} {high:.1f}"


def written(value: float, never: str) -> str:
    """One decimal, or a word where there is no finite number above 0."""
    return f"{value:.1f}" if 0 < value < math.inf else never


def recipe_table(recipe: Recipe) -> pd.DataFrame:
    """A recipe's tricks, a row each: chapter, name, slots, settings."""
    rows = [
        {"chapter": t.chapter, "trick": name_of(t), "fills": ", ".join(t.slots), "as": repr(t)}
        for t in recipe.tricks
    ]
    return pd.DataFrame(rows).set_index("chapter")


def caption(run: Run) -> str:
    """The hardware of a run, in one line."""
    return f"{run.model}, {run.image_size}x{run.image_size} pixels, on {machine(run.hardware)}"


def accuracy_against_time(arms: Arms) -> Figure:
    """Validation accuracy against the train clock: a line a run, a mark at its end."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for (name, runs), style, mark, colour in zip(arms.items(), STYLES, MARKS, COLOURS):  # noqa: B905
        for number, run in enumerate(runs):
            _, seconds, accuracy = zip(*run.curve, strict=True)
            label = f"{name} (n = {len(runs)})" if number == 0 else None
            axes.plot(seconds, accuracy, style, color=colour, lw=1.2, alpha=0.8)
            axes.plot(seconds[-1], accuracy[-1], mark, color=colour, label=label)
    run = runs[0]
    axes.axhline(run.target, color="grey", lw=0.8)
    axes.annotate(
        f"target {run.target:g}",
        (0.01, run.target),
        xycoords=("axes fraction", "data"),
        va="bottom",
        color="grey",
    )
    axes.set(
        ylim=(run.target - 0.1, None),
        xscale="log",
        xlabel="train clock, seconds (log scale)",
        ylabel="validation accuracy",
        title=caption(run),
    )
    plain_numbers(axes.xaxis)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    return figure


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis 1, 2, 5, 10 instead of in powers of ten."""

    def between(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        return f"{value:g}" if high < 300 * low and f"{value:e}"[0] in "25" else ""

    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(between)


def accuracy_table(arms: Arms) -> pd.DataFrame:
    """A column an arm, at a fixed number of images; gains are of runs that share a seed."""
    first = next(iter(arms.values()))
    rows = {}
    for name, runs in arms.items():
        found = pd.Series([run.val_accuracy for run in runs])
        won = gains(runs, first)
        rows[name] = {
            "validation accuracy, mean": f"{found.mean():.4f}",
            "lowest and highest": f"{found.min():.4f} {found.max():.4f}",
            "gain over the first arm, points": f"{np.mean(won):+.2f}",
            "lowest and highest gain": f"{min(won):+.2f} {max(won):+.2f}",
            "seconds, median": f"{median([run.train_seconds for run in runs]):.1f}",
            "images": f"{runs[0].images_seen:,}",
            "runs": str(len(runs)),
        }
    return pd.DataFrame(rows)


def plot(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],  # x and y by label
    xlabel: str,
    ylabel: str,
    title: str = "",
    scale: str = "linear",  # of x: "linear" or "log"
    marks: bool = False,  # a mark at each point
) -> Figure:
    """Lines that are told apart in black and white too."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for number, (label, (x, y)) in enumerate(lines.items()):
        style, colour = STYLES[number % 4], COLOURS[number % 4]
        axes.plot(x, y, style, color=colour, label=label, marker=MARKS[number % 4] if marks else "")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xscale=scale)
    if scale == "log":
        plain_numbers(axes.xaxis)
    if len(lines) > 1:
        axes.legend()
    axes.grid(alpha=0.3)
    return figure


def show(
    images: Sequence,  # (C, H, W) or (H, W) each, tensors or arrays
    titles: Sequence[str],
) -> Figure:
    """A row of images, each with a title above it."""
    figure, axes = plt.subplots(
        1, len(images), figsize=(1.6 * len(images), 2), squeeze=False, layout="constrained"
    )
    for ax, image, title in zip(axes[0], images, titles, strict=True):
        picture = torch.as_tensor(image).cpu()
        picture = picture if picture.ndim == 2 else picture.permute(1, 2, 0).squeeze(-1)
        ax.imshow(picture.numpy(), cmap="gray")
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    return figure


def bars(
    values: Mapping[str, Sequence[float]],  # by label, a value a seed
    xlabel: str,
    title: str = "",
) -> Figure:
    """A bar for each mean, a line for its interval, a dot for each value."""
    figure, axes = plt.subplots(figsize=(7, 0.45 * len(values) + 1.1), layout="constrained")
    for row, found in enumerate(values.values()):
        axes.barh(row, np.mean(found), color="lightgrey", edgecolor="black")
        axes.plot(interval(found), [row, row], "k-", lw=2)
        axes.plot(found, [row] * len(found), "k.", ms=5)
    axes.set(xlabel=xlabel, title=title, yticks=range(len(values)), yticklabels=list(values))
    axes.invert_yaxis()
    axes.axvline(0, color="black", lw=0.8)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3, axis="x")
    return figure


def shares(
    parts: Mapping[str, Mapping[str, float]],  # seconds of each part, by arm
    title: str = "",
) -> Figure:
    """A bar an arm, as long as the whole; how much of it each part takes, with its seconds."""
    figure, axes = plt.subplots(figsize=(9, 0.7 * len(parts) + 1.4), layout="constrained")
    names = list(next(iter(parts.values())))
    for row, found in enumerate(parts.values()):
        total, left = sum(found.values()), 0.0
        for number, name in enumerate(names):
            width = 100 * found[name] / total
            axes.barh(
                row,
                width,
                left=left,
                color=str(0.95 - 0.6 * (number % 2)),
                hatch=HATCHES[number % len(HATCHES)],
                edgecolor="black",
                label=name if row == 0 else None,
            )
            if width > 4:
                text = axes.text(
                    left + width / 2, row, f"{found[name]:.1f}", ha="center", va="center"
                )
                text.set_bbox({"color": "white", "pad": 1})
            left += width
    labels = [f"{name}\n{sum(found.values()):.1f} s" for name, found in parts.items()]
    axes.set(xlabel="share of the cold wall, %; the numbers are seconds", title=title)
    axes.set(yticks=range(len(parts)), yticklabels=labels, xlim=(0, 100))
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncol=len(names), fontsize=8)
    return figure


def tally(
    grids: Sequence[torch.Tensor],  # (rows, columns) whole numbers each
    titles: Sequence[str],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """A row of grids with their numbers in them; the larger, the darker."""
    figure, panels = plt.subplots(
        1, len(grids), figsize=(1.35 * len(grids), 1.9), squeeze=False, layout="constrained"
    )
    top = int(max(grid.max() for grid in grids))
    for axes, grid, title in zip(panels[0], grids, titles, strict=True):
        axes.imshow(grid.numpy(), cmap="Greys", vmin=0, vmax=top)
        for (row, column), number in np.ndenumerate(grid.numpy()):
            colour = "white" if number > top / 2 else "black"
            axes.text(column, row, f"{number:g}", ha="center", va="center", color=colour)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel=xlabel, xticks=[], yticks=[])
    panels[0, 0].set_ylabel(ylabel)
    return figure
