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
# Before we speed anything up, we need something to be faster than, and an honest way to say by how much.
# This chapter reads plain training line by line, finds the eight places where a trick can act, and
# turns accuracy into seconds.
#
# About 15 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/00_baseline.ipynb).
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
# The budget follows the device: which network, how large the images, how many of them, how many runs. It
# also holds a *target*, the validation accuracy that counts as arrived; we come back to it.

# %%
from fasttricks import BASELINE, choose_budget, load, train

budget, data = choose_budget(), load()
budget

# %% [markdown]
# ## The data
#
# Fashion-MNIST is in the repository: 55,000 pictures of clothes to train on, 5,000 to choose by, and
# 10,000 that are read once, at the very end. We look at one of each kind.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import holds, plot, show

first = [int((data.train.y == kind).nonzero()[0, 0]) for kind in range(10)]
show([data.train.x[row] for row in first[:5]], data.classes[:5])
show([data.train.x[row] for row in first[5:]], data.classes[5:])
plt.show()

# %% [markdown]
# Pullover, coat and shirt look much alike, so do not expect any network here to be always right. Before
# we go on, we count what we have.

# %% tags=["nbval-check-output"]
sizes = [len(part) for part in (data.train, data.val, data.test)]
holds(
    sizes == [55_000, 5_000, 10_000],
    "55,000 images to train on, 5,000 to choose by, 10,000 to test",
)
holds(data.train.y.unique().tolist() == list(range(10)), "there are ten kinds of clothes")

# %% [markdown]
# Each part is one tensor of bytes. A batch is a selection of its rows, mirrored at random and scaled to
# numbers between -1 and 1. There is no loader to wait for. We draw one batch:

# %%
import torch

draws = data.draws(BASELINE.batch, torch.Generator().manual_seed(0))
rows, noise = next(draws)
x, q = data.batch(rows, noise)
x.shape, q.shape, x.min().item(), x.max().item()

# %% [markdown]
# The letters are the same in every chapter: `x` are images, `y` class numbers, and `q` are the *targets*,
# ten probabilities an image. Here they are a 1 for the right class and 0 for the others. Chapters 4 and 5
# will put other probabilities there.
#
# ## The network
#
# The network comes from timm, a library of image models. Within one budget, every chapter uses the same.

# %%
from fasttricks.models import create

net = create(budget.model, data.channels, len(data.classes))
print(f"{budget.model}: {sum(p.numel() for p in net.parameters()):,} parameters")

# %% [markdown]
# ## The hurt
#
# We train it plainly, and write down the accuracy on the way.

# %%
run = train(BASELINE, data, evaluations=8)
seconds, accuracy = [p[1] for p in run.curve], [p[2] for p in run.curve]
plot({"plain": (seconds, accuracy)}, "train clock, seconds", "validation accuracy", marks=True)
plt.show()

# %% [markdown]
# Read it from the left: a steep climb, then a bend. Beyond the bend, the same number of seconds buys ever
# less. That is the hurt. Where the line dips, nothing broke; it is luck, and below we measure how much.
# All seven tricks try to be as high, farther to the left.
#
# The line above the figure says whether the run ended at the target. A run this short is not meant to:
# plain training needs many more images, as we shall see.
#
# ## By hand: the loop
#
# Here is training with nothing left out. First the batches and the optimiser, AdamW, are made. Then the
# same five lines run again and again. Read their comments as the story of one batch.


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
# One name needs a word: `groups`. *Weight decay* pulls weights a little towards zero at each step. It is
# meant for the large tensors; biases and the scales of norm layers are commonly spared. So the optimiser
# gets two groups.


# %%
def groups(net, recipe):
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    decay = {"params": matrices, "weight_decay": recipe.weight_decay}
    return [decay, {"params": others, "weight_decay": 0.0}]


# %% [markdown]
# ## Check it
#
# The package has one training loop, `fasttricks/loop.py`, and all chapters use it. Does it do the same
# as ours? Two equal networks, the same seed, twenty steps each. We compare on the CPU in the smallest
# size, for a GPU may add the same numbers in another order and round them otherwise.

# %%
from fasttricks.loop import fit

small = choose_budget("smoke")
nets = [create(small.model, data.channels, len(data.classes)).train() for _ in range(2)]
nets[1].load_state_dict(nets[0].state_dict())
here = data.to(torch.device("cpu"), small.image_size)

