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
# Each chapter added one trick to plain training. Here we add all seven and ask one question: *how much
# faster does the same network reach the same validation accuracy?* Then we take the recipe apart again, to
# see which tricks earned their place and which you should use on your own machine.
#
# We train a network from the timm library on Fashion-MNIST, with and without the tricks, and read two
# clocks. The **train clock** runs only while the network trains. The **cold wall** runs from the start of the
# process to its end, and includes imports, data, weights and every evaluation.
#
# This chapter takes about 30 minutes to read. On two CPU cores it runs for three to four minutes.

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
# The budget depends on the device: small sizes on a CPU, larger ones on a GPU. (The images and runs printed above
# are those of the other chapters. This one has its own numbers.) *Plain* training is AdamW at a
# constant learning rate (chapter 0). The sixth trick starts from weights trained on letters in many fonts
# (chapter 6).

# %%
from fasttricks import BASELINE, SEVEN, choose_budget, load, train
from fasttricks.course import published, say
from fasttricks.pretrain import make_letters

budget, data = choose_budget(), load()
cost = make_letters(budget.model, budget.image_size)  # on a GPU they are made now, once
epochs = [images / len(data.train) for images in (budget.plain, budget.whole)]
say(
    f"The network is {budget.model}, and the target is a validation accuracy of **{budget.target}**. Plain "
    f"training uses {budget.plain:,} images ({epochs[0]:.2f} epochs). Training with all seven tricks uses "
    f"{budget.whole:,} ({epochs[1]:.2f} epochs). Runs per recipe: {budget.seeds}."
)

# %% [markdown]
# ## Guess first
#
# Which two of the seven tricks matter most? And how many times as fast as plain training are these two alone?
# Put your second guess here. We compare it with the result below.

# %%
guess = 2.0  # times as fast as plain training, on the train clock

# %% [markdown]
# ## What the recorded studies found
#
# Our recorded studies estimate the time to equal accuracy. They trained each recipe with several numbers of
# images, drew a curve through the mean accuracies, and read off how many images reach the study's own target.
# The time is that number times the measured seconds per image ([RESULTS](../RESULTS.md) has the details and
# checks). This is what they found:

# %% tags=["fold"]
from fasttricks.course import on_test_images
from fasttricks.study.findings import ended

studies = [study for study in published() if len(study.of("plain", "whole")) == 2]
for study in studies:
    slow, fast = study.of("plain", "whole")
    say(
        f"On {study.hardware}, with {study.seeds} seeds and a target of {study.target}, plain training took "
        f"{slow.train:.1f} s on the train clock, and training with all seven tricks took {fast.train:.2g} s. "
        f"That is **{fast.ratio.value:.1f} times as fast** (95 % interval: {fast.ratio.low:.1f} to "
        f"{fast.ratio.high:.1f})."
        + (
            f" On the cold wall, it was {fast.wall_ratio.value:.1f} times as fast."
            if fast.wall_ratio.value > 0
            else ""
        )
        + f" {ended(study)}"
    )
    say(f"The test accuracy, at these lengths: {on_test_images(study, 'whole')}.")

# %% [markdown]
# ## One recipe
#
# A recipe says how to train. Its *slots* are the places in the training loop where a trick can act, and each
# trick fills one or two of them. So we can write all seven tricks as a sum.

# %%
from fasttricks.course import holds, recipe_table

whole = sum(SEVEN, start=BASELINE)
recipe_table(whole)

# %% tags=["fold"]
owners = {slot: len(whole.fills(slot)) for trick in SEVEN for slot in trick.slots}
shared = [slot for slot, tricks in owners.items() if tricks > 1]
say(
    f"The seven tricks fill {len(owners)} slots. **{len(owners) - len(shared)}** of these belong to a single "
    f"trick, and {' and '.join(shared)} are shared by two tricks each."
)

# %% [markdown]
# If two tricks share a slot, their order must not matter. Learning-rate factors are multiplied, so they can
# come in any order. What about mixup and label smoothing? We apply them to one batch in both orders, with the
# same random numbers. Every order of the sum must be the same recipe, too, because a recipe sorts its
# tricks by chapter.

# %% tags=["nbval-check-output"]
from itertools import permutations

import numpy as np
import torch

x, q = data.batch(*next(data.draws(160, torch.Generator().manual_seed(0))))
mixup, smoothing = whole.fills("batch_maps")
mixed_first = smoothing.batch_map(*mixup.batch_map(x, q, np.random.default_rng(0)), None)[1]
mixed_last = mixup.batch_map(*smoothing.batch_map(x, q, None), np.random.default_rng(0))[1]
holds(torch.allclose(mixed_first, mixed_last, atol=1e-6), "mixing and smoothing commute")
orders = {sum(order, start=BASELINE) for order in permutations(SEVEN)}
holds(orders == {whole}, "all 5,040 orders of the seven tricks are one recipe")

# %% [markdown]
# In a run of 100 steps, `whole.lr_at(step, 100)` is the learning rate, and `whole.momentum_at` the momentum. The
# rate rises and falls once, and the momentum does the reverse.

# %% tags=["fold"]
import matplotlib.pyplot as plt

