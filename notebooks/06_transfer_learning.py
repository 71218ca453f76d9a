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
# A new network must learn to see before it can tell a shoe from a shirt, and much of what it learns may be
# useful for other tasks, too. Transfer learning starts from weights that were trained on another task. Only
# the last layer is new, because its outputs stand for the classes:
#
# ```text
# letters  →  [ body: every layer but the last ]  →  [ head: one output per character ]  trained before
#                            │ copied
#                            ▼
# clothes  →  [ body: every layer but the last ]  →  [ head: one output per class ]      starts here
# ```
#
# This chapter measures how much accuracy we gain from this start, which part of the body does the work, whether the
# copied layers should be frozen, and how many runs it takes to recoup the cost of the weights. Its lesson is that
# looking at the copied layers may suggest what helps, but not how much. You have to measure it.
#
# About 30 minutes to read, and two to run.

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
# Our own task is Fashion-MNIST, small grey pictures of ten kinds of clothing. The *budget* depends on the
# device. It sets the network, the image size, the number of images per run, and the number of seeds.
# `BASELINE` is the plain training of chapter 0: AdamW at a constant learning rate, in batches of 128 images.
# The other task is to recognise 858 characters, drawn in five fonts.

# %%
import matplotlib.pyplot as plt
import torch

from fasttricks import BASELINE, OneCycle, Transfer, choose_budget, load, train
from fasttricks.course import gained, one_line, plot, say, show

budget, device = choose_budget(), BASELINE.world.device()
quarter, half = budget.images // 4, budget.images // 2
data = load().to(device, budget.image_size)
letters = load("letters").to(device, budget.image_size)

# %% [markdown]
# Here are some training images of both tasks. Each character is warped differently every time it is used.

# %% tags=["fold"]
rows, noise = next(letters.draws(8, torch.Generator().manual_seed(0)))
warped, numbers = letters.augment(letters.train.x[rows], noise), letters.train.y[rows]
show([*warped], [f"character {number}" for number in numbers.tolist()])
show([*data.train.x[:8]], [data.classes[number] for number in data.train.y[:8].tolist()])
plt.show()

# %%
say(
    f"The two tasks look quite different. But labelled characters are cheap: a computer can draw as many as we "
    f"like. The {len(data.train):,} pictures of clothes had to be labelled one by one."
)

# %% [markdown]
# As in chapter 0, we compare runs in pairs that share a *seed*, which fixes the random weights and the order
# of the images. A difference is clear if all pairs agree on its sign and the mean is at least 1/√n points
# for n pairs. Otherwise we write *about the same* if every pair differs by less than two points, and
# *undecided* if not. Neither of these tells us which is better.
#
# ## The problem: few labels
#
# Suppose that we have labels for only 128 pictures of clothing, a single batch. We train on them over and over, once from
# scratch and once from the weights of the network that recognises letters. We measure the accuracy on images
# that the network has not seen, the validation images.
#
# The weights for the CPU's network come with the course. For another network, such as the larger one on a GPU,
# `make_letters` first trains them, once, on 1,000,000 images. This takes some minutes, and the output says
# about how many. (The weights in the course saw four times as many.)

# %%
from fasttricks.pretrain import make_letters

make_letters(budget.model, budget.image_size)
few, opening = data.subset(128), {}
with one_line() as tell:
    opening["from scratch"] = train(BASELINE, few, images=half, evaluations=4)
    opening["pretrained"] = train(BASELINE + Transfer(), few, images=half, evaluations=4)
    tell(f"2 runs of {half:,} images")

# %% tags=["fold"]
from fasttricks.loop import accuracy

known = accuracy(opening["from scratch"].net, few, few.train, BASELINE)
lines = {}
for name, run in opening.items():
    seen, _, scores = zip(*run.curve, strict=True)
    lines[name] = seen, scores
plot(lines, "images seen", "accuracy on new images", "128 labels, one seed each", marks=True)
plt.show()

