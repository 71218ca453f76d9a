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
# # 8. All seven together
#
# Each chapter added one trick to plain training. Here we add all seven and ask one question: *how
# much faster does the same network reach the same validation accuracy?* The networks are small
# ResNets that sort Fashion-MNIST, small grey pictures of ten kinds of clothes.
#
# **In short:** all seven make training several times as fast. On our two CPU cores, two tricks do
# practically all of it: a one-cycle schedule, and weights from another task (here, reading
# letters). The other five together add little or nothing there, because some save time and others
# cost it. On our GPU, 16-bit precision clearly paid, too. **Our main study flatters the tricks**,
# because it scores plain training too low. The numbers stand below the imports.
#
# In your own loop, begin with these lines. (We have not measured their weights from photographs.)
#
# ```python
# import timm, torch
# import torch.nn.functional as F
#
# net = timm.create_model("resnet18", pretrained=True, num_classes=classes).to("cuda")  # chapter 6
# optimizer = torch.optim.AdamW(net.parameters(), lr=peak, weight_decay=0.05)
# cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.15)  # chapter 3
# bf16 = torch.cuda.is_bf16_supported(including_emulation=False)  # chapter 7; false on a T4
# net.train()
# for x, y in batches:  # exactly `steps` of them, on the GPU
#     with torch.autocast("cuda", torch.bfloat16, enabled=bf16):  # 16 bits
#         outputs = net(x)
#     F.cross_entropy(outputs.float(), y).backward()
#     optimizer.step()
#     optimizer.zero_grad()
#     cycle.step()
# ```
#
# Scale `x` as the weights expect it: see `timm.data.resolve_model_data_config(net)`. Chapter 3
# shows how to find `peak`. Search it with the given weights, because a high peak may destroy them.
#
# - **Use it when** you know the length of a run beforehand and can get weights from a related task.
# - **Leave it when** you would have to train these weights for a few runs only, or when a few
#   tenths of a point of accuracy matter more than time.
# - **It does not** shorten the start of a run, and it does not promise the same accuracy on *test*
#   images.
#
# <a href="#take">A table further down</a> says which tricks to take on which machine. *Plain*
# training is AdamW at a constant learning rate, tuned with as many tries as the full recipe. We
# read two clocks. The **train clock** runs only while the network trains. **Total time** is that of
# the whole process, with imports, loading the data and the weights, and every evaluation.
#
# About 25 minutes to read, and four to run on two CPU cores.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/08_capstone.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/08_capstone.ipynb).
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
# (*Images a run* is for other chapters. This one sets its own numbers.) Here is what our recorded
# *studies* found. The next section says how.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from fasttricks import BASELINE, SEVEN, choose_budget, load, train
from fasttricks.course import published, say
from fasttricks.pretrain import make_letters

budget, data = choose_budget(), load()
studies = [
    study
    for study in published()
    if len(study.of(study.reference, "whole", "whole - cyclic")) == 3  # those of all seven
]
studies.sort(key=lambda study: "NVIDIA" in study.hardware)

# %% tags=["fold"]
from fasttricks.course import beside_refreshed

LAG = (
    "This flatters the tricks. At a constant learning rate, the averages that batch norm stores "
    "lag behind the network, so plain training is scored too low. (Chapter 3 shows this.) The "
    "study that repairs it is not recorded yet."
)
shown = [study for study in studies if study.steps]  # the main study
for study in shown:
    (fast,) = study.of("whole")
    say(
        f"In our main study, on {study.hardware}, training with all seven tricks is "
        f"**{fast.ratio.value:.1f} times as fast** as plain training. {beside_refreshed() or LAG}"
    )

# %% [markdown]
# Seconds are those of the train clock until the target, a validation accuracy. In brackets: 95%
# intervals. The section on accuracy explains *corrected*.

# %% tags=["fold"]
from fasttricks.study.pages import paired


def bounded(ratio):
    return f"**{ratio.value:.1f}** ({ratio.low:.1f} to {ratio.high:.1f})"


def on_test(study):  # by how much all seven are above plain, on the test images
    if "whole" not in study.tested or "plain" not in study.tested:
        return "not measured"
    pairs = zip(study.tested["whole"], study.tested["plain"], strict=True)
    points, low, high = paired(list(pairs))
    word = "clearly higher" if low > 0 else "clearly lower" if high < 0 else "no clear difference"
    return f"{points:+.2f} points ({low:+.2f} to {high:+.2f}), {word}"


def moved(study, arm):  # seconds to the target on the curve that passes through the last runs
    (row,) = study.of(arm)
    target, took = np.transpose(study.targets[arm])[:2]
    return np.interp(2 * study.target - row.accuracy, target, took, left=np.nan, right=np.nan)


# %% tags=["fold"]
import math

from fasttricks.budget import BUDGETS
from fasttricks.study.findings import NARROW, covered

