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
# One device takes a batch, computes, and steps. Two devices could each take half of it. This chapter
# shows why the two halves add up to the step of the whole batch (exactly, in a network without batch
# statistics), what adding them costs, and at what size the cost is worth it.
#
# Large training runs rely on this trick. Goyal et al. 2017
# ([arXiv 1706.02677](https://arxiv.org/abs/1706.02677)) used it to train ResNet-50 on ImageNet **in one
# hour on 256 GPUs**, with a batch of 8,192. They report about 90 % scaling efficiency from 8 to 256 GPUs.
# That is their result: **we have not measured this trick on several GPUs**.
#
# A *device* is a GPU. Without one, an equal part of the cores stands in for it. The numbers stored here, and
# those of our recorded study, come from two CPU cores. If you have several GPUs, run the notebook, and its
# sentences will describe yours. Kaggle's "GPU T4 x2" gives you two for free.
#
# About 20 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/01_multi_gpu.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/01_multi_gpu.ipynb).
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
# Here is the idea: two devices share one batch.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import timeline

half = [("compute", 0, 4), ("average the gradients", 4, 5), ("step", 5, 5.6)]
timeline(
    {
        "one device": [("compute", 0, 8), ("step", 8, 8.6)],
        "first of two": half,
        "second of two": half,
    },
    "one training step, with the same batch",
)
plt.show()

# %% [markdown]
# Each of the two computes for half as long, because it has half of the images. But they have to average
# their gradients, which a single device need not do. The trick pays if the computing that you save takes
# longer than the averaging that you add.
#
# The budget depends on the device. We also count the devices. If there is only one GPU, two processes
# share it below, which is correct but slower.

# %%
from fasttricks import BASELINE, Distributed, choose_budget, load, train
from fasttricks.course import train_arms

budget = choose_budget()
data = load()
here = data.to(BASELINE.world.device(), budget.image_size)
devices = max(2, Distributed().count())
budget, devices

# %% [markdown]
# First, here is what our recorded study found about this trick. A ratio above 1 means that the second of
# the two times is the shorter. Below it is the trick's card, straight from the top of its file. There,
# *slot* is the part of our recipe that the trick fills (`single`: only one trick can), and *meets* names
# what it interacts with.

# %%
from IPython.display import Markdown

from fasttricks.course import headline, say
from fasttricks.tricks import distributed

say(headline("distributed"))
Markdown(distributed.__doc__)

# %% [markdown]
# In the study on two cores, plain training already had both cores. The two processes had one each, so no
# device was added, only messages. To see a second device at work, we must compare with *one* device, which
# is one core there.
#
# ## The problem: a saturated device
#
# In new processes, we time one training step at several batch sizes. The cores are divided into equal
# parts, one for each process. First, one process computes and the others wait (`alone`). Then all
# compute and average their gradients (`crowd`). We alternate the two measurements because a machine's
# speed drifts. We also time by itself one averaging of as many bytes as our gradient has (`reduce`).

# %%
from fasttricks.models import begin
from fasttricks.study.limits import measure

network = begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)
parameters = sum(parameter.numel() for parameter in network.parameters())
size = 4 * parameters  # bytes of the gradient in fp32
batches = [4 * devices**power for power in range(8) if 4 * devices**power <= 512]
speeds = measure(devices, batches, [size])
alone, crowd, reduce = speeds.alone, speeds.together, speeds.all_reduce[size]

# %% [markdown]
# Here are the images per second of one device, and of all of them, each with an equal part of the batch:

# %%
from fasttricks.course import accuracy_table, faster, gained, holds, plot

