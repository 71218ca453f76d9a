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
# Each chapter added one trick to plain training. Here we add all seven and ask one question: *how
# much faster does the same network reach the same validation accuracy?* The networks are small
# ResNets that sort Fashion-MNIST, pictures of clothes. Then we take the sum apart, to see which tricks
# earned their place.
#
# **In short:** two tricks do almost all of it: a one-cycle schedule, and weights from another task.
# On our two CPU cores, the other five together add nothing, because some save time and others cost
# it. In your own loop, begin with these lines (chapter 3 shows how to find `peak`). They are the same
# idea with weights from photographs, which we have not measured. On a GPU without bf16, such as a T4,
# leave the `autocast` out or see chapter 7.
#
# ```python
# net = timm.create_model("resnet18", pretrained=True, num_classes=classes)  # weights (chapter 6)
# optimizer = torch.optim.AdamW(net.parameters(), lr=peak, weight_decay=0.05)
# cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.15)  # chapter 3
# for x, y in batches:  # exactly `steps` of them
#     with torch.autocast("cuda", torch.bfloat16):  # 16 bits (chapter 7)
#         loss = F.cross_entropy(net(x), y)
#     loss.backward()
#     optimizer.step()
#     optimizer.zero_grad()
#     cycle.step()
# ```
#
# - **Use it when** you know the length of a run beforehand and can get weights from a related task.
# - **Leave it when** you would have to train these weights for a few runs only, or when a few
#   tenths of a point of accuracy matter more than time.
# - **It does not** shorten the start of a run, and it does not promise the same accuracy on *test*
#   images.
#
# <a href="#take">A table further down</a> says which tricks to take on which machine. *Plain*
# training is AdamW at a constant learning rate, tuned with as many tries as the full recipe. We
# read two clocks. The **train clock** runs only while the network trains. **Total time** runs from
# the start of the process to its end, with imports, data, weights and every evaluation (the *cold
# wall* of chapter 0).
#
# About 25 minutes to read, and four to run on two CPU cores.

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
# Before we run anything, here is what our recorded *studies* found. We explain below how.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from fasttricks import BASELINE, SEVEN, choose_budget, load, train
from fasttricks.course import published, say
from fasttricks.pretrain import make_letters

budget, data = choose_budget(), load()
studies = [study for study in published() if {"plain", "whole"} <= set(study.tested)]

# %% tags=["fold"]
from fasttricks.study.findings import NARROW, covered
from fasttricks.study.pages import paired


def within(ratio):
    return f"95% interval: {ratio.low:.1f} to {ratio.high:.1f}"


def on_test(study):
    pairs = zip(study.tested["whole"], study.tested["plain"], strict=True)
    points, low, high = paired(list(pairs))
    word = "clearly higher" if low > 0 else "clearly lower" if high < 0 else "no clear difference"
    return f"{word} ({points:+.2f} points, 95% interval: {low:+.2f} to {high:+.2f})"


for study in studies:
    slow, fast = study.of("plain", "whole")
    told = (
        f"- **On {study.hardware}, all seven are {fast.ratio.value:.1f} times as fast as plain "
        f"training** ({within(fast.ratio)}) to the same validation accuracy: {fast.train:.2g} s of "
        f"training instead of {slow.train:.3g} s."
    )
    held = covered(study.study).get("holds", {}).get("whole", 1.0)
    if held < NARROW:
        told += f" This interval is too narrow: in simulations, it held the truth in {held:.0%}."
    if fast.wall_ratio.value > 0:
        told += f" In total time, they are {fast.wall_ratio.value:.1f} times as fast."
    say(f"{told} Accuracy on the test images: {on_test(study)}.")

# %% tags=["fold"]
import math

shown = [
    study for study in studies if study.steps and all(r.arrives for r in study.of(*study.steps))
]
for study in shown:
    two, seven = study.of("plain + cyclic + transfer", "whole")
    share = math.log(two.ratio.value) / math.log(seven.ratio.value)
    part = "all" if share > 0.97 else "most" if share > 0.5 else "a part"
    say(
        f"- **The cycle and the transferred weights are {part} of it.** On {study.hardware}, these "
        f"two alone are {two.ratio.value:.1f} times as fast ({within(two.ratio)}). The other five "
        f"multiply this by {seven.ratio.value / two.ratio.value:.2f}."
    )
    best = min(study.steps, key=study.to_target)
    (top,) = study.of(best)
    if best != "whole" and top.against == "plain":
        names = best.split(" + ")[1:]
        say(
            f"- The fastest recipe on the way to all seven has {len(names)} tricks "
            f"({', '.join(names)}): **{top.ratio.value:.1f} times** ({within(top.ratio)}). We "
            f"picked it afterwards, so its factor is probably too high."
        )

