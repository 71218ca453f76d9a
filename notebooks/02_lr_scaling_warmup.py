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
# # 2. Learning-rate scaling and warm-up
#
# With a larger batch, a device often processes more images per second. But the same number of images then
# gives fewer steps, so each step should be longer. So this trick raises the *learning rate* (the *rate*, for
# short) with the batch. It also begins the run with lower rates, which is called *warm-up*.
#
# How much higher should the rate be when the batch is k times as large? There are two rules:
#
# - The *linear rule* says k times. It is meant for SGD, whose step is the rate times the mean gradient, which
#   does not grow with the batch (Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677)).
# - The *square-root rule* says √k times. It is meant for Adam and AdamW, which divide by the typical size of
#   the gradient. A larger batch often makes this size smaller, so the steps already grow by themselves
#   (Malladi et al. 2022, [arXiv 2205.10287](https://arxiv.org/abs/2205.10287)).
#
# We measure how far the best rate really moves, and find that a rule gives a first guess, not the answer.
#
# The data are Fashion-MNIST, small grey images of ten kinds of clothes. We compare runs in pairs that share a
# *seed*, which determines the initial weights and the order of the images. We call a difference in accuracy
# clear if all pairs agree on its sign and its mean over n pairs is at least 1/√n percentage points (0.7
# points for two pairs).
#
# About 30 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/02_lr_scaling_warmup.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/02_lr_scaling_warmup.ipynb).
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
# We begin with a single linear layer and 6,144 training images.

# %%
import torch
from torch.nn.functional import cross_entropy

from fasttricks import BASELINE, LRScaling, choose_budget, load

budget = choose_budget()
data = load()
train_x, train_y = data.normalise(data.train.x[:6144]).flatten(1), data.train.y[:6144]
val_x, val_y = data.normalise(data.val.x).flatten(1), data.val.y

# %% [markdown]
# The first function trains the layer once and returns the loss on the validation images. The second returns
# the mean over three orders of the images.


# %%
def one_loss(optimizer, batch, rate, images, seed, options):
    net = torch.nn.Linear(train_x.shape[1], len(data.classes))
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    stepper = optimizer(net.parameters(), rate, **options)
    order = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(seed))
    for rows in order[:images].split(batch):
        cross_entropy(net(train_x[rows]), train_y[rows]).backward()
        stepper.step()
        stepper.zero_grad()
    with torch.inference_mode():
        return cross_entropy(net(val_x), val_y).item()


def linear_loss(optimizer, batch, rate, images=6144, **options):
    losses = [one_loss(optimizer, batch, rate, images, seed, options) for seed in range(3)]
    return sum(losses) / len(losses)


# %% [markdown]
# We train the layer with a batch of 32, and with a batch of 128 at two rates. For each point in the figure, we
# train from the beginning again.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import plot, say

seen = range(1024, 6145, 1024)
lines = {}
for name, batch, rate in (
    ("batch 32", 32, 0.004),
    ("batch 128, same rate", 128, 0.004),
    ("batch 128, 4 times the rate", 128, 0.016),
):
    losses = [linear_loss(torch.optim.SGD, batch, rate, n, momentum=0.9) for n in seen]
    lines[name] = (seen, losses)
plot(lines, "images seen", "validation loss", "one linear layer, SGD", marks=True)
plt.show()

# %%
slow, lagging, rescaled = (line[1][-1] for line in lines.values())
say(
    f"After {seen[-1]:,} images, the batch of 32 has reached a loss of {slow:.2f}. On the same images, a "
    f"batch of 128 takes a quarter as many steps. At the same rate, its loss is still {lagging:.2f}. At 4 "
    f"times the rate, its loss is **{rescaled:.2f}**, which makes up for "
    f"{100 * (lagging - rescaled) / (lagging - slow):.0f} % of the lag."
)

# %% [markdown]
# ## By hand: ten small steps or one large
#
# Suppose that each of ten images pulls on one weight with a fixed strength, wherever the weight is. Ten steps
# at a rate of 0.1, one for each image, add up the pulls. One large step with all ten images takes the mean of
# the pulls, so we give it ten times the rate.

# %%
pulls = torch.tensor([3.0, -1, 2, 0, 4, 1, -2, 5, 3, 1], dtype=torch.float64)
w = torch.zeros((), dtype=torch.float64)
for pull in pulls:
    w = w - 0.1 * pull
one = -(10 * 0.1) * pulls.mean()
w.item(), one.item()

# %% [markdown]
# Both end at the same place. `holds` prints a claim that the code has just verified.

# %% tags=["nbval-check-output"]
from fasttricks.course import holds

holds(torch.allclose(w, one), "k steps at a fixed slope are one step at k times the rate")

# %% [markdown]
# That is the whole **linear rule**: k times the batch needs k times the rate, because the sum of k pulls is k
# times their mean. The rule assumes that the slope does not change on the way. In a valley, it does change.
# Take the loss w² / 2, whose slope is w itself, and start at 1. At a rate of lr, each small step multiplies w by
# 1 - lr, and the one large step by 1 - k · lr.

