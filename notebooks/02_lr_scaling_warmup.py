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
# Here is the idea in one picture. On a steady slope, four small batches take four steps. One batch of the
# same images takes one step, so its step has to be four times as long.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import plot

plot(
    {
        "batch 64": ([0, 64, 128, 192, 256], [0, 1, 2, 3, 4]),
        "batch 256, same rate": ([0, 256], [0, 1]),
        "batch 256, 4 times the rate": ([0, 256], [0, 4]),
    },
    "images seen",
    "way travelled, in small steps",
    marks=True,
)
plt.show()

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
# First, here is what our recorded study found about this trick. A ratio above 1 means that the second of
# the two times is the shorter. Below it is the trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline, say
from fasttricks.tricks import scaling

say(headline("scaling"))
Markdown(scaling.__doc__)

# %% [markdown]
# Do not expect much from that setting: the study chose a batch of 160 instead of 128, which is only 1.25
# times as large, because two cores are full at that size. The trick matters where a device, or many of
# them, can take a much larger batch. In this chapter, we go up to 16 times.
#
# ## The problem: a larger batch falls behind
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
from fasttricks.course import accuracy_table, gained, holds

curves = {
    f"batch {batch}": ([p[0] for p in run.curve], [p[2] for p in run.curve])
    for batch, run in same.items()
}
plot(curves, "images seen", "validation accuracy", "SGD, the same rate", marks=True)
plt.show()

# %%
guess = 1 / len(data.classes)
ends = {batch: run.val_accuracy for batch, run in same.items()}
say(
    f"After {same[64].images_seen / len(data.train):.2f} epochs, the batch of 64 is at {ends[64]:.3f}, that "
    f"of 256 at {ends[256]:.3f}, and that of 1,024 at **{ends[1024]:.3f}**"
    + (", which is no better than guessing." if ends[1024] < 1.5 * guess else ".")
)

# %% [markdown]
# The learning rate alone would not explain such a gap, so before we blame it, we look for a second cause.
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
# that need no labels or gradients. torch has a function for this.

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

# %%
cured = 100 * (fresh[1024] - ends[1024])
behind = 100 * (fresh[64] - fresh[1024])
say(
    f"Refreshing batch norm moves the batch of 1,024 from {ends[1024]:.3f} to **{fresh[1024]:.3f}**, by "
    f"{cured:+.1f} points, without any training. What remains is the real damage: it is "
    f"**{behind:.1f} points** behind the batch of 64 ({fresh[64]:.3f})."
)

# %% [markdown]
# The gap between the lines came only from outdated batch-norm numbers. (Even the small batch may gain a
# little, because its running mean covers about ten batches, and 2,000 images give a steadier mean.) What
# the upper line still loses towards the right comes from too few steps, each as short as before.
#
# From here on, every accuracy that we show is a refreshed one. `train` would print one that is not, so we
# hide its lines.

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
# The limit of 2 belongs to plain gradient descent. Momentum moves it, as torch's own SGD shows on the
# same valley.


# %%
def comes_closer(rate, **options):
    w = torch.ones((), requires_grad=True)
    sgd = torch.optim.SGD([w], rate, **options)
    for _ in range(100):
        w.grad = w.detach().clone()  # the slope of w² / 2
        sgd.step()
    return abs(w.item()) < 1


# %% tags=["nbval-check-output"]
heavy, nesterov = {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}
holds(comes_closer(1.9) and not comes_closer(2.1), "no momentum: up to 2")
holds(comes_closer(3.7, **heavy) and not comes_closer(3.9, **heavy), "momentum 0.9: up to 3.8")
good = comes_closer(1.3, **nesterov) and not comes_closer(1.4, **nesterov)
holds(good, "Nesterov's momentum 0.9, as in our SGD: up to 1.36")

