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
# A larger batch keeps a device busier, but it leaves fewer steps. If the steps stay as long as before,
# the network does not get far. This chapter shows how much longer the steps should be, why the first ones
# should be short, and where the rule stops working.
#
# About 15 minutes to read, and two to run.

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
# The budget depends on the device. It sets which network we train, on how many images, and how many
# times. Most runs in this chapter use half of these images.

# %%
from fasttricks import BASELINE, LRScaling, choose_budget, load, train
from fasttricks.course import train_arms

budget = choose_budget()
data = load()
here = data.to(BASELINE.world.device(), budget.image_size)
half = budget.images // 2
budget

# %% [markdown]
# First, we print what our recorded study found about this trick: the seconds of training until a fixed
# validation accuracy, without the trick and with it, and then for all seven tricks and for the other six.
# Each ratio belongs to the run named just before it: above 1, that run gets there sooner. Below it is the
# trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import scaling

print(headline("scaling"))
Markdown(scaling.__doc__)

# %% [markdown]
# ## The hurt: a larger batch falls behind
#
# The rule was found for SGD with momentum, so we start with that optimiser (it needs a weaker weight
# decay than our AdamW baseline). We keep the rate and the number of images fixed and change only the
# batch.

# %%
from dataclasses import replace

SGD = replace(BASELINE, optimizer="sgd", lr=0.025, batch=64, weight_decay=5e-4)
same = {}
for batch in (64, 256, 1024):
    recipe = replace(SGD, batch=batch)
    same[batch] = train(recipe, data, images=half, label=f"batch {batch}, same rate")

# %% [markdown]
# How far did each run get with the same number of images?

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, holds, plot

curves = {
    f"batch {batch}": ([p[0] for p in run.curve], [p[2] for p in run.curve])
    for batch, run in same.items()
}
plot(curves, "images seen", "validation accuracy", "SGD, the same rate", marks=True)
plt.show()

# %% [markdown]
# The larger the batch, the later its curve rises and the lower it ends. The curve of the largest batch
# may not rise at all. The learning rate alone would not explain such a bad result, so before we blame it,
# we look for a second cause.
#
# The second cause is batch norm. During validation, it uses a *running* mean and variance, and each
# training step moves these a tenth of the way to the current batch's values. A run with few steps is
# therefore judged with numbers that still come partly from the untrained network. How large is that part?

# %%
for batch, run in same.items():
    print(f"batch {batch:5}: {run.steps:4} steps, {0.9**run.steps:.3f} of the starting value left")

# %% [markdown]
# torch's own layer confirms this. Its running variance starts at 1, and we feed it constant images, whose
# variance is 0.

# %% tags=["nbval-check-output"]
import torch

norm = torch.nn.BatchNorm2d(1)
for _ in range(12):
    norm(torch.zeros(8, 1, 4, 4))
left = norm.running_var.item()
holds(abs(left - 0.9**12) < 1e-4, "after n steps, 0.9 ** n of the first variance is left")

# %% [markdown]
# So we refresh these numbers before we judge a network, with forward passes over 2,000 training images
# that need no labels or gradients. torch has a function for this. From here on, we measure our figures
# and tables this way. Only the line that each run prints at its end still uses the numbers from training.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.course import probabilities


def score(net):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), net)
    guess = probabilities(net, here, here.val).argmax(1)
    return (guess == here.val.y).float().mean().item()


# %% [markdown]
# Before and after:

# %%
stale = [run.val_accuracy for run in same.values()]
fresh = {batch: score(run.net) for batch, run in same.items()}
places = range(len(same))
lines = {"as trained": (places, stale), "refreshed": (places, list(fresh.values()))}
plot(lines, "batch", "validation accuracy", "SGD, the same rate", marks=True)
plt.xticks(places, list(same))
plt.show()

# %% [markdown]
# The gap between the lines came only from outdated batch-norm numbers. (Even the small batch may gain a
# little, because its running mean covers about ten batches, and 2,000 images give a steadier mean.) What
# the upper line still loses towards the right is the real damage: too few steps, each as short as before.

# %% tags=["nbval-check-output"]
holds(fresh[1024] < fresh[64], "at the same rate the batch of 1,024 is behind that of 64")

