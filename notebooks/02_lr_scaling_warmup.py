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
# With a larger batch, a device often gets through more images per second. But the same images then make
# fewer steps, so each step should be longer. This trick makes it longer: it raises the *learning rate* (the
# rate, for short) together with the batch, and begins the run with lower rates, which is called *warm-up*.
#
# How much higher should the rate be when the batch is k times as large? The *linear rule* says k times and is
# usual with SGD; the *square-root rule* says √k times and is usual with Adam and AdamW. This chapter shows
# where the rules come from, measures how far the best rate really moves, and finds that a rule gives a first
# guess and not the answer.
#
# The data are Fashion-MNIST, small grey images of ten kinds of clothes. Runs are compared in pairs that share a
# *seed*: the first weights and the order of the images. We call a difference clear if all pairs agree on its
# sign and the mean is at least 1/√n points (percentage points of accuracy) for n pairs, so 0.7 for two.
#
# About 20 minutes to read, and two to run.

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
# For a first look, we take the smallest classifier there is, a single linear layer, and 6,144 images.

# %%
import torch
from torch.nn.functional import cross_entropy

from fasttricks import BASELINE, LRScaling, choose_budget, load

budget = choose_budget()
data = load()
train_x, train_y = data.normalise(data.train.x[:6144]).flatten(1), data.train.y[:6144]
val_x, val_y = data.normalise(data.val.x).flatten(1), data.val.y

# %% [markdown]
# The first function trains it once and returns the loss on the validation images (lower is better). The second
# takes the mean of three runs, each with another order of the images.


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
# We train it with a batch of 32, and in two ways with a batch of 128. Each point is a run of its own.

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
    f"After the same {seen[-1]:,} images, the batch of 32 has reached a loss of {slow:.2f}. A batch of 128 "
    f"takes a quarter as many steps. At the same rate, it is still at {lagging:.2f}. With 4 times the rate, it "
    f"is at **{rescaled:.2f}**, which makes up for {100 * (lagging - rescaled) / (lagging - slow):.0f} % of "
    f"the lag."
)

# %% [markdown]
# ## By hand: ten small steps or one large
#
# Take ten images and one weight. Suppose that each image pulls on the weight by a fixed amount, wherever
# the weight is. Ten steps at a rate of 0.1 add up the pulls. One step takes their mean, at ten times the
# rate.

# %%
pulls = torch.tensor([3.0, -1, 2, 0, 4, 1, -2, 5, 3, 1], dtype=torch.float64)
w = torch.zeros((), dtype=torch.float64)
for pull in pulls:
    w = w - 0.1 * pull
one = -(10 * 0.1) * pulls.mean()
w.item(), one.item()

# %% [markdown]
# The two end at the same place. `holds` prints a claim that the code has just verified.

# %% tags=["nbval-check-output"]
from fasttricks.course import holds

holds(torch.allclose(w, one), "k steps at a fixed slope are one step at k times the rate")

# %% [markdown]
# That is the whole **linear rule**: k times the batch needs k times the rate, because a sum is k times a
# mean. It rests on one assumption: the slope does not change on the way. In a valley, it does. Take the loss
# w² / 2, whose slope is w itself, and start at 1. Each small step multiplies w by 1 - lr; the one large step
# multiplies it by 1 - k · lr.

# %%
ks = list(range(1, 46))
small = [(1 - 0.05) ** k for k in ks]
large = [1 - 0.05 * k for k in ks]
lines = {"k steps of 0.05": (ks, small), "one step of k · 0.05": (ks, large)}
plot(lines, "k", "position (lowest point at 0)", "a valley")
plt.show()

