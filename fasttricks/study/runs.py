"""Run a declared study, a line of JSON a run; a study that was stopped goes on where it was."""

import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.optim.swa_utils import update_bn

from .. import machine
from ..budget import BUDGETS
from ..checks import arguments, check
from ..data import Data
from ..loop import accuracy
from ..record import Run
from ..sources import load
from ..train import train
from .findings import RESULTS
from .peer import PeerRun, run_peer
from .plan import (
    DECLARED,
    HELD,
    LAST,
    TEST,
    TUNE,
    Found,
    Study,
    Trial,
    advised_target,
    read_study,
    trials,
)

RUNS = "runs.jsonl"  # the records of a study, in its folder
SEEN = 2_000  # training images from which batch norm averages anew


@dataclass(frozen=True)
class Broken:
    """The record of a run whose numbers overflowed: it has learned nothing, and counts so."""

    images_seen: int
    seed: int
    broken: str  # what was said
    hardware: dict[str, Any]
    val_accuracy: float = 0.0
    train_seconds: float = math.nan
    wall_seconds: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """The fields that say something."""
        told = ("images_seen", "seed", "broken", "hardware")
        return {name: getattr(self, name) for name in told}


def read_run(record: Any) -> Run | PeerRun | Broken:
    """The run of a record. Raises ValueError where a field, a range or the schema is wrong."""
    given = check(dict, record, "record")
    if "broken" in given:
        return Broken(**arguments(Broken, given, "record"))
    if "peer" in given:
        return PeerRun.from_json(given)
    run = Run.from_json(given)
    refuse_ranges(run)
    return run


def refuse_ranges(run: Run) -> None:
    """Refuse what no training can have left; only files need it."""
    counts = (run.labels, run.image_size, run.images_seen, run.steps, run.processes)
    seconds = (run.train_seconds, run.wall_seconds, run.images_per_second)
    shares = (run.val_accuracy, run.test_accuracy or 0.0, run.target)
    if not (
        min(counts) >= 1
        and min(run.seed, run.skipped_steps) >= 0
        and min(seconds) > 0
        and min(run.eval_seconds, run.peak_memory or 0.0) >= 0
        and 0 <= min(shares) <= max(shares) <= 1
    ):
        raise ValueError(
            f"the record has counts {counts}, seed {run.seed}, seconds {seconds} or "
            f"accuracies {shares} that no run can have."
        )
    if run.resumed:
        raise ValueError("the run was cut off and went on, so that its clocks measure nothing.")
    if {len(point) for point in run.curve} - {3}:
        raise ValueError("each point of the curve must be images, seconds and accuracy.")
    missing = {"cpu", "cores", "gpu", "gpu_count"} - set(run.hardware)
    if missing:
        raise ValueError(f"hardware lacks {', '.join(sorted(missing))}.")


def read_records(folder: Path) -> Found:
    """All records of a study's folder. Raises ValueError with file and line where one is wrong.

    A last line that was cut off while it was written is no record: its run is made again.
    """
    path, found, first = folder / RUNS, {}, ""
    if not path.exists():
        return found
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
            arm = check(str, record.pop("arm"), "arm")
            run = read_run(record)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ValueError(f"{where}: {error} Remove it, and it is made again.") from None
        runs = found.setdefault((arm, run.images_seen), {})
        if run.seed in runs:
            raise ValueError(
                f"{where}: {arm!r} has seed {run.seed} twice; a seed may be used once. Remove it."
            )
        runs[run.seed] = run
        first = first or machine.name_of_machine(run.hardware)
        if machine.name_of_machine(run.hardware) != first:
            raise ValueError(
                f"{where}: hardware is not that of line 1; one study is measured on one machine."
            )
    return found