labels = {"cpu": "CPU", "refreshed": "CPU, refreshed", "gpu": "GPU"}
labels = {study.study: labels.get(study.study, study.study) for study in studies}
factors, narrow = {}, []
heads = ["study", "target", "plain", "all seven", "times as fast", "corrected", "in total time"]
lines = [f"| {' | '.join(heads)} | all seven minus plain, test images |", "| --- " * 8 + "|"]
for study in studies:
    slow, fast = study.of(study.reference, "whole")
    size, total = BUDGETS.get(study.study), fast.wall_ratio.value
    where = f"{study.hardware}, {study.about}".removesuffix(", ")
    where += f"; {size.model}, {size.image_size}x{size.image_size} pixels" if size else ""
    factors[study.study] = corrected = moved(study, study.reference) / moved(study, "whole")
    held = covered(study.study).get("holds", {}).get("whole", 1.0)
    if held < NARROW:
        narrow += [rf"\* Too narrow: it held the truth in {held:.0%} of simulated studies."]
    cells = [f"**{labels[study.study]}**: {where}", str(study.target), f"{slow.train:.3g} s"]
    cells += [f"{fast.train:.2g} s", bounded(fast.ratio) + r" \*" * (held < NARROW)]
    cells += [f"{corrected:.1f}" if math.isfinite(corrected) else "-"]
    cells += [f"{total:.1f}" if total > 0 else "-", on_test(study)]
    lines += [f"| {' | '.join(cells)} |"]
say("\n".join([*lines, *(line for note in narrow for line in ("", note))]))

# %% [markdown]
# The GPU's study was not repeated with batch norm refreshed, so its factor may be too high for the
# same reason.

# %% tags=["fold"]
import re

for study in shown:
    two, seven = study.of("plain + cyclic + transfer", "whole")
    share = math.log(two.ratio.value) / math.log(seven.ratio.value)
    part = "practically all" if share > 0.95 else "most" if share > 0.5 else "a part"
    say(
        f"- **The cycle and the transferred weights are {part} of it.** In the main study, these "
        f"two alone are {bounded(two.ratio)} times as fast. The other five multiply this by "
        f"{seven.ratio.value / two.ratio.value:.2f}."
    )

size = BUDGETS["cpu"]
made = make_letters(size.model, size.image_size)  # these weights come with the course
spent = float(re.search(r"in ([\d,]+) s", made)[1].replace(",", ""))
maker = made.split(" on ")[1].replace("1 threads", "one thread")
price = f"- **The price:** making the transferred weights took {spent:,.0f} s ({maker}), once."
for study in shown:
    bare, fast = study.of("whole - transfer", "whole")
    saved = bare.train - fast.train
    if saved > 0:
        price += f" With the other six, they save {saved:.1f} s per run. So they pay for themselves"
        price += f" after about **{float(f'{spent / saved:.2g}'):,.0f} runs**."
say(f"{price} Neither clock counts it.")

# %% [markdown]
# ## How does a study find the time?
#
# A *study* is a large set of recorded runs. It trains each recipe in runs of several lengths, with
# five or ten seeds for each. It draws a curve through the mean accuracies and reads off how many
# images it takes to reach the *target*. The time is this number times the measured seconds per
# image. At the end, recipes are trained once more with the number of images that was found. These
# *last runs* check the curve, which has not seen them. [RESULTS](../RESULTS.md) has the details.
#
# ## All seven as a sum
#
# A *recipe* says how to train. `BASELINE` is plain training, and each trick changes one or two
# places of the training loop. So the recipe with all seven tricks is a sum. Here are its settings:

# %%
from fasttricks.course import holds

whole = sum(SEVEN, start=BASELINE)
for trick in whole.tricks:
    print(trick)

# %% [markdown]
# `processes=0` means one process per device. `peak=30.0` is a factor for the baseline's learning
# rate. You can add the tricks in any order (question 1 asks why). `holds` prints a claim if it is
# true, and stops the notebook if it is not.

# %% tags=["fold", "nbval-check-output"]
from itertools import permutations

x, q = data.batch(*next(data.draws(160, torch.Generator().manual_seed(0))))  # images and targets
mixup, smoothing = whole.fills("batch_maps")  # the tricks that change a batch
mixed_first = smoothing.batch_map(*mixup.batch_map(x, q, np.random.default_rng(0)), None)[1]
mixed_last = mixup.batch_map(*smoothing.batch_map(x, q, None), np.random.default_rng(0))[1]
same = torch.allclose(mixed_first, mixed_last, atol=1e-6)
orders = {sum(order, start=BASELINE) for order in permutations(SEVEN)}
holds(same and orders == {whole}, "the order of the tricks does not matter")