rates = [whole.lr_at(step, 100) for step in range(100)]
momenta = [whole.momentum_at(step, 100) for step in range(100)]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
left.plot(rates, "k-", label="all seven")
left.plot([BASELINE.lr_at(step, 100) for step in range(100)], "k--", label="plain")
left.set(xlabel="optimiser step", ylabel="learning rate")
left.legend()
right.plot(momenta, "k-")
right.plot([BASELINE.momentum_at(step, 100) for step in range(100)], "k--")
right.set(xlabel="optimiser step", ylabel="momentum (Adam's beta1)")
plt.show()

# %% tags=["fold"]
top = rates.index(max(rates))
say(
    f"The rate peaks at step {top}, at **{max(rates) / BASELINE.lr:.1f} times** the plain rate, and ends at "
    f"{rates[-1] / BASELINE.lr:.2g} times that rate. The momentum falls to {min(momenta):g} at step "
    f"{momenta.index(min(momenta))}."
)

# %% [markdown]
# The recipe multiplies the one cycle of chapter 3 by the warm-up of chapter 2, which gives the curve on the
# left its soft start. The cycle's `peak` in the table is a multiple of the plain rate. Scaling multiplies it by
# √(`batch` / `reference`).
#
# ## The recipes
#
# Plain training has a constant rate, the best of 24 settings that we tried for runs about as long as these. (All seven
# got 24 settings, too.) Every run below starts in a new process, so that its cold wall is a real one. With all seven tricks, a run
# uses one process per GPU, or two on a CPU, where they only share the cores. So we also train in one process with
# the other six tricks. Last, we train with only two tricks, the cycle and the transferred weights, to see how
# far they get.

# %%
from fasttricks.recipe import name_of

pair = sum([trick for trick in SEVEN if name_of(trick) in ("cyclic", "transfer")], start=BASELINE)
recipes = {"plain": (BASELINE, budget.plain), "all seven": (whole, budget.whole)}
single = "all seven"
if whole.world.count() > 1:
    single = "six, one process"
    recipes[single] = (whole - "distributed", budget.whole)
else:
    print("One device: multi-GPU training has nothing to share out, and the other six do the work.")
recipes["cyclic + transfer"] = (pair, budget.whole)

# %% [markdown]
# How many images may each recipe see? A run with one cycle is at its best at the end, where the learning rate
# is near zero, so we cannot stop it on the way. On a CPU, plain training and all seven tricks see as many images
# as the study read off for its own target, which is a little higher than ours, so that three runs do not miss it by
# bad luck. (On a GPU, the numbers are estimates.)
# The others see as many as all seven, in whole batches.
#
# So **the runs here end near the target, not at it**. If plain training ends higher than another recipe, it
# trained longer than it had to, and the speed-up is too large; if lower, too small. For equal accuracy, take the
# study's numbers. The recipes take turns, seed by seed.

# %%
arms = {name: [] for name in recipes}
for seed in range(budget.seeds):
    for name, (recipe, images) in recipes.items():
        label = f"{name}, seed {seed}"
        arms[name] += [train(recipe, data, images=images, seed=seed, fresh=True, label=label)]

# %% [markdown]
# ## The result
#
# The table, line by line:
#
# - *Seconds to target* are the median of the whole runs, or *never* if their *mean* accuracy misses the target.
# - *Images a second* is the pace on the train clock.
# - *Speed-up* is the time of *plain* divided by that of the recipe.
# - *95 % interval*: if we draw seeds again and again (the bootstrap), 95 % of the speed-ups lie in it. With three
#   seeds, it is hardly better than their range. It ignores that accuracies differ.
# - *Precision* is the number format of multiplications: 32 bits (fp32) or 16 (bf16, fp16).
#
# The clocks do not include the letters weights, which were made once for all runs. Their cost is above the table.

# %% tags=["result"]
from fasttricks.course import caption, table

print(caption(arms["plain"][0]))
print("letters weights, not on these clocks:", cost)
table(arms)

# %% [markdown]
# So how much faster is it?

# %% tags=["fold"]
from fasttricks.study.statistics import speed_up, speed_up_interval


def times_as_fast(name, clock="train_seconds"):
    ratio = speed_up(arms[name], arms["plain"], clock)
    compared = 0 < ratio < float("inf")
    return f"{ratio:.1f} times as fast" if compared else "not comparable (target missed)"


interval_of_it = speed_up_interval(arms["all seven"], arms["plain"]).replace(" ", " to ")
say(
    f"Compared with plain training, all seven tricks are **{times_as_fast('all seven')}** on the train clock "
    f"(interval: {interval_of_it.replace('-', 'too few runs')}) and "
    f"**{times_as_fast('all seven', 'wall_seconds')}** on the cold wall."
)

# %% tags=["fold"]
from fasttricks.course import median


def fewer_and_pace(images, paces):  # of plain and of all seven
    return f"**{images[0] / images[1]:.1f} times fewer images**, and {paces[1] / paces[0]:.2f} times as many images per second"


