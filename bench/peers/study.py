"""Peers beside plain training and the whole: tuned alike, taking turns, to one target.

    python bench/peers/study.py bench/peers/cpu.toml --hours 1
    python bench/peers/study.py bench/peers/cpu.toml --report

The target is that of the study the file names. The search is `fasttricks bench`'s: a ladder of
lengths, the smallest whose mean accuracy is at the target. A record a run; a stopped study goes on.
"""

import argparse
import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import pandas as pd

from fasttricks import Run, load, train
from fasttricks.files import write_json
from fasttricks.machine import name_of_machine
from fasttricks.record import SCHEMA
from fasttricks.study.findings import arm_of, compare, hardware_of, seconds, times
from fasttricks.study.pages import as_markdown
from fasttricks.study.plan import (
    DECLARED,
    LAST,
    Found,
    arm_recipe,
    read_study,
    search_state,
    target_of,
    whole_batches,
)
from fasttricks.study.runs import RESULTS, append_record, read_records, read_run

HERE = Path(__file__).parent
TABLE = "table.json"  # what the README quotes, beside the records


@dataclass(frozen=True)
class PeerRun:
    """The record of a peer's run."""

    peer: str
    lr: float
    batch: int
    images_seen: int
    seed: int
    train_seconds: float
    wall_seconds: float  # from the process's start to the answer
    val_accuracy: float
    hardware: dict[str, Any]
    versions: dict[str, str]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Study:
    """What is to be measured; the fields of the file."""

    study: str
    seeds: int
    ratio: float
    workers: int  # of a peer's training DataLoader
    ours: dict[str, int]
    tuning: dict[str, Any]
    peers: dict[str, int]

    def settings(self, peer: str) -> list[tuple[float, int]]:
        """The rates and batches that are tried."""
        return list(product(self.of("lr", peer), self.tuning["batch"]))

    def of(self, field: str, peer: str) -> Any:
        """A peer's own value of a tuning field, or the others'."""
        return self.tuning[field].get(peer, self.tuning[field]["others"])


@dataclass(frozen=True)
class Search:
    """The arms after the tuning, as `bench.stands` asks for them."""

    seeds: int
    ratio: float
    arms: dict[str, int]
    best: dict[str, tuple[float, int]]  # a peer's rate and batch

    def length(self, arm: str, number: float) -> int:
        """The images of a run on the ladder."""
        images = self.arms[arm] * self.ratio**number
        if arm in self.best:
            return whole_epochs(images, self.best[arm][1])
        return whole_batches(arm, images)


@dataclass(frozen=True)
class Trial:
    """One run that is to be made; without a setting it is one of ours."""

    arm: str
    images: int
    seed: int
    setting: tuple[float, int] | None = None


def whole_epochs(images: float, batch: int, count: int = 55_000) -> int:
    """The images of the nearest number of equal epochs of whole batches."""
    epochs = max(1, round(images / count))
    return max(1, round(images / batch / epochs)) * batch * epochs


def parse(content: dict[str, Any]) -> Run | PeerRun:
    """The run of a record, ours or a peer's."""
    if "recipe" in content:
        return read_run(content)
    if content.get("schema") != SCHEMA:
        raise ValueError(f"schema is {content.get('schema')!r}; this version reads {SCHEMA}.")
    try:
        return PeerRun(**content)
    except TypeError as error:
        raise ValueError(f"the record is no peer's: {error}.") from None


def read(file: Path) -> Study:
    """The study of a file. Raises ValueError with file and field where it is wrong."""
    try:
        study = Study(**tomllib.loads(file.read_text(encoding="utf-8")))
        for peer in study.peers:
            if not (HERE / f"{peer}.py").exists():
                raise ValueError(f"peers: there is no {peer}.py.")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from None
    return study


