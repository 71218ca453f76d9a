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
# This trick raises the *learning rate* (the *rate*, for short) with the batch. It may also begin
# the run with lower rates, which is called *warm-up*. In your training loop, that is:
#
# ```python
# k = batch / old_batch  # batch: the images of one optimiser step, on all devices together
# factor = k**0.5  # for Adam and AdamW; for SGD, up to k; with both, try 1, too
# rates = [factor * group["lr"] for group in optimizer.param_groups]  # tuned with old_batch
# ramp = 0.05 * steps  # steps: of the whole run
#
# for step in range(steps):
#     for group, rate in zip(optimizer.param_groups, rates):
#         group["lr"] = rate * (0.1 + 0.9 * min(1, step / ramp))
#     ...  # forward, backward, optimizer.step()
# ```
#
# Without warm-up, set `group["lr"] = rate` once, before the loop.
#
# <details><summary>If you have a scheduler already</summary>
#
# The loop above would overwrite its rates. Instead, put this before the loop, and call
# `scheduler.step()` after every `optimizer.step()`. (`OneCycleLR` has its own ramp. It only needs
# `rates` as its `max_lr`.)
#
# ```python
# from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
#
# for group, rate in zip(optimizer.param_groups, rates):
#     group["lr"] = rate  # before any scheduler is made
# ramp = max(1, round(0.05 * steps))
# rising = LinearLR(optimizer, 0.1, total_iters=ramp)
# yours = CosineAnnealingLR(optimizer, steps - ramp)  # or another, for the steps after the ramp
# scheduler = SequentialLR(optimizer, [rising, yours], milestones=[ramp])
# ```
#
# </details>
#
# There are two rules. The *linear rule* asks for k times the rate and is meant for SGD (Goyal et
# al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677)). The *square-root rule* asks for
# √k times and is meant for Adam and AdamW (Malladi et al. 2022, [arXiv
# 2205.10287](https://arxiv.org/abs/2205.10287)).
#
# **Does it pay?** In our main study, a slightly larger batch shows no clear gain by itself. In our
# study of batches, one of 1,024 instead of 128 is slower at every rate. (The numbers follow the
# imports.) In this page's runs on two CPU cores, we saw more:
#
# - On a linear layer, the best rate grew with the batch, but by less than each optimiser's rule
#   says.
# - On a network with SGD, both rules asked for too much with a batch of 1,024.
# - After the same number of images, 256 was a little less accurate than 64. After the same time,
#   it was not.
# - A step with 1,024 images was better than one with 64, but not as good as 16 of them.
# - A ramp helped much at a rate that was far too high. Even so, a lower rate without a ramp was
#   better.
#
# **Use it when** the images per second grow more than the images that you need, or when more
# devices enlarge the batch anyway.
#
# **Leave it when** the device is already full, or when few steps would be left.
#
# **What it does not do.** A large batch may still need more images. And a rule does not find the
# best rate. It tells you where to look.
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
from statistics import mean, median

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from fasttricks import BASELINE, LRScaling, choose_budget, load
from fasttricks.course import faster, gained, headline, holds, plot, say, train_arms

budget = choose_budget()
data = load()

# %% [markdown]
# ## Does a larger batch save time?
#
# Three recorded studies answer this, with AdamW and a ResNet on Fashion-MNIST.
# ([Chapter 0](00_baseline.ipynb) explains such studies.) Our **main study** tried each of the
# course's seven tricks. *The other six* are those of the other chapters. This trick made the batch
# only a little larger (from 128 to 160 on the CPU, from 1,024 to 2,048 on the GPU), with the
# square-root rule and a ramp.

# %%
say(headline("scaling"))

# %% [markdown]
# The **batch study** went from a batch of 128 at a rate of 0.001 to one of 1,024 (k = 8), at
# constant rates, some with a ramp. Its **refreshed repetition** scores networks differently. During
# validation, *batch norm* layers use a running mean and variance, which lag behind while the
# network changes fast. *Refreshing* computes both anew from training images, before every
# validation. It needs no labels and changes no weight. (We shortened both studies while they ran.)

# %% tags=["fold"]
from fasttricks.course import found_in
from fasttricks.study.findings import span, times

