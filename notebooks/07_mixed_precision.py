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
# # 7. Mixed precision
#
# Mixed precision runs the forward and the backward pass in 16 bits, which many devices do faster.
# It keeps the weights in 32 bits. With the format *bfloat16* (*bf16*), your own loop becomes:
#
# ```python
# for x, y in batches:
#     with torch.autocast(device, torch.bfloat16):  # device: "cuda" or "cpu"
#         outputs = net(x)  # the forward pass, in 16 bits
#     loss = F.cross_entropy(outputs.float(), y)  # the loss, in 32
#     loss.backward()  # the backward pass, in 16
#     optimizer.step()  # the update, in 32
#     optimizer.zero_grad()
# ```
#
# bf16 has the range of ordinary 32-bit numbers (*fp32*). The other format, *float16* (*fp16*),
# cannot hold very small numbers. Gradients can become zero, and then the network stops learning
# without any error message. So fp16 also needs a *scaler*. (It protects the gradients, but not an
# activation above 65,504, which is infinite in fp16.)
#
# ```python
# scaler = torch.amp.GradScaler(device)
#
# for x, y in batches:
#     with torch.autocast(device, torch.float16):
#         outputs = net(x)
#     loss = F.cross_entropy(outputs.float(), y)
#     scaler.scale(loss).backward()
#     scaler.unscale_(optimizer)  # needed if you clip gradients; clip after this line
#     before = scaler.get_scale()
#     scaler.step(optimizer)  # skips the update if a gradient is not finite
#     scaler.update()
#     if scaler.get_scale() >= before:  # the update was not skipped
#         scheduler.step()  # if you have a schedule
#     optimizer.zero_grad()
# ```
#
# The first row that fits your device decides:
#
# | device | format | test |
# |---|---|---|
# | NVIDIA GPU, Ampere (A100, RTX 30) or newer | bf16 | `torch.cuda.is_bf16_supported(including_emulation=False)` |
# | NVIDIA GPU, V100 or T4 | fp16 | `torch.cuda.get_device_capability() >= (7, 0)` |
# | x86 CPU with AVX512-BF16 or AMX | bf16 | `torch.cpu.get_capabilities()` has `avx512_bf16` or `amx_bf16` true (PyTorch 2.10) |
# | any other | stay in fp32, unless your own timing shows a gain | |
#
# **What it gains.** In our recorded studies, training was faster per image, a little on two CPU
# cores and much more on an H100. What our network keeps for the backward pass took about half the
# memory. The numbers follow below.
#
# **Use it when** the device passes a test, and batches and layers are large or memory is short.
#
# **Leave it when** the device only emulates 16 bits, or your own timing shows no gain. On our CPU,
# batches of 8 images showed none.
#
# **What it does not do.** It should not change the accuracy, and we saw no clear difference. It
# does not halve all of the memory: weights, their gradients and the optimizer stay in 32 bits.
#
# About 30 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/07_mixed_precision.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/07_mixed_precision.ipynb).
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
# We train a small ResNet on Fashion-MNIST, small grayscale images of ten kinds of clothing.
# `BASELINE` is the plain training of chapter 0, `MixedPrecision` is the trick, and `chosen` is the
# format for this device.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from fasttricks import BASELINE, MixedPrecision, OneCycle, choose_budget, load, train
from fasttricks.course import faster, formats, gained, headline, holds, plot, published, say
from fasttricks.loop import now
from fasttricks.tricks import precision

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)
chosen = MixedPrecision().choose(device)

# %% [markdown]
# **What is it worth?** We recorded studies beforehand ([chapter 0](00_baseline.ipynb) explains
# them). They train such a network, on the GPU a ResNet-18, to a given validation accuracy. *The
# other six tricks* are those of the other chapters.

# %%
say(headline("precision"))

# %% [markdown]
# The time to a target is the number of images times the seconds per image. The trick is meant to
# change only the latter. So **count on the gain per image only**. The last column compares the
# accuracy after equally many images, in the longest runs.

# %% tags=["fold"]
from fasttricks.study.pages import paired


def beside(study, without, trick):
    own, other = ({n: some for n, *some in study.accuracies.get(a, ())} for a in (trick, without))
    most = max({*own} & {*other}, default=None)
    pairs = list(zip(own[most], other[most], strict=False)) if most else []  # seeds of both
    if len(pairs) < 2:
        return "-"
    points, low, high = paired(pairs)
    changes.append(low > 0 or high < 0)
    return f"{points:+.2f} points ({low:+.2f} to {high:+.2f}; {len(pairs)}), {most:,.0f} images"


table, changes, paces = [], [], {}
for study in published():
    start = "plain" if study.of("plain + precision") else study.reference
    name = "plain training" if start == "plain" else f"`{start}`"
    where = study.hardware + (f", {study.about}" if study.about else "")
    ways = {name: (start, f"{start} + precision")}
    for to, arms in (ways | {"the other six tricks": ("whole - precision", "whole")}).items():
        rows = study.of(*arms)
        if len(rows) == 2 and all(row.arrives for row in rows):
            before, after = (row.train / row.images.value for row in rows)
            paces.setdefault((study.hardware, to), (before, after))
            table.append((where, to, f"**{before / after:.2f}**", beside(study, *arms)))

