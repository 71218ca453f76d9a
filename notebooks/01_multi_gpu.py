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
# the same step. This chapter shows that one GPU with the whole batch would make that step too, unless the
# network has batch norm. It also shows what the averaging costs, when two devices train faster than one, and
# when a batch is too small to be shared.
#
# Goyal et al. 2017 ([arXiv 1706.02677](https://arxiv.org/abs/1706.02677)) used this trick to train
# ResNet-50 on ImageNet **in one hour on 256 GPUs**. They report that about 90 % of the perfect speed-up
# remained when they went from 8 GPUs to 256.
#
# **We have not measured it on several GPUs.** The numbers stored here come from two CPU cores, each of
# which plays the part of a GPU. If you have several GPUs, run the notebook, and its sentences will describe
# yours. (Kaggle's free "GPU T4 x2" has two.) In this chapter, a *device* is one GPU, or, on a machine
# without GPUs, one of the equal parts into which we divide its cores: in the numbers stored here, one core.
#
# About 35 minutes to read, and two to run.

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

half = [("compute the gradient", 0, 4), ("average it", 4, 5), ("update the weights", 5, 5.6)]
timeline(
    {
        "one device": [("compute the gradient", 0, 8), ("update the weights", 8, 8.6)],
        "first of two": half,
        "second of two": half,
    },
    "one training step, with the same batch",
)
plt.show()

