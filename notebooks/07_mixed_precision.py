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
# number is stored as a sign, an exponent `e` (how large it is) and a fraction `f` (its digits). There are two
# common ways to fit it into 16 bits:
#
# ```text
# fp32   ± eeeeeeee fffffffffffffffffffffff    32 bits
# bf16   ± eeeeeeee fffffff                    16 bits: the range of fp32, few digits
# fp16   ± eeeee    ffffffffff                 16 bits: more digits, a small range
# ```
#
# This chapter shows what each of them loses, how to prevent the damage, and how much time the trick saves
# on this device.
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
# The budget depends on the device. It sets which network we train, on how many images, and how many
# times. `device` is the GPU if there is one and the processor otherwise.

# %%
import matplotlib.pyplot as plt
import torch

from fasttricks import BASELINE, MixedPrecision, OneCycle, choose_budget, load, train
from fasttricks.course import faster, gained, holds, median, plot, say
from fasttricks.loop import cross_entropy, now

budget, data, device = choose_budget(), load(), BASELINE.world.device()
here = data.to(device, budget.image_size)


# %% [markdown]
# First, here is what our recorded study found, for the trick alone and among all seven. (How the two fit
# together is a question for *Use it*.) A ratio above 1 means that the second of the two times is the shorter.
# Below is the trick's card, straight from the top of its file. Its *slot* is the place in the training loop that
# the trick fills (*single*: only one trick can), and *meets* lists what it interferes with.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import precision

say(headline("precision"))
Markdown(precision.__doc__)

# %% [markdown]
# ## The problem: paying for 32 bits
#
# Why should 16 bits be faster? There are two reasons. Half as many bytes have to be moved between memory
# and processor, and much of training waits for memory. And recent hardware has units that multiply small
# matrices of 16-bit numbers at several times the speed of fp32: tensor cores on GPUs, AVX512-BF16 and AMX
# on processors.
#
# Does this device have such units? We multiply two square matrices in each format and count the operations
# per second. After one product to warm up, we take the median of up to nine.


# %%
def rate(size, dtype):
    matrix = torch.randn(size, size, device=device).to(dtype) / size**0.5
    times = []
    while len(times) < 10 and sum(times[1:]) < 0.2:
        started = now(device)
        matrix @ matrix
        times.append(now(device) - started)
    return 2 * size**3 / median(times[1:]) / 1e9


sizes, lines = (64, 128, 256, 512, 1024), {}
for name, dtype in precision.DTYPES.items():
    lines[name] = (sizes, [rate(size, dtype) for size in sizes])
plot(lines, "rows of the matrix", "billion operations per second", scale="log", marks=True)
plt.show()


# %%
def against_fp32(name):
    ratio = peaks[name] / peaks["fp32"]
    return f"about {1 / ratio:.0f} times slower" if ratio < 0.5 else f"{ratio:.1f} times as fast"


peaks = {name: max(found) for name, (_, found) in lines.items()}
chosen = MixedPrecision().choose(device)
say(
    f"Each at its best size, bf16 is **{against_fp32('bf16')}** as fp32, and fp16 **{against_fp32('fp16')}**. "
    f"On this device, `MixedPrecision()` chooses {chosen}. {MixedPrecision().note(device)}"
)

# %% [markdown]
# A format that is far slower than fp32 has no fast kernel (compiled routine) on this device. That happens to
# fp16 on many processors, and to bf16 on older ones. At the left end of the figure, starting a product takes
# longer than computing it, so the order there means little.
#
# This is the most that the device offers, with large square matrices. The convolutions of a network have other
# shapes, so under *Use it* we time those themselves.
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
pd.DataFrame(rows, names).map("{:.2g}".format)

# %%
coarse = limits["bf16"].eps / limits["fp16"].eps
say(
    f"fp16 ends at {limits['fp16'].max:,.0f}; bf16 goes as far as fp32. But the numbers of bf16 lie "
    f"{coarse:.0f} times as far apart as those of fp16, and {limits['bf16'].eps / limits['fp32'].eps:,.0f} "
    f"times as far as those of fp32."
)

