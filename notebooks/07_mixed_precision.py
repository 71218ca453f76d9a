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
# Networks are usually trained with 32-bit numbers. Mixed precision computes in 16 bits, which some devices do much
# faster, and keeps 32 bits where 16 would do damage. The time saved depends on the device and on the size of the
# layers. There are two 16-bit formats, and the device decides which one to use:
#
# | format | device |
# |---|---|
# | bf16 | NVIDIA GPUs since Ampere (A100, RTX 30), x86 CPUs with AVX512-BF16 or AMX |
# | fp16 with a loss scale | older NVIDIA GPUs (V100, T4) |
# | fp32 | all others, unless your own timing shows a gain |
#
# fp16 cannot hold very small numbers. If gradients become zero, a network can stop learning, with no error message.
# The *loss scale* prevents that by making them larger. bf16 has the range of fp32 and needs no scale.
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
# Here is one step of training. Grey steps run in 16 bits, white ones in 32.

# %% tags=["fold"]
import matplotlib.pyplot as plt

steps = [
    ("weights", 0, 1, "white"),
    ("16-bit copy\nof the weights", 1, 1, "lightgrey"),
    ("forward\npass", 2, 1, "lightgrey"),
    ("loss, times\nthe loss scale", 3, 1, "white"),
    ("backward\npass", 3, 0, "lightgrey"),
    ("gradient, divided\nby the loss scale", 1.5, 0, "white"),
    ("update of\nthe weights", 0, 0, "white"),
]
figure, axes = plt.subplots(figsize=(9, 2.6))
axes.set(xlim=(-0.5, 3.5), ylim=(-0.4, 1.4))
axes.axis("off")
boxes = [
    axes.text(x, y, name, ha="center", va="center", bbox={"facecolor": colour, "pad": 7})
    for name, x, y, colour in steps
]
for start, end in zip(boxes, boxes[1:] + boxes[:1], strict=True):
    arrow = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    arrow |= {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
    axes.annotate("", end.get_position(), start.get_position(), arrowprops=arrow)
plt.show()

# %% [markdown]
# The white boxes show the two guards. First, the weights stay in 32 bits. Second, and only with fp16, the loss is
# multiplied by the **loss scale**, which makes every gradient larger by the same factor. Before the weights change,
# the gradient is divided by it.
#
# We train a small ResNet on Fashion-MNIST, small grey pictures of ten kinds of clothing. `BASELINE` is the plain training
# of chapter 0, and `MixedPrecision` is the trick.
#
# We call a difference *clear* if all pairs of runs with the same seed agree on its sign and if it is large enough: in
# accuracy, a mean of 1/√n points for n pairs (0.6 for three), and in time, a median of 5 %.

# %%
import torch

from fasttricks import BASELINE, MixedPrecision, OneCycle, choose_budget, load, train
from fasttricks.course import bars, faster, gained, holds, median, plot, say
from fasttricks.loop import cross_entropy, now
from fasttricks.tricks import precision

budget, data, device = choose_budget(), load(), BASELINE.world.device()
here = data.to(device, budget.image_size)
chosen = MixedPrecision().choose(device)

# %% [markdown]
# ## The problem: paying for 32 bits
#
# A number is stored as a sign, an exponent `e` (how large it is) and a fraction `f` (its binary digits). There are
# two common ways to fit it into 16 bits:
#
# ```text
# fp32   ± eeeeeeee fffffffffffffffffffffff    32 bits
# bf16   ± eeeeeeee fffffff                    16 bits: the range of fp32, few digits
# fp16   ± eeeee    ffffffffff                 16 bits: more digits, a small range
# ```
#
# Half as many bits take half as long to move between memory and processor. Recent hardware also has special
# instructions for 16-bit products, such as tensor cores on GPUs and AMX on CPUs. How much can this device gain? We
# multiply a square matrix by itself and double its size until that takes 0.03 seconds. We keep the shortest of several
# times, because interruptions only add to it.


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

# %%
products = {}
for short_format in ("bf16", "fp16"):
    largest = max(set(rates[short_format]) & set(rates["fp32"]))
    gain = rates[short_format][largest] / rates["fp32"][largest]
    how = f"{gain:.1f} times as fast as" if gain > 0.95 else f"{1 / gain:.1f} times as slow as"
    products[short_format] = f"{how} fp32"
    say(
        f"At {largest:,} rows, the largest size that we timed in both formats, {short_format} is "
        f"**{products[short_format]}**."
    )

# %% [markdown]
# If the line of a 16-bit format stays far below that of fp32, this device only imitates the format. That is common
# for fp16 on CPUs. If a format loses only with small matrices, that is because these do not repay the preparation that
# its special instructions need. Large matrices are the best case. A network also normalises and adds, so expect it to
# gain less. (On recent NVIDIA GPUs, fp32 convolutions are already faster, because PyTorch rounds their inputs to 10
# binary digits by default, a format called TF32.)
#
# ## By hand: what a number is made of
#
# Here are the bits of 0.1: the sign, the exponent and the fraction.


# %%
def bits(number, name):
    raw = torch.tensor([number], dtype=precision.DTYPES[name]).view(torch.uint8).tolist()
    code, cut = "".join(f"{byte:08b}" for byte in reversed(raw)), 6 if name == "fp16" else 9
    return f"{code[0]} {code[1:cut]} {code[cut:]}"


{name: bits(0.1, name) for name in ("fp32", "bf16", "fp16")}

# %% [markdown]
# bf16 is fp32 with most of the fraction rounded off. In fp16, the exponent bits 01011 are the number 11. Exponents are
# stored with 15 added, so they stand for 2^(11 - 15) = 2^-4. The fraction bits 1001100110 are 614. A leading 1 is not
# stored, so they stand for 1 + 614/1024. The product is 0.09998, the fp16 number closest to 0.1. PyTorch knows the
# limits of each format:

# %%
import pandas as pd

limits = {name: torch.finfo(dtype) for name, dtype in precision.DTYPES.items()}
rows = {name: [f.max, f.tiny, f.tiny * f.eps, f.eps] for name, f in limits.items()}
names = ["largest", "smallest normal", "smallest above zero", "from 1 to the next number"]
pd.DataFrame(rows, names).map("{:.5g}".format)

# %%
coarse = limits["bf16"].eps / limits["fp16"].eps
say(
    f"fp16 ends at {limits['fp16'].max:,.0f}, while bf16 goes about as far as fp32. But the numbers of bf16 lie "
    f"{coarse:.0f} times as far apart as those of fp16. Our trick prefers bf16 if the device multiplies it *natively*, "
    f"that is, with instructions made for it. Here, it chooses **{chosen}**. {MixedPrecision().note(device)}"
)

# %% [markdown]
# Below the *smallest normal* number, the exponent can go no lower, so the fraction loses one digit with each
# halving. Half of the *smallest above zero*, and anything below, is rounded to zero. So fp16 can fail at both ends.

# %% tags=["nbval-check-output"]
sign, exponent, fraction = (int(part, 2) for part in bits(0.1, "fp16").split())
rebuilt = (-1) ** sign * 2.0 ** (exponent - 15) * (1 + fraction / 1024)
holds(rebuilt == torch.tensor(0.1).half().item(), "the three parts rebuild the number")
holds(torch.tensor(2.0**-25).half() == 0, "half of the smallest fp16 number is zero")
holds(torch.tensor(300.0).half().square().isinf(), "300 times 300 is infinite in fp16")

# %% [markdown]
# The last row of the table shows a danger for the weights. If a step changes a weight by less than half the distance
# to the next number, the sum is rounded back to the old weight, and the step is lost.

# %% tags=["nbval-check-output"]
low, high = torch.tensor(1.0).bfloat16(), torch.tensor(1.0)
for _ in range(1000):
    low, high = low + 1e-4, high + 1e-4
holds(low == 1, "a weight of 1 in bf16 stays where it is after 1,000 steps of 0.0001")
holds(abs(high - 1.1) < 1e-3, "in fp32 the same steps take it to 1.1")

# %% [markdown]
# That is why the weights stay in fp32, as **master weights**. For its products, each layer uses a 16-bit copy, which
# `torch.autocast` makes on the fly. (Inside a product, fast hardware adds up in 32 bits.) Autocast has a list of the
# operations that run in 16 bits:

# %%
import torch.nn.functional as F

convolution, norm = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4)
with torch.autocast("cpu", torch.bfloat16):
    convolved = convolution(torch.randn(4, 1, 8, 8))
    normed = norm(convolved)
