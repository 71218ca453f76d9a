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
# # 3. Cyclic learning rates and one-cycle
#
# The learning rate sets how far each step goes. Long steps travel fast but never settle. Short steps
# settle but travel slowly. So we let the rate move: up to travel, then down to settle. That is the usual
# story. In this chapter, we find out how high the rate can go, build two well-known shapes, and move the
# momentum in the opposite direction. Then we take the trick apart and measure what each part is worth.
#
# About 20 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/03_cyclic_lr.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/03_cyclic_lr.ipynb).
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
# The budget depends on the device. It sets which network we train, on how many images, and how many
# times.

# %%
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean

from fasttricks import BASELINE, Cyclic, OneCycle, choose_budget, load, train
from fasttricks.course import accuracy_table, bars, faster, gained, holds, one_line, train_arms

budget, data = choose_budget(), load()

# %% [markdown]
# Here is the idea in one picture: three ways to spend 200 training steps. A *recipe* is our baseline plus
# the tricks that we add to it. It knows the learning rate of every step before any training.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import plot, say

span = range(200)
recipes = {
    "constant": BASELINE,
    "triangles": BASELINE + Cyclic(high=10.0, half=25),
    "one-cycle": BASELINE + OneCycle(),
}
planned = {name: [recipe.lr_at(step, 200) for step in span] for name, recipe in recipes.items()}
lines = {name: (span, rates) for name, rates in planned.items()}
plot(lines, "training step", "learning rate", "three schedules")
plt.show()

# %%
top = max(planned["one-cycle"])
say(
    f"The constant rate is {BASELINE.lr:g}. The other two rise to {top:.2g}, which is "
    f"{top / BASELINE.lr:.0f} times as high. The triangles do so four times, with valleys at "
    f"{min(planned['triangles']):g}. One-cycle does so once and ends at {planned['one-cycle'][-1]:.0e}, "
    f"which is practically zero."
)

# %% [markdown]
# Next, here is what our recorded study found about this trick, in runs up to a fixed accuracy. In it,
# "2 times as fast" means that the trick needs half the time. Below it is the trick's card, straight from the
# top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import cyclic

say(headline("cyclic"))
Markdown(cyclic.__doc__)

# %% [markdown]
# ## The problem: a constant rate hides what the network has learned
#
# We train without any tricks, at one rate from the first step to the last, and look at the network again
# and again along the way. For this we write the training loop ourselves. It is an ordinary loop, except
# that it hands us the network after every step (`yield`). `set_rates` sets the rate and the momentum in
# the optimiser.

# %%
import torch

from fasttricks.loop import accuracy, cross_entropy, set_rates
from fasttricks.models import begin, optimizer_for

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
here = replace(data, val=data.val[: budget.val]).to(device, budget.image_size)


def training(recipe, steps, seed=0):
    torch.manual_seed(seed)
    shape = (data.channels, len(data.classes), budget.image_size)
    net = begin(recipe, budget.model, *shape).to(device)
    optimizer = optimizer_for(recipe, net)
    draws = here.draws(recipe.batch, torch.Generator().manual_seed(seed))
    for step in range(steps):
        x, q = here.batch(*next(draws))
        set_rates(optimizer, recipe.lr_at(step, steps), recipe.momentum_at(step, steps))
        loss = cross_entropy(net(x), q)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield net, loss.item()


# %% [markdown]
# Unless we say otherwise, every run in this chapter sees half of the images of the budget. In the second
# half of such a run, we keep a copy of the network at eight marks, equally far apart.

# %%
import copy

half = budget.images // 2
length = half // BASELINE.batch
marks = [length - back * length // 16 for back in range(7, -1, -1)]
copies = [
    copy.deepcopy(net)
    for step, (net, _) in enumerate(training(BASELINE, length), start=1)
    if step in marks
]
scores = [accuracy(net, here, here.val, BASELINE) for net in copies]
title = "constant rate, one seed"
plot({"": (marks, scores)}, "training step", "validation accuracy", title, marks=True)
plt.show()

# %%
changes = [100 * (after - before) for before, after in pairwise(scores)]
falls = sum(change < 0 for change in changes)
say(
    f"From one mark to the next, accuracy fell **{falls} of {len(changes)}** times. The changes lie "
    f"between {min(changes):+.1f} and {max(changes):+.1f} points. The validation images are the same at "
    f"every mark, so only the network has changed."
)

# %% [markdown]
# What changes in a network like this one when the steps are long? Two things:
#
# - **The weights.** They jump around a good solution and cannot settle in it.
# - **The statistics of batch norm.** In evaluation, batch norm uses a running mean and a running variance.
#   Each training step moves them a tenth of the way to the values of the current batch (chapter 2). While
#   the weights move fast, these averages describe a network that no longer exists.
#
# We can tell the two apart, because the second can be cured without any training. We *refresh* the
# statistics: 2,000 training images go through the network, and their mean and variance replace the running
# ones. The weights stay as they are.

# %%
from torch.optim.swa_utils import update_bn


def refreshed(net):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), net)
    return accuracy(net, here, here.val, BASELINE)


cured = [refreshed(net) for net in copies]
lines = {"as trained": (marks, scores), "refreshed": (marks, cured)}
plot(lines, "training step", "validation accuracy", title, marks=True)
plt.show()

# %%
hidden = [100 * (after - before) for before, after in zip(scores, cured, strict=True)]
calmer = [100 * (after - before) for before, after in pairwise(cured)]
say(
    f"The refresh moves these eight networks by **{mean(hidden):+.1f} points** on average, and by "
    f"{max(hidden, key=abs):+.1f} at most. Refreshed, accuracy fell "
    f"**{sum(change < 0 for change in calmer)} of {len(calmer)}** times from one mark to the next, and the "
    f"changes lie between {min(calmer):+.1f} and {max(calmer):+.1f} points."
)