# %% [markdown]
# ## Which tricks make it fast?
#
# The main study went from plain training to all seven, step by step. A black bar is the time to the
# target, and the hatched part is what the step saves. A step whose factor is below 1 costs time.

# %% tags=["fold"]
from itertools import pairwise

from fasttricks.study.pages import steps_of, waterfall

for study in shown:
    counts = " or ".join(sorted({str(row.seeds) for row in study.of(*study.steps)}, key=int))
    waterfall(study, f"{study.hardware}, validation accuracy {study.target}, {counts} seeds")
plt.show()


# %% tags=["fold"]
def listed(steps):
    named = [f"*{name.removesuffix(' (whole)')}* ({factor:.2f})" for name, factor in steps]
    return ", ".join(named) or "none"


for study in shown:
    took = [study.to_target(arm) for arm in study.steps]
    by_step = [before / after for before, after in pairwise(took)]
    steps = sorted(zip(steps_of(study.steps)[1:], by_step, strict=True), key=lambda one: -one[1])
    best = min(study.steps, key=study.to_target)
    (top,) = study.of(best)
    told = (
        f"The two largest steps are {listed(steps[:2]).replace(', ', ' and ')}. Of the others, "
        f"these save time: {listed([one for one in steps[2:] if one[1] > 1])}. These cost time: "
        f"{listed([one for one in steps[2:] if one[1] <= 1])}."
    )
    if best != "whole" and top.against == "plain":
        told += (
            f" So the fastest recipe on the way is not the last one. It has "
            f"{', '.join(best.split(' + ')[1:])}, and is {bounded(top.ratio)} times as fast as "
            f"plain training. We picked it afterwards, so its factor is probably too high."
        )
    say(told)

# %% [markdown]
# In another order, the steps would have other sizes, and a small step may be chance. So the studies
# also ask how many times as fast training is with each trick, added to plain training, and added to
# the other six. (The GPU's study asked only the second question.) A trick *pays* or *costs time*
# only if the 95% interval, in brackets, excludes 1. An asterisk marks verdicts that do not survive
# a correction for asking many questions at once (Holm 1979).
#
# Batch norm's lag matters mainly at a constant rate. So where batch norm was not refreshed, be
# careful with what is added to plain training, and with the line on *cyclic*.

# %% tags=["fold"]
PAYS = {"faster": "pays", "slower": "costs time", "cannot tell": "cannot tell"}
JOINED = {"slower": "pays", "faster": "costs time", "cannot tell": "cannot tell"}  # by the six's


def cell(study, change, name):
    found = study.of(f"{change} {name}")
    if not found:
        return "not measured"
    (row,) = found
    if not row.arrives:
        return f"target not reached after {row.most:,} images"
    ratio, words = (row.ratio, PAYS) if change == "plain +" else (row.ratio.inverse, JOINED)
    told = f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), {words[row.verdict]}"
    return told + r" \*" * row.wavers


ADDED = {"plain +": "added to plain", "whole -": "added to the other six"}
asked = [(study, change) for study in studies for change in ADDED if study.of(f"{change} cyclic")]
heads = [f"{labels[study.study]}: {ADDED[change]}" for study, change in asked]
lines = [f"| trick | {' | '.join(heads)} |", "| --- " * (1 + len(heads)) + "|"]
for name in whole.names:
    lines += [f"| {name} | {' | '.join(cell(*place, name) for place in asked)} |"]
say("\n".join(lines))

# %% tags=["fold"]
pay, cost = [], []
for name in whole.names:
    without = [row for study in studies for row in study.of(f"whole - {name}")]
    if without and all(row.verdict == "slower" for row in without):
        pay += [name + r"\*" * any(row.wavers for row in without)]
    harmed = [row for row in without if row.verdict == "faster"]
    if harmed:
        cost += [name + r"\*" * all(row.wavers for row in harmed)]
say(
    f"Added to the other six, these pay wherever we measured them: **{', '.join(pay) or 'none'}**. "
    f"These cost time at least once: **{', '.join(cost) or 'none'}**."
)

# %% tags=["fold"]
both = [study for study, change in asked if change == "plain +"]
for study in both:
    surely, maybe = [], []
    for name in ("cyclic", "transfer"):
        pair = study.of(f"plain + {name}", f"whole - {name}")
        if len(pair) == 2 and all(row.arrives for row in pair):
            alone, joined = pair[0].ratio, pair[1].ratio.inverse
            surely += [name] * (joined.low > alone.high)
            maybe += [name] * (joined.value > alone.value and joined.low <= alone.high)
    say(
        f"{labels[study.study]}: clearly worth more with the others than alone: "
        f"{', '.join(surely) or 'none'}. Perhaps, because the intervals overlap: "
        f"{', '.join(maybe) or 'none'}."
    )

# %% [markdown]
# We have not tested why. Question 2 has a guess.