# %% [markdown]
# ### Why the first steps should be short
#
# How long a step can be depends on how sharply the loss curves. In a network, this *sharpness* is not
# fixed. At a constant rate it often *rises* during training, until the rate is just about the longest
# that it allows (Cohen et al. 2021, [arXiv 2103.00065](https://arxiv.org/abs/2103.00065), who used the
# whole data set as one batch). A network that begins at a high rate has no time to find a place where
# that rate is allowed.
#
# Here is a toy loss that begins at such a place: w⁴ / 4, with slope w³. It is steep far away and flat near
# the lowest point. We walk down from 2 at a rate of 0.6.


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
# Gilmer et al. 2021 ([arXiv 2110.04369](https://arxiv.org/abs/2110.04369)) find this in real networks:
# with a ramp, training moves to flatter places, which tolerate the full rate. A ramp cannot help where
# there is no such place: then the full rate is simply too high.
#
# **Adam has a reason of its own.** It divides each step by the typical size of the gradient, and at the
# beginning it knows this size from very few steps (Liu et al. 2019, [arXiv
# 1908.03265](https://arxiv.org/abs/1908.03265)). At the very first step, it divides a gradient by its own
# size. So every weight moves by the full rate, even if its gradient is pure noise. We give torch's Adam
# nothing but noise, and look at how far 2,000 weights move in each step.

# %%
chance = torch.Generator().manual_seed(0)
w = torch.zeros(2000, requires_grad=True)
adam = torch.optim.Adam([w], lr=1.0)
lengths = []
for _ in range(60):
    before = w.detach().clone()
    w.grad = torch.randn(2000, generator=chance)
    adam.step()
    lengths.append((w.detach() - before).square().mean().sqrt().item())
plot({"": (range(1, 61), lengths)}, "step", "typical move, in rates", "Adam on pure noise")
plt.ylim(0)
plt.show()

# %%
later = sum(lengths[-20:]) / 20
say(
    f"The first step moves the weights by {lengths[0]:.2f} rates, later ones by about {later:.2f}. So on "
    f"noise, Adam's **first step is {lengths[0] / later:.1f} times as long** as the later ones, in which "
    f"noise has partly cancelled."
)

# %% [markdown]
# Without a ramp, Adam's longest steps come first, when it knows least.
#
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
# Malladi et al. 2022 ([arXiv 2205.10287](https://arxiv.org/abs/2205.10287)) derive the rule rigorously, and
# their rule has more parts: for k times the batch, they also replace 1 - beta by k (1 - beta), for both
# betas, and divide Adam's epsilon by √k. Our package scales only the rate, as most scripts do.
#
# The card names another paper for the square root: Krizhevsky 2014 ([arXiv
# 1404.5997](https://arxiv.org/abs/1404.5997)). He derived it for *SGD*, by keeping the variance of a step
# the same, but found that k itself worked better, and could not explain why. So for SGD we follow his
# practice, not his theory.
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
# Now we return to SGD. We run the larger batches again at k times the rate. `LRScaling` takes the batch,
# the reference, and the rule. Its `warmup` says how long the ramp is: below 1, it is a share of the run;
# from 1 on, it is a number of steps. Here it is a fifth of the steps. Its `start` says where the ramp
# begins: at a tenth of the full rate, unless we say otherwise.

# %%
from fasttricks.course import one_line

linear = {}
with one_line():
    for batch in (256, 1024):
        recipe = SGD + LRScaling(batch, 64, "linear", warmup=0.2)
        linear[batch] = train(recipe, data, images=half)

# %% [markdown]
# Each point is one run, measured with refreshed batch norm. The batch of 64 is the reference, so both
# lines begin at the same run.

# %%
caught = {64: fresh[64], **{batch: score(run.net) for batch, run in linear.items()}}
lines = {
    "same rate": (places, list(fresh.values())),
    "k times the rate": (places, list(caught.values())),
}
plot(lines, "batch", "validation accuracy", "SGD, one seed each", marks=True)
plt.xticks(places, list(same))
plt.show()

# %%
for batch in (256, 1024):
    say(
        f"Batch {batch:,}: compared with the same rate, k times the rate is "
        f"**{gained([caught[batch]], [fresh[batch]], guess)}**. Compared with the batch of 64, it is "
        f"{gained([caught[batch]], [fresh[64]], guess)}."
    )

# %% [markdown]
# Goyal et al. 2017 ([arXiv 1706.02677](https://arxiv.org/abs/1706.02677)) used this rule to train
# ResNet-50 on ImageNet with a batch of 8,192 in one hour, and reached the accuracy of the small batch.
# Their ramp alone took five epochs, which is longer than our whole run. Our batch of 1,024 has only a
# dozen steps, and we come back to it below.
#
# Now we scale our baseline, which uses AdamW. We train with four times its batch, under both rules, with
# several seeds and a ramp over the first fifth of the steps. `train_arms` alternates between the arms.

