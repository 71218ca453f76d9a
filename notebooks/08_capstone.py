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
# sooner is the same network at the same validation accuracy?* Then we take the sum apart again to see
# which tricks earned their place.
#
# We train a timm network on all of Fashion-MNIST, both without tricks and with all seven, and read two
# clocks. The **train clock** runs while the network trains. The **cold wall** starts with the process and
# never stops: it includes imports, data, weights and every evaluation.
#
# This chapter takes about 15 minutes to read. On two CPU cores it runs for about six minutes, most of
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
from fasttricks.course import accuracy_against_time, caption, holds, recipe_table, table, train_arms
from fasttricks.pretrain import make_letters

budget, data = choose_budget(), load()
cost = make_letters(budget.model, budget.image_size)  # on a GPU they are made now, once
budget

# %% [markdown]
# ## One recipe
#
# A recipe says how to train, and a trick fills one of its slots. So we can write all seven tricks as a
# sum.

# %%
whole = sum(SEVEN, start=BASELINE)
recipe_table(whole)

# %% [markdown]
# Read the column *fills*. Five slots have one owner each: who trains, from which weights, in which
# arithmetic, the batch, and the momentum. The others are shared: learning-rate factors multiply, and maps
# of images and targets follow one another.
#
# That is why the order of the sum does not matter. To check this, we try every possible order.

# %% tags=["nbval-check-output"]
from itertools import permutations

orders = {sum(order, start=BASELINE) for order in permutations(SEVEN)}
holds(orders == {whole}, "all 5,040 orders of the seven tricks are one recipe")

# %% [markdown]
# The learning rate and the momentum are pure functions of the optimiser step. Here is what the whole
# recipe prescribes for a run of 100 steps: the rate rises and falls once, and the momentum does the
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
# The recipe multiplies the warm-up of chapter 2 and the one cycle of chapter 3, which gives the curve on
# the left its soft start. The peak is so much higher than the plain rate because both tricks raise it.
#
# ## Two recipes, and a third for honesty
#
# Every run below starts in a new process, so that its cold wall is a real one. All seven tricks together
# use several processes: one per GPU, or two on a CPU, where each core stands in for one device. Two
# processes on one CPU share what a single process would have had to itself. So we also train the other
# six tricks in one process, and the table shows whether the first trick pays off here. On a machine with
# a single GPU, this question does not arise: all seven run in one process.

# %%
recipes = {"plain": (BASELINE, budget.plain), "all seven": (whole, budget.whole)}
single = "all seven"
if whole.world.count() > 1:
    single = "six, one process"
    recipes[single] = (whole - "distributed", budget.whole)
else:
    print("One device: the first trick has nobody to share with, and the other six do the work.")

# %% [markdown]
# How many images may each recipe see? One cycle ends at a learning rate near zero, where a run is at its
# best, so we cannot simply stop a run on the way. Instead we fixed the length beforehand, by trials: for
# plain training and for all seven, it is the length at which their mean accuracy was at the target. The
# arms take turns, seed by seed.

# %%
arms = {name: [] for name in recipes}
for seed in range(budget.seeds):
    for name, (recipe, images) in recipes.items():
        label = f"{name}, seed {seed}"
        arms[name] += [train(recipe, data, images=images, seed=seed, fresh=True, label=label)]

# %% [markdown]
# ## The result
#
# An arm is at the target when the *mean* of its final accuracies is. Its time is the median time of its
# runs, or *never* if it missed the target. The speed-up is the time of *plain* divided by that of the
# arm, and its interval comes from drawing seeds again and again (chapter 0). The weights that transfer
# learning starts from were made beforehand, once for all runs that will ever use them. Their cost is
# printed above the table.

# %% tags=["result"]
print(caption(arms["plain"][0]))
print("letters weights, not on these clocks:", cost)
table(arms)

# %% [markdown]
# Read the two speed-ups first. The cold wall is the stricter clock: starting Python, importing torch and
# reading the data take equally long for every recipe, and starting several processes takes longer. Then
# compare the last two columns: if six tricks in one process are faster than all seven, the first trick
# costs more than it gains on this machine. Finally, consider the letters weights: divide the time they
# took by the seconds that one run saves to get the number of runs that must share the cost.

# %% tags=["figure"]
accuracy_against_time(arms)
plt.show()

# %% [markdown]
# Each line is one run, each corner is one evaluation, and the mark shows where the run ended. Note that
# the horizontal axis is logarithmic: equal distances are equal factors.
#
# ## Where the seconds go
#
# We break down two of the cold walls. *Start* is everything before training: process, imports, data and
# weights. For the stages of the loop, we use the shares that torch's profiler measures in a short run.

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
# In *plain*, nearly all the time goes to the forward and backward passes, and the backward pass takes
# longer because it computes two gradients where the forward pass computes one product. With the tricks,
# few of these steps are needed, and what remains is the start.
#
# Could the chip do more? A loop cannot be faster than forward, backward and step on one batch that never
# changes. And no network can be faster than the chip's multiplication of large matrices.

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
# The second row shows how close the loop comes to its own limit. The last row shows how close it comes to
# the chip's limit. In 16 bits the chip's products get faster, and what is no product does not: then that
# row falls.
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
# ## The ladder: one trick after another
#
# Which of the seven made the difference? The obvious experiment adds them one by one, in the order of the
# chapters: plain, plain with scaling, plain with scaling and cyclic, up to all six. We leave the first
# trick to the table above: it changes the seconds, not what is learned. Every rung sees half as many
# images as the whole recipe did there. In longer runs, all accuracies cluster near the top and differ
# little.

