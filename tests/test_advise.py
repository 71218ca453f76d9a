"""Advice names what pays where the truth is known, nothing where nothing does, and goes on."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from fasttricks import load
from fasttricks.__main__ import main
from fasttricks.recipe import Recipe
from fasttricks.study import advise as advise_module
from fasttricks.study.advice import PAGE, RECIPE, SCRIPT, TEXT, answer, screened, write_advice
from fasttricks.study.advise import (
    RUNS,
    Seen,
    Speed,
    advise,
    difference,
    make_plan,
    recommended,
    verdicts,
)

SPEEDS = advise_module.speeds


def pretended(gains, noise=0.01, seed=0):
    """Trains nothing: plain names 70% rightly, a trick adds its gain; half at a wrong rate."""
    random = np.random.default_rng(seed)

    def make(plan, tried, done):
        parts = [] if tried.arm == "plain" else tried.arm.split(" + ")
        truth = 0.7 + sum(gains.get(part, 0.0) for part in parts)
        truth -= 0.1 * abs(math.log(tried.rate, 3))
        own = truth + random.normal(0, noise)
        count, right = len(plan.data.test), ""
        if tried.stage == "judge":
            right = np.packbits(random.random(count) < own).tobytes().hex()
        seconds = tried.images / 10_000
        return Seen(own, seconds, seconds + 0.1, right)

    return make


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """The machine's speed is measured in one test alone."""
    monkeypatch.setattr(advise_module, "speeds", lambda plan: [Speed("fp32", 128, 900.0, 1000.0)])


@pytest.fixture(scope="module")
def plan():
    return make_plan(load(), "test_resnet", 28, minutes=2)


def test_what_pays_is_named(plan, tmp_path):
    state = advise(plan, tmp_path, pretended({"transfer": 0.05, "mixup": 0.03, "cyclic": -0.03}))
    found = verdicts(state)
    best = recommended(found)
    assert {"transfer", "mixup"} <= set(best.arm.split(" + "))
    assert "cyclic" not in best.arm, "one-cycle gains nothing here"
    alone = {verdict.arm: verdict for verdict in found}
    assert alone["transfer"].pays
    assert alone["mixup"].pays
    assert alone["transfer"].rate == 1.0
    assert alone["transfer"].gain == pytest.approx(5, abs=2)
    assert state.spent() < 1.1 * plan.seconds


def test_where_nothing_helps_nothing_is_recommended(plan, tmp_path):
    wrong = 0
    for seed in range(20):
        state = advise(plan, tmp_path / str(seed), pretended({}, seed=seed))
        wrong += recommended(verdicts(state)) is not None
    assert wrong <= 1


@pytest.mark.parametrize("cyclic", [0.02, -0.03])
def test_what_pays_only_on_top_of_one_cycle_is_found(plan, tmp_path, cyclic):
    """Mixup costs alone; one-cycle gains or costs alone; both together gain."""

    def make(plan, tried, done):
        both = {"cyclic", "mixup"} <= set(tried.arm.split(" + "))
        gains = {"cyclic": cyclic, "mixup": 0.08 if both else -0.03}
        return pretended(gains, seed=tried.seed)(plan, tried, done)

    state = advise(plan, tmp_path, make)
    assert state.gained("cyclic") == (cyclic > 0)
    assert not state.of("screen", "mixup"), "alone, it would be lost"
    assert {"cyclic", "mixup"} <= set(recommended(verdicts(state)).arm.split(" + "))
    own = screened(state).sentences[1]
    assert ("also judged without it" in own) == (cyclic < 0)


def test_what_costs_is_not_judged_first(plan, tmp_path):
    state = advise(plan, tmp_path, pretended({"mixup": -0.1, "smoothing": 0.04, "cyclic": -0.03}))
    assert "cyclic + mixup" not in state.left(state.tried())
    assert len(state.of("again", "cyclic + mixup")) == 1
    assert not [tried for tried in state.log if tried.stage == "judge" and "mixup" in tried.arm]
    assert "smoothing" in recommended(verdicts(state)).arm


def test_it_goes_on_where_it_was_cut_off(plan, tmp_path):
    class Cut(Exception):
        pass

    calls = []

    def make(plan, tried, done):
        calls.append(tried)
        if len(calls) == 30:
            raise Cut
        return pretended({"transfer": 0.05}, seed=len(calls))(plan, tried, done)

    with pytest.raises(Cut):
        advise(plan, tmp_path, make)
    path = tmp_path / RUNS
    path.write_bytes(path.read_bytes()[:-20])  # the power failed while a line was written
    state = advise(plan, tmp_path, make)
    assert calls[28] == calls[30], "the run whose line was cut"
    assert len(set(calls)) == len(state.log)
    path.write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1"):
        advise(plan, tmp_path, make)


