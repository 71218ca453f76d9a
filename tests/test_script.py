"""The script of a recipe says the recipe: its constants, its rate and momentum at every step."""

import importlib.util
import subprocess
import sys
from itertools import chain, combinations

import numpy as np
import pytest
from PIL import Image

from fasttricks import BASELINE, SEVEN
from fasttricks.recipe import name_of
from fasttricks.study.advise import TRIED
from fasttricks.study.take_home import script

SUBSETS = [
    [trick for trick in TRIED if name_of(trick) in names]
    for names in chain.from_iterable(
        combinations([name_of(trick) for trick in TRIED], count) for count in (0, 1, 2)
    )
]
SIZE = ("test_resnet", 28)


def module(text, tmp_path):
    """The script, imported."""
    path = tmp_path / "take_home.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("take_home", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize(
    "tricks",
    [*SUBSETS, list(SEVEN), list(TRIED)],
    ids=lambda t: "+".join(map(name_of, t)) or "plain",
)
def test_rate_and_momentum_are_the_recipes(tricks, tmp_path):
    recipe = sum(tricks, start=BASELINE)
    made = module(script(recipe, 12_800, "fashion-mnist", *SIZE), tmp_path)
    steps = 40
    rates = [made.rate(step, steps) for step in range(steps)]
    assert rates == pytest.approx([recipe.lr_at(step, steps) for step in range(steps)], rel=1e-5)
    if made.PEAK:
        high, low = made.MOMENTUM
        momenta = [made.one_cycle(step, steps, high, low, high) for step in range(steps)]
        assert momenta == pytest.approx([recipe.momentum_at(step, steps) for step in range(steps)])
    assert (12_800, recipe.global_batch) == (made.IMAGES, made.BATCH)
    names = [name_of(trick) for trick in tricks]
    assert bool(made.ALPHA) == ("mixup" in names)
    assert bool(made.SMOOTHING) == ("smoothing" in names)
    assert bool(made.WEIGHTS) == ("transfer" in names)
    assert not made.HUB, "advice has tried the letters"
    assert ("precision" in names) == made.HALF


@pytest.mark.parametrize("count", [0, 7], ids=["plain", "all"])
def test_it_trains_on_a_folder(count, tmp_path):
    photos, random = tmp_path / "my photos", np.random.default_rng(0)
    for kind in ("dark", "light"):
        (photos / kind).mkdir(parents=True)
        for number in range(150):
            pixels = random.integers(0, 120, (40, 50, 3)) + (130 if kind == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(photos / kind / f"{number}.png")
    recipe = sum([trick for trick in TRIED if name_of(trick) != "scaling"][:count], start=BASELINE)
    path = tmp_path / "train.py"
    path.write_text(script(recipe, 5_120, str(photos), *SIZE), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0.9


def test_what_it_cannot_load_has_no_script():
    assert script(BASELINE, 640, "cifar10", *SIZE) == ""
