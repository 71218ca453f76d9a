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
# smoothing asks for a little less: it divides a share of this target, called *epsilon* or `eps`,
# equally among all K classes. So each target q becomes (1 - eps) q + eps / K. In PyTorch, this is
# one argument:
#
# ```python
# loss = F.cross_entropy(net(x), y, label_smoothing=0.1)  # 0.1 is epsilon
# val_loss = F.cross_entropy(net(val_x), val_y)  # without it, so that losses can be compared
# ```
#
# Here, `net(x)` are outputs before any softmax, and `y` are class numbers.
#
# **What it does.** It lowers a network's *confidence*, the probability that it gives to its own
# answer. If the network was too sure, its confidence can become more honest: closer to how often
# it is right. If not, it becomes less honest.
#
# **What it does not do.** In our runs, the confidence never became clearly more honest than with
# *temperature scaling*, which divides the outputs of a finished network by one number. The loss on
# new images mostly rose, but fell with many wrong labels and the usual epsilon. Our few seeds
# cannot show whether the accuracy rises a little.
#
# - **Use it when** you need only the answers and can test it with many seeds. One of our records
#   shows a gain: the same accuracy sooner, with few labels and a falling learning rate.
# - **Leave it when** your network is not too sure, or when you need honest probabilities and can
#   scale the temperature.
# - **Take care:** a rule such as "act if the network is 90% sure" needs a new threshold.
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
# line above depends on the device. It also sets the number of *seeds*, which fix the initial
# weights and the order of the images.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

from fasttricks import BASELINE, LabelSmoothing, choose_budget, load
from fasttricks.course import gained, headline, holds, plot, probabilities, say, train_arms

budget = choose_budget()
data = load().to(BASELINE.world.device(), budget.image_size)

# %% [markdown]
# **Is training faster?** These studies were recorded beforehand, with a small ResNet on
# Fashion-MNIST (chapter 0 explains them). *The other six tricks* are those of the other chapters.

# %%
say(headline("smoothing"))

# %% tags=["fold"]
from fasttricks.course import published

paid, lost, asked_for = [], [], 0
for study in published():
    start = "plain" if study.of("plain + smoothing") else study.reference
    for row in study.of(f"{start} + smoothing", "whole - smoothing"):
        if row.against not in (start, "whole"):
            continue
        asked_for += 1
        left_out = row.against == "whole"  # "whole - smoothing" is without it
        if row.verdict != "cannot tell" and not row.wavers:
            ratio = row.ratio.inverse if left_out else row.ratio
            told = f"{ratio.value:.2f} times as fast {study.about}".strip()
            (paid if row.verdict == ("slower" if left_out else "faster") else lost).append(told)
say(
    f"The 95% interval lies clearly above 1 in **{len(paid)} of {asked_for} comparisons**"
    + (f" ({'; '.join(paid)})" if paid else "")
    + f", and clearly below 1 in {len(lost)}."
)

# %% [markdown]
# Here is the idea in one picture. It uses an epsilon of 0.3, because the usual 0.1 shows less.

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
# **How we compare.** In this notebook, runs with the same seed form a pair. A difference is
# *clear*, and called *higher* or *lower*, if all n pairs agree on its sign and its mean is at
# least 0.01/√n. (Three seeds agree by chance one time in four, so the size must count, too.) This
# is a convention, not a test. In accuracy, 0.01 is a *point*. Papers report gains of about 0.2
# points, which three seeds cannot show. So *no clear difference* does not mean *none*.
#
# All seeds share their images, so they may agree by luck. And at a constant learning rate, batch
# norm's stored averages lag behind (chapter 3), which can change all numbers below.
#
# ## The problem: confident and wrong
#
# Can we believe a network's confidence? We train on only the first 1,000 training images.
# `BASELINE` is the *plain* training of chapter 0, with a constant learning rate. We choose settings
# on the first half of the validation images. The second half are our *new* images.

