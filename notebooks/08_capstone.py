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
# Each chapter added one trick to plain training. Here we add all of them and ask one question: *how much
# faster does the same network reach the same validation accuracy?* Then we take the sum apart again, to
# see which tricks earned their place and what you should take on your own machine.
#
# We train a timm network on Fashion-MNIST, with and without the tricks, and read two clocks. The **train
# clock** runs while the network trains. The **cold wall** starts with the process and never stops: it
# includes imports, data, weights and every evaluation.
#
# This chapter takes about 15 minutes to read. On two CPU cores it runs for about four minutes, most of
# which go to plain training.

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
# The budget depends on the device: small sizes on a CPU, larger ones on a GPU.

# %%
from fasttricks import BASELINE, SEVEN, choose_budget, load, train
from fasttricks.course import published, say
from fasttricks.pretrain import make_letters

budget, data = choose_budget(), load()
cost = make_letters(budget.model, budget.image_size)  # on a GPU they are made now, once
epochs = [images / len(data.train) for images in (budget.plain, budget.whole)]
say(
    f"The target is a validation accuracy of **{budget.target}**. Plain training of {budget.model} sees "
    f"{budget.plain:,} images ({epochs[0]:.2f} epochs), all seven tricks see {budget.whole:,} "
    f"({epochs[1]:.2f} epochs). Runs per recipe: {budget.seeds}."
)

# %% [markdown]
# Our recorded study tuned both recipes and searched for the number of images that each of them needs. It
# had a target of its own. This is what it found:

# %%
studies = [study for study in published() if study.of("plain", "whole")]
for study in studies:
    slow, fast = study.of("plain", "whole")
    say(
        f"On {study.hardware}, with {study.seeds} seeds and a target of {study.target}, plain training took "
        f"{slow.train:.1f} s and all seven tricks {fast.train:.1f} s on the train clock: "
        f"**{fast.ratio.value:.1f} times as fast** (95 % interval: {fast.ratio.low:.1f} to "
        f"{fast.ratio.high:.1f}). On the cold wall they were {fast.wall_ratio.value:.1f} times as fast."
    )

# %% [markdown]
# ## One recipe
#
# A recipe says how to train, and a trick fills one or two of its slots, the places in the training loop
# where a trick may act. So we can write all seven tricks as a sum.

# %%
from fasttricks.course import holds, recipe_table

whole = sum(SEVEN, start=BASELINE)
recipe_table(whole)

# %%
owners = {slot: len(whole.fills(slot)) for trick in SEVEN for slot in trick.slots}
shared = [slot for slot, tricks in owners.items() if tricks > 1]
say(
    f"The seven tricks fill {len(owners)} slots. **{len(owners) - len(shared)}** of them have one owner; "
    f"{' and '.join(shared)} are shared by two tricks each."
)

# %% [markdown]
# Where two tricks share a slot, they must not depend on who comes first. Learning-rate factors are
# multiplied, and products commute. Do the two maps commute, too? We mix one batch and smooth its targets,
# in both orders and with the same random numbers. Besides, a recipe keeps its tricks sorted by chapter,
# so every order of the sum is the same recipe.

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
# The learning rate and the momentum are pure functions of the optimiser step. Here is what the whole
# recipe prescribes for a run of 100 steps: the rate rises and falls once, and the momentum does the
# reverse.

# %%
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

# %%
top = rates.index(max(rates))
say(
    f"The rate peaks at step {top}, at **{max(rates) / BASELINE.lr:.1f} times** the plain rate, and ends at "
    f"{rates[-1] / BASELINE.lr:.2g} times. The momentum goes down to {min(momenta):g} at step "
    f"{momenta.index(min(momenta))}."
)

# %% [markdown]
# The recipe multiplies the warm-up of chapter 2 and the one cycle of chapter 3, which gives the curve on
# the left its soft start. Scaling raises the peak a little more.
#
# ## Guess first
#
# You have seen what all seven did in the study. Before you read on, write down two guesses. Which two of
# the seven tricks matter most? And how many times as fast as plain training are these two alone, without
# the other five? If you run this notebook, put your second guess here; we compare it with the result below.

