"""The loop against its own limit, and how a step and an all-reduce scale with processes."""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from . import record
from .budget import BASELINE, choose_budget
from .data import Data, load
from .launch import call, environment
from .loop import cross_entropy, fit, now
from .models import begin, optimizer_for
from .recipe import Recipe
from .tricks.distributed import ALONE, Distributed, World

ROUNDS = 7


def resident(
    recipe: Recipe,
    net: torch.nn.Module,
    data: Data,
    steps: int,
    world: World = ALONE,
) -> float:
    """Images a second of forward, backward and step alone, the same batch every time."""
    device, batch = data.train.y.device, recipe.global_batch
    drawn = next(data.draws(batch, torch.Generator().manual_seed(0)))
    x, q = data.batch(*(world.shard(values) for values in drawn))
    optimizer, scaler = optimizer_for(recipe, net), recipe.precision.scaler(device)
    wrapped = world.wrap(net)
    started = now(device)
    for _ in range(steps):
        with recipe.precision.autocast(device):
            loss = cross_entropy(wrapped(x), q)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return steps * batch / (now(device) - started)


def compare(
    recipe: Recipe,
    data: Data,
    model: str,
    image_size: int,
    images: int = 12_800,  # a round
) -> tuple[float, float, float]:
    """Median images a second of the loop and of the resident batch, and their median ratio.

    The two take turns; a ratio is of one turn. The first turn warms up and does not count.
    """
    device = recipe.world.device()
    data, steps = data.to(device, image_size), images // recipe.global_batch
    net = begin(recipe, model, data.channels, len(data.classes)).to(device)
    rounds = []
    for seed in range(ROUNDS + 1):
        done = fit(recipe, net, data, images, seed, evaluations=1)
        rounds.append((done.images / done.train_seconds, resident(recipe, net, data, steps)))
    loops, limits = zip(*rounds[1:], strict=True)
    ratio = statistics.median(a / b for a, b in rounds[1:])
    return statistics.median(loops), statistics.median(limits), ratio


def peak_memory() -> float:
    """The most memory that this process has held, in GB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e9 if sys.platform == "darwin" else 1e6)


@dataclass(frozen=True)
class Probe:
    """What is to be measured in several processes, in plain values."""

    processes: int
    budget: str
    batches: Sequence[int]  # images of a step in each process
    sizes: Sequence[int]  # bytes of an all-reduce
    images: int  # that each process sees in one round of one batch


def measure(
    processes: int,
    batches: Sequence[int],  # images of a step in each process
    sizes: Sequence[int] = (),  # bytes of an all-reduce
    shares: int = 1,  # the cores make so many shares, and a process has one
) -> tuple[dict[int, float], dict[int, float]]:
    """Median seconds of a plain step by images, and of an all-reduce by bytes, in new processes."""
    size = choose_budget()
    probe = Probe(processes, size.name, batches, sizes, max(64, size.images // 50))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record.write_json(folder / "probe.json", asdict(probe))
        environ = environment(max(processes, shares), time.time())
        found = call(processes, ["probe", name], folder / "found.json", environ, list)
    return tuple({int(key): value for key, value in found[part].items()} for part in found)


def take(probe: Probe) -> dict[str, dict[int, float]]:
    """Measure in this process, together with those that torchrun started beside it."""
    size, world = choose_budget(probe.budget), Distributed(probe.processes, share_devices=True)
    with world.join() as here:
        data = load().to(world.device(), size.image_size)
        net = begin(BASELINE, size.model, data.channels, len(data.classes)).to(world.device())

        def step(batch: int) -> float:
            plain, steps = replace(BASELINE, batch=batch * here.processes), probe.images // batch
            return plain.batch / resident(plain, net, data, max(2, steps), here)

        def all_reduce(size: int) -> float:
            numbers = torch.zeros(size // 4, device=world.device())
            here.reduce(numbers)  # everyone is ready
            started = now(numbers.device)
            here.reduce(numbers)
            return now(numbers.device) - started

        slowest = torch.tensor(
            [middle(step, batch, 3) for batch in probe.batches]
            + [middle(all_reduce, size, 25) for size in probe.sizes],
            dtype=torch.float64,
            device=world.device(),
        )
        found = here.reduce(slowest, dist.ReduceOp.MAX).tolist()
    return {
        "steps": dict(zip(probe.batches, found, strict=False)),
        "all_reduces": dict(zip(probe.sizes, found[len(probe.batches) :], strict=True)),
    }


def middle(seconds: Callable[[int], float], size: int, rounds: int) -> float:
    """The median of some rounds; one more, the first, warms up and does not count."""
    return statistics.median([seconds(size) for _ in range(rounds + 1)][1:])
