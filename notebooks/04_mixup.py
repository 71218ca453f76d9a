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
# Mixup blends each training image with another one, and blends their labels in the same
# proportions. The network must say how much of each image it sees.
#
# **What you add.** In your training loop, replace `loss = F.cross_entropy(net(inputs), targets)`
# by:
#
# ```python
# lam = torch.distributions.Beta(0.4, 0.4).sample((len(inputs),)).to(inputs.device)
# other = torch.randperm(len(inputs), device=inputs.device)
# share = lam.view(-1, 1, 1, 1)  # one per image, for images of the shape (N, C, H, W)
# outputs = net(share * inputs + (1 - share) * inputs[other])
# own = F.cross_entropy(outputs, targets, reduction="none")
# others = F.cross_entropy(outputs, targets[other], reduction="none")
# loss = (lam * own + (1 - lam) * others).mean()
# ```
#
# - `targets` are class numbers. If your loss has `label_smoothing`, give it to both calls.
# - Measure accuracy on whole images, for the training set, too. On blended batches it means little.
# - The 0.4 is *alpha*, which says how strongly images are blended. Our long runs have used no other.
#
# **Use it when** you train for many epochs under a one-cycle schedule and want the highest
# accuracy. We have seen this gain with 5,500 labels only. In a few small runs, it also helped where
# many labels were wrong. **Leave it when** each image is seen only a few times, or when you only
# need moderate accuracy quickly.
#
# **What it does not do.** Do not expect it to speed up short runs. And our small runs with wrong
# labels (at most three seeds) do not settle whether it *prevents* memorising, because it also slows
# the learning of the right labels.
#
# About 25 minutes to read, and four to run.

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
# The *budget* in the line above depends on the device. It sets the network, the image size and the
# number of *seeds*. A seed fixes all random draws of a run. Our data set is Fashion-MNIST: small
# grey pictures of clothing, shoes and bags, in ten classes.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy, one_hot

from fasttricks import BASELINE, Mixup, OneCycle, choose_budget, load
from fasttricks.course import gain_by_epochs, gained, headline, holds, plot, say, show

budget = choose_budget()
device = BASELINE.world.device()
data = load().to(device, budget.image_size)

# %% [markdown]
# ## What our records say
#
# Our *studies* are many runs of small ResNets on Fashion-MNIST, recorded beforehand
# ([chapter 0](00_baseline.ipynb)). In the study that has the settings of the lines above, a tenth of
# the training images is shown for many *epochs* (passes through the training set). The learning
# rate follows one-cycle (chapter 3): it rises and then falls to practically zero. What does mixup
# change?

# %% tags=["fold"]
from fasttricks.course import found_in
from fasttricks.study.findings import times
from fasttricks.study.pages import equal_gains

study = found_in("few")
mixed = f"{study.reference} + mixup"
recorded = [(n / study.labels, *found) for n, *found in equal_gains(study, mixed)]
lines = [
    f"- In runs of {epochs:.0f} epochs: **{points:+.1f} points** of accuracy "
    f"(95% interval: {low:+.1f} to {high:+.1f})."
    for epochs, points, low, high in (recorded[0], recorded[-1])
]
losses = [epochs for epochs, _, _, high in recorded if high < 0]
wins = [epochs for epochs, _, low, _ in recorded if low > 0]
if losses and wins and max(losses) < min(wins):
    lines.append(
        f"- It clearly loses in runs of {max(losses):.0f} epochs, and clearly gains in runs of "
        f"{min(wins):.0f} or more."
    )

# %% tags=["fold"]
reached = [row for row in study.targets[mixed] if np.isfinite(row[2:]).all()]
easy, _, slow, *slow_span = reached[0]
hard, _, quick, *quick_span = reached[-1]
lines.append(
    f"- To an accuracy of {easy:.3f}, training is {times(slow)} times as fast with mixup "
    f"({' to '.join(map(times, slow_span))}; above 1, it is faster). To {hard:.3f}, about the "
    f"highest without mixup, it is {times(quick)} times as fast "
    f"({' to '.join(map(times, quick_span))})."
)
tops = [
    max(np.mean(scores) for _, *scores in study.accuracies[arm]) for arm in (study.reference, mixed)
]
lines.append(
    f"- The best mean accuracy of any length is {tops[0]:.3f} without mixup and "
    f"**{tops[1]:.3f}** with it."
)
say(f"With {study.labels:,} labels and {study.seeds} seeds:\n\n" + "\n".join(lines))
if slow_span[1] < 1 < quick_span[0]:
    say(
        "So mixup costs time on the way to an easy accuracy, and may save time near the highest "
        "one. (The intervals do not allow for asking so many questions, so do not trust one that "
        "comes close to 1.)"
    )

