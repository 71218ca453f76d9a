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
# With a larger batch, the same number of images gives fewer steps, so each step should be longer.
# This trick raises the *learning rate* (the *rate*, for short) with the batch. It also begins the
# run with lower rates, which is called *warm-up*. In your training loop, that is:
#
# ```python
# k = batch / old_batch  # old_lr was tuned with old_batch
# lr = old_lr * k**0.5  # also try old_lr and, as the upper limit, old_lr * k
# ramp = 0.05 * steps  # steps: of the whole run
#
# for step in range(steps):
#     for group in optimizer.param_groups:
#         group["lr"] = lr * (0.1 + 0.9 * min(1, step / ramp))
#     ...  # forward, backward, optimizer.step()
# ```
#
# (These lines set the rate before every step, so they overwrite any scheduler. If you have one,
# multiply its rates by the same factor, and let torch's `SequentialLR` run a `LinearLR` before it.)
#
# There are two rules for k times the batch. The *linear rule* asks for k times the rate and is
# meant for SGD (Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677)). The
# *square-root rule* asks for √k times and is meant for Adam and AdamW (Malladi et al. 2022,
# [arXiv 2205.10287](https://arxiv.org/abs/2205.10287)).
#
# **Does it pay?** In our recorded studies, which follow below, a slightly larger batch shows no clear
# gain by itself, and one of 1,024 instead of 128 is slower at every rate. In this page's runs on two
# CPU cores, we saw more:
#
# - On a linear layer, the best rate grew with the batch, but by less than each optimiser's rule
#   says.
# - On a network with SGD, one unchanged rate was good for batches of 64, 256 and 1,024.
# - After the same number of images, 256 was less accurate than 64. After the same time, it was more
#   accurate. A batch of 1,024 took better steps, but too few of them.
# - A ramp helped much at a rate that was far too high. Even so, a lower rate without a ramp was better.
#
# **Use it when** the images per second grow more than the images that you need, or when more devices
# enlarge the batch anyway.
#
# **Leave it when** the device is already full, or when few steps would be left.
#
# **What it does not do.** It does not make a large batch need as few images as a small one. And a
# rule does not find the best rate. It tells you where to look.
#
# About 30 minutes to read, and four to run.

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
# The *budget* depends on the device: which network, and how many images a run sees. The data are
# Fashion-MNIST, small grey images of ten kinds of clothes.

# %%
from statistics import mean

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from fasttricks import BASELINE, LRScaling, choose_budget, load
from fasttricks.course import faster, found_in, gained, headline, holds, plot, say, train_arms

budget = choose_budget()
data = load()

# %% [markdown]
# ## Does a larger batch save time?
#
# Our main study tried each of the course's seven tricks with AdamW. This trick made the batch only
# a little larger (from 128 to 160 on the CPU, from 1,024 to 2,048 on the GPU), with the square-root
# rule and a ramp. [Chapter 0](00_baseline.ipynb) defines words such as *clear* and *may be chance*.

# %% tags=["fold"]
say(headline("scaling"))

# %% [markdown]
# A second study with AdamW went from a batch of 128 to one of 1,024 (k = 8), at constant rates.
# Some runs began with a ramp. The table shows **how many times as fast** the batch of 1,024 reached
# the same accuracy. (Below 1, it is slower. 95% intervals are in brackets.) A repetition *refreshed
# batch norm* before every validation. You will see below what that means, and that it matters.

# %% tags=["fold"]
from fasttricks.study.findings import span, times

studies = {"as trained": found_in("batches"), "refreshed": found_in("batches-refreshed")}
large = [row.arm for row in studies["as trained"].rows if row.arm != "plain"]


def as_fast(study, arm):
    for row in study.of(arm):
        if not row.arrives:
            return f"not reached after {row.most:,} images"
        unsure = " (cannot tell)" if row.verdict == "cannot tell" else ""
        return f"{times(row.ratio.value)} ({span(row.ratio)}){unsure}"
    return "not tried"


shown = {name: [as_fast(study, arm) for arm in large] for name, study in studies.items()}
ways = [arm.removeprefix("1024 ").removeprefix("at ") for arm in large]
pd.DataFrame(shown, index=pd.Index(ways, name="rate"))

# %% tags=["fold"]
words = {"faster": "faster", "slower": "slower", "cannot tell": "not clearly faster or slower"}
verdicts = {}
for name, study in studies.items():
    verdicts[name] = {}
    for row in study.of(*large):
        word = "perhaps " * row.wavers + words[row.verdict]
        verdicts[name].setdefault(word, []).append(row.arm.removeprefix("1024 "))
