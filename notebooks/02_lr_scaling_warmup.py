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
# With a larger batch, a device can get through more images per second, but the network takes fewer steps. If
# each step is as short as before, the network does not get far. Two rules say how much longer the steps
# should be when the batch is k times as large: the *linear rule* says k times, the *square-root rule* √k
# times. This chapter tests both, and a gentle start, the *warm-up*.
#
# The data are Fashion-MNIST, small grey images of ten kinds of clothes. The *budget* picks a small
# convolutional network (a ResNet) and a number of images per run that suit your device. We compare runs that
# share a *seed*, which fixes the first weights and the order of the images. Differences in accuracy are in
# *points* (percentage points), and chapter 0 says when we call one clear. `holds` prints a claim that the
# code has just verified.
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
# The *learning rate* (in short, the rate) sets the length of the steps. For a first look, we take the
# smallest classifier there is, a single linear layer, and 6,144 images.

# %%
import torch
from torch.nn.functional import cross_entropy

from fasttricks import BASELINE, LRScaling, choose_budget, load

budget = choose_budget()
data = load()
train_x, train_y = data.normalise(data.train.x[:6144]).flatten(1), data.train.y[:6144]
val_x, val_y = data.normalise(data.val.x).flatten(1), data.val.y

# %% [markdown]
# The function below trains it once and returns the loss on the validation images, which is better when it is
# lower. We take the mean of three runs with different orders of the images.


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
# We train it with a batch of 32, and in two ways with a batch of 128. Each point is a separate training run,
# which stops after that many images.

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
# That is the idea of this chapter. Here is what our recorded study found about it, and then the trick's
# card, straight from the top of its file. (*Plain training* is the same training without the trick, and
# *paired seeds* are pairs of runs that share a seed: chapter 0.)

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import scaling

say(headline("scaling"))
Markdown(scaling.__doc__)

# %% [markdown]
# In that study, the batch grew very little. Here it grows by a factor of up to 64.
#
# ## The problem: a larger batch falls behind
#
# Now the network that the budget chooses. The linear rule was found for SGD with momentum, so we begin with
# that, and not with the baseline's AdamW. (SGD needs a weaker weight decay.) Every rule starts from a rate that
# is right for the small batch, so we first try four rates with a batch of 64. A run sees half of the budget's
# images. (An *arm*, in the line below the cell, is one of the settings that we compare.)

# %%
from dataclasses import replace

from fasttricks.course import gained, train_arms

here = data.to(BASELINE.world.device(), budget.image_size)
half = budget.images // 2
seeds = min(2, budget.seeds)
whose = "one seed" if seeds == 1 else f"mean of {seeds} seeds"
SGD = replace(BASELINE, optimizer="sgd", batch=64, weight_decay=5e-4)
recipes = {rate: replace(SGD, lr=rate) for rate in (0.05, 0.1, 0.2, 0.4)}
runs = {64: train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)}

# %% [markdown]
# Before we read the accuracies, we look at how they are measured. During validation, *batch norm* uses a
# running mean and a running variance. Each training step moves these a tenth of the way to the values of the
# current batch. So they describe about the last ten batches, as the network *was* at the time. While
# its weights move fast, these values lag behind, and accuracy suffers. Chapter 3 looks at this more closely.
#
# So we refresh these values before we judge a network, with forward passes over 2,000 training images. No
# labels and no gradients are needed. torch has a function for this.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.course import probabilities


def score(net):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), net)
    guesses = probabilities(net, here, here.val).argmax(1)
    return (guesses == here.val.y).float().mean().item()


# %% [markdown]
# Refreshing must not train the network. We compare its weights before and after.

# %% tags=["nbval-check-output"]
from fasttricks.course import holds

net = runs[64][0.1][0].net
before = [parameter.detach().clone() for parameter in net.parameters()]
score(net)
equal = all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
holds(equal, "refreshing batch norm changes no weight")

# %% [markdown]
# Here are the accuracies of the four rates, as trained and refreshed.


# %%
def mean(values):
    return sum(values) / len(values)


def name_rates(rates):
    """Label the axis with these rates, and with no others."""
    plt.xticks(sorted(rates), [f"{rate:g}" for rate in sorted(rates)])
    plt.minorticks_off()


guess = 1 / len(data.classes)
stale = {rate: [run.val_accuracy for run in found] for rate, found in runs[64].items()}
grid = {64: {rate: [score(run.net) for run in found] for rate, found in runs[64].items()}}
best_rate = max(grid[64], key=lambda rate: mean(grid[64][rate]))

