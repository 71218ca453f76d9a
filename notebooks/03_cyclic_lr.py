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
# settle but travel slowly. So we let the rate move: up to travel, then down to settle. In this chapter, we
# find out how high it can go, build two well-known shapes, and move the momentum in the opposite
# direction. Then we ask which part of this does the work.
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
from fasttricks import BASELINE, Cyclic, OneCycle, choose_budget, load, train
from fasttricks.course import train_arms

budget, data = choose_budget(), load()
budget

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
# Next, here is what our recorded study found about this trick. A ratio above 1 means that the second of the
# two times is the shorter. Below it is the trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline, say
from fasttricks.tricks import cyclic

say(headline("cyclic"))
Markdown(cyclic.__doc__)

# %% [markdown]
# ## The problem: a constant rate hides what the network has learned
#
# We train without any tricks, at one rate from the first step to the last. Along the way we evaluate
# sixteen times, on half of the validation images because evaluation also takes time. We plot the second
# half of the run.

# %%
from dataclasses import dataclass, replace
from itertools import pairwise

from fasttricks.course import accuracy_table, bars, faster, gained, gains, holds

quick = replace(data, val=data.val[:2500])
flat = train(BASELINE, quick, evaluations=16, label="constant")
seen, _, flat_scores = zip(*flat.curve, strict=True)
late = slice(7, None)
lines = {"constant": (seen[late], flat_scores[late])}
plot(lines, "images seen", "validation accuracy", "one seed", marks=True)
plt.show()

# %%
changes = [100 * (after - before) for before, after in pairwise(flat_scores[late])]
falls = sum(change < 0 for change in changes)
say(
    f"From one mark to the next, accuracy fell **{falls} of {len(changes)}** times. The changes lie "
    f"between {min(changes):+.1f} and {max(changes):+.1f} points. The validation images are the same at "
    f"every mark, so it is the network that moves."
)

# %% [markdown]
# One explanation is that the steps are too long: the network jumps around a good solution and cannot
# settle there. If so, short steps should calm it. We repeat the same run, but drop the rate to a
# twentieth in the last quarter.
#
# In this course, a trick is any small frozen dataclass that names the *slot* it fills, which is the part of
# training that it changes. So we write one of our own for the slot of the learning rate. Before each step,
# the training loop asks it for a factor.

# %%
from typing import ClassVar


@dataclass(frozen=True)
class Drop:
    chapter: ClassVar[int] = 3
    slots: ClassVar[tuple[str, ...]] = ("lr_factors",)

    def lr_factor(self, step, steps, batch):
        return 1.0 if step < 0.75 * steps else 0.05


drop = train(BASELINE + Drop(), quick, evaluations=16, label="drop")
drop_scores = [accuracy for _, _, accuracy in drop.curve]

# %% [markdown]
# Both runs start from the same weights and see the same images in the same order. Only the last quarter
# differs.

# %%
both = {"constant": flat_scores, "drop at 3/4": drop_scores}
lines = {name: (seen[late], scores[late]) for name, scores in both.items()}
plot(lines, "images seen", "validation accuracy", "one seed each", marks=True)
plt.show()

# %% [markdown]
# We compare the two runs mark by mark after the drop.

# %%
after = slice(12, None)
lead = [100 * (a - b) for a, b in zip(drop_scores[after], flat_scores[after], strict=True)]
spread = {name: 100 * (max(found[after]) - min(found[after])) for name, found in both.items()}
leads = ", ".join(f"{points:+.1f}" for points in lead)
say(
    f"At the {len(lead)} marks after the drop, the run with the drop leads by {leads} points (one seed). "
    f"It ends **{gained([drop_scores[-1]], [flat_scores[-1]])}**. Depending on which of these marks you "
    f"stop at, its accuracy varies by {spread['drop at 3/4']:.1f} points, and that of the constant rate "
    f"by {spread['constant']:.1f}."
)

# %%
if lead[0] >= 1:
    what = "The lead is there at once, too soon to have been learned after the drop."
elif max(lead[1:]) >= 1:
    what = "At the first mark there is no clear lead. A lead of a point or more appears only later."
else:
    what = "No mark shows a clear lead, so this run did not suffer from its constant rate."
steadier = spread["drop at 3/4"] < spread["constant"]
say(f"{what} The lower rate made the end of the run **{'' if steadier else 'no '}steadier**.")

