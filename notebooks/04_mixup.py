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
# Mixup blends each training image with another one and blends their labels by the same shares. The
# network must say how much of each image it sees.
#
# **What you add.** In your training loop, replace `loss = F.cross_entropy(net(inputs), targets)` by:
#
# ```python
# share = torch.distributions.Beta(0.4, 0.4).sample((len(inputs),)).to(inputs.device)
# other = torch.randperm(len(inputs), device=inputs.device)
# kept = share.view(-1, 1, 1, 1)
# outputs = net(kept * inputs + (1 - kept) * inputs[other])
# loss = share * F.cross_entropy(outputs, targets, reduction="none")
# loss = loss + (1 - share) * F.cross_entropy(outputs, targets[other], reduction="none")
# loss = loss.mean()
# ```
#
# Here, `targets` are class numbers. Evaluation stays as it is, on whole images.
#
# - **Use it when** you have few labels, show each image often under a one-cycle schedule, and want the
#   highest accuracy.
# - **Leave it when** each image is seen only a few times, or when you want a moderate accuracy soon.
#
# **What it does not do.** In our small runs with wrong labels, mixup prevented little or no
# memorising. It mainly slowed learning down. And with right labels, a falling learning rate alone was
# not enough to make it pay.
#
# About 30 minutes to read, and three to run.

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
# number of *seeds*. A seed fixes all random draws of a run. Our data set is Fashion-MNIST: small grey
# pictures of clothing, shoes and bags, in ten classes.

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
# We made many long runs beforehand, and their records come with the course. In this study, a tenth of
# the training images is shown for many *epochs* (passes through the training set). The learning rate
# follows one-cycle (chapter 3). Each point of the figure compares runs of that length with and
# without mixup, with the alpha of 0.4 and the share per image of the lines above.

# %%
gain_by_epochs("mixup")
plt.show()

# %% tags=["fold"]
from fasttricks.course import found_in
from fasttricks.study.pages import equal_gains

study = found_in("few")
mixed = f"{study.reference} + mixup"
recorded = [
    (
        images / study.labels,
        f"{points:+.1f} points (95% interval: {low:+.1f} to {high:+.1f})",
        low,
        high,
    )
    for images, points, low, high in equal_gains(study, mixed)
]
losses = [epochs for epochs, _, _, high in recorded if high < 0]
wins = [epochs for epochs, _, low, _ in recorded if low > 0]
turn = "Mixup does not simply turn from a loss into a gain as runs grow longer."
if losses and wins and max(losses) < min(wins):
    turn = (
        f"**Mixup loses in runs of {max(losses):.0f} epochs and wins from {min(wins):.0f} epochs "
        "on.** Between the two, we cannot tell."
    )
say(
    f"{turn} After {recorded[0][0]:.0f} epochs, it changes the accuracy by {recorded[0][1]}. After "
    f"{recorded[-1][0]:.0f} epochs, it changes it by {recorded[-1][1]}."
)

# %% [markdown]
# Does it also save time? That depends on the accuracy that you want. (Above 1, mixup is faster. In
# parentheses are 95% intervals.)

# %% tags=["fold"]
from fasttricks.study.findings import times

highest, _, ratio, low, high = [r for r in study.targets[mixed] if np.isfinite(r[2:]).all()][-1]
tops = [
    max(np.mean(scores) for _, *scores in study.accuracies[arm]) for arm in (study.reference, mixed)
]
say(
    f"In the study above, to an accuracy of {highest:.3f}, about the highest that runs without mixup "
    f"reach, it is **{times(ratio)} times as fast** ({times(low)} to {times(high)}). The best mean "
    f"accuracy of any length is {tops[0]:.3f} without mixup and **{tops[1]:.3f}** with it."
)

# %% [markdown]
# To the accuracies that the studies chose beforehand, it gains less. (`plain + cyclic` is one-cycle, and
# the two other paragraphs are about short runs with all labels.)

# %%
say(headline("mixup"))

# %% [markdown]
# So mixup is for the last points of accuracy, not for a quick start. (The short runs used an alpha of
# 0.05, which hardly blends.) We now ask two questions. Does mixup *prevent* memorising or merely *slow
# learning down*? And is a falling learning rate enough to make it pay?
#
# ## By hand: four images
#
# In this row of pictures, an ankle boot fades into a T-shirt. Above each picture is the answer that
# mixup wants from the network.

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
# image and 0.3 times its partner. We write each label as a row of probabilities and blend these rows
# with the same shares.