found = {"weight": convolution.weight, "convolution": convolved, "batch norm": normed}
{name: tensor.dtype for name, tensor in (found | {"its mean": norm.running_mean}).items()}

# %% [markdown]
# The convolution casts its weight, that is, converts it to 16 bits. Batch norm passes 16-bit numbers on, but keeps
# its *statistics*, the running mean and variance, in 32.
#
# ## The next problem: small gradients
#
# Gradients are at risk, too, because many of them are small. To look at some, we train a network for a while (with
# `OneCycle` from chapter 3) and keep a copy for later. Then we take one batch: images `x` and target probabilities `q`.

# %%
from copy import deepcopy

short = budget.images // 4
run = train(BASELINE + OneCycle(), data, images=short, evaluations=1, label="short training")
net, trained = run.net, deepcopy(run.net)
batches = here.draws(64, torch.Generator().manual_seed(0))  # shuffled row numbers, 64 at a time
x, q = here.batch(*next(batches))

# %% [markdown]
# The backward pass hands gradients from layer to layer. In mixed precision, it does so in 16 bits. We record the
# gradients of the convolutions' outputs (`of_outputs`) and those of the weights (`of_weights`), for now in fp32.

# %% tags=["fold"]
spied, passing = deepcopy(net), []


def watch(layer, given, out):
    if isinstance(layer, torch.nn.Conv2d):
        out.register_hook(lambda grad: passing.append(grad.flatten()))