# %% [markdown]
# ## By hand: ten small steps or one large
#
# Take ten images and one weight. Suppose that each image pulls on the weight by a fixed amount, wherever
# the weight is. Ten steps at a rate of 0.1 add up the pulls; one step takes their mean at ten times the
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
# That is the whole linear rule: k times the batch needs k times the rate, because a sum is k times a
# mean. The rule rests on one assumption: the slope does not change on the way. In a valley, it does
# change. Take the loss w² / 2, whose slope is w itself, and start at 1. Each small step multiplies w by 1
# - lr; the one large step multiplies it by 1 - k · lr.

# %%
ks = list(range(1, 46))
small = [(1 - 0.05) ** k for k in ks]
large = [1 - 0.05 * k for k in ks]
lines = {"k steps of 0.05": (ks, small), "one step of k · 0.05": (ks, large)}
plot(lines, "k", "position (lowest point at 0)", "a valley")
plt.show()

# %% [markdown]
# On the left, the lines touch, so the rule works well there. Further right, the large step goes too far.
# Where its line is below zero, the step has crossed the valley, and below -1 it ends farther away than it
# began.

# %% tags=["nbval-check-output"]
holds(abs(small[1] - large[1]) < 0.01, "for small k · lr the two nearly agree")
holds(all(x < 0 for k, x in zip(ks, large, strict=True) if k > 20), "past k · lr = 1 it overshoots")
holds(abs(large[-1]) > 1, "past k · lr = 2 it ends farther away than it began")

# %% [markdown]
# How long a step can be depends on how sharply the loss curves, and an untrained network often starts
# where it curves most. A toy loss that behaves this way is w⁴ / 4, with slope w³: it is steep far away
# and flat near the lowest point. We walk down from 2 at a rate of 0.6.


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
# called **warm-up**.

# %%
rising = [0.06 + 0.54 * step / 5 for step in range(5)]
warmed = walk([*rising, 0.6, 0.6])
[round(w, 2) for w in warmed]

# %% tags=["nbval-check-output"]
holds(abs(at_once[-1]) > 1e6, "at the full rate from the start, the walk explodes")
holds(0 < warmed[-1] < 0.5, "with a ramp to the same rate, it settles")

# %% [markdown]
# ### Why Adam wants the square root
#
# Adam divides every step by the typical size of the gradient. In a small batch, most of that size is
# noise, which comes from the random choice of images. The mean over k times as many images has √k times
# less noise, so Adam divides by a smaller number, and its steps towards the goal grow by a factor of √k
# *with no change of the rate*. We only need to add the other √k.
#
# We can see this in torch's Adam, with 2,000 weights, a weak common pull, and strong noise.


# %%
def travel(batch, lr, steps):
    chance = torch.Generator().manual_seed(0)
    w = torch.zeros(2000, requires_grad=True)
    adam = torch.optim.Adam([w], lr)
    for _ in range(steps):
        w.grad = 0.02 + torch.randn(2000, generator=chance) / batch**0.5
        adam.step()
    return -w.mean().item()


# %% [markdown]
# First, we take 1,600 steps with batch 1. Then we take 100 steps with batch 16, on the same number of
# images, under three rules. We print how far each run gets as a multiple of the first.

# %%
far = travel(1, 1e-3, 1600)
ratio = {f"rate times {by}": travel(16, by * 1e-3, 100) / far for by in (1, 4, 16)}
{name: round(found, 2) for name, found in ratio.items()}

# %% tags=["nbval-check-output"]
holds(abs(ratio["rate times 4"] - 1) < 0.2, "Adam, 16 times the batch: 4 times the rate fits")
holds(ratio["rate times 16"] > 3, "the linear rule takes it several times too far")

# %% [markdown]
# Remember the condition: the noise must outweigh the pull. We may see a case below where it does not.
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
# We multiply the rate by their product. Here is this factor for a run of 100 steps, with a ramp over the
# first fifth.

# %%
steps = list(range(100))
factors = {
    f"batch {batch}, {rule}": [scale(batch, 64, rule) * warm_up(step, 20, 0.1) for step in steps]
    for batch, rule in ((256, "linear"), (256, "sqrt"), (1024, "sqrt"))
}
plot({name: (steps, f) for name, f in factors.items()}, "step", "factor on the rate")
plt.show()

# %% [markdown]
# All ramps end at step 20. The linear rule raises the rate as far for a batch of 256 as the square root
# does for 1,024, so the two lines coincide.
#
# ## Check it
#
# First, our functions match the package's for every rule and step.