studies = {
    "batch study": found_in("batches"),
    "refreshed repetition": found_in("batches-refreshed"),
}
large = [row.arm for row in studies["batch study"].rows if row.arm != "plain"]
words = {"faster": "faster", "slower": "slower", "cannot tell": "not clearly faster or slower"}
verdicts = {}
for name, study in studies.items():
    verdicts[name] = {}
    for row in study.of(*large):
        word = "perhaps " * row.wavers + words[row.verdict]
        verdicts[name].setdefault(word, []).append(row.arm.removeprefix("1024 "))

# %% tags=["fold"]
kinds = set().union(*verdicts.values())
said = f"In both, **the batch of 1,024 is {', '.join(kinds)} at every rate that we tried**. "
if len(kinds) > 1:
    said = ""
    for name, found in verdicts.items():
        every = len(found) == 1
        parts = [f"**{w}** {'at every rate' if every else ', '.join(a)}" for w, a in found.items()]
        said += f"In the {name}, the batch of 1,024 is {'; '.join(parts)}. "
known = [row for study in studies.values() for row in study.of(*large)]
reached = [row.ratio.value for row in known if row.arrives]
if reached:
    said += (
        f"Where it reached the accuracy at all, it was **{min(reached):.2f} to {max(reached):.2f} "
        f"times as fast** as the batch of 128. "
    )
say(
    f"{said}The table shows this number for each rate. (Below 1, it is slower. In brackets: the "
    f"95% interval.)"
)


# %% tags=["fold"]
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
seeds_said = " or ".join(str(count) for count in sorted({row.seeds for row in known}))
first = studies["batch study"]
END = " with a ramp"
apart = [
    row.arm
    for study in studies.values()
    for row in study.of(*(arm for arm in large if arm.endswith(END)))
    for bare in study.of(row.arm.removesuffix(END))
    if row.ratio.low > bare.ratio.high or row.ratio.high < bare.ratio.low
]
ramp_said = "a ramp makes a difference" if apart else "a ramp makes no clear difference"
say(
    f"By these intervals, {ramp_said}. (Recorded on {first.hardware}, accuracy {first.target}, "
    f"{seeds_said} paired seeds.)"
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
told = (
    f"At 8 times the rate, the runs need {needed[0]} in the batch study, and {needed[1]} when "
    f"refreshed."
)
if new.arrives and new.images.high < (raw.images.low if raw.arrives else raw.most):
    told += " **So an outdated mean and variance can make a rate look far too high.**"
say(told)

# %% [markdown]
# **Why is it slower?** A larger batch saves time only if the images per second grow more than the
# images that are needed. We look at the fastest of the refreshed runs with 1,024.

# %% tags=["fold"]
pace = []
for study in studies.values():
    (start,) = study.of("plain")
    found = [row for row in study.of(*large) if row.arrives and start.arrives]
    pace += [row.images.value / row.train / (start.images.value / start.train) for row in found]
pace_said = f"{min(pace):.2f} to {max(pace):.2f}" if pace else "an unknown number of"
if found:  # of the last study
    best = max(found, key=lambda row: row.ratio.value)
    more = best.images.value / start.images.value
    speed = more * start.train / best.train
    say(
        f"They need **{more:.2f} times the images** of a batch of 128, and process **{speed:.2f} "
        f"times as many per second**. The second divided by the first is {speed / more:.2f}. (The "
        f"table has {best.ratio.value:.2f}, because it compares only the {best.seeds} seeds that "
        f"both have. All runs with 1,024 do the same work per image. Yet over both studies, we "
        f"timed {pace_said} times as many images per second. So these speeds are rough.)"
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
# point. Below -1, it ends farther away than it began. So two things matter. **The rule says how
# long a step must be to keep up with the small steps. The valley says how long it may be.**
#
# ### Why may Adam need only the square root?
#
# Adam divides every step by the typical size of the gradient. Often, that size is mostly noise from
# the random choice of images. With k times as many images, the noise shrinks by a factor of √k. So
# Adam's steps towards the goal grow by a factor of √k *with no change of the rate*. To keep up,
# they must grow by a factor of k, so we raise the rate by the missing √k. With hardly any noise,
# the rate must supply the whole factor k. We can see both cases with torch's Adam and 2,000 weights
# that all feel the same weak pull.


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
# So to keep up, Adam needs between √k and k. But this toy has no valley. In a valley, a rate that
# is too high for one batch may be too high for a larger one, too. (Li et al. 2024, [arXiv
# 2405.14578](https://arxiv.org/abs/2405.14578), find that Adam's best rate first rises with the
# batch and then falls.) So **with Adam, begin with √k, and try up to k. A larger factor keeps up
# better, but is riskier**.
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
# **Adam has another reason.** It divides its average gradient by the typical size of the gradients
# so far. In the first step, both come from the same gradient, so they cancel, and every weight
# moves by the whole rate. We see this with 2,000 weights whose gradients are nothing but noise.

# %%
chance = torch.Generator().manual_seed(0)
w = torch.zeros(2000, requires_grad=True)
adam = torch.optim.Adam([w], lr=1.0)
moves = []
for _ in range(100):
    before = w.detach().clone()
    w.grad = torch.randn(2000, generator=chance)
    adam.step()
    moves.append((w.detach() - before).square().mean().sqrt().item())
print(f"typical move: {moves[0]:.2f} times the rate in step 1, {moves[-1]:.2f} in step 100")

# %% [markdown]
# Later, the noise partly cancels in the average, so the moves become shorter.
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
# On a single linear layer, we can try many rates. The first function trains it once on 6,144 images
# and returns the validation loss. The second returns the mean over three orders of the images.

# %%
train_x, train_y = data.normalise(data.train.x[:6144]).flatten(1), data.train.y[:6144]
val_x, val_y = data.normalise(data.val.x).flatten(1), data.val.y


def one_loss(optimizer, batch, rate, seed, options):
    net = torch.nn.Linear(train_x.shape[1], len(data.classes))
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    stepper = optimizer(net.parameters(), rate, **options)
    order = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(seed))
    for rows in order.split(batch):
        cross_entropy(net(train_x[rows]), train_y[rows]).backward()
        stepper.step()
        stepper.zero_grad()
    with torch.inference_mode():
        return cross_entropy(net(val_x), val_y).item()


def linear_loss(optimizer, batch, rate, **options):
    return mean([one_loss(optimizer, batch, rate, seed, options) for seed in range(3)])


# %% [markdown]
# We try four batch sizes, nine rates (each twice the one before) and both optimisers. Every run
# sees each image once. So a batch of 512 has only 12 steps, hardly enough for SGD's momentum of 0.9
# to build up, and this may raise its best rate. The figure shows the losses with SGD.

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
    "With larger batches, the minimum of the curve moves to the right. "
    * (places == sorted(places))
    + f"The lowest losses are {values}."
    + " So on the same number of images, **no rate that we tried makes up for the missing steps**."
    * (lowest == sorted(lowest))
)