# %%
scratch_end, pretrained_end = (end.val_accuracy for end in opening.values())
gap = 100 * (known - scratch_end)
say(
    f"After {half / 128:.0f} passes over its 128 images, the network from scratch classifies {100 * known:.0f} % of "
    f"them correctly, and {100 * scratch_end:.0f} % of the new images"
    + (f": **a gap of {gap:.0f} points**. " if gap > 5 else ". ")
    + f"The pretrained network classifies {100 * pretrained_end:.0f} % of the new images correctly. That is "
    f"**{gained([pretrained_end], [scratch_end], 0.1)}**."
)

# %% [markdown]
# A large gap means that the network has memorised its few images: it *overfits*. So far we have one seed and
# one learning rate. A fair comparison follows.
#
# ## What did it learn from the letters?
#
# We look at the filters of the first layer. A filter multiplies the pixels under it by its weights and adds
# the products. If its weights sum to about zero, it answers only where the brightness changes, as at an edge.
# We call such a filter *blind* to flat surfaces. To measure this, we divide the absolute value of the weights'
# sum by the sum of their absolute values. The result is 0 for a blind filter and at most 1.
#
# First we need both sets of weights. Each is a *state*, a dict that maps the name of each tensor to the tensor.
# `head` is the last layer's name, and `first` that of the first filters.

# %%
from fasttricks.models import begin, given_state, head_of

torch.manual_seed(0)
net = begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)
head, first = head_of(net), net.pretrained_cfg["first_conv"] + ".weight"
own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
given = given_state("letters", budget.model, budget.image_size)

# %% [markdown]
# Here are the answers of sixteen filters of each set to the same shoe, sorted from the most to the least
# blind. Middle grey means no answer.

# %%
from fasttricks.course import answers

boots = data.val.x[data.val.y == data.classes.index("ankle boot")]
shoe, responses, flat = data.normalise(boots[:1]).cpu(), {}, {}
for name, state in {"random": own, "letters": given}.items():
    weights = state[first].flatten(1)
    flat[name] = weights.sum(1).abs() / weights.abs().sum(1)
    spots = torch.linspace(0, len(weights) - 1, 16).round().long()
    chosen = state[first][flat[name].argsort()[spots]]
    responses[name] = torch.nn.functional.conv2d(shoe, chosen)[0]
answers(shoe[0, 0], responses)
plt.show()

# %%
blind = {origin: int((values < 0.05).sum()) for origin, values in flat.items()}
say(
    f"We call a filter nearly blind to flat surfaces if its value is below 0.05. That is true of "
    f"**{blind['random']} of {len(flat['random'])}** filters with random weights, and of "
    f"**{blind['letters']} of {len(flat['letters'])}** after training on letters."
)

# %% [markdown]
# A blind filter keeps the outlines of the shoe and discards its brightness. Letters consist of outlines, and
# networks trained on photographs learn edge filters as well (Yosinski et al. 2014, arXiv 1411.1792). So here is
# a tempting story: *the edge filters of the first layer are what helps.* The figure shows what the network
# learned, but not that it helps. We test this below.
#
# ## Write it
#
# The body turns an image into a few numbers, called features, and the head turns these into one score per
# class. A *transplant* copies every tensor of the given body by its name and keeps our own head. If a tensor is
# missing or has another shape, it raises an error.


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
# We try it on two minimal states: the other network has five classes, and ours has three.

# %%
theirs = {"body.weight": torch.tensor([[1.0, 2], [3, 4]]), "fc.weight": torch.ones(5, 2)}
ours = {"body.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(3, 2)}
moved = transplant(ours, theirs, "fc")
moved

# %% [markdown]
# The result has their body and our head. We check this, and that our own state did not change.

# %% tags=["nbval-check-output"]
from fasttricks.course import holds

holds(moved["body.weight"].tolist() == [[1, 2], [3, 4]], "the body is theirs")
holds(moved["fc.weight"].shape[0] == 3, "the head has our three rows")
holds(ours["body.weight"].sum() == 0, "what we began with is unchanged")

# %% [markdown]
# ## Check it
#
# Our function gives the same state as the package. It also matches torch, which can load a part of a state. We drop
# the letters' head, and torch reports what was missing.


# %% tags=["nbval-check-output"]
from fasttricks.tricks import transfer


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in own)


