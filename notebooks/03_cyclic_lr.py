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
from itertools import islice, pairwise
from statistics import mean

from fasttricks import BASELINE, Cyclic, OneCycle, choose_budget, load, train
from fasttricks.course import bars, clear, faster, gained, holds, one_line, train_arms

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
plt.ylim(top=0.0145)  # room for the legend
plt.show()

# %%
top = max(planned["one-cycle"])
say(
    f"The constant rate is {BASELINE.lr:g}. The other two rise to {top:.2g}, which is "
    f"{top / BASELINE.lr:.0f} times as high. The triangles do so again and again. One-cycle does so once, "
    f"and ends at practically zero."
)

# %% [markdown]
# **Triangles** are the older idea, and **one-cycle** grew out of them. We build both. To keep the runs few,
# we train only with one-cycle.
#
# Next comes what our recorded study found about one-cycle, in much longer runs than those of this chapter.
# Each run there went on until a fixed validation accuracy. "2 times as fast" means half the time, "paired
# seeds" means that both recipes started from the same random numbers, and chapter 0 explains the interval.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import cyclic

say(headline("cyclic"))
Markdown(cyclic.__doc__)

# %% [markdown]
# The table is the trick's *card*, from the top of its file. Its *slots* are the places in the training loop
# that it fills. Several tricks may fill the slot for the rate, and their factors are multiplied. Only one
# may set the momentum. *Skipped steps* occur with mixed precision (chapter 7): when a step is skipped, the
# schedule must wait, too.
#
# ## The problem: does the score show what the network has learned?
#
# We train without any tricks, at one rate from the first step to the last, and look at the network along
# the way. For this we write the training loop ourselves. It is an ordinary loop, except that it hands us
# the network after every step (`yield`). `set_rates` sets the rate and the momentum in the optimiser.

# %%
import torch

from fasttricks.loop import accuracy, cross_entropy, set_rates
from fasttricks.models import begin, optimizer_for

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
here = replace(data, val=data.val[: budget.val]).to(device, budget.image_size)


def training(recipe, steps, seed):
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
# A *seed* fixes all that is random in a run: the first weights, and the order of the images. Every run in
# this chapter sees half of the budget's images. In the second half of each run, we keep a copy of the
# network at four marks.

# %%
import copy

half = budget.images // 2
length = half // BASELINE.batch
marks = [length * eighths // 8 for eighths in (5, 6, 7, 8)]


def copies_at_marks(seed):
    steps = enumerate(training(BASELINE, length, seed), start=1)
    return [copy.deepcopy(net) for step, (net, _) in steps if step in marks]


copies = [copies_at_marks(seed) for seed in range(budget.seeds)]

# %%
say(
    f"So a run has **{length} steps** of {BASELINE.batch} images, which is "
    f"{half / len(data.train):.2f} epochs of Fashion-MNIST. Networks are judged on {len(here.val):,} "
    f"validation images, and each recipe is trained with {budget.seeds} seed"
    f"{'s' if budget.seeds > 1 else ''}.\n\n"
    f"We call a recipe *higher* or *lower* than another only if all seeds agree and the means differ by at "
    f"least {clear(budget.seeds):.1f} points (chapter 0 derives this rule). Otherwise the two are *about the "
    f"same* if no seed differs by 2 points, and *undecided* if one does."
)

# %% [markdown]
# We evaluate the copies.


# %%
def score(net):
    return accuracy(net, here, here.val, BASELINE)


scores = [[score(net) for net in nets] for nets in copies]
lines = {f"seed {seed}": (marks, found) for seed, found in enumerate(scores)}
plot(lines, "training step", "validation accuracy", f"constant rate of {BASELINE.lr:g}", marks=True)
plt.show()

# %%
fell = sum(late < soon for path in scores for soon, late in pairwise(path))
say(
    f"From one mark to the next, accuracy fell in **{fell} of {3 * budget.seeds}** cases. The validation "
    f"images are the same at every mark, so only the network has changed."
)

# %% [markdown]
# What changes in a network like this one when the steps are long? Two things:
#
# - **The weights.** Long steps may jump around a good solution without settling in it.
# - **The statistics of batch norm.** In evaluation, batch norm uses a running mean and a running variance.
#   Each training step moves them a tenth of the way to the values of the current batch (chapter 2). While
#   the weights move fast, these averages lag behind them.
#
# We can tell the two apart, because the second can be cured without any training. We *refresh* the
# statistics: 2,000 training images go through the network, and their mean and variance replace the running
# ones. The weights stay as they are.

# %%
from torch.optim.swa_utils import update_bn


def refreshed(net):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), net)
    return score(net)


