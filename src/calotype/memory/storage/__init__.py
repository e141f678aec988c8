"""Weights kept in fewer bits than they are computed in.

precision    `Precision`: how a weight is packed, and how to add one of your own
eight, four  one byte and half a byte a weight: float8, int8, int4, nf4, fp4
ggml         the block types of GGUF files
known        `PRECISIONS`, by name
layers       a layer whose weight is packed and decoded when it is read
store        `store`, `unstore`, `precision_of`, `size_of`
"""

from calotype.memory.storage.known import PRECISIONS
from calotype.memory.storage.precision import Parts, Precision
from calotype.memory.storage.store import StoredSize, precision_of, size_if_stored, size_of, store, unstore

__all__ = [
    "PRECISIONS", "Parts", "Precision", "StoredSize",
    "precision_of", "size_if_stored", "size_of", "store", "unstore",
]  # fmt: skip