# %% tags=["fold"]
alpha = whole.fills("batch_maps")[0].alpha
for study in shown:
    (fast,) = study.of("whole")
    passes = fast.images.value / len(data.train)
    say(
        f"The verdicts hold for short runs and these settings. In the main study, all seven see "
        f"{passes:.2f} epochs"
        + (", so most training images are never seen" if passes < 0.6 else "")
        + f". Mixup is meant for images that are seen often. Its alpha is {alpha:g}"
        + (", which blends very little" if alpha < 0.1 else "")
        + f", and scaling raises the batch only from {BASELINE.batch} to {whole.global_batch}."
    )

# %% [markdown]
# Two objections come to mind: *everybody uses a schedule anyway*, and *I have no suitable
# weights*. We divide the times that the studies found:

# %% tags=["fold"]
for study in both:
    ways = (study.reference, "plain + cyclic", "whole", "whole - transfer")
    if len(study.of(*ways)) == 4 and all(row.arrives for row in study.of(*ways)):
        plain_way, cycle_way, whole_way, bare_way = map(study.to_target, ways)
        say(
            f"- {labels[study.study]}: all seven are **{cycle_way / whole_way:.1f} times as "
            f"fast** as plain training with one cycle. Without the transferred weights, the other "
            f"six are **{plain_way / bare_way:.1f} times as fast** as plain training."
        )

# %% [markdown]
# [RESULTS](../RESULTS.md) also shows what the recipes of fastai, Lightning and timm reach on this
# task. So take the cycle and the weights first. Of the other five, 16-bit precision is the safest
# choice where the device has native 16-bit arithmetic.
#
# ## Does it happen here?
#
# Now we run it ourselves: plain training, all seven, and the cycle and the weights alone. All seven
# use one process per GPU, or two on a CPU, where they only share the cores. So we also train with
# the other six in one process.

# %%
from fasttricks.recipe import name_of

pair = sum([trick for trick in SEVEN if name_of(trick) in ("cyclic", "transfer")], start=BASELINE)
recipes = {"plain": (BASELINE, budget.plain), "all seven": (whole, budget.whole)}
single = "all seven"
if whole.world.count() > 1:
    single = "six, one process"
    recipes[single] = (whole - "distributed", budget.whole)
recipes["cyclic + transfer"] = (pair, budget.whole)
cost = make_letters(budget.model, budget.image_size)  # on a GPU they are made now, once

# %% [markdown]
# A run with one cycle is at its best at the very end, so its length must be fixed beforehand. On a
# CPU, plain training and all seven see as many images as the main study found (without refreshed
# batch norm). On a GPU, the numbers are estimates. So how many times as many images plain training
# sees is fixed *by design*. The runs show whether each recipe reaches the target, and the seconds
# per image. Our target is a little lower than the study's, so that three runs do not miss it by bad
# luck. For it, every recipe could be shorter, so the study measures the factor better.

# %% tags=["fold"]
epochs = [images / len(data.train) for images in (budget.plain, budget.whole)]
say(
    f"The network is {budget.model}, and the target is a validation accuracy of {budget.target}. "
    f"Plain training sees {budget.plain:,} images ({epochs[0]:.2f} epochs), and all seven see "
    f"{budget.whole:,} ({epochs[1]:.2f} epochs). Runs per recipe: {budget.seeds}."
)

# %% [markdown]
# The recipes take turns, and every run starts in a new process (`fresh=True`).

# %%
from fasttricks.course import one_line

arms = {name: [] for name in recipes}
with one_line() as tell:
    for seed in range(budget.seeds):
        for name, (recipe, images) in recipes.items():
            label = f"{name}, seed {seed}"
            arms[name] += [train(recipe, data, images=images, seed=seed, fresh=True, label=label)]
    tell(f"{sum(map(len, arms.values()))} runs, {len(arms)} recipes in turns")
ends = {name: [run.val_accuracy for run in runs] for name, runs in arms.items()}

# %% [markdown]
# Seconds are medians of whole runs, or *never* if the mean accuracy misses the target. A *speed-up*
# says how many times as fast a recipe is as *plain*. The interval comes from drawing the seeds
# again and again (the bootstrap). With three seeds, it is hardly more than their range.

# %% tags=["result"]
from fasttricks.course import caption, table

print(caption(arms["plain"][0]))
print("not counted: the weights that transfer starts from,", cost)
table(arms).drop(index=["images a second", "lowest and highest"])

# %% [markdown]
# In the figure, each line is a run, each corner is an evaluation, and the mark is the end of the
# run. The table counts each run to its mark, even if the line crosses the target earlier.

# %% tags=["figure"]
from fasttricks.course import accuracy_against_time

accuracy_against_time(arms)
plt.show()

# %% tags=["fold"]
from fasttricks.course import gained, median
from fasttricks.study.statistics import speed_up