# %%
more = mean(hidden) >= 1
steadier = max(calmer) - min(calmer) < 0.7 * (max(changes) - min(changes))
say(
    f"The network had learned {'**more than**' if more else '**about what**'} its score showed. "
    + (
        "Much of the up and down came from the lagging averages, not from the weights."
        if steadier
        else "The up and down is still there after the refresh, so it came from the weights."
    )
)

# %% [markdown]
# A rate that falls at the end could therefore help in two ways. Short steps let the weights settle. Short
# steps also let the running averages catch up with the weights. A refresh does only the second. So from
# here on, we judge every network twice:
#
# - *as trained*, which is what you get if you do nothing more;
# - *refreshed*, which tells what the weights are worth.
#
# What a trick gains as trained but not when refreshed, it gains through the averages.

# %% [markdown]
# ## By hand: how high may the rate go?
#
# Before a rate can move between two bounds, we must know them. The **range test** (Smith 2015) finds them
# in one short run: start with a tiny rate, multiply it by the same number at each step, and record the
# loss. (Smith raised the rate by equal amounts and recorded the accuracy. The version with factors and the
# loss comes from fast.ai.)
#
# We write it as a trick of our own. In this course, a trick is any small frozen dataclass that names the
# *slot* it fills, which is the part of training that it changes. Before each step, the training loop asks
# this one for a factor on the recipe's rate. The factor goes from `low` to `high`.


# %%
from typing import ClassVar


@dataclass(frozen=True)
class RangeTest:
    low: float
    high: float
    chapter: ClassVar[int] = 3
    slots: ClassVar[tuple[str, ...]] = ("lr_factors",)

    def lr_factor(self, step, steps, batch):
        return self.low * (self.high / self.low) ** (step / (steps - 1))


rising = BASELINE + RangeTest(low=0.01, high=10_000)
tested = 200
rates = [rising.lr_at(step, tested) for step in range(tested)]
f"from {rates[0]:g} to {rates[-1]:g}, each rate {rates[1] / rates[0]:.3f} times the one before"

# %% [markdown]
# We train a fresh network with these rates and keep the losses. The loss of a single batch is noisy, so we
# average it with the losses of earlier steps, giving older ones less and less weight.

# %%
losses = [loss for _, loss in training(rising, tested)]
smooth, average = [], losses[0]
for loss in losses:
    average = 0.9 * average + 0.1 * loss
    smooth.append(average)

# %% [markdown]
# Read the curve from left to right. While it is flat, the steps are too short to matter. Then the loss
# falls, stays low for a while, and climbs. From this we read two bounds with a rule:
#
# - **Lower bound:** the rate at which the loss has fallen by a tenth.
# - **Upper bound:** a tenth of the rate at which the loss begins to climb, that is, of the last rate at
#   which it is still within a tenth of its lowest value.
#
# Why a whole factor of ten below the climb? First, averaging over about ten steps delays the curve, and in
# ten steps the rate doubles, so the curve lies too far to the right. Second, the loss also falls because
# training has gone on for longer, which makes high rates look better than they are. Third, a rate that is
# harmless for ten steps may not be harmless for a thousand.

# %%
points = list(zip(rates, smooth, strict=True))
lower = next(rate for rate, loss in points if loss < 0.9 * smooth[0])
climbs = max(rate for rate, loss in points if loss < 1.1 * min(smooth))
upper = climbs / 10
plot({"loss": (rates, smooth)}, "learning rate", "loss, averaged", "range test", scale="log")
for rate, name in (
    (lower, "lower"),
    (BASELINE.lr, "constant"),
    (upper, "upper"),
    (climbs, "climbs"),
):
    plt.axvline(rate, color="grey", linestyle=":" if name == "climbs" else "--")
    plt.text(rate, 1.9 * smooth[0], f" {name}", rotation=90, va="top")
plt.ylim(0, 2 * smooth[0])
plt.show()

# %%
peak = 10 * BASELINE.lr
say(
    f"The lower bound is **{lower:.1g}**. The loss begins to climb at {climbs:.2g}, so the upper bound is "
    f"**{upper:.2g}**, or {upper / BASELINE.lr:.0f} times our constant rate of {BASELINE.lr:g}. The peak of "
    f"`OneCycle`, 10 times the constant rate, is {peak:g}: it lies "
    f"{'below' if peak < upper else 'above'} that bound. One-cycle starts at a 25th of its peak, "
    f"{peak / 25:.1g}."
)

# %% [markdown]
# So 10 times is a convention, and the range test is how you check it for your own network: use the
# smaller of 10 times your constant rate and the upper bound.

# %% [markdown]
# ## Write it
#
# **A triangle.** The rate rises for `half` steps and falls for `half` steps, over and over. We need its
# height above the lower bound, as a number between 0 and 1. The three modes differ in what happens to that
# height: it stays the same, is halved after each cycle, or decays a little at every step.


# %%
def height(step, half, mode, gamma=1.0):
    cycle, position = divmod(step / half, 2)
    shrink = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": gamma**step}[mode]
    return (1 - abs(position - 1)) * shrink


[height(step, 4, "triangular") for step in range(10)]

# %% [markdown]
# Here are the three modes over four cycles.

# %%
steps = range(401)
heights = {mode: [height(step, 50, mode, 0.995) for step in steps] for mode in cyclic.MODES}
plot({mode: (steps, found) for mode, found in heights.items()}, "training step", "height")
plt.show()

# %%
tops = {mode: [found[step] for step in (50, 150, 250, 350)] for mode, found in heights.items()}
say(
    " ".join(f"`{mode}` peaks at {', '.join(f'{top:.2g}' for top in tops[mode])}." for mode in tops)
)

