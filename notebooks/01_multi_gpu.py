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
# One device takes a batch, computes, and steps. Two devices could take half of it each. This chapter
# shows why the halves add up to exactly the step of the whole, what it costs to add them, and at which
# size the cost is worth it. The devices are your GPUs, all of them. On a machine without one, each half
# of the cores plays a device. Everything below works the same there. But no device is added then, so do
# not expect it to be faster: our recorded study, below, had two cores and no GPU.
#
# About 20 minutes to read, and two to run. Kaggle's "GPU T4 x2" is a free way to two GPUs.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/01_multi_gpu.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/01_multi_gpu.ipynb).
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
# The budget follows the device. How many devices are there? If only one, two processes will share it
# below, which is correct, and slower.

# %%
from fasttricks import BASELINE, Distributed, choose_budget, load
from fasttricks.course import train_arms

budget = choose_budget()
data = load()
here = data.to(BASELINE.world.device(), budget.image_size)
devices = max(2, Distributed().count())
budget, devices

# %% [markdown]
# First, what our recorded study found about this trick: how long training took with and without it, and
# how many times as soon it was at a fixed validation accuracy (above 1 is sooner). Then the trick's card,
# straight from the top of its file.

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
# at several batch sizes. `shares` cuts the cores into that many equal parts, and the process gets one: no
# more than it will have later, beside others.

# %%
from fasttricks.study.limits import measure

batches = [4 * devices**power for power in range(8) if 4 * devices**power <= 512]
first = measure(1, batches, shares=devices, rounds=1).alone

# %% [markdown]
# From seconds a step to images a second:

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
# At the left the device waits, mostly for Python to tell it what to do. Where the line becomes flat, the
# device is full: twice the images take twice as long. From there on, larger batches bring nothing, and
# another device might.
#
# ## By hand: half and half is whole
#
# What must two devices tell each other? Take the smallest network there is, one weight, and four
# images of one number each. The loss is the mean of the squares of `weight * x - y`. This is its slope in
# the weight, on the whole batch, and on each half:

# %%
import torch

x, y, weight = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 3, 5, 9]), 1.0


def slope(x, y):
    return (2 * (weight * x - y) * x).mean().item()


slope(x, y), slope(x[:2], y[:2]), slope(x[2:], y[2:])

# %% [markdown]
# The halves disagree, for they saw different images. But a mean of four is the mean of two means of two.

# %% tags=["nbval-check-output"]
halves = (slope(x[:2], y[:2]) + slope(x[2:], y[2:])) / 2
holds(halves == slope(x, y), "two half-batches average to the whole batch's gradient")

# %% [markdown]
# So each device needs only its own images, and one number in return: the average gradient. Then both
# take the same step, and their copies of the weights stay equal for ever.
#
# The learning rate stays, for gradients are averaged, not added, and the *global* batch is the same.
# (When it grows, see chapter 2.)
#
# Are the halves the whole in a real network, too? We ask for every gradient at once, as one long row, in
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
# A **shard** is one process's part of the batch. `gap` is how far the shards' average is from the whole
# batch's gradient, as a share of the latter's length.


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
# Batch norm is the one layer in which images see each other: in training it subtracts the mean of *its
# own* batch. We look at the gap with that switched off, and on.

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
# The second gap is no fault, but it hurts when a shard has few images. `torch.nn.SyncBatchNorm` then shares
# the statistics too, for two more messages a layer.

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
# Read it from right to left: on the whole, the fewer images a shard has, the further the average is from
# the gradient of the whole batch. At 1, the error is as long as the gradient itself.
#
# ## Write it
#
# The trick has two halves. First, who takes which images? Every process draws the same batch from the
# same seed, and keeps every N-th image.


# %%
def shard(values, rank, processes):
    return values[rank::processes]


[shard(torch.arange(10), rank, 3).tolist() for rank in range(3)]

# %% [markdown]
# Second, how do N devices average the long rows that they hold, one each? Sending all to one device would
# make that one the bottleneck. In a **ring all-reduce** the devices stand in a circle, and each sends only
# to the next. Every row is cut into N chunks, and in a round each device sends *one*: device r begins with
# chunk r, and then sends on what has just come in. For N - 1 rounds the receiver *adds* its own numbers.
# For N - 1 more it *replaces* them by the finished sums. Divided by N, these are the average.


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
# Let every number be 1. Then what a device holds says how many devices have added to it.

# %%
states = list(ring(torch.ones(4, 4)))
titles = ["start"] + [f"round {number}" for number in range(1, len(states))]
tally(states, titles, "chunk", "device")
plt.show()

# %% [markdown]
# Follow the left column. The first device sends its 1, so the second has 2 after round 1; it sends these, so
# the third has 3; after round 3 the last has 4, a finished sum. The other columns do the same, each a device
# further down, and from the bottom on to the top. Now every device owns one finished chunk, and three more
# rounds carry it around.
#
# Now count. In each of 2 (N - 1) rounds a device sends one chunk, an N-th of the gradient. Together that is
# 2 (N - 1) / N times its bytes: less than twice, *however many devices there are*.

