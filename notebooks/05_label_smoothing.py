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
# asks for a little less. It takes one line of code, and it changes how sure the network is. This chapter
# measures what that does to accuracy, confidence and loss, compares it with a method that needs no
# training, and goes too far on purpose.
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
# We work with Fashion-MNIST, small grey pictures of ten kinds of clothes. The *budget* in the line above
# depends on the device. It sets the network, the image size, how many images a run sees, and the number of
# seeds. `BASELINE` is the plain training of chapter 0: AdamW with a constant learning rate and batches of
# 128 images.

# %%
from fasttricks import BASELINE, LabelSmoothing, choose_budget, load, train
from fasttricks.course import changed, clear, gained, holds, one_line, plot, say, sureness

budget = choose_budget()
data = load().to(BASELINE.world.device(), budget.image_size)
several = f"{budget.seeds} seeds" if budget.seeds > 1 else "one seed"

# %%
say(
    f"There are {len(data.train):,} images to train on. We judge every network on {len(data.val):,} validation "
    f"images, which no network was trained on, and call them *new* images."
)

# %% [markdown]
# Here is the idea in one picture: a training image, its usual target and a smoothed one. A target holds a
# probability for each of the ten classes. *Epsilon* is the share that we take from the target and divide
# equally among all classes. We draw epsilon = 0.3 so that you can see it; 0.1 is more usual.

# %%
import matplotlib.pyplot as plt
import pandas as pd

label = data.train.y[0].item()
usual = [float(number == label) for number in range(len(data.classes))]
softer = [0.7 * target + 0.3 / len(usual) for target in usual]
targets = pd.DataFrame({"usual target": usual, "smoothed by 0.3": softer}, index=data.classes)
figure, (photo, *axes) = plt.subplots(1, 3, figsize=(9, 3.5), layout="constrained")
photo.imshow(data.train.x[0, 0].cpu(), cmap="gray")
photo.set(title=data.classes[label], xticks=[], yticks=[])
targets.plot.bar(subplots=True, ax=axes, color="grey", legend=False, ylim=(0, 1.05))
axes[0].set_ylabel("target probability")
plt.show()

# %%
say(
    f"Smoothing lowers the target of the right class, {data.classes[label]}, from 1 to "
    f"**{softer[label]:.2f}**. It raises that of every other class from 0 to **{min(softer):.2f}**."
)

# %% [markdown]
# Next, here is what our recorded study found, followed by the trick's card. *Times as fast* is the first of
# two times divided by the second, and if its interval contains 1, the study cannot tell (chapter 0
# explains both). *The other six* are the tricks of the other chapters.
#
# In the card, q is a target, q' the smoothed target, eps is epsilon, and K is the number of classes. *Slot*
# is the place in our training code that the trick fills: a list of functions that change each batch.
# *Meets* names what it interacts with. *They commute* means that the order of the two does not matter. We
# come to the smoothed teachers at the end.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import smoothing

say(headline("smoothing"))
Markdown(smoothing.__doc__)

# %% [markdown]
# The record asks whether a network reaches a fixed accuracy *sooner*. This chapter asks three other
# questions, after a fixed number of images. Is the network *more accurate*? Can we *trust its confidence*?
# Does it have a *lower loss* on new images? We ask them in two settings.

# %%
few_epochs, all_epochs = budget.images / 1000, budget.images / len(data.train)
say(
    f"Both settings train on {budget.images:,} images in all. An *epoch* is as many images as the training set "
    f"has. With **1,000 labels**, we train for {few_epochs:.1f} epochs: the network sees the same 1,000 labelled "
    f"images again and again. With **all labels**, we train for {all_epochs:.2f} epochs: the network sees at "
    f"most {min(1, all_epochs):.0%} of the {len(data.train):,} images. The new images are the same."
)

# %% [markdown]
# ## The problem: confident and wrong
#
# We begin with 1,000 labels. To watch a network change, we train for five different lengths. The learning
# rate is constant and the seed is the same, so each shorter run is the beginning of the longer ones. Thanks
# to `cache`, a run that we need again later is not repeated.

# %%
from functools import cache


@cache
def trained(labels, eps, images, seed):
    recipe = BASELINE + LabelSmoothing(eps) if eps else BASELINE
    return train(recipe, data.subset(labels), images=images, seed=seed, evaluations=1)