# %%
ks = list(range(1, 46))
small = [(1 - 0.05) ** k for k in ks]
large = [1 - 0.05 * k for k in ks]
lines = {"k steps of 0.05": (ks, small), "one step of k · 0.05": (ks, large)}
plot(lines, "k", "position (lowest point at 0)", "a valley")
plt.show()

# %% [markdown]
# On the left, the lines touch, so the rule works. Further right, the large step goes too far. Below 0, it has
# crossed the lowest point. Below -1, it ends farther away than it began. So the linear rule must fail at some
# k, and at a smaller k if the rate was already high.
#
# ### Why Adam may want the square root
#
# Adam divides every step by the typical size of the gradient. Often, that size is mostly noise from the
# random choice of images. If we take the mean over k times as many images, the noise shrinks by a factor of
# √k. So Adam's steps towards the goal grow by a factor of √k *with no change of the rate*. They need to grow
# by a factor of k, so we raise the rate by the missing √k. This is the **square-root rule**.
#
# If there is hardly any noise, Adam's steps do not grow by themselves. Then we need k times the rate. We can
# see both cases with torch's Adam and 2,000 weights that all feel the same weak pull.


# %%
def travel(batch, lr, steps, noise):
    chance = torch.Generator().manual_seed(0)
    w = torch.zeros(2000, requires_grad=True)
    adam = torch.optim.Adam([w], lr)
    for _ in range(steps):
        w.grad = 0.02 + noise * torch.randn(2000, generator=chance) / batch**0.5
        adam.step()
    return -w.mean().item()


# %% [markdown]
# First, we take 1,600 steps with a batch of 1. Then we take 100 steps with a batch of 16, at three rates. We
# print how far these get, as a multiple of the first run. So 1 means that the factor fits.

# %%
ratios = {}
for name, noise in {"strong noise": 1.0, "hardly any noise": 0.001}.items():
    far = travel(1, 1e-3, 1600, noise)
    for factor in (1, 4, 16):
        ratios[name, factor] = travel(16, factor * 1e-3, 100, noise) / far
        print(f"{name:16}, rate times {factor:2}: {ratios[name, factor]:.2f}")

# %% tags=["nbval-check-output"]
holds(abs(ratios["strong noise", 4] - 1) < 0.2, "strong noise: the square root of 16 fits")
holds(abs(ratios["hardly any noise", 16] - 1) < 0.1, "hardly any noise: 16 itself fits")

# %% [markdown]
# So in this toy, Adam needs √k or k, depending on how noisy the gradient is. But the toy has no valley, so no
# step can be too long.
#
# ### Why the first steps should be short
#
# How long a step can safely be depends on how sharply the loss curves. Here is a loss that is flat near its lowest
# point and steep far away: w⁴ / 4, whose slope is w³. We start at 2, at a rate of 0.6.


# %%
def walk(rates):
    path = [2.0]
    for rate in rates:
        path.append(path[-1] - rate * path[-1] ** 3)
    return path


at_once = walk([0.6] * 4)
[round(w, 2) for w in at_once]

# %% [markdown]
# The first step jumps across the valley to a steeper place, and the next one even farther. Now we start at a
# tenth of that rate and raise it over five steps. This is **warm-up** (also from Goyal et al.), and the rising
# part is the *ramp*.

# %%
rising = [0.06 + 0.54 * step / 5 for step in range(5)]
warmed = walk([*rising, 0.6, 0.6])
[round(w, 2) for w in warmed]

# %% [markdown]
# With the ramp, the walk settles. Gilmer et al. 2021 ([arXiv
# 2110.04369](https://arxiv.org/abs/2110.04369)) see this in real networks: a ramp leads training to flatter
# places, which tolerate the full rate.
#
# **Adam needs short first steps for another reason, too.** It estimates the typical size of each weight's
# gradient from the gradients so far, which are few at the beginning. To see how bad the first estimates are, we
# give torch's Adam 2,000 weights whose gradients are nothing but equally strong noise. So Adam should divide
# the rate of each weight by the same number.

# %%
noise = torch.Generator().manual_seed(0)
w = torch.zeros(2000, requires_grad=True)
adam = torch.optim.Adam([w], lr=1.0)
own, moves = [], []  # after each step: the 1st, 50th and 99th percentile; the typical move
for step in range(1, 101):
    before = w.detach().clone()
    w.grad = torch.randn(2000, generator=noise)
    adam.step()
    moves.append((w.detach() - before).square().mean().sqrt().item())
    size = (adam.state[w]["exp_avg_sq"] / (1 - 0.999**step)).sqrt()
    own.append((1 / size).quantile(torch.tensor([0.01, 0.5, 0.99])).tolist())

# %% [markdown]
# The figure shows three of these rates, as multiples of the right one: a very high rate (only 1 weight in 100
# has a higher one), the middle rate, and a very low rate.

# %% tags=["fold"]
low, middle, high = zip(*own, strict=True)
steps = range(1, 101)
lines = {
    "1 in 100 is higher": (steps, high),
    "middle": (steps, middle),
    "1 in 100 is lower": (steps, low),
}
plot(lines, "step", "times the right rate", "Adam, equally strong noise", yscale="log")
plt.show()

