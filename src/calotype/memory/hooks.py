"""Hooks that have groups of layers come when they are called, and leave afterwards."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from calotype.memory.groups import Group
from calotype.memory.imagined import is_imagining
from calotype.memory.window import Window


def hooked(group: Group, window: Window) -> list[RemovableHandle]:
    """Hooks that have a group come when its module, or a layer in it, is called, and leave after its module."""
    module = group.module()
    assert module is not None
    called = called_by(group, module)
    handles = [m.register_forward_pre_hook(_entering(window, group, m), prepend=True) for m in called]
    handles.append(module.register_forward_hook(_leaving(window, group, module), always_call=True))
    return handles


def called_by(group: Group, module: nn.Module) -> list[nn.Module]:
    """A group's module, and the layers in it that have its tensors: whichever is called first needs the group."""
    own = {id(slot.tensor) for slot in group.slots}
    layers = [
        m for m in module.modules() if not own.isdisjoint(map(id, (*m._parameters.values(), *m._buffers.values())))
    ]
    return list(dict.fromkeys((module, *layers)))


def unhook(handles: Iterable[RemovableHandle]) -> None:
    """Take hooks away."""
    for handle in handles:
        handle.remove()


def _entering(window: Window, group: Group, module: nn.Module) -> Callable[[nn.Module, Any], None]:
    """What has a group come. It is a function that knows its module: a copy of a network has it too, and there it does
    nothing."""
    there = weakref.ref(module)

    def enter(called: nn.Module, args: Any) -> None:
        if called is not there() or is_imagining.get():
            return
        if window.is_streamed(group):
            window.ensure(group)

    return enter


def _leaving(window: Window, group: Group, module: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
    there = weakref.ref(module)

    def leave(called: nn.Module, args: Any, out: Any) -> None:
        if called is there() and not is_imagining.get():
            window.leave(group)

    return leave