# %% tags=["fold"]
import re

from fasttricks.budget import BUDGETS

size = BUDGETS["cpu"]
made = make_letters(size.model, size.image_size)  # these weights come with the course
spent = float(re.search(r"in ([\d,]+) s", made)[1].replace(",", ""))
maker = made.split(" on ")[1].replace("1 threads", "one thread")
price = f"- **The price:** making the transferred weights took {spent:,.0f} s ({maker}), once."
for study in shown:
    bare, fast = study.of("whole - transfer", "whole")
    saved = bare.train - fast.train
    if study.study == size.name and saved > 0:
        price += (
            f" With the other six tricks, they save {saved:.1f} s per run. So they pay for "
            f"themselves after about **{float(f'{spent / saved:.2g}'):,.0f} runs**."
        )
say(f"{price} No clock counts it.")

# %% tags=["fold"]
from fasttricks.course import beside_refreshed

if beside_refreshed():
    say(f"- **Is the comparison fair?** {beside_refreshed()}")

# %% [markdown]
# ## How a study finds the time
#
# A *study* is a large set of runs that we made beforehand. It trains each recipe with several
# numbers of images, and with five or ten seeds for each. It draws a curve through the mean
# accuracies and reads off how many images it takes to reach the *target*, a validation accuracy
# that was chosen beforehand. The time is this number times the measured seconds per image. At the
# end, recipes are trained once more with the number of images that was found. These *last runs*
# check the curve, which has not seen them. [RESULTS](../RESULTS.md) has the details.
#
# ## All seven as a sum
#
# A *recipe* says how to train. `BASELINE` is plain training, and each trick changes one or two
# places of the training loop. So the recipe with all seven tricks is a sum. Here are its settings:

# %%
from fasttricks.course import holds

whole = sum(SEVEN, start=BASELINE)
for trick in whole.tricks:
    print(trick)

# %% [markdown]
# You can add them in any order. Two of them change the learning rate, but only by factors, which
# are multiplied. Mixup and smoothing both take weighted averages of the targets, with weights that
# add up to 1, and so their order does not matter either. `holds` prints a claim if it is true, and
# stops the notebook if it is not.

# %% tags=["fold", "nbval-check-output"]
from itertools import permutations

x, q = data.batch(*next(data.draws(160, torch.Generator().manual_seed(0))))  # images and targets
mixup, smoothing = whole.fills("batch_maps")  # the tricks that change a batch
mixed_first = smoothing.batch_map(*mixup.batch_map(x, q, np.random.default_rng(0)), None)[1]
mixed_last = mixup.batch_map(*smoothing.batch_map(x, q, None), np.random.default_rng(0))[1]
same = torch.allclose(mixed_first, mixed_last, atol=1e-6)
orders = {sum(order, start=BASELINE) for order in permutations(SEVEN)}
holds(same and orders == {whole}, "the order of the tricks does not matter")

# %% [markdown]
# ## Which tricks make it fast?
#
# The study of the CPU went from plain training to all seven, step by step. A black bar is the time
# to the target, and the hatched part is what the step saves. A step whose factor is below 1 costs
# time.

# %% tags=["fold"]
from itertools import pairwise

from fasttricks.study.pages import steps_of, waterfall

for study in shown:
    counts = " or ".join(sorted({str(row.seeds) for row in study.of(*study.steps)}, key=int))
    waterfall(study, f"{study.hardware}, validation accuracy {study.target}, {counts} seeds")
plt.show()


# %% tags=["fold"]
def listed(steps):
    named = [f"*{name.removesuffix(' (whole)')}* ({factor:.2f})" for name, factor in steps]
    return ", ".join(named) or "none"


for study in shown:
    took = [study.to_target(arm) for arm in study.steps]
    factors = [before / after for before, after in pairwise(took)]
    steps = sorted(zip(steps_of(study.steps)[1:], factors, strict=True), key=lambda one: -one[1])
    rest = steps[2:]
    say(
        f"The two largest steps are {listed(steps[:2]).replace(', ', ' and ')}. The numbers say "
        f"how many times as fast each makes training. Of the others, these save time: "
        f"{listed([one for one in rest if one[1] > 1])}. These cost time: "
        f"{listed([one for one in rest if one[1] <= 1])}. Together, the others multiply the speed "
        f"by **{math.prod(factor for _, factor in rest):.2f}**."
    )

# %% [markdown]
# In another order, the steps would have other sizes, and a small step may be chance. So the studies
# also ask about each trick alone: how many times as fast is training with it, added to plain
# training, and added to the other six? We say that it *pays* or *costs time* only if the 95%
# interval, in brackets, excludes 1. Among so many verdicts, a few are wrong by chance. An asterisk
# marks those that fall if we demand more of each verdict because there are so many (Holm 1979).

