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
# # 6. Transfer learning
#
# Transfer learning starts a network from weights that were trained on another task. Only the last
# layer begins at random, because its outputs stand for your own classes. With timm:
#
# ```python
# net = timm.create_model("resnet18", pretrained=True, num_classes=10)  # trained on photographs
# ```
#
# Prepare the images as for those weights (see *In your own loop*). With weights that you have
# trained yourself:
#
# ```python
# given = torch.load("other_task.pt", map_location="cpu")  # the state dict of the other network
# given = {name: t for name, t in given.items() if not name.startswith("fc.")}  # no last layer
# missing, unexpected = net.load_state_dict(given, strict=False)  # only reports what is missing
# assert missing == ["fc.weight", "fc.bias"] and not unexpected
# ```
#
# `fc` is the last layer of a ResNet. In any timm network, `net.pretrained_cfg["classifier"]` is its
# name.
#
# **What it does.** The network reaches the same accuracy after fewer images. Here, the given
# weights come from a network that reads letters, and ours sorts clothes. The first layer alone
# brought no clear gain. Most of it came with the layers up to the second of four stages.
#
# **What it does not do.** It does not make a step of training cheaper, and it does not choose your
# learning rate. Tune it again: in our short runs, the best one was higher than from scratch. If you
# *freeze* the given layers, so that only the last one learns, you can save time. In our runs, this
# was less accurate than letting all layers learn.
#
# **What we did not measure.** All numbers on this page come from one pair of tasks and small
# networks. Weights from photographs, the usual case, are not among them.
#
# - **Use it when** pretrained weights exist for your network, and labels or time are short.
# - **Leave it when** you would have to train the weights first and only a few runs would use them.
#
# About 30 minutes to read, and four to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/06_transfer_learning.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/06_transfer_learning.ipynb).
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
# Our task is Fashion-MNIST, small grey pictures of ten kinds of clothes. The other task is to
# recognise characters, which a computer draws in five fonts. `BASELINE` is the plain training of
# chapter 0, AdamW at a constant learning rate, and `Transfer` is the trick. The *budget* in the
# line above depends on the device. It sets the network (a ResNet from the library timm), the image
# size, the images per run (here we use a half or a quarter) and the number of *seeds*, which fix
# the random weights and the order of the images.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from fasttricks import BASELINE, OneCycle, Transfer, choose_budget, load, train
from fasttricks.course import bars, found_in, gained, gains, headline, holds, one_line, plot, say
from fasttricks.models import begin, given_state, head_of, letters_file, save_weights
from fasttricks.tricks import Scratch, transfer

budget, device = choose_budget(), BASELINE.world.device()
quarter, half = budget.images // 4, budget.images // 2
data = load().to(device, budget.image_size)
letters = load("letters").to(device, budget.image_size)

# %% [markdown]
# **Is training faster?** Our studies were recorded beforehand, with a small ResNet on Fashion-MNIST
# (chapter 0). *The other six tricks* are those of the other chapters.

# %%
say(headline("transfer"))

# %% tags=["fold"]
from fasttricks.study.pages import equal_gains, paired


def interval(low, high):
    return f"95% interval: {low:+.2f} to {high:+.2f}"


study, rare = found_in("cpu"), found_in("few")
plain, given_too = rare.reference, f"{rare.reference} + transfer"
*_, (seen_most, *lead) = equal_gains(study, "plain + transfer")
*_, (seen_few, *lead_few) = equal_gains(rare, given_too)
passes, passes_few = seen_most / len(data.train), seen_few / rare.labels
last_lead = f"{lead_few[0]:+.2f} points after {passes_few:.0f} passes ({interval(*lead_few[1:])})"
say(
    f"The studies also compare the accuracy with this trick and without it, after equally many "
    f"images:\n\n- all {len(data.train):,} labels, added to plain training: {lead[0]:+.2f} points "
    f"after {passes:.1f} passes ({interval(*lead[1:])})\n"
    f"- {rare.labels:,} labels, added to one-cycle: {last_lead}"
)

# %% [markdown]
# **What do the weights cost?** The studies did not count the training of the weights. We divide
# what the weights cost by the seconds that each run saves.

# %% tags=["fold"]
from safetensors import safe_open

recorded = choose_budget("cpu")
with safe_open(letters_file(recorded.model, recorded.image_size), "pt") as file:
    made = file.metadata()
cost, counted = float(made["seconds"]), []
(alone,), (without,) = study.of("plain + transfer"), study.of("whole - transfer")
cases = {"plain training": (alone.compared, alone.ratio)}
cases["the other six tricks"] = without.train, without.ratio.inverse
for name, (slow, ratio) in cases.items():
    told = "no clear saving per run, so their cost may **never** be recouped"
    if ratio.low > 1:
        saved = [slow * (1 - 1 / times) for times in (ratio.value, ratio.high, ratio.low)]
        runs, least, most = (f"{float(f'{cost / each:.2g}'):,.0f}" for each in saved)
        told = (
            f"{saved[0]:.1f} s saved per run, so their cost is recouped after about "
            f"**{runs} runs** ({least} to {most}, by the interval of the ratio alone)"
        )
    counted.append(f"- Added to *{name}*: {told}.")
