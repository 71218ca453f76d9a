"""Train a recipe: here, or in processes started by torchrun; the result is a record either way."""

import json
import os
import time
from contextlib import nullcontext
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import machine, models
from .budget import choose_budget
from .checkpoint import Keeper
from .checks import refuse_another
from .data import Data
from .files import check_writable, write_json
from .job import Job
from .launch import launch, launched
from .loop import accuracy, fit, warm_up
from .progress import Bar, say
from .recipe import Recipe
from .record import Run
from .sources import load, loadable
from .stopping import Interrupted, listening
from .tricks.distributed import ALONE, World

FINISHED = "run.json"  # in the folder of a run that is kept
# What the record of a run says as its job does.
SHARED = {f.name for f in fields(Job)} & {f.name for f in fields(Run)} - {"schema"}


def train(
    recipe: Recipe,
    data: Data | None = None,  # Fashion-MNIST unless given
    *,
    images: int | None = None,  # images to see; the budget's unless given
    seed: int = 0,
    target: float | None = None,  # validation accuracy; the budget's unless given
    model: str | None = None,  # timm's name; the budget's unless given
    image_size: int | None = None,  # pixels a side; the budget's unless given
    budget: str | None = None,  # "cpu", "gpu" or "smoke"; the device's unless given
    evaluations: int = 4,  # on the validation images, the last at the end
    test: bool = False,  # read the test images too, once, at the end
    fresh: bool = False,  # in a new process even if one is enough, for the cold wall
    label: str = "",  # what the progress bar says
    started: float | None = None,  # when the cold wall began, seconds since 1970; now unless given
    folder: str | Path | None = None,  # keeps the run: the same call goes on where it was cut off
    every: float = 60.0,  # seconds between two checkpoints
    max_restarts: int = 0,  # times that processes are started again where one has died
) -> Run:
    """Train once and return the run, its trained model under `net`.

    Raises ValueError or OSError, before any training, where something asked for cannot be.
    """
    started = started or time.time()
    data = data or load()
    size = choose_budget(budget)
    elsewhere = not launched() and (fresh or max_restarts > 0 or recipe.world.count() > 1)
    job = Job(
        recipe=recipe,
        budget=size.name,
        data=data.name,
        data_size=data.train.x.shape[-1],
        fingerprint=data.fingerprint if elsewhere or folder else None,
        labels=len(data.train),
        val=size.val,
        model=model or size.model,
        image_size=size.image_size if image_size is None else image_size,
        precision=recipe.precision.choose(recipe.world.device()) if first() else "fp32",
        images=size.images if images is None else images,
        seed=seed,
        target=size.target if target is None else target,
        evaluations=evaluations,
        test=test,
        label=label or describe(recipe),
        folder=str(folder) if folder else None,
        every=every,
        restarts=max_restarts,
    )
    if folder and first():
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{folder} cannot be made ({error.strerror}); name another.") from None
        check_writable(Path(folder) / FINISHED)
    done = finished(job, data) if elsewhere else None
    if done:
        return done
    prepare(job, data)
    if elsewhere and not loadable(data.name):
        raise ValueError(
            f"New processes find data by name, and {data.name!r} is made by hand; put it in a "
            f"folder, or train in one process."
        )
    try:
        if elsewhere:
            return launch(job, len(data.classes), data.channels, started)
        return train_here(job, data, started)
    except Interrupted:
        raise
    except KeyboardInterrupt:
        kept = f"the same call goes on from what {folder} keeps" if folder else "nothing is kept"
        raise Interrupted(f"Interrupted: the run has ended; {kept}.") from None


def finished(job: Job, data: Data, world: World = ALONE) -> Run | None:
    """The run, if the first process finds it finished in the job's folder; the same for all.

    Raises ValueError if another run is kept there.
    """
    if job.folder is None:
        return None
    found = world.everyones(kept_run(job) if world.rank == 0 else None)[0]
    if found is None:
        return None
    record, weights = found
    net = models.create(job.model, data.channels, len(data.classes))
    net.load_state_dict(weights)
    run = replace(Run.from_json(record), net=net)
    if world.rank == 0:
        print(f"{job.label}: finished at {run.started}, and kept: {run}")
    return run


