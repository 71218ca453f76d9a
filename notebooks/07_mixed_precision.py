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
# Networks are usually trained in 32-bit numbers, although they hardly use all those digits. Mixed precision
# computes in 16 bits, which some devices do much faster, and keeps 32 bits wherever 16 would do damage. A
# number is stored as a sign, an exponent `e` (how large it is) and a fraction `f` (its binary digits). There
# are two common ways to fit it into 16 bits:
#
# ```text
# fp32   ± eeeeeeee fffffffffffffffffffffff    32 bits
# bf16   ± eeeeeeee fffffff                    16 bits: the range of fp32, few digits
# fp16   ± eeeee    ffffffffff                 16 bits: more digits, a small range
# ```
#
# This chapter shows what 16 bits lose, which two guards prevent the damage (a *loss scale* and weights in 32
# bits), and whether the trick saves time on this device.
#
# About 20 minutes to read, and two to run.

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
# Here is one step of training. What is grey is done in 16 bits, and what is white in 32.

# %%
import matplotlib.pyplot as plt

boxes = {
    "weights": (0, 1, "white"),
    "a copy\nof them": (1, 1, "lightgrey"),
    "forward\npass": (2, 1, "lightgrey"),
    "loss,\ntimes the scale": (3, 1, "white"),
    "backward\npass": (3, 0, "lightgrey"),
    "gradient,\ndivided by the scale": (1.5, 0, "white"),
    "update of\nthe weights": (0, 0, "white"),
}
figure, axes = plt.subplots(figsize=(8.5, 2.8), layout="constrained")
for name, (across, up, colour) in boxes.items():
    axes.text(across, up, name, ha="center", va="center", bbox={"facecolor": colour, "pad": 6})
places = [place[:2] for place in boxes.values()]
for place, following in zip(places, places[1:] + places[:1], strict=True):
    gap = 62 if place[1] == following[1] else 26
    axes.annotate(
        "", following, place, arrowprops={"arrowstyle": "->", "shrinkA": gap, "shrinkB": gap}
    )
axes.set(xlim=(-0.5, 3.5), ylim=(-0.5, 1.5))
axes.axis("off")
plt.show()

# %% [markdown]
# In ordinary PyTorch, the same step looks like this. `dtype` is the 16-bit format.
#
# ```python
# scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
# for x, y in batches:
#     with torch.autocast("cuda", dtype):         # layers use 16-bit copies of their weights
#         outputs = net(x)
#     loss = F.cross_entropy(outputs.float(), y)  # the loss in 32 bits
#     scaler.scale(loss).backward()               # gradients, times the scale
#     scaler.step(optimizer)                      # divided by it; skipped if one is infinite
#     scaler.update()                             # the scale of the next step
#     optimizer.zero_grad()
# ```
#
# We will train a small ResNet on Fashion-MNIST, grey pictures of ten kinds of clothes. The budget sets how much,
# depending on the device. `BASELINE` is the plain training of chapter 0 (AdamW at a constant learning rate).
# `MixedPrecision` is the trick. It chooses bf16 if the device has it, else fp16 on a GPU and fp32 on a processor.

# %%
import torch

from fasttricks import BASELINE, MixedPrecision, OneCycle, choose_budget, load, train
from fasttricks.course import gained, holds, median, plot, say
from fasttricks.loop import cross_entropy, now
from fasttricks.tricks import precision

budget, data, device = choose_budget(), load(), BASELINE.world.device()
here = data.to(device, budget.image_size)
chosen = MixedPrecision().choose(device)

# %%
say(f"On this device, it chooses **{chosen}**. {MixedPrecision().note(device)}")

# %% [markdown]
# Our recorded study tried the trick alone and among all seven of this course. *Paired seeds* means that runs
# with and without it start from the same random numbers. If "times as fast" is below 1, it is slower.
#
# The trick's card follows. Its *slot* is the part of our recipe that it fills (*single*: only one trick can). A
# *cast* is a conversion between formats, and *statistics* are batch norm's means and variances. What the trick
# *meets* is explained under *Check it* and *In your own loop*.

# %%
from IPython.display import Markdown

from fasttricks.course import headline

say(headline("precision"))
Markdown(precision.__doc__)

# %% [markdown]
# ## The problem: paying for 32 bits
#
# Why should 16 bits be faster? First, half as many bytes have to be moved between memory and processor, and
# much of training waits for memory. Second, recent hardware has special instructions for 16-bit products: tensor
# cores on GPUs and AMX on processors multiply small matrices, and AVX512-BF16 computes dot products. (On recent
# NVIDIA GPUs, PyTorch computes fp32 convolutions in TF32 by default, with inputs rounded to 10 binary digits. That
# is faster than true fp32, so 16 bits gain less.)
#
# What can this device do at most? We multiply two square matrices in each format and double their size until a
# product takes 0.03 seconds. We take the fastest of six, because an interruption can only make one slower.


# %%
def fastest(size, dtype):
    matrix, times = torch.randn(size, size, device=device).to(dtype) / size**0.5, []
    for _ in range(6):
        started = now(device)
        matrix @ matrix
        times.append(now(device) - started)
    return min(times)


rates = {}
for name, dtype in precision.DTYPES.items():
    size, taken, rates[name] = 64, 0, {}
    while size <= 8192 and taken < 0.03:
        taken = fastest(size, dtype)
        rates[name][size] = 2 * size**3 / taken / 1e9
        size *= 2
lines = {name: (list(found), list(found.values())) for name, found in rates.items()}
ylabel = "billion operations per second (log scale)"
plot(lines, "rows of the matrix (log scale)", ylabel, scale="log", marks=True, yscale="log")
plt.show()

# %%
for other in ("bf16", "fp16"):
    shared = max(set(rates[other]) & set(rates["fp32"]))
    matrix = rates[other][shared] / rates["fp32"][shared]
    compared = (
        f"is **{matrix:.1f} times as fast** as"
        if matrix >= 1
        else f"takes **{1 / matrix:.1f} times as long** as"
    )
    say(f"With {shared:,} rows, the most that both formats reached, {other} {compared} fp32.")

