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
# We usually ask a classifier for certainty: *this is a shirt, and nothing else at all*. Label smoothing
# asks for a little less. It takes one line of code, costs almost nothing, and changes how sure the network
# says it is. This chapter measures what it does to accuracy, to confidence and to the loss, compares it
# with a method that needs no training, and goes too far on purpose.
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
# The *budget* in this line depends on the device. It sets which network we train, on how many images, and
# with how many seeds. We move the data to the device that the networks will use, at the image size they
# will see.

# %%
from fasttricks import BASELINE, LabelSmoothing, choose_budget, load, train
from fasttricks.course import train_arms

budget = choose_budget()
data = load().to(BASELINE.world.device(), budget.image_size)
several = f"{budget.seeds} seeds" if budget.seeds > 1 else "one seed"

# %% [markdown]
# Here is the idea in one picture: the target for one training image. A target holds a probability for
# each of the ten classes. *Epsilon* is the share that we take from the target and divide equally among all
# classes. We draw epsilon = 0.3 so that you can see it; 0.1 is more usual.

# %%
import matplotlib.pyplot as plt
import pandas as pd

label = data.train.y[0].item()
usual = [float(number == label) for number in range(len(data.classes))]
softer = [0.7 * target + 0.3 / len(usual) for target in usual]
targets = pd.DataFrame({"usual target": usual, "smoothed by 0.3": softer}, index=data.classes)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
targets.plot.bar(subplots=True, ax=axes, color="grey", legend=False, ylabel="target probability")
plt.show()

# %%
from fasttricks.course import say

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

from fasttricks.course import headline
from fasttricks.tricks import smoothing

say(headline("smoothing"))
Markdown(smoothing.__doc__)

# %% [markdown]
# The record answers one question: does the network reach a fixed accuracy *sooner*? We ask three more. Is
# it *more accurate* after the same number of images? Can we *trust its confidence*? And does it have a
# *lower loss* on new images? A trick may help with one and hurt with another. We measure the last three,
# and put all four answers side by side at the end.
#
# ## The problem: confident and wrong
#
# We give a network few images and plenty of time: it sees the same 1,000 labels again and again. Many
# projects begin this way. To watch it change, we stop at five lengths. The rate is constant and the seed is
# the same, so each shorter run is the beginning of the longer ones.

# %%
from fasttricks.course import one_line