# %%
guess = 2.0  # times as fast as plain training, on the train clock

# %% [markdown]
# ## The recipes
#
# Every run below starts in a new process, so that its cold wall is a real one. All seven tricks together
# use several processes: one per GPU, or two on a CPU, where each core stands in for one device. Two
# processes on one CPU share what a single process would have had to itself. So we also train the other
# six tricks in one process, and the table shows whether the first trick pays off here. On a machine with
# a single GPU, this question does not arise: all seven run in one process.
#
# Last, we train with two tricks alone, the cycle and the transferred weights, to see how far two tricks
# get.

# %%
from fasttricks.recipe import name_of

pair = sum([trick for trick in SEVEN if name_of(trick) in ("cyclic", "transfer")], start=BASELINE)
recipes = {"plain": (BASELINE, budget.plain), "all seven": (whole, budget.whole)}
single = "all seven"
if whole.world.count() > 1:
    single = "six, one process"
    recipes[single] = (whole - "distributed", budget.whole)
else:
    print("One device: the first trick has nobody to share with, and the other six do the work.")
recipes["cyclic + transfer"] = (pair, budget.whole)

# %% [markdown]
# How many images may each recipe see? One cycle ends at a learning rate near zero, where a run is at its
# best, so we cannot simply stop a run on the way. Instead we fixed the length beforehand, by trials: for
# plain training and for all seven, it is the length at which the recorded study found their mean accuracy a
# little above the target of this notebook. The other two recipes get as many images as all seven. The
# recipes take turns, seed by seed.

# %%
arms = {name: [] for name in recipes}
for seed in range(budget.seeds):
    for name, (recipe, images) in recipes.items():
        label = f"{name}, seed {seed}"
        arms[name] += [train(recipe, data, images=images, seed=seed, fresh=True, label=label)]

# %% [markdown]
# ## The result
#
# A recipe is at the target when the *mean* of its final accuracies is. Its time is the median time of its
# runs, or *never* if it missed the target. The speed-up is the time of *plain* divided by that of the
# recipe. Its interval comes from drawing seeds again and again (the bootstrap); with three seeds, it is
# little more than their range. The weights that transfer learning starts from were made beforehand, once for all
# runs that will ever use them. Their cost is printed above the table.

# %% tags=["result"]
from fasttricks.course import caption, table

print(caption(arms["plain"][0]))
print("letters weights, not on these clocks:", cost)
table(arms)

# %% [markdown]
# So how much faster is it?

# %%
from fasttricks.study.statistics import speed_up, speed_up_interval


def times_as_fast(name, clock="train_seconds"):
    ratio = speed_up(arms[name], arms["plain"], clock)
    return (
        f"{ratio:.1f} times as fast" if 0 < ratio < float("inf") else "not comparable (a *never*)"
    )


interval_of_it = speed_up_interval(arms["all seven"], arms["plain"]).replace(" ", " to ")
say(
    f"Compared with plain training, all seven tricks are **{times_as_fast('all seven')}** on the train clock "
    f"(interval: {interval_of_it.replace('-', 'too few runs')}) and "
    f"**{times_as_fast('all seven', 'wall_seconds')}** on the cold wall."
)

# %% [markdown]
# The cold wall is the stricter clock: starting Python, importing torch and reading the data take equally
# long for every recipe, and starting several processes takes longer. Does the first trick pay here?

# %%
from fasttricks.course import faster, median

seconds = {name: [run.train_seconds for run in runs] for name, runs in arms.items()}
walls = {name: [run.wall_seconds for run in runs] for name, runs in arms.items()}
if single != "all seven":
    pace = faster(seconds[single], seconds["all seven"])
    costs = median(seconds[single]) < median(seconds["all seven"])
    balance = "costs more than it gains" if costs else "gains more than it costs"
    say(
        f"Compared with all seven, the six in one process are **{pace}** on the train clock and "
        f"{faster(walls[single], walls['all seven'])} on the cold wall. On this machine, multi-GPU training "
        f"**{'makes no clear difference' if 'about' in pace else balance}**."
    )