# %% [markdown]
# Below the *smallest normal* number, the exponent cannot go any lower, and the fraction loses a digit
# with each halving. Such numbers are called subnormal. Even smaller ones are rounded: to *smallest at all*
# if they are above half of it, and otherwise to zero.
#
# The exponent is stored with 15 added to it in fp16 (127 in the other two), so that it needs no sign of
# its own. The fraction counts in steps of 1/1024, and a leading 1 is not stored at all. With that, the
# three parts of fp16's 0.1 can be put together again:

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
# The convolution runs in 16 bits. Batch norm passes 16-bit numbers on, but keeps its statistics in 32. The
# finished loss runs in 32, but its building block, the log softmax, does not (on a GPU it does). To be safe
# with any loss, this course computes it outside autocast, from `outputs.float()`.
#
# ## The next problem: small gradients
#
# Weights are not the only numbers at risk. To look at gradients, we train a network for a while and take one
# batch: images `x` and target probabilities `q`, which are 1 for the right class and 0 for the others. We also
# keep a copy of the network for the last experiment.

# %%
from copy import deepcopy

run = train(BASELINE + OneCycle(), data, images=budget.images // 4, evaluations=1)
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
# scale of 2^16. Above them, the figure shows which sizes each format can hold.


# %%
def spread(grads):
    powers = grads[grads != 0].abs().log2().floor().cpu()
    share = torch.histc(powers, 72, -48, 24) / len(powers)
    return torch.arange(-48, 24).tolist(), (100 * share).tolist()


lines = {
    "of convolution outputs": spread(of_outputs),
    "the same, times 2^16": spread(of_outputs * 2.0**16),
    "of the weights": spread(of_weights),
}

# %%
from fasttricks.course import formats

ranges = {name: (f.tiny * f.eps, f.tiny, f.max) for name, f in limits.items() if name != "fp32"}
formats({"fp32": (2.0**-149, 2.0**-126, 2.0**127)} | ranges, lines, guide="fp16")
plt.show()


# %%
def losses_of(scale):
    half = (of_outputs[of_outputs != 0] * scale).half().abs()
    return (half == 0).float().mean().item(), ((half > 0) & (half < 2**-14)).float().mean().item()


(gone, blurred), (gone_scaled, blurred_scaled) = losses_of(1.0), losses_of(2.0**16)
say(
    f"Of the gradients of convolution outputs, fp16 would turn **{100 * gone:.1f} %** into zero, and another "
    f"{100 * blurred:.0f} % would lose digits. With a loss scale of 2^16, it is {100 * gone_scaled:.1f} % and "
    f"{100 * blurred_scaled:.1f} %. (The network has seen {run.images_seen:,} images, or "
    f"{run.images_seen / len(data.train):.2f} epochs; its validation accuracy is {run.val_accuracy:.2f}.)"
)

# %% [markdown]
# The gradient of a weight sums the contributions of all images and pixels, whereas an element of an output
# belongs to one pixel of one image. That is why the weights' curve lies further to the right. bf16 holds
# all of this.
#
# ## Does it matter? The damage to a gradient
#
# The elements that vanish are the smallest ones, which count least. So we look at the result, the gradient
# of the weights. We multiply the loss by a factor, run both passes in 16 bits, divide the gradient by the
# factor, and compare it with that of fp32. A large factor is a loss scale. A small one stands for a task
# whose gradients are that much smaller than ours. The error is the length of the difference, divided by the
# length of the fp32 gradient. An error of 1 is that of no gradient at all.


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
xlabel, ylabel = "factor on the loss, power of two", "relative error of the gradient (log scale)"
plot(off, xlabel, ylabel, marks=True, yscale="log")
plt.show()

# %%
fp16, bf16 = (dict(zip(*off[name], strict=True)) for name in ("fp16", "bf16"))
usable = {shift: error for shift, error in fp16.items() if error < math.inf}
best, worst = min(usable.values()), max(usable, key=usable.get)
fine = [shift for shift, error in usable.items() if error < 1.5 * best]
say(
    f"**Here, fp16 needs {'no' if 0 in fine else 'a'} loss scale.** With the plain loss, its error is "
    f"{fp16[0]:.3f}, and at the best factor {best:.3f}. Between 2^{min(fine)} and 2^{max(fine)}, it stays within "
    f"1.5 times the best. bf16 has an error of {bf16[0]:.2f} whatever the factor."
)
if usable[worst] > 1.05:
    say(
        f"At 2^{worst}, the error of fp16 is **{usable[worst]:.1f}**, which is worse than no gradient."
    )

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
# over many pixels, if it has a small weight, or if it has become small late in training. Micikevicius et al.
# (2017) needed none for ResNet-50, but their object detector SSD diverged without one. You rarely know in
# advance, so use fp16 with a loss scale.
#
# Is the error of bf16 small? We compare it with the difference between the fp32 gradients of two batches.

# %%
x, q = here.batch(*next(batches))
other = ((gradient("fp32") - exact).norm() / exact.norm()).item()
say(
    f"Another batch of 64 images changes the fp32 gradient by **{other:.2f}**, which is "
    f"{other / bf16[0]:.0f} times the error of bf16 and {other / best:.0f} times the best of fp16."
)

# %% [markdown]
# That does not settle it. Differences between batches average out over many steps, whereas rounding may have a
# preferred direction. Only whole runs can tell; they follow under *Use it*.

# %% tags=["nbval-check-output"]
holds(fp16[-24] > 0.5, "fp16 with a tiny factor has lost the gradient")
holds(not fp16[32] < 100, "with a huge factor it overflows")
holds(max(bf16.values()) < 2 * min(bf16.values()), "bf16 does not care about the factor")
holds(fp16[8] < 0.8 * bf16[8], "with a loss scale of 2^8, fp16 is closer to fp32 than bf16")

# %% [markdown]
# ## Write it
#
# Many scales are good, but which ones differs between networks and changes during training, so we adjust
# the scale as we go. After the backward pass, divide the gradients by the scale. A *single* infinite
# element causes the whole step to be skipped, because AdamW would turn it into a weight that is not a
# number. After such an overflow, halve the scale. After many good steps, try doubling it.


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
scale, good, history, skipped = 2.0**24, 0, [], []
for step in range(80):
    history.append(torch.tensor(scale).log2().item())
    finite = bool(torch.tensor(scale * 0.95**step).half().isfinite())
    skipped += [] if finite else [step]
    scale, good = next_scale(scale, good, finite, interval=8)
plot({"scale": (range(80), history)}, "step", "loss scale, power of two")
plt.plot(skipped, [history[step] for step in skipped], "ks", label="this step is skipped")
plt.legend()
plt.show()

# %%
early = next(step for step in range(80) if step not in skipped)
say(
    f"The first {early} steps are skipped, because the scale was far too large to begin with. After that, "
    f"{len(skipped) - early} of {80 - early} steps are skipped, each after a doubling that came too early."
)

# %% [markdown]
# ## Check it
#
# First, we run our two functions, the package's `LossScale` and torch's `GradScaler` side by side, with
# overflows at four of 40 steps.

# %%
theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
packaged, scale, good, same = precision.LossScale(1024.0, interval=5), 1024.0, 0, []
weight = torch.ones(3, requires_grad=True)
optimizer = torch.optim.SGD([weight], 0.1)
for step in range(40):
    theirs.scale(weight.sum() * (math.inf if step in (3, 4, 17, 30) else step)).backward()
    ours, packages = weight.grad.clone(), weight.grad.clone()  # still scaled
    theirs.unscale_(optimizer)
    finite = unscale([ours], scale)
    same.append(finite == packaged.unscale([packages]))
    same += [torch.equal(grad, weight.grad) for grad in (ours, packages)]
    theirs.update()
    (scale, good), packaged = next_scale(scale, good, finite, 5), packaged.update(finite)
    same.append(scale == packaged.value == theirs.get_scale())
    optimizer.zero_grad()


# %% tags=["nbval-check-output"]
holds(all(same), "ours, the package's and torch's scaler agree in each of 40 steps")

# %% [markdown]
# Second, we check three rules. One infinite element causes the whole step to be skipped. Scaling by a power of
# two changes only the exponent, so in fp32 it changes no digit. And gradient clipping, which shortens a
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
# called activations. We count those bytes, including the 16-bit copies of the weights.


# %%
from torch.autograd.graph import saved_tensors_hooks


def kept(name, batch):
    held = {}
    spy = saved_tensors_hooks(lambda t: held.setdefault(t.data_ptr(), t), lambda t: t)
    with spy, MixedPrecision(name).autocast(device):
        net(here.normalise(here.train.x[:batch]))
    return sum(tensor.nbytes for tensor in held.values()) / 1e6


full, half = ([kept(name, batch) for batch in (16, 256)] for name in ("fp32", "bf16"))

# %%
fixed = 16 * sum(parameter.numel() for parameter in net.parameters()) / 1e6
say(
    f"At a batch size of 256, bf16 keeps **{half[1]:.0f} instead of {full[1]:.0f} MB**, and at 16, "
    f"{half[0]:.1f} instead of {full[0]:.1f} MB. It does not shrink the weights, their gradients and AdamW's two "
    f"moments: four bytes each, together {fixed:.1f} MB at any batch size."
)

# %% tags=["nbval-check-output"]
halved = [b < 0.7 * a for a, b in zip(full, half, strict=True)]
holds(all(halved), "autocast keeps less than 70 % of the bytes, at either batch size")
kinds = {parameter.dtype for parameter in net.parameters()}
holds(kinds == {torch.float32}, "and the master weights are still fp32")


# %% [markdown]
# So the saving is large if activations dominate, as in convolutional networks with large batches. If parameters
# dominate, as in a large language model with a small batch, it is small: the fp32 weights are needed as before,
# and their 16-bit copies come on top.
#
# ## In your own loop
#
# Here is one whole training step in ordinary PyTorch, in the order that matters. `scaler` is a
# `torch.amp.GradScaler`; created with `enabled=False`, as you would for bf16, it passes everything through.


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
# We will use this function when we break things. In a plain script without clipping, the trick takes
# these lines: remove those marked `-` and add those marked `+`. (On a GPU without bf16, `half` returns fp16,
# which is fast if the GPU has tensor cores.)
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
# The full script is [`examples/precision.py`](../examples/precision.py). Evaluate under `autocast` too: it
# saves the same time there and needs no scaler.
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
# After a skipped step, the loop requests the same learning rate again. This matters in short runs, where the
# first skipped steps would eat up the warm-up. With bf16, no step is skipped.
#
# ## Use it
#
# We train two recipes with the same seeds, the same number of images and fresh networks. The table calls them
# arms.

# %%
from fasttricks.course import accuracy_table, train_arms

arms = train_arms({"fp32": BASELINE, "mixed": BASELINE + MixedPrecision()}, data)
accuracy_table(arms)

# %%
ends = {name: [run.val_accuracy for run in runs] for name, runs in arms.items()}
accuracy = gained(ends["mixed"], ends["fp32"], 0.1)
judged = {
    "lower": "So 16 bits have cost accuracy here.",
    "higher": "So 16 bits have cost no accuracy. We would not count on their raising it.",
    "about the same": "That is what we hope for: no accuracy lost.",
    "undecided": "So few seeds cannot tell whether accuracy is lost.",
}
conclusion = next((words for word, words in judged.items() if word in accuracy), "")
if chosen == "fp32":
    conclusion = (
        "Both columns are the same arithmetic, because this device has no fast 16-bit format."
    )
say(
    f"After {budget.images / len(data.train):.2f} epochs, with a batch size of {BASELINE.batch}, the accuracy "
    f"in {chosen} is **{accuracy}**. {conclusion}"
)

# %% [markdown]
# And the time? Each dot is a run, the line spans them, and the bar ends at their mean.

# %%
from fasttricks.course import bars

clocks = {name: [run.train_seconds for run in runs] for name, runs in arms.items()}
bars(clocks, "seconds of training", f"{budget.images:,} images")
plt.show()

# %%
say(f"For the same images, mixed precision is **{faster(clocks['mixed'], clocks['fp32'])}**.")

# %% [markdown]
# ### Alone and among seven
#
# The recorded study asks for more: the time until a given accuracy. That is the product of two numbers, the
# seconds per image and the images needed. Other tricks change both. So a trick that pays alone may hardly
# matter among others, or the reverse:
#
# - *Seconds per image.* All seven share each batch among processes if there are several, so each process
#   has fewer images at a time. A later figure shows what this does to the gain of 16 bits.
# - *Images needed.* If 16 bits cost no accuracy, this number should stay the same. But it is estimated from few
#   runs, and chance can move it by more than 16 bits save per image.
#
# We split the study's ratios into these two. Above 1, a number speaks for the trick. The interval is that of the
# third row. (The second ratio at the top was that of leaving the trick out, so here it is upside down.)

# %%
from fasttricks.course import published


def worth(without, added, value, low, high):
    paces = [row.train / row.images.value for row in (without, added)]
    factors = paces[0] / paces[1], without.images.value / added.images.value
    names = [
        "times as fast per image",
        "images needed, without / with it",
        "times as fast to the target",
    ]
    return dict(zip([*names, "95 % from", "95 % to"], (*factors, value, low, high), strict=True))


def both_ways(study):
    start, found = study.reference, {}
    alone, seven = study.of(start, f"{start} + precision"), study.of("whole - precision", "whole")
    if len(alone) == 2 and all(row.arrives for row in alone):
        ratio = alone[1].ratio
        found["alone"] = worth(*alone, ratio.value, ratio.low, ratio.high)
    if len(seven) == 2 and all(row.arrives for row in seven):
        ratio = seven[0].ratio  # of leaving the trick out
        found["among seven"] = worth(*seven, 1 / ratio.value, 1 / ratio.high, 1 / ratio.low)
    return found


split = {study.hardware: both_ways(study) for study in published()}
rows = {(where, name): row for where, found in split.items() for name, row in found.items()}
pd.DataFrame(rows).round(2)

# %%
for found in split.values():
    if len(found) < 2:
        say("Only one of the two columns is known, so there is nothing to compare.")
        continue
    alone, seven = (list(found[name].values()) for name in ("alone", "among seven"))
    by = [abs(math.log(alone[n] / seven[n])) for n in (0, 1)]
    most = "the time per image" if by[0] > by[1] else "the images needed"
    where = "alone" if alone[2] > seven[2] else "among seven"
    apart = alone[3] > seven[4] or seven[3] > alone[4]
    told = (
        f"do not overlap: **the trick is worth more {where}**"
        if apart
        else "overlap, so **the study does not show that the trick is worth more alone or among seven**"
    )
    say(f"The two columns differ most in {most}. Their intervals {told}.")

# %% [markdown]
# ### What limits the gain?
#
# Large matrix products have shown what the device can do at most. A network may gain less for two reasons: its
# convolutions gain less than such products, or something else takes the time, such as batch norm or the
# *casts* from one format to the other. We time the forward and backward passes on one batch. The loss is a
# dummy, since only the time matters.


# %%
def seconds(model, given, trick):
    started = now(device)
    with trick.autocast(device):
        loss = model(given).float().square().mean()
    torch.autograd.grad(loss, list(model.parameters()))
    return now(device) - started


# %% [markdown]
# With the same stopwatch, we time the convolutions alone. Each gets the input that it has in the network, in
# the format that it has there, and its own output as the gradient to start from.


# %%
def inputs_of(model, given, trick):
    seen = []

    def watch(layer, inputs, out):
        needs = inputs[0].requires_grad  # the images do not
        seen.append((layer, inputs[0].detach().requires_grad_(needs), out.detach()))

    convolutions = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(watch) for layer in convolutions]
    with trick.autocast(device):
        model(given)
    for hook in hooks:
        hook.remove()
    return seen