both = ("plain", "all seven")
paces = [median([run.images_per_second for run in arms[name]]) for name in both]
parts = fewer_and_pace([arms[name][0].images_seen for name in both], paces)
there = ""
for study in studies:
    if study.study == budget.name:
        rows = study.of("plain", "whole")
        recorded = [row.images.value / row.train for row in rows]
        there = (
            f" In the study, it is {fewer_and_pace([row.images.value for row in rows], recorded)}."
        )
        there += (
            f" Plain training processes {paces[0]:,.0f} images per second here and {recorded[0]:,.0f} there. The more "
            "the pace varies from run to run, the less the second factor means."
        )
say(f"The speed-up has two factors: {parts}.{there}")

# %% tags=["fold"]
ends = {name: [run.val_accuracy for run in runs] for name, runs in arms.items()}
over = 100 * (np.mean(ends["plain"]) - np.mean(ends["all seven"]))
say(
    f"Plain training ended {abs(over):.1f} points {'higher' if over > 0 else 'lower'} on average. "
    + (
        "So the two are compared at practically the same accuracy."
        if abs(over) < 0.2
        else f"For equal accuracy, it would need {'fewer' if over > 0 else 'more'} images, and so the first factor is too "
        f"{'large' if over > 0 else 'small'} here."
    )
)

# %% [markdown]
# The cold wall is the stricter clock. Starting Python, importing torch and reading the data take about the same
# time for every recipe, and starting several processes takes longer. Are they worth it? We divide the seconds
# seed by seed and take the median.

# %% tags=["fold"]
from fasttricks.course import faster

seconds = {name: [run.train_seconds for run in runs] for name, runs in arms.items()}
walls = {name: [run.wall_seconds for run in runs] for name, runs in arms.items()}
if single != "all seven":
    pace = faster(seconds[single], seconds["all seven"])
    costs = median(seconds[single]) < median(seconds["all seven"])
    balance = "costs more time than it saves" if costs else "saves more time than it costs"
    say(
        f"Compared with all seven, the six in one process are **{pace}** on the train clock and "
        f"{faster(walls[single], walls['all seven'])} on the cold wall. So here, dividing each batch among "
        f"{whole.world.count()} {'GPUs' if torch.cuda.is_available() else 'processes on one CPU'} "
        f"**{'makes no clear difference' if 'not clearly' in pace else balance}**."
    )

# %% [markdown]
# The figure shows how the accuracies rise with time:

# %% tags=["figure"]
from fasttricks.course import accuracy_against_time

accuracy_against_time(arms)
plt.show()

# %% [markdown]
# Each line is a run, each corner is an evaluation, and the mark is the end of the run. The table counts each run
# to its mark, even if the line crosses the target earlier. The time axis is logarithmic, so equal distances are
# equal factors.

# %% tags=["fold"]
worst = min(arms["plain"], key=lambda run: run.curve[0][1])
first_look = worst.curve[0]
last_end = max(seconds["all seven"])
lowest = min(run.val_accuracy for run in arms["all seven"])
say(
    f"With all seven tricks, every run had ended by **{last_end:.1f} s**, with an accuracy of at least "
    f"{lowest:.3f}. The earliest evaluation of a plain run came after {first_look[1]:.1f} s and found an accuracy "
    f"of {first_look[2]:.3f}."
)

# %% [markdown]
# ## What the speed-up is made of
#
# Our own runs cannot answer this, because not every recipe saw the number of images that suits it. The study found the right
# number for each. The figure goes from plain training to all seven tricks, step by step. A black bar is the time
# to the target, and the hatched part is what the step saves. A step whose factor is below 1 costs time.

# %% tags=["fold"]
from itertools import pairwise

from fasttricks.study.pages import steps_of, waterfall

shown = [
    study for study in studies if study.steps and all(r.arrives for r in study.of(*study.steps))
]
for study in shown:
    counts = " or ".join(sorted({str(row.seeds) for row in study.of(*study.steps)}, key=int))
    waterfall(study, f"{study.hardware}, validation accuracy {study.target}, {counts} seeds")
plt.show()

# %% tags=["fold"]
for study in shown:
    on_the_way = [study.to_target(arm) for arm in study.steps]
    factors = [before / after for before, after in pairwise(on_the_way)]
    named_factors = dict(zip(steps_of(study.steps)[1:], factors, strict=True))
    first, second = sorted(named_factors, key=named_factors.get, reverse=True)[:2]
    both, total = named_factors[first] * named_factors[second], on_the_way[0] / on_the_way[-1]
    least = min(on_the_way)
    last_gain = steps_of(study.steps)[on_the_way.index(least)]
    after = "it is the last step" if least == on_the_way[-1] else "the steps after it cost time"
    say(
        f"The two largest steps are *{first}* ({named_factors[first]:.1f} times as fast) and *{second}* "
        f"({named_factors[second]:.1f} times). Together they make training **{both:.1f} times as fast**. The other "
        f"steps multiply this by {total / both:.2f}, which gives {total:.1f} in all. The time is lowest after *{last_gain}*, "
        f"at {least:.1f} s, {on_the_way[0] / least:.1f} times as fast as plain training: {after}."
    )
    (pair_row,) = study.of("plain + cyclic + transfer")
    say(
        f"With *cyclic* and *transfer* alone, training is {pair_row.ratio.value:.1f} times as fast as plain "
        f"training. The guess above was {guess:g}."
    )

