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
# each step is as short as before, the network does not get far. This chapter shows how much longer the
# steps should be, how far you can trust the two rules for this, and what a gentle start is good for.
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
# smallest classifier there is, a single linear layer, and 6,144 images of clothes (Fashion-MNIST).

# %%
import torch
from torch.nn.functional import cross_entropy

from fasttricks import BASELINE, SEVEN, LRScaling, choose_budget, load

budget = choose_budget()
data = load()
train_x, train_y = data.normalise(data.train.x[:6144]).flatten(1), data.train.y[:6144]
val_x, val_y = data.normalise(data.val.x).flatten(1), data.val.y

# %% [markdown]
# The function below trains it once, with an optimiser, a batch, and a rate of our choice. It returns the loss
# on the validation images, which is better when it is lower. We take the mean of three runs with different
# orders of the images.


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
# We train it with a batch of 32, and in two ways with a batch of 128. Each point is a training of its own,
# which stops after that many images.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import plot, say

seen = range(512, 6145, 512)
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
small, same, scaled = (losses[-1] for _, losses in lines.values())
say(
    f"After the same {seen[-1]:,} images, the batch of 32 has reached a loss of {small:.2f}. A batch of 128 "
    f"takes a quarter as many steps. At the same rate, it is still at {same:.2f}. With 4 times the rate, it "
    f"is at **{scaled:.2f}**, which makes up for {100 * (same - scaled) / (same - small):.0f} % of the lag."
)

# %% [markdown]
# That is the idea of this chapter: if the batch is k times as large, make the rate larger too. Here is what
# our recorded study found about it, and then the trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import scaling

say(headline("scaling"))
Markdown(scaling.__doc__)

# %%
say(
    f"In that study, the batch grew only from {BASELINE.batch} to {SEVEN[1].batch}, so it hardly tests the "
    f"rule. In this chapter, the batch grows by a factor of up to 64."
)

# %% [markdown]
# ## The problem: a larger batch falls behind
#
# Now a real network, the one that the budget chooses for this device. The usual rule was found for SGD
# with momentum, so we begin with that optimiser. (It needs a weaker weight decay than AdamW, which is our
# baseline's.) We keep the rate and the number of images fixed, and change only the batch. Most runs in
# this chapter see half of the budget's images.

# %%
from dataclasses import replace

from fasttricks.course import gained, train_arms

here = data.to(BASELINE.world.device(), budget.image_size)
half = budget.images // 2
seeds = min(2, budget.seeds)
whose = "one seed" if seeds == 1 else f"mean of {seeds} seeds"
SGD = replace(BASELINE, optimizer="sgd", lr=0.025, batch=64, weight_decay=5e-4)
batches = (64, 256, 1024)
recipes = {f"batch {batch}": replace(SGD, batch=batch) for batch in batches}
same = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)

# %% [markdown]
# How accurate is each network, and how many steps did it take?

# %%
guess = 1 / len(data.classes)
stale = {}
for batch, runs in zip(batches, same.values(), strict=True):
    stale[batch] = [run.val_accuracy for run in runs]
    shown = ", ".join(f"{accuracy:.3f}" for accuracy in stale[batch])
    print(f"batch {batch:5}, {runs[0].steps:4} steps: accuracy {shown}")

# %%
epochs = same["batch 64"][0].images_seen / len(data.train)
worst = max(stale[1024])
say(
    f"After {epochs:.2f} epochs, the batch of 1,024 has an accuracy of at most {worst:.2f}. A blind guess "
    f"would have {guess:.2f}."
)

# %% [markdown]
# Before we blame the rate, we look for a second cause, which is *batch norm*. During validation, it uses a
# running mean and a running variance, and each training step moves these a tenth of the way to the values
# of the current batch. After n steps, 0.9ⁿ of the starting value is left. We check this with torch's own
# layer: its running variance starts at 1, and we feed it constant images, whose variance is 0.

# %% tags=["nbval-check-output"]
from fasttricks.course import holds

norm = torch.nn.BatchNorm2d(1)
for _ in range(12):
    norm(torch.zeros(8, 1, 4, 4))
left = norm.running_var.item()
holds(abs(left - 0.9**12) < 1e-4, "after n steps, 0.9 ** n of the first variance is left")

