"""The command line: `python -m fasttricks train | pretrain | speed | bench | report | info`."""

import argparse
import math
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import psutil

from . import machine, models, record
from .budget import BASELINE, BUDGETS, SEVEN, choose_budget
from .data import ROOT
from .launch import WORKER
from .pretrain import LETTERS, expected_seconds, make_letters, pretrain
from .recipe import NAMES, Recipe, read_recipe, select
from .sources import load
from .train import first, train
from .tricks import Distributed

RESULTS = ROOT / "results"
HELP = f"""\
Train a timm network on Fashion-MNIST with any of seven tricks: {", ".join(NAMES)}.

  fasttricks train --tricks none                    plain training
  fasttricks train --tricks all                     all seven
  fasttricks train --tricks cyclic,transfer         two of them
  fasttricks train --tricks all --without mixup     all but one
  fasttricks train --data PHOTOS --model resnet18 --image-size 64 --save mine.safetensors
                                                    your own images, a subfolder a class
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
           -m fasttricks train --tricks all         the same on two machines
"""


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        "fasttricks", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(
        dest="command", required=True, metavar="train|pretrain|speed|bench|report|info"
    )

    run = commands.add_parser(
        "train",
        help="one run: a progress bar, one line of result, one JSON record",
        description="Train once, plainly or with tricks, and report both clocks and the accuracy.",
    )
    run.add_argument(
        "--tricks",
        default="all",
        metavar="all|none|NAME,NAME",
        help=f"the tricks to add to plain training, of {', '.join(NAMES)} [all]",
    )
    run.add_argument("--without", default="", metavar="NAME,NAME", help="tricks to leave out")
    run.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="a recipe as JSON (or a record that holds one) instead of --tricks",
    )
    run.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="train in N processes (adds the trick distributed) [one a GPU, 2 on a CPU]",
    )
    run.add_argument(
        "--share-devices",
        action="store_true",
        help="allow more processes than devices: correct, but not faster",
    )
    run.add_argument(
        "--data",
        default="fashion-mnist",
        metavar="NAME|FOLDER",
        help="fashion-mnist, letters, or a folder with one subfolder a class",
    )
    run.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out images of the folder that cannot be read, and say how many [stop]",
    )
    run.add_argument(
        "--labels", type=int, metavar="N", help="train on the first N images only [all]"
    )
    run.add_argument(
        "--pretrain",
        type=int,
        nargs="?",
        const=LETTERS,
        metavar="N",
        help=f"make the letters weights first, where there are none, with N glyphs [{LETTERS:,}]",
    )
    run.add_argument(
        "--target", type=float, metavar="A", help="validation accuracy to reach [the budget's]"
    )
    run.add_argument(
        "--test", action="store_true", help="read the test images too, once, at the end"
    )
    run.add_argument("--out", type=Path, metavar="FILE", help="write the record of the run, JSON")
    run.add_argument(
        "--save", type=Path, metavar="FILE", help="write the trained weights, safetensors"
    )

    pre = commands.add_parser(
        "pretrain",
        help="make the weights that transfer starts from",
        description="Train on the source task and write the weights.",
    )
    pre.add_argument("--out", type=Path, metavar="FILE", help="the safetensors file [the cache]")

    enough = "what the budget gives all seven tricks, or plain training"
    for command, default in ((run, enough), (pre, f"{LETTERS:,}")):
        command.add_argument(
            "--budget", choices=list(BUDGETS), help="sizes of everything [the device's]"
        )
        command.add_argument(
            "--model", metavar="NAME", help="timm's name of a model [the budget's]"
        )
        command.add_argument(
            "--image-size", type=int, metavar="S", help="pixels a side [the budget's]"
        )
        command.add_argument("--images", type=int, metavar="N", help=f"images to see [{default}]")
        command.add_argument(
            "--seed", type=int, default=0, metavar="S", help="of all randomness [0]"
        )

    speed = commands.add_parser(
        "speed",
        help="the loop against forward, backward and step on one resident batch",
        description="Images a second of the loop, plainly and with all tricks but several "
        "processes, beside those of forward, backward and step on one batch that never changes.",
    )
    speed.add_argument("--turns", type=int, default=7, metavar="N", help="of measuring [7]")
    study = commands.add_parser(
        "bench",
        help="run a study, or go on with one",
        description="Make the runs of a study that have no record yet; it may be stopped at any "
        "time, and goes on where it was.",
    )
    study.add_argument("study", type=Path, help="the study file, e.g. bench/cpu.toml")
    study.add_argument(
        "--hours", type=float, default=math.inf, metavar="H", help="begin no run that ends later"
    )
    study.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="where records go, in a folder of the study's name [data/results]",
    )
    told = commands.add_parser(
        "report",
        help="what the recorded studies say",
        description="Write a page and a figure from the records of each study.",
    )
    told.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FOLDER",
        help="where the records are [data/results]",
    )  # fmt: skip
    commands.add_parser(
        "info",
        help="versions, device, budget, data and weights found",
        description="What is here: versions, device, budget, data, weights.",
    )
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show where an error came from")
    return top


