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
# sees. That is mixup: one line of code for the images, and the same line for the labels. In this chapter,
# we build it, check it against two libraries, and then look for the places where it pays.
#
# About 15 minutes to read, and two to run.

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
# The budget depends on the device. It sets which network we train, on how many images, and how many
# times. We move the data to the device where the networks will run, at the image size that they will see.

# %%
from fasttricks import BASELINE, Mixup, choose_budget, load, train
from fasttricks.course import train_arms

budget = choose_budget()
data = load().to(BASELINE.world.device(), budget.image_size)
budget

# %% [markdown]
# First, we print what our recorded study found about this trick: the seconds of training until a fixed
# validation accuracy, without the trick and with it, and then for all seven tricks and for the other six.
# Each ratio belongs to the run named just before it: above 1, that run gets there sooner. Below it is the
# trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import mixup

print(headline("mixup"))
Markdown(mixup.__doc__)

# %% [markdown]
# ## The hurt: mistakes, learned by heart
#
# Suppose that our labels were made in a hurry: about two in five are wrong, and nobody knows which ones.
# We now build such a set. We take so few images that a run shows each of them 25 times, and we change the
# labels of some of them to another class, drawn at random.

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
# Now we train a network and watch it. Five times during the run, we measure how many of these labels the
# network predicts. We do the same for 1,000 validation images, whose labels are right and on which it
# never trains.

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
# This takes a little longer than one run and shows nothing until the figure appears. The dotted line
# marks the share of labels that are right.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, gained, holds, plot, say, show

seen, learned, checked = watched(BASELINE)
right = [1 - wrong.float().mean().item()] * len(seen)
lines = {"training labels": (seen, learned), "validation labels": (seen, checked)}
lines["training labels that are right"] = (seen, right)
plot(lines, "images seen", "share named by the network", "plain, two in five labels wrong")
plt.show()

# %%
say(
    f"In the end the network names **{learned[-1]:.0%}** of its training labels, though only "
    f"{right[0]:.0%} of them are right. Its validation accuracy is {max(checked):.2f} at its top and "
    f"**{checked[-1]:.2f}** at the end."
)

# %% [markdown]
# Follow the two curves. At first they climb together, because what the network learns from the right
# labels also helps with new images. A network that learned only the right labels would stop near the
# dotted line. Where the solid curve climbs further, the network also learns the wrong labels, each one by
# heart, because they follow no rule. And where the dashed curve then falls, more training makes the
# network *worse*.
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
# Each image shows one thing, and its label names that thing with certainty. Now we pair each image with a
# partner from the same four. We keep 0.7 of the image and add 0.3 of its partner, pixel by pixel.

# %%
lam, other = 0.7, torch.tensor([1, 3, 0, 2])
blended = [lam * four[i] + (1 - lam) * four[j] for i, j in enumerate(other)]
show(blended, [f"0.7 {names[i]}\n0.3 {names[j]}" for i, j in enumerate(other)])
plt.show()

# %% [markdown]
# Look at the first three: you can make out both the stronger image and a ghost of its partner. No shop
# sells such a thing. What should the network answer? Our targets are rows of probabilities, so we blend
# them with the same weights, 0.7 and 0.3.

# %%
import pandas as pd
from torch.nn.functional import cross_entropy, one_hot

q = one_hot(data.train.y[:4], 10).float().cpu()
pd.DataFrame((lam * q + (1 - lam) * q[other]).numpy().round(2), columns=data.classes)

# %% [markdown]
# Each row belongs to one image and has two non-zero entries. A network that learns these targets changes
# its answer evenly as one image fades into another. And an image with a wrong label is hard to learn by
# heart if it never appears twice in the same mixture.
#
# How much of the partner should we add? Mixup draws a new share for every batch from the distribution
# Beta(alpha, alpha). Zhang et al. 2017 (arXiv 1710.09412) use alpha between 0.1 and 0.4 on ImageNet, and
# 1 on CIFAR-10. We draw 50,000 shares for each of four alphas.

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
# With alpha 0.1, about three in four draws fall into the two outermost bins, so the images of most
# batches stay nearly whole. With alpha 1, the distribution is flat: every share is equally likely. With
# alpha 8, nearly every batch is a true blend.

