"""The decoded images of a folder, kept for the next time in one file of the user's cache.

The file's name says what it was made from, so a file that is found is a file that fits.
"""

import hashlib
import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch

from ..machine import cache_folder

# Pixels depend on our code, by the first number, and on Pillow; their order depends on torch.
VERSION = 1, PIL.__version__, torch.__version__


def cache_file(
    folder: Path,
    files: list[str],  # paths below the folder
    size: int,  # pixels a side
) -> Path:
    """Where the images are kept: named by folder and size, and by the state of every file."""
    states = [list(VERSION)]
    for file in files:
        try:
            status = os.stat(os.path.join(folder, file))
            states.append([file, status.st_size, status.st_mtime_ns])
        except OSError:  # gone since it was found
            states.append([file])
    names = [
        hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        for key in ([str(folder.resolve()), size], states)
    ]
    return cache_folder() / f"folder-{'-'.join(names)}.npz"


def read_cache(path: Path) -> tuple[np.ndarray, dict[str, str]] | None:
    """The images and broken files that `write_cache` kept; None where there is no sound file."""
    try:
        with path.open("rb") as file, np.load(file) as stored:  # a zip, so it has checksums
            return stored["x"], json.loads(str(stored["broken"]))
    except Exception:  # damage raises nearly anything, and the images can be decoded again
        return None


def write_cache(
    path: Path,
    x: np.ndarray,  # (N, 3, S, S) uint8
    broken: dict[str, str],  # why, by the file
) -> None:
    """Keep the images, whole or not at all, and no older ones; where they cannot be kept, don't."""
    part = path.with_suffix(f".{os.getpid()}.part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(part, "w") as kept:
                for name, array in (("x", x), ("broken", np.array(json.dumps(broken)))):
                    with kept.open(f"{name}.npy", "w", force_zip64=True) as file:
                        header = np.lib.format.header_data_from_array_1_0(array)
                        np.lib.format.write_array_header_1_0(file, header)
                        file.write(array)  # straight from memory, where np.savez would copy
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        for old in path.parent.glob(f"{path.stem.rpartition('-')[0]}-*"):
            if old != path:
                old.unlink()
