"""What targets give: the trained parameters of one pipeline, by name, and how to save and remove them."""

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from calotype.errors import ComponentError, ConfigError, did_you_mean
from calotype.training.values import Value

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


class Trained:
    """What is trained in one pipeline: a module that holds exactly the trained parameters, by name.

    Attributes:
        components: those that compute with them.
        module: holds them; its `state_dict` is what a checkpoint has.
    """

    def __init__(self, pipe: "DiffusionPipeline", components: tuple[str, ...], module: nn.Module) -> None:
        self.pipe, self.components, self.module = pipe, components, module
        self._before: dict[str, torch.Tensor] = {}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @contextmanager
    def swapped(self, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Other values, such as averages, in place of the trained ones while the context lasts."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._fill(values)
        try:
            yield
        finally:
            self._fill(own)

    def keep_original(self) -> None:
        """Remember the parameters as they are now, before the first step."""
        self._before = {name: p.detach().clone() for name, p in self.parameters.items()}

    @contextmanager
    def original(self) -> Iterator[None]:
        """The parameters that were remembered in place of the trained ones, without dropout and the like.

        Only what they hold is exchanged, so that a graph for gradients that was made before is as good as it was.
        """
        assert self._before, "keep_original comes first"
        own, mode = {name: p.data for name, p in self.parameters.items()}, self.module.training
        self.module.train(False)
        try:
            for name, parameter in self.parameters.items():
                parameter.data = self._before[name].to(parameter.device)
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = own[name]
            self.module.train(mode)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
        self.changed()

    def changed(self) -> None:
        """Tell the pipeline that what the components compute is not what it was."""
        for component in self.components:
            self.pipe.changed(component)

    def train(self, mode: bool) -> None:
        """Turn dropout and the like on or off."""
        self.module.train(mode)

    def remove(self) -> None:
        """Take out what was put into the pipeline for training."""

    def save(self, folder: Path) -> list[Path]:
        """Write what was learned below a folder, and return the files or folders."""
        raise NotImplementedError


class Target(Value):
    """What is trained."""

    component: str | tuple[str, ...]

    @property
    def components(self) -> tuple[str, ...]:
        """The components that it is of."""
        return (self.component,) if isinstance(self.component, str) else self.component

    @property
    def kept_whole(self) -> bool:
        """Whether a checkpoint has all of the components, so that what they were before does not matter."""
        return False

    @abstractmethod
    def put(self, pipe: "DiffusionPipeline", seed: int) -> Trained:
        """Put it into a pipeline. Raises `ComponentError` where it does not fit."""

    def check(self, inputs: Iterable[Mapping[str, Any]]) -> None:
        """Raise `InputError` for rows with these inputs, of which it cannot learn."""

    def networks(self, pipe: "DiffusionPipeline") -> dict[str, nn.Module]:
        """The networks that are trained, or changed, by name. Raises `ComponentError` where there is none."""
        return {name: _network(pipe, name) for name in self.components}


def _network(pipe: "DiffusionPipeline", name: str) -> nn.Module:
    found = pipe.components.get(name)
    if not isinstance(found, nn.Module):
        known = [name for name, c in pipe.components.items() if isinstance(c, nn.Module)]
        raise ComponentError(
            f"component: there is no network {name!r} to train{did_you_mean(name, known)}; the networks of this "
            f"{type(pipe).__name__} are {', '.join(known)}"
        )
    return found


def matching(component: str, pattern: str | None, names: list[str]) -> list[str]:
    """The names in which a pattern is found. Raises `ConfigError` for a wrong pattern, or one that is in none."""
    try:
        found = [name for name in names if pattern is None or re.search(pattern, name)]
    except re.error as error:
        raise ConfigError(f"{pattern!r} is not a regular expression: {error}") from None
    if not found:
        raise ConfigError(f"no layer of {component!r} matches {pattern!r}; its names are like {', '.join(names[:6])}")
    return found
