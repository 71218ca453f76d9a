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
# # 1. Multi-GPU training
#
# Several GPUs share every batch. Each computes the gradient of its part, they average their
# gradients, and all take the same step.
#
# - **The result:** the average of two halves' gradients is the gradient of the whole batch. With
#   *batch norm*, a layer that looks at all images of a batch at once, this is not so, because each
#   half is normalised by itself.
# - **The speed: we have no numbers of two real GPUs.** Ours come from two processes on two CPU
#   cores. There, one process can use both cores without the trick. So a CPU cannot show what a
#   second GPU gains.
# - **What it does not do:** it saves no memory for the weights, since each GPU holds all of them.
#   It also does not save steps.
# - **Use it when** you have several GPUs, and a part of the batch is enough to keep one of them
#   busy.
# - **Leave it when** you have one GPU or only a CPU, or when the parts become so small that batch
#   norm suffers.
#
# In PyTorch, `DistributedDataParallel`, **DDP** for short, does the averaging. These lines are
# complete, except for your own `dataset`, `net` and `epochs`:
#
# ```python
# import os
#
# import torch
# import torch.distributed as dist
# from torch.nn.functional import cross_entropy
# from torch.nn.parallel import DistributedDataParallel
# from torch.utils.data import DataLoader, DistributedSampler
#
# device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))  # one GPU for each process
# torch.cuda.set_device(device)
# dist.init_process_group("nccl")  # the processes meet
# rank, processes = dist.get_rank(), dist.get_world_size()
#
# sampler = DistributedSampler(dataset, drop_last=True)  # each process gets its own images
# loader = DataLoader(dataset, 128 // processes, sampler=sampler, drop_last=True)
# net = net.to(device)
# wrapped = DistributedDataParallel(net, device_ids=[device])  # copies rank 0's weights to all
# optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
# for epoch in range(epochs):
#     sampler.set_epoch(epoch)  # a different order, the same for all processes
#     for x, y in loader:
#         loss = cross_entropy(wrapped(x.to(device)), y.to(device))
#         loss.backward()  # here DDP averages the gradients
#         optimizer.step()
#         optimizer.zero_grad()
# if rank == 0:  # all have the same weights; batch norm's stored statistics are those of rank 0
#     torch.save(net.state_dict(), "net.pt")
# dist.destroy_process_group()
# ```
#
# **torchrun** starts the processes and tells each its number, the *rank*:
#
# ```
# torchrun --standalone --nproc-per-node 2 train.py
# ```
#
# (Without GPUs, use `torch.device("cpu")` and `"gloo"`, and leave out `set_device` and
# `device_ids`.)
#
# About 30 minutes to read, and three to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/01_multi_gpu.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/01_multi_gpu.ipynb),
# whose free "GPU T4 x2" has two GPUs. The first cell installs the course if it is missing.

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
# We load the data and the network, and choose how much to compute (the *budget*). A *device* is
# whatever one process computes with: a GPU or, without GPUs, an equal part of the cores.

# %%
import matplotlib.pyplot as plt
import torch

from fasttricks import BASELINE, Distributed, choose_budget, load
from fasttricks.course import headline, say
from fasttricks.models import create
from fasttricks.tricks import distributed

