"""Exercises that check themselves: `check("smoothing", 1, my_function)` prints a verdict.

A chapter's file holds its questions as generators: each is given the reader's function and yields
pairs (what would be wrong, whether it is right), simplest first. The first pair that is not right
becomes the hint. Nothing raises, so that a notebook with open exercises runs to its end.
"""

from collections.abc import Callable
from importlib import import_module


def check(
    chapter: str,  # name of the trick's file, e.g. "smoothing"
    number: int,  # 1, 2 or 3
    answer: Callable,  # the reader's function
) -> None:
    """Print the verdict on an answer."""
    print(f"Exercise {number}: {judge(chapter, number, answer)}")


def judge(chapter: str, number: int, answer: Callable) -> str:
    """The verdict: "solved", "not solved yet", or "not yet" with a hint."""
    question = getattr(import_module(f"{__name__}.{chapter}"), f"exercise_{number}")
    try:
        for hint, right in question(answer):
            if not right:
                return f"not yet: {hint}"
    except NotImplementedError:
        return "not solved yet"
    except Exception as error:
        return f"not yet: it raised {type(error).__name__}: {error}"
    return "solved"
