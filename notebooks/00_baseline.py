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
# # 0. The baseline, and how we measure
#
# Before we speed anything up, we need a baseline to beat and an honest way to measure by how much. In
# this chapter we read plain training line by line, find the eight places where a trick can act, and turn
# accuracy into seconds.
#
# This chapter takes about 15 minutes to read and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb).
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
# The budget depends on the device. It sets the network, the image size, the number of images, and the
# number of runs. It also sets a *target*, the validation accuracy to reach; we come back to it below.

# %%
from fasttricks import BASELINE, choose_budget, load, train

budget, data = choose_budget(), load()
budget

# %% [markdown]
# ## The data
#
# Fashion-MNIST comes with the repository: 55,000 pictures of clothes for training, 5,000 for validation,
# and 10,000 for testing, which we use once, at the very end. Here is one picture of each kind.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import holds, plot, show

first = [int((data.train.y == kind).nonzero()[0, 0]) for kind in range(10)]
show([data.train.x[row] for row in first[:5]], data.classes[:5])
show([data.train.x[row] for row in first[5:]], data.classes[5:])
plt.show()

# %% [markdown]
# Pullovers, coats and shirts look very similar, so do not expect any network here to be right every time.
# Before we go on, we count the images and the classes.

# %% tags=["nbval-check-output"]
sizes = [len(part) for part in (data.train, data.val, data.test)]
holds(
    sizes == [55_000, 5_000, 10_000],
    "55,000 images to train on, 5,000 to choose by, 10,000 to test",
)
holds(data.train.y.unique().tolist() == list(range(10)), "there are ten kinds of clothes")

# %% [markdown]
# The images of each part are one tensor of bytes. A batch is a selection of its rows, mirrored at random
# and scaled to numbers between -1 and 1. We never have to wait for a data loader. Let us draw one batch:

# %%
import torch

draws = data.draws(BASELINE.batch, torch.Generator().manual_seed(0))
rows, noise = next(draws)
x, q = data.batch(rows, noise)
x.shape, q.shape, x.min().item(), x.max().item()

# %% [markdown]
# Every chapter uses the same letters: `x` for images, `y` for class numbers, and `q` for the *targets*,
# ten probabilities per image. Here the targets are 1 for the right class and 0 for the others. Chapters 4
# and 5 will use other probabilities.
#
# ## The network
#
# The network comes from timm, a library of image models. Within one budget, every chapter uses the same
# network.

# %%
from fasttricks.models import create

net = create(budget.model, data.channels, len(data.classes))
print(f"{budget.model}: {sum(p.numel() for p in net.parameters()):,} parameters")

# %% [markdown]
# ## The hurt
#
# We train the network without any tricks and record the accuracy along the way.

# %%
run = train(BASELINE, data, evaluations=8)
seconds, accuracy = [p[1] for p in run.curve], [p[2] for p in run.curve]
plot({"plain": (seconds, accuracy)}, "train clock, seconds", "validation accuracy", marks=True)
plt.show()

# %% [markdown]
# Read the curve from the left: it climbs steeply, then bends. Beyond the bend, the same number of seconds
# buys less and less accuracy. That is the hurt. Where the line dips, nothing is broken; the dip is luck,
# and below we measure how large luck is. All seven tricks aim to reach the same height farther to the
# left.
#
# The line above the figure says whether the run ended at the target. A run this short is not meant to:
# plain training needs many more images, as we shall see.
#
# ## By hand: the loop
#
# Here is the complete training loop. It first creates the batches and the optimiser, AdamW, and then runs
# the same five lines again and again. Their comments tell the story of one batch.


