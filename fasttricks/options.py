"""What the words of the command line ask for: a recipe, and how many images."""

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .budget import BASELINE, SEVEN, choose_budget
from .recipe import Recipe, Trick, name_of
from .tricks import Distributed

BYTES = 1_000_000  # of a JSON file; a recipe has some hundred, a record some thousand


def asked_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that the options ask for."""
    if options.recipe:
        recipe = read_recipe(options.recipe)
    else:
        recipe = sum(select(options.tricks, SEVEN, options.without), start=BASELINE)
    if options.processes is not None or options.share_devices:
        if options.processes is not None and options.processes < 1:
            raise ValueError(f"--processes must be 1 or more, not {options.processes}.")
        rest = tuple(trick for trick in recipe.tricks if not isinstance(trick, Distributed))
        world = Distributed(options.processes or 0, options.share_devices)
        recipe = replace(recipe, tricks=(*rest, world))
    return recipe


def read_recipe(path: Path) -> Recipe:
    """The recipe in a JSON file, or in a record there. Raises ValueError or OSError if none is."""
    try:
        with path.open("rb") as file:
            text = file.read(BYTES + 1)
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}); name a JSON file.") from None
    if len(text) > BYTES:
        raise ValueError(f"{path} is larger than {BYTES / 1e6:g} MB; no recipe or record is.")
    try:
        stored = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # the latter where lists are nested too deeply
        raise ValueError(f"{path} is no JSON ({error}); give a recipe or record.") from None
    try:
        within = isinstance(stored, dict) and "recipe" in stored
        return Recipe.from_json(stored["recipe"] if within else stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def select(
    words: str,  # "all", "none", or names with commas between
    seven: Iterable[Trick],  # what there is to select from
    without: str = "",  # names to leave out
) -> tuple[Trick, ...]:
    """The tricks that the words name. Raises ValueError for unknown or repeated names."""
    by_name = {name_of(trick): trick for trick in seven}
    chosen = {"all": list(by_name), "none": []}.get(words)
    if chosen is None:
        chosen = split_names(words, by_name)
    dropped = split_names(without, by_name) if without else []
    for name in dropped:
        if name not in chosen:
            raise ValueError(f"There is no {name!r} to leave out; chosen are {', '.join(chosen)}.")
    return tuple(by_name[name] for name in chosen if name not in dropped)


def split_names(words: str, known: Iterable[str]) -> list[str]:
    """Names with commas between, each known and none twice."""
    names = [word.strip() for word in words.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"Unknown trick {name!r}; use all, none, or of {', '.join(known)}.")
        if names.count(name) > 1:
            raise ValueError(f"The trick {name!r} is named twice; name it once.")
    return names


def asked_images(options: argparse.Namespace) -> int:
    """The images to see: as asked, else what the budget gives all seven, or plain training."""
    budget = choose_budget(options.budget)
    if options.images is not None:
        return options.images
    return budget.whole if options.tricks == "all" and not options.recipe else budget.plain
