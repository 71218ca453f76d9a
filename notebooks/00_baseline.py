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
# # 0. The baseline, and how we measure
#
# This course takes seven tricks that are meant to train a neural network faster. Each chapter
# builds one by hand, gives you the lines for your own loop, and measures what it gains. This first
# chapter shows the results, trains without any trick (the *baseline*), and explains how we tell a
# gain from luck.
#
# About 25 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb).
# The first cell installs the course if it is missing.

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
# ## What do the seven tricks gain together?
#
# We trained with and without the tricks until the *validation accuracy* (the share of right answers
# on images that we do not train on) reached a target, and compared the seconds of training. Both
# were tuned over equally many settings.

# %% tags=["fold"]
from fasttricks.budget import BUDGETS
from fasttricks.course import beside_refreshed, published, say
from fasttricks.recipe import NAMES
from fasttricks.study.findings import NARROW, covered, span, times

recorded = [s for s in published() if s.study in BUDGETS and len(s.of("plain", "whole")) == 2]
lines = [] if recorded else ["No study is recorded here yet."]
for study in recorded:
    (slow, fast), size = study.of("plain", "whole"), BUDGETS[study.study]
    tried = [name for name in NAMES if study.of(f"whole - {name}")]
    held = covered(study.study).get("holds", {}).get("whole", 1)
    lines.append(
        f"- **On {study.hardware}, {len(tried)} tricks together train {times(fast.ratio.value)} "
        f"times as fast** (95% interval: {span(fast.ratio)}). `{size.model}` reaches an accuracy "
        f"of {study.target} in {fast.train:.3g} s instead of {slow.train:.3g} s."
    )
    for row in study.of("whole - transfer"):
        bare = fast.ratio.value * row.ratio.value
        lines[-1] += f" Without pretrained weights, it is about {bare:.1f} times as fast."
    for row in study.of("plain + cyclic + transfer"):
        both = f"One-cycle and pretrained weights alone make it {times(row.ratio.value)} times"
        lines[-1] += f" **{both} as fast.**"
    if held < NARROW:
        lines[-1] += f" (Too narrow: in simulations, it held the truth in only {held:.0%}.)"
lines[1:1] = [f"- {beside_refreshed()}"] if beside_refreshed() else []
say("\n".join(lines))

# %% [markdown]
# The training of the pretrained weights is not counted; chapters 6 and 8 tell what it costs. Several
# processes need several devices, and neither machine has one to spare.
#
# **Which trick does it?** A bar shows how many times as fast training becomes when this trick is
# added to all the others. A grey line is a 95% interval: it shows how much luck leaves open.

# %% tags=["fold"]
import matplotlib.pyplot as plt

from fasttricks.study.style import plain_numbers

TITLES = ("several processes", "larger batches", "one-cycle", "mixup", "label smoothing")
TITLES += ("pretrained weights", "16-bit numbers")
WORDS = dict(zip(NAMES, TITLES, strict=True))
FACES = {"slower": "black", "faster": "white", "cannot tell": "lightgrey"}  # of the others alone


def draw_gains(axes, study):
    for row, name in enumerate(NAMES):
        text = "not tried"
        for found in study.of(f"whole - {name}"):
            gain = found.ratio.inverse
            face, text = FACES["cannot tell" if found.wavers else found.verdict], times(gain.value)
            if found.arrives:
                axes.barh(row, gain.value - 1, left=1, color=face, edgecolor="black")
                axes.plot([gain.low, gain.high], [row, row], color="grey", lw=2)
        axes.text(1.01, row, text, va="center", transform=axes.get_yaxis_transform())
    axes.axvline(1, color="black", lw=0.8)
    seeds = max([row.seeds for row in study.rows if row.against == "whole"], default=0)
    axes.set(title=f"{study.hardware}, {seeds} seeds", xlabel="times as fast with it (log scale)")
    axes.set(xscale="log", yticks=range(len(NAMES)), yticklabels=WORDS.values())
    plain_numbers(axes.xaxis)