# %% [markdown]
# In our own runs, these two tricks saw as many images as all seven. So accuracies may differ.

# %% tags=["fold"]
from fasttricks.course import gained

say(
    f"Compared with plain training, the two are **{times_as_fast('cyclic + transfer')}**. Compared with the two, "
    f"the accuracy of *{single}* is {gained(ends[single], ends['cyclic + transfer'])}, and its training is "
    f"{faster(seconds[single], seconds['cyclic + transfer'])}."
)

# %% [markdown]
# In another order, the steps would have other sizes. So the study asks twice about each trick: what does it add to
# plain training, and what does it add to the other six tricks? (For the second answer, we compare all seven with the
# six.) The brackets hold the 95 % interval. We say *pays* or *costs time* only if the interval excludes 1. Of many
# such intervals, a few are wrong by chance. An asterisk marks an answer that does not survive a correction for this
# (Holm 1979). Take it as a hint.


# %% tags=["fold"]
PAYS = {"faster": "pays", "slower": "costs time", "cannot tell": "cannot tell"}
JOINED = {"slower": "pays", "faster": "costs time", "cannot tell": "cannot tell"}  # by the six's


def cell(row, ratio, words):
    if not row.arrives:
        return f"target not reached after {row.most:,} images"
    told = f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), {words[row.verdict]}"
    return told + r" \*" * row.wavers


alone_too = [study for study in studies if study.of("plain + cyclic")]
for study in alone_too:
    lines = ["| trick | added to plain, times as fast | added to the other six, times as fast |"]
    lines += ["| - | - | - |"]
    for name in whole.names:
        alone, without = study.of(f"plain + {name}", f"whole - {name}")
        told = cell(alone, alone.ratio, PAYS), cell(without, without.ratio.inverse, JOINED)
        lines += [f"| {name} | {' | '.join(told)} |"]
    say("\n".join(lines))


# %% tags=["fold"]
def judged(study, change, verdict):
    rows = [row for name in whole.names for row in study.of(f"{change} {name}")]
    some = [row for row in rows if row.verdict == verdict]
    return ", ".join(row.arm.split()[-1] + r"\*" * row.wavers for row in some) or "none"


for study in studies:
    absent = [name for name in whole.names if not study.of(f"whole - {name}")]
    pays = f"- These pay when added to plain training: **{judged(study, 'plain +', 'faster')}**.\n"
    say(
        f"On {study.hardware}:\n\n{pays if study in alone_too else ''}"
        f"- These pay when added to the other six: **{judged(study, 'whole -', 'slower')}**.\n"
        f"- These cost time when added to the other six: **{judged(study, 'whole -', 'faster')}**.\n"
        f"- No verdict when added to the other six: {judged(study, 'whole -', 'cannot tell')}."
        + (f"\n- Not measured there: {', '.join(absent)}." if absent else "")
    )

# %% tags=["fold"]
for study in alone_too:
    told, stronger = [], []
    for name in ("cyclic", "transfer"):
        alone, without = study.of(f"plain + {name}", f"whole - {name}")
        told += [
            f"*{name}* makes training {alone.ratio.value:.1f} times as fast alone and "
            f"{1 / without.ratio.value:.1f} times with the other six"
        ]
        stronger += [name] * (1 / without.ratio.value > alone.ratio.value)
    meaning = f"Worth more with the others than alone: **{', '.join(stronger) or 'neither'}**"
    say(f"{', and '.join(told)}. {meaning}.")

# %% [markdown]
# Why can a trick be worth more with the others than alone? We have not tested it, but a likely reason is this: with a constant rate,
# accuracy near the target rises slowly, however good the start was. The fall of the rate takes this slow part away,
# so a good start counts. And why can a trick cost time? Mixup is meant for images that are seen often, and these
# runs are short.
#
# The study also answers two objections. *Everybody uses a schedule anyway*, and *not everybody has
# suitable weights*:

# %% tags=["fold"]
for study in alone_too:
    plain_way, cycle_way, whole_way, bare_way = (
        study.to_target(arm) for arm in ("plain", "plain + cyclic", "whole", "whole - transfer")
    )
    say(
        f"All seven are **{cycle_way / whole_way:.1f} times as fast** as plain training with one cycle. Without "
        f"the transferred weights, the other six are {plain_way / bare_way:.1f} times as fast as plain training."
    )

# %% [markdown]
# When have the weights paid for their own training? We count what they save if you use the other six tricks
# anyway. ([RESULTS](../RESULTS.md) shows what the recipes of fastai, Lightning and timm reach on this task, under
# *Beside other libraries*.)

# %% tags=["fold"]
import re

spent = float(re.search(r"in ([\d,]+) s", cost)[1].replace(",", ""))
for study in alone_too:
    fast, bare = study.of("whole", "whole - transfer")
    saved = bare.train - fast.train
    if study.study == budget.name:
        say(
            f"The letters weights took {spent:,.0f} s to make. In the recorded study, they save {saved:.1f} s "
            f"per run, so their cost is recouped after **{np.ceil(spent / saved):,.0f} runs**."
        )

