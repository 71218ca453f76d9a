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
# # 3. Cyclic learning rates and one-cycle
#
# A *cyclic* learning rate rises and falls during training. *One-cycle* does this once per run: the
# rate rises to a peak, so that training moves fast, and falls to practically zero, so that the
# weights settle. If the momentum moves too, it does so in the opposite direction.
#
# **What you add.** `peak` is the highest learning rate, `steps` is the number of optimiser steps in
# the whole run, and `loader` yields shuffled training batches:
#
# ```python
# from itertools import islice
# from torch.optim.lr_scheduler import OneCycleLR
# from torch.optim.swa_utils import update_bn
#
# schedule = OneCycleLR(  # before the loop
#     optimizer, peak, total_steps=steps, pct_start=0.25, cycle_momentum=False
# )
# schedule.step()  # in the loop, once after every optimizer.step()
# update_bn(islice(loader, 16), net, device)  # if you validate or save while the rate is high
# ```
#
# - **The peak.** First try 10 times AdamW's usual rate of 0.001, or 3 times a constant rate that
#   you have tuned. We measured AdamW only.
# - **The last line** *refreshes* batch norm. Its stored averages lag behind while the rate is high,
#   and so the network looks worse than it is. After a complete cycle, you do not need this line,
#   except in a run of very few steps.
# - **Use it when** your rate has been constant, and you know in advance when training will end.
# - **Leave it when** you do not know this, or when you already use a short warm-up and a cosine
#   decay. At the same peak, one-cycle was not faster than that in our studies.
#
# **What it does not do.** It makes no step faster. It saves time only if you then take fewer steps.
#
# We measured a small residual network on Fashion-MNIST, in runs of up to about three epochs.
#
# About 25 minutes to read, and three to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/03_cyclic_lr.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/03_cyclic_lr.ipynb).
# The first cell installs the course if it is missing and prints your machine.

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
# The *budget* in the line above depends on the device. It sets the network, how many images it
# sees, and the number of *seeds*. A seed fixes the initial weights and the order of the images.

# %%
import copy
import math
from dataclasses import replace
from statistics import mean

import matplotlib.pyplot as plt
import pandas as pd
import torch

from fasttricks import BASELINE, OneCycle, choose_budget, load, train
from fasttricks.course import found_in, gained, holds, one_line, say, train_arms

budget, data = choose_budget(), load()

# %% [markdown]
# In numbers, from our *studies*: long runs that we recorded beforehand
# ([chapter 0](00_baseline.ipynb)).

# %% tags=["fold"]
from fasttricks.study.findings import span, times

trained, renewed = studies = found_in("schedules"), found_in("schedules-refreshed")
usual = trained.reference
flat = [row.arm for row in renewed.rows if row.arm == "plain" or row.arm.startswith("constant")]


def longer(row):
    if row.arm == row.against:
        return "1"
    slow = row.ratio.inverse
    return f"{times(slow.value)} ({span(slow)})" if row.arrives else f"over {times(slow.low)}"


def judged(row):
    if row.wavers:
        return f"{row.verdict}, but perhaps by chance"
    if row.verdict == "cannot tell":
        return "not clearly faster or slower"
    edge = row.ratio.low if row.verdict == "faster" else row.ratio.inverse.low
    return f"{row.verdict}, but only just" if times(edge) == "1.00" else f"clearly {row.verdict}"


# %% tags=["fold"]
factors = []
for study in studies:
    nearest = max(study.of(*flat), key=lambda row: row.ratio.value)
    factors += [longer(row).split(" (")[0] for row in (nearest, *study.of("one-cycle 0.01"))]
(cycle,) = renewed.of("one-cycle 0.01")
say(
    f"To a validation accuracy of {trained.target:.2%}, the best of {len(flat)} constant rates "
    f"takes **{factors[2]} times as long** as a short warm-up and a cosine decay. One-cycle takes "
    f"{factors[3]} times as long ({judged(cycle)}). Here, batch norm is refreshed before networks "
    f"are scored. Without this, the two factors are {factors[0]} and {factors[1]}."
)

# %% [markdown]
# ## What does the rate do?
#
# The number in a schedule's name is its highest rate. *Constant 0.001* is our baseline. *Warm-up
# and cosine* is the usual alternative to one-cycle: the rate rises over the first 5% of the run,
# and falls to practically zero along half a cosine wave. *One-cycle* rises for a quarter of the
# run.
#
# A *recipe* is the baseline plus *tricks*. Our trick `OneCycle` takes the peak as a multiple of the
# constant rate. A shorter rise and a constant momentum turn it into warm-up and cosine.


# %%
def one_cycle_to(peak):
    return BASELINE + OneCycle(peak / BASELINE.lr)