def kept_run(job: Job) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The record and the weights in the job's folder, or None. Raises as `finished` does."""
    folder = Path(job.folder)
    if not (folder / FINISHED).exists():
        return None
    try:
        kept = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        there, code, record = (kept[name] for name in ("run", "code", "record"))
        weights = models.read_weights(folder / "net.safetensors")
    except (ValueError, KeyError, TypeError) as error:
        say(f"What {folder} keeps of a finished run is damaged ({error}); it is made again.")
        return None
    refuse_another(there, job.identity, folder)
    if code != machine.code():
        say(f"{folder} keeps this run as other code made it; it is made again.")
        return None
    return record, weights


def keep(run: Run, job: Job) -> None:
    """Leave a finished run in the job's folder, instead of its checkpoints."""
    folder = Path(job.folder)
    models.save_weights(run.net, folder / "net.safetensors")
    value = {"run": job.identity, "code": machine.code(), "record": run.to_json()}
    write_json(folder / FINISHED, value)
    for checkpoint in folder.glob("step-*.pt"):
        checkpoint.unlink()


def describe(recipe: Recipe) -> str:
    """A recipe in a few words, for the progress bar."""
    few = recipe.names if len(recipe.names) < 3 else (f"{len(recipe.names)} tricks",)
    return " + ".join(("plain", *few))


def first() -> bool:
    """Whether this is the process that decides and writes for all."""
    return int(os.environ.get("RANK", 0)) == 0


def prepare(job: Job, data: Data) -> None:
    """Find out before training whether weights and model will do.

    Raises FileNotFoundError or ValueError with what to do.
    """
    shape = (data.channels, len(data.classes), job.image_size)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        net = models.begin(job.recipe, job.model, *shape, given=first()).eval()
        try:
            net(torch.zeros(1, data.channels, job.image_size, job.image_size))
        except (AssertionError, RuntimeError) as error:
            size = net.pretrained_cfg["input_size"][-1]
            raise ValueError(
                f"{job.model} cannot take images of {job.image_size} pixels a side "
                f"({str(error).splitlines()[0]}); try --image-size {size}."
            ) from None


def train_here(
    job: Job,
    data: Data,
    started: float,  # when the cold wall began, seconds since 1970
) -> Run:
    """Run the job in this process, together with those that torchrun started beside it."""
    device = job.recipe.world.device()
    gpus = [device] if device.type == "cuda" else []
    shape = (data.channels, len(data.classes), job.image_size)
    with (
        job.recipe.world.join() as world,
        torch.random.fork_rng(devices=gpus),
        machine.settings(device),
        Bar(job.label, job.images, shown=first()) as bar,
    ):
        job = replace(job, precision=world.everyones(job.precision)[0])
        done = finished(job, data, world)
        if done:
            return done
        recipe = job.settled
        torch.manual_seed(job.seed)
        # The first process's weights are everybody's: DistributedDataParallel sends them round.
        net = models.begin(recipe, job.model, *shape, given=world.rank == 0).to(device)
        data = replace(data, val=data.val[: job.val]).to(device, job.image_size)
        warm_up(recipe, net, data, world)
        keeper = Keeper(job.folder and Path(job.folder), job.every, job.identity, world)
        with listening(keeper.end) if job.folder else nullcontext():
            counts = job.images, job.seed, job.evaluations
            done = fit(recipe, net, data, *counts, world, bar.show, keeper)
        tested = accuracy(net, data, data.test, recipe, world) if job.test else None
        clocks = (done.train_seconds, done.eval_seconds, time.time() - started)
        everyones = world.everyones((*clocks, machine.peak_memory(device)))
        # The slowest process counts, and the one that took most memory.
        trained, evaluated, wall, memory = map(max, zip(*everyones, strict=True))
    asked = {name: value for name, value in vars(job).items() if name in SHARED}
    run = Run(
        **{**asked, **vars(done), "train_seconds": trained, "eval_seconds": evaluated},
        processes=world.processes,
        device=device.type,
        wall_seconds=wall,
        images_per_second=done.images_seen / trained,
        peak_memory=memory,
        val_accuracy=done.curve[-1][2],
        test_accuracy=tested,
        hardware=machine.hardware(),
        versions=machine.versions(),
        commit=machine.commit(),
        started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        net=net,
    )
    if job.folder and world.rank == 0:
        keep(run, job)
    bar.close(str(run))
    return run