maker = made["cpu"].replace("1 threads", "one thread")
say(
    f"Making the weights took {cost:,.0f} s on {maker}. The runs used {study.hardware}.\n\n"
    + "\n".join(counted)
)

# %% [markdown]
# A run that is fast already has few seconds left to save. If somebody shares the weights, there is
# no cost to recoup.
#
# Here are training images of both tasks. A character is warped differently each time it is used.

# %% tags=["fold"]
from fasttricks.course import show

picked, noise = next(letters.draws(4, torch.Generator().manual_seed(0)))
clothes = [data.classes[number] for number in data.train.y[:4].tolist()]
pictures = [*letters.augment(letters.train.x[picked], noise), *data.train.x[:4]]
show(pictures, 4 * ["letter"] + clothes)
plt.show()

# %%
say(
    f"The two tasks look quite different. But a computer can draw as many images of the "
    f"{len(letters.classes)} characters as we like, and it knows their labels. The "
    f"{len(data.train):,} pictures of clothes had to be labelled one by one."
)

# %% [markdown]
# **How we compare.** We compare accuracies in pairs that share a seed. We call a difference
# *clear*, and say *higher* or *lower*, if all n pairs agree on its sign and its mean is at least
# 1/√n points. By chance alone, three signs agree one time in four, so a small difference is only a
# hint.
#
# ## The problem: few labels
#
# Suppose that we have labels for only 128 pictures. We train on them over and over, once *from
# scratch*, that is from random weights, and once *pretrained*, from the letters' weights. *New*
# images are the validation images, which take no part in training.
#
# The weights for the CPU's network come with the course. For any other, `make_letters` first trains
# them once, which takes some minutes on a GPU.

# %%
from fasttricks.pretrain import make_letters

make_letters(budget.model, budget.image_size)
few, opening = data.subset(128), {}
with one_line() as tell:  # progress, in one line
    opening["from scratch"] = train(BASELINE, few, images=half)
    opening["pretrained"] = train(BASELINE + Transfer(), few, images=half)
    tell(f"2 runs of {half:,} images")

# %% tags=["fold"]
from fasttricks.loop import accuracy

lines, right = {}, []
for name, run in opening.items():
    seen, _, scores = zip(*run.curve, strict=True)
    lines[name] = seen, scores
    right += [accuracy(run.net, few, few.train, BASELINE), run.val_accuracy]
plot(lines, "images seen", "accuracy on new images", "128 labels, one seed each", marks=True)
plt.show()

# %%
say(
    f"After {half / 128:.0f} passes over its 128 images, the network from scratch classifies "
    f"**{right[0]:.0%}** of them correctly, and **{right[1]:.0%}** of the new images. For the "
    f"pretrained network, these are {right[2]:.0%} and {right[3]:.0%}. On new images, pretrained "
    f"compared with scratch: {gained([right[3]], [right[1]], 0.1)}."
)

# %% [markdown]
# A large gap between the two numbers means that a network has memorised its images: it *overfits*.
# One seed at one learning rate cannot tell whether pretrained weights are better. *Use it* looks
# again.
#
# ## Write it
#
# All layers but the last are the *body*, which turns an image into a few numbers, its *features*.
# The last layer is the *head*, which turns features into one score per class:
#
# ```text
# letters  →  [ body ]  →  [ head: one output per character ]   trained before
#                │ copied
#                ▼
# clothes  →  [ body ]  →  [ head: one output per class ]       starts here
# ```
#
# The *state* of a network is a dict that maps names to tensors. A *transplant* copies every tensor
# of the given body by its name, and keeps our own head. If one does not fit, it raises an error.


# %%
def transplant(own, given, head):
    result = dict(own)
    for name, tensor in own.items():
        if name.startswith(head + "."):
            continue
        if name not in given or given[name].shape != tensor.shape:
            raise ValueError(f"{name} does not fit")
        result[name] = given[name]
    return result


# %% [markdown]
# By hand: the other network has five classes, ours has three. What do we get?

# %%
theirs = {"body.weight": torch.tensor([[1.0, 2], [3, 4]]), "fc.weight": torch.ones(5, 2)}
ours = {"body.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(3, 2)}
moved = transplant(ours, theirs, "fc")
moved

# %% tags=["fold", "nbval-check-output"]
holds(moved["body.weight"].tolist() == [[1, 2], [3, 4]], "the body is theirs")
holds(moved["fc.weight"].shape == (3, 2), "the head is ours: three rows")
holds(ours["body.weight"].sum() == 0, "what we began with is unchanged")

# %% [markdown]
# ## Check it
#
# Is this what PyTorch does? `fresh` makes the network with which a run begins. Its random weights
# depend on the seed alone.


# %%
def fresh(start, seed):
    torch.manual_seed(seed)
    shape = budget.model, data.channels, len(data.classes), budget.image_size
    return begin(BASELINE + start, *shape)


net = fresh(Scratch(), seed=0)
own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
given = given_state("letters", budget.model, budget.image_size)
head = head_of(net)  # the name of the last layer, "fc"

# %% [markdown]
# `load_state_dict(strict=False)` loads a part of a state. It raises an error if a shape is wrong,
# so we drop the letters' head. If tensors are missing, it only returns their names.


# %% tags=["nbval-check-output"]
def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in own)