def cosine_from(peak, rise):
    return BASELINE + OneCycle(peak / BASELINE.lr, rise, momentum_low=0.9, momentum_high=0.9)


schedules = {
    "constant 0.001": BASELINE,
    "warm-up and cosine 0.01": cosine_from(0.01, rise=0.05),
    "one-cycle 0.01": one_cycle_to(0.01),
}

# %% [markdown]
# A recipe knows the rate and the momentum of every step in advance, here for a run of 200 steps.

# %% tags=["fold"]
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for (name, recipe), style in zip(schedules.items(), ("k:", "k--", "k-"), strict=True):
    left.plot([recipe.lr_at(step, 200) for step in range(200)], style, label=name)
    right.plot([recipe.momentum_at(step, 200) for step in range(200)], style)
left.set(xlabel="training step", ylabel="learning rate", ylim=(None, 0.0145))
right.set(xlabel="training step", ylabel="momentum (AdamW: beta1)")
left.legend(fontsize=9)
plt.show()

# %% [markdown]
# The two schedules that fall are alike after their peak. Our one-cycle also moves the momentum. The
# others keep it at 0.9.
#
# ## What do our studies say?
#
# Two studies ask how much training a schedule needs to reach the same accuracy. They judge the
# networks in two ways:
#
# - **As trained**: as they come out of training.
# - **Refreshed**: first, 2,000 training images pass through the network. *Batch norm* layers, which
#   normalise each channel by its mean and variance, recompute their stored averages from these
#   images. No weight changes.
#
# "Times" compares with warm-up and cosine 0.01: above 1 is more training. A difference is clear if
# its 95% interval, in parentheses, does not contain 1. "Over" means that even our longest run did
# not get there. Then the factor is the interval's lower end.

# %% tags=["fold"]
NAMED = {"plain": "constant 0.001"}


def needed(row):
    return f"{row.images.value:,.0f}" if row.arrives else f"over {row.most:,}"


both = [row.arm for row in renewed.rows if trained.of(row.arm)]
columns = {}
for how, study in (("as trained", trained), ("refreshed", renewed)):
    columns[f"images needed, {how}"] = [needed(row) for row in study.of(*both)]
    columns[f"times, {how}"] = [longer(row) for row in study.of(*both)]
pd.DataFrame(columns, index=[NAMED.get(arm, arm) for arm in both])

# %% tags=["fold"]
slower = [all(judged(row) == "clearly slower" for row in study.of(*flat)) for study in studies]
claim = {
    (True, True): f"Let the rate fall. Each constant rate here takes clearly longer than {usual}, "
    "as trained and refreshed",
    (True, False): f"As trained, each constant rate here takes clearly longer than {usual}. "
    "Refreshed, this is not clear for all of them",
    (False, True): f"Refreshed, each constant rate here takes clearly longer than {usual}. As "
    "trained, this is not clear for all of them",
    (False, False): f"Not all constant rates here take clearly longer than {usual}",
}[tuple(slower)]
cycles = [judged(*study.of("one-cycle 0.01")) for study in studies]
ends = f"as trained, and **{cycles[1]}** refreshed"
if cycles[0] == cycles[1]:
    ends = "as trained and refreshed"

# %% tags=["fold"]
scores = [
    {int(images): mean(found) for images, *found in study.accuracies["constant 0.01"]}
    for study in studies
]
alone = ""
for images in sorted(set(scores[0]) & set(scores[1]))[-1:]:
    alone = (
        f"- **What a refresh alone does.** After {images:,} images at a constant rate of 0.01, the "
        f"mean accuracy is {scores[0][images]:.1%} as trained and {scores[1][images]:.1%} "
        f"refreshed.\n"
    )
lengths = [row[0] / len(data.train) for found in trained.accuracies.values() for row in found]
say(
    f"- **{claim}.**\n"
    f"- **One-cycle or {usual}?** With the same peak, one-cycle is **{cycles[0]}** {ends}.\n"
    f"{alone}\n"
    f"Recorded on {trained.hardware}, with {trained.seeds} seeds, a target accuracy of "
    f"{trained.target}, and runs of {min(lengths):.1f} to {max(lengths):.1f} epochs."
)

# %% [markdown]
# An image takes equally long with every schedule, and the refresh is not counted. So a ratio of
# images is a ratio of times.

# %% tags=["fold"]
from fasttricks.study.findings import NARROW, covered, trusted

told, doubt = [], ""
for study in studies:
    held = covered(study.study).get("holds", {})
    narrow = [row for row in study.rows if row.arrives and held.get(row.arm, 1) < NARROW]
    doubt = " Not all of them" if narrow else doubt
    stays = all(
        row.ratio.high**2 < row.ratio.value or row.ratio.low**2 > row.ratio.value for row in narrow
    )
    more = " But even twice as wide, they would not contain 1, so these verdicts stay."
    less = " Twice as wide, they could contain 1, so these verdicts are open."
    if trusted(study.study):
        how = "Refreshed" if study is renewed else "As trained"
        told.append(f"{how}: {trusted(study.study)}{(more if stays else less) * bool(narrow)}")
