"""The network that turns a picture into a prompt: tokens, and each layer's keys and values of them."""

from calotype.models.ip_adapter.config import IPAdapterConfig
from calotype.models.ip_adapter.module import IPAdapter

__all__ = ["IPAdapter", "IPAdapterConfig"]
