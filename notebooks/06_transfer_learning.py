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
# A new network knows nothing. Before it can tell a shoe from a shirt, it must learn to see, and much of
# that may be the same for every task. So we start from weights that were trained on another task, and
# replace only the last layer:
#
# ```text
# letters  →  [ body: every layer but the last ]  →  [ head: one output per character ]  trained before
#                            │ copied
#                            ▼
# clothes  →  [ body: every layer but the last ]  →  [ head: one output per class ]      starts here
# ```
#
# This chapter asks three questions. How much accuracy does the better start bring? Which part of the
# network brings it? And after how many runs has it paid for its own training?
#
# About 20 minutes to read, and two to run.

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
# The images are Fashion-MNIST: small grey pictures of ten kinds of clothes. A *recipe* is a list of training
# settings, to which we can add tricks. `BASELINE` is the plain one: the optimiser AdamW at a constant
# learning rate, batches of 128 images, and no tricks. The budget depends on the device. It sets which
# network we train, and on how many images.

# %%
from fasttricks import BASELINE, OneCycle, Transfer, choose_budget, load, train
from fasttricks.course import headline, say
from fasttricks.models import begin, given_state, head_of

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)
quarter, half = budget.images // 4, budget.images // 2
net = begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)

# %%
say(
    f"There are {len(data.train):,} images to train on. The network is a small residual network, `{budget.model}`, "
    f"with {sum(parameter.numel() for parameter in net.parameters()):,} weights."
)

# %% [markdown]
# First, here is what our recorded study found about this trick. "2 times as fast" means half the time, "paired
# seeds" means that both recipes drew the same random numbers, and chapter 0 explains the rest. The seconds do
# not contain the making of the weights, which the section *Who paid?* adds.
#
# Below it is the trick's card. There, *theta_0* are the initial weights. The *slot* is the part of training
# that a trick changes, here the start, and a recipe has room for a *single* start. *Unlike* means unlike the
# images of the other task. One-cycle (chapter 3) raises and lowers the learning rate, and its *peak* is the
# highest rate. *Cheaper* steps are compared with steps in which all layers learn. At the end, we check what
# the card promises.

# %%
from IPython.display import Markdown

from fasttricks.tricks import transfer

say(headline("transfer"))
Markdown(transfer.__doc__)

# %% [markdown]
# ## The problem: few labels
#
# Suppose that somebody has labelled only 128 images, a single batch. We train on them over and over. The
# images are mirrored at random, but there is never a new one.

# %%
from fasttricks.course import (
    accuracy_table,
    bars,
    faster,
    gained,
    gains,
    holds,
    median,
    one_line,
    plot,
)
from fasttricks.loop import accuracy

few = data.subset(128)
with one_line() as tell:
    fresh = train(BASELINE, few, images=half, evaluations=4)
    tell(f"One run of {half:,} images")

# %% [markdown]
# How accurate is the network on new images (the validation images), and on its own 128?

# %%
import matplotlib.pyplot as plt

seen, _, scores = zip(*fresh.curve, strict=True)
own_labels = accuracy(fresh.net, few, few.train, BASELINE)
lines = {"new images": (seen, scores), "its own 128, at the end": (seen[-1:], [own_labels])}
plot(lines, "images seen", "accuracy", "from scratch on 128 labels, one seed", marks=True)
plt.show()

# %%
gap = 100 * (own_labels - scores[-1])
judged = f"a gap of {gap:.0f} points" if gap > 5 else "hardly a gap"
say(
    f"After {half / 128:.0f} passes over its 128 images, the network classifies {100 * own_labels:.0f} % of them "
    f"correctly, and {100 * scores[-1]:.0f} % of the new images: **{judged}**. The first point, at "
    f"{scores[0]:.2f}, comes after only {seen[0] / 128:.0f} steps, because each pass is a single step here."
)

# %% [markdown]
# More labels would help, but they are expensive. *Letters* are cheap, because a computer can draw and label
# as many as we like. So we first train a network to read 858 characters in five fonts. The upper row shows
# the prints, and the lower row what the network sees: a different warp each time.

# %%
import torch

from fasttricks.course import show

letters = load("letters").to(device, budget.image_size)
rows, noise = next(letters.draws(8, torch.Generator().manual_seed(0)))
show([*letters.train.x[rows]], ["print"] * 8)
show([*letters.augment(letters.train.x[rows], noise)], ["warped"] * 8)
plt.show()

# %% [markdown]
# We repeat the run, but start from the weights of that network. They come with the course. (A GPU trains a
# larger network, ResNet-18. For that one, `make_letters` makes them now, once.)

# %%
from fasttricks.pretrain import make_letters

CHANCE = 0.1  # the accuracy of guessing among ten classes
make_letters(budget.model, budget.image_size)
with one_line() as tell:
    reader = train(BASELINE + Transfer(), few, images=half, evaluations=4)
    tell(f"One run of {half:,} images")
reader_scores = [point[2] for point in reader.curve]
lines = {"from scratch": (seen, scores), "pretrained on letters": (seen, reader_scores)}
plot(lines, "images seen", "accuracy on new images", "128 labels, one seed each", marks=True)
plt.show()