# %%
half = len(data.val) // 2
choosing, new = data.val[:half], data.val[half:]
few = data.subset(1000)
plain = train_arms({"plain": BASELINE}, few, evaluations=1)["plain"]

# %% tags=["fold"]
from fasttricks.course import clear

several = f"{len(plain)} seeds" if len(plain) > 1 else "one seed"
say(
    f"With {several}, a clear difference is at least {clear(len(plain)) / 100:.3f}. A run sees "
    f"{budget.images:,} images in all. So it sees each of the 1,000 images about "
    f"{budget.images / 1000:.0f} times, or trains for {budget.images / 1000:.0f} *epochs*. "
    f"There are {len(new):,} new images."
)

# %% [markdown]
# Networks are *overconfident* if their mean confidence is above their accuracy, *underconfident*
# if it is below, and *well calibrated on average* if the two differ by less than a point.


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
# A mean can hide errors that cancel. Of the images on which a network is 90% sure, does it get 90%
# right? We sort the images into ten bins by confidence.


# %%
def reliability(networks, y):
    right, confidence = answered(torch.cat(networks), y.repeat(len(networks)))
    table = pd.DataFrame({"confidence": confidence.tolist(), "right": right.tolist()})
    bins = table.groupby((10 * table["confidence"]).astype(int).clip(upper=9))
    return bins.mean().assign(images=bins.size())


# %% [markdown]
# In this *reliability diagram*, points below the grey line mean overconfidence, and points above
# it underconfidence. We pool all seeds and leave out bins with 20 images or fewer.


# %% tags=["fold"]
def diagram(methods, title):
    plt.figure(figsize=(5, 4.5), layout="constrained")
    plt.axline((0, 0), slope=1, color="grey")
    for (name, networks), style in zip(methods.items(), ("ko-", "C1s--", "C0^:"), strict=False):
        bins = reliability(networks, new.y)
        large = bins[bins["images"] > 20]
        plt.plot(large["confidence"], large["right"], style, label=name)
    plt.axis((0, 1, 0, 1))
    plt.xlabel("confidence")
    plt.ylabel("share of right answers")
    plt.title(title)
    plt.legend()
    plt.show()


diagram({"plain": plain_new}, f"new images, 1,000 labels, {several}")

# %% [markdown]
# The **expected calibration error**, or *calibration error*, is the vertical distance of a point
# from the grey line, averaged over all images. It is never quite 0, because the share of right
# answers in a bin is partly luck.


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
# Suppose that the nine wrong classes share one logit, and that the logit of the right class is
# larger by some *gap*. Then the right class is exp(gap) times as probable as any other.
#
# The loss is the *cross-entropy*: each class contributes its target times the negative logarithm
# of its probability. With epsilon 0.1, the targets are 0.91 and nine times 0.01.

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
# a best gap, and beyond it, the loss *increases*.
#
# The cross-entropy is lowest where the probabilities equal the targets. So the best gap is the
# logarithm of their ratio.


# %%
def best_gap(eps, classes=10):
    return math.log((1 - eps + eps / classes) / (eps / classes))


# %%
say(
    f"With an epsilon of 0.1, the best gap is **{best_gap(0.1):.2f}**, and with 0.3, it is "
    f"{best_gap(0.3):.2f}. With 0.1, even the best gap has a loss of {min(losses):.2f}, not 0."
)

# %% [markdown]
# So never compare a smoothed loss with a usual one. Below, *ordinary loss* is the loss without
# smoothing, however the network was trained.
#
# ## By hand: images that look alike
#
# What does smoothing ask for if the true answer is uncertain? Think of many images that look
# alike, so that a network gives them all the same answer. A share p of them belongs to some class.
# So their average target for this class is p, and with smoothing, it is (1 - eps) p + eps / K.
# Their loss is lowest where the probability equals this average.


