"""The machine under a run: what it is, how its device is set, how much memory it took."""

import platform
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from .tricks.distributed import cores

PACKAGES = ("torchvision", "timm", "fasttricks")
ABSENT = "not installed"
HERE = Path(__file__).parent


@contextmanager
def settings(device: torch.device) -> Iterator[None]:
    """One policy for every run on a GPU, and its record says so.

    cuDNN tries its algorithms and keeps the fastest, in an untimed step before the clock starts
    (`loop.warm_up`). TF32 stays as PyTorch has it: allowed in convolutions, not in products of
    matrices. What was set before is set again afterwards.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def peak_memory(device: torch.device) -> float:
    """GB: the most that tensors took on a GPU in this run, or this process of a CPU's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    import resource  # which Windows lacks

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e9 if sys.platform == "darwin" else 1e6)


@cache
def versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with its CUDA
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ABSENT
    return found


@cache
def hardware() -> dict[str, Any]:
    """The machine, as far as it shapes the clocks."""
    cuda = torch.cuda.is_available()
    limit, driver = (
        ask("nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader") if cuda else None
        for name in ("power.limit", "driver_version")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.9 prefers another way to ask
        matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpu_count": torch.cuda.device_count(),
        "power_limit": limit,
        "driver": driver,
        "matmul": matmul,
        "cudnn_tf32": cudnn if cuda else None,
        "cudnn_benchmark": True if cuda else None,  # see `settings`
        "warm_up_steps": int(cuda),  # untimed, see `loop.warm_up`
    }


def name_of_machine(hardware: dict[str, Any]) -> str:
    """The device that trains, in a few words."""
    if hardware["gpu"]:
        return f"{hardware['gpu_count']} x {hardware['gpu']}"
    return f"{hardware['cpu']}, {hardware['cores']} cores"


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The repository's commit, or an empty string outside one."""
    return ask("git", "-C", str(HERE), "rev-parse", "HEAD")


@cache
def code() -> int:
    """A checksum of the library's files: whether a run would be made in the same way again."""
    others = {*HERE.glob("study/**/*.py"), *HERE.glob("course/**/*.py")}
    files = sorted({*HERE.rglob("*.py")} - others)
    return zlib.crc32(b"".join(path.read_bytes() for path in files))


def ask(*command: str) -> str:
    """The first line a command prints, or an empty string where it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip().split("\n")[0]
