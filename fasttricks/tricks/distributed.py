"""Share each batch among several devices, one process each, and average their gradients.

| card       |                                                                                    |
|------------|------------------------------------------------------------------------------------|
| formula    | mean over N processes of grad(loss of B/N images) = grad(mean loss of B images),   |
|            | without batch norm                                                                 |
| slot       | world (single)                                                                     |
| cost       | one gradient all-reduce per step: each sends 2 (N - 1) / N times their bytes       |
| pays when  | the devices are additional, and computing takes much longer than communicating     |
| fails when | the net or the shard is small, or the processes share one device                   |
| meets      | scaling (B grows with N), batch norm (each process sees B/N images only)           |
| paper      | Li et al. 2020, arXiv 2006.15704 (PyTorch's DistributedDataParallel)               |
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

# Each process keeps its own batch-norm statistics; torch has renamed the option that says so.
NEWER = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
OWN_STATISTICS = {"forward_sync_buffers" if NEWER else "broadcast_buffers": False}
# Seconds after which a process that waits for the others gives up.
TIMEOUT = timedelta(seconds=float(os.environ.get("FASTTRICKS_TIMEOUT", 600)))
ONE_MESSAGE = 1 << 14  # MB of gradients that travel together: all
MEETINGS = itertools.count()  # of this process with the others, so far


def cores() -> int:
    """How many cores this process may use: by its affinity, and its container's quota."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(seen or 1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return seen or 1


def shard(
    values: Tensor,  # (B, ...) the same on every process
    rank: int,  # this process's number, 0 to processes - 1
    processes: int,
) -> Tensor:
    """Every `processes`-th row from `rank` on: disjoint, complete, sizes differ by 1 at most."""
    return values[rank::processes]


@cache
def meeting_place() -> tuple[dist.Store, int, int]:
    """The store where torchrun's processes leave their addresses; own rank; how many they are."""
    return next(dist.rendezvous("env://", timeout=TIMEOUT))


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them; a world of one is the default."""

    rank: int = 0
    processes: int = 1
    accumulate: int = 1  # shards that each process takes one after another

    def shard(self, values: Tensor, turn: int = 0) -> Tensor:
        """This process's rows of a tensor that is the same everywhere, in one of its turns."""
        number = self.rank + turn * self.processes
        return shard(values, number, self.processes * self.accumulate)

    def shards(
        self, model: nn.Module, *values: Tensor
    ) -> Iterator[tuple[list[Tensor], AbstractContextManager]]:
        """This process's shards, and for each the context of its forward pass.

        Gradients add up, and only those of the last one are averaged over all processes.
        """
        for turn in range(self.accumulate):
            waits = self.processes > 1 and turn < self.accumulate - 1
            yield (
                [self.shard(value, turn) for value in values],
                model.no_sync() if waits else nullcontext(),
            )

    def wrap(self, model: nn.Module, precision: str = "fp32") -> nn.Module:
        """The model whose backward pass averages gradients over all processes.

        Where the recipe computes in bf16, gradients travel and add up in bf16 too.
        """
        if self.processes == 1:
            return model
        # Processes that share a machine's cores have none free to send what is ready early.
        sharing = next(model.parameters()).device.type == "cpu" and self.processes == int(
            os.environ.get("LOCAL_WORLD_SIZE", 0)
        )
        options = {**OWN_STATISTICS, "bucket_cap_mb": ONE_MESSAGE if sharing else None}
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True, **options)
        if precision == "bf16":
            wrapped.register_comm_hook(None, bf16_compress_hook)
        return wrapped

    def reduce(self, value: Tensor) -> Tensor:
        """The sum of one tensor over all processes, in place."""
        if self.processes > 1:
            dist.all_reduce(value)
        return value

    def everyones(self, value: Any) -> list[Any]:
        """Every process's value, in all of them; its tensors must lie in the host's memory."""
        found = [value] * self.processes
        if self.processes > 1:
            dist.all_gather_object(found, value)
        return found

    def average_buffers(self, model: nn.Module) -> None:
        """Give every process the mean of the batch-norm statistics that each one gathered."""
        if self.processes > 1:
            for buffer in filter(Tensor.is_floating_point, model.buffers()):
                self.reduce(buffer).div_(self.processes)


ALONE = World()


@dataclass(frozen=True)
class Distributed:
    """Data-parallel training in `processes` processes; 0 means one a GPU, or two on a CPU."""

    processes: int = 0
    share_devices: bool = False  # allow more processes than devices: correct, but not faster
    accumulate: int = 1  # shards that each takes one after another: a cluster's batch on one device

    chapter: ClassVar[int] = 1
    slots: ClassVar[tuple[str, ...]] = ("world",)

    def __post_init__(self) -> None:
        if not (self.processes >= 0 and self.accumulate >= 1):
            raise ValueError(f"Distributed needs counts of 1 or more, not {self!r:.250}.")

    def count(self) -> int:
        """How many processes this machine is to start, or the number that torchrun started."""
        cuda = torch.cuda.is_available()
        devices = torch.cuda.device_count() if cuda else cores()
        wanted = self.processes or (devices if cuda else min(2, devices))
        if "LOCAL_WORLD_SIZE" in os.environ:
            started = int(os.environ["WORLD_SIZE"])
            if self.processes and started != self.processes:
                raise ValueError(
                    f"torchrun started {started} processes, but the recipe says {self.processes}; "
                    f"make the two agree, or leave processes at 0."
                )
            return started
        if wanted > devices and not self.share_devices:
            raise ValueError(
                f"{wanted} processes need {wanted} {'GPUs' if cuda else 'cores'}, and {devices} "
                f"can be seen; ask for fewer, or say that they may share (--share-devices)."
            )
        return wanted

    def note(self) -> str:
        """One sentence where there is nobody to share with, else an empty string."""
        alone = self.processes == 0 and self.count() == 1
        return "One device: the trick distributed has nobody to share with." if alone else ""

    def device(self) -> torch.device:
        """The device of this process: its own GPU, or the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", 0))
        return torch.device("cuda", local % torch.cuda.device_count())

    @contextmanager
    def join(self) -> Iterator[World]:
        """Meet the other processes that torchrun started; alone there is nobody to meet."""
        if self.count() == 1 or "LOCAL_WORLD_SIZE" not in os.environ:
            yield World(accumulate=self.accumulate)
            return
        device = self.device()
        own_gpu = device.type == "cuda" and (
            int(os.environ["LOCAL_WORLD_SIZE"]) <= torch.cuda.device_count()
        )
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, rank, processes = meeting_place()
        dist.init_process_group(
            "nccl" if own_gpu else "gloo",  # NCCL refuses to share a GPU
            store=dist.PrefixStore(f"meeting {next(MEETINGS)}", store),  # no old addresses
            rank=rank,
            world_size=processes,
            timeout=TIMEOUT,
            device_id=device if own_gpu else None,
        )
        try:
            yield World(dist.get_rank(), dist.get_world_size(), self.accumulate)
            dist.barrier()
        finally:
            dist.destroy_process_group()