# %%
def asked(p, eps, classes=10):
    return (1 - eps) * p + eps / classes


# %%
say(
    f"Where plain training asks for 0.8, smoothing by 0.1 asks for **{asked(0.8, 0.1):.2f}**, and "
    f"by 0.3, for **{asked(0.8, 0.3):.2f}**. Where plain training asks for 0.1, so do both."
)

# %% [markdown]
# So we can predict what smoothing does to the mean confidence c of plain networks: it falls to
# (1 - eps) c + eps / K. If c was too high, this can be more honest. If c was right, it is less
# honest. The order of the classes stays the same, so the accuracy need not change.
#
# But a network that knows its training images by heart fits each image's own target, not an
# average. There, the gaps end at the best gap. For *new* images, the formula then promises nothing.
#
# ## Write it
#
# The same formula, for all classes at once: `q` holds one row of targets per image, usually
# *one-hot* (1 for one class and 0 for all others).


# %%
def smooth(q, eps):
    return (1 - eps) * q + eps / q.shape[1]


# %% [markdown]
# ## Check it
#
# Our rows must equal the course's and sum to 1. PyTorch's loss must be the same. (`holds` raises an
# error if a claim is false.)

# %% tags=["nbval-check-output"]
from torch.nn.functional import cross_entropy, nll_loss, one_hot

from fasttricks.tricks import smoothing

logits, y = torch.randn(64, 10), torch.arange(64) % 10
onehots = one_hot(y, 10).float()
rows = smooth(onehots, 0.1)
holds(torch.equal(rows, smoothing.smooth(onehots, 0.1)), "the course's function gives the same")
holds(torch.allclose(rows.sum(1), torch.ones(64)), "each smoothed row still sums to 1")
from_torch = cross_entropy(logits, y, label_smoothing=0.1)
holds(abs(cross_entropy(logits, rows) - from_torch).item() < 1e-6, "torch's loss is the same")

# %% [markdown]
# So must timm's. And smoothing and mixup (chapter 4) *commute*: their order makes no difference.

# %% tags=["nbval-check-output", "fold"]
from timm.loss import LabelSmoothingCrossEntropy

from fasttricks.tricks.mixup import mix

from_timm = LabelSmoothingCrossEntropy(0.1)(logits, y)
holds(abs(from_timm - from_torch).item() < 1e-6, "timm's loss is the same")
pictures, lam, other = torch.rand(64, 1, 4, 4), torch.tensor(0.3), torch.randperm(64)
before = mix(pictures, rows, lam, other)[1]
after = smooth(mix(pictures, onehots, lam, other)[1], 0.1)
holds(torch.allclose(before, after, atol=1e-6), "smoothing and mixing commute")

# %% [markdown]
# ## In your own loop
#
# The complete script is [`examples/smoothing.py`](../examples/smoothing.py).
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
# **First, the gaps.** Do they end at the best gap? For a real image, we divide the largest
# probability by the *mean* of the nine others, and take the logarithm. We show the median over the
# images, averaged over the seeds.


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
misses = [abs(gap - best_gap(eps)) for gap, eps in zip(gaps_known, epsilons, strict=True)]
near, worst = sum(miss < 0.5 for miss in misses), misses.index(max(misses))
say(
    f"On training images, **{near} of {len(misses)} gaps end within 0.5 of the formula**. The "
    f"largest miss is at epsilon {epsilons[worst]:g}: {gaps_known[worst]:.1f} instead of "
    f"{best_gap(epsilons[worst]):.1f}. (Plain training ends at {plain_gap:.1f}.) The gap on new "
    f"images changes, too: with epsilon 0.1, from {plain_new_gap:.1f} to **{gaps_new[2]:.1f}**."
)

# %% [markdown]
# **Second, the confidence.** We compare smoothing with **temperature scaling** (Guo et al. 2017).
# It divides the logits of a finished plain network by one number, the *temperature*. Above 1, it
# shrinks all gaps. The largest logit remains the largest, so the accuracy stays exactly as it is.
# As Guo et al. do, we choose the temperature with the lowest ordinary loss (on the first half of
# the validation images).