# %% [markdown]
# Both train, and we look for the largest difference between any two weights.

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
# Is the package's accuracy what we think it is, the share of right answers? We count them ourselves.

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
# A trick has to act *somewhere* in that loop. There are eight places, and seven tricks that use them. Each
# has a line of the loop, what can be changed there, and the chapters that do.

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
# As a picture, with an arrow from the end of one step to the beginning of the next:

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
# Read it from top to bottom: lines 1 and 2 happen once, lines 3 to 8 at every step. Where two tricks meet
# on a line, they do not collide. On line 3 one says how many images and the other who takes which; on
# line 4 one works on what the other has made; on line 5 each gives a factor, and the factors multiply.
#
# Are these the places in the package's loop? We search its source.

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
# ...which differs in one expression. Did you find it? Now think of the copy with a schedule *and*
# smoothing, and of the one with mixed precision as well. And a mistake found in one of them must be mended
# in all. How many copies are there for all combinations of seven tricks, each in or out?

# %%
length = len(inspect.getsource(smoothing_loop).splitlines())
print(f"{2**7} loops, {2**7 * length:,} lines")

# %% [markdown]
# So the course has one loop, which knows no trick, and a **recipe** that says what goes into its eight
# places. A trick fills a place. Adding one is a plus sign.

# %%
from fasttricks import LabelSmoothing

recipe = BASELINE + LabelSmoothing(0.1)
print(recipe.tricks)

# %% [markdown]
# Is it the same as the edited copy? Again two equal networks and twenty steps.

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
# "Faster" needs a clock, and there are two honest ones. The **train clock** runs in the loop and pauses
# while we evaluate. The **cold wall** starts with the process and never pauses: imports, data, weights,
# every evaluation. A run keeps both. In a notebook, the second one starts at the call.

# %%
print(f"train clock {run.train_seconds:.1f} s, evaluations {run.eval_seconds:.1f} s")
print(f"from the call to the result {run.wall_seconds:.1f} s")

# %% [markdown]
# A trick may win on one clock and lose on the other. Several processes, for instance, take their time
# to start.
#
# ## Seeds: how much is luck?
#
# The seed draws the first weights, the order of the images, and which ones are mirrored. Five seeds,
# nothing else changed. We print where they end.

# %%
runs = [run] + [
    train(BASELINE, data, seed=seed, label=f"plain, seed {seed}") for seed in range(1, 5)
]
scores = sorted(run.val_accuracy for run in runs)
print(f"lowest {scores[0]:.4f}, middle {scores[2]:.4f}, highest {scores[4]:.4f}")
print(f"spread {100 * (scores[4] - scores[0]):.2f} points")

# %% [markdown]
# And on the way? At each evaluation that all five had, we sort the five accuracies. (The first run was
# evaluated twice as often, so we take every second of its marks.)

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
# Look at the space between the highest and the lowest line: it is luck alone. A trick that claims less
# than this from one run has claimed nothing. That is why a comparison in this course uses the same seeds
# on both sides, prints how many there were, and shows the lowest and the highest.
#
# ## From accuracy to seconds
#
# Is a trick that gains a point better than one that trains twice as fast? Images a second can be bought
# with a worse network, and accuracy with more time. So we hold one still and measure the other: the
# result of a trick is the **time to a target accuracy**. You know what a second costs; what a point costs
# depends on where on the curve you stand.
#
# **How the target was set.** A recorded study of plain training took the best of many rates, batches and
# two optimisers, trained with twenty seeds, and kept the median of where they ended. Half of all runs end
# below a median, and a notebook has few. So the target of the `cpu` budget is that number, rounded down to a
# whole point; those of the other budgets are guesses. It is the same for all recipes. What is fitted is
# the number of images that a recipe sees: as many as it needs.

# %%
from fasttricks.course import published

for study in published():
    print(f"study {study.study}: {study.target}, the median of {study.target_seeds} seeds")
print(f"target {budget.target}")
print(
    f"plain training gets {budget.plain:,} images to be there, a run in a chapter {budget.images:,}"
)

# %% [markdown]
# So where the second number is the smaller one, the runs of the chapters end below the target, and say so.
# They compare recipes after equal images, which is quick. Times to the target are compared in the last
# chapter.
#
# **What counts.** Only the end of a run. Lines jump, and who looks often enough catches a lucky moment
# above the target. A run that ends below counts as *never*, which is infinity, and is kept. Here is one
# that cannot arrive.