# %% [markdown]
# ## Where the seconds go
#
# We break down the cold wall of two runs, those of seed 0. The stages of the loop are *batch* (preparing the
# images), the two passes, the optimiser's *step* and *the rest*. Their shares come from torch's profiler, in a
# short run. *Start* is what is neither training nor evaluation.

# %% tags=["fold"]
from fasttricks.course import shares
from fasttricks.study.limits import stages

cold = {}
for name in ("plain", single):
    run, (recipe, _) = arms[name][0], recipes[name]
    found = stages(recipe, data, budget.model, budget.image_size, budget.images // 5)
    start = run.wall_seconds - run.train_seconds - run.eval_seconds
    loop = {stage: share * run.train_seconds for stage, share in found.items()}
    cold[name] = {"start": start, **loop, "evaluation": run.eval_seconds}
shares(cold, caption(run))
plt.show()

# %% tags=["fold"]
totals = {name: sum(parts.values()) for name, parts in cold.items()}
passes = cold["plain"]["forward"] + cold["plain"]["backward"]
start = cold[single]["start"]
say(
    f"In *plain*, the forward and backward passes make up **{passes / totals['plain']:.0%}** of the cold wall, "
    f"and the start {cold['plain']['start'] / totals['plain']:.0%}. In *{single}*, the start takes {start:.1f} "
    f"of {totals[single]:.1f} s, or **{start / totals[single]:.0%}**. On this clock, even a recipe that needed no "
    f"training would be only {totals['plain'] / start:.1f} times as fast as plain training."
)

# %% [markdown]
# The tricks shorten only what comes after the start, so the two clocks differ most in short runs (Amdahl's
# law). The backward pass usually takes longer than the forward pass because it computes two gradients, those of
# the weights and of the inputs, where the forward pass computes one product.
#
# On any machine, a run must take one optimiser step for each full batch, counted over all processes.

# %% tags=["nbval-check-output"]
wanted = {name: images // recipe.global_batch for name, (recipe, images) in recipes.items()}
exact = all(run.steps == wanted[name] for name, runs in arms.items() for run in runs)
holds(exact, "every run took the expected number of steps")
together = {run.processes for run in arms["all seven"]}
holds(together == {whole.world.count()}, "all seven ran in as many processes as the recipe says")

# %% [markdown]
# For every seed, the six tricks must also end with a higher accuracy than plain training had after the same
# number of images. For plain training, we take the first evaluation at or after that number.


# %% tags=["nbval-check-output"]
def plain_by_then(run, images):
    return next(accuracy for seen, _, accuracy in run.curve if seen >= images)


pairs = list(zip(arms["plain"], arms[single], strict=True))
higher = all(six.val_accuracy > plain_by_then(plain, six.images_seen) for plain, six in pairs)
holds(higher, "six tricks end above plain training after as many images, at every seed")

# %% [markdown]
# ## Leave one out, on your machine
#
# The study's verdicts hold for its machine, images and network. On your machine, you can ask in a minute what
# is lost without each trick. We train with six tricks in one process, and then leave out each in turn. (Multi-GPU
# training is not among them: it changes the seconds, not what is learned.) Every recipe sees half as many
# images as all seven above, because in longer runs the accuracies come close together.

# %%
from fasttricks.course import train_arms

six = whole - "distributed"
without = {f"no {name}": six - name for name in six.names}
short, sized = budget.whole // 2, data.to(whole.world.device(), budget.image_size)
trained = train_arms({"six": six, **without}, sized, images=short, evaluations=1)

# %% [markdown]
# Each dot is one seed, the bar is the mean of the dots, and the line is the bootstrap's interval for it.

# %% tags=["fold"]
from fasttricks.course import bars, gains

full = trained["six"]
left = {name: trained[name] for name in without}
lost = {name: gains(full, runs) for name, runs in left.items()}
bars(lost, "accuracy lost without it, points", f"{short:,} images, n = {budget.seeds}")
plt.show()

# %% [markdown]
# A bar to the right of zero means that the other five tricks do not replace this one. At zero, the trick is not
# needed *here, for this many images*, and to the left, the sum is better without it. As in all chapters, a
# difference is clear if all pairs of runs agree on its sign and the mean is at least 1/√n points for n pairs. (A trick
# may also save seconds per image. These runs are too short to measure that.)

# %% tags=["fold"]
import pandas as pd

accuracies = {name: [run.val_accuracy for run in runs] for name, runs in trained.items()}
bill = {name: gained(accuracies[name], accuracies["six"]) for name in without}
pd.DataFrame({"accuracy of the five, compared with the six": bill})

# %% tags=["fold"]
missed = [name[3:] for name, found in bill.items() if "lower (" in found]
better = [name[3:] for name, found in bill.items() if "higher (" in found]
say(
    f"- Leaving these out clearly lowers the accuracy: **{', '.join(missed) or 'none'}**.\n"
    f"- Leaving these out clearly raises it: {', '.join(better) or 'none'}."
)

# %% [markdown]
# One caution: we chose the settings for the sum. With settings of their own, five tricks might lose less. If a
# trick gets in the way on your data, leave it out: `whole - "mixup"` is a recipe, too.
#
# Leaving out a trick must change nothing else in the recipe:

# %% tags=["nbval-check-output"]
back = all(six - name + trick == six for name, trick in zip(six.names, six.tricks, strict=True))
holds(back, "what was left out and added again gives the same recipe")
few = {run.images_seen for runs in trained.values() for run in runs}
holds(max(few) - min(few) < 256, "all recipes saw the same number of images, to within one batch")

# %% [markdown]
# ## The test images, once
#
# We made all choices on the validation images: the learning rates, the target, the numbers of images. So the
# validation accuracy may be too optimistic. Now we look once at the 10,000 test images, which played no part in any
# choice in this notebook.

# %%
from fasttricks.loop import accuracy

device = sized.test.y.device
tested = {
    name: [accuracy(run.net.to(device), sized, sized.test, run.recipe) for run in arms[name]]
    for name in ("plain", "all seven")
}


def between(share, images):
    spread = 1.96 * (share * (1 - share) / images) ** 0.5
    return share - spread, share + spread


# %% [markdown]
# `between` gives a 95 % interval for the accuracy on all images of this kind. It leaves out the luck of the seed. Here is the last run with all seven tricks:

# %% tags=["tested"]
last, share = arms["all seven"][-1], tested["all seven"][-1]
low, high = between(share, len(data.test))
print(f"test {share:.4f} (95 %: {low:.4f} to {high:.4f}), validation {last.val_accuracy:.4f}")

# %% tags=["fold"]
means = {name: (np.mean(ends[name]), np.mean(tested[name])) for name in tested}
for name, (valued, scored) in means.items():
    say(
        f"*{name}*: the mean accuracy is {scored:.4f} on the test images and {valued:.4f} on the validation "
        f"images (n = {budget.seeds}). The test accuracy is **{100 * abs(scored - valued):.1f} points "
        f"{'lower' if scored < valued else 'higher'}** and "
        f"{'reaches' if scored >= budget.target else 'misses'} the target of {budget.target}."
    )
on_test = gained(tested["all seven"], tested["plain"])
paid = {
    "lower": "So here the speed may have **cost accuracy**",
    "higher": "So the speed cost no accuracy",
}
answer = next((words for word, words in paid.items() if f"points {word}" in on_test), None)
say(
    f"Compared with plain training, the accuracy of all seven tricks on the test images is **{on_test}**. "
    f"{answer or 'So we see no clear cost in accuracy'}."
)
for study in studies:
    if study.study == budget.name:
        say(
            f"The recorded study has more seeds and lengths that fit its target. There, the test accuracy is "
            f"{on_test_images(study, 'whole')}."
        )

# %% [markdown]
# If both recipes do worse (or better) on the test images, the test images may simply be harder (or easier). Only the direct
# comparison in the last sentence shows whether the speed cost accuracy on new images. But if the validation means differ, too, part of
# that difference may come from the numbers of images.
#
# ## Take it with you
#
# ### Saved, and used
#
# A trained network should outlive the notebook. We save it and read it back with only timm and safetensors.
# You only need to scale the pixels to the range from -1 to 1, as `normalise` does.

# %%
import tempfile
from pathlib import Path

import timm
from safetensors.torch import load_file

from fasttricks.models import save_weights

folder = Path(tempfile.mkdtemp())
save_weights(last.net, folder / "clothes.safetensors")
again = timm.create_model(budget.model, in_chans=1, num_classes=10)
again.load_state_dict(load_file(folder / "clothes.safetensors"))

# %% [markdown]
# Here are five test images, with the network's answer, its probability, and the label:

# %%
from fasttricks.course import show

some = sized.test[:5]
with torch.inference_mode():
    chances = again.eval()(sized.normalise(some.x).cpu()).softmax(1)
answers, labels = chances.argmax(1), some.y.cpu()
names = [
    f"{data.classes[answer]} {chance:.0%}\nlabel: {data.classes[label]}"
    for answer, chance, label in zip(answers, chances.amax(1), labels, strict=True)
]
show(some.x, names)
plt.show()

# %%
say(
    f"The network is right on **{int((answers == labels).sum())} of 5** images, and its mean probability is "
    f"{float(chances.amax(1).mean()):.0%}. It is right on {tested['all seven'][-1]:.1%} of all 10,000 test images."
)

# %% tags=["nbval-check-output"]
with torch.inference_mode():
    before = last.net.eval()(sized.normalise(some.x)).softmax(1).cpu()
holds(torch.allclose(before, chances, atol=1e-2), "the network that was read back answers the same")

# %% [markdown]
# ### Your own images
#
# Put them in a folder, with one subfolder per class. Here, some of the clothes play the part of your images:

# %%
from torchvision.transforms.functional import to_pil_image

own = folder / "photos"
for number, (x, y) in enumerate(zip(data.val.x[:1000], data.val.y[:1000], strict=True)):
    kind = own / data.classes[y].replace(" ", "-")
    kind.mkdir(parents=True, exist_ok=True)
    to_pil_image(x).save(kind / f"{number}.png")
photos = load(str(own))
[len(part) for part in (photos.train, photos.val, photos.test)]

# %% [markdown]
# One tenth of the images was set aside for validation, which gives only a rough accuracy here, and one tenth for
# testing. We use all seven tricks and all processes again. The letters weights work for colour images, too: each
# colour channel gets a third of the grey filter.

# %%
mine = train(whole, photos, images=budget.images // 4, label="your own images")
say(
    f"Trained on {mine.labels} labelled images, each seen {mine.images_seen / mine.labels:.0f} times, the network "
    f"is right on **{mine.val_accuracy:.0%}** of {len(photos.val)} validation images."
)

# %% [markdown]
# From the shell, run `fasttricks train --data FOLDER --save mine.safetensors`.
#
# ### Several machines
#
# We started the processes with torchrun, which also supports several machines. Copy the course and the
# data to each machine, and run this command there, with the first machine's name for `HOST`:
#
#     torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
#         -m fasttricks train --tricks all --out run.json
#
# Here we start two processes on this machine in the same way, without `HOST`. A run this short may miss the target.

# %% tags=["fold"]
start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
words = ["-m", "fasttricks", "train", "--tricks", "all", "--share-devices", "--images"]
words += [str(budget.images // 4), "--out", str(folder / "run.json")]
done = subprocess.run([*start, *words], check=True, capture_output=True, encoding="utf-8")
print(done.stdout)

# %% tags=["nbval-check-output"]
import json

found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
holds(found["processes"] == 2, "two processes of torchrun wrote one record")

# %% [markdown]
# ### A runtime that is taken away
#
# Colab and Kaggle can stop your machine at any time. With `folder=`, a run saves a checkpoint in that folder
# every minute, and the same call continues from the last one. (On Colab, put the folder on your drive.) We cannot
# take this machine away, so a small trick interrupts the run once, at its fifth batch. Here we save after every
# step (`"every": 0`), because the run is short.

# %%
from dataclasses import dataclass

left = 5


@dataclass(frozen=True)
class Cut:
    slots = ("batch_maps",)

    def batch_map(self, x, q, rng):
        global left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return x, q


kept = {"images": budget.images // 4, "folder": folder / "kept", "every": 0}
try:
    train(six + Cut(), data, label="taken away", **kept)
except KeyboardInterrupt as told:
    print(str(told).split(";")[0])

# %% [markdown]
# Now we make the same call twice more. The second call continues the run. The third returns the finished run
# from the folder. Last, we train without any interruption, to compare. (`train_arms` accepts a `folder`, too.)

# %%
second = train(six + Cut(), data, label="goes on", **kept)
third = train(six + Cut(), data, label="comes back", **kept)
unbroken = train(six, data, images=budget.images // 4, label="never interrupted")

# %% tags=["nbval-check-output"]
holds(second.resumed == 1, "the second call went on from a checkpoint")
holds(third == second, "the third had nothing to train")

# %%
weights = zip(second.net.parameters(), unbroken.net.parameters(), strict=True)
alike = all(torch.equal(one.cpu(), other.cpu()) for one, other in weights)
say(
    f"The interrupted run ends with an accuracy of {second.val_accuracy:.4f}, and the one that was never "
    f"interrupted with {unbroken.val_accuracy:.4f}. Their weights are "
    f"**{'the same, bit for bit' if alike else 'not the same, bit for bit'}**."
    + ("" if alike else " (A GPU may add numbers in a different order each time.)")
)

# %% [markdown]
# ## What to take away
#
# How much faster are all seven tricks together, and which of them earned their place?

# %% tags=["fold"]
known = {study.study: study for study in published()}


def told_in(study, change, verdict):
    return judged(known[study], change, verdict) if study in known else "not recorded"


say(
    f"Compared with plain training on this machine, all seven tricks were **{times_as_fast('all seven')}** on the "
    f"train clock and {times_as_fast('all seven', 'wall_seconds')} on the cold wall. The cycle and the transferred "
    f"weights alone were {times_as_fast('cyclic + transfer')} on the train clock. On the test images, compared "
    f"with plain training, the accuracy of all seven was {on_test}."
)
for study in shown:
    fewest = min(study.steps, key=study.to_target)
    count, quickest = study.steps.index(fewest), study.to_target("plain") / study.to_target(fewest)
    two, seven = study.of("plain + cyclic + transfer", "whole")
    say(
        f"In the recorded study, at equal accuracy, all seven are {seven.ratio.value:.1f} times as fast as plain "
        f"training, and the cycle and the weights alone **{two.ratio.value:.1f} times**. On the way from plain training "
        f"to all seven, {quickest:.1f} times is the most, with {count} tricks. (We picked this number afterwards, so it "
        "is too high.)"
    )
say(
    f"- In our runs, leaving these out of six tricks clearly cost accuracy: **{', '.join(missed) or 'none'}**.\n"
    f"- In the recorded studies, these pay when added to the other six: on the CPU "
    f"**{told_in('cpu', 'whole -', 'slower')}**, on one GPU **{told_in('gpu', 'whole -', 'slower')}**."
)

# %% [markdown]
# What should you take? The last column of the table says what supports each line. Where it says *not measured
# here*, the advice follows from the chapters and their papers, and you should measure it yourself.

# %% tags=["fold"]
nothing = "not measured here"
behind = f"CPU study: {told_in('cpu', 'whole -', 'slower')} pay, added to the others"
on_gpu = f"GPU study: {told_in('gpu', 'whole -', 'slower')} pay, added to the others"
regularised = (
    f"CPU study: added to the others, {told_in('cpu', 'whole -', 'faster')} cost time; no verdict on "
    f"{told_in('cpu', 'whole -', 'cannot tell')}"
)
rare, base = nothing, "plain + cyclic"
if "few" in known:
    from fasttricks.study.pages import equal_gains

    few = known["few"]
    (transferred,) = few.of(f"{base} + transfer")
    images, points, _, _ = equal_gains(few, f"{base} + mixup")[-1]
    rare = (
        f"study of few labels: transfer reaches {few.target} {transferred.ratio.value:.2f} times as fast as one-cycle "
        f"alone, and mixup changes the accuracy by {points:+.1f} points after {images / few.labels:.0f} epochs"
    )

# %%
say(f"""
| You have | Take | Because | Measured |
| --- | --- | --- | --- |
| a CPU with 16-bit arithmetic | {told_in("cpu", "whole -", "slower")} | leaving out one costs time; a second process only shares the cores | {behind} |
| a CPU without it | cyclic, transfer | both save steps; `MixedPrecision` falls back to 32 bits and changes nothing | {nothing} |
| one GPU | cyclic, transfer, precision, and a batch that keeps it busy | GPUs multiply 16-bit numbers much faster, and a small batch leaves them idle | {on_gpu} |
| several GPUs | the same, and distributed | each GPU takes a share of the batch; scaling keeps the shares large | {nothing} |
| few labels | transfer first, then try mixup or smoothing | few labels are soon learned by heart | {rare} |
| many labels, a short run | cyclic, transfer; mixup and smoothing only if they win your own test | no label is seen often enough to be learned by heart | {regularised} |
| many labels, a long run | cyclic, precision; try mixup and smoothing | a random start catches up, and learning by heart begins | {nothing} |
""")

# %% [markdown]
# And the rule of thumb: begin with one cycle and the best weights that you can get, let the device compute
# in 16 bits if it does so natively, and fix the number of images beforehand. Add the other tricks one at a
# time, train three seeds with and without each, and keep it only if the difference is clear.
#
# ## Questions
#
# **1. Why is the speed-up on the cold wall smaller than on the train clock?**
#
# <details><summary>Answer</summary>The start takes about the same number of seconds in both recipes, because
# no trick shortens it. So the faster the training, the larger the share of the start. Starting several
# processes adds to it.</details>
#
# **2. Why can you add the seven tricks in any order?**
#
# <details><summary>Answer</summary>Learning-rate factors are multiplied, mixup and smoothing give the same
# targets in either order, and every other slot is filled by one trick only.</details>
#
# **3. A trick is worth more together with others than alone. How can that be?**
#
# <details><summary>Answer</summary>The other tricks change what limits the run. With a constant rate, the last points
# of accuracy come slowly, and a better start saves only the first part. If a falling rate makes the last points
# quick, the first part is most of the run, and a better start saves most of it.</details>
#
# **4. Why do the clocks not include the letters weights, and what would change if they did?**
#
# <details><summary>Answer</summary>They are made once and used by every run. On the clock of a single run,
# they can cost many times what they save. So we print their cost above the table.</details>
#
# **5. Why did we choose the number of images beforehand instead of stopping when a run first reaches the
# target?**
#
# <details><summary>Answer</summary>A run whose learning rate ends near zero is at its best at the end. And
# stopping at the first success rewards luck: it picks the best of many noisy evaluations.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** For each trick in the recipe, return the recipe without it, in a dictionary keyed by the
# name of the missing trick.


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
# **Exercise 2.** The interval of a speed-up comes from many draws. Write one draw. `slow` and `fast` are
# the seconds of two recipes, indexed by seed, and `seeds` lists the seeds that were drawn, for example
# `[2, 2, 0]`. Return the speed-up of the drawn runs.


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
# **Exercise 3.** Write a trick of your own: *cutout*. Return an object with `slots = ("batch_maps",)`, a
# `chapter` from 1 to 7, and `batch_map(x, q, rng)`, which sets one square of `side` pixels to 0 in all
# images of the batch, at a position drawn from the numpy generator `rng`. You can add it to any recipe.


# %%
def cutout(side):
    raise NotImplementedError


check("capstone", 3, cutout)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# class Cutout:
#     chapter, slots = 4, ("batch_maps",)
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
# - Coleman et al. 2019, [arXiv 1806.01427](https://arxiv.org/abs/1806.01427): time to accuracy, and what
#   two years of DAWNBench taught about it.
# - Dahl et al. 2023, [arXiv 2306.07179](https://arxiv.org/abs/2306.07179): AlgoPerf, how to compare ways of
#   training, tuning included.
# - Jordan 2024, [arXiv 2404.00498](https://arxiv.org/abs/2404.00498): how far a small network can be pushed,
#   with 200 seeds and more.