# %% tags=["fold"]
heads = ["recorded on", "added to", "times as fast per image", "accuracy (95% interval; seeds)"]
lines = [heads, ["---"] * 4, *table]
seen = "no row shows a clear difference in accuracy"
if any(changes):
    seen = f"the accuracy differs clearly in {sum(changes)} of {len(changes)} rows"
shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
if table:
    say(f"{shown}\n\nSo **{seen}**. (A difference is clear if its interval does not contain 0.)")

# %% [markdown]
# **What did fp32 mean on the H100?** From Ampere on, NVIDIA GPUs can multiply fp32 numbers in
# **TF32**, with the range of fp32 and the digits of fp16. By default, PyTorch allows this in
# convolutions, and not in matrix multiplications. Our studies kept these defaults: every record in
# `data/results/gpu/runs.jsonl` has `"cudnn_tf32": true` and `"matmul": "highest"`. So the H100's
# gain is measured against convolutions that may use TF32. If your network consists of matrix
# multiplications, first allow TF32 there by `torch.set_float32_matmul_precision("high")`.
#
# The figure shows one step. Grey boxes run in 16 bits, white ones in 32. Two guards prevent damage.
# The first (thick frames) keeps the weights in 32 bits. The second (dashed) is only for fp16: a
# factor, the **loss scale**, multiplies the loss, and so all gradients. They are divided by it
# before the update.

# %% tags=["fold"]
steps = [
    ("weights", 0, 1, "white", {"lw": 3}),
    ("16-bit copy\nof the weights", 1, 1, "lightgrey", {}),
    ("forward\npass", 2, 1, "lightgrey", {}),
    ("loss, times\nthe loss scale", 3, 1, "white", {"ls": "--"}),
    ("backward\npass", 3, 0, "lightgrey", {}),
    ("gradient, divided\nby the loss scale", 1.5, 0, "white", {"ls": "--"}),
    ("update of\nthe weights", 0, 0, "white", {"lw": 3}),
]
figure, axes = plt.subplots(figsize=(9, 2.6))
axes.set(xlim=(-0.5, 3.5), ylim=(-0.4, 1.4))
axes.axis("off")
boxes = []
for name, *place, colour, frame in steps:
    look = {"facecolor": colour, "pad": 7} | frame
    boxes.append(axes.text(*place, name, ha="center", va="center", bbox=look))
