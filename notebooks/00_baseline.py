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
# Before we speed anything up, we need a baseline to beat, and an honest way to measure by how much. This
# chapter promises three things:
#
# 1. **The loop.** We read plain training line by line, and find the *slots*: the places in the loop where
#    a trick can act.
# 2. **Luck.** We train sixteen times without any change that matters, see how much the accuracy changes
#    anyway, and derive a rule that says which gains count.
# 3. **Speed.** We settle what "twice as fast" means here, and how far such a number can be trusted.
#
# These are the seven tricks of the course:
#
# | chapter | trick | in one line |
# |---|---|---|
# | 1 | several processes | share each batch, and average the gradients |
# | 2 | learning-rate scaling | take larger batches, and raise the learning rate with them |
# | 3 | one-cycle | let the learning rate rise and fall once in a run |
# | 4 | mixup | train on blends of two images |
# | 5 | label smoothing | ask the network for a little less than certainty |
# | 6 | transfer learning | start from weights learned on other images |
# | 7 | mixed precision | compute in 16 bits instead of 32 where that is safe |
#
# About 25 minutes to read, and two to run.

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
# The budget depends on the device. It sets the network, the image size, how many images a run sees, and how
# many runs a comparison has unless the text says otherwise. It also sets a *target accuracy*, which a later
# section explains. We move the data to the device that will train.
#
# Sentences with numbers are written by code, so that they tell what happened in the run that you see. `say`
# shows such a sentence. Here is the first one:

# %%
from fasttricks import BASELINE, choose_budget, load, train
from fasttricks.course import say

budget, device = choose_budget(), BASELINE.world.device()
data = load().to(device, budget.image_size)
epochs = budget.images / len(data.train)
say(
    f"A full run in this chapter trains **{budget.model}** on images of {budget.image_size}×"
    f"{budget.image_size} pixels and sees {budget.images:,} of them. That is **{epochs:.2f} epochs**: one "
    f"*epoch* is one pass over all {len(data.train):,} training images."
)

# %% [markdown]
# ## The data
#
# Fashion-MNIST comes with the repository: 55,000 pictures of clothes for training, 5,000 for validation,
# which judge every run, and 10,000 for testing, which the course uses once, at its very end. Here is one
# picture of each kind.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import holds, plot, show

first = [int((data.train.y == kind).nonzero()[0, 0]) for kind in range(10)]
show([data.train.x[row] for row in first[:5]], data.classes[:5])
show([data.train.x[row] for row in first[5:]], data.classes[5:])
plt.show()

# %% [markdown]
# Ten kinds, so guessing is right once in ten times. We count the images and the kinds. `holds` prints a claim
# if it is true, and stops the notebook if it is not.

# %% tags=["nbval-check-output"]
sizes = [len(part) for part in (data.train, data.val, data.test)]
holds(
    sizes == [55_000, 5_000, 10_000],
    "55,000 images to train on, 5,000 for choosing settings, 10,000 to test",
)
holds(data.train.y.unique().tolist() == list(range(10)), "there are ten kinds of clothes")

# %% [markdown]
# All training images are one tensor, so a batch is a selection of its rows. Two functions make batches:
#
# - `data.draws` endlessly yields the next row numbers, reshuffled in every epoch, and one random number for
#   each row, the `noise`.
# - `data.batch` takes these rows out of the tensor, mirrors an image left to right if its noise is below one
#   half, and scales the pixels to numbers between -1 and 1.

# %%
import torch

draws = data.draws(BASELINE.batch, torch.Generator().manual_seed(0))
row_numbers, noise = next(draws)
x, q = data.batch(row_numbers, noise)
say(
    f"One batch: {len(x)} images of {x.shape[-2]}×{x.shape[-1]} pixels between {x.min():.0f} and "
    f"{x.max():.0f}, of which {int((noise < 0.5).sum())} were mirrored, and for each image "
    f"{q.shape[1]} target probabilities."
)

# %% [markdown]
# Every chapter uses the same letters: `x` for images, `y` for class numbers, and `q` for the *target
# probabilities*, ten per image. Here they are 1 for the right class and 0 for the others. Chapters 4 and 5
# will use other values. PyTorch's `DataLoader` does the same work for image files on a disk; ours
# fit into memory.
#
# Two runs with the same seed and the same batch size see the same images in the same order.
#
# ## The network and the plain recipe
#
# The network comes from timm, a library of image models. Within one budget, every chapter uses the same one.

# %%
from fasttricks.models import create