cured = [[refreshed(net) for net in nets] for nets in copies]
lines = {
    "as trained": (marks, [mean(at_mark) for at_mark in zip(*scores, strict=True)]),
    "refreshed": (marks, [mean(at_mark) for at_mark in zip(*cured, strict=True)]),
}
plot(lines, "training step", "validation accuracy", f"means, n = {budget.seeds}", marks=True)
plt.show()

# %%
fell_cured = sum(late < soon for path in cured for soon, late in pairwise(path))
helped = gained([mean(path) for path in cured], [mean(path) for path in scores])
fair = {
    "higher": "So the scores **understated** what the networks had learned",
    "same": "So the scores were roughly **a fair picture** of the networks",
    "lower": "So the refresh **did harm**: 2,000 images gave no better statistics than the running ones",
}.get(
    helped.split(" (")[0].split()[-1],
    "So these runs **cannot tell** whether the scores understate what the networks had learned",
)
say(
    f"Averaged over the four marks, the refreshed networks are {helped}. {fair}. After the refresh, accuracy "
    f"fell in {fell_cured} of {3 * budget.seeds} cases, compared with {fell} before."
)

# %% [markdown]
# A rate that falls at the end could therefore help in two ways. Short steps let the weights settle. They
# also let the running averages catch up with the weights. A refresh does only the second. So from here on,
# we judge every network twice:
#
# - *as trained*, which is what you get if you do nothing more;
# - *refreshed*, which shows what the weights are worth.
#
# What a trick gains as trained but not when refreshed, it gains through the averages.

# %% [markdown]
# ## By hand: how high may the rate go?
#
# The **range test** (Smith 2015) answers this in one short run: start with a tiny rate, multiply it by the
# same number at each step, and record the loss. (Smith raised the rate by equal amounts and recorded the
# accuracy. The version with factors and the loss comes from fast.ai.)
#
# We write it as a trick of our own. In this course, a trick is a small frozen dataclass that names the slot
# it fills. Before each step, the training loop asks it what to multiply the recipe's rate by. (The loop
# also passes the batch size, which we do not need.) The factor goes from `low` to `high`.


# %%
@dataclass(frozen=True)
class RangeTest:
    low: float
    high: float
    slots = ("lr_factors",)

    def lr_factor(self, step, steps, batch):
        return self.low * (self.high / self.low) ** (step / (steps - 1))


rising = BASELINE + RangeTest(low=0.01, high=1_000)
tested = 150
rates = [rising.lr_at(step, tested) for step in range(tested)]
f"from {rates[0]:g} to {rates[-1]:g}, each rate {rates[1] / rates[0]:.3f} times the one before"

# %% [markdown]
# We train a fresh network with these rates. The loss of a single batch is noisy, so we average it with the
# losses of earlier steps, giving older ones less and less weight. The loss *begins to climb* at the last
# rate at which it is still within a tenth of its lowest value. Our *bound* is a tenth of that rate.

# %%
losses = [loss for _, loss in training(rising, tested, seed=0)]
smooth, average = [], losses[0]
for loss in losses:
    average = 0.9 * average + 0.1 * loss
    smooth.append(average)

points = list(zip(rates, smooth, strict=True))
climbs = max(rate for rate, loss in points if loss < 1.1 * min(smooth))
bound = climbs / 10
plot({"": (rates, smooth)}, "learning rate", "loss, averaged", "range test", scale="log")
for rate, name in ((BASELINE.lr, "constant"), (bound, "bound"), (climbs, "begins to climb")):
    plt.axvline(rate, color="grey", linestyle="--")
    plt.text(rate, 1.9 * smooth[0], f" {name}", rotation=90, va="top")
plt.ylim(0, 2 * smooth[0])
plt.show()

# %%
if climbs < rates[-1]:
    climbing = f"begins to climb at {climbs:.2g}"
else:
    climbing = f"does not climb up to {climbs:.2g}, the end of the test"