# %% [markdown]
# Each of the two needs half of the time to compute a gradient, because it has half of the images. But they
# must also average their gradients. The trick pays if it saves more time than it costs.
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
enough = gpus > 1 or (gpus == 0 and cores >= devices)  # is there a device for each process?
part = max(1, cores // devices)  # cores of one device, where there is no GPU
ready = data.to(torch.device("cuda" if gpus else "cpu"), budget.image_size)  # where the network is
network = create(budget.model, data.channels, len(data.classes))
parameters = sum(parameter.numel() for parameter in network.parameters())

# %%
if gpus > 1:
    what = f"This machine has {gpus} GPUs. Each of them is a device."
elif not enough:
    what = (
        f"This machine has one {'GPU' if gpus else 'core'}. Below, {devices} processes share it, so nothing "
        f"can become faster. The figures call them {devices} devices all the same."
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
# `BASELINE` is the course's plain training, which chapter 0 explains: AdamW, a constant learning rate, and
# batches of 128 images. The course adds seven tricks to it, one per chapter.
#
# The next cell shows what our recorded study has found about this trick, and then the trick's *card*, a
# summary from the top of its file. They use a few words that you may not know:
#
# - *Paired seeds*: both kinds of training were repeated with the same random seeds. A *95 % interval* would
#   contain the true ratio in about 95 of 100 such studies. 0.5 *times as fast* means twice as long.
# - *N* is the number of devices, *B* the number of images in a batch, and a *shard* one process's part of it.
# - An *all-reduce* adds up the numbers of all processes and gives everyone the sum. "Each sends" means each
#   process, and "their bytes" are the bytes of its gradients.
# - A *slot* is a place in the training loop where tricks act (`single`: only one can). *Meets* names what
#   the trick interacts with. *Scaling* is chapter 2, and *batch norm* is explained below.

# %%
from IPython.display import Markdown

say(headline("distributed"))
Markdown(distributed.__doc__)

# %% [markdown]
# This study does not tell us what a second device brings. It ran on two cores, and plain training already
# used both, because PyTorch divides the work of one process among the cores. So the trick added no device,
# only the averaging. In this chapter, we compare two devices with *one*. Under "Use it", we also repeat the
# study's comparison.
#
# ## The problem: one device has a top speed
#
# `measure` starts a new process for each device. It times training steps: forward pass, backward pass, and
# AdamW's update, with a batch that is already in memory. The devices work in two ways, which take turns
# because a machine's speed drifts:
#
# - `alone`: one device computes, and the others wait.
# - `joint`: all devices compute, each with its own images, and average their gradients in each step. PyTorch
#   does this (`DistributedDataParallel`, see "Write it").
#
# Each time is the median of three turns. `averaging` is the time of one all-reduce without any training. We
# measure it with as many bytes as our gradient has and with a single number (four bytes).

# %%
from fasttricks.study.limits import measure

size = 4 * parameters  # bytes of the gradient: four for each weight
batches = [4 * devices**power for power in range(8) if 4 * devices**power <= 512]
speeds = measure(devices, batches, [4, size])  # batches: images on each device
alone, joint, averaging = speeds.alone, speeds.together, speeds.all_reduce

# %% [markdown]
# Here are the images per second of one device, and of all devices if they divide the batch equally. We
# measured no shard below 4 images, so their line starts at a larger batch.

# %%
from fasttricks.course import plot

rates = [batch / alone[batch] for batch in batches]
divided = [batch / joint[batch // devices] for batch in batches[1:]]
gains = {batch: alone[batch] / joint[batch // devices] for batch in batches[1:]}  # times as fast
small, large = batches[1], batches[-1]
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
if rise > 1.1:
    how, reached = "makes it faster", "has not reached its top speed yet"
else:
    how = "makes it slower" if rise < 0.95 else "hardly makes it faster"
    reached = "has reached its top speed"
say(
    f"With {batches[0]} images in a batch, one device processes {rates[0]:,.0f} images per second, and with "
    f"{best} images, {max(rates):,.0f}. Going from {batches[-2]} to {batches[-1]} images {how}. So **one "
    f"device {reached}.**"
)

# %% [markdown]
# Small batches are slow because a part of each step does not depend on the images, such as starting each
# layer and updating the weights. A larger batch spreads this part over more images. But once a device has
# reached its top speed, no batch size makes it process more images per second. Does a second device help?

# %%
paying = [
    batch for batch in gains if all(gains[larger] > 1.1 for larger in gains if larger >= batch)
]
say(
    f"Sharing a batch of {small} images, {devices} devices run at **{gains[small]:.2f} times** the speed of "
    f"one. Sharing {large} images, they run at **{gains[large]:.2f} times** its speed. A perfect speed-up "
    f"would be {devices}."
)
say(
    f"**Sharing a batch pays from {paying[0]} images on.** We ask for a gain of at least 10 %, because a "
    f"smaller one may be drift."
    if paying
    else "**Sharing a batch pays at none of these sizes.**"
)

# %% [markdown]
# On GPUs, the arithmetic is the same. But *how large* a batch must be depends on the machine. GPUs reach
# their top speed only with far more work, each has its own memory, and their messages travel over other
# links.
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
# The halves disagree because they contain different images. But the mean of four numbers is also the mean
# of the means of two halves.

# %% tags=["nbval-check-output"]
from fasttricks.course import holds

halves = (slope(x[:2], y[:2]) + slope(x[2:], y[2:])) / 2
holds(halves == slope(x, y), "two half-batches average to the whole batch's gradient")

# %% [markdown]
# So each device needs only its own images, and the average gradient. If all begin with equal weights, they
# then take the same step, and their weights stay equal. The learning rate stays the same too, because the
# gradients are averaged, not added, and the *global* batch, which is the sum of all shards, has not changed.
#
# This works only if the shards are equal. If one device has three images and the other has one, the plain
# mean gives the single image too much weight. Each shard must then be weighted by the number of its images.

# %% tags=["nbval-check-output"]
three, single = slope(x[:3], y[:3]), slope(x[3:], y[3:])
holds((three + single) / 2 != slope(x, y), "the plain mean of unequal parts is wrong")
holds(abs(0.75 * three + 0.25 * single - slope(x, y)) < 1e-6, "weighted by images, it is right")

# %% [markdown]
# ### In a real network
#
# Does this hold in a real network, too? We take two batches of 256 validation images, put all gradients into
# one long vector, and compute in double precision so that rounding cannot hide anything.

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
# `gaps` compares with the gradient of the first batch: the average over its two shards, and, as a scale, the
# gradient of the other batch. It gives the lengths of the differences as fractions of that gradient's length.


# %%
def gaps():
    whole, other = gradient(pixels, targets), gradient(others, other_targets)
    shards = zip(pixels.chunk(2), targets.chunk(2), strict=True)
    averaged = sum(gradient(x, q) for x, q in shards) / 2
    return [((found - whole).norm() / whole.norm()).item() for found in (averaged, other)]


# %% [markdown]
# The exception is **batch norm**. In training, this layer subtracts the mean of *its own* batch and divides
# by its standard deviation, so the images of a batch affect each other, as in no other layer of our network.
# In evaluation, it uses stored statistics instead. We compute the gaps both ways.

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
# The second gap is no bug. The average is the exact gradient of a slightly different network, whose batch
# norm looks at fewer images at a time (*ghost batch norm*, Hoffer et al. 2017, [arXiv
# 1705.08741](https://arxiv.org/abs/1705.08741)). To see whether that matters, we train: with shards of 128
# images, as here, under "Use it", and with tiny ones under "Break it".
#
# ### The same sum on one device
#
# A single device can also take parts of a batch one after another, add up their gradients, and then make
# one step. This is **gradient accumulation**, and such a part is called a **micro-batch**. It saves no time,
# but it has two uses:
#
# - You can train with a batch that does not fit into memory.
# - You can try a cluster's batch before you rent the cluster. If a micro-batch has as many images as a shard
#   there, the gradient is the cluster's, with batch norm too.
#
# In PyTorch, `backward` adds to `.grad` anyway. You only need to weight each micro-batch's loss, and to step
# after the last one:


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
# the same seed, and process r keeps every N-th image, starting with number r. Three processes divide ten
# images like this:


# %%
def shard(values, rank, processes):
    return values[rank::processes]


[shard(torch.arange(10), rank, 3).tolist() for rank in range(3)]

# %% [markdown]
# Second, each of N devices holds one long vector, and all need the average. If one device collected all
# vectors, it would be the bottleneck. In a **ring all-reduce**, each device sends only to the next one in a
# circle. Every vector is cut into N chunks, and a device sends *one* chunk per round: device r begins with
# chunk r and then passes on the chunk that it has just received. In the first N - 1 rounds, the receiver
# *adds* its own numbers. In the other N - 1, it *replaces* them with the finished sums. `ring` yields what
# all devices hold after each round. It ends with the sums, and dividing them by N gives the average.


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
# Four devices begin like this, each with its chunks *a* to *d*. The letter on an arrow is the chunk that
# travels first. If every number is 1 at the start, the value of a chunk shows how many devices have
# contributed to it.

# %%
from fasttricks.course import circle, tally

states = list(ring(torch.ones(4, 4)))
circle(states, {0: "start"})
plt.show()

# %% [markdown]
# Here are all the rounds, with a row for each device:

# %%
titles = ["start"] + [f"round {number}" for number in range(1, len(states))]
tally(states, titles, "chunk", "device", "abcd")
plt.show()

# %% [markdown]
# Follow chunk *a*. Device 0 sends its 1, so device 1 has 2 after round 1. It sends these on, so device 2 has
# 3 after round 2, and device 3 has 4 after round 3: a finished sum. The other chunks do the same, each
# starting at another device. Three more rounds carry the finished sums around the ring.
#
# Now count the bytes. In each of the 2 (N - 1) rounds, a device sends one chunk, an N-th of the gradient.
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
# A ring of 1,024 devices has 2,046 such rounds, so large machines use trees, or rings of rings. PyTorch
# leaves the all-reduce to a library: on CPUs gloo, whose default is a ring, and on GPUs NCCL, which chooses
# between rings and trees.
#
# PyTorch's wrapper for all this is `DistributedDataParallel`, **DDP** for short. It can hide part of the
# cost. The backward pass finishes the last layer's gradients first. DDP
# collects finished gradients in **buckets** (by default, 1 MiB for the first and 25 MiB for the others) and
# sends a full bucket while it computes earlier layers.

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
# In buckets, only the last message delays the step. On a CPU, our package uses DDP with a single bucket,
# because no core is free to send earlier. So nothing was hidden in the times stored here.
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
# You do not need our package. Here is a script, `train_ddp.py`, in ordinary PyTorch:
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
# --rdzv-endpoint FIRST_MACHINE:29500 train_ddp.py` on both.
#
# Five classic bugs:
#
# 1. **`sampler.set_epoch` is missing.** Every epoch then has the same order. No error appears.
# 2. **The batch size is per process.** `DataLoader(data, 128)` in four processes makes a global batch of
#    512, for which the old learning rate is usually too low (chapter 2).
# 3. **`net(x)` instead of `wrapped(x)`.** The gradients are never averaged, and the copies drift apart
#    without an error.
# 4. **Every process saves, downloads, or logs.** They overwrite one file. Let rank 0 do it, and let the
#    others wait with `dist.barrier()` where they need the result.
# 5. **One process does something that the others do not.** It skips a step, stops early, or alone calls
#    `dist.all_reduce`. The others wait for it until a timeout, ten minutes with GPUs.
#
# With gradient accumulation, wrap all but the last micro-batch in `with wrapped.no_sync():`. Otherwise, the
# devices average their gradients after every micro-batch. Do not use `torch.nn.DataParallel`, which copies
# the network to all GPUs in every step. If the model does not fit into one GPU, use **FSDP**
# (`torch.distributed.fsdp.fully_shard`), which also divides the weights and the optimizer's state.
#
# The course's plain script, [`examples/plain.py`](../examples/plain.py), keeps all images in memory and
# needs no `DataLoader`. [`examples/distributed.py`](../examples/distributed.py) is the same script for
# several devices, and here is how the two differ.
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
# Every process draws the order and the flips of the whole batch and keeps its share of both. So here, unlike
# in `train_ddp.py`, all processes keep the same seed. The last shards need not be equal, but DDP divides the
# sum of the gradients by the number of processes as if they were. Multiplying the loss by
# `len(rows) * processes / BATCH`, the shard's size over an equal share, makes up for that.
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
# The `+` adds a trick to a recipe. `share_devices` lets several processes share a device, where there are
# too few. All arms train with the same seeds, the same number of steps, and the same batch, which gives each
# of several devices the 128 images of a `BASELINE` batch. Each run starts new processes, and the variable
# `OMP_NUM_THREADS` tells each of them how many cores to use. (With several processes, `train` sets it
# itself.)

# %%
import os

from fasttricks import train
from fasttricks.course import accuracy_table, faster, gained, one_line


def run(name, seed):
    recipe, cores_each = arms[name]
    os.environ["OMP_NUM_THREADS"] = str(cores_each)
    label = f"{name}, seed {seed}"
    images = budget.images * 3 // 4
    return train(recipe, data, images=images, seed=seed, fresh=True, label=label)


runs = {name: [] for name in arms}
with one_line() as tell:
    for seed in range(budget.seeds):
        for name in arms:
            runs[name].append(run(name, seed))
    tell(f"{len(arms) * budget.seeds} runs, {len(arms)} arms in turns")
accuracy_table(runs)

# %% [markdown]
# Gains are over one device, in percentage points, between two runs with the same seed. Below, "times as fast"
# is the geometric mean of such pairs, so it can differ a little from the ratio of the table's medians.

# %%
clocks = {name: [one.train_seconds for one in found] for name, found in runs.items()}
scores = {name: [one.val_accuracy for one in found] for name, found in runs.items()}


def judged(speed, ours, theirs):  # in a word, what the comparison of two lists of seconds says
    if "about" in speed:
        return "as fast"
    return "faster" if sum(ours) < sum(theirs) else "slower"


speed = faster(clocks[several], clocks[single])
verdict = judged(speed, clocks[several], clocks[single])

# %%
lesson = {
    "faster": "So **the trick makes this training faster**.",
    "slower": "So **the trick makes this training slower**.",
    "as fast": "So **the trick makes no clear difference to the time of this training**.",
}[verdict]
say(
    f"Compared with one device, {devices} devices that shared batches of {plain.batch} images trained "
    f"**{speed}**. {lesson}"
)
if plain.batch in gains:
    say(
        f"`measure` found {gains[plain.batch]:.2f} times for steps of this size, with batches that are "
        f"already in memory."
    )

# %% [markdown]
# Here is the validation accuracy of seed 0. Each line has its marks after the same numbers of images, so a
# line that lies further to the left belongs to a faster training run.

# %%
curves = {}
for name, found in runs.items():
    _, seconds, accuracies = zip(*found[0].curve, strict=True)
    curves[name] = (seconds, accuracies)
plot(curves, "seconds of training", "validation accuracy", marks=True)
plt.show()

# %% [markdown]
# What about the accuracy? With several devices, batch norm sees 128 images at a time instead of the whole
# batch. Did the different gradient that batch norm caused above do harm?

# %%
guess = 1 / len(data.classes)
learned = gained(scores[several], scores[single], guess)
seen = runs[single][0]
largest = max(100 * abs(a - b) for a, b in zip(scores[several], scores[single], strict=True))
if "about the same" in learned:
    harm = f"changed the accuracy of these short runs by at most {largest:.1f} points"
elif "lower" in learned:
    harm = "cost accuracy in these short runs"
elif "higher" in learned:
    harm = "did no harm in these short runs"
else:
    harm = "may have done harm or not: these short runs cannot tell"
say(
    f"After {seen.images_seen / len(data.train):.2f} epochs, this is the accuracy of {devices} devices "
    f"compared with one: **{learned}**. So the different gradient **{harm}**."
)

# %% [markdown]
# What if the trick adds no device? This is the comparison of our study, which had batches of 128: the same
# cores, once used by one process and once divided among several.

# %%
if whole in runs:
    against = faster(clocks[several], clocks[whole])
    outcome = judged(against, clocks[several], clocks[whole])
    lesson = {
        "faster": "Even so, several processes used these cores better than one.",
        "slower": "So here **the trick costs time**.",
        "as fast": "So here **the trick gains nothing**.",
    }[outcome]
    say(
        f"Compared with one process that uses all {devices * part} cores, {devices} processes trained "
        f"**{against}**. {lesson}"
    )
elif enough:
    say("Here each process had a GPU of its own, so this comparison does not apply.")
else:
    say(
        f"Here {devices} processes shared what one process had to itself. They trained **{speed}**, compared "
        f"with it."
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
# How small can a shard get? With few images, the mean and the standard deviation that batch norm computes
# are noisy, and each image is changed by whichever others happen to be in its shard. In evaluation, batch
# norm uses averages over many steps, so it then works with other statistics than in training.
#
# With gradient accumulation, we can try this without a cluster. With `accumulate=64`, one process cuts each
# batch of 128 images into 64 micro-batches of 2, as many images as each of 64 devices would have. We compare
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
# The stored averages, called *running* statistics, move by a tenth in every forward pass. A step with 64
# micro-batches has 64 forward passes, and one with an undivided batch has one, so in a short training run
# the undivided batches would be at a disadvantage. We therefore recompute these statistics for all networks,
# from the same 2,000 training images. (A cluster does not have this problem.)

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
to_sixteen, to_two = sum(undivided) - sum(sixteen), sum(sixteen) - sum(two)
if "lower" not in few:
    judged_norm = "we cannot tell how many images in a shard are too few for batch norm"
elif to_two > 5 * abs(to_sixteen):
    judged_norm = (
        "2 images in a shard are too few for batch norm, and nearly all of the accuracy is lost "
        "between 16 and 2"
    )
else:
    judged_norm = "2 images in a shard are too few for batch norm, and 16 do not avoid the drop"
say(f"So in the first steps of training, **{judged_norm}**.")

# %% [markdown]
# We did not train to the end, but Wu and He 2018 did ([arXiv
# 1803.08494](https://arxiv.org/abs/1803.08494)). They report for ResNet-50 on ImageNet an error of 23.6 %
# with 32 images per GPU, 23.7 % with 16, 24.8 % with 8, and 34.7 % with 2.
#
# There are two cures. `torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)`, called before you wrap the
# network, computes the statistics over all devices. It needs GPUs and more messages. Or use a norm that
# looks at one image at a time, such as their group norm.
#
# ## Break it: too little work to share
#
# Why does sharing a small batch pay less? Perfect would be an N-th of the time that one device needs for
# the whole batch. Two obstacles add to it:
#
# 1. The part of the step that does not depend on the images **does not shrink** with the shard.
# 2. **Working together** has a price: the averaging, and the rest. (The devices wait for the slowest of
#    them, for example, and the cores of one CPU compete for memory bandwidth and cache.)
#
# The table breaks down one step, for the smallest and the largest batch we divided.

# %%
import pandas as pd


def apart(batch):  # milliseconds of the devices' step
    share = batch // devices
    together = joint[share] - alone[share]
    return {
        f"perfect: one device's step / {devices}": 1e3 * alone[batch] / devices,
        "+ does not shrink": 1e3 * (alone[share] - alone[batch] / devices),
        "+ the averaging by itself": 1e3 * averaging[size],
        "+ the rest of working together": 1e3 * (together - averaging[size]),
        "= measured": 1e3 * joint[share],
    }


steps = {f"{batch} images": apart(batch) for batch in (small, large)}
pd.DataFrame(steps).round(1)

# %% [markdown]
# The unit is milliseconds. A number below zero means that this part took less time than expected.

# %%
perfect, fixed, message, rest, measured = steps[f"{small} images"].values()
names = {"the part that does not shrink": fixed, "the averaging by itself": message}
names["the rest of working together"] = rest
cause = max(names, key=names.get)
say(
    f"With a batch of {small}, the devices need {measured:.1f} ms instead of {perfect:.1f}. The largest part "
    f"of the difference is **{cause}**, {names[cause]:.1f} ms."
)
lost = {batch: max(0, 1 - gains[batch] / devices) for batch in (small, large)}
less = "smaller" if lost[large] < lost[small] else "no smaller"
say(
    f"All obstacles together take {100 * lost[small]:.0f} % of the step with {small} images and "
    f"{100 * lost[large]:.0f} % with {large}. So **with the larger batch, their share is {less}**."
)

# %% [markdown]
# So do not shrink the shard. If each device *keeps* its batch, the global batch grows with the number of
# devices, and no shard gets smaller. The next figure compares this with sharing. On its x axis is the batch
# that one device had before the others came.

# %%
kept = {batch: devices * alone[batch] / joint[batch] for batch in batches}
plot(
    {
        "each device keeps this batch": (batches, list(kept.values())),
        "the devices share this batch": (batches[1:], list(gains.values())),
    },
    "images in the batch of one device",
    "times as many images per second",
    f"grey: no gain (1) and perfect ({devices})",
    scale="log",
    marks=True,
)
plt.axhline(1, color="grey")
plt.axhline(devices, color="grey")
plt.show()

# %%
better = sum(kept[batch] > gains[batch] for batch in gains)
where = "at every size" if better == len(gains) else f"at {better} of {len(gains)} sizes"
working = [batch for batch in kept if all(kept[larger] > 1.1 for larger in kept if larger >= batch)]
middle = batches[len(batches) // 2]
from_where = f" It gains at least 10 % from {working[0]} images on each device." if working else ""
say(
    f"With {middle} images, sharing them brings {gains[middle]:.2f} times the images per second of one "
    f"device, and keeping them on each brings {kept[middle]:.2f} times. **Keeping the batch brings more "
    f"images per second {where}.**{from_where}"
)

# %% [markdown]
# But a larger global batch also means fewer steps per epoch. Chapter 2 asks whether the network still learns
# as much from the same images.
#
# ## What to remember
#
# What became of the card's promises?

# %%
say(
    f"- **The same gradient:** yes, up to {stored:.0e}, without batch statistics. With them, the gap was "
    f"{own:.2f}. The accuracy of {devices} devices, compared with one: {learned}."
)
times = {batch: alone[batch // devices] / averaging[size] for batch in gains}
if gains[large] <= 1.1:
    long = "not seen here."
elif gains[small] > 1.1:
    long = "it paid at every size."
else:
    long = "yes."
say(
    f"- **It pays when computation takes much longer than communication:** {long} With {large} images, "
    f"computing took {times[large]:.1f} times as long as averaging, and the speed-up was {gains[large]:.2f}. "
    f"With {small} images, the numbers were {times[small]:.1f} and {gains[small]:.2f}."
)

# %%
small_fails = "yes" if gains[small] < 1.1 else "not here"
say(
    f"- **It fails when the shard is small:** {small_fails}, with {small // devices} images on each device "
    f"(see above). And with 2 images in a shard, the accuracy with batch norm was {few}. We tried no smaller "
    f"network."
)
if whole in runs or not enough:
    shared, outcome = (against, outcome) if whole in runs else (speed, verdict)
    failed = "not here" if outcome == "faster" else "yes"
    say(
        f"- **It fails when the processes share what one process could use alone:** {failed}. {devices} "
        f"processes on the {'GPU' if gpus else 'cores'} of one trained {shared}."
    )

# %% [markdown]
# On several GPUs, these numbers will differ, so these five rules help you to find your own:
#
# 1. **Fill one device first.** Raise its batch until the images per second no longer rise.
# 2. **Then add devices, and let each keep that batch.** The global batch grows, so scale the learning rate
#    (chapter 2).
# 3. **If the global batch must stay, time one device with the whole batch and with an N-th of it.** The
#    ratio of the two times is the most that N devices can gain. If it is near 1, do not share that batch.
# 4. **Before a long run, time 50 steps on one device and on all of them.** If the gain is far below the
#    ratio of rule 3, working together is too expensive. Then use a larger batch or fewer devices.
# 5. **With batch norm, keep about 16 images or more on each device** (see Wu and He's figures), or use
#    `SyncBatchNorm`. If you must go lower, try it first on one device, with gradient accumulation.
#
# ## Questions
#
# **1. Must I change the learning rate when I go from one GPU to four?**
#
# <details><summary>Answer</summary>Not if the global batch stays the same, because DDP averages the
# gradients. If each GPU keeps its batch, the global batch grows: see chapter 2.</details>
#
# **2. Why do the bytes that a device sends in a ring hardly depend on the number of devices?**
#
# <details><summary>Answer</summary>More devices mean more rounds but smaller chunks: in total, each device
# sends 2 (N - 1) / N times the gradient, which is less than twice.</details>
#
# **3. Each process shuffles with its own seed. What goes wrong?**
#
# <details><summary>Answer</summary>Shards of different orders overlap: some images are seen twice in an
# epoch, others never. All processes must draw the same order and take different parts of it.</details>
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
# - Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677): ImageNet in one hour.
# - Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", Journal
#   of Parallel and Distributed Computing 69: the ring, and why no algorithm sends fewer bytes.
