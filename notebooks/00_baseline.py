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
# Before we speed anything up, we need a baseline to beat and an honest way to measure by how much. In this
# chapter we read plain training line by line and find the *slots*, the places in the loop where a trick can
# act. Then we measure how much of a measured accuracy is luck, see what a change that changes nothing seems
# to gain, and settle what "twice as fast" means in this course.
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
# number of runs. It also sets a *target*, the validation accuracy to reach; we come back to it below.
#
# In this course, some sentences are written by code, so that their numbers come from the run that you
# see. `say` shows such a sentence. Here is the first one:

# %%
from fasttricks import BASELINE, choose_budget, load, train
from fasttricks.course import say

budget, data = choose_budget(), load()
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
# You may miss PyTorch's `Dataset` and `DataLoader`. The first makes one image, the second calls it for each
# image of a batch and stacks what it gets. That is what you need when images lie on a disk, one file each.
# Here is how one would make our batches that way:

# %%
from torch.utils.data import DataLoader, Dataset


class OneByOne(Dataset):
    def __len__(self):
        return len(data.train)

    def __getitem__(self, row):
        x = data.train.x[row].float() / 127.5 - 1
        return (x.flip(-1) if torch.rand(()) < 0.5 else x), data.train.y[row]


loader = DataLoader(OneByOne(), batch_size=BASELINE.batch, shuffle=True)

# %% [markdown]
# Our images fit into memory, so we can take 128 of them at once. We time 20 batches of each kind, three
# times.

# %%
from itertools import islice
from time import perf_counter

from fasttricks.course import faster


def seconds_each(batches, count=20):
    started = perf_counter()
    for _ in islice(batches, count):
        pass
    return (perf_counter() - started) / count


ours = (data.batch(rows, noise) for rows, noise in draws)
stacked = [seconds_each(loader) for _ in range(3)]
selected = [seconds_each(ours) for _ in range(3)]
say(
    f"A batch takes {1000 * min(stacked):.1f} ms one by one and {1000 * min(selected):.1f} ms from "
    f"`data.batch`: the second is **{faster(selected, stacked)}**."
)

# %% [markdown]
# There is another reason to draw batches this way: the draws depend on the seed alone. Two recipes that
# train with the same seed see the same images in the same order.
#
# ## The network
#
# The network comes from timm, a library of image models. Within one budget, every chapter uses the same
# network.

# %%
from fasttricks.models import create

net = create(budget.model, data.channels, len(data.classes))
print(f"{budget.model}: {sum(p.numel() for p in net.parameters()):,} parameters")

# %% [markdown]
# ## The problem: diminishing returns
#
# We train the network without any tricks and evaluate it eight times along the way, at equal intervals. The
# *train clock* pauses during the evaluations.

# %%
run = train(BASELINE, data, evaluations=8)
seconds, accuracy = [p[1] for p in run.curve], [p[2] for p in run.curve]
plot({"plain": (seconds, accuracy)}, "train clock, seconds", "validation accuracy", marks=True)
plt.show()

# %%
say(
    f"The first half of the run, {seconds[3]:.1f} s, brought accuracy from {1 / len(data.classes):.2f}, "
    f"which is guessing, to {accuracy[3]:.2f}. The second half changed it by "
    f"**{100 * (accuracy[-1] - accuracy[3]):+.1f} points**."
)

# %% [markdown]
# That is the hurt. A curve like this one climbs steeply, then bends, and beyond the bend each second buys
# less accuracy. Where the line dips, nothing is broken; the dip is luck, and below we measure how large
# luck is. All seven tricks aim to reach the same accuracy sooner.
#
# The line above the figure says whether the run ended at the target. A run this short is not meant to:
# plain training needs many more images, as we shall see.
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
# instead of one after another; the result is the same, and it comes sooner. And `groups` says which
# weights decay. *Weight decay* pulls weights a little towards zero at each step. It is meant for the large
# tensors; biases and the scales of norm layers are usually exempt. So we give the optimiser two groups of
# parameters. (A script that holds all of this in ordinary PyTorch, with data and evaluation, is
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
# ours? We train two identical networks with the same seed for twenty steps each. We compare them on the
# CPU at the smallest size, because a GPU may add the same numbers in a different order and round them
# differently.

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
from fasttricks.loop import accuracy as measure

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
# ...which differs in one expression. Did you spot it? Now imagine a copy with a schedule *and* smoothing,
# and another with mixed precision as well. If you find a mistake in one of them, you must fix it in all.
# How many copies do you need for all combinations of seven tricks, each on or off?

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
# arithmetic refuses. You will meet every slot in a chapter of its own. Which trick fills which slot? We
# ask the tricks themselves.

