"""State may be created in the first call only (spec §2.4): the first call runs eagerly, then a trace forbids creation.

`creation_forbidden` watches for the trace, `Rollback` undoes what a first call did when the contract was broken.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .. import _torch_compat as compat
from ..errors import StateCreationError, current_line


@contextmanager
def creation_forbidden() -> Iterator[None]:
    """Refuse new parameters, buffers and tensor attributes of modules in this thread, with the line that makes them."""
    from .trace import HERE

    thread = threading.get_ident()
    kept_new, kept_set = nn.Parameter.__new__, nn.Module.__setattr__
    kept_buffer = nn.Module.register_buffer

    def here() -> bool:
        return threading.get_ident() == thread and not HERE.suspended and bool(HERE.traces)

    def new(cls: Any, data: Any = None, requires_grad: bool = True, **rest: Any) -> Any:
        if here() and not _by_torch_itself():
            raise _refused(f"a {cls.__name__}")
        return kept_new(cls, data, requires_grad, **rest)

    def set_attribute(self: nn.Module, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not _of_the_tracer(self) and here():
            raise _refused(f"the tensor attribute {type(self).__name__}.{name}")
        kept_set(self, name, value)

    def register_buffer(self: nn.Module, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        if tensor is not None and not _of_the_tracer(self) and here():
            raise _refused(f"the buffer {type(self).__name__}.{name}")
        kept_buffer(self, name, tensor, persistent)

    nn.Parameter.__new__ = new  # type: ignore[method-assign]
    nn.Module.__setattr__ = set_attribute  # type: ignore[method-assign]
    nn.Module.register_buffer = register_buffer  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Parameter.__new__ = kept_new  # type: ignore[method-assign]
        nn.Module.__setattr__ = kept_set  # type: ignore[method-assign]
        nn.Module.register_buffer = kept_buffer  # type: ignore[method-assign]


def _of_the_tracer(module: nn.Module) -> bool:
    """The tracer keeps its constants on a bare Module and on the graph that it makes."""
    return type(module) is nn.Module or isinstance(module, torch.fx.GraphModule)


def _by_torch_itself() -> bool:
    """Fake tensors of captured parameters are parameters, too; torch makes those, not the user."""
    import sys

    frame = sys._getframe(2)
    return "_subclasses" in frame.f_code.co_filename or "meta_utils" in frame.f_code.co_filename


def _refused(what: str) -> StateCreationError:
    return StateCreationError(
        f"graph: the staged function creates {what} in another call than its first",
        hint="guard it, so that later calls find it: if self.weight is None: self.weight = nn.Parameter(...); "
        "or create it in __init__",
        where=str(current_line()),
    )


class Rollback(TorchDispatchMode):
    """Runs a first call so that it can be undone: old values of what is written to, old attributes of objects."""

    def __init__(self, objects: Sequence[tuple[str, Any]]) -> None:
        super().__init__()
        self._attributes = [
            (value, dict(vars(value)), _tables(value)) for _, value in objects if hasattr(value, "__dict__")
        ]
        self._old: dict[int, tuple[Tensor, Tensor]] = {}
        self._fresh: set[int] = set()
        self._random = torch.get_rng_state()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            names = [argument.name for argument in func._schema.arguments]
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            for argument in func._schema.arguments:
                value = given.get(argument.name)
                if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                    self._remember(value)
        return func(*args, **(kwargs or {}))

    def _remember(self, value: Tensor) -> None:
        if id(value) not in self._old:
            self._old[id(value)] = (value, value.detach().clone())

    def undo(self) -> None:
        """Put everything back as it was before the call."""
        with torch.no_grad():
            for value, old in reversed(list(self._old.values())):
                value.copy_(old)
        for value, attributes, tables in self._attributes:
            vars(value).clear()
            vars(value).update(attributes)
            for name, table in tables.items():
                vars(value)[name].clear()
                vars(value)[name].update(table)
        torch.set_rng_state(self._random)


def _tables(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, nn.Module):
        return {}
    names = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
    return {name: dict(vars(value)[name]) for name in names[:3]}


def is_leaked(value: Any) -> bool:
    """Whether a value is a tensor of a trace."""
    return compat.is_fake(value)