# %%
parameters = sum(parameter.numel() for parameter in net.parameters())
size = 4 * parameters  # bytes of the gradient in fp32
for n in (2, 8, 256):
    print(f"{n:3} devices: {2 * (n - 1) / n * size / 1e6:.2f} MB sent by each, a step")

# %% [markdown]
# `DistributedDataParallel` (DDP) hides even part of that. The backward pass finishes the last layer's
# gradients first. DDP collects finished gradients in **buckets** (of 1 MiB for the first and 25 MiB for
# the others, unless told otherwise), and sends a full bucket while earlier layers are still being
# computed: sending and computing overlap. A small net's gradient fits one or two buckets, and little
# overlaps. Where the processes share one machine's cores, no core is free to send early; there the
# package asks for one bucket, which is one wait less per step.
#
# The classic example: Goyal et al. 2017 ([arXiv 1706.02677](https://arxiv.org/abs/1706.02677)) gave 32
# images to each of 256 GPUs, a global batch of 8,192, and trained ImageNet in one hour, with about 90 %
# scaling efficiency from 8 to 256 GPUs.
#
# ## Check it
#
# Our shards are the package's, and no image is lost or counted twice, whatever the numbers.

# %% tags=["nbval-check-output"]
rows = torch.arange(101)
parts = [distributed.shard(rows, rank, 4) for rank in range(4)]
same = all(torch.equal(part, shard(rows, rank, 4)) for rank, part in enumerate(parts))
holds(same, "ours is the package's")
holds(torch.equal(torch.cat(parts).sort().values, rows), "every row is in exactly one shard")

# %% [markdown]
# That is not self-evident. PyTorch's own `DistributedSampler` makes all shards equally long by showing
# some images twice. For training that is harmless. For an accuracy it is wrong.

# %% tags=["nbval-check-output"]
from torch.utils.data import DistributedSampler

samplers = [DistributedSampler(rows, 4, rank, shuffle=False) for rank in range(4)]
counted = sum(len(list(sampler)) for sampler in samplers)
holds(counted == 104, "DistributedSampler counts 104 of 101 images")

# %% [markdown]
# And the ring: everybody ends with the sum, having sent what the formula says.

# %% tags=["nbval-check-output"]
numbers = torch.arange(25.0).view(5, 5)
*_, last = ring(numbers)
holds(all(torch.equal(row, numbers.sum(0)) for row in last), "every device ends with every sum")
rounds = len(list(ring(numbers))) - 1
holds(rounds / 5 == 2 * (5 - 1) / 5, "each sends 2 (N - 1) / N times the gradient")

# %% [markdown]
# ## In your own loop
#
# You do not need this package for it. This is what turns a plain PyTorch script into one for several
# devices; `-` goes, `+` comes.
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
# The whole is [`examples/distributed.py`](../examples/distributed.py), and torchrun starts it:
# `torchrun --nproc-per-node 2 distributed.py`. Every process draws the same order and keeps its share of each
# batch. The loss is weighted by the share's size, in case the batch does not divide. Only the process of rank 0
# evaluates, prints, and would save.
#
# ## Use it
#
# Now real processes. `train` starts them by torchrun, PyTorch's starter, each on its own device. torchrun
# starts fresh processes, so it does not matter that this notebook has already used the device. The global
# batch is the same, so is the seed.