# %%
say(
    f"On new images, the network that was pretrained on letters ends at {reader_scores[-1]:.3f}, and the one "
    f"from scratch at {scores[-1]:.3f}. The pretrained one is **"
    f"{gained([reader_scores[-1]], [scores[-1]], CHANCE)}**."
)

# %% [markdown]
# That was one *seed* (it fixes the random weights and the order of the images), and one learning rate for
# both. We make a fair comparison below.
#
# **What did it learn from the letters?** We compare its weights with random ones. A *state* is a dict from
# the name of each tensor to the tensor.

# %%
torch.manual_seed(0)
net = begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)
head, first = head_of(net), net.pretrained_cfg["first_conv"] + ".weight"
own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
given = given_state("letters", budget.model, budget.image_size)
states = {"random": own, "letters": given}

# %% [markdown]
# The first layer consists of small filters. A filter multiplies the pixels under it by its weights and sums
# the products. On a flat surface all these pixels are equal, so the answer is the pixel times the *sum* of
# the weights. We divide the size of this sum by the largest value that it could have, which it reaches if
# all weights have the same sign. A filter at 0 is blind to flat surfaces: it answers only where the
# brightness changes, as at an edge. A filter at 1 averages pixels or copies a single one. Here is every
# filter of the layer, sorted, with the line below which we call a filter nearly blind.

# %%
flat, order = {}, {}
for name, state in states.items():
    weights = state[first].flatten(1)
    share = weights.sum(1).abs() / weights.abs().sum(1)
    flat[name], order[name] = share.sort()
ranks = range(1, len(share) + 1)
lines = {name: (ranks, values.tolist()) for name, values in flat.items()}
lines["nearly blind below this line"] = (ranks, [0.05] * len(ranks))
plot(lines, "filter, sorted", "answer to a flat surface", "the first layer's filters", marks=True)
plt.show()

# %%
blind = {origin: int((values < 0.05).sum()) for origin, values in flat.items()}
say(
    f"With random weights, **{blind['random']} of {len(flat['random'])}** filters are nearly blind to flat "
    f"surfaces. After training on letters, **{blind['letters']} of {len(flat['letters'])}** are."
)

# %% [markdown]
# What does that look like? Each row shows a shoe and the answers of four filters, evenly spaced from the
# left end of the curve to its right end. The title is the filter's value in the figure above. (Each panel
# has its own grey scale.)

# %%
boots = data.val.x[data.val.y == data.classes.index("ankle boot")]
shoe = data.normalise(boots[:1]).cpu()
for name, state in states.items():
    spots = torch.linspace(0, len(ranks) - 1, 4).long()
    responses = torch.nn.functional.conv2d(shoe, state[first][order[name][spots]])[0]
    titles = [f"{name}: {value:.2f}" for value in flat[name][spots]]
    show([shoe[0, 0], *responses], ["the shoe", *titles])
plt.show()

# %% [markdown]
# A filter with a value near 0 keeps the outlines and discards the brightness. Some random filters do so by
# chance. Letters consist of outlines, and shoes have them too. Networks trained on photographs learn edge
# filters as well, whatever their task (Yosinski et al. 2014, arXiv 1411.1792). So here is a tempting story:
# *the edge filters of the first layer are what helps.* The figures show what was learned, but not that it
# helps. Below we test the story.
#
# ## Write it
#
# The *body* turns an image into a few numbers, called features, and the *head* turns these into classes.
# A transplant takes every tensor of the given body, by name, and keeps our own head, because its rows stand
# for our classes. If a body does not fit, we raise an error.


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
# Here are two minimal states: the other task's network with five classes, and ours with three.

# %%
theirs = {"body.weight": torch.tensor([[1.0, 2], [3, 4]]), "fc.weight": torch.ones(5, 2)}
ours = {"body.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(3, 2)}
moved = transplant(ours, theirs, "fc")
moved

# %% [markdown]
# The result has their body and our head. The letters' network has a larger head than ours, too:

# %% tags=["nbval-check-output"]
holds(moved["body.weight"].tolist() == [[1, 2], [3, 4]], "the body is theirs")
holds(moved["fc.weight"].shape[0] == 3, "the head has our three rows")
holds(ours["body.weight"].sum() == 0, "what we began with is unchanged")
rows = given[f"{head}.weight"].shape[0], own[f"{head}.weight"].shape[0]
holds(rows == (len(letters.classes), 10), "the letters' head has one row per character")

# %% [markdown]
# A state contains more than weights. Batch norm keeps a running mean and variance of the values that pass
# through it, which are copied, too.
#
# ## Check it
#
# First, with the same number of colours, our function does what the package does.


# %% tags=["nbval-check-output"]
def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in own)


begun = transplant(own, given, head)
holds(same(begun, transfer.transplant(own, given, head)), "ours is the package's")

# %% [markdown]
# Second, torch can also load part of a state. We drop the letters' head, and torch reports what was
# missing.

# %% tags=["nbval-check-output"]
headless = {n: tensor for n, tensor in given.items() if not transfer.is_head(n, head)}
report = net.load_state_dict(headless, strict=False)
holds(same(begun, net.state_dict()), "torch's load_state_dict(strict=False) gives the same state")
holds(report.missing_keys == [f"{head}.weight", f"{head}.bias"], "only the head was missing")