def asked_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that the options ask for."""
    if options.recipe:
        recipe = read_recipe(options.recipe)
    else:
        recipe = sum(select(options.tricks, SEVEN, options.without), start=BASELINE)
    if options.processes is not None or options.share_devices:
        if options.processes is not None and options.processes < 1:
            raise ValueError(f"--processes must be 1 or more, not {options.processes}.")
        rest = tuple(trick for trick in recipe.tricks if not isinstance(trick, Distributed))
        world = Distributed(options.processes or 0, options.share_devices)
        recipe = replace(recipe, tricks=(*rest, world))
    return recipe


def asked_images(options: argparse.Namespace) -> int:
    """The images to see: as asked, else what the budget gives all seven, or plain training."""
    budget = choose_budget(options.budget)
    if options.images is not None:
        return options.images
    return budget.whole if options.tricks == "all" and not options.recipe else budget.plain


def run_train(options: argparse.Namespace) -> None:
    """`fasttricks train`."""
    started = float(os.environ.get(WORKER, psutil.Process().create_time()))
    recipe, budget = asked_recipe(options), choose_budget(options.budget)
    for path in filter(None, (options.out, options.save) if first() else ()):
        record.check_writable(path)
    model, size = options.model or budget.model, options.image_size
    size = budget.image_size if size is None else size
    data = load(options.data, size, options.skip_broken)
    if options.labels is not None:
        data = data.subset(options.labels)
    note = recipe.precision.note(recipe.world.device())
    if note and first():
        print(note, file=sys.stderr)
    if recipe.start.source == "letters":
        see_to_letters(model, size, options.pretrain)
    run = train(
        recipe,
        data,
        images=asked_images(options),
        seed=options.seed,
        target=options.target,
        model=model,
        image_size=size,
        budget=options.budget,
        test=options.test,
        started=started,
    )
    if not first():
        return
    if options.save:
        models.save_weights(run.net, options.save)
    if options.out:
        record.write_json(options.out, run.to_json())
    print(
        f"wall {run.wall_seconds:.1f} s, train {run.train_seconds:.1f} s, "
        f"{run.images_per_second:,.0f} images/s, {run.processes} process(es), {run.precision}, "
        f"validation accuracy {run.val_accuracy:.4f}, target {run.target:g} "
        f"{'reached' if run.reached else 'not reached: time to target infinite'}"
        + (f", test accuracy {run.test_accuracy:.4f}" if options.test else "")
    )


def see_to_letters(model: str, size: int, glyphs: int | None) -> None:
    """Make the letters weights where it was agreed to, in one process while the others wait."""
    if glyphs:
        with Distributed(share_devices=True).join() as world:
            if world.rank == 0:
                make_letters(model, size, glyphs)
            world.wait()
    elif first() and not models.letters_file(model, size).exists():
        raise FileNotFoundError(
            f"There are no letters weights of {model} at {size} pixels; making them takes about "
            f"{expected_seconds(model, size) / 60:.0f} minutes here. Add --pretrain to make them "
            f"now, or start from elsewhere: --without transfer, or a recipe's own source."
        )


def run_pretrain(options: argparse.Namespace) -> None:
    """`fasttricks pretrain`."""
    budget = choose_budget(options.budget)
    model, size = options.model or budget.model, options.image_size or budget.image_size
    out = options.out or models.letters_file(model, size)
    if not options.out:
        out.parent.mkdir(parents=True, exist_ok=True)
    record.check_writable(out)
    run = pretrain(
        model,
        out,
        seed=options.seed,
        budget=options.budget,
        image_size=size,
        images=LETTERS if options.images is None else options.images,
    )
    print(
        f"{out}: {run.images_seen:,} images in {run.train_seconds:.0f} s, "
        f"{run.val_accuracy:.4f} of the prints read"
    )


def run_speed(options: argparse.Namespace) -> None:
    """`fasttricks speed`."""
    from .study.limits import limits

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
    from .study.runs import bench

    if not options.hours > 0:
        raise ValueError(f"--hours must be above 0, not {options.hours}.")
    bench(options.study, options.results, options.hours)


def run_report(options: argparse.Namespace) -> None:
    """`fasttricks report`."""
    from .study.pages import write_report

    pages = write_report(options.results)
    if not pages:
        raise FileNotFoundError(
            f"There are no records in {options.results}; make some by `fasttricks bench STUDY`."
        )
    print(*pages, sep="\n")


def run_info(options: argparse.Namespace) -> None:
    """`fasttricks info`."""
    budget = choose_budget()
    rows = {**machine.versions(), **machine.hardware(), "budget": budget}
    for name, value in {**rows, "commit": machine.commit()}.items():
        print(f"{name:16}{value}")
    data = load()
    print(
        f"{'data':16}{data.name}, checksums right: {len(data.train):,} to train, "
        f"{len(data.val):,} to validate, {len(data.test):,} to test"
    )
    for model, size in dict.fromkeys((b.model, b.image_size) for b in BUDGETS.values()):
        file, found = models.letters_file(model, size), "not made yet"
        if file.exists():
            models.given_state("letters", model, size)
            found = f"checksum right: {models.letters_cost(model, size)}"
        print(f"{'weights':16}{file}, {found}")


def main(words: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 when what was asked for cannot be, 1 when it failed."""
    options = parser().parse_args(words)
    run = {
        "train": run_train,
        "pretrain": run_pretrain,
        "speed": run_speed,
        "bench": run_bench,
        "report": run_report,
        "info": run_info,
    }
    try:
        run[options.command](options)
    except (Exception, KeyboardInterrupt) as error:
        if options.debug:
            traceback.print_exc()
        return tell(error)
    return 0


def tell(error: BaseException) -> int:
    """Say in one sentence what went wrong; the exit status that it makes."""
    who = "fasttricks" if first() else f"fasttricks, process {os.environ['RANK']}"
    if isinstance(error, (ValueError, OSError)):
        print(f"{who}:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    if isinstance(error, KeyboardInterrupt):
        print(f"{who}: {str(error) or 'Interrupted.'}", file=sys.stderr)
        return 130
    kind = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    text = str(error).strip().split("\n")[0]
    print(f"{who}: it failed ({kind}: {text}); --debug shows where.", file=sys.stderr)
    return 1


def run_and_exit() -> None:
    """The installed command."""
    status = main()
    if "LOCAL_WORLD_SIZE" in os.environ:  # gloo's threads can abort an orderly exit: work is done
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run_and_exit()