few = data.subset(1000)
lengths = [budget.images // part for part in (16, 8, 4, 2, 1)]
with one_line() as tell:
    stages = [trained(1000, 0, images, 0) for images in lengths]
    tell(f"{len(stages)} runs")

# %% [markdown]
# For each image, the network gives ten probabilities. The class with the largest one is its answer, and
# this largest probability is its *confidence*. We compute accuracy and mean confidence on the 1,000
# training images and on the new ones.

# %%
from fasttricks.course import probabilities


def accuracy_and_confidence(predicted, y):
    confidence, answer = predicted.max(1)
    return (answer == y).float().mean().item(), confidence.mean().item()


on_training, on_new = [], []
for run in stages:
    on_training.append(accuracy_and_confidence(probabilities(run.net, few, few.train), few.train.y))
    on_new.append(accuracy_and_confidence(probabilities(run.net, data, data.val), data.val.y))

# %%
epochs = [run.images_seen / len(few.train) for run in stages]
lines = {
    "training images, accuracy": (epochs, [accuracy for accuracy, _ in on_training]),
    "training images, confidence": (epochs, [confidence for _, confidence in on_training]),
    "new images, accuracy": (epochs, [accuracy for accuracy, _ in on_new]),
    "new images, confidence": (epochs, [confidence for _, confidence in on_new]),
}
plot(lines, "epochs", "accuracy, mean confidence", "1,000 labels, one seed", marks=True)
plt.show()

# %%
final_accuracy, final_confidence = on_new[-1]
more_accuracy = final_accuracy - on_new[-2][0]
more_confidence = final_confidence - on_new[-2][1]
say(
    f"At the end, the network classifies {on_training[-1][0]:.0%} of its training images correctly. In the "
    f"second half of the run, its accuracy on new images changed by {100 * more_accuracy:+.1f} points, and "
    f"its confidence by {100 * more_confidence:+.1f}."
)
say(
    f"Its mean confidence on new images is {final_confidence:.2f}, and it is right {final_accuracy:.0%} of the "
    f"time: it is **{sureness(final_confidence, final_accuracy)}**."
)

# %% [markdown]
# A network is *well calibrated* if its confidence can be taken at its word: whenever it says "90 % sure", it
# is right nine times out of ten, and the same holds for 60 % or 70 %. *Well calibrated on average* means
# less: only that mean confidence and accuracy are equal. A network that claims more than its accuracy is
# *overconfident*, and one that claims less is *underconfident*.
#
# To look at every level of confidence, we sort the new images into ten bins by confidence. For each bin, we
# compute the mean confidence, the share of right answers, and the number of images.


# %%
def reliability(predicted, y):
    confidence, answer = predicted.max(1)
    right = (answer == y).float()
    table = pd.DataFrame({"confidence": confidence.tolist(), "right": right.tolist()})
    bins = table.groupby((10 * table["confidence"]).astype(int).clip(upper=9))
    return bins.mean().assign(images=bins.size())


# %% [markdown]
# A plot of these numbers is called a *reliability diagram*. The grey line shows an honest network, whose
# confidence always equals its share of right answers. Points below it are overconfident. We leave out bins
# with 20 images or fewer. The panel on the right shows which share of the images each bin holds.


# %%
def diagram(groups, title):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for (name, bins), style in zip(groups.items(), ("ko-", "C1s--", "C0^:"), strict=False):
        shown = bins[bins["images"] > 20]
        left.plot(shown["confidence"], shown["right"], style)
        right.plot(shown["confidence"], shown["images"] / bins["images"].sum(), style, label=name)
    left.axline((0, 0), slope=1, color="grey")
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", ylabel="share of right answers")
    right.set(xlim=(0, 1), ylim=(0, None), ylabel="share of the images")
    right.legend()
    figure.supxlabel("confidence")
    figure.suptitle(title)
    plt.show()


plain_new = probabilities(stages[-1].net, data, data.val)
plain_bins = reliability(plain_new, data.val.y)
diagram({"plain": plain_bins}, "new images, 1,000 labels, one seed")

# %%
dots = plain_bins[plain_bins["images"] > 20]
below = (dots["right"] < dots["confidence"] - 0.01).sum()
surest = dots.iloc[-1]
say(
    f"**{below} of {len(dots)}** points lie more than 0.01 below the grey line. The rightmost bin holds "
    f"{surest['images'] / len(plain_new):.0%} of the new images. Its mean confidence is "
    f"{surest['confidence']:.2f}, and its share of right answers {surest['right']:.2f}."
)

# %% [markdown]
# A single number summarises the diagram. The **expected calibration error** (ECE) is the vertical distance
# from a point to the grey line, averaged over all images, those in small bins included.


# %%
def calibration_error(predicted, y):
    bins = reliability(predicted, y)
    distances = (bins["confidence"] - bins["right"]).abs()
    return (distances * bins["images"]).sum() / len(y)


# %%
say(f"Here, **the expected calibration error is {calibration_error(plain_new, data.val.y):.3f}**.")

# %% [markdown]
# ## By hand: why softmax never reaches 1
#
# Where does so much confidence come from? Take one *training* image. The *logits* are the numbers that go
# into the softmax. To keep the example short, we use four classes. The logit of the right class exceeds
# the three others, which are all equal, by some *gap*. Softmax turns the gap into a ratio: the probability of
# the right class is exp(gap) times that of any other.

# %%
import math


def chance_of_right(gap, classes=4):
    return math.exp(gap) / (math.exp(gap) + classes - 1)


[round(chance_of_right(gap), 4) for gap in (1, 2, 4, 8)]

# %% [markdown]
# The probability of the right class approaches 1 but never reaches it. The usual loss is the negative
# logarithm of that probability, so a wider gap always lowers it a little further.
#
# Now we ask for less. We take a share of 0.1 from the target of 1, and divide it equally among all four
# classes. The right class is left with 0.925, and the other three get 0.025 each. The loss is now the
# cross-entropy: each class contributes its target times the negative logarithm of its probability.


# %%
def smoothed_loss(gap, eps=0.1, classes=4):
    right = chance_of_right(gap)
    other = (1 - right) / (classes - 1)
    share = eps / classes
    return -(1 - eps + share) * math.log(right) - (classes - 1) * share * math.log(other)


gaps = [gap / 10 for gap in range(121)]
usual_loss = [-math.log(chance_of_right(gap)) for gap in gaps]
softer_loss = [smoothed_loss(gap) for gap in gaps]
lowest = gaps[softer_loss.index(min(softer_loss))]
lines = {"target 1": (gaps, usual_loss), "smoothed by 0.1": (gaps, softer_loss)}
plot(lines, "gap between the right logit and the others", "loss of one image")
plt.plot(lowest, min(softer_loss), "o", color="grey", label=f"lowest, at {lowest:.1f}")
plt.legend()
plt.show()

# %% [markdown]
# The solid curve looks flat from a gap of 6 on, but it never stops falling. The dashed curve has a lowest
# point. Beyond it, more certainty *increases* the loss.
#
# Where is that point? The cross-entropy is lowest where the probabilities equal the targets. So exp(gap)
# must be the ratio of the right class's target to another's, and the best gap is the logarithm of that ratio.


# %%
def best_gap(eps, classes):
    return math.log((1 - eps + eps / classes) / (eps / classes))


# %%
say(
    f"For four classes smoothed by 0.1, the formula gives {best_gap(0.1, 4):.2f}. Even there, the loss is "
    f"**{min(softer_loss):.2f}, not 0**. For our ten classes, an epsilon of 0.1 asks for a gap of "
    f"**{best_gap(0.1, 10):.1f}**, and one of 0.9 for only {best_gap(0.9, 10):.1f}."
)
at_two = chance_of_right(2)
say(
    f"Smoothing acts long before the best gap is reached. The gradient pulls a logit up by its target minus its "
    f"probability. At a gap of 2, the right class has a probability of {at_two:.2f}. The usual target pulls with "
    f"1 - {at_two:.2f} = **{1 - at_two:.2f}**, and the smoothed one with 0.925 - {at_two:.2f} = "
    f"**{0.925 - at_two:.2f}**. So the pull is weaker at *every* gap, and at the best gap nothing is left of it."
)

# %% [markdown]
# Even a perfect network has a smoothed loss above zero, so never compare a smoothed loss with a usual one.
# From here on, the *ordinary loss* is the cross-entropy with the true labels, without smoothing, whatever
# the network was trained with.
#
# ## Write it
#
# The trick is a function of the targets. A target is a row of probabilities, so smoothing is one line. Beside
# the work of the network, it costs next to nothing:


# %%
def smooth(q, eps):
    return (1 - eps) * q + eps / q.shape[1]


# %% [markdown]
# Here is an example. The first row is a one-hot target, which means 1 for one class and 0 for all others.
# The second is already blended, as mixup (chapter 4) would leave it.

# %%
import torch

q = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0]])
smooth(q, 0.1)