# %% [markdown]
# In small matrices, starting a product takes longer than computing it. The device's own speed shows on the right,
# where the lines should level off. A format that is much slower even there has no fast kernel (compiled routine). That
# happens to fp16 on many processors. What a network gains is a question for *Use it*.
#
# ## By hand: what a number is made of
#
# The formats differ in how many bits each part gets: 5 for fp16's exponent, 8 for the others'.


# %%
def bits(number, name):
    raw = torch.tensor([number], dtype=precision.DTYPES[name]).view(torch.uint8).tolist()
    code, cut = "".join(f"{byte:08b}" for byte in reversed(raw)), 6 if name == "fp16" else 9
    return f"{code[0]} {code[1:cut]} {code[cut:]}"


{name: bits(0.1, name) for name in ("fp32", "bf16", "fp16")}


# %% [markdown]
# Compare the first two: bf16 is fp32 with most of the fraction rounded off. It spends its bits on range;
# fp16 spends them on digits. Torch can tell us what that means in numbers:

# %%
import pandas as pd

limits = {name: torch.finfo(dtype) for name, dtype in precision.DTYPES.items()}
rows = {name: [f.max, f.tiny, f.tiny * f.eps, f.eps] for name, f in limits.items()}
names = ["largest", "smallest normal", "smallest at all", "from 1 to the next number"]
pd.DataFrame(rows, names).map("{:.5g}".format)

# %%
coarse = limits["bf16"].eps / limits["fp16"].eps
say(
    f"fp16 ends at {limits['fp16'].max:,.0f}; bf16 goes as far as fp32. But the numbers of bf16 lie "
    f"{coarse:.0f} times as far apart as those of fp16."
)

# %% [markdown]
# Below the *smallest normal* number, the exponent cannot go any lower, and the fraction loses a digit
# with each halving. Such numbers are called subnormal. Even smaller ones are rounded: to *smallest at all*
# if they are above half of it, and otherwise to zero.
#
# The exponent is stored with 15 added to it in fp16 (127 in the other two), so that it needs no sign of
# its own. The fraction counts in steps of 1/1024, and a leading 1 is not stored at all. So fp16's 0.1 reads:
# the exponent 01011 is 11, which stands for 2^(11 - 15) = 2^-4, and the fraction 1001100110 is 614, which stands
# for 1 + 614/1024 = 1.5996. Their product, 0.09998, is the fp16 number that is closest to 0.1.

# %% tags=["nbval-check-output"]
sign, exponent, fraction = (int(part, 2) for part in bits(0.1, "fp16").split())
rebuilt = (-1) ** sign * 2.0 ** (exponent - 15) * (1 + fraction / 1024)
holds(rebuilt == torch.tensor(0.1).half().item(), "the three parts rebuild the number")
holds(torch.tensor(2.0**-25).half() == 0, "half of the smallest fp16 number is zero")
holds(torch.tensor(300.0).half().square().isinf(), "300 times 300 is infinite in fp16")


# %% [markdown]
# So fp16 can fail at both ends. Numbers above 65,504 are rare in the forward pass of a network with
# normalisation, but if one occurs, only bf16 or fp32 helps. Numbers that are too small are much more common.
#
# The last row of the table shows why the weights need 32 bits. If a step changes a weight by less than half
# the distance to the next number, the sum is rounded back to the old weight, and the step is lost. A thousand
# such steps are lost too.

# %% tags=["nbval-check-output"]
low, high = torch.tensor(1.0).bfloat16(), torch.tensor(1.0)
for _ in range(1000):
    low, high = low + 1e-4, high + 1e-4
holds(low == 1, "a weight of 1 in bf16 stays where it is after 1,000 steps of 0.0001")
holds(abs(high - 1.1) < 1e-3, "in fp32 the same steps take it to 1.1")

# %% [markdown]
# So the weights stay in fp32, as **master weights**. For its product, each layer uses a 16-bit copy,
# which `torch.autocast` makes on the fly. Autocast follows a list of operations, one list for processors
# and one for GPUs. On a processor:

# %%
import math

import torch.nn.functional as F

convolution, norm = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4)
with torch.autocast("cpu", torch.bfloat16):
    convolved = convolution(torch.randn(4, 1, 8, 8))
    normed = norm(convolved)
    logits = normed.mean((2, 3))
    loss, by_parts = F.cross_entropy(logits, torch.arange(4)), F.log_softmax(logits, 1)
found = {"convolution": convolved, "batch norm": normed, "its running mean": norm.running_mean}
{name: t.dtype for name, t in (found | {"loss": loss, "log softmax": by_parts}).items()}

# %% [markdown]
# Batch norm passes 16-bit numbers on, but keeps its statistics in 32. The finished loss runs in 32, but its
# building block, the log softmax, does not (on a GPU it does). To be safe with any loss, this course computes it
# from `outputs.float()`, outside autocast.
#
# ## The next problem: small gradients
#
# Weights are not the only numbers at risk. To look at gradients, we train a network for a while and take one
# batch: images `x` and target probabilities `q`, which are 1 for the right class and 0 for the others. We also
# keep a copy of the network for the last experiment. (`OneCycle` from chapter 3 helps such short training.)

# %%
from copy import deepcopy

short = budget.images // 4
run = train(BASELINE + OneCycle(), data, images=short, evaluations=1, label="short training")
net, trained = run.net, deepcopy(run.net)
batches = here.draws(64, torch.Generator().manual_seed(0))  # shuffled row numbers, 64 at a time
x, q = here.batch(*next(batches))


# %% [markdown]
# The backward pass hands gradients from layer to layer, and mixed precision does that in 16 bits. So we record
# the gradient of each convolution's output on the way, and collect those of the weights afterwards. Everything
# is still in fp32.

# %%
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
# How large are they? We count them by powers of two and leave out exact zeros, which every format can
# hold. If we multiply the loss by a number, the *loss scale*, the chain rule multiplies every gradient by
# it, so the whole curve slides to the right. We draw the gradients of the outputs with and without a loss
# scale of 2^16. Above them, the figure shows which sizes each format can hold. The vertical lines are the three
# limits of fp16: *smallest at all*, *smallest normal*, and *largest*.


