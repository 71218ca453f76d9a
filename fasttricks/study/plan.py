"""What a study asks, and which runs it still lacks.

A study asks how many images each arm needs to be at a target. All arms share one ladder of lengths,
each `ratio` times the one below, and run on the part of it that the study declares; where that part
turns out to end below the target or to begin above it, it grows by a length. A monotone curve
through the mean accuracies is then read off at the target (`crossing`).

Settings are tuned, and the target is chosen by a pilot, with seeds that the study does not use; the
tuning validates on training images that it takes away. What an image costs is asked last, when all
arms run once more at what was found, in turns, each in a new process.
"""

import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from ..budget import BASELINE, BUDGETS, SEVEN
from ..recipe import OPTIMIZERS, Recipe, Trick, make, name_of
from ..record import Run
from .crossing import Arm, choose_target
from .peer import PeerRun

Found = dict[tuple[str, int], dict[int, Run | PeerRun]]  # by arm and images, then by seed
LAST = "last"  # before an arm's name: its runs in the last round
PILOT, TUNE, TEST = "pilot", "tune", "test"  # likewise
DECLARED = "study.toml"  # the study file, kept beside its records
SEEDS = {TUNE: 1000, PILOT: 2000}  # their first seeds; the study's own begin with 0
HELD = 5_000  # training images that the tuning takes away, to validate on
GRID = {"optimizer", "lr", "batch"}  # what is tried for plain training