say(
    f"The loss {climbing}, so our bound is **{bound:.2g}**, or {bound / BASELINE.lr:.0f} times the constant "
    f"rate. The usual peak of one-cycle is 10 times that rate, {10 * BASELINE.lr:g}, which lies "
    f"{'below' if 10 * BASELINE.lr <= bound else 'above'} the bound."
)

# %% [markdown]
# Why a whole factor of ten below the climb? First, averaging over about ten steps delays the curve, and in
# ten steps the rate doubles. Second, the loss also falls because training has gone on for longer, which
# makes high rates look better than they are. Third, a rate that is harmless for ten steps may not be
# harmless for a thousand. Still, the factor is only a rule of thumb. So near the end we put it to the test
# with peaks of up to 1,000 times the constant rate.

# %% [markdown]
# ## Write it
#
# **A triangle.** The rate rises for `half` steps and falls for `half` steps, over and over. We need its
# height above the valley, as a number between 0 and 1.


# %%
def height(step, half):
    _, position = divmod(step / half, 2)
    return 1 - abs(position - 1)


[height(step, 4) for step in range(10)]

# %% [markdown]
# The list goes up to 1 in four steps and down to 0 in four. (The package has two more modes, in which the
# triangles become lower and lower.)
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
# With the default settings of `OneCycle`, the rate starts at a 25th of the peak, is at its peak after a
# quarter of the run, and ends at a ten-thousandth of the starting rate. The momentum moves in the opposite
# direction.

# %%
clock = range(100)
factors = [one_cycle(step, 100, 0.4, 10.0, 0.4 / 1e4, 0.25) for step in clock]
momenta = [one_cycle(step, 100, 0.95, 0.85, 0.95, 0.25) for step in clock]
plot({"": (clock, momenta)}, "training step", "momentum (AdamW: beta1)")
plt.show()

# %%
say(
    f"The momentum is lowest, {min(momenta):g}, at step {momenta.index(min(momenta))}. At that step the "
    f"rate is at its peak of {max(factors):g} times the constant one."
)

# %% [markdown]
# **Why the opposite direction?** Momentum adds earlier steps to the current one. Suppose the gradient is 1
# at every step, and look at how far plain SGD with momentum moves in each step.


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
say(
    f"With momentum 0.95, a step grows to {moves(0.95)[-1]:.1f} times the learning rate. With 0.85, it grows "
    f"to {moves(0.85)[-1]:.1f} times."
)

# %% [markdown]
# Both lines level off at 1 + m + m² + … = 1 / (1 - m). So the *effective step* of SGD is
# lr / (1 - momentum), and a high momentum acts as a second, hidden learning rate. One-cycle lowers this
# hidden rate just when the visible one is at its highest.
#
# This argument applies to SGD, and our baseline uses AdamW. Adam *averages* gradients instead of adding
# them, so a steady gradient gives the same step at any beta1. What beta1 sets is how long old gradients are
# remembered: about 20 steps with 0.95, about 7 with 0.85. The usual reason for moving it is that during
# long steps, old gradients come from places that the network has left. That is plausible but not proven, so
# below we train one-cycle with a fixed beta1 too.

# %% [markdown]
# ## Check it
#
# First, we check that our functions match those in the package. The last line says where one-cycle stands
# halfway, which matters later.

# %% tags=["nbval-check-output"]
same = [height(step, 7) == cyclic.height(step, 7, "triangular") for step in range(100)]
holds(all(same), "our triangles are the package's")
theirs = [cyclic.one_cycle(step, 100, 0.4, 10.0, 0.4 / 1e4, 0.25, "cos") for step in clock]
holds(factors == theirs, "our one-cycle is the package's")
share = one_cycle(500, 1000, 0.04, 1.0, 0.04 / 1e4, 0.25)
holds(abs(share - 0.75) < 0.01, "halfway, the rate is still at three quarters of its peak")

# %% [markdown]
# Second, torch provides both schedules as objects that count steps and modify an optimiser. We run torch
# through 100 steps and record the rate and the momentum before each one. Our own schedules need no
# optimiser: we ask the recipe.


# %%
def torchs(schedule_of):
    weight = [torch.zeros(1, requires_grad=True)]
    optimizer = torch.optim.AdamW(weight, BASELINE.lr)
    schedule, found = schedule_of(optimizer), []
    for _ in clock:
        group = optimizer.param_groups[0]
        found.append([group["lr"], group["betas"][0]])
        optimizer.step()
        schedule.step()
    return torch.tensor(found, dtype=torch.float64)


