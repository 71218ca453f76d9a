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
# A newly initialised network knows nothing. Before it can tell a shoe from a shirt, it must learn to see
# simple patterns such as edges. But edges are everywhere. So we start from weights that were trained on
# another task, and replace only the last layer:
#
# ```text
# letters  →  [ body: every layer but the last ]  →  [ head: one output per character ]  trained before
#                            │ copied
#                            ▼
# clothes  →  [ body: every layer but the last ]  →  [ head: one output per class ]      starts here
# ```
#
# How much sooner do we reach the same accuracy, what exactly was transferred, and who paid for it?
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
from dataclasses import replace

from fasttricks import BASELINE, OneCycle, Transfer, choose_budget, load, train

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)
quarter = budget.images // 4
budget

# %% [markdown]
# First, here is what our recorded study found about this trick. A ratio above 1 means that the second of
# the two times is the shorter.
#
# Below it is the trick's card. There, *theta_0* are the initial weights. The *slot* is the part of training
# that a trick changes, here the start, and a recipe has room for a *single* start. A high *peak* of the
# learning rate *forgets the body* because long steps overwrite the copied weights.

# %%
from IPython.display import Markdown

from fasttricks.course import headline, say
from fasttricks.tricks import transfer

say(headline("transfer"))
Markdown(transfer.__doc__)

# %% [markdown]
# ## The problem: a hundred labels
#
# Suppose that somebody has labelled only 100 images. We train on them with the plain recipe, over and over,
# in batches of 50, because a batch cannot hold more images than we have.

# %%
small, few = replace(BASELINE, batch=50), data.subset(100)
fresh = train(small, few, images=quarter, evaluations=4, label="100 labels")

# %% [markdown]
# How accurate is the network on new images, and on its own hundred?

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, faster, gained, holds, plot, say, show
from fasttricks.loop import accuracy

seen, _, scores = zip(*fresh.curve, strict=True)
own_labels = accuracy(fresh.net, few, few.train, small)
lines = {"new images": (seen, scores), "its own 100, at the end": (seen, [own_labels] * len(seen))}
plot(lines, "images seen", "accuracy", "from scratch on 100 labels", marks=True)
plt.show()

# %%
gap = 100 * (own_labels - scores[-1])
verdict = f"a gap of {gap:.0f} points" if gap > 5 else "hardly a gap"
say(
    f"After {quarter / 100:.0f} epochs, the network classifies {100 * own_labels:.0f} % of its own hundred "
    f"images correctly and {100 * scores[-1]:.0f} % of the new ones: **{verdict}**. In the last quarter of "
    f"the run, its accuracy on new images changed by {100 * (scores[-1] - scores[-2]):+.1f} points."
)

# %% [markdown]
# Seeing the same images again cannot add what they do not contain, and more labels are expensive. *Letters*
# are cheap: a computer can draw and label as many as we like. So we first train a network on 858 characters
# in five fonts. The upper row shows the prints, and the lower row what the network sees: a different warp
# each time.

# %%
import torch

letters = load("letters").to(device, budget.image_size)
rows, noise = next(letters.draws(8, torch.Generator().manual_seed(0)))
show([*letters.train.x[rows]], ["print"] * 8)
show([*letters.augment(letters.train.x[rows], noise)], ["warped"] * 8)
plt.show()

# %% [markdown]
# Does this help with clothes? We repeat the run, but start from the weights of that network. For the small
# network, they come with the course; for the GPU's network, the next cell makes them, once.

# %%
from fasttricks.pretrain import make_letters

cost = make_letters(budget.model, budget.image_size)
reader = train(small + Transfer(), few, images=quarter, evaluations=4, label="pretrained")
reader_scores = [point[2] for point in reader.curve]
lines = {"from scratch": (seen, scores), "pretrained on letters": (seen, reader_scores)}
plot(lines, "images seen", "accuracy on new images", "100 labels, one seed each", marks=True)
plt.show()

