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
# We usually train a classifier towards certainty: *this is a shirt, with probability 1*. Label
# smoothing asks for a little less. It takes a share of this target, called *epsilon*, and divides
# it equally among all classes. In PyTorch, this is one argument:
#
# ```python
# loss = F.cross_entropy(net(x), y, label_smoothing=0.1)  # 0.1 is epsilon
# ```
#
# **What it does.** It lowers a network's *confidence*, the probability that it gives to its own
# answer. If the network was too sure, its confidence can become more honest: closer to how often
# it is right. If not, it becomes less honest.
#
# **What it does not do.** In our runs, it did not clearly change the accuracy. Nor did it make
# the confidence more honest than *temperature scaling* did. That method divides the outputs of a
# finished network by one number.
#
# - **Use it when** you need only the answers, and your own runs show a gain. Our records show
#   one: the same accuracy sooner, with few labels, many epochs and a falling learning rate.
# - **Leave it when** your network is not too sure, or when you need honest probabilities and can
#   scale the temperature.
#
# About 30 minutes to read, and four to run.

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
# We work with Fashion-MNIST, small grey pictures of ten kinds of clothes. The *budget* in the
# line above depends on the device. It sets the network (from the library timm), the image size,
# the images per run, and the number of *seeds*, which fix the initial weights and the order of
# the images.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

from fasttricks import BASELINE, LabelSmoothing, choose_budget, load
from fasttricks.course import gained, headline, holds, plot, probabilities, say, train_arms

budget = choose_budget()
data = load().to(BASELINE.world.device(), budget.image_size)

# %% [markdown]
# **Is training faster?** Our recorded studies ask how long training takes to reach a fixed
# accuracy (chapter 0). A difference is clear there if its 95% interval excludes 1. In the text
# below, `plain + cyclic` is plain training with one-cycle (chapter 3), and *the other six tricks*
# are those of the other chapters.

# %% tags=["fold"]
from fasttricks.course import published

paid, lost = [], []
asked_for = [
    row
    for study in published()
    for row in study.rows
    if row.arm in (f"{study.reference} + smoothing", "whole - smoothing")
]
for row in asked_for:
    better = "slower" if row.against == "whole" else "faster"  # "whole - smoothing" is without it
    if row.verdict != "cannot tell" and not row.wavers:
        (paid if row.verdict == better else lost).append(row)
say(
    f"Comparisons that show a clear gain in speed: **{len(paid)} of {len(asked_for)}**. "
    f"Comparisons that show a clear loss: {len(lost)}."
)

# %%
say(headline("smoothing"))

# %% [markdown]
# Here is the idea in one picture. A target holds a probability for each of ten classes. The usual
# epsilon is 0.1. The picture uses 0.3, because it shows more.

# %% tags=["fold"]
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
    f"**{softer[label]:.2f}**. It raises the target of every other class from 0 to "
    f"**{min(softer):.2f}**."
)

# %% [markdown]
# **How we compare.** In this notebook, we compare runs in pairs that share a seed. A difference
# is *clear*, and called *higher* or *lower*, if all n pairs agree on its sign and its mean is at
# least 1/√n points. A point is 0.01 of an accuracy, a calibration error or a loss. This is a
# convention: a point of loss is not worth a point of accuracy. All seeds share their training
# images and the new images. So even if they agree, it may be luck with these images.
#
# ## The problem: confident and wrong
#
# Can we believe a network's confidence? We train on only the first 1,000 training images.
# `BASELINE` is the *plain* training of chapter 0: AdamW, a constant learning rate, and batches of
# 128 images. We choose settings on the first half of the validation images. The second half are
# our *new* images, on which we measure.

# %%
half = len(data.val) // 2
choosing, new = data.val[:half], data.val[half:]
few = data.subset(1000)
plain = train_arms({"plain": BASELINE}, few, evaluations=1)["plain"]

# %% tags=["fold"]
from fasttricks.course import clear

several = f"{len(plain)} seeds" if len(plain) > 1 else "one seed"
say(
    f"With {several}, a clear difference is at least {clear(len(plain)):.1f} points. A run sees "
    f"{budget.images:,} images in all. So it sees each of the 1,000 images about "
    f"{budget.images / 1000:.0f} times, or trains for {budget.images / 1000:.0f} *epochs*. "
    f"There are {len(new):,} new images."
)

# %% [markdown]
# For each image, a network gives ten probabilities. The largest one belongs to its answer and is
# its confidence. Networks are *overconfident* if their mean confidence is above their accuracy,
# *underconfident* if it is below, and *well calibrated on average* if the two differ by less than
# a point.


# %%
def predictions(runs, images):
    return [probabilities(run.net, data, images) for run in runs]


