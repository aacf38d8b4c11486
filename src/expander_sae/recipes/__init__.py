"""Recipes: one small .toml file for each model, with what to harvest and at which sizes."""

from .recipe import Recipe, load_recipe, recipe_names, recipe_of

__all__ = ["Recipe", "load_recipe", "recipe_names", "recipe_of"]
