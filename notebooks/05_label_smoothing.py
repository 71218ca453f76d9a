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
# # 5. Label smoothing
#
# We usually ask a classifier for certainty: *this is a shirt, and nothing else, at all*. Label smoothing
# asks for a little less. It takes one line of code, costs nothing, and changes how sure the network says
# it is. This chapter shows how it affects accuracy, how it affects confidence, and when it goes too far.
#
# About 15 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/05_label_smoothing.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/05_label_smoothing.ipynb).
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
# times. We move the data to the device that the networks will use, at the image size they will see.

# %%
from fasttricks import BASELINE, LabelSmoothing, choose_budget, load, train
from fasttricks.course import train_arms

budget = choose_budget()
data = load().to(BASELINE.world.device(), budget.image_size)
budget

# %% [markdown]
# First, we print what our recorded study found about this trick: the seconds of training until a fixed
# validation accuracy, without the trick and with it, and then for all seven tricks and for the other six.
# Each ratio belongs to the run named just before it: above 1, that run gets there sooner. Below it is the
# trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import smoothing

print(headline("smoothing"))
Markdown(smoothing.__doc__)

# %% [markdown]
# ## The hurt: sure, and wrong
#
# We give a network few images and plenty of time: it sees 1,000 labels over and over. Many projects begin
# this way.

# %%
few = data.subset(1000)
plain = train(BASELINE, few, images=budget.images)

# %% [markdown]
# What does it predict for the 5,000 validation images, which it has never seen? For each image, we take
# the largest of the ten probabilities. This is the network's *confidence*.

# %%
from fasttricks.course import probabilities

chances = probabilities(plain.net, data, data.val)
confidence = chances.max(1).values
print(f"confidence {confidence.mean():.3f}, accuracy {plain.val_accuracy:.3f}")

# %% [markdown]
# Both are means over the same images, so for an honest network the two numbers would be equal. Let us
# look more closely. When an honest network says "90 % sure", it is right nine times out of ten. We sort
# the images into ten bins by confidence, and compare each bin's confidence with its share of right
# answers.

# %%
import torch


def reliability(chances, y):
    confidence, guess = chances.max(1)
    bins = (confidence * 10).long().clamp_max(9)
    full = [bins == number for number in range(10) if (bins == number).sum() > 20]
    said = [confidence[rows].mean().item() for rows in full]
    return said, [(guess == y)[rows].float().mean().item() for rows in full]


# %% [markdown]
# This plot is called a *reliability diagram*. The dashed line shows an honest network.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_against_time, accuracy_table, holds, plot

lines = {"what we got": reliability(chances, data.val.y), "honest": ([0.2, 1], [0.2, 1])}
plot(lines, "confidence", "share of right answers", f"{len(few.train):,} labels, plain", marks=True)
plt.show()

# %% [markdown]
# Where the solid line runs below the dashed one, the network is more confident than it should be. It has
# memorised its 1,000 labels, and is just as confident about new images.
#
# A single number summarises the diagram. The **expected calibration error** (ECE) is the distance between
# the two lines, averaged over the images. An honest network has an error of zero.


# %%
def calibration_error(chances, y):
    confidence, guess = chances.max(1)
    bins, off = (confidence * 10).long().clamp_max(9), 0.0
    for number in bins.unique():
        here = bins == number
        gap = confidence[here].mean() - (guess[here] == y[here]).float().mean()
        off += here.float().mean() * gap.abs()
    return float(off)


print(f"expected calibration error: {calibration_error(chances, data.val.y):.3f}")

# %% [markdown]
# ## By hand: why a softmax never arrives
#
# Where does the overconfidence come from? Take one image, four classes, and a network whose logit for the
# right class already exceeds the others by some gap.

# %%
import math


def chance_of_right(gap, classes=4):
    return math.exp(gap) / (math.exp(gap) + classes - 1)


[round(chance_of_right(gap), 4) for gap in (1, 2, 4, 8)]

# %% [markdown]
# The probability of the right class approaches 1 but never reaches it. The loss is the negative logarithm
# of that probability, so a wider gap always lowers it a little further.

# %%
gaps = [gap / 10 for gap in range(121)]
onehot = [-math.log(chance_of_right(gap)) for gap in gaps]


# %% [markdown]
# Now we ask for less. We take a share of 0.1 from the target of 1, and divide it equally among all four
# classes. The right class is left with 0.925, and the other three get 0.025 each.