def ours(recipe):
    found = [[recipe.lr_at(step, 100), recipe.momentum_at(step, 100)] for step in clock]
    return torch.tensor(found, dtype=torch.float64)


# %% [markdown]
# The two must agree at every step, triangles first, then one-cycle.

# %% tags=["nbval-check-output"]
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

lr, betas = BASELINE.lr, {"base_momentum": 0.85, "max_momentum": 0.95}
theirs = torchs(lambda o: CyclicLR(o, 0.1 * lr, lr, step_size_up=10, **betas))
holds(torch.allclose(ours(BASELINE + Cyclic(half=10)), theirs, 1e-9, 0), "as torch's CyclicLR")
theirs = torchs(lambda o: OneCycleLR(o, 10 * lr, total_steps=100, pct_start=0.25))
holds(torch.allclose(ours(BASELINE + OneCycle()), theirs, 1e-9, 0), "as torch's OneCycleLR")

# %% [markdown]
# ## In your own loop
#
# You do not need this package to use the trick. In a plain PyTorch script, add the lines marked `+`:
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
# settings that suit all seven tricks together, including pretrained weights: a peak of 30 times the rate, a
# rise of 0.15, and momenta between 0.8 and 0.9. The range test above belongs to another case, a network
# with random weights and no other trick. For that case, in the rest of this chapter, we use the usual
# settings: a peak of 10 times the rate, a rise of 0.25, and torch's own momenta. In the script, that is
# this call:
#
# ```python
# schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 10 * LR, steps, pct_start=0.25)
# ```

# %% [markdown]
# ## Use it
#
# Smith & Topin 2017 (arXiv 1708.07120) called what they saw *super-convergence*: a 56-layer ResNet
# reached 92.4 % on CIFAR-10 after 10,000 steps with one cycle, compared with 91.2 % after about 80,000
# steps with a rate that was lowered in stages. Our runs are far too short to test that claim. We ask a
# smaller question: with the same number of images, does one-cycle end higher, and which part of it does the
# work?
#
# One-cycle differs from our constant rate in four ways: its rates are higher, they fall at the end, they
# rise at the beginning, and the momentum moves. So we train one-cycle and three kinds of recipes beside it:
#
# - **Constant rates.** Our rate of 0.001 was chosen for longer runs, and runs as short as these may want a
#   higher one. So we also try 0.003 and 0.01.
# - **Cosines.** The rate falls from its start to zero along half a cosine wave, with no rise. On average it
#   is only half as high as at its start, so we try higher starts: 0.003, 0.01, and 0.03.
# - **A cosine with warm-up.** This is one-cycle with its momentum held at the baseline's 0.9.


# %%
@dataclass(frozen=True)
class Cosine:
    slots = ("lr_factors",)

    def lr_factor(self, step, steps, batch):
        return (1 + math.cos(math.pi * step / steps)) / 2


constants, cosines = (0.001, 0.003, 0.01), (0.003, 0.01, 0.03)
recipes = {f"constant {lr:g}": replace(BASELINE, lr=lr) for lr in constants[1:]}
recipes |= {f"cosine {lr:g}": replace(BASELINE, lr=lr) + Cosine() for lr in cosines}
recipes["cosine with warm-up"] = BASELINE + OneCycle(momentum_low=0.9, momentum_high=0.9)
recipes["one-cycle"] = BASELINE + OneCycle()

# %% [markdown]
# All runs have the same seeds and the same number of images. The constant rate of 0.001 is already trained:
# it is the last mark of the two figures above. In the line below the cell, an *arm* is a recipe. The recipes
# take turns, so that a slow moment of the machine does not hit only one of them.

# %%
runs = train_arms(recipes, data, images=half, evaluations=1)
stale = {"constant 0.001": [found[-1] for found in scores]}
fresh = {"constant 0.001": [found[-1] for found in cured]}
for name, found in runs.items():
    stale[name] = [run.val_accuracy for run in found]
    fresh[name] = [refreshed(run.net) for run in found]

# %% [markdown]
# The table shows the mean accuracy, and in brackets the lowest and the highest seed.

# %%
import pandas as pd


def spread(found):
    return f"{mean(found):.3f} ({min(found):.3f} to {max(found):.3f})"


