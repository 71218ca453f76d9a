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
# Lay one picture over another, like two slides in a projector, and tell the network how much of each it
# sees. That is mixup. It is meant to keep a network from memorising its training set. In this chapter, we
# build it in seven lines, check it against two libraries, and then ask a question that is easy to overlook:
# does mixup really *prevent* memorising, or does the network merely learn everything more *slowly*?
#
# About 20 minutes to read, and about two to run.

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
# The *budget* in this line depends on the device. It chooses the network, the image size and the number of
# random seeds. (It also suggests a length for each run. We choose our own lengths below.) Our data set is
# Fashion-MNIST: small grey pictures of clothing, shoes and bags.

# %%
from fasttricks import BASELINE, Mixup, choose_budget, load

budget = choose_budget()
device = BASELINE.world.device()
data = load().to(device, budget.image_size)

# %% [markdown]
# Here is the whole idea in one row: an ankle boot fades into a T-shirt. Above each picture is the answer
# that mixup wants from the network.

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

# %%
say(
    f"There are {len(data.train):,} training images in {len(data.classes)} classes, and more for validation. "
    f"The network is `{budget.model}`, a convolutional network from the library timm."
)

# %% [markdown]
# ## By hand: four images
#
# Now we take one image from each of four classes and give each a partner from the same four. We keep 0.7
# of the image and add 0.3 of its partner, pixel by pixel.

# %%
import torch

lam, other = torch.tensor(0.7), torch.tensor([1, 2, 3, 0])
blended = lam * x + (1 - lam) * x[other]
show(blended, [f"0.7 {names[i]}\n0.3 {names[j]}" for i, j in enumerate(other)])
plt.show()

# %% [markdown]
# In each, you can make out both the image with the larger share and a ghost of its partner. What should the
# network answer? We write each label as a row of probabilities, with a 1 for its class. Then we blend these
# rows with the same weights, 0.7 and 0.3.

# %%
import pandas as pd
from torch.nn.functional import cross_entropy, one_hot

q = one_hot(four.y, 10).float().cpu()
targets = lam * q + (1 - lam) * q[other]
pd.DataFrame(targets.numpy().round(2), index=names, columns=data.classes)

# %% [markdown]
# Each row is the target of one blended image. It has two non-zero entries: the shares of the two classes.
#
# **Why should this prevent memorising?** Zhang et al. 2017 (arXiv 1710.09412) argue that such targets
# encourage linear behaviour between training images: as one image fades into another, the answer should
# change in proportion to the shares. To memorise one wrong label, a network needs the opposite, a sharp
# exception around a single image.
#
# How much of the partner should we add? Mixup draws a new share, `lam`, for every batch from the
# distribution Beta(alpha, alpha). Zhang et al. use alpha between 0.1 and 0.4 on ImageNet, 1 on CIFAR-10, and
# up to 32 against wrong labels. We draw 50,000 shares for each of four alphas.

# %%
import numpy as np

rng = np.random.default_rng(0)
draws = {alpha: rng.beta(alpha, alpha, 50_000) for alpha in (0.05, 0.2, 1.0, 8.0)}
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
    "batches, the images are hardly blended**. With alpha 8, it is "
    f"{whole[8.0]:.0%}: **nearly every batch is a true blend**."
)

# %% [markdown]
# For a small alpha, look at both ends of the figure. In half of these batches, `lam` is near 1 and the first
# image is nearly whole. In the other half, `lam` is near 0 and the *partner* is nearly whole. We shall need
# this when we break mixup on purpose.
#
# ## The record and the card
#
# Here is what our recorded study found about this trick. *Paired seeds* means that runs with and without the
# trick share their random numbers, the *seven tricks* are those of this course, and a ratio above 1 means
# that the second time is shorter (chapter 0 explains such studies). Below it is the trick's card, straight
# from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import mixup

say(headline("mixup"))
Markdown(mixup.__doc__)

# %% [markdown]
# In the formula, `x` and `q` are the images and the targets, and `other` holds the numbers of the partners.
# The *slot* is the place in the training loop that the trick fills, and *chain* means that several tricks may
# fill it in turn. *Label smoothing* is the trick of chapter 5, which also changes targets. The two *commute*:
# whichever comes first, the targets are the same.
#
# The study asks whether mixup reaches a fixed accuracy *sooner*. We ask what it does to *memorising* and to
# *accuracy*, when the labels are wrong, when they are right, and when the run is short.
#
# ## Write it
#
# There is no randomness in the first function: it gets the share and the partners as arguments. `lam` may
# hold one number for the whole batch or one for each image, and `view` aligns it with the pixels and the
# classes. The second function draws them: one share for the batch, and a random permutation as the partners.