# %%
small, big = BASELINE.batch, 4 * BASELINE.batch
recipes = {
    f"batch {small}": BASELINE,
    f"{big}, sqrt": BASELINE + LRScaling(big, small, "sqrt", warmup=0.2),
    f"{big}, linear": BASELINE + LRScaling(big, small, "linear", warmup=0.2),
}
trained = train_arms(recipes, data, images=half)

# %% [markdown]
# In each run, we replace the accuracy by the refreshed one.

# %%
arms = {
    name: [replace(run, val_accuracy=score(run.net)) for run in runs]
    for name, runs in trained.items()
}
accuracy_table(arms)

# %%
plain, root, full = ([run.val_accuracy for run in runs] for runs in arms.values())
say(
    f"Compared with a batch of {small} and the same {half:,} images, AdamW with a batch of {big} is "
    f"**{gained(root, plain, guess)}** with the square root, and {gained(full, plain, guess)} with the "
    f"linear rule. Compared with the square root, the linear rule is **{gained(full, root, guess)}**."
)

# %% [markdown]
# Theory prefers the square root for AdamW, but in a run as short as this one, the linear rule can win, for
# two reasons. First, the network is still far from its goal, all images pull in much the same direction,
# and Adam has little noise to divide by. Second, every rule starts from a rate that is right for the small
# batch. Ours was tuned for a run that is much longer, and a short run wants a higher rate.
#
# A larger batch does not learn more from the same images. What it can save is time. Here are the images
# per second, not counting evaluation, a line for each optimiser:

# %%
from fasttricks.course import median

sgd_runs = {64: [same[64]], **{batch: [same[batch], linear[batch]] for batch in linear}}
adam_runs = {
    small: trained[f"batch {small}"],
    big: [*trained[f"{big}, sqrt"], *trained[f"{big}, linear"]],
}
speeds = {}
for name, runs in {"SGD": sgd_runs, "AdamW": adam_runs}.items():
    pace = [median([run.images_per_second for run in found]) for found in runs.values()]
    speeds[name] = (list(runs), pace)
plot(speeds, "batch", "images per second, median", "one to six runs each", scale="log", marks=True)
plt.show()

# %%
pace = dict(zip(*speeds["SGD"], strict=True))
say(
    f"With SGD, a batch of 256 makes training **{pace[256] / pace[64]:.2f} times as fast** as one of 64, "
    f"counted in images per second, and a batch of 1,024 {pace[1024] / pace[64]:.2f} times. From 256 to "
    f"1,024, "
    + (
        "there is nothing left to gain: the device is full."
        if pace[1024] < 1.1 * pace[256]
        else "it still gains: the device was not full."
    )
)

# %% [markdown]
# A GPU has thousands of lanes to fill, and several GPUs split one batch between them. A CPU fills up
# quickly.
#
# ## Which rate is best for which batch?
#
# A rule is a path across a map of rates and batches. To draw the map, we need dozens of runs, so we take
# the smallest classifier there is, a single linear layer, which trains in a fraction of a second. It sees
# 6,400 images once, and we record its validation loss at the end.


# %%
def linear_loss(kind, batch, rate, seed=0, images=6_400, **options):
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    x, y = data.normalise(data.train.x[:images]).flatten(1), data.train.y[:images]
    net = torch.nn.Linear(x.shape[1], len(data.classes))
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = kind(net.parameters(), rate, **options)
    for rows in order.split(batch):
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        scores = net(data.normalise(data.val.x).flatten(1))
        return torch.nn.functional.cross_entropy(scores, data.val.y).item()


# %% [markdown]
# From one column of the map to the next, the batch grows four times; from one row to the next, the rate
# doubles. So if the best rate moves down by *two* rows per column, the linear rule is right. If it moves
# down by *one*, the square root is.


# %%
import math
from itertools import pairwise

sizes = [8, 32, 128, 512]


def loss_map(kind, rates, **options):
    rows = []
    for rate in rates:
        rows.append([linear_loss(kind, batch, rate, **options) for batch in sizes])
    return rows


