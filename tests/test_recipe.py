"""Recipes add up: any order, any subset, there and back as JSON; clashes name both tricks."""

import json
from dataclasses import dataclass, replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttricks import BASELINE, SEVEN, Cyclic, LabelSmoothing, MixedPrecision, OneCycle, Recipe
from fasttricks.options import select
from fasttricks.recipe import NAMES, name_of

WHOLE = sum(SEVEN, start=BASELINE)


def test_seven_in_chapter_order():
    assert tuple(map(name_of, SEVEN)) == NAMES
    assert WHOLE.tricks == SEVEN


def test_every_order_gives_one_recipe():
    orders = {sum(order, start=BASELINE) for order in permutations(SEVEN)}
    assert orders == {WHOLE}


@pytest.mark.parametrize("name", NAMES)
def test_leave_one_out(name):
    rest = [trick for trick in SEVEN if name_of(trick) != name]
    assert WHOLE - name == sum(rest, start=BASELINE)
    with pytest.raises(ValueError, match=f"no '{name}' to leave out"):
        WHOLE - name - name


@pytest.mark.parametrize(
    ("one", "other", "slot"),
    [
        (OneCycle(), Cyclic(), "momentum"),
        (MixedPrecision("bf16"), MixedPrecision("fp16"), "twice"),
        (LabelSmoothing(0.1), LabelSmoothing(0.1), "twice"),
    ],
)
def test_a_clash_names_both(one, other, slot):
    with pytest.raises(ValueError, match=slot) as refused:
        BASELINE + one + other
    assert repr(one) in str(refused.value)
    assert repr(other) in str(refused.value)


@given(names=st.sets(st.sampled_from(NAMES)))
def test_json_there_and_back(names):
    recipe = select(",".join(names) or "none")
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_a_readers_own_trick():
    @dataclass(frozen=True)
    class Share:
        of: float = 0.5

    @dataclass(frozen=True)
    class Halved:
        share: Share = Share()
        chapter = 2
        slots = ("lr_factors",)

        def lr_factor(self, step, steps, batch):
            return self.share.of

    recipe = BASELINE + Halved()
    assert recipe.lr_at(0, 10) == BASELINE.lr / 2
    assert Recipe.from_json(recipe.to_json()) == recipe, "known where it has been used"
    with pytest.raises(ValueError, match="Unknown trick 'Thirded'"):
        Recipe.from_json({"tricks": [{"trick": "Thirded"}]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": float("nan")},
        {"batch": 0},
        {"optimizer": "lion"},
        {"momentum": 1.0},
        {"weight_decay": -1},
        {"clip": 0.0},
    ],
)
def test_refuses(wrong):
    with pytest.raises(ValueError, match=r"recipe needs|Unknown optimizer"):
        replace(BASELINE, **wrong)


@pytest.mark.parametrize(
    ("words", "without", "message"),
    [
        ("mixup,typo", "", "Unknown trick 'typo'"),
        ("mixup,mixup", "", "one trick twice; leave one of them out"),
        ("mixup", "cyclic", "no 'cyclic' to leave out"),
        ("", "", "Unknown trick ''"),
        ("all", "mixup,mixup", "no 'mixup' to leave out; the recipe has distributed, scaling,"),
        ("none", "magic", "no 'magic' to leave out; the recipe has none"),
    ],
)
def test_select_refuses(words, without, message):
    with pytest.raises(ValueError, match=message):
        select(words, without)


def test_select():
    assert select("all") == WHOLE
    assert select("none") == BASELINE
    assert select("all", "mixup, cyclic") == WHOLE - "mixup" - "cyclic"


@pytest.mark.parametrize("wrong", [{"speed": 1}, {"tricks": [{"trick": "Mixup", "beta": 1}]}])
def test_json_refuses(wrong):
    with pytest.raises(ValueError, match="does not know"):
        Recipe.from_json(wrong)
