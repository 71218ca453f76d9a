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
# weights settle. The momentum moves in the opposite direction.
#
# **What you add.** `LR` is the constant rate that you use now, `steps` is the number of optimiser
# steps in the whole run, and `loader` yields your training batches:
#
# ```python
# from itertools import islice
# from torch.optim.lr_scheduler import OneCycleLR
# from torch.optim.swa_utils import update_bn
#
# schedule = OneCycleLR(optimizer, 10 * LR, total_steps=steps, pct_start=0.25)  # before the loop
# schedule.step()  # in the loop, once after every optimizer.step()
# update_bn(islice(loader, 16), net, device)  # if you validate while the rate is still high
# ```
#
# - **Use it when** you know in advance when training will end.
# - **Leave it when** you do not know this, or when you already use a short warm-up and a cosine
#   decay. At the same peak, one-cycle was not faster than that in our studies.
#
# **What it does not do.** It makes no step faster. It saves time only if you then take fewer steps.
#
# We measured a small residual network on Fashion-MNIST, with AdamW, in runs of up to about three
# epochs.
#
# About 25 minutes to read, and two to run.

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
# ## What do our studies say?
#
# A *study* is a set of long runs that we recorded beforehand
# ([chapter 0](00_baseline.ipynb)). Two studies ask how much training a schedule needs to reach the
# same validation accuracy. They judge the networks in two ways:
#
# - **As trained**: as they come out of training.
# - **Refreshed**: first, 2,000 training images pass through the network. *Batch norm* layers, which
#   normalise each channel by its mean and variance, compute their stored averages anew from these
#   images. No weight changes.
#
# The number in a schedule's name is its highest rate. *Warm-up and cosine* is the usual
# alternative: the rate rises over the first 5% of the run, and falls to practically zero along half
# a cosine wave. All others are compared with it. "3 times as long" means 3 times as much training.
# A difference is clear if its 95% interval, in parentheses, does not contain 1.

# %% tags=["fold"]
from fasttricks.study.findings import span, times

trained, renewed = found_in("schedules"), found_in("schedules-refreshed")
NAMED = {"plain": "constant 0.001"}


def longer(row):
    if row.arm == row.against:
        return "1"
    slow = row.ratio.inverse
    return f"{times(slow.value)} ({span(slow)})" if row.arrives else f"over {times(slow.low)}"


def needed(row):
    return f"{row.images.value:,.0f}" if row.arrives else f"over {row.most:,}"


both = [row.arm for row in renewed.rows if trained.of(row.arm)]
columns = {}
for how, study in (("as trained", trained), ("refreshed", renewed)):
    columns[f"images, {how}"] = [needed(row) for row in study.of(*both)]
    columns[f"times as long, {how}"] = [longer(row) for row in study.of(*both)]
pd.DataFrame(columns, index=[NAMED.get(arm, arm) for arm in both])

# %% tags=["fold"]
usual, flat = trained.reference, [arm for arm in both if arm in NAMED or "constant 0." in arm]
CLEAR = {"cannot tell": "not clearly faster or slower"}
CLEAR |= {word: f"clearly {word}" for word in ("faster", "slower")}


def judged(row):
    return f"{row.verdict}, but perhaps by chance" if row.wavers else CLEAR[row.verdict]


slower = [
    all(judged(row) == "clearly slower" for row in study.of(*flat)) for study in (trained, renewed)
]
claim = {
    (True, True): "Let the rate fall. Each constant rate here takes clearly longer than "
    f"{usual}, as trained and refreshed",
    (True, False): f"As trained, each constant rate here takes clearly longer than {usual}. "
    "Refreshed, this is not clear for all of them",
    (False, True): f"Refreshed, each constant rate here takes clearly longer than {usual}. As "
    "trained, this is not clear for all of them",
    (False, False): f"Not all constant rates here take clearly longer than {usual}",
}[tuple(slower)]