# %%
lines = {
    "as trained": (list(stale), [mean(values) for values in stale.values()]),
    "batch norm refreshed": (list(stale), [mean(values) for values in grid[64].values()]),
}
title = f"SGD, batch 64, {half:,} images, {whose}"
plot(lines, "rate", "validation accuracy", title, scale="log", marks=True)
name_rates(stale)
plt.margins(0.08)
plt.show()

# %%
edge = ", which is at the edge of what we tried" if best_rate in (min(stale), max(stale)) else ""
say(
    f"Refreshed, the best of the four rates is **{best_rate:g}**{edge}. There, refreshing moves the accuracy "
    f"from {mean(stale[best_rate]):.3f} to {mean(grid[64][best_rate]):.3f}, with the same weights."
)

# %% [markdown]
# From here on, we refresh every network before we judge it. Now we change only the batch, and keep this rate
# and the number of images.

# %%
tuned = replace(SGD, lr=best_rate)
recipes = {batch: replace(tuned, batch=batch) for batch in (256, 1024)}
same = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
for batch, found in same.items():
    runs[batch] = {best_rate: found}
    grid[batch] = {best_rate: [score(run.net) for run in found]}

# %%
facts = []
for each in (64, 256, 1024):
    arm = runs[each][best_rate]
    raw = mean([each_run.val_accuracy for each_run in arm])
    facts.append(
        f"- Batch {each:,}, {arm[0].steps} steps: accuracy {mean(grid[each][best_rate]):.3f} ({raw:.3f} before "
        f"the refresh)"
    )
say("\n".join(facts))
few = runs[1024][best_rate][0].steps
say(
    f"A very short run has a second reason to refresh. Batch norm's first values are arbitrary, and after n "
    f"steps 0.9ⁿ of them is left: {100 * 0.9**few:.0f} % after {few} steps, and nothing to speak of after "
    f"{runs[64][best_rate][0].steps}."
)
say(
    f"What the refresh repairs was not due to a lack of training. The rest is: compared with the batch of "
    f"64, accuracy with a batch of 256 is **{gained(grid[256][best_rate], grid[64][best_rate], guess)}**, and "
    f"with 1,024 it is **{gained(grid[1024][best_rate], grid[64][best_rate], guess)}**."
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

# %% tags=["nbval-check-output"]
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
# On the left, the lines touch, so the rule works well. Further right, the large step goes too far: below zero
# it has crossed the valley, and below -1 it ends farther away than it began. So the linear rule must end at
# some k. The limit belongs to the valley and not to the batch: the closer the tuned rate already
# is to it, the smaller is the k at which the rule fails.
#
# (Our SGD has momentum: each step repeats nine tenths of the step before. That makes the steps longer for
# every batch alike, so the factor between two batches stays k.)

# %% [markdown]
# ### Why Adam may want the square root
#
# Adam divides every step by the typical size of the gradient. If that size is mostly noise, which comes
# from the random choice of images, then a larger batch changes it: the mean over k times as many images has
# √k times less noise. So Adam divides by a smaller number, and its steps towards the goal grow by a factor
# of √k *with no change of the rate*. We only need to add the other √k. This is the **square-root rule**.
#
# If there is hardly any noise, none of this happens, and k times fewer steps need k times the rate, as
# with SGD. We can see both cases in torch's Adam, with 2,000 weights that all feel the same weak pull.


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
# First, we take 1,600 steps with batch 1. Then we take 100 steps with batch 16, on the same number of
# images, at three rates. We print how far each run gets, as a multiple of the first. So 1 means that the
# rule fits.

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
# So in this toy, Adam's factor lies between √k and k, depending on how noisy the gradient is.
#
# The card's paper for the square root, Krizhevsky 2014 ([arXiv
# 1404.5997](https://arxiv.org/abs/1404.5997)), derived it for *SGD*, but found that k itself worked better. So
# we test both rules with both optimisers.
#
# ### Why the first steps should be short
#
# How long a step can be depends on how sharply the loss curves. In a network, this *sharpness* changes from
# place to place. Here is a toy loss that is steep far away and
# flat near the lowest point: w⁴ / 4, with slope w³. We walk down from 2 at a rate of 0.6.


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
# called **warm-up**, and the rising part is called the *ramp*.

# %%
rising = [0.06 + 0.54 * step / 5 for step in range(5)]
warmed = walk([*rising, 0.6, 0.6])
[round(w, 2) for w in warmed]

# %% [markdown]
# With the ramp, the walk settles. Gilmer et al. 2021 ([arXiv
# 2110.04369](https://arxiv.org/abs/2110.04369)) find this in real networks: with a ramp, training moves to
# flatter places, which tolerate the full rate. A ramp cannot help where there is no such place: then the full
# rate is simply too high.
#
# **Adam has a reason of its own.** It gives each weight a rate of its own: the rate divided by the typical
# size of that weight's gradient. It estimates this size from the squares of the gradients that it has seen
# (the *second moment*), and at the beginning it has seen very few. To see how bad the first estimates are,
# we feed torch's Adam 2,000 weights whose gradients are noise of the same size. So all of them should get
# the same rate. What rates do they get?

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
# The figure shows three rates, as multiples of the right one: a very high one (only 1 weight in 100 has a
# higher one, because its first gradients happened to be tiny), the middle one, and a very low one.

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
    f"Such a weight does not run away at once. Adam multiplies this rate by the average of the gradients so "
    f"far (the *first moment*), and after one step, that is the same tiny gradient: the two cancel, and every "
    f"weight moves by exactly the learning rate ({moves[0]:.2f} times). But that is long for a move that "
    f"follows nothing but noise. Later, the noise partly cancels in the average, and a typical move is "
    f"{moves[-1]:.2f} times the learning rate."
)