# %%
import pandas as pd

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
shared = [slot for slot, names in filled.items() if "," in names]
say(
    f"**{' and '.join(shared)}** take more than one trick: factors of the learning rate are multiplied, "
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
# "Faster" needs a clock, and we use two honest ones. The **train clock** runs during the loop and pauses
# while we evaluate. The **cold wall** starts with the process and never pauses: it includes imports,
# data, weights and every evaluation. Each run records both. In a notebook, the cold wall starts at the
# call.

# %%
rest = run.wall_seconds - run.train_seconds
say(
    f"Our first run took **{run.train_seconds:.1f} s** on the train clock and **{run.wall_seconds:.1f} s** "
    f"on the wall. Of the difference, {run.eval_seconds:.1f} s were its {len(run.curve)} evaluations: "
    f"{rest / run.wall_seconds:.0%} of the wall was not training."
)

# %% [markdown]
# A trick may win on one clock and lose on the other. Starting several processes, for instance, takes
# time that the train clock does not see.
#
# ## How much is luck?
#
# The seed determines the initial weights, the order of the images, and which ones are mirrored. We train
# with five seeds and change nothing else.
#
# Alongside it, we train a second recipe with a trick of our own: `MirrorAgain` turns every batch left to
# right once more. Each image was mirrored with probability one half, and it still is, so **this trick does
# nothing**. We will need it in a moment. The two recipes take turns, seed by seed, because a machine's
# speed drifts.

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
scores = {name: [run.val_accuracy for run in runs] for name, runs in arms.items()}
lowest, *_, highest = sorted(scores["plain"])
say(
    f"One recipe, five seeds: plain training ended between {lowest:.4f} and {highest:.4f}. "
    f"**Luck alone is worth {100 * (highest - lowest):.1f} points.**"
)

# %% [markdown]
# What happens along the way? At each evaluation, we take the highest, the middle and the lowest of the
# five accuracies.

# %%
seen = [point[0] for point in arms["plain"][0].curve]
curves = np.array([[point[2] for point in run.curve] for run in arms["plain"]])
ranked = np.sort(curves, axis=0)
lines = {"highest": (seen, ranked[4]), "middle": (seen, ranked[2]), "lowest": (seen, ranked[0])}
plot(lines, "images seen", "validation accuracy", "five seeds, one recipe", marks=True)
plt.show()

# %%
gaps = 100 * (ranked[4] - ranked[0])
say(
    f"At the first evaluation the five runs lie {gaps[0]:.1f} points apart, at the last {gaps[-1]:.1f}: "
    f"luck is **{'smaller' if gaps[-1] < gaps[0] else 'not smaller'}** at the end."
)

# %% [markdown]
# If a trick claims a smaller gain than this gap from one run, it has shown nothing.
#
# ## A false discovery
#
# Suppose that a colleague has mirrored every batch twice by mistake, and now finds the mistake and repairs
# it. What does the repair gain? We know that it cannot gain anything, but the colleague does not. We look
# at the five *pairs*. A pair is two runs that share a seed, one before the repair and one after it.

# %%
from fasttricks.course import bars, gained, gains

won = gains(arms["plain"], arms["twice"])
bars(
    {f"seed {seed}": [points] for seed, points in enumerate(won)},
    "gain in validation accuracy, points",
    "a repair that changes nothing",
)
plt.show()

# %%
after, before = scores["plain"], scores["twice"]
say(
    f"With seed 0 alone, accuracy after the repair is **{gained(after[:1], before[:1])}**. The luckiest pair "
    f"says {max(won):+.1f} points, the unluckiest {min(won):+.1f}. With all five seeds, accuracy is "
    f"**{gained(after, before)}**."
)

# %% [markdown]
# Whoever reports one seed, or the luckiest of five, may discover something that is not there. The same
# happens to somebody who tries ten useless tricks with one seed each and keeps the best of them. That is
# why every comparison in this course uses the same seeds on both sides, prints how many seeds there were,
# and calls a gain a gain only if all seeds agree. Even that is no proof: if a trick does nothing, five
# pairs agree as often as five coins land alike, one time in sixteen, and three pairs one time in four.
#
# ## From accuracy to seconds
#
# Is a trick that gains a point better than one that trains twice as fast? You can buy images per second
# with a worse network, and accuracy with more time. So we fix one and measure the other: we judge a trick
# by its **time to a target accuracy**. You know what a second costs; what a point costs depends on where
# you are on the curve.
#
# **How the target was set.** Where plain training hardly improves any more, the time that it needs is
# hardly defined: twice as many images change its accuracy by less than luck does. So the target must lie
# where accuracy still rises. A recorded pilot trained the plain recipe at several lengths, with seeds of
# its own, and chose the highest accuracy to which ten seeds can tell the time within 15 %. The target of
# the `cpu` budget is that number, rounded down to a whole point, because a notebook has only a few runs;
# the targets of the other budgets are guesses. The target is the same for all recipes. What we adjust is
# the number of images that a recipe sees: as many as it needs.

# %%
from fasttricks.course import published

for study in published():
    for row in study.of("plain") if study.reference == "plain" else []:
        say(
            f"In the recorded study on {study.hardware}, the target is {study.target}, and plain training "
            f"is there after {row.images.value:,.0f} images (95 % interval: {row.images.low:,.0f} to "
            f"{row.images.high:,.0f})."
        )
say(
    f"Here the target is **{budget.target}**. Plain training needs {budget.plain:,} images to be there, "
    f"which is {budget.plain / len(data.train):.1f} epochs; a run in a chapter sees {budget.images:,}, "
    f"{epochs:.2f} epochs."
)

# %% [markdown]
# The runs in a chapter are shorter than that, so they end below the target and say so. They compare
# recipes after the same number of images, which is quick. The last chapter compares times to the target.
#
# **One rule for all.** A recipe together with its runs is called an *arm*. An arm is at the target if the
# *mean* of its final accuracies is. Its time is then the *median* of the times of all its runs, so that
# one disturbed run does not change it. If the mean misses the target, the arm **never** arrives, and its
# time is infinite. Only the end of a run counts: curves jump, and if you look often enough, you catch a
# lucky moment above the target.

# %%
middle = sorted(scores["plain"])[2]
mean = np.mean(scores["plain"])
say(
    f"Suppose that the target were {middle:.4f}, the accuracy of the middle one of our five plain runs. "
    f"Three of the five are there or above. Their mean is {mean:.4f}, so the arm would "
    f"**{'be at the target' if mean >= middle else 'never arrive'}**."
)

# %% [markdown]
# So it does not help an arm to have a few runs that are just good enough if the others fail badly. Here
# is an arm of one run that cannot arrive.

# %%
from fasttricks.study.statistics import seconds_to_target

short = train(BASELINE, data, images=BASELINE.batch, target=0.99, label="one step only")

# %% tags=["nbval-check-output"]
holds(seconds_to_target([short]) == float("inf"), "an arm that misses the target takes for ever")

# %% [markdown]
# ## How to read a speed-up
#
# A **speed-up** is a ratio of two times: the median of the slow arm divided by the median of the fast
# one. A ratio of noisy numbers is itself noisy. How far off might it be? From the pairs that we have, we
# draw the same number at random, so that one pair may come up twice and another not at all, and compute
# the speed-up of the drawn pairs. Then we draw again. This method is the **bootstrap** (Efron 1979).
#
# We do it twenty times with the times of our ten runs, before the repair and after it. At the top of the
# figure are the five pairs. Each row below is one draw: a larger dot is a pair that came up more often,
# and the bar is the speed-up, which is a ratio of two medians and need not lie on a dot.

# %%
from fasttricks.course import redraws

times = {name: [run.train_seconds for run in runs] for name, runs in arms.items()}
picks = torch.randint(5, (20, 5), generator=torch.Generator().manual_seed(0))
redraws(times["twice"], times["plain"], picks)
plt.show()

# %%
slow, fast = torch.tensor(times["twice"])[picks], torch.tensor(times["plain"])[picks]
drawn = (slow.median(1).values / fast.median(1).values).tolist()
say(
    f"Twenty draws from the same five pairs give speed-ups from {min(drawn):.2f} to {max(drawn):.2f}; "
    f"{sum(ratio > 1 for ratio in drawn)} of them are above 1 and {sum(ratio < 1 for ratio in drawn)} "
    f"below."
)

# %% [markdown]
# Twenty draws are enough to see it, and two thousand to measure it. The *interval* is the range into which
# 95 in 100 of these speed-ups fall.


# %%
def interval(slow, fast, draws=2000, seed=0):
    rng = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(slow), (draws, len(slow)), generator=rng)
    slow, fast = (torch.tensor(times)[picks].median(1).values for times in (slow, fast))
    ratios = (slow / fast).sort().values
    return ratios[int(0.025 * draws)].item(), ratios[int(0.975 * draws)].item()


