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
# # 4. Mixup
#
# Lay one picture over another, like two slides in a projector, and tell the network how much of each it
# sees. That is mixup: one line of code for the images, and the same line for the labels. It is meant to
# keep a network from memorising its training set. In this chapter, we build it, check it against two
# libraries, and then measure what it does to a network's accuracy: with wrong labels, with right labels,
# and in a short run.
#
# About 20 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/04_mixup.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/04_mixup.ipynb).
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
# The budget depends on the device. It sets which network we train, on how many images, and with how many
# random seeds. We move the data to the device where the networks will run, at the image size that they
# will see.

# %%
from fasttricks import BASELINE, Mixup, choose_budget, load

budget = choose_budget()
device = BASELINE.world.device()
data = load().to(device, budget.image_size)

# %% [markdown]
# Here is the whole idea in one row: an ankle boot fades into a T-shirt. Above each picture is the answer
# that mixup asks of the network.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import bars, clear, gained, holds, one_line, plot, say, show, train_arms

four = data.normalise(data.train.x[:4]).cpu()
names = [data.classes[number] for number in data.train.y[:4]]
steps = [1.0, 0.75, 0.5, 0.25, 0.0]
answers = [f"{lam:g} {names[0]}\n{1 - lam:g} {names[1]}" for lam in steps]
show([lam * four[0] + (1 - lam) * four[1] for lam in steps], answers)
plt.show()

# %% [markdown]
# Now here is what our recorded study found about this trick. Each ratio divides the first of two times by
# the second, so above 1 means that the second is shorter. Below the sentences is the trick's card,
# straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import mixup

say(headline("mixup"))
Markdown(mixup.__doc__)

# %% [markdown]
# A few terms from the card. The *slot* is the place in the training loop that the trick fills, and *chain*
# means that several tricks may fill it, one after another. Mixup and label smoothing *commute*: whichever
# comes first, the targets are the same.
#
# The study asks one question: does the network reach a fixed accuracy *sooner*? The rows *pays when* and
# *fails when* are about another one, and that is the question of this chapter: is the network *more
# accurate* after the same number of training steps?
#
# ## The problem: memorised mistakes
#
# Suppose that our labels were made in a hurry. About two in five are wrong, and nobody knows which. We
# build such a set: we take few images and change the labels of some of them to another class, drawn at
# random. We judge every network of this chapter on the same 2,000 validation images, whose labels are right
# and on which it never trains.

# %%
from dataclasses import replace

import torch

from fasttricks.data import Split