def answered(predicted, y):
    confidence, answer = predicted.max(1)
    return (answer == y).float(), confidence


plain_new = predictions(plain, new)
right, confidence = answered(torch.cat(plain_new), new.y.repeat(len(plain)))

# %% tags=["fold"]
from statistics import fmean

from fasttricks.course import sureness


def right_on(runs, images):
    found = [answered(predicted, images.y)[0] for predicted in predictions(runs, images)]
    return torch.cat(found).mean().item()


say(
    f"The networks classify {right_on(plain, few.train):.0%} of their training images correctly. "
    f"On new images, they are right {right.mean():.0%} of the time, and their mean confidence is "
    f"{confidence.mean():.2f}. So they are "
    f"**{sureness(confidence.mean().item(), right.mean().item())}**."
)

# %% [markdown]
# A mean can hide errors that cancel. A network is *well calibrated* if we can take each
# confidence at face value: of the images on which it is 90% sure, it gets 90% right.
# To check this, we sort the images into ten bins by confidence.


# %%
def reliability(networks, y):
    right, confidence = answered(torch.cat(networks), y.repeat(len(networks)))
    table = pd.DataFrame({"confidence": confidence.tolist(), "right": right.tolist()})
    bins = table.groupby((10 * table["confidence"]).astype(int).clip(upper=9))
    return bins.mean().assign(images=bins.size())


# %% [markdown]
# In this *reliability diagram*, points below the grey line mean overconfidence, and points above
# it underconfidence. The right panel shows the share of the images in each bin. We pool all seeds
# and leave out bins with 20 images or fewer.


# %% tags=["fold"]
def diagram(methods, title):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for (name, networks), style in zip(methods.items(), ("ko-", "C1s--", "C0^:"), strict=False):
        bins = reliability(networks, new.y)
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


diagram({"plain": plain_new}, f"new images, 1,000 labels, {several}")

# %% [markdown]
# The **expected calibration error**, or *calibration error*, sums up the diagram. It is the
# vertical distance of a point from the grey line, averaged over all images. It is never quite 0,
# because the share of right answers in a bin is partly luck.


# %%
def calibration_error(predicted, y):
    bins = reliability([predicted], y)
    distances = (bins["confidence"] - bins["right"]).abs()
    return (distances * bins["images"]).sum() / len(y)


# %% tags=["fold"]
plain_bins = reliability(plain_new, new.y)
last = plain_bins.iloc[-1]
errors = [calibration_error(network, new.y) for network in plain_new]
say(
    f"The rightmost bin holds {last['images'] / plain_bins['images'].sum():.0%} of the images. "
    f"Their mean confidence is {last['confidence']:.2f}, and {last['right']:.0%} of them are "
    f"classified correctly. The calibration error is **{fmean(errors):.3f}** (mean, {several})."
)

# %% [markdown]
# ## By hand: one image
#
# Why does a network become so sure? The *logits* are the numbers that go into the softmax.
# Suppose that the nine wrong classes all have the same logit, and that the logit of the right
# class is larger by some *gap*. Then softmax makes the right class exp(gap) times as probable as
# any other.
#
# The loss is the *cross-entropy*: each class contributes its target times the negative logarithm
# of its probability. With an epsilon of 0.1, the target of the right class is 0.9 + 0.01, and
# that of each other class is 0.01.

# %%
import math


def chance_of_right(gap, classes=10):
    return math.exp(gap) / (math.exp(gap) + classes - 1)


def loss_at(gap, eps, classes=10):
    right = chance_of_right(gap, classes)
    other = (1 - right) / (classes - 1)
    share = eps / classes
    return -(1 - eps + share) * math.log(right) - (classes - 1) * share * math.log(other)


# %% tags=["fold"]
gaps = [gap / 10 for gap in range(121)]
losses = [loss_at(gap, 0.1) for gap in gaps]
lowest = gaps[losses.index(min(losses))]
lines = {"target 1": (gaps, [loss_at(gap, 0) for gap in gaps]), "smoothed by 0.1": (gaps, losses)}
plot(lines, "gap between the right logit and the others", "loss of one image")
plt.plot(lowest, min(losses), "o", color="grey", label=f"lowest, at {lowest:.1f}")
plt.legend()
plt.show()

# %% [markdown]
# Without smoothing, a wider gap always lowers the loss a little further. With smoothing, there is
# a best gap. Beyond it, more certainty *increases* the loss.
#
# The cross-entropy is lowest where the probabilities equal the targets. So the best gap is the
# logarithm of a ratio: the target of the right class, divided by that of any other.


# %%
def best_gap(eps, classes=10):
    return math.log((1 - eps + eps / classes) / (eps / classes))