# %%
def tempered(predicted, temperature):
    # softmax treats logarithms of probabilities like logits
    return (predicted.clamp_min(1e-12).log() / temperature).softmax(1)


def ordinary_loss(predicted, y):
    return nll_loss(predicted.clamp_min(1e-12).log(), y).item()


def best_temperature(run):
    (rows,) = predictions([run], choosing)
    candidates = [number / 100 for number in range(50, 501)]
    return min(candidates, key=lambda value: ordinary_loss(tempered(rows, value), choosing.y))


# %% tags=["fold"]
scaling = "temperature scaling"


def on_new_images(arms):
    found = {name: predictions(runs, new) for name, runs in arms.items()}
    pairs = zip(found["plain"], arms["plain"], strict=True)
    found[scaling] = [tempered(predicted, best_temperature(run)) for predicted, run in pairs]
    return found


few_methods = on_new_images({"plain": plain} | smoothed)

# %% [markdown]
# The table shows means over the seeds. *By the formula* is the predicted mean confidence.


# %% tags=["fold"]
def judged(predicted, y):
    right, confidence = answered(predicted, y)
    return {
        "accuracy": right.mean().item(),
        "mean confidence": confidence.mean().item(),
        "calibration error": calibration_error(predicted, y),
        "ordinary loss": ordinary_loss(predicted, y),
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
# We choose epsilon by the lowest calibration error, again on the first half. All seeds share one
# epsilon, but each network has its own temperature.


# %% tags=["fold"]
def verdict(scores, name, measure, other="plain"):
    own, known = list(scores[name][measure]), list(scores[other][measure])
    words, mean = gained(own, known), fmean(own) - fmean(known)
    if words.startswith("no clear difference"):
        return f"no clear difference ({round(mean, 3) + 0.0:+.3f})"
    word = next((word for word in ("higher", "lower") if word in words), "")
    return f"{abs(mean):.3f} {word}" if word else words


def compared(scores, name, *measures):
    return "\n".join(
        f"- **{measure.capitalize()} with {name}.** Beside plain training: "
        f"**{verdict(scores, name, measure)}**. Beside {scaling}: "
        f"**{verdict(scores, name, measure, scaling)}**."
        for measure in measures
    )


def series(some):
    *first, last = some
    return f"{', '.join(first)} and {last}" if first else last


# %% tags=["fold"]
on_first_half = {}
for name, runs in smoothed.items():
    tried = [calibration_error(predicted, choosing.y) for predicted in predictions(runs, choosing)]
    on_first_half[name] = fmean(tried)
chosen, names = min(on_first_half, key=on_first_half.get), list(smoothed)
edge = " (at the edge of those tried)" if chosen in (names[0], names[-1]) else ""
listed = ", ".join(f"{best_temperature(run):.2f}" for run in plain)
few_lines = compared(few_scores, chosen, "calibration error", "ordinary loss")
say(f"We chose **{chosen}**{edge}. Temperatures: {listed}.\n\n{few_lines}")
lowest = few_means["ordinary loss"][names].idxmin()
lower = few_means["ordinary loss"][lowest] < few_means["ordinary loss"]["plain"]
say(
    f"{lowest.capitalize() if lower else 'No epsilon that we tried'} has a lower mean loss "
    "than plain training."
)

# %% [markdown]
# Here is the diagram again, with both methods.

# %% tags=["fold"]
three = {name: few_methods[name] for name in ("plain", chosen, scaling)}
diagram(three, f"new images, 1,000 labels, {several}")

# %% tags=["fold"]
few_smoothing = verdict(few_scores, chosen, "calibration error")
most = few_means.loc["epsilon 0.3"]
say(
    "So here, smoothing "
    + (
        "**made the confidence more honest** than plain training did, with an epsilon that fits."
        if "lower" in few_smoothing
        else "**did not clearly make the confidence more honest**."
    )
    + f" With 0.3, the networks are {sureness(most['mean confidence'], most['accuracy'])}."
)

# %% [markdown]
# The loss also depends on how a network divides the rest. A smoothed target asks for equal parts,
# and Müller et al. 2019 found that smoothed networks forget which classes look alike. We have not
# tested this.
#
# ## Use it: wrong labels
#
# Does smoothing help if many labels are wrong? Lukasik et al. 2020 found that it does. In `noisy`,
# about 40% of the 1,000 training images have a wrong label, drawn at random once for all seeds.
# From here on, epsilon is *not* tuned, but the temperature is.

# %% tags=["fold"]
from dataclasses import replace

from fasttricks.data import Split

draw = torch.Generator().manual_seed(0)
wrong = torch.rand(len(few.train), generator=draw) < 0.4
shift = torch.randint(1, 10, wrong.shape, generator=draw) * wrong
mistaken = (few.train.y + shift.to(few.train.y.device)) % len(data.classes)
noisy = replace(few, train=Split(few.train.x, mistaken))

# %%
two_recipes = {"plain": BASELINE, "epsilon 0.1": recipes["epsilon 0.1"]}
three_recipes = two_recipes | {"epsilon 0.3": recipes["epsilon 0.3"]}
noisy_runs = train_arms(three_recipes, noisy, evaluations=1)

# %% tags=["fold"]
from IPython.display import Markdown, display

noisy_scores, noisy_means = summary(on_new_images(noisy_runs))
display(shown(noisy_means))
tried = [name for name in three_recipes if name != "plain"]
accuracies = {name: verdict(noisy_scores, name, "accuracy") for name in tried}
found = "; ".join(f"{name}, **{words}**" for name, words in accuracies.items())
lines = compared(noisy_scores, "epsilon 0.1", "calibration error", "ordinary loss")
say(f"- **Accuracy.** Beside plain training: {found}.\n{lines}")
helped = [name for name, found in accuracies.items() if "higher" in found]
cheaper = "lower" in verdict(noisy_scores, "epsilon 0.1", "ordinary loss", scaling)
say(
    f"So with these wrong labels, **{series(helped) if helped else 'neither epsilon'} clearly "
    "raised the accuracy**."
    + f" But epsilon 0.1 has a clearly lower loss than {scaling}." * cheaper
    + " This is one test, of one kind and one share of wrong labels."
)

# %% [markdown]
# ## Use it: a short run on many labels
#
# What if a network has no time to become too sure? We draw from all labels, with as many images
# per run as before.

# %%
all_runs = train_arms(two_recipes, data, evaluations=1)

# %% tags=["fold"]
all_scores, all_means = summary(on_new_images(all_runs))
shown(all_means)

# %% tags=["fold"]
say(
    f"Each run saw {budget.images:,} images. That is {budget.images / len(data.train):.2f} epochs "
    f"of {len(data.train):,} images.\n\n"
    + compared(all_scores, "epsilon 0.1", "calibration error", "ordinary loss")
)
all_smoothing = verdict(all_scores, "epsilon 0.1", "calibration error")
all_sure = sureness(all_means["mean confidence"]["plain"], all_means["accuracy"]["plain"])
outcome = {"higher": "**less honest**", "lower": "**more honest**"}
found = next((words for key, words in outcome.items() if key in all_smoothing), "")
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
# When could we predict the mean confidence? The first two columns are about the *plain* networks.
# The training images are the first 1,000, with the labels that were trained on.

# %% tags=["fold"]
settings = {
    "1,000 labels": (plain, few, few_means),
    "wrong labels": (noisy_runs["plain"], noisy, noisy_means),
    "a short run": (all_runs["plain"], few, all_means),
}
rows = {}
for setting, (runs, shared, means) in settings.items():
    known = right_on(runs, shared.train)
    for name in (name for name in means.index if "epsilon" in name):
        predicted, measured = formula(means, name), means["mean confidence"][name]
        rows[setting, name] = {
            "right on training images": known,
            "right on new images": means["accuracy"]["plain"],
            "by the formula": predicted,
            "measured": measured,
            "measured minus formula": measured - predicted,
        }
foretold = pd.DataFrame(rows).T
foretold.round(3)

# %% tags=["fold"]
alike = foretold.xs("epsilon 0.1", level=1)  # the one epsilon of all settings
by_heart = alike["right on training images"] - alike["right on new images"] > 0.05
off, with_few = alike["measured minus formula"], foretold.loc["1,000 labels"]
known, fresh = list(off.index[by_heart]), list(off.index[~by_heart])
fits = known and fresh and off[known].abs().min() > 0.01 > off[fresh].abs().max()
say(
    f"With epsilon 0.1, **the formula is right to within 0.01 for {series(fresh)}**, where the "
    f"networks are hardly better on training images than on new ones. **It is off by more for "
    f"{series(known)}**, where they know training images by heart."
    if fits
    else "Here, knowing training images by heart does not decide how far the formula is off."
)
first, *_, last = with_few["measured minus formula"]
say(
    f"With 1,000 labels, the measured confidence differs from the formula by {first:+.3f} at "
    f"epsilon {epsilons[0]:g}, and by **{last:+.3f}** at epsilon {epsilons[-1]:g}."
)

# %% [markdown]
# Three settings do not prove a rule. If you train for many epochs on few labels, measure instead.
#
# ## Break it
#
# Suppose that a network decides on its own wherever it is at least 90% sure. How much does it
# decide if we ask for far too little certainty? Epsilon 0 is plain training.

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
    f"Together, the plain networks decide in {len(decided['plain']):,} of {len(right):,} cases. "
    f"With epsilon 0.1, they decide in {len(decided['epsilon 0.1']):,} cases, and with 0.3, in "
    f"**{len(decided['epsilon 0.3']):,}**."
)

