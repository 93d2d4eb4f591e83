"""`stgt train`, and the argument by which commands take a recipe."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from stgt.config import TrainConfig
from stgt.paths import given_path
from stgt.recipes import RECIPES, import_recipe, read_recipe


def _subcommands(recipes: dict[str, TrainConfig], described: dict[str, str]) -> object:
    union = tyro.extras.subcommand_type_from_defaults(recipes, described, prefix_names=False)
    return Annotated[union, tyro.conf.arg(name="")]


RECIPE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
NAMED = {name: recipe() for name, recipe in RECIPES.items()}
DESCRIBED = {name: inspect.getdoc(recipe) or "" for name, recipe in RECIPES.items()}
Recipe = _subcommands(NAMED, DESCRIBED)


def take_recipe(words: Sequence[str]) -> list[str]:
    """Let the words of a command name a recipe of another module, or a JSON file by --config FILE.

    `package.module:function` is imported as `python -m` imports modules, also from the present folder. The recipe is
    added to `Recipe`, and the words are returned with its name there. Raises ValueError if there is no such recipe.
    """
    global Recipe
    words, name, config = list(words), None, None
    if words[:1] != ["train"] and words[:2] != ["data", "features"]:
        return words
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" in words[:-1]:
        place = words.index("--config")
        config = read_recipe(given_path(words[place + 1]))
        name, words[place : place + 2] = "config", ["config"]
    else:
        # A word with a colon that follows the name of an option is that option's value.
        named = (i for i, word in enumerate(words) if RECIPE.fullmatch(word) and not words[i - 1].startswith("--"))
        if (place := next(named, None)) is not None:
            sys.path.insert(0, os.getcwd())
            config = import_recipe(words[place])
            name = words[place] = words[place].partition(":")[2]
    if name is not None:
        Recipe = _subcommands(NAMED | {name: config}, DESCRIBED | {name: "The recipe that the command names."})
    return words


def train(recipe: Recipe) -> None:
    """Train a recipe. The same command goes on after an interruption.

    The recipe is one of those below, a function of any module (`stgt train mypackage.recipes:mine`), or a JSON file
    such as a run's config.json (`stgt train --config FILE --out runs/again`).
    """
    from stgt.training.run import train

    train(recipe)
