"""Begin with weights trained on another task, under a new head.

| card       |                                                                                    |
|------------|------------------------------------------------------------------------------------|
| formula    | theta_0 = body of the other net + random head; the body may learn more slowly      |
| slot       | start (single)                                                                     |
| cost       | the other training, once; recouped after some reuses, or free if someone shares it |
| pays when  | budgets are short or labels few, and the images are not too different              |
| fails when | the run is long and labels are many: then a random start gets as far               |
| meets      | one-cycle (a high peak forgets the body); freezing makes steps cheaper             |
| paper      | Yosinski et al. 2014, arXiv 1411.1792                                              |
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


def transplant(
    own: dict[str, Tensor],  # the new model's state, by name
    given: dict[str, Tensor],  # the other model's state, by name
    head: str | tuple[str, ...],  # name of the classifier, e.g. "fc"; it is left as it is
) -> dict[str, Tensor]:
    """The new state: the given body, the own head. Raises ValueError where a body differs.

    A first convolution for three colours serves a grey image with its three filters summed; one for
    grey images serves three colours with a third of its filter each.
    """
    body = {name: tensor for name, tensor in own.items() if not is_head(name, head)}
    result = dict(own)
    for name, tensor in body.items():
        source = given.get(name)
        if source is not None and source.ndim == tensor.ndim == 4:
            source = recolour(source, tensor.shape[1])
        if source is None or source.shape != tensor.shape:
            found = "is missing" if source is None else f"has shape {tuple(source.shape)}"
            raise ValueError(
                f"The weights do not fit this model: {name} {found}, and "
                f"{tuple(tensor.shape)} is needed; take weights of the same model."
            )
        result[name] = source.to(tensor)
    return result


def recolour(
    filters: Tensor,  # (F, C, H, W) of the first convolution
    channels: int,  # colours of the images to come
) -> Tensor:
    """(F, channels, H, W): filters that answer to a grey image as the given ones do."""
    if channels == 1 < filters.shape[1]:
        return filters.sum(1, keepdim=True)
    if filters.shape[1] == 1 < channels:
        return filters.expand(-1, channels, -1, -1) / channels
    return filters


def is_head(
    name: str,  # of a tensor
    head: str | tuple[str, ...],  # name of the classifier; some models have two
) -> bool:
    """Whether a tensor belongs to the classifier."""
    heads = (head,) if isinstance(head, str) else head
    return name.startswith(tuple(f"{one}." for one in heads))


@dataclass(frozen=True)
class Scratch:
    """No transfer: the model's own random weights, all learning at one rate."""

    chapter: ClassVar[int] = 6
    slots: ClassVar[tuple[str, ...]] = ("start",)
    source: ClassVar[None] = None

    def rate(self, name: str, head: str | tuple[str, ...], depth: float) -> float:
        """The factor of a parameter's learning rate."""
        return 1.0


@dataclass(frozen=True)
class Transfer:
    """Weights from `source`: "letters", "imagenet", or a .safetensors or .pth file."""

    source: str = "letters"
    body_lr: float = 1.0  # the body's learning rate, as a factor of the head's
    freeze: float = 0.0  # share of the body's tensors, from the input on, that do not learn

    chapter: ClassVar[int] = 6
    slots: ClassVar[tuple[str, ...]] = ("start",)

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("Transfer needs a source: letters, imagenet, or a weights file.")
        if not 0 < self.body_lr < float("inf"):
            raise ValueError(
                f"Transfer needs a finite body_lr above 0, not {self.body_lr}; see freeze."
            )
        if not 0 <= self.freeze <= 1:
            raise ValueError(f"Transfer needs freeze in [0, 1], not {self.freeze}.")

    def rate(
        self,
        name: str,  # of a parameter
        head: str | tuple[str, ...],  # name of the classifier
        depth: float,  # where it stands in the model, 0 at the input, below 1
    ) -> float:
        """The factor of a parameter's learning rate; 0 says that it does not learn.

        Batch-norm statistics follow the new images in frozen layers too.
        """
        if is_head(name, head):
            return 1.0
        return 0.0 if depth < self.freeze else self.body_lr
