"""Train a recipe: here, or in processes started by torchrun; the result is a record either way."""

import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from . import models, record
from .budget import choose_budget
from .data import Data, load
from .launch import launch, launched
from .loop import accuracy, fit
from .progress import Bar
from .recipe import Recipe
from .record import Run
from .tricks import LRScaling, MixedPrecision, OneCycle

LETTERS = 4_000_000  # glyphs that the letters weights have seen


@dataclass(frozen=True)
class Job:
    """One run, in plain values, so that it can be handed to another process."""

    recipe: Recipe
    budget: str
    data: str
    labels: int  # images to train on
    val: int | None  # the first so many images validate; None for all
    model: str
    image_size: int
    images: int  # images to see
    seed: int
    target: float
    evaluations: int
    test: bool
    label: str

    def __post_init__(self) -> None:
        batch, processes = self.recipe.global_batch, self.recipe.world.count()
        if batch > self.labels:
            raise ValueError(
                f"A batch of {batch} needs that many images to train on; there are {self.labels}."
            )
        if self.images < batch:
            raise ValueError(f"images must be one batch ({batch}) or more, not {self.images}.")
        if batch % processes:
            raise ValueError(
                f"A global batch of {batch} cannot be shared by {processes} processes; "
                f"take a multiple of {processes}."
            )
        if not 0 < self.target <= 1:
            raise ValueError(f"target must be an accuracy in (0, 1], not {self.target}.")
        if self.seed < 0 or self.evaluations < 1 or self.image_size < 1:
            raise ValueError(
                f"seed must be 0 or more, evaluations and image_size 1 or more, not "
                f"{self.seed}, {self.evaluations} and {self.image_size}."
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, job: dict[str, Any]) -> "Job":
        """The job of `to_json`."""
        return cls(**{**job, "recipe": Recipe.from_json(job["recipe"])})


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
) -> Run:
    """Train once and return the run, its trained model under `net`.

    Raises ValueError or OSError, before any training, where something asked for cannot be.
    """
    started = started or time.time()
    data = data or load()
    size = choose_budget(budget)
    job = Job(
        recipe=recipe,
        budget=size.name,
        data=data.name,
        labels=len(data.train),
        val=size.val,
        model=model or size.model,
        image_size=size.image_size if image_size is None else image_size,
        images=size.images if images is None else images,
        seed=seed,
        target=size.target if target is None else target,
        evaluations=evaluations,
        test=test,
        label=label or describe(recipe),
    )
    prepare(job, data)
    if not launched() and (fresh or recipe.world.count() > 1):
        if not data.named:
            raise ValueError(
                f"New processes find data by name, and {data.name!r} is made by hand; put it in a "
                f"folder, or train in one process."
            )
        return launch(job, len(data.classes), data.channels, started)
    return train_here(job, data, started)


def train_arms(
    recipes: dict[str, Recipe],  # by the arm's name
    data: Data,
    *,
    images: int | None = None,  # images to see; the budget's unless given
    seeds: int | None = None,  # runs an arm; the budget's unless given
    evaluations: int = 4,  # of each run
) -> dict[str, list[Run]]:
    """Train every recipe with the same seeds, the arms taking turns; the runs by arm."""
    arms: dict[str, list[Run]] = {name: [] for name in recipes}
    for seed in range(seeds or choose_budget().seeds):
        for name, recipe in recipes.items():
            label = f"{name}, seed {seed}"
            run = train(
                recipe, data, images=images, seed=seed, evaluations=evaluations, label=label
            )
            arms[name].append(run)
    return arms


def describe(recipe: Recipe) -> str:
    """A recipe in a few words, for the progress bar."""
    few = recipe.names if len(recipe.names) < 3 else (f"{len(recipe.names)} tricks",)
    return " + ".join(("plain", *few))


def prepare(job: Job, data: Data) -> None:
    """Find out before training whether weights and model will do; make letters weights if not.

    Raises FileNotFoundError or ValueError with what to do.
    """
    file = models.letters_file(job.model)
    if job.recipe.start.source == "letters" and not file.exists() and not launched():
        file.parent.mkdir(parents=True, exist_ok=True)
        pretrain(job.model, file, image_size=job.image_size)
    with torch.random.fork_rng(), torch.inference_mode():
        net = models.begin(job.recipe, job.model, data.channels, len(data.classes)).eval()
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
    recipe = job.recipe
    with recipe.world.join() as world, torch.random.fork_rng():
        device = recipe.world.device()
        torch.manual_seed(job.seed)
        net = models.begin(recipe, job.model, data.channels, len(data.classes)).to(device)
        data = replace(data, val=data.val[: job.val]).to(device, job.image_size)
        bar = Bar(job.label, job.images, shown=world.rank == 0)
        done = fit(recipe, net, data, job.images, job.seed, job.evaluations, world, bar.show)
        tested = accuracy(net, data, data.test, recipe, world) if job.test else None
        clocks = torch.tensor(
            [done.train_seconds, done.eval_seconds, time.time() - started],
            dtype=torch.float64,
            device=device,
        )
        clocks = world.reduce(clocks, dist.ReduceOp.MAX).tolist()  # the slowest process counts
    run = Run(
        recipe=recipe,
        budget=job.budget,
        data=job.data,
        labels=job.labels,
        model=job.model,
        image_size=job.image_size,
        seed=job.seed,
        images_seen=done.images,
        steps=done.steps,
        processes=world.processes,
        device=device.type,
        precision=recipe.precision.choose(device),
        train_seconds=clocks[0],
        eval_seconds=clocks[1],
        wall_seconds=clocks[2],
        images_per_second=done.images / clocks[0],
        val_accuracy=done.curve[-1][2],
        test_accuracy=tested,
        target=job.target,
        curve=[list(point) for point in done.curve],
        hardware=record.hardware(),
        versions=record.versions(),
        commit=record.commit(),
        started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        net=net,
    )
    bar.close(str(run))
    return run


def pretrain(
    model: str,  # timm's name
    out: Path,  # the .safetensors file to write
    *,
    source: str = "letters",
    images: int = LETTERS,  # glyph images to see
    seed: int = 0,
    image_size: int | None = None,
    budget: str | None = None,
) -> Run:
    """Make transfer weights: train on the source task, with the tricks that need no weights."""
    plain = Recipe(lr=2e-3, batch=256, weight_decay=5e-4)
    recipe = plain + LRScaling(256, 256) + OneCycle(peak=5.0) + MixedPrecision()
    run = train(
        recipe,
        load(source),
        images=images,
        seed=seed,
        model=model,
        image_size=image_size,
        budget=budget,
        label=f"{model} learns {source}",
        evaluations=1,
    )
    size = f" --image-size {image_size}" if image_size else ""
    note = {
        "command": f"python -m fasttricks pretrain --source {source} --model {model}{size} "
        f"--images {images} --seed {seed}",
        "source": source,
        "images": str(run.images_seen),
        "seconds": f"{run.train_seconds:.1f}",
        "val_accuracy": f"{run.val_accuracy:.4f}",
        "cpu": f"{run.hardware['cpu']}, {run.hardware['threads']} threads",
        "gpu": str(run.hardware["gpu"]),
    }
    save(run, out, note)
    return run


def save(run: Run, out: Path, note: dict[str, str] | None = None) -> None:
    """Write a run's trained weights, whole or not at all."""
    part = out.with_name(out.name + ".part")
    save_file(
        {name: tensor.contiguous() for name, tensor in run.net.state_dict().items()}, part, note
    )
    part.replace(out)
