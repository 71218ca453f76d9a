"""What studies have found, as it is published: chapters and README read `findings.json` alone.

It is made from the records by `fasttricks report` (see `analysis`), so that a bad record can never
stop a chapter, and reading it needs no more than Python.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import stdev
from typing import Any

from ..data import ROOT

RESULTS = ROOT / "results"
FINDINGS = "findings.json"
COVERAGE = "coverage.json"  # how often a study's intervals hold, beside its findings
SCHEMA = 4
NARROW = 0.9  # the least that a 95% interval must hold to be trusted
CLOSE = 0.3  # points that the last round may end beside the target, and more if it is noisy


@dataclass(frozen=True)
class Estimate:
    """A positive number with its 95% interval, and how likely it is so far from 1 by chance."""

    value: float
    low: float
    high: float
    p: float = math.nan

    @property
    def inverse(self) -> "Estimate":
        """One divided by it."""
        value, high, low = (1 / x if x else math.inf for x in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.p)


@dataclass(frozen=True)
class Finding:
    """An arm beside the one that it is compared with."""

    arm: str
    against: str
    images: Estimate  # until the target; infinite where it was not reached
    most: int  # images of the longest run that was tried
    accuracy: float  # mean of runs of that length, or the curve's after the most images
    checks: int  # how many runs have that length
    seeds: int
    train: float  # seconds until the target
    wall: float  # not a number where the study has no cold walls
    ratio: Estimate  # the other's train seconds over this arm's: above 1 is faster
    wall_ratio: Estimate
    holds: bool  # whether the verdict stays when all of the study's are asked at once (Holm 1979)

    @property
    def arrives(self) -> bool:
        """Whether the arm was at the target within the most images that were tried."""
        return math.isfinite(self.images.value)

    @property
    def compared(self) -> float:
        """Train seconds of the other arm, on the seeds that both have."""
        return self.train * self.ratio.value

    @property
    def verdict(self) -> str:
        """What the interval allows to say; nothing of an arm beside itself."""
        if self.arm == self.against:
            return "-"
        if self.ratio.low > 1:
            return "faster"
        return "slower" if self.ratio.high < 1 else "cannot tell"

    @property
    def wavers(self) -> bool:
        """Whether the verdict falls when all of the study's are asked at once (Holm 1979)."""
        return self.verdict in ("faster", "slower") and not self.holds


@dataclass(frozen=True)
class Published:
    """All that is said of a study anywhere, made from its records."""

    study: str  # its name
    about: str  # what is unlike the other studies, as part of a sentence
    reference: str  # the arm that most are compared with
    hardware: str
    runs: int
    seeds: int
    target: float  # validation accuracy
    rows: list[Finding]
    peers: list[Finding]  # arms beside each of the other libraries
    steps: list[str]  # arms on the way from plain to the whole, each with tricks added
    tested: dict[str, list[float]]  # by arm, test accuracy of each seed at the target's images
    targets: dict[str, list[list[float]]]  # by arm: target, seconds, ratio, its low and high
    accuracies: dict[str, list[list[float]]]  # by arm: images, and the accuracy of each seed
    unfinished: list[str]  # what a study that was stopped cannot say, a sentence each
    digest: str  # of all that decides a number, when it was measured
    labels: int | None  # images to train on, where they are not all
    turns: int  # runs of each arm in the last round
    schema: int = field(default=SCHEMA)

    def of(self, *arms: str) -> list[Finding]:
        """The findings of these arms, in this order, without those that are not known."""
        known = {row.arm: row for row in self.rows}
        return [known[arm] for arm in arms if arm in known]

    def to_target(self, arm: str) -> float:
        """An arm's train seconds, by its ratio, which is over the seeds that both arms have."""
        (row,) = self.of(arm)
        if row.arm == row.against:
            return row.train
        return self.to_target(row.against) / row.ratio.value

    def to_json(self) -> dict:
        """Plain values; a number that is not finite is a word."""
        return plain(asdict(self))


def plain(value: object) -> object:
    """The same nest, each number that is not finite as a word."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def numbers(value: object) -> object:
    """The way back from `plain`."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value


def published(results: Path = RESULTS) -> list[Published]:
    """The findings of all studies. Raises ValueError with the file and what to do."""
    found = []
    for path in sorted(results.glob(f"*/{FINDINGS}")):
        try:
            stored = numbers(json.loads(path.read_text(encoding="utf-8")))
            if stored["schema"] != SCHEMA:
                raise ValueError(f"schema {stored['schema']!r}")
            rows = {name: [finding(row) for row in stored[name]] for name in ("rows", "peers")}
            found.append(Published(**{**stored, **rows}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); write it anew by `fasttricks report`."
            ) from None
    return found