# %% [markdown]
# On the left, the lines touch, so the rule works. Further right, the large step goes too far: below zero it has
# crossed the valley, and below -1 it ends farther away than it began. So the linear rule must fail at some k,
# and sooner if the rate was already high.
#
# ### Why Adam may want the square root
#
# Adam divides every step by the typical size of the gradient. Often, that size is mostly noise from the random
# choice of images. The mean over k times as many images has √k times less noise, so Adam divides by a smaller
# number, and its steps towards the goal grow by a factor of √k *with no change of the rate*. We only need to
# add the other √k. This is the **square-root rule**.
#
# If there is hardly any noise, none of this happens, and k times fewer steps need k times the rate. We can see
# both cases in torch's Adam, with 2,000 weights that all feel the same weak pull.


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
# First, we take 1,600 steps with batch 1. Then we take 100 steps with batch 16, at three rates. We print how
# far each run gets, as a multiple of the first. So 1 means that the factor fits.

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
# So in this toy, Adam needs √k or k, depending on how noisy the gradient is.
#
# ### Why the first steps should be short
#
# How long a step can be depends on how sharply the loss curves, and that changes from place to place. Here is
# a toy loss that is steep far away and flat near the lowest point: w⁴ / 4, with slope w³. We walk down from 2
# at a rate of 0.6.


# %%
def walk(rates):
    path = [2.0]
    for rate in rates:
        path.append(path[-1] - rate * path[-1] ** 3)
    return path


at_once = walk([0.6] * 4)
[round(w, 2) for w in at_once]

# %% [markdown]
# The first step jumps across the valley to a steeper place, and the next one jumps even farther. Now we
# use the same rate, but we start at a tenth of it and reach the full rate after five steps. This is
# **warm-up**, and the rising part is called the *ramp*.

# %%
rising = [0.06 + 0.54 * step / 5 for step in range(5)]
warmed = walk([*rising, 0.6, 0.6])
[round(w, 2) for w in warmed]

# %% [markdown]
# With the ramp, the walk settles. Gilmer et al. 2021 ([arXiv
# 2110.04369](https://arxiv.org/abs/2110.04369)) see this in real networks: with a ramp, training moves to
# flatter places, which tolerate the full rate.
#
# **Adam has a reason of its own.** It estimates the typical size of each weight's gradient from the gradients
# so far, and at the beginning, these are very few. To see how bad the first estimates are, we feed torch's Adam
# 2,000 weights whose gradients are noise of one size. So Adam should divide the rate of each weight by the same
# number. Does it?

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
# The figure shows three of the weights' rates, as multiples of the right one: a very high one (only 1 weight
# in 100 has a higher one), the middle one, and a very low one.

# %%
low, middle, high = zip(*own, strict=True)
steps = range(1, 101)
lines = {
    "1 in 100 is higher": (steps, high),
    "middle": (steps, middle),
    "1 in 100 is lower": (steps, low),
}
plot(lines, "step", "times the right rate", "Adam, gradients of one size", yscale="log")
plt.show()

# %%
say(
    f"After the first step, one weight in a hundred has **{high[0]:.0f} times the right rate** or more. "
    f"After 20 steps it is {high[19]:.1f} times, and after 100 steps {high[99]:.1f} times."
)
say(
    f"Such a weight does not run away at once. Adam multiplies its rate by the average of the gradients so "
    f"far, and after one step, that is the same tiny gradient. The two cancel, and every weight moves by the "
    f"learning rate ({moves[0]:.2f} times). That is a long move, given that there is nothing but noise to "
    f"follow: later, the noise partly cancels in the average, and a typical move is {moves[-1]:.2f} times the "
    f"learning rate."
)

# %% [markdown]
# Both are reasons to keep Adam's first steps short.
#
# ## Write it
#
# We need two functions, and we multiply the rate by both: one scales it, the other says how soon to reach it.


# %%
def scale(batch, reference, rule):
    return (batch / reference) ** {"linear": 1.0, "sqrt": 0.5}[rule]


def warm_up(step, ramp, start):
    return start + (1 - start) * min(step / ramp, 1.0) if ramp else 1.0