# %% tags=["fold"]
if recorded:
    figure, panels = plt.subplots(
        1, len(recorded), figsize=(9, 3.4), layout="constrained", sharex=True, sharey=True
    )
    for axes, study in zip(figure.axes, recorded, strict=True):
        draw_gains(axes, study)
    axes.invert_yaxis()
    kinds = ("pays", "costs time", "cannot tell, or may be chance")
    for face, kind in zip(FACES.values(), kinds, strict=True):
        figure.axes[0].barh(0, 0, left=1, color=face, edgecolor="black", label=kind)
    figure.legend(loc="outside lower center", ncols=3)
    plt.show()


# %% tags=["fold"]
def judged(study, verdict):
    rows = [(name, row) for name in NAMES for row in study.of(f"whole - {name}")]
    return [WORDS[name] for name, row in rows if row.verdict == verdict and not row.wavers]


pays, costs = ([judged(study, word) for study in recorded] for word in ("slower", "faster"))
shared = [word for word in WORDS.values() if recorded and all(word in some for some in pays)]
told = [f"**These tricks pay on every machine here: {', '.join(shared) or 'none'}.**"]
for study, gaining, losing in zip(recorded, pays, costs, strict=True):
    more = [word for word in gaining if word not in shared]
    told += [f"On {study.hardware}, {', '.join(more)} pays, too."] if more else []
    told += [f"What costs time on {study.hardware}: {', '.join(losing)}."] if losing else []
say(" ".join(told) + " For all others, these records allow no verdict.")

# %% [markdown]
# These are small networks on one data set, so measure on yours. Plain training has no learning rate
# schedule and no pretrained weights. If you already use both, expect little more. Mixup and label smoothing are meant for long runs on few images.
#
# ## What is in the course?
#
# | chapter | trick | name in the code | in one line |
# |---|---|---|---|
# | [1](01_multi_gpu.ipynb) | several processes | `distributed` | divide each batch among them |
# | [2](02_lr_scaling_warmup.ipynb) | larger batches | `scaling` | raise the rate with them |
# | [3](03_cyclic_lr.ipynb) | one-cycle | `cyclic` | let the learning rate rise and fall once |
# | [4](04_mixup.ipynb) | mixup | `mixup` | train on blends of two images |
# | [5](05_label_smoothing.ipynb) | label smoothing | `smoothing` | ask for less than certainty |
# | [6](06_transfer_learning.ipynb) | pretrained weights | `transfer` | learn other images first |
# | [7](07_mixed_precision.ipynb) | 16-bit numbers | `precision` | compute with fewer digits |
# | [8](08_capstone.ipynb) | all seven | | add them up, take them apart again |
#
# > seconds to an accuracy = images needed × seconds per image
#
# Chapters 3 to 6 aim at fewer images, and chapters 1, 2 and 7 at fewer seconds per image. While you
# read, short runs show whether **the accuracy is higher after equally many images**. Only many long
# runs show whether **a target accuracy takes less time**. We made them beforehand and call them a
# *study*. Its records gave the numbers above.
#
# **This chapter in short.** Train twice in the same way, and you get two accuracies. So a
# difference may be luck. We believe in it only if it is *clear*:
#
# ```python
# points = [100 * (a - b) for a, b in zip(new, old, strict=True)]  # each pair shares a seed
# agree = min(points) > 0 or max(points) < 0
# clear = agree and abs(sum(points)) / len(points) >= 1 / len(points) ** 0.5
# ```
#
# - **Use it when** you have three or four pairs of runs and want a first look.
# - **Leave it when** you have more pairs, or when equal runs differ much more than ours. Then use a
#   t-test or a confidence interval.
#
# ## What do we train?
#
# Code that only draws, tabulates, checks or writes sentences is folded. Sentences about runs are
# written by code. Your device determines the *budget*: the network, the size of the images, and how
# many of them a run sees.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from fasttricks import BASELINE, choose_budget, load, train
from fasttricks.course import faster, gained, holds, plot, say, show, train_arms

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)

# %% tags=["fold"]
say(
    f"Here, a run trains **{budget.model}**, a residual network, on {budget.images:,} images of "
    f"{budget.image_size}×{budget.image_size} pixels. That is "
    f"**{budget.images / len(data.train):.2f} epochs**: one *epoch* is one pass over all "
    f"{len(data.train):,} training images. {len(data.val):,} other images validate, and "
    f"{len(data.test):,} are for the test at the end of the course."
)