# %% [markdown]
# This is the first reason to lower the rate at the end: where a constant rate makes accuracy go up and
# down, your result depends on the exact step at which you stop. It is one seed, so we will come back to
# the size of the gain with several.

# %% [markdown]
# ## By hand: how high may the rate go?
#
# Before a rate can move between two bounds, we must know them. The **range test** (Smith 2015) finds them
# in one short run: start with a tiny rate, multiply it by the same number at each step, and record the
# loss. (Smith raised the rate by equal amounts and recorded the accuracy. The version with factors and the
# loss comes from fast.ai.) We write it as another trick of our own; `low` and `high` are factors applied to
# the recipe's rate.


# %%
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
# Next come a fresh network, its optimiser, and the stream of batches.

# %%
import torch

from fasttricks.loop import cross_entropy, set_rates
from fasttricks.models import begin, optimizer_for

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
net = begin(rising, budget.model, data.channels, len(data.classes), budget.image_size).to(device)
optimizer = optimizer_for(rising, net)
here = data.to(torch.device(device), budget.image_size)
draws = here.draws(rising.batch, torch.Generator().manual_seed(0))

# %% [markdown]
# The loop itself is an ordinary training loop. `set_rates` sets the rate in the optimiser.

# %%
losses = []
for rate in rates:
    x, q = here.batch(*next(draws))
    set_rates(optimizer, rate, rising.momentum)
    loss = cross_entropy(net(x), q)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

# %% [markdown]
# The loss of a single batch is noisy, so we average it with the losses of earlier steps, giving older
# ones less and less weight.

# %%
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
    "; ".join(f"`{mode}` peaks at {', '.join(f'{top:.2g}' for top in tops[mode])}" for mode in tops)
    + "."
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
# The settings in this script are those of our recorded study. It looked for the best peak of all seven
# tricks together, and these begin from pretrained weights, so they need not suit you: from random weights,
# begin with the recipe at the end of this chapter (10 times, 0.25, and torch's momenta of 0.85 and 0.95).
#
# The complete script is [`examples/cyclic.py`](../examples/cyclic.py). `OneCycleLR` needs to know the
# number of steps in advance, and must be stepped once after every optimiser step. It ignores the
# optimiser's own rate, because the peak that you pass is the rate itself.

# %% [markdown]
# ## Use it
#
# Smith & Topin 2017 (arXiv 1708.07120) called what they saw *super-convergence*: a 56-layer ResNet
# reached 92.4 % on CIFAR-10 after 10,000 steps with one cycle, compared with 91.2 % after about 80,000
# steps with a rate that was lowered in stages. That is a claim about one data set, one network, and very
# high rates. The paper adds a condition: high rates act as regularisation themselves, so other
# regularisation (such as weight decay) must be reduced. We keep ours as it is.
#
# What do we see? We train fresh networks with two recipes, using the same seeds and the same number of
# images.

# %%
arms = train_arms({"constant": BASELINE, "one-cycle": BASELINE + OneCycle()}, data)
accuracy_table(arms)

# %%
ends = {name: [run.val_accuracy for run in runs] for name, runs in arms.items()}
width = {name: 100 * (max(found) - min(found)) for name, found in ends.items()}
epochs = arms["constant"][0].images_seen / len(data.train)
say(
    f"After {epochs:.2f} epochs, one-cycle compared with the constant rate is "
    f"**{gained(ends['one-cycle'], ends['constant'])}**. Its runs lie within {width['one-cycle']:.1f} "
    f"points of each other, those of the constant rate within {width['constant']:.1f}."
)

# %% [markdown]
# How did they get there?

# %%
curves = {}
for name, runs in arms.items():
    images, _, scores = zip(*runs[0].curve, strict=True)
    curves[name] = (images, scores)
plot(curves, "images seen", "validation accuracy", "one seed each", marks=True)
plt.show()

# %%
leads = []
for mark in range(4):
    found = {name: [run.curve[mark][2] for run in runs] for name, runs in arms.items()}
    leads.append(100 * (sum(found["one-cycle"]) - sum(found["constant"])) / len(arms["constant"]))
say(
    f"At the four marks, one-cycle leads by {', '.join(f'{lead:+.1f}' for lead in leads)} points "
    f"(means, n = {len(arms['constant'])}). It was ahead at {sum(lead > 0 for lead in leads)} of 4."
)