# %% tags=["nbval-check-output"]
rules = [(b, r) for b in (32, 64, 256, 1024) for r in ("linear", "sqrt")]
equal = all(scale(b, 64, r) == scaling.scale(b, 64, r) for b, r in rules)
holds(equal, "our scale is the package's")
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
# Third, we check a law. torch's scheduler counts its own calls, and some libraries have called it once
# per process. Our rate is a pure function of the step. It uses the *global* batch, which all processes
# share, but not the number of processes.

# %% tags=["nbval-check-output"]
from fasttricks import Distributed

scaled = BASELINE + LRScaling(256, 64, "sqrt", warmup=20)
alone = [scaled.lr_at(step, 100) for step in steps]
for processes in (2, 4):
    shared = scaled + Distributed(processes)
    curve = [shared.lr_at(step, 100) for step in reversed(steps)]
    holds(curve[::-1] == alone, f"{processes} processes, read backwards: the same curve as one")

# %% [markdown]
# ## In your own loop
#
# You do not need this package to use the trick. In a plain PyTorch script, it takes only these lines:
# remove those marked `-` and add those marked `+`.
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
# The complete script is [`examples/scaling.py`](../examples/scaling.py). The optimiser is AdamW, so the
# rate grows with the square root of the batch. With SGD, leave out `** 0.5`.
#
# ## Use it
#
# Now we return to SGD. We run the larger batches again at k times the rate, with a ramp over the first
# fifth of the steps.

# %%
linear = {64: same[64]}
for batch in (256, 1024):
    recipe = SGD + LRScaling(batch, 64, "linear", warmup=0.2)
    linear[batch] = train(recipe, data, images=half, label=f"batch {batch}, linear")

# %% [markdown]
# Each point is one run, measured with refreshed batch norm.

# %%
caught = {batch: score(run.net) for batch, run in linear.items()}
lines = {
    "same rate": (places, list(fresh.values())),
    "k times the rate": (places, list(caught.values())),
}
plot(lines, "batch", "validation accuracy", "SGD, one seed each", marks=True)
plt.xticks(places, list(same))
plt.show()

# %% [markdown]
# The gap between the lines is what scaling recovers. At 256, it should be most of the lost accuracy. At
# 1,024, the upper line may still come down; we will see why below.
#
# Goyal et al. 2017 (arXiv 1706.02677) used this rule to train ResNet-50 on ImageNet with a batch of 8,192
# in one hour, and reached the accuracy of the small batch. Their ramp alone took five epochs, which is
# longer than our whole run.
#
# Now we scale our baseline, which uses AdamW. We train with four times its batch, under both rules, with
# several seeds. `train_arms` alternates between the arms.

# %%
small, big = BASELINE.batch, 4 * BASELINE.batch
recipes = {
    f"batch {small}": BASELINE,
    f"{big}, sqrt": BASELINE + LRScaling(big, small, "sqrt"),
    f"{big}, linear": BASELINE + LRScaling(big, small, "linear"),
}
trained = train_arms(recipes, data, images=half)
arms = {
    name: [replace(run, val_accuracy=score(run.net)) for run in runs]
    for name, runs in trained.items()
}
accuracy_table(arms)

# %% [markdown]
# Read *lowest and highest gain* first. Where a range lies below zero, the larger batch is still behind
# for the same number of images. If the linear rule is ahead of the square root here, this is not a
# contradiction. The likely reason is the condition on noise: in such a short run, the network is still
# far from its goal, all images pull in much the same direction, and Adam has little noise to divide by.
# The square root is the rule for the long middle part of training.
#
# So a larger batch gains nothing for the same number of images. What it can save is time. Here are the
# images per second of all runs so far, not counting evaluation:

# %%
runs = [*same.values(), *linear.values(), *(run for arm in arms.values() for run in arm)]
speeds = {batch: [] for batch in sorted({run.recipe.global_batch for run in runs})}
for run in runs:
    speeds[run.recipe.global_batch].append(run.images_per_second)
