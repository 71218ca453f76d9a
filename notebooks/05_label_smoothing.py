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
# We usually train a classifier towards certainty: *this is a shirt, with probability 1, and nothing
# else*. Label smoothing lowers this target a little, and divides what it takes away equally among all
# classes. It takes one line of code.
#
# In short, smoothing lowers a network's *confidence*, the probability that it gives to its own answer. If
# the network was too sure, its confidence can become more honest: closer to how often it is right. If
# it was not too sure, its confidence becomes less honest.
#
# About 30 minutes to read, and three to run.

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
# depends on the device. It sets the network, the image size, the number of images in a run, and the number of
# seeds.

# %%
from fasttricks import BASELINE, LabelSmoothing, choose_budget, load
from fasttricks.course import clear, gained, holds, plot, probabilities, say, sureness, train_arms

budget = choose_budget()
data = load().to(BASELINE.world.device(), budget.image_size)

# %% [markdown]
# Here is the idea in one picture: a training image, its usual target and a smoothed one. A target holds a
# probability for each of the ten classes. *Epsilon* is the share of the target that we divide equally among all
# classes, the right one included. The usual value is 0.1. The picture uses 0.3, so that you can see the effect.

# %% tags=["fold"]
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
    f"**{softer[label]:.2f}**. It raises the target of every other class from 0 to **{min(softer):.2f}**."
)

# %% [markdown]
# We ask three questions. With smoothing, is a network more *accurate*? Is its confidence more honest? Is
# its *loss* on new images lower?
#
# **How we compare.** We compare runs in pairs that share a seed. We call a difference *clear* if all
# pairs agree on its sign and the mean is at least 1/√n points for n pairs. A point is 0.01 of what
# we compare, whether this is an accuracy, a calibration error or a loss. This rule is a convention, not a proof.
#
# ## The problem: confident and wrong
#
# We train on only the first 1,000 training images, without smoothing. `BASELINE` is the *plain* training
# of chapter 0: AdamW with a constant learning rate and batches of 128 images. The validation images
# take no part in training. We use their first half to choose settings. We call the second half
# *new* images and measure all results on them.

# %%
half = len(data.val) // 2
choosing, new = data.val[:half], data.val[half:]
few = data.subset(1000)
plain = train_arms({"plain": BASELINE}, few, evaluations=1)["plain"]
several = f"{len(plain)} seeds" if len(plain) > 1 else "one seed"

# %%
say(
    f"With {several}, a clear difference is at least {clear(len(plain)):.1f} points. A run sees "
    f"{budget.images:,} images in all. So it sees each of the 1,000 labelled images about "
    f"{budget.images / 1000:.0f} times, which means that it trains for {budget.images / 1000:.0f} *epochs*. There "
    f"are {len(new):,} new images."
)

# %% [markdown]
# For each image, a network gives ten probabilities. The largest one belongs to its answer and is
# its confidence. Networks are *overconfident* if their mean confidence is above their accuracy,
# *underconfident* if it is below, and *well calibrated on average* if the two differ by less than a point.

# %%
import torch


def predictions(runs, images):
    return [probabilities(run.net, data, images) for run in runs]


def answered(predicted, y):
    confidence, answer = predicted.max(1)
    return (answer == y).float(), confidence


plain_new = predictions(plain, new)
on_new = answered(torch.cat(plain_new), new.y.repeat(len(plain)))
on_known = answered(torch.cat(predictions(plain, few.train)), few.train.y.repeat(len(plain)))

# %%
mean_accuracy, mean_confidence = on_new[0].mean().item(), on_new[1].mean().item()
say(
    f"The networks classify {on_known[0].mean():.0%} of their training images correctly. On new images, they are "
    f"right {mean_accuracy:.0%} of the time, and their mean confidence is {mean_confidence:.2f}. So they are "
    f"**{sureness(mean_confidence, mean_accuracy)}**."
)

# %% [markdown]
# Networks that know their training images by heart are sure of them, and tend to stay sure on new ones.
#
# A mean can hide errors that cancel. A network is *well calibrated* if we can take each confidence at
# face value: of the images on which it is 90 % sure, it gets 90 % right, and so on. To check this, we
# sort the images into ten bins by confidence. For each bin, we compute the mean confidence, the share
# of right answers, and the number of images.


# %%
def reliability(networks, y):
    right, confidence = answered(torch.cat(networks), y.repeat(len(networks)))
    table = pd.DataFrame({"confidence": confidence.tolist(), "right": right.tolist()})
    bins = table.groupby((10 * table["confidence"]).astype(int).clip(upper=9))
    return bins.mean().assign(images=bins.size())


