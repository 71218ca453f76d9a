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
# A fresh network knows nothing. It must find out what an edge is before it can find out what a shoe is.
# But edges are everywhere. So we begin with weights that another task has taught, put a new head on top,
# and ask: how much sooner do we arrive, what was it that moved, and who paid for it?
#
# About 15 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/06_transfer_learning.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/06_transfer_learning.ipynb).
# The first cell installs the course where it is missing, and prints which machine it has found.

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
# The budget follows the device. We shall make many runs. So most see a quarter of its images, and all are
# judged by half of the validation images.

# %%
from dataclasses import replace

from fasttricks import BASELINE, OneCycle, Transfer, choose_budget, load, pretrain, train

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)
data = replace(data, val=data.val[:2500])
quarter = budget.images // 4
budget

# %% [markdown]
# First, what our recorded study found about this trick: how long training took with and without it, and
# how many times as soon it was at a fixed validation accuracy (above 1 is sooner). Then the trick's card,
# straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import transfer

print(headline("transfer"))
Markdown(transfer.__doc__)

# %% [markdown]
# ## The hurt: a hundred labels
#
# Suppose that somebody has labelled 100 images, and no more. We train on them plainly, over and over. A
# batch cannot be larger than the labels, so we take 50.

# %%
small, few = replace(BASELINE, batch=50), data.subset(100)
fresh = train(small, few, images=quarter, evaluations=8, label="100 labels")

# %% [markdown]
# How good is it on new images, and how good on its own hundred?

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, holds, plot, show
from fasttricks.loop import accuracy

seen, _, scores = zip(*fresh.curve, strict=True)
own_labels = accuracy(fresh.net, few, few.train, small)
lines = {"new images": (seen, scores), "its own 100, at the end": (seen, [own_labels] * len(seen))}
plot(lines, "images seen", "accuracy", "from scratch on 100 labels", marks=True)
plt.show()

# %% [markdown]
# The dashed line is how well it knows its own. Where the solid one stays below, the rest is what a hundred
# images could not teach.
#
# Labels are dear. *Letters* are free: a computer can draw and name as many as we like. So let a network
# learn to see on letters. Above the prints, below what it is shown: another warp each time.

# %%
import torch

letters = load("letters").to(device, budget.image_size)
rows, noise = next(letters.draws(8, torch.Generator().manual_seed(0)))
show([*letters.train.x[rows]], ["print"] * 8)
show([*letters.augment(letters.train.x[rows], noise)], ["warped"] * 8)
plt.show()
print(f"{len(letters.classes)} characters, {len(letters.train):,} prints in five fonts")

# %% [markdown]
# There is no shoe among them. Does reading them help with clothes? Here is the same run, from the weights of
# a reader of letters. They come with the course for the small network; for a GPU's they are made now, once.

# %%
from fasttricks.pretrain import make_letters

cost = make_letters(budget.model, budget.image_size)
reader = train(small + Transfer(), few, images=quarter, evaluations=8, label="letters first")
lines = {"from scratch": (seen, scores), "letters first": (seen, [p[2] for p in reader.curve])}
plot(lines, "images seen", "accuracy on new images", "100 labels, one seed each", marks=True)
plt.show()

# %% [markdown]
# Where the dashed line is higher, something did not have to be learned again. At the right end, see how much
# of that lasts.
#
# **What has it seen in the letters?** We lay the two states side by side. A *state* is a dict: a tensor
# for each name.

# %%
from fasttricks.models import begin, given_state, head_of

torch.manual_seed(0)
net = begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)
head, first = head_of(net), net.pretrained_cfg["first_conv"] + ".weight"
own, given = dict(net.state_dict()), given_state("letters", budget.model, budget.image_size)
states = {"random": own, "letters": given}

# %% [markdown]
# Eight of the first layer's filters each, and under them what each filter answers to the first validation
# image.

# %%
cloth = data.normalise(data.val.x[:1]).cpu()
for name, state in states.items():
    answers = torch.nn.functional.conv2d(cloth, state[first], padding=1)[0]
    show([*state[first][:8, 0]], [name] * 8)
    show([*answers[:8]], ["answer"] * 8)
plt.show()

# %% [markdown]
# The squares say little, their answers more. Some filters tell bright surfaces from dark ones. Others give
# cloth and background the same grey, and keep the outlines: are these more among the letters'? That can be
# counted: to a flat surface a filter answers with the *sum* of its weights. We take its size, as a share of
# the most it could be, had all weights one sign.