middle = [sorted(found)[len(found) // 2] for found in speeds.values()]
plot({"": (range(len(speeds)), middle)}, "batch", "images a second, median", marks=True)
plt.xticks(range(len(speeds)), list(speeds))
plt.show()

# %% [markdown]
# Where this line is flat or falls, the device is full, and an even larger batch saves nothing. A GPU has
# thousands of lanes to fill, and several GPUs split one batch between them. A CPU fills up quickly.

# %% [markdown]
# ## Break it
#
# First, we leave out the ramp. For 64 times the batch, the linear rule requires 64 times the rate. Such a
# batch would leave too few steps to look at, so we use its rate with a batch of 256. To see what each
# step does, we record the loss of every batch before the step.

# %%
import math

from fasttricks.loop import cross_entropy, set_rates
from fasttricks.models import begin, optimizer_for


def watch(recipe, seed, steps):
    torch.manual_seed(seed)
    net = begin(recipe, budget.model, data.channels, len(data.classes), budget.image_size).to(
        here.train.y.device
    )
    optimizer, losses = optimizer_for(recipe, net), []
    draws = here.draws(recipe.global_batch, torch.Generator().manual_seed(seed))
    for step in range(steps):
        x, q = here.batch(*next(draws))
        set_rates(optimizer, recipe.lr_at(step, steps), recipe.momentum)
        loss = cross_entropy(net(x), q)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, net


# %% [markdown]
# We run two seeds with a ramp over the first three tenths of the run, and two without a ramp. A blind
# guess among ten classes has a loss of log 10, which the grey line shows.

# %%
high = replace(SGD, lr=64 * SGD.lr)
ways = {"no ramp": 0, "ramp": 0.3}
curves, ends = {}, {}
for name, warmup in ways.items():
    for seed in (0, 1):
        recipe = high + LRScaling(256, 256, warmup=warmup, start=0.01)
        losses, net = watch(recipe, seed, budget.images // 256)
        curves[f"{name}, seed {seed}"] = range(len(losses)), losses
        ends[f"{name}, seed {seed}"] = round(score(net), 3)
plot(curves, "optimiser step", "loss of the batch", f"SGD at a rate of {high.lr:g}")
plt.axhline(math.log(10), color="grey", lw=0.8)
plt.show()
ends

# %% [markdown]
# Look at the first steps. All four runs begin near the grey line, because they have learned nothing yet.
# Where a line without a ramp jumps *up* from there, it behaves like the toy, which was thrown to a
# steeper place. Then look at where the lines end, and at the refreshed validation accuracies below the
# figure. The two runs with the same seed have the same initial weights, the same images and, in the end,
# the same rate; they differ only in how they began. Where the ends are close or reversed, the rate was
# not beyond your network's limit, or the run was too short for both. Batch norm rescales whatever it
# receives, which makes such rates less harmful; a network without it may well end in `nan`.
#
# Second, we look at where linear scaling ends. For each linear run, we print the number of steps and the
# sum of their rates.

# %%
for batch, run in linear.items():
    spent = sum(run.recipe.lr_at(step, run.steps) for step in range(run.steps))
    print(f"batch {batch:5}: {run.steps:4} steps, their rates add up to {spent:.2f}")

# %% [markdown]
# Apart from the ramp and a remainder, the rule spreads the same sum of rates over fewer and fewer steps.
# These steps achieve as much only while the slope stays the same over k small steps. With so few steps in
# total, it does not: the network has no time to change direction. In that case, use more images or a
# smaller batch, not a higher rate.
#
# ## Questions
#
# **1. Why does replacing k small steps require k times the rate, and not k times the gradient?**
#
# <details><summary>Answer</summary>The loss is a mean over the batch, so the gradient of a large batch is
# no larger than that of a small one. Only the rate can make up for the lost steps.</details>
#
# **2. Four processes with 64 images each: which batch goes into the rule?**
#
# <details><summary>Answer</summary>256, the global batch. DDP averages the gradients, so the four together
# take one step.</details>
#
# **3. Where does the linear rule break on a curved loss?**
#
# <details><summary>Answer</summary>Where the slope changes within k small steps, that is, when k · lr
# times the curvature is no longer small. Above 2, the step diverges.</details>
#
# **4. Why does Adam need only √k?**
#
# <details><summary>Answer</summary>Its divisor is mostly noise, which shrinks by a factor of √k in the
# larger batch, so its steps already grow by √k.</details>
#
# **5. After 12 large steps, your run's validation accuracy is no better than guessing. What do you check
# first?**
#
# <details><summary>Answer</summary>Whether batch norm's running mean and variance have caught up; refresh
# them and validate again.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. A wrong answer gets a hint.
#
# **Exercise 1.** Return the new rate. `batch` is the batch of one process. Scale linearly for SGD and by
# the square root for AdamW.


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