# %% [markdown]
# `diagram` plots these numbers as a *reliability diagram*. In the left panel, the grey line stands for a
# well-calibrated network. Points below it mean overconfidence, and points above it underconfidence. The
# right panel shows the share of the images in each bin. We pool all seeds and leave out bins with 20
# images or fewer.


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
# One number sums up the diagram. The **expected calibration error**, or *calibration error*, is the
# vertical distance of a point from the grey line, averaged over all images. Even a well-calibrated
# network has a small error, because the share of right answers in a bin is partly luck.


# %%
def calibration_error(predicted, y):
    bins = reliability([predicted], y)
    distances = (bins["confidence"] - bins["right"]).abs()
    return (distances * bins["images"]).sum() / len(y)


# %%
plain_bins = reliability(plain_new, new.y)
last = plain_bins.iloc[-1]
errors = [calibration_error(network, new.y) for network in plain_new]
say(
    f"The rightmost bin holds {last['images'] / plain_bins['images'].sum():.0%} of the images. Their mean "
    f"confidence is {last['confidence']:.2f}, and their share of right answers is {last['right']:.2f}. The "
    f"expected calibration error is **{sum(errors) / len(errors):.3f}** (mean, {several})."
)

# %% [markdown]
# ## By hand: why softmax never reaches 1
#
# Where does a network's confidence come from? The *logits* are the numbers that go into the softmax. Suppose
# that the nine wrong classes all have the same logit, and that the logit of the right class is larger by some
# *gap*. Softmax turns the gap into a ratio: the right class is exp(gap) times as probable as any other. We
# try four gaps.

# %%
import math


def chance_of_right(gap, classes=10):
    return math.exp(gap) / (math.exp(gap) + classes - 1)


[round(chance_of_right(gap), 4) for gap in (2, 4, 6, 8)]

# %% [markdown]
# The probability approaches 1 but never reaches it. The usual loss is its negative logarithm, so a
# wider gap always lowers the loss a little further.
#
# Now we smooth by 0.1. The target of the right class becomes 0.9 + 0.01, and that of each other class
# 0.01. The loss is the *cross-entropy*: each class contributes its target times the negative logarithm
# of its probability.


# %%
def smoothed_loss(gap, eps=0.1, classes=10):
    right = chance_of_right(gap, classes)
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
# The solid curve never stops falling. The dashed curve has a lowest point. Beyond it, more certainty
# *increases* the loss.
#
# The cross-entropy is lowest where the probabilities equal the targets. There,
# exp(gap) is the target of the right class divided by that of any other. So the best gap is the logarithm
# of this ratio.


# %%
def best_gap(eps, classes=10):
    return math.log((1 - eps + eps / classes) / (eps / classes))


# %%
say(
    f"For an epsilon of 0.1, the formula gives a best gap of **{best_gap(0.1):.2f}**. For 0.9, the best gap is "
    f"only {best_gap(0.9):.2f}. With an epsilon of 0.1, even the best gap has a loss of {min(softer_loss):.2f}, "
    f"not 0."
)

# %% [markdown]
# So never compare a smoothed loss with a usual one. From here on, *ordinary loss* means the loss for
# the true labels without smoothing, whatever the network was trained with.
#
# ## Write it
#
# The trick costs almost no time. `q` holds one row of targets per image. A usual row is *one-hot*:
# 1 for one class and 0 for all others.


# %%
def smooth(q, eps):
    return (1 - eps) * q + eps / q.shape[1]


# %% [markdown]
# ## Check it
#
# Our function must give the package's result, and its rows must still be probabilities.

# %% tags=["nbval-check-output"]
from fasttricks.tricks import smoothing

logits, y = torch.randn(64, 10), torch.arange(64) % 10
onehots = torch.nn.functional.one_hot(y, 10).float()
holds(torch.equal(smooth(onehots, 0.1), smoothing.smooth(onehots, 0.1)), "ours is the package's")
sums = smooth(onehots, 0.3).sum(1)
holds(torch.allclose(sums, torch.ones(64)), "each smoothed row still sums to 1")

# %% [markdown]
# PyTorch has label smoothing built in, and so has timm, the library that our networks come from. Both must compute
# the same loss as we do.

# %% tags=["nbval-check-output"]
from timm.loss import LabelSmoothingCrossEntropy
from torch.nn.functional import cross_entropy, nll_loss