# %% [markdown]
# The peak is at the first mark. A run with one-cycle can look bad there and still end well, so do not judge
# it before it ends.
#
# ## Which part does the work?
#
# One-cycle differs from our constant rate in four ways: its rates are higher, they fall at the end, they
# rise at the beginning, and the momentum moves. To tell these apart, we add one at a time.
#
# First come constant rates that are 3 and 10 times as high. (Of the rates that our study tried, 0.001 was
# the best for 96,000 images. A run as short as ours may want a higher one.) Then comes a rate that
# starts at 10 times and only falls. It takes another trick of our own.


# %%
@dataclass(frozen=True)
class Cosine:
    chapter: ClassVar[int] = 3
    slots: ClassVar[tuple[str, ...]] = ("lr_factors",)

    def lr_factor(self, step, steps, batch):
        return (1 + math.cos(math.pi * step / steps)) / 2


# %% [markdown]
# Then comes one-cycle with its momentum fixed at the baseline's 0.9, which adds the rise. Last comes the
# complete one-cycle.

# %%
steady = OneCycle(momentum_low=0.9, momentum_high=0.9)
ladder = {
    "constant 0.001": BASELINE,
    "constant 0.003": replace(BASELINE, lr=3e-3),
    "constant 0.01": replace(BASELINE, lr=1e-2),
    "cosine fall from 0.01": replace(BASELINE, lr=1e-2) + Cosine(),
    "one-cycle, momentum 0.9": BASELINE + steady,
    "one-cycle": BASELINE + OneCycle(),
}

# %% [markdown]
# We train each on half of the images, with the same seeds as before, and keep only the results, not the
# lines of progress. The figure shows the gain over the first one: a dot per seed, a bar for their mean, and
# a thick line for the range of the seeds.

# %%
shorter = train_arms(ladder, data, images=budget.images // 2, evaluations=1)
won = {name: gains(runs, shorter["constant 0.001"]) for name, runs in shorter.items()}
bars(won, "points of validation accuracy above the constant rate of 0.001")
plt.show()

# %%
half = {name: [run.val_accuracy for run in runs] for name, runs in shorter.items()}
mean = {name: sum(found) / len(found) for name, found in half.items()}
names = list(ladder)
best = max(names[:3], key=mean.get)
say(
    f"**Rate.** Compared with 0.001 ({mean[names[0]]:.3f}), the constant rate of 0.003 is "
    f"{gained(half[names[1]], half[names[0]])}, and that of 0.01 is "
    f"{gained(half[names[2]], half[names[0]])}. The best constant rate is {best.split()[1]}."
)

# %%
say(
    f"**Fall.** Compared with the best constant rate, the cosine is {gained(half[names[3]], half[best])}. "
    f"**Rise.** Compared with the cosine, the cycle with fixed momentum is "
    f"{gained(half[names[4]], half[names[3]])}. **Momentum.** Compared with that, the complete cycle is "
    f"{gained(half[names[5]], half[names[4]])}."
)


# %% [markdown]
# How much does each part add, from the first bar to the last?


# %%
def parts(mean):
    rate = max(mean[name] for name in names[:3])
    ladder = [mean[names[0]], rate, *(mean[name] for name in names[3:])]
    found = [100 * (after - before) for before, after in pairwise(ladder)]
    return dict(zip(("a better rate", "the fall", "the rise", "the momentum"), found, strict=True))


def listed(shares):
    return ", ".join(f"{part} {points:+.1f}" for part, points in shares.items())


# %%
stairs = parts(mean)
say(
    f"Altogether one-cycle gains {sum(stairs.values()):+.1f} points over the baseline's rate: "
    f"{listed(stairs)}. The largest share is **{max(stairs, key=stairs.get)}**."
)

# %% [markdown]
# A part that is level here may matter elsewhere: the rise is a warm-up (chapter 2), and warm-up may matter
# more with larger batches or higher peaks.
#
# One doubt remains. During evaluation, batch norm uses running averages of its statistics, and these lag
# behind a network that is still moving fast. So a high constant rate may look worse than it is. As in
# chapter 2, we refresh these averages with 2,000 training images, and compare again.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.loop import accuracy


def score(run):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), run.net)
    return accuracy(run.net, here, here.val, run.recipe)


fresh = {name: [score(run) for run in shorter[name]] for name in names}