begun = transplant(own, given, head)
holds(same(begun, transfer.transplant(own, given, head)), "ours is the package's")
headless = {name: tensor for name, tensor in given.items() if not transfer.is_head(name, head)}
report = net.load_state_dict(headless, strict=False)
holds(same(begun, net.state_dict()), "torch's load_state_dict(strict=False) gives the same state")
holds(report.missing_keys == [f"{head}.weight", f"{head}.bias"], "only the head was missing")

# %% [markdown]
# Beware of `strict=False`: it raises no error even if the whole body is missing, so read the report. It does
# raise an error if a shape is wrong, which is why we dropped the head.

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
# Last, *freezing*: `Transfer(freeze=1.0)` leaves the weights of the body as they are and trains only the head.
# A few steps show what changes.

# %%
with one_line() as tell:
    still = train(BASELINE + Transfer(freeze=1.0), data, images=1024, evaluations=1)
    tell(f"{still.steps} steps with a frozen body")
after = {name: tensor.cpu() for name, tensor in still.net.state_dict().items()}
parameters = [name for name, _ in net.named_parameters() if not transfer.is_head(name, head)]
means = [name for name in after if name.endswith("running_mean")]

# %% [markdown]
# Batch norm keeps a running mean and variance of the values that pass through it. They are copied, too. But
# they are not parameters, so freezing does not stop them from changing.

# %% tags=["nbval-check-output"]
holds(all(torch.equal(after[n], given[n]) for n in parameters), "no frozen parameter has moved")
holds(not any(torch.equal(after[n], given[n]) for n in means), "every running mean has moved")
holds(not torch.equal(after[f"{head}.weight"], own[f"{head}.weight"]), "the head has learned")

# %% [markdown]
# So even in a frozen body, the statistics become those of our images. If you don't want this, put the frozen
# layers into `eval()` mode after each `net.train()`.
#
# ## In your own loop
#
# In a plain PyTorch script, the trick takes a few changes: remove the `-` lines and add the `+` lines. `folder`
# is what you pass as `--data`: a folder of your own photographs, or nothing for the clothes.
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
# +        net.load_state_dict(body, strict=False)
#      net = net.to(device, memory_format=torch.channels_last)
# ```
#
# The complete script is [`examples/transfer.py`](../examples/transfer.py). With photographs, raise `SIZE` from
# 28 to 160, the image size at which timm's weights for this network were trained.
#
# To freeze the body, add two lines. (`fc` is this network's head. To let the body learn more slowly, see
# exercise 3.)
#
# ```python
# for name, parameter in net.named_parameters():
#     parameter.requires_grad = name.startswith("fc.")
# ```
#
# The usual weights come from photographs. To avoid a download, we do not measure their gain here.
# They expect images like those of their training:
#
# ```python
# net = timm.create_model("resnet18", pretrained=True, num_classes=10, in_chans=1)
# wanted = timm.data.resolve_model_data_config(net)  # the image size, mean and std of its training
# mean, std = (sum(wanted[name]) / 3 for name in ("mean", "std"))  # one number for the three colours
# size = (64, 64)  # a compromise: wanted["input_size"] is larger, and much slower
# x = F.interpolate(x / 255, size=size, mode="bilinear", antialias=True)  # x: (N, 1, 28, 28) bytes
# logits = net((x - mean) / std)
# ```
#
# *Size:* ResNet-18 halves width and height five times, so a 28-pixel image shrinks to a single position.
# Enlarging the image brings its shapes closer to the size that the filters know. *Normalisation:* use the mean
# and standard deviation of the other training, not those of your images. *Colours:* with `in_chans=1`, timm
# sums the three input channels of the first filters, and so does our package. A grey picture in colour has
# three equal channels, so the responses stay the same:

# %% tags=["nbval-check-output"]
chance = torch.Generator().manual_seed(0)
grey, three = torch.rand(2, 1, 9, 9, generator=chance), torch.rand(4, 3, 3, 3, generator=chance)
one = transfer.transplant({"w": torch.zeros(4, 1, 3, 3)}, {"w": three}, "fc")["w"]
answered = [torch.conv2d(grey.expand(-1, 3, -1, -1), three), torch.conv2d(grey, one)]
holds(torch.allclose(*answered, atol=1e-5), "one summed channel gives the same output as three")