for start, end in zip(boxes, boxes[1:] + boxes[:1], strict=True):
    arrow = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    arrow |= {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
    axes.annotate("", end.get_position(), start.get_position(), arrowprops=arrow)
plt.show()

# %% [markdown]
# ## How much faster is 16-bit arithmetic?
#
# A number is stored as a sign, an exponent `e` (how large it is) and a fraction `f` (its binary
# digits). There are two common ways to fit it into 16 bits:
#
# ```text
# fp32   ± eeeeeeee fffffffffffffffffffffff    32 bits
# bf16   ± eeeeeeee fffffff                    16 bits: the range of fp32, few digits
# fp16   ± eeeee    ffffffffff                 16 bits: more digits, a small range
# ```
#
# Half as many bits move in half the time. A device that is *native* in a format also has hardware
# for its multiplications, such as tensor cores on GPUs and AMX on CPUs. Others *emulate* it.
#
# We multiply a square matrix by itself, and double its size until that takes 0.03 seconds. A point
# is the shortest of several times. Here, fp32 is without TF32.


# %% tags=["fold"]
def product_seconds(size, dtype):
    matrix, times = torch.randn(size, size, device=device).to(dtype), []
    while len(times) < 4 or sum(times) < 0.1:
        started = now(device)
        matrix @ matrix
        times.append(now(device) - started)
    return min(times)


product_seconds(64, torch.float32)  # warm up
rates = {}
for name, dtype in precision.DTYPES.items():
    size, taken, rates[name] = 64, 0, {}
    while size <= 8192 and taken < 0.03:
        taken = product_seconds(size, dtype)
        rates[name][size] = 2 * size**3 / taken / 1e9
        size *= 2
lines = {name: (list(found), list(found.values())) for name, found in rates.items()}
ylabel = "billion operations per second"
plot(lines, "rows of the matrix", ylabel, scale="log", marks=True, yscale="log")
plt.show()


# %% tags=["fold"]
def beside_fp32(name, size):
    gain = rates[name][size] / rates["fp32"][size]
    if 0.95 < gain < 1.05:
        return f"{name} **is about as fast as fp32** ({size:,} rows)"
    times = f"{max(gain, 1 / gain):.{1 if 0.1 < gain < 10 else 0}f} times as"
    how = f"is {times} fast as fp32" if gain > 1 else f"takes {times} long as fp32"
    return f"{name} **{how}** ({size:,} rows)"


largest = [beside_fp32(name, max({*rates[name]} & {*rates["fp32"]})) for name in ("bf16", "fp16")]
say(
    f"At the largest size that we timed in both formats, {largest[0]}, and {largest[1]}. At the "
    f"smallest size, {beside_fp32('bf16', min(rates['bf16']))}. For this device, the trick chooses "
    f"**{chosen}**. {MixedPrecision().note(device)}"
)

# %% [markdown]
# A format that stays far below fp32 is probably only emulated. A network also does other work, so
# it gains less than large multiplications.
#
# ## By hand: what does a 16-bit number lose?
#
# Here are the bits of 0.1: the sign, the exponent and the fraction.


# %%
def bits(number, name):
    raw = torch.tensor([number], dtype=precision.DTYPES[name]).view(torch.uint8).tolist()
    code = "".join(f"{byte:08b}" for byte in reversed(raw))
    end = 6 if name == "fp16" else 9  # where the exponent ends
    return f"{code[0]} {code[1:end]} {code[end:]}"


{name: bits(0.1, name) for name in ("fp32", "bf16", "fp16")}

# %% [markdown]
# bf16 is fp32 with most of the fraction rounded off. fp16 keeps more of the fraction, but its
# exponent is shorter. PyTorch knows the limits of each format:

# %%
import pandas as pd

limits = {name: torch.finfo(dtype) for name, dtype in precision.DTYPES.items()}
rows = {name: [f.max, f.tiny, f.tiny * f.eps, f.eps] for name, f in limits.items()}
names = ["largest", "smallest normal", "smallest above zero", "from 1 to the next number"]
pd.DataFrame(rows, names).map("{:.5g}".format)

# %% [markdown]
# Below the *smallest normal* number, the fraction loses a digit with each halving. So fp16 fails at
# both ends. (`holds` prints a claim that is true, and stops at a false one.)

# %% tags=["nbval-check-output"]
holds(torch.tensor(2.0**-25).half() == 0, "half of the smallest fp16 number is rounded to zero")
holds(torch.tensor(300.0).half().square().isinf(), "300 times 300 is infinite in fp16")

# %% [markdown]
# The distance *from 1 to the next number* is a danger for the weights, most of all in bf16. If a
# step is shorter than half of it, the sum is rounded back to the old weight. The step is lost.

# %% tags=["nbval-check-output"]
low, high = torch.tensor(1.0).bfloat16(), torch.tensor(1.0)
for _ in range(1000):
    low, high = low + 1e-4, high + 1e-4
holds(low == 1, "a weight of 1 in bf16 stays where it is after 1,000 steps of 0.0001")
holds(abs(high - 1.1) < 1e-3, "in fp32 the same steps take it to 1.1")

# %% [markdown]
# That is why the weights stay in fp32, as **master weights**. For its multiplications, a layer uses
# a 16-bit copy, which `torch.autocast` makes on the fly. Autocast decides by the kind of operation.
# Here are a convolution, a batch norm and a loss:

# %%
convolution, norm = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4)
with torch.autocast("cpu", torch.bfloat16):
    convolved = convolution(torch.randn(4, 1, 8, 8))
    normed = norm(convolved)
    loss = F.cross_entropy(normed.mean((2, 3)), torch.arange(4))
found = {"weight": convolution.weight, "convolution": convolved, "batch norm": normed}
found |= {"its mean": norm.running_mean, "loss": loss}
{name: tensor.dtype for name, tensor in found.items()}

# %% [markdown]
# The convolution *casts* its weight: it converts a copy to 16 bits. Batch norm passes 16-bit
# numbers on and keeps its running mean in 32. The loss is computed in 32 bits. (At the top, it
# stands outside `with`, and `.float()` does the same.) In short, both formats lose small steps, and
# fp16 also loses small numbers.
#
# ## Which gradients does fp16 lose?
#
# The backward pass hands gradients from layer to layer in 16 bits, and many are small. To look at
# some, we train a network briefly (with `OneCycle` from chapter 3), keep a copy, and take one
# batch: images `x` and target probabilities `q`.

# %%
from copy import deepcopy

short = budget.images // 4
net = train(BASELINE + OneCycle(), data, images=short, evaluations=1, label="short training").net
trained = deepcopy(net)
batches = data.draws(64, torch.Generator().manual_seed(0))  # shuffled row numbers, 64 at a time
x, q = data.batch(*next(batches))

# %% [markdown]
# We collect the gradients of all outputs of convolutions, in fp32, and count them by powers of two,
# without exact zeros. Vertical lines mark fp16's smallest number above zero, its smallest normal
# one and its largest. PyTorch's initial loss scale, 2^16, moves the curve 16 places to the right
# (dashed).

# %% tags=["fold"]
spied, passing = deepcopy(net), []


def watch(layer, given, out):
    if isinstance(layer, torch.nn.Conv2d):
        out.register_hook(lambda grad: passing.append(grad.flatten()))


for layer in spied.modules():
    layer.register_forward_hook(watch)
F.cross_entropy(spied(x), q).backward()
nonzero = torch.cat(passing)
nonzero = nonzero[nonzero != 0]