# %%
fresh_mean = {name: sum(found) / len(found) for name, found in fresh.items()}
fresh_best = max(names[:3], key=fresh_mean.get)
say(
    f"The refresh moves the constant rate of 0.01 from {mean[names[2]]:.3f} to "
    f"**{fresh_mean[names[2]]:.3f}** (means) without any training. The best constant rate is then "
    f"{fresh_best.split()[1]} ({fresh_mean[fresh_best]:.3f}), and compared with that, the cosine is "
    f"**{gained(fresh[names[3]], fresh[fresh_best])}**."
)

# %%
refreshed = parts(fresh_mean)
say(
    f"After the refresh, one-cycle gains {sum(refreshed.values()):+.1f} points over the baseline's rate: "
    f"{listed(refreshed)}. The largest share is now **{max(refreshed, key=refreshed.get)}**."
)

# %% [markdown]
# What a refresh adds is what the rate had *hidden*. So in a network with batch norm, a falling rate can do
# two things: it lets the weights settle, and it lets the running averages catch up. The refresh gives you
# the second without the first.
#
# **Is this super-convergence?** The claim was about steps *saved*. The runs above used half of the steps
# of our first table, so we can compare them with its constant rate. (The study quoted at the top answers
# the question for longer runs, up to a fixed accuracy.)

# %%
saved = gained(half["one-cycle"], ends["constant"])
kept = "same" in saved or "higher" in saved
say(
    f"Compared with the constant rate of 0.001 with all of the steps, one-cycle with half of them is "
    f"{saved}, and the best constant rate with half is {gained(half[best], ends['constant'])}. So "
    f"one-cycle has **{'' if kept else 'not '}saved half of the steps** here. "
    f"Smith and Topin saved seven of eight."
)

# %% [markdown]
# ## Break it
#
# **Too high.** We repeatedly multiply the peak by ten, and train each time on a quarter of the images, with
# one seed. The dashed line is the upper bound from our range test.

# %%
sweep = {}
for factor in (1.0, 10.0, 100.0, 1000.0):
    recipe = BASELINE + OneCycle(factor)
    sweep[factor] = train(
        recipe, data, images=budget.images // 4, evaluations=1, label=f"peak {factor:g}"
    )
scores = [run.val_accuracy for run in sweep.values()]
lines = {"": (list(sweep), scores)}
plot(lines, "peak, times the constant rate", "validation accuracy", scale="log", marks=True)
plt.axvline(upper / BASELINE.lr, color="grey", linestyle="--")
plt.show()

# %%
best_peak = max(sweep, key=lambda factor: sweep[factor].val_accuracy)
chance = 1 / len(data.classes)
steps_up = [gained([higher], [lower], chance) for lower, higher in pairwise(scores)]
worst_loss = next(loss for rate, loss in points if rate >= 999 * BASELINE.lr)
say(
    f"The best of these peaks is **{best_peak:g} times** the constant rate ({max(scores):.3f}, one seed); "
    f"the bound was {upper / BASELINE.lr:.0f} times. From 1 to 10 times, accuracy is {steps_up[0]}; from "
    f"10 to 100 times, {steps_up[1]}; from 100 to 1,000 times, {steps_up[2]}. In the range test, "
    f"the loss at 1,000 times was {worst_loss / min(smooth):.1f} times its lowest value."
)

# %% [markdown]
# So the peak is worth a range test: a peak that is far too low wastes steps, and at very high rates,
# training diverges.
#
# **Stopped too soon.** The schedule must know the length of the run. Where is the rate halfway through?

# %% tags=["nbval-check-output"]
midway = OneCycle(10.0).lr_factor(500, 1000, 64)
holds(abs(midway / 10.0 - 0.75) < 0.01, "halfway, the rate is still at three quarters of its peak")

# %% [markdown]
# The second mark of the runs with one-cycle in our first table *is* such a run, interrupted halfway. The
# shorter runs above saw just as many images from the same seeds, but their cycle was planned for that
# number.

# %%
cut = {name: [run.curve[1][2] for run in runs] for name, runs in arms.items()}
stopped, full = cut["one-cycle"], half["one-cycle"]
say(
    f"After {budget.images // 2:,} images ({epochs / 2:.2f} epochs), the interrupted cycle reaches "
    f"{sum(stopped) / len(stopped):.3f}, the one planned for this length {mean['one-cycle']:.3f}: the "
    f"planned one is **{gained(full, stopped)}**. The constant rate reaches "
    f"{sum(cut['constant']) / len(stopped):.3f}, and against that the interrupted cycle is "
    f"{gained(stopped, cut['constant'])}."
)

