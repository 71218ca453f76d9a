"""What torchvision knows: found on the disk, or downloaded into the cache folder."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from filelock import FileLock

from ..data import ROOT, Data, Split
from ..files import cache_folder

CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # torchvision's classes
VALIDATION = 5_000  # the last images of the training file


def load_cifar(name: str) -> Data:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 45,000, 5,000 and 10,000 images, 32 by 32 pixels.

    Raises OSError with what to do where they are neither here nor to be downloaded.
    """
    parts, classes = torchvisions(CIFAR[name])
    splits = [
        Split(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)
        )
        for part in parts
    ]
    return divided(name, classes, *splits)


def divided(name: str, classes: Sequence[str], train: Split, test: Split) -> Data:
    """The data set whose last training images validate."""
    held = min(VALIDATION, len(train) // 10)
    return Data(name, tuple(classes), train[:-held], train[-held:], test)


def torchvisions(kind: str) -> tuple[list[Any], list[str]]:
    """Torchvision's data set of that name, the training and the test part, and its classes."""
    from torchvision import datasets

    found, cache = getattr(datasets, kind), cache_folder()
    folder = getattr(found, "base_folder", kind)
    root = ROOT if (ROOT / folder).is_dir() else cache
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{kind}.lock"):  # one process downloads, the others wait
            parts = [found(os.fspath(root), train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # the latter where a file is damaged or out of reach
        raise OSError(
            f"{kind} is not in {root} and cannot be downloaded ({error}); put torchvision's folder "
            f"{folder} there, or set FASTTRICKS_CACHE to the folder that has it."
        ) from None
    return parts, parts[0].classes