def found_in(study: str, results: Path = RESULTS) -> Published:
    """The findings of one study. Raises ValueError where there are none, and as `published`."""
    known = {found.study: found for found in published(results)}
    if study not in known:
        raise ValueError(f"No study {study!r} is in {results}; `fasttricks bench` makes one.")
    return known[study]


def finding(stored: dict[str, Any]) -> Finding:
    """A finding of plain values."""
    return Finding(**{k: Estimate(**v) if isinstance(v, dict) else v for k, v in stored.items()})


def covered(study: str, results: Path = RESULTS) -> dict[str, Any]:
    """What `fasttricks report --simulate` found of a study's intervals; empty if nobody asked.

    `holds` has, by arm, the share of made-up studies whose interval held the truth.
    """
    path = results / study / COVERAGE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def trusted(study: str, results: Path = RESULTS) -> str:
    """What made-up studies with known truth say of a study's intervals, or an empty string."""
    stored = covered(study, results)
    if not stored:
        return ""
    holds, off = stored["holds"], stored["bias"].values()
    worst, best = min(holds, key=holds.get), max(holds, key=holds.get)
    narrow = [arm for arm, share in holds.items() if share < NARROW]
    few = f" So do not trust the intervals of {', '.join(narrow)}: they are too narrow."
    return (
        f"In {stored['studies']:,} simulated studies with a known truth, the 95% intervals "
        f"contained it in {holds[worst]:.1%} ({worst}) to {holds[best]:.1%} ({best}) of them, and "
        f"ratios were {min(off):+.1%} to {max(off):+.1%} off on average." + few * bool(narrow)
    )


def ended(told: Published) -> str:
    """How the reference ended in runs of that length, which no fit has read, and what it means."""
    (start,) = told.of(told.reference) or (None,)
    if start is None or not start.arrives or math.isnan(start.accuracy):
        return ""
    points, runs = 100 * (start.accuracy - told.target), start.checks
    _, *alike = min(
        told.accuracies[told.reference], key=lambda row: abs(math.log(row[0] / start.images.value))
    )
    error = 100 * stdev(alike) / math.sqrt(runs) if len(alike) > 1 else 0.0
    meaning = (
        f"close to the target (two standard errors are {2 * error:.1f} points)"
        if abs(points) < max(CLOSE, 2 * error)
        else f"{abs(points):.1f} points {'above' if points > 0 else 'below'} the target, which "
        f"suggests that its time is {'over' if points > 0 else 'under'}estimated"
    )
    return (
        f"A check: {runs} runs of that length, which the curve has not seen, ended at a mean "
        f"validation accuracy of {start.accuracy:.4f} with {told.reference}, {meaning}."
    )


def headline(
    trick: str,  # its short name, e.g. "mixup"
    results: Path = RESULTS,
) -> str:
    """What the recorded studies found of one trick: the first one's verdict, and a table of all."""
    verdicts, rows = [], []
    for study in published(results):
        start = "plain" if study.of(f"plain + {trick}") else study.reference
        alone = [row for row in study.of(f"{start} + {trick}") if row.against == start]
        left_out = [row for row in study.of(f"whole - {trick}") if row.against == "whole"]
        if not alone and not left_out:
            continue
        cells = [study.hardware + (f", {study.about}" if study.about else ""), str(study.target)]
        cells += [f"to `{start}`: " * (start != "plain") + effect(row) for row in alone] or ["-"]
        cells += [effect(row, left_out=True) for row in left_out] or ["-"]
        rows.append(f"| {' | '.join(cells)} |")
        told = {"alone": [outcome(row) for row in alone]}
        told["added to the other six"] = [outcome(row, left_out=True) for row in left_out]
        verdicts.append([f"{how}, it {word}" for how, words in told.items() for word in words])
        if told["alone"] == told["added to the other six"]:
            verdicts[-1] = [f"both {' and '.join(told)}, it {told['alone'][0]}"]
    if not rows:
        return "No study is recorded yet: `fasttricks bench` makes one."
    notes = [f"{CHANCE}."] * any(MARK in row for row in rows)
    notes += [ONE_CYCLE] * any("`plain + cyclic`" in row for row in rows)
    return "\n".join(
        (
            f"In our main study, **{', and '.join(verdicts[0])}**. The table shows how many times "
            f"as fast training reaches the target with this trick as without it. (Above 1, it is "
            f"faster. In brackets: the 95% interval, and the number of paired seeds.)",
            "",
            "| recorded on | target | added to plain training | added to the other six tricks |",
            "| --- | --- | --- | --- |",
            *rows,
            *(line for note in notes for line in ("", note)),
        )
    )


