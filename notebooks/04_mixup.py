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
# libraries, and then look for the cases where it pays.
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
# The budget depends on the device. It sets which network we train, on how many images, and how many
# times. We move the data to the device where the networks will run, at the image size that they will see.

# %%
from fasttricks import BASELINE, Mixup, choose_budget, load, train
from fasttricks.course import train_arms

budget = choose_budget()
data = load().to(BASELINE.world.device(), budget.image_size)
budget

# %% [markdown]
# Here is the whole idea in one row: an ankle boot fades into a T-shirt. Above each picture is the answer
# that mixup asks of the network.

# %%
import matplotlib.pyplot as plt

from fasttricks.course import accuracy_table, bars, gained, holds, plot, say, show

four = data.normalise(data.train.x[:4]).cpu()
names = [data.classes[number] for number in data.train.y[:4]]
steps = [1.0, 0.75, 0.5, 0.25, 0.0]
answers = [f"{lam:g} {names[0]}\n{1 - lam:g} {names[1]}" for lam in steps]
show([lam * four[0] + (1 - lam) * four[1] for lam in steps], answers)
plt.show()

# %% [markdown]
# Now here is what our recorded study found about this trick. A ratio above 1 means that the second of the
# two times is the shorter. Below it is the trick's card, straight from the top of its file.

# %%
from IPython.display import Markdown

from fasttricks.course import headline
from fasttricks.tricks import mixup

say(headline("mixup"))
Markdown(mixup.__doc__)

# %% [markdown]
# A few terms from the card: the *slot* is the place in the training loop that the trick fills, and *chain*
# means that several tricks may fill it, one after another. Mixup and label smoothing *commute*: whichever
# comes first, the targets are the same. The row *pays when* is the claim that we test in this chapter.
#
# ## The problem: memorised mistakes
#
# Suppose that our labels were made in a hurry: about two in five are wrong, and nobody knows which ones.
# We now build such a set. We take so few images that a run shows each of them 25 times (1,024 images on a
# CPU), and we change the labels of some of them to another class, drawn at random.

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
# Now we train a network and watch it. Because we made the mistakes, we can look at the training images
# with a right label and at those with a wrong one separately. Five times during the run, we measure what
# fraction of these labels the network predicts. We do the same for 1,000 validation images, whose labels
# are right and on which it never trains.

# %%
import numpy as np

from fasttricks.course import probabilities
from fasttricks.loop import fit
from fasttricks.models import begin


def predicted(net, split):
    return (probabilities(net, data, split).argmax(1) == split.y).float().mean().item()


parts = (hasty.train[~wrong], hasty.train[wrong], data.val[:1000], hasty.train)