# %% [markdown]
# ## Check it
#
# First, our function gives the same result as the package's, and its rows are still probabilities.

# %% tags=["nbval-check-output"]
logits, y = torch.randn(64, 10), torch.arange(64) % 10
onehots = torch.nn.functional.one_hot(y, 10).float()
holds(torch.equal(smooth(onehots, 0.1), smoothing.smooth(onehots, 0.1)), "ours is the package's")
sums = smooth(onehots, 0.3).sum(1)
holds(torch.allclose(sums, torch.ones(64)), "each smoothed row still sums to 1")

# %% [markdown]
# Second, PyTorch has label smoothing built in, and so has timm, the library of image models that our
# networks come from. Both compute the same loss as we do.

# %% tags=["nbval-check-output"]
from timm.loss import LabelSmoothingCrossEntropy
from torch.nn.functional import cross_entropy

ours = cross_entropy(logits, smooth(onehots, 0.1))
torchs = cross_entropy(logits, y, label_smoothing=0.1)
holds(abs(ours - torchs).item() < 1e-6, "torch's label_smoothing gives the same loss")
timms = LabelSmoothingCrossEntropy(0.1)(logits, y)
holds(abs(ours - timms).item() < 1e-6, "timm's LabelSmoothingCrossEntropy gives the same loss")

# %% [markdown]
# Some texts use another convention: the right class keeps exactly 1 - eps, and each of the others gets
# eps / (K - 1). Their eps is the same as ours of eps K / (K - 1). With ten classes, their 0.1 is our 0.111.
#
# Third, the order of smoothing and mixup does not matter. Question 3 asks why.

# %% tags=["nbval-check-output"]
from fasttricks.tricks.mixup import mix

