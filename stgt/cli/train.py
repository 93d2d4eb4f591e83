"""`stgt train`."""

from __future__ import annotations

from typing import Annotated

import tyro

from stgt.recipes import RECIPES

Recipe = tyro.extras.subcommand_type_from_defaults(
    {name: recipe() for name, recipe in RECIPES.items()},
    {name: (recipe.__doc__ or "").strip() for name, recipe in RECIPES.items()},
    prefix_names=False,
)
Recipe = Annotated[Recipe, tyro.conf.arg(name="")]


def train(recipe: Recipe) -> None:
    """Train a recipe; the same command goes on after an interruption."""
    from stgt.training.run import train

    train(recipe)