begun = transplant(own, given, head)
holds(same(begun, transfer.transplant(own, given, head)), "our transplant is the package's")
body = {name: tensor for name, tensor in given.items() if not name.startswith(head + ".")}
missing, _ = net.load_state_dict(body, strict=False)
holds(same(begun, net.state_dict()), "load_state_dict(strict=False) gives the same state")
holds(missing == [f"{head}.weight", f"{head}.bias"], "only the head was missing")
missing, _ = net.load_state_dict({}, strict=False)
holds(set(missing) <= set(own) and missing, "with no tensors at all, it raises no error either")

# %% [markdown]
# So the two agree, and you have to read what `strict=False` returns.
#
# Next, *freezing*. `Transfer(freeze=1.0)` freezes all of the body, so that only the head learns.
# Does the body stay as it was? We take eight steps and look.

# %%
with one_line() as tell:
    still = train(BASELINE + Transfer(freeze=1.0), data, images=1024, evaluations=1)
    tell(f"{still.steps} steps with a frozen body")
after = {name: tensor.cpu() for name, tensor in still.net.state_dict().items()}
parameters = [name for name, _ in net.named_parameters() if not name.startswith(head + ".")]
means = [name for name in after if name.endswith("running_mean")]

# %% tags=["nbval-check-output"]
holds(all(torch.equal(after[n], given[n]) for n in parameters), "no parameter of the body moved")
holds(not any(torch.equal(after[n], given[n]) for n in means), "every running mean moved")

# %% [markdown]
# Not quite. Batch norm keeps a running mean and variance of the values that pass through it. They
# are not parameters, so they follow our images even in a frozen body. They stay as they are only in
# `eval()` mode, which every `net.train()` ends.
#
# ## In your own loop
#
# Remove the `-` lines of a plain PyTorch script and add the `+` lines. `folder` is a folder of your
# own photographs. Leave it empty to train on the clothes.
#
# ```diff
#  import torch.nn.functional as F
# +from safetensors.torch import load_file
#  from torchvision import datasets
#  ...
#  IMAGES, BATCH, LR = 138_368, 128, 1e-3
# +WEIGHTS = "fasttricks/weights/test_resnet-28-letters.safetensors"
#
#  ...
#      x, y, val_x, val_y = x[:-held], y[:-held], x[-held:], y[-held:]
# -    net = timm.create_model(MODEL, in_chans=x.shape[1], num_classes=int(y.max()) + 1)
# +    task = {"in_chans": x.shape[1], "num_classes": int(y.max()) + 1}
# +    net = timm.create_model(MODEL, pretrained=bool(folder), **task)  # photographs: from timm's hub
# +    if not folder:  # clothes: from letters, but for the head
# +        body = {k: t for k, t in load_file(WEIGHTS).items() if not k.startswith("fc.")}
# +        missing, _ = net.load_state_dict(body, strict=False)
# +        assert missing == ["fc.weight", "fc.bias"], "all but the head must be there"
#      net = net.to(device, memory_format=torch.channels_last)
# ```
#
# The complete script is [`examples/transfer.py`](../examples/transfer.py). For photographs, raise `SIZE` to 160: timm
# trained this small network so, with pixels from -1 to 1 as here.
#
# **Weights from photographs** expect the normalisation, and roughly the size, that they were
# trained with. timm knows both:
#
# ```python
# net = timm.create_model("resnet18", pretrained=True, num_classes=10)
# wanted = timm.data.resolve_model_data_config(net)  # resnet18: 224 pixels, mean (0.485, ...), ...
#
# size = wanted["input_size"][1:]  # x: (N, 3, H, W) bytes
# mean, std = (torch.tensor(wanted[k], device=x.device).view(1, 3, 1, 1) for k in ("mean", "std"))
# x = F.interpolate(x / 255, size=size, mode="bilinear", antialias=True)
# logits = net((x - mean) / std)
# ```
#
# This resizes the whole picture. timm's own transform, `timm.data.create_transform(**wanted)`,
# takes image files and crops the centre instead.
#
# For grey images, add `in_chans=1`. timm then sums the three colours of the first filters (exercise
# 1), and you use one mean and one std, such as their averages. A smaller size is faster, but
# ResNet-18 halves it five times: 28 pixels shrink to one.
#
# **Middle ways.** Either freeze the body:
#
# ```python
# net.requires_grad_(False)
# net.fc.requires_grad_(True)
# optimizer = torch.optim.AdamW(net.fc.parameters(), lr=1e-3)
# net.eval()  # in training too, instead of net.train(): batch norm keeps its averages
# ```
#
# The given averages may not fit new images: *Break it* tries a remedy. Or let the body learn more
# slowly than the head:
#
# ```python
# body = [p for name, p in net.named_parameters() if not name.startswith("fc.")]
# groups = [{"params": net.fc.parameters(), "lr": 1e-3}, {"params": body, "lr": 1e-4}]
# optimizer = torch.optim.AdamW(groups)
# ```
#
# We measure both below.
#
# ## Use it: how much does it gain?
#
# Is a pretrained network better in the end, or only sooner? Is there a gain only when labels are
# few? We compare three settings:
#
# 1. **short:** all labels, a quarter of the budget's images
# 2. **longer:** all labels, half of the budget's images
# 3. **few labels:** 128 labels, as many images as in setting 2, so only the labels differ
#
# A fixed learning rate would favour the start that it happens to suit. We therefore use one-cycle
# (chapter 3), which raises the rate to a *peak* and lowers it again, and tune the peak for each
# start in each setting. Peaks are multiples of the baseline's rate.