def best_rates(rows, rates):
    found = []
    for column in zip(*rows, strict=True):
        losses = [loss if math.isfinite(loss) else math.inf for loss in column]
        found.append(rates[losses.index(min(losses))])
    return found


# %% [markdown]
# First SGD with momentum 0.9. A frame marks the best rate for each batch.

# %%
from fasttricks.course import heat

sgd_rates = [0.0004 * 2**row for row in range(8)]
sgd_map = loss_map(torch.optim.SGD, sgd_rates, momentum=0.9)
names = [f"{rate:g}" for rate in sgd_rates]
heat(sgd_map, names, sizes, "batch", "rate", 1.5, "SGD: validation loss after 6,400 images")
plt.show()

# %% [markdown]
# Then AdamW.

# %%
adam_rates = [0.0005 * 2**row for row in range(7)]
adam_map = loss_map(torch.optim.AdamW, adam_rates)
names = [f"{rate:g}" for rate in adam_rates]
heat(adam_map, names, sizes, "batch", "rate", 1.5, "AdamW: validation loss after 6,400 images")
plt.show()

# %%
best = {"SGD": best_rates(sgd_map, sgd_rates), "AdamW": best_rates(adam_map, adam_rates)}
for name, found in best.items():
    moved = [f"{math.log2(after / before):.0f}" for before, after in pairwise(found)]
    say(
        f"{name}: from column to column, the best rate moves down by **{', '.join(moved)}** rows. From a "
        f"batch of 8 to one of 128, which is 16 times as large, it grows {found[2] / found[0]:.0f} times."
    )

# %% [markdown]
# (A minus sign means up. Neighbouring cells often differ by 0.02 or less, so a frame can easily be one row
# off.) The last column is special. A batch of 512 leaves only 13 steps, and its gradient has little noise.
# There the curvature limits the rate, so the best one hardly grows any more, whatever the rule says.
# McCandlish et al. 2018 ([arXiv 1812.06162](https://arxiv.org/abs/1812.06162)) call the batch size at which
# this sets in the *critical batch size*.
#
# What does that mean for you? Suppose that you tuned the rate at a batch of 32, and now go to 128. We try
# the three rules, with three orders of the images.


# %%
def after_moving(kind, rate, **options):
    losses = {}
    for rule, factor in {"the same rate": 1, "√k": 2, "k": 4}.items():
        found = [linear_loss(kind, 128, factor * rate, seed, **options) for seed in range(3)]
        losses[rule] = sum(found) / len(found)
    return losses


moves = {
    "SGD": after_moving(torch.optim.SGD, best["SGD"][1], momentum=0.9),
    "AdamW": after_moving(torch.optim.AdamW, best["AdamW"][1]),
}

# %%
for name, losses in moves.items():
    text = ", ".join(f"{loss:.3f} with {rule}" for rule, loss in losses.items())
    good = [rule for rule, loss in losses.items() if loss < min(losses.values()) + 0.02]
    say(
        f"{name}, from a batch of 32 to 128 (k = 4): the loss is {text}. The best, or within 0.02 of it: "
        f"**{' and '.join(good)}**."
    )

# %% [markdown]
# ## Break it: no ramp
#
# We leave out the ramp. For 64 times the batch, the linear rule requires 64 times the rate. Such a batch
# would leave too few steps to look at, so we use its rate with a batch of 256. To see what each step does,
# we record the loss of every batch before the step.

# %%
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
# We run two seeds with a ramp, and two without. The ramp begins at a hundredth of the rate and takes three
# tenths of the run. Two runs with the same seed have the same initial weights, the same images and, in
# the end, the same rate.

