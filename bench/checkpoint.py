"""What checkpoints cost: all seven with one every second, beside the same with none, in turns.

    python bench/checkpoint.py [--rounds 12]

Two processes jitter by more than checkpoints cost. So the time inside them is added up, and the
pairs stand beside it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from fasttricks import BASELINE, SEVEN, train
from fasttricks.checkpoint import Keeper


class Timed(Keeper):
    """A keeper that adds up what it takes."""

    spent: float = 0.0

    def after_step(self, elapsed: float) -> None:
        """As the keeper's."""
        began = time.perf_counter()
        super().after_step(elapsed)
        Timed.spent += time.perf_counter() - began


def seconds(folder: str | None) -> float:
    """The train clock of a run, kept every second where there is a folder."""
    whole = sum(SEVEN, start=BASELINE)
    return train(whole, images=25_600, evaluations=1, folder=folder, every=1.0).train_seconds


def main(rounds: int) -> None:
    """Measure in this process, together with the one that torchrun started beside it."""
    sys.modules["fasttricks.train"].Keeper = Timed  # the package's `train` is the function
    shares, added = [], []
    for _ in range(rounds):
        without, Timed.spent = seconds(None), 0.0
        with tempfile.TemporaryDirectory() as folder:
            kept = seconds(folder)
        shares.append(100 * Timed.spent / kept)
        added.append(100 * (kept / without - 1))
    if os.environ["RANK"] == "0":
        print(
            f"A checkpoint every second takes {statistics.median(shares):.2f} % of the train clock "
            f"(median of {rounds}, {min(shares):.2f} to {max(shares):.2f} %). Pairs in turns "
            f"differ by {statistics.median(added):+.1f} % ({min(added):+.1f} to {max(added):+.1f})."
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    if "RANK" in os.environ:
        main(parser.parse_args().rounds)
    else:
        parser.parse_args()
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *torchrun, __file__, *sys.argv[1:]]
        sys.exit(subprocess.call(command, env=environ))