columns = {"as trained": stale, "refreshed": fresh}
pd.DataFrame({way: pd.Series(found).map(spread) for way, found in columns.items()})

# %%
say(
    f"Compared with the constant rate of 0.001, one-cycle is "
    f"**{gained(stale['one-cycle'], stale['constant 0.001'])}** as trained, and "
    f"**{gained(fresh['one-cycle'], fresh['constant 0.001'])}** when both are refreshed."
)

# %% [markdown]
# But 0.001 may simply be too low a rate for so short a run. That comes next.
#
# ### A better rate, or a falling one?
#
# For each of the two shapes, constant and cosine, we look for the rate with the best mean accuracy.


# %%
def best(shape, tried, found):
    return max((f"{shape} {lr:g}" for lr in tried), key=lambda name: mean(found[name]))


flat, fall = best("constant", constants, fresh), best("cosine", cosines, fresh)
flat_stale, fall_stale = best("constant", constants, stale), best("cosine", cosines, stale)
lines = {
    "constant, as trained": (constants, [mean(stale[f"constant {lr:g}"]) for lr in constants]),
    "constant, refreshed": (constants, [mean(fresh[f"constant {lr:g}"]) for lr in constants]),
    "cosine, refreshed": (cosines, [mean(fresh[f"cosine {lr:g}"]) for lr in cosines]),
}
title = f"means, n = {budget.seeds}"
plot(lines, "learning rate at the start", "validation accuracy", title, scale="log", marks=True)
plt.show()

# %%
moved = {way: 100 * (mean(fresh[way]) - mean(stale[way])) for way in stale}
say(
    f"At a constant rate of 0.01, the refresh moves the mean by **{moved['constant 0.01']:+.1f} points**. For "
    f"the cosine that starts at 0.01, it moves it by {moved['cosine 0.01']:+.1f}. (The figure leaves out "
    f"the cosines as trained. They are in the table.)"
)

# %% [markdown]
# Because we may choose the rate, the fair comparison is best against best.

# %%
paid = gained(stale[fall_stale], stale[flat_stale])
settled = gained(fresh[fall], fresh[flat])
outer = {f"constant {constants[0]:g}", f"constant {constants[-1]:g}"}
outer |= {f"cosine {cosines[0]:g}", f"cosine {cosines[-1]:g}"}
edges = [way for way in (flat, fall) if way in outer]
say(
    f"- **As trained**, the best cosine ({fall_stale.split()[1]}) compared with the best constant rate "
    f"({flat_stale.split()[1]}) is {paid}.\n"
    f"- **Refreshed**, the best cosine ({fall.split()[1]}) compared with the best constant rate "
    f"({flat.split()[1]}) is {settled}."
    + (f" (At the edge of what we tried: {' and '.join(edges)}.)" if edges else "")
)

# %%
first_half = {
    "higher": "As trained, the falling rate **paid**",
    "lower": "As trained, the falling rate **cost accuracy**",
    "same": "As trained, the falling rate made **no clear difference**",
}.get(
    paid.split(" (")[0].split()[-1], "As trained, **we cannot tell** whether the falling rate paid"
)
second_half = {
    "higher": "After the refresh it is ahead, too, so it left **better weights**",
    "lower": "After the refresh it is behind, so it left **worse weights**",
    "same": "After the refresh, **no clear difference is left**",
}.get(
    settled.split(" (")[0].split()[-1],
    "After the refresh, **we cannot tell** whose weights are better",
)
say(f"{first_half}. {second_half}.")

# %% [markdown]
# Should a cosine start at the rate that is best when constant? Here are the two shapes from equal starts,
# refreshed.

# %%
ratio = float(fall.split()[1]) / float(flat.split()[1])
say(
    f"- From 0.003, the cosine compared with the constant rate is "
    f"{gained(fresh['cosine 0.003'], fresh['constant 0.003'])}.\n"
    f"- From 0.01, the cosine compared with the constant rate is "
    f"{gained(fresh['cosine 0.01'], fresh['constant 0.01'])}.\n\n"
    f"The cosine's best start was {fall.split()[1]}, and the best constant rate {flat.split()[1]}. "
    f"So a fall should start **{'higher' if ratio > 1.1 else 'no higher'}** than a constant rate here."
)