# %% tags=["fold"]
studies = (trained, renewed)
(before,), (after,) = (study.of("plain") for study in studies)
cycles = [judged(*study.of("one-cycle 0.01")) for study in studies]
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
same = cycles[0] == cycles[1]
ends = "as trained and refreshed" if same else f"as trained, and **{cycles[1]}** refreshed"
lengths = [row[0] / len(data.train) for found in trained.accuracies.values() for row in found]
say(
    f"- **{claim}.** For a constant rate of 0.001, the factor is {longer(before)} as trained and "
    f"{longer(after)} refreshed.\n"
    f"- **One-cycle or {usual}?** With the same peak, one-cycle is **{cycles[0]}**, {ends}.\n"
    f"{alone}\n"
    f"Recorded on {trained.hardware}, with {trained.seeds} seeds, a target accuracy of "
    f"{trained.target}, and runs of {min(lengths):.1f} to {max(lengths):.1f} epochs."
)

# %% [markdown]
# An image takes equally long with every schedule, and the refresh is not counted. So a ratio of
# images is a ratio of times. If a schedule has not reached the target, the table gives the longest
# run that we tried, and the lower end of the interval.

# %% tags=["fold"]
from fasttricks.study.findings import NARROW, covered, trusted

told = []
for study in studies:
    held = covered(study.study).get("holds", {})
    narrow = [row for row in study.rows if row.arrives and held.get(row.arm, 1) < NARROW]
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
        "<details><summary>How far can you trust the intervals?</summary>\n\n"
        + "\n\n".join(told)
        + "\n\n</details>"
    )

# %% [markdown]
# The rest of this page shows why, with *short runs* that your machine makes as you read. They
# compare accuracies after equally many images, with n seeds each. By the rule of
# [chapter 0](00_baseline.ipynb), a difference is *clear* if all n seeds agree on its sign, and its
# mean is at least 1/√n percentage points.
#
# ## What does the rate do?
#
# A *recipe* is our baseline, a constant rate of 0.001, plus the *tricks* that we add to it. Our
# trick `OneCycle` takes the peak as a multiple of the constant rate. A shorter rise and a constant
# momentum turn it into warm-up and cosine.


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
# A recipe knows the rate and the momentum of every step in advance. Here they are for a run of 200
# steps.

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
# The two schedules that fall are alike after their peak. One-cycle rises for longer, and its
# momentum is lowest where its rate is highest. The others keep a momentum of 0.9.
#
# ## Write it
#
# How can we get such a curve? Each part, rise and fall, is half a cosine wave between two values,
# as in fast.ai's version and torch's.


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
# of its first value. Here is what a run of 12 steps multiplies the constant rate by, for a peak of
# 10:

# %%
[round(one_cycle(step, 12, 0.4, 10.0, 0.4 / 1e4, 0.25), 2) for step in range(12)]

# %% [markdown]
# The same function moves the momentum from 0.95 down to 0.85 and back.
#
# **Why the opposite direction?** SGD with momentum m adds m times the previous step to the current
# one. If the gradient is always 1, a step grows to 1 + m + m² + … = 1 / (1 - m) times the learning
# rate. So lr / (1 - m) is the *effective step*. With a lower momentum, it grows less than the rate.
# AdamW averages gradients instead of adding them, so this argument does not apply to it. We change
# its beta1 because torch's `OneCycleLR` does so by default.
#
# **Where does the name come from?** In the first version, the rate rises and falls again and again
# in *triangles* (Smith 2015). We do not train with them, but exercise 2 asks for one. Here is their
# height, from 0 to 1, with four steps up and four steps down.


# %% tags=["fold"]
def height(step, half):
    _, position = divmod(step / half, 2)
    return 1 - abs(position - 1)


[height(step, 4) for step in range(10)]

# %% [markdown]
# So both kinds of cycle are short formulas that need only the number of the step.
#
# ## Check it
#
# Our functions must match the package's, and its recipes must match torch's schedules at every
# step.

