"""Drawings that explain: who does what when, what goes round a ring, where a grid is lowest."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..study.style import COLOURS, HATCHES

TINTS = ("#D9D9D9", "#F2B48C", "#8CC1E3", "#8CD3BC")  # COLOURS, light enough to write on
SQUARE = 0.34  # the side of a chunk; the ring's radius is 1


def timeline(
    rows: Mapping[str, Sequence[tuple[str, float, float]]],  # what, its start and its end, by row
    title: str = "",
) -> Figure:
    """Who does what when: a bar from start to end; a colour and a hatch for each kind of work."""
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(rows) + 1.3), layout="constrained")
    kinds: dict[str, int] = {}
    for row, spans in enumerate(rows.values()):
        for what, start, end in spans:
            label = None if what in kinds else what
            number = kinds.setdefault(what, len(kinds)) % len(TINTS)
            look = {"color": TINTS[number], "hatch": HATCHES[number], "edgecolor": "black"}
            axes.barh(row, end - start, 0.7, start, label=label, **look)
    axes.set(yticks=range(len(rows)), yticklabels=list(rows), xticks=[], title=title)
    axes.set_xlabel("time → (drawn, not measured)")
    axes.invert_yaxis()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def circle(
    states: Sequence[torch.Tensor],  # (N devices, N chunks) how many devices are in each sum
    shown: Mapping[int, str],  # the states to draw, and the title of each
) -> Figure:
    """Devices in a ring, each with its chunks; an arrow says which chunk it sends next."""
    size = 3.3
    figure, panels = plt.subplots(
        1, len(shown), figsize=(size * len(shown), size), squeeze=False, layout="constrained"
    )
    for axes, (number, title) in zip(panels[0], shown.items(), strict=True):
        state, n = states[number], len(states[number])
        for rank, held in enumerate(state):
            angle = math.pi / 2 - 2 * math.pi * rank / n  # clockwise from the top
            draw_chunks(axes, 1.3 * math.cos(angle), 1.2 * math.sin(angle), held, f"device {rank}")
            if number + 1 < len(states):
                sent = (states[number + 1] != state)[(rank + 1) % n].nonzero()
                draw_arrow(axes, angle, 2 * math.pi / n, "abcdefgh"[int(sent[0])])
        axes.set(xlim=(-2.5, 2.5), ylim=(-1.5, 1.7), title=title)
        axes.set_aspect("equal")
        axes.axis("off")
    return figure


def draw_chunks(axes: Axes, x: float, y: float, held: torch.Tensor, name: str) -> None:
    """One device: a square for each chunk, with its letter and how many devices are in it."""
    n = len(held)
    for chunk, count in enumerate(held.tolist()):
        left = x + (chunk - n / 2) * SQUARE
        done = count == n
        look = {"facecolor": TINTS[chunk % 4], "hatch": None if done else HATCHES[chunk % 4]}
        axes.add_patch(
            Rectangle(
                (left, y - SQUARE / 2),
                SQUARE,
                SQUARE,
                edgecolor="black",
                lw=2.5 if done else 0.8,
                **look,
            )
        )
        text = axes.text(
            left + SQUARE / 2,
            y,
            f"{'abcdefgh'[chunk]}{count:g}",
            ha="center",
            va="center",
            fontsize=8,
            weight="bold" if done else "normal",
        )
        text.set_bbox({"color": "white", "pad": 0.6, "alpha": 0.8})
    axes.text(x, y + 0.6 * SQUARE, name, ha="center", va="bottom", fontsize=8)


def draw_arrow(axes: Axes, angle: float, step: float, letter: str) -> None:
    """From a device to its right neighbour, with the chunk that travels."""
    points = [
        (far * math.cos(angle - part * step), far * math.sin(angle - part * step))
        for part, far in ((0.34, 1.35), (0.66, 1.35), (0.5, 1.6))
    ]
    curve = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.2", "lw": 1.5, "color": COLOURS[1]}
    axes.annotate("", points[1], points[0], arrowprops=curve)
    text = axes.text(*points[2], letter, ha="center", va="center", fontsize=9, weight="bold")
    text.set_bbox({"color": "white", "pad": 1})


def heat(
    grid: Sequence[Sequence[float]],  # (R, C), the lower the better
    rows: Sequence[str],  # R names
    columns: Sequence[str],  # C names
    xlabel: str,
    ylabel: str,
    top: float,  # what is higher, or no number, is written as above this
    title: str = "",
) -> Figure:
    """A grid of numbers, the lower the darker; a frame around the lowest of each column."""
    values = np.array(grid, dtype=float)
    values = np.where(np.isfinite(values), values, top).clip(max=top)
    figure, axes = plt.subplots(
        figsize=(1.1 * len(columns) + 2, 0.5 * len(rows) + 1.3), layout="constrained"
    )
    low, high = values.min(), values.max()
    axes.imshow(values, cmap="Greys_r", vmin=low - 0.3 * (high - low), vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        word = f"{value:.2f}" if value < top else f"above {top:g}"
        colour = "white" if value < (low + high) / 2 else "black"
        axes.text(column, row, word, ha="center", va="center", color=colour)
    for column, row in enumerate(values.argmin(0)):
        frame = Rectangle((column - 0.45, row - 0.42), 0.9, 0.84, fill=False, lw=3)
        frame.set_edgecolor(COLOURS[1])
        axes.add_patch(frame)
    axes.set(xticks=range(len(columns)), xticklabels=columns, xlabel=xlabel, title=title)
    axes.set(yticks=range(len(rows)), yticklabels=rows, ylabel=ylabel)
    return figure