net = create(budget.model, data.channels, len(data.classes))
kinds = (torch.nn.Conv2d, torch.nn.Linear)
layers = sum(isinstance(part, kinds) for part in net.modules())
parameters = sum(tensor.numel() for tensor in net.parameters())

# %%
say(
    f"`{budget.model}` is a small residual network of **{layers} layers** (convolutions and fully connected "
    f"ones) with **{parameters:,} parameters**, the numbers that training adjusts. It turns an image into "
    f"{len(data.classes)} scores, one for each kind of clothes."
)

# %% [markdown]
# A **recipe** is all that we decide about training: a few settings, and the tricks that are added to them.
# `BASELINE` is the plain recipe. Here is what each of its settings decides.

# %%
import pandas as pd

decided = {
    "optimizer": "how a step is computed from the gradients",
    "lr": "learning rate: how far a step goes; here the same for every step",
    "batch": "how many images one step looks at",
    "momentum": "how much of the earlier steps a step keeps (AdamW calls it beta1)",
    "weight_decay": "how strongly each step pulls the weights towards zero",
    "tricks": "what the chapters add; none yet",
}
values = {name: str(getattr(BASELINE, name)) for name in decided}
pd.DataFrame({"value": values, "decides": decided})

# %% [markdown]
# Any trick can beat a badly tuned baseline. So the optimiser, the learning rate and the batch size were
# chosen from 24 combinations on two CPU cores. The seven tricks together were given 24 tries as well.
#
# ## The problem: diminishing returns
#
# We train the plain recipe and evaluate it eight times, after equal numbers of images. The *train clock*
# pauses during the evaluations. To know where the curve starts, we also evaluate the network before any
# training.
#
# The first training in a new process is slow: memory is claimed, threads start, caches are empty. So we do
# a short run first and discard its time.

# %%
from fasttricks.loop import accuracy as measure