# %% tags=["nbval-check-output", "fold"]
from fasttricks.tricks import cyclic

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
# The lines at the top are one-cycle. For the warm-up and cosine of our studies, use this schedule:
#
# ```python
# schedule = OneCycleLR(optimizer, 10 * LR, steps, pct_start=0.05, cycle_momentum=False)
# ```
#
# - **The peak** is a learning rate, not a factor. `OneCycleLR` overwrites the optimiser's own rate.
#   Ten times 0.001, a usual rate of AdamW, is only a first guess. If your constant rate is tuned
#   already, begin with 3 times: our best constant rate was 0.003, and our best peak 0.01.
# - **The steps** are those of the whole run. torch raises an error if you go on for longer.
#   `pct_start * steps` should be above 1.
# - **The rise.** torch's default for `pct_start` is 0.3. We take fast.ai's 0.25, as in our studies.
# - **The momentum.** By default, `OneCycleLR` also overwrites AdamW's beta1 and SGD's momentum, even
#   one of 0. With `cycle_momentum=False`, it leaves them alone.
# - **The refresh.** `update_bn` uses the first entry of each batch, moved to `device`. Take
#   shuffled training batches: 16 of 128 images are about 2,000. A network without batch norm needs
#   no refresh.
# - **To resume** a run, first create the optimiser and the schedule, and then load the states of
#   both. If you create the schedule last, it sets rate and beta1 back to their first values.
#
# <details><summary>One-cycle in a complete script</summary>
#
# [`examples/cyclic.py`](../examples/cyclic.py) adds the lines marked `+` to a plain script. Do not
# copy its settings: they were tuned for all seven tricks of the course together, and for very short
# runs.
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
# In evaluation, batch norm uses stored averages of each channel's mean and variance. A training
# step moves them only a tenth of the way to the values of its batch (chapter 2). While the weights
# change fast, the averages lag behind, and the score suffers. A refresh brings them up to date. If
# it removes a difference, the difference was in the averages. If not, it is in the weights.

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
# We train with three schedules, on half of the budget's images. `watch` is an ordinary loop:
# `set_rates` writes the rate and the momentum into the optimiser. After each quarter of the steps,
# it scores the network as trained, and a refreshed copy of it.