few = data.subset(1000)
lengths = [budget.images // part for part in (16, 8, 4, 2, 1)]
with one_line() as tell:
    stages = [train(BASELINE, few, images=images, evaluations=1) for images in lengths]
    tell(f"{len(stages)} runs")

# %% [markdown]
# For each image, the network gives ten probabilities. The class with the largest one is its answer, and
# this largest probability is its *confidence*. We compute both for the 1,000 training images and for the
# validation images, which no run has trained on. We call these *new* images.

# %%
from fasttricks.course import probabilities


def accuracy_and_confidence(predicted, y):
    confidence, answer = predicted.max(1)
    return (answer == y).float().mean().item(), confidence.mean().item()


on_training, on_new = [], []
for run in stages:
    on_training.append(accuracy_and_confidence(probabilities(run.net, few, few.train), few.train.y))
    on_new.append(accuracy_and_confidence(probabilities(run.net, few, few.val), few.val.y))

# %%
from fasttricks.course import plot

passes = [run.images_seen / len(few.train) for run in stages]
lines = {
    "training images, accuracy": (passes, [accuracy for accuracy, _ in on_training]),
    "training images, confidence": (passes, [confidence for _, confidence in on_training]),
    "new images, accuracy": (passes, [accuracy for accuracy, _ in on_new]),
    "new images, confidence": (passes, [confidence for _, confidence in on_new]),
}
plot(lines, "times that each training image was seen", "accuracy, confidence", marks=True)
plt.show()

# %%
from fasttricks.course import sureness

learned, known_confidence = on_training[-1]
accuracy, confidence = on_new[-1]
more_accuracy, more_confidence = accuracy - on_new[-2][0], confidence - on_new[-2][1]
say(
    f"After {passes[-1]:.0f} passes, the network names {learned:.0%} of its training images correctly. In "
    f"the second half of the run, its accuracy on new images changed by {100 * more_accuracy:+.1f} points, "
    f"and its confidence by {100 * more_confidence:+.1f}."
)
say(
    f"At the end, its mean confidence on new images is {confidence:.2f}, and it is right {accuracy:.0%} of "
    f"the time: it is **{sureness(confidence, accuracy)}**."
)

# %% [markdown]
# A network is *well calibrated* if its confidence can be taken at its word: when it says "90 % sure", it is
# right nine times out of ten. A network that claims more is *overconfident*, and one that claims less is
# *underconfident*.
#
# Let us look more closely. We sort the new images into ten bins by confidence, and compare each bin's mean
# confidence with its share of right answers. Bins with 20 images or fewer are not drawn.

# %%
import torch


def reliability(predicted, y):
    confidence, answer = predicted.max(1)
    bins = (confidence * 10).long().clamp_max(9)
    drawn = [bins == number for number in range(10) if (bins == number).sum() > 20]
    claimed = [confidence[rows].mean().item() for rows in drawn]
    correct = [(answer == y)[rows].float().mean().item() for rows in drawn]
    return claimed, correct


# %% [markdown]
# This plot is called a *reliability diagram*. The grey line shows an honest network, whose confidence
# always equals its share of right answers. Points below the grey line are overconfident.


# %%
def diagram(lines, title):
    plot(lines, "confidence", "share of right answers", title, marks=True)
    plt.axline((0.2, 0.2), (1, 1), color="grey", label="honest")
    plt.legend()
    plt.show()


plain_new = probabilities(stages[-1].net, data, data.val)
claimed, correct = reliability(plain_new, data.val.y)
diagram({"network of the longest run": (claimed, correct)}, "new images, 1,000 labels, one seed")

# %%
below = sum(share < claim for claim, share in zip(claimed, correct, strict=True))
very_sure = (plain_new.max(1).values >= 0.9).float().mean().item()
say(
    f"**{below} of {len(claimed)}** points lie below the grey line. In the rightmost bin, the mean confidence "
    f"is {claimed[-1]:.2f} and the share of right answers {correct[-1]:.2f}. The network is at least 90 % "
    f"sure of {very_sure:.0%} of the new images."
)

# %% [markdown]
# A single number summarises the diagram. The **expected calibration error** (ECE) is the vertical distance
# from a point to the grey line, averaged over all images, those in small bins included.


# %%
def calibration_error(predicted, y):
    confidence, answer = predicted.max(1)
    bins, error = (confidence * 10).long().clamp_max(9), 0.0
    for number in bins.unique():
        rows = bins == number
        distance = confidence[rows].mean() - (answer[rows] == y[rows]).float().mean()
        error += rows.float().mean() * distance.abs()
    return float(error)


error = calibration_error(plain_new, data.val.y)
say(
    f"**The expected calibration error is {error:.3f}**: on average, stated confidence and actual accuracy "
    f"differ by {100 * error:.1f} points."
)

# %% [markdown]
# ## By hand: why softmax never reaches 1
#
# Where does the confidence come from? We start with the *training* images. Take one of them, and a
# network that already prefers the right class. The *logits* are the numbers that go into the softmax. To
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
usual_loss = [-math.log(chance_of_right(gap)) for gap in gaps]


# %% [markdown]
# Now we ask for less. We take a share of 0.1 from the target of 1, and divide it equally among all four
# classes. The right class is left with 0.925, and the other three get 0.025 each. The loss is now the
# cross-entropy: each class contributes its target times its own negative logarithm.


# %%
def smoothed_loss(gap, eps=0.1, classes=4):
    right = chance_of_right(gap)
    other = (1 - right) / (classes - 1)
    share = eps / classes
    return -(1 - eps + share) * math.log(right) - (classes - 1) * share * math.log(other)


softer_loss = [smoothed_loss(gap) for gap in gaps]
plot(
    {"target 1": (gaps, usual_loss), "smoothed by 0.1": (gaps, softer_loss)},
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


lowest = gaps[softer_loss.index(min(softer_loss))]
say(
    f"For four classes smoothed by 0.1, the formula gives a gap of {best_gap(0.1, 4):.2f}, and the curve is "
    f"lowest at {lowest:.1f}. There the loss is **{min(softer_loss):.2f}, not 0**. At a gap of 12, the "
    f"smoothed loss has grown to {softer_loss[-1]:.2f}."
)
say(
    f"For our ten classes, an epsilon of 0.01 asks for a gap of {best_gap(0.01, 10):.1f}, 0.1 for "
    f"**{best_gap(0.1, 10):.1f}**, and 0.9 for only {best_gap(0.9, 10):.1f}."
)

# %% [markdown]
# The best gap is where the formula says that it is:

# %% tags=["nbval-check-output"]
from fasttricks.course import changed, clear, faster, gained, holds

holds(abs(lowest - best_gap(0.1, 4)) < 0.06, "the curve is lowest where the formula says")

# %% [markdown]
# Even a little smoothing turns an unlimited gap into a limited one. And even a perfect network has a
# smoothed loss above zero. So never compare a smoothed loss with a usual one. From here on, the *ordinary
# loss* is the cross-entropy with the true labels, without smoothing, whatever the network was trained with.
#
# ## From training images to new ones
#
# So far, this explains only why confidence grows on *training* images. Why does it grow on new ones? The
# same weights compute all logits. A network that widens the gaps of its training images makes its weights
# stretch logits in general. Nothing in the loss tells it to be careful with images that it never sees.
#
# To see this, we measure the gap between the two largest logits. It is the logarithm of the ratio of the
# two largest probabilities. We compare the training images with new ones, and separate the new ones that
# the network names correctly from those that it gets wrong.


# %%
def median_gap(predicted):
    largest, second = predicted.topk(2).values.clamp_min(1e-12).log().T
    return (largest - second).median().item()


is_right = plain_new.argmax(1) == data.val.y
groups = {
    "training images": probabilities(stages[-1].net, few, few.train),
    "new, named correctly": plain_new[is_right],
    "new, named wrongly": plain_new[~is_right],
}
rows = [
    (len(group), median_gap(group), group.max(1).values.mean().item()) for group in groups.values()
]
summary = pd.DataFrame(
    rows, index=list(groups), columns=["images", "median gap", "mean confidence"]
)
summary.round(2)

# %%
median_gaps, confidences = list(summary["median gap"]), list(summary["mean confidence"])
say(
    f"The median gap is {median_gaps[0]:.1f} on training images and {median_gaps[1]:.1f} on new images that "
    f"are named correctly. On those named wrongly, the network's mean confidence is still "
    f"**{confidences[2]:.2f}**."
)
say(
    f"On its training images, the network is {sureness(known_confidence, learned)}. On new images, it is "
    f"**{sureness(confidence, accuracy)}**. "
    + (
        "It has learned its confidence on images that it knows, and it keeps most of it on images that it "
        "does not know, where it is right less often."
        if confidence > accuracy + 0.01
        else "In a run as short as this one, there is no overconfidence yet."
    )
)

# %% [markdown]
# Label smoothing limits the gap on the training images. Through the same weights, it should also reduce the
# gap on new ones. Whether it does, and whether by the right amount, we measure below.
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
# For every network, we compute accuracy, confidence, calibration error and ordinary loss on the validation
# images. Each row of the table is the mean of the seeds.
#
# The loss needs logits, and we have probabilities. Their logarithms will do: they equal the logits apart
# from a constant that is the same for all classes of an image, and softmax ignores such a constant.


# %%
def judged(predicted, y):
    accuracy, confidence = accuracy_and_confidence(predicted, y)
    return {
        "accuracy": accuracy,
        "mean confidence": confidence,
        "calibration error": calibration_error(predicted, y),
        "ordinary loss": cross_entropy(predicted.clamp_min(1e-12).log(), y).item(),
    }


many = {}
for name, runs in arms.items():
    judgements = [judged(probabilities(run.net, data, data.val), data.val.y) for run in runs]
    many[name] = pd.DataFrame(judgements)
pd.DataFrame({name: table.mean() for name, table in many.items()}).T.round(3)

# %% [markdown]
# For accuracy and speed, the course has functions that turn the numbers into a verdict. For the loss, we
# write one: it is *higher* or *lower* only if that is so with every seed and by at least 1 % on average.


# %%
def moved(before, after):
    means = sum(before) / len(before), sum(after) / len(after)
    rises = sum(new > old for old, new in zip(before, after, strict=True))
    shown = f"{means[0]:.3f} → {means[1]:.3f}, {several}"
    if abs(means[1] / means[0] - 1) < 0.01:
        return f"about the same ({shown})"
    if rises not in (0, len(before)):
        return f"undecided ({shown}, which do not agree)"
    return f"{'higher' if rises else 'lower'} ({shown})"


# %%
plain_many, smooth_many = many["plain"], many["smoothed"]
plain_mean, smooth_mean = plain_many.mean(), smooth_many.mean()
epochs = arms["plain"][0].images_seen / len(data.train)
accuracy_many = gained(list(smooth_many["accuracy"]), list(plain_many["accuracy"]))
calibration_many = changed(plain_mean["calibration error"], smooth_mean["calibration error"])
loss_many = moved(plain_many["ordinary loss"], smooth_many["ordinary loss"])
seconds = {name: [run.train_seconds for run in runs] for name, runs in arms.items()}
say(
    f"After {epochs:.2f} epochs, the accuracy of the smoothed networks is **{accuracy_many}**. For the "
    f"same number of images, they trained {faster(seconds['smoothed'], seconds['plain'])}. With {several}, "
    f"we call a difference in accuracy clear from {clear(budget.seeds):.1f} points on."
)
say(
    f"Calibration became **{calibration_many}**. The plain networks are "
    f"{sureness(plain_mean['mean confidence'], plain_mean['accuracy'])}, the smoothed ones "
    f"**{sureness(smooth_mean['mean confidence'], smooth_mean['accuracy'])}**."
)
say(f"The ordinary loss of the smoothed networks is **{loss_many}**.")

# %% [markdown]
# The reliability diagram shows where the confidence went. We pool the seeds, so that each bin holds more
# images.


# %%
def pooled(networks, rows=slice(None)):
    y = data.val.y[rows].repeat(len(networks))
    return reliability(torch.cat([predicted[rows] for predicted in networks]), y)


lines = {}
for name, runs in arms.items():
    lines[name] = pooled([probabilities(run.net, data, data.val) for run in runs])
diagram(lines, f"all training labels, {several}")

# %%
heights = {}
for name, (claimed, correct) in lines.items():
    differences = [share - claim for claim, share in zip(claimed, correct, strict=True)]
    heights[name] = sum(differences) / len(differences)
say(
    f"On average, a point of the plain networks lies {heights['plain']:+.2f} from the grey line, and one of "
    f"the smoothed networks **{heights['smoothed']:+.2f}**. Plus means above the line: the networks are "
    f"right more often than they say."
)

# %% [markdown]
# **What smoothing asks of an honest network.** Think of many images that look alike, of which a share p
# belongs to some class. Their average target for this class is p in usual training, and (1 - eps) p + eps / K
# in smoothed training. The loss is lowest where the probabilities equal the average targets. So usual
# training asks for the true shares, and smoothed training for something else. A network that would be honest
# without smoothing can only become less so: its confidence sinks too low, and its ordinary loss rises.
#
# **What a higher ordinary loss means.** The network may name as many images correctly as before, but it
# gives their true classes less probability. That hurts everyone who uses the probabilities: to decide
# which images a person should check, to weigh costs, or to compare language models by their perplexity,
# which is the exponential of this loss. It does not matter to someone who uses only the answer.
#
# **What these runs cannot show.** They stop early, so they say nothing about accuracy at the end of a long
# training. The next networks see every image many times, but they have few images. And a gain of a few
# tenths of a point is too small for so few seeds. We come back to this at the end.
#
# ## Use it: few images, many passes
#
# Now we return to the 1,000 labels, this time with several seeds and several values of epsilon. This is
# the longest cell of the chapter.

# %%
few_runs = {0.0: [], 0.02: [], 0.05: [], 0.1: []}
with one_line() as tell:
    for eps, runs in few_runs.items():
        for seed in range(budget.seeds):
            recipe = BASELINE + LabelSmoothing(eps)
            runs.append(train(recipe, few, images=budget.images, seed=seed, evaluations=1))
    tell(f"{len(few_runs)} values of epsilon, {several} each")

# %% [markdown]
# First, the promise from above: does smoothing limit the gap between the two largest logits, on new images
# too? We put the median gap, averaged over the seeds, beside the best gap of our formula. The formula's gap
# is for a training image whose nine other classes are all equally unlikely. We measure the gap to the most
# likely of them, so it may be smaller.


# %%
def mean_gap(runs, part):
    found = [median_gap(probabilities(run.net, few, part)) for run in runs]
    return sum(found) / len(found)


gap_rows = {}
for eps, runs in few_runs.items():
    limit = best_gap(eps, len(data.classes)) if eps else math.inf
    gap_rows[eps] = limit, mean_gap(runs, few.train), mean_gap(runs, few.val)
columns = ["best gap by the formula", "gap, training images", "gap, new images"]
gap_table = pd.DataFrame(gap_rows, index=columns).T.rename_axis("epsilon")
gap_table.round(1)

# %%
known_gaps, new_gaps = list(gap_table[columns[1]]), list(gap_table[columns[2]])
narrower = new_gaps[-1] < 0.95 * new_gaps[0]
carried = (
    "So smoothing is carried from training images to new ones, as overconfidence is."
    if narrower and known_gaps[-1] < 0.95 * known_gaps[0]
    else "In runs as short as these, the limit is not felt on both kinds of images."
)
say(
    f"From no smoothing to an epsilon of 0.1, the gap on training images goes from {known_gaps[0]:.1f} to "
    f"{known_gaps[-1]:.1f}, and on new images from {new_gaps[0]:.1f} to **{new_gaps[-1]:.1f}**. {carried}"
)

# %% [markdown]
# Smoothing has a well-known competitor that needs no training. **Temperature scaling** (Guo et al. 2017)
# divides the logits of a finished plain network by one number, the *temperature*. A temperature above 1
# shrinks all gaps. It cannot change which class is largest, so it leaves the accuracy as it is.
#
# Both methods have one number to choose. To be fair, we choose both on the first half of the validation
# images and judge both on the second half, which had no part in the choice. We choose by the calibration
# error: an epsilon by the mean of the seeds, and a temperature for each plain network.


# %%
def tempered(predicted, temperature):
    return (predicted.clamp_min(1e-12).log() / temperature).softmax(1)


half = len(data.val) // 2
choosing, judging = slice(None, half), slice(half, None)
networks, first_half = {}, {}
for eps, runs in few_runs.items():
    networks[eps] = [probabilities(run.net, data, data.val) for run in runs]
    judgements = [judged(predicted[choosing], data.val.y[choosing]) for predicted in networks[eps]]
    first_half[eps] = pd.DataFrame(judgements).mean()
chosen_eps = min((0.02, 0.05, 0.1), key=lambda eps: first_half[eps]["calibration error"])

# %%
candidates = [number / 20 for number in range(10, 101)]
temperatures, rescaled = [], []
for predicted in networks[0.0]:
    rows, y = predicted[choosing], data.val.y[choosing]
    errors = [calibration_error(tempered(rows, candidate), y) for candidate in candidates]
    temperatures.append(candidates[errors.index(min(errors))])
    rescaled.append(tempered(predicted, temperatures[-1]))

# %% [markdown]
# How small can a calibration error be? Even an honest network does not reach zero with a few thousand
# images, because the share of right answers in a bin is partly luck. To see how much of the error is luck,
# we replace the true labels by draws from the network's own probabilities. For such labels, the network is
# honest, and what is left of the error is luck. The mean of twenty draws is the *floor*.


# %%
def floor(predicted, draws=20):
    labels = predicted.multinomial(draws, replacement=True)
    return sum(calibration_error(predicted, drawn) for drawn in labels.T) / draws


scaling, chosen = "plain, temperature", f"epsilon {chosen_eps:g}"
methods = {"plain" if eps == 0 else f"epsilon {eps:g}": found for eps, found in networks.items()}
methods[scaling] = rescaled
scores = {}
for name, found in methods.items():
    second_half = [predicted[judging] for predicted in found]
    table = pd.DataFrame([judged(predicted, data.val.y[judging]) for predicted in second_half])
    scores[name] = table.assign(floor=[floor(predicted) for predicted in second_half])
results = pd.DataFrame({name: table.mean() for name, table in scores.items()}).T
results.round(3)

# %%
errors = {name: table["calibration error"] for name, table in scores.items()}
losses = {name: table["ordinary loss"] for name, table in scores.items()}
calibration_few = changed(errors["plain"].mean(), errors[chosen].mean())
calibration_scaled = changed(errors["plain"].mean(), errors[scaling].mean())
accuracy_few = gained(list(scores[chosen]["accuracy"]), list(scores["plain"]["accuracy"]))
loss_few, loss_scaled = (moved(losses["plain"], losses[name]) for name in (chosen, scaling))
divisors = ", ".join(f"{temperature:.2f}" for temperature in temperatures)
say(
    f"The first half chose **{chosen}**, and {divisors} as temperatures. What the second half says:"
)
say(f"- **Accuracy.** Compared with plain training, {chosen} is **{accuracy_few}**.")
say(
    f"- **Calibration.** With {chosen}, it became **{calibration_few}**, and with temperature scaling "
    f"**{calibration_scaled}**. Of the two, temperature scaling has the smaller error in "
    f"{(errors[scaling] < errors[chosen]).sum()} of {budget.seeds} runs."
)
say(
    f"- **Ordinary loss.** With {chosen}, it is **{loss_few}**, and with temperature scaling "
    f"**{loss_scaled}**."
)

# %%
ratios = results["calibration error"] / results["floor"]
near = [name for name in results.index if ratios[name] < 1.5]
say(
    f"The calibration error of plain training is {ratios['plain']:.1f} times its floor, that of {chosen} "
    f"{ratios[chosen]:.1f} times, and that of temperature scaling {ratios[scaling]:.1f} times. "
    + (
        f"An error below 1.5 times the floor is mostly luck. That holds for **{', '.join(near)}**: with this "
        "many images, nobody can tell such networks from honest ones."
        if near
        else "All of them are at least 1.5 times the floor, so **none of them is honest**."
    )
)

# %% [markdown]
# Now the diagram, on the second half of the validation images only.

# %%
shown = dict.fromkeys(["plain", chosen, "epsilon 0.1", scaling])
lines = {name: pooled(methods[name], judging) for name in shown}
diagram(lines, f"1,000 labels, {several}")

# %%
say("Below the grey line is overconfident, above it underconfident. On average:")
for name in shown:
    row = results.loc[name]
    say(f"- *{name}* is {sureness(row['mean confidence'], row['accuracy'])}.")

# %% [markdown]
# The closer a line stays to the grey one, the more you can trust its confidence. No single epsilon is right
# for every network: it must match the overconfidence, so choose it on validation images.
#
# **What the calibration error does not see.** It looks only at the largest of the ten probabilities. The
# ordinary loss sees more, and we can split it into the costs of two questions. First: *is the answer
# right?* With confidence c, this costs -ln c if it is, and -ln(1 - c) if it is not. Second, for wrong
# answers only: *which other class is it?* This costs the negative logarithm of the true class's share of
# what is left, 1 - c. The two costs add up to the ordinary loss.


# %%
def two_costs(predicted, y):
    confidence, answer = predicted.max(1)
    wrong, left = answer != y, (1 - confidence).clamp_min(1e-12)
    first = -torch.where(wrong, left, confidence).log().mean()
    share = predicted[wrong, y[wrong]].clamp_min(1e-12) / left[wrong]
    second = -share.log().sum() / len(y)
    return {"is it right?": first.item(), "which other?": second.item()}


costs = {}
for name in shown:
    split = [two_costs(predicted[judging], data.val.y[judging]) for predicted in methods[name]]
    costs[name] = pd.DataFrame(split)
cost_table = pd.DataFrame({name: table.mean() for name, table in costs.items()}).T
cost_table.assign(sum=cost_table.sum(axis=1)).round(3)

# %%
right_costs = {name: table["is it right?"] for name, table in costs.items()}
other_costs = {name: table["which other?"] for name, table in costs.items()}
right_moved = moved(right_costs["plain"], right_costs[chosen])
other_moved = moved(other_costs["plain"], other_costs[chosen])
say(f"With {chosen}, the first cost is **{right_moved}**, and the second **{other_moved}**.")
if "lower" in right_moved and "higher" in other_moved:
    say(
        "So the smoothed networks are better at saying whether their answer is right, and worse at saying "
        "which other class it may be. **The calibration error sees only the first, the ordinary loss both.**"
    )
else:
    say("So here the two costs do not clearly move in opposite directions.")
say(
    f"With temperature scaling, the first cost is {moved(right_costs['plain'], right_costs[scaling])}, and "
    f"the second {moved(other_costs['plain'], other_costs[scaling])}."
)

# %% [markdown]
# There is a reason to expect that smoothing raises the second cost. Smoothed targets give the same
# probability to all classes but one, so they reward a network for not telling those apart. Temperature
# scaling shrinks the differences between the probabilities of a finished network, but it teaches nothing new.
#
# ## Break it
#
# If a little helps, does more help more? We stay with the 1,000 labels and raise epsilon to 0.3 and to
# 0.9. We ask a practical question: suppose that the network may decide alone wherever it is at least 90 %
# sure, and a person looks at the other images. How many images does the network decide?

# %%
break_runs = {0.3: [], 0.9: []}
with one_line() as tell:
    for eps, runs in break_runs.items():
        for seed in range(budget.seeds):
            recipe = BASELINE + LabelSmoothing(eps)
            runs.append(train(recipe, few, images=budget.images, seed=seed, evaluations=1))
    tell(f"{len(break_runs)} values of epsilon, {several} each")

# %% [markdown]
# We draw this share, accuracy and mean confidence on all validation images. We add the *ceiling*: the
# target of the right class, 1 - eps + eps / K. A network that meets its targets exactly is as sure as the
# ceiling, and no surer.

# %%
for eps, runs in break_runs.items():
    networks[eps] = [probabilities(run.net, data, data.val) for run in runs]
swept = {}
for eps, found in networks.items():
    table = pd.DataFrame([judged(predicted, data.val.y) for predicted in found])
    sure = [(predicted.max(1).values >= 0.9).float().mean().item() for predicted in found]
    swept[eps] = table.assign(sure=sure)
epsilons, means = list(swept), pd.DataFrame([table.mean() for table in swept.values()])
lines = {
    "accuracy": (epsilons, list(means["accuracy"])),
    "ceiling": (epsilons, [1 - eps + eps / len(data.classes) for eps in epsilons]),
    "mean confidence": (epsilons, list(means["mean confidence"])),
    "share of images with at least 90 %": (epsilons, list(means["sure"])),
}
plot(lines, "epsilon", "share of new images, confidence", f"1,000 labels, {several}", marks=True)
plt.show()

# %%
plain_swept, extreme = swept[0.0], swept[0.9]
accuracy_extreme = gained(list(extreme["accuracy"]), list(plain_swept["accuracy"]))
say(
    f"Without smoothing, the network is at least 90 % sure of {plain_swept['sure'].mean():.0%} of the new "
    f"images. With epsilon 0.1 it is {swept[0.1]['sure'].mean():.0%}, and with 0.3 "
    f"**{swept[0.3]['sure'].mean():.0%}**."
)
say(
    f"At epsilon 0.9, the mean confidence is {extreme['mean confidence'].mean():.2f}, and the network is "
    f"**{sureness(extreme['mean confidence'].mean(), extreme['accuracy'].mean())}**. Compared with no smoothing, "
    f"its accuracy is **{accuracy_extreme}**."
)

# %% [markdown]
# So what breaks first is the meaning of the probabilities. The confidence follows the ceiling down. From
# an epsilon of about 0.11, the ceiling is below 90 %, and a rule made for a usual network finds next to
# nothing to decide, however often the answers are right. Accuracy asks only which of the ten
# probabilities is the largest, and that can survive even where they are nearly equal.
#
# ## What we found
#
# Here are the four questions again, each with its own answer. All but the speed come from the runs of this
# page, compare smoothing with plain training, and stop after a fixed number of images.

# %%
all_labels, few_labels = "with all labels, epsilon 0.1", f"with 1,000 labels, {chosen}"
say(f"**Speed.** {headline('smoothing')}")
say(
    f"**Accuracy.** {all_labels.capitalize()}: {accuracy_many}. {few_labels.capitalize()}: {accuracy_few}."
)
say(
    f"**Calibration.** {all_labels.capitalize()}: {calibration_many}. {few_labels.capitalize()}: "
    f"{calibration_few}."
)
say(
    f"**Ordinary loss.** {all_labels.capitalize()}: {loss_many}. {few_labels.capitalize()}: {loss_few}."
)

# %% [markdown]
# So is it worth smoothing here? We count the answers, except for the speed, and look at the competitor.

# %%
verdicts = {
    "accuracy with all labels": (accuracy_many, "higher", "lower"),
    "accuracy with 1,000 labels": (accuracy_few, "higher", "lower"),
    "calibration with all labels": (calibration_many, "better", "worse"),
    "calibration with 1,000 labels": (calibration_few, "better", "worse"),
    "loss with all labels": (loss_many, "lower", "higher"),
    "loss with 1,000 labels": (loss_few, "lower", "higher"),
}
better = [name for name, (verdict, good, _) in verdicts.items() if good in verdict]
worse = [name for name, (verdict, _, bad) in verdicts.items() if bad in verdict]
say(
    f"Of six comparisons, smoothing is clearly better in **{len(better)}** ({', '.join(better) or 'none'}) "
    f"and clearly worse in **{len(worse)}** ({', '.join(worse) or 'none'})."
)

# %%
as_calibrated = errors[scaling].mean() < 1.25 * errors[chosen].mean()
replaced = as_calibrated and losses[scaling].mean() < losses[chosen].mean()
if not better:
    verdict = "Nothing on this page speaks for smoothing, so **here we would leave it out**."
elif better == ["calibration with 1,000 labels"] and replaced:
    verdict = (
        "The one thing that it improved, temperature scaling improves as well or better, in seconds and with "
        "a lower loss. So **here we would leave smoothing out**."
    )
else:
    verdict = "It improved something that temperature scaling did not: **here it is worth a try**."
say(verdict)

# %% [markdown]
# **Why, then, do so many recipes smooth?** Mostly for accuracy, in long training with many images and many
# classes. No run of this page tests that: ours are short, or have few images. Szegedy et al. 2015 found
# about 0.2 points on ImageNet, with 1,000 classes and epsilon 0.1. Vaswani et al. 2017 used the same epsilon
# for translation: perplexity became worse, and the translations became better. They needed good answers,
# not good probabilities, and accepted a higher loss.
#
# And what about the card?

# %%
say(
    f"*The net grows too sure of itself*: with 1,000 labels, plain training was "
    f"{sureness(results['mean confidence']['plain'], results['accuracy']['plain'])}, and smoothing made "
    f"calibration **{calibration_few}**."
)
say(
    f"*The net is not too sure*: with all labels, plain training was "
    f"{sureness(plain_mean['mean confidence'], plain_mean['accuracy'])}, and smoothing made calibration "
    f"**{calibration_many}**."
)
say(
    f"*Eps is large*: at 0.9, the network was "
    f"{sureness(extreme['mean confidence'].mean(), extreme['accuracy'].mean())}."
)

# %% [markdown]
# Two rows of the card we did not test. *Labels are noisy*: Lukasik et al. 2020 found that smoothing helps
# there; chapter 4 creates such labels, so you can try it. *Smoothed teachers teach worse*: in
# *distillation*, one network learns from another's probabilities. Müller et al. 2019 found that a smoothed
# teacher has lost information about how similar the classes are, which is what our second cost is about.
#
# So here is the rule of thumb. **Decide first whether you need the answers or the probabilities.**
#
# - **You need only the answers.** In a long training with many classes, or with noisy labels, train with
#   epsilon 0 and 0.1 and the same seeds. Keep the one with the higher validation accuracy, and do not
#   decide by the loss. In a short training, do not expect a gain.
# - **You need the probabilities.** Train without smoothing, and compare mean confidence with accuracy on
#   validation images. If the network is overconfident, use temperature scaling: it takes seconds, leaves
#   the accuracy alone, and can be undone.
# - **You smooth anyway.** Choose epsilon on validation images, since 0.1 may be too much for your data.
#   Choose every threshold on confidence anew, and compare losses only with other smoothed networks.
#
# ## Questions
#
# **1. Why does a one-hot target push logits apart without limit?**
#
# <details><summary>Answer</summary>Softmax reaches 1 only at an infinite gap, and the loss keeps falling
# as the gap grows.</details>
#
# **2. Smoothing leaves your accuracy as it was and raises the ordinary validation loss. Is that a mistake
# in your code?**
#
# <details><summary>Answer</summary>No. Smoothed training asks for (1 - eps) p + eps / K instead of the true
# share p, so it does not aim at the lowest ordinary loss. It matters only if you use the
# probabilities.</details>
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
# - Vaswani et al. 2017, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762), section 5.4: smoothing in
#   translation, with worse perplexity and better translations.
# - Müller et al. 2019, [arXiv 1906.02629](https://arxiv.org/abs/1906.02629): when smoothing helps, and
#   why smoothed teachers teach worse.
# - Lukasik et al. 2020, [arXiv 2003.02819](https://arxiv.org/abs/2003.02819): label smoothing and noisy
#   labels.
