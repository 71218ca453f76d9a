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
# With large steps, training moves fast but does not settle. With small steps, it settles but moves slowly.
# A *cyclic* learning rate uses both: it rises so that training moves fast, and falls so that it settles.
# *One-cycle* does this once per run. The rate rises to a peak and falls to practically zero by the last
# step, while the momentum moves in the opposite direction.
#
# **In short: let the rate fall.** In our recorded study, which judges networks as they come out of training, a constant
# rate needs far more training for the same accuracy. (A part of this is only batch norm, as we show.) But if you already use a *cosine decay* after a short warm-up, one-cycle changes little: with the same
# peak, we could not tell the two apart.
#
# We take one-cycle apart to find out why. Short runs show what each part contributes: the higher rate, the fall, and the
# rise together with the momentum. A recorded study of longer runs compares one-cycle with such a cosine. We also show
# why a network trained at a high rate can look worse than it is.
#
# About 30 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/03_cyclic_lr.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/03_cyclic_lr.ipynb).
# The first cell installs the course if it is missing and prints your machine.

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
# The *budget* depends on the device. It sets the network, how many images it sees, and how often we repeat
# each run.

# %%
import copy
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean

from fasttricks import BASELINE, Cyclic, OneCycle, choose_budget, load, train
from fasttricks.course import gained, holds, one_line, plot, say, train_arms

budget, data = choose_budget(), load()

# %% [markdown]
# Here is the idea in one picture: three learning rate schedules for a run of 200 training steps. A
# *recipe* is our baseline plus the tricks that we add to it. It knows the rate of every step in advance.

# %%
import matplotlib.pyplot as plt

span = range(200)
recipes = {
    "constant": BASELINE,
    "triangles": BASELINE + Cyclic(high=10.0, half=25),
    "one-cycle": BASELINE + OneCycle(),
}
lines = {name: (span, [r.lr_at(step, 200) for step in span]) for name, r in recipes.items()}
plot(lines, "training step", "learning rate", "three schedules")
plt.ylim(top=0.0145)  # room for the legend
plt.show()

# %%
top = max(lines["one-cycle"][1])
say(
    f"The constant rate is {BASELINE.lr:g}. The other two schedules rise to {top:.2g}, which is "
    f"{top / BASELINE.lr:.0f} times as high. The triangles rise again and again. One-cycle rises once "
    f"and ends at practically zero."
)

# %% [markdown]
# **Triangles** came first, and **one-cycle** grew out of them. We build both, but train only with one-cycle.
#
# We compare runs in pairs. The two runs of a pair share a *seed*, which fixes the initial weights and the
# order of the images. We call a difference *clear*, and print it as *higher* or *lower*, if all n pairs agree on
# its sign and the mean is at least 1/√n percentage points. All others are *about the same*, or *undecided* if a
# pair differs by two points or more.
#
# ## Watch three schedules at work
#
# We train with the baseline's constant rate, with a constant rate ten times as high, and with one-cycle,
# whose peak is that higher rate. A recipe's name ends with its highest rate. The training loop is ordinary,
# except that it hands us the network and the loss after every step (`yield`). `set_rates` writes the rate and
# the momentum into the optimiser.

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
# We score each network twice:
#
# - **As trained**: we leave the network as it is. When we evaluate it, batch norm uses running averages of each
#   channel's mean and variance. A training step moves these averages only a tenth of the way to the values of
#   its batch (chapter 2). While the weights change fast, the averages lag behind.
# - **Refreshed**: we pass 2,000 training images through the network once more. Their mean and variance replace
#   the running averages. The weights stay as they are.
#
# If the refresh removes a difference, it was in the averages. A difference that remains is in the weights.

# %%
from torch.optim.swa_utils import update_bn


def score(net):
    return accuracy(net, here, here.val, BASELINE)


def refreshed(net):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), net)
    return score(net)


# %% [markdown]
# Each run sees half of the budget's images. `watch` trains a recipe and returns both scores after every
# quarter of the steps. It refreshes a copy of the network, so that training goes on undisturbed.