budget, data = choose_budget(), load()
gpus, cores = torch.cuda.device_count(), distributed.cores()
devices = max(2, Distributed().count())
enough = gpus > 1 or (gpus == 0 and cores >= devices)  # False: processes must share a device
part = max(1, cores // devices)  # cores of one device, if there is no GPU
torch.manual_seed(0)
net = create(budget.model, data.channels, len(data.classes))
size = 4 * sum(parameter.numel() for parameter in net.parameters())  # bytes of its gradient

# %% [markdown]
# Our recorded study compares one process that has both cores with two processes that share them:

# %% tags=["fold"]
say(headline("distributed"))
if gpus > 1:
    what = f"This machine has {gpus} GPUs. Each of them is a device."
elif not enough:
    what = (
        f"This machine has one {'GPU' if gpus else 'core'}. Below, {devices} processes share it, "
        f"so do not expect a gain. We still call them {devices} devices."
    )
else:
    what = (
        f"This machine has no GPU. We divide its {cores} cores into {devices} equal parts. Each "
        f"part ({'one core' if part == 1 else f'{part} cores'}) is a device."
    )
say(
    f"The data are Fashion-MNIST: {len(data.train):,} training images of {len(data.classes)} kinds "
    f"of clothing. The network is `{budget.model}` with {size // 4:,} weights. {what}"
)

# %% [markdown]
# So in this study, the trick adds no hardware, only the averaging. With a second GPU, it is
# different:

# %% tags=["fold"]
from fasttricks.course import timeline

half = [
    ("compute the gradient", 0, 4),
    ("average the gradients", 4, 5),
    ("update the weights", 5, 5.6),
]
timeline(
    {
        "one device": [("compute the gradient", 0, 8), ("update the weights", 8, 8.6)],
        "first of two": half,
        "second of two": half,
    },
    "one training step with the same batch, if nothing has to wait",
)
plt.show()

# %% [markdown]
# The long part of a step is divided. The averaging is new, and every device still updates all
# weights.
#
# ## By hand: half and half is whole
#
# What must two devices tell each other? Take the smallest possible network, with a single weight,
# and four images of one number each. The loss is the mean of the squares of `weight * x - y`. Here
# is its slope with respect to the weight, on the whole batch and on each half:

# %%
x, y, weight = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 3, 5, 9]), 1.0


def slope(x, y):
    return (2 * (weight * x - y) * x).mean().item()


slope(x, y), slope(x[:2], y[:2]), slope(x[2:], y[2:])

# %% [markdown]
# The halves disagree. But the mean of four numbers is also the mean of the two halves' means. If
# one device has three images and the other has one, we must weight each slope by its number of
# images:

# %% tags=["nbval-check-output"]
from fasttricks.course import holds

halves = (slope(x[:2], y[:2]) + slope(x[2:], y[2:])) / 2
weighted = 0.75 * slope(x[:3], y[:3]) + 0.25 * slope(x[3:], y[3:])
holds(halves == slope(x, y), "two half-batches average to the whole batch's gradient")
holds(abs(weighted - slope(x, y)) < 1e-6, "so do unequal parts, weighted by their images")

# %% [markdown]
# So each device needs only its own images and the average gradient. If all devices begin with equal
# weights, their weights stay equal. The learning rate does not change, because gradients are
# averaged, not added.
#
# ### In a real network
#
# Does the same hold for our network? We take 256 validation images, and call each half of this
# batch a *shard*. We compute in double precision so that rounding cannot hide anything.

# %%
ready = data.to(torch.device("cuda" if gpus else "cpu"), budget.image_size)
net = net.double().to(ready.val.y.device)
images, kinds = data.normalise(ready.val.x[:512]).double(), ready.val.y[:512]


def gradient(rows):
    net.zero_grad()
    torch.nn.functional.cross_entropy(net(images[rows]), kinds[rows]).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


# %% [markdown]
# `gaps` compares the gradient of that batch with the average of the two shards' gradients and, to
# have a scale, with the gradient of 256 other images. A *gap* is the distance between two such
# vectors, as a fraction of the length of the batch's gradient.


# %%
def gaps():
    whole, other = gradient(slice(0, 256)), gradient(slice(256, 512))
    averaged = (gradient(slice(0, 128)) + gradient(slice(128, 256))) / 2
    return [((found - whole).norm() / whole.norm()).item() for found in (averaged, other)]


# %% [markdown]
# In training, batch norm subtracts the mean of *its own* batch and divides by the batch's standard
# deviation. In evaluation, it uses stored statistics instead. We compute the gaps both ways.

# %% tags=["nbval-check-output"]
net.eval()
stored, _ = gaps()
net.train()
own, scale = gaps()
holds(stored < 1e-9, "without batch statistics, the shards average to the whole gradient")

# %% tags=["fold"]
say(
    f"With stored statistics, the gap is **{stored:.0e}**, which is mere rounding. With the "
    f"statistics of each shard, it is **{own:.2f}**, in a network that is not trained yet. For "
    f"comparison, the gap between two different batches is {scale:.2f}."
)