def times_as_fast(name, clock="train_seconds"):
    ratio = speed_up(arms[name], arms["plain"], clock)
    compared = 0 < ratio < float("inf")
    return f"{ratio:.1f} times as fast" if compared else "not comparable (target missed)"


ratio = speed_up(arms["all seven"], arms["plain"])
found = "Nothing can be said here" if not 0 < ratio < float("inf") else "It does not happen here"
found = "It **does happen here**" if 1 < ratio < float("inf") else found
say(
    f"{found}. On the train clock, compared with plain training, all seven are "
    f"**{times_as_fast('all seven')}**, and the cycle and the weights alone are "
    f"{times_as_fast('cyclic + transfer')}. In total time, all seven are "
    f"{times_as_fast('all seven', 'wall_seconds')}. By design, plain training sees "
    f"{budget.plain / budget.whole:.1f} times as many images. Validation accuracy, all seven "
    f"compared with plain training: {gained(ends['all seven'], ends['plain'])}."
)

# %% [markdown]
# A machine's speed drifts, so seconds may differ from the study's. Does dividing each batch among
# processes help?

# %% tags=["fold"]
from fasttricks.course import faster

recorded = [study for study in studies if study.study == budget.name]
clocks = {"on the train clock": "train_seconds", "in total time": "wall_seconds"}
taken = {
    clock: {name: [getattr(run, clock) for run in runs] for name, runs in arms.items()}
    for clock in clocks.values()
}
if single != "all seven":
    verdict = faster(taken["train_seconds"][single], taken["train_seconds"]["all seven"])
    told = [
        f"{median(some['all seven']) / median(some[single]):.2f} times as fast {where}"
        for where, some in zip(clocks, taken.values(), strict=True)
    ]
    costs = float(told[0].split()[0]) > 1
    balance = "costs more time than it saves" if costs else "saves more time than it costs"
    rows = [row for study in recorded for row in study.of("whole - distributed")]
    say(
        f"Compared with all seven, the six in one process are {' and '.join(told)}. So on the "
        f"train clock, dividing each batch among {whole.world.count()} "
        f"{'GPUs' if torch.cuda.is_available() else 'processes on one CPU'} "
        f"**{'makes no clear difference' if 'not clearly' in verdict else balance}** here."
        + "".join(f" In the study, the six are {bounded(r.ratio)} times as fast." for r in rows)
    )