# %%
def mix(x, q, lam, other):
    for_x, for_q = lam.view(-1, 1, 1, 1), lam.view(-1, 1)
    return for_x * x + (1 - for_x) * x[other], for_q * q + (1 - for_q) * q[other]


def mixup_batch(x, q, alpha, rng):
    lam = torch.tensor(rng.beta(alpha, alpha), dtype=x.dtype, device=x.device)
    other = torch.tensor(rng.permutation(len(x)), device=x.device)
    return mix(x, q, lam, other)


# %% [markdown]
# These seven lines are the whole trick.
#
# ## Check it
#
# First, we check that our functions match the package's and that blended rows are still probabilities.

# %% tags=["nbval-check-output"]
ours, packaged = mix(x, q, lam, other), mixup.mix(x, q, lam, other)
holds(all(map(torch.equal, ours, packaged)), "our mix matches the package's")
ours = mixup_batch(x, q, 0.2, np.random.default_rng(0))
packaged = Mixup(0.2).batch_map(x, q, np.random.default_rng(0))
holds(all(map(torch.allclose, ours, packaged)), "with the same random numbers, so does mixup_batch")
holds(torch.allclose(ours[1].sum(1), torch.ones(4)), "blended rows sum to 1")

# %% [markdown]
# Second, we compare `mix` with two libraries. timm blends image i with image N - 1 - i, and torchvision blends
# it with the image before it. We replace their random draws with a fixed share of 0.7. (The `False` tells
# timm not to use CutMix, a relative of mixup.) timm also smooths the labels by 0.1 unless you set this to 0.

# %% tags=["nbval-check-output"]
import timm.data
from torchvision.transforms import v2

y = four.y.cpu()
timms = timm.data.Mixup(label_smoothing=0.0, num_classes=10)
timms._params_per_batch = lambda: (0.7, False)
same = map(torch.allclose, mix(x, q, lam, torch.tensor([3, 2, 1, 0])), timms(x.clone(), y))
holds(all(same), "timm's Mixup gives the same images and targets")
visions = v2.MixUp(num_classes=10)
visions.make_params = lambda inputs: {"lam": 0.7}
same = map(torch.allclose, mix(x, q, lam, torch.tensor([3, 0, 1, 2])), visions(x, y))
holds(all(same), "torchvision's MixUp gives the same images and targets")

# %% [markdown]
# Third, timm needs an even batch size, and our version accepts any size. The package can also give each image
# its own share (`per_sample`).

# %% tags=["nbval-check-output"]
seven, rows = torch.rand(7, 1, 28, 28), torch.eye(10)[:7]
mixed = mixup_batch(seven, rows, 1.0, rng)
holds(mixed[0].shape == seven.shape and mixed[1].shape == rows.shape, "a batch of 7 works")
each = Mixup(1.0, per_sample=True).batch_map(torch.rand(500, 1, 1, 1), torch.eye(500), rng)[1]
holds(len(each.diagonal().unique()) > 400, "per_sample draws hundreds of shares for 500 images")

# %% [markdown]
# Fourth, many programs do not blend the targets. Instead, they compute two losses, one with each label, and
# blend those. For cross-entropy, the result is the same number, because the loss is linear in the target.

# %% tags=["nbval-check-output"]
logits, classes, partner = torch.randn(64, 10), torch.arange(64) % 10, torch.randperm(64)
onehots = one_hot(classes, 10).float()
of_targets = cross_entropy(logits, mix(torch.zeros(64, 1, 1, 1), onehots, lam, partner)[1])
own, partners = cross_entropy(logits, classes), cross_entropy(logits, classes[partner])
of_losses = lam * own + (1 - lam) * partners
holds(abs(of_targets - of_losses).item() < 1e-5, "mixing targets is mixing losses")

# %% [markdown]
# ## In your own loop
#
# You do not need this package to use mixup. This is what changes in a plain PyTorch script. Remove the lines
# marked `-` and add those marked `+`. There, `net` is the network, `inputs` is a batch of images, and `targets`
# are their class numbers.
#
# ```diff
#  IMAGES, BATCH, LR = 171_776, 128, 1e-3
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