# %%
lam, other = torch.tensor(0.7), torch.tensor([1, 2, 3, 0])
blended = lam * x + (1 - lam) * x[other]
q = one_hot(y, 10).float()
targets = lam * q + (1 - lam) * q[other]
show(blended, [f"0.7 {names[i]}\n0.3 {names[j]}" for i, j in enumerate(other)])
plt.show()
pd.DataFrame(targets.numpy().round(2), index=names, columns=data.classes)

# %% [markdown]
# Each row is the target of one blended image and holds the shares of its two classes.
#
# **Why should this prevent memorising?** Zhang et al. 2017 (arXiv 1710.09412) argue that such targets
# make the network behave linearly between training images: as one image fades into another, the
# network's answer changes in proportion. To memorise one wrong label, a network must do the opposite:
# it must make a sharp exception for one image.
#
# **How much of the partner should we add?** Mixup draws each share, `lam`, from the distribution
# Beta(alpha, alpha). Zhang et al. use alpha between 0.1 and 0.4 on ImageNet, 1 on CIFAR-10, and up to
# 32 against wrong labels. Here are 50,000 shares for each of three alphas.

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
# The first function blends images `x` and targets `q` with given shares and partners. `lam` may hold
# one number for the whole batch or one for each image, and `view` aligns it with the pixels and the
# classes. The second function draws a share for each image, and a random permutation that gives each
# image its partner. (Zhang et al. draw one share per batch.)


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
# Our functions must match the package's, and blended rows must still be probabilities. The lines at
# the top of the page blend two losses instead of the targets. This must give the same number, because
# cross-entropy is linear in the target.

# %% tags=["nbval-check-output"]
from fasttricks.tricks import mixup

ours, packaged = mix(x, q, lam, other), mixup.mix(x, q, lam, other)
holds(all(map(torch.equal, ours, packaged)), "our mix matches the package's")
ours = mixup_batch(x, q, 0.4, np.random.default_rng(0))
packaged = Mixup(0.4, per_sample=True).batch_map(x, q, np.random.default_rng(0))
holds(all(map(torch.allclose, ours, packaged)), "with the same random numbers, so does mixup_batch")
holds(torch.allclose(ours[1].sum(1), torch.ones(4)), "blended rows sum to 1")
logits, share = torch.randn(4, 10), torch.tensor([0.9, 0.6, 0.2, 0.7])
loss = share * cross_entropy(logits, y, reduction="none")
loss = loss + (1 - share) * cross_entropy(logits, y[other], reduction="none")
same = torch.allclose(cross_entropy(logits, mix(x, q, share, other)[1]), loss.mean())
holds(same, "blending targets is blending losses")

# %% [markdown]
# `mix` must also match two libraries. In a batch of N images, timm blends image i with image
# N - 1 - i, and torchvision blends it with the image before it. We replace their random draws with a
# fixed share of 0.7. By default, timm also smooths labels by 0.1, so we set this to 0.

# %% tags=["nbval-check-output", "fold"]
import timm.data
from torchvision.transforms import v2

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
# With the package, you add the trick to a *recipe*, which says how to train. `BASELINE` is the *plain*
# training of chapter 0: AdamW with a constant learning rate of 0.001 and batches of 128 images. With
# the trick, the training loop calls `batch_map` on every batch before the network sees it. We compare
# the alpha of 0.4 with 8, one of the large alphas that are meant for wrong labels.

# %%
recipes = {
    "plain": BASELINE,
    "alpha 0.4": BASELINE + Mixup(0.4, per_sample=True),
    "alpha 8": BASELINE + Mixup(8.0, per_sample=True),
}

# %% [markdown]
# A complete script in plain PyTorch is [`examples/mixup.py`](../examples/mixup.py). It has the setting
# of our main study: an alpha of 0.05 and one share per batch. This came out best in a search over
# short runs with all seven tricks, and it is nearly plain training. On data that it does not know,
# the course's own `fasttricks advise` tries alpha 0.4 and a share per image, as the lines at the top.
#
# <details><summary>The script beside plain training</summary>
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
# What happens if many labels are wrong? To find out, we take 512 images and change about 40% of their
# labels to another class, drawn at random. We judge every network on the same validation images, at
# most 2,000. Their labels are right, and no network trains on them.