# %%
starts = {"scratch": Scratch(), "pretrained": Transfer()}
starts["slow body"] = Transfer(body_lr=0.1)  # pretrained, the body at a tenth of the head's rate
seeds = range(1, 1 + budget.seeds)

# %% [markdown]
# The folded cells define `tune` and `compare`. `tune` trains each start at several peaks on seed 0
# and returns the accuracies. `compare` trains each start at its best peak on other seeds, because
# the accuracies that chose it look a little too good. It returns the runs.

# %% tags=["fold"]
from dataclasses import replace


def trained(name, peak, seed, images, labels=None):
    drawn, start = data, starts[name]
    if labels:  # every seed has pictures of its own
        drawn = replace(data, train=data.train[labels * seed : labels * (seed + 1)])
    if callable(start):  # some starts, below, depend on the seed
        start = start(seed)
    recipe = BASELINE + OneCycle(float(peak)) + start
    return train(recipe, drawn, images=images, seed=seed, evaluations=1)


# %% tags=["fold"]
def tune(grid, images, labels=None):
    found = {name: {} for name in grid}
    with one_line() as tell:
        for name, peaks in grid.items():
            for peak in peaks:
                found[name][peak] = trained(name, peak, 0, images, labels).val_accuracy
        tell(f"{sum(map(len, grid.values()))} runs to tune, of {images:,} images")
    return found


def compare(found, images, labels=None):
    arms = {name: [] for name in found}
    with one_line() as tell:
        for seed in seeds:
            for name, by_peak in found.items():
                best = max(by_peak, key=by_peak.get)
                arms[name].append(trained(name, best, seed, images, labels))
        tell(f"{len(arms) * len(seeds)} runs to compare, of {images:,} images")
    return arms


# %% [markdown]
# In setting 2, we try only the peaks that are best in setting 1.

# %%
both = ("scratch", "pretrained")
short_found = tune(dict.fromkeys(both, (3, 10, 30, 100)), quarter)
pair = sorted({max(by_peak, key=by_peak.get) for by_peak in short_found.values()})
long_found = tune(dict.fromkeys(both, pair), half)
few_grid = {"scratch": (3, 10, 30), "pretrained": (3, 10, 30), "slow body": (10, 30, 100)}
few_found = tune(few_grid, half, labels=128)

# %% [markdown]
# Here is the best peak of each start. A star marks the end of the range that was tried: a better
# peak may lie outside.

# %% tags=["fold"]
found = {"1. short": short_found, "2. longer": long_found, "3. few labels": few_found}


def at_edge(by_peak):
    return max(by_peak, key=by_peak.get) in (min(by_peak), max(by_peak))


chosen = {
    how: {
        name: f"{max(peaks, key=peaks.get)}{'*' * at_edge(peaks)}" for name, peaks in arms.items()
    }
    for how, arms in found.items()
}
pd.DataFrame(chosen).T.fillna("")

# %% [markdown]
# Now each start has its own peak, and we compare them.

# %%
short = compare(short_found, quarter)
longer = compare(long_found, half)
few_labels = compare(few_found, half, labels=128)

# %% [markdown]
# The table shows the mean accuracies, and what the paired runs say.


# %% tags=["fold"]
def against(runs, others):
    return gained([run.val_accuracy for run in runs], [run.val_accuracy for run in others], 0.1)


settings = {f"1. short: {quarter:,} images": short, f"2. longer: {half:,} images": longer}
settings[f"3. few labels: 128 labels, {half:,} images"] = few_labels
shown, leads = {}, []
for setting, arms in settings.items():
    means = {name: sum(run.val_accuracy for run in arms[name]) / len(seeds) for name in both}
    told = against(arms["pretrained"], arms["scratch"])
    leads.append([lead / 100 for lead in gains(arms["pretrained"], arms["scratch"])])
    shown[setting] = {name: f"{mean:.3f}" for name, mean in means.items()}
    shown[setting]["pretrained, compared with scratch"] = told
pd.DataFrame(shown).T