# %%
say(
    f"With an epsilon of 0.1, the best gap is **{best_gap(0.1):.2f}**, and with 0.3, it is "
    f"{best_gap(0.3):.2f}. With 0.1, even the best gap has a loss of {min(losses):.2f}, not 0."
)

# %% [markdown]
# So never compare a smoothed loss with a usual one. Below, *ordinary loss* means the loss for the
# true labels without smoothing, whatever the network was trained with.
#
# ## By hand: images that look alike
#
# What does smoothing ask for if the true answer is uncertain? Think of many images that look
# alike. A share p of them belongs to some class. A network that cannot tell them apart gives them
# all the same answer. Their average target for this class is p. With smoothing and K classes, it
# is (1 - eps) p + eps / K. Their loss is lowest where the probability equals this average.


# %%
def asked(p, eps, classes=10):
    return (1 - eps) * p + eps / classes


# %%
say(
    f"Where plain training asks for 0.8, smoothing by 0.1 asks for **{asked(0.8, 0.1):.2f}**, and "
    f"by 0.3, for **{asked(0.8, 0.3):.2f}**. Where plain training asks for 0.1, so do both."
)

# %% [markdown]
# So we can predict what smoothing does to the mean confidence c of plain networks:
#
# - It falls to (1 - eps) c + eps / K. If c was too high, this can be more honest. If c was right,
#   the smoothed networks are underconfident, and their ordinary loss is higher.
# - The order of the classes stays the same. So the accuracy need not change.
#
# But a network that knows its training images by heart meets each image's own target, not an
# average. On these images, p is 1, and the gaps end at the best gap. For *new* images, the
# formula then promises nothing. We will meet both cases.
#
# ## Write it
#
# This is the same formula, for all classes at once. `q` holds one row of targets per image. A
# usual row is *one-hot*: 1 for one class and 0 for all others.


# %%
def smooth(q, eps):
    return (1 - eps) * q + eps / q.shape[1]


# %% [markdown]
# ## Check it
#
# Our rows must equal those of the course's function and sum to 1. PyTorch's argument must give
# the same loss.

# %% tags=["nbval-check-output"]
from torch.nn.functional import cross_entropy, one_hot

from fasttricks.tricks import smoothing

logits, y = torch.randn(64, 10), torch.arange(64) % 10
onehots = one_hot(y, 10).float()
rows = smooth(onehots, 0.1)
holds(torch.equal(rows, smoothing.smooth(onehots, 0.1)), "the course's function gives the same")
holds(torch.allclose(rows.sum(1), torch.ones(64)), "each smoothed row still sums to 1")
torchs = cross_entropy(logits, y, label_smoothing=0.1)
holds(abs(cross_entropy(logits, rows) - torchs).item() < 1e-6, "torch's loss is the same")

# %% [markdown]
# timm's loss is the same, too. Smoothing and mixup (chapter 4) *commute*: their order makes no
# difference. Question 3 asks why.

# %% tags=["nbval-check-output", "fold"]
from timm.loss import LabelSmoothingCrossEntropy

from fasttricks.tricks.mixup import mix

holds(abs(LabelSmoothingCrossEntropy(0.1)(logits, y) - torchs).item() < 1e-6, "so is timm's")
pictures, lam, other = torch.rand(64, 1, 4, 4), torch.tensor(0.3), torch.randperm(64)
before = mix(pictures, rows, lam, other)[1]
after = smooth(mix(pictures, onehots, lam, other)[1], 0.1)
holds(torch.allclose(before, after, atol=1e-6), "smoothing and mixing commute")

# %% [markdown]
# ## In your own loop
#
# Add `label_smoothing=0.1` to the loss that you train with, and leave it out when you compute a
# validation loss. The complete script is [`examples/smoothing.py`](../examples/smoothing.py).
#
# <details><summary>How it differs from <code>examples/plain.py</code></summary>
#
# ```diff
#          inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
# -        loss = F.cross_entropy(net(inputs), targets)
# +        loss = F.cross_entropy(net(inputs), targets, label_smoothing=0.1)
#          loss.backward()
# ```
#
# </details>
#
# ## Use it: 1,000 labels
#
# Does smoothing make our networks more honest? We train with four values of epsilon and the same
# seeds. This cell takes the longest to run.

# %%
epsilons = (0.02, 0.05, 0.1, 0.3)
recipes = {f"epsilon {eps:g}": BASELINE + LabelSmoothing(eps) for eps in epsilons}
smoothed = train_arms(recipes, few, evaluations=1)

# %% [markdown]
# **First, the gaps.** Do they end at the best gap? For a real image, the nine other logits
# differ. So we divide the largest probability by the *mean* of the nine others, and take the
# logarithm. We show the median over the images, averaged over the seeds.