@dataclass(frozen=True)
class Study:
    """What is to be measured; the fields of the study file."""

    budget: str
    seeds: int  # paired runs of an arm at one length, unless the arm says fewer
    ratio: float  # of a length to the one below
    most: int  # images; an arm that needs more is said not to arrive
    arms: dict[str, list[int]]  # a sum; the least and the most images, and seeds where fewer
    about: str = ""  # what is unlike the other studies, as part of a sentence
    curves: list[str] = field(default_factory=list)  # arms that are shown at every target
    steps: list[str] = field(default_factory=list)  # arms on the way from plain to the whole
    reference: str = "plain"  # what arms are compared with, but for those that begin with the whole
    target: float | None = None  # validation accuracy, as the pilot advises
    tolerance: float = 0.15  # half the interval of the reference's seconds that the target allows
    pilot: dict[str, Any] = field(default_factory=dict)  # images (least, most) and seeds
    data: str = "fashion-mnist"
    labels: int | None = None  # images to train on; all unless given
    cold: bool = True  # each run of the last round is a new process; else there is no cold wall
    turns: int | None = None  # seeds in the last round, whose paces all share; all unless given
    alike: bool = False  # an image costs the same in all arms, so that they share the mean pace
    refresh: bool = False  # batch norm averages anew before the validation, off the clock
    beside: list[str] = field(default_factory=list)  # arms that are compared with every peer
    tested: list[str] = field(default_factory=list)  # arms that the test images judge in the end
    plain: dict[str, Any] = field(default_factory=dict)  # settings that differ from BASELINE's
    tricks: dict[str, Any] = field(default_factory=dict)  # settings unlike SEVEN's; other tricks
    recipes: dict[str, Any] = field(
        default_factory=dict
    )  # arms that are no sums, by name: settings
    peers: dict[str, Any] = field(default_factory=dict)  # of other libraries: lr, batch, workers
    tuning: dict[str, Any] = field(default_factory=dict)  # of plain (a grid) and whole (draws)

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"budget: {self.budget!r} is none of {', '.join(BUDGETS)}.")
        if self.seeds < 1 or self.ratio <= 1 or self.most < 1:
            raise ValueError("seeds and most must be 1 or more, ratio above 1.")
        if self.turns is not None and not 1 <= self.turns <= self.seeds:
            raise ValueError("turns: it must be 1 or more, and no more than seeds.")
        if self.alike and self.turns is None:
            raise ValueError("alike: it needs turns, which are then as many for all arms.")
        if self.refresh and self.cold:
            raise ValueError("refresh: it needs cold = false, for new processes keep no network.")
        if self.target is None and set(self.pilot) != {"images", "seeds"}:
            raise ValueError("target: it must be given, or a pilot with images and seeds.")
        listed = {self.reference, *self.curves, *self.steps, *self.tested}
        listed |= {*self.beside, *self.peers}
        absent = listed - set(self.arms)
        if absent:
            raise ValueError(f"arms: {', '.join(sorted(absent))} must be among them.")
        wrong = set(self.tuning) - {"plain", "whole"}
        if wrong:
            raise ValueError(f"tuning: only plain and whole are tuned, not {', '.join(wrong)}.")
        for arm, (least, most, *fewer) in self.arms.items():
            if not 1 <= least < most <= self.most or not all(1 <= n <= self.seeds for n in fewer):
                raise ValueError(
                    f"arms: {arm!r} needs images from 1 to most, in order, and no more seeds than "
                    "the study has."
                )
            self.batch(arm)
        dict(self.known)
        dict(self.tuned)  # what is wrong there is told at once

    @cached_property
    def known(self) -> dict[str, Trick]:
        """The tricks that arms are sums of, by name: the seven, and those that the file adds."""
        found = {
            (name := name_of(trick)): replace(trick, **self.tricks.get(name, {})) for trick in SEVEN
        }
        return found | {name: make(self.tricks[name]) for name in self.tricks if name not in found}

    def recipe(self, arm: str) -> Recipe:
        """The sum that an arm names: "plain + mixup", "whole - mixup", ..., or a setting tried."""
        word, _, rest = arm.partition(" ")
        if word == TUNE:
            return self.tuned[rest]
        if word in (LAST, PILOT, TEST):
            return self.recipe(rest)
        if arm in self.recipes:
            settings = {**self.plain, **self.recipes[arm]}
            tricks = settings.pop("tricks", {}).items()
            return sum(
                (replace(self.known[name], **changed) for name, changed in tricks),
                start=replace(BASELINE, **settings),
            )
        plain = replace(BASELINE, **self.plain)
        seven = [self.known[name_of(trick)] for trick in SEVEN]
        begin = {"plain": plain, "whole": sum(seven, start=plain)}
        first, *changes = re.split(r" (?=[+-] )", arm)
        if first not in begin or not {change[2:] for change in changes} <= set(self.known):
            raise ValueError(
                f"arms: {arm!r} is no sum; begin with plain or whole, and add or take away some of "
                f"{', '.join(self.known)}."
            )
        recipe = begin[first]
        for change in changes:
            name = change[2:]
            recipe = recipe + self.known[name] if change[0] == "+" else recipe - name
        return recipe

    @cached_property
    def tuned(self) -> dict[str, Recipe]:
        """The settings that are tried, by name: all of plain's grid, and the whole's draws."""
        found = {}
        if grid := self.tuning.get("plain"):
            wrong = set(grid) ^ GRID ^ {"images", "seeds"} or set(grid["optimizer"]) - set(
                OPTIMIZERS
            )
            if wrong:
                raise ValueError(f"tuning.plain: wrong or missing: {', '.join(sorted(wrong))}.")
            for optimizer, batch in product(grid["optimizer"], grid["batch"]):
                for lr in grid["lr"][optimizer]:
                    decay = BASELINE.weight_decay if optimizer == "adamw" else 5e-4
                    recipe = Recipe(lr=lr, batch=batch, optimizer=optimizer, weight_decay=decay)
                    found[f"plain {optimizer} {lr:g} {batch}"] = recipe
        if drawn := self.tuning.get("whole"):
            wrong = set(drawn) ^ {"trials", "ranges", "images", "seeds"}
            if wrong:
                raise ValueError(f"tuning.whole: wrong or missing: {', '.join(sorted(wrong))}.")
            found |= self.draws(drawn["trials"], drawn["ranges"])
        return found

    def draws(self, trials: int, ranges: dict[str, list[float]]) -> dict[str, Recipe]:
        """The whole as it stands, then settings that fill the ranges evenly (a Latin hypercube)."""
        from scipy.stats.qmc import LatinHypercube

        points = LatinHypercube(len(ranges), rng=np.random.default_rng(0)).random(trials - 1)
        found = {"whole 0": self.recipe("whole - distributed")}
        plain = replace(BASELINE, **self.plain)
        for number, point in enumerate(points, 1):
            tricks = {name_of(trick): self.known[name_of(trick)] for trick in SEVEN}
            tricks.pop("distributed")  # it changes the pace; the settings are chosen without it
            for share, (name, (low, high)) in zip(point, ranges.items(), strict=True):
                trick, setting = name.split(".")
                value = low * (high / low) ** share if low > 0 else high * share
                if setting == "batch":
                    value = 16 * round(value / 16)
                tricks[trick] = replace(
                    tricks[trick], **{setting: type(low)(float(f"{value:.3g}"))}
                )
            found[f"whole {number}"] = sum(tricks.values(), start=plain)
        return found

    def batch(self, arm: str) -> int:
        """Images of a step."""
        return self.peers[arm]["batch"] if arm in self.peers else self.recipe(arm).global_batch

    def whole_batches(self, arm: str, images: float) -> int:
        """The images of the nearest number of steps, one at least; of a peer, of equal epochs."""
        epochs = max(1, round(images / 55_000)) if arm in self.peers else 1
        steps = max(1, round(images / self.batch(arm) / epochs))
        return steps * self.batch(arm) * epochs

    def length(self, arm: str, rung: int) -> int:
        """The images of a run on the ladder."""
        return self.whole_batches(arm, self.ratio**rung)

    def rungs(self, least: float, most: float, *_: int) -> range:
        """The part of the ladder between two numbers of images."""
        low, high = (round(math.log(images, self.ratio)) for images in (least, most))
        return range(low, high + 1)

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds of an arm's runs: those of the tuning and of the pilot are their own."""
        word, _, rest = arm.partition(" ")
        if word == PILOT:
            count = self.pilot["seeds"]
        elif word == TUNE:
            count = next(t["seeds"] for name, t in self.tuning.items() if rest.startswith(name))
        else:
            name = rest if word in (LAST, TEST) else arm
            count = self.arms[name][2] if len(self.arms[name]) > 2 else self.seeds
        if word == LAST:
            count = min(count, self.turns or count)
        first = SEEDS.get(word, 0)
        return list(range(first, first + count))

    @property
    def paired(self) -> str:
        """How many seeds the arms have, in words."""
        fewer = sorted({len(self.seeds_of(arm)) for arm in self.arms} - {self.seeds})
        some = f" ({' or '.join(map(str, fewer))} where the table says so)" if fewer else ""
        return f"{self.seeds} paired seeds{some}"

    @property
    def paced(self) -> str:
        """How many turns the last round has, in words, where they are fewer than the seeds."""
        if self.alike:
            return f", {self.turns} each; an image costs the same in all, so they share a pace"
        return f", {self.turns} each, whose paces all seeds share" if self.turns else ""

    def against(self, arm: str) -> str:
        """The arm that this one is compared with: the longest that it changes, or the reference."""
        if arm == self.reference:
            return arm
        starts = {self.reference, "plain", "whole"} & set(self.arms)
        changed = [name for name in starts if arm.startswith((f"{name} + ", f"{name} - "))]
        return max(changed, key=len, default=self.reference)