def watched(recipe, seed=0):
    torch.manual_seed(seed)
    size = data.channels, len(data.classes), budget.image_size
    net = begin(recipe, budget.model, *size).to(hasty_y.device)
    seen = []

    def watch(images, accuracy):
        if images % (budget.images // 5) == 0:
            shares = [predicted(net, part) for part in parts]
            seen.append((images / len(hasty.train), *shares))

    fit(recipe, net, hasty, budget.images, seed, evaluations=1, show=watch)
    return np.array(seen).T


# %% [markdown]
# This takes a little longer than one run and shows nothing until the figure appears.

# %%
plain_wrong = watched(BASELINE)
epochs, right_named, wrong_named, checked, _ = plain_wrong
lines = {
    "right labels of training images": (epochs, right_named),
    "wrong labels of training images": (epochs, wrong_named),
    "right labels of validation images": (epochs, checked),
}
axis = "epochs (times that each image was seen)"
plot(lines, axis, "fraction of labels predicted", "plain, two in five labels wrong", marks=True)
plt.show()

# %%
accident = (1 - checked[-1]) / 9
say(
    f"By the end, the network predicts {right_named[-1]:.0%} of the right training labels and "
    f"**{wrong_named[-1]:.0%} of the wrong ones**. A network that has memorised nothing would match "
    f"about {accident:.0%} of the wrong ones by accident. Its validation accuracy peaks at "
    f"{max(checked):.2f} and ends at **{checked[-1]:.2f}**."
)

# %% [markdown]
# (By accident: a network that is wrong on a new image names one of nine other classes, and in one case of
# nine that is the one that we drew.)
#
# A wrong label follows no rule, so there is only one way to predict it: memorise that image. Where the line
# of the wrong labels rises far above chance, the network is memorising. And where the line of the
# validation images falls, more training makes the network *worse*.
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
# **Why should this prevent memorising?** A network that learns these targets changes its answer in
# proportion to the shares as one image fades into another: Zhang et al. 2017 (arXiv 1710.09412) speak of
# linear behaviour between training images. To memorise one wrong label, a network needs the opposite, a
# sharp exception around a single image. This intuition has a limit: the exception becomes harder to learn,
# not impossible, and with a small alpha (see next) most images stay nearly whole.
#
# How much of the partner should we add? Mixup draws a new share for every batch from the distribution
# Beta(alpha, alpha). Zhang et al. use alpha between 0.1 and 0.4 on ImageNet, and 1 on CIFAR-10. We draw
# 50,000 shares for each of four alphas.

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

# %%
whole = {a: np.mean(np.minimum(drawn, 1 - drawn) < 0.05) for a, drawn in draws.items()}
say(
    f"With alpha 0.1, **{whole[0.1]:.0%}** of the draws leave less than 0.05 for the fainter image, so most "
    f"batches stay nearly whole. With alpha 1, where every share is equally likely, it is "
    f"{whole[1.0]:.0%}; with alpha 8, {whole[8.0]:.0%}: nearly every batch is a true blend."
)

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
# rows of targets, which gives the same number, as we have just checked. Its `ALPHA` of 0.05 is the value
# that our recorded study chose when mixup works together with the six other tricks in a short run; it is
# so small that most batches stay nearly whole. How to choose it for your own data is the question of the
# next two sections.
#
# ## Use it, case 1: wrong labels
#
# We return to the wrong labels from above. Zhang et al. use a large alpha against wrong labels, up to 32.
# We use 8 and repeat the run with mixup, on the same labels and with the same seed. All measurements are
# on whole images, as before.

# %%
mixed_wrong = watched(BASELINE + Mixup(8.0))
lines = {
    "plain, right labels": (epochs, right_named),
    "plain, wrong labels": (epochs, wrong_named),
    "mixup, right labels": (epochs, mixed_wrong[1]),
    "mixup, wrong labels": (epochs, mixed_wrong[2]),
}
plot(lines, axis, "fraction of labels predicted", "training images", marks=True)
plt.ylim(0, 1.6)
plt.show()

# %%
less = mixed_wrong[2][-1] < wrong_named[-1] - 0.2
say(
    f"By the end, the mixup network predicts **{mixed_wrong[2][-1]:.0%} of the wrong labels**, the plain one "
    f"{wrong_named[-1]:.0%}; by accident it would be about {(1 - mixed_wrong[3][-1]) / 9:.0%}. Mixup "
    f"{'kept the network from memorising many of them' if less else 'made no clear difference here'}."
)

# %% [markdown]
# Did that help on new images? We repeat both runs with a second seed and compare validation accuracies.
# We also compare mixup with early stopping: the plain run at the best of its five evaluations. That
# comparison favours the plain run, because its best moment is chosen and scored on the same 1,000 images.

# %%
first = {"plain": [plain_wrong], "mixup": [mixed_wrong]}
for seed in range(1, min(2, budget.seeds)):
    first["plain"].append(watched(BASELINE, seed))
    first["mixup"].append(watched(BASELINE + Mixup(8.0), seed))
final = {name: [run[3][-1] for run in runs] for name, runs in first.items()}
final["plain, stopped at its best"] = [max(run[3]) for run in first["plain"]]
pd.DataFrame(final, index=[f"seed {seed}" for seed in range(len(first["plain"]))]).round(3)

# %% [markdown]
# From here on, `gained` turns two lists of accuracies into words, always by one rule. With two seeds,
# mixup is *higher* or *lower* if both seeds agree and the mean differs by at least 0.3 points. With one
# seed, the difference must be at least 1 point. Everything else is *level*. The rule is modest: two
# seeds agree by luck one time in two, so take a difference of a point or two as a hint. With `chance=0.1`,
# the accuracy of guessing, `gained` refuses to compare networks that have hardly learned. `cases` stores
# the accuracies, those with mixup first.

# %%
cases = {"1: wrong labels": (final["mixup"], final["plain"])}
stopped = "1: wrong labels, plain stopped at its best"
cases[stopped] = (final["mixup"], final["plain, stopped at its best"])

# %%
say(
    f"Compared with plain training, mixup ended **{gained(*cases['1: wrong labels'])}**. Compared with a "
    f"plain run that is stopped at its best, it is {gained(*cases[stopped])}."
)

# %% [markdown]
# **Which alpha?** We try two smaller ones on the same wrong labels, with the first seed.

# %%
ALPHAS = (0.2, 1.0, 8.0)
sweep = {"plain": plain_wrong}
for alpha in ALPHAS:
    sweep[f"alpha {alpha:g}"] = mixed_wrong if alpha == 8 else watched(BASELINE + Mixup(alpha))
lines = {name: (epochs, run[3]) for name, run in sweep.items()}
plot(lines, axis, "validation accuracy", "two in five labels wrong", marks=True)
plt.show()

# %%
ends_wrong = {name: run[3][-1] for name, run in sweep.items()}
best_wrong = max(ends_wrong, key=ends_wrong.get)
memorised = ", ".join(f"{run[2][-1]:.0%} ({name})" for name, run in sweep.items())
say(
    f"With wrong labels, **{best_wrong}** ends highest, at {ends_wrong[best_wrong]:.2f} (plain: "
    f"{ends_wrong['plain']:.2f}; one seed). The fractions of wrong labels predicted are {memorised}."
)

# %% [markdown]
# ## Case 2: few right labels, a long run
#
# Does a network need help with labels that are *right*? We take even fewer images (256 on a CPU), show
# each one up to 50 times, and try the same three alphas. Two seeds each.

# %%
recipes = {"plain": BASELINE} | {f"alpha {alpha:g}": BASELINE + Mixup(alpha) for alpha in ALPHAS}
scarce, half = data.subset(max(budget.images // 100, BASELINE.batch)), budget.images // 2
long = train_arms(recipes, scarce, images=half, seeds=min(2, budget.seeds))
scores = {arm: [run.val_accuracy for run in runs] for arm, runs in long.items()}
cases["2: few right labels"] = (scores["alpha 0.2"], scores["plain"])

# %% [markdown]
# The plot shows the mean of the runs during training:

# %%
lines = {}
for name, runs in long.items():
    curves = np.array([run.curve for run in runs]).mean(0)
    lines[name] = (curves[:, 0] / len(scarce.train), curves[:, 2])
plot(
    lines, axis, "validation accuracy", f"{len(scarce.train)} images, all labels right", marks=True
)
plt.show()

# %%
early = {arm: [run.curve[0][2] for run in runs] for arm, runs in long.items()}
at, until = (long["plain"][0].curve[place][0] / len(scarce.train) for place in (0, -1))
say(
    f"Compared with plain training, alpha 0.2 is {gained(early['alpha 0.2'], early['plain'], chance=0.1)} "
    f"after {at:.0f} epochs, and **{gained(*cases['2: few right labels'], chance=0.1)}** after {until:.0f}. "
    f"For alpha 8 the verdict at the end is: {gained(scores['alpha 8'], scores['plain'], chance=0.1)}."
)

# %% [markdown]
# But was there anything to prevent? The card speaks of a network that *could memorise* its training set.
# So we put the training accuracy beside the validation accuracy.


# %%
def accuracies(runs, split):
    training = np.mean([predicted(run.net, split) for run in runs])
    return training, np.mean([run.val_accuracy for run in runs])


columns = ["training accuracy", "validation accuracy"]
rows = {name: accuracies(runs, scarce.train) for name, runs in long.items()}
memory = {"2: few right labels": (*rows["plain"], *rows["alpha 0.2"])}
pd.DataFrame(rows, index=columns).T.round(3)

# %% [markdown]
# We say that a network has memorised its training set if it predicts at least nine in ten of its training
# labels and its validation accuracy is at least 10 points lower. This is a line that we draw, not a law.


# %%
def has_memorised(training, validation):
    return bool(training >= 0.9 and training - validation >= 0.1)


# %%
train_plain, val_plain = rows["plain"]
met = has_memorised(train_plain, val_plain)
finding = (
    "it has memorised them" if met else "it has not memorised them: the card's premise is not met"
)
say(
    f"The plain network predicts {train_plain:.0%} of its training labels and {val_plain:.0%} of the "
    f"validation labels: **{finding}**. With alpha 0.2 the two are {rows['alpha 0.2'][0]:.0%} and "
    f"{rows['alpha 0.2'][1]:.0%}."
)

# %% [markdown]
# Right labels are not mistakes. Memorising them teaches nothing false, so a run that memorises them need
# not get worse on new images, as it can when the labels are wrong.
#
# A trap when you measure this yourself: many training logs print an accuracy on the *blended* batches.
# We evaluate a network trained with mixup on its training images, whole and blended.

# %%
net, x = long["alpha 0.2"][0].net.eval(), data.normalise(scarce.train.x)
q = one_hot(scarce.train.y, 10).float()
blended, _ = Mixup(0.2, per_sample=True).batch_map(x, q, np.random.default_rng(0))
with torch.no_grad():
    as_whole, as_blend = (
        (net(given).argmax(1) == scarce.train.y).float().mean().item() for given in (x, blended)
    )

# %%
say(f"Training accuracy is {as_whole:.0%} on whole images, and **{as_blend:.0%}** on blended ones.")

# %% [markdown]
# The lower number is no sign of a bad network. In about half of the blends, the partner is the stronger
# image, and predicting its class counts as a mistake. Measure training accuracy on unblended images.
#
# And does mixup do what its idea promises, a gradual change from one image to another? We fade each
# training image into the next one and ask for the probability of the first one's class.

# %%
fading = np.linspace(1, 0, 21)


def fade(net, split):
    x, y = data.normalise(split.x), split.y
    following, apart = x.roll(-1, 0), y != y.roll(-1)
    chances = []
    with torch.no_grad():
        for lam in fading:
            found = net.eval()(float(lam) * x + (1 - float(lam)) * following).softmax(1)
            chances.append(found[torch.arange(len(y)), y][apart])
    return torch.stack(chances).cpu().numpy()


fades = {name: fade(long[name][0].net, scarce.train) for name in ("plain", "alpha 8")}
lines = {name: (fading, chances[:, 0]) for name, chances in fades.items()}
lines["what mixup asks for"] = (fading, fading)
plot(lines, f"share of the {names[0]} (the rest: {names[1]})", f"probability of {names[0]}")
plt.show()

# %%
steep = {name: np.abs(np.diff(found, axis=0)).max(0) for name, found in fades.items()}
before, after = steep["plain"].mean(), steep["alpha 8"].mean()
word = "more gradual" if after < 0.8 * before else "no more gradual"
say(
    f"In this pair, the largest change in one step of 0.05 is {steep['plain'][0]:.2f} for the plain network "
    f"and {steep['alpha 8'][0]:.2f} for alpha 8. Over all {len(steep['plain'])} pairs, it is on average "
    f"{before:.2f} and {after:.2f}: mixup made the change **{word}**. On a straight line it would be 0.05."
)

# %% [markdown]
# ## Case 3: a larger net
#
# A net with many more weights memorises more easily. It trains slowly, so we use only one seed and half
# of the images of case 2.

# %%
larger = {"test_resnet": "resnet10t"}.get(budget.model, "resnet34")
big = {}
for name in ("plain", "alpha 0.2"):
    asked = {"images": half // 2, "model": larger, "evaluations": 1, "label": f"{larger}, {name}"}
    big[name] = [train(recipes[name], scarce, **asked)]

# %%
rows = {name: accuracies(runs, scarce.train) for name, runs in big.items()}
memory["3: larger net"] = (*rows["plain"], *rows["alpha 0.2"])
cases["3: larger net"] = tuple([big[name][0].val_accuracy] for name in ("alpha 0.2", "plain"))
pd.DataFrame(rows, index=columns).T.round(3)

# %%
nets = long["plain"][0].net, big["plain"][0].net
few_weights, many = [sum(weight.numel() for weight in net.parameters()) for net in nets]
met = has_memorised(*rows["plain"])
say(
    f"{larger} has {many / few_weights:.0f} times the weights of {budget.model}. Without mixup, it "
    f"{'has memorised' if met else 'has **not** memorised'} its training set. With mixup, validation "
    f"accuracy is **{gained(*cases['3: larger net'], chance=0.1)}**."
)

# %% [markdown]
# ## Case 4: all the labels
#
# Now we train on the whole training set with the full budget. That is a short run: on a CPU, it ends
# before every image has been seen once.

# %%
pair = {"plain": BASELINE, "mixup": BASELINE + Mixup(0.2)}
arms = train_arms(pair, data, seeds=min(2, budget.seeds), evaluations=1)
accuracy_table(arms)

# %% [markdown]
# We measure the training accuracy of these networks on the first 2,000 training images.

# %%
cases["4: all labels"] = tuple(
    [run.val_accuracy for run in arms[arm]] for arm in ("mixup", "plain")
)
rows = {name: accuracies(runs, data.train[:2000]) for name, runs in arms.items()}
memory["4: all labels"] = (*rows["plain"], *rows["mixup"])
pd.DataFrame(rows, index=columns).T.round(3)

# %%
say(
    f"After {budget.images / len(data.train):.2f} epochs on all labels, mixup is "
    f"**{gained(*cases['4: all labels'], chance=0.1)}**. Training accuracy without mixup is "
    f"{rows['plain'][0]:.0%}, validation accuracy {rows['plain'][1]:.0%}: the network "
    f"{'has memorised' if has_memorised(*rows['plain']) else 'has not memorised'} its training set."
)

# %% [markdown]
# fast.ai's notes on [imagenette](https://github.com/fastai/imagenette) say that mixup tends to help in
# runs of 80 epochs and more. A run as short as ours cannot test that: it only shows what mixup does where
# there is nothing yet to prevent.
#
# ## An aside: images meant to mislead
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
# Pixel values range from -1 to 1, so one of the 255 grey steps is 2 / 255. Here are five validation
# images, whole in the upper row and moved by eight such steps in the lower one, each with what a plain
# network calls it.

# %%
victims, truth = data.normalise(data.val.x[:2000]), data.val.y[:2000]
plain = arms["plain"][0].net.eval()
for pictures in (victims[:5], fgsm(plain, victims[:5], truth[:5], 8 * 2 / 255)):
    show(pictures.cpu(), [data.classes[number] for number in plain(pictures).argmax(1)])
plt.show()

# %% [markdown]
# Where the two names of a column differ, a faint grain has changed the network's answer. Now we attack
# all networks of case 4, each along its own gradient, and compare them without and with the attack.

# %%
under = {}
for steps in (0, 4, 8):
    under[steps] = {}
    for name, runs in arms.items():
        attacked = [fgsm(run.net.eval(), victims, truth, steps * 2 / 255) for run in runs]
        hits = [run.net(x).argmax(1) == truth for run, x in zip(runs, attacked, strict=True)]
        under[steps][name] = [hit.float().mean().item() for hit in hits]
rows = {f"{steps} grey steps": {n: np.mean(a) for n, a in u.items()} for steps, u in under.items()}
pd.DataFrame(rows).T.round(3)

# %%
verdicts = {n: gained(u["mixup"], u["plain"], chance=0.1) for n, u in under.items()}
say(
    f"Without an attack, mixup's accuracy on these 2,000 images is {verdicts[0]}. Under an attack of 8 grey "
    f"steps, it is **{verdicts[8]}**."
)

# %% [markdown]
# This is a weak attack: one step, which uses only the sign of the gradient. If mixup bends the direction
# of that gradient, this step hurts less, and a stronger attack of many steps may still succeed. And a
# network that has lost most of its accuracy is not safe because another has lost more.

# %% [markdown]
# ## Break it
#
# The line that blends the labels is where real code goes wrong, and no error is raised when it does. We
# make three such mistakes on purpose. In each, the images are blended correctly. The first forgets to
# blend the labels. The second blends each label with that of a stranger, an image other than the
# partner. The third swaps the shares, so that the fainter image gets the larger share of the label. With
# an alpha of 0.2, most blends are nearly one image, and then this label is nearly that of the other one.


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
# We train each mistake for a quarter of the budget, on right labels, beside correct mixup with the same
# alpha and the same seed.

# %%
mistakes = ("labels not blended", "label of a stranger", "shares swapped")
trials = {"plain": BASELINE, "mixup, correct": BASELINE + Mixup(0.2)}
trials |= {mistake: BASELINE + Mistaken(mistake) for mistake in mistakes}
quarter, short = budget.images // 4, {}
for name, recipe in trials.items():
    run = train(recipe, data, images=quarter, evaluations=1, label=name)
    short[name] = [run.val_accuracy]

# %%
bars(short, "validation accuracy", f"alpha 0.2, {quarter:,} images, one seed")
plt.show()

# %%
worst = min(mistakes, key=lambda mistake: short[mistake][0])
found = [f"{name}: {gained(short[name], short['mixup, correct'])}" for name in mistakes]
say(
    f"Compared with correct mixup ({short['mixup, correct'][0]:.2f}): {'; '.join(found)}. The worst mistake, "
    f"**{worst}, ends at {short[worst][0]:.2f}**; guessing would give 0.10."
)

# %% [markdown]
# A mistake that costs a few points looks harmless and can live in real code for years. Test it without
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
# All cases once more. `memory` holds the accuracies on training images and on validation images, without
# mixup, so that code can apply the line of nine in ten that we drew above.

# %%
memory["1: wrong labels"] = (plain_wrong[4][-1], checked[-1])
memory[stopped] = (None, max(checked))
summary = {}
for case, (own, other) in cases.items():
    training, validation = memory[case][:2]
    known = "-" if training is None else "yes" if has_memorised(training, validation) else "no"
    summary[case] = (known, len(own), gained(own, other, chance=0.1))
pd.DataFrame(summary, index=["plain memorised", "pairs of runs", "accuracy with mixup"]).T

# %% [markdown]
# We count the verdicts, separately for the cases in which the plain network memorised its training set
# and for those in which it did not.

# %%
premise = [row[2] for row in summary.values() if row[0] == "yes"]
others = [row[2] for row in summary.values() if row[0] == "no"]


def tally(verdicts):
    counted = {word: sum(word in verdict for verdict in verdicts) for word in ("higher", "lower")}
    found = f"higher in {counted['higher']} and lower in {counted['lower']} of {len(verdicts)}"
    return found if verdicts else "not tested"


# %%
say(
    f"Cases in which the plain network memorised its training set: mixup **{tally(premise)}**. Cases in "
    f"which it did not: mixup **{tally(others)}**. Against a plain run stopped at its best: {summary[stopped][2]}."
)

# %%
if not premise:
    finding = "was **not tested**, because no plain network memorised its training set"
elif all("higher" in verdict for verdict in premise):
    finding = "**held** in every case that we tried"
else:
    kept = sum("higher" in verdict for verdict in premise)
    finding = (
        f"held in **{kept} of {len(premise)}** cases: that a network can memorise was not enough"
    )
say(
    f"The card's claim, that mixup pays when the network could memorise its training set, {finding}."
)

# %% [markdown]
# And which alpha won in the two cases in which we tried three?

# %%
ends_few = {name: np.mean(found) for name, found in scores.items()}


def winner(ends):
    best = max((name for name in ends if name != "plain"), key=ends.get)
    won = best if ends[best] > ends["plain"] else "none"
    return f"**{won}** ({best} {ends[best]:.2f}, plain {ends['plain']:.2f})"


# %%
say(f"Which alpha won? Wrong labels: {winner(ends_wrong)}. Few right labels: {winner(ends_few)}.")

# %% [markdown]
# It also matters *what* is memorised: a wrong label teaches something false, a right one does not. With
# right labels, large alphas ask the network to spend its steps on pictures that it will never be asked
# about.
#
# **A rule of thumb.** First, measure training accuracy on whole images. If it is not far above validation
# accuracy, there is nothing to prevent, so leave mixup out. If it is, and your labels are doubtful, try
# mixup with alpha 1 and 8, most of all if you have no clean labels by which to stop early. If it is, and
# your labels are right, try 0.2 and keep it only if validation accuracy rises. Compare with at least two
# seeds.
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
# **5. When would you leave mixup out?**
#
# <details><summary>Answer</summary>When the run is too short to memorise anything, or when blended labels
# make no sense. An example is counting: a picture of two cars laid over one of four shows six faint
# cars, and neither label says six.</details>
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
# - Goodfellow et al. 2014, [arXiv 1412.6572](https://arxiv.org/abs/1412.6572): why small changes mislead
#   networks, and FGSM.