def seconds_alone(seen, trick):
    started = now(device)
    with trick.autocast(device):
        outs = [layer(given) for layer, given, _ in seen]
    wanted = [given for _, given, _ in seen if given.requires_grad]
    wanted += [parameter for layer, _, _ in seen for parameter in layer.parameters()]
    torch.autograd.grad(outs, wanted, [out for _, _, out in seen])
    return now(device) - started


# %% [markdown]
# The two formats take turns. After two rounds to warm up, we take the median of seven. *Everything else* is the
# difference between the first two rows.

# %%
TRICKS = {"fp32": MixedPrecision("fp32"), "mixed": MixedPrecision()}
given = here.normalise(here.train.x[: BASELINE.batch])
seen = {name: inputs_of(net, given, trick) for name, trick in TRICKS.items()}
whole, alone = {name: [] for name in TRICKS}, {name: [] for name in TRICKS}
for _ in range(9):
    for name, trick in TRICKS.items():
        whole[name].append(1000 * seconds(net, given, trick))
        alone[name].append(1000 * seconds_alone(seen[name], trick))
pass_times = pd.DataFrame(
    {name: [median(whole[name][2:]), median(alone[name][2:])] for name in TRICKS},
    ["whole pass, ms", "convolutions, ms"],
)
pass_times.loc["everything else, ms"] = pass_times.iloc[0] - pass_times.iloc[1]
pass_times["times as fast"] = pass_times["fp32"] / pass_times["mixed"]
pass_times.round(2)