# %% [markdown]
# A warning: `strict=False` raises no error when a whole body is missing, so read the report. And it is not
# as lenient as its name: a tensor of the wrong shape still raises one. That is why we dropped the head.

# %% tags=["nbval-check-output"]
try:
    net.load_state_dict(given, strict=False)
    complaint = ""
except RuntimeError as error:
    complaint = str(error)
holds("size mismatch" in complaint, "with the letters' head left in, strict=False raises an error")
report = net.load_state_dict({}, strict=False)
holds(first in report.missing_keys, "with nothing at all, it only reports what is missing")

# %% [markdown]
# Third, an invariant. A pretrained run starts with the letters' body, tensor for tensor, and with the head
# that its seed would have drawn anyway. So two runs with the same seed differ only in the body.

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
state = begin(BASELINE + Transfer(), budget.model, 1, 10, budget.image_size).state_dict()
holds(all(torch.equal(state[n], tensor) for n, tensor in headless.items()), "the body is given")
heads = [name for name in state if transfer.is_head(name, head)]
holds(all(torch.equal(state[name], own[name]) for name in heads), "the head is the seed's")

# %% [markdown]
# Last, *freezing*. `Transfer(freeze=1.0)` leaves the body unchanged and trains only the head. (The number is
# the share of the body's tensors that is frozen, from the input on, so 0.5 is possible.) We take a
# few steps. They are too few to learn much, but enough to see what moves.

# %%
with one_line() as tell:
    still = train(BASELINE + Transfer(freeze=1.0), data, images=1024, evaluations=1)
    tell(f"{still.steps} steps with a frozen body")
after = {name: tensor.cpu() for name, tensor in still.net.state_dict().items()}
learned = [name for name, _ in net.named_parameters() if name not in heads]

# %% [markdown]
# Batch norm's running statistics are not parameters, so freezing the parameters does not stop them.

# %% tags=["nbval-check-output"]
holds(all(torch.equal(after[n], given[n]) for n in learned), "no frozen parameter has moved")
means = [name for name in after if name.endswith("running_mean")]
holds(not any(torch.equal(after[n], given[n]) for n in means), "every running mean has moved")
holds(not torch.equal(after[heads[0]], own[heads[0]]), "the head has learned")

# %% [markdown]
# The same happens in your own script: the statistics move from those of the other task to those of your
# images. If your batches are so small that their statistics are unreliable, you may prefer to keep those of
# the other task. Then put the frozen layers into `eval()` mode after each `net.train()`.
#
# ## In your own loop
#
# In a plain PyTorch script, the trick is these changes: remove the `-` lines and add the `+` lines. `folder`
# is what you pass as `--data`: a folder of your own photographs, or nothing for the clothes.
#
# ```diff
#  import torch.nn.functional as F
# +from safetensors.torch import load_file
#  from torchvision import datasets
#  ...
#  IMAGES, BATCH, LR = 171_776, 128, 1e-3
# +WEIGHTS = "fasttricks/weights/test_resnet-28-letters.safetensors"
#
#  ...
#      x, y, val_x, val_y = x[:-held], y[:-held], x[-held:], y[-held:]
# -    net = timm.create_model(MODEL, in_chans=x.shape[1], num_classes=int(y.max()) + 1)
# +    task = {"in_chans": x.shape[1], "num_classes": int(y.max()) + 1}
# +    net = timm.create_model(MODEL, pretrained=bool(folder), **task)  # photographs: from timm's hub
# +    if not folder:  # clothes: from letters, but for the head
# +        body = {k: t for k, t in load_file(WEIGHTS).items() if not k.startswith("fc.")}
# +        net.load_state_dict(body, strict=False)
#      net = net.to(device, memory_format=torch.channels_last)
# ```
#
# The complete script is [`examples/transfer.py`](../examples/transfer.py). It ignores the report of
# `load_state_dict` because these weights fit. With a file of your own, print it. With photographs, raise
# the script's `SIZE` from 28 to the size of the pretraining, which is 160 for this network. (Its pixels
# were mapped to the range from -1 to 1, as ours are.)
#
# Two variants need a few more lines. To freeze the body, so that only the head learns:
#
# ```python
# for name, parameter in net.named_parameters():
#     parameter.requires_grad = name.startswith("fc.")
# ```
#
# Or, instead, to let the body learn more slowly than the head:
#
# ```python
# body = [p for name, p in net.named_parameters() if not name.startswith("fc.")]
# groups = [{"params": body, "lr": 0.1 * LR}, {"params": net.fc.parameters(), "lr": LR}]
# optimizer = torch.optim.AdamW(groups)
# ```
#
# ## Weights from photographs
#
# The usual case is not letters. It is a network such as ResNet-18, pretrained on the photographs of
# ImageNet. Its weights must be downloaded from a hub, and this chapter trains only with what the course
# contains, so their gain is *not* measured here. They expect images of their own kind in three respects:
# size, normalisation and colours.
#
# **Size.** ResNet-18 learned from images of 224 pixels a side. Its body halves width and height five times.
# We print how many positions remain for images of 28, 64 and 224 pixels. (Its weights are random here,
# which does not matter for shapes.)