if told:
    say(
        f"<details><summary>How far can you trust the intervals?{doubt}</summary>\n\n"
        + "\n\n".join(told)
        + "\n\n</details>"
    )

# %% [markdown]
# The rest of this page shows why, with *short runs* on your machine. They compare accuracies after
# equally many images, with n seeds each. There, we use the rule of chapter 0: a difference is
# *clear* if all n seeds agree on its sign, and its mean is at least 1/√n percentage points. Three
# signs agree by chance in a quarter of all cases, so this is evidence, not proof.
#
# ## Write it
#
# Each part of the curve, rise and fall, is half a cosine wave between two values, as in fast.ai's
# version and torch's.


# %%
def one_cycle(step, steps, first, middle, last, rise):
    turn, end = rise * steps - 1, steps - 1  # steps count from 0
    if step < turn:
        begin, goal, share = first, middle, step / turn
    else:
        begin, goal, share = middle, last, (step - turn) / (end - turn)
    share = (1 - math.cos(math.pi * share)) / 2
    return begin + (goal - begin) * share


# %% [markdown]
# `OneCycle` starts at 1/25 of the peak, reaches it after a quarter of the run, and ends at 1/10,000
# of its first value. For a peak of 10, a run of 12 steps multiplies the constant rate by:

# %%
[round(one_cycle(step, 12, 0.4, 10.0, 0.4 / 1e4, 0.25), 2) for step in range(12)]

# %% [markdown]
# The same function moves the momentum from 0.95 down to 0.85 and back.
#
# **Why the opposite direction?** SGD with momentum m adds m times the previous step to each step.
# If the gradient is always 1, steps grow to 1 + m + m² + … = 1 / (1 - m) times the rate. So a
# lower momentum reduces this *effective step*, lr / (1 - m), while the rate is high. AdamW
# averages gradients instead of adding them, so this argument does not apply to it.
#
# So one-cycle is a short formula of the step's number and the run's length.
#
# ## Check it
#
# Our functions match the package's, and its recipes match torch's schedules at every step.

# %% tags=["nbval-check-output", "fold"]
from fasttricks.tricks import cyclic


def height(step, half):  # of the triangles in exercise 2
    _, position = divmod(step / half, 2)
    return 1 - abs(position - 1)


clock = range(100)
same = [height(step, 7) == cyclic.height(step, 7, "triangular") for step in clock]
holds(all(same), "our triangles are the package's")
arguments = (100, 0.4, 10.0, 0.4 / 1e4, 0.25)
gaps = [one_cycle(step, *arguments) - cyclic.one_cycle(step, *arguments, "cos") for step in clock]
holds(max(map(abs, gaps)) < 1e-12, "our one-cycle is the package's")

# %% tags=["nbval-check-output", "fold"]
from torch.optim.lr_scheduler import OneCycleLR


def equal(recipe, **options):
    weight = [torch.zeros(1, requires_grad=True)]
    optimizer = torch.optim.AdamW(weight, BASELINE.lr)
    schedule, theirs = OneCycleLR(optimizer, 10 * BASELINE.lr, 100, **options), []
    for _ in clock:
        group = optimizer.param_groups[0]
        theirs.append([group["lr"], group["betas"][0]])
        optimizer.step()
        schedule.step()
    ours = [[recipe.lr_at(step, 100), recipe.momentum_at(step, 100)] for step in clock]
    ours, theirs = (torch.tensor(found, dtype=torch.float64) for found in (ours, theirs))
    return torch.allclose(ours, theirs, 1e-9, 0)


holds(equal(one_cycle_to(0.01), pct_start=0.25), "one-cycle is torch's OneCycleLR")
warmed = equal(cosine_from(0.01, rise=0.05), pct_start=0.05, cycle_momentum=False)
holds(warmed, "warm-up and cosine is torch's OneCycleLR with two other settings")