def tune(study: Study, found: Found) -> tuple[list[Trial], dict[str, tuple[float, int]]]:
    """The tuning's missing runs, and each peer's best rate and batch so far.

    The best is the fastest of those whose mean accuracy is as good as the highest, but for `slack`.
    """
    todo, best = [], {}
    for peer in study.peers:
        scores, clock = {}, {}
        for lr, batch in study.settings(peer):
            arm, images = (
                f"tune {peer} {lr:g} {batch}",
                whole_epochs(study.of("images", peer), batch),
            )
            runs = found.get((arm, images), {})
            seeds = range(study.tuning["seeds"])
            todo += [Trial(arm, images, s, (lr, batch)) for s in seeds if s not in runs]
            if runs:
                scores[lr, batch] = mean(run.val_accuracy for run in runs.values())
                clock[lr, batch] = median(run.train_seconds for run in runs.values())
        floor = max(scores.values(), default=0) - study.tuning["slack"]
        near = [setting for setting, score in scores.items() if score >= floor]
        best[peer] = min(near, key=clock.get) if near else study.settings(peer)[0]
    return sorted(todo, key=lambda trial: trial.seed), best


def begin(study: Study, best: dict[str, tuple[float, int]]) -> Search:
    """The search that follows the tuning."""
    return Search(study.seeds, study.ratio, {**study.ours, **study.peers}, best)


def trials(study: Study, found: Found, target: float) -> Iterator[Trial]:
    """The runs to be made next, in turns: tuning, a length of each open arm, the last round."""
    todo, best = tune(study, found)
    if todo:
        yield from todo
        return
    search = begin(study, best)
    at = {arm: search_state(search, arm, found, target) for arm in search.arms}
    open_arms = {arm: images for arm, (images, done) in at.items() if not done}
    turns = open_arms or {f"{LAST} {arm}": images for arm, (images, _) in at.items() if images}
    for seed in range(study.seeds):
        for arm, images in turns.items():
            if seed not in found.get((arm, images), {}):
                yield Trial(arm, images, seed, best.get(arm.removeprefix(f"{LAST} ")))


def run(trial: Trial, study: Study, budget: str, target: float) -> Run | PeerRun:
    """Make one run in a fresh process. Raises RuntimeError with its last words if it fails."""
    if trial.setting is None:
        return train(
            arm_recipe(trial.arm),
            load(),
            images=trial.images,
            seed=trial.seed,
            target=target,
            budget=budget,
            fresh=True,
            label=trial.arm,
        )
    lr, batch = trial.setting
    peer = next(peer for peer in study.peers if peer in trial.arm)
    words = {"images": trial.images, "batch": batch, "lr": lr, "seed": trial.seed,
             "workers": study.workers, "budget": budget, "started": time.time()}  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(HERE / f"{peer}.py"), *(f"--{k}={v}" for k, v in words.items())],
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(f"{peer} failed. Its last words:\n{done.stderr[-2000:]}")
    return PeerRun(peer=peer, **json.loads(done.stdout))


def measure(file: Path, results: Path, hours: float) -> bool:
    """Make the runs that are missing; whether the study is complete."""
    study = read(file)
    budget, target = goal(study, results)
    folder, end = results / folder_of(study), time.monotonic() + 3600 * hours
    found, pace = read_records(folder, parse), {}
    while todo := list(trials(study, found, target)):
        for number, trial in enumerate(todo, 1):
            kind = next(name for name in (*study.ours, *study.peers) if name in trial.arm)
            if time.monotonic() + pace.get(kind, 30e-6) * trial.images > end:
                print(
                    f"Stopped in time; {len(todo) - number + 1} run(s) of this round are missing."
                )
                return False
            made = run(trial, study, budget, target)
            pace[kind] = made.wall_seconds / trial.images
            print(
                f"{number} of {len(todo)}: {trial.arm}, {trial.images:,} images, "
                f"seed {trial.seed}: {made.val_accuracy:.4f} in {made.train_seconds:.1f} s",
                flush=True,
            )
            own = made.to_json() if isinstance(made, Run) else asdict(made)
            append_record(folder, trial.arm, own)
            found.setdefault((trial.arm, trial.images), {})[trial.seed] = made
    print("Complete.")
    return True


def folder_of(study: Study) -> str:
    """Where the records lie, within the results."""
    return f"peers-{study.study}"


def goal(study: Study, results: Path) -> tuple[str, float]:
    """The budget and the target of the study that is named. Raises ValueError where it has none."""
    declared = read_study(results / study.study / DECLARED)
    target = target_of(declared, read_records(results / study.study))
    if target is None:
        raise ValueError(f"study: {study.study!r} has no target yet; run `fasttricks bench` first.")
    return declared.budget, target


