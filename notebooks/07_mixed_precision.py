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
# Training a network in 32-bit numbers means paying for digits that it hardly uses. Mixed precision
# computes in 16 bits and keeps 32 for whatever would break. On hardware that multiplies 16-bit numbers
# natively, it can save a lot of time, and it saves memory wherever activations, rather than weights, take
# up most of it. This chapter shows what a 16-bit number loses, how to prevent that damage, and which
# networks benefit on your own machine.
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
# The budget depends on the device. We also put the images on that device so that we can run single steps
# by hand.

# %%
import matplotlib.pyplot as plt
import torch

from fasttricks import BASELINE, MixedPrecision, choose_budget, load, train
from fasttricks.course import accuracy_against_time, accuracy_table, holds, median, plot, train_arms
from fasttricks.loop import cross_entropy, fit, now

budget, data, device = choose_budget(), load(), BASELINE.world.device()
here = data.to(device, budget.image_size)


# %% [markdown]
# First, we print what our recorded study found about this trick: the seconds of training until a fixed
# validation accuracy, without the trick and with it, and then for all seven tricks and for the other six.
# Each ratio belongs to the run named just before it: above 1, that run gets there sooner. Below it is the
# trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import precision

print(headline("precision"))
Markdown(precision.__doc__)

# %% [markdown]
# ## The hurt: paying for 32 bits
#
# Training is mostly matrix products. How many operations per second does this device manage in the usual
# 32-bit format, fp32, and in the two 16-bit formats, bf16 and fp16?


# %%
def rate(size, dtype):
    matrix = torch.randn(size, size, device=device).to(dtype) / size**0.5
    started = now(device)
    matrix @ matrix
    return 2 * size**3 / (now(device) - started) / 1e9


# %% [markdown]
# We time five sizes, each twice. The better time counts, because the first product warms up the device.

# %%
sizes, lines, note = (64, 128, 256, 512, 1024), {}, MixedPrecision().note(device)
for name, dtype in precision.DTYPES.items():
    lines[name] = (sizes, [max(rate(size, dtype) for _ in range(2)) for size in sizes])
plot(lines, "rows of the matrix", "billion operations a second", note, scale="log", marks=True)
plt.show()


# %% [markdown]
# Look at the right end first. If a 16-bit line is above the fp32 line, fp32 training leaves that speed
# unused. If it is far below, the device only imitates the format. Many processors do so with fp16, and
# older ones with bf16. If this processor has no fast 16-bit format, the trick stays in fp32, and the
# figure's title says so. At the left end, starting a product takes longer than computing it, so any line
# may be on top.
#
# ## By hand: what a number is made of
#
# A floating-point number has a sign, an exponent (its size, a power of two) and a fraction (its
# digits). The formats differ in how many bits each part gets: 5 for fp16's exponent, 8 for the others'.


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
pd.DataFrame(rows, names).map("{:.2g}".format)


# %% [markdown]
# Below the *smallest normal* number, the exponent cannot go any lower, and the fraction loses a digit
# with each halving. Such numbers are called subnormal. Below *smallest at all*, the only number left is
# zero.

# %% tags=["nbval-check-output"]
sign, exponent, fraction = (int(part, 2) for part in bits(0.1, "fp16").split())
rebuilt = (-1) ** sign * 2.0 ** (exponent - 15) * (1 + fraction / 1024)
holds(rebuilt == torch.tensor(0.1).half().item(), "the three parts rebuild the number")
holds(torch.tensor(2.0**-25).half() == 0, "half of the smallest fp16 number is zero")
holds(torch.tensor(70000).half().isinf(), "70,000 is infinite in fp16")


# %% [markdown]
# The last row of the table shows why we keep 32 bits for some numbers. If a step changes a weight by less
# than half the distance to the next number, the sum is rounded back to the old weight, and the step is
# lost. A thousand such steps are lost too.

# %% tags=["nbval-check-output"]
low, high = torch.tensor(1.0).bfloat16(), torch.tensor(1.0)
for _ in range(1000):
    low, high = low + 1e-4, high + 1e-4
holds(low == 1, "a weight of 1 in bf16 stays where it is after 1,000 steps of 0.0001")
holds(abs(high - 1.1) < 1e-3, "in fp32 the same steps take it to 1.1")

