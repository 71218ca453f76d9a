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
# much sooner is the same network at the same validation accuracy?*
#
# We train a timm network on all of Fashion-MNIST, plainly and with all seven tricks, and read two
# clocks. The **train clock** runs while the network trains. The **cold wall** starts with the process
# and never stops: imports, data, weights and every evaluation are on it.

# %% [markdown]
# The first cell makes a bare Colab or Kaggle ready. Where the course is installed, it does nothing.

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

# %% [markdown]
# The budget follows the device: small sizes on a CPU, larger ones on a GPU.

# %%
from fasttricks import BASELINE, SEVEN, choose_budget, load, train
from fasttricks.models import letters_cost
from fasttricks.report import accuracy_against_time, caption, holds, recipe_table, table

budget, data = choose_budget(), load()
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
# curve on the left.
#
# ## Two recipes, and a third for honesty
#
# Every run below is started in a process of its own, so that its cold wall is a real one. All seven
# tricks include several processes: one a GPU, or two on a CPU, where each core plays one device. Two
# processes on one CPU share what one process would have had alone. So we also train the other six
# tricks in one process, and let the table say whether the first trick pays here.

# %%
recipes = {
    "plain": (BASELINE, budget.plain),
    "all seven": (whole, budget.whole),
    "six, one process": (whole - "distributed", budget.whole),
}

# %% [markdown]
# The number of images each recipe sees is a part of the result. A schedule that ends low is at its
# best at its end, so each arm gets the number of images at which its mean accuracy was at the target
# in trials beforehand. The arms take turns, seed by seed.

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
# runs, and infinite when the target was missed. The weights that transfer learning starts from were made
# beforehand, once for every run that will ever use them. What that took stands above the table.

# %% tags=["result"]
print(caption(arms["plain"][0]))
print("letters weights, not on these clocks:", letters_cost(budget.model))
table(arms)

# %% [markdown]
# Read the two speed-ups first. One run does not pay back the letters weights; many runs do. On the cold wall the gain is smaller: starting Python, importing torch
# and reading the data take the same time for every recipe, and starting several processes takes
# longer. Then compare the last two columns: where six tricks in one process are sooner than seven in
# two, the first trick costs more than it gives on this machine.

# %% tags=["figure"]
accuracy_against_time(arms)
plt.show()

# %% [markdown]
# Each line is one run, each point one evaluation, and the mark is where the run ended. Look at the
# scale below: it is logarithmic.
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
# The second thing must hold at every seed: the six tricks end higher than plain training stands when it
# has seen as many images, or more.


# %% tags=["nbval-check-output"]
def plain_by_then(run, images):
    return next(accuracy for seen, _, accuracy in run.curve if seen >= images)


pairs = list(zip(arms["plain"], arms["six, one process"], strict=True))
higher = all(six.val_accuracy > plain_by_then(plain, six.images_seen) for plain, six in pairs)
holds(higher, "six tricks end above plain training after as many images, at every seed")

# %% [markdown]
# ## The trained network, used
#
# The last run's network came back from its processes. We show it five test images.

# %%
import torch

net, some = arms["all seven"][-1].net.eval(), data.test[:5]
with torch.inference_mode():
    chances = torch.softmax(net(data.normalise(some.x)), 1)

figure, axes = plt.subplots(1, 5, figsize=(8, 2.2), layout="constrained")
for ax, picture, row in zip(axes, some.x, chances, strict=True):
    ax.imshow(picture[0], cmap="gray")
    ax.set_title(f"{data.classes[row.argmax()]}, {row.max():.0%}", fontsize=9)
    ax.axis("off")
plt.show()