pictures, lam, other = torch.rand(64, 1, 4, 4), torch.tensor(0.3), torch.randperm(64)
before = mix(pictures, smooth(onehots, 0.1), lam, other)[1]
after = smooth(mix(pictures, onehots, lam, other)[1], 0.1)
holds(torch.allclose(before, after, atol=1e-6), "smoothing and mixing commute")

# %% [markdown]
# ## In your own loop
#
# You do not need this package to use the trick. Below is a part of an ordinary PyTorch training loop.
# `inputs` is a batch of images, randomly mirrored and normalised, `targets` holds their class numbers, and
# `F` is `torch.nn.functional`. Remove the line marked `-` and add the line marked `+`.
#
# ```diff
#          inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
# -        loss = F.cross_entropy(net(inputs), targets)
# +        loss = F.cross_entropy(net(inputs), targets, label_smoothing=0.1)
#          loss.backward()
# ```
#
# The complete script is [`examples/smoothing.py`](../examples/smoothing.py). Leave the argument out when you
# compute a validation loss.
#
# ## Use it: 1,000 labels
#
# We return to the overconfident network. First, does smoothing limit the gap, and on new images too? An image
# now has nine other logits that differ. So we measure the gap that corresponds to the formula: the logarithm
# of the largest probability over the *mean* of the nine others. We compare networks with and without
# smoothing at the five lengths from above.


# %%
def median_gap(predicted):
    confidence = predicted.max(1).values.clamp(max=1 - 1e-7)
    others = (1 - confidence) / (predicted.shape[1] - 1)
    return (confidence / others).log().median().item()


with one_line() as tell:
    smoothed_stages = [trained(1000, 0.1, images, 0) for images in lengths]
    tell(f"{len(smoothed_stages)} runs")
found = {}
for name, runs in {"plain": stages, "epsilon 0.1": smoothed_stages}.items():
    for images, split in {"training images": few.train, "new images": data.val}.items():
        found[name, images] = [median_gap(probabilities(run.net, data, split)) for run in runs]

# %%
lines = {f"{name}, {images}": (epochs, medians) for (name, images), medians in found.items()}
plot(lines, "epochs", "median gap", "1,000 labels, one seed", marks=True)
limit = best_gap(0.1, len(data.classes))
plt.axhline(limit, color="grey", label="best gap for epsilon 0.1")
plt.legend()
plt.show()

# %%
plain_known, plain_unknown = found["plain", "training images"], found["plain", "new images"]
soft_known = found["epsilon 0.1", "training images"]
soft_unknown = found["epsilon 0.1", "new images"]
say(
    f"Without smoothing, the gap on new images grew from {plain_unknown[0]:.1f} to {plain_unknown[-1]:.1f}, "
    f"beside {plain_known[0]:.1f} to {plain_known[-1]:.1f} on training images."
)
say(
    f"With smoothing, the gap is smaller. Halfway through, it is {soft_known[-2]:.1f} instead of "
    f"{plain_known[-2]:.1f} on training images. At the end, it is {soft_known[-1]:.1f} instead of "
    f"{plain_known[-1]:.1f} there, and **{soft_unknown[-1]:.1f} instead of {plain_unknown[-1]:.1f}** on new "
    f"images."
    if soft_known[-2] < 0.95 * plain_known[-2]
    else "In runs as short as these, smoothing does not make the gap smaller yet."
)
if soft_known[-2] < 0.95 * plain_known[-2] < 0.95 * limit:
    say(
        "Halfway through, neither median gap had reached the best one. So smoothing acts by its weaker pull "
        "long before the limit."
    )

# %% [markdown]
# Why does smoothing the *training* targets change the gap on *new* images? The same weights compute all
# logits, and new images have no part in the loss. So nothing stops their gaps from following those of the
# training images.
#
# Now we train with more seeds and more values of epsilon. This is the longest cell of the chapter.


# %%
def predictions(labels, epsilons):
    networks = {}
    with one_line() as tell:
        for eps in epsilons:
            runs = [trained(labels, eps, budget.images, seed) for seed in range(budget.seeds)]
            networks[eps] = [probabilities(run.net, data, data.val) for run in runs]
        tell(f"{len(networks)} values of epsilon, {several} each")
    return networks


few_networks = predictions(1000, (0, 0.02, 0.05, 0.1))

# %% [markdown]
# Do the gaps end where the formula says? Each number below is a mean over the seeds.

# %%
from statistics import fmean

gap_rows = {}
for eps, networks in few_networks.items():
    runs = [trained(1000, eps, budget.images, seed) for seed in range(budget.seeds)]
    known = [median_gap(probabilities(run.net, few, few.train)) for run in runs]
    gap_rows[eps] = {
        "best gap": best_gap(eps, len(data.classes)) if eps else math.inf,
        "training images": fmean(known),
        "new images": fmean(median_gap(predicted) for predicted in networks),
    }
gap_table = pd.DataFrame(gap_rows).T.rename_axis("epsilon")
gap_table.round(2)