kinds = set().union(*verdicts.values())
said = f"In both studies, **the batch of 1,024 is {', '.join(kinds)} at every rate that we tried**."
if len(kinds) > 1:
    begin = {"as trained": "As trained", "refreshed": "With batch norm refreshed"}
    said = ""
    for name, found in verdicts.items():
        every = len(found) == 1
        parts = [f"**{w}** {'at every rate' if every else ', '.join(a)}" for w, a in found.items()]
        said += f"{begin[name]}, the batch of 1,024 is {'; '.join(parts)}. "
known = {row.seeds for study in studies.values() for row in study.of(*large)}
seeds_said = " or ".join(str(count) for count in sorted(known))
first = studies["as trained"]
say(
    f"{said.strip()} (Recorded on {first.hardware}, accuracy {first.target}, {seeds_said} paired "
    f"seeds.)"
)

# %% tags=["fold"]
(raw,), (new,) = (study.of("1024 at 8 times") for study in studies.values())
needed = [
    f"{row.images.value:,.0f} images (95% interval: {row.images.low:,.0f} to "
    f"{row.images.high:,.0f}, {row.seeds} seeds)"
    if row.arrives
    else f"more than {row.most:,} images ({row.seeds} seeds)"
    for row in (raw, new)
]
told = f"At 8 times the rate, the runs need {needed[0]} as trained, and {needed[1]} refreshed."
if new.arrives and new.images.high < (raw.images.low if raw.arrives else raw.most):
    told += " **So stale averages can make a rate look far too high.**"
others = [row for row in studies["refreshed"].of(*large) if row.arm != new.arm]
if any(row.ratio.high > new.ratio.low and row.ratio.low < new.ratio.high for row in others):
    told += " Which of the rates is best when refreshed, so few seeds cannot tell."
say(told)

# %% [markdown]
# ## Why raise the rate at all?
#
# We begin with a single linear layer and 6,144 training images. The first function trains it once
# and returns the validation loss. The second returns the mean over three orders of the images.

# %%
train_x, train_y = data.normalise(data.train.x[:6144]).flatten(1), data.train.y[:6144]
val_x, val_y = data.normalise(data.val.x).flatten(1), data.val.y


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
    return mean(losses)


# %% [markdown]
# We train it with a batch of 32, and with a batch of 128 at two rates. Each point in the figure is
# a separate run.

# %% tags=["fold"]
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

# %% tags=["fold"]
slow, lagging, rescaled = (line[1][-1] for line in lines.values())
say(
    f"After {seen[-1]:,} images, the batch of 32 has reached a loss of {slow:.2f}. The batch of "
    f"128 has taken a quarter as many steps. At the same rate, its loss is still {lagging:.2f}. At "
    f"4 times the rate, its loss is {rescaled:.2f}. So **the higher rate makes up for "
    f"{(lagging - rescaled) / (lagging - slow):.0%} of the lag**."
)

# %% [markdown]
# ## By hand: ten small steps or one large
#
# Suppose that each of ten images pulls on one weight with a fixed strength, wherever the weight is.
# Ten steps at a rate of 0.1, one for each image, add up the pulls. One large step with all ten
# images takes the mean of the pulls, so we give it ten times the rate.

# %%
pulls = torch.tensor([3.0, -1, 2, 0, 4, 1, -2, 5, 3, 1], dtype=torch.float64)
w = torch.zeros((), dtype=torch.float64)
for pull in pulls:
    w = w - 0.1 * pull
one = -(10 * 0.1) * pulls.mean()
w.item(), one.item()

# %% [markdown]
# Both end at the same place. That is the **linear rule**: the sum of k pulls is k times their mean.
# It assumes that the slope does not change on the way. In a valley, it does. Take the loss w² / 2,
# whose slope is w itself, and start at 1. At a rate of lr, each small step multiplies w by 1 - lr,
# and the one large step by 1 - k · lr.

# %%
ks = list(range(1, 46))
small = [(1 - 0.05) ** k for k in ks]
long = [1 - 0.05 * k for k in ks]
lines = {"k steps of 0.05": (ks, small), "one step of k · 0.05": (ks, long)}
plot(lines, "k", "position (lowest point at 0)", "a valley")
plt.show()