# %% [markdown]
# We will see what the valleys are good for when we train.
#
# **One cycle.** If we know when training will stop, one cycle is enough: a quick rise, then one long fall
# to nearly zero. Here, both follow half a cosine wave. (The cycle of Smith and Topin had straight sides and
# a short third phase at very low rates. The version with two cosine phases is fast.ai's, and torch's
# default.)

# %%
import math


def one_cycle(step, steps, first, middle, last, rise):
    turn, end = rise * steps - 1, steps - 1  # steps count from 0
    if step <= turn:
        begin, goal, share = first, middle, step / turn
    else:
        begin, goal, share = middle, last, (step - turn) / (end - turn)
    share = (1 - math.cos(math.pi * share)) / 2
    return begin + (goal - begin) * share


# %% [markdown]
# With the default settings of `OneCycle`, the rate starts at a 25th of the peak and ends at a
# ten-thousandth of that starting rate. The momentum moves in the opposite direction.

# %%
clock = range(100)
factors = [one_cycle(step, 100, 0.4, 10.0, 0.4 / 1e4, 0.25) for step in clock]
momenta = [one_cycle(step, 100, 0.95, 0.85, 0.95, 0.25) for step in clock]
plot({"rate": (clock, factors)}, "training step", "factor on the rate")
plot({"momentum": (clock, momenta)}, "training step", "momentum (AdamW: beta1)")
plt.show()

# %%
say(
    f"The factor is highest ({max(factors):g}) at step {factors.index(max(factors))}, and at step "
    f"{momenta.index(min(momenta))} the momentum is lowest ({min(momenta):g}). At both ends of the run, "
    f"the momentum is {momenta[0]:g}."
)

# %% [markdown]
# **Why in reverse?** Momentum adds earlier steps to the current one. Suppose the gradient is 1 at every
# step, and look at how far plain SGD with momentum moves in each step.


# %%
def moves(momentum, steps=100):
    velocity, found = 0.0, []
    for _ in range(steps):
        velocity = momentum * velocity + 1.0
        found.append(velocity)
    return found


plot(
    {"momentum 0.95": (clock, moves(0.95)), "momentum 0.85": (clock, moves(0.85))},
    "training step",
    "length of the step, in learning rates",
)
plt.show()

# %%
long, short = moves(0.95)[-1], moves(0.85)[-1]
say(
    f"With momentum 0.95, a step grows to {long:.1f} times the learning rate; with 0.85, to {short:.1f} "
    f"times. At the same rate, the lower momentum makes the step {long / short:.1f} times shorter."
)

# %% [markdown]
# Both lines level off at 1 + m + m² + … = 1 / (1 - m). So the *effective step* of SGD is
# lr / (1 - momentum), and a high momentum acts as a second, hidden learning rate. One-cycle lowers this
# hidden rate just when the visible one is at its highest.

# %% tags=["nbval-check-output"]
for momentum in (0.85, 0.95):
    level = moves(momentum, 1000)[-1]
    holds(abs(level - 1 / (1 - momentum)) < 1e-6, f"with {momentum} it levels off at 1 / (1 - m)")

# %% [markdown]
# This argument applies to SGD, and our baseline uses AdamW. Adam *averages* gradients instead of adding
# them, so a steady gradient gives the same step at any beta1. What beta1 sets is how long old gradients are
# remembered: about 20 steps with 0.95, about 7 with 0.85. The usual reason for moving it is that during
# long steps, old gradients come from places that the network has left. That is plausible but not proven, so
# below we train one-cycle with a fixed beta1 too.

# %% [markdown]
# ## Check it
#
# First, we check that our functions match those in the package.

# %% tags=["nbval-check-output"]
same = [
    height(step, 7, mode, 0.99) == cyclic.height(step, 7, mode, 0.99)
    for mode in cyclic.MODES
    for step in range(100)
]
holds(all(same), "our triangles are the package's")
theirs = [cyclic.one_cycle(step, 100, 0.4, 10.0, 0.4 / 1e4, 0.25, "cos") for step in clock]
holds(factors == theirs, "our one-cycle is the package's")

# %% [markdown]
# Second, torch provides both schedules as objects that count steps and modify an optimiser. So we run
# torch through 100 steps and record the rate and the momentum before each one.


# %%
def watch(optimizer, schedule_of):
    schedule, found = schedule_of(optimizer), []
    for _ in clock:
        group = optimizer.param_groups[0]
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        found.append([group["lr"], momentum])
        optimizer.step()
        schedule.step()
    return torch.tensor(found, dtype=torch.float64)


# %% [markdown]
# Our schedules need no training loop. We ask the recipe for the values at all the steps, and run torch
# once with SGD and once with AdamW.


# %%
def asked(recipe):
    found = [[recipe.lr_at(step, 100), recipe.momentum_at(step, 100)] for step in clock]
    return torch.tensor(found, dtype=torch.float64)


weight = [torch.zeros(1, requires_grad=True)]
makers = {
    "SGD": lambda: torch.optim.SGD(weight, BASELINE.lr, momentum=0.9),
    "AdamW": lambda: torch.optim.AdamW(weight, BASELINE.lr),
}

# %% [markdown]
# We compare the triangles first, in all three modes. At ten steps per side, five cycles fit in 100 steps.

# %% tags=["nbval-check-output"]
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

low, high = 0.1 * BASELINE.lr, BASELINE.lr
more = {"step_size_up": 10, "gamma": 0.99, "base_momentum": 0.85, "max_momentum": 0.95}
for name, make in makers.items():
    for mode in cyclic.MODES:
        theirs = watch(make(), lambda o, m=mode: CyclicLR(o, low, high, mode=m, **more))
        ours = asked(BASELINE + Cyclic(half=10, mode=mode, gamma=0.99))
        holds(torch.allclose(ours, theirs, 1e-9, 0), f"{name}, {mode}: as torch's CyclicLR")

# %% [markdown]
# Next, we compare one-cycle. Torch takes the peak rate; ours takes a multiple of the base rate.