def append_record(
    folder: Path,  # of a study
    arm: str,
    record: dict[str, Any],  # plain values
) -> None:
    """Add a run to a study's records, on the disk when this returns; drop a line cut off before."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RUNS).open("a+b") as file:
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        line = json.dumps({"arm": arm, **record}, allow_nan=False)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def bench(
    file: Path,  # the study
    results: Path = RESULTS,  # its records go to a folder of the study's name in here
    hours: float = math.inf,  # no run is begun that would end later
    peers: Path | None = None,  # the folder of their programs; beside the study unless given
) -> bool:
    """Make the runs that are missing; whether the study is complete."""
    study, folder, data = read_study(file), results / file.stem, load(read_study(file).data)
    data = data.subset(study.labels) if study.labels else data
    found = read_records(folder)
    end = time.monotonic() + 3600 * hours
    while todo := list(trials(study, found)):
        left = sum(expected(trial, found) for trial in todo)
        for number, trial in enumerate(todo, 1):
            seconds = expected(trial, found)
            if time.monotonic() + seconds > end:
                missing = len(todo) - number + 1
                print(f"Stopped in time; {missing} run(s) of this round are missing.")
                return False
            label = f"{number} of {len(todo)}, {left / 60:.0f} min left: {trial.arm}"
            run = make(study, trial, data, label, peers or file.parent / "peers")
            append_record(folder, trial.arm, run.to_json())
            (folder / DECLARED).write_bytes(file.read_bytes())
            found.setdefault((trial.arm, trial.images), {})[trial.seed] = run
            left -= seconds
    if study.target is None:
        advice = advised_target(study, found)
        print(f"The pilot advises a target of {advice}: write `target = {advice}` into {file}.")
        return False
    print(f"Complete: {sum(map(len, found.values()))} runs, target {study.target}.")
    return True


def make(
    study: Study,
    trial: Trial,
    data: Data,
    label: str,
    peers: Path,  # the folder of their programs
) -> Run | PeerRun | Broken:
    """Make one run. The last round's are in new processes where the cold wall is asked for."""
    kind, _, arm = trial.arm.partition(" ")
    name = arm if kind in (LAST, TEST) else trial.arm
    if name in study.peers:
        settings = study.peers[name]
        return run_peer(peers / f"{name}.py", settings, trial.images, trial.seed, study.budget)
    if kind == TUNE:
        data = replace(data, train=data.train[:-HELD], val=data.train[-HELD:])
    try:
        run = train(
            study.recipe(trial.arm),
            data,
            images=trial.images,
            seed=trial.seed,
            target=study.target or BUDGETS[study.budget].target,
            budget=study.budget,
            evaluations=1,
            test=kind == TEST,
            fresh=kind == LAST and study.cold,
            label=label,
        )
    except FloatingPointError as error:
        print(f"{trial.arm}, seed {trial.seed}: {error} The record says so.")
        return Broken(trial.images, trial.seed, str(error), machine.hardware())
    return refreshed(run, data) if study.refresh else run


def refreshed(run: Run, data: Data) -> Run:
    """The run, validated once more after batch norm has averaged anew; the weights stay."""
    here = data.to(next(run.net.parameters()).device, run.image_size)
    update_bn((here.normalise(x) for x in here.train.x[:SEEN].split(500)), run.net)
    found = accuracy(run.net, here, here.val, run.recipe)
    images, seconds, _ = run.curve[-1]
    curve = [*run.curve[:-1], [images, seconds, found]]
    return replace(run, val_accuracy=found, curve=curve)


def expected(trial: Trial, found: Found) -> float:
    """Seconds that a run will take, by what the arm has taken an image so far; at least 2."""
    walls = [
        (run.wall_seconds, run.images_seen)
        for (arm, _), runs in found.items()
        if arm == trial.arm.removeprefix(f"{LAST} ").removeprefix(f"{TEST} ")
        for run in runs.values()
        if run.wall_seconds > 0
    ]
    seconds, images = map(sum, zip(*walls, strict=True)) if walls else (0.0, 1)
    return max(2.0, seconds / images * trial.images)
