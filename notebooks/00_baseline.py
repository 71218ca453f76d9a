# ---
# jupyter:
#   accelerator: GPU
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,accelerator
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 0. The baseline, and how we measure
#
# Before we speed anything up, we need a baseline to beat, and an honest way to measure by how much. This
# chapter promises three things:
#
# 1. **The loop.** We read plain training line by line, and find the *slots*: the places in the loop where
#    a trick can act.
# 2. **Luck.** We train ten times without any change that matters, and see how much the accuracy changes
#    anyway.
# 3. **Speed.** We settle what "twice as fast" means here, and how far such a number can be trusted.
#
# This chapter takes about 15 minutes to read and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb).
# The first cell installs the course if it is missing and prints which machine it has found.

# %%
import importlib.util
import subprocess
import sys

HOME = "https://github.com/fast-tricks/fast-tricks"
if importlib.util.find_spec("fasttricks") is None:
    subprocess.run(["git", "clone", "--depth=1", HOME, "fast-tricks"], check=True)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-e", "fast-tricks"]
    subprocess.run(install, check=True)
    sys.path.insert(0, "fast-tricks")

from fasttricks.course import about

print(about())

# %% [markdown]
# The budget depends on the device. It sets the network, the image size, the number of images, and the
# number of runs. It also sets a *target*, the validation accuracy to reach, which a later section explains.
# We move the data to the device that will train.
#
# In this course, some sentences are written by code, so that their numbers come from the run that you
# see. `say` shows such a sentence. Here is the first one:

# %%
from fasttricks import BASELINE, choose_budget, load, train
from fasttricks.course import say

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)
epochs = budget.images / len(data.train)
say(
    f"Each run of this chapter trains **{budget.model}** on images of {budget.image_size}×"
    f"{budget.image_size} pixels and sees {budget.images:,} of them. That is **{epochs:.2f} epochs**: one "
    f"*epoch* is one pass over all {len(data.train):,} training images."
)

# %% [markdown]
# ## The data
#
# Fashion-MNIST comes with the repository: 55,000 pictures of clothes for training, 5,000 for validation,
# and 10,000 for testing, which we use once, at the very end. Here is one picture of each kind.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import holds, plot, show

first = [int((data.train.y == kind).nonzero()[0, 0]) for kind in range(10)]
show([data.train.x[row] for row in first[:5]], data.classes[:5])
show([data.train.x[row] for row in first[5:]], data.classes[5:])
plt.show()

# %% [markdown]
# Pullovers, coats and shirts look very similar, so do not expect any network here to be right every time.
# Before we go on, we count the images and the classes.

# %% tags=["nbval-check-output"]
sizes = [len(part) for part in (data.train, data.val, data.test)]
holds(
    sizes == [55_000, 5_000, 10_000],
    "55,000 images to train on, 5,000 to choose by, 10,000 to test",
)
holds(data.train.y.unique().tolist() == list(range(10)), "there are ten kinds of clothes")

# %% [markdown]
# The images of each part are one tensor of bytes, so a batch is a selection of its rows. Two functions
# make batches:
#
# - `data.draws` yields, without end, which rows come next: 128 row numbers, reshuffled in every epoch,
#   and one random number for each row, the `noise`.
# - `data.batch` takes these rows out of the tensor, mirrors an image left to right where its noise is
#   below one half, and scales the pixels to numbers between -1 and 1.

# %%
import torch

draws = data.draws(BASELINE.batch, torch.Generator().manual_seed(0))
rows, noise = next(draws)
x, q = data.batch(rows, noise)
say(
    f"One batch: {len(x)} images of {x.shape[-2]}×{x.shape[-1]} pixels between {x.min():.0f} and "
    f"{x.max():.0f}, of which {int((noise < 0.5).sum())} were mirrored, and for each image "
    f"{q.shape[1]} target probabilities."
)

# %% [markdown]
# Every chapter uses the same letters: `x` for images, `y` for class numbers, and `q` for the *targets*,
# ten probabilities per image. Here the targets are 1 for the right class and 0 for the others. Chapters 4
# and 5 will use other probabilities.
#
# You may miss PyTorch's `Dataset` and `DataLoader`. They build a batch from images that are read one by
# one, which is what you need when every image is a file on a disk. Ours fit into memory, so we need neither.
# The draws depend on the seed alone: two recipes that train with the same seed see the same images in the
# same order.
#
# ## The network
#
# The network comes from timm, a library of image models. Within one budget, every chapter uses the same
# network. We send the batch `x` through its parts, one after the other, and note what each part makes of
# an image.

# %%
import pandas as pd

from fasttricks.models import create