# %% [markdown]
# Two processes on one CPU have only the cores that one process could use alone, so do not expect much of
# this trick there. Now the race:

# %% tags=["figure"]
from fasttricks.course import accuracy_against_time

accuracy_against_time(arms)
plt.show()

# %% [markdown]
# Each line is one run, each corner is one evaluation, and the mark shows where the run ended. The
# horizontal axis is logarithmic, so equal distances are equal factors. The vertical axis begins a tenth
# below the target, so some lines enter from below.

# %%
worst = min(arms["plain"], key=lambda run: run.curve[0][1])
first_look = worst.curve[0]
last_end = max(seconds["all seven"])
lowest = min(run.val_accuracy for run in arms["all seven"])
say(
    f"All runs of all seven tricks had ended after **{last_end:.1f} s**, the worst of them at {lowest:.3f}. "
    f"The first evaluation of any plain run came after {first_look[1]:.1f} s; it was at {first_look[2]:.3f} "
    f"then."
)

# %% [markdown]
# ## What the speed-up is made of
#
# Our runs cannot tell, because two of the recipes were given the number of images that suits another one.
# The recorded study searched the right number for every recipe. The figure shows its way from plain
# training to all seven tricks, one trick after another. The black bar is the time to the target, and the
# hatched part is what the step has saved.

# %%
from itertools import pairwise

from fasttricks.study.pages import steps_of, waterfall

shown = [
    study for study in studies if study.steps and all(r.arrives for r in study.of(*study.steps))
]
for study in shown:
    waterfall(study, f"{study.hardware}, validation accuracy {study.target}, n = {study.seeds}")
plt.show()

# %%
for study in shown:
    on_the_way = [row.train for row in study.of(*study.steps)]
    factors = [before / after for before, after in pairwise(on_the_way)]
    named_factors = dict(zip(steps_of(study.steps)[1:], factors, strict=True))
    first, second = sorted(named_factors, key=named_factors.get, reverse=True)[:2]
    both, total = named_factors[first] * named_factors[second], on_the_way[0] / on_the_way[-1]
    say(
        f"The two largest steps are *{first}* ({named_factors[first]:.1f} times as fast) and *{second}* "
        f"({named_factors[second]:.1f} times). Together they make **{both:.1f} of the {total:.1f}**, and all "
        f"other steps the remaining {total / both:.2f}."
    )
    (pair_row,) = study.of("plain + cyclic + transfer")
    say(
        f"Cyclic and transfer alone are {pair_row.ratio.value:.1f} times as fast as plain training; the guess "
        f"was {guess:g}."
    )

# %% [markdown]
# In our own runs, the same two tricks had as many images as all seven.

# %%
from fasttricks.course import gained

ends = {name: [run.val_accuracy for run in runs] for name, runs in arms.items()}
say(
    f"Here the two are **{times_as_fast('cyclic + transfer')}** as plain training. Compared with them, "
    f"*{single}* is {gained(ends[single], ends['cyclic + transfer'])} in accuracy, and it trains "
    f"{faster(seconds[single], seconds['cyclic + transfer'])}."
)

# %% [markdown]
# The figure has a weakness: what one trick has saved, the next cannot save again, so it favours the tricks
# that come first. The table of the study asks twice about each trick. *Added to plain* compares plain
# training with and without it. *Left out* compares the other six with all seven: below 1, the sum needs
# the trick. The brackets hold the 95 % interval, and a verdict needs an interval without 1.


# %%
def cell(row):
    if not row.arrives:
        return f"not there after {row.most:,} images"
    return f"{row.ratio.value:.2f} ({row.ratio.low:.2f} to {row.ratio.high:.2f}), {row.verdict}"


for study in studies:
    lines = ["| trick | added to plain, times as fast | left out, times as fast |", "| - | - | - |"]
    for name in whole.names:
        both = study.of(f"plain + {name}", f"whole - {name}")
        lines += [f"| {name} | {' | '.join(cell(row) for row in both)} |"] * (len(both) == 2)
    say("\n".join(lines))