# %% [markdown]
# Liu et al. 2019 ([arXiv 1908.03265](https://arxiv.org/abs/1908.03265)) explain warm-up by the poor estimates
# of the size. Ma and Yarats 2019 ([arXiv 1910.04209](https://arxiv.org/abs/1910.04209)) object that, because
# of this cancelling, the long moves are what matters. Both lead to the same advice: keep Adam's first steps
# short.
#
# ## Write it
#
# We need two functions: one says by how much to scale the rate, the other how soon to reach it.


# %%
def scale(batch, reference, rule):
    return (batch / reference) ** {"linear": 1.0, "sqrt": 0.5}[rule]


def warm_up(step, ramp, start):
    return start + (1 - start) * min(step / ramp, 1.0) if ramp else 1.0


# %% [markdown]
# We multiply the rate by their product.
#
# ## Check it
#
# First, our functions match the package's.

# %% tags=["nbval-check-output"]
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
# In a plain PyTorch script, the trick takes only these lines: remove those marked `-` and add those marked
# `+`.
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
# The complete script is [`examples/scaling.py`](../examples/scaling.py). Its first numbers are those of our
# recorded study: the images of a run that reaches the target without tricks, and a batch of 160 instead of
# 128. The optimiser is AdamW, so the rate grows with the square root of the batch. With SGD, leave out
# `** 0.5` for the linear rule.

# %% [markdown]
# ## Use it
#
# ### First on the linear layer
#
# We first test the rules where runs are cheap, with four batches from 8 to 512, nine rates that double each
# time, and both optimisers. A run still sees 6,144 images.

# %%
sizes = (8, 32, 128, 512)
rates = [0.0005 * 2**row for row in range(9)]
maps = {}
for name, optimizer, options in (
    ("SGD", torch.optim.SGD, {"momentum": 0.9}),
    ("AdamW", torch.optim.AdamW, {}),
):
    maps[name] = {}
    for batch in sizes:
        maps[name][batch] = [linear_loss(optimizer, batch, rate, **options) for rate in rates]

# %% [markdown]
# The lowest point of a line is the best rate of that batch. We tune only once, at a batch of 8, and scale that
# rate for 32, 128, and 512, so k is 4, 16, and 64. A *k* above a point or a *√k* below it, in the colour of the
# line, marks the rate that the rule gives. A letter without a point means that the loss lies above the figure.


# %%
def rule_row(losses, batch, power):
    """The row of the rate that a rule gives to a batch; a factor of 2 is one row."""
    tuned = losses[8].index(min(losses[8]))
    doublings = sizes.index(batch) * 2 * power
    return min(tuned + int(doublings), len(rates) - 1)