# %% [markdown]
# ## Check it
#
# First, our functions match the package's.

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
# -IMAGES, BATCH, LR = 171_776, 128, 1e-3
# +IMAGES, BATCH, LR = 171_776, 160, 1e-3 * (160 / 128) ** 0.5  # AdamW: the square root
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
# The complete script is [`examples/scaling.py`](../examples/scaling.py). It uses AdamW, so the rate grows by √k.
# With SGD, leave out `** 0.5`.

# %% [markdown]
# ## Use it
#
# ### How far does the best rate move?
#
# On the cheap linear layer, we try nine rates, each twice the one before, with four batches and both optimisers.
# A run still sees 6,144 images, so the batch of 512 takes only 12 steps.

# %%
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

# %%
lines = {f"batch {batch}": (tried, maps["SGD"][batch]) for batch in sizes}
plot(lines, "rate", "validation loss", "one linear layer, SGD", scale="log", marks=True)
plt.ylim(0.45, 1.2)
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# With a larger batch, the bottom of the line lies further to the right. Nine rates are a coarse grid, so we
# take the bottom of a parabola through the lowest point and its two neighbours.


# %%
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
# If a rule were right, the line of the optimiser would be parallel to that of the rule. In numbers:

# %%
growth = {}
for kind, found_rates in bests.items():
    ups = [found_rates[i + 1] / found_rates[i] for i in range(len(sizes) - 1)]
    average = (found_rates[-1] / found_rates[0]) ** (1 / len(ups))
    between = "below √k" if average < 2 else "above k" if average > 4 else "between √k and k"
    close = (
        "close to √k" if abs(average - 2) < 0.2 else "close to k" if abs(average - 4) < 0.4 else ""
    )
    growth[kind] = f"{average:.1f} times ({close or between})"
    say(
        f"- **{kind}**: each time the batch grew fourfold, the best rate grew {', '.join(f'{up:.1f}' for up in ups)} "
        f"times, and on average **{growth[kind]}**."
        + (
            " (One rate lies at the edge of what we tried.)"
            if {tried[0], tried[-1]} & {*found_rates}
            else ""
        )
    )
say("By √k it would be 2 times, and by k 4 times.")

# %% [markdown]
# What does it cost to follow a rule? We tune at each batch, go to every larger one, and look at how far the loss
# then lies above the best of the nine. For k = 4, this is the mean of three starts; for k = 64, there is one.

# %%
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
        winner = f"the loss by {'k' if ahead > 0 else '√k'} is {abs(ahead):.2f} lower"
        if abs(ahead) < 0.01:
            winner = "the two rules are less than 0.01 apart"
        verdicts.append(f"for k = {k}, {winner}")
    say(f"- **{kind}**: {'; '.join(verdicts)}.")
least = [min(maps["SGD"][size]) for size in (32, 512)]
say(
    f"No rate saves a batch that is far too large: with SGD, the best loss is {least[0]:.2f} with a batch of "
    f"32 and {least[1]:.2f} with one of 512."
)

# %% [markdown]
# ### The same on a network
#
# Now we train a convolutional network (a ResNet that suits your device) with SGD, for which the linear rule was
# found; we did not try AdamW. Each of three batches gets the same five rates and the same number of images.
# (The line below the cell calls such a setting an *arm*.)

# %%
from dataclasses import replace
from statistics import mean

from fasttricks.course import train_arms

half, seeds = budget.images // 2, min(2, budget.seeds)
batches, rates = (64, 256, 1024), (0.025, 0.05, 0.1, 0.2, 0.4)
SGD = replace(BASELINE, optimizer="sgd", weight_decay=5e-4)  # a weaker decay than AdamW's
recipes = {(batch, rate): replace(SGD, batch=batch, lr=rate) for batch in batches for rate in rates}
runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)

# %% [markdown]
# We draw the validation accuracies.


# %%
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
    f"With a batch of 1,024, which leaves {left} steps, no rate gets beyond **{highest:.2f}**. (Guessing gives "
    f"{1 / len(data.classes):.2f}.) Is that due to the training, or to the measurement?"
)