for layer in spied.modules():
    layer.register_forward_hook(watch)
cross_entropy(spied(x), q).backward()
of_outputs = torch.cat(passing)
of_weights = torch.cat([parameter.grad.flatten() for parameter in spied.parameters()])


# %% [markdown]
# We count them by powers of two and leave out exact zeros, which every format can hold. A loss scale of 2^16, where
# PyTorch begins, moves the whole curve 16 places to the right.


# %% tags=["fold"]
def spread(grads):
    powers = grads[grads != 0].abs().log2().floor().cpu()
    share = torch.histc(powers, 72, -48, 24) / len(powers)
    return torch.arange(-48, 24).tolist(), (100 * share).tolist()


lines = {
    "gradients of outputs": spread(of_outputs),
    "those, times 2^16": spread(of_outputs * 2.0**16),
    "gradients of weights": spread(of_weights),
}

# %% [markdown]
# The upper part of the figure shows which numbers each format can hold. The vertical lines are the smallest fp16
# number above zero, the smallest normal one and the largest.

# %% tags=["fold"]
from fasttricks.course import formats

ranges = {name: (f.tiny * f.eps, f.tiny, f.max) for name, f in limits.items() if name != "fp32"}
formats({"fp32": (2.0**-149, 2.0**-126, 2.0**127)} | ranges, lines, guide="fp16")
plt.show()

# %%
nonzero = of_outputs[of_outputs != 0]
once, scaled_up = nonzero.half().abs(), (nonzero * 2.0**16).half().abs()
gone, blurred = (once == 0).float().mean(), ((once > 0) & (once < 2**-14)).float().mean()
hurt = (scaled_up < 2**-14).float().mean()
say(
    f"Of the gradients of outputs, fp16 would turn **{100 * gone:.1f} %** into zero, and another "
    f"**{100 * blurred:.0f} %** would lose digits. With a loss scale of 2^16, only {100 * hurt:.1f} % would vanish or "
    f"lose digits. bf16 has about the same range as fp32 and needs no scale."
)

# %% [markdown]
# ### How much does that matter?
#
# The gradients that vanish are the smallest, so they count least. We therefore look at the result, the gradient of
# the weights. We multiply the loss by a factor, run both passes in 16 bits, divide the gradient by the factor, and
# compare it with the fp32 gradient. A large factor is a loss scale. A small one stands for a task with smaller
# gradients than ours. The error is the length of the difference, divided by the length of the fp32 gradient.
#
# How large an error is harmless? Training lives with a much larger one all the time: each batch has a different
# gradient. So we also compute the fp32 gradient of another batch, and draw its distance as a grey line.


# %%
def gradient(name, factor=1.0, images=x, targets=q):
    net.zero_grad()
    with MixedPrecision(name).autocast(device):
        outputs = net(images)
    (cross_entropy(outputs.float(), targets) * factor).backward()
    return torch.cat([parameter.grad.flatten() / factor for parameter in net.parameters()])


exact, shifts, off = gradient("fp32"), range(-24, 33, 4), {}
for name in ("fp16", "bf16"):
    errors = [(gradient(name, 2.0**shift) - exact).norm() / exact.norm() for shift in shifts]
    off[name] = (shifts, [error.item() for error in errors])
