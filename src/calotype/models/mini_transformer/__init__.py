"""A small diffusion transformer that predicts the velocity of latents, given the words of a prompt."""

from calotype.models.mini_transformer.config import MiniTransformer2DConfig
from calotype.models.mini_transformer.module import MiniTransformer2DModel

__all__ = ["MiniTransformer2DConfig", "MiniTransformer2DModel"]
