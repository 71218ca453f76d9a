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
# Put one picture over another like two slides in a projector, and tell the network how much of each it
# sees. That is mixup: one line for the images, the same line for the labels. This chapter builds it,
# holds it against two libraries, and then searches for the place where it pays.
#
# About 15 minutes to read, and two to run.

# %% [markdown]
# Read it here, or run it in
# [Colab](https://colab.research.google.com/github/fast-tricks/fast-tricks/blob/main/notebooks/04_mixup.ipynb)
# or
# [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/fast-tricks/fast-tricks/blob/main/notebooks/04_mixup.ipynb).
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
# The budget follows the device. It says which network we train, on how many images, and how often. We
# put the data where the networks will be, at the size they will see.

# %%
from fasttricks import BASELINE, Mixup, choose_budget, load, train
from fasttricks.course import train_arms

budget = choose_budget()
data = load().to(BASELINE.world.device(), budget.image_size)
budget

# %% [markdown]
# First, what our recorded study found about this trick: how long training took with and without it, and
# how many times as soon it was at a fixed validation accuracy (above 1 is sooner). Then the trick's card,
# straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import mixup

print(headline("mixup"))
Markdown(mixup.__doc__)

# %% [markdown]
# ## The hurt: mistakes, learned by heart
#
# Suppose that our labels were made in a hurry: about two in five are wrong, and nobody knows which. We
# make such a set. We take so few images that a run shows each of them 25 times, and draw another class
# for some of them.

# %%
from dataclasses import replace

import torch

from fasttricks.data import Split