# %% [markdown]
# So decide on the length first. (In a run of a few dozen steps, the lag of batch norm can hide the
# difference.)
#
# **And if you cannot plan?** Then triangles are an alternative, because `Cyclic` passes through a valley
# again and again. We train over four triangles between 0.1 and 10 times the constant rate, and evaluate at
# each top and valley.

# %%
one = arms["one-cycle"][0]
triangles = BASELINE + Cyclic(low=0.1, high=10.0, half=one.steps // 8)
around = train(triangles, data, evaluations=8, label="triangles")
images, _, scores = zip(*around.curve, strict=True)
lines = {"triangles: top, valley, top, …": (images, scores), **curves}
plot(lines, "images seen", "validation accuracy", "one seed each", marks=True)
plt.show()

# %%
tops, valleys = scores[::2], scores[1::2]
climb = ", ".join(f"{100 * (low - high):+.1f}" for high, low in zip(tops, valleys, strict=True))
say(
    f"From each top to the valley after it, accuracy changes by {climb} points; the first of these also "
    f"includes the start of training. The tops are at {', '.join(f'{top:.2f}' for top in tops)}, the valleys "
    f"at {', '.join(f'{valley:.2f}' for valley in valleys)}."
)

# %%
rival = {name: runs[0].val_accuracy for name, runs in arms.items()}
halfway = arms["constant"][0].curve[1][2]
say(
    f"The last valley ends at {valleys[-1]:.3f}. Compared with the constant rate it is "
    f"**{gained([valleys[-1]], [rival['constant']])}**, and compared with one-cycle "
    f"**{gained([valleys[-1]], [rival['one-cycle']])}**. Halfway, at the second valley, it is "
    f"{gained([valleys[1]], [halfway])} compared with the constant rate."
)

# %% [markdown]
# So if you must stop a run with triangles, stop it in a valley and not at a top. If you know the length of
# the run, plan one cycle.

# %% [markdown]
# ## What was promised, what we saw, and a recipe
#
# The card at the top makes four claims. Here they are beside what happened.

# %%
seconds = {name: [run.train_seconds for run in runs] for name, runs in arms.items()}
say(
    f"- *Cost: none.* With the same images, training with one-cycle was "
    f"{faster(seconds['one-cycle'], seconds['constant'])}.\n"
    f"- *Pays when the length is known.* Compared with the baseline's rate, one-cycle was "
    f"{gained(ends['one-cycle'], ends['constant'])}. In the shorter runs, compared with the best "
    f"constant rate, it was {gained(half['one-cycle'], half[best])}.\n"
    f"- *Fails when the peak is too high.* From a peak of 10 times to one of 1,000 times, accuracy was "
    f"{gained([sweep[1000.0].val_accuracy], [sweep[10.0].val_accuracy], chance)}.\n"
    f"- *Fails when the run is stopped before its end.* Compared with a cycle planned for that length, "
    f"one that was stopped halfway was {gained(stopped, full)}.\n\n"
    f"If you want to change one thing only, begin with what gave the largest share of the gain here: "
    f"**{max(stairs, key=stairs.get)}** as the networks were trained, "
    f"**{max(refreshed, key=refreshed.get)}** after the refresh."
)

# %% [markdown]
# **The recipe.** For a network that starts from random weights:
#
# 1. Find a constant rate `lr` that works. Try 3 times that rate too, so that you know what the cycle must
#    beat.
# 2. Run a range test. The peak is the smaller of 10 times `lr` and a tenth of the rate at which the loss
#    begins to climb. If training diverges, halve the peak.
# 3. Plan the cycle for exactly the steps you will take. Let the rate rise for a quarter of them, and leave
#    the momentum at torch's 0.85 to 0.95.
# 4. Judge the run at its end only. If you must judge it earlier and it has batch norm, refresh that first.
#
# ```python
# peak = min(10 * lr, climbs / 10)
# schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.25)
# ```
#
# If you start from pretrained weights or add other tricks, retune the peak: our study ended at 30 times.
#
# ## Questions
#
# **1. Why can a falling rate raise the accuracy within a few steps?**
#
# <details><summary>Answer</summary>The network was already near a good solution, but each step overshot
# it. Short steps let it settle. In a network with batch norm, the running averages also catch up.</details>
#
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
# the same seeds and number of images. Otherwise the old rate may simply have been too low, or the fall
# alone may have done it.</details>
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