# %%
smoothed_gaps = gap_table.loc[[0.05, 0.1]]
misses = (smoothed_gaps["training images"] - smoothed_gaps["best gap"]).abs()
arrived = (
    "So **smoothing has brought the gaps to where the formula puts them**."
    if misses.max() < 0.6
    else "These runs are too short to get closer."
)
say(
    f"With an epsilon of 0.05 or 0.1, the gap on training images ends within {misses.max():.2f} of the best one. "
    f"{arrived} From no smoothing to 0.1, the gap on new images goes from {gap_table['new images'][0]:.2f} to "
    f"**{gap_table['new images'][0.1]:.2f}**."
)

# %% [markdown]
# Is a smaller gap also a more honest one? Smoothing has a well-known competitor. **Temperature scaling**
# (Guo et al. 2017) divides the logits of a finished plain network by one number, the *temperature*. A
# temperature above 1 shrinks all gaps. It cannot change which class is largest, so it leaves the accuracy
# as it is, and it needs no training. Instead of the logits, we take the logarithms of the probabilities:
# they differ from the logits by a constant per image, which softmax ignores.


# %%
def tempered(predicted, temperature):
    return (predicted.clamp_min(1e-12).log() / temperature).softmax(1)


half = len(data.val) // 2
choosing, judging = slice(None, half), slice(half, None)


def best_temperature(predicted):
    rows, y = predicted[choosing], data.val.y[choosing]
    candidates = [number / 20 for number in range(10, 101)]
    return min(candidates, key=lambda value: calibration_error(tempered(rows, value), y))


# %% [markdown]
# Both methods have a number to choose. We choose both on the first half of the new images, and judge both on
# the second half. Guo et al. choose the temperature by the loss. We choose by the calibration error, because
# that is how we choose epsilon. Still, temperature scaling has an advantage: a try costs no training, so
# each network chooses among 91 temperatures, while all seeds share one of three epsilons.

# %%
first_half = {}
for eps in (0.02, 0.05, 0.1):
    rows = [predicted[choosing] for predicted in few_networks[eps]]
    tried = [calibration_error(predicted, data.val.y[choosing]) for predicted in rows]
    first_half[eps] = fmean(tried)
chosen_eps = min(first_half, key=first_half.get)
temperatures = [best_temperature(predicted) for predicted in few_networks[0]]

# %% [markdown]
# How small can a calibration error be? Even an honest network does not reach zero with a few thousand
# images, because the share of right answers in a bin is partly luck. To see how large luck can be, we
# replace the true labels by draws from the network's own probabilities. For such labels, the network *is*
# honest. We draw twenty times and keep the largest error. So an honest network exceeds it only about one
# time in twenty.


# %%
def judged(predicted, y):
    accuracy, confidence = accuracy_and_confidence(predicted, y)
    drawn_labels = predicted.multinomial(20, replacement=True).T
    return {
        "accuracy": accuracy,
        "mean confidence": confidence,
        "calibration error": calibration_error(predicted, y),
        "luck, up to": max(calibration_error(predicted, drawn) for drawn in drawn_labels),
        "ordinary loss": cross_entropy(predicted.clamp_min(1e-12).log(), y).item(),
    }


def scored(methods):
    tables = {}
    for name, networks in methods.items():
        rows = [judged(predicted[judging], data.val.y[judging]) for predicted in networks]
        tables[name] = pd.DataFrame(rows)
    return tables


# %% [markdown]
# Here are the means over the seeds, on the second half of the new images.

# %%
chosen, scaling = f"epsilon {chosen_eps:g}", "temperature scaling"
few_methods = {
    f"epsilon {eps:g}" if eps else "plain": networks for eps, networks in few_networks.items()
}
pairs = zip(few_networks[0], temperatures, strict=True)
few_methods[scaling] = [tempered(predicted, temperature) for predicted, temperature in pairs]
few_scores = scored(few_methods)
few_means = pd.DataFrame({name: table.mean() for name, table in few_scores.items()}).T
few_means.round(3)

# %% [markdown]
# Three functions turn such numbers into verdicts. `gained` and `changed` come with the course. `gained`
# follows the rule of chapter 0, and `changed` calls an error *better* or *worse* if its mean changes by a
# factor of at least 1.25. For the loss, we write one: it is *higher* or *lower* only if that is so with every
# seed and by at least 1 % on average.


# %%
def moved(before, after):
    means = fmean(before), fmean(after)
    rises = sum(new > old for old, new in zip(before, after, strict=True))
    shown = f"{means[0]:.3f} → {means[1]:.3f}, {several}"
    if abs(means[1] / means[0] - 1) < 0.01:
        return f"about the same ({shown})"
    if rises not in (0, len(before)):
        return f"undecided ({shown}, which do not agree)"
    return f"{'higher' if rises else 'lower'} ({shown})"


def verdicts(own, plain):
    errors = plain["calibration error"].mean(), own["calibration error"].mean()
    return {
        "accuracy": gained(list(own["accuracy"]), list(plain["accuracy"])),
        "calibration": changed(*errors),
        "ordinary loss": moved(plain["ordinary loss"], own["ordinary loss"]),
    }


