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
# Several GPUs work on every step. Each computes the gradient of its own images, they average their
# gradients, and all take the same step.
#
# - **Share or keep:** N GPUs can *share* a batch, so each gets 1/N of it, and the learning rate
#   stays. Or each can *keep* a batch of the old size. Then the whole batch is N times as large, an
#   *epoch* (one pass over the training images) has fewer steps, and you need another learning rate
#   ([chapter 2](02_lr_scaling_warmup.ipynb)).
# - **The result:** the average of two halves' gradients is the gradient of the whole batch. With
#   *batch norm*, a layer that looks at all images of a batch at once, this is only roughly so,
#   because each half is normalised by itself.
# - **The speed: we have no measurements on two real GPUs.** Ours come from two processes on two CPU
#   cores, which one process can also use without the trick. Goyal et al. 2017 ([arXiv
#   1706.02677](https://arxiv.org/abs/1706.02677)) report a scaling efficiency of about 90% from 8
#   to 256 GPUs, each of which kept 32 images.
# - **What it does not do:** it saves no memory for the weights, since each GPU holds all of them.
# - **Use it when** you have several GPUs, and the images that each gets keep it busy.
# - **Skip it when** you have one GPU or only a CPU or, with batch norm, when each GPU would get
#   fewer than 16 images (*Break it* cites why).
#
# In PyTorch, `DistributedDataParallel`, **DDP** for short, does the averaging. In these lines, the
# GPUs share a batch. Only `dataset`, `net` and `epochs` are missing:
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
# batch = 128  # of all GPUs together: they share it; to keep it on each, write 128 * processes
# assert batch % processes == 0
# sampler = DistributedSampler(dataset, drop_last=True)  # each process gets its own images
# loader = DataLoader(dataset, batch // processes, sampler=sampler, drop_last=True)
# net = net.to(device)
# wrapped = DistributedDataParallel(net, device_ids=[device])  # copies rank 0's weights to all
# optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
# for epoch in range(epochs):
#     sampler.set_epoch(epoch)  # a different order, the same for all processes
#     for x, y in loader:
#         loss = cross_entropy(wrapped(x.to(device)), y.to(device))  # not net(x)!
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
# `device_ids`. Set `OMP_NUM_THREADS` to the number of cores for each process, because torchrun sets
# it to 1.)
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

from fasttricks import BASELINE, SEVEN, Distributed, choose_budget, load
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
# Our study was recorded beforehand, with a small ResNet on Fashion-MNIST (chapter 0 explains it).
# It compares one process that has both cores with two processes that have one core each and share
# the batch. *The other six tricks* are those of chapters 2 to 7.

# %%
say(headline("distributed"))

# %% [markdown]
# So in this study, the trick adds no hardware, only a second process and the averaging.

# %% tags=["fold"]
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
together_with_six = sum(SEVEN, start=BASELINE).global_batch
say(
    f"Both sides had the same batch: {BASELINE.batch} images, or {together_with_six} together with "
    f"the other six tricks.\n\nNow to the runs of this page. They use {len(data.train):,} training "
    f"images of {len(data.classes)} kinds of clothing, and the network `{budget.model}` with "
    f"{size // 4:,} weights. {what}"
)

# %% [markdown]
# With a second GPU, it is different:

# %% tags=["fold"]
from fasttricks.course import timeline

timeline(
    {
        "one GPU": [("compute the gradient", 0, 8), ("update the weights", 8, 8.6)],
        "each of two GPUs": [("compute the gradient", 0, 4), ("update the weights", 4.7, 5.3)],
        "what it sends": [("average the gradients", 1.2, 4.7)],
    },
    "one training step with the same batch",
)
plt.show()

# %% [markdown]
# The long part of a step is divided. The averaging is new. DDP hides part of it, because it sends
# the last layers' gradients while it computes those of earlier layers.
#
# ## By hand: half and half is whole
#
# What must two devices tell each other? Take a network with a single weight, and four images of
# one number each. The loss is the mean of the squares of `weight * x - y`. Here is its slope
# with respect to the weight, on the whole batch and on each half:

# %%
x, y, weight = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 3, 5, 9]), 1.0


def slope(x, y):
    return (2 * (weight * x - y) * x).mean().item()


slope(x, y), slope(x[:2], y[:2]), slope(x[2:], y[2:])

