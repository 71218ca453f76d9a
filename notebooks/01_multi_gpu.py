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
# shows why the two halves add up to exactly the step of the whole batch, what adding them costs, and at
# what size the cost is worth it. The devices are all of your GPUs. On a machine without a GPU, each half
# of the cores stands in for a device. Everything below works the same way there, but no device is added,
# so do not expect a speed-up: our recorded study, below, had two cores and no GPU.
#
# About 20 minutes to read, and two to run. Kaggle's "GPU T4 x2" gives you two GPUs for free.

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
# The budget depends on the device. We also count the devices: if there is only one, two processes will
# share it below, which is correct but slower.

# %%
from fasttricks import BASELINE, Distributed, choose_budget, load
from fasttricks.course import train_arms

budget = choose_budget()
data = load()
here = data.to(BASELINE.world.device(), budget.image_size)
devices = max(2, Distributed().count())
budget, devices

# %% [markdown]
# First, we print what our recorded study found about this trick: the seconds of training until a fixed
# validation accuracy, without the trick and with it, and then for all seven tricks and for the other six.
# Each ratio belongs to the run named just before it: above 1, that run gets there sooner. Below it is the
# trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import distributed

print(headline("distributed"))
Markdown(distributed.__doc__)

# %% [markdown]
# ## The hurt: a device that is full
#
# Larger batches keep a device busier. How far does that go? In a new process, we time one training step
# at several batch sizes. `shares` divides the cores into that many equal parts and gives the process one
# of them, which is no more than it will have later, when other processes run beside it.

# %%
from fasttricks.study.limits import measure

batches = [4 * devices**power for power in range(8) if 4 * devices**power <= 512]
first = measure(1, batches, shares=devices, rounds=1).alone

# %% [markdown]
# We convert seconds per step to images per second:

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, holds, plot, tally

rates = [batch / first[batch] for batch in batches]
figure = plot(
    {"one device": (batches, rates)},
    "images in a batch",
    "images a second",
    scale="log",
    marks=True,
)
plt.show()

# %% [markdown]
# At the left, the device spends time waiting, mostly for Python to tell it what to do. Where the line
# becomes flat, the device is full: twice the images take twice as long. From there on, larger batches
# bring no gain, but another device might.
#
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
# devices then take the same step, so their copies of the weights always stay equal.
#
# The learning rate stays the same because the gradients are averaged, not added, and the *global* batch
# does not change. (If it grows, see chapter 2.)
#
# Do the halves match the whole in a real network, too? We collect all the gradients in one long row, in
# double precision so that rounding cannot hide anything.

# %%
from fasttricks.models import begin

net = (
    begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)
    .double()
    .to(here.val.y.device)
)
images = data.normalise(here.val.x[:64]).double()
targets = torch.nn.functional.one_hot(here.val.y[:64], len(data.classes)).double()

# %% [markdown]
# A **shard** is one process's part of the batch. `gap` measures how far the shards' average is from the
# whole batch's gradient, as a fraction of the length of that gradient.


# %%
def gradient(x, q):
    net.zero_grad()
    torch.nn.functional.cross_entropy(net(x), q).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


def gap(shards):
    parts = zip(images.chunk(shards), targets.chunk(shards), strict=True)
    mean = sum(gradient(x, q) for x, q in parts) / shards
    whole = gradient(images, targets)
    return ((mean - whole).norm() / whole.norm()).item()


# %% [markdown]
# Batch norm is the one layer in which images affect each other: in training, it subtracts the mean of
# *its own* batch. We compute the gap with this switched off, then on.

# %%
found = {}
for name, training in {"stored statistics": False, "batch statistics": True}.items():
    net.train(training)
    found[name] = gap(2)
found

# %% tags=["nbval-check-output"]
holds(found["stored statistics"] < 1e-9, "without batch statistics, halves are the whole, exactly")
holds(found["batch statistics"] > 1e-3, "with batch statistics, each shard sees its own mean")

# %% [markdown]
# The second gap is not a bug, but it hurts when a shard has few images. In that case,
# `torch.nn.SyncBatchNorm`, on GPUs only, shares the statistics too, at the cost of two more messages per
# layer.

