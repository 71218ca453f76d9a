"""Blend each image with another one, and their targets by the same share.

| card       |                                                                                  |
|------------|----------------------------------------------------------------------------------|
| formula    | x' = lam x + (1 - lam) x[other], q' = lam q + (1 - lam) q[other],                 |
|            | lam ~ Beta(alpha, alpha)                                                         |
| slot       | batch_maps (chain)                                                               |
| cost       | two reads and one write of the batch                                             |
| pays when  | images are seen often and the rate falls: long runs, few labels                  |
| fails when | the run is short: it then slows the learning down                                |
| meets      | label smoothing (they commute), training accuracy (loses its meaning)            |
| paper      | Zhang et al. 2017, arXiv 1710.09412                                              |
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor


def mix(
    x: Tensor,  # (N, C, H, W) images
    q: Tensor,  # (N, K) target probabilities, rows sum to 1
    lam: Tensor,  # () or (N,) share of the first image, in [0, 1]
    other: Tensor,  # (N,) which image each one is blended with
) -> tuple[Tensor, Tensor]:
    """The blended images and targets; neither input is changed."""
    for_x, for_q = lam.view(-1, 1, 1, 1), lam.view(-1, 1)
    return for_x * x + (1 - for_x) * x[other], for_q * q + (1 - for_q) * q[other]


@dataclass(frozen=True)
class Mixup:
    """Mixup with one coefficient a batch, or one a sample."""

    alpha: float = 0.2
    per_sample: bool = False

    chapter: ClassVar[int] = 4
    slots: ClassVar[tuple[str, ...]] = ("batch_maps",)

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"Mixup needs alpha above 0, not {self.alpha}; leave it out for none.")

    def batch_map(self, x: Tensor, q: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw the share and the partners from `rng`, then `mix`; any N >= 1."""
        size = len(x) if self.per_sample else 1
        lam = upload(torch.from_numpy(rng.beta(self.alpha, self.alpha, size)), x.device)
        other = upload(torch.from_numpy(rng.permutation(len(x))), x.device)
        return mix(x, q, lam.to(x.dtype), other)


def upload(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device; the host does not wait for a GPU to have fetched them."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