# %% tags=["nbval-check-output"]
import timm

resnet = timm.create_model("resnet18", num_classes=10, in_chans=1).eval()
for size in (28, 64, 224):
    features = resnet.forward_features(torch.zeros(1, 1, size, size))
    print(f"{size} x {size} pixels: {features.shape[-2]} x {features.shape[-1]} positions")

# %% [markdown]
# For a 28-pixel image, a single position remains: the deeper filters see mostly padding, and never the
# shapes that they were trained on. So enlarge small images. This adds no information, but it brings edges
# and shapes closer to the size that the filters know.
#
# **Normalisation.** Subtract the mean and divide by the standard deviation of the *pretraining*, not of
# your images. `timm` knows them.
#
# **Colours.** Photographs have three channels, and our images one. With `in_chans=1`, timm sums the three
# input channels of the first filters. In a grey picture all three colours are equal, so the answer does not
# change, provided that the three channels are normalised in the same way. Our package
# sums them, too:

# %% tags=["nbval-check-output"]
chance = torch.Generator().manual_seed(0)
grey, three = torch.rand(2, 1, 9, 9, generator=chance), torch.rand(4, 3, 3, 3, generator=chance)
one = transfer.transplant({"w": torch.zeros(4, 1, 3, 3)}, {"w": three}, "fc")["w"]
both = [torch.conv2d(grey.expand(-1, 3, -1, -1), three), torch.conv2d(grey, one)]
holds(torch.allclose(*both, atol=1e-5), "one summed channel answers as three did")

# %% [markdown]
# Together, for `x`, a batch of grey images as bytes, (N, 1, 28, 28):
#
# ```python
# net = timm.create_model("resnet18", pretrained=True, num_classes=10, in_chans=1)
# wanted = timm.data.resolve_model_data_config(net)  # the image size, mean and std of its pretraining
# mean, std = (sum(wanted[name]) / 3 for name in ("mean", "std"))  # one number for the three colours
# size = (64, 64)  # a compromise: wanted["input_size"] is larger, and much slower
# x = F.interpolate(x / 255, size=size, mode="bilinear", antialias=True)
# logits = net((x - mean) / std)
# ```
#
# With this package, `Transfer("imagenet")` loads such weights. It takes care of the colours, but it keeps
# our own normalisation, which maps pixels to the range from -1 to 1. A body that learns can adapt to that.
#
# ## Use it
#
# Back to letters. We compare four starts. *Scratch* and *pretrained* let all layers learn. *Frozen* trains
# only the head on top of the letters' body. To judge that body, we need a control: *frozen random* trains
# only the head on top of a body with random weights. The package has no such start, so we write it. A start
# names the file of its weights, and gives each parameter a factor for its learning rate. (`depth` says where
# in the network the parameter is, from 0 to 1. We do not need it.)

# %%
from dataclasses import dataclass, replace

from fasttricks.tricks import Scratch


@dataclass(frozen=True)
class FrozenRandom:
    slots = ("start",)
    source = None  # no file: the random weights of the seed

    def rate(self, name, head, depth):
        return 1.0 if transfer.is_head(name, head) else 0.0


starts = {"scratch": Scratch(), "pretrained": Transfer()}
starts |= {"frozen": Transfer(freeze=1.0), "frozen random": FrozenRandom()}

# %% [markdown]
# One learning rate for all would favour the start that it happens to suit. So every start is tuned. The
# first helper trains a start once, with one-cycle (chapter 3). The peak is a multiple of the baseline's rate.
# If asked for a few labels, it gives every seed its own images. The second helper tries each start with
# several peaks, and returns the mean accuracies.

# %%
import pandas as pd


def trained(start, peak, seed, images=quarter, labels=None):
    drawn = data
    if labels:
        drawn = replace(data, train=data.train[labels * seed : labels * (seed + 1)])
    recipe = BASELINE + OneCycle(float(peak)) + start
    return train(recipe, drawn, images=images, seed=seed, evaluations=1)


def tune(grid, draws=(0,), **asked):
    found = {name: {} for name in grid}
    with one_line() as tell:
        for name, peaks in grid.items():
            for peak in peaks:
                runs = [trained(starts[name], peak, seed, **asked) for seed in draws]
                found[name][peak] = sum(run.val_accuracy for run in runs) / len(runs)
        tell(f"Tuning runs of {quarter:,} images: {sum(map(len, grid.values())) * len(draws)}")
    return pd.DataFrame(found).sort_index()


# %% [markdown]
# Four more helpers write our sentences. `against` compares two lists of runs. It says *higher* or *lower* only
# if all seeds agree and the mean difference is large enough to count (chapter 0). It says *about the same* if
# every seed differs by less than two points, and *undecided* otherwise. `decide` turns this into a verdict.


# %%
def against(runs, others):
    return gained([run.val_accuracy for run in runs], [run.val_accuracy for run in others], CHANCE)


def decide(told, higher, same, lower, unclear="**cannot tell**"):
    words = {"higher": higher, "about the same": same, "lower": lower}
    return next((text for word, text in words.items() if word in told), unclear)


def leads(pair):
    return [points / 100 for points in gains(pair["pretrained"], pair["scratch"])]