# %% [markdown]
# The second gap is no bug. The average is the exact gradient of a network whose batch norm looks at
# fewer images at a time (*ghost batch norm*). With large batches, this can even help (Hoffer et al.
# 2017, [arXiv 1705.08741](https://arxiv.org/abs/1705.08741)). But *Break it* shows that shards can
# be too small. Dropout and random augmentation also differ between one device and several, unless
# all of them draw the same random numbers.
#
# ## Write it
#
# The trick has two parts. The first divides the images. Every process draws the same batch from the
# same seed. Of N processes, process r keeps every N-th image, starting with image r. Here, three
# processes divide ten images:


# %%
def shard(values, rank, processes):
    return values[rank::processes]


[shard(torch.arange(10), rank, 3).tolist() for rank in range(3)]

# %% [markdown]
# The second part averages the gradients. Each of N devices holds its gradient as one long vector,
# and all devices need the average. If all sent theirs to one device, it would be the bottleneck. So
# in a **ring all-reduce**, the devices form a circle, and each sends only to the next. Every vector
# is cut into N chunks, and a device sends *one* chunk per round: device r begins with chunk r and
# then passes on the chunk that it has just received. In the first N - 1 rounds, the receiver *adds*
# its own numbers to the chunk. In the other N - 1 rounds, it *replaces* its own numbers with the
# finished sums. Dividing these sums by N gives the average.


# %%
def ring(held):  # held[rank, chunk]; yields what all devices hold after each round
    n = len(held)
    for step in range(2 * (n - 1)):
        yield held
        new = held.clone()
        for rank in range(n):
            chunk, right = (rank - step) % n, (rank + 1) % n
            mine = held[right, chunk] if step < n - 1 else 0
            new[right, chunk] = held[rank, chunk] + mine
        held = new
    yield held


# %% [markdown]
# Here are four devices with chunks *a* to *d*. Every number starts as 1, so it later tells how many
# devices have contributed to it. The label on an arrow is the chunk that is sent next. A thick
# frame marks a finished sum.

# %%
from fasttricks.course import circle

states = list(ring(torch.ones(4, 4)))
circle(states, {1: "after round 1", 3: "after round 3", 6: "after round 6"})
plt.show()

# %% [markdown]
# Follow chunk *a*. Device 0 has sent its 1, so device 1 has 2 after round 1. After round 3, device
# 3 has 4, a finished sum. It travels on for three more rounds, until all have it.
#
# In each of the 2 (N - 1) rounds, a device sends one chunk, 1/N of the gradient. In total, it sends
# 2 (N - 1) / N times the gradient.

# %% tags=["fold"]
travels = {n: 2 * (n - 1) / n * size / 1e6 for n in (2, 256)}
say(
    f"The gradient of our network takes {size / 1e6:.2f} MB. In each step, each of 2 devices sends "
    f"{travels[2]:.2f} MB, and **each of 256 devices sends {travels[256]:.2f} MB**."
)

# %% [markdown]
# So a device sends less than twice the gradient, *however many devices there are*. But each round
# has a fixed delay, and more devices mean more rounds. (NCCL, the library that DDP uses on GPUs,
# can also send along trees, which need fewer.)
#
# Our two functions do what they should:

# %% tags=["fold", "nbval-check-output"]
rows = torch.arange(101)
parts = [distributed.shard(rows, rank, 4) for rank in range(4)]
same = all(torch.equal(piece, shard(rows, rank, 4)) for rank, piece in enumerate(parts))
holds(same, "our function matches the package's")
holds(torch.equal(torch.cat(parts).sort().values, rows), "every row is in exactly one shard")
numbers = torch.arange(25.0).view(5, 5)
*_, last = ring(numbers)
holds(all(torch.equal(row, numbers.sum(0)) for row in last), "every device ends with every sum")