@dataclass(frozen=True)
class Trial:
    """One run that is to be made."""

    arm: str
    images: int
    seed: int


def read_study(path: Path) -> Study:
    """The study of a TOML file. Raises ValueError with file and field where it is wrong."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Study)}
        wrong = (set(given) - known) | ({"budget", "seeds", "ratio", "most", "arms"} - set(given))
        if wrong:
            raise ValueError(f"missing or unknown: {', '.join(sorted(wrong))}.")
        return Study(**given)
    except (ValueError, TypeError, KeyError) as error:  # TOML's own errors are ValueErrors
        raise ValueError(f"{path}: {error}") from None


def complete(runs: dict[int, Any], seeds: list[int]) -> list[Any]:
    """The runs of these seeds in turn; none while one is missing."""
    return [runs[seed] for seed in seeds] if set(seeds) <= set(runs) else []


def arm_of(study: Study, found: Found, name: str) -> Arm | None:
    """The arm's complete lengths, and its pace in the last round (until then, in the others).

    One that never arrives has no last round. Its time is only bounded, so it gets the pace of the
    fastest arm there.
    """
    seeds, lengths = study.seeds_of(name), {}
    for (arm, images), runs in sorted(found.items(), key=lambda item: item[0][1]):
        if arm == name and complete(runs, seeds):
            lengths[images] = complete(runs, seeds)
    if not lengths:
        return None
    rounds = {arm: last[-1] for arm in study.arms if (last := last_round(study, arm, found))}
    if study.alike:
        timed = list(rounds.values())
    else:
        timed = [rounds[name]] if name in rounds else sorted(rounds.values(), key=pace)[:1]
    timed = timed or list(lengths.values())
    train = np.array([[run.train_seconds for run in runs] for runs in timed])
    rest = np.array([[run.wall_seconds for run in runs] for runs in timed]) - train
    seen = np.array([[run.images_seen for run in runs] for runs in timed])
    return Arm(
        images=np.array(list(lengths)),
        accuracy=np.array([[run.val_accuracy for run in runs] for runs in lengths.values()]),
        pace=np.resize(np.exp(np.log(train / seen).mean(0)), len(seeds)),
        rest=np.resize(rest.mean(0) if study.cold else math.nan, len(seeds)),
    )


def pace(runs: list[Run | PeerRun]) -> float:
    """Seconds an image, in the mean."""
    return mean(run.train_seconds / run.images_seen for run in runs)


def last_round(study: Study, arm: str, found: Found) -> list[list[Run | PeerRun]]:
    """Its complete turns of the last round: more than one list after seeds have been added."""
    turns = study.seeds_of(arm)[: study.turns]
    rounds = [complete(runs, turns) for (name, _), runs in found.items() if name == f"{LAST} {arm}"]
    return list(filter(None, rounds))


def advised_target(study: Study, found: Found) -> float | None:
    """What the pilot says; None while some of its runs are missing."""
    name = f"{PILOT} {study.reference}"
    if any(lacking(study, pilot_lengths(study), found)):
        return None
    rungs = [study.length(study.reference, n) for n in study.rungs(*study.arms[study.reference])]
    return choose_target(arm_of(study, found, name), np.array(rungs), study.seeds, study.tolerance)


def pilot_lengths(study: Study) -> list[tuple[str, int]]:
    """The pilot's runs."""
    name = study.reference
    return [(f"{PILOT} {name}", study.length(name, n)) for n in study.rungs(*study.pilot["images"])]


