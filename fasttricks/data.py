"""Images as one uint8 tensor on the device; a batch is a selection of rows."""

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .tricks.mixup import upload

# The repository's folder data/: images that are shipped, and the records of studies.
ROOT = Path(os.environ.get("FASTTRICKS_DATA", Path(__file__).resolve().parents[1] / "data"))


@dataclass(frozen=True)
class Split:
    """Images and their class numbers."""

    x: Tensor  # (N, C, H, W) uint8
    y: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: slice | Tensor) -> "Split":
        return Split(self.x[rows], self.y[rows])


def flip(
    x: Tensor,  # (N, C, H, W) images
    noise: Tensor,  # (N, 1) uniform in [0, 1)
) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    return torch.where(noise.view(-1, 1, 1, 1) < 0.5, x.flip(-1), x)


@dataclass(frozen=True)
class Data:
    """Three splits and how to make batches of them."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    augment: Callable[[Tensor, Tensor], Tensor] = flip  # (images, noise) -> images
    noise: int = 1  # columns of uniform noise that augment takes

    @property
    def fingerprint(self) -> int:
        """A checksum of everything in it: another process can tell whether it has the same."""
        how = f"{self.classes} {self.noise} {self.augment.__module__}.{self.augment.__qualname__}"
        found = zlib.crc32(how.encode())
        for split in (self.train, self.val, self.test):
            for tensor in (split.x, split.y):
                found = zlib.crc32(tensor.cpu().contiguous().numpy(), found)
        return found

    @property
    def channels(self) -> int:
        """Colours of an image: 1 or 3."""
        return self.train.x.shape[1]

    def subset(self, images: int) -> "Data":
        """The same data with only the first `images` images to train on."""
        if not 1 <= images <= len(self.train):
            raise ValueError(f"A subset needs 1 to {len(self.train)} images, not {images}.")
        return replace(self, train=self.train[:images])

    def to(self, device: torch.device, size: int) -> "Data":
        """All images on the device, `size` pixels a side."""

        def moved(split: Split) -> Split:
            return Split(resize(split.x, size, device), split.y.to(device))

        return replace(self, train=moved(self.train), val=moved(self.val), test=moved(self.test))

    def draws(self, batch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """For ever: (B,) row numbers and (B, noise) uniform noise, reshuffled every epoch.

        What is left over at the end of an epoch, less than one batch, is dropped. Raises ValueError
        for a batch larger than the data.
        """
        count, device = len(self.train), self.train.y.device
        if not 1 <= batch <= count:
            raise ValueError(f"A batch of {batch} cannot be drawn from {count} images.")
        while True:
            order = upload(torch.randperm(count, generator=generator), device)
            noise = upload(torch.rand(count, self.noise, generator=generator), device)
            for first in range(0, count - batch + 1, batch):
                rows = slice(first, first + batch)
                yield order[rows], noise[rows]

    def batch(self, rows: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented, normalised images (N, C, H, W) and one-hot targets (N, K)."""
        x = self.normalise(self.augment(self.train.x[rows], noise))
        return x, F.one_hot(self.train.y[rows], len(self.classes)).to(x.dtype)

    def normalise(self, x: Tensor) -> Tensor:
        """uint8 pixels to floats between -1 and 1, channels last, the same for every data set."""
        x = x.to(torch.float32, memory_format=torch.channels_last, copy=True)
        return x.div_(127.5).sub_(1.0)


def resize(x: Tensor, size: int, device: torch.device) -> Tensor:
    """(N, C, H, W) uint8 images on the device, `size` pixels a side."""
    if x.shape[-2:] == (size, size):
        return x.to(device)
    parts = (
        F.interpolate(part.to(device).float(), (size, size), mode="bilinear", antialias=True)
        for part in x.split(1000)
    )
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in parts])
