"""From a study's records to what is published of it."""

import ast
import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..budget import BASELINE, SEVEN
from .crossing import Arm, estimate, holm, simulated
from .findings import Estimate, Finding, Published
from .plan import TEST, Found, Study, arm_of, complete, ended, lacking, part_of_ladder, trials

POINTS = 12  # targets at which an arm is shown
ALPHA = 0.05


def arms_of(study: Study, found: Found) -> dict[str, Arm]:
    """The arms whose part of the ladder is complete."""
    done = {}
    for name in study.arms:
        lengths = [(name, study.length(name, n)) for n in part_of_ladder(study, name, found)]
        if not any(lacking(study, lengths, found)):
            arm = arm_of(study, found, name)
            if not math.isnan(arm.curve.images(study.target)):  # else shorter runs are needed
                done[name] = arm
    return done


def ratio(arm: Arm, other: Arm, target: float, clock: str = "train") -> Estimate:
    """How many times as fast as the other an arm is to the target.

    Seeds are paired, so that only those count that both have. Where one of the two is not at the
    target within its lengths, a bound is all that is known: its longest run beside the upper end
    of the other's interval.
    """
    seeds = min(len(arm.pace), len(other.pace))
    arm, other = arm.first(seeds), other.first(seeds)
    own, theirs = (math.isfinite(one.curve.images(target)) for one in (arm, other))
    if own and theirs:
        return estimate(other.costs(target, clock) - arm.costs(target, clock))
    if not own and not theirs:
        return Estimate(math.nan, 0.0, math.inf)
    arrives, lasts = (other, arm) if theirs else (arm, other)
    least = lasts.images[-1] * math.exp(np.log(lasts.pace).mean())
    if clock == "wall":
        least += lasts.rest.mean()
    bound = float(estimate(arrives.costs(target, clock)).high / least)
    return Estimate(0.0, 0.0, bound) if theirs else Estimate(math.inf, 1 / bound, math.inf)


def compare(
    name: str, arm: Arm, against: str, other: Arm, target: float, ended: Sequence[float] = ()
) -> Finding:
    """An arm's finding, as if it were the only one; `ended`: accuracies of runs of that length."""
    arrives = math.isfinite(arm.curve.images(target))
    never = Estimate(math.inf, float(arm.images[-1]), math.inf)
    return Finding(
        arm=name,
        against=against,
        images=estimate(arm.costs(target, "images")) if arrives else never,
        most=int(arm.images[-1]),
        accuracy=mean(ended or [math.nan]) if arrives else float(arm.curve.at(arm.images[-1])),
        checks=len(ended),
        seeds=arm.accuracy.shape[1],
        train=estimate(arm.costs(target)).value if arrives else math.inf,
        wall=estimate(arm.costs(target, "wall")).value
        if arrives
        else math.inf + float(arm.rest.mean()),  # not a number where there are no cold walls
        ratio=ratio(arm, other, target),
        wall_ratio=ratio(arm, other, target, "wall"),
        holds=False,
    )


def findings(study: Study, found: Found) -> list[Finding]:
    """Every arm that is complete, beside the one that it is compared with."""
    arms, rows = arms_of(study, found), []
    for name, arm in arms.items():
        against = study.against(name)
        if against in arms:
            end = ended(study, name, found)
            rows.append(compare(name, arm, against, arms[against], study.target, end))
    asked = [row for row in rows if math.isfinite(row.ratio.p)]
    raised = holm(np.array([row.ratio.p for row in asked])) if asked else ()
    holds = {row.arm: bool(p <= ALPHA) for row, p in zip(asked, raised, strict=True)}
    return [
        replace(row, holds=holds.get(row.arm, row.verdict in ("faster", "slower"))) for row in rows
    ]


def beside_peers(study: Study, found: Found) -> list[Finding]:
    """The arms that are compared with every peer, beside each."""
    arms = arms_of(study, found)
    return [
        compare(name, arms[name], peer, arms[peer], study.target, ended(study, name, found))
        for peer in study.peers
        for name in study.beside
        if peer in arms and name in arms
    ]


def at_targets(study: Study, found: Found) -> dict[str, list[list[float]]]:
    """For arms that are drawn: target, seconds, ratio to the reference with its interval."""
    arms, shown = arms_of(study, found), {}
    for name in study.curves:
        if name in arms and study.reference in arms:
            arm, other = arms[name], arms[study.reference]
            low, high = arm.curve.at(arm.images[[0, -1]])
            rows = []
            for target in np.linspace(low, high, POINTS + 2)[1:-1].tolist():
                took = estimate(arm.costs(target))
                both = other.curve.at(other.images[0]) <= target <= other.curve.at(other.images[-1])
                beside = ratio(arm, other, target) if both else Estimate(*3 * (math.nan,))
                rows.append([target, took.value, beside.value, beside.low, beside.high])
            shown[name] = rows
    return shown


def accuracies(study: Study, found: Found) -> dict[str, list[list[float]]]:
    """For every arm, each complete length: images, and the accuracy of every seed."""
    return {
        name: np.column_stack([arm.images, arm.accuracy]).tolist()
        for name in study.arms
        if (arm := arm_of(study, found, name))
    }


