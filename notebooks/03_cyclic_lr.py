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
# The learning rate sets how far each step goes. Long steps travel fast but never settle; short steps
# settle but never arrive. So we let the rate move: up to travel, then down to settle. In this chapter, we
# find out how high it can go, plot the two best-known shapes, and move the momentum in the opposite
# direction.
#
# About 15 minutes to read, and two to run.

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
# First, we print what our recorded study found about this trick: the seconds of training until a fixed
# validation accuracy, without the trick and with it, and then for all seven tricks and for the other six.
# Each ratio belongs to the run named just before it: above 1, that run gets there sooner. Below it is the
# trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import cyclic

print(headline("cyclic"))
Markdown(cyclic.__doc__)

# %% [markdown]
# ## The hurt: it knows more than it shows
#
# We train without any tricks, at one rate from the first step to the last. Along the way we evaluate
# sixteen times, on half of the validation images because evaluation also takes time. We plot the second
# half of the run.

# %%
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, gained, holds, plot, say

quick = replace(data, val=data.val[:2500])
flat = train(BASELINE, quick, evaluations=16, label="constant")
seen, _, flat_scores = zip(*flat.curve, strict=True)
late = slice(7, None)
plot(
    {"constant": (seen[late], flat_scores[late])}, "images seen", "validation accuracy", marks=True
)
plt.show()

# %%
from itertools import pairwise

changes = [after - before for before, after in pairwise(flat_scores[8:])]
falls = sum(change < 0 for change in changes)
say(
    f"In the second half, accuracy fell at **{falls} of {len(changes)}** evaluations; the worst change was "
    f"{100 * min(changes):+.1f} points. The validation images are always the same, so it is the network "
    f"that moves."
)

# %% [markdown]
# Where accuracy falls from one evaluation to the next, the steps are too long for the network to settle.
#
# Now we repeat the same run, but drop the rate to a twentieth in the last quarter. A trick is any small
# frozen dataclass that names its slot, so we write one of our own. The loop asks it for a factor before
# each step.

# %%
from typing import ClassVar


@dataclass(frozen=True)
class Drop:
    chapter: ClassVar[int] = 3
    slots: ClassVar[tuple[str, ...]] = ("lr_factors",)

    def lr_factor(self, step, steps, batch):
        return 1.0 if step < 0.75 * steps else 0.05


drop = train(BASELINE + Drop(), quick, evaluations=16, label="drop")
drop_scores = [point[2] for point in drop.curve]

# %% [markdown]
# Both runs start from the same weights and see the same images in the same order. Only the end differs.
# What is the worst change between two evaluations in the last quarter, and where does each run end?

# %%
both = {"constant": flat_scores, "drop at 3/4": drop_scores}
lines = {name: (seen[late], scores[late]) for name, scores in both.items()}
plot(lines, "images seen", "validation accuracy", "one seed each", marks=True)
plt.show()

# %%
worst = {
    name: 100 * min(after - before for before, after in pairwise(scores[11:]))
    for name, scores in both.items()
}
say(
    f"The run whose rate dropped ends at {drop_scores[-1]:.3f}, the other one at {flat_scores[-1]:.3f}: "
    f"**{gained([drop_scores[-1]], [flat_scores[-1]])}**. In the last quarter its worst change was "
    f"{worst['drop at 3/4']:+.1f} points, that of the constant rate {worst['constant']:+.1f}."
)

# %% [markdown]
# The lines separate where the rate drops. A jump right after the drop is too quick to have been learned
# there: it shows what the network knew already.
#
# At a constant rate, your result depends on the exact step at which you stop. With a low rate at the end,
# neighbouring steps give similar results.
#
# ## By hand: how high may the rate go?
#
# Before a rate can move between two bounds, we must know them. The **range test** (Smith 2015) finds them
# in one short run: start with a tiny rate, multiply it by the same number at each step, and record the
# loss. (Smith raised it by equal amounts and recorded the accuracy; the version with factors and the loss
# is that of fast.ai.) We write it as another trick of our own; `low` and `high` are factors applied to
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

# %% [markdown]
# The rate is a function of the step, so we can look at it before training anything.

# %% tags=["nbval-check-output"]
tested = 200
rates = [rising.lr_at(step, tested) for step in range(tested)]
ratios = [after / before for before, after in pairwise(rates)]
holds(max(ratios) - min(ratios) < 1e-9, "each step multiplies the rate by the same number")
holds(abs(rates[-1] / rates[0] - 1e6) < 1, "the last rate is a million times the first")