def edges(table):
    ends = {name: tried.dropna().index[[0, -1]] for name, tried in table.items()}
    names = [name for name, tried in table.items() if tried.idxmax() in ends[name]]
    if not names:
        return "All of them lie inside the range that we tried."
    return f"For *{'* and *'.join(names)}*, another peak outside our range may be better still."


# %% [markdown]
# Every start gets four tries, with seed 0. First trials showed that a frozen network needs higher peaks, so
# its range begins higher. (The control takes the peak of the frozen network.) The table shows the
# accuracies. Unless we say otherwise, a run sees a quarter of the budget's images.

# %%
low, high = (3, 10, 30, 100), (10, 30, 100, 300)
found = tune({"scratch": low, "pretrained": low, "frozen": high})
best = found.idxmax().to_dict()
best["frozen random"] = best["frozen"]
found.T.rename_axis(columns="peak").map("{:.3f}".format).replace("nan", "")

# %%
choices = ", ".join(f"{which} {factor}" for which, factor in found.idxmax().items())
say(f"The best peaks are: **{choices}**. {edges(found)}")

# %% [markdown]
# These accuracies have chosen the peaks, so they look a little too good. We therefore compare the starts on
# other seeds, beginning with 1. In the table, the gains are differences between runs with the same seed.

# %%
seeds = range(1, 1 + budget.seeds)
COLUMNS = {
    "validation accuracy, mean": "accuracy",
    "gain over the first arm, points": "points above scratch",
    "lowest and highest gain": "lowest and highest",
    "runs": "runs",
}


def compare(peaks, **asked):
    arms = {name: [] for name in peaks}
    with one_line() as tell:
        for seed in seeds:
            for name, peak in peaks.items():
                arms[name].append(trained(starts[name], peak, seed, **asked))
        tell(f"Runs of {asked.get('images', quarter):,} images: {len(peaks) * len(seeds)}")
    return arms


def table(arms):
    return accuracy_table(arms).T[list(COLUMNS)].rename(columns=COLUMNS)


arms = compare(best)
table(arms)

# %%
short_verdict = against(arms["pretrained"], arms["scratch"])
say(
    f"After {quarter:,} images ({quarter / len(data.train):.2f} passes over the training images), the pretrained "
    f"network is **{short_verdict}** compared with scratch. We come back to the frozen ones."
)

# %% [markdown]
# **Does the lead last?** We repeat the comparison with runs that are four times as long. The peaks stay as
# they are, although the best peak may differ for another length.

# %%
learning = {name: best[name] for name in ("scratch", "pretrained")}
long_arms = compare(learning, images=budget.images)
table(long_arms)

# %%
long_verdict = against(long_arms["pretrained"], long_arms["scratch"])
trend = gained(leads(long_arms), leads(arms))
change = decide(
    trend, "**grew**", "**stayed about the same**", "**shrank**", "may have shrunk or not"
)
mean_lead = {
    which: 100 * sum(leads(both_arms)) / len(seeds)
    for which, both_arms in (("short", arms), ("long", long_arms))
}
say(
    f"After {budget.images:,} images ({budget.images / len(data.train):.2f} passes), the pretrained network "
    f"is **{long_verdict}** compared with scratch. The mean lead was {mean_lead['short']:+.1f} points after "
    f"{quarter:,} images and is {mean_lead['long']:+.1f} now, so it {change}."
)

# %% [markdown]
# These runs don't show what happens later. In object detection, networks trained from scratch caught up with
# those pretrained on ImageNet once they were trained long enough (He et al. 2018, arXiv 1811.08883).
#
# **Is it worth more when labels are few?** People often say so. We return to the 128 labels of the opening,
# but every seed has its own. The best peaks may be different, so we tune again. Because 128 images differ much
# from draw to draw, we take the mean of two draws. First trials showed where to look. The frozen network takes
# part, too, for a later section.

# %%
low, high = (4, 16, 64), (16, 64, 256)
few_grid = {"scratch": high, "pretrained": low, "frozen": high}
few_found = tune(few_grid, draws=(0, 100), labels=128)
few_best = few_found.idxmax().to_dict()
few_found.T.rename_axis(columns="peak").map("{:.3f}".format).replace("nan", "")

# %%
choices = ", ".join(f"{which} {factor}" for which, factor in few_best.items())
say(f"The best peaks are: **{choices}**. {edges(few_found)}")

# %% [markdown]
# Then we compare on the other seeds. Every run sees as many images as in the first comparison, but only 128
# different ones.

# %%
few_arms = compare(few_best, labels=128)
table(few_arms)

# %%
few_verdict = against(few_arms["pretrained"], few_arms["scratch"])
extra = gained(leads(few_arms), leads(arms))
worth = decide(
    extra,
    "few labels **do make pretraining worth more** in such short runs",
    "we find **no extra gain** when labels are few",
    "few labels make pretraining **worth less** here",
    "these runs **cannot tell** whether few labels make pretraining worth more",
)
say(
    f"With 128 labels, the pretrained network is **{few_verdict}** compared with scratch. When all "
    f"{quarter:,} images were different, its mean lead was {mean_lead['short']:+.1f} points. So {worth}."
)

