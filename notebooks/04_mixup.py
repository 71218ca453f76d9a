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
# # 4. Mixup
#
# Mixup lays one training picture over another, like two slides in a projector, and asks the network how much
# of each it sees. The more it blends, the less often the network sees the same picture twice, and that should keep it
# from memorising its training set.
#
# **When to use it.** Mixup is meant for few labels and many epochs (passes through the training set). In a recorded
# study of such runs, it costs accuracy if they are short, and makes a good network better if they are long. If each
# image is seen only once or twice, do not expect it to help: there is little time to memorise, and blended pictures are
# harder to learn from.
#
# **In short.** In our small experiments, a large alpha (strong blending) slowed learning down and did not prevent
# memorising. A small alpha may prevent a little of it, and made the network slightly better where labels were wrong.
# With right labels, **the schedule decided**: the same mixup that cost accuracy at a constant learning rate gained some
# where the rate fell to zero.
#
# **What we test.** Does mixup *prevent* memorising or merely *slow training down*? After the same number of epochs,
# the two look alike. So we also compare networks that have learned equally much.
#
# About 30 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/04_mixup.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/04_mixup.ipynb).
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
# The *budget* in the line above depends on the device. It sets the network, the image size and the number of
# *seeds*. A seed fixes all random draws of a run. Our data set is Fashion-MNIST: small grey pictures of
# clothing, shoes and bags, in ten classes.

# %%
from fasttricks import BASELINE, Mixup, choose_budget, load

budget = choose_budget()
device = BASELINE.world.device()
data = load().to(device, budget.image_size)

# %% [markdown]
# In this row of pictures, an ankle boot fades into a T-shirt. Above each picture is the answer that mixup wants
# from the network.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import bars, gained, holds, one_line, plot, say, show, train_arms

names = ["ankle boot", "T-shirt", "trouser", "bag"]
labels = data.train.y.tolist()
four = data.train[[labels.index(data.classes.index(name)) for name in names]]  # the first of each
x = data.normalise(four.x).cpu()
steps = [1.0, 0.75, 0.5, 0.25, 0.0]
answers = [f"{lam:g} {names[0]}\n{1 - lam:g} {names[1]}" for lam in steps]
show([lam * x[0] + (1 - lam) * x[1] for lam in steps], answers)
plt.show()

# %% [markdown]
# The network must answer with both shares, not only with the larger class.
#
# ## By hand: four images
#
# We take one image from each of four classes and give each image a partner from the same four. Pixel by pixel,
# we add 0.7 times the image and 0.3 times its partner.

# %%
import torch

lam, other = torch.tensor(0.7), torch.tensor([1, 2, 3, 0])
blended = lam * x + (1 - lam) * x[other]
show(blended, [f"0.7 {names[i]}\n0.3 {names[j]}" for i, j in enumerate(other)])
plt.show()

# %% [markdown]
# What should the network answer? We write each label as a row of probabilities, with a 1 for its class. Then
# we blend these rows with the same shares, 0.7 and 0.3.

# %%
import pandas as pd
from torch.nn.functional import cross_entropy, one_hot

q = one_hot(four.y, 10).float().cpu()
targets = lam * q + (1 - lam) * q[other]
pd.DataFrame(targets.numpy().round(2), index=names, columns=data.classes)

# %% [markdown]
# Each row is the target of one blended image and holds the shares of its two classes.
#
# **Why should this prevent memorising?** Zhang et al. 2017 (arXiv 1710.09412) argue that such targets make
# the network behave linearly between training images: as one image fades into another, the network's answer
# changes in proportion. To memorise one wrong label, a network must do the opposite: it must make a sharp
# exception for one image.
#
# **How much of the partner should we add?** Mixup draws a new share, `lam`, for every batch from the
# distribution Beta(alpha, alpha). Zhang et al. use alpha between 0.1 and 0.4 on ImageNet, 1 on CIFAR-10, and
# up to 32 against wrong labels. We draw 50,000 shares for each of three alphas.

# %%
import numpy as np

rng = np.random.default_rng(0)
draws = {alpha: rng.beta(alpha, alpha, 50_000) for alpha in (0.2, 1.0, 8.0)}
edges = np.linspace(0, 1, 21)
middles = (edges[1:] + edges[:-1]) / 2
lines = {}
for alpha, drawn in draws.items():
    lines[f"alpha {alpha:g}"] = (middles, np.histogram(drawn, edges)[0] / len(drawn))
plot(lines, "lam, share of the first image", "fraction of the draws in a bin of 0.05")
plt.show()

# %%
whole = {which: np.mean(np.minimum(lams, 1 - lams) < 0.05) for which, lams in draws.items()}
say(
    f"With alpha 0.2, {whole[0.2]:.0%} of the draws leave less than 0.05 for the fainter image, so **in most "
    f"batches, the images are hardly blended**. With alpha 8, {whole[8.0]:.0%} of the draws do, so **nearly "
    "every batch is a true blend**. With alpha 1, all shares are equally likely."
)