# %% [markdown]
# Our data set is Fashion-MNIST: small grey pictures of ten kinds of clothing. Here is one of each.

# %% tags=["fold"]
first = [int((data.train.y == kind).nonzero()[0, 0]) for kind in range(10)]
show([data.train.x[row] for row in first[:5]], data.classes[:5])
show([data.train.x[row] for row in first[5:]], data.classes[5:])
plt.show()

# %% [markdown]
# We judge every run by the validation images. Because we also choose settings on these images,
# those settings may suit them by chance. So the test images are used only once.
#
# A **recipe** holds everything that we decide about training. `BASELINE` is the plain recipe, and
# `BASELINE + Mixup()` is the plain recipe with mixup.

# %% tags=["fold"]
decided = {
    "optimizer": "how a step is computed from the gradients",
    "lr": "learning rate: how far a step goes (here the same for every step)",
    "batch": "how many images one step looks at",
    "momentum": "how much of the earlier steps a step keeps (AdamW calls it beta1)",
    "weight_decay": "how strongly each step pulls the weights towards zero",
    "tricks": "what the chapters add (none yet)",
}
values = {name: str(getattr(BASELINE, name)) for name in decided}
pd.DataFrame({"value": values, "decides": decided})

# %% [markdown]
# Any trick can beat a badly tuned baseline. So we chose the best of 24 settings on two CPU cores,
# and tried as many for the seven tricks together. Elsewhere, other settings may be better.
#
# ## Why is the last point of accuracy so expensive?
#
# We train the plain recipe and evaluate it eight times on the way. A first run can be slow, so we
# begin with a short one and ignore it.