ours = cross_entropy(logits, smooth(onehots, 0.1))
torchs = cross_entropy(logits, y, label_smoothing=0.1)
holds(abs(ours - torchs).item() < 1e-6, "torch's label_smoothing gives the same loss")
timms = LabelSmoothingCrossEntropy(0.1)(logits, y)
holds(abs(ours - timms).item() < 1e-6, "timm's LabelSmoothingCrossEntropy gives the same loss")

# %% [markdown]
# Mixup (chapter 4) blends the targets of two images. Smoothing and mixup should *commute*: their order
# makes no difference. Question 3 asks why.

# %% tags=["nbval-check-output"]
from fasttricks.tricks.mixup import mix

pictures, lam, other = torch.rand(64, 1, 4, 4), torch.tensor(0.3), torch.randperm(64)
before = mix(pictures, smooth(onehots, 0.1), lam, other)[1]
after = smooth(mix(pictures, onehots, lam, other)[1], 0.1)
holds(torch.allclose(before, after, atol=1e-6), "smoothing and mixing commute")

# %% [markdown]
# ## In your own loop
#
# In an ordinary PyTorch training loop, remove the line marked `-` and add the line marked `+`. `targets`
# holds the class numbers of a batch, and `F` is `torch.nn.functional`.
#
# ```diff
#          inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
# -        loss = F.cross_entropy(net(inputs), targets)
# +        loss = F.cross_entropy(net(inputs), targets, label_smoothing=0.1)
#          loss.backward()
# ```
#
# The complete script is [`examples/smoothing.py`](../examples/smoothing.py). Leave the argument out when you
# compute a validation loss: you want the ordinary one.
#
# ## Use it: 1,000 labels
#
# We train with five values of epsilon, the largest of them absurd, and the same seeds as before. This cell takes
# the longest to run.

# %%
epsilons = (0.02, 0.05, 0.1, 0.3, 0.9)
recipes = {f"epsilon {eps:g}": BASELINE + LabelSmoothing(eps) for eps in epsilons}
smoothed = train_arms(recipes, few, evaluations=1)

# %% [markdown]
# Do the gaps end where the formula says? For a real image, the nine other logits differ. So we
# divide the largest probability by the *mean* of the nine others, and the gap is the logarithm of that
# ratio. `median_gap` returns its median over the images, averaged over the seeds. We allow a mean error
# of 0.5.

# %% tags=["fold"]
from statistics import fmean


def median_gap(runs, images):
    medians = []
    for predicted in predictions(runs, images):
        confidence = predicted.max(1).values.clamp(max=1 - 1e-7)
        others = (1 - confidence) / (predicted.shape[1] - 1)
        medians.append((confidence / others).log().median().item())
    return fmean(medians)


gaps_known = [median_gap(runs, few.train) for runs in smoothed.values()]
gaps_new = [median_gap(runs, new) for runs in smoothed.values()]
plain_known_gap, plain_new_gap = median_gap(plain, few.train), median_gap(plain, new)

# %% tags=["fold"]
curve = [number / 100 for number in range(2, 96)]
line = {"best gap, by the formula": (curve, [best_gap(eps) for eps in curve])}
plot(line, "epsilon (log scale)", "gap", f"1,000 labels, {several}", scale="log")
plt.plot(epsilons, gaps_known, "s", label="measured, training images")
plt.plot(epsilons, gaps_new, "^", label="measured, new images")
plt.axhline(plain_known_gap, color="grey", ls="--", label="plain, training images")
plt.legend()
plt.show()

# %%
misses = [abs(ended - best_gap(asked)) for ended, asked in zip(gaps_known, epsilons, strict=True)]
say(
    f"Without smoothing, the gap on training images is {plain_known_gap:.1f}. With smoothing, the measured gaps "
    f"differ from the curve by {fmean(misses):.2f} on average, and most at epsilon "
    f"{epsilons[misses.index(max(misses))]:g}, by {max(misses):.2f}. "
    + (
        "On average, that is less than 0.5: **smoothing puts the gaps about where the formula says**."
        if fmean(misses) < 0.5
        else "That is 0.5 or more: **these runs do not bring the gaps to the curve**."
    )
)
say(
    f"On *new* images, the gap is {plain_new_gap:.1f} without smoothing, and **{gaps_new[2]:.1f}** with an "
    f"epsilon of 0.1."
)

# %% [markdown]
# We smooth only the targets of training images. But the same weights compute all logits, so the gaps
# on new images change, too.
#
# Does a smaller gap make the confidence more honest? We compare smoothing with **temperature scaling**
# (Guo et al. 2017). It divides the logits of a finished plain network by one number, the *temperature*. A
# temperature above 1 shrinks all gaps. Temperature scaling needs no further training. It leaves the
# accuracy as it is, because the largest logit remains the largest.


