"""Whether `fasttricks advise` names what is known to pay, and nothing where nothing can.

    python bench/truths.py [--minutes 2] [--repeat 5]

Three truths are made: few images of letters, for which the letters weights are made; clothes of
which many have a wrong label, in a long run; and labels that are drawn by lot, from which nothing
can be learned. Each is asked about with several seeds, the last one four times as often.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
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


def noisy(seed: int, share: float = 0.4) -> Data:
    """Four thousand clothes; so large a share of all labels is drawn by lot."""
    random, data = torch.Generator().manual_seed(seed), load()

    def spoiled(split: Split, count: int) -> Split:
        some = split[torch.randperm(len(split), generator=random)[:count]]
        wrong = torch.rand(count, generator=random) < share
        lot = torch.randint(10, (count,), generator=random)
        return Split(some.x, torch.where(wrong, lot, some.y))

    parts = spoiled(data.train, 4000), spoiled(data.val, 2000), spoiled(data.test, 5000)
    return Data("noisy clothes", data.classes, *parts)


def hopeless(seed: int) -> Data:
    """Clothes whose labels say nothing."""
    return replace(noisy(seed, share=1.0), name="labels by lot")


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


def main(minutes: float, repeat: int) -> None:
    """Ask about each truth, and count."""
    for make, wanted, times in ((letters, "transfer", 1), (noisy, "mixup", 1), (hopeless, "", 4)):
        answers = []
        for seed in range(repeat * times):
            answers.append(ask(make, seed, minutes))
            print(f"{make.__name__}, seed {seed}: {answers[-1] or 'nothing'}", flush=True)
        right = sum(wanted in a.split(" + ") if wanted else not a for a in answers)
        print(f"{make.__name__}: {wanted or 'nothing'} in {right} of {len(answers)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="of each advice [2]")
    parser.add_argument("--repeat", type=int, default=5, help="times that each is asked [5]")
    asked = parser.parse_args()
    main(asked.minutes, asked.repeat)