# %%
images = budget.images // 2
steps = images // BASELINE.batch
marks = [steps * quarter // 4 for quarter in (1, 2, 3, 4)]


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
watched = {
    "constant 0.001": BASELINE,
    "constant 0.01": replace(BASELINE, lr=0.01),
    "one-cycle 0.01": one_cycle_to(0.01),
}
seeds = range(budget.seeds)
paths = {
    name: torch.tensor([watch(recipe, seed) for seed in seeds]) for name, recipe in watched.items()
}
stale = {name: path[:, -1, 0].tolist() for name, path in paths.items()}
fresh = {name: path[:, -1, 1].tolist() for name, path in paths.items()}

# %% [markdown]
# The gap between the two lines is the lag of the averages. It can be wide early in any run, because
# the averages start at a mean of 0 and a variance of 1.

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
lead, lead_fresh = (gained(f["one-cycle 0.01"], f["constant 0.01"]) for f in (stale, fresh))
lag = mean(fresh["constant 0.01"]) - mean(stale["constant 0.01"])
meaning = ""
if "higher" in gained(fresh["constant 0.01"], stale["constant 0.01"]):
    meaning = " **So a network trained at a high constant rate is better than its score.**"
if "higher" in lead and "higher" not in lead_fresh:
    meaning += " Most of what one-cycle seems to gain here may be batch norm catching up."
elif "higher" in lead and lag > 0.01:
    meaning += " A part of what one-cycle seems to gain here is batch norm catching up."
say(
    f"These runs have {steps} steps of {BASELINE.batch} images ({images / len(data.train):.2f} "
    f"epochs). At the end, a refresh moves the mean accuracy of constant 0.01 from "
    f"{ends['constant 0.01']}, and that of constant 0.001 from {ends['constant 0.001']}. With "
    f"one-cycle, whose rate is practically zero by then, it moves it from "
    f"{ends['one-cycle 0.01']}.{meaning}"
)

# %% [markdown]
# ## Which part does the work?
#
# One-cycle 0.01 differs from constant 0.001 in three things: the rate is higher, it falls, and it
# rises first while the momentum moves. *Constant 0.01* has only the higher rate. *Cosine 0.01* also
# falls, but hardly rises: for a millionth of the run. Since 0.01 may suit one schedule better than
# another, we try several rates.

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
# Each row of the table compares a first schedule with a second one. ("Best" is the rate with the
# highest mean.) The last columns say what the studies find: the first schedule is faster or slower
# if the two intervals do not overlap. In the rows on the fall, the studies' cosine has a warm-up of
# 5%; in the rows on the rise, it has none.

# %% tags=["fold"]
KEYS = {name: arm for arm, name in NAMED.items()}


def best(shown, found):
    names = [name for name in found if name.startswith(shown)]
    return max(names, key=lambda name: mean(found[name]))


def beside(study, one, other):
    rows = study.of(KEYS.get(one, one), KEYS.get(other, other))
    if len(rows) < 2:
        return "not measured"
    own, known = (row.ratio for row in rows)
    if own.low > known.high:
        return "faster"
    return "slower" if own.high < known.low else "no clear difference"


def best_constant(study):
    return max(study.of(*flat), key=lambda row: row.ratio.value).arm


# %% tags=["fold"]
FALL, RISE = "fall: cosine beside constant", "rise and momentum: one-cycle beside cosine"
asked = {
    "higher rate: constant 0.01 beside constant 0.001": ("constant 0.01", "constant 0.001"),
    f"{FALL}, 0.003": ("cosine 0.003", "constant 0.003"),
    f"{FALL}, 0.01": ("cosine 0.01", "constant 0.01"),
    f"{FALL}, best of each": None,
    f"{RISE}, 0.01": ("one-cycle 0.01", "cosine 0.01"),
    f"{RISE}, 0.03": ("one-cycle 0.03", "cosine 0.03"),
}
cells = {question: {} for question in asked}
for question, pair in asked.items():
    for how, found, study in (("as trained", stale, trained), ("refreshed", fresh, renewed)):
        one, other = pair or (best("cosine", found), best("constant", found))
        cells[question][f"short runs, {how}"] = gained(found[one], found[other])
        one, other = pair or (usual, best_constant(study))
        one = usual if one == "cosine 0.01" else one  # the study's fall has a warm-up
        cells[question][f"study, {how}"] = beside(study, one, other)
columns = ["short runs, as trained", "short runs, refreshed", "study, as trained"]
pd.DataFrame(cells).T[[*columns, "study, refreshed"]]

# %% tags=["fold"]
now = {question: found["short runs, refreshed"] for question, found in cells.items()}
own, same = now[f"{FALL}, best of each"], now[f"{FALL}, 0.01"]
if "no clear" in own:
    told = "In the short runs, the best cosine shows no clear gain over the best constant rate, "
    told += "once both are refreshed."
else:
    word = "better" if "higher" in own else "worse"
    told = f"In the short runs, the best cosine leaves {word} weights than the best constant rate."
if "higher" in same and "higher" not in own:
    told += " From 0.01, a rate that is too high to be kept until the end, a cosine clearly helps."
if slower[1]:
    told += " In the study, each constant rate is clearly slower, even refreshed. **So the fall "
    told += "pays.**" if "higher" in own else "pays, but only longer runs show it.**"
else:
    told += " In the study, and refreshed, not all constant rates are clearly slower."
helped = [peak for peak in ("0.01", "0.03") if "higher" in now[f"{RISE}, {peak}"]]
told += "\n\nThe rise and the momentum, in the short runs and refreshed: "
told += f"a clear gain at a peak of {' and '.join(helped)}." if helped else "no clear gain."
if helped == ["0.03"] and mean(fresh["one-cycle 0.03"]) < mean(fresh["cosine 0.01"]):
    told += " There, they make up for a peak that is too high."
say(told)

# %% [markdown]
# The study as trained has further schedules:

# %% tags=["fold"]
others = [row for row in trained.rows if row.arm not in both]
pd.DataFrame(
    {
        "images, as trained": [needed(row) for row in others],
        f"times as long as {usual}": [longer(row) for row in others],
    },
    index=[row.arm for row in others],
)

# %% tags=["fold"]
steep = [judged(row) for row in others if row.arm.endswith("0.03")]
most = "Each" if set(steep) == {"clearly slower"} else "Not each"
told = [f"{most} schedule with a peak of 0.03 is clearly slower than {usual}."]
bare = beside(trained, "cosine 0.03", "warm-up and cosine 0.03")
if bare == "slower":
    told.append("At this peak, leaving out the warm-up costs even more.")
moving = beside(trained, "one-cycle 0.01", "one-cycle 0.01 with constant momentum")
told.append(f"One-cycle 0.01 with moving or with constant momentum: {moving}.")
say(" ".join(told))

# %% [markdown]
# Why can short and long runs differ? A short run leaves the weights little time to settle. And near
# the target, accuracy grows slowly, so one point can be worth many images. We chose the best rates
# on the images that judge them, so their scores are a little too high.
#
# ## How high can the peak be?
#
# The **range test** (Smith 2015) gives a first guess in one short run: raise the rate from step to
# step, and see where the loss begins to climb. Here it is in plain PyTorch. Give it a new network,
# because it ruins the weights.


# %%
def range_test(net, optimizer, batches, low=1e-5, high=1.0, steps=150):
    rates, losses, average = [], [], None
    for step in range(steps):
        rate = low * (high / low) ** (step / (steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = next(batches)  # in your script, batches = iter(loader)
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
# The loss *begins to climb* at the last rate at which it is less than a tenth above its lowest
# value.

# %%
torch.manual_seed(0)
net = begin(BASELINE, budget.model, *shape).to(device)
draws = here.draws(BASELINE.batch, torch.Generator().manual_seed(0))
batches = (here.batch(*drawn) for drawn in draws)
rates, losses = range_test(net, optimizer_for(BASELINE, net), batches)
climbs = max(rate for rate, loss in zip(rates, losses, strict=True) if loss < 1.1 * min(losses))

# %% [markdown]
# **Break it.** Is every peak below that rate safe? We train one-cycle with peaks of 0.1, 0.3 and 1,
# with the same seeds and equally many images as before. `sweep` holds the refreshed accuracies by
# peak. If the loss becomes NaN, we count the network as one that guesses.

# %%
chance = 1 / len(data.classes)


def attempt(peak, seed):
    try:
        run = train(one_cycle_to(peak), data, images=images, seed=seed, evaluations=1)
    except FloatingPointError:
        return chance
    return refreshed(run.net)


sweep = {peak: fresh[f"one-cycle {peak}"] for peak in (0.01, 0.03)}
with one_line() as tell:
    sweep |= {peak: [attempt(peak, seed) for seed in seeds] for peak in (0.1, 0.3, 1.0)}
    tell(f"{3 * len(seeds)} runs, three peaks")

# %% [markdown]
# The upper panel shows the range test, the lower one the accuracy of one-cycle with its peak at
# that rate. (A mark on the lower edge stands for an accuracy below it.)

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
harm = {peak: gained(sweep[peak], sweep[0.01], chance) for peak in list(sweep)[1:]}
harmful = [peak for peak in harm if "lower" in harm[peak]]
where = "begins to climb at" if climbs < rates[-1] else "does not climb before the test ends at"
told = [f"The loss {where} **{climbs:.2g}**. A thirtieth of this is {climbs / 30:.2g}."]
if harmful:
    told.append(f"The lowest peak that does clear harm is {harmful[0]:g}.")
else:
    told.append("Compared with a peak of 0.01, no peak here does clear harm.")
for peak in [peak for peak in harm if peak < climbs][-1:]:
    told.append(
        f"A peak of {peak:g} is still below {climbs:.2g}. Compared with 0.01: {harm[peak]}."
    )
    if "lower" in harm[peak]:
        told.append("**So the rate at which the loss climbs is no safe peak for one-cycle.**")
say(" ".join(told))

# %% [markdown]
# The test spends only a few steps near each rate, and averaging delays the curve. So take a
# thirtieth of that rate as a first guess, and compare it with a tenth and a hundredth. This rule
# of thumb comes from one network, one seed, and this length and averaging.
#
# ## What if a run is stopped early?
#
# One-cycle must know its length in advance. Halfway, its rate is still at three quarters of the
# peak, so the averages lag, and most of the fall is missing. We compare such a run with a one-cycle
# that was *planned* for half the steps, and with constant rates at that step.

# %%
runs = train_arms({"planned": one_cycle_to(0.01)}, data, images=images // 2, evaluations=1)
planned = runs["planned"]
others = {
    "a one-cycle planned for half the steps": [
        [run.val_accuracy for run in planned],
        [refreshed(run.net) for run in planned],
    ]
}
halfway = {name: path[:, 1].T.tolist() for name, path in paths.items()}  # as trained, refreshed
others |= {name: halfway[name] for name in ("constant 0.001", "constant 0.01")}
cut = {
    f"compared with {name}": [
        gained(own, other) for own, other in zip(halfway["one-cycle 0.01"], found, strict=True)
    ]
    for name, found in others.items()
}
pd.DataFrame(cut, index=["stopped one-cycle, as trained", "refreshed"]).T

# %% tags=["fold"]
at_once, later = ("lower" in told for told in next(iter(cut.values())))
answer = {
    (True, False): "Yes, as trained. After a refresh, we see no clear loss compared with a planned "
    "run",
    (True, True): "Yes. It loses against a planned run, as trained and refreshed",
    (False, True): "Yes, against a planned run, but only a refresh shows it clearly",
    (False, False): "We see no clear loss against a planned run, as trained or refreshed",
}[at_once, later]
lag = gained(*reversed(halfway["one-cycle 0.01"]))
say(
    f"Is stopping halfway a failure? **{answer}.** The stopped network after a refresh, compared "
    f"with its own score before: {lag}."
)

# %% [markdown]
# ## What should you do?
#
# 1. **Choose a schedule that falls**: one-cycle, or a warm-up and a cosine.
# 2. **Choose its peak**: begin with 10 times an untuned constant rate, or 3 times a tuned one. If you
#    have none, take a thirtieth of the rate at which the loss of a range test begins to climb. Then
#    try peaks around it.
# 3. **Refresh batch norm** if you validate or save while the rate is high. After a complete cycle, it
#    changed next to nothing here.
# 4. **If you do not know the length of the run**, keep a constant rate, the best of three or four,
#    and refresh whenever you validate. Let the rate fall once you decide to stop (Hägele et al.
#    2024).
# 5. **If a one-cycle run is cut short**, refresh its network as well.
#
# The two studies start from random weights. With pretrained ones, one-cycle pays as well (below).
#
# ## In the course's seven-trick study
#
# The course's main study adds one-cycle to a constant rate, alone and together with the other six
# tricks. It judges networks as trained, and the constant rate was not tuned again for the other
# six, so it may flatter one-cycle. Its peak of 0.03 was tuned for all seven tricks together.
# (*Plain training* is constant 0.001.)

# %%
from fasttricks.course import headline

say(headline("cyclic"))

# %% [markdown]
# Here is the trick's *card*, from the top of its file. (Chapter 7 explains *skipped steps*.)

# %% tags=["fold"]
from IPython.display import Markdown

Markdown(cyclic.__doc__)

# %% [markdown]
# So the gain here is over a constant rate only. For a schedule that falls, see the first table.
#
# ## Questions
#
# **1. Why can a falling rate raise the accuracy within a few steps?**
#
# <details><summary>Answer</summary>There are two reasons. When the weights slow down, batch norm's
# averages catch up with them. And small steps let the weights settle. A refresh does only the
# first, so a gain that remains after it is in the weights.</details>
#
# **2. What does the range test not tell you?**
#
# <details><summary>Answer</summary>Which peak is best, or even safe, in a whole run. It spends only
# a few steps near each rate, early in training.</details>
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
# with the rate at three quarters of its peak. A refresh repairs the averages, but the rest of the
# fall is missing. Save `schedule.state_dict()` as well. To resume, create optimiser and schedule
# first, and then load both states.</details>
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
# **Exercise 2.** Write a triangle that takes `up` steps to rise and `down` steps to fall, over and
# over.


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
# `factor` times the lowest loss *before it*, or the number of losses if there is no such step.


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
# - Smith & Topin 2017, [arXiv 1708.07120](https://arxiv.org/abs/1708.07120): one-cycle, and
#   super-convergence, which our short runs cannot test.
# - Smith 2018, [arXiv 1803.09820](https://arxiv.org/abs/1803.09820): how to choose rate, batch,
#   momentum and weight decay together.
# - Hägele et al. 2024, [arXiv 2405.18392](https://arxiv.org/abs/2405.18392): a constant rate that
#   falls at the end, for runs whose length is not known in advance.
