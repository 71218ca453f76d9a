"""What the words of the command line ask for: a recipe, and how many images."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from .budget import BASELINE, SEVEN, choose_budget
from .recipe import Recipe, name_of
from .tricks import Distributed

BYTES = 1_000_000  # of a JSON file; a recipe has some hundred, a record some thousand


def asked_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that the options ask for."""
    if options.recipe:
        recipe = read_recipe(options.recipe)
    else:
        recipe = select(options.tricks, options.without)
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
    without: str = "",  # names to leave out
) -> Recipe:
    """BASELINE and what the words name. Raises ValueError for names unknown, twice or absent."""
    known, recipe = {name_of(trick): trick for trick in SEVEN}, BASELINE
    chosen, left = ([word.strip() for word in some.split(",")] for some in (words, without))
    for name in {"all": known, "none": ()}.get(words, chosen):
        if name not in known:
            raise ValueError(f"Unknown trick {name!r}; use all, none, or of {', '.join(known)}.")
        recipe += known[name]
    for name in left if without else ():
        recipe -= name
    return recipe


def asked_images(options: argparse.Namespace) -> int:
    """The images to see: as asked, else what the budget gives all seven, or plain training."""
    budget = choose_budget(options.budget)
    if options.images is not None:
        return options.images
    return budget.whole if options.tricks == "all" and not options.recipe else budget.plain
