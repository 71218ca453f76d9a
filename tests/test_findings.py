"""Findings follow from the records alone: lengths that reach, paired ratios, intervals."""

import math
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fasttricks import BASELINE, train
from fasttricks.__main__ import main
from fasttricks.budget import BUDGETS
from fasttricks.study.findings import (
    FINDINGS,
    MISSED,
    PAYS,
    Arm,
    arm_of,
    compare,
    findings,
    headline,
    outcome,
    published,
    summary,
    took,
    verdict,
)
from fasttricks.study.pages import (
    as_table,
    curves,
    figure,
    page,
    publish,
    studies,
    unfinished,
    write_report,
)
from fasttricks.study.plan import DECLARED, TARGET, read_study, search_state, target_of
from fasttricks.study.runs import RESULTS, append_record, read_records

ROOT = Path(__file__).resolve().parents[1]


def arm(images, accuracy, train):
    shape = np.array(accuracy).shape
    seconds = np.broadcast_to(np.array(train, float)[:, None], shape)
    return Arm(np.array(images), np.array(accuracy), seconds, seconds + 5)


PLAIN = arm([100, 200], [[0.7, 0.7, 0.7], [0.9, 0.9, 0.9]], [10, 20])


def test_the_smallest_length_that_reaches_counts():
    fast = arm([50, 100, 200], [[0.7] * 3, [0.85, 0.9, 0.8], [0.9] * 3], [1, 2, 4])
    found = compare("fast", fast, "plain", PLAIN, 0.85)
    assert (found.images, found.reached, found.seeds) == (100, 2, 3)
    assert (found.train, found.wall) == (2, 7)
    assert found.ratio == 10
    assert found.wall_ratio == pytest.approx(25 / 7)
    assert found.low < 10 <= found.high, "some resamples need the length above"


def test_the_last_round_says_what_an_image_costs(recorded):
    study, found, _ = recorded
    assert arm_of(study, found, "plain").train[-1].tolist() == [20, 21]
    most = study.length("plain", 0)
    run = found["plain", most][0]
    paces = (10.0, 12.0)
    last = {seed: replace(run, images_seen=2 * most, train_seconds=pace, wall_seconds=pace + 5)
            for seed, pace in enumerate(paces)}  # fmt: skip
    calibrated = arm_of(study, {**found, ("last plain", 2 * most): last}, "plain")
    assert calibrated.train[-1].tolist() == [5, 6], "half as many images as in the last round"
    assert calibrated.wall[-1].tolist() == [10, 11]


def test_a_last_round_that_has_only_begun_is_called_missing(recorded):
    study, found, _ = recorded
    begun = {**found, ("last plain", 128): found["plain", study.length("plain", 0)]}
    assert "last round" in unfinished(study, begun)[-1]
    complete, runs = studies()["cpu"]
    assert unfinished(complete, runs) == [], "that of the repository is finished"
    seeds = dict(runs[("last plain", BUDGETS["cpu"].plain)])
    del seeds[4]
    assert (
        "last round"
        in unfinished(complete, {**runs, ("last plain", BUDGETS["cpu"].plain): seeds})[0]
    )


def test_one_slow_run_does_not_move_an_arms_seconds():
    shaken = Arm(
        np.array([100]), np.full((1, 3), 0.9), np.array([[1.0, 1.0, 10.0]]), PLAIN.wall[:1]
    )
    assert compare("shaken", shaken, "plain", PLAIN, 0.85).train == 1, "the median, not the mean"


def test_never_is_infinite_and_is_kept():
    never = arm([100], [[0.1] * 3], [3])
    found = compare("never", never, "plain", PLAIN, 0.85)
    assert found.images is None
    assert (found.train, found.ratio, found.high) == (math.inf, 0, 0)
    assert verdict(found) == "later"
    assert list(as_table([found]).loc["never", ["images", "train s"]]) == ["over 100", "never"]
    nothing = compare("never", never, "plain", never, 0.85)
    assert verdict(nothing) == "cannot tell"


