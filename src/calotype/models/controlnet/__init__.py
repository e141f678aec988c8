"""The network that steers a text-conditioned denoiser by a picture: edges, depth, a pose."""

from calotype.models.controlnet.config import ControlNetConfig
from calotype.models.controlnet.module import ControlNetModel, ControlNetOutput, EmbeddedCondition

__all__ = ["ControlNetConfig", "ControlNetModel", "ControlNetOutput", "EmbeddedCondition"]
