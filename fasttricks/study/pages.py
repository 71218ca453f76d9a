"""A study's page: its findings, tables and figures, as Markdown and PNG beside the records."""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import sem
from scipy.stats import t as student

from .. import machine
from ..files import write_json
from ..recipe import NAMES
from ..record import Run
from .analysis import hardware_of, publish
from .findings import (
    FINDINGS,
    RESULTS,
    Finding,
    Published,
    ended,
    seconds,
    span,
    summary,
    times,
    trusted,
)
from .plan import DECLARED, TUNE, Found, Study, read_study
from .runs import read_records
from .style import COLOURS, MARKS, STYLES, plain_numbers

FACES = {"faster": "black", "slower": "white", "cannot tell": "#bbbbbb", "-": "black"}
SHAPES = {"faster": "o", "slower": "s", "cannot tell": "D", "-": "|"}


def studies(results: Path = RESULTS) -> dict[str, tuple[Study, Found]]:
    """The studies that have records, by name."""
    return {
        path.parent.name: (read_study(path), read_records(path.parent))
        for path in sorted(results.glob(f"*/{DECLARED}"))
    }


def as_table(
    rows: Sequence[Finding],  # all compared with the same arm
) -> pd.DataFrame:
    """A row an arm, as text; without the cold wall where the study has none."""
    table = pd.DataFrame(
        [
            {
                "arm": row.arm,
                "seeds": row.seeds,
                "images": f"{row.images.value:,.0f}" if row.arrives else f"over {row.most:,}",
                "95% of images": f"{row.images.low:,.0f} to {row.images.high:,.0f}"
                if row.arrives
                else f"at {row.accuracy:.4f} then",
                "accuracy at that length": f"{row.accuracy:.4f}"
                if row.arrives and not math.isnan(row.accuracy)
                else "-",
                "train s": seconds(row.train),
                "cold wall s": seconds(row.wall),
                f"times as fast as {row.against}": times(row.ratio.value) if row.arrives else "-",
                "95%": span(row.ratio),
                "by cold wall": times(row.wall_ratio.value) if row.arrives else "-",
                "95% by cold wall": span(row.wall_ratio),
                "verdict": row.verdict + " (not after Holm)" * row.wavers,
            }
            for row in rows
        ]
    ).set_index("arm")
    cold = not all(math.isnan(row.wall) for row in rows)
    return table if cold else table.drop(columns=[name for name in table if "cold" in name])


def beside(peers: Sequence[Finding], rows: Sequence[Finding]) -> pd.DataFrame:
    """A row a peer, as text: what it takes, and how many times as fast our arms are."""
    known = {row.arm: row for row in rows}
    table: dict[str, dict[str, str]] = {}
    for row in peers:
        peer = known[row.against]
        if row.against not in table:
            images = f"{peer.images.value:,.0f}" if peer.arrives else f"over {peer.most:,}"
            took = {"train s": seconds(peer.train), "cold wall s": seconds(peer.wall)}
            table[row.against] = {"peer": row.against, "images": images, **took}
        table[row.against][row.arm] = f"{times(row.ratio.value)} ({span(row.ratio)})"
        table[row.against][f"{row.arm}, cold wall"] = times(row.wall_ratio.value)
    return pd.DataFrame(table.values()).set_index("peer")


def equal_gains(told: Published, arm: str) -> list[tuple[int, float, float, float]]:
    """Images, and the points by which an arm is then above the reference, with their interval.

    One for every length that both have, the shortest first, over the seeds that both have (paired,
    Student's t); none where there is a single pair.
    """
    own, known = (
        {int(images): scores for images, *scores in told.accuracies[name]}
        for name in (arm, told.reference)
    )
    pairs = {n: list(zip(own[n], known[n], strict=False)) for n in sorted(set(own) & set(known))}
    return [(images, *paired(some)) for images, some in pairs.items() if len(some) > 1]