# %%
there = [at for at, score in zip(seen, reader_scores, strict=True) if score >= scores[-1]]
when = f"after {there[0]:,.0f} of {quarter:,} images" if there else "nowhere in this run"
say(
    f"The network pretrained on letters ends at {reader_scores[-1]:.3f}, and the one from scratch at "
    f"{scores[-1]:.3f}: **{gained([reader_scores[-1]], [scores[-1]], 0.1)}**. It reaches the final "
    f"accuracy of the other {when}. Its weights took {cost}; we come back to that price."
)

# %% [markdown]
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
# brightness changes, at edges, but also at lines, dots and noise. A filter at 1 averages pixels or copies a
# single one.

# %%
flat, order = {}, {}
for name, state in states.items():
    weights = state[first].flatten(1)
    share = weights.sum(1).abs() / weights.abs().sum(1)
    flat[name], order[name] = share.sort()

# %% [markdown]
# Here are the responses of sixteen first-layer filters to one shoe, from the filter that is most blind to
# flat surfaces to the one that is least. Middle grey means no answer; black and white are strong answers
# of opposite signs.

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
    f"surfaces (below 0.05); after training on letters, **{blind['letters']} of {len(flat['letters'])}** "
    f"are. The filter that is least blind is at {flat['random'][-1]:.2f} and {flat['letters'][-1]:.2f}."
)

# %% [markdown]
# A blind filter keeps the outlines and discards the brightness. Letters consist of outlines, and shoes have
# them too. Networks trained on photographs learn edge filters as well, whatever their task (Yosinski et al.
# 2014, arXiv 1411.1792). So far this is a plausible story about one layer. We test it below.
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
# Fourth, colours. The first filters of a network for photographs have three input channels, and our grey
# images have one. The package sums the three. In a grey picture all three colours are equal, so the answer
# does not change, provided that the three channels are normalised in the same way.

# %% tags=["nbval-check-output"]
chance = torch.Generator().manual_seed(0)
grey, three = torch.rand(2, 1, 9, 9, generator=chance), torch.rand(4, 3, 3, 3, generator=chance)
one = transfer.transplant({"w": torch.zeros(4, 1, 3, 3)}, {"w": three}, "fc")["w"]
both = [torch.conv2d(grey.expand(-1, 3, -1, -1), three), torch.conv2d(grey, one)]
holds(torch.allclose(*both, atol=1e-5), "one summed channel answers as three did")

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
# `load_state_dict` because these weights fit; with a file of your own, print it.
#
# **The usual case is weights from photographs.** They come from a hub, and this course runs without a
# network connection, so their gain is *not* measured here. The first line loads them, the second says how to
# normalise your images, and the third does the same with this package:
#
# ```python
# net = timm.create_model("resnet18", pretrained=True, num_classes=10, in_chans=1)
# wanted = timm.data.resolve_model_data_config(net)  # image size, mean and std of its pretraining
# train(BASELINE + Transfer("imagenet"), data)  # the budget's model
# ```
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
# ## Use it
#
# We compare three starts: from scratch, *pretrained* on letters, and pretrained with a *frozen* body. One
# learning rate for all would favour the start that it happens to suit. So every start gets the same five
# tries: one-cycle (chapter 3) with five peaks, given as multiples of the baseline's rate.

# %%
from fasttricks.tricks import Scratch

starts = {"scratch": Scratch(), "pretrained": Transfer(), "frozen": Transfer(freeze=1.0)}
peaks = (3, 10, 30, 100, 300)
tries = {}
for peak in peaks:
    for name, start in starts.items():
        recipe, label = BASELINE + OneCycle(float(peak)) + start, f"peak {peak}, {name}"
        tries[peak, name] = train(recipe, data, images=quarter, evaluations=1, label=label)

# %% [markdown]
# The table shows the validation accuracies of seed 0.

# %%
import pandas as pd

found = pd.Series({key: run.val_accuracy for key, run in tries.items()}).unstack(sort=False)
best = found.idxmax()
found.rename_axis("peak").round(3)