run_images = budget.images // 2  # that a run sees, repetitions counted
few_images = max(run_images // 25, BASELINE.batch)
few = replace(data.subset(few_images), val=data.val[:2000])
draw = torch.Generator().manual_seed(0)
wrong = torch.rand(few_images, generator=draw) < 0.4
shift = torch.randint(1, 10, wrong.shape, generator=draw) * wrong
hasty_y = (few.train.y + shift.to(device)) % len(data.classes)
hasty = replace(few, train=Split(few.train.x, hasty_y))

# %% [markdown]
# These are the first six training images with their new labels.

# %%
given, truth = ([data.classes[number] for number in task.train.y[:6]] for task in (hasty, few))
titles = [a if a == b else f"{a}\n(wrong: {b})" for a, b in zip(given, truth, strict=True)]
show(data.normalise(few.train.x[:6]), titles)
plt.show()

# %%
say(
    f"There are {few_images:,} images, and {int(wrong.sum()):,} of them have a wrong label. Every run of "
    f"this chapter takes {run_images // BASELINE.batch} training steps of {BASELINE.batch} images. With so "
    f"few images, it sees each one {run_images / few_images:.0f} times: {run_images / few_images:.0f} "
    "*epochs*."
)

# %% [markdown]
# We train networks and watch them. Five times during a run, we measure the validation accuracy. Because we
# made the mistakes ourselves, we can also look at the training images with a right label and at those
# with a wrong one separately, and measure what fraction of these labels the network predicts.

# %%
import numpy as np

from fasttricks.course import probabilities
from fasttricks.loop import fit
from fasttricks.models import begin


def predicted(net, split):
    return (probabilities(net, data, split).argmax(1) == split.y).float().mean().item()


def follow(recipe, task, parts, seed):
    torch.manual_seed(seed)
    size = data.channels, len(data.classes), budget.image_size
    net = begin(recipe, budget.model, *size).to(device)
    seen = []

    def look(images, accuracy):
        if images % (run_images // 5) == 0:
            seen.append([accuracy, *[predicted(net, part) for part in parts]])

    fit(recipe, net, task, run_images, seed, evaluations=5, show=look)
    return net, np.array(seen)


# %% [markdown]
# We repeat every run with several seeds, and each recipe gets the same ones. `column` collects one of the
# measured numbers from all runs of a recipe, a row per seed.


# %%
def follow_all(recipes, task, parts):
    runs = {name: [] for name in recipes}
    with one_line() as tell:
        for seed in range(budget.seeds):
            for name, recipe in recipes.items():
                tell(f"{name}, seed {seed}")
                runs[name].append(follow(recipe, task, parts, seed))
        tell(f"{len(recipes) * budget.seeds} runs of {run_images:,} images")
    return runs


def column(runs, number):
    return np.array([seen[:, number] for net, seen in runs])


def final(runs, number):
    return column(runs, number)[:, -1].mean()


def epochs(task):
    return np.arange(1, 6) / 5 * run_images / len(task.train)


# %% [markdown]
# The first runs are plain training on the wrong labels.

# %%
VALIDATION, ALL, RIGHT, WRONG = range(4)  # the columns
parts = (hasty.train, hasty.train[~wrong], hasty.train[wrong])
wrong_runs = follow_all({"plain": BASELINE}, hasty, parts)

# %%
plain_wrong = {part: column(wrong_runs["plain"], part).mean(0) for part in range(4)}
lines = {
    "right labels of training images": (epochs(hasty), plain_wrong[RIGHT]),
    "wrong labels of training images": (epochs(hasty), plain_wrong[WRONG]),
    "right labels of validation images": (epochs(hasty), plain_wrong[VALIDATION]),
}
axis = "epochs (times that each image was seen)"
several = f"mean of {budget.seeds} seed{'s' * (budget.seeds > 1)}"
plot(lines, axis, "fraction of labels predicted", f"plain training, {several}", marks=True)
plt.ylim(0, 1.05)
plt.show()

# %%
validated = plain_wrong[VALIDATION]
accident = (1 - validated[-1]) / 9
fell = 100 * (validated.max() - validated[-1])
say(
    f"By the end, the plain network predicts **{plain_wrong[WRONG][-1]:.0%} of the wrong labels**. A network "
    f"that has memorised nothing would match about {accident:.0%} of them by accident."
)
say(
    f"Its validation accuracy ends at {validated[-1]:.2f}, "
    + (f"**{fell:.0f} points below its best**." if fell >= 1 else "its best, or nearly.")
)

# %% [markdown]
# By accident means: a network that is wrong about an image names one of nine other classes, and one time in
# nine that is the class that we drew.
#
# A wrong label follows no rule, so there is only one way to predict it: memorise that image. The more the
# line of the wrong labels rises above the accidental share, the more the network has memorised. Where the
# validation line falls meanwhile, further training makes the network worse.
#
# ## By hand: four images
#
# Here are the first four training images.

# %%
show(four, names)
plt.show()

# %% [markdown]
# Each image shows one thing, and its label names that thing with certainty. Now we pair each image with a
# partner from the same four. We keep 0.7 of the image and add 0.3 of its partner, pixel by pixel.

# %%
lam, other = 0.7, torch.tensor([1, 3, 0, 2])
blended = [lam * four[i] + (1 - lam) * four[j] for i, j in enumerate(other)]
show(blended, [f"0.7 {names[i]}\n0.3 {names[j]}" for i, j in enumerate(other)])
plt.show()

# %% [markdown]
# In the first three, you can make out both the stronger image and a ghost of its partner. (The fourth
# blends two pieces of clothing of nearly the same outline, so the ghost is hard to see.) What should the
# network answer? Our targets are rows of probabilities, so we blend them with the same weights, 0.7 and
# 0.3.

# %%
import pandas as pd
from torch.nn.functional import cross_entropy, one_hot

q = one_hot(data.train.y[:4], 10).float().cpu()
pd.DataFrame((lam * q + (1 - lam) * q[other]).numpy().round(2), columns=data.classes)

# %% [markdown]
# Each row belongs to one image and has two non-zero entries.
#
# **Why should this prevent memorising?** Zhang et al. 2017 (arXiv 1710.09412) give the reason. As one image
# fades into another, these targets change in proportion to the shares, and a network that learns them
# changes its answer just as gradually. To memorise one wrong label, a network needs the opposite: a sharp
# exception around a single image. Mixup makes such an exception harder to learn, but not impossible.
#
# How much of the partner should we add? Mixup draws a new share for every batch from the distribution
# Beta(alpha, alpha). Zhang et al. use alpha between 0.1 and 0.4 on ImageNet, 1 on CIFAR-10, and up to 32
# against wrong labels. We draw 50,000 shares for each of three alphas.

# %%
rng = np.random.default_rng(0)
draws = {alpha: rng.beta(alpha, alpha, 50_000) for alpha in (0.2, 1.0, 8.0)}
edges = np.linspace(0, 1, 21)
middles = (edges[1:] + edges[:-1]) / 2
lines = {}
for alpha, drawn in draws.items():
    lines[f"alpha {alpha:g}"] = (middles, np.histogram(drawn, edges)[0] / len(drawn))
plot(lines, "lam, share of the first image", "fraction of the draws in a bin of 0.05")
plt.show()

# %%
whole = {a: np.mean(np.minimum(drawn, 1 - drawn) < 0.05) for a, drawn in draws.items()}
say(
    f"With alpha 0.2, {whole[0.2]:.0%} of the draws leave less than 0.05 for the fainter image, so **most "
    "batches stay nearly whole**. With alpha 1, where every share is equally likely, it is "
    f"{whole[1.0]:.0%}. With alpha 8, it is {whole[8.0]:.0%}: **nearly every batch is a true blend**."
)

# %% [markdown]
# From here on, we use two of these alphas, the same ones in every case. 0.2 stands for the small values that
# Zhang et al. use on ImageNet, and it is the default of this package. 8 stands for the large ones that they
# use against wrong labels.
#
# ## Write it
#
# The function draws nothing at random: the shares and the partners are arguments. `lam` may hold one
# number for the whole batch or one for each image, and `view` aligns it with the pixels and the classes.


# %%
def mix(x, q, lam, other):
    for_x, for_q = lam.view(-1, 1, 1, 1), lam.view(-1, 1)
    return for_x * x + (1 - for_x) * x[other], for_q * q + (1 - for_q) * q[other]


# %% [markdown]
# ## Check it
#
# First, we check that our function matches the package's and that blended rows are still probabilities.

# %% tags=["nbval-check-output"]
lam = torch.tensor(0.7)
ours, packaged = mix(four, q, lam, other), mixup.mix(four, q, lam, other)
holds(all(map(torch.equal, ours, packaged)), "our function matches the package's")
holds(torch.allclose(ours[1].sum(1), torch.ones(4)), "blended rows sum to 1")

# %% [markdown]
# Second, we compare our function with two libraries. timm blends image i with image N - 1 - i, and
# torchvision blends it with the image before it. We replace their random draws with a fixed share of 0.7.
# Beware of one default: timm also smooths the labels by 0.1 unless you set this to 0.

# %% tags=["nbval-check-output"]
import timm.data
from torchvision.transforms import v2

y = data.train.y[:4].cpu()
timms = timm.data.Mixup(label_smoothing=0.0, num_classes=10)
timms._params_per_batch = lambda: (0.7, False)
same = map(torch.allclose, mix(four, q, lam, torch.tensor([3, 2, 1, 0])), timms(four.clone(), y))
holds(all(same), "timm's Mixup gives the same images and targets")
visions = v2.MixUp(num_classes=10)
visions.make_params = lambda inputs: {"lam": 0.7}
same = map(torch.allclose, mix(four, q, lam, torch.tensor([3, 0, 1, 2])), visions(four, y))
holds(all(same), "torchvision's MixUp gives the same images and targets")

# %% [markdown]
# timm needs an even batch size. Our version accepts any size: the partners are a random permutation of
# the batch, and an image may even be its own partner. With `per_sample`, each image gets its own share
# instead of one share for the whole batch.

# %% tags=["nbval-check-output"]
x, rows = torch.rand(7, 1, 28, 28), torch.eye(10)[:7]
mixed = Mixup(1.0).batch_map(x, rows, rng)
holds(mixed[0].shape == x.shape and mixed[1].shape == rows.shape, "a batch of 7 works")
each = Mixup(1.0, per_sample=True).batch_map(torch.rand(500, 1, 1, 1), torch.eye(500), rng)[1]
holds(len(each.diagonal().unique()) > 400, "per_sample draws hundreds of shares for 500 images")

# %% [markdown]
# Third, we check an identity. Many programs do not blend the targets. Instead, they compute two losses,
# one with each label, and blend those. For cross-entropy, the result is the same number, because the loss
# is linear in the target.

# %% tags=["nbval-check-output"]
logits, classes, partner = torch.randn(64, 10), torch.arange(64) % 10, torch.randperm(64)
onehots = one_hot(classes, 10).float()
of_targets = cross_entropy(logits, mix(torch.zeros(64, 1, 1, 1), onehots, lam, partner)[1])
own, partners = cross_entropy(logits, classes), cross_entropy(logits, classes[partner])
of_losses = lam * own + (1 - lam) * partners
holds(abs(of_targets - of_losses).item() < 1e-5, "mixing targets is mixing losses")

# %% [markdown]
# ## In your own loop
#
# You do not need this package to use mixup. In a plain PyTorch script, the trick consists of these lines:
# remove those marked `-` and add those marked `+`.
#
# ```diff
#  IMAGES, BATCH, LR = 171_776, 128, 1e-3
# +ALPHA = 0.05
#
#  ...
#          inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
# -        loss = F.cross_entropy(net(inputs), targets)
# +        share = torch.distributions.Beta(ALPHA, ALPHA).sample().item()
# +        other = torch.randperm(BATCH, device=device)
# +        inputs = share * inputs + (1 - share) * inputs[other]
# +        outputs = net(inputs)
# +        loss = share * F.cross_entropy(outputs, targets)
# +        loss = loss + (1 - share) * F.cross_entropy(outputs, targets[other])
#          loss.backward()
# ```
#
# The whole script is [`examples/mixup.py`](../examples/mixup.py). It blends two losses instead of two
# rows of targets, which gives the same number, as we have just checked. Its `ALPHA` of 0.05 was chosen for
# a short run in which mixup works together with the six other tricks; it is so small that most batches
# stay nearly whole. The next section measures what larger values do when mixup works alone.
#
# ## Use it: three cases
#
# The card says that mixup pays when the network could memorise its training set, and that it fails when the
# run is short. So we train in three cases. This table says how they differ.

# %%
recipes = {"alpha 0.2": BASELINE + Mixup(0.2), "alpha 8": BASELINE + Mixup(8.0)}
once = replace(data.subset(run_images), val=few.val)
tasks = {"1: wrong labels": hasty, "2: right labels": few, "3: one epoch": once}
conditions = {}
for case, task in tasks.items():
    conditions[case] = {
        "labels": "two in five wrong" if task is hasty else "right",
        "different images": f"{len(task.train):,}",
        "times that each is seen (epochs)": f"{run_images / len(task.train):.0f}",
    }
pd.DataFrame(conditions)

# %% [markdown]
# All else is the same in the three cases: the network, the number of steps, the learning rate, the seeds, and
# the two alphas. Between cases 1 and 2, only the labels differ. Between cases 2 and 3, only the number of
# different images differs, and with it how often each one is seen.
#
# Beware of two words that are easily confused. *Few labels* is about the data, a *short run* is about the
# epochs. At an equal number of steps, the two exclude each other: with few labels, the network sees each
# one many times. When the card says that the run is short, it means case 3, in which every image is seen
# once.
#
# To turn accuracies into words, we use `gained`, always by one rule:

# %%
say(
    f"We train with {budget.seeds} seed{'s' * (budget.seeds > 1)}. Mixup is called *higher* or *lower* only "
    "if it is so with every seed, and by at least "
    f"{clear(budget.seeds):.1f} points on average. Otherwise it is *about the same* if every seed differs by "
    "less than 2 points, and *undecided* if one differs by more."
)


# %% [markdown]
# This rule is modest. If mixup did nothing at all, three seeds would still agree one time in four, so take a
# difference of about one point as a hint. `chance=0.1` is the accuracy of guessing: with it, `gained`
# refuses to compare networks that have hardly learned.


# %%
def ended(runs):
    return column(runs, VALIDATION)[:, -1].tolist()


def verdict(runs, name):
    return gained(ended(runs[name]), ended(runs["plain"]), chance=0.1)


def verdicts(runs):
    return ", ".join(f"with {name} **{verdict(runs, name)}**" for name in recipes)


# %% [markdown]
# ### Case 1: wrong labels
#
# We train with mixup on the same wrong labels, with the same seeds as before. All measurements are on whole
# images, not on blends.

# %%
wrong_runs |= follow_all(recipes, hasty, parts)

# %%
lines = {name: (epochs(hasty), column(runs, WRONG).mean(0)) for name, runs in wrong_runs.items()}
plot(lines, axis, "fraction of labels predicted", f"wrong labels, {several}", marks=True)
plt.ylim(0, 1.05)
plt.show()

# %%
plain_kept, small_kept, large_kept = (final(wrong_runs[arm], WRONG) for arm in wrong_runs)
if large_kept > plain_kept - 0.2:
    effect = "made no clear difference to the memorising"
elif large_kept > plain_kept / 2:
    effect = "reduced the memorising"
else:
    effect = "kept the network from most of the memorising"
say(
    f"The plain network predicts {plain_kept:.0%} of the wrong labels, alpha 0.2 predicts {small_kept:.0%}, "
    f"and alpha 8 predicts {large_kept:.0%}. **Mixup with alpha 8 {effect}.**"
)

# %%
plain_fit, large_fit = (final(wrong_runs[arm], RIGHT) for arm in ("plain", "alpha 8"))
say(
    (
        "This has a price. "
        if large_fit < plain_fit - 0.02
        else "The right labels have not suffered. "
    )
    + f"Of the *right* labels of the training images, plain training predicts {plain_fit:.0%}, and alpha 8 "
    f"predicts {large_fit:.0%}."
)

# %% [markdown]
# Which of the two counts more on new images? We look at the validation accuracy of the same runs.


# %%
def plot_validation(runs, task, title):
    lines = {}
    for name, found in runs.items():
        lines[name] = (epochs(task), column(found, VALIDATION).mean(0))
    plot(lines, axis, "validation accuracy", f"{title}, {several}", marks=True)
    plt.show()


plot_validation(wrong_runs, hasty, "two in five labels wrong")

# %%
say(f"Validation accuracy at the end, compared with plain training: {verdicts(wrong_runs)}.")

# %% [markdown]
# There is a cheaper remedy against memorising: stop plain training at its best moment. To know that moment,
# one needs validation images with right labels. Is mixup better than *early stopping*? We compare the last of
# the five evaluations with the best one.

# %%
best = {name: column(runs, VALIDATION).max(1).tolist() for name, runs in wrong_runs.items()}
means = {"at the end": {}, "at its best": {}}
for name, runs in wrong_runs.items():
    means["at the end"][name] = final(runs, VALIDATION)
    means["at its best"][name] = np.mean(best[name])
pd.DataFrame(means).round(3)


# %%
def choose(found, higher, lower, neither):
    """The words that fit a finding of `gained`."""
    return higher if "higher" in found else lower if "lower" in found else neither


stopped = gained(ended(wrong_runs["alpha 8"]), best["plain"], chance=0.1)
both_stopped = gained(best["alpha 8"], best["plain"], chance=0.1)

# %%
outcome = choose(
    stopped,
    "mixup beat early stopping",
    "early stopping beat mixup",
    "our runs cannot say which of the two remedies is better",
)
say(
    f"Alpha 8 at its end, compared with plain training at its best: {stopped}. So **{outcome}**. Alpha 8, "
    f"compared with plain training, both at their best: {both_stopped}."
)

# %% [markdown]
# Every "best" is chosen and scored on the same images, so it is a little too high. That is why the first of
# these two comparisons favours early stopping.
#
# ### Case 2: the same images with right labels
#
# Does a network need help with labels that are *right*? We give the same images their true labels back and
# change nothing else.

# %%
right_runs = follow_all({"plain": BASELINE} | recipes, few, [few.train])
plot_validation(right_runs, few, "all labels right")

# %%
say(f"Validation accuracy at the end, compared with plain training: {verdicts(right_runs)}.")

# %% [markdown]
# The first points of the lines lie so early that the networks still change quickly. We conclude nothing from
# them.
#
# Was there anything to prevent? The card speaks of a network that *could memorise* its training set. So we
# put the training accuracy beside the validation accuracy.


# %%
def accuracies(runs):
    columns = {"training accuracy": ALL, "validation accuracy": VALIDATION}
    return {title: final(runs, place) for title, place in columns.items()}


pd.DataFrame({name: accuracies(runs) for name, runs in right_runs.items()}).T.round(3)

# %% [markdown]
# We say that a network has memorised its training set if it predicts at least nine in ten of the labels that
# it was given, and if its validation accuracy is at least 10 points lower. This is a line that we draw,
# not a law.


# %%
def memorised(runs):
    training, validation = accuracies(runs).values()
    return bool(training >= 0.9 and training - validation >= 0.1)


# %%
training, validation = accuracies(right_runs["plain"]).values()
say(
    f"The plain network predicts {training:.0%} of its training labels and {validation:.0%} of the validation "
    "labels. By our line, it **"
    + ("has memorised" if memorised(right_runs["plain"]) else "has not memorised")
    + "** its training set."
)

# %% [markdown]
# Such a network has learned its training labels by heart, but it has learned nothing false. Memorising right
# labels need not make it worse on new images, as memorising wrong ones can.
#
# A trap when you measure this yourself: many training logs print an accuracy on the *blended* batches. We
# evaluate a network trained with mixup on its training images, first whole and then blended.

# %%
net, x = right_runs["alpha 0.2"][0][0].eval(), data.normalise(few.train.x)
q = one_hot(few.train.y, 10).float()
blended, _ = Mixup(0.2, per_sample=True).batch_map(x, q, np.random.default_rng(0))
found = []
with torch.no_grad():
    for images in (x, blended):
        found.append((net(images).argmax(1) == few.train.y).float().mean().item())

# %%
say(f"Training accuracy is {found[0]:.0%} on whole images, and **{found[1]:.0%}** on blended ones.")

# %% [markdown]
# The accuracy on blends says little about the network. In about half of the blends, the partner is the
# stronger image, and predicting its class counts as a mistake. Measure training accuracy on whole images.
#
# ### Does the answer really change gradually?
#
# The reason why mixup should work was a gradual change from one image to another. We can test that. We fade
# each training image of case 2 into the next one, in 20 steps, and ask for the probability of the first
# one's class. Pairs of the same class are left out.

# %%
fading = np.linspace(0, 1, 21)


def fade(net, split):
    x, y = data.normalise(split.x), split.y
    following, apart = x.roll(-1, 0), y != y.roll(-1)
    chances = []
    with torch.no_grad():
        for share in map(float, fading):
            found = net.eval()(share * x + (1 - share) * following).softmax(1)
            chances.append(found[torch.arange(len(y)), y][apart])
    return torch.stack(chances).cpu().numpy()


fades = {}  # (seeds, shares, pairs)
for name in ("plain", "alpha 8"):
    fades[name] = np.stack([fade(net, few.train) for net, seen in right_runs[name]])

# %% [markdown]
# The lines are means over all pairs and seeds. The bands hold the middle half of the pairs: a quarter lies
# above, and a quarter below. The dotted line is what mixup asks for.

# %%
lines = {name: (fading, found.mean((0, 2))) for name, found in fades.items()}
lines["what mixup asks for"] = (fading, fading)
pairs = fades["plain"].shape[2]
plot(lines, "share of the first image", "probability of its class", f"{pairs} pairs, {several}")
for line, found in zip(plt.gca().lines, fades.values(), strict=False):
    band = np.quantile(found, (0.25, 0.75), axis=(0, 2))
    plt.fill_between(fading, *band, color=line.get_color(), alpha=0.2)
plt.show()

# %% [markdown]
# A mean of many pairs can look smooth although every single pair jumps, only each at another place. So we
# measure in each pair how far the probability is from the dotted line, and average these distances.

# %%
distances = {}
for name, found in fades.items():
    distances[name] = np.abs(found - fading[:, None]).mean((1, 2))  # one mean per seed

# %%
before, after = distances["plain"], distances["alpha 8"]
gradual = bool((after < before).all() and after.mean() < 0.8 * before.mean())
gradual_text = "more gradually than" if gradual else "no more gradually than"
say(
    f"On average over {pairs} pairs, the plain network's probability is {before.mean():.2f} away from the "
    f"dotted line, and that of alpha 8 is {after.mean():.2f} away. So alpha 8 changes its answer "
    f"**{gradual_text}** the plain network."
)

# %%
ending = choose(
    verdict(right_runs, "alpha 8"), "higher too", "lower nevertheless", "not clearly different"
)
if gradual:
    say(
        "So mixup does to the network what it is meant to do. But a gradual change is only a means. With right "
        f"labels, the validation accuracy of these networks is **{ending}**."
    )
else:
    say("So these networks do not confirm the reason that Zhang et al. give.")

# %% [markdown]
# ### Case 3: one epoch
#
# Now a short run: many different images, all with right labels, each seen once. We measure the training
# accuracy on 2,000 of these images.

# %%
once_runs = follow_all({"plain": BASELINE} | recipes, once, [once.train[:2000]])
plot_validation(once_runs, once, "one epoch, all labels right")

# %%
training, validation = accuracies(once_runs["plain"]).values()
say(f"Validation accuracy after one epoch, compared with plain training: {verdicts(once_runs)}.")
say(
    f"The plain network predicts {training:.0%} of its training labels and {validation:.0%} of the validation "
    f"labels: it {'has memorised' if memorised(once_runs['plain']) else 'has not memorised'} its training set."
)

# %% [markdown]
# ## Break it
#
# The line that blends the labels is where real code goes wrong, and no error is raised when it does. We
# make three such mistakes on purpose. In each, the images are blended correctly. The first forgets to
# blend the labels. The second blends each label with that of a stranger, an image other than the
# partner. The third swaps the shares, so that the fainter image gets the larger share of the label.


# %%
from dataclasses import dataclass


@dataclass(frozen=True)
class Mistaken:
    mistake: str
    alpha: float = 0.2
    chapter, slots = 4, ("batch_maps",)

    def batch_map(self, x, q, rng):
        lam = torch.tensor(rng.beta(self.alpha, self.alpha), dtype=x.dtype, device=x.device)
        other, stranger = (torch.tensor(rng.permutation(len(x)), device=x.device) for _ in range(2))
        targets = {
            "labels not blended": q,
            "label of a stranger": mix(x, q, lam, stranger)[1],
            "shares swapped": mix(x, q, 1 - lam, other)[1],
        }
        return mix(x, q, lam, other)[0], targets[self.mistake]


# %% [markdown]
# We train each mistake on the images of case 3, for half as many steps, beside correct mixup with the same
# alpha and the same seeds. `train_arms` trains several recipes in turns; it calls each of them an arm.

# %%
mistakes = ("labels not blended", "label of a stranger", "shares swapped")
trials = {"mixup, correct": BASELINE + Mixup(0.2)}
trials |= {mistake: BASELINE + Mistaken(mistake) for mistake in mistakes}
trained = train_arms(trials, once, images=run_images // 2, evaluations=1)

# %%
short = {name: [run.val_accuracy for run in runs] for name, runs in trained.items()}
bars(short, "validation accuracy", f"alpha 0.2, {run_images // 2:,} images, a dot per seed")
plt.show()

# %%
costs = [gained(short[one], short["mixup, correct"], chance=0.1) for one in mistakes]
listed = [f"- {one}: **{cost}**" for one, cost in zip(mistakes, costs, strict=True)]
say("Compared with correct mixup, the validation accuracy is:\n\n" + "\n".join(listed))

# %% [markdown]
# With an alpha of 0.2, most blends are nearly one image. If the shares are swapped, the label then names
# nearly always the *other* image, so this is the mistake that one should expect to cost most.
#
# A mistake that costs only a few points looks harmless and can live in real code for years. Test it without
# training: use ten "images" whose pixels *are* their one-hot labels. Then blended images and blended
# labels must be the same numbers.

# %% tags=["nbval-check-output"]
q = torch.eye(10)


def blends_alike(trick):
    pictures, targets = trick.batch_map(q.view(10, 1, 1, 10), q, np.random.default_rng(0))
    return torch.allclose(pictures.view(10, 10), targets)


holds(blends_alike(Mixup(1.0)), "correct mixup passes this test")
for mistake in mistakes:
    holds(not blends_alike(Mistaken(mistake, alpha=1.0)), f"the test catches: {mistake}")

# %% [markdown]
# ## What the card promised, and what we saw
#
# Here are the three cases once more, with their conditions above and what we measured below. The last row is
# our verdict on each case.


# %%
def outcome_of(runs):
    found = {name: verdict(runs, name) for name in recipes}
    higher = [name for name in recipes if "higher" in found[name]]
    lower = [name for name in recipes if "lower" in found[name]]
    said = [f"pays with {' and '.join(higher)}"] if higher else []
    said += [f"costs accuracy with {' and '.join(lower)}"] if lower else []
    return ", ".join(said) or "no clear difference"


all_runs = dict(zip(tasks, (wrong_runs, right_runs, once_runs), strict=True))
summary = {}
for case, runs in all_runs.items():
    summary[case] = dict(conditions[case])
    for title, value in accuracies(runs["plain"]).items():
        summary[case][f"plain: {title}"] = f"{value:.2f}"
    summary[case]["plain: memorised"] = "yes" if memorised(runs["plain"]) else "no"
    for name in recipes:
        summary[case][name] = verdict(runs, name)
    summary[case]["verdict: mixup"] = outcome_of(runs)
pd.DataFrame(summary)

# %% [markdown]
# First the row *pays when*. We look at the cases in which the plain network has memorised its training set.

# %%
able = [case for case in tasks if memorised(all_runs[case]["plain"])]
paid = [case for case in able if "pays" in outcome_of(all_runs[case])]
if not able:
    claim = "was **not tested**, because no plain network has memorised its training set"
elif not paid:
    claim = f"**did not hold**: mixup paid in none of these cases ({'; '.join(able)})"
elif paid == able:
    claim = f"**held** in every such case ({'; '.join(able)})"
else:
    rest = [case for case in able if case not in paid]
    claim = (
        f"**held in part**: mixup paid in case {'; '.join(paid)}, but not in case {'; '.join(rest)}"
    )
say(f"The card's claim that mixup pays when the network could memorise its training set {claim}.")

# %%
if "pays" in outcome_of(wrong_runs) and "pays" not in outcome_of(right_runs):
    say(
        "Cases 1 and 2 differ in nothing but the labels. So it mattered less **whether** the network could "
        "memorise than **what**: a wrong label teaches it something false, and a right one does not."
    )

# %% [markdown]
# Then the row *fails when*: the short run.

# %%
short_outcome = outcome_of(once_runs)
if "costs" in short_outcome:
    claim = f"**held** in case 3: there, mixup {short_outcome}"
elif "pays" in short_outcome:
    claim = f"**did not hold** in case 3: there, mixup {short_outcome}"
else:
    claim = "was **not confirmed** in case 3: our runs show no clear difference"
say(f"The card's claim that mixup fails when the run is short {claim}.")

# %% [markdown]
# Two things remain open. We did not test the *large nets* of the card. And our *long* runs are not very long:
# fast.ai's notes on [imagenette](https://github.com/fastai/imagenette) say that augmentation such as
# mixup tends to help only in runs of 80 epochs and more. A much longer run with right labels may end
# differently from our case 2.
#
# **A rule of thumb.** First, train without mixup and measure training accuracy on whole images. Then find
# your case:


# %%
def advice(runs):
    found = {name: verdict(runs, name) for name in recipes}
    higher = [name for name in recipes if "higher" in found[name]]
    lower = [name for name in recipes if "lower" in found[name]]
    if higher:
        first = max(higher, key=lambda name: final(runs[name], VALIDATION))
        return f"use mixup, and try {first} first"
    if len(lower) == len(recipes):
        return "leave mixup out"
    if lower:
        return f"leave mixup out, and above all avoid {lower[0]}"
    return "our runs show no clear difference, so begin without mixup"


# %%
advised = (
    ("is far above validation accuracy, and your labels are doubtful", wrong_runs),
    ("is far above validation accuracy, and your labels are right", right_runs),
    ("is near validation accuracy, because the run is short", once_runs),
)
say(
    "\n".join(
        f"- Training accuracy {situation}: **{advice(runs)}**." for situation, runs in advised
    )
)
say(
    "With doubtful labels, early stopping is the cheaper remedy if you have validation images with right "
    f"labels. Alpha 8 compared with it: {stopped}."
)

# %% [markdown]
# This advice comes from one data set and one small network. Before you rely on it, compare with and without
# mixup on your own validation images, with at least three seeds.
#
# ## Questions
#
# **1. Why must image and label share one coefficient?**
#
# <details><summary>Answer</summary>The target says what is in the picture. With a different share, it
# would ask for an answer that the picture does not support.</details>
#
# **2. Your mixup run has a training loss that stays well above zero. Is it stuck?**
#
# <details><summary>Answer</summary>Perhaps not. A blended target has non-zero entropy, and no network can
# push its loss below that value. Exercise 2 computes it.</details>
#
# **3. What does alpha close to zero do?**
#
# <details><summary>Answer</summary>Nearly every share is 0 or 1, so nearly every image stays whole. This
# is plain training, at most in another order.</details>
#
# **4. timm's Mixup gives targets that never reach 1. Why?**
#
# <details><summary>Answer</summary>It smooths labels by 0.1 unless you tell it otherwise. If you added
# your own label smoothing, you would smooth twice.</details>
#
# **5. When would you leave mixup out, whatever the accuracy of your plain network?**
#
# <details><summary>Answer</summary>When blended labels make no sense. An example is counting: a picture of
# two cars laid over one of four shows six faint cars, and neither label says six.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you get a
# hint.
#
# **Exercise 1.** Return the loss of a blended batch from the class numbers `y`, without making any
# target rows.


# %%
from fasttricks.course import check


def mixed_loss(logits, y, other, lam):
    raise NotImplementedError


check("mixup", 1, mixed_loss)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def mixed_loss(logits, y, other, lam):
#     from torch.nn.functional import cross_entropy
#
#     return lam * cross_entropy(logits, y) + (1 - lam) * cross_entropy(logits, y[other])
# ```
#
# </details>
#
# **Exercise 2.** Return the lowest mean cross-entropy that any network can reach on target rows `q`.
# Some entries are 0.


# %%
def best_loss(q):
    raise NotImplementedError


check("mixup", 2, best_loss)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def best_loss(q):
#     return torch.special.entr(q).sum(1).mean()
# ```
#
# </details>
#
# **Exercise 3.** CutMix (Yun et al. 2019) is a relative of mixup that pastes instead of blending: a square
# of the partner replaces the same square of the image, and the labels are blended by area. Write it.
# Images have the shape (N, C, H, W).


# %%
def cutmix(x, q, other, top, left, side):
    raise NotImplementedError


check("mixup", 3, cutmix)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def cutmix(x, q, other, top, left, side):
#     rows, columns = slice(top, top + side), slice(left, left + side)
#     new = x.clone()
#     new[:, :, rows, columns] = x[other][:, :, rows, columns]
#     share = side * side / (x.shape[2] * x.shape[3])
#     return new, (1 - share) * q + share * q[other]
# ```
#
# </details>
#
# ## Further reading
#
# - Zhang et al. 2017, [arXiv 1710.09412](https://arxiv.org/abs/1710.09412): the paper; its list of
#   experiments is worth copying.
# - Yun et al. 2019, [arXiv 1905.04899](https://arxiv.org/abs/1905.04899): CutMix.
