"""What is around the steps of a run: processes and their device, and a pipeline that is frozen but for what learns."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import nn

from calotype.errors import ComponentError, ConfigError
from calotype.graph.plan import in_bytes
from calotype.training.compiled import compiled
from calotype.training.recompute import recomputed
from calotype.training.rows import mixed
from calotype.training.settings import TrainingSettings
from calotype.training.spared import spared
from calotype.training.trained import Trained
from calotype.training.wires import TrainedWires

if TYPE_CHECKING:
    from accelerate import Accelerator

    from calotype.memory.placed import Placed
    from calotype.memory.residency import Residency
    from calotype.pipelines.base import DiffusionPipeline


PATIENCE = timedelta(days=7)
"""How long processes that train together wait for one of them: it may fill a cache or draw pictures alone, for longer
than the ten minutes of GPUs, or the half hour of processors, after which they would give it up."""


def accelerator_for(pipe: "DiffusionPipeline", settings: TrainingSettings) -> "Accelerator":
    """The processes that train, on the pipeline's device.

    Raises:
        ConfigError: accelerate is not installed, or this process trains in another precision already.
    """
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
    except ImportError:
        raise ConfigError("training needs the package accelerate: pip install 'calotype[train]'") from None
    try:
        found = Accelerator(
            cpu=pipe.device.type == "cpu", mixed_precision=settings.precision,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )  # fmt: skip
    except ValueError as error:  # it keeps both for as long as the process lives
        raise ConfigError(
            f"precision: {settings.precision!r} on {pipe.device.type!r} cannot be set up: {error}; a process trains in "
            "one precision, on one kind of device: start another"
        ) from None
    if found.num_processes == 1:
        found.state.device = pipe.device  # it would take the first of several
    return found


@contextmanager
def put(pipe: "DiffusionPipeline", settings: TrainingSettings) -> Iterator[Trained]:
    """What is trained, in a pipeline whose other parts are frozen while the context lasts."""
    networks = [c for c in pipe.components.values() if isinstance(c, nn.Module)]
    flags = {p: p.requires_grad for network in networks for p in network.parameters()}
    modes = {network: network.training for network in networks}
    trained: Trained | None = None
    try:
        for network in networks:
            network.requires_grad_(False)
        trained = settings.target.put(pipe, mixed(settings.seed, "target"))
        trained.train(True)
        yield trained
    finally:
        if trained is not None:
            trained.remove()
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
        for network, mode in modes.items():
            network.train(mode)


def brought(
    pipe: "DiffusionPipeline", wires: TrainedWires, settings: TrainingSettings, device: torch.device
) -> AbstractContextManager[None]:
    """Have what every step uses on the device that trains. With a budget it stays there while the context lasts, and
    the other components come and leave as in any call.

    Raises:
        ComponentError: it does not fit the budget as a whole.
    """
    residency = pipe._residency
    if pipe.device != device:
        pipe.to(device)
    components = {name: pipe.components[name] for name in wires.components}
    if residency.budget is not None:
        _refuse_streamed(residency, wires)
        for name in settings.target.components if settings.target.kind == "full" else ():
            residency.restore(components[name])  # its numbers are changed in place
        return residency.hold(components)
    for component in components.values():
        if isinstance(component, nn.Module):
            component.to(device)
    return nullcontext()


def _refuse_streamed(residency: "Residency | Placed", wires: TrainedWires) -> None:
    """Raise `ComponentError` where a budget would have layers of what every step uses take turns."""
    wanted = {n: size for n, size in residency.sizes().items() if n in wires.components}
    if residency.budget is not None and sum(wanted.values()) > residency.budget:
        names, whole = ", ".join(n for n, size in wanted.items() if size), sum(wanted.values())
        raise ComponentError(
            f"gradients need the whole of {names}, {in_bytes(whole)}, on {residency.device}, but the budget is "
            f"{in_bytes(residency.budget)}; give memory={whole} (bytes) or more"
        )


@contextmanager
def computing(pipe: "DiffusionPipeline", wires: TrainedWires, settings: TrainingSettings) -> Iterator[None]:
    """Have networks compute as the settings say while the context lasts: activations again, or compiled. What is
    compiled decides itself what it keeps for gradients."""
    with ExitStack() as stack:
        networks = settings.target.networks(pipe)
        if settings.recompute:
            for network in networks.values():
                stack.enter_context(recomputed(network))
        if settings.compile:
            backend = "inductor" if settings.compile is True else settings.compile
            for name, network in networks.items():
                stack.enter_context(compiled(name, network, backend))
        elif not settings.sharded:  # whose weights are elsewhere in the backward pass
            parts = map(pipe.components.get, wires.components)
            stack.enter_context(spared(part for part in parts if isinstance(part, nn.Module)))
        yield
