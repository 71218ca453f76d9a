"""Seven tricks that train neural networks faster: tricks fill the slots of a recipe."""

from .budget import BASELINE, SEVEN, choose_budget
from .data import Data
from .recipe import Recipe
from .record import Run
from .sources import load
from .train import train
from .tricks import (
    Cyclic,
    Distributed,
    LabelSmoothing,
    LRScaling,
    MixedPrecision,
    Mixup,
    OneCycle,
    Transfer,
)

__all__ = [
    "BASELINE",
    "SEVEN",
    "Cyclic",
    "Data",
    "Distributed",
    "LRScaling",
    "LabelSmoothing",
    "MixedPrecision",
    "Mixup",
    "OneCycle",
    "Recipe",
    "Run",
    "Transfer",
    "choose_budget",
    "load",
    "train",
]

__version__ = "0.1.0"