# %%
say(
    "The whole script is [`examples/mixup.py`](../examples/mixup.py). It blends two losses instead of two rows "
    "of targets, which gives the same number, as we have just checked. Its `ALPHA` of 0.05 was chosen for a "
    f"short run together with the other six tricks. It is so small that {whole[0.05]:.0%} of the batches "
    "leave less than 0.05 for the fainter image. That is nearly plain training, so below we test larger values."
)

# %% [markdown]
# With the package, you add the trick to a *recipe*, which says how to train. `BASELINE` is plain training,
# and with `BASELINE + Mixup(0.2)`, the training loop calls `batch_map` on every batch before the network sees
# it. We compare three recipes from here on. 0.2 is the default of this package and stands for the small values
# that Zhang et al. use on ImageNet. 8 stands for the large ones that they use against wrong labels.

# %%
recipes = {"plain": BASELINE, "alpha 0.2": BASELINE + Mixup(0.2), "alpha 8": BASELINE + Mixup(8.0)}

# %% [markdown]
# ## The problem: memorised mistakes
#
# Suppose that our labels were made in a hurry. About two in five are wrong, and nobody knows which. We build
# such a set: we take 512 images and change the labels of some of them to another class, drawn at random. We
# judge every network of this chapter on the same 2,000 validation images. Their labels are right, and no
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
# Here are six of the images with their new labels. The last three labels are wrong. We pick clear cases, in
# which a shoe is labelled as something else or the other way round.

# %%
shoes = torch.tensor([name in ("sandal", "sneaker", "ankle boot") for name in data.classes])
given, truth = hasty.train.y.cpu(), few.train.y.cpu()
clear_cut = wrong & (shoes[given] != shoes[truth])
rows = torch.cat([(~wrong).nonzero()[:3, 0], clear_cut.nonzero()[:3, 0]])
titles = [data.classes[given[row]] for row in rows]
titles[3:] = [
    f"{data.classes[given[row]]}\n(actually: {data.classes[truth[row]]})" for row in rows[3:]
]
show(data.normalise(few.train.x[rows.to(device)]), titles)
plt.show()

# %% [markdown]
# A wrong label follows no rule, so there is only one way to predict it again and again: memorise that image.
# (Now and then, a mistaken network gives the same wrong answer by chance: it names one of nine other classes,
# and one time in nine that is the class that we drew.)
#
# `watch` trains one network and looks at it ten times. It notes the validation accuracy and, because we know
# which labels are wrong, what fraction of the right labels and of the wrong labels in the training set the
# network predicts. All measurements are on whole images, not on blends.

# %%
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
    return net, seen


# %% [markdown]
# `watch_all` does this for several recipes, each with the same seeds. A seed decides about the first weights,
# the order of the images and the draws of mixup. The images and the wrong labels are drawn only once. So "all
# seeds" tells us how much luck there is in training, but not how much in the choice of the images.
#
# An *epoch* is one pass through the training set. We begin with plain training.

# %%
length = min(30, budget.images // 800)  # fewer in a budget for quick tests
MEASURED = ("epoch", "validation", "right", "wrong")


def watch_all(epochs, task, mistaken):  # epochs: how many each recipe gets
    runs = {}
    with one_line() as tell:
        for name in epochs:
            found = []
            for seed in range(budget.seeds):
                tell(f"{name}, seed {seed}")
                found.append(watch(recipes[name], task, mistaken, epochs[name], seed))
            columns = np.array([seen for net, seen in found]).transpose(2, 0, 1)  # seeds, marks
            runs[name] = dict(zip(MEASURED, columns, strict=True)) | {
                "nets": [net for net, _ in found]
            }
        tell(f"{len(epochs) * budget.seeds} runs, {len(task.train)} images each")
    return runs


wrong_runs = watch_all({"plain": length}, hasty, wrong)

# %%
say(
    f"{int(wrong.sum())} of the {len(wrong)} labels are wrong. Plain training took {length} epochs, which are "
    f"{length * 512 // BASELINE.batch} steps of {BASELINE.batch} images."
)

# %% [markdown]
# The figure has one line for each seed. The last kind of line shows how many of the wrong labels we would
# expect to be predicted by chance.

# %%
from fasttricks.study.style import COLOURS, MARKS, STYLES


def curves(axes, lines, xlabel, ylabel):
    for number, (label, (across, up)) in enumerate(lines.items()):
        look = {"color": COLOURS[number], "ls": STYLES[number], "marker": MARKS[number], "ms": 4}
        axes.plot(across.T, up.T, **look, lw=1, label=[label, *[None] * (len(up) - 1)])
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.03))
    axes.legend(
        fontsize=8, ncols=3 if len(lines) == 3 else 2, loc="lower center", bbox_to_anchor=(0.5, 1)
    )
    axes.grid(alpha=0.3)


