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
# A newly initialised network knows nothing. It must learn what an edge is before it can learn what a shoe
# is. But edges are everywhere, so we start from weights trained on another task, put a new head on top,
# and ask: how much sooner do we reach the same accuracy, what exactly was transferred, and who paid for
# it?
#
# About 15 minutes to read, and two to run.

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
# The budget depends on the device. This chapter makes many runs, so most of them see a quarter of the
# budget's images, and all are evaluated on half of the validation images.

# %%
from dataclasses import replace

from fasttricks import BASELINE, OneCycle, Transfer, choose_budget, load, pretrain, train

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)
data = replace(data, val=data.val[:2500])
quarter = budget.images // 4
budget

# %% [markdown]
# First, we print what our recorded study found about this trick: the seconds of training until a fixed
# validation accuracy, without the trick and with it, and then for all seven tricks and for the other six.
# Each ratio belongs to the run named just before it: above 1, that run gets there sooner. Below it is the
# trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import transfer

print(headline("transfer"))
Markdown(transfer.__doc__)

# %% [markdown]
# ## The hurt: a hundred labels
#
# Suppose that somebody has labelled only 100 images. We train on them with the plain recipe, over and
# over. A batch cannot contain more images than we have labels for, so we use a batch of 50.

# %%
small, few = replace(BASELINE, batch=50), data.subset(100)
fresh = train(small, few, images=quarter, evaluations=8, label="100 labels")

# %% [markdown]
# How accurate is the network on new images, and how accurate is it on its own hundred?

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
# The dashed line shows the accuracy on the network's own hundred images. Where the solid line stays below
# it, the gap is what a hundred images could not teach.
#
# Labels are expensive. *Letters* are free: a computer can draw and label as many as we like. So we let a
# network learn to see by training it on letters. The upper row shows the prints, and the lower row shows
# what the network sees: a different warp each time.

# %%
import torch

letters = load("letters").to(device, budget.image_size)
rows, noise = next(letters.draws(8, torch.Generator().manual_seed(0)))
show([*letters.train.x[rows]], ["print"] * 8)
show([*letters.augment(letters.train.x[rows], noise)], ["warped"] * 8)
plt.show()
print(f"{len(letters.classes)} characters, {len(letters.train):,} prints in five fonts")

# %% [markdown]
# None of them is a shoe. Does learning to read them help with clothes? We repeat the same run, starting
# from the weights of a network that has learned to read letters. For the small network, these weights
# come with the course; for the GPU's network, the next cell makes them, once.

# %%
from fasttricks.pretrain import make_letters

cost = make_letters(budget.model, budget.image_size)
reader = train(small + Transfer(), few, images=quarter, evaluations=8, label="letters first")
lines = {"from scratch": (seen, scores), "letters first": (seen, [p[2] for p in reader.curve])}
plot(lines, "images seen", "accuracy on new images", "100 labels, one seed each", marks=True)
plt.show()

# %% [markdown]
# Where the dashed line is higher, the network did not have to learn something again. Look at the right
# end to see how much of that advantage lasts.
#
# **What has it seen in the letters?** We compare the two states side by side. A *state* is a dict that
# maps each name to a tensor.

# %%
from fasttricks.models import begin, given_state, head_of

torch.manual_seed(0)
net = begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)
head, first = head_of(net), net.pretrained_cfg["first_conv"] + ".weight"
own, given = dict(net.state_dict()), given_state("letters", budget.model, budget.image_size)
states = {"random": own, "letters": given}

# %% [markdown]
# For each state, we show eight of the first layer's filters and, below them, each filter's answer to the
# first validation image.

# %%
cloth = data.normalise(data.val.x[:1]).cpu()
for name, state in states.items():
    answers = torch.nn.functional.conv2d(cloth, state[first], padding=1)[0]
    show([*state[first][:8, 0]], [name] * 8)
    show([*answers[:8]], ["answer"] * 8)
