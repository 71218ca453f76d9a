"""Images as one uint8 tensor on the device; a batch is a selection of rows.

Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747) lies in the repository; a folder with one
subfolder a class serves as well.
"""

import gzip
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(os.environ.get("FASTTRICKS_DATA", Path(__file__).resolve().parents[1] / "data"))
CLOTHES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
NAMES = ("fashion-mnist", "letters")
VALIDATION = 5_000  # the last images of the training file


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
    def named(self) -> bool:
        """Whether another process can `load` it."""
        return self.name in NAMES or Path(self.name).is_dir()

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
        parts = {name: getattr(self, name) for name in ("train", "val", "test")}
        return replace(
            self, **{n: Split(resize(s.x, size, device), s.y.to(device)) for n, s in parts.items()}
        )

    def draws(self, batch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """For ever: (B,) row numbers and (B, noise) uniform noise, reshuffled every epoch.

        What is left over at the end of an epoch, less than one batch, is dropped.
        """
        count, device = len(self.train), self.train.y.device
        while True:
            order = torch.randperm(count, generator=generator).to(device)
            noise = torch.rand(count, self.noise, generator=generator).to(device)
            for first in range(0, count - batch + 1, batch):
                rows = slice(first, first + batch)
                yield order[rows], noise[rows]

    def batch(self, rows: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented, normalised images (N, C, H, W) and one-hot targets (N, K)."""
        x = self.normalise(self.augment(self.train.x[rows], noise))
        return x, F.one_hot(self.train.y[rows], len(self.classes)).to(x.dtype)

    def normalise(self, x: Tensor) -> Tensor:
        """uint8 pixels to floats between -1 and 1, the same for every data set and weight."""
        return x.float().div_(127.5).sub_(1.0)


def resize(x: Tensor, size: int, device: torch.device) -> Tensor:
    """(N, C, H, W) uint8 images on the device, `size` pixels a side."""
    if x.shape[-2:] == (size, size):
        return x.to(device)
    parts = (
        F.interpolate(part.to(device).float(), (size, size), mode="bilinear", antialias=True)
        for part in x.split(1000)
    )
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in parts])


def checked(path: Path) -> bytes:
    """The bytes of a shipped file, held against data/SHA256SUMS."""
    try:
        sums = dict(line.split()[::-1] for line in (ROOT / "SHA256SUMS").read_text().splitlines())
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error.filename} is missing; restore it with `git checkout data`, or set "
            f"FASTTRICKS_DATA to a folder like the repository's data/."
        ) from None
    wanted = sums.get(path.relative_to(ROOT).as_posix())
    if hashlib.sha256(content).hexdigest() != wanted:
        raise ValueError(f"{path} is damaged (wrong checksum); restore it by `git checkout data`.")
    return content


def read_idx(path: Path, header: int) -> Tensor:
    """The uint8 values of a gzipped IDX file after its header."""
    values = np.frombuffer(gzip.decompress(checked(path)), np.uint8, offset=header)
    return torch.from_numpy(values.copy())


def load(name: str = "fashion-mnist") -> Data:
    """Fashion-MNIST, the letters, or the images in a folder with one subfolder a class."""
    if name == "letters":
        from .letters import load_letters

        return load_letters()
    if name != "fashion-mnist":
        return load_folder(Path(name))
    raw = ROOT / "FashionMNIST" / "raw"
    splits = [
        Split(
            read_idx(raw / f"{part}-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28),
            read_idx(raw / f"{part}-labels-idx1-ubyte.gz", 8).long(),
        )
        for part in ("train", "t10k")
    ]
    cut = slice(0, -VALIDATION), slice(-VALIDATION, None)
    return Data(name, CLOTHES, splits[0][cut[0]], splits[0][cut[1]], splits[1])


def load_folder(folder: Path, size: int = 64) -> Data:
    """A folder's images in colour, a tenth each to validate and to test, drawn once for all."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no data set {str(folder)!r}; use fashion-mnist, or a folder with one "
            f"subfolder of images a class."
        )
    shape = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
    try:
        files = ImageFolder(folder, shape)
    except FileNotFoundError:
        raise ValueError(f"{folder} needs one subfolder a class with images in each.") from None
    if len(files) < 10:
        raise ValueError(f"{folder} holds {len(files)} images; 10 are the least to split.")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    images, labels = zip(*(files[i] for i in order), strict=True)
    everything = Split(torch.stack(images), torch.tensor(labels))
    tenth = len(files) // 10
    return Data(
        str(folder),
        tuple(files.classes),
        everything[2 * tenth :],
        everything[:tenth],
        everything[tenth : 2 * tenth],
    )
