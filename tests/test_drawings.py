"""Drawings show what they are given: bars in time, chunks that go round, the lowest of a grid."""

import matplotlib.pyplot as plt
import pytest
import torch

from fasttricks.course import circle, heat, plot, timeline


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_timeline_has_a_bar_for_each_span_and_a_look_for_each_kind():
    axes = timeline({"one": [("think", 0, 4), ("send", 4, 5)], "two": [("think", 1, 3)]}).axes[0]
    bars = axes.patches
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 4), (4, 1), (1, 2)]
    assert bars[0].get_hatch() != bars[1].get_hatch(), "told apart without colour"
    assert bars[0].get_facecolor() == bars[2].get_facecolor()
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["think", "send"]


def test_a_ring_says_what_each_device_holds_and_sends():
    start = torch.ones(3, 3)
    after = torch.tensor([[1.0, 1, 2], [2, 1, 1], [1, 2, 1]])  # device r has sent chunk r
    first, last = circle([start, after], {0: "start", 1: "end"}).axes
    said = [text.get_text() for text in first.texts if text.get_text()]
    assert said[:3] == ["a1", "b1", "c1"]
    assert [word for word in said if len(word) == 1] == ["a", "b", "c"]
    assert not [text for text in last.texts if len(text.get_text()) == 1], "nothing is left to send"
    assert {"a2", "b2", "c2"} <= {text.get_text() for text in last.texts}


def test_a_heat_map_frames_the_lowest_of_each_column():
    grid = [[0.5, 3.0], [0.7, 0.6], [float("nan"), float("inf")]]
    axes = heat(grid, ["x", "y", "z"], ["a", "b"], "batch", "rate", top=2.0).axes[0]
    written = [text.get_text() for text in axes.texts]
    assert written == ["0.50", "above 2", "0.70", "0.60", "above 2", "above 2"]
    framed = [round(frame.get_y() + 0.42) for frame in axes.patches]
    assert framed == [0, 1]


def test_a_heat_map_of_equal_numbers_is_drawn():
    assert len(heat([[1.0, 1.0]], ["x"], ["a", "b"], "", "", top=2.0).axes[0].texts) == 2


def test_a_vertical_log_axis_is_labelled_in_plain_numbers():
    figure = plot({"a": ([1, 2], [0.3, 7])}, "x", "y", yscale="log")
    figure.canvas.draw()
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels(which="both")}
    assert {"0.5", "1", "5"} <= labels
    assert not any("$" in label for label in labels)