# %%
steps = same["batch 1024"][0].steps
say(
    f"Our batch of 1,024 took {steps} steps, so {100 * 0.9**steps:.0f} % of its running values are still "
    f"those of the untrained network."
)

# %% [markdown]
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
net = same["batch 1024"][0].net
before = [parameter.detach().clone() for parameter in net.parameters()]
score(net)
equal = all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
holds(equal, "refreshing batch norm changes no weight")

# %% [markdown]
# Here are all three batches, before and after.

# %%
grid = {}  # accuracies, one per seed, by batch and factor on the rate
for batch, runs in zip(batches, same.values(), strict=True):
    grid[batch] = {1: [score(run.net) for run in runs]}


def mean(values):
    return sum(values) / len(values)


places = range(len(batches))
lines = {
    "as trained": (places, [mean(stale[batch]) for batch in batches]),
    "batch norm refreshed": (places, [mean(grid[batch][1]) for batch in batches]),
}
plot(lines, "batch", "validation accuracy", f"SGD, the same rate, {whose}", marks=True)
plt.xticks(places, batches)
plt.show()

# %%
say(
    f"With a batch of 1,024, refreshing moves the accuracy from {mean(stale[1024]):.3f} to "
    f"{mean(grid[1024][1]):.3f}. The weights are the same, so this part of the lag was no lack of training. "
    f"The rest is real. Compared with the batch of 64, the batch of 256 is "
    f"**{gained(grid[256][1], grid[64][1], guess)}**, and that of 1,024 "
    f"**{gained(grid[1024][1], grid[64][1], guess)}**."
)

# %% [markdown]
# The remaining lag is what this chapter is about: too few steps, each as short as before. (The batch of 64
# may gain from the refresh as well, because its running values cover only about ten batches.) From here on,
# we refresh every network before we judge it.
#
# A *seed* fixes the first weights and the order of the images, and we compare runs with the same seed. We say
# *higher* only if it is so with every seed, and if the mean difference is at least 1 point divided by the
# square root of the number of seeds.

# %% tags=["nbval-check-output"]
behind = mean(grid[1024][1]) < mean(grid[64][1])
holds(behind, "at the same rate the batch of 1,024 is behind that of 64")

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
# mean. It rests on one assumption: the slope does not change on the way. In a valley, it does change. Take
# the loss w² / 2, whose slope is w itself, and start at 1. Each small step multiplies w by 1 - lr; the one
# large step multiplies it by 1 - k · lr.

# %%
ks = list(range(1, 46))
small = [(1 - 0.05) ** k for k in ks]
large = [1 - 0.05 * k for k in ks]
lines = {"k steps of 0.05": (ks, small), "one step of k · 0.05": (ks, large)}
plot(lines, "k", "position (lowest point at 0)", "a valley")
plt.show()

# %% [markdown]
# On the left, the lines touch, so the rule works well there. Further right, the large step goes too far.
# Below zero it has crossed the valley, and below -1 it ends farther away than it began. So the linear rule
# must end at some k.

# %% tags=["nbval-check-output"]
holds(abs(small[1] - large[1]) < 0.01, "for small k · lr the two nearly agree")
holds(all(x < 0 for k, x in zip(ks, large, strict=True) if k > 20), "past k · lr = 1 it overshoots")
holds(abs(large[-1]) > 1, "past k · lr = 2 it ends farther away than it began")

# %% [markdown]
# ### Why Adam may want the square root
#
# Adam divides every step by the typical size of the gradient. If that size is mostly noise, which comes
# from the random choice of images, then a larger batch changes it: the mean over k times as many images has
# √k times less noise. So Adam divides by a smaller number, and its steps towards the goal grow by a factor
# of √k *with no change of the rate*. We only need to add the other √k. This is the **square-root rule**.
#
# If there is hardly any noise, nothing of this happens, and k times fewer steps need k times the rate, as
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
holds(ratios["strong noise", 16] > 3, "and 16 takes it several times too far")
holds(abs(ratios["hardly any noise", 16] - 1) < 0.1, "hardly any noise: 16 itself fits")