# %%
opening = [
    100 * (ours_at - theirs_at) for ours_at, theirs_at in zip(reader_scores, scores, strict=True)
]
fades = (
    "So a large lead may be the lead of a short run, with few labels too."
    if opening[-1] < opening[1] - 1
    else "It did not fade there."
)
say(
    f"How does this agree with the opening? Its runs were twice as long, at the plain rate, with one seed. "
    f"There, the pretrained network led by {opening[1]:+.1f} points after {seen[1]:,} images, and by "
    f"{opening[-1]:+.1f} after {seen[-1]:,}. {fades}"
)

# %% [markdown]
# The two tuning tables touch another question. The card warns that a high peak *forgets the body*, because
# long steps overwrite the copied weights. If everything were forgotten, no lead would be left at a high peak.
# So we look at the highest peak that both starts have tried.

# %%
at_top = {}
for which, tuned in (("many", found), ("few", few_found)):
    by_peak = 100 * (tuned["pretrained"] - tuned["scratch"]).dropna()
    at_top[which] = by_peak.index[-1], by_peak.iloc[-1]
gone = min(at_top["many"][1], at_top["few"][1]) < 1
forgets = (
    "**agrees** with one of our tables, but so few runs prove nothing"
    if gone
    else "**cannot tell**"
)
reading = (
    "Where no lead is left, everything may have been forgotten, but so few runs do not prove it."
    if gone
    else "So not everything is forgotten at these peaks. Whether a part is, we **cannot tell**."
)
say(
    f"With many labels, the lead at peak {at_top['many'][0]} is {at_top['many'][1]:+.1f} points (one seed). With "
    f"128 labels, it is {at_top['few'][1]:+.1f} at peak {at_top['few'][0]} (mean of two draws). {reading}"
)

# %% [markdown]
# ## What was transferred?
#
# Now we test the story of the edge filters. We copy only a part of the letters' body, and leave the rest of
# the network random. The story predicts two things: the *first layer* alone (one convolution and its batch
# norm) brings at least half of the gain, and *all but the first layer* brings less than half. We also try the
# *first half*. (The network is a chain of four groups of layers, called stages. The first half is everything
# before the third.) `Transfer` also accepts the path of a file, so we save each start.

# %%
import tempfile
from pathlib import Path

from safetensors.torch import save_file

names = [name for name in own if name in headless]  # from the input to the features
middle = next(number for number, name in enumerate(names) if name.startswith("layer3"))
kept = {"first layer": names[:6]}  # a convolution and its batch norm have 6 tensors
kept |= {"all but the first layer": names[6:], "first half": names[:middle]}
copied = {part: own | {name: given[name] for name in kept[part]} for part in kept}
folder = tempfile.TemporaryDirectory()
for part, state in copied.items():
    file = Path(folder.name) / f"{part}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    starts[part] = Transfer(str(file))

# %% [markdown]
# A check that we copied the filters that we wanted, and no others:

# %% tags=["nbval-check-output"]
filters = [name for name in names if given[name].ndim == 4]
early = [name for name in filters if not name.startswith(("layer3", "layer4"))]
came = {part: [n for n in filters if torch.equal(copied[part][n], given[n])] for part in copied}
holds(came["first layer"] == [first], "first layer: its filters are the letters', and no others")
holds(
    came["all but the first layer"] == filters[1:], "all but the first layer: all other filters are"
)
holds(came["first half"] == early, "first half: the filters before the third stage are")

# %% [markdown]
# Each part may choose between two peaks, on seed 0: the best one of scratch, and the best one of the
# pretrained network. Then it runs with the same seeds as the others. In the figure, a dot is a seed, a bar is
# the mean of the seeds, and the black line is no longer than their range.

# %%
pair = sorted({best["scratch"], best["pretrained"]})
part_best = tune(dict.fromkeys(copied, pair)).idxmax().to_dict()
part_arms = compare(part_best) | {"whole body": arms["pretrained"]}
folder.cleanup()
above = {part: gains(runs, arms["scratch"]) for part, runs in part_arms.items()}
bars(above, "accuracy above scratch, points", f"{quarter:,} images, each part at its better peak")
plt.show()

# %%
brings = {which: sum(gained_by) / len(gained_by) for which, gained_by in above.items()}
whole_told = against(arms["pretrained"], arms["scratch"])
only_first = "**passes**" if brings["first layer"] >= brings["whole body"] / 2 else "**fails**"
no_first = (
    "**passes**" if brings["all but the first layer"] < brings["whole body"] / 2 else "**fails**"
)
story = "passes both tests" if "fails" not in only_first + no_first else "fails"
if "higher" in whole_told:
    say(
        f"The whole body brings {brings['whole body']:+.1f} points. The first layer alone brings "
        f"{brings['first layer']:+.1f}, so the story's first prediction {only_first}. All but the first layer bring "
        f"{brings['all but the first layer']:+.1f}, so its second prediction {no_first}."
    )
else:
    story = "could not be tested"
    say("The whole body brings no clear gain here, so we **cannot tell** which part brings it.")