# %%
def spread(grads):
    powers = grads[grads != 0].abs().log2().floor().cpu()
    share = torch.histc(powers, 72, -48, 24) / len(powers)
    return torch.arange(-48, 24).tolist(), (100 * share).tolist()


lines = {
    "gradients of outputs": spread(of_outputs),
    "those, times 2^16": spread(of_outputs * 2.0**16),
    "gradients of weights": spread(of_weights),
}

# %%
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
    f"**{100 * blurred:.0f} %** would lose digits. With a loss scale of 2^16, only {100 * hurt:.1f} % would suffer "
    f"at all."
)

# %% [markdown]
# The gradient of a weight sums the contributions of all images and pixels, so its curve lies further to the right.
# bf16 holds all of this. From this figure, we would expect fp16 to need a loss scale.
#
# ## Does it matter? The damage to a gradient
#
# The elements that vanish count least. So we look at the result, the gradient of the weights. We multiply the loss by a factor, run both passes in 16 bits, divide the gradient by the
# factor, and compare it with that of fp32. A large factor is a loss scale. A small one stands for a task
# whose gradients are that much smaller than ours. The error is the length of the difference, divided by the
# length of the fp32 gradient. A gradient of zero would have an error of 1.


# %%
def gradient(name, factor=1.0):
    net.zero_grad()
    with MixedPrecision(name).autocast(device):
        outputs = net(x)
    (cross_entropy(outputs.float(), q) * factor).backward()
    return torch.cat([parameter.grad.flatten() / factor for parameter in net.parameters()])


exact, shifts, off = gradient("fp32"), range(-24, 33, 4), {}
for name in ("fp16", "bf16"):
    errors = [(gradient(name, 2.0**shift) - exact).norm() / exact.norm() for shift in shifts]
    off[name] = (shifts, [error.item() for error in errors])
fp16, bf16 = (dict(zip(*off[name], strict=True)) for name in ("fp16", "bf16"))
xlabel, ylabel = "factor on the loss, power of two", "relative error of the gradient (log scale)"
plot(off, xlabel, ylabel, marks=True, yscale="log")
plt.show()

# %%
usable = {shift: error for shift, error in fp16.items() if error < math.inf}
best, worst = min(usable.values()), max(usable, key=usable.get)
fine = [shift for shift, error in usable.items() if error < 1.5 * best]
needs = "As expected, fp16 needs a loss scale here."
if 0 in fine:
    needs = "Surprisingly, fp16 needs no loss scale here."
say(
    f"**{needs}** With the plain loss, its error is {fp16[0]:.3f}, and at the best factor {best:.3f}. It stays "
    f"close to the best between 2^{min(fine)} and 2^{max(fine)}. bf16 has an error of {bf16[0]:.2f} whatever the "
    f"factor, because it has fewer digits and a larger range."
)
if 0 in fine:
    full_digits = of_outputs[of_outputs.abs() >= 2**-14].norm() / of_outputs.norm()
    say(
        f"How can that be, if so many elements lose digits? The large ones dominate: those that fp16 holds with all "
        f"their digits make up {100 * full_digits**2:.1f} % of the squared length of these gradients."
    )
if usable[worst] > 1.05:
    say(
        f"At 2^{worst}, the error of fp16 is **{usable[worst]:.1f}**: that step would be worse than none."
    )

# %% tags=["nbval-check-output"]
holds(fp16[-24] > 0.5, "fp16 with a tiny factor has lost the gradient")
holds(not fp16[32] < 100, "with a huge factor it overflows")
holds(max(bf16.values()) < 2 * min(bf16.values()), "bf16 does not care about the factor")
holds(fp16[8] < 0.8 * bf16[8], "with a loss scale of 2^8, fp16 is closer to fp32 than bf16")

# %% [markdown]
# Where the fp16 line stops on the right, a gradient has become infinite. At the left end, all gradients become
# zero. In between, a rounded gradient can be worse than none: fp16 rounds numbers a little below its smallest
# one up, and even smaller ones to zero. The gradient of a weight is a sum of many numbers of either sign, which
# almost cancel. After such rounding, they no longer do:

# %% tags=["nbval-check-output"]
tiny = torch.tensor([0.6, -0.3, -0.2]) * 2.0**-24
rounded = tiny.half().float()
holds(
    rounded.tolist() == [2.0**-24, 0, 0], "fp16 rounds the first number up and the others to zero"
)
holds((rounded.sum() / tiny.sum()).round() == 10, "so the rounded sum is ten times the true one")

# %% [markdown]
# You need a loss scale if your gradients lie further to the left than ours: for example, if the loss is averaged
# over many pixels, or if it has become small late in training. Micikevicius et al. (2017) needed none for
# ResNet-50, but their object detector SSD diverged without one. So use fp16 with a loss scale.
#
# Is the error of bf16 small? We compare it with the difference between the fp32 gradients of two batches.

# %%
x, q = here.batch(*next(batches))
other_batch = ((gradient("fp32") - exact).norm() / exact.norm()).item()

# %%
say(
    f"Another batch of 64 images changes the fp32 gradient by **{other_batch:.2f}**, which is "
    f"{other_batch / bf16[0]:.0f} times the error of bf16 and {other_batch / best:.0f} times the best of fp16. So "
    f"the choice of the batch moves a step {'more' if other_batch > bf16[0] else 'less'} than rounding to bf16 does."
)

# %% [markdown]
# That does not settle it. The differences between batches average out over many steps, and those of rounding may
# not. Only whole runs can tell; they follow under *Use it*.
#
# ## Write it
#
# Many scales work, but the right range differs between networks and changes during training, so we adjust
# the scale as we go. After the backward pass, divide the gradients by the scale. If a *single* element is
# infinite or not a number (NaN), skip the whole step, because AdamW would turn it into a NaN weight. After
# such an overflow, halve the scale. After many good steps, try doubling it.


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
# We simulate 80 steps. The largest gradient is 1 at first and shrinks by 5 % per step. To make growth visible, we
# try it after eight good steps instead of 2,000.

