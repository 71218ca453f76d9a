"""Runs of other libraries: each is a program of its own, which prints its record."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import arguments

SCHEMA = 2


@dataclass(frozen=True)
class PeerRun:
    """The record of a peer's run."""

    peer: str
    lr: float
    batch: int
    images_seen: int
    seed: int
    train_seconds: float
    wall_seconds: float  # from the process's start to the answer
    val_accuracy: float
    hardware: dict[str, Any]
    versions: dict[str, str]
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "PeerRun":
        """The run of a record. Raises ValueError where a field is wrong."""
        run = cls(**arguments(cls, record, "record"))
        if run.schema != SCHEMA:
            raise ValueError(f"record has schema {run.schema}; this version reads {SCHEMA}.")
        if not (min(run.train_seconds, run.wall_seconds) > 0 and 0 <= run.val_accuracy <= 1):
            raise ValueError("the record has seconds or an accuracy that no run can have.")
        return run

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of the record."""
        return vars(self)


def run_peer(
    file: Path,  # the program
    settings: dict[str, Any],  # lr, batch and workers
    images: int,
    seed: int,
    budget: str,
) -> PeerRun:
    """Make one run in a fresh process. Raises RuntimeError with its last words if it fails."""
    words = {**settings, "images": images, "seed": seed, "budget": budget, "started": time.time()}
    done = subprocess.run(
        [sys.executable, str(file), *(f"--{name}={value}" for name, value in words.items())],
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(f"{file.stem} failed. Its last words:\n{done.stderr[-2000:]}")
    return PeerRun(peer=file.stem, **json.loads(done.stdout))