for name, losses in maps.items():
    lines = {f"batch {batch}": (rates, losses[batch]) for batch in sizes}
    plot(lines, "rate", "validation loss", f"one linear layer, {name}", scale="log", marks=True)
    for batch, drawn in zip(sizes[1:], plt.gca().lines[1:], strict=True):
        for word, power, side in (("k", 1, 15), ("√k", 0.5, -15)):
            row = rule_row(losses, batch, power)
            place = (rates[row], min(losses[batch][row], 1.05))
            style = {"color": drawn.get_color(), "weight": "bold", "ha": "center", "va": "center"}
            plt.annotate(word, place, xytext=(0, side), textcoords="offset points", **style)
    name_rates(rates)
    plt.ylim(0.45, 1.2)
    plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()

# %% [markdown]
# In numbers, these are the losses, and in the last column the lowest that any of the nine rates reached:

# %%
import pandas as pd

behind, rows = {}, []
for name, losses in maps.items():
    for batch in sizes[1:]:
        lowest = min(losses[batch])
        row = {"optimiser": name, "batch": batch}
        for rule, power in {"the same rate": 0, "√k": 0.5, "k": 1}.items():
            row[rule] = losses[batch][rule_row(losses, batch, power)]
            behind.setdefault((name, rule), []).append(row[rule] - lowest)
        rows.append({**row, "best": lowest})
pd.DataFrame(rows).set_index(["optimiser", "batch"]).round(2)

# %%
nearest = {}
for kind, layer in maps.items():
    worst = {way: max(behind[kind, way]) for way in ("the same rate", "√k", "k")}
    nearest[kind] = min(worst, key=worst.get)
    smallest, largest = (rates[layer[end].index(min(layer[end]))] for end in (8, 512))
    at_edge = rates[-1] in (smallest, largest) or rates[0] in (smallest, largest)
    say(
        f"- **{kind}: {nearest[kind]} stays closest to the best rate.** At worst, it is "
        f"{worst[nearest[kind]]:.2f} behind in loss. For k it is {worst['k']:.2f}, for √k "
        f"{worst['√k']:.2f}, and for the same rate {worst['the same rate']:.2f}. From a batch of 8 to one of "
        f"512, the best rate grew by a factor of {largest / smallest:g}, while k is 64 and √k is 8."
        + (" (But it lies at the edge of what we tried.)" if at_edge else "")
    )

# %%
least = {kind: [min(layer[size]) for size in sizes] for kind, layer in maps.items()}
say(
    f"No rate saves a batch that is far too large: with 512, which leaves {len(train_x) // 512} steps, the "
    f"best loss is {least['SGD'][3]:.2f} with SGD and {least['AdamW'][3]:.2f} with AdamW. With a batch of "
    f"32, it is {least['SGD'][1]:.2f} and {least['AdamW'][1]:.2f}."
)

# %% [markdown]
# ### Then on the network, with SGD
#
# `LRScaling` takes the batch, the reference, and the rule, and sets both batch and rate. Its `warmup` says how
# long the ramp is: below 1, it is a share of the run; from 1 on, it is a number of steps. We set it to 0 for
# now and add the ramp later, so that only one thing changes at a time. From the best rate of the batch of 64,
# we go to 256 and 1,024 by both rules.

# %%
recipes = {
    (batch, rule): tuned + LRScaling(batch, 64, rule, warmup=0)
    for batch in (256, 1024)
    for rule in ("sqrt", "linear")
}
scaled_runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
for (batch, rule), found in scaled_runs.items():
    rate = best_rate * scale(batch, 64, rule)
    runs[batch][rate] = found
    grid[batch][rate] = [score(run.net) for run in found]

# %% [markdown]
# A line for each batch. The lines of 256 and 1,024 have three points each: the same rate, √k, and k.

# %%
lines = {}
for batch, found in grid.items():
    lines[f"batch {batch}"] = (list(found), [mean(values) for values in found.values()])
title = f"SGD, {half:,} images, {whose}"
plot(lines, "rate", "validation accuracy", title, scale="log", marks=True)
name_rates({rate for found in grid.values() for rate in found})
plt.margins(0.08)
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# A rate passes the test if its accuracy is not clearly below that of the batch's best rate.

# %%
from fasttricks.course import clear


def passes(found):
    """The rates whose mean accuracy is not clearly below the best."""
    points = {rate: 100 * mean(values) for rate, values in found.items()}
    limit = max(points.values()) - clear(len(next(iter(found.values()))))
    return [rate for rate, value in points.items() if value > limit]


winner = {batch: max(found, key=lambda rate: mean(found[rate])) for batch, found in grid.items()}