# %% [markdown]
# The mean of four numbers is also the mean of the two halves' means. If one device has three images
# and the other has one, we must weight each slope by its number of images:

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
# Does this hold for our network? We take 256 validation images, call each half a *shard*, and
# compute in double precision, so that rounding cannot hide anything.

# %%
ready = data.to(torch.device("cuda" if gpus else "cpu"), budget.image_size)
net = net.double().to(ready.val.y.device)
images, kinds = data.normalise(ready.val.x[:512]).double(), ready.val.y[:512]


def gradient(rows):
    net.zero_grad()
    torch.nn.functional.cross_entropy(net(images[rows]), kinds[rows]).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


# %% [markdown]
# `gaps` returns two numbers. The first is the distance of the average of the two shards' gradients
# from the batch's gradient, as a fraction of that gradient's length. The second is the same
# distance for the gradient of 256 other images, to have a scale.


# %% tags=["fold"]
def gaps():
    whole, other = gradient(slice(0, 256)), gradient(slice(256, 512))
    averaged = (gradient(slice(0, 128)) + gradient(slice(128, 256))) / 2
    return [((found - whole).norm() / whole.norm()).item() for found in (averaged, other)]


# %% [markdown]
# In training, batch norm subtracts the mean of *its own* batch and divides by the batch's standard
# deviation. In evaluation, it uses stored statistics. We compute the gaps both ways.

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
# 2017, [arXiv 1705.08741](https://arxiv.org/abs/1705.08741)). Dropout and random augmentation also
# differ, unless each device draws the random numbers of the whole batch and keeps those of its
# rows.
#
# ## Write it
#
# The trick has two parts. The first divides the images. Every process draws the same batch from the
# same seed. Of N processes, process r keeps every N-th image, starting with image r:


# %%
def shard(values, rank, processes):
    return values[rank::processes]


[shard(torch.arange(10), rank, 3).tolist() for rank in range(3)]

# %% [markdown]
# The second part averages the gradients. Each of N devices holds its gradient as one long vector,
# and all need the average. If all sent theirs to one device, it would be the bottleneck. So in a
# **ring all-reduce**, the devices form a circle, and each sends only to the next. Every vector is
# cut into N chunks, and a device sends *one* chunk per round: device r begins with chunk r and then
# passes on the chunk that it has just received. In the first N - 1 rounds, the receiver *adds* its
# own numbers to the chunk. In the other N - 1 rounds, it *replaces* its own numbers with the
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
# devices have contributed. An arrow's label is the chunk that is sent next. A thick frame marks a
# finished sum.

# %%
from fasttricks.course import circle

states = list(ring(torch.ones(4, 4)))
circle(states, {1: "after round 1", 3: "after round 3", 6: "after round 6"})
plt.show()

# %% [markdown]
# Follow chunk *a*. Device 0 has sent its 1, so device 1 has 2 after round 1. After round 3, device
# 3 has 4, a finished sum. After three more rounds, all have it.
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
# So a device sends less than twice the gradient, *however many devices there are*. But more devices
# mean more rounds, and each has a fixed delay. A check of our two functions:

# %% tags=["fold", "nbval-check-output"]
rows = torch.arange(101)
parts = [distributed.shard(rows, rank, 4) for rank in range(4)]
same = all(torch.equal(piece, shard(rows, rank, 4)) for rank, piece in enumerate(parts))
complete = torch.equal(torch.cat(parts).sort().values, rows)
holds(same and complete, "shards are as the package's, and every row is in exactly one")
numbers = torch.arange(25.0).view(5, 5)
*_, last = ring(numbers)
holds(all(torch.equal(row, numbers.sum(0)) for row in last), "every device ends with every sum")