# %% tags=["fold"]
def median_gap(runs, images):
    medians = []
    for predicted in predictions(runs, images):
        confidence = predicted.max(1).values.clamp(max=1 - 1e-7)
        others = (1 - confidence) / (predicted.shape[1] - 1)
        medians.append((confidence / others).log().median().item())
    return fmean(medians)


gaps_known = [median_gap(runs, few.train) for runs in smoothed.values()]
gaps_new = [median_gap(runs, new) for runs in smoothed.values()]
plain_gap, plain_new_gap = median_gap(plain, few.train), median_gap(plain, new)
curve = [number / 100 for number in range(2, 41)]
line = {"best gap, by the formula": (curve, [best_gap(eps) for eps in curve])}
plot(line, "epsilon (log scale)", "gap", f"1,000 labels, {several}", scale="log")
plt.plot(epsilons, gaps_known, "s", label="measured, training images")
plt.plot(epsilons, gaps_new, "^", label="measured, new images")
plt.axhline(plain_gap, color="grey", ls="--", label="plain, training images")
plt.legend()
plt.show()

# %%
miss = fmean(abs(gap - best_gap(eps)) for gap, eps in zip(gaps_known, epsilons, strict=True))
moved = fmean(plain_gap - gap for gap in gaps_known)
say(
    f"On training images, smoothing narrows the gap of {plain_gap:.1f} by {moved:.1f} on average. "
    f"The narrower gaps miss the formula by {miss:.1f} on average. "
    + (
        "So **the gaps end about where the formula says**."
        if miss < moved / 2
        else "So **these runs do not bring the gaps to the formula**."
    )
    + f" The gap on new images changes, too: with an epsilon of 0.1, from {plain_new_gap:.1f} to "
    f"**{gaps_new[2]:.1f}**."
)

# %% [markdown]
# **Second, the confidence.** We compare smoothing with **temperature scaling** (Guo et al. 2017).
# It divides the logits of a finished plain network by one number, the *temperature*. Above 1, it
# shrinks all gaps. The largest logit remains the largest, so the accuracy stays exactly as it is.


# %%
def tempered(predicted, temperature):
    # softmax treats logarithms of probabilities like logits
    return (predicted.clamp_min(1e-12).log() / temperature).softmax(1)


def best_temperature(run):
    (rows,) = predictions([run], choosing)
    candidates = [number / 20 for number in range(10, 101)]
    return min(candidates, key=lambda value: calibration_error(tempered(rows, value), choosing.y))


# %% [markdown]
# `on_new_images` collects the probabilities of all trained networks, and of the plain ones after
# temperature
# scaling.

# %%
scaling = "temperature scaling"


def on_new_images(arms):
    found = {name: predictions(runs, new) for name, runs in arms.items()}
    pairs = zip(found["plain"], arms["plain"], strict=True)
    found[scaling] = [tempered(predicted, best_temperature(run)) for predicted, run in pairs]
    return found


few_methods = on_new_images({"plain": plain} | smoothed)

# %% [markdown]
# The table shows means over the seeds. *By the formula* is the mean confidence that we predict
# from the plain networks.


# %% tags=["fold"]
def judged(predicted, y):
    right, confidence = answered(predicted, y)
    losses = -predicted.clamp_min(1e-12).log().gather(1, y[:, None]).squeeze(1)
    return {
        "accuracy": right.mean().item(),
        "mean confidence": confidence.mean().item(),
        "calibration error": calibration_error(predicted, y),
        "ordinary loss": losses.mean().item(),
        "from wrong answers": (losses * (1 - right)).mean().item(),
    }


def summary(methods):
    rows = {name: [judged(one, new.y) for one in nets] for name, nets in methods.items()}
    scores = {name: pd.DataFrame(found) for name, found in rows.items()}
    return scores, pd.DataFrame({name: found.mean() for name, found in scores.items()}).T


def formula(means, name):
    return asked(means["mean confidence"]["plain"], float(name.removeprefix("epsilon ")))


# %% tags=["fold"]
def shown(means):
    table = means[["accuracy", "mean confidence"]].map("{:.3f}".format)
    table["by the formula"] = [
        f"{formula(means, name):.3f}" if "epsilon" in name else "" for name in means.index
    ]
    table["so the networks are"] = [
        sureness(row["mean confidence"], row["accuracy"]) for _, row in means.iterrows()
    ]
    errors = means[["calibration error", "ordinary loss"]].map("{:.3f}".format)
    return table.join(errors)


few_scores, few_means = summary(few_methods)
shown(few_means)

# %% [markdown]
# We choose epsilon and the temperatures by the lowest calibration error on the first half of the
# validation images. All seeds share one epsilon, but each network has its own temperature.


# %% tags=["fold"]
def verdicts(scores, name, other="plain"):
    measures = ("accuracy", "calibration error", "ordinary loss")
    return {m: gained(list(scores[name][m]), list(scores[other][m])) for m in measures}