# %% [markdown]
# On the left, the lines touch, so the rule works. Below 0, the large step has crossed the lowest
# point. Below -1, it ends farther away than it began. So two things decide. **The rule says how
# long a step must be to keep up with the small steps. The valley says how long it may be.**
#
# ### Why may Adam need only the square root?
#
# Adam divides every step by the typical size of the gradient. Often, that size is mostly noise from
# the random choice of images. With k times as many images, the noise shrinks by a factor of √k. So
# Adam's steps towards the goal grow by a factor of √k *with no change of the rate*. To keep up,
# they must grow by a factor of k, so we raise the rate by the missing √k. With hardly any noise,
# all of k is missing. We can see both cases with torch's Adam and 2,000 weights that all feel the
# same weak pull.


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
# First, we take 1,600 steps with a batch of 1. Then we take 100 steps with a batch of 16, at three
# rates, and print how far they get as a multiple of the first run. So 1 means that they keep up.

# %%
ratios = {}
for name, noise in {"strong noise": 1.0, "hardly any noise": 0.001}.items():
    far = travel(1, 1e-3, 1600, noise)
    for factor in (1, 4, 16):
        ratios[name, factor] = travel(16, factor * 1e-3, 100, noise) / far
        print(f"{name:16}, rate times {factor:2}: {ratios[name, factor]:.2f}")

# %% tags=["fold", "nbval-check-output"]
holds(abs(ratios["strong noise", 4] - 1) < 0.2, "strong noise: the square root of 16 keeps up")
holds(abs(ratios["hardly any noise", 16] - 1) < 0.1, "hardly any noise: it takes 16 itself")

# %% [markdown]
# So to keep up, Adam needs between √k and k. But this toy has no valley. With little noise, each
# weight moves by about the rate in every step, *whatever the batch*. In a valley, a rate that is
# too high for one batch is then too high for a larger one, too. (We did not test this explanation.
# Li et al. 2024,
# [arXiv 2405.14578](https://arxiv.org/abs/2405.14578), find that Adam's best rate first rises with
# the batch and then falls.) So **with Adam, begin with √k, and try up to k. A larger factor
# keeps up better, but is riskier**.
#
# ### Why should the first steps be short?
#
# Here is a loss that is flat near its lowest point and steep far away: w⁴ / 4, whose slope is w³.
# We start at 2, at a rate of 0.6.


# %%
def walk(rates):
    path = [2.0]
    for rate in rates:
        path.append(path[-1] - rate * path[-1] ** 3)
    return path


at_once = walk([0.6] * 4)
[round(w, 2) for w in at_once]

# %% [markdown]
# The first step jumps across the valley to a steeper place, and the next one even farther. Now we
# start at a tenth of that rate and raise it over five steps. This is **warm-up** (also from Goyal
# et al.), and the rising part is the *ramp*.

# %%
rising = [0.06 + 0.54 * step / 5 for step in range(5)]
warmed = walk([*rising, 0.6, 0.6])
[round(w, 2) for w in warmed]

# %% [markdown]
# With the ramp, the walk settles. In real networks, too, a ramp leads training to flatter places,
# which tolerate the full rate (Gilmer et al. 2021, [arXiv
# 2110.04369](https://arxiv.org/abs/2110.04369)).
#
# **Adam has another reason.** It estimates the typical size of each weight's gradient from the
# gradients so far, which are few at the beginning. We give torch's Adam 2,000 weights whose
# gradients are nothing but equally strong noise, so the right estimate is the same for all. The
# figure shows the resulting rates as multiples of the right one.

# %% tags=["fold"]
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
low, middle, high = zip(*own, strict=True)
lines = {"1 in 100 is higher": high, "middle": middle, "1 in 100 is lower": low}
lines = {name: (range(1, 101), found) for name, found in lines.items()}
plot(lines, "step", "times the right rate", "Adam, equally strong noise", yscale="log")
plt.show()

# %% tags=["fold"]
say(
    f"In the first step, one weight in a hundred has {high[0]:.0f} times the right rate or more. "
    f"But Adam multiplies this rate by the average gradient so far, and that is the same tiny "
    f"gradient. The two cancel. So **every weight first moves by {moves[0]:.2f} times the learning "
    f"rate**, although there is only noise to follow. After {len(moves)} steps, the noise partly "
    f"cancels in the average, and a typical move is {moves[-1]:.2f} times the rate."
)

# %% [markdown]
# So short first steps keep Adam from making its longest moves when it knows least.
#
# ## Write it, and check it
#
# We multiply the rate by two factors. `scale` adapts it to the batch, if it was tuned with a batch
# of `reference`. `warm_up` is the ramp, from `start` to 1 in `ramp` steps.


