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
# Welcome! In this course, we try to train a small image network faster with seven tricks, one per chapter:
#
# | chapter | trick | name in the code | in one line |
# |---|---|---|---|
# | 1 | several processes | `distributed` | divide each batch among them, and average the gradients |
# | 2 | learning-rate scaling | `scaling` | take larger batches, and raise the learning rate with them |
# | 3 | one-cycle | `cyclic` | let the learning rate rise and fall once per run |
# | 4 | mixup | `mixup` | train on blends of two images |
# | 5 | label smoothing | `smoothing` | ask the network for a little less than certainty |
# | 6 | transfer learning | `transfer` | start from weights learned on other images |
# | 7 | mixed precision | `precision` | compute in 16 bits instead of 32 where that is safe |
#
# Chapter 8 adds them all up.
#
# Training is *faster* if it reaches the same accuracy in fewer seconds:
#
# > seconds to an accuracy = images needed × seconds per image
#
# Chapters 3 to 6 try to reduce the number of images, and chapters 1, 2 and 7 the seconds per image. We measure the
# two separately, because a trick may improve one and worsen the other. The **accuracy after equally many images**
# hints at whether each image teaches more, however fast the machine is. Short runs can give this hint, except for
# tricks that are meant for long runs (chapters 4 and 5). How many images an accuracy really needs takes many long runs.
# We have made these beforehand and call them a *study*. Its records come with the course, and the chapters quote them.
#
# In this chapter, we train without any trick (the *baseline*). Runs that should be equally good turn out to differ,
# so we need a rule for gains and a rule for speed.
#
# About 30 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb).
# The first cell installs the course if it is missing and prints what hardware it has found.

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
# Your device determines the *budget*: which network we train (a residual network from the library timm), how
# large the images are, and how many of them a run sees. Code that only writes, draws or tabulates is folded.
# Whenever a sentence depends on a run, code writes it with `say`. Here is the first such sentence:

# %%
from fasttricks import BASELINE, choose_budget, load, train
from fasttricks.course import say

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)
say(
    f"A full run in this chapter trains **{budget.model}** on {budget.images:,} images of "
    f"{budget.image_size}×{budget.image_size} pixels. That is "
    f"**{budget.images / len(data.train):.2f} epochs**: one *epoch* is one pass over all "
    f"{len(data.train):,} training images."
)

# %% [markdown]
# ## The data
#
# Our data set is Fashion-MNIST, which comes with the repository. It contains small grey pictures of ten kinds of
# clothing. Here is one of each kind.

# %% tags=["fold"]
import matplotlib.pyplot as plt

from fasttricks.course import holds, plot, show

first = [int((data.train.y == kind).nonzero()[0, 0]) for kind in range(10)]
show([data.train.x[row] for row in first[:5]], data.classes[:5])
show([data.train.x[row] for row in first[5:]], data.classes[5:])
plt.show()

# %% [markdown]
# A blind guess would be right one time in ten. We judge every run by the *validation* images. Since we also make
# our choices on them, these may fit them by chance. So we use the test images only once, at the very end of the course. `holds` prints a claim
# if it is true, and stops the notebook if it is not.

# %% tags=["nbval-check-output"]
sizes = [len(part) for part in (data.train, data.val, data.test)]
holds(
    sizes == [55_000, 5_000, 10_000], "55,000 images to train on, 5,000 to validate, 10,000 to test"
)
holds(data.train.y.unique().tolist() == list(range(10)), "there are ten kinds of clothes")

# %% [markdown]
# All training images are stored in one tensor, one image per row. `data.draws` yields one batch of row numbers after
# another and reshuffles them in every epoch. With each row number comes a random number, the `noise`.
# `data.batch` takes these rows, mirrors an image left to right (for variety) if its noise is below one half,
# and scales the pixels.

# %%
import torch

