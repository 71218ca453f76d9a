r"""Train a timm network on Fashion-MNIST, or on your images, with any of seven tricks.

  fasttricks train --tricks none                    plain training
  fasttricks train --tricks all                     all seven
  fasttricks train --tricks cyclic,transfer         two of them
  fasttricks train --tricks all --without mixup     all but one
  fasttricks train --data PHOTOS --save mine.safetensors
                                                    your own images, a subfolder a class
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
           -m fasttricks train --tricks all         the same on two machines
"""

import argparse
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import psutil

from . import files, machine, models
from .budget import BASELINE, BUDGETS, SEVEN, choose_budget
from .launch import WORKER
from .pretrain import LETTERS, expected_seconds, pretrain
from .recipe import NAMES, Recipe, Trick, name_of
from .sources import load
from .study import commands as study
from .train import first, train
from .tricks import Distributed
from .tricks.distributed import first_alone

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # how a process knows others
BYTES = 1_000_000  # of a JSON file; a recipe has some hundred, a record some thousand


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        "fasttricks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(
        dest="command", required=True, metavar="train|pretrain|speed|bench|report|info"
    )
    run = commands.add_parser(
        "train",
        help="one run: a progress bar, one line of result, one JSON record",
        description="Train once, plainly or with tricks, and report both clocks and the accuracy.",
    )
    pre = commands.add_parser(
        "pretrain",
        help="make the weights that transfer starts from",
        description="Train on the letters and write the weights.",
    )
    info = commands.add_parser(
        "info",
        help="versions, device, budget, data and weights found",
        description="What is here: versions, device, budget, data, weights.",
    )
    for command, what in ((run, run_train), (pre, run_pretrain), (info, run_info)):
        command.set_defaults(run=what)
    names = ", ".join(NAMES)
    option = run.add_argument
    option("--tricks", default="all", metavar="all|none|NAME,NAME", help=f"of {names} [all]")
    option("--without", default="", metavar="NAME,NAME", help="tricks to leave out")
    option("--recipe", type=Path, metavar="FILE", help="a recipe or a record, JSON, not --tricks")
    option("--processes", type=int, metavar="N", help="adds distributed [one a GPU, 2 on a CPU]")
    option("--share-devices", action="store_true", help="more processes than devices; not faster")
    option("--data", default="fashion-mnist", metavar="NAME|FOLDER",
           help="fashion-mnist, letters, or a folder with one subfolder a class")  # fmt: skip
    option("--max-restarts", type=int, default=0, metavar="N",
           help="start processes again so often where one dies [0]")  # fmt: skip
    option("--skip-broken", action="store_true", help="leave out images that cannot be read [stop]")
    option("--labels", type=int, metavar="N", help="train on the first N images only [all]")
    option("--pretrain", type=int, nargs="?", const=LETTERS, metavar="N",
           help=f"make missing letters weights first, of N glyphs [{LETTERS:,}]")  # fmt: skip
    option("--target", type=float, metavar="A", help="validation accuracy [the budget's]")
    option("--test", action="store_true", help="read the test images too, once, at the end")
    option("--out", type=Path, metavar="FILE", help="write the record of the run, JSON")
    option("--save", type=Path, metavar="FILE", help="write the trained weights, safetensors")
    pre.add_argument("--out", type=Path, metavar="FILE", help="the safetensors file [the cache]")
    enough = "what the budget gives all seven tricks, or plain training"
    for command, default in ((run, enough), (pre, f"{LETTERS:,}")):
        option = command.add_argument
        option("--budget", choices=list(BUDGETS), help="sizes of everything [the device's]")
        option("--model", metavar="NAME", help="timm's name of a model [the budget's]")
        option("--image-size", type=int, metavar="S", help="pixels a side [the budget's]")
        option("--images", type=int, metavar="N", help=f"images to see [{default}]")
        option("--seed", type=int, default=0, metavar="S", help="of all randomness [0]")
        option("--checkpoint", metavar="FOLDER", help="keep it there; the same command goes on")
        option("--every", type=float, default=60, metavar="SECONDS", help="to keep it in turn [60]")
    study.add_to(commands)
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