# %%
def smoothed_loss(gap, eps=0.1, classes=4):
    p = chance_of_right(gap)
    other = (1 - p) / (classes - 1)
    share = eps / classes
    return -(1 - eps + share) * math.log(p) - (classes - 1) * share * math.log(other)


smooth_line = [smoothed_loss(gap) for gap in gaps]
plot(
    {"target 1": (gaps, onehot), "smoothed by 0.1": (gaps, smooth_line)},
    "gap in logits between the right class and the others",
    "loss of one image",
)
plt.show()

# %% [markdown]
# The solid curve falls for ever: the loss rewards widening the gap without limit. The dashed curve has a
# lowest point. Beyond that point, more certainty increases the loss.
#
# Where is that point? Set the probabilities equal to the targets, and take the logarithm of the ratio of
# the right class to any other.


# %%
def best_gap(eps, classes):
    return math.log((1 - eps + eps / classes) / (eps / classes))


lowest = gaps[smooth_line.index(min(smooth_line))]
print(f"by formula {best_gap(0.1, 4):.2f}, read off the curve {lowest:.1f}")

# %% tags=["nbval-check-output"]
from itertools import pairwise

holds(abs(lowest - best_gap(0.1, 4)) < 0.06, "the curve is lowest where the formula says")
falling = all(a > b for a, b in pairwise(onehot))
holds(falling, "with a target of 1 a wider gap is always better")

# %% [markdown]
# For our ten classes, this is how the best gap depends on epsilon:

# %%
shares = [0.01 * number for number in range(1, 100)]
ideal = [best_gap(eps, 10) for eps in shares]
plot({"ten classes": (shares, ideal)}, "epsilon", "best gap in logits")
plt.show()

# %% [markdown]
# Even a little smoothing turns an unlimited gap into a modest one. Near epsilon = 1, there is no gap left
# to tell the classes apart.
#
# ## Write it
#
# The trick is a function of the targets. A target is a row of ten probabilities, so smoothing is one
# line:


# %%
def smooth(q, eps):
    return (1 - eps) * q + eps / q.shape[1]


# %% [markdown]
# Here is an example. The first row is a one-hot target, and the second is already blended, as mixup would
# leave it.

# %%
q = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0]])
smooth(q, 0.1)

# %% [markdown]
# ## Check it
#
# First, our function gives the same result as the package's, and rows of probabilities remain rows of
# probabilities.

# %% tags=["nbval-check-output"]
logits, y = torch.randn(64, 10), torch.arange(64) % 10
onehots = torch.nn.functional.one_hot(y, 10).float()
holds(torch.equal(smooth(onehots, 0.1), smoothing.smooth(onehots, 0.1)), "ours is the package's")
sums = LabelSmoothing(0.3).batch_map(None, onehots, None)[1].sum(1)
holds(torch.allclose(sums, torch.ones(64)), "smoothed rows sum to 1")

# %% [markdown]
# Second, the loss on smoothed targets equals the loss that torch and timm compute when you turn on their
# label smoothing.

# %% tags=["nbval-check-output"]
from timm.loss import LabelSmoothingCrossEntropy
from torch.nn.functional import cross_entropy

ours = cross_entropy(logits, smooth(onehots, 0.1))
torchs = cross_entropy(logits, y, label_smoothing=0.1)
holds(abs(ours - torchs).item() < 1e-6, "torch's label_smoothing gives the same loss")
timms = LabelSmoothingCrossEntropy(0.1)(logits, y)
holds(abs(ours - timms).item() < 1e-6, "timm's LabelSmoothingCrossEntropy gives the same loss")

# %% [markdown]
# Note that conventions differ. Some texts give no part of eps to the right class and eps / (K - 1) to
# each of the others. That is the same family of targets with a different epsilon. We follow torch.
#
# Third, smoothing and mixup commute. Smoothing is affine in q, and mixup is a weighted average of two
# rows. So it does not matter which comes first, and you can add the two tricks in any order.

# %% tags=["nbval-check-output"]
from fasttricks.tricks.mixup import mix

pictures, lam, other = torch.rand(64, 1, 4, 4), torch.tensor(0.3), torch.randperm(64)
before = mix(pictures, smooth(onehots, 0.1), lam, other)[1]
after = smooth(mix(pictures, onehots, lam, other)[1], 0.1)
holds(torch.allclose(before, after, atol=1e-6), "smoothing and mixing commute")