# %% [markdown]
# ## In your own loop
#
# With DDP, the lines at the top of this page are all that you need. What can go wrong? Here are
# five classic bugs:
#
# 1. **The batch size is per process.** `DataLoader(dataset, 128)` in four processes makes a batch
#    of 512.
# 2. **`net(x)` instead of `wrapped(x)`.** The gradients are never averaged, and the copies drift
#    apart without an error.
# 3. **`sampler.set_epoch` is missing.** Every epoch then uses the same order.
# 4. **One process skips a step or stops early.** The others wait for it until a timeout.
# 5. **Batch norm's stored statistics come from one shard.** Before each forward pass, DDP copies
#    those of rank 0 to all. So the statistics that you save have seen the images of rank 0 only. If
#    your shards are small, recompute the statistics before you save. (Our package averages those of
#    all processes instead.)
#
# DDP hides a part of the averaging: it sends the last layer's gradients while it computes those of
# earlier layers. If the model does not fit on one GPU, use **FSDP**
# (`torch.distributed.fsdp.fully_shard`), which also divides the weights and the optimiser's state.
#
# [`examples/distributed.py`](../examples/distributed.py) is a complete script. It has all images in
# memory and needs no sampler, because every process draws the order of all images from the same
# seed. The factor `len(rows) * processes / BATCH` corrects for shards of unequal sizes.
#
# <details><summary>How it differs from <code>examples/plain.py</code>: - lines go, + lines come</summary>
#
# ```diff
#  import argparse
# +import os
#  import time
#  ...
#  import torch
# +import torch.distributed as dist
#  import torch.nn.functional as F
# +from torch.nn.parallel import DistributedDataParallel
#  from torchvision import datasets
#  ...
#      torch.manual_seed(seed)
# -    device = "cuda" if torch.cuda.is_available() else "cpu"
# +    gpu, local = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
# +    device = torch.device("cuda", local) if gpu else torch.device("cpu")
# +    if gpu:
# +        torch.cuda.set_device(device)
# +    dist.init_process_group("nccl" if gpu else "gloo")
# +    rank, processes = dist.get_rank(), dist.get_world_size()
# +    if local == 0:
# +        load(folder)  # one process on each machine downloads
# +    dist.barrier()
#      x, y = (part.to(device) for part in load(folder))
#  ...
#      net = net.to(device, memory_format=torch.channels_last)
# +    wrapped = DistributedDataParallel(net, device_ids=[device] if gpu else None)
#      decayed = [p for p in net.parameters() if p.ndim > 1]  # not the norms and biases
#  ...
#              order = torch.randperm(len(y), device=device)
# -        rows = order[step % epoch * BATCH :][:BATCH]
# -        flipped = torch.rand(BATCH, 1, 1, 1, device=device) < 0.5
# +        rows = order[step % epoch * BATCH :][:BATCH][rank::processes]  # the same order everywhere
# +        flipped = torch.rand(BATCH, 1, 1, 1, device=device)[rank::processes] < 0.5
#          pixels = x[rows]
#          inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
# -        loss = F.cross_entropy(net(inputs), targets)
# +        loss = F.cross_entropy(wrapped(inputs), targets) * len(rows) * processes / BATCH
#          loss.backward()
#  ...
#          optimizer.zero_grad()
# -    if device == "cuda":
# +    if gpu:
#          torch.cuda.synchronize()
#      seconds = time.perf_counter() - started
# -    found = accuracy(net, val_x, val_y)
# -    print(f"{steps * BATCH:,} images in {seconds:.1f} s, accuracy {found:.4f}")
# +    if rank == 0:
# +        found = accuracy(net, val_x, val_y)
# +        print(f"{steps * BATCH:,} images in {seconds:.1f} s, accuracy {found:.4f}")
# +    dist.destroy_process_group()
#      return net
# ```
#
# </details>
#
# ## When are two devices faster than one?
#
# A batch of a given size can be used in two ways. Several devices can *share* it. Or each can
# *keep* a batch of this size, so the whole batch grows with their number. We time both.
#
# `measure` starts one process per device. In every round, and for each size, it times a few
# training steps of one device `alone`, and then of all devices `together`, which average their
# gradients.

# %%
from fasttricks.study.limits import measure

batches = [8 * devices**power for power in range(7) if 8 * devices**power <= 512]
speeds = measure(devices, batches, [4, size], rounds=3 * budget.seeds)
alone, together = speeds.alone, speeds.together  # by images on each device: seconds by round

