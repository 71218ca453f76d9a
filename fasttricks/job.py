"""One run in plain values, checked, so that it can be handed to another process."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from .checks import arguments, shown
from .recipe import Recipe
from .tricks import MixedPrecision
from .tricks.precision import DTYPES

SCHEMA = 1
# What may differ where a run goes on: it decides no number of it.
FREE = ("budget", "target", "label", "folder", "every", "restarts", "schema")


@dataclass(frozen=True)
class Job:
    """What to train on what, for how long."""

    recipe: Recipe
    budget: str
    data: str
    data_size: int  # pixels a side of the data as they were loaded
    fingerprint: int | None  # of the data that is meant; None where it is handed over itself
    labels: int  # images to train on
    val: int | None  # the first so many images validate; None for all
    model: str
    image_size: int
    precision: str  # what "auto" means here: "fp32", "bf16" or "fp16"
    images: int  # images to see
    seed: int
    target: float
    evaluations: int
    test: bool
    label: str
    folder: str | None = None  # where it is kept; None for nowhere
    every: float = 60.0  # seconds between two checkpoints
    restarts: int = 0  # times that processes are started again where one has died
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        batch, world = self.recipe.global_batch, self.recipe.world
        shards = world.count() * world.accumulate
        if self.schema != SCHEMA:
            raise ValueError(f"A job has schema {SCHEMA} here, not {self.schema}.")
        if batch < shards:
            raise ValueError(
                f"A global batch of {batch} has no image for each of {shards} shards; "
                f"ask for fewer processes, or accumulate less."
            )
        if self.precision not in DTYPES:
            known = ", ".join(DTYPES)
            raise ValueError(f"precision is one of {known}, not {shown(self.precision)}.")
        if not 0 <= self.every < math.inf:
            raise ValueError(f"every must be 0 seconds or more, not {self.every}.")
        if not 0 < self.target <= 1:
            raise ValueError(f"target must be an accuracy in (0, 1], not {self.target}.")
        least = {"labels": batch, "images": batch, "seed": 0, "restarts": 0}
        ones = dict.fromkeys(("val", "evaluations", "image_size", "data_size"), 1)
        for name, fewest in {**least, **ones}.items():
            value = getattr(self, name)
            if value is not None and not value >= fewest:
                why = f" (one batch of {batch} needs them)" if name in ("labels", "images") else ""
                raise ValueError(f"{name} must be {fewest} or more{why}, not {value}.")

    @property
    def settled(self) -> Recipe:
        """The recipe with its precision named, for "auto" may mean another one elsewhere."""
        others = tuple(t for t in self.recipe.tricks if not isinstance(t, MixedPrecision))
        return replace(self.recipe, tricks=(*others, MixedPrecision(self.precision)))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the run's numbers; not how many processes share the work."""
        plain = {name: value for name, value in self.to_json().items() if name not in FREE}
        tricks = {t.pop("trick"): t for t in plain["recipe"]["tricks"]}
        tricks.pop("Distributed", None)
        return {**plain, "recipe": {**plain["recipe"], "tricks": tricks}}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, job: dict[str, Any]) -> "Job":
        """The job of `to_json`. Raises ValueError for all that is no job."""
        return cls(**arguments(cls, job, "job"))
