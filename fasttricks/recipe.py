"""A recipe says how to train; a trick fills a slot of it; recipes add up.

BASELINE + Mixup()              one trick
sum(SEVEN, start=BASELINE)      all seven, in any order the same recipe
whole - "mixup"                 all but one
"""

import json
import math
import os
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib import import_module
from typing import Any

from . import tricks
from .checks import arguments, check, shown
from .tricks import Distributed, MixedPrecision, Scratch

# The names on the command line, in chapter order: name of the file = name of the trick.
NAMES = ("distributed", "scaling", "cyclic", "mixup", "smoothing", "transfer", "precision")
SINGLE = ("world", "batch", "momentum", "start", "precision")  # one trick each; the others add up
SCHEMA = 2  # of a recipe's JSON; the first version had the same fields and no number
OPTIMIZERS = ("sgd", "adamw")
OURS = tuple(kind for kind in vars(tricks).values() if is_dataclass(kind) and kind != Scratch)
SEEN: dict[str, type] = {}  # tricks of the reader's own that a recipe of this process has had
MODULES = "FASTTRICKS_MODULES"  # set for a launched process: where tricks that are not ours lie

Trick = Any  # one of the dataclasses in fasttricks.tricks, or of the reader's own


def name_of(trick: Trick) -> str:
    """The short name of a trick: that of its file, or of its class if a notebook defines it."""
    module = type(trick).__module__.rpartition(".")[2]
    return type(trick).__name__.lower() if module == "__main__" else module


def place(trick: Trick) -> tuple[int, str]:
    """Where a trick stands in a recipe: ours in chapter order, then others."""
    name = name_of(trick)
    return (NAMES.index(name) if name in NAMES else len(NAMES)), repr(trick)


@dataclass(frozen=True)
class Recipe:
    """Settings of plain training, and the tricks added to them (kept in chapter order)."""

    lr: float = 1e-3  # peak learning rate before any factor
    batch: int = 128  # images in one global batch, unless a trick says otherwise
    optimizer: str = "adamw"  # "sgd" (Nesterov) or "adamw"
    momentum: float = 0.9  # of SGD; beta1 of AdamW
    weight_decay: float = 0.05  # none on norms and biases
    clip: float | None = None  # largest gradient norm
    tricks: tuple[Trick, ...] = ()

    def __post_init__(self) -> None:
        finite = 0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf
        if not (finite and 0 <= self.momentum < 1):
            raise ValueError(
                f"A recipe needs lr > 0, momentum in [0, 1) and weight_decay >= 0, all finite, not "
                f"lr={self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay}."
            )
        if not self.batch >= 1:
            raise ValueError(f"A recipe needs a batch of 1 image or more, not {self.batch}.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"Unknown optimizer {shown(self.optimizer)}; use one of {OPTIMIZERS}.")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"A recipe needs a finite clip above 0 (or none), not {self.clip}.")
        object.__setattr__(self, "tricks", tuple(sorted(self.tricks, key=place)))
        seen: dict[Any, Trick] = {}
        for trick in self.tricks:
            SEEN[type(trick).__name__] = type(trick)
            for key in (type(trick), *(slot for slot in trick.slots if slot in SINGLE)):
                if key in seen:
                    what = "are one trick twice" if key is type(trick) else f"fill the slot {key!r}"
                    both = f"{seen[key]!r:.150} and {trick!r:.150}"
                    raise ValueError(f"{both} both {what}; leave one of them out.")
                seen[key] = trick

    def __add__(self, trick: Trick) -> "Recipe":
        return replace(self, tricks=(*self.tricks, trick))

    def __sub__(self, name: str) -> "Recipe":
        """The recipe without the trick of that name."""
        kept = tuple(trick for trick in self.tricks if name_of(trick) != name)
        if len(kept) == len(self.tricks):
            there = ", ".join(self.names) or "none"
            raise ValueError(f"There is no {name!r} to leave out; the recipe has {there}.")
        return replace(self, tricks=kept)

    @property
    def names(self) -> tuple[str, ...]:
        """The short names of the recipe's tricks."""
        return tuple(name_of(trick) for trick in self.tricks)

    def fills(self, slot: str) -> tuple[Trick, ...]:
        """The tricks in one slot."""
        return tuple(trick for trick in self.tricks if slot in trick.slots)

    @property
    def world(self) -> Distributed:
        """Who trains: one process unless a trick says otherwise."""
        return (*self.fills("world"), Distributed(processes=1))[0]

    @property
    def start(self) -> Any:
        """The first weights: random unless a trick says otherwise."""
        return (*self.fills("start"), Scratch())[0]

    @property
    def precision(self) -> MixedPrecision:
        """The arithmetic: fp32 unless a trick says otherwise."""
        return (*self.fills("precision"), MixedPrecision("fp32"))[0]

    @property
    def global_batch(self) -> int:
        """Images in one optimiser step, over all processes."""
        return (*self.fills("batch"), self)[0].batch

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of optimiser step `step` (from 0) in a run of `steps`."""
        batch = self.global_batch
        factors = (trick.lr_factor(step, steps, batch) for trick in self.fills("lr_factors"))
        return self.lr * math.prod(factors)

    def momentum_at(self, step: int, steps: int) -> float:
        """The momentum (AdamW: beta1) of that optimiser step."""
        values = [trick.momentum(step, steps) for trick in self.fills("momentum")]
        return (*values, self.momentum)[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for workers, records and files; `from_json` is the way back."""
        settings = {"schema": SCHEMA, **{f.name: getattr(self, f.name) for f in fields(self)}}
        settings["tricks"] = [{"trick": type(t).__name__, **asdict(t)} for t in self.tricks]
        return settings

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> "Recipe":
        """The recipe of `to_json`. Raises ValueError for all that is no recipe."""
        given = dict(check(dict, settings, "recipe"))
        schema = given.pop("schema", SCHEMA)
        if schema != SCHEMA:
            raise ValueError(f"recipe has schema {shown(schema)}; this version reads {SCHEMA}.")
        given = arguments(cls, given, "recipe")
        return cls(**{**given, "tricks": tuple(map(make, given.get("tricks", ())))})

    def __str__(self) -> str:
        return json.dumps(self.to_json())


def make(given: Any) -> Trick:
    """A trick from plain values: the name of its class under "trick", and its settings.

    It is ours, one that a recipe here has had, or of one of the modules in FASTTRICKS_MODULES. Only
    the environment names modules to import, never a file; of what they hold, only dataclasses with
    slots are tricks.
    """
    settings = dict(check(dict, given, "a trick"))
    name = settings.pop("trick", None)
    known = {**SEEN, **{kind.__name__: kind for kind in OURS}}
    if isinstance(name, str) and name not in known:
        for module in filter(None, os.environ.get(MODULES, "").split(",")):
            kind = getattr(import_module(module), name, None)
            if isinstance(kind, type) and is_dataclass(kind) and hasattr(kind, "slots"):
                known.setdefault(name, kind)
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"Unknown trick {shown(name)}; there are {', '.join(known)}.")
    return known[name](**arguments(known[name], settings, name))