net = create(budget.model, data.channels, len(data.classes)).to(device)
kinds, rows, signal = (torch.nn.Conv2d, torch.nn.Linear), {}, x
for name, part in net.named_children():
    signal = part(signal)
    rows[name] = {
        "makes of an image": "×".join(str(size) for size in signal.shape[1:]),
        "layers": sum(isinstance(layer, kinds) for layer in part.modules()),
        "parameters": f"{sum(p.numel() for p in part.parameters()):,}",
    }
pd.DataFrame(rows).T

# %%
layers = sum(entry["layers"] for entry in rows.values())
parameters = sum(tensor.numel() for tensor in net.parameters())
say(
    f"`{budget.model}` has **{layers} layers** and **{parameters:,} parameters**, which are the numbers that "
    f"training adjusts. It turns {data.channels}×{budget.image_size}×{budget.image_size} pixels into "
    f"{len(data.classes)} scores, one for each kind of clothes."
)

# %% [markdown]
# From top to bottom the picture shrinks, until `global_pool` leaves a plain list of numbers and `fc` turns
# them into scores. The column *layers* counts convolutions and fully connected layers. `layer1` to `layer4`
# consist of *residual blocks*, which add their input to their output; that is what "ResNet" stands for. In
# between, `bn1` normalises the numbers and `act1` sets the negative ones to zero.
#
# ## The plain recipe
#
# `BASELINE` holds the settings of plain training. Here is what each one decides:

# %%
decided = {
    "optimizer": "how a step is computed from the gradients",
    "lr": "learning rate: how far a step goes; here the same for every step",
    "batch": "how many images one step looks at",
    "momentum": "how much of the earlier steps a step keeps",
    "weight_decay": "how strongly each step pulls the weights towards zero",
    "clip": "how large a gradient may be; None is no limit",
    "tricks": "what the chapters add; there is none yet",
}
values = {name: str(getattr(BASELINE, name)) for name in decided}
pd.DataFrame({"value": values, "decides": decided})

# %% [markdown]
# This baseline was not chosen to be beaten easily. Optimiser, learning rate and batch size are the best of
# 24 combinations that were tried on two CPU cores, and the seven tricks together were given 24 tries as
# well. Any trick can beat a badly tuned baseline.
#
# ## The problem: diminishing returns
#
# We train with these settings and evaluate eight times along the way, at equal intervals. The *train clock*
# pauses during the evaluations. To know where the curve starts, we also evaluate a network with the same
# first weights before any training.

# %%
from fasttricks.loop import accuracy as measure

run = train(BASELINE, data, evaluations=8)
torch.manual_seed(run.seed)  # which gives the weights that the run started from
untrained = create(budget.model, data.channels, len(data.classes)).to(device)
start = measure(untrained, data, data.val[: budget.val], BASELINE)
seconds = [0.0, *[point[1] for point in run.curve]]
accuracy = [start, *[point[2] for point in run.curve]]
plot({"plain": (seconds, accuracy)}, "train clock, seconds", "validation accuracy", marks=True)
plt.show()

# %%
first_half, second_half = accuracy[4] - accuracy[0], accuracy[8] - accuracy[4]
bent = (
    "each second of the second half bought less"
    if second_half < first_half
    else "no bend is seen yet"
)
say(
    f"Before training, the network is right on {start:.2f} of the images; guessing would give "
    f"{1 / len(data.classes):.2f}. The first half of the run changed its accuracy by "
    f"{100 * first_half:+.0f} points, and the second half, which is as long, by {100 * second_half:+.1f}. "
    f"So **{bent}**."
)

# %% [markdown]
# That is the problem of this course. A training curve climbs steeply, then it bends, and beyond the bend
# each second buys less accuracy. All seven tricks aim to reach the same accuracy sooner. A curve need not
# rise at every point. Below, we measure how large such ups and downs are by luck alone.
#
# ## By hand: the loop
#
# Here is the complete training loop. It first creates the stream of batches and the optimiser, AdamW, and
# then runs the same five lines again and again. Their comments tell the story of one batch.


