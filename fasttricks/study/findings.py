"""What a study's records say: seconds to the target, speed-ups and their intervals.

An arm needs the smallest number of images at which the mean of its seeds is at the target. What an
image costs, each seed has measured in the study's last round; an arm's time is the median. The
interval resamples seeds, the same for both arms, and lets every resample choose its own number of
images, so that it carries the noise of that choice too.

What is published lies in a study's `findings.json`: chapters and README read that file alone.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import machine
from .plan import LAST, Found, Study, search_state, target_of
from .runs import RESULTS

DRAWS = 10_000
SCHEMA = 1
FINDINGS = "findings.json"


@dataclass(frozen=True)
class Arm:
    """An arm's complete lengths, from few images to many; a column a seed."""

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
        """(D,) seconds to the target; infinite where no length reaches."""
        reaches = self.accuracy[:, picks].mean(-1) >= target
        middles = np.median(getattr(self, clock)[:, picks], -1)
        first = reaches.argmax(0)
        return np.where(reaches.any(0), middles[first, np.arange(len(picks))], np.inf)


@dataclass(frozen=True)
class Finding:
    """An arm beside the one that it is compared with."""

    arm: str
    against: str
    images: int | None  # of the smallest length that reaches; None for never
    tried: int  # the most images of any length
    accuracy: float  # mean at that length, or at the last one
    reached: int  # runs that ended at the target there
    seeds: int
    train: float  # median seconds to the target, infinite for never
    wall: float
    ratio: float  # the other's train seconds over this arm's: above 1 is sooner
    low: float  # the ratio's 95 % interval
    high: float
    wall_ratio: float


def arm_of(study: Study, found: Found, name: str) -> Arm | None:
    """The arm's complete lengths; None where it has none."""
    lengths = sorted(
        images
        for (arm, images), runs in found.items()
        if arm == name and set(range(study.seeds)) <= set(runs)
    )
    if not lengths:
        return None
    runs = [[found[name, images][seed] for seed in range(study.seeds)] for images in lengths]

    def column(field: str) -> NDArray:
        return np.array([[getattr(run, field) for run in row] for row in runs])

    train, wall = column("train_seconds"), column("wall_seconds")
    for (arm, size), last in found.items():
        if arm == f"{LAST} {name}" and set(range(study.seeds)) <= set(last):
            measured = [last[seed] for seed in range(study.seeds)]
            own = np.array([run.train_seconds for run in measured])
            rest = np.array([run.wall_seconds for run in measured]) - own
            train = np.array(lengths)[:, None] * own / size
            wall = train + rest
    return Arm(np.array(lengths), column("val_accuracy"), train, wall)


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
    length = int(reaches.argmax()) if reaches.any() else -1
    train, wall = (arm.seconds(target, everyone, clock)[0] for clock in ("train", "wall"))
    with np.errstate(invalid="ignore"):
        ratio = other.seconds(target, everyone)[0] / train
        wall_ratio = other.seconds(target, everyone, "wall")[0] / wall
    return Finding(
        arm=name,
        against=against,
        images=int(arm.images[length]) if reaches.any() else None,
        tried=int(arm.images[-1]),
        accuracy=float(arm.accuracy[length].mean()),
        reached=int((arm.accuracy[length] >= target).sum()),
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
        if target is not None and all(
            search_state(study, a, found, target)[1] for a in (name, against)
        ):
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


@dataclass(frozen=True)
class Published:
    """All that is said of a study anywhere, made from its records."""

    study: str  # its name
    hardware: str
    runs: int
    seeds: int
    target: float | None
    target_seeds: int  # of plain training, whose median is the target
    unfinished: list[str]  # what a study that was stopped cannot say, a sentence each
    rows: list[Finding]
    schema: int = SCHEMA

    def of(self, *arms: str) -> list[Finding]:
        """The findings of these arms, in this order, without those that are not known."""
        known = {row.arm: row for row in self.rows}
        return [known[arm] for arm in arms if arm in known]

    def to_json(self) -> dict:
        """Plain values; a number that is not finite is a word."""
        rows = [
            {name: str(v) if isinstance(v, float) and not np.isfinite(v) else v
             for name, v in asdict(row).items()}
            for row in self.rows
        ]  # fmt: skip
        return {**asdict(self), "rows": rows}


def published(results: Path = RESULTS) -> list[Published]:
    """The findings of all studies. Raises ValueError with the file and what to do."""
    found = []
    for path in sorted(results.glob(f"*/{FINDINGS}")):
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["schema"] != SCHEMA:
                raise ValueError(f"schema {stored['schema']!r}")
            rows = [
                Finding(**{n: float(v) if v in ("inf", "-inf", "nan") else v for n, v in r.items()})
                for r in stored["rows"]
            ]
            found.append(Published(**{**stored, "rows": rows}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); write it anew by `fasttricks report`."
            ) from None
    return found


def headline(
    trick: str,  # its short name, e.g. "mixup"
    results: Path = RESULTS,
) -> str:
    """What the recorded studies found of one trick, as sentences with n and hardware."""
    said = []
    for study in published(results):
        rows = study.of(f"add {trick}", f"no {trick}", "plain", "whole")
        if len(rows) < 4:
            continue
        alone, without, plain, whole = rows
        said.append(
            f"Recorded on {study.hardware}, {alone.seeds} paired seeds: to validation accuracy "
            f"{study.target}, plain training takes {plain.train:.1f} s, and with this trick "
            f"{took(alone)}. So **{outcome(alone, PAYS)}**. All seven tricks together take "
            f"{whole.train:.1f} s, and the other six without this one {took(without)}. So "
            f"**{outcome(without, MISSED)}**."
        )
    return "\n\n".join(said) or "No study is recorded yet: `fasttricks bench` makes one."


PAYS = {
    "sooner": "alone, it pays",
    "later": "alone, it costs time",
    "cannot tell": "alone, it makes no clear difference",
}
MISSED = {
    "sooner": "the other six are faster without it",
    "later": "the other six are slower without it",
    "cannot tell": "leaving it out makes no clear difference",
}


def hardware_of(found: Found) -> str:
    """The machine that a study's records come from."""
    return machine.name_of_machine(next(iter(next(iter(found.values())).values())).hardware)


def outcome(row: Finding, words: dict[str, str]) -> str:
    """A verdict in words, with its ratio and interval."""
    if not 0 < row.ratio < np.inf:
        return words[verdict(row)]
    low = times(row.low) if row.low > 0 else "never arriving"
    return (
        f"{words[verdict(row)]}: {times(row.ratio)} times as fast (95 % interval: {low} to "
        f"{times(row.high)})"
    )


def took(row: Finding) -> str:
    """An arm's seconds of training, or how far it came."""
    if row.images is None:
        return f"more than {row.tried:,} images allow (it is at {row.accuracy:.4f} then)"
    return f"{row.train:.1f} s"