# %% [markdown]
# ## In your own loop
#
# You do not need this package to use the trick. In a plain PyTorch script, make this change: remove the
# line marked `-` and add the line marked `+`.
#
# ```diff
#          inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
# -        loss = F.cross_entropy(net(inputs), targets)
# +        loss = F.cross_entropy(net(inputs), targets, label_smoothing=0.1)
#          loss.backward()
# ```
#
# The complete script is [`examples/smoothing.py`](../examples/smoothing.py). PyTorch offers the trick as
# an argument.
#
# ## Use it
#
# Now for the real question. We train fresh networks with two recipes, using the same seeds and the same
# number of images.

# %%
arms = train_arms({"plain": BASELINE, "smoothed": BASELINE + LabelSmoothing(0.1)}, data)
accuracy_table(arms)

# %% [markdown]
# Read *lowest and highest gain* first: it compares runs that share a seed. If that range includes zero,
# so few runs cannot tell the two recipes apart. Then read *seconds*: the trick should add none.
#
# How did the runs get there? First, we plot accuracy against epochs. One epoch is as many images as the
# training set contains.

# %%
curves = {}
for name, runs in arms.items():
    seen, _, found = torch.tensor([run.curve for run in runs]).mean(0).T
    curves[name] = (seen / len(data.train), found)
plot(curves, "epochs", "validation accuracy, mean", f"{len(runs)} runs each", marks=True)
plt.show()

# %% [markdown]
# Then against seconds, with one line per run:

# %%
accuracy_against_time(arms)
plt.show()

# %% [markdown]
# Look for a curve that is *left of* or *above* the other from start to end. If they cross or overlap, the
# trick does not speed up learning here, and an honest results table for this chapter has to say so.
#
# Confidence is another matter. We compare the two networks on the same validation images.

# %%
thoughts = {name: probabilities(runs[0].net, data, data.val) for name, runs in arms.items()}
for name, found in thoughts.items():
    error = calibration_error(found, data.val.y)
    print(
        f"{name:9} mean confidence {found.max(1).values.mean():.3f}, calibration error {error:.3f}"
    )

# %% tags=["nbval-check-output"]
sure = {name: found.max(1).values.mean().item() for name, found in thoughts.items()}
holds(sure["smoothed"] < sure["plain"], "the smoothed network is less sure of itself")

# %% [markdown]
# That is not always good news. A network that has seen each image at most a few times is rarely
# overconfident, and smoothing may then make it *too modest*: compare the two calibration errors. The
# trick pays off where we saw the problem: with few labels and long training. We return to that setting,
# once with half as much smoothing and once with the same amount.

# %%
import pandas as pd

thoughts = {"plain": chances}
for eps in (0.05, 0.1):
    run = train(BASELINE + LabelSmoothing(eps), few, images=budget.images, label=f"epsilon {eps}")
    thoughts[f"epsilon {eps}"] = probabilities(run.net, data, data.val)
rows = {}
for name, found in thoughts.items():
    sure, guess = found.max(1)
    accuracy = (guess == data.val.y).float().mean().item()
    rows[name] = accuracy, sure.mean().item(), calibration_error(found, data.val.y)
pd.DataFrame(rows, index=["accuracy", "mean confidence", "calibration error"]).T.round(3)

# %% [markdown]
# Read each row from left to right. If confidence is above accuracy, the network is too sure; if it is
# below, the network is too modest. As you go down the rows, epsilon lowers the confidence, while the
# accuracy hardly changes. The best row is the one with the smallest error. If it is a smoothed one, the
# trick pays off here.

# %%
lines = {name: reliability(found, data.val.y) for name, found in thoughts.items()}
lines["honest"] = ([0.2, 1], [0.2, 1])
plot(lines, "confidence", "share of right answers", "one seed each", marks=True)
plt.show()

# %% [markdown]
# The closer a line stays to the dash-dotted one, the more you can trust its probabilities. No single
# epsilon is right for every case: it must match the overconfidence, so choose it on validation images.
# The card also mentions noisy labels. Chapter 4 creates such labels: try this trick there.
#
# ## Break it
#
# If a little is good, is more better? We raise epsilon to 0.9, and train each network on half as many
# images.