# %% [markdown]
# Each point of the figure compares whole runs of that length.

# %%
gain_by_epochs("mixup")
plt.show()

# %% [markdown]
# All our studies asked for the time to one accuracy that was fixed in advance. The one with a tenth
# of the labels is the study above. All others are short runs with an alpha of 0.05 and one share
# per batch, which hardly blends. (*The other six tricks* are those of the other chapters.)

# %%
say(headline("mixup"))

# %% [markdown]
# So mixup is for the last points of accuracy, not for a quick start. We now ask two questions. Does
# it *prevent* memorising or merely *slow learning down*? And does its gain depend on the schedule?
#
# ## By hand: four images
#
# In this row of pictures, an ankle boot fades into a T-shirt. Above each picture is the target that
# the network is trained towards.

# %%
names = ["ankle boot", "T-shirt", "trouser", "bag"]
labels = data.train.y.tolist()
four = data.train[[labels.index(data.classes.index(name)) for name in names]]  # the first of each
x, y = data.normalise(four.x).cpu(), four.y.cpu()
steps = [1.0, 0.75, 0.5, 0.25, 0.0]
answers = [f"{lam:g} {names[0]}\n{1 - lam:g} {names[1]}" for lam in steps]
show([lam * x[0] + (1 - lam) * x[1] for lam in steps], answers)
plt.show()

# %% [markdown]
# Now we give each of four images a partner from the same four. Pixel by pixel, we add 0.7 times the
# image and 0.3 times its partner. We write each label as a row of probabilities and blend these
# rows in the same proportions.

# %%
lam, other = torch.tensor(0.7), torch.tensor([1, 2, 3, 0])
blended = lam * x + (1 - lam) * x[other]
q = one_hot(y, 10).float()
blended_q = lam * q + (1 - lam) * q[other]
show(blended, [f"0.7 {names[i]}\n0.3 {names[j]}" for i, j in enumerate(other)])
plt.show()
pd.DataFrame(blended_q.numpy().round(2), index=names, columns=data.classes)

# %% [markdown]
# Each row is the target of one blended image and holds the shares of its two classes.
#
# **Why might this prevent memorising?** Zhang et al. 2017 (arXiv 1710.09412) argue that such
# targets make the network behave linearly between training images: as one image fades into another,
# its answer changes in proportion. To memorise one wrong label, it must do the opposite: make a
# sharp exception for one image.
#
# **How much of the partner should we add?** Mixup draws each share, `lam`, from the distribution
# Beta(alpha, alpha). Zhang et al. use alpha between 0.1 and 0.4 on ImageNet, 1 on CIFAR-10, and up
# to 32 against wrong labels. Here are 50,000 shares for each of three alphas.

# %% tags=["fold"]
rng = np.random.default_rng(0)
draws = {alpha: rng.beta(alpha, alpha, 50_000) for alpha in (0.4, 1.0, 8.0)}
edges = np.linspace(0, 1, 21)
middles = (edges[1:] + edges[:-1]) / 2
lines = {}
for alpha, drawn in draws.items():
    lines[f"alpha {alpha:g}"] = (middles, np.histogram(drawn, edges)[0] / len(drawn))
plot(lines, "lam, share of the first image", "fraction of the draws in a bin of 0.05")
plt.show()

# %% tags=["fold"]
faint = {which: np.mean(np.minimum(lams, 1 - lams) < 0.1) for which, lams in draws.items()}
say(
    f"With alpha 0.4, {faint[0.4]:.0%} of the draws leave less than 0.1 for the fainter image, so "
    f"**many images are hardly blended**. With alpha 8, hardly any draw does, so **nearly every "
    "image is a true blend**. With alpha 1, all shares are equally likely."
)

