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
from fasttricks.course import probabilities, say, sureness

chances = probabilities(plain.net, data, data.val)
sure, right = chances.max(1).values.mean().item(), plain.val_accuracy
say(
    f"On average the network gives its answer a probability of {sure:.2f}, and it is right in "
    f"{right:.0%} of all cases: it is **{sureness(sure, right)}**."
)

# %% [markdown]
# For an honest network the two numbers would be equal. Let us look more closely. When an honest network says "90 % sure", it is right nine times out of ten. We sort
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
# This plot is called a *reliability diagram*. The dashed line shows an honest network. Bins with 20 images
# or fewer are left out.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, changed, faster, gained, holds, plot

lines = {"what we got": reliability(chances, data.val.y), "honest": ([0.2, 1], [0.2, 1])}
plot(lines, "confidence", "share of right answers", f"{len(few.train):,} labels, plain", marks=True)
plt.show()

# %% [markdown]
# Where the solid line runs below the dashed one, the network is more confident than it should be: it has
# memorised its 1,000 labels, and speaks about new images in the same way.
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


error = calibration_error(chances, data.val.y)
say(
    f"**The expected calibration error is {error:.3f}**: on average, what the network says is "
    f"{100 * error:.0f} points away from how often it is right."
)

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
say(
    f"For four classes smoothed by 0.1, the formula gives a gap of {best_gap(0.1, 4):.2f}, and the "
    f"curve is lowest at {lowest:.1f}. With a target of 1 there is no such point."
)

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
# Even a little smoothing turns an unlimited gap into a modest one. Towards epsilon = 1, the gap that tells
# the classes apart vanishes.
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

# %%
ends = {name: [run.val_accuracy for run in runs] for name, runs in arms.items()}
took = {name: [run.train_seconds for run in runs] for name, runs in arms.items()}
epochs = arms["plain"][0].images_seen / len(data.train)
say(
    f"Compared with the plain networks, the smoothed ones after {epochs:.2f} epochs are **"
    f"{gained(ends['smoothed'], ends['plain'])}**. They trained "
    f"{faster(took['smoothed'], took['plain'])}: the trick is one line of arithmetic."
)

# %% [markdown]
# How did the runs get there? We plot accuracy against epochs. One epoch is as many images as the training
# set contains.

# %%
curves = {}
for name, runs in arms.items():
    seen, _, found = torch.tensor([run.curve for run in runs]).mean(0).T
    curves[name] = (seen / len(data.train), found)
plot(curves, "epochs", "validation accuracy, mean", f"{len(runs)} runs each", marks=True)
plt.show()

# %% [markdown]
# Confidence is another matter. We compare the first network of each kind on the same validation images.

# %%
thoughts = {name: probabilities(runs[0].net, data, data.val) for name, runs in arms.items()}
sure = {name: found.max(1).values.mean().item() for name, found in thoughts.items()}
errors = {name: calibration_error(found, data.val.y) for name, found in thoughts.items()}
right = {name: (found.argmax(1) == data.val.y).float().mean() for name, found in thoughts.items()}
say(
    f"Mean confidence fell from {sure['plain']:.2f} to {sure['smoothed']:.2f}. The calibration error is "
    f"now **{changed(errors['plain'], errors['smoothed'])}**. The plain network was "
    f"{sureness(sure['plain'], float(right['plain']))}, the smoothed one is "
    f"{sureness(sure['smoothed'], float(right['smoothed']))}."
)

# %% tags=["nbval-check-output"]
holds(sure["smoothed"] < sure["plain"], "the smoothed network is less sure of itself")