# %% [markdown]
# A fresh network, its optimiser, and the stream of batches:

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
# The loop itself is as short as a training loop can be. `set_rates` sets the rate in the optimiser.

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
plot({"loss": (rates, smooth)}, "learning rate", "loss, averaged", "range test", scale="log")
plt.axvline(BASELINE.lr, color="grey")
plt.ylim(0, 2 * smooth[0])
plt.show()

# %%
good = [rate for rate, loss in zip(rates, smooth, strict=True) if loss < 1.1 * min(smooth)]
falling = next(rate for rate, loss in zip(rates, smooth, strict=True) if loss < 0.9 * smooth[0])
say(
    f"The loss begins to fall at a rate of about {falling:.1g}. It is lowest, within a tenth, between "
    f"**{good[0]:.1g} and {good[-1]:.1g}**, which is {good[0] / BASELINE.lr:.0f} to "
    f"{good[-1] / BASELINE.lr:.0f} times our constant rate (grey). `OneCycle` peaks at 10 times."
)

# %% [markdown]
# Read the plot from left to right. As long as the line is flat, the steps are too short to matter. The
# rate at which it begins to fall is a good *lower bound*. Where the line is lowest and begins to climb or
# oscillate, the rate is too high; the *upper bound* lies well to the left of that point. The grey line is
# our constant rate. A cycle can use the range from there to the upper bound.

# %% tags=["nbval-check-output"]
holds(min(smooth) < smooth[0], "somewhere on the way the network learns")
holds(max(smooth[-20:]) > 2 * min(smooth), "far to the right it comes apart")

# %% [markdown]
# The test is rough: a rate that is harmless for ten steps may not be harmless for a thousand. Treat the
# result as a rough guide.
#
# ## Write it
#
# **A triangle.** The rate rises for `half` steps and falls for `half` steps, over and over. We need its
# height as a number between 0 and 1. The three modes differ in what happens to the upper bound: it stays
# the same, is halved after each cycle, or decays a little at every step.


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
shapes = {mode: (steps, [height(step, 50, mode, 0.995) for step in steps]) for mode in cyclic.MODES}
plot(shapes, "optimiser step", "height")
plt.ylim(0, 1.5)
plt.show()

# %% [markdown]
# The solid line keeps its tops at full height. In the other two, the tops get lower, either abruptly
# after each cycle or gradually. We will see what the valleys are for when we train.
#
# **One cycle.** If we know when training will stop, one cycle is enough: a quick rise, then one long fall
# to nearly zero. Both the rise and the fall follow half a cosine wave.

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
# ten-thousandth of that starting rate. The momentum moves in the opposite direction: from 0.95 to 0.85
# and back.

# %%
clock = range(100)
factors = [one_cycle(step, 100, 0.4, 10.0, 0.4 / 1e4, 0.25) for step in clock]
momenta = [one_cycle(step, 100, 0.95, 0.85, 0.95, 0.25) for step in clock]
plot({"rate": (clock, factors)}, "optimiser step", "factor on the rate")
plot({"momentum": (clock, momenta)}, "optimiser step", "momentum (AdamW: beta1)")
plt.show()

# %% [markdown]
# Both change direction at the same step, a quarter of the way through. When the rate is high, the
# momentum is low.
#
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
    "optimiser step",
    "length of the step, in learning rates",
)
plt.show()

# %% [markdown]
# Both lines level off, but at very different heights, because 1 + m + m² + … equals 1 / (1 - m). So the
# *effective step* is lr / (1 - momentum), and a high momentum acts as a second, hidden learning rate.
# One-cycle lowers this hidden rate just when the visible one is at its highest.

# %% tags=["nbval-check-output"]
for momentum in (0.85, 0.95):
    level = moves(momentum, 1000)[-1]
    holds(abs(level - 1 / (1 - momentum)) < 1e-6, f"with {momentum} it levels off at 1 / (1 - m)")
eased = moves(0.95, 1000)[-1] / moves(0.85, 1000)[-1]
holds(abs(eased - 3) < 1e-6, "at the peak, the effective step is 3 times shorter")

# %% [markdown]
# A caution: Adam *averages* gradients instead of adding them, so AdamW does not magnify a steady
# gradient. In AdamW, beta1 only sets how long old gradients are remembered; the formula applies to SGD.
#
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
# Our schedules do not have to be run. We ask the recipe for the values at all the steps, and run torch
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
# Next, we compare one-cycle. Torch takes the highest rate itself, whereas ours takes a factor.