# %% [markdown]
# ## Write it
#
# The first function blends images `x` and targets `q` with given shares and partners. `lam` may hold one number
# for the whole batch or one for each image, and `view` aligns it with the pixels and the classes. The second
# function draws one share for the batch, and a random permutation that gives each image its partner.


# %%
def mix(x, q, lam, other):
    for_x, for_q = lam.view(-1, 1, 1, 1), lam.view(-1, 1)
    return for_x * x + (1 - for_x) * x[other], for_q * q + (1 - for_q) * q[other]


def mixup_batch(x, q, alpha, rng):
    lam = torch.tensor(rng.beta(alpha, alpha), dtype=x.dtype, device=x.device)
    other = torch.tensor(rng.permutation(len(x)), device=x.device)
    return mix(x, q, lam, other)


# %% [markdown]
# ## Check it
#
# First, our functions must match the package's, and blended rows must still be probabilities. Many programs
# do not blend the targets. Instead, they compute two losses, one with each label, and blend those. For
# cross-entropy, this must give the same number, because the loss is linear in the target.

# %% tags=["nbval-check-output"]
from fasttricks.tricks import mixup

ours, packaged = mix(x, q, lam, other), mixup.mix(x, q, lam, other)
holds(all(map(torch.equal, ours, packaged)), "our mix matches the package's")
ours = mixup_batch(x, q, 0.2, np.random.default_rng(0))
packaged = Mixup(0.2).batch_map(x, q, np.random.default_rng(0))
holds(all(map(torch.allclose, ours, packaged)), "with the same random numbers, so does mixup_batch")
holds(torch.allclose(ours[1].sum(1), torch.ones(4)), "blended rows sum to 1")
logits, y = torch.randn(4, 10), four.y.cpu()
blended_loss = lam * cross_entropy(logits, y) + (1 - lam) * cross_entropy(logits, y[other])
same = torch.allclose(cross_entropy(logits, targets), blended_loss)
holds(same, "blending targets is blending losses")

# %% [markdown]
# Second, we compare `mix` with two libraries. In a batch of N images, timm blends image i with image
# N - 1 - i, and torchvision blends it with the image before it. We replace their random draws with a fixed
# share of 0.7. (The `False` tells timm not to use CutMix, a relative of mixup.) By default, timm also smooths
# labels by 0.1, so we set this to 0.

# %% tags=["nbval-check-output"]
import timm.data
from torchvision.transforms import v2

timms = timm.data.Mixup(label_smoothing=0.0, num_classes=10)
timms._params_per_batch = lambda: (0.7, False)
same = map(torch.allclose, mix(x, q, lam, torch.tensor([3, 2, 1, 0])), timms(x.clone(), y))
holds(all(same), "timm's Mixup gives the same images and targets")
visions = v2.MixUp(num_classes=10)
visions.make_params = lambda inputs: {"lam": 0.7}
same = map(torch.allclose, mix(x, q, lam, torch.tensor([3, 0, 1, 2])), visions(x, y))
holds(all(same), "torchvision's MixUp gives the same images and targets")

# %% [markdown]
# ## In your own loop
#
# In a plain PyTorch script, remove the line marked `-` and add the lines marked `+`. Here, `targets` are class
# numbers. Evaluation stays as it is, on whole images.
#
# ```diff
#  IMAGES, BATCH, LR = 138_368, 128, 1e-3
# +ALPHA = 0.05
#
#  ...
#          inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
# -        loss = F.cross_entropy(net(inputs), targets)
# +        share = torch.distributions.Beta(ALPHA, ALPHA).sample().item()
# +        other = torch.randperm(BATCH, device=device)
# +        inputs = share * inputs + (1 - share) * inputs[other]
# +        outputs = net(inputs)
# +        loss = share * F.cross_entropy(outputs, targets)
# +        loss = loss + (1 - share) * F.cross_entropy(outputs, targets[other])
#          loss.backward()
# ```

# %% [markdown]
# The complete script is [`examples/mixup.py`](../examples/mixup.py). It blends losses, which gives the same
# result. Its `ALPHA` of 0.05 comes from a search for the best short run with all seven tricks.
# That is nearly plain training, so we use larger alphas below. For many epochs, the recorded study below favours an
# alpha of 0.4 and a share of its own for each image. Then the `share` line becomes:
#
# ```python
# share = torch.distributions.Beta(0.4, 0.4).sample((len(inputs), 1, 1, 1)).to(device)
# ```
#
# The losses need a value per image, too: `F.cross_entropy(outputs, targets, reduction="none")`, multiplied by
# `share.flatten()`, and the mean of the sum.
#
# With the package, you add the trick to a *recipe*, which says how to train. `BASELINE` is plain training.
# With `BASELINE + Mixup(0.2)`, the training loop calls `batch_map` on every batch before the network sees it.
# We compare three recipes. The alpha of 0.2 stands for the small alphas of Zhang et al., and 8 for the large
# ones that they use against wrong labels.

