"""Whether the scripts to take home train as the package does: accuracy and pace, in turns.

    python bench/take_home.py [--seeds 5]

A script draws other random numbers than the package, so runs of one seed are no pairs. Two means
are called equivalent where the 90% interval of their difference lies within half a point (two
one-sided tests of 5%, Schuirmann 1987).
"""

import argparse
import gzip
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from scipy.stats import t

from fasttricks import BASELINE, SEVEN, load, train
from fasttricks.data import ROOT as DATA
from fasttricks.recipe import Recipe

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
MARGIN = 0.5  # points of validation accuracy
SCRIPTS: dict[str, tuple[Recipe, int, list[str]]] = {  # recipe, images, how it is started
    "plain": (BASELINE, 102_400, []),
    "all_seven": (sum(SEVEN, start=BASELINE), 25_600, LAUNCH),
}


def prepare(folder: Path) -> None:
    """What the scripts would download, and the weights, where they look for them."""
    raw = folder / "downloads" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (DATA / "FashionMNIST" / "raw").glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    (folder / "fasttricks").symlink_to(EXAMPLES.parent / "fasttricks")


def run_script(name: str, seed: int, folder: Path) -> tuple[float, float]:
    """Accuracy and seconds, as a script prints them."""
    _, images, launch = SCRIPTS[name]
    script = [str(EXAMPLES / f"{name}.py"), "--images", str(images), "--seed", str(seed)]
    done = subprocess.run(
        [sys.executable, *launch, *script],
        cwd=folder, check=True, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    seconds, accuracy = re.search(r"in ([\d.]+) s, accuracy ([\d.]+)", done.stdout).groups()
    return float(accuracy), float(seconds)


def difference(own: list[float], other: list[float]) -> tuple[float, float, float]:
    """Of two means in points, with its 90% interval (Welch 1947)."""
    a, b = 100 * np.array(own), 100 * np.array(other)
    errors = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    freedom = sum(errors) ** 2 / sum(e**2 / (len(a) - 1) for e in errors)
    half = t.ppf(0.95, freedom) * math.sqrt(sum(errors))
    mean = float(a.mean() - b.mean())
    return mean, mean - half, mean + half


def main(seeds: int) -> None:
    """Run scripts and package in turns, and say whether they are alike."""
    data = load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for script, (recipe, images, _) in SCRIPTS.items():
            ours, theirs = [], []
            for seed in range(seeds):
                theirs.append(run_script(script, seed, folder))
                run = train(
                    recipe, data, images=images, seed=seed, fresh=True, evaluations=1, label=script
                )
                ours.append((run.val_accuracy, run.train_seconds))
            (own, own_seconds), (other, other_seconds) = zip(*theirs), zip(*ours)  # noqa: B905
            mean, low, high = difference(own, other)
            pace = median(other_seconds) / median(own_seconds)
            alike = (
                "equivalent" if low > -MARGIN and high < MARGIN else "not shown to be equivalent"
            )
            print(
                f"{script}.py, {images:,} images, {seeds} seeds: accuracy {np.mean(own):.4f}, "
                f"the package's {np.mean(other):.4f}; difference {mean:+.2f} points (90%: "
                f"{low:+.2f} to {high:+.2f}), {alike} within {MARGIN} points; {pace:.0%} of the "
                f"package's pace"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    main(parser.parse_args().seeds)