# %%
def scale(batch, reference, rule):
    return (batch / reference) ** {"linear": 1.0, "sqrt": 0.5}[rule]


def warm_up(step, ramp, start):
    return start + (1 - start) * min(step / ramp, 1.0) if ramp else 1.0


# %% [markdown]
# They should match those of the course's package, and torch's `LinearLR`.

# %% tags=["fold", "nbval-check-output"]
from fasttricks.tricks import scaling

rules = [(b, r) for b in (32, 64, 256, 1024) for r in ("linear", "sqrt")]
equal = all(scale(b, 64, r) == scaling.scale(b, 64, r) for b, r in rules)
holds(equal, "our scale is the package's")
ramps = [(step, ramp) for step in range(100) for ramp in (0, 1, 20)]
equal = all(warm_up(s, r, 0.1) == scaling.warm_up(s, r, 0.1) for s, r in ramps)
holds(equal, "our ramp is the package's")
sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
ramp = torch.optim.lr_scheduler.LinearLR(sgd, 0.1, 1.0, total_iters=20)
off = []
for step in range(100):
    off.append(abs(sgd.param_groups[0]["lr"] - 0.3 * warm_up(step, 20, 0.1)))
    sgd.step()
    ramp.step()
holds(max(off) < 1e-9, "torch's LinearLR gives the same rates")

# %% [markdown]
# [`examples/scaling.py`](../examples/scaling.py) is a complete script in plain PyTorch. We found
# its batch of 160 when we tuned the seven tricks together.
#
# <details><summary>How it differs from <code>examples/plain.py</code>: - lines go, + lines
# come</summary>
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
# </details>

# %% [markdown]
# ## How far does the best rate move?
#
# We train the linear layer with four batch sizes, nine rates (each twice the one before) and both
# optimisers. Each run still sees 6,144 images. So a batch of 512 has only 12 steps, hardly enough
# for SGD's momentum of 0.9 to build up, and this may raise its best rate. (We change only the rate.
# Malladi et al. also adapt Adam's other settings.)
#
# The figure shows the losses with SGD.

# %%
sizes = (8, 32, 128, 512)
tried = [0.0005 * 2**row for row in range(9)]
optimizers = {"SGD": (torch.optim.SGD, {"momentum": 0.9}), "AdamW": (torch.optim.AdamW, {})}
maps = {}  # by optimiser and batch: the loss at each rate
for name, (optimizer, options) in optimizers.items():
    maps[name] = {}
    for batch in sizes:
        maps[name][batch] = [linear_loss(optimizer, batch, rate, **options) for rate in tried]

# %% tags=["fold"]
lines = {f"batch {batch}": (tried, maps["SGD"][batch]) for batch in sizes}
plot(lines, "rate", "validation loss", "one linear layer, SGD", scale="log", marks=True)
plt.ylim(0.45, 1.2)
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% tags=["fold"]
lowest = [min(maps["SGD"][batch]) for batch in sizes]
values = ", ".join(f"{loss:.2f} with {batch}" for batch, loss in zip(sizes, lowest, strict=True))
places = [maps["SGD"][batch].index(min(maps["SGD"][batch])) for batch in sizes]
say(
    "With larger batches, the bottom of the line moves to the right. " * (places == sorted(places))
    + f"The best losses are {values}."
    + " So on the same images, **no rate makes up for the missing steps**."
    * (lowest == sorted(lowest))
)

# %% [markdown]
# As the best rate, we take the bottom of a parabola through the lowest point and its two
# neighbours. If a rule is right for an optimiser, its line is parallel to the optimiser's.


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

# %% tags=["fold"]
growth = {}
for kind, found_rates in bests.items():
    average = (found_rates[-1] / found_rates[0]) ** (1 / (len(sizes) - 1))
    outside = {average < 2: "less than √k", average > 4: "more than k"}
    between = outside.get(True, "between √k and k")
    between = "about √k" if abs(average - 2) < 0.2 else between
    between = "about k" if abs(average - 4) < 0.4 else between
    growth[kind] = f"{average:.1f}, {between}, with {kind}"
edge = any({tried[0], tried[-1]} & {*found_rates} for found_rates in bests.values())
at_edge = " (At least one best rate lies at the edge of what we tried.)" if edge else ""
say(
    "When the batch grows fourfold, √k is 2 and k is 4. The best rate was multiplied on average by "
    f"**{'** and by **'.join(growth.values())}**.{at_edge}"
)

