"""Started by torchrun in several processes, from test_processes.py; rank 0 writes what it saw.

usage: in_processes.py OUT.pt [subsets]
"""

import copy
import sys
import warnings
from itertools import combinations

import numpy as np
import torch

from fasttricks import (
    BASELINE,
    SEVEN,
    Distributed,
    LabelSmoothing,
    LRScaling,
    Mixup,
    OneCycle,
    Recipe,
    Transfer,
    load,
    loop,
)
from fasttricks.data import Data
from fasttricks.models import begin, create
from fasttricks.recipe import name_of

PLAIN = Recipe(lr=0.05, batch=32, optimizer="sgd")
# All tricks but mixup, which blends within a shard, and 16-bit arithmetic.
ALIKE = PLAIN + LRScaling(batch=32, reference=16) + OneCycle(peak=2.0) + LabelSmoothing()
ALIKE += Transfer(body_lr=0.5, freeze=0.2)
SCHEDULED = PLAIN + LRScaling(batch=32, reference=16) + OneCycle(peak=2.0) + Mixup()


def few_images() -> Data:
    """A data set small enough for a test; the count to validate on divides by nothing."""
    data = load()
    return Data(data.name, data.classes, data.train[:640], data.val[:101], data.test[:101])


def norms_without_batch_statistics() -> torch.nn.Module:
    """The shared model with group norms: each image for itself, so shards cannot differ."""
    torch.manual_seed(0)
    return create("test_resnet", 1, 10, norm_layer="groupnorm1")


def observe(world: loop.World) -> dict:
    """Parameters after a few plain SGD steps, and the rates of a scheduled run."""
    data, net, rates = few_images(), norms_without_batch_statistics(), []
    accuracy = loop.fit(PLAIN, net, data, 8 * 32, 0, 1, world).curve[-1][2]
    tricked = norms_without_batch_statistics()
    loop.fit(ALIKE, tricked, data, 8 * 32, 0, 1, world)
    real = loop.set_rates

    def spy(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
        rates.append((lr, momentum))
        real(optimizer, lr, momentum)

    loop.set_rates = spy
    loop.fit(SCHEDULED, norms_without_batch_statistics(), data, 12 * 32, 0, 1, world)
    loop.set_rates = real
    nets = {"net": net.state_dict(), "tricked": tricked.state_dict()}
    return {**nets, "accuracy": accuracy, "rates": rates}


def statistics(world: loop.World) -> dict:
    """Batch-norm statistics in training, and after they are averaged."""
    data = few_images()
    torch.manual_seed(0)
    net = create("test_resnet", 1, 10).train()
    alone, wrapped = copy.deepcopy(net), world.wrap(net)
    for first in (0, 32, 64):
        x = data.normalise(world.shard(data.train.x[first : first + 32]))
        wrapped(x).sum().backward()
        alone(x)
    own, expected = (dict(model.named_buffers()) for model in (net, alone))
    same = all(torch.equal(own[name], expected[name]) for name in own)
    for buffer in filter(torch.is_floating_point, net.buffers()):
        buffer.fill_(world.rank + 1.0)
    world.average_buffers(net)
    after = {b.mean().item() for b in net.buffers() if b.is_floating_point()}
    return {"own": world.everyones(same), "averaged": world.everyones(after)}


def travelled(world: loop.World) -> dict:
    """By precision, whether the averaged gradients are numbers of 16 bits."""
    data, found = few_images(), {}
    x = data.normalise(world.shard(data.train.x[:32]))
    for precision in ("fp32", "bf16", "fp16"):
        net = norms_without_batch_statistics()
        wrapped = world.wrap(net, precision)
        wrapped(x).square().mean().backward()
        short = (torch.equal(p.grad, p.grad.bfloat16().float()) for p in net.parameters())
        found[precision] = all(short)
    return found


def chances(world: loop.World) -> list:
    """The shares that each process's mixup drew in its first steps."""
    drawn, real = [], Mixup.batch_map

    def spy(self: Mixup, x: torch.Tensor, q: torch.Tensor, rng: np.random.Generator) -> tuple:
        drawn.append(copy.deepcopy(rng).beta(self.alpha, self.alpha))
        return real(self, x, q, rng)

    Mixup.batch_map = spy
    loop.fit(PLAIN + Mixup(), norms_without_batch_statistics(), few_images(), 64, 0, 1, world)
    Mixup.batch_map = real
    return world.everyones(drawn)


def train_subsets(world: loop.World) -> int:
    """Two steps of every subset of the seven tricks in this world; how many there were."""
    data, seen = few_images(), set()
    others = [trick for trick in SEVEN if name_of(trick) != "distributed"]
    for size in range(len(others) + 1):
        for chosen in combinations(others, size):
            recipe = sum(chosen, start=BASELINE + Distributed(share_devices=True))
            torch.manual_seed(0)
            net = begin(recipe, "test_resnet", 1, 10, 28)
            done = loop.fit(recipe, net, data, 2 * recipe.global_batch, 0, 1, world)
            assert done.steps == 2
            assert all(tensor.isfinite().all() for tensor in net.state_dict().values())
            seen.add(recipe)
    return len(seen)


if __name__ == "__main__":
    with Distributed(share_devices=True).join() as here:
        warnings.simplefilter("error")
        seen = observe(here) | statistics(here) | {"chances": chances(here)}
        seen["travelled"] = travelled(here)
        if "subsets" in sys.argv:
            seen["subsets"] = train_subsets(here)
    for _ in range(4):  # a program may train more than once
        with Distributed(share_devices=True).join() as here:
            assert here.reduce(torch.ones(())) == here.processes
    if here.rank == 0:
        torch.save(seen, sys.argv[1])
