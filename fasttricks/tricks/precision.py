"""Compute in 16 bits where that is safe, keep the weights in 32.

| card       |                                                                                     |
|------------|-------------------------------------------------------------------------------------|
| formula    | forward and backward in bf16 or fp16; weights, statistics and the update in fp32    |
| slot       | precision (single)                                                                  |
| cost       | casts at every layer; fp16 needs a loss scale, so that small gradients survive      |
| pays when  | the device multiplies 16-bit numbers natively, and layers and batches are large     |
| fails when | the device only emulates the format, or the net is small: little gets faster then   |
| meets      | clipping (unscale first), schedules (a skipped step must not advance them)          |
| paper      | Micikevicius et al. 2017, arXiv 1710.03740                                          |
"""

import os
import platform
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OVERRIDE = "FASTTRICKS_PRECISION"  # one of DTYPES: what "auto" is to mean, where it errs


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 numbers itself instead of imitating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return bf16_pays(device.type)  # Arm and others: the name of the chip does not tell
    if hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and later
        known = torch.cpu.get_capabilities()
        return known.get("avx512_bf16", False) or known.get("amx_bf16", False)
    return torch.cpu._is_avx512_bf16_supported()


@cache
def bf16_pays(kind: str) -> bool:
    """Whether a convolution, there and back, is faster in bf16 there: milliseconds of measuring."""
    layer = nn.Conv2d(64, 64, 3, padding=1).to(kind)
    x = torch.randn(16, 64, 14, 14, generator=torch.Generator().manual_seed(0)).to(kind)
    best = dict.fromkeys((False, True), float("inf"))
    for turn in range(6):
        for enabled in best:
            started = time.perf_counter()
            with torch.autocast(kind, torch.bfloat16, enabled=enabled):
                loss = layer(x).float().square().mean()
            loss.backward()
            if turn:  # the first one warms up
                best[enabled] = min(best[enabled], time.perf_counter() - started)
    return best[True] < 0.9 * best[False]


@dataclass(frozen=True)
class LossScale:
    """Dynamic loss scaling by hand; the same numbers as `torch.amp.GradScaler`, step by step."""

    value: float = 2.0**16  # multiply the loss by this before backward
    good: int = 0  # finite steps since the value last changed
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000  # finite steps after which the value grows

    def unscale(
        self,
        grads: list[Tensor],  # gradients of value * loss, divided by value in place
    ) -> bool:
        """Whether every gradient is finite, so that the step may be taken."""
        for grad in grads:
            grad.div_(self.value)
        return all(bool(grad.isfinite().all()) for grad in grads)

    def update(self, finite: bool) -> "LossScale":
        """The scale for the next step: back off after an overflow, grow after a long calm."""
        if not finite:
            return replace(self, value=self.value * self.backoff, good=0)
        if self.good + 1 == self.interval:
            return replace(self, value=self.value * self.growth, good=0)
        return replace(self, good=self.good + 1)


@dataclass(frozen=True)
class MixedPrecision:
    """Autocast to `dtype`; "auto" is bf16 where it is native, else fp16 on a GPU, fp32 on a CPU."""

    dtype: str = "auto"

    chapter: ClassVar[int] = 7
    slots: ClassVar[tuple[str, ...]] = ("precision",)

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(
                f"MixedPrecision knows auto, {', '.join(DTYPES)}, not {self.dtype!r:.60}."
            )

    def choose(self, device: torch.device) -> str:
        """The format on this device: "fp32", "bf16" or "fp16"."""
        asked = os.environ.get(OVERRIDE) if self.dtype == "auto" else self.dtype
        if asked:
            return MixedPrecision(asked).dtype
        if native_bf16(device):
            return "bf16"
        return "fp16" if device.type == "cuda" else "fp32"

    def note(self, device: torch.device) -> str:
        """One sentence where no gain is to be expected, else an empty string."""
        chosen = self.choose(device)
        if self.dtype == "auto" and chosen == "fp32":
            return (
                "This processor has no fast 16-bit arithmetic, so mixed precision trains in fp32 "
                "here: it gains nothing and costs nothing."
            )
        if chosen == "fp32" or native_bf16(device) or (chosen, device.type) == ("fp16", "cuda"):
            return ""
        return f"This device only emulates {chosen}: expect mixed precision to cost time here."

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context of the forward pass."""
        chosen = self.choose(device)
        return torch.autocast(device.type, DTYPES[chosen], enabled=chosen != "fp32")

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """The loss scaler: at work for fp16, otherwise one that passes everything through."""
        return torch.amp.GradScaler(device.type, enabled=self.choose(device) == "fp16")