def spread(grads):
    share = torch.histc(grads.abs().log2().floor().cpu(), 72, -48, 24) / len(grads)
    return torch.arange(-48, 24).tolist(), (100 * share).tolist()


lines = {"gradients of outputs": spread(nonzero), "those, times 2^16": spread(nonzero * 2.0**16)}
ranges = {name: (f.tiny * f.eps, f.tiny, f.max) for name, f in limits.items()}
formats(ranges, lines, guide="fp16")
plt.show()

# %%
once, scaled_up = nonzero.half().abs(), (nonzero * 2.0**16).half().abs()
gone, blurred = (once == 0).float().mean(), ((once > 0) & (once < 2**-14)).float().mean()
hurt = ((scaled_up < 2**-14) | scaled_up.isinf()).float().mean()
say(
    f"fp16 would round **{100 * gone:.1f}%** of the output gradients to zero: those up to half of "
    f"its smallest number. Another **{100 * blurred:.0f}%** would keep fewer digits than usual. "
    f"With a loss scale of 2^16, {100 * hurt:.1f}% would vanish, lose such digits or overflow."
)

# %% [markdown]
# ### Does it matter?
#
# The gradients that vanish are the smallest, and what matters is the gradient of the weights. We
# multiply the loss by a factor, run both passes in 16 bits, and divide the gradient by the factor.
# A large factor is a loss scale. A small one imitates a task with smaller gradients.


# %%
def gradient(name, factor=1.0, images=x, targets=q):
    net.zero_grad()
    with MixedPrecision(name).autocast(device):  # torch.autocast; switched off for fp32
        outputs = net(images)
    (F.cross_entropy(outputs.float(), targets) * factor).backward()
    return torch.cat([parameter.grad.flatten() / factor for parameter in net.parameters()])


# %% [markdown]
# The *error* is the length of the difference from the fp32 gradient, as a share of that gradient's
# length. A gradient of zero has an error of 1. The grey line shows how far the fp32 gradient of
# another batch is off.

# %% tags=["fold"]
exact, powers, errors = gradient("fp32"), range(-24, 33, 4), {}
for name in ("fp16", "bf16"):
    found = [(gradient(name, 2.0**power) - exact).norm() / exact.norm() for power in powers]
    errors[name] = dict(zip(powers, torch.stack(found).tolist(), strict=True))
fp16, bf16 = errors["fp16"], errors["bf16"]
second_batch = gradient("fp32", 1.0, *data.batch(*next(batches)))
between = ((second_batch - exact).norm() / exact.norm()).item()
lines = {name: (powers, list(found.values())) for name, found in errors.items()}
plot(lines, "factor on the loss, power of two", "error of the gradient", marks=True, yscale="log")
plt.axhline(between, color="grey", ls="--")
plt.text(32, 0.95 * between, "another batch, in fp32", color="grey", ha="right", va="top")
plt.show()

# %% tags=["fold"]
best = min(found for found in fp16.values() if found < float("inf"))
fine = [power for power, found in fp16.items() if found < 1.5 * best]
needs = "So despite the figure above, the gradient of this batch needs no loss scale in fp16."
if 0 not in fine:
    needs = "The plain loss, at 2^0, lies outside, so this batch needs a loss scale in fp16."
worst = max((power for power in fp16 if fp16[power] < float("inf")), key=fp16.get)
peak = ""
if fp16[worst] > 1.01:
    peak = f" At 2^{worst}, it is even {fp16[worst]:.2f}, which is worse than no gradient at all."
least, most = f"{min(bf16.values()):.2f}", f"{max(bf16.values()):.2f}"
say(
    f"The error of fp16 stays close to its lowest value, {best:.3f}, from 2^{min(fine)} to "
    f"2^{max(fine)}. **{needs}** At 2^-24, its error is {fp16[-24]:.2f}.{peak} At the right, its "
    f"line ends where a gradient overflows. The error of bf16 is "
    f"{least if least == most else f'{least} to {most}'} at all factors: it has fewer digits, but "
    f"its range is wide enough. The gradient of another batch is off by {between:.2f}, which is "
    f"{between / bf16[0]:.0f} times the error of bf16."
)

# %% [markdown]
# This was one batch of one network. Differences between batches average out over many steps, and
# rounding may not. So only the accuracy can decide, and we compare it below.
#
# Micikevicius et al. (2017) needed no loss scale for ResNet-50, but their object detector SSD
# diverged without one. So never use fp16 without a loss scale.
#
# ## Write it
#
# If the loss scale is too large, a gradient overflows, and we notice. If it is too small, gradients
# vanish unnoticed. So we keep it large. After the backward pass, divide the gradients by the scale.
# If even *one* element is infinite or not a number, skip the step and halve the scale. After 2,000
# good steps, double it.


# %%
def unscale(grads, scale):
    for grad in grads:
        grad.div_(scale)
    return all(bool(grad.isfinite().all()) for grad in grads)


def next_scale(scale, good, finite, interval=2000):
    if not finite:
        return scale / 2, 0
    if good + 1 == interval:
        return scale * 2, 0
    return scale, good + 1