# %%
matrix = peaks[chosen] / peaks["fp32"]
whole_gain, conv_gain, rest_gain = pass_times["times as fast"]
share = pass_times["fp32"].iloc[1] / pass_times["fp32"].iloc[0]
parts = (
    f"The convolutions take {100 * share:.0f} % of the fp32 pass. In {chosen} they are **{conv_gain:.2f} times** as "
    f"fast, everything else is {rest_gain:.2f} times as fast, and both together {whole_gain:.2f} times."
)
reasons = [
    f"our convolutions gain less than matrix products ({matrix:.1f} times)"
    * (conv_gain < 0.8 * matrix),
    "everything else gains less than the convolutions" * (0.95 < rest_gain < 0.9 * conv_gain),
    "everything else becomes slower" * (rest_gain <= 0.95),
]
because = " and ".join(filter(None, reasons))
limits = f"The gain is limited because **{because}**." if because else "Everything gains alike."
if chosen == "fp32":
    limits = "But both passes ran in fp32, so the differences are chance."
elif pass_times.loc["everything else, ms", ["fp32", "mixed"]].min() <= 0:
    parts = "Alone, the convolutions take as long as the whole pass."
    limits = "So this stopwatch cannot tell what limits the gain."
say(f"{parts} {limits}")

# %% [markdown]
# Does the batch size matter? We repeat the timing of the whole pass for several of them. The line joins the
# medians of seven ratios, and the band holds the middle five.