# %% tags=["fold"]
PAYS = {"faster": "pays", "slower": "costs time", "cannot tell": "cannot tell"}
JOINED = {"slower": "pays", "faster": "costs time", "cannot tell": "cannot tell"}  # by the six's


def cell(study, change, name):
    found = study.of(f"{change} {name}")
    if not found:
        return "not measured"
    (row,) = found
    if not row.arrives:
        return f"target not reached after {row.most:,} images"
    ratio, words = (row.ratio, PAYS) if change == "plain +" else (row.ratio.inverse, JOINED)
    told = f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), {words[row.verdict]}"
    return told + r" \*" * row.wavers


ADDED = {"plain +": "added to plain", "whole -": "added to the other six"}
asked = [(study, change) for study in studies for change in ADDED if study.of(f"{change} cyclic")]
heads = [f"{study.hardware}: {ADDED[change]}" for study, change in asked]
lines = [f"| trick | {' | '.join(heads)} |", "| --- " * (1 + len(heads)) + "|"]
for name in whole.names:
    lines += [f"| {name} | {' | '.join(cell(*place, name) for place in asked)} |"]
say("\n".join(lines))

# %% tags=["fold"]
verdicts = {
    name: {row.verdict for study in studies for row in study.of(f"whole - {name}")}
    for name in whole.names
}
pay = [name for name, found in verdicts.items() if found == {"slower"}]  # slower without it
cost = [name for name, found in verdicts.items() if "faster" in found]
say(
    f"Added to the other six, these pay wherever we measured them: **{', '.join(pay) or 'none'}**. "
    f"These cost time at least once: **{', '.join(cost) or 'none'}**."
)
for study in (study for study, change in asked if change == "plain +"):
    surely, maybe = [], []
    for name in ("cyclic", "transfer"):
        alone, without = (row.ratio for row in study.of(f"plain + {name}", f"whole - {name}"))
        surely += [name] * (without.inverse.low > alone.high)
        maybe += [name] * (name not in surely and without.inverse.value > alone.value)
    say(
        f"Clearly worth more with the others than alone: {', '.join(surely) or 'none'}. Perhaps: "
        f"{', '.join(maybe) or 'none'}."
    )

# %% [markdown]
# Why can a trick be worth more with the others than alone? We have not tested it, but a likely
# reason is this: with a constant rate, accuracy near the target rises slowly, however good the
# start was. The cycle takes this slow part away, and then a good start counts.

# %% tags=["fold"]
alpha = whole.fills("batch_maps")[0].alpha
for study in shown:
    (fast,) = study.of("whole")
    passes = fast.images.value / len(data.train)
    say(
        f"On {study.hardware}, all seven see {passes:.2f} epochs"
        + (": most training images are never seen" if passes < 0.6 else "")
        + ". Mixup is meant for images that are seen often. And the verdicts hold for these "
        f"settings only: mixup's alpha is {alpha:g}"
        + (", which blends very little" if alpha < 0.1 else "")
        + f", and scaling raises the batch from {BASELINE.batch} to {whole.global_batch}."
    )

# %% [markdown]
# Two objections come to mind: *everybody uses a schedule anyway*, and *I have no suitable
# weights*.

# %% tags=["fold"]
for study in (study for study, change in asked if change == "plain +"):
    plain_way, cycle_way, whole_way, bare_way = (
        study.to_target(arm) for arm in ("plain", "plain + cyclic", "whole", "whole - transfer")
    )
    say(
        f"- Compared with plain training that has one cycle already, all seven are "
        f"**{cycle_way / whole_way:.1f} times as fast**.\n"
        f"- Without the transferred weights, the other six are **{plain_way / bare_way:.1f} times "
        f"as fast** as plain training."
    )

# %% [markdown]
# [RESULTS](../RESULTS.md) also shows what the recipes of fastai, Lightning and timm reach on this
# task. So take the cycle and the weights first. Of the other five, 16-bit precision is the safest
# choice.
#
# ## Does it happen here?
#
# Now we run it ourselves: with plain training, with all seven, and with the cycle and the weights
# alone. With all seven, there is one process per GPU, or two on a CPU, where they only share the
# cores. So we also train with the other six in one process.

# %%
from fasttricks.recipe import name_of

pair = sum([trick for trick in SEVEN if name_of(trick) in ("cyclic", "transfer")], start=BASELINE)
recipes = {"plain": (BASELINE, budget.plain), "all seven": (whole, budget.whole)}
single = "all seven"
if whole.world.count() > 1:
    single = "six, one process"
    recipes[single] = (whole - "distributed", budget.whole)
