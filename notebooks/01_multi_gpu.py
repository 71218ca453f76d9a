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
# the same step. One GPU with the whole batch would make that step too, unless the network has *batch norm*, a
# layer that looks at all images of a batch at once. Ours has it. We shall see what that changes, and when two
# devices train faster than one.
#
# Goyal et al. 2017 ([arXiv 1706.02677](https://arxiv.org/abs/1706.02677)) trained ResNet-50 on ImageNet **in
# one hour on 256 GPUs** in this way. But each GPU kept 32 images, so they enlarged the batch instead of
# dividing it.
#
# **We have not measured it on several GPUs.** The numbers stored here come from two CPU cores, each of which
# plays the part of a GPU: below, a *device* is one GPU or, without GPUs, an equal part of the cores. If you
# have several GPUs (Kaggle's free "GPU T4 x2" has two), run the notebook, and its sentences will describe
# yours. With one GPU, as in Colab, two processes share it. Everything runs, but do not expect a gain.
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

# %%
import matplotlib.pyplot as plt

from fasttricks.course import timeline

half = [("compute the gradient", 0, 4), ("average it", 4, 5), ("update the weights", 5, 5.6)]
timeline(
    {
        "one device": [("compute the gradient", 0, 8), ("update the weights", 8, 8.6)],
        "first of two": half,
        "second of two": half,
    },
    "one training step with the same batch, in the ideal case",
)
plt.show()

# %% [markdown]
# Ideally, each of the two needs half of the time to compute a gradient. But they must also average their
# gradients.
#
# We load the data and the network, choose how much to compute on this machine (its *budget*), and count
# the devices:

# %%
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
ready = data.to(torch.device("cuda" if gpus else "cpu"), budget.image_size)
network = create(budget.model, data.channels, len(data.classes))
parameters = sum(parameter.numel() for parameter in network.parameters())

# %%
if gpus > 1:
    what = f"This machine has {gpus} GPUs. Each of them is a device."
elif not enough:
    what = (
        f"This machine has one {'GPU' if gpus else 'core'}. Below, {devices} processes share it, so do not "
        f"expect a gain. We call them {devices} devices all the same."
    )
else:
    what = (
        f"This machine has no GPU. We divide its {cores} cores into {devices} equal parts. Each part, "
        f"{'one core' if part == 1 else f'{part} cores'}, is a device."
    )
say(
    f"The data are Fashion-MNIST: {len(data.train):,} training images of {len(data.classes)} kinds of "
    f"clothes. The network is `{budget.model}` with {parameters:,} weights. {what}"
)

# %% [markdown]
# How fast are the devices? `measure` starts a process for each and times training steps with a batch that is
# already in memory. The devices work in two ways, which take turns because a machine's speed drifts:
#
# - `alone`: one device computes, and the others wait.
# - `together`: all compute, each with its own images, and average their gradients in each step.
#
# `averaging` is the time of one *all-reduce* without any training: it adds up the numbers of all processes
# and gives everyone the sum.

# %%
from fasttricks.study.limits import measure

size = 4 * parameters  # bytes of the gradient: four for each weight
batches = [8 * devices**power for power in range(7) if 8 * devices**power <= 512]
speeds = measure(devices, batches, [4, size])  # batches: images on each device
alone, together, averaging = speeds.alone, speeds.together, speeds.all_reduce

# %% [markdown]
# `gains` tells how many times as fast the devices are if they divide a batch equally. We call something
# faster or slower only if it differs by at least 10 %, because a smaller difference may be drift.


# %%
def verdict(times):
    return "faster" if times > 1.1 else "slower" if times < 1 / 1.1 else "about as fast"