# %%
train(BASELINE, data, images=budget.images // 4, evaluations=1, label="only to warm up")
run = train(BASELINE, data, evaluations=8)
seen, accuracy = [point[0] for point in run.curve], [point[2] for point in run.curve]
plot({"plain": (seen, accuracy)}, "images seen", "validation accuracy", marks=True)
plt.show()

# %% tags=["fold"]
sooner, later = 100 * (accuracy[3] - accuracy[1]), 100 * (accuracy[7] - accuracy[3])
flat = "**More time buys less and less.**"
flat = flat if later < sooner else "In this short run, the curve does not flatten yet."
say(
    f"When the number of images doubled, from a quarter of the run to a half, the accuracy changed "
    f"by {sooner:+.1f} percentage *points* (from 0.83 to 0.84 is one point). When it doubled "
    f"again, the accuracy changed by {later:+.1f} points. {flat}"
)

# %% [markdown]
# A late point of accuracy costs many images, and this is where a trick can save time.
#
# ## Where do the tricks change the training loop?
#
# Here is the complete loop. `data.draws` yields the row numbers of each batch, with a random number
# for each. `data.batch` mirrors an image left to right if its random number is below one half. `x`
# are the images, and `q` are the *target probabilities*: 1 for the right class and 0 for the
# others. Biases and norm layers have no weight decay. The numbers in brackets are the chapters
# whose trick changes a line.


# %%
def groups(net, recipe):
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    decay = {"params": matrices, "weight_decay": recipe.weight_decay}
    return [decay, {"params": others, "weight_decay": 0.0}]


def plain_loop(net, data, images, seed, recipe=BASELINE):  # random first weights (6)
    draws = data.draws(recipe.batch, torch.Generator().manual_seed(seed))  # images per step (2)
    betas = (recipe.momentum, 0.999)
    optimizer = torch.optim.AdamW(groups(net, recipe), recipe.lr, betas, fused=True)
    for _ in range(images // recipe.batch):
        x, q = data.batch(*next(draws))  # images and their target probabilities (4, 5)
        loss = torch.nn.functional.cross_entropy(net(x), q)  # how wrong the network is (7)
        loss.backward()  # which way each weight should move (1)
        optimizer.step()  # move it a little (2, 3)
        optimizer.zero_grad()  # forget the direction


# %% [markdown]
# These places are called *slots*. [`examples/plain.py`](../examples/plain.py) does the same in one
# script of ordinary PyTorch. All chapters train with the package's loop, `fit`. It should leave the
# same weights as ours after twenty steps.

# %% tags=["nbval-check-output", "fold"]
from fasttricks.loop import fit
from fasttricks.models import create

small = choose_budget("smoke")
here = data.to(torch.device("cpu"), small.image_size)
ours, theirs = (create(small.model, data.channels, len(data.classes)).train() for _ in range(2))
theirs.load_state_dict(ours.state_dict())
plain_loop(ours, here, images=20 * BASELINE.batch, seed=1)
fit(BASELINE, theirs, data=here, images=20 * BASELINE.batch, seed=1, evaluations=1)
pairs_of_weights = zip(ours.parameters(), theirs.parameters(), strict=True)
difference = max((one - other).abs().max().item() for one, other in pairs_of_weights)
holds(difference < 1e-5, "our loop and the package's leave the same weights")

# %% [markdown]
# So the loop is short, and each trick changes one or two of its lines.
#
# ## How much is luck?
#
# Suppose that a colleague's code has a mistake: after some images were mirrored at random, it
# mirrors *all* of them once more. The colleague repairs it. **This repair cannot gain anything**:
# with or without the mistake, each image ends up mirrored with probability one half.
#
# We write the mistake as a trick for the slot `batch_maps`, the place of the images and targets. An
# *arm* is a recipe together with its runs. `train_arms` trains both arms with the same eight
# *seeds*. The seed determines the initial weights, the order of the images, and which are mirrored.
# The arms take turns, in case the machine slows down.

# %%
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class MirrorAgain:
    slots: ClassVar[tuple[str, ...]] = ("batch_maps",)

    def batch_map(self, x, q, rng):
        return x.flip(-1), q


recipes = {"before": BASELINE + MirrorAgain(), "after": BASELINE}
arms = train_arms(recipes, data, seeds=8, evaluations=1)
before, after = (np.array([found.val_accuracy for found in arms[name]]) for name in recipes)

# %% [markdown]
# Each seed gives a *pair* of runs, joined by a grey line.

# %% tags=["fold"]
plt.figure(figsize=(7, 3.6), layout="constrained")
plt.vlines(range(8), before, after, color="grey")
plt.plot(range(8), before, "o", label="before the repair")
plt.plot(range(8), after, "s", label="after the repair")
plt.xlabel("seed")
plt.ylabel("validation accuracy")
plt.figlegend(loc="outside upper center", ncol=2)
plt.show()

# %% tags=["fold"]
both, gain = np.concatenate([before, after]), 100 * (after - before)
say(
    f"With seed {gain.argmax()}, the repair seems to change the accuracy by **{gain.max():+.1f} "
    f"points**, and with seed {gain.argmin()} by **{gain.min():+.1f}**. Among all sixteen runs, "
    f"the best ended **{100 * (both.max() - both.min()):.1f} points** above the worst. All of this "
    f"is luck."
)

# %% [markdown]
# If you report only one seed, you may claim a gain that does not exist. How large is a typical
# difference (the root mean square)? We compare every run after the repair with every run before it,
# separately for the same seed and for different seeds.

# %%
gaps = 100 * (after[:, None] - before)  # (8, 8); the pairs that share a seed are on the diagonal
same_seed = np.sqrt(np.mean(gaps.diagonal() ** 2))
other_seed = np.sqrt(np.mean(gaps[~np.eye(8, dtype=bool)] ** 2))

# %% tags=["fold"]
shared_luck = "So a part of the luck cancels if both sides use the same seeds."
if same_seed >= other_seed:
    shared_luck = "In these runs, sharing the seed did not help."
say(
    f"Two runs with the same seed differ by **{same_seed:.1f} points**, and two runs with "
    f"different seeds differ by **{other_seed:.1f}**. {shared_luck}"
)

# %% [markdown]
# Sharing seeds costs nothing, so every comparison in this course does it.
#
# ## When is a gain more than luck?
#
# > We compare runs in pairs that share a seed. A difference is **clear** if all n pairs agree on
# > its sign and its mean is at least 1/√n points.
#
# So the mean must be at least 1 point for one pair, 0.7 for two and 0.6 for three. We divide by √n
# because luck partly cancels: the mean of n independent pairs scatters 1/√n times as much as one.
#
# **By hand.** Three pairs gain 0.4, 1.1 and 0.9 points. They agree on the sign, and their mean of
# 0.8 is above the bar of 0.6. So the gain is clear. With -0.1 instead of 0.4, it is not: the mean
# of 0.63 is still above the bar, but the signs disagree.
#
# Both conditions are conventions. All chapters keep them, so that nobody can choose them after
# seeing a result.


# %%
def verdict(points):  # the gain of each pair
    agree = min(points) > 0 or max(points) < 0
    mean = sum(points) / len(points)
    if agree and abs(mean) >= 1 / len(points) ** 0.5:
        return "higher" if mean > 0 else "lower"
    return "no clear difference"


# %% [markdown]
# The package's `gained` should give the same verdicts in a thousand made-up experiments.

# %% tags=["nbval-check-output", "fold"]
random, same = np.random.default_rng(0), []
for case in range(1000):
    points = random.normal(0.5, 1, 1 + case % 5)
    same.append(verdict(points.tolist()) in gained(list(points / 100), [0] * len(points)))
holds(all(same), "our rule and the package's give the same verdicts")

# %% [markdown]
# What does the rule say about the repair? Many chapters have only three pairs, so we judge all
# eight pairs together, and also every three of them.

# %% tags=["fold"]
from itertools import combinations

judged_here = gained(after.tolist(), before.tolist())
triples = [verdict(list(some)) for some in combinations(gain.tolist(), 3)]
alarms = sum(word != "no clear difference" for word in triples)
fooled = "higher" in judged_here or "lower" in judged_here
say(
    f"With all eight pairs, the verdict is **{judged_here}**. We know that the repair gains "
    f"nothing, so this is {'a false alarm' if fooled else 'right'}. Among the "
    f"{len(triples)} ways to choose three of these pairs, we count **{alarms} false "
    f"alarm{'s' * (alarms != 1)}**."
)

# %% [markdown]
# ### How often does the rule err?
#
# We make up thousands of experiments whose truth we know: each pair has the true gain plus luck
# from a normal distribution. For a useless trick, any clear difference is a false alarm. For a gain
# of one point, *higher* is right. We compare with a paired t-test at the 5% level.

# %%
from scipy.stats import ttest_1samp


def our_rule(experiments):
    return np.array([verdict(points) for points in experiments.tolist()])


def t_test(experiments):
    found = ttest_1samp(experiments, 0, axis=1)
    sign = np.where(found.statistic > 0, "higher", "lower")
    return np.where(found.pvalue < 0.05, sign, "no clear difference")


def share(rule, gain, luck, pairs):
    words = ("higher",) if gain else ("higher", "lower")
    experiments = np.random.default_rng(0).normal(gain, luck, (5_000, pairs))
    return np.isin(rule(experiments), words).mean()


# %% [markdown]
# We try three sizes of luck. Two are from the repair, which changes little. The third is from the
# study's runs with and without a real trick.


# %% tags=["fold"]
def recorded_luck(study):
    plain = {images: np.array(found) for images, *found in study.accuracies["plain"]}
    scatter = [
        (100 * (np.array(found) - plain[images][: len(found)])).var(ddof=1)
        for name in NAMES
        for images, *found in study.accuracies.get(f"plain + {name}", ())
        if images in plain
    ]
    return np.sqrt(np.mean(scatter)) if scatter else None


lucks = {"the repair, same seeds": same_seed, "the repair, different seeds": other_seed}
if known := [luck for study in recorded if (luck := recorded_luck(study))]:
    lucks["a real trick, same seeds"] = known[0]
lucks = dict(sorted(lucks.items(), key=lambda item: item[1]))
rates = {name: [share(our_rule, gain, luck, 3) for gain in (0, 1)] for name, luck in lucks.items()}
table = pd.DataFrame(rates, ["false alarms", "gains of 1 point that are found"]).T
table = table.map("{:.0%}".format)
table.insert(0, "luck, points", [f"{luck:.1f}" for luck in lucks.values()])
table

# %% tags=["fold"]
paired = [found for name, found in rates.items() if "same" in name]
wrong, right = ([found[which] for found in paired] for which in (0, 1))
say(
    f"**With three pairs that share a seed, the rule calls {min(wrong):.0%} to {max(wrong):.0%} of "
    f"the useless tricks clear. It finds {min(right):.0%} to {max(right):.0%} of the gains of one "
    f"point.** So read a clear difference from three pairs as evidence, not as proof. If you try "
    f"ten useless tricks, the probability that at least one looks clear is "
    f"{1 - (1 - min(wrong)) ** 10:.0%} to {1 - (1 - max(wrong)) ** 10:.0%}."
)

# %% [markdown]
# Luck depends on the network and on the length of the runs, so measure yours first.
#
# **Are more pairs better?** We repeat the simulation with one to ten pairs and the repair's luck.

# %% tags=["fold"]
counts = range(1, 11)
ours = {gain: [share(our_rule, gain, same_seed, n) for n in counts] for gain in (0, 1)}
test = {gain: [share(t_test, gain, same_seed, n) for n in counts[1:]] for gain in (0, 1)}
shares = {
    "our rule: gains of 1 point found": (counts, ours[1]),
    "our rule: false alarms": (counts, ours[0]),
    "t-test: gains of 1 point found": (counts[1:], test[1]),
    "t-test: false alarms": (counts[1:], test[0]),
}
plot(shares, "pairs", "share of the experiments", marks=True)
plt.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=2)
plt.show()

# %% tags=["fold"]
passes = [n for n in counts[2:] if test[1][n - 2] >= ours[1][n - 1]]
three, ten = (round(100 * ours[1][n - 1]) for n in (3, 10))
trend = "more" if ten > three else "as many" if ten == three else "fewer"
say(
    f"From three pairs to ten, the false alarms of our rule change from {ours[0][2]:.0%} to "
    f"{ours[0][9]:.0%}, and the gains that it finds from {three}% to {ten}%. "
    f"So with our rule, **more pairs find {trend} gains**. With three pairs, the t-test finds "
    f"{test[1][1]:.0%}. "
    + (
        f"From {passes[0]} pairs on, it finds at least as many gains as our rule."
        if passes
        else "It finds fewer gains than our rule with up to ten pairs."
    )
)

# %% [markdown]
# The more pairs there are, the more likely it is that one has the wrong sign, and then they do not
# all agree. The t-test has another weakness: from three pairs, it can hardly estimate the luck.
#
# So our rule is a first look for three or four pairs. If a decision depends on it, train more pairs
# and use a t-test or a confidence interval, as our study does.
#
# ## How do we measure time?
#
# We fix the accuracy and ask for the **time to a target accuracy**. A run may touch the target in a
# lucky moment, so only the accuracy at its end counts.
#
# So the study trained each arm at several lengths, with several seeds each. In the figure, a dot is
# the mean of such runs. A curve (a parabola over the logarithm of the images that never falls)
# tells how many images the target takes. The study multiplies them by the seconds per image,
# measured while all arms took turns.

# %% tags=["fold"]
from fasttricks.study.crossing import fit as curve_through


def draw_crossings(study, arms):
    lines, dots = {}, []
    for arm, name in arms.items():
        rows = np.array(study.accuracies[arm])  # per length: images, then the accuracy of each seed
        images, accuracy = rows[:, 0], rows[:, 1:].mean(1)
        longer = np.geomspace(images[0], images[-1])
        lines[name] = longer, curve_through(images, accuracy).at(longer)
        dots.append((images, accuracy))
    title = f"recorded on {study.hardware}"
    plot(lines, "images seen (log scale)", "mean accuracy", title, scale="log")
    for (images, accuracy), line in zip(dots, plt.gca().lines, strict=True):
        plt.plot(images, accuracy, "o", color=line.get_color())
    plt.axhline(study.target, color="grey", label=f"target: {study.target}")
    plt.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=3)
    plt.show()


