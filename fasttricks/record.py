"""The record of a run: one JSON file that anything can read."""

import json
import math
import os
import platform
import subprocess
import tempfile
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .recipe import Recipe

SCHEMA = 1
PACKAGES = ("torchvision", "timm", "fasttricks")
ABSENT = "not installed"


@dataclass(frozen=True)
class Run:
    """One training run: what was asked, what came out, on what."""

    recipe: Recipe
    budget: str
    data: str
    labels: int  # images there were to train on
    model: str  # timm's name
    image_size: int
    seed: int
    images_seen: int
    steps: int
    processes: int
    device: str
    precision: str  # "fp32", "bf16" or "fp16"
    train_seconds: float  # the loop, evaluations paused; the slowest process counts
    eval_seconds: float
    wall_seconds: float  # from the process's start (in a notebook: from the call)
    images_per_second: float
    val_accuracy: float
    test_accuracy: float | None
    target: float
    curve: list[list[float]]  # [images_seen, train_seconds, val_accuracy]
    hardware: dict[str, Any]
    versions: dict[str, str]
    commit: str
    started: str  # UTC, ISO 8601
    schema: int = SCHEMA
    net: nn.Module | None = field(default=None, repr=False, compare=False)  # not in the record

    @property
    def reached(self) -> bool:
        """Whether the run ended at the target or above."""
        return self.val_accuracy >= self.target

    @property
    def seconds_to_target(self) -> float:
        """Train clock at the end, or infinity where the target was missed."""
        return self.train_seconds if self.reached else math.inf

    @property
    def wall_to_target(self) -> float:
        """Cold wall at the end, or infinity where the target was missed."""
        return self.wall_seconds if self.reached else math.inf

    def __str__(self) -> str:
        verdict = "at" if self.reached else "below"
        return (
            f"{self.images_seen:,} images in {self.train_seconds:.1f} s, validation accuracy "
            f"{self.val_accuracy:.4f}, {verdict} the target of {self.target:g}"
        )

    def with_net(self, net: nn.Module) -> "Run":
        """The same run with its trained model."""
        return replace(self, net=net)

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of the record."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "net"}
        return {**plain, "recipe": self.recipe.to_json(), "reached": self.reached}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Run":
        """The run of a record. Raises ValueError where fields or the schema differ."""
        if record.get("schema") != SCHEMA:
            raise ValueError(f"schema is {record.get('schema')!r}; this version reads {SCHEMA}.")
        known = {f.name for f in fields(cls)} - {"net"} | {"reached"}
        wrong = sorted(known ^ set(record))
        if wrong:
            raise ValueError(f"the record lacks or does not know: {', '.join(wrong)}.")
        rest = {name: value for name, value in record.items() if name != "reached"}
        return cls(**{**rest, "recipe": Recipe.from_json(record["recipe"])})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write the whole file or nothing."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as part:
        json.dump(value, part, indent=1, allow_nan=False)
        part.write("\n")
    os.chmod(part.name, 0o644)
    os.replace(part.name, path)


def check_writable(path: Path) -> Path:
    """The path, if a file can be written there. Raises OSError with what to do."""
    try:
        if path.is_dir():
            raise IsADirectoryError
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError:
        raise OSError(
            f"{path} cannot be written; name a file in a folder you may write to."
        ) from None
    return path


@cache
def versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    ours = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with its CUDA
    return {**ours, **{name: version_of(name) for name in PACKAGES}}


def version_of(package: str) -> str:
    """A package's installed version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


@cache
def hardware() -> dict[str, Any]:
    """The machine, as far as it shapes the clocks."""
    cuda = torch.cuda.is_available()
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpu_count": torch.cuda.device_count(),
        "power_limit": ask("nvidia-smi", "--query-gpu=power.limit", "--format=csv,noheader")
        if cuda
        else None,
        "driver": ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        if cuda
        else None,
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32 if cuda else None,
    }


def machine(hardware: dict[str, Any]) -> str:
    """The device that trains, in a few words."""
    if hardware["gpu"]:
        return f"{hardware['gpu_count']} x {hardware['gpu']}"
    return f"{hardware['cpu']}, {hardware['cores']} cores"


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The repository's commit, or an empty string outside one."""
    return ask("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD")


def ask(*command: str) -> str:
    """The first line a command prints, or an empty string where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().split("\n")[0]