MARK = r"\*"
CHANCE = rf"{MARK} This may be chance, for the study asks many such questions at once"
ONE_CYCLE = "(`plain + cyclic` is plain training with a one-cycle schedule.)"
WORDS = {  # what a trick does, by the verdict of the arm that has it
    "faster": "pays",
    "slower": "costs time",
    "cannot tell": "makes no clear difference",
}
OTHERS = {"faster": "slower", "slower": "faster"}  # by the verdict of the arm that lacks it


def outcome(
    row: Finding,
    left_out: bool = False,  # whether the row's arm lacks the trick
) -> str:
    """What a trick does, as a verb says it."""
    told = WORDS[OTHERS.get(row.verdict, row.verdict) if left_out else row.verdict]
    seems = told.replace("pays", "seems to pay").replace("costs", "seems to cost")
    return f"{seems} (but this may be chance)" if row.wavers else told


def effect(
    row: Finding,
    left_out: bool = False,  # whether the row's arm lacks the trick
) -> str:
    """How many times as fast training is with a trick as without it, with the interval."""
    ratio = row.ratio.inverse if left_out else row.ratio
    if not row.arrives and not left_out:
        return f"not there after {row.most:,} images"
    if not row.arrives:
        return f"without it, not there after {row.most:,} images"
    return f"**{times(ratio.value)}**{MARK * row.wavers} ({span(ratio)}; {row.seeds})"


def compared(row: Finding) -> str:
    """How an arm's time compares with that of the arm beside it, as what follows "it is"."""
    if row.arm == row.against:
        return "what the others are compared with"
    if not row.arrives:
        return f"still below the target after {row.most:,} images (accuracy {row.accuracy:.4f})"
    told = f"{times(row.ratio.value)} times as fast ({span(row.ratio)})"
    return f"not clearly faster or slower: {told}" if row.verdict == "cannot tell" else told


def took(
    row: Finding,
    beside: Finding | None = None,  # an arm compared with it, for whose seeds it is asked
) -> str:
    """An arm's seconds of training as a verb says them, or how far it came."""
    if not row.arrives:
        return f"is not there after {row.most:,} images (its accuracy is {row.accuracy:.4f} then)"
    paired = beside.compared if beside and 0 < beside.ratio.value < math.inf else math.nan
    value = paired if math.isfinite(paired) else row.train
    return f"takes {value:.3g} s"


def seconds(value: float) -> str:
    """Two decimals, or a word for infinity."""
    return f"{value:.2f}" if value < math.inf else "never"


def times(value: float) -> str:
    """Two decimals, one from ten on, or a word where there is no end."""
    if math.isnan(value):
        return "-"
    return "no end" if value == math.inf else f"{value:.{1 if value >= 10 else 2}f}"


def span(found: Estimate) -> str:
    """The interval."""
    return f"{times(found.low)} to {times(found.high)}"


def summary(rows: Sequence[Finding]) -> str:
    """The verdicts in two sentences: on each trick added alone, and on each one left out."""
    return " ".join(sentences(rows))


def sentences(rows: Sequence[Finding]) -> Iterator[str]:
    """As `summary`; of a study without sums, the verdicts on its arms."""
    starts = sorted({row.against for row in rows} - {"whole"})
    places = [
        *(
            (f"Added to {'plain training' if start == 'plain' else start}", f"{start} + ", start)
            for start in starts
        ),
        ("Left out of all seven", "whole - ", "whole"),
        ("All seven beside plain training", "whole - ", "plain"),
    ]
    if not any(row.arm.startswith(first) for row in rows for _, first, _ in places):
        places = [(f"Beside {start}", "", start) for start in starts]
    for begin, first, against in places:
        groups: dict[str, list[str]] = {"faster": [], "slower": [], "cannot tell": []}
        for row in rows:
            if row.arm.startswith(first) and row.against == against != row.arm:
                name = row.arm.removeprefix(first)
                if first:
                    name = name.replace(" + ", " and ").replace(" - ", " and ")
                groups[row.verdict].append(name)
        how = {"": ": ", "whole - ": " without "}.get(first, " with ")
        parts = [f"{word}{how}{', '.join(names)}" for word, names in groups.items() if names]
        if parts:
            yield f"{begin}: {'; '.join(parts)}."