# %% [markdown]
# ## Use it: how much does it gain?
#
# We compare four starts. *Scratch* and *pretrained* let all layers learn. *Frozen* trains only the head on top
# of the letters' body. *Frozen random* does the same on top of a random body, and shows what such a head
# reaches without transfer. The package has no such start, so we write it: it names no file of weights and gives
# the body a learning rate of zero.

# %%
from dataclasses import dataclass, replace

from fasttricks.course import bars, faster, gains, median
from fasttricks.tricks import Scratch


@dataclass(frozen=True)
class FrozenRandom:
    slots = ("start",)
    source = None

    def rate(self, name, head, depth):
        return 1.0 if transfer.is_head(name, head) else 0.0


starts = {"scratch": Scratch(), "pretrained": Transfer()}
starts |= {"frozen": Transfer(freeze=1.0), "frozen random": FrozenRandom()}

# %% [markdown]
# A single learning rate would favour the start that it happens to suit, so we tune each start. Runs use
# one-cycle (chapter 3), which raises the learning rate to a *peak* and lowers it again. `tune` tries several
# peaks, given as multiples of the baseline's rate, and returns a table of mean accuracies. With few labels,
# every seed gets its own images.

# %% tags=["fold"]
import pandas as pd
from IPython.display import display


def trained(start, peak, seed, images=quarter, labels=None):
    drawn = data
    if labels:
        drawn = replace(data, train=data.train[labels * seed : labels * (seed + 1)])
    recipe = BASELINE + OneCycle(float(peak)) + starts[start]
    return train(recipe, drawn, images=images, seed=seed, evaluations=1)


def tune(grid, draws=(0,), **asked):
    found = {start: {} for start in grid}
    with one_line() as tell:
        for start, peaks in grid.items():
            for peak in peaks:
                runs = [trained(start, peak, seed, **asked) for seed in draws]
                found[start][peak] = sum(run.val_accuracy for run in runs) / len(runs)
        tell(f"Tuning runs: {sum(map(len, grid.values())) * len(draws)}")
    return pd.DataFrame(found).sort_index()


# %% [markdown]
# Earlier trials showed where to look: in short runs, frozen networks need higher peaks. We first tune short runs, with a
# quarter of the budget's images and seed 0. Empty cells of the table were not tried.

# %%
low, middle, high = (3, 10, 30), (10, 30, 100), (30, 100, 300)
grid = {"scratch": low, "pretrained": middle, "frozen": high, "frozen random": high}
short_found = tune(grid)
short_best = short_found.idxmax().to_dict()
short_found.T.rename_axis(columns="peak").map("{:.3f}".format).replace("nan", "")

# %% [markdown]
# The largest number in a row marks the best peak of that start. In longer runs or with few labels, another peak
# may be best, so we tune again. For four times the images, we try only the best peaks of scratch and pretrained. For
# 128 labels, we also tune frozen, and try three peaks on two draws, because one draw may differ much from the
# next. The two tables show the mean accuracies, first for four times the images, then for 128 labels.

# %% tags=["fold"]
both = ("scratch", "pretrained")
pair = sorted({short_best[start] for start in both})
long_found = tune(dict.fromkeys(both, pair), images=budget.images)
few_grid = {"scratch": (30, 100, 300), "pretrained": (3, 10, 30), "frozen": (3, 10, 30)}
few_found = tune(few_grid, draws=(0, 100), labels=128)
long_best, few_best = long_found.idxmax().to_dict(), few_found.idxmax().to_dict()
for title, found in ((f"{budget.images:,} images", long_found), ("128 labels", few_found)):
    display(found.T.rename_axis(columns=f"{title}: peak").map("{:.3f}".format).replace("nan", ""))