# %%
say(
    f"After the first step, one weight in a hundred has **{high[0]:.0f} times the right rate** or more. "
    f"After 20 steps, this is {high[19]:.1f} times, and after 100 steps {high[99]:.1f} times."
)
say(
    f"Such a weight does not run away at once. Adam multiplies its rate by the average of its gradients so "
    f"far. After one step, that average is the same tiny gradient that made the rate so high. The two "
    f"cancel, and every weight moves by {moves[0]:.2f} times the learning rate. That is a long move, given "
    f"that there is nothing but noise to follow. Later, the noise partly cancels in the average, and a "
    f"typical move is {moves[-1]:.2f} times the learning rate."
)

# %% [markdown]
# Poor first estimates and long first moves are both reasons to keep Adam's first steps short.
#
# ## Write it
#
# We multiply the rate by the results of two functions. `scale` adapts it to the batch, if it was tuned with a
# batch of `reference`. `warm_up` is the ramp, from `start` to 1 in `ramp` steps.


# %%
def scale(batch, reference, rule):
    return (batch / reference) ** {"linear": 1.0, "sqrt": 0.5}[rule]


def warm_up(step, ramp, start):
    return start + (1 - start) * min(step / ramp, 1.0) if ramp else 1.0


# %% [markdown]
# ## Check it
#
# First, our functions match those of the course's package.

# %% tags=["nbval-check-output"]
from fasttricks.tricks import scaling

rules = [(b, r) for b in (32, 64, 256, 1024) for r in ("linear", "sqrt")]
equal = all(scale(b, 64, r) == scaling.scale(b, 64, r) for b, r in rules)
holds(equal, "our scale is the package's")
steps = range(100)
ramps = [(step, ramp) for step in steps for ramp in (0, 1, 20)]
equal = all(warm_up(s, r, 0.1) == scaling.warm_up(s, r, 0.1) for s, r in ramps)
holds(equal, "our ramp is the package's")

# %% [markdown]
# Second, our ramp gives the same rates as torch's `LinearLR`.

# %% tags=["nbval-check-output"]
sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
ramp = torch.optim.lr_scheduler.LinearLR(sgd, 0.1, 1.0, total_iters=20)
off = []
for step in steps:
    off.append(abs(sgd.param_groups[0]["lr"] - 0.3 * warm_up(step, 20, 0.1)))
    sgd.step()
    ramp.step()
holds(max(off) < 1e-9, "torch's LinearLR gives the same rates")

# %% [markdown]
# ## In your own loop
#
# In a plain PyTorch script, remove the lines marked `-` and add those marked `+`:
#
# ```diff
#  MODEL, SIZE = "test_resnet", 28  # timm's name; pixels a side
# -IMAGES, BATCH, LR = 138_368, 128, 1e-3
# +IMAGES, BATCH, LR = 138_368, 160, 1e-3 * (160 / 128) ** 0.5  # AdamW: the square root
# +WARM_UP = 0.05  # share of the run
#
#  ...
#          loss = F.cross_entropy(net(inputs), targets)
# +        ready = min(1, step / (WARM_UP * steps))
# +        for group in optimizer.param_groups:
# +            group["lr"] = LR * (0.1 + 0.9 * ready)
#          loss.backward()
# ```
#
# The complete script is [`examples/scaling.py`](../examples/scaling.py). It uses AdamW, so it multiplies the
# rate by √k. With SGD, leave out `** 0.5`. (The 160 comes from our study's search.)

# %% [markdown]
# ## Use it
#
# ### How far does the best rate move?
#
# The linear layer is cheap to train. So the next cell tries nine rates, each twice the one before, with four
# batch sizes and both optimisers, and collects the losses in `maps`. Each run still sees 6,144 images, so with
# a batch of 512, it takes only 12 steps. (We change only the rate. Malladi et al. also adapt β₁, β₂ and ε.)

# %% tags=["fold"]
sizes = (8, 32, 128, 512)
tried = [0.0005 * 2**row for row in range(9)]
maps = {}
for name, optimizer, options in (
    ("SGD", torch.optim.SGD, {"momentum": 0.9}),
    ("AdamW", torch.optim.AdamW, {}),
):
    maps[name] = {}
    for batch in sizes:
        maps[name][batch] = [linear_loss(optimizer, batch, rate, **options) for rate in tried]

# %% [markdown]
# These are the losses with SGD.

# %% tags=["fold"]
lines = {f"batch {batch}": (tried, maps["SGD"][batch]) for batch in sizes}
plot(lines, "rate", "validation loss", "one linear layer, SGD", scale="log", marks=True)
plt.ylim(0.45, 1.2)
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Where is the bottom of each line? Nine rates are a coarse grid. So we draw a parabola through the lowest point
# and its two neighbours, and take its bottom as the best rate. We do this for both optimisers.


# %% tags=["fold"]
def best_rate(losses):
    at = losses.index(min(losses))
    if at in (0, len(tried) - 1):
        return tried[at]  # at the edge of what we tried
    left, bottom, right = losses[at - 1 : at + 2]
    return tried[at] * 2 ** ((left - right) / (left - 2 * bottom + right) / 2)