# %% [markdown]
# What does it cost to follow a rule? We tune the rate at one batch, go to a larger one by the rule
# (but not beyond the nine rates), and see how far the loss then lies above the best one there. The
# table shows means over all pairs of batches.

# %% tags=["fold"]
from itertools import combinations

rows = []
for name, losses in maps.items():
    for small, big in combinations(range(len(sizes)), 2):
        tuned = losses[sizes[small]].index(min(losses[sizes[small]]))
        there, apart = losses[sizes[big]], big - small
        row = {"optimiser": name, "k": 4**apart}
        for rule, doublings in {"same rate": 0, "√k times": apart, "k times": 2 * apart}.items():
            row[rule] = there[min(tuned + doublings, len(tried) - 1)] - min(there)
        rows.append(row)
cost = pd.DataFrame(rows).groupby(["optimiser", "k"], sort=False).mean()
cost.round(3)

# %% tags=["fold"]
safest = {kind: cost.loc[kind].max().idxmin() for kind in maps}
for kind in maps:
    worst = cost.loc[kind].max()
    say(
        f"- **{kind}.** The highest cost is {worst['same rate']:.2f} at the same rate, "
        f"{worst['√k times']:.2f} at √k times and {worst['k times']:.2f} at k times. So **the "
        f"safest choice is "
        f"{safest[kind].replace('same', 'the same')}{' the rate' * ('k' in safest[kind])}**."
    )

# %% [markdown]
# ### The same on a network
#
# Now we train a convolutional network (a ResNet that suits your device) with SGD and a momentum of
# 0.9. Each of three batches gets the same seven rates, constant over the run, and the same number
# of images.

# %%
from dataclasses import replace

half, seeds = budget.images // 2, min(2, budget.seeds)
batches, rates = (64, 256, 1024), (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
SGD = replace(BASELINE, optimizer="sgd", weight_decay=5e-4)  # a weaker decay than AdamW's
recipes = {(batch, rate): replace(SGD, batch=batch, lr=rate) for batch in batches for rate in rates}
runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
steps = {batch: runs[batch, 0.1][0].steps for batch in batches}

# %% [markdown]
# During validation, the network's *batch norm* layers use a running mean and variance. Each
# training step moves them a tenth of the way to those of the current batch. So they describe
# roughly the last ten batches, as the network saw them *at the time*. While its weights move fast,
# they lag behind. And after few steps, their arbitrary initial values still count.
#
# So we judge each network twice: as trained, and **refreshed**. For that, torch's `update_bn`
# computes mean and variance anew from 2,000 training images. It needs no labels and changes no
# weight.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.course import probabilities

here = data.to(BASELINE.world.device(), budget.image_size)


def score(net):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), net)
    guesses = probabilities(net, here, here.val).argmax(1)
    return (guesses == here.val.y).float().mean().item()


raw = {setting: [run.val_accuracy for run in found] for setting, found in runs.items()}
fresh = {setting: [score(run.net) for run in found] for setting, found in runs.items()}

# %% tags=["fold"]
from fasttricks.study.style import COLOURS, MARKS, STYLES, plain_numbers

figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
for axes, found, title in zip(panels, (raw, fresh), ("as trained", "refreshed"), strict=True):
    for batch, style, mark, colour in zip(batches, STYLES, MARKS, COLOURS, strict=False):
        accuracies = [mean(found[batch, rate]) for rate in rates]
        look = {"linestyle": style, "marker": mark, "color": colour}
        axes.plot(rates, accuracies, label=f"batch {batch:,}", **look)
    axes.set(xscale="log", xlabel="rate", title=f"SGD, {half:,} images, {title}")
    axes.grid(alpha=0.3)
    plain_numbers(axes.xaxis)
panels[0].set_ylabel("validation accuracy")
panels[1].legend()
plt.show()

# %% tags=["fold"]
say(
    f"With a batch of 1,024 and a rate of 0.1, refreshing moves the accuracy from "
    f"{mean(raw[1024, 0.1]):.2f} to **{mean(fresh[1024, 0.1]):.2f}**. (Guessing gives "
    f"{1 / len(data.classes):.2f}.) With a batch of 64, the accuracy moves from "
    f"{mean(raw[64, 0.1]):.2f} to {mean(fresh[64, 0.1]):.2f}. "
    + "**So part of what looked like bad training was bad measurement.** "
    * (mean(fresh[1024, 0.1]) - mean(raw[1024, 0.1]) > 0.05)
    + "From here on, we refresh."
)