# %%
shards = [2, 4, 8, 16, 32]
plot(
    {"batch norm": ([64 // n for n in shards], [gap(n) for n in shards])},
    "images in a shard (64 in all)",
    "relative gap to the whole gradient",
    scale="log",
    marks=True,
)
plt.show()

# %% [markdown]
# Read the plot from right to left: in general, the fewer images a shard has, the further the average is
# from the gradient of the whole batch. At a gap of 1, the error is as large as the gradient itself.
#
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
# Let every number be 1. The value that a device holds then shows how many devices have contributed to it.

# %%
states = list(ring(torch.ones(4, 4)))
titles = ["start"] + [f"round {number}" for number in range(1, len(states))]
tally(states, titles, "chunk", "device")
plt.show()

# %% [markdown]
# Follow the left column. The first device sends its 1, so the second has 2 after round 1. The second
# sends its 2, so the third has 3 after round 2. After round 3, the last has 4, a finished sum. The other
# columns do the same, each starting one device further down and wrapping from the bottom to the top.
# Every device now has one finished chunk, and three more rounds carry the chunks around the ring.
#
# Now count the bytes. In each of the 2 (N - 1) rounds, a device sends one chunk, an N-th of the gradient.
# In total, it sends 2 (N - 1) / N times the gradient's bytes: less than twice, *however many devices
# there are*.

# %%
parameters = sum(parameter.numel() for parameter in net.parameters())
size = 4 * parameters  # bytes of the gradient in fp32
for n in (2, 8, 256):
    print(f"{n:3} devices: {2 * (n - 1) / n * size / 1e6:.2f} MB sent by each, a step")

# %% [markdown]
# `DistributedDataParallel` (DDP) even hides part of that cost. The backward pass finishes the last
# layer's gradients first. DDP collects finished gradients in **buckets** (by default, 1 MiB for the first
# and 25 MiB for the others) and sends each full bucket while earlier layers are still being computed, so
# sending and computing overlap. A small network's gradient fits into one or two buckets, so little
# overlaps. Where the processes share one machine's cores, no core is free to send early; in that case,
# the package asks for one bucket, which saves one wait per step.
#
# In the classic example, Goyal et al. 2017 ([arXiv 1706.02677](https://arxiv.org/abs/1706.02677)) gave 32
# images to each of 256 GPUs, for a global batch of 8,192, and trained on ImageNet in one hour, with about
# 90 % scaling efficiency from 8 to 256 GPUs.
#
# ## Check it
#
# Our shards match the package's, and no image is lost or counted twice, whatever the number of images or
# processes.

# %% tags=["nbval-check-output"]
rows = torch.arange(101)
parts = [distributed.shard(rows, rank, 4) for rank in range(4)]
same = all(torch.equal(part, shard(rows, rank, 4)) for rank, part in enumerate(parts))
holds(same, "ours is the package's")
holds(torch.equal(torch.cat(parts).sort().values, rows), "every row is in exactly one shard")

# %% [markdown]
# You cannot take this for granted. PyTorch's own `DistributedSampler` makes all shards the same length by
# showing some images twice. That is harmless for training, but wrong for measuring accuracy.

# %% tags=["nbval-check-output"]
from torch.utils.data import DistributedSampler

samplers = [DistributedSampler(rows, 4, rank, shuffle=False) for rank in range(4)]
counted = sum(len(list(sampler)) for sampler in samplers)
holds(counted == 104, "DistributedSampler counts 104 of 101 images")

# %% [markdown]
# We check the ring too: every device ends with the sum and has sent as much as the formula says.

# %% tags=["nbval-check-output"]
numbers = torch.arange(25.0).view(5, 5)
*_, last = ring(numbers)
holds(all(torch.equal(row, numbers.sum(0)) for row in last), "every device ends with every sum")
rounds = len(list(ring(numbers))) - 1
holds(rounds / 5 == 2 * (5 - 1) / 5, "each sends 2 (N - 1) / N times the gradient")

# %% [markdown]
# ## In your own loop
#
# You do not need this package for it. To turn a plain PyTorch script into one for several devices, remove
# the `-` lines below and add the `+` lines.
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
# +    gpu = torch.cuda.is_available()
# +    device = f"cuda:{os.environ['LOCAL_RANK']}" if gpu else "cpu"
# +    dist.init_process_group("nccl" if gpu else "gloo")
# +    rank, processes = dist.get_rank(), dist.get_world_size()
# +    if rank == 0:
# +        load(folder)  # one of them downloads
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
# torchrun: `torchrun --nproc-per-node 2 distributed.py`. Every process draws the same order and keeps its
# share of each batch. The loss is weighted by the share's size, in case the batch does not divide evenly.
# Only the process with rank 0 evaluates and prints, and only it would save the model.
#
# ## Use it
#
# Now we use real processes. `train` starts them with torchrun, PyTorch's launcher, each on its own
# device. torchrun starts fresh processes, so it does not matter that this notebook has already used the
# device. The global batch is the same, and so is the seed.

# %%
together = Distributed(devices, share_devices=True)
recipes = {"one process": BASELINE, f"{devices} processes": BASELINE + together}
arms = train_arms(recipes, data, images=budget.images // 2, seeds=min(2, budget.seeds))
accuracy_table(arms)

# %% [markdown]
# Read the gain first: its range should include zero, or nearly so. The trick is about time; it must not
# change what is learned. Then read the seconds. On a CPU, both columns use *all* the cores, whether or
# not they are divided among processes: no device was added. With two GPUs, the second column has twice
# the hardware.

# %%
curves = {
    name: ([p[0] for p in runs[0].curve], [p[2] for p in runs[0].curve])
    for name, runs in arms.items()
}
plot(curves, "images seen", "validation accuracy", "one seed", marks=True)
plt.show()

# %% [markdown]
# Where the lines diverge, the reason is that each process has its own batch-norm means and that rounding
# errors grow. Another seed would make them diverge too, so compare the distance with the ranges in the
# table.

# %% tags=["nbval-check-output"]
one, many = arms.values()
alike = all(
    (a.steps, a.images_seen) == (b.steps, b.images_seen) for a, b in zip(one, many, strict=True)
)
holds(alike, "as many steps and images, however many processes")
holds({run.processes for run in many} == {devices}, "and the processes were really there")

# %% [markdown]
# ## Break it: shards too small
#
# How much do you really gain from N devices? There are two ways to ask this.
#
# - **Weak scaling**: each process gets as many images as the single process had. A perfect machine does N
#   times the work in the *same* time.
# - **Strong scaling**: the batch of the single process is divided among all of them. A perfect machine
#   needs an *N-th* of the time.
#
# The **efficiency** is the perfect time divided by the measured time. `alone[b]` is the number of seconds
# per step for one process with b images, and `crowd[b]` for N processes with b images *each*. We measure
# the two in turns because a machine's speed drifts. We also time the all-reduce by itself, on messages
# from a sixty-fourth of our gradient's size to four times its size.

# %%
messages = [size // 64 // 4 * 4, size // 8 // 4 * 4, size, 4 * size]
speeds = measure(devices, batches, messages)
alone, crowd, reduces = speeds.alone, speeds.together, speeds.all_reduce
weak = [alone[b] / crowd[b] for b in batches]
strong = [alone[b * devices] / devices / crowd[b] for b in batches[:-1]]

# %%
lines = {"weak scaling": (batches, weak), "strong scaling": (batches[:-1], strong)}
plot(lines, "images a process", "efficiency", f"{devices} processes", scale="log", marks=True)
plt.axhline(1 / devices, color="grey")
plt.show()

# %% [markdown]
# At an efficiency of 1, nothing is lost. At the grey line, 1 / N, all processes together are as fast as
# one alone; below it, they are slower. At the left end, the step is short, but the messages are as long
# as ever. Towards the right, the work should outweigh them. On a CPU, the processes also share one
# memory, which can cost more than the messages do.
#
# ## What would 1,024 devices do?
#
# A model can estimate this. A ring has 2 (N - 1) rounds, and in each round every device sends an N-th of
# the gradient. A round takes a fixed time, the **latency**, however short the message is, plus the
# message's bytes divided by the **bandwidth**, in bytes per second. We fit these two unknowns to the
# shortest and the longest message only.

# %%
pieces = {s: (s / devices, reduces[s] / (2 * (devices - 1))) for s in messages}
(short, quick), (long, slow) = pieces[messages[0]], pieces[messages[-1]]
bandwidth = (long - short) / max(slow - quick, 1e-9)
latency = max(0.0, quick - short / bandwidth)
print(f"latency {1e6 * latency:.0f} microseconds, bandwidth {bandwidth / 1e9:.2f} GB/s")


# %% [markdown]
# Then we test the model on messages that the fit did not use, including one the size of our network's
# gradient.


# %%
def wire(size, n):
    return 2 * (n - 1) * (latency + size / n / bandwidth)


for s in messages[1:3]:
    model, measured = 1e3 * wire(s, devices), 1e3 * reduces[s]
    print(f"{s / 1e6:.2f} MB: {model:.2f} ms by the model, {measured:.2f} ms measured")

# %% [markdown]
# We also test it on whole steps: according to the model, a joint step takes as long as a step alone plus
# the all-reduce.

# %%
guess = [alone[b] / (alone[b] + wire(size, devices)) for b in batches]
lines = {"measured": (batches, weak), "model": (batches, guess)}
plot(lines, "images a process", "efficiency (weak scaling)", scale="log", marks=True)
plt.show()

# %% [markdown]
# Where the model lies above the measurement, it leaves something out: shared memory and caches on a CPU,
# waiting for the slower process, or DDP's own bookkeeping. Where it lies below, computing and sending may
# have overlapped. Where the model is too optimistic here, so is the next plot.
#
# That plot is a **prediction**, not a measurement: it assumes more devices than we have, connected as
# ours are.

# %%
counts = [2, 4, 8, 16, 64, 256, 1024]
lines = {
    f"{b} images a device": (counts, [alone[b] / (alone[b] + wire(size, n)) for n in counts])
    for b in (batches[len(batches) // 2], batches[-1])
}
plot(lines, "devices", "predicted efficiency", "a prediction", scale="log", marks=True)
plt.show()

# %% [markdown]
# The bytes per device hardly grow with N, but the number of rounds does: a ring of 1,024 devices has
# 2,046 rounds, and each costs one latency. Large machines therefore use trees and rings of rings, and
# give each device as much work as it can hold.
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
# device sends 2 (N - 1) / N times the gradient. The latencies still add up, one per round.</details>
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
# learning rate at each step. Different: the shard, and the randomness applied to each shard's
# images.</details>
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
