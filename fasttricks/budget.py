"""How much to train where: small on a laptop's CPU, larger on a GPU, seconds for a quick check."""

import os
from dataclasses import dataclass

import torch

from . import tricks
from .recipe import Recipe, Trick


@dataclass(frozen=True)
class Budget:
    """One size of everything; chosen once, so that no notebook asks which it is."""

    name: str
    model: str  # timm's name
    image_size: int  # pixels a side
    val: int | None  # validation images that judge a run; None for all
    images: int  # images that one arm of a chapter trains on
    plain: int  # images until the plain recipe is at the target
    whole: int  # images until all seven are
    seeds: int  # runs an arm
    target: float  # validation accuracy


BUDGETS = {
    "smoke": Budget("smoke", "test_resnet", 28, 200, 5_120, 6_400, 3_840, 1, 0.65),
    "cpu": Budget("cpu", "test_resnet", 28, None, 25_600, 138_368, 16_480, 3, 0.88),
    # An estimate, from a few runs without records; the study of a GPU has larger batches.
    "gpu": Budget("gpu", "resnet18", 64, None, 102_400, 160_000, 40_960, 3, 0.91),
}


def choose_budget(name: str | None = None) -> Budget:
    """The named one, else FASTTRICKS_BUDGET's, else `gpu` where CUDA is and `cpu` elsewhere."""
    wanted = name or os.environ.get("FASTTRICKS_BUDGET")
    wanted = wanted or ("gpu" if torch.cuda.is_available() else "cpu")
    if wanted not in BUDGETS:
        raise ValueError(f"Unknown budget {wanted!r}; use one of {', '.join(BUDGETS)}.")
    return BUDGETS[wanted]


# Each the best of 24 settings on two CPU cores (of the whole's two best, the faster one);
# data/results has the tables.
BASELINE = Recipe(lr=1e-3, batch=128, optimizer="adamw", weight_decay=0.05)
SEVEN: tuple[Trick, ...] = (
    tricks.Distributed(),
    tricks.LRScaling(batch=160, reference=128, rule="sqrt"),
    tricks.OneCycle(peak=30.0, rise=0.15, momentum_low=0.8, momentum_high=0.9),
    tricks.Mixup(alpha=0.05),
    tricks.LabelSmoothing(eps=0.1),
    tricks.Transfer(source="letters"),
    tricks.MixedPrecision(),
)