def test_plain_against_itself_is_one():
    found = compare("plain", PLAIN, "plain", PLAIN, 0.85)
    assert (found.ratio, found.low, found.high) == (1, 1, 1)
    assert verdict(found) == "-", "nothing is said of an arm beside itself"


@pytest.fixture
def recorded(small, tmp_path):
    """The CPU's study with few seeds, what its few records hold, and the names of their arms."""
    declared = (ROOT / "bench" / "cpu.toml").read_text(encoding="utf-8")
    declared = declared.replace("seeds = 5", "seeds = 2").replace("= 20\n", "= 1\n", 1)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / DECLARED).write_text(declared, encoding="utf-8")
    study = read_study(tmp_path / "cpu" / DECLARED)
    run = train(BASELINE, small, images=128)
    arms = {"plain": 20.0, "whole": 2.0, "add mixup": 25.0, "no mixup": 1.0}
    found = {
        (name, study.length(name, number)): {
            seed: replace(run, val_accuracy=accuracy, train_seconds=share * (seconds + seed))
            for seed in range(2)
        }
        for name, seconds in arms.items()
        for number, accuracy, share in ((0, 0.9, 1.0), (-0.5, 0.6, 0.9), (-1, 0.5, 0.8))
    }
    found["six", study.length("six", 0)] = {0: run, 1: run}  # and no other length yet
    found[TARGET, 192_000] = {0: replace(run, val_accuracy=0.85)}
    for (name, images), runs in found.items():
        for seed, made in runs.items():
            record = replace(made, seed=seed, images_seen=images).to_json()
            append_record(tmp_path / "cpu", name, record)
    return study, read_records(tmp_path / "cpu"), set(arms)


def test_records_to_a_sentence(recorded, tmp_path):
    study, found, arms = recorded
    rows = {row.arm: row for row in findings(study, found)}
    assert set(rows) == arms
    assert rows["no mixup"].against == "whole"
    assert rows["add mixup"].ratio == pytest.approx(20.5 / 25.5)
    assert arm_of(study, found, "add cyclic") is None
    write_report(tmp_path)
    said = headline("mixup", tmp_path)
    assert "plain training takes 20.5 s, and with this trick 25.5 s. So **alone, it" in said
    assert "0.80 times as fast (95 % interval: " in said
    assert "take 2.5 s, and the other six without this one 1.5 s. So **" in said
    assert "1.67 times as fast" in said
    assert "2 paired seeds" in said
    assert "No study" in headline("cyclic", tmp_path)


def test_the_summary_sorts_by_verdict():
    fast, never = arm([100], [[0.9] * 3], [1]), arm([100], [[0.1] * 3], [3])
    rows = [
        compare(name, one, against, PLAIN, 0.85)
        for name, one, against in (
            ("plain", PLAIN, "plain"),
            ("add mixup", fast, "plain"),
            ("add cyclic", never, "plain"),
            ("no mixup", PLAIN, "whole"),
        )
    ]
    assert summary(rows) == (
        "Added to plain training: sooner with mixup; later with cyclic. "
        "Left out of all seven: cannot tell without mixup."
    )


def test_the_headline_says_never():
    never = arm([100], [[0.1] * 3], [3])
    lacking = compare("no mixup", never, "whole", PLAIN, 0.85)
    assert took(lacking) == "more than 100 images allow (it is at 0.1000 then)"
    assert outcome(lacking, MISSED) == "the other six are slower without it"
    arrives = compare("add mixup", PLAIN, "plain", never, 0.85)
    assert took(arrives) == "20.0 s"
    assert outcome(arrives, PAYS) == "alone, it pays", "no ratio to what never arrives"
    wavering = arm([100, 200], [[0.7] * 3, [0.95, 0.95, 0.65]], [1, 2])
    row = compare("add mixup", wavering, "plain", PLAIN, 0.85)
    assert "(95 % interval: never arriving to " in outcome(row, PAYS)