# %%
recipes = {"plain": BASELINE, "alpha 0.2": BASELINE + Mixup(0.2), "alpha 8": BASELINE + Mixup(8.0)}

# %% [markdown]
# ## The problem: memorised mistakes
#
# Suppose that our labels were made in a hurry. About two in five are wrong, and nobody knows which. To build
# such a training set, we take 512 images and change about 40% of their labels to another class, drawn at
# random. We judge every network on the same validation images, at most 2,000. Their labels are right, and no
# network trains on them.

# %%
from dataclasses import replace

from fasttricks.data import Split

few = replace(data.subset(512), val=data.val[:2000])
draw = torch.Generator().manual_seed(0)
wrong = torch.rand(512, generator=draw) < 0.4
shift = torch.randint(1, 10, wrong.shape, generator=draw) * wrong
hasty_y = (few.train.y + shift.to(device)) % len(data.classes)
hasty = replace(few, train=Split(few.train.x, hasty_y))

# %% [markdown]
# Here are six images with a wrong label.

# %% tags=["fold"]
rows = wrong.nonzero()[:6, 0].to(device)
given, truth = hasty.train.y[rows].tolist(), few.train.y[rows].tolist()
titles = [
    f"{data.classes[g]}\n(really: {data.classes[t]})" for g, t in zip(given, truth, strict=True)
]
show(data.normalise(few.train.x[rows]), titles)
plt.show()

# %% [markdown]
# The wrong labels follow no rule, so a network can predict all of them only by memorising the images.
#
# `watch` (folded, like the other helpers) trains one network and returns ten looks at it. Each look records the
# epoch, the validation accuracy and two fractions: how many of the right and how many of the wrong training
# labels the network predicts. We always measure on whole images.

# %% tags=["fold"]
from fasttricks.course import probabilities
from fasttricks.loop import fit
from fasttricks.models import begin


def watch(recipe, task, mistaken, epochs, seed):
    torch.manual_seed(seed)
    size = data.channels, len(data.classes), budget.image_size
    net, seen = begin(recipe, budget.model, *size).to(device), []
    count = len(task.train)
    steps = epochs * count // BASELINE.batch
    marks = [round(steps * tenth / 10) for tenth in range(1, 11)]

    def look(images, accuracy):
        if images // BASELINE.batch in marks:
            answers = probabilities(net, data, task.train).argmax(1)
            same = (answers == task.train.y).float().cpu()
            right_part, wrong_part = same[~mistaken].mean().item(), same[mistaken].mean().item()
            seen.append([images / count, accuracy, right_part, wrong_part])

    fit(recipe, net, task, steps * BASELINE.batch, seed, evaluations=10, show=look)
    return seen


# %% [markdown]
# `watch_all` returns these measurements for several recipes with the same seeds. We begin with plain training.