# %%
def speed_ups(model, given, rounds=9):
    times = [[seconds(model, given, trick) for trick in TRICKS.values()] for _ in range(rounds)]
    return sorted(full / mixed for full, mixed in times[2:])


def show_ratios(ratios, xlabel):
    sizes, found = list(ratios), list(ratios.values())
    plot({"": (sizes, list(map(median, found)))}, xlabel, "times as fast as fp32", "", "log", True)
    plt.fill_between(sizes, [some[1] for some in found], [some[-2] for some in found], alpha=0.2)
    plt.axhline(1, color="grey")
    plt.show()


by_batch = {}
for batch in (8, 16, 32, 64, 128, 256):
    by_batch[batch] = speed_ups(net, here.normalise(here.train.x[:batch]))
show_ratios(by_batch, "batch size")


# %%
def trend(ratios, what):
    """Whether the bands of the smallest and the largest size are apart."""
    small, large = ratios[min(ratios)], ratios[max(ratios)]
    if chosen == "fp32" or (small[1] <= large[-2] and large[1] <= small[-2]):
        return f"the {what} makes no clear difference"
    return f"a larger {what} gains {'more' if large[1] > small[-2] else 'less'}"


def sentence(ratios, what):
    if chosen == "fp32":
        return "Both sides ran in fp32, so these ratios show only how steady the clock is."
    pays = ", ".join(str(size) for size, found in ratios.items() if found[1] > 1.05)
    small, large = min(ratios), max(ratios)
    return (
        f"At a {what} of {small}, mixed precision is {median(ratios[small]):.2f} times as fast, and at {large} "
        f"{median(ratios[large]):.2f} times. So **{trend(ratios, what)}**. "
        + (
            f"The whole band is above 1.05 at {pays}."
            if pays
            else "No band lies wholly above 1.05."
        )
    )