# %%
missed = train(BASELINE, data, images=BASELINE.batch, target=0.99, label="one step only")

# %% tags=["nbval-check-output"]
holds(not missed.reached, "one step does not bring the network to 0.99")
holds(missed.seconds_to_target == float("inf"), "a missed target counts as infinite time")

# %% [markdown]
# A recipe has several runs. It is at the target if the *mean* of their ends is, and its time is their
# median, so that one disturbed run does not move it.
#
# ## How to read a speed-up
#
# A **speed-up** is a ratio of two times, the median of the slow arm over the median of the fast one. A
# ratio of noisy things is noisy. How far might it be off? A *pair* is a slow and a fast run with the same
# seed. From the pairs that we have, we draw as many as there are, where one may come up twice and another
# not at all, and note the speed-up of what we drew. We do it two thousand times. The *interval* is where
# 95 in 100 of these speed-ups fall. This is the **bootstrap**.


# %%
def interval(slow, fast, draws=2000, seed=0):
    rng = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(slow), (draws, len(slow)), generator=rng)
    slow, fast = (torch.tensor(times)[picks].median(1).values for times in (slow, fast))
    ratios = (slow / fast).sort().values
    return ratios[int(0.025 * draws)].item(), ratios[int(0.975 * draws)].item()


# %% [markdown]
# A sharp test of a measurement is to measure *nothing*. We compare plain training with itself: the
# runs' times against the same times in another order.

# %%
times = [run.train_seconds for run in runs]
low, high = interval(times, times[1:] + times[:1])
print(f"plain against itself: {low:.2f} to {high:.2f} times as fast")

# %% [markdown]
# The interval should contain 1, and its width tells how quiet the machine is. Only where an interval
# leaves 1 out may we speak of a speed-up. To see that the tool can also say yes, we feed it times that
# really are halved. And we look at what the interval is with few pairs.

# %% tags=["nbval-check-output"]
halved = interval([2.0, 2.2, 1.9, 2.1, 2.0], [1.0, 1.1, 0.95, 1.05, 1.0])
holds(abs(halved[0] - 2) < 1e-4 and abs(halved[1] - 2) < 1e-4, "half the time is twice the speed")
apart = interval([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0, 1.0])
holds(apart[0] < 1 < apart[1], "shuffled times are no speed-up: the interval contains 1")
lowest, highest = apart
holds(lowest <= 1 / 2 and highest >= 5, "of five pairs, it spans the lowest and the highest ratio")

# %% [markdown]
# So with five pairs or fewer, the interval is at least as wide as all that was seen. But few pairs can
# agree by chance: if a trick does nothing, three pairs fall on one side of 1 as often as three coins fall
# alike, one time in four; five pairs, one time in sixteen. Therefore look at the size, too. A gain many
# times as large as the spread is hardly luck. A small one needs more seeds.
#
# ## Questions
#
# **1. Why do we not compare accuracies after a fixed number of epochs?**
#
# <details><summary>Answer</summary>Because an epoch costs different tricks different times, and the
# reader pays in seconds.</details>
#
# **2. Why must both sides use the same seeds?**
#
# <details><summary>Answer</summary>Then luck that they share cancels in the pair, and fewer runs tell
# more.</details>
#
# **3. Why is a run that missed the target not left out?**
#
# <details><summary>Answer</summary>Leaving out failures makes a lottery look like a method.</details>
#
# **4. Which clock would you look at for a job that runs all night? For one of ten seconds?**
#
# <details><summary>Answer</summary>All night: they differ by the evaluations alone, which
# can be a third where they are frequent. Ten seconds: the cold wall, because most of it is starting up.</details>
#
# **5. Two tricks both change the learning rate. Why can they be added in any order?**
#
# <details><summary>Answer</summary>Each is a factor, and the product of factors does not depend on their
# order.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` by your code and run the cell.
#
# **Exercise 1.** Given a run's curve, a list of (images, seconds, accuracy), and a target, return the
# seconds of its *end* if that is at the target, and infinity if not.


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
# **Exercise 2.** Return the speed-up of an arm of runs: the median time of the slow runs over that of the
# fast ones, where a time may be infinite. Never arriving is 0 times as fast.


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