def paired(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """By how many points the first of each pair is above the second, with its 95% interval."""
    gains = 100 * np.subtract(*np.transpose(pairs))
    mean, half = float(gains.mean()), float(sem(gains) * student.ppf(0.975, len(gains) - 1))
    return mean, mean - half, mean + half


def at_equal_images(told: Published) -> pd.DataFrame:
    """A row an arm, as text: its gain beside the reference at the longest length, and its best."""
    table = []
    for arm, lengths in told.accuracies.items():
        scores = {int(images): own for images, *own in lengths}
        best = max(scores, key=lambda length: np.mean(scores[length]))
        row = {"arm": arm, "images": "-", "accuracy": "-", "points": "-", "95%": "-"}
        for images, points, low, high in equal_gains(told, arm)[-1:]:
            row |= {"images": f"{images:,}", "accuracy": f"{np.mean(scores[images]):.4f}"}
            if arm != told.reference:
                row |= {"points": f"{points:+.2f}", "95%": f"{low:+.2f} to {high:+.2f}"}
        row |= {"best mean": f"{np.mean(scores[best]):.4f}", "at images": f"{best:,}"}
        table.append(row)
    table.sort(key=lambda row: row["best mean"], reverse=True)
    named = pd.DataFrame(table).set_index("arm")
    return named.rename(columns={"points": f"points beside {told.reference}"})


def groups(rows: Sequence[Finding]) -> dict[str, list[Finding]]:
    """The rows by what they are compared with, the strongest effect first."""
    beside: dict[str, list[Finding]] = {}
    for row in sorted(rows, key=lambda row: -row.ratio.value):
        beside.setdefault(row.against, []).append(row)
    return beside


def tables(rows: Sequence[Finding]) -> list[str]:
    """As Markdown: a table for each arm that others are compared with."""
    return [as_markdown(as_table(some)) for some in groups(rows).values()]


def as_markdown(table: pd.DataFrame) -> str:
    """A table that GitHub shows, its index as the first column."""
    rows = [[str(table.index.name), *table.columns], ["---"] * (1 + len(table.columns))]
    rows += [
        [str(index), *map(str, row)] for index, row in zip(table.index, table.values, strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def tuning_table(found: Found, arm: str) -> pd.DataFrame:
    """An arm, or a peer, at every setting that was tried, the best on top."""
    rows = []
    for (name, images), runs in found.items():
        if name.startswith(f"{TUNE} {arm} "):
            some = list(runs.values())
            accuracy = np.mean([run.val_accuracy for run in some])
            took = np.median([run.train_seconds for run in some])
            rows.append((setting(name, some[0]), accuracy, took, images, len(some)))
    rows.sort(key=lambda row: -row[1])
    texts = [(what, f"{a:.4f}", f"{s:.2f}", f"{n:,}", runs) for what, a, s, n, runs in rows]
    columns = ["setting", "mean accuracy", "train s", "images", "runs"]
    return pd.DataFrame(texts, columns=columns).set_index("setting")


def setting(name: str, run: object) -> str:
    """What was tried: of the whole, the settings that its recipe has."""
    words = name.split(" ", 2)[2]
    if not isinstance(run, Run) or not name.startswith(f"{TUNE} whole"):
        return words
    shown = {"batch", "peak", "rise", "momentum_low", "alpha", "eps", "body_lr", "freeze"}
    settings = {k: v for t in run.recipe.to_json()["tricks"] for k, v in t.items() if k in shown}
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def all_runs(found: Found) -> pd.DataFrame:
    """Every length there is a record of, a row each."""
    rows = []
    for (arm, images), runs in sorted(found.items()):
        accuracy = [run.val_accuracy for run in runs.values()]
        took = np.median([run.train_seconds for run in runs.values()])
        wall = np.median([run.wall_seconds for run in runs.values()])
        rows.append((
            arm, f"{images:,}", len(runs), f"{np.mean(accuracy):.4f}",
            f"{min(accuracy):.4f} {max(accuracy):.4f}", f"{took:.2f}", f"{wall:.2f}",
        ))  # fmt: skip
    columns = ["arm", "images", "runs", "mean accuracy", "lowest and highest", "train s", "wall s"]
    return pd.DataFrame(rows, columns=columns).set_index("arm")


def page(name: str, study: Study, found: Found, results: Path = RESULTS) -> str:
    """Everything that a study says, as Markdown; the same for the same records."""
    runs = [run for some in found.values() for run in some.values() if isinstance(run, Run)]
    first = min(runs, key=lambda run: run.started)
    known = {package: n for package, n in first.versions.items() if n != machine.ABSENT}
    versions = ", ".join(f"{package} {number}" for package, number in known.items())
    told = publish(name, study, found)
    parts = [
        f"# Study `{name}`",
        f"{told.runs} runs of {first.model} on {first.image_size}x{first.image_size} pixels, "
        f"{told.hardware}, {versions}. Written by `fasttricks report` from the records in "
        f"`{name}/`.",
        f"Target: validation accuracy {study.target}. {chosen(study)}",
        "Images until the target are read off a monotone curve through the mean accuracies of "
        f"{study.paired} at each length; seconds are these images at the pace of a last round in "
        f"which all arms take turns{study.paced}. A ratio says how many times as fast an arm is, "
        "on the train clock and over the seeds that both have, with the 95% interval of the "
        f"jackknife over them; above 1 is faster. {len(told.rows) - 1} verdicts are read; those "
        "marked fall when all are asked at once (Holm 1979).",
        *filter(None, [trusted(name, results), ended(told)]),
        *told.unfinished,
    ]
    if told.rows:
        parts += [summary(told.rows), f"![effects with intervals]({name}.png)", *tables(told.rows)]
        parts += [f"![seconds to every target]({name}-targets.png)"]
    if told.steps and all(row.arrives for row in told.of(*told.steps)):
        parts += [f"![from plain to the whole]({name}-steps.png)"]
    if told.peers:
        parts += ["How many times as fast as each of the other libraries (95%):"]
        parts += [as_markdown(beside(told.peers, told.rows))]
    if told.tested:
        scores = [
            f"{arm} {np.mean(values):.4f} (n = {len(values)}, {min(values):.4f} to "
            f"{max(values):.4f})"
            for arm, values in told.tested.items()
        ]
        parts += [f"Test accuracy at those images (it chose nothing): {'; '.join(scores)}."]
    tuned = {arm.split(" ")[1]: None for arm, _ in found if arm.startswith(f"{TUNE} ")}
    for arm in tuned:
        parts += [f"## Tuning: {arm}", as_markdown(tuning_table(found, arm))]
    parts += ["## After equally many images", as_markdown(at_equal_images(told))]
    parts += ["## All lengths", as_markdown(all_runs(found))]
    return "\n\n".join(parts) + "\n"


def chosen(study: Study) -> str:
    """How the target was chosen."""
    if not study.pilot:
        return "It was declared beforehand."
    return (
        f"It is the highest at which {study.seeds} seeds can tell the seconds of {study.reference} "
        f"within {study.tolerance:.0%}, by a pilot with seeds of its own."
    )


def figure(rows: Sequence[Finding], title: str) -> Figure:
    """Ratios with their intervals, the strongest first; a mark's shape and filling say what."""
    shown = {name: [row for row in some if row.arm != name] for name, some in groups(rows).items()}
    shown = {name: some for name, some in shown.items() if some}
    height = 1.6 + 0.32 * max(map(len, shown.values()))
    width = max(8, 5.5 * len(shown))
    fig, panels = plt.subplots(
        1, len(shown), figsize=(width, height), layout="constrained", squeeze=False
    )
    for axes, (name, some) in zip(panels[0], shown.items(), strict=True):
        forest(axes, some)
        axes.set_xlabel(f"times as fast to the target as {name}")
    marks = [
        plt.Line2D([], [], marker=SHAPES[word], color="black", mfc=FACES[word], ls="", label=word)
        for word in ("faster", "cannot tell", "slower")
    ]
    fig.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False)
    fig.suptitle(title, fontsize=10)
    return fig


def forest(axes: Axes, rows: Sequence[Finding]) -> None:
    """A line an arm."""
    values = np.array([(row.ratio.low, row.ratio.value, row.ratio.high) for row in rows])
    arrived = values[(values[:, 1] > 0) & (values[:, 1] < math.inf)]
    finite = [1, *arrived[np.isfinite(arrived) & (arrived > 0)]]
    left, right = min(finite) / 1.3, max(finite) * 1.3
    for number, (row, (low, value, high)) in enumerate(zip(rows, values, strict=True)):
        axes.plot([max(low, left), min(high, right)], [number, number], "k-", lw=1.5)
        for end, edge, arrow in ((low, left, "k<"), (high, right, "k>")):
            if end in (0, math.inf):
                axes.plot(edge, number, arrow, clip_on=False)
        if 0 < value < math.inf:
            word = row.verdict
            axes.plot(value, number, SHAPES[word], color="black", mfc=FACES[word], ms=7)
        axes.text(
            1.01, number, times(value) if value else "not reached", va="center",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.axvline(1, color="black", lw=0.8)
    axes.set(xscale="log", xlim=(left, right), yticks=range(len(rows)))
    axes.set_yticklabels([row.arm for row in rows])
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    plain_numbers(axes.xaxis)


def waterfall(told: Published, title: str) -> Figure:
    """Seconds to the target, from plain training to the whole; each bar says what it shortened."""
    took = [told.to_target(arm) for arm in told.steps]
    fig, axes = plt.subplots(figsize=(8, 1.2 + 0.42 * len(took)), layout="constrained")
    for number, (before, after) in enumerate(pairwise([took[0], *took])):
        axes.barh(number, before, color="white", edgecolor="grey", hatch="////", lw=0.5)
        axes.barh(number, after, color="black")
        gain = f", {times(before / after)} times as fast" if number else ""
        axes.text(max(before, after), number, f"  {after:.1f} s{gain}", va="center")
    axes.set(yticks=range(len(took)), xlabel="seconds of training until the target")
    axes.set_yticklabels(steps_of(told.steps))
    axes.set_xlim(0, 1.45 * max(took))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    fig.suptitle(title, fontsize=10)
    return fig


def steps_of(arms: Sequence[str]) -> list[str]:
    """What each of these arms has that the one before it lacks."""
    said = [*arms[:1]]
    for before, arm in pairwise(arms):
        had, has = tricks_of(before), tricks_of(arm)
        added = " ".join(f"+ {name}" for name in NAMES if name in has - had)
        told = added if added and had <= has else arm
        said.append(f"{told} (whole)" if told != arm == "whole" else told)
    return said


def tricks_of(arm: str) -> set[str]:
    """The names of the tricks that an arm has."""
    start, *parts = re.split(r" (?=[+-] )", arm)
    has = set(NAMES) if start == "whole" else set()
    for part in parts:
        (has.add if part[0] == "+" else has.remove)(part[2:])
    return has


def target_curves(told: Published, title: str) -> Figure:
    """Seconds to every target, and how many times as fast as the reference, with bands."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for number, (name, rows) in enumerate(told.targets.items()):
        style, colour, mark = (kinds[number % len(kinds)] for kinds in (STYLES, COLOURS, MARKS))
        look = {"ls": style, "color": colour, "marker": mark, "ms": 4, "label": name}
        target, took, value, low, high = np.array(rows, float).T
        left.plot(target, took, **look)
        if name != told.reference:
            right.plot(target, value, **look)
            right.fill_between(target, low, high, color=look["color"], alpha=0.15, lw=0)
    for axes in (left, right):
        axes.axvline(told.target, color="grey", lw=0.8)
        axes.set(xlabel="target: validation accuracy", yscale="log")
        axes.grid(alpha=0.3)
        plain_numbers(axes.yaxis)
    left.set_ylabel("seconds of training until the target")
    right.set_ylabel(f"times as fast as {told.reference} (band: 95%)")
    fig.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False
    )
    fig.suptitle(title, fontsize=10)
    return fig


def write_report(results: Path = RESULTS) -> list[Path]:
    """Write findings, a page and figures for every study that has records; the pages' paths."""
    written = []
    for name, (study, found) in studies(results).items():
        told = publish(name, study, found)
        title = (
            f"target {study.target}, train clock, {hardware_of(found)}, {study.paired}, "
            "95% intervals"
        )
        if told.rows:
            drawn = {"": figure(told.rows, title), "-targets": target_curves(told, title)}
            if told.steps and all(row.arrives for row in told.of(*told.steps)):
                where = f"{told.hardware}, to validation accuracy {told.target}"
                drawn["-steps"] = waterfall(told, f"{where}, {study.paired}")
            for kind, fig in drawn.items():
                fig.savefig(results / f"{name}{kind}.png", dpi=100, metadata={"Software": None})
                plt.close(fig)
        write_json(results / name / FINDINGS, told.to_json())
        (results / f"{name}.md").write_text(page(name, study, found, results), encoding="utf-8")
        written.append(results / f"{name}.md")
    return written