few_smoothing = verdicts(few_scores[chosen], few_scores["plain"])
few_scaling = verdicts(few_scores[scaling], few_scores["plain"])

# %%
say(
    f"On the first half, we chose **{chosen}**, and temperatures of "
    f"{', '.join(f'{temperature:.2f}' for temperature in temperatures)}. Compared with plain training:"
)
say(
    f"- **Accuracy** with {chosen}: {few_smoothing['accuracy']}. We count a difference as clear only if all "
    f"seeds agree and it is at least {clear(budget.seeds):.1f} points (1 / √n for n seeds, see chapter 0)."
)
say(
    f"- **Calibration** with {chosen}: **{few_smoothing['calibration']}**. With temperature scaling: "
    f"**{few_scaling['calibration']}**."
)
say(
    f"- **Ordinary loss** with {chosen}: **{few_smoothing['ordinary loss']}**. With temperature scaling: "
    f"**{few_scaling['ordinary loss']}**."
)

# %%
beyond = {
    method: (few_scores[method]["calibration error"] > few_scores[method]["luck, up to"]).sum()
    for method in ("plain", chosen, scaling)
}
smaller = (few_scores[scaling]["calibration error"] < few_scores[chosen]["calibration error"]).sum()
if beyond[chosen] == beyond[scaling] or 0 < smaller < budget.seeds:
    which = "we cannot tell which of the two methods is better calibrated"
else:
    which = f"{scaling if smaller else chosen} has the smaller error ({several})"
say(
    f"The error is larger than luck can explain in {beyond['plain']} of the {budget.seeds} plain networks, in "
    f"{beyond[chosen]} with {chosen}, and in {beyond[scaling]} with temperature scaling. So **{which}**."
)

# %% [markdown]
# Now the diagrams, on the second half of the new images. To have more images in each bin, we pool the seeds.


# %%
def pooled(networks, rows):
    y = data.val.y[rows].repeat(len(networks))
    return reliability(torch.cat([predicted[rows] for predicted in networks]), y)


few_bins = {name: pooled(networks, judging) for name, networks in few_methods.items()}
smoothed_names = dict.fromkeys(["plain", chosen, "epsilon 0.1"])
diagram({name: few_bins[name] for name in smoothed_names}, f"smoothing, 1,000 labels, {several}")
scaled_names = ("plain", scaling)
diagram({name: few_bins[name] for name in scaled_names}, f"{scaling}, 1,000 labels, {several}")

# %%
on_average = [
    f"*{method}* is {sureness(few_means['mean confidence'][method], few_means['accuracy'][method])}"
    for method in (*smoothed_names, scaling)
]
say(f"On average, {', '.join(on_average)}.")
chosen_bins = few_bins[chosen][few_bins[chosen]["images"] > 20]
distances = (chosen_bins["right"] - chosen_bins["confidence"]).abs()
held = chosen_bins["images"][distances.idxmax()]
chance = 1 / (held / budget.seeds) ** 0.5  # two standard errors of a share, at most
say(
    f"The point of {chosen} that is farthest from the grey line misses it by {distances.max():.2f}. Its bin holds "
    f"{held / few_bins[chosen]['images'].sum():.1%} of the images. "
    + (
        "In a bin of that size, such a distance may be luck."
        if distances.max() < chance
        else "That is too far to be luck, so these networks are **not well calibrated at every level**."
    )
)

# %% [markdown]
# No single epsilon is right for every network: it must match the overconfidence, so choose it on validation
# images.
#
# **A smaller calibration error and a higher loss can go together.** The calibration error looks only at the
# largest probability. The ordinary loss looks at the probability of the true class. If the answer is
# wrong, that is one of the other nine. A usual target does not care how the rest is split among them. A
# smoothed target asks for an equal split, whatever the image shows, so it rewards forgetting that a shirt
# looks more like a coat than like a bag. Müller et al. 2019 found such a loss of information. We do not
# measure it here.
#
# ## Use it: all labels
#
# What if the network is not overconfident? We train on all labels, with the usual epsilon of 0.1 and without
# smoothing, and compute the same table. The temperatures are again chosen on the first half.

# %%
all_networks = predictions(len(data.train), (0, 0.1))
rescaled = [tempered(predicted, best_temperature(predicted)) for predicted in all_networks[0]]
all_methods = {"plain": all_networks[0], "epsilon 0.1": all_networks[0.1], scaling: rescaled}
all_scores = scored(all_methods)
all_means = pd.DataFrame({name: table.mean() for name, table in all_scores.items()}).T
all_smoothing = verdicts(all_scores["epsilon 0.1"], all_scores["plain"])
all_scaling = verdicts(all_scores[scaling], all_scores["plain"])
all_means.round(3)

