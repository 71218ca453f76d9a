"""The public interface as a type checker sees it: `make lint` runs mypy on this file alone.

What is right must pass, and each line that is marked must be refused, or mypy says that its mark is
not used. Nothing here is run.
"""

from pathlib import Path

from fasttricks import BASELINE, SEVEN, LRScaling, Mixup, OneCycle, Recipe, Run, load, train
from fasttricks.data import Data

recipe: Recipe = BASELINE + OneCycle(peak=10.0) + Mixup(alpha=0.2)
whole: Recipe = sum(SEVEN, start=BASELINE)
without: Recipe = whole - "mixup"
data: Data = load("cifar10")
run: Run = train(recipe, data, images=25_600, seed=1, folder=Path("kept"), every=30.0)
accuracy: float = run.val_accuracy
again: Recipe = Recipe.from_json(recipe.to_json())

train(recipe, images="many")  # type: ignore[arg-type]
train("plain")  # type: ignore[arg-type]
Mixup(alpha="a little")  # type: ignore[arg-type]
LRScaling(batches=256)  # type: ignore[call-arg]
load(3)  # type: ignore[arg-type]
whole - 4  # type: ignore[operator]