# %%
sweep = {}
for eps in (0.0, 0.1, 0.3, 0.6, 0.9):
    recipe = BASELINE + LabelSmoothing(eps)
    label = f"epsilon {eps}"
    sweep[eps] = train(recipe, data, images=budget.images // 2, evaluations=1, label=label)

# %% [markdown]
# Look at the confidence first, then at the accuracy.

# %%
modest = [
    probabilities(run.net, data, data.val).max(1).values.mean().item() for run in sweep.values()
]
scores = [run.val_accuracy for run in sweep.values()]
lines = {"mean confidence": (list(sweep), modest), "validation accuracy": (list(sweep), scores)}
plot(lines, "epsilon", "confidence, accuracy", "one seed each", marks=True)
plt.show()

# %% [markdown]
# Confidence falls as epsilon grows, as it must. Does the accuracy fall with it? Much less, because the
# *order* of the ten probabilities can survive even when they are nearly equal. Instead, the probabilities
# lose their meaning. At the largest epsilon, learning may also slow down: every image has nearly the same
# target, so each one carries little information.

# %% tags=["nbval-check-output"]
ordered = all(a > b for a, b in pairwise(modest))
holds(ordered, "the more smoothing, the less confidence")
holds(modest[-1] < 0.5, "smoothed by 0.9, the network is not sure of anything any more")

# %% [markdown]
# ## Questions
#
# **1. Why does a one-hot target push logits apart for ever?**
#
# <details><summary>Answer</summary>The softmax reaches 1 only at an infinite gap, and the loss keeps
# falling as the gap grows.</details>
#
# **2. With ten classes and epsilon 0.1, what does the right class get?**
#
# <details><summary>Answer</summary>0.9 + 0.1 / 10 = 0.91. In torch's convention, the right class also
# receives a share of epsilon.</details>
#
# **3. Why can smoothing be applied before or after mixup?**
#
# <details><summary>Answer</summary>Smoothing is affine in the target, and mixup's blend is convex: its
# weights sum to 1, so the constant term stays unchanged.</details>
#
# **4. The training loss of your smoothed network stops falling at 0.5. Is it stuck?**
#
# <details><summary>Answer</summary>Not necessarily: the lowest possible smoothed loss is above zero. It
# is the entropy of the targets.</details>
#
# **5. When would you rather not smooth?**
#
# <details><summary>Answer</summary>When runs are short and the network is not overconfident anyway, or
# when another network will learn from its probabilities (Müller et al. 2019).</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** Return the gap in logits at which the smoothed loss is lowest, for any epsilon and any
# number of classes.


# %%
from fasttricks.course import check


def gap(eps, classes):
    raise NotImplementedError


check("smoothing", 1, gap)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def gap(eps, classes):
#     return math.log((1 - eps + eps / classes) / (eps / classes))
# ```
#
# </details>
#
# **Exercise 2.** Write the other convention: the right class keeps 1 - eps, and each other class gets
# eps / (K - 1). It must work on blended rows as well.


# %%
def other_smooth(q, eps):
    raise NotImplementedError


check("smoothing", 2, other_smooth)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def other_smooth(q, eps):
#     return (1 - eps) * q + eps * (1 - q) / (q.shape[1] - 1)
# ```
#
# </details>
#
# **Exercise 3.** Implement the expected calibration error with ten bins, without looking at the code
# above.


# %%
def ece(chances, y):
    raise NotImplementedError


check("smoothing", 3, ece)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def ece(chances, y):
#     confidence, guess = chances.max(1)
#     bins, off = (confidence * 10).long().clamp_max(9), 0.0
#     for number in bins.unique():
#         here = bins == number
#         gap = confidence[here].mean() - (guess[here] == y[here]).float().mean()
#         off += float(here.float().mean() * gap.abs())
#     return off
# ```
#
# </details>
#
# ## Further reading
#
# - Szegedy et al. 2015, [arXiv 1512.00567](https://arxiv.org/abs/1512.00567), section 7: the first
#   description of label smoothing.
# - Guo et al. 2017, [arXiv 1706.04599](https://arxiv.org/abs/1706.04599): calibration of modern networks,
#   and the reliability diagram.
# - Müller et al. 2019, [arXiv 1906.02629](https://arxiv.org/abs/1906.02629): when smoothing helps, and
#   why smoothed teachers teach worse.
