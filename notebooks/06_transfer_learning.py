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
# The budget depends on the device. It sets which network we train, and on how many images. Most runs of
# this chapter see a quarter of these images.

# %%
from fasttricks import BASELINE, OneCycle, Transfer, choose_budget, load, train

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)
quarter, half = budget.images // 4, budget.images // 2

# %% [markdown]
# First, here is what our recorded study found about this trick. A ratio above 1 means that the second of
# the two times is the shorter.
#
# Below it is the trick's card. There, *theta_0* are the initial weights. The *slot* is the part of training
# that a trick changes, here the start, and a recipe has room for a *single* start. *Meets* lists what it
# interferes with. At the end of the chapter, we check what the card promises.

# %%
from IPython.display import Markdown

from fasttricks.course import headline, say
from fasttricks.tricks import transfer

say(headline("transfer"))
Markdown(transfer.__doc__)

# %% [markdown]
# ## The problem: few labels
#
# Suppose that somebody has labelled only 128 images, a single batch of our plain recipe. We train on them
# over and over. The batch is mirrored at random, but it never contains a new image.

# %%
few = data.subset(128)
fresh = train(BASELINE, few, images=half, evaluations=4, label="128 labels")

# %% [markdown]
# How accurate is the network on new images (the validation images), and on its own 128?

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, bars, faster, gained, gains, holds, one_line, plot
from fasttricks.loop import accuracy

seen, _, scores = zip(*fresh.curve, strict=True)
own_labels = accuracy(fresh.net, few, few.train, BASELINE)
lines = {"new images": (seen, scores), "its own 128, at the end": (seen, [own_labels] * len(seen))}
plot(lines, "images seen", "accuracy", "from scratch on 128 labels, one seed", marks=True)
plt.show()

