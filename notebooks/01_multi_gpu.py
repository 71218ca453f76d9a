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
# If you have two GPUs, each can take half of every batch. They average their gradients, and then both make
# the same step. One GPU with the whole batch would make the same step, too, unless the network has *batch
# norm*, a layer that looks at all images of a batch at once.
#
# We check this with a few numbers and with a real network. Then we find out when a second device saves time.
#
# **We have not measured this on several GPUs.** The numbers stored here come from two CPU cores, and each
# core plays the part of a GPU. Below, a *device* is whatever one process computes with: a GPU or, without GPUs, an
# equal part of the cores. On your machine:
#
# - **Several GPUs** (Kaggle's free "GPU T4 x2" has two): all times change, and the network and images are
#   larger. What we show about gradients and bytes still holds. Run the notebook to see your own numbers.
# - **One GPU**, as in Colab, **or only a CPU:** one process could use all of it, so do not expect a gain.
#
# About 35 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/01_multi_gpu.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/01_multi_gpu.ipynb).
# The first cell installs the course if it is missing.

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
# Here is the idea: two devices share one batch.

# %% tags=["fold"]
import matplotlib.pyplot as plt

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
# So two devices are never quite twice as fast: they must average their gradients, and each must still update all
# weights.
#
# We load the data and the network, choose how much to compute (the *budget*), and count the devices:

# %%
import torch

from fasttricks import BASELINE, Distributed, choose_budget, load
from fasttricks.course import say
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

# %%
if gpus > 1:
    what = f"This machine has {gpus} GPUs. Each of them is a device."
elif not enough:
    what = (
        f"This machine has one {'GPU' if gpus else 'core'}. Below, {devices} processes share it, so do not "
        f"expect a gain. We still call them {devices} devices."
    )
else:
    what = (
        f"This machine has no GPU. We divide its {cores} cores into {devices} equal parts. Each part "
        f"({'one core' if part == 1 else f'{part} cores'}) is a device."
    )
say(
    f"The data are Fashion-MNIST: {len(data.train):,} training images of {len(data.classes)} kinds of "
    f"clothing. The network is `{budget.model}` with {size // 4:,} weights. {what}"
)

# %% [markdown]
# This chapter makes four comparisons of speed. Each answers a different question:
#
# 1. **Steps:** from what batch size are several devices faster than one?
# 2. **Training:** do several devices train faster than one?
# 3. **Same hardware:** do several processes train faster than one process with all cores (or the only GPU)?
# 4. **Recorded study:** as 3, but how long does it take to reach a target accuracy?
#
# On several GPUs, comparison 2 is the one that counts. On a CPU, it is 4, because one process could have had all of the
# cores. With a single GPU, there is nothing to share with, so the trick cannot gain anything.
#
# ## The problem: one device has a top speed
#
# `measure` starts one process per device, times short series of training steps, and returns medians. There are three
# kinds of series. One device works `alone`. All devices work at the same time but `apart`, each on its own. Or they
# work `together`: each has its own images, and they average their gradients in every step. `measure` also times the
# averaging by itself, for 4 bytes and for the whole gradient.

# %%
from fasttricks.study.limits import measure

batches = [8 * devices**power for power in range(7) if 8 * devices**power <= 512]
speeds = measure(devices, batches, [4, size])  # batches: images on each device
alone, together = speeds.alone, speeds.together  # seconds of a step

# %% [markdown]
# The figure compares one device that has the whole batch with several devices that divide it (comparison 1).
# We say that sharing *pays* from a batch size if steps are at least 5 % faster with this batch and all larger ones.

# %% tags=["fold"]
from fasttricks.course import plot