# %% [markdown]
# ## Write it
#
# The first function blends images `x` and targets `q` with given shares and partners. `lam` may
# hold one number for the whole batch or one for each image, and `view` aligns it with the pixels
# and the classes. The second function draws a share for each image, and a random permutation that
# gives each image its partner. (Zhang et al. draw one share per batch.)


# %%
def mix(x, q, lam, other):
    for_x, for_q = lam.view(-1, 1, 1, 1), lam.view(-1, 1)
    return for_x * x + (1 - for_x) * x[other], for_q * q + (1 - for_q) * q[other]


def mixup_batch(x, q, alpha, rng):
    lam = torch.tensor(rng.beta(alpha, alpha, len(x)), dtype=x.dtype, device=x.device)
    other = torch.tensor(rng.permutation(len(x)), device=x.device)
    return mix(x, q, lam, other)


# %% [markdown]
# ## Check it
#
# Blended rows must still be probabilities. The lines at the top of the page blend two losses
# instead of two targets. This must give the same number, because cross-entropy is linear in the
# target.

# %% tags=["nbval-check-output"]
blended, blended_q = mixup_batch(x, q, 0.4, np.random.default_rng(0))
holds(torch.allclose(blended_q.sum(1), torch.ones(4)), "blended rows sum to 1")
logits, lams = torch.randn(4, 10), torch.tensor([0.9, 0.6, 0.2, 0.7])
own = cross_entropy(logits, y, reduction="none")
others = cross_entropy(logits, y[other], reduction="none")
loss = (lams * own + (1 - lams) * others).mean()
same = torch.allclose(cross_entropy(logits, mix(x, q, lams, other)[1]), loss)
holds(same, "blending targets is blending losses")

# %% [markdown]
# Our functions must also match this package and two libraries, `timm.data.Mixup` and torchvision's
# `v2.MixUp`. By default, both draw one share per batch, and timm also smooths labels by 0.1.

# %% tags=["nbval-check-output", "fold"]
import timm.data
from torchvision.transforms import v2

from fasttricks.tricks import mixup

ours, packaged = mix(x, q, lam, other), mixup.mix(x, q, lam, other)
holds(all(map(torch.equal, ours, packaged)), "our mix matches the package's")
packaged = Mixup(0.4, per_sample=True).batch_map(x, q, np.random.default_rng(0))
same = map(torch.allclose, (blended, blended_q), packaged)
holds(all(same), "with the same random numbers, so does mixup_batch")
timms = timm.data.Mixup(label_smoothing=0.0, num_classes=10)
timms._params_per_batch = lambda: (0.7, False)  # False: no CutMix, a relative of mixup
same = map(torch.allclose, mix(x, q, lam, torch.tensor([3, 2, 1, 0])), timms(x.clone(), y))
holds(all(same), "timm's Mixup gives the same images and targets")
visions = v2.MixUp(num_classes=10)
visions.make_params = lambda inputs: {"lam": 0.7}
same = map(torch.allclose, mix(x, q, lam, torch.tensor([3, 0, 1, 2])), visions(x, y))
holds(all(same), "torchvision's MixUp gives the same images and targets")

# %% [markdown]
# ## Use it
#
# With the package, you add the trick to a *recipe*, which says how to train. `BASELINE` is the
# *plain* training of chapter 0: AdamW with a constant learning rate of 0.001 and batches of 128
# images. With the trick, the training loop calls `batch_map` on every batch before the network sees
# it. We compare the alpha of 0.4 with 8, one of the large alphas that are meant for wrong labels.

# %%
recipes = {
    "plain": BASELINE,
    "alpha 0.4": BASELINE + Mixup(0.4, per_sample=True),
    "alpha 8": BASELINE + Mixup(8.0, per_sample=True),
}

# %% [markdown]
# <details><summary>Mixup in a complete script, for short runs</summary>
#
# [`examples/mixup.py`](../examples/mixup.py) adds the lines marked `+` to a plain script. Its settings
# were tuned for very short runs with all seven tricks. For long runs, take the lines at the top of the
# page.
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
#
# </details>
#
# ## The problem: memorised mistakes
#
# What happens if many labels are wrong? We take 512 images and change about 40% of their labels to
# another class, drawn at random. We judge every network on the same 2,000 validation images
# (`few.val`). On 2,000 others, `picking`, we later choose the epoch at which to stop. The labels of
# both are right.