bests = {name: [best_rate(losses[batch]) for batch in sizes] for name, losses in maps.items()}
lines = {name: (sizes, rates) for name, rates in bests.items()}
lines["as steep as k"] = (sizes, [0.0005 * batch / 8 for batch in sizes])
lines["as steep as √k"] = (sizes, [0.0005 * (batch / 8) ** 0.5 for batch in sizes])
plot(lines, "batch", "best rate", "one linear layer", scale="log", marks=True, yscale="log")
plt.show()

# %% [markdown]
# If a rule were right for an optimiser, its line would be parallel to the optimiser's. In numbers:

# %%
growth = {}
for kind, found_rates in bests.items():
    ups = [found_rates[i + 1] / found_rates[i] for i in range(len(sizes) - 1)]
    average = (found_rates[-1] / found_rates[0]) ** (1 / len(ups))
    between = "below √k" if average < 2 else "above k" if average > 4 else "between √k and k"
    close = (
        "close to √k" if abs(average - 2) < 0.2 else "close to k" if abs(average - 4) < 0.4 else ""
    )
    growth[kind] = f"{average:.1f} ({close or between})"
    say(
        f"- **{kind}**: each time the batch grew fourfold, the best rate was multiplied by "
        f"{', '.join(f'{up:.1f}' for up in ups)}, and on average by **{growth[kind]}**."
        + (
            " (At least one of the best rates lies at the edge of what we tried.)"
            if {tried[0], tried[-1]} & {*found_rates}
            else ""
        )
    )
say("By the square-root rule, the factor would be 2, and by the linear rule, it would be 4.")

# %% [markdown]
# Where a factor is smaller than the optimiser's rule says, the likely reason is the valley: a step can be too
# long. With AdamW, if a large batch leaves little noise, each gradient is divided by its own size. So each
# weight moves by about the rate in every step, *whatever the batch*. A rate that is too high for this batch is
# then also too high for a larger one, and the best rate stops rising. (We did not test this explanation. Li et
# al. 2024, [arXiv 2405.14578](https://arxiv.org/abs/2405.14578), find that Adam's best rate first rises with
# the batch and then falls.)
#
# What does it cost to follow a rule? We tune the rate at one batch, go to a larger batch by the rule (but not
# beyond the nine rates), and look at how far the loss then lies above the best one there. The table shows the
# mean over all pairs of batches (for k = 64, there is only one). The layer begins with the loss of a blind
# guess, log 10 ≈ 2.3, and may end higher.

# %% tags=["fold"]
from itertools import combinations

import pandas as pd

rows = []
for name, losses in maps.items():
    for small, large in combinations(range(len(sizes)), 2):
        tuned = losses[sizes[small]].index(min(losses[sizes[small]]))
        there, apart = losses[sizes[large]], large - small
        row = {"optimiser": name, "k": 4**apart}
        for rule, doublings in {"same rate": 0, "by √k": apart, "by k": 2 * apart}.items():
            row[rule] = there[min(tuned + doublings, len(tried) - 1)] - min(there)
        rows.append(row)
cost = pd.DataFrame(rows).groupby(["optimiser", "k"], sort=False).mean()
cost.round(3)

# %%
for kind in maps:
    verdicts = []
    for k in (4, 16, 64):
        ahead = cost.loc[kind, k]["by √k"] - cost.loc[kind, k]["by k"]
        better = "linear" if ahead > 0 else "square-root"
        winner = f"the {better} rule leads to a loss that is {abs(ahead):.2f} lower"
        if abs(ahead) < 0.01:
            winner = "the two rules are less than 0.01 apart"
        verdicts.append(f"For k = {k}, {winner}.")
    say(f"- **{kind}.** {' '.join(verdicts)}")
least = [min(maps["SGD"][size]) for size in (32, 512)]
say(
    f"No rate can save a batch that is far too large: with SGD, the best loss is {least[0]:.2f} with a batch "
    f"of 32 and {least[1]:.2f} with one of 512."
)

# %% [markdown]
# ### The same on a network
#
# Now we train a convolutional network (a ResNet that suits your device) with SGD. (AdamW follows in a recorded
# study, below.) Each of three batches gets the same seven rates, constant over the run, and the same number of
# images. (An *arm* is one batch with one rate.)

# %%
from dataclasses import replace
from statistics import mean

from fasttricks.course import train_arms

half, seeds = budget.images // 2, min(2, budget.seeds)
batches, rates = (64, 256, 1024), (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
SGD = replace(BASELINE, optimizer="sgd", weight_decay=5e-4)  # a weaker decay than AdamW's
recipes = {(batch, rate): replace(SGD, batch=batch, lr=rate) for batch in batches for rate in rates}
runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)

# %% [markdown]
# `draw` draws the mean validation accuracies, one line for each batch.