# %% [markdown]
# So in theory, Adam's factor lies between √k and k, depending on how noisy the gradient is. At the beginning
# of a run, when all images still pull in much the same direction, it should be closer to k.
#
# Malladi et al. 2022 ([arXiv 2205.10287](https://arxiv.org/abs/2205.10287)) derive the square root
# rigorously for strong noise, and their rule has more parts: for k times the batch, they also replace
# 1 - beta by k (1 - beta), for both betas, and divide Adam's epsilon by √k. Our package scales only the
# rate, as most scripts do.
#
# The card names another paper for the square root: Krizhevsky 2014 ([arXiv
# 1404.5997](https://arxiv.org/abs/1404.5997)). He derived it for *SGD*, by keeping the variance of a step
# the same, but found that k itself worked better, and could not explain why. So for SGD we follow his
# practice, not his theory.
#
# ### Why the first steps should be short
#
# How long a step can be depends on how sharply the loss curves. In a network, this *sharpness* is not
# fixed: it depends on where in the valley the network is. Here is a toy loss that is steep far away and
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

# %% tags=["nbval-check-output"]
holds(abs(at_once[-1]) > 1e6, "at the full rate from the start, the walk explodes")
holds(0 < warmed[-1] < 0.5, "with a ramp to the same rate, it settles")

# %% [markdown]
# Gilmer et al. 2021 ([arXiv 2110.04369](https://arxiv.org/abs/2110.04369)) find this in real networks:
# with a ramp, training moves to flatter places, which tolerate the full rate. A ramp cannot help where
# there is no such place: then the full rate is simply too high.
#
# **Adam has a reason of its own.** It gives each weight a rate of its own: the rate divided by the typical
# size of that weight's gradient. It estimates this size from the squares of the gradients that it has seen
# (the *second moment*), and at the beginning it has seen very few. To see how bad the first estimates are,
# we feed torch's Adam 2,000 weights whose gradients are noise of the same size. So all of them should get
# the same rate. Which ones do they get?

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
    f"The gradient is averaged as well (the *first moment*), and this average, too, is poor at the start. "
    f"The first step moves every weight by {moves[0]:.2f} rates, although there is nothing but noise. Later, "
    f"the noise partly cancels, and a typical move is {moves[-1]:.2f} rates."
)

# %% [markdown]
# Liu et al. 2019 ([arXiv 1908.03265](https://arxiv.org/abs/1908.03265)) explain warm-up by the first of
# these, the poor estimates of the size. Ma and Yarats 2019 ([arXiv
# 1910.04209](https://arxiv.org/abs/1910.04209)) object that the second, the long moves, is what matters.
# Both come to the same advice: keep Adam's first steps short. Whether that pays for our network, we shall
# measure.
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
# We multiply the rate by their product. Here is this factor for a run of 100 steps with 4 times the batch,
# with a ramp over the first fifth.

# %%
steps = list(range(100))
lines = {}
for rule in ("linear", "sqrt"):
    lines[rule] = (steps, [scale(256, 64, rule) * warm_up(step, 20, 0.1) for step in steps])
plot(lines, "step", "factor on the rate", "batch 256 instead of 64")
plt.show()

# %% [markdown]
# Both ramps begin at a tenth of the full rate and end at step 20. The linear rule then multiplies the rate
# by 4, the square-root rule by 2.
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

# %% [markdown]
# ## Use it
#
# Back to the real network and SGD. `LRScaling` takes the batch, the reference, and the rule, and sets both
# batch and rate. Its `warmup` says how long the ramp is: below 1, it is a share of the run; from 1 on, it is
# a number of steps. We set it to 0 for now and add the ramp later, so that only one thing changes at a time.
#
# A larger batch at a higher rate changes two things. So we also run the *control*, the small batch at the
# higher rate, and some other pairs of batch and rate around those of the rule.

# %%
recipes = {
    (64, 4): replace(SGD, lr=4 * SGD.lr),  # the control
    (256, 4): SGD + LRScaling(256, 64, "linear", warmup=0),  # the rule
    (256, 16): replace(SGD, batch=256, lr=16 * SGD.lr),
    (1024, 4): replace(SGD, batch=1024, lr=4 * SGD.lr),
    (1024, 16): SGD + LRScaling(1024, 64, "linear", warmup=0),  # the rule
}
sgd_runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)

