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
# Each chapter added one trick to plain training. Here we add all of them, and ask one question: *how
# much sooner is the same network at the same validation accuracy?* Then we take the sum apart again, to
# see which trick earned its place.
#
# We train a timm network on all of Fashion-MNIST, plainly and with all seven tricks, and read two
# clocks. The **train clock** runs while the network trains. The **cold wall** starts with the process
# and never stops: imports, data, weights and every evaluation are on it.
#
# About 15 minutes to read. On two CPU cores it runs for about six, most of them plain training.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/08_capstone.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/08_capstone.ipynb).
# The first cell installs the course where it is missing, and prints which machine it has found.

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
# The budget follows the device: small sizes on a CPU, larger ones on a GPU.

# %%
from fasttricks import BASELINE, SEVEN, choose_budget, load, train
from fasttricks.course import accuracy_against_time, caption, holds, recipe_table, table, train_arms
from fasttricks.pretrain import make_letters

budget, data = choose_budget(), load()
cost = make_letters(budget.model, budget.image_size)  # on a GPU they are made now, once
budget

# %% [markdown]
# ## One recipe
#
# A recipe says how to train, and a trick fills one of its slots. So all seven are a sum.

# %%
whole = sum(SEVEN, start=BASELINE)
recipe_table(whole)

# %% [markdown]
# Read the column *fills*. Three tricks own a slot: who trains, from which weights, in which
# arithmetic. The others share theirs: learning-rate factors multiply, and maps of images and targets
# follow one another.
#
# That is why the order of the sum does not matter. We try every order there is.

# %% tags=["nbval-check-output"]
from itertools import permutations

orders = {sum(order, start=BASELINE) for order in permutations(SEVEN)}
holds(orders == {whole}, "all 5,040 orders of the seven tricks are one recipe")

# %% [markdown]
# The learning rate and the momentum are pure functions of the optimiser step. Here is what the whole
# recipe asks for over a run of 100 steps: the rate rises and falls once, and the momentum does the
# reverse.

# %%
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
left.plot([whole.lr_at(step, 100) for step in range(100)], "k-", label="all seven")
left.plot([BASELINE.lr_at(step, 100) for step in range(100)], "k--", label="plain")
left.set(xlabel="optimiser step", ylabel="learning rate")
left.legend()
right.plot([whole.momentum_at(step, 100) for step in range(100)], "k-")
right.plot([BASELINE.momentum_at(step, 100) for step in range(100)], "k--")
right.set(xlabel="optimiser step", ylabel="momentum (Adam's beta1)")
plt.show()

# %% [markdown]
# The warm-up of chapter 2 and the one cycle of chapter 3 are multiplied: that is the soft start of the
# curve on the left. The peak is so much higher than the plain rate because both tricks raise it.
#
# ## Two recipes, and a third for honesty
#
# Every run below is started in a process of its own, so that its cold wall is a real one. All seven
# tricks include several processes: one a GPU, or two on a CPU, where each core plays one device. Two
# processes on one CPU share what one process would have had alone. So we also train the other six
# tricks in one process, and let the table say whether the first trick pays here. A machine with a single GPU
# has no such question: there, all seven run in one process.

# %%
recipes = {"plain": (BASELINE, budget.plain), "all seven": (whole, budget.whole)}
single = "all seven"
if whole.world.count() > 1:
    single = "six, one process"
    recipes[single] = (whole - "distributed", budget.whole)
else:
    print("One device: the first trick has nobody to share with, and the other six do the work.")

# %% [markdown]
# How many images may each see? One cycle ends at a rate near zero, and there a run is at its best: it
# cannot simply be stopped on the way. So the length is fixed beforehand, by trials: for plain training and for
# all seven the one at which their mean accuracy was at the target. The arms take turns, seed by seed.

# %%
arms = {name: [] for name in recipes}
for seed in range(budget.seeds):
    for name, (recipe, images) in recipes.items():
        label = f"{name}, seed {seed}"
        arms[name] += [train(recipe, data, images=images, seed=seed, fresh=True, label=label)]

# %% [markdown]
# ## The result
#
# An arm is at the target when the *mean* of its final accuracies is. Its seconds are the median of its
# runs, and *never* where the target was missed. A speed-up divides the seconds of *plain* by those of the
# arm, and its interval comes from drawing seeds again and again (chapter 0). The weights that transfer
# learning starts from were made beforehand, once for every run that will ever use them. What that took
# stands above the table.

# %% tags=["result"]
print(caption(arms["plain"][0]))
print("letters weights, not on these clocks:", cost)
table(arms)

