"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747), which the repository holds."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import ROOT, Data, Split
from ..files import checked
from .downloaded import divided, torchvisions

CLASSES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def load_fashion_mnist() -> Data:
    """55,000 images to train on, 5,000 to validate and 10,000 to test.

    Without the repository, torchvision finds or downloads them.
    """
    if not ROOT.exists():
        parts, _ = torchvisions("FashionMNIST")
        splits = [Split(part.data[:, None], part.targets) for part in parts]
        return divided("fashion-mnist", CLASSES, *splits)
    raw = ROOT / "FashionMNIST" / "raw"
    splits = [
        Split(
            read_idx(raw / f"{part}-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28),
            read_idx(raw / f"{part}-labels-idx1-ubyte.gz", 8).long(),
        )
        for part in ("train", "t10k")
    ]
    return divided("fashion-mnist", CLASSES, *splits)


def read_idx(
    path: Path,
    header: int,  # bytes ahead of the values
) -> Tensor:
    """The uint8 values of a gzipped IDX file."""
    values = np.frombuffer(gzip.decompress(checked(path, ROOT)), np.uint8, offset=header)
    return torch.from_numpy(values.copy())