def tested(study: Study, found: Found) -> dict[str, list[float]]:
    """The test accuracies of the arms that were judged so."""
    result = {}
    for name in study.tested:
        for (arm, _), runs in found.items():
            if arm == f"{TEST} {name}" and complete(runs, study.seeds_of(name)):
                result[name] = [runs[seed].test_accuracy for seed in sorted(runs)]
    return result


def unfinished(study: Study, found: Found) -> list[str]:
    """What a study that was stopped cannot say yet, a sentence each."""
    absent = [name for name in study.arms if name not in arms_of(study, found)]
    said = [f"Not found yet: {', '.join(absent)}."] if absent else []
    if next(trials(study, found), None):
        said += [
            "The study is not finished: until its last round, in which all arms take turns, is "
            "complete, seconds are of runs at different times."
        ]
    return said


def publish(name: str, study: Study, found: Found) -> Published:
    """What is said of a study, from its records. Raises ValueError where it has no target yet."""
    if study.target is None:
        raise ValueError(f"{name} has no target yet; `fasttricks bench` says what it lacks.")
    return Published(
        study=name,
        about=study.about,
        reference=study.reference,
        hardware=hardware_of(found),
        runs=sum(map(len, found.values())),
        seeds=study.seeds,
        target=study.target,
        rows=findings(study, found),
        peers=beside_peers(study, found),
        steps=study.steps,
        tested=tested(study, found),
        targets=at_targets(study, found),
        accuracies=accuracies(study, found),
        unfinished=unfinished(study, found),
        digest=digest(),
        labels=study.labels,
        turns=study.turns or study.seeds,
    )


def hardware_of(found: Found) -> str:
    """The machine that a study's records come from."""
    return machine.name_of_machine(next(iter(next(iter(found.values())).values())).hardware)


def digest() -> str:
    """Of what decides a number of the study: loop, tricks, data, recipes, weights."""
    here = Path(machine.HERE)
    names = ("loop.py", "data.py", "models.py", "recipe.py", "sources/letters.py")
    files = sorted([*(here / name for name in names), *here.glob("tricks/*.py")])
    parts = [repr((BASELINE, SEVEN)).encode()]
    parts += [code(path.read_text(encoding="utf-8")).encode() for path in files]
    parts += [path.read_bytes() for path in sorted(here.glob("weights/*"))]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def code(source: str) -> str:
    """A module without its docstrings, comments and blank lines, which decide nothing."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            for number in range(first.lineno - 1, first.end_lineno):
                lines[number] = ""
    kept = (line.partition("  # ")[0].rstrip() for line in lines)
    return "\n".join(line for line in kept if line and not line.lstrip().startswith("# "))


def coverage(
    study: Study,
    found: Found,
    names: Sequence[str],  # of arms
    studies: int = 1000,  # made up
) -> dict[str, tuple[float, float]]:
    """By arm: bias of the ratio, and share of made-up studies whose interval holds the truth.

    The truth is what the records' curves say; the noise is drawn from the records. Each made-up
    study runs the arm and its reference on their declared lengths, grows these as a study does, and
    makes the interval that would be published.
    """
    arms, result, random = arms_of(study, found), {}, np.random.default_rng(0)
    for name in names:
        pair = arms[name], arms[study.against(name)]
        seeds = min(len(arm.pace) for arm in pair)  # only those that both have count
        truth = ratio_of_curves(*pair, study.target)
        hits, errors = 0, []
        for _ in range(studies):
            turns = random.integers(0, seeds, seeds)
            made = [
                simulated_search(study, n, arm, turns, random)
                for n, arm in zip((name, study.against(name)), pair, strict=True)
            ]
            seen = ratio(*made, study.target)
            hits += seen.low <= truth <= seen.high
            errors.append(math.log(seen.value / truth) if 0 < seen.value < math.inf else math.nan)
        result[name] = (math.expm1(np.nanmean(errors)), hits / studies)
    return result


def ratio_of_curves(arm: Arm, other: Arm, target: float) -> float:
    """The ratio that the curves and mean paces say, without any noise."""
    return math.exp(other.costs(target)[0] - arm.costs(target)[0])


def simulated_search(
    study: Study, name: str, arm: Arm, turns: NDArray, random: np.random.Generator
) -> Arm:
    """A made-up arm, on the part of the ladder that a study would have given to it."""
    rungs = study.rungs(*study.arms[name])
    wide = range(rungs[0] - 6, rungs[-1] + 7)
    lengths = np.array([study.length(name, rung) for rung in wide])
    made = simulated(arm, lengths, turns, random)
    low, high = 6, 6 + len(rungs) - 1
    reaches = made.accuracy.mean(1) >= study.target
    while not reaches[high] and high + 1 < len(wide) and lengths[high + 1] <= study.most:
        high += 1
    while reaches[low] and low > 0 and lengths[low - 1] < lengths[low]:
        low -= 1
    kept = slice(low, high + 1)
    return replace(made, images=lengths[kept], accuracy=made.accuracy[kept])