# %%
for study in studies:
    alone = {name: row.verdict for name in whole.names for row in study.of(f"plain + {name}")}
    without = {name: row.verdict for name in whole.names for row in study.of(f"whole - {name}")}
    helps = [name for name, word in alone.items() if word == "faster"]
    needed = [name for name, word in without.items() if word == "slower"]
    spared = [name for name, word in without.items() if word != "slower"]
    say(
        f"Alone, **{', '.join(helps) or 'none'}** made plain training clearly faster. All seven need "
        f"**{', '.join(needed) or 'none of them'}**. Nothing was clearly lost without "
        f"{', '.join(spared) or 'any other'}."
    )

# %% [markdown]
# Two answers for one trick are no contradiction. Two tricks may replace each other, so that either helps
# alone and neither is missed. Or a trick may need others: a gain in speed per image, as that of 16 bits,
# counts fully only if the number of images stays the same.
#
# The study also answers two objections. *Everybody uses a schedule anyway*, and *not everybody has
# suitable weights*:

# %%
for study in studies:
    slow, fast, cycle, bare = study.of("plain", "whole", "plain + cyclic", "whole - transfer")
    say(
        f"Compared with plain training under one cycle, all seven are **{cycle.train / fast.train:.1f} times as "
        f"fast**. Without the transferred weights, the other six are {slow.train / bare.train:.1f} times as "
        f"fast as plain training."
    )

# %% [markdown]
# The making of the weights is on none of these clocks. When has it paid for itself? Chapter 6 compares
# with plain training; here we ask what the weights save when the other six tricks are used anyway, which
# is less. (What the recipes of fastai, Lightning and timm reach on this task is in
# [RESULTS](../RESULTS.md), under *Beside other libraries*.)

# %%
import re

spent = float(re.search(r"in ([\d,]+) s", cost)[1].replace(",", ""))
for study in studies:
    fast, bare = study.of("whole", "whole - transfer")
    saved = bare.train - fast.train
    if study.study == budget.name:
        say(
            f"The letters weights took {spent:,.0f} s to make. In the recorded study they save {saved:.1f} s "
            f"per run, so they are paid back after **{np.ceil(spent / saved):,.0f} runs**, or at once if "
            f"somebody gives them to you."
        )

# %% [markdown]
# ## Where the seconds go
#
# We break down two of the cold walls. *Start* is everything before training: process, imports, data and
# weights. For the stages of the loop, we use the shares that torch's profiler measures in a short run.

# %%
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

# %%
totals = {name: sum(parts.values()) for name, parts in cold.items()}
passes = cold["plain"]["forward"] + cold["plain"]["backward"]
start = cold[single]["start"]
say(
    f"In *plain*, the forward and backward passes make up **{passes / totals['plain']:.0%}** of the cold wall "
    f"and the start {cold['plain']['start'] / totals['plain']:.0%}. In *{single}*, the start takes {start:.1f} "
    f"of {totals[single]:.1f} s, **{start / totals[single]:.0%}**. A recipe that needed no training at all "
    f"would still be only {totals['plain'] / start:.1f} times as fast as plain on this clock."
)

# %% [markdown]
# The tricks shorten only what comes after the start (Amdahl's law), so the two clocks disagree most in
# short runs. Within training, the backward pass takes longer than the forward pass because it computes two
# gradients, of the weights and of the inputs, where the forward pass computes one product.
#
# We check what must hold on any machine. Images are counted over all processes, and a run takes one
# optimiser step for each whole batch in its number of images.