# %%
verdicts = []
for large in (256, 1024):
    factors = {"the same rate": 1, "√k": (large / 64) ** 0.5, "k": large / 64}
    good = passes(grid[large])
    words = [word for word in factors if best_rate * factors[word] in good]
    change = gained(grid[large][best_rate * large / 64], grid[large][best_rate], guess)
    say(
        f"- Batch {large:,}: passed by **{', '.join(words)}**. Compared with the same rate, accuracy by the "
        f"linear rule is {change}."
    )
    better = "helped" if "higher" in change else "made no clear difference"
    verdicts.append("did harm" if "lower" in change else better)
for_256, for_1024 = verdicts
told = (
    f"{for_256} for both batches"
    if for_256 == for_1024
    else f"{for_256} for 256 and {for_1024} for 1,024"
)
sgd_rule = f"compared with the same rate, the linear rule {told}"
say(f"In short: **{sgd_rule}**.")

# %%
same_images = gained(grid[256][winner[256]], grid[64][best_rate], guess)
say(
    f"After the same images, with each batch at its best rate, and compared with the batch of 64, accuracy "
    f"with a batch of 256 is **{same_images}**. With 1,024, it is "
    f"**{gained(grid[1024][winner[1024]], grid[64][best_rate], guess)}**."
)

# %% [markdown]
# A rule asks for too much where the rate that it starts from is already near the limit of the valley, and the
# best rate of a short run tends to be high. Goyal et al. 2017 ([arXiv
# 1706.02677](https://arxiv.org/abs/1706.02677)) had thousands of steps, and a ramp: with the linear rule and
# a batch of 8,192, their ResNet-50 on ImageNet reached the accuracy of the small batch.
#
# ### The same time instead of the same images
#
# Nobody takes a larger batch to learn more from the same images. What it can save is time, so its real rival
# is the small batch with fewer images. We measure how long both take, and give the batch of 64 as many images
# as it gets through in the time of the batch of 256.

# %%
from fasttricks.course import median


def seconds(found):
    return median([run.train_seconds for run in found])


every = {batch: [run for found in runs[batch].values() for run in found] for batch in (64, 256)}
long, short = seconds(every[64]), seconds(every[256])
affordable = max(64, int(half * min(2, short / long)) // 64 * 64)
rival = train_arms({"batch 64": tuned}, data, images=affordable, seeds=seeds, evaluations=1)
rival_runs = rival["batch 64"]
rival_accuracies = [score(run.net) for run in rival_runs]

# %%
same_time = gained(grid[256][winner[256]], rival_accuracies, guess)
if "higher" in same_time:
    time_verdict = "the larger batch pays"
elif "lower" in same_time:
    time_verdict = "the larger batch does not pay"
else:
    time_verdict = "neither batch is clearly the better choice"
say(
    f"For {half:,} images, the batch of 64 took {long:.1f} s and that of 256 took {short:.1f} s (medians of "
    f"all rates). In about that time, the batch of 64 gets through {affordable:,} images. At equal time, "
    f"accuracy with the batch of 256 is **{same_time}**. So, on this device, **{time_verdict}**."
)

# %% [markdown]
# A GPU can gain more speed from a large batch than a CPU.
#
# ### AdamW, which the baseline uses
#
# Again, we first look for a good rate at the small batch, here the baseline's 128. From the best of three
# rates, we go to 4 times the batch.

# %%
small_batch, big_batch = BASELINE.batch, 4 * BASELINE.batch
recipes = {rate: replace(BASELINE, lr=rate) for rate in (0.001, 0.004, 0.016)}
small_runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
small_scores = {rate: [score(run.net) for run in found] for rate, found in small_runs.items()}
adam_rate = max(small_scores, key=lambda rate: mean(small_scores[rate]))
adam = replace(BASELINE, lr=adam_rate)
recipes = {
    adam_rate: replace(adam, batch=big_batch),
    2 * adam_rate: adam + LRScaling(big_batch, small_batch, "sqrt", warmup=0),
    4 * adam_rate: adam + LRScaling(big_batch, small_batch, "linear", warmup=0),
}
big_runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
big_scores = {rate: [score(run.net) for run in found] for rate, found in big_runs.items()}

# %% [markdown]
# The larger batch again has three points: the same rate, √k = 2 times, and k = 4 times.

# %%
lines = {}
for batch, found in {small_batch: small_scores, big_batch: big_scores}.items():
    lines[f"batch {batch}"] = (list(found), [mean(values) for values in found.values()])
title = f"AdamW, {half:,} images, {whose}"
plot(lines, "rate", "validation accuracy", title, scale="log", marks=True)
name_rates({*small_scores, *big_scores})
plt.margins(0.08)
plt.show()

# %%
edge = ", at the edge of what we tried" if adam_rate in (0.001, 0.016) else ""
factors = {"the same rate": 1, "√k": 2, "k": 4}
good = passes(big_scores)
adam_words = [word for word in factors if factors[word] * adam_rate in good]
adam_lag = gained(max(big_scores.values(), key=mean), small_scores[adam_rate], guess)
say(
    f"For a batch of {small_batch}, the best of the three rates is {adam_rate:g}{edge}. At {big_batch}, "
    f"the test was passed by **{', '.join(adam_words)}**. At its best rate, and compared with {small_batch}, "
    f"accuracy with {big_batch} is **{adam_lag}**."
)

# %% [markdown]
# ### Does a ramp help?
#
# So far, all runs began at their full rate. The card warns of a missing ramp at a large k. We repeat SGD with
# a batch of 256 by the linear rule, with the same seeds and a ramp over the first fifth of the steps. It begins
# at a tenth of the rate, as `LRScaling` does unless we say otherwise.

# %%
by_rule = best_rate * scale(256, 64, "linear")
recipes = {"ramp": tuned + LRScaling(256, 64, "linear", warmup=0.2)}
ramp_runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)["ramp"]
ramp_scores = [score(run.net) for run in ramp_runs]