# %% [markdown]
# A strict test of a measurement is to measure *nothing*. The repair changes nothing, and to mirror a batch
# takes next to no time, so the interval of our ten runs should contain 1.

# %%
low, high = interval(times["twice"], times["plain"])
contains = "contains 1, as it should" if low <= 1 <= high else "does not contain 1"
say(
    f"After a repair that changes nothing, training is {low:.2f} to {high:.2f} times as fast: the interval "
    f"**{contains}**. So in five pairs on this machine, {100 * max(high - 1, 1 - low):.0f} % more or less "
    f"speed is nothing."
)

# %% [markdown]
# An interval that excludes 1 is necessary for a speed-up, but a few pairs do not prove one: they, too, may
# land alike as coins do. We also check that the method can say yes, with times that really are
# halved, and we look at what the interval is when we have few pairs.

# %% tags=["nbval-check-output"]
halved = interval([2.0, 2.2, 1.9, 2.1, 2.0], [1.0, 1.1, 0.95, 1.05, 1.0])
holds(abs(halved[0] - 2) < 1e-4 and abs(halved[1] - 2) < 1e-4, "half the time is twice the speed")
wide = interval([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0, 1.0])
holds(wide[0] < 1 < wide[1], "shuffled times are no speed-up: the interval contains 1")
holds(wide[0] <= 1 / 2 and wide[1] >= 5, "of five pairs, it spans the lowest and the highest ratio")