# %%
def plain_loop(net, data, images, seed, recipe=BASELINE):
    draws = data.draws(recipe.batch, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(
        groups(net, recipe), recipe.lr, (recipe.momentum, 0.999), fused=True
    )
    for _ in range(images // recipe.batch):
        x, q = data.batch(*next(draws))  # some images and their targets
        loss = torch.nn.functional.cross_entropy(net(x), q)  # how wrong the network is
        loss.backward()  # which way each weight should move
        optimizer.step()  # move it a little
        optimizer.zero_grad()  # forget the direction


# %% [markdown]
# One function needs an explanation: `groups`. *Weight decay* pulls weights a little towards zero at each
# step. It is meant for the large tensors; biases and the scales of norm layers are usually exempt. So we
# give the optimiser two parameter groups.


# %%
def groups(net, recipe):
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    decay = {"params": matrices, "weight_decay": recipe.weight_decay}
    return [decay, {"params": others, "weight_decay": 0.0}]


# %% [markdown]
# ## Check it
#
# The package has one training loop, `fasttricks/loop.py`, and all chapters use it. Does it do the same as
# ours? We train two identical networks with the same seed for twenty steps each. We compare them on the
# CPU at the smallest size, because a GPU may add the same numbers in a different order and round them
# differently.

# %%
from fasttricks.loop import fit

small = choose_budget("smoke")
nets = [create(small.model, data.channels, len(data.classes)).train() for _ in range(2)]
nets[1].load_state_dict(nets[0].state_dict())
here = data.to(torch.device("cpu"), small.image_size)

# %% [markdown]
# We train both networks and find the largest difference between corresponding weights.

# %%
plain_loop(nets[0], here, images=20 * BASELINE.batch, seed=1)
done = fit(BASELINE, nets[1], here, images=20 * BASELINE.batch, seed=1, evaluations=1)
apart = max(
    (a - b).abs().max().item()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True)
)

# %% tags=["nbval-check-output"]
holds(apart < 1e-5, "our loop and the package's leave the same weights")

# %% [markdown]
# Is the package's accuracy what we think it is, the share of right answers? To find out, we count the
# right answers ourselves.

# %% tags=["nbval-check-output"]
from fasttricks.course import probabilities
from fasttricks.loop import accuracy as measure

guesses = probabilities(nets[1], here, here.val).argmax(1)
share = (guesses == here.val.y).double().mean().item()
holds(
    abs(share - measure(nets[1], here, here.val, BASELINE)) < 1e-9,
    "accuracy is right answers over images",
)

# %% [markdown]
# ## Eight places
#
# A trick has to act *somewhere* in that loop. The loop has eight such places, and the seven tricks use
# them. For each place, we list the line of the loop, what can be changed there, and the chapters that
# change it.

# %%
places = [
    ("net = create(...)", "which weights it starts from", "6 transfer"),
    ("net = wrap(net)", "who averages the gradients", "1 multi-GPU"),
    ("x, q = batch(shard(rows))", "how many images, for whom", "1 multi-GPU, 2 scaling"),
    ("x, q = map(x, q)", "what images and targets are", "4 mixup, 5 smoothing"),
    ("lr = lr_at(step)", "how far a step goes", "2 scaling, 3 cyclic"),
    ("momentum = momentum_at(step)", "how long a step is remembered", "3 cyclic"),
    ("loss = cross_entropy(net(x), q)", "in which arithmetic", "7 precision"),
    ("scale(loss).backward(); step()", "what survives in 16 bits", "7 precision"),
]

# %% [markdown]
# Here is the same list as a picture, with an arrow from the end of one step to the beginning of the next:

# %%
figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
for number, (line, what, who) in enumerate(places):
    axes.text(0, -number, f"{number + 1}  {line}", family="monospace")
    axes.text(4.6, -number, what)
    axes.text(7.6, -number, who, weight="bold")
curved = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.3"}
axes.annotate("", (-0.1, -1.8), (-0.1, -7.2), arrowprops=curved)
axes.set(xlim=(-1, 10), ylim=(-len(places) + 0.5, 0.5))
axes.axis("off")
plt.show()

# %% [markdown]
# Read it from top to bottom: lines 1 and 2 run once, lines 3 to 8 at every step. Where two tricks share a
# line, they do not conflict. On line 3, one sets how many images there are and the other decides who
# takes which; on line 4, one works on the output of the other; on line 5, each contributes a factor, and
# the factors are multiplied.
#
# Does the package's loop have the same places? We search its source code.

# %% tags=["nbval-check-output"]
import inspect

from fasttricks import SEVEN

loop = inspect.getsource(fit)
marks = ["wrap(", "shards(", "batch_map(", "lr_at(", "momentum_at(", "autocast(", "scale("]
holds(all(mark in loop for mark in marks), "places 2 to 8 stand in the package's loop")
chapters = {int(name.split()[0]) for _, _, who in places for name in who.split(", ")}
holds(
    chapters == {trick.chapter for trick in SEVEN}, "each of the seven tricks acts in one of them"
)

# %% [markdown]
# ## The pain, and the recipe
#
# The usual way to add a trick is to copy the loop and edit it. Here is a copy with label smoothing...


# %%
def smoothing_loop(net, data, images, seed, recipe=BASELINE, eps=0.1):
    draws = data.draws(recipe.batch, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(
        groups(net, recipe), recipe.lr, (recipe.momentum, 0.999), fused=True
    )
    for _ in range(images // recipe.batch):
        x, q = data.batch(*next(draws))
        loss = torch.nn.functional.cross_entropy(net(x), (1 - eps) * q + eps / q.shape[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


# %% [markdown]
# ...which differs in one expression. Did you spot it? Now imagine a copy with a schedule *and* smoothing,
# and another with mixed precision as well. If you find a mistake in one of them, you must fix it in all.
# How many copies do you need for all combinations of seven tricks, each on or off?

# %%
length = len(inspect.getsource(smoothing_loop).splitlines())
print(f"{2**7} loops, {2**7 * length:,} lines")

# %% [markdown]
# So the course has one loop, which contains no tricks, and a **recipe** that says what goes into its
# eight places. A trick fills a place. You add a trick with a plus sign.

# %%
from fasttricks import LabelSmoothing

recipe = BASELINE + LabelSmoothing(0.1)
print(recipe.tricks)

# %% [markdown]
# Does the recipe do the same as the edited copy? Again, we train two identical networks for twenty steps.

# %%
twins = [create(small.model, data.channels, len(data.classes)).train() for _ in range(2)]
twins[1].load_state_dict(twins[0].state_dict())
smoothing_loop(twins[0], here, images=20 * BASELINE.batch, seed=1)
done = fit(recipe, twins[1], here, images=20 * BASELINE.batch, seed=1, evaluations=1)

# %% tags=["nbval-check-output"]
pairs = zip(twins[0].parameters(), twins[1].parameters(), strict=True)
same = max((a - b).abs().max().item() for a, b in pairs) < 1e-5
holds(same, "a recipe with a trick is the copy of the loop with that trick edited in")

# %% [markdown]
# ## Two clocks
#
# "Faster" needs a clock, and we use two honest ones. The **train clock** runs during the loop and pauses
# while we evaluate. The **cold wall** starts with the process and never pauses: it includes imports,
# data, weights and every evaluation. Each run records both. In a notebook, the cold wall starts at the
# call.

# %%
print(f"train clock {run.train_seconds:.1f} s, evaluations {run.eval_seconds:.1f} s")
print(f"from the call to the result {run.wall_seconds:.1f} s")

# %% [markdown]
# A trick may win on one clock and lose on the other. Starting several processes, for instance, takes
# time.
#
# ## Seeds: how much is luck?
#
# The seed determines the initial weights, the order of the images, and which ones are mirrored. We train
# with five seeds, change nothing else, and print the final accuracies.

# %%
runs = [run] + [
    train(BASELINE, data, seed=seed, label=f"plain, seed {seed}") for seed in range(1, 5)
]
scores = sorted(run.val_accuracy for run in runs)
print(f"lowest {scores[0]:.4f}, middle {scores[2]:.4f}, highest {scores[4]:.4f}")
print(f"spread {100 * (scores[4] - scores[0]):.2f} points")

# %% [markdown]
# What happens along the way? At each evaluation that all five runs share, we sort the five accuracies.
# (The first run was evaluated twice as often, so we take every second one of its evaluations.)

# %%
curves = [run.curve[1::2]] + [other.curve for other in runs[1:]]
seen = [point[0] for point in curves[0]]
ranked = [sorted(p[2] for p in points) for points in zip(*curves, strict=True)]
lines = {
    name: (seen, [found[rank] for found in ranked])
    for name, rank in (("highest", 4), ("middle", 2), ("lowest", 0))
}
plot(lines, "images seen", "validation accuracy", "five seeds, one recipe", marks=True)
plt.show()

# %% [markdown]
# Look at the gap between the highest and the lowest line: it is luck alone. If a trick claims a smaller
# gain than this from one run, it has shown nothing. That is why every comparison in this course uses the
# same seeds on both sides, prints how many seeds there were, and shows the lowest and the highest result.
#
# ## From accuracy to seconds
#
# Is a trick that gains a point better than one that trains twice as fast? You can buy images per second
# with a worse network, and accuracy with more time. So we fix one and measure the other: we judge a trick
# by its **time to a target accuracy**. You know what a second costs; what a point costs depends on where
# you are on the curve.
#
# **How the target was set.** A recorded study of plain training chose the best of many learning rates,
# batch sizes and two optimisers, trained with twenty seeds, and took the median of the final accuracies.
# Half of all runs end below the median, and a notebook has only a few runs. So the target of the `cpu`
# budget is that number, rounded down to a whole point; the targets of the other budgets are guesses. The
# target is the same for all recipes. What we adjust is the number of images that a recipe sees: as many
# as it needs.

# %%
from fasttricks.course import published

for study in published():
    print(f"study {study.study}: {study.target}, the median of {study.target_seeds} seeds")
print(f"target {budget.target}")
print(
    f"plain training gets {budget.plain:,} images to be there, a run in a chapter {budget.images:,}"
)

# %% [markdown]
# So where the second number is smaller, the runs in the chapters end below the target and say so. They
# compare recipes after the same number of images, which is quick. The last chapter compares times to the
# target.
#
# **What counts.** Only the end of a run counts. Curves jump, and if you look often enough, you catch a
# lucky moment above the target. A run that ends below the target counts as *never*, an infinite time, and
# we keep it. Here is a run that cannot reach the target.

# %%
missed = train(BASELINE, data, images=BASELINE.batch, target=0.99, label="one step only")

# %% tags=["nbval-check-output"]
holds(not missed.reached, "one step does not bring the network to 0.99")
holds(missed.seconds_to_target == float("inf"), "a missed target counts as infinite time")

# %% [markdown]
# A recipe has several runs. It is at the target if the *mean* of their final accuracies is, and its time
# is the median of their times, so that one disturbed run does not change it.
#
# ## How to read a speed-up
#
# A **speed-up** is a ratio of two times: the median of the slow arm divided by the median of the fast
# one. A ratio of noisy numbers is itself noisy. How far off might it be? A *pair* is a slow and a fast
# run with the same seed. From the pairs that we have, we draw the same number at random, so that one pair
# may come up twice and another not at all, and compute the speed-up of the drawn pairs. We repeat this
# two thousand times. The *interval* is the range into which 95 in 100 of these speed-ups fall. This
# method is the **bootstrap**.


# %%
def interval(slow, fast, draws=2000, seed=0):
    rng = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(slow), (draws, len(slow)), generator=rng)
    slow, fast = (torch.tensor(times)[picks].median(1).values for times in (slow, fast))
    ratios = (slow / fast).sort().values
    return ratios[int(0.025 * draws)].item(), ratios[int(0.975 * draws)].item()


# %% [markdown]
# A strict test of a measurement is to measure *nothing*. We compare plain training with itself: the times
# of the runs against the same times in a different order.

# %%
times = [run.train_seconds for run in runs]
low, high = interval(times, times[1:] + times[:1])
print(f"plain against itself: {low:.2f} to {high:.2f} times as fast")

# %% [markdown]
# The interval should contain 1, and its width shows how quiet the machine is. We may speak of a speed-up
# only if the interval excludes 1. To check that the method can also say yes, we give it times that really
# are halved. We also look at what the interval is when we have few pairs.

# %% tags=["nbval-check-output"]
halved = interval([2.0, 2.2, 1.9, 2.1, 2.0], [1.0, 1.1, 0.95, 1.05, 1.0])
holds(abs(halved[0] - 2) < 1e-4 and abs(halved[1] - 2) < 1e-4, "half the time is twice the speed")
apart = interval([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0, 1.0])
holds(apart[0] < 1 < apart[1], "shuffled times are no speed-up: the interval contains 1")
lowest, highest = apart
holds(lowest <= 1 / 2 and highest >= 5, "of five pairs, it spans the lowest and the highest ratio")

# %% [markdown]
# So with five pairs or fewer, the interval is at least as wide as the range of ratios that we saw. But a
# few pairs can agree by chance: if a trick does nothing, three pairs fall on the same side of 1 as often
# as three coins land alike, one time in four; five pairs do so one time in sixteen. So look at the size
# of the gain, too. A gain many times as large as the spread is unlikely to be luck. A small gain needs
# more seeds.
#
# ## Questions
#
# **1. Why do we not compare accuracies after a fixed number of epochs?**
#
# <details><summary>Answer</summary>Because an epoch takes a different time with different tricks, and you
# pay in seconds.</details>
#
# **2. Why must both sides use the same seeds?**
#
# <details><summary>Answer</summary>Because the luck that both sides share then cancels within each pair,
# and fewer runs tell you more.</details>
#
# **3. Why do we not leave out a run that missed the target?**
#
# <details><summary>Answer</summary>Leaving out failures makes a lottery look like a method.</details>
#
# **4. Which clock would you look at for a job that runs all night? And for a job that takes ten
# seconds?**
#
# <details><summary>Answer</summary>All night: the clocks differ only by the evaluations, which can take a
# third of the time if they are frequent. Ten seconds: the cold wall, because most of it is
# start-up.</details>
#
# **5. Two tricks both change the learning rate. Why can they be added in any order?**
#
# <details><summary>Answer</summary>Each is a factor, and the product of factors does not depend on their
# order.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell.
#
# **Exercise 1.** Given a run's curve, a list of (images, seconds, accuracy), and a target, return the
# seconds at its *end* if its final accuracy is at the target, and infinity otherwise.


# %%
from fasttricks.course import check


def seconds_to_target(curve, target):
    raise NotImplementedError


check("baseline", 1, seconds_to_target)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def seconds_to_target(curve, target):
#     _, seconds, accuracy = curve[-1]
#     return seconds if accuracy >= target else float("inf")
# ```
#
# </details>
#
# **Exercise 2.** Return the speed-up of an arm of runs: the median time of the slow runs divided by that
# of the fast runs. Times may be infinite; an arm that never arrives is 0 times as fast.


# %%
def speed_up(slow, fast):
    raise NotImplementedError


check("baseline", 2, speed_up)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def speed_up(slow, fast):
#     def middle(times):
#         ordered, half = sorted(times), len(times) // 2
#         return ordered[half] if len(times) % 2 else (ordered[half - 1] + ordered[half]) / 2
#
#     return middle(slow) / middle(fast)
# ```
#
# </details>
#
# **Exercise 3.** An accuracy must count every image once. Given right answers as a list of True and
# False, split over processes in turn, and a batch size, count batch by batch and return the accuracy.
# The last batch may be smaller.


# %%
def accuracy_in_parts(right, batch):
    raise NotImplementedError


check("baseline", 3, accuracy_in_parts)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def accuracy_in_parts(right, batch):
#     hits = 0
#     for first in range(0, len(right), batch):
#         hits += sum(right[first : first + batch])
#     return hits / len(right)
# ```
#
# </details>
#
# ## Further reading
#
# - Goyal et al. 2017, [arXiv 1706.02677](https://arxiv.org/abs/1706.02677): a careful account of training
#   faster without losing accuracy.
# - Dahl et al. 2023, [arXiv 2306.07179](https://arxiv.org/abs/2306.07179) (AlgoPerf): time to result as a
#   benchmark, and how to keep it fair.
# - Xiao et al. 2017, [arXiv 1708.07747](https://arxiv.org/abs/1708.07747): the data set.