# %% tags=["nbval-check-output"]
ours = asked(BASELINE + OneCycle())
for name, make in makers.items():
    theirs = watch(make(), lambda o: OneCycleLR(o, peak, total_steps=100, pct_start=0.25))
    holds(torch.allclose(ours, theirs, 1e-9, 0), f"{name}: as torch's OneCycleLR")

# %% [markdown]
# Third, we check a property that torch's objects lack. They count how often they have been called. Ours is
# a *pure function of the step*: it keeps no state, so it can also be queried backwards, by several
# processes, or again after a step that mixed precision has skipped (chapter 7).

# %% tags=["nbval-check-output"]
recipe = BASELINE + OneCycle()
back = [recipe.lr_at(step, 100) for step in reversed(clock)]
holds(back[::-1] == [recipe.lr_at(step, 100) for step in clock], "queried backwards: the same")

# %% [markdown]
# ## In your own loop
#
# You do not need this package to use the trick. In a plain PyTorch script, you need only the lines below:
# remove those marked `-` and add those marked `+`.
#
# ```diff
#      steps, epoch = max(1, images // BATCH), len(y) // BATCH
# +    schedule = torch.optim.lr_scheduler.OneCycleLR(
# +        optimizer, 30 * LR, steps, pct_start=0.15, base_momentum=0.8, max_momentum=0.9
# +    )
#      started = time.perf_counter()
#  ...
#          optimizer.step()
# +        schedule.step()
#          optimizer.zero_grad()
# ```
#
# The complete script is [`examples/cyclic.py`](../examples/cyclic.py). `OneCycleLR` needs to know the
# number of steps in advance, and must be stepped once after every optimiser step. It ignores the
# optimiser's own rate, because the peak that you pass is the rate itself.
#
# **Two sets of numbers.** The script is one of seven that add up to the whole of chapter 8. So it has the
# settings that suit all seven tricks together, including pretrained weights: a peak of 30 times the rate,
# a rise of 0.15, and momenta between 0.8 and 0.9. In this chapter, a single trick is added to a network
# with random weights. For this we use the usual settings instead: a peak of 10 times, a rise of 0.25, and
# torch's own momenta between 0.85 and 0.95. In the script, that is this call:
#
# ```python
# schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 10 * LR, steps, pct_start=0.25)
# ```

# %% [markdown]
# ## Use it
#
# Smith & Topin 2017 (arXiv 1708.07120) called what they saw *super-convergence*: a 56-layer ResNet
# reached 92.4 % on CIFAR-10 after 10,000 steps with one cycle, compared with 91.2 % after about 80,000
# steps with a rate that was lowered in stages. That is a claim about one data set, one network, and very
# high rates. The paper adds a condition: high rates act as regularisation themselves, so other
# regularisation (such as weight decay) must be reduced.
#
# Our runs are far too short to test that claim, and we leave the weight decay as it is. We ask a smaller
# question: with the same number of images, does one-cycle end higher, and why? We train fresh networks
# with two recipes, using the same seeds.

# %%
runs = train_arms(
    {"constant 0.001": BASELINE, "one-cycle": BASELINE + OneCycle()}, data, images=half
)
accuracy_table(runs)

# %% [markdown]
# The table shows the networks as trained. Now we refresh each of them and compare both ways. We call one
# recipe higher only if it is so with every seed, and if the mean difference is at least 1 point divided by
# the square root of the number of seeds. Otherwise we call the two *about the same* if no seed differs by 2
# points, and *undecided* if one does.

# %%
stale, fresh = {}, {}


def judge(trained):
    for name, found in trained.items():
        stale[name] = [run.val_accuracy for run in found]
        fresh[name] = [refreshed(run.net) for run in found]


def both_ways(one, other):
    trained, cured = gained(stale[one], stale[other]), gained(fresh[one], fresh[other])
    return f"**{trained}** as trained, and **{cured}** when refreshed"


judge(runs)

# %%
epochs = half / len(data.train)
say(
    f"After {epochs:.2f} epochs, one-cycle compared with the constant rate is "
    f"{both_ways('one-cycle', 'constant 0.001')}. "
    f"The refresh moves the constant rate from {mean(stale['constant 0.001']):.3f} to "
    f"{mean(fresh['constant 0.001']):.3f}, and one-cycle from {mean(stale['one-cycle']):.3f} to "
    f"{mean(fresh['one-cycle']):.3f} (means)."
)

# %% [markdown]
# How did they get there? During a run, `train` evaluates without a refresh, so this figure shows the
# networks as trained.

# %%
curves = {}
for name, found in runs.items():
    images, _, marked = zip(*found[0].curve, strict=True)
    curves[name] = (images, marked)
plot(curves, "images seen", "validation accuracy", "as trained, one seed each", marks=True)
plt.show()

# %%
leads = []
for mark in range(4):
    marked = {name: mean(run.curve[mark][2] for run in found) for name, found in runs.items()}
    leads.append(100 * (marked["one-cycle"] - marked["constant 0.001"]))
say(
    f"At the four marks, one-cycle leads by {', '.join(f'{lead:+.1f}' for lead in leads)} points "
    f"(means, n = {budget.seeds}). It was ahead at {sum(lead > 0 for lead in leads)} of 4."
)

# %% [markdown]
# The peak of the cycle is at the first mark. A run with one-cycle can look bad there and still end well, so
# do not judge it there by its accuracy as trained.
#
# ## Which part does the work?
#
# One-cycle differs from our constant rate in four ways: its rates are higher, they fall at the end, they
# rise at the beginning, and the momentum moves. To tell these apart, we change one at a time.
#
# **The rate and the fall.** We cross two choices. The rate is ours, 3 times, or 10 times as high. (Our own
# rate was chosen for longer runs, and a run as short as these may want a higher one.) The shape is either
# constant, or half a cosine wave that falls from that rate to zero. The cosine is another trick of our own.