fp16, bf16 = (dict(zip(*off[name], strict=True)) for name in ("fp16", "bf16"))
other = gradient("fp32", 1.0, *here.batch(*next(batches)))  # of another batch
chance = ((other - exact).norm() / exact.norm()).item()
plot(off, "factor on the loss, power of two", "error of the gradient", marks=True, yscale="log")
plt.axhline(chance, color="grey", ls="--")
plt.text(32, 0.95 * chance, "another batch, in fp32", color="grey", ha="right", va="top")
plt.show()

# %%
best = min(found for found in fp16.values() if found < float("inf"))
fine = [power for power, found in fp16.items() if found < 1.5 * best]
needs = "So despite the figure above, fp16 needs no loss scale for this loss."
if 0 not in fine:
    needs = "The plain loss, at 2^0, lies outside, so fp16 needs a loss scale here."
say(
    f"The error of fp16 stays close to its lowest value, {best:.3f}, from 2^{min(fine)} to 2^{max(fine)}. **{needs}** "
    f"At 2^-24, its error is {fp16[-24]:.2f}. (A gradient of zero would have an error of 1.) At the right, its line "
    f"ends where a gradient overflows. The error of bf16 is {bf16[0]:.2f} at any factor: it has fewer digits, but its "
    f"range is wide enough."
)
say(
    f"The gradient of another batch differs by {chance:.2f}, which is {chance / bf16[0]:.0f} times the error of bf16 and "
    f"{chance / best:.0f} times that of fp16."
    + (" So **rounding is small beside the chance of the batch**." if chance > 5 * bf16[0] else "")
)

# %% [markdown]
# **Why are these errors so much larger than the gaps between neighbouring numbers?** Every layer rounds anew, in both
# passes. And the gradient of a weight is a sum, in which terms of both signs partly cancel, but their errors do not.
#
# **Why can an error exceed 1?** We did not test it, but a likely reason is this: if a small factor turns most of them into zero, the large ones lose their
# counterweight. A still smaller factor turns all into zero.
#
# Four of these observations should hold on any device:

# %% tags=["nbval-check-output"]
holds(fp16[-24] > 0.5, "fp16 with a tiny factor has lost the gradient")
holds(not fp16[32] < 100, "with a huge factor it overflows")
holds(max(bf16.values()) < 2 * min(bf16.values()), "bf16 does not care about the factor")
holds(fp16[8] < 0.8 * bf16[8], "with a loss scale of 2^8, fp16 is closer to fp32 than bf16")

# %% [markdown]
# Other tasks have smaller gradients. Micikevicius et al. (2017) needed no loss scale for ResNet-50, but their object
# detector SSD diverged without one. So never use fp16 without a loss scale.
#
# ## Write it
#
# If a scale is too large, a gradient overflows, and we notice. If it is too small, gradients vanish unnoticed. So we
# keep it as large as possible. After the backward pass, divide the gradients by the scale. If even *one* element is
# infinite or not a number, skip the step and halve the scale. After 2,000 good steps in a row, double it.


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
# ## Check it
#
# We compare our two functions with the package's `LossScale` and PyTorch's `GradScaler`. Four of 40 steps overflow,
# and the scale grows after five good steps.

# %%
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

# %% tags=["nbval-check-output"]
holds(all(same), "ours, the package's and torch's scaler agree in each of 40 steps")

# %% [markdown]
# Two rules follow. The scale should be a power of two, because multiplying by a power of two changes only the
# exponent. And *clipping*, which shortens a gradient that is too long, must come after unscaling.


# %% tags=["nbval-check-output"]
def clip(grad, longest):
    return grad * min(1.0, longest / grad.norm().item())


plain = torch.randn(1000, generator=torch.Generator().manual_seed(0))
holds(torch.equal(plain * 2**16 / 2**16, plain), "a scale of 2^16 changes no digit")
holds(not torch.equal(plain * 1000 / 1000, plain), "a scale of 1,000 does")
late, right = clip(plain * 2**16, 0.01) / 2**16, clip(plain, 0.01)
holds(late.norm() < right.norm() / 1000, "clipping before unscaling makes the step far too short")


# %% [markdown]
# ## In your own loop
#
# Here is one step in ordinary PyTorch. `scaler` is a `torch.amp.GradScaler`. With `enabled=False`, as for bf16, it
# leaves everything as it is. We compute the loss outside autocast, in 32 bits. (Inside, autocast would also compute this
# loss in 32 bits, so either place is right.)


# %%
def take_step(net, x, q, optimizer, scaler, dtype, factor=1.0):
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        outputs = net(x)  # products in 16 bits
    loss = F.cross_entropy(outputs.float(), q)  # the loss in 32
    scaler.scale(factor * loss).backward()  # factor: for an experiment below
    scaler.step(optimizer)  # divides by the scale, skips if an element is not finite
    scaler.update()  # the next scale
    optimizer.zero_grad()
    return loss.item()