# %%
judged, tuned = budget.val or len(data.val), found.max()
error = 100 * (tuned["scratch"] * (1 - tuned["scratch"]) / judged) ** 0.5
say(
    f"An accuracy of {tuned['scratch']:.2f} on {judged:,} images has a standard error of "
    f"**{error:.1f} points**, and another seed changes it too. Between single runs, we therefore treat a "
    f"difference below one point as level, and below two points as weak."
)


# %%
def listed(points):
    return ", ".join(f"{p:+.1f}" for p in points)


ahead = 100 * (found["pretrained"] - found["scratch"])
chosen = ", ".join(f"{name} {peak}" for name, peak in best.items())
say(
    f"Pretrained minus scratch at the *same* peak is {listed(ahead)} points, from the lowest peak to the "
    f"highest. With each start at the best of its five peaks ({chosen}), the pretrained network is "
    f"**{gained([tuned['pretrained']], [tuned['scratch']], 0.1)}**."
)

# %% [markdown]
# We continue with the best peak of each start. The table's accuracies have chosen the peaks, so they look a
# little too good for every start. We therefore compare pretrained with scratch on other seeds, beginning
# with 1.

# %%
recipes = {name: BASELINE + OneCycle(float(best[name])) + start for name, start in starts.items()}
arms = {"scratch": [], "pretrained": []}
for seed in range(1, 1 + budget.seeds):
    for name, runs in arms.items():
        asked = {"images": quarter, "seed": seed, "evaluations": 1, "label": f"{name}, seed {seed}"}
        runs.append(train(recipes[name], data, **asked))
accuracy_table(arms)

# %%
lost, won = ([run.val_accuracy for run in runs] for runs in arms.values())
say(
    f"After {quarter:,} images ({quarter / len(data.train):.2f} epochs), the pretrained network is "
    f"**{gained(won, lost, 0.1)}** compared with scratch."
)

# %% [markdown]
# **Longer runs.** A one-cycle schedule is planned for a fixed length, so each point is a separate run, with
# seed 1. Every start keeps the peak that was the best for it at the shortest of these lengths. At another
# length, another peak may be better.