# %%
@dataclass(frozen=True)
class Cosine:
    chapter: ClassVar[int] = 3
    slots: ClassVar[tuple[str, ...]] = ("lr_factors",)

    def lr_factor(self, step, steps, batch):
        return (1 + math.cos(math.pi * step / steps)) / 2


tried = (0.001, 0.003, 0.01)
recipes = {}
for lr in tried:
    recipes[f"constant {lr:g}"] = replace(BASELINE, lr=lr)
    recipes[f"cosine {lr:g}"] = replace(BASELINE, lr=lr) + Cosine()

# %% [markdown]
# **The rise and the momentum.** One-cycle whose momentum stays at the baseline's 0.9 is nothing but a
# cosine with a warm-up, which takes a quarter of the run here. With the complete one-cycle, which we have
# already, that makes eight recipes. All runs have the same seeds and the same number of images.

# %%
recipes["warm-up and cosine"] = BASELINE + OneCycle(momentum_low=0.9, momentum_high=0.9)
missing = {name: recipe for name, recipe in recipes.items() if name not in runs}
others = train_arms(missing, data, images=half, evaluations=1)
runs.update(others)
judge(others)

# %% [markdown]
# ### A better rate, or a falling one?
#
# Two groups of networks come first: those with a constant rate and those with a cosine. For each group we
# look up the rate with the best mean accuracy.


# %%
def best(shape, found):
    return max((f"{shape} {lr:g}" for lr in tried), key=lambda name: mean(found[name]))


flat, fall = best("constant", fresh), best("cosine", fresh)
flat_stale, fall_stale = best("constant", stale), best("cosine", stale)
lines = {}
for way, found in (("as trained", stale), ("refreshed", fresh)):
    for shape in ("constant", "cosine"):
        means = [mean(found[f"{shape} {lr:g}"]) for lr in tried]
        lines[f"{shape}, {way}"] = (tried, means)
title = f"means, n = {budget.seeds}"
plot(lines, "learning rate at the start", "validation accuracy", title, scale="log", marks=True)
plt.show()

# %% [markdown]
# A cosine's rate is on average only half as high as at its start. So we compare the two shapes at the same
# rate, and also each at its best rate. The second comparison is the fair one if you may choose the rate, so
# it decides.

# %%
same_rate = flat.replace("constant", "cosine")
say(
    f"- **The rate.** Compared with the constant rate of 0.001, the best constant rate, "
    f"{flat.split()[1]}, is {both_ways(flat, 'constant 0.001')}.\n"
    f"- **The fall, at the same rate.** Compared with the constant rate of {flat.split()[1]}, the cosine "
    f"that starts there is {both_ways(same_rate, flat)}.\n"
    f"- **The fall, best against best.** As trained, the best rates are {flat_stale.split()[1]} (constant) "
    f"and {fall_stale.split()[1]} (cosine), and the cosine is "
    f"**{gained(stale[fall_stale], stale[flat_stale])}**. When refreshed, they are {flat.split()[1]} and "
    f"{fall.split()[1]}, and the cosine is **{gained(fresh[fall], fresh[flat])}**."
)

# %% [markdown]
# We turn a comparison into one word, so that the verdict, here and below, comes from the numbers.


# %%
def word(own, other):
    found = gained(own, other)
    return next((w for w in ("higher", "lower", "same", "undecided") if w in found), "unknown")


# %%
as_trained = word(stale[fall_stale], stale[flat_stale])
when_refreshed = word(fresh[fall], fresh[flat])
first = {
    "higher": "As trained, a falling rate pays.",
    "lower": "As trained, a falling rate costs accuracy.",
    "same": "As trained, a falling rate changes little.",
}.get(as_trained, "As trained, these runs cannot tell whether a falling rate pays.")
second = {
    "higher": "It is ahead after the refresh, too, so it leaves **better weights**.",
    "lower": "After the refresh it is behind, so it leaves **worse weights**.",
    "same": "After the refresh the two are about the same, so its **weights are no better** than those of "
    "a good constant rate.",
}.get(
    when_refreshed, "After the refresh, these runs **cannot tell** whether its weights are better."
)
through = (as_trained, when_refreshed) == ("higher", "same")
say(f"{first} {second}{' What it gained, it gained through the averages.' if through else ''}")

# %%
moved = {name: mean(fresh[name]) - mean(stale[name]) for name in stale}
still = abs(moved["cosine 0.01"]) < abs(moved["constant 0.01"]) / 2
say(
    f"How far did the averages lag? The refresh moves the constant rate of 0.01 by "
    f"**{100 * moved['constant 0.01']:+.1f} points** (mean), and the cosine that starts at 0.01 by "
    f"{100 * moved['cosine 0.01']:+.1f}. "
    + (
        "At the end of a cosine the network hardly moves, and the averages have caught up."
        if still
        else "So in a run with so few steps, a cosine does not cure the lag either."
    )
)

# %% [markdown]
# ### What each part is worth
#
# Now we put all parts side by side. All networks are refreshed, except for the one side of the first
# bar, which is the refresh itself:
#
# - **the refresh**: constant rate of 0.001, after the refresh and before it;
# - **a better rate**: the best constant rate against 0.001 (it cannot be negative on average, because 0.001
#   is one of the rates from which we choose the best);
# - **the fall**: the best cosine against the best constant rate, each the best of the same three rates;
# - **the warm-up**: the cosine with and without it, from 0.01;
# - **the momentum**: one-cycle against the cosine with warm-up.
#
# In the figure, a dot is a seed, a bar their mean, and the thick line is about the range of the seeds.