# %%
from dataclasses import dataclass, replace

from fasttricks.data import Split

few = replace(data.subset(512), val=data.val[:2000])
picking = data.val[2000:4000]
draw = torch.Generator().manual_seed(0)
wrong = torch.rand(512, generator=draw) < 0.4
shift = torch.randint(1, 10, wrong.shape, generator=draw) * wrong
hasty_y = (few.train.y + shift.to(device)) % len(data.classes)
hasty = replace(few, train=Split(few.train.x, hasty_y))

# %% [markdown]
# Here are six images with a wrong label.

# %% tags=["fold"]
some = wrong.nonzero()[:6, 0].to(device)
given, truth = hasty.train.y[some].tolist(), few.train.y[some].tolist()
titles = [
    f"{data.classes[g]}\n(really: {data.classes[t]})" for g, t in zip(given, truth, strict=True)
]
show(data.normalise(few.train.x[some]), titles)
plt.show()

# %% [markdown]
# The wrong labels follow no rule, so a network can predict all of them only by memorising the
# images.
#
# **How we measure.** Always on whole images, and after a *refresh* of batch norm. Batch norm
# normalises by stored averages. At a constant rate they lag behind the network (chapter 3), and
# with mixup they describe blended images. The refresh computes them anew from whole training images
# and changes no weight.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.course import probabilities


def refresh(net, split):
    update_bn((data.normalise(some) for some in split.x[:2048].split(256)), net)


def hits(net, split):  # for each image, 1 if the network predicts its label
    return (probabilities(net, data, split).argmax(1) == split.y).float().cpu()


def score(net, trained_on):
    refresh(net, trained_on)
    return hits(net, few.val).mean().item()


# %% [markdown]
# `watch_all` (folded) trains recipes, each for its own number of epochs. Ten times per run, it
# measures the validation accuracies, and what fraction of the right and of the wrong training
# labels the network predicts. `panels` draws the results. All seeds share the images and the wrong
# labels.

# %% tags=["fold"]
from fasttricks.course import one_line
from fasttricks.loop import fit
from fasttricks.models import begin


def watch(recipe, epochs, seed):
    torch.manual_seed(seed)
    size = data.channels, len(data.classes), budget.image_size
    net, seen = begin(recipe, budget.model, *size).to(device), []
    count = len(hasty.train)
    steps = epochs * count // BASELINE.batch
    marks = [round(steps * tenth / 10) for tenth in range(1, 11)]

    def look(images, _):
        if images // BASELINE.batch in marks:
            refresh(net, hasty.train)
            same = hits(net, hasty.train)
            parts = same[~wrong], same[wrong], hits(net, few.val), hits(net, picking)
            seen.append([images / count, *(part.mean().item() for part in parts)])

    fit(recipe, net, hasty, steps * BASELINE.batch, seed, evaluations=1, show=look)
    return seen


# %% tags=["fold"]
MEASURED = ("epoch", "right", "wrong", "validation", "picking")


def watch_all(epochs):  # how many each recipe gets
    runs = {}
    with one_line() as tell:
        for name in epochs:
            seen = []
            for seed in range(budget.seeds):
                tell(f"{name}, seed {seed}")
                seen.append(watch(recipes[name], epochs[name], seed))
            columns = np.array(seen).transpose(2, 0, 1)  # for each measurement: seeds, times
            runs[name] = dict(zip(MEASURED, columns, strict=True))
        count = len(epochs) * budget.seeds
        tell(f"{count} {'runs' if count > 1 else 'run'}, {len(hasty.train)} images each")
    return runs


# %% tags=["fold"]
from fasttricks.study.style import COLOURS, STYLES

LABELS = {
    "epoch": "epochs",
    "right": "fraction of right labels predicted",
    "wrong": "fraction of wrong labels predicted",
    "validation": "validation accuracy",
}


