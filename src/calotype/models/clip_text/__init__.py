"""The text encoder of CLIP and its tokenizer: a prompt to the hidden states that Stable Diffusion is steered by."""

from calotype.models.clip_text.config import CLIPTextConfig
from calotype.models.clip_text.module import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextOutput,
    CLIPTextProjection,
)
from calotype.models.clip_text.tokenizer import CLIPTokenizer, CLIPTokens

__all__ = [
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTextOutput",
    "CLIPTextProjection",
    "CLIPTokenizer",
    "CLIPTokens",
]