# %% [markdown]
# As the best rate, we take the minimum of a parabola through the lowest point and its two
# neighbours. The grey lines are the rules: k from SGD's first point, and √k from AdamW's.


# %% tags=["fold"]
def best_rate(losses):
    at = losses.index(min(losses))
    if at in (0, len(tried) - 1):
        return tried[at]  # at the edge of what we tried
    left, bottom, right = losses[at - 1 : at + 2]
    return tried[at] * 2 ** ((left - right) / (left - 2 * bottom + right) / 2)


bests = {name: [best_rate(losses[batch]) for batch in sizes] for name, losses in maps.items()}
lines = {name: (sizes, found) for name, found in bests.items()}
plot(lines, "batch", "best rate", "one linear layer", scale="log", marks=True, yscale="log")
for name, power, style, rule in (("SGD", 1, "--", "k"), ("AdamW", 0.5, ":", "√k")):
    guide = [bests[name][0] * (batch / sizes[0]) ** power for batch in sizes]
    plt.plot(sizes, guide, style, color="grey", label=f"the rule: {rule}")
plt.legend()
plt.show()

# %% tags=["fold"]
from itertools import combinations, pairwise

growth, told = {}, ""
for kind, found in bests.items():
    each = [after / before for before, after in pairwise(found)]
    average = (found[-1] / found[0]) ** (1 / len(each))
    outside = {average < 2: "less than √k", average > 4: "more than k"}
    between = outside.get(True, "between √k and k")
    between = "about √k" if abs(average - 2) < 0.2 else between
    between = "about k" if abs(average - 4) < 0.4 else between
    growth[kind] = f"{average:.1f} with {kind}"
    told += (
        f"\n- **{kind}:** {average:.1f} times on average, **{between}**. (One after the other: "
        f"{', '.join(f'{factor:.1f}' for factor in each)}.)"
    )
