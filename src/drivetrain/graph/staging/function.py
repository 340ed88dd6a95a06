"""`@function`: the cache from kinds of calls to graphs (spec §2.2, §4), the door that users see.

A call makes its key, finds its graph by one dict look-up, checks the guards and runs. Everything else, tracing,
budgets, generalising sizes, is the slow path in `_miss`.
"""

from __future__ import annotations

import functools
import importlib
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from drivetrain.base.errors import InvalidValue, unknown_name

from .. import _torch_compat as compat
from ..errors import CaptureError, TraceLimitError
from . import calls, nested, report
from .binding import Baked, Binding
from .bound import BoundFunction
from .concrete import Concrete
from .explain import explain, varying
from .key import call_key, flatten, general, is_tensor_leaf
from .making import make_concrete
from .reach import surroundings
from .shadow import shadowed
from .signature import Signature
from .spec import examples
from .state import Rollback
from .trace import HERE, LOCK, current

BACKENDS = ("drivetrain", "eager", "inductor")
_MEMO = 4096  # keys remembered for graphs with symbolic sizes


class Function:
    """A staged Python function. Made by `function`.

    Attributes:
        traces: its graphs, oldest first.
        eager_calls: calls beyond `max_traces` that ran eagerly (on_limit="eager").
        name: for errors and reports.
    """

    def __init__(
        self,
        python: Callable[..., Any],
        signature: Sequence[Any] | None = None,
        static: Sequence[str] | str = (),
        dynamic: Literal["auto"] | bool = "auto",
        max_traces: int = 16,
        on_limit: Literal["raise", "eager"] = "raise",
        backend: Literal["drivetrain", "eager", "inductor"] = "drivetrain",
        grad: Literal["auto", "first"] = "auto",
        shadow: int = 0,
        name: str | None = None,
        effects: Literal["warn", "error", "ignore"] = "warn",
        options: dict[str, Any] | None = None,
        _instance: Any = None,
    ) -> None:
        _check("backend", backend, BACKENDS)
        _check("on_limit", on_limit, ("raise", "eager"))
        _check("grad", grad, ("auto", "first"))
        _check("effects", effects, ("warn", "error", "ignore"))
        if dynamic not in ("auto", True, False):
            raise InvalidValue(f"graph: dynamic is 'auto', True or False, found {dynamic!r}")
        if max_traces < 1 or shadow < 0:
            raise InvalidValue(
                f"graph: max_traces must be at least 1 and shadow at least 0, found {max_traces}, {shadow}"
            )
        self.python = python
        self.settings: dict[str, Any] = {
            "signature": signature, "static": (static,) if isinstance(static, str) else tuple(static),
            "dynamic": dynamic, "max_traces": max_traces, "on_limit": on_limit, "backend": backend, "grad": grad,
            "shadow": shadow, "name": name, "effects": effects, "options": options,
        }  # fmt: skip
        plain: Callable[..., Any] = python.forward if isinstance(python, nn.Module) else python
        known_as = type(python).__name__ if isinstance(python, nn.Module) else getattr(python, "__name__", repr(python))
        self.name: str = name or known_as
        self._instance = weakref.ref(_instance) if _instance is not None else None
        self.binding = Binding(plain, skip=1 if _instance is not None else 0)
        self._bind = self.binding.canonical
        self._static = self._static_positions()
        self.signature = Signature(signature, self.binding, self.name) if signature is not None else None
        self._shadow = shadow
        self._bound: dict[int, tuple[Any, Function]] = {}
        self._tracing: set[Any] = set()
        self._began = False
        self.eager_calls = 0
        self.clear()
        functools.update_wrapper(self, plain, updated=())

    def _static_positions(self) -> tuple[int, ...]:
        for name in self.settings["static"]:
            if name not in self.binding.names:
                raise unknown_name(f"graph: {self.name}: static argument", name, self.binding.names)
        return tuple(self.binding.names.index(name) for name in self.settings["static"])

    def clear(self) -> None:
        """Forget all graphs."""
        self.traces: list[Concrete] = []
        self._cache: dict[tuple[Any, ...], list[Concrete]] = {}
        self._general: dict[tuple[Any, ...], list[Concrete]] = {}
        self._graph_memo = 0

    @property
    def trace_count(self) -> int:
        """How many graphs there are."""
        return len(self.traces)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if HERE.traces and current() is not None:
            return nested.call(self, args, kwargs)
        values = self._bind(args, kwargs)
        if self._static:
            values = self._baked(values)
        key, leaves = call_key(values, self._sweep)
        found = self._cache.get(key)
        if found is not None and not self._shadow:
            for concrete in found:
                check = concrete.guards.check
                if check is None or check():
                    concrete.calls += 1
                    return concrete.run(*leaves)
        return self._miss(values, key, leaves)

    # torch.compile around a staged function leaves it alone: it is compiled already.
    __call__._torchdynamo_disable = True  # type: ignore[attr-defined]

    def _baked(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(Baked(value) if index in self._static else value for index, value in enumerate(values))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        known = self._bound.get(id(instance))
        if known is None:
            made = Function(self.python, **self.settings, _instance=instance)
            number = id(instance)
            known = (weakref.ref(instance, lambda _: self._bound.pop(number, None)), made)
            self._bound[number] = known
        return BoundFunction(known[1], instance)

    def concrete(self, *args: Any, **kwargs: Any) -> Concrete:
        """The graph of a kind of call, traced if needed, nothing run; Specs may stand for tensors."""
        sizes: dict[str, int] = {}
        args, kwargs = examples(args, sizes), examples(kwargs, sizes)
        values = self.canonical(args, kwargs)
        key, leaves = call_key(values, self._sweep)
        with LOCK:
            found = self.find(key, leaves)
            return found if found is not None else self.make(values, key, leaves)

    def explain(self, *args: Any, **kwargs: Any) -> str:
        """Say what a call would do: which graph it runs, or which argument makes it a new kind, and beside what."""
        return explain(self, args, kwargs)

    def canonical(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in the order of the signature."""
        values = self._bind(args, kwargs)
        return self._baked(values) if self._static else values

    def named(self, values: tuple[Any, ...]) -> list[tuple[str, Any]]:
        """The leaves of canonical arguments with their names."""
        return [leaf for name, value in self.binding.named(values) for leaf in flatten(value, name)]

    def call_python(self, values: tuple[Any, ...]) -> Any:
        """Run the Python body on canonical arguments."""
        values = tuple(value.value if isinstance(value, Baked) else value for value in values)
        python: Callable[..., Any] = self.python
        if self._instance is not None:
            instance = self._instance()
            if instance is None:
                raise InvalidValue(f"graph: the object that {self.name} belongs to is gone")
            python = functools.partial(python, instance)
        return self.binding.call(python, values)

    def find(self, key: tuple[Any, ...], leaves: Sequence[Tensor]) -> Concrete | None:
        """The graph for a key: its own, or one whose symbolic sizes take it in."""
        for concrete in self._cache.get(key, ()):
            if concrete.guards.check is None or concrete.guards.check():
                return concrete
        if self.signature is not None:
            if self.traces:
                self.signature.check_sizes(self.traces[0], leaves)
                found = self.traces[0]
                if found.key[:5] == key[:5] and (found.guards.check is None or found.guards.check()):
                    self._remember(key, found)
                    return found
            return None
        for concrete in self.peers(key):
            fits = concrete.sizes is not None and concrete.sizes.accepts(leaves)
            if fits and (concrete.guards.check is None or concrete.guards.check()):
                self._remember(key, concrete)
                return concrete
        return None

    def peers(self, key: tuple[Any, ...]) -> list[Concrete]:
        """Graphs whose key differs in sizes only."""
        return self._general.get(general(key), [])

    def _remember(self, key: tuple[Any, ...], concrete: Concrete) -> None:
        self._graph_memo += 1
        if self._graph_memo > _MEMO:  # as many sizes as that: begin anew, the graphs stay
            self._graph_memo = 0
            self._cache = {made.key: [made] for made in self.traces}
        self._cache.setdefault(key, []).insert(0, concrete)

    def _miss(self, values: tuple[Any, ...], key: tuple[Any, ...], leaves: list[Tensor]) -> Any:
        if self.signature is not None:
            self.signature.check(self.binding.named(values))
        if self._shadow and key in self._cache:
            found = self.find(key, leaves)
            if found is not None:
                return shadowed(self, found, values, leaves)
        first, result = False, None
        with LOCK:
            concrete = self.find(key, leaves)
            if concrete is None:
                if self.settings["on_limit"] == "eager" and self._at_limit(values):
                    self.eager_calls += 1
                    return self.call_python(values)
                if not self._began:
                    first, (concrete, result) = True, self._first_call(values, key, leaves)
                else:
                    concrete = self.make(values, key, leaves)
        concrete.calls += 1
        return result if first else concrete.run(*leaves)

    def _first_call(self, values: tuple[Any, ...], key: tuple[Any, ...], leaves: list[Tensor]) -> tuple[Concrete, Any]:
        """Run eagerly, where state may be made, then trace, where it may not; undo the run if the trace fails."""
        rollback = Rollback(surroundings(self.python, self.roots(values)).objects())
        with rollback, calls.control_flow_by_value():
            result = self.call_python(values)
        try:
            concrete = self.make(values, key, leaves)
        except BaseException:
            rollback.undo()
            raise
        self._began = True
        return concrete, result

    def roots(self, values: tuple[Any, ...]) -> list[tuple[str, Any]]:
        """Objects that the function reaches by its instance and its static arguments."""
        roots: list[tuple[str, Any]] = []
        if self._instance is not None:
            roots.append(("self", self._instance()))
        if isinstance(self.python, nn.Module):
            roots.append(("self", self.python))
        for name, value in self.named(values):
            inner = value.value if isinstance(value, Baked) else value
            if not is_tensor_leaf(inner) and hasattr(inner, "__dict__") and not isinstance(inner, type):
                roots.append((name, inner))
        return roots

    def make(self, values: tuple[Any, ...], key: tuple[Any, ...], leaves: Sequence[Tensor]) -> Concrete:
        """Trace and compile a new graph, and keep it.

        Raises:
            CaptureError: the function calls itself with arguments of the same kind.
        """
        if key in self._tracing:
            raise CaptureError(
                f"graph: {self.name} calls itself with the same kind of arguments while it is traced",
                hint="a staged recursion must end by a Python value that is an argument: f(x, n - 1)",
            )
        self._check_limit(values)
        self._tracing.add(key)
        try:
            concrete = make_concrete(self, values, key, leaves)
        finally:
            self._tracing.discard(key)
        if not any(compat.is_fake(capture.tensor) for capture in concrete.captures):
            self.traces.append(concrete)
            self._cache.setdefault(key, []).insert(0, concrete)
            self._general.setdefault(general(key), []).append(concrete)
            report.record(self, concrete)
        return concrete

    def _at_limit(self, values: tuple[Any, ...]) -> bool:
        """Whether a further kind of call must run eagerly; says so once."""
        limit = self.settings["max_traces"]
        if self.trace_count < limit:
            return False
        if self.eager_calls == 0:
            what = varying(self, values)
            print(
                f"drivetrain: graph: {self.name} has {limit} traces (max_traces); new kinds run eagerly: {what}",
                file=sys.stderr,
            )
        return True

    def _check_limit(self, values: tuple[Any, ...]) -> None:
        limit = self.settings["max_traces"]
        if self.trace_count >= limit:
            raise TraceLimitError(
                f"graph: {self.name} would be traced {limit + 1} times, max_traces is {limit}: {varying(self, values)}",
                hint="pass what varies as a tensor, give the sizes names (Spec), raise max_traces, or on_limit='eager'",
            )

    def _sweep(self) -> None:
        """Drop entries whose key held an object that is gone."""
        from .key import Identity

        def alive(key: tuple[Any, ...]) -> bool:
            return all(not isinstance(part, Identity) or part.ref() is not None for part in key)

        self._cache = {key: made for key, made in list(self._cache.items()) if alive(key)}
        self.traces = [made for made in self.traces if alive(made.key)]
        self._general = {}
        for made in self.traces:
            self._general.setdefault(general(made.key), []).append(made)

    def __reduce__(self) -> Any:
        # Graphs are not carried to another process: it traces anew.
        module, name = getattr(self.python, "__module__", None), getattr(self.python, "__qualname__", "")
        if module is not None and _lookup(module, name) is self:
            return _lookup, (module, name)
        return _rebuilt, (self.python, self.settings)

    def __repr__(self) -> str:
        return f"<staged {self.name}, {self.trace_count} traces>"


def function(python: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Stage a function: `@function`, or `@function(max_traces=4)`, or `function(model)`.

    Args:
        python: a function, a method (each instance has graphs of its own) or an nn.Module.
        signature: Specs (and static values) of the arguments: exactly one trace.
        static: names of arguments whose value is part of the graph even if they are tensors.
        dynamic: "auto" makes sizes symbolic that differ between calls, True all sizes at once, False none.
        max_traces: more kinds of calls than this are an error.
        on_limit: "raise", or "eager" to run further kinds eagerly (one warning; counted in `eager_calls`).
        backend: "drivetrain" (passes, then the best lowering), "inductor", or "eager" (torch's own kernels, bit-equal).
        grad: "auto" gives gradients of any order; "first" of first order, with less work per call.
        shadow: every n-th call also runs the Python body and compares; 0 never.
        effects: "warn", "error" or "ignore" Python side effects of a trace.
        options: for the passes, as of torch.compile(backend="drivetrain").

    Raises:
        InvalidValue: a setting nobody knows, with the nearest name.
    """
    allowed = (
        "signature", "static", "dynamic", "max_traces", "on_limit", "backend", "grad", "shadow", "name", "effects",
        "options",
    )  # fmt: skip
    for name in settings:
        if name not in allowed:
            raise unknown_name("graph: setting", name, allowed)
    if python is None:
        return lambda target: function(target, **settings)
    if isinstance(python, Function):
        raise InvalidValue(f"graph: {python.name} is staged already")
    if not callable(python):
        raise InvalidValue(f"graph: function() stages a function or an nn.Module, found {type(python).__name__}")
    return Function(python, **settings)


def _check(what: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise unknown_name(f"graph: {what}", str(value), allowed)


def _lookup(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _rebuilt(python: Any, settings: dict[str, Any]) -> Function:
    return Function(python, **settings)
