"""The loop against its own limit and the chip's, where its time goes, and how processes scale."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import profile, record_function

from ..budget import BASELINE, choose_budget
from ..data import Data
from ..files import write_json
from ..launch import call, environment
from ..loop import cross_entropy, fit, now
from ..models import begin, optimizer_for
from ..recipe import Recipe
from ..sources import load
from ..tricks.distributed import ALONE, Distributed, World
from ..tricks.precision import DTYPES

ROUNDS = 7


def stepper(
    recipe: Recipe, net: torch.nn.Module, device: torch.device, world: World = ALONE
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """One training step with a batch that is ready: forward, backward, and the optimiser's step."""
    optimizer, scaler = optimizer_for(recipe, net), recipe.precision.scaler(device)
    wrapped = world.wrap(net, recipe.precision.choose(device))

    def step(x: torch.Tensor, q: torch.Tensor) -> None:
        with recipe.precision.autocast(device):
            loss = cross_entropy(wrapped(x), q)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def timed(
    step: Callable[[torch.Tensor, torch.Tensor], None],
    x: torch.Tensor,  # (N, C, H, W) images, the same in every step
    q: torch.Tensor,  # (N, K) their target probabilities
    steps: int,  # that count
    before: int = 2,  # that do not: the optimiser and DDP set up in their first two
) -> float:
    """Mean seconds of a step."""
    for number in range(-before, steps):
        if number == 0:
            started = now(x.device)
        step(x, q)
    return (now(x.device) - started) / steps


def resident(recipe: Recipe, net: torch.nn.Module, data: Data, steps: int) -> float:
    """Images a second of forward, backward and step alone, the same batch every time."""
    device, batch = data.train.y.device, recipe.global_batch
    x, q = data.batch(*next(data.draws(batch, torch.Generator().manual_seed(0))))
    return batch / timed(stepper(recipe, net, device), x, q, steps)


@dataclass(frozen=True)
class Limits:
    """How fast a recipe's loop is, beside what bounds it; medians over turns."""

    loop: float  # images a second of the whole loop
    resident: float  # images a second of forward, backward and step alone
    share: float  # of the second that the loop reaches, turn by turn
    image: float  # floating-point operations of forward and backward, an image
    peak: float  # operations a second of a product of matrices, in the recipe's precision

    @property
    def utilisation(self) -> float:
        """The share of the peak that the loop's useful operations make up (model-FLOPs)."""
        return self.loop * self.image / self.peak