# %%
def tempered(predicted, temperature):
    # softmax treats logarithms of probabilities like logits
    return (predicted.clamp_min(1e-12).log() / temperature).softmax(1)


def best_temperature(run):
    (rows,) = predictions([run], choosing)
    candidates = [number / 20 for number in range(10, 101)]
    return min(candidates, key=lambda value: calibration_error(tempered(rows, value), choosing.y))


# %% [markdown]
# We choose the epsilon and the temperatures with the lowest calibration error on the first half of the
# validation images. (Guo et al. choose a temperature by the loss.) So we use more labels to choose than to train, and another epsilon may suit accuracy
# or loss better. Temperature scaling has an advantage: each network gets its own temperature, chosen from 91,
# but all seeds share one of five epsilons. `few_methods` keeps the probabilities for the new images.

# %% tags=["fold"]
scaling, on_first_half = "temperature scaling", {}
for name, runs in smoothed.items():
    tried = [calibration_error(predicted, choosing.y) for predicted in predictions(runs, choosing)]
    on_first_half[name] = fmean(tried)
chosen = min(on_first_half, key=on_first_half.get)
temperatures = [best_temperature(run) for run in plain]
pairs = zip(plain_new, temperatures, strict=True)
few_methods = {"plain": plain_new} | {n: predictions(runs, new) for n, runs in smoothed.items()}
few_methods[scaling] = [tempered(predicted, temperature) for predicted, temperature in pairs]

# %% [markdown]
# `judged` measures one network. It also splits the ordinary loss into two parts that add up to it:
# one from the images with right answers, the other from those with wrong answers. `scored` returns
# these measures for every method and seed on the new images. The table shows means over the seeds.


# %% tags=["fold"]
def judged(predicted, y):
    right, confidence = answered(predicted, y)
    losses = nll_loss(predicted.clamp_min(1e-12).log(), y, reduction="none")
    return {
        "accuracy": right.mean().item(),
        "mean confidence": confidence.mean().item(),
        "calibration error": calibration_error(predicted, y),
        "ordinary loss": losses.mean().item(),
        "from right answers": (losses * right).mean().item(),
        "from wrong answers": (losses * (1 - right)).mean().item(),
    }


def scored(methods):
    rows = {name: [judged(one, new.y) for one in nets] for name, nets in methods.items()}
    return {name: pd.DataFrame(found) for name, found in rows.items()}


few_scores = scored(few_methods)
few_means = pd.DataFrame({name: scores.mean() for name, scores in few_scores.items()}).T
few_means.round(3)

# %% [markdown]
# `gained` applies our rule. It says *higher* or *lower* only for a clear difference. Otherwise, it
# says *about the same* if all pairs differ by less than two points, and *undecided* if not. `verdicts`
# applies it to each column.


# %% tags=["fold"]
def verdicts(own, other):
    return {measure: gained(list(own[measure]), list(other[measure])) for measure in own}


few_smoothing = verdicts(few_scores[chosen], few_scores["plain"])
few_scaling = verdicts(few_scores[scaling], few_scores["plain"])
few_rivals = verdicts(few_scores[chosen], few_scores[scaling])

# %%
listed = ", ".join(f"{value:.2f}" for value in temperatures)
names = list(smoothed)
edge = " (at the edge of those tried)" if chosen in (names[0], names[-1]) else ""
say(
    f"We chose **{chosen}**{edge}. For {scaling}, we chose {listed} (one value per seed). Compared with plain "
    f"training, this is what the two methods do on new images:"
)
say(f"- **Accuracy** with {chosen}: {few_smoothing['accuracy']}.")
say(
    f"- **Calibration error** with {chosen}: **{few_smoothing['calibration error']}**. With {scaling}: "
    f"**{few_scaling['calibration error']}**."
)
say(
    f"- **Ordinary loss** with {chosen}: **{few_smoothing['ordinary loss']}**. With {scaling}: "
    f"**{few_scaling['ordinary loss']}**."
)
say(
    f"Compared directly with {scaling}, the calibration error with {chosen} is "
    f"**{few_rivals['calibration error']}**."
)

# %% [markdown]
# The diagram shows plain training and the two methods.

# %%
three = {name: few_methods[name] for name in ("plain", chosen, scaling)}
diagram(three, f"new images, 1,000 labels, {several}")

