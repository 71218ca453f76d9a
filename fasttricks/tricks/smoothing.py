"""Ask for a little less than certainty: spread a share of each target evenly over all classes.

| card       |                                                                              |
|------------|------------------------------------------------------------------------------|
| formula    | q' = (1 - eps) q + eps / K (torch's convention: the right class gets a share) |
| slot       | batch_maps (chain)                                                           |
| cost       | K numbers per image, which is next to nothing                                |
| pays when  | images are seen often and the rate falls (seen here: a small gain)           |
| fails when | eps is large, or the net is not too sure: it becomes underconfident          |
| meets      | mixup (they commute), distillation (smoothed teachers teach worse)           |
| papers     | Szegedy et al. 2015, arXiv 1512.00567; Müller et al. 2019, arXiv 1906.02629  |
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor


def smooth(
    q: Tensor,  # (N, K) target probabilities, rows sum to 1
    eps: float,  # share given to all K classes alike, in [0, 1)
) -> Tensor:
    """The smoothed targets, (N, K); rows still sum to 1."""
    return (1 - eps) * q + eps / q.shape[1]


@dataclass(frozen=True)
class LabelSmoothing:
    """Label smoothing by `eps`."""

    eps: float = 0.1

    chapter: ClassVar[int] = 5
    slots: ClassVar[tuple[str, ...]] = ("batch_maps",)

    def __post_init__(self) -> None:
        if not 0 <= self.eps < 1:
            raise ValueError(f"LabelSmoothing needs eps in [0, 1), not {self.eps}.")

    def batch_map(self, x: Tensor, q: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Smooth the targets; the images pass through."""
        return x, smooth(q, self.eps)