# %% [markdown]
# ### What each part is worth
#
# Now we go from the baseline to one-cycle in five steps. Each of them starts where the one before it ended:
#
# - **the refresh**: the constant rate of 0.001, before the refresh and after it;
# - **a better rate**: from 0.001 to the best constant rate, from here on with refreshed networks;
# - **the fall**: from that constant rate to the cosine that starts at one-cycle's peak, 0.01 (so the start
#   changes too, because each shape has its own best start);
# - **the warm-up**: from that cosine to the cosine with warm-up;
# - **the momentum**: from there to the complete one-cycle.

# %%
stages = {
    "start": stale["constant 0.001"],
    "the refresh": fresh["constant 0.001"],
    "a better rate": fresh[flat],
    "the fall": fresh["cosine 0.01"],
    "the warm-up": fresh["cosine with warm-up"],
    "the momentum": fresh["one-cycle"],
}
levels = [mean(found) for found in stages.values()]
steps_up = [100 * (after - before) for before, after in pairwise(levels)]
heights = [after - before for before, after in pairwise(levels)]

# %% [markdown]
# In the figure, a bar goes from the mean before the step to the mean after it. The number below it says by
# how many points. Dots are single seeds.

# %%
plt.figure(figsize=(7, 3.6), layout="constrained")
plt.bar(range(1, 6), heights, bottom=levels[:-1], color="lightgrey", edgecolor="black")
for place, found in enumerate(stages.values()):
    plt.plot([place] * len(found), found, "k.")
plt.hlines(levels[0], -0.4, 0.4, color="black")
labels = ["", *(f"{points:+.1f}" for points in steps_up)]
labels = [
    f"{name.removeprefix('the ')}\n{label}" for name, label in zip(stages, labels, strict=True)
]
plt.xticks(range(6), labels)
dots = [dot for found in stages.values() for dot in found]
plt.ylim(min(dots) - 0.01, max(dots) + 0.01)
plt.ylabel("validation accuracy")
plt.title(f"means and seeds, n = {budget.seeds}")
plt.show()

# %%
worth = {part: gained(stages[part], stages[origin]) for origin, part in pairwise(stages)}
gaining = [part for part in worth if "higher" in worth[part]]
losing = [part for part in worth if "lower" in worth[part]]
unclear = [part for part in worth if part not in gaining + losing]
say(
    f"The five steps add up exactly to the whole way from the baseline as trained to one-cycle refreshed, "
    f"**{sum(steps_up):+.1f} points**.\n\n"
    f"- Clear gains: **{', '.join(gaining) or 'none'}**.\n"
    f"- Clear losses: {', '.join(losing) or 'none'}.\n"
    f"- No clear difference: {', '.join(unclear) or 'none'}."
)

# %% [markdown]
# So what is one-cycle worth to somebody who has a good constant rate and refreshes?

# %%
over_flat = gained(fresh["one-cycle"], fresh[flat])
over_cosine = gained(fresh["one-cycle"], fresh["cosine 0.01"])
plain = {
    "same": "In these short runs, a good constant rate plus a refresh **did as well as one-cycle**",
    "higher": "In these short runs, one-cycle **beat** a good constant rate plus a refresh",
    "lower": "In these short runs, a good constant rate plus a refresh **beat one-cycle**",
}.get(
    over_flat.split(" (")[0].split()[-1],
    "These runs **cannot tell** whether one-cycle beats a good constant rate plus a refresh",
)
say(
    f"{plain}: compared with the best constant rate, one-cycle is {over_flat}. Compared with a plain cosine "
    f"from the same peak of 0.01, it is {over_cosine}. (All are refreshed.)"
)

# %% [markdown]
# Some warnings belong here:
#
# - **Luck.** The chapter makes about twenty comparisons, each with few seeds. One or two may look clear by
#   luck, so rely on the large ones.
# - **Choice.** The best rate of each shape was chosen and judged on the same validation images, which
#   flatters it a little. One-cycle had a single try.
# - **Length.** In longer runs, a constant rate may lose more to its long steps. We have not tried that.
# - **The study.** The study quoted at the top had longer runs, for which its plain rate of 0.001 was tuned,
#   so our better rate need not be better there. It judged its networks as trained. So we do not know which
#   share of its gain a refresh would have given.

# %% [markdown]
# ## Break it
#
# **Too high.** We train one-cycle with peaks of 30, 100, and 1,000 times the constant rate, with seed 0 and
# as many images as before. The first point is the one-cycle that we have. If the loss becomes NaN, we count
# the run as guessing.