# %%
scale, good, history, skipped = 2.0**24, 0, [], []
for step in range(80):
    history.append(math.log2(scale))
    finite = bool(torch.tensor(scale * 0.95**step).half().isfinite())
    skipped += [] if finite else [step]
    scale, good = next_scale(scale, good, finite, interval=8)
plot({"scale": (range(80), history)}, "step", "loss scale, power of two")
plt.plot(skipped, [history[step] for step in skipped], "ks", label="this step is skipped")
plt.legend()
plt.show()

# %%
early = next(turn for turn in range(80) if turn not in skipped)
say(
    f"The first {early} steps are skipped, because the scale was far too large to begin with. After that, "
    f"{len(skipped) - early} of {80 - early} steps are skipped, each after a doubling that came too early."
)

# %% [markdown]
# ## Check it
#
# First, we compare our two functions with the package's `LossScale` and torch's `GradScaler`. Four of 40 steps
# overflow.

# %%
theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
packaged, scale, good, same = precision.LossScale(1024.0, interval=5), 1024.0, 0, []
weight = torch.ones(3, requires_grad=True)
optimizer = torch.optim.SGD([weight], 0.1)
for step in range(40):
    optimizer.zero_grad()
    theirs.scale(weight.sum() * (math.inf if step in (3, 4, 17, 30) else step)).backward()
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
# Second, we check three rules. One infinite element causes the whole step to be skipped. Scaling by a power of
# two changes only the exponent, so in fp32 it changes no digit. And gradient *clipping*, which shortens a
# gradient that is too long, must come after unscaling.


# %%
def clip(grad, longest):
    return grad * min(1.0, longest / grad.norm().item())


torch.manual_seed(0)
small = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
loss = cross_entropy(small(torch.randn(32, 8)), torch.randn(32, 3).softmax(1))
factors = (1.0, 2.0**16, 1000.0)
weight_of = small[0].weight
plain, scaled, decimal = (
    torch.autograd.grad(loss * factor, weight_of, retain_graph=True)[0] for factor in factors
)

# %% tags=["nbval-check-output"]
spoilt = [torch.ones(3), torch.tensor([1.0, float("inf")])]
holds(not unscale(spoilt, 2.0), "one infinite element is enough to skip the step")
holds(torch.equal(scaled / 2**16, plain), "unscaled gradients are the plain ones, bit for bit")
holds(not torch.equal(decimal / 1000, plain), "with a scale of 1,000 they are not")
late = clip(scaled, 0.01) / 2**16
holds(late.norm() < clip(plain, 0.01).norm() / 100, "clipping before unscaling kills the step")


# %% [markdown]
# Third, we measure the memory. For the backward pass, autograd keeps the inputs of each layer, which are
# called activations, and the weights that the layer has used. We count those bytes, 16-bit copies of weights
# included, but not the fp32 weights themselves, which are there anyway.


# %%
from torch.autograd.graph import saved_tensors_hooks


def kept(name, batch):
    held, weights = {}, {parameter.data_ptr() for parameter in net.parameters()}
    spy = saved_tensors_hooks(lambda t: held.setdefault(t.data_ptr(), t), lambda t: t)
    with spy, MixedPrecision(name).autocast(device):
        net(here.normalise(here.train.x[:batch]))
    return sum(tensor.nbytes for place, tensor in held.items() if place not in weights) / 1e6


kept_fp32, kept_bf16 = ([kept(name, batch) for batch in (16, 256)] for name in ("fp32", "bf16"))

# %%
fixed = 16 * sum(map(torch.numel, net.parameters())) / 1e6
say(
    f"At a batch size of 256, bf16 keeps **{kept_bf16[1]:.0f} instead of {kept_fp32[1]:.0f} MB**, and at 16, "
    f"{kept_bf16[0]:.1f} instead of {kept_fp32[0]:.1f} MB. It does not shrink the weights, their gradients and "
    f"AdamW's two moments: four bytes each, together {fixed:.1f} MB at any batch size."
)

# %% tags=["nbval-check-output"]
holds(kept_bf16[1] < 0.7 * kept_fp32[1], "at a batch size of 256, autocast keeps less than 70 %")
kinds = {parameter.dtype for parameter in net.parameters()}
holds(kinds == {torch.float32}, "and the master weights are still fp32")


# %% [markdown]
# So the saving is large if activations dominate, as in convolutional networks with large batches. If parameters
# dominate, as in a large language model with a small batch, it is small: the fp32 weights are needed as before,
# and their 16-bit copies come on top.
#
# ## In your own loop
#
# Here is one whole training step in ordinary PyTorch. `scaler` is a `torch.amp.GradScaler`. Created with
# `enabled=False`, as you would for bf16, it passes everything through.


# %%
def take_step(net, x, q, optimizer, scaler, dtype, longest=math.inf, loss_weight=1.0):
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        outputs = net(x)  # products in 16 bits
    loss = F.cross_entropy(outputs.float(), q)  # the loss in 32
    scaler.scale(loss_weight * loss).backward()  # gradients, times the scale
    scaler.unscale_(optimizer)  # divided by it again
    torch.nn.utils.clip_grad_norm_(net.parameters(), longest)  # only now is their length true
    scaler.step(optimizer)  # skipped if an element is infinite or not a number
    scaler.update()  # the next scale
    optimizer.zero_grad()
    return loss.item()


# %% [markdown]
# We will use this function to break things. In a plain script without clipping, the trick takes these
# lines: remove those marked `-` and add those marked `+`.
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
# In that script, `device` is a word ("cuda" or "cpu"), `main` trains, and `groups` are the weights with and
# without weight decay. It is [`examples/precision.py`](../examples/precision.py). Evaluate under `autocast`
# too: it needs no scaler.
#
# One thing is missing as soon as the learning rate follows a schedule. A step that the scaler has skipped
# must not advance the schedule, and `scaler.step` does not report it. But after a skip, and only then, the
# scale is lower than before. Here the first and the third of five batches overflow.