def compared(scores, name):
    lines = []
    for other in ("plain", scaling):
        seen = verdicts(scores, name, other)
        known = "plain training" if other == "plain" else other
        lines.append(
            f"- **{name} beside {known}.** Accuracy: {seen['accuracy']}. Calibration error: "
            f"**{seen['calibration error']}**. Ordinary loss: **{seen['ordinary loss']}**."
        )
    return "\n".join(lines)


# %% tags=["fold"]
on_first_half = {}
for name, runs in smoothed.items():
    tried = [calibration_error(predicted, choosing.y) for predicted in predictions(runs, choosing)]
    on_first_half[name] = fmean(tried)
chosen = min(on_first_half, key=on_first_half.get)
names = list(smoothed)
edge = " (at the edge of those tried)" if chosen in (names[0], names[-1]) else ""
listed = ", ".join(f"{best_temperature(run):.2f}" for run in plain)
say(f"We chose **{chosen}**{edge}. Temperatures: {listed}.\n\n{compared(few_scores, chosen)}")
lowest_loss = few_means["ordinary loss"][names].idxmin()
lower = few_means["ordinary loss"][lowest_loss] < few_means["ordinary loss"]["plain"]
say(
    f"{lowest_loss.capitalize() if lower else 'No epsilon that we tried'} has a lower mean loss "
    "than plain training."
)

# %% [markdown]
# The diagram shows plain training and the two methods.

# %% tags=["fold"]
three = {name: few_methods[name] for name in ("plain", chosen, scaling)}
diagram(three, f"new images, 1,000 labels, {several}")

# %% tags=["fold"]
leftmost = {}
for name in (chosen, scaling):
    bins = reliability(few_methods[name], new.y)
    first = bins[bins["images"] > 20].iloc[0]
    leftmost[name] = sureness(first["confidence"], first["right"])
few_smoothing = verdicts(few_scores, chosen)
most = few_means.loc["epsilon 0.3"]
say(
    f"The leftmost point shows the images on which the networks are least sure. There, those with "
    f"{chosen} are {leftmost[chosen]}. With {scaling}, they are {leftmost[scaling]}."
)
say(
    "So here, smoothing "
    + (
        "**made the confidence more honest**, with an epsilon that fits."
        if "lower" in few_smoothing["calibration error"]
        else "**did not clearly make the confidence more honest**."
    )
    + f" With 0.3, the networks are {sureness(most['mean confidence'], most['accuracy'])}."
)

# %% [markdown]
# **Third, the loss.** It looks at the probability of the *true* class. If the answer is wrong, it
# matters how the rest is divided. A smoothed target asks for equal parts, so a network that fits
# it forgets that a shirt looks more like a coat than like a bag. Müller et al. 2019 found such a
# loss of information. It would show as extra loss from wrong answers.

# %%
more = 100 * (few_means.loc[chosen] - few_means.loc[scaling])
total, part = more["ordinary loss"], more["from wrong answers"]
say(
    f"The mean loss with {chosen} minus that with {scaling} is {total:+.1f} points. Images with "
    f"wrong answers contribute {part:+.1f}, and those with right answers {total - part:+.1f}. "
    + (
        "So **most of the extra loss comes from wrong answers**. This agrees, but proves nothing."
        if 2 * part > total > 0
        else "So we do not see it here."
    )
)

# %% [markdown]
# ## Use it: wrong labels
#
# Does smoothing help if many labels are wrong? Lukasik et al. 2020 found so. We give about 40% of
# the 1,000 images a wrong label, drawn at random once for all seeds. The labels of the new images
# stay correct. From here on, epsilon is *not* tuned.

# %%
from dataclasses import replace

from fasttricks.data import Split

draw = torch.Generator().manual_seed(0)
wrong = torch.rand(len(few.train), generator=draw) < 0.4
shift = torch.randint(1, 10, wrong.shape, generator=draw) * wrong
mistaken = (few.train.y + shift.to(few.train.y.device)) % len(data.classes)
hasty = replace(few, train=Split(few.train.x, mistaken))
arms = {"plain": BASELINE} | {name: recipes[name] for name in ("epsilon 0.1", "epsilon 0.3")}
hasty_runs = train_arms(arms, hasty, evaluations=1)
hasty_methods = on_new_images(hasty_runs)

# %% tags=["fold"]
from IPython.display import Markdown, display

hasty_scores, hasty_means = summary(hasty_methods)
display(shown(hasty_means))
say(compared(hasty_scores, "epsilon 0.1"))
both = {name: verdicts(hasty_scores, name)["accuracy"] for name in ("epsilon 0.1", "epsilon 0.3")}
helped = [name for name, verdict in both.items() if "higher" in verdict]
say(
    f"So with these wrong labels, **{' and '.join(helped) or 'neither epsilon'} clearly raised the "
    "accuracy**. This is one test, of one kind and one share of wrong labels."
)