LABELS = {
    "epoch": "epochs (times each image was seen)",
    "right": "fraction of right training labels predicted",
    "wrong": "fraction of wrong training labels predicted",
    "validation": "validation accuracy",
}

# %%
plain = wrong_runs["plain"]
parts = {
    "right labels, training images": plain["right"],
    "wrong labels, training images": plain["wrong"],
    "right labels, validation images": plain["validation"],
    "wrong labels expected by chance": (1 - plain["validation"]) / 9,
}
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
lines = {label: (plain["epoch"], part) for label, part in parts.items()}
curves(axes, lines, LABELS["epoch"], "fraction of labels predicted")
plt.show()

# %%
lucky = parts["wrong labels expected by chance"][:, -1].mean()
fell = 100 * (plain["validation"].max(1) - plain["validation"][:, -1]).mean()
say(
    "At the end, the plain network gives the same wrong answer as the label for "
    f"**{plain['wrong'][:, -1].mean():.0%} of the mislabelled images**. By chance, we would expect {lucky:.0%}."
)
say(
    f"Its validation accuracy ends at {plain['validation'][:, -1].mean():.2f}, "
    + (f"**{fell:.0f} points below its best**." if fell >= 1 else "its best, or nearly.")
)

# %% [markdown]
# A network usually learns the right labels first and memorises the wrong ones later. Where the validation line
# falls meanwhile, further training makes it worse.
#
# ## Use it
#
# ### Case 1: wrong labels
#
# Now we train with mixup on the same wrong labels. Alpha 0.2 gets as many epochs as plain training. Alpha 8
# gets two and a half times as many, so that we see what happens later, too.