def at(run, reached, level, wanted):
    """For each seed, one measurement at the moment when another first reached a level."""
    found = []
    for x, y in zip(run[reached], run[wanted], strict=True):
        after = np.argmax(x >= level)
        around = slice(max(after - 1, 0), after + 1)
        found.append(np.interp(level, x[around], y[around]).item())
    return found


# %% tags=["fold"]
def draw_lines(axis, runs, across, up):
    for (name, run), colour, style in zip(runs.items(), COLOURS, STYLES, strict=False):
        first, last = run[across][:, 0].max(), run[across].max(1).min()
        grid = np.linspace(max(first, last / 2 if across == "right" else 0), last)
        values = np.array([at(run, across, x, up) for x in grid])
        axis.plot(grid, values.mean(1), style, color=colour, label=name)
        axis.fill_between(grid, values.min(1), values.max(1), color=colour, alpha=0.2)
    axis.set(xlabel=LABELS[across], ylabel=LABELS[up])
    axis.grid(alpha=0.3)


def panels(runs, *pairs, level=None):
    """One measurement against another; bands reach from the lowest seed to the highest."""
    size = (4.5 * len(pairs), 3.8)
    axes = plt.subplots(1, len(pairs), figsize=size, layout="constrained")[1]
    for axis, pair in zip(axes, pairs, strict=True):
        draw_lines(axis, runs, *pair)
        if pair[0] == "right":
            axis.axvline(level, color="grey", lw=1, label="compared here")
    axes[0].legend()
    plt.show()


# %% [markdown]
# We begin with plain training. Lines are means over the seeds, and bands reach from the lowest seed
# to the highest.