# %% tags=["nbval-check-output"]
faint = [np.minimum(drawn, 1 - drawn).mean() for drawn in draws.values()]
holds(faint == sorted(faint), "the larger alpha, the more is seen of the fainter image")
centred = all(abs(drawn.mean() - 0.5) < 0.02 for drawn in draws.values())
holds(centred, "on average both images have the same share, whatever alpha is")

# %% [markdown]
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
# First, we check that our function matches the one in the package and that blended rows are still
# probabilities.

# %% tags=["nbval-check-output"]
lam = torch.tensor(0.3)
ours, packaged = mix(four, q, lam, other), mixup.mix(four, q, lam, other)
holds(all(map(torch.equal, ours, packaged)), "ours is the package's")
holds(torch.allclose(ours[1].sum(1), torch.ones(4)), "blended rows sum to 1")

# %% [markdown]
# Second, we compare our function with two libraries. timm blends image i with image N - 1 - i, and
# torchvision blends it with the image before it. We replace their random draws with a fixed share of 0.3.
# Beware of one default: timm also smooths the labels by 0.1 unless you set this to 0.

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
# timm needs an even batch size. Our version accepts any size: the partners are a random permutation of
# the batch, and an image may even be its own partner. With `per_sample`, each image gets its own share
# instead of one share for the whole batch.

# %% tags=["nbval-check-output"]
for count in (1, 2, 7):
    x, rows = torch.rand(count, 1, 28, 28), torch.eye(10)[:count]
    mixed = Mixup(1.0).batch_map(x, rows, rng)
    holds(mixed[0].shape == x.shape and mixed[1].shape == rows.shape, f"a batch of {count} works")
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
# rows of targets, which gives the same number, as we have just checked.
#
# ## Use it, first place: wrong labels
#
# Now we look for the places where mixup pays, starting with the wrong labels from above. Zhang et al. use
# a large alpha against wrong labels, up to 32. We use 8 and repeat the run with mixup, on the same labels
# and with the same seed.

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
# One seed proves little, so we add a second one. And mixup has a rival here: stop the plain run at its top,
# which needs enough right validation labels to see the top. We compare with both.

# %%
import pandas as pd

curves = {"plain": [checked], "mixup": [mixed_checked]}
for name, recipe in {"plain": BASELINE, "mixup": BASELINE + Mixup(8.0)}.items():
    curves[name].append(watched(recipe, seed=1)[2])
last = {name: [curve[-1].item() for curve in found] for name, found in curves.items()}
last["plain, stopped at its top"] = [max(curve).item() for curve in curves["plain"]]
pd.DataFrame(last, index=["seed 0", "seed 1"]).round(3)

# %%
places = {"wrong labels": (last["mixup"], last["plain"])}
stopped = "wrong labels, plain stopped at its top"
places[stopped] = (last["mixup"], last["plain, stopped at its top"])
say(
    f"Compared with plain training, mixup ended **{gained(*places['wrong labels'])}**. Compared with a "
    f"plain run that is stopped at its top, it is {gained(*places[stopped])}. It named "
    f"{mixed_learned[-1]:.0%} of the training labels instead of {learned[-1]:.0%}."
)

# %% [markdown]
# ## Second place: few right labels, a long run
#
# Does a network need help with labels that are *right*? We take even fewer images, show each one up to 50
# times, and use a mild alpha. Here and below, `places` stores the accuracies with mixup and those without,
# of the same seeds.