# %% [markdown]
# Less confidence is good news only for a network that had too much of it. A network that has seen each
# image at most a few times is rarely overconfident, and then there is nothing to cure. The problem was with
# few labels and long training. We return to that setting, once with half as much smoothing and once with
# the same amount.
#
# Two things help to judge the result. Even an honest network has a calibration error above zero, because
# each bin holds a limited number of images. We find this *floor* by letting each network's own
# probabilities draw the labels. And there is a well-known rival that needs no training: **temperature
# scaling** (Guo et al. 2017) divides the logits by one number, chosen on some of the validation images. So
# we choose it on the first half of them, and judge everything on the second half.

# %%
import pandas as pd

thoughts = {"plain": chances}
for eps in (0.05, 0.1):
    run = train(BASELINE + LabelSmoothing(eps), few, images=budget.images, label=f"epsilon {eps}")
    thoughts[f"epsilon {eps}"] = probabilities(run.net, data, data.val)
half = len(data.val) // 2
known, answers = chances[:half].log(), data.val.y[:half]
candidates = [number / 20 for number in range(10, 101)]
temperature = min(candidates, key=lambda t: cross_entropy(known / t, answers).item())
thoughts["plain, temperature"] = (chances.log() / temperature).softmax(1)

# %% [markdown]
# One row per network:

# %%
y, rows = data.val.y[half:], {}
for name, found in thoughts.items():
    found = found[half:]
    sure, guess = found.max(1)
    accuracy = (guess == y).float().mean().item()
    floor = calibration_error(found, found.multinomial(1).flatten())
    rows[name] = accuracy, sure.mean().item(), calibration_error(found, y), floor
columns = ["accuracy", "mean confidence", "calibration error", "floor"]
results = pd.DataFrame(rows, index=columns).T
results.round(3)

# %%
best = results["calibration error"].idxmin()
plain_row, mild = results.loc["plain"], results.loc["epsilon 0.05"]
say(
    f"With {len(few.train):,} labels the plain network is "
    f"{sureness(plain_row['mean confidence'], plain_row['accuracy'])}. Smoothing by 0.05 makes its "
    f"calibration {changed(plain_row['calibration error'], mild['calibration error'])}, and its accuracy "
    f"{gained([mild['accuracy']], [plain_row['accuracy']])}. Temperature scaling chose to divide by "
    f"{temperature:.2f}. **The best calibrated row is *{best}***."
)

# %% [markdown]
# Temperature scaling cannot change which class is largest, so it leaves the accuracy as it is. Now the
# diagram of all four, on all validation images; the grey line is an honest network.

# %%
lines = {name: reliability(found, data.val.y) for name, found in thoughts.items()}
plot(lines, "confidence", "share of right answers", "one seed each", marks=True)
plt.axline((0.2, 0.2), (1, 1), color="grey")  # an honest network
plt.show()

# %% [markdown]
# The closer a line stays to the grey one, the more you can trust its probabilities. No single
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
# We draw the confidence and the accuracy of each network.

# %%
modest = [
    probabilities(run.net, data, data.val).max(1).values.mean().item() for run in sweep.values()
]
scores = [run.val_accuracy for run in sweep.values()]
lines = {"mean confidence": (list(sweep), modest), "validation accuracy": (list(sweep), scores)}
plot(lines, "epsilon", "confidence, accuracy", "one seed each", marks=True)
plt.show()

# %%
top = max(sweep, key=lambda eps: sweep[eps].val_accuracy)
say(
    f"From epsilon 0 to 0.9, mean confidence falls from {modest[0]:.2f} to {modest[-1]:.2f}. Compared with "
    f"no smoothing, accuracy at 0.9 is **{gained([scores[-1]], [scores[0]])}**; it is highest at epsilon "
    f"{top:g}."
)

# %% [markdown]
# The *order* of the ten probabilities can survive even when they are nearly equal, and accuracy asks for
# nothing else. What breaks is the meaning of the probabilities: the network now says "hardly sure" about
# answers that are right in most cases. So here is the rule of thumb: smooth a little, here by 0.05, where
# a network trains long on few labels, check its calibration on validation images, and leave the trick out
# where the probabilities are already honest.

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