def compared(study: Study, found: Found, target: float) -> pd.DataFrame:
    """A row an arm whose search is done, as text; empty until that of the whole is."""
    missing, best = tune(study, found)
    search, rows = begin(study, best), []
    done = [
        arm
        for arm in search.arms
        if not (missing and arm in best) and search_state(search, arm, found, target)[1]
    ]
    for name in done if "whole" in done else ():
        arm, whole = arm_of(search, found, name), arm_of(search, found, "whole")
        own = compare(name, arm, name, arm, target)
        beside = compare("whole", whole, name, arm, target)
        low, ratio, high, by_wall = (
            times(value, alone="never")
            for value in (beside.low, beside.ratio, beside.high, beside.wall_ratio)
        )
        lr, batch = best.get(name, ("", ""))
        rows.append({
            "arm": name, "rate": lr, "batch": batch,
            "images": f"{own.images:,}" if own.images else "never",
            "mean accuracy": f"{own.accuracy:.4f}",
            "train s": seconds(own.train), "cold wall s": seconds(own.wall),
            "times as long as whole": ratio, "95 %": f"{low} to {high}", "by cold wall": by_wall,
        })  # fmt: skip
    columns = list(rows[0]) if rows else ["arm"]
    return pd.DataFrame(rows, columns=columns).set_index("arm")


def unknown(study: Study, found: Found, target: float) -> list[str]:
    """What a study that was stopped cannot say yet, a sentence each."""
    tuning, rows = len(tune(study, found)[0]), compared(study, found, target).index
    absent = [arm for arm in (*study.ours, *study.peers) if arm not in rows]
    said = [f"{tuning} runs of the tuning are missing."] if tuning else []
    said += [f"Not found yet: {', '.join(absent)}."] if absent else []
    if next(trials(study, found, target), None):
        said += ["The last round, in which all arms take turns, is not complete."]
    return said


def published(study: Study, found: Found, target: float) -> dict[str, Any]:
    """What the README quotes, as plain values."""
    rows = compared(study, found, target)
    return {
        "target": target,
        "seeds": study.seeds,
        "hardware": hardware_of(found),
        "unfinished": unknown(study, found, target),
        "table": as_markdown(rows) if len(rows) else "",
    }


def page(study: Study, found: Found, target: float) -> str:
    """What the records say, as Markdown; the same for the same records."""
    rows = compared(study, found, target)
    tuned = [
        {"peer": peer, "rate": lr, "batch": batch, "mean accuracy": f"{mean(scores):.4f}"}
        for peer in study.peers
        for lr, batch in study.settings(peer)
        if (scores := [run.val_accuracy for (arm, _), runs in found.items()
                       for run in runs.values() if arm == f"tune {peer} {lr:g} {batch}"])
    ]  # fmt: skip
    one = next(run for runs in found.values() for run in runs.values() if isinstance(run, PeerRun))
    packages = {name: number for runs in found.values() for run in runs.values()
                for name, number in run.versions.items()}  # fmt: skip
    parts = [
        "# Peers",
        f"Seconds to validation accuracy {target}, {name_of_machine(one.hardware)}, "
        f"n = {study.seeds} paired seeds, in turns, each run in a fresh process. "
        "Ratios are of the train clock, "
        "the last column's of the cold wall. "
        f"{', '.join(f'{name} {number}' for name, number in sorted(packages.items()))}. "
        "Written by `bench/peers/study.py --report` from the records.",
        *unknown(study, found, target),
        *([as_markdown(rows)] if len(rows) else []),
        "## Tuning",
        as_markdown(pd.DataFrame(tuned).set_index("peer")),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Run or report a study; 0 when it worked, 2 when what was asked for cannot be."""
    parser = argparse.ArgumentParser(description="Measure peers beside plain and the whole.")
    parser.add_argument("study", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--hours", type=float, default=float("inf"))
    parser.add_argument("--report", action="store_true", help="only write the page")
    options = parser.parse_args()
    try:
        if not options.report:
            measure(options.study, options.results, options.hours)
        study = read(options.study)
        found = read_records(options.results / folder_of(study), parse)
        if not found:
            raise ValueError(f"{options.study}: there are no records yet; run it without --report.")
        out = options.results / f"{folder_of(study)}.md"
        target = goal(study, options.results)[1]
        out.write_text(page(study, found, target), encoding="utf-8")
        write_json(out.with_suffix("") / TABLE, published(study, found, target))
        print(out)
    except (ValueError, OSError) as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