# %% [markdown]
# ## In your own loop
#
# For the warm-up and cosine of our studies, change one number at the top: `pct_start=0.05`.
#
# - **The peak** is a learning rate, not a factor. `OneCycleLR` overwrites the optimiser's own rate.
#   If your parameter groups have different rates, pass a list of peaks. Our best constant rate,
#   refreshed, was 0.003, and our best peak 0.01. Hence the first guess of 3 times a tuned rate.
# - **The steps** are those of the whole run. torch raises an error if you go on for longer, and
#   also if `pct_start * steps` is exactly 1.
# - **The momentum.** Without `cycle_momentum=False`, `OneCycleLR` moves AdamW's beta1 or SGD's
#   momentum from 0.95 to 0.85 and back, even if yours was 0. In our study with AdamW, both ways
#   took about equally long (see the second table of the study).
# - **The refresh.** `update_bn` uses the first entry of each batch, moved to `device`. 16 batches
#   of 128 are about 2,000 images. A network without batch norm needs no refresh.
# - **To resume** a run, first create the optimiser and the schedule, and then load the states of
#   both. If you create the schedule last, it resets the rate (and a moving momentum).
#
# <details><summary>One-cycle in a complete script</summary>
#
# [`examples/cyclic.py`](../examples/cyclic.py) adds the lines marked `+`. Do not copy its settings:
# they were tuned for all seven tricks together, in very short runs.
#
# ```diff
#      steps, epoch = max(1, images // BATCH), len(y) // BATCH
# +    schedule = torch.optim.lr_scheduler.OneCycleLR(
# +        optimizer, 30 * LR, steps, pct_start=0.15, base_momentum=0.8, max_momentum=0.9
# +    )
#      started = time.perf_counter()
#  ...
#          optimizer.step()
# +        schedule.step()
#          optimizer.zero_grad()
# ```
#
# </details>
#
# ## Why can a network look worse than it is?
#
# In evaluation, batch norm uses its stored averages. A training step moves them only a tenth of
# the way to the values of its batch (chapter 2). While the weights change fast, the averages lag
# behind, and the score suffers. If a refresh removes a difference, it was in the averages. If not,
# it is in the weights.

# %%
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from fasttricks.loop import accuracy, set_rates
from fasttricks.models import begin, optimizer_for

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
here = replace(data, val=data.val[: budget.val]).to(device, budget.image_size)
shape = (data.channels, len(data.classes), budget.image_size)


def score(net):
    return accuracy(net, here, here.val, BASELINE)


def refreshed(net):
    update_bn((data.normalise(x) for x in here.train.x[:2000].split(500)), net)
    return score(net)


# %% [markdown]
# We train with three schedules. `watch(recipe, seed)` is an ordinary training loop. After each
# quarter of the steps, it scores the network as trained, and a refreshed copy of it.


# %% tags=["fold"]
def watch(recipe, seed):
    torch.manual_seed(seed)
    net = begin(recipe, budget.model, *shape).to(device)
    optimizer, found = optimizer_for(recipe, net), []
    draws = here.draws(recipe.batch, torch.Generator().manual_seed(seed))
    for step in range(steps):
        x, q = here.batch(*next(draws))  # images and target probabilities
        set_rates(optimizer, recipe.lr_at(step, steps), recipe.momentum_at(step, steps))
        cross_entropy(net(x), q).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 in marks:
            found.append([score(net), refreshed(copy.deepcopy(net))])
    return found


# %% [markdown]
# `stale` (as trained) and `fresh` (refreshed) hold the scores at the last step, one per seed.

