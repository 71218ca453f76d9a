"""Figures of what is inside: the answers of a layer's filters, the ranges of number formats."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ..study.style import COLOURS, STYLES


def answers(
    image: Tensor,  # (H, W) what the filters look at
    found: Mapping[str, Tensor],  # by the layer's name, (F, H, W) the answers of its filters
    columns: int = 8,
) -> Figure:
    """What each filter answers; of each layer the largest answer is 1, and middle grey is 0."""
    rows = {name: -(-len(maps) // columns) for name, maps in found.items()}
    count, top = sum(rows.values()), 0
    figure, axes = plt.subplots(
        count,
        columns + 1,
        figsize=(1.05 * (columns + 2), 1.12 * count + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.axis("off")
    for name, maps in found.items():
        shares = (maps / maps.abs().max()).detach().cpu().numpy()
        axes[top, 0].imshow(image.cpu().numpy(), cmap="gray")
        axes[top, 0].set_title("input", fontsize=9)
        if rows[name] > 1:
            axes[top + 1, 0].text(0.5, 0.75, name, ha="center", weight="bold")
        for number, share in enumerate(shares):
            ax = axes[top + number // columns, 1 + number % columns]
            drawn = ax.imshow(share, cmap="gray", vmin=-1, vmax=1)
            ax.set_title(f"{name} {number + 1}", fontsize=9)
        top += rows[name]
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label("answer, share of the layer's largest")
    return figure


def formats(
    ranges: Mapping[str, Sequence[float]],  # smallest number, smallest normal one, largest
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],  # by label: powers of two, shares
    guide: str,  # the format whose limits are drawn through the lines
    window: tuple[float, float] = (-48, 24),  # powers of two that are shown
) -> Figure:
    """Above, which sizes each format can hold; below, how often which sizes occur."""
    figure, (upper, lower) = plt.subplots(
        2, figsize=(9, 5), sharex=True, height_ratios=(1, 2), layout="constrained"
    )
    for row, found in enumerate(ranges.values()):
        smallest, normal, largest = np.log2(found)
        where = {"left": smallest, "color": "white", "edgecolor": "black", "hatch": "////"}
        upper.barh(row, normal - smallest, **where, label=None if row else "with fewer digits")
        where |= {"left": normal, "color": "darkgrey", "hatch": ""}
        upper.barh(row, largest - normal, **where, label=None if row else "with all its digits")
    upper.set(
        yticks=range(len(ranges)), yticklabels=list(ranges), title="sizes that a format holds"
    )
    upper.invert_yaxis()
    upper.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    for number, (label, (powers, shares)) in enumerate(lines.items()):
        lower.plot(powers, shares, STYLES[number % 4], color=COLOURS[number % 4], label=label)
    for limit in np.log2(ranges[guide]):
        for ax in (upper, lower):
            ax.axvline(limit, color="grey", lw=1)
    lower.set(xlabel="size, as a power of two", ylabel="share of elements, %", xlim=window)
    lower.set_xticks(range(int(window[0]), int(window[1]) + 1, 8))
    lower.legend()
    lower.grid(alpha=0.3)
    return figure
