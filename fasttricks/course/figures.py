"""Figures of chapters; all styling lives here and in `study.style`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from ..study.statistics import interval
from ..study.style import COLOURS, HATCHES, MARKS, STYLES, plain_numbers
from .tables import Arms, caption


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


def plot(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],  # x and y by label
    xlabel: str,
    ylabel: str,
    title: str = "",
    scale: str = "linear",  # of x: "linear" or "log"
    marks: bool = False,  # a mark at each point
    yscale: str = "linear",  # or "log"
) -> Figure:
    """Lines that are told apart in black and white too."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for number, (label, (x, y)) in enumerate(lines.items()):
        style, colour = STYLES[number % 4], COLOURS[number % 4]
        axes.plot(x, y, style, color=colour, label=label, marker=MARKS[number % 4] if marks else "")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xscale=scale, yscale=yscale)
    for axis, asked in ((axes.xaxis, scale), (axes.yaxis, yscale)):
        if asked == "log":
            plain_numbers(axis)
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
    columns: Sequence[str] = "",  # their names; then rows are numbered from 0
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
        axes.set(xlabel=xlabel, xticks=range(len(columns)), yticks=[])
        axes.set_xticklabels(columns)
        axes.tick_params(length=0, labelsize=8)
    panels[0, 0].set(ylabel=ylabel, yticks=range(len(grids[0])) if columns else [])
    return figure


def redraws(
    slow: Sequence[float],  # seconds, one per pair
    fast: Sequence[float],  # of the same pairs
    picks: torch.Tensor,  # (draws, pairs) the numbers of the pairs in each draw
) -> Figure:
    """The bootstrap: what each pair says on top; a row per draw below, and its ratio of medians."""
    seconds, draws = np.array([slow, fast]), picks.cpu().numpy()
    pairs = seconds[0] / seconds[1]
    rows = range(1, len(draws) + 1)
    figure, axes = plt.subplots(figsize=(7, 0.17 * len(draws) + 1.5), layout="constrained")
    axes.plot(pairs, [0] * len(pairs), "o", color=COLOURS[0], label="a pair that we have")
    for row, drawn in zip(rows, draws, strict=True):
        which, times = np.unique(drawn, return_counts=True)
        label = "a pair that was drawn; larger: several times" if row == 1 else None
        axes.scatter(pairs[which], [row] * len(which), 14 * times, "grey", label=label)
    found = np.divide(*np.median(seconds[:, draws], -1))
    axes.plot(found, rows, "|", color=COLOURS[1], ms=9, mew=3, label="the draw's speed-up")
    axes.axvline(1, color="black", lw=0.8)
    axes.set(xlabel="times as fast", yticks=[0, 1, len(draws)])
    axes.set_yticklabels(["pairs", "draw 1", f"draw {len(draws)}"])
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=3, fontsize=8)
    return figure