def limits(
    recipe: Recipe,
    data: Data,
    model: str,
    image_size: int,
    images: int = 12_800,  # a turn
    rounds: int = ROUNDS,  # turns
) -> Limits:
    """Measure the loop and its limits in turns; one more turn than `rounds` warms up."""
    device = recipe.world.device()
    data, steps = data.to(device, image_size), max(1, images // recipe.global_batch)
    net = begin(recipe, model, data.channels, len(data.classes), image_size).to(device)
    operations = flops(recipe, net, data)
    turns = []
    for seed in range(rounds + 1):
        done = fit(recipe, net, data, images, seed, evaluations=1)
        peak = matmul_peak(device, DTYPES[recipe.precision.choose(device)])
        loop = done.images_seen / done.train_seconds
        turns.append((loop, resident(recipe, net, data, steps), peak))
    loops, residents, peaks = zip(*turns[1:], strict=True)
    return Limits(
        loop=statistics.median(loops),
        resident=statistics.median(residents),
        share=statistics.median(a / b for a, b, _ in turns[1:]),
        image=operations,
        peak=statistics.median(peaks),
    )


def flops(recipe: Recipe, net: torch.nn.Module, data: Data) -> float:
    """Floating-point operations of forward and backward, an image; a multiply-add is two."""
    from torch.utils.flop_counter import FlopCounterMode  # not on the cold wall of a run

    batch = recipe.global_batch
    x, q = data.batch(*next(data.draws(batch, torch.Generator().manual_seed(0))))
    with FlopCounterMode(display=False) as counter:
        cross_entropy(net(x), q).backward()
    net.zero_grad()
    return counter.get_total_flops() / batch


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The device's floating-point operations a second in a product of square matrices."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    seconds = []
    for _ in range(3):
        started = now(device)
        a @ b
        seconds.append(now(device) - started)
    return 2 * side**3 / min(seconds)  # a peak: the first ones warm up


class Marked:
    """Data whose batches the profiler sees as one stage."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getattr__(self, name: str) -> object:
        return getattr(self.data, name)

    def batch(self, rows: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Data.batch`."""
        with record_function("batch"):
            return self.data.batch(rows, noise)


def stages(
    recipe: Recipe, data: Data, model: str, image_size: int, images: int = 5_120
) -> dict[str, float]:
    """The share of a training run's time that each stage takes, by torch's profiler.

    On a GPU, the time its kernels take; what remains of the run is the last stage.
    """
    device = recipe.world.device()
    data = data.to(device, image_size)
    net = begin(recipe, model, data.channels, len(data.classes), image_size).to(device)
    fit(recipe, net, data, images, seed=0, evaluations=1)  # warms up
    spans = []

    def enter(*_: object) -> None:
        spans.append(record_function("forward").__enter__())

    def leave(*_: object) -> None:
        spans.pop().__exit__(None, None, None)

    few = Marked(replace(data, val=data.val[:1]))
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler reports itself on stderr
    with profile(acc_events=True) as seen:
        hooks = net.register_forward_pre_hook(enter), net.register_forward_hook(leave)
        done = fit(recipe, net, few, images, seed=0, evaluations=1)
    for hook in hooks:
        hook.remove()
    clock = "device_time_total" if device.type == "cuda" else "cpu_time_total"
    return stage_shares(seen.events(), clock, done.train_seconds)


STAGES = {"batch": "batch", "forward": "forward", "autograd": "backward", "Optimizer": "step"}


def stage_shares(
    events: Iterable[Any],  # of torch's profiler
    clock: str,  # the field of an event that tells its microseconds
    seconds: float,  # the run took
) -> dict[str, float]:
    """The share of the run that each stage takes, and the rest."""
    found = dict.fromkeys(STAGES.values(), 0.0)
    for event in events:
        stage = STAGES.get(event.name.split("::")[0].split(".")[0])
        # A GPU's own event of a stage has the time that the host's event carries already.
        if stage and event.cpu_parent is None and event.device_type == DeviceType.CPU:
            found[stage] += getattr(event, clock) / 1e6 / seconds
    return {**found, "the rest": 1 - sum(found.values())}


@dataclass(frozen=True)
class Probe:
    """What is to be measured in several processes, in plain values."""

    processes: int
    budget: str
    batches: Sequence[int]  # images of a step in each process
    sizes: Sequence[int]  # bytes of an all-reduce
    rounds: int  # that count


@dataclass(frozen=True)
class Speeds:
    """Seconds of a plain step, by images in each process; of an all-reduce, by bytes; per round."""

    alone: dict[int, list[float]]  # the first process computes, the others wait
    together: dict[int, list[float]]  # all compute, each its own images, and average gradients
    all_reduce: dict[int, list[float]]


def measure(
    processes: int,
    batches: Sequence[int],  # images of a step in each process
    sizes: Sequence[int] = (),  # bytes of an all-reduce
    shares: int = 1,  # the cores make so many equal shares, and a process has one
    rounds: int = 3,
) -> Speeds:
    """Measure in new processes; all is measured once in each round, so a slow moment spoils one."""
    probe = Probe(processes, choose_budget().name, batches, sizes, rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "probe.json", asdict(probe))
        environ = environment(max(processes, shares), time.time())
        found = call(processes, "fasttricks.study.probe", folder, environ, list)
    return Speeds(**{part: {int(k): v for k, v in some.items()} for part, some in found.items()})


def measure_here(probe: Probe) -> Speeds:
    """Measure in this process, together with those that torchrun started beside it."""
    size, world = choose_budget(probe.budget), Distributed(probe.processes, share_devices=True)
    with world.join() as here:
        device, images = world.device(), size.images // 50
        data = load().to(device, size.image_size)
        shape = (data.channels, len(data.classes), size.image_size)
        nets = [begin(BASELINE, size.model, *shape).to(device) for _ in range(2)]
        own, joint = stepper(BASELINE, nets[0], device), stepper(BASELINE, nets[1], device, here)
        draws = {b: data.draws(b, torch.Generator().manual_seed(here.rank)) for b in probe.batches}
        held = {batch: data.batch(*next(drawn)) for batch, drawn in draws.items()}

        def all_ready() -> None:
            here.reduce(torch.zeros(1, device=device))
            now(device)

        def seconds(batch: int, step: Callable | None) -> float:
            all_ready()
            steps = max(2, min(images // batch, images // 42))
            return timed(step, *held[batch], steps, before=1) if step else 0.0

        def all_reduce(size: int) -> float:
            numbers = torch.zeros(size // 4, device=device)
            all_ready()
            started = now(device)
            for _ in range(4):
                here.reduce(numbers)
            return (now(device) - started) / 4

        alone, together = ({batch: [] for batch in probe.batches} for _ in range(2))
        reduced = {size: [] for size in probe.sizes}
        for _ in range(probe.rounds + 1):
            for batch in probe.batches:
                alone[batch].append(seconds(batch, own if here.rank == 0 else None))
                together[batch].append(seconds(batch, joint))
            for size in probe.sizes:
                reduced[size].append(all_reduce(size))

        def slowest(found: dict[int, list[float]]) -> dict[int, list[float]]:
            """Of all processes, in each round but the first, which warms up."""
            rows = {key: zip(*here.everyones(row[1:]), strict=True) for key, row in found.items()}
            return {key: list(map(max, row)) for key, row in rows.items()}

        return Speeds(slowest(alone), slowest(together), slowest(reduced))
