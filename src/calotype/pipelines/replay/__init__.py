"""Recipes of pictures: what made one, carried in its file, and making it again."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.pipelines.replay.again import Replay, replay
    from calotype.pipelines.replay.recipe import Recipe, read_recipe

_WHERE = {"Recipe": "recipe", "Replay": "again", "read_recipe": "recipe", "replay": "again"}

__all__ = ["Recipe", "Replay", "read_recipe", "replay"]

__getattr__ = lazy_names(__name__, _WHERE)