# %%
compared = few_means.loc[list(dict.fromkeys(["plain", chosen, "epsilon 0.3", scaling]))]
told = [
    f"*{method}* is {sureness(row['mean confidence'], row['accuracy'])}"
    for method, row in compared.iterrows()
]
excess = compared["mean confidence"] - compared["accuracy"]
say(
    f"When we compare mean confidence with accuracy, we find that {', '.join(told)}."
    + (
        " So **epsilon must fit the network**: without smoothing, the network is too sure, and with 0.3, it is not sure enough."
        if min(excess["plain"], -excess["epsilon 0.3"]) > max(abs(excess[chosen]), 0.01)
        else ""
    )
)

# %% [markdown]
# **Where does the loss come from?** The calibration error depends on the probability of the network's
# answer. The loss depends on the probability of the *true* class. The two differ when the answer is
# wrong. A less sure network pays more where it is right, and usually less where it is wrong.

# %%
say(
    f"Compared with plain training, the part from right answers is {few_smoothing['from right answers']} with "
    f"{chosen}, and the part from wrong answers is {few_smoothing['from wrong answers']}."
)
more = few_means.loc[chosen] - few_means.loc[scaling]
part = max(("from right answers", "from wrong answers"), key=more.get)
loses = {
    "higher": f"**Most of the extra loss comes {part}.**",
    "lower": "So **smoothing has the lower loss**.",
}
say(
    f"Compared with {scaling}, the whole loss with {chosen} is {few_rivals['ordinary loss']}. The part from right "
    f"answers is {few_rivals['from right answers']}, and the part from wrong answers is "
    f"{few_rivals['from wrong answers']}. "
    + next(
        (text for word, text in loses.items() if word in few_rivals["ordinary loss"]),
        "So **neither method has a clearly lower loss**.",
    )
)

# %% [markdown]
# If the answer is wrong, the loss depends on how the rest of the probability is split among the nine other classes.
# A smoothed target of *one* image asks for an equal split. A network that fits each training image must then
# forget that a shirt looks more like a coat than like a bag. Müller et al. 2019 found such a loss of information. A
# higher loss from wrong answers, compared with temperature scaling, agrees with this but does not prove it.
#
# ## Use it: wrong labels
#
# Lukasik et al. 2020 found that smoothing helps if many labels are wrong. We give about 40 % of the 1,000 images a
# wrong label, drawn at random, and train as before. The labels of the new images stay correct.

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

# %%
hasty_methods = {name: predictions(runs, new) for name, runs in hasty_runs.items()}
temperatures = [best_temperature(run) for run in hasty_runs["plain"]]
pairs = zip(hasty_methods["plain"], temperatures, strict=True)
hasty_methods[scaling] = [tempered(predicted, temperature) for predicted, temperature in pairs]
hasty_scores = scored(hasty_methods)
hasty_means = pd.DataFrame({name: scores.mean() for name, scores in hasty_scores.items()}).T
hasty_means[["accuracy", "mean confidence", "calibration error", "ordinary loss"]].round(3)

# %% tags=["fold"]
hasty_verdicts = {
    name: verdicts(scores, hasty_scores["plain"])
    for name, scores in hasty_scores.items()
    if name != "plain"
}
say(
    "With wrong labels, and compared with plain training:\n\n"
    + "\n".join(
        f"- **{name}:** the accuracy is **{seen['accuracy']}**, the ordinary loss is {seen['ordinary loss']}, and the "
        f"calibration error is {seen['calibration error']}."
        for name, seen in hasty_verdicts.items()
    )
)

# %% [markdown]
# ## Use it: a short run on many labels
#
# Now we draw from all labels, with as many images per run as before. A network sees each image much less often, so
# it has less time to learn them by heart. This differs from the first setting in two ways, the number of labels and the
# number of epochs. Longer runs may end differently.
#
# We use the usual epsilon of 0.1, which is *not* tuned here: a tuned epsilon may do better. We choose the
# temperatures as before.

# %%
recipes = {"plain": BASELINE, "epsilon 0.1": BASELINE + LabelSmoothing(0.1)}
all_runs = train_arms(recipes, data, evaluations=1)
all_methods = {name: predictions(runs, new) for name, runs in all_runs.items()}
temperatures = [best_temperature(run) for run in all_runs["plain"]]
pairs = zip(all_methods["plain"], temperatures, strict=True)
all_methods[scaling] = [tempered(predicted, temperature) for predicted, temperature in pairs]
all_scores = scored(all_methods)
all_means = pd.DataFrame({name: scores.mean() for name, scores in all_scores.items()}).T
all_means.round(3)

