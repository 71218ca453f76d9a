"""A sentence's verdict follows the numbers: a win, a loss, a tie, nets near chance, nothing."""

import math

import pytest

from fasttricks import progress
from fasttricks.course import one_line
from fasttricks.course.sentences import MISSING, changed, faster, gained, say, sureness

GAINED = {
    "win": (([0.90, 0.91, 0.90], [0.87, 0.88, 0.86]), "3.3 points higher (all 3 seeds)"),
    "loss": (([0.87, 0.88], [0.90, 0.91]), "3.0 points lower (both seeds)"),
    "tie": (([0.90, 0.91], [0.91, 0.90]), "no clear difference (2 seeds: -1.0 to +1.0 points)"),
    "hardly": (
        ([0.901, 0.911], [0.900, 0.910]),
        "no clear difference (2 seeds: +0.1 to +0.1 points)",
    ),
    "apart": (([0.90, 0.91], [0.85, 0.92]), "no clear difference (2 seeds: -1.0 to +5.0 points)"),
    "one win": (([0.90], [0.88]), "2.0 points higher (one seed)"),
    "one tie": (([0.90], [0.895]), "no clear difference (one seed: +0.5 points)"),
    "near chance": (
        ([0.13], [0.106], 0.1),
        "not to be compared, because both have hardly learned (0.13)",
    ),
    "missing": (([], []), MISSING),
    "not a number": (([math.nan], [0.9]), MISSING),
    "unequal": (([0.9, 0.9], [0.9]), MISSING),
}


@pytest.mark.parametrize("kind", GAINED)
def test_accuracy(kind):
    asked, wanted = GAINED[kind]
    assert gained(*asked) == wanted


UNCLEAR = "not clearly faster or slower"

FASTER = {
    "win": (([1.0, 1.1], [2.0, 2.2]), "2.00 times as fast"),
    "loss": (([2.0, 2.2], [1.0, 1.1]), "0.50 times as fast"),
    "tie": (([1.0, 2.0], [2.0, 1.0]), f"{UNCLEAR} (0.50 to 2.00 times as fast, 2 runs)"),
    "near": (([1.0], [1.02]), f"{UNCLEAR} (1.02 times as fast, one run)"),
    "never": (([math.inf], [1.0]), MISSING),
    "missing": (([], []), MISSING),
}


@pytest.mark.parametrize("kind", FASTER)
def test_seconds(kind):
    asked, wanted = FASTER[kind]
    assert faster(*asked) == wanted


CHANGED = {
    "better": ((0.067, 0.012), "better (0.067 → 0.012, 5.6 times smaller)"),
    "worse": ((0.012, 0.084), "worse (0.012 → 0.084, 7.0 times as large)"),
    "as shown": ((0.0124, 0.0846), "worse (0.012 → 0.085, 7.1 times as large)"),
    "tiny": ((0.0001, 0.0004), "worse (0.000 → 0.000, 4.0 times as large)"),
    "tie": ((0.012, 0.013), "about the same (0.012 → 0.013)"),
    "missing": ((math.nan, 0.1), MISSING),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_errors(kind):
    asked, wanted = CHANGED[kind]
    assert changed(*asked) == wanted


SURENESS = {
    "over": ((0.95, 0.85), "overconfident by 10 points"),
    "under": ((0.75, 0.85), "underconfident by 10 points"),
    "hardly": ((0.862, 0.85), "overconfident by 1 point"),
    "tie": ((0.855, 0.85), "well calibrated on average"),
    "missing": ((math.nan, 0.85), MISSING),
}


@pytest.mark.parametrize("kind", SURENESS)
def test_confidence(kind):
    asked, wanted = SURENESS[kind]
    assert sureness(*asked) == wanted


def test_a_sentence_is_shown_as_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    say("**So** it is.")
    assert shown[0].data == "**So** it is."


def test_a_notebook_shows_one_line_for_many_runs(monkeypatch):
    """Each display is made once; what it shows last is what the reader sees."""
    shown = []

    class Handle:
        def __init__(self) -> None:
            shown.append("")
            self.at = len(shown) - 1

        def update(self, data, raw):
            shown[self.at] = data["text/plain"]

    monkeypatch.delenv(progress.QUIET, raising=False)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: Handle())
    with one_line() as tell:
        for label in ("first", "second"):
            with progress.Bar(label, 10) as bar:
                bar.close("done")
        assert shown == ["second: done"]
        tell("two runs")
    with progress.Bar("third", 10) as bar:
        bar.close("done")
    assert shown == ["two runs", "third: done"]
    monkeypatch.setenv(progress.QUIET, "1")
    with one_line() as tell:
        tell("nothing")
    assert len(shown) == 2


def test_a_file_is_given_the_last_line_of_a_run_and_no_bar(capsys, monkeypatch):
    monkeypatch.delenv(progress.QUIET, raising=False)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.Bar("a run", 10) as bar:
        bar.show(5, 0.5)
        assert capsys.readouterr().err == ""
        bar.close("done")
    assert capsys.readouterr().err == "a run: done\n"