# %% [markdown]
# ## Use it: a short run on many labels
#
# What if a network has no time to become too sure? We draw from all labels, with as many images
# per run as before. So a network sees each image much less often.

# %%
arms = {name: arms[name] for name in ("plain", "epsilon 0.1")}
all_runs = train_arms(arms, data, evaluations=1)
all_methods = on_new_images(all_runs)

# %% tags=["fold"]
all_scores, all_means = summary(all_methods)
shown(all_means)

# %% [markdown]
# The diagram shows plain training and smoothing.

# %% tags=["fold"]
two = {name: all_methods[name] for name in ("plain", "epsilon 0.1")}
diagram(two, f"new images, a short run, {several}")

# %% tags=["fold"]
say(
    f"Each run saw {budget.images:,} images. That is {budget.images / len(data.train):.2f} epochs "
    f"of {len(data.train):,} images.\n\n{compared(all_scores, 'epsilon 0.1')}"
)
all_smoothing = verdicts(all_scores, "epsilon 0.1")
all_sure = sureness(all_means["mean confidence"]["plain"], all_means["accuracy"]["plain"])
outcome = {"higher": "**less honest**", "lower": "**more honest**"}
found = next((w for key, w in outcome.items() if key in all_smoothing["calibration error"]), "")
say(
    f"The plain networks are {all_sure}. Smoothing "
    + (
        f"made their confidence {found}."
        if found
        else "did not clearly change how honest they are."
    )
)

# %% [markdown]
# ## Where the formula holds
#
# When could we predict the mean confidence? Each row compares the formula with what we measured,
# for epsilon 0.1. The first column shows how well the *plain* networks know the first 1,000
# training images (by the labels of their training).

# %% tags=["fold"]
settings = {
    "1,000 labels": (plain, few, few_means),
    "wrong labels": (hasty_runs["plain"], hasty, hasty_means),
    "a short run": (all_runs["plain"], few, all_means),
}
rows = {}
for setting, (runs, shared, means) in settings.items():
    predicted = formula(means, "epsilon 0.1")
    measured = means["mean confidence"]["epsilon 0.1"]
    rows[setting] = {
        "right on training images": right_on(runs, shared.train),
        "right on new images": means["accuracy"]["plain"],
        "plain confidence": means["mean confidence"]["plain"],
        "by the formula": predicted,
        "measured": measured,
        "measured minus formula": measured - predicted,
    }
foretold = pd.DataFrame(rows).T
foretold.round(3)

# %% tags=["fold"]
known = foretold["right on training images"] - foretold["right on new images"]
by_heart, off = known > 0.05, foretold["measured minus formula"]
fits = not by_heart.all() and by_heart.any()
fits = fits and off[by_heart].abs().min() > 0.01 > off[~by_heart].abs().max()
say(
    "**The formula is right, to within a point, where the networks know hardly more about training "
    "images than about new ones. It is off by more where they know training images by heart.**"
    if fits
    else "Here, knowing training images by heart does not decide how far the formula is off."
)
if fits and off[by_heart].max() < 0:
    say("There, the smoothed networks are even less sure than the formula says.")

# %% [markdown]
# Knowing by heart can matter because such a network has met the targets of its training images,
# and nothing tells it how sure to be of new ones. So if you train for many epochs on few labels,
# measure what an epsilon does.
#
# ## Break it
#
# Now we ask for far too little certainty, again with 1,000 labels. Suppose that a network decides
# on its own wherever it is at least 90% sure, and that a person looks at the rest. How much does
# the network decide? Epsilon 0 is plain training.

# %% tags=["fold"]
decided = {}
for name, networks in few_methods.items():
    right, confidence = answered(torch.cat(networks), new.y.repeat(len(networks)))
    decided[name] = right[confidence >= 0.9]
order = ["plain", *smoothed]
places = list(range(len(order)))
lines = {name: (places, list(few_means[name][order])) for name in ("accuracy", "mean confidence")}
shares = [len(decided[name]) / len(right) for name in order]
lines["share of images decided"] = (places, shares)
title = f"1,000 labels, {several}"
plot(lines, "epsilon (not to scale)", "share or probability", title, marks=True)
plt.xticks(places, [0, *epsilons])
plt.show()

# %%
say(
    f"Together, the plain networks decide {len(decided['plain']):,} of {len(right):,} times. With "
    f"epsilon 0.1, they decide {len(decided['epsilon 0.1']):,} times, and with 0.3, "
    f"**{len(decided['epsilon 0.3']):,} times**."
)