# %% tags=["nbval-check-output"]
wanted = {name: images // recipe.global_batch for name, (recipe, images) in recipes.items()}
exact = all(run.steps == wanted[name] for name, runs in arms.items() for run in runs)
holds(exact, "every run took the steps that its images make")
together = {run.processes for run in arms["all seven"]}
holds(together == {whole.world.count()}, "all seven ran in as many processes as the recipe says")

# %% [markdown]
# Also, for every seed, the six tricks must end with a higher accuracy than plain training had after the
# same number of images. For plain training, we take the first evaluation at or after that number, which
# only helps *plain*.


# %% tags=["nbval-check-output"]
def plain_by_then(run, images):
    return next(accuracy for seen, _, accuracy in run.curve if seen >= images)


pairs = list(zip(arms["plain"], arms[single], strict=True))
higher = all(six.val_accuracy > plain_by_then(plain, six.images_seen) for plain, six in pairs)
holds(higher, "six tricks end above plain training after as many images, at every seed")

# %% [markdown]
# ## Leave one out, on your machine
#
# The study's verdicts hold for its machine, its images and its network. On yours, you can ask the same
# question in a minute: what is lost without each trick? We train six tricks in one process, and each
# time five of them. Every recipe sees half as many images as above, because in longer runs all
# accuracies come together near the top. The recipes take turns, seed by seed. (The first trick,
# multi-GPU training, is in the table of the result: it changes the seconds, not what is learned.)

# %%
from fasttricks.course import train_arms

six = whole - "distributed"
without = {f"no {name}": six - name for name in six.names}
short, sized = budget.whole // 2, data.to(whole.world.device(), budget.image_size)
trained = train_arms({"six": six, **without}, sized, images=short, evaluations=1)

# %% [markdown]
# Each dot is one seed, the bar is the mean of the dots, and the line is an interval for that mean.

# %%
from fasttricks.course import bars, gains

full = trained["six"]
left = {name: trained[name] for name in without}
lost = {name: gains(full, runs) for name, runs in left.items()}
bars(lost, "accuracy lost without it, points", f"{short:,} images, n = {budget.seeds}")
plt.show()

# %% [markdown]
# A bar to the right of zero means that the other five tricks do not replace this one. A bar at zero means
# that the trick is not needed *here, for this many images*. A bar to the left means that the sum is better
# without it. As in all chapters, a difference is clear if all pairs of runs agree on its sign and the mean
# is at least 1/√n points for n pairs. Accuracy is not everything: a trick may save seconds instead, so the
# table shows both.

# %%
import pandas as pd

accuracies = {name: [run.val_accuracy for run in runs] for name, runs in trained.items()}
took = {name: [run.train_seconds for run in runs] for name, runs in trained.items()}
bill = {
    name: {
        "accuracy of the five": gained(accuracies[name], accuracies["six"]),
        "speed of the five": faster(took[name], took["six"]),
    }
    for name in without
}
pd.DataFrame(bill).T

# %%
missed = [name[3:] for name, row in bill.items() if "lower (" in row["accuracy of the five"]]
better = [name[3:] for name, row in bill.items() if "higher (" in row["accuracy of the five"]]
slower_without = [name[3:] for name in without if "about" not in bill[name]["speed of the five"]]
say(
    f"Accuracy is clearly lost without **{', '.join(missed) or 'none of them'}**, and clearly won without "
    f"{', '.join(better) or 'none'}. The speed changes clearly without "
    f"{', '.join(slower_without) or 'none'}."
)

# %% [markdown]
# One caution: we chose the settings for the sum and did not tune them again, and with settings of their
# own, five tricks might lose less.
#
# A trick that is not needed here is not useless. Multi-GPU training needs devices that do not share their
# cores. Scaling is meant to keep large devices, or many of them, busy. Mixup and smoothing work against
# learning the labels by heart, and runs as short as these leave no time for that. If a trick gets in the
# way on your data, leave it out: `whole - "mixup"` is a recipe, too.
#
# One thing must hold everywhere: leaving out a trick changes nothing else in the recipe.

# %% tags=["nbval-check-output"]
back = all(six - name + trick == six for name, trick in zip(six.names, six.tricks, strict=True))
holds(back, "what was left out and added again gives the same recipe")
few = {run.images_seen for runs in trained.values() for run in runs}
holds(max(few) - min(few) < 256, "all recipes saw as many images, up to one batch")

# %% [markdown]
# ## The test images, once
#
# We made all choices on the validation images: the learning rates, the target, the numbers of images. So
# the validation accuracy may be too optimistic. We have not looked at the 10,000 test images yet. We do so
# once, with the runs of plain training and of all seven tricks.

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
# The interval says how far the share of right answers among so many images may be from the share among all
# images of that kind. Here is the last run of all seven:

# %% tags=["tested"]
last, share = arms["all seven"][-1], tested["all seven"][-1]
low, high = between(share, len(data.test))
print(f"test {share:.4f} (95 %: {low:.4f} to {high:.4f}), validation {last.val_accuracy:.4f}")

# %%
means = {name: (np.mean(ends[name]), np.mean(tested[name])) for name in tested}
for name, (valued, judged) in means.items():
    say(
        f"*{name}*: {judged:.4f} on the test images and {valued:.4f} on the validation images, the means of "
        f"{budget.seeds} run(s). The test images are **{100 * abs(judged - valued):.1f} points "
        f"{'below' if judged < valued else 'above'}**, and the test mean is "
        f"{'at' if judged >= budget.target else 'below'} the target of {budget.target}."
    )
say(
    f"On the test images, all seven compared with plain are "
    f"**{gained(tested['all seven'], tested['plain'])}**."
)

# %% [markdown]
# A change that both recipes share says more about the images than about the tricks: these test images may
# be harder, and both recipes were chosen by the same validation images. For our question, only the last
# sentence matters: whether all seven bought their speed with accuracy on images that nobody chose by.
#
# ## Take it with you
#
# The rest of the chapter is about your own work: a saved network, your own images, more machines, and a
# machine that is taken away.
#
# ### Saved, and used
#
# A trained network should outlive the notebook. We save it and read it back with only timm and
# safetensors. To use it, you do not need this course; you only have to scale the pixels to -1 to 1, as
# `normalise` does.

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
    f"**{int((answers == labels).sum())} of 5** are right, with a mean probability of "
    f"{float(chances.amax(1).mean()):.0%}. Of all 10,000 test images, {tested['all seven'][-1]:.1%} are right."
)

