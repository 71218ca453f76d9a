"""Files that are whole or not there, shipped files that are what they were, tensors as bytes."""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor


def cache_folder() -> Path:
    """Where weights and decoded images are kept; FASTTRICKS_CACHE names another place."""
    return Path(os.environ.get("FASTTRICKS_CACHE") or platformdirs.user_cache_path("fasttricks"))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name; what is written there takes the place of `path` at the end, or nothing."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # the power may fail after the renaming
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write plain values, the whole file or nothing."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def check_writable(path: Path) -> None:
    """Raise OSError, with what to do, unless a file can be written there."""
    try:
        if path.is_dir():
            raise IsADirectoryError
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError:
        raise OSError(
            f"{path} cannot be written; name a file in a folder you may write to."
        ) from None


def checked(
    path: Path,  # of a shipped file
    root: Path,  # the folder whose SHA256SUMS names it
) -> bytes:
    """The bytes of a shipped file, held against its checksum. Raises with what to do."""
    try:
        lines = (root / "SHA256SUMS").read_text(encoding="ascii").splitlines()
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error.filename} is missing; restore it with `git checkout {root.name}`, or set "
            f"FASTTRICKS_DATA to a folder like the repository's data/."
        ) from None
    wanted = dict(line.split()[::-1] for line in lines).get(path.relative_to(root).as_posix())
    if hashlib.sha256(content).hexdigest() != wanted:
        raise ValueError(
            f"{path} is damaged (wrong checksum); restore it with `git checkout {root.name}`."
        )
    return content


def encoded(state: dict[str, Any]) -> bytes:
    """Tensors and plain values as bytes."""
    file = io.BytesIO()
    torch.save(on_host(state), file)
    return file.getvalue()


def on_host(value: Any) -> Any:
    """The same nest, its tensors in the host's memory."""
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    return value.cpu() if isinstance(value, Tensor) else value


def decoded(content: bytes) -> dict[str, Any]:
    """The way back; nothing in it can run code."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