# %%
without = against(arms["pretrained"], part_arms["all but the first layer"])
role = decide(
    without, "**contributes**", "is **not needed**", "**does harm**", "may contribute or not"
)
in_half = sum(own[tensor_name].numel() for tensor_name in kept["first half"])
percent = 100 * in_half / sum(own[tensor_name].numel() for tensor_name in names)
beyond = against(arms["pretrained"], part_arms["first half"])
adds = decide(
    beyond,
    "The second half **adds** to it",
    "We **cannot tell** whether the second half adds anything, but if so, it is less than two points",
    "The second half **does harm**",
    "We **cannot tell** whether the second half adds anything",
)
if "higher" in whole_told:
    say(
        f"Compared with all but the first layer, the whole body is {without}. So the first layer {role}."
    )
    say(
        f"The first half, with {percent:.0f} % of the body's numbers, brings {brings['first half']:+.1f} points. "
        f"Compared with it, the whole body is {beyond}. {adds}."
    )

# %% [markdown]
# One reason why a single part may bring little is that a layer works on what the layer before it sends. If
# a copied layer follows a random one, the two do not fit. Yosinski et al. found such breaks between layers
# that had been trained together, and called these layers *co-adapted*.
#
# ## Who paid?
#
# The weights file records how many seconds they took to train, and the recorded study measured the seconds
# until a fixed accuracy, with and without them. How many runs must share the weights? It depends on what we
# would do without them.

# %%
import math

from safetensors import safe_open

from fasttricks.course import published
from fasttricks.models import letters_file

recorded = choose_budget("cpu")
with safe_open(letters_file(recorded.model, recorded.image_size), "pt") as file:
    cost = float(file.metadata()["seconds"])
studies = {study.study: study for study in published()}


def payback(slow, quick):
    rows = studies["cpu"].of(slow, quick) if "cpu" in studies else []
    saved = rows[0].train - rows[1].train if len(rows) == 2 else math.nan
    if not math.isfinite(saved):
        return "not recorded"
    if saved <= 0:
        return "no seconds saved, so the weights are **never** paid for"
    return f"{saved:.1f} s saved per run, so the weights are paid for after **{math.ceil(cost / saved):,} runs**"


# %%
say(
    f"Making the weights took {cost:,.0f} s.\n\n"
    f"- Against *plain* training: {payback('plain', 'plain + transfer')}.\n"
    f"- Against the *other six tricks* of this course: {payback('whole - transfer', 'whole')}."
)

# %% [markdown]
# Both lines are right. The first is for somebody who uses no other trick. The second is for somebody who
# uses the other six anyway, and it is the one that the capstone (chapter 8) tells. They differ because the
# weights save a different number of seconds in each. If somebody gives you the weights, you have nothing to
# pay back. (The weights were made on one thread. On the two cores of the study, they would be paid for
# somewhat sooner.)
#
# ## Break it: freeze the body
#
# A frozen body needs almost no backward pass, so each step is faster. And a small head cannot memorise many
# images. Both are reasons to freeze. We have already trained frozen networks with many labels and with few.
# Because their steps are cheap, we also give them three times as many images.

# %%
starts["frozen, 3 times as long"] = starts["frozen"]
patient = compare({"frozen, 3 times as long": best["frozen"]}, images=3 * quarter)
few_patient = compare(
    {"frozen, 3 times as long": few_best["frozen"]}, images=3 * quarter, labels=128
)
above = {}
for name, runs in (arms | patient).items():
    above[name] = gains(runs, arms["scratch"])
for name, runs in (few_arms | few_patient).items():
    above[f"{name}, 128 labels"] = gains(runs, few_arms["scratch"])
above = {name: points for name, points in above.items() if "scratch" not in name}
bars(
    above,
    "accuracy above scratch with as many labels, points",
    f"{quarter:,} images, or 3 times as many",
)
plt.show()

# %%
control = against(arms["frozen"], arms["frozen random"])
helps = decide(control, "helps", "**does not help**", "**does harm**", "may help or not")
say(
    f"What the body learned from letters {helps}: compared with the random control, the frozen network is "
    f"{control}. But compared with scratch, where all layers learn, it is "
    f"{against(arms['frozen'], arms['scratch'])}."
)

# %%
(patient_runs,) = patient.values()
patient_verdict = against(patient_runs, arms["pretrained"])
clock = {name: [run.train_seconds for run in arms[name]] for name in ("frozen", "pretrained")}
cheap = faster(clock["frozen"], clock["pretrained"])
spent = median([run.train_seconds for run in patient_runs]) / median(clock["pretrained"])
many = decide(
    patient_verdict,
    "**pays**" if spent < 1.05 else "**cannot tell**",
    "**pays**" if spent < 0.95 else "**does not pay**",
    "**does not pay**" if spent > 0.95 else "**cannot tell**",
)
say(
    f"With *many labels*, freezing is {cheap} per image. The frozen network that saw three times the images took "
    f"{spent:.2f} times as many seconds as the short pretrained runs, and is {patient_verdict}. Verdict on "
    f"freezing: {many}."
)

