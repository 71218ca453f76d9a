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
# asks for a little less. It takes one line of code, costs almost nothing, and changes how sure the network
# says it is. This chapter shows how it affects accuracy, how it affects confidence, and when it goes too
# far.
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
# Here is the idea in one picture: the target for one training image. It holds a probability for each
# of the ten classes. *Epsilon* is the share that we take from it and divide equally among all classes. We
# draw epsilon = 0.3 so that you can see it; 0.1 is more usual.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import plot, say

label, numbers = data.train.y[0].item(), range(len(data.classes))
usual = [float(number == label) for number in numbers]
softer = [0.7 * target + 0.3 / len(numbers) for target in usual]
targets = {"usual target": (numbers, usual), "smoothed by 0.3": (numbers, softer)}
plot(targets, "class number", "target probability", marks=True)
plt.show()

# %%
say(
    f"The image shows class {label} ({data.classes[label]}). Smoothing lowers the target of this class "
    f"from 1 to **{softer[label]:.2f}** and raises that of every other class from 0 to "
    f"**{min(softer):.2f}**."
)

# %% [markdown]
# First, here is what our recorded study found about this trick. A ratio above 1 means that the second of
# the two times is the shorter. Below it is the trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline, say
from fasttricks.tricks import smoothing

say(headline("smoothing"))
Markdown(smoothing.__doc__)

# %% [markdown]
# The record answers one question: does the network reach a fixed accuracy *sooner*? There are two more. Is
# it *more accurate* after the same number of images? And can we *trust its probabilities*? These are
# three different questions, and a trick may help with one and hurt with another. We measure the second
# and the third, and put all three answers side by side at the end.
#
# ## The problem: confident and wrong
#
# We give a network few images and plenty of time: it sees the same 1,000 labels again and again. Many
# projects begin this way. To watch it change, we stop at five lengths. The rate is constant and the seed is
# the same, so each shorter run is the beginning of the longer ones.