draws = data.draws(BASELINE.batch, torch.Generator().manual_seed(0))
row_numbers, noise = next(draws)
x, q = data.batch(row_numbers, noise)
say(
    f"One batch: {len(x)} images of {x.shape[-2]}×{x.shape[-1]} pixels between {x.min():.0f} and "
    f"{x.max():.0f}, of which {int((noise < 0.5).sum())} were mirrored, and for each image "
    f"{q.shape[1]} target probabilities."
)

# %% [markdown]
# Every chapter uses the same letters: `x` for images, `y` for class numbers, and `q` for the *target
# probabilities*. Here they are 1 for the right class and 0 for the others.
#
# ## The plain recipe
#
# A **recipe** holds everything that we decide about training. `BASELINE` is the plain recipe. This table
# explains its settings.

# %% tags=["fold"]
import pandas as pd

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
# Any trick can beat a badly tuned baseline. So we chose the optimiser, the learning rate and the batch size
# from 24 combinations, as many as we tried for the seven tricks together. We tuned on two CPU cores, for runs
# about as long as those of our study. Elsewhere, other settings may be better.
#
# ## The problem: diminishing returns
#
# We train the plain recipe and evaluate the network eight times on the way. The first run in a new process can
# be slow, because it has to allocate memory and start threads. So we begin with a short run and ignore it.

