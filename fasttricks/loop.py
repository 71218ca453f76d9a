"""The training loop: the only one in this package, and nothing in it asks about any trick."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import UNKEPT, Keeper
from .data import Data, Split
from .models import optimizer_for
from .recipe import Recipe
from .tricks.distributed import ALONE, World, shard

PATIENCE = 50  # refused steps in a row after which training is given up


def now(device: torch.device) -> float:
    """Seconds on a steady clock, read when the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def cross_entropy(
    logits: Tensor,  # (N, K)
    q: Tensor,  # (N, K) target probabilities
) -> Tensor:
    """Mean cross-entropy in fp32, also where the logits are 16-bit numbers."""
    return F.cross_entropy(logits.float(), q)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Give every parameter group its share of the rate, and the momentum (AdamW: beta1)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def accuracy(
    model: nn.Module,
    data: Data,
    split: Split,
    recipe: Recipe,
    world: World = ALONE,
    batch: int = 1000,
) -> float:
    """The share of a split's images put in the right class; each is counted by one process."""
    device = split.y.device
    model.eval()
    hits = torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode(), recipe.precision.autocast(device):
        mine = shard(torch.arange(len(split), device=device), world.rank, world.processes)
        for rows in mine.split(batch):
            hits += (model(data.normalise(split.x[rows])).argmax(1) == split.y[rows]).sum()
    model.train()
    return world.reduce(hits).item() / len(split)


@dataclass
class Progress:
    """What a loop has done so far, and what its evaluations found, named as in the record."""

    steps: int = 0  # optimiser steps taken
    skipped_steps: int = 0  # that the loss scaler refused; they count nowhere else
    images_seen: int = 0
    train_seconds: float = 0.0  # evaluations paused
    eval_seconds: float = 0.0
    curve: list[list[float]] = field(default_factory=list)  # images_seen, train_seconds, accuracy
    resumed: int = 0  # times that it went on from a checkpoint


def fit(
    recipe: Recipe,
    model: nn.Module,
    data: Data,  # on the model's device
    images: int,
    seed: int,
    evaluations: int = 4,  # at equal distances, the last at the end
    world: World = ALONE,
    show: Callable[[int, float | None], None] = lambda images, accuracy: None,
    keeper: Keeper = UNKEPT,  # of checkpoints
) -> Progress:
    """Train the model in place for images // batch optimiser steps.

    Raises FloatingPointError where numbers overflow, and as the keeper does.
    """
    device, batch = data.train.y.device, recipe.global_batch
    steps = max(1, images // batch)
    marks = {round(steps * (i + 1) / evaluations) for i in range(evaluations)}
    rng = np.random.default_rng((seed, world.rank))  # its own on every process
    optimizer, scaler = optimizer_for(recipe, model), recipe.precision.scaler(device)
    wrapped = world.wrap(model.train(), recipe.precision.choose(device))
    progress, refused = Progress(), 0
    keeper.begin(progress, rng, model=model, optimizer=optimizer, scaler=scaler)
    draws = data.draws(batch, torch.Generator().manual_seed(seed))  # the same on every process
    draws = islice(draws, progress.steps + progress.skipped_steps, None)
    broken = torch.full((), steps, device=device)  # steps before the first loss that is not finite
    scale, started = scaler.get_scale(), now(device)

    while progress.steps < steps:
        at = progress.steps, steps
        set_rates(optimizer, recipe.lr_at(*at), recipe.momentum_at(*at))
        for drawn, averaging in world.shards(wrapped, *next(draws)):
            x, q = data.batch(*drawn)
            for trick in recipe.fills("batch_maps"):
                x, q = trick.batch_map(x, q, rng)
            with averaging, recipe.precision.autocast(device):
                loss = cross_entropy(wrapped(x), q)
            # Processes average their gradients: the weights make that the mean over the batch.
            scaler.scale(loss * (len(x) * world.processes / batch)).backward()
        before, scale = scale, take_step(optimizer, scaler, recipe.clip)
        refused = refused + 1 if scale < before else 0
        if refused:
            progress.skipped_steps += 1
            give_up(refused, loss)
            continue
        broken = torch.where(loss.detach().isfinite(), broken, broken.clamp(max=progress.steps))
        progress.steps += 1
        progress.images_seen += batch
        if progress.steps in marks | {keeper.due}:
            refuse_broken(int(broken), steps, model)
        if progress.steps in marks:
            paused = now(device)
            progress.train_seconds += paused - started
            world.average_buffers(model)
            found = accuracy(model, data, data.val, recipe, world)
            progress.curve.append([progress.images_seen, progress.train_seconds, found])
            started = now(device)
            progress.eval_seconds += started - paused
        if progress.steps == keeper.due:
            keeper.after_step(progress.train_seconds + now(device) - started)
        show(progress.images_seen, progress.curve[-1][2] if progress.curve else None)
    return progress


def take_step(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    clip: float | None,  # largest gradient norm
) -> float:
    """Update the weights; the loss scale then, which is lower where the step was refused."""
    if clip:
        scaler.unscale_(optimizer)
        groups = optimizer.param_groups
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return scaler.get_scale()  # under fp16 the one time that the host waits


def warm_up(
    recipe: Recipe,
    model: nn.Module,
    data: Data,  # on the model's device
    world: World = ALONE,
) -> None:
    """On a GPU, one untimed forward and backward of a copy: kernels are loaded and chosen then.

    The model, the data's order and all randomness stay as they are; a CPU has nothing to load.
    """
    device = data.train.y.device
    if device.type != "cuda":
        return
    rows = world.shard(torch.arange(recipe.global_batch, device=device))
    x, q = data.batch(rows, torch.full((len(rows), data.noise), 0.5, device=device))
    with recipe.precision.autocast(device):
        loss = cross_entropy(copy.deepcopy(model).train()(x), q)
    loss.backward()


def give_up(
    refused: int,  # steps in a row that the loss scaler refused
    loss: Tensor,  # () of the last one
) -> None:
    """Raise FloatingPointError after PATIENCE steps, saying where the numbers overflow."""
    if refused > PATIENCE:
        where = "the gradients" if bool(loss.isfinite()) else "the loss itself, in the forward pass"
        raise FloatingPointError(
            f"{PATIENCE} steps in a row overflowed in {where}; use a lower rate, or bf16 or fp32."
        )


def refuse_broken(
    step: int,  # optimiser steps before the first loss that is not finite
    steps: int,  # in the run
    model: nn.Module,
) -> None:
    """Raise FloatingPointError where a loss was not finite, saying when, and what it has spoilt."""
    if step < steps:
        spoilt = (name for name, p in model.named_parameters() if not bool(p.isfinite().all()))
        raise FloatingPointError(
            f"The loss of step {step + 1} of {steps} is not finite; the first such parameter is "
            f"{next(spoilt, 'none')}. Use a lower rate, or a clip."
        )