# %% tags=["fold", "nbval-check-output"]
wanted = {name: images // recipe.global_batch for name, (recipe, images) in recipes.items()}
exact = all(run.steps == wanted[name] for name, runs in arms.items() for run in runs)
together = {run.processes for run in arms["all seven"]} == {whole.world.count()}
holds(exact and together, "every run took the expected steps in the expected processes")

# %% [markdown]
# ## Is it the same accuracy?
#
# All choices (rates, targets, numbers of images) were made on the validation images. So we also
# look at the 10,000 test images, which played no part in any choice.

# %% tags=["tested"]
from fasttricks.loop import accuracy

device = whole.world.device()
sized = data.to(device, budget.image_size)
tested = {
    name: [accuracy(run.net.to(device), sized, sized.test, run.recipe) for run in arms[name]]
    for name in ("plain", "all seven")
}
for name, scores in tested.items():
    print(f"{name}: test {np.mean(scores):.4f}, validation {np.mean(ends[name]):.4f}")

# %% [markdown]
# The table puts this beside the studies. Differences are all seven minus plain. In a study, the
# accuracies are those of the last runs.

# %% tags=["fold"]
judged = [study for study in studies if {"plain", "whole"} <= set(study.tested)]
beside = gained(tested["all seven"], tested["plain"])
lines = ["| | target | plain | all seven | difference, validation | difference, test |"]
lines += ["| --- " * 6 + "|"]
for study in studies:
    slow, fast = (row.accuracy for row in study.of(study.reference, "whole"))
    lines += [
        f"| study {labels[study.study]}, {study.of('whole')[0].checks} runs | {study.target} "
        f"| {slow:.4f} | {fast:.4f} | {100 * (fast - slow):+.2f} points | {on_test(study)} |"
    ]
means = [np.mean(ends[name]) for name in tested]
count = f"{budget.seeds} seed{'s' * (budget.seeds > 1)}"
lines += [
    f"| our runs, {count} | {budget.target} | {means[0]:.4f} | {means[1]:.4f} "
    f"| {gained(ends['all seven'], ends['plain'])} | {beside} |"
]
say("\n".join(lines))

# %% tags=["fold"]
for study in (study for study in recorded if study in judged):
    slow, fast = study.of("plain", "whole")
    lengths = {budget.plain: slow.images.value, budget.whole: fast.images.value}
    if any(abs(here / there - 1) > 0.01 for here, there in lengths.items()):
        continue  # other lengths are another question
    apart = 100 * np.subtract(study.tested["whole"], study.tested["plain"])
    misled = "points" in beside.split("(")[0] and "no clear" in on_test(study)
    say(
        f"In the study, the difference on the test images is "
        f"{apart[: budget.seeds].mean():+.2f} points with the first {count} alone, and "
        f"{apart.mean():+.2f} with all {len(apart)}."
        + (" So **our few seeds mislead**, although they agree. Trust the study." if misled else "")
    )

# %% [markdown]
# A recipe that ended above its target could have stopped earlier, and one that ended below it needs
# longer. So we move each curve up or down until it passes through the last runs, and read the times
# again. This gives the column *corrected* of the first table. But the last runs scatter, too, so we
# print both.

# %% tags=["fold"]
for study in judged:
    told = on_test(study).split(", ")[1]
    loss = -float(re.search(r"\((\S+) to", on_test(study))[1])
    end = f"a loss of up to {loss:.1f} points" if loss > 0 else "no loss"
    say(
        f"- **{labels[study.study]}**: on the test images, all seven compared with plain: "
        f"{told}. The interval allows {end}. The corrected factor is "
        f"{factors[study.study]:.1f} instead of {study.of('whole')[0].ratio.value:.1f}."
    )

# %% [markdown]
# So the accuracies are close, but not proven equal, and the corrected factors leave most of the
# speed.
#
# ## Where do the seconds go?
#
# Why is the factor so much smaller in total time? We break down the total time of two runs of seed
# 0, with one process each. *Start* is what is neither training nor evaluation. The stages of
# training are *batch* (preparing the images), the two passes, the optimiser's *step* and *the
# rest*. Their shares come from torch's profiler, in a short run.

# %% tags=["fold"]
from fasttricks.course import shares
from fasttricks.study.limits import stages

total = {}
for name in ("plain", single):
    run, (recipe, _) = arms[name][0], recipes[name]
    found = stages(recipe, data, budget.model, budget.image_size, budget.images // 5)
    start = run.wall_seconds - run.train_seconds - run.eval_seconds
    loop = {stage: share * run.train_seconds for stage, share in found.items()}
    total[name] = {"start": start, **loop, "evaluation": run.eval_seconds}
figure = shares(total, caption(run))
figure.axes[0].set_xlabel("share of the total time, %; the numbers are seconds")
plt.show()

# %% tags=["fold"]
sums = {name: sum(parts.values()) for name, parts in total.items()}
passes = total["plain"]["forward"] + total["plain"]["backward"]
left = total[single]["start"] + total[single]["evaluation"]
say(
    f"In *plain*, the forward and backward passes make up **{passes / sums['plain']:.0%}** of the "
    f"total time. In *{single}*, start and evaluation take {left:.1f} of {sums[single]:.1f} s, or "
    f"**{left / sums[single]:.0%}**. Even if training took no time, a run would only be "
    f"{sums['plain'] / left:.1f} times as fast as plain training in total."
)

# %% [markdown]
# The tricks shorten only the training (Amdahl's law). So the longer the training, the closer the
# two speed-ups.
#
# ## Leave one out, on your machine
#
# In a minute, you can ask what each trick adds on your own machine. We train with six tricks in one
# process, and then leave out each in turn. Every recipe sees half as many images as all seven
# above, because in longer runs the accuracies converge.

# %%
from fasttricks.course import train_arms

six = whole - "distributed"
recipes_without = {"six": six}
for name in six.names:
    recipes_without[name] = six - name  # the six without this trick
trained = train_arms(recipes_without, sized, images=budget.whole // 2, evaluations=1)

# %% [markdown]
# Each dot is one seed: by how many points the six are above the five without this trick. The bar is
# the mean, and the line is the bootstrap's interval for it.

# %% tags=["fold"]
from fasttricks.course import bars, gains

adds = {name: gains(trained["six"], trained[name]) for name in six.names}
seen = f"{trained['six'][0].images_seen:,} images, n = {budget.seeds}"
bars(adds, "points of accuracy that the trick adds", seen)
plt.show()

# %% tags=["fold"]
scores = {name: [run.val_accuracy for run in runs] for name, runs in trained.items()}
judged_here = {name: gained(scores["six"], scores[name]) for name in six.names}


def those(word):
    found = [name for name, told in judged_here.items() if word in told]
    return ", ".join(f"{name} ({np.mean(adds[name]):+.1f})" for name in found) or "none"


unclear = [name for name, told in judged_here.items() if "er (" not in told]
say(
    f"By the rule of chapter 0, with {count}, these add accuracy, in points: "
    f"**{those('higher (')}**. These cost some: {those('lower (')}. No clear difference: "
    f"{', '.join(unclear) or 'none'}."
)

# %% [markdown]
# The rule asks that all pairs of runs agree on the sign, and that the mean difference is at least
# 1/√n points for n pairs. Even so, a small difference of three seeds can be chance (question 4).
# These runs do not say whether a trick saves seconds per image, or what it adds in longer runs. And
# with settings of their own, five tricks might lose less.
#
# <a id="take"></a>
#
# ## What should you take?
#
# The last column says what supports each line. Where it says *not measured*, the advice follows
# from the chapters and their papers. An asterisk means, as above, that it may be chance.

# %% tags=["fold"]
known = {study.study: study for study in published()}


def told_in(name, verdict):  # of each trick left out of all seven
    if name not in known:
        return "not recorded"
    rows = [row for trick in whole.names for row in known[name].of(f"whole - {trick}")]
    some = [row for row in rows if row.verdict == verdict]
    return ", ".join(row.arm.split()[-1] + r"\*" * row.wavers for row in some) or "none"


def behind(name):
    return (
        f"{name.upper()} study, added to the other six: {told_in(name, 'slower')} pay; "
        f"{told_in(name, 'faster')} cost time; no verdict on {told_in(name, 'cannot tell')}"
    )


# %% tags=["fold"]
few = "not measured"
if "few" in known:
    from fasttricks.study.pages import equal_gains

    study, base = known["few"], "plain + cyclic"
    (row,) = study.of(f"{base} + transfer")
    few = (
        f"study of few labels (95% intervals in brackets), added to one-cycle: transfer makes it "
        f"{bounded(row.ratio)} times as fast"
    )
    for name in ("mixup", "smoothing"):
        images, points, low, high = equal_gains(study, f"{base} + {name}")[-1]
        few += (
            f"; after {images / study.labels:.0f} epochs, {name} changes its accuracy by "
            f"{points:+.1f} points ({low:+.1f} to {high:+.1f})"
        )

# %% tags=["fold"]
none = "not measured"
rows = [
    ("You have", "Take", "Because", "Measured"),
    ("---",) * 4,
    ("a CPU with 16-bit arithmetic", told_in("cpu", "slower"),
     "a second process only shares the cores", behind("cpu")),
    ("a CPU without it", "cyclic, transfer",
     "both save steps; `MixedPrecision` falls back to 32 bits", none),
    ("one GPU", told_in("gpu", "slower"),
     "GPUs multiply 16-bit numbers much faster; for the batch, see chapter 2", behind("gpu")),
    ("several GPUs", "the same, and distributed", "each takes a share of the batch", none),
    ("few labels", "transfer; in a long run, try mixup",
     "few labels are soon memorised", few),
    ("many labels, a short run", "cyclic, transfer",
     "no label is seen often enough to be memorised", "the CPU study above"),
    ("many labels, a long run", "cyclic, precision; try mixup and smoothing",
     "a random start catches up, and memorising begins", none),
]  # fmt: skip
say("\n".join(f"| {' | '.join(row)} |" for row in rows))

# %% [markdown]
# The rule of thumb: begin with one cycle and the best weights that you can get, use 16 bits if the
# device has them natively, and fix the number of images beforehand. Add the other tricks one at a
# time, with several seeds, and keep one only if the difference is clear.
#
# ## Questions
#
# **1. Why can you add the seven tricks in any order?**
#
# <details><summary>Answer</summary>Learning-rate factors are multiplied, mixup and smoothing give
# the same targets in either order, and every other slot is filled by one trick only.</details>
#
# **2. A trick is worth more together with others than alone. How can that be?**
#
# <details><summary>Answer</summary>The others may change what limits the run. For example, with a
# constant rate the last points of accuracy come slowly, and a better start saves only the first
# part. If a falling rate makes the last points quick, a better start can save most of the run. (We
# have not tested that this is the reason here.)</details>
#
# **3. Why do the clocks not include the making of the weights, and what would change if they did?**
#
# <details><summary>Answer</summary>They are made once and used by every run. On the clock of a
# single run, they can cost many times what they save. So we print their cost beside the
# result.</details>
#
# **4. All three seeds say that a recipe costs accuracy. Ten seeds see no clear difference. What
# went wrong?**
#
# <details><summary>Answer</summary>Perhaps nothing but chance. If one recipe's runs scatter widely,
# three of them can all be lucky, and then three comparisons agree. A rule for three seeds is
# sometimes wrong. With more seeds, it is wrong less often.</details>
#
# **5. We looked at all recipes on the way to seven tricks and picked the fastest. Why is its factor
# probably too high?**
#
# <details><summary>Answer</summary>Every measured factor has some luck in it. The largest of
# several is likely to be one with good luck. To know its true factor, measure it again with new
# seeds.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you
# get a hint.
#
# **Exercise 1.** Turn the loop of *Leave one out* into a function that works for every recipe: for
# each trick, return the recipe without it, in a dictionary keyed by the name of the missing trick.


# %%
from fasttricks.course import check


def leave_one_out(recipe):
    raise NotImplementedError


check("capstone", 1, leave_one_out)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def leave_one_out(recipe):
#     return {name: recipe - name for name in recipe.names}
# ```
#
# </details>
#
# **Exercise 2.** The interval of a speed-up comes from many draws. Write one draw. `slow` and
# `fast` are the seconds of two recipes, indexed by seed, and `seeds` lists the seeds that were
# drawn, for example `[2, 2, 0]`. Return the speed-up of the drawn runs.


# %%
def drawn_speed_up(slow, fast, seeds):
    raise NotImplementedError


check("capstone", 2, drawn_speed_up)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def drawn_speed_up(slow, fast, seeds):
#     from statistics import median
#
#     return median(slow[seed] for seed in seeds) / median(fast[seed] for seed in seeds)
# ```
#
# </details>
#
# **Exercise 3.** Write a trick of your own: *cutout*. Return an object with
# `slots = ("batch_maps",)`, which says that it changes batches, and `batch_map(x, q, rng)`, which
# returns the changed images `x` and targets `q`. It sets one square of `side` pixels to 0 in all
# images of the batch, at a position drawn from the numpy generator `rng`. You can add it to any
# recipe.


# %%
def cutout(side):
    raise NotImplementedError


check("capstone", 3, cutout)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# class Cutout:
#     slots = ("batch_maps",)
#
#     def __init__(self, side):
#         self.side = side
#
#     def batch_map(self, x, q, rng):
#         top, left = rng.integers(0, x.shape[-1] - self.side + 1, 2)
#         x = x.clone()
#         x[:, :, top : top + self.side, left : left + self.side] = 0
#         return x, q
#
#
# def cutout(side):
#     return Cutout(side)
# ```
#
# </details>
#
# ## Further reading
#
# - Coleman et al. 2019, [arXiv 1806.01427](https://arxiv.org/abs/1806.01427): time to accuracy, and
#   what the DAWNBench competition taught about it.
# - Dahl et al. 2023, [arXiv 2306.07179](https://arxiv.org/abs/2306.07179): AlgoPerf, how to compare
#   ways of training, tuning included.
# - Jordan 2024, [arXiv 2404.00498](https://arxiv.org/abs/2404.00498): how far a small network can
#   be pushed, with 200 or more runs behind each number.
#
# ## Appendix: take it with you
#
# **Save a network.** We save one and read it back with only timm and safetensors. Pixels must be
# scaled to the range from -1 to 1, as `normalise` does.

# %%
import tempfile
from pathlib import Path

import timm
from safetensors.torch import load_file

from fasttricks.models import save_weights

folder, last = Path(tempfile.mkdtemp()), arms["all seven"][-1]
save_weights(last.net, folder / "clothes.safetensors")
again = timm.create_model(budget.model, in_chans=1, num_classes=10)
again.load_state_dict(load_file(folder / "clothes.safetensors"))

# %% tags=["fold", "nbval-check-output"]
with torch.inference_mode():
    x = sized.normalise(sized.test[:5].x).cpu()
    before, after = (net.cpu().eval()(x).softmax(1) for net in (last.net, again))
holds(torch.allclose(before, after, atol=1e-4), "the network answers as it did before it was saved")

# %% [markdown]
# **Your own images.** Put them in a folder, with one subfolder per class. `load` sets one tenth
# aside for validation and one tenth for testing. A folded cell puts 1,000 of the clothes into the
# folder `photos`, where they play the part of your images.

# %% tags=["fold"]
from torchvision.transforms.functional import to_pil_image

for number, (x, y) in enumerate(zip(data.val.x[:1000], data.val.y[:1000], strict=True)):
    kind = folder / "photos" / data.classes[y].replace(" ", "-")
    kind.mkdir(parents=True, exist_ok=True)
    to_pil_image(x).save(kind / f"{number}.png")

# %%
with one_line() as tell:
    photos = load(str(folder / "photos"))
    mine = train(whole, photos, images=budget.images // 4)
    tell(f"{mine.images_seen:,} images, {mine.processes} process(es), {mine.precision}")

# %% tags=["fold"]
say(
    f"Trained on {mine.labels} labelled images, each seen {mine.images_seen / mine.labels:.0f} "
    f"times, the network is right on **{mine.val_accuracy:.0%}** of {len(photos.val)} "
    f"validation images."
)

# %% [markdown]
# From the shell: `fasttricks train --data FOLDER --save mine.safetensors`. `examples/all_seven.py`
# has all seven tricks in ordinary PyTorch, and [examples](../examples/README.md) says how to train
# on several machines.
#
# **If Colab or Kaggle stops your machine.** With `train(..., folder="kept")`, a run saves a
# checkpoint there every minute, and the same call resumes from the last one. On Colab, put the
# folder on your drive.
