"""Figures of what is inside: one scale for all answers, formats as long as torch says."""

import matplotlib.pyplot as plt
import torch

from fasttricks.course import answers, formats


def test_answers_share_one_scale():
    found = {"small": torch.tensor([[[0.0, 0.1]], [[-0.2, 0.0]]]), "large": 5 * torch.ones(3, 1, 2)}
    figure = answers(torch.zeros(1, 2), found, columns=2)
    drawn = [image for ax in figure.axes for image in ax.images if image.get_clim() == (-1, 1)]
    assert [image.get_array().tolist() for image in drawn] == [
        [[0.0, 0.5]],
        [[-1.0, 0.0]],
        *3 * [[[1.0, 1.0]]],
    ]
    titles = [ax.get_title() for ax in figure.axes]
    assert titles.count("input") == 2
    assert "large 3" in titles
    plt.close("all")


def test_formats_are_as_long_as_they_are():
    ranges = {"fp16": (2.0**-24, 2.0**-14, 2.0**16), "bf16": (2.0**-133, 2.0**-126, 2.0**128)}
    lines = {"one": ([-20, -10], [0.0, 5.0]), "other": ([-20, -10], [5.0, 0.0])}
    upper, lower = formats(ranges, lines, "fp16").axes
    assert [(bar.get_x(), bar.get_width()) for bar in upper.patches] == [
        (-24, 10),
        (-14, 30),
        (-133, 7),
        (-126, 254),
    ]
    styles = [line.get_linestyle() for line in lower.lines]
    assert styles[0] != styles[1], "told apart without colour"
    assert [line.get_xdata()[0] for line in lower.lines[2:]] == [-24, -14, 16]
    plt.close("all")
