"""What chapters quote of recorded studies says win, loss, tie and never apart."""

import math
import re
from dataclasses import replace

import pytest

from fasttricks.course import (
    beside_refreshed,
    compared,
    equal_table,
    found_in,
    gain_by_epochs,
    on_test_images,
    study_table,
    with_few_labels,
)
from fasttricks.files import write_json
from fasttricks.study.findings import FINDINGS, Estimate, Published, effect, outcome

TOLD = found_in("few")
(ROW,) = TOLD.of("plain + cyclic + mixup")
CASES = {
    "win": (Estimate(2.0, 1.5, 2.6, 0.01), "2.00 times as fast (1.50 to 2.60)"),
    "loss": (Estimate(0.5, 0.4, 0.6, 0.01), "0.50 times as fast (0.40 to 0.60)"),
    "tie": (
        Estimate(1.1, 0.9, 1.3, 0.2),
        "not clearly faster or slower: 1.10 times as fast (0.90 to 1.30)",
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_ratio_is_said_with_its_interval(kind):
    ratio, said = CASES[kind]
    assert compared(replace(ROW, ratio=ratio)) == said


@pytest.mark.parametrize("kind", CASES)
def test_a_verdict_that_wavers_is_said_with_care(kind):
    ratio, _ = CASES[kind]
    words = {"win": "seems to pay", "loss": "seems to cost time", "tie": "no clear difference"}
    turned = {"win": words["loss"], "loss": words["win"], "tie": words["tie"]}
    row = replace(ROW, ratio=ratio, holds=False)
    for told, left_out in ((words, False), (turned, True)):
        said = outcome(row, left_out=left_out)
        assert told[kind] in said
        assert said.endswith("may be chance)") == row.wavers
        assert ("\\*" in effect(row, left_out)) == row.wavers
    assert "seems" not in outcome(replace(row, holds=True))


def test_an_arm_that_never_arrives_has_no_ratio():
    never = replace(ROW, images=Estimate(math.inf, 1000, math.inf), most=1000, accuracy=0.5)
    assert compared(never) == "still below the target after 1,000 images (accuracy 0.5000)"
    assert "compared with" in compared(*TOLD.of(TOLD.reference))


def test_a_study_that_is_not_recorded_is_named(tmp_path):
    with pytest.raises(ValueError, match="No study 'none'"):
        found_in("none", tmp_path)


def test_a_table_has_the_arms_that_are_asked_for():
    arms = [TOLD.reference, ROW.arm]
    assert list(study_table(TOLD, arms).index) == arms
    assert list(equal_table(TOLD, arms).index) == arms
    assert len(study_table(TOLD)) == len(TOLD.rows)


@pytest.mark.parametrize(
    ("points", "word"), [(0.02, "a clear gain"), (-0.02, "a clear loss"), (0.0, "no clear")]
)
def test_the_study_of_few_labels_is_said_as_it_came_out(tmp_path, points, word):
    rows = [[n, *(a + points for a in some)] for n, *some in TOLD.accuracies[TOLD.reference]]
    if not points:  # as far above as below
        rows = [[n, *(a + 0.01 * (-1) ** i for i, a in enumerate(some))] for n, *some in rows]
    made: Published = replace(TOLD, accuracies={**TOLD.accuracies, ROW.arm: rows})
    (tmp_path / "few").mkdir()
    write_json(tmp_path / "few" / FINDINGS, made.to_json())
    said = with_few_labels("mixup", tmp_path)
    assert word in said
    assert f"**{100 * points:+.2f} points (95% interval" in said


@pytest.mark.parametrize(
    ("points", "word"),
    [(0.02, "clearly higher"), (-0.02, "clearly lower"), (0.0, "no clear difference")],
)
def test_the_test_images_are_said_as_they_came_out(points, word):
    plain = [0.87, 0.88, 0.89]
    noise = [-0.001, 0.0, 0.001]
    tested = {
        TOLD.reference: plain,
        "new": [a + points + b for a, b in zip(plain, noise, strict=True)],
    }
    said = on_test_images(replace(TOLD, tested=tested), "new")
    assert f"**{word}**" in said
    assert "n = 3" in said
    assert f"{100 * points:+.2f} points" in said


def test_a_gain_is_drawn_at_every_length_that_both_arms_have():
    (axes,) = gain_by_epochs("mixup", "smoothing").axes
    mixed, smoothed = axes.lines[:2]
    epochs = [images / TOLD.labels for images, *_ in TOLD.accuracies[ROW.arm]]
    assert list(mixed.get_xdata()) == epochs
    first, *_, last = mixed.get_ydata()
    assert first < 0 < last
    assert len(smoothed.get_xdata()) > len(epochs) - 1
    assert len(axes.collections) == 2, "a band each"


def test_plain_training_is_judged_refreshed_too(tmp_path):
    (before,), again = found_in("cpu").of("whole"), found_in("refreshed")
    tuned, whole, same = again.of(again.reference, "whole", "plain")
    said = beside_refreshed()
    told = re.search(r"([\d.]+) times\*\* \(95% interval: ([\d.]+) to ([\d.]+); 10 seeds", said)
    value, low, high = map(float, told.groups())
    ratio = whole.ratio
    assert told.groups() == tuple(f"{x:.1f}" for x in (ratio.value, ratio.low, ratio.high))
    assert ratio.value == pytest.approx(tuned.train / whole.train, rel=0.01), "ten seeds each"
    assert low < value < high < before.ratio.value
    assert f"not {before.ratio.value:.1f}." in said
    assert same.against == tuned.arm
    assert beside_refreshed(tmp_path) == "", "nothing is recorded there"