# %%
from fasttricks.recipe import name_of

six = whole - "distributed"
ladder = {"plain": BASELINE}
for trick in six.tricks:
    ladder[f"+ {name_of(trick)}"] = list(ladder.values())[-1] + trick
sized = data.to(whole.world.device(), budget.image_size)
rungs = train_arms(ladder, sized, images=budget.whole // 2)

# %% [markdown]
# Each bar shows what a trick adds to the previous rung: `+ cyclic` compares scaling and cyclic with
# scaling alone, using the same seeds. Each dot is one seed, the bar is the mean of the dots, and the
# thick line is the 95 % interval of the mean (the bootstrap of chapter 0). With so few seeds, the
# interval is little more than the range of the dots.

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
# A bar to the left of zero is a loss. Do not be surprised to see one: larger batches mean fewer steps,
# and mixup and smoothing make the task harder, and a short run may not have time for this to pay off. The
# bars also depend on the order. What one trick has gained, the next cannot gain again. And a trick may
# need another one that is added only later.
#
# ## Leave one out
#
# What the sum *needs* is a question that does not depend on the order. We remove each of the six tricks,
# one at a time, and see what is lost.

# %%
without = {f"no {name}": six - name for name in six.names}
left = train_arms(without, sized, images=budget.whole // 2)
full = list(rungs.values())[-1]
lost = {name: gains(full, runs) for name, runs in left.items()}

# %%
bars(lost, "accuracy lost without it, points", f"{budget.whole // 2:,} images, n = {budget.seeds}")
plt.show()

# %% [markdown]
# If a bar lies to the right of zero, accuracy is lost: the other five tricks do not replace this one. At
# zero, the trick is not needed *here, for this many images*. To the left, the sum is better without it.
# One caution: we chose the settings for the sum and did not tune them again. With their own settings,
# five tricks might lose less.
#
# Accuracy is not the whole story. A trick may pay off in seconds instead, so the table shows both. The
# verdict considers accuracy alone: does the interval lie on one side of zero? With three seeds, this
# requires all three to agree.

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
# Do not rely on a verdict if its points are near zero. If a trick has no effect, three seeds agree as
# often as three coins land alike: one time in four.
#
# ## What did not help
#
# Find the rows that do not say *needed*, and look up their chapters. Scaling is meant to keep large
# devices, or many of them, busy. Mixup calls for long training, smoothing for overconfident networks.
# Mixed precision pays off in seconds, not in accuracy, and only if the chip computes in 16 bits natively.
# If a trick gets in the way on your data, leave it out: `whole - "mixup"` is a recipe, too.
#
# One thing must hold everywhere: leaving out a trick changes nothing else in the recipe.

# %% tags=["nbval-check-output"]
back = all(six - name + trick == six for name, trick in zip(six.names, six.tricks, strict=True))
holds(back, "what was left out and added again gives the same recipe")
few = {run.images_seen for runs in (*rungs.values(), *left.values()) for run in runs}
holds(max(few) - min(few) < 256, "all rungs saw as many images, up to one batch")

# %% [markdown]
# ## The test images, once
#
# We made all choices on the validation images, so the validation accuracy is a little too optimistic. We
# have not looked at the 10,000 test images yet. We do so once, with the last run of all seven tricks.

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
# The interval reflects only the number of images counted; other seeds would move the result further.
# Expect the test accuracy to be a little below the validation accuracy.
#
# ## Saved, and used
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
save_weights(best.net, folder / "clothes.safetensors")
again = timm.create_model(budget.model, in_chans=1, num_classes=10)
again.load_state_dict(load_file(folder / "clothes.safetensors"))

# %% [markdown]
# Here are five test images and the network's predictions for them:

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
# Put them in a folder, with one subfolder per class. To show that you need nothing else, we pretend that
# some of the clothes are your images and write them to disk.

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
# One tenth of the images was set aside for validation and one tenth for testing. The recipe is the same,
# with all seven tricks and all processes. The letters weights work for colour images, too: each colour
# channel gets a third of the grey filter.

# %%
mine = train(whole, photos, images=budget.images // 4, label="your own images")
f"{mine.val_accuracy:.0%} of {len(photos.val)} images, from {mine.labels} labels"

# %% [markdown]
# From the shell, run `fasttricks train --data FOLDER --save mine.safetensors`.
#
# ## Several machines
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
# ## A runtime that is taken away
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
# ## Questions
#
# **1. Why is the speed-up on the cold wall smaller than on the train clock?**
#
# <details><summary>Answer</summary>Starting Python, importing torch and reading the data cost both arms
# the same number of seconds, and starting several processes costs a few more. A short run consists mostly
# of these costs.</details>
#
# **2. Why can you add the seven tricks in any order?**
#
# <details><summary>Answer</summary>Learning-rate factors are multiplied, maps of targets commute, and the
# world, the first weights and the precision have one owner each.</details>
#
# **3. A trick adds a point on the ladder, and nothing is lost without it. How can both be true?**
#
# <details><summary>Answer</summary>Another trick, added later, gives the same gain: the two are
# substitutes. The ladder credits the one that came first.</details>
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