# %%
from dataclasses import dataclass, replace

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
some = wrong.nonzero()[:6, 0].to(device)
given, truth = hasty.train.y[some].tolist(), few.train.y[some].tolist()
titles = [
    f"{data.classes[g]}\n(really: {data.classes[t]})" for g, t in zip(given, truth, strict=True)
]
show(data.normalise(few.train.x[some]), titles)
plt.show()

# %% [markdown]
# The wrong labels follow no rule, so a network can predict all of them only by memorising the images.
#
# We measure each network ten times during its training, always on whole images: its validation
# accuracy, and what fraction of the right and of the wrong training labels it predicts. `watch_all`
# (folded) trains and measures several recipes, each for its own number of epochs, and `panels` draws
# the results. All seeds share the images and the wrong labels.

# %% tags=["fold"]
from fasttricks.course import one_line, probabilities
from fasttricks.loop import fit
from fasttricks.models import begin


def watch(recipe, epochs, seed):
    torch.manual_seed(seed)
    size = data.channels, len(data.classes), budget.image_size
    net, seen = begin(recipe, budget.model, *size).to(device), []
    count = len(hasty.train)
    steps = epochs * count // BASELINE.batch
    marks = [round(steps * tenth / 10) for tenth in range(1, 11)]

    def look(images, accuracy):
        if images // BASELINE.batch in marks:
            answers = probabilities(net, data, hasty.train).argmax(1)
            same = (answers == hasty.train.y).float().cpu()
            right_part, wrong_part = same[~wrong].mean().item(), same[wrong].mean().item()
            seen.append([images / count, accuracy, right_part, wrong_part])

    fit(recipe, net, hasty, steps * BASELINE.batch, seed, evaluations=10, show=look)
    return seen


# %% tags=["fold"]
MEASURED = ("epoch", "validation", "right", "wrong")


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
# We begin with plain training. Lines are means over the seeds, and bands reach from the lowest seed to
# the highest.