# %%
chance = 1 / len(data.classes)


def attempt(peak):
    try:
        run = train(BASELINE + OneCycle(peak), data, images=half, evaluations=1)
    except FloatingPointError:
        return chance
    return refreshed(run.net)


sweep = {10: fresh["one-cycle"][0]}
with one_line() as tell:
    sweep |= {peak: attempt(peak) for peak in (30, 100, 1_000)}
    tell(f"{len(sweep) - 1} runs, one per peak")

title = f"one-cycle, refreshed, one seed; guessing would give {chance:g}"
lines = {"": (list(sweep), list(sweep.values()))}
plot(lines, "peak, times the constant rate", "validation accuracy", title, scale="log", marks=True)
plt.axvline(bound / BASELINE.lr, color="grey", linestyle="--")
plt.text(bound / BASELINE.lr, chance, " bound", rotation=90)
plt.ylim(0, 1)
plt.show()

# %%
harm = {times: gained([sweep[times]], [sweep[10]], chance) for times in list(sweep)[1:]}
harmful = [times for times in harm if "lower" in harm[times]]
broke = sweep[1_000] < 0.8 * sweep[10]
limit = bound / BASELINE.lr
unharmed = [times for times in harm if limit < times < min([*harmful, math.inf])]
if unharmed:
    judged = f"{unharmed[-1]:,} times lies above the bound and did no harm, so the bound was **cautious**"
elif harmful[0] > limit:
    judged = f"the lowest of these peaks above the bound, {harmful[0]:,} times, did harm: it was **needed**"
else:
    judged = f"a peak below it, {harmful[0]:,} times, did harm, so it was **too high**"
say(
    f"Compared with a peak of 10 times, 30 times is {harm[30]}, 100 times is {harm[100]}, and 1,000 times is "
    f"**{harm[1_000]}**: that {'**broke**' if broke else 'did **not break**'} training. As to the range "
    f"test's bound of {limit:.0f} times, {judged}."
)

# %% [markdown]
# **Stopped too soon.** The schedule must know the length of the run. How good is a network that was stopped
# halfway, when the rate was still at three quarters of its peak? We plan cycles that are twice as long and
# stop them when they have seen as many images as the others.


# %%
def stopped_halfway(seed):
    plan = training(BASELINE + OneCycle(), 2 * length, seed)
    return [net for net, _ in islice(plan, length)][-1]


nets = [stopped_halfway(seed) for seed in range(budget.seeds)]
stale["stopped"] = [score(net) for net in nets]
fresh["stopped"] = [refreshed(net) for net in nets]


def behind(found, name):
    return [100 * (own - other) for own, other in zip(found[name], found["one-cycle"], strict=True)]


parts = {
    "stopped halfway, as trained": behind(stale, "stopped"),
    "stopped halfway, refreshed": behind(fresh, "stopped"),
    "best constant rate, as trained": behind(stale, flat),
    "best constant rate, refreshed": behind(fresh, flat),
}
bars(parts, "points of accuracy above the planned cycle")
plt.show()

# %% [markdown]
# A bar is a mean, a dot is a seed, and the thick line is the 95 % interval of chapter 0, which is little
# more than the range when there are three seeds.

# %%
at_once = gained(stale["stopped"], stale["one-cycle"])
at_last = gained(fresh["stopped"], fresh["one-cycle"])
gap = mean(stale["one-cycle"]) - mean(stale["stopped"])
rest = mean(fresh["one-cycle"]) - mean(fresh["stopped"])
source = ""
if "lower" in at_once:
    source = (
        f"So **{max(0, min(1, 1 - rest / gap)):.0%} of the deficit came from the averages**, which a refresh "
        f"cures. "
        + (
            "The rest is in the weights."
            if "lower" in at_last
            else "Whether the weights are any worse, these runs do not show."
        )
    )
say(
    f"Compared with the planned cycle, the stopped one is {at_once} as trained, and {at_last} when both are "
    f"refreshed. {source}\n\n"
    f"The best constant rate needs no plan. Compared with the stopped cycle, it is "
    f"{gained(stale[flat], stale['stopped'])} as trained, and **{gained(fresh[flat], fresh['stopped'])}** "
    f"when both are refreshed."
)

# %% [markdown]
# The high rate at the end need not be the only reason: the stopped run also spent half of its steps in the
# warm-up, and the planned one only a quarter.
#
# ## What the card promised, and what we saw