recipes["cyclic + transfer"] = (pair, budget.whole)
cost = make_letters(budget.model, budget.image_size)  # on a GPU they are made now, once

# %% [markdown]
# A run with one cycle is at its best at the very end, so we must fix its length beforehand. On a
# CPU, plain training and all seven see as many images as the study found for its own target. Our
# target here is a little lower, so that three runs do not miss it by bad luck. It only decides
# whether a recipe has reached the target. (On a GPU, the numbers of images are estimates.) So these runs
# only check that the gain appears on your machine. The study measures it better.

# %% tags=["fold"]
epochs = [images / len(data.train) for images in (budget.plain, budget.whole)]
say(
    f"The network is {budget.model}, and the target is a validation accuracy of {budget.target}. "
    f"Plain training sees {budget.plain:,} images ({epochs[0]:.2f} epochs), and all seven see "
    f"{budget.whole:,} ({epochs[1]:.2f} epochs). Runs per recipe: {budget.seeds}."
)

# %% [markdown]
# The recipes take turns, and every run starts in a new process (`fresh=True`), as if from the
# shell.

# %%
from fasttricks.course import one_line

arms = {name: [] for name in recipes}
with one_line() as tell:
    for seed in range(budget.seeds):
        for name, (recipe, images) in recipes.items():
            label = f"{name}, seed {seed}"
            arms[name] += [train(recipe, data, images=images, seed=seed, fresh=True, label=label)]
    tell(f"{sum(map(len, arms.values()))} runs, {len(arms)} recipes in turns")
ends = {name: [run.val_accuracy for run in runs] for name, runs in arms.items()}

# %% [markdown]
# Seconds are medians of whole runs, or *never* if the mean accuracy misses the target. A *speed-up*
# says how many times as fast a recipe is as *plain*. The interval comes from drawing the seeds
# again and again (the bootstrap). With three seeds, it is hardly more than their range.

# %% tags=["result"]
from fasttricks.course import caption, table

print(caption(arms["plain"][0]))
print("not counted: the weights that transfer starts from,", cost)
table(arms).drop(index=["images a second", "lowest and highest"])

# %% [markdown]
# The figure shows how the accuracies rise with time. Each line is a run, each corner is an
# evaluation, and the mark is the end of the run. The table counts each run to its mark, even if the
# line crosses the target earlier. Equal distances on the time axis are equal factors.

# %% tags=["figure"]
from fasttricks.course import accuracy_against_time

accuracy_against_time(arms)
plt.show()

# %% tags=["fold"]
from fasttricks.course import gained, median
from fasttricks.study.statistics import speed_up


def times_as_fast(name, clock="train_seconds"):
    ratio = speed_up(arms[name], arms["plain"], clock)
    compared = 0 < ratio < float("inf")
    return f"{ratio:.1f} times as fast" if compared else "not comparable (target missed)"


ratio = speed_up(arms["all seven"], arms["plain"])
found = "Nothing can be said here" if not 0 < ratio < float("inf") else "It does not happen here"
found = "It **does happen here**" if 1 < ratio < float("inf") else found
recorded = [study for study in studies if study.study == budget.name]
in_study = [f" (the study: {study.of('whole')[0].ratio.value:.1f})" for study in recorded]
say(
    f"{found}: compared with plain training, all seven are **{times_as_fast('all seven')}** on the "
    f"train clock{''.join(in_study)} and {times_as_fast('all seven', 'wall_seconds')} in total "
    f"time. The cycle and the weights alone are {times_as_fast('cyclic + transfer')} on the train "
    f"clock. Validation accuracy, all seven compared with plain training: "
    f"{gained(ends['all seven'], ends['plain'])}."
)

# %% tags=["fold"]
from fasttricks.course import faster

clocks = {"on the train clock": "train_seconds", "in total time": "wall_seconds"}
taken = {
    clock: {name: [getattr(run, clock) for run in runs] for name, runs in arms.items()}
    for clock in clocks.values()
}
if single != "all seven":
    verdict = faster(taken["train_seconds"][single], taken["train_seconds"]["all seven"])
    told = [
        f"{median(some['all seven']) / median(some[single]):.2f} times as fast {where}"
        for where, some in zip(clocks, taken.values(), strict=True)
    ]
    costs = float(told[0].split()[0]) > 1
    balance = "costs more time than it saves" if costs else "saves more time than it costs"
    say(
        f"Compared with all seven, the six in one process are {' and '.join(told)}. So on the "
        f"train clock, dividing each batch among {whole.world.count()} "
        f"{'GPUs' if torch.cuda.is_available() else 'processes on one CPU'} "
        f"**{'makes no clear difference' if 'not clearly' in verdict else balance}**."
    )

