"""One complete experiment as data: what a recipe is, and how one is read, changed, checked and written.

Knows configs and YAML; builds and runs nothing.
"""

from dougong.recipe.recipe import Recipe
from dougong.recipe.sources import load, load_folder, name_of, shipped_names, shipped_text

__all__ = ["Recipe", "load", "load_folder", "name_of", "shipped_names", "shipped_text"]