# %% [markdown]
# ## In your own loop
#
# The lines at the top of this page are all that you need. Here are six classic bugs. The first
# three and the last raise no error:
#
# 1. **The batch size is per process.** `DataLoader(dataset, 128)` in four processes makes a batch
#    of 512.
# 2. **`net(x)` instead of `wrapped(x)` in training.** The gradients are never averaged, and the
#    copies drift apart.
# 3. **`sampler.set_epoch` is missing.** Every epoch then uses the same order.
# 4. **One process skips a step or stops early.** The others wait for it until a timeout. With the
#    sampler above, all have equally many batches. If yours do not, use `with wrapped.join():`.
# 5. **Rank 0 alone evaluates `wrapped`.** It may wait for the others. To evaluate or save on one
#    process, use `net`.
# 6. **Batch norm's stored statistics have seen the images of rank 0 only,** because DDP copies its
#    statistics to all. If your shards are small, recompute them before you save. (Our package
#    averages those of all processes instead.)
#
# If the model does not fit on one GPU, use **FSDP** (`torch.distributed.fsdp.fully_shard`), which
# also divides the weights and the optimiser's state.
#
# [`examples/distributed.py`](../examples/distributed.py) is a complete script. It needs no sampler,
# because every process draws the order of all images from the same seed. The factor
# `len(rows) * processes / BATCH` corrects for shards of unequal sizes.
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
# In every round, and for each batch size, `measure` times a few training steps of one device
# `alone`, and then of all devices `together`, which average their gradients. It also times the
# averaging by itself: of 4 bytes (a single number), and of the whole gradient.

# %%
from fasttricks.study.limits import measure

batches = [8 * devices**power for power in range(7) if 8 * devices**power <= 512]
speeds = measure(devices, batches, [4, size], rounds=3 * budget.seeds)
alone, together = speeds.alone, speeds.together  # by images on each device: seconds by round
single, several = "one device", f"{devices} devices"

# %% [markdown]
# First, how many images per second are processed? (Medians over the rounds.)

# %% tags=["fold"]
import pandas as pd

from fasttricks.course import median

one = {b: median(b / seconds for seconds in alone[b]) for b in batches}
all_of_them = {b: median(devices * b / seconds for seconds in together[b]) for b in batches}
rates = pd.DataFrame({single: one, several: all_of_them})
rates.rename_axis("images on each device").round().astype(int)

# %% tags=["fold"]
few, last, big = batches[0], batches[-2], batches[-1]
rise, more = one[big] / one[few], one[big] / one[last] - 1
say(
    f"With {big} images in a batch, one device processes {rise:.1f} times as many images per "
    f"second as with {few}. From {last} to {big} images, its speed changes by {more:+.0%}. "
    + (
        f"{devices} devices can hardly be more than {devices} times as fast as one. **So first "
        "fill one device.**"
        if rise > devices
        else f"So here, a larger batch gains less than {devices} devices could."
    )
)

# %% [markdown]
# Now we compare sharing and keeping at equal batches, by the ratios of times of the same round.
# (They differ a little from the ratios of the table's medians.) The bands show their range: of nine
# rounds, without the lowest and the highest. On this page, a speed is *clearly* higher or lower if
# the whole range is on one side of 1, and the median differs from 1 by 5% or more.


# %% tags=["fold"]
def compare(slow, fast, images=1):  # images: how many times as many the fast one processes
    ratios = sorted(images * a / b for a, b in zip(slow, fast, strict=True))
    out = len(ratios) // 9  # ratios to leave out at each end
    return median(ratios), ratios[out], ratios[-1 - out]


def clearly(found, sign):  # the sizes at which a way is faster (sign 1) or slower (sign -1)
    sizes = [
        str(b)
        for b, (middle, low, high) in found.items()
        if (low > 1 and middle >= 1.05 if sign > 0 else high < 1 and middle <= 0.95)
    ]
    listed = " and ".join(filter(None, (", ".join(sizes[:-1]), *sizes[-1:])))
    every = "at all batch sizes" if len(sizes) == len(found) else f"with {listed} images"
    return every if sizes else "at no batch size"