# %% [markdown]
# Are the rules right here? Where a line is flat, its best rate is a matter of chance. So we call a
# rate *good* if its accuracy is not clearly below that of the best rate for the same batch. (With
# so few seeds, small losses go unseen.) The last columns take the good rates for 64, multiply them
# by a rule, and tell how many are good for the larger batch. (Rates above 1.6 were not tried and do
# not count.)

# %% tags=["fold"]
guess = 1 / len(data.classes)
top, good, rows = {}, {}, []  # by batch: the accuracies at its best rate, and its good rates
for batch in batches:
    found = {rate: fresh[batch, rate] for rate in rates}
    top[batch] = max(found.values(), key=mean)
    good[batch] = [r for r in rates if "lower" not in gained(found[r], top[batch], guess)]


def asked(batch, times_as_high):
    if batch == 64 or max(top[batch]) < 2 * guess:
        return "-"
    wanted = [times_as_high * rate for rate in good[64]]
    hits = sum(rate in good[batch] for rate in wanted)
    return f"{', '.join(f'{rate:g}' for rate in wanted)} ({hits} of {len(wanted)} good)"


for batch in batches:
    row = {"batch": f"{batch:,}", "steps": steps[batch], "accuracy": f"{mean(top[batch]):.3f}"}
    row |= {
        "good rates": ", ".join(f"{rate:g}" for rate in good[batch]),
        "same rate": asked(batch, 1),
    }
    row |= {"√k times": asked(batch, scale(batch, 64, "sqrt"))}
    rows.append(row | {"k times": asked(batch, scale(batch, 64, "linear"))})
pd.DataFrame(rows).set_index("batch")

# %% tags=["fold"]
common = [f"{rate:g}" for rate in rates if all(rate in good[batch] for batch in batches)]
shared = "No rate was good with all three batches, so the old rate alone is not enough."
if max(top[1024]) < 2 * guess:
    shared = "With a batch of 1,024, the network has hardly learned, so it cannot judge a rule."
elif common:
    shared = (
        f"**Good with all three batches, without any change: {', '.join(common)}.** So always try "
        "the old rate, too."
    )
lag = {big: gained(top[big], top[64], guess) for big in batches[1:]}
say(
    "After the same images, each at its best rate and against a batch of 64, the accuracy with "
    f"256: **{lag[256]}**. With 1,024: **{lag[1024]}**.\n\nAnd the rules? {shared}"
)

# %% [markdown]
# ## Too few steps, or too large a batch?
#
# Does the batch of 1,024 only lack steps? As a control, we train with a batch of 64 for the same
# number of steps. Each batch has the best of the same three rates.

# %%
three = (0.05, 0.1, 0.2)


def best_of_three(images, batch=64):
    recipes = {rate: replace(SGD, batch=batch, lr=rate) for rate in three}
    found = train_arms(recipes, data, images=images, seeds=seeds, evaluations=1)
    return max(([score(run.net) for run in arm] for arm in found.values()), key=mean)


brief = best_of_three(images=64 * steps[1024])
of_three = {batch: max((fresh[batch, rate] for rate in three), key=mean) for batch in batches}
control = gained(of_three[1024], brief, guess)

# %% tags=["fold"]
lacks = "higher" in control and "lower" in lag[1024]
if lacks:
    blame = "So yes: the large batch takes better steps, but too few"
elif "lower" in control:
    blame = "So no: the number of steps alone does not explain its accuracy"
else:
    blame = "So from these runs, we cannot tell"
say(
    f"After {steps[1024]} steps, the accuracy is {mean(brief):.3f} with a batch of 64 and "
    f"{mean(of_three[1024]):.3f} with one of 1,024. The difference: **{control}**. **{blame}.**"
)

# %% [markdown]
# How large is too large? Far below the **critical batch size** (McCandlish et al. 2018, [arXiv
# 1812.06162](https://arxiv.org/abs/1812.06162)), k times the batch needs only 1/k of the steps, so
# the same images. Far above it, the steps hardly become fewer, so the images grow with the batch.
# In their formula, the images grow as 1 + batch / critical batch. What did our AdamW study need?

# %% tags=["fold"]
pace, needs, rule = [], None, "1024 at √8 times"
for name, study in studies.items():
    (start,) = study.of("plain")
    for row in study.of(*large):
        if row.arrives and start.arrives:
            pace.append(row.images.value / row.train / (start.images.value / start.train))
            if row.arm == rule:  # the refreshed study comes last, so it decides
                needs = (start.images.value, row.images.value, name)