# %% [markdown]
# We refresh and judge each network. A line per batch shows which rate suits it. The same rate is at the
# left end.

# %%
for (batch, factor), runs in sgd_runs.items():
    grid[batch][factor] = [score(run.net) for run in runs]
lines = {}
for batch, found in grid.items():
    rates = [factor * SGD.lr for factor in found]
    lines[f"batch {batch}"] = (rates, [mean(values) for values in found.values()])
title = f"SGD, {half:,} images, {whose}"
plot(lines, "rate", "validation accuracy", title, scale="log", marks=True)
plt.show()

# %% [markdown]
# Rates whose mean accuracies differ by less than the limit above count as equally good.

# %%
from fasttricks.course import clear


def near_best(found):
    """The names whose mean accuracy is not clearly below the best."""
    points = {name: 100 * mean(values) for name, values in found.items()}
    limit = max(points.values()) - clear(len(next(iter(found.values()))))
    return [name for name, value in points.items() if value > limit]


# %%
lines = []
for batch, found in grid.items():
    factors = " or ".join(str(factor) for factor in near_best(found))
    lines.append(
        f"- Batch {batch:,}: the best accuracy is {max(map(mean, found.values())):.3f}, at **{factors} times** "
        f"the rate. The linear rule says {batch // 64}."
    )
say("\n".join(lines))

# %%
up = gained(grid[256][4], grid[256][1], guess)
control = gained(grid[64][4], grid[64][1], guess)
catches = gained(grid[256][4], grid[64][1], guess)
if "higher" not in up:
    meaning = "So the higher rate brought no clear gain here."
elif "higher" in control:
    meaning = "So a part of the gain is only that the rate was too low, for the small batch, too."
else:
    meaning = "So it is the **larger batch that needs the higher rate**, as the rule says."
say(
    f"At 4 times the rate, the batch of 256 is **{up}**. In the control, the batch of 64, the same change "
    f"is {control}. {meaning}"
)
say(
    f"Compared with the batch of 64 at its own rate, the batch of 256 by the rule is **{catches}**."
)

# %%
best = max(grid[1024].values(), key=mean)
lag = gained(best, grid[64][1], guess)
steps = sgd_runs[1024, 16][0].steps
say(
    f"For the batch of 1,024, the rule says 16 times the rate. Compared with 4 times the rate, that is "
    f"{gained(grid[1024][16], grid[1024][4], guess)}. And even its best rate leaves it **{lag}**, "
    f"compared with the batch of 64."
)

# %% [markdown]
# Goyal et al. 2017 ([arXiv 1706.02677](https://arxiv.org/abs/1706.02677)) used the linear rule to train
# ResNet-50 on ImageNet with a batch of 8,192 in one hour, and reached the accuracy of the small batch. Their
# runs had thousands of steps. Our batch of 1,024 has very few, and we come back to this below.
#
# ### The baseline, which uses AdamW
#
# Any rule starts from a rate that is right for the small batch. Our baseline's rate of 0.001 was tuned for a
# much longer run. So we first look for a good rate at the baseline's batch *in this run*.

# %%
small_batch, big_batch = BASELINE.batch, 4 * BASELINE.batch
recipes = {rate: replace(BASELINE, lr=rate) for rate in (0.001, 0.004, 0.016)}
small_runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
small_accuracies = {rate: [score(run.net) for run in runs] for rate, runs in small_runs.items()}
tuned_rate = max(small_accuracies, key=lambda rate: mean(small_accuracies[rate]))
tuned = replace(BASELINE, lr=tuned_rate)

# %%
where = {
    min(small_accuracies): ", the lowest that we tried",
    max(small_accuracies): ", the highest that we tried",
}
say(
    f"For a batch of {small_batch}, the best of the three rates is **{tuned_rate:g}**"
    f"{where.get(tuned_rate, '')}. Compared with the baseline's {BASELINE.lr:g}, it is "
    f"{gained(small_accuracies[tuned_rate], small_accuracies[BASELINE.lr], guess)}."
)

# %% [markdown]
# From there, we go to 4 times the batch. We try the same rate, the square-root rule, the linear rule, and
# twice what the linear rule says.

