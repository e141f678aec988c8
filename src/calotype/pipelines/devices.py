"""Where a pipeline's components run, and how: the methods of `DiffusionPipeline` for devices, precisions, compiling."""

import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from calotype.errors import ComponentError, InputError
from calotype.graph.node import Node

if TYPE_CHECKING:
    from calotype.memory.placed import Placed
    from calotype.memory.placement import Placing
    from calotype.memory.residency import Residency
    from calotype.pipelines.base import DiffusionPipeline
    from calotype.pipelines.generations import Generations


class WithDevices:
    """The part of a pipeline that knows of devices."""

    if TYPE_CHECKING:
        units: ClassVar[tuple[Node, ...]]
        _residency: Residency | Placed
        _generations: Generations

        @property
        def components(self) -> dict[str, Any]: ...

    @property
    def device(self) -> torch.device:
        """Where components run: for a free-form pipeline, where its networks are."""
        if not self.units:
            networks = (c for c in self.components.values() if isinstance(c, torch.nn.Module))
            weights = (t for network in networks for t in (*network.parameters(), *network.buffers()))
            return next((t.device for t in weights), self._residency.device)
        return self._residency.device

    @property
    def placement(self) -> dict[str, torch.device]:
        """Where each component runs that has weights."""
        from calotype.pipelines.memory.placing import placement_of  # only who asks needs it

        whole: Any = self  # a DiffusionPipeline: this is a part of it
        return placement_of(whole)

    def place(self, placement: "Placing | None" = None, /, **devices: torch.device | str) -> Self:
        """Run components on several devices, from the next call on: `pipe.place(text_encoder="cuda:1")`. Values move to
        where they are read, and results stay the same. What is not named stays where it runs, or goes with what the
        same loop needs. `to(device)` has everything on one device again. Returns the pipeline.

        Args:
            placement: a mapping of components to devices, or `"auto"`: by what they take and what each device has.

        Raises:
            UnknownInput: there is no component of that name.
            InputError: there is no such device, the component has no weights, or a budget is of a device of no use.
            ComponentError: a loop or a unit would need components of two devices, something fits nowhere, or another
                pipeline has the same components.
            GraphError: the pipeline is free-form, and runs on one device.
        """
        from calotype.pipelines.memory.placing import place  # only who has several devices needs it

        whole: Any = self  # a DiffusionPipeline: this is a part of it
        place(whole, placement, devices)
        return self

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None) -> Self:
        """Run on another device, or convert the floating-point weights of every component. Returns the pipeline.

        Raises:
            InputError: there is no such device, or the dtype is no floating-point type.
        """
        from calotype.memory.residency import Residency, parse_device
        from calotype.weights.dtypes import parse_dtype  # only who converts needs it

        if isinstance(device, torch.dtype):
            raise InputError(f"to(): {device} is a dtype; write to(dtype={device})")
        target = self._residency.device if device is None else parse_device(device)
        kind = None if dtype is None else parse_dtype(dtype)
        place = None if self._residency.budget or self._residency.is_placed else target
        for name, component in self.components.items():
            if isinstance(component, torch.nn.Module):
                with nullcontext() if kind is None else self._residency.restored(component):
                    component.to(device=place, dtype=kind)
                    if kind is not None:
                        self._generations.bump(name)
        if device is not None:
            if isinstance(self._residency, Residency):
                self._residency.relocate(target)
            else:
                from calotype.pipelines.memory.placing import unplace

                whole: Any = self  # a DiffusionPipeline: this is a part of it
                unplace(whole, target)
        return self

    def compile(
        self,
        *components: str,
        mode: str | None = None,
        dynamic: bool | None = None,
        backend: str | None = None,
    ) -> Self:
        """Run the repeated blocks of networks compiled by `torch.compile`, from now on. Returns the pipeline.

        Blocks that are alike are compiled once. Weights, their names and what is saved stay as they are; pipelines that
        share the networks run them compiled too. A block that an adapter has a part in runs as it is written, until the
        adapter is fused. `uncompile()` undoes it.

        Args:
            components: which networks; by default all that have repeated blocks.
            mode, dynamic, backend: as of `torch.compile`.

        Raises:
            UnknownInput: there is no component of that name.
            ComponentError: it has no repeated blocks, or `memory` brings its weights while it runs.
        """
        from calotype.pipelines.compiled import chosen, compile_blocks  # only who compiles needs it

        if self._residency.budget is not None:
            raise ComponentError(
                f"compile: this {type(self).__name__} has a memory budget, which brings weights while networks run; "
                "load it without memory="
            )
        networks = chosen(type(self).__name__, self.components, components or None)
        compile_blocks(networks, mode=mode, dynamic=dynamic, backend=backend)
        return self

    def uncompile(self) -> Self:
        """Run all networks as they are written. Returns the pipeline."""
        from calotype.pipelines.compiled import undo

        undo(self.components)
        return self


def components_of(pipe: "DiffusionPipeline") -> Callable[[], Mapping[str, Any]]:
    """A way to ask for a pipeline's components that does not keep it alive."""
    there = weakref.ref(pipe)

    def components() -> Mapping[str, Any]:
        found = there()
        return {} if found is None else found.components

    return components