# %% tags=["nbval-check-output"]
ours, peak = asked(BASELINE + OneCycle()), 10 * BASELINE.lr
for name, make in makers.items():
    theirs = watch(make(), lambda o: OneCycleLR(o, peak, total_steps=100, pct_start=0.25))
    holds(torch.allclose(ours, theirs, 1e-9, 0), f"{name}: as torch's OneCycleLR")

# %% [markdown]
# Third, a law. Torch's object remembers how often it has been called. Ours is a *pure function of the
# optimiser step*: it keeps no state. So you can query it in any order, from four processes at once, or
# again after a skipped step, and the curve stays the same.

# %% tags=["nbval-check-output"]
recipe = BASELINE + OneCycle()
forth = [recipe.lr_at(step, 100) for step in clock]
back = [recipe.lr_at(step, 100) for step in reversed(clock)]
holds(forth == back[::-1], "asked from the end to the start, it answers the same")

# %% [markdown]
# ## In your own loop
#
# You do not need this package to use the trick. In a plain PyTorch script, it takes the lines below:
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
# number of steps in advance, and must be stepped once after every optimiser step.
#
# ## Use it
#
# Smith & Topin 2017 (arXiv 1708.07120) called what they saw *super-convergence*: a 56-layer ResNet
# reached 92.4 % on CIFAR-10 after 10,000 steps with one cycle, compared with 91.2 % after about 80,000
# steps with a rate that was lowered in stages. That is a claim about one data set, one network, and very
# high rates.
#
# What do we see? We train fresh networks with two recipes, using the same seeds and the same number of
# images.

# %%
arms = train_arms({"constant": BASELINE, "one-cycle": BASELINE + OneCycle()}, data)
accuracy_table(arms)

# %%
ends = {name: [run.val_accuracy for run in runs] for name, runs in arms.items()}
epochs = arms["constant"][0].images_seen / len(data.train)
say(
    f"Compared with the constant rate, one-cycle after {epochs:.2f} epochs is "
    f"**{gained(ends['one-cycle'], ends['constant'])}**. Its runs lie within "
    f"{100 * (max(ends['one-cycle']) - min(ends['one-cycle'])):.1f} points of each other, those of the "
    f"constant rate within {100 * (max(ends['constant']) - min(ends['constant'])):.1f}."
)

# %% [markdown]
# Is this super-convergence? The claim was about steps *saved*, whereas our table keeps the number of
# steps fixed. We come back to this question below.
#
# How did they get there?

# %%
curves = {
    name: ([p[0] for p in runs[0].curve], [p[2] for p in runs[0].curve])
    for name, runs in arms.items()
}
plot(curves, "images seen", "validation accuracy", "one seed each", marks=True)
plt.show()

# %% [markdown]
# Look at the first marks: near the peak, one-cycle may be far *behind*. It gains its accuracy as the rate
# falls. Do not judge such a run before it ends.
#
# How much of that comes from the cycle, and how much merely from a low rate at the end? Our own `Drop`
# run used seed 0 and the same number of images. We evaluate all three runs on all the validation images.

# %%
from fasttricks.loop import accuracy

three = {"constant": flat, "drop": drop, "one-cycle": arms["one-cycle"][0]}
found = {name: accuracy(one.net, here, here.val, one.recipe) for name, one in three.items()}
say(
    f"Constant {found['constant']:.4f}, drop {found['drop']:.4f}, one-cycle {found['one-cycle']:.4f}. "
    f"The drop alone is **{gained([found['drop']], [found['constant']])}**, and one-cycle beyond it "
    f"**{gained([found['one-cycle']], [found['drop']])}**."
)

# %% [markdown]
# What the drop gains does not need a cycle: it comes from the low rate at the end. Only what one-cycle
# gains beyond that can come from the rest of its shape: the high rates, the long fall, and the momentum.
#
# ## Break it
#
# **Too high.** We repeatedly multiply the peak by ten, and train each time on a quarter of the images.

# %%
sweep = {}
for factor in (1.0, 10.0, 100.0, 1000.0):
    recipe = BASELINE + OneCycle(factor)
    sweep[factor] = train(
        recipe, data, images=budget.images // 4, evaluations=1, label=f"peak {factor:g}"
    )