# %% [markdown]
# During validation, *batch norm* uses a running mean and a running variance. Each training step moves these a
# tenth of the way to the values of the current batch. So they describe about the last ten batches, as the
# network *was* at the time. While its weights move fast, these values lag behind, and accuracy suffers.
#
# So we refresh them before we judge a network: torch's `update_bn` computes them anew, by forward passes over
# 2,000 training images, without labels or gradients.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.course import probabilities

here = data.to(BASELINE.world.device(), budget.image_size)


def score(net):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), net)
    guesses = probabilities(net, here, here.val).argmax(1)
    return (guesses == here.val.y).float().mean().item()


# %% [markdown]
# Refreshing must not train the network. We compare its weights before and after.

# %% tags=["nbval-check-output"]
net = runs[1024, 0.1][0].net
before = [parameter.detach().clone() for parameter in net.parameters()]
score(net)
equal = all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
holds(equal, "refreshing batch norm changes no weight")

# %% [markdown]
# Here are the same networks, refreshed.

# %%
fresh = {setting: [score(run.net) for run in found] for setting, found in runs.items()}
draw(fresh, f"SGD, {half:,} images, batch norm refreshed")

# %%
say(
    f"With a batch of 1,024 and a rate of 0.1, refreshing moves the accuracy from {mean(raw[1024, 0.1]):.3f} to "
    f"**{mean(fresh[1024, 0.1]):.3f}**; with a batch of 64, from {mean(raw[64, 0.1]):.3f} to "
    f"{mean(fresh[64, 0.1]):.3f}. A short run has a second reason to refresh: batch norm's first values are "
    f"arbitrary, and after n steps 0.9ⁿ of them is left. After {left} steps, that is {100 * 0.9**left:.0f} %."
)

# %% [markdown]
# From here on, we refresh every network before we judge it.
#
# Are the rules right here? Where the top of a line is flat, its best rate is a matter of chance. So we call
# every rate *good* whose accuracy is not clearly below that of the batch's best rate. We let each rule start
# from all rates that are good with a batch of 64, and see which rates it asks for.

# %%
from fasttricks.course import gained

guess = 1 / len(data.classes)
top, good = {}, {}  # by batch: the accuracies at its best rate, and its good rates
for batch in batches:
    found = {rate: fresh[batch, rate] for rate in rates}
    top[batch] = max(found.values(), key=mean)
    good[batch] = [r for r in rates if "lower" not in gained(found[r], top[batch], guess)]

# %% [markdown]
# In one table, with the accuracy at the best rate:


# %%
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
        f"- **Batch {big:,}.** Rules that ask for a good rate: **{asked[big]}**. Rates that are good with 64 and "
        f"with {big:,}: **{still}**."
    )
lag = {big: gained(top[big], top[64], guess) for big in batches[1:]}
say(
    f"We tried no rate above {rates[-1]:g}. At that rate, accuracy with 1,024 is "
    f"{gained(fresh[1024, rates[-1]], top[1024], guess)}, compared with its best. After the same images, each at "
    f"its best rate, accuracy with 256 is **{lag[256]}**, compared with 64, and with 1,024 it is **{lag[1024]}**."
)

# %% [markdown]
# ### Too few steps, or too large a batch?
#
# Is it the small number of steps that holds the batch of 1,024 back? As a control, we train with a batch of 64 for
# as many steps, at the three middle rates.

# %%
few = runs[1024, 0.1][0].steps
recipes = {rate: replace(SGD, batch=64, lr=rate) for rate in rates[1:4]}
brief = train_arms(recipes, data, images=64 * few, seeds=seeds, evaluations=1)
brief_top = max(([score(run.net) for run in found] for found in brief.values()), key=mean)
large_top = max((fresh[1024, rate] for rate in recipes), key=mean)

# %%
control = gained(large_top, brief_top, guess)
if "higher" in control:
    blame = "The large batch makes better steps; what it lacks is their number"
elif "lower" in control:
    blame = "So the number of steps alone does not explain the lag"
else:
    blame = "So we cannot tell the two batches apart at so few steps"