# %% [markdown]
# With ten classes, the target of the right class is below 0.9 if epsilon is above 1/9. Where a
# network fits such targets, it is never 90% sure.
#
# Would a new threshold help? We let each network decide the half of the images on which it is
# surest. If smoothing only lowered all confidences, this half would stay the same.


# %% tags=["fold"]
def mistakes_in_surest_half(predicted):
    right, confidence = answered(predicted, new.y)
    surest = confidence.argsort(descending=True)[: len(right) // 2]
    return (1 - right[surest]).mean().item()


halves = {name: [mistakes_in_surest_half(one) for one in few_methods[name]] for name in few_methods}
by_order = {name: gained(halves[name], halves["plain"]) for name in halves if name != "plain"}
words = {"higher": "clearly more", "lower": "clearly fewer"}
by_order = {
    name: next((word for key, word in words.items() if key in found), "no clear difference")
    for name, found in by_order.items()
}
size = len(new) // 2
counted = {name: f"{size * fmean(found):.1f} of {size:,}" for name, found in halves.items()}
pd.DataFrame(
    {
        "right where 90% sure": {
            name: f"{found.mean():.1%} of {len(found):,}" if len(found) else "-"
            for name, found in decided.items()
        },
        "mistakes in the surest half (mean)": counted,
        "beside plain": {"plain": "-"} | by_order,
    }
)

# %% tags=["fold"]
worse = [name.removeprefix("epsilon ") for name in smoothed if "more" in by_order[name]]
say(
    f"With epsilon {series(worse)}, the surest half holds clearly more mistakes than in plain "
    "training. So **a new threshold may not repair everything**. But these are few images, and the "
    "same ones for all seeds."
    if worse
    else "No epsilon leaves clearly more mistakes in the surest half than plain training does. So "
    "here, **a new threshold may be enough**."
)

# %% [markdown]
# So after smoothing, choose every threshold anew, and check what it decides.
#
# ## A schedule and many epochs
#
# A constant learning rate can hide a gain in accuracy. Is there one if the rate falls to zero? A
# recorded study trained one-cycle (chapter 3) at several lengths, with and without epsilon 0.1. It
# used a tenth of all labels, more than the 1,000 above. The dotted lines show when the two reach
# the target of the speed table.

# %%
from fasttricks.course import found_in, gain_by_epochs

study = found_in("few")
alone, with_smoothing = study.of(study.reference, f"{study.reference} + smoothing")
gain_by_epochs("smoothing")
for row in (alone, with_smoothing):
    plt.axvline(row.images.value / study.labels, color="grey", ls=":")
plt.show()

# %% tags=["fold"]
from fasttricks.study.pages import equal_gains

gains = [(images / study.labels, *gain) for images, *gain in equal_gains(study, with_smoothing.arm)]
until = alone.images.value / study.labels
above, below = sum(low > 0 for *_, low, _ in gains), sum(high < 0 for *_, high in gains)
epochs, points, low, high = min(gains, key=lambda gain: abs(math.log(gain[0] / until)))
say(
    f"One-cycle alone reaches the target, an accuracy of {study.target}, after {until:.1f} epochs, "
    f"and with smoothing after {with_smoothing.images.value / study.labels:.1f}. (Both numbers "
    f"come from curves through all lengths.) At the length next to this target, {epochs:.0f} "
    f"epochs, the gain is {points:+.2f} points (95% interval: {low:+.2f} to {high:+.2f})."
)
most_epochs, most, *_ = max(gains, key=lambda gain: gain[1])
last, ended, low, high = gains[-1]
say(
    f"The mean gain is above 0 at {sum(gain[1] > 0 for gain in gains)} of {len(gains)} lengths. "
    f"The largest is {most:+.2f} points, after {most_epochs:.0f} epochs. The interval lies above 0 "
    f"at {above} lengths, and below 0 at {below}. After {last:.0f} epochs, the longest, it is "
    f"**{ended:+.2f} points (95% interval: {low:+.2f} to {high:+.2f})**: "
    + ("a clear gain." if low > 0 else "a clear loss." if high < 0 else "no clear difference.")
)

# %% [markdown]
# All lengths share their validation images, so these are not independent tests. A gain in
# accuracy, if there is one, is small. But late in a run, even a small gain can save much time.
#
# ## What we have found
#
# Each row compares smoothing with plain training and with temperature scaling.

# %% tags=["fold"]
compared_in = {
    "with 1,000 labels": (few_scores, chosen),
    "with wrong labels": (noisy_scores, "epsilon 0.1"),
    "in a short run": (all_scores, "epsilon 0.1"),
}
wanted = {"plain": ("accuracy", "calibration error", "ordinary loss")}
wanted[scaling] = wanted["plain"][1:]
table = {}
for setting, (scores, name) in compared_in.items():
    tuned = "tuned" if scores is few_scores else "not tuned"
    table[f"{setting} ({name}, {tuned})"] = {
        (f"smoothing beside {other}", measure): verdict(scores, name, measure, other)
        for other, measures in wanted.items()
        for measure in measures
    }
pd.DataFrame(table).T

# %% tags=["fold"]
honest, cheap = (
    [
        setting
        for setting, (scores, name) in compared_in.items()
        if "lower" in verdict(scores, name, measure, scaling)
    ]
    for measure in ("calibration error", "ordinary loss")
)
say(
    (
        f"Smoothing has a clearly lower calibration error than {scaling} {series(honest)}."
        if honest
        else f"In no setting does smoothing have a clearly lower calibration error than {scaling}. "
        "So here, **calibration alone was no reason to smooth**."
    )
    + f" It has a clearly lower ordinary loss {series(cheap) if cheap else 'in no setting'}."
)

# %% [markdown]
# Only with 1,000 labels were both methods tuned. The other settings favour temperature scaling. But
# it is also cheaper to tune: each epsilon takes a training run, and a temperature takes none.
#
# **Why, then, do so many recipes smooth?** Mostly for accuracy, in long runs with many images and
# many classes, which we have not tried. Szegedy et al. 2015 gained about 0.2 points on ImageNet.
# Vaswani et al. 2017 smoothed in translation: the loss became worse, the translations better.
#
# Here is the trick's *card*, and what we have seen of it. (Its *slot* is its place in the course's
# code. In *distillation*, one network learns from another's answers.)

# %% tags=["fold"]
few_sure = sureness(few_means["mean confidence"]["plain"], few_means["accuracy"]["plain"])
claims = {
    "A network that is too sure becomes more honest": "over" in few_sure
    and "lower" in few_smoothing,
    "A large epsilon makes it less honest": "higher"
    in verdict(few_scores, "epsilon 0.3", "calibration error"),
    "A network that is not too sure becomes less honest": "over" not in all_sure
    and "higher" in all_smoothing,
    "Wrong labels harm the accuracy less": bool(helped),
    "Wrong labels harm the loss less": "lower"
    in verdict(noisy_scores, "epsilon 0.1", "ordinary loss"),
}
told = "\n".join(f"- {claim}: {'seen' if seen else 'not seen'}." for claim, seen in claims.items())
display(Markdown(smoothing.__doc__))
say(f"{told}\n- Training is faster: seen in {len(paid)} of {asked_for} recorded comparisons.")

# %% [markdown]
# Our rule of thumb: **first decide whether you need the answers or the probabilities.**
#
# - **You need only the answers.** Expect a few tenths of a point, if any. Even ten recorded seeds
#   leave wide intervals. Test it with many seeds, or do not count on it.
# - **You need the probabilities.** Compare the mean confidence of a plain network with its
#   accuracy on validation images. If it is overconfident, try temperature scaling. It keeps the
#   accuracy and can be undone.
# - **You smooth anyway.** Choose epsilon on validation images, by what you need: the accuracy for
#   answers, the calibration error for confidences, or the ordinary loss for all probabilities.
#
# ## Questions
#
# **1. A plain network with ten classes is right on 90% of new images, with a mean confidence of
# 0.95. It has seen each training image once. What will epsilon 0.1 do?**
#
# <details><summary>Answer</summary>It has seen each image only once, so it cannot know them by
# heart, and we can use the formula: 0.9 times 0.95, plus 0.01, is 0.865. So overconfident by 5
# points becomes underconfident by 3.5.</details>
#
# **2. With ten classes, your validation loss is 0.45. A colleague's is 0.60, but her code also
# smooths the validation loss, by 0.1. Whose network is better?**
#
# <details><summary>Answer</summary>We cannot tell. Her loss cannot be below 0.50, the
# <em>entropy</em> of her targets. Both networks need the ordinary loss.</details>
#
# **3. Why does it not matter whether we smooth before or after mixup?**
#
# <details><summary>Answer</summary>Smoothing multiplies targets by 1 - eps and adds the constant
# eps / K. Mixup averages two targets with weights that sum to 1, so the constant stays.</details>
#
# **4. Your program acts if the network is at least 95% sure. You retrain it with epsilon 0.1 and
# ten classes. What happens?**
#
# <details><summary>Answer</summary>The target of the right class is only 0.91. Where the network
# fits its targets, the program no longer acts. Choose a new threshold on validation images.
# </details>
#
# **5. Your network is overconfident, but you cannot train it again. What do you do, and on which
# images?**
#
# <details><summary>Answer</summary>Choose the temperature with the lowest loss on some images that
# the network was not trained on. Measure the calibration error on others.</details>
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
