"""What steers a predictor from within the loop: the values that further networks make at each step."""

from abc import ABC, abstractmethod
from typing import Self


class Steering(ABC):
    """What a predictor is given beside its inputs at one step. A family of networks derives its own, a frozen value.

    Units in `Denoise(..., steer=[...])` make them, and the predictor's parameter of such a type receives their sum, or
    `None` where no unit made one.
    """

    @abstractmethod
    def __add__(self, other: Self) -> Self:
        """Both at once."""