# %% [markdown]
# So with five pairs or fewer, the interval is at least as wide as the range of ratios that we saw. With
# three it is little else, and it covers the truth less often than 95 times in 100.
#
# ## Takeaways
#
# We promised an honest way to measure. It fits on a card:
#
# - Fix the target before you train, and give each recipe as many images as it needs.
# - Use the same seeds on both sides, and let the recipes take turns.
# - An arm is at the target when its mean is. Do not leave out the runs that failed.
# - Look at both clocks.
# - Call it level where the seeds disagree or the interval contains 1.
# - A gain many times as large as the luck needs few seeds. A small one needs many.

# %%
say(
    f"On this machine, for runs of {epochs:.2f} epochs, that means: from one run, believe no gain below "
    f"**{100 * (highest - lowest):.1f} points**, and from five pairs no speed-up below "
    f"**{max(high, 1 / low):.2f} times**."
)

# %% [markdown]
# ## Questions
#
# **1. Why do we not compare accuracies after a fixed number of epochs?**
#
# <details><summary>Answer</summary>Because an epoch takes a different time with different tricks, and you
# pay in seconds.</details>
#
# **2. Why must both sides use the same seeds?**
#
# <details><summary>Answer</summary>Because the luck that both sides share then cancels within each pair,
# and fewer runs tell you more.</details>
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