edge = any({tried[0], tried[-1]} & {*found} for found in bests.values())
at_edge = " (At least one best rate lies at the edge of what we tried.)" if edge else ""
say(
    f"When the batch grows fourfold, √k is 2 and k is 4. And by how much did the best rate grow?"
    f"{at_edge}\n{told}"
)

# %% [markdown]
# What does it cost to follow a rule? We tune the rate at one batch, go to a larger one by the rule
# (but not beyond the nine rates), and see how far the loss then lies above the lowest one there.
# The table shows means over all pairs of batches. (For k = 64, there is only one pair.)

# %% tags=["fold"]
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
for kind in maps:
    costs = cost.loc[kind]
    least = costs.idxmin(axis=1)  # the cheapest rule for each k
    cheapest = "; ".join(
        f"{rule} for k = {' and '.join(str(k) for k in least.index[least == rule])}"
        for rule in least.unique()
    )
    safest = costs.max().idxmin()
    say(
        f"- **{kind}.** The cheapest: {cheapest}. The smallest worst case, "
        f"{costs.max().min():.2f}: **{safest}**."
    )

# %% [markdown]
# ### The same on a network
#
# Now we train a convolutional network (a ResNet that suits your device) with SGD and a momentum of
# 0.9. Each of three batches gets the same seven rates, constant over the run, and half of the
# budget's images. `train_arms` trains each recipe with the same seeds.

# %%
from dataclasses import replace