# %%
pairs = {
    "the refresh": (fresh["constant 0.001"], stale["constant 0.001"]),
    "a better rate": (fresh[flat], fresh["constant 0.001"]),
    "the fall": (fresh[fall], fresh[flat]),
    "the warm-up": (fresh["warm-up and cosine"], fresh["cosine 0.01"]),
    "the momentum": (fresh["one-cycle"], fresh["warm-up and cosine"]),
}
parts = {}
for name, (own, other) in pairs.items():
    parts[name] = [100 * (a - b) for a, b in zip(own, other, strict=True)]
bars(parts, "points of validation accuracy")
plt.show()

# %%
worth = {name: word(*pair) for name, pair in pairs.items()}
clear_gains = [name for name in pairs if worth[name] == "higher"]
clear_losses = [name for name in pairs if worth[name] == "lower"]
unclear = [name for name in pairs if name not in clear_gains + clear_losses]
whole = gained(fresh["one-cycle"], stale["constant 0.001"])
say(
    f"- From the constant rate of 0.001 as trained to one-cycle refreshed, accuracy is {whole}.\n"
    f"- Clear gains: **{', '.join(clear_gains) or 'none'}**.\n"
    f"- Clear losses: {', '.join(clear_losses) or 'none'}.\n"
    f"- No clear difference: {', '.join(unclear) or 'none'}."
)

# %% [markdown]
# The last two bars answer a question that is often skipped: did one-cycle beat an ordinary cosine with
# warm-up?

# %%
beaten = {
    "higher": "**Yes**, one-cycle beat the cosine with warm-up here",
    "lower": "**No**, one-cycle ended below the cosine with warm-up here",
    "same": "**No**, one-cycle did not beat the cosine with warm-up here",
}.get(
    worth["the momentum"],
    "**These runs cannot tell** whether one-cycle beats the cosine with warm-up",
)
say(
    f"{beaten}: it was {both_ways('one-cycle', 'warm-up and cosine')}. The two differ only in the moving "
    f"momentum, so that is what the momentum was worth. And compared with a cosine from the same peak "
    f"without any warm-up, one-cycle was {both_ways('one-cycle', 'cosine 0.01')}."
)

# %% [markdown]
# Warm-up and momentum may matter elsewhere. A warm-up, for example, may matter more with larger batches or higher peaks
# (chapter 2).
#
# ### Does it stay so in a longer run?
#
# In so short a run, long steps may do little harm. So we train twice as long, with all images of the
# budget: the constant rate that was best so far, and the complete one-cycle. We use our own loop again,
# because it lets us keep a copy of each network halfway, which we need later.


# %%
def twice_as_long(recipe, seed):
    for step, (net, _) in enumerate(training(recipe, 2 * length, seed), start=1):
        if step == length:
            halfway = copy.deepcopy(net)
    return halfway, net


def judge_nets(name, nets):
    stale[name] = [accuracy(net, here, here.val, BASELINE) for net in nets]
    fresh[name] = [refreshed(net) for net in nets]


# %% [markdown]
# We train both with the same seeds as before, and judge the networks at the end.

# %%
long_flat, long_cycle = "constant, longer", "one-cycle, longer"
halves = {}
for name, recipe in ((long_flat, recipes[flat]), (long_cycle, BASELINE + OneCycle())):
    nets = [twice_as_long(recipe, seed) for seed in range(budget.seeds)]
    halves[name] = [halfway for halfway, _ in nets]
    judge_nets(name, [net for _, net in nets])

# %%
short_word = word(fresh["one-cycle"], fresh[flat])
long_word = word(fresh[long_cycle], fresh[long_flat])
say(
    f"After {2 * epochs:.2f} epochs, one-cycle compared with the best constant rate is "
    f"{both_ways(long_cycle, long_flat)}. After {epochs:.2f} epochs, it was "
    f"{both_ways('one-cycle', flat)}. "
)

# %%
verdicts = {
    "higher": "the cycle's weights are better than those of a good constant rate",
    "lower": "the cycle's weights are worse than those of a good constant rate",
    "same": "the cycle's weights are about as good as those of a good constant rate",
}
unsure = "we cannot tell whether the cycle's weights or those of a good constant rate are better"
agree = {True: " The shorter run says the same.", False: " The shorter run says something else."}
known = short_word in verdicts and long_word in verdicts
say(
    f"So after the longer run, **{verdicts.get(long_word, unsure)}**."
    + (agree[short_word == long_word] if known else "")
)

# %% [markdown]
# Both runs are short. The study quoted at the top trained up to a fixed accuracy, which takes longer. It
# judged its networks as trained, so it cannot tell which share of its gain lies in the averages.

# %% [markdown]
# ## Break it
#
# **Too high.** We repeatedly multiply the peak by ten, and train each time on a quarter of the images, with
# one seed. If the loss stops being a number, we count the run as guessing. The dashed line is the upper
# bound from our range test.

# %%
chance = 1 / len(data.classes)