say(sentence(by_batch, "batch size"))

# %% [markdown]
# Some work, such as casting the weights, is done once per batch, so it weighs more in a small one.
#
# The other kind of size is the width of a layer, its number of channels. The arithmetic of a convolution grows
# with the square of the width, the casts of its inputs and outputs with the width only. So wider layers should
# gain more. We time a toy of two convolutions and double their width until a step takes too long.

# %%
by_width = {}
for width in (8, 16, 32, 64, 128, 256, 512, 1024):
    pair = [torch.nn.Conv2d(width, width, 3, padding=1, device=device) for _ in range(2)]
    toy, given = torch.nn.Sequential(*pair), torch.randn(32, width, 14, 14, device=device)
    layout, started = torch.channels_last, now(device)  # the layout of our network
    by_width[width] = speed_ups(toy.to(memory_format=layout), given.to(memory_format=layout))
    if now(device) - started > 2:
        break
show_ratios(by_width, "channels")

# %%
widths = [layer.out_channels for layer, *_ in seen["fp32"]]
ours = [median(some) for width, some in by_width.items() if min(widths) <= width <= max(widths)]
say(sentence(by_width, "width"))
say(
    f"The convolutions of our network have {min(widths)} to {max(widths)} channels. At such widths, the toy is "
    f"{min(ours):.2f} to {max(ours):.2f} times as fast."
)