for study in recorded[:1]:
    draw_crossings(study, {"plain": "plain training", "whole": "all tricks"})


# %% tags=["fold"]
def crossings(slow, fast, alone):
    if not (slow.arrives and fast.arrives):
        return "One of the two does not reach the target."
    images = slow.images.value / fast.images.value
    pace = [row.train / row.images.value for row in (slow, fast, *alone) if row.arrives]
    saved = [1 - one / pace[0] for one in pace[1:]]
    most = "fewer images" if images > pace[0] / pace[1] else "less time per image"
    less = [f"{abs(one):.0%} {'less' if one > 0 else 'more'} time" for one in saved]
    return (
        f"Plain training crosses the grey line at about {round(slow.images.value, -3):,.0f} "
        f"images, and training with all tricks at about {round(fast.images.value, -2):,.0f}. So it "
        f"needs **{images:.1f} times fewer images, and each image takes {less[0]}**. "
        f"Here, the tricks save time mostly by {most}."
        + (f" Without several processes, each image takes {less[1]}." if less[1:] else "")
    )


for study in recorded[:1]:
    say(crossings(*study.of("plain", "whole"), study.of("whole - distributed")))

# %% [markdown]
# The target was chosen beforehand, with other seeds. It lies where plain training still climbs: on
# a flat curve, a little luck would move the crossing far.
#
# For the 95% interval, we leave out each seed in turn and calculate again (the jackknife, Tukey
# 1958). It covers the luck of the seeds, but not the shape of the curve, or other networks, data
# and machines.

