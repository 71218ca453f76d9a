"""What a study's records say: seconds to the target, speed-ups and their intervals.

An arm needs the smallest number of images at which the mean of its seeds is at the target. What an
image costs, each seed has measured in the study's last round; an arm's time is the median. The
interval resamples seeds, the same for both arms, and lets every resample choose its own number of
images, so that it carries the noise of that choice too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from . import record
from .bench import (
    DECLARED,
    LAST,
    Found,
    Study,
    read_records,
    read_study,
    stands,
    target_of,
    trials,
    tuning_arms,
    whole_batches,
)
from .data import ROOT
from .report import MARKS, STYLES, plain_numbers

DRAWS = 10_000


@dataclass(frozen=True)
class Arm:
    """An arm's complete rungs, from few images to many; a column a seed."""

    images: NDArray  # (R,)
    accuracy: NDArray  # (R, S) final validation accuracy
    train: NDArray  # (R, S) seconds, at the pace of the last round if there was one
    wall: NDArray  # (R, S) seconds, likewise

    def seconds(
        self,
        target: float,
        picks: NDArray,  # (D, S) seeds, drawn with replacement
        clock: str = "train",  # or "wall"
    ) -> NDArray:
        """(D,) seconds to the target; infinite where no rung reaches."""
        reaches = self.accuracy[:, picks].mean(-1) >= target
        middles = np.median(getattr(self, clock)[:, picks], -1)
        first = reaches.argmax(0)
        return np.where(reaches.any(0), middles[first, np.arange(len(picks))], np.inf)


@dataclass(frozen=True)
class Finding:
    """An arm beside the one that it is compared with."""

    arm: str
    against: str
    images: int | None  # of the smallest rung that reaches; None for never
    tried: int  # the most images of any rung
    accuracy: float  # mean at that rung, or at the last one
    reached: int  # runs that ended at the target there
    seeds: int
    train: float  # median seconds to the target, infinite for never
    wall: float
    ratio: float  # the other's train seconds over this arm's: above 1 is sooner
    low: float  # the ratio's 95 % interval
    high: float
    wall_ratio: float


def arm_of(study: Study, found: Found, name: str) -> Arm | None:
    """The arm's complete rungs; None where it has none."""
    rungs = sorted(
        images
        for (arm, images), runs in found.items()
        if arm == name and set(range(study.seeds)) <= set(runs)
    )
    if not rungs:
        return None
    runs = [[found[name, images][seed] for seed in range(study.seeds)] for images in rungs]

    def column(field: str) -> NDArray:
        return np.array([[getattr(run, field) for run in row] for row in runs])

    train, wall = column("train_seconds"), column("wall_seconds")
    for (arm, size), last in found.items():
        if arm == f"{LAST} {name}" and set(range(study.seeds)) <= set(last):
            measured = [last[seed] for seed in range(study.seeds)]
            own = np.array([run.train_seconds for run in measured])
            rest = np.array([run.wall_seconds for run in measured]) - own
            train = np.array(rungs)[:, None] * own / size
            wall = train + rest
    return Arm(np.array(rungs), column("val_accuracy"), train, wall)


def compare(name: str, arm: Arm, against: str, other: Arm, target: float) -> Finding:
    """An arm's finding."""
    seeds = arm.accuracy.shape[1]
    everyone = np.arange(seeds)[None]
    picks = np.random.default_rng(0).integers(0, seeds, (DRAWS, seeds))
    own, theirs = arm.seconds(target, picks), other.seconds(target, picks)
    both = np.isfinite(own) | np.isfinite(theirs)  # never against never says nothing
    low, high = (
        np.quantile(theirs[both] / own[both], (0.025, 0.975), method="nearest")
        if both.any()
        else (np.nan, np.nan)
    )
    reaches = arm.accuracy.mean(1) >= target
    rung = int(reaches.argmax()) if reaches.any() else -1
    train, wall = (arm.seconds(target, everyone, clock)[0] for clock in ("train", "wall"))
    with np.errstate(invalid="ignore"):
        ratio = other.seconds(target, everyone)[0] / train
        wall_ratio = other.seconds(target, everyone, "wall")[0] / wall
    return Finding(
        arm=name,
        against=against,
        images=int(arm.images[rung]) if reaches.any() else None,
        tried=int(arm.images[-1]),
        accuracy=float(arm.accuracy[rung].mean()),
        reached=int((arm.accuracy[rung] >= target).sum()),
        seeds=seeds,
        train=float(train),
        wall=float(wall),
        ratio=float(ratio),
        low=float(low),
        high=float(high),
        wall_ratio=float(wall_ratio),
    )