# %%
def plain_loop(net, data, images, seed, recipe=BASELINE):
    draws = data.draws(recipe.batch, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(
        groups(net, recipe), recipe.lr, (recipe.momentum, 0.999), fused=True
    )
    for _ in range(images // recipe.batch):
        x, q = data.batch(*next(draws))  # some images and their targets
        loss = torch.nn.functional.cross_entropy(net(x), q)  # how wrong the network is
        loss.backward()  # which way each weight should move
        optimizer.step()  # move it a little
        optimizer.zero_grad()  # forget the direction


# %% [markdown]
# Two details need an explanation. With `fused=True`, the optimiser updates all weights in one call
# instead of one after another, which saves time and gives the same result up to rounding. And `groups` says
# which weights decay. *Weight decay* pulls weights a little towards zero at each step. It is meant for the
# large tensors; biases and the scales of norm layers are usually exempt. So we give the optimiser two groups
# of parameters. (A script that holds all of this in ordinary PyTorch, with data and evaluation, is
# [`examples/plain.py`](../examples/plain.py).)


# %%
def groups(net, recipe):
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    decay = {"params": matrices, "weight_decay": recipe.weight_decay}
    return [decay, {"params": others, "weight_decay": 0.0}]


# %% [markdown]
# ## Check it
#
# The package has one training loop, `fasttricks/loop.py`, and all chapters use it. Does it do the same as
# ours? We train two identical networks with the same seed for twenty steps each, on the CPU, because a GPU
# may add the same numbers in a different order and round them differently.

# %%
from fasttricks.loop import fit

small = choose_budget("smoke")
here = data.to(torch.device("cpu"), small.image_size)


def side_by_side(our_loop, recipe):
    nets = [create(small.model, data.channels, len(data.classes)).train() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    asked = {"data": here, "images": 20 * recipe.global_batch, "seed": 1}
    our_loop(nets[0], **asked)
    fit(recipe, nets[1], **asked, evaluations=1)
    return nets


# %% [markdown]
# We train both networks and find the largest difference between corresponding weights.


# %%
def largest_difference(nets):
    pairs = zip(*[net.parameters() for net in nets], strict=True)
    return max((ours - theirs).abs().max().item() for ours, theirs in pairs)


nets = side_by_side(plain_loop, BASELINE)

# %% tags=["nbval-check-output"]
holds(largest_difference(nets) < 1e-5, "our loop and the package's leave the same weights")

# %% [markdown]
# Is the package's accuracy what we think it is, the share of right answers? To find out, we count the
# right answers ourselves.

# %% tags=["nbval-check-output"]
from fasttricks.course import probabilities

guesses = probabilities(nets[1], here, here.val).argmax(1)
share = (guesses == here.val.y).double().mean().item()
holds(
    abs(share - measure(nets[1], here, here.val, BASELINE)) < 1e-9,
    "accuracy is right answers over images",
)

# %% [markdown]
# ## The cost of a copy for every trick
#
# The usual way to add a trick is to copy the loop and edit it. Here is a copy with label smoothing...


# %%
def smoothing_loop(net, data, images, seed, recipe=BASELINE, eps=0.1):
    draws = data.draws(recipe.batch, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(
        groups(net, recipe), recipe.lr, (recipe.momentum, 0.999), fused=True
    )
    for _ in range(images // recipe.batch):
        x, q = data.batch(*next(draws))
        loss = torch.nn.functional.cross_entropy(net(x), (1 - eps) * q + eps / q.shape[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


# %% [markdown]
# ...which differs in one expression. Did you spot it? Now imagine a copy with a schedule, one with both, and
# one with mixed precision as well. A mistake in one must be fixed in all. How many copies do you need for
# all combinations of seven tricks, each on or off?

# %%
import inspect

length = len(inspect.getsource(smoothing_loop).splitlines())
print(f"{2**7} loops, {2**7 * length:,} lines")

# %% [markdown]
# ## One loop, with slots
#
# So the course has one loop, which contains no tricks, and a **recipe** that says what goes into its
# *slots*. Here is that loop. Every line marked `slot` is a place where a trick may act; without a trick,
# the line does what the plain loop does. In particular, `wrap` and `shard` give back what they are given
# where one process trains alone, `autocast` leaves the arithmetic in 32 bits, and `scaler`, which keeps
# small gradients alive in 16 bits, lets everything through.

# %%
import numpy as np
from torch.nn.functional import cross_entropy

from fasttricks.tricks.distributed import ALONE


def loop_with_slots(recipe, net, data, images, seed, world=ALONE):  # slot start: the net's weights
    device, rng = data.train.y.device, np.random.default_rng((seed, world.rank))
    batch, steps = recipe.global_batch, images // recipe.global_batch  # slot batch
    optimizer = torch.optim.AdamW(groups(net, recipe), fused=True)
    scaler = recipe.precision.scaler(device)  # slot precision
    draws = data.draws(batch, torch.Generator().manual_seed(seed))
    net = world.wrap(net)  # slot world: average gradients, if there are several processes
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step, steps)  # slot lr_factors
            group["betas"] = (recipe.momentum_at(step, steps), 0.999)  # slot momentum
        x, q = data.batch(*[world.shard(drawn) for drawn in next(draws)])  # slot world
        for trick in recipe.fills("batch_maps"):
            x, q = trick.batch_map(x, q, rng)  # slot batch_maps
        with recipe.precision.autocast(device):  # slot precision
            loss = cross_entropy(net(x).float(), q)
        scaler.scale(loss).backward()  # slot precision
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


# %% [markdown]
# The package's loop has a few more lines, which evaluate, keep checkpoints, and count the steps that 16-bit
# arithmetic refuses. Which trick fills which slot? We ask the tricks themselves.

# %%
from fasttricks import SEVEN
from fasttricks.recipe import name_of

decides = {
    "start": "which weights the network starts from",
    "world": "which processes share a batch and average their gradients",
    "batch": "how many images one step takes",
    "lr_factors": "how far a step goes",
    "momentum": "how much of earlier steps a step keeps",
    "batch_maps": "what the images and targets are",
    "precision": "in which arithmetic the network computes",
}
filled = {
    slot: ", ".join(f"{trick.chapter} {name_of(trick)}" for trick in SEVEN if slot in trick.slots)
    for slot in decides
}
pd.DataFrame({"decides": decides, "filled by chapter": filled})

# %%
several = [place for place, owners in filled.items() if "," in owners]
say(
    f"**{' and '.join(several)}** take more than one trick: factors of the learning rate are multiplied, "
    f"and of two maps one works on the output of the other. Every other slot has one owner."
)

# %% [markdown]
# A trick fills a slot. You add it to a recipe with a plus sign.

# %%
from fasttricks import LabelSmoothing

recipe = BASELINE + LabelSmoothing(0.1)
print(recipe.tricks)

# %% [markdown]
# Does the recipe do the same as the edited copy? And does the loop that you have just read do the same as
# the package's? Again, we train identical networks for twenty steps. For the second question we take five
# tricks, which fill every slot but *start* and *world*.

# %%
five = sum(SEVEN, start=BASELINE) - "distributed" - "transfer"
copied = side_by_side(smoothing_loop, recipe)
slotted = side_by_side(lambda net, **asked: loop_with_slots(five, net, **asked), five)

# %% tags=["nbval-check-output"]
holds(
    largest_difference(copied) < 1e-5,
    "a recipe with a trick is the copy of the loop with that trick edited in",
)
holds(
    largest_difference(slotted) < 1e-5,
    "the loop with slots is the package's, with five tricks in it",
)
holds(set(decides) == {slot for trick in SEVEN for slot in trick.slots}, "there is no other slot")

# %% [markdown]
# ## Two clocks
#
# "Faster" needs a clock, and we use two. The **train clock** runs during the loop and pauses
# while we evaluate. The **cold wall** starts with the process and never pauses: it includes imports,
# data, weights and every evaluation. Each run records both. In a notebook, the cold wall starts at the
# call.

# %%
rest = run.wall_seconds - run.train_seconds
say(
    f"Our first run took **{run.train_seconds:.1f} s** on the train clock and **{run.wall_seconds:.1f} s** "
    f"on the wall. Of the difference, {run.eval_seconds:.1f} s were its {len(run.curve)} evaluations. So "
    f"{rest / run.wall_seconds:.0%} of the wall was not training."
)

# %% [markdown]
# A trick may win on one clock and lose on the other: starting several processes, for instance, takes time
# that the train clock does not see.
#
# ## How much is luck?
#
# The *seed* determines the initial weights, the order of the images, and which ones are mirrored. We train
# the plain recipe with five seeds and change nothing else.
#
# We also train a second recipe, which has a trick of our own. `MirrorAgain` fills the slot `batch_maps` and
# turns every batch left to right once more. Each image was mirrored with probability one half, and it
# still is, so **this trick does nothing**. It only changes which images happen to be mirrored.
#
# A recipe together with its runs is called an *arm*, as in a medical trial. `train_arms` trains our two arms
# in turns, seed by seed, because a machine's speed drifts.

# %%
from dataclasses import dataclass
from typing import ClassVar

from fasttricks.course import train_arms


@dataclass(frozen=True)
class MirrorAgain:
    slots: ClassVar[tuple[str, ...]] = ("batch_maps",)

    def batch_map(self, x, q, rng):
        return x.flip(-1), q


arms = train_arms({"plain": BASELINE, "twice": BASELINE + MirrorAgain()}, data, seeds=5)

# %%
again = arms["plain"][0].val_accuracy
repeated = (
    "**the same seed gives the same run**, and luck is a matter of the seed"
    if again == run.val_accuracy
    else "on this machine **the same seed does not repeat a run exactly**, and not all luck is in the seed"
)
say(
    f"The plain arm with seed {run.seed} is our first run once more. It ended at {run.val_accuracy:.4f} "
    f"then and at {again:.4f} now: {repeated}."
)

# %% [markdown]
# Together, these are ten runs that differ in nothing that matters. We average the differences between every
# two of them.

# %%
from itertools import combinations, pairwise, permutations


def average_difference(accuracies):
    pairs = list(combinations(accuracies, 2))
    return 100 * sum(abs(one - other) for one, other in pairs) / len(pairs)


scores = {name: [found.val_accuracy for found in runs] for name, runs in arms.items()}
ten = scores["plain"] + scores["twice"]
luck, widest = average_difference(ten), 100 * (max(ten) - min(ten))

# %%
drop = 100 * max(earlier - later for earlier, later in pairwise(accuracy))
dip = (
    f"The largest drop in the first figure was {drop:.1f} points, which is "
    f"{'no more than luck explains' if drop <= widest else 'more than this luck explains'}."
)
say(
    f"The ten runs ended between {min(ten):.4f} and {max(ten):.4f}. **Luck alone makes two runs differ by "
    f"{luck:.1f} points on average, and by {widest:.1f} at most.** {dip if drop > 0 else ''}"
)

# %% [markdown]
# What happens along the way? At each of the four evaluations, we take the highest, the mean and the lowest
# accuracy of the ten runs.

# %%
seen = [point[0] for point in arms["plain"][0].curve]
curves = np.array([[point[2] for point in found.curve] for runs in arms.values() for found in runs])
lines = {
    "highest": (seen, curves.max(0)),
    "mean": (seen, curves.mean(0)),
    "lowest": (seen, curves.min(0)),
}
plot(lines, "images seen", "validation accuracy", "ten runs that differ by luck alone", marks=True)
plt.show()

# %%
early, late = average_difference(curves[:, 0]), average_difference(curves[:, -1])
ratio = late / max(early, 1e-9)
trend = "smaller than" if ratio < 0.8 else "larger than" if ratio > 1.25 else "about as large as"
say(
    f"At the first evaluation two runs differ by {early:.1f} points on average, and at the last by "
    f"{late:.1f}. **At the end, luck is {trend} in the beginning.** What we measure holds for runs of this "
    f"length, and for no others."
)

# %% [markdown]
# ## A false discovery
#
# Suppose that a colleague has mirrored every batch twice by mistake, and now finds the mistake and repairs
# it. What does the repair gain? We know that it cannot gain anything, but the colleague does not. We look
# at the five *pairs*. A pair is two runs that share a seed, one before the repair and one after it. Each
# bar is the gain of one pair.

# %%
from fasttricks.course import bars, clear, gained, gains

after, before = scores["plain"], scores["twice"]
shared = gains(arms["plain"], arms["twice"])
bars(
    {f"seed {seed}": [points] for seed, points in enumerate(shared)},
    "gain in validation accuracy, points",
    "a repair that changes nothing",
)
plt.show()

# %%
seen_gain = gained(after, before)
wrong = "higher" in seen_gain or "lower" in seen_gain
say(
    f"Judged by the luckiest seed, the repair changes accuracy by {max(shared):+.1f} points, and judged by "
    f"the unluckiest by {min(shared):+.1f}. With all five seeds, accuracy is **{seen_gain}**"
    f"{', and even that is a false discovery' if wrong else ''}."
)

# %% [markdown]
# Whoever reports one seed, or the luckiest of five, may discover something that is not there. So may
# somebody who tries ten useless tricks with one seed each and keeps the best.
#
# So far, both sides shared a seed. A colleague who does not care about seeds may compare any run before
# the repair with any run after it. We look at all comparisons between *different* seeds, too.

# %%
mixed = [100 * (after[one] - before[other]) for one, other in permutations(range(5), 2)]
distances = {"shared": np.abs(shared), "mixed": np.abs(mixed)}
average = {name: found.mean() for name, found in distances.items()}
large = {name: int((found.round(2) >= 1).sum()) for name, found in distances.items()}

# %%
cancels = (
    "sharing a seed cancels part of the luck"
    if average["shared"] < 0.8 * average["mixed"]
    else "sharing a seed did not help in these runs"
)
say(
    f"With different seeds, {large['mixed']} of {len(mixed)} comparisons show a gain or a loss of one point or "
    f"more. With a shared seed, {large['shared']} of {len(shared)} do. The average difference is "
    f"{average['mixed']:.1f} points with different seeds and {average['shared']:.1f} with a shared one: "
    f"**{cancels}**."
)

# %% [markdown]
# A shared seed costs nothing, so every comparison in this course uses the same seeds on both sides and
# prints how many there were. The verdict follows a **rule** with two conditions. A gain is called a gain
# only if all seeds agree on its sign, and if its mean is large enough for so few seeds. In all other cases
# you will read *about the same*, or *undecided* if a single seed differs by two points or more.
#
# We test the rule on the repair, where it should never see a gain or a loss.

# %%
verdicts = []
for three in combinations(range(5), 3):
    verdicts.append(gained([after[seed] for seed in three], [before[seed] for seed in three]))
fooled = sum("higher" in verdict or "lower" in verdict for verdict in verdicts)

# %%
say(
    f"The mean must be at least {clear(1):.1f} points with one seed, {clear(3):.1f} with three and "
    f"{clear(5):.1f} with five. Three seeds can be chosen from five in {len(verdicts)} ways. In "
    f"**{fooled or 'none'} of these {len(verdicts)}**, the rule sees a gain or a loss that is not there."
)

# %% [markdown]
# The rule makes false discoveries rarer, but it is no proof. If a trick does nothing, three pairs agree on
# the sign as often as three coins land alike, one time in four, and five pairs one time in sixteen. Then
# only the second condition can prevent a false discovery.
#
# ## From accuracy to seconds
#
# Is a trick that gains a point better than one that trains twice as fast? More time buys accuracy, so the
# two cannot be compared until one is fixed. We fix the accuracy: a trick is judged by its **time to a target
# accuracy**.
#
# **How the target was set.** Luck in accuracy is also luck in time. How many images is it worth? That
# depends on how steep the curve is.

# %%
quarter, rise = seen[-1] - seen[-2], 100 * (curves[:, -1] - curves[:, -2]).mean()
worth = (
    f"luck of {late:.1f} points is worth about **{late / rise * quarter:,.0f} images**"
    if rise > 0
    else "nobody can say how many images luck is worth"
)
say(
    f"In the last quarter of our ten runs, {quarter:,} images changed the mean accuracy by {rise:+.1f} points. "
    f"At this slope, {worth}."
)

# %% [markdown]
# The flatter the curve, the more images the same luck is worth. Where plain training hardly improves any
# more, nobody can tell how long it takes to get there, so the target must lie where accuracy still rises.
# Before the recorded study, a *pilot* trained the plain recipe at several lengths, with seeds of its own. It
# chose the highest accuracy for which ten seeds can tell the number of images within 15 %. The target of
# the `cpu` budget is that accuracy, rounded down to a whole point, because a notebook has only a few runs.
# The targets of the other budgets are guesses.

# %%
from fasttricks.course import published

for study in published():
    plain = next(iter(study.of("plain")), None)
    if study.reference == "plain" and plain and plain.arrives:
        say(
            f"In the recorded study on {study.hardware}, the target is {study.target}. Plain training gets "
            f"there after {plain.images.value:,.0f} images (95 % interval: {plain.images.low:,.0f} to "
            f"{plain.images.high:,.0f})."
        )
say(
    f"In this notebook, the target is **{budget.target}**. Plain training needs {budget.plain:,} images for "
    f"it, which is {budget.plain / len(data.train):.2f} epochs. A run in a chapter sees {budget.images:,}, "
    f"which is {epochs:.2f} epochs."
)

# %% [markdown]
# The target is the same for all recipes, and each recipe gets as many images as it needs to reach it.
#
# Most runs in chapters 1 to 7 are shorter than that and end below the target. They compare accuracies
# *after the same number of images*, which is quick. Take this as a first look: it does not count whether a
# trick makes each image cheaper or more expensive. The verdict about time comes from the recorded studies,
# which these chapters quote at their beginning, and from the last chapter, which trains up to the target.
#
# **One rule for all.** An arm is at the target if the *mean* of its final accuracies is. Its time is then
# the *median* of the times of all its runs, so that one disturbed run does not change it. If the mean
# misses the target, the arm **never** arrives, and its time is infinite. Only the end of a run counts:
# curves jump, and if you look often enough, you catch a lucky moment above the target.

# %%
middle = sorted(scores["plain"])[2]
mean = np.mean(scores["plain"])
say(
    f"Suppose that the target were {middle:.4f}, the accuracy of the middle one of our five plain runs. "
    f"Then at least three of the five are at the target. Their mean is {mean:.4f}, so the arm would "
    f"**{'be at the target' if mean >= middle else 'never arrive'}**."
)

# %% [markdown]
# So the whole arm counts: a few good runs do not help if the others fail badly. An arm that makes a single
# step cannot arrive.

# %%
from fasttricks.study.statistics import seconds_to_target

short = train(BASELINE, data, images=BASELINE.batch, target=0.99, label="one step only")

# %% tags=["nbval-check-output"]
holds(seconds_to_target([short]) == float("inf"), "an arm that misses the target takes for ever")

# %% [markdown]
# ## How to read a speed-up
#
# A **speed-up** is a ratio of two times: the median of the slow arm divided by the median of the fast
# one. A ratio of noisy numbers is itself noisy. To see how noisy, we measure *nothing* once more: we train
# the plain recipe twice with each of ten seeds, in turns, and call the two arms "first" and "again". They do
# exactly the same work. The runs are ten times shorter than before, so that we can afford ten pairs.

# %%
same = {"first": BASELINE, "again": BASELINE}
short_runs = train_arms(same, data, images=budget.images // 10, seeds=10, evaluations=1)
times = {name: [found.train_seconds for found in runs] for name, runs in short_runs.items()}
turns = range(1, 11)
plot(
    {name: (turns, found) for name, found in times.items()},
    "turn",
    "train clock, seconds",
    marks=True,
)
plt.show()

# %%
twenty = times["first"] + times["again"]
ratio = np.median(times["first"]) / np.median(times["again"])
say(
    f"The same work took from {min(twenty):.2f} to {max(twenty):.2f} s: the slowest run took "
    f"**{100 * (max(twenty) / min(twenty) - 1):.0f} % longer** than the quickest. The ratio of the two "
    f"medians is **{ratio:.2f}**, and it should be 1."
)

# %% [markdown]
# How far off might such a ratio be? From the ten pairs that we have, we draw ten at random, so that one
# pair may come up twice and another not at all, and compute the speed-up of the drawn pairs. Then we draw
# again. This method is the **bootstrap** (Efron 1979).
#
# We do it twenty times. At the top of the figure are the ten pairs, each as the ratio of its two times.
# Each row below is one draw: a larger dot is a pair that came up more often, and the bar is the speed-up of
# the draw. It is a ratio of two medians and need not lie on a dot.

# %%
from fasttricks.course import redraws

picks = torch.randint(10, (20, 10), generator=torch.Generator().manual_seed(0))
redraws(times["first"], times["again"], picks)
plt.show()

# %%
one, other = np.array(times["first"]), np.array(times["again"])
drawn = [np.median(one[draw]) / np.median(other[draw]) for draw in picks.numpy()]
say(
    f"The single pairs go from {min(one / other):.2f} to {max(one / other):.2f}, and the speed-ups of the "
    f"twenty draws from {min(drawn):.2f} to {max(drawn):.2f}."
)

# %% [markdown]
# A median does not follow a single pair, so the draws usually lie closer together than the pairs. To get a
# number, we draw two thousand times, and call the range that holds the middle 95 % the *interval*.


# %%
def interval(slow, fast, draws=2000, seed=0):
    picks = np.random.default_rng(seed).integers(len(slow), size=(draws, len(slow)))
    slow, fast = (np.median(np.array(times)[picks], axis=1) for times in (slow, fast))
    return np.quantile(slow / fast, (0.025, 0.975)).tolist()


low, high = interval(times["first"], times["again"])

# %%
verdict = (
    "contains 1, as it should"
    if low <= 1 <= high
    else "does not contain 1, which is a false alarm, because both arms did the same work"
)
say(f"The interval of our ten pairs goes from {low:.3f} to {high:.3f}. It **{verdict}**.")

# %% [markdown]
# Does the method also say yes, where there is something to find? And how many pairs does it take? We try
# it on times that we make up. In the last two lines, all pairs are alike except for a disturbed one.

# %% tags=["nbval-check-output"]
halved = interval([2.0, 2.2, 1.9, 2.1, 2.0], [1.0, 1.1, 0.95, 1.05, 1.0])
holds(abs(halved[0] - 2) < 1e-9 and abs(halved[1] - 2) < 1e-9, "half the time is twice the speed")
wide = interval([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0, 1.0])
holds(wide[0] < 1 < wide[1], "shuffled times are no speed-up: the interval contains 1")
holds(interval([0.8, 1, 1, 1, 1], [1] * 5)[0] == 0.8, "one disturbed pair of five sets an end")
holds(interval([0.8, *[1] * 9], [1] * 10)[0] == 1, "one disturbed pair of ten does not")

# %% [markdown]
# So with five pairs or fewer, the interval is little else than the range of what we saw, and it covers the
# truth less often than 95 times in 100. With ten pairs, one disturbed run does no harm. Most comparisons in
# the chapters have fewer, so they say *about as fast* if the pairs disagree or differ by less than 5 %.
#
# ## Takeaways
#
# We promised three things. **The loop** has seven slots, and we checked that it does the same as plain
# training when they are empty, and the same as the edited copy when label smoothing fills one. This is what
# we have seen of **luck** and **speed**:

# %%
alone = max(map(abs, shared))
noise = max(high - 1, 1 - low)
say(
    f"- Luck: for runs of {epochs:.2f} epochs, two runs that should be equal differed by up to {alone:.1f} "
    f"points with a shared seed, and by up to {widest:.1f} points in all.\n"
    f"- Speed: ten pairs of the same work could not tell a speed-up of {100 * noise:.1f} % from none.\n\n"
    f"So on this machine, a gain of **{alone:.1f} points** or less from one pair of runs with a shared seed "
    f"shows nothing, and neither does one of **{widest:.1f} points** or less from two runs with different "
    f"seeds. The rule of this course asks for {clear(1):.1f} points from a single pair, which is "
    f"{'more' if clear(1) > alone else 'not more'} than the luck of such a pair."
)

# %% [markdown]
# The rule of thumb for your own experiments:
#
# - **Change nothing first.** Train the same recipe a few times to know your luck.
# - Use the same seeds on both sides, and let the recipes take turns.
# - A gain many times as large as the luck needs few seeds. A small one needs many.
# - Say "about the same" where the seeds disagree or the interval contains 1.
# - For a verdict about time, fix the target before you train, and give each recipe as many images as it
#   needs. An arm is at the target when its mean is. Do not leave out the runs that failed.
# - Look at both clocks.
#
# ## Questions
#
# **1. The chapters compare accuracies after the same number of images. Why is that only a first look?**
#
# <details><summary>Answer</summary>Because you pay in seconds. A trick may change what an image costs, and
# a point of accuracy is worth few seconds where the curve is steep and many where it is flat. The time to
# the target counts both.</details>
#
# **2. Why must both sides use the same seeds?**
#
# <details><summary>Answer</summary>Because the luck that both sides share, such as that of the first
# weights, cancels in the difference. The section on the false discovery measures how much that is.</details>
#
# **3. Why do we not leave out a run that missed the target?**
#
# <details><summary>Answer</summary>The mean of the others would be too high: a recipe that fails every
# other time would look like one that never fails.</details>
#
# **4. Which clock would you look at for a job that runs all night? And for a job that takes ten
# seconds?**
#
# <details><summary>Answer</summary>All night: the start no longer matters, so the clocks differ by the
# evaluations alone, which take a large share if they are frequent. Ten seconds: the cold wall, because
# imports and start-up may take as long as the training.</details>
#
# **5. Two tricks both change the learning rate. Why can they be added in any order?**
#
# <details><summary>Answer</summary>Each is a factor, and the product of factors does not depend on their
# order.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell.
#
# **Exercise 1.** Write the rule of this course. You are given the final accuracies of an arm's runs,
# their seconds, and a target. Return the arm's seconds, or infinity if it never arrives.


# %%
from fasttricks.course import check


def arm_seconds(accuracies, seconds, target):
    raise NotImplementedError


check("baseline", 1, arm_seconds)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def arm_seconds(accuracies, seconds, target):
#     from statistics import mean, median
#
#     return median(seconds) if mean(accuracies) >= target else float("inf")
# ```
#
# </details>
#
# **Exercise 2.** Return the speed-up between two arms that are both at the target: the median time of the
# slow runs divided by that of the fast runs. An arm may have an even number of runs.


# %%
def speed_up(slow, fast):
    raise NotImplementedError


check("baseline", 2, speed_up)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def speed_up(slow, fast):
#     def middle(times):
#         ordered, half = sorted(times), len(times) // 2
#         return ordered[half] if len(times) % 2 else (ordered[half - 1] + ordered[half]) / 2
#
#     return middle(slow) / middle(fast)
# ```
#
# </details>
#
# **Exercise 3.** An evaluation goes through the images in batches, and its accuracy must count every image
# once. `right` is a list with True or False for each image. Go through it `batch` images at a time and
# return the share of all images that are right. The last batch may be smaller than the others.


# %%
def accuracy_in_parts(right, batch):
    raise NotImplementedError


check("baseline", 3, accuracy_in_parts)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def accuracy_in_parts(right, batch):
#     hits = 0
#     for first in range(0, len(right), batch):
#         hits += sum(right[first : first + batch])
#     return hits / len(right)
# ```
#
# </details>
#
# ## Further reading
#
# - Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677): a careful account of training
#   faster without losing accuracy.
# - Dahl et al. 2023, [arXiv 2306.07179](https://arxiv.org/abs/2306.07179) (AlgoPerf): time to result as a
#   benchmark, and how to keep it fair.
# - Xiao et al. 2017, [arXiv 1708.07747](https://arxiv.org/abs/1708.07747): the data set.