# %% tags=["fold"]
verdicts = [row["pretrained, compared with scratch"] for row in shown.values()]
ahead = sum("higher" in verdict for verdict in verdicts)
by_length, by_labels = gained(leads[1], leads[0]), gained(leads[2], leads[1])
known = [
    accuracy(run.net, data, data.train[128 * seed : 128 * (seed + 1)], BASELINE)
    for seed, run in zip(seeds, few_labels["scratch"], strict=True)
]
say(
    f"The pretrained network is clearly ahead in **{ahead} of 3** settings.\n\n"
    f"- *Longer training.* The lead in setting 2, compared with setting 1: **{by_length}**.\n"
    f"- *Fewer labels.* The lead in setting 3, compared with setting 2: **{by_labels}**.\n"
    f"- *Memory.* In setting 3, scratch classifies {'at least ' * (min(known) < 1)}"
    f"{min(known):.0%} of its own pictures correctly."
)

# %% [markdown]
# With all labels, these runs are short: none sees every picture even once. Does the lead last? A
# recorded study trained for many more passes, with a tenth of the labels. *Regularised* means with
# mixup and label smoothing (chapters 4 and 5), which work against overfitting. All its runs share
# one peak, which may favour one start.

# %% tags=["fold"]
ways = {"scratch": plain, "pretrained": given_too}
ways["regularised scratch"] = f"{plain} + mixup + smoothing"
ways["regularised pretrained"] = f"{plain} + mixup + smoothing + transfer"
lines, bands, counts = {}, [], set()
for name, arm in ways.items():
    images, *_ = zip(*sorted(rare.accuracies[arm]), strict=True)
    scores = [some for _, *some in sorted(rare.accuracies[arm])]
    means, *band = zip(*(paired([(one, 0) for one in some]) for some in scores), strict=True)
    lines[name] = [number / rare.labels for number in images], means
    bands.append(band)
    counts |= {len(some) for some in scores}
among = " or ".join(map(str, sorted(counts)))
title = f"{rare.labels:,} labels, means of {among} seeds, bands: 95% intervals"
figure = plot(lines, "passes over the labelled pictures", "accuracy, %", title, marks=True)
(axes,) = figure.axes
for line, (low, high) in zip(axes.lines, bands, strict=True):
    axes.fill_between(line.get_xdata(), low, high, color=line.get_color(), alpha=0.15)
plt.show()


# %% tags=["fold"]
def beside(own, other, same=True):
    arms = [{int(n): some for n, *some in rare.accuracies[ways[one]]} for one in (own, other)]
    common = max(set(arms[0]) & set(arms[1]))
    ends = [common if same else max(arm) for arm in arms]
    first, second = (arm[end] for arm, end in zip(arms, ends, strict=True))
    points, low, high = paired(list(zip(first, second, strict=False)))  # the seeds that both have
    long, other_long = (f"{end / rare.labels:.0f} passes" for end in ends)
    who = f"{own} ({long}), compared with {other} ({other_long})"
    return f"- *{who}*: {points:+.2f} points ({interval(low, high)})\n", low


asked = [("pretrained", "scratch", True)]
asked += [("regularised pretrained", "regularised scratch", True)]
asked += [("pretrained", "scratch", False), ("pretrained", "regularised scratch", False)]
told, lows = zip(*(beside(*one) for one in asked), strict=True)

# %%
say(
    "Differences in accuracy:\n\n"
    + "".join(told)
    + "\nSo in this study, "
    + (
        "pretrained weights were not only faster. At equal length they were ahead, and longer "
        "training from scratch did not catch up within the lengths that we tried. "
        if min(lows[:3]) > 0
        else "scratch **may catch up** if it is trained longer. "
    )
    + (
        "But scratch, if regularised *and* trained longer, was not clearly behind pretrained "
        "weights with neither."
        if lows[3] <= 0
        else "Nor did it catch up if regularised as well, with pretrained weights that were not."
    )
    + f" With all labels, we cannot tell: the longest comparison makes {passes:.1f} passes."
)

# %% [markdown]
# In object detection, training from scratch did catch up (He et al. 2018, arXiv 1811.08883).
#
# ## Which part does the work?
#
# A filter of the first layer multiplies the pixels under it by its weights and adds the products.
# The sum is its *answer*. If its weights sum to zero, it answers only where the brightness changes,
# as at an edge. We call it *blind* to flat surfaces. To measure this, we divide the absolute value
# of the weights' sum by the sum of their absolute values: 0 is a blind filter, and 1 is the largest
# value.

# %%
first = net.pretrained_cfg["first_conv"] + ".weight"  # the name of the first filters
flat = {}
for name, state in {"random": own, "letters": given}.items():
    weights = state[first].flatten(1)
    flat[name] = weights.sum(1).abs() / weights.abs().sum(1)

# %% [markdown]
# Here is what eight filters of each set answer to the same shoe, evenly spread from the most to the
# least blind. Middle grey means no answer.

# %% tags=["fold"]
from fasttricks.course import answers

boots = data.val.x[data.val.y == data.classes.index("ankle boot")]
shoe, answered = data.normalise(boots[:1]).cpu(), {}
for name, state in {"random": own, "letters": given}.items():
    spots = torch.linspace(0, len(flat[name]) - 1, 8).round().long()
    answered[name] = F.conv2d(shoe, state[first][flat[name].argsort()[spots]])[0]
answers(shoe[0, 0], answered)
plt.show()