# %% [markdown]
# Read the two speed-ups first. The cold wall is the stricter clock: starting Python, importing torch and
# reading the data take as long for every recipe, and starting several processes takes longer. Then compare
# the last two columns: where six tricks in one process are sooner than all seven, the first trick costs
# more than it gives on this machine. Last, the letters weights: divide what they took by the seconds that
# one run saves, and you have the number of runs that must share them.

# %% tags=["figure"]
accuracy_against_time(arms)
plt.show()

# %% [markdown]
# Each line is one run, each corner one evaluation, and the mark is where the run ended. Look at the
# scale below: it is logarithmic, and equal distances are equal factors.
#
# ## Where the seconds go
#
# We split two of the cold walls. *Start* is everything before training: process, imports, data, weights.
# The stages of the loop are the shares that torch's profiler finds in a short run.

# %%
from fasttricks.course import shares
from fasttricks.study.limits import limits, stages

walls = {}
for name in ("plain", single):
    run, (recipe, _) = arms[name][0], recipes[name]
    found = stages(recipe, data, budget.model, budget.image_size, budget.images // 5)
    start = run.wall_seconds - run.train_seconds - run.eval_seconds
    loop = {stage: share * run.train_seconds for stage, share in found.items()}
    walls[name] = {"start": start, **loop, "evaluation": run.eval_seconds}
shares(walls, caption(run))
plt.show()

# %% [markdown]
# In *plain* nearly all is forward and backward, and backward takes longer: it computes two gradients where
# forward computes one product. The tricks make few steps of this, and then the start is what is left.
#
# Could the chip do more? A loop cannot be faster than forward, backward and step on one batch that is never
# exchanged. And no network is faster than the chip's products of large matrices.

# %%
import pandas as pd

short = budget.images // 10
found = {
    name: limits(recipes[name][0], data, budget.model, budget.image_size, short, rounds=3)
    for name in ("plain", single)
}
rows = {
    name: {
        "images a second": f"{limit.loop:,.0f}",
        "share of a resident batch": f"{limit.share:.0%}",
        "million operations an image": f"{limit.image / 1e6:.1f}",
        "share of the matrix-product peak": f"{limit.utilisation:.1%}",
    }
    for name, limit in found.items()
}
pd.DataFrame(rows)

# %% [markdown]
# The second row says how near the loop comes to its own limit. The last says how near it comes to the chip's.
# In 16 bits the chip's products get faster, and what is no product does not: then that row falls.
#
# What must hold on any machine, we check. Images are counted over all processes, and a run takes as many
# optimiser steps as its images make whole batches.

# %% tags=["nbval-check-output"]
wanted = {name: images // recipe.global_batch for name, (recipe, images) in recipes.items()}
exact = all(run.steps == wanted[name] for name, runs in arms.items() for run in runs)
holds(exact, "every run took the steps that its images make")
together = {run.processes for run in arms["all seven"]}
holds(together == {whole.world.count()}, "all seven ran in as many processes as the recipe says")

# %% [markdown]
# And at every seed the six tricks must end higher than plain training stood when it had seen as many images.
# We take its first evaluation from there on, which only helps *plain*.


# %% tags=["nbval-check-output"]
def plain_by_then(run, images):
    return next(accuracy for seen, _, accuracy in run.curve if seen >= images)


pairs = list(zip(arms["plain"], arms[single], strict=True))
higher = all(six.val_accuracy > plain_by_then(plain, six.images_seen) for plain, six in pairs)
holds(higher, "six tricks end above plain training after as many images, at every seed")

# %% [markdown]
# ## The ladder: one trick after another
#
# Which of the seven did it? The obvious experiment adds them one by one, in the order of the chapters:
# plain, plain with scaling, plain with scaling and cyclic, up to all six. The first trick is left
# to the table above: it changes the seconds, not what is learned. Every rung sees half as many images as
# the whole recipe did there. In longer runs all accuracies crowd near the top, and differ little.

# %%
from fasttricks.recipe import name_of

six = whole - "distributed"
ladder = {"plain": BASELINE}
for trick in six.tricks:
    ladder[f"+ {name_of(trick)}"] = list(ladder.values())[-1] + trick
sized = data.to(whole.world.device(), budget.image_size)
rungs = train_arms(ladder, sized, images=budget.whole // 2)

# %% [markdown]
# A bar is what a trick has added to the rung before: `+ cyclic` compares scaling and cyclic with scaling
# alone, at equal seeds. A dot is one seed, the bar is their mean, and the thick line is the mean's
# 95 % interval (the bootstrap of chapter 0). With so few seeds it is little more than their range.

# %%
from itertools import pairwise

from fasttricks.course import bars, gains, interval

steps = pairwise(rungs.items())
climbed = {name: gains(runs, below) for (_, below), (name, runs) in steps}
bars(
    climbed,
    "gain in validation accuracy, points",
    f"{budget.whole // 2:,} images, n = {budget.seeds}",
)
plt.show()

# %% [markdown]
# A bar to the left of zero is a loss. Do not be surprised by one: larger batches take fewer steps, and mixup
# and smoothing make the task harder, which a short run may have no time to repay. And the bars depend on the
# order. What one trick has gained, the next cannot gain again. Another may need a trick that comes only
# later.
#
# ## Leave one out
#
# A question without an order is what the sum *needs*. We take each trick away from all six, one at a time,
# and see what is lost.

# %%
without = {f"no {name}": six - name for name in six.names}
left = train_arms(without, sized, images=budget.whole // 2)
full = list(rungs.values())[-1]
lost = {name: gains(full, runs) for name, runs in left.items()}

# %%
bars(lost, "accuracy lost without it, points", f"{budget.whole // 2:,} images, n = {budget.seeds}")
plt.show()

# %% [markdown]
# To the right, accuracy is lost: the other five do not replace this trick. At zero, it is not needed *here,
# for this many images*. To the left, the sum is better without it. One caution: the settings were chosen for
# the sum, and nothing is tuned again. With settings of its own, five tricks might lose less.
#
# Accuracy is not the whole bill. A trick may pay in seconds instead, so the table has both. The verdict is on
# accuracy alone: does the interval lie on one side of zero? With three seeds, this asks that all three agree.

# %%
from fasttricks.course import median


def verdict(points):
    low, high = interval(points)
    if len(points) < 3:
        return "too few seeds"
    return "needed" if low > 0 else "in the way" if high < 0 else "cannot tell"


clock = median([run.train_seconds for run in full])
bill = {
    name: {
        "points lost without it": f"{interval(lost[name])[0]:+.2f} to {interval(lost[name])[1]:+.2f}",
        "verdict on accuracy": verdict(lost[name]),
        "seconds without it": f"{median([run.train_seconds for run in runs]):.1f}",
    }
    for name, runs in left.items()
}
print(f"all six: {clock:.1f} s")
pd.DataFrame(bill).T

# %% [markdown]
# Do not lean on a verdict whose points are near zero. A trick without any effect gets three seeds to agree as
# often as three coins fall alike: one time in four.
#
# ## What did not help
#
# Read the rows that do not say *needed*, and look up their chapters. Scaling is there to keep large or many
# devices busy. Mixup asks for long training, smoothing for overconfident networks. Mixed precision pays in
# seconds and not in accuracy, and only where the chip computes 16 bits natively. What is in the way on your
# data, leave out: `whole - "mixup"` is a recipe, too.
#
# One thing must hold everywhere: leaving a trick out is exact.

# %% tags=["nbval-check-output"]
back = all(six - name + trick == six for name, trick in zip(six.names, six.tricks, strict=True))
holds(back, "what was left out and added again gives the same recipe")
few = {run.images_seen for runs in (*rungs.values(), *left.values()) for run in runs}
holds(max(few) - min(few) < 256, "all rungs saw as many images, up to one batch")

# %% [markdown]
# ## The test images, once
#
# All choices were made on the validation images, so their accuracy is a little too kind. The 10,000 test
# images have not been looked at. We do it once, with the last run of all seven tricks.

# %% tags=["tested"]
from fasttricks.loop import accuracy

best = arms["all seven"][-1]
net = best.net.to(sized.test.y.device)
tested = accuracy(net, sized, sized.test, whole)
spread = 1.96 * (tested * (1 - tested) / len(data.test)) ** 0.5
print(
    f"test {tested:.4f} (95 %: {tested - spread:.4f} to {tested + spread:.4f}), "
    f"validation {best.val_accuracy:.4f}"
)

# %% [markdown]
# The interval is that of counting so many images; other seeds would move it further. Test accuracy a little
# below validation accuracy is what one should expect.
#
# ## Saved, and used
#
# A trained network should outlive the notebook. We save it, and read it back with timm and safetensors
# alone. Whoever uses it does not need this course, only to bring the pixels to -1 to 1, as `normalise` does.

# %%
import tempfile
from pathlib import Path

import timm
from safetensors.torch import load_file

from fasttricks.models import save_weights

folder = Path(tempfile.mkdtemp())
save_weights(best.net, folder / "clothes.safetensors")
again = timm.create_model(budget.model, in_chans=1, num_classes=10)
again.load_state_dict(load_file(folder / "clothes.safetensors"))

# %% [markdown]
# Five test images, and what it thinks of them:

# %%
import torch

from fasttricks.course import show

some = sized.test[:5]
with torch.inference_mode():
    chances = again.eval()(sized.normalise(some.x).cpu()).softmax(1)
names = [f"{data.classes[row.argmax()]}\n{row.max():.0%}" for row in chances]
show(some.x, names)
plt.show()

# %% tags=["nbval-check-output"]
with torch.inference_mode():
    before = net.eval()(sized.normalise(some.x)).softmax(1).cpu()
holds(torch.allclose(before, chances, atol=1e-2), "the network that was read back thinks the same")

# %% [markdown]
# ## Your own images
#
# Put them in a folder, one subfolder a class. To show that nothing else is needed, we pretend that some
# of the clothes are yours, and write them to disk.

# %%
from torchvision.io import write_png

own = folder / "photos"
for number, (x, y) in enumerate(zip(data.val.x[:1000], data.val.y[:1000], strict=True)):
    kind = own / data.classes[y].replace(" ", "-")
    kind.mkdir(parents=True, exist_ok=True)
    write_png(x.expand(3, -1, -1), str(kind / f"{number}.png"))
photos = load(str(own))
[len(part) for part in (photos.train, photos.val, photos.test)]

# %% [markdown]
# A tenth each was set aside to validate and to test. The recipe is the same, all seven tricks and all
# processes. The letters weights serve colour images, too: each colour gets a third of the grey filter.

# %%
mine = train(whole, photos, images=budget.images // 4, label="your own images")
f"{mine.val_accuracy:.0%} of {len(photos.val)} images, from {mine.labels} labels"

# %% [markdown]
# From the shell it is `fasttricks train --data FOLDER --save mine.safetensors`.
#
# ## Several machines
#
# The processes were started by torchrun, and torchrun knows about several machines. Give each of them
# the course and the data, and start this on every one, with the first one's name for `HOST`:
#
#     torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
#         -m fasttricks train --tricks all --out run.json
#
# Here are two processes on this machine in the same way, without `HOST`. The first one writes the record.

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
# ## A runtime that is taken away
#
# Colab and Kaggle end their machines when they like. With `folder=`, a run is kept there every minute, and the
# same call goes on from the last checkpoint, to the same network as if nothing had happened, bit for bit.
# (On Colab, let the folder lie on your drive.) We cannot take this machine away, so a small trick of our own
# interrupts the run once, with its fifth batch:

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
# Now the same call again, and once more after that. The second time it goes on; the third time there is
# nothing left to train, and the finished run comes back from the folder. `train_arms` has a `folder` too.

# %%
second = train(six + Cut(), data, label="goes on", **kept)
third = train(six + Cut(), data, label="comes back", **kept)

# %% tags=["nbval-check-output"]
holds(second.resumed == 1, "the second call went on from a checkpoint")
holds(third == second, "the third had nothing to train")

# %% [markdown]
# ## Questions
#
# **1. Why is the speed-up on the cold wall smaller than on the train clock?**
#
# <details><summary>Answer</summary>Starting Python, importing torch and reading the data cost both arms the
# same seconds, and several processes cost a few more. What is left of a short run is mostly that.</details>
#
# **2. Why may the order of the seven be any?**
#
# <details><summary>Answer</summary>Rates are multiplied, maps of targets commute, and world, first weights
# and precision have one owner each.</details>
#
# **3. A trick adds a point on the ladder, and nothing is lost without it. How can both be true?**
#
# <details><summary>Answer</summary>Another trick, added later, gives the same: the two are substitutes. The
# ladder credits whoever came first.</details>
#
# **4. Why are the letters weights not on the clocks, and what would it change?**
#
# <details><summary>Answer</summary>They are made once and used by every run. On one run's clock they would
# cost many times what they save; that is why their cost stands above the table.</details>
#
# **5. Why was the number of images chosen beforehand, and not by stopping at the first crossing?**
#
# <details><summary>Answer</summary>A schedule that ends low is at its best at its end, and a first crossing
# rewards noise: the luckiest of many looks.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` by your code and run the cell. A wrong answer gets a hint.
#
# **Exercise 1.** Return the recipe without each of its tricks, in a dictionary by the name of the missing
# one.


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
# **Exercise 2.** The interval of a speed-up comes from many draws. Write one. `slow` and `fast` are the
# seconds of two arms, by seed, and `seeds` says which seeds were drawn, `[2, 2, 0]` for example. Return the
# speed-up of the runs that were drawn.


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
# images of the batch, at a place drawn from the numpy generator `rng`. Any recipe will take it.


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