# %% tags=["fold"]
length = min(30, budget.images // 800)  # epochs; fewer in a budget for quick tests
MEASURED = ("epoch", "validation", "right", "wrong")


def watch_all(epochs, task, mistaken):  # epochs: how many each recipe gets
    runs = {}
    with one_line() as tell:
        for name in epochs:
            seen = []
            for seed in range(budget.seeds):
                tell(f"{name}, seed {seed}")
                seen.append(watch(recipes[name], task, mistaken, epochs[name], seed))
            columns = np.array(seen).transpose(2, 0, 1)  # for each measurement: seeds, looks
            runs[name] = dict(zip(MEASURED, columns, strict=True))
        tell(f"{len(epochs) * budget.seeds} runs, {len(task.train)} images each")
    return runs


wrong_runs = watch_all({"plain": length}, hasty, wrong)

# %% [markdown]
# For each seed, `at` returns one measurement at the moment when another first reached a given level. `panels`
# plots one measurement against another. Each line is the mean over the seeds, and the band around it reaches
# from the lowest seed to the highest.

# %% tags=["fold"]
from fasttricks.study.style import COLOURS, STYLES

LABELS = {
    "epoch": "epochs",
    "right": "fraction of right labels predicted",
    "wrong": "fraction of wrong labels predicted",
    "validation": "validation accuracy",
}


def at(run, reached, level, wanted):
    found = []
    for x, y in zip(run[reached], run[wanted], strict=True):
        after = np.argmax(x >= level)  # the first look at that level
        around = slice(max(after - 1, 0), after + 1)
        found.append(np.interp(level, x[around], y[around]).item())
    return found


# %% tags=["fold"]
def panels(runs, *pairs, level=None):
    size = (4.5 * len(pairs), 3.8)
    axes = plt.subplots(1, len(pairs), figsize=size, layout="constrained")[1]
    for axis, (across, up) in zip(axes, pairs, strict=True):
        for (name, run), colour, style in zip(runs.items(), COLOURS, STYLES, strict=False):
            first, last = run[across][:, 0].max(), run[across].max(1).min()
            grid = np.linspace(max(first, last / 2 if across == "right" else 0), last)
            values = np.array([at(run, across, x, up) for x in grid])
            axis.plot(grid, values.mean(1), style, color=colour, label=name)
            axis.fill_between(grid, values.min(1), values.max(1), color=colour, alpha=0.2)
        if across == "right":
            axis.axvline(level, color="grey", lw=1, label="compared here")
        axis.set(xlabel=LABELS[across], ylabel=LABELS[up])
        axis.grid(alpha=0.3)
    axes[0].legend()
    plt.show()


panels(wrong_runs, ("epoch", "right"), ("epoch", "wrong"), ("epoch", "validation"))

# %% tags=["fold"]
last = {key: wrong_runs["plain"][key][:, -1].mean() for key in MEASURED}
fell = 100 * (wrong_runs["plain"]["validation"].max(1).mean() - last["validation"])
say(
    f"After {length} epochs of plain training, the network predicts {last['right']:.0%} of the right labels and "
    f"**{last['wrong']:.0%} of the wrong ones**. If its mistakes were random, it would match about "
    f"{(1 - last['validation']) / 9:.0%} of the wrong ones."
)
say(
    "On the validation images, its accuracy ends "
    + (f"**{fell:.1f} points below its best**." if fell >= 1 else "at its best, or close to it.")
)

# %% [markdown]
# (A random mistake lands on the given wrong label one time in nine.) A network usually learns
# the right labels first and memorises the wrong ones later. Where the validation curve falls, further training
# makes the network worse.
#
# ## Does mixup prevent it?
#
# Now we train with mixup on the same images and labels. Alpha 0.2 gets as many epochs as plain training.
# Alpha 8 gets two and a half times as many, so that we also see what happens later.

# %%
wrong_runs |= watch_all({"alpha 0.2": length, "alpha 8": 5 * length // 2}, hasty, wrong)
panels(wrong_runs, ("epoch", "wrong"), ("epoch", "right"))

# %%
shares = {
    kind: {which: np.mean(at(wrong_runs[which], "epoch", length, kind)) for which in recipes}
    for kind in ("wrong", "right")
}
for kind, share in shares.items():
    say(
        f"After {length} epochs, the networks predict {share['plain']:.0%} of the *{kind}* labels with plain "
        f"training, {share['alpha 0.2']:.0%} with alpha 0.2, and **{share['alpha 8']:.0%}** with alpha 8."
    )

# %% [markdown]
# If a network predicts few of the wrong labels, mixup may have kept it from memorising. Or it may have learned
# less of everything, as in an earlier epoch. To tell the two apart, we compare networks **at equal fit**: where
# they predict the same fraction of the *right* training labels. `equal_fit` chooses 90% or, if a run never
# gets that far, the highest fraction that all runs reach.


# %%
def equal_fit(runs):
    reached = [run["right"].max(1).min() for run in runs.values()]
    return np.floor(100 * min(0.9, *reached)) / 100


level = level_wrong = equal_fit(wrong_runs)
panels(wrong_runs, ("right", "wrong"), ("right", "validation"), level=level)

# %% [markdown]
# During training, a network moves along its line from left to right. If mixup only slows training down, its
# line coincides with the plain one. If mixup prevents memorising, its line is lower in the left panel. If its line is
# higher, it has memorised *more* by the time it fits the right labels equally well.
#
# **The limits of this test.** At equal fit, a slow recipe has seen every wrong label more often, so the test is hard on
# slow recipes. Where a line ends near the grey one, its value there rests on few looks. Where lines
# cross, another level of fit gives another verdict. So we compare at two lower levels, too.
#
# The right panel is about new images. Here, mixup has a rival: *early stopping*, which keeps the network from
# the epoch with the best validation accuracy. It needs validation images with right labels. So we also compare
# each run at the best of its ten looks. (Alpha 8 has more epochs for this. And a best score is slightly optimistic if
# it is chosen on the images that measure it.)
#
# **How we compare.** We compare runs in pairs that share a seed. A difference is *clear* if all pairs agree on
# its sign and the mean is at least 1/√n points for n pairs (0.6 points for three). Then we write *higher* or
# *lower*. We call other differences *about the same* or, if a pair differs by two points or more, *undecided*.
# A point is one percentage point. `compare` returns such verdicts on one recipe against plain training.


# %% tags=["fold"]
def compare(runs, name, measured):
    own, plain = runs[name], runs["plain"]
    end, found = plain["epoch"].max(), {}
    moments = {
        f"after {end:.0f} epochs": ("epoch", end),
        "at equal fit": ("right", equal_fit(runs)),
    }
    for what in measured:
        for moment, (across, where) in moments.items():
            pair = [at(run, across, where, what) for run in (own, plain)]
            chance = 0.1 if what == "validation" else None
            found[f"{LABELS[what]}, {moment}"] = gained(*pair, chance=chance)
    bests = [run["validation"].max(1).tolist() for run in (own, plain)]
    found["validation accuracy, at its best"] = gained(*bests, chance=0.1)
    return found


MIXED = ("alpha 0.2", "alpha 8")
found_wrong = {name: compare(wrong_runs, name, ("wrong", "validation")) for name in MIXED}
pd.DataFrame(found_wrong)

# %% [markdown]
# Does the verdict at equal fit depend on the level of fit? Here are the wrong labels at two lower
# levels, too:

# %%
levels = [max(level - less, 0) for less in (0.2, 0.1, 0)]
at_levels = {
    which: {
        one: gained(*(at(wrong_runs[name], "right", one, "wrong") for name in (which, "plain")))
        for one in levels
    }
    for which in MIXED
}
pd.DataFrame(at_levels).rename(index="right labels {:.0%}".format)

# %% tags=["fold"]
memory = {}
late = {which: np.mean(at(wrong_runs[which], "right", level, "epoch")) for which in recipes}
for which, texts in at_levels.items():
    sides = {"fewer": [], "more": [], "not clearly more or fewer": []}
    for one, text in texts.items():
        side = (
            "fewer"
            if "lower" in text
            else "more"
            if "higher" in text
            else "not clearly more or fewer"
        )
        sides[side].append(f"{one:.0%}")
    told = [f"**{side}** at {' and '.join(some)}" for side, some in sides.items() if some]
    memory[which] = (
        f"has memorised {', and '.join(told)} fit"
        if level >= 0.5
        else "**has learned too little to tell**"
    )

# %%
say(
    "\n".join(
        f"- **{which}** needs {late[which] / late['plain']:.1f} times as many epochs as plain training to predict "
        f"{level:.0%} of the right labels. Of the wrong labels, it {told}."
        for which, told in memory.items()
    )
)

# %% [markdown]
# For new images, which row of the first table matters in practice? If you trust your validation labels, you can
# stop early, and it is the last row. Otherwise, it is the accuracy after the same number of epochs.

# %% tags=["fold"]
best = "validation accuracy, at its best"
fitted = "validation accuracy, at equal fit"
ended = f"validation accuracy, after {length} epochs"
say(
    "On new images, and compared with plain training:\n\n"
    + "\n".join(
        f"- **{which}** is {found_wrong[which][ended]} after {length} epochs, and **{found_wrong[which][best]}** if "
        "we take each network at its best."
        for which in MIXED
    )
)

# %% [markdown]
# Zhang et al. report that mixup reduces
# memorising on CIFAR-10, with 50,000 images and larger networks. Our verdicts hold for a small setting.
#
# ## Right labels
#
# Does mixup help if the labels are *right*? We give the same images their true labels back. All three recipes
# now get one and a half times as many epochs as plain training had before, so that a slow recipe can catch up.

# %%
none = torch.zeros_like(wrong)
right_runs = watch_all(dict.fromkeys(recipes, 3 * length // 2), few, none)
level = equal_fit(right_runs)
panels(right_runs, ("epoch", "validation"), ("right", "validation"), level=level)

# %% tags=["fold"]
trained, validated = (right_runs["plain"][key][:, -1].mean() for key in ("right", "validation"))
say(
    f"At the end of plain training, the network predicts {trained:.0%} of the training labels and "
    f"{validated:.0%} of the validation labels. "
    + (
        "So it **could memorise** its training set."
        if trained > 0.9
        else "It has not memorised its training set."
    )
)

# %% [markdown]
# As before, the table compares validation accuracy with that of plain training.

# %%
found_right = {name: compare(right_runs, name, ("validation",)) for name in MIXED}
pd.DataFrame(found_right)

# %% tags=["fold"]
need = {which: np.mean(at(right_runs[which], "right", level, "epoch")) for which in recipes}
say(
    f"To predict {level:.0%} of the training labels, alpha 8 needs {need['alpha 8'] / need['plain']:.1f} times as many "
    f"epochs as plain training. At that fit, it is {found_right['alpha 8'][fitted]} on new images. At its best, it "
    f"is **{found_right['alpha 8'][best]}**. Alpha 0.2 at its best is **{found_right['alpha 0.2'][best]}**."
)
rising = [which for which in MIXED if right_runs[which]["validation"].mean(0).argmax() == 9]
if "higher" in found_right["alpha 8"][fitted] and "lower" in found_right["alpha 8"][best]:
    say("So alpha 8 is ahead at equal fit, but plain training has gone on to a better fit.")
if rising:
    say(
        f"The line of {' and '.join(rising)} is highest at its end, so a longer run might end higher."
    )

# %% [markdown]
# ## A short run
#
# Now we train for a single epoch, on many different images with right labels. Each image is seen once, so
# there is no memorising to prevent. `train_arms` trains several recipes with the same seeds.

# %%
short_images = budget.images // 5
short = replace(data.subset(short_images), val=few.val)
short_runs = train_arms(recipes, short, images=short_images, evaluations=1)
scores = {name: [run.val_accuracy for run in runs] for name, runs in short_runs.items()}
bars(scores, "validation accuracy", f"one epoch of {short_images:,} images, a dot per seed")
plt.show()

# %% tags=["fold"]
found_short = {which: gained(scores[which], scores["plain"], chance=0.1) for which in MIXED}
say(
    f"After this short run, and compared with plain training, alpha 0.2 is **{found_short['alpha 0.2']}**, and "
    f"alpha 8 is **{found_short['alpha 8']}**."
)

# %% [markdown]
# ## Where it pays: few labels, many epochs, and a schedule
#
# So far, the learning rate was constant, which leaves the final weights noisy. And our runs were long in epochs but not
# in updates of the weights, because 512 images are only four batches:

# %% tags=["fold"]
from fasttricks.course import found_in
from fasttricks.study.pages import equal_gains

study = found_in("few")
recorded = equal_gains(study, f"{study.reference} + mixup")  # images, points, and their interval


def updates(images):
    return f"{int(images) // BASELINE.batch:,}"


longest = 3 * length // 2
say(
    f"- **Our longest run with right labels:** {longest} epochs, {updates(longest * len(few.train))} updates, at a "
    f"constant rate.\n"
    f"- **The longest run of our recorded study:** {recorded[-1][0] / study.labels:.0f} epochs of "
    f"{study.labels:,} images, {updates(recorded[-1][0])} updates, at a rate that falls to zero at the end."
)

# %% [markdown]
# The study has a tenth of the labels and compares one-cycle
# (chapter 3) with and without mixup, with alpha 0.4 and a share drawn for each image. It also tries label smoothing
# (chapter 5). Each point of the figure stands for runs of that length, trained from the start.

# %%
from fasttricks.course import gain_by_epochs

gain_by_epochs("mixup", "smoothing")
plt.show()

# %%
from fasttricks.course import with_few_labels

say(with_few_labels("mixup"))

# %% tags=["fold"]
losses = [images / study.labels for images, _, _, high in recorded if high < 0]
wins = [images / study.labels for images, _, low, _ in recorded if low > 0]
if losses and wins and max(losses) < min(wins):
    say(
        f"So in this study, **mixup loses in runs of {max(losses):.0f} epochs and wins from {min(wins):.0f} epochs "
        "on**."
    )
else:
    say(
        "So in this study, mixup does not simply turn from a loss in short runs to a win in long ones."
    )

# %% [markdown]
# The study differs from our runs with right labels in several ways: the schedule, the alpha, the number of labels and
# the number of updates. Does the schedule matter? We train on our 512 images with a constant rate and with one-cycle,
# each with and without the study's mixup:

# %%
from fasttricks import OneCycle

cycle = BASELINE + OneCycle(peak=5)
blend = Mixup(0.4, per_sample=True)
crossed = {
    "constant, mixup": BASELINE + blend,
    "one-cycle": cycle,
    "one-cycle, mixup": cycle + blend,
}
crossed_runs = train_arms(crossed, few, images=longest * len(few.train), evaluations=1)
ends = {"constant": right_runs["plain"]["validation"][:, -1].tolist()}
ends |= {name: [run.val_accuracy for run in runs] for name, runs in crossed_runs.items()}
bars(ends, "validation accuracy", f"512 labels, {longest} epochs, a dot per seed")
plt.show()

# %% tags=["fold"]
found_flat = gained(ends["constant, mixup"], ends["constant"], chance=0.1)
found_cycle = gained(ends["one-cycle, mixup"], ends["one-cycle"], chance=0.1)
say(
    f"At the end of {updates(longest * len(few.train))} updates, mixup is {found_flat} with a constant rate, and "
    f"**{found_cycle}** with one-cycle. "
    + (
        "So **the schedule matters**: this mixup pays only if the rate falls."
        if "higher" in found_cycle and "higher" not in found_flat
        else "So these runs do not show that the schedule is what matters."
    )
)

# %% [markdown]
# ## Break it
#
# In real code, it is easy to blend the labels wrongly, and no error tells you so. We make three such mistakes
# on purpose. The images are blended correctly. The first mistake leaves the labels whole. The second blends
# each label with that of a *stranger*, an image drawn independently of the partner. The third swaps the shares,
# so that the fainter image gets the larger share of the label.


# %%
from dataclasses import dataclass


@dataclass(frozen=True)
class Mistaken:
    mistake: str
    alpha: float = 0.2
    chapter, slots = 4, ("batch_maps",)

    def batch_map(self, x, q, rng):
        lam = torch.tensor(rng.beta(self.alpha, self.alpha), dtype=x.dtype, device=x.device)
        other, stranger = (torch.tensor(rng.permutation(len(x)), device=x.device) for _ in range(2))
        targets = {
            "labels not blended": q,
            "label of a stranger": mix(x, q, lam, stranger)[1],
            "shares swapped": mix(x, q, 1 - lam, other)[1],
        }
        return mix(x, q, lam, other)[0], targets[self.mistake]


# %% [markdown]
# We train with each mistake as in the short run and compare it with correct mixup, all with alpha 0.2.

# %%
mistakes = ("labels not blended", "label of a stranger", "shares swapped")
trials = {mistake: BASELINE + Mistaken(mistake) for mistake in mistakes}
broken_runs = train_arms(trials, short, images=short_images, evaluations=1)
broken = {"mixup, correct": scores["alpha 0.2"]}
broken |= {name: [run.val_accuracy for run in runs] for name, runs in broken_runs.items()}
bars(broken, "validation accuracy", f"alpha 0.2, {short_images:,} images, a dot per seed")
plt.show()

# %%
costs = {one: gained(broken[one], broken["mixup, correct"], chance=0.1) for one in mistakes}
listed = "\n".join(f"- {one}: **{cost}**" for one, cost in costs.items())
say(f"Compared with correct mixup, the validation accuracy is:\n\n{listed}")

# %% [markdown]
# Alpha 0.2 leaves most images nearly whole, so how can whole labels do harm? Look at both ends of the figure
# of shares: `lam` is near 0 as often as near 1. If it is near 0, the nearly whole image is the *partner*, and
# the label names an image that can hardly be seen. A stranger's label is then no better. With swapped shares,
# the label is wrong in this way at both ends.
#
# You can test for such a mistake without training. Use ten "images" whose pixels *are* their one-hot labels.
# Then blended images and blended labels must be equal.

# %% tags=["nbval-check-output"]
q = torch.eye(10)


def blends_alike(trick):
    pictures, targets = trick.batch_map(q.view(10, 1, 1, 10), q, np.random.default_rng(0))
    return torch.allclose(pictures.view(10, 10), targets)


holds(blends_alike(Mixup(1.0)), "correct mixup passes this test")
for mistake in mistakes:
    holds(not blends_alike(Mistaken(mistake, alpha=1.0)), f"the test catches: {mistake}")

# %% [markdown]
# ## What we have found
#
# Here is the trick's *card*, copied from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline

Markdown(mixup.__doc__)

# %% [markdown]
# The *slot* is the trick's place in the training loop, and several tricks can share a *chain*. Mixup and label
# smoothing (chapter 5) *commute*: whichever comes first, the targets are the same. *Training accuracy* loses
# its meaning where programs measure it on the blended batches. Measure it on whole images.
#
# **Does mixup prevent memorising?**

# %%
say(
    f"Compared with plain training, and of the wrong labels, alpha 8 {memory['alpha 8']}. Alpha 0.2 "
    f"{memory['alpha 0.2']}. To predict {level_wrong:.0%} of the right labels, alpha 8 needs "
    f"{late['alpha 8'] / late['plain']:.1f} times as many epochs as plain training, and alpha 0.2 needs "
    f"{late['alpha 0.2'] / late['plain']:.1f} times."
)

# %% [markdown]
# **When does it pay?** Here are all results in one table. With a constant rate and 512 images, we took each network at
# its best look. In all rows with alpha 0.4 or a single epoch, it is the accuracy at the end.

# %% tags=["fold"]
rows = []
for kind, runs, found in (
    ("40 % wrong", wrong_runs, found_wrong),
    ("right", right_runs, found_right),
):
    for which in MIXED:
        epochs, count = runs[which]["epoch"].max(), len(few.train)
        rows.append(
            (kind, f"{count}", f"{epochs:.0f}", updates(epochs * count), which, found[which][best])
        )
for which in MIXED:
    many = f"{short_images:,}", "1", updates(short_images)
    rows.append(("right", *many, which, found_short[which]))
many = f"{len(few.train)}", f"{longest}", updates(longest * len(few.train))
rows.append(("right", *many, "alpha 0.4", found_flat))
rows.append(("right", *many, "alpha 0.4, one-cycle", found_cycle))
for images, points, low, high in (recorded[0], recorded[-1]):
    many = f"{study.labels:,}", f"{images / study.labels:.0f}", updates(images)
    gain = f"{points:+.1f} points ({low:+.1f} to {high:+.1f}, {study.seeds} seeds)"
    rows.append(("right", *many, "alpha 0.4, one-cycle (recorded)", gain))
columns = ["labels", "images", "epochs", "updates", "mixup", "accuracy, compared with no mixup"]
pd.DataFrame(rows, columns=columns).set_index("labels")

# %% tags=["fold"]
sides = {"higher": [], "lower": []}
for case, found in (("wrong", found_wrong), ("right", found_right)):
    for which in MIXED:
        for side, those in sides.items():
            those += [f"{which} with {case} labels"] * (side in found[which][best])
better, worse = (f"{len(s)} of 4" + f" ({', '.join(s)})" * bool(s) for s in sides.values())
verdict = ""
if trained < 0.9 or last["wrong"] < 0.5:
    verdict = (
        " But plain training did not memorise its labels here, so **this does not test the claim**."
    )
say(
    f"**The card says that mixup pays when the network could memorise its training set.** With 512 labels and a "
    f"constant rate, it is clearly better in {better}, and clearly worse in {worse}.{verdict}"
)
behind = " and ".join(which for which in MIXED if "lower" in found_short[which])
say(
    "**The card says that mixup fails when the run is short.** After one epoch, it is clearly worse with "
    f"**{behind or 'neither alpha'}**."
)

# %% [markdown]
# Our recorded studies also ask how long training takes to reach a fixed accuracy. A ratio above 1 means that mixup
# saves time. Among many verdicts, one can look clear by chance. Where that may be so, the
# text says it.

# %%
say(headline("mixup"))

# %% tags=["fold"]
few_epochs = (
    f"fewer than about {max(losses, default=0):.0f} times" if losses else "only a few times"
)
often = f"{min(wins):.0f} times or more" if wins else "very often"
small = found_wrong["alpha 0.2"][best]
say(
    "**A rule of thumb**, but only a hint, because it comes from one data set and small networks:\n\n"
    f"1. **Each image is seen {few_epochs}:** train without mixup.\n"
    f"2. **Each image is seen {often}, and the rate falls at the end:** try an alpha of about 0.4, with a share for each "
    "image.\n"
    f"3. **Many labels are wrong:** first stop early. A small alpha may add a little: here, alpha 0.2 was {small}."
)

# %% [markdown]
# Compare on your own validation images, with at least three seeds, and keep the best network of each run. With more
# than twenty comparisons on this page, a difference of one or two points in our short runs may be chance.
#
# We tried only a few alphas, no large networks, and no runs of hundreds of epochs, in which mixup may pay. On
# ImageNet, Zhang et al. report a gain of 0.2 points for a ResNet-50 with 90 epochs. With 200 epochs, mixup
# improves by another 1.2 points, and plain training stays the same. fast.ai's notes on
# [imagenette](https://github.com/fastai/imagenette) say that augmentation such as mixup tends to help only in
# runs of 80 epochs or more.
#
# ## Questions
#
# **1. Why must we blend the image and the label with the same share?**
#
# <details><summary>Answer</summary>The target says what is in the picture. With a different share, it
# would ask for an answer that the picture does not support.</details>
#
# **2. The training loss of your mixup run stays well above zero. Is the run stuck?**
#
# <details><summary>Answer</summary>Perhaps not. A blended target has non-zero entropy, and no network can
# push its loss below that value. Exercise 2 computes it.</details>
#
# **3. What does alpha close to zero do?**
#
# <details><summary>Answer</summary>Nearly every share is close to 0 or 1, so nearly every image stays whole.
# This is nearly plain training.</details>
#
# **4. timm's Mixup leaves a batch unmixed, but its targets still do not reach 1. Why?**
#
# <details><summary>Answer</summary>By default, it smooths labels by 0.1.</details>
#
# **5. After ten epochs, a network with a new trick has memorised half as much as one without. Does the trick
# prevent memorising?**
#
# <details><summary>Answer</summary>You cannot tell yet: it may have learned half as much of everything.
# Compare the two at equal fit, and at more than one level.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** Return the loss of a blended batch from the class numbers `y`, without building any
# target rows.


# %%
from fasttricks.course import check


def mixed_loss(logits, y, other, lam):
    raise NotImplementedError


check("mixup", 1, mixed_loss)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def mixed_loss(logits, y, other, lam):
#     from torch.nn.functional import cross_entropy
#
#     return lam * cross_entropy(logits, y) + (1 - lam) * cross_entropy(logits, y[other])
# ```
#
# </details>
#
# **Exercise 2.** Return the lowest mean cross-entropy that any network can reach on target rows `q`.
# Some entries are 0.


# %%
def best_loss(q):
    raise NotImplementedError


check("mixup", 2, best_loss)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def best_loss(q):
#     return torch.special.entr(q).sum(1).mean()
# ```
#
# </details>
#
# **Exercise 3.** CutMix (Yun et al. 2019) pastes instead of blending: a square of the partner replaces the square in the same place
# of the image, and the labels are blended by area. Write it. Images have the shape (N, C, H, W).


# %%
def cutmix(x, q, other, top, left, side):
    raise NotImplementedError


check("mixup", 3, cutmix)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def cutmix(x, q, other, top, left, side):
#     rows, columns = slice(top, top + side), slice(left, left + side)
#     new = x.clone()
#     new[:, :, rows, columns] = x[other][:, :, rows, columns]
#     share = side * side / (x.shape[2] * x.shape[3])
#     return new, (1 - share) * q + share * q[other]
# ```
#
# </details>
#
# ## Further reading
#
# - Zhang et al. 2017, [arXiv 1710.09412](https://arxiv.org/abs/1710.09412): the paper on mixup.
# - Yun et al. 2019, [arXiv 1905.04899](https://arxiv.org/abs/1905.04899): CutMix.
