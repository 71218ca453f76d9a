r"""Train a timm network on Fashion-MNIST, or on your images, with any of seven tricks.

  fasttricks train --tricks none                    plain training
  fasttricks train --tricks all                     all seven
  fasttricks train --tricks cyclic,transfer         two of them
  fasttricks train --tricks all --without mixup     all but one
  fasttricks train --data PHOTOS --save mine.safetensors --report mine.html
                                                    your own images, a subfolder a class
  fasttricks advise --data PHOTOS --minutes 10      which of the seven pay there
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
           -m fasttricks train --tricks all         the same on two machines
"""

import argparse
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
from torch.distributed import TCPStore

from . import files, machine, models
from .budget import BASELINE, BUDGETS, choose_budget
from .options import asked_images, asked_recipe
from .pretrain import LETTERS, expected_seconds, pretrain
from .progress import QUIET, WORKER
from .recipe import NAMES
from .sources import load
from .study import commands as study
from .study.report import weights_note, write_page
from .train import first, train

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # how a process knows others


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        "fasttricks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(
        dest="command", required=True, metavar="train|pretrain|advise|speed|bench|report|info"
    )
    run = commands.add_parser(
        "train",
        help="one run: a progress bar, one line of result, one JSON record",
        description="Train once, plainly or with tricks, and report both clocks and the accuracy.",
        epilog="example: fasttricks train --tricks cyclic,transfer --images 25600 --out run.json",
    )
    pre = commands.add_parser(
        "pretrain",
        help="make the weights that transfer starts from",
        description="Train on the letters and write the weights.",
        epilog="example: fasttricks pretrain --model resnet18 --image-size 64",
    )
    info = commands.add_parser(
        "info",
        help="versions, device, budget, data and weights found",
        description="What is here: versions, device, budget, data, weights.",
        epilog="example: fasttricks info",
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
           help="fashion-mnist, cifar10, cifar100, letters, or a folder of folders")  # fmt: skip
    option("--max-restarts", type=int, default=0, metavar="N",
           help="start processes again so often where one dies [0]")  # fmt: skip
    option("--skip-broken", action="store_true", help="leave out images that cannot be read [stop]")
    option("--labels", type=int, metavar="N", help="train on the first N images only [all]")
    option("--pretrain", type=int, nargs="?", const=LETTERS, metavar="N",
           help=f"make missing letters weights first, of N glyphs [{LETTERS:,}]")  # fmt: skip
    option("--target", type=float, metavar="A", help="validation accuracy [the budget's]")
    option("--test", action="store_true", help="read the test images too, once, at the end")
    option("--out", type=Path, metavar="FILE", help="write the record of the run, JSON")
    option("--json", action="store_true", help="print that record, and nothing else")
    option("--save", type=Path, metavar="FILE", help="write the trained weights, safetensors")
    option(
        "--report", type=Path, metavar="FILE", help="judge by the test images, once; an HTML page"
    )
    option("--beside-plain", action="store_true", help="train plainly too, for the report")
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
        command.add_argument("--quiet", action="store_true", help="no progress on the terminal")
    return top


def run_train(options: argparse.Namespace) -> None:
    """`fasttricks train`."""
    started = float(os.environ.get(WORKER, psutil.Process().create_time()))
    recipe, budget = asked_recipe(options), choose_budget(options.budget)
    if options.beside_plain and not options.report:
        raise ValueError("--beside-plain needs --report FILE, where the comparison is shown.")
    for path in filter(None, (options.out, options.save, options.report) if first() else ()):
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
    plain = train(BASELINE, data, label="plain", **asked) if options.beside_plain else None
    if not first():
        return
    if options.save:
        models.save_weights(run.net, options.save, weights_note(run, data))
    if options.report:
        weights = str(options.save) if options.save else ""
        write_page(options.report, run, data, plain, weights)
    if options.out:
        files.write_json(options.out, run.to_json())
    if options.json:
        print(json.dumps(run.to_json()))
        return
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


@contextmanager
def first_alone() -> Iterator[bool]:
    """Whether this process is the first; the others wait, for days if need be, until it is done."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        yield True
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False)  # that of torchrun itself
    if not first():
        store.wait(["the first is done"], timedelta(days=7))
    yield first()
    if first():
        store.set("the first is done", "yes")


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
    if options.quiet:
        os.environ[QUIET] = "yes"
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