# %%
high = replace(SGD, lr=64 * SGD.lr)
curves, ends = {}, {}
for name, warmup in {"no ramp": 0, "ramp": 0.3}.items():
    ends[name] = []
    for seed in (0, 1):
        recipe = high + LRScaling(256, 256, warmup=warmup, start=0.01)
        losses, net = watch(recipe, seed, budget.images // 256)
        curves[f"{name}, seed {seed}"] = range(len(losses)), losses
        ends[name].append(score(net))

# %% [markdown]
# A blind guess among ten classes has a loss of log 10, which the grey line shows.

# %%
plot(curves, "optimiser step", "loss of the batch", f"SGD at a rate of {high.lr:g}")
plt.axhline(math.log(len(data.classes)), color="grey", lw=0.8)
plt.show()

# %%
peaks = {name: max(max(curves[f"{name}, seed {seed}"][1][:10]) for seed in (0, 1)) for name in ends}
say(
    f"In the first ten steps, the loss climbs to {peaks['no ramp']:.1f} without a ramp, and to "
    f"{peaks['ramp']:.1f} with one. At the end, the runs with a ramp reach an accuracy of "
    f"{ends['ramp'][0]:.2f} and {ends['ramp'][1]:.2f}, those without one {ends['no ramp'][0]:.2f} and "
    f"{ends['no ramp'][1]:.2f}. With a ramp, accuracy is **{gained(ends['ramp'], ends['no ramp'], guess)}**."
)

# %% [markdown]
# All four runs begin near the grey line, because they have learned nothing yet. A line that jumps *up*
# from there behaves like the toy, which was thrown to a steeper place. Batch norm rescales whatever it
# receives, which makes such rates less harmful; a network without it may well end in `nan`.
#
# ## Break it: too few steps
#
# Where does linear scaling end? Suppose that the slope stays the same during the whole run. How far would
# each of our SGD runs travel? We ask torch's SGD, with the rates of the runs, without momentum and with
# that of the runs, 0.9.


# %%
def travelled(recipe, steps, momentum):
    w = torch.zeros((), requires_grad=True)
    sgd = torch.optim.SGD([w], 1.0, momentum=momentum, nesterov=momentum > 0)
    for step in range(steps):
        sgd.param_groups[0]["lr"] = recipe.lr_at(step, steps)
        w.grad = -torch.ones(())
        sgd.step()
    return w.item()


ways = {}
for batch, run in {64: same[64], **linear}.items():
    ways[batch] = [travelled(run.recipe, run.steps, momentum) for momentum in (0.0, 0.9)]
    without, having = ways[batch]
    print(
        f"batch {batch:5}: {run.steps:4} steps, {without:5.2f} without momentum, {having:5.1f} with"
    )

# %%
shares = [100 * ways[1024][number] / ways[64][number] for number in (0, 1)]
say(
    f"Even on a fixed slope, the batch of 1,024 travels only {shares[0]:.0f} % as far as that of 64 without "
    f"momentum, and **{shares[1]:.0f} % with momentum**. In {linear[1024].steps} steps, momentum is hardly "
    f"built up."
)

# %% [markdown]
# Without momentum, the small loss comes from the ramp and from images that do not fill a batch. Momentum
# adds up earlier steps, to ten times the step in the end, but this takes about twenty steps, whatever the
# batch. On a real loss, the slope changes too, so a few long steps have no time to change direction. If
# your run has so few steps, use more images or a smaller batch, not a higher rate.
#
# ## What to remember
#
# The card promises a gain where the device is not yet full at the small batch, and it gives two warnings:
# too few steps, and no ramp. What did we see?

# %%
say(
    f"**The gain.** On this device, SGD with a batch of 256 processed images {pace[256] / pace[64]:.2f} times "
    f"as fast as with one of 64, and with one of 1,024 {pace[1024] / pace[64]:.2f} times. With k times the "
    f"rate, a batch of 256 was {gained([caught[256]], [fresh[64]], guess)} after the same images."
)
say(
    f"**The warnings.** With a batch of 1,024, {linear[1024].steps} steps were left, and accuracy was "
    f"{gained([caught[1024]], [fresh[64]], guess)}. Without a ramp, at 64 times the rate, it was "
    f"{gained(ends['no ramp'], ends['ramp'], guess)}."
)

# %% [markdown]
# A rule of thumb:
#
# 1. Raise the batch only as long as the images per second rise.
# 2. For k times the batch, take k times the rate with SGD, and √k times with Adam or AdamW. Count the
#    images of all devices.
# 3. Warm up over the first 5 % of the run, but over 20 steps at least: momentum and Adam's averages need
#    about that long to build up.
# 4. Keep a few hundred steps. With fewer, no rule helps.
# 5. After a short run, refresh batch norm before you judge.
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
# times the curvature is no longer small. Without momentum, the walk diverges above 2.</details>
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