few, draw = data.subset(budget.images // 25), torch.Generator().manual_seed(0)
wrong = torch.rand(len(few.train), generator=draw) < 0.4
shift = torch.randint(1, 10, wrong.shape, generator=draw) * wrong
hasty_y = (few.train.y + shift.to(few.train.y)) % len(data.classes)
hasty = replace(few, train=Split(few.train.x, hasty_y))

# %% [markdown]
# Now a run that is watched. Five times on the way we ask how many of these labels the network names, and
# how many of 1,000 validation images, whose labels are right and which it never trains on.

# %%
import numpy as np

from fasttricks.course import probabilities
from fasttricks.loop import fit
from fasttricks.models import begin


def hit_share(net, split):
    return (probabilities(net, data, split).argmax(1) == split.y).float().mean().item()


def watched(recipe, seed=0):
    torch.manual_seed(seed)
    net = begin(recipe, budget.model, data.channels, len(data.classes), budget.image_size).to(
        hasty_y.device
    )
    seen = []

    def watch(images, accuracy):
        if images % (budget.images // 5) == 0:
            seen.append((images, hit_share(net, hasty.train), hit_share(net, data.val[:1000])))

    fit(recipe, net, hasty, budget.images, seed, evaluations=1, show=watch)
    return np.array(seen).T


# %% [markdown]
# This takes a little longer than one run, and shows nothing until the figure comes. The dotted line is
# the share of labels that are right.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, holds, plot, show

seen, learned, checked = watched(BASELINE)
right = [1 - wrong.float().mean().item()] * len(seen)
lines = {"training labels": (seen, learned), "validation labels": (seen, checked)}
lines["training labels that are right"] = (seen, right)
plot(lines, "images seen", "share named by the network", "plain, two in five labels wrong")
plt.show()

# %% [markdown]
# Follow the two curves. At first they climb together: what is learned from the right labels helps with
# new images. A network that learned the right labels only would stop near the dotted line. Where the
# solid curve climbs on, it learns the wrong ones too, each by heart, for there is no rule in them. And
# where the dashed curve then falls, more training makes the network *worse*.
#
# ## By hand: four images
#
# Here are the first four training images.

# %%
four = data.normalise(data.train.x[:4]).cpu()
names = [data.classes[number] for number in data.train.y[:4]]
show(four, names)
plt.show()

# %% [markdown]
# Each shows one thing, and its label says so with certainty. Now each gets a partner from the four. We
# keep 0.7 of the image and add 0.3 of its partner, pixel by pixel.

# %%
lam, other = 0.7, torch.tensor([1, 3, 0, 2])
blended = [lam * four[i] + (1 - lam) * four[j] for i, j in enumerate(other)]
show(blended, [f"0.7 {names[i]}\n0.3 {names[j]}" for i, j in enumerate(other)])
plt.show()

# %% [markdown]
# Look at the first three: you can make out both, the strong one and a ghost of its partner. No shop sells
# such a thing. What should the network say to it? Our targets are rows of probabilities, so we blend them
# by the same 0.7 and 0.3.

# %%
import pandas as pd
from torch.nn.functional import cross_entropy, one_hot

q = one_hot(data.train.y[:4], 10).float().cpu()
pd.DataFrame((lam * q + (1 - lam) * q[other]).numpy().round(2), columns=data.classes)

# %% [markdown]
# Two entries a row, one row an image. A network that learns this changes its answer evenly while one
# image fades into another. And one image with a wrong label is hard to learn by heart when it never
# comes twice in the same mixture.
#
# How much of the partner should there be? Mixup draws the share anew for every batch, from the
# distribution Beta(alpha, alpha). Zhang et al. 2017 (arXiv 1710.09412) use alpha between 0.1 and 0.4 on
# ImageNet, and 1 on CIFAR-10. We draw 50,000 shares for each of four alphas.

# %%
rng = np.random.default_rng(0)
draws = {alpha: rng.beta(alpha, alpha, 50_000) for alpha in (0.1, 0.4, 1.0, 8.0)}
edges = np.linspace(0, 1, 21)
shares = {a: np.histogram(drawn, edges)[0] / len(drawn) for a, drawn in draws.items()}
middles = (edges[1:] + edges[:-1]) / 2
plot(
    {f"alpha {a:g}": (middles, share) for a, share in shares.items()},
    "lam, share of the first image",
    "share of the draws in a bin of 0.05",
)
plt.show()

# %% [markdown]
# With alpha 0.1 about three draws in four lie in the two outermost bins: most batches stay nearly whole.
# Alpha 1 is flat: any share is as likely as any other. With alpha 8 nearly every batch is a true blend.

# %% tags=["nbval-check-output"]
faint = [np.minimum(drawn, 1 - drawn).mean() for drawn in draws.values()]
holds(faint == sorted(faint), "the larger alpha, the more is seen of the fainter image")
centred = all(abs(drawn.mean() - 0.5) < 0.02 for drawn in draws.values())
holds(centred, "on average both images have the same share, whatever alpha is")

# %% [markdown]
# ## Write it
#
# Chance stays outside: the shares and the partners are arguments. `lam` may be one number for the
# batch or one for each image, and `view` lines it up with pixels and classes.


# %%
def mix(x, q, lam, other):
    for_x, for_q = lam.view(-1, 1, 1, 1), lam.view(-1, 1)
    return for_x * x + (1 - for_x) * x[other], for_q * q + (1 - for_q) * q[other]


# %% [markdown]
# ## Check it
#
# First, our function is the one that the package uses, and rows of probabilities stay so.

# %% tags=["nbval-check-output"]
lam = torch.tensor(0.3)
ours, packaged = mix(four, q, lam, other), mixup.mix(four, q, lam, other)
holds(all(map(torch.equal, ours, packaged)), "ours is the package's")
holds(torch.allclose(ours[1].sum(1), torch.ones(4)), "blended rows sum to 1")

# %% [markdown]
# Second, two libraries. timm blends image i with image N - 1 - i, torchvision with the one before it.
# We take the dice out of their hands and give the share 0.3. Beware of one default: timm also smooths
# the labels by 0.1 unless it is told 0.

# %% tags=["nbval-check-output"]
import timm.data
from torchvision.transforms import v2

y = data.train.y[:4].cpu()
timms = timm.data.Mixup(label_smoothing=0.0, num_classes=10)
timms._params_per_batch = lambda: (0.3, False)
same = map(torch.allclose, mix(four, q, lam, torch.tensor([3, 2, 1, 0])), timms(four.clone(), y))
holds(all(same), "timm's Mixup gives the same images and targets")
visions = v2.MixUp(num_classes=10)
visions.make_params = lambda inputs: {"lam": 0.3}
same = map(torch.allclose, mix(four, q, lam, torch.tensor([3, 0, 1, 2])), visions(four, y))
holds(all(same), "torchvision's MixUp gives the same images and targets")

# %% [markdown]
# timm needs an even batch. Ours takes any: the partners are a random order of the batch, and an image
# may even be its own partner. `per_sample` draws a share for each image instead of one for all.

# %% tags=["nbval-check-output"]
for count in (1, 2, 7):
    x, rows = torch.rand(count, 1, 28, 28), torch.eye(10)[:count]
    mixed = Mixup(1.0).batch_map(x, rows, rng)
    holds(mixed[0].shape == x.shape and mixed[1].shape == rows.shape, f"a batch of {count} works")
each = Mixup(1.0, per_sample=True).batch_map(torch.rand(500, 1, 1, 1), torch.eye(500), rng)[1]
holds(len(each.diagonal().unique()) > 400, "per_sample draws hundreds of shares for 500 images")

# %% [markdown]
# Third, a law. Many programs do not blend targets. They compute two losses, one with each label, and
# blend those. For cross-entropy it is the same number, since the loss is a straight line in the target.

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
# You do not need this package for it. In a plain PyTorch script the trick is these lines; `-` goes, `+`
# comes.
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
# The whole is [`examples/mixup.py`](../examples/mixup.py). It blends two losses instead of two rows of
# targets, which is the same number, as we have just checked.
#
# ## Use it, first place: wrong labels
#
# Now we search for the places where mixup pays, and start with the hurt. Zhang et al. use a large alpha
# against wrong labels, up to 32. We take 8: the same labels, the same seed, blended.

# %%
_, mixed_learned, mixed_checked = watched(BASELINE + Mixup(8.0))
lines = {
    "training, plain": (seen, learned),
    "validation, plain": (seen, checked),
    "training, mixup": (seen, mixed_learned),
    "validation, mixup": (seen, mixed_checked),
}
plot(lines, "images seen", "share named by the network", "two in five labels wrong, one seed")
plt.show()

# %% [markdown]
# Compare the two training curves first. Where that of mixup ends lower, fewer wrong labels were learned
# by heart. Then the right ends of the two validation curves: that is what it was worth. Could we not stop
# the plain run at its top instead? Yes, if enough validation labels are right to see the top.
#
# One seed proves little, so here is a second. We write down each gain in points, mixup over plain.

# %%
import pandas as pd

ends = {"plain": [checked[-1]], "mixup": [mixed_checked[-1]]}
for name, recipe in {"plain": BASELINE, "mixup": BASELINE + Mixup(8.0)}.items():
    ends[name].append(watched(recipe, seed=1)[2][-1])
gains = {"wrong labels": 100 * (np.array(ends["mixup"]) - ends["plain"])}
pd.DataFrame(ends, index=["seed 0", "seed 1"]).round(3)

# %% [markdown]
# ## Second place: few right labels, a long run
#
# Does a network need help with labels that are *right*? We take still fewer, show each up to 50 times,
# and take a mild alpha. Here and below, `gains` keeps what runs of the same seed differ by.

# %%
recipe = BASELINE + Mixup(0.2)
pair = {"plain": BASELINE, "mixup": recipe}
scarce = data.subset(max(budget.images // 100, BASELINE.batch))


def gain(arms):
    ends = [np.array([run.val_accuracy for run in runs]) for runs in arms.values()]
    return 100 * (ends[1] - ends[0])


half = budget.images // 2
long = train_arms(pair, scarce, images=half, seeds=min(2, budget.seeds))
gains["few right labels"] = gain(long)

# %% [markdown]
# The mean of the runs, on the way:

# %%
lines = {}
for name, runs in long.items():
    curves = np.array([run.curve for run in runs]).mean(0)
    lines[name] = (curves[:, 0] / len(scarce.train), curves[:, 2])
plot(lines, "times that each image was seen", "validation accuracy", marks=True)
plt.show()

# %% [markdown]
# If a longer run were enough to make mixup pay, the dashed line would gain on the solid one to the right.
#
# ## Third place: a larger net
#
# A net with many more weights learns by heart more easily. It is slow, so one seed and a quarter of the
# images must do.

# %%
larger, big = {"test_resnet": "resnet10t"}.get(budget.model, "resnet34"), {}
for name, one in pair.items():
    label = f"{larger}, {name}"
    big[name] = [train(one, scarce, images=half // 4, model=larger, evaluations=1, label=label)]
gains["larger net"] = gain(big)
nets = long["plain"][0].net, big["plain"][0].net
few_weights, many = [sum(weight.numel() for weight in net.parameters()) for net in nets]
print(f"{larger} has {many / few_weights:.0f} times the weights of {budget.model}")

# %% [markdown]
# ## Fourth place: all the labels
#
# The whole training set, at the budget.

# %%
arms = train_arms(pair, data, seeds=min(2, budget.seeds), evaluations=1)
gains["all labels"] = gain(arms)
accuracy_table(arms)

# %% [markdown]
# Read *lowest and highest gain*. A range below zero says that mixup costs accuracy here; a range that
# includes zero, that so few runs cannot tell. In runs as short as these no network learns 55,000 labels
# by heart, so there is little to cure. That agrees with the notes of fast.ai's
# [imagenette](https://github.com/fastai/imagenette): mixup tends to help only in runs of 80 epochs and
# more.
#
# A trap on the way: many training logs print the *training accuracy*. We take one mixup network and
# 2,000 training images, whole and blended.

# %% tags=["nbval-check-output"]
net, part = arms["mixup"][0].net.eval(), data.train[:2000]
x, q = data.normalise(part.x), one_hot(part.y, 10).float()
mixed_x, _ = Mixup(0.2, per_sample=True).batch_map(x, q, np.random.default_rng(0))
with torch.no_grad():
    whole, blended = [(net(given).argmax(1) == part.y).float().mean() for given in (x, mixed_x)]
holds(blended < whole - 0.1, "on blended images training accuracy looks far too low")

# %% [markdown]
# The network is not that bad. In about half of the blends the partner is the stronger image, and naming
# it counts as a mistake. Under mixup, read the validation accuracy only.
#
# ## Fifth place: images meant to mislead
#
# Zhang et al. also claim that mixup makes networks less sensitive to
# *adversarial* images: ones changed a little, on purpose, to raise the loss. The fast gradient sign
# method (FGSM; Goodfellow et al. 2014, arXiv 1412.6572) makes them in one step: each pixel moves by the
# same small size, up or down, whichever raises the loss.


# %%
def fgsm(net, x, y, size):
    x = x.clone().requires_grad_()
    loss = cross_entropy(net(x), y)
    (slope,) = torch.autograd.grad(loss, x)
    return (x + size * slope.sign()).clamp(-1, 1).detach()


# %% [markdown]
# Pixels run from -1 to 1, so one of the 255 grey steps is 2 / 255. We attack a plain network by eight
# such steps. Above each image: what the network said before, and what it says now.

# %%
victims = data.normalise(data.val.x[:500])
answers = data.val.y[:500]
plain = arms["plain"][0].net.eval()
attacked = fgsm(plain, victims[:5], answers[:5], 8 * 2 / 255)
before, after = plain(victims[:5]).argmax(1), plain(attacked).argmax(1)
titles = [f"{data.classes[a]}\n{data.classes[b]}" for a, b in zip(before, after, strict=True)]
show(attacked.cpu(), titles)
plt.show()

# %% [markdown]
# You and I see a faint grain on the same clothes. Where the two names differ, that grain changed the
# network's mind.
#
# Now all networks of both arms, each attacked by its own gradient, at several sizes. The plot shows the
# mean over the seeds.

# %%
sizes = [0, 2, 4, 8, 16]
hits = {name: np.zeros((len(runs), len(sizes))) for name, runs in arms.items()}
for name, runs in arms.items():
    for row, run in enumerate(runs):
        for column, size in enumerate(sizes):
            attacked = fgsm(run.net.eval(), victims, answers, size * 2 / 255)
            same = run.net(attacked).argmax(1) == answers
            hits[name][row, column] = same.float().mean().item()
lines = {name: (sizes, found.mean(0)) for name, found in hits.items()}
plot(lines, "change of each pixel (grey steps of 255)", "accuracy under attack", marks=True)
plt.show()

# %% [markdown]
# Both lines fall steeply. Is one above the other? The table has the gain of mixup over plain, in points.

# %%
ahead = 100 * (hits["mixup"] - hits["plain"])
gains["attacked by 8 grey steps"] = ahead[:, sizes.index(8)]
rows = {"mean gain": ahead.mean(0), "lowest": ahead.min(0), "highest": ahead.max(0)}
pd.DataFrame(rows, index=[f"{size} grey steps" for size in sizes]).round(1)

# %% [markdown]
# Where *lowest* is above zero, every seed supports the claim at that size; where *highest* is below zero,
# every seed contradicts it; in between, nothing is shown. Keep the limits in mind. A network that loses
# most of its accuracy is not safe because another loses more. One step along the gradient is a weak
# attack. And labels that are less sharp flatten the very gradient that the attack follows.

# %% tags=["nbval-check-output"]
moved = (fgsm(plain, victims, answers, 0.1) - victims).abs().max().item()
holds(moved < 0.1001, "no pixel moves by more than the size of the attack")
fell = all((found[:, 0] - found[:, -1]).min() > 0.1 for found in hits.values())
holds(fell, "every network, with mixup or without, loses accuracy under attack")

# %% [markdown]
# ## The verdict
#
# All five places, the gain of mixup in points of accuracy:

# %%
rows = [(place, g.mean(), g.min(), g.max(), len(g)) for place, g in gains.items()]
columns = ["place", "mean gain", "lowest", "highest", "pairs of runs"]
pd.DataFrame(rows, columns=columns).set_index("place").round(1)

# %% [markdown]
# A minus sign is a finding, too. Go down the rows: where even *lowest* is positive, mixup paid in each
# pair of runs; where *highest* is negative, it cost accuracy in each. A pair or two can tell a gain of
# ten points from nothing, but not a gain of one. Now compare with the card. It promises most where a net
# learns by heart. That harms when what is learned is wrong; when the labels are right, it may not.
#
# ## Break it
#
# Two ways. The first is too much of it: a large alpha in a short run. The second is a mistake that
# raises no error: blending the images and forgetting the labels. It takes a trick of our own.


# %%
from dataclasses import dataclass


@dataclass(frozen=True)
class Forgetful:
    alpha: float = 1.0
    chapter, slots = 4, ("batch_maps",)

    def batch_map(self, x, q, rng):
        return Mixup(self.alpha).batch_map(x, q, rng)[0], q


# %% [markdown]
# Four short runs, a quarter of the budget each, one seed. We look at accuracy, and at the mean of the
# largest probability.

# %%
trials = {f"alpha {alpha:g}": Mixup(alpha) for alpha in (1.0, 8.0)}
trials["labels forgotten, alpha 1"] = Forgetful(1.0)
quarter, short = budget.images // 4, {}
short["plain"] = train(BASELINE, data, images=quarter, evaluations=1, label="plain")
for name, trick in trials.items():
    short[name] = train(BASELINE + trick, data, images=quarter, evaluations=1, label=name)
rows = {}
for name, run in short.items():
    sure = probabilities(run.net, data, data.val).max(1).values.mean().item()
    rows[name] = run.val_accuracy, sure
pd.DataFrame(rows, index=["validation accuracy", "mean confidence"]).T.round(3)

# %% [markdown]
# Read down from *plain* to *alpha 8*. Where accuracy or confidence falls, you see the price of blending
# in a short run: the network spends its few steps on pictures that nobody will ask about. Then compare
# the last row with *alpha 1*, which blended just as much. Nothing crashed, and if the accuracy looks
# harmless, that is why this mistake lives long in real code.

# %% tags=["nbval-check-output"]
x, q = torch.arange(5000.0).view(-1, 1, 1, 1), one_hot(torch.arange(5000) % 10, 10).float()
_, kept = Forgetful().batch_map(x, q, rng)
holds(torch.equal(kept, q), "the forgetful trick leaves every label sure of itself")
shares = Mixup(1.0, per_sample=True).batch_map(torch.zeros(5000, 1, 1, 1), torch.eye(5000), rng)
fainter = (shares[1].diagonal() < 0.5).float().mean().item()
holds(0.4 < fainter < 0.6, "about half of the forgotten labels name the fainter image")

# %% [markdown]
# ## Questions
#
# **1. Why must image and label share one coefficient?**
#
# <details><summary>Answer</summary>The target says what is in the picture. With another share it would ask
# for an answer that the picture does not support.</details>
#
# **2. Your mixup run has a training loss that stays well above zero. Is it stuck?**
#
# <details><summary>Answer</summary>Perhaps not. A blended target has an entropy, and no network can get
# below it. Exercise 2 computes it.</details>
#
# **3. What does alpha close to zero do?**
#
# <details><summary>Answer</summary>Nearly every share is 0 or 1, so nearly every image stays whole: plain
# training, at most in another order.</details>
#
# **4. timm's Mixup gives targets that never reach 1. Why?**
#
# <details><summary>Answer</summary>It smooths labels by 0.1 unless told otherwise. With label smoothing
# of your own you would smooth twice.</details>
#
# **5. When would you leave mixup out?**
#
# <details><summary>Answer</summary>When the labels are right and the run is too short to
# learn them by heart, or when blends make no sense, as in counting objects.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` by your code and run the cell. A wrong answer gets a hint.
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
# **Exercise 3.** Write CutMix: a square of the partner replaces the same square of the image, and the
# labels are blended by area. Images are (N, C, H, W).


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
# - Goodfellow et al. 2014, [arXiv 1412.6572](https://arxiv.org/abs/1412.6572): why small changes mislead
#   networks, and FGSM.