# %%
recipes = {
    1: replace(tuned, batch=big_batch),
    2: tuned + LRScaling(big_batch, small_batch, "sqrt", warmup=0),
    4: tuned + LRScaling(big_batch, small_batch, "linear", warmup=0),
    8: replace(tuned, batch=big_batch, lr=8 * tuned.lr),
}
big_runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)
big_accuracies = {factor: [score(run.net) for run in runs] for factor, runs in big_runs.items()}
lines = {
    f"batch {small_batch}": (
        list(small_accuracies),
        [mean(values) for values in small_accuracies.values()],
    ),
    f"batch {big_batch}": (
        [f * tuned.lr for f in big_accuracies],
        [mean(values) for values in big_accuracies.values()],
    ),
}
title = f"AdamW, {half:,} images, {whose}"
plot(lines, "rate", "validation accuracy", title, scale="log", marks=True)
plt.show()

# %% [markdown]
# In numbers, with the refreshed accuracies in place of those from training:

# %%
from fasttricks.course import accuracy_table

arms = {
    f"batch {small_batch}": (small_runs[tuned_rate], small_accuracies[tuned_rate]),
    f"{big_batch}, square root": (big_runs[2], big_accuracies[2]),
    f"{big_batch}, linear": (big_runs[4], big_accuracies[4]),
}
refreshed = {}
for name, (runs, accuracies) in arms.items():
    pairs = zip(runs, accuracies, strict=True)
    refreshed[name] = [replace(run, val_accuracy=accuracy) for run, accuracy in pairs]
accuracy_table(refreshed)

# %%
against_root = gained(big_accuracies[4], big_accuracies[2], guess)
steps = big_runs[4][0].steps
factors = " or ".join(str(factor) for factor in near_best(big_accuracies))
if "higher" in against_root:
    adam_rule = "the linear rule was the better choice"
    meaning = f"So this run of {steps} steps resembles the case of hardly any noise."
elif "lower" in against_root:
    adam_rule = "the square root was the better choice"
    meaning = f"So this run of {steps} steps resembles the case of strong noise."
else:
    adam_rule = "neither rule was clearly better"
    meaning = "So this experiment cannot choose between the two."
say(
    f"Compared with the square root, the linear rule is **{against_root}**. {meaning} The best of the four "
    f"is {factors} times the rate."
)
say(
    f"At that best rate, and compared with the batch of {small_batch} at its own, the batch of {big_batch} is "
    f"{gained(max(big_accuracies.values(), key=mean), small_accuracies[tuned_rate], guess)}."
)

# %% [markdown]
# This is one network and one very short run, so do not take it for a law. With Adam, try both: first √k, the
# cautious choice, then k.
#
# ### What does the larger batch buy?
#
# Nobody takes a larger batch to learn more from the same images. What it can save is time. Here are the
# images per second of the runs above, evaluation not counted, with one mark per batch and optimiser.

# %%
from fasttricks.course import faster, median

pace = {
    "SGD": {
        64: same["batch 64"] + sgd_runs[64, 4],
        256: same["batch 256"] + sgd_runs[256, 4],
        1024: same["batch 1024"] + sgd_runs[1024, 4],
    },
    "AdamW": {small_batch: small_runs[tuned_rate], big_batch: big_runs[4]},
}
lines = {}
for name, found in pace.items():
    speeds = [median([run.images_per_second for run in runs]) for runs in found.values()]
    lines[name] = (list(found), speeds)
title = f"median of {2 * seeds} runs with SGD, of {seeds} with AdamW"
plot(lines, "batch", "images per second", title, scale="log", marks=True)
plt.ylim(0)
plt.show()


# %%
def compared(name, batch, reference):
    """How many times as fast training is with the one batch as with the other."""
    runs, others = pace[name][batch], pace[name][reference]
    return faster(
        [run.train_seconds / run.images_seen for run in runs],
        [run.train_seconds / run.images_seen for run in others],
    )


saved = compared("SGD", 256, 64)
more = compared("SGD", 1024, 256)
adam_saved = compared("AdamW", big_batch, small_batch)