# %%
weight = torch.nn.Parameter(torch.ones(3))
optimizer, scaler = torch.optim.SGD([weight], 0.1), torch.amp.GradScaler("cpu")
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)
for overflows in (True, False, True, False, False):
    scaler.scale(weight.sum() * (math.inf if overflows else 1.0)).backward()
    scaler.step(optimizer)
    before = scaler.get_scale()
    scaler.update()
    if scaler.get_scale() >= before:  # not skipped
        scheduler.step()
    optimizer.zero_grad()

# %% tags=["nbval-check-output"]
holds(scheduler.last_epoch == 3, "two of five batches were skipped: three steps of the schedule")
holds(weight.isfinite().all(), "no overflow has reached a weight")

# %% [markdown]
# After a skipped step, the schedule stands still, so the next step uses the same learning rate. This matters in
# short runs, where the first skipped steps would eat up the warm-up. With bf16, no step is skipped.
#
# ## Use it
#
# We train with and without the trick: same seeds, same number of images, fresh networks. (The table calls
# each of the two recipes an *arm*.)

# %%
from fasttricks.course import accuracy_table, train_arms

arms = train_arms({"fp32": BASELINE, "mixed": BASELINE + MixedPrecision()}, data)
accuracy_table(arms)

# %%
ends = {arm: [done.val_accuracy for done in all_done] for arm, all_done in arms.items()}
accuracy = gained(ends["mixed"], ends["fp32"], 0.1)
judged = {
    "lower": "So 16 bits have cost accuracy here.",
    "higher": "So 16 bits have cost none. We would not count on their raising it.",
    "about the same": "We see no clear loss. So few short runs could overlook one of half a point.",
    "undecided": "So few runs cannot tell whether accuracy is lost.",
}
if chosen == "fp32":
    judged = {"": "Both ran in fp32, because this device has no fast 16-bit format."}
conclusion = next((words for word, words in judged.items() if word in accuracy), "")
say(
    f"After {budget.images / len(data.train):.2f} epochs, with a batch size of {BASELINE.batch}, the accuracy "
    f"in {chosen} is **{accuracy}**. {conclusion}"
)

# %% [markdown]
# ### How much time does it save?
#
# Other programs can disturb a run, and one slow run can distort a mean. So we compare in pairs that follow each
# other and take the *median* of the ratios. A disturbed pair shows in the spread. Besides the few whole runs, we
# time many passes through the network, forward and backward, on one batch.


# %%
def seconds(model, given, trick):
    wanted = [*model.parameters(), given] if given.requires_grad else list(model.parameters())
    started = now(device)
    with trick.autocast(device):
        out = model(given)
    torch.autograd.grad(out, wanted, out.detach())  # for the time, any gradient will do
    return now(device) - started


def in_turns(model, given, cast=None, rounds=13):
    """Pairs of seconds, fp32 first; two rounds warm up."""
    cast = given if cast is None else cast  # what the layer gets in mixed precision
    fp32, mixed = MixedPrecision("fp32"), MixedPrecision()
    pairs = [(seconds(model, given, fp32), seconds(model, cast, mixed)) for _ in range(rounds)]
    return pairs[2:]


def ratios(pairs):
    return sorted(full / mixed for full, mixed in pairs)


given = here.normalise(here.train.x[: BASELINE.batch])
passes = in_turns(net, given)
clocks = [[run.train_seconds for run in runs] for runs in arms.values()]
found = {"whole runs": ratios(zip(*clocks, strict=True)), "single passes": ratios(passes)}
rows = {name: [median(some), some[0], some[-1], len(some)] for name, some in found.items()}
columns = ["times as fast, median", "lowest", "highest", "pairs"]
times_as_fast = pd.DataFrame.from_dict(rows, "index", columns=columns)
times_as_fast.round(2)

# %%
of_runs, of_passes = found["whole runs"], found["single passes"]
core = of_passes[2:-2] if len(of_passes) > 6 else of_passes
sides = [(of_runs[0], median(of_runs), of_runs[-1]), (core[0], median(of_passes), core[-1])]
words = []
for least, middle, most in sides:
    up, down = least > 1 and middle >= 1.05, most < 1 and middle <= 0.95
    words.append("faster" if up else "slower" if down else "even")
pace = words[0] if words[0] == words[1] else "even"
both = f"Whole runs are {sides[0][1]:.2f} times as fast and single passes {sides[1][1]:.2f} times"
answer = {
    "faster": f"{both}. **At this size, {chosen} saves time.**",
    "slower": f"{both}. **At this size, {chosen} costs time.**",
    "even": f"{both}. **We see no clear difference in time.** A clear one would be at least 5 % in both, and have the "
    f"same direction in all whole runs and in the middle {len(core)} passes.",
}[pace]
if chosen == "fp32":
    pace, answer = "even", "Both ran in fp32, so these ratios show only how steady the clock is."
say(answer)

# %% [markdown]
# (A run also prepares batches and updates weights, in fp32, so it should gain a little less than a pass.) The
# recorded study asks for the time *until a given accuracy*: the time per image, times the images needed. It also
# knows what the trick adds to the other six:

# %%
from fasttricks.course import published


def verdict(row):
    return "faster" if row.low > 1 else "slower" if row.high < 1 else "cannot tell"


recorded = {}
for study in published():
    flipped = {"faster": "slower", "slower": "faster"}
    two = {"alone": ("plain", "add precision"), "among seven": ("no precision", "whole")}
    for where, names in two.items():
        known = study.of(*names)
        if len(known) == 2 and all(row.images for row in known):
            without, added = known
            images = without.images / added.images
            left_out = flipped.get(
                verdict(without), "cannot tell"
            )  # judged without the trick there
            recorded[where, study.hardware] = {
                "times as fast per image": without.train / added.train / images,
                "images, without / with": images,
                "times as fast to the target": without.train / added.train,
                "more than chance": verdict(added) if where == "alone" else left_out,
            }
pd.DataFrame(recorded)