plt.show()

# %% [markdown]
# The filters themselves reveal little; their answers reveal more. Some filters distinguish bright
# surfaces from dark ones. Others give cloth and background the same grey and keep the outlines: do the
# letters have more of these? We can measure that: a filter's answer to a flat surface is the *sum* of its
# weights. We take the size of that sum as a share of the largest possible value, which it would reach if
# all weights had the same sign.

# %%
lines = {}
for name, state in states.items():
    weights = state[first].flatten(1)
    share = weights.sum(1).abs() / weights.abs().sum(1)
    lines[name] = range(len(share)), share.sort().values.tolist()
plot(lines, "filter, sorted", "answer to a flat surface, share of the most", marks=True)
plt.show()

# %% [markdown]
# A filter at 0 is blind to flat surfaces: it responds only to edges. A filter near 1 blurs. Where the
# dashed line stays close to zero and then jumps, training on letters has produced specialists of both
# kinds. Networks trained on photographs learn edge filters as well, whatever their task (Yosinski et al.
# 2014, arXiv 1411.1792).
#
# ## By hand: a body and a head
#
# A network consists of a *body*, which turns an image into a few numbers, and a *head*, which turns these
# numbers into classes. Here are two minimal examples: the other task's network with five classes, and
# ours with three.

# %%
theirs = {"body.weight": torch.tensor([[1.0, 2], [3, 4]]), "fc.weight": torch.ones(5, 2)}
ours = {"body.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(3, 2)}
moved = dict(ours)
moved["body.weight"] = theirs["body.weight"]
moved

# %% [markdown]
# By hand, a transplant is one assignment by name. We keep our own head: each of its rows stands for a
# class, and the other task has other classes.

# %% tags=["nbval-check-output"]
holds(moved["body.weight"].tolist() == [[1, 2], [3, 4]], "the body is theirs")
holds(moved["fc.weight"].shape[0] == 3, "the head has our three rows")
holds(ours["body.weight"].sum() == 0, "what we began with is untouched")
rows = given[f"{head}.weight"].shape[0], own[f"{head}.weight"].shape[0]
holds(rows == (len(letters.classes), 10), "the letters' head has a row a character, ours has ten")

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
# A warning: with `strict=False`, torch does not complain about a missing body either. (It does complain
# about a wrong shape.) Read its report.
#
# Third, an invariant. A run from letters starts with the letters' body, tensor for tensor, and with the
# head that its seed would have drawn anyway. So two arms with the same seed differ only in the body.

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
state = begin(BASELINE + Transfer(), budget.model, 1, 10, budget.image_size).state_dict()
holds(all(torch.equal(state[n], tensor) for n, tensor in headless.items()), "the body is given")
heads = [name for name in state if transfer.is_head(name, head)]
holds(all(torch.equal(state[name], own[name]) for name in heads), "the head is the seed's")

# %% [markdown]
# Fourth, colours. Weights trained on photographs have three filters where our grey images need one. The
# package adds up the three. In a grey picture all three colours are equal, so the answer does not change.

# %% tags=["nbval-check-output"]
chance = torch.Generator().manual_seed(0)
grey, three = torch.rand(2, 1, 9, 9, generator=chance), torch.rand(4, 3, 3, 3, generator=chance)
one = transfer.transplant({"w": torch.zeros(4, 1, 3, 3)}, {"w": three}, "fc")["w"]
answers = [torch.conv2d(grey.expand(-1, 3, -1, -1), three), torch.conv2d(grey, one)]
holds(torch.allclose(*answers, atol=1e-5), "one summed filter answers as three did")

# %% [markdown]
# Last, *freezing*. `Transfer(freeze=1.0)` trains only the head. We start a short run:

# %%
still = train(BASELINE + Transfer(freeze=1.0), data, images=budget.images // 8, evaluations=1)
after = {name: tensor.cpu() for name, tensor in still.net.state_dict().items()}
learned = [name for name, _ in net.named_parameters() if name not in heads]

# %% [markdown]
# Batch-norm also keeps a running mean and variance of the values that pass through it. These statistics
# still follow the new images.

# %% tags=["nbval-check-output"]
holds(all(torch.equal(after[n], given[n]) for n in learned), "no frozen parameter has moved")
means = [name for name in after if name.endswith("running_mean")]
holds(not any(torch.equal(after[n], given[n]) for n in means), "every running mean has moved")
holds(not torch.equal(after[heads[0]], own[heads[0]]), "the head has learned")

# %% [markdown]
# ## In your own loop
#
# You do not need this package for transfer learning. In a plain PyTorch script, the trick is these
# changes: remove the `-` lines and add the `+` lines.
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
# The complete script is [`examples/transfer.py`](../examples/transfer.py). For photographs,
# `pretrained=True` fetches weights from timm's hub, and timm makes a new head for your classes.
#
# ## Use it
#
# We compare three starts: from scratch, from letters, and from letters with a frozen body. But at which
# learning rate? `BASELINE` has a constant rate that was tuned for runs many times longer, and a new head
# has a long way to go. So every start gets the same four tries: the constant rate, and one-cycle (chapter
# 3) with three peaks, given as multiples of that rate. The table shows validation accuracies from one
# seed each.

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
# The first row shows the plain recipe with and without the trick, that is, what the trick gains if
# nothing else is changed. Then read down the columns. Where their best rates differ, judging all starts
# at one rate would be unfair. If a column's best value is in the last row, remember that we tried no
# higher peak. We continue with the best rate of each column, and with seeds that played no part in the
# choice.

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
# If the *lowest* gain is above zero, the trick paid off in every run. A step costs the same, whichever
# weights the run started from.
#
# **Four budgets.** How many images does it take to reach a given accuracy? A one-cycle schedule is
# planned for a fixed length, so each point is a separate run.

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
# We plot one seed per point, with the images on a logarithmic axis:

# %%
lines = {name: (sizes, scores) for name, scores in reached.items()}
plot(lines, "images seen", "validation accuracy", "four budgets", scale="log", marks=True)
plt.xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
plt.minorticks_off()
plt.show()
gains = [100 * (b - a) for a, b in zip(reached["scratch"], reached["letters"], strict=True)]
print("letters minus scratch, points:", *(f"{gain:+.1f}" for gain in gains))

# %% [markdown]
# Read the plot horizontally: how far to the right must *scratch* go to be as high as *letters*? Then read
# the gains from left to right, from the shortest run to the longest: does the head start last? In object
# detection, networks trained from scratch caught up with those pretrained on ImageNet once they were
# trained long enough (He et al. 2018, arXiv 1811.08883).
#
# **Is it the filters?** Perhaps good weights merely have a good *size*. To find out, we shuffle the
# numbers within each of the letters' tensors: the numbers are the same, but the filters are gone. And how
# much pretraining is needed? We pretrain a network ourselves, on only a few glyphs.

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
# Both sets of weights are now files, and `Transfer` accepts a path.

# %%
for name, file in files.items():
    recipe = rates[best["letters"]] + Transfer(str(file))
    arms[name] = [train(recipe, data, images=quarter, seed=1, evaluations=1, label=name)]
for name, runs in arms.items():
    print(f"{name:9} {runs[0].val_accuracy:.3f}")

# %% [markdown]
# Each value comes from one seed. The drop from *letters* to *shuffled* shows what the filters were worth.
# If *shuffled* is above *scratch*, size alone helps, too: on medical images, it accounted for much of the
# speed-up (Raghu et al. 2019, arXiv 1902.07208). And *brief* shows whether a few seconds of pretraining
# would be enough.
#
# You can load any weights of the same model in the same way; the course's tests do this with a real
# EfficientNet. With an internet connection, weights from photographs are just as easy to use as letters:
#
# ```python
# train(BASELINE + Transfer("imagenet"), data)       # timm's weights, from its hub
# train(BASELINE + Transfer("weights.pth"), data)    # a file of your own
# ```
#
# The file's head, which has a different size, is left out:

# %% tags=["nbval-check-output"]
foreign = given_state(str(files["brief"]), budget.model, budget.image_size)[f"{head}.weight"]
kept = arms["brief"][0].net.state_dict()[f"{head}.weight"]
holds(len(foreign) == len(letters.classes), "the file's head has a row a character")
holds(len(kept) == 10, "the net that began with it has ten rows")
folder.cleanup()

# %% [markdown]
# **Few labels.** We return to the opening problem, with each of the three starts at its own best rate.
# Every run sees the same number of images; only the number of distinct images grows. The grey line marks
# how many images each run sees.

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
# To the right of the grey line, no label is seen twice, so further labels cannot help. To the left of it,
# read the plot horizontally: how many labels is the head start worth? Look at *frozen*, too: freezing is
# often recommended when labels are few. Whether it helps depends on how similar the two tasks are.
#
# **A slower body.** `body_lr` offers a middle way between a frozen and a free body: the body learns at a
# share of the head's rate. We give the head the highest peak, and the body a tenth or three tenths of it.
# The other line uses one peak for both. The axis shows the *body's* peak.

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
# At the right end, the share is 1 and the lines meet. Follow the dashed line to the left: does a slower
# body undo the harm of a peak that is too high for it? And does it beat the *best* point of the solid
# line? If not, a plain `Transfer()` at the right peak is enough.
#
# **Who paid?** The weights file records how many glyphs it took to make, and the brief pretraining shows
# how fast *this* machine processes them. The curves show what each run saves: we look for the number of
# images at which *letters* is as good as *scratch* with all its images.

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
# In seconds, pretraining pays off if that many runs share it, or if somebody gives it to you. When labels
# are few, it may save labels, and that is a different currency.
#
# ## Break it
#
# **Frozen for good.** Go back to the plot of the four budgets and see where the frozen line ends.

# %%
for name, run in last.items():
    rate = f"{run.images_per_second:,.0f} images a second"
    print(f"{name:9} {rate:24} accuracy {run.val_accuracy:.3f} after {run.images_seen:,} images")

# %% [markdown]
# Freezing skips most of the backward pass, so training is fast. But the head can only recombine the
# features that letters needed. Where *scratch* ends above the frozen body, a network that started with
# nothing has learned more about clothes than all those letters could teach.
#
# **Too hot.** What does a high peak do to a body? We train at one more peak and compare the filters
# before and after: the cosine of the angle between them is 1 if nothing changed, and near 0 if nothing is
# left.


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
# Look at the cosine at the peak with the best accuracy. The closer it is to 1, the more of the
# transferred weights the network used as they were. At the highest peak, most of them are lost.

# %% tags=["nbval-check-output"]
holds(remains[0] > remains[-1], "the highest peak leaves less of the letters than the lowest")
holds(remains[-1] < 0.5, "at the highest, most of them is forgotten")

# %% [markdown]
# ## Questions
#
# **1. Why does the head stay behind?**
#
# <details><summary>Answer</summary>Its rows stand for the other task's classes. Our classes are
# different, and so is their number.</details>
#
# **2. The body is frozen, yet the same image gets different numbers after training. Why?**
#
# <details><summary>Answer</summary>Batch-norm's running statistics followed the new images.</details>
#
# **3. Transfer gains nothing in your first trial. What do you try before giving up?**
#
# <details><summary>Answer</summary>Tune the learning rate for each start: the head may be learning too
# slowly, or training may be overwriting the body.</details>
#
# **4. Why do we normalise letters and clothes in the same way?**
#
# <details><summary>Answer</summary>The first filters expect inputs on the scale that they were trained
# on.</details>
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