# %%
ramp_effect = gained(ramp_scores, grid[256][by_rule], guess)
say(f"With the ramp, accuracy is **{ramp_effect}**, compared with no ramp.")

# %% [markdown]
# A ramp has a price: its steps are shorter. Ours takes away 9 % of the way (a fifth of the steps, 45 % shorter
# on average). In a long run with a ramp over 5 %, it is about 2 %.
#
# Here are all runs of the network in one table, with refreshed accuracies (mean) and seconds (median).

# %%
groups = {
    "SGD, 64": (runs[64], grid[64]),
    "SGD, 256": (runs[256], grid[256]),
    "SGD, 1024": (runs[1024], grid[1024]),
    f"AdamW, {small_batch}": (small_runs, small_scores),
    f"AdamW, {big_batch}": (big_runs, big_scores),
    "SGD, 64, equal time": ({best_rate: rival_runs}, {best_rate: rival_accuracies}),
    "SGD, 256, ramp": ({by_rule: ramp_runs}, {by_rule: ramp_scores}),
}
rows = []
for name, (found, scores) in groups.items():
    for rate, values in scores.items():
        row = {"batch": name, "rate": f"{rate:g}", "steps": found[rate][0].steps}
        row |= {"accuracy": f"{mean(values):.3f}", "seconds": f"{seconds(found[rate]):.1f}"}
        rows.append(row)
pd.DataFrame(rows).set_index(["batch", "rate"])

# %% [markdown]
# ## Break it: a rate that is far too high
#
# How much difference can a ramp make? This is an illustration, not a recipe: with a batch of 256, we use a
# rate of 1.6. To see what each step does, we record the loss of every batch before the step.

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
# Two runs differ only in the ramp. For so high a rate, we make it longer and gentler than before: from a
# hundredth of the rate, over three tenths of the run. Batch and reference are both 256, so `LRScaling` adds
# the ramp and does not scale.

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
first = {name: max(losses[1:6]) for name, (_, losses) in curves.items()}
highest = max(curves["ramp"][1])
rescued = gained([ends["ramp"]], [ends["no ramp"]], guess)
say(
    f"Both runs begin at a loss of {begun:.1f}. In the next five steps, it reaches {first['no ramp']:.1f} "
    f"without a ramp, and at most {first['ramp']:.1f} with one. At such a rate, the ramp does not prevent "
    f"every jump: its highest loss is {highest:.1f}. At the end, accuracy with the ramp is **{rescued}**."
)
say(
    f"But that does not make it a good rate: with the ramp, the run ends at {ends['ramp']:.2f}. At its best "
    f"rate, {winner[256]:g}, and without a ramp, the same batch reached "
    f"{grid[256][winner[256]][0]:.2f} with this seed."
)