def attempt(factor):
    try:
        run = train(BASELINE + OneCycle(factor), data, images=budget.images // 4, evaluations=1)
    except FloatingPointError:
        return chance, chance
    return run.val_accuracy, refreshed(run.net)


with one_line():
    sweep = {factor: attempt(factor) for factor in (10, 100, 1_000, 10_000)}

# %%
peaks = list(sweep)
trained, cured = zip(*sweep.values(), strict=True)
lines = {"as trained": (peaks, trained), "refreshed": (peaks, cured)}
title = f"one seed; guessing would give {chance:g}"
plot(lines, "peak, times the constant rate", "validation accuracy", title, scale="log", marks=True)
plt.axvline(upper / BASELINE.lr, color="grey", linestyle="--")
plt.show()

# %%
good, extreme = sweep[10], sweep[10_000]
at_thousand = next(loss for rate, loss in points if rate >= 999 * BASELINE.lr)
say(
    f"With a peak of 10 times, training reaches {good[1]:.3f} (refreshed). Compared with that, 100 "
    f"times is {gained([sweep[100][1]], [good[1]], chance)}, 1,000 times is "
    f"{gained([sweep[1_000][1]], [good[1]], chance)}, and 10,000 times is "
    f"**{gained([extreme[1]], [good[1]], chance)}**."
)

# %%
if extreme[1] < 2 * chance:
    what = "At 10,000 times, the network has learned **next to nothing**"
elif extreme[1] < 0.8 * good[1]:
    what = "At 10,000 times, training is **badly damaged**, although the network still learns something"
else:
    what = "Even 10,000 times did **not break** training here"
say(
    f"{what} ({extreme[1]:.2f}, where guessing would give {chance:g}). In the range test, the loss "
    f"at 1,000 times was {at_thousand / min(smooth):.1f} times the lowest value. The cycle with that peak, "
    f"whose rate comes down again, ends at {sweep[1_000][1]:.2f}."
)

# %% [markdown]
# **Stopped too soon.** The schedule must know the length of the run. Where is the rate halfway through?

# %% tags=["nbval-check-output"]
midway = OneCycle(10.0).lr_factor(500, 1000, 64)
holds(abs(midway / 10.0 - 0.75) < 0.01, "halfway, the rate is still at three quarters of its peak")

# %% [markdown]
# What is a network worth that was stopped there? The longer one-cycle above is such a run: halfway, it had
# seen as many images as the shorter one, whose cycle was planned for that length. We judge the copies that
# we kept there.
#
# Triangles are the alternative if you cannot plan, because `Cyclic` passes through a valley again and again.
# We let them go up and down twice, so that the run stops in a valley.

# %%
judge_nets("stopped halfway", halves[long_cycle])
triangles = BASELINE + Cyclic(high=10.0, half=length // 4)
judge(train_arms({"two triangles": triangles}, data, images=half, evaluations=1))

# %% [markdown]
# For comparison, the figure also shows the planned cycle and the best constant rate. All four have seen the
# same number of images.

# %%
shown = ["one-cycle", "stopped halfway", "two triangles", flat]
places = range(len(shown))
lines = {
    way: (places, [mean(found[name]) for name in shown])
    for way, found in (("as trained", stale), ("refreshed", fresh))
}
plot(
    lines,
    "all with the same images",
    "validation accuracy",
    f"means, n = {budget.seeds}",
    marks=True,
)
plt.xticks(places, ["one-cycle,\nas planned", *(name.replace(" ", "\n", 1) for name in shown[1:])])
plt.show()

# %%
say(
    f"- Compared with the cycle that was planned for this length, the one stopped halfway is "
    f"{both_ways('stopped halfway', 'one-cycle')}.\n"
    f"- Compared with that planned cycle, the two triangles are "
    f"{both_ways('two triangles', 'one-cycle')}.\n"
    f"- Compared with the best constant rate, they are {both_ways('two triangles', flat)}."
)

# %% [markdown]
# Where the stopped network is worse, does that lie in its weights, or only in its averages?


# %%
def diagnosis(own, other):
    trained, weights = word(stale[own], stale[other]), word(fresh[own], fresh[other])
    if trained != "lower":
        return "not clearly worse, even as trained"
    if weights == "lower":
        left = (mean(fresh[other]) - mean(fresh[own])) / (mean(stale[other]) - mean(stale[own]))
        return f"worse **in its weights, too**: after a refresh, {left:.0%} of the gap is left"
    return {
        "same": "worse **only in its averages**: a refresh closes the gap",
        "higher": "worse **only in its averages**: after a refresh, it is even ahead",
    }.get(weights, "worse as trained, but these runs **cannot tell** whether its weights are worse")


# %%
say(
    f"So compared with the planned cycle, a cycle that is stopped halfway is "
    f"{diagnosis('stopped halfway', 'one-cycle')}."
)

# %% [markdown]
# ## What was promised, what we saw, and a recipe
#
# The card at the top makes four claims. Here they are beside what happened.

# %%
seconds = {name: [run.train_seconds for run in found] for name, found in runs.items()}
say(
    f"- *Cost: none.* With the same images, training with one-cycle was "
    f"{faster(seconds['one-cycle'], seconds['constant 0.001'])}.\n"
    f"- *Pays when the length is known.* Compared with the baseline's rate, one-cycle was "
    f"{both_ways('one-cycle', 'constant 0.001')}. Compared with a good constant rate, it was, in "
    f"the longer run, {both_ways(long_cycle, long_flat)}.\n"
    f"- *Fails when the peak is too high.* With a peak of 10,000 times instead of 10, accuracy was "
    f"{gained([extreme[1]], [good[1]], chance)}.\n"
    f"- *Fails when the run is stopped before its end.* Compared with a cycle planned for that length, one "
    f"that was stopped halfway was {both_ways('stopped halfway', 'one-cycle')}."
)

# %% [markdown]
# And this is what did the work.

# %%
fall_gain = gained(fresh[fall], fresh[flat])
long_gain = gained(fresh[long_cycle], fresh[long_flat])
lesson = {
    (
        "same",
        "same",
    ): "So the usual story, in which short steps let the weights settle, is **not** what paid "
    "here. What the falling rate offers is a network whose averages have caught up by themselves.",
    (
        "same",
        "higher",
    ): "So in short runs, short steps at the end left no better weights, and in longer ones "
    "they did: **the usual story begins to hold as training goes on**.",
    (
        "higher",
        "higher",
    ): "So **the usual story holds**: short steps at the end left better weights.",
}.get(
    (when_refreshed, long_word),
    "So these runs **cannot tell** whether short steps at the end leave better weights.",
)

# %%
say(
    f"Of the five parts, the clear gains were **{' and '.join(clear_gains) or 'none'}**. Compared with a "
    f"good constant rate, and with all networks refreshed, a cosine was {fall_gain}, and one-cycle in the "
    f"longer run {long_gain}. {lesson}"
)

# %% [markdown]
# **A rule of thumb.** This is for a network with batch norm that starts from random weights. Our runs say
# nothing about networks without batch norm, in which there is nothing to refresh.

# %%
anytime = {
    "higher": "use triangles and stop in a valley, which was the better of the two here",
    "lower": "keep the best constant rate and refresh before you evaluate, which beat the triangles here",
    "same": "keep the best constant rate and refresh before you evaluate. Triangles that stop in a valley "
    "were about as good here",
}.get(
    word(fresh["two triangles"], fresh[flat]),
    "keep the best constant rate and refresh before you evaluate. Whether triangles are better, these runs "
    "cannot tell",
)
fall_rule = (
    "Let the rate fall only if you cannot refresh"
    if long_word == "lower"
    else "Then, if you know the number of steps, let the rate fall to zero"
)
extras = [name for name in ("the warm-up", "the momentum") if worth[name] == "higher"]
shape_rule = f"Keep {' and '.join(extras)}" if extras else "A plain cosine is enough"

# %%
say(
    f"1. **First find a good constant rate.** Try 1, 3 and 10 times your rate, and refresh before you "
    f"compare. Here the best was {flat.split()[1]}: it was {gained(fresh[flat], fresh['constant 0.001'])}.\n"
    f"2. **{fall_rule}.** The fall costs no time. At the end, a refresh moved one-cycle by "
    f"{100 * moved['one-cycle']:+.1f} points, and the best constant rate by {100 * moved[flat]:+.1f}.\n"
    f"3. **{shape_rule}.** Compared with going without, the warm-up was {gained(*pairs['the warm-up'])}, and "
    f"the momentum {gained(*pairs['the momentum'])}.\n"
    f"4. **If you cannot plan the length,** {anytime}."
)

# %% [markdown]
# In code, with `climbs` from the range test, the complete one-cycle is one line, and so is the plain cosine,
# whose optimiser must have the peak as its rate:
#
# ```python
# peak = min(10 * lr, climbs / 10)
# schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.25)
# schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)  # instead
# ```
#
# If the loss stops being a number or climbs and stays high, halve the peak. If you start from pretrained
# weights or add other tricks, search for the peak anew: that is why the script above has 30 instead of 10.
#
# ## Questions
#
# **1. Why can a falling rate raise the accuracy within a few steps?**

# %%
say(
    "<details><summary>Answer</summary>For two reasons. As soon as the weights move slowly, batch norm's "
    "running averages catch up with them. And short steps let the weights settle, where long ones overshot. "
    "A refresh tells the two apart, because it does only the first. In our runs, compared with a good "
    f"constant rate and with all networks refreshed, a cosine was {fall_gain}, and one-cycle in the longer "
    f"run {long_gain}. That is what is left for the second reason.</details>"
)

# %% [markdown]
# **2. What does the range test not tell you?**
#
# <details><summary>Answer</summary>Whether a rate stays harmless over a long run. The test spends only a
# few steps at each rate, on a network that is still in early training.</details>
#
# **3. The momentum is 0.9 and the rate is 0.1. You set the momentum to 0.95. Which rate keeps SGD's
# effective step the same?**
#
# <details><summary>Answer</summary>0.05: the effective step was 0.1 / 0.1 = 1, and 0.05 / 0.05 is 1
# again.</details>
#
# **4. Your run was interrupted at step 500 of 1,000. You load the weights and the optimiser, build a new
# `OneCycleLR` for 1,000 steps, and train on. What goes wrong?**
#
# <details><summary>Answer</summary>The new schedule begins at step 0: it sets the starting rate, rises to
# the peak again, and the run ends at step 500 of the schedule, with the rate at three quarters of its
# peak. Save `schedule.state_dict()` in the checkpoint and load it too.</details>
#
# **5. You replace a constant rate by one-cycle and gain two points. Which runs do you need before you may
# say that the cycle gained them?**
#
# <details><summary>Answer</summary>At least a higher constant rate and a plain fall without the rise, with
# the same seeds and number of images, and all of them judged with refreshed batch norm too. Otherwise the
# old rate may simply have been too low, its averages may have lagged, or the fall alone may have done
# it.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** Return the momentum for which lr / (1 - momentum) equals the desired effective step.
# Momentum is never below 0.


# %%
from fasttricks.course import check


def momentum_for(lr, effective):
    raise NotImplementedError


check("cyclic", 1, momentum_for)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def momentum_for(lr, effective):
#     return max(0.0, 1 - lr / effective)
# ```
#
# </details>
#
# **Exercise 2.** Write a triangle that takes `up` steps to rise and `down` steps to fall, over and over.


# %%
def sawtooth(step, up, down):
    raise NotImplementedError


check("cyclic", 2, sawtooth)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sawtooth(step, up, down):
#     position = step % (up + down)
#     return position / up if position <= up else (up + down - position) / down
# ```
#
# </details>
#
# **Exercise 3.** A range test should stop by itself. Return the first step whose loss is more than
# `factor` times the lowest loss *until then*, or the number of losses if there is none.


# %%
def stop_at(losses, factor):
    raise NotImplementedError


check("cyclic", 3, stop_at)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def stop_at(losses, factor):
#     lowest = math.inf
#     for step, loss in enumerate(losses):
#         if loss > factor * lowest:
#             return step
#         lowest = min(lowest, loss)
#     return len(losses)
# ```
#
# </details>
#
# ## Further reading
#
# - Smith 2015, [arXiv 1506.01186](https://arxiv.org/abs/1506.01186): triangles and the range test.
# - Smith & Topin 2017, [arXiv 1708.07120](https://arxiv.org/abs/1708.07120): one-cycle and
#   super-convergence.
# - Smith 2018, [arXiv 1803.09820](https://arxiv.org/abs/1803.09820): how to choose rate, batch, momentum
#   and weight decay together.
