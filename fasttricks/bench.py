"""Run a declared study, a record a run; a study that was stopped goes on where it was.

A study asks how many images each arm needs to be at the target. Images come in rungs, each `ratio`
times the one below. An arm begins at its declared rung, goes down while its mean accuracy is at the
target and up while it is not, until a rung reaches and the rung below misses; then half a rung is
tried between the two. All arms that are not done take turns, seed by seed. The arms under `curves`
are run on the rungs around their beginning too. Where each stands is read from the records alone.

A search takes hours, and a machine's pace drifts. So when all arms are done, each runs once more at
the images that were found, all in turns: this last round says what an image costs.
"""

import json
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from . import record
from .budget import BASELINE, BUDGETS, SEVEN
from .data import load
from .recipe import OPTIMIZERS, Recipe, name_of, select
from .record import Run
from .train import train

Found = dict[tuple[str, int], dict[int, Run]]  # by arm and images, then by seed
TARGET = "target"  # the arm whose median is the target of the others
LAST = "last"  # before an arm's name: its runs in the last round
ROOT = Path(__file__).resolve().parents[1]
DECLARED = "study.toml"  # the study file, kept beside its records
MOST = 2.0  # times its declared images an arm may go up; then it never arrives
AROUND = (-2, -1, 0, 1)  # the rungs of a curve
TUNED = {"plain": {"optimizer", "lr", "batch"}, "whole": {"batch", "peak"}}  # what is tried


@dataclass(frozen=True)
class Study:
    """What is to be measured; the fields of the study file."""

    budget: str
    seeds: int  # runs of an arm at one number of images
    ratio: float  # of a rung's images to those of the rung below
    target_seeds: int  # runs of plain training whose median accuracy is the target
    target_images: int
    arms: dict[str, int]  # images at which the search begins, by the arm's name
    curves: list[str]  # arms that are run at four numbers of images at least
    tuning: dict[str, Any]  # for plain and whole: lists of what is tried, and images and seeds

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"budget: {self.budget!r} is none of {', '.join(BUDGETS)}.")
        if self.seeds < 1 or self.target_seeds < 1 or self.ratio <= 1:
            raise ValueError("seeds and target_seeds must be 1 or more, ratio above 1.")
        if "plain" not in self.arms:
            raise ValueError('arms: "plain" is missing; the others are compared with it.')
        if set(self.curves) - set(self.arms):
            raise ValueError("curves: only arms that are declared can be drawn.")
        if set(self.tuning) != set(TUNED):
            raise ValueError(f"tuning: {' and '.join(TUNED)} are tuned, each in its own table.")
        for arm, tried in self.tuning.items():
            wrong = set(tried) ^ TUNED[arm] ^ {"images", "seeds"}
            if wrong:
                raise ValueError(f"tuning.{arm}: missing or unknown: {', '.join(sorted(wrong))}.")
        if set(self.tuning["plain"]["optimizer"]) - set(OPTIMIZERS):
            raise ValueError(f"tuning.plain.optimizer: only {', '.join(OPTIMIZERS)} are known.")
        for arm in self.arms:
            recipe_of(arm)

    def rung(self, arm: str, number: float) -> int:
        """The images of an arm's rung; number 0 is where its search begins, halves lie between."""
        return whole_batches(arm, self.arms[arm] * self.ratio**number)


@dataclass(frozen=True)
class Trial:
    """One run that is to be made."""

    arm: str
    recipe: Recipe
    images: int
    seed: int

    def path(self, folder: Path) -> Path:
        """Where its record lies."""
        return folder / self.arm / f"{self.images}-{self.seed}.json"