# %% tags=["fold"]
at_edge = [
    f"*{arm}* ({which})"
    for which, tuning in (("short runs", short_found), ("128 labels", few_found))
    for arm, accuracies in tuning.items()
    if accuracies.idxmax() in accuracies.dropna().index[[0, -1]]
]
chosen_for = [
    ", ".join(f"{arm} {factor}" for arm, factor in best.items())
    for best in (short_best, long_best, few_best)
]
wants_more = [max(both, key=peaks.get) for peaks in (short_best, few_best)]

# %%
say(
    f"The best peaks are **{chosen_for[0]}** in short runs, {chosen_for[1]} in long ones, and {chosen_for[2]} with "
    "128 labels. "
    + (
        f"The range that we tried may be too narrow for {', '.join(at_edge)}: the best peak lies at its edge."
        if at_edge
        else "Where we tried three peaks, the best one is always the middle one, so the ranges were wide enough."
    )
    + (
        f" Which start wants the higher peak even **turns around**: it is {wants_more[0]} in short runs, and "
        f"{wants_more[1]} with 128 labels. We do not know why. In practice, it means that you have to tune the rate for "
        "your start and your runs."
        if len(set(wants_more)) == 2
        else " In practice, tune the rate for your start and your runs."
    )
)

# %% [markdown]
# We chose the peaks by these accuracies, so they look a little too good. The comparison therefore uses other
# seeds. `compare` trains each start at its peak with each seed and returns the runs.

# %% tags=["fold"]
seeds = range(1, 1 + budget.seeds)


def compare(peaks, **asked):
    arms = {start: [] for start in peaks}
    with one_line() as tell:
        for seed in seeds:
            for start, peak in peaks.items():
                arms[start].append(trained(start, peak, seed, **asked))
        tell(f"Runs: {len(peaks) * len(seeds)}")
    return arms


short = compare(short_best)
long = compare(long_best, images=budget.images)
scarce = compare(few_best, labels=128)

# %% [markdown]
# The table shows the mean accuracies, and the difference between the paired runs. The last row differs from the first
# in two ways, the number of labels and how often each image is seen, so we do not compare its lead with the others.


# %% tags=["fold"]
def against(runs, others):
    return gained([run.val_accuracy for run in runs], [run.val_accuracy for run in others], 0.1)


settings = {f"{quarter:,} images": short, f"{budget.images:,} images": long}
settings[f"{quarter:,} images, 128 labels"] = scarce
rows, errors = {}, {}
for setting, arms in settings.items():
    means = {name: sum(r.val_accuracy for r in arms[name]) / len(seeds) for name in both}
    errors[setting] = (1 - means["pretrained"]) / (1 - means["scratch"])
    told = against(arms["pretrained"], arms["scratch"])
    rows[setting] = {name: f"{mean:.3f}" for name, mean in means.items()} | {"pretrained is": told}
pd.DataFrame(rows).T

# %%
many, longer, rare = (row["pretrained is"] for row in rows.values())
ahead = sum("higher" in verdict for verdict in (many, longer, rare))
passes = [f"{count / len(data.train):.2f}" for count in (quarter, budget.images)]
say(
    f"The pretrained network is clearly ahead in **{ahead} of 3** settings. All runs are short: in the first two "
    f"settings, they make {passes[0]} and {passes[1]} passes over all the clothes."
)

# %%
short_leads = [lead / 100 for lead in gains(short["pretrained"], short["scratch"])]
long_leads = [lead / 100 for lead in gains(long["pretrained"], long["scratch"])]
trend = gained(long_leads, short_leads)
lasts = "We **cannot tell** whether the lead lasts, because the first two settings do not both show a clear one."
if "higher" in many and "higher" in longer:
    turn = (
        "shrinks"
        if "lower" in trend
        else "grows"
        if "higher" in trend
        else "does not clearly change"
    )
    lasts = (
        f"In points, the lead **{turn}** with longer training: beside {quarter:,} images, the lead after "
        f"{budget.images:,} is {trend}."
    )
change = [f"{share - 1:+.0%}" for share in errors.values()]
say(
    f"{lasts} Compared with scratch, the number of errors changes by {change[0]} after {quarter:,} images, and by "
    f"{change[1]} after {budget.images:,}."
)

