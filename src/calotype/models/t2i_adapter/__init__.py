"""The small network that steers a text-conditioned denoiser by a picture, with maps that are the same in every step."""

from calotype.models.t2i_adapter.config import T2IAdapterConfig
from calotype.models.t2i_adapter.module import T2IAdapter

__all__ = ["T2IAdapter", "T2IAdapterConfig"]