# %% [markdown]
# A slow moment of the machine then spoils a round, but not a size. We divide times of the same
# round, and take the median of these ratios and their range (of nine rounds, without the lowest and
# the highest ratio). A difference is *clear* if the whole range is on one side of 1.

# %%
from fasttricks.course import median


def compare(slow, fast, images=1):  # images: how many times as many the fast one processes
    ratios = sorted(images * a / b for a, b in zip(slow, fast, strict=True))
    out = len(ratios) // 9
    return median(ratios), ratios[out], ratios[-1 - out]


shared = {b: compare(alone[b], together[b // devices]) for b in batches[1:]}
kept = {b: compare(alone[b], together[b], devices) for b in batches}

# %% [markdown]
# First, how many images per second can a device process? (Medians over the rounds.)

# %%
import pandas as pd

single, several = "one device", f"{devices} devices"
one = {b: median(b / seconds for seconds in alone[b]) for b in batches}
all_of_them = {b: median(devices * b / seconds for seconds in together[b]) for b in batches}
rates = pd.DataFrame({single: one, several: all_of_them})
rates.rename_axis("images on each device").round().astype(int)

# %% tags=["fold"]
few, full, best = batches[0], max(one, key=one.get), max(all_of_them, key=all_of_them.get)
rise, top = one[full] / one[few], one[full]
middle, low, high = compare(alone[full], together[best], devices * best / full)
say(
    f"One device is fastest with {full} images in a batch: {top:,.0f} images per second, "
    f"{rise:.1f} times as many as with {few} images. "
    + (
        f"{devices} devices can hardly be more than {devices} times as fast as one. **So first "
        "fill one device.**"
        if rise > devices
        else f"So here, a larger batch gains less than {devices} devices could."
    )
)
say(
    f"{devices} devices are fastest with {best} images on each. Compared with the highest speed of "
    f"one device, they are {middle:.2f} times as fast (range: {low:.2f} to {high:.2f}). "
    + ("**So then add devices.**" if low > 1 else "So here, more devices gain nothing clear.")
)

# %% [markdown]
# Now compare both ways at equal batches:

# %% tags=["fold"]
from fasttricks.course import plot
from fasttricks.study.style import COLOURS

ways = {"share a batch": shared, "keep a batch each": kept}
figure = plot(
    {
        way: (list(found), [middle for middle, _, _ in found.values()])
        for way, found in ways.items()
    },
    "images in the batch of one device",
    "times as fast as one device",
    f"{devices} devices; bands: range over the rounds",
    scale="log",
    marks=True,
)
(axes,) = figure.axes
for colour, found in zip(COLOURS, ways.values(), strict=False):
    _, low, high = zip(*found.values(), strict=True)
    axes.fill_between(list(found), low, high, color=colour, alpha=0.2)
axes.axhline(1, color="black", linewidth=0.8)
plt.show()

# %% tags=["fold"]
for way, found in ways.items():
    wins = [b for b in found if all(found[c][1] > 1 for c in found if c >= b)]
    losses = ", ".join(str(b) for b in found if found[b][2] < 1)
    middle, low, high = found[batches[-1]]
    say(
        f"- Devices that **{way}** are "
        + (f"clearly faster from {wins[0]} images on. " if wins else "not clearly faster. ")
        + f"With {batches[-1]} images, they are {middle:.2f} times as fast as one device (range: "
        f"{low:.2f} to {high:.2f})."
        + (f" They are clearly slower with these numbers of images: {losses}." if losses else "")
    )

# %% [markdown]
# Why is it hard to gain by sharing a small batch? Some work in each step does not depend on the
# number of images, such as starting each layer and updating the weights. Every device must do all
# of it, so sharing can only shorten the rest. Averaging comes on top, and devices wait for the
# slowest and compete for memory. We do not separate these costs.

# %% tags=["fold"]
at = max(full, batches[1])
both = [f"{shared[at][0]:.2f} times as fast as one", f"{kept[at][0]:.2f} times"]
_, low, high = compare(together[at // devices], together[at], devices)
say(
    f"With {at} images, devices that share them are {both[0]}. If each keeps as many, it is "
    f"{both[1]}. "
    + (
        "**So if the batch may grow, let each device keep a full batch.**"
        if low > 1
        else "**So here, let devices share the batch.**"
        if high < 1
        else "So here, neither way is clearly better."
    )
)
message, number = (1e3 * median(speeds.all_reduce[count]) for count in (size, 4))
say(
    f"For scale: a step of one device with {few} images takes {1e3 * median(alone[few]):.1f} ms. "
    f"Averaging by itself takes {message:.1f} ms for the whole gradient, and {number:.1f} ms for a "
    "single number."
)

# %% [markdown]
# Usually, people let the batch grow. Goyal et al. 2017 ([arXiv
# 1706.02677](https://arxiv.org/abs/1706.02677)) trained ResNet-50 on ImageNet in one hour on 256
# GPUs, and each GPU *kept* 32 images. An *epoch*, one pass over all training images, then has fewer
# steps. Chapter 2 asks how well the network learns with them. Below, devices share the batch, so
# that the trick changes nothing but the time.
#
# ## Use it
#
# Does a whole training become faster, and as good? We train with one device and with all of them.
# On a CPU, we also train with one process that has all cores, because PyTorch can use them without
# any trick.

# %%
from dataclasses import replace

plain = replace(BASELINE, batch=devices * BASELINE.batch)
trick = plain + Distributed(devices, share_devices=not enough)
whole = "all cores, no trick"
recipes = {single: (plain, part), several: (trick, part)}  # recipe, cores of each process
if enough and gpus == 0:
    recipes[whole] = (plain, devices * part)

# %% [markdown]
# `BASELINE` is the course's plain training (chapter 0), and `+` adds a trick to it. All runs have
# the same number of steps, whole batch, and learning rate, and see half of the budget's images.
# Devices that share the batch get 128 images each. Each run starts new processes, and
# `OMP_NUM_THREADS` tells them how many cores to use.

# %%
import os

from fasttricks import train
from fasttricks.course import accuracy_table, one_line


def run(name, seed):
    recipe, threads = recipes[name]
    os.environ["OMP_NUM_THREADS"] = str(threads)
    seen, label = budget.images // 2, f"{name}, seed {seed}"
    return train(recipe, data, images=seen, seed=seed, fresh=True, label=label)


runs = {name: [] for name in recipes}
with one_line() as tell:
    for seed in range(budget.seeds):
        for name in recipes:
            runs[name].append(run(name, seed))
    tell(f"{len(recipes) * budget.seeds} runs, taking turns")
accuracy_table(runs).loc[["seconds, median", "validation accuracy, mean"]]

# %% [markdown]
# The seconds do not include the start of the processes. All arms did the same work:

# %% tags=["fold", "nbval-check-output"]
worked = {(one.steps, one.images_seen) for found in runs.values() for one in found}
holds(len(worked) == 1, "the same number of steps and images in every run")
holds({one.processes for one in runs[several]} == {devices}, "and a process for each device")

# %% [markdown]
# For a verdict, we compare runs with the same seed. *Not clearly faster or slower* means that the
# pairs disagree about which is faster, or that the median ratio is within 5% of 1. The accuracy is
# *higher* or *lower* if all n pairs agree, and the mean difference is at least 1/√n percentage
# points.

# %%
from fasttricks.course import faster, gained

clocks = {name: [one.train_seconds for one in found] for name, found in runs.items()}
scores = {name: [one.val_accuracy for one in found] for name, found in runs.items()}
guess = 1 / len(data.classes)  # the accuracy of guessing
rival = single if gpus > 1 or whole not in runs else whole
speed = faster(clocks[several], clocks[rival])  # with the same hardware, or one of several GPUs
learned = gained(scores[several], scores[single], guess)

# %% tags=["fold"]
said = ""
if plain.batch in shared:
    middle, low, high = shared[plain.batch]
    ratio = median(b / a for a, b in zip(clocks[several], clocks[single], strict=True))
    said = (
        f" In the figure, steps were {middle:.2f} times as fast (range: {low:.2f} to {high:.2f}). "
    )
    if low <= ratio <= high:
        said += "The two agree."
    elif ratio < low:
        said += "Training gains less, probably because its first steps are slow."
    else:
        said += "The two differ, and the whole training counts more."
if rival == whole:
    told = faster(clocks[several], clocks[single])
    say(
        f"Compared with one device, {devices} devices trained {told}.{said} But one device had "
        f"only {part} of the {devices * part} cores. The fair rival is one process with all cores."
    )

# %% tags=["fold"]
owner = {whole: "all cores"}.get(rival, "one GPU" if gpus else "the core")
effect = (
    "the trick makes no clear difference"
    if "not clearly" in speed
    else "the trick saves time"
    if median(b / a for a, b in zip(clocks[several], clocks[rival], strict=True)) > 1
    else "the trick costs time"
)
say(
    f"Compared with one process that has {owner}, {devices} processes trained {speed}. **So in "
    f"{'these short runs' if budget.seeds > 1 else 'this one short run'}, {effect}.**"
    + (
        " The study at the top compares the same two sides, with more seeds and longer runs."
        if rival == whole
        else said
    )
)

# %% tags=["fold"]
says = {
    "lower": "So in these short runs, the smaller shards **cost accuracy**.",
    "higher": "So in these short runs, the smaller shards **did not cost accuracy**.",
    "no clear": "So in these short runs, smaller shards **made no clear difference**.",
}
unclear = "So these short runs **do not show** whether smaller shards cost accuracy."
say(
    f"The accuracy of {devices} devices after {runs[single][0].images_seen / len(data.train):.2f} "
    f"epochs, compared with one device: {learned}. "
    + next((text for word, text in says.items() if word in learned), unclear)
)

# %% [markdown]
# So whether a second device pays depends on what the one process could have had instead. On a CPU,
# it could have had all cores. On GPUs, it could not.
#
# ## Break it: too few images for batch norm
#
# How small may a shard be? One process can take the shards one after another, add up their
# gradients, and then make the step that many devices would make. This **gradient accumulation**
# saves memory but no time. `accumulate=64` cuts a batch of 128 images into 64 shards of 2.

# %%
from fasttricks.course import train_arms

per_shard = {BASELINE.batch // count: count for count in (1, 8, 64)}
cut = {
    f"{count} images in a shard": BASELINE + Distributed(1, accumulate=parts)
    for count, parts in per_shard.items()
}
tiny = train_arms(cut, data, images=min(budget.images // 8, 3_200), evaluations=1)

# %% [markdown]
# With 64 shards, batch norm updates its stored statistics 64 times per step. For a fair comparison,
# we recompute the statistics of all networks from the same 2,000 training images. Here is the
# accuracy with them:

# %% tags=["fold"]
from torch.optim.swa_utils import update_bn

from fasttricks.loop import accuracy


def fair_accuracy(run):
    update_bn((data.normalise(some) for some in ready.train.x[:2000].split(500)), run.net)
    return accuracy(run.net, ready, ready.val, run.recipe)


fair = {
    n: [fair_accuracy(run) for run in tiny[arm]] for n, arm in zip(per_shard, tiny, strict=True)
}
by_seed = enumerate(zip(*fair.values(), strict=True))
plot(
    {f"seed {seed}": (list(fair), found) for seed, found in by_seed},
    f"images in a shard ({BASELINE.batch} in a batch)",
    "validation accuracy",
    scale="log",
    marks=True,
)
plt.show()

# %% tags=["fold"]
undivided, sixteen, two = fair.values()
more, fewest = gained(sixteen, undivided, guess), gained(two, undivided, guess)
say(
    f"The accuracy after {next(iter(tiny.values()))[0].steps} steps, compared with undivided "
    f"batches:\n\n- 16 images in a shard: {more}\n- 2 images in a shard: **{fewest}**"
)
say(
    "So in the first steps, **2 images in a shard are too few for batch norm"
    + (", and even 16 cost accuracy.**" if "lower" in more else ".**")
    if "lower" in fewest
    else "So these steps do not show how many images in a shard are too few."
)

# %% [markdown]
# Such differences need not last. But Wu and He 2018 trained to the end ([arXiv
# 1803.08494](https://arxiv.org/abs/1803.08494)): ResNet-50 on ImageNet had an error of 23.6% with
# 32 images per GPU, 23.7% with 16, 24.8% with 8, and 34.7% with 2. (The whole batch shrank, too.)
#
# There are two fixes. If you call `torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)` before DDP
# wraps the network, batch norm computes its statistics over all devices. It works only on GPUs, and
# needs extra communication. Or use a norm that looks at one image at a time, such as group norm. So
# with batch norm, do not let shards get small.
#
# ## On your GPUs: four rules
#
# 1. **Fill one device first.** Raise its batch until images per second no longer rise (the table).
# 2. **Then add devices, and let each keep that batch** (the figure), if chapter 2 finds you a
#    learning rate for it.
# 3. **If the whole batch must stay the same, time one device with all of it and with 1/N of it.**
#    The ratio of the two times is the most that N devices can gain, because each still has to do
#    1/N of the batch.
# 4. **With batch norm, keep 16 images or more on each GPU.** In the full trainings of Wu and He,
#    this was enough. Try your own size first on one device, with gradient accumulation.

# %% tags=["fold"]
say(
    "<details><summary>The trick's card (<i>slot</i>: where in the loop the trick acts; "
    "<i>single</i>: no other trick can act there; <i>meets</i>: what it interacts with)</summary>"
    f"\n\n{distributed.__doc__}\n\n</details>"
)

# %% [markdown]
# ## Questions
#
# **1. Rank 0 saves the network after a training with DDP. Which images have shaped the weights, and
# which have shaped batch norm's stored statistics?**
#
# <details><summary>Answer</summary>
#
# The weights: the images of all processes, through the averaged gradients. The statistics: those of
# rank 0 only, unless you use SyncBatchNorm or recompute them.
#
# </details>
#
# **2. Why do the bytes that a device sends in a ring hardly depend on the number of devices?**
#
# <details><summary>Answer</summary>
#
# More devices mean more rounds but smaller chunks. In total, each device sends less than twice the
# gradient.
#
# </details>
#
# **3. Each process shuffles with its own seed. What goes wrong?**
#
# <details><summary>Answer</summary>
#
# The shards overlap: some images are seen twice in an epoch, and others are never seen.
#
# </details>
#
# **4. Your accuracy with four GPUs differs in the third digit from that with one. Is this a bug?**
#
# <details><summary>Answer</summary>
#
# Not necessarily. Batch norm sees only a quarter of the batch, and sums are rounded differently.
# Check whether two seeds on one GPU differ as much.
#
# </details>
#
# **5. What must be the same on every process, and what must not?**
#
# <details><summary>Answer</summary>
#
# The same: the initial weights, the order of the images, and the learning rate. Different: the
# shard.
#
# </details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you
# get a hint.
#
# **Exercise 1.** How many bytes does each process send in one ring all-reduce of the fp32 gradient
# (4 bytes per number) of a network with the given number of parameters?

# %%
from fasttricks.course import check


def sent(parameters, processes):
    raise NotImplementedError


check("distributed", 1, sent)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sent(parameters, processes):
#     return 2 * (processes - 1) / processes * 4 * parameters
# ```
#
# </details>
#
# **Exercise 2.** Shard in contiguous blocks instead: the first process gets the first rows, and so
# on. No row may be lost or duplicated, and block sizes may differ by at most one, with the longer
# blocks first.


# %%
def block(values, rank, processes):
    raise NotImplementedError


check("distributed", 2, block)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def block(values, rank, processes):
#     return values.tensor_split(processes)[rank]
# ```
#
# </details>
#
# **Exercise 3.** The last batch of an epoch rarely divides evenly. Given the mean gradient of each
# shard, one per row, and the number of images in each shard, return the mean gradient of the whole
# batch.


# %%
def combine(gradients, counts):
    raise NotImplementedError


check("distributed", 3, combine)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def combine(gradients, counts):
#     shares = counts / counts.sum()
#     return (shares[:, None] * gradients).sum(0)
# ```
#
# </details>
#
# ## Further reading
#
# - Li et al. 2020, [arXiv 2006.15704](https://arxiv.org/abs/2006.15704): how DDP works.
# - Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
#   Journal of Parallel and Distributed Computing 69: the ring.