# %%
chances = {
    "faster": "**That gain is more than chance.**",
    "slower": "**That loss is more than chance.**",
    "cannot tell": "**That may be chance.**",
}
for (where_found, hardware), told in recorded.items():
    speed, fewer, total, beyond = told.values()
    extra = 100 * (1 / fewer - 1)
    needed = (
        f"{abs(extra):.0f} % {'more' if extra > 0 else 'fewer'} images"
        if abs(extra) >= 1
        else "as many images"
    )
    say(
        f"{where_found.capitalize()} ({hardware}), it is {speed:.2f} times as fast per image and needs {needed}. "
        f"Together, that makes it {total:.2f} times as fast to the target. {chances[beyond]}"
    )
if not recorded:
    say("No study is recorded, so we cannot tell.")

# %% [markdown]
# If 16 bits cost no accuracy, the number of images should stay the same. But the study tried only lengths that
# are an eighth apart, with few runs each, and chance in that number can hide what 16 bits save per image.
#
# ### What limits the gain?
#
# A network may gain less than large matrices because its convolutions do, or because something else takes the time.
# So we time each convolution of our network alone, on the input that it gets there. (The cast of its weights is
# included.)

# %%
seen = []


def remember(layer, inputs, out):
    seen.append((layer, inputs[0].detach()))


convolutions = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
hooks = [layer.register_forward_hook(remember) for layer in convolutions]
net(given)
for hook in hooks:
    hook.remove()

# %% [markdown]
# The table adds them up by the size of the pictures that they look at.

# %%
rows = []
for number, (layer, inputs) in enumerate(seen):
    cast = inputs.to(precision.DTYPES[chosen]).requires_grad_(number > 0)  # the images need none
    turns = in_turns(layer, inputs.requires_grad_(number > 0), cast)
    full, mixed = (1000 * median(times) for times in zip(*turns, strict=True))
    rows.append([inputs.shape[-1], 1, layer.out_channels, full, mixed])
columns = ["pixels a side", "layers", "most channels", "fp32, ms", "mixed, ms"]
totals = {"layers": "sum", "most channels": "max", "fp32, ms": "sum", "mixed, ms": "sum"}
by_picture = pd.DataFrame(rows, columns=columns).groupby("pixels a side", sort=False).agg(totals)
by_picture["times as fast"] = by_picture["fp32, ms"] / by_picture["mixed, ms"]
by_picture.round(2)

# %%
conv_fp32, conv_mixed = by_picture["fp32, ms"].sum(), by_picture["mixed, ms"].sum()
share = conv_fp32 / (1000 * median([full for full, _ in passes]))
conv_gain = conv_fp32 / conv_mixed
largest = max(set(rates[chosen]) & set(rates["fp32"]))
matrix = rates[chosen][largest] / rates["fp32"][largest]
at_best = 1 / (1 - share + share / matrix)
limit = "the rest of the pass, which gains less than the convolutions"
if at_best > conv_gain:
    limit = "that our convolutions gain much less than large matrices"
if matrix < 1.1:
    limit = "the device, whose 16-bit products are hardly faster"
shown = (
    f"The convolutions take {100 * share:.0f} % of the fp32 pass and are **{conv_gain:.2f} times as fast** in "
    f"{chosen}. If they gained as much as large matrices, {matrix:.1f} times, the pass would be {at_best:.1f} times as "
    f"fast. If instead the rest of the pass gained as much as they do, the pass would be {conv_gain:.2f} times as fast. "
    f"So the main limit is **{limit}**."
)
if chosen == "fp32":
    limit, shown = "not to be seen here", "Both sides ran in fp32, so the differences are chance."
elif share >= 1:
    limit = "unknown"
    shown = "Alone, the convolutions take as long as the whole pass, so this cannot tell what limits the gain."
say(shown)

# %% [markdown]
# Much arithmetic for each number that is cast or moved should help. We change one size at a time: the batch in our
# network, and the channels and the pictures in a toy of two convolutions. A line will join the medians, and a band
# leave out the two lowest and the two highest of eleven ratios.


# %%
def toy(width, side):
    pair = [torch.nn.Conv2d(width, width, 3, padding=1, device=device) for _ in range(2)]
    given = torch.randn(32, width, side, side, device=device)
    layout = torch.channels_last  # as in our network
    return torch.nn.Sequential(*pair).to(memory_format=layout), given.to(memory_format=layout)


by_batch = {BASELINE.batch: passes}
for batch in (8, 32, 512):
    by_batch[batch] = in_turns(net, here.normalise(here.train.x[:batch]))
by_width = {width: in_turns(*toy(width, 14)) for width in (8, 16, 32, 64, 128, 256)}
by_side = {side: in_turns(*toy(64, side)) for side in (2, 4, 7, 14, 28)}
panels = {
    "batch size (our network)": by_batch,
    "channels (toy, 14 pixels a side)": by_width,
    "pixels a side (toy, 64 channels)": by_side,
}

# %%
figure, panes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
for axes, (what, turns) in zip(panes, panels.items(), strict=True):
    sizes = sorted(turns)
    found = [ratios(turns[size]) for size in sizes]
    axes.plot(sizes, [median(some) for some in found], "ko-")
    axes.fill_between(sizes, [some[2] for some in found], [some[-3] for some in found], alpha=0.3)
    axes.axhline(1, color="grey")
    axes.set(xlabel=what, xscale="log", xticks=sizes, xticklabels=sizes)
    axes.minorticks_off()
panes[0].set_ylabel("times as fast as fp32")
plt.show()

# %%
trends = {}
for what, turns in panels.items():
    order = sorted(turns)
    ends_of = [ratios(turns[size]) for size in (order[0], order[-1])]
    trend = "makes no clear difference"
    if chosen != "fp32" and ends_of[1][2] > ends_of[0][-3]:
        trend = "helps"
    elif chosen != "fp32" and ends_of[1][-3] < ends_of[0][2]:
        trend = "harms"
    slower = [str(size) for size in order if ratios(turns[size])[-3] < 1]
    trends[what] = trend + (f" (slower than fp32 at {', '.join(slower)})" if slower else "")
    say(
        f"- *{what[0].upper()}{what[1:]}*: {median(ends_of[0]):.2f} times as fast at {order[0]}, and "
        f"{median(ends_of[1]):.2f} times at {order[-1]}. **A larger number {trend}.**"
        + (f" The whole band is below 1 at {', '.join(slower)}." if slower else "")
    )

