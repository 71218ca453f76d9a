"""The seven tricks in chapter order; each file stands alone and may be pasted elsewhere."""

from .cyclic import Cyclic, OneCycle
from .distributed import Distributed
from .mixup import Mixup
from .precision import MixedPrecision
from .scaling import LRScaling
from .smoothing import LabelSmoothing
from .transfer import Scratch, Transfer

__all__ = [
    "Cyclic",
    "Distributed",
    "LRScaling",
    "LabelSmoothing",
    "MixedPrecision",
    "Mixup",
    "OneCycle",
    "Scratch",
    "Transfer",
]