# %% [markdown]
# With ten classes, the target of the right class is below 0.9 if epsilon is above 1/9. A network
# that meets such targets is never 90% sure.
#
# Would a new threshold help? We let each network decide the half of the images on which it is
# surest. If smoothing only lowered all confidences and kept their order, this half would stay the
# same.


# %% tags=["fold"]
def right_in_surest_half(predicted):
    right, confidence = answered(predicted, new.y)
    surest = confidence.argsort(descending=True)[: len(right) // 2]
    return right[surest].mean().item()


halves = {name: [right_in_surest_half(one) for one in few_methods[name]] for name in few_methods}
by_order = {name: gained(halves[name], halves["plain"]) for name in halves if name != "plain"}
pd.DataFrame(
    {
        "right where 90% sure": {
            name: f"{found.mean():.1%} of {len(found):,}" if len(found) else "-"
            for name, found in decided.items()
        },
        "right in the surest half": {name: f"{fmean(found):.1%}" for name, found in halves.items()},
        "surest half, beside plain": {"plain": "-"} | by_order,
    }
)

# %% tags=["fold"]
worse = [name for name in smoothed if "lower" in by_order[name]]
say(
    f"**A new threshold does not repair everything.** With {' and '.join(worse)}, the surest half "
    "holds clearly more mistakes than in plain training."
    if worse
    else "**A new threshold repairs the decisions**, as far as we can tell. No epsilon "
    "leaves clearly more mistakes in the surest half than plain training does."
)

# %% [markdown]
# So after smoothing, choose every threshold anew, and check what it decides.
#
# ## A schedule and many epochs
#
# So far, the learning rate was constant, which leaves the final weights noisy and can hide a gain
# in accuracy. Is there one if the rate falls to zero? The recorded study with a tenth of the
# labels trained one-cycle at several lengths, with and without smoothing (epsilon 0.1). Each
# point stands for runs of that length.

# %%
from fasttricks.course import found_in, gain_by_epochs

gain_by_epochs("smoothing")
plt.show()

# %% tags=["fold"]
from fasttricks.study.pages import equal_gains

study = found_in("few")
gains = equal_gains(study, f"{study.reference} + smoothing")
above = sum(low > 0 for _, _, low, _ in gains)
below = sum(high < 0 for _, _, _, high in gains)
images, most_gained, *_ = max(gains, key=lambda gain: gain[1])
longest, ended, low, high = gains[-1]
say(
    f"The largest gain is {most_gained:+.2f} points, after {images / study.labels:.0f} epochs. The "
    f"interval lies above 0 at {above} of {len(gains)} lengths, and below it at {below}. (Among so "
    f"many, one may do so by chance.) After the longest runs, {longest / study.labels:.0f} epochs, "
    f"the gain is **{ended:+.2f} points (95% interval: {low:+.2f} to {high:+.2f})**: "
    + ("a clear gain." if low > 0 else "a clear loss." if high < 0 else "no clear difference.")
)

# %% [markdown]
# A trick may reach a given accuracy sooner, as this one did here, and still end no higher.
#
# ## What we have found
#
# Each row compares two methods with plain training in the same setting. Temperature scaling never
# changes the accuracy.

# %% tags=["fold"]
compared_in = {
    "with 1,000 labels": (few_scores, chosen),
    "with wrong labels": (hasty_scores, "epsilon 0.1"),
    "in a short run": (all_scores, "epsilon 0.1"),
}
table = {}
for setting, (scores, name) in compared_in.items():
    both = {"smoothing": verdicts(scores, name), scaling: verdicts(scores, scaling)}
    row = {(how, m): v.split(" (")[0] for how, seen in both.items() for m, v in seen.items()}
    row.pop((scaling, "accuracy"))
    table[f"{setting} ({name})"] = row
pd.DataFrame(table).T


# %% tags=["fold"]
def series(some):
    *first, last = some
    return f"{', '.join(first)} and {last}" if first else last


def grouped(measure, other="plain"):
    groups = {}
    for setting, (scores, name) in compared_in.items():
        verdict = verdicts(scores, name, other)[measure]
        word = next((w for w in ("higher", "lower") if w in verdict), "not clearly different")
        groups.setdefault(word, []).append(setting)
    return ", and ".join(f"**{word}** {series(some)}" for word, some in groups.items())


directly = [verdicts(*pair, scaling)["calibration error"] for pair in compared_in.values()]
say(
    f"- **Accuracy:** at these epsilons, it is {grouped('accuracy')}.\n"
    f"- **Honesty:** the calibration error is {grouped('calibration error')}.\n"
    f"- **Loss:** the ordinary loss is {grouped('ordinary loss')}.\n\n"
    f"We also compare smoothing with {scaling} directly. Its calibration error is "
    f"{grouped('calibration error', scaling)}. Its ordinary loss is "
    f"{grouped('ordinary loss', scaling)}."
    + " So **calibration alone was no reason to smooth**."
    * (not any("lower" in verdict for verdict in directly))
)

# %% [markdown]
# **Why, then, do so many recipes smooth?** Mostly for accuracy, in long runs with many images and
# many classes, which we have not tried. Szegedy et al. 2015 gained about 0.2 points on ImageNet.
# Vaswani et al. 2017 smoothed in translation: the loss became worse, but the translations became
# better.
#
# Here is the trick's *card*, with what our runs showed. A *slot* is the place in our code that a
# trick fills, and *chain* means that several may share it. In *distillation*, which we did not
# test, one network learns from another's answers.

# %% tags=["fold"]
few_sure = sureness(few_means["mean confidence"]["plain"], few_means["accuracy"]["plain"])
too_much = verdicts(few_scores, "epsilon 0.3")
claims = {
    "a net too sure becomes more honest": "over" in few_sure
    and "lower" in few_smoothing["calibration error"],
    "wrong labels harm the accuracy less": bool(helped),
    "a large eps makes it less honest": "higher" in too_much["calibration error"],
    "a net not too sure becomes less honest": "over" not in all_sure
    and "higher" in all_smoothing["calibration error"],
}
told = "; ".join(f"{claim}: {'seen' if seen else 'not seen'}" for claim, seen in claims.items())
Markdown(f"{smoothing.__doc__.rstrip()}\n| our runs | {told} |")

# %% [markdown]
# Our rule of thumb: **first decide whether you need the answers or the probabilities.**
#
# - **You need only the answers.** Train with and without smoothing, with at least three seeds.
#   Keep it if the accuracy is clearly higher, or reached clearly sooner. Do not decide by the
#   loss.
# - **You need the probabilities.** Compare the mean confidence of a plain network with its
#   accuracy on validation images. If it is overconfident, try temperature scaling. It needs some
#   labelled images that were not trained on, keeps the accuracy, and can be undone.
# - **You smooth anyway.** Choose epsilon on validation images, and compare networks by the
#   ordinary loss.
#
# ## Questions
#
# **1. A plain network with ten classes is right on 90% of new images, with a mean confidence of
# 0.95. It has seen each training image once. What will epsilon 0.1 do?**
#
# <details><summary>Answer</summary>The formula says 0.9 times 0.95, plus 0.01, which is 0.865. So
# overconfident by 5 points becomes underconfident by 3.5.</details>
#
# **2. Smoothing leaves your accuracy as it was and raises the ordinary validation loss. Is that a
# mistake?**
#
# <details><summary>Answer</summary>No. Smoothed training asks for (1 - eps) p + eps / K instead
# of p, so it does not aim at the lowest ordinary loss.</details>
#
# **3. Why does it not matter whether we smooth before or after mixup?**
#
# <details><summary>Answer</summary>Smoothing multiplies all targets by 1 - eps and adds the
# constant eps / K. Mixup takes a weighted average of two targets. Its weights sum to 1, so the
# constant stays.</details>
#
# **4. With ten classes and epsilon 0.1, the training loss stops falling at 0.5. Is the network
# stuck?**
#
# <details><summary>Answer</summary>No, it has reached the lowest possible value, the
# <em>entropy</em> of the target. For 0.91 and nine times 0.01, it is 0.50.</details>
#
# **5. Your network is overconfident, but you cannot train it again. What do you do, and on which
# images?**
#
# <details><summary>Answer</summary>Choose a temperature on some images that the network was not
# trained on, and measure the calibration error on others.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. A wrong answer gets a hint.
#
# **Exercise 1.** Invert the formula for the best gap: return the epsilon that makes a given gap
# the best one.


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
# **Exercise 2.** In another convention, the right class keeps exactly 1 - eps, and each other
# class gets eps / (K - 1). Write it. It must work on blended rows too: a blend of two one-hot
# rows must become the same blend of the two smoothed rows.


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
# **Exercise 3.** Predict the lowest training loss that is possible with a given epsilon and
# number of classes. It should also work without smoothing.


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
# - Szegedy et al. 2015, [arXiv 1512.00567](https://arxiv.org/abs/1512.00567): the first description.
# - Guo et al. 2017, [arXiv 1706.04599](https://arxiv.org/abs/1706.04599): temperature scaling.
# - Vaswani et al. 2017, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762): smoothing in translation.
# - Müller et al. 2019, [arXiv 1906.02629](https://arxiv.org/abs/1906.02629): when smoothing helps.
# - Lukasik et al. 2020, [arXiv 2003.02819](https://arxiv.org/abs/2003.02819): smoothing and noisy labels.