# %%
blind = {origin: int((values < 0.05).sum()) for origin, values in flat.items()}
say(
    f"Nearly blind filters, with a value below 0.05: **{blind['random']} of "
    f"{len(flat['random'])}** in a random first layer, and **{blind['letters']} of "
    f"{len(flat['letters'])}** in that of the letters."
)

# %% [markdown]
# Blind filters keep the outlines of the shoe. So here is a tempting story: *the first layer, with
# its edge filters, is what helps.* If it is true, the first layer alone should gain about as much
# as the whole body. If blindness is what counts, random filters should help, too, once we make them
# blind. So we test three starts. All other weights are random, the same as in scratch with that
# seed.

# %%
names = [name for name in own if name in body]  # from the input to the features
third = next(number for number, name in enumerate(names) if name.startswith("layer3"))


def blinded(filters):
    return filters - filters.mean((1, 2, 3), keepdim=True)


parts = {
    "random, made blind": lambda own: {first: blinded(own[first])},
    "first layer": lambda own: {name: given[name] for name in names[:6]},  # with its batch norm
    "first half": lambda own: {name: given[name] for name in names[:third]},  # 2 of 4 stages
}

# %% tags=["fold"]
percent = sum(own[name].numel() for name in names[:third]) / sum(own[n].numel() for n in names)
say(
    f"The network here, `{budget.model}`, has {sum(p.numel() for p in net.parameters()):,} "
    f"parameters: first layers, four stages and the head. Our *first half* is all that comes "
    f"before the third stage: {percent:.0%} of the body's numbers."
)

# %% [markdown]
# The folded cell makes a start of each part, and checks it.

# %% tags=["fold"]
import tempfile
from pathlib import Path

folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "start.safetensors"


def partly(part):
    def start(seed):
        net = fresh(Scratch(), seed)
        net.load_state_dict(net.state_dict() | parts[part](net.state_dict()))
        save_weights(net, file)
        return Transfer(str(file))  # a start can come from a file

    return start


starts |= {part: partly(part) for part in parts}

# %% tags=["fold", "nbval-check-output"]
other, right = fresh(Scratch(), seed=1).state_dict(), []
for part, count in {"random, made blind": 0, "first layer": 6, "first half": third}.items():
    begun = fresh(starts[part](1), seed=1).state_dict()
    right += [torch.equal(begun[name], given[name]) for name in names[:count]]
    rest = [name for name in own if name not in [first, *names[:count]]]
    right += [torch.equal(begun[name], other[name]) for name in rest]
holds(all(right), "each start has its part of the letters' body, and the rest as in scratch")

# %% [markdown]
# We tune each at the peaks that were best in setting 1, and compare them as we did there. In the
# figure, dots are seeds, bars are means, and lines span the dots.

# %%
by_part = compare(tune(dict.fromkeys(parts, pair), quarter), quarter)
by_part["whole body"] = short["pretrained"]

# %% tags=["fold"]
folder.cleanup()  # the files of the starts
above = {part: gains(runs, short["scratch"]) for part, runs in by_part.items()}
bars(above, "accuracy above scratch, points", f"{quarter:,} images, parts of the letters' body")
plt.show()

# %% tags=["fold"]
told = {part: against(runs, short["scratch"]) for part, runs in by_part.items()}
beyond = against(by_part["whole body"], by_part["first layer"])
half_gain, whole_gain = (sum(above[part]) / len(seeds) for part in ("first half", "whole body"))
if "higher" not in told["whole body"]:
    story = "**could not be tested**, because the whole body brings no clear gain"
elif "higher" not in beyond:
    story = "is **not refuted** by these runs"
elif "higher" in told["first layer"]:
    story = "is **part of the truth, but not all of it**"
else:
    story = "is **not supported** by these runs"
say(
    "Compared with scratch:\n\n"
    + "".join(f"- *{part}*: {verdict}\n" for part, verdict in told.items())
    + f"\nThe whole body, compared with the first layer: {beyond}. So the story {story}. The "
    f"mean gain of the first half is {half_gain:+.1f} points, and that of the whole body is "
    f"{whole_gain:+.1f}."
)

# %% [markdown]
# The test is about the layer, its filters and its batch norm, not about edges as such. A layer on
# its own may bring little because the next one was trained to work on its output (Yosinski et al.
# 2014, arXiv 1411.1792).
#
# So a figure of filters is no proof. You have to train with the part alone.
#
# ## Break it: freeze the body
#
# If the body does not learn, batch norm is in eval mode, and images are not augmented, then the
# features of an image never change. So we compute them once and train only the head on them. Before
# that, batch norm averages over some of our images, which takes no labels. We also try it with the
# averages that came with the weights.


# %%
@torch.no_grad()
def features(net, x):
    maps = [net.forward_features(data.normalise(part)) for part in x.split(128)]
    return torch.cat([net.forward_head(part, pre_logits=True) for part in maps])


def frozen(start, seed, x, averages):
    net = fresh(start, seed).to(device)
    if averages == "given":
        return net.eval()
    for layer in net.train().modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches that it sees
    features(net, x[: 16 * 128])  # in training mode, batch norm measures what passes through
    return net.eval()