def part_of_ladder(study: Study, arm: str, found: Found) -> range:
    """The rungs that an arm has: those declared, and more until they enclose the target."""

    def at(rung: int) -> float | None:
        runs = complete(found.get((arm, study.length(arm, rung)), {}), study.seeds_of(arm))
        return mean(run.val_accuracy for run in runs) if runs else None

    rungs = study.rungs(*study.arms[arm])
    low, high = rungs[0], rungs[-1]
    while (here := at(high)) is not None and here < study.target:
        if study.length(arm, high + 1) > study.most:
            break
        high += 1
    while (here := at(low)) is not None and here >= study.target:
        if study.length(arm, low - 1) == study.length(arm, low):  # one batch
            break
        low -= 1
    return range(low, high + 1)


def trials(study: Study, found: Found) -> Iterator[Trial]:
    """The runs that are to be made next, in turns; nothing when the study is done.

    Without a target it is done after the pilot. First the tuning and the pilot; then every arm on
    its part of the ladder; when all have arrived or given up, the last round and the test.
    """
    for arm, tried in study.tuning.items():
        names = [f"{TUNE} {name}" for name in study.tuned if name.startswith(arm)]
        lengths = [(name, study.whole_batches(name, tried["images"])) for name in names]
        yield from lacking(study, lengths, found)
    if study.pilot:
        yield from lacking(study, pilot_lengths(study), found)
    if study.target is None:
        return
    lengths = [
        (arm, study.length(arm, rung))
        for arm in study.arms
        for rung in part_of_ladder(study, arm, found)
    ]
    todo = list(lacking(study, lengths, found))
    yield from todo
    if todo:
        return
    ends = {arm: found_length(study, arm, found) for arm in study.arms}
    untimed = [arm for arm in study.arms if not (study.turns and last_round(study, arm, found))]
    for kind, names in ((LAST, untimed), (TEST, study.tested)):
        rounds = [(f"{kind} {arm}", ends[arm]) for arm in names if ends[arm]]
        yield from lacking(study, rounds, found)


def found_length(study: Study, arm: str, found: Found) -> int | None:
    """The images at which an arm is at the target, in whole batches; None where it is not."""
    images = arm_of(study, found, arm).curve.images(study.target)
    return study.whole_batches(arm, images) if math.isfinite(images) else None


def ended(study: Study, arm: str, found: Found) -> list[float]:
    """The validation accuracies of the runs at that length, which no fit reads."""
    length = found_length(study, arm, found)
    runs = found.get((f"{LAST} {arm}", length)) or found.get((f"{TEST} {arm}", length), {})
    return [run.val_accuracy for run in runs.values()]


def lacking(study: Study, lengths: list[tuple[str, int]], found: Found) -> Iterator[Trial]:
    """The runs of these arms and images without a record, seed by seed."""
    todo = [
        Trial(arm, images, seed)
        for arm, images in dict.fromkeys(lengths)
        for seed in study.seeds_of(arm)
        if seed not in found.get((arm, images), {})
    ]
    yield from sorted(todo, key=lambda trial: trial.seed)