# %% [markdown]
# A narrow layer may even be slower in 16 bits, because of its casts or because the library has no good 16-bit
# kernel for so few channels.
#
# ## Break it
#
# Mixed precision rests on two guards: the loss scale and the weights in 32 bits. We take away one at a time.
#
# ### fp16 without its loss scale
#
# To guarantee a failure, we need smaller gradients than ours. Imagine a network that labels every pixel: with 16
# images of 1,024 by 2,048 pixels, the loss is a mean of 2^25 terms, and no gradient that enters the network can
# be larger than 2^-25. Our classifier gets such gradients if we multiply the loss of 16 images by 2^-21.
#
# To make up for it, we multiply the learning rate by 2^21. We use SGD, whose step is the rate times an average of
# gradients, so in fp32 the two factors cancel exactly. (AdamW, which the rest of the course uses, adapts its
# steps to the size of the gradients. But it cannot do anything with gradients of zero either.)


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
# We train the same network four times, from the same weights and on the same batches: in fp32, in fp16 with
# and without a loss scale, and for comparison in fp16 without a loss scale on the ordinary loss.

# %%
TINY = 2.0**-21
falls = {
    "fp32": descend(weight=TINY),
    "fp16 with a loss scale": descend(torch.float16, True, TINY),
    "fp16 without": descend(torch.float16, False, TINY),
    "fp16 without, ordinary loss": descend(torch.float16),
}

# %% [markdown]
# We draw the losses without their factor, each as the mean of the last 20 steps.

# %%
WIDTH = 20
last, lines = {}, {}
for name, (_, losses) in falls.items():
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
pairs = zip(fresh().parameters(), falls["fp16 without"][0].parameters(), strict=True)
holds(all(torch.equal(a, b) for a, b in pairs), "without a loss scale, not one weight has moved")

# %% [markdown]
# Half of the smallest fp16 number is rounded to zero, so every gradient was zero from the start. The line moves
# only because the batches differ. There was no error and no infinity, only a loss that does not fall. In
# practice, gradients rarely vanish this completely.
#
# ### Weights in 16 bits
#
# Now everything is computed in fp32, but after each step we round all parameters to bf16. So the storage of the
# weights is the only difference. We go on training the network from above, at a low and constant learning rate,
# as near the end of a schedule.
#
# The optimiser is AdamW, as in the rest of the course. Its step is about as long as the learning rate, however
# small the gradient is, so we can predict which weights can move at a rate of 0.00003. From 1/128 on, the
# numbers of bf16 lie at least 1/16,384 apart, and half of that is more than the step.

# %% tags=["nbval-check-output"]
border, step = torch.tensor(1 / 128).bfloat16(), 3e-5
holds(border + step == border, "at a weight of 1/128, a step of 0.00003 is lost")
holds(0.99 * border + step != 0.99 * border, "just below, numbers lie closer, and it counts")

# %% [markdown]
# This is how we round, and how we follow the training: by the loss of up to 2,000 validation images.


# %%
def round_to(net, stored):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.to(stored))


def loss_of(net):
    net.eval()
    with torch.inference_mode():
        loss = F.cross_entropy(net(here.normalise(here.val.x[:2000])), here.val.y[:2000])
    net.train()
    return loss.item()


# %% [markdown]
# Both runs start from the same weights, use the same batches, and measure that loss every 20 steps.


# %%
def go_on(stored, lr=3e-5, steps=200):
    net, losses = deepcopy(trained), {}
    optimizer, scaler = (
        torch.optim.AdamW(net.parameters(), lr),
        torch.amp.GradScaler(device.type, enabled=False),
    )
    draws = here.draws(64, torch.Generator().manual_seed(1))
    for step in range(steps + 1):
        round_to(net, stored)
        if step % 20 == 0:
            losses[step] = loss_of(net)
        take_step(net, *here.batch(*next(draws)), optimizer, scaler, torch.float32)
    return net, losses