# %% tags=["fold"]
ended = both.mean()
side = "below it" if ended < budget.target else "above it"
say(
    f"In this budget, the notebooks' own target is **{budget.target}**. Our sixteen runs ended "
    f"{side}, at {ended:.2f} on average."
)

# %% [markdown]
# Runs of one length do not tell the time to a target. So for time, chapters 1 to 7 quote the study.
# Chapter 8 makes long runs. There, an arm **reaches the target** if the *mean* of its final
# accuracies does, so that failed runs count. Its time is then the *median* of its runs' times, so
# that one disturbed run does not decide.
#
# We read two clocks. The **train clock** pauses while we evaluate, and it waits until a GPU has
# finished its work. The **wall clock** never pauses. If it also counts the start of the program,
# the imports and the loading of data, we call it the *cold wall*.

# %% tags=["fold"]
say(
    f"Our first full run took **{run.train_seconds:.1f} s** on the train clock and "
    f"**{run.wall_seconds:.1f} s** on the wall clock. Its {len(run.curve)} evaluations took "
    f"{run.eval_seconds:.1f} s."
)

# %% [markdown]
# A trick may win on one clock and lose on the other: only the cold wall counts the start of several
# processes.
#
# ## When is a notebook's run faster?
#
# > Two arms take turns, and each turn gives a pair of times. One arm is **faster** if all pairs
# > agree and the median of their ratios is at least 5% away from 1. Otherwise, the arms are *not
# > clearly faster or slower*.
#
# `faster` applies this rule. We try it on our sixteen runs, because both arms do almost the same
# work. Then we make up experiments with noise as large as in these pairs.

