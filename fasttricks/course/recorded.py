"""What chapters show of recorded studies, beside each trick's `headline`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..study.findings import RESULTS, Published, compared, found_in, published
from ..study.style import COLOURS
from .figures import plot

FEW = "few"  # the study of few labels and many epochs
MAIN, REFRESHED = "cpu", "refreshed"


def study_table(
    told: Published,
    arms: Sequence[str] = (),  # all, if none is named
) -> pd.DataFrame:
    """A row an arm of a recorded study, as text: what it takes, and how much faster it is."""
    from ..study.pages import as_table

    names = arms or [row.arm for row in told.rows]
    shown = as_table(told.of(*names))
    return shown[["images", "train s", f"times as fast as {told.reference}", "95%", "verdict"]]


def equal_table(
    told: Published,
    arms: Sequence[str] = (),  # all, if none is named
) -> pd.DataFrame:
    """A row an arm, as text: its gain over the reference after equally many images."""
    from ..study.pages import at_equal_images

    return at_equal_images(told).loc[list(arms or [row.arm for row in told.rows])]


def beside_refreshed(results: Path = RESULTS) -> str:
    """What is left of the gain where batch norm is refreshed and plain training is tuned for that;
    empty if unknown."""
    known = {told.study: told for told in published(results)}
    if not {MAIN, REFRESHED} <= set(known):
        return ""
    main, again = known[MAIN], known[REFRESHED]
    (plain, before), (tuned, whole, pair) = (
        main.of("plain", "whole"),
        again.of(again.reference, "whole", "plain + cyclic + transfer"),
    )
    return (
        f"**A fairer comparison gives {whole.ratio.value:.1f} times** (95% interval: "
        f"{whole.ratio.low:.1f} to {whole.ratio.high:.1f}; {whole.seeds} seeds), not "
        f"{before.ratio.value:.1f}. At a constant learning rate, the averages that batch norm "
        f"stores lag behind the network, so plain training is scored too low. (Chapter 3 shows "
        f"this, and repairs it by one line.) A second study repairs every network before it is "
        f"scored, and tunes plain training anew for that. Plain training then needs "
        f"{tuned.images.value:,.0f} images instead of {plain.images.value:,.0f}. Training with all "
        f"seven tricks needs {whole.images.value:,.0f}, and with one-cycle and pretrained weights "
        f"alone {pair.images.value:,.0f}."
    )


def with_few_labels(
    trick: str,  # "mixup" or "smoothing"
    results: Path = RESULTS,
) -> str:
    """What the study of few labels and many epochs says of a trick added to one-cycle."""
    from ..study.pages import equal_gains

    told = found_in(FEW, results)
    arm = f"{told.reference} + {trick}"
    (row,) = told.of(arm)
    ways = [
        f"{points:+.2f} points (95% interval: {low:+.2f} to {high:+.2f}) after "
        f"{images / told.labels:.0f} epochs"
        for images, points, low, high in equal_gains(told, arm)
    ]
    *_, (_, _, low, high) = equal_gains(told, arm)
    meaning = "a clear gain" if low > 0 else "a clear loss" if high < 0 else "no clear difference"
    return (
        f"Recorded on {told.hardware}, with {told.labels:,} labels and {row.seeds} seeds: this "
        f"trick changes the accuracy of one-cycle by {ways[0]}, and by **{ways[-1]}**: {meaning}. "
        f"To an accuracy of {told.target}, training with it is {compared(row)}"
        + (", which may be chance among the study's many verdicts." * row.wavers or ".")
    )


def on_test_images(told: Published, arm: str) -> str:
    """How accurate an arm and the reference are on the test images, at the target's lengths."""
    from ..study.pages import paired

    pairs = list(zip(told.tested[arm], told.tested[told.reference], strict=False))
    own, known = (sum(scores) / len(pairs) for scores in zip(*pairs, strict=True))
    points, low, high = paired(pairs)
    meaning = (
        "clearly higher" if low > 0 else "clearly lower" if high < 0 else "no clear difference"
    )
    return (
        f"{known:.4f} for {told.reference} and {own:.4f} for {arm} ({points:+.2f} points, 95% "
        f"interval: {low:+.2f} to {high:+.2f}, n = {len(pairs)}): **{meaning}**"
    )


def gain_by_epochs(*tricks: str, results: Path = RESULTS) -> Figure:
    """The points that tricks add to one-cycle in the study of few labels, at each length."""
    from ..study.pages import equal_gains

    told, lines = found_in(FEW, results), {}
    for trick in tricks:
        lengths, points, low, high = zip(
            *equal_gains(told, f"{told.reference} + {trick}"), strict=True
        )
        lines[trick] = ([images / told.labels for images in lengths], points, low, high)
    title = f"{told.labels:,} labels, mean of {told.seeds} seeds, bands: 95% intervals"
    figure = plot(
        {trick: line[:2] for trick, line in lines.items()},
        "epochs in the run", "accuracy gain over one-cycle, points", title, marks=True,
    )  # fmt: skip
    (axes,) = figure.axes
    for number, (epochs, _, low, high) in enumerate(lines.values()):
        axes.fill_between(epochs, low, high, color=COLOURS[number], alpha=0.2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend()
    return figure