# %%
nets, lines = {}, {}
for name in ("fp32", "bf16"):
    nets[name], losses = go_on(precision.DTYPES[name])
    lines[f"weights in {name}"] = (list(losses), list(losses.values()))
plot(lines, "step", "validation loss")
plt.show()

# %%
falls = {name: losses[0] - losses[-1] for name, (_, losses) in lines.items()}
fell, fell_rounded = falls["weights in fp32"], falls["weights in bf16"]
begin = [parameter.bfloat16().float() for parameter in trained.parameters()]
same = [(a == b).flatten() for a, b in zip(begin, nets["bf16"].parameters(), strict=True)]
large = [(parameter.abs() >= 1 / 128).flatten() for parameter in begin]
still, foretold = (100 * torch.cat(found).float().mean().item() for found in (same, large))
stored = (
    "weights in bf16 learn much less"
    if fell > 0.003 and fell_rounded < fell / 2
    else "weights in bf16 learn less"
    if fell > 0.003 and fell_rounded < 0.9 * fell
    else "so few steps show no clear difference"
)
say(
    f"With fp32 weights, the loss changes by {-fell:+.3f}, and with bf16 weights by {-fell_rounded:+.3f}: "
    f"**{stored}**. Of the bf16 weights, **{still:.0f} %** are exactly where they began. From their size, we "
    f"would have predicted {foretold:.0f} %."
)

# %% [markdown]
# Only the small weights move. At a high learning rate, more steps survive, so training without master weights may
# begin well and stop improving when the rate falls. Master weights prevent that. So does rounding up or down at
# random, so that the average is right (Zamirai et al. 2020, arXiv 2010.06192).
#
# ## What the card promised
#
# We go through the card's promises, and then through what else we have found.

# %%
seen_here = [
    f"*Pays if 16 bits are native*: in {chosen}, matrix products were up to {matrix:.1f} times as fast. Whole runs "
    f"of our network were {faster(clocks['mixed'], clocks['fp32'])}.",
    f"*Pays with large batches*: in our network, {trend(by_batch, 'batch size')}.",
    f"*Pays with large layers*: in our toy, {trend(by_width, 'width')}.",
    f"*Fails in a small network, where little gets faster*: {limits}",
]
if chosen == "fp32":
    seen_here = [
        "*Speed*: this device has no fast 16-bit format, so nothing is promised, and nothing was gained."
    ]
say("\n".join(f"- {line}" for line in seen_here))

# %%
beside = [
    f"*fp16 needs a loss scale*: our ordinary loss needs {'none' if 0 in fine else 'one'}. From a tiny loss, "
    f"nothing was learned without one.",
    f"*Weights stay in 32 bits*: at a low learning rate, {stored}.",
    f"*Accuracy*: {accuracy}.",
    f"*Memory*: the backward pass keeps {half[1]:.0f} instead of {full[1]:.0f} MB at a batch size of 256.",
]
for where, found in split.items():
    for name, row in found.items():
        word = "a loss" if row["95 % to"] < 1 else "no clear difference"
        word = "a gain" if row["95 % from"] > 1 else word
        beside += [f"*Time to the target, {name}* (recorded on {where}): {word}."]
say("\n".join(f"- {line}" for line in beside))

# %%
pace = faster(clocks["mixed"], clocks["fp32"])
quicker = median(clocks["fp32"]) > median(clocks["mixed"])
if chosen == "fp32":
    advice = "stay in fp32, because the device has no fast 16-bit format"
elif "lower" in accuracy:
    advice = "stay in fp32, because 16 bits have cost accuracy"
elif "about as fast" in pace:
    advice = "use it to save memory, because it saves no clear time"
elif quicker:
    advice = "use it, because the same images take less time and no loss of accuracy is clear"
else:
    advice = "stay in fp32, because 16 bits are slower"
say(f"For this network on this device, our advice is: **{advice}**.")

# %% [markdown]
# The rule of thumb for another network: if the device multiplies bf16 natively, time ten steps with and without
# `autocast`, at your own batch size. If they are faster, use bf16, which needs no loss scale, and compare the
# accuracy once. On an older GPU, do the same with fp16 and a `GradScaler`. If the device has neither, stay in
# fp32. Keep the weights in fp32 in any case.
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
# convolutions alone, as we have done, to see what is slow. A larger batch may help, and it fits into the memory
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