def test_every_arm_has_equal_seconds_and_as_many_rates(plan, tmp_path):
    state = advise(plan, tmp_path, pretended({"transfer": 0.05}))
    for arm in state.tried():
        assert len({tried.rate for tried in state.of("screen", arm)}) == 3
    seconds = [seen.train for tried, seen in state.log.items() if tried.stage == "judge"]
    assert max(seconds) < 1.1 * min(seconds)
    seeds = {tried.seed for tried in state.log if tried.stage == "judge"}
    assert not seeds & {tried.seed for tried in state.log if tried.stage != "judge"}


def test_an_interval_has_both_kinds_of_chance():
    random = np.random.default_rng(0)
    few = random.random((5, 50)) < 0.7, random.random((5, 50)) < 0.7
    many = random.random((5, 5000)) < 0.7, random.random((5, 5000)) < 0.7
    (_, low, high, _), (_, less, more, _) = difference(*few, 1), difference(*many, 1)
    assert high - low > 5 * (more - less)
    assert difference(*few, 4)[1] < low, "wider when more is judged"


def test_more_time_is_asked_for_only_where_it_can_help():
    wins = np.zeros((4, 10_000), bool)
    for row, share in zip(wins, (0.0, 0.01, 0.06, 0.07), strict=True):
        row[: int(share * 10_000)] = True  # seeds differ, with many images
    _, low, _, missing = difference(wins, np.zeros_like(wins), 1)
    assert low < 0
    assert 1 < missing < 10
    few = np.zeros((4, 30), bool)
    few[:, :2] = True  # every seed wins the same two of thirty images
    gain, low, _, missing = difference(few, np.zeros_like(few), 1)
    assert gain > 0 > low
    assert math.isinf(missing)


def test_a_folder_answers_one_question(plan, tmp_path):
    advise(plan, tmp_path, pretended({}))
    for other in (replace(plan, seconds=60.0), replace(plan, data=plan.data.subset(500))):
        with pytest.raises(ValueError, match=r"another question .*--out"):
            advise(other, tmp_path, pretended({}))


def test_the_page_says_it(plan, tmp_path):
    state = advise(plan, tmp_path, pretended({"transfer": 0.05, "cyclic": -0.03}))
    said = write_advice(state, tmp_path, "my <b>photos")
    assert said.startswith("Train with ")
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert "my &lt;b&gt;photos" in page
    assert "my <b>" not in page
    assert "fastest with a batch of 128 in fp32: 900 images a second" in page
    assert "| transfer |" in (tmp_path / TEXT).read_text(encoding="utf-8")
    recipe = Recipe.from_json(json.loads((tmp_path / RECIPE).read_text(encoding="utf-8")))
    assert "transfer" in recipe.names
    assert not (tmp_path / SCRIPT).exists(), "photographs that are in no folder"
    write_advice(state, tmp_path, "fashion-mnist")
    assert f" {tmp_path / SCRIPT}`" in (tmp_path / TEXT).read_text(encoding="utf-8")
    assert "WEIGHTS = " in (tmp_path / SCRIPT).read_text(encoding="utf-8")
    nothing = advise(plan, tmp_path / "none", pretended({}, seed=5))
    said = answer(nothing, verdicts(nothing))
    assert "plain" in said
    write_advice(nothing, tmp_path / "none", "photos")
    recipe = json.loads((tmp_path / "none" / RECIPE).read_text(encoding="utf-8"))
    assert Recipe.from_json(recipe).names == ()


def test_speeds_are_measured_from_small_batches_to_large(plan):
    short = replace(plan, seconds=4000.0)
    found = list(SPEEDS(short))
    assert [speed.batch for speed in found[:2]] == [32, 64]
    assert all(min(speed.loop, speed.resident) > 0 for speed in found)
    hurried = list(SPEEDS(replace(plan, seconds=1e-3)))
    assert {speed.batch for speed in hurried} == {32}, "the first one takes too long already"


def test_it_runs_from_the_shell(tmp_path, capsys, monkeypatch):
    """Really, in seconds: too short to tell anything, and it says so."""
    monkeypatch.setenv("FASTTRICKS_BUDGET", "smoke")
    words = ["advise", "--minutes", "0.1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "plain" in said or "nothing can be told" in said or "Train with" in said
    assert (tmp_path / "out" / PAGE).exists()
    before = (tmp_path / "out" / RUNS).read_bytes()
    assert main(words) == 0
    assert (tmp_path / "out" / RUNS).read_bytes() == before, "nothing is left to do"
    assert main(["advise", "--minutes", "0"]) == 2
    assert "--minutes" in capsys.readouterr().err
