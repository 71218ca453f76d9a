"""One run in plain values, checked, so that it can be handed to another process."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from .checks import arguments
from .recipe import Recipe
from .tricks import MixedPrecision
from .tricks.precision import DTYPES

SCHEMA = 1


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
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        batch, processes = self.recipe.global_batch, self.recipe.world.count()
        if self.schema != SCHEMA:
            raise ValueError(f"A job has schema {SCHEMA} here, not {self.schema}.")
        if not self.labels >= batch:
            raise ValueError(
                f"A batch of {batch} needs that many images to train on; there are {self.labels}."
            )
        if not self.images >= batch:
            raise ValueError(f"images must be one batch ({batch}) or more, not {self.images}.")
        if batch < processes:
            raise ValueError(
                f"A global batch of {batch} has no image for each of {processes} processes; "
                f"start {batch} or fewer."
            )
        if not 0 < self.target <= 1:
            raise ValueError(f"target must be an accuracy in (0, 1], not {self.target}.")
        if self.precision not in DTYPES:
            raise ValueError(
                f"precision is one of {', '.join(DTYPES)}, not {self.precision!r:.60}."
            )
        if self.val is not None and not self.val >= 1:
            raise ValueError(f"val must be 1 or more (or none, for all), not {self.val}.")
        sizes = (self.evaluations, self.image_size, self.data_size)
        if not (self.seed >= 0 and all(size >= 1 for size in sizes)):
            raise ValueError(
                f"seed must be 0 or more, evaluations, image_size and data_size 1 or more, not "
                f"{self.seed}, {', '.join(map(str, sizes))}."
            )

    @property
    def settled(self) -> Recipe:
        """The recipe with its precision named, for "auto" may mean another one elsewhere."""
        others = tuple(t for t in self.recipe.tricks if not isinstance(t, MixedPrecision))
        return replace(self.recipe, tricks=(*others, MixedPrecision(self.precision)))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, job: dict[str, Any]) -> "Job":
        """The job of `to_json`. Raises ValueError for all that is no job."""
        return cls(**arguments(cls, job, "job"))