# %%
lucky = {
    method: (scores["calibration error"] <= scores["luck, up to"]).sum()
    for method, scores in all_scores.items()
}
confidences, accuracies = all_means["mean confidence"], all_means["accuracy"]
say(
    f"The plain networks are {sureness(confidences['plain'], accuracies['plain'])}, and the smoothed ones "
    f"**{sureness(confidences['epsilon 0.1'], accuracies['epsilon 0.1'])}**. Smoothing made calibration "
    f"**{all_smoothing['calibration']}**. Luck explains the error of {lucky['plain']} of the {budget.seeds} "
    f"plain networks, and of {lucky['epsilon 0.1']} of the smoothed ones."
)
say(
    f"The accuracy with smoothing is {all_smoothing['accuracy']}, and the ordinary loss "
    f"**{all_smoothing['ordinary loss']}**. With temperature scaling, the loss is "
    f"{all_scaling['ordinary loss']}."
)

# %% [markdown]
# The diagram shows where the confidence went.

# %%
all_names = ("plain", "epsilon 0.1")
all_bins = {name: pooled(all_methods[name], judging) for name in all_names}
diagram(all_bins, f"all labels, {several}")

# %%
heights = [
    (bins["right"] - bins["confidence"])[bins["images"] > 20].mean() for bins in all_bins.values()
]
sides = ["above" if height > 0 else "below" for height in heights]
say(
    f"On average, the plain networks' points lie {abs(heights[0]):.2f} {sides[0]} the grey line, and those of "
    f"the smoothed networks **{abs(heights[1]):.2f} {sides[1]}** it."
)

# %% [markdown]
# **What smoothing asks of an honest network.** Think of many images that look alike, of which a share p
# belongs to some class. Their average target for this class is p in usual training, and (1 - eps) p + eps / K
# in smoothed training. The loss is lowest where the probabilities equal the average targets. So usual
# training asks for the true share, and smoothed training asks for less wherever p is above 1 / K. A network
# that meets smoothed targets is therefore underconfident, and its ordinary loss is higher than that of an
# honest one.
#
# **What a higher ordinary loss means.** The network may be right as often as before, but it gives the true
# classes less probability. That hurts everyone who uses the probabilities: to decide which images a person
# should check, to weigh costs, or to compare language models by their perplexity, which is the exponential
# of this loss. It does not matter to someone who uses only the answer.
#
# ## Break it
#
# If a little helps, does more help even more? We return to the 1,000 labels and raise epsilon to 0.3 and 0.9.
# We ask a practical question: suppose that the network may decide on its own wherever it is at least 90 %
# sure, and a person looks at the other images. How many images does the network decide, and how often is it
# right on them?

# %%
swept_networks = few_networks | predictions(1000, (0.3, 0.9))

# %%
swept_rows, surest_half = {}, {}
for eps, networks in swept_networks.items():
    confidence, answer = torch.cat(networks).max(1)
    right = (answer == data.val.y.repeat(len(networks))).float()
    sure = confidence >= 0.9
    chunks = confidence.chunk(len(networks)), right.chunk(len(networks))  # a network each
    half = len(data.val.y) // 2
    pairs = zip(*chunks, strict=True)
    kept = [found[own.argsort(descending=True)[:half]] for own, found in pairs]
    surest_half[eps] = torch.cat(kept).mean().item()
    swept_rows[f"{eps:g}"] = {
        "accuracy on all images": right.mean().item(),
        "mean confidence": confidence.mean().item(),
        "share of images decided": sure.float().mean().item(),
        "accuracy on the decided images": right[sure].mean().item(),
    }
swept = pd.DataFrame(swept_rows).T
places = list(range(len(swept)))
lines = {name: (places, list(swept[name])) for name in swept}
title = f"1,000 labels, {several}"
plot(lines, "epsilon (not to scale)", "share or probability", title, marks=True)
plt.xticks(places, swept.index)
plt.show()

# %%
decided = {}
for eps, row in swept.iterrows():
    sure_share, sure_right = row.iloc[2], row.iloc[3]
    decided[eps] = f"decides {sure_share:.0%} of the new images"
    if sure_share > 0.001:
        decided[eps] += f" and is right on {sure_right:.0%} of them"
say(
    f"Without smoothing, the network {decided['0']}. With epsilon 0.1, it {decided['0.1']}. With 0.3, it "
    f"**{decided['0.3']}**."
)

# %%
halves = surest_half[0], surest_half[0.3]
say(
    f"Does a new threshold help? If each network decides its surest half of the images instead, it is right on "
    f"{halves[0]:.1%} of them without smoothing, and on {halves[1]:.1%} with 0.3. So "
    + (
        "**a new threshold repairs the decision**: the order of the images by confidence is about as good."
        if abs(halves[1] - halves[0]) < 0.01
        else "**a new threshold does not restore everything**: the order of the images has changed too."
    )
)

# %%
accuracies_of = {
    eps: [accuracy_and_confidence(predicted, data.val.y)[0] for predicted in swept_networks[eps]]
    for eps in (0, 0.9)
}
extreme = swept.loc["0.9"]
too_unsure = sureness(extreme["mean confidence"], extreme["accuracy on all images"])
say(
    f"At epsilon 0.9, the networks are **{too_unsure}**. Compared with no smoothing, their accuracy is "
    f"**{gained(accuracies_of[0.9], accuracies_of[0])}**."
)

