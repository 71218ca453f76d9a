"""Make the weights that transfer starts from, by training on the letters."""

from pathlib import Path

import torch
from safetensors import safe_open

from . import models
from .loop import cross_entropy, now
from .recipe import Recipe
from .record import Run
from .sources import load
from .train import train
from .tricks import LRScaling, MixedPrecision, OneCycle

LETTERS = 1_000_000  # glyphs; the weights in the package saw four times as many
PLAIN = Recipe(lr=2e-3, batch=256, weight_decay=5e-4)
READER = PLAIN + LRScaling(batch=256, reference=256) + OneCycle(peak=5.0) + MixedPrecision()


def pretrain(
    model: str,  # timm's name
    out: Path,  # the .safetensors file to write
    *,
    images: int = LETTERS,  # glyph images to see
    seed: int = 0,
    image_size: int | None = None,  # the budget's unless given
    budget: str | None = None,
    folder: str | Path | None = None,  # keeps the run, as `train` does
    every: float = 60.0,  # seconds between two checkpoints
) -> Run:
    """Make transfer weights: train on the letters, with the tricks that need no weights."""
    asked = {"images": images, "seed": seed, "image_size": image_size, "budget": budget}
    asked |= {"folder": folder, "every": every}
    label = f"{model} learns letters"
    run = train(READER, load("letters"), model=model, label=label, evaluations=1, **asked)
    note = {
        "command": f"python -m fasttricks pretrain --model {model} "
        f"--image-size {run.image_size} --images {images} --seed {seed}",
        "source": "letters",
        "images": str(run.images_seen),
        "seconds": f"{run.train_seconds:.1f}",
        "val_accuracy": f"{run.val_accuracy:.4f}",
        "cpu": f"{run.hardware['cpu']}, {run.hardware['threads']} threads",
        "gpu": str(run.hardware["gpu"]),
    }
    models.save_weights(run.net, out, note)
    return run


def make_letters(model: str, image_size: int, images: int = LETTERS) -> str:
    """See to it that the letters weights exist, and say what they cost; it may take minutes."""
    path = models.letters_file(model, image_size)
    if not path.exists():
        minutes = expected_seconds(model, image_size, images) / 60
        print(f"The letters weights of {model} are made now, once: about {minutes:.1f} minutes.")
        path.parent.mkdir(parents=True, exist_ok=True)
        pretrain(model, path, image_size=image_size, images=images)
    with safe_open(path, "pt") as file:
        note = file.metadata()
    where = note["cpu"] if note["gpu"] == "None" else note["gpu"]
    return f"{int(note['images']):,} images in {float(note['seconds']):,.0f} s, once, on {where}"


def expected_seconds(model: str, image_size: int, images: int = LETTERS) -> float:
    """About what letters weights would take here: forward and backward of two batches, timed."""
    device = Recipe().world.device()
    net = models.create(model, 1, 1000).to(device)
    batch = 64 if device.type == "cuda" else 32  # more in 32 bits may not fit where training does
    x = torch.zeros(batch, 1, image_size, image_size, device=device)
    q = torch.full((batch, 1000), 1e-3, device=device)
    for _ in range(2):  # the first one warms up
        started = now(device)
        cross_entropy(net(x), q).backward()
        seconds = now(device) - started
    return seconds / len(x) * images