# %% [markdown]
# In a plain script, remove the lines marked `-` and add those marked `+`.
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
# In that script, [`examples/precision.py`](../examples/precision.py), `device` is a string ("cuda" or "cpu"), `main`
# trains, and `groups` are the weights with and without weight decay. On NVIDIA GPUs that are older than the V100, let
# `half` return None: they have no fast fp16. You may need two more additions. To clip, call
# `scaler.unscale_(optimizer)` first. And a skipped step, which you can recognise by its lower scale, must not advance
# a learning-rate schedule:
#
# ```python
# before = scaler.get_scale()
# scaler.update()
# if scaler.get_scale() >= before:
#     scheduler.step()
# ```
#
# ## Use it
#
# We train fresh networks with and without the trick, with the same seeds and the same number of images.

# %%
from fasttricks.course import accuracy_table, train_arms

arms = train_arms({"fp32": BASELINE, "mixed": BASELINE + MixedPrecision()}, data)
accuracy_table(arms)

# %%
ends = {arm: [ended.val_accuracy for ended in trials] for arm, trials in arms.items()}
accuracy = gained(ends["mixed"], ends["fp32"], 0.1)
verdict = "We see no clear difference. With so few runs, we could miss a small loss."
if "lower" in accuracy:
    verdict = "That is a clear loss."
elif "higher" in accuracy:
    verdict = "That is a clear gain, but nothing in the trick aims at it, so do not count on it."
elif "seed" not in accuracy:
    verdict = "So we cannot tell."
if chosen == "fp32":
    verdict = "Both ran in fp32, because this device has no fast 16-bit format."
say(
    f"Compared with fp32, the accuracy of the mixed runs ({chosen}) after {budget.images / len(data.train):.2f} "
    f"epochs is **{accuracy}**. {verdict}"
)

# %% [markdown]
# ### How much time does it save?
#
# We compare the times of these runs. We also time single passes, forward and backward, of two networks: ours, with
# batches of 8 to 512 images, and a toy of two convolutions, with 8 to 256 channels. `in_turns` times both formats in
# five rounds and returns their seconds. In each round, it keeps the fastest of three passes.


# %% tags=["fold"]
def pass_seconds(model, images, trick):
    started = now(device)
    with trick.autocast(device):
        out = model(images)
    torch.autograd.grad(out, list(model.parameters()), out.detach())  # any gradient will do
    return now(device) - started


def in_turns(model, images, rounds=5):
    images = images.to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(rounds + 1):
        for trick in (MixedPrecision("fp32"), MixedPrecision()):
            seconds.append(min(pass_seconds(model, images, trick) for _ in range(3)))
    return seconds[2::2], seconds[3::2]  # fp32 and mixed, without the first round: it warms up


# %% [markdown]
# The toy sees 32 pictures of 14 by 14 pixels. A dot is the ratio of a pair of times, a bar is the mean of the dots,
# and a black line is an interval for that mean (the bootstrap of chapter 0). The sentence below gives medians.

# %% tags=["fold"]
times = {"whole runs": [[done.train_seconds for done in some] for some in arms.values()]}
for batch in (8, 32, 128, 512):
    times[f"batch of {batch}"] = in_turns(net, here.normalise(here.train.x[:batch]))