# %%
say(
    f"With SGD, training with a batch of 256 is **{saved}** as with one of 64, and a batch of 1,024 is "
    f"{more} as one of 256. With AdamW, a batch of {big_batch} is {adam_saved} as one of {small_batch}."
)


# %%
quicker = saved.endswith("times as fast") and float(saved.split()[0]) > 1
if not quicker:
    worth = "It is no faster, so on this device there is no reason to take it."
elif catches.startswith(("not", "undecided")):
    worth = f"Whether it pays cannot be said: its accuracy is {catches}."
elif "lower" in catches:
    worth = (
        f"It does not come for free: accuracy is {catches}. The time saved could buy more images, which "
        f"we do not try here."
    )
else:
    worth = f"Its accuracy is {catches}, so here **the batch of 256 simply saves time**."
say(f"Look at SGD with a batch of 256 once more. {worth}")

# %% [markdown]
# How much a larger batch speeds up a step depends on the device. A GPU works on thousands of numbers at
# once, and several GPUs split one batch between them, so they can gain more than the few cores of a CPU.
# Measure it on yours, as we did here.
#
# ### Is the ramp needed at these rates?
#
# So far, all runs began at their full rate. We repeat four of them with the same seeds and a ramp over the
# first fifth of the steps. It begins at a tenth of the rate, as `LRScaling` does unless we say otherwise.

# %%
recipes = {
    "SGD, batch 256": SGD + LRScaling(256, 64, "linear", warmup=0.2),
    "SGD, batch 1024": SGD + LRScaling(1024, 64, "linear", warmup=0.2),
    "AdamW, square root": tuned + LRScaling(big_batch, small_batch, "sqrt", warmup=0.2),
    "AdamW, linear": tuned + LRScaling(big_batch, small_batch, "linear", warmup=0.2),
}
ramp_runs = train_arms(recipes, data, images=half, seeds=seeds, evaluations=1)

# %% [markdown]
# We compare each with its twin, which had no ramp.

# %%
twins = (grid[256][4], grid[1024][16], big_accuracies[2], big_accuracies[4])
without = dict(zip(recipes, twins, strict=True))
with_ramp = {name: [score(run.net) for run in runs] for name, runs in ramp_runs.items()}
ramp_effect = {}
for name, accuracies in with_ramp.items():
    ramp_effect[name] = gained(accuracies, without[name], guess)

# %%
lines = [
    f"- {name}: with a ramp, accuracy is **{effect}**." for name, effect in ramp_effect.items()
]
say("\n".join(lines))

# %%
effects = list(ramp_effect.values())
helped = sum("higher" in effect for effect in effects)
harmed = sum("lower" in effect for effect in effects)
if helped and harmed:
    ramp_verdict = "it depends: the ramp helped in some of the runs and did harm in others"
elif helped:
    ramp_verdict = f"the ramp helped clearly in {helped} of {len(effects)} cases, and did no harm"
elif harmed:
    ramp_verdict = f"the ramp did harm in {harmed} of {len(effects)} cases, and helped in none"
else:
    ramp_verdict = "the ramp made no clear difference"
say(f"At the rates that the rules give here, **{ramp_verdict}**.")

# %%
ramped = gained(with_ramp["AdamW, linear"], with_ramp["AdamW, square root"], guess)
say(
    f"With a ramp on both, AdamW's linear rule is **{ramped}**, compared with its square root. And compared "
    f"with the batch of {small_batch} at its own rate, the batch of {big_batch} by the linear rule with a ramp "
    f"is {gained(with_ramp['AdamW, linear'], small_accuracies[tuned_rate], guess)}."
)

# %% [markdown]
# A ramp also has a price: its steps are shorter. A ramp from a tenth of the rate over a fifth of the run
# takes away 9 % of the way (a fifth of the steps, which are 45 % shorter on average). In a run as short as
# ours, that can cost accuracy. In a long run with a ramp over 5 %, it is about 2 %.
#
# ## Break it: a rate that is far too high
#
# How much can depend on a ramp? This is an illustration, not a recipe: with a batch of 256, we use 64 times
# the rate, which is 16 times what the linear rule allows. To see what each step does, we record the loss of
# every batch before the step.

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
# Two runs have the same first weights, the same images, and in the end the same rate. One of them starts at
# a hundredth of it and rises over three tenths of the run.