rates = [batch / alone[batch] for batch in batches]
divided = [batch / crowd[batch // devices] for batch in batches[1:]]
plot(
    {"one device": (batches, rates), f"{devices} devices": (batches[1:], divided)},
    "images in the whole batch",
    "images per second",
    scale="log",
    marks=True,
)
plt.show()

# %%
fastest = max(rates)
doubling = rates[-1] / rates[-2]
say(
    f"With {batches[0]} images in a batch, one device processes {rates[0]:,.0f} images per second. It is "
    f"fastest with {batches[rates.index(fastest)]}: **{fastest:,.0f} images per second**. The last "
    f"increase, from {batches[-2]} to {batches[-1]} images, changed that by a factor of {doubling:.2f}, "
    f"so at this size it is **{'saturated' if doubling < 1.1 else 'not saturated yet'}**."
)

# %% [markdown]
# Every step has a part that does not depend on the images, such as starting each layer and updating the
# weights. Larger batches spread it over more images, until the device is saturated. From there on, larger
# batches bring nothing, but another device may. Does it, here?

# %%
from itertools import takewhile

gains = [two / one for one, two in zip(rates[1:], divided, strict=True)]
falling = zip(batches[:0:-1], gains[::-1], strict=True)  # from the largest batch down
tail = list(takewhile(lambda pair: pair[1] > 1.1, falling))
say(
    f"{devices} devices that divide a batch of {batches[1]} images are **{gains[0]:.2f} times as fast** as "
    f"one of them. If they divide {batches[-1]} images, they are **{gains[-1]:.2f} times as fast** "
    f"(perfect would be {devices}). "
    + (
        f"With a margin of 10 % for drift, the trick pays here from a batch of {tail[-1][0]} on."
        if tail
        else "With a margin of 10 % for drift, the trick does not pay even with the largest batch."
    )
)

# %% [markdown]
# ## By hand: half and half is whole
#
# What must two devices tell each other? Take the smallest possible network, a single weight, and four
# images of one number each. The loss is the mean of the squares of `weight * x - y`. Here is its slope
# with respect to the weight, on the whole batch and on each half:

# %%
import torch

x, y, weight = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 3, 5, 9]), 1.0


def slope(x, y):
    return (2 * (weight * x - y) * x).mean().item()


slope(x, y), slope(x[:2], y[:2]), slope(x[2:], y[2:])

# %% [markdown]
# The halves disagree because they saw different images. But the mean of four numbers is also the mean of
# the two halves' means.

# %% tags=["nbval-check-output"]
halves = (slope(x[:2], y[:2]) + slope(x[2:], y[2:])) / 2
holds(halves == slope(x, y), "two half-batches average to the whole batch's gradient")

# %% [markdown]
# So each device needs only its own images, and it gets back one number: the average gradient. Both
# devices then take the same step, so their copies of the weights always stay equal. The learning rate
# stays the same because the gradients are averaged, not added, and the *global* batch, which is the sum
# of all parts, does not change.
#
# This needs equal parts. If one device has three images and the other has one, the plain mean counts the
# single image three times as much as each of the others. Each part then has to be weighted by its images.

# %% tags=["nbval-check-output"]
three, single = slope(x[:3], y[:3]), slope(x[3:], y[3:])
holds((three + single) / 2 != slope(x, y), "the plain mean of unequal parts is wrong")
holds(abs(0.75 * three + 0.25 * single - slope(x, y)) < 1e-6, "weighted by images, it is right")

# %% [markdown]
# ### In a real network
#
# Do the halves match the whole in a real network, too? We collect all the gradients in one long row, in
# double precision so that rounding cannot hide anything.

# %%
torch.manual_seed(0)
net = (
    begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)
    .double()
    .to(here.val.y.device)
)


def batch_of_64(first):
    x, y = here.val.x[first : first + 64], here.val.y[first : first + 64]
    return data.normalise(x).double(), torch.nn.functional.one_hot(y, len(data.classes)).double()


# %% [markdown]
# A **shard** is one process's part of the batch. `gap` measures how far the shards' average is from the
# whole batch's gradient, as a fraction of the length of that gradient.


# %%
def gradient(x, q):
    net.zero_grad()
    torch.nn.functional.cross_entropy(net(x), q).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


def gap(shards):
    images, targets = batch_of_64(0)
    parts = zip(images.chunk(shards), targets.chunk(shards), strict=True)
    mean = sum(gradient(x, q) for x, q in parts) / shards
    whole = gradient(images, targets)
    return ((mean - whole).norm() / whole.norm()).item()


# %% [markdown]
# Batch norm is the one layer in which images affect each other: in training, it subtracts the mean of
# *its own* batch. We compute the gap with this switched off, then on.

