"""A trick of a reader's own, in a file of its own, with which process 1 comes to grief."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Stumble:
    """What process 1 does with its n-th batch, once where a marker says that it has happened."""

    how: str = "goes on"
    at: int = 1
    marker: str = ""
    slots = ("batch_maps",)

    def batch_map(self, x: Tensor, q: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The batch as it is, if nothing happens."""
        seen.append(1)
        if os.environ.get("RANK") != "1" or len(seen) != self.at:
            return x, q
        if self.marker:
            if Path(self.marker).exists():
                return x, q
            Path(self.marker).touch()
        if self.how == "raises":
            raise RuntimeError("a stone in the way")
        if self.how == "hangs":
            time.sleep(1000)
        if self.how == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return x, q


seen: list[int] = []