# %%
lines = {}
for name, state in states.items():
    weights = state[first].flatten(1)
    share = weights.sum(1).abs() / weights.abs().sum(1)
    lines[name] = range(len(share)), share.sort().values.tolist()
plot(lines, "filter, sorted", "answer to a flat surface, share of the most", marks=True)
plt.show()

# %% [markdown]
# A filter at 0 is blind to flat surfaces: it sees edges only. A filter near 1 blurs. Where the dashed line
# hugs zero and then jumps, the letters have made specialists of both kinds. Nets trained on photographs find
# edge filters as well, whatever their task (Yosinski et al. 2014, arXiv 1411.1792).
#
# ## By hand: a body and a head
#
# A network is a *body*, which turns an image into a few numbers, and a *head*, which turns these into
# classes. Here is the smallest one, twice: another task's with five classes, and ours with three.

# %%
theirs = {"body.weight": torch.tensor([[1.0, 2], [3, 4]]), "fc.weight": torch.ones(5, 2)}
ours = {"body.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(3, 2)}
moved = dict(ours)
moved["body.weight"] = theirs["body.weight"]
moved

# %% [markdown]
# By hand, a transplant is one assignment by name. The head must stay: a row of it is a class, and they have
# other classes.

# %% tags=["nbval-check-output"]
holds(moved["body.weight"].tolist() == [[1, 2], [3, 4]], "the body is theirs")
holds(moved["fc.weight"].shape[0] == 3, "the head has our three rows")
holds(ours["body.weight"].sum() == 0, "what we began with is untouched")
rows = given[f"{head}.weight"].shape[0], own[f"{head}.weight"].shape[0]
holds(rows == (len(letters.classes), 10), "the letters' head has a row a character, ours has ten")

# %% [markdown]
# ## Write it
#
# The same for any number of tensors. Where a body does not fit, we say so.


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
# First, it is what the package does.


# %% tags=["nbval-check-output"]
def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in own)


holds(same(begun, transfer.transplant(own, given, head)), "ours is the package's")

# %% [markdown]
# Second, torch can load a part of a state, too. We drop the letters' head, and torch reports what it missed.

# %% tags=["nbval-check-output"]
headless = {n: tensor for n, tensor in given.items() if not transfer.is_head(n, head)}
report = net.load_state_dict(headless, strict=False)
holds(same(begun, net.state_dict()), "torch's load_state_dict(strict=False) gives the same state")
holds(report.missing_keys == [f"{head}.weight", f"{head}.bias"], "it missed the head, no more")

# %% [markdown]
# A warning: with `strict=False`, torch does not complain of a missing body either. (Of a wrong shape it
# does.) Read its report.
#
# Third, a law. A run from letters begins with their body, tensor for tensor, and with the head that its seed
# would have drawn anyway. So two arms with one seed differ in the body alone.

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
state = begin(BASELINE + Transfer(), budget.model, 1, 10, budget.image_size).state_dict()
holds(all(torch.equal(state[n], tensor) for n, tensor in headless.items()), "the body is given")
heads = [name for name in state if transfer.is_head(name, head)]
holds(all(torch.equal(state[name], own[name]) for name in heads), "the head is the seed's")

# %% [markdown]
# Fourth, colours. Weights from photographs have three filters where our grey images have one. The package
# adds the three up. A grey picture is one whose three colours are equal, so nothing changes.

# %% tags=["nbval-check-output"]
chance = torch.Generator().manual_seed(0)
grey, three = torch.rand(2, 1, 9, 9, generator=chance), torch.rand(4, 3, 3, 3, generator=chance)
one = transfer.transplant({"w": torch.zeros(4, 1, 3, 3)}, {"w": three}, "fc")["w"]
answers = [torch.conv2d(grey.expand(-1, 3, -1, -1), three), torch.conv2d(grey, one)]
holds(torch.allclose(*answers, atol=1e-5), "one summed filter answers as three did")

# %% [markdown]
# Last, *freezing*. `Transfer(freeze=1.0)` trains the head alone. A short run:

# %%
still = train(BASELINE + Transfer(freeze=1.0), data, images=budget.images // 8, evaluations=1)
after = {name: tensor.cpu() for name, tensor in still.net.state_dict().items()}
learned = [name for name, _ in net.named_parameters() if name not in heads]

# %% [markdown]
# Batch-norm also keeps a running mean and variance of what passes through. These follow the new images.

# %% tags=["nbval-check-output"]
holds(all(torch.equal(after[n], given[n]) for n in learned), "no frozen parameter has moved")
means = [name for name in after if name.endswith("running_mean")]
holds(not any(torch.equal(after[n], given[n]) for n in means), "every running mean has moved")
holds(not torch.equal(after[heads[0]], own[heads[0]]), "the head has learned")

# %% [markdown]
# ## In your own loop
#
# You do not need this package for it. In a plain PyTorch script the trick is these lines; `-` goes, `+`
# comes.
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
# The whole is [`examples/transfer.py`](../examples/transfer.py). For photographs, `pretrained=True` fetches
# weights from timm's hub, and timm makes a new head for your classes.
#
# ## Use it
#
# Three starts, then: from scratch, from letters, and from letters with a frozen body. But at which learning
# rate? `BASELINE` has a constant one, tuned for runs many times longer, and a new head has a long way to go.
# So every start gets the same four tries: the constant rate, and one-cycle (chapter 3) with three peaks, in
# multiples of it. The table shows validation accuracies, one seed each.

# %%
import pandas as pd

from fasttricks.tricks import Scratch

starts = {"scratch": Scratch(), "letters": Transfer(), "frozen": Transfer(freeze=1.0)}
peaks = (10, 30, 100)
rates = {"constant": BASELINE} | {f"peak {p}": BASELINE + OneCycle(float(p)) for p in peaks}
tries = {
    (rate, name): train(
        recipe + start, data, images=quarter, evaluations=1, label=f"{rate}, {name}"
    )
    for rate, recipe in rates.items()
    for name, start in starts.items()
}
found = pd.Series({key: run.val_accuracy for key, run in tries.items()}).unstack(sort=False)
best = found.idxmax()
found.round(3)

# %% [markdown]
# The first row is the plain recipe with and without the trick: what the trick brings if nothing else is
# changed. Then read down the columns. Where their best rates differ, judging all by one would be unfair. A
# best in the last row says that a higher peak was not tried. We go on with the best of each column, and with
# seeds that had no part in the choice.

# %%
recipes = {name: rates[best[name]] + start for name, start in starts.items()}
arms = {"scratch": [], "letters": []}
for seed in range(1, 1 + budget.seeds):
    for name, runs in arms.items():
        label = f"{name}, seed {seed}"
        runs.append(
            train(recipes[name], data, images=quarter, seed=seed, evaluations=1, label=label)
        )
accuracy_table(arms)

# %% [markdown]
# Where the *lowest* gain lies above zero, the trick paid in every run. A step costs the same, wherever the
# run began.
#
# **Four budgets.** How many images does an accuracy need? One-cycle must be planned for its length, so each
# point is a run of its own.

# %%
sizes = [budget.images // 8, quarter, budget.images // 2, budget.images]
reached = {name: [] for name in recipes}
last = {}
for name, recipe in recipes.items():
    for size in sizes:
        run = tries[best[name], name]
        if size != quarter:
            run = train(recipe, data, images=size, evaluations=1, label=f"{name}, {size:,}")
        reached[name].append(run.val_accuracy)
    last[name] = run

# %% [markdown]
# One seed a point, images on a logarithmic axis:

# %%
lines = {name: (sizes, scores) for name, scores in reached.items()}
plot(lines, "images seen", "validation accuracy", "four budgets", scale="log", marks=True)
plt.xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
plt.minorticks_off()
plt.show()
gains = [100 * (b - a) for a, b in zip(reached["scratch"], reached["letters"], strict=True)]
print("letters minus scratch, points:", *(f"{gain:+.1f}" for gain in gains))

# %% [markdown]
# Read it sideways: how far right must *scratch* go to be as high as *letters*? Then read the gains from left
# to right, the shortest run to the longest: does the head start last? In object detection, nets from scratch
# caught up with those from ImageNet once they were trained long enough (He et al. 2018, arXiv 1811.08883).
#
# **Is it the filters?** Perhaps good weights merely have a good *size*. So we shuffle the numbers within each
# tensor of the letters: same numbers, no filters. And how much reading is needed? We pretrain a reader
# ourselves, on a few glyphs.

# %%
import tempfile
from pathlib import Path

from safetensors.torch import save_file

folder = tempfile.TemporaryDirectory()
files = {name: Path(folder.name) / f"{name}.safetensors" for name in ("brief", "shuffled")}
orders = {n: torch.randperm(tensor.numel(), generator=chance) for n, tensor in given.items()}
save_file({n: t.flatten()[orders[n]].view(t.shape) for n, t in given.items()}, files["shuffled"])
brief = pretrain(budget.model, files["brief"], images=budget.images // 2)

# %% [markdown]
# Both are files of foreign weights now, and `Transfer` takes a path.

# %%
for name, file in files.items():
    recipe = rates[best["letters"]] + Transfer(str(file))
    arms[name] = [train(recipe, data, images=quarter, seed=1, evaluations=1, label=name)]
for name, runs in arms.items():
    print(f"{name:9} {runs[0].val_accuracy:.3f}")

# %% [markdown]
# One seed each. The distance from *letters* down to *shuffled* is what the filters were worth. Where
# *shuffled* is above *scratch*, size alone helps, too: on medical images it brought much of the speed (Raghu et
# al. 2019, arXiv 1902.07208). And *brief* tells whether a few seconds of reading would do.
#
# Any weights of the same model come the same way; the course's tests do it with a real EfficientNet. With a
# network, photographs are as near as letters:
#
# ```python
# train(BASELINE + Transfer("imagenet"), data)       # timm's weights, from its hub
# train(BASELINE + Transfer("weights.pth"), data)    # a file of your own
# ```
#
# The file's head, of another size, is left out:

# %% tags=["nbval-check-output"]
foreign = given_state(str(files["brief"]), budget.model, budget.image_size)[f"{head}.weight"]
kept = arms["brief"][0].net.state_dict()[f"{head}.weight"]
holds(len(foreign) == len(letters.classes), "the file's head has a row a character")
holds(len(kept) == 10, "the net that began with it has ten rows")
folder.cleanup()

# %% [markdown]
# **Few labels.** Back to the hurt, with all three starts at their own rates. Every run sees as many images;
# only the number of different ones grows. The grey line marks how many images are seen.

# %%
counts = (100, 1_000, len(data.train))
by_labels = {name: (counts, []) for name in recipes}
for count in counts:
    for name, recipe in recipes.items():
        recipe, label = replace(recipe, batch=50), f"{count:,} labels, {name}"
        run = train(recipe, data.subset(count), images=quarter, evaluations=1, label=label)
        by_labels[name][1].append(run.val_accuracy)
plot(by_labels, "labels", "validation accuracy", "one seed each", scale="log", marks=True)
plt.axvline(quarter, color="grey")
plt.show()

# %% [markdown]
# Right of the grey line no label is seen twice, so further labels cannot help. Left of it, read sideways:
# how many labels is the head start worth? Look at *frozen*, too: freezing is often advised where labels are
# few. Whether it helps depends on how near the two tasks are.
#
# **A slower body.** Between frozen and free lies `body_lr`: the body learns at a share of the head's rate.
# We give the head the highest peak, and the body a tenth or three tenths of it. Beside it: one peak for
# both. The axis is the *body's* peak.

# %%
top, shares, slow = peaks[-1], (0.1, 0.3), []
for share in shares:
    recipe = rates[f"peak {top}"] + Transfer(body_lr=share)
    run = train(recipe, data, images=quarter, evaluations=1, label=f"body at {share} of the peak")
    slow.append(run.val_accuracy)
free = [found["letters"][f"peak {peak}"] for peak in peaks]
bodies = [top * share for share in (*shares, 1)]
lines = {"head as the body": (peaks, free), f"head at {top}": (bodies, [*slow, free[-1]])}
plot(lines, "peak of the body, times the constant rate", "validation accuracy", "", "log", True)
plt.show()

# %% [markdown]
# At the right end the share is 1, and the lines meet. Follow the dashed one to the left: does a slower body
# undo the harm of a peak too high for it? And does it beat the *best* point of the solid line? If not, a
# plain `Transfer()` at the right peak is enough.
#
# **Who paid?** The weights' file knows how many glyphs it has cost, the brief pretraining how fast *this*
# machine reads. The curves say what a run saves: we look for the size at which *letters* is as good as
# *scratch* with all its images.

# %%
import numpy as np
from safetensors import safe_open

from fasttricks.models import letters_file

with safe_open(letters_file(budget.model, budget.image_size), "pt") as file:
    glyphs = int(file.metadata()["images"])
cost = glyphs / brief.images_per_second
enough = np.interp(reached["scratch"][-1], np.maximum.accumulate(reached["letters"]), sizes)
saved = (budget.images - enough) / last["letters"].images_per_second
print(f"{glyphs:,} glyphs would take {cost:,.0f} s here, once")
print(f"{enough:,.0f} images instead of {budget.images:,} save {saved:.1f} s a run")
print(f"paid after {np.ceil(cost / saved):,.0f} runs" if saved > 0 else "never paid in seconds")

# %% [markdown]
# In seconds, pretraining pays if so many runs share it, or if it is somebody's gift. Where labels are few, it
# may save labels, and that is another currency.
#
# ## Break it
#
# **Frozen for good.** Go back to the four budgets, and see where the frozen line ends.

# %%
for name, run in last.items():
    rate = f"{run.images_per_second:,.0f} images a second"
    print(f"{name:9} {rate:24} accuracy {run.val_accuracy:.3f} after {run.images_seen:,} images")

# %% [markdown]
# It skips most of the backward pass, so it is fast. But the head can only recombine what letters needed.
# Where *scratch* ends above it, a net that began with nothing has learned more about clothes than all those
# letters could tell.
#
# **Too hot.** What does a high peak do to a body? We train at one peak more, and compare the filters before
# and after: the cosine of the angle between them is 1 if nothing changed, near 0 if nothing is left.


# %%
def left(net):
    names = [name for name, tensor in given.items() if tensor.ndim == 4]
    states = net.state_dict(), given
    one, other = (torch.cat([s[n].flatten().cpu() for n in names]) for s in states)
    return torch.cosine_similarity(one, other, dim=0).item()


hot = {peak: tries[f"peak {peak}", "letters"] for peak in peaks}
recipe = BASELINE + OneCycle(1000.0) + Transfer()
hot[1000] = train(recipe, data, images=quarter, evaluations=1, label="peak 1000")
remains = [left(run.net) for run in hot.values()]
lines = {
    "cosine, filters before and after": (list(hot), remains),
    "validation accuracy": (list(hot), [run.val_accuracy for run in hot.values()]),
}
plot(lines, "peak, times the constant rate", "cosine, or accuracy", "one seed each", "log", True)
plt.show()

# %% [markdown]
# Look at the cosine where accuracy is best. The nearer to 1, the more of the gift was used as it came. At the
# highest peak, the gift is melted down.

# %% tags=["nbval-check-output"]
holds(remains[0] > remains[-1], "the highest peak leaves less of the letters than the lowest")
holds(remains[-1] < 0.5, "at the highest, most of them is forgotten")

# %% [markdown]
# ## Questions
#
# **1. Why does the head stay behind?**
#
# <details><summary>Answer</summary>Its rows are the other task's classes. Ours are others, and of another
# number.</details>
#
# **2. A frozen body, and yet the same image gets other numbers after training. Why?**
#
# <details><summary>Answer</summary>Batch-norm's running statistics followed the new images.</details>
#
# **3. Transfer gains nothing in your first trial. What do you try before giving up?**
#
# <details><summary>Answer</summary>Tune the rate for each start: the head may be learning too slowly, or the
# body be overwritten.</details>
#
# **4. Why do we normalise letters and clothes in the same way?**
#
# <details><summary>Answer</summary>The first filters expect inputs on the scale that they were trained
# on.</details>
#
# **5. Letters save you a few seconds a run. When is it right to pretrain yourself?**
#
# <details><summary>Answer</summary>When nobody gives away weights that fit, and very many runs will share
# yours, or labels cannot be had.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` by your code and run the cell. A wrong answer gets a hint.
#
# **Exercise 1.** Make first filters for any number of colours from given ones, so that a grey picture,
# copied into every colour, gets the same answer as before.


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
# **Exercise 2.** Pretraining costs `cost` seconds, and a run that begins with it saves `saved`. After how
# many runs is it paid? Return `math.inf` where a run saves nothing.


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
# **Exercise 3.** Let each block learn more slowly than the next. From parameter names, in order from the
# input, return a dict of factors: 1 for the head, `decay` for the block before it, and so on. A block is
# what stands before a name's first dot.


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
# - Yosinski et al. 2014, [arXiv 1411.1792](https://arxiv.org/abs/1411.1792): which layers are general, and
#   which belong to their task.
# - He et al. 2018, [arXiv 1811.08883](https://arxiv.org/abs/1811.08883): when training from scratch is as
#   good.
# - Raghu et al. 2019, [arXiv 1902.07208](https://arxiv.org/abs/1902.07208): how much of the gain is in the
#   features.