def findings(
    study: Study,
    found: Found,
    names: Sequence[str] = (),  # of arms; all unless given
) -> list[Finding]:
    """Every arm whose search is done: "no NAME" against the whole, the others against plain."""
    target = target_of(study, found)
    result = []
    for name in names or study.arms:
        against = "whole" if name.startswith("no ") else "plain"
        if target is not None and all(stands(study, a, found, target)[1] for a in (name, against)):
            arm, other = arm_of(study, found, name), arm_of(study, found, against)
            result.append(compare(name, arm, against, other, target))
    return result


def verdict(finding: Finding) -> str:
    """What the interval allows to say; nothing of an arm beside itself."""
    if finding.arm == finding.against:
        return "-"
    if finding.low > 1:
        return "sooner"
    return "later" if finding.high < 1 else "cannot tell"


def seconds(value: float) -> str:
    """Two decimals, or a word for infinity."""
    return f"{value:.2f}" if value < np.inf else "never"


def times(
    ratio: float,
    alone: str = "only this",  # said where the other never arrives
) -> str:
    """Two decimals, or words where one of the two never arrives."""
    if ratio == 0 or np.isnan(ratio):
        return "never"
    return f"{ratio:.2f}" if ratio < np.inf else alone


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


def summary(rows: Sequence[Finding]) -> str:
    """The verdicts in two sentences: on each trick added alone, and on each one left out."""
    said = []
    for begin, first, how in (
        ("Added to plain training", "add ", "with"),
        ("Left out of all seven", "no ", "without"),
    ):
        groups: dict[str, list[str]] = {"sooner": [], "later": [], "cannot tell": []}
        for row in rows:
            if row.arm.startswith(first):
                groups[verdict(row)].append(row.arm.removeprefix(first))
        parts = [f"{word} {how} {', '.join(names)}" for word, names in groups.items() if names]
        said += [f"{begin}: {'; '.join(parts)}."] if parts else []
    return " ".join(said)


def tables(rows: Sequence[Finding]) -> list[str]:
    """As Markdown: what was added, beside plain; what was left out, beside the whole."""
    beside = {against: [r for r in rows if r.against == against] for against in ("plain", "whole")}
    return [as_markdown(as_table(some)) for some in beside.values() if some]


def studies(results: Path = ROOT / "results") -> dict[str, tuple[Study, Found]]:
    """The studies that have records, by name."""
    return {
        path.parent.name: (read_study(path), read_records(path.parent))
        for path in sorted(results.glob(f"*/{DECLARED}"))
    }


def headline(
    trick: str,  # its short name, e.g. "mixup"
    results: Path = ROOT / "results",
) -> str:
    """What the recorded studies found of one trick, with n and hardware."""
    said = []
    for study, found in studies(results).values():
        rows = findings(study, found, (f"add {trick}", f"no {trick}", "plain", "whole"))
        if len(rows) < 4:
            continue
        alone, without, plain, whole = rows
        said.append(
            f"Recorded on {hardware_of(found)}, {alone.seeds} paired seeds, seconds of training "
            f"until validation accuracy {target_of(study, found)}:\n"
            f"  plain training {seconds(plain.train)}, with it {outcome(alone)}\n"
            f"  all seven {seconds(whole.train)}, without it {outcome(without)}"
        )
    return "\n".join(said) or "No study is recorded yet: `fasttricks bench` makes one."


def hardware_of(found: Found) -> str:
    """The machine that a study's records come from."""
    return record.machine(next(iter(next(iter(found.values())).values())).hardware)


def outcome(row: Finding) -> str:
    """An arm's seconds, and its ratio in words with the interval."""
    if row.images is None:
        return f"never: {row.accuracy:.4f} after the most images that were tried"
    if not np.isfinite(row.ratio):
        return seconds(row.train)
    ratio = f"{row.ratio:.2f} times as soon (95 %: {times(row.low)} to {times(row.high)})"
    return f"{seconds(row.train)}: {ratio}"


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


def missing(study: Study, found: Found) -> list[str]:
    """What a study that was stopped cannot say yet, a sentence each."""
    absent = sorted(set(study.arms) - {row.arm for row in findings(study, found)})
    said = [f"Not found yet: {', '.join(absent)}."] if absent else []
    if next(trials(study, found), None):
        said += [
            "The study is not finished: until its last round, in which all arms take turns, is "
            "complete, seconds are of runs at different times."
        ]
    return said


def page(name: str, study: Study, found: Found) -> str:
    """Everything that a study says, as Markdown; the same for the same records."""
    runs = [run for some in found.values() for run in some.values()]
    first, target = min(runs, key=lambda run: run.started), target_of(study, found)
    known = {package: n for package, n in first.versions.items() if n != record.ABSENT}
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
    parts += missing(study, found)
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


def write_report(results: Path = ROOT / "results") -> list[Path]:
    """Write a page and two figures for every study that has records; their paths."""
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
        (results / f"{name}.md").write_text(page(name, study, found))
        written.append(results / f"{name}.md")
    return written
