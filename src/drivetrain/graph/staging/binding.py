"""Arguments in canonical order: `f(1, k=2)`, `f(k=2, x=1)` and `f(1, 2)` are one kind of call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor


class Baked:
    """An argument declared static: its value is part of the graph, whatever it is."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value) if not isinstance(self.value, Tensor) else id(self.value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Baked) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value if isinstance(self.value, Tensor) else bool(self.value == other.value)

    def __repr__(self) -> str:
        return f"static {self.value!r}"


class Binding:
    """The signature of a function, ready to bind calls quickly.

    Attributes:
        names: of the canonical arguments.
    """

    def __init__(self, function: Callable[..., Any], skip: int = 0) -> None:
        try:
            self.signature = inspect.signature(function)
        except ValueError:  # a builtin
            self.signature = inspect.Signature(
                [
                    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
                    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
                ]
            )
        parameters = list(self.signature.parameters.values())[skip:]
        self.signature = self.signature.replace(parameters=parameters)
        kinds = {parameter.kind for parameter in parameters}
        self.variadic = bool(kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})
        self.names = [parameter.name for parameter in parameters]
        self.positional = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        self.defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        self.only_positional = {p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY}
        self._count = len(self.names)
        self._keyword_only = self.names[len(self.positional) :]

    def canonical(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in signature order, defaults filled in; (args, sorted kwargs) where the signature is open.

        Raises:
            TypeError: what Python itself would raise.
        """
        if not kwargs and len(args) == self._count and not self._keyword_only and not self.variadic:
            return args
        if self.variadic:
            return (args, dict(sorted(kwargs.items())))
        if len(args) > len(self.positional) or (kwargs and not self.only_positional.isdisjoint(kwargs)):
            self.signature.bind(*args, **kwargs)  # raises
        values = list(args)
        taken = 0
        for name in self.names[len(args) :]:
            if name in kwargs:
                values.append(kwargs[name])
                taken += 1
            elif name in self.defaults:
                values.append(self.defaults[name])
            else:
                self.signature.bind(*args, **kwargs)  # raises
        if taken != len(kwargs):
            self.signature.bind(*args, **kwargs)  # raises
        return tuple(values)

    def call(self, function: Callable[..., Any], canonical: tuple[Any, ...]) -> Any:
        """Call a function with canonical arguments."""
        if self.variadic:
            args, kwargs = canonical
            return function(*args, **kwargs)
        split = len(self.positional)
        return function(*canonical[:split], **dict(zip(self._keyword_only, canonical[split:], strict=True)))

    def named(self, canonical: tuple[Any, ...]) -> list[tuple[str, Any]]:
        """Canonical arguments with their names."""
        if self.variadic:
            args, kwargs = canonical
            return [(f"args[{index}]", value) for index, value in enumerate(args)] + list(kwargs.items())
        return list(zip(self.names, canonical, strict=True))