def recipe_of(arm: str) -> Recipe:
    """The recipe of "plain", "whole", "add NAME", "no NAME", or "six" (no distributed)."""
    word, _, name = arm.removeprefix(f"{LAST} ").partition(" ")
    if word in ("plain", TARGET):
        return BASELINE
    whole = sum(SEVEN, start=BASELINE)
    if word == "tune":
        return tuned(*name.split())
    if word == "whole":
        return whole
    if word == "six":
        return whole - "distributed"
    if word not in ("add", "no") or name not in whole.names:
        known = ", ".join(name_of(trick) for trick in SEVEN)
        raise ValueError(
            f"arms: {arm!r} is unknown; use plain, whole, six, or add or no with one of {known}."
        )
    return sum(select(name, SEVEN), start=BASELINE) if word == "add" else whole - name


def tuned(arm: str, *settings: str) -> Recipe:
    """Plain training with an optimiser, rate and batch, or the whole with a batch and a peak."""
    if arm == "plain":
        optimizer, lr, batch = settings
        decay = BASELINE.weight_decay if optimizer == "adamw" else 5e-4
        return Recipe(lr=float(lr), batch=int(batch), optimizer=optimizer, weight_decay=decay)
    batch, peak = settings
    changed = {"scaling": {"batch": int(batch)}, "cyclic": {"peak": float(peak)}}
    seven = (replace(trick, **changed.get(name_of(trick), {})) for trick in SEVEN)
    return sum(seven, start=BASELINE)


def whole_batches(arm: str, images: float) -> int:
    """The images of the nearest number of an arm's batches, one at least."""
    batch = recipe_of(arm).global_batch
    return max(1, round(images / batch)) * batch


def read_study(path: Path) -> Study:
    """The study of a TOML file. Raises ValueError with file and field where it is wrong."""
    try:
        given = tomllib.loads(path.read_text())
        wrong = set(given) ^ {field.name for field in fields(Study)}
        if wrong:
            raise ValueError(f"missing or unknown: {', '.join(sorted(wrong))}.")
        return Study(**given)
    except (ValueError, TypeError) as error:  # TOML's own errors are ValueErrors
        raise ValueError(f"{path}: {error}") from None


def read_records(
    folder: Path,
    parse: Callable[[dict[str, Any]], Run] = Run.from_json,
) -> Found:
    """All records of a study's folder. Raises ValueError with file and field where one is wrong."""
    found: Found = {}
    machines: dict[str, Path] = {}
    for path in sorted(folder.glob("*/*.json")):
        try:
            run = parse(json.loads(path.read_text()))
        except json.JSONDecodeError:
            raise ValueError(f"{path} is half-written; remove it, and it is made again.") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error} Remove it, and it is made again.") from None
        images, seed = map(int, path.stem.split("-"))
        if (run.images_seen, run.seed) != (images, seed):
            raise ValueError(
                f"{path}: images_seen and seed are {run.images_seen} and {run.seed}, which its "
                f"name does not say; a seed may be used once. Remove it."
            )
        machines.setdefault(record.machine(run.hardware), path)
        if len(machines) > 1:
            one, other = machines.values()
            raise ValueError(
                f"{other}: hardware is not that of {one}; one study is measured on one machine."
            )
        found.setdefault((path.parent.name, images), {})[seed] = run
    return found


def target_of(study: Study, found: Found) -> float | None:
    """The median accuracy of the target's seeds, to four digits; None while some are missing."""
    runs = found.get((TARGET, whole_batches(TARGET, study.target_images)), {})
    if len(runs) < study.target_seeds:
        return None
    return round(median(run.val_accuracy for run in runs.values()), 4)


def stands(study: Study, arm: str, found: Found, target: float) -> tuple[int | None, bool]:
    """The images an arm is at, and whether it is done there; (None, True) if it never arrives."""

    def reaches(number: float) -> bool | None:
        runs = found.get((arm, study.rung(arm, number)), {})
        if len(runs) < study.seeds:
            return None
        return mean(run.val_accuracy for run in runs.values()) >= target

    number = 0
    while (here := reaches(number)) is not None:
        step = -1 if here else 1
        if study.ratio ** (number + step) > MOST:
            return None, True
        if here and study.rung(arm, number + step) == study.rung(arm, number):  # one batch
            return study.rung(arm, number), True
        if reaches(number + step) is (not here):
            high = max(number, number + step)
            between = reaches(high - 0.5)
            return study.rung(arm, high if between is False else high - 0.5), between is not None
        number += step
    return study.rung(arm, number), False


