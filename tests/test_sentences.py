"""A sentence's verdict follows the numbers: a win, a loss, a tie, nets near chance, nothing."""

import math

import pytest

from fasttricks.course.sentences import MISSING, changed, faster, gained, say, sureness

GAINED = {
    "win": (([0.90, 0.91, 0.90], [0.87, 0.88, 0.86]), "3.3 points higher (3 of 3 seeds)"),
    "loss": (([0.87, 0.88], [0.90, 0.91]), "3.0 points lower (2 of 2 seeds)"),
    "tie": (([0.90, 0.91], [0.91, 0.90]), "level, as far as 2 seeds can tell (-1.0 to +1.0)"),
    "hardly": (
        ([0.901, 0.911], [0.900, 0.910]),
        "level, as far as 2 seeds can tell (+0.1 to +0.1)",
    ),
    "one win": (([0.90], [0.88]), "2.0 points higher (one seed)"),
    "one tie": (([0.90], [0.895]), "level, as far as one seed can tell (+0.5 points)"),
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


FASTER = {
    "win": (([1.0, 1.1], [2.0, 2.2]), "2.00 times as fast"),
    "loss": (([2.0, 2.2], [1.0, 1.1]), "0.50 times as fast"),
    "tie": (([1.0, 2.0], [2.0, 1.0]), "as fast, within what 2 runs can tell (1.00 times)"),
    "near": (([1.0], [1.02]), "as fast, within what one run can tell (1.02 times)"),
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
