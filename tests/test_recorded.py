"""What chapters quote of recorded studies says win, loss, tie and never apart."""

import math
from dataclasses import replace

import pytest

from fasttricks.course import compared, equal_table, found_in, study_table, with_few_labels
from fasttricks.files import write_json
from fasttricks.study.findings import FINDINGS, Estimate, Published

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


def test_an_arm_that_never_arrives_has_no_ratio():
    never = replace(ROW, images=Estimate(math.inf, 1000, math.inf), most=1000, accuracy=0.5)
    assert compared(never) == "not there after 1,000 images, where its accuracy is 0.5000"
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
    assert f"**{100 * points:+.2f} points**" in said
