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
# If you have two GPUs, each can take half of every batch. They average their gradients, and both make the
# same step. This chapter shows why one GPU with the whole batch would make that step too, what the
# averaging costs, and when a batch is too small to be divided.
#
# Goyal et al. 2017 ([arXiv 1706.02677](https://arxiv.org/abs/1706.02677)) used this trick to train
# ResNet-50 on ImageNet **in one hour on 256 GPUs**. They report that about 90 % of the perfect speed-up
# remained when they went from 8 GPUs to 256.
#
# **We have not measured it on several GPUs.** The numbers stored here come from two CPU cores, each of
# which plays the part of a GPU. If you have several GPUs, run the notebook, and its sentences will describe
# yours. (Kaggle's free "GPU T4 x2" has two.) A *device* is a GPU, or, on a machine without one, an equal
# part of its cores.
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
# must also average their gradients, and both update all of the weights. The trick pays if it saves more
# time than it costs.
#
# We load the data, choose a budget that suits this machine, and count its devices:

# %%
import torch

from fasttricks import BASELINE, Distributed, choose_budget, load
from fasttricks.course import headline, say
from fasttricks.tricks import distributed

budget = choose_budget()
data = load()
here = data.to(BASELINE.world.device(), budget.image_size)
devices, gpus = max(2, Distributed().count()), torch.cuda.device_count()

# %%
cores = distributed.cores()
if gpus > 1:
    say(f"This machine has {gpus} GPUs. Each of them is a device.")
elif gpus == 1 or cores < devices:
    say(
        f"This machine has one {'GPU' if gpus else 'core'}. Below, {devices} processes share it, so nothing "
        f"can become faster. The figures call them {devices} devices all the same."
    )
else:
    say(
        f"This machine has no GPU. We divide its {cores} cores into {devices} equal parts, and each part is "
        f"a device."
    )

# %% [markdown]
# Here is what our recorded study found about this trick (below 1, "times as fast" means slower). Then
# follows the trick's card, from the top of its file. There, N is the number of devices and B the number of
# images in a batch. *Slot* is the part of our recipe that the trick fills (`single`: only one trick can),
# and *meets* names what it interacts with.

# %%
from IPython.display import Markdown

say(headline("distributed"))
Markdown(distributed.__doc__)

# %% [markdown]
# In the study on two cores, plain training already used both cores, because PyTorch divides the work of one
# process among them. With the trick, two processes had one core each. So the trick added no device, only
# the averaging. To see what a second device brings, we must compare two devices with *one*: on a CPU, with
# a part of the cores.
#
# ## The problem: one device has a top speed
#
# In new processes, one for each device, we time a training step at several batch sizes. First one of them
# computes and the others wait (`alone`), then all compute and average their gradients (`joint`). They take
# turns because a machine's speed drifts, and we use the median of three turns. We also time the averaging
# by itself (`averaging`), with as many bytes as our gradient has and with a single number (four bytes).

# %%
from fasttricks.models import begin
from fasttricks.study.limits import measure

network = begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)
parameters = sum(parameter.numel() for parameter in network.parameters())
size = 4 * parameters  # bytes of the gradient in fp32
batches = [4 * devices**power for power in range(8) if 4 * devices**power <= 512]
speeds = measure(devices, batches, [4, size])
alone, joint, averaging = speeds.alone, speeds.together, speeds.all_reduce

# %% [markdown]
# Here are the images per second of one device, and of all devices together if each has an equal part of the
# batch:

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
# Every step has a part that does not depend on the images, such as starting each layer and updating the
# weights. A larger batch spreads it over more images, until the device has reached its top speed. Then only
# another device can help. Does it?

# %%
paying = None
for tried in reversed(batches[1:]):  # from the largest batch down
    if gains[tried] <= 1.1:
        break
    paying = tried
say(
    f"{devices} devices that divide a batch of {small} images are **{gains[small]:.2f} times as fast** as "
    f"one device. With {large} images, they are **{gains[large]:.2f} times as fast**. Perfect would be "
    f"{devices}."
)
say(
    f"**Dividing the batch pays from {paying} images on.** We ask for a gain of at least 10 %, because a "
    f"smaller one may be drift."
    if paying
    else "**Dividing the batch pays at none of these sizes.**"
)