# %%
images = budget.images // 2
steps = images // BASELINE.batch
marks = [steps * quarter // 4 for quarter in (1, 2, 3, 4)]
seeds = range(budget.seeds)
watched = {
    "constant 0.001": BASELINE,
    "constant 0.01": replace(BASELINE, lr=0.01),
    "one-cycle 0.01": one_cycle_to(0.01),
}
paths = {
    name: torch.tensor([watch(recipe, seed) for seed in seeds]) for name, recipe in watched.items()
}
stale = {name: path[:, -1, 0].tolist() for name, path in paths.items()}
fresh = {name: path[:, -1, 1].tolist() for name, path in paths.items()}

# %% [markdown]
# The gap between the two lines is the lag of the averages. It can be wide early in any run, because
# the averages start at arbitrary values.

# %% tags=["fold"]
_, panels = plt.subplots(1, 3, sharey=True, figsize=(9, 3), layout="constrained")
for name, panel in zip(watched, panels, strict=True):
    as_trained, cured = paths[name].mean(0).T
    panel.plot(marks, cured, "ks--", mfc="white", label="refreshed")
    panel.plot(marks, as_trained, "ko-", label="as trained")
    panel.set(title=name, xlabel="training step")
panels[0].set_ylabel(f"validation accuracy, n = {budget.seeds}")
panels[2].legend()
plt.show()

# %% tags=["fold"]
ends = {name: f"{mean(stale[name]):.1%} to **{mean(fresh[name]):.1%}**" for name in watched}
gaps = {name: [b - a for a, b in zip(stale[name], fresh[name], strict=True)] for name in watched}
meaning, leads, part = "", [], []
if "higher" in gained(fresh["constant 0.01"], stale["constant 0.01"]):
    meaning = " So a network trained at a high constant rate is better than its score."
for name in ("constant 0.01", "constant 0.001"):
    before, after = (100 * (mean(f["one-cycle 0.01"]) - mean(f[name])) for f in (stale, fresh))
    leads.append(f"over {name} from {before:+.1f} to {after:+.1f} points")
    if before > 0 and "higher" in gained(gaps[name], gaps["one-cycle 0.01"]):
        part.append(name)
if part:
    meaning += (
        f" **A part of one-cycle's lead over {' and '.join(part)} is only batch norm's lag.**"
    )
say(
    f"These runs have {steps} steps of {BASELINE.batch} images ({images / len(data.train):.2f} "
    f"epochs). At the end, a refresh moves the mean accuracy of constant 0.01 from "
    f"{ends['constant 0.01']}, and that of constant 0.001 from {ends['constant 0.001']}. With "
    f"one-cycle, whose rate is practically zero by then, it moves it from "
    f"{ends['one-cycle 0.01']}. It changes one-cycle's lead {', and '.join(leads)}.{meaning}"
)

# %% [markdown]
# ## Which part does the work?
#
# Our one-cycle 0.01 differs from constant 0.001 in three things: the rate is higher, it falls, and
# it rises first while the momentum moves. *Constant 0.01* has only the higher rate. *Cosine 0.01*
# also falls, but from the first step on. We try several rates, since each schedule may need its
# own.

# %%
recipes = {f"cosine {peak:g}": cosine_from(peak, rise=1e-6) for peak in (0.003, 0.01, 0.03)}
recipes["constant 0.003"] = replace(BASELINE, lr=0.003)
recipes["one-cycle 0.03"] = one_cycle_to(0.03)
for name, found in train_arms(recipes, data, images=images, evaluations=1).items():
    stale[name] = [run.val_accuracy for run in found]
    fresh[name] = [refreshed(run.net) for run in found]

# %% [markdown]
# Here are the mean accuracies of all schedules.

# %% tags=["fold"]
_, panels = plt.subplots(1, 2, sharey=True, figsize=(9, 3.6), layout="constrained")
for panel, (how, found) in zip(panels, (("as trained", stale), ("refreshed", fresh)), strict=True):
    for shown, style in (("constant", "ko-"), ("cosine", "k^:"), ("one-cycle", "ks--")):
        tried = sorted((float(name.split()[1]), name) for name in found if name.startswith(shown))
        ys = [mean(found[name]) for _, name in tried]
        panel.plot([rate for rate, _ in tried], ys, style, label=shown)
    panel.set(title=f"{how}, n = {budget.seeds}", xlabel="highest rate", xscale="log")
    panel.set_xticks([0.001, 0.003, 0.01, 0.03], ["0.001", "0.003", "0.01", "0.03"])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
panels[0].set_ylabel("validation accuracy")
panels[0].legend()
plt.show()

# %% [markdown]
# The table compares refreshed accuracies, the first schedule against the second. (*Best of each*
# means the rates with the highest refreshed means.)

# %% tags=["fold"]
FALL, RISE = "a fall", "the rise and the momentum"
pairs = {
    ("constant 0.01", "constant 0.001"): "a higher rate",
    ("cosine 0.003", "constant 0.003"): FALL,
    ("cosine 0.01", "constant 0.01"): FALL,
    ("one-cycle 0.01", "cosine 0.01"): RISE,
    ("one-cycle 0.03", "cosine 0.03"): RISE,
}
best = tuple(
    max((name for name in fresh if name.startswith(shown)), key=lambda name: mean(fresh[name]))
    for shown in ("cosine", "constant")
)
pairs[best] = f"{FALL}, best of each"
now = {pair: gained(*(fresh[name] for name in pair)) for pair in pairs}
pd.DataFrame(
    [[pairs[pair], " against ".join(pair), now[pair]] for pair in pairs],
    columns=["what it adds", "short runs", "accuracy, refreshed"],
).set_index("what it adds")


# %% tags=["fold"]
def peaks(first, second, word):
    """The rates at which one schedule, against another at the same rate, is higher or lower."""
    rates = ("0.003", "0.01", "0.03")
    asked = {rate: now.get((f"{first} {rate}", f"{second} {rate}"), "") for rate in rates}
    return " and ".join(rate for rate in rates if word in asked[rate])


told = [f"Does a fall help in the short runs? With the best rate of each: **{now[best]}**."]
for word, verb in (("higher", "helps"), ("lower", "hurts")):
    at = peaks("cosine", "constant", word)
    told += [f"At the same rate of {at}, a fall {verb}."] if at else []
effects = [
    f"a clear {noun} at a peak of {peaks('one-cycle', 'cosine', word)}"
    for word, noun in (("higher", "gain"), ("lower", "loss"))
    if peaks("one-cycle", "cosine", word)
]
told.append(f"The rise and the momentum: {', '.join(effects) or 'no clear gain or loss'}.")
say(" ".join(told))

# %% [markdown]
# A cosine's rate is, on average, half its peak. So a cosine may need a higher peak than a constant
# schedule.
#
# What do longer runs say? Here are the remaining schedules of the study, as trained, compared with
# warm-up and cosine 0.01.

# %% tags=["fold"]
rest = [row for row in trained.rows if row.arm not in (*flat, usual)]
pd.DataFrame(
    {
        "images needed, as trained": [needed(row) for row in rest],
        "times": [longer(row) for row in rest],
        "verdict": [judged(row) for row in rest],
    },
    index=[row.arm for row in rest],
)

# %% tags=["fold"]
known, told = {row.arm: row.ratio.inverse for row in rest}, []
risen = ["warm-up and cosine 0.03", "one-cycle 0.03"]
if known["cosine 0.03"].low > max(known[arm].high for arm in risen):
    told.append(
        "At a peak of 0.03, the fall without a warm-up takes longest. Its interval lies above "
        "those of the two schedules that rise first."
    )
told.append(
    "**In the studies, a fall saves time: each constant rate is clearly slower.**"
    if all(slower)
    else "In the studies, not each constant rate is clearly slower than a fall."
)
cycled = [row for study in studies for row in study.rows if row.arm.startswith("one-cycle")]
if not any(row.verdict == "faster" for row in cycled):
    told.append(
        "**A long rise and a moving momentum show no gain there over a warm-up and a cosine.**"
    )
say(" ".join(told))

# %% [markdown]
# Short and long runs can differ. A short run leaves the weights little time to settle. And near
# the target, accuracy grows slowly, so one point can be worth many images. Wherever we take a best
# rate, we chose it on the images that judge it, so its score is a little too high.
#
# ## How high can the peak be?
#
# The **range test** (Smith 2015) gives a first guess in one short run: raise the rate from step to
# step, and see where the loss begins to climb. Give it a new network, because it ruins the weights.


# %%
def range_test(net, optimizer, batches, low=1e-5, high=1.0, steps=150):
    rates, losses, average = [], [], None
    for step in range(steps):
        rate = low * (high / low) ** (step / (steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = next(batches)  # in your script: iter(loader), if it has 150 batches
        loss = cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            break
        average = loss.item() if average is None else 0.9 * average + 0.1 * loss.item()
        rates.append(rate)
        losses.append(average)  # one batch is noisy, so we average with earlier losses
    return rates, losses


# %% [markdown]
# A noisy loss rises a little and falls again. So we say that it *begins to climb* at the last rate
# at which it is less than a tenth above its lowest value.

# %%
torch.manual_seed(0)
net = begin(BASELINE, budget.model, *shape).to(device)
draws = here.draws(BASELINE.batch, torch.Generator().manual_seed(0))
batches = (here.batch(*drawn) for drawn in draws)
rates, losses = range_test(net, optimizer_for(BASELINE, net), batches)
climbs = max(rate for rate, loss in zip(rates, losses, strict=True) if loss < 1.1 * min(losses))

# %% [markdown]
# **Break it.** Is every peak below that rate safe? We train one-cycle with peaks of 0.1 and
# 0.3, and with a lower one of 0.003, with the same seeds and equally many images as before. `attempt(peak, seed)` returns the refreshed
# accuracy. If the loss becomes NaN, it counts the network as one that guesses.

# %% tags=["fold"]
chance = 1 / len(data.classes)


def attempt(peak, seed):
    try:
        run = train(one_cycle_to(peak), data, images=images, seed=seed, evaluations=1)
    except FloatingPointError:
        return chance
    return refreshed(run.net)


# %%
sweep = {peak: fresh[f"one-cycle {peak}"] for peak in (0.01, 0.03)}
with one_line() as tell:
    sweep |= {peak: [attempt(peak, seed) for seed in seeds] for peak in (0.003, 0.1, 0.3)}
    tell(f"{3 * len(seeds)} runs, three peaks")
sweep = dict(sorted(sweep.items()))

# %% [markdown]
# The lower panel shows the accuracy of one-cycle with its peak at that rate. (A mark on the lower
# edge stands for an accuracy below it.)

# %% tags=["fold"]
_, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(7, 5), layout="constrained")
upper.plot(rates, losses, "k")
upper.set(ylabel="loss, averaged", title="range test", xscale="log", ylim=(0, 1.2 * losses[0]))
top = max(max(found) for found in sweep.values())
for seed, style in zip(seeds, ("ko-", "ks--", "k^:"), strict=False):
    ys = [max(found[seed], top - 0.15) for found in sweep.values()]
    lower.plot(list(sweep), ys, style, label=f"seed {seed}")
lower.set(xlabel="rate, or peak of one-cycle", ylabel="validation accuracy")
lower.set(title="one-cycle, refreshed", ylim=(top - 0.155, top + 0.01))
lower.xaxis.set_major_formatter("{x:g}")
lower.legend(loc="lower left")
for panel in (upper, lower):
    panel.axvline(climbs, color="grey", linestyle="--")
    panel.grid(alpha=0.3)
upper.text(climbs, 1.15 * losses[0], "begins to climb ", ha="right", va="top")
plt.show()

# %% tags=["fold"]
beside = {peak: gained(sweep[peak], sweep[0.01], chance) for peak in sweep if peak != 0.01}
harm = {peak: found for peak, found in beside.items() if peak > 0.01}
harmful = [peak for peak in harm if "lower" in harm[peak]]
where = "begins to climb at" if climbs < rates[-1] else "does not climb before the test ends at"
told = [f"The loss {where} **{climbs:.2g}**. A thirtieth of this is {climbs / 30:.2g}."]
bump = [rates[n] for n in range(1, len(losses)) if losses[n] > 1.1 * min(losses[:n])][:1]
if bump and bump[0] < climbs / 2:
    told.append(f"But a first bump as high as this comes at {bump[0]:.2g}, so look at the curve.")
if harmful:
    told.append(f"{harmful[0]:g} is the lowest of these peaks that clearly hurts.")
else:
    told.append("Compared with a peak of 0.01, no higher peak here does clear harm.")
told.append(f"A lower peak of 0.003, compared with 0.01: {beside[0.003]}.")
for peak in [peak for peak in harm if peak < climbs][-1:]:
    told.append(
        f"A peak of {peak:g} is still below {climbs:.2g}. Compared with 0.01: {harm[peak]}."
    )
    if "lower" in harm[peak]:
        told.append(
            "**So the rate at which the loss begins to climb is not a safe peak for one-cycle.**"
        )
say(" ".join(told))

# %% [markdown]
# The test spends only a few steps near each rate, and averaging delays the curve. So take a
# thirtieth of that rate as a first guess, and compare it with others. This rule was fitted to one
# network, one seed and this length.
#
# ## What if a run is stopped early?
#
# Halfway, the rate is still at three quarters of the peak. So the averages lag, and most of the
# fall is missing. We compare such a run with a one-cycle that was *planned* for half the steps,
# and with constant rates at that step.

# %%
half = train_arms({"planned": one_cycle_to(0.01)}, data, images=images // 2, evaluations=1)
planned = [[run.val_accuracy, refreshed(run.net)] for run in half["planned"]]
halfway = {name: path[:, 1].tolist() for name, path in paths.items()}  # as trained, refreshed

# %% tags=["fold"]
beside = {"a one-cycle planned for half the steps": planned}
beside |= {name: halfway[name] for name in ("constant 0.001", "constant 0.01")}
stopped = list(zip(*halfway["one-cycle 0.01"], strict=True))
cut = {
    f"compared with {name}": [
        gained(own, other) for own, other in zip(stopped, zip(*found, strict=True), strict=True)
    ]
    for name, found in beside.items()
}
pd.DataFrame(cut, index=["stopped one-cycle, as trained", "refreshed"]).T

# %% tags=["fold"]
at_once, later = ("lower" in told for told in next(iter(cut.values())))
answer = {
    (True, False): "As trained, yes. After a refresh, we see no clear loss against a planned run",
    (True, True): "Yes. It loses against a planned run, as trained and refreshed",
    (False, True): "Yes, against a planned run, but only a refresh shows it clearly",
    (False, False): "We see no clear loss against a planned run, as trained or refreshed",
}[at_once, later]
caveat = ""
if not later:
    caveat = (
        f" But {steps // 2} steps may be too few to show what a missing fall costs. So do not "
        "count on this in longer runs."
    )
say(
    f"Does stopping halfway hurt? **{answer}.**{caveat} The stopped network after a refresh, "
    f"compared with its own score before: {gained(*reversed(stopped))}."
)

# %% [markdown]
# ## What should you do?
#
# 1. **Choose a schedule that falls**: one-cycle, or warm-up plus cosine decay.
# 2. **Choose its peak**: begin with the first guess at the top. If you have no rate at all, take a
#    thirtieth of the rate at which the loss of a range test begins to climb. Try peaks around it.
# 3. **Refresh batch norm** if you validate or save while the rate is high, and if a run is cut
#    short.
# 4. **If you do not know the length of the run**, keep the best of three or four constant rates,
#    and refresh whenever you validate. Let the rate fall once you decide to stop (Hägele et al.
#    2024).
#
# ## In the course's seven-trick study
#
# The course's main study (chapter 0) was recorded beforehand, with small residual networks on
# Fashion-MNIST. It adds one-cycle to a constant rate, alone and together with *the other six
# tricks*, those of the other chapters.
#
# Two things may flatter one-cycle. Networks are scored as trained, unless a row says that batch
# norm was refreshed. And its peak (0.03 on two CPU cores) was tuned for all seven tricks together,
# while the constant rate was not tuned for the other six. On two cores, *plain training* is
# constant 0.001 in every row.

# %%
from fasttricks.course import headline

say(headline("cyclic"))

# %% [markdown]
# This gain is over a constant rate only. For schedules that fall, see the tables above.

# %% tags=["fold"]
say(
    "<details><summary>The trick's card (<i>slots</i>: where in the loop the trick acts; "
    "<i>meets</i>: what it interacts with; chapter 7 explains <i>skipped steps</i>)</summary>"
    f"\n\n{cyclic.__doc__}\n\n</details>"
)

# %% [markdown]
# ## Questions
#
# **1. Why can a falling rate raise the accuracy within a few steps?**
#
# <details><summary>Answer</summary>When the weights slow down, batch norm's averages catch up with
# them. And small steps let the weights settle. A refresh does only the first.</details>
#
# **2. You train on 1,000 batches and set `total_steps=1000` and `pct_start=0.25`. But you step
# optimiser and schedule only after every fourth batch. What goes wrong?**
#
# <details><summary>Answer</summary>The run has only 250 steps, so it ends at the peak. The whole
# fall is missing. `total_steps=250` is right.</details>
#
# **3. The rate is 0.1, and you raise SGD's momentum from 0.9 to 0.95. Which rate keeps the
# effective step the same?**
#
# <details><summary>Answer</summary>0.05. The effective step is lr / (1 - m). It was 0.1 / 0.1 = 1,
# and 0.05 / 0.05 is 1 again.</details>
#
# **4. Your run was interrupted at step 500 of 1,000. You load the weights and the optimiser, build
# a new `OneCycleLR` for 1,000 steps, and train for the other 500. What goes wrong?**
#
# <details><summary>Answer</summary>The new schedule overwrites the rate that you have loaded and
# begins at step 0. The rate rises to the peak again, and your run ends at step 500 of the schedule,
# with most of the fall missing. Save `schedule.state_dict()` as well. To resume, create optimiser
# and schedule first, and then load both states.</details>
#
# **5. You replace a constant rate with one-cycle and gain two points. Which other runs do you need
# before you can say that the cycle brought the gain?**
#
# <details><summary>Answer</summary>Runs with higher constant rates, and runs with a fall but no
# rise, all refreshed, with the same seeds and images. Otherwise, the old rate may have been too
# low, its averages may have lagged, or the fall alone may have brought the gain.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. A wrong answer gets a hint.
#
# **Exercise 1.** Return the momentum for which lr / (1 - momentum) equals the desired effective
# step. Momentum is never below 0.


# %%
from fasttricks.course import check


def momentum_for(lr, effective):
    raise NotImplementedError


check("cyclic", 1, momentum_for)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def momentum_for(lr, effective):
#     return max(0.0, 1 - lr / effective)
# ```
#
# </details>
#
# **Exercise 2.** In the first cyclic schedules (Smith 2015), the rate rises and falls again and
# again in triangles. Return the height of such a triangle at a step: from 0 to 1 in `up` steps,
# back to 0 in `down` steps, over and over.


# %%
def sawtooth(step, up, down):
    raise NotImplementedError


check("cyclic", 2, sawtooth)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sawtooth(step, up, down):
#     position = step % (up + down)
#     return position / up if position <= up else (up + down - position) / down
# ```
#
# </details>
#
# **Exercise 3.** A range test should stop by itself. Return the first step whose loss is more than
# `factor` times the lowest loss *before it*, or the number of losses if there is no such step. (Use
# a large factor, such as fast.ai's 4. With a small one, a noisy loss stops the test too early.)


# %%
def stop_at(losses, factor):
    raise NotImplementedError


check("cyclic", 3, stop_at)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def stop_at(losses, factor):
#     lowest = math.inf
#     for step, loss in enumerate(losses):
#         if loss > factor * lowest:
#             return step
#         lowest = min(lowest, loss)
#     return len(losses)
# ```
#
# </details>
#
# ## Further reading
#
# - Smith 2015, [arXiv 1506.01186](https://arxiv.org/abs/1506.01186): triangles and the range test.
# - Loshchilov & Hutter 2016, [arXiv 1608.03983](https://arxiv.org/abs/1608.03983): the cosine, with
#   restarts.
# - Smith & Topin 2017, [arXiv 1708.07120](https://arxiv.org/abs/1708.07120): one-cycle.
# - Smith 2018, [arXiv 1803.09820](https://arxiv.org/abs/1803.09820): how to choose rate, batch,
#   momentum and weight decay together.
# - Hägele et al. 2024, [arXiv 2405.18392](https://arxiv.org/abs/2405.18392): a constant rate that
#   falls at the end, for runs whose length is not known in advance.