# %% [markdown]
# So what breaks first is the meaning of the probabilities. With ten classes, the target of the right class
# falls below 0.9 at an epsilon of 1/9. A network that meets its targets is then never 90 % sure, however
# often it is right. (A few images may exceed their target.) Accuracy is less sensitive, because it asks only
# which probability is the largest.
#
# ## What we found
#
# Each entry compares a method with plain training, after the same number of images. The fourth question,
# speed, was not measured on this page: the record at the top is all that we know.

# %%
answers = {
    f"1,000 labels, {chosen}": few_smoothing,
    f"1,000 labels, {scaling}": few_scaling,
    "all labels, epsilon 0.1": all_smoothing,
    f"all labels, {scaling}": all_scaling,
}
short = {
    name: {question: verdict.split(" (")[0] for question, verdict in found.items()}
    for name, found in answers.items()
}
pd.DataFrame(short)

# %%
GOOD = {"accuracy": "higher", "calibration": "better", "ordinary loss": "lower"}
BAD = {"accuracy": "lower", "calibration": "worse", "ordinary loss": "higher"}


def counted(words, first, second):
    settings = {"1,000 labels": first, "all labels": second}
    return [
        f"{question} with {setting}"
        for setting, found in settings.items()
        for question, verdict in found.items()
        if words[question] in verdict
    ]


# %%
improved, harmed = (counted(words, few_smoothing, all_smoothing) for words in (GOOD, BAD))
unmatched = [one for one in improved if one not in counted(GOOD, few_scaling, all_scaling)]
say(
    f"Of six comparisons, smoothing is better in **{len(improved)}** ({', '.join(improved) or 'none'}) and "
    f"worse in **{len(harmed)}** ({', '.join(harmed) or 'none'})."
)
if unmatched:
    say(
        f"Temperature scaling does not improve {', '.join(unmatched)}. So **smoothing is worth a try here**."
    )
elif improved:
    say(
        "All that smoothing improved, temperature scaling improves too, and without any training. So **for "
        "accuracy and for trustworthy probabilities, we would leave smoothing out here**."
    )
else:
    say("So **we would leave smoothing out here**.")

# %% [markdown]
# **Why, then, do so many recipes smooth?** Mostly for accuracy, in long training with many images and many
# classes, which no run of this page tests. Szegedy et al. 2015 gained about 0.2 points on ImageNet, with
# 1,000 classes and epsilon 0.1. Vaswani et al. 2017 used the same epsilon for translation: perplexity became
# worse, and the translations became better. They needed good answers, not good probabilities.
#
# **The card** made three claims about confidence.

# %%
few_sureness = sureness(few_means["mean confidence"]["plain"], few_means["accuracy"]["plain"])
all_sureness = sureness(confidences["plain"], accuracies["plain"])
claims = {
    "It pays when the network grows too sure of itself": few_sureness.startswith("over")
    and "better" in few_smoothing["calibration"],
    "it fails when the network is not too sure": not all_sureness.startswith("over")
    and "worse" in all_smoothing["calibration"],
    "it fails when epsilon is large": too_unsure.startswith("under"),
}
told = [f"{claim} ({'seen' if seen else 'not seen'})" for claim, seen in claims.items()]
say(f"{', '.join(told)}.")

# %% [markdown]
# By *pays* we mean a better calibration here, not a lower loss. Two claims we did not test. *Labels are
# noisy*: Lukasik et al. 2020 found that smoothing helps there. Chapter 4 creates such labels, so you can try
# it. *Smoothed teachers teach worse*: in *distillation*, one network learns from the probabilities of
# another, its teacher. Müller et al. 2019 found that a smoothed teacher has lost what it knew about similar
# classes.
#
# So here is the rule of thumb. **Decide first whether you need the answers or the probabilities.**
#
# - **You need only the answers.** Train with epsilon 0 and 0.1, with five seeds each. Keep smoothing if its
#   validation accuracy is higher with every seed and by at least 0.5 points on average. Otherwise leave it
#   out. Do not decide by the loss.
# - **You need the probabilities.** Train without smoothing, and compare mean confidence with accuracy on
#   validation images. If the network is overconfident, use temperature scaling: it needs no training, leaves
#   the accuracy alone, and can be undone.
# - **You smooth anyway.** Choose epsilon on validation images, and every threshold on confidence anew.
#   Compare networks by the ordinary validation loss, never by a loss that includes the smoothing.
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
# <details><summary>Answer</summary>Smoothing multiplies all targets by 1 - eps and adds the constant
# eps / K. Mixup takes a weighted average of two targets. Its weights sum to 1, so the constant is the same
# after mixing as before.</details>
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
# eps / (K - 1). It must work on blended rows as well, which have no single right class. A blend of two
# one-hot rows must become the same blend of the two smoothed rows.


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