# %%
cost = faster(
    [run.train_seconds for run in runs["one-cycle"]],
    [run.train_seconds for run in runs["constant 0.003"]],
)
say(
    f"- *Cost: none.* With the same images, one-cycle was {cost} as a constant rate.\n"
    f"- *Pays when the length of the run is known.* In these short runs, compared with the baseline's rate "
    f"and as trained, it was {gained(stale['one-cycle'], stale['constant 0.001'])}. Compared with the best "
    f"constant rate, and refreshed, it was {over_flat}.\n"
    f"- *Fails when the peak is too high.* "
    f"{'Yes, at 1,000 times the constant rate.' if broke else 'We did not reach such a peak.'}\n"
    f"- *Fails when the run is stopped before its end.* "
    + (
        f"Yes as trained. After a refresh, the stopped network was {at_last}."
        if "lower" in at_once
        else f"Not clearly here: the stopped network was {at_once} as trained."
    )
)

# %% [markdown]
# ## A recipe
#
# This is for a network with batch norm that starts from random weights. Our runs say nothing about networks
# without batch norm, in which there is nothing to refresh.
#
# 1. **Run the range test** for your network, data, and batch size. The bound is a tenth of the rate at which
#    the loss begins to climb.
# 2. **Let the rate fall from a peak to zero** along a cosine. As the peak, try the bound and a third of it,
#    and keep the better one. Your old constant rate is no longer needed.
# 3. **Refresh batch norm** before you evaluate or save.
# 4. **If you cannot plan the length**, keep a constant rate, the best of three or four that you have
#    compared after a refresh, and refresh whenever you evaluate. (Triangles come down again and again, so
#    they are another candidate, which we have not tried.)
# 5. **If you must stop a cycle early**, a refresh is the least that you should do.
#
# In code, steps 1 to 3 are these lines. `batches` yields about 2,000 training images, normalised as in
# training:
#
# ```python
# peak = climbs / 10  # from the range test; try a third of it, too
# optimizer = torch.optim.AdamW(net.parameters(), lr=peak)
# schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
# for x, y in training_batches:  # `steps` of them
#     loss = torch.nn.functional.cross_entropy(net(x), y)
#     loss.backward()
#     optimizer.step()
#     schedule.step()
#     optimizer.zero_grad()
# torch.optim.swa_utils.update_bn(batches, net)
# ```

# %% [markdown]
# How far do our runs support this?

# %%
starting = float(fall.split()[1])
nearest = min(cosines, key=lambda tried: abs(math.log(tried / bound)))
beside = "which was also the best of the three"
if nearest != starting:
    beside = (
        f"which was {gained(fresh[f'cosine {nearest:g}'], fresh[fall])} compared with {starting:g}"
    )
    near = bound / 4 < starting < bound
    beside += (
        ". So try **a third of it**, too" if near else ". So the bound **missed the best start**"
    )
say(
    f"- **The peak.** The bound is {bound:.2g}. The nearest start that we tried is {nearest:g}, {beside}.\n"
    f"- **The shape.** Compared with a plain cosine, one-cycle was {over_cosine}. "
    + (
        "So we take the simpler one. The warm-up and the momentum may matter with larger batches, with "
        "higher peaks, or with SGD."
        if "higher" not in over_cosine
        else "So for step 2, take `OneCycleLR(optimizer, peak, steps, pct_start=0.25)` instead."
    )
    + "\n"
    f"- **The refresh.** It moved the best cosine by {moved[fall]:+.1f} points and the best constant rate by "
    f"{moved[flat]:+.1f}. That is what you miss if you forget it."
)

# %% [markdown]
# If the loss becomes NaN or climbs and stays high, halve the peak. If you start from pretrained weights or
# add other tricks, search for the peak anew.
#
# ## Questions
#
# **1. Why can a falling rate raise the accuracy within a few steps?**

# %%
say(
    "<details><summary>Answer</summary>For two reasons. As soon as the weights move slowly, batch norm's "
    "running averages catch up with them. And short steps let the weights settle, where long ones overshot. "
    "A refresh tells the two apart, because it does only the first. In our runs, the best cosine compared "
    f"with the best constant rate was {paid} as trained, and {settled} when both were refreshed. The second "
    "number is what is left for the settling.</details>"
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