def tuning_arms(study: Study, arm: str) -> list[str]:
    """The names of the settings that are tried for plain training or for the whole."""
    tried = study.tuning[arm]
    if arm == "plain":
        settings = [
            f"{optimizer} {lr:g} {batch}"
            for optimizer in tried["optimizer"]
            for lr in tried["lr"][optimizer]
            for batch in tried["batch"]
        ]
    else:
        settings = [f"{batch} {peak:g}" for batch in tried["batch"] for peak in tried["peak"]]
    return [f"tune {arm} {setting}" for setting in settings]


def trials(study: Study, found: Found) -> Iterator[Trial]:
    """The runs that are to be made next, in turns; nothing when the study is done.

    First the tuning, then the target, then one rung of every arm that is not done, and the curves;
    when all are done, the last round.
    """
    for arm, tried in study.tuning.items():
        todo = [(name, tried["images"], tried["seeds"]) for name in tuning_arms(study, arm)]
        yield from missing(todo, found)
    yield from missing([(TARGET, study.target_images, study.target_seeds)], found)
    target = target_of(study, found)
    if target is not None:
        standing = {arm: stands(study, arm, found, target) for arm in study.arms}
        todo = [(arm, at, study.seeds) for arm, (at, done) in standing.items() if not done]
        points = [(arm, study.rung(arm, n), study.seeds) for arm in study.curves for n in AROUND]
        yield from missing(list(dict.fromkeys(todo + points)), found)
        if not todo:
            last = [(f"{LAST} {arm}", at, study.seeds) for arm, (at, _) in standing.items() if at]
            yield from missing(last, found)


def missing(todo: list[tuple[str, int, int]], found: Found) -> Iterator[Trial]:
    """Of (arm, images, seeds), the runs without a record, seed by seed."""
    for seed in range(max((seeds for _, _, seeds in todo), default=0)):
        for arm, images, seeds in todo:
            size = whole_batches(arm, images)
            if seed < seeds and seed not in found.get((arm, size), {}):
                yield Trial(arm, recipe_of(arm), size, seed)


def bench(
    file: Path,  # the study
    results: Path,  # its records go to a folder of the study's name in here
    hours: float = float("inf"),  # no run is begun that would end later
) -> bool:
    """Make the runs that are missing; whether the study is complete."""
    study, folder, data = read_study(file), results / file.stem, load()
    found = read_records(folder)
    end = time.monotonic() + 3600 * hours
    while todo := list(trials(study, found)):
        target = target_of(study, found)
        left = sum(expected(trial, found) for trial in todo)
        for number, trial in enumerate(todo, 1):
            seconds = expected(trial, found)
            if time.monotonic() + seconds > end:
                print(
                    f"Stopped in time; {len(todo) - number + 1} run(s) of this round are missing."
                )
                return False
            run = train(
                trial.recipe,
                data,
                images=trial.images,
                seed=trial.seed,
                target=target,
                budget=study.budget,
                fresh=True,
                label=f"{number} of {len(todo)}, {left / 60:.0f} min left: {trial.arm}",
            )
            path = trial.path(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            (folder / DECLARED).write_bytes(file.read_bytes())
            record.write_json(path, run.to_json())
            found.setdefault((trial.arm, trial.images), {})[trial.seed] = run
            left -= seconds
    print(f"Complete: {sum(map(len, found.values()))} runs, target {target_of(study, found)}.")
    return True


def expected(trial: Trial, found: Found) -> float:
    """Seconds that a run will take, by what the arm has taken an image so far; at least 10."""
    walls = [
        (run.wall_seconds, run.images_seen)
        for (arm, _), runs in found.items()
        if arm == trial.arm.removeprefix(f"{LAST} ")
        for run in runs.values()
    ]
    seconds, images = map(sum, zip(*walls, strict=True)) if walls else (0.0, 1)
    return max(10.0, seconds / images * trial.images)