# %% [markdown]
# Here are the diagram and the comparisons.

# %%
all_smoothing = verdicts(all_scores["epsilon 0.1"], all_scores["plain"])
all_scaling = verdicts(all_scores[scaling], all_scores["plain"])
diagram(all_methods, f"new images, a short run, {several}")

# %%
all_sure = {
    method: sureness(row["mean confidence"], row["accuracy"])
    for method, row in all_means.iterrows()
}
say(
    f"Each run saw {budget.images:,} images, which is {budget.images / len(data.train):.2f} epochs of "
    f"{len(data.train):,} images. The plain networks are {all_sure['plain']}, and the smoothed ones are "
    f"**{all_sure['epsilon 0.1']}**."
)
say(
    f"With smoothing, and compared with plain training, the calibration error is "
    f"**{all_smoothing['calibration error']}**, the ordinary loss is **{all_smoothing['ordinary loss']}**, and the "
    f"accuracy is {all_smoothing['accuracy']}. With {scaling}, the calibration error is "
    f"{all_scaling['calibration error']}, and the ordinary loss is {all_scaling['ordinary loss']}."
)

# %% [markdown]
# **What smoothing asks of an honest network.** Think of many images that look alike, and let p be the share
# of them that belongs to some class. With usual training, their average target for this class is p. With
# smoothing and K classes, it is (1 - eps) p + eps / K. The loss is lowest where the probabilities equal
# the average targets. So smoothing asks for less than the true share wherever p is above 1 / K. A network
# that meets these targets is underconfident, and its ordinary loss is higher than that of an honest network.
#
# So we can predict the confidence of the smoothed networks in the short run from that of the plain ones:

# %%
honest, smoothed_too = (all_means["mean confidence"][name] for name in ("plain", "epsilon 0.1"))
predicted = 0.9 * honest + 0.1 / 10
say(
    f"The plain networks have a mean confidence of {honest:.3f}. The formula turns it into 0.9 × {honest:.3f} + 0.01 = "
    f"**{predicted:.3f}**, and we measured **{smoothed_too:.3f}**. "
    + (
        "So the underconfidence is just what smoothing asks for."
        if abs(predicted - smoothed_too) < 0.01
        else "So something else plays a part, too."
    )
)

# %% [markdown]
# ## Few labels, many epochs, and a schedule
#
# So far, the learning rate was constant, which leaves the final weights noisy and can hide what a trick gains. Our
# recorded study has a tenth of the labels, and the rate falls to zero at the end (one-cycle, chapter 3). It compares
# one-cycle with and without smoothing (epsilon 0.1), and also tries mixup (chapter 4). Each point of the figure
# stands for runs of that length, trained from the start.

# %%
from fasttricks.course import gain_by_epochs

gain_by_epochs("smoothing", "mixup")
plt.show()

# %%
from fasttricks.course import with_few_labels

say(with_few_labels("smoothing"))

# %% [markdown]
# Accuracy and time are different questions: a trick may reach a given accuracy sooner and still end no higher.
#
# ## Break it
#
# Now we ask for far too little certainty, again with 1,000 labels. Suppose that a network decides on
# its own wherever it is at least 90 % sure, and that a person looks at the other images. How many images
# does the network decide? Epsilon 0 is plain training.

# %% tags=["fold"]
swept = {}
for name in ("plain", *smoothed):
    networks = few_methods[name]
    right, confidence = answered(torch.cat(networks), new.y.repeat(len(networks)))
    sure = confidence >= 0.9
    swept[name] = {
        "accuracy": right.mean().item(),
        "mean confidence": confidence.mean().item(),
        "share of images decided": sure.float().mean().item(),
        "right where decided": right[sure].mean().item(),
    }
swept = pd.DataFrame(swept).T
places = list(range(len(swept)))
lines = {measure: (places, list(swept[measure])) for measure in swept.columns[:3]}
title = f"1,000 labels, {several}"
plot(lines, "epsilon (not to scale)", "share or probability", title, marks=True)
plt.xticks(places, [0, *epsilons])
plt.show()

# %%
decided = {}
for method, row in swept.iterrows():
    decided[method] = f"decides {row['share of images decided']:.0%} of the images"
    if row["share of images decided"] > 0.001:
        decided[method] += f" and is right on {row['right where decided']:.0%} of them"