# %%
sizes = [quarter, budget.images // 2, budget.images]
made = {(name, quarter): runs[0] for name, runs in arms.items()}
for name, recipe in recipes.items():
    for size in sizes:
        asked = {"images": size, "seed": 1, "evaluations": 1, "label": f"{name}, {size:,} images"}
        if (name, size) not in made:
            made[name, size] = train(recipe, data, **asked)

# %%
reached = {name: [made[name, size].val_accuracy for size in sizes] for name in recipes}
lines = {name: (sizes, scores) for name, scores in reached.items()}
plot(lines, "images seen", "validation accuracy", "one seed each", scale="log", marks=True)
plt.xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
plt.minorticks_off()
plt.show()

# %%
import numpy as np

lead = 100 * (np.array(reached["pretrained"]) - reached["scratch"])
trend = "shrinks" if lead[-1] < lead[0] - 2 else "does not clearly shrink"
goal = reached["scratch"][-1]
enough = [n for n, score in zip(sizes, reached["pretrained"], strict=True) if score >= goal]
passes = f"is at least as good after **{enough[0]:,}**" if enough else "is never as good"
say(
    f"The lead of the pretrained network is {listed(lead)} points: within these lengths it **{trend}**. "
    f"Scratch ends at {goal:.3f} after {budget.images:,} images; the pretrained network {passes}."
)

# %% [markdown]
# In object detection, networks trained from scratch caught up with those pretrained on ImageNet once they
# were trained long enough (He et al. 2018, arXiv 1811.08883).
#
# **What was transferred?** We copy only the *first layer* (one convolution and its batch norm), or the
# *first half* (everything before the third of the network's four stages, less than a fifth of the body's
# weights). The other layers start with random weights, those of seed 0. Yosinski et al. asked in this way
# which layers are general.
#
# Perhaps good weights merely have a good *size*. As a control, we copy the whole body, but *shuffle* the
# numbers within each tensor. This destroys the patterns of the filters. It also mixes up how large each
# filter is and which channel has which batch-norm parameters. Only the spread of the numbers in each
# tensor survives.

# %%
names = [name for name in own if name in headless]  # from the input to the features
half = next(number for number, name in enumerate(names) if name.startswith("layer3"))
copied = {"shuffled": {}}
for name, tensor in headless.items():
    mixed = torch.randperm(tensor.numel(), generator=chance)
    copied["shuffled"][name] = tensor.flatten()[mixed].view(tensor.shape)
layers = {"first layer": 6, "first half": half}  # tensors; a convolution and its batch norm have 6
for part, count in layers.items():
    copied[part] = own | {name: given[name] for name in names[:count]}

# %% [markdown]
# A check that we copied what we wanted, and no more:


# %% tags=["nbval-check-output"]
def theirs_in(part):
    return [n for n in names if given[n].ndim == 4 and torch.equal(copied[part][n], given[n])]


filters = [name for name in names if given[name].ndim == 4]
holds(
    theirs_in("first layer") == [first], "of the filters, the first layer's alone are the letters'"
)
early = [name for name in filters if not name.startswith(("layer3", "layer4"))]
holds(theirs_in("first half") == early, "or those before the third stage")
holds(theirs_in("shuffled") == [], "or none, if we have shuffled them")

# %% [markdown]
# `Transfer` also accepts the path of a file, so we save these starts.

# %%
import tempfile
from pathlib import Path

from safetensors.torch import save_file

folder, kinds = tempfile.TemporaryDirectory(), {"scratch": Scratch()}
for name, state in copied.items():
    file = Path(folder.name) / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
    kinds[name] = Transfer(str(file))
kinds["whole body"] = Transfer()

# %% [markdown]
# We train each of them at the best peak of scratch and at the best peak of the pretrained network, with
# seeds 0 and 1 (runs that we already have are reused). So each column of the table compares starts at the
# *same* rate.

# %%
pair = sorted({int(best["scratch"]), int(best["pretrained"])})
ran = {("scratch", peak, 0): tries[peak, "scratch"] for peak in pair}
ran |= {("whole body", peak, 0): tries[peak, "pretrained"] for peak in pair}
ran["scratch", best["scratch"], 1] = arms["scratch"][0]
ran["whole body", best["pretrained"], 1] = arms["pretrained"][0]
for name, start in kinds.items():
    for peak, seed in [(peak, seed) for peak in pair for seed in (0, 1)]:
        asked = {"images": quarter, "seed": seed, "label": f"{name}, peak {peak}, seed {seed}"}
        if (name, peak, seed) not in ran:
            recipe = BASELINE + OneCycle(float(peak)) + start
            ran[name, peak, seed] = train(recipe, data, evaluations=1, **asked)
folder.cleanup()

# %%
ends = {(k, p): [ran[k, p, seed].val_accuracy for seed in (0, 1)] for k in kinds for p in pair}
means = pd.Series({key: np.mean(scores) for key, scores in ends.items()}).unstack(sort=False)
means.rename_axis(columns="mean of two seeds, at peak").round(3)


# %%
def compared(name):
    said = [gained(ends[name, peak], ends["scratch", peak], 0.1) for peak in pair]
    return " and ".join(f"{what} at peak {peak}" for peak, what in zip(pair, said, strict=True))


say(
    f"Compared with scratch at the same peak, shuffled numbers are **{compared('shuffled')}**. The first "
    f"layer alone is **{compared('first layer')}**. The first half is **{compared('first half')}**."
)

# %%
top, spread = means.max(axis=1), 100 * abs(np.subtract(*ends["scratch", pair[-1]]))
brought = {name: f"{100 * (top[name] - top['scratch']):+.1f}" for name in top.index}
say(
    f"With each start at the better of these peaks, the first layer brings {brought['first layer']} "
    f"points, the first half **{brought['first half']}**, the whole body **{brought['whole body']}**, and "
    f"shuffled numbers {brought['shuffled']}. One seed could have misled us: the two seeds of scratch at "
    f"peak {pair[-1]} differ by {spread:.1f} points."
)

# %% [markdown]
# The first half adds layers that combine edges into larger patterns. On medical images, the size of
# pretrained weights accounted for much of the speed-up (Raghu et al. 2019, arXiv 1902.07208).
#
# **Few labels.** We return to the opening problem. Every run sees the same number of images; only the
# number of *different* images grows, by a factor of four at each step. The batch is 50 again. Each start
# keeps its peak.

# %%
counts = (100, 400, 1_600)
by_labels = {name: [] for name in recipes}
for count in counts:
    for name, recipe in recipes.items():
        asked = {"images": quarter, "seed": 1, "label": f"{name}, {count:,} labels"}
        run = train(replace(recipe, batch=50), data.subset(count), evaluations=1, **asked)
        by_labels[name].append(run.val_accuracy)

# %%
lines = {name: (counts, scores) for name, scores in by_labels.items()}
plot(lines, "labels", "validation accuracy", "one seed each", scale="log", marks=True)
plt.xticks(counts, [f"{count:,}" for count in counts], minor=False)
plt.minorticks_off()
plt.show()

# %%
scratch, pretrained, frozen = (100 * np.array(scores) for scores in by_labels.values())
worst = int((frozen < np.minimum(scratch, pretrained)).sum())
behind = pretrained[:-1] - scratch[1:]
say(
    f"With the same labels, pretrained minus scratch is {listed(pretrained - scratch)} points. With a "
    f"*quarter* of the labels, it is {listed(behind)}: within a point, pretraining is worth four times the "
    f"labels at **{int((behind > -1).sum())} of {len(behind)}** steps. The frozen body is the worst of the "
    f"three at **{worst} of {len(counts)}** label counts."
)

# %% [markdown]
# Freezing is often recommended when labels are few, because a small head cannot memorise many images.
# But a frozen body must already know what the new task needs, and letters are far from clothes.
#
# **Who paid?** The recorded study measured seconds until a fixed accuracy, and the file of the weights
# says how many seconds it took to make them. How many runs must share the weights?

# %%
from safetensors import safe_open

from fasttricks.course import published
from fasttricks.models import letters_file

recorded = choose_budget("cpu")
with safe_open(letters_file(recorded.model, recorded.image_size), "pt") as file:
    note = file.metadata()
for study in published():
    known = [row.train for row in study.of("plain", "plain + transfer")]
    saved = known[0] - known[1] if len(known) == 2 and max(known) < np.inf else 0
    runs = f"after {np.ceil(float(note['seconds']) / saved):,.0f} runs" if saved > 0 else "never"
    say(
        f"The weights took {float(note['seconds']):,.0f} s of training on {note['cpu']}. In the study, on "
        f"{study.hardware}, they save {saved:.1f} s per run until {study.target}: paid for **{runs}**."
    )

# %% [markdown]
# The two clocks differ: pretraining used one thread, and the study two cores. On both cores, pretraining
# would pay a little sooner. When labels are few, it saves labels too, and those cost more than seconds.
#
# ## Break it
#
# **Frozen for good.** A frozen body needs almost no backward pass, so its steps are fast. But what counts
# is the accuracy at equal seconds, so we draw the longer runs once more.

# %%
lines = {name: ([made[name, n].train_seconds for n in sizes], reached[name]) for name in recipes}
plot(lines, "seconds of training", "validation accuracy", "one seed each", "log", True)
plt.show()

# %%
ice, rival = made["frozen", sizes[-1]], made["pretrained", sizes[0]]
same_images = faster([ice.train_seconds], [made["scratch", sizes[-1]].train_seconds])
say(
    f"Per image, the frozen network is {same_images} compared with scratch. Yet its longest run takes "
    f"{ice.train_seconds:.1f} s, and the shortest run in which all pretrained layers learn takes "
    f"{rival.train_seconds:.1f} s. Compared with that run, the frozen network "
    f"is **{gained([ice.val_accuracy], [rival.val_accuracy], 0.1)}**."
)

# %% [markdown]
# The head can only recombine the features that letters needed. A body that learns can make new ones.
#
# **Too hot.** What does a high peak do to the body? We compare the filters before and after the runs of
# the first table: the cosine of the angle between them is 1 if nothing changed, and near 0 if nothing is
# left. Scratch is the control.


# %%
def left(net):
    names = [name for name, tensor in given.items() if tensor.ndim == 4]
    states = net.state_dict(), given
    one, other = (torch.cat([s[n].flatten().cpu() for n in names]) for s in states)
    return torch.cosine_similarity(one, other, dim=0).item()


remains = [left(tries[peak, "pretrained"].net) for peak in peaks]
lines = {"cosine, filters before and after": (peaks, remains)}
lines |= {f"accuracy, {name}": (peaks, found[name]) for name in ("pretrained", "scratch")}
plot(lines, "peak, times the baseline's rate", "cosine, or accuracy", "one seed each", "log", True)
plt.show()

# %%
good, hot = int(best["pretrained"]), peaks[-1]
fallen = [100 * (found[name][hot] - tuned[name]) for name in ("pretrained", "scratch")]
say(
    f"At peak {good}, the best for it, the network keeps a cosine of {remains[peaks.index(good)]:.2f} with "
    f"the pretrained filters; at {hot} it keeps **{remains[-1]:.2f}**. Compared with its best peak, the "
    f"accuracy changes there by **{fallen[0]:+.1f}** points, and that of scratch by {fallen[1]:+.1f}. The "
    f"lead over scratch is {ahead[hot]:+.1f} points."
)

# %% [markdown]
# Scratch has nothing to forget, so what it loses is due to the rate. Forgetting shows in the lead.
#
# ## What the card promised
#
# The card says that transfer pays when budgets are short or labels few, and not when both are large. Its
# *budget* is the number of images that a run sees, and its *labels* are how many different ones there are.

# %%
say(
    f"- *Short budget*: after {quarter:,} images, each start at its best of five peaks, the pretrained "
    f"network was {gained(won, lost, 0.1)}.\n"
    f"- *Long budget*: after {budget.images:,} images ({budget.images / len(data.train):.2f} epochs), its "
    f"lead was {lead[-1]:+.1f} points (one seed). Longer runs were not tried.\n"
    f"- *Few labels*: with {counts[0]} of them, its lead was "
    f"{100 * (reader_scores[-1] - scores[-1]):+.1f} points at the constant rate and "
    f"{pretrained[0] - scratch[0]:+.1f} points at the tuned peaks (one seed each)."
)

# %% [markdown]
# The rule of thumb: if somebody offers weights for your network, start from them, let all layers learn,
# and try three peaks, because the best one may differ from that of a random start. Freeze the body only if
# memory is short or if the two tasks are very similar. Pretrain yourself only if many runs will share the
# weights.
#
# ## Questions
#
# **1. Why does the head stay behind?**
#
# <details><summary>Answer</summary>Its rows stand for the other task's classes. Our classes are
# different, and so is their number.</details>
#
# **2. The body is frozen, yet the same image gets different numbers after training. Why?**
#
# <details><summary>Answer</summary>Batch norm's running statistics followed the new images.</details>
#
# **3. Transfer gains nothing in your first trial. What do you try before giving up?**
#
# <details><summary>Answer</summary>Tune the learning rate for each start: the head may be learning too
# slowly, or training may be overwriting the body.</details>
#
# **4. Why do we normalise letters and clothes in the same way, and what does that mean for weights from
# photographs?**
#
# <details><summary>Answer</summary>The first filters expect inputs on the scale that they were trained on.
# Our loop maps all pixels to the range from -1 to 1. Many weights of timm's hub were trained with ImageNet's
# mean and spread instead, so they see a somewhat different contrast here. A body that learns adapts to it;
# with a frozen body, normalise as `net.pretrained_cfg` says.</details>
#
# **5. Letters save you a few seconds per run. When should you do the pretraining yourself?**
#
# <details><summary>Answer</summary>When nobody offers weights that fit, and either very many runs will
# share yours or you cannot get labels.</details>
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
