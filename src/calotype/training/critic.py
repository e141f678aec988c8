"""A second set of what is trained: it learns to denoise what the trained one makes, and takes its place to be asked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from calotype.sampling.levels import Level
from calotype.training.optimizer import Optimizer
from calotype.training.predictor import Predictor
from calotype.training.trained import Trained


class Critic:
    """Parameters with the names and shapes of the trained ones, which start from what these are now.

    They are put in the place of the trained ones to be asked and to learn. Only what parameters hold is exchanged, so
    that a graph for gradients that was made before is as good as it was once the trained ones are back.

    Args:
        trained: in whose place they are put.
        optimizer: moves them.

    Attributes:
        values: the parameters by name.
        optimizer: theirs.
    """

    def __init__(self, trained: Trained, optimizer: Optimizer) -> None:
        self._trained = trained
        self.values = {name: nn.Parameter(p.detach().clone()) for name, p in trained.parameters.items()}
        self.optimizer = optimizer.make(self.values)
        self._away: dict[str, Tensor] | None = None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The critic's parameters in place of the trained ones while the context lasts, where they are not already."""
        if self._away is not None:
            yield
            return
        away = {name: p.data for name, p in self._trained.parameters.items()}
        self._fill({name: value.data for name, value in self.values.items()}, away)
        try:
            yield
        finally:
            self._fill(away, None)

    @contextmanager
    def out(self) -> Iterator[None]:
        """The trained parameters back in their place while the context lasts, where the critic's are in it."""
        away = self._away
        if away is None:
            yield
            return
        self._fill(away, None)
        try:
            yield
        finally:
            self._fill({name: value.data for name, value in self.values.items()}, away)

    def _fill(self, values: Mapping[str, Tensor], away: dict[str, Tensor] | None) -> None:
        for name, parameter in self._trained.parameters.items():
            parameter.data = values[name]
        self._away = away

    def learn(self, clip: float | None) -> float:
        """Take over the gradients that the trained parameters were given in the critic's place, and return how long
        they are together; `move` follows."""
        for name, parameter in self._trained.parameters.items():
            self.values[name].grad, parameter.grad = parameter.grad, None
        length: Tensor = nn.utils.clip_grad_norm_(self.values.values(), float("inf") if clip is None else clip)
        return length.item()

    def move(self) -> None:
        """Move the critic's parameters."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint has."""
        for name, value in self.values.items():
            value.copy_(values[name])
        self.optimizer.load_state_dict(dict(optimizer))


class Roles:
    """A predictor that can be asked in the place of the critic too: what objectives with one are given.

    Args:
        predictor: asked with the parameters that are in place.
        critic: exchanges them; nothing where the objective needs none.
    """

    def __init__(self, predictor: Predictor, critic: Critic | None) -> None:
        self._predictor, self._critic = predictor, critic

    def __call__(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        """The output by the trained parameters."""
        if self._critic is None:
            return self._predictor(shown, levels, conditions)
        with self._critic.out():
            return self._predictor(shown, levels, conditions)

    def before_training(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        """The output by the parameters that training began with, without gradients."""
        return self._predictor.before_training(shown, levels, conditions)

    def by_critic(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        """The output by the critic's parameters."""
        assert self._critic is not None, "who asks for it has a critic"
        with self._critic.in_place():
            return self._predictor(shown, levels, conditions)