train(BASELINE, data, images=budget.images // 4, evaluations=2, label="only to warm up")
run = train(BASELINE, data, evaluations=8)
torch.manual_seed(run.seed)  # which gives the weights that the run started from
untrained = create(budget.model, data.channels, len(data.classes)).to(device)
start = measure(untrained, data, data.val[: budget.val], BASELINE)
seen = [0, *[point[0] for point in run.curve]]
accuracy = [start, *[point[2] for point in run.curve]]
plot({"plain": (seen, accuracy)}, "images seen", "validation accuracy", marks=True)
plt.show()

# %% [markdown]
# Accuracies are shares, such as 0.83. We state their differences in *points*: from 0.83 to 0.84 is one point.

# %%
gain_early, gain_late = 100 * (accuracy[4] - accuracy[0]), 100 * (accuracy[8] - accuracy[4])
say(
    f"Before training, the accuracy is {start:.2f}. The first half of the images brought {gain_early:.1f} "
    f"points, and the second half {gain_late:.1f}. Each image takes the same time, so "
    + ("**time buys less and less**." if gain_late < gain_early else "no bend is seen yet.")
)

# %% [markdown]
# That is the problem of this course: a training curve climbs steeply, and then it bends. All seven tricks aim
# to reach the same accuracy sooner.
#
# ## The loop, by hand
#
# Here is the complete training loop. It creates the stream of batches and the optimiser, AdamW, and then runs
# the same five lines again and again. Their comments tell the story of one batch.


# %%
def plain_loop(net, data, images, seed, recipe=BASELINE):
    draws = data.draws(recipe.batch, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(
        groups(net, recipe), recipe.lr, (recipe.momentum, 0.999), fused=True
    )
    for _ in range(images // recipe.batch):
        x, q = data.batch(*next(draws))  # images and their target probabilities
        loss = torch.nn.functional.cross_entropy(net(x), q)  # how wrong the network is
        loss.backward()  # which way each weight should move
        optimizer.step()  # move it a little
        optimizer.zero_grad()  # forget the direction


# %% [markdown]
# With `fused=True`, the optimiser updates all weights in one call, which saves time and changes nothing but
# rounding. `groups` says which weights decay, that is, are pulled towards zero a little at each step. Decay
# is meant for the large tensors. Biases and the scales of norm layers are usually exempt, so we make two
# groups. ([`examples/plain.py`](../examples/plain.py) is all of this as one script in ordinary PyTorch.)


# %%
def groups(net, recipe):
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    decay = {"params": matrices, "weight_decay": recipe.weight_decay}
    return [decay, {"params": others, "weight_decay": 0.0}]


# %% [markdown]
# The package has one training loop, `fit`, and all chapters use it. Does it do the same as ours? We train
# two identical networks with the same seed for twenty steps each. We do it in the smallest budget, `smoke`,
# and on the CPU, because a GPU may add the same numbers in another order and round them differently.

# %%
from fasttricks.loop import fit

small = choose_budget("smoke")
here = data.to(torch.device("cpu"), small.image_size)


def side_by_side(our_loop, recipe):
    nets = [create(small.model, data.channels, len(data.classes)).train() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    asked = {"data": here, "images": 20 * recipe.global_batch, "seed": 1}  # 20 whole batches
    our_loop(nets[0], **asked)
    fit(recipe, nets[1], **asked, evaluations=1)
    return nets


# %% [markdown]
# Then we look for the largest difference between corresponding weights.


# %%
def largest_difference(nets):
    pairs = zip(*[net.parameters() for net in nets], strict=True)
    return max((ours - theirs).abs().max().item() for ours, theirs in pairs)


nets = side_by_side(plain_loop, BASELINE)

# %% tags=["nbval-check-output"]
holds(largest_difference(nets) < 1e-5, "our loop and the package's leave the same weights")

# %% [markdown]
# ## The loop, with slots
#
# The usual way to add a trick is to copy the loop and change a line. Seven tricks, each on or off, would
# make 128 copies, and a mistake in one would have to be fixed in all. So the course has a single loop,
# which contains no tricks. Each line marked `slot` asks the recipe. If no trick fills the slot, the line
# does what the plain loop does. We leave out the lines of the seventh slot, which only several processes need
# (chapter 1), and those that only 16-bit numbers on a GPU need (chapter 7).

# %%
import numpy as np
from torch.nn.functional import cross_entropy


def loop_with_slots(recipe, net, data, images, seed):
    # slot start: the weights that the net has now
    batch = recipe.global_batch  # slot batch: how many images one step takes
    device, steps = data.train.y.device, images // batch
    rng = np.random.default_rng((seed, 0))  # the chance that tricks use
    optimizer = torch.optim.AdamW(groups(net, recipe), fused=True)
    draws = data.draws(batch, torch.Generator().manual_seed(seed))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step, steps)  # slot lr_factors
            group["betas"] = (recipe.momentum_at(step, steps), 0.999)  # slot momentum
        x, q = data.batch(*next(draws))
        for trick in recipe.fills("batch_maps"):
            x, q = trick.batch_map(x, q, rng)  # slot batch_maps
        with recipe.precision.autocast(device):  # slot precision
            loss = cross_entropy(net(x).float(), q)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


# %% [markdown]
# Which trick fills which slot? We ask the tricks.

# %%
from fasttricks import SEVEN
from fasttricks.recipe import name_of

decides = {
    "start": "which weights the network starts from",
    "world": "which processes share a batch and average their gradients",
    "batch": "how many images one step takes",
    "lr_factors": "how far a step goes",
    "momentum": "how much of earlier steps a step keeps",
    "batch_maps": "what the images and target probabilities are",
    "precision": "in which arithmetic the network computes",
}
filled = {
    slot: ", ".join(f"{trick.chapter} {name_of(trick)}" for trick in SEVEN if slot in trick.slots)
    for slot in decides
}
pd.DataFrame({"decides": decides, "filled by chapter": filled})

# %%
several = [place for place, owners in filled.items() if "," in owners]
say(
    f"**{' and '.join(several)}** take more than one trick: factors of the learning rate are multiplied, "
    f"and of two maps one works on the output of the other. Every other slot has one owner."
)

# %% [markdown]
# You add a trick to a recipe with a plus sign, and take it out with a minus sign and its name.

# %%
from fasttricks import LabelSmoothing

smoothed = BASELINE + LabelSmoothing(0.1)
five = sum(SEVEN, start=BASELINE) - "distributed" - "transfer"
print(smoothed.names, five.names, sep="\n")

# %% [markdown]
# Is the loop that you have just read the package's? We check it without any trick, and with five of them. The
# other two are left out because our shorter loop knows one process only, and because both networks must start
# from the same weights.


# %%
def against_the_package(recipe):
    return side_by_side(lambda net, **asked: loop_with_slots(recipe, net, **asked), recipe)


empty_slots, filled_slots = against_the_package(BASELINE), against_the_package(five)

# %% tags=["nbval-check-output"]
holds(largest_difference(empty_slots) < 1e-5, "without tricks, both loops leave the same weights")
holds(largest_difference(filled_slots) < 1e-5, "with five tricks, they still agree")

# %% [markdown]
# ## Two clocks
#
# "Faster" needs a clock, and we use two. The **train clock** runs during the loop and pauses while we
# evaluate. The **wall clock** never pauses: it includes creating weights and every evaluation. If training
# is a program of its own, the wall clock starts with the process and includes imports and loading data.
# Then we call it the *cold wall*. In a notebook, it starts when we call `train`.

# %%
rest = run.wall_seconds - run.train_seconds
say(
    f"Our first run took **{run.train_seconds:.1f} s** on the train clock and **{run.wall_seconds:.1f} s** "
    f"on the wall clock. So {rest / run.wall_seconds:.0%} of the time was not training: the {len(run.curve)} "
    f"evaluations took {run.eval_seconds:.1f} s, and the preparation {rest - run.eval_seconds:.1f} s."
)

# %% [markdown]
# A trick may win on one clock and lose on the other: starting several processes, for instance, takes time
# that the train clock does not see.
#
# ## How much is luck?
#
# The *seed* determines the initial weights, the order of the images, and which ones are mirrored. We train
# the plain recipe with eight seeds and change nothing else.
#
# We also train a second recipe, which has a trick of our own. `MirrorAgain` fills the slot `batch_maps` and
# mirrors every image of a batch once more. Each image was mirrored with probability one half, and it still
# is, so **this trick does nothing**. It only changes which images happen to be mirrored.
#
# A recipe together with its runs is called an *arm*, as in a medical trial. `train_arms` trains our two
# arms in turns, seed by seed, because a machine's speed drifts.

# %%
from dataclasses import dataclass
from typing import ClassVar

from fasttricks.course import train_arms


@dataclass(frozen=True)
class MirrorAgain:
    slots: ClassVar[tuple[str, ...]] = ("batch_maps",)

    def batch_map(self, x, q, rng):
        return x.flip(-1), q


arms = train_arms({"plain": BASELINE, "twice": BASELINE + MirrorAgain()}, data, seeds=8)

# %%
again = arms["plain"][0].val_accuracy
repeated = (
    "**the same seed gives the same run**, and luck is a matter of the seed"
    if again == run.val_accuracy
    else "on this machine **the same seed does not repeat a run exactly**, and not all luck is in the seed"
)
say(
    f"The plain arm with seed {run.seed} repeats our first run, which ended at {run.val_accuracy:.4f}. "
    f"Now it ended at {again:.4f}: {repeated}."
)

# %% [markdown]
# Together, these are sixteen runs that differ in nothing that matters. At each of their four evaluations, we
# take the highest, the mean and the lowest of the sixteen accuracies.

# %%
seen = [point[0] for point in arms["plain"][0].curve]
curves = np.array([[point[2] for point in found.curve] for runs in arms.values() for found in runs])
lines = {
    "highest": (seen, curves.max(0)),
    "mean": (seen, curves.mean(0)),
    "lowest": (seen, curves.min(0)),
}
plot(lines, "images seen", "validation accuracy", "16 runs that differ by luck alone", marks=True)
plt.show()

# %%
spread = 100 * (curves.max(0) - curves.min(0))
widest, ratio = spread[-1], spread[-1] / max(spread[0], 1e-9)
trend = "smaller than" if ratio < 0.8 else "larger than" if ratio > 1.25 else "about as large as"
say(
    f"At the end, **luck alone puts the best of sixteen equal runs {widest:.1f} points above the worst**. At "
    f"the first evaluation, it was {spread[0]:.1f} points, so luck is {trend} it was at the beginning. What we "
    f"measure holds for runs of this length, and for no others."
)

# %% [markdown]
# One more uncertainty is not visible here: other validation images would give other accuracies.

# %%
level, count = curves[:, -1].mean(), len(data.val[: budget.val])
say(
    f"At an accuracy of {level:.2f}, counted on {count:,} images, its standard error √(a (1 − a) / n) is "
    f"**{100 * (level * (1 - level) / count) ** 0.5:.1f} points**. So we compare only runs that were judged "
    f"on the same images, and take no single accuracy as exact."
)

# %% [markdown]
# ## A false discovery
#
# Suppose that a colleague has mirrored every batch twice by mistake, and now finds the mistake and repairs
# it. What does the repair gain? We know that it cannot gain anything, but the colleague does not. For each
# seed there is a *pair* of runs, one before the repair and one after it.

# %%
scores = {name: [found.val_accuracy for found in runs] for name, runs in arms.items()}
after, before = np.array(scores["plain"]), np.array(scores["twice"])
repair = {"before the repair": (range(8), before), "after the repair": (range(8), after)}
plot(repair, "seed", "validation accuracy", "a repair that changes nothing", marks=True)
plt.show()

# %%
pair_gains = 100 * (after - before)
say(
    f"The gain is the height of one mark above the other. With seed {pair_gains.argmax()} it is "
    f"**{pair_gains.max():+.1f} points**, and with seed {pair_gains.argmin()} **{pair_gains.min():+.1f} "
    f"points**. Both are luck."
)

# %% [markdown]
# If you report one seed, or the luckiest of eight, you may discover something that is not there.
#
# **Do shared seeds help?** The two runs of a pair share their first weights and the order of their images. If
# that did not matter, we could pair the runs after the repair with those before it in any other way, and they
# would be as close. Eight runs can be paired with eight others in 40,320 ways. We try them all.

# %%
from itertools import permutations

ways = np.array(list(permutations(range(8))))  # the first way pairs equal seeds
distances = 100 * np.abs(after - before[ways]).mean(1)
as_close = (distances <= distances[0] + 1e-9).mean()

# %%
helps = (
    "sharing a seed cancels part of the luck"
    if as_close < 0.05
    else "these runs cannot show that sharing a seed helps"
)
say(
    f"With shared seeds, the two runs of a pair differ by {distances[0]:.1f} points on average. Over all ways to "
    f"pair them, it is {distances.mean():.1f} points, and {as_close:.1%} of the ways come as close as the "
    f"shared seeds do. So **{helps}**."
)

# %% [markdown]
# A shared seed costs nothing, so every comparison in this course uses the same seeds on both sides and says
# how many there were.
#
# ## A rule for gains
#
# When is a gain more than luck? If we average several pairs, luck partly cancels: the mean of *n*
# independent pairs scatters 1/√n times as much as a single pair. So with more pairs, a smaller mean is
# enough. Our rule asks for at least **1/√n points**. The 1 is a convention that we keep in all chapters, so
# that nobody chooses it after seeing the result. We shall soon see what it is worth.
#
# As a second condition, all pairs must agree on the sign. If either fails, the verdict is *about the same*,
# or *undecided* if at least one of the pairs differs by two points or more. Here is the whole rule:


# %%
def verdict(points):  # the gain of each pair
    mean, bar = sum(points) / len(points), 1 / len(points) ** 0.5
    agree = min(points) > 0 or max(points) < 0
    if agree and abs(mean) >= bar:
        return "higher" if mean > 0 else "lower"
    return "undecided" if max(map(abs, points)) >= 2 else "about the same"


# %% [markdown]
# `gained` is the same rule in the package, and also says the numbers. We compare the two on a thousand
# made-up experiments, of one to five pairs each.

# %% tags=["nbval-check-output"]
from fasttricks.course import gained

random, same = np.random.default_rng(0), []
for case in range(1000):
    points = random.normal(0.5, 1, 1 + case % 5)
    same.append(verdict(points.tolist()) in gained(list(points / 100), [0] * len(points)))
holds(all(same), "our rule and the package's give the same verdicts")

# %% [markdown]
# What does it say about the repair?

# %%
judged = gained(scores["plain"], scores["twice"])
wrong = "higher" in judged or "lower" in judged
say(
    f"With all eight seeds, accuracy after the repair is **{judged}**"
    f"{', which is a false discovery' if wrong else ', which is right'}."
)

# %% [markdown]
# One right or wrong verdict says little about a rule. So we make up thousands of experiments of which we know
# the truth. The gain of each pair is the true gain plus luck, drawn from a normal distribution as wide
# as the luck that we have measured. Then we count how often the rule is fooled by a useless trick (it says
# higher or lower), and how often it finds a gain of one point (it says higher).

# %%
gaps = 100 * (after[:, None] - before)  # every run after the repair against every run before it
shared_luck = np.sqrt(np.mean(gaps.diagonal() ** 2))
other_luck = np.sqrt(np.mean(gaps[~np.eye(8, dtype=bool)] ** 2))


def called(gain, luck, words, pairs):
    experiments = np.random.default_rng(0).normal(gain, luck, (5_000, pairs))
    return np.mean([verdict(points) in words for points in experiments.tolist()])


truths = {
    "useless trick, shared seeds": (0, shared_luck, ("higher", "lower")),
    "useless trick, different seeds": (0, other_luck, ("higher", "lower")),
    "gain of 1 point, shared seeds": (1, shared_luck, ("higher",)),
}
rates = {
    f"{n} pair{'s' * (n > 1)}": {truth: called(*how, n) for truth, how in truths.items()}
    for n in (1, 3, 5)
}
pd.DataFrame(rates).map("{:.0%}".format)

# %%
useless, unpaired, real = (rates["3 pairs"][truth] for truth in truths)
alone = rates["1 pair"]["useless trick, shared seeds"]
say(
    f"A pair with a shared seed has luck of {shared_luck:.1f} points (root mean square), so the rule's one point "
    f"is {1 / max(shared_luck, 0.01):.1f} times as much. **With three pairs, the number in many chapters, the rule "
    f"is fooled by {useless:.0%} of useless tricks, and by {unpaired:.0%} if the seeds differ.** It finds "
    f"{real:.0%} of the gains of one point. If you try ten useless tricks with one pair each, you "
    f"see a gain or a loss that is not there with a probability of {1 - (1 - alone) ** 10:.0%}."
)

# %% [markdown]
# With more pairs, the rule is fooled less often, because all must agree. The same condition makes it overlook
# some real gains. So read a verdict from three seeds as evidence, and not as a proof.
#
# ## From accuracy to seconds
#
# Is a trick that gains a point better than one that trains twice as fast? More time buys accuracy, so the
# two cannot be compared until one is fixed. We fix the accuracy: a trick is judged by its **time to a
# target accuracy**.
#
# **How is that time found?** Accuracy jumps: if you stop a run when it first touches the target, you have
# caught a lucky moment. So only the end of a run counts. Our *study* was made once with this package, took
# hours, and is stored in the repository. It trained each arm at five or more lengths that were fixed
# beforehand, with several seeds at each length. Then it laid a smooth curve through the mean accuracies,
# and read off where the curve crosses the target accuracy. Here it is for plain training and for all seven
# tricks.

# %%
from fasttricks.course import published
from fasttricks.study.crossing import fit as curve_through


def draw_crossings(study, arms):
    lines, dots = {}, []
    for arm, name in arms.items():
        rows = np.array(study.accuracies[arm])  # of each length: images, accuracy of each seed
        images, means = rows[:, 0], rows[:, 1:].mean(1)
        longer = np.geomspace(images[0], images[-1])
        lines[name] = longer, curve_through(images, means).at(longer)
        dots.append((images, means))
    ends = [min(x[0] for x, _ in dots), max(x[-1] for x, _ in dots)]
    lines["target accuracy"] = ends, [study.target] * 2
    plot(lines, "images seen (log scale)", "mean validation accuracy", scale="log")
    for images, means in dots:
        plt.plot(images, means, "ko")
    plt.show()


shown = {"plain": "plain", "whole": "all seven tricks"}
recorded = [study for study in published() if len(study.of(*shown)) == 2]
for study in recorded:
    draw_crossings(study, shown)

# %%
for study in recorded:
    plain, whole = study.of(*shown)
    say(
        f"Recorded on {study.hardware}, with {study.runs:,} runs in all. A dot is the mean of {plain.seeds} "
        f"seeds at one length. Plain training reaches {study.target} after {plain.images.value:,.0f} images "
        f"(95 % interval: {plain.images.low:,.0f} to {plain.images.high:,.0f}), and all seven tricks after "
        f"{whole.images.value:,.0f}."
    )
if not recorded:
    say("No study is recorded here yet.")

# %% [markdown]
# This number of images, times the seconds that an image costs, is the time to the target accuracy.
#
# **How was the target chosen?** Luck moves a curve up or down a little, and its crossing with it. The flatter
# the curve, the further the crossing moves.

# %%
for study in recorded:
    rows = np.array(study.accuracies["plain"])
    curve = curve_through(rows[:, 0], rows[:, 1:].mean(1))
    luck = (rows[:, 1:].std(1, ddof=1) / np.sqrt(rows.shape[1] - 1)).mean()
    bottom = curve.at(rows[0, 0])
    low_end, high_end = (curve.images(a + luck) - curve.images(a) for a in (bottom, study.target))
    say(
        f"The mean of {rows.shape[1] - 1} plain runs has luck of {100 * luck:.1f} points. At the lower end of "
        f"the plain curve, that is worth {low_end:,.0f} images, and at the target {high_end:,.0f}."
    )

# %% [markdown]
# On a flat stretch, nobody could tell how long plain training takes. So before the study, a *pilot* trained
# the plain recipe at several lengths, with other seeds, and chose the highest accuracy at which the study can
# tell the number of images to within 15 %. The `cpu` budget rounds this target down, because a notebook has
# only a few runs. The targets of the other budgets are guesses.

# %%
say(
    f"In this notebook, the target accuracy is **{budget.target}**. Our sixteen runs ended at {level:.2f} on "
    f"average, {'below it' if level < budget.target else 'above it'}."
)

# %% [markdown]
# Most runs in chapters 1 to 7 are short like these. They compare accuracies *after the same number of
# images*, which is only a first look: it does not count what an image costs. For the verdict about time,
# these chapters quote the study.
#
# The last chapter trains its arms up to the target, each at one length that was found before. An arm
# **reaches the target** if the *mean* of its final accuracies does. Its time is then the *median* of the
# times of all its runs, so that one disturbed run does not matter. Otherwise it *never* arrives, and its
# time is infinite.
#
# ## How to read a speed-up
#
# A **speed-up** is the median time of the reference arm divided by the median time of the other arm. Above
# 1, the other arm is faster. A ratio of noisy numbers is itself noisy. To see how noisy, we again compare
# two identical arms: we train the plain recipe twice with each of ten seeds, in turns. The runs are a tenth
# as long as before, so that we can afford ten pairs.

# %%
arms_alike = {"first": BASELINE, "again": BASELINE}
short_runs = train_arms(arms_alike, data, images=budget.images // 10, seeds=10, evaluations=1)
times = {name: [found.train_seconds for found in runs] for name, runs in short_runs.items()}
turns = {name: (range(1, 11), found) for name, found in times.items()}
plot(turns, "turn", "train clock, seconds", marks=True)
plt.show()

# %%
twenty = times["first"] + times["again"]
longer = [found.train_seconds for found in arms["plain"]]
speed_up = np.median(times["first"]) / np.median(times["again"])
say(
    f"The same work took from {min(twenty):.2f} to {max(twenty):.2f} s: the slowest run took "
    f"**{max(twenty) / min(twenty) - 1:.0%} longer** than the quickest. Among the eight plain runs above, "
    f"which were ten times as long, it was {max(longer) / min(longer) - 1:.0%}. The speed-up of *again* over "
    f"*first* is **{speed_up:.3f}**, and it should be 1."
)

# %% [markdown]
# How far off might such a number be? We write each of our ten pairs on a slip of paper and draw ten slips,
# putting each one back, so that some pairs come twice and others not at all. Such a *resample* has a
# speed-up, too. We make 2,000 of them, and call the range of their middle 95 % the *interval*. This is the
# **bootstrap** (Efron 1979). The histogram is jagged because ten pairs have only so many different medians.


# %%
def resamples(reference, other, count=2000):
    picks = np.random.default_rng(0).integers(len(reference), size=(count, len(reference)))
    pairs = np.array([reference, other])
    reference_medians, other_medians = np.median(pairs[:, picks], axis=-1)
    return reference_medians / other_medians


def interval(reference, other, count=2000):
    return np.quantile(resamples(reference, other, count), (0.025, 0.975)).tolist()


low, high = interval(times["first"], times["again"])
plt.figure(figsize=(7, 3), layout="constrained")
plt.hist(resamples(times["first"], times["again"]), bins=40, color="grey")
for edge in (low, high):
    plt.axvline(edge, color="black", linestyle="--")
plt.xlabel("speed-up of a resample; dashed: the interval")
plt.ylabel("resamples")
plt.show()

# %%
contains = (
    f"It **contains 1, as it should**. From ten pairs of runs as short as these, no speed-up between {low:.2f} "
    f"and {high:.2f} can be told from no speed-up at all"
    if low <= 1 <= high
    else "It **does not contain 1, which is a false alarm**, because both arms did the same work"
)
say(f"The interval goes from {low:.3f} to {high:.3f}. {contains}.")

# %% [markdown]
# How many pairs does this method need? First, we try it on times that we make up. In the last two lines, all
# pairs are equal except for a disturbed one.

# %% tags=["nbval-check-output"]
halved = interval([2.0, 2.2, 1.9, 2.1, 2.0], [1.0, 1.1, 0.95, 1.05, 1.0])
holds(abs(halved[0] - 2) < 1e-9 and abs(halved[1] - 2) < 1e-9, "half the time is twice the speed")
holds(
    interval([0.8, 1, 1, 1, 1], [1] * 5)[0] == 0.8,
    "of five pairs, one disturbed pair moves an end of the interval",
)
holds(interval([0.8, *[1] * 9], [1] * 10)[0] == 1, "of ten pairs, one disturbed does not")

# %% [markdown]
# Then we make up four hundred comparisons of two equal arms, and count how often the interval contains the
# truth, which is 1. It should be 95 times in 100.

# %%
scatter = np.std(np.log(twenty))  # of one time, as measured above


def coverage(pairs, trials=400):
    random = np.random.default_rng(0)
    made_up = np.exp(random.normal(0, scatter, (trials, 2, pairs)))
    intervals = [interval(*both, count=500) for both in made_up]
    return np.mean([low <= 1 <= high for low, high in intervals])


covered = {pairs: coverage(pairs) for pairs in (3, 5, 10)}

# %%
short_of = [str(pairs) for pairs, share in covered.items() if share < 0.925]
said = ", ".join(f"{share:.0%} with {pairs} pairs" for pairs, share in covered.items())
say(
    f"The interval contained the truth in {said}. So **"
    + (
        f"with {' or '.join(short_of)} pairs, it promises more than it keeps"
        if short_of
        else "it keeps its promise with each of these numbers"
    )
    + "**."
)

# %%
from fasttricks.course import faster

say(
    f"Where a chapter has too few pairs for an interval, it says *about as fast* if the pairs disagree about "
    f"which arm is faster, or if the mean ratio is within 5 % of 1. Of our two equal arms, this simpler "
    f"test says: **{faster(times['again'], times['first'])}**."
)

# %% [markdown]
# ## Takeaways
#
# We promised three things. **The loop** has seven slots. With none of them filled, and with five, the loop
# that you have read leaves the same weights as the package's. (`world` and `start` wait for chapters 1 and
# 6.) This is what we have seen of **luck** and **speed**:

# %%
say(
    f"- Luck: after {epochs:.2f} epochs, runs that should be equal differed by up to {widest:.1f} points, and "
    f"by up to {np.abs(pair_gains).max():.1f} points if they shared a seed.\n"
    f"- The rule for gains: with three pairs and shared seeds, it is fooled by {useless:.0%} of useless "
    f"tricks, and it finds {real:.0%} of the gains of one point.\n"
    f"- Speed: for runs of about {np.median(twenty):.1f} s, ten pairs of the same work left everything from "
    f"{low:.2f} to {high:.2f} possible."
)

# %% [markdown]
# The rule of thumb for your own experiments:
#
# - **Change nothing first.** Train the same recipe a few times to know your luck.
# - Use the same seeds on both sides, and let the arms take turns.
# - Believe a gain only if all *n* pairs agree and the mean is well above the luck of one pair, divided by √n.
#   Otherwise, say "about the same". A gain many times as large as the luck needs few seeds, a small one many.
# - Believe a speed-up only if its interval, from ten pairs or so, excludes 1.
# - For a verdict about time, fix the target accuracy and the lengths before you train, and count all runs.
# - Warm up before you measure time, and look at both clocks.
#
# ## Questions
#
# **1. The chapters compare accuracies after the same number of images. Why is that only a first look?**
#
# <details><summary>Answer</summary>Because you pay in seconds. A trick may change what an image costs, and
# a point of accuracy is worth few seconds where the curve is steep and many where it is flat. The time to
# the target accuracy counts both.</details>
#
# **2. Why do both sides use the same seeds?**
#
# <details><summary>Answer</summary>The two runs of a pair then share their first weights and the order of
# their images, so this part of the luck may cancel in the difference. "A false discovery" measures whether
# it does. It costs nothing to try.</details>
#
# **3. Why do we not leave out a run that missed the target?**
#
# <details><summary>Answer</summary>The mean of the others would be too high: a recipe that fails every
# other time would look like one that never fails.</details>
#
# **4. Which clock would you look at for a job that runs all night? And for a job that takes ten seconds?**
#
# <details><summary>Answer</summary>All night: the train clock, because the start hardly counts; but look at
# the wall clock, too, if you evaluate often. Ten seconds: the cold wall, because imports and the start may
# take as long as the training.</details>
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
# **Exercise 1.** Say how long an arm takes to the target accuracy. You are given the final accuracies of
# its runs, their seconds, and the target accuracy. Return the median of the seconds if the mean accuracy
# reaches the target, and infinity if it does not.


# %%
from fasttricks.course import check


def arm_seconds(accuracies, seconds, target):
    raise NotImplementedError


check("baseline", 1, arm_seconds)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def arm_seconds(accuracies, seconds, target):
#     from statistics import mean, median
#
#     return median(seconds) if mean(accuracies) >= target else float("inf")
# ```
#
# </details>
#
# **Exercise 2.** Return the speed-up between two arms that both reach the target: the median time of the
# slow arm's runs divided by that of the fast arm's. An arm may have an even number of runs.


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
# **Exercise 3.** An evaluation goes through the images in batches, and its accuracy must count every image
# once. `right` is a list with True or False for each image. Go through it `batch` images at a time and
# return the share of all images that are right. The last batch may be smaller than the others.


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