def read_recipe(path: Path) -> Recipe:
    """The recipe in a JSON file, or in a record there. Raises ValueError or OSError if none is."""
    try:
        with path.open("rb") as file:
            text = file.read(BYTES + 1)
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}); name a JSON file.") from None
    if len(text) > BYTES:
        raise ValueError(f"{path} is larger than {BYTES / 1e6:g} MB; no recipe or record is.")
    try:
        stored = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # the latter where lists are nested too deeply
        raise ValueError(f"{path} is no JSON ({error}); give a recipe or record.") from None
    try:
        within = isinstance(stored, dict) and "recipe" in stored
        return Recipe.from_json(stored["recipe"] if within else stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def select(
    words: str,  # "all", "none", or names with commas between
    seven: Iterable[Trick],  # what there is to select from
    without: str = "",  # names to leave out
) -> tuple[Trick, ...]:
    """The tricks that the words name. Raises ValueError for unknown or repeated names."""
    by_name = {name_of(trick): trick for trick in seven}
    chosen = {"all": list(by_name), "none": []}.get(words)
    if chosen is None:
        chosen = split_names(words, by_name)
    dropped = split_names(without, by_name) if without else []
    for name in dropped:
        if name not in chosen:
            raise ValueError(f"There is no {name!r} to leave out; chosen are {', '.join(chosen)}.")
    return tuple(by_name[name] for name in chosen if name not in dropped)


def split_names(words: str, known: Iterable[str]) -> list[str]:
    """Names with commas between, each known and none twice."""
    names = [word.strip() for word in words.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"Unknown trick {name!r}; use all, none, or of {', '.join(known)}.")
        if names.count(name) > 1:
            raise ValueError(f"The trick {name!r} is named twice; name it once.")
    return names


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
        files.check_writable(path)
    model, size = options.model or budget.model, options.image_size
    size = budget.image_size if size is None else size
    data = load(options.data, size, options.skip_broken)
    if options.labels is not None:
        data = data.subset(options.labels)
    for note in (recipe.world.note(), recipe.precision.note(recipe.world.device())):
        if note and first():
            print(note, file=sys.stderr)
    if recipe.start.source == "letters":
        see_to_letters(model, size, options)
    names = ("seed", "target", "budget", "test", "every", "max_restarts")
    asked = {name: getattr(options, name) for name in names}
    asked |= {"images": asked_images(options), "model": model, "image_size": size}
    run = train(recipe, data, started=started, folder=options.checkpoint, **asked)
    if not first():
        return
    if options.save:
        models.save_weights(run.net, options.save)
    if options.out:
        files.write_json(options.out, run.to_json())
    print(
        f"wall {run.wall_seconds:.1f} s, train {run.train_seconds:.1f} s, "
        f"{run.images_per_second:,.0f} images/s, {run.processes} process(es), {run.precision}, "
        f"validation accuracy {run.val_accuracy:.4f}, target {run.target:g} "
        f"{'reached' if run.reached else 'not reached: time to target infinite'}"
        + (f", test accuracy {run.test_accuracy:.4f}" if options.test else "")
    )


def see_to_letters(model: str, size: int, options: argparse.Namespace) -> None:
    """Make the letters weights where it was agreed to, in one process while the others wait."""
    missing, glyphs = not models.letters_file(model, size).exists(), options.pretrain
    if not glyphs and not (missing and first()):
        return
    if not glyphs:
        raise FileNotFoundError(
            f"There are no letters weights of {model} at {size} pixels; making them takes about "
            f"{expected_seconds(model, size) / 60:.0f} minutes here. Add --pretrain to make them "
            f"now, or start from elsewhere: --without transfer, or a recipe's own source."
        )
    words = ("pretrain", "--model", model, "--image-size", str(size), "--images", str(glyphs))
    if options.checkpoint:
        words += ("--checkpoint", f"{options.checkpoint}/letters", "--every", str(options.every))
    alone = {name: value for name, value in os.environ.items() if name not in TORCHRUN}
    with first_alone() as mine:
        if mine and missing:
            subprocess.run([sys.executable, "-m", "fasttricks", *words], env=alone, check=True)


def run_pretrain(options: argparse.Namespace) -> None:
    """`fasttricks pretrain`."""
    budget = choose_budget(options.budget)
    model, size = options.model or budget.model, options.image_size or budget.image_size
    out = options.out or models.letters_file(model, size)
    if not options.out:
        out.parent.mkdir(parents=True, exist_ok=True)
    files.check_writable(out)
    images = LETTERS if options.images is None else options.images
    minutes = expected_seconds(model, size, images) / 60
    print(f"{model} reads {images:,} glyphs, once: about {minutes:.1f} minutes here.", flush=True)
    asked = {name: getattr(options, name) for name in ("seed", "budget", "every")}
    asked |= {"images": images, "image_size": size, "folder": options.checkpoint}
    run = pretrain(model, out, **asked)
    print(
        f"{out}: {run.images_seen:,} images in {run.train_seconds:.0f} s, "
        f"{run.val_accuracy:.4f} of the prints read"
    )


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
            found = "checksum right"
        print(f"{'weights':16}{file}, {found}")


def main(words: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 when what was asked for cannot be, 1 when it failed."""
    options = parser().parse_args(words)
    try:
        options.run(options)
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
