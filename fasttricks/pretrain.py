"""Make the weights that transfer starts from, by training on the letters."""

import time
from pathlib import Path

import torch

from . import models
from .budget import choose_budget
from .loop import cross_entropy
from .recipe import Recipe
from .record import Run
from .sources import load
from .train import train
from .tricks import LRScaling, MixedPrecision, OneCycle

LETTERS = 4_000_000  # glyphs that the letters weights have seen
BATCH = 256


def pretrain(
    model: str,  # timm's name
    out: Path,  # the .safetensors file to write
    *,
    images: int = LETTERS,  # glyph images to see
    seed: int = 0,
    image_size: int | None = None,  # the budget's unless given
    budget: str | None = None,
) -> Run:
    """Make transfer weights: train on the source task, with the tricks that need no weights."""
    plain = Recipe(lr=2e-3, batch=BATCH, weight_decay=5e-4)
    recipe = plain + LRScaling(BATCH, BATCH) + OneCycle(peak=5.0) + MixedPrecision()
    size = image_size or choose_budget(budget).image_size
    run = train(
        recipe,
        load("letters"),
        images=images,
        seed=seed,
        model=model,
        image_size=size,
        budget=budget,
        label=f"{model} learns letters",
        evaluations=1,
    )
    note = {
        "command": f"python -m fasttricks pretrain --model {model} "
        f"--image-size {size} --images {images} --seed {seed}",
        "source": "letters",
        "images": str(run.images_seen),
        "seconds": f"{run.train_seconds:.1f}",
        "val_accuracy": f"{run.val_accuracy:.4f}",
        "cpu": f"{run.hardware['cpu']}, {run.hardware['threads']} threads",
        "gpu": str(run.hardware["gpu"]),
    }
    models.save_weights(run.net, out, note)
    return run


def make_letters(
    model: str,  # timm's name
    image_size: int,  # pixels a side
    images: int = LETTERS,  # glyphs to see
) -> str:
    """See to it that the letters weights exist, and say what they cost; it may take minutes."""
    file = models.letters_file(model, image_size)
    if not file.exists():
        minutes = expected_seconds(model, image_size, images) / 60
        print(f"The letters weights of {model} are made now, once: about {minutes:.1f} minutes.")
        file.parent.mkdir(parents=True, exist_ok=True)
        pretrain(model, file, image_size=image_size, images=images)
    return models.letters_cost(model, image_size)


def expected_seconds(
    model: str,  # timm's name
    image_size: int,  # pixels a side
    images: int = LETTERS,  # glyphs to see
) -> float:
    """About what letters weights would take here: forward and backward of two batches, timed."""
    device = Recipe().world.device()
    net = models.create(model, 1, 1000).to(device)
    x = torch.zeros(32, 1, image_size, image_size, device=device)
    q = torch.full((32, 1000), 1e-3, device=device)
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        cross_entropy(net(x), q).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return seconds / len(x) * images