# %%
few = data.subset(1000)
lengths = [budget.images // part for part in (16, 8, 4, 2, 1)]
grown = [
    train(BASELINE, few, images=images, evaluations=1, label=f"{images / 1000:.1f} epochs")
    for images in lengths
]
plain = grown[-1]

# %% [markdown]
# For each image, the network gives ten probabilities. The class with the largest one is its answer, and
# this largest probability is its *confidence*. We compute both for the 1,000 training images and for the
# 5,000 validation images, which no run has trained on.

# %%
from fasttricks.course import probabilities, sureness


def accuracy_and_confidence(chances, y):
    confidence, answer = chances.max(1)
    return (answer == y).float().mean().item(), confidence.mean().item()


known = [accuracy_and_confidence(probabilities(r.net, few, few.train), few.train.y) for r in grown]
new = [accuracy_and_confidence(probabilities(r.net, few, few.val), few.val.y) for r in grown]

# %%
passes = [run.images_seen / len(few.train) for run in grown]
lines = {
    "training, accuracy": (passes, [accuracy for accuracy, _ in known]),
    "training, confidence": (passes, [confidence for _, confidence in known]),
    "new, accuracy": (passes, [accuracy for accuracy, _ in new]),
    "new, confidence": (passes, [confidence for _, confidence in new]),
}
plot(lines, "times that each training image was seen", "accuracy, confidence", marks=True)
plt.show()

# %%
learned, (right, sure) = known[-1][0], new[-1]
memory = (
    "it has **memorised** nearly all of them" if learned > 0.95 else "it has not memorised them"
)
say(
    f"After {passes[-1]:.0f} passes, the network names {learned:.0%} of its training images: {memory}. In "
    f"the second half of the run, its accuracy on new images changed by "
    f"{100 * (right - new[-2][0]):+.1f} points, and its confidence by {100 * (sure - new[-2][1]):+.1f}. At "
    f"the end, its confidence in new images is {sure:.2f} on average, and it is right {right:.0%} of the "
    f"time: it is **{sureness(sure, right)}**."
)

# %% [markdown]
# A network is *well calibrated* if its confidence can be taken at its word: when it says "90 % sure", it is
# right nine times out of ten. A network that claims more is *overconfident*, and one that claims less is
# *underconfident*.
#
# Let us look more closely. We sort the images into ten bins by confidence, and compare each bin's mean
# confidence with its share of right answers. Bins with 20 images or fewer are left out.

# %%
import torch


def reliability(chances, y):
    confidence, answer = chances.max(1)
    bins = (confidence * 10).long().clamp_max(9)
    full = [bins == number for number in range(10) if (bins == number).sum() > 20]
    said = [confidence[rows].mean().item() for rows in full]
    return said, [(answer == y)[rows].float().mean().item() for rows in full]


# %% [markdown]
# This plot is called a *reliability diagram*. The grey line shows an honest network, whose confidence
# always equals its share of right answers. Points below the grey line are overconfident.


# %%
def diagram(lines, title):
    plot(lines, "confidence", "share of right answers", title, marks=True)
    plt.axline((0.2, 0.2), (1, 1), color="grey", label="honest")
    plt.legend()
    plt.show()


chances = probabilities(plain.net, data, data.val)
said, shares = reliability(chances, data.val.y)
diagram({"1,000 labels": (said, shares)}, "new images, one seed")

# %%
below = sum(share < claim for claim, share in zip(said, shares, strict=True))
top = (chances.max(1).values >= 0.9).float().mean().item()
say(
    f"**{below} of {len(said)}** points lie below the grey line. The rightmost bin has a mean confidence of "
    f"{said[-1]:.2f} and a share of right answers of {shares[-1]:.2f}. The network is at least 90 % sure of "
    f"{top:.0%} of the new images."
)

# %% [markdown]
# A single number summarises the diagram. The **expected calibration error** (ECE) is the vertical distance
# from a point to the grey line, averaged over all images, those in small bins included. With very many images, an honest network would
# have an error of zero. With a few thousand it has a little more, because the share of right answers in a
# bin is partly luck. We measure this remainder below.


# %%
def calibration_error(chances, y):
    confidence, answer = chances.max(1)
    bins, error = (confidence * 10).long().clamp_max(9), 0.0
    for number in bins.unique():
        rows = bins == number
        distance = confidence[rows].mean() - (answer[rows] == y[rows]).float().mean()
        error += rows.float().mean() * distance.abs()
    return float(error)


error = calibration_error(chances, data.val.y)
say(
    f"**The expected calibration error is {error:.3f}**: on average, stated confidence and actual accuracy "
    f"differ by {100 * error:.1f} points."
)

# %% [markdown]
# ## By hand: why softmax never reaches 1
#
# Where does the overconfidence come from? We start with the *training* images. Take one of them, and
# a network that already prefers the right class. The *logits* are the numbers that go into the softmax. To
# keep the example short, we use four classes. The logit of the right class exceeds the three others, which
# are all equal, by some gap.
#
# Softmax turns a gap into a ratio: the probability of the right class is exp(gap) times that of any other.

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
onehot_line = [-math.log(chance_of_right(gap)) for gap in gaps]


# %% [markdown]
# Now we ask for less. We take a share of 0.1 from the target of 1, and divide it equally among all four
# classes. The right class is left with 0.925, and the other three get 0.025 each. The loss is now the
# cross-entropy: each class contributes its target times its own negative logarithm.


# %%
def smoothed_loss(gap, eps=0.1, classes=4):
    p = chance_of_right(gap)
    other = (1 - p) / (classes - 1)
    share = eps / classes
    return -(1 - eps + share) * math.log(p) - (classes - 1) * share * math.log(other)


smooth_line = [smoothed_loss(gap) for gap in gaps]
plot(
    {"target 1": (gaps, onehot_line), "smoothed by 0.1": (gaps, smooth_line)},
    "gap in logits between the right class and the others",
    "loss of one image",
)
plt.show()

# %% [markdown]
# The solid curve keeps falling: the loss rewards widening the gap without limit. The dashed curve has a
# lowest point. Beyond that point, more certainty increases the loss.
#
# Where is that point? The cross-entropy is lowest where the probabilities equal the targets. Softmax can
# meet these targets exactly, because only ratios matter: exp(gap) must be the ratio of the right class's
# target to another's. The best gap is the logarithm of that ratio.


# %%
def best_gap(eps, classes):
    return math.log((1 - eps + eps / classes) / (eps / classes))


lowest = gaps[smooth_line.index(min(smooth_line))]
say(
    f"For four classes smoothed by 0.1, the formula gives a gap of {best_gap(0.1, 4):.2f}, and the curve is "
    f"lowest at {lowest:.1f}. There the loss is **{min(smooth_line):.2f}, not 0**. At a gap of 12, the "
    f"smoothed loss has grown to {smooth_line[-1]:.2f}, while the loss without smoothing is "
    f"{onehot_line[-1]:.5f}."
)

# %% tags=["nbval-check-output"]
from fasttricks.course import changed, faster, gained, holds

holds(abs(lowest - best_gap(0.1, 4)) < 0.06, "the curve is lowest where the formula says")

# %% [markdown]
# A perfect network has a smoothed loss above zero. So never compare a smoothed training loss with a plain
# one: evaluate both with the plain loss.
#
# For our ten classes, this is how the best gap depends on epsilon:

# %%
shares_taken = [0.01 * number for number in range(1, 100)]
ideal = [best_gap(eps, 10) for eps in shares_taken]
plot({"ten classes": (shares_taken, ideal)}, "epsilon", "best gap in logits")
plt.show()

# %%
say(
    f"An epsilon of 0.01 asks for a gap of {best_gap(0.01, 10):.1f}, 0.1 for **{best_gap(0.1, 10):.1f}**, "
    f"and 0.9 for only {best_gap(0.9, 10):.1f}."
)

# %% [markdown]
# Even a little smoothing turns an unlimited gap into a limited one. Towards epsilon = 1, the gap that tells
# the classes apart vanishes.
#
# ## From training images to new ones
#
# So far, this explains only why confidence grows on *training* images. Why does it grow on new ones? The
# same weights compute all logits. A network that widens the gaps of its training images makes its weights
# stretch logits in general. Nothing in the loss tells it to be careful with images that it never sees.
#
# We measure the gap between the two largest logits. It is the logarithm of the ratio of the two largest
# probabilities. We compare the training images with new ones, and separate the new ones that the network
# names correctly from those that it gets wrong.

# %%
import pandas as pd

hit = chances.argmax(1) == data.val.y
groups = {
    "training images": probabilities(plain.net, few, few.train),
    "new, named correctly": chances[hit],
    "new, named wrongly": chances[~hit],
}
table = {}
for name, group in groups.items():
    first, second = group.topk(2).values.clamp_min(1e-12).log().T
    gap = (first - second).median().item()
    table[name] = len(group), gap, first.exp().mean().item()
summary = pd.DataFrame(table, index=["images", "median gap", "mean confidence"]).T
summary.round(2).astype({"images": int})

# %%
gaps_of, claims = summary["median gap"], summary["mean confidence"]
say(
    f"The median gap is {gaps_of.iloc[0]:.1f} on training images and {gaps_of.iloc[1]:.1f} on new images that "
    f"are named correctly. Even on those named wrongly, the network's mean confidence is "
    f"**{claims.iloc[2]:.2f}**. On training images, a confidence of {claims.iloc[0]:.2f} meets an accuracy of "
    f"{learned:.2f}: {sureness(claims.iloc[0], learned)}. On new images, one of {sure:.2f} meets "
    f"{right:.2f}: **{sureness(sure, right)}**."
)

# %% [markdown]
# Label smoothing limits the gap on the training images. Through the same weights, it should also reduce the
# gap on new ones. Whether it reduces it by the right amount is a question for an experiment.
#
# ## Write it
#
# The trick is a function of the targets. A target is a row of ten probabilities, so smoothing is one
# line:


# %%
def smooth(q, eps):
    return (1 - eps) * q + eps / q.shape[1]


# %% [markdown]
# Here is an example. The first row is a one-hot target, which means 1 for one class and 0 for all others.
# The second is already blended, as mixup (chapter 4) would leave it.

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
holds(torch.allclose(sums, torch.ones(64)), "each smoothed row still sums to 1")

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
# each of the others, where K is the number of classes. That is the same family of targets with a different
# epsilon. We follow torch.
#
# Third, it does not matter whether you smooth before or after mixup. Smoothing multiplies each target by
# 1 - eps and adds the same constant, eps / K, to all of them. Mixup takes a weighted average of two targets,
# and its weights sum to 1. So the constant comes out of the average unchanged.

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
# an argument. Leave the argument out when you compute a validation loss.
#
# ## Use it: many images, few passes
#
# We train fresh networks with two recipes on all training images, using the same seeds and the same number
# of images.

# %%
arms = train_arms({"plain": BASELINE, "smoothed": BASELINE + LabelSmoothing(0.1)}, data)

# %% [markdown]
# For every network, we compute accuracy, confidence and calibration error on the validation images, and
# also the plain loss, without smoothing. Each row of the table is the mean of the seeds.
#
# The plain loss needs logits, and we have probabilities. Their logarithms will do: they equal the logits
# apart from a constant that is the same for all classes of an image, and softmax ignores such a constant.


# %%
def judged(chances, y):
    accuracy, confidence = accuracy_and_confidence(chances, y)
    return {
        "accuracy": accuracy,
        "mean confidence": confidence,
        "calibration error": calibration_error(chances, y),
        "plain loss": cross_entropy(chances.clamp_min(1e-12).log(), y).item(),
    }


several = f"{budget.seeds} seeds" if budget.seeds > 1 else "one seed"
by_arm = {
    name: [probabilities(run.net, data, data.val) for run in runs] for name, runs in arms.items()
}
many = {
    name: pd.DataFrame([judged(chances, data.val.y) for chances in found])
    for name, found in by_arm.items()
}
pd.DataFrame({name: found.mean() for name, found in many.items()}).T.round(3)

# %%
without, smoothed = many["plain"], many["smoothed"]
took = {name: [run.train_seconds for run in runs] for name, runs in arms.items()}
epochs = arms["plain"][0].images_seen / len(data.train)
level = gained(list(smoothed["accuracy"]), list(without["accuracy"]))
say(
    f"After {epochs:.2f} epochs, the accuracy of the smoothed networks is **{level}**. The trick is "
    f"one line of arithmetic per batch; they trained {faster(took['smoothed'], took['plain'])}."
)

# %%
plain_mean, smooth_mean = without.mean(), smoothed.mean()
calibration = changed(plain_mean["calibration error"], smooth_mean["calibration error"])
say(
    f"Mean confidence went from {plain_mean['mean confidence']:.2f} to "
    f"{smooth_mean['mean confidence']:.2f}. Calibration became **{calibration}**. The plain "
    f"networks were {sureness(plain_mean['mean confidence'], plain_mean['accuracy'])}, the smoothed ones are "
    f"**{sureness(smooth_mean['mean confidence'], smooth_mean['accuracy'])}**."
)

# %% [markdown]
# The reliability diagram shows where. We pool the seeds, so that each bin holds more images.


# %%
def pooled(found, rows=slice(None)):
    y = data.val.y[rows].repeat(len(found))
    return reliability(torch.cat([chances[rows] for chances in found]), y)


lines = {name: pooled(found) for name, found in by_arm.items()}
diagram(lines, f"all training labels, {several}")

# %%
rise = {
    name: sum(share - claim for claim, share in zip(*line, strict=True)) / len(line[0])
    for name, line in lines.items()
}
say(
    f"On average, a point of the plain networks lies {rise['plain']:+.2f} from the grey line, and one of the "
    f"smoothed networks **{rise['smoothed']:+.2f}**. Plus means above the line: the networks are right more "
    f"often than they say."
)

# %% [markdown]
# Less confidence is good news only for a network that had too much of it. Without overconfidence, there is
# nothing to fix.
#
# ## Use it: few images, many passes
#
# Now we return to the 1,000 labels, this time with several seeds and several values of epsilon. Smoothing
# also has a well-known rival that needs no training. **Temperature scaling** (Guo et al. 2017) divides the
# logits of a finished plain network by one number, the *temperature*. A temperature above 1 shrinks all
# gaps. It cannot change which class is largest, so it leaves the accuracy as it is.
#
# Both methods have one number to choose. To be fair, we choose both on the first half of the validation
# images and judge both on the second half, which had no part in the choice. This is the longest cell of the
# chapter, and it shows nothing until it is done.

# %%
from fasttricks.course import one_line

by_epsilon = {0.0: [], 0.02: [], 0.05: [], 0.1: []}
with one_line():
    for eps, found in by_epsilon.items():
        for seed in range(budget.seeds):
            recipe = BASELINE + LabelSmoothing(eps)
            run = train(recipe, few, images=budget.images, seed=seed, evaluations=1)
            found.append(probabilities(run.net, data, data.val))

# %% [markdown]
# We choose by the number that we will judge by, the calibration error. Epsilon is chosen by the mean of the
# seeds, and a temperature for each plain network.


# %%
def tempered(chances, temperature):
    return (chances.clamp_min(1e-12).log() / temperature).softmax(1)


def error_on(rows, chances, temperature=1.0):
    return calibration_error(tempered(chances[rows], temperature), data.val.y[rows])


half = len(data.val) // 2
choosing, judging = slice(None, half), slice(half, None)
first_half = {eps: sum(error_on(choosing, c) for c in found) for eps, found in by_epsilon.items()}
chosen = min(first_half, key=first_half.get)

# %%
temperatures, scaled = [], []
candidates = [number / 20 for number in range(10, 101)]
for chances in by_epsilon[0.0]:
    found = [error_on(choosing, chances, temperature) for temperature in candidates]
    temperatures.append(candidates[found.index(min(found))])
    scaled.append(tempered(chances, temperatures[-1]))

# %% [markdown]
# One more thing helps to judge: the error that an honest network would have with this many images. Suppose
# a network is perfectly honest. Then the right class of each image is like a draw from the ten
# probabilities that it gives. So we replace the true labels by such draws and measure the calibration error
# again. What is left is sampling noise. The mean of twenty such draws is the *floor*: an error near it
# cannot be told from honesty.


# %%
def floor(chances, draws=20):
    labels = chances.multinomial(draws, replacement=True)
    return sum(calibration_error(chances, drawn) for drawn in labels.T) / draws


names = {eps: f"epsilon {eps:g}" if eps else "plain" for eps in by_epsilon}
methods = {names[eps]: found for eps, found in by_epsilon.items()}
methods["plain, temperature"] = scaled
scores = {}
for name, found in methods.items():
    rows = [chances[judging] for chances in found]
    table = pd.DataFrame([judged(chances, data.val.y[judging]) for chances in rows])
    scores[name] = table.assign(floor=[floor(chances) for chances in rows])
results = pd.DataFrame({name: table.mean() for name, table in scores.items()}).T
results.round(3)

# %%
picked, rival, count = names[chosen], "plain, temperature", len(temperatures)
errors = {name: found["calibration error"] for name, found in scores.items()}
mean = results["calibration error"]
lower = {name: (errors[name] < errors["plain"]).sum() for name in errors}
divided = ", ".join(f"{temperature:.2f}" for temperature in temperatures)
say(
    f"The first half chose **{picked}**, and {divided} as temperatures. Judged on the second "
    f"half, over {several}, {picked} makes calibration **{changed(mean['plain'], mean[picked])}**; its error "
    f"is below that of plain training in {lower[picked]} of {count}. Temperature scaling makes it "
    f"**{changed(mean['plain'], mean[rival])}**, below in {lower[rival]} of {count}. Of the two, temperature "
    f"scaling has the lower error in **{(errors[rival] < errors[picked]).sum()} of {count}**."
)

# %%
accuracy = {name: list(found["accuracy"]) for name, found in scores.items()}
times = results["calibration error"] / results["floor"]
say(
    f"Compared with plain training, the accuracy with {picked} is "
    f"**{gained(accuracy[picked], accuracy['plain'])}**. Plain training's calibration error is "
    f"{times['plain']:.1f} times its floor, that of {picked} {times[picked]:.1f} times, and that of "
    f"temperature scaling {times[rival]:.1f} times. The plain loss, which judges all ten probabilities "
    f"and not just the largest, is lowest for **{results['plain loss'].idxmin()}**: it is "
    f"{results['plain loss']['plain']:.3f} for plain training, {results['plain loss'][picked]:.3f} for "
    f"{picked}, and {results['plain loss'][rival]:.3f} with temperature scaling."
)

# %% [markdown]
# Why might a method fall short of its floor? Both have a single number to set. It can correct the average
# confidence, but not a network that is too sure in one bin and not sure enough in the next. And the number
# was chosen on other images. Look at the plain loss too before you call probabilities good, because the
# calibration error sees only the largest of the ten.
#
# Now the diagram, on the second half of the validation images only.

# %%
shown = dict.fromkeys(["plain", picked, "epsilon 0.1", rival])
lines = {name: pooled(methods[name], judging) for name in shown}
diagram(lines, f"1,000 labels, {several}")

# %%
verdicts = [
    f"*{name}* is {sureness(results['mean confidence'][name], results['accuracy'][name])}"
    for name in shown
]
say(f"Below the line is overconfident, above it underconfident. On average, {'; '.join(verdicts)}.")

# %% [markdown]
# The closer a line stays to the grey one, the more you can trust its probabilities. No single epsilon is
# right for every case: it must match the overconfidence, so choose it on validation images.
#
# ## Break it
#
# If a little helps, does more help more? We go back to all the training images and raise epsilon to 0.9.
# Each network sees half as many images as before, and we hide its lines again.

# %%
sweep = {0.0: [], 0.3: [], 0.6: [], 0.9: []}
with one_line():
    for eps, found in sweep.items():
        for seed in range(budget.seeds):
            recipe = BASELINE + LabelSmoothing(eps)
            run = train(recipe, data, images=budget.images // 2, seed=seed, evaluations=1)
            found.append(judged(probabilities(run.net, data, data.val), data.val.y))

# %% [markdown]
# We draw accuracy and confidence, and also the *ceiling*: the target of the right class, 1 - eps + eps / K.
# A network that meets its targets exactly is as sure as the ceiling, and no surer.

# %%
swept = {eps: pd.DataFrame(found) for eps, found in sweep.items()}
ends = {eps: list(table["accuracy"]) for eps, table in swept.items()}
confidences = [table["mean confidence"].mean() for table in swept.values()]
accuracies = [table["accuracy"].mean() for table in swept.values()]
ceiling = [1 - eps + eps / len(data.classes) for eps in sweep]
lines = {
    "validation accuracy": (list(sweep), accuracies),
    "ceiling": (list(sweep), ceiling),
    "mean confidence": (list(sweep), confidences),
}
title = f"all training labels, mean of {several}"
plot(lines, "epsilon", "accuracy, confidence", title, marks=True)
plt.show()

# %%
say(
    f"From epsilon 0 to 0.9, mean confidence goes from {confidences[0]:.2f} to **{confidences[-1]:.2f}**, and "
    f"the ceiling from 1 to {ceiling[-1]:.2f}. The network without smoothing is "
    f"{sureness(confidences[0], accuracies[0])}, the one at 0.9 is "
    f"**{sureness(confidences[-1], accuracies[-1])}**. Compared with no smoothing, accuracy at 0.9 is "
    f"**{gained(ends[0.9], ends[0.0])}**."
)

# %%
best = max(ends, key=lambda eps: sum(ends[eps]))
spread = max(100 * (max(found) - min(found)) for found in ends.values())
more = 100 * (max(accuracies) - accuracies[0])
luck = f"seeds with the same epsilon differ by up to {spread:.1f} points"
luck += ", so this may be luck" if more <= spread else ""
say(
    f"Accuracy is highest at epsilon {best:g}. Compared with no smoothing, it is "
    f"{gained(ends[best], ends[0.0])}. A warning: "
    + (f"{luck}." if budget.seeds > 1 else "one seed cannot tell a gain from luck.")
)

# %% [markdown]
# Accuracy asks only which of the ten probabilities is largest, and that can survive even when they are
# nearly equal. What breaks first is the meaning of the probabilities: the confidence follows the ceiling
# down, and the network is no longer sure of anything, even where it is usually right. Near epsilon = 1,
# accuracy is at risk too, because the targets of two classes differ by no more than 1 - eps.
#
# ## What we found
#
# Here are the three questions again, each with its own answer.

# %%
say(f"**Speed.** {headline('smoothing')}")
say(f"**Accuracy.** After {epochs:.2f} epochs on all labels, smoothing by 0.1 was **{level}**.")
say(
    f"**Calibration.** On all labels, smoothing by 0.1 made it **{calibration}**. With {len(few.train):,} "
    f"labels, {picked} made it **{changed(mean['plain'], mean[picked])}**, and temperature scaling "
    f"**{changed(mean['plain'], mean[rival])}** ({several})."
)

# %% [markdown]
# The study trains each recipe until it reaches the target; our own runs stop after a fixed number of images.
#
# These answers need not agree. Speed and accuracy depend only on which class comes first; calibration
# depends on the size of the probabilities, and that is what smoothing changes most directly.
#
# What about the rest of the card? *Cost none*: it is one line of arithmetic
# on the targets. *Too sure of itself*: that is the
# setting with 1,000 labels. *Labels are noisy*: we did not test it. Lukasik et al. 2020 found that
# smoothing helps there; chapter 4 creates such labels, so you can try it. *Smoothed teachers teach
# worse*: in *distillation*, one network learns from another's probabilities, and Müller et al. 2019 found
# that a smoothed teacher has lost information about how similar the classes are.
#
# So here is the rule of thumb. **Measure first:** compare confidence with accuracy on validation images.
#
# - **The network is not overconfident:** leave smoothing out, or at least do not expect better
#   probabilities from it.
# - **It is overconfident, and already trained:** use temperature scaling. It takes seconds, leaves the
#   accuracy alone, and can be undone.
# - **It is overconfident, and you will train again:** try two or three small epsilons and choose on
#   validation images. The usual 0.1 is where Szegedy et al. set it for the 1,000 classes of ImageNet, and
#   it may be too much for your data.
#
# ## Questions
#
# **1. Why does a one-hot target push logits apart without limit?**
#
# <details><summary>Answer</summary>Softmax reaches 1 only at an infinite gap, and the loss keeps falling
# as the gap grows.</details>
#
# **2. With ten classes and epsilon 0.1, what does the right class get?**
#
# <details><summary>Answer</summary>0.9 + 0.1 / 10 = 0.91. In torch's convention, the right class also
# receives a share of epsilon.</details>
#
# **3. Why can smoothing be applied before or after mixup?**
#
# <details><summary>Answer</summary>Smoothing scales all targets and adds a constant. Mixup's two weights
# sum to 1, so the constant is the same after mixing as before.</details>
#
# **4. You have ten classes and epsilon 0.1. The training loss stops falling at 0.5. Is the network
# stuck?**
#
# <details><summary>Answer</summary>No, it has arrived. The lowest possible loss is the <em>entropy</em> of
# the target, its cross-entropy with itself. For 0.91 and nine times 0.01, that is 0.50.</details>
#
# **5. Your network is overconfident, but you cannot train it again. What do you do, and on which images?**
#
# <details><summary>Answer</summary>Temperature scaling. Choose the temperature on some images that the
# network was not trained on, and measure the calibration error on others.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** Turn the formula of the best gap around: which epsilon makes a given gap the best one?


# %%
from fasttricks.course import check


def eps_for(gap, classes):
    raise NotImplementedError


check("smoothing", 1, eps_for)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def eps_for(gap, classes):
#     return classes / (math.exp(gap) + classes - 1)
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
# **Exercise 3.** Predict the lowest training loss that is possible with a given epsilon and number of
# classes. It should also work without smoothing.


# %%
def lowest_loss(eps, classes):
    raise NotImplementedError


check("smoothing", 3, lowest_loss)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def lowest_loss(eps, classes):
#     share = eps / classes
#     targets = [1 - eps + share] + [share] * (classes - 1)
#     return -sum(target * math.log(target) for target in targets if target > 0)
# ```
#
# </details>
#
# ## Further reading
#
# - Szegedy et al. 2015, [arXiv 1512.00567](https://arxiv.org/abs/1512.00567), section 7: the first
#   description of label smoothing.
# - Guo et al. 2017, [arXiv 1706.04599](https://arxiv.org/abs/1706.04599): calibration of modern networks,
#   the reliability diagram, and temperature scaling.
# - Müller et al. 2019, [arXiv 1906.02629](https://arxiv.org/abs/1906.02629): when smoothing helps, and
#   why smoothed teachers teach worse.
# - Lukasik et al. 2020, [arXiv 2003.02819](https://arxiv.org/abs/2003.02819): label smoothing and noisy
#   labels.