# %%
high = replace(SGD, lr=64 * SGD.lr)
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
first = {name: max(losses[:5]) for name, (_, losses) in curves.items()}
highest = max(curves["ramp"][1])
rescued = gained([ends["ramp"]], [ends["no ramp"]], guess)
say(
    f"In the first five steps, the loss climbs to {first['no ramp']:.1f} without a ramp, and to "
    f"{first['ramp']:.1f} with one. At such a rate, the ramp does not prevent every jump: later, its loss "
    f"reaches {highest:.1f}. But the two runs end at accuracies of {ends['no ramp']:.2f} and "
    f"{ends['ramp']:.2f}. With the ramp, accuracy is **{rescued}**."
)

# %% [markdown]
# Both runs begin near the grey line, because they have learned nothing yet. A line that jumps *up* from
# there behaves like the toy, which was thrown to a steeper place. That is the sign to look for in a run of
# your own: if the loss jumps in the first steps, make them shorter.
#
# ## Break it: too large a batch
#
# The batch of 1,024 is left with very few steps. Would yet another rate have saved it? And how far do the
# rules reach? To find out, we need many rates for many batches, so we go back to the linear layer, which
# trains in a fraction of a second. We take four batches, nine rates that double each time, and both
# optimisers.

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
# A figure for each optimiser, with a line for each batch. The lowest point of a line is the best rate.

# %%
for name, found in maps.items():
    lines = {f"batch {batch}": (rates, losses) for batch, losses in found.items()}
    title = f"one linear layer, {name}, 6,144 images"
    plot(lines, "rate", "validation loss", title, scale="log", marks=True)
    plt.ylim(0.5, 1.2)
    plt.show()

# %% [markdown]
# Now we play through what a reader would do: tune the rate for one batch, then move to one that is 4 times
# as large. Three choices are open: the same rate, √k = 2 times, and k = 4 times. (All three are points in the
# figures.) Losses within 0.02 of the best of the three count as equally good.

# %%
choices = {}
for name, found in maps.items():
    for before, after in ((8, 32), (32, 128), (128, 512)):
        best = found[before].index(min(found[before]))
        reached = {}
        for rule, rows in {"the same": 0, "√k": 1, "k": 2}.items():
            row = min(best + rows, len(rates) - 1)
            reached[rule] = found[after][row]
        choices[name, after] = reached
        shown = ", ".join(f"{rule} {loss:.2f}" for rule, loss in reached.items())
        print(f"{name:5}, batch {before:3} at {rates[best]:g} -> {after:3}: {shown}")

# %%
fits = {}
for key, reached in choices.items():
    limit = min(reached.values()) + 0.02
    fits[key] = [rule for rule, loss in reached.items() if loss < limit]
for name in maps:
    steps = [f"{' or '.join(fits[name, after])} (to {after})" for after in (32, 128, 512)]
    say(f"With {name}, the best choices are **{', then '.join(steps)}**.")


# %%
def reach(name, rule):
    """Up to which batch a rule was a good choice, on all moves until there."""
    reached = "not even for the first move"
    for after in sizes[1:]:
        if rule not in fits[name, after]:
            break
        reached = f"up to a batch of {after}"
    return reached


# %%
best_rows = {
    f"{name} with {batch}": losses.index(min(losses))
    for name, found in maps.items()
    for batch, losses in found.items()
}
edge = [name for name, row in best_rows.items() if row in (0, len(rates) - 1)]
say(
    f"With SGD, the linear rule was a good choice **{reach('SGD', 'k')}**. With AdamW, the square root was one "
    f"**{reach('AdamW', '√k')}**, and the linear rule {reach('AdamW', 'k')}. "
    + (
        f"(The best rate may lie outside our range: {', '.join(edge)}.)"
        if edge
        else "All best rates lie inside our range."
    )
)

# %%
least = {name: [min(losses) for losses in found.values()] for name, found in maps.items()}
say(
    f"But even the best rate does not save a batch that is far too large. With 512, which leaves "
    f"{len(train_x) // 512} steps, the best of all nine rates ends at a loss of **{least['SGD'][3]:.2f}** "
    f"with SGD and **{least['AdamW'][3]:.2f}** with AdamW. With a batch of 32, it is {least['SGD'][1]:.2f} "
    f"and {least['AdamW'][1]:.2f}."
)

