"""Tables say what the runs say; an arm whose mean misses the target never arrives."""

import math
from dataclasses import replace
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fasttricks import BASELINE, SEVEN, train
from fasttricks.course import (
    accuracy_against_time,
    accuracy_table,
    bars,
    gains,
    holds,
    interval,
    plot,
    recipe_table,
    redraws,
    show,
    table,
    tally,
)
from fasttricks.study.statistics import seconds_to_target, speed_up, speed_up_interval


@pytest.fixture(scope="module")
def run(small):
    return train(BASELINE, small, images=128)


def arm(run, accuracies, seconds):
    curve = [[64, 1.0, 0.5]]
    return [
        replace(run, val_accuracy=a, train_seconds=s, wall_seconds=s + 3, target=0.8, curve=curve)
        for a, s in zip(accuracies, seconds, strict=True)
    ]


def test_seconds_and_speed_up(run):
    slow, fast = arm(run, [0.79, 0.80, 0.82], [30, 10, 20]), arm(run, [0.81] * 3, [2, 2, 9])
    assert seconds_to_target(slow) == 20
    assert speed_up(fast, slow) == 10
    assert speed_up(fast, slow, "wall_seconds") == 23 / 5
    missed = arm(run, [0.79, 0.79, 0.81], [1, 1, 1])
    assert seconds_to_target(missed) == math.inf
    assert speed_up(missed, slow) == 0


def test_tables(run):
    arms = {"plain": arm(run, [0.80, 0.82], [20, 20]), "fast": arm(run, [0.81, 0.85], [2, 2])}
    shown = table(arms)
    assert shown.loc["speed-up, train clock", "fast"] == "10.0"
    assert shown.loc["validation accuracy, mean", "fast"] == "0.8300"
    assert shown.loc["95% interval of that", "fast"] == "-", "of two pairs there is none"
    three = {"plain": arm(run, [0.8] * 3, [20] * 3), "fast": arm(run, [0.9] * 3, [2, 4, 4])}
    assert table(three).loc["95% interval of that", "fast"] == "5.0 10.0"
    assert shown.loc["runs", "plain"] == "2"
    missed = table({**arms, "slow": arm(run, [0.1, 0.1], [2, 2])})["slow"]
    assert missed["seconds, train clock"] == "never"
    assert missed["speed-up, train clock"] == missed["95% interval of that"] == "-"
    compared = accuracy_table(arms)
    assert compared.loc["gain over plain, points", "fast"] == "+2.00"
    assert compared.loc["lowest and highest gain", "fast"] == "+1.00 +3.00"


def test_figures(run):
    arms = {"plain": arm(run, [0.80], [20]), "fast": arm(run, [0.81], [2])}
    axes = accuracy_against_time(arms).axes[0]
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert [[1.0, 0.5]] in drawn
    styles = {line.get_linestyle() for line in axes.lines if line.get_linestyle() != "None"}
    assert len(styles) >= 2, "told apart without colour"
    axes = plot({"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, "steps", "loss").axes[0]
    assert axes.get_xlabel() == "steps"
    assert axes.lines[1].get_ydata().tolist() == [4, 3]
    assert len(show([run.net.conv1[0].weight[0].detach()] * 3, ["x"] * 3).axes) == 3
    plt.close("all")


def test_recipe_table():
    shown = recipe_table(sum(SEVEN, start=BASELINE))
    assert list(shown.index) == [1, 2, 3, 4, 5, 6, 7]
    assert shown.loc[2, "fills"] == "batch, lr_factors"


def test_claims(capsys):
    holds(True, "one is one")
    assert capsys.readouterr().out == "holds: one is one\n"
    with pytest.raises(AssertionError, match="does not hold: two is one"):
        holds(False, "two is one")


def test_tally_writes_every_number():
    figure = tally([torch.eye(2), 4 * torch.eye(2)], ["a", "b"], "x", "y")
    texts = [[text.get_text() for text in panel.texts] for panel in figure.axes]
    assert texts == [["1", "0", "0", "1"], ["4", "0", "0", "4"]]
    assert not figure.axes[0].get_xticks().size
    plt.close(figure)
    named = tally([torch.eye(2)], ["a"], "x", "y", "pq").axes[0]
    assert [label.get_text() for label in named.get_xticklabels()] == ["p", "q"]
    assert list(named.get_yticks()) == [0, 1]
    plt.close("all")


def test_a_log_axis_is_labelled_in_plain_numbers():
    figure = plot({"a": ([3, 30], [0, 1])}, "x", "y", scale="log")
    figure.canvas.draw()
    labels = {label.get_text() for label in figure.axes[0].get_xticklabels(which="both")}
    assert {"5", "10", "20"} <= labels
    assert not any("$" in label for label in labels)
    plt.close(figure)


def test_gains_are_of_runs_that_share_a_seed(run):
    assert gains(arm(run, [0.8, 0.9], [1, 1]), arm(run, [0.7, 0.6], [1, 1])) == pytest.approx(
        [10, 30]
    )
    with pytest.raises(ValueError, match="longer"):
        gains(arm(run, [0.8], [1]), arm(run, [0.7, 0.6], [1, 1]))


def test_interval_is_the_bootstraps():
    """Held against every resample there is: 5 to the power of 5."""
    values = [1.0, 2.0, 4.0, 8.0, 9.5]
    every = np.array(list(product(values, repeat=5))).mean(1)
    assert interval(values) == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=0.1)
    assert interval([3.0]) == (3.0, 3.0)


def test_the_interval_of_a_speed_up_draws_pairs(run):
    """Held against every resample there is: 3 to the power of 3."""
    slow, fast = np.array([40.0, 44.0, 39.0]), np.array([5.0, 4.0, 4.5])
    every = [
        np.median(slow[list(p)]) / np.median(fast[list(p)]) for p in product(range(3), repeat=3)
    ]
    low, high = np.quantile(every, [0.025, 0.975])
    arms = arm(run, [0.9] * 3, fast), arm(run, [0.9] * 3, slow)
    assert speed_up_interval(*arms) == f"{low:.1f} {high:.1f}"
    assert speed_up_interval(arms[0][:2], arms[1][:2]) == "-", "two pairs say too little"


def test_bars_draw_means_and_every_value():
    figure = bars({"a": [1.0, 3.0], "b": [-1.0]}, "points")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2.0, -1.0]
    assert axes.lines[1].get_xdata().tolist() == [1.0, 3.0]
    plt.close(figure)


def test_redraws_draw_pairs_and_divide_medians():
    figure = redraws([2.0, 4.0, 9.0], [4.0, 1.0, 2.0], torch.tensor([[0, 1, 2], [2, 2, 0]]))
    axes = figure.axes[0]
    have, found = axes.lines[:2]
    assert have.get_xdata().tolist() == [0.5, 4.0, 4.5]
    assert found.get_xdata().tolist() == [2.0, 4.5], "the medians' ratio, not the ratios' median"
    drawn = [dots.get_offsets()[:, 0].tolist() for dots in axes.collections]
    assert drawn == [[0.5, 4.0, 4.5], [0.5, 4.5]]
    assert axes.collections[1].get_sizes().tolist() == [14.0, 28.0], "drawn twice, twice as large"
    plt.close(figure)