# %% tags=["fold"]
def draw(accuracies, title):
    lines = {}
    for batch in batches:
        lines[f"batch {batch:,}"] = rates, [mean(accuracies[batch, rate]) for rate in rates]
    plot(lines, "rate", "validation accuracy", title, scale="log", marks=True)
    plt.show()


raw = {setting: [run.val_accuracy for run in found] for setting, found in runs.items()}
draw(raw, f"SGD, {half:,} images, as trained")

# %%
left = runs[1024, 0.1][0].steps
highest = max(mean(raw[1024, each]) for each in rates)
say(
    f"With a batch of 1,024, a run has {left} steps, and the best rate gives an accuracy of "
    f"**{highest:.2f}**. (Guessing gives {1 / len(data.classes):.2f}.) Is that due to the training, or to "
    f"the measurement?"
)

# %% [markdown]
# During validation, the network's *batch norm* layers use a running mean and variance. Each training step moves
# them a tenth of the way to those of the current batch. So they describe roughly the last ten batches, as the
# network saw them *at the time*. While its weights move fast, they lag behind, and accuracy suffers.
#
# So from here on, we refresh them before we judge a network. torch's `update_bn` computes them anew from 2,000
# training images, without labels or gradients.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.course import probabilities

here = data.to(BASELINE.world.device(), budget.image_size)


def score(net):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), net)
    guesses = probabilities(net, here, here.val).argmax(1)
    return (guesses == here.val.y).float().mean().item()


# %% [markdown]
# We check that this changes no weight.

# %% tags=["nbval-check-output"]
net = runs[1024, 0.1][0].net
before = [parameter.detach().clone() for parameter in net.parameters()]
score(net)
equal = all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
holds(equal, "refreshing batch norm changes no weight")

# %% [markdown]
# Here are the accuracies after refreshing.

# %%
fresh = {setting: [score(run.net) for run in found] for setting, found in runs.items()}
draw(fresh, f"SGD, {half:,} images, batch norm refreshed")

# %%
say(
    f"With a batch of 1,024 and a rate of 0.1, refreshing moves the accuracy from "
    f"{mean(raw[1024, 0.1]):.3f} to **{mean(fresh[1024, 0.1]):.3f}**. With a batch of 64, it moves the "
    f"accuracy from {mean(raw[64, 0.1]):.3f} to {mean(fresh[64, 0.1]):.3f}. After a short run, there is a "
    f"second reason to refresh: batch norm's initial values are arbitrary, and after n steps, a share of "
    f"0.9ⁿ of them is left. After {left} steps, that is {100 * 0.9**left:.0f} %."
)

# %% [markdown]
# Are the rules right here? Where the top of a line is flat, its best rate is a matter of chance. So we call a
# rate *good* if its accuracy is not clearly below that of the best rate for the same batch. The next cell
# collects the good rates of each batch in `good`, and the accuracies at its best rate in `top`.

# %% tags=["fold"]
from fasttricks.course import gained

guess = 1 / len(data.classes)
top, good = {}, {}  # by batch: the accuracies at its best rate, and its good rates
for batch in batches:
    found = {rate: fresh[batch, rate] for rate in rates}
    top[batch] = max(found.values(), key=mean)
    good[batch] = [r for r in rates if "lower" not in gained(found[r], top[batch], guess)]

# %% [markdown]
# The table shows both, and what each rule makes of the good rates for a batch of 64. A rule is right if it asks
# for a good rate. (A rate above 1.6 cannot count as good, because we did not try any.)


# %% tags=["fold"]
def listed(rates, factor=1):
    return ", ".join(f"{factor * rate:g}" for rate in rates)


rows = []
for batch in batches:
    row = {"batch": f"{batch:,}", "steps": runs[batch, 0.1][0].steps}
    row |= {"accuracy": f"{mean(top[batch]):.3f}", "good rates": listed(good[batch])}
    row["√k asks for"] = listed(good[64], scale(batch, 64, "sqrt"))
    row["k asks for"] = listed(good[64], scale(batch, 64, "linear"))
    rows.append(row)
pd.DataFrame(rows).set_index("batch")

# %%
asked = {}
for big in batches[1:]:
    factors = {"√k": scale(big, 64, "sqrt"), "k": scale(big, 64, "linear")}
    hits = [
        way for way, times in factors.items() if {times * each for each in good[64]} & {*good[big]}
    ]
    asked[big] = " and ".join(hits) or "none"
    if max(top[big]) < 2 * guess:
        asked[big] = "not known, because accuracy is close to guessing"
    still = listed([each for each in good[64] if each in good[big]]) or "none"
    say(
        f"- **Batch {big:,}.** Rules that ask for a good rate: **{asked[big]}**. Rates that are good with "
        f"both 64 and {big:,}: **{still}**."
    )
lag = {big: gained(top[big], top[64], guess) for big in batches[1:]}
say(
    f"Now we compare the batches after the same images, each at its best rate. Compared with a batch of 64, "
    f"accuracy with 256 is **{lag[256]}**, and with 1,024, it is **{lag[1024]}**."
)

# %% [markdown]
# ### Too few steps, or too large a batch?
#
# Does the batch of 1,024 only lack steps? As a control, we train with a batch of 64 for the same number of
# steps, at the three middle rates.