# %% [markdown]
# For the head, we use an optimizer that needs no learning rate. A penalty keeps its weights small.


# %%
def fit_head(x, y, penalty):
    head = nn.Linear(x.shape[1], len(data.classes)).to(device)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        found = F.cross_entropy(head(x), y) + penalty * head.weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    return head


# %% [markdown]
# We do this in settings 1 and 3. A *frozen random* body is the control: it shows what such a head
# reaches without transfer. `probes`, in the folded cell, chooses the penalty on seed 0, as `tune`
# chooses peaks. It returns accuracy and seconds for each seed.

# %% tags=["fold"]
from fasttricks.loop import now


def probe(way, setting, seed, penalty):
    if setting == 3:
        pictures = data.train[128 * seed : 128 * (seed + 1)]
    else:
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
        pictures = data.train[order[:quarter]]
    start, averages = way
    begun = now(device)
    net = frozen(start, seed, pictures.x, averages)
    head = fit_head(features(net, pictures.x), pictures.y, penalty)
    seconds = now(device) - begun
    new = data.val[: budget.val]  # the pictures that judge all other runs, too
    right = head(features(net, new.x)).argmax(1) == new.y
    return right.float().mean().item(), seconds


def probes(way, setting):
    best = max((1e-4, 1e-3, 1e-2), key=lambda penalty: probe(way, setting, 0, penalty)[0])
    return [probe(way, setting, seed, best) for seed in seeds]


# %%
held = {"frozen random": (Scratch(), "new"), "frozen, given averages": (Transfer(), "given")}
held["frozen"] = Transfer(), "new"
probed = {name: probes(way, setting=1) for name, way in held.items()}
few_probed = probes(held["frozen"], setting=3)

# %% [markdown]
# The figure shows setting 1: how much more accurate each is than scratch.

# %% tags=["fold"]
zero = [run.val_accuracy for run in short["scratch"]]
learned = [run.val_accuracy for run in short["pretrained"]]
bodies = {name: [score for score, _ in found] for name, found in probed.items()}
scores_by_body = bodies | {"pretrained, all layers learn": learned}
above = {
    name: [100 * (score - other) for score, other in zip(scores, zero, strict=True)]
    for name, scores in scores_by_body.items()
}
bars(above, "accuracy above scratch, points", f"{quarter:,} images, all labels")
plt.show()


# %% tags=["fold"]
def times_as_fast(own, other):
    ratios = [float(f"{b / a:.2g}") for a, b in zip(own, other, strict=True)]
    few, many = f"{min(ratios):g}", f"{max(ratios):g}"
    return f"{few} times as fast" if few == many else f"{few} to {many} times as fast"


costs, times, lines = [], [], []
for which, own_runs, runs in ((1, probed["frozen"], short), (3, few_probed, few_labels)):
    scores, seconds = zip(*own_runs, strict=True)
    others = [[run.val_accuracy for run in runs[name]] for name in ("pretrained", "scratch")]
    beside_both = [gained(scores, other, 0.1) for other in others]
    costs.append(beside_both[0])
    times.append(times_as_fast(seconds, [run.train_seconds for run in runs["pretrained"]]))
    lines.append(f"| frozen, setting {which} | {' | '.join(beside_both)} | {times[-1]} |")
slow_body = [against(few_labels["slow body"], few_labels[name]) for name in reversed(both)]
edge = " (its best peak was at the edge)" * at_edge(few_found["slow body"])
lines.append(f"| slow body, setting 3{edge} | {' | '.join(slow_body)} | not measured |")
say(
    "| | accuracy, compared with pretrained | accuracy, compared with scratch | time, compared "
    "with pretrained |\n|---|---|---|---|\n" + "\n".join(lines)
)

# %% tags=["fold"]
control = gained(bodies["frozen"], bodies["frozen random"], 0.1)
anew = gained(bodies["frozen"], bodies["frozen, given averages"], 0.1)
lower = [which for which, cost in zip((1, 3), costs, strict=True) if "lower" in cost]
if any("higher" in cost for cost in costs):
    freezing = "**gains accuracy** in one setting or both"
elif lower:
    where = "both settings" if len(lower) == 2 else f"setting {lower[0]}, not clearly in the other"
    freezing = f"**costs accuracy** in {where}"
else:
    freezing = "makes **no clear difference** to the accuracy"
say(
    f"A frozen body, compared with a frozen random one: {control}. "
    + ("So the letters' features are useful. " if "higher" in control else "")
    + f"Averaging batch norm over our images, compared with the letters' averages: {anew}. "
    f"Compared with letting all layers learn, freezing {freezing}."
)

# %% [markdown]
# A frozen body can offer only the features that letters needed. It saves time, most where there are
# many passes.
#
# ## What we have found
#
# The trick's *card* is at the top of [its file](../fasttricks/tricks/transfer.py). Here we compare
# its claims with our runs.