# %% [markdown]
# Is that what `torch.amp.GradScaler` and the package's `LossScale` do? We compare them in 40 steps.
# Four overflow, and the scale grows after five good steps.

# %% tags=["nbval-check-output", "fold"]
theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
packaged, scale, good, same = precision.LossScale(1024.0, interval=5), 1024.0, 0, []
weight = torch.ones(3, requires_grad=True)
optimizer = torch.optim.SGD([weight], 0.1)
for step in range(40):
    optimizer.zero_grad()
    factor = float("inf") if step in (3, 4, 17, 30) else step
    theirs.scale(weight.sum() * factor).backward()
    ours, packages = weight.grad.clone(), weight.grad.clone()  # still scaled
    theirs.unscale_(optimizer)
    theirs.update()
    scale, good = next_scale(scale, good, unscale([ours], scale), 5)
    packaged = packaged.update(packaged.unscale([packages]))
    same += [torch.equal(ours, weight.grad), torch.equal(packages, weight.grad)]
    same.append(scale == packaged.value == theirs.get_scale())
holds(all(same), "ours, the package's and torch's scaler agree in each of 40 steps")

# %% [markdown]
# ## In your own loop
#
# `take_step` serves all formats. For fp32, it switches autocast off. (A `dtype` of None does not do
# that: it means the device's default, on a GPU fp16.) For fp32 and bf16, the scaler is made with
# `enabled=False` and does nothing. `fresh` makes an untrained network with the same weights each
# time.

# %%
from fasttricks.models import create


def take_step(net, x, q, optimizer, scaler, dtype):
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        outputs = net(x)
    loss = F.cross_entropy(outputs.float(), q)
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # divides by the scale, skips if an element is not finite
    scaler.update()  # the next scale
    optimizer.zero_grad()
    return loss.detach()


def fresh():
    torch.manual_seed(0)
    return create(budget.model, data.channels, len(data.classes)).to(device)


# %% [markdown]
# <details><summary>The same in a whole script, as a diff from plain training</summary>
#
# In [`examples/precision.py`](../examples/precision.py), `half` chooses the format. On a GPU older
# than the V100, let it return None, not fp16.
#
# ```diff
#
# +def half(device):
# +    """bf16 where it is native, else fp16 on a GPU; None on a CPU without it."""
# +    if device == "cuda":
# +        native = torch.cuda.is_bf16_supported(including_emulation=False)
# +        return torch.bfloat16 if native else torch.float16
# +    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
# +    return torch.bfloat16 if known.get("avx512_bf16") or known.get("amx_bf16") else None
# +
# +
#  def main(folder, images, seed):
#  ...
#      optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
# +    dtype = half(device)
# +    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
#      steps, epoch = max(1, images // BATCH), len(y) // BATCH
#  ...
#          inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
# -        loss = F.cross_entropy(net(inputs), targets)
# -        loss.backward()
# -        optimizer.step()
# +        with torch.autocast(device, dtype, enabled=dtype is not None):
# +            outputs = net(inputs)
# +        loss = F.cross_entropy(outputs.float(), targets)
# +        scaler.scale(loss).backward()
# +        scaler.step(optimizer)
# +        scaler.update()
#          optimizer.zero_grad()
# ```
#
# </details>
#
# ## Use it: does the accuracy suffer?
#
# We train with and without the trick in turns, with the same seeds and the same number of images. A
# difference is *clear* by chapter 0's rule: all n pairs agree on its sign, and its mean is at least
# 1/√n points.

# %%
from fasttricks.course import accuracy_table, train_arms

arms = train_arms({"fp32": BASELINE, "mixed": BASELINE + MixedPrecision()}, data)
accuracy_table(arms).loc[["validation accuracy, mean", "lowest and highest"]]

# %% tags=["fold"]
ends = {arm: [ended.val_accuracy for ended in trials] for arm, trials in arms.items()}
accuracy = gained(ends["mixed"], ends["fp32"], 0.1)
verdict = ""
if "no clear" in accuracy:
    verdict = "With so few runs, we could miss a small loss. The longer recorded runs are above."
elif "lower" in accuracy:
    verdict = "That is a clear loss."
elif "higher" in accuracy:
    verdict = "Nothing in the trick aims at that, so do not count on it."
if chosen == "fp32":
    verdict = "Both ran in fp32, because this device has no fast 16-bit format."
say(
    f"Accuracy in {chosen} after {budget.images / len(data.train):.2f} epochs, compared with fp32: "
    f"**{accuracy}**. {verdict}"
)

# %% [markdown]
# ### How much time does it save?
#
# It depends on the size of batches and layers. In each turn, we time a few steps in fp32 and in the
# 16-bit format, and we alternate which goes first. The first three bars are our network. The *toy*
# is two convolutions with 8 or 256 channels, on 32 images of 14 by 14 pixels. Each dot is one turn:
# fp32 time over 16-bit time. A bar is the median of its dots. A difference is clear if all turns
# agree and the median is at least 5%.