# %%
net.eval()
stored = gap(2)
net.train()
own = gap(2)
say(
    f"With batch norm's stored statistics, the average of two shards differs from the whole batch's "
    f"gradient by **{stored:.0e}**, relative to its norm, which is rounding. With the statistics of each "
    f"shard, it differs by **{own:.2f}**."
)

# %% tags=["nbval-check-output"]
holds(
    stored < 1e-9,
    "without batch statistics, the halves average to the whole gradient, up to rounding",
)
holds(own > 1e-3, "with batch statistics, each shard sees its own mean")

# %% [markdown]
# Is that much? For comparison, we take eight other batches of 64 images and measure how far their gradients
# are from the first batch's.

# %%
whole = gradient(*batch_of_64(0))
others = [gradient(*batch_of_64(64 * number)) for number in range(1, 9)]
distances = [((other - whole).norm() / whole.norm()).item() for other in others]
chance = sum(distances) / len(distances)

shards = [2, 4, 8, 16, 32]
gaps = {64 // count: gap(count) for count in shards}
plot(
    {"batch norm": (list(gaps), list(gaps.values()))},
    "images in a shard (64 in all)",
    "relative gap to the whole gradient",
    "grey: the gap to another random batch",
    scale="log",
    marks=True,
    yscale="log",
)
plt.axhline(chance, color="grey")
plt.show()

# %%
say(
    f"The gap to another random batch is {chance:.2f} on average ({min(distances):.2f} to "
    f"{max(distances):.2f}). The gap of two shards, {own:.2f}, is **{own / chance:.1f} times as large**, "
    f"and the gap with 2 images in a shard **{gaps[2] / chance:.1f} times**. This is one batch and one "
    f"untrained network."
)

# %% [markdown]
# This is no bug. The average is the exact gradient of a slightly different network, one whose batch norm
# looks at fewer images at a time. (Some people want this, and call it *ghost batch norm*: Hoffer et al. 2017, [arXiv 1705.08741](https://arxiv.org/abs/1705.08741).) With very few images per
# shard, the statistics are too noisy. Wu and He 2018
# ([arXiv 1803.08494](https://arxiv.org/abs/1803.08494)) report for ResNet-50 on ImageNet an error of
# 23.6 % with 32 images per GPU, 23.7 % with 16, 24.8 % with 8, and 34.7 % with 2.
#
# One cure is `net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)`, on GPUs only: it computes the
# statistics over all devices, at the cost of two more messages per layer. Another is a norm that looks at
# one image at a time.
#
# One more thing is not averaged: batch norm's *running* statistics, which are used in evaluation.
# PyTorch's wrapper copies those of the first process to all the others before each forward pass.
#
# ### The same sum on one device
#
# A single device can also take the shards one after another, add up the gradients, and step once. This is **gradient accumulation**. It saves no time, but it gives you a
# batch that does not fit into memory. In PyTorch, `backward` adds to `.grad` anyway, so you only need to
# weight each loss and to step later:


# %%
def accumulated(shards):
    images, targets = batch_of_64(0)
    net.zero_grad()
    for x, q in zip(images.chunk(shards), targets.chunk(shards), strict=True):
        loss = torch.nn.functional.cross_entropy(net(x), q)
        (loss * len(x) / len(images)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


# %% tags=["nbval-check-output"]
net.eval()
same = torch.allclose(accumulated(4), gradient(*batch_of_64(0)), rtol=1e-6, atol=1e-9)
holds(same, "four shards one after another give the gradient of the whole batch")

# %% [markdown]
# ## Write it
#
# The trick has two parts. First, which process takes which images? Every process draws the same batch
# from the same seed and keeps every N-th image.


# %%
def shard(values, rank, processes):
    return values[rank::processes]


[shard(torch.arange(10), rank, 3).tolist() for rank in range(3)]

# %% [markdown]
# Second, each of N devices holds one long row: how do they average these rows? Sending them all to one
# device would make that device the bottleneck. In a **ring all-reduce**, the devices form a circle, and
# each sends only to the next. Every row is cut into N chunks, and each device sends *one* chunk per
# round: device r begins with chunk r and then passes on the chunk it has just received. For N - 1 rounds,
# the receiver *adds* its own numbers. For N - 1 more, it *replaces* them with the finished sums. Dividing
# these sums by N gives the average.


# %%
def ring(held):  # held[rank, chunk]
    n = len(held)
    for step in range(2 * (n - 1)):
        yield held
        new = held.clone()
        for rank in range(n):
            chunk, right = (rank - step) % n, (rank + 1) % n
            own = held[right, chunk] if step < n - 1 else 0
            new[right, chunk] = held[rank, chunk] + own
        held = new
    yield held


# %% [markdown]
# Let every number be 1. The value of a chunk then shows how many devices have contributed to it. We draw
# the four chunks as *a* to *d*. An arrow names the chunk that a device sends next; finished sums have a
# thick frame.

# %%
from fasttricks.course import circle

states = list(ring(torch.ones(4, 4)))
circle(states, {0: "start", 1: "after round 1", 3: "after round 3"})
plt.show()

# %% [markdown]
# Follow chunk *a*. Device 0 sends its 1, so device 1 has 2 after the first round. It sends these on, so
# device 2 has 3 after the second round, and device 3 has 4 after the third: a finished sum. The other
# chunks do the same, each starting at another device. Every device now has one finished chunk, and three
# more rounds carry the finished chunks around the ring. All rounds as numbers, a row for each device:

# %%
from fasttricks.course import tally

titles = ["start"] + [f"round {number}" for number in range(1, len(states))]
tally(states, titles, "chunk", "device", "abcd")
plt.show()

# %% [markdown]
# Now count the bytes. In each of the 2 (N - 1) rounds, a device sends one chunk, an N-th of the gradient.
# In total, it sends 2 (N - 1) / N times the gradient's bytes: less than twice, *however many devices
# there are*.

# %%
sent = {n: 2 * (n - 1) / n * size / 1e6 for n in (2, 8, 256)}
say(
    f"The gradient of our network is {size / 1e6:.2f} MB. Each of 2 devices sends {sent[2]:.2f} MB per "
    f"step, each of 8 devices {sent[8]:.2f} MB, and **each of 256 devices {sent[256]:.2f} MB**."
)

# %% [markdown]
# `DistributedDataParallel`, PyTorch's wrapper, called **DDP** for short, even hides part of that cost.
# The backward pass finishes the last layer's gradients first. DDP collects finished gradients in
# **buckets** (by default, 1 MiB for the first and 25 MiB for the others) and sends each full bucket while
# earlier layers are still being computed.

# %%
compute = [("forward", 0, 3), ("backward", 3, 9)]
timeline(
    {
        "at the end: compute": compute,
        "at the end: send": [("send", 9, 12)],
        "in buckets: compute": compute,
        "in buckets: send": [("send", 5, 6), ("send", 7, 8), ("send", 9, 10)],
    },
    "the same step, sent at the end and in three buckets",
)
plt.show()

# %% [markdown]
# Only the last bucket delays the step. A small network's gradient fits into one or two buckets, so little
# overlaps.
#
# ## Check it
#
# Our shards match the package's, and no image is lost or counted twice.

# %% tags=["nbval-check-output"]
rows = torch.arange(101)
parts = [distributed.shard(rows, rank, 4) for rank in range(4)]
same = all(torch.equal(part, shard(rows, rank, 4)) for rank, part in enumerate(parts))
holds(same, "our function matches the package's")
holds(torch.equal(torch.cat(parts).sort().values, rows), "every row is in exactly one shard")

# %% [markdown]
# PyTorch's own `DistributedSampler` makes all shards the same length by
# showing some images twice. That is harmless for training, but wrong for measuring accuracy.

# %% tags=["nbval-check-output"]
from torch.utils.data import DistributedSampler

samplers = [DistributedSampler(rows, 4, rank, shuffle=False) for rank in range(4)]
counted = sum(len(list(sampler)) for sampler in samplers)
holds(counted == 104, "DistributedSampler counts 104 of 101 images")

# %% [markdown]
# We check the ring too, with five devices and different numbers:

# %% tags=["nbval-check-output"]
numbers = torch.arange(25.0).view(5, 5)
*_, last = ring(numbers)
holds(all(torch.equal(row, numbers.sum(0)) for row in last), "every device ends with every sum")

# %% [markdown]
# ## In your own loop
#
# You do not need this package. Here is a whole script, `train_ddp.py`, in ordinary PyTorch:
#
# ```python
# import os
#
# import timm
# import torch
# import torch.distributed as dist
# from torch.nn.parallel import DistributedDataParallel
# from torch.utils.data import DataLoader, DistributedSampler
# from torchvision import datasets, transforms
#
# gpu, local = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
# device = torch.device("cuda", local) if gpu else torch.device("cpu")
# dist.init_process_group("nccl" if gpu else "gloo", device_id=device if gpu else None)
# rank, processes = dist.get_rank(), dist.get_world_size()
# torch.manual_seed(0)
# if local == 0:  # one process on each machine downloads, and the others wait
#     datasets.FashionMNIST("downloads", download=True)
# dist.barrier()
# data = datasets.FashionMNIST("downloads", transform=transforms.ToTensor())
# sampler = DistributedSampler(data, drop_last=True)  # each process gets its own part
# loader = DataLoader(data, 128 // processes, sampler=sampler, drop_last=True)
# net = timm.create_model("test_resnet", in_chans=1, num_classes=10).to(device)
# wrapped = DistributedDataParallel(net, device_ids=[local] if gpu else None)
# torch.manual_seed(rank)  # from here on, each process draws its own augmentation and dropout
# optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-3)
# for epoch in range(2):
#     sampler.set_epoch(epoch)  # another order, the same for all processes
#     for x, y in loader:
#         loss = torch.nn.functional.cross_entropy(wrapped(x.to(device)), y.to(device))
#         loss.backward()  # here the gradients are averaged
#         optimizer.step()
#         optimizer.zero_grad()
# if rank == 0:  # all have the same weights: one evaluates and saves them
#     test = datasets.FashionMNIST("downloads", train=False, transform=transforms.ToTensor())
#     with torch.inference_mode():  # all test images, without a sampler
#         right = [net.eval()(x.to(device)).argmax(1).cpu() == y for x, y in DataLoader(test, 500)]
#     print(f"test accuracy {torch.cat(right).float().mean():.4f}")
#     torch.save(net.state_dict(), "net.pt")
# dist.destroy_process_group()
# ```
#
# You do not start it with `python`, but with **torchrun**, PyTorch's launcher, which starts the processes
# and tells each its number, the *rank*:
#
# ```
# torchrun --standalone --nproc-per-node 2 train_ddp.py
# ```
#
# On two machines with eight GPUs each, you run `torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d
# --rdzv-endpoint FIRST_MACHINE:29500 train_ddp.py` on both.
#
# Five classic bugs:
#
# 1. **`sampler.set_epoch` is missing.** Every epoch then has the same order. No error appears.
# 2. **The batch size is per process.** `DataLoader(data, 128)` in four processes is a global batch of
#    512, whose learning rate is too low (chapter 2).
# 3. **`net(x)` instead of `wrapped(x)`.** The gradients are never averaged, and the copies drift apart
#    without an error.
# 4. **Every process saves, downloads, or logs.** They overwrite one file. Let rank 0 do it, and make the
#    others wait with `dist.barrier()` where they need the result.
# 5. **One process does something that the others do not:** it skips a step, has one batch more, or stops
#    early. The others wait for its gradients until a timeout, ten minutes with GPUs. This also happens if
#    only rank 0 calls a function in which all must take part, such as `dist.all_reduce`.
#
# Four neighbours of DDP:
#
# - With gradient accumulation, wrap all but the last shard in `with wrapped.no_sync():`. Otherwise, the
#   devices exchange messages after every shard.
# - Convert to `SyncBatchNorm` (above) before you wrap.
# - Do not use `torch.nn.DataParallel`: one process copies the network to all GPUs in every step.
# - **FSDP** (`torch.distributed.fsdp.fully_shard`) also divides the weights and the optimizer's state. Use
#   it if the model does not fit into one GPU.
#
# Our own script keeps all images in memory instead of using a `DataLoader`. To turn it into one for
# several devices, remove the `-` lines below and add the `+` lines.
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
# The complete script is [`examples/distributed.py`](../examples/distributed.py), and you start it with
# `torchrun --standalone --nproc-per-node 2 distributed.py`. Every process draws the same order and keeps
# its share of each batch. That is why all of its processes keep the same seed. The loss is weighted by the
# share's size, in case the batch does not divide evenly.
#
# ## Use it
#
# Now we use real processes. `train` starts them with torchrun, each on its own device. torchrun starts
# fresh processes, so it does not matter that this notebook has already used the device. The global batch
# is the same, and so is the seed. On a CPU, the one process now uses *all* the cores, unlike in the first
# figures, and the others divide them.

# %%
together = Distributed(devices, share_devices=True)
recipes = {"one process": BASELINE, f"{devices} processes": BASELINE + together}
arms = train_arms(recipes, data, images=budget.images // 2, seeds=min(2, budget.seeds))
accuracy_table(arms)

# %% [markdown]
# The table's seconds are medians. The next sentence averages the ratios of pairs that share a seed.

# %%
one, many = arms.values()
scores = [[run.val_accuracy for run in runs] for runs in (many, one)]
clocks = [[run.train_seconds for run in runs] for runs in (many, one)]
guess = 1 / len(data.classes)
say(
    f"Compared with one process, the accuracy of {devices} processes after "
    f"{one[0].images_seen / len(data.train):.2f} epochs is **{gained(*scores, guess)}**. Training was "
    f"**{faster(*clocks)}**."
)

# %% [markdown]
# The trick is about time; it must not change what is learned. How did the two get there? As a control, we
# also plot a second single-process seed.

# %%
drawn = {"one process": one[0], f"{devices} processes": many[0]}
if len(one) > 1:
    drawn["one process, next seed"] = one[1]
curves = {
    name: ([point[0] for point in run.curve], [point[2] for point in run.curve])
    for name, run in drawn.items()
}
plot(curves, "images seen", "validation accuracy", marks=True)
plt.show()

# %%
ends = [curve[1][-1] for curve in curves.values()]
apart = [100 * abs(ends[0] - other) for other in ends[1:]]
say(
    f"At the last mark, one process and {devices} processes with the same seed are **{apart[0]:.1f} "
    f"points** apart. "
    + (
        f"Two seeds of one process are **{apart[1]:.1f} points** apart."
        if len(one) > 1
        else "There is only one seed here to compare that with."
    )
)

# %% [markdown]
# The gap at one step of an untrained network cannot tell how far two runs end up from each other. Only
# training can. (We compare the last marks because early on, the running statistics lag behind the
# weights.)

# %% tags=["nbval-check-output"]
alike = all(
    (a.steps, a.images_seen) == (b.steps, b.images_seen) for a, b in zip(one, many, strict=True)
)
holds(alike, "the same number of steps and images for any number of processes")
holds({run.processes for run in many} == {devices}, "and there were as many processes as asked for")

# %% [markdown]
# ## Break it: too few images for batch norm
#
# How few images may a shard have? To find out, we need no cluster. One process can play all the devices:
# with `accumulate=64`, it cuts each batch of 128 into 64 shards of 2 images, as 64 devices would, and
# computes them one after another.

# %%
tiny = {}
for count in (1, 16, 64):
    images = BASELINE.batch // count
    recipe, few = BASELINE + Distributed(1, accumulate=count), min(budget.images // 8, 3_200)
    tiny[images] = train(recipe, data, images=few, evaluations=1, label=f"{images} in a shard")

# %% [markdown]
# Do not compare the accuracies printed above. Running statistics move by a tenth in every forward pass, and
# with 64 shards, a step has 64 of these. So they lag behind the weights least where the shards are
# smallest. For a fair comparison, we compute them anew for all three, from 2,000 training images.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.loop import accuracy

found = {}
for images, run in tiny.items():
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), run.net)
    found[images] = accuracy(run.net, here, here.val, run.recipe)
plot(
    {"": (list(found), list(found.values()))},
    "images in a shard (128 in a batch)",
    "validation accuracy",
    "one seed each",
    scale="log",
    marks=True,
)
plt.show()

# %%
say(
    f"After {tiny[2].images_seen:,} images ({tiny[2].images_seen / len(data.train):.2f} epochs), the "
    f"accuracy with undivided batches is {found[128]:.3f}. Compared with that, accuracy is "
    f"{gained([found[8]], [found[128]], guess)} with 8 images per shard, and "
    f"**{gained([found[2]], [found[128]], guess)}** with 2."
)

# %% [markdown]
# ## Break it: too little work for the messages
#
# How far are N devices from N times the speed, and where does the rest go? There are two ways to measure:
#
# - **Weak scaling**: each device gets as many images as the single one had. A perfect machine does N times
#   the work in the *same* time.
# - **Strong scaling**: the batch of the single device is divided among all of them. A perfect machine
#   needs an *N-th* of the time.
#
# The **efficiency** is the perfect time divided by the measured time. We take both from the times
# measured at the beginning, where `crowd[b]` has b images on *each* device.

# %%
weak = [alone[b] / crowd[b] for b in batches]
strong = [alone[b * devices] / devices / crowd[b] for b in batches[:-1]]
say(
    f"With {batches[0]} images per device, the efficiency is {100 * weak[0]:.0f} % (weak) and "
    f"{100 * strong[0]:.0f} % (strong). With {batches[-2]} images per device, it is "
    f"**{100 * weak[-2]:.0f} %** and **{100 * strong[-1]:.0f} %**. At {100 / devices:.0f} %, {devices} devices "
    f"together are as fast as one."
)

# %% [markdown]
# Two things keep strong scaling below 100 %: part of a step does not shrink with the shard, and the devices
# must average their gradients. We take a step apart: the perfect time, the excess of one device over it,
# and the price of working together.

# %%
low, high = batches[0], batches[-1]


def apart_into(images):  # seconds of a step with so many images on each device
    perfect = alone[images * devices] / devices
    return perfect, alone[images] - perfect, crowd[images] - alone[images]


perfect, excess, joint = apart_into(low)
shrinks = alone[low * devices] / alone[low]
say(
    f"{low * devices} images take one device {1e3 * alone[low * devices]:.1f} ms, so {devices} devices "
    f"should need {1e3 * perfect:.1f} ms. They need {1e3 * crowd[low]:.1f} ms. Of the difference, "
    f"**{1e3 * excess:.1f} ms** are there because {low} images still take one device "
    f"{1e3 * alone[low]:.1f} ms ({devices} times the images take it {shrinks:.1f} times as long). Working "
    f"together costs **{1e3 * joint:.1f} ms**. For comparison, the all-reduce by itself takes "
    f"**{1e3 * reduce:.1f} ms**."
)

# %% [markdown]
# What the all-reduce does not explain of that price must come from elsewhere: DDP's own work, the wait for
# the slower process, or shared memory. Faster links would not help with these, nor with the excess. How
# do both change with the batch? (A value below 1 means that small shards take less time per image, for
# example because they fit into a cache.)

# %%
steps = [apart_into(images) for images in batches[:-1]]
free = [(perfect + excess) / perfect for perfect, excess, _ in steps]
whole_step = [sum(parts) / parts[0] for parts in steps]
plot(
    {"measured": (batches[:-1], whole_step), "if working together were free": (batches[:-1], free)},
    "images per device",
    "times the perfect step",
    "grey: the perfect step",
    scale="log",
    marks=True,
)
plt.axhline(1, color="grey")
plt.show()

# %%
say(
    f"With {low} images per device, a step takes **{whole_step[0]:.1f} times** the perfect time, and "
    f"would still take {free[0]:.1f} times if working together were free. With {batches[-2]}, these are "
    f"**{whole_step[-1]:.1f}** and {free[-1]:.1f} times."
)

# %% [markdown]
# ## Will it pay for you?
#
# Processes on one machine tell us nothing about a cluster's network. But you can estimate the messages. DDP
# sends during the backward pass, so they cost almost nothing if they are done before it ends. This is the
# bandwidth that a device then needs:


# %%
def bandwidth(gradient_bytes, seconds, processes):  # in GB/s
    return 2 * (processes - 1) / processes * gradient_bytes / seconds / 1e9


print(f"{bandwidth(100e6, 0.125, 256):.1f} GB/s")

# %% [markdown]
# These are the numbers of Goyal et al. 2017: a gradient of 100 MB for ResNet-50, and about 0.125 seconds of
# backward pass for 32 images. Their network had 50 Gbit/s, which is 6.25 GB/s. The estimate leaves out
# that each round has a fixed delay, and a ring of 1,024 devices has 2,046 rounds. Large machines therefore
# use trees and rings of rings.
#
# In our own network, the backward pass is roughly two thirds of a step:

# %%
wanted = [bandwidth(size, 2 / 3 * alone[b], devices) for b in (low, high)]
reached = bandwidth(size, reduce, devices)
say(
    f"To hide its messages, our network needs **{wanted[0]:.3f} GB/s** with {low} images on each device, "
    f"and {wanted[1]:.3f} GB/s with {high}. The all-reduce that we timed reached **{reached:.3f} GB/s**, "
    f"which is {'enough' if reached > max(wanted) else 'not enough'}. With {low} images on each, {devices} "
    f"devices were {gains[0]:.2f} times as fast as one. "
    + ("So bandwidth was not what they lacked." if reached > max(wanted) and gains[0] < 1.1 else "")
)

# %% [markdown]
# ## What to remember
#
# The card promises the same gradient for less time, if computation takes much longer than communication.
# What did we see?

# %%
say(
    f"**The same gradient**: without batch statistics, to {stored:.0e}, and in training, the accuracy was "
    f"{gained(*scores, guess)}. **For less time**: {gains[0]:.2f} times as fast with a batch of "
    f"{batches[1]}, {gains[-1]:.2f} times with {batches[-1]}. **If computation takes much longer than "
    f"communication**: with {low} images, it takes {alone[low] / reduce:.0f} times as long as an "
    f"all-reduce, and {devices} devices reach {100 * strong[0]:.0f} % of the perfect speed."
)

# %% [markdown]
# So the card's condition needs a second one: **a step must also get shorter when its shard gets
# smaller.** What does not shrink, every device has to do again, and no network can speed that up. And working
# together can cost more than the message: rule 5 finds out.
#
# A rule of thumb:
#
# 1. First fill one device: raise its batch until the images per second no longer rise.
# 2. Then add devices, and let each keep that batch. The global batch grows, so scale the learning rate
#    (chapter 2).
# 3. Time one device with your batch and with an N-th of it. The ratio of the two is the most that N
#    devices can gain. If it is near 1, do not divide that batch.
# 4. With batch norm, keep at least about 16 images on each device (below that, Wu and He's error rises; we
#    tried only 8 and 2), or use `SyncBatchNorm`.
# 5. Before a long run, time 50 steps on one device and on all of them. If the gain is smaller than rule 3
#    allows, the difference is the price of working together. Look there first.
#
# ## Questions
#
# **1. DDP averages the gradients. Must I change the learning rate when I go from one GPU to four?**
#
# <details><summary>Answer</summary>Not if the global batch stays the same and each GPU takes a quarter of
# it. If each GPU keeps its batch size, the global batch is four times as large, and chapter 2 explains
# what to do.</details>
#
# **2. Why do the bytes that a device sends in a ring hardly depend on the number of devices?**
#
# <details><summary>Answer</summary>More devices mean more rounds but smaller chunks: in total, each
# device sends 2 (N - 1) / N times the gradient. But each round has a fixed delay, and these delays add up.</details>
#
# **3. Each process shuffles with its own seed. What goes wrong?**
#
# <details><summary>Answer</summary>Shards taken from different orders overlap: some images are seen twice
# in an epoch, others never. All processes must draw the same order and take different parts of
# it.</details>
#
# **4. Your accuracy with four GPUs differs in the third digit from that with one. Is this a bug?**
#
# <details><summary>Answer</summary>Not necessarily: batch norm sees only a quarter of the batch, and sums
# are rounded in a different order. Compare the difference with the spread over seeds.</details>
#
# **5. What must be the same on every process, and what must not?**
#
# <details><summary>Answer</summary>The same: the initial weights, the order of the images, and the
# learning rate at each step. Different: the shard, and the randomness applied to each shard's images.
# Therefore `train_ddp.py` seeds with the rank after it has built the network.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** How many bytes does each process send in one ring all-reduce of the fp32 gradient of a
# network with the given number of parameters?


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
# - Li et al. 2020, [arXiv 2006.15704](https://arxiv.org/abs/2006.15704): how DDP works, including buckets
#   and overlap.
# - Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677): ImageNet in one hour.
# - Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
#   Journal of Parallel and Distributed Computing 69: the ring, and why no algorithm sends fewer bytes.