# %%
together = Distributed(devices, share_devices=True)
recipes = {"one process": BASELINE, f"{devices} processes": BASELINE + together}
arms = train_arms(recipes, data, images=budget.images // 2, seeds=min(2, budget.seeds))
accuracy_table(arms)

# %% [markdown]
# Read the gain first: its range should include zero, or nearly. The trick is about time; it must not
# change what is learned. Then the seconds. On a CPU, both columns have *all* the cores, cut into processes
# or not: no device was added. With two GPUs, the second column has twice the machine.

# %%
curves = {
    name: ([p[0] for p in runs[0].curve], [p[2] for p in runs[0].curve])
    for name, runs in arms.items()
}
plot(curves, "images seen", "validation accuracy", "one seed", marks=True)
plt.show()

# %% [markdown]
# Where the lines part, it is because each process has its own batch-norm means, and because rounding errors
# grow. Another seed would part them, too: compare the distance with the ranges in the table.

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
# How much of N devices is real gain? There are two questions.
#
# - **Weak scaling**: each gets as many images as the one process had. A perfect machine needs the *same*
#   time for N times the work.
# - **Strong scaling**: the batch of the one process is shared out. A perfect machine needs an *N-th* of the
#   time.
#
# The perfect time over the measured one is the **efficiency**. `alone[b]` are the seconds of one process
# with b images, `crowd[b]` those of N processes with b images *each*, a step. The two take turns, because
# a machine's speed drifts. We also time the all-reduce by itself, on messages from a sixty-fourth of our
# gradient to four times the gradient.

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
# At 1 nothing is lost. At the grey line, 1 / N, all processes together are as fast as one alone, and below
# it, slower. At the left end the step is short, and the messages are as long as ever. To the right the work
# should outweigh them. On a CPU the processes also share one memory, which can cost more than messages do.
#
# ## What would 1,024 devices do?
#
# A model can guess. A ring has 2 (N - 1) rounds, and each sends an N-th of the gradient. A round takes a
# fixed time, the **latency**, however short the message is, plus its bytes divided by the **bandwidth**, in
# bytes a second. Two unknowns: we fit them on the shortest and the longest message only.

# %%
pieces = {s: (s / devices, reduces[s] / (2 * (devices - 1))) for s in messages}
(short, quick), (long, slow) = pieces[messages[0]], pieces[messages[-1]]
bandwidth = (long - short) / max(slow - quick, 1e-9)
latency = max(0.0, quick - short / bandwidth)
print(f"latency {1e6 * latency:.0f} microseconds, bandwidth {bandwidth / 1e9:.2f} GB/s")


# %% [markdown]
# Then we test it on messages that it has not seen, the gradient of our network among them.


# %%
def wire(size, n):
    return 2 * (n - 1) * (latency + size / n / bandwidth)


for s in messages[1:3]:
    model, measured = 1e3 * wire(s, devices), 1e3 * reduces[s]
    print(f"{s / 1e6:.2f} MB: {model:.2f} ms by the model, {measured:.2f} ms measured")

# %% [markdown]
# And on whole steps: by the model, a step together takes a step alone, plus the all-reduce.

# %%
guess = [alone[b] / (alone[b] + wire(size, devices)) for b in batches]
lines = {"measured": (batches, weak), "model": (batches, guess)}
plot(lines, "images a process", "efficiency (weak scaling)", scale="log", marks=True)
plt.show()

# %% [markdown]
# Where the model runs above the measurement, something is missing in it: shared memory and caches on a
# CPU, waiting for the slower process, DDP's own book-keeping. Where it runs below, computing and
# sending may have overlapped. Where it is too kind here, so is what comes next.
#
# It is a **prediction**, not a measurement: more devices than we have, connected as ours are.

# %%
counts = [2, 4, 8, 16, 64, 256, 1024]
lines = {
    f"{b} images a device": (counts, [alone[b] / (alone[b] + wire(size, n)) for n in counts])
    for b in (batches[len(batches) // 2], batches[-1])
}
plot(lines, "devices", "predicted efficiency", "a prediction", scale="log", marks=True)
plt.show()

# %% [markdown]
# The bytes hardly grow with N, but the rounds do: a ring of 1,024 has 2,046, and each costs a latency. So
# large machines use trees, and rings of rings, and give each device as much work as it can hold.
#
# ## Questions
#
# **1. DDP averages the gradients. Must I change the learning rate when I go from one GPU to four?**
#
# <details><summary>Answer</summary>Not if the global batch stays the same, each GPU taking a quarter. If
# each GPU keeps its batch, the global batch has grown four times, and chapter 2 says what to do.</details>
#
# **2. Why do the bytes that a device sends in a ring hardly depend on the number of devices?**
#
# <details><summary>Answer</summary>More devices mean more rounds, but smaller chunks: each sends
# 2 (N - 1) / N gradients in all. But the latencies add up, one a round.</details>
#
# **3. Each process shuffles with its own seed. What goes wrong?**
#
# <details><summary>Answer</summary>Shards of different orders overlap: some images are seen twice in an
# epoch, others never. All must draw one order, and take different parts of it.</details>
#
# **4. Your accuracy with four GPUs differs in the third digit from that with one. A bug?**
#
# <details><summary>Answer</summary>Not necessarily: batch norm sees a quarter of the batch, and sums are
# rounded in another order. Compare with the spread over seeds.</details>
#
# **5. What must be the same on every process, and what must not?**
#
# <details><summary>Answer</summary>The same: first weights, order of images, learning rate at each step.
# Different: the shard, and the chance that acts on each shard's images.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` by your code and run the cell. A wrong answer gets a hint.
#
# **Exercise 1.** How many bytes does each process send in one ring all-reduce of the fp32 gradient of a
# network with so many parameters?


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
# **Exercise 2.** Shard in contiguous blocks instead: the first process gets the first rows, and so on.
# No row may be lost or doubled, and sizes may differ by one at most, the longer ones first.


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
# **Exercise 3.** The last batch of an epoch rarely divides. Given the mean gradient of each shard, a row
# each, and how many images each shard had, return the mean gradient of the whole batch.


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
# - Li et al. 2020, [arXiv 2006.15704](https://arxiv.org/abs/2006.15704): how DDP works, buckets and
#   overlap included.
# - Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677): ImageNet in one hour.
# - Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
#   Journal of Parallel and Distributed Computing 69: the ring, and why nothing sends fewer bytes.
