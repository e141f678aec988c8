"""Where components are: which are on the compute device now, and which go back when room is needed."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.memory.places import Transfer
    from calotype.memory.residency import Residency

__all__ = ["Residency", "Transfer"]

__getattr__ = lazy_names(__name__, {"Residency": "residency", "Transfer": "places"})