# %%
small_pictures = 100 * (by_picture["fp32, ms"] * (by_picture.index <= 7)).sum() / conv_fp32
channels = [layer.out_channels for layer, _ in seen]
why = ""
if "helps" in "".join(list(trends.values())[1:]) and at_best > conv_gain:
    why = (
        " So **they are too small to gain much**: with little arithmetic per layer, the casts and the start of each "
        "operation weigh more."
    )
say(
    f"Our network's convolutions have {min(channels)} to {max(channels)} channels and spend {small_pictures:.0f} % of "
    f"their fp32 time on pictures of at most 7 pixels a side.{why}"
)

# %% [markdown]
# (The strides of our network may matter too. The toy has none.)
#
# ## Break it
#
# Mixed precision rests on two guards: the loss scale and the weights in 32 bits. We take away one at a time.
#
# ### fp16 without its loss scale
#
# To guarantee a failure, we need smaller gradients than ours. Imagine a network that labels every pixel: with 16
# images of 1,024 by 2,048 pixels, the loss is a mean of 2^25 terms, and no gradient at the network's output can be
# larger than 2^-25. Our classifier gets such gradients if we multiply the loss of 16 images by 2^-21.
#
# To make up for it, we multiply the learning rate by 2^21. We use SGD, whose step is the rate times a decaying sum
# of gradients, so in fp32 the two factors cancel exactly. (AdamW adapts its
# steps to the size of the gradients, but it cannot do anything with gradients of zero either.)


# %%
from fasttricks.models import create


def fresh():
    torch.manual_seed(0)
    return create(budget.model, data.channels, len(data.classes)).to(device)


def descend(dtype=torch.float32, scaled=False, weight=1.0, lr=0.01, steps=60):
    net = fresh()
    optimizer = torch.optim.SGD(net.parameters(), lr / weight, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    draws, losses = here.draws(16, torch.Generator().manual_seed(0)), []
    for _ in range(steps):
        batch = here.batch(*next(draws))
        losses.append(take_step(net, *batch, optimizer, scaler, dtype, loss_weight=weight))
    return net, losses


# %% [markdown]
# We train four times, from the same weights and on the same batches: in fp32, in fp16 with and without a loss
# scale, and for comparison in fp16 without a loss scale on the ordinary loss.

# %%
TINY = 2.0**-21
descents = {
    "fp32": descend(weight=TINY),
    "fp16 with a loss scale": descend(torch.float16, True, TINY),
    "fp16 without": descend(torch.float16, False, TINY),
    "fp16 without, ordinary loss": descend(torch.float16),
}

# %% [markdown]
# We plot the losses before the factor is applied, each as the mean of the last 20 steps.

# %%
WIDTH = 20
last, lines = {}, {}
for name, (_, losses) in descents.items():
    means = [sum(losses[n - WIDTH : n]) / WIDTH for n in range(WIDTH, len(losses) + 1)]
    last[name], lines[name] = means[-1], (range(WIDTH, len(losses) + 1), means)
plot(lines, "step", f"loss, mean of {WIDTH} steps")
plt.show()

# %%
say(
    f"**Without a loss scale, fp16 learns nothing from the tiny loss**: it ends at {last['fp16 without']:.2f}, "
    f"and guessing among ten classes costs {math.log(10):.2f}. With a loss scale it ends at "
    f"{last['fp16 with a loss scale']:.2f}, and fp32 at {last['fp32']:.2f}. On the ordinary loss, fp16 without a "
    f"loss scale ends at {last['fp16 without, ordinary loss']:.2f}."
)

# %% tags=["nbval-check-output"]
pairs = zip(fresh().parameters(), descents["fp16 without"][0].parameters(), strict=True)
holds(all(torch.equal(a, b) for a, b in pairs), "without a loss scale, not one weight has moved")

# %% [markdown]
# Half of the smallest fp16 number is rounded to zero, so every gradient was zero from the start. The line moves
# only because the batches differ. There was no error, only a loss that does not fall. In practice,
# gradients rarely vanish this completely.
#
# ### Weights in 16 bits
#
# Now everything is computed in fp32, but after each step we round all parameters to bf16. So the storage of the
# weights is the only difference. We go on training the network from above, at a low and constant learning rate,
# as near the end of a schedule.
#
# The optimiser is AdamW. Its steps are hardly longer than the learning rate, however large the gradients are. So
# we can predict which weights cannot move at a rate of 0.00003: from 1/128 on, the numbers of bf16 lie at least
# 1/16,384 apart, and half of that is more than the step.

# %% tags=["nbval-check-output"]
border, step = torch.tensor(1 / 128).bfloat16(), 3e-5
holds(border + step == border, "at a weight of 1/128, a step of 0.00003 is lost")
holds(0.99 * border + step != 0.99 * border, "just below, numbers lie closer, and it counts")

# %% [markdown]
# This is how we round, and how we follow the training: by the loss of the first 2,000 validation images (or all,
# if there are fewer). Batch norm takes its statistics from these images too, so only the parameters matter.


# %%
def round_to(net, stored):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.to(stored))


def loss_of(net):
    with torch.no_grad():
        logits = net(here.normalise(here.val.x[:2000]))
    return F.cross_entropy(logits, here.val.y[:2000]).item()


# %% [markdown]
# Both runs start from the trained weights (one of them rounds these first), use the same batches, and measure that
# loss every 20 steps.


# %%
def go_on(stored, lr=3e-5, steps=200):
    net, losses = deepcopy(trained), {}
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    unused = torch.amp.GradScaler(device.type, enabled=False)
    draws = here.draws(64, torch.Generator().manual_seed(1))
    for step in range(steps + 1):
        round_to(net, stored)
        if step % 20 == 0:
            losses[step] = loss_of(net)
        if step < steps:
            take_step(net, *here.batch(*next(draws)), optimizer, unused, torch.float32)
    return net, losses


# %%
nets, lines = {}, {}
for name in ("fp32", "bf16"):
    nets[name], losses = go_on(precision.DTYPES[name])
    lines[f"weights in {name}"] = (list(losses), list(losses.values()))
plot(lines, "step", "validation loss")
plt.show()