scores = [run.val_accuracy for run in sweep.values()]
plot(
    {"": (list(sweep), scores)},
    "peak, times the constant rate",
    "validation accuracy",
    scale="log",
    marks=True,
)
plt.show()

# %%
ranked = sorted(sweep, key=lambda factor: sweep[factor].val_accuracy)
say(
    f"The best peak here is {ranked[-1]:g} times the constant rate ({max(scores):.3f}), the worst "
    f"{ranked[0]:g} times ({min(scores):.3f}). From 10 to 100 times, accuracy is "
    f"{gained([scores[2]], [scores[1]])}; from 100 to 1,000 times, {gained([scores[3]], [scores[2]])}."
)

# %% [markdown]
# A peak that is too low wastes a short run. One that is too high throws the network so far that the fall is
# too short to bring it back: in the range test, too, the loss comes apart at such rates.

# %% tags=["nbval-check-output"]
holds(scores[-1] < max(scores), "the highest peak is not the best")

# %% [markdown]
# **Stopped too soon.** The schedule must know the length of the run. Where is the rate halfway through?

# %% tags=["nbval-check-output"]
midway = OneCycle(10.0).lr_factor(500, 1000, 64)
holds(abs(midway / 10.0 - 0.75) < 0.01, "halfway, the rate is still at three quarters of its peak")

# %% [markdown]
# The second mark of the one-cycle line above *is* such a run, stopped halfway. We compare it with a run
# from the same seed that saw just as many images, but whose cycle was planned for that number. To come
# back to the claim about saved steps, we also show the constant rate after twice as many images.

# %%
one, half = arms["one-cycle"][0], budget.images // 2
planned = train(one.recipe, data, images=half, evaluations=1, label="planned")
stopped, twice = one.curve[1][2], arms["constant"][0].val_accuracy
say(
    f"After {half:,} images, the cycle that was stopped is at {stopped:.3f}, the one that was planned for "
    f"this length at {planned.val_accuracy:.3f}: **{gained([planned.val_accuracy], [stopped])}**. "
    f"Compared with the constant rate after twice as many images ({twice:.3f}), the planned cycle is "
    f"{gained([planned.val_accuracy], [twice])}."
)

# %% [markdown]
# The two cycles saw the same images, but only one was allowed to finish. (In a run of a few dozen steps,
# stale batch norm can hide the difference; see chapter 2.) So decide on the length first.
#
# **And if you cannot plan?** In that case, `Cyclic` passes through a valley again and again. We train
# over four triangles and evaluate at each top and valley.

# %%
triangles = BASELINE + Cyclic(high=10.0, half=one.steps // 8)
around = train(triangles, quick, evaluations=8, label="cyclic")
marks = [(point[0], point[2]) for point in around.curve]
looks = {"at the tops": marks[::2], "in the valleys": marks[1::2]}
lines = {name: tuple(zip(*found, strict=True)) for name, found in looks.items()}
plot(lines, "images seen", "validation accuracy", "triangles, one seed", marks=True)
plt.show()

# %%
high, low = ([accuracy for _, accuracy in found] for found in looks.values())
say(
    f"Compared with the tops before them, the valleys are "
    f"**{gained(low, high).replace('seeds', 'cycles')}**. The last valley ends at {low[-1]:.3f}."
)

# %% [markdown]
# At a top the rate is high and hides what the network knows; the valley after it shows it, so you can stop
# at any valley. If you know the length of the run, one cycle is the better plan. So here is the rule of
# thumb: take one cycle, with a peak of about 10 times a good constant rate, planned for exactly the steps
# that you will make, and look at a range test if the run comes apart.
#
# ## Questions
#
# **1. Why can a falling rate raise the accuracy within a few steps?**
#
# <details><summary>Answer</summary>The network was already near a good solution, but each step overshot
# it. Short steps let it settle.</details>
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
# **4. Four processes train together, and each calls `schedule.step()` once per step on one shared torch
# schedule. What goes wrong, and why does our schedule avoid it?**
#
# <details><summary>Answer</summary>The schedule runs four times too fast. Ours is called with the number
# of optimiser steps taken, which does not depend on which process calls it.</details>
#
# **5. Can you add both `LRScaling` and `OneCycle` to a recipe? What about `Cyclic` and `OneCycle`?**
#
# <details><summary>Answer</summary>The first two, yes: their factors are multiplied. The other two, no:
# both set the momentum, so the recipe rejects the combination.</details>
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