gains = {batch: alone[batch] / together[batch // devices] for batch in batches[1:]}
small, large = batches[1], batches[-1]

# %%
words = {"faster": "pays", "slower": "costs time", "about as fast": "makes no clear difference"}
say(
    f"**Here, sharing a batch of {large} images {words[verdict(gains[large])]}: {devices} devices are "
    f"{gains[large]:.2f} times as fast as one. With {small} images, it {words[verdict(gains[small])]}: "
    f"{gains[small]:.2f} times.**"
)

# %% [markdown]
# `BASELINE` is the course's plain training, which chapter 0 explains: AdamW, a constant learning rate, and
# batches of 128 images. The course adds seven tricks to it, one per chapter. The next cell shows what our
# recorded study has found about this trick, and its *card*, a summary. You may not know a few of their words:
#
# - *Paired seeds*: both kinds of training used the same random seeds. A *95 % interval* would contain the
#   true ratio in about 95 of 100 such studies. A ratio above 1 for *leaving out* the trick means that
#   training is faster without it.
# - *N* is the number of devices, *B* the number of images in a batch, and a *shard* one process's part of it.
#   "Their bytes" are those of the gradients.
# - A *slot* is a place in the training loop where tricks act (`single`: only one can). *Meets* names what
#   the trick interacts with. *Scaling* is chapter 2.

# %%
from IPython.display import Markdown

say(headline("distributed"))
Markdown(distributed.__doc__)

# %% [markdown]
# This study does not tell us what a second device brings. It ran on two cores, and plain training already
# used both, because PyTorch divides the work of one process among the cores. So the trick added no device,
# only the averaging. Here, we compare two devices with *one*.
#
# ## The problem: one device has a top speed
#
# Here are the images per second of one device, and of all devices that divide the batch, with at least 8
# images for each.

# %%
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
best, rise = batches[rates.index(max(rates))], rates[-1] / rates[-2]
how = {"faster": "makes it faster", "slower": "makes it slower"}.get(verdict(rise), "hardly helps")
reached = "has not reached its top speed yet" if rise > 1.1 else "has reached its top speed"
say(
    f"With {batches[0]} images in a batch, one device processes {rates[0]:,.0f} images per second, and with "
    f"{best} images, {max(rates):,.0f}. Going from {batches[-2]} to {batches[-1]} images {how}. So **one "
    f"device {reached}.**"
)

# %% [markdown]
# Small batches are slow because a part of each step does not depend on the images, such as starting each
# layer and updating the weights. A larger batch spreads this part over more images, until the device has
# reached its top speed. From there on, only a second device can help.


# %%
import itertools


def from_here_on(ratios):  # the smallest batch from which all larger ones are faster
    found = None
    for batch in sorted(ratios, reverse=True):
        if verdict(ratios[batch]) != "faster":
            break
        found = batch
    return found


pays_from = from_here_on(gains)

# %%
say(
    f"**Sharing a batch pays from {pays_from} images on.**"
    if pays_from
    else "**Sharing a batch does not pay, not even with the largest.**"
)
say(
    f"If one device and {devices} devices each have the batch that suits them best, {devices} devices are "
    f"{max(divided) / max(rates):.2f} times as fast. Perfect would be {devices}."
)

# %%
for fewer, more in itertools.pairwise(batches):
    if together[more] < together[fewer] / 1.1:
        say(
            f"One thing in this figure is strange. {devices} devices with {fewer} images each need "
            f"{1e3 * together[fewer]:.1f} ms for a step, but with {more} images each, only "
            f"{1e3 * together[more]:.1f} ms. More work cannot take less time, so something else slows "
            f"down the short steps. **We have not found out what**, so expect other numbers elsewhere."
        )

# %% [markdown]
# How large a batch must be depends on the machine. GPUs reach their top speed only with far more work.
#
# ## By hand: half and half is whole
#
# What must two devices tell each other? Take the smallest possible network, a single weight, and four
# images of one number each. The loss is the mean of the squares of `weight * x - y`. Here is its slope with
# respect to the weight, on the whole batch and on each half:

# %%
x, y, weight = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 3, 5, 9]), 1.0


def slope(x, y):
    return (2 * (weight * x - y) * x).mean().item()


slope(x, y), slope(x[:2], y[:2]), slope(x[2:], y[2:])

# %% [markdown]
# The halves disagree. But the mean of four numbers is also the mean of the means of two halves.

# %% tags=["nbval-check-output"]
from fasttricks.course import holds

halves = (slope(x[:2], y[:2]) + slope(x[2:], y[2:])) / 2
holds(halves == slope(x, y), "two half-batches average to the whole batch's gradient")

# %% [markdown]
# So each device needs only its own images, and the average gradient. If all begin with equal weights, they
# then take the same step, and their weights stay equal. The learning rate stays the same too, because the
# gradients are averaged, not added, and the *global* batch, all shards together, has not changed.
#
# If one device has three images and the other has one, the plain mean gives the single image too much weight.
# Unequal shards must be weighted by the number of their images.

# %% tags=["nbval-check-output"]
three, single = slope(x[:3], y[:3]), slope(x[3:], y[3:])
holds((three + single) / 2 != slope(x, y), "the plain mean of unequal parts is wrong")
holds(abs(0.75 * three + 0.25 * single - slope(x, y)) < 1e-6, "weighted by images, it is right")

# %% [markdown]
# ### In a real network
#
# We take two batches of 256 validation images, put all gradients into one long vector, and compute in
# double precision so that rounding cannot hide anything.

