"""What chapters show of recorded studies, beside each trick's `headline`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..study.findings import RESULTS, Published, compared, found_in

FEW, LABELS = "few", 5_500  # the study of few labels, and how many it has


def study_table(
    told: Published,
    arms: Sequence[str] = (),  # all, if none is named
) -> pd.DataFrame:
    """A row an arm of a recorded study, as text: what it takes, and how much faster it is."""
    from ..study.pages import as_table

    names = arms or [row.arm for row in told.rows]
    shown = as_table(told.of(*names))
    return shown[["images", "train s", f"times as fast as {told.reference}", "95 %", "verdict"]]


def equal_table(
    told: Published,
    arms: Sequence[str] = (),  # all, if none is named
) -> pd.DataFrame:
    """A row an arm, as text: its gain over the reference after equally many images."""
    from ..study.pages import at_equal_images

    return at_equal_images(told).loc[list(arms or [row.arm for row in told.rows])]


def with_few_labels(
    trick: str,  # its short name, e.g. "mixup"
    results: Path = RESULTS,
) -> str:
    """What the study of few labels and many epochs says of a trick added to one-cycle."""
    told = found_in(FEW, results)
    arm = f"{told.reference} + {trick}"
    (row,) = told.of(arm)
    images, _, points, interval, *_ = equal_table(told, [arm]).iloc[0]
    low, high = (float(end) for end in interval.split(" to "))
    meaning = "a clear gain" if low > 0 else "a clear loss" if high < 0 else "no clear difference"
    epochs = int(images.replace(",", "")) / LABELS
    return (
        f"Recorded on {told.hardware}, with {LABELS:,} labels: after {images} images ({epochs:.0f} "
        f"epochs), this trick changes the accuracy of one-cycle by **{points} points** (95 % "
        f"interval: {interval}, {row.seeds} seeds): {meaning}. To an accuracy of {told.target}, "
        f"which one-cycle also reaches, it is {compared(row)}"
        + (", a result that is not so clear among the study's many verdicts." * row.wavers or ".")
    )