# %% tags=["nbval-check-output"]
with torch.inference_mode():
    before = last.net.eval()(sized.normalise(some.x)).softmax(1).cpu()
holds(torch.allclose(before, chances, atol=1e-2), "the network that was read back answers the same")

# %% [markdown]
# ### Your own images
#
# Put them in a folder, with one subfolder per class. To show that you need nothing else, we pretend that
# some of the clothes are your images and write them to disk.

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
# One tenth of the images was set aside for validation and one tenth for testing. The recipe is the same,
# with all seven tricks and all processes. The letters weights work for colour images, too: each colour
# channel gets a third of the grey filter.

# %%
mine = train(whole, photos, images=budget.images // 4, label="your own images")
say(
    f"From {mine.labels} labels, each seen {mine.images_seen / mine.labels:.0f} times, the network is right on "
    f"**{mine.val_accuracy:.0%}** of {len(photos.val)} validation images."
)

# %% [markdown]
# From the shell, run `fasttricks train --data FOLDER --save mine.safetensors`.
#
# ### Several machines
#
# We started the processes with torchrun, which also supports several machines. Copy the course and the
# data to each machine, and run this command on every one, replacing `HOST` with the name of the first
# machine:
#
#     torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
#         -m fasttricks train --tricks all --out run.json
#
# Here we start two processes on this machine in the same way, without `HOST`. The first process writes
# the record.

# %%
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
# Colab and Kaggle can stop your machine at any time. With `folder=`, a run is kept there every minute,
# and the same call goes on from the last checkpoint. On a CPU, with as many processes, it arrives at the
# same network as if nothing had happened, bit for bit. (On Colab, put the folder on your drive.) We
# cannot take this machine away, so we write a small trick that interrupts the run once, at its fifth
# batch:

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
# Now we make the same call again, and once more after that. The second call continues the run; the third
# has nothing left to train and returns the finished run from the folder. `train_arms` accepts a `folder`,
# too.

# %%
second = train(six + Cut(), data, label="goes on", **kept)
third = train(six + Cut(), data, label="comes back", **kept)

# %% tags=["nbval-check-output"]
holds(second.resumed == 1, "the second call went on from a checkpoint")
holds(third == second, "the third had nothing to train")

# %% [markdown]
# ## What to take away
#
# We promised to say how much faster all seven tricks are together, and which of them earned their place.

# %%
say(
    f"On this machine all seven tricks were **{times_as_fast('all seven')}** as plain training on the train "
    f"clock and {times_as_fast('all seven', 'wall_seconds')} on the cold wall. The cycle and the transferred "
    f"weights alone were {times_as_fast('cyclic + transfer')}."
)
say(
    f"When one of six tricks was left out, accuracy was clearly lost without **{', '.join(missed) or 'none'}**. When "
    f"one of all seven was left out in the study, time was clearly lost without **{', '.join(needed) or 'none'}**."
)

# %% [markdown]
# What should you take? It depends on what you have. The last column of the table below says what stands
# behind each line. Where it says *not measured here*, the advice follows from the chapters and their papers,
# and you should measure it yourself.

# %%
nothing = "not measured here"
record = next((study for study in studies if study.study == "cpu"), None)
found = {row.arm: row.verdict for row in record.rows} if record else {}
needed = [name for name in whole.names if found.get(f"whole - {name}") == "slower"]
harmful = [name for name in whole.names if found.get(f"plain + {name}") == "slower"]
behind, regularised = nothing, nothing
if record:
    behind = f"study: slower without {', '.join(needed) or 'none'}; slower with {', '.join(harmful) or 'none'} alone"
    regularised = f"study, added alone: mixup {found['plain + mixup']}, smoothing {found['plain + smoothing']}"

# %%
say(f"""
| You have | Take | Because | Measured |
| --- | --- | --- | --- |
| a CPU with 16-bit arithmetic | {", ".join(needed) or "cyclic, transfer"} | each is missed when it is left out; a second process only shares the cores | {behind} |
| a CPU without it | cyclic, transfer | both save steps; `MixedPrecision` falls back to 32 bits and changes nothing | {nothing} |
| one GPU | cyclic, transfer, precision, scaling | GPUs multiply 16-bit numbers much faster, and a small batch leaves them idle | {nothing} |
| several GPUs | the same, and distributed | each GPU takes a share of the batch; scaling keeps the shares large | {nothing} |
| few labels | transfer first, then try mixup or smoothing | few labels are soon learned by heart | not by the study; chapters 4, 5 and 6 try it |
| many labels, a short run | cyclic, transfer; mixup and smoothing only if they win your own test | no label is seen often enough to be learned by heart | {regularised} |
| many labels, a long run | cyclic, precision; try mixup and smoothing | a random start catches up, and learning by heart begins | {nothing} |
""")

# %% [markdown]
# And the rule of thumb: begin with one cycle and the best weights that you can get, let the device compute
# in 16 bits if it does so natively, and fix the number of images beforehand. Add anything else alone, with
# three seeds on both sides, and keep it only if all three agree.
#
# ## Questions
#
# **1. Why is the speed-up on the cold wall smaller than on the train clock?**
#
# <details><summary>Answer</summary>The start takes about the same number of seconds in both arms: Python,
# torch's import, data and weights. No trick shortens it, so the faster the training, the larger the share
# of the start: compare the two bars of the profile. Starting several processes costs a few seconds
# more.</details>
#
# **2. Why can you add the seven tricks in any order?**
#
# <details><summary>Answer</summary>Learning-rate factors are multiplied, maps of targets commute, and the
# world, the first weights and the precision have one owner each.</details>
#
# **3. A trick makes plain training faster, and nothing is lost when it is left out of all seven. How can
# both be true?**
#
# <details><summary>Answer</summary>Another trick among the seven gives the same gain: the two are
# substitutes. A figure that adds them one after another credits the one that comes first.</details>
#
# **4. Why do the clocks not include the letters weights, and what would change if they did?**
#
# <details><summary>Answer</summary>They are made once and used by every run. On the clock of a single
# run, they would cost many times what they save; that is why we print their cost above the
# table.</details>
#
# **5. Why did we choose the number of images beforehand instead of stopping at the first crossing?**
#
# <details><summary>Answer</summary>A run whose schedule ends low is at its best at the end, and stopping
# at the first crossing rewards noise: it picks the luckiest of many looks.</details>
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
# the seconds of two arms, indexed by seed, and `seeds` lists the seeds that were drawn, for example `[2,
# 2, 0]`. Return the speed-up of the drawn runs.


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