# %% [markdown]
# The gradient of a very large batch has little noise left to average away. So a still larger batch makes each
# step hardly better, but it takes away steps. McCandlish et al. 2018 ([arXiv
# 1812.06162](https://arxiv.org/abs/1812.06162)) call the batch size at which this sets in the *critical batch
# size*. If your run is left with a dozen steps, use a smaller batch or more images, not a higher rate.
#
# ## What to remember
#
# The card promises a gain where the device is not yet full at the small batch, and it gives two warnings:
# too few steps, and a missing ramp at a large k. What did we see?

# %%
right = [f"{batch:,}" for batch in (256, 1024) if batch // 64 in near_best(grid[batch])]
wrong = [f"{batch:,}" for batch in (256, 1024) if f"{batch:,}" not in right]
say(
    f"- **The gain.** With SGD, a batch of 256 trained {saved} as one of 64. At k times the rate and after "
    f"the same images, its accuracy was {catches}.\n"
    f"- **Too few steps.** At its best rate, the batch of 1,024, with {sgd_runs[1024, 16][0].steps} steps, "
    f"was {lag}, compared with that of 64.\n"
    f"- **The missing ramp.** At the rates of the rules, {ramp_verdict}. At 64 times the rate, the run with "
    f"a ramp was {rescued}.\n"
    f"- **Which rule for SGD?** On the linear layer, the linear rule was a good choice {reach('SGD', 'k')}. "
    f"On the network, it gave one of the best rates for {' and '.join(right) or 'neither batch'}"
    f"{', but not for ' + wrong[0] if right and wrong else ''}.\n"
    f"- **Which rule for AdamW?** On the linear layer, the square root was a good choice "
    f"{reach('AdamW', '√k')}. On the network, {adam_rule} without a ramp. With one, the linear rule was "
    f"{ramped}, compared with the square root."
)

# %% [markdown]
# A rule of thumb:

# %%
enough, few = sgd_runs[256, 4][0].steps, sgd_runs[1024, 16][0].steps
if "lower" in lag and ("about" in catches or "higher" in catches):
    step_rule = (
        f"Here, {enough} steps were enough for the linear rule, and {few} were not, at any rate."
    )
else:
    step_rule = (
        f"Here, compared with the batch of 64, the run with {enough} steps was {catches}, and the one with "
        f"{few} was {lag}."
    )
if helped and not harmed:
    ramp_rule = "Begin with a ramp: at the rates of the rules, it helped here."
elif harmed and not helped:
    ramp_rule = "In a run as short as ours, leave the ramp out unless the loss jumps at the start."
elif helped:
    ramp_rule = "Try a ramp: here it helped in one case and did harm in another."
else:
    ramp_rule = "A ramp changed little here. Use one if the loss jumps at the start."

# %%
say(
    "1. Tune the rate at a small batch, in a run as long as yours.\n"
    "2. Raise the batch only as long as the images per second rise.\n"
    "3. For k times the batch, take k times the rate with SGD. With Adam or AdamW, begin with √k, and try k "
    "as well. Count the images of all devices.\n"
    f"4. Look at how many steps are left. {step_rule}\n"
    f"5. {ramp_rule} In a long run, a ramp over 5 % costs next to nothing.\n"
    "6. After a short run, refresh batch norm before you judge."
)

# %% [markdown]
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
# **3. A batch of 256 does better at 4 times the rate than at the same rate. Why does that alone not prove
# the linear rule?**
#
# <details><summary>Answer</summary>The old rate may simply have been too low. The control is the small batch
# at the higher rate: only if it does not gain as well is the higher rate due to the larger
# batch.</details>
#
# **4. When is √k enough for Adam, and when does it need k?**
#
# <details><summary>Answer</summary>√k is enough when the size that Adam divides by is mostly noise. That size
# shrinks by √k in the larger batch, so the steps already grow by √k. If there is hardly any noise, nothing
# shrinks, and Adam needs k.</details>
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