# %%
gap = 100 * (own_labels - scores[-1])
verdict = f"a gap of {gap:.0f} points" if gap > 5 else "hardly a gap"
say(
    f"After {half / 128:.0f} passes over its 128 images, the network classifies {100 * own_labels:.0f} % of them "
    f"correctly, and {100 * scores[-1]:.0f} % of the new images: **{verdict}**."
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
# Does reading help with clothes? We repeat the run, but start from the weights of that network. For the
# small network, they come with the course. For the GPU's network, `make_letters` makes them now, once.

# %%
from fasttricks.pretrain import make_letters

make_letters(budget.model, budget.image_size)
reader = train(BASELINE + Transfer(), few, images=half, evaluations=4, label="pretrained")
reader_own = accuracy(reader.net, few, few.train, BASELINE)
reader_scores = [point[2] for point in reader.curve]
lines = {"from scratch": (seen, scores), "pretrained on letters": (seen, reader_scores)}
plot(lines, "images seen", "accuracy on new images", "128 labels, one seed each", marks=True)
plt.show()

# %%
say(
    f"On new images, the network that was pretrained on letters ends at {reader_scores[-1]:.3f}, and the one "
    f"from scratch at {scores[-1]:.3f}: **{gained([reader_scores[-1]], [scores[-1]], 0.1)}**. It classifies "
    f"{100 * reader_own:.0f} % of its own 128 images correctly, so the gap is now "
    f"{100 * (reader_own - reader_scores[-1]):.0f} points."
)

# %% [markdown]
# That was one seed, and one learning rate for both. We make a fair comparison below.
#
# **What has it seen in the letters?** We compare its weights with random ones. A *state* is a dict from the
# name of each tensor to the tensor.

# %%
from fasttricks.models import begin, given_state, head_of

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
# brightness changes, as at an edge. A filter at 1 averages pixels or copies a single one.

# %%
flat, order = {}, {}
for name, state in states.items():
    weights = state[first].flatten(1)
    share = weights.sum(1).abs() / weights.abs().sum(1)
    flat[name], order[name] = share.sort()

# %% [markdown]
# Here are the responses of sixteen first-layer filters to one shoe, from the filter that is most blind to
# flat surfaces to the one that is least. Middle grey means no answer. Black and white are strong answers of
# opposite signs.

# %%
from fasttricks.course import answers

boots = data.val.x[data.val.y == data.classes.index("ankle boot")]
shoe, responses = data.normalise(boots[:1]).cpu(), {}
for name, state in states.items():
    chosen = order[name][torch.linspace(0, len(order[name]) - 1, 16).long()]
    responses[name] = torch.nn.functional.conv2d(shoe, state[first][chosen])[0]
answers(shoe[0, 0], responses)
plt.show()

# %%
blind = {name: int((share < 0.05).sum()) for name, share in flat.items()}
say(
    f"With random weights, **{blind['random']} of {len(flat['random'])}** filters are nearly blind to flat "
    f"surfaces (below 0.05). After training on letters, **{blind['letters']} of {len(flat['letters'])}** are."
)

# %% [markdown]
# A blind filter keeps the outlines and discards the brightness. Letters consist of outlines, and shoes have
# them too. Networks trained on photographs learn edge filters as well, whatever their task (Yosinski et al.
# 2014, arXiv 1411.1792). So here is a tempting story: *the edge filters of the first layer are what helps.*
# The picture shows that they were learned, but not that they help. Below we test the story.
#
# ## By hand: a body and a head
#
# The *body* turns an image into a few numbers, called features, and the *head* turns these into classes.
# Here are two minimal examples: the other task's network with five classes, and ours with three.

# %%
theirs = {"body.weight": torch.tensor([[1.0, 2], [3, 4]]), "fc.weight": torch.ones(5, 2)}
ours = {"body.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(3, 2)}
moved = dict(ours)
moved["body.weight"] = theirs["body.weight"]
moved

# %% [markdown]
# By hand, a transplant is one assignment by name. The head stays ours because its rows stand for
# our classes.

# %% tags=["nbval-check-output"]
holds(moved["body.weight"].tolist() == [[1, 2], [3, 4]], "the body is theirs")
holds(moved["fc.weight"].shape[0] == 3, "the head has our three rows")
holds(ours["body.weight"].sum() == 0, "what we began with is unchanged")
rows = given[f"{head}.weight"].shape[0], own[f"{head}.weight"].shape[0]
holds(rows == (len(letters.classes), 10), "the letters' head has one row per character")

# %% [markdown]
# ## Write it
#
# Now we do the same for any number of tensors. If a body does not fit, we raise an error.


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


begun = transplant(own, given, head)

# %% [markdown]
# ## Check it
#
# First, our function does what the package does.


# %% tags=["nbval-check-output"]
def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in own)


holds(same(begun, transfer.transplant(own, given, head)), "ours is the package's")

# %% [markdown]
# Second, torch can also load part of a state. We drop the letters' head, and torch reports what was
# missing.

# %% tags=["nbval-check-output"]
headless = {n: tensor for n, tensor in given.items() if not transfer.is_head(n, head)}
report = net.load_state_dict(headless, strict=False)
holds(same(begun, net.state_dict()), "torch's load_state_dict(strict=False) gives the same state")
holds(report.missing_keys == [f"{head}.weight", f"{head}.bias"], "it missed the head, no more")

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
# Last, *freezing*. `Transfer(freeze=1.0)` trains only the head and leaves the body as it came. We start a
# short run:

# %%
still = train(BASELINE + Transfer(freeze=1.0), data, images=budget.images // 8, evaluations=1)
after = {name: tensor.cpu() for name, tensor in still.net.state_dict().items()}
learned = [name for name, _ in net.named_parameters() if name not in heads]

# %% [markdown]
# Batch norm also keeps a running mean and variance of the values that pass through it. They are not
# parameters, so freezing the parameters does not stop them.

# %% tags=["nbval-check-output"]
holds(all(torch.equal(after[n], given[n]) for n in learned), "no frozen parameter has moved")
means = [name for name in after if name.endswith("running_mean")]
holds(not any(torch.equal(after[n], given[n]) for n in means), "every running mean has moved")
holds(not torch.equal(after[heads[0]], own[heads[0]]), "the head has learned")

# %% [markdown]
# The same happens in your own script in training mode. If your batches are small, or your images too few or
# too unlike to trust their statistics, put the frozen layers into `eval()` mode after each `net.train()`.
#
# ## In your own loop
#
# You do not need this package for transfer learning. In a plain PyTorch script, the trick is these
# changes: remove the `-` lines and add the `+` lines. `folder` is what you pass as `--data`: a folder of
# your own photographs, or nothing for the clothes.
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
# To freeze the body, or to let it learn more slowly than the head, you need a few more lines:
#
# ```python
# for name, parameter in net.named_parameters():  # frozen: only the head learns
#     parameter.requires_grad = name.startswith("fc.")
#
# body = [p for name, p in net.named_parameters() if not name.startswith("fc.")]
# groups = [{"params": body, "lr": 0.1 * LR}, {"params": net.fc.parameters(), "lr": LR}]  # or slower
# ```
#
# ## Weights from photographs
#
# The usual case is not letters. It is a network such as ResNet-18, pretrained on the photographs of
# ImageNet. Its weights come from a hub, and this course runs without a network connection, so their gain is
# *not* measured here. They expect images of their own kind, so three things must fit: size, normalisation
# and colours.
#
# **Size.** ResNet-18 learned from images of 224 pixels a side. Its body halves width and height five times.
# We print how many positions are left of images of 28, 64 and 224 pixels. (Its weights are random here,
# which does not matter for shapes.)

# %% tags=["nbval-check-output"]
import timm

resnet = timm.create_model("resnet18", num_classes=10, in_chans=1).eval()
for size in (28, 64, 224):
    features = resnet.forward_features(torch.zeros(1, 1, size, size))
    print(f"{size} x {size} pixels: {features.shape[-2]} x {features.shape[-1]} positions")

# %% [markdown]
# Of a 28-pixel image, a single position is left: the deeper filters see mostly padding, and never the
# shapes that they were trained on. So enlarge small images. This adds no information, but it brings edges
# and shapes closer to the size that the filters know. On a GPU, this course enlarges them to 64 pixels.
#
# **Normalisation.** Subtract the mean and divide by the standard deviation of the *pretraining*, not of
# your images. `timm` knows them.
#
# **Colours.** Photographs have three channels, and our images one. With `in_chans=1`, timm sums the three
# input channels of the first filters. In a grey picture all three colours are equal, so the answer does not
# change, provided that the three channels are normalised in the same way. (You can also copy the grey
# channel three times, which costs a little time.) Our package sums them, too:

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
# x = F.interpolate(x / 255, size=(64, 64), mode="bilinear", antialias=True)  # larger is closer, and slower
# logits = net((x - mean) / std)
# ```
#
# With this package, `Transfer("imagenet")` loads such weights. It keeps our own normalisation, which maps
# pixels to the range from -1 to 1. A body that learns adapts to it.
#
# ## Use it
#
# Back to letters. We compare four starts. *Scratch* and *pretrained* let all layers learn. *Frozen* trains
# only the head on top of the letters' body. To judge that body, we need a control: *frozen random* trains
# only the head on top of a body with random weights. The package has no such start, so we write it. A start
# tells the loop where its weights come from, and by which factor to multiply the learning rate of a
# parameter.

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
# We need four small helpers. The first trains a start once, with one-cycle (chapter 3), whose peak is a
# multiple of the baseline's rate. The second compares the accuracies of two lists of runs, seed by seed.
# The third says by how much each pretrained run is ahead of the scratch run with the same seed. The last
# turns a comparison into one of three verdicts.


# %%
def trained(start, peak, seed, images=quarter, labelled=data):
    recipe = BASELINE + OneCycle(float(peak)) + start
    return train(recipe, labelled, images=images, seed=seed, evaluations=1)


def against(runs, others):
    return gained([run.val_accuracy for run in runs], [run.val_accuracy for run in others], 0.1)


def leads(pair):
    return [points / 100 for points in gains(pair["pretrained"], pair["scratch"])]


def decide(told, higher, not_higher, unclear="these runs **cannot tell**"):
    if "higher" in told:
        return higher
    return not_higher if "lower" in told or "about the same" in told else unclear


# %% [markdown]
# One learning rate for all would favour the start that it happens to suit. So every start gets the same
# five tries, with seed 0. The table shows the validation accuracies.

# %%
import pandas as pd

peaks = (3, 10, 30, 100, 300)
tries = {}
with one_line() as tell:
    for peak in peaks:
        for name, start in starts.items():
            tries[peak, name] = trained(start, peak, seed=0)
    tell(f"Runs of {quarter:,} images: {len(tries)}")
found = pd.Series({key: run.val_accuracy for key, run in tries.items()}).unstack(sort=False)
best = found.idxmax()
found.rename_axis("peak").round(3)

# %%
chosen = ", ".join(f"{name} {peak}" for name, peak in best.items())
edges = [name for name, peak in best.items() if peak in (peaks[0], peaks[-1])]
outside = f" For {' and '.join(edges)}, a peak outside may be better still." if edges else ""
say(f"The best peaks are: **{chosen}**. Each start keeps its own from here on.{outside}")

# %% [markdown]
# These accuracies have chosen the peaks, so they look a little too good for every start. We therefore
# compare the starts on other seeds, beginning with 1.

# %%
seeds = range(1, 1 + budget.seeds)
arms = {name: [] for name in starts}
with one_line() as tell:
    for seed in seeds:
        for name, runs in arms.items():
            runs.append(trained(starts[name], best[name], seed))
    tell(f"Runs of {quarter:,} images: {len(seeds) * len(arms)}")
accuracy_table(arms)

# %%
short_verdict = against(arms["pretrained"], arms["scratch"])
say(
    f"After {quarter:,} images ({quarter / len(data.train):.2f} passes over the training images), the pretrained "
    f"network is **{short_verdict}** compared with scratch. We come back to the frozen ones."
)

# %% [markdown]
# **Does the lead last?** We repeat the comparison with runs that are four times as long. The peaks stay as
# they are, although another length may prefer another peak.

# %%
long_arms = {"scratch": [], "pretrained": []}
with one_line() as tell:
    for seed in seeds:
        for name, runs in long_arms.items():
            runs.append(trained(starts[name], best[name], seed, images=budget.images))
    tell(f"Runs of {budget.images:,} images: {len(seeds) * len(long_arms)}")
accuracy_table(long_arms)

# %%
long_verdict = against(long_arms["pretrained"], long_arms["scratch"])
trend = gained(leads(long_arms), leads(arms))
say(
    f"After {budget.images:,} images ({budget.images / len(data.train):.2f} passes), the pretrained network "
    f"is **{long_verdict}** compared with scratch. We tried no longer runs here."
)
say(f"Compared with its lead after {quarter:,} images, this lead is {trend}.")

# %% [markdown]
# How it goes on, we do not know from these runs. In object detection, networks trained from scratch caught
# up with those pretrained on ImageNet once they were trained long enough (He et al. 2018, arXiv
# 1811.08883).
#
# **Is it worth more when labels are few?** This is often said. We return to the 128 labels of the opening,
# and give every seed its own 128 images. Other labels may prefer other peaks, so we tune again, on seed 0.

# %%
few_arms, few_tries = {"scratch": [], "pretrained": []}, {}


def labels_of(seed, count=128):
    return replace(data, train=data.train[count * seed : count * (seed + 1)])


with one_line() as tell:
    for peak in (10, 30, 100):
        for name in few_arms:
            few_tries[peak, name] = trained(starts[name], peak, seed=0, labelled=labels_of(0))
    tell(f"Runs of {quarter:,} images, from 128 labels: {len(few_tries)}")
few_found = pd.Series({key: run.val_accuracy for key, run in few_tries.items()}).unstack(sort=False)
few_best = few_found.idxmax()
few_found.rename_axis("peak").round(3)

# %% [markdown]
# Then we compare on the other seeds, each start with its best peak. Every run sees as many images as in the
# first comparison, but only 128 different ones.

# %%
with one_line() as tell:
    for seed in seeds:
        for name, runs in few_arms.items():
            runs.append(trained(starts[name], few_best[name], seed, labelled=labels_of(seed)))
    tell(f"Runs of {quarter:,} images, from 128 labels: {len(seeds) * len(few_arms)}")
accuracy_table(few_arms)

# %%
few_verdict = against(few_arms["pretrained"], few_arms["scratch"])
extra = gained(leads(few_arms), leads(arms))
worth = decide(
    extra,
    "few labels **do make pretraining worth more** here",
    "we find **no extra gain** when labels are few",
    "these runs **cannot tell** whether few labels make pretraining worth more",
)
say(
    f"With 128 labels, the pretrained network is **{few_verdict}** compared with scratch. Compared with its "
    f"lead with {len(data.train):,} labels, this lead is {extra}: {worth}."
)

# %% [markdown]
# ## What was transferred?
#
# Now we test the story of the edge filters. We copy only a part of the letters' body, and leave the rest of
# the network random. If the story is true, the *first layer* (one convolution and its batch norm) brings
# most of the gain, and *all but the first layer* brings little. We also try the *first half*, which is
# everything before the third of the network's four stages. Yosinski et al. asked in this way which layers
# are general.
#
# Perhaps good weights merely have a good *size*. As a control, we copy the whole body, but *shuffle* the
# numbers within each tensor. This destroys every filter, and keeps only the spread of the numbers in each
# tensor.

# %%
names = [name for name in own if name in headless]  # from the input to the features
middle = next(number for number, name in enumerate(names) if name.startswith("layer3"))
kept = {"first layer": names[:6]}  # a convolution and its batch norm have 6 tensors
kept |= {"all but the first layer": names[6:], "first half": names[:middle]}
copied = {part: own | {name: given[name] for name in kept[part]} for part in kept}
copied["shuffled"] = {}
for name, tensor in headless.items():
    mixed = torch.randperm(tensor.numel(), generator=chance)
    copied["shuffled"][name] = tensor.flatten()[mixed].view(tensor.shape)

# %% [markdown]
# A check that we copied the filters that we wanted, and no others:


# %% tags=["nbval-check-output"]
def theirs_in(part):
    return [n for n in names if given[n].ndim == 4 and torch.equal(copied[part][n], given[n])]


filters = [name for name in names if given[name].ndim == 4]
early = [name for name in filters if not name.startswith(("layer3", "layer4"))]
holds(theirs_in("first layer") == [first], "only the first layer's filters are the letters'")
holds(theirs_in("all but the first layer") == filters[1:], "or all filters but those")
holds(theirs_in("first half") == early, "or those before the third stage")
holds(theirs_in("shuffled") == [], "or none, if we have shuffled them")

# %% [markdown]
# `Transfer` also accepts the path of a file, so we save these starts.

# %%
import tempfile
from pathlib import Path

from safetensors.torch import save_file

folder, parts = tempfile.TemporaryDirectory(), {}
for part, state in copied.items():
    file = Path(folder.name) / f"{part}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    parts[part] = Transfer(str(file))

# %% [markdown]
# Each of them may choose between two peaks, on seed 0: the best one of scratch, and the best one of the
# pretrained network. Then it runs with the same seeds as the others.

# %%
pair = sorted({best["scratch"], best["pretrained"]})
part_arms, part_best = {}, {}
with one_line() as tell:
    for part, start in parts.items():
        ends = {peak: trained(start, peak, seed=0).val_accuracy for peak in pair}
        part_best[part] = max(ends, key=ends.get)
        part_arms[part] = [trained(start, part_best[part], seed) for seed in seeds]
    tell(f"Runs of {quarter:,} images: {len(parts) * (len(pair) + len(seeds))}")
folder.cleanup()
part_arms["whole body"] = arms["pretrained"]

# %% [markdown]
# The figure shows by how many points each part is above scratch. A dot is a seed, and a bar is the mean of
# the seeds. The black line is a bootstrap interval, which is little more than their range with so few
# seeds.

# %%
above = {part: gains(runs, arms["scratch"]) for part, runs in part_arms.items()}
bars(above, "accuracy above scratch, points", f"{quarter:,} images, each part at its better peak")
plt.show()

# %%
told = {part: against(runs, arms["scratch"]) for part, runs in part_arms.items()}
bullets = [
    f"- *{part}* (peak {part_best.get(part, best['pretrained'])}): {what}"
    for part, what in told.items()
]
say("Compared with scratch:\n\n" + "\n".join(bullets))

# %%
mean = {part: sum(points) / len(points) for part, points in above.items()}
story = "**passes**" if mean["first layer"] >= mean["whole body"] / 2 else "**fails**"
without = against(part_arms["whole body"], part_arms["all but the first layer"])
needed = decide(without, "**is needed** as a part", "**can be left out**", "may be needed or not")
if "higher" in told["whole body"]:
    say(
        f"The whole body brings {mean['whole body']:+.1f} points, and the first layer alone "
        f"{mean['first layer']:+.1f}. The story that its edge filters carry the gain {story} this test."
    )
    say(
        f"Compared with all but the first layer, the whole body is {without}. So this layer {needed}."
    )
else:
    say("The whole body brings no clear gain here, so we **cannot tell** which part brings it.")

# %%
count = {part: sum(own[name].numel() for name in kept[part]) for part in kept}
percent = 100 * count["first half"] / sum(own[name].numel() for name in names)
beyond = against(part_arms["whole body"], part_arms["first half"])
adds = decide(beyond, "**adds** to it", "**adds nothing** to it", "may add to it or not")
if "higher" in told["whole body"]:
    say(
        f"The first half, with {percent:.0f} % of the body's numbers, brings {mean['first half']:+.1f} points. "
        f"Compared with it, the whole body is {beyond}, so the second half {adds}."
    )

# %%
size = decide(told["shuffled"], "helps", "**is not what helps**", "may or may not help")
say(
    f"The control: with shuffled numbers, the network is {told['shuffled']}. A good size alone {size}."
)

# %% [markdown]
# A picture of filters shows what was learned. Only an experiment shows what it is good for. One reason why
# a single part may bring little is that a layer works on what the layer before it sends. If a copied layer
# follows a random one, the two do not fit. Yosinski et al. found such breaks between layers that had been
# trained together, and called these layers *co-adapted*. (We shuffled because Raghu et al. 2019, arXiv
# 1902.07208, found on medical images that the size of pretrained weights accounted for much of the
# speed-up.)
#
# ## Who paid?
#
# The file of the weights says how many seconds it took to make them, and the recorded study measured the
# seconds until a fixed accuracy, with and without them. How many runs must share the weights? It depends on
# what we would do without them.

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
    f"- Against *plain* training: {payback('plain', 'add transfer')}.\n"
    f"- Against the *other six tricks* of this course: {payback('no transfer', 'whole')}."
)

# %% [markdown]
# Both lines are right, for different readers. The first is for somebody who uses no other trick. The second
# is for somebody who uses the other six anyway, and it is the one that the capstone (chapter 8) tells. They
# differ because a run that is already fast has fewer seconds left to save, so it takes more such runs to
# pay for the same weights. If somebody gives you the weights, you have nothing to pay back.
#
# The two clocks differ a little: the weights were made on one thread, and the study used two cores. On two
# cores, the weights would be paid for somewhat sooner.
#
# ## Break it
#
# **Frozen for good.** A frozen body needs almost no backward pass, so each step is faster. And a small head
# cannot memorise many images. Both are reasons to freeze. We already have short runs of a frozen body, and
# of the random control. Because their steps are cheap, we also give the frozen network four times as many
# images.

# %%
with one_line() as tell:
    asked = {"images": budget.images}
    patient = [trained(starts["frozen"], best["frozen"], seed, **asked) for seed in seeds]
    tell(f"Runs of {budget.images:,} images: {len(patient)}")
compared = {name: runs for name, runs in arms.items() if name != "scratch"}
compared["frozen, four times as long"] = patient
above = {name: gains(runs, arms["scratch"]) for name, runs in compared.items()}
bars(
    above,
    "accuracy above scratch, points",
    f"{quarter:,} images; the last one sees {budget.images:,}",
)
plt.show()

# %%
control_verdict = against(arms["frozen"], arms["frozen random"])
helps = decide(
    control_verdict, "**does help** with clothes", "**does not help** with clothes", "may help"
)
say(
    f"Compared with the random control, the frozen network is {control_verdict}: what it learned {helps}."
)
say(
    f"Compared with scratch, where all layers learn, it is {against(arms['frozen'], arms['scratch'])}."
)

# %%
patient_verdict = against(patient, arms["pretrained"])
cheap = faster(*([run.train_seconds for run in arms[name]] for name in ("frozen", "pretrained")))
freezing = decide(patient_verdict, "freezing **pays** here", "freezing **does not pay** here")
say(
    f"Per image, freezing is {cheap}. With four times as many images, the frozen network is "
    f"{patient_verdict} compared with the short pretrained runs: {freezing}."
)

# %% [markdown]
# The head can only recombine the features that letters needed. A body that learns can make new ones.
#
# **Too high a peak.** The card warns that a high peak *forgets the body*, because long steps overwrite the
# copied weights. If that happens, the pretrained network ends where scratch ends with the same peak: what
# was copied is gone. We take the highest of our peaks.

# %%
hot = peaks[-1]
hot_arms = {"scratch": [], "pretrained": []}
with one_line() as tell:
    for seed in seeds:
        for name, runs in hot_arms.items():
            runs.append(trained(starts[name], hot, seed))
    tell(f"Runs of {quarter:,} images at peak {hot}: {len(seeds) * len(hot_arms)}")
accuracy_table(hot_arms)

# %%
hot_verdict = against(hot_arms["pretrained"], hot_arms["scratch"])
by_rate = against(hot_arms["scratch"], arms["scratch"])
cause = " Scratch has nothing to forget: its loss is due to the rate." if "lower" in by_rate else ""
say(
    f"Compared with its best peak, scratch is {by_rate} at peak {hot}, and the pretrained network "
    f"{against(hot_arms['pretrained'], arms['pretrained'])}.{cause}"
)
forgotten = decide(
    hot_verdict,
    "**not all is forgotten**, because what was copied still helps",
    "**nothing is left** of what was copied, as the card warns",
)
say(
    f"At this peak, the pretrained network is **{hot_verdict}** compared with scratch: {forgotten}."
)

# %% [markdown]
# ## What the card promised
#
# Here is the lead of the pretrained network over scratch in all four comparisons.

# %%
compared = {"short runs": arms, "four times as long": long_arms}
compared |= {"short runs, 128 labels": few_arms, f"short runs, peak {hot}": hot_arms}
lead = {name: gains(pair["pretrained"], pair["scratch"]) for name, pair in compared.items()}
bars(lead, "pretrained minus scratch, points of accuracy", f"short runs: {quarter:,} images")
plt.show()

# %%
clearly = sum("higher" in told for told in (short_verdict, long_verdict, few_verdict, hot_verdict))
say(f"The pretrained network is clearly ahead in **{clearly} of {len(lead)}** comparisons.")

# %% [markdown]
# And here is what the card says, with our verdict and the numbers behind it.

# %%
yes, no, unknown = "**seen**", "**not seen**", "**cannot tell**"
say(
    f"- *It pays when budgets are short*: {decide(short_verdict, yes, no, unknown)}. The pretrained "
    f"network is {short_verdict}.\n"
    f"- *It pays when labels are few*: {decide(few_verdict, yes, no, unknown)}. It is {few_verdict}. Does it "
    f"pay *more* then? {decide(extra, 'Yes', 'No', 'We cannot tell')}: its lead is {extra}.\n"
    f"- *It fails when the run is long*: {decide(long_verdict, no, yes, unknown)} within "
    f"{budget.images:,} images. It is {long_verdict}.\n"
    f"- *A high peak forgets the body*: {decide(hot_verdict, no, yes, unknown)}. At peak {hot} it is "
    f"{hot_verdict}.\n"
    f"- *Freezing makes steps cheaper*: per image, it is {cheap}. But a frozen network, with four times "
    f"the images, is {patient_verdict}.\n"
    f"- *The other training is paid back after some reuses*: against plain training, "
    f"{payback('plain', 'add transfer')}."
)
tested = (
    f"The story of the edge filters {story} our test." if "higher" in told["whole body"] else ""
)
say(
    f"{tested} Where the card and these runs differ, we believe the runs, for this task and this network."
)

# %%
if "higher" in short_verdict:
    rule = (
        "if somebody offers weights for your network, start from them and let all layers learn. Try a few "
        "learning rates, because the best one may differ from that of a random start"
    )
else:
    rule = "these runs were too few or too short to see a gain, so try both starts on your own task"
say(
    f"**The rule of thumb:** {rule}. Freeze the body only if memory is short, or if a "
    f"comparison on your own task favours it. Pretrain yourself only if at least as many runs will share the "
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
# <details><summary>Answer</summary>They compare with different runs. The slower a run is without the
# weights, the more seconds they save.</details>
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