# %%
few = runs[1024, 0.1][0].steps
recipes = {rate: replace(SGD, batch=64, lr=rate) for rate in (0.05, 0.1, 0.2)}
brief = train_arms(recipes, data, images=64 * few, seeds=seeds, evaluations=1)
brief_top = max(([score(run.net) for run in found] for found in brief.values()), key=mean)
large_top = max((fresh[1024, rate] for rate in recipes), key=mean)

# %%
control = gained(large_top, brief_top, guess)
if "higher" in control:
    blame = "The large batch makes better steps, but it does not make enough of them"
elif "lower" in control:
    blame = "So the number of steps alone does not explain the lag"
else:
    blame = "So we cannot tell the two batches apart at so few steps"
say(
    f"After {few} steps, accuracy is {mean(brief_top):.3f} with a batch of 64 and {mean(large_top):.3f} with "
    f"one of 1,024 (each at the best of the same three rates). Compared with 64, accuracy with 1,024 is "
    f"**{control}**. **{blame}.**"
)

# %% [markdown]
# ### The same time instead of the same images
#
# A larger batch can save time. So now we give a small batch the same time.

# %%
from fasttricks.course import faster, median

seconds = {n: [run.train_seconds for rate in rates for run in runs[n, rate]] for n in batches}
share = min(2, median(seconds[256]) / median(seconds[64]))
affordable = max(64, int(half * share) // 64 * 64)
best_64 = max(rates, key=lambda rate: mean(fresh[64, rate]))
recipes = {"batch 64": replace(SGD, batch=64, lr=best_64)}
rival = train_arms(recipes, data, images=affordable, seeds=seeds, evaluations=1)["batch 64"]
same_time = gained(top[256], [score(run.net) for run in rival], guess)

# %%
pace = faster(seconds[256], seconds[64])
say(
    f"On the same {half:,} images, and compared with a batch of 64, training with 256 was **{pace}**. In the "
    f"time of the batch of 256, the batch of 64 gets through {affordable:,} images. Compared with 64 on "
    f"these images, accuracy with 256 is **{same_time}**. (For 64, we used the rate that was best after all "
    f"{half:,} images, and did not tune it again.)"
)

# %% [markdown]
# ### Does a ramp help?
#
# So far, all runs began at their full rate. The package's `LRScaling` scales the rate and adds a ramp. Here,
# the ramp starts at a tenth of the rate and takes a fifth of the run. Both recipes below scale a rate of 0.1
# for a batch of 64 up to 0.4. (For 1,024, we take the square-root rule, because k times would be 1.6.)
#
# This test is narrow: it tries a ramp at only one rate, and only with SGD. The table above shows whether this
# rate is good without a ramp. Also, a ramp lowers the mean rate. So where it helps, a lower rate without a ramp
# may help as much. The last sentence below compares both.

# %%
small_batch = replace(SGD, batch=64, lr=0.1)
recipes = {
    256: small_batch + LRScaling(256, 64, "linear", warmup=0.2),
    1024: small_batch + LRScaling(1024, 64, "sqrt", warmup=0.2),
}
ramped = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
with_ramp = {batch: [score(run.net) for run in found] for batch, found in ramped.items()}

# %%
ramp_gain = {big: gained(with_ramp[big], fresh[big, 0.4], guess) for big in with_ramp}
beside_best = {big: gained(with_ramp[big], top[big], guess) for big in with_ramp}
helped = sum("higher" in verdict for verdict in ramp_gain.values())
say(
    f"Compared with no ramp, accuracy with a batch of 256 is **{ramp_gain[256]}**, and with one of 1,024, it "
    f"is **{ramp_gain[1024]}**. So at a rate of 0.4, a ramp clearly helped "
    f"{('neither batch', 'one of the two batches', 'both batches')[helped]}. Compared with the best rate "
    f"without a ramp, the ramp to 0.4 is {beside_best[256]} with 256, and {beside_best[1024]} with 1,024."
)

# %% [markdown]
# ### AdamW, and eight times the batch
#
# For AdamW, we have recorded a study of longer runs. It goes from a batch of 128 to one of 1,024 (k = 8), with
# the same rate, with √8 times the rate, and with 8 times the rate. The last two are also tried with a ramp over
# the first tenth of the run. It asks how long each needs until the same accuracy, compared with the batch of 128.
# (95 % intervals are in brackets. "cannot tell" means that the interval includes 1.)

# %%
from fasttricks.course import compared, found_in, study_table
from fasttricks.study.findings import trusted

grown = found_in("batches")
study_table(grown)

# %%
rows = {row.arm: row for row in grown.rows}
small, large = rows["plain"], [row for row in grown.rows if row.arm != "plain"]
say(
    f"Recorded on {grown.hardware}, to a validation accuracy of {grown.target}, {grown.seeds} seeds. Compared with a "
    f"batch of 128, a batch of 1,024:\n\n"
    + "\n".join(f"- **{row.arm.removeprefix('1024 ')}** is {compared(row)}." for row in large)
)
arrived = [row for row in large if row.arrives]
outcome = "no run with a batch of 1,024 reached the target"
if arrived:
    best = min(arrived, key=lambda row: row.images.value)
    quicker = (small.train / small.images.value) / (best.train / best.images.value)
    more = best.images.value / small.images.value
    close = [row.arm.removeprefix("1024 ") for row in arrived if row.images.low < best.images.high]
    outcome = (
        f"the batch of 1,024 needs at least {more:.1f} times as many images as the batch of 128, and processes "
        f"{quicker:.2f} times as many per second. So on this machine, the large batch "
        f"**{'saves time' if quicker > more else 'does not save time'}**. "
        + (
            f"It needs the fewest images {close[0]}"
            if len(close) == 1
            else f"These are too close to say which is best: {', '.join(close)}"
        )
    )
    say(f"{outcome[0].upper()}{outcome[1:]}.")

# %%
lengths = {row.arm: {int(n): scores for n, *scores in grown.accuracies[row.arm]} for row in large}
shared = max(set.intersection(*map(set, lengths.values())))
equal = {arm: found[shared] for arm, found in lengths.items()}  # accuracies after as many images
slow, root, full = (equal[f"1024 at {way}"] for way in ("the same rate", "√8 times", "8 times"))
root_ramp, full_ramp = (equal[f"1024 at {way} with a ramp"] for way in ("√8 times", "8 times"))
say(
    f"After {shared:,} images, and compared with the same rate, accuracy is {gained(root, slow)} at √8 times the rate, "
    f"and {gained(full, slow)} at 8 times. Compared with no ramp, the ramp makes it {gained(root_ramp, root)} at √8 "
    f"times the rate, and {gained(full_ramp, full)} at 8 times."
)
say(trusted("batches"))

# %% [markdown]
# ## Break it: a rate that is far too high
#
# Now we train with a batch of 256 at a rate of 1.6. `watch` trains a network and returns the loss of every
# batch before its step, and the network.

# %% tags=["fold"]
from fasttricks.loop import set_rates
from fasttricks.models import begin, optimizer_for


def watch(recipe, seed, steps):
    torch.manual_seed(seed)
    net = begin(recipe, budget.model, data.channels, len(data.classes), budget.image_size)
    net = net.to(here.train.y.device)
    optimizer, losses = optimizer_for(recipe, net), []
    draws = here.draws(recipe.global_batch, torch.Generator().manual_seed(seed))
    for step in range(steps):
        x, targets = here.batch(*next(draws))
        set_rates(optimizer, recipe.lr_at(step, steps), recipe.momentum)
        loss = cross_entropy(net(x), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, net


# %% [markdown]
# One run has no ramp. The other has a gentler ramp than before: it starts at a hundredth of the rate and takes
# three tenths of the run. Batch and reference are both 256, so `LRScaling` does not scale the rate.

# %%
high = replace(SGD, lr=1.6)
curves, ends = {}, {}
for name, share in {"no ramp": 0, "ramp": 0.3}.items():
    recipe = high + LRScaling(256, 256, warmup=share, start=0.01)
    losses, net = watch(recipe, 0, half // 256)
    curves[name] = (range(len(losses)), losses)
    ends[name] = score(net)

# %% [markdown]
# The grey line shows the loss of a blind guess.

# %% tags=["fold"]
import math

plot(curves, "optimiser step", "loss of the batch", f"SGD at a rate of {high.lr:g}, one seed")
plt.axhline(math.log(len(data.classes)), color="grey", lw=0.8)
plt.show()

# %%
begun = curves["ramp"][1][0]
first = {way: max(found[1][1:6]) for way, found in curves.items()}
rescued = gained([ends["ramp"]], [ends["no ramp"]], guess)
say(
    f"Both runs begin at a loss of {begun:.1f}. In the next five steps, the highest loss is "
    f"{first['no ramp']:.1f} without a ramp and {first['ramp']:.1f} with one. (In the whole run with a ramp, "
    f"the highest loss is {max(curves['ramp'][1]):.1f}.) Compared with no ramp, the final accuracy with the "
    f"ramp is **{rescued}**."
)
say(
    f"But is 1.6 a good rate with a ramp? The run with the ramp ends at an accuracy of {ends['ramp']:.2f}. "
    f"With the same seed and no ramp, this batch reached {top[256][0]:.2f} at the best of the seven rates."
)

# %% [markdown]
# In a run of your own, watch for a loss that jumps *up* from the grey line.
#
# ## What we have found
#
# Here is what our study of the seven tricks found about this one, followed by its card. It used AdamW, the
# square-root rule and a short ramp. On the CPU, the batch grew as in the script above, and on the GPU, it doubled. So
# it says nothing about a large k, and the study of batches, above, does. (Chapter 6 explains the *letters weights*. A
# result that *may be chance* does not survive a correction for the number of verdicts.)

# %%
from IPython.display import Markdown

from fasttricks.course import headline

say(headline("scaling"))
Markdown(scaling.__doc__)

# %% [markdown]
# The card promises a gain if the device is not yet full (a larger batch still raises the images per second). It
# warns of too few steps, and of a missing ramp at a large k. This is what we saw:

# %%
say(
    f"- **The rules.** On the linear layer, each time the batch grew fourfold, the best rate was multiplied "
    f"on average by {growth['SGD']} with SGD and by {growth['AdamW']} with AdamW. On the network with SGD, "
    f"these rules asked for a good rate with a batch of 256: {asked[256]}. With a batch of 1,024: "
    f"{asked[1024]}.\n"
    f"- **AdamW with 8 times the batch.** In the recorded study, {outcome}.\n"
    f"- **Too few steps.** With a batch of 1,024, a run had {few} steps. Compared with a batch of 64, its "
    f"accuracy was {lag[1024]}. {blame}.\n"
    f"- **The gain.** Compared with a batch of 64, training with 256 was {pace}. Its accuracy was {lag[256]} "
    f"after the same images, and {same_time} after the same time.\n"
    f"- **The ramp.** Compared with no ramp, accuracy with a ramp at a rate of 0.4 was {ramp_gain[256]} for "
    f"a batch of 256, and {ramp_gain[1024]} for 1,024. At a rate of 1.6, which is far too high, it was "
    f"{rescued}."
)

# %% [markdown]
# Our advice:
#
# 1. Tune the rate with a small batch.
# 2. Raise the batch only as long as the images per second rise, and compare runs after equal training time.
# 3. Take the usual rule as a first guess: k times the rate with SGD, √k times with Adam and AdamW. The batch in
#    the rule counts the images of all devices. Try half of that rate and the old rate beside it. The larger k
#    is, the more likely the rule asks for too much.
# 4. If few steps are left, train on more images or use a smaller batch.
# 5. If the loss jumps at the start, add a ramp or lower the rate.
# 6. Refresh batch norm before you judge a run that had few steps, or whose rate is still high at its end.

# %% [markdown]
# ## Questions
#
# **1. With SGD, why does a batch that is k times as large not make the step k times as long by itself?**
#
# <details><summary>Answer</summary>The loss is a mean over the batch, so its gradient does not grow with the
# batch. Only the rate can make the step longer.</details>
#
# **2. Four processes with 64 images each: which batch goes into the rule?**
#
# <details><summary>Answer</summary>256, the global batch, because the processes average their gradients
# (chapter 1).</details>
#
# **3. When is √k enough for Adam, and when does it need k?**
#
# <details><summary>Answer</summary>√k is enough when the size that Adam divides by is mostly noise, because
# that size then shrinks by a factor of √k. With hardly any noise, it does not shrink, and Adam needs k. In a
# valley, both can be too much.</details>
#
# **4. After 12 large steps, your run's validation accuracy is no better than guessing. What do you check
# first?**
#
# <details><summary>Answer</summary>Batch norm. Refresh its running mean and variance, and validate
# again.</details>
#
# **5. With a larger batch, your device gets through twice as many images per second. Does the run reach its
# accuracy in half the time?**
#
# <details><summary>Answer</summary>Only if it needs no more images for that accuracy. On the same images, it
# takes fewer steps, so it may need more.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** Return the new rate by the usual rule: k times for SGD, √k times for AdamW. `batch` is the
# batch of one process.


# %%
from fasttricks.course import check


def new_rate(lr, reference, batch, processes, optimizer):
    raise NotImplementedError


check("scaling", 1, new_rate)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def new_rate(lr, reference, batch, processes, optimizer):
#     k = batch * processes / reference
#     return lr * (k if optimizer == "sgd" else k**0.5)
# ```
#
# </details>
#
# **Exercise 2.** Return the rate at a step, with a ramp of `ramp` steps from `start * lr` to `lr`. A ramp of
# 0 means no ramp.


# %%
def warmed_rate(step, ramp, start, lr):
    raise NotImplementedError


check("scaling", 2, warmed_rate)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def warmed_rate(step, ramp, start, lr):
#     share = min(step / ramp, 1.0) if ramp else 1.0
#     return lr * (start + (1 - start) * share)
# ```
#
# </details>
#
# **Exercise 3.** Take the valley c · w² / 2, whose slope is c · w. Return the k for which one step at the
# rate k · lr ends on the other side of the lowest point, exactly as far from it as it began.


# %%
def largest_k(lr, curvature):
    raise NotImplementedError


check("scaling", 3, largest_k)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def largest_k(lr, curvature):
#     return 2 / (lr * curvature)
# ```
#
# </details>
#
# ## Further reading
#
# - Krizhevsky 2014, [arXiv 1404.5997](https://arxiv.org/abs/1404.5997): derives the square-root rule for SGD,
#   and finds that the linear rule works better.
# - Liu et al. 2019, [arXiv 1908.03265](https://arxiv.org/abs/1908.03265): Adam's poor first estimates as the
#   reason for warm-up.
# - Ma and Yarats 2019, [arXiv 1910.04209](https://arxiv.org/abs/1910.04209): its long first moves as the
#   reason.
# - McCandlish et al. 2018, [arXiv 1812.06162](https://arxiv.org/abs/1812.06162): how large a batch is still
#   worth using.
