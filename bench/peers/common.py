"""What every peer gets: the images by a DataLoader, the model, one clock, one way to answer.

A peer is a file with one function, `fit`, written as the library's own pages write it. It runs as
`python bench/peers/PEER.py --images N --batch B --lr R --seed S` and prints its record as JSON.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from timm.utils import random_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from fasttricks import budget, load, machine, models
from fasttricks.data import Split

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Clothes(Dataset):
    """Images and class numbers, transformed one by one, as PyTorch's data tutorial does it."""

    def __init__(self, split: Split, size: int, train: bool) -> None:
        self.x, self.y = split.x, split.y.tolist()
        larger = [v2.Resize(size)] if self.x.shape[-1] != size else []
        flip = [v2.RandomHorizontalFlip()] if train else []
        scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]
        self.transform = v2.Compose([*larger, *flip, *scale])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.x[index]), self.y[index]


class Task:
    """One run's model and loaders; `epochs` passes of the training loader see all its images."""

    def __init__(self, options: argparse.Namespace) -> None:
        data, size = load(), budget.BUDGETS[options.budget]
        self.lr, batch = options.lr, options.batch
        self.classes = len(data.classes)
        self.epochs = max(1, round(options.images / len(data.train)))
        self.steps = max(1, options.images // batch // self.epochs)  # an epoch
        self.images = self.epochs * self.steps * batch
        train = Clothes(data.train, size.image_size, train=True)
        val = Clothes(data.val, size.image_size, train=False)
        self.train = DataLoader(
            train,
            batch,
            sampler=RandomSampler(train, num_samples=self.steps * batch),
            num_workers=options.workers,
            persistent_workers=options.workers > 0,
            drop_last=True,
        )
        self.val = DataLoader(val, 1000)
        self.net = models.create(size.model, data.channels, self.classes).to(DEVICE)


def accuracy(net: nn.Module, loader: DataLoader) -> float:
    """The share of images whose class is named."""
    net.to(DEVICE).eval()
    with torch.inference_mode():
        right = sum((net(x.to(DEVICE)).argmax(1).cpu() == y).sum().item() for x, y in loader)
    return right / len(loader.dataset)


def main(fit: Callable[[Task], None], package: str) -> None:
    """Run one peer and print its record."""
    parser = argparse.ArgumentParser(description="Train as one peer does; print the record.")
    for name, kind in (("images", int), ("batch", int), ("lr", float), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--budget", choices=budget.BUDGETS, default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="of the training DataLoader")
    parser.add_argument("--started", type=float, default=time.time(), help="seconds since 1970")
    options = parser.parse_args()
    random_seed(options.seed)  # timm's mixup draws from numpy
    said, sys.stdout = sys.stdout, sys.stderr  # what libraries print is not the answer
    task = Task(options)
    begun = time.perf_counter()
    fit(task)
    seconds = time.perf_counter() - begun
    found = accuracy(task.net, task.val)
    answer = {
        "lr": options.lr,
        "batch": options.batch,
        "images_seen": task.images,
        "seed": options.seed,
        "train_seconds": seconds,
        "wall_seconds": time.time() - options.started,
        "val_accuracy": found,
        "hardware": machine.hardware(),
        "versions": {**machine.versions(), package: version(package)},
    }
    print(json.dumps(answer), file=said, flush=True)
    os._exit(0)  # the loaders' workers need not be waited for