# %%
length = min(30, budget.images // 800)  # epochs; fewer in a budget for quick tests
wrong_runs = watch_all({"plain": length})
panels(wrong_runs, ("epoch", "right"), ("epoch", "wrong"), ("epoch", "validation"))

# %% tags=["fold"]
last = {key: wrong_runs["plain"][key][:, -1].mean() for key in MEASURED}
fell = 100 * (wrong_runs["plain"]["validation"].max(1).mean() - last["validation"])
say(
    f"After {length} epochs, the network predicts {last['right']:.0%} of the right labels and "
    f"**{last['wrong']:.0%} of the wrong ones**. On the validation images, its accuracy ends "
    + (f"**{fell:.1f} points below its best**." if fell >= 1 else "at its best, or close to it.")
)

# %% [markdown]
# A network usually learns the right labels first and memorises the wrong ones later. Where the
# validation curve falls, further training makes the network worse.
#
# ## Does mixup prevent it?
#
# Now we train with mixup on the same images and labels. Alpha 0.4 gets as many epochs as plain
# training. Alpha 8 gets two and a half times as many, so that we also see what happens later.

# %%
wrong_runs |= watch_all({"alpha 0.4": length, "alpha 8": 5 * length // 2})
panels(wrong_runs, ("epoch", "wrong"), ("epoch", "right"))

# %% tags=["fold"]
for kind in ("wrong", "right"):
    share = {which: np.mean(at(wrong_runs[which], "epoch", length, kind)) for which in recipes}
    say(
        f"After {length} epochs, the networks predict {share['plain']:.0%} of the *{kind}* labels "
        f"with plain training, {share['alpha 0.4']:.0%} with alpha 0.4, and "
        f"**{share['alpha 8']:.0%}** with alpha 8."
    )

# %% [markdown]
# If a network predicts few of the wrong labels, mixup may have kept it from memorising. Or it may have
# learned less of everything, as in an earlier epoch. To tell the two apart, we compare networks **at
# equal fit**: where they predict the same fraction of the *right* training labels. The grey line marks
# the highest fit that all runs reach, 90% at most.

# %% tags=["fold"]
reached = [run["right"].max(1).min() for run in wrong_runs.values()]
level = np.floor(100 * min(0.9, *reached)) / 100  # the highest that all runs reach, at most 0.9
panels(wrong_runs, ("right", "wrong"), ("right", "validation"), level=level)

# %% [markdown]
# During training, a network moves along its line from left to right. (A line ends at the highest fit
# that all of its seeds reach.) If mixup only slows training down, its line in the left panel coincides
# with the plain one. If mixup prevents memorising, its line is lower.
#
# This test is hard on slow recipes: at equal fit, they have seen every wrong label more often. And
# where lines cross, another level of fit gives another verdict. So we compare at two lower levels,
# too. For new images (right panel), mixup has a rival: *early stopping*, which keeps the network from
# the epoch with the best validation accuracy. So we also compare each run at its best epoch.
#
# **How we compare.** We compare runs in pairs that share a seed. A difference is *clear* if all pairs
# agree on its sign and the mean is at least 1/√n percentage points for n pairs. Then we write *higher*
# or *lower*. This is a weak rule: without any effect, three pairs agree on the sign one time in four.
# So a clear difference of a point or two may still be chance. Here are both alphas, compared with plain
# training. *Wrong labels* are the fraction of them that the network predicts.

# %% tags=["fold"]
MIXED = ("alpha 0.4", "alpha 8")
LEVELS = [max(level - less, 0) for less in (0.2, 0.1, 0)]


def compare(name):
    """The verdicts on one recipe against plain training."""
    both, found = (wrong_runs[name], wrong_runs["plain"]), {}
    after = f"after {length} epochs"
    found[f"wrong labels, {after}"] = gained(*(at(run, "epoch", length, "wrong") for run in both))
    for one in LEVELS:
        pair = (at(run, "right", one, "wrong") for run in both)
        found[f"wrong labels, at {one:.0%} fit"] = gained(*pair)
    pair = (at(run, "epoch", length, "validation") for run in both)
    found[f"validation, {after}"] = gained(*pair, chance=0.1)
    bests = (run["validation"].max(1).tolist() for run in both)
    found["validation, at the best epoch"] = gained(*bests, chance=0.1)
    return found


found_wrong = {name: compare(name) for name in MIXED}
pd.DataFrame(found_wrong)

# %% tags=["fold"]
late = {which: np.mean(at(wrong_runs[which], "right", level, "epoch")) for which in recipes}


def memory(which):
    verdicts = [found_wrong[which][f"wrong labels, at {one:.0%} fit"] for one in LEVELS]
    fewer = sum("lower" in verdict for verdict in verdicts)
    more = sum("higher" in verdict for verdict in verdicts)
    if level < 0.5:
        return "That is too little learning for a comparison."
    counts = f"clearly fewer wrong labels at {fewer or 'none'} of the {len(LEVELS)} levels"
    counts += f", and clearly more at {more or 'none'}"
    if fewer and more:
        verdict = "the verdict depends on the level"
    elif fewer:
        verdict = "it prevented some memorising" if fewer > 1 else "it may prevent a little"
    else:
        verdict = "it did not prevent memorising" if more else "we see no sign that it prevents any"
    return f"At equal fit, it has memorised {counts}. So **{verdict}**."


# %% tags=["fold"]
say(
    "\n".join(
        f"- **{which.capitalize()}** needs {late[which] / late['plain']:.1f} times as many epochs as "
        f"plain training to predict {level:.0%} of the right labels. {memory(which)}"
        for which in MIXED
    )
)

# %% [markdown]
# (Zhang et al. report that mixup reduces memorising on CIFAR-10, with 50,000 images and larger
# networks. Our verdicts hold for a small setting.)
#
# What does this mean for new images? Early stopping needs validation images whose labels are right. If
# you have them, the last row of the table counts. Without them, you cannot stop early, and the
# accuracy after a fixed number of epochs counts.

# %% tags=["fold"]
ended, best = f"validation, after {length} epochs", "validation, at the best epoch"
for moment, row in (("Without early stopping", ended), ("With early stopping", best)):
    both = "; ".join(f"{which}, {found_wrong[which][row]}" for which in MIXED)
    say(f"- **{moment}**, compared with plain training: {both}.")
gain = {
    row: [which for which in MIXED if "higher" in found_wrong[which][row]] for row in (ended, best)
}
if gain[best]:
    told = f"{' and '.join(gain[best]).capitalize()} gained more than early stopping alone."
elif gain[ended]:
    told = "Mixup helped only where we did not stop early."
else:
    told = "Mixup did not clearly help."
say(f"So with these wrong labels: **{told}**")

# %% [markdown]
# ## Right labels: is a falling rate enough?
#
# In our records, mixup pays late in long one-cycle runs. Does it pay in a small run, too, if the labels
# are right? And does it matter that the rate falls? We train on the same 512 images with their true
# labels, under three schedules, each with and without mixup. One-cycle does two things: the rate rises
# to a peak, here five times the baseline's rate, and then falls to practically zero. *Decay* is a
# control: it starts at the baseline's rate and only falls.

# %%
from fasttricks.course import bars, gains, train_arms

schedules = {
    "constant": BASELINE,
    "decay": BASELINE + OneCycle(peak=1, rise=1e-6, momentum_low=0.9, momentum_high=0.9),
    "one-cycle": BASELINE + OneCycle(peak=5),
}
arms = {}
for name, recipe in schedules.items():
    arms |= {name: recipe, f"{name}, mixup": recipe + Mixup(0.4, per_sample=True)}
longest = 3 * length // 2  # epochs
right_runs = train_arms(arms, few, images=longest * len(few.train), evaluations=1)

# %% [markdown]
# Each dot is one seed: the accuracy with mixup minus the accuracy without it, under the same schedule.

# %%
added = {name: gains(right_runs[f"{name}, mixup"], right_runs[name]) for name in schedules}
bars(added, "accuracy gain by mixup, points", f"512 right labels, {longest} epochs, a dot per seed")
plt.show()

# %% tags=["fold"]
scores = {name: [run.val_accuracy for run in runs] for name, runs in right_runs.items()}
found_right = {
    name: gained(scores[f"{name}, mixup"], scores[name], chance=0.1) for name in schedules
}
updates = longest * len(few.train) // BASELINE.batch
listed = "\n".join(f"- {name}: **{verdict}**" for name, verdict in found_right.items())
say(
    f"After {updates} updates of the weights, mixup compared with the same schedule without it:"
    f"\n\n{listed}"
)

# %% tags=["fold"]
fits = [
    (probabilities(run.net, data, few.train).argmax(1) == few.train.y).float().mean().item()
    for name in schedules
    for run in right_runs[name]
]
decay, cycle = found_right["decay"], found_right["one-cycle"]
if "lower" in decay:
    told = "**A falling rate is not enough**: with the decay alone, mixup still costs accuracy."
elif "higher" in decay:
    told = "**A falling rate is enough**: with the decay alone, mixup pays."
else:
    told = "**These runs cannot tell** whether a falling rate is enough."
told += (
    " With one-cycle, mixup pays, by these few seeds."
    if "higher" in cycle
    else " With one-cycle, it costs accuracy, too."
    if "lower" in cycle
    else " With one-cycle, the runs are too few or too short to show a gain."
)
if min(fits) > 0.9 and not all("higher" in verdict for verdict in found_right.values()):
    told += (
        f" Without mixup, each network predicts at least {min(fits):.0%} of its training "
        "labels. So being able to memorise is not enough to make mixup pay, either."
    )
say(told)

# %% [markdown]
# How long are our runs, compared with the recorded ones?

# %% tags=["fold"]
ahead = gained(scores["one-cycle"], scores["decay"], chance=0.1)
first, most = (recorded[row][0] * study.labels / BASELINE.batch for row in (0, -1))
told = f"The recorded runs have {first:,.0f} to {most:,.0f} updates, and ours have {updates}."
if "higher" in ahead:
    told += f" Without mixup, one-cycle ends above the decay: {ahead}. So it gets further with as many updates."
say(told)

# %% [markdown]
# So we know that mixup paid late in long one-cycle runs. Which part of the schedule it needs there, we
# have not measured.
#
# ## Break it
#
# In real code, it is easy to blend the labels wrongly, and no error tells you so. We make three such
# mistakes on purpose. The images are blended correctly. The first mistake leaves the labels whole. The
# second blends each label with that of a *stranger*, an image drawn independently of the partner. The
# third swaps the shares, so that the fainter image gets the larger share of the label.


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
# We train for a single epoch on more images, with right labels: without mixup, with correct mixup, and
# with each mistake.

# %%
short_images = budget.images // 5
short = replace(data.subset(short_images), val=few.val)
mistakes = ("labels not blended", "label of a stranger", "shares swapped")
trials = {"no mixup": BASELINE, "mixup, correct": recipes["alpha 0.4"]}
trials |= {mistake: BASELINE + Mistaken(mistake) for mistake in mistakes}
trial_runs = train_arms(trials, short, images=short_images, evaluations=1)
ends = {name: [run.val_accuracy for run in runs] for name, runs in trial_runs.items()}
bars(ends, "validation accuracy", f"one epoch of {short_images:,} images, a dot per seed")
plt.show()

# %% tags=["fold"]
brief = gained(ends["mixup, correct"], ends["no mixup"], chance=0.1)
costs = {one: gained(ends[one], ends["mixup, correct"], chance=0.1) for one in mistakes}
listed = "\n".join(f"- {one}: **{cost}**" for one, cost in costs.items())
say(f"Compared with correct mixup, the validation accuracy is:\n\n{listed}")
say(f"After this single epoch, correct mixup compared with no mixup: **{brief}**.")

# %% [markdown]
# Many images stay nearly whole, so how can whole labels do harm? Look at both ends of the figure of
# shares: `lam` is near 0 as often as near 1. If it is near 0, the nearly whole image is the *partner*,
# and the label names an image that can hardly be seen. A stranger's label is then no better. With
# swapped shares, every label favours the fainter image.
#
# You can test for such a mistake without training. Use ten "images" whose pixels *are* their one-hot
# labels. Then blended images and blended labels must be equal.

# %% tags=["nbval-check-output"]
q = torch.eye(10)


def blends_alike(trick):
    pictures, targets = trick.batch_map(q.view(10, 1, 1, 10), q, np.random.default_rng(0))
    return torch.allclose(pictures.view(10, 10), targets)


holds(blends_alike(Mixup(1.0, per_sample=True)), "correct mixup passes this test")
for mistake in mistakes:
    holds(not blends_alike(Mistaken(mistake, alpha=1.0)), f"the test catches: {mistake}")

# %% [markdown]
# ## What we have found
#
# Here is the trick's *card*, copied from the top of its file.

# %% tags=["fold"]
from IPython.display import Markdown

Markdown(mixup.__doc__)

# %% [markdown]
# The *slot* is the trick's place in the training loop, and several tricks can share a *chain*. Mixup
# and label smoothing (chapter 5) *commute*: whichever comes first, the targets are the same. *Training
# accuracy* loses its meaning where programs measure it on the blended batches. Measure it on whole
# images. What of the card did we see?

# %% tags=["fold"]
pays = [name for name, verdict in found_right.items() if "higher" in verdict]
say(
    '- **"Pays when the net could memorise":** with 512 right labels, mixup paid '
    + (f"with {' and '.join(pays)}." if pays else "under none of our three schedules.")
    + " The gain of our record came in longer runs, with one-cycle."
)
say(
    '- **"Fails when the run is short":** '
    + (
        f"in our record, it cost accuracy after {max(losses):.0f} epochs."
        if losses
        else "our record has no such loss."
    )
    + f" After a single epoch: {brief}."
)

# %% [markdown]
# We tried only two alphas, no large networks, and no runs of hundreds of epochs. On ImageNet, Zhang et
# al. report a gain of 0.2 points for a ResNet-50 with 90 epochs. With 200 epochs, mixup improves by
# another 1.2 points, and plain training stays the same. fast.ai's notes on
# [imagenette](https://github.com/fastai/imagenette) say that augmentation such as mixup tends to help
# only in runs of 80 epochs or more. So these sources agree with our record: **give mixup time**. Then
# compare on your own validation images, with at least three seeds.
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
# **4. Mixup costs accuracy in your runs of five epochs. What do you change?**
#
# <details><summary>Answer</summary>Train for more epochs, or leave mixup out. In our record, it paid only
# in long runs.</details>
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
