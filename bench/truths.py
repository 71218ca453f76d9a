"""Whether `fasttricks advise` names what is known to pay, and nothing where nothing can.

    python bench/truths.py [letters|noisy|hopeless ...] [--minutes 2] [--repeat 5]

Three truths are made: few images of letters, for which the letters weights are made; few clothes of
which most have a label drawn by lot, shown so often that a network learns the wrong ones by heart
(three times the minutes); and labels that are all drawn by lot, from which nothing can be learned.
Each is asked about with several seeds, the last one four times as often.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from fasttricks import load
from fasttricks.data import Data, Split
from fasttricks.sources.letters import NOISE, warp
from fasttricks.study.advise import advise, make_plan, recommended, verdicts


def letters(seed: int) -> Data:
    """Thirty images each of twenty letters to train on."""
    random, prints = torch.Generator().manual_seed(seed), load("letters").train
    chosen = torch.randperm(int(prints.y.max()) + 1, generator=random)[:20]

    def drawn(count: int) -> Split:
        y = torch.arange(20).repeat(count)
        rows = []
        for label in y.tolist():
            some = (prints.y == chosen[label]).nonzero().flatten()
            rows.append(some[torch.randint(len(some), (1,), generator=random)])
        x = warp(prints.x[torch.cat(rows)], torch.rand(len(y), NOISE, generator=random))
        return Split(x.round().to(torch.uint8), y)

    return Data("few letters", tuple(map(str, range(20))), drawn(30), drawn(30), drawn(150))


def noisy(seed: int) -> Data:
    """A thousand clothes to train on, 80% of whose labels are drawn by lot."""
    return spoiled(seed, (1000, 0.8), (2000, 0.0), (5000, 0.0))


def hopeless(seed: int) -> Data:
    """Clothes whose labels say nothing."""
    return spoiled(seed, (4000, 1.0), (2000, 1.0), (5000, 1.0))


def spoiled(seed: int, *wanted: tuple[int, float]) -> Data:
    """Clothes to train on, to validate and to test: how many, and the share drawn by lot."""
    random, data = torch.Generator().manual_seed(seed), load()

    def part(split: Split, count: int, share: float) -> Split:
        some = split[torch.randperm(len(split), generator=random)[:count]]
        wrong = torch.rand(count, generator=random) < share
        lot = torch.randint(10, (count,), generator=random)
        return Split(some.x, torch.where(wrong, lot, some.y))

    splits = zip((data.train, data.val, data.test), wanted, strict=True)
    return Data("clothes", data.classes, *(part(split, *how) for split, how in splits))


def ask(make: Callable[[int], Data], seed: int, minutes: float) -> str:
    """The recommended recipe's name, or an empty string."""
    with tempfile.TemporaryDirectory() as folder:
        state = advise(make_plan(make(seed), "test_resnet", 28, minutes), Path(folder))
    found = verdicts(state)
    for verdict in found:
        print(
            f"  {verdict.arm}: {verdict.gain:+.1f} points ({verdict.low:+.1f} to "
            f"{verdict.high:+.1f}), {verdict.seeds} seeds",
            flush=True,
        )
    best = recommended(found)
    return best.arm if best else ""


TRUTHS = {  # what pays, how often it is asked about, and times the minutes
    letters: ("transfer", 1, 1),
    noisy: ("mixup", 1, 3),
    hopeless: ("", 4, 1),
}


def main(names: list[str], minutes: float, repeat: int) -> None:
    """Ask about each of these truths, and count."""
    for make, (wanted, times, longer) in TRUTHS.items():
        if make.__name__ not in names:
            continue
        answers = []
        for seed in range(repeat * times):
            answers.append(ask(make, seed, longer * minutes))
            print(f"{make.__name__}, seed {seed}: {answers[-1] or 'nothing'}", flush=True)
        right = sum(wanted in a.split(" + ") if wanted else not a for a in answers)
        print(f"{make.__name__}: {wanted or 'nothing'} in {right} of {len(answers)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [make.__name__ for make in TRUTHS]
    parser.add_argument("truths", nargs="*", help=f"some of {', '.join(known)} [all]")
    parser.add_argument("--minutes", type=float, default=2.0, help="of each advice [2]")
    parser.add_argument("--repeat", type=int, default=5, help="times that each is asked [5]")
    asked = parser.parse_args()
    if unknown := set(asked.truths) - set(known):
        parser.error(f"no truth is called {', '.join(sorted(unknown))}; known are {known}")
    main(asked.truths or known, asked.minutes, asked.repeat)
