"""Where components are: which are on the compute device now, and which go back when room is needed."""

from calotype.memory.residency import Residency, Transfer

__all__ = ["Residency", "Transfer"]