pace_said = f"{min(pace):.2f} to {max(pace):.2f}" if pace else "an unknown number of"
if needs:
    few, many, name = needs
    slope = (many - few) / (1024 - 128)
    critical = round(few / slope - 128, -2) if slope > 0 else 0
    formula = f" By the formula, the critical batch here is **roughly {critical:.0f}**."
    say(
        f"At √8 times the rate, the batch of 1,024 needed **{many / few / 8:.2f} times the steps "
        f"and {many / few:.1f} times the images** of a batch of 128 (batch norm {name}). And it "
        f"processed {pace_said} times as many images per second. (All runs with 1,024 do the same "
        f"work per image, so this range shows how noisy the timing "
        f"is.){formula if critical > 0 else ''}"
    )

# %% [markdown]
# A larger batch saves time only while the images per second grow more than the images that are
# needed.
#
# ### Does 256 beat 64 after the same time?
#
# We give the batch of 64 as much time as the batch of 256 had, and both the best of these three
# rates.

# %% tags=["fold"]
from fasttricks.course import median

seconds = {n: [run.train_seconds for rate in rates for run in runs[n, rate]] for n in batches}
quicker = faster(seconds[256], seconds[64])
share = median([a / b for a, b in zip(seconds[256], seconds[64], strict=True)])
affordable = max(64, int(half * min(2, share)) // 64 * 64)

# %%
rival = best_of_three(images=affordable)
same_time = gained(of_three[256], rival, guess)

# %% tags=["fold"]
won = "higher" in same_time
lost = "lower" in same_time
answer = "So yes" if won else "So no" if lost else "So neither clearly beats the other"
say(
    f"On the same {half:,} images, the speed of 256 against 64: {quicker}. In that time, the batch "
    f"of 64 gets through {affordable:,} images. The accuracy with 256 against 64 after this time: "
    f"**{same_time}**. **{answer}.**"
)

# %% [markdown]
# ## Break it: leave out the ramp
#
# We train with a batch of 256 at a rate of 1.6, which is far too high. `watch` returns the loss of
# every batch, and the network.

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
# `LRScaling` is the package's version of this trick. Batch and reference are both 256, so it only
# adds a ramp, from a hundredth of the rate, over three tenths of the run. The figure shows the
# first seed. The grey line is the loss of a blind guess.

# %%
high = replace(SGD, lr=1.6)
curves, ends = {}, {}
for name, share in {"no ramp": 0, "ramp": 0.3}.items():
    recipe = high + LRScaling(256, 256, warmup=share, start=0.01)
    watched = [watch(recipe, seed, half // 256) for seed in range(seeds)]
    curves[name] = (range(half // 256), watched[0][0])
    ends[name] = [score(net) for _, net in watched]

# %% tags=["fold"]
import math

plot(curves, "optimiser step", "loss of the batch", f"SGD at a rate of {high.lr:g}, first seed")
plt.axhline(math.log(len(data.classes)), color="grey", lw=0.8)
plt.show()

# %% tags=["fold"]
rescued = gained(ends["ramp"], ends["no ramp"], guess)
still = gained(ends["ramp"], top[256], guess)
peaks = {way: max(losses) for way, (_, losses) in curves.items()}
say(
    f"The highest loss of the run is {peaks['no ramp']:.1f} without a ramp and {peaks['ramp']:.1f} "
    f"with one. The final accuracy with a ramp, against none: **{rescued}**. But against the best "
    f"of the seven rates, which had no ramp: **{still}**."
)

# %% [markdown]
# What does a ramp do at a moderate rate? We scale 0.1, for a batch of 64, up to 0.4: by the linear
# rule for 256, and by the square-root rule for 1,024. The ramp starts at a tenth and takes a fifth
# of the run. The table compares accuracies with the ramp and without.

# %% tags=["fold"]
small_batch = replace(SGD, batch=64, lr=0.1)
recipes = {
    256: small_batch + LRScaling(256, 64, "linear", warmup=0.2),
    1024: small_batch + LRScaling(1024, 64, "sqrt", warmup=0.2),
}
ramped = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
with_ramp = {batch: [score(run.net) for run in found] for batch, found in ramped.items()}

# %% tags=["fold"]
ramp_gain = {big: gained(with_ramp[big], fresh[big, 0.4], guess) for big in with_ramp}
beside_best = {big: gained(with_ramp[big], top[big], guess) for big in with_ramp}
beats = any("higher" in verdict for verdict in beside_best.values())
columns = {"against 0.4 without a ramp": ramp_gain, "against the best rate without": beside_best}
pd.DataFrame(columns).rename_axis("batch")

# %% tags=["fold"]
say(
    "With SGD, **a ramp clearly beat even the best rate without one**."
    if beats
    else "With SGD, the ramp did not clearly beat the best rate without one. (For AdamW, see the "
    "first table.) **So first lower the rate. Add a ramp if the loss still jumps.**"
)

# %% [markdown]
# In a run of your own, watch for a loss that jumps *up* from the grey line.
#
# ## Was the card right?
#
# Each trick has a *card* at the top of its file. Below it is what we saw of its claims.

# %% tags=["fold"]
quick = any("faster" in found for found in verdicts.values())
first_pays = "**seen**" if won and "not" not in quicker else "**not seen**"
too_few = "**seen**" if lacks else "**not seen**"
moderate = "**seen**" if beats else "**not seen**"
say(
    f"{scaling.__doc__}\n\n| the card says | we saw |\n|---|---|\n"
    f"| the rate grows by √k or k | per fourfold batch, the best rate on the linear layer grew by "
    f"{' and by '.join(growth.values())} |\n"
    f"| pays when the device is not yet full | 256 instead of 64, SGD: {first_pays}. 1,024 instead "
    f"of 128, AdamW: {'**seen**' if quick else '**not seen**'} (it processed {pace_said} times as "
    f"many images per second) |\n"
    f"| fails when few steps are left | {too_few}: {steps[1024]} steps with 1,024, against 64 on "
    f"the same images: {lag[1024]} |\n"
    f"| fails when the ramp is missing at a large k | {moderate} at rates near the best. At 1.6, "
    f"far above them, with a ramp against none: {rescued} |"
)

# %% [markdown]
# **Our advice:**
#
# 1. Measure your images per second with both batches. If they hardly rise, keep the small batch.
# 2. Keep the old rate and try it beside √k times, and beside k times as the upper limit. The batch
#    in the rule counts the images of all devices.
# 3. Compare after the same training time. Refresh batch norm first if the run had few steps, or if
#    its rate is still high at the end.
# 4. If the loss jumps at the start, lower the rate. If it still jumps, add a ramp.
#
# All runs here keep their rate to the end. With a rate that falls (chapter 3), batch norm keeps up
# by itself, and other rates may be best.

# %% [markdown]
# ## Questions
#
# **1. With SGD, why does a batch that is k times as large not make the step k times as long by
# itself?**
#
# <details><summary>Answer</summary>The loss is a mean over the batch, so its gradient does not grow
# with the batch.</details>
#
# **2. Four processes with 64 images each: which batch goes into the rule?**
#
# <details><summary>Answer</summary>256, the global batch, because the processes average their
# gradients (chapter 1).</details>
#
# **3. When is √k enough for Adam to keep up, and when does it take k?**
#
# <details><summary>Answer</summary>√k is enough when the size that Adam divides by is mostly noise,
# because this size then shrinks by a factor of √k. With hardly any noise, it takes k. In a valley,
# both can be too much.</details>
#
# **4. After 12 large steps, your run's validation accuracy is no better than guessing. What do you
# check first?**
#
# <details><summary>Answer</summary>Batch norm. Refresh its running mean and variance, and validate
# again.</details>
#
# **5. With a larger batch, your device gets through twice as many images per second. Does the run
# reach its accuracy in half the time?**
#
# <details><summary>Answer</summary>Only if it needs no more images, so only far below the critical
# batch size.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you
# get a hint.
#
# **Exercise 1.** Return the new rate by the usual rule: k times for SGD, √k times for AdamW.
# `batch` is the batch of one process.


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
# **Exercise 2.** Return the rate at a step, with a ramp of `ramp` steps from `start * lr` to `lr`.
# A ramp of 0 means no ramp.


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
# **Exercise 3.** Take the valley c · w² / 2, whose slope is c · w. Return the k for which one step
# at the rate k · lr ends on the other side of the lowest point, exactly as far from it as it began.


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
# - Krizhevsky 2014, [arXiv 1404.5997](https://arxiv.org/abs/1404.5997): derives the square-root
#   rule for SGD, and finds that the linear rule works better.
# - Liu et al. 2019, [arXiv 1908.03265](https://arxiv.org/abs/1908.03265): Adam's poor first
#   estimates as the reason for warm-up.
# - Ma and Yarats 2019, [arXiv 1910.04209](https://arxiv.org/abs/1910.04209): its long first moves
#   as the reason.
