"""Seven tricks that train neural networks faster: a recipe says how to train, a trick fills a slot."""

from .budget import BASELINE, SEVEN, Budget, choose_budget
from .data import Data, load
from .recipe import Recipe
from .record import Run
from .train import pretrain, train
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

__version__ = "0.1.0"
__all__ = [
    "BASELINE",
    "SEVEN",
    "Recipe",
    "Budget",
    "choose_budget",
    "Data",
    "load",
    "train",
    "pretrain",
    "Run",
    "Distributed",
    "LRScaling",
    "Cyclic",
    "OneCycle",
    "Mixup",
    "LabelSmoothing",
    "Transfer",
    "MixedPrecision",
]