# %% [markdown]
# So the weights stay in fp32, as **master weights**. For its product, each layer uses a 16-bit copy,
# which `torch.autocast` makes on the fly. Autocast follows a list of operations: products and
# convolutions run in 16 bits; sums that need their digits, such as a loss, run in 32.
#
# The gradients are the next problem. To look at them, we train a network briefly and take one batch.

# %%
net = train(BASELINE, data, images=budget.images // 8, evaluations=1).net
draw = torch.Generator().manual_seed(0)
x, q = here.batch(*next(here.draws(64, draw)))


# %% [markdown]
# During the backward pass, we record the gradients that pass from layer to layer; afterwards, we collect
# those of the weights. Everything is still in fp32.

# %%
from copy import deepcopy

spied, passing = deepcopy(net), []


def watch(layer, given, out):
    if isinstance(layer, torch.nn.Conv2d):
        out.register_hook(lambda grad: passing.append(grad.flatten()))


for layer in spied.modules():
    layer.register_forward_hook(watch)
cross_entropy(spied(x), q).backward()
weights = torch.cat([parameter.grad.flatten() for parameter in spied.parameters()])


# %% [markdown]
# How large are they? The histogram below groups them by powers of two and leaves out exact zeros, which
# every format can hold. The three grey lines mark the limits of fp16: its smallest number (2^-24), its
# smallest normal number (2^-14) and its largest number (65,504).

# %%
lines = {}
for name, grads in {"between layers": torch.cat(passing), "of the weights": weights}.items():
    sizes = grads[grads != 0].abs().log2().cpu()
    share = torch.histc(sizes, 66, -48, 18) / len(sizes)
    lines[name] = (2.0 ** torch.arange(-48, 18), 100 * share)
figure = plot(lines, "size of a gradient's element (log scale)", "share, %", scale="log")
for limit in (2**-24, 2**-14, 65504):
    figure.axes[0].axvline(limit, color="grey")
plt.show()


# %% [markdown]
# To the left of the first grey line, elements become zero, except for the largest, which are rounded up
# to the line. Between the first and second lines, they keep some of their digits. On the right, a wide
# range is unused. Gradients between layers lie further left than those of the weights: the gradient of a
# weight sums the contributions of all images and pixels, whereas an element between layers belongs to one
# pixel of one image.
#
# So we move everything to the right. If we multiply the loss by a number, the chain rule multiplies every
# gradient by it too. How many elements are lost at each *loss scale*, and how many overflow?

# %%
grads, shifts = torch.cat(passing), range(0, 41, 2)
halves = [(grads[grads != 0] * 2.0**shift).half() for shift in shifts]
lost = [100 * (half == 0).float().mean().item() for half in halves]
over = [100 * half.isinf().float().mean().item() for half in halves]
lines = {"become zero": (shifts, lost), "become infinite": (shifts, over)}
plot(lines, "loss scale, power of two", "share of elements, %")
plt.show()


# %% [markdown]
# In the middle, both lines are close to zero: nearly all elements survive there. This valley is wide, so
# it is easy to hit. Without a scale, at the left end, this network loses only some of the elements. A
# larger batch divides the loss among more images, and further training makes the loss smaller: both
# shrink the gradients and move the solid line to the right.

# %% tags=["nbval-check-output"]
holds(lost == sorted(lost, reverse=True), "the larger the scale, the fewer become zero")
holds(over == sorted(over), "the larger the scale, the more become infinite")
holds(min(a + b for a, b in zip(lost, over, strict=True)) < 5, "a scale in between saves 95 %")

# %% [markdown]
# ## Write it
#
# The valley moves during training, so we adjust the scale as we go. After the backward pass, divide the
# gradients by the scale. If any of them is infinite or not a number, skip the step and halve the scale.
# After many good steps, try doubling it.


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
# To watch this work, we simulate 80 steps in which the largest gradient slowly shrinks. To make growth
# visible, we try it after eight good steps instead of 2,000.

# %%
scale, good, history = 2.0**24, 0, []
for step in range(80):
    history.append(torch.tensor(scale).log2().item())
    largest = torch.tensor(scale * 0.95**step).half()
    scale, good = next_scale(scale, good, bool(largest.isfinite()), interval=8)
plot({"scale": (range(80), history)}, "step", "loss scale, power of two")
plt.show()

# %% [markdown]
# At first, the scale falls at every step, and those steps are lost. Then it climbs as the gradients
# shrink, and each drop is one skipped step.
#
# ## Check it
#
# First, we run our two functions, the package's `LossScale` and torch's `GradScaler` side by side, with
# overflows at four steps.

# %%
theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
packaged, scale, good, same = precision.LossScale(1024.0, interval=5), 1024.0, 0, []
weight = torch.ones(3, requires_grad=True)
optimizer = torch.optim.SGD([weight], 0.1)
for step in range(40):
    weight.grad = None
    loss = weight.square().sum() * (float("inf") if step in (3, 4, 17, 30) else 0.1 * step)
    theirs.scale(loss).backward()
    grads = [weight.grad.clone(), weight.grad.clone()]  # still scaled
    theirs.unscale_(optimizer)
    finite = unscale(grads[:1], scale)
    same.append(finite == packaged.unscale(grads[1:]))
    same += [torch.equal(grad, weight.grad) for grad in grads]
    theirs.step(optimizer)
    theirs.update()
    (scale, good), packaged = next_scale(scale, good, finite, 5), packaged.update(finite)
    same.append(scale == packaged.value == theirs.get_scale())


# %% tags=["nbval-check-output"]
holds(all(same), "ours, the package's and torch's scaler agree in each of 40 steps")
holds(weight.isfinite().all(), "no overflow ever reached a weight")

# %% [markdown]
# Second, we check two rules. Scaling by a power of two changes only the exponent, so in fp32 it changes
# no digit. Gradient clipping, which shortens a gradient that is too long, must come after unscaling,
# because a scaled gradient is almost always too long.


# %% tags=["nbval-check-output"]
def clip(grad, longest):
    return grad * min(1.0, longest / grad.norm().item())


layer, given = torch.nn.Linear(8, 3), torch.ones(1, 8)
plain = torch.autograd.grad(layer(given).sum(), layer.weight)[0]
scaled = torch.autograd.grad(layer(given).sum() * 2**16, layer.weight)[0]
holds(torch.equal(scaled / 2**16, plain), "unscaled gradients are the plain ones, bit for bit")
late = clip(scaled, 0.01) / 2**16
holds(late.norm() < clip(plain, 0.01).norm() / 100, "clipping before unscaling kills the step")


# %% [markdown]
# Third, we check the schedule. A learning rate that follows the step number must not advance when a step
# is skipped. We test the real loop with two tricks of our own: a loss scale so large that the first steps
# must overflow, and a learning-rate factor of 1 that records which step it was asked for.


# %%
from dataclasses import replace

from fasttricks.models import create


class TooLarge(MixedPrecision):
    def scaler(self, device):
        return torch.amp.GradScaler(device.type, init_scale=2.0**24)


class Diary:
    chapter, slots, asked = 2, ("lr_factors",), []

    def lr_factor(self, step, steps, batch):
        self.asked.append(step)
        return 1.0


# %% tags=["nbval-check-output"]
few, narrow = replace(here, val=here.val[:64]), replace(BASELINE, batch=16)
fresh = create(budget.model, 1, 10).to(device)
fit(narrow + TooLarge("fp16") + Diary(), fresh, few, 4 * 16, seed=0, evaluations=1)
holds(Diary.asked.count(0) > 1, "a skipped step asks for the same learning rate again")
holds(list(dict.fromkeys(Diary.asked)) == [0, 1, 2, 3], "each step of the schedule is taken")


# %% [markdown]
# Last, we measure the memory. For the backward pass, autograd keeps the inputs of each layer. We count
# those bytes, including the 16-bit copies of the weights.


# %%
from torch.autograd.graph import saved_tensors_hooks


def kept(name, batch):
    held = {}
    spy = saved_tensors_hooks(lambda t: held.setdefault(t.data_ptr(), t), lambda t: t)
    with spy, MixedPrecision(name).autocast(device):
        net(here.normalise(here.train.x[:batch]))
    return sum(tensor.nbytes for tensor in held.values()) / 1e6


sizes = (16, 64, 256)
memory = {name: (sizes, [kept(name, batch) for batch in sizes]) for name in ("fp32", "bf16")}
plot(memory, "batch", "megabytes kept for backward", marks=True)
plt.show()


# %% tags=["nbval-check-output"]
halved = [b < 0.7 * a for a, b in zip(memory["fp32"][1], memory["bf16"][1], strict=True)]
holds(all(halved), "autocast keeps less than 70 % of the bytes, at every batch")
kinds = {parameter.dtype for parameter in net.parameters()}
holds(kinds == {torch.float32}, "and the master weights are still fp32")


# %% [markdown]
# The dashed line is about half as high as the solid one, because most of what autograd keeps is
# activations, which now take two bytes each instead of four. You can use the freed memory for a larger
# batch or network, even where you save no time.
#
# ## In your own loop
#
# You do not need this package to use the trick. In a plain PyTorch script, it takes these lines: remove
# those marked `-` and add those marked `+`.
#
# ```diff
#
# +def half(device):
# +    """The 16-bit numbers that the device computes with; None where it would only imitate them."""
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
# The full script is [`examples/precision.py`](../examples/precision.py). The scaler is active only in
# fp16; with bf16, it passes everything through. To clip gradients, call `scaler.unscale_(optimizer)`
# first.
#
# ## Use it
#
# We train two recipes with the same seeds, the same number of images and fresh networks.

# %%
arms = train_arms({"fp32": BASELINE, "mixed": BASELINE + MixedPrecision()}, data)
accuracy_table(arms)

# %% [markdown]
# Read *lowest and highest gain* first. Where that range includes zero, so few runs cannot tell the two
# apart, which is what we hope for: no accuracy lost. Then read *seconds*.

# %%
accuracy_against_time(arms)
plt.show()

# %% [markdown]
# Where the dashed runs end to the left of the solid ones, 16 bits pay off on this device even for this
# small network. Where they end to the right, the *casts* (the conversions between formats, which every
# layer needs) cost more than 16 bits save.
#
# So the gain depends on size. We time the forward and backward passes on one batch, alternating fp32 and
# mixed, drop two warm-up rounds, and take the median ratio. The loss is made up, because only its time
# matters.


# %%
def seconds(model, given, trick):
    started = now(device)
    with trick.autocast(device):
        loss = model(given).float().square().mean()
    loss.backward()
    return now(device) - started


def speed_up(model, given):
    tricks = MixedPrecision("fp32"), MixedPrecision()
    times = [[seconds(model, given, trick) for trick in tricks] for _ in range(8)]
    return median([full / mixed for full, mixed in times[2:]])


# %% [markdown]
# We start with the shared network at several batch sizes. Above the dashed line, mixed precision is
# faster.


# %%
def show_ratios(ratios, xlabel):
    sizes = list(ratios)
    lines = {"measured": (sizes, list(ratios.values())), "break-even": (sizes, [1] * len(sizes))}
    plot(lines, xlabel, "fp32 seconds / mixed seconds", scale="log", marks=True)
    plt.show()


batches = (8, 16, 32, 64, 128, 256)
ratios = {batch: speed_up(net, here.normalise(here.train.x[:batch])) for batch in batches}
show_ratios(ratios, "batch")


# %% [markdown]
# If the line rises to the right, a larger batch helps the trick. The other lever is the width of a layer:
# the cost of products grows with its square, that of casts does not. We time two convolutions and double
# their width until a step takes too long.

# %%
ratios = {}
for width in (8, 16, 32, 64, 128, 256, 512, 1024):
    pair = [torch.nn.Conv2d(width, width, 3, padding=1, device=device) for _ in range(2)]
    given, started = torch.randn(32, width, 14, 14, device=device), now(device)
    ratios[width] = speed_up(torch.nn.Sequential(*pair), given)
    if now(device) - started > 2:
        break
show_ratios(ratios, "channels")


# %% [markdown]
# The point where the solid line crosses the dashed one is the break-even of this machine. On a device
# that imitates bf16, the lines may never cross; mixed precision then costs time, and you should leave it
# out. Large networks lie far to the right: NVIDIA reports 3.26 times as many images per second for
# ResNet-50 on one V100 compared with fp32, and 2.63 times as many on one A100 compared with TF32
# ([DeepLearningExamples](https://github.com/NVIDIA/DeepLearningExamples/tree/master/PyTorch/Classification/ConvNets/resnet50v1.5)).
#
# ## Break it
#
# Now we leave out the master weights and put everything in bf16. We continue training a trained network
# at a tenth of its learning rate, 0.0001, as most schedules do towards the end.

# %%
gentle, before = replace(BASELINE, lr=1e-4) + MixedPrecision("bf16"), arms["fp32"][0]
nets = {"master weights": deepcopy(before.net), "all in bf16": deepcopy(before.net).bfloat16()}
runs = [fit(gentle, model, here, budget.images // 4, 1, 1) for model in nets.values()]
scores = [before.val_accuracy, *(run.curve[-1][2] for run in runs)]
pd.Series(scores, ["before", *nets], name="validation accuracy")


# %% [markdown]
# A lower rate late in training usually lifts the accuracy. Does the last row gain as much? One run each
# proves little, but what happens inside the network is certain. Look at the gains of the normalisation
# layers: many are near 1, like the weight above. AdamW moves each of them by about the learning rate per
# step. For gains above a quarter, that is less than half the distance to the next bf16 number. How many
# of these have moved at all?


# %% tags=["nbval-check-output"]
def gains(model):
    return torch.cat([m.weight for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)])


large = gains(before.net).abs() > 0.25
first, full, low = (gains(model)[large] for model in (before.net, *nets.values()))
holds((full != first).float().mean() > 0.5, "with master weights, most gains have moved")
holds(torch.equal(low, first.bfloat16()), "in bf16 alone, not one has")


# %% [markdown]
# Small weights still move in bf16, because numbers near zero lie closer together. So training does not
# stop but becomes sluggish, which is hard to notice.
#
# Now we break the other half: fp16 without its loss scale. We multiply the loss by a factor, divide the
# gradient by the same factor, and measure how far the result is from the fp32 gradient. A small factor
# has the same effect on gradients as a small loss weight or a large batch. A large factor is a loss
# scale.


# %%
def gradient(name, factor=1.0):
    net.zero_grad()
    with MixedPrecision(name).autocast(device):
        loss = cross_entropy(net(x), q) * factor
    loss.backward()
    return torch.cat([parameter.grad.flatten() / factor for parameter in net.parameters()])


exact, shifts, off = gradient("fp32"), range(-24, 33, 4), {}
for name in ("fp16", "bf16"):
    errors = [(gradient(name, 2.0**shift) - exact).norm() / exact.norm() for shift in shifts]
    off[name] = (shifts, [error.item() for error in errors])
plot(off, "factor on the loss, power of two", "relative error of the gradient", marks=True)
plt.show()

# %% [markdown]
# An error of 1 is as bad as no gradient at all; above 1, what is left is misleading. At the left end of
# the fp16 line, gradients vanish. On the right, the line simply stops: the gradients overflowed, and
# there is no number left to plot. The bf16 line is flat: bf16 has fp32's range and needs no scale. But
# where the fp16 line is lowest, fp16 is more accurate, because its fraction has three more bits. At
# factor 1, one small network may do without a scale, but the next may not.

# %% tags=["nbval-check-output"]
fp16, bf16 = off["fp16"][1], off["bf16"][1]
holds(fp16[0] > 0.5, "fp16 with a tiny factor has lost the gradient")
holds(not fp16[-1] < 100, "with a huge factor it overflows")
holds(max(bf16) < 2 * min(bf16), "bf16 does not care about the factor")
holds(fp16[8] < 0.8 * bf16[8], "with a loss scale of 2^8, fp16 is closer to fp32 than bf16")


# %% [markdown]
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
# <details><summary>Answer</summary>The gradients are infinite at any scale: the loss itself has blown up.
# Lower the learning rate.</details>
#
# **5. Mixed precision made your training slower. What can you try?**
#
# <details><summary>Answer</summary>Try wider layers and a larger batch, which fits in the memory saved.
# If the device imitates the format, leave mixed precision out.</details>
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
# - PyTorch's [notes on automatic mixed precision](https://pytorch.org/docs/stable/notes/amp_examples.html):
#   clipping, accumulation, several losses.