# %% tags=["fold"]
peak_leads = {
    peak: 100 * (short_found["pretrained"][peak] - known)
    for peak, known in short_found["scratch"].items()
}
at_peaks = ", ".join(f"{points:+.1f} at peak {peak}" for peak, points in peak_leads.items())
seen = [
    "**seen**" if "higher" in told else "**the opposite**" if "lower" in told else "**not clear**"
    for told in verdicts
]
say(
    f"| the card says | we found |\n|---|---|\n"
    f"| the weights cost one training | {cost:,.0f} s for the small network, with one thread |\n"
    f"| pays when budgets are short | {seen[0]}: {verdicts[0]} after {quarter:,} images |\n"
    f"| pays when labels are few | {seen[2]}: {verdicts[2]} with 128 labels. Recorded with "
    f"{rare.labels:,}: {last_lead} |\n"
    f"| fails when the run is long and labels are many | **not tested**: the longest run that was "
    f"compared makes {passes:.1f} passes |\n"
    "| the images must not be too different | **not tested**: one pair of tasks |\n"
    f"| a high peak forgets the body | **not clear**, because one seed only: in setting 1, the "
    f"lead is {at_peaks} |\n"
    f"| freezing makes steps cheaper | **not tested**. Features computed once, compared with "
    f"training all layers: {times[0]} in setting 1, and {times[1]} in setting 3 |"
)

# %%
freeze = "Try both: all layers learning, and a frozen body with features that are computed once"
if "costs" in freezing:
    freeze = (
        "Let all layers learn. Features of a frozen body, computed once, are for a quick first "
        "answer"
    )
rule = "These runs show no clear gain, so compare both starts on your own task"
if any("higher" in verdict for verdict in verdicts):
    rule = (
        "If pretrained weights exist for your network, start from them, and tune the learning rate "
        "again. We did not test how different the images may be"
    )
say(
    f"**The rule of thumb.** {rule}. {freeze}. Train weights yourself only if enough runs will "
    f"share them: divide their cost by what a run saves. All this is from small networks and one "
    f"pair of tasks."
)

# %% [markdown]
# ## Questions
#
# **1. Why does the head stay behind?**
#
# <details><summary>Answer</summary>Its rows stand for the other task's classes. Our classes are
# different, and so is their number.</details>
#
# **2. The body is frozen, yet the same image gets different features after training. Why?**
#
# <details><summary>Answer</summary>The running statistics of batch norm have changed to those of
# the new images.</details>
#
# **3. A colleague freezes a pretrained body and reaches a good accuracy. Which controls do you ask
# for?**
#
# <details><summary>Answer</summary>The same with a random body: only the accuracy above that is due
# to the pretraining. And a run in which all layers learn.</details>
#
# **4. With few labels and a short run, a pretrained network is far ahead. Is it because labels are
# few?**
#
# <details><summary>Answer</summary>It may also be because the run is short. Change one thing at a
# time: train as long with all labels, and longer with few.</details>
#
# **5. You compute the features of a frozen body once. Which two parts of usual training do you give
# up?**
#
# <details><summary>Answer</summary>Augmentation, because it changes the images in each pass, and
# batch norm in training mode, because features would depend on the batch.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell, which checks it.
#
# **Exercise 1.** From the given first filters, make filters for any number of colours, so that a
# grey picture, copied into every colour, gets the same response as before.


# %%
from fasttricks.course import check


def recolour(weight, colours):
    raise NotImplementedError


check("transfer", 1, recolour)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def recolour(weight, colours):
#     return weight.sum(1, keepdim=True).expand(-1, colours, -1, -1) / colours
# ```
#
# </details>
#
# **Exercise 2.** Pretraining costs `cost` seconds, and each run that starts from its weights saves
# `saved` seconds. After how many runs has it paid for itself? Return `math.inf` if a run saves
# nothing.


# %%
def paid_after(cost, saved):
    raise NotImplementedError


check("transfer", 2, paid_after)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def paid_after(cost, saved):
#     import math
#
#     return math.ceil(cost / saved) if saved > 0 else math.inf
# ```
#
# </details>
#
# **Exercise 3.** Make each block learn more slowly than the next. Given the parameter names, in
# order from the input, return a dict of factors: 1 for the head, `decay` for the block before it,
# and so on. A block is the part of a name before its first dot, so `conv1` and `bn1` are two
# blocks.


# %%
def layer_rates(names, head, decay):
    raise NotImplementedError


check("transfer", 3, layer_rates)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def layer_rates(names, head, decay):
#     blocks = list(dict.fromkeys(name.split(".")[0] for name in names))
#     body = [block for block in blocks if block != head]
#     rates = {block: decay ** (len(body) - i) for i, block in enumerate(body)}
#     return {name: rates.get(name.split(".")[0], 1.0) for name in names}
# ```
#
# </details>
#
# ## Further reading
#
# - Yosinski et al. 2014, [arXiv 1411.1792](https://arxiv.org/abs/1411.1792): which layers are
#   general and which are specific to their task.
# - He et al. 2018, [arXiv 1811.08883](https://arxiv.org/abs/1811.08883): when training from scratch
#   is just as good.
# - Raghu et al. 2019, [arXiv 1902.07208](https://arxiv.org/abs/1902.07208): how much of the gain is
#   in the features.