# %%
wrong_runs |= watch_all({"alpha 0.2": length, "alpha 8": 5 * length // 2}, hasty, wrong)

# %% [markdown]
# `panels` draws one measurement against another, again with one line for each seed.


# %%
def panels(runs, *pairs):
    axes = plt.subplots(1, len(pairs), figsize=(5 * len(pairs), 4), layout="constrained")[1]
    for axis, (across, up) in zip(axes, pairs, strict=True):
        lines = {name: (run[across], run[up]) for name, run in runs.items()}
        curves(axis, lines, LABELS[across], LABELS[up])
        if across == "right":
            axis.set_xlim(0.4, 1.02)
        if up == "validation":
            axis.set_ylim(0.3, 0.9)
    plt.show()


panels(wrong_runs, ("epoch", "wrong"), ("epoch", "right"))

# %% [markdown]
# To put this into numbers, `when` asks each run: when you first reached this level of one measurement, what was
# another? (Between two looks, it interpolates.) We begin with the same number of epochs.


# %%
def when(run, reached, level, wanted):
    found = []
    for x, y in zip(run[reached], run[wanted], strict=True):
        after = np.argmax(x >= level)  # the first mark at that level
        around = slice(max(after - 1, 0), after + 1)
        found.append(np.interp(level, x[around], y[around]).item())
    return found


# %%
kept = {arm: np.mean(when(wrong_runs[arm], "epoch", length, "wrong")) for arm in wrong_runs}
fits = {arm: np.mean(when(wrong_runs[arm], "epoch", length, "right")) for arm in wrong_runs}
say(
    f"After {length} epochs, plain training predicts {kept['plain']:.0%} of the wrong labels, alpha 0.2 "
    f"{kept['alpha 0.2']:.0%}, and alpha 8 {kept['alpha 8']:.0%}."
)
if kept["alpha 8"] < kept["plain"] - 0.1 and fits["alpha 8"] < fits["plain"] - 0.05:
    say(
        "It is tempting to say that alpha 8 prevents memorising. But **it is also behind with the right "
        f"labels**: {fits['alpha 8']:.0%} of them, against {fits['plain']:.0%}. Perhaps it only learns "
        "everything more slowly, as the card says."
    )

# %% [markdown]
# To separate the two, we must not compare the networks at the same time, but **at the same fit**: when they
# predict the same fraction of the *right* training labels. If mixup is only slow, the networks pass through
# the same states, one of them later. Then their lines coincide if we put the right labels on the horizontal
# axis. If mixup prevents memorising, its line lies lower in the left panel.

# %%
panels(wrong_runs, ("right", "wrong"), ("right", "validation"))

# %% [markdown]
# Each point belongs to one of the ten looks, so time runs along the lines. `fit_levels` chooses an early, a
# middle and a late level on the horizontal axis, which every run has reached. At each, `gained` puts
# differences into words by the rule of chapter 0. Mixup is *higher* or *lower* only if that holds for every
# seed and if the mean difference is large enough. Otherwise the two are *about the same* or, if a seed differs
# by two points or more, *undecided*. (This page makes about twenty such comparisons, so a difference of
# one point is only a hint.)


# %%
def fit_levels(runs):
    late = min(0.9, *[run["right"].max(1).min() for run in runs.values()])
    return [np.floor(100 * late * part) / 100 for part in (0.6, 0.8, 1)]


def at_fit(runs, name, wanted, chance=None):
    found = {}
    for level in fit_levels(runs):
        own, plain = (when(runs[one], "right", level, wanted) for one in (name, "plain"))
        found[f"at {level:.0%} of the right labels"] = gained(own, plain, chance=chance)
    return found


small, large = (at_fit(wrong_runs, name, "wrong") for name in ("alpha 0.2", "alpha 8"))
pd.DataFrame({"alpha 0.2": small, "alpha 8": large})

# %% [markdown]
# The table compares the fraction of *wrong* labels that mixup and plain training predict at the same fit:
# lower means that mixup has memorised less.


# %%
def lesson(found):
    words = list(found.values())
    if fit_levels(wrong_runs)[-1] < 0.5:
        return "has learned too little here to tell"
    lower = sum("lower" in said for said in words)
    if lower and "higher" in words[-1]:
        return "memorises less early in training, but more later. It delays memorising rather than preventing it"
    if lower == len(words) or (lower and "lower" in words[-1]):
        where = "at every level of fit" if lower == len(words) else "at the late level of fit"
        return f"memorises less {where}. So it does more than slow the learning down"
    if "higher" in words[-1]:
        return "does not prevent memorising: at the same fit, it memorises more"
    if "undecided" in words[-1]:
        return "differs from seed to seed. These runs cannot say if it does more than slow learning down"
    return "does not clearly differ at the late level. So we see no more than slower learning"


# %% [markdown]
# `times_slower` asks how many times as many epochs alpha 8 needs for the late level of fit. Then we can say what
# the table means.


# %%
def times_slower(runs):
    level = fit_levels(runs)[-1]
    own, plain = (np.mean(when(runs[one], "right", level, "epoch")) for one in ("alpha 8", "plain"))
    return own / plain


slower = times_slower(wrong_runs)

# %%
say(f"- **Alpha 0.2 {lesson(small)}.**\n- **Alpha 8 {lesson(large)}.**")
if "more late" in lesson(large):
    say(
        "A likely reason: with alpha 8, the network hardly ever sees a whole image. So it stays unsure of whole "
        "images for a long time, and meanwhile it sees every wrong label again and again."
    )
say(
    f"To predict {fit_levels(wrong_runs)[-1]:.0%} of the right labels, alpha 8 needs {slower:.1f} times as many "
    f"epochs as plain training. At the end of its {wrong_runs['alpha 8']['epoch'].max():.0f} epochs, it predicts "
    f"{wrong_runs['alpha 8']['wrong'][:, -1].mean():.0%} of the wrong labels."
)

# %% [markdown]
# What does this mean for new images? Their accuracy is in the right panel. A rival of mixup is *early
# stopping*: end plain training when validation accuracy is at its best. For this, you need validation images
# with right labels. So we compare the recipes after the same number of epochs, at the same fit, and each at
# its best, the highest of its ten measurements. (A best that is chosen and scored on the same images is a
# little too high, but that is so for all recipes.)


# %%
def compare(runs, name):
    own, plain = runs[name], runs["plain"]
    ends = [when(run, "epoch", length, "validation") for run in (own, plain)]
    fitted = at_fit(runs, name, "validation", chance=0.1)
    bests = [run["validation"].max(1).tolist() for run in (own, plain)]
    return {
        f"after {length} epochs": gained(*ends, chance=0.1),
        "at the late level of fit": list(fitted.values())[-1],
        "both at their best": gained(*bests, chance=0.1),
    }


found_wrong = {name: compare(wrong_runs, name) for name in ("alpha 0.2", "alpha 8")}
pd.DataFrame(found_wrong)

# %% [markdown]
# The table compares validation accuracy with that of plain training. `outcome` puts a column into a few words,
# always by the same rule.


# %%
def outcome(found):
    end, *others = found.values()
    if not others:  # case 3, below
        return (
            "better" if "higher" in end else "worse" if "lower" in end else "not clearly different"
        )
    if "higher" in others[-1]:
        return "better than plain training, even if that is stopped at its best"
    if "lower" in others[-1]:
        return "worse, even at its best"
    if "higher" in end:
        return (
            f"better after {length} epochs, but not clearly better than plain training at its best"
        )
    if "lower" in end:
        return f"worse after {length} epochs, but not clearly worse at its best"
    return "not clearly different"


# %%
tops = {arm: wrong_runs[arm]["validation"].argmax(1) for arm in wrong_runs}
bests = {arm: wrong_runs[arm]["epoch"][0][tops[arm]].mean() for arm in wrong_runs}
say(
    f"With wrong labels, mixup with alpha 0.2 is **{outcome(found_wrong['alpha 0.2'])}**. Alpha 8 is "
    f"**{outcome(found_wrong['alpha 8'])}**. On average, plain training was at its best after "
    f"{bests['plain']:.0f} epochs, alpha 0.2 after {bests['alpha 0.2']:.0f}, and alpha 8 after "
    f"{bests['alpha 8']:.0f}."
)

# %% [markdown]
# ### Case 2: right labels
#
# Does mixup help if the labels are *right*? We give the same images their true labels back. This time, all
# three recipes get half as many epochs again as plain training in case 1, so that a slow one has time to catch up.

# %%
none = torch.zeros_like(wrong)
right_runs = watch_all(dict.fromkeys(recipes, 3 * length // 2), few, none)
panels(right_runs, ("epoch", "validation"), ("right", "validation"))

# %%
training = right_runs["plain"]["right"][:, -1].mean()
validation = right_runs["plain"]["validation"][:, -1].mean()
able = "**could** memorise" if training > 0.9 else "did **not** memorise"
say(
    f"At its end, plain training predicts {training:.0%} of the training labels and {validation:.0%} of the "
    f"validation labels. So it {able} its training set, which is the card's condition for mixup."
)

# %% [markdown]
# This is the same table as before, for right labels:

# %%
found_right = {name: compare(right_runs, name) for name in ("alpha 0.2", "alpha 8")}
pd.DataFrame(found_right)

# %%
slower_right = times_slower(right_runs)
say(
    f"With right labels, alpha 0.2 is **{outcome(found_right['alpha 0.2'])}**, and alpha 8 is "
    f"**{outcome(found_right['alpha 8'])}**. To predict {fit_levels(right_runs)[-1]:.0%} of the training labels, alpha "
    f"8 needs {slower_right:.1f} times as many epochs as plain training."
)

# %% [markdown]
# A trap when you measure this yourself: many training logs print an accuracy on the *blended* batches. This
# is what the card means when it says that training accuracy loses its meaning. We evaluate the networks that
# were trained with alpha 0.2 on their training images, first whole and then blended.

# %%
x, y = data.normalise(few.train.x), few.train.y
blends, _ = Mixup(0.2, per_sample=True).batch_map(
    x, one_hot(y, 10).float(), np.random.default_rng(0)
)
accuracies = {"whole": [], "blended": []}
for net in right_runs["alpha 0.2"]["nets"]:
    with torch.no_grad():
        for kind, images in (("whole", x), ("blended", blends)):
            right = net.eval()(images).argmax(1) == y
            accuracies[kind].append(right.float().mean().item())

# %%
on_whole, on_blends = np.mean(accuracies["whole"]), np.mean(accuracies["blended"])
say(
    f"Training accuracy is {on_whole:.1%} on whole images, and **{on_blends:.1%}** on blended ones."
)

# %% [markdown]
# In half of the blends, the partner has the larger share, and naming it counts as a mistake. So measure
# training accuracy on whole images.
#
# ### Case 3: a short run
#
# Last, a run of a single epoch: many different images with right labels, each seen once. `train_arms` trains
# several recipes, which it calls arms, with the same seeds.

# %%
short_images = budget.images // 5
short = replace(data.subset(short_images), val=few.val)
short_runs = train_arms(recipes, short, images=short_images, evaluations=1)
scores = {name: [run.val_accuracy for run in runs] for name, runs in short_runs.items()}
bars(scores, "validation accuracy", f"one epoch of {short_images:,} images, a dot per seed")
plt.show()

# %%
ends = {arm: gained(scores[arm], scores["plain"], chance=0.1) for arm in ("alpha 0.2", "alpha 8")}
listed = "\n".join(f"- {arm}: **{end}**" for arm, end in ends.items())
say(f"Compared with plain training, the validation accuracy after this short run is:\n\n{listed}")

# %% [markdown]
# ## Break it
#
# The line that blends the labels is where real code goes wrong, and no error is raised when it does. We make
# three such mistakes on purpose. In each, the images are blended correctly. The first forgets to blend the
# labels. The second blends each label with that of a stranger, an image other than the partner. The third
# swaps the shares, so that the fainter image gets the larger share of the label.


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
# We train each mistake as in case 3 and compare it with the correct mixup of that case. All use alpha 0.2.

# %%
mistakes = ("labels not blended", "label of a stranger", "shares swapped")
trials = {mistake: BASELINE + Mistaken(mistake) for mistake in mistakes}
broken_runs = train_arms(trials, short, images=short_images, evaluations=1)
broken = {"mixup, correct": scores["alpha 0.2"]}
broken |= {name: [run.val_accuracy for run in runs] for name, runs in broken_runs.items()}
bars(broken, "validation accuracy", f"alpha 0.2, {short_images:,} images, a dot per seed")
plt.show()

# %%
costs = [gained(broken[one], broken["mixup, correct"], chance=0.1) for one in mistakes]
listed = [f"- {one}: **{cost}**" for one, cost in zip(mistakes, costs, strict=True)]
say("Compared with correct mixup, the validation accuracy is:\n\n" + "\n".join(listed))

# %% [markdown]
# How can it cost so much to leave the labels whole, although alpha 0.2 leaves most images nearly whole, too?
# Remember the two ends of the figure: in half of the batches, the nearly whole image is the *partner*. Then
# the label names an image that can hardly be seen. We compute for each mistake how much of the label, on
# average, names what is in the picture.

# %%
drawn = draws[0.2]
fitting = {
    "mixup, correct": 1.0,
    "labels not blended": drawn.mean(),  # only the share of the first image is named
    "label of a stranger": drawn.mean(),
    "shares swapped": 2 * np.minimum(drawn, 1 - drawn).mean(),  # the smaller share of each
}
means = {name: np.mean(found) for name, found in broken.items()}
table = {"part of the label that fits the picture": fitting, "validation accuracy": means}
pd.DataFrame(table).round(2)

# %%
ordered = means["shares swapped"] < min(means[one] for one in mistakes[:2]) and all(
    "lower" in c for c in costs
)
say(
    "**The less of the label fits the picture, the lower the accuracy.**"
    if ordered
    else "In these runs, the accuracies do not follow this order clearly."
)

# %% [markdown]
# With a smaller alpha or in a longer run, such a mistake may cost less and live in real code for years. Test
# it without training: use ten "images" whose pixels *are* their one-hot labels. Then blended images and
# blended labels must be the same numbers.

# %% tags=["nbval-check-output"]
q = torch.eye(10)


def blends_alike(trick):
    pictures, targets = trick.batch_map(q.view(10, 1, 1, 10), q, np.random.default_rng(0))
    return torch.allclose(pictures.view(10, 10), targets)


holds(blends_alike(Mixup(1.0)), "correct mixup passes this test")
for mistake in mistakes:
    holds(not blends_alike(Mistaken(mistake, alpha=1.0)), f"the test catches: {mistake}")

# %% [markdown]
# ## What the card promised, and what we saw
#
# Here are the outcomes of the three cases, compared with plain training.

# %%
found_short = {}
for name in ("alpha 0.2", "alpha 8"):
    difference = gained(scores[name], scores["plain"], chance=0.1)
    found_short[name] = {"after one epoch": difference}
cases = {
    "1 (wrong labels)": found_wrong,
    "2 (right labels)": found_right,
    "3 (short run)": found_short,
}
outcomes = {}
for case, found in cases.items():
    outcomes[case] = {name: outcome(measured) for name, measured in found.items()}
pd.DataFrame(outcomes).T

# %%
able = list(cases)[:2]
clear_cases = [c for c in able if any("even if that" in text for text in outcomes[c].values())]
at_first = [
    c for c in able if any("but not clearly better" in text for text in outcomes[c].values())
]
behind = [c for c in cases if "worse" in outcomes[c]["alpha 8"]]
if clear_cases:
    pays = f"this held in case {' and '.join(clear_cases)}"
elif at_first:
    pays = (
        f"this held in case {' and '.join(at_first)}, unless plain training is stopped at its best"
    )
else:
    pays = "this did not hold in case 1 or in case 2"
fails = f"alpha 8 was worse in case {' and '.join(behind)}" if behind else "this was not confirmed"
say(
    f"- *Pays when the net could memorise its training set*: {pays}.\n"
    f"- *Fails when the run is short*: {fails}.\n"
    f"- *It then slows the learning down*: to reach the late level, alpha 8 took {slower:.1f} times as many "
    f"epochs with wrong labels, and {slower_right:.1f} times as many with right ones.\n"
    f"- Does it prevent memorising? Alpha 0.2 {lesson(small)}. Alpha 8 {lesson(large)}."
)

# %% [markdown]
# Some things remain open. We did not test the *large nets* of the card. And our runs are not very long:
# fast.ai's notes on [imagenette](https://github.com/fastai/imagenette) say that augmentation such as mixup
# tends to help only in runs of 80 epochs and more.
#
# **A rule of thumb**, from what we saw:


# %%
def advice(case):
    better = {name: words for name, words in outcomes[case].items() if "better" in words}
    ahead = [name for name, words in better.items() if "but not" not in words]
    worse = {name: words for name, words in outcomes[case].items() if words.startswith("worse")}
    slow = [name for name, words in worse.items() if "but not" in words]
    avoid = [name for name in worse if name not in slow]
    if ahead:
        todo = f"use mixup with {' or '.join(ahead)}, and stop at the best validation accuracy"
    elif better:
        todo = (
            "stop early if you have validation images with right labels. Otherwise, use mixup with "
            f"{' or '.join(better)}"
        )
    else:
        todo = "train without mixup, because it brought no clear gain here"
    todo += f". Avoid {' and '.join(avoid)}" if avoid else ""
    return todo + (f". With {' and '.join(slow)}, plan for a longer run" if slow else "")


# %%
say(
    f"- If many labels are wrong and the network has time to memorise them: {advice('1 (wrong labels)')}.\n"
    f"- If the labels are right, even if the network has memorised them: {advice('2 (right labels)')}.\n"
    f"- If the run is short: {advice('3 (short run)')}.\n"
    "- If mixup seems to prevent something, compare at the same fit, not only at the same time."
)

# %% [markdown]
# This advice comes from one data set and one small network. Before you rely on it, compare with and without
# mixup on your own validation images, with at least three seeds.
#
# ## Questions
#
# **1. Why must image and label share one coefficient?**
#
# <details><summary>Answer</summary>The target says what is in the picture. With a different share, it
# would ask for an answer that the picture does not support.</details>
#
# **2. Your mixup run has a training loss that stays well above zero. Is it stuck?**
#
# <details><summary>Answer</summary>Perhaps not. A blended target has non-zero entropy, and no network can
# push its loss below that value. Exercise 2 computes it.</details>
#
# **3. What does alpha close to zero do?**
#
# <details><summary>Answer</summary>Nearly every share is 0 or 1, so nearly every image stays whole. This
# is plain training, with the batch reordered at most.</details>
#
# **4. In a batch that it leaves unmixed, timm's Mixup still gives targets that do not reach 1. Why?**
#
# <details><summary>Answer</summary>It smooths labels by 0.1 unless you tell it otherwise. If you added
# your own label smoothing, you would smooth twice.</details>
#
# **5. After ten epochs, a network with a new trick has memorised half as much as one without. Does the trick
# prevent memorising?**
#
# <details><summary>Answer</summary>You cannot tell yet: it may have learned half as much of everything.
# Compare the two when they predict the same fraction of the right labels.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** Return the loss of a blended batch from the class numbers `y`, without making any
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
# **Exercise 3.** CutMix (Yun et al. 2019) is a relative of mixup that pastes instead of blending: a square
# of the partner replaces the same square of the image, and the labels are blended by area. Write it.
# Images have the shape (N, C, H, W).


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
# - Zhang et al. 2017, [arXiv 1710.09412](https://arxiv.org/abs/1710.09412): the paper; its list of
#   experiments is worth copying.
# - Yun et al. 2019, [arXiv 1905.04899](https://arxiv.org/abs/1905.04899): CutMix.