for width in (8, 32, 128, 256):
    layers = [torch.nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
    toy = torch.nn.Sequential(*layers).to(device, memory_format=torch.channels_last)
    times[f"toy, {width} channels"] = in_turns(toy, torch.randn(32, width, 14, 14, device=device))
ratios = {}
for name, pairs in times.items():
    ratios[name] = [full / mixed for full, mixed in zip(*pairs, strict=True)]
bars(ratios, "times as fast as fp32")
plt.axvline(1, color="grey", ls="--")
plt.show()

# %%
speeds = {what: faster(both[1], both[0]) for what, both in times.items()}
pace = speeds["whole runs"]
speeds = {what: told.replace("runs", "rounds") for what, told in speeds.items()}
sooner = "not clearly" not in pace and "known" not in pace and median(ratios["whole runs"]) > 1
if chosen == "fp32":
    say("Both sides ran in fp32, so these ratios only show how steady the clock is.")
else:
    say(
        f"Compared with fp32, whole runs in {chosen} are **{pace}** (median). Single passes are "
        f"{speeds['batch of 8']} with a batch of 8, and {speeds['batch of 512']} with a batch of 512. In the toy, they "
        f"are {speeds['toy, 8 channels']} with 8 channels, and **{speeds['toy, 256 channels']}** with 256."
    )

# %% [markdown]
# The more products each cast number takes part in, the more there is to gain, so we would expect larger layers to
# gain more, until the products take nearly all of the time. A whole run uses batches of 128 images.
#
# These ratios hold for one device and small networks. A CPU does not tell you what a GPU would gain. Rounds that are
# only seconds apart do not show how the speed drifts, and the fastest of three passes hides interruptions. Whole runs
# do not hide them, but they are few.
#
# ### How much memory does it save?
#
# For the backward pass, autograd keeps the inputs of each layer and the weights that the layer has used. `kept` counts
# these megabytes without the fp32 weights, which are in memory anyway. Do not expect exactly half: 16-bit copies of the
# weights are extra, and some tensors, such as the indices of max pooling, do not shrink.

# %% tags=["fold"]
from torch.autograd.graph import saved_tensors_hooks


def kept(name, batch=256):
    held, weights = {}, {parameter.data_ptr() for parameter in net.parameters()}
    spy = saved_tensors_hooks(lambda t: held.setdefault(t.data_ptr(), t), lambda t: t)
    with spy, MixedPrecision(name).autocast(device):
        net(here.normalise(here.train.x[:batch]))
    return sum(tensor.nbytes for place, tensor in held.items() if place not in weights) / 1e6


kept_fp32, kept_bf16 = kept("fp32"), kept("bf16")

# %%
say(
    f"For a batch of 256, bf16 keeps **{kept_bf16:.0f} instead of {kept_fp32:.0f} MB**. The weights, their gradients "
    f"and AdamW's two averages stay in fp32 and take "
    f"{16 * sum(map(torch.numel, net.parameters())) / 1e6:.1f} MB as before."
)

# %% tags=["nbval-check-output"]
holds(kept_bf16 < 0.7 * kept_fp32, "for a batch of 256, autocast keeps less than 70 %")
kinds = {parameter.dtype for parameter in net.parameters()}
holds(kinds == {torch.float32}, "and the master weights are still fp32")

# %% [markdown]
# ## Break it
#
# Now we take away the two guards, one at a time.
#
# ### fp16 without its loss scale
#
# To see the damage, we need smaller gradients than ours. A network that labels every pixel of 16 images of 1,024 by
# 2,048 pixels averages its loss over 2^25 terms, so no gradient at its output can be larger than 2^-25. Our mean over
# 16 images divides by 2^4, so we multiply the loss by 2^-21 and, to make up for it, the learning rate by 2^21. With
# SGD in fp32, the two factors cancel exactly.


# %%
from fasttricks.models import create


def fresh():
    torch.manual_seed(0)
    return create(budget.model, data.channels, len(data.classes)).to(device)


def descend(dtype=torch.float32, scaled=False, factor=1.0, lr=0.01, steps=60):
    net = fresh()
    optimizer = torch.optim.SGD(net.parameters(), lr / factor, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    draws, losses = here.draws(16, torch.Generator().manual_seed(0)), []
    for _ in range(steps):
        batch = here.batch(*next(draws))
        losses.append(take_step(net, *batch, optimizer, scaler, dtype, factor))
    return net, losses


# %% [markdown]
# We train four times, from the same weights and on the same batches, once with the ordinary loss. We plot the losses
# before the factor is applied, each as the mean of the last 20 steps. Each line is a single run, so small differences
# may be chance.

# %%
TINY, WIDTH = 2.0**-21, 20
descents = {
    "fp32": descend(factor=TINY),
    "fp16 with a loss scale": descend(torch.float16, True, TINY),
    "fp16 without": descend(torch.float16, False, TINY),
    "fp16 without, ordinary loss": descend(torch.float16),
}
last, lines = {}, {}
for name, (_, losses) in descents.items():
    means = [sum(losses[n - WIDTH : n]) / WIDTH for n in range(WIDTH, len(losses) + 1)]
    last[name], lines[name] = means[-1], (range(WIDTH, len(losses) + 1), means)
plot(lines, "step", f"loss, mean of {WIDTH} steps")
plt.show()

# %%
say(
    f"**Without a loss scale, fp16 learns nothing from the tiny loss.** It ends at a loss of "
    f"{last['fp16 without']:.2f}. (Guessing among ten classes costs {torch.tensor(10).log():.2f}.) With a loss scale, "
    f"fp16 ends at {last['fp16 with a loss scale']:.2f}, and fp32 ends at {last['fp32']:.2f}. On the ordinary loss, "
    f"fp16 without a scale ends at {last['fp16 without, ordinary loss']:.2f}."
)

# %% [markdown]
# The loss varies even without learning, because each step sees different images. Did the weights change at all?

# %% tags=["nbval-check-output"]
pairs = zip(fresh().parameters(), descents["fp16 without"][0].parameters(), strict=True)
holds(all(torch.equal(a, b) for a, b in pairs), "without a loss scale, not one weight has moved")

# %% [markdown]
# Every gradient was rounded to zero, and there was no error message. We made the gradients of all pixels equally
# small. In practice, some are larger, so gradients rarely vanish this completely.
#
# ### Weights in 16 bits
#
# Now everything is computed in fp32, but after each step we round all parameters to bf16. We train our copy of the
# network further, at a low learning rate like that near the end of a schedule, 0.00003.
#
# However large the gradients are, AdamW's steps are hardly longer than the learning rate. From 1/128 on, bf16 numbers
# lie at least 2^-14 apart, and half of that is 0.0000305. So we can predict which weights will not move:

# %% tags=["nbval-check-output"]
border, step = torch.tensor(1 / 128).bfloat16(), 3e-5
holds(border + step == border, "at a weight of 1/128, a step of 0.00003 is lost")
holds(0.99 * border + step != 0.99 * border, "just below, numbers lie closer, and the step counts")

# %% [markdown]
# We measure the loss on 2,000 validation images. Batch norm takes its statistics from these images, too, so the loss
# depends only on the parameters.


# %%
def validation_loss(net):
    with torch.no_grad():
        logits = net(here.normalise(here.val.x[:2000]))
    return F.cross_entropy(logits, here.val.y[:2000]).item()


def go_on(stored, lr=3e-5, steps=200):
    net, losses = deepcopy(trained), {}
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    unused = torch.amp.GradScaler(device.type, enabled=False)
    draws = here.draws(64, torch.Generator().manual_seed(1))
    for step in range(steps + 1):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(parameter.to(stored))  # rounds it
        if step % 20 == 0:
            losses[step] = validation_loss(net)
        if step < steps:
            take_step(net, *here.batch(*next(draws)), optimizer, unused, torch.float32)
    return net, losses


# %% [markdown]
# Both runs start from the trained weights and use the same batches.

# %% tags=["fold"]
nets, lines = {}, {}
for name in ("fp32", "bf16"):
    nets[name], losses = go_on(precision.DTYPES[name])
    lines[f"weights in {name}"] = (list(losses), list(losses.values()))
plot(lines, "step", "validation loss")
plt.show()

# %%
full, rounded = (measured[-1] - measured[0] for _, measured in lines.values())
begin = [parameter.bfloat16().float() for parameter in trained.parameters()]
pairs = zip(begin, nets["bf16"].parameters(), strict=True)
still = 100 * torch.cat([(a == b).flatten() for a, b in pairs]).float().mean().item()
large = 100 * torch.cat([(a.abs() >= 1 / 128).flatten() for a in begin]).float().mean().item()
say(
    f"In 200 steps, the loss changes by {full:+.3f} with fp32 weights and by {rounded:+.3f} with bf16 weights. Of the "
    f"bf16 weights, **{still:.0f} %** end exactly where they began. From their size alone, we expected at least "
    f"{large:.0f} %."
)

# %% [markdown]
# Many steps are shorter than the learning rate, so smaller weights can stay, too. At a higher rate, fewer steps are
# lost. So we would expect training with 16-bit weights to begin well and to stop improving when the rate falls.
#
# ## What we have found
#
# Our recorded study measured the time to a given accuracy, with the trick alone and with all seven. This time is the
# number of images times the time per image. The trick is meant to change only the second, but the first varies from
# seed to seed, so the study's ratio can be larger or smaller than the gain in speed that we measured above. *Paired*
# runs start from the same random numbers. *Times as fast* below 1 means slower. If the 95 % interval contains 1, the
# study cannot tell. With many comparisons, some look clear by chance, and the text says
# where this may have happened.
#
# The card sums up the trick. The *slot* is its place in the training loop, *single* means that only one trick fits
# there, and *meets* names what it interacts with.

# %%
from IPython.display import Markdown

from fasttricks.course import headline

say(headline("precision"))
Markdown(precision.__doc__)

# %% [markdown]
# This is how the card compares with our runs.

# %%
seen = [
    f"*Weights in fp32* matter: at a low learning rate, {still:.0f} % of the bf16 weights did not move.",
    f"*fp16 needs a loss scale*: with tiny gradients, it learned nothing without one. Our ordinary loss "
    f"{'did not need it' if 0 in fine else 'needed it too'}.",
    f"*Pays with native 16 bits*: large products in bf16 were {products['bf16']}, and in fp16 {products['fp16']}.",
]
if chosen != "fp32":
    seen += [
        f"*Pays with large layers and batches*: the toy was {speeds['toy, 256 channels']} with 256 channels, and our "
        f"network {speeds['batch of 512']} with a batch of 512.",
        f"*Little gets faster in a small net*: the toy was {speeds['toy, 8 channels']} with 8 channels. A small batch "
        f"is similar: our network was {speeds['batch of 8']} with a batch of 8.",
        f"The card says nothing about *accuracy*, which was {accuracy}, or about *memory*: bf16 kept {kept_bf16:.0f} "
        f"instead of {kept_fp32:.0f} MB for a batch of 256. Whole runs were {pace}.",
    ]
say("\n".join(f"- {point}" for point in seen))

# %% [markdown]
# **Rule of thumb.** Use bf16 if the device multiplies it natively. If not, use fp16 with a `GradScaler` on an NVIDIA
# GPU since the V100, and stay in fp32 elsewhere. Keep the weights in fp32. Time your own training with and without the
# trick, in alternating runs. Keep the
# trick if training is clearly faster or you need the memory, but only if the accuracy is not clearly lower.

# %%
if chosen == "fp32":
    advice = "stay in fp32, because the device has no fast 16-bit format"
elif "lower" in accuracy:
    advice = f"stay in fp32, because the accuracy was {accuracy}"
elif sooner:
    advice = f"train in {chosen}: whole runs were {pace}, and the accuracy was not clearly lower"
else:
    advice = f"use {chosen} only if you need the memory, because whole runs were {pace}"
say(f"For our network on this device, the rule says: **{advice}**.")

# %% [markdown]
# Expect more from large networks on a GPU with tensor cores. On a Volta GPU, single operations became 2 to 6 times as
# fast if arithmetic or memory limited their speed (Micikevicius et al. 2017).
#
# ## Questions
#
# **1. Why does bf16 need no loss scale?**
#
# <details><summary>Answer</summary>It has the 8 exponent bits of fp32, and so about the same range.</details>
#
# **2. Why are scales powers of two?**
#
# <details><summary>Answer</summary>They change only the exponent, so nothing is rounded.</details>
#
# **3. Why must the weights stay in fp32 if the products need not?**
#
# <details><summary>Answer</summary>A step adds a small number to a large one. 16 bits may round it away every
# time.</details>
#
# **4. Your loss scale halves at every step. What is wrong?**
#
# <details><summary>Answer</summary>At the start, a few halvings are normal. If they go on, the gradients are
# infinite at any scale. Perhaps the loss itself has blown
# up: lower the learning rate. Or an activation exceeds 65,504, where the loss scale does not help: use bf16.</details>
#
# **5. Mixed precision made your training slower. What can you try?**
#
# <details><summary>Answer</summary>Check that the device multiplies the format natively. Then try a larger
# batch, which may fit into the memory saved.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** Return whether a step is lost, that is, whether adding `update` to `weight` in the given
# format changes nothing.


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
# **Exercise 2.** Return the largest power of two by which these fp32 gradients can be multiplied so that
# none exceeds 65,504.


# %%
def largest_scale(grads):
    raise NotImplementedError


check("precision", 2, largest_scale)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def largest_scale(grads):
#     return 2.0 ** (65504 / grads.abs().max()).log2().floor().item()
# ```
#
# </details>
#
# **Exercise 3.** Given whether the gradients were finite at each step, return the list of scales that
# those steps used.


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
# - Micikevicius et al. 2017, [arXiv 1710.03740](https://arxiv.org/abs/1710.03740): master weights, loss
#   scaling, a histogram like ours.
# - Kalamkar et al. 2019, [arXiv 1905.12322](https://arxiv.org/abs/1905.12322): bfloat16 for training.
# - Zamirai et al. 2020, [arXiv 2010.06192](https://arxiv.org/abs/2010.06192): training with weights in
#   bf16, and why plain rounding cancels small steps.
# - PyTorch's [notes on automatic mixed precision](https://pytorch.org/docs/stable/notes/amp_examples.html):
#   clipping, accumulation, several losses.
