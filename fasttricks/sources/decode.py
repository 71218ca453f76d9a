"""One image file as pixels, of whatever kind it is; as a program, many files.

    python decode.py SIZE < PATHS.json > IMAGES.pickles

The program imports Pillow and numpy only, so that several start quickly. They are processes
because threads made it slower: most of the time for a small image is Python's.
"""

import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SHARE = 50  # images that are worth the start of a process
MOST = 16  # processes that can keep busy the one that gathers their images
AHEAD = 1 << 19  # bytes that a process may be ahead of its turn, where pipes can be told


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


def decode(
    path: str,
    size: int,  # pixels a side
) -> np.ndarray:
    """The middle square of an image in colour, (3, size, size) uint8; raises if it is broken."""
    with open(path, "rb") as file, Image.open(file) as image:
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


def attempt(
    path: str,
    size: int,  # pixels a side
) -> np.ndarray | str:
    """The image as `decode` makes it, or why it is broken, in one line."""
    try:
        return decode(path, size)
    except UnidentifiedImageError:
        return "no image that Pillow knows"
    except Exception as error:  # Pillow raises nearly everything on a damaged file
        said = str(error).replace(repr(path), "").strip(": ")
        return " ".join(said.split()) or type(error).__name__


def heed_bombs() -> None:
    """Of all warnings only the one about a decompression bomb counts, and that as an error."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode_all(
    paths: list[str],
    size: int,  # pixels a side
    processes: int,  # at most; few images are decoded in this one
) -> Iterator[np.ndarray | str]:
    """What `attempt` finds for each path in turn. Raises ChildProcessError if a process dies."""
    count = min(processes, MOST, len(paths) // SHARE)
    if count < 2:
        with warnings.catch_warnings():
            heed_bombs()
            yield from (attempt(path, size) for path in paths)
        return
    with ExitStack() as stack:
        workers = []
        for _ in range(count):
            workers.append(stack.enter_context(start(size)))
            stack.callback(workers[-1].kill)
        for number, worker in enumerate(workers):
            with suppress(BrokenPipeError), worker.stdin:  # whoever is dead is missed below
                worker.stdin.write(json.dumps(paths[number::count]).encode())
        for number, path in enumerate(paths):  # in turns, as they were dealt
            try:
                found = pickle.load(workers[number % count].stdout)
            except (EOFError, pickle.UnpicklingError):
                raise ChildProcessError(f"A process that decoded images died at {path}.") from None
            yield found


def start(size: int) -> subprocess.Popen[bytes]:
    """This file as a program, which waits for its paths."""
    return subprocess.Popen(
        [sys.executable, "-P", __file__, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=1 << 16,
        pipesize=AHEAD,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def main() -> None:
    """For each path of a JSON list, what `attempt` finds."""
    heed_bombs()
    for path in json.load(sys.stdin):
        pickle.dump(attempt(path, int(sys.argv[1])), sys.stdout.buffer)


if __name__ == "__main__":
    main()
