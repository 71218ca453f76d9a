"""The loop against its own limit: forward, backward and step on one resident batch."""

import resource
import statistics
import sys

import torch

from .data import Data
from .loop import cross_entropy, fit, now
from .models import begin, optimizer_for
from .recipe import Recipe

ROUNDS = 7


def resident(recipe: Recipe, net: torch.nn.Module, data: Data, steps: int) -> float:
    """Images a second of forward, backward and step alone, the same batch every time."""
    device, batch = data.train.y.device, recipe.global_batch
    x, q = data.batch(*next(data.draws(batch, torch.Generator().manual_seed(0))))
    optimizer, scaler = optimizer_for(recipe, net), recipe.precision.scaler(device)
    started = now(device)
    for _ in range(steps):
        with recipe.precision.autocast(device):
            loss = cross_entropy(net(x), q)
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