def test_the_report_is_the_same_for_the_same_records(recorded, tmp_path, capsys):
    study, *_ = recorded
    assert main(["report", "--results", str(tmp_path)]) == 0
    files = [tmp_path / name for name in ("cpu.md", "cpu.png", "cpu-curves.png")]
    assert str(files[0]) in capsys.readouterr().out
    before = [file.read_bytes() for file in files]
    assert main(["report", "--results", str(tmp_path)]) == 0
    assert [file.read_bytes() for file in files] == before
    text = files[0].read_text(encoding="utf-8")
    assert "add mixup" in text
    assert "Not found yet: add cyclic, " in text
    assert "its last round" in text
    assert "six" in next(line for line in text.splitlines() if line.startswith("Not found yet"))
    assert text.count("| no mixup |") == 1 + 3 * study.seeds, "its finding, and its runs"
    assert text == page("cpu", *recorded[:2])


def test_the_curves_are_the_lengths(recorded):
    study, found, _ = recorded
    (axes,) = curves(study, found, "test").axes
    plain, whole = (container.lines[0] for container in axes.containers)
    assert plain.get_xdata() == pytest.approx([0.8 * 20.5, 0.9 * 20.5, 20.5])
    assert plain.get_ydata() == pytest.approx([0.5, 0.6, 0.9])
    assert whole.get_xdata()[-1] == 2.5
    plt.close("all")


def test_the_budget_is_what_its_study_found():
    for study, found in studies().values():
        size, target = BUDGETS[study.budget], target_of(study, found)
        assert size.target == math.floor(100 * target) / 100, "rounded down, for runs are few"
        assert search_state(study, "plain", found, target) == (size.plain, True)
        assert search_state(study, "whole", found, target) == (size.whole, True)


def test_no_records_is_a_sentence(tmp_path, capsys):
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert "fasttricks bench" in capsys.readouterr().err


def test_the_figure_draws_each_ratio_and_its_interval(recorded):
    rows = findings(*recorded[:2])
    drawn = figure(rows, "test")
    left, right = drawn.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["plain", "whole", "add mixup"]
    assert [text.get_text() for text in right.get_yticklabels()] == ["no mixup"]
    dot = right.lines[1].get_xdata()[0]
    assert dot == next(row.ratio for row in rows if row.arm == "no mixup")
    plt.close(drawn)


def test_an_interval_that_reaches_never_runs_to_the_edge():
    wavering = arm([100, 200], [[0.7] * 3, [0.95, 0.95, 0.65]], [1, 2])
    row = compare("add mixup", wavering, "plain", PLAIN, 0.85)
    assert (row.low, row.ratio) == (0, 10)
    (axes,) = figure([row], "test").axes
    line, dot, arrow = axes.lines[:3]
    left = axes.get_xlim()[0]
    assert line.get_xdata()[0] == left == arrow.get_xdata()[0] < dot.get_xdata()[0]
    assert arrow.get_marker() == "<"
    plt.close("all")


def test_what_is_published_survives_its_file(recorded, tmp_path):
    study, found, _ = recorded
    write_report(tmp_path)
    (stored,) = published(tmp_path)
    assert repr(stored) == repr(publish("cpu", study, found)), "NaN and infinity too"
    path = tmp_path / "cpu" / FINDINGS
    (tmp_path / "cpu" / "runs.jsonl").write_text("no record", encoding="utf-8")
    assert published(tmp_path) == [stored], "a bad record stops nobody who reads findings"
    for broken in ("{", "{}", '{"schema": 9}', "[]"):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(ValueError, match=r"findings\.json cannot be read .*fasttricks report"):
            headline("mixup", tmp_path)


def test_the_published_findings_follow_from_the_records():
    stored = {one.study: one for one in published()}
    assert stored
    for name, (study, found) in studies().items():
        assert repr(stored[name]) == repr(publish(name, study, found))
    assert set(stored) == {path.parent.name for path in RESULTS.glob(f"*/{DECLARED}")}