say(
    f"Without smoothing, a network {decided['plain']}. With epsilon 0.1, it {decided['epsilon 0.1']}. With 0.3, "
    f"it **{decided['epsilon 0.3']}**."
)
at_most = verdicts(few_scores["epsilon 0.9"], few_scores["plain"])
most = few_means.loc["epsilon 0.9"]
too_unsure = sureness(most["mean confidence"], most["accuracy"])
say(
    f"At epsilon 0.9, the networks are **{too_unsure}**. Compared with plain training, their accuracy is "
    f"{at_most['accuracy']}."
)

# %% [markdown]
# With ten classes, the target of the right class is below 0.9 if epsilon is above 1/9. Then a network
# that meets its targets is never 90 % sure. If it decides very few images,
# its share of right answers there is largely luck.
#
# Would a new threshold help? We let each network decide the half of the images on which it is surest. If smoothing
# lowered all confidences but kept their order, this half would stay the same.


# %% tags=["fold"]
def right_in_surest_half(predicted):
    right, confidence = answered(predicted, new.y)
    surest = confidence.argsort(descending=True)[: len(right) // 2]
    return right[surest].mean().item()


halves = {n: [right_in_surest_half(one) for one in nets] for n, nets in few_methods.items()}
by_order = {name: gained(halves[name], halves["plain"]) for name in ("epsilon 0.1", "epsilon 0.3")}
say(
    f"Without smoothing, a network is right on {fmean(halves['plain']):.1%} of the half on which it is surest. This "
    f"share is {by_order['epsilon 0.1']} with epsilon 0.1, and **{by_order['epsilon 0.3']}** with 0.3."
)
halves_told = by_order["epsilon 0.1"]
endings = {
    "lower": "even with a new threshold, it makes more mistakes",
    "higher": "with a new threshold, it makes fewer mistakes",
    "about the same": "a new threshold repairs the decisions",
}
for name, told in by_order.items():
    say(
        f"- {name}: {next((text for word, text in endings.items() if word in told), 'we cannot tell')}."
    )

# %% [markdown]
# ## What we have found
#
# Each row compares a method with plain training in the same setting, on one data set.

# %% tags=["fold"]
found = {
    f"1,000 labels, {chosen}": few_smoothing,
    f"1,000 labels, {scaling}": few_scaling,
    "wrong labels, epsilon 0.1 (not tuned)": hasty_verdicts["epsilon 0.1"],
    "wrong labels, epsilon 0.3 (not tuned)": hasty_verdicts["epsilon 0.3"],
    "short run, epsilon 0.1 (not tuned)": all_smoothing,
    f"short run, {scaling}": all_scaling,
}
measures = ["accuracy", "calibration error", "ordinary loss"]
pd.DataFrame(found).T[measures].map(lambda verdict: verdict.split(" (")[0])

# %% [markdown]
# Here are the answers to our three questions:

# %% tags=["fold"]
good = {"accuracy": "higher", "calibration error": "lower", "ordinary loss": "lower"}
settings = {
    "1,000 labels": few_smoothing,
    "1,000 labels, 40 % of them wrong": hasty_verdicts["epsilon 0.1"],
    "a short run on many labels": all_smoothing,
}


def answer(measure):  # where smoothing is clearly better, and where it is clearly worse
    sides = {"better": [], "worse": []}
    for setting, seen in settings.items():
        if "higher" in seen[measure] or "lower" in seen[measure]:
            sides["better" if good[measure] in seen[measure] else "worse"].append(f"with {setting}")
    told = [f"**clearly {side}** {' and '.join(some)}" for side, some in sides.items() if some]
    return ", and ".join(told) or "**not clearly better or worse in any setting**"


questions = {
    "Is a smoothed network more accurate?": "accuracy",
    "Is its confidence more honest?": "calibration error",
    "Is its loss on new images lower?": "ordinary loss",
}
listed = "\n".join(
    f"- **{question}** Its {measure} is {answer(measure)}."
    for question, measure in questions.items()
)
say(f"Compared with plain training (epsilon {chosen.split()[1]}, 0.1 and 0.1):\n\n{listed}")

# %% tags=["fold"]
beats = [measure for measure, word in good.items() if word in few_rivals[measure]]
rated = "higher" in halves_told or "lower" in halves_told
say(
    f"- **Is there a cheaper way?** With 1,000 labels, and compared with {scaling}, the calibration error of smoothing is "
    f"{few_rivals['calibration error']}, and its ordinary loss is {few_rivals['ordinary loss']}."
    + (" So **we would not smooth for the sake of calibration** there." if not beats else "")
    + (
        f"\n- **Does its confidence rank the images well?** On the half on which it is surest, epsilon 0.1 is right on a "
        f"share that is {halves_told}."
        if rated
        else ""
    )
)

# %% [markdown]
# **Why, then, do so many recipes smooth?** They do so mostly for accuracy, in long runs with many images
# and many classes, which we have not tried. Szegedy et al. 2015 gained about 0.2 points on ImageNet,
# with epsilon 0.1. Vaswani et al. 2017 used smoothing for translation: the loss became worse, but the
# translations became better.
#
# Our recorded studies ask about *speed*: does training with smoothing take less time to reach a fixed
# accuracy? (Chapter 0 explains such studies.) Among many verdicts, one can look clear by chance. Where that may be so,
# the text says it. Below the results is the trick's *card*. There, q is a target, eps is epsilon, and K is the number of classes. The *slot*
# is the place in our training code that the trick fills, and *chain* means that several tricks may fill it.

# %%
from IPython.display import Markdown

from fasttricks.course import headline

say(headline("smoothing"))
Markdown(smoothing.__doc__)

# %% [markdown]
# Did our runs show what the card claims about confidence?

# %%
started = sureness(few_means["mean confidence"]["plain"], few_means["accuracy"]["plain"])
claims = {
    "It pays when the network grows too sure of itself": "over" in started
    and "lower" in few_smoothing["calibration error"],
    "It fails when the network is not too sure": "over" not in all_sure["plain"]
    and "higher" in all_smoothing["calibration error"],
    "It pays when labels are noisy": any(
        "higher" in seen["accuracy"] for seen in hasty_verdicts.values()
    ),
    "It fails when epsilon is large": "under" in too_unsure,
}
for claim, seen in claims.items():
    say(f"- {claim}: **{'seen' if seen else 'not seen'}**.")

# %% [markdown]
# In the first two claims, we take *pays* and *fails* to mean a lower or a higher calibration error. The claim about
# noisy labels is about accuracy: the ordinary loss may be lower without it. We did not test the card's last claim: Müller et al. 2019 found that smoothed
# teachers teach worse in *distillation*, in which one network learns from another, its teacher.
#
# Our rule of thumb: **first decide whether you need the answers or the probabilities.**
#
# - **You need only the answers.** Train with and without smoothing, with the same seeds, at least three. Keep
#   smoothing only if its validation accuracy is clearly higher, or if it reaches your target clearly sooner. Do not
#   decide by the loss.
# - **You need the probabilities.** Train without smoothing first, and compare mean confidence with accuracy on
#   validation images. If the network is overconfident, try temperature scaling first: it does not change the
#   accuracy, and you can undo it.
# - **You smooth anyway.** Choose epsilon on validation images, and choose every confidence threshold anew.
#   Compare networks by the ordinary loss.
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
# share p, so it does not aim at the lowest ordinary loss. This matters only if you use the
# probabilities.</details>
#
# **3. Why does it not matter whether we smooth before or after mixup?**
#
# <details><summary>Answer</summary>Smoothing multiplies all targets by 1 - eps and adds the constant
# eps / K. Mixup takes a weighted average of two targets. Its weights sum to 1, so the constant is the same
# after mixing as before.</details>
#
# **4. You have ten classes and epsilon 0.1. The training loss stops falling at 0.5. Is the network
# stuck?**
#
# <details><summary>Answer</summary>No, it has reached the lowest possible value. The lowest possible loss is the <em>entropy</em>
# of the target, which is its cross-entropy with itself. For 0.91 and nine times 0.01, it is 0.50.</details>
#
# **5. Your network is overconfident, but you cannot train it again. What do you do, and on which images?**
#
# <details><summary>Answer</summary>Use temperature scaling. Choose the temperature on some images that the
# network was not trained on, and measure the calibration error on others.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** Invert the formula for the best gap: return the epsilon that makes a given gap the best one.


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
# **Exercise 2.** Some texts use another convention: the right class keeps exactly 1 - eps, and each other
# class gets eps / (K - 1). Write it. It must work on blended rows too: a blend of two one-hot rows must
# become the same blend of the two smoothed rows.


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
# - Szegedy et al. 2015, [arXiv 1512.00567](https://arxiv.org/abs/1512.00567): the first description.
# - Guo et al. 2017, [arXiv 1706.04599](https://arxiv.org/abs/1706.04599): calibration of modern networks, and
#   temperature scaling.
# - Vaswani et al. 2017, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762): smoothing in translation.
# - Müller et al. 2019, [arXiv 1906.02629](https://arxiv.org/abs/1906.02629): when smoothing helps.
# - Lukasik et al. 2020, [arXiv 2003.02819](https://arxiv.org/abs/2003.02819): smoothing and noisy labels.
