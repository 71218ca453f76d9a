"""Your own images: a folder with one subfolder a class, decoded once and kept in a cache.

All images lie in one array, shuffled once for all: the first tenth is for validation, the second
for the test, the rest for training. The three are views of the array, so memory holds them once.
"""

import hashlib
import json
import os
import sys
import tempfile
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import Data, Split
from ..machine import cache_folder
from ..progress import REPORT, Bar
from ..tricks.distributed import cores

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
LEAST = 10  # images that can be split
BATCH = 50  # images that one process decodes at a time
VERSION = 1  # of the pixels that come out


def load_folder(
    folder: Path,
    size: int = 64,  # pixels a side
    skip_broken: bool = False,  # leave out images that cannot be read, and say how many
) -> Data:
    """A folder's images in colour, a tenth each to validate and to test, drawn once for all.

    Raises FileNotFoundError without the folder, and ValueError where there are too few images or,
    unless they are to be skipped, broken ones.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no data set {str(folder)!r}; use fashion-mnist, or a folder with one "
            f"subfolder of images a class."
        )
    if size < 1:
        raise ValueError(f"image_size must be 1 or more, not {size}.")
    classes, files, labels = find_images(folder)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
    x, broken = decoded(folder, [files[number] for number in order], size, skip_broken)
    if broken:
        tell(folder, broken, len(files), skip_broken)
        good = [row for row in range(len(files)) if row not in broken]
        for row, old in enumerate(good):  # the gaps are closed in place
            x[row] = x[old]
        x, order = x[: len(good)], order[good]
    y = torch.tensor(labels)[order]
    check_enough(folder, classes, y.tolist())
    whole, tenth = Split(x, y), len(y) // 10
    parts = whole[2 * tenth :], whole[:tenth], whole[tenth : 2 * tenth]
    return Data(str(folder), tuple(classes), *parts)


def find_images(folder: Path) -> tuple[list[str], list[Path], list[int]]:
    """The classes, the images' paths, and their class numbers, all sorted.

    What begins with a dot is passed over: thumbnails and checkpoints that other programs leave.
    """
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    files, labels = [], []
    for label, kind in enumerate(classes):
        for root, folders, names in os.walk(folder / kind, followlinks=True):
            folders[:] = sorted(name for name in folders if name[0] != ".")
            some = [n for n in sorted(names) if n[0] != "." and n.lower().endswith(ENDINGS)]
            files += [Path(root, name) for name in some]
            labels += [label] * len(some)
    check_enough(folder, classes, labels)
    return classes, files, labels


def check_enough(folder: Path, classes: list[str], labels: list[int]) -> None:
    """Raise ValueError unless each class has an image, and all together can be split."""
    filled = set(labels)
    empty = [name for label, name in enumerate(classes) if label not in filled]
    if empty or len(labels) < LEAST:
        raise ValueError(
            f"{folder} needs one subfolder a class with images in each, {LEAST} in all; it has "
            f"{len(labels)}" + (f", and none in {', '.join(empty)}." if empty else ".")
        )


def tell(folder: Path, broken: dict[int, str], count: int, skip: bool) -> None:
    """Say which files are broken. Raises ValueError unless they are to be skipped."""
    some = ", ".join(list(broken.values())[:3]) + (", and so on" if len(broken) > 3 else "")
    told = f"{len(broken)} of {count} images in {folder} cannot be read: {some}."
    if not skip:
        raise ValueError(f"{told} Mend or remove them, or leave them out by --skip-broken.")
    if speaks():
        print(f"{told} They are skipped.", file=sys.stderr)


def decoded(
    folder: Path,
    files: list[Path],
    size: int,  # pixels a side
    skip_broken: bool,
) -> tuple[Tensor, dict[int, str]]:
    """The images, (N, 3, S, S) uint8, and by their row those that are broken, and why.

    They are kept in the user's cache, under the state of every file; older ones are removed.
    """
    state = [(str(file.relative_to(folder)), *stamp(file)) for file in files]
    names = [str(folder.resolve()), size], [VERSION, PIL.__version__, state]
    place, key = (hashlib.sha256(json.dumps(n).encode()).hexdigest()[:16] for n in names)
    kept = cache_folder() / f"folder-{place}-{key}.pt"
    with suppress(Exception):  # none there, or damaged in one of many ways: decoded again
        x, broken, checksum = torch.load(kept, weights_only=True)
        if checksum == zlib.crc32(x.numpy()) and (skip_broken or not broken):
            return x, broken
    x, broken = decode_all(files, size)
    if broken and not skip_broken:  # they may be mended
        return x, broken
    with suppress(OSError):  # nothing is lost where it cannot be kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            torch.save((x, broken, zlib.crc32(x.numpy())), Path(scratch, "images"))
            os.replace(Path(scratch, "images"), kept)
        for old in set(kept.parent.glob(f"folder-{place}-*")) - {kept}:
            old.unlink()
    return x, broken


def stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does: its size and the nanosecond of its last change."""
    with suppress(OSError):  # gone since it was found; decoding will say so
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    return ()


def decode_all(files: list[Path], size: int) -> tuple[Tensor, dict[int, str]]:
    """Decode with a process a core: threads made it slower, for most of the time is Python's."""
    mine = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # the others decode as well
    count = mine if mine > 1 and len(files) > 2 * BATCH else 0
    x, broken = torch.empty(len(files), 3, size, size, dtype=torch.uint8), {}
    batches = DataLoader(Images(files, size), BATCH, num_workers=count)
    with Bar("images decoded", len(files), shown=speaks()) as bar:
        for first, (pixels, reasons) in zip(range(0, len(files), BATCH), batches, strict=True):
            x[first : first + BATCH] = pixels
            for row, why in enumerate(reasons, first):
                if why:
                    broken[row] = f"{files[row]} ({why})"
            bar.show(first + len(reasons), None)
    return x, broken


def speaks() -> bool:
    """Whether this process talks to the reader: neither launched by us, nor one of many."""
    return REPORT not in os.environ and int(os.environ.get("RANK", 0)) == 0


class Images(Dataset):
    """Image files as (3, S, S) uint8 and an empty reason, or zeros and why they are broken."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[np.ndarray, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                return decode(self.files[row], self.size), ""
            except Exception as error:  # Pillow raises nearly everything on a damaged file
                said = " ".join(str(error).replace(repr(str(self.files[row])), "").split())
        return np.zeros((3, self.size, self.size), np.uint8), said.strip(": ") or "unreadable"


def decode(
    path: Path,
    size: int,  # pixels a side
) -> np.ndarray:
    """The middle square of an image in colour, (3, size, size) uint8; raises if it is broken."""
    with path.open("rb") as file, Image.open(file) as image:
        image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size
        image.load()
        with suppress(Exception):  # a picture is not lost because its notes are damaged
            ImageOps.exif_transpose(image, in_place=True)
        colour = to_rgb(image)
        side, (width, height) = min(colour.size), colour.size
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        pixels = colour.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in colour: on white where it is transparent, 16 bits scaled to 8."""
    if image.mode == "F":
        raise ValueError("its pixels are floats, and their range is not known")
    if image.mode.startswith("I"):  # Pillow would clip or scale, as its version likes
        grey = (np.asarray(image) / 257).round().clip(0, 255)
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode.endswith("A") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
