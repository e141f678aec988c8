"""Where components are: which are on the compute device now, and which go back when room is needed."""

from calotype.memory.places import Transfer
from calotype.memory.residency import Residency

__all__ = ["Residency", "Transfer"]
