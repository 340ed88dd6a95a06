"""A staged method, as it is reached through its object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .function import Function


class BoundFunction:
    """A staged method of one object: has the attributes of its Function, and keeps the object alive for the call."""

    __slots__ = ("__self__", "function")

    def __init__(self, function: Function, instance: Any) -> None:
        self.function, self.__self__ = function, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)

    def __repr__(self) -> str:
        return f"<staged {self.function.name} of {type(self.__self__).__name__}, {self.function.trace_count} traces>"