# %% tags=["fold"]
seconds = [np.array([found.train_seconds for found in arms[name]]) for name in recipes]
noise = np.sqrt(np.mean(np.log(seconds[0] / seconds[1]) ** 2))
unclear = "not clearly"


def share_clear(ratio, pairs):
    ratios = np.exp(np.random.default_rng(0).normal(np.log(ratio), noise, (2_000, pairs)))
    told = [faster([1.0] * pairs, row) for row in ratios.tolist()]
    found = [float(verdict.split()[0]) for verdict in told if not verdict.startswith(unclear)]
    return sum(ratio == 1 or value > 1 for value in found) / len(told)


picked = [list(some) for some in combinations(range(8), 3)]
told = [faster(seconds[1][some].tolist(), seconds[0][some].tolist()) for some in picked]
false = sum(not found.startswith(unclear) for found in told)
alarm, little, much = (share_clear(ratio, 3) for ratio in (1, 1.1, 1.5))

# %% tags=["fold"]
spread = max(map(max, seconds)) / min(map(min, seconds)) - 1
say(
    f"For almost the same work, the slowest of the sixteen runs took **{spread:.0%} longer** than "
    f"the fastest. Among the {len(told)} ways to choose three of the eight pairs, we count {false} "
    f"false alarm{'s' * (false != 1)}. In made-up experiments, **three pairs give a false alarm "
    f"in {alarm:.0%} if both arms are equally fast**. The rule notices an arm that is 1.1 times as "
    f"fast in {little:.0%} of the experiments, and one that is 1.5 times as fast in {much:.0%}."
)

