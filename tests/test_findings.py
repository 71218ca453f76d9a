"""Findings follow from the records alone: smallest rung that reaches, paired ratios, intervals."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fasttricks import BASELINE, bench, train
from fasttricks.findings import Arm, arm_of, as_table, compare, findings, headline, verdict


def arm(images, accuracy, train):
    shape = np.array(accuracy).shape
    seconds = np.broadcast_to(np.array(train, float)[:, None], shape)
    return Arm(np.array(images), np.array(accuracy), seconds, seconds + 5)


PLAIN = arm([100, 200], [[0.7, 0.7, 0.7], [0.9, 0.9, 0.9]], [10, 20])


def test_the_smallest_rung_that_reaches_counts():
    fast = arm([50, 100, 200], [[0.7] * 3, [0.85, 0.9, 0.8], [0.9] * 3], [1, 2, 4])
    found = compare("fast", fast, "plain", PLAIN, 0.85)
    assert (found.images, found.reached, found.seeds) == (100, 2, 3)
    assert (found.train, found.wall) == (2, 7)
    assert found.ratio == 10
    assert found.wall_ratio == pytest.approx(25 / 7)
    assert found.low < 10 <= found.high, "some resamples need the rung above"


def test_never_is_infinite_and_is_kept():
    never = arm([100], [[0.1] * 3], [3])
    found = compare("never", never, "plain", PLAIN, 0.85)
    assert found.images is None
    assert (found.train, found.ratio, found.high) == (math.inf, 0, 0)
    assert verdict(found) == "later"
    assert as_table([found]).loc["never", "train s"] == "never"
    nothing = compare("never", never, "plain", never, 0.85)
    assert verdict(nothing) == "cannot tell"


def test_plain_against_itself_is_one():
    found = compare("plain", PLAIN, "plain", PLAIN, 0.85)
    assert (found.ratio, found.low, found.high) == (1, 1, 1)
    assert verdict(found) == "cannot tell"


def test_records_to_a_sentence(small, tmp_path, monkeypatch):
    study = replace(bench.read_study(bench.ROOT / "bench" / "cpu.toml"), seeds=2, target_seeds=1)
    run = train(BASELINE, small, images=128)
    arms = {"plain": 20.0, "whole": 2.0, "add mixup": 25.0, "no mixup": 1.0}
    found = {
        (name, 256): {
            seed: replace(run, val_accuracy=0.9, train_seconds=seconds + seed) for seed in range(2)
        }
        for name, seconds in arms.items()
    }
    found[bench.TARGET, 192_000] = {0: replace(run, val_accuracy=0.85)}
    rows = {row.arm: row for row in findings(study, found)}
    assert set(rows) == set(arms)
    assert rows["no mixup"].against == "whole"
    assert rows["add mixup"].ratio == pytest.approx(20.5 / 25.5)
    assert arm_of(study, found, "add cyclic") is None
    monkeypatch.setattr("fasttricks.findings.studies", lambda results: {"cpu": (study, found)})
    said = headline("mixup")
    assert "added to plain training, 0.80 times as soon" in said
    assert "left out of all seven, 1.67 times as soon" in said
    assert "n = 2" in said
    assert "No study" in headline("cyclic")
