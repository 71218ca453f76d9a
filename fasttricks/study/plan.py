"""What a study asks, and which runs it still lacks.

A study asks how many images each arm needs to be at the target. The lengths of runs make a ladder,
each `ratio` times the one below. An arm begins at its declared length, goes down while its mean
accuracy is at the target and up while it is not, until one length reaches and the one below misses;
then half a step is tried between the two. All arms that are not done take turns, seed by seed. The
arms under `curves` are run at the lengths around their beginning too. Where each stands is read
from the records alone.

A search takes hours, and a machine's pace drifts. So when all arms are done, each runs once more at
the images that were found, all in turns: this last round says what an image costs.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from ..budget import BASELINE, BUDGETS, SEVEN
from ..recipe import OPTIMIZERS, Recipe, name_of
from ..record import Run

Found = dict[tuple[str, int], dict[int, Run]]  # by arm and images, then by seed
TARGET = "target"  # the arm whose median is the target of the others
LAST = "last"  # before an arm's name: its runs in the last round
DECLARED = "study.toml"  # the study file, kept beside its records
MOST = 2.0  # times its declared images an arm may go up; then it never arrives
AROUND = (-2, -1, 0, 1)  # the steps of the ladder that a curve has, from where its search begins
TUNED = {"plain": {"optimizer", "lr", "batch"}, "whole": {"batch", "peak"}}  # what is tried


@dataclass(frozen=True)
class Study:
    """What is to be measured; the fields of the study file."""

    budget: str
    seeds: int  # runs of an arm at one number of images
    ratio: float  # of a length to the one below
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
            arm_recipe(arm)

    def length(self, arm: str, number: float) -> int:
        """The images of a run, so many steps up the ladder from where the arm's search begins."""
        return whole_batches(arm, self.arms[arm] * self.ratio**number)


@dataclass(frozen=True)
class Trial:
    """One run that is to be made."""

    arm: str
    recipe: Recipe
    images: int
    seed: int


def arm_recipe(arm: str) -> Recipe:
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
    added = (trick for trick in SEVEN if name_of(trick) == name)
    return BASELINE + next(added) if word == "add" else whole - name


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
    batch = arm_recipe(arm).global_batch
    return max(1, round(images / batch)) * batch


def read_study(path: Path) -> Study:
    """The study of a TOML file. Raises ValueError with file and field where it is wrong."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        wrong = set(given) ^ {field.name for field in fields(Study)}
        if wrong:
            raise ValueError(f"missing or unknown: {', '.join(sorted(wrong))}.")
        return Study(**given)
    except (ValueError, TypeError) as error:  # TOML's own errors are ValueErrors
        raise ValueError(f"{path}: {error}") from None


def target_of(study: Study, found: Found) -> float | None:
    """The median accuracy of the target's seeds, to four digits; None while some are missing."""
    runs = found.get((TARGET, whole_batches(TARGET, study.target_images)), {})
    if len(runs) < study.target_seeds:
        return None
    return round(median(run.val_accuracy for run in runs.values()), 4)


def search_state(study: Study, arm: str, found: Found, target: float) -> tuple[int | None, bool]:
    """The length an arm is at, and whether it is done there; (None, True) if it never arrives."""

    def reaches(number: float) -> bool | None:
        runs = found.get((arm, study.length(arm, number)), {})
        if len(runs) < study.seeds:
            return None
        return mean(run.val_accuracy for run in runs.values()) >= target

    number = 0
    while (here := reaches(number)) is not None:
        step = -1 if here else 1
        if study.ratio ** (number + step) > MOST:
            return None, True
        if here and study.length(arm, number + step) == study.length(arm, number):  # one batch
            return study.length(arm, number), True
        if reaches(number + step) is (not here):
            high = max(number, number + step)
            between = reaches(high - 0.5)
            return study.length(arm, high if between is False else high - 0.5), between is not None
        number += step
    return study.length(arm, number), False


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

    First the tuning, then the target, then one length of each arm that is not done, and the curves;
    when all are done, the last round.
    """
    for arm, tried in study.tuning.items():
        todo = [(name, tried["images"], tried["seeds"]) for name in tuning_arms(study, arm)]
        yield from lacking(todo, found)
    yield from lacking([(TARGET, study.target_images, study.target_seeds)], found)
    target = target_of(study, found)
    if target is not None:
        standing = {arm: search_state(study, arm, found, target) for arm in study.arms}
        todo = [(arm, at, study.seeds) for arm, (at, done) in standing.items() if not done]
        points = [(arm, study.length(arm, n), study.seeds) for arm in study.curves for n in AROUND]
        yield from lacking(list(dict.fromkeys(todo + points)), found)
        if not todo:
            last = [(f"{LAST} {arm}", at, study.seeds) for arm, (at, _) in standing.items() if at]
            yield from lacking(last, found)


def lacking(todo: list[tuple[str, int, int]], found: Found) -> Iterator[Trial]:
    """Of (arm, images, seeds), the runs without a record, seed by seed."""
    for seed in range(max((seeds for _, _, seeds in todo), default=0)):
        for arm, images, seeds in todo:
            size = whole_batches(arm, images)
            if seed < seeds and seed not in found.get((arm, size), {}):
                yield Trial(arm, arm_recipe(arm), size, seed)
