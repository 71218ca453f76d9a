"""The record of a run: plain values under fixed names, so that anything can read it."""

from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from .checks import arguments, check, shown
from .recipe import Recipe

SCHEMA = 2


@dataclass(frozen=True)
class Run:
    """One training run: what was asked, what came out, on what."""

    recipe: Recipe
    budget: str
    data: str
    labels: int  # images there were to train on
    model: str  # timm's name
    image_size: int
    seed: int
    images_seen: int
    steps: int
    skipped_steps: int  # that the loss scaler refused; their images are not among those seen
    processes: int
    device: str
    precision: str  # "fp32", "bf16" or "fp16"
    train_seconds: float  # the loop, evaluations paused; the slowest process counts
    eval_seconds: float
    wall_seconds: float  # from the process's start (in a notebook: from the call)
    images_per_second: float
    peak_memory: float | None  # GB, of a GPU's tensors or of the process; the largest process's
    val_accuracy: float
    test_accuracy: float | None
    target: float
    curve: list[list[float]]  # [images_seen, train_seconds, val_accuracy]
    hardware: dict[str, Any]
    versions: dict[str, str]
    commit: str
    started: str  # UTC, ISO 8601
    resumed: int = 0  # times that it went on from a checkpoint; its clocks then measure nothing
    schema: int = SCHEMA
    net: nn.Module | None = field(default=None, repr=False, compare=False)  # not in the record

    @property
    def reached(self) -> bool:
        """Whether the run ended at the target or above."""
        return self.val_accuracy >= self.target

    def __str__(self) -> str:
        return (
            f"{self.images_seen:,} images in {self.train_seconds:.1f} s, validation accuracy "
            f"{self.val_accuracy:.4f}"
        )

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Run":
        """The run of `to_json`, without its net. Raises ValueError for all that is no record."""
        given = dict(check(dict, record, "record"))
        reached, schema = given.pop("reached", None), given.get("schema")
        if schema != SCHEMA:
            raise ValueError(f"record has schema {shown(schema)}; this version reads {SCHEMA}.")
        if "net" in given:
            raise ValueError("record does not know 'net'.")
        run = cls(**arguments(cls, given, "record"))
        if reached is not run.reached:
            raise ValueError(f"reached must be {run.reached}, as accuracy and target say.")
        return run

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of the record."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "net"}
        return {**plain, "recipe": self.recipe.to_json(), "reached": self.reached}