# %% tags=["fold"]
half = budget.images // 2
length = half // BASELINE.batch
marks = [length * quarter // 4 for quarter in (1, 2, 3, 4)]


def watch(recipe, seed):
    found = []
    for step, (net, _) in enumerate(training(recipe, length, seed), start=1):
        if step in marks:
            found.append([score(net), refreshed(copy.deepcopy(net))])
    return found


# %% [markdown]
# Now we train the three recipes with every seed. `paths` holds both scores at all four marks, and `stale` (as
# trained) and `fresh` (refreshed) those at the last step.

# %%
watched = {
    "constant 0.001": BASELINE,
    "constant 0.01": replace(BASELINE, lr=0.01),
    "one-cycle 0.01": BASELINE + OneCycle(peak=10),
}
seeds = range(budget.seeds)
paths = {
    name: torch.tensor([watch(recipe, seed) for seed in seeds]) for name, recipe in watched.items()
}
stale = {name: path[:, -1, 0].tolist() for name, path in paths.items()}
fresh = {name: path[:, -1, 1].tolist() for name, path in paths.items()}

# %%
say(
    f"A run has **{length} steps** of {BASELINE.batch} images, which is {half / len(data.train):.2f} epochs "
    f"of Fashion-MNIST. We judge the networks on {len(here.val):,} validation images, and train each recipe "
    f"with {budget.seeds} seed{'s' if budget.seeds > 1 else ''}."
)

# %% [markdown]
# Each column shows one recipe: its learning rate above, and its mean accuracy below. The gap between the two
# lines is the lag of the averages. It can be wide early in any run, because the averages start at a mean of 0
# and a variance of 1. At a high rate, the lag persists, and scores as trained can fluctuate.

# %% tags=["fold"]
_, panels = plt.subplots(2, 3, sharex=True, sharey="row", figsize=(9, 5), layout="constrained")
for (name, recipe), (above, below) in zip(watched.items(), panels.T, strict=True):
    above.plot(range(length), [recipe.lr_at(step, length) for step in range(length)], "k")
    above.set_title(name)
    as_trained, cured = paths[name].mean(0).T
    below.plot(marks, cured, "ks--", mfc="white", label="refreshed")
    below.plot(marks, as_trained, "ko-", label="as trained")
    below.set_xlabel("training step")
panels[0, 0].set_ylabel("learning rate")
panels[1, 0].set_ylabel(f"validation accuracy, n = {budget.seeds}")
panels[1, 2].legend()
plt.show()

# %%
moved = {each: 100 * (mean(fresh[each]) - mean(stale[each])) for each in fresh}
lead = gained(stale["one-cycle 0.01"], stale["constant 0.01"])
lead_fresh = gained(fresh["one-cycle 0.01"], fresh["constant 0.01"])
high, cycle = moved["constant 0.01"], moved["one-cycle 0.01"]
meaning = ""
if high > 1:
    meaning = " So a network trained at a high constant rate is **better than its score**."
if high > cycle + 1:
    meaning += " Part of what the fall seems to gain is only batch norm catching up."
say(
    f"At the last step, the refresh changes the accuracy by **{high:+.1f} points** with the constant rate of "
    f"0.01, by {moved['constant 0.001']:+.1f} with 0.001, and by {cycle:+.1f} with one-cycle, whose rate is "
    f"practically zero by then. Compared with the constant rate of 0.01, one-cycle is {lead} as trained, and "
    f"{lead_fresh} when both are refreshed.{meaning}"
)

# %% [markdown]
# ## How high may the rate go?
#
# The **range test** (Smith 2015) looks for the limit in one short run: start with a tiny rate, multiply it by
# the same number at each step, and record the loss. (This is fast.ai's version. Smith raised it by equal amounts
# and recorded the accuracy.)
#
# We write the test as a trick: a small frozen dataclass that names its *slot*, the place in the training loop
# that it fills. Before each step, the loop multiplies the recipe's rate by our trick's factor.


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
# We train a new network with these rates. The loss of one batch is noisy, so we average it with earlier
# losses, with less weight for older ones. This average *begins to climb* at the last rate at which it is less
# than a tenth above its lowest value.

# %%
losses = [loss for _, loss in training(rising, tested, seed=0)]
smooth, average = [], losses[0]
for loss in losses:
    average = 0.9 * average + 0.1 * loss
    smooth.append(average)

points = list(zip(rates, smooth, strict=True))
climbs = max(rate for rate, loss in points if loss < 1.1 * min(smooth))
plot({"": (rates, smooth)}, "learning rate", "loss, averaged", "range test", scale="log")
for rate, name in ((BASELINE.lr, "baseline"), (0.01, "peak"), (climbs, "begins to climb")):
    plt.axvline(rate, color="grey", linestyle="--")
    plt.text(rate, 1.9 * smooth[0], f" {name}", rotation=90, va="top")
plt.ylim(0, 2 * smooth[0])
plt.show()

# %%
where = "begins to climb at" if climbs < rates[-1] else "does not climb before the test ends at"
say(
    f"The loss {where} **{climbs:.2g}**, which is {climbs / BASELINE.lr:.0f} times the baseline's rate and "
    f"{climbs / 0.01:.0f} times the peak of 0.01."
)

# %% [markdown]
# That rate is a limit, not the peak to use. The test spends only a few steps near each rate, and averaging
# delays the curve.
#
# ## Write it
#
# **A triangle.** The rate rises for `half` steps and falls for `half` steps, over and over. Our function
# returns its height at a given step, from 0 to 1.


# %%
def height(step, half):
    _, position = divmod(step / half, 2)
    return 1 - abs(position - 1)


[height(step, 4) for step in range(10)]

# %% [markdown]
# **One cycle.** If we know when training will stop, one cycle is enough: a quick rise, then one long fall.
# Each follows half a cosine wave, as in fast.ai's version and torch's. (Smith and Topin used straight lines and
# a short third phase.)


# %%
def one_cycle(step, steps, first, middle, last, rise):
    turn, end = rise * steps - 1, steps - 1  # steps count from 0
    if step <= turn:
        begin, goal, share = first, middle, step / turn
    else:
        begin, goal, share = middle, last, (step - turn) / (end - turn)
    share = (1 - math.cos(math.pi * share)) / 2
    return begin + (goal - begin) * share


# %% [markdown]
# With the default settings of `OneCycle`, the rate starts at 1/25 of the peak, reaches the peak after a
# quarter of the run, and ends at 1/10,000 of its first value. The same function moves the momentum from
# 0.95 down to 0.85 and back.

# %%
clock = range(100)
factors = [one_cycle(step, 100, 0.4, 10.0, 0.4 / 1e4, 0.25) for step in clock]
momenta = [one_cycle(step, 100, 0.95, 0.85, 0.95, 0.25) for step in clock]
plot({"": (clock, momenta)}, "training step", "momentum (AdamW: beta1)")
plt.show()

# %%
say(
    f"The momentum reaches its lowest value, {min(momenta):g}, at step {momenta.index(min(momenta))}. At that "
    f"step, the rate is at its peak, {max(factors):g} times the constant rate."
)

# %% [markdown]
# **Why the opposite direction?** SGD with momentum m adds m times the previous step to the current one. If
# the gradient is always 1, a step grows to 1 + m + m² + … = 1 / (1 - m) times the learning rate: 20 times
# for m = 0.95, and 6.7 times for 0.85. So lr / (1 - m) is the *effective step*. Because of the lower momentum,
# this step grows less than the rate. Our baseline uses AdamW, which averages gradients instead of adding them,
# so this argument does not apply. There, the momentum (beta1) sets only how long old gradients are remembered.
# We change it because torch does so by default.
#
# ## Check it
#
# First, our functions must match those in the package. The last line checks the rate halfway through a run.

# %% tags=["nbval-check-output"]
from fasttricks.tricks import cyclic

same = [height(step, 7) == cyclic.height(step, 7, "triangular") for step in range(100)]
holds(all(same), "our triangles are the package's")
theirs = [cyclic.one_cycle(step, 100, 0.4, 10.0, 0.4 / 1e4, 0.25, "cos") for step in clock]
holds(factors == theirs, "our one-cycle is the package's")
share = one_cycle(500, 1000, 0.04, 1.0, 0.04 / 1e4, 0.25)
holds(abs(share - 0.75) < 0.01, "halfway, the rate is still at three quarters of its peak")

# %% [markdown]
# Second, we compare the package with torch, whose schedules are objects that modify an optimiser. We record the
# rate and the momentum before each of 100 steps.


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
# The package and torch must agree at every step, first for the triangles, then for one-cycle.

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
# In a plain PyTorch script, without this package, add the lines marked `+`. The numbers are those of our study of the
# seven tricks, tuned for all seven together and for very short runs. For one-cycle alone, begin with the defaults of
# this chapter instead, `OneCycleLR(optimizer, 10 * LR, steps, pct_start=0.25)`, and tune the peak:
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
# The complete script is [`examples/cyclic.py`](../examples/cyclic.py). `OneCycleLR` must know the number of
# steps in advance. Call its `step` once after every optimiser step. It ignores the optimiser's own rate: the
# peak that you pass is a learning rate, not a factor.
#
# (The usual alternative, a short warm-up and a cosine, is a
# `SequentialLR(optimizer, [LinearLR(optimizer, 0.1, total_iters=w), CosineAnnealingLR(optimizer, steps - w)], [w])`
# with `w = steps // 20`, all from `torch.optim.lr_scheduler`.)
#
# ## Which part does the work?
#
# If one-cycle beats the baseline, four questions arise:
#
# 1. **Refresh**: was the baseline only held back by lagging averages?
# 2. **Higher rate**: was the baseline's constant rate too low?
# 3. **Fall**: what does the fall add to the higher rate?
# 4. **Rise and momentum**: what do both together add to the fall?
#
# For the last two, we need a fall alone: the **cosine**. It starts at its highest rate, falls to zero along half
# a cosine wave, and keeps the baseline's momentum. In torch, it is `CosineAnnealingLR(optimizer, steps)`. We
# leave out the usual warm-up, because it would be a rise.


# %%
@dataclass(frozen=True)
class Cosine:
    slots = ("lr_factors",)

    def lr_factor(self, step, steps, batch):
        return (1 + math.cos(math.pi * step / steps)) / 2


recipes = {f"cosine {lr:g}": replace(BASELINE, lr=lr) + Cosine() for lr in (0.003, 0.01, 0.03)}
recipes["constant 0.003"] = replace(BASELINE, lr=0.003)
recipes["one-cycle 0.03"] = BASELINE + OneCycle(peak=30)

# %% [markdown]
# We train them like the three recipes above, and add their scores to `stale` and `fresh`. (The output calls a
# recipe an *arm*.)

# %% tags=["fold"]
runs = train_arms(recipes, data, images=half, evaluations=1)
for name, found in runs.items():
    stale[name] = [run.val_accuracy for run in found]
    fresh[name] = [refreshed(run.net) for run in found]

# %% [markdown]
# ### All four questions, at a rate of 0.01
#
# We go from the baseline as trained to one-cycle in four changes, one per question. From the first change on,
# all networks are refreshed. From the second on, the highest rate is 0.01 instead of 0.001.

# %%
stages = {
    "start": stale["constant 0.001"],
    "refresh": fresh["constant 0.001"],
    "higher rate": fresh["constant 0.01"],
    "fall": fresh["cosine 0.01"],
    "rise and momentum": fresh["one-cycle 0.01"],
}
levels = [100 * mean(found) for found in stages.values()]
ups = [after - before for before, after in pairwise(levels)]

# %% [markdown]
# Each bar goes from the mean before a change to the mean after it. The number below is the difference in points.
# Each dot is one seed. In another order, the bars would differ, because a refresh gains more where the averages
# lag more.

# %% tags=["fold"]
plt.figure(figsize=(7, 3.6), layout="constrained")
plt.bar(range(1, 5), ups, bottom=levels[:-1], color="lightgrey", edgecolor="black")
plt.hlines(levels[0], -0.4, 0.4, color="black")
for place, found in enumerate(stages.values()):
    plt.plot([place] * len(found), [100 * share for share in found], "k.")
labels = [f"{name}\n{up:+.1f}" for name, up in zip(list(stages)[1:], ups, strict=True)]
plt.xticks(range(5), ["start", *labels])
dots = [100 * dot for found in stages.values() for dot in found]
plt.ylim(min(dots) - 1, max(dots) + 1)
plt.ylabel("validation accuracy, %")
plt.show()

# %%
worth = {part: gained(stages[part], stages[origin]) for origin, part in pairwise(stages)}
gaining = [part for part in worth if "higher" in worth[part]]
losing = [part for part in worth if "lower" in worth[part]]
unclear = [part for part in worth if part not in gaining + losing]
say(
    f"From start to end, accuracy changes by {levels[-1] - levels[0]:+.1f} points. Clear gains: "
    f"**{', '.join(gaining) or 'none'}**. Clear losses: {', '.join(losing) or 'none'}. Not clear: "
    f"{', '.join(unclear) or 'none'}."
)
unrepaired = gained(stale["constant 0.01"], stale["constant 0.001"])
if "higher" in worth["higher rate"] and "higher" not in unrepaired:
    say(
        f"Without the refresh, we would have missed the gain from the higher rate. As trained, a constant "
        f"rate of 0.01 is {unrepaired} beside 0.001."
    )

# %% [markdown]
# ### Rate and fall again: the best rate for each
#
# Perhaps 0.01 is too high for a constant rate, and the fall merely makes up for this. So we ask the question in two ways. *What if
# I keep my starting rate and let it fall?* Then we must compare equal starting rates. *What if I choose the best
# rate for each schedule?* (On average, a cosine's rate is half its start, so its best start may be higher.)
#
# The figure shows the means of all recipes. Its refreshed constant rates show what a better rate gains without
# any fall. (`best` returns the name of a schedule's recipe with the highest mean.)

# %% tags=["fold"]
ways = {"constant, as trained": stale, "constant, refreshed": fresh}
ways |= {"cosine, refreshed": fresh, "one-cycle, refreshed": fresh}
lines = {}
for label, found in ways.items():
    shape = label.split(",")[0]
    tried = sorted((float(name.split()[1]), name) for name in found if name.startswith(shape))
    lines[label] = ([rate for rate, _ in tried], [mean(found[name]) for _, name in tried])
title = f"means, n = {budget.seeds}"
plot(lines, "highest rate", "validation accuracy", title, scale="log", marks=True)
plt.show()


def best(shape, found):
    names = [name for name in found if name.startswith(shape)]
    return max(names, key=lambda name: mean(found[name]))


# %%
tops = [best(shape, fresh) for shape in ("constant", "cosine", "one-cycle")]
say(
    "After the refresh, the best recipes of the three schedules are "
    + ", ".join(f"{top} ({mean(fresh[top]):.3f})" for top in tops)
    + f". As trained, the best constant rate is {best('constant', stale).split()[1]} "
    f"({mean(stale[best('constant', stale)]):.3f})."
)

# %% [markdown]
# Each entry of the table says how accurate a cosine is, compared with a constant rate. The "best" rate of each is the one with the
# highest mean in that column. Where a refreshed cosine is worse than the constant rate at which it starts, its
# steps probably became short too early.

# %% tags=["fold"]
import pandas as pd

answers = {
    "both from 0.003": [gained(f["cosine 0.003"], f["constant 0.003"]) for f in (stale, fresh)],
    "both from 0.01": [gained(f["cosine 0.01"], f["constant 0.01"]) for f in (stale, fresh)],
    "each at its best": [
        gained(f[best("cosine", f)], f[best("constant", f)]) for f in (stale, fresh)
    ],
}
pd.DataFrame(answers, index=["as trained", "refreshed"]).T

# %%
flat, fall = best("constant", fresh), best("cosine", fresh)
same_rate, own_rate = answers["both from 0.01"][1], answers["each at its best"][1]
if "higher" in own_rate:
    finding = "So the fall left **better weights** than the best constant rate"
elif "lower" in own_rate:
    finding = "So the fall left **worse weights** than the best constant rate"
elif "higher" in same_rate:
    finding = (
        "So the fall improves the weights if the rate is **too high to be kept until the end**. Its gain over "
        "a constant rate that is chosen just as carefully is **not clear**"
    )
else:
    finding = "So these runs show **no clear gain in the weights** from the fall"
outer = {"constant 0.001", "constant 0.01", "cosine 0.003", "cosine 0.03"} & {flat, fall}
edge = f" (At the edge of the rates that we tried: {', '.join(sorted(outer))}.)" if outer else ""
say(
    f"After the refresh, and **from the same rate**, the cosine is {same_rate} from 0.01, and "
    f"{answers['both from 0.003'][1]} from 0.003. With **the best rate for each** ({flat} and {fall}), it is "
    f"{own_rate}. {finding}.{edge}"
)

# %% [markdown]
# ### The rise and the momentum: one-cycle or a cosine?
#
# A rise spares a new network a high rate in its first steps (chapter 2), so it should help most at a high peak.
# It may do so and still not beat the best cosine. We compare the two at peaks of 0.01 and 0.03.

# %%
gentle = gained(fresh["one-cycle 0.01"], fresh["cosine 0.01"])
steep = gained(fresh["one-cycle 0.03"], fresh["cosine 0.03"])
if "higher" in steep and "higher" not in gentle:
    finding = "So the rise, together with the momentum, **helps only at the higher peak**"
    if mean(fresh["one-cycle 0.03"]) < mean(fresh["cosine 0.01"]):
        finding += ", where it makes up for a peak that is too high"
elif "higher" in gentle and "higher" not in steep:
    finding = "So the rise, together with the momentum, **helps only at the lower peak**"
elif "higher" in steep:
    finding = "So the rise, together with the momentum, **helps** here"
elif "lower" in steep or "lower" in gentle:
    finding = "So the rise, together with the momentum, **costs accuracy** here"
else:
    finding = "So these runs show **no clear gain** from the rise and the momentum"
say(
    f"After the refresh, and compared with the cosine, one-cycle is {gentle} at a peak of 0.01, and {steep} "
    f"at 0.03. {finding}."
)

# %% [markdown]
# All this holds for short runs of one small network. We chose and judged the best rates on the same
# validation images, so their scores are a little too high. In longer runs, the order may change.
#
# ## Longer runs: which schedule reaches the target first?
#
# For this chapter, we also recorded a study of longer runs. It trained each schedule at several fixed lengths,
# with five seeds, and asked how much training each one needs to reach the same validation accuracy. The networks
# were judged as trained. A curve through the accuracies tells how many images a schedule needs (chapter 0). All
# schedules are compared with the usual one: a rise over the first 5 % of the run, and then a cosine, with a peak of
# 0.01. A schedule costs nothing per image, so we use the same time per image for all. (95 % intervals are in brackets.
# "cannot tell" means that the interval includes 1.)

# %%
from fasttricks.course import compared, found_in, study_table
from fasttricks.study.findings import trusted

race = found_in("schedules")
lengths = sorted({int(row[0]) for rows in race.accuracies.values() for row in rows})
epochs = [f"{images / len(data.train):.1f}" for images in (lengths[0], lengths[-1])]
say(
    f"The runs are {lengths[0]:,} to {lengths[-1]:,} images long, which is {epochs[0]} to {epochs[1]} epochs."
)
study_table(race)

# %%
beside_usual = {row.arm: compared(row) for row in race.rows}
usual = race.reference
say(
    f"Recorded on {race.hardware}, to a validation accuracy of {race.target}, {race.seeds} seeds. Compared "
    f"with {usual}:\n\n"
    f"- **No fall.** A constant rate of 0.001 is {beside_usual['plain']}. A constant rate of 0.003 is "
    f"{beside_usual['constant 0.003']}, and one of 0.01 is {beside_usual['constant 0.01']}.\n"
    f"- **A fall, but no rise.** A cosine from 0.01 is {beside_usual['cosine 0.01']}.\n"
    f"- **A long rise.** One-cycle, which rises for a quarter of the run, but with constant momentum, is "
    f"{beside_usual['one-cycle 0.01 with constant momentum']}.\n"
    f"- **A long rise and the momentum.** One-cycle is {beside_usual['one-cycle 0.01']}.\n"
    f"- **A higher peak.** With a peak of 0.03, the usual schedule is "
    f"{beside_usual['warm-up and cosine 0.03']}. A cosine alone is {beside_usual['cosine 0.03']}, and one-cycle is "
    f"{beside_usual['one-cycle 0.03']}."
)

# %%
verdicts = {row.arm: row.verdict for row in race.rows}
flats = {verdicts[arm] for arm in ("plain", "constant 0.003", "constant 0.01")}
match = {
    "faster": "one-cycle is **clearly faster** than the usual schedule",
    "slower": "one-cycle is **clearly slower** than the usual schedule",
    "cannot tell": "we **cannot tell** one-cycle from the usual schedule",
}
same_peak = verdicts["one-cycle 0.01"]
central = " **As trained, the fall is what counts.**"
say(
    f"{'All' if flats == {'slower'} else 'Not all'} constant rates are clearly slower than the usual schedule. At the "
    f"same peak, {match[same_peak]}.{central if flats == {'slower'} and same_peak == 'cannot tell' else ''}"
)

# %%
bare, warmed = (row.ratio for row in race.of("cosine 0.03", "warm-up and cosine 0.03"))
if bare.high < warmed.low:
    say("At the higher peak, leaving out the warm-up clearly costs time.")
say(trusted("schedules"))

# %% [markdown]
# One caveat: after a refresh, the constant rates would look better, as our short runs show.
#
# ## Break it
#
# **A peak that is too high.** We also train one-cycle with peaks of 0.1, 0.3 and 1, with the same seeds and as many
# images as before. If the loss becomes NaN, we give the run the accuracy of guessing.

# %% tags=["fold"]
chance = 1 / len(data.classes)


def attempt(peak, seed):
    recipe = BASELINE + OneCycle(peak / BASELINE.lr)
    try:
        run = train(recipe, data, images=half, seed=seed, evaluations=1)
    except FloatingPointError:
        return chance
    return refreshed(run.net)


sweep = {peak: fresh[f"one-cycle {peak}"] for peak in (0.01, 0.03)}
with one_line() as tell:
    sweep |= {peak: [attempt(peak, seed) for seed in seeds] for peak in (0.1, 0.3, 1.0)}
    tell(f"{3 * len(seeds)} runs, three peaks")

title = f"one-cycle, refreshed; guessing would give {chance:g}"
lines = {f"seed {seed}": (list(sweep), [found[seed] for found in sweep.values()]) for seed in seeds}
plot(lines, "peak", "validation accuracy", title, scale="log", marks=True)
plt.axvline(climbs, color="grey", linestyle="--")
plt.text(climbs, chance, " loss begins to climb", rotation=90)
plt.ylim(0, 1)
plt.show()

# %%
harm = {peak: gained(sweep[peak], sweep[0.01], chance) for peak in list(sweep)[1:]}
harmful = [peak for peak in harm if "lower" in harm[peak]]
found = "None of these peaks did clear harm."
if harmful:
    side = "above" if harmful[0] > climbs else "below"
    found = (
        f"The lowest peak that clearly did harm, {harmful[0]:g}, lies **{side}** the rate at which the loss of "
        f"the range test began to climb."
    )
listed = "\n".join(f"- at {peak:g}: {told}" for peak, told in harm.items())
say(f"Compared with a peak of 0.01, accuracy is:\n\n{listed}\n\n{found}")

# %% [markdown]
# **Stopping too early.** One-cycle must know the length of the run in advance. If we have to stop halfway, the
# rate is still at three quarters of its peak. Then the averages lag, and the rest of the fall never comes.
#
# What has the stopped run missed? We compare it with a one-cycle that was *planned* for half the steps, and with the
# two constant rates at that step.

# %%
planned = train_arms(
    {"planned": BASELINE + OneCycle(peak=10)}, data, images=half // 2, evaluations=1
)
others = {
    "one-cycle planned for half the steps": [
        [run.val_accuracy for run in planned["planned"]],
        [refreshed(run.net) for run in planned["planned"]],
    ]
}
middle = {name: path[:, 1].T.tolist() for name, path in paths.items()}  # as trained, refreshed
others |= {name: middle[name] for name in ("constant 0.001", "constant 0.01")}
cut = {
    f"beside {name}": [
        gained(own, other) for own, other in zip(middle["one-cycle 0.01"], found, strict=True)
    ]
    for name, found in others.items()
}
pd.DataFrame(cut, index=["as trained", "refreshed"]).T

# %%
at_once, cured_later = next(iter(cut.values()))
if "lower" in at_once and "lower" not in cured_later:
    stopped = "Yes as trained, but not clearly when both are refreshed"
elif "lower" in at_once:
    stopped = "Yes, even when both are refreshed"
elif "lower" in cured_later:
    stopped = "Yes, but only when both are refreshed"
else:
    stopped = "Not clearly"
lag = gained(middle["one-cycle 0.01"][1], middle["one-cycle 0.01"][0])
say(
    f"Does one-cycle fail if it is stopped halfway? Compared with a planned one: **{stopped}**. (Refreshed, it is "
    f"{cured_later}.) Compared with its own "
    f"score as trained, the stopped network is {lag} when refreshed"
    + (", so its averages do lag behind while the rate is high." if "higher" in lag else ".")
)

# %% [markdown]
# ## What we have found
#
# **Is one-cycle any better?** Here is what the study of schedules, above, says. ("2 times as fast" means half the time.)

# %% tags=["fold"]
say(
    f"Compared with {usual}, one-cycle with the same peak is **{beside_usual['one-cycle 0.01']}**, and a constant rate "
    f"of 0.001 is **{beside_usual['plain']}**."
)

# %% [markdown]
# The course's main study, of all seven tricks, compares one-cycle with a constant rate only, as trained. Its peak is 0.03,
# as in the script above. The constant rate was tuned for plain training at such lengths, but not again for the other six
# tricks, which may flatter one-cycle. Neither study judges
# refreshed networks.

# %%
from IPython.display import Markdown

from fasttricks.course import headline

say(headline("cyclic"))
Markdown(cyclic.__doc__)

# %% [markdown]
# The table is the trick's *card*, copied from the top of its file. The loop multiplies the rate factors of
# several tricks, but only one trick may set the momentum. *Skipped steps* occur with mixed precision (chapter
# 7). Here is what our own runs say about the card's claims.

# %%
plain = gained(stale["one-cycle 0.01"], stale["constant 0.001"])
fair = gained(fresh[best("one-cycle", fresh)], fresh[flat])
say(
    f"- *Cost: none.* A schedule changes two numbers per step. We have not timed it.\n"
    f"- *Pays when the length of the run is known.* As trained, and compared with the baseline, one-cycle is "
    f"**{plain}**. At its best peak, and compared with the best constant rate, it is **{fair}** when both are "
    f"refreshed.\n"
    f"- *Fails when the peak is too high.* "
    f"{f'Yes, from a peak of {harmful[0]:g} on.' if harmful else 'No peak up to 1 did clear harm.'}\n"
    f"- *Fails when the run is stopped before its end.* {stopped} (judged halfway, beside a planned one)."
)

# %% [markdown]
# **Why can the studies and our short runs differ?**
#
# - **Points and time.** We compare accuracies at one length, and a study compares times to one accuracy. Near
#   its target, plain training gains accuracy slowly, so one point more can save many images.
# - **Averages.** A study's gain includes what a refresh alone would have given to a constant rate.
# - **Length.** The baseline's rate can be too low for a short run, so a higher constant rate gains as well. In
#   a long run, the weights may have time to reach a minimum and jump around it, so a fall may gain more.
#
# We cannot say how much each explains without long runs that are refreshed. For runs like those of the study, we
# recommend a rate that falls to practically zero.
#
# ### A recipe
#
# This recipe is for a network that starts from random weights. Without batch norm, there is nothing to refresh.
#
# 1. **Run the range test** for your network, data, and batch size.
# 2. **Use one-cycle**, or a short warm-up and a cosine. As a first guess, set the peak to 1/30 of the rate at which the loss begins
#    to climb. This is only our rule of thumb, so compare it with 1/10 and 1/100.
# 3. **Refresh batch norm** before you evaluate or save, above all after a high rate.
# 4. **If you do not know the length of the run**, keep a constant rate, the best of three or four, and refresh
#    whenever you evaluate. Let the rate fall once you decide to stop (Hägele et al. 2024, arXiv 2405.18392). If a
#    one-cycle is cut off, refresh it, too.
#
# In code, where `batches` yields about 2,000 training images, normalised as in training:
#
# ```python
# peak = climbs / 30  # then compare climbs / 10 and climbs / 100
# schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.25)
# ...  # the training loop, as in "In your own loop"
# torch.optim.swa_utils.update_bn(batches, net)
# ```

# %%
advice, chosen = climbs / 30, float(fall.split()[1])
near = "close to" if 0.5 < advice / chosen < 2 else "not close to"
say(
    f"In our runs, 1/30 of the rate at which the loss begins to climb is {advice:.2g}. That is {near} "
    f"{chosen:g}, the best of the three starting rates of a cosine that we tried. (One network and three rates do not "
    f"confirm a rule.) After the refresh, and compared with a "
    f"cosine from 0.01, one from 0.03 is "
    f"{gained(fresh['cosine 0.03'], fresh['cosine 0.01'])}, and one from 0.003 is "
    f"{gained(fresh['cosine 0.003'], fresh['cosine 0.01'])}."
)

# %% [markdown]
# ## Questions
#
# **1. Why can a falling rate raise the accuracy within a few steps?**

# %%
say(
    "<details><summary>Answer</summary>There are two reasons. First, when the weights slow down, batch norm's "
    "running averages catch up with them. Second, small steps let the weights settle. A refresh does only the "
    "first, so a gain that remains after it is in the weights. In our runs, a cosine from 0.01, compared with "
    f"a constant rate of 0.01, was {answers['both from 0.01'][0]} as trained and {same_rate} refreshed. That "
    f"is the fall at an equal starting rate. With the best rate for each, the cosine was "
    f"{answers['each at its best'][0]} as trained and {own_rate} refreshed.</details>"
)

# %% [markdown]
# **2. What does the range test not tell you?**
#
# <details><summary>Answer</summary>Whether a rate stays harmless over a long run. The test spends only a few
# steps near each rate, early in training.</details>
#
# **3. The rate is 0.1, and you raise SGD's momentum from 0.9 to 0.95. Which rate keeps the effective step the
# same?**
#
# <details><summary>Answer</summary>0.05. The effective step is lr / (1 - m). It was 0.1 / 0.1 = 1, and
# 0.05 / 0.05 is 1 again.</details>
#
# **4. Your run was interrupted at step 500 of 1,000. You load the weights and the optimiser, build a new
# `OneCycleLR` for 1,000 steps, and train for the other 500. What goes wrong?**
#
# <details><summary>Answer</summary>The new schedule begins at step 0. It rises to the peak again, and the
# run ends at step 500 of the schedule, with the rate at three quarters of its peak. A refresh repairs the
# averages, but the weights have not settled as planned. Save `schedule.state_dict()` in the checkpoint, and load it together with
# the rest.</details>
#
# **5. You replace a constant rate with one-cycle and gain two points. Which other runs do you need before
# you can say that the cycle brought the gain?**
#
# <details><summary>Answer</summary>Runs with higher constant rates, and runs with a fall but no rise, all
# refreshed, with the same seeds and images. Otherwise, the old rate may have been too low, its averages may have
# lagged, or the fall alone may have brought the gain.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. A wrong answer gets a hint.
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
# `factor` times the lowest loss *before it*, or the number of losses if there is no such step.


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
# - Loshchilov & Hutter 2016, [arXiv 1608.03983](https://arxiv.org/abs/1608.03983): the cosine, with restarts.
# - Smith & Topin 2017, [arXiv 1708.07120](https://arxiv.org/abs/1708.07120): one-cycle, and
#   super-convergence, which our short runs cannot test.
# - Smith 2018, [arXiv 1803.09820](https://arxiv.org/abs/1803.09820): how to choose rate, batch, momentum
#   and weight decay together.