# %%
(few_patient_runs,) = few_patient.values()
few_frozen = against(few_arms["frozen"], few_arms["pretrained"])
few_longer = against(few_patient_runs, few_arms["pretrained"])
rare = decide(
    few_frozen,
    "**pays**",
    "**pays**, as its steps are cheaper",
    decide(few_longer, "**cannot tell**", "**does not pay**", "**does not pay**"),
)
say(
    f"With *128 labels*, compared with the pretrained network that learns everywhere, the frozen one is "
    f"{few_frozen} after as many images, and {few_longer} after three times as many. Verdict on freezing: {rare}."
)

# %% [markdown]
# A frozen body can only offer the features that letters needed. A body that learns can make new ones, but it
# can also memorise.
#
# ## What the card promised
#
# Here is what the card says, with our verdict and the numbers behind it.

# %%
yes, no = "**seen**", "**not seen**"
say(
    f"- *It pays when budgets are short*: {decide(short_verdict, yes, no, no)}. The pretrained "
    f"network is {short_verdict}.\n"
    f"- *It pays when labels are few*: {decide(few_verdict, yes, no, no)}. It is {few_verdict}. Does it "
    f"pay *more* then? {decide(extra, 'Yes, in short runs', 'No', 'No', 'We cannot tell')}.\n"
    f"- *It fails when the run is long and labels are many*: **not tested**. Our longest run is only "
    f"{budget.images / len(data.train):.2f} passes. From the short runs to these, the lead changed from "
    f"{mean_lead['short']:+.1f} to {mean_lead['long']:+.1f} points.\n"
    f"- *A high peak forgets the body*: {forgets}.\n"
    f"- *Freezing makes steps cheaper*: {cheap} per image. Does it pay? With many labels: {many}. "
    f"With 128 labels: {rare}.\n"
    f"- *The other training is paid back after some reuses*: against plain training, "
    f"{payback('plain', 'plain + transfer')}."
)

# %% [markdown]
# And these are the answers to the three questions of the opening.

# %%
say(
    "| question | what these runs say |\n|---|---|\n"
    f"| How much accuracy does it bring? | Compared with scratch, after {quarter:,} images: {short_verdict}; {budget.images:,} images: "
    f"{long_verdict}; {quarter:,} images from 128 labels: {few_verdict} |\n"
    f"| Which part brings it? | The story of the first layer's edge filters {story}. Of "
    f"{brings['whole body']:+.1f} points, the first layer alone brings {brings['first layer']:+.1f}, and the "
    f"first half {brings['first half']:+.1f} |\n"
    f"| When has it paid for its training ({cost:,.0f} s)? | Against plain training: "
    f"{payback('plain', 'plain + transfer')}. Against the other six tricks: "
    f"{payback('whole - transfer', 'whole')} |"
)

# %%
if "higher" in short_verdict:
    rule = (
        "if somebody offers weights for your network, start from them, and try a few learning rates, because the "
        "best one may differ from that of a random start"
    )
else:
    rule = "these runs were too few or too short to see a gain, so try both starts on your own task"
if "higher" not in short_verdict:
    freeze = "Try a frozen body, too"
elif "does not" in many and "does not" in rare:
    freeze = "Let all layers learn: freezing did not pay, with many labels or with few"
elif "**pays**" in many and "**pays**" in rare:
    freeze = "Freeze the body"
elif "**pays**" in rare:
    freeze = "With as few labels as here, freeze the body; with many, let all layers learn"
else:
    freeze = "Let all layers learn, and if labels are few, try a frozen body as well"
say(
    f"**The rule of thumb:** {rule}. {freeze}. Pretrain yourself only if at least as many runs will share the "
    f"weights as the section *Who paid?* counts."
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
# <details><summary>Answer</summary>Batch norm's running statistics followed the new images.</details>
#
# **3. The filters of the pretrained first layer are clearly edge filters. Why is that no proof that they
# bring the gain?**
#
# <details><summary>Answer</summary>It shows that they were learned, not that they help. Only a run
# that starts with this layer alone can tell.</details>
#
# **4. A colleague freezes a pretrained body and reaches a good accuracy. Which control do you ask for?**
#
# <details><summary>Answer</summary>The same with a random body. A head on top of random features already
# classifies many images correctly, and only what is above that is due to the pretraining. Also ask for a
# run in which all layers learn.</details>
#
# **5. Two people compute after how many runs the same weights are paid for, and get different numbers. How
# can both be right?**
#
# <details><summary>Answer</summary>They compare with different runs, and the weights save a different
# number of seconds in each.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** From the given first-layer filters, make filters for any number of colours, so that a
# grey picture, copied into every colour, gets the same answer as before.


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
# `saved` seconds. After how many runs has it paid for itself? Return `math.inf` if a run saves nothing.


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
# **Exercise 3.** Make each block learn more slowly than the next. Given the parameter names, in order
# from the input, return a dict of factors: 1 for the head, `decay` for the block before it, and so on. A
# block is the part of a name before its first dot.


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
# - Yosinski et al. 2014, [arXiv 1411.1792](https://arxiv.org/abs/1411.1792): which layers are general and
#   which are specific to their task.
# - He et al. 2018, [arXiv 1811.08883](https://arxiv.org/abs/1811.08883): when training from scratch is
#   just as good.
# - Raghu et al. 2019, [arXiv 1902.07208](https://arxiv.org/abs/1902.07208): how much of the gain is in
#   the features.