# %% tags=["fold", "nbval-check-output"]
wanted = {name: images // recipe.global_batch for name, (recipe, images) in recipes.items()}
exact = all(run.steps == wanted[name] for name, runs in arms.items() for run in runs)
together = {run.processes for run in arms["all seven"]} == {whole.world.count()}
holds(exact and together, "every run took the expected steps in the expected processes")
higher = []
for slow, fast in zip(arms["plain"], arms[single], strict=True):
    by_then = next(found for seen, _, found in slow.curve if seen >= fast.images_seen)
    higher.append(fast.val_accuracy > by_then)
holds(all(higher), "six tricks end above plain training after as many images, at every seed")

# %% [markdown]
# ## Is it the same accuracy?
#
# "As fast" means little if the fast network is worse. All choices (rates, targets, numbers of
# images) were made on the validation images. So we also look at the 10,000 test images, which played
# no part in any choice.

# %% tags=["tested"]
from fasttricks.loop import accuracy

device = whole.world.device()
sized = data.to(device, budget.image_size)
tested = {
    name: [accuracy(run.net.to(device), sized, sized.test, run.recipe) for run in arms[name]]
    for name in ("plain", "all seven")
}
for name, scores in tested.items():
    print(f"{name}: test {np.mean(scores):.4f}, validation {np.mean(ends[name]):.4f}")

# %% [markdown]
# The table puts this beside the studies. The differences are those of all seven from plain
# training. In a study, the accuracies are those of the last runs, which no curve has seen.

# %% tags=["fold"]
beside = gained(tested["all seven"], tested["plain"])
apart = {}  # points by which all seven are above plain: on validation images, on test images
lines = ["| | target | plain | all seven | difference, validation | difference, test |"]
lines += ["| --- " * 6 + "|"]
for study in studies:
    slow, fast = (row.accuracy for row in study.of("plain", "whole"))
    scores = [100 * np.mean(study.tested[arm]) for arm in ("plain", "whole")]
    apart[study.hardware] = 100 * (fast - slow), scores[1] - scores[0]
    lines += [
        f"| study, {study.hardware}, {len(study.tested['whole'])} seeds | {study.target} "
        f"| {slow:.4f} | {fast:.4f} | {100 * (fast - slow):+.2f} points | {on_test(study)} |"
    ]
means = [np.mean(ends[name]) for name in tested]
count = f"{budget.seeds} seed{'s' * (budget.seeds > 1)}"
lines += [
    f"| our runs, {count} | {budget.target} | {means[0]:.4f} | {means[1]:.4f} "
    f"| {gained(ends['all seven'], ends['plain'])} | {beside} |"
]
say("\n".join(lines))

# %% tags=["fold"]
if all(on_new > before - 0.2 for before, on_new in apart.values()):
    say(
        "In the studies, all seven lose hardly more on the test images than on the validation "
        "images. So new images add no further loss."
    )
else:
    say("In at least one study, all seven lose more on the test images than on the others.")

# %% [markdown]
# But a recipe that ended above its target could have stopped earlier. Suppose that the last runs
# are right and the curves are not, and move each curve so that it passes through the last runs:


# %% tags=["fold"]
def moved(study, row):  # seconds to the target on the curve that passes through the last runs
    target, took = np.transpose(study.targets[row.arm])[:2]
    return np.interp(2 * study.target - row.accuracy, target, took)


for study in studies:
    slow, fast = study.of("plain", "whole")
    factor, ratio = moved(study, slow) / moved(study, fast), fast.ratio
    where = "inside" if ratio.low <= factor <= ratio.high else "outside"
    if math.isfinite(factor):
        say(
            f"- On {study.hardware}, all seven would be **{factor:.1f} times as fast** instead "
            f"of {ratio.value:.1f}. This is {where} the interval ({ratio.low:.1f} to "
            f"{ratio.high:.1f})."
        )

# %% tags=["fold"]
for study in recorded:
    slow, fast = study.of("plain", "whole")
    lengths = {budget.plain: slow.images.value, budget.whole: fast.images.value}
    if any(abs(here / there - 1) > 0.01 for here, there in lengths.items()):
        continue  # other lengths are another question
    known = {"plain": study.tested["plain"], "all seven": study.tested["whole"]}
    first = {name: scores[: budget.seeds] for name, scores in known.items()}
    gap = 100 * (np.mean(first["all seven"]) - np.mean(first["plain"]))
    repeats = all(np.allclose(first[name], tested[name], atol=5e-5) for name in first)
    misled = "points" in beside.split("(")[0] and "no clear" in on_test(study)
    say(
        f"Our own runs {'repeat' if repeats else 'have'} the study's first {count}. In the "
        f"study, too, these alone differ by {gap:+.2f} points on the test images, and all "
        f"{len(known['plain'])} by {apart[study.hardware][1]:+.2f}. Plain training ended at "
        f"{means[0]:.4f} here, and at {slow.accuracy:.4f} with all seeds."
        + (" So **our few seeds mislead**, although they agree. Trust the study." if misled else "")
    )

# %% [markdown]
# So in the studies, the accuracies are equal to within a few tenths of a point, as far as ten seeds
# can tell, and even the stricter factors leave most of the speed.
#
# ## Where the seconds go
#
# Why is the factor so much smaller in total time? We break down the total time of two runs, those
# of seed 0. *Start* is what is neither training nor evaluation. The stages of training are *batch*
# (preparing the images), the two passes, the optimiser's *step* and *the rest*. Their shares come
# from torch's profiler, in a short run.

# %% tags=["fold"]
from fasttricks.course import shares
from fasttricks.study.limits import stages

total = {}
for name in ("plain", single):
    run, (recipe, _) = arms[name][0], recipes[name]
    found = stages(recipe, data, budget.model, budget.image_size, budget.images // 5)
    start = run.wall_seconds - run.train_seconds - run.eval_seconds
    loop = {stage: share * run.train_seconds for stage, share in found.items()}
    total[name] = {"start": start, **loop, "evaluation": run.eval_seconds}
figure = shares(total, caption(run))
figure.axes[0].set_xlabel("share of the total time, %; the numbers are seconds")
plt.show()

# %% tags=["fold"]
sums = {name: sum(parts.values()) for name, parts in total.items()}
passes = total["plain"]["forward"] + total["plain"]["backward"]
left = total[single]["start"] + total[single]["evaluation"]
say(
    f"In *plain*, the forward and backward passes make up **{passes / sums['plain']:.0%}** of the "
    f"total time. In *{single}*, start and evaluation take {left:.1f} of {sums[single]:.1f} s, or "
    f"**{left / sums[single]:.0%}**. Even if training took no time, a run would only be "
    f"{sums['plain'] / left:.1f} times as fast as plain training in total."
)

# %% [markdown]
# The tricks shorten only the training (Amdahl's law). So the longer the training, the closer the
# two clocks.
#
# ## Leave one out, on your machine
#
# The verdicts of a study hold for its machine, images and network. On your machine, you can ask in
# a minute what each trick adds. We train with six tricks in one process, and then leave out each in
# turn. (The second process hardly changes what is learned.) Every recipe sees half as
# many images as all seven above, because in longer runs the accuracies converge.

# %%
from fasttricks.course import train_arms

six = whole - "distributed"
recipes_without = {name: six - name for name in six.names}
short = budget.whole // 2
trained = train_arms({"six": six, **recipes_without}, sized, images=short, evaluations=1)

# %% [markdown]
# Each dot is one seed: by how many points the six are above the five without this trick. The bar is
# the mean, and the line is the bootstrap's interval for it.

# %% tags=["fold"]
from fasttricks.course import bars, gains

adds = {name: gains(trained["six"], trained[name]) for name in six.names}
bars(adds, "points of accuracy that the trick adds", f"{short:,} images, n = {budget.seeds}")
plt.show()

# %% tags=["fold"]
scores = {name: [run.val_accuracy for run in runs] for name, runs in trained.items()}
judged_here = {name: gained(scores["six"], scores[name]) for name in six.names}


def those(word):
    found = [name for name, told in judged_here.items() if word in told]
    return ", ".join(f"{name} ({np.mean(adds[name]):+.1f})" for name in found) or "none"


unclear = [name for name, told in judged_here.items() if "er (" not in told]
say(
    f"These clearly add accuracy, in points: **{those('higher (')}**. These clearly cost some: "
    f"{those('lower (')}. No clear difference: {', '.join(unclear) or 'none'}."
)

# %% tags=["fold", "nbval-check-output"]
seen = {run.images_seen for runs in trained.values() for run in runs}
holds(max(seen) - min(seen) < 256, "all recipes saw the same number of images, to within one batch")

# %% [markdown]
# As in chapter 0, a difference is clear if all pairs of runs agree on its sign and its mean is at
# least 1/√n points for n pairs. Without one, the trick is not needed *here, after this many
# images*. These runs are too short to say whether it saves seconds per image. And we chose the
# settings for the sum: with settings of their own, five tricks might lose less. To leave one out
# for good, write `whole - "mixup"`.
#
# <a id="take"></a>
#
# ## What should you take?
#
# The last column says what supports each line. Where it says *not measured*, the advice follows
# from the chapters and their papers, and you should measure it yourself. The studies compare at
# equal *validation* accuracy.

# %% tags=["fold"]
known = {study.study: study for study in published()}


def told_in(name, verdict):  # of each trick left out of all seven
    if name not in known:
        return "not recorded"
    rows = [row for trick in whole.names for row in known[name].of(f"whole - {trick}")]
    some = [row for row in rows if row.verdict == verdict]
    return ", ".join(row.arm.split()[-1] + r"\*" * row.wavers for row in some) or "none"


def behind(name):
    return (
        f"{name.upper()} study, added to the other six: {told_in(name, 'slower')} pay; "
        f"{told_in(name, 'faster')} cost time; no verdict on {told_in(name, 'cannot tell')}"
    )


few = "not measured"
if "few" in known:
    from fasttricks.study.pages import equal_gains

    study, base = known["few"], "plain + cyclic"
    (row,) = study.of(f"{base} + transfer")
    images, points, _, _ = equal_gains(study, f"{base} + mixup")[-1]
    few = (
        f"study of few labels: transfer makes one-cycle {row.ratio.value:.2f} times as fast; mixup "
        f"changes its accuracy by {points:+.1f} points after {images / study.labels:.0f} epochs"
    )

# %% tags=["fold"]
none = "not measured"
rows = [
    ("You have", "Take", "Because", "Measured"),
    ("---",) * 4,
    ("a CPU with 16-bit arithmetic", told_in("cpu", "slower"),
     "a second process only shares the cores", behind("cpu")),
    ("a CPU without it", "cyclic, transfer",
     "both save steps; `MixedPrecision` falls back to 32 bits", none),
    ("one GPU", told_in("gpu", "slower"),
     "GPUs multiply 16-bit numbers much faster; for the batch, see chapter 2", behind("gpu")),
    ("several GPUs", "the same, and distributed", "each takes a share of the batch", none),
    ("few labels", "transfer first, then try mixup or smoothing",
     "few labels are soon memorised", few),
    ("many labels, a short run", "cyclic, transfer",
     "no label is seen often enough to be memorised", "the CPU study above"),
    ("many labels, a long run", "cyclic, precision; try mixup and smoothing",
     "a random start catches up, and memorising begins", none),
]  # fmt: skip
say("\n".join(f"| {' | '.join(row)} |" for row in rows))

# %% [markdown]
# The rule of thumb: begin with one cycle and the best weights that you can get, let the device
# compute in 16 bits if it does so natively, and fix the number of images beforehand. Add the other
# tricks one at a time. Train several seeds with and without each, and keep it only if the
# difference is clear.
#
# ## Questions
#
# **1. Why can you add the seven tricks in any order?**
#
# <details><summary>Answer</summary>Learning-rate factors are multiplied, mixup and smoothing give
# the same targets in either order, and every other slot is filled by one trick only.</details>
#
# **2. A trick is worth more together with others than alone. How can that be?**
#
# <details><summary>Answer</summary>The other tricks change what limits the run. With a constant
# rate, the last points of accuracy come slowly, and a better start saves only the first part. If a
# falling rate makes the last points quick, the first part is most of the run, and a better start
# saves most of it.</details>
#
# **3. Why do the clocks not include the making of the weights, and what would change if they did?**
#
# <details><summary>Answer</summary>They are made once and used by every run. On the clock of a
# single run, they can cost many times what they save. So we print their cost beside the
# result.</details>
#
# **4. All three seeds say that a recipe costs accuracy. Ten seeds see no clear difference. What
# went wrong?**
#
# <details><summary>Answer</summary>Perhaps nothing but chance. If one recipe's runs scatter widely,
# three of them can all be lucky, and then three comparisons agree. A rule for three seeds must err
# now and then; more seeds err less.</details>
#
# **5. We looked at all recipes on the way to seven tricks and picked the fastest. Why is its factor
# probably too high?**
#
# <details><summary>Answer</summary>Every measured factor has some luck in it. The largest of
# several is likely to be one with good luck. To know its true factor, measure it again with new
# seeds.</details>
#
# ## Exercises
#
# Replace `raise NotImplementedError` with your code and run the cell. If your answer is wrong, you
# get a hint.
#
# **Exercise 1.** For each trick in the recipe, return the recipe without it, in a dictionary keyed
# by the name of the missing trick.


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
# **Exercise 2.** The interval of a speed-up comes from many draws. Write one draw. `slow` and
# `fast` are the seconds of two recipes, indexed by seed, and `seeds` lists the seeds that were
# drawn, for example `[2, 2, 0]`. Return the speed-up of the drawn runs.


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
# **Exercise 3.** Write a trick of your own: *cutout*. Return an object with
# `slots = ("batch_maps",)`, which says that it changes batches, and `batch_map(x, q, rng)`, which
# returns the changed images `x` and targets `q`. It sets one square of `side` pixels to 0 in all
# images of the batch, at a position drawn from the numpy generator `rng`. You can add it to any
# recipe.


# %%
def cutout(side):
    raise NotImplementedError


check("capstone", 3, cutout)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# class Cutout:
#     slots = ("batch_maps",)
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
# - Coleman et al. 2019, [arXiv 1806.01427](https://arxiv.org/abs/1806.01427): time to accuracy, and
#   what the DAWNBench competition taught about it.
# - Dahl et al. 2023, [arXiv 2306.07179](https://arxiv.org/abs/2306.07179): AlgoPerf, how to compare
#   ways of training, tuning included.
# - Jordan 2024, [arXiv 2404.00498](https://arxiv.org/abs/2404.00498): how far a small network can
#   be pushed, with 200 or more runs behind each number.
#
# ## Appendix: take it with you
#
# **Save a network.** We save one and read it back with only timm and safetensors. Pixels must be
# scaled to the range from -1 to 1, as `normalise` does.

# %%
import tempfile
from pathlib import Path

import timm
from safetensors.torch import load_file

from fasttricks.models import save_weights

folder, last = Path(tempfile.mkdtemp()), arms["all seven"][-1]
save_weights(last.net, folder / "clothes.safetensors")
again = timm.create_model(budget.model, in_chans=1, num_classes=10)
again.load_state_dict(load_file(folder / "clothes.safetensors"))

# %% tags=["fold", "nbval-check-output"]
with torch.inference_mode():
    x = sized.normalise(sized.test[:5].x).cpu()
    before, after = (net.cpu().eval()(x).softmax(1) for net in (last.net, again))
holds(torch.allclose(before, after, atol=1e-4), "the network answers as it did before it was saved")

# %% [markdown]
# **Your own images.** Put them in a folder, with one subfolder per class. `load` sets one tenth
# aside for validation and one tenth for testing. Here, 1,000 of the clothes play the part of your
# images.

# %% tags=["fold"]
from torchvision.transforms.functional import to_pil_image

own = folder / "photos"
for number, (x, y) in enumerate(zip(data.val.x[:1000], data.val.y[:1000], strict=True)):
    kind = own / data.classes[y].replace(" ", "-")
    kind.mkdir(parents=True, exist_ok=True)
    to_pil_image(x).save(kind / f"{number}.png")

# %%
with one_line() as tell:
    photos = load(str(own))
    mine = train(whole, photos, images=budget.images // 4)
    tell(f"{mine.images_seen:,} images, {mine.processes} process(es), {mine.precision}")

# %%
say(
    f"Trained on {mine.labels} labelled images, each seen {mine.images_seen / mine.labels:.0f} "
    f"times, the network is right on **{mine.val_accuracy:.0%}** of {len(photos.val)} "
    f"validation images."
)

# %% [markdown]
# From the shell: `fasttricks train --data FOLDER --save mine.safetensors`. `examples/all_seven.py`
# has all seven tricks in ordinary PyTorch.
#
# **Several machines.** Copy the course and the data to each, and run this there, with the first
# machine's name for `HOST`:
#
#     torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
#         -m fasttricks train --tricks all --out run.json
#
# **If Colab or Kaggle stops your machine.** With `folder=`, a run saves a checkpoint there every
# minute, and the same call resumes from the last one. On Colab, put the folder on your drive. To
# try it, a folded trick interrupts the run once, at its fifth batch. We save after every step here
# (`every=0`).

# %% tags=["fold"]
from contextlib import suppress
from dataclasses import dataclass

batches_left = 5


@dataclass(frozen=True)
class Cut:
    slots = ("batch_maps",)

    def batch_map(self, x, q, rng):
        global batches_left
        batches_left -= 1
        if batches_left == 0:
            raise KeyboardInterrupt
        return x, q


# %%
kept = {"images": budget.images // 4, "folder": folder / "kept", "every": 0}
with one_line() as tell:
    with suppress(KeyboardInterrupt):
        train(six + Cut(), data, **kept)
    resumed = train(six + Cut(), data, **kept)  # the same call
    unbroken = train(six, data, images=kept["images"])
    tell("3 calls: interrupted, resumed, never interrupted")

# %% tags=["fold", "nbval-check-output"]
holds(resumed.resumed == 1, "the second call resumed from a checkpoint")

# %% tags=["fold"]
weights = zip(resumed.net.parameters(), unbroken.net.parameters(), strict=True)
alike = all(torch.equal(one.cpu(), other.cpu()) for one, other in weights)
say(
    f"It ends with an accuracy of {resumed.val_accuracy:.4f}, and the run that was never "
    f"interrupted with {unbroken.val_accuracy:.4f}. Their weights are "
    f"**{'the same, bit for bit' if alike else 'not the same, bit for bit'}**."
    + ("" if alike else " (A GPU may add numbers in a different order each time.)")
)