rates = [batch / alone[batch] for batch in batches]
divided = [batch / together[batch // devices] for batch in batches[1:]]
plot(
    {"one device": (batches, rates), f"{devices} devices": (batches[1:], divided)},
    "images in the whole batch",
    "images per second",
    scale="log",
    marks=True,
)
plt.show()

# %%
gains = {b: alone[b] / together[b // devices] for b in batches[1:]}  # times as fast as one device
small, large = batches[1], batches[-1]
paying = [b for b in gains if min(gains[c] for c in gains if c >= b) >= 1.05]
say(
    f"With {batches[0]} images in a batch, one device processes {rates[0]:,.0f} images per second. Its "
    f"highest speed here is {max(rates):,.0f} images per second, with "
    f"{batches[rates.index(max(rates))]} images in a batch."
)
say(
    f"If {devices} devices share a batch of {small} images, they are {gains[small]:.2f} times as fast as "
    f"one. If they share {large} images, they are {gains[large]:.2f} times as fast. (Perfect would be "
    f"{devices} times.) **Here, sharing a batch "
    + (f"pays from {paying[0]} images on.**" if paying else "does not pay at any of these sizes.**")
)

# %% [markdown]
# Small batches are slow because some work in each step does not depend on the number of images, such as
# starting each layer and updating the weights. Every device must do all of it, so a second device can only shorten the
# time that the images themselves take. Averaging adds to this. Below, we measure how much this is.
#
# This is why people usually let the batch grow with the number of devices. Goyal et al. 2017 ([arXiv
# 1706.02677](https://arxiv.org/abs/1706.02677)) trained ResNet-50 on ImageNet in one hour on 256 GPUs, and
# each GPU *kept* 32 images. Compare the images per second of both ways:

# %%
middle = batches[len(batches) // 2]
kept = devices * alone[middle] / together[middle]
say(
    f"With {middle} images in a batch, one device processes {middle / alone[middle]:,.0f} images per second. "
    f"If {devices} devices *share* {middle} images, they are {gains[middle]:.2f} times as fast. If each of "
    f"them *keeps* {middle} images, together they are {kept:.2f} times as fast."
)
larger = devices * middle
if larger in alone and devices * alone[middle] > 1.05 * alone[larger]:
    say(
        f"(Alone with {larger} images, one device is {devices * alone[middle] / alone[larger]:.2f} times as fast, so a part "
        "of this gain comes from the larger batch.)"
    )

# %% [markdown]
# With a larger batch, one pass over all training images (an *epoch*) has fewer steps. Chapter 2 asks how well
# the network then learns. Here, we want the trick to change nothing but the time, so from here on, devices share the
# batch.
#
# ## By hand: half and half is whole
#
# What must two devices tell each other? Take the smallest possible network, with a single weight, and four
# images of one number each. The loss is the mean of the squares of `weight * x - y`. Here is its slope with
# respect to the weight, on the whole batch and on each half:

# %%
x, y, weight = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 3, 5, 9]), 1.0


def slope(x, y):
    return (2 * (weight * x - y) * x).mean().item()


slope(x, y), slope(x[:2], y[:2]), slope(x[2:], y[2:])

# %% [markdown]
# The halves disagree. But the mean of four numbers is also the mean of the two halves' means. If one device
# has three images and the other has one, we must weight each slope by its number of images:

# %% tags=["nbval-check-output"]
from fasttricks.course import holds

halves = (slope(x[:2], y[:2]) + slope(x[2:], y[2:])) / 2
weighted = 0.75 * slope(x[:3], y[:3]) + 0.25 * slope(x[3:], y[3:])
holds(halves == slope(x, y), "two half-batches average to the whole batch's gradient")
holds(abs(weighted - slope(x, y)) < 1e-6, "so do unequal parts, weighted by their images")

# %% [markdown]
# So each device needs only its own images and the average gradient. If all devices begin with equal weights,
# their weights stay equal. The learning rate does not change, because gradients are averaged, not added.
#
# ### In a real network
#
# We take our network and 256 validation images, and call each half of this batch a *shard*. We compute in double
# precision so that rounding cannot hide anything.

# %%
ready = data.to(torch.device("cuda" if gpus else "cpu"), budget.image_size)
net = net.double().to(ready.val.y.device)
images, kinds = data.normalise(ready.val.x[:512]).double(), ready.val.y[:512]


def gradient(rows):
    net.zero_grad()
    torch.nn.functional.cross_entropy(net(images[rows]), kinds[rows]).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


# %% [markdown]
# `gaps` compares the gradient of that batch with the average of the two shards' gradients and, to have a
# scale, with the gradient of 256 other images. A *gap* is the distance between two such vectors, as a fraction
# of the length of the batch's gradient.


# %%
def gaps():
    whole, other = gradient(slice(0, 256)), gradient(slice(256, 512))
    averaged = (gradient(slice(0, 128)) + gradient(slice(128, 256))) / 2
    return [((found - whole).norm() / whole.norm()).item() for found in (averaged, other)]


# %% [markdown]
# Here, **batch norm** matters. In training, this layer subtracts the mean of *its own* batch and divides by
# the batch's standard deviation, so the images of a batch affect each other. In evaluation, it uses stored
# statistics instead. We compute the gaps both ways.

# %%
net.eval()
stored, _ = gaps()
net.train()
own, scale = gaps()

# %%
say(
    f"With stored statistics, the gap is **{stored:.0e}**, which is mere rounding. With the statistics of "
    f"each shard, it is **{own:.2f}**, in a network that is not trained yet. For comparison, the gap between two "
    f"different batches is {scale:.2f}."
)

# %% tags=["nbval-check-output"]
holds(stored < 1e-9, "without batch statistics, the shards average to the whole gradient")

# %% [markdown]
# The second gap is no bug. The average is the exact gradient of a network whose batch norm looks at fewer
# images at a time (*ghost batch norm*, Hoffer et al. 2017, [arXiv
# 1705.08741](https://arxiv.org/abs/1705.08741)). Below, we test whether that hurts accuracy.
#
# ## Write it
#
# The trick has two parts. The first divides the images. Every process draws the same batch from the same
# seed. Of N processes, process r keeps every N-th image, starting with image r. Here, three processes divide
# ten images:


# %%
def shard(values, rank, processes):
    return values[rank::processes]


[shard(torch.arange(10), rank, 3).tolist() for rank in range(3)]

# %% [markdown]
# The second part averages the gradients. Each of N devices holds its gradient as one long vector, and all
# devices need the average. If all sent theirs to one device, it would be the bottleneck. So in a **ring
# all-reduce**, the devices form a circle, and each sends only to the next. Every vector is cut into N chunks,
# and a device sends *one* chunk per round: device r begins with chunk r and then passes on the chunk that it
# has just received. In the first N - 1 rounds, the receiver *adds* its own numbers to the chunk. In the other
# N - 1 rounds, it *replaces* its own numbers with the finished sums. Dividing these sums by N gives the
# average.


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
# Here are four devices with chunks *a* to *d*. Every number starts as 1, so it later tells how many devices
# have contributed to it. The label on an arrow is the chunk that is sent next. A thick frame marks a finished sum.

# %%
from fasttricks.course import circle

states = list(ring(torch.ones(4, 4)))
circle(states, {0: "start", 1: "after round 1", 3: "after round 3"})
plt.show()

# %% [markdown]
# Follow chunk *a*. Device 0 sends its 1, so device 1 has 2 after round 1. After round 3, device 3 has 4, a
# finished sum, which travels on for three more rounds.
#
# In each of the 2 (N - 1) rounds, a device sends one chunk, 1/N of the gradient. In total, it sends
# 2 (N - 1) / N times the gradient. This is less than twice the gradient, *however many devices there are*.

# %%
travels = {n: 2 * (n - 1) / n * size / 1e6 for n in (2, 256)}
say(
    f"The gradient of our network takes {size / 1e6:.2f} MB. In each step, each of 2 devices sends "
    f"{travels[2]:.2f} MB, and **each of 256 devices sends {travels[256]:.2f} MB**."
)
say(
    f"But each round also has a fixed delay. On this machine, averaging the whole gradient takes "
    f"{1e3 * speeds.all_reduce[size]:.2f} ms, and averaging a single number takes "
    f"{1e3 * speeds.all_reduce[4]:.2f} ms. More devices mean more rounds, and so more of this delay."
)

# %% [markdown]
# **Where does the time in a step go?** Several devices that keep their images compute as much as one does alone. If a
# step still takes longer, there are two possible reasons. The devices *compete* for what they share, such as
# memory. We see this if they work at the same time but apart. The rest is due to *talking*: preparing the message, the
# all-reduce, and waiting for the slowest device.

# %%
import pandas as pd

reducing = 1e3 * speeds.all_reduce[size]
steps = 1e3 * pd.DataFrame({"alone": alone, "apart": speeds.apart, "together": together})
steps["due to competing"] = steps["apart"] - steps["alone"]
steps["due to talking"] = steps["together"] - steps["apart"]
steps.rename_axis("images on each device, and ms").round(1)

# %%
from fasttricks.course import median

competing = median(steps["due to competing"] / steps["alone"])
talking = median(steps["due to talking"])
say(
    f"Single numbers are noisy, so we take medians over all sizes. Compared with *alone*, competing changes the time of a "
    f"step by **{competing:+.0%}**, and talking takes **{talking:.1f} ms** per step. The all-reduce by itself takes {reducing:.1f} ms. "
    + (
        "So **talking costs more than the message**. The rest is probably the preparation of the message and waiting for "
        "the slowest device."
        if talking > 1.5 * reducing
        else "So talking costs about as much as the message itself."
    )
)

# %% [markdown]
# In PyTorch, `DistributedDataParallel`, **DDP** for short, averages the gradients. It leaves the all-reduce
# to a library: gloo on CPUs, and NCCL on GPUs. DDP can hide part of the cost: it sends the last layer's
# gradients while it computes those of earlier layers. (On the CPU of one machine, our package does not, because
# no core is free to send them.)
#
# ## Check it
#
# We check our shards against the package's, and we run a ring of five devices.

# %% tags=["nbval-check-output"]
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
# These lines turn an ordinary PyTorch script into a distributed one (`dist` is `torch.distributed`, and `gpu` says
# whether there are GPUs):
#
# ```python
# device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
# dist.init_process_group("nccl" if gpu else "gloo")  # the processes meet
# rank, processes = dist.get_rank(), dist.get_world_size()
# sampler = DistributedSampler(data, drop_last=True)  # each process gets its own shard
# loader = DataLoader(data, 128 // processes, sampler=sampler, drop_last=True)
# net = net.to(device)
# wrapped = DistributedDataParallel(net, device_ids=[device] if gpu else None)  # copies rank 0's weights to all
# for epoch in range(epochs):
#     sampler.set_epoch(epoch)  # a different order, the same for all processes
#     for x, y in loader:
#         loss = cross_entropy(wrapped(x.to(device)), y.to(device))
#         loss.backward()  # here the gradients are averaged
#         optimizer.step()
#         optimizer.zero_grad()
# if rank == 0:  # all have the same weights, so one saves them
#     torch.save(net.state_dict(), "net.pt")
# ```
#
# **torchrun** starts the processes and tells each process its number, the *rank*:
#
# ```
# torchrun --standalone --nproc-per-node 2 train.py
# ```
#
# Four classic bugs:
#
# 1. **The batch size is per process.** `DataLoader(data, 128)` in four processes makes a batch of 512.
# 2. **`net(x)` instead of `wrapped(x)`.** The gradients are never averaged, and the copies drift apart
#    without an error.
# 3. **`sampler.set_epoch` is missing.** Every epoch then uses the same order.
# 4. **One process skips a step or stops early.** The others wait for it until a timeout.
#
# If the model does not fit on one GPU, use **FSDP** (`torch.distributed.fsdp.fully_shard`), which also divides
# the weights and the optimiser's state.
#
# [`examples/distributed.py`](../examples/distributed.py) is a complete script. Here is how it differs from
# [`examples/plain.py`](../examples/plain.py):
#
# <details><summary>The difference, line by line: remove the - lines and add the + lines</summary>
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
# If you have a `DataLoader`, use the sampler. This script has all images in memory and needs none, because every
# process draws the order and the flips of the whole batch from the same seed. DDP weights all shards equally, so `len(rows) * processes / BATCH` corrects for unequal sizes.
#
# ## Use it
#
# We train with one device and with all of them (comparison 2). On a CPU, we also train with one process
# that uses all cores, because PyTorch can divide its work without any trick (comparison 3).

# %%
from dataclasses import replace

plain = replace(BASELINE, batch=devices * BASELINE.batch)
trick = plain + Distributed(devices, share_devices=not enough)
single, several, whole = "one device", f"{devices} devices", "all cores, no trick"
recipes = {single: (plain, part), several: (trick, part)}  # recipe, cores of each process
if enough and gpus == 0:
    recipes[whole] = (plain, devices * part)

# %% [markdown]
# `BASELINE` is the course's plain training (chapter 0), and `+` adds a trick to it. All runs have the same
# number of steps, whole batch, and learning rate. Devices that share the batch get 128 images each.
# Each run starts new processes, and `OMP_NUM_THREADS` tells them how many cores to use.

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
accuracy_table(runs)

# %% [markdown]
# The seconds leave out the start of the processes. *One device* and *all cores* train on the same batches. If
# their accuracies differ, that is because more cores add numbers in a different order, and rounding errors grow in training.
#
# The figure shows seed 0. The marks on all lines are at the same numbers of images, so the line of a faster
# run lies further to the left.

# %% tags=["fold"]
curves = {}
for name, found in runs.items():
    _, seconds, accuracies = zip(*found[0].curve, strict=True)
    curves[name] = (seconds, accuracies)
plot(curves, "seconds of training", "validation accuracy", marks=True)
plt.show()

# %%
ended = [f"{ran[0].train_seconds:.1f} s ({label})" for label, ran in runs.items()]
say(f"With seed 0, training took {', '.join(ended)}.")

# %% [markdown]
# For a verdict, we compare all pairs of runs with the same seed. The speed-up is the median over the pairs, not a ratio
# of two medians.

# %% tags=["fold"]
from fasttricks.course import faster, gained

clocks = {name: [one.train_seconds for one in found] for name, found in runs.items()}
scores = {name: [one.val_accuracy for one in found] for name, found in runs.items()}
guess = 1 / len(data.classes)  # the accuracy of guessing

# %%
speed = faster(clocks[several], clocks[single])
quick = median(q / p for p, q in zip(clocks[several], clocks[single], strict=True))
effect = "saves time" if quick > 1 else "costs time"
effect = "makes no clear difference to the time" if "not clearly" in speed else effect
say(
    f"Compared with one device that trained on whole batches of {plain.batch} images, {devices} devices that shared them "
    f"were {speed}. So **sharing {effect}**."
)
learned = gained(scores[several], scores[single], guess)
lessons = {
    "lower": "So in these short runs, the smaller shards **cost accuracy**.",
    "higher": "So in these short runs, the smaller shards **did not cost accuracy**.",
    "about the same": "So the gap in the gradient **made no clear difference** in these short runs.",
}
unclear = "So these short runs **do not show** whether the gap in the gradient matters."
say(
    f"After {runs[single][0].images_seen / len(data.train):.2f} epochs, and compared with one device, the accuracy of "
    f"{devices} devices is {learned}. "
    + next((text for word, text in lessons.items() if word in learned), unclear)
)

# %% [markdown]
# On a CPU, one device had only a part of the cores. So we need comparison 3, with one process that has all of
# them. If the pairs disagree about which is faster, we say *not clearly faster or slower*.

# %%
rival = whole if whole in runs else single
shared = faster(clocks[several], clocks[rival])
each = sorted(q / p for p, q in zip(clocks[several], clocks[rival], strict=True))
times = median(q / p for p, q in zip(clocks[several], clocks[rival], strict=True))
worth = "the trick still pays" if times > 1 else "the trick costs time"
worth = "the trick makes no clear difference" if "not clearly" in shared else worth
alike, owner = ("on this CPU", "all cores") if rival == whole else ("on this device", "the device")
say(
    "Here, each process had a GPU of its own, so there is no such single process."
    if gpus > 1
    else f"Compared with one process that has {owner} to itself, {devices} processes trained {shared}. "
    f"(The individual pairs: {', '.join(f'{ratio:.2f}' for ratio in each)}.) **So {alike}, {worth} in these runs.**"
)

# %% [markdown]
# Finally, we check that the comparison was fair:

# %% tags=["nbval-check-output"]
worked = {(one.steps, one.images_seen) for found in runs.values() for one in found}
holds(len(worked) == 1, "the same number of steps and images in every run")
holds({one.processes for one in runs[several]} == {devices}, "and a process for each device")

# %% [markdown]
# ## Break it: too few images for batch norm
#
# How small may a shard be? One process can take the shards one after another, add up their gradients, and then
# make the step that many devices would make. This **gradient accumulation** saves memory but no time. `accumulate=64` cuts
# a batch of 128 images into 64 shards of 2.

# %%
from fasttricks.course import train_arms

per_shard = {BASELINE.batch // count: count for count in (1, 8, 64)}
cut = {
    f"{count} images in a shard": BASELINE + Distributed(1, accumulate=parts)
    for count, parts in per_shard.items()
}
tiny = train_arms(cut, data, images=min(budget.images // 8, 3_200), evaluations=1)

# %% [markdown]
# Batch norm updates its stored statistics in every forward pass, and with 64 shards, one step makes 64 passes. For a
# fair comparison, we recompute the statistics of all networks from the same 2,000 training images.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.loop import accuracy


def fair_accuracy(run):
    update_bn((data.normalise(some) for some in ready.train.x[:2000].split(500)), run.net)
    return accuracy(run.net, ready, ready.val, run.recipe)


# %% [markdown]
# Here is the accuracy with these statistics:

# %% tags=["fold"]
fair = {
    count: [fair_accuracy(run) for run in found]
    for count, found in zip(per_shard, tiny.values(), strict=True)
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

# %%
undivided, sixteen, two = fair.values()
more, few = gained(sixteen, undivided, guess), gained(two, undivided, guess)
first = next(iter(tiny.values()))[0]
say(
    f"Compared with undivided batches, the accuracy after {first.steps} steps is **{few}** with 2 images in "
    f"a shard, and {more} with 16."
)
say(
    "So in the first steps of training, **2 images in a shard are too few for batch norm"
    + (", and even 16 cost accuracy.**" if "lower" in more else ".**")
    if "lower" in few
    else "So these steps do not show how many images in a shard are too few."
)

# %% [markdown]
# Differences in the first steps need not last. We did not train to the end, but Wu and He 2018 did ([arXiv
# 1803.08494](https://arxiv.org/abs/1803.08494)): ResNet-50 on ImageNet had an error of 23.6 % with 32 images
# per GPU, 23.7 % with 16, 24.8 % with 8, and 34.7 % with 2. (The whole batch shrank, too.)
#
# There are two fixes. If you call `torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)` before DDP wraps the
# network, batch norm computes its statistics over all devices. It works only on GPUs, and costs more messages. Or use a norm
# that looks at one image at a time, such as group norm.
#
# ## What we have found
#
# Here is what our recorded study found (comparison 4), followed by the trick's *card*, a short summary. On a
# CPU, the study's plain training already uses all cores, so the trick adds no device there. Without other
# tricks, its shards are half as large as in *Use it*. (A *95 % interval* should contain the true ratio in about
# 95 of 100 such studies. The *slot* is where in the training loop a trick acts, *single* means that no other
# trick can act there, and *meets* names what it interacts with.)

# %%
from IPython.display import Markdown

from fasttricks.course import compared, headline, published

say(headline("distributed"))
Markdown(distributed.__doc__)

# %% [markdown]
# These are our answers to the four questions:

# %% tags=["fold"]
study = next((one for one in published() if one.study == "cpu"), None)
answers = [
    (
        "1. steps",
        f"{devices} devices, one device",
        f"pays from {paying[0]} images on" if paying else "does not pay",
    ),
    ("2. training", f"{devices} devices, one device", speed),
]
if gpus < 2:
    answers.append(("3. same hardware", f"{devices} processes, one with all of it", shared))
if study:
    (row,) = study.of("plain + distributed")
    answers.append(("4. recorded study", "2 processes, one with all of 2 cores", compared(row)))
pd.DataFrame(answers, columns=["comparison", "of", "result"]).set_index("comparison")

# %% [markdown]
# On a CPU, believe the recorded study: both sides have all cores, and it has more seeds than comparison 3. With several
# GPUs, neither 3 nor 4 applies. Then comparison 2 counts, because each device is a whole GPU, and comparison 1 helps you
# choose the batch. We have not recorded a study with several GPUs.
#
# Did the card's claims hold in this run?

# %%
seen_here = "yes" if gains[large] >= 1.05 else "not seen here"
say(
    f"- **The same gradient:** yes, to within {stored:.0e}, without batch statistics. With them, the gap was "
    f"{own:.2f}."
)
say(
    f"- **It pays when computation takes much longer than communication:** {seen_here}. A larger shard takes "
    f"longer to compute, but its gradient has the same size. With {small} images in the batch, {devices} "
    f"devices were {gains[small]:.2f} times as fast as one, and with {large}, {gains[large]:.2f} times."
)

# %%
failed = (
    "yes"
    if gains[small] <= 0.95
    else "not here"
    if gains[small] >= 1.05
    else "it made no clear difference"
)
say(
    f"- **It fails when the shard is small:** {failed}, with {small // devices} images on each device. "
    f"Compared with undivided batches, the accuracy with 2 images in a shard was {few}. We did not try a "
    f"smaller network."
)
say(
    "- **It fails when the processes share one device:** not tried, because each had a GPU of its own."
    if gpus > 1
    else f"- **It fails when the processes share one device:** if we count {owner} as one device, {worth} in these runs. "
    f"{devices} processes trained {shared}, compared with one process that has {owner} to itself."
)

# %% [markdown]
# On your GPUs, four rules help you decide:
#
# 1. **Fill one device first.** Raise its batch until images per second no longer rise.
# 2. **Then add devices, and let each keep that batch.** See chapter 2 for the learning rate.
# 3. **If the whole batch must stay the same, time one device with all of it and with 1/N of it.** The ratio
#    of the two times is the most that N devices can gain. Competing and talking reduce it.
# 4. **With batch norm, do not let shards get small.** In Wu and He's experiments, the error hardly rose down
#    to 16 images per GPU. First try smaller shards on one device, with gradient accumulation.

# %% [markdown]
# We can test rule 3 on our own measurements:

# %%
most = {n: alone[n] / alone[n // devices] for n in (small, large)}
say(
    "\n".join(
        f"- **{n} images in the whole batch.** By rule 3, {devices} devices gain at most {most[n]:.2f} times. Measured: "
        f"**{gains[n]:.2f}**."
        for n in most
    )
)
say(
    "So the rule held, as an upper limit."
    if all(gains[n] < 1.05 * most[n] for n in most)
    else "So here, the rule did not hold: clocks on this machine are not steady enough for it."
)

# %% [markdown]
# ## Questions
#
# **1. Must I change the learning rate when I go from one GPU to four?**
#
# <details><summary>Answer</summary>Not if the whole batch stays the same. If it grows, chapter 2 tells you
# what to do.</details>
#
# **2. Why do the bytes that a device sends in a ring hardly depend on the number of devices?**
#
# <details><summary>Answer</summary>More devices mean more rounds but smaller chunks. In total, each device
# sends less than twice the gradient.</details>
#
# **3. Each process shuffles with its own seed. What goes wrong?**
#
# <details><summary>Answer</summary>The shards overlap: some images are seen twice in an epoch, and others are
# never seen.</details>
#
# **4. Your accuracy with four GPUs differs in the third digit from that with one. Is this a bug?**
#
# <details><summary>Answer</summary>Not necessarily. Batch norm sees only a quarter of the batch, and sums
# are rounded differently. Check whether two seeds on one GPU differ as much.</details>
#
# **5. What must be the same on every process, and what must not?**
#
# <details><summary>Answer</summary>The same: the initial weights, the order of the images, and the learning
# rate. Different: the shard.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** How many bytes does each process send in one ring all-reduce of the fp32 gradient (4 bytes
# per number) of a network with the given number of parameters?


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
# **Exercise 2.** Shard in contiguous blocks instead: the first process gets the first rows, and so on. No
# row may be lost or duplicated, and block sizes may differ by at most one, with the longer blocks first.


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
# **Exercise 3.** The last batch of an epoch rarely divides evenly. Given the mean gradient of each shard,
# one per row, and the number of images in each shard, return the mean gradient of the whole batch.


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
# - Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", Journal
#   of Parallel and Distributed Computing 69: the ring.
