"""The command line's part of the study: `advise`, `speed`, `bench` and `report`."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from .. import machine
from ..budget import BASELINE, SEVEN, choose_budget
from ..data import ROOT
from ..files import write_json
from ..sources import load

if TYPE_CHECKING:  # they need scipy, which no other command does
    from .plan import Found, Study


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the commands; each keeps under `run` what it does."""
    advice = commands.add_parser(
        "advise",
        help="which of the seven pay on your data, in the minutes that you give",
        description="Measure, screen and judge the tricks on your own images and machine; write a "
        "page with what paid, and the recipe for `train --recipe`. The same command goes on where "
        "it was cut off.",
        epilog="example: fasttricks advise --data PHOTOS --minutes 10",
    )
    option = advice.add_argument
    option("--data", default="fashion-mnist", metavar="NAME|FOLDER", help="as for train")
    option("--model", metavar="NAME", help="timm's name of a model [the budget's]")
    option("--image-size", type=int, metavar="S", help="pixels a side [the budget's]")
    option("--minutes", type=float, default=10.0, metavar="M", help="for all of it [10]")
    option("--out", type=Path, default=Path("advice"), metavar="FOLDER", help="page, recipe, runs")
    advice.set_defaults(run=run_advise)
    speed = commands.add_parser(
        "speed",
        help="the loop against forward, backward and step on one resident batch",
        description="Images a second of the loop, plainly and with all tricks but several "
        "processes, beside those of forward, backward and step on one batch that never changes.",
        epilog="example: fasttricks speed --turns 3",
    )
    speed.add_argument("--turns", type=int, default=7, metavar="N", help="of measuring [7]")
    bench = commands.add_parser(
        "bench",
        help="run a study, or go on with one",
        description="Make the runs of a study that have no record yet; it may be stopped at any "
        "time, and goes on where it was.",
        epilog="example: fasttricks bench bench/cpu.toml --hours 2",
    )
    bench.add_argument("study", type=Path, help="the study file, e.g. bench/cpu.toml")
    bench.add_argument(
        "--hours", type=float, default=math.inf, metavar="H", help="begin no run that ends later"
    )
    report = commands.add_parser(
        "report",
        help="what the recorded studies say",
        description="Write findings, a page and figures from the records of each study.",
        epilog="example: fasttricks report",
    )
    report.add_argument(
        "--simulate", type=int, metavar="N",
        help="first, find out how often the method's intervals hold in N made-up studies",
    )  # fmt: skip
    for command, what in ((bench, "go, in a folder of the study's name"), (report, "are")):
        command.add_argument(
            "--results", type=Path, default=ROOT / "results", metavar="FOLDER",
            help=f"where records {what} [data/results]",
        )  # fmt: skip
    for command, run in ((speed, run_speed), (bench, run_bench), (report, run_report)):
        command.set_defaults(run=run)


def run_advise(options: argparse.Namespace) -> None:
    """`fasttricks advise`."""
    from .advice import PAGE, write_advice
    from .advise import advise, make_plan

    if not 0.1 <= options.minutes < math.inf:
        raise ValueError(f"--minutes must be 0.1 or more, not {options.minutes}.")
    budget = choose_budget()
    size = budget.image_size if options.image_size is None else options.image_size
    data = load(options.data, size)
    state = advise(
        make_plan(data, options.model or budget.model, size, options.minutes), options.out
    )
    print(write_advice(state, options.out, options.data))
    print(f"Why, and what to type: {options.out / PAGE}")


def run_speed(options: argparse.Namespace) -> None:
    """`fasttricks speed`."""
    from .limits import limits

    if options.turns < 1:
        raise ValueError(f"--turns must be 1 or more, not {options.turns}.")
    budget, data = choose_budget(), load()
    for name, recipe in (("plain", BASELINE), ("six", sum(SEVEN, start=BASELINE) - "distributed")):
        images, turns = budget.images // 2, options.turns
        found = limits(recipe, data, budget.model, budget.image_size, images, turns)
        print(
            f"{name:6} batch {recipe.global_batch}: loop {found.loop:,.0f} images/s, resident "
            f"batch {found.resident:,.0f} images/s, ratio {found.share:.3f} "
            f"(medians of {turns} turns)\n"
            f"       {found.image / 1e6:.1f} million operations an image, matrix-product peak "
            f"{found.peak / 1e9:,.0f} billion a second, utilisation {found.utilisation:.1%}"
        )
    memory, where = machine.peak_memory(BASELINE.world.device()), machine.hardware()
    print(f"most memory held: {memory:.2f} GB, on {machine.name_of_machine(where)}")


def run_bench(options: argparse.Namespace) -> None:
    """`fasttricks bench`."""
    from .runs import bench

    if not options.hours > 0:
        raise ValueError(f"--hours must be above 0, not {options.hours}.")
    bench(options.study, options.results, options.hours)


def run_report(options: argparse.Namespace) -> None:
    """`fasttricks report`."""
    from .pages import studies, write_report

    if options.simulate is not None:
        if options.simulate < 1:
            raise ValueError(f"--simulate must be 1 or more, not {options.simulate}.")
        for name, (study, found) in studies(options.results).items():
            simulate(options.results / name, study, found, options.simulate)
    pages = write_report(options.results)
    if not pages:
        raise FileNotFoundError(
            f"There are no records in {options.results}; make some by `fasttricks bench STUDY`."
        )
    print(*pages, sep="\n")


def simulate(folder: Path, study: "Study", found: "Found", count: int) -> None:
    """Bias and coverage of a study's intervals, an arm a line; kept beside the records."""
    from .analysis import coverage, findings
    from .findings import COVERAGE

    rows = [row for row in findings(study, found) if row.arrives and row.arm != row.against]
    told = coverage(study, found, [row.arm for row in rows], count)
    for arm, (bias, share) in told.items():
        print(
            f"{folder.name}: {arm} beside {study.against(arm)}: bias of the ratio {bias:+.1%}, "
            f"95% intervals hold the truth in {share:.1%} of {count:,} simulated studies"
        )
    kept = {
        "studies": count,
        "records": sum(map(len, found.values())),
        "bias": {arm: round(bias, 4) for arm, (bias, _) in told.items()},
        "holds": {arm: share for arm, (_, share) in told.items()},
    }
    write_json(folder / COVERAGE, kept)