# %% [markdown]
# A loss that jumps *up* from the grey line is the sign to look for in a run of your own. It looks like the toy,
# which was thrown to a steeper place, although we have not measured the sharpness. Lower the rate, or make the
# first steps shorter.
#
# ## Break it: too large a batch
#
# You have seen the other break: the batch of 1,024 on the network, and of 512 on the linear layer. The cause is
# plain: too few steps. Use a smaller batch or more images then, not a higher rate.
#
# With many more images there is another limit, which we have not measured: once the gradient has little noise
# left, a larger batch makes a step hardly better. McCandlish et al. 2018 ([arXiv
# 1812.06162](https://arxiv.org/abs/1812.06162)) call this point the *critical batch size*.
#
# ## What to remember
#
# The card promises a gain where the device is not yet full at the small batch, and it gives two warnings:
# too few steps, and a missing ramp at a large k. What did we see?

# %%
last_lag = gained(grid[1024][winner[1024]], grid[64][best_rate], guess)
few = runs[1024][best_rate][0].steps
say(
    f"- **The gain.** With SGD and each batch at its best rate, accuracy with 256 instead of 64 was "
    f"{same_images} after the same images, and {same_time} after the same time: {time_verdict}.\n"
    f"- **Too few steps.** At the best of three rates, accuracy with a batch of 1,024, in "
    f"{few} steps, was {last_lag}.\n"
    f"- **The missing ramp.** At the linear rule's rate, accuracy with a ramp was {ramp_effect}. At a rate "
    f"far too high, it was {rescued}.\n"
    f"- **Which rule for SGD?** On the linear layer, {nearest['SGD']} stayed closest to the best rate. On "
    f"the network, {sgd_rule}.\n"
    f"- **Which rule for AdamW?** On the linear layer, {nearest['AdamW']} stayed closest to the best rate. On "
    f"the network, the test was passed by {', '.join(adam_words)}. At its best rate and after the same images, "
    f"accuracy with {big_batch} instead of {small_batch} was {adam_lag}."
)

# %% [markdown]
# A rule of thumb:

# %%
if "higher" in ramp_effect:
    ramp_rule = "Begin with a ramp: it helped here."
elif "lower" in ramp_effect:
    ramp_rule = "In a run as short as ours, leave the ramp out unless the loss jumps at the start."
else:
    ramp_rule = "At the rule's rate, a ramp made no clear difference. Use one if the loss jumps at the start."
both = nearest["SGD"] == nearest["AdamW"]
start = nearest["SGD"] if both else f"{nearest['SGD']} with SGD and {nearest['AdamW']} with AdamW"
say(
    "1. Tune the rate at a small batch, in a run as long as yours.\n"
    "2. Raise the batch only as long as the images per second rise, and compare at equal time. Here, "
    f"{time_verdict}.\n"
    f"3. For k times the batch, a rule gives a first guess, not the answer. Begin with {start}, which came "
    "closest on the linear layer, and try the same rate and the other rule as well. Count the images of all "
    "devices.\n"
    f"4. Look at how many steps are left. With {few} of them, accuracy was {last_lag}, compared with a batch "
    "of 64.\n"
    f"5. {ramp_rule} In a long run, a ramp over 5 % costs next to nothing.\n"
    "6. Refresh batch norm before you judge a run whose rate is still high at the end."
)

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
# shrinks by √k in the larger batch, so the steps already grow by √k. If there is hardly any noise, nothing
# shrinks, and Adam needs k.</details>
#
# **4. After 12 large steps, your run's validation accuracy is no better than guessing. What do you check
# first?**
#
# <details><summary>Answer</summary>Whether batch norm's running mean and variance have caught up; refresh
# them and validate again.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. A wrong answer gets a hint.
#
# **Exercise 1.** Return the new rate. `batch` is the batch of one process. As most scripts do, scale linearly
# for SGD and by the square root for AdamW.


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
# **Exercise 2.** Without looking above, return the rate at a step, with a ramp of `ramp` steps from
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
# - Krizhevsky 2014, [arXiv 1404.5997](https://arxiv.org/abs/1404.5997): the square root, derived by
#   keeping the noise of a step the same.
# - Malladi et al. 2022, [arXiv 2205.10287](https://arxiv.org/abs/2205.10287): a derivation of the
#   square-root rule for Adam.
# - McCandlish et al. 2018, [arXiv 1812.06162](https://arxiv.org/abs/1812.06162): how large a batch is
#   still worth using.