shared = {b: compare(alone[b], together[b // devices]) for b in batches[1:]}
kept = {b: compare(alone[b], together[b], devices) for b in batches}

# %% tags=["fold"]
from fasttricks.course import plot
from fasttricks.study.style import COLOURS

ways = {"share a batch": shared, "keep a batch each": kept}
middles = {
    way: (list(found), [middle for middle, _, _ in found.values()]) for way, found in ways.items()
}
figure = plot(
    middles,
    "images in the batch of one device",
    "times as fast as one device",
    f"{devices} devices; bands: range of the ratios (see above)",
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
versus = {b: compare(together[b // devices], together[b], devices) for b in batches[1:]}
wins, losses = clearly(versus, 1), clearly(versus, -1)
say(
    f"Devices that share a batch are clearly faster than one device {clearly(shared, 1)}. They "
    f"are clearly slower {clearly(shared, -1)}. Devices that keep a batch each are clearly "
    f"faster than one device {clearly(kept, 1)}. With {big} images, the ratios are "
    f"{shared[big][0]:.2f} (share) and {kept[big][0]:.2f} (keep).\n\n"
    f"Devices that keep a batch are clearly faster than devices that share one {wins}. "
    + (
        "**So here, keeping is never clearly better.**"
        if wins == "at no batch size"
        else "**So there, keep a batch on each device, if it may grow.**"
    )
    + (f" They are clearly slower {losses}." if losses != "at no batch size" else "")
)

# %% [markdown]
# Some work in each step does not depend on the number of images, such as starting each layer and
# updating the weights. Every device must do all of it, so sharing a small batch gains little. The
# averaging comes on top. (On the CPU, our package averages at the end of a step and hides nothing.)

# %% tags=["fold"]
own_time, joint_time = (1e3 * median(found[big]) for found in (alone, together))
message, number = (1e3 * median(speeds.all_reduce[count]) for count in (size, 4))
slower = joint_time - own_time
say(
    f"With {big} images on each device, a step of one device alone takes {own_time:.1f} ms, and a "
    f"step of all together {joint_time:.1f} ms. Averaging by itself takes {message:.1f} ms for the "
    f"whole gradient, and {number:.1f} ms for a single number. "
    + (
        "So here, averaging can explain less than half of the difference. Probably, devices "
        "also wait for the slowest, and compete for memory if they share a machine."
        if slower > 2 * message
        else "So here, averaging may explain most of the difference."
        if slower > 0
        else "So here, averaging costs nothing that we can see."
    )
)

# %% [markdown]
# These are images per second, not accuracy. Chapter 2 asks how well a network learns with larger
# batches. Below, devices share the batch. So the steps stay the same, and only batch norm sees
# fewer images at a time.
#
# ## Use it
#
# Is a whole training run faster, and the network just as good? We train with one device, with all
# of them and, on a CPU, with one process that has all cores, because PyTorch can use them without
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
# `BASELINE` is the course's plain training, and `+` adds a trick to it. All runs have
# the same whole batch and learning rate, and see half of the budget's images. Devices that share
# the batch get 128 images each. `OMP_NUM_THREADS` says how many cores each process uses.

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
# The seconds do not include the start of the processes. All runs did the same work:

# %% tags=["fold", "nbval-check-output"]
worked = {(one.steps, one.images_seen) for found in runs.values() for one in found}
apart = {one.processes for one in runs[several]} == {devices}
holds(len(worked) == 1 and apart, "the same steps and images, and each device had its own process")

# %% [markdown]
# We compare runs with the same seed. *Clearly* means the same as above. (Here, no pair is left
# out.) Chapter 0 explains when a difference in accuracy is clear.

# %% tags=["fold"]
from fasttricks.course import faster, gained

clocks = {name: [one.train_seconds for one in found] for name, found in runs.items()}
scores = {name: [one.val_accuracy for one in found] for name, found in runs.items()}
guess = 1 / len(data.classes)  # the accuracy of guessing
rival = single if gpus > 1 or whole not in runs else whole
told, speed = (faster(clocks[several], clocks[name]) for name in (single, rival))
owner = {whole: "all cores"}.get(rival, "one GPU" if gpus else "the core")
ratio = median(b / a for a, b in zip(clocks[several], clocks[rival], strict=True))
effect = (
    "the trick makes no clear difference"
    if "not clearly" in speed
    else f"the trick {'saves' if ratio > 1 else 'costs'} time"
)

# %% tags=["fold"]
if rival == whole:
    say(
        f"Compared with one device, {devices} devices were {told}. But that device had only {part} "
        f"of the {devices * part} cores. The fair rival is one process with all cores."
    )
say(
    f"Compared with one process that has {owner}, {devices} processes were {speed}. **So in "
    f"{'these short runs' if budget.seeds > 1 else 'this one short run'}, {effect}.**"
    + " The study at the top compares the same two sides."
    * (rival == whole)
)
say(
    f"The accuracy of {devices} devices after {runs[single][0].images_seen / len(data.train):.2f} "
    f"epochs, compared with one device: {gained(scores[several], scores[single], guess)}."
)

# %% [markdown]
# So whether a second device pays depends on what one process could have had instead. On a CPU, that
# is all cores. On GPUs, it is one GPU.
#
# ## Break it: too few images for batch norm
#
# How small may a shard be? One process can take the shards one after another, add up their
# gradients, and then make the step of many devices. This **gradient accumulation** saves memory but
# no time. `accumulate=64` cuts a batch of 128 images into 64 shards of 2.

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
    "**So in the first steps, 2 images in a shard are too few for batch norm.**"
    if "lower" in fewest
    else "So these steps do not show how many images in a shard are too few."
)

# %% [markdown]
# Is this only a mismatch between the statistics of few images and those of 2,000? We also classify
# 1,024 validation images in batches as large as the shards, and let batch norm use the statistics
# of each batch, as in training:


# %% tags=["fold"]
def as_trained(net, count):
    net.train()
    images, right = data.normalise(ready.val.x[:1024]), 0
    with torch.inference_mode():
        for some, names in zip(images.split(count), ready.val.y[:1024].split(count), strict=True):
            right += (net(some).argmax(1) == names).sum().item()
    return right / len(images)


matched = {
    n: [as_trained(run.net, n) for run in tiny[arm]] for n, arm in zip(per_shard, tiny, strict=True)
}
undivided, sixteen, two = matched.values()
less = gained(two, undivided, guess)
say(
    f"Judged in this way, 2 images in a shard, compared with undivided batches: **{less}**. "
    + (
        "So the loss is not only a mismatch."
        if "lower" in less and "lower" in fewest
        else "So a mismatch may explain the loss."
        if "lower" in fewest
        else ""
    )
)

# %% [markdown]
# Differences after so few steps need not last. Wu and He 2018 trained to the end ([arXiv
# 1803.08494](https://arxiv.org/abs/1803.08494)): ResNet-50 on ImageNet had an error of 23.6% with
# 32 images per GPU, 23.7% with 16, 24.8% with 8, and 34.7% with 2. (The whole batch shrank, too.)
#
# There are two fixes. Call `net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)` before DDP
# wraps the network. Batch norm then computes its statistics over all devices, which works only on
# GPUs and needs extra communication. Or use a norm that looks at one image at a time, such as group
# norm. Otherwise, do not let shards get small.
#
# ## On your GPUs: four rules
#
# Each rule says what it rests on:
#
# 1. **Fill one device first.** Raise its batch until images per second hardly rise. (*Measured here
#    on a CPU*; your GPU levels off elsewhere.)
# 2. **Then add devices, and let each keep that batch**, if chapter 2 finds you a learning rate for
#    it. (*Measured here on a CPU*: images per second. *Cited*: Goyal et al. on GPUs.)
# 3. **If the whole batch must stay the same, time one device with all of it and with 1/N of it.**
#    The ratio of the two times is the most that N devices can gain. (*Reasoned*: each still has to
#    do 1/N of the batch.)
# 4. **With batch norm, keep 16 images or more on each GPU.** (*Cited*: enough in the full trainings
#    of Wu and He.) Try your own size first on one device, with gradient accumulation.

# %% tags=["fold"]
say(
    "<details><summary>The trick's card (<i>slot</i>: where in the loop the trick acts; "
    "<i>single</i>: no other trick can act there; <i>meets</i>: what it interacts with)</summary>"
    f"\n\n{distributed.__doc__}\n\n</details>"
)

# %% [markdown]
# ## Questions
#
# **1. A step takes one GPU 100 ms with 128 images, and 60 ms with 32. How much can four GPUs gain
# if they share the 128 images?**
#
# <details><summary>Answer</summary>
#
# They are at most 100 / 60, about 1.7 times as fast, and less because of the averaging.
#
# </details>
#
# **2. With four GPUs that keep 128 images each, you train for as many epochs as with one GPU, and
# with its learning rate. Why may the network be worse?**
#
# <details><summary>Answer</summary>
#
# It has taken only a quarter of the steps. A larger batch needs another learning rate (chapter 2).
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
# Not necessarily: batch norm sees only a quarter of the batch. Check whether two seeds on one GPU
# differ as much.
#
# </details>
#
# **5. What must be the same on every process, and what must not?**
#
# <details><summary>Answer</summary>
#
# The same: the initial weights, the order of the images, and the learning rate. Different: the
# shard, and with it the random numbers for dropout and augmentation.
#
# </details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. A wrong answer gets a hint.
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