# %% [markdown]
# We did not try longer training. In object detection, networks from scratch caught up with pretrained ones when
# they were trained long enough (He et al. 2018, arXiv 1811.08883).
#
# ## Which part does the work?
#
# Now we test the story of the edge filters. We copy only a part of the letters' body and leave the rest
# random: the *first layer* (a convolution and its batch norm), *all but the first layer*, or the *first half*
# (everything before the third of the network's four *stages*, or groups of layers). If the story is true, the
# first layer alone should gain about as much as the whole body.
#
# `Transfer` also accepts the path of a file, so we save each start.

# %%
import tempfile
from pathlib import Path

from safetensors.torch import save_file

names = [name for name in own if name in headless]  # from the input to the features
third = next(number for number, name in enumerate(names) if name.startswith("layer3"))
kept = {"first layer": names[:6]}  # a convolution and its batch norm have 6 tensors
kept |= {"all but the first layer": names[6:], "first half": names[:third]}
copied = {part: own | {name: given[name] for name in kept[part]} for part in kept}
folder = tempfile.TemporaryDirectory()
for part, state in copied.items():
    file = Path(folder.name) / f"{part}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    starts[part] = Transfer(str(file))

# %% [markdown]
# We check which filters we have copied.

# %% tags=["nbval-check-output"]
filters = [name for name in names if given[name].ndim == 4]
early = [name for name in filters if not name.startswith(("layer3", "layer4"))]
came = {part: [n for n in filters if torch.equal(copied[part][n], given[n])] for part in copied}
holds(came["first layer"] == [first], "first layer: its filters are the letters', and no others")
holds(came["all but the first layer"] == filters[1:], "all but the first layer: all other filters")
holds(came["first half"] == early, "first half: the filters before the third stage")

# %% [markdown]
# For each part, we choose between two peaks on seed 0: the best ones of scratch and pretrained. Then we train
# with the same seeds as before. In the figure, dots are seeds, bars are means, and black lines are intervals
# (chapter 0).

# %% tags=["fold"]
part_best = tune(dict.fromkeys(copied, pair)).idxmax().to_dict()
parts = compare(part_best) | {"whole body": short["pretrained"]}
folder.cleanup()
above = {part: gains(runs, short["scratch"]) for part, runs in parts.items()}
bars(above, "accuracy above scratch, points", f"{quarter:,} images, parts of the letters' body")
plt.show()

# %%
scratch = short["scratch"]
table = {
    part: {
        "compared with scratch": against(parts[part], scratch),
        "the whole body, compared with it": against(parts["whole body"], parts[part]),
    }
    for part in parts
    if part != "whole body"
}
table["whole body"] = {
    "compared with scratch": against(parts["whole body"], scratch),
    "the whole body, compared with it": "",
}
pd.DataFrame(table).T

# %%
alone, beyond = table["first layer"].values()
over_rest = table["all but the first layer"]["the whole body, compared with it"]
first_helps = "higher" in alone or "higher" in over_rest
if "higher" not in many:
    story = "could not be tested, because the whole body brings no clear gain"
elif "higher" in beyond:
    story = (
        "is **part of the truth, but not all of it**"
        if first_helps
        else "is **not supported** by these runs"
    )
else:
    story = "**may be the whole truth**: these runs do not refute it"
helps = "it is not clear that the first layer helps"
if first_helps:
    ways = {"alone": "higher" in alone, "on top of the other layers": "higher" in over_rest}
    helps = f"the first layer helps {' and '.join(way for way, yes in ways.items() if yes)}"
say(f"The table says that {helps}. So the story of the edge filters {story}.")

# %%
in_half = sum(own[each].numel() for each in kept["first half"])
percent = 100 * in_half / sum(own[each].numel() for each in names)
half_gain, whole_gain = (sum(above[part]) / len(seeds) for part in ("first half", "whole body"))
most = half_gain > 0.75 * whole_gain > 0
say(
    f"The first half holds only {percent:.0f} % of the body's parameters, and brings **{half_gain:.1f} of the "
    f"{whole_gain:.1f} points**. "
    + (
        "So it accounts for most of the gain. A likely reason, which we did not test: early layers are more general (Yosinski et "
        "al.). They find pieces of shapes, which clothes have, too."
        if most
        else "So the later layers matter as well."
    )
)