# %%
fell, fell_rounded = (measured[0] - measured[-1] for _, measured in lines.values())
begin = [parameter.bfloat16().float() for parameter in trained.parameters()]
kept_still = [(a == b).flatten() for a, b in zip(begin, nets["bf16"].parameters(), strict=True)]
big = [(parameter.abs() >= 1 / 128).flatten() for parameter in begin]
still, foretold = (100 * torch.cat(some).float().mean().item() for some in (kept_still, big))
stored_in_16 = "so few steps show no clear difference"
if fell > 0.003 and fell_rounded < 0.8 * fell:
    stored_in_16 = (
        f"weights in bf16 learn {'hardly anything' if fell_rounded < 0.2 * fell else 'less'}"
    )
say(
    f"With fp32 weights, the loss changes by {-fell:+.3f}, and with bf16 weights by {-fell_rounded:+.3f}: "
    f"**{stored_in_16}**. Of the bf16 weights, **{still:.0f} %** are exactly where they began. Judging by their "
    f"size, we expected at least {foretold:.0f} %."
)

# %% [markdown]
# Only small weights can move. At a higher learning rate, more steps survive, so training without master weights
# may begin well and stop improving when the rate falls. Master weights prevent that. So does rounding up or down
# at random, so that the average is right (Zamirai et al. 2020, arXiv 2010.06192).
#
# ## What the card promised
#
# The card's promises come first.

# %%
in_words = {
    "faster": "saved time",
    "slower": "cost time",
    "even": "made no clear difference in time",
}
large_batch, wide, large_pictures = trends.values()
promised = [
    f"*Pays if 16 bits are native*: large matrices were {matrix:.1f} times as fast in {chosen}. In our network, it "
    f"{in_words[pace]}.",
    f"*Pays with large batches*: in our network, a larger batch {large_batch}.",
    f"*Pays with large layers*: in our toy, having more channels {wide}, and having larger pictures "
    f"{large_pictures}.",
    f"*Fails in a small net, where little gets faster*: our convolutions were {conv_gain:.2f} times as fast. The main "
    f"limit is {limit}.",
]
if chosen == "fp32":
    promised = [
        "*Speed*: this device has no fast 16-bit format, so nothing was promised or gained."
    ]
say("\n".join(f"- {point}" for point in promised))

# %%
beside = [
    f"*fp16 needs a loss scale*: our ordinary loss needs {'none' if 0 in fine else 'one'}. With the tiny loss, the "
    f"network learned nothing without one.",
    f"*Weights stay in 32 bits*: at a low learning rate, {stored_in_16}.",
    f"*Accuracy in {chosen}*: {accuracy}.",
    f"*Memory*: the backward pass keeps {kept_bf16[1]:.0f} instead of {kept_fp32[1]:.0f} MB at a batch size of 256.",
]
beside += [
    f"*Time to the target, {name_of_arm}* (recorded on {on}): {found_there['times as fast to the target']:.2f} times as "
    f"fast; {'no clear difference' if found_there['more than chance'] == 'cannot tell' else 'more than chance'}."
    for (name_of_arm, on), found_there in recorded.items()
]
say("\n".join(f"- {point}" for point in beside))

# %%
sure = [key[0] for key, told in recorded.items() if told["more than chance"] == "faster"]
proven = " and ".join(dict.fromkeys(sure))
if chosen == "fp32":
    advice = "stay in fp32, because the device has no fast 16-bit format"
elif "lower" in accuracy:
    advice = "stay in fp32, because 16 bits have cost accuracy"
elif pace == "slower":
    advice = "stay in fp32, because 16 bits are slower"
elif pace == "even" and proven:
    advice = (
        f"try it: the study found a gain {proven}, and the runs here neither confirm nor exclude it"
    )
elif pace == "even":
    advice = "it is hardly worth it, except to save memory"
elif recorded and not proven:
    advice = (
        "you can use it, because the same images take less time, but do not expect much: the study could not show "
        "that a target is reached sooner"
    )
else:
    advice = "use it, because the same images take less time, and check the accuracy of your own long runs"
    if proven:
        advice += f". The study shows that it reaches a target sooner {proven}"
say(f"For so small a network on this device, our advice is: **{advice}**.")

# %% [markdown]
# Expect more from large networks on a GPU with tensor cores. Micikevicius et al. (2017) report that single
# operations became 2 to 6 times as fast on a Volta GPU if arithmetic or memory limited them, and less if the start
# of each operation took the time.
#
# The rule of thumb for another network: if the device multiplies bf16 natively, time steps with and without
# `autocast` in turns, at your own batch size, and compare the medians. A difference of a few per cent, or one that
# is smaller than the spread, is not worth the trouble. If the gain is clear, use bf16, which needs no loss scale,
# and compare the accuracy once. On an older GPU, do the same with fp16 and a `GradScaler`. If the device has
# neither, stay in fp32. Keep the weights in fp32 in any case.
#
# ## Questions
#
# **1. Why does bf16 need no loss scale?**
#
# <details><summary>Answer</summary>It has the 8 exponent bits of fp32, so values that fp32 can hold
# hardly ever vanish or overflow in bf16.</details>
#
# **2. Why are scales powers of two?**
#
# <details><summary>Answer</summary>They change only the exponent, so scaling and unscaling cause no
# rounding.</details>
#
# **3. Why must the weights stay in fp32, if the products do not need it?**
#
# <details><summary>Answer</summary>A step adds a small number to a large one. In 16 bits, the small
# number may be rounded away every time.</details>
#
# **4. Your loss scale halves at every step. What is wrong?**
#
# <details><summary>Answer</summary>The gradients are infinite at any scale. Either the loss itself has
# blown up, so lower the learning rate; or an activation exceeds 65,504 in the forward pass, where the loss
# scale does not help, so use bf16.</details>
#
# **5. Mixed precision made your training slower. What can you try?**
#
# <details><summary>Answer</summary>Check first that the device multiplies the format natively. Then time the
# layers alone, as we have done, to see what is slow. A larger batch may help, and it fits into the memory
# saved. If nothing helps, leave it out.</details>
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