# %%
torch.manual_seed(0)
net = create(budget.model, data.channels, len(data.classes)).double().to(ready.val.y.device)
count = 2 * BASELINE.batch
pixels, others = data.normalise(ready.val.x[: 2 * count]).double().chunk(2)
kinds = torch.nn.functional.one_hot(ready.val.y[: 2 * count], len(data.classes)).double()
targets, other_targets = kinds.chunk(2)


def gradient(x, q):
    net.zero_grad()
    torch.nn.functional.cross_entropy(net(x), q).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


# %% [markdown]
# `gaps` compares two vectors with the gradient of the first batch: the average over the shards of that
# batch, and, to have a scale, the gradient of the other batch. Each gap is the length of the difference, as
# a fraction of the length of the first batch's gradient.


# %%
def gaps():
    whole, other = gradient(pixels, targets), gradient(others, other_targets)
    shards = zip(pixels.chunk(2), targets.chunk(2), strict=True)
    averaged = sum(gradient(x, q) for x, q in shards) / 2
    return [((found - whole).norm() / whole.norm()).item() for found in (averaged, other)]


# %% [markdown]
# Now **batch norm** matters. In training, this layer subtracts the mean of *its own* batch and divides by its
# standard deviation, so the images of a batch affect each other, as in no other layer of our network. In
# evaluation, it uses stored statistics instead. We compute the gaps both ways.

# %%
net.eval()
stored, _ = gaps()
net.train()
own, scale = gaps()

# %%
say(
    f"With stored statistics, the gap is **{stored:.0e}**, which is rounding. With the statistics of each "
    f"shard, it is **{own:.2f}**, which is not. For comparison, the gradients of two different batches are "
    f"{scale:.2f} apart."
)

# %% tags=["nbval-check-output"]
holds(
    stored < 1e-9,
    "without batch statistics, the halves average to the whole gradient, up to rounding",
)

# %% [markdown]
# The second gap is no bug. The average is the exact gradient of a network whose batch norm looks at fewer
# images at a time (*ghost batch norm*, Hoffer et al. 2017, [arXiv
# 1705.08741](https://arxiv.org/abs/1705.08741)). Does it hurt accuracy? We try shards of 128 images under
# "Use it", and tiny ones under "Break it".
#
# ### The same sum on one device
#
# A single device can also take parts of a batch one after another, add up their gradients, and then make
# one step. This is **gradient accumulation**, and such a part is called a **micro-batch**. It saves no
# time, but you can train with a batch that does not fit into memory, or try a cluster's batch before you
# rent the cluster. If a micro-batch has as many images as a shard there, the gradient is the same, with
# batch norm too.
#
# In PyTorch, `backward` adds to `.grad`. You only need to weight each micro-batch's loss:


# %%
def accumulated(parts):
    net.zero_grad()
    for x, q in zip(pixels.chunk(parts), targets.chunk(parts), strict=True):
        loss = torch.nn.functional.cross_entropy(net(x), q)
        (loss * len(x) / len(pixels)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


# %% tags=["nbval-check-output"]
net.eval()
same = torch.allclose(accumulated(4), gradient(pixels, targets), rtol=1e-6, atol=1e-9)
holds(same, "without batch statistics, four micro-batches give the gradient of the whole batch")

# %% [markdown]
# ## Write it
#
# The trick has two parts. First, which process takes which images? Every process draws the same batch from
# the same seed, and process r keeps every N-th image, starting with number r. For three processes:


# %%
def shard(values, rank, processes):
    return values[rank::processes]


[shard(torch.arange(10), rank, 3).tolist() for rank in range(3)]

# %% [markdown]
# Second, each of N devices holds one long vector, and all need the average. In a **ring all-reduce**, each
# device sends only to the next one in a circle. Every vector is cut into N chunks, and a device sends *one*
# chunk per round: device r begins with chunk r and then passes on the chunk that it has just received. In
# the first N - 1 rounds, the receiver *adds* its own numbers. In the other N - 1, it *replaces* them with
# the finished sums. `ring` yields what all devices hold after each round. It ends with the sums, and
# dividing them by N gives the average.


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
# Four devices begin like this, each with its chunks *a* to *d*. An arrow names the chunk that travels first.
# Every number is 1 at the start, so it later shows how many devices have contributed.

# %%
from fasttricks.course import circle, tally

states = list(ring(torch.ones(4, 4)))
circle(states, {0: "start"})
plt.show()

# %% [markdown]
# Here are all the rounds, with a row for each device. A circle marks what a device has just received.

# %%
titles = ["start"] + [f"round {number}" for number in range(1, len(states))]
figure = tally(states, titles, "chunk", "device", "abcd")
for axes, before, after in zip(figure.axes[1:], states, states[1:], strict=False):
    device, chunk = (before != after).nonzero().T
    axes.plot(chunk, device, "o", markersize=16, markerfacecolor="none", markeredgecolor="tab:red")
plt.show()

# %% [markdown]
# Follow chunk *a*. Device 0 sends its 1, so device 1 has 2 after round 1. It sends these on, so device 2 has
# 3 after round 2, and device 3 has 4 after round 3: a finished sum. Three more rounds carry the finished sums
# around the ring.
#
# Now count the bytes. In each of the 2 (N - 1) rounds, a device sends one chunk, 1/N of the gradient.
# In total, that is 2 (N - 1) / N times the gradient: less than twice, *however many devices there are*.

# %%
travels = {n: 2 * (n - 1) / n * size / 1e6 for n in (2, 8, 256)}
say(
    f"The gradient of our network is {size / 1e6:.2f} MB. In each step, each of 2 devices sends "
    f"{travels[2]:.2f} MB, each of 8 devices {travels[8]:.2f} MB, and **each of 256 devices "
    f"{travels[256]:.2f} MB**."
)
say(
    f"But each round also has a fixed delay, which no bandwidth removes. On this machine, averaging the "
    f"whole gradient takes {1e3 * averaging[size]:.2f} ms, and averaging a single number "
    f"{1e3 * averaging[4]:.2f} ms."
)

# %% [markdown]
# A ring of 1,024 devices has 2,046 such rounds, so large machines also use trees. PyTorch leaves the
# all-reduce to a library: on CPUs gloo, and on GPUs NCCL.
#
# PyTorch's wrapper for all this is `DistributedDataParallel`, **DDP** for short. It can hide part of the
# cost. The backward pass finishes the last layer's gradients first. DDP collects finished gradients in
# **buckets** and sends a full bucket while it computes earlier layers.

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
# In buckets, only the last message delays the step. On a CPU, our package uses a single bucket, because no
# core is free to send earlier. So nothing was hidden in the times stored here.
#
# ## Check it
#
# Our shards match the package's, and no image is lost or counted twice.

# %% tags=["nbval-check-output"]
rows = torch.arange(101)
parts = [distributed.shard(rows, rank, 4) for rank in range(4)]
same = all(torch.equal(piece, shard(rows, rank, 4)) for rank, piece in enumerate(parts))
holds(same, "our function matches the package's")
holds(torch.equal(torch.cat(parts).sort().values, rows), "every row is in exactly one shard")

# %% [markdown]
# PyTorch's own `DistributedSampler` makes all shards equally long by repeating some images. That is harmless
# in training, but it makes a measured accuracy wrong.

# %% tags=["nbval-check-output"]
from torch.utils.data import DistributedSampler

samplers = [DistributedSampler(rows, 4, rank, shuffle=False) for rank in range(4)]
counted = sum(len(list(sampler)) for sampler in samplers)
holds(counted == 104, "DistributedSampler hands out 104 indices for 101 images")

# %% [markdown]
# We check the ring too, with five devices and different numbers:

# %% tags=["nbval-check-output"]
numbers = torch.arange(25.0).view(5, 5)
*_, last = ring(numbers)
holds(all(torch.equal(row, numbers.sum(0)) for row in last), "every device ends with every sum")

# %% [markdown]
# ## In your own loop
#
# Here is `train_ddp.py`, a script in ordinary PyTorch:
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
# if gpu:
#     torch.cuda.set_device(device)
# dist.init_process_group("nccl" if gpu else "gloo")
# rank, processes = dist.get_rank(), dist.get_world_size()
# torch.manual_seed(0)
# if local == 0:  # one process on each machine downloads, and the others wait
#     datasets.FashionMNIST("downloads", download=True)
# dist.barrier()
# data = datasets.FashionMNIST("downloads", transform=transforms.ToTensor())
# sampler = DistributedSampler(data, drop_last=True)  # each process gets its own part
# loader = DataLoader(data, 128 // processes, sampler=sampler, drop_last=True)
# net = timm.create_model("test_resnet", in_chans=1, num_classes=10).to(device)
# wrapped = DistributedDataParallel(net, device_ids=[device] if gpu else None)
# torch.manual_seed(rank)  # other random numbers in each process, if you add dropout or augmentation
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
# The sampler's `drop_last` leaves out a few images instead of repeating some. The loader's leaves out the
# last, smaller batch, so that all shards are equal.
#
# You start the script with **torchrun**, which starts the processes and tells each its number, the *rank*:
#
# ```
# torchrun --standalone --nproc-per-node 2 train_ddp.py
# ```
#
# On two machines with eight GPUs each, you run `torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d
# --rdzv-endpoint FIRST_MACHINE:29500 train_ddp.py` on both. They meet at the first machine, through
# PyTorch's own service (`c10d`) at a free port (29500).
#
# DDP averages the gradients, but not batch norm's stored statistics. Before each forward pass, it copies
# those of rank 0 to the others. So the statistics that this script saves come from rank 0's images alone.
# (Our package averages them at the end.)
#
# Five classic bugs:
#
# 1. **`sampler.set_epoch` is missing.** Every epoch then has the same order.
# 2. **The batch size is per process.** `DataLoader(data, 128)` in four processes makes a global batch of
#    512, for which the old learning rate is usually too low (chapter 2).
# 3. **`net(x)` instead of `wrapped(x)`.** The gradients are never averaged, and the copies drift apart
#    without an error.
# 4. **Every process saves, downloads, or logs.** Let rank 0 do it, and let the others wait with
#    `dist.barrier()`.
# 5. **One process skips a step or stops early.** The others wait for it until a timeout, ten minutes with
#    GPUs.
#
# With gradient accumulation, wrap all but the last micro-batch in `with wrapped.no_sync():`. Otherwise, the
# devices average their gradients after every micro-batch. If the model does not fit into one GPU, use
# **FSDP** (`torch.distributed.fsdp.fully_shard`), which also divides the weights and the optimizer's state.
#
# The course's plain script is [`examples/plain.py`](../examples/plain.py).
# [`examples/distributed.py`](../examples/distributed.py) is the same for several devices. Here is how they
# differ.
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
# Every process draws the order and the flips of the whole batch, so here all keep the same seed. If a batch
# does not divide evenly, its shards differ in size, but DDP divides the sum of the gradients by the number
# of processes as if they did not. The factor `len(rows) * processes / BATCH`, the shard's size over an
# equal share, makes up for that.
#
# ## Use it
#
# Now we train, and compare two ways, or *arms*: plain training on one device, and the trick on several. On a
# CPU, there is a third arm: plain training in one process that uses all cores.

# %%
from dataclasses import replace

plain = replace(BASELINE, batch=devices * BASELINE.batch)
trick = plain + Distributed(devices, share_devices=not enough)
single, several, whole = "one device", f"{devices} devices", "all cores, no trick"
arms = {single: (plain, part), several: (trick, part)}  # recipe, cores of each process
if enough and gpus == 0:
    arms[whole] = (plain, devices * part)

# %% [markdown]
# The `+` adds a trick to a recipe. `share_devices` lets several processes share a device if there are too
# few. All arms train with the same seeds, the same number of steps, and the same batch, which gives each of
# several devices 128 images. Each run starts new processes, and `OMP_NUM_THREADS` tells them how many cores
# to use.

# %%
import os

from fasttricks import train
from fasttricks.course import accuracy_table, clear, gained, median, one_line


def run(name, seed):
    recipe, cores_each = arms[name]
    os.environ["OMP_NUM_THREADS"] = str(cores_each)
    label = f"{name}, seed {seed}"
    images = budget.images // 2
    return train(recipe, data, images=images, seed=seed, fresh=True, label=label)


runs = {name: [] for name in arms}
with one_line() as tell:
    for seed in range(budget.seeds):
        for name in arms:
            runs[name].append(run(name, seed))
    tell(f"{len(arms) * budget.seeds} runs, {len(arms)} arms in turns")
accuracy_table(runs)

# %% [markdown]
# Gains are over one device, in percentage points, between two runs with the same seed. For the time, too, we
# compare runs with the same seed, and quote the median of these ratios (in brackets: their range).

# %%
clocks = {name: [one.train_seconds for one in found] for name, found in runs.items()}
scores = {name: [one.val_accuracy for one in found] for name, found in runs.items()}


def ratios(other):  # how many times as fast the trick is, from low to high
    return sorted(b / a for a, b in zip(clocks[several], clocks[other], strict=True))


# %%
pairs = ratios(single)
lesson = {
    "faster": "makes this training faster",
    "slower": "makes this training slower",
    "about as fast": "makes no clear difference to the time of this training",
}
say(
    f"{devices} devices that shared batches of {plain.batch} images trained **{median(pairs):.2f} times as "
    f"fast** as one ({pairs[0]:.2f} to {pairs[-1]:.2f}). So **the trick {lesson[verdict(median(pairs))]}**."
)
if plain.batch in gains:
    say(
        f"`measure` found {gains[plain.batch]:.2f} times for steps of this size, with batches that are "
        f"already in memory."
    )

# %% [markdown]
# Here is the validation accuracy of seed 0. The marks are at the same numbers of images, so a line further
# to the left belongs to a faster training run.

# %%
curves = {}
for name, found in runs.items():
    _, seconds, accuracies = zip(*found[0].curve, strict=True)
    curves[name] = (seconds, accuracies)
plot(curves, "seconds of training", "validation accuracy", marks=True)
plt.show()

# %% [markdown]
# Does the batch-norm gap in the gradient hurt accuracy? With several devices, batch norm sees 128 images at a
# time instead of the whole batch.

# %%
guess, seen = 1 / len(data.classes), runs[single][0]
learned = gained(scores[several], scores[single], guess)
points = [100 * (a - b) for a, b in zip(scores[several], scores[single], strict=True)]
if "lower" in learned:
    harm = "cost accuracy in these short runs"
elif "higher" in learned:
    harm = "did not cost accuracy in these short runs"
elif "about the same" in learned and max(points) < 0:
    harm = (
        "may have cost a little accuracy: it was lower with every seed, but by less than we ask for"
    )
elif "about the same" in learned:
    harm = "did not clearly change the accuracy of these short runs"
else:
    harm = "cannot be judged here"
say(
    f"We call an accuracy higher or lower only if all {budget.seeds} seeds agree and the mean difference is "
    f"at least {clear(budget.seeds):.1f} points."
    if budget.seeds > 1
    else f"We call an accuracy higher or lower only if the difference is at least {clear(1):.1f} points."
)
say(
    f"After {seen.images_seen / len(data.train):.2f} epochs, the accuracy of {devices} devices, compared "
    f"with one, was **{learned}**. So the batch-norm gap **{harm}**."
)

# %% [markdown]
# What if the trick adds no device? Here, the same cores are used once by one process and once by several.

# %%
if whole in runs or not enough:
    against = whole if whole in runs else single
    pairs = ratios(against)
    adds_nothing = verdict(median(pairs))
    lesson = {
        "faster": "Even so, the trick pays here",
        "slower": "So here **the trick costs time**",
        "about as fast": "So here **the trick gains nothing**",
    }
    say(
        f"Compared with one process that has {'the device' if against == single else 'all cores'} to itself, "
        f"{devices} processes trained **{median(pairs):.2f} times as fast** ({pairs[0]:.2f} to "
        f"{pairs[-1]:.2f}). {lesson[adds_nothing]}."
    )
else:
    say("Each process had a GPU of its own, so this comparison does not apply.")

# %% [markdown]
# Finally, we check that the comparison was fair:

# %% tags=["nbval-check-output"]
worked = {(one.steps, one.images_seen) for found in runs.values() for one in found}
holds(len(worked) == 1, "the same number of steps and images in every run")
holds({one.processes for one in runs[several]} == {devices}, "and a process for each device")

# %% [markdown]
# ## Break it: too few images for batch norm
#
# How small can a shard get? With few images, the mean and the standard deviation that batch norm computes
# are noisy. With gradient accumulation, we can try this without a cluster. With `accumulate=64`, one
# process cuts each batch of 128 images into 64 micro-batches of 2, as if there were 64 devices. We compare
# that with micro-batches of 16 and with undivided batches.

# %%
from fasttricks.course import train_arms

per_shard = {BASELINE.batch // count: count for count in (1, 8, 64)}
cut = {
    f"{images} images in a shard": BASELINE + Distributed(1, accumulate=count)
    for images, count in per_shard.items()
}
tiny = train_arms(cut, data, images=min(budget.images // 8, 3_200), evaluations=1)

# %% [markdown]
# The stored statistics are *running* averages, which move by a tenth in every forward pass. A step with 64
# micro-batches has 64 forward passes, and one with an undivided batch has one, so in a short training run
# the undivided batches would be at a disadvantage. We therefore recompute these statistics for all networks,
# from the same 2,000 training images. (In a cluster, each device has only one forward pass per step.)

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.loop import accuracy


def fair_accuracy(run):
    update_bn((data.normalise(x) for x in ready.train.x[:2000].split(500)), run.net)
    return accuracy(run.net, ready, ready.val, run.recipe)


# %% [markdown]
# Here is that accuracy for each seed and each shard size:

# %%
found = {
    images: [fair_accuracy(run) for run in runs]
    for images, runs in zip(per_shard, tiny.values(), strict=True)
}
lines = {
    f"seed {seed}": (list(found), accuracies)
    for seed, accuracies in enumerate(zip(*found.values(), strict=True))
}
plot(
    lines,
    f"images in a shard ({BASELINE.batch} in a batch)",
    "validation accuracy",
    scale="log",
    marks=True,
)
plt.show()

# %%
undivided, sixteen, two = found.values()
enough_for_norm, few = gained(sixteen, undivided, guess), gained(two, undivided, guess)
seen = next(iter(tiny.values()))[0]
say(
    f"Compared with undivided batches after {seen.steps} steps ({seen.images_seen / len(data.train):.2f} "
    f"epochs), the accuracy with 2 images in a shard is **{few}**. With 16 images, it is "
    f"**{enough_for_norm}**."
)
drop = sum(undivided) - sum(two)  # over all seeds
if "lower" not in few:
    judged_norm = "we cannot tell how many images in a shard are too few for batch norm"
elif sum(sixteen) - sum(two) > 0.8 * drop:
    judged_norm = (
        "2 images in a shard are too few for batch norm, and nearly all of the loss in accuracy comes "
        "between 16 and 2"
    )
else:
    judged_norm = (
        "2 images in a shard are too few for batch norm, and 16 do not avoid the loss in accuracy"
    )
say(f"So in the first steps of training, **{judged_norm}**.")

# %% [markdown]
# We did not train to the end, but Wu and He 2018 did ([arXiv
# 1803.08494](https://arxiv.org/abs/1803.08494)). They report for ResNet-50 on ImageNet an error of 23.6 %
# with 32 images per GPU, 23.7 % with 16, 24.8 % with 8, and 34.7 % with 2.
#
# There are two cures. `torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)`, called before you wrap the
# network, computes the statistics over all devices. It needs GPUs and more messages. Or use a norm that
# looks at one image at a time, such as group norm, which Wu and He propose.
#
# ## Why sharing a small batch pays less
#
# Ideally, a step would take 1/N of the time that one device needs for the whole batch. Two things make it
# longer: a part of the step does not become shorter with fewer images, and working together has a price.
# The table shows what one device needs for its shard alone, what the averaging takes by itself, and what
# both leave unexplained, in milliseconds.

# %%
import pandas as pd


def explained(batch):  # milliseconds of a step
    shard_size = batch // devices
    rows = {
        "one device, whole batch": alone[batch],
        f"ideal: 1/{devices} of that": alone[batch] / devices,
        "one device, only its shard": alone[shard_size],
        "averaging by itself": averaging[size],
        "unexplained": together[shard_size] - alone[shard_size] - averaging[size],
        f"{devices} devices together": together[shard_size],
    }
    return {name: 1e3 * seconds for name, seconds in rows.items()}


steps = {f"{batch} images": explained(batch) for batch in (small, large)}
pd.DataFrame(steps).round(1)

# %% [markdown]
# The last row is the sum of the three rows above it.

# %%
_, ideal, own_shard, message, unknown, measured = steps[f"{small} images"].values()
causes = {
    "the part that does not shrink with the shard": own_shard - ideal,
    "the averaging": message,
    "a part that we cannot explain": unknown,
}
largest = max(causes, key=causes.get)
say(
    f"With {small} images, a step takes {measured:.1f} ms instead of {ideal:.1f}. **Most of the difference "
    f"is {largest}**: {causes[largest]:.1f} ms."
    if causes[largest] > (measured - ideal) / 2
    else f"With {small} images, a step takes {measured:.1f} ms instead of {ideal:.1f}. **No single cause "
    f"explains most of the difference.**"
)
left = steps[f"{large} images"]["unexplained"]
smaller = unknown / measured > max(0, left / (1e3 * together[large // devices]))
say(
    f"The unexplained part is {unknown:.1f} ms with {small} images, and {left:.1f} ms with {large}."
    + (" It is a smaller share of the longer step." if smaller else "")
)
if alone[large // devices] < alone[large] / devices:
    say(
        f"With {large} images, one device is slower per image than with {large // devices}. That is why its "
        f"shard alone takes even less than the ideal time."
    )

# %% [markdown]
# The devices may wait for each other, or compete for memory: we have measured neither. In any case, what
# does not shrink matters less in a long step. So do not shrink the shard: if each device *keeps* its batch,
# the global batch grows with the number of devices.

# %%
kept = {batch: devices * alone[batch] / together[batch] for batch in batches}
plot(
    {
        "one device": (batches, rates),
        f"{devices} devices share this batch": (batches[1:], divided),
        f"each of {devices} devices has such a batch": (
            batches,
            [devices * batch / together[batch] for batch in batches],
        ),
    },
    "images in the batch of one device",
    "images per second",
    scale="log",
    marks=True,
)
plt.show()

# %%
better = sum(kept[batch] > 1.1 * gains[batch] for batch in gains)
where = "at every size" if better == len(gains) else f"at {better} of {len(gains)} sizes"
keeps_from = from_here_on(kept)
middle = batches[len(batches) // 2]
say(
    f"With {middle} images, {devices} devices are {gains[middle]:.2f} times as fast as one if they share "
    f"them, and {kept[middle]:.2f} times if each has as many. **Keeping the batch brings more images per "
    f"second (by at least 10 %) than sharing it {where}**, and "
    + (
        f"more than one device from {keeps_from} images on."
        if keeps_from
        else "never more than one device."
    )
)

# %% [markdown]
# But a larger global batch also means fewer steps per epoch. Chapter 2 asks whether the network still learns
# as much from the same images.
#
# ## What to remember
#
# Did the card's claims hold?

# %%
say(
    f"- **The same gradient:** yes, to within {stored:.0e}, without batch statistics. With them, the gap was "
    f"{own:.2f}, and the accuracy of {devices} devices, compared with one, was {learned}."
)
longer = alone[small // devices] / averaging[size]
if pays_from is None:
    long = f"not seen here, although computing took up to {alone[large] / averaging[size]:.0f} times as long."
elif pays_from == small:
    long = f"yes: it paid at every size, from {small} images on."
elif longer > 2:
    long = (
        f"only in part. It paid from {pays_from} images on. But with {small}, computing took {longer:.1f} "
        f"times as long as the averaging, and the speed-up was {gains[small]:.2f}. Here, **the averaging by "
        f"itself is not the whole price**."
    )
else:
    long = f"yes: it paid from {pays_from} images on, and not with short steps."
say(f"- **It pays when computation takes much longer than communication:** {long}")

# %%
failed = {"slower": "yes", "about as fast": "it gained nothing", "faster": "not here"}
say(
    f"- **It fails when the shard is small:** {failed[verdict(gains[small])]}, with {small // devices} images "
    f"on each device. And with 2 images in a shard, the accuracy with batch norm was {few}. We tried no "
    f"smaller network."
)
if whole in runs or not enough:
    say(
        f"- **It fails when the processes share what one process could use alone:** {failed[adds_nothing]}. "
        f"{devices} processes trained {median(pairs):.2f} times as fast as one."
    )

# %% [markdown]
# On several GPUs, your numbers will differ. Five rules help you find them:
#
# 1. **Fill one device first.** Raise its batch until the images per second no longer rise.
# 2. **Then add devices, and let each keep that batch.** The global batch grows, so scale the learning rate
#    (chapter 2).
# 3. **If the global batch must stay the same, time one device with the whole batch and with 1/N of it.** The
#    ratio of the two times is the most that N devices can gain. If it is near 1, do not share that batch.
# 4. **Before a long run, time 50 steps on one device and on all of them.** If the gain is far below the
#    ratio of rule 3, use a larger batch or fewer devices.
# 5. **With batch norm, keep about 16 images or more on each device** (see Wu and He's figures), or use
#    `SyncBatchNorm`. If you must go lower, try it first on one device, with gradient accumulation.
#
# ## Questions
#
# **1. Must I change the learning rate when I go from one GPU to four?**
#
# <details><summary>Answer</summary>Not if the global batch stays the same. If each GPU keeps its batch, the
# global batch grows: see chapter 2.</details>
#
# **2. Why do the bytes that a device sends in a ring hardly depend on the number of devices?**
#
# <details><summary>Answer</summary>More devices mean more rounds but smaller chunks. In total, each sends
# less than twice the gradient.</details>
#
# **3. Each process shuffles with its own seed. What goes wrong?**
#
# <details><summary>Answer</summary>The shards overlap: some images are seen twice in an epoch, others never.
# All must draw the same order.</details>
#
# **4. Your accuracy with four GPUs differs in the third digit from that with one. Is this a bug?**
#
# <details><summary>Answer</summary>Not necessarily. Batch norm sees only a quarter of the batch, and sums
# are rounded differently. Compare it with the difference between two seeds.</details>
#
# **5. What must be the same on every process, and what must not?**
#
# <details><summary>Answer</summary>The same: the initial weights, the order of the images, and the learning
# rate. Different: the shard, and the randomness applied to its images.</details>
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
# - Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", Journal
#   of Parallel and Distributed Computing 69: the ring.