# %% [markdown]
# What can cores tell us about GPUs? What we find out about gradients and accuracy holds for GPUs too,
# because they do the same arithmetic. But *how large* a batch must be depends on the machine. GPUs reach
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
# gradients are averaged, not added, and the *global* batch, which is the sum of all parts, has not changed.
#
# This needs equal parts. If one device has three images and the other has one, the plain mean gives the
# single image too much weight. Each part must then be weighted by the number of its images.

# %% tags=["nbval-check-output"]
three, single = slope(x[:3], y[:3]), slope(x[3:], y[3:])
holds((three + single) / 2 != slope(x, y), "the plain mean of unequal parts is wrong")
holds(abs(0.75 * three + 0.25 * single - slope(x, y)) < 1e-6, "weighted by images, it is right")

# %% [markdown]
# ### In a real network
#
# Does this hold in a real network, too? We collect all gradients in one long row, in double precision so
# that rounding cannot hide anything.

# %%
torch.manual_seed(0)
net = (
    begin(BASELINE, budget.model, data.channels, len(data.classes), budget.image_size)
    .double()
    .to(here.val.y.device)
)
pixels = data.normalise(here.val.x[:64]).double()
targets = torch.nn.functional.one_hot(here.val.y[:64], len(data.classes)).double()


def gradient(x, q):
    net.zero_grad()
    torch.nn.functional.cross_entropy(net(x), q).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


# %% [markdown]
# One process's part of a batch is called a **shard**. `gap` measures how far the average gradient of two
# shards is from that of the whole batch, as a fraction of the length of the latter.


# %%
def gap():
    shards = zip(pixels.chunk(2), targets.chunk(2), strict=True)
    mean = sum(gradient(x, q) for x, q in shards) / 2
    whole = gradient(pixels, targets)
    return ((mean - whole).norm() / whole.norm()).item()


# %% [markdown]
# In batch norm, and in no other layer of this network, the images affect each other: in training, it
# subtracts the mean of *its own* batch and divides by its standard deviation. In evaluation, it uses stored
# statistics instead. We compute the gap both ways.

# %%
net.eval()
stored = gap()
net.train()
own = gap()
say(
    f"With stored statistics, the gap is **{stored:.0e}**, which is rounding. With the statistics of each "
    f"shard, it is **{own:.2f}**, which is not."
)

# %% tags=["nbval-check-output"]
holds(
    stored < 1e-9,
    "without batch statistics, the halves average to the whole gradient, up to rounding",
)
holds(own > 1e-3, "with batch statistics, each shard sees its own mean")

# %% [markdown]
# The second gap is no bug. The average is the exact gradient of a slightly different network, one whose
# batch norm looks at fewer images at a time (*ghost batch norm*, Hoffer et al. 2017, [arXiv
# 1705.08741](https://arxiv.org/abs/1705.08741)). Does it matter? One gradient cannot answer that, so we
# train, with shards of a usual size under "Use it" and with very small ones under "Break it".
#
# ### The same sum on one device
#
# A single device can also take the shards one after another, add up their gradients, and then make one
# step. This is **gradient accumulation**. It saves no time, but it has two uses:
#
# - You can train with a batch that does not fit into memory.
# - You can try a cluster's batch before you rent the cluster. Shards one after another give the same sum as
#   shards side by side, so one device can tell you what 64 devices would learn, batch norm included.
#
# In PyTorch, `backward` adds to `.grad` anyway. You only need to weight each shard's loss, and to step
# after the last shard:


# %%
def accumulated(shards):
    net.zero_grad()
    for x, q in zip(pixels.chunk(shards), targets.chunk(shards), strict=True):
        loss = torch.nn.functional.cross_entropy(net(x), q)
        (loss * len(x) / len(pixels)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


# %% tags=["nbval-check-output"]
net.eval()
same = torch.allclose(accumulated(4), gradient(pixels, targets), rtol=1e-6, atol=1e-9)
holds(same, "four shards one after another give the gradient of the whole batch")

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
# Second, each of N devices holds one long row of numbers, and all need the average. If one device collected
# all rows, it would be the bottleneck. In a **ring all-reduce**, each device sends only to the next one in
# a circle. Every row is cut into N chunks, and a device sends *one* chunk per round: device r begins with
# chunk r and then passes on the chunk that it has just received. In the first N - 1 rounds, the receiver
# *adds* its own numbers. In the other N - 1, it *replaces* them with the finished sums. Dividing these by N
# gives the average.


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
# If every number is 1 at the start, the value of a chunk shows how many devices have contributed to it. We
# draw the four chunks of four devices as *a* to *d*. The letter on an arrow is the chunk that travels next,
# and a thick frame marks a finished sum.

# %%
from fasttricks.course import circle

states = list(ring(torch.ones(4, 4)))
circle(states, {0: "start", 1: "after round 1", 3: "after round 3"})
plt.show()

# %% [markdown]
# Follow chunk *a*. Device 0 sends its 1, so device 1 has 2 after the first round. It sends these on, so
# device 2 has 3 after the second round, and device 3 has 4 after the third: a finished sum. The other
# chunks do the same, each starting at another device. Three more rounds carry the finished chunks around
# the ring. Here are all the rounds as numbers:

# %%
from fasttricks.course import tally

titles = ["start"] + [f"round {number}" for number in range(1, len(states))]
tally(states, titles, "chunk", "device", "abcd")
plt.show()

# %% [markdown]
# Now count the bytes. In each of the 2 (N - 1) rounds, a device sends one chunk, an N-th of the gradient.
# In total, that is 2 (N - 1) / N times the gradient: less than twice, *however many devices there are*.

# %%
travels = {n: 2 * (n - 1) / n * size / 1e6 for n in (2, 8, 256)}
say(
    f"The gradient of our network is {size / 1e6:.2f} MB. In each step, each of 2 devices sends "
    f"{travels[2]:.2f} MB, each of 8 devices {travels[8]:.2f} MB, and **each of 256 devices "
    f"{travels[256]:.2f} MB**."
)

# %% [markdown]
# PyTorch's wrapper for all this is `DistributedDataParallel`, **DDP** for short. It can even hide part of
# the cost. The backward pass finishes the last layer's gradients first. DDP collects finished gradients in
# **buckets** (by default, 1 MiB for the first and 25 MiB for the others) and sends a full bucket while it
# computes earlier layers.

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
# In buckets, only the last message delays the step. This helps large networks most, because a small
# gradient fits into one or two buckets. On a CPU, our package sends everything at the end, because no core
# is free to send earlier. So nothing was hidden in the times stored here.
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
# PyTorch's own `DistributedSampler` makes all shards equally long by showing some images twice. That is
# harmless in training, but it makes a measured accuracy wrong.

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
# You start it with **torchrun**, which starts the processes and tells each its number, the *rank*:
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
#    512, for which the old learning rate is too low (chapter 2).
# 3. **`net(x)` instead of `wrapped(x)`.** The gradients are never averaged, and the copies drift apart
#    without an error.
# 4. **Every process saves, downloads, or logs.** They overwrite one file. Let rank 0 do it, and let the
#    others wait with `dist.barrier()` where they need the result.
# 5. **One process does something that the others do not.** It skips a step, stops early, or alone calls
#    `dist.all_reduce`. The others wait for it until a timeout, ten minutes with GPUs.
#
# With gradient accumulation, wrap all but the last shard in `with wrapped.no_sync():`. Otherwise, the
# devices average their gradients after every shard. Do not use `torch.nn.DataParallel`, which copies the
# network to all GPUs in every step. If the model does not fit into one GPU, use **FSDP**
# (`torch.distributed.fsdp.fully_shard`), which also divides the weights and the optimizer's state.
#
# Our own script keeps all images in memory. To turn it into one for several devices, remove the `-` lines
# below and add the `+` lines.
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
# `torchrun --standalone --nproc-per-node 2 distributed.py`. Every process draws the order and the flips of
# the whole batch and keeps its share of both. So here, unlike in `train_ddp.py`, all processes keep the
# same seed. The loss is weighted by the shard's size because a batch may not divide evenly.
#
# ## Use it
#
# Now we train with real processes. `train` starts them with torchrun, each on its own device. The seed and
# the global batch stay the same.

# %%
from fasttricks.course import accuracy_table, faster, gained, train_arms

recipes = {
    "one process": BASELINE,
    f"{devices} processes": BASELINE + Distributed(devices, share_devices=True),
}
arms = train_arms(recipes, data, images=budget.images // 2)
one, many = arms.values()
accuracy_table(arms)

# %% [markdown]
# Gains are in percentage points, between two runs with the same seed.

# %%
scores = [[run.val_accuracy for run in runs] for runs in (many, one)]
clocks = [[run.train_seconds for run in runs] for runs in (many, one)]
guess = 1 / len(data.classes)
learned, speed = gained(*scores, guess), faster(*clocks)
say(
    f"Compared with one process after {one[0].images_seen / len(data.train):.2f} epochs, the accuracy of "
    f"{devices} processes is **{learned}**."
)

# %% [markdown]
# How did they get there? Here are two of the seeds, each with one process and with several:

# %%
curves = {}
for seed in range(min(2, len(one))):
    for name, runs in arms.items():
        images, _, accuracies = zip(*runs[seed].curve, strict=True)
        curves[f"{name}, seed {seed}"] = (images, accuracies)
plot(curves, "images seen", "validation accuracy", marks=True)
plt.show()

# %%
by_processes = max(100 * abs(several - single) for several, single in zip(*scores, strict=True))
by_seed = 100 * (max(scores[1]) - min(scores[1]))
if len(one) == 1:
    larger = "With only one seed, there is nothing to compare that with."
else:
    cause = "seed" if by_seed > by_processes else "number of processes"
    larger = (
        f"Runs of one process with different seeds end up to **{by_seed:.1f} points** apart. So the {cause} "
        f"makes the larger difference ({len(one)} seeds)."
    )
say(
    f"Runs with the same seed but different numbers of processes end up to **{by_processes:.1f} points** "
    f"apart. {larger}"
)

# %% [markdown]
# Did the different gradient, which batch norm made above, do harm? And was the training faster?

# %%
if "about the same" in learned:
    harm = "did no harm that we can see"
elif "lower" in learned:
    harm = "may have done harm"
elif "higher" in learned:
    harm = "did no harm"
else:
    harm = "may have done harm or not. These runs cannot tell"
say(f"The different gradient, with {BASELINE.batch // devices} images in each shard, **{harm}**.")

# %%
if gpus > 1:
    added = f"One process had one GPU, and {devices} processes had {devices}."
elif gpus == 1:
    added = "But all processes used the same GPU, so no device was added."
else:
    added = (
        "But one process used all the cores too, so no device was added, as in the recorded study."
    )
say(f"With {devices} processes, training was **{speed}**. {added}")

# %% tags=["nbval-check-output"]
alike = all(
    (a.steps, a.images_seen) == (b.steps, b.images_seen) for a, b in zip(one, many, strict=True)
)
holds(alike, "the same number of steps and images for any number of processes")
holds({run.processes for run in many} == {devices}, "and there were as many processes as asked for")

# %% [markdown]
# ## Break it: too few images for batch norm
#
# How few images may a shard have? With gradient accumulation, we can find out without a cluster. With
# `accumulate=64`, one process cuts each batch of 128 images into 64 shards of 2, as 64 devices would. We
# compare that with shards of 16 and with undivided batches.

# %%
per_shard = {BASELINE.batch // count: count for count in (1, 8, 64)}
cut = {
    f"{images} images in a shard": BASELINE + Distributed(1, accumulate=count)
    for images, count in per_shard.items()
}
tiny = train_arms(cut, data, images=min(budget.images // 8, 3_200), evaluations=1)

# %% [markdown]
# For evaluation, batch norm uses *running* statistics, which move by a tenth in every forward pass. A step
# with 64 shards has 64 forward passes, and one with an undivided batch has one, so in a short training the
# undivided batches would be at a disadvantage. We therefore compute these statistics anew for all networks,
# from the same 2,000 training images.

# %%
from torch.optim.swa_utils import update_bn

from fasttricks.loop import accuracy


def fair_accuracy(run):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), run.net)
    return accuracy(run.net, here, here.val, run.recipe)


# %% [markdown]
# Here is that accuracy for each seed and each size of the shard:

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
enough, few = gained(sixteen, undivided, guess), gained(two, undivided, guess)
seen = next(iter(tiny.values()))[0]
say(
    f"Compared with undivided batches after {seen.steps} steps ({seen.images_seen / len(data.train):.2f} "
    f"epochs), the accuracy with 2 images in a shard is **{few}**. With 16 images, it is **{enough}**."
)
to_sixteen, to_two = sum(undivided) - sum(sixteen), sum(sixteen) - sum(two)
if "lower" not in few:
    judged = "we cannot tell how many images in a shard are too few for batch norm"
elif to_two > 5 * abs(to_sixteen):
    judged = (
        "2 images in a shard are too few for batch norm, and nearly all of the loss comes below 16"
    )
else:
    judged = "2 images in a shard are too few for batch norm, and 16 do not avoid the loss"
say(f"So in the first steps of training, **{judged}**.")

# %% [markdown]
# We did not train to the end, but Wu and He 2018 did ([arXiv
# 1803.08494](https://arxiv.org/abs/1803.08494)). They report for ResNet-50 on ImageNet an error of 23.6 %
# with 32 images per GPU, 23.7 % with 16, 24.8 % with 8, and 34.7 % with 2.
#
# There are two cures. `torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)`, called before you wrap the
# network, computes the statistics over all devices. It needs GPUs and more messages. Or use a norm that
# looks at one image at a time, such as their group norm.
#
# ## Break it: too little work to divide
#
# Why does dividing a small batch pay less? Perfect would be an N-th of the time that one device needs for
# the whole batch. Two obstacles add to it:
#
# 1. A part of the step **does not shrink** with the shard. One device shows it: with an N-th of the images,
#    it needs more than an N-th of the time.
# 2. **Working together** has a price. It is the difference between all devices with a shard each and one
#    device with a shard. A part of it is the averaging by itself.
#
# The table takes apart the step of the smallest and of the largest batch that we have divided.

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
# The unit is milliseconds. A number below zero means that this part took less time than expected, for
# example because a small shard fits into a cache.

# %%
perfect, fixed, message, rest, measured = steps[f"{small} images"].values()
names = {"the part that does not shrink": fixed, "the averaging by itself": message}
names["the rest of working together"] = rest
cause = max(names, key=names.get)
free = alone[small] / (joint[small // devices] - averaging[size])
say(
    f"With a batch of {small}, the devices need {measured:.1f} ms instead of {perfect:.1f}. The largest part "
    f"of the difference is **{cause}**, {names[cause]:.1f} ms."
)
if free < 1.1:
    advice = "So a faster link alone would not make the trick pay."
elif free > 1.1 * gains[small]:
    advice = "So a faster link would help."
else:
    advice = "So a faster link would change little."
say(
    f"**If the averaging cost nothing, {devices} devices would be {free:.2f} times as fast as one** instead "
    f"of {gains[small]:.2f} times. {advice}"
)

# %% [markdown]
# What is in the rest? DDP has work to do in each step, the devices wait for the slowest of them, and
# processes on one CPU take memory and caches from each other. We cannot tell these apart. But we see
# whether the rest grows with the batch:

# %%
later = steps[f"{large} images"]["+ the rest of working together"]
if later > 1.5 * rest > 0:
    growth = (
        f"It grows with the batch, to {later:.1f} ms: it is **more than a fixed cost per step**."
    )
elif abs(later - rest) < 0.2 * abs(rest):
    growth = (
        f"It stays about the same ({later:.1f} ms with {large}), like **a fixed cost per step**."
    )
else:
    growth = f"It is {later:.1f} ms with {large}, which neither confirms nor excludes a fixed cost per step."
say(f"The rest is {rest:.1f} ms with {small} images. {growth}")

# %% [markdown]
# How do the obstacles change with the batch? The next figure shows the measured speed-up, and the one that
# would remain if working together were free. The latter needs only one device: divide its time with the
# whole batch by its time with a shard.

# %%
limits = {batch: alone[batch] / alone[batch // devices] for batch in gains}
plot(
    {
        "measured": (batches[1:], list(gains.values())),
        "if working together were free": (batches[1:], list(limits.values())),
    },
    "images in the whole batch",
    "times as fast as one device",
    f"grey: no gain (1) and perfect ({devices})",
    scale="log",
    marks=True,
)
plt.axhline(1, color="grey")
plt.axhline(devices, color="grey")
plt.show()

# %%
say(
    f"If working together were free, {devices} devices would be {limits[small]:.2f} times as fast as one "
    f"with {small} images, and {limits[large]:.2f} times with {large}. They are {gains[small]:.2f} times and "
    f"{gains[large]:.2f} times as fast."
)
first = limits[large] > limits[small]
second = gains[large] / limits[large] > gains[small] / limits[small]
if first and second:
    shrunk = "both obstacles are"
elif first or second:
    shrunk = f"only the {'first' if first else 'second'} obstacle is"
else:
    shrunk = "neither obstacle is"
say(f"**Compared with the whole step, {shrunk} smaller with the larger batch.**")

# %% [markdown]
# ## Will it pay on your network?
#
# How fast must the network between machines be? DDP sends during the backward pass, so most of the
# averaging costs no time if it can end with that pass. This is the bandwidth that a device then needs:


# %%
def bandwidth(gradient_bytes, seconds, processes):  # in GB/s
    return 2 * (processes - 1) / processes * gradient_bytes / seconds / 1e9


print(f"{bandwidth(100e6, 0.125, 256):.1f} GB/s")

# %% [markdown]
# These are the numbers of Goyal et al. 2017: a gradient of 100 MB for ResNet-50, and a backward pass of
# about 0.125 seconds. Their network had 50 Gbit/s, which is 6.25 GB/s, so it was fast enough. But each
# round also has a fixed delay, which our averaging of a single number shows:

# %%
delay = averaging[4] / averaging[size]
say(
    f"On this machine, averaging the whole gradient takes {1e3 * averaging[size]:.2f} ms, and averaging a "
    f"single number {1e3 * averaging[4]:.2f} ms. So **{100 * min(delay, 1):.0f} % of the time is delay**, "
    f"which no bandwidth removes."
)

# %% [markdown]
# A ring of 1,024 devices has 2,046 rounds, each with such a delay. Large machines therefore use trees, or
# rings of rings.
#
# ## What to remember
#
# What became of the card's promises?

# %%
say(
    f"- **The same gradient:** yes, up to {stored:.0e}, without batch statistics. With them, the gradient "
    f"differs, and the accuracy after training was {learned}."
)
losing = [batch for batch in gains if gains[batch] < 1.1]
if losing:
    times = alone[losing[-1] // devices] / averaging[size]
    long = (
        f"this alone was not enough. With a batch of {losing[-1]}, a device computes {times:.0f} times as "
        f"long as the averaging by itself takes, and {devices} devices were {gains[losing[-1]]:.2f} times as "
        f"fast as one."
    )
else:
    long = (
        f"yes. With {large} images, {devices} devices were {gains[large]:.2f} times as fast as one."
    )
say(f"- **It pays when computation takes much longer than communication:** {long}")

# %%
verdict = "yes" if small in losing else "not here"
say(
    f"- **It fails when the shard is small:** {verdict}. With {small // devices} images on each device, "
    f"{devices} devices were {gains[small]:.2f} times as fast as one. With 2 images in a shard, the accuracy "
    f"with batch norm was {few}."
)
if gpus < 2:
    what = "GPU" if gpus else "cores"
    verdict = "yes" if sum(clocks[1]) < 1.05 * sum(clocks[0]) else "not here"
    say(
        f"- **It fails when the processes share one device:** {verdict}. {devices} processes that divided "
        f"the {what} of one process trained {speed}."
    )

# %% [markdown]
# On several GPUs, these numbers will differ, so the rule of thumb is a way to find yours:
#
# 1. **Fill one device first.** Raise its batch until the images per second no longer rise.
# 2. **Then add devices, and let each keep that batch.** The global batch grows, so scale the learning rate
#    (chapter 2).
# 3. **If the global batch must stay, time one device with the whole batch and with an N-th of it.** The
#    ratio of the two times is the most that N devices can gain. If it is near 1, do not divide that batch.
# 4. **Before a long run, time 50 steps on one device and on all of them.** If the gain is far below the
#    ratio of rule 3, working together is too expensive. Then use a larger batch or fewer devices.
# 5. **With batch norm, keep about 16 images or more on each device** (see Wu and He's figures), or use
#    `SyncBatchNorm`. If you must go lower, try it first on one device, with gradient accumulation.
#
# ## Questions
#
# **1. DDP averages the gradients. Must I change the learning rate when I go from one GPU to four?**
#
# <details><summary>Answer</summary>Not if the global batch stays the same. If each GPU keeps its batch
# size, the global batch is four times as large, and chapter 2 explains what to do.</details>
#
# **2. Why do the bytes that a device sends in a ring hardly depend on the number of devices?**
#
# <details><summary>Answer</summary>More devices mean more rounds but smaller chunks: in total, each device
# sends 2 (N - 1) / N times the gradient, which is less than twice. But each round has a fixed
# delay.</details>
#
# **3. Each process shuffles with its own seed. What goes wrong?**
#
# <details><summary>Answer</summary>Shards of different orders overlap: some images are seen twice in an
# epoch, others never. All processes must draw the same order and take different parts of it.</details>
#
# **4. Your accuracy with four GPUs differs in the third digit from that with one. Is this a bug?**
#
# <details><summary>Answer</summary>Not necessarily. Batch norm sees only a quarter of the batch, and sums
# are rounded differently. Compare the difference with that between two seeds, as under "Use it".</details>
#
# **5. What must be the same on every process, and what must not?**
#
# <details><summary>Answer</summary>The same: the initial weights, the order of the images, and the learning
# rate. Different: the shard, and the randomness applied to its images. Therefore `train_ddp.py` seeds with
# the rank after it has built the network.</details>
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