# %%
length = min(30, budget.images // 800)  # epochs; fewer in a budget for quick tests
wrong_runs = watch_all({"plain": length})
panels(wrong_runs, ("epoch", "wrong"), ("epoch", "validation"))

# %% tags=["fold"]
last = {key: wrong_runs["plain"][key][:, -1].mean() for key in MEASURED}
means = wrong_runs["plain"]["validation"].mean(0)
fell = 100 * (means.max() - means[-1])
say(
    f"After {length} epochs, the network predicts {last['right']:.0%} of the right labels and "
    f"**{last['wrong']:.0%} of the wrong ones**. On the validation images, its mean accuracy ends "
    + (f"**{fell:.1f} points below its highest**." if fell >= 1 else "at its highest, or close.")
)

# %% [markdown]
# A network usually learns the right labels first and memorises the wrong ones later.
#
# ## Does mixup prevent it?
#
# Now we train with mixup. Alpha 8 gets two and a half times as many epochs, so that we also see what
# happens later.

# %%
wrong_runs |= watch_all({"alpha 0.4": length, "alpha 8": 5 * length // 2})
panels(wrong_runs, ("epoch", "wrong"), ("epoch", "right"))

# %% tags=["fold"]
shares = {
    kind: [f"{np.mean(at(wrong_runs[which], 'epoch', length, kind)):.0%}" for which in recipes]
    for kind in ("wrong", "right")
}
say(
    f"After {length} epochs:\n\n| predicted | {' | '.join(recipes)} |\n| --- | --- | --- | --- |\n"
    + "\n".join(f"| {kind} labels | {' | '.join(row)} |" for kind, row in shares.items())
)

# %% [markdown]
# Did mixup prevent memorising, or has the network merely learned less of everything, as in an
# earlier epoch? To tell the two apart, we compare networks **at equal fit**: where they predict the
# same fraction of the *right* training labels. The grey line marks the highest fit that all runs
# reach, 90% at most.

# %% tags=["fold"]
highest = min(run["right"].max(1).min() for run in wrong_runs.values())
level = np.floor(100 * min(0.9, highest)) / 100  # what all runs reach, at most 0.9
panels(wrong_runs, ("right", "wrong"), ("right", "validation"), level=level)

# %% [markdown]
# If mixup only slows training down, its line in the left panel coincides with the plain one. If it
# prevents memorising, its line is lower. Where lines cross, another level of fit gives another
# verdict, so we compare at two lower levels, too. (Between measurements we interpolate. The first
# time that a run reaches a level counts.)
#
# The test has two weaknesses. At equal fit, slow recipes have seen every wrong label more often.
# And the last right labels belong to hard images, which a network may have to memorise, too.
#
# **How we compare.** We compare runs in pairs that share a seed. A difference is *clear* if all
# pairs agree on its sign and the mean is at least 1/√n percentage points for n pairs. This is a
# weak rule: without any effect, three pairs agree on the sign one time in four. So a clear
# difference of a point or two may still be chance. Here is the fraction of wrong labels that the
# networks predict, compared with plain training.

# %% tags=["fold"]
MIXED = ("alpha 0.4", "alpha 8")
LEVELS = [max(level - less, 0) for less in (0.2, 0.1, 0)]


def at_fit(name, one):
    return gained(*(at(wrong_runs[arm], "right", one, "wrong") for arm in (name, "plain")))


found_wrong = {name: [at_fit(name, one) for one in LEVELS] for name in MIXED}
rows = [
    f"| {one:.0%} of the right labels | {' | '.join(verdicts)} |"
    for one, *verdicts in zip(LEVELS, *found_wrong.values(), strict=True)
]
say(f"| at equal fit | {' | '.join(MIXED)} |\n| --- | --- | --- |\n" + "\n".join(rows))

# %% tags=["fold"]
late = {which: np.mean(at(wrong_runs[which], "right", level, "epoch")) for which in recipes}


def memory(which):
    fewer, more = (
        sum(word in verdict for verdict in found_wrong[which]) for word in ("lower", "higher")
    )
    if fewer and more:
        return "the answer depends on the level"
    if fewer or more:
        count = f"{fewer or more} of the {len(LEVELS)} levels"
        return f"it predicts clearly {'fewer' if fewer else 'more'} wrong labels at {count}"
    return "there is no clear difference at any level"


told = [
    f"- {which.capitalize()} takes {late[which] / late['plain']:.1f} times as many epochs as plain "
    f"training to reach {level:.0%}. At equal fit, **{memory(which)}**."
    for which in MIXED
]
say("\n".join(told) if level >= 0.5 else "This is too little learning for a comparison.")

# %% [markdown]
# Clearly fewer wrong labels at every level would speak for prevention. Anything else leaves it
# open. (Zhang et al. report that mixup reduces memorising on CIFAR-10, with 50,000 images and
# larger networks.)
#
# ## Mixup or early stopping?
#
# For new images, mixup has a rival: *early stopping* keeps the network from the epoch with the best
# validation accuracy. We choose this epoch on the images `picking` and score the network on the
# others, so that no recipe profits from a lucky maximum. (Alpha 8 may stop later, at any of its
# epochs. Our validation labels are right. With wrong ones, the choice would be noisier.)


# %% tags=["fold"]
def ends(name):  # with as many epochs for each recipe
    return at(wrong_runs[name], "epoch", length, "validation")


def stopped(name):
    run = wrong_runs[name]
    best = run["picking"].argmax(1)
    return [scores[when].item() for scores, when in zip(run["validation"], best, strict=True)]


alone = gained(stopped("plain"), ends("plain"), chance=0.1)
kept = {name: gained(stopped(name), stopped("plain"), chance=0.1) for name in MIXED}
lines = [f"- Plain training stopped early, instead of after {length} epochs: **{alone}**"]
for name in MIXED:
    full = gained(ends(name), ends("plain"), chance=0.1)
    beside = f"- {name.capitalize()} instead of plain training, both"
    lines += [f"{beside} for {length} epochs: {full}", f"{beside} stopped early: {kept[name]}"]
say("This changes the validation accuracy:\n\n" + "\n".join(lines))

# %% tags=["fold"]
more = [name for name in MIXED if "higher" in kept[name]]
fewer = [name for name in MIXED if "lower" in kept[name]]
parts = [f"{' and '.join(more)} may add to the accuracy"] * bool(more)
parts += [f"{' and '.join(fewer)} may cost accuracy"] * bool(fewer)
if parts:
    told = f"With early stopping, {', and '.join(parts)}. But with few seeds, this may be chance."
else:
    told = "With early stopping, mixup makes no clear difference. Few seeds can hide a small one."
say(told)

# %% [markdown]
# ## Right labels: does the schedule matter?
#
# Now the same 512 images have their true labels. We train under three schedules, each with and
# without mixup: a constant rate, one-cycle with a peak of five times that rate, and *decay*, which
# begins at the constant rate and only falls.

# %%
from fasttricks.course import bars, train_arms

falling = OneCycle(peak=1, rise=1e-6, momentum_low=0.9, momentum_high=0.9)  # no rise, one momentum
schedules = {
    "constant": BASELINE,
    "decay": BASELINE + falling,
    "one-cycle": BASELINE + OneCycle(peak=5),
}
arms = {}
for name, recipe in schedules.items():
    arms |= {name: recipe, f"{name}, mixup": recipe + Mixup(0.4, per_sample=True)}
longest = 3 * length // 2  # epochs
right_runs = train_arms(arms, few, images=longest * len(few.train), evaluations=1)
fresh = {name: [score(run.net, few.train) for run in runs] for name, runs in right_runs.items()}

# %% [markdown]
# Each dot is one seed: the accuracy with mixup minus the accuracy without it, under the same
# schedule.

# %% tags=["fold"]
added = {
    name: [100 * (a - b) for a, b in zip(fresh[f"{name}, mixup"], fresh[name], strict=True)]
    for name in schedules
}
bars(added, "accuracy gain by mixup, points", f"512 right labels, {longest} epochs, a dot per seed")
plt.show()

# %% tags=["fold"]
trained = {name: [run.val_accuracy for run in runs] for name, runs in right_runs.items()}
rows, found_right = [], {}
for name in schedules:
    raw, found_right[name] = (
        gained(scores[f"{name}, mixup"], scores[name], chance=0.1) for scores in (trained, fresh)
    )
    rows.append(f"| {name} | **{found_right[name]}** | {raw} |")
say(
    "With mixup, compared with the same schedule without it:\n\n"
    "| schedule | refreshed | without the refresh |\n| --- | --- | --- |\n" + "\n".join(rows)
)

# %% tags=["fold"]
gaining = [name for name in schedules if "higher" in found_right[name]]
costing = [name for name in schedules if "lower" in found_right[name]]
told = "Under none of the three schedules does mixup make a clear difference here."
if gaining or costing:
    parts = [f"clearly gains ({', '.join(gaining)})"] * bool(gaining)
    parts += [f"clearly costs accuracy ({', '.join(costing)})"] * bool(costing)
    told = f"Here, mixup {', and '.join(parts)}."
if gaining and costing:
    told += " So the schedule seems to matter."
updates = longest * len(few.train) // BASELINE.batch
least, most = (recorded[row][0] * study.labels / BASELINE.batch for row in (0, -1))
say(
    f"{told} These runs are short: {updates} updates of the weights, and the recorded ones have "
    f"{least:,.0f} to {most:,.0f}."
)

# %% [markdown]
# Which part of a schedule matters, these runs cannot show: one-cycle differs from decay by its
# rise, its higher peak, and its momentum, which falls and rises. Nor can they show whether mixup
# needs many epochs or many updates.
#
# ## Break it
#
# It is easy to blend the labels wrongly, and no error message warns you. We make three mistakes on
# purpose. The first leaves the labels whole. The second blends each label with that of a
# *stranger*, an image drawn independently of the partner. The third swaps the shares, so that the
# fainter image gets the larger share of the label.


# %%
@dataclass(frozen=True)
class Mistaken:
    mistake: str
    alpha: float = 0.4
    chapter, slots = 4, ("batch_maps",)

    def batch_map(self, x, q, rng):
        lam = rng.beta(self.alpha, self.alpha, len(x))
        lam = torch.tensor(lam, dtype=x.dtype, device=x.device)
        other, stranger = (torch.tensor(rng.permutation(len(x)), device=x.device) for _ in range(2))
        targets = {
            "labels not blended": q,
            "label of a stranger": mix(x, q, lam, stranger)[1],
            "shares swapped": mix(x, q, 1 - lam, other)[1],
        }
        return mix(x, q, lam, other)[0], targets[self.mistake]


# %% [markdown]
# We train for a single epoch on more images, with right labels: without mixup, with correct mixup,
# and with each mistake.

# %%
short_images = budget.images // 5
short = replace(data.subset(short_images), val=few.val)
mistakes = ("labels not blended", "label of a stranger", "shares swapped")
trials = {"no mixup": BASELINE, "mixup, correct": recipes["alpha 0.4"]}
trials |= {mistake: BASELINE + Mistaken(mistake) for mistake in mistakes}
trial_runs = train_arms(trials, short, images=short_images, evaluations=1)
final = {name: [score(run.net, short.train) for run in runs] for name, runs in trial_runs.items()}
bars(final, "validation accuracy", f"one epoch of {short_images:,} images, a dot per seed")
plt.show()

# %% tags=["fold"]
brief = gained(final["mixup, correct"], final["no mixup"], chance=0.1)
costs = {one: gained(final[one], final["mixup, correct"], chance=0.1) for one in mistakes}
listed = "\n".join(f"- {one}: **{cost}**" for one, cost in costs.items())
say(f"Compared with correct mixup, the validation accuracy is:\n\n{listed}")

# %% [markdown]
# Many images stay nearly whole, so how can whole labels do harm? In the figure of shares, `lam` is
# near 0 as often as near 1. If it is near 0, the nearly whole image is the *partner*, and the label
# names an image that can hardly be seen. A stranger's label is then no better.
#
# You can test for such a mistake without training. Use ten "images" whose pixels *are* their
# one-hot labels. Then blended images and blended labels must be equal.

# %% tags=["nbval-check-output"]
q = torch.eye(10)


def blends_alike(trick):
    pictures, targets = trick.batch_map(q.view(10, 1, 1, 10), q, np.random.default_rng(0))
    return torch.allclose(pictures.view(10, 10), targets)


holds(blends_alike(Mixup(1.0, per_sample=True)), "correct mixup passes this test")
for mistake in mistakes:
    holds(not blends_alike(Mistaken(mistake, alpha=1.0)), f"the test catches: {mistake}")

# %% [markdown]
# So test your own mixup in this way before you train.
#
# ## What we have found
#
# Here is the trick's *card*, copied from the top of its file. The *slot* is its place in the
# training loop. Several tricks can share a *chain*, and those that *commute* may come in any order.

# %% tags=["fold"]
from IPython.display import Markdown

Markdown(mixup.__doc__)

# %% [markdown]
# What of the card did we see?

# %% tags=["fold"]
fits = [hits(run.net, few.train).mean().item() for name in schedules for run in right_runs[name]]
pays = "**It pays** in our record: " + (
    f"in one-cycle runs of {min(wins):.0f} epochs or more, with {study.labels:,} labels."
    if wins
    else "nowhere clearly."
)
if min(fits) > 0.9 and costing:
    pays += (
        f" To be able to memorise is not enough. With 512 right labels, each network without mixup "
        f"predicts at least {min(fits):.0%} of its training labels, and mixup still costs accuracy "
        f"under some schedules ({', '.join(costing)})."
    )
fails = "**It fails** in short runs: " + (
    f"in our record, it costs accuracy in runs of {max(losses):.0f} epochs."
    if losses
    else "our record has no such loss."
)
say(f"- {pays}\n- {fails} After the single epoch above, compared with no mixup: {brief}.")

# %% [markdown]
# We tried few alphas, no large networks, and no runs of hundreds of epochs. On ImageNet, Zhang et al.
# report a gain of 0.2 points for a ResNet-50 with 90 epochs. With 200 epochs, mixup improves by another
# 1.2 points, and plain training stays the same. This agrees with our record: **give mixup time**, and
# compare on your own validation images, with several seeds.
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
# **3. With mixup, your loop prints a training accuracy far below the validation accuracy. Why?**
#
# <details><summary>Answer</summary>It probably compares the answers to blended images with the label of one
# of the two. Measure it on whole images.</details>
#
# **4. Mixup costs accuracy in your runs of five epochs. What do you change?**
#
# <details><summary>Answer</summary>Train for more epochs, or leave mixup out.</details>
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
# **Exercise 1.** Return the mean loss of a blended batch from the class numbers `y`, without building
# any target rows. Here, `lam` is a single number for the whole batch.


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
# **Exercise 3.** CutMix (Yun et al. 2019) pastes instead of blending: a square of the partner replaces
# the square in the same place of the image, and the labels are blended by area. Write it. Images have
# the shape (N, C, H, W).


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