say(
    f"After {few} steps, a batch of 64 is at {mean(brief_top):.3f}, and one of 1,024 at {mean(large_top):.3f} "
    f"(the best of the same three rates). Compared with 64, accuracy with 1,024 is **{control}**. **{blame}.**"
)

# %% [markdown]
# ### The same time instead of the same images
#
# What a larger batch can save is time. So its real rival is the small batch with fewer images: as many as it gets
# through in the time of the large one.

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
    f"For the same {half:,} images, and compared with a batch of 64, training with 256 was **{pace}**. In the "
    f"same time, the batch of 64 gets through {affordable:,} images. Compared with that run, accuracy with 256 is "
    f"**{same_time}**. (The rate of that run was the best after all {half:,} images; we did not tune it again.)"
)

# %% [markdown]
# ### Does a ramp help?
#
# So far, all runs began at their full rate. The package's `LRScaling` scales the rate and adds a ramp, here over
# a fifth of the run, from a tenth of the rate. Both recipes below go from a rate of 0.1 for a batch of 64 to 0.4,
# which we tried above without a ramp.

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
helped = sum("higher" in verdict for verdict in ramp_gain.values())
say(
    f"Compared with no ramp, accuracy with a batch of 256 is **{ramp_gain[256]}**, and with one of 1,024 it is "
    f"**{ramp_gain[1024]}**. So at a rate of 0.4, a ramp clearly helped "
    f"{('neither batch', 'one of the two batches', 'both batches')[helped]}."
)

# %% [markdown]
# ## Break it: a rate that is far too high
#
# With a batch of 256, we now use a rate of 1.6, and record the loss of every batch before its step.

# %%
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
# Two runs differ only in the ramp, which is longer and gentler than before: from a hundredth of the rate, over
# three tenths of the run. Batch and reference are both 256, so `LRScaling` does not scale.