# %%
recipe = BASELINE + Mixup(0.2)
pair = {"plain": BASELINE, "mixup": recipe}
scarce = data.subset(max(budget.images // 100, BASELINE.batch))


def ends(arms):
    without, mixed = ([run.val_accuracy for run in runs] for runs in arms.values())
    return mixed, without


half = budget.images // 2
long = train_arms(pair, scarce, images=half, seeds=min(2, budget.seeds))
places["few right labels"] = ends(long)

# %% [markdown]
# The plot shows the mean of the runs during training:

# %%
lines = {}
for name, runs in long.items():
    curves = np.array([run.curve for run in runs]).mean(0)
    lines[name] = (curves[:, 0] / len(scarce.train), curves[:, 2])
plot(lines, "times that each image was seen", "validation accuracy", marks=True)
plt.show()

# %%
say(
    f"Compared with plain training, mixup after {half / len(scarce.train):.0f} epochs is "
    f"**{gained(*places['few right labels'], chance=0.1)}**."
)

# %% [markdown]
# ## Third place: a larger net
#
# A net with many more weights learns by heart more easily. It trains slowly, so we use only one seed and
# half of the images of the last place.

# %%
larger, big = {"test_resnet": "resnet10t"}.get(budget.model, "resnet34"), {}
for name, one in pair.items():
    label = f"{larger}, {name}"
    big[name] = [train(one, scarce, images=half // 2, model=larger, evaluations=1, label=label)]
places["larger net"] = ends(big)
nets = long["plain"][0].net, big["plain"][0].net
few_weights, many = [sum(weight.numel() for weight in net.parameters()) for net in nets]
say(
    f"{larger} has {many / few_weights:.0f} times the weights of {budget.model}. Compared with its plain "
    f"training, mixup is **{gained(*places['larger net'], chance=0.1)}**."
)

# %% [markdown]
# ## Fourth place: all the labels
#
# Now we train on the whole training set with the full budget.

# %%
arms = train_arms(pair, data, seeds=min(2, budget.seeds), evaluations=1)
places["all labels"] = ends(arms)
accuracy_table(arms)

# %%
epochs = budget.images / len(data.train)
say(
    f"Compared with plain training, mixup after {epochs:.2f} epochs on all labels is "
    f"**{gained(*places['all labels'], chance=0.1)}**."
)

# %% [markdown]
# In runs as short as these, no network learns 55,000 labels by heart, so mixup has little to cure. That agrees with the notes of fast.ai's
# [imagenette](https://github.com/fastai/imagenette): mixup tends to help only in runs of 80 epochs and
# more.
#
# Beware of a trap: many training logs print the *training accuracy*. We evaluate one mixup network on
# 2,000 training images, both whole and blended.

# %% tags=["nbval-check-output"]
net, part = arms["mixup"][0].net.eval(), data.train[:2000]
x, q = data.normalise(part.x), one_hot(part.y, 10).float()
mixed_x, _ = Mixup(0.2, per_sample=True).batch_map(x, q, np.random.default_rng(0))
with torch.no_grad():
    whole, blended = [(net(given).argmax(1) == part.y).float().mean() for given in (x, mixed_x)]
holds(blended < whole - 0.1, "on blended images training accuracy looks far too low")

# %% [markdown]
# The network is not that bad. In about half of the blends, the partner is the stronger image, and
# predicting its class counts as a mistake. With mixup, look only at the validation accuracy.
#
# ## Fifth place: images meant to mislead
#
# Zhang et al. also claim that mixup makes networks less sensitive to *adversarial* images: images that
# are changed slightly, on purpose, to raise the loss. The fast gradient sign method (FGSM; Goodfellow et
# al. 2014, arXiv 1412.6572) creates them in one step: it moves each pixel up or down by the same small
# amount, in whichever direction raises the loss.


# %%
def fgsm(net, x, y, size):
    x = x.clone().requires_grad_()
    loss = cross_entropy(net(x), y)
    (slope,) = torch.autograd.grad(loss, x)
    return (x + size * slope.sign()).clamp(-1, 1).detach()


# %% [markdown]
# Pixel values range from -1 to 1, so one of the 255 grey steps is 2 / 255. We attack a plain network with
# eight such steps, on 2,000 validation images. Here are five of them: each with its true name, what the
# network predicted before, and what it predicts now.

# %%
victims = data.normalise(data.val.x[:2000])
answers = data.val.y[:2000]
plain = arms["plain"][0].net.eval()
attacked = fgsm(plain, victims[:5], answers[:5], 8 * 2 / 255)
before, after = plain(victims[:5]).argmax(1), plain(attacked).argmax(1)
names = [[data.classes[number] for number in row] for row in (answers[:5], before, after)]
show(attacked.cpu(), ["\n".join(three) for three in zip(*names, strict=True)])
plt.show()

# %% [markdown]
# You and I see the same clothes with a faint grain. Where the last two names differ, that grain changed
# the network's prediction.
#
# Now we attack all networks of both arms at several sizes, using each network's own gradient. The plot
# shows the mean over the seeds.

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
# Both lines fall steeply, but they need not begin at the same height. So we compare what each network
# *loses* of its accuracy on clean images.

# %%
lost = {name: found[:, :1] - found for name, found in hits.items()}
rows = {name: 100 * found.mean(0) for name, found in lost.items()}
pd.DataFrame(rows, index=[f"{size} grey steps" for size in sizes]).round(1)

# %%
strong = sizes.index(8)
kept = {name: (1 - found[:, strong]).tolist() for name, found in lost.items()}
places["what is left when attacked by 8 grey steps"] = (kept["mixup"], kept["plain"])
say(
    f"Attacked by 8 grey steps, plain networks lose {100 * lost['plain'][:, strong].mean():.0f} points and "
    f"mixup networks {100 * lost['mixup'][:, strong].mean():.0f}. In what is left, mixup is "
    f"**{gained(kept['mixup'], kept['plain'])}**."
)

# %% [markdown]
# Keep three limits in mind. A network that loses most of its accuracy is not safe just because another
# loses more. A single step along the gradient is a weak attack. And softer labels flatten the very
# gradient that the attack follows.

# %% tags=["nbval-check-output"]
moved = (fgsm(plain, victims, answers, 0.1) - victims).abs().max().item()
holds(moved < 0.1001, "no pixel moves by more than the size of the attack")
fell = all((found[:, 0] - found[:, -1]).min() > 0.1 for found in hits.values())
holds(fell, "every network, with mixup or without, loses accuracy under attack")

# %% [markdown]
# ## The verdict
#
# Each place once more, with what the runs there allow us to say:

# %%
rows = {place: (len(own), gained(own, other, chance=0.1)) for place, (own, other) in places.items()}
pd.DataFrame(rows, index=["pairs of runs", "accuracy with mixup"]).T

# %%
verdicts = [verdict for _, verdict in rows.values()]
say(
    f"Of {len(places)} comparisons, mixup is higher in "
    f"**{sum('higher' in verdict for verdict in verdicts)}** and lower in "
    f"{sum('lower' in verdict for verdict in verdicts)}; the others tell nothing."
)

# %% [markdown]
# One or two pairs can tell a gain of ten points from no gain, but not a gain of one point. The card
# promises most where a network learns by heart. Learning by heart does harm when the labels are wrong;
# when they are right, it may not. So here is the rule of thumb: consider mixup when your labels are
# doubtful and you have no clean ones by which to stop early; leave it out of short runs; elsewhere, let
# your own validation accuracy decide.
#
# ## Break it
#
# We break mixup in two ways. The first is to use too much of it: a large alpha in a short run. The second
# is a mistake that raises no error: blending the images but forgetting the labels. For this, we write a
# trick of our own.


# %%
from dataclasses import dataclass


@dataclass(frozen=True)
class Forgetful:
    alpha: float = 1.0
    chapter, slots = 4, ("batch_maps",)

    def batch_map(self, x, q, rng):
        return Mixup(self.alpha).batch_map(x, q, rng)[0], q


# %% [markdown]
# We train four short runs, each with a quarter of the budget and the same seed. For each run, we look at
# the accuracy and at the mean of the largest probability.

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

# %%
scores = {name: [run.val_accuracy] for name, run in short.items()}
say(
    f"Compared with plain training, the short run with alpha 8 is "
    f"**{gained(scores['alpha 8'], scores['plain'])}**, and its mean confidence is "
    f"{rows['alpha 8'][1]:.2f} instead of {rows['plain'][1]:.2f}. Compared with alpha 1, the run that forgot "
    f"the labels is {gained(scores['labels forgotten, alpha 1'], scores['alpha 1'])}."
)

# %% [markdown]
# The price of blending in a short run is that the network spends its few steps on pictures that it will
# never be asked about. The forgotten labels are the worse mistake, because nothing crashes: a loss of
# accuracy that looks harmless lets it survive for a long time in real code.

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
# <details><summary>Answer</summary>The target says what is in the picture. With a different share, it
# would ask for an answer that the picture does not support.</details>
#
# **2. Your mixup run has a training loss that stays well above zero. Is it stuck?**
#
# <details><summary>Answer</summary>Perhaps not. A blended target has an entropy, and no network can push
# its loss below that value. Exercise 2 computes it.</details>
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
# **5. When would you leave mixup out?**
#
# <details><summary>Answer</summary>When the labels are right and the run is too short to learn them by
# heart, or when blended images make no sense, for example when the task is to count objects.</details>
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
# **Exercise 3.** Write CutMix: a square of the partner replaces the same square of the image, and the
# labels are blended by area. Images have the shape (N, C, H, W).


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