# %% tags=["fold"]
def step_seconds(make, draw, count):
    arms, seconds = [], ([], [])
    for name in ("fp32", chosen):
        net, scaler = make(), MixedPrecision(name).scaler(device)
        optimizer = torch.optim.AdamW(net.parameters(), BASELINE.lr, fused=True)
        arms.append((net, optimizer, scaler, precision.DTYPES[name]))
    for turn in range(2 + 2 * budget.seeds):
        for which in ((0, 1), (1, 0))[turn % 2]:
            net, *others = arms[which]
            started = now(device)
            for _ in range(count):
                take_step(net, *draw(), *others)
            seconds[which].append(now(device) - started)
    return [found[1:] for found in seconds]  # the first turn warms up


def our_network(batch, count):
    draws = data.draws(batch, torch.Generator().manual_seed(0))
    return step_seconds(fresh, lambda: data.batch(*next(draws)), count)


def toy(channels, count):
    layers = [torch.nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
    net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    net = net.to(device, memory_format=torch.channels_last)
    x = torch.randn(32, channels, 14, 14, device=device).to(memory_format=torch.channels_last)
    batch = x, x.mean((2, 3)).softmax(1)  # any targets will do
    return step_seconds(lambda: deepcopy(net), lambda: batch, count)


# %% tags=["fold"]
from statistics import median

from fasttricks.machine import settings

times = {}
with settings(device):
    for images, count in ((8, 40), (128, 16), (512, 4)):
        times[f"{images} images"] = our_network(images, count)
    for channels, count in ((8, 100), (256, 3)):
        times[f"toy, {channels} channels"] = toy(channels, count)
ratios = {}
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
for row, (what, pairs) in enumerate(times.items()):
    ratios[what] = [full / mixed for full, mixed in zip(*pairs, strict=True)]
    axes.barh(row, median(ratios[what]), color="lightgrey", edgecolor="black")
    axes.plot(ratios[what], [row] * len(ratios[what]), "k.", ms=5)
axes.axvline(1, color="grey", ls="--")
axes.set(xlabel="times as fast as fp32", yticks=range(len(times)), yticklabels=list(times))
axes.invert_yaxis()
plt.show()

# %% tags=["fold"]
from fasttricks.machine import hardware, name_of_machine

few, steps, many, narrow, wide = ratios.values()
told = [faster(mixed, full).replace("runs", "turns") for full, mixed in times.values()]


def effect(small, large):
    if min(large) > max(small):
        return "gain more"
    return "gain less" if max(large) < min(small) else "show no clear difference"


sentences = (
    f"- Steps of 8 images: {told[0]}. Of 128 images: **{told[1]}**. Of 512 images: **{told[2]}**. "
    f"So compared with batches of 8, those of 512 {effect(few, many)}.\n"
    f"- Steps of the toy with 8 channels: {told[3]}. With 256 channels: **{told[4]}**. So larger "
    f"layers {effect(narrow, wide)}.\n\n"
)
known = paces.get((name_of_machine(hardware()), "plain training"))
if known:
    sentences += (
        f"The recorded runs on a machine of this name were {known[0] / known[1]:.2f} times as fast "
        f"per image with the trick. In fp32, an image took {1000 * known[0]:.2f} ms there, and "
        f"{1000 * median(times['128 images'][0]) / (16 * 128):.2f} ms here. Such ratios can change "
        f"with the machine and its load, so **time your own training**."
    )
clock = "Both sides ran in fp32, so these ratios only show how steady the clock is."
say(clock if chosen == "fp32" else sentences)

# %% [markdown]
# Every operation has a fixed cost, casts take time, and the update stays in 32 bits. These costs
# weigh less in large layers and batches.
#
# ### How much memory does it save?
#
# For the backward pass, autograd keeps the inputs and weights that each layer has used. We count
# them without the fp32 weights, which are in memory anyway.

# %% tags=["fold"]
from torch.autograd.graph import saved_tensors_hooks


def kept(name, batch=256):
    held, weights = {}, {parameter.data_ptr() for parameter in net.parameters()}
    spy = saved_tensors_hooks(lambda t: held.setdefault(t.data_ptr(), t), lambda t: t)
    with spy, MixedPrecision(name).autocast(device):
        net(data.normalise(data.train.x[:batch]))
    return sum(tensor.nbytes for place, tensor in held.items() if place not in weights) / 1e6


say(
    f"For a batch of 256, bf16 keeps **{kept('bf16'):.0f} instead of {kept('fp32'):.0f} MB**. The "
    f"weights, their gradients and AdamW's two averages stay in fp32 and take "
    f"{16 * sum(map(torch.numel, net.parameters())) / 1e6:.1f} MB as before."
)

# %% [markdown]
# ### Should you use it?
#
# Time your own training with and without the trick, in turns. Keep it if training is clearly faster
# or you need the memory, but only if the accuracy is not clearly lower.

# %% tags=["fold"]
if chosen == "fp32":
    advice = "stay in fp32, because the device has no fast 16-bit format"
elif "lower" in accuracy:
    advice = f"stay in fp32, because of the accuracy: {accuracy}"
elif median(steps) > 1 and "not clearly" not in told[1]:
    advice = f"train in {chosen}. Steps were {told[1]}, and the accuracy was not clearly lower"
else:
    advice = f"use {chosen} only if you need the memory. Steps were {told[1]}"
say(f"For our network on this device, this means: **{advice}**.")

# %% [markdown]
# ## Break it
#
# We take away the two guards, one at a time.
#
# ### fp16 without its loss scale
#
# We need smaller gradients than ours. Imagine a network that labels every pixel of 16 images of
# 1,024 by 2,048 pixels. It averages its loss over 2^25 terms, so no gradient at its output is
# larger than 2^-25, and fp16 rounds all of them to zero. Our mean is over 16 images, or 2^4. So to
# imitate it, we multiply our targets by 2^-21, and the learning rate by 2^21. With SGD in fp32, the
# two factors cancel exactly. `descend` makes 60 such steps with a fresh network. It returns the
# network and its losses, divided by the factor.


# %% tags=["fold"]
def descend(dtype=torch.float32, scaled=False, factor=1.0, lr=0.01, steps=60):
    net = fresh()
    optimizer = torch.optim.SGD(net.parameters(), lr / factor, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    draws, losses = data.draws(16, torch.Generator().manual_seed(0)), []
    for _ in range(steps):
        x, q = data.batch(*next(draws))
        loss = take_step(net, x, factor * q, optimizer, scaler, dtype)
        losses.append(loss.item() / factor)
    return net, losses


# %% [markdown]
# We use the tiny loss three times and the ordinary one once, on the same batches:

# %%
TINY = 2.0**-21
descents = {
    "fp32": descend(factor=TINY),
    "fp16 with a loss scale": descend(torch.float16, True, TINY),
    "fp16 without": descend(torch.float16, False, TINY),
    "fp16 without, ordinary loss": descend(torch.float16),
}

# %% [markdown]
# Here are their losses. Each line is a single run, so small differences may be chance.

# %% tags=["fold"]
WIDTH, last, lines = 20, {}, {}
for name, (_, losses) in descents.items():
    means = [sum(losses[n - WIDTH : n]) / WIDTH for n in range(WIDTH, len(losses) + 1)]
    last[name], lines[name] = means[-1], (range(WIDTH, len(losses) + 1), means)
plot(lines, "step", f"loss, mean of {WIDTH} steps")
plt.show()

# %% tags=["fold"]
say(
    f"On the tiny loss, fp16 without a scale ends at **{last['fp16 without']:.2f}**. (Guessing "
    f"among ten classes gives {torch.tensor(10).log():.2f}.) With a loss scale, it ends at "
    f"{last['fp16 with a loss scale']:.2f}, and fp32 ends at {last['fp32']:.2f}. On the ordinary "
    f"loss, fp16 without a scale ends at {last['fp16 without, ordinary loss']:.2f}."
)

# %% [markdown]
# The loss varies even without learning, because the images change. Did the weights move?

# %% tags=["nbval-check-output"]
pairs = zip(fresh().parameters(), descents["fp16 without"][0].parameters(), strict=True)
holds(all(torch.equal(a, b) for a, b in pairs), "without a loss scale, not one weight has moved")

# %% [markdown]
# **Every gradient was rounded to zero, without an error message.** With slightly larger gradients,
# only some vanish. Then training may get worse rather than stop, which is harder to notice.
#
# ### Weights in 16 bits
#
# We train our copy of the network further in fp32, by AdamW with a low learning rate, 0.00003. In
# one of two runs, all weights are rounded to bf16, at the start and after each step. Between 1/128
# and 1/64, bf16 numbers lie 2^-14 apart. Half of that is 0.0000305, slightly more than the rate. So
# if no step is longer than the rate, all weights above 1/128 stay. That is an estimate: many steps
# of AdamW are shorter, and a few may be longer.
#
# We measure the loss on 2,000 validation images. Batch norm takes its statistics from them, too, so
# the loss depends only on the weights. Again, each line is a single run.


# %% tags=["fold"]
def round_weights(net, dtype):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.to(dtype))


def validation_loss(net):
    with torch.no_grad():
        logits = net(data.normalise(data.val.x[:2000]))
    return F.cross_entropy(logits, data.val.y[:2000]).item()


# %% tags=["fold"]
nets, lines = {}, {}
for name in ("fp32", "bf16"):
    nets[name], losses = deepcopy(trained), {}
    optimizer = torch.optim.AdamW(nets[name].parameters(), 3e-5)
    unused = torch.amp.GradScaler(device.type, enabled=False)
    draws = data.draws(64, torch.Generator().manual_seed(1))
    for step in range(201):
        round_weights(nets[name], precision.DTYPES[name])
        if step % 20 == 0:
            losses[step] = validation_loss(nets[name])
        if step < 200:
            take_step(nets[name], *data.batch(*next(draws)), optimizer, unused, torch.float32)
    lines[f"weights in {name}"] = (list(losses), list(losses.values()))
plot(lines, "step", "validation loss")
plt.show()

# %% tags=["fold"]
moves = []
for _, losses in lines.values():
    change = losses[-1] - losses[0]
    moves.append(f"{'falls' if change < 0 else 'rises'} by {abs(change):.3f}")
begin = deepcopy(trained)
round_weights(begin, torch.bfloat16)
pairs = list(zip(begin.parameters(), nets["bf16"].parameters(), strict=True))
still = 100 * torch.cat([(a == b).flatten() for a, b in pairs]).float().mean().item()
large = 100 * torch.cat([(a.abs() >= 1 / 128).flatten() for a, _ in pairs]).float().mean().item()
say(
    f"In 200 steps, the loss {moves[0]} with fp32 weights. With bf16 weights, it {moves[1]}: "
    f"**{still:.0f}%** of these weights end exactly where they began. By their size alone, we "
    f"estimated {large:.0f}%."
)

# %% [markdown]
# So keep the weights in 32 bits. At a higher rate, fewer steps are lost.

# %% tags=["fold"]
seen = f"8 images a step: {told[0]}; the toy with 8 channels: {told[3]}"
if chosen == "fp32":
    seen = "all in fp32, because this device has no fast 16-bit format"
say(
    "<details><summary>The trick's card (<i>slot</i>: where in the loop the trick acts; "
    "<i>single</i>: no other trick can act there; <i>meets</i>: what it interacts with)</summary>"
    f"\n\n{precision.__doc__.rstrip()}\n| small batches and nets in our runs | {seen} |\n\n"
    "</details>"
)

# %% [markdown]
# ## Questions
#
# **1. In fp16, you clip gradients to a norm of 1 and forget `unscale_`. What happens?**
#
# <details><summary>Answer</summary>You clip gradients that are still multiplied by the scale. Then
# the scaler divides them by it, at first by 65,536, and little is left. With SGD, the network
# hardly learns. (Adam adapts to the size of gradients and may hide it.)</details>
#
# **2. Why are scales powers of two?**
#
# <details><summary>Answer</summary>They change only the exponent, so nothing is rounded, as long as
# no number leaves the range between the smallest normal and the largest one.</details>
#
# **3. On an A100, your transformer gains much more from bf16 than your convolutional network.
# Which setting may explain it?**
#
# <details><summary>Answer</summary>By default, convolutions in fp32 already use the faster TF32
# there, and matrix multiplications do not. Allow TF32 there, too, and compare again.</details>
#
# **4. Your loss scale halves at every step. What is wrong?**
#
# <details><summary>Answer</summary>A few halvings at the start are normal. If they go on, perhaps
# the loss has blown up: lower the learning rate. Or an activation overflows: use bf16.</details>
#
# **5. Mixed precision made your training slower. What can you try?**
#
# <details><summary>Answer</summary>Check that the device multiplies the format natively. Then try a
# larger batch; the saved memory may make room for it.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell.
#
# **Exercise 1.** Return whether a step is lost, that is, whether adding `update` to `weight` in the
# given format changes nothing.


# %%
from fasttricks.course import check


def is_lost(weight, update, dtype):
    raise NotImplementedError


check("precision", 1, is_lost)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def is_lost(weight, update, dtype):
#     start = torch.tensor(weight, dtype=dtype)
#     return bool(start + torch.tensor(update, dtype=dtype) == start)
# ```
#
# </details>
#
# **Exercise 2.** Return the largest power of two by which these fp32 gradients can be multiplied so
# that none exceeds 65,504. (They are finite, and at least one is not zero.)


# %%
def largest_scale(grads):
    raise NotImplementedError


check("precision", 2, largest_scale)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# import math
#
#
# def largest_scale(grads):
#     ratio = 65504 / grads.abs().max().item()
#     return 2.0 ** (math.frexp(ratio)[1] - 1)
# ```
#
# `math.frexp` splits a number exactly into a fraction, from 1/2 to 1, and a power of two.
#
# </details>
#
# **Exercise 3.** Given whether the gradients were finite at each step, return the list of scales
# that those steps used.


# %%
def scales(finite, first=65536.0, interval=2000):
    raise NotImplementedError


check("precision", 3, scales)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def scales(finite, first=65536.0, interval=2000):
#     used, scale, good = [], first, 0
#     for fine in finite:
#         used.append(scale)
#         good = good + 1 if fine else 0
#         if not fine:
#             scale = scale / 2
#         elif good == interval:
#             scale, good = scale * 2, 0
#     return used
# ```
#
# </details>
#
# ## Further reading
#
# - Micikevicius et al. 2017, [arXiv 1710.03740](https://arxiv.org/abs/1710.03740): master weights,
#   loss scaling.
# - Kalamkar et al. 2019, [arXiv 1905.12322](https://arxiv.org/abs/1905.12322): bfloat16 for
#   training.
# - Zamirai et al. 2020, [arXiv 2010.06192](https://arxiv.org/abs/2010.06192): weights in bf16.
# - PyTorch's [notes on automatic mixed
#   precision](https://pytorch.org/docs/stable/notes/amp_examples.html): clipping, accumulation.