# %%
high = replace(SGD, lr=1.6)
curves, ends = {}, {}
for name, share in {"no ramp": 0, "ramp": 0.3}.items():
    recipe = high + LRScaling(256, 256, warmup=share, start=0.01)
    losses, net = watch(recipe, 0, half // 256)
    curves[name] = (range(len(losses)), losses)
    ends[name] = score(net)

# %% [markdown]
# A blind guess among ten classes has a loss of log 10, which the grey line shows.

# %%
import math

plot(curves, "optimiser step", "loss of the batch", f"SGD at a rate of {high.lr:g}, one seed")
plt.axhline(math.log(len(data.classes)), color="grey", lw=0.8)
plt.show()

# %%
begun = curves["ramp"][1][0]
first = {way: max(found[1][1:6]) for way, found in curves.items()}
rescued = gained([ends["ramp"]], [ends["no ramp"]], guess)
say(
    f"Both runs begin at a loss of {begun:.1f}. In the next five steps, it reaches {first['no ramp']:.1f} "
    f"without a ramp, and {first['ramp']:.1f} with one. (The highest loss of the whole run with a ramp is "
    f"{max(curves['ramp'][1]):.1f}.) At the end, accuracy with the ramp is **{rescued}**."
)
say(
    f"But that does not make it a good rate. With the ramp, the run ends at {ends['ramp']:.2f}; with the same "
    f"seed, the best of the five rates and no ramp, this batch reached {top[256][0]:.2f}."
)

# %% [markdown]
# A loss that jumps *up* from the grey line is the sign to look for in a run of your own. Make the first steps
# shorter then, or lower the rate.
#
# ## What we have found
#
# Here is what our recorded study says about the trick (*plain training* is the same training without it) and
# then the trick's card, from the top of its file. In the study, the batch grew no more than in the script above.

# %%
from IPython.display import Markdown

from fasttricks.course import headline

say(headline("scaling"))
Markdown(scaling.__doc__)

# %% [markdown]
# The card promises a gain where the device is not yet full, and warns of too few steps and of a missing ramp at
# a large k. This is what we saw:

# %%
say(
    f"- **The rules.** On the linear layer, each time the batch grew fourfold, the best rate grew on average "
    f"{growth['SGD']} with SGD and {growth['AdamW']} with AdamW. On the network with SGD, the rules that asked for a good rate "
    f"were, with a batch of 256: {asked[256]}; and with 1,024: {asked[1024]}.\n"
    f"- **Too few steps.** With a batch of 1,024, {few} steps were left, and accuracy was {lag[1024]}, compared "
    f"with a batch of 64. {blame}.\n"
    f"- **The gain.** A batch of 256 instead of 64 was {pace}. Accuracy was {lag[256]} after the same images, "
    f"and {same_time} after the same time.\n"
    f"- **The ramp.** At a rate of 0.4, accuracy with a ramp was {ramp_gain[256]} for 256, and "
    f"{ramp_gain[1024]} for 1,024. At 1.6, far too high, it was {rescued}."
)

# %% [markdown]
# A rule of thumb:
#
# 1. Tune the rate at a small batch.
# 2. Raise the batch only as long as the images per second rise, and compare at equal time.
# 3. Begin with the usual rule: k times the rate with SGD, √k times with Adam and AdamW. Count the images of all
#    devices. Then try half of that rate, and the old rate too if k is large.
# 4. Look at how many steps are left. If there are few, take more images or a smaller batch.
# 5. If the loss jumps at the start, add a ramp or lower the rate.
# 6. Refresh batch norm before you judge a run whose rate is still high at the end.

# %% [markdown]
# ## Questions
#
# **1. A batch that is k times as large sees k times as many images per step. Why is its step not k times as
# long by itself?**
#
# <details><summary>Answer</summary>The loss is a mean over the batch, so the gradient of a large batch is
# no larger than that of a small one. Only the rate can make the step longer.</details>
#
# **2. Four processes with 64 images each: which batch goes into the rule?**
#
# <details><summary>Answer</summary>256, the global batch. The processes average their gradients (chapter 1),
# so the four together take one step.</details>
#
# **3. When is √k enough for Adam, and when does it need k?**
#
# <details><summary>Answer</summary>√k is enough when the size that Adam divides by is mostly noise. That size
# shrinks by √k in the larger batch, so the steps already grow by √k. With hardly any noise, nothing shrinks, and
# Adam needs k.</details>
#
# **4. After 12 large steps, your run's validation accuracy is no better than guessing. What do you check
# first?**
#
# <details><summary>Answer</summary>Whether batch norm's running mean and variance have caught up; refresh
# them and validate again.</details>
#
# **5. With a batch of 1,024 instead of 256, your device gets through twice as many images per second. Does the
# run reach its accuracy in half the time?**
#
# <details><summary>Answer</summary>Only if it needs no more images for that accuracy. A quarter of the steps is
# left for as many images, so compare the two runs after equal times.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. A wrong answer gets a hint.
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
# **Exercise 2.** Return the rate at a step, with a ramp of `ramp` steps from
# `start * lr` to `lr`. A ramp of 0 means no ramp.


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
# **Exercise 3.** For a valley c · w² / 2, whose slope is c · w, return the k for which one step at rate k
# · lr ends on the other side of the lowest point, exactly as far from it as it began.


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
# - Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677): the linear rule and gradual
#   warm-up.
# - Krizhevsky 2014, [arXiv 1404.5997](https://arxiv.org/abs/1404.5997): derives the square root for SGD, and
#   finds that k works better.
# - Malladi et al. 2022, [arXiv 2205.10287](https://arxiv.org/abs/2205.10287): the square root for Adam.
# - Liu et al. 2019, [arXiv 1908.03265](https://arxiv.org/abs/1908.03265), who explain warm-up by Adam's poor first
#   estimates, and Ma and Yarats 2019, [arXiv 1910.04209](https://arxiv.org/abs/1910.04209), by its long first moves.
# - McCandlish et al. 2018, [arXiv 1812.06162](https://arxiv.org/abs/1812.06162): how large a batch is still
#   worth using.