# %% [markdown]
# Three pairs of equally fast arms agree by chance one time in four, and then only the 5% prevents a
# false alarm. So on a noisier machine, the rule errs more often. For a verdict about time, believe
# the study.
#
# ## What do the verdict words mean?
#
# | word | said of | means |
# |---|---|---|
# | *higher*, *lower*: **clear** | accuracies | all n pairs agree, mean of 1/√n points or more |
# | **no clear difference** | the same | anything else; it does *not* mean equal |
# | *faster*, *slower* | seconds of runs | all pairs agree, median at least 5% away from 1 |
# | *not clearly faster or slower* | the same | anything else |
# | *pays*, *costs time* | the study | the ratio's 95% interval does not contain 1 |
# | **cannot tell**, *makes no clear difference* | the study | the interval contains 1 |
# | *may be chance* | the study | clear alone, but not among all its verdicts (Holm 1979) |
#
# *2 times as fast* means half the time. In a bar chart of runs, a dot is one seed, a bar is the
# mean, and a black line is its bootstrap interval (Efron 1979), which for three seeds is hardly
# better than their range.
#
# ## What should you do in your own experiments?
#
# - **First, change nothing.** Train one recipe with a few seeds to see how large luck is.
# - Choose your rule, your target and the lengths of your runs before you train.
# - Use the same seeds on both sides, let the arms take turns, and look at both clocks.
# - If a difference is not clear, say so.
#
# ## Questions
#
# **1. The chapters compare accuracies after equally many images. Why is that only a first look?**
#
# <details><summary>Answer</summary>Because you pay in seconds. A trick may change the seconds per
# image. And a point of accuracy is worth many images where the curve is flat.</details>
#
# **2. Three pairs gain 0.7, 0.2 and 0.6 points. Is this clear? Is the trick useless?**
#
# <details><summary>Answer</summary>It is not clear: the mean of 0.5 is below the bar of 0.6. But
# the rule misses gains, so the trick may still gain something.</details>
#
# **3. Why don't we leave out a run that missed the target?**
#
# <details><summary>Answer</summary>Then a recipe that fails half of the time would look like one
# that never fails.</details>
#
# **4. Which clock matters for a job that runs all night? And for one of ten seconds?**
#
# <details><summary>Answer</summary>You always wait for the wall clock. All night, the train clock
# says almost the same unless you evaluate often. In ten seconds, the start may take as long as the
# training, so look at the cold wall.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell.
#
# **Exercise 1.** How long does an arm take? You are given the final accuracies of its runs, their
# seconds, and the target. Return the median of the seconds if the mean accuracy reaches the target,
# and infinity if it does not.


# %%
from fasttricks.course import check


def arm_seconds(accuracies, seconds, target):
    raise NotImplementedError


check("baseline", 1, arm_seconds)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def arm_seconds(accuracies, seconds, target):
#     from statistics import mean, median
#
#     return median(seconds) if mean(accuracies) >= target else float("inf")
# ```
#
# </details>
#
# **Exercise 2.** How many times as fast is one arm as another? Return the median time of the slow
# arm's runs, divided by that of the fast arm's. An arm may have an even number of runs.


# %%
def speed_up(slow, fast):
    raise NotImplementedError


check("baseline", 2, speed_up)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def speed_up(slow, fast):
#     def middle(times):
#         ordered, half = sorted(times), len(times) // 2
#         return ordered[half] if len(times) % 2 else (ordered[half - 1] + ordered[half]) / 2
#
#     return middle(slow) / middle(fast)
# ```
#
# </details>
#
# **Exercise 3.** An evaluation goes through the images in batches. `right` is a list with True or
# False for each image. Go through it `batch` images at a time and return the share of all images
# that are right. The last batch may be smaller.


# %%
def accuracy_in_parts(right, batch):
    raise NotImplementedError


check("baseline", 3, accuracy_in_parts)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def accuracy_in_parts(right, batch):
#     hits = 0
#     for first in range(0, len(right), batch):
#         hits += sum(right[first : first + batch])
#     return hits / len(right)
# ```
#
# </details>
#
# ## Further reading
#
# - Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677): a careful account of
#   training faster without losing accuracy.
# - Dahl et al. 2023, [arXiv 2306.07179](https://arxiv.org/abs/2306.07179) (AlgoPerf): time to
#   result as a benchmark.
# - Xiao et al. 2017, [arXiv 1708.07747](https://arxiv.org/abs/1708.07747): the data set.