# %% [markdown]
# A single part may bring little because each layer was trained to work on the output of the layer before it. If
# one of the two is random, they no longer fit. (Yosinski et al. call such layers *co-adapted*.)
#
# ## Break it: freeze the body
#
# A frozen body needs almost no backward pass, so each step is cheaper. We therefore also give the frozen
# network three times the images, at the same peak. The figure shows gains over scratch, which had the images only
# once.

# %% tags=["fold"]
patient = compare({"frozen": short_best["frozen"]}, images=3 * quarter)["frozen"]
bodies = {name: short[name] for name in ("frozen random", "frozen")}
bodies |= {"frozen, 3 times the images": patient, "pretrained": short["pretrained"]}
above = {name: gains(runs, short["scratch"]) for name, runs in bodies.items()}
bars(above, "accuracy above scratch, points", f"{quarter:,} images, or 3 times as many")
plt.show()

# %%
control = against(short["frozen"], short["frozen random"])
useful = "are useful" if "higher" in control else "**cannot be shown** to be useful"
say(
    f"The letters' features {useful}: compared with a head on a random body, the frozen network is {control}. "
    f"Compared with scratch, where all layers learn, it is **{against(short['frozen'], short['scratch'])}**."
)

# %%
frozen_seconds = [run.train_seconds for run in short["frozen"]]
pretrained_seconds = [run.train_seconds for run in short["pretrained"]]
cheap = faster(frozen_seconds, pretrained_seconds)
spent = 3 * median([f / p for f, p in zip(frozen_seconds, pretrained_seconds, strict=True)])
patience = against(patient, short["pretrained"])
if "lower" in patience and spent > 0.95:
    freezing = "**does not pay** here"
elif "higher" in patience and spent < 1.05:
    freezing = "**pays** here"
else:
    freezing = "may or may not pay: we **cannot tell**"
say(
    f"Per image, training is {cheap} with a frozen body. So on three times the images, the frozen network trains "
    f"{spent:.2f} times as long as the pretrained one in which all layers learn. Compared with it, the accuracy of the "
    f"frozen one is {patience}. So freezing {freezing}. (We did not tune the peak of the longer run.)"
)

# %% [markdown]
# A frozen body can only offer the features that letters needed. A body that learns can make new ones. But if
# labels are very few, it can also memorise them, which would be a reason to freeze the body. Does freezing help with
# 128 labels?

# %%
rare_frozen = against(scarce["frozen"], scarce["pretrained"])
say(
    f"With 128 labels, each start at its own peak, and compared with a pretrained network in which all layers learn, "
    f"the accuracy of the frozen one is **{rare_frozen}**. Compared with scratch, it is "
    f"{against(scarce['frozen'], scarce['scratch'])}."
)

# %% [markdown]
# ## What did the weights cost?
#
# The file of the weights records how many seconds their training took. Our recorded study measured the seconds
# to a fixed accuracy, with and without these weights. So we can compute after how many runs the cost of the
# weights is recouped.

# %% tags=["fold"]
from safetensors import safe_open

from fasttricks.course import headline, published
from fasttricks.models import letters_file

recorded = choose_budget("cpu")
with safe_open(letters_file(recorded.model, recorded.image_size), "pt") as file:
    cost, maker = (
        float(file.metadata()["seconds"]),
        file.metadata()["cpu"].replace("1 threads", "one thread"),
    )
studies = {study.study: study for study in published()}

# %%
payback = {"plain": "not recorded", "whole": "not recorded"}
for key, arm in (("plain", "plain + transfer"), ("whole", "whole - transfer")):
    (measured,) = studies["cpu"].of(arm) if "cpu" in studies else (None,)
    if measured is None:
        continue
    saved = measured.compared - measured.train  # on the seeds that both have
    saved = saved if key == "plain" else -saved
    if saved > 0:
        payback[key] = (
            f"{saved:.1f} s saved per run, so the cost of the weights is recouped after about "
            f"**{float(f'{cost / saved:.2g}'):,.0f} runs**"
        )
    else:
        payback[key] = "no seconds saved, so their cost is **never** recouped"
