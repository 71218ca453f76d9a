"""Your own images: a folder with one subfolder a class, decoded once and kept in a cache.

All images lie in one array, shuffled once for all: the first tenth is for validation, the second
for the test, the rest for training. The three are views of the array, so memory holds them once.
"""

import hashlib
import json
import os
import sys
import zlib
from contextlib import closing, suppress
from pathlib import Path

import PIL
import torch
from torch import Tensor

from ..data import Data, Split
from ..files import cache_folder, replacing
from ..progress import WORKER, Bar
from ..tricks.distributed import cores
from .decode import decode_all

ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".avif", ".heic", ".heif"),  # some Pillows cannot read these: better named than passed over
)
LEAST = 10  # images that can be split
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
    x, broken = decoded(folder, [files[number] for number in order.tolist()], size, skip_broken)
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


def find_images(folder: Path) -> tuple[list[str], list[str], list[int]]:
    """The classes, the images' paths below the folder, and their class numbers, all sorted.

    What begins with a dot is passed over: thumbnails and checkpoints that other programs leave.
    """
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    files, labels, start = [], [], len(os.path.join(folder, ""))
    for label, kind in enumerate(classes):
        for root, folders, names in os.walk(os.path.join(folder, kind), followlinks=True):
            folders[:] = sorted(name for name in folders if name[0] != ".")
            some = [n for n in sorted(names) if n[0] != "." and n.lower().endswith(ENDINGS)]
            files += [os.path.join(root, name)[start:] for name in some]
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
    files: list[str],  # paths below the folder
    size: int,  # pixels a side
    skip_broken: bool,
) -> tuple[Tensor, dict[int, str]]:
    """The images, (N, 3, S, S) uint8, and by their row those that are broken, and why.

    They are kept in the user's cache, under the state of every file; older ones are removed.
    """
    state = [(file, *stamp(os.path.join(folder, file))) for file in files]
    names = [str(folder.resolve()), size], [VERSION, PIL.__version__, state]
    place, key = (hashlib.sha256(json.dumps(n).encode()).hexdigest()[:16] for n in names)
    kept = cache_folder() / f"folder-{place}-{key}.pt"
    with suppress(Exception):  # none there, or damaged in one of many ways: decoded again
        x, broken, checksum = torch.load(kept, weights_only=True)
        if checksum == zlib.crc32(x.numpy()) and (skip_broken or not broken):
            return x, broken
    x, broken = decode_folder(folder, files, size)
    if broken and not skip_broken:  # they may be mended
        return x, broken
    with suppress(OSError, RuntimeError):  # torch has the latter for a full disk; nothing is lost
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as part:
            torch.save((x, broken, zlib.crc32(x.numpy())), part)
        for old in set(kept.parent.glob(f"folder-{place}-*")) - {kept}:
            old.unlink()
    return x, broken


def stamp(path: str) -> tuple[int, ...]:
    """What changes when a file does: its size and the nanosecond of its last change."""
    with suppress(OSError):  # gone since it was found; decoding will say so
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    return ()


def decode_folder(folder: Path, files: list[str], size: int) -> tuple[Tensor, dict[int, str]]:
    """Decode the files: what `decoded` returns."""
    x, broken = torch.empty(len(files), 3, size, size, dtype=torch.uint8), {}
    pixels, paths = x.numpy(), [os.path.join(folder, file) for file in files]
    mine = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # the others decode as well
    with (
        Bar("images decoded", len(files), shown=speaks()) as bar,
        closing(decode_all(paths, size, mine)) as images,
    ):
        for row, image in enumerate(images):
            if isinstance(image, str):
                broken[row] = f"{paths[row]} ({image})"
            else:
                pixels[row] = image
            bar.show(row + 1, None)
    return x, broken


def speaks() -> bool:
    """Whether this process talks to the reader: neither launched by us, nor one of many."""
    return WORKER not in os.environ and int(os.environ.get("RANK", 0)) == 0