# %%
train(BASELINE, data, images=budget.images // 4, evaluations=1, label="only to warm up")
run = train(BASELINE, data, evaluations=8)
seen, accuracy = [point[0] for point in run.curve], [point[2] for point in run.curve]
plot({"plain": (seen, accuracy)}, "images seen", "validation accuracy", marks=True)
plt.show()

# %% [markdown]
# We write an accuracy as a share, such as 0.83, and a difference in percentage *points*: from 0.83 to 0.84 is
# one point. The curve may dip, because at a constant learning rate the weights never settle.

# %%
sooner, later = 100 * (accuracy[3] - accuracy[1]), 100 * (accuracy[7] - accuracy[3])
say(
    f"When the number of images doubled, from a quarter of the run to a half, the accuracy changed by {sooner:+.1f} "
    f"points. When it doubled again, the accuracy changed by {later:+.1f} points. "
    + (
        "**More time buys less and less.**"
        if later < sooner
        else "In this short run, the curve does not flatten yet."
    )
)

# %% [markdown]
# Training curves climb steeply at first and then flatten. So a late point of accuracy costs many images.
#
# ## The training loop
#
# Here is the complete training loop. `groups` exempts biases and the scales of norm layers from weight decay,
# and `fused=True` only saves time. The same five lines run for every batch.


# %%
def groups(net, recipe):
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    decay = {"params": matrices, "weight_decay": recipe.weight_decay}
    return [decay, {"params": others, "weight_decay": 0.0}]


def plain_loop(net, data, images, seed, recipe=BASELINE):
    draws = data.draws(recipe.batch, torch.Generator().manual_seed(seed))
    betas = (recipe.momentum, 0.999)
    optimizer = torch.optim.AdamW(groups(net, recipe), recipe.lr, betas, fused=True)
    for _ in range(images // recipe.batch):
        x, q = data.batch(*next(draws))  # images and their target probabilities
        loss = torch.nn.functional.cross_entropy(net(x), q)  # how wrong the network is
        loss.backward()  # which way each weight should move
        optimizer.step()  # move it a little
        optimizer.zero_grad()  # forget the direction


# %% [markdown]
# [`examples/plain.py`](../examples/plain.py) does the same in one script of ordinary PyTorch.
#
# All chapters train with the package's loop, `fit`. Does it do the same as ours? We let both train the same
# network with the same seed for twenty steps, on the CPU and with the smallest budget. Their weights should
# differ by rounding at most.

# %%
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

# %% tags=["nbval-check-output"]
holds(difference < 1e-5, "our loop and the package's leave the same weights")

# %% [markdown]
# ## Where the tricks attach
#
# Each trick changes this loop, or its start, in one or two places, the *slots*. The table shows which trick
# fills which slot (*cyclic* is one-cycle).

# %% tags=["fold"]
from fasttricks import SEVEN, Mixup
from fasttricks.recipe import name_of

decides = {
    "start": "which weights the network starts from",
    "world": "which processes share a batch and average their gradients",
    "batch": "how many images one step takes",
    "lr_factors": "how far a step goes",
    "momentum": "how much of earlier steps a step keeps",
    "batch_maps": "what the images and target probabilities are",
    "precision": "in which number format the network computes",
}
filled = {
    slot: ", ".join(f"{trick.chapter} {name_of(trick)}" for trick in SEVEN if slot in trick.slots)
    for slot in decides
}
pd.DataFrame({"decides": decides, "filled by chapter": filled})

# %%
several = [place for place, owners in filled.items() if "," in owners]
say(
    f"**{' and '.join(several)}** can hold more than one trick: factors of the learning rate are multiplied, "
    f"and maps of a batch run one after the other, in the order of the chapters. Every other slot holds only one "
    f"trick."
)

# %% [markdown]
# `+` adds a trick to a recipe, and `-` with its name takes it out. `SEVEN` holds all seven.

# %% tags=["nbval-check-output"]
all_seven, backwards = sum(SEVEN, start=BASELINE), sum(reversed(SEVEN), start=BASELINE)
holds(BASELINE + Mixup() - "mixup" == BASELINE, "what we add, we can take out")
holds(all_seven == backwards, "all seven can also be added from the last to the first")

# %% [markdown]
# ## How much is luck?
#
# Suppose that a colleague's code has a mistake: after some images were mirrored at random, it mirrors *all* of them
# once more. Mirrored images are turned back, and all others are mirrored. The colleague now repairs it. With or
# without the mistake, an image ends up mirrored with probability one half. So **the repair cannot gain anything**.
# It only changes which images happen to be mirrored.
#
# We write the mistake as a trick that fills the slot `batch_maps`. A recipe together with its runs is called
# an *arm*, as in a medical trial. `train_arms` trains both arms with the same eight *seeds*. The seed
# determines the initial weights, the order of the images, and which images are mirrored. The arms take turns,
# because a machine's speed drifts over time.

# %%
from dataclasses import dataclass
from typing import ClassVar

from fasttricks.course import train_arms


@dataclass(frozen=True)
class MirrorAgain:
    slots: ClassVar[tuple[str, ...]] = ("batch_maps",)

    def batch_map(self, x, q, rng):
        return x.flip(-1), q


recipes = {"before": BASELINE + MirrorAgain(), "after": BASELINE}
arms = train_arms(recipes, data, seeds=8, evaluations=1)

# %% [markdown]
# Each seed gives a *pair* of runs, which a grey line joins. `before` and `after` hold the accuracies.

# %% tags=["fold"]
import numpy as np

before, after = (np.array([found.val_accuracy for found in arms[name]]) for name in recipes)
plt.figure(figsize=(7, 3.6), layout="constrained")
plt.vlines(range(8), before, after, color="grey")
plt.plot(range(8), before, "o", label="before the repair")
plt.plot(range(8), after, "s", label="after the repair")
plt.xlabel("seed")
plt.ylabel("validation accuracy")
plt.figlegend(loc="outside upper center", ncol=2)
plt.show()

# %%
both, pair_gains = np.concatenate([before, after]), 100 * (after - before)
widest = 100 * (both.max() - both.min())
say(
    f"With seed {pair_gains.argmax()}, the repair seems to change the accuracy by **{pair_gains.max():+.1f} "
    f"points**, and with seed {pair_gains.argmin()} by **{pair_gains.min():+.1f}**. Among all sixteen runs, "
    f"the best ended **{widest:.1f} points** above the worst. All of this is luck."
)

# %% [markdown]
# If you report only one seed, or the luckiest of eight, you may claim a gain that does not exist. How large
# is this luck? We compare every run after the repair with every run before it, separately for the same seed
# and for different seeds. The root mean square gives a typical difference.

# %%
gaps = 100 * (after[:, None] - before)  # (8, 8); the pairs that share a seed are on the diagonal
same_seed = np.sqrt(np.mean(gaps.diagonal() ** 2))
other_seed = np.sqrt(np.mean(gaps[~np.eye(8, dtype=bool)] ** 2))

# %%
say(
    f"Two runs with the same seed differ by **{same_seed:.1f} points** (root mean square), and two runs with "
    f"different seeds differ by **{other_seed:.1f}**."
)

# %% [markdown]
# Runs with the same seed share their initial weights and the order of their images, so this part of the luck
# can cancel. Sharing seeds costs nothing, so every comparison in this course uses the same seeds on both sides.
#
# ## The rule for gains
#
# When is a gain more than luck? All chapters use this rule:
#
# > We compare runs in pairs that share a seed. We call a difference **clear** if all pairs agree on its sign
# > and its mean over n pairs is at least 1/√n points (0.6 points for three pairs).
#
# We divide by √n because luck partly cancels: the mean of n independent pairs scatters only 1/√n times as
# much as a single pair. If three pairs gain 0.4, 1.1 and 0.9 points, all agree on the sign, and the mean of 0.8 is
# above the bar of 0.6, so the difference is clear. With -0.1 instead of 0.4, it would not be. The numerator 1 is a convention,
# and so is the demand that all pairs agree, which protects us from one lucky pair. We keep both in all chapters, so
# that nobody can choose them after seeing a result.
#
# We call a clear difference *higher* or *lower*. Any other difference is *about the same* if every pair
# differs by less than two points (another convention), and *undecided* if not. Neither of these proves that two
# recipes are equal.
# Here is the rule in code:


# %%
def verdict(points):  # the gain of each pair
    mean, bar = sum(points) / len(points), 1 / len(points) ** 0.5
    agree = min(points) > 0 or max(points) < 0
    if agree and abs(mean) >= bar:
        return "higher" if mean > 0 else "lower"
    return "undecided" if max(map(abs, points)) >= 2 else "about the same"


# %% [markdown]
# The package's `gained` applies the same rule and adds the mean of a clear difference, or else the range of the
# pairs. We compare it with ours on a thousand made-up experiments.

# %% tags=["nbval-check-output"]
from fasttricks.course import gained

random, same = np.random.default_rng(0), []
for case in range(1000):
    points = random.normal(0.5, 1, 1 + case % 5)
    same.append(verdict(points.tolist()) in gained(list(points / 100), [0] * len(points)))
holds(all(same), "our rule and the package's give the same verdicts")

# %% [markdown]
# What does the rule say about the repair?

# %%
judged = gained(after.tolist(), before.tolist())
wrong = "higher" in judged or "lower" in judged
say(
    f"After the repair, accuracy is **{judged}**. We know that the repair gains nothing, so the rule is "
    f"{'wrong here: this is a false discovery' if wrong else 'not fooled here'}."
)

# %% [markdown]
# **How often does the rule err?** To find out, we make up thousands of experiments whose truth we know. The
# gain of each pair is the true gain plus luck. We draw the luck from a normal distribution that is as wide as
# we measured above. For a useless trick, we count how often the rule says *higher* or *lower*. For a trick that
# gains one point, we count how often it says *higher*.


# %%
def called(gain, luck, pairs):
    words = ("higher",) if gain else ("higher", "lower")
    experiments = np.random.default_rng(0).normal(gain, luck, (5_000, pairs))
    return np.mean([verdict(points) in words for points in experiments.tolist()])


truths = {
    "useless trick, same seeds": (0, same_seed),
    "useless trick, different seeds": (0, other_seed),
    "gain of 1 point, same seeds": (1, same_seed),
    "gain of 1 point, different seeds": (1, other_seed),
}
rates = {
    f"{n} pair{'s' * (n > 1)}": {truth: called(*how, n) for truth, how in truths.items()}
    for n in (1, 3, 5)
}
pd.DataFrame(rates).map("{:.0%}".format)

# %%
useless, unpaired, real, real_unpaired = rates["3 pairs"].values()
say(
    f"Many chapters use three pairs. **With three pairs, the rule sees a clear difference for {useless:.0%} "
    f"of the useless tricks, and for {unpaired:.0%} if the seeds differ.** It finds {real:.0%} of the gains "
    f"of one point, and {real_unpaired:.0%} if the seeds differ. If you try ten useless tricks with three "
    f"pairs each, the probability that at least one looks clear is {1 - (1 - useless) ** 10:.0%}, even with "
    f"the same seeds."
)

# %% [markdown]
# With one pair, a true gain of one point lies exactly on the bar, so the rule finds about half of these gains. Are more
# pairs better?

# %% tags=["fold"]
from scipy.stats import ttest_1samp


def t_test_finds(pairs):  # the share of true gains of one point with p < 0.05
    experiments = np.random.default_rng(0).normal(1, same_seed, (5_000, pairs))
    found = ttest_1samp(experiments, 0, axis=1)
    return np.mean((found.pvalue < 0.05) & (found.statistic > 0))


three, five = (rates[n] for n in ("3 pairs", "5 pairs"))
changes = [f"from {three[truth]:.0%} to {five[truth]:.0%}" for truth in truths]
say(
    f"From three pairs to five, false alarms change {changes[0]}, and the gains that are found {changes[2]} (with "
    f"different seeds, {changes[3]}). For comparison, a paired t-test at the 5 % level would find {t_test_finds(3):.0%} "
    f"of these gains with three pairs, and {t_test_finds(5):.0%} with five: from three pairs, it can hardly tell how large "
    "luck is."
)

# %% [markdown]
# We measured luck on only eight pairs, and for a repair that changes little. With a real trick, the pairs may scatter
# more. So read a clear difference from three seeds as evidence, not as proof.
#
# ## From accuracy to time
#
# Is a trick that gains a point better than one that halves the time? To compare them, we fix the accuracy and
# judge a trick by its **time to a target accuracy**.
#
# A run may touch the target in a lucky moment, so only the accuracy at its end counts. Our recorded *study*
# trained each arm at several lengths that were fixed beforehand, with several seeds each. A smooth curve
# through the mean accuracies tells how many images the arm needs. The study multiplies them by the seconds per
# image, measured while all arms took turns.
#
# There are two such studies, on two machines:
#
# | machine | network and images | "all seven" are | tuned |
# |---|---|---|---|
# | two CPU cores | `test_resnet`, 28 by 28 pixels | seven: two processes share the cores | plain and all seven, 24 settings each |
# | one H100 GPU | `resnet18`, 64 by 64 pixels, larger batches | six: there is no second GPU to share with | anew, nine settings each |
#
# We draw the curves of plain training and of all seven tricks. A dot stands for complete runs, so a curve is
# not the course of one run. The scale is logarithmic, so the gap between the curves along the grey line shows by
# what factor the tricks reduce the images needed.

# %% tags=["fold"]
from fasttricks.course import published
from fasttricks.study.crossing import fit as curve_through


def draw_crossings(study, arms):
    lines, means = {}, {}
    for arm, name in arms.items():
        rows = np.array(study.accuracies[arm])  # per length: images, then the accuracy of each seed
        images, accuracy = means[name] = rows[:, 0], rows[:, 1:].mean(1)
        longer = np.geomspace(images[0], images[-1])
        lines[name] = longer, curve_through(images, accuracy).at(longer)
    plot(
        lines,
        "images seen (log scale)",
        "mean accuracy",
        f"recorded on {study.hardware}",
        scale="log",
    )
    for (images, accuracy), line in zip(means.values(), plt.gca().lines, strict=True):
        plt.plot(images, accuracy, "o", color=line.get_color())
    plt.axhline(study.target, color="grey", label=f"target: {study.target}")
    plt.legend(loc="lower center")
    plt.show()


# %% tags=["fold"]
def read_crossings(slow, fast):
    if not (slow.arrives and fast.arrives):
        return "One of the two does not reach the grey target line."
    images, costs = slow.images.value / fast.images.value, slow.train / slow.images.value
    pace = costs / (fast.train / fast.images.value)
    return (
        f"How to read it: plain training crosses the grey line at {slow.images.value:,.0f} images, "
        f"which takes **{slow.train:.1f} s**. Training with all seven tricks crosses it at "
        f"{fast.images.value:,.0f}, which takes **{fast.train:.3g} s**. So it needs {images:.1f} times "
        f"fewer images, and each image takes {abs(1 - 1 / pace):.0%} {'less' if pace > 1 else 'more'} time. "
        f"Together, that is **{fast.ratio.value:.1f} times as fast** (95 % interval: {fast.ratio.low:.1f} to "
        f"{fast.ratio.high:.1f}, {fast.seeds} seeds). This does not count the training of the weights from which "
        f"one of the tricks starts (chapter 6)."
    )


# %% tags=["fold"]
shown = {"plain": "plain training", "whole": "training with all seven tricks"}
recorded = [study for study in published() if set(shown) <= set(study.accuracies)]
for study in recorded:
    draw_crossings(study, shown)
    say(read_crossings(*study.of(*shown)))
if not recorded:
    say("No study is recorded here yet, so there is nothing to draw.")

# %% [markdown]
# "2 times as fast" means half the time.
#
# To get the 95 % interval, we leave out each seed in turn and repeat the calculation (the jackknife, Tukey
# 1958). The interval should contain the true ratio in 95 of 100 such studies. (`RESULTS.md` says how often it
# did in made-up ones.) If it contains 1, we cannot tell which arm is faster. It covers the luck of the seeds,
# but not other networks, data or machines.
#
# A target should lie where the curve of plain training still climbs. Where the curve is flat, a little luck
# in accuracy moves the crossing by many images. So each study has its own target, and so does this notebook.

# %%
say(
    f"In the notebooks, the target accuracy is **{budget.target}**, a round number near that of the study. Our sixteen "
    f"runs ended {'below' if both.mean() < budget.target else 'above'} it, at {both.mean():.2f} on average."
)

# %% [markdown]
# Most runs in chapters 1 to 7 are as short as these, so for the verdict about time, these chapters quote the
# study. Chapter 8 trains for as many images as the study says that the target needs. There, an arm **reaches the
# target** if the *mean* of its final accuracies does. Its time is then the *median* of the times of all its runs.
# Otherwise, it is infinite.
#
# The **train clock** pauses while we evaluate, and it waits until a GPU has finished its work. The **wall
# clock** never pauses. If training is a program of its own, this clock also counts its start, imports and
# loading of data, and we call it the *cold wall*. Here are both clocks in our first full run.

# %%
say(
    f"The run took **{run.train_seconds:.1f} s** on the train clock and **{run.wall_seconds:.1f} s** on the "
    f"wall clock. Its {len(run.curve)} evaluations took {run.eval_seconds:.1f} s."
)

# %% [markdown]
# Seconds belong to one machine, and even to one day:


# %% tags=["fold"]
def per_image(seconds, images):
    return f"{1e3 * seconds / images:.2f} ms"


took = [
    f"{per_image(run.train_seconds, run.images_seen)} in our first full run",
    f"{per_image(sum(one.train_seconds for some in arms.values() for one in some), 16 * run.images_seen)} in the sixteen",
]
for study in recorded:
    if study.study == budget.name:
        (slow,) = study.of("plain")
        took.append(f"{per_image(slow.train, slow.images.value)} in the study on {study.hardware}")
say(
    f"An image of plain training took {', '.join(took)}. Even one kind of machine may be slower on another day. So compare "
    "seconds only if the runs took turns."
)

# %% [markdown]
# A trick may win on one clock and lose on the other: starting several processes takes time, which only the cold
# wall counts.
#
# ## The rule for speed
#
# When a notebook compares the speed of two arms, it uses a similar rule:
#
# > The arms take turns, and each turn gives a pair of times. We call one arm **faster** if all pairs agree
# > and the median of their ratios is at least 5 % away from 1. Otherwise, the arms are *not clearly faster or slower*.
#
# The 5 % is a convention, too. With equally many images, the rule compares the seconds per image. The package's
# `faster` applies it. We try it on two arms that do exactly the same work: both train the plain recipe with the
# same ten seeds, in runs a tenth as long as before.

# %%
from fasttricks.course import faster

alike = {"first": BASELINE, "again": BASELINE}
short_runs = train_arms(alike, data, images=budget.images // 10, seeds=10, evaluations=1)
times = {name: [found.train_seconds for found in runs] for name, runs in short_runs.items()}
turns = {name: (range(1, 11), found) for name, found in times.items()}
plot(turns, "turn", "train clock, seconds", marks=True)
plt.show()

# %%
twenty = times["first"] + times["again"]
spread = max(twenty) / min(twenty) - 1
decided_here = faster(times["again"], times["first"])
say(
    f"For the same work, the slowest of the twenty runs took **{spread:.0%} longer** than the fastest. "
    f"Judged by all ten pairs, the arm *again* is **{decided_here}**, "
    + ("as it should be." if decided_here.startswith("not clearly") else "which is a false alarm.")
)

# %% [markdown]
# If the machine drifts slowly, both runs of a pair are slowed down alike, and their ratio stays as it is:

# %%
logs = np.log([times["first"], times["again"]])
within, between = np.diff(logs, axis=0).std(), np.sqrt(2) * logs.std()
say(
    f"Within a pair, the two times typically differ by {within:.0%}, and two times taken from any two turns by {between:.0%}. "
    + (
        "So taking turns **cancels a part of the drift**."
        if within < 0.7 * between
        else "So here, taking turns **cancels little**: the speed changes from run to run."
    )
)

# %% [markdown]
# How often does this rule err? Again, we make up experiments. The ratio of each pair is the true ratio times
# noise as large as in our ten pairs. We count how often the rule calls the right arm faster, or any
# arm if both are equally fast.

# %% tags=["fold"]
scatter = np.std(np.log(times["first"]) - np.log(times["again"]), ddof=1)


def told_apart(ratio, pairs):
    ratios = np.exp(np.random.default_rng(0).normal(np.log(ratio), scatter, (2_000, pairs)))
    if ratio > 1:
        ratios = ratios[
            np.median(ratios, axis=1) > 1
        ]  # a verdict in the wrong direction finds nothing
    verdicts = [faster([1.0] * pairs, row) for row in ratios.tolist()]
    return sum(not found.startswith("not clearly") for found in verdicts) / 2_000


truths = {"equally fast": 1.0, "1.1 times as fast": 1.1}
apart = {
    f"{n} pair{'s' * (n > 1)}": {truth: told_apart(ratio, n) for truth, ratio in truths.items()}
    for n in (1, 3, 5)
}
pd.DataFrame(apart).map("{:.0%}".format)

# %%
alarm, noticed = apart["3 pairs"].values()
say(
    f"**With three pairs, the rule raises a false alarm in {alarm:.0%} of the comparisons of equally fast arms.** If an "
    f"arm is 1.1 times as fast, the rule notices this in {noticed:.0%}."
)

# %% [markdown]
# Three pairs of equally fast arms agree by chance one time in four. Then only the 5 % prevents a false alarm,
# so on a noisier machine, the rule errs more often.
#
# ## How to read the later chapters
#
# - **A curve over images** says nothing about time. Over *seconds*, both factors count.
# - ***Times as fast*** means faster above 1 and slower below 1.
# - **In a bar chart**, a dot is one seed, a bar is the mean, and a black line is an interval for it, made by
#   resampling the seeds (the bootstrap, Efron 1979). With three seeds, it is hardly better than their
#   range.
# - **The study** has more seeds, so it uses its 95 % interval instead of our rules.
#
# ## What we have found
#
# The training loop is short, and each trick fills one or two of its slots. Two rules tell gains from luck, but
# they err at times:

# %%
say(
    f"- **Luck:** sixteen runs that should be equally good differed by up to {widest:.1f} points, and by up "
    f"to {np.abs(pair_gains).max():.1f} points if they shared a seed.\n"
    f"- **The rule for gains:** with three pairs, it sees a clear difference in {useless:.0%} of the useless "
    f"tricks ({unpaired:.0%} if the seeds differ). It finds {real:.0%} of the gains of one point "
    f"({real_unpaired:.0%} if the seeds differ).\n"
    f"- **The rule for speed:** with three pairs, it raises a false alarm in {alarm:.0%} of the comparisons of equally "
    f"fast arms. If an arm is 1.1 times as fast, it notices this in {noticed:.0%}."
)

# %% [markdown]
# For your own experiments:
#
# - **First, change nothing.** Train the same recipe with a few seeds to see how large luck is.
# - Use the same seeds on both sides, and let the arms take turns.
# - Choose your rule, your target accuracy and the lengths of your runs before you train.
# - If a difference is not clear, say so. To settle it, run many seeds and compute a confidence interval.
# - Do a short run to warm up before you measure time, and look at both clocks.
#
# ## Questions
#
# **1. The chapters compare accuracies after the same number of images. Why is that only a first look?**
#
# <details><summary>Answer</summary>Because you pay in seconds. A trick may change the seconds per image. And a
# point of accuracy is worth few images where the curve is steep, but many where it is flat.</details>
#
# **2. Why do both sides use the same seeds?**
#
# <details><summary>Answer</summary>The runs of a pair then share their initial weights and the order of their
# images, so this part of the luck can cancel.</details>
#
# **3. Why don't we leave out a run that missed the target?**
#
# <details><summary>Answer</summary>The mean of the other runs would be too high: a recipe that fails half of
# the time would look like one that never fails.</details>
#
# **4. Which clock would you look at for a job that runs all night? And for a job that takes ten seconds?**
#
# <details><summary>Answer</summary>All night: the train clock, because the start hardly counts, or the wall
# clock if you evaluate often. Ten seconds: the cold wall, because the start and the imports may take as long as
# the training.</details>
#
# **5. Two tricks both change the learning rate. Why can they be added in any order?**
#
# <details><summary>Answer</summary>Each is a factor, and the product of factors does not depend on their
# order.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell.
#
# **Exercise 1.** How long does an arm take to reach the target accuracy? You are given the final accuracies
# of its runs, their times in seconds, and the target. Return the median of the times if the mean
# accuracy reaches the target, and infinity if it does not.


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
# **Exercise 2.** Chapter 8's table says how many times as fast one arm is as another if both reach the
# target. Return this number: the median time of the slow arm's runs, divided by the median time of the fast
# arm's runs. An arm may have an even number of runs.


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
# **Exercise 3.** An evaluation goes through the images in batches, and its accuracy must count every image
# once. `right` is a list with True or False for each image. Go through it `batch` images at a time and
# return the share of all images that are right. The last batch may be smaller.


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
# - Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677): a careful account of training
#   faster without losing accuracy.
# - Dahl et al. 2023, [arXiv 2306.07179](https://arxiv.org/abs/2306.07179) (AlgoPerf): time to result as a
#   benchmark, and how to keep it fair.
# - Xiao et al. 2017, [arXiv 1708.07747](https://arxiv.org/abs/1708.07747): the data set.
