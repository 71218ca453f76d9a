"""A study's page: its findings, tables and figures, as Markdown and PNG beside the records."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import machine
from ..files import write_json
from .findings import (
    FINDINGS,
    Finding,
    Published,
    arm_of,
    findings,
    hardware_of,
    seconds,
    summary,
    times,
    verdict,
)
from .plan import DECLARED, Found, Study, read_study, target_of, trials, tuning_arms, whole_batches
from .runs import RESULTS, read_records
from .style import MARKS, STYLES, plain_numbers


def studies(results: Path = RESULTS) -> dict[str, tuple[Study, Found]]:
    """The studies that have records, by name."""
    return {
        path.parent.name: (read_study(path), read_records(path.parent))
        for path in sorted(results.glob(f"*/{DECLARED}"))
    }


def as_table(
    rows: Sequence[Finding],  # all compared with the same arm
) -> pd.DataFrame:
    """A row an arm, as text."""
    return pd.DataFrame(
        [
            {
                "arm": row.arm,
                "images": f"{row.images:,}" if row.images else f"over {row.tried:,}",
                "mean accuracy": f"{row.accuracy:.4f}",
                "runs at target": f"{row.reached} of {row.seeds}",
                "train s": seconds(row.train),
                "cold wall s": seconds(row.wall),
                f"times as soon as {row.against}": times(row.ratio),
                "95 %": f"{times(row.low)} to {times(row.high)}",
                "by cold wall": times(row.wall_ratio),
                "verdict": verdict(row),
            }
            for row in rows
        ]
    ).set_index("arm")


def tables(rows: Sequence[Finding]) -> list[str]:
    """As Markdown: what was added, beside plain; what was left out, beside the whole."""
    beside = {against: [r for r in rows if r.against == against] for against in ("plain", "whole")}
    return [as_markdown(as_table(some)) for some in beside.values() if some]


def as_markdown(table: pd.DataFrame) -> str:
    """A table that GitHub shows, its index as the first column."""
    rows = [[str(table.index.name), *table.columns], ["---"] * (1 + len(table.columns))]
    rows += [
        [str(index), *map(str, row)] for index, row in zip(table.index, table.values, strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def tuning_table(study: Study, found: Found, arm: str) -> pd.DataFrame:
    """An arm at every setting that was tried, the best on top."""
    rows = []
    for name in tuning_arms(study, arm):
        runs = found.get((name, whole_batches(name, study.tuning[arm]["images"])), {}).values()
        accuracy = np.mean([run.val_accuracy for run in runs]) if runs else np.nan
        seconds = np.median([run.train_seconds for run in runs]) if runs else np.nan
        rows.append((name.removeprefix(f"tune {arm} "), accuracy, seconds, len(runs)))
    rows.sort(key=lambda row: -np.nan_to_num(row[1]))
    texts = [(setting, f"{a:.4f}", f"{s:.2f}", n) for setting, a, s, n in rows]
    what = {"plain": "optimizer, rate, batch", "whole": "batch, peak"}[arm]
    return pd.DataFrame(texts, columns=[what, "mean accuracy", "train s", "runs"]).set_index(what)


def all_runs(found: Found) -> pd.DataFrame:
    """Every run there is a record of, a row each."""
    rows = [
        (arm, f"{images:,}", seed, f"{run.val_accuracy:.4f}", f"{run.train_seconds:.2f}",
         f"{run.wall_seconds:.2f}", run.processes, run.precision)
        for (arm, images), runs in sorted(found.items())
        for seed, run in sorted(runs.items())
    ]  # fmt: skip
    columns = ["arm", "images", "seed", "accuracy", "train s", "wall s", "processes", "precision"]
    return pd.DataFrame(rows, columns=columns).set_index("arm")


def unfinished(study: Study, found: Found) -> list[str]:
    """What a study that was stopped cannot say yet, a sentence each."""
    absent = sorted(set(study.arms) - {row.arm for row in findings(study, found)})
    said = [f"Not found yet: {', '.join(absent)}."] if absent else []
    if next(trials(study, found), None):
        said += [
            "The study is not finished: until its last round, in which all arms take turns, is "
            "complete, seconds are of runs at different times."
        ]
    return said


def publish(name: str, study: Study, found: Found) -> Published:
    """What is said of a study, from its records."""
    return Published(
        study=name,
        hardware=hardware_of(found),
        runs=sum(map(len, found.values())),
        seeds=study.seeds,
        target=target_of(study, found),
        target_seeds=study.target_seeds,
        unfinished=unfinished(study, found),
        rows=findings(study, found),
    )


def page(name: str, study: Study, found: Found) -> str:
    """Everything that a study says, as Markdown; the same for the same records."""
    runs = [run for some in found.values() for run in some.values()]
    first, target = min(runs, key=lambda run: run.started), target_of(study, found)
    known = {package: n for package, n in first.versions.items() if n != machine.ABSENT}
    versions = ", ".join(f"{package} {number}" for package, number in known.items())
    rows = findings(study, found)
    parts = [
        f"# Study `{name}`",
        f"{len(runs)} runs of {first.model} on {first.image_size}x{first.image_size} pixels, "
        f"{hardware_of(found)}, {versions}. Written by `fasttricks report` from the "
        f"records in `{name}/`.",
        f"Target: validation accuracy {target}, the median of {study.target_seeds} seeds of plain "
        f"training after {study.target_images:,} images."
        if target is not None
        else "The runs that set the target are not complete.",
        "A ratio says how many times as soon an arm is at the target, on the train clock, with the "
        "bootstrap's 95 % interval over paired seeds; above 1 is sooner.",
    ]
    parts += unfinished(study, found)
    if rows:
        parts += [summary(rows), f"![speed-ups with intervals]({name}.png)", *tables(rows)]
        parts += [f"![accuracy against seconds]({name}-curves.png)"]
    for arm, tried in study.tuning.items():
        parts += [f"## Tuning: {arm}, {tried['images']:,} images"]
        parts += [as_markdown(tuning_table(study, found, arm))]
    parts += ["## All runs", as_markdown(all_runs(found))]
    return "\n\n".join(parts) + "\n"


def figure(rows: Sequence[Finding], title: str) -> Figure:
    """Speed-ups of added tricks beside those of what lacks one; arrows go on to "never"."""
    sides = {"plain": "plain training", "whole": "all seven"}
    shown = {name: [row for row in rows if row.against == name] for name in sides}
    shown = {name: some for name, some in shown.items() if some}
    height = 1.4 + 0.3 * max(map(len, shown.values()))
    fig, panels = plt.subplots(
        1, len(shown), figsize=(5 * len(shown), height), layout="constrained", squeeze=False
    )
    for axes, (name, some) in zip(panels[0], shown.items(), strict=True):
        values = np.array([(row.low, row.ratio, row.high) for row in some])
        finite = [1, *values[np.isfinite(values) & (values > 0)]]
        left, right = min(finite) / 1.3, max(finite) * 1.3
        for number, (low, ratio, high) in enumerate(values):
            if np.isfinite(low):
                axes.plot([max(low, left), min(high, right)], [number, number], "k-", lw=2)
            if np.isfinite(ratio) and ratio > 0:
                axes.plot(ratio, number, "ko")
            else:
                beside = min(high, right) if np.isfinite(low) else 1
                axes.text(beside, number, f"  {times(ratio)}", va="center")
            for end, edge, arrow in ((low, left, "k<"), (high, right, "k>")):
                if end in (0, np.inf):
                    axes.plot(edge, number, arrow, clip_on=False)
        axes.axvline(1, color="black", lw=0.8)
        axes.set(xscale="log", xlabel=f"times as soon at the target as {sides[name]}")
        axes.set(xlim=(left, right), yticks=range(len(some)))
        axes.set_yticklabels([row.arm for row in some])
        axes.invert_yaxis()
        axes.grid(alpha=0.3, axis="x")
        plain_numbers(axes.xaxis)
    fig.suptitle(title, fontsize=10)
    return fig


def curves(study: Study, found: Found, title: str) -> Figure:
    """Mean final accuracy against median seconds, a point a number of images; lines span seeds."""
    fig, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, style, mark in zip(study.curves, STYLES, MARKS):  # noqa: B905
        arm = arm_of(study, found, name)
        if arm is None:
            continue
        seconds, accuracy = np.median(arm.train, 1), arm.accuracy.mean(1)
        spread = np.abs(np.array([arm.accuracy.min(1), arm.accuracy.max(1)]) - accuracy)
        axes.errorbar(
            seconds, accuracy, spread, fmt=f"k{style}", marker=mark, capsize=3, label=name
        )
    target = target_of(study, found)
    if target is not None:
        axes.axhline(target, color="grey", lw=0.8, label=f"target {target}")
    axes.set(xscale="log", xlabel="train clock, seconds (log scale)")
    axes.set(ylabel="final validation accuracy:\nmean, lowest, highest seed", title=title)
    plain_numbers(axes.xaxis)
    axes.legend()
    axes.grid(alpha=0.3)
    return fig


def write_report(results: Path = RESULTS) -> list[Path]:
    """Write findings, a page and two figures for every study that has records; the pages' paths."""
    written = []
    for name, (study, found) in studies(results).items():
        rows = findings(study, found)
        title = (
            f"target {target_of(study, found)}, train clock, {hardware_of(found)}, "
            f"n = {study.seeds} paired seeds"
        )
        if rows:
            drawn = {"": figure(rows, title), "-curves": curves(study, found, title)}
            for kind, fig in drawn.items():
                fig.savefig(results / f"{name}{kind}.png", dpi=100, metadata={"Software": None})
                plt.close(fig)
        write_json(results / name / FINDINGS, publish(name, study, found).to_json())
        (results / f"{name}.md").write_text(page(name, study, found), encoding="utf-8")
        written.append(results / f"{name}.md")
    return written