half, seeds = budget.images // 2, min(2, budget.seeds)
batches, rates = (64, 256, 1024), (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
SGD = replace(BASELINE, optimizer="sgd", weight_decay=5e-4)  # a weaker decay than AdamW's
recipes = {(batch, rate): replace(SGD, batch=batch, lr=rate) for batch in batches for rate in rates}
runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
steps = {batch: runs[batch, 0.1][0].steps for batch in batches}

# %% [markdown]
# We judge each network as trained, and refreshed by torch's `update_bn` with 2,000 training images.
# After few steps, batch norm's arbitrary initial mean and variance still count: each step moves
# them only a tenth of the way. (`probabilities` returns the network's probability for each class.)

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
top = {n: max((fresh[n, rate] for rate in rates), key=mean) for n in batches}  # at its best rate
guess = 1 / len(data.classes)  # the accuracy of guessing

# %% tags=["fold"]
lines = {f"batch {n:,}": (rates, [mean(fresh[n, rate]) for rate in rates]) for n in batches}
title = f"SGD, {half:,} images, batch norm refreshed"
plot(lines, "rate", "validation accuracy", title, scale="log", marks=True)
plt.show()

# %% tags=["fold"]
say(
    f"With a batch of 1,024 and a rate of 0.1, refreshing moves the accuracy from "
    f"{mean(raw[1024, 0.1]):.2f} to **{mean(fresh[1024, 0.1]):.2f}**. (Guessing gives "
    f"{guess:.2f}.) With a batch of 64, the accuracy moves from "
    f"{mean(raw[64, 0.1]):.2f} to {mean(fresh[64, 0.1]):.2f}. "
    + "**So part of what looked like bad training was bad measurement.** "
    * (mean(fresh[1024, 0.1]) - mean(raw[1024, 0.1]) > 0.05)
    + "From here on, we refresh."
)

# %% [markdown]
# Are the rules right here? Around its highest point, a line is flat, so we call all rates *good*
# whose accuracy is at most a point (0.01) below the best for that batch. We multiply each rate that
# is good for 64 by a rule. The last columns show how many points the larger batch then loses on
# average, compared with its best rate. (Rates that we did not try do not count.)
#
# Below, we say *higher* or *lower* if all n seeds agree and the mean difference is at least 1/√n
# points. Two seeds agree by chance half of the time, so take about a point as a hint.

# %% tags=["fold"]
rules = {
    "same rate": lambda batch: 1.0,
    "√k times": lambda batch: scale(batch, 64, "sqrt"),
    "k times": lambda batch: scale(batch, 64, "linear"),
}
below = {(n, rate): 100 * (mean(top[n]) - mean(fresh[n, rate])) for n in batches for rate in rates}
good = {n: [rate for rate in rates if below[n, rate] < 1.001] for n in batches}
lost, rows = {}, []
for batch in batches:
    row = {"batch": f"{batch:,}", "steps": steps[batch], "accuracy": f"{mean(top[batch]):.3f}"}
    row["good rates"] = ", ".join(f"{rate:g}" for rate in good[batch])
    for rule, factor in rules.items():
        asked = [rate * factor(batch) for rate in good[64] if rate * factor(batch) in rates]
        if asked and batch > 64:
            lost.setdefault(batch, {})[rule] = mean(below[batch, rate] for rate in asked)
        row[rule] = f"{lost[batch][rule]:.1f}" if rule in lost.get(batch, {}) else "-"
    rows.append(row)
pd.DataFrame(rows).set_index("batch")

# %% tags=["fold"]
if max(top[1024]) < 2 * guess:
    judged = "With a batch of 1,024, the network has hardly learned, so it cannot judge a rule."
else:
    cheap = {n: [r for r in lost[n] if lost[n][r] < min(lost[n].values()) + 1] for n in lost}
    told = "; ".join(f"with {n:,}, **{' or '.join(found)}**" for n, found in cheap.items())
    both = [rule for rule in cheap[256] if rule in cheap[1024]]
    judged = (
        f"Which rule loses least, within a point? {told[0].upper() + told[1:]}. "
        + ("So **always try the old rate, too**. " * ("same rate" in both))
        + ("So no rule is the cheapest for both batches. " * (not both))
    )
lag = {big: gained(top[big], top[64], guess) for big in batches[1:]}
say(
    f"{judged}\n\nAnd how much accuracy does a larger batch cost after the same number of images, "
    f"each at its best rate?\n\n- 256 against 64: **{lag[256]}**.\n"
    f"- 1,024 against 64: **{lag[1024]}**."
)

# %% [markdown]
# ## Is one step with 1,024 images better?
#
# It should be, because its gradient has less noise. As a control, we also train with a batch of 64
# for only as many steps as the batch of 1,024 had. Each has the best of the same three rates.

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
better, few = "higher" in control, "lower" in lag[1024]
if better and few:
    meaning = "So here, one large step was better than a small one, but not as good as 16 of them"
elif better:
    meaning = "So here, one large step was better than a small one"
elif "lower" in control:
    meaning = "So even step for step, the larger batch is not better"
else:
    meaning = "So from these runs, we cannot tell whether a large step is better"
say(
    f"After {steps[1024]} steps, the accuracy is {mean(brief):.3f} with a batch of 64 and "
    f"{mean(of_three[1024]):.3f} with one of 1,024. The difference: **{control}**. **{meaning}.**"
)

# %% [markdown]
# How large is too large? Far below the **critical batch size** (McCandlish et al. 2018, [arXiv
# 1812.06162](https://arxiv.org/abs/1812.06162)), k times the batch needs 1/k of the steps, so the
# same number of images. Far above it, the number of steps hardly falls. In our studies of batches,
# 1,024 needed more images than 128, so it was not far below.
#
# ### Does 256 beat 64 after the same time?
#
# We give the batch of 64 as much time as the batch of 256 had. (`affordable` is the number of
# images that it gets through in that time.) Each has the best of the same three rates.

# %%
seconds = {n: [run.train_seconds for rate in rates for run in runs[n, rate]] for n in batches}
share = median([a / b for a, b in zip(seconds[256], seconds[64], strict=True)])
affordable = max(64, int(half * min(2, share)) // 64 * 64)

# %%
rival = best_of_three(images=affordable)
same_time = gained(of_three[256], rival, guess)

# %% tags=["fold"]
answer = "So neither clearly beats the other"
answer = "So here, yes" if "higher" in same_time else answer
answer = "So here, no" if "lower" in same_time else answer
say(
    f"On the same {half:,} images, the speed of 256 against 64: "
    f"{faster(seconds[256], seconds[64])}. In that time, the batch of 64 gets through "
    f"{affordable:,} images. The accuracy with 256 against 64 after the same time: "
    f"**{same_time}**. **{answer}.**"
)

# %% [markdown]
# ## Break it: leave out the ramp
#
# We train with a batch of 256 at a rate of 1.6, which is far too high. The function `watch` returns
# the loss of every batch, and the network.

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
# `LRScaling` is the package's version of this trick. Batch and reference are both 256, so k is 1,
# and it only adds a ramp, from a hundredth of the rate, over three tenths of the run. The grey line
# is the loss of a blind guess, ln(number of classes).

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
helped = gained(ends["ramp"], ends["no ramp"], guess)
still = gained(ends["ramp"], top[256], guess)
peaks = {way: max(losses) for way, (_, losses) in curves.items()}
say(
    f"The highest loss of the run is {peaks['no ramp']:.1f} without a ramp and {peaks['ramp']:.1f} "
    f"with one. The final accuracy with a ramp, against none: **{helped}**. Against the best of "
    f"the seven rates, which had no ramp: **{still}**. (That rate was chosen on the same images, "
    f"which flatters it a little.)"
)

# %% [markdown]
# What does a ramp do **at a large k** and a moderate rate? We scale 0.1, for a batch of 64, up to
# 0.4: by the linear rule for 256 (k = 4), and by the square-root rule for 1,024 (k = 16). The ramp
# starts at a tenth and takes a fifth of the run.

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
helps = [f"{big:,}" for big, verdict in ramp_gain.items() if "higher" in verdict]
hurts = [f"{big:,}" for big, verdict in ramp_gain.items() if "lower" in verdict]
told = f"helped clearly with {' and '.join(helps)}" if helps else "did not clearly help"
told += f", and clearly hurt with {' and '.join(hurts)}" if hurts else ""
say(
    f"At a rate of 0.4, the ramp {told}. Against the best of seven rates without a ramp, "
    + (
        "**it was clearly better, too**."
        if beats
        else "it was not clearly better. **So first lower the rate. If the loss still jumps, add a "
        "ramp.**"
    )
)

# %% [markdown]
# In a run of your own, watch for a loss that jumps above that of a blind guess.
#
# ## Was the card right?
#
# Each trick has a *card* at the top of its file. The table below it checks its claims.

# %% tags=["fold"]
found = {", ".join(verdict) for verdict in verdicts.values()}
recorded = f"{' or '.join(sorted(found))}, at {pace_said} times the images per second"
say(
    f"<details><summary>The card</summary>\n\n{scaling.__doc__}\n\n</details>\n\n"
    f"| the card says | we saw |\n|---|---|\n"
    f"| the rate grows by √k or k | per fourfold batch, the best rate on the linear layer grew by "
    f"{' and by '.join(growth.values())} |\n"
    f"| pays when the device is not yet full | 256 against 64 after the same time, SGD: "
    f"{same_time}. 1,024 against 128 (studies of batches, AdamW): {recorded} |\n"
    f"| fails when few steps are left | {steps[1024]} steps with 1,024, against 64 on the same "
    f"number of images: {lag[1024]} |\n"
    f"| fails when the ramp is missing at a large k | the ramp at 0.4 against none, SGD: with 256, "
    f"{ramp_gain[256]}; with 1,024, {ramp_gain[1024]}. In the studies of batches: {ramp_said} |"
)

# %% [markdown]
# **Our advice:**
#
# 1. Measure your images per second with both batches. If they hardly rise, keep the small batch.
# 2. Try √k times the old rate first, but also the old rate itself and, as the upper limit, k times.
# 3. Compare after the same training time. Refresh batch norm first if the run had few steps, or if
#    its rate is still high at the end.
# 4. If the loss jumps at the start, lower the rate. If it still jumps, add a ramp.
#
# On this page and in the studies of batches, rates do not fall. This may make high rates look worse
# than they are, and batch norm lags behind. With a rate that falls (chapter 3), higher rates may be
# best.

# %% [markdown]
# ## Questions
#
# **1. With SGD, why does a batch that is k times as large not make the step k times as long by
# itself?**
#
# <details><summary>Answer</summary>The loss is a mean over the batch, so its gradient does not grow
# with the batch.</details>
#
# **2. When is √k enough for Adam to keep up, and when does it take k?**
#
# <details><summary>Answer</summary>√k is enough when the size that Adam divides by is mostly noise,
# because this size then shrinks by a factor of √k. With hardly any noise, it takes k. In a valley,
# both can be too much.</details>
#
# **3. After 12 large steps, your run's validation accuracy is no better than guessing. What do you
# check first?**
#
# <details><summary>Answer</summary>Batch norm. Refresh its running mean and variance, and validate
# again.</details>
#
# **4. With a larger batch, your device gets through twice as many images per second. But the run
# needs 1.6 times the images. How much faster is it?**
#
# <details><summary>Answer</summary>2 / 1.6 = 1.25 times as fast. Far below the critical batch size,
# it would need no more images, and be twice as fast.</details>
#
# **5. Why is it not fair to compare two batches after the same number of steps?**
#
# <details><summary>Answer</summary>Each large step costs more images and more time.</details>
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