say(
    f"Making the weights took {cost:,.0f} s, on {maker}.\n\n"
    f"- Compared with *plain training*: {payback['plain']}.\n"
    f"- Compared with the *other six tricks* of this course: {payback['whole']}."
)

# %% [markdown]
# Both answers are right. The first applies if you use no other trick. The second, which chapter 8 also gives,
# applies if you use the other six anyway. A run that is already short has few seconds to save, even if the
# ratio is large. If somebody shares the weights with you, there is no cost to recoup.
#
# ## What we have found
#
# Here is what our recorded study found. "Paired seeds" means that both recipes drew the same random numbers.
# The seconds do not include the training of the weights.

# %%
say(headline("transfer"))

# %% [markdown]
# In the trick's card, *theta_0* stands for the initial weights. The *slot* is the part of training that the
# trick changes. *Single* means that a recipe can have only one start.

# %%
from IPython.display import Markdown

Markdown(transfer.__doc__)

# %% [markdown]
# How do its promises compare with our runs?

# %%
lost = {}  # points, at the peak after the best one
for arm in both:
    at_best, *higher = short_found[arm].dropna().loc[short_best[arm] :].tolist()
    lost[arm] = 100 * (at_best - higher[0]) if higher else float("nan")
erasing = "seen" if lost["pretrained"] > lost["scratch"] + 1 else "not seen"
seen_few, seen_short = (
    "**seen**" if "higher" in told else "**the opposite**" if "lower" in told else "**not clear**"
    for told in (rare, many)
)
say(
    "| the card says | we found |\n|---|---|\n"
    f"| It pays when budgets are short. | {seen_short}: compared with scratch, {many} after {quarter:,} images |\n"
    f"| It pays when labels are few. | {seen_few}: compared with scratch, {rare} with 128 labels |\n"
    f"| It fails when the run is long and labels are many. | **not tested**: our longest runs make {passes[1]} "
    "passes over all the clothes |\n"
    f"| Freezing makes steps cheaper. | {cheap} per image. Freezing {freezing} |\n"
    f"| The other training is paid back after some reuses. | compared with plain training: {payback['plain']} |\n"
    "| The images must not be too different. | **not tested** |\n"
    f"| A high peak erases what the body learned. | **{erasing}** (one seed): the peak after the best one costs "
    f"{lost['pretrained']:.1f} points from the letters, and {lost['scratch']:.1f} from scratch |"
)

# %%
if "higher" in many:
    rule = (
        "if somebody offers weights for your network, start from them, and tune the learning rate again, because the "
        "best one may be different"
    )
else:
    rule = "these runs show no clear gain, so try both starts on your own task"
freeze = "Try a frozen body, too"
if "does not" in freezing:
    freeze = "Let all layers learn"
    freeze += ", unless your labels are very few: then freeze the body" * ("higher" in rare_frozen)
elif "pays" in freezing:
    freeze = "Freeze the body"
say(
    f"**The rule of thumb:** {rule}. {freeze}. Pretrain weights yourself only if enough runs will share them: the "
    f"section *What did the weights cost?* shows how to count. And measure which layers help: the story of the edge filters "
    f"{story}."
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
# <details><summary>Answer</summary>The running statistics of batch norm have changed to those of the new
# images.</details>
#
# **3. Many filters of the pretrained first layer find edges. Why is that no proof that they bring the gain?**
#
# <details><summary>Answer</summary>It shows that they were learned, not that they help. To find out, you
# have to train a network that gets this layer alone.</details>
#
# **4. A colleague freezes a pretrained body and reaches a good accuracy. Which control do you ask for?**
#
# <details><summary>Answer</summary>The same with a random body. A head on random features already
# classifies many images correctly. Only the accuracy above that is due to the pretraining. Also ask for a
# run in which all layers learn.</details>
#
# **5. Two people compute after how many runs the cost of the same weights is recouped, and get different numbers. How
# can both be right?**
#
# <details><summary>Answer</summary>They use different recipes, and the weights save a different number of
# seconds in each.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell, which checks it.
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
