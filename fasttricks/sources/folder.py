"""Your own images: a folder with one subfolder a class, decoded once and kept in a cache.

All images lie in one array, shuffled once for all: the first tenth is for validation, the second
for the test, the rest for training. The three are views of the array, so memory holds them once.
"""

import os
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from ..data import Data, Split
from ..progress import REPORT, Bar
from ..tricks.distributed import cores
from .cache import cache_file, read_cache, write_cache
from .decode import decode_all

ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".avif", ".heic", ".heif"),
)


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
    check_enough(folder, classes, labels)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    cache = cache_file(folder, files, size)
    x, broken = read_cache(cache) or (None, {})
    if x is None or (broken and not skip_broken):
        x, broken = decode_folder(folder, files, order, size)
        if not broken or skip_broken:
            write_cache(cache, x, broken)
    if broken:
        some = ", ".join(f"{folder / file} ({why})" for file, why in list(broken.items())[:3])
        count = f"{len(broken)} of {len(files)} images cannot be read: {some}"
        count += ", and so on" if len(broken) > 3 else ""
        if not skip_broken:
            raise ValueError(
                f"{count}; mend or remove them, or leave them out by --skip-broken "
                f"(skip_broken=True)."
            )
        if heard():
            print(f"{count}; they are skipped.", file=sys.stderr)
    y = [labels[number] for number in order if files[number] not in broken]
    check_enough(folder, classes, y)
    everything, tenth = Split(torch.from_numpy(x), torch.tensor(y)), len(y) // 10
    return Data(
        str(folder),
        tuple(classes),
        everything[2 * tenth :],
        everything[:tenth],
        everything[tenth : 2 * tenth],
    )


def find_images(folder: Path) -> tuple[list[str], list[str], list[int]]:
    """The classes, the images' paths below the folder, and their class numbers, all sorted.

    What begins with a dot is passed over: thumbnails and checkpoints that other programs leave.
    """
    files, labels, start = [], [], len(os.path.join(folder, ""))
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    for label, kind in enumerate(classes):
        for root, folders, names in os.walk(os.path.join(folder, kind), followlinks=True):
            folders[:] = sorted(name for name in folders if name[0] != ".")
            for name in sorted(names):
                if name[0] != "." and name.lower().endswith(ENDINGS):
                    files.append(os.path.join(root, name)[start:])
                    labels.append(label)
    return classes, files, labels


def check_enough(folder: Path, classes: list[str], labels: list[int]) -> None:
    """Raise ValueError unless each class has an image, and all together can be split."""
    filled = set(labels)
    if len(filled) < max(1, len(classes)):
        empty = ", ".join(name for label, name in enumerate(classes) if label not in filled)
        raise ValueError(
            f"{folder} needs one subfolder a class with images in each"
            + (f"; there are none in {empty}." if empty else ".")
        )
    if len(labels) < 10:
        raise ValueError(f"{folder} holds {len(labels)} images; 10 are the least to split.")


def decode_folder(
    folder: Path,
    files: list[str],  # paths below the folder
    order: list[int],  # which file each row is for
    size: int,  # pixels a side
) -> tuple[np.ndarray, dict[str, str]]:
    """The images in that order, (N, 3, S, S) uint8, and why the missing ones are broken."""
    started, broken = time.monotonic(), {}
    x, rows = np.empty((len(files), 3, size, size), np.uint8), np.argsort(order)
    paths = [os.path.join(folder, file) for file in files]
    mine = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # the others decode as well
    with (
        closing(decode_all(paths, size, mine)) as images,
        Bar(folder.resolve().name, len(files), shown=heard()) as bar,
    ):
        for number, image in enumerate(images):
            if isinstance(image, str):
                broken[files[number]] = image
            else:
                x[rows[number]] = image
            bar.show(number + 1, None)
        bar.close(f"{len(files):,} images decoded in {time.monotonic() - started:.1f} s")
    kept = [row for row, number in enumerate(order) if files[number] not in broken]
    for row, old in enumerate(kept if broken else ()):  # close the gaps in place
        x[row] = x[old]
    return x[: len(kept)], broken


def heard() -> bool:
    """Whether this is the process that speaks: neither launched by us, nor one of many."""
    return REPORT not in os.environ and int(os.environ.get("RANK", 0)) == 0
